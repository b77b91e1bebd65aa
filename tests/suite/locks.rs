//! Locks: which one a backend waits for, in which mode, and who keeps it waiting. PostgreSQL 15 as Debian ships it has
//! none of the symbols that this takes.

use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use serde_json::{Value, json};

use crate::harness::{DEADLINE, How, Server, Stuck, server_with_testext, wait_for};
use crate::report::Report;

/// The wait event of a backend, as the server has it.
#[track_caller]
fn wait_until_it_waits(server: &Server, pid: i32, kind: &str) {
    let mut client = server.connect();
    wait_for(DEADLINE, &format!("{pid} shall wait for a {kind}"), || {
        let row = client.query_one(
            "SELECT coalesce(wait_event_type, '') FROM pg_stat_activity WHERE pid = $1",
            &[&pid],
        );
        let now: String = row.expect("pg_stat_activity").get(0);
        (now == kind).then_some(())
    });
}

fn waiter<'s>(server: &'s Server, which: &str, shared: bool) -> Stuck<'s> {
    let waiter = server.stuck(&format!("SELECT pgpoke_lwlock_wait('{which}', {shared})"));
    wait_until_it_waits(server, waiter.pid(), "LWLock");
    waiter
}

/// Ends every pgpoke_lwlock_hold() of the server.
#[track_caller]
fn let_go(server: &Server) {
    let sql = "SET statement_timeout = '20s'; SELECT pgpoke_let_go()";
    server
        .connect()
        .batch_execute(sql)
        .expect("a word to the holders");
}

/// Somebody holds it, another waits, and is told who; when the holder lets go, both go on.
#[track_caller]
pub fn is_told_who_holds(
    server: &Server,
    which: &str,
    tranche: &str,
    holds_shared: bool,
    wants_shared: bool,
) {
    // So that a process that has nothing to do with it is not taken for the holder.
    let _bystander = server.stuck("SELECT pgpoke_spin()");
    let holder = server.stuck(&format!(
        "SELECT pgpoke_lwlock_hold('{which}', {holds_shared})"
    ));
    let waiter = waiter(server, which, wants_shared);

    // It waits for somebody, whether or not anybody wants it to end.
    let report = Report::of(&["inspect"], waiter.pid());
    report.assert_at("/cause/code", "lwlock-wait");
    report.run.assert_says(&holder.pid().to_string());
    waiter.prove_stuck(How::Terminate);

    let mode = |shared: bool| if shared { "shared" } else { "exclusive" };
    let report = Report::of(&["inspect"], waiter.pid());
    report
        .assert_verdict("pointless")
        .assert_at("/cause/code", "lwlock-wait")
        .assert_at("/locks/lwlocks_held", 0)
        .assert_at("/locks/waiting_for/tranche", tranche)
        .assert_at("/locks/waiting_for/mode", mode(wants_shared))
        .assert_at("/locks/waiting_for/holders", json!([holder.pid()]))
        .assert_advises(&format!("pgpoke inspect {}", holder.pid()));
    let summary = report.text("/cause/summary");
    assert!(
        summary.contains(tranche) && summary.contains(&holder.pid().to_string()),
        "{}",
        report.run
    );

    holder.prove_stuck(How::Cancel);
    let report = Report::of(&["inspect"], holder.pid());
    report
        .assert_verdict("pointless")
        .assert_at("/cause/code", "interrupts-held-off")
        .assert_at("/locks/lwlocks_held", 1)
        .assert_at("/locks/waiting_for", Value::Null);
    let held = format!("{tranche} ({})", mode(holds_shared));
    assert_eq!(report.check("lwlock-held"), "fail", "{}", report.run);
    let evidence = report.at("/cause/evidence").to_string();
    assert!(evidence.contains(&held), "{}", report.run);

    let_go(server);
    // Only now the cancel and the terminate get through.
    assert_eq!(holder.result().unwrap_err().code(), "57014");
    // The message may or may not reach the client before the connection ends.
    assert!(waiter.result().is_err());
    let end = "terminating connection due to administrator command";
    assert!(server.log().contains(end), "{}", server.log());
    server.assert_unharmed();
}

