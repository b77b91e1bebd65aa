//! `pgpoke interrupt` where it may act: a backend that ignores a cancel or a terminate does as it
//! was told, once, and nobody else notices; and nothing is done that nobody asked for.

use std::time::Duration;

use serde_json::json;

use crate::harness::{
    Backend, DEADLINE, How, Run, Server, Stuck, server_with_testext, skip, wait_for,
};
use crate::report::Report;

/// Interrupts, and asserts that all went as it should.
#[track_caller]
fn interrupt(server: &Server, stuck: &Stuck, how: How, args: &[&str]) -> Report {
    let args = [&["interrupt", "--yes"], args].concat();
    let report = Report::of(&args, stuck.pid());
    match how {
        How::Cancel => report
            .assert_outcome("cancelled", 0)
            .assert_at("/exit_status", serde_json::Value::Null),
        How::Terminate => report
            .assert_outcome("terminated", 0)
            .assert_at("/exit_status", 1),
    };
    report.assert_at("/server_restarted", false);
    assert!(report.at("/attempts").as_u64() >= Some(1), "{}", report.run);
    assert!(report.at("/call_ms").as_f64() > Some(0.0), "{}", report.run);
    match how {
        How::Cancel => is_cancelled(stuck),
        How::Terminate => stuck.assert_terminated(),
    }
    server.assert_unharmed();
    report
}

/// The statement was cancelled, and the session is as good as new.
#[track_caller]
fn is_cancelled(stuck: &Stuck) {
    stuck.assert_cancelled();
    is_usable(stuck);
}

/// The session runs statements, errors and their handling among them.
#[track_caller]
fn is_usable(stuck: &Stuck) {
    stuck.backend().assert_running_untraced();
    for round in 0..3 {
        let pid = stuck.run_follow_up("SELECT pg_backend_pid()");
        assert_eq!(pid, Ok(vec![vec![Some(stuck.pid().to_string())]]));
        let caught = "DO $$ BEGIN FOR n IN 1..100 LOOP
                          BEGIN PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; END;
                      END LOOP; END $$";
        assert_eq!(stuck.run_follow_up(caught), Ok(vec![]));
        let failure = stuck.run_follow_up("SELECT 1 / 0").expect_err("an error");
        assert_eq!(failure.code(), "22012");
        let table = format!(
            "CREATE TEMP TABLE follow_up_{round} AS SELECT n FROM generate_series(1, 10000) n"
        );
        assert_eq!(stuck.run_follow_up(&table), Ok(vec![]));
        let sum = stuck.run_follow_up(&format!(
            "SELECT sum(n), string_agg(repeat(n::text, 10), '' ORDER BY n DESC) IS NULL FROM follow_up_{round}"
        ));
        let row = ["50005000", "f"].map(|value| Some(value.to_owned()));
        assert_eq!(sum, Ok(vec![row.to_vec()]));
    }
    stuck.backend().assert_running_untraced();
}

/// It is as stuck as before, and nothing was left in it.
#[track_caller]
fn is_untouched(server: &Server, stuck: &Stuck) {
    stuck.backend().assert_running_untraced();
    stuck.prove_stuck(How::Cancel);
    server.assert_unharmed();
}

#[track_caller]
fn assert_flags(pid: i32, cancel: bool, terminate: bool) {
    Report::of(&["inspect", "--passive"], pid).assert_flags(cancel, terminate);
}

/// A backend that computes, or waits, and whose flags the signals have set.
fn frees(server: &Server, how: How, sql: &str, args: &[&str]) {
    let stuck = match sql {
        "FIFO" => server.stuck_on_fifo(),
        sql => server.stuck(&format!("SELECT {sql}")),
    };
    stuck.prove_stuck(how);
    interrupt(server, &stuck, how, args);
}

macro_rules! frees {
    ($($name:ident: $sql:literal $(, $arg:literal)*;)+) => {
        mod frees_a_backend_stuck_in {
            use super::*;
            $(
                #[test]
                fn $name() {
                    let server = server_with_testext!();
                    for how in How::BOTH {
                        frees(&server, how, $sql, &[$($arg),*]);
                    }
                }
            )+
        }
    };
}

frees! {
    spin: "pgpoke_spin()";
    sleep: "pgpoke_sleep()";
    read: "pgpoke_read()";
    latch: "pgpoke_latch()";
    usr1_on_another_stack: "pgpoke_usr1('altstack')";
    callback_of_libc: "pgpoke_qsort()";
    deep_recursion: "pgpoke_deep(5000)";
    // Safe instructions are rare here, and the processors may be busy.
    malloc: "pgpoke_malloc()", "--wait", "60s";
    palloc: "pgpoke_palloc()", "--wait", "60s";
    fifo: "FIFO";
}

