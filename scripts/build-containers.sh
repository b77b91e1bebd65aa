#!/usr/bin/env bash
# Makes the images for the tests in containers: Debian 13's PostgreSQL 17 and sid's 18, each in a root file system of
# its own; and the PostgreSQL 15 of build-postgres.sh on musl, in one as small as Alpine's: the C library, busybox, and
# the server.
#
#   build-containers.sh                 makes what is missing; says and does nothing when nothing is
#   build-containers.sh --image SUITE   prints the name of a finished image (SUITE: trixie, sid or musl)
#
# Pinned by suite: Debian keeps no older packages of a suite, so a version cannot be. The file systems are kept in a cache
# beside the repository; the images are podman's. Needs root.
set -euo pipefail

suites=(trixie sid musl) # the last only where it was built
packages=postgresql
cache=/var/cache/pgpoke-tests
scripts=$(realpath "$(dirname "$0")")

# The programs of the server on musl.
on_musl() {
    "$(dirname "$0")/build-postgres.sh" --where musl
}

on_musl >/dev/null 2>&1 || suites=(trixie sid)

# What a root file system is made of.
contents_of() {
    case $1 in
        musl) echo "$(on_musl) $(dpkg-query --show musl busybox-static 2>/dev/null) $(sed -n '/^make_musl/,/^}/p' "$0")" ;;
        *) echo "$packages" ;;
    esac
}

# Anew when what is in it changes.
name_of() {
    local key
    key=$(printf '%s\n' "$1" "$(contents_of "$1")" | sha256sum | cut -c 1-8)
    root=$cache/root-$1-$key.tar
    image=localhost/pgpoke-tests:$1-$key
}

there() {
    command -v podman >/dev/null && podman image exists "$1" 2>/dev/null
}

if [ "${1:-}" = --image ]; then
    name_of "${2:?which suite?}"
    there "$image" || exit 1
    echo "$image"
    exit
fi

fail() {
    [ -z "${log:-}" ] || [ ! -s "$log" ] || tail -n 40 "$log" >&2
    echo "build-containers: $*" >&2
    exit 1
}

missing() {
    todo=()
    for suite in "${suites[@]}"; do
        name_of "$suite"
        there "$image" || todo+=("$suite")
    done
    [ ${#todo[@]} -gt 0 ]
}
missing || exit 0

[ "$(id -u)" -eq 0 ] || fail "root is needed to make images"
for program in podman runc mmdebstrap; do
    command -v "$program" >/dev/null || fail "no $program here"
done

mkdir -p "$cache"
chmod 755 "$cache"
# One at a time. Whoever had to wait finds the work done.
exec 9>"$cache/containers.lock"
flock 9
missing || exit 0

work=$(mktemp -d "$cache/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
log=$work/log

# The server's user is Alpine's; so is the place of its sockets.
make_musl() {
    local server top=$1/top
    server=$(on_musl) || return
    mkdir -p "$top"/{bin,lib,etc,proc,sys,dev,tmp,root,run,usr/local,var/lib,var/log} || return
    chmod 1777 "$top/tmp" || return
    ln -s ../run "$top/var/run" || return
    cp -L /bin/busybox "$top/bin/" || return
    cp -L /lib/ld-musl-x86_64.so.1 "$top/lib/" || return
    cp -r "${server%/bin}"/{bin,lib,share} "$top/usr/local/" || return
    rm -rf "$top"/usr/local/lib/{pgxs,pkgconfig,*.a} || return
    for name in $(/bin/busybox --list); do
        [ -e "$top/bin/$name" ] || ln -s busybox "$top/bin/$name" || return
    done
    printf '%s\n' root:x:0:0:root:/root:/bin/sh postgres:x:70:70::/var/lib/postgresql:/bin/sh >"$top/etc/passwd" || return
    printf '%s\n' root:x:0: postgres:x:70: >"$top/etc/group" || return
    tar -C "$top" --owner=0 --group=0 --numeric-owner -cf "$1/root.tar" . && rm -rf "$top"
}

for suite in "${todo[@]}"; do
    name_of "$suite"
    if [ "$suite" = musl ] && [ ! -e "$root" ]; then
        echo "build-containers: making a root file system with musl ..." >&2
        make_musl "$work" >"$log" 2>&1 9>&- || fail "no root file system with musl"
        mv "$work/root.tar" "$root"
    fi
    if [ ! -e "$root" ]; then
        echo "build-containers: making a root file system of Debian $suite with PostgreSQL, some minutes ..." >&2
        # A mirror may be a snapshot, whose lists are past their date; they are signed all the same.
        mmdebstrap --variant=minbase --include="$packages" --aptopt='Acquire::Check-Valid-Until "false"' \
            "$suite" "$work/root.tar" "$("$scripts/debian-mirror.sh")" >"$log" 2>&1 9>&- || fail "no root file system of Debian $suite"
        # No one may find half of it.
        mv "$work/root.tar" "$root"
    fi
    echo "build-containers: importing $image ..." >&2
    podman import -q "$root" "$image" >"$log" 2>&1 9>&- || fail "podman cannot import $root"
done
