#!/bin/bash
# Static checks of everything below deploy: units, scripts, playbooks, package.
# Installs nothing; names the Debian package of a tool that is missing.
#
#   deploy/check.sh BINARY
#
# BINARY is a built colod: the package is made from it, twice, and must be equal.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=$(realpath "${1:?usage: check.sh BINARY}")

missing=()
for tool in systemd-analyze:systemd shellcheck:shellcheck yamllint:yamllint ansible-lint:ansible-lint ansible-playbook:ansible \
	lintian:lintian dpkg-deb:dpkg xz:xz-utils man:man-db; do
	command -v "${tool%%:*}" >/dev/null || missing+=("${tool##*:}")
done
if ((${#missing[@]})); then
	echo "check.sh: missing: apt-get install ${missing[*]}" >&2
	exit 1
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0
check() { # NAME CMD...: quiet unless it fails
	local name=$1
	shift
	if "$@" >"$tmp/log" 2>&1; then
		echo "ok      $name"
	else
		echo "FAILED  $name: $*"
		sed 's/^/        /' "$tmp/log"
		failed=1
	fi
}
# shellcheck disable=SC2317 # called by check
silent() { # CMD...: fails also when the command succeeds but says something
	"$@" >"$tmp/said" 2>&1 || { cat "$tmp/said"; return 1; }
	[[ ! -s $tmp/said ]] || { cat "$tmp/said"; return 1; }
}

# shellcheck disable=SC2317 # called by check
manuals() {
	local page
	for page in "$tmp"/x/usr/share/man/man1/*.gz; do
		MANROFFSEQ='' MANWIDTH=80 man --warnings -E UTF-8 -l -Tutf8 -Z "$page" >/dev/null
	done
}

# As installed, in a root of its own: verify wants to find what the unit starts.
root=$tmp/root
install -D "$binary" "$root/usr/bin/colod"
install -D -m 644 deploy/systemd/colod.service "$root/lib/systemd/system/colod.service"
cp -r /lib/systemd/system "$root/lib/systemd/stock" 2>/dev/null
cp -rn "$root/lib/systemd/stock/." "$root/lib/systemd/system/"
check "unit: systemd-analyze verify" silent systemd-analyze verify --man=no --recursive-errors=no --root="$root" colod.service
check "unit: exposure at most 4.0" systemd-analyze security --offline=true --threshold=40 deploy/systemd/colod.service
mkdir -p "$root/etc"
check "users: systemd-sysusers" systemd-sysusers --dry-run --root="$root" "$PWD/deploy/systemd/colod.sysusers"
mapfile -t scripts < <(find deploy -name '*.sh')
check "scripts: shellcheck" shellcheck -x "${scripts[@]}" deploy/deb/{postinst,prerm,postrm}

cd deploy/ansible
check "playbooks: yamllint" yamllint -c .yamllint --strict .
check "playbooks: ansible-lint" ansible-lint --offline --nocolor --profile production
for p in playbooks/*.yml; do
	check "playbooks: syntax of $p" ansible-playbook --syntax-check "$p"
done
cd ../..

export SOURCE_DATE_EPOCH=1790000000
deb=$(deploy/deb/build.sh 1.0.0 "$binary" "$tmp/one")
deploy/deb/build.sh 1.0.0 "$binary" "$tmp/two" >/dev/null
check "package: two builds are equal" cmp "$deb" "$tmp/two/${deb##*/}"
check "package: lintian" lintian --allow-root --fail-on error,warning --tag-display-limit 0 "$deb"
deploy/tarball/build.sh 1.0.0 "$binary" "$tmp/one" >/dev/null
deploy/tarball/build.sh 1.0.0 "$binary" "$tmp/two" >/dev/null
check "tarball: two builds are equal" cmp "$tmp/one/SHA256SUMS" "$tmp/two/SHA256SUMS"
check "tarball: checksums" sh -c "cd '$tmp/one' && sha256sum -c SHA256SUMS"
dpkg-deb -x "$deb" "$tmp/x"
check "manual pages: no warning" silent manuals
exit $failed
