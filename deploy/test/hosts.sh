#!/bin/bash
# Hosts to try deployments on: each is a small Debian of its own, booted by its
# own systemd, in namespaces of this machine. Sourced by the tests; needs root,
# debootstrap, iproute2, and unified cgroups.
#
#          clients 192.0.2.0/24                replication 198.51.100.0/24
#   client 192.0.2.1 ---- a, b, c: bridge br0     controller .254 ---- a .1, b .2, c .3 (sshd)
#
# The hosts have no way out. What their package manager can install is a directory of
# packages, made once for all of them: HOSTS_PACKAGES with what they depend on.
#
# hosts_up NAME...   boots the hosts; hosts_down removes everything again. With
#                    HOSTS_BRIDGE=no they have no bridge, only its wire lan0.
# on HOST CMD...     runs a command on a host; controller CMD..., client CMD...
#                    run one of this machine in the respective network.

: "${HOSTS_CACHE:=${XDG_CACHE_HOME:-$HOME/.cache}/colod/deploy}"
: "${HOSTS_ID:=colod-deploy-$$}"
: "${HOSTS_DIR:=$(mktemp -d --tmpdir=/var/tmp --suffix=".$HOSTS_ID")}"
HOSTS_UP=()

HOSTS_PACKAGES=(qemu-system-x86 qemu-utils etcd-server nftables)

# hosts_base makes the file system that all hosts start from, once.
hosts_base() {
	base=$HOSTS_CACHE/base-2
	[[ -e $base/complete ]] && return
	mkdir -p "$HOSTS_CACHE"
	exec {base_lock}>"$HOSTS_CACHE/lock"
	flock "$base_lock"
	hosts_make_base || { exec {base_lock}>&-; return 1; }
	exec {base_lock}>&-
}

