#!/bin/bash
# Packs a static tarball for hosts without dpkg, with checksums and the bill of
# materials.
#
#   deploy/tarball/build.sh VERSION BINARY OUTDIR
#
# writes colod-VERSION-linux-ARCH.tar.xz, colod-VERSION.cdx.json and SHA256SUMS.
# Equal inputs and SOURCE_DATE_EPOCH (default: the time of the last commit) give
# equal bytes. COLOD_XZ_LEVEL (0 to 9, default 6) is how hard xz tries.
set -euo pipefail
umask 022
export LC_ALL=C TZ=UTC

fail() { echo "build.sh: $*" >&2; exit 1; }
[[ $# == 3 ]] || fail "usage: build.sh VERSION BINARY OUTDIR"
top=$(cd "$(dirname "$0")/../.." && pwd)
version=${1#v}
[[ $version =~ ^[A-Za-z0-9.+~-]+$ ]] || fail "version $1: want letters, digits, dots, dashes"
[[ -x $2 ]] || fail "binary $2: not an executable file; make build makes one"
binary=$(realpath "$2")
mkdir -p "$3"
out=$(realpath "$3")
for tool in tar:tar xz:xz-utils go:golang sha256sum:coreutils; do
	command -v "${tool%%:*}" >/dev/null || fail "${tool%%:*} is missing: install ${tool##*:}"
done
: "${SOURCE_DATE_EPOCH:=$(git -C "$top" log -1 --format=%ct)}"
arch=$(cd "$top" && go version -m "$binary" | sed -n 's/.*\tGOARCH=//p')
name=colod-$version-linux-$arch

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
root=$stage/$name
install -D -m 755 "$binary" "$root/bin/colod"
install -d "$root/systemd" "$root/completions" "$root/man"
install -m 644 "$top/LICENSE" "$root/LICENSE"
install -m 644 "$top/docs/install.md" "$root/INSTALL.md"
install -m 644 "$top"/deploy/systemd/colod.{service,sysusers,tmpfiles} "$root/systemd/"
install -D -m 755 "$top/deploy/ocf/colod" "$root/ocf/colod"
install -D -m 644 "$top/deploy/libvirt/domain.xml" "$root/libvirt/domain.xml"
"$binary" config example >"$root/colod.yaml.example"
for shell in bash zsh fish; do
	"$binary" completion "$shell" >"$root/completions/colod.$shell"
done
cd "$top"
go run ./deploy/manpages -date "@$SOURCE_DATE_EPOCH" "$binary" "$root/man"
go run ./deploy/sbom -version "$version" -date "$SOURCE_DATE_EPOCH" "$binary" >"$root/colod.cdx.json"
cp "$root/colod.cdx.json" "$out/colod-$version.cdx.json"
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" --format=gnu \
	-C "$stage" -c "$name" | xz -T1 "-${COLOD_XZ_LEVEL:-6}" >"$out/$name.tar.xz"
cd "$out"
sha256sum "$name.tar.xz" "colod-$version.cdx.json" >SHA256SUMS
echo "$out/$name.tar.xz"
