//! What an interrupt would mean, and for whom: what the client gets to read, and what ending this kind of backend
//! brings about. Sentences for the question on the terminal, for `--dry-run`, and for a script to show.

use super::{Interrupt, rules};
use crate::postgres::{BackendType, Layout, Receiver, Restart, Synchronous};
use crate::snapshot::{Signals, Snapshot};

/// What kind of backend it is, as far as ending it makes a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Client,
    ParallelWorker,
    WalSender,
    AutovacuumWorker,
    LogicalReplication,
    BackgroundWorker,
    SlotSync,
}

/// What is said of one kind.
struct Row {
    kind: Kind,
    cancel: fn(&Subject) -> Vec<String>,
    terminate: fn(&Subject) -> Vec<String>,
}

const TABLE: [Row; 7] = [
    Row {
        kind: Kind::Client,
        cancel: cancel_of_client,
        terminate: end_of_client,
    },
    Row {
        kind: Kind::ParallelWorker,
        cancel: |s| of_parallel_worker(s, CANCELLED, "57014"),
        terminate: |s| of_parallel_worker(s, &end_of_worker_text(s), "57P01"),
    },
    Row {
        kind: Kind::WalSender,
        cancel: |s| of_walsender(s, "its command", "fails", CANCELLED, "57014"),
        terminate: |s| of_walsender(s, "it", "ends", ENDED, "57P01"),
    },
    Row {
        kind: Kind::AutovacuumWorker,
        cancel: cancel_of_autovacuum,
        terminate: end_of_autovacuum,
    },
    Row {
        kind: Kind::LogicalReplication,
        cancel: cancel_of_apply,
        terminate: end_of_apply,
    },
    Row {
        kind: Kind::BackgroundWorker,
        cancel: cancel_of_worker,
        terminate: end_of_worker,
    },
    Row {
        kind: Kind::SlotSync,
        cancel: |_| slots("what it does fails, and it ends"),
        terminate: |_| slots("it ends"),
    },
];

/// ProcessInterrupts(), src/backend/tcop/postgres.c, in all versions.
const CANCELLED: &str = "canceling statement due to user request";
const ENDED: &str = "terminating connection due to administrator command";

/// Whom it hits.
struct Subject<'s> {
    snapshot: &'s Snapshot,
}

impl Subject<'_> {
    /// What differs in its version; the newest one's where that is not known.
    fn version(&self) -> &'static Layout {
        Layout::of_text_or_newest(self.snapshot.backend.server_version.as_deref())
    }

    fn session(&self) -> String {
        match (&self.snapshot.backend.user, &self.snapshot.backend.database) {
            (Some(user), Some(database)) => format!("the session of {user} in {database}"),
            _ => format!("the {}", self.snapshot.backend.backend_type),
        }
    }

    /// A worker's name, or what else it is called.
    fn name(&self) -> &str {
        let facts = &self.snapshot.backend;
        facts.worker.as_ref().map_or(&facts.title, |w| &w.name)
    }

    fn kind(&self) -> Option<Kind> {
        let facts = &self.snapshot.backend;
        // Up to 15 all workers of subscriptions are of one type, later there is one for each kind; the launcher is of
        // its own, and has nothing to lose.
        let what = facts.worker.as_ref().map_or(&facts.title, |w| &w.kind);
        Some(match facts.backend_type {
            BackendType::Client => Kind::Client,
            BackendType::BackgroundWorker if facts.parallel_leader.is_some() => {
                Kind::ParallelWorker
            }
            BackendType::BackgroundWorker
                if what.starts_with("logical replication") && !what.ends_with("launcher") =>
            {
                Kind::LogicalReplication
            }
            BackendType::BackgroundWorker => Kind::BackgroundWorker,
            BackendType::WalSender => Kind::WalSender,
            BackendType::AutovacuumWorker => Kind::AutovacuumWorker,
            BackendType::SlotSync => Kind::SlotSync,
            _ => return None,
        })
    }
}

