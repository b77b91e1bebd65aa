#!/usr/bin/env bash
# Builds PostgreSQL from Debian's sources, in four ways that Debian does not ship: with DWARF; with assertions; the same,
# where nothing but the main loop checks for interrupts, so that every statement is stuck in whatever it does; and on
# another C library, musl, as Alpine has it (optimized, stripped, without DWARF).
#
#   build-postgres.sh                 builds what is missing; says and does nothing when nothing is
#   build-postgres.sh --where WAY     prints the directory of the programs of a finished build (WAY: dwarf, cassert, unchecked or musl)
#
# The system is left as it is: apt works on a state and a list of sources of its own, nothing is installed, and the
# builds lie in a cache beside the repository. They are made for the tests: readline, zlib, ICU, OpenSSL, LLVM and the
# documentation are left out, so that a compiler and make are all that is needed.
set -euo pipefail

scripts=$(realpath "$(dirname "$0")")

pg=15
ways=(dwarf cassert unchecked musl)
common=(--without-readline --without-zlib --without-icu)

# Tests that run as root start their servers as another user, who cannot look into root's home.
if [ "$(id -u)" -eq 0 ]; then
    cache=/var/cache/pgpoke-tests
else
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/pgpoke-tests
fi

options_of() {
    case $1 in
        dwarf) options=(--enable-debug "${common[@]}" 'CFLAGS=-O2 -g') ;;
        # A change of the sources follows, see change_unchecked.
        cassert | unchecked) options=(--enable-debug "${common[@]}" 'CFLAGS=-O2 -g' --enable-cassert) ;;
        # As Alpine's gcc does it, with an index of the call-frame information; musl-gcc leaves that out.
        musl) options=("${common[@]}" CC=musl-gcc CFLAGS=-O2 LDFLAGS=-Wl,--eh-frame-hdr) ;;
        *)
            echo "build-postgres: no way to build is called $1" >&2
            exit 2
            ;;
    esac
}

# The version that Debian's own server has here, since the two are compared; any, if there is none. Where a mirror has no
# sources of it (an index may be ahead of what lies there), the newest that it has: then the minor versions differ, which
# every run says, and which is over as soon as the sources can be had.
installed=$(dpkg-query --show --showformat='${db:Status-Status} ${Version}\n' "postgresql-$pg" 2>/dev/null |
    sed -n 's/^installed //p' || true)

# Where a version is built one way. It is there only once it is whole.
place_of() {
    options_of "$1"
    key=$(printf '%s\n' "${options[@]}" | sha256sum | cut -c 1-8)
    place=$cache/postgresql-$2-$1-$key
}

# The build to be used: that of the server's own version, else of the newest that there is.
best_of() {
    place_of "$1" "${installed:-$pg}"
    [ ! -d "$place" ] || return 0
    place=$(compgen -G "$cache/postgresql-$pg.*-$1-$key" | sort -V | tail -n 1)
    [ -n "$place" ]
}

if [ "${1:-}" = --where ]; then
    best_of "${2:?which way?}" || exit 1
    echo "$place/bin"
    exit
fi

