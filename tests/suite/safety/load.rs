//! Interrupts by the thousand on a server that is busy for fifty others, none of whom may notice.

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use postgres::Client;

use super::{figure, times};
use crate::harness::{
    Backend, DEADLINE, How, Installation, Run, Server, checked, server_with_testext, skip, wait_for,
};
use crate::matrix::{Actor, ROWS, Scenario, round};
use crate::report::{Report, run_json};

/// What pgbench has.
const CONNECTIONS: &str = "50";

/// Backends that are stuck at the same time, of those that can be freed.
const AT_ONCE: usize = 12;

/// An hour, if ten thousand are made.
const PACE: Duration = Duration::from_millis(360);

/// How many are made, unless PGPOKE_LOAD says how many.
fn interrupts() -> usize {
    let said = std::env::var("PGPOKE_LOAD").ok();
    let said = said.map(|n| n.parse().expect("PGPOKE_LOAD is a number"));
    said.unwrap_or_else(|| times(500, 10_000))
}

/// What came of all interrupts so far.
#[derive(Default)]
struct Tally {
    made: AtomicUsize,
    /// Milliseconds for which each backend stood still in one look, as pgpoke has it: from asking for the stop, which on
    /// a busy machine takes until it is the backend's turn.
    stopped: Mutex<Vec<f64>>,
    /// How often a stop lasted too long and the backend was let go, as pgpoke has to.
    let_go: AtomicUsize,
}