/// The signals set no flag: whoever asks for it gets it all the same.
fn sets_the_flags(server: &Server, how: How, call: &str) {
    let stuck = server.stuck(&format!("SELECT {call}"));
    stuck.prove_stuck(how);
    assert_flags(stuck.pid(), false, false);
    // What is pending is nothing, so without being asked it does nothing.
    let report = Report::of(&["interrupt", "--yes"], stuck.pid());
    report.assert_outcome("pointless", 5);
    stuck.backend().assert_running_untraced();
    assert_flags(stuck.pid(), false, false);
    interrupt(server, &stuck, how, &[how.option(), "--grace", "100ms"]);
}

macro_rules! sets_the_flags {
    ($($name:ident: $call:literal;)+) => {
        mod sets_the_flags_that_signals_did_not_set_with {
            use super::*;
            $(
                #[test]
                fn $name() {
                    let server = server_with_testext!();
                    for how in How::BOTH {
                        sets_the_flags(&server, how, $call);
                    }
                }
            )+
        }
    };
}

sets_the_flags! {
    handlers_ignored: "pgpoke_handlers('ignore')";
    handlers_replaced: "pgpoke_handlers('own')";
    signals_blocked: "pgpoke_blocked()";
}

/// Nobody has asked the backend for anything yet: the signal is sent first, and only then looked.
#[test]
fn asked_for_it_sends_the_signal_and_steps_in_after_the_grace() {
    let server = server_with_testext!();
    for how in How::BOTH {
        let stuck = server.stuck("SELECT pgpoke_spin()");
        let report = interrupt(&server, &stuck, how, &[how.option(), "--grace", "700ms"]);
        assert!(
            report.run.elapsed >= Duration::from_millis(700),
            "{}",
            report.run
        );
    }
}

#[test]
fn a_pending_cancel_stays_a_cancel_unless_asked() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    interrupt(&server, &stuck, How::Cancel, &[]);
    let again = server.stuck("SELECT pgpoke_spin()");
    again.prove_stuck(How::Cancel);
    interrupt(
        &server,
        &again,
        How::Terminate,
        &["--terminate", "--grace", "0s"],
    );
}

#[test]
fn nothing_is_invented() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    let (run, calls) =
        Run::pgpoke_traced(["interrupt", "--yes", "--json", &stuck.pid().to_string()]);
    let report = Report::read(run, stuck.pid());
    report
        .assert_outcome("pointless", 5)
        .assert_at("/verdict", "pointless")
        .assert_advises("--cancel")
        .assert_advises("--terminate");
    calls.assert_no_signal_but_usr1();
    assert_flags(stuck.pid(), false, false);
    is_untouched(&server, &stuck);
}

/// pg_sleep() looks at its interrupts.
#[test]
fn a_backend_that_obeys_is_not_touched() {
    let server = Server::start();
    let sleeping = |backend: &Backend| backend.syscall() == Some(libc::SYS_epoll_wait);
    for how in How::BOTH {
        let well = server.stuck_when("SELECT pg_sleep(3600)", sleeping);
        let pid = well.pid().to_string();
        let (run, calls) = Run::pgpoke_traced(["interrupt", how.option(), "--yes", "--json", &pid]);
        let report = Report::read(run, well.pid());
        report
            .assert_outcome("obeyed-signal", 0)
            .assert_at("/attempts", 0)
            .assert_at("/server_restarted", false);
        assert!(calls.ptrace.is_empty(), "{calls:#?}");
        assert_eq!(calls.signals.len(), 1, "{calls:#?}");
        match how {
            How::Cancel => is_cancelled(&well),
            How::Terminate => well.assert_terminated(),
        }
        server.assert_unharmed();
    }
}

#[test]
fn an_idle_session_has_nothing_to_cancel() {
    let server = Server::start();
    let mut session = server.connect();
    let pid: i32 = session
        .query_one("SELECT pg_backend_pid()", &[])
        .unwrap()
        .get(0);
    let backend = Backend::open(pid).expect("the backend");
    wait_for(DEADLINE, "the backend shall wait for its client", || {
        (backend.syscall() == Some(libc::SYS_epoll_wait)).then_some(())
    });
    let (run, calls) =
        Run::pgpoke_traced(["interrupt", "--cancel", "--yes", "--json", &pid.to_string()]);
    let report = Report::read(run, pid);
    report
        .assert_outcome("pointless", 5)
        .assert_at("/cause/code", "idle");
    calls.assert_no_signal_but_usr1();
    backend.assert_running_untraced();
    let one: i32 = session.query_one("SELECT 1", &[]).unwrap().get(0);
    assert_eq!(one, 1);
    server.assert_unharmed();
}

