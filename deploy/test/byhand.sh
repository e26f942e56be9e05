#!/bin/bash
# Follows the part "By hand" of docs/install.md on two hosts of deploy/test/hosts.sh,
# command by command as it stands there, etcd included, until the daemons know each other.
#
#   deploy/test/byhand.sh BINARY
#
# COLOD_DEB=PATH is taken instead of a package of BINARY.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
binary=$(realpath "${1:?usage: byhand.sh BINARY}")
# shellcheck source-path=SCRIPTDIR source=hosts.sh
source "$here/hosts.sh"
# shellcheck disable=SC2317 # called at the end
finish() {
	local rc=$? n
	set +e
	if ((rc != 0)); then
		for n in "${HOSTS_UP[@]}"; do
			on "$n" journalctl --no-pager -n 40 | sed "s/^/$n: /" >&2
		done
	fi
	hosts_down
}
trap finish EXIT
die() { echo "byhand.sh: $*" >&2; exit 1; }

hosts_up a b
shared=$HOSTS_DIR/shared
export DPKG_DEB_COMPRESSOR_LEVEL=0 # a package that is fast to make
deb=${COLOD_DEB:-$("$top/deploy/deb/build.sh" 1.0.0 "$binary" "$shared")}
[[ $deb == "$shared"/* ]] || cp "$deb" "$shared/"
guide() { sed -n "/^##* $1/,/^##* $2/ s/^    //p" "$top/docs/install.md"; } # FROM TO: what stands there indented
mapfile -t commands < <(guide "By hand" "etcd by hand")
mapfile -t etcd < <(guide "etcd by hand" "Good to know" | grep -v '^ETCD_')
((${#commands[@]} == 10)) || die "the guide has ${#commands[@]} commands by hand; this test knows 10"
((${#etcd[@]} == 5)) || die "the guide has ${#etcd[@]} commands for etcd; this test knows 5"
run() { # HOST COMMAND
	local c=${2//colod_VERSION_amd64.deb/\/srv\/shared\/${deb##*/}}
	echo "$1: $c"
	on "$1" env DEBIAN_FRONTEND=noninteractive sh -c "cd /srv/shared && ${c/apt-get install/apt-get install -q -y}" >"$HOSTS_DIR/said" 2>&1 ||
		{ cat "$HOSTS_DIR/said" >&2; die "failed on $1: $c"; }
}
for n in a b; do
	on "$n" apt-get -q update >"$HOSTS_DIR/said"
	run $n "${commands[0]}" # the packages
	run $n "${commands[1]}"
done
for i in 2 3 4; do run a "${commands[i]}"; done # certificates

for i in 0 1 2 3 4; do run a "${etcd[i]}"; done
mkdir "$shared/member"
cp "$shared"/etcd-ca/{ca.pem,member1.pem,member1.key} "$shared/member/"
guide "etcd by hand" "Good to know" | grep '^ETCD_' >"$shared/member/default"
on a sh -c 'mkdir -p /etc/etcd; cp /srv/shared/member/*.pem /srv/shared/member/*.key /etc/etcd/; chown -R etcd: /etc/etcd; cp /srv/shared/member/default /etc/default/etcd'
grep -q 'then .systemctl restart etcd.\.' "$top/docs/install.md" || die "the guide does not say how etcd is started"
run a "systemctl restart etcd"

for n in a b; do
	for f in "ca/ca.pem ca.pem" "ca/$n.pem $n.pem" "ca/$n.key $n.key" "etcd-ca/ca.pem etcd-ca.pem" "etcd-ca/$n.pem etcd.pem" "etcd-ca/$n.key etcd.key"; do
		on $n cp "/srv/shared/${f% *}" "/etc/colod/${f#* }"
	done
	on $n sh -c "sed -e 's|^node: .*|node: $n|; s|^  cert: .*|  cert: $n.pem|; s|^  key: .*|  key: $n.key|; s|^      # accel: .*|      accel: tcg|' \
		-e '/^  file:\$/d; /^    path: /d; s|^  ## |  |' /usr/share/doc/colod/examples/colod.yaml |
		sed -e 's|^    endpoints: .*|    endpoints: [\"https://198.51.100.1:2379\"]|' \
			-e 's|^    ca: .*|    ca: etcd-ca.pem|; s|^    cert: .*|    cert: etcd.pem|; s|^    key: .*|    key: etcd.key|' >/etc/colod/colod.yaml"
	[[ $n == a ]] || on $n sed -i 's|^listen: .*|listen: 198.51.100.2:7420|' /etc/colod/colod.yaml
	for i in 5 6 7 8 9; do run $n "${commands[i]}"; done
done
# shellcheck disable=SC2317 # called by hosts_wait
met() { on "$1" colod status --json | grep -q '"up": true'; }
hosts_wait 60 "a does not reach b" met a
hosts_wait 60 "b does not reach a" met b
# shellcheck disable=SC2317 # called by hosts_wait
kept() { on a colod nodes --json | grep -q '"name": "b"'; } # only etcd's registry and the link know it
hosts_wait 60 "etcd does not know b" kept
echo "done"
