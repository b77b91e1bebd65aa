//! `pgpoke interrupt` as a ladder: each rung is told, the one after it is taken only where the one before had no effect,
//! and whoever is hit beside the backend is named before.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    Backend, Builder, DEADLINE, How, Installation, Run, Server, Stuck, fetched,
    server_with_testext, wait_for,
};
use crate::report::Report;

/// The rungs that were taken, by name.
fn rungs(json: &Value) -> Vec<&str> {
    let steps = json["steps"].as_array().expect("a list of steps");
    steps
        .iter()
        .map(|step| {
            assert!(step["took_ms"].as_f64() >= Some(0.0), "{step}");
            assert!(!step["detail"].as_str().unwrap_or_default().is_empty());
            step["step"].as_str().expect("a name")
        })
        .collect()
}

#[track_caller]
fn assert_rungs(report: &Report, expected: &[&str]) {
    assert_eq!(rungs(&report.run.json()), expected, "{}", report.run);
}

/// One of the sentences on what the interrupt means has all of these words.
#[track_caller]
fn assert_means(report: &Report, words: &[&str]) {
    let all = report.at("/consequences").as_array().expect("a list");
    let says = |text: &Value| words.iter().all(|w| text.as_str().unwrap().contains(w));
    assert!(
        all.iter().any(says),
        "no consequence says {words:?}:\n{}",
        report.run
    );
}

#[track_caller]
fn is_running(pid: i32) -> Backend {
    let backend = Backend::open(pid).expect("the process");
    backend.assert_running_untraced();
    backend
}

#[track_caller]
fn wait_for_end(backend: &Backend) {
    wait_for(DEADLINE, "the process shall be gone", || {
        (!backend.is_alive()).then_some(())
    });
}

/// Waits until it computes: what spins has got there.
#[track_caller]
fn wait_until_it_spins(backend: &Backend) {
    let ticks = backend.cpu_ticks();
    wait_for(DEADLINE, "it shall spin", || {
        (backend.cpu_ticks() > ticks + 10).then_some(())
    });
}

/// The only process of that kind, by a condition on pg_stat_activity.
#[track_caller]
fn find(server: &Server, condition: &str) -> Backend {
    let sql = format!("SELECT pid FROM pg_stat_activity WHERE {condition}");
    let pid = wait_for(DEADLINE, condition, || {
        let rows = server.ask(|client| client.query(&sql, &[])).expect("rows");
        rows.first().map(|row| row.get::<_, i32>(0))
    });
    Backend::open(pid).expect("its process")
}

#[test]
fn one_that_obeys_is_only_sent_a_signal() {
    let server = Server::start();
    for how in How::BOTH {
        let well = server.stuck_when("SELECT pg_sleep(3600)", |b| {
            b.syscall() == Some(libc::SYS_epoll_wait)
        });
        let report = Report::of(&["interrupt", how.option(), "--yes"], well.pid());
        report
            .assert_outcome("obeyed-signal", 0)
            .assert_at("/server_restarted", false)
            .assert_at("/escalated_from", Value::Null);
        assert_rungs(&report, &["signal", "wait", "verify"]);
        match how {
            How::Cancel => well.assert_cancelled(),
            How::Terminate => well.assert_terminated(),
        }
    }
    server.assert_unharmed();
}

#[test]
fn one_that_obeys_late_but_in_time_is_not_touched() {
    let server = server_with_testext!();
    for how in How::BOTH {
        let late = server.stuck("SELECT pgpoke_late(0.3)");
        let args = ["interrupt", how.option(), "--yes", "--grace", "20s"];
        let report = Report::of(&args, late.pid());
        report
            .assert_outcome("obeyed-signal", 0)
            .assert_at("/attempts", 0);
        assert!(report.run.elapsed >= Duration::from_millis(300));
        match how {
            How::Cancel => late.assert_cancelled(),
            How::Terminate => late.assert_terminated(),
        }
    }
    server.assert_unharmed();
}

