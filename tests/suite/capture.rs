//! Captures the snapshots in `tests/fixtures` on a real server: `make fixtures`.

use std::path::Path;
use std::time::Duration;

use pgpoke::postgres::prove;
use pgpoke::process::Process;
use pgpoke::snapshot::{Plan, Snapshot};
use pgpoke::tracee::{StopBudget, TraceError, Tracee};

use crate::harness::{DEADLINE, How, Installation, Server, Stuck, wait_for};
use crate::matrix::{in_each_state, long_division};

/// File, statement, what is sent first.
const SCENARIOS: &[(&str, &str, Option<How>)] = &[
    ("spin", "SELECT pgpoke_spin()", None),
    ("spin-cancel", "SELECT pgpoke_spin()", Some(How::Cancel)),
    (
        "spin-terminate",
        "SELECT pgpoke_spin()",
        Some(How::Terminate),
    ),
    ("sleep-cancel", "SELECT pgpoke_sleep()", Some(How::Cancel)),
    ("read-cancel", "SELECT pgpoke_read()", Some(How::Cancel)),
    ("latch-cancel", "SELECT pgpoke_latch()", Some(How::Cancel)),
    (
        "handlers-cancel",
        "SELECT pgpoke_handlers('own')",
        Some(How::Cancel),
    ),
    (
        "blocked-cancel",
        "SELECT pgpoke_blocked()",
        Some(How::Cancel),
    ),
    (
        "hold-terminate",
        "SELECT pgpoke_hold()",
        Some(How::Terminate),
    ),
    (
        "crit-terminate",
        "SELECT pgpoke_crit()",
        Some(How::Terminate),
    ),
    (
        "lwlock-held-cancel",
        "SELECT pgpoke_lwlock_hold('builtin', true)",
        Some(How::Cancel),
    ),
    // The one before holds it.
    (
        "lwlock-wait-terminate",
        "SELECT pgpoke_lwlock_wait('builtin', false)",
        Some(How::Terminate),
    ),
    (
        "lwlock-terminate",
        "SELECT pgpoke_lwlock()",
        Some(How::Terminate),
    ),
    (
        "spinlock-terminate",
        "SELECT pgpoke_spinlock()",
        Some(How::Terminate),
    ),
    (
        "handler-loop-cancel",
        "SELECT pgpoke_handler_loop()",
        Some(How::Cancel),
    ),
    ("stdio-cancel", "SELECT pgpoke_stdio()", Some(How::Cancel)),
    ("qsort-cancel", "SELECT pgpoke_qsort()", Some(How::Cancel)),
    (
        "spinlock-held-terminate",
        "SELECT pgpoke_spinlock_held()",
        Some(How::Terminate),
    ),
    (
        "poll-cancel",
        "SELECT pgpoke_wait('poll')",
        Some(How::Cancel),
    ),
    (
        "child-cancel",
        "SELECT pgpoke_wait('child')",
        Some(How::Cancel),
    ),
    (
        "cplusplus-cancel",
        "SELECT pgpoke_cplusplus()",
        Some(How::Cancel),
    ),
    ("catch-cancel", "SELECT pgpoke_catch()", Some(How::Cancel)),
];

/// Rows of the matrix that are captured above or below already, under names of their own.
const NAMED: &[&str] = &[
    "spin",
    "sleep",
    "read",
    "latch",
    "handlers_replaced",
    "signals_blocked",
    "held_off",
    "critical_section",
    "lwlock",
    "signal_handler",
    "callback_of_libc",
    "spinlock",
    "spinlock_held",
    "stdio",
    "fifo",
    "numeric_division",
    "idle",
    "lock_wait",
];

/// Takes a snapshot as `pgpoke inspect` does, handlers included.
fn take(pid: i32) -> Snapshot {
    let process = Process::open(pid).unwrap();
    let backend = prove(&process).unwrap();
    let plan = Plan::new(&backend);
    let mut tracee = Tracee::seize(&process, &StopBudget::default()).unwrap();
    let stopped = tracee.stop(Duration::from_secs(5));
    if let Err(TraceError::WouldNotStop { .. }) = stopped {
        drop(stopped);
        drop(tracee);
        return plan.that_would_not_stop();
    }
    let mut stopped = stopped.unwrap();
    let capture = plan.capture(&stopped).unwrap();
    let answers = plan.ask_for_handlers(&capture, &mut stopped);
    let stood_still = stopped.stopped_for();
    stopped.keep();
    drop(tracee);
    let mut snapshot = plan.interpret(&capture, true, stood_still);
    plan.add_answers(&mut snapshot, answers.as_ref());
    plan.look_up_syscall(&mut snapshot);
    plan.find_blockers(&mut snapshot);
    snapshot
}

/// A row's file.
fn file_of(row: &str, cancelled: bool) -> String {
    let name = row.replace('_', "-");
    if cancelled { name + "-cancel" } else { name }
}

