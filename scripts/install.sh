#!/usr/bin/env bash
# Installs pgpoke, its manual page and its completions. `make install` calls it, and so does the packaging.
#
#   install.sh [--strip] PROGRAM PREFIX    PREFIX with DESTDIR before it
#
# No set-user-ID, no file capabilities: whoever could run it then could look into every process of the machine.
set -euo pipefail

strip=()
if [ "${1:-}" = --strip ]; then
    strip=(--strip)
    shift
fi
program=${1:?which program?}
prefix=${2:?where to?}

install -D -m 755 "${strip[@]}" "$program" "$prefix/bin/pgpoke"

# Writes a file that everybody may read.
put() {
    install -D -m 644 /dev/stdin "$prefix/share/$1"
}
# Without a time, so that the same page is the same file.
"$program" man | gzip -9n | put man/man1/pgpoke.1.gz
"$program" completions bash | put bash-completion/completions/pgpoke
"$program" completions zsh | put zsh/site-functions/_pgpoke
"$program" completions fish | put fish/vendor_completions.d/pgpoke.fish
