#!/bin/bash
# Runs the playbooks against two hosts of deploy/test/hosts.sh: from nothing to a
# protected guest, no change at a second run, a rolling upgrade, a switchover, and
# nothing left after the uninstall.
#
#   deploy/test/playbooks.sh BINARY
#
# Needs root; the lab's guest is taken from the cache of colod lab.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
binary=$(realpath "${1:?usage: playbooks.sh BINARY}")
# shellcheck source-path=SCRIPTDIR source=hosts.sh
source "$here/hosts.sh"
trap 'set +e; hosts_down' EXIT

step() { echo "== $* ($SECONDS s)"; }
die() { echo "playbooks.sh: $*" >&2; exit 1; }
play() { # PLAYBOOK ARGS...
	(cd "$top/deploy/ansible" && ANSIBLE_CONFIG=$PWD/ansible.cfg ANSIBLE_NOCOLOR=1 ANSIBLE_HOME=$HOSTS_DIR/ansible ANSIBLE_TIMEOUT=60 \
		ANSIBLE_SSH_CONTROL_PATH_DIR=$HOSTS_DIR/cp ANSIBLE_SSH_PIPELINING=true controller \
		ansible-playbook -i "$HOSTS_DIR/hosts.yml" "playbooks/$1" "${@:2}") >"$HOSTS_DIR/play.log" 2>&1 ||
		{ cat "$HOSTS_DIR/play.log" >&2; return 1; }
}
# changes prints how many tasks of the last play changed something, over all hosts.
changes() { awk 'match($0, / changed=[0-9]+/) { n += substr($0, RSTART + 9, RLENGTH - 9) } END { print n + 0 }' "$HOSTS_DIR/play.log"; }
status() { on "$1" colod status guest1 --json; }
both_protected() { is_protected a && is_protected b; }
is_protected() { status "$1" 2>/dev/null | grep -Eq '"state": "(protected|checkpointing)"'; }
speaker() { status "$1" | sed -n 's/.*"speaker": "\(.*\)".*/\1/p'; }
speaks() { [[ $(speaker "$1") == "$1" ]]; }
counter() { client timeout 10 curl -sf http://192.0.2.10/counter; }

cache=${XDG_CACHE_HOME:-$HOME/.cache}/colod
kernel=$cache/guest-1/vmlinuz
# shellcheck disable=SC2012 # names of our own making
{
initrd=$(ls -t "$cache"/guest-1/initrd-*.img 2>/dev/null | head -1)
shim=$(ls "$cache"/tcg-shim-*.so 2>/dev/null | head -1)
}
[[ -s $kernel && -s $initrd ]] || die "no guest image in $cache; colod lab demo makes it"
accel=$(sed -n 's/.*"accel":"\([a-z]*\)".*/\1/p' "$cache/accel.json")
initrd_copy=$HOSTS_DIR/initrd.img
cp "$initrd" "$initrd_copy" # another colod may drop it from the cache

step "two fresh hosts"
hosts_up a b
mkdir -m 777 "$HOSTS_DIR/shared/arbiter"
export SOURCE_DATE_EPOCH=1790000000
deb1=$("$top/deploy/deb/build.sh" 1.0.0 "$binary" "$HOSTS_DIR/out")
deb2=$("$top/deploy/deb/build.sh" 1.0.1 "$binary" "$HOSTS_DIR/out")

images="[{src: $kernel, dest: /var/lib/colod/images/vmlinuz}, {src: $initrd_copy, dest: /var/lib/colod/images/initrd.img}]"
extra='' hold=''
if [[ $accel == tcg ]]; then
	images="${images%]}, {src: $shim, dest: /var/lib/colod/images/tcg-shim.so}]"
	extra='env: {LD_PRELOAD: /var/lib/colod/images/tcg-shim.so}'
	hold='hold: {min: 200ms, max: 1s}'
fi
sed -e "s|/root/colod_0.1.0_amd64.deb|$deb1|" -e "s|/root/colod-ca|$HOSTS_DIR/ca|" -e 's|shared: false.*|shared: true|' -e 's|/var/lib/colod/arbiter|/srv/shared/arbiter|' \
	-e "s|append: .*|append: $(printf '%s' "console=ttyS0 quiet loglevel=4 nokaslr panic=-1 tsc=reliable no_timer_check mitigations=off audit=0" \
		" nowatchdog ipv6.autoconf=0 net.ifnames=0 colod.ip4=192.0.2.10/24 colod.ip6=2001:db8::10/64" \
		" colod.seed=00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff")|" \
	-e "s|^\( *\)kernel: .*|&\n\1accel: $accel\n\1cpu: qemu64\n\1$extra|" \
	-e "s|^\( *\)network: .*|&\n\1$hold|" \
	"$top/deploy/ansible/inventories/two-nodes/hosts.yml" >"$HOSTS_DIR/hosts.yml"
cat >>"$HOSTS_DIR/hosts.yml" <<END
        ansible_python_interpreter: /usr/bin/python3
        ansible_ssh_private_key_file: $HOSTS_DIR/key
        ansible_ssh_common_args: -o UserKnownHostsFile=$HOSTS_DIR/known_hosts -o StrictHostKeyChecking=yes
        colod_controller_program: $binary
        colod_settings: {heartbeat: {interval: 50ms, timeout: 3s}}
        colod_images: $images
        colod_unit_overrides: |
          [Service]
          ReadWritePaths=/srv/shared/arbiter
END
step "wrong variables are refused, by name"
for wrong in colod_arbiter_shared=false colod_certs=paper; do
	! play site.yml --check -e "$wrong" 2>/dev/null || die "$wrong was accepted"
	grep -q "${wrong%%=*} must" "$HOSTS_DIR/play.log" || { cat "$HOSTS_DIR/play.log"; die "the message about $wrong does not name it"; }
done

step "check mode on fresh hosts changes nothing"
play site.yml --check
for n in a b; do
	! on "$n" test -e /usr/bin/colod -o -e /etc/colod || die "check mode has changed host $n"
done

step "site.yml: from nothing to a protected guest"
play site.yml
both_protected || die "not protected: $(status a)"
hosts_wait 60 "the guest does not answer" counter >/dev/null

step "second run"
play site.yml
[[ $(changes) == 0 ]] || { cat "$HOSTS_DIR/play.log"; die "the second run changed $(changes)"; }
play site.yml --check
[[ $(changes) == 0 ]] || { cat "$HOSTS_DIR/play.log"; die "check mode would change $(changes)"; }

step "rolling upgrade: the guest goes on"
before=$(counter)
vm=$(on a pgrep -f guest=guest1)
play rolling-upgrade.yml -e "colod_deb=$deb2"
for n in a b; do
	on "$n" dpkg -s colod | grep -qx 'Version: 1.0.1' || die "host $n has not got the new package"
done
after=$(counter)
((after > before)) || die "the guest began anew: counter $before, then $after"
[[ $(on a pgrep -f guest=guest1) == "$vm" ]] || die "the speaker's VM was replaced by the upgrade"
both_protected || die "not protected after the upgrade: $(status a)"

step "switchover"
play switchover.yml -e colod_pair=guest1 -e colod_to=b
[[ $(speaker a) == b ]] || die "b does not speak: $(status a)"
play switchover.yml -e colod_pair=guest1 -e colod_to=b
[[ $(changes) == 0 ]] || die "a switchover to the speaker changed something"
((($(counter)) > after)) || die "the guest began anew at the switchover"

step "new certificates"
play site.yml -e colod_cert_renew_days=720
both_protected || die "not protected with new certificates: $(status b)"
old=$(on b sha256sum /etc/colod/node.pem)
play site.yml -e colod_cert_renew_days=100000
[[ $(on b sha256sum /etc/colod/node.pem) != "$old" ]] || die "the certificate was not renewed"
((($(counter)) > after)) || die "the guest began anew at the renewal"

step "a host dies"
hosts_kill b
hosts_wait 60 "a does not take over" speaks a
hosts_wait 30 "the guest does not answer after the loss of its host" counter >/dev/null
((($(counter)) > after)) || die "the guest began anew at the loss of its host"
hosts_boot b
hosts_wait 300 "the guest is not protected again" is_protected a

step "uninstall"
play uninstall.yml 2>/dev/null && die "the uninstall asked for no confirmation"
grep -q 'colod_end_guests must be true' "$HOSTS_DIR/play.log" || die "the uninstall does not name colod_end_guests"
play uninstall.yml -e colod_end_guests=true
for n in a b; do
	left=$(on "$n" find / -xdev -path /proc -prune -o -path /sys -prune -o -path '/var/log/*' -prune -o -iname '*colod*' -print)
	left+=$(on "$n" sh -c "ip link | grep -e colod -e vm0; pgrep -x colod; pgrep -fa '[q]emu-system'; grep colod /etc/passwd /etc/group; dpkg -l colod 2>/dev/null | grep '^[a-z]'" || true)
	[[ -z $left ]] || die "host $n: left: $left"
done
play uninstall.yml -e colod_end_guests=true
[[ $(changes) == 0 ]] || { cat "$HOSTS_DIR/play.log"; die "a second uninstall changed something"; }
step "done"