/// Whether to capture this one: all, or those that the environment names, as in `PGPOKE_FIXTURES=spin,idle`.
fn wanted(name: &str) -> bool {
    std::env::var("PGPOKE_FIXTURES").map_or(true, |names| names.split(',').any(|n| n == name))
}

fn write(name: &str, pid: i32) {
    if wanted(name) {
        save(name, take(pid));
    }
}

fn save(name: &str, mut snapshot: Snapshot) {
    // As `interrupt --cancel` sees it: only who sent a signal knows that it was sent.
    if name.starts_with("handlers-") {
        snapshot.signals.sent = Some(1 << (libc::SIGINT - 1));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}.json"));
    // Where testext was built is no one's business.
    for frame in snapshot.stack.iter_mut().flat_map(|s| &mut s.frames) {
        if let Some(file) = &mut frame.file
            && let Some(at) = file.rfind("/testext/")
        {
            *file = format!("/pgpoke{}", &file[at..]);
        }
    }
    let text = serde_json::to_string_pretty(&snapshot).unwrap();
    std::fs::write(path, text + "\n").unwrap();
}

#[test]
#[ignore = "writes tests/fixtures; run by make fixtures"]
fn capture_the_fixtures() {
    // Most of them go on being stuck until the end.
    let server = Server::builder().setting("max_connections", "100").start();
    server.install_testext();
    let capture = |name: &str, stuck: Stuck, how: Option<How>| {
        if let Some(how) = how {
            stuck.prove_stuck(how);
        }
        write(name, stuck.pid());
    };
    // Those before go on being stuck: some of them are what the later ones wait for.
    for (name, sql, how) in SCENARIOS.iter().filter(|(name, ..)| wanted(name)) {
        capture(name, server.stuck(sql), *how);
    }
    let mut owner = server.connect();
    owner.batch_execute("CREATE TABLE locked ()").unwrap();
    let lock = "BEGIN; LOCK TABLE locked IN SHARE MODE";
    owner.batch_execute(lock).unwrap();
    let waiter = server.stuck_when("ALTER TABLE locked ADD c int", |backend| {
        backend.syscall() == Some(libc::SYS_epoll_wait)
    });
    write("lock-wait", waiter.pid());
    capture("fifo-cancel", server.stuck_on_fifo(), Some(How::Cancel));
    in_each_state(
        &server,
        |row| {
            !NAMED.contains(&row) && (wanted(&file_of(row, true)) || wanted(&file_of(row, false)))
        },
        |row, cancelled, pid| write(&file_of(row, cancelled), pid),
    );
    capture_foreign_code(&server);
    if wanted("division-cancel") {
        // In a function of the server's that has no name, and not in what that calls.
        let division = server.stuck_when(&long_division(), |b| b.cpu_ticks() > 30);
        division.prove_stuck(How::Cancel);
        let snapshot = wait_for(DEADLINE, "it shall divide", || {
            let snapshot = take(division.pid());
            let innermost = &snapshot.stack.as_ref()?.frames[0];
            let nameless = innermost.function.is_none() && innermost.callers.is_some();
            nameless.then_some(snapshot)
        });
        save("division-cancel", snapshot);
    }
    let mut idle = server.connect();
    let pid: i32 = idle
        .query_one("SELECT pg_backend_pid()", &[])
        .unwrap()
        .get(0);
    write("idle", pid);
    capture_on_musl();
}

/// Where no call-frame information leads out of the C library.
fn capture_on_musl() {
    let Some(musl) = Installation::musl() else {
        panic!("PostgreSQL was not built on musl: run scripts/build-postgres.sh");
    };
    let server = Server::builder().installation(musl).start();
    server.install_testext();
    for (name, stuck) in [
        ("musl-spin-cancel", server.stuck("SELECT pgpoke_spin()")),
        ("musl-fifo-cancel", server.stuck_on_fifo()),
    ] {
        stuck.prove_stuck(How::Cancel);
        write(name, stuck.pid());
    }
}

/// Language runtimes and client libraries, of PostgreSQL's own packages.
fn capture_foreign_code(server: &Server) {
    let peer = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let setup = "CREATE EXTENSION plpython3u; CREATE EXTENSION dblink;
        CREATE FUNCTION python() RETURNS void LANGUAGE plpython3u AS $$\nimport time\ntime.sleep(3600)\n$$";
    server.connect().batch_execute(setup).unwrap();
    let port = peer.local_addr().unwrap().port();
    let dblink = format!("SELECT dblink_connect('host=127.0.0.1 dbname=x user=x port={port}')");
    for (name, sql, call) in [
        (
            "python-cancel",
            "SELECT python()",
            libc::SYS_clock_nanosleep,
        ),
        ("dblink-cancel", dblink.as_str(), libc::SYS_poll),
    ] {
        let stuck = server.stuck_when(sql, |b| b.syscall() == Some(call));
        stuck.prove_stuck(How::Cancel);
        write(name, stuck.pid());
    }
}