/// What `interrupt` would mean in this backend, a sentence each, the most important first. Texts of others' choice are
/// as they were found.
pub fn of(snapshot: &Snapshot, interrupt: Interrupt) -> Vec<String> {
    let subject = Subject { snapshot };
    let row = TABLE.iter().find(|row| Some(row.kind) == subject.kind());
    match (interrupt, row) {
        (Interrupt::Nothing, _) => Vec::new(),
        (Interrupt::Barrier, _) => {
            vec!["it accepts a ProcSignalBarrier; nothing ends".into()]
        }
        (Interrupt::Cancel, Some(row)) => (row.cancel)(&subject),
        (Interrupt::Terminate, Some(row)) => {
            let mut all = (row.terminate)(&subject);
            all.extend(stopping(snapshot));
            all.extend(at_exit(snapshot));
            all
        }
        // Such a process is never interrupted.
        (_, None) => Vec::new(),
    }
}

/// A fast or a smart shutdown waits for all sessions (PostmasterStateMachine(), src/backend/postmaster/postmaster.c).
fn stopping(snapshot: &Snapshot) -> Option<String> {
    (snapshot.backend.server_stopping == Some(true)).then(|| {
        "the server was told to stop, and waits for its sessions to end: with this one gone it goes on to stop".into()
    })
}

/// Other code in the middle of its work, which exit() then runs the clean-ups of (exit(3), atexit(3)): a process that is
/// killed by a signal there has crashed to its postmaster (CleanupBackend(), src/backend/postmaster/postmaster.c).
fn at_exit(snapshot: &Snapshot) -> Option<String> {
    let frames = snapshot.stack.as_ref().map(|s| &s.frames[..])?;
    let name = frames
        .iter()
        .find_map(|f| rules::runtime_of(f).or_else(|| super::libraries::client(f)))?;
    Some(format!(
        "{name} is in the middle of its work, and what it does at exit runs then: if that crashes, all sessions of the server end, and it goes through crash recovery; if that hangs, the process stays"
    ))
}

/// A SIGTERM was sent and waits, blocked as a rule: once an ERROR has jumped out of the statement, PostgresMain() lets all
/// signals through (src/backend/tcop/postgres.c), and this one ends the session.
pub(super) fn sigterm_waits(snapshot: &Snapshot) -> bool {
    Signals::has(snapshot.signals.pending, libc::SIGTERM) == Some(true)
}

fn cancel_of_client(s: &Subject) -> Vec<String> {
    let session = match sigterm_waits(s.snapshot) {
        true => "a SIGTERM that was sent before, and is blocked so far, ends the session then",
        false => "the session goes on",
    };
    let mut all = vec![format!(
        "the statement of {} fails with \"{CANCELLED}\" (SQLSTATE 57014); {session}",
        s.session()
    )];
    let facts = &s.snapshot.backend;
    all.push(
        match (facts.transaction_start, facts.statement_start) {
            (Some(transaction), Some(statement)) if transaction < statement => {
                "the transaction that it is part of, begun before it, fails with it: what that has done is rolled back, unless the client goes back to a savepoint"
            }
            (Some(_), Some(_)) => "what it has done is rolled back",
            _ => "what it has done is rolled back; whether a longer transaction fails with it is not known",
        }
        .into(),
    );
    if more_than_one(facts.query.as_deref()) {
        all.push("what else was sent in the same message is not run".into());
    }
    all.extend(workers(s));
    all
}

fn end_of_client(s: &Subject) -> Vec<String> {
    if s.snapshot.variables.client_auth_in_progress == Some(true) {
        return vec![
            "nobody is logged in yet: the connection ends with \"canceling authentication due to timeout\""
                .into(),
        ];
    }
    let mut all = vec![
        format!(
            "{} ends with \"{ENDED}\" (SQLSTATE 57P01), and the client loses its connection",
            s.session()
        ),
        "its transaction is rolled back; temporary tables, prepared statements, settings and advisory locks of the session are gone"
            .into(),
    ];
    all.extend(workers(s));
    all
}

/// Whether a text from the client holds several statements, at a guess that a semicolon in a literal misleads.
fn more_than_one(query: Option<&str>) -> bool {
    let text = query.unwrap_or_default().trim_end();
    text.trim_end_matches(';').contains("; ")
}

/// The end of a leader's transaction ends its workers, and waits for that with interrupts held off
/// (DestroyParallelContext(), src/backend/access/transam/parallel.c).
fn workers(s: &Subject) -> Option<String> {
    let workers = s.snapshot.backend.parallel_workers.as_deref()?;
    let pids: Vec<String> = workers.iter().map(i32::to_string).collect();
    match &pids[..] {
        [] => None,
        [pid] => Some(format!(
            "its parallel worker {pid} is ended, too, and it waits for that: if the worker is stuck, interrupt that first"
        )),
        _ => Some(format!(
            "its parallel workers {} are ended, too, and it waits for that: if one is stuck, interrupt that first",
            pids.join(", ")
        )),
    }
}