impl Tally {
    /// Interrupts, and once more where pgpoke gave up a stop that the machine was too busy for. None if it had come far
    /// enough by then: what is left to be seen is that the backend ended as it was asked to.
    fn interrupt(&self, args: &[&str], pid: i32) -> Option<Report> {
        for turn in 0..5 {
            let run = run_json(args, pid);
            self.made.fetch_add(1, Ordering::Relaxed);
            // Or the backend itself had no turn in which to stop.
            let let_go = run.code() == Some(8)
                && (run.stderr.contains("and was let go")
                    || run.stderr.contains("nothing was changed in it"));
            // The kernel's timer ends a pgpoke that has no turn even for its last words.
            if let_go || run.signal() == Some(libc::SIGKILL) {
                self.let_go.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            if turn > 0 && matches!(run.code(), Some(5 | 7)) {
                return None;
            }
            let report = Report::read(run, pid);
            if let Some(stopped) = report.at("/stopped_ms").as_f64() {
                let looks = report.at("/attempts").as_f64().unwrap_or_default();
                self.stopped
                    .lock()
                    .expect("a list")
                    .push(stopped / looks.max(1.0));
            }
            return Some(report);
        }
        panic!("five stops in a row of process {pid} lasted too long");
    }

    fn made(&self) -> usize {
        self.made.load(Ordering::Relaxed)
    }
}

/// pgbench, again and again, until there is enough. Returns how many transactions it made.
fn keep_busy(server: &Server, enough: &AtomicBool) -> usize {
    let mut transactions = 0;
    while !enough.load(Ordering::Relaxed) {
        let mut pgbench = Command::new(server.installation().program("pgbench"));
        pgbench.args(["-n", "-c", CONNECTIONS, "-j", "2", "-T", "5"]);
        pgbench.arg(server.conninfo());
        let run = Run::within(Duration::from_secs(120), pgbench);
        run.assert_code(0)
            .assert_says("number of failed transactions: 0 (");
        let count = run
            .stdout
            .lines()
            .find_map(|l| l.strip_prefix("number of transactions actually processed: "));
        let count = count.and_then(|n| n.parse::<usize>().ok());
        transactions += count.unwrap_or_else(|| panic!("no count:\n{run}"));
    }
    transactions
}

/// Rows that pgpoke can free in one way at least, and the others.
fn rows() -> (Vec<&'static Scenario>, Vec<&'static Scenario>) {
    ROWS.iter()
        // The server itself panics about that after two minutes.
        .filter(|(name, _)| *name != "spinlock")
        .map(|(_, scenario)| scenario)
        .filter(|scenario| scenario.is_of_testext())
        .partition(|scenario| How::BOTH.iter().any(|how| scenario.can_be_freed(*how)))
}

/// Keeps a steady pace in the long form.
fn keep_pace(start: Instant, made: usize) {
    if times(0, 1) == 1 {
        let due = start + PACE * made as u32;
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// One that cannot be freed, and does not keep a processor busy between two rounds.
struct Resting<'s> {
    actor: Actor<'s>,
    stopped: bool,
}

impl<'s> Resting<'s> {
    fn of(actor: Actor<'s>) -> Self {
        let stopped = actor.backend().state() == Some('R');
        if stopped {
            actor.backend().send(libc::SIGSTOP);
        }
        Self { actor, stopped }
    }

    fn wake(self) -> Actor<'s> {
        if self.stopped {
            let backend = self.actor.backend();
            backend.send(libc::SIGCONT);
            wait_for(DEADLINE, "it shall go on", || {
                (backend.state() != Some('T')).then_some(())
            });
        }
        self.actor
    }
}

/// Whoever fails makes the others stop, too.
fn until_all_are_made(tally: &Tally, failed: &AtomicBool, mut once: impl FnMut()) {
    let start = Instant::now();
    while tally.made() < interrupts() && !failed.load(Ordering::Relaxed) {
        keep_pace(start, tally.made());
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&mut once));
        if let Err(panic) = done {
            failed.store(true, Ordering::Relaxed);
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn interrupts_on_a_busy_server_disturb_no_one() {
    let builder = Server::builder()
        .alone()
        .pooled()
        .checksums()
        .setting("max_connections", "120")
        .setting("shared_buffers", "64MB")
        .setting("log_line_prefix", "%m %a [%p] ");
    let server = server_with_testext!(builder);
    if !server.installation().program("pgbench").exists() {
        skip!("no pgbench in {}", server.installation().bindir.display());
    }
    // Whoever cannot be freed would keep the server from being shut down; they are on another one.
    let other = server_with_testext!(Server::builder().pooled().setting("max_connections", "60"));
    let mut pgbench = Command::new(server.installation().program("pgbench"));
    pgbench.args(["-i", "-q", "-s", "5"]).arg(server.conninfo());
    Run::within(Duration::from_secs(120), pgbench).assert_code(0);

    // The backends, not pgpoke and not pgbench: it is pgpoke's stops that are counted, on two processors.
    let postmaster = server.postmaster().pid.to_string();
    checked(Command::new("renice").args(["-n", "5", "-p", &postmaster]));
    let (free, fast) = rows();
    assert!(free.len() > 10 && fast.len() > 5);
    let tally = Tally::default();
    let (enough, failed) = (AtomicBool::new(false), AtomicBool::new(false));
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    let transactions = thread::scope(|scope| {
        let busy = scope.spawn(|| keep_busy(&server, &enough));
        let mut workers: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(|| {
                    until_all_are_made(&tally, &failed, || {
                        let row = free[next.fetch_add(1, Ordering::Relaxed) % free.len()];
                        let left =
                            round(&server, row, None, |args, pid| tally.interrupt(args, pid));
                        assert!(left.is_none(), "it was to be freed");
                    });
                })
            })
            .collect();
        workers.push(scope.spawn(|| {
            let mut actors: Vec<_> = fast.iter().map(|_| None).collect();
            let mut n = 0;
            until_all_are_made(&tally, &failed, || {
                let (row, actor) = (fast[n % fast.len()], &mut actors[n % fast.len()]);
                let left = actor.take().map(Resting::wake);
                let interrupt = |args: &[&str], pid| tally.interrupt(args, pid);
                *actor = round(&other, row, left, interrupt).map(Resting::of);
                n += 1;
            });
            assert!(failed.load(Ordering::Relaxed) || n > fast.len(), "{n}");
        }));
        let ends: Vec<_> = workers.into_iter().map(|w| w.join()).collect();
        eprintln!("{} interrupts in {:?}", tally.made(), start.elapsed());
        enough.store(true, Ordering::Relaxed);
        let transactions = busy.join();
        for end in ends {
            end.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        transactions.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    let took = start.elapsed();
    tell(&tally, took, transactions);
    other.assert_unharmed();
    no_one_noticed(&server);
    nothing_is_broken(&server);
}

fn tell(tally: &Tally, took: Duration, transactions: usize) {
    let made = tally.made();
    let mut stopped = tally.stopped.lock().expect("a list").clone();
    stopped.sort_by(f64::total_cmp);
    let share = |percent: usize| stopped[(stopped.len() * percent / 100).min(stopped.len() - 1)];
    let seconds = took.as_secs_f64();
    figure("load: interrupts", made);
    figure(
        "load: interrupts per second",
        format!("{:.1}", made as f64 / seconds),
    );
    figure("load: transactions of others meanwhile", transactions);
    figure(
        "load: from asking for a stop to its end, ms a look (50 %, 90 %, 99 %, at most)",
        format!(
            "{:.3}, {:.3}, {:.3}, {:.3}",
            share(50),
            share(90),
            share(99),
            share(100)
        ),
    );
    let let_go = tally.let_go.load(Ordering::Relaxed);
    figure("load: stops given up because they lasted too long", let_go);
    // With fifty busy processes on two processors pgpoke itself has to wait for its turn.
    assert!(
        let_go * 20 <= made,
        "{let_go} of {made} stops lasted too long"
    );
}

/// No session of pgbench's was told of an error, and nobody of a crash.
#[track_caller]
fn no_one_noticed(server: &Server) {
    server.assert_unharmed();
    let log = server.log();
    let harmed = |line: &&str| {
        let level = ["WARNING:", "ERROR:", "FATAL:", "PANIC:"];
        let grave = ["PANIC", "TRAP", "corrupt", "leak"];
        (line.contains(" pgbench [") && level.iter().any(|l| line.contains(l)))
            || grave.iter().any(|g| line.contains(g))
    };
    let lines: Vec<_> = log.lines().filter(harmed).collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
    assert!(
        log.contains("stuck on purpose ["),
        "the log names no session"
    );
}

/// All indexes and tables are sound, and so is each page on disk.
#[track_caller]
fn nothing_is_broken(server: &Server) {
    let mut client = server.connect();
    client
        .batch_execute("CREATE EXTENSION IF NOT EXISTS amcheck; CHECKPOINT")
        .expect("amcheck");
    let indexes = client
        .query(
            "SELECT c.oid::regclass::text, bt_index_parent_check(c.oid, true, true)::text
             FROM pg_class c JOIN pg_am a ON a.oid = c.relam JOIN pg_index i ON i.indexrelid = c.oid
             WHERE a.amname = 'btree' AND c.relkind = 'i' AND i.indisvalid AND c.relpersistence = 'p'",
            &[],
        )
        .expect("sound indexes");
    let broken = client
        .query(
            "SELECT c.oid::regclass::text || ': ' || v.msg
             FROM pg_class c, LATERAL verify_heapam(c.oid) v
             WHERE c.relkind IN ('r', 't', 'm') AND c.relpersistence = 'p'",
            &[],
        )
        .expect("sound tables");
    let broken: Vec<String> = broken.iter().map(|row| row.get(0)).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(indexes.len() > 50, "{}", indexes.len());
    figure("load: indexes checked", indexes.len());
    // What pgbench's transactions add up to: each adds the same amount in four places.
    let sums = client
        .query_one(
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(tbalance) FROM pgbench_tellers)
                AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(bbalance) FROM pgbench_branches)
                AND (SELECT sum(bbalance) FROM pgbench_branches) = (SELECT sum(delta) FROM pgbench_history)",
            &[],
        )
        .expect("four sums");
    assert!(sums.get::<_, bool>(0), "an update was lost");
    drop(client);
    server.shut_down();
    let mut check = Installation::command(server.installation().program("pg_checksums"));
    checked(check.args(["--check", "-D"]).arg(server.data_directory()));
}

/// What a session has of memory: of its contexts in all, and of its process.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Use {
    contexts: i64,
    top: i64,
    anonymous_kib: i64,
}

