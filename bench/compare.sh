#!/bin/bash
# Runs the Go benchmarks of the data path's stages at a revision and here, in turn, and compares them with benchstat.
# usage: bench/compare.sh REVISION [BENCHMARK-REGEXP]
# ROUNDS (10) is how often each is run, TIME (0.2s) how long one benchmark takes, PACKAGES which packages.
set -euo pipefail

base=${1:?usage: bench/compare.sh REVISION [BENCHMARK-REGEXP]}
what=${2:-.}
rounds=${ROUNDS:-10}
time=${TIME:-0.2s}
packages=${PACKAGES:-"compare proxy proxy/afpacket proxy/inputlog internal/frame netfilter qmp/relay coordinator/placement"}

cd "$(git rev-parse --show-toplevel)"
rev=$(git rev-parse --verify --short "$base^{commit}")
dir=$(mktemp -d)
cleanup() {
	git worktree remove --force "$dir/base" 2>/dev/null || true
	rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP
git worktree add -q --detach "$dir/base" "$rev"

# Test programs are built once: what is compared is not the compiler. A package that one side does not have, or that has
# no benchmarks there, is left out on that side.
build() { # directory of the tree, directory of the programs
	mkdir -p "$2"
	for p in $packages; do
		if compgen -G "$1/$p/*_test.go" >/dev/null && grep -q '^func Benchmark' "$1/$p"/*_test.go; then
			(cd "$1" && go test -c -o "$2/${p//\//-}.test" "./$p")
		fi
	done
}
build "$dir/base" "$dir/base-bin"
build . "$dir/here-bin"

run() { # directory of the tree, directory of the programs, file
	for p in $packages; do
		if [[ -x $2/${p//\//-}.test ]]; then
			(cd "$1/$p" && "$2/${p//\//-}.test" -test.run '^$' -test.bench "$what" -test.benchtime "$time" -test.timeout 20m) >>"$3"
		fi
	done
}
for i in $(seq "$rounds"); do
	echo "round $i/$rounds" >&2
	if ((i % 2)); then # who is first has no advantage
		run "$dir/base" "$dir/base-bin" "$dir/base.txt"
		run . "$dir/here-bin" "$dir/here.txt"
	else
		run . "$dir/here-bin" "$dir/here.txt"
		run "$dir/base" "$dir/base-bin" "$dir/base.txt"
	fi
done
go tool -modfile=tools/go.mod benchstat "$rev=$dir/base.txt" "here=$dir/here.txt"