/// It obeys while the operator thinks: then there is nothing left to do, and nobody else's statement is hit.
#[test]
fn one_that_obeys_at_the_prompt_is_not_touched() {
    let server = server_with_testext!();
    for how in How::BOTH {
        let late = server.stuck("SELECT pgpoke_late(2)");
        let pid = late.pid().to_string();
        let args = ["interrupt", how.option(), "--grace", "50ms", &pid];
        let run = Run::pgpoke_asking(args, |_, _| {
            assert!(late.result().is_err());
            if how == How::Terminate {
                wait_for_end(&late.backend());
            }
            "y\n".into()
        });
        run.assert_code(0).assert_says("obeyed-signal");
        if how == How::Cancel {
            let rows = late.run_follow_up("SELECT 1");
            assert_eq!(rows, Ok(vec![vec![Some("1".into())]]));
        }
    }
    server.assert_unharmed();
}

#[test]
fn one_that_never_obeys_is_stepped_into_and_each_rung_is_told() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    let args = ["interrupt", "--cancel", "--yes", "--grace", "50ms"];
    let report = Report::of(&args, stuck.pid());
    report.assert_outcome("cancelled", 0);
    assert_rungs(&report, &["signal", "wait", "look", "step-in", "verify"]);
    assert_means(
        &report,
        &["canceling statement due to user request", "57014"],
    );
    assert_means(&report, &["what it has done is rolled back"]);
    stuck.assert_cancelled();

    // In text: a line a rung on stderr, and no carriage return in a pipe.
    let stuck = server.stuck("SELECT pgpoke_spin()");
    let pid = stuck.pid().to_string();
    let run = Run::pgpoke(["interrupt", "--terminate", "--yes", "--grace", "50ms", &pid]);
    run.assert_code(0);
    let names: Vec<_> = run
        .stderr
        .lines()
        .filter(|line| !line.contains("warning"))
        .map(|line| line.split_whitespace().nth(1).unwrap_or_default())
        .collect();
    assert_eq!(
        names,
        ["signal", "wait", "look", "step-in", "verify"],
        "{run}"
    );
    assert!(!run.stderr.contains('\r'), "{run}");
    run.assert_says("the server runs on");
    stuck.assert_terminated();
    server.assert_unharmed();
}

/// On a terminal it shows what it waits for, and takes that line away again.
#[test]
fn on_a_terminal_it_shows_what_it_waits_for() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    let pid = stuck.pid().to_string();
    let args = [
        "interrupt",
        "--color",
        "never",
        "--cancel",
        "--grace",
        "1s",
        &pid,
    ];
    let run = Run::pgpoke_on_a_terminal(args, "y\n");
    run.assert_code(0)
        .assert_says(&format!(
            "\rpgpoke: waiting for process {pid} to obey SIGINT … 0."
        ))
        .assert_says(" s of 1 s\u{1b}[K")
        .assert_says("\r\u{1b}[Kpgpoke: wait     it did not obey within 1 s (1.0 s)\n");
    stuck.assert_cancelled();
    server.assert_unharmed();
}

/// The session ends while the operator thinks, by somebody else's hand.
#[test]
fn one_that_ends_in_between_is_gone() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    let pid = stuck.pid().to_string();
    let run = Run::pgpoke_asking(["interrupt", &pid], |_, _| {
        let args = ["interrupt", "--yes", "--terminate", "--grace", "0s", &pid];
        Run::pgpoke(args).assert_code(0);
        stuck.assert_terminated();
        "y\n".into()
    });
    run.assert_code(7).assert_says("has ended");
    server.assert_unharmed();
}

