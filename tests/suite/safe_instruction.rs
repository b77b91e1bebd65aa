//! Backends that are hardly ever at a safe instruction: `pgpoke interrupt` looks until it meets one, and time after
//! time the session is as good as new.

use std::sync::mpsc;
use std::thread;

use postgres::NoTls;

use crate::harness::{Backend, DEADLINE, Server, server_with_testext, wait_for};
use crate::report::Report;

const ROUNDS: u32 = 100;

/// One session gets stuck in `call` and is cancelled, [`ROUNDS`] times over.
fn is_freed_time_after_time(server: &Server, call: &str, allow: &[&str]) {
    let (notice, notices) = mpsc::channel();
    let mut config = server.config();
    config.notice_callback(move |n| {
        let _ = notice.send(n.message().to_owned());
    });
    let mut session = config.connect(NoTls).expect("a session");
    let pid: i32 = session
        .query_one("SELECT pg_backend_pid()", &[])
        .expect("the backend's PID")
        .get(0);
    let backend = Backend::open(pid).expect("the backend's process");
    let mut looks = Vec::new();
    for round in 0..ROUNDS {
        looks.push(thread::scope(|scope| {
            let statement = scope.spawn(|| session.simple_query(&format!("SELECT {call}")));
            wait_for(DEADLINE, "it shall get stuck", || {
                let stuck = |n: String| n.ends_with("is stuck from here on");
                notices.try_recv().ok().filter(|n| stuck(n.clone()))
            });
            // The NOTICE itself ends with a look at the flags; past that it computes.
            let ticks = backend.cpu_ticks();
            wait_for(DEADLINE, "it shall compute", || {
                (backend.cpu_ticks() > ticks + 1).then_some(())
            });
            // The signal comes first, and the backend has time to obey; it does not, or this would not be the outcome.
            let args = [
                "interrupt",
                "--yes",
                "--cancel",
                "--grace",
                "20ms",
                "--wait",
                "60s",
            ];
            let report = Report::of(&[&args[..], allow].concat(), pid);
            report.assert_outcome("cancelled", 0);
            let error = statement.join().expect("no panic").expect_err("cancelled");
            let code = error.code().map(|c| c.code());
            assert_eq!(code, Some("57014"), "round {round}: {error}");
            report.at("/attempts").as_u64().expect("a number")
        }));
        let sum: i64 = session
            .query_one(
                "SELECT sum(length(repeat('x', n))) FROM generate_series(1, 500) n",
                &[],
            )
            .expect("a session that works")
            .get(0);
        assert_eq!(sum, 125_250);
        session
            .batch_execute(
                "DO $$ BEGIN PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; END $$",
            )
            .expect("errors and their handling");
    }
    looks.sort_unstable();
    println!(
        "{call}: {} looks at the median, {} at most",
        looks[looks.len() / 2],
        looks[looks.len() - 1]
    );
    server.assert_unharmed();
}

#[test]
fn a_loop_of_palloc_is_freed_a_hundred_times() {
    let server = server_with_testext!();
    is_freed_time_after_time(&server, "pgpoke_palloc()", &[]);
}

#[test]
fn a_loop_of_malloc_is_freed_a_hundred_times() {
    let server = server_with_testext!();
    is_freed_time_after_time(&server, "pgpoke_malloc()", &[]);
}

#[test]
fn a_loop_of_malloc_beside_another_thread_is_freed_a_hundred_times() {
    let server = server_with_testext!();
    is_freed_time_after_time(&server, "pgpoke_malloc_threads()", &["--allow", "threads"]);
}
