//! What one look cannot tell: whether interrupts are let go again, and which of two functions loops.

use crate::harness::{How, Run, Server, server_with_testext};
use crate::report::Report;

/// Interrupts are held off at most moments, and let go on each turn: that is no wait for ever, and it can be ended.
#[track_caller]
fn lets_go_on_each_turn(call: &str, how: How) {
    // How often it is met at a free moment is not to hang on what else runs.
    let server = server_with_testext!(Server::builder().alone());
    let stuck = server.stuck(&format!("SELECT {call}"));
    stuck.prove_stuck(how);
    let (mut held, mut free) = (0, 0);
    for _ in 0..20 {
        let report = Report::of(&["inspect"], stuck.pid());
        report.assert_at("/cause/code", "cpu-loop");
        assert!(
            !report.text("/cause/summary").contains("does not come back"),
            "{}",
            report.run
        );
        match report.at("/interrupts/interrupt_holdoff_count").as_u64() {
            Some(0) => free += 1,
            _ => held += 1,
        }
        if report.at("/verdict") == "pointless" {
            report.assert_advises("pgpoke interrupt");
        }
    }
    assert!(free > held, "{free} of 20 at a free moment");
    let report = Report::of(&["interrupt", "--yes", "--wait", "60s"], stuck.pid());
    let outcome = match how {
        How::Cancel => "cancelled",
        How::Terminate => "terminated",
    };
    report.assert_outcome(outcome, 0);
    match how {
        How::Cancel => stuck.assert_cancelled(),
        How::Terminate => stuck.assert_terminated(),
    }
    server.assert_unharmed();
}

#[test]
fn an_lwlock_taken_and_released_on_each_turn() {
    lets_go_on_each_turn("pgpoke_lwlock_turns()", How::Cancel);
}

#[test]
fn a_buffer_locked_and_unlocked_on_each_turn() {
    lets_go_on_each_turn("pgpoke_buffer_turns()", How::Terminate);
}

/// What holds interrupts off for good is said to do so only after a second thought, which costs no stop.
#[test]
fn what_never_lets_go_is_told_after_many_moments() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_hold()");
    stuck.prove_stuck(How::Cancel);
    let report = Report::of(&["inspect"], stuck.pid());
    report
        .assert_verdict("pointless")
        .assert_at("/cause/code", "interrupts-held-off")
        .assert_at("/samples", serde_json::Value::Null)
        .assert_stopped_for_a_moment();
    let summary = report.text("/cause/summary");
    assert!(summary.contains("at each of 101 moments"), "{summary}");
    let run = Run::pgpoke([
        "interrupt",
        "--yes",
        "--wait",
        "300ms",
        &stuck.pid().to_string(),
    ]);
    run.assert_code(5).assert_says("and so at each of");
}

/// The caller of shm_mq_receive() is the one who loops, and the one who is named.
#[test]
fn a_loop_around_a_function_of_the_server() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_queue()");
    stuck.prove_stuck(How::Cancel);
    for _ in 0..10 {
        let report = Report::of(&["inspect"], stuck.pid());
        report.assert_at("/cause/code", "cpu-loop");
        let summary = report.text("/cause/summary");
        assert!(
            summary.starts_with("pgpoke_queue() in pgpoke_test.so "),
            "{}",
            report.run
        );
    }
    let report = Report::of(&["inspect", "--samples", "100"], stuck.pid());
    let summary = report.text("/cause/summary");
    assert!(
        summary.starts_with("pgpoke_queue() in pgpoke_test.so computes"),
        "{}",
        report.run
    );
    server.assert_unharmed();
}
