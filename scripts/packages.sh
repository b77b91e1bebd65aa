#!/usr/bin/env bash
# Makes packages of the static executable, so that one package suits every release of a distribution and needs nothing
# there. `make deb`, `make rpm` and `make image` call it, and build the executable before.
#
#   packages.sh --install         installs cargo-deb and cargo-generate-rpm; says and does nothing if they are there
#   packages.sh deb|rpm PROGRAM   makes target/packages/pgpoke….deb or .rpm
#   packages.sh image PROGRAM     makes the image localhost/pgpoke:VERSION of Containerfile, with podman
#
# What is in them, and where, is in Cargo.toml: package.metadata.deb and package.metadata.generate-rpm.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo=${CARGO:-cargo}
tools=(cargo-deb@3.8.0 cargo-generate-rpm@0.21.1)
version=$(sed -n '/^version/ { s/.*"\(.*\)"/\1/p; q }' Cargo.toml)
staged=target/package
out=target/packages

# Without optimisation: they are run once for a package, and are built in a minute so.
if [ "${1:-}" = --install ]; then
    for tool in "${tools[@]}"; do
        command -v "${tool%@*}" >/dev/null && continue
        echo "packages: installing ${tool%@*} ${tool#*@} ..." >&2
        env -u CARGO_TARGET_DIR "$cargo" install --quiet --locked --debug "$tool"
    done
    exit
fi

kind=${1:?what kind of package?}
program=${2:?of which program?}
mkdir -p "$out"
# One at a time: they are put together in one place.
exec 9>"$out/lock"
flock 9
rm -rf "$staged"
./scripts/install.sh --strip "$program" "$staged"
# Debian wants the changes compressed, and those of the package beside them.
gzip -9n <CHANGELOG.md >"$staged/changelog.gz"
released=$(sed -n "s/^## $version, //p" CHANGELOG.md)
cat >"$staged/changelog.Debian" <<EOF
pgpoke ($version-1) unstable; urgency=medium

  * Version $version; what is in it is in changelog.gz.

 -- pgpoke maintainers <>  $(LC_ALL=C date --utc --date "$released" '+%a, %d %b %Y %T +0000')
EOF

case $kind in
    deb)
        rm -f "$out"/*.deb
        "$cargo" deb --quiet --no-build --no-strip --output "$out/pgpoke_$version-1_amd64.deb"
        ;;
    rpm)
        rm -f "$out"/*.rpm
        # Nothing is required: there is no library in a static executable.
        "$cargo" generate-rpm --auto-req disabled --output "$out/pgpoke-$version-1.x86_64.rpm"
        ;;
    image)
        podman build --quiet --layers=false --network none --build-arg VERSION="$version" --tag "localhost/pgpoke:$version" \
            --file Containerfile "$staged/bin" >/dev/null
        echo "localhost/pgpoke:$version"
        exit
        ;;
    *)
        echo "packages: no such kind: $kind" >&2
        exit 2
        ;;
esac
ls "$out"/*."$kind"