#[test]
fn what_a_cancel_takes_with_it() {
    let server = server_with_testext!();
    let whole = |sql: &str| {
        let stuck = server.stuck(sql);
        let report = Report::of(&["interrupt", "--dry-run", "--cancel"], stuck.pid());
        report.assert_outcome("dry-run", 0);
        let args = ["interrupt", "--yes", "--terminate", "--grace", "0s"];
        Report::of(&args, stuck.pid()).assert_outcome("terminated", 0);
        report
    };
    let report = whole("SELECT 1; SELECT pgpoke_spin(); SELECT 2");
    assert_means(&report, &["the same message is not run"]);
    let report = whole("SELECT pgpoke_spin()");
    assert_means(&report, &["what it has done is rolled back"]);

    let mut session = server.connect();
    let pid: i32 = session
        .query_one("SELECT pg_backend_pid()", &[])
        .unwrap()
        .get(0);
    session.batch_execute("BEGIN").unwrap();
    let thread = std::thread::spawn(move || session.batch_execute("SELECT pgpoke_spin()"));
    wait_until_it_spins(&Backend::open(pid).expect("the backend"));
    let report = Report::of(&["interrupt", "--dry-run", "--cancel"], pid);
    assert_means(&report, &["begun before it", "savepoint"]);
    let args = ["interrupt", "--yes", "--terminate", "--grace", "0s"];
    Report::of(&args, pid).assert_outcome("terminated", 0);
    assert!(thread.join().expect("a thread").is_err());
    server.assert_unharmed();
}

/// A query of two workers, who get a row each.
fn parallel<'s>(server: &'s Server, who: &str) -> Stuck<'s> {
    server
        .connect()
        .batch_execute(
            "CREATE TABLE IF NOT EXISTS rows AS SELECT n, repeat('x', 4000) AS filler FROM generate_series(1, 2000) n;
             ALTER TABLE rows ALTER filler SET STORAGE PLAIN;
             ALTER TABLE rows SET (parallel_workers = 2);",
        )
        .expect("a table");
    let sql = format!(
        "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
         SELECT count(*) FROM rows WHERE pgpoke_parallel('{who}')"
    );
    server.stuck_when(&sql, |backend| backend.is_alive())
}

fn workers_of(server: &Server, leader: i32) -> Vec<Backend> {
    let sql = format!(
        "SELECT pid FROM pg_stat_activity WHERE leader_pid = {leader} AND pid <> {leader} ORDER BY pid"
    );
    wait_for(DEADLINE, "the query shall have two workers", || {
        let rows = server.ask(|client| client.query(&sql, &[])).expect("rows");
        let pids = rows.iter().map(|row| Backend::open(row.get(0)));
        let workers: Vec<Backend> = pids.flatten().collect();
        (workers.len() == 2).then_some(workers)
    })
}

/// A worker's end is an error of its leader's.
#[test]
fn a_parallel_worker_fails_its_leaders_query() {
    let server = server_with_testext!();
    for how in How::BOTH {
        let leader = parallel(&server, "worker");
        let workers = workers_of(&server, leader.pid());
        workers.iter().for_each(wait_until_it_spins);
        let args = ["interrupt", how.option(), "--yes", "--grace", "50ms"];
        let report = Report::of(&args, workers[0].pid);
        report
            .assert_code(0)
            .assert_at("/server_restarted", false)
            .assert_at("/backend/type", "background worker");
        let leader_pid = leader.pid().to_string();
        assert_means(&report, &["its leader", &leader_pid, "fails with"]);
        wait_for_end(&workers[0]);
        let end = match how {
            How::Cancel => "canceling statement due to user request",
            How::Terminate => {
                "terminating background worker \"parallel worker\" due to administrator command"
            }
        };
        assert_means(&report, &[end]);
        assert!(server.log().contains(end), "{}", server.log());
        // The leader waits for its other worker, which is as stuck.
        let report = Report::of(&args, workers[1].pid);
        report.assert_code(0).assert_at("/server_restarted", false);
        let failure = leader.result().expect_err("the leader's error");
        assert!(["57014", "57P01"].contains(&failure.code()), "{failure}");
        let rows = leader.run_follow_up("SELECT 1");
        assert_eq!(rows, Ok(vec![vec![Some("1".into())]]));
    }
    server.assert_unharmed();
}

#[test]
fn a_leader_takes_its_workers_with_it() {
    let server = server_with_testext!();
    for how in How::BOTH {
        let leader = parallel(&server, "leader");
        let workers = workers_of(&server, leader.pid());
        wait_until_it_spins(&leader.backend());
        let args = ["interrupt", how.option(), "--yes", "--grace", "50ms"];
        let report = Report::of(&args, leader.pid());
        report.assert_code(0).assert_at("/server_restarted", false);
        let pids = format!("{}, {}", workers[0].pid, workers[1].pid);
        assert_means(&report, &["its parallel workers", &pids]);
        workers.iter().for_each(wait_for_end);
        match how {
            How::Cancel => leader.assert_cancelled(),
            How::Terminate => leader.assert_terminated(),
        }
    }
    server.assert_unharmed();
}