mod a_waiter_is_told_who_holds {
    use super::{is_told_who_holds, server_with_testext};

    #[test]
    fn a_lock_of_an_extension() {
        is_told_who_holds(&server_with_testext!(), "own", "pgpoke_test", false, false);
    }

    #[test]
    fn a_lock_of_an_extension_that_it_wants_to_share() {
        is_told_who_holds(&server_with_testext!(), "own", "pgpoke_test", false, true);
    }

    #[test]
    fn a_lock_of_the_server_that_is_shared() {
        is_told_who_holds(
            &server_with_testext!(),
            "builtin",
            "TablespaceCreate",
            true,
            false,
        );
    }
}

#[test]
fn all_that_share_a_lock_are_named() {
    let server = server_with_testext!();
    let holders: Vec<_> = (0..3)
        .map(|_| server.stuck("SELECT pgpoke_lwlock_hold('own', true)"))
        .collect();
    let waiters: Vec<_> = (0..3).map(|_| waiter(&server, "own", false)).collect();
    let mut pids: Vec<_> = holders.iter().map(Stuck::pid).collect();
    pids.sort_unstable();
    for waiter in &waiters {
        waiter.prove_stuck(How::Cancel);
        let report = Report::of(&["inspect"], waiter.pid());
        report.assert_at("/locks/waiting_for/holders", json!(pids));
    }
    let_go(&server);
    for stuck in &holders {
        assert!(stuck.result().is_ok());
    }
    for stuck in &waiters {
        assert_eq!(stuck.result().unwrap_err().code(), "57014");
    }
    server.assert_unharmed();
}

#[test]
fn a_lock_that_the_backend_itself_holds_is_a_deadlock() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_lwlock()");
    wait_until_it_waits(&server, stuck.pid(), "LWLock");
    // Nothing has to be pending for that to be so.
    let report = Report::of(&["inspect"], stuck.pid());
    report.assert_at("/cause/code", "lwlock-self-deadlock");
    stuck.prove_stuck(How::Terminate);
    let report = Report::of(&["inspect"], stuck.pid());
    report
        .assert_verdict("pointless")
        .assert_at("/cause/code", "lwlock-self-deadlock")
        .assert_at("/locks/lwlocks_held", 1)
        .assert_at("/locks/waiting_for/tranche", "AddinShmemInit")
        .assert_at("/locks/waiting_for/holders", json!([stuck.pid()]))
        .assert_advises("restart");
    stuck.prove_stuck(How::Cancel);
    stuck.backend().assert_running_untraced();
    server.assert_unharmed();
}

/// Asking fifty processes costs milliseconds, and none of them stands still for it.
#[test]
fn fifty_backends_are_asked_in_no_time() {
    let server = Server::builder()
        .setting("max_connections", "80")
        .alone()
        .start();
    if server.installation().pg_config().is_none() {
        crate::harness::skip!("no headers to build testext with");
    }
    server.install_testext();
    let _idle: Vec<Client> = (0..50).map(|_| server.connect()).collect();
    let holder = server.stuck("SELECT pgpoke_lwlock_hold('own', false)");
    let waiter = waiter(&server, "own", false);
    waiter.prove_stuck(How::Terminate);
    let (run, calls) =
        crate::harness::Run::pgpoke_traced(["inspect", "--json", &waiter.pid().to_string()]);
    Report::read(run, waiter.pid()).assert_at("/locks/waiting_for/holders", json!([holder.pid()]));
    let seized: Vec<_> = calls
        .ptrace
        .iter()
        .filter(|c| c.contains("PTRACE_SEIZE"))
        .collect();
    assert_eq!(seized.len(), 1, "{calls:#?}");

    let time = |pid: i32| {
        let times = (0..9).map(|_| {
            let start = Instant::now();
            Report::of(&["inspect"], pid);
            start.elapsed()
        });
        let mut times: Vec<Duration> = times.collect();
        times.sort();
        times[times.len() / 2]
    };
    let (waits, holds) = (time(waiter.pid()), time(holder.pid()));
    eprintln!("inspect: {waits:?} with asking the others, {holds:?} without");
    assert!(
        waits < holds + Duration::from_millis(50),
        "{waits:?} with asking the others, {holds:?} without"
    );
    let_go(&server);
    assert!(holder.result().is_ok());
    server.assert_unharmed();
}