/// A worker's FATAL comes to its leader as an ERROR (HandleParallelMessage(), src/backend/access/transam/parallel.c).
fn of_parallel_worker(s: &Subject, text: &str, sqlstate: &str) -> Vec<String> {
    let leader = s.snapshot.backend.parallel_leader.unwrap_or_default();
    vec![
        format!(
            "the query of its leader, process {leader}, fails with \"{text}\" (SQLSTATE {sqlstate}); that session goes on"
        ),
        "the query's other workers are ended with it".into(),
        format!("to end the session, interrupt process {leader} afterwards"),
    ]
}

/// The text is ProcessInterrupts()'s, with `bgw_type`; up to 13 it makes no difference between these and a client's
/// backend.
fn end_of_worker_text(s: &Subject) -> String {
    let worker = s.snapshot.backend.worker.as_ref();
    match s.version().names_ended_worker.get() {
        Some(true) => format!(
            "terminating background worker \"{}\" due to administrator command",
            worker.map_or("…", |w| &w.kind)
        ),
        _ => ENDED.into(),
    }
}

fn of_walsender(s: &Subject, what: &str, does: &str, text: &str, sqlstate: &str) -> Vec<String> {
    let facts = &s.snapshot.backend;
    let fails = format!("{what} {does} with \"{text}\" (SQLSTATE {sqlstate})");
    let receiver = match &facts.application_name {
        Some(name) => format!("{name}, which receives from it,"),
        None => "whoever receives from it".into(),
    };
    if facts.receiver.as_ref().is_some_and(|r| r.in_backup) {
        let lost = format!("{receiver} loses its base backup, and has to begin it anew");
        return vec![fails, lost];
    }
    vec![
        fails,
        format!(
            "{receiver} loses its stream; a standby or a subscriber connects again by itself, and catches up if the WAL that it lacks is kept for it"
        ),
        commits(facts.receiver.as_ref()),
    ]
}

/// What the end of a walsender means for those who commit: they wait until so many standbys have confirmed
/// (SyncRepWaitForLSN(), SyncRepGetSyncRecPtr(), src/backend/replication/syncrep.c).
fn commits(receiver: Option<&Receiver>) -> String {
    let Some(receiver) = receiver else {
        return "whether it is a synchronous standby is not known: if so, commits wait until it is back".into();
    };
    let Some(Synchronous { needed, others }) = receiver.synchronous else {
        return "no commit waits for it: it is no synchronous standby, or none yet".into();
    };
    let standby = "it is a synchronous standby";
    match others {
        Some(n) if n >= needed => {
            format!(
                "{standby}; commits go on: they need {needed} of these, and {n} more are connected"
            )
        }
        Some(n) => format!(
            "{standby}: COMMITS WAIT UNTIL IT IS BACK, for they need {needed} of these, and besides it {n} are connected"
        ),
        None => format!(
            "{standby}: commits may wait until it is back; they need {needed} of these, and how many others are connected is not known"
        ),
    }
}

fn cancel_of_autovacuum(s: &Subject) -> Vec<String> {
    let mut all = vec![
        "its work on this table is given up (\"canceling autovacuum task\"), and it goes on with the next one; no client is hit"
            .into(),
    ];
    all.push(back(s, "the table's turn comes again"));
    all
}

fn end_of_autovacuum(s: &Subject) -> Vec<String> {
    let mut all = vec![
        "it ends with \"terminating autovacuum process due to administrator command\", and what it has done to this table is given up; no client is hit"
            .into(),
    ];
    all.push(back(s, "the launcher starts another one"));
    all
}

/// autovacuum.c says so in the activity (autovac_report_activity()).
fn back(s: &Subject, what: &str) -> String {
    let query = s.snapshot.backend.query.as_deref().unwrap_or_default();
    match query.ends_with("(to prevent wraparound)") {
        true => format!(
            "{what} at once: it prevents transaction ID wraparound, and has to come to its end some time"
        ),
        false => format!("{what} within autovacuum_naptime, if the table still needs it"),
    }
}