/// psql on a connection for replication, on which it may also send SQL.
struct ReplicationConnection(Child);

impl ReplicationConnection {
    fn send(server: &Server, sql: &str) -> Self {
        let mut psql = Installation::command("psql");
        psql.args(["-Xq", "-d"])
            .arg(format!(
                "{} replication=database application_name=standby_in_berlin",
                server.conninfo()
            ))
            .args(["-c", sql])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        ReplicationConnection(psql.spawn().expect("psql"))
    }
}

impl Drop for ReplicationConnection {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_walsender_ends_and_its_standby_is_named() {
    if Command::new("psql").arg("--version").output().is_err() {
        crate::harness::skip!("no psql");
    }
    let server = server_with_testext!();
    for how in How::BOTH {
        let _connection = ReplicationConnection::send(&server, "SELECT pgpoke_spin()");
        let sender = find(&server, "backend_type = 'walsender' AND state = 'active'");
        wait_until_it_spins(&sender);
        let args = ["interrupt", how.option(), "--yes", "--grace", "50ms"];
        let report = Report::of(&args, sender.pid);
        report
            .assert_code(0)
            .assert_at("/backend/type", "walsender")
            .assert_at("/server_restarted", false);
        assert_means(&report, &["standby_in_berlin", "connects again"]);
        assert_means(&report, &["no commit waits for it"]);
        wait_for_end(&sender);
    }
    server.assert_unharmed();
}

#[test]
fn an_autovacuum_worker_gives_up_and_comes_back() {
    gives_up_and_comes_back(Installation::default());
}

/// Its main function sets a flag by an exchange of a byte, as spinlocks are taken.
#[test]
fn an_autovacuum_worker_of_18_gives_up_and_comes_back() {
    gives_up_and_comes_back(fetched!(Installation::npm(18)));
}

/// A server whose autovacuum soon comes to a table.
fn with_autovacuum(installation: Installation) -> Builder {
    Server::builder()
        .installation(installation)
        .setting("autovacuum_naptime", "1s")
        .setting("autovacuum_analyze_threshold", "1")
        .setting("autovacuum_analyze_scale_factor", "0")
}

/// A table at which a worker of autovacuum gets stuck.
fn make_table_that_is_watched(server: &Server) {
    server
        .connect()
        .batch_execute(
            "CREATE TABLE watched AS SELECT n FROM generate_series(1, 100) n;
             CREATE INDEX ON watched (pgpoke_in_autovacuum(n));",
        )
        .expect("a table");
}

fn gives_up_and_comes_back(installation: Installation) {
    let server = server_with_testext!(with_autovacuum(installation));
    make_table_that_is_watched(&server);
    for how in How::BOTH {
        let worker = find(
            &server,
            "backend_type = 'autovacuum worker' AND query LIKE '%watched%'",
        );
        wait_until_it_spins(&worker);
        let args = ["interrupt", how.option(), "--yes", "--grace", "50ms"];
        let report = Report::of(&args, worker.pid);
        report
            .assert_code(0)
            .assert_at("/backend/type", "autovacuum worker")
            .assert_at("/server_restarted", false);
        assert_means(&report, &["no client is hit"]);
        assert_means(&report, &["within autovacuum_naptime"]);
        wait_for_end(&worker);
    }
    let end = "terminating autovacuum process due to administrator command";
    assert!(server.log().contains(end), "{}", server.log());
    assert!(server.log().contains("canceling autovacuum task"));
    server
        .connect()
        .batch_execute("DROP TABLE watched")
        .expect("no more of it");
    let last = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'autovacuum worker'";
    for row in server.connect().query(last, &[]).expect("rows") {
        if let Some(worker) = Backend::open(row.get(0)) {
            Report::of(&["interrupt", "--yes", "--terminate"], worker.pid);
        }
    }
    server.assert_unharmed();
}

#[test]
fn an_autovacuum_worker_without_activity_is_not_taken_to_obey() {
    goes_on_without_activity(Installation::default());
}

#[test]
fn an_autovacuum_worker_of_18_without_activity_is_not_taken_to_obey() {
    goes_on_without_activity(fetched!(Installation::npm(18)));
}

/// It has no statement of a client's, and says nothing of its work: that its statement is over can be told by neither.
fn goes_on_without_activity(installation: Installation) {
    let server =
        server_with_testext!(with_autovacuum(installation).setting("track_activities", "off"));
    make_table_that_is_watched(&server);
    let condition = "backend_type = 'autovacuum worker' AND pid IN
        (SELECT pid FROM pg_locks WHERE relation = 'watched'::regclass)";
    for how in How::BOTH {
        let worker = find(&server, condition);
        wait_until_it_spins(&worker);
        let args = ["interrupt", how.option(), "--grace", "300ms", "--yes"];
        let report = Report::of(&args, worker.pid);
        report
            .assert_outcome(
                match how {
                    How::Cancel => "cancelled",
                    How::Terminate => "terminated",
                },
                0,
            )
            .assert_at("/backend/type", "autovacuum worker")
            .assert_at("/server_restarted", false);
        assert_rungs(&report, &["signal", "wait", "look", "step-in", "verify"]);
        wait_for_end(&worker);
    }
    server.assert_unharmed();
}

/// A trigger of the subscriber's hangs. The worker ends, and comes back; once the trigger is mended, it goes on.
#[test]
fn a_logical_replication_worker_comes_back() {
    let server = server_with_testext!(
        Server::builder()
            .setting("wal_level", "logical")
            .setting("wal_retrieve_retry_interval", "100ms")
    );
    let mut here = server.connect();
    here.batch_execute("CREATE DATABASE source").expect("one");
    let source = format!("{} dbname=source", server.conninfo());
    let mut there = source
        .parse::<postgres::Config>()
        .and_then(|config| config.connect(postgres::NoTls))
        .expect("a session in the other database");
    let hangs = |how: &str| {
        format!(
            "CREATE OR REPLACE FUNCTION hangs() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN {how}; RETURN NEW; END $$"
        )
    };
    there
        .batch_execute("CREATE TABLE copied (n int); CREATE PUBLICATION all_of_it FOR TABLE copied")
        .expect("a publication");
    there
        .batch_execute("SELECT pg_create_logical_replication_slot('slot', 'pgoutput')")
        .expect("a slot");
    here.batch_execute(&format!(
        "CREATE TABLE copied (n int); {};
         CREATE TRIGGER hangs BEFORE INSERT ON copied FOR EACH ROW EXECUTE FUNCTION hangs();
         ALTER TABLE copied ENABLE ALWAYS TRIGGER hangs;",
        hangs("PERFORM public.pgpoke_spin()")
    ))
    .expect("a trigger");
    here.batch_execute(&format!(
        "CREATE SUBSCRIPTION copies CONNECTION '{source}' PUBLICATION all_of_it
         WITH (create_slot = false, slot_name = 'slot', copy_data = false)"
    ))
    .expect("a subscription");
    there
        .batch_execute("INSERT INTO copied VALUES (1)")
        .expect("a row");
    let stuck = || {
        let worker = find(
            &server,
            "pid IN (SELECT pid FROM pg_stat_subscription WHERE subname = 'copies')",
        );
        wait_until_it_spins(&worker);
        worker
    };
    let interrupt = |worker: &Backend, how: How| {
        let args = ["interrupt", how.option(), "--yes", "--grace", "50ms"];
        let report = Report::of(&args, worker.pid);
        report
            .assert_code(0)
            .assert_at("/backend/type", "background worker")
            .assert_at("/server_restarted", false);
        wait_for_end(worker);
        report
    };
    let report = interrupt(&stuck(), How::Cancel);
    assert_means(&report, &["transaction fails", "the worker ends"]);
    assert_means(&report, &["disable_on_error"]);
    assert!(
        server
            .log()
            .contains("canceling statement due to user request")
    );
    let last = stuck();
    here.batch_execute(&hangs("NULL"))
        .expect("a mended trigger");
    let report = interrupt(&last, How::Terminate);
    assert_means(&report, &["transaction is rolled back"]);
    let end = "terminating logical replication worker due to administrator command";
    assert!(server.log().contains(end), "{}", server.log());
    wait_for(DEADLINE, "the row shall arrive", || {
        let rows = here.query("SELECT FROM copied", &[]).expect("rows");
        (rows.len() == 1).then_some(())
    });
    here.batch_execute(
        "ALTER SUBSCRIPTION copies DISABLE; ALTER SUBSCRIPTION copies SET (slot_name = NONE);
         DROP SUBSCRIPTION copies",
    )
    .expect("no more of it");
    server.assert_unharmed();
}

#[test]
fn a_background_workers_restart_time_is_told_and_true() {
    let server = server_with_testext!();
    let start = |restart: i32| {
        let sql = format!("SELECT pgpoke_worker({restart})");
        let pid = server
            .ask(|client| client.query_one(&sql, &[]))
            .expect("a PID")
            .get(0);
        let worker = Backend::open(pid).expect("the worker");
        wait_until_it_spins(&worker);
        worker
    };
    let args = ["interrupt", "--terminate", "--yes", "--grace", "50ms"];
    let worker = start(-1);
    let report = Report::of(&args, worker.pid);
    report
        .assert_outcome("terminated", 0)
        .assert_at("/exit_status", 1)
        .assert_at("/server_restarted", false)
        .assert_at("/backend/type", "background worker");
    let end = "terminating background worker \"pgpoke_worker\" due to administrator command";
    assert_means(&report, &[end]);
    assert_means(&report, &["does not start it again"]);
    wait_for_end(&worker);
    assert!(server.log().contains(end), "{}", server.log());

    let worker = start(1);
    let report = Report::of(&args, worker.pid);
    report.assert_outcome("terminated", 0);
    assert_means(&report, &["starts it again after 1 s"]);
    wait_for_end(&worker);
    let again = find(&server, "backend_type = 'pgpoke_worker'");
    assert_ne!(again.pid, worker.pid);
    wait_until_it_spins(&again);
    // A cancel ends it, as it handles no errors.
    let args = ["interrupt", "--cancel", "--yes", "--grace", "50ms"];
    let report = Report::of(&args, again.pid);
    report.assert_code(0);
    assert_means(&report, &["ends with status 1"]);
    wait_for_end(&again);
    server.assert_unharmed();
}

/// A cancel that was swallowed is followed by a terminate, where that was asked for.
#[test]
fn escalation_follows_a_cancel_without_effect() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_swallow()");
    let args = [
        "interrupt",
        "--cancel",
        "--escalate",
        "--yes",
        "--grace",
        "50ms",
    ];
    let report = Report::of(&args, stuck.pid());
    report
        .assert_outcome("terminated", 0)
        .assert_at("/swallowed", false)
        .assert_at("/exit_status", 1)
        .assert_at("/escalated_from/outcome", "returned")
        .assert_at("/escalated_from/swallowed", true)
        .assert_at("/escalated_from/exit_code", 5)
        .assert_at("/server_restarted", false);
    let expected = [
        "signal", "wait", "look", "step-in", "verify", "escalate", "look", "signal", "wait",
        "step-in", "verify",
    ];
    assert_rungs(&report, &expected);
    stuck.assert_terminated();
    server.assert_unharmed();
}