# The ways in which a version is not built yet.
missing() {
    todo=()
    for way in "${ways[@]}"; do
        place_of "$way" "$1"
        [ -d "$place" ] || todo+=("$way")
    done
    [ ${#todo[@]} -gt 0 ]
}
some_missing() {
    for way in "${ways[@]}"; do
        best_of "$way" || return 0
    done
    return 1
}
wanted() {
    if [ -n "$installed" ]; then missing "$installed"; else some_missing; fi
}
wanted || exit 0

mkdir -p "$cache"
chmod 755 "$cache"
# One at a time. Whoever had to wait finds the work done.
exec 9>"$cache/lock"
flock 9
wanted || exit 0

work=$(mktemp -d "$cache/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
chmod 755 "$work"
cd "$work"

# Everything a build prints, in case it fails.
fail() {
    [ ! -s "$work/log" ] || tail -n 40 "$work/log" >&2
    echo "build-postgres: $*" >&2
    exit 1
}

# Where there is nothing newer, what there is has to do.
make_do() {
    some_missing && fail "$1"
    place=${place##*/postgresql-}
    echo "build-postgres: $1: the builds here are of ${place%-*-*}, the server is $installed" >&2
    exit 0
}

# ---- The sources ----

echo "build-postgres: fetching the sources of PostgreSQL $pg ..." >&2
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")
mirror=$("$scripts/debian-mirror.sh") || fail "no mirror of Debian, so no sources"
{
    echo "deb-src [signed-by=$keyring] $mirror $codename main"
    echo "deb-src [signed-by=$keyring] $mirror $codename-updates main"
    # Where apt is set up without it, what the release has must do.
    if security=$("$scripts/debian-mirror.sh" --security); then
        echo "deb-src [signed-by=$keyring] $security $codename-security main"
    fi
} >sources.list
mkdir -p state/lists/partial cache/archives/partial
private=(-qq -o "Dir::State=$work/state" -o "Dir::Cache=$work/cache" -o "Dir::Etc::sourcelist=$work/sources.list"
    -o Dir::Etc::sourceparts=- -o APT::Sandbox::User=root)
command -v apt-get >/dev/null || fail "no apt-get here, so no sources"
apt-get "${private[@]}" update >log 2>&1 || make_do "apt-get found no lists of sources"

# An index may already name a version that the mirror does not have yet.
found=''
for version in "$installed" $(apt-cache "${private[@]}" showsrc "postgresql-$pg" 2>>log |
    sed -n 's/^Version: //p' | sort -Vru); do
    [ -n "$version" ] || continue
    [ "$version" = "$installed" ] || missing "$version" || make_do "no sources of ${installed:-it}"
    if apt-get "${private[@]}" --download-only --only-source source "postgresql-$pg=$version" >>log 2>&1; then
        found=$version
        break
    fi
done
[ -n "$found" ] || make_do "no sources of PostgreSQL $pg are to be had"
missing "$found" || exit 0
if [ -n "$installed" ] && [ "$found" != "$installed" ]; then
    echo "build-postgres: no sources of $installed; building $found in its stead" >&2
fi
# As upstream published them: what Debian patches are paths, and its own would lead to its own server.
mkdir source
tar -xf postgresql-"$pg"_*.orig.tar.* -C source --strip-components=1 || fail "the sources could not be unpacked"

# ---- The builds ----

# The server, what makes and talks to one, and what extensions need to be built. Contrib: what tests load.
parts=(src/common src/port src/timezone src/backend src/backend/utils/mb/conversion_procs src/backend/snowball
    src/include src/interfaces/libpq src/fe_utils src/bin/initdb src/bin/pg_ctl src/bin/pg_config src/bin/psql
    src/bin/pgbench src/pl/plpgsql/src src/makefiles config contrib/amcheck contrib/dblink)

build() {
    local final=$1 source=$2 make=(make -s -j2)
    "$source/configure" -q --prefix="$final" "${options[@]}"
    # Makefile.global's own things (pgxs among them) are installed by src/Makefile, whose subdirectories are left out.
    "${make[@]}" -C src/backend generated-headers
    for part in "${parts[@]}"; do
        [ ! -e "$part/Makefile" ] && [ ! -e "$source/$part/Makefile" ] && continue
        "${make[@]}" -C "$part" all
        make -s -C "$part" install DESTDIR="$work/root"
    done
    make -s -C src install-local DESTDIR="$work/root"
}

# Strips it, and gives extensions the kernel's headers, which musl-gcc does not look for.
finish_musl() {
    local headers name
    find "$1" -type f \( -path '*/bin/*' -o -name '*.so*' \) -exec strip --strip-unneeded {} + || return
    headers=$(find "$1/include" -type d -name server) || return
    for name in linux asm asm-generic; do
        ln -s "$(dirname "$(echo '#include <'$name/types.h'>' | cc -E -M -xc - | grep -o "/[^ ]*/$name/types.h")")" \
            "$headers/$name" || return
    done
}

# The macro stays what it is in src/backend/tcop, and does nothing anywhere else.
change_unchecked() {
    local header=$1/src/include/miscadmin.h as_it_was='#define CHECK_FOR_INTERRUPTS() \\$'
    local in_tcop='do { if (strstr(__FILE__, "/tcop/") != NULL) CHECK_AS_IT_WAS(); } while (0)'
    grep -q "^$as_it_was" "$header" &&
        sed -i "s|^$as_it_was|#define CHECK_FOR_INTERRUPTS() $in_tcop\n#define CHECK_AS_IT_WAS() \\\\|" "$header"
}

for way in "${todo[@]}"; do
    place_of "$way" "$found"
    echo "build-postgres: building PostgreSQL $found ($way), a few minutes ..." >&2
    mkdir "$way"
    source=$work/source
    if [ "$way" = unchecked ]; then
        cp -a source source-unchecked
        source=$work/source-unchecked
        change_unchecked "$source" || fail "the sources could not be changed"
    fi
    # Not called in a condition, where an error would go unnoticed.
    status=0
    (cd "$way" && set -e && build "$place" "$source") >log 2>&1 9>&- || status=$?
    [ "$status" -eq 0 ] || fail "PostgreSQL $found ($way) could not be built"
    [ -x "$work/root$place/bin/postgres" ] && [ -x "$work/root$place/bin/initdb" ] || fail "the build ($way) is not whole"
    if [ "$way" = musl ]; then
        finish_musl "$work/root$place" >log 2>&1 || fail "the build ($way) could not be finished"
    fi
    # No one may find half of it.
    mv "$work/root$place" "$place"
    rm -rf "${way:?}" root
done
