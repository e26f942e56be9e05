#!/bin/bash
# A domain that a real libvirtd started is adopted, protected, and survives
# virsh destroy: libvirtd runs in a lab's node, with its own configuration and
# state in a mount namespace of its own.
#
#   deploy/libvirt/test.sh BINARY
#
# (root; needs Debian's libvirt-daemon, libvirt-daemon-driver-qemu and libvirt-clients, and what make setup installs)
set -euo pipefail
cd "$(dirname "$0")/../.."
here=$PWD
if [[ ${1-} != --inside ]]; then
	binary=$(realpath "${1:?usage: test.sh BINARY}")
	missing=()
	for tool in libvirtd:libvirt-daemon virsh:libvirt-clients; do
		PATH=$PATH:/usr/sbin command -v "${tool%%:*}" >/dev/null || missing+=("${tool##*:}")
	done
	[[ -e /usr/lib/$(uname -m)-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so ]] || missing+=(libvirt-daemon-driver-qemu)
	if ((${#missing[@]})); then
		echo "test.sh: missing: apt-get install --no-install-recommends ${missing[*]}" >&2
		exit 1
	fi
	lab=lv$$
	trap '"$binary" lab down --name "$lab" >/dev/null || true' EXIT
	"$binary" lab up --name "$lab"
	unshare --mount --propagation private nsenter --net="/run/netns/colod-$lab-a" "$here/deploy/libvirt/test.sh" --inside "$binary" "$lab"
	exit
fi

binary=$2 lab=$3
dir=/run/colod-lab/$lab/a
tmp=$(mktemp -d)
socket() { echo "/run/colod-lab/$lab/$1/r/api.sock"; }
pair() { "$binary" "$@" --socket "$(socket a)"; }
fact() { # NODE KEY: the first value of a key in the node's status
	"$binary" status --json --socket "$(socket "$1")" | sed -n "s/^ *\"$2\": \"\\([^\"]*\\)\".*/\\1/p" | head -1
}
await() { # SPEAKER: protected by it
	local i
	for ((i = 0; i < 240; i++)); do
		case $(fact "$1" state):$(fact "$1" speaker) in
		protected:"$1" | checkpointing:"$1") return ;;
		esac
		sleep 1
	done
	echo "test.sh: the pair is not protected with $1 as its speaker: $("$binary" status --socket "$(socket "$1")")" >&2
	exit 1
}
serves() { # the guest answers its clients
	ip netns exec "colod-$lab-client" curl -sSf -m 60 http://192.0.2.10/counter || {
		echo "test.sh: the guest does not answer" >&2
		exit 1
	}
}
virsh() { command virsh -c qemu:///system "$@"; }

# libvirtd's own world: nothing of this host's is seen or changed.
for d in /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt /run/libvirt; do
	mkdir -p "$d"
	mount -t tmpfs none "$d"
done
mkdir -p /etc/libvirt/qemu /var/log/libvirt/qemu
for f in passwd group; do
	cp "/etc/$f" "$tmp/$f"
	grep -q '^libvirt-qemu:' "$tmp/$f" || case $f in
	passwd) echo 'libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin' ;;
	group) echo 'libvirt-qemu:x:64055:' ;;
	esac >>"$tmp/$f"
	grep -q '^kvm:' /etc/group || [[ $f == passwd ]] || echo 'kvm:x:64056:' >>"$tmp/$f"
	mount --bind "$tmp/$f" "/etc/$f"
done
cat >/etc/libvirt/qemu.conf <<END
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = [ ]
namespaces = [ ]
dynamic_ownership = 0
remember_owner = 0
stdio_handler = "file"
END
printf '%s\n' 'auth_unix_rw = "none"' 'unix_sock_dir = "/run/libvirt"' >/etc/libvirt/libvirtd.conf
PATH=$PATH:/usr/sbin libvirtd --config /etc/libvirt/libvirtd.conf --pid-file /run/libvirt/libvirtd.pid 2>"$tmp/libvirtd.log" &
libvirtd=$!
clear() {
	virsh destroy guest1 >/dev/null 2>&1 || true
	kill "$libvirtd" 2>/dev/null || true
	wait "$libvirtd" || true
	umount /etc/passwd /etc/group
	rm -rf "$tmp"
}
trap clear EXIT
for ((i = 0; i < 120; i++)); do
	virsh uri >/dev/null 2>&1 && break
	sleep 0.5
done
virsh version

# The lab's guest as a domain: what the node's configuration says of it goes in.
pair stop guest --now
value() { sed -n "s/^ *$1: \"\\{0,1\\}\\([^\"]*\\)\"\\{0,1\\}\$/\\1/p" "$dir/colod.yaml"; }
shim=$(sed -n 's/.*LD_PRELOAD: "\([^"]*\)".*/\1/p' "$dir/colod.yaml")
type=kvm env=''
if [[ $(value accel) == tcg ]]; then
	type=qemu env="<qemu:env name=\"LD_PRELOAD\" value=\"$shim\"/>"
fi
mac=$(sed -n 's/.*mac: "\([^"]*\)".*/\1/p' "$dir/colod.yaml")
sed -e "s|type=\"kvm\"|type=\"$type\"|" -e "s|/var/lib/guests/vmlinuz|$(value kernel)|" -e "s|/var/lib/guests/initrd|$(value initrd)|" \
	-e "s|<cmdline>.*</cmdline>|<cmdline>$(value append)</cmdline>|" -e "s|52:54:00:12:34:56|$mac|" \
	-e "s|machine=\"pc-i440fx-7.2\"|machine=\"pc\"|" -e "s|/run/guests/guest1.qmp|$dir/guest1.qmp|" \
	-e "s|</qemu:commandline>|$env</qemu:commandline>|" deploy/libvirt/domain.xml >"$tmp/domain.xml"
virsh create "$tmp/domain.xml"
for ((i = 0; i < 120; i++)); do
	ip netns exec "colod-$lab-client" curl -sf -m 2 http://192.0.2.10/counter >/dev/null && break
	sleep 1
done
echo "the domain's guest answers: counter $(serves)"
pair adopt guest --monitor "$dir/guest1.qmp" --check
pair adopt guest --monitor "$dir/guest1.qmp"
await a
echo "the domain is protected: counter $(serves)"
virsh destroy guest1
await b
echo "after virsh destroy the other node has it: counter $(serves)"
