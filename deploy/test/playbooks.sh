#!/bin/bash
# Runs the playbooks against hosts of deploy/test/hosts.sh, with a checked load on the
# guest from its first minute to the uninstall:
#
#   two     two nodes and a record in a shared directory: from nothing to a protected
#           guest, no change at a second run, rolling upgrade, switchover, new
#           certificates, another pair, evacuation, the loss of a host, uninstall
#   three   three nodes with etcd on each, firewall and bridges of the role's: new
#           authorities, the loss of the speaker's host with its member of etcd,
#           evacuation to the third node, uninstall
#
#   deploy/test/playbooks.sh BINARY [two|three]      (without: one after the other)
#
# Needs root; the lab's guest is taken from the cache of colod lab. KEEP=DIR keeps
# the logs of a run that fails; COLOD_DEB=PATH is taken instead of a package of BINARY.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
binary=$(realpath "${1:?usage: playbooks.sh BINARY [two|three]}")
if [[ -z ${2:-} ]]; then
	"$0" "$binary" two
	exec "$0" "$binary" three
fi
case $2 in two | three) ;; *) echo "usage: playbooks.sh BINARY [two|three]" >&2; exit 2 ;; esac
# shellcheck source-path=SCRIPTDIR source=hosts.sh
source "$here/hosts.sh"
# shellcheck source-path=SCRIPTDIR source=guest.sh
source "$here/guest.sh"
# shellcheck disable=SC2317 # called at the end
finish() {
	local rc=$? n
	set +e
	if ((rc != 0)) && [[ -n ${KEEP:-} ]]; then
		mkdir -p "$KEEP"
		cp "$HOSTS_DIR"/*.log "$HOSTS_DIR"/load.out "$HOSTS_DIR"/load.err "$KEEP" 2>/dev/null
		for n in "${HOSTS_UP[@]}"; do
			on "$n" journalctl --no-pager -o short-precise >"$KEEP/journal-$n" 2>&1
			on "$n" colod status >"$KEEP/status-$n" 2>&1
		done
	fi
	hosts_down
}
trap finish EXIT

step() { echo "== $* ($SECONDS s)"; }
die() { echo "playbooks.sh: $*" >&2; exit 1; }
play() { # PLAYBOOK ARGS...
	(cd "$top/deploy/ansible" && ANSIBLE_CONFIG=$PWD/ansible.cfg ANSIBLE_NOCOLOR=1 ANSIBLE_HOME=$HOSTS_DIR/ansible ANSIBLE_TIMEOUT=60 \
		ANSIBLE_SSH_CONTROL_PATH_DIR=$HOSTS_DIR/cp ANSIBLE_SSH_PIPELINING=true controller \
		ansible-playbook -i "$HOSTS_DIR/inv" "playbooks/$1" "${@:2}") >"$HOSTS_DIR/play.log" 2>&1 ||
		{ cat "$HOSTS_DIR/play.log" >&2; return 1; }
}
# changes prints how many tasks of the last play changed something, over all hosts.
changes() { awk 'match($0, / changed=[0-9]+/) { n += substr($0, RSTART + 9, RLENGTH - 9) } END { print n + 0 }' "$HOSTS_DIR/play.log"; }
unchanged() { # WHAT
	[[ $(changes) == 0 ]] || { cat "$HOSTS_DIR/play.log" >&2; die "$1 changed $(changes)"; }
}
refused() { # VARIABLE PLAYBOOK ARGS...: the play fails, and its message names the variable
	! play "${@:2}" 2>/dev/null || die "${*:2} was accepted"
	grep -Eq "(fatal|msg|fail_msg|arguments).*$1|^ *$1|$1 must" "$HOSTS_DIR/play.log" || { cat "$HOSTS_DIR/play.log" >&2; die "the message about $* does not name $1"; }
}
status() { on "$1" colod status guest1 --json; }
field() { status "$1" | sed -n "s/.*\"$2\": \"\\(.*\\)\".*/\\1/p" | head -1; }
speaker() { status "$1" | sed -n 's/.*"speaker": "\(.*\)".*/\1/p'; }
speaks() { [[ $(speaker "$1") == "$1" ]]; }
is_protected() { status "$1" 2>/dev/null | grep -Eq '"state": "(protected|checkpointing)"'; }
protected_by() { # SPEAKER SECONDARY
	is_protected "$1" && is_protected "$2" && speaks "$1"
}
active() { # HOST UNITS...: all of them are
	local unit
	for unit in "${@:2}"; do
		on "$1" systemctl is-active -q "$unit" || return 1
	done
}
# contents lists what is on a host and of no Debian package, but for logs, caches and what Ansible and systemd leave for
# themselves; and who is in passwd and group. Left out is what packages make when they are configured.
contents() {
	# shellcheck disable=SC2016 # expanded there
	on "$1" sh -c '
		owned() { cat /var/lib/dpkg/info/*.list | sed -E "s#^/(bin|sbin|lib|lib64)/#/usr/\\1/#" | sort -u; }
		owned >/run/owned
		find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path "/var/tmp/*" -o -path "/var/log/*" -o -path "/var/cache/*" -o -path "/var/backups/*" \
			-o -path "/var/lib/apt/*" -o -path "/var/lib/dpkg/*" -o -path "/var/lib/systemd/*" -o -path /root/.ansible -o -path /srv/shared -o -name __pycache__ \) \
			-prune -o -print | sort | comm -23 - /run/owned | grep -Ev "^/etc/rc.\\.d/K01etcd\$|^/var/lib/etcd"
		dpkg-query -W -f "\${Package} \${db:Status-Status}\n" | grep colod
		cat /etc/passwd /etc/group | grep -Ev "^(etcd|rdma):" | sort
		ip -o link show | sed "s/^[0-9]*: //; s/[@:].*//" | sort'
}
site() {
	step "check mode on fresh hosts changes nothing"
	for n in "${hosts[@]}"; do contents "$n" >"$HOSTS_DIR/before-$n"; done
	play site.yml --check
	for n in "${hosts[@]}"; do
		contents "$n" | diff "$HOSTS_DIR/before-$n" - || die "check mode has changed host $n"
	done
	step "site.yml: from nothing to a protected guest"
	play site.yml
	hosts_wait 120 "not protected" protected_by a b || die "$(status a)"
	hosts_wait 120 "the guest does not answer" guest_answers
	load_start
	step "second run"
	play site.yml
	unchanged "the second run"
	play site.yml --check
	unchanged "check mode"
}
uninstall() { # ARGS...
	step "uninstall"
	refused colod_end_guests uninstall.yml
	play uninstall.yml -e colod_end_guests=true "$@"
	for n in "${hosts[@]}"; do
		contents "$n" | diff "$HOSTS_DIR/before-$n" - >"$HOSTS_DIR/left.log" || { cat "$HOSTS_DIR/left.log" >&2; die "host $n is not as it was"; }
		[[ -z $(on "$n" sh -c "pgrep -x colod; pgrep -x etcd; pgrep -fa '[q]emu-system'" || true) ]] || die "host $n: processes are left"
	done
	play uninstall.yml -e colod_end_guests=true
	unchanged "a second uninstall"
}

step "fresh hosts"
if [[ $2 == two ]]; then
	hosts=(a b)
else
	hosts=(a b c)
	export HOSTS_BRIDGE=no
fi
guest_find
hosts_up "${hosts[@]}"
mkdir -m 777 "$HOSTS_DIR/shared/arbiter"
export SOURCE_DATE_EPOCH=1790000000 DPKG_DEB_COMPRESSOR_LEVEL=0 # a package that is fast to make
deb1=${COLOD_DEB:-$("$top/deploy/deb/build.sh" 1.0.0 "$binary" "$HOSTS_DIR/out")}
# The same under the next version's name.
deb2=$HOSTS_DIR/colod_1.0.1_amd64.deb
dpkg-deb -R "$deb1" "$HOSTS_DIR/next"
sed -i 's/^Version: .*/Version: 1.0.1/' "$HOSTS_DIR/next/DEBIAN/control"
dpkg-deb --root-owner-group -Znone -b "$HOSTS_DIR/next" "$deb2" >/dev/null
for n in "${hosts[@]}"; do on "$n" apt-get -q update >"$HOSTS_DIR/apt.log"; done

# The example inventory, and what is of this test.
mkdir -p "$HOSTS_DIR/inv/group_vars"
cp "$top/deploy/ansible/inventories/$2-nodes/hosts.yml" "$HOSTS_DIR/inv/"
cat >"$HOSTS_DIR/inv/group_vars/colod_nodes.yml" <<END
ansible_python_interpreter: /usr/bin/python3
ansible_ssh_private_key_file: $HOSTS_DIR/key
ansible_ssh_common_args: -o UserKnownHostsFile=$HOSTS_DIR/known_hosts -o StrictHostKeyChecking=yes
colod_deb: $deb1
colod_ca_dir: $HOSTS_DIR/ca
colod_controller_program: $binary
colod_settings: {heartbeat: {interval: 50ms, timeout: 3s}}
colod_images: $(guest_images)
colod_pairs:
$(guest_pair guest1 192.0.2.10 2001:db8::10 vm0 52:54:00:12:34:56)
END

two() {
	cat >>"$HOSTS_DIR/inv/group_vars/colod_nodes.yml" <<-END
		colod_arbiter: {file: {path: /srv/shared/arbiter}}
		colod_arbiter_shared: true
		colod_unit_overrides: |
		  [Service]
		  ReadWritePaths=/srv/shared/arbiter
	END
	step "wrong variables are refused, by name"
	refused colod_arbiter_shared site.yml --check -e colod_arbiter_shared=false
	refused colod_certs site.yml --check -e colod_certs=paper
	refused colod_cert_files site.yml --check -e colod_certs=files
	refused colod_port site.yml --check -e colod_port=99999
	refused colod_images site.yml --check -e '{"colod_images": [{"src": "/nonexistent", "dest": "/x"}]}'
	refused colod_bridges site.yml --check -e '{"colod_bridges": [{"ports": []}]}'
	refused colod_spare site.yml --check -e '{"colod_spare": {"bridge": "br7"}}'
	refused colod_pairs site.yml --check -e '{"colod_pairs": [{"name": "x", "nodes": ["a", "z"]}]}'
	site

	step "rolling upgrade"
	vm=$(on a pgrep -f guest=guest1)
	play rolling-upgrade.yml -e "colod_deb=$deb2"
	for n in a b; do
		on "$n" dpkg -s colod | grep -qx 'Version: 1.0.1' || die "host $n has not got the new package"
	done
	[[ $(on a pgrep -f guest=guest1) == "$vm" ]] || die "the speaker's VM was replaced by the upgrade"
	hosts_wait 120 "not protected after the upgrade" protected_by a b || die "$(status a)"
	load_check "the rolling upgrade"
	sed -i "s|^colod_deb: .*|colod_deb: $deb2|" "$HOSTS_DIR/inv/group_vars/colod_nodes.yml"

	step "switchover"
	refused colod_to switchover.yml -e colod_pair=guest1
	play switchover.yml -e colod_pair=guest1 -e colod_to=b
	[[ $(speaker a) == b ]] || die "b does not speak: $(status a)"
	play switchover.yml -e colod_pair=guest1 -e colod_to=b
	unchanged "a switchover to the speaker"
	load_check "the switchover"

	step "new certificates"
	old=$(on b sha256sum /etc/colod/node.pem)
	generation=$(status b | sed -n 's/.*"generation": \([0-9]*\),.*/\1/p')
	play rotate-certificates.yml
	[[ $(on b sha256sum /etc/colod/node.pem) != "$old" ]] || die "the certificate was not replaced"
	play site.yml
	unchanged "site.yml after new certificates"
	[[ $(status b | sed -n 's/.*"generation": \([0-9]*\),.*/\1/p') == "$generation" ]] || die "roles changed with new certificates"
	load_check "new certificates"

	step "reports"
	refused colod_collect_dir collect-reports.yml
	play collect-reports.yml -e "colod_collect_dir=$HOSTS_DIR/collected" -e colod_collect_since=2h
	for n in a b; do
		for f in status.json nodes.json events.jsonl audit.jsonl reports.jsonl reports.html colod.log; do
			[[ -e $HOSTS_DIR/collected/$n/$f ]] || die "$f of $n was not collected"
		done
		grep -q 'protected' "$HOSTS_DIR/collected/$n/events.jsonl" || die "the events of $n are empty"
	done

	step "another pair"
	refused colod_pair add-pair.yml -e colod_pair=guest2
	guest_pair guest2 192.0.2.11 2001:db8::11 vm1 52:54:00:12:34:57 >"$HOSTS_DIR/guest2"
	sed -i "/^colod_pairs:/r $HOSTS_DIR/guest2" "$HOSTS_DIR/inv/group_vars/colod_nodes.yml"
	play add-pair.yml -e colod_pair=guest2
	hosts_wait 60 "the second guest does not answer" client timeout 10 curl -sf -o /dev/null http://192.0.2.11/counter
	load_check "another pair"
	on a colod vm delete guest2 --yes >/dev/null || on b colod vm delete guest2 --yes >/dev/null
	sed -i "/- name: guest2/,/^  - name: guest1/ { /^  - name: guest1/! d }" "$HOSTS_DIR/inv/group_vars/colod_nodes.yml"
	play site.yml

	step "evacuation"
	refused colod_host evacuate.yml
	refused colod_unprotected evacuate.yml -e colod_host=b
	play evacuate.yml -e colod_host=b -e colod_unprotected=true
	speaks a || die "a does not speak: $(status a)"
	! on b pgrep -x colod >/dev/null || die "colod still runs on b"
	! on b pgrep -f guest=guest1 >/dev/null || die "a guest still runs on b"
	load_check "the evacuation"
	play return.yml -e colod_host=b
	hosts_wait 120 "not protected after the return of b" protected_by a b || die "$(status a)"

	step "a host dies"
	hosts_kill a
	hosts_wait 60 "b does not take over" speaks b
	hosts_wait 60 "the guest does not answer after the loss of its host" guest_answers
	load_check "the loss of a host"
	hosts_boot a
	hosts_wait 300 "the guest is not protected again" protected_by b a
	load_stop "everything"
	uninstall
}

three() {
	step "wrong variables are refused, by name"
	refused colod_etcd_election_ms site.yml --check -e colod_etcd_election_ms=10
	refused colod_etcd_address site.yml --check -e colod_etcd_address=192.0.2.99
	refused colod_firewall_api_from site.yml --check -e '{"colod_firewall_api_from": ["office"]}'
	refused colod_address site.yml --check -e colod_address=here
	site
	for n in a b c; do
		active "$n" colod colod-etcd colod-firewall colod-bridge-br0 || die "host $n: not all units are active"
	done

	step "the firewall"
	for port in 7420 2379 2380; do
		! controller timeout 3 bash -c "</dev/tcp/198.51.100.1/$port" 2>/dev/null || die "port $port can be reached from where no node is"
		on b timeout 10 bash -c "</dev/tcp/198.51.100.1/$port" || die "port $port of a cannot be reached from b"
	done

	step "rolling upgrade"
	play rolling-upgrade.yml -e "colod_deb=$deb2"
	sed -i "s|^colod_deb: .*|colod_deb: $deb2|" "$HOSTS_DIR/inv/group_vars/colod_nodes.yml"
	hosts_wait 120 "not protected after the upgrade" protected_by a b || die "$(status a)"
	load_check "the rolling upgrade"

	step "new authorities"
	generation=$(status a | sed -n 's/.*"generation": \([0-9]*\),.*/\1/p')
	old=$(openssl x509 -noout -fingerprint -in "$HOSTS_DIR/ca/ca.pem")
	play rotate-authority.yml
	for n in a b c; do
		for f in colod/ca.pem colod/etcd-ca.pem colod-etcd/ca.pem; do
			[[ $(on "$n" grep -c BEGIN "/etc/$f") == 1 ]] || die "host $n: /etc/$f still trusts the old authority"
		done
		openssl verify -CAfile "$HOSTS_DIR/ca/ca.pem" <(on "$n" cat /etc/colod/node.pem) >/dev/null || die "host $n: the certificate is not of the new authority"
	done
	[[ $(openssl x509 -noout -fingerprint -in "$HOSTS_DIR/ca/ca.pem") != "$old" ]] || die "the authority is the old one"
	[[ $(status a | sed -n 's/.*"generation": \([0-9]*\),.*/\1/p') == "$generation" ]] || die "roles changed with new authorities"
	play site.yml
	unchanged "site.yml after new authorities"
	load_check "new authorities"

	step "the speaker's host dies, with its member of etcd"
	hosts_kill a
	hosts_wait 60 "b does not take over" speaks b
	hosts_wait 60 "the guest does not answer after the loss of its host" guest_answers
	hosts_wait 300 "the third node does not protect the guest" protected_by b c
	load_check "the loss of a host"
	hosts_boot a
	hosts_wait 120 "a does not come back" active a colod colod-etcd
	play site.yml

	step "evacuation to the third node"
	play evacuate.yml -e colod_host=b
	! on b pgrep -x colod >/dev/null || die "colod still runs on b"
	hosts_wait 120 "the guest is not protected by the others" protected_by c a
	load_check "the evacuation"
	play return.yml -e colod_host=b
	play site.yml
	unchanged "site.yml after the return"
	load_stop "everything"
	uninstall -e '{"colod_remove_packages": ["etcd-server"]}'
}

"$2"
step "done"
