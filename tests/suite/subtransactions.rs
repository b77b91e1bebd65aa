//! Subtransactions: an ERROR on the way into one or out of it is caught by whoever ends another one than was begun.

use crate::harness::{DEADLINE, How, Installation, Server, built, server_with_testext, wait_for};
use crate::report::Report;

/// PL/pgSQL gets there a million times a second, and nothing tells which of its instructions those are.
#[test]
fn the_own_code_of_a_language_that_starts_them_is_a_risk_to_a_cancel() {
    let server = Server::builder().start();
    let sql =
        "DO $$ BEGIN LOOP BEGIN EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$";
    let busy = server.stuck_when(sql, |b| b.cpu_ticks() > 5);
    let report = wait_for(DEADLINE, "it shall be in PL/pgSQL's own code", || {
        let report = Report::of(&["inspect"], busy.pid());
        // Its callback is called at the end of a subtransaction, which is another matter.
        let own = ["/stack/0/module", "/stack/1/module"].map(|at| report.at(at).to_string());
        let inside = own.iter().all(|module| module.contains("plpgsql.so"));
        inside.then_some(report)
    });
    report
        .assert_verdict("pointless")
        .assert_verdict_if("risky", "safe");
    assert_eq!(
        report.checks_that("warn"),
        ["subtransaction"],
        "{}",
        report.run
    );
    busy.backend().assert_running_untraced();
    // It is well: only an interrupt in such a place would have done harm.
    let cancel = ["interrupt", "--yes", "--terminate", "--grace", "10s"];
    Report::of(&cancel, busy.pid()).assert_outcome("obeyed-signal", 0);
    server.assert_unharmed();
}

/// With assertions, which watch the way out.
#[test]
fn a_terminate_in_the_middle_of_an_end_rolls_everything_back() {
    let installation = built!(Installation::cassert());
    let server = server_with_testext!(Server::builder().installation(installation));
    let mut observer = server.connect();
    observer
        .batch_execute("CREATE TABLE seen (n int)")
        .expect("a table");
    let sql = "BEGIN; INSERT INTO seen VALUES (1); SELECT pgpoke_subtransaction()";
    let stuck = server.stuck(sql);
    stuck.prove_stuck(How::Terminate);
    let refused = ["interrupt", "--yes", "--wait", "100ms"];
    Report::of(&refused, stuck.pid()).assert_outcome("refused", 3);
    stuck.backend().assert_running_untraced();
    let allowed = ["interrupt", "--yes", "--allow", "subtransaction"];
    let report = Report::of(&allowed, stuck.pid());
    report.assert_outcome("terminated", 0);
    let accepted = "a terminate is risky here, which is allowed (subtransaction)";
    let steps = report.at("/steps").to_string();
    assert!(steps.contains(accepted), "{}", report.run);
    stuck.assert_terminated();
    let rows = observer.query("SELECT n FROM seen", &[]).expect("a count");
    assert!(rows.is_empty(), "{rows:?}");
    server.assert_unharmed();
}
