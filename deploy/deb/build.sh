#!/bin/bash
# Builds colod's Debian package from a finished binary.
#
#   deploy/deb/build.sh VERSION BINARY OUTDIR
#
# prints the package's path. Equal inputs and SOURCE_DATE_EPOCH (default: the
# time of the last commit) give equal bytes. VERSION is a Debian version or
# what git describe says; a leading v is dropped.
set -euo pipefail
umask 022
export LC_ALL=C TZ=UTC

fail() { echo "build.sh: $*" >&2; exit 1; }
[[ $# == 3 ]] || fail "usage: build.sh VERSION BINARY OUTDIR"
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
binary=$2 out=$3

# 1.2.3-4-gabcdef-dirty -> 1.2.3+4.gabcdef.dirty: no dash, that would be a revision.
version=${1#v}
version=${version/-/+}
version=${version//-/.}
[[ $version =~ ^[0-9] ]] || version="0~$version" # a bare commit
[[ $version =~ ^[0-9][A-Za-z0-9.+~]*$ ]] || fail "version $1: want letters, digits, dots, dashes"
[[ -x $binary ]] || fail "binary $binary: not an executable file; make build makes one"
for tool in dpkg-deb:dpkg go:golang gzip:gzip md5sum:coreutils; do
	command -v "${tool%%:*}" >/dev/null || fail "${tool%%:*} is missing: install ${tool##*:}"
done
arch=$(dpkg --print-architecture)
: "${SOURCE_DATE_EPOCH:=$(git -C "$top" log -1 --format=%ct)}"
export SOURCE_DATE_EPOCH

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
doc=$root/usr/share/doc/colod

install -D -m 755 "$binary" "$root/usr/bin/colod"
install -D -m 644 "$top/deploy/systemd/colod.service" "$root/lib/systemd/system/colod.service"
install -D -m 644 "$top/deploy/systemd/colod.sysusers" "$root/usr/lib/sysusers.d/colod.conf"
install -D -m 644 "$top/deploy/systemd/colod.tmpfiles" "$root/usr/lib/tmpfiles.d/colod.conf"
install -D -m 644 "$here/copyright" "$doc/copyright"
install -D -m 644 "$here/lintian-overrides" "$root/usr/share/lintian/overrides/colod"
install -d "$doc/examples"
"$binary" config example >"$doc/examples/colod.yaml"
install -m 644 "$top"/deploy/prometheus/*.yml "$top/deploy/grafana/colod.json" "$top/docs/openapi.yaml" "$top/deploy/libvirt/domain.xml" "$doc/examples/"
install -D -m 755 "$top/deploy/ocf/colod" "$root/usr/lib/ocf/resource.d/colod/colod"

install -d "$root/usr/share/bash-completion/completions" "$root/usr/share/zsh/vendor-completions" \
	"$root/usr/share/fish/vendor_completions.d" "$root/usr/share/man/man1"
"$binary" completion bash >"$root/usr/share/bash-completion/completions/colod"
"$binary" completion zsh >"$root/usr/share/zsh/vendor-completions/_colod"
"$binary" completion fish >"$root/usr/share/fish/vendor_completions.d/colod.fish"
(cd "$top" && go run ./deploy/manpages -date "@$SOURCE_DATE_EPOCH" "$(realpath "$binary")" "$root/usr/share/man/man1")
gzip -9n "$root"/usr/share/man/man1/*.1

cat >"$root/changelog" <<END
colod ($version) unstable; urgency=medium

  * Built from colod $1; the history is in its repository.

 -- colod maintainers <maintainers@colod.example>  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
END
gzip -9nc "$root/changelog" >"$doc/changelog.gz"
rm "$root/changelog"
chmod 644 "$doc"/examples/* "$doc/changelog.gz"

install -d "$root/DEBIAN"
sed -e "s/@VERSION@/$version/" -e "s/@ARCH@/$arch/" \
	-e "s/@SIZE@/$(du -k --apparent-size -s "$root" | cut -f1)/" "$here/control.in" >"$root/DEBIAN/control"
install -m 755 "$here/postinst" "$here/prerm" "$here/postrm" "$root/DEBIAN/"
(cd "$root" && find usr lib -type f -print0 | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

mkdir -p "$out"
deb=$out/colod_${version}_$arch.deb
dpkg-deb --root-owner-group --uniform-compression -Zxz --build "$root" "$deb" >/dev/null
echo "$deb"
