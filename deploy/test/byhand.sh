#!/bin/bash
# Follows the part "By hand" of docs/install.md on two hosts of deploy/test/hosts.sh,
# command by command as it stands there, until the daemons know each other.
#
#   deploy/test/byhand.sh BINARY
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
binary=$(realpath "${1:?usage: byhand.sh BINARY}")
# shellcheck source-path=SCRIPTDIR source=hosts.sh
source "$here/hosts.sh"
trap 'set +e; hosts_down' EXIT
die() { echo "byhand.sh: $*" >&2; exit 1; }

hosts_up a b
shared=$HOSTS_DIR/shared
mkdir -m 777 "$shared/arbiter"
deb=$("$top/deploy/deb/build.sh" 1.0.0 "$binary" "$shared")
mapfile -t commands < <(sed -n '/^## By hand/,/^## Good/ s/^    //p' "$top/docs/install.md")
((${#commands[@]} == 10)) || die "the guide has ${#commands[@]} commands by hand; this test knows 10"
run() { # HOST N: runs the Nth command of the guide
	local c=${commands[$2]//colod_VERSION_amd64.deb/\/srv\/shared\/${deb##*/}}
	echo "$1: $c"
	on "$1" sh -c "cd /srv/shared && $c" || die "failed on $1: $c"
}
for n in a b; do
	run $n 0 # the packages
	run $n 1
done
for i in 2 3 4; do run a $i; done # certificates
for n in a b; do
	cp "$shared/ca/ca.pem" "$shared/ca/$n.pem" "$shared/ca/$n.key" "$shared/"
	on $n sh -c "cp /srv/shared/ca.pem /srv/shared/$n.pem /srv/shared/$n.key /etc/colod/"
	on $n sh -c "sed -e 's|^node: .*|node: $n|; s|^  cert: .*|  cert: $n.pem|; s|^  key: .*|  key: $n.key|' \
		-e 's|^    path: .*|    path: /srv/shared/arbiter|' -e 's|^      # accel: .*|      accel: tcg|' \
		/usr/share/doc/colod/examples/colod.yaml >/etc/colod/colod.yaml"
	[[ $n == a ]] || on $n sed -i 's|^listen: .*|listen: 198.51.100.2:7420|' /etc/colod/colod.yaml
	# What "systemctl edit colod" would write.
	on $n sh -c 'mkdir -p /etc/systemd/system/colod.service.d; printf "[Service]\nReadWritePaths=/srv/shared/arbiter\n" \
		>/etc/systemd/system/colod.service.d/override.conf; systemctl daemon-reload'
	for i in 5 6 7 8 9; do run $n $i; done
done
# shellcheck disable=SC2317 # called by hosts_wait
met() { on "$1" colod status --json | grep -q '"up": true'; }
hosts_wait 60 "a does not reach b" met a
hosts_wait 60 "b does not reach a" met b
echo "done"
