//! What is said of the server afterwards: that it runs on, that it was stopped as somebody wanted, or that it went through
//! crash recovery.

use std::fs;
use std::thread;

use postgres::NoTls;
use serde_json::Value;

use crate::harness::{DEADLINE, How, Run, Server, Stuck, server_with_testext, wait_for};
use crate::report::Report;

/// Who lasts as long as the server is told by its memory; a title has names of anybody's choice in it.
#[test]
fn a_session_called_checkpointer_is_none() {
    let builder = Server::builder().setting("cluster_name", "checkpointer");
    let server = server_with_testext!(builder);
    let mut elsewhere = server.config();
    let mut elsewhere = elsewhere.dbname("template1").connect(NoTls).unwrap();
    for role in ["checkpointer", "background writer"] {
        let sql = format!("CREATE ROLE \"{role}\" SUPERUSER LOGIN");
        elsewhere.batch_execute(&sql).unwrap();
        // As long as a session in the database to be copied is on its way out, it cannot be.
        let sql = format!("CREATE DATABASE \"{role}\" TEMPLATE postgres");
        wait_for(DEADLINE, "the database shall be copied", || {
            elsewhere.batch_execute(&sql).ok()
        });
    }
    drop(elsewhere);
    let cases = [
        ("checkpointer", "postgres"),
        ("postgres", "checkpointer"),
        ("background writer", "background writer"),
        ("postgres", "postgres"),
    ];
    for (user, database) in cases {
        let as_named = |config: &mut postgres::Config| {
            config.user(user).dbname(database);
        };
        let stuck = server.stuck_as(as_named, "SELECT pgpoke_spin()");
        stuck.prove_stuck(How::Terminate);
        let report = Report::of(&["interrupt", "--yes"], stuck.pid());
        report
            .assert_outcome("terminated", 0)
            .assert_at("/server_restarted", false)
            .assert_at("/server_stopped", false);
        stuck.assert_terminated();
    }
    server.assert_unharmed();
}

/// A fast shutdown that hangs on the stuck backend.
fn begin_to_stop(server: &Server, stuck: &Stuck) {
    stuck.prove_stuck(How::Terminate);
    server.postmaster().send(libc::SIGINT);
    let pid_file = server.data_directory().join("postmaster.pid");
    wait_for(DEADLINE, "the shutdown shall begin", || {
        let text = fs::read_to_string(&pid_file).ok()?;
        (text.lines().nth(7)?.trim() == "stopping").then_some(())
    });
    assert!(stuck.backend().is_alive() && server.postmaster().is_alive());
}

#[track_caller]
pub(crate) fn has_stopped_in_good_order(server: &Server) {
    wait_for(DEADLINE, "the server shall be stopped", || {
        (!server.postmaster().is_alive()).then_some(())
    });
    let log = server.log();
    assert!(log.contains("database system is shut down"), "{log}");
    assert!(server.signs_of_a_crash().is_empty(), "{log}");
}

fn a_shutdown_goes_on(call: &str, args: &[&str]) {
    let server = server_with_testext!();
    let stuck = match call {
        "FIFO" => server.stuck_on_fifo(),
        call => server.stuck(&format!("SELECT {call}")),
    };
    begin_to_stop(&server, &stuck);
    let report = Report::of(&[&["interrupt", "--yes"], args].concat(), stuck.pid());
    report
        .assert_outcome("terminated", 0)
        .assert_at("/server_restarted", false)
        .assert_at("/server_stopped", true);
    let consequences = report.at("/consequences").to_string();
    assert!(consequences.contains("was told to stop"), "{}", report.run);
    has_stopped_in_good_order(&server);
}

macro_rules! shutdowns {
    ($($name:ident: $call:literal $(, $arg:literal)*;)+) => {
        mod a_shutdown_goes_on_that_hung_on {
            $(
                #[test]
                fn $name() {
                    super::a_shutdown_goes_on($call, &[$($arg),*]);
                }
            )+
        }
    };
}

shutdowns! {
    a_loop: "pgpoke_spin()";
    a_sleeper: "pgpoke_sleep()", "--terminate", "--grace", "10ms";
    a_fifo: "FIFO", "--cancel", "--grace", "10ms";
    a_latch: "pgpoke_latch()", "--terminate", "--grace", "10ms";
}

