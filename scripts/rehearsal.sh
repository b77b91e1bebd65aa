#!/usr/bin/env bash
# A rehearsal for the night on which it counts: a server in a container, a session that is stuck in a way picked at
# random, and nothing but the README to free it by. `make rehearsal` runs it, and builds the pgpoke in there before.
#
#   rehearsal.sh PROGRAM                        picks a way at random; Ctrl-C gives up
#   rehearsal.sh PROGRAM WAY                    this one: fifo, session, program, stopped, loop or client
#   rehearsal.sh PROGRAM WAY --trainee SCRIPT   a script for the trainee, called with the container and the PID: how the
#                                               tests rehearse; it may say "give up" in its last line
#
# Nothing is left of it, however it ends. The exit status: 0 freed without harm, 1 not freed, 3 freed with harm, 4 nothing
# could be rehearsed here.
set -euo pipefail

program=$(realpath "${1:?which pgpoke?}")
cd "$(dirname "$0")/.."
ways=(fifo session program stopped loop client)
way=${2:-${ways[RANDOM % ${#ways[@]}]}}
trainee=''
[ "${3:-}" != --trainee ] || trainee=$(realpath "${4:?which script?}")

# How long the trainee may take, in seconds, and anything else.
limit=3600
[ -z "$trainee" ] || limit=60
deadline=30

cannot() {
    echo "rehearsal: $*" >&2
    exit 4
}

command -v podman >/dev/null || cannot "podman is needed: run scripts/install-deps.sh"
image=$(./scripts/build-containers.sh --image trixie) ||
    cannot "there is no image of a server: run scripts/install-deps.sh, which takes half an hour once"

container=pgpoke-rehearsal-$$
messages=$(mktemp)
cleanup() {
    podman rm --force --time 0 "$container" >/dev/null 2>&1 || true
    rm -f "$messages"
}
trap cleanup EXIT
trap 'exit 143' TERM HUP

in_there() { podman exec --interactive --user postgres "$container" "$@"; }
ask() { in_there psql -XAtqc "$1" </dev/null 2>"$messages"; }

# Waits until a command succeeds.
wait_for() {
    local what=$1 end=$((SECONDS + deadline))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || cannot "waited $deadline s in vain: $what $(cat "$messages")"
        sleep 0.1
    done
}

# ---- The server, a session that has nothing to do with it, and the one that gets stuck ----

echo "A server starts in a container; one of its sessions will be stuck."
start='
install -d -o postgres -g postgres /var/run/postgresql
mkfifo -m 666 /tmp/fifo
pg_ctlcluster 17 main start
exec sleep 7200'
podman --runtime runc run --detach --network=none --ulimit nofile=20000:20000 --ulimit nproc=1024:1024 \
    --name "$container" --volume "$program:/usr/local/bin/pgpoke:ro" "$image" sh -c "$start" >/dev/null 2>"$messages" ||
    cannot "the container did not start: $(cat "$messages")"
wait_for "the server shall take connections" ask "SELECT 1"
ask "CREATE TABLE import (line text)"

# A third argument is what reads the session's output, if it is not thrown away.
session() {
    in_there sh -c "PGAPPNAME=$1 psql -X -q | ${3:-cat}" >/dev/null 2>&1 <<<"$2" &
    wait_for "the session $1 shall be at work" backend_of "$1"
}
backend_of() { ask "SELECT pid FROM pg_stat_activity WHERE application_name = '$1' AND state = 'active'" | grep .; }

case $way in
    fifo | session) stuck="COPY import FROM '/tmp/fifo';" ;;
    # A cancel goes to the program, too.
    program) stuck="COPY import FROM PROGRAM 'trap \"\" INT; sleep 7000';" ;;
    stopped) stuck="SELECT pg_sleep(7000);" ;;
    # It compares the pattern at each place in the text, and never looks up.
    loop) stuck="SELECT repeat('a', 30000000) LIKE '%' || repeat('a', 1000000) || 'b';" ;;
    client) stuck="COPY (SELECT repeat('x', 1000000) FROM generate_series(1, 10000)) TO STDOUT;" ;;
    *) cannot "no such way to get stuck: $way" ;;
