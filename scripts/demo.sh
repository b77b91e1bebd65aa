#!/usr/bin/env bash
# Two backends get stuck on a throwaway server: one ignores pg_cancel_backend(), one pg_terminate_backend().
# Both are inspected and freed, and the server does not notice. Run it by `make demo`, which builds what it needs.
#
# Everything lives in one temporary directory, and is gone when this ends, however it ends. The exit status is 0
# only if everything came about as it is told here.
set -euo pipefail
cd "$(dirname "$0")/.."

# How long a backend is given to obey. One that obeys takes milliseconds.
patience=2
# How long anything else may take before the demonstration is called off.
deadline=20

pg_config=${PG_CONFIG:-/usr/lib/postgresql/15/bin/pg_config}
command -v "$pg_config" >/dev/null || pg_config=pg_config
bindir=$("$pg_config" --bindir)
pgpoke=$PWD/${CARGO_TARGET_DIR:-target}/release/pgpoke
case ${CARGO_TARGET_DIR:-} in /*) pgpoke=$CARGO_TARGET_DIR/release/pgpoke ;; esac
library=testext/pgpoke_test.so

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' plain=$'\e[0m'
else
    bold='' dim='' red='' plain=''
fi

fail() {
    printf '\n%sdemo: %s%s\n' "$red" "$*" "$plain" >&2
    exit 1
}

# What is going on, for the reader.
tell() {
    printf '\n%s%s%s\n' "$dim" "$1" "$plain"
    shift
    for line; do printf '%s%s%s\n' "$dim" "$line" "$plain"; done
}

# Shows a command as one would type it, and runs it. Its output is shown, and kept in $output.
run() {
    local word shown='' status=0
    for word; do
        case $word in
            *[!A-Za-z0-9_./:=@%+,-]*) shown+=" \"$word\"" ;;
            *) shown+=" $word" ;;
        esac
    done
    printf '\n%s$%s%s\n' "$bold" "$shown" "$plain"
    output=$("$@" 2>&1) || status=$?
    printf '%s\n' "$output"
    return $status
}

# Waits until a command succeeds.
wait_for() {
    local what=$1 end=$((SECONDS + deadline))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || fail "waited $deadline s in vain: $what"
        sleep 0.05
    done
}

for needed in "$pgpoke" "$library" "$bindir/postgres" "$bindir/psql"; do
    [ -e "$needed" ] || fail "$needed is missing: run make demo, which builds and installs what is needed"
done

# ---- A server of our own ----

# Nothing of the caller's settings reaches it, and no locale that this machine may not have.
while IFS= read -r name; do unset "$name"; done < <(compgen -e PG || true)
export LC_ALL=C PAGER=cat PSQLRC=/dev/null

dir=''
cleanup() {
    local status=$?
    trap '' INT TERM HUP PIPE
    trap - EXIT
    [ -n "$dir" ] || exit "$status"
    if [ -e "$dir/data/postmaster.pid" ]; then
        as_server "$bindir/pg_ctl" -D "$dir/data" -m immediate -t 15 stop >/dev/null 2>&1 || true
    fi
    for session in $(jobs -pr); do kill "$session" 2>/dev/null || true; done
    rm -rf "$dir"
    exit "$status"
}
trap cleanup EXIT
trap 'fail "this went wrong: $BASH_COMMAND"' ERR
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
dir=$(mktemp -d /tmp/pgpoke-demo.XXXXXX)

# PostgreSQL refuses to run as root.
as_server() {
    if [ "$(id -u)" -eq 0 ]; then
        setpriv --reuid pgpoke-test --regid pgpoke-test --clear-groups -- "$@"
    else
        "$@"
    fi
}
if [ "$(id -u)" -eq 0 ]; then chown pgpoke-test:pgpoke-test "$dir"; fi
chmod 755 "$dir"
install -m 755 "$library" "$dir/pgpoke_test.so"
cd "$dir"

# Where Yama is set to 1 or higher, being the same user is not enough to look into a process.
poke=(pgpoke)
yama=$(cat /proc/sys/kernel/yama/ptrace_scope 2>/dev/null || echo 0)
if [ "$(id -u)" -ne 0 ] && [ "$yama" -gt 0 ]; then poke=(sudo "$pgpoke"); fi

as_server "$bindir/initdb" -D "$dir/data" -A trust -U postgres --locale=C -E UTF8 --no-sync >"$dir/initdb.log" 2>&1 ||
    fail "initdb: $(cat "$dir/initdb.log")"
cat >>"$dir/data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$dir'
fsync = off
logging_collector = off
log_line_prefix = '%m [%p] '
CONF
as_server "$bindir/pg_ctl" -D "$dir/data" -l "$dir/log" -w -t "$deadline" start >"$dir/start.log" 2>&1 ||
    fail "the server did not start: $(cat "$dir/start.log" "$dir/log" 2>/dev/null)"

export PATH=$bindir:${pgpoke%/*}:$PATH
export PGHOST=$dir PGUSER=postgres PGDATABASE=postgres
ask() { psql -Atqc "$1"; }

ask "CREATE FUNCTION pgpoke_spin() RETURNS void AS '$dir/pgpoke_test.so' LANGUAGE C; CREATE TABLE lines (line text)"
as_server mkfifo "$dir/fifo"

postmaster=$(head -n 1 "$dir/data/postmaster.pid")
started=$(ask "SELECT pg_postmaster_start_time()")

# Runs a file of statements in a session in the background. Its backend's PID is then in $pid.
session() {
    printf '\n%s$ cat %s.sql%s\n%s\n' "$bold" "$1" "$plain" "$(cat "$1.sql")"
    printf '%s$ psql <%s.sql >%s.out 2>&1 &%s\n' "$bold" "$1" "$1" "$plain"
    PGAPPNAME=$1 psql <"$1.sql" >"$1.out" 2>&1 &
    wait_for "$1.sql shall run" backend_of "$1"
    pid=$(backend_of "$1")
}
backend_of() {
    ask "SELECT pid FROM pg_stat_activity WHERE application_name = '$1' AND state = 'active'" | grep .
}
# It sleeps, and not just for a moment.
sleeps() {
    grep -q '^State:.S' "/proc/$pid/status" && sleep 0.3 && grep -q '^State:.S' "/proc/$pid/status"
}

# The signal has arrived, a while has passed, and the statement still runs: nothing else would prove that it was ignored.
prove_ignored() {
    local signal=$1 before=$2 pending
    pending=$(awk '/^(SigPnd|ShdPnd):/ { print $2 }' "/proc/$pid/status")
    for set in $pending; do
        [ $((0x$set >> (signal - 1) & 1)) -eq 0 ] || fail "signal $signal has not even been delivered to process $pid"
    done
    [ "$(statement_start)" = "$before" ] || fail "process $pid obeyed, so there is nothing to demonstrate"
}
statement_start() {
    ask "SELECT query_start FROM pg_stat_activity WHERE pid = $pid AND state = 'active'"
}
activity="SELECT state, wait_event, now() - query_start AS runs_for, query FROM pg_stat_activity WHERE pid ="

# ---- Act 1: a cancel that is ignored ----

cat >spin.sql <<'SQL'
SELECT pgpoke_spin();
SELECT 'the same session goes on' AS word, pg_backend_pid();
SELECT pg_sleep(3);
SQL
tell "A throwaway server runs in $dir, and pgpoke_spin() is a function of an extension" \
    "there: a loop that never checks for interrupts."
session spin
wait_for "the backend shall be inside pgpoke_spin()" grep 'is stuck from here on' spin.out
before=$(statement_start)

tell "Process $pid now computes for ever. We cancel it, as one does. PostgreSQL says t: the signal was sent."
run psql -c "SELECT pg_cancel_backend($pid)" || fail "psql failed"
[ "$(sed -n 3p <<<"$output")" = " t" ] || fail "pg_cancel_backend() did not return t"
sleep "$patience"
tell "$patience seconds later:"
run psql -c "$activity $pid" || fail "psql failed"
prove_ignored 2 "$before"

tell "It runs on. Why? And would it be safe to step in?"
run "${poke[@]}" inspect "$pid" || fail "pgpoke did not find it safe (exit status $?)"

tell "SAFE, so we step in. --yes, as nobody is here to confirm it."
run "${poke[@]}" interrupt --yes "$pid" || fail "pgpoke did not free the backend (exit status $?)"
wait_for "the cancelled session shall run its next statement" grep 'the same session goes on' spin.out

tell "What the client saw is an ordinary cancel, and its next statement ran in the same backend:"
run cat spin.out
grep -q '^ERROR:  canceling statement due to user request$' <<<"$output" || fail "the client did not get the usual error"
grep -q " the same session goes on | *$pid\$" <<<"$output" || fail "the session went on in another process"

# ---- Act 2: a terminate that is ignored ----

echo "COPY lines FROM '$dir/fifo';" >copy.sql
tell "No extension is needed to get stuck. This waits until somebody opens a FIFO for writing:"
session copy
wait_for "the backend shall wait for the FIFO" sleeps
before=$(statement_start)

tell "This time we terminate the whole session. The answer is t again."
run psql -c "SELECT pg_terminate_backend($pid)" || fail "psql failed"
[ "$(sed -n 3p <<<"$output")" = " t" ] || fail "pg_terminate_backend() did not return t"
sleep "$patience"
tell "$patience seconds later:"
run psql -c "$activity $pid" || fail "psql failed"
prove_ignored 15 "$before"

tell "Process $pid is still there. So again:"
run "${poke[@]}" inspect "$pid" || fail "pgpoke did not find it safe (exit status $?)"
run "${poke[@]}" interrupt --yes "$pid" || fail "pgpoke did not free the backend (exit status $?)"
gone() { [ ! -e "/proc/$pid" ]; }
wait_for "process $pid shall be gone" gone
wait $! || true

tell "What this client saw. (The lines after the first are what psql always says when its session is terminated.)"
run cat copy.out
grep -q '^FATAL:  terminating connection due to administrator command$' <<<"$output" ||
    fail "the client did not get the usual message"

# ---- And the others? ----

tell "Nobody else noticed. The server is still the one that was started at the beginning:"
run psql -c "SELECT pg_postmaster_start_time()" || fail "psql failed"
[ "$(ask "SELECT pg_postmaster_start_time()")" = "$started" ] || fail "the server was restarted: it started at $started"
[ "$(head -n 1 data/postmaster.pid)" = "$postmaster" ] || fail "this is another postmaster"
run cat log
! grep -E 'terminated by signal|reinitializing|not properly shut down|PANIC|exit code 2' log >/dev/null ||
    fail "the server's log tells of a crash"

tell "That is all. The server and its directory go away now."