#[test]
fn an_error_that_is_being_handled_is_warned_of() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_catch()");
    stuck.prove_stuck(How::Cancel);
    let report = Report::of(&["inspect"], stuck.pid());
    report
        .assert_verdict("risky")
        .assert_at("/cause/code", "cpu-loop");
    assert_eq!(report.checks_that("warn"), ["error-in-progress"]);
    let refused = Report::of(&["interrupt", "--yes", "--wait", "100ms"], stuck.pid());
    refused.assert_outcome("refused", 3);
    let allowed = ["interrupt", "--yes", "--allow", "error-in-progress"];
    Report::of(&allowed, stuck.pid()).assert_outcome("cancelled", 0);
    assert_eq!(stuck.result().unwrap_err().code(), "57014");
    for _ in 0..10 {
        assert!(stuck.run_follow_up("SELECT 1").is_ok());
    }
    server.assert_unharmed();
}

/// With track_activities off nothing but DoingCommandRead tells that it is idle.
#[test]
fn an_idle_backend_that_does_not_say_so_cannot_be_cancelled() {
    let server = Server::builder().setting("track_activities", "off").start();
    let mut client = server.connect();
    let pid: i32 = client
        .query_one("SELECT pg_backend_pid()", &[])
        .expect("its PID")
        .get(0);
    let backend = crate::harness::Backend::open(pid).expect("the backend");
    wait_for(DEADLINE, "the backend shall sleep", || {
        (backend.state() == Some('S')).then_some(())
    });
    let report = Report::of(&["inspect"], pid);
    report
        .assert_at("/backend/state", "disabled")
        .assert_at("/verdict_if/cancel", "pointless")
        .assert_at("/verdict_if/terminate", "safe");
    client.batch_execute("SELECT 1").expect("an answer");
    server.assert_unharmed();
}

/// What the server itself says of who blocks whom, sorted and without the doubles.
#[track_caller]
fn blocking_pids(server: &Server, pid: i32) -> Vec<i32> {
    let row = server
        .connect()
        .query_one("SELECT pg_blocking_pids($1)", &[&pid]);
    let mut pids: Vec<i32> = row.expect("pg_blocking_pids").get(0);
    pids.sort_unstable();
    pids.dedup();
    pids
}

#[track_caller]
fn assert_blocked_as_the_server_says(server: &Server, waiter: &Stuck, expected: &[i32]) -> Report {
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(blocking_pids(server, waiter.pid()), expected);
    let report = Report::of(&["inspect"], waiter.pid());
    report.assert_at("/cause/code", "heavyweight-lock-wait");
    let list = report.at("/locks/blocked_by").as_array();
    let mut pids: Vec<i64> = list
        .unwrap_or_else(|| panic!("nobody in the way:\n{}", report.run))
        .iter()
        .filter_map(Value::as_i64)
        .collect();
    pids.sort_unstable();
    assert_eq!(
        pids,
        expected.iter().map(|p| i64::from(*p)).collect::<Vec<_>>(),
        "{}",
        report.run
    );
    report
}

/// A session with an open transaction, and its PID.
#[track_caller]
fn transaction(server: &Server, sql: &str) -> (Client, i32) {
    let mut client = server.connect();
    client
        .batch_execute(&format!("BEGIN; {sql}"))
        .expect("a transaction");
    let row = client.query_one("SELECT pg_backend_pid()", &[]);
    let pid = row.expect("its PID").get(0);
    (client, pid)
}

