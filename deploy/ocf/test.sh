#!/bin/bash
# Runs ocf-tester with the agent against a real pair in a lab: the node that
# does not speak is made the speaker and no longer, again and again, and the
# guest is protected afterwards.
#
#   deploy/ocf/test.sh BINARY (root; needs Debian's resource-agents, libxml2-utils and what make setup installs)
set -euo pipefail
cd "$(dirname "$0")/../.."
binary=$(realpath "${1:?usage: test.sh BINARY}")
missing=()
for tool in ocf-tester:resource-agents xmllint:libxml2-utils; do
	PATH=$PATH:/usr/sbin command -v "${tool%%:*}" >/dev/null || missing+=("${tool##*:}")
done
if ((${#missing[@]})); then
	echo "test.sh: missing: apt-get install --no-install-recommends ${missing[*]}" >&2
	exit 1
fi
PATH=$PATH:/usr/sbin
lab=ocf$$
tmp=$(mktemp -d)
clear() {
	"$binary" lab down --name "$lab" >/dev/null || true
	rm -rf "$tmp"
}
trap clear EXIT
"$binary" lab up --name "$lab"

# The agent is asked to speak on node b, as Pacemaker would there.
chmod 755 "$tmp"
install -m 755 deploy/ocf/colod "$tmp/colod"
mkdir -p "$tmp/state"
export OCF_ROOT=/usr/lib/ocf HA_RSCTMP=$tmp/state
socket=/run/colod-lab/$lab/b/r/api.sock
ocf-tester -n "$lab" -o pair=guest -o "binary=$binary" -o "socket=$socket" "$tmp/colod"

# The last stop ended nothing: the guest was demoted before, and is protected.
for _ in $(seq 120); do
	state=$("$binary" status --json --socket "$socket" | sed -n 's/^ *"state": "\([a-z]*\)".*/\1/p' | head -1)
	case $state in
	protected | checkpointing) break ;;
	esac
	sleep 1
done
case $state in
protected | checkpointing) echo "the guest is protected after all that" ;;
*)
	echo "test.sh: after the test the pair is $state" >&2
	exit 1
	;;
esac
