#!/usr/bin/env bash
# PL/R: when statement_timeout expires while R sleeps, the statement ends at once, and not as a cancelled one: the error is
# R's (SQLSTATE 22000), with an empty detail, and nothing says that there was a timeout. pg_cancel_backend() does the same.
#
# R puts a handler of its own before SIGINT for as long as it waits in select() (R_SelectEx(), src/unix/sys-std.c), and
# jumps out of it. PostgreSQL sends SIGINT to itself for a timeout, too (StatementTimeoutHandler(), utils/init/postinit.c),
# and its own handler never hears of it, so that QueryCancelPending stays unset. PL/R turns the jump into
# ereport(ERRCODE_DATA_EXCEPTION). Whoever counts cancelled statements by 57014, or retries by it, misses these.
#
# R jumps out of the server's handler of SIGALRM as well, past its RESUME_INTERRUPTS() (handle_sig_alarm(),
# utils/misc/timeout.c). The error that PL/R raises puts that right. R code that handles the interrupt itself raises none.
#
# Seen with PostgreSQL 15.18, PL/R 8.4.5, R 4.2.2 of Debian 12:
#   ERROR:  22000: R interpreter expression evaluation error
# while pg_sleep() in the same session says
#   ERROR:  57014: canceling statement due to statement timeout
#
# Needs root and mmdebstrap; makes a root file system in a temporary folder, from the mirror that apt is set up with.
set -euo pipefail

packages=postgresql-15=15.18-0+deb12u1,postgresql-client-15=15.18-0+deb12u1,postgresql-15-plr=1:8.4.5-2+b1,r-base-core=4.2.2.20221110-2
mirror=$("$(dirname "$0")/../scripts/debian-mirror.sh")
work=$(mktemp -d)
trap 'chroot "$work/root" pkill postgres 2>/dev/null || true; rm -rf "$work"' EXIT
chmod 755 "$work"
mmdebstrap --quiet --variant=apt --include="$packages,procps" bookworm "$work/root" "$mirror"

run() {
    chroot "$work/root" su postgres -s /bin/sh -c "$1"
}
bin=/usr/lib/postgresql/15/bin
run "$bin/initdb -D /tmp/data -A trust >/dev/null"
run "$bin/pg_ctl -D /tmp/data -o '-k /tmp -c listen_addresses=' -l /tmp/log -w start >/dev/null"
said=$(run "psql -X -A -t -h /tmp postgres" <<'SQL' 2>&1
\set VERBOSITY verbose
CREATE EXTENSION plr;
CREATE FUNCTION sleeps() RETURNS void LANGUAGE plr AS 'Sys.sleep(60)';
SET statement_timeout = '1s';
SELECT sleeps();
SELECT pg_sleep(60);
SQL
)
run "$bin/pg_ctl -D /tmp/data -m fast stop >/dev/null"
printf '%s\n' "$said"
errors=$(grep -E '^(ERROR|psql:.*ERROR)' <<<"$said" | sed 's/^psql:[^ ]* //')
wanted='ERROR:  22000: R interpreter expression evaluation error
ERROR:  57014: canceling statement due to statement timeout'
[ "$errors" = "$wanted" ] || { echo "that has changed" >&2; exit 1; }
