#!/bin/bash
# The lab's guest on hosts of deploy/test/hosts.sh, and a load on it that checks
# each byte. Sourced by the tests, after hosts.sh.

# guest_find takes kernel, initial file system and, without KVM, the shim from the cache of colod lab.
guest_find() {
	local cache=${XDG_CACHE_HOME:-$HOME/.cache}/colod newest
	# shellcheck disable=SC2012 # names of colod's own making
	newest=$(ls -t "$cache"/guest-*/initrd-*.img 2>/dev/null | head -1)
	[[ -s $newest && -s ${newest%/*}/vmlinuz && -s $cache/accel.json ]] ||
		{ echo "no guest image in $cache; colod lab demo makes it" >&2; return 1; }
	# Copies: another colod may drop them from the cache.
	cp "${newest%/*}/vmlinuz" "$HOSTS_DIR/vmlinuz"
	cp "$newest" "$HOSTS_DIR/initrd.img"
	guest_accel=$(sed -n 's/.*"accel":"\([a-z]*\)".*/\1/p' "$cache/accel.json")
	if [[ $guest_accel == tcg ]]; then
		# shellcheck disable=SC2012
		cp "$(ls -t "$cache"/tcg-shim-*.so | head -1)" "$HOSTS_DIR/tcg-shim.so"
	fi
}

# guest_images prints them as colod_images.
guest_images() {
	local f all=''
	for f in vmlinuz initrd.img tcg-shim.so; do
		[[ ! -e $HOSTS_DIR/$f ]] || all+="{src: $HOSTS_DIR/$f, dest: /var/lib/colod/images/$f}, "
	done
	echo "[${all%, }]"
}

# guest_pair NAME IPV4 IPV6 TAP MAC prints an element of colod_pairs.
guest_pair() {
	cat <<END
  - name: $1
    nodes: [a, b]
    network: {bridge: br0, tap: $4, mac: "$5"}
END
	[[ $guest_accel != tcg ]] || echo "    hold: {min: 200ms, max: 1s}"
	cat <<END
    vm:
      accel: $guest_accel
      cpu: qemu64
      memory: 256M
      kernel: /var/lib/colod/images/vmlinuz
      initrd: /var/lib/colod/images/initrd.img
END
	[[ $guest_accel != tcg ]] || echo "      env: {LD_PRELOAD: /var/lib/colod/images/tcg-shim.so}"
	echo "      append: console=ttyS0 quiet loglevel=4 nokaslr panic=-1 tsc=reliable no_timer_check mitigations=off audit=0 nowatchdog" \
		"ipv6.autoconf=0 net.ifnames=0 colod.ip4=$2/24 colod.ip6=$3/64 colod.seed=00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
}

# guest_answers says whether the guest's services are there: they do not all start in one moment. It leaves /counter to the load, which counts.
guest_answers() {
	client timeout 10 curl -sf -o /dev/null http://192.0.2.10/static/1 && client timeout 10 bash -c '</dev/tcp/192.0.2.10/7'
}

# load_start begins, with the program $binary, connections that stay open until load_stop: one that is echoed, one that counts.
load_start() {
	mkfifo "$HOSTS_DIR/load.in"
	: >"$HOSTS_DIR/load.out"
	# shellcheck disable=SC2154 # set by the test
	client "$binary" lab client <"$HOSTS_DIR/load.in" >"$HOSTS_DIR/load.out" 2>"$HOSTS_DIR/load.err" &
	load_pid=$!
	exec {load_fd}>"$HOSTS_DIR/load.in"
	echo '[{"kind": "echo", "host": "192.0.2.10", "rate": 4000}, {"kind": "counter", "host": "192.0.2.10", "rate": 4}]' >&"$load_fd"
	load_last='0 0'
	load_check "its beginning"
}

# load_check WHAT fails if a byte was lost, repeated or changed, or a connection broke, and
# waits until both have gone on since the last check.
load_check() {
	local end=$((SECONDS + 120)) now
	while :; do
		now=$(load_ask report) || { echo "the load did not survive $1:" >&2; tail -1 "$HOSTS_DIR/load.out" >&2; return 1; }
		read -r load_echo load_count <<<"$now"
		read -r last_echo last_count <<<"$load_last"
		((load_echo > last_echo && load_count > last_count)) && break
		((SECONDS < end)) || { echo "the load did not go on after $1: $now" >&2; return 1; }
		sleep 1
	done
	load_last=$now
	echo "   $1: no byte lost, repeated or changed; $load_echo rounds echoed, counted to $load_count"
}

# load_ask sends a request and prints the rounds of both, if all is well.
load_ask() {
	local lines end=$((SECONDS + 60))
	lines=$(wc -l <"$HOSTS_DIR/load.out")
	echo "$1" >&"$load_fd" || return 1
	until (($(wc -l <"$HOSTS_DIR/load.out") > lines)); do
		((SECONDS < end)) && kill -0 "$load_pid" 2>/dev/null || return 1
		sleep 0.1
	done
	tail -1 "$HOSTS_DIR/load.out" | python3 -c '
import json, sys
all = json.load(sys.stdin)
for r in all:
    if r.get("error") or r["lost"] or r["repeated"] or r["corrupt"]:
        sys.exit(1)
print(*[r["rounds"] or r["bytes"] for r in all])'
}

# load_stop ends the connections in order, and checks them for the last time.
load_stop() {
	load_check "$1"
	echo stop >&"$load_fd"
	exec {load_fd}>&-
	wait "$load_pid" || { echo "the load failed at its end" >&2; return 1; }
	tail -1 "$HOSTS_DIR/load.out" | python3 -c '
import json, sys
bad = [r for r in json.load(sys.stdin) if not r["done"] or r.get("error") or r["lost"] or r["repeated"] or r["corrupt"]]
sys.exit(bool(bad) and str(bad))'
}