/// Runs a statement that has to wait for a heavyweight lock.
#[track_caller]
fn blocked<'s>(server: &'s Server, sql: &str) -> Stuck<'s> {
    let stuck = server.stuck_when(sql, |backend| backend.state() == Some('S'));
    wait_until_it_waits(server, stuck.pid(), "Lock");
    stuck
}

fn server_with_a_table() -> Server {
    let server = Server::builder()
        .setting("max_prepared_transactions", "3")
        .start();
    make_a_table(&server);
    server
}

fn make_a_table(server: &Server) {
    server
        .connect()
        .batch_execute("CREATE TABLE t (n int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1)")
        .expect("a table");
}

#[test]
fn who_blocks_a_relation_and_who_waits_before() {
    is_told_who_blocks(&Server::start());
}

/// Two hold a lock on a table, one waits for it, and another one behind that.
#[track_caller]
pub fn is_told_who_blocks(server: &Server) {
    make_a_table(server);
    let (first, first_pid) = transaction(server, "SELECT * FROM t");
    let (second, second_pid) = transaction(server, "INSERT INTO t VALUES (2, 2)");
    let drop = blocked(server, "DROP TABLE t");
    let report = assert_blocked_as_the_server_says(server, &drop, &[first_pid, second_pid]);
    let evidence = report.at("/cause/evidence").to_string();
    let oid: u32 = server
        .connect()
        .query_one("SELECT 't'::regclass::oid", &[])
        .expect("an OID")
        .get(0);
    for text in [
        format!("AccessExclusiveLock on relation {oid} of database"),
        format!("process {first_pid} holds AccessShareLock"),
        format!("process {second_pid} holds RowExclusiveLock"),
    ] {
        assert!(evidence.contains(&text), "{text}:\n{}", report.run);
    }

    // It only stands behind the one that waits.
    let read = blocked(server, "SELECT count(*) FROM t");
    let report = assert_blocked_as_the_server_says(server, &read, &[drop.pid()]);
    report.assert_advises(&format!("pgpoke inspect {}", drop.pid()));

    std::mem::drop((first, second));
    assert!(drop.result().is_ok());
    assert_eq!(read.result().unwrap_err().code(), "42P01");
    server.assert_unharmed();
}

#[test]
fn who_blocks_a_row_and_an_advisory_lock() {
    let server = server_with_a_table();
    let (first, first_pid) = transaction(
        &server,
        "UPDATE t SET v = 2; SELECT pg_advisory_xact_lock(-7), pg_advisory_xact_lock(3, 4)",
    );
    let waits = [
        ("UPDATE t SET v = 3", "the end of transaction"),
        ("SELECT pg_advisory_lock(-7)", "the advisory lock -7 of"),
        (
            "SELECT pg_advisory_lock(3, 4)",
            "the advisory lock (3, 4) of",
        ),
    ];
    let stuck: Vec<_> = waits
        .iter()
        .map(|(sql, object)| {
            let stuck = blocked(&server, sql);
            let report = assert_blocked_as_the_server_says(&server, &stuck, &[first_pid]);
            let evidence = report.at("/cause/evidence").to_string();
            assert!(evidence.contains(object), "{object}:\n{}", report.run);
            stuck
        })
        .collect();
    std::mem::drop(first);
    for stuck in stuck {
        assert!(stuck.result().is_ok());
    }
    server.assert_unharmed();
}

