//! Backends that are well, and busy: looked at a thousand times, none of them may be called stuck,
//! stand still for long, or notice.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use postgres::Client;

use crate::harness::{Run, Server, skip};
use crate::report::{Report, run_json};

const LOOKS: usize = 1_000;

/// Milliseconds within which 99 of 100 backends run again.
const LIMIT: f64 = 5.0;

/// What a backend under this load may be said to be in. Sessions update the same few rows, and so
/// they do wait for each other; and at the end of a run they end.
const CAUSES: [&str; 6] = [
    "responsive",
    "idle",
    "heavyweight-lock-wait",
    "exiting",
    // For a moment.
    "lwlock-wait",
    "client-write",
];

/// Transactions until told to end, in runs of some thousands; says how many there were.
fn keep_busy(pgbench: &(impl Fn(&[&str]) -> Run + Sync), enough: &AtomicBool) -> u64 {
    let mut transactions = 0;
    while !enough.load(Ordering::Relaxed) {
        let run = pgbench(&["-n", "-c", "8", "-j", "1", "-t", "1000"]);
        run.assert_code(0)
            .assert_says("number of transactions actually processed: 8000/8000")
            .assert_says("number of failed transactions: 0 (");
        transactions += 8_000;
    }
    transactions
}

/// A session of pgbench's at this moment, any of them.
fn some_backend(observer: &mut Client) -> Option<i32> {
    let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbench'
               ORDER BY random() LIMIT 1";
    let row = observer.query_opt(sql, &[]).expect("pg_stat_activity");
    row.map(|row| row.get(0))
}

#[test]
fn a_thousand_looks_at_a_busy_server_disturb_no_one_and_call_no_one_stuck() {
    let server = Server::builder().alone().start();
    if !server.installation().program("pgbench").exists() {
        skip!("no pgbench in {}", server.installation().bindir.display());
    }
    let conninfo = server.conninfo();
    let program = server.installation().program("pgbench");
    let pgbench = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.args(args).arg(&conninfo);
        Run::within(Duration::from_secs(240), command)
    };
    pgbench(&["-i", "-q", "-s", "2"]).assert_code(0);
    let enough = AtomicBool::new(false);
    let (mut stopped, transactions) = thread::scope(|scope| {
        let busy = scope.spawn(|| keep_busy(&pgbench, &enough));
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            look_around(&mut server.connect(), || busy.is_finished())
        }));
        enough.store(true, Ordering::Relaxed);
        let transactions = busy.join();
        match (looked, transactions) {
            (Ok(stopped), Ok(transactions)) => (stopped, transactions),
            (Err(panic), _) | (_, Err(panic)) => std::panic::resume_unwind(panic),
        }
    });
    stopped.sort_by(f64::total_cmp);
    let share = |percent: usize| stopped[(stopped.len() * percent / 100).min(stopped.len() - 1)];
    eprintln!(
        "{} looks during {transactions} transactions; stopped for ms: 50 % {:.3}, 90 % {:.3}, 99 % {:.3}, at most {:.3}",
        stopped.len(),
        share(50),
        share(90),
        share(99),
        share(100)
    );
    assert!(transactions >= 8_000);
    server.assert_unharmed();
    let log = server.log();
    let errors: Vec<_> = log
        .lines()
        .filter(|line| line.contains("ERROR:") || line.contains("FATAL:"))
        // The harness knocks until the server is there.
        .filter(|line| !line.contains("the database system is starting up"))
        .collect();
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    // As pgpoke measures it: from asking for the stop, so that a backend's wait for its turn on a busy processor
    // counts, too.
    assert!(
        share(99) <= LIMIT,
        "99 % stood still for up to {:.3} ms",
        share(99)
    );
}

/// Looks, and returns for how long each backend stood still.
fn look_around(observer: &mut Client, load_ended: impl Fn() -> bool) -> Vec<f64> {
    let mut stopped = Vec::new();
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    while stopped.len() < LOOKS {
        assert!(!load_ended(), "the load has ended before its time");
        let Some(pid) = some_backend(observer) else {
            // Between two runs of pgbench.
            thread::yield_now();
            continue;
        };
        // Every tenth without asking for the handlers.
        let args: &[&str] = match stopped.len() % 10 {
            9 => &["inspect", "--passive"],
            _ => &["inspect"],
        };
        let run = run_json(args, pid);
        // It has ended meanwhile.
        if run.code() == Some(7) {
            continue;
        }
        let report = Report::read(run, pid);
        report.assert_verdict("pointless");
        let cause = report.text("/cause/code");
        assert!(CAUSES.contains(&cause), "a well backend: {}", report.run);
        *seen.entry(cause.to_owned()).or_default() += 1;
        stopped.push(report.at("/stopped_ms").as_f64().expect("milliseconds"));
    }
    eprintln!("causes: {seen:?}");
    stopped
}