/// What a person reads.
#[test]
fn the_end_of_a_shutdown_is_told_as_that() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    begin_to_stop(&server, &stuck);
    let run = Run::pgpoke(["interrupt", "--yes", &stuck.pid().to_string()]);
    run.assert_code(0)
        .assert_says("terminated")
        .assert_says("was stopped in good order, as it was asked to before");
    assert!(!run.to_string().contains("CRASH"), "{run}");
    has_stopped_in_good_order(&server);
}

/// Another session is killed meanwhile, and takes all others with it.
#[test]
fn a_crash_is_told_as_one() {
    let server = server_with_testext!();
    server.expect_crash();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    let other = server.stuck("SELECT pgpoke_sleep()");
    let pid = stuck.pid();
    let interrupt = thread::spawn(move || {
        Report::of(&["interrupt", "--yes", "--cancel", "--grace", "60s"], pid)
    });
    wait_until_told(&stuck, &interrupt);
    other.backend().send(libc::SIGKILL);
    let report = interrupt.join().expect("its report");
    report
        .assert_outcome("crashed", 9)
        .assert_at("/server_restarted", true)
        .assert_at("/server_stopped", false);
    is_back(&server);
}

/// Waits until the signal that pgpoke sends is pending.
fn wait_until_told<T>(stuck: &Stuck, interrupt: &thread::JoinHandle<T>) {
    let pid = format!("\"pid\": {},", stuck.pid());
    wait_for(DEADLINE, "the signal shall be pending", || {
        assert!(!interrupt.is_finished(), "it obeyed");
        // Without a stop, which the other one would meet.
        let run = Run::pgpoke(["list", "--stuck", "--json"]);
        run.stdout.contains(&pid).then_some(())
    });
}

fn is_back(server: &Server) {
    wait_for(DEADLINE, "the server shall be back", || {
        server.config().connect(NoTls).ok()
    });
}

/// Somebody else loses patience while pgpoke waits.
#[test]
fn one_that_is_killed_meanwhile_has_not_obeyed() {
    for how in How::BOTH {
        // One each: what the first had written last may be lost in its crash.
        let server = server_with_testext!();
        server.expect_crash();
        let stuck = server.stuck("SELECT pgpoke_spin()");
        let pid = stuck.pid();
        let args = ["interrupt", "--yes", how.option(), "--grace", "60s"];
        let interrupt = thread::spawn(move || Report::of(&args, pid));
        wait_until_told(&stuck, &interrupt);
        stuck.backend().send(libc::SIGKILL);
        let report = interrupt.join().expect("its report");
        report
            .assert_outcome("crashed", 9)
            .assert_at("/exit_status", Value::Null)
            .assert_at("/server_restarted", true);
        report.run.assert_says("killed by SIGKILL");
        is_back(&server);
    }
}

/// So it is at the prompt.
#[test]
fn one_that_is_killed_at_the_prompt_has_not_obeyed() {
    for how in How::BOTH {
        // One each: what the first had written last may be lost in its crash.
        let server = server_with_testext!();
        server.expect_crash();
        let stuck = server.stuck("SELECT pgpoke_spin()");
        let pid = stuck.pid().to_string();
        let args = ["interrupt", how.option(), "--grace", "50ms", &pid];
        let run = Run::pgpoke_asking(args, |_, _| {
            stuck.backend().send(libc::SIGKILL);
            wait_for(DEADLINE, "it shall be gone", || {
                (!stuck.backend().is_alive()).then_some(())
            });
            "y\n".into()
        });
        run.assert_code(9).assert_says("CRASH RECOVERY");
        is_back(&server);
    }
}

/// A postmaster that does not get to notice has not let it go; how the backend ended is known all the same.
#[test]
fn one_that_is_killed_behind_a_stopped_postmaster_has_not_obeyed() {
    let server = server_with_testext!();
    server.expect_crash();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    let pid = stuck.pid();
    let args = ["interrupt", "--yes", "--terminate", "--grace", "60s"];
    let interrupt = thread::spawn(move || Report::of(&args, pid));
    wait_until_told(&stuck, &interrupt);
    server.postmaster().send(libc::SIGSTOP);
    stuck.backend().send(libc::SIGKILL);
    let report = interrupt.join();
    server.postmaster().send(libc::SIGCONT);
    report
        .expect("its report")
        .assert_outcome("crashed", 9)
        .assert_at("/server_restarted", Value::Null);
    is_back(&server);
}