#[test]
fn a_dry_run_sends_and_changes_nothing() {
    let server = server_with_testext!();
    // What is pending, what is asked for, and what would come of it.
    type Row = (
        &'static str,
        Option<How>,
        &'static [&'static str],
        &'static str,
        i32,
    );
    let rows: [Row; 7] = [
        ("pgpoke_spin()", Some(How::Cancel), &[], "dry-run", 0),
        ("pgpoke_spin()", None, &["--cancel"], "dry-run", 0),
        ("pgpoke_spin()", None, &["--terminate"], "dry-run", 0),
        ("pgpoke_spin()", None, &[], "pointless", 5),
        ("pgpoke_hold()", None, &["--terminate"], "pointless", 5),
        ("pgpoke_crit()", None, &["--cancel"], "refused", 4),
        ("pgpoke_stdio()", Some(How::Terminate), &[], "refused", 4),
    ];
    for (call, pending, args, outcome, code) in rows {
        let stuck = server.stuck(&format!("SELECT {call}"));
        if let Some(how) = pending {
            stuck.prove_stuck(how);
        }
        let pid = stuck.pid().to_string();
        let all = [&["interrupt", "--dry-run", "--json"], args, &[&pid]].concat();
        let (run, calls) = Run::pgpoke_traced(all);
        Report::read(run, stuck.pid()).assert_outcome(outcome, code);
        calls.assert_no_signal_but_usr1();
        assert_flags(
            stuck.pid(),
            pending == Some(How::Cancel),
            pending == Some(How::Terminate),
        );
        is_untouched(&server, &stuck);
        // One less to share the processors with, where that can be done.
        if outcome == "dry-run" {
            interrupt(
                &server,
                &stuck,
                How::Terminate,
                &["--terminate", "--grace", "0s"],
            );
        }
    }
}

#[test]
fn without_a_terminal_and_without_yes_nothing_is_done() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    let pid = stuck.pid().to_string();
    for args in [&["--cancel"][..], &["--terminate"], &[]] {
        let (run, calls) = Run::pgpoke_traced([&["interrupt"], args, &[&pid]].concat());
        run.assert_code(2)
            .assert_says("--yes")
            .assert_says("hint: ");
        calls.assert_none();
    }
    assert_flags(stuck.pid(), false, false);
    is_untouched(&server, &stuck);
}

/// The prompt says who is hit and what will happen, and only a clear yes is one.
#[test]
fn on_a_terminal_it_asks() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    let pid = stuck.pid().to_string();
    for answer in ["n\n", "\n", "no\n", "what?\n", "\u{4}"] {
        let run = Run::pgpoke_on_a_terminal(["interrupt", &pid], answer);
        run.assert_code(2);
        for said in [
            pid.as_str(),
            "postgres",
            "SELECT pgpoke_spin()",
            "canceling statement due to user request",
            "not known",
        ] {
            run.assert_says(said);
        }
        stuck.backend().assert_running_untraced();
        assert_flags(stuck.pid(), true, false);
    }
    is_untouched(&server, &stuck);
    let run = Run::pgpoke_on_a_terminal(["interrupt", &pid], "y\n");
    run.assert_code(0).assert_says("cancelled");
    is_cancelled(&stuck);
    server.assert_unharmed();
}

#[test]
fn it_looks_for_a_safe_instruction_for_as_long_as_it_may() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_handler_loop()");
    stuck.prove_stuck(How::Cancel);
    for (wait, at_least) in [("0s", 0), ("1500ms", 1500)] {
        let report = Report::of(&["interrupt", "--yes", "--wait", wait], stuck.pid());
        report.assert_outcome("refused", 4);
        let at_least = Duration::from_millis(at_least);
        let elapsed = report.run.elapsed;
        assert!(
            elapsed >= at_least && elapsed < at_least + Duration::from_secs(15),
            "{}",
            report.run
        );
        let looks = report.at("/attempts").as_u64().expect("a number");
        assert_eq!(looks > 1, wait != "0s", "{}", report.run);
    }
    is_untouched(&server, &stuck);
}