hosts_make_base() {
	[[ -e $base/complete ]] && return # another test has made it meanwhile
	local t
	for t in debootstrap:debootstrap dpkg-scanpackages:dpkg-dev ssh-keygen:openssh-client; do
		command -v "${t%%:*}" >/dev/null || { echo "${t%%:*} is missing: install ${t##*:}" >&2; return 1; }
	done
	rm -rf "$base"
	mkdir -p "$base"
	echo "making a Debian 12 for the hosts in $base (once)"
	nice -n 19 debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,udev,python3-minimal,python3-apt,iproute2,procps,kmod,openssh-server,ca-certificates \
		bookworm "$base/root" >"$base/log" 2>&1 || { tail -5 "$base/log" >&2; return 1; }
	hosts_download >>"$base/log" 2>&1 || { apt-get -q update >>"$base/log" 2>&1 && hosts_download >>"$base/log" 2>&1; } || { tail -5 "$base/log" >&2; return 1; }
	rm -f "$base/root/etc/machine-id" "$base"/root/var/cache/apt/archives/*.deb
	rm -f "$base"/root/etc/ssh/ssh_host_*
	echo "deb [trusted=yes] file:/srv/shared/apt ./" >"$base/root/etc/apt/sources.list"
	# The hosts' disks are this machine's, several of which are not worth waiting for.
	echo force-unsafe-io >"$base/root/etc/dpkg/dpkg.cfg.d/unsafe-io"
	touch "$base/root/etc/machine-id" "$base/complete"
}

# hosts_download fetches the packages, with this machine's sources, and makes an index of them.
hosts_download() {
	rm -rf "$base/apt"
	mkdir -p "$base/apt/partial"
	apt-get -q -y --no-install-recommends -o Dir::State::status="$base/root/var/lib/dpkg/status" -o Dir::Cache::archives="$base/apt" -o Debug::NoLocking=1 \
		--download-only install "${HOSTS_PACKAGES[@]}" || return 1
	rm -rf "$base/apt/partial" "$base/apt/lock"
	(cd "$base/apt" && dpkg-scanpackages -m . >Packages)
}

# boot.sh is the first process of a host, in its namespaces.
hosts_boot_script() {
	cat >"$HOSTS_DIR/boot.sh" <<'END'
set -e
root=$1
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sys "$root/sys"
mount -t cgroup2 none "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/net" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
while read -r name major minor; do
	mknod -m 666 "$root/dev/$name" c "$major" "$minor"
done <<NODES
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
net/tun 10 200
kvm 10 232
NODES
mkdir -p "$root/srv/shared"
mount --bind "$3" "$root/srv/shared"
cd "$root"
mkdir -p .old
pivot_root . .old
umount -l .old
rmdir .old
hostname "$2"
exec env -i container=colod-deploy PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --show-status=0
END
}

# hosts_up boots the named hosts and makes the networks; the first gets the address .1, the second .2, ...
hosts_up() {
	hosts_base || return 1
	hosts_boot_script
	local n i=0 ns
	mkdir "$HOSTS_DIR/shared" # on every host: /srv/shared, as a cluster file system would give it
	cp -r "$base/apt" "$HOSTS_DIR/shared/apt"
	ssh-keygen -q -t ed25519 -N '' -f "$HOSTS_DIR/key"
	for ns in sw client controller "$@"; do
		ip netns add "$HOSTS_ID-$ns"
		ip -n "$HOSTS_ID-$ns" link set lo up
	done
	ip -n "$HOSTS_ID-sw" link add lan type bridge forward_delay 0 mcast_snooping 0
	ip -n "$HOSTS_ID-sw" link add repl type bridge forward_delay 0 mcast_snooping 0
	ip -n "$HOSTS_ID-sw" link set lan up
	ip -n "$HOSTS_ID-sw" link set repl up
	hosts_wire client lan
	ip -n "$HOSTS_ID-client" addr add 192.0.2.1/24 dev lan0
	hosts_wire controller repl
	ip -n "$HOSTS_ID-controller" addr add 198.51.100.254/24 dev repl0
	for n in "$@"; do
		i=$((i + 1))
		hosts_wire "$n" lan
		hosts_wire "$n" repl
		if [[ ${HOSTS_BRIDGE:-yes} == yes ]]; then
			ip -n "$HOSTS_ID-$n" link add br0 type bridge forward_delay 0 mcast_snooping 0
			ip -n "$HOSTS_ID-$n" link set lan0 master br0
			ip -n "$HOSTS_ID-$n" link set br0 up
		fi
		ip -n "$HOSTS_ID-$n" addr add "198.51.100.$i/24" dev repl0
		hosts_make "$n" "198.51.100.$i"
		hosts_boot "$n" || return 1
	done
}

hosts_wire() { # HOST BRIDGE: a wire from the switch to the host's BRIDGE0
	ip -n "$HOSTS_ID-sw" link add "$2-$1" type veth peer name "${2}0" netns "$HOSTS_ID-$1"
	ip -n "$HOSTS_ID-sw" link set "$2-$1" master "$2" up
	ip -n "$HOSTS_ID-$1" link set "${2}0" up
}

# hosts_make makes the host's own part of its file system, and its keys.
hosts_make() {
	local n=$1 d=$HOSTS_DIR/$1
	mkdir -p "$d/up/etc" "$d/up/root/.ssh" "$d/work" "$d/root"
	echo "$n" >"$d/up/etc/hostname"
	printf '127.0.0.1\tlocalhost\n127.0.1.1\t%s\n::1\tlocalhost ip6-localhost\n' "$n" >"$d/up/etc/hosts" # as Debian's installer does
	# Else systemd takes the machine's own for it, and from that makes equal MAC addresses.
	tr -d - </proc/sys/kernel/random/uuid >"$d/up/etc/machine-id"
	mkdir -p "$d/up/etc/ssh"
	ssh-keygen -A -f "$d/up" >/dev/null
	chmod 700 "$d/up/root" "$d/up/root/.ssh"
	install -m 600 "$HOSTS_DIR/key.pub" "$d/up/root/.ssh/authorized_keys"
	awk -v h="$2" '{print h, $1, $2}' "$d/up/etc/ssh/ssh_host_ed25519_key.pub" >>"$HOSTS_DIR/known_hosts"
}

# hosts_boot boots a host that was made, also again after hosts_kill.
hosts_boot() {
	local n=$1 d=$HOSTS_DIR/$1 cg
	mount -t overlay -o "lowerdir=$base/root,upperdir=$d/up,workdir=$d/work" overlay "$d/root"
	cg=$(hosts_cgroup)/$HOSTS_ID-$n
	mkdir "$cg"
	HOSTS_UP+=("$n")
	# shellcheck disable=SC2016 # expanded by that shell
	setsid sh -c 'echo $$ >"$1/cgroup.procs"; shift; exec "$@"' - "$cg" \
		ip netns exec "$HOSTS_ID-$n" unshare --mount --pid --uts --ipc --cgroup --fork --kill-child \
		bash "$HOSTS_DIR/boot.sh" "$d/root" "$n" "$HOSTS_DIR/shared" >"$d/console" 2>&1 </dev/null &
	echo $! >"$d/pid"
	hosts_wait 20 "host $n has not started" hosts_pid "$n" >/dev/null
	hosts_wait 60 "host $n has not booted" on "$n" systemctl is-active -q ssh
}

# hosts_kill ends a host at once, as a loss of power; its disk and its wires stay.
hosts_kill() {
	local n=$1 p cg i
	p=$(hosts_pid "$n") && kill -KILL "$p" # its pid namespace goes with it
	wait "$(cat "$HOSTS_DIR/$n/pid")" 2>/dev/null || true
	cg=$(hosts_cgroup)/$HOSTS_ID-$n
	hosts_wait 20 "host $n leaves processes" hosts_empty "$cg"
	find "$cg" -depth -type d -exec rmdir {} \;
	umount "$HOSTS_DIR/$n/root"
	for i in "${!HOSTS_UP[@]}"; do
		[[ ${HOSTS_UP[i]} != "$n" ]] || unset "HOSTS_UP[i]"
	done
}

hosts_cgroup() { awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts; }

# hosts_pid prints the process that is a host's first one.
hosts_pid() { pgrep -P "$(cat "$HOSTS_DIR/$1/pid")" -x systemd; }

on() {
	local n=$1
	shift
	nsenter -t "$(hosts_pid "$n")" -a env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"
}
controller() { ip netns exec "$HOSTS_ID-controller" "$@"; }
client() { ip netns exec "$HOSTS_ID-client" "$@"; }

# hosts_wait SECONDS COMPLAINT CMD... waits until CMD succeeds.
hosts_wait() {
	local end=$((SECONDS + $1)) what=$2
	shift 2
	until "$@" 2>/dev/null; do
		((SECONDS < end)) || { echo "$what" >&2; return 1; }
		sleep 0.2
	done
}

hosts_down() {
	local n ns
	for n in "${HOSTS_UP[@]}"; do
		hosts_kill "$n"
	done
	for ns in $(ip netns list | awk -v p="$HOSTS_ID-" 'index($1, p) == 1 { print $1 }'); do
		ip netns pids "$ns" | xargs -r kill -KILL
		ip netns del "$ns"
	done
	rm -rf "$HOSTS_DIR"
}
hosts_empty() { grep -q 'populated 0' "$1/cgroup.events"; }