#[test]
fn a_prepared_transaction_blocks_without_a_process() {
    let server = server_with_a_table();
    let mut client = server.connect();
    client
        .batch_execute("BEGIN; LOCK TABLE t; PREPARE TRANSACTION 'gone'")
        .expect("a prepared transaction");
    let stuck = blocked(&server, "SELECT count(*) FROM t");
    let report = assert_blocked_as_the_server_says(&server, &stuck, &[0]);
    report.assert_advises("ROLLBACK PREPARED");
    client
        .batch_execute("ROLLBACK PREPARED 'gone'")
        .expect("its end");
    assert!(stuck.result().is_ok());
    server.assert_unharmed();
}

/// The members of a parallel group count as their leader.
#[test]
fn a_parallel_query_blocks_as_one() {
    let server = Server::builder()
        .setting("force_parallel_mode", "on")
        .setting("max_parallel_workers_per_gather", "2")
        .start();
    server
        .connect()
        .batch_execute("CREATE TABLE t AS SELECT generate_series(1, 10) AS n")
        .expect("a table");
    let reader = server.stuck_when("SELECT pg_sleep(3600) FROM t", |b| b.state() == Some('S'));
    let mut client = server.connect();
    wait_for(DEADLINE, "a parallel worker shall run", || {
        let row = client.query_one(
            "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
             WHERE relation = 't'::regclass AND leader_pid = $1 AND a.pid <> leader_pid",
            &[&reader.pid()],
        );
        (row.expect("pg_locks").get::<_, i64>(0) > 0).then_some(())
    });
    let drop = blocked(&server, "DROP TABLE t");
    assert_blocked_as_the_server_says(&server, &drop, &[reader.pid()]);
    client
        .execute("SELECT pg_cancel_backend($1)", &[&reader.pid()])
        .expect("a cancel");
    assert_eq!(reader.result().unwrap_err().code(), "57014");
    assert!(drop.result().is_ok());
    server.assert_unharmed();
}

#[test]
fn a_commit_that_waits_for_a_standby_is_well() {
    let server = Server::builder()
        .setting("synchronous_standby_names", "x")
        .start();
    // The cluster's default is off, for speed.
    let sql = "SET synchronous_commit = on; CREATE TABLE t (n int)";
    let stuck = server.stuck_when(sql, |backend| backend.state() == Some('S'));
    wait_until_it_waits(&server, stuck.pid(), "IPC");
    let report = Report::of(&["inspect"], stuck.pid());
    report
        .assert_at("/cause/code", "receiver-wait")
        .assert_verdict("pointless")
        .assert_advises("the commit stands here");
    let summary = report.text("/cause/summary");
    assert!(summary.contains("synchronous standby"), "{}", report.run);

    let mut client = server.config().connect(NoTls).expect("a session");
    client
        .execute("SELECT pg_cancel_backend($1)", &[&stuck.pid()])
        .expect("a cancel");
    assert!(stuck.result().is_ok(), "the wait ends, with a warning");
    let there: bool = client
        .query_one("SELECT to_regclass('t') IS NOT NULL", &[])
        .expect("an answer")
        .get(0);
    assert!(there, "the commit stands");
    server.assert_unharmed();
}

/// An extension holds a lock of its own, and the server's code only computes for it: the lock is the extension's, and so is
/// the fault.
#[test]
fn who_holds_its_own_lock_is_named_and_not_whom_it_has_compute() {
    let server = server_with_testext!();
    let sql =
        "SELECT pgpoke_lwlock_divide(repeat('7', 130000)::numeric, repeat('3', 65000)::numeric)";
    let stuck = server.stuck(sql);
    for how in How::BOTH {
        stuck.prove_stuck(how);
        let report = Report::of(&["inspect", "--samples", "10"], stuck.pid());
        report
            .assert_at("/cause/code", "interrupts-held-off")
            .assert_at("/locks/lwlocks_held", 1);
        let summary = report.text("/cause/summary");
        assert!(
            summary.starts_with("pgpoke_lwlock_divide() ")
                && summary.contains("the LWLock pgpoke_test (exclusive)"),
            "{}",
            report.run
        );
    }
    let_go(&server);
    stuck.assert_terminated();
    server.assert_unharmed();
}