/// The error is raised, and caught: the statement goes on, and so does the backend.
#[test]
fn an_error_that_is_swallowed_is_no_success() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_swallow()");
    stuck.prove_stuck(How::Cancel);
    let report = Report::of(&["interrupt", "--yes", "--timeout", "1s"], stuck.pid());
    report
        .assert_outcome("returned", 5)
        .assert_at("/swallowed", true)
        .assert_at("/exit_status", serde_json::Value::Null)
        .assert_at("/server_restarted", false);
    let elapsed = report.run.elapsed;
    assert!(
        elapsed >= Duration::from_secs(1) && elapsed < Duration::from_secs(20),
        "{}",
        report.run
    );
    stuck.backend().assert_running_untraced();
    // The cancel is used up.
    assert_flags(stuck.pid(), false, false);
    is_untouched(&server, &stuck);
    // A FATAL error gets through.
    stuck.prove_stuck(How::Terminate);
    interrupt(&server, &stuck, How::Terminate, &[]);
}

/// A second thread allocates beside it: that is a risk to be accepted by its name.
#[test]
fn a_warning_is_accepted_by_its_name() {
    let server = server_with_testext!();
    for how in How::BOTH {
        let stuck = server.stuck("SELECT pgpoke_malloc_threads()");
        stuck.prove_stuck(how);
        for args in [&[][..], &["--allow", "server-code"]] {
            let args = [&["interrupt", "--yes", "--wait", "60s"], args].concat();
            let report = Report::of(&args, stuck.pid());
            report
                .assert_outcome("refused", 3)
                .assert_at("/verdict", "risky");
            let detail = report.text("/outcome_detail");
            assert!(detail.contains("threads"), "{}", report.run);
            stuck.backend().assert_running_untraced();
            stuck.prove_stuck(how);
        }
        interrupt(
            &server,
            &stuck,
            how,
            &["--allow", "threads", "--wait", "60s"],
        );
    }
}

/// DROP DATABASE waits until every backend has seen a barrier, one in a tight loop among them.
#[test]
fn a_barrier_is_accepted_and_the_loop_goes_on() {
    let server = server_with_testext!();
    if server.installation().major() < 15 {
        skip!("DROP DATABASE waits for a barrier from 15 on");
    }
    server
        .connect()
        .batch_execute("CREATE DATABASE to_be_dropped")
        .unwrap();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    let drop = server.stuck_when("DROP DATABASE to_be_dropped", |_| true);
    let event = || -> Option<String> {
        let sql = "SELECT wait_event FROM pg_stat_activity WHERE pid = $1";
        server
            .connect()
            .query_one(sql, &[&drop.pid()])
            .unwrap()
            .get(0)
    };
    drop.wait_until("DROP DATABASE shall wait for the barrier", DEADLINE, |_| {
        event().as_deref() == Some("ProcSignalBarrier")
    });
    // The signal was sent before that; the loop may not have had the processor since.
    stuck.wait_until("the signal shall arrive", DEADLINE, |backend| {
        !backend.is_pending(libc::SIGUSR1)
    });
    let ticks = stuck.backend().cpu_ticks();
    stuck.wait_until("the loop shall go on", DEADLINE, |backend| {
        backend.cpu_ticks() > ticks + 1
    });
    Report::of(&["inspect"], stuck.pid())
        .assert_verdict("safe")
        .assert_verdict_if("safe", "safe")
        .assert_at("/cause/code", "barrier-ignored")
        .assert_at("/interrupts/proc_signal_barrier_pending", true);
    assert_eq!(event().as_deref(), Some("ProcSignalBarrier"));

    Report::of(&["interrupt", "--yes"], stuck.pid())
        .assert_outcome("barrier-accepted", 0)
        .assert_at("/exit_status", serde_json::Value::Null)
        .assert_at("/server_restarted", false);
    assert_eq!(drop.result(), Ok(vec![]));
    Report::of(&["inspect"], stuck.pid())
        .assert_verdict("pointless")
        .assert_at("/interrupts/proc_signal_barrier_pending", false)
        .assert_at("/cause/evidence/0", json!("no interrupt is pending"));
    is_untouched(&server, &stuck);
}

/// From the stop to the outcome: a debugger takes some 450 ms.
#[test]
fn a_cancel_of_a_tight_loop_takes_less_than_2_ms() {
    let server = server_with_testext!(Server::builder().alone());
    let mut times: Vec<f64> = (0..10)
        .map(|_| {
            let stuck = server.stuck("SELECT pgpoke_spin()");
            stuck.prove_stuck(How::Cancel);
            let report = Report::of(&["interrupt", "--yes"], stuck.pid());
            report.assert_outcome("cancelled", 0);
            assert_eq!(stuck.result().expect_err("a cancel").code(), "57014");
            report.at("/call_ms").as_f64().expect("milliseconds")
        })
        .collect();
    times.sort_by(f64::total_cmp);
    assert!(times[times.len() / 2] < 2.0, "{times:?} ms");
    server.assert_unharmed();
}
