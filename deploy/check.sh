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
	lintian:lintian dpkg-deb:dpkg xz:xz-utils man:man-db bash:bash zsh:zsh fish:fish xmllint:libxml2-utils ocf-tester:resource-agents; do
	PATH=$PATH:/usr/sbin command -v "${tool%%:*}" >/dev/null || missing+=("${tool##*:}")
done
if ((${#missing[@]})); then
	echo "check.sh: missing: apt-get install --no-install-recommends ${missing[*]}" >&2
	exit 1
fi
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
failed=0
check() { # NAME CMD...: quiet unless it fails
	local name=$1 began=$SECONDS
	shift
	if "$@" >"$tmp/log" 2>&1; then
		echo "ok      $name ($((SECONDS - began)) s)"
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

# shellcheck disable=SC2317 # called by check
pages() { # WORD...: the command of these words, and every one below it that is not hidden, has its page
	local name sub
	name=$(IFS=-; echo "$*")
	[[ -f $tmp/x/usr/share/man/man1/$name.1.gz ]] || { echo "no page $name(1)"; return 1; }
	while read -r sub; do
		pages "$@" "$sub" || return 1
	done < <("$binary" "${@:2}" --help | sed -n '/^Available Commands:/,/^$/s/^  \([a-z-]*\) .*/\1/p' | grep -v -x -e help -e completion)
}

# shellcheck disable=SC2317 # called by check
completions() { # each shell reads its file, and completes a command
	local c=$tmp/x/usr/share
	bash -n "$c/bash-completion/completions/colod"
	zsh -n "$c/zsh/vendor-completions/_colod"
	fish -n "$c/fish/vendor_completions.d/colod.fish"
	"$binary" __complete adop 2>/dev/null | grep -q '^adopt'
	"$binary" __complete vm rel 2>/dev/null | grep -q '^release'
}

# shellcheck disable=SC2317 # called by check
upgrade() { # what an upgrade runs ends no guest
	grep -q '^KillMode=process' "$tmp/x/lib/systemd/system/colod.service" || { echo "the unit would end the guests"; return 1; }
	dpkg-deb -e "$deb" "$tmp/control"
	# An upgrade calls the old prerm with upgrade, and the new postinst with the old version.
	mkdir -p "$tmp/fake"
	# shellcheck disable=SC2016 # for the script that is written
	printf '#!/bin/sh\necho "${0##*/} $*" >>"%s/ran"\n' "$tmp" >"$tmp/fake/systemctl"
	chmod 755 "$tmp/fake/systemctl"
	for c in deb-systemd-invoke deb-systemd-helper systemd-sysusers systemd-tmpfiles; do cp "$tmp/fake/systemctl" "$tmp/fake/$c"; done
	: >"$tmp/ran"
	PATH=$tmp/fake:$PATH sh "$tmp/control/prerm" upgrade 2.0.0
	PATH=$tmp/fake:$PATH sh "$tmp/control/postinst" configure 0.9.0
	PATH=$tmp/fake:$PATH sh "$tmp/control/postrm" upgrade 2.0.0
	! grep -E ' (stop|kill|disable|mask)( |$)' "$tmp/ran" || { echo "an upgrade stops the daemon or a guest"; return 1; }
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
check "scripts: shellcheck" shellcheck -x "${scripts[@]}" deploy/deb/{postinst,prerm,postrm} deploy/ocf/colod

check "pacemaker: metadata of the agent" sh -c "OCF_ROOT=/usr/lib/ocf sh deploy/ocf/colod meta-data | (cd /usr/share/resource-agents && xmllint --noout --valid -)"
check "libvirt: domain is well formed" xmllint --noout deploy/libvirt/domain.xml

cd deploy/ansible
check "playbooks: yamllint" yamllint -c .yamllint --strict .
check "playbooks: ansible-lint" ansible-lint --offline --nocolor --profile production
check "playbooks: syntax" ansible-playbook --syntax-check playbooks/*.yml
cd ../..

# Quickly compressed: what is compared and looked at is what is in them.
export SOURCE_DATE_EPOCH=1790000000 DPKG_DEB_COMPRESSOR_LEVEL=0 COLOD_XZ_LEVEL=0
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
check "manual pages: one for every command" pages colod
check "completion: bash, zsh, fish" completions
check "package: an upgrade ends no guest" upgrade
exit $failed