/// It is asked for anew, with its own consequences; whoever says no there has the cancel's result, and a session.
#[test]
fn escalation_is_asked_for() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_swallow()");
    let pid = stuck.pid().to_string();
    let args = [
        "interrupt",
        "--cancel",
        "--escalate",
        "--grace",
        "50ms",
        &pid,
    ];
    let mut asked = Vec::new();
    let run = Run::pgpoke_asking(args, |_, shown| {
        asked.push(shown.to_owned());
        ["y\n", "n\n"][asked.len() - 1].into()
    });
    run.assert_code(2).assert_says("no terminate was sent");
    let [first, second] = &asked[..] else {
        panic!("asked {} times:\n{run}", asked.len());
    };
    assert!(
        first.contains("canceling statement due to user request"),
        "{first}"
    );
    assert!(!first.contains("terminating connection"), "{first}");
    assert!(second.contains("the cancel had no effect"), "{second}");
    assert!(
        second.contains("terminating connection due to administrator command"),
        "{second}"
    );
    stuck.backend().assert_running_untraced();
    Report::of(&["inspect", "--passive"], stuck.pid()).assert_flags(false, false);
    stuck.prove_stuck(How::Terminate);
    Report::of(&["interrupt", "--yes"], stuck.pid()).assert_outcome("terminated", 0);
    server.assert_unharmed();
}

