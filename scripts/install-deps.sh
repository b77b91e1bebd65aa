#!/usr/bin/env bash
# Installs what the tests and the demo need on Debian 12, and makes the user that their servers run as.
# Says and does nothing when nothing is missing. Needs root, or sudo.
#
#   install-deps.sh           all of it: other versions of PostgreSQL, builds of our own, and images take half an hour
#   install-deps.sh --demo    what the demo needs: PostgreSQL and a compiler
set -euo pipefail

pg=15
server=postgresql-$pg
headers=postgresql-server-dev-$pg
languages=(postgresql-plpython3-$pg postgresql-plperl-$pg postgresql-pltcl-$pg)
tools=(build-essential strace gdb elfutils debuginfod dwz procps util-linux curl ca-certificates unzip podman runc mmdebstrap
    musl musl-dev musl-tools busybox-static
    man-db groff mandoc zsh fish rpm cpio jq sudo)
# Each knows where its packages are; whoever has them by other ways keeps those.
command -v npm >/dev/null || tools+=(npm)
command -v pip3 >/dev/null || tools+=(python3-pip)
# Extensions that get stuck in ways of their own: languages, clients of other servers, libraries.
extensions=(postgresql-$pg-postgis-3 postgresql-$pg-plr postgresql-$pg-plsh postgresql-$pg-tds-fdw postgresql-$pg-pgmp
    postgresql-$pg-pgmemcache postgresql-$pg-pgrouting postgresql-$pg-pllua python3-numpy)
server_user=pgpoke-test

demo=false
if [ "${1:-}" = --demo ]; then
    demo=true
    languages=()
    extensions=()
    tools=(build-essential procps util-linux)
fi

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        echo "install-deps: root or sudo is needed for: $*" >&2
        exit 1
    fi
}

apt() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" >/dev/null
}

# The version of an installed package; nothing if it is not there, or not wholly.
installed() {
    { dpkg-query --show --showformat='${db:Status-Status} ${Version}\n' "$1" 2>/dev/null || true; } | sed -n 's/^installed //p'
}

# Is that very version to be had?
available() {
    apt-cache madison "$1" | awk -v want="$2" '$3 == want { found = 1 } END { exit !found }'
}

candidate() {
    apt-cache policy "$1" | sed -n 's/^  Candidate: //p'
}

# No cluster may appear, and none may start, because someone ran the tests. A drop-in file is the mildest way
# to say so: the administrator's own settings stay as they are, and it is gone again right after.
dropin=/etc/postgresql-common/createcluster.d/zz-no-cluster-for-tests.conf
without_new_cluster() {
    trap 'as_root rm -f "$dropin"' EXIT
    as_root mkdir -p "${dropin%/*}"
    echo "create_main_cluster = false" | as_root tee "$dropin" >/dev/null
    "$@"
    as_root rm -f "$dropin"
    trap - EXIT
}

missing=()
for package in "${tools[@]}"; do
    [ -n "$(installed "$package")" ] || missing+=("$package")
done
have=$(installed "$server")
postgres_missing=false
for package in "$headers" "${languages[@]}"; do
    if [ -z "$have" ] || [ "$(installed "$package")" != "$have" ]; then
        postgres_missing=true
    fi
done

if $postgres_missing || [ ${#missing[@]} -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "install-deps: no apt-get here; install by hand: $server $headers ${languages[*]} ${missing[*]}" >&2
        exit 1
    fi
    echo "install-deps: installing what is missing ..." >&2
    apt update
fi

if [ ${#missing[@]} -gt 0 ]; then
    apt install --no-install-recommends "${missing[@]}"
fi

if $postgres_missing; then
    # Server, headers and languages of one version: PostgreSQL's structures may change within a major version, at
    # their ends. A server that is installed already stays as it is, if headers for it can be had.
    version=$have
    if [ -z "$version" ] || ! available "$headers" "$version"; then
        version=$(candidate "$server")
    fi
    packages=("$server=$version" "$headers=$version" "${languages[@]/%/=$version}")
    if [ -z "$have" ]; then
        # Owns the directory of the drop-in file, so it comes first.
        apt install --no-install-recommends postgresql-common
        without_new_cluster apt install --no-install-recommends "${packages[@]}"
    else
        apt install --no-install-recommends "${packages[@]}"
    fi
fi

# After the server: they depend on it, in whatever version.
missing=()
for package in "${extensions[@]}"; do
    [ -n "$(installed "$package")" ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "install-deps: installing extensions ..." >&2
    apt update
    apt install --no-install-recommends "${missing[@]}"
fi

# PostgreSQL refuses to run as root, so tests that run as root need an account for servers, one that means nothing else.
if ! id "$server_user" >/dev/null 2>&1; then
    as_root useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$server_user"
fi

! $demo || exit 0

# PostgreSQL with DWARF, with assertions, and on musl: what needs it is skipped, loudly, where it is not to be had.
scripts=$(dirname "$0")
"$scripts/build-postgres.sh" || echo "install-deps: tests on builds with DWARF or assertions, or on musl, will be skipped" >&2

# Other versions, and other people's builds.
"$scripts/fetch-postgres.sh" || echo "install-deps: tests on some versions of PostgreSQL will be skipped" >&2

# Debian 13 and sid with their PostgreSQL, and the one on musl, as images: what needs them is skipped, loudly, where they are not to be had.
as_root "$scripts/build-containers.sh" || echo "install-deps: tests in containers will be skipped" >&2

# The fuzzers, likewise.
"$scripts/fuzz.sh" --install || echo "install-deps: the fuzzers will not run" >&2

# What makes the packages.
"$scripts/packages.sh" --install || echo "install-deps: tests of the packages will be skipped" >&2