impl Use {
    fn of(client: &mut Client, backend: Backend) -> Self {
        let sql = "SELECT sum(total_bytes)::bigint, (sum(total_bytes) FILTER (WHERE parent IS NULL))::bigint
                   FROM pg_backend_memory_contexts";
        let row = client.query_one(sql, &[]).expect("memory contexts");
        let anonymous = backend.status("RssAnon").expect("RssAnon");
        let kib = anonymous.trim_end_matches(" kB").trim().parse();
        Use {
            contexts: row.get(0),
            top: row.get(1),
            anonymous_kib: kib.expect("a number"),
        }
    }
}

#[test]
fn a_backend_that_is_cancelled_again_and_again_does_not_grow() {
    let server = server_with_testext!();
    let mut client = server.connect();
    let pid: i32 = client
        .query_one("SELECT pg_backend_pid()", &[])
        .expect("the backend's PID")
        .get(0);
    let backend = Backend::open(pid).expect("the backend");
    let count = times(100, 1000);
    // The session starts the next statement as soon as it is told to.
    let (start, starts) = mpsc::channel::<()>();
    let (end, ends) = mpsc::channel();
    let (used, uses) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            for (n, ()) in starts.into_iter().enumerate() {
                let failed = client
                    .simple_query("SELECT pgpoke_spin()")
                    .expect_err("an endless statement");
                let state = failed.code().map(|c| c.code().to_owned());
                // The first ones fill caches.
                if n == 20 || n == count + 20 {
                    // The query itself has something to cache, too.
                    Use::of(&mut client, backend);
                    used.send(Use::of(&mut client, backend))
                        .expect("a listener");
                }
                end.send(state).expect("a listener");
            }
        });
        let begun = Instant::now();
        for _ in 0..=count + 20 {
            let ticks = backend.cpu_ticks();
            start.send(()).expect("the session's thread");
            wait_for(DEADLINE, "the statement shall compute", || {
                (backend.cpu_ticks() > ticks + 1).then_some(())
            });
            let args = ["interrupt", "--yes", "--cancel", "--grace", "1ms"];
            Report::of(&args, pid).assert_outcome("cancelled", 0);
            let state = ends.recv_timeout(DEADLINE).expect("the statement's end");
            assert_eq!(state.as_deref(), Some("57014"));
        }
        figure(
            "load: the same backend cancelled, times per second",
            format!("{:.1}", (count + 21) as f64 / begun.elapsed().as_secs_f64()),
        );
        drop(start);
    });
    let uses: Vec<Use> = uses.iter().collect();
    let [before, after] = uses[..] else {
        panic!("{uses:?}");
    };
    figure("load: cancelled so often", count);
    figure(
        "load: bytes in memory contexts before and after",
        format!("{} {}", before.contexts, after.contexts),
    );
    figure(
        "load: KiB of anonymous memory before and after",
        format!("{} {}", before.anonymous_kib, after.anonymous_kib),
    );
    assert_eq!((before.contexts, before.top), (after.contexts, after.top));
    // A page or two are touched late; a leak of only a page each time would be many times that.
    assert!(after.anonymous_kib <= before.anonymous_kib + 64, "{uses:?}");
    server.assert_unharmed();
}
