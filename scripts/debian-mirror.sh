#!/usr/bin/env bash
# Prints the address of the Debian mirror that this machine's apt is set up with: for scripts that make lists of sources of
# their own. Fails, and says what is missing, where there is none.
#
#   debian-mirror.sh             the packages of a release
#   debian-mirror.sh --security  their security updates
set -euo pipefail

release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
[ "${1:-}" != --security ] || release=$release-security
found=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Identifier: Packages' 2>/dev/null |
    awk -v release="$release" '$2 == release { print $1; exit }' || true)
if [ -z "$found" ]; then
    echo "debian-mirror: apt has no source of packages for \"$release\" (see sources.list(5))" >&2
    exit 1
fi
echo "${found%/}"