/// Where a terminate would meet the same, or nobody asked for one, none is sent.
#[test]
fn no_escalation_where_it_would_gain_nothing() {
    let server = server_with_testext!();
    let args = [
        "interrupt",
        "--cancel",
        "--escalate",
        "--yes",
        "--grace",
        "50ms",
        "--wait",
        "100ms",
    ];
    for (call, outcome, code) in [
        ("pgpoke_crit()", "refused", 4),
        ("pgpoke_hold()", "pointless", 5),
    ] {
        let stuck = server.stuck(&format!("SELECT {call}"));
        let report = Report::of(&args, stuck.pid());
        report
            .assert_outcome(outcome, code)
            .assert_at("/escalated_from", Value::Null);
        assert_eq!(rungs(&report.run.json()).last(), Some(&"escalate"));
        let inspected = Report::of(&["inspect", "--passive"], stuck.pid());
        inspected.assert_at("/interrupts/proc_die_pending", false);
        stuck.backend().assert_running_untraced();
    }
    // A cancel that took effect is the end of it.
    let stuck = server.stuck("SELECT pgpoke_spin()");
    let report = Report::of(&args, stuck.pid());
    report.assert_outcome("cancelled", 0);
    assert_rungs(&report, &["signal", "wait", "look", "step-in", "verify"]);
    stuck.assert_cancelled();
    server.assert_unharmed();
}

