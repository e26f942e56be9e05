#!/bin/bash
# Checks the models of the pair protocol with spin: the models themselves hold, and each deliberate mistake is found.
# Needs spin and gcc (Debian packages spin, gcc, libc6-dev). Takes one to three minutes and less than 2 GiB on two cores.
#
#   check.sh            everything
#   check.sh -k DIR     the same, keeping what spin makes (verifiers, trails) in DIR
set -euo pipefail
cd "$(dirname "$0")"
pair=$PWD/pair.pml spare=$PWD/spare.pml
model=$pair
if [[ ${1:-} == -k ]]; then
	dir=$2
	mkdir -p "$dir"
	dir=$(cd "$dir" && pwd)
else
	dir=$(mktemp -d)
	trap 'rm -rf "$dir"' EXIT
fi
for tool in spin gcc; do
	command -v $tool >/dev/null || { echo "check.sh: install $tool (Debian package $tool)" >&2; exit 2; }
done

# one NAME WANT MODEL-OPTIONS COMPILER-OPTIONS RUN-OPTIONS: WANT is holds or found.
one() {
	local name=$1 want=$2 got result states secs mem began=$SECONDS d="$dir/$1"
	mkdir -p "$d"
	cd "$d"
	rm -f ./*.trail
	if ! { spin $3 -a "$model" && gcc -O1 -w -DCOLLAPSE -DMEMLIM=3500 $4 -o pan pan.c; } >build.log 2>&1; then
		printf '%-13s cannot be built: %s\n' "$name" "$(head -1 build.log)"
		return 1
	fi
	./pan $5 >out 2>&1 || true
	if ! grep -q '^State-vector' out || grep -qE 'max search depth too small|out of memory|reached -DMEMLIM' out; then
		result="did not finish"
	elif grep -q 'errors: 0' out; then
		result=holds
	else
		result=found
	fi
	states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' out)
	mem=$(sed -n 's/^ *\([0-9.]*\)\ttotal actual memory usage/\1/p' out)
	got=$(sed -n 's/^pan:[0-9]*: \(.*\) (at depth.*/\1/p' out | head -1)
	secs=$((SECONDS - began))
	printf '%-13s %-6s %9s states %6.0f MiB %4d s  %s\n' "$name" "$result" "${states:-0}" "${mem:-0}" "$secs" "$got"
	if [[ $result != "$want" ]]; then
		echo "$name: expected: $want; got: $result; see: spin $3 -t -p -k $d/${model##*/}.trail $model" >&2
		return 1
	fi
}

safe="-DSAFETY" live="-DNP -DNFAIR=4"
big="-m1000000 -w25" small="-m1000000 -w22" cycles="-l -f -m2000000 -w22"

# The longest at the same time as the rest.
one safety holds "-DF=2" "$safe" "$big" & first=$!
bad=0
one progress holds "-DF=1 -DPROGRESS" "$live" "$cycles" || bad=1
one lost holds "-DF=2 -DLOST" "$safe" "-E $big" || bad=1
one lost-goes-on holds "-DF=1 -DLOST -DPROGRESS" "$live" "$cycles" || bad=1
one kept holds "-DF=1 -DKEEP" "$safe" "$small" || bad=1
for m in PROMOTE ARM RELEASE ADOPT STALE TELL SWITCH; do
	one "bad-${m,,}" found "-DF=1 -DBAD_$m" "$safe" "$small" || bad=1
done
one bad-claim found "-DF=2 -DBAD_CLAIM" "$safe" "$big" || bad=1
model=$spare
one spare holds "" "$safe" "$big" || bad=1
for m in DOUBT START EARLY ANYCOPY ADOPT AGREE LETGO FORGET; do
	one "spare-${m,,}" found "-DBAD_$m" "$safe" "$small" || bad=1
done
wait $first || bad=1
if ((bad)); then
	echo "a model does not hold, or a mistake was not found" >&2
	exit 1
fi
echo "the models hold, and every mistake is found"