/// ApplyWorkerMain() and its kin, src/backend/replication/logical/worker.c: an ERROR disables a subscription that is to
/// be, a FATAL passes that by.
fn cancel_of_apply(s: &Subject) -> Vec<String> {
    let mut all = vec![format!(
        "its transaction fails with \"{CANCELLED}\", and the worker ends"
    )];
    if s.version().disables_subscription.get() == Some(&true) {
        all.push("a subscription with disable_on_error is disabled by that; to be enabled again with ALTER SUBSCRIPTION … ENABLE".into());
    }
    all.extend(apply_comes_back());
    all
}

fn end_of_apply(_: &Subject) -> Vec<String> {
    let mut all = vec![
        "it ends with \"terminating logical replication worker due to administrator command\", and its transaction is rolled back"
            .into(),
    ];
    all.extend(apply_comes_back());
    all
}

fn apply_comes_back() -> [String; 2] {
    [
        "the launcher starts it again after wal_retrieve_retry_interval (5 s unless set otherwise)"
            .into(),
        "the subscription falls behind until then, and loses nothing: what was not committed is sent again"
            .into(),
    ]
}

/// Without a handler of its own, an ERROR ends a worker with status 1 (StartBackgroundWorker() or BackgroundWorkerMain(),
/// src/backend/postmaster/bgworker.c).
fn cancel_of_worker(s: &Subject) -> Vec<String> {
    vec![
        format!(
            "what {} does at the moment fails with \"{CANCELLED}\"; unless it handles errors by itself, it ends with status 1",
            s.name()
        ),
        restart(s, "then "),
    ]
}

fn end_of_worker(s: &Subject) -> Vec<String> {
    vec![
        format!("it ends with \"{}\"", end_of_worker_text(s)),
        restart(s, ""),
    ]
}

fn restart(s: &Subject, then: &str) -> String {
    match s.snapshot.backend.worker.as_ref().map(|w| w.restart) {
        Some(Restart::Never) => {
            format!("{then}the postmaster does not start it again: whoever needs it has to")
        }
        Some(Restart::After(0)) => format!("{then}the postmaster starts it again at once"),
        Some(Restart::After(n)) => format!("{then}the postmaster starts it again after {n} s"),
        None => {
            format!("{then}whether and when the postmaster starts it again is not known")
        }
    }
}