/// A cancel would jump over frames of C++, a terminate only leaves them: it is refused the one and offered the other.
#[test]
fn escalation_follows_a_refusal_and_meets_its_own_judgement() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_cplusplus()");
    let args = [
        "interrupt",
        "--cancel",
        "--escalate",
        "--yes",
        "--grace",
        "50ms",
        "--wait",
        "100ms",
    ];
    let report = Report::of(&args, stuck.pid());
    report
        .assert_outcome("refused", 3)
        .assert_at("/escalated_from/outcome", "refused")
        .assert_at("/escalated_from/exit_code", 4);
    stuck.backend().assert_running_untraced();
    let args = [&args[..], &["--allow", "foreign-runtime"]].concat();
    let report = Report::of(&args, stuck.pid());
    report.assert_outcome("terminated", 0);
    stuck.assert_terminated();
    server.assert_unharmed();
}

#[test]
fn several_are_judged_one_by_one() {
    let server = server_with_testext!();
    let spins = server.stuck("SELECT pgpoke_spin()");
    let holds = server.stuck("SELECT pgpoke_hold()");
    let sleeps = server.stuck_when("SELECT pg_sleep(3600)", |b| {
        b.syscall() == Some(libc::SYS_epoll_wait)
    });
    let [a, b, c] = [&spins, &holds, &sleeps].map(|s| s.pid().to_string());
    let args = [
        "interrupt",
        "--cancel",
        "--yes",
        "--json",
        "--grace",
        "50ms",
        &a,
        &b,
        "-p",
        &c,
        "-p",
        &a,
    ];
    let run = Run::pgpoke(args);
    run.assert_code(5);
    let json = run.json();
    assert_eq!(json["exit_code"], 5, "{run}");
    assert_eq!(json["not_tried"], json!([]), "{run}");
    let results = json["results"].as_array().expect("a list of results");
    let brief: Vec<_> = results
        .iter()
        .map(|r| json!([r["pid"], r["outcome"], r["exit_code"]]))
        .collect();
    let expected = [
        json!([spins.pid(), "cancelled", 0]),
        json!([holds.pid(), "pointless", 5]),
        json!([sleeps.pid(), "obeyed-signal", 0]),
    ];
    assert_eq!(brief, expected, "{run}");
    spins.assert_cancelled();
    sleeps.assert_cancelled();
    holds.backend().assert_running_untraced();
    // In text, each as it comes, and a line on all.
    let gone = i32::MAX.to_string();
    let run = Run::pgpoke(["interrupt", "--cancel", "--yes", "--grace", "0s", &b, &gone]);
    run.assert_code(7)
        .assert_says("0 of 2 done")
        .assert_says(&format!(
            "{b} pointless (exit code 5), {gone} refused (exit code 7)"
        ));
    server.assert_unharmed();
}