esac
session bystander "SELECT pg_sleep(7200);"
bystander=$(backend_of bystander)
# What the session does next, if it can.
reader=cat
[ "$way" != client ] || reader="sleep 7200"
session import "$stuck
SELECT pg_sleep(7200);" "$reader"
pid=$(backend_of import)
postmaster=$(in_there head -n 1 /var/lib/postgresql/17/main/postmaster.pid)

is_stuck() { [ "$(ask "SELECT count(*) FROM pg_stat_activity WHERE pid = $pid AND query = \$\$$stuck\$\$")" = 1 ]; }
wait_for "the statement shall run" is_stuck
waits_for_client() { [ "$(ask "SELECT wait_event FROM pg_stat_activity WHERE pid = $pid")" = ClientWrite ]; }
[ "$way" != client ] || wait_for "the client shall not read" waits_for_client
[ "$way" != stopped ] || in_there sh -c "kill -STOP $pid"
function=pg_cancel_backend
[ "$way" != session ] || function=pg_terminate_backend
sleep 0.5
answer=$(ask "SELECT $function($pid)")
sleep 2
is_stuck || cannot "it did not get stuck"

cat <<TEXT

A server runs in the container $container. One of its sessions is to be freed:

$(in_there psql -Xqc "SELECT pid, state, wait_event, query FROM pg_stat_activity WHERE pid = $pid")

Somebody has already tried

    SELECT $function($pid);    -- $answer

and seconds later it is still there. All that is needed is in README.md. This gets you in, as the server's own user, with
psql and pgpoke at hand (and the container's PIDs):

    podman exec -it --user postgres $container bash

Free that session, and harm nobody. Ctrl-C here gives up; after $limit seconds it is over.
TEXT

# ---- The trainee's turn ----

running() { podman exec "$container" true >/dev/null 2>&1; }
# Can it be asked at all? Where it starts anew, not for a moment.
up() { ask "SELECT 1" >/dev/null; }

if [ -n "$trainee" ]; then
    said=$(in_there sh -s "$pid" <"$trainee") || echo "rehearsal: the trainee's script failed" >&2
    echo "$said"
fi
gave_up=false
case ${said:-} in *"give up") gave_up=true ;; esac
trap 'gave_up=true' INT
end=$((SECONDS + limit))
while [ "$SECONDS" -lt "$end" ] && ! $gave_up && running; do
    if up && ! is_stuck; then break; fi
    # In the background, so that Ctrl-C is heard at once.
    sleep 0.5 &
    wait $! || true
done
trap 'exit 130' INT

# ---- What came of it ----

echo
echo "Looking at what came of it, and whether anybody was harmed."

verdict() {
    printf '\n%s\n' "$2"
    exit "$1"
}
running || verdict 3 "The container is gone, and the server with it: every session was ended."
for try in 1 2 3 4 5; do up || sleep 1; done
up || verdict 3 "The server does not answer any more: every session was ended."
log=$(podman exec "$container" sh -c 'cat /var/log/postgresql/*.log')
if grep -qE 'server process \(PID [0-9]+\) was terminated by signal|reinitializing|PANIC:' <<<"$log"; then
    verdict 3 "Freed, but at a price: a server process was killed, and the postmaster ended EVERY session and went through
crash recovery. That is what kill -9 does. Try again: pgpoke inspect says what to do instead."
fi
[ "$(in_there head -n 1 /var/lib/postgresql/17/main/postmaster.pid)" = "$postmaster" ] ||
    verdict 3 "The server was restarted: every session was ended."
! is_stuck || verdict 1 "It was not freed. Nothing was harmed either. It was this way to get stuck: $way."
[ "$(backend_of bystander)" = "$bystander" ] || verdict 3 "Freed, but another session was ended, too."
if [ "$way" != session ] && [ "$way" != client ] && [ "$(backend_of import)" != "$pid" ]; then
    verdict 0 "Freed without harm to others. (A cancel would have been enough: the session need not have ended.)"
fi
verdict 0 "Freed without harm: nothing was restarted, and no other session noticed."
