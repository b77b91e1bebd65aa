//! Captures the snapshots in `tests/fixtures` on a real server: `make fixtures`.

use std::path::Path;
use std::time::Duration;

use pgpoke::postgres::prove;
use pgpoke::process::Process;
use pgpoke::snapshot::{Plan, Snapshot};
use pgpoke::tracee::Tracee;

use crate::harness::{How, Server, Stuck};

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
    ("catch-cancel", "SELECT pgpoke_catch()", Some(How::Cancel)),
];

/// Takes a snapshot as `pgpoke inspect` does, handlers included.
fn take(pid: i32) -> Snapshot {
    let process = Process::open(pid).unwrap();
    let backend = prove(&process).unwrap();
    let plan = Plan::new(&backend);
    let mut tracee = Tracee::seize(&process).unwrap();
    let mut stopped = tracee.stop(Duration::from_secs(5)).unwrap();
    let capture = plan.capture(&stopped).unwrap();
    let answers = plan.ask_for_handlers(&capture, &mut stopped);
    let stood_still = stopped.stopped_for();
    stopped.keep();
    drop(tracee);
    let mut snapshot = plan.interpret(&capture, true, stood_still);
    if let Some(Ok(answers)) = answers {
        snapshot.signals.handlers = Some(plan.name_handlers(&answers));
    }
    if let Some(call) = &mut snapshot.process.syscall {
        call.find_target(&process);
    }
    plan.find_blockers(&mut snapshot);
    snapshot
}

/// Whether to capture this one: all, or those that the environment names, as in `PGPOKE_FIXTURES=spin,idle`.
fn wanted(name: &str) -> bool {
    std::env::var("PGPOKE_FIXTURES").map_or(true, |names| names.split(',').any(|n| n == name))
}

fn write(name: &str, pid: i32) {
    if !wanted(name) {
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}.json"));
    let mut snapshot = take(pid);
    // Where testext was built is no one's business.
    for frame in snapshot.stack.iter_mut().flat_map(|s| &mut s.frames) {
        if let Some(file) = frame
            .file
            .as_mut()
            .filter(|f| f.ends_with("/pgpoke_test.c"))
        {
            *file = "/pgpoke/testext/pgpoke_test.c".into();
        }
    }
    let text = serde_json::to_string_pretty(&snapshot).unwrap();
    std::fs::write(path, text + "\n").unwrap();
}

#[test]
#[ignore = "writes tests/fixtures; run by make fixtures"]
fn capture_the_fixtures() {
    let server = Server::start();
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
    let mut idle = server.connect();
    let pid: i32 = idle
        .query_one("SELECT pg_backend_pid()", &[])
        .unwrap()
        .get(0);
    write("idle", pid);
}