#[test]
fn several_are_asked_for_one_by_one() {
    let server = server_with_testext!();
    let all = [0, 1, 2].map(|_| server.stuck("SELECT pgpoke_spin()"));
    let [a, b, c] = all.each_ref().map(|s| s.pid().to_string());
    let args = ["interrupt", "--cancel", "--grace", "50ms", &a, &b, &c];
    let mut asked = Vec::new();
    let run = Run::pgpoke_asking(args, |_, shown| {
        asked.push(shown.to_owned());
        ["y\n", "n\n", "y\n"][asked.len() - 1].into()
    });
    run.assert_code(2).assert_says("2 of 3 done");
    assert_eq!(asked.len(), 3, "{run}");
    for (n, pid) in [&a, &b, &c].iter().enumerate() {
        let question = asked[n].rsplit("verdict").next().unwrap_or_default();
        assert!(question.contains(&format!("PID {pid}")), "{question}");
    }
    all[0].assert_cancelled();
    all[1].backend().assert_running_untraced();
    all[2].assert_cancelled();
    Report::of(&["inspect", "--passive"], all[1].pid()).assert_flags(true, false);
    server.assert_unharmed();
}

/// Ctrl-C at one question is for all that would come after it.
#[test]
fn ctrl_c_at_a_question_ends_all() {
    let server = server_with_testext!();
    let all = [0, 1].map(|_| server.stuck("SELECT pgpoke_spin()"));
    let [a, b] = all.each_ref().map(|s| s.pid().to_string());
    let args = ["interrupt", "--cancel", "--grace", "50ms", &a, &b];
    let run = Run::pgpoke_asking(args, |pgpoke, _| {
        // SAFETY: kill takes any numbers; this PID is a child's that has not been waited for.
        unsafe { libc::kill(pgpoke, libc::SIGINT) };
        String::new()
    });
    assert_eq!(run.signal(), Some(libc::SIGINT), "{run}");
    for stuck in &all {
        is_running(stuck.pid());
    }
    Report::of(&["inspect", "--passive"], all[1].pid()).assert_flags(false, false);
    server.assert_unharmed();
}

/// Nobody gets in any more, and the one who holds the last place is stuck: that place is freed without a connection.
#[test]
fn at_max_connections_the_stuck_backend_is_freed() {
    let server = server_with_testext!(
        Server::builder()
            .setting("max_connections", "6")
            .setting("superuser_reserved_connections", "0")
            .setting("max_wal_senders", "0")
    );
    let stuck = server.stuck("SELECT pgpoke_spin()");
    let mut others = Vec::new();
    let refused = loop {
        match server.config().connect(postgres::NoTls) {
            Ok(client) => others.push(client),
            Err(refused) => break refused,
        }
        assert!(others.len() < 10, "there is always room for one more");
    };
    let code = refused.as_db_error().map(|e| e.code().code().to_owned());
    assert_eq!(code.as_deref(), Some("53300"), "{refused}");
    let report = Report::of(
        &["interrupt", "--terminate", "--yes", "--grace", "50ms"],
        stuck.pid(),
    );
    report
        .assert_outcome("terminated", 0)
        .assert_at("/server_restarted", false);
    stuck.assert_terminated();
    let freed = wait_for(DEADLINE, "there shall be room for one", || {
        server.config().connect(postgres::NoTls).ok()
    });
    drop((freed, others));
    wait_for(DEADLINE, "there shall be room again", || {
        server.config().connect(postgres::NoTls).ok()
    });
    server.assert_unharmed();
}