/// SlotSyncWorkerCanRestart(), src/backend/replication/logical/slotsync.c (17 and later).
fn slots(what: &str) -> Vec<String> {
    vec![
        what.into(),
        "the postmaster starts it again, 10 s after its last start at the earliest; until then no slot is synchronized".into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::Worker;

    /// A client's backend of 15, as it was captured.
    fn captured() -> Snapshot {
        let text = include_str!("../../tests/fixtures/spin-cancel.json");
        serde_json::from_str(text).expect("a snapshot")
    }

    fn worker(name: &str, kind: &str, restart: Restart) -> Snapshot {
        let mut s = captured();
        s.backend.backend_type = BackendType::BackgroundWorker;
        s.backend.worker = Some(Worker {
            name: name.into(),
            kind: kind.into(),
            restart,
        });
        s
    }

    fn all(s: &Snapshot, interrupt: Interrupt) -> String {
        of(s, interrupt).join("\n")
    }

    #[test]
    fn each_kind_that_may_be_interrupted_has_something_to_lose() {
        use BackendType::*;
        for kind in [
            Client,
            AutovacuumWorker,
            BackgroundWorker,
            WalSender,
            SlotSync,
        ] {
            let mut s = captured();
            s.backend.backend_type = kind;
            for interrupt in [Interrupt::Cancel, Interrupt::Terminate] {
                let said = of(&s, interrupt);
                assert!(kind.may_be_interrupted() && !said.is_empty(), "{kind}");
                assert!(said.iter().all(|t| !t.is_empty() && !t.ends_with('.')));
            }
            assert!(of(&s, Interrupt::Nothing).is_empty());
        }
        for kind in [Postmaster, Checkpointer, Unknown] {
            let mut s = captured();
            s.backend.backend_type = kind;
            assert!(of(&s, Interrupt::Terminate).is_empty(), "{kind}");
        }
    }

    #[test]
    fn a_client_and_its_transaction() {
        let mut s = captured();
        assert!(all(&s, Interrupt::Cancel).contains("the session goes on"));
        s.signals.pending = Some(1 << (libc::SIGTERM - 1));
        assert!(all(&s, Interrupt::Cancel).contains("ends the session then"));
        s.backend.statement_start = Some(20);
        for (transaction, said) in [
            (Some(10), "begun before it"),
            (Some(20), "what it has done is rolled back"),
            (None, "is not known"),
        ] {
            s.backend.transaction_start = transaction;
            assert!(all(&s, Interrupt::Cancel).contains(said), "{transaction:?}");
        }
        s.backend.query = Some("SELECT 1; SELECT 2".into());
        assert!(all(&s, Interrupt::Cancel).contains("same message"));
        s.backend.query = Some("SELECT 1; ".into());
        assert!(!all(&s, Interrupt::Cancel).contains("same message"));
        s.backend.parallel_workers = Some(vec![7, 8]);
        assert!(all(&s, Interrupt::Terminate).contains("workers 7, 8"));
        s.backend.parallel_workers = Some(vec![]);
        assert!(!all(&s, Interrupt::Terminate).contains("parallel"));
        s.variables.client_auth_in_progress = Some(true);
        assert!(all(&s, Interrupt::Terminate).contains("canceling authentication"));
    }

    #[test]
    fn who_waits_for_a_walsender() {
        let said = |receiver| {
            let mut s = captured();
            s.backend.backend_type = BackendType::WalSender;
            s.backend.receiver = receiver;
            all(&s, Interrupt::Terminate)
        };
        let synchronous = |needed, others| {
            said(Some(Receiver {
                in_backup: false,
                synchronous: Some(Synchronous { needed, others }),
            }))
        };
        assert!(said(None).contains("is not known: if so"));
        assert!(synchronous(1, Some(0)).contains("COMMITS WAIT"));
        assert!(synchronous(2, Some(1)).contains("need 2 of these, and besides it 1"));
        assert!(synchronous(1, Some(1)).contains("commits go on"));
        assert!(synchronous(1, None).contains("commits may wait"));
        let receives = |in_backup| {
            said(Some(Receiver {
                in_backup,
                synchronous: None,
            }))
        };
        assert!(receives(false).contains("no commit waits"));
        let backup = receives(true);
        assert!(backup.contains("begin it anew") && !backup.contains("stream"));
    }

    #[test]
    fn workers_and_when_they_come_back() {
        let said = |restart| all(&worker("w", "w", restart), Interrupt::Terminate);
        assert!(said(Restart::Never).contains("does not start it again"));
        assert!(said(Restart::After(7)).contains("after 7 s"));
        assert!(said(Restart::After(0)).contains("at once"));
        let mut unknown = worker("w", "w", Restart::Never);
        unknown.backend.worker = None;
        assert!(all(&unknown, Interrupt::Terminate).contains("is not known"));

        let mut parallel = worker(
            "parallel worker for PID 7",
            "parallel worker",
            Restart::Never,
        );
        parallel.backend.parallel_leader = Some(7);
        let text = "terminating background worker \"parallel worker\"";
        assert!(all(&parallel, Interrupt::Terminate).contains(text));
        parallel.backend.server_version = Some("13.23".into());
        assert!(all(&parallel, Interrupt::Terminate).contains(ENDED));

        let kind = "logical replication worker";
        let apply = worker(
            "logical replication worker for subscription 1",
            kind,
            Restart::Never,
        );
        assert!(all(&apply, Interrupt::Cancel).contains("disable_on_error"));
        assert!(!all(&apply, Interrupt::Terminate).contains("disable_on_error"));
        let kind = "logical replication launcher";
        let launcher = worker(kind, kind, Restart::After(5));
        assert!(all(&launcher, Interrupt::Terminate).contains("after 5 s"));
    }

    #[test]
    fn a_vacuum_against_wraparound_comes_back_at_once() {
        let mut s = captured();
        s.backend.backend_type = BackendType::AutovacuumWorker;
        s.backend.query = Some("autovacuum: VACUUM public.t".into());
        assert!(all(&s, Interrupt::Cancel).contains("within autovacuum_naptime"));
        s.backend.query = Some("autovacuum: VACUUM public.t (to prevent wraparound)".into());
        assert!(all(&s, Interrupt::Cancel).contains("at once"));
    }
}
