//! What differs from one major version of PostgreSQL to the next: one file each, and nothing of it elsewhere. What is the same
//! in all of them is at the end of this one. Offsets hold for 64-bit builds.

mod v12;
mod v13;
mod v14;
mod v15;
mod v16;
mod v17;
mod v18;
mod v19;
/// A version that nobody knows.
#[cfg(test)]
mod v99;

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a server process is for, named as `pg_stat_activity.backend_type` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "backend_type")]
pub enum BackendType {
    /// Serves a client.
    #[serde(rename = "client backend")]
    Client,
    /// Autovacuum worker.
    #[serde(rename = "autovacuum worker")]
    AutovacuumWorker,
    /// Parallel workers, logical replication workers, and those of extensions.
    #[serde(rename = "background worker")]
    BackgroundWorker,
    /// Sends WAL to a standby or a subscriber.
    #[serde(rename = "walsender")]
    WalSender,
    /// Keeps replication slots in step on a standby.
    #[serde(rename = "slotsync worker")]
    SlotSync,
    /// Autovacuum launcher.
    #[serde(rename = "autovacuum launcher")]
    AutovacuumLauncher,
    /// Archiver.
    #[serde(rename = "archiver")]
    Archiver,
    /// Background writer.
    #[serde(rename = "background writer")]
    BackgroundWriter,
    /// Checkpointer.
    #[serde(rename = "checkpointer")]
    Checkpointer,
    /// Asynchronous I/O worker.
    #[serde(rename = "io worker")]
    IoWorker,
    /// Log collector.
    #[serde(rename = "logger")]
    Logger,
    /// Startup process: recovery.
    #[serde(rename = "startup")]
    Startup,
    /// Statistics collector.
    #[serde(rename = "stats collector")]
    StatsCollector,
    /// WAL receiver.
    #[serde(rename = "walreceiver")]
    WalReceiver,
    /// WAL summarizer.
    #[serde(rename = "walsummarizer")]
    WalSummarizer,
    /// WAL writer.
    #[serde(rename = "walwriter")]
    WalWriter,
    /// Refuses a connection that the server has no room for.
    #[serde(rename = "dead-end client backend")]
    DeadEnd,
    /// A server without a postmaster (`postgres --single`).
    #[serde(rename = "standalone backend")]
    Standalone,
    /// The postmaster.
    #[serde(rename = "postmaster")]
    Postmaster,
    /// Something that this version of pgpoke does not know.
    #[serde(rename = "unknown")]
    Unknown,
}

impl BackendType {
    /// Whether the postmaster takes an exit status of 1 from it as an ordinary end.
    ///
    /// For the others it is a crash, and all sessions would be thrown out (reaper() and its kin in
    /// src/backend/postmaster/postmaster.c), or their loss is felt by the whole server.
    pub fn may_be_interrupted(self) -> bool {
        use BackendType::*;
        matches!(
            self,
            Client | AutovacuumWorker | BackgroundWorker | WalSender | SlotSync
        )
    }
}

impl fmt::Display for BackendType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// What a backend says that it does, as `pg_stat_activity.state` words it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "activity")]
pub enum Activity {
    /// Not (yet) known.
    #[serde(rename = "undefined")]
    Undefined,
    /// Starting up (18 and later).
    #[serde(rename = "starting")]
    Starting,
    /// Waits for a command.
    #[serde(rename = "idle")]
    Idle,
    /// Runs a command.
    #[serde(rename = "active")]
    Active,
    /// Waits for a command within a transaction.
    #[serde(rename = "idle in transaction")]
    IdleInTransaction,
    /// Runs a fast-path function.
    #[serde(rename = "fastpath function call")]
    FastPath,
    /// Waits for a command within a transaction that failed.
    #[serde(rename = "idle in transaction (aborted)")]
    IdleInAbortedTransaction,
    /// `track_activities` is off.
    #[serde(rename = "disabled")]
    Disabled,
}

impl Activity {
    /// Those that a session can be in, by the words that `pg_stat_activity` has for them.
    pub const NAMED: [Activity; 7] = [
        Activity::Starting,
        Activity::Idle,
        Activity::Active,
        Activity::IdleInTransaction,
        Activity::FastPath,
        Activity::IdleInAbortedTransaction,
        Activity::Disabled,
    ];

    /// Whether no statement runs.
    pub fn is_idle(self) -> bool {
        use Activity::*;
        matches!(self, Idle | IdleInTransaction | IdleInAbortedTransaction)
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// A fact of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact<T> {
    /// It was learned.
    Is(T),
    /// This version has no such thing.
    Absent,
    /// Nobody has looked it up yet.
    Lacking,
}

impl<T> Fact<T> {
    /// What was learned; none where there is nothing, or nothing is known.
    pub fn get(&self) -> Option<&T> {
        match self {
            Fact::Is(fact) => Some(fact),
            Fact::Absent | Fact::Lacking => None,
        }
    }
}

/// The names of wait events: of each class those of its events, by number.
pub type WaitEventNames = &'static [(&'static str, &'static [&'static str])];

/// One major version: all that it differs in from others. Its file is the only place that knows it.
#[derive(Debug)]
pub struct Layout {
    /// The major version.
    pub major: u32,
    /// `BackendType` by its number (src/include/miscadmin.h; 12: pgstat.h).
    pub backend_types: Fact<&'static [BackendType]>,
    /// `BackendState` by its number (src/include/utils/backend_status.h; 12 and 13: pgstat.h).
    pub activities: Fact<&'static [Activity]>,
    /// Offsets in `PGPROC` (src/include/storage/proc.h).
    pub pgproc: Fact<PgProc>,
    /// The table of heavyweight locks.
    pub lock_table: Fact<LockTable>,
    /// `WalSnd.sync_standby_priority` (src/include/replication/walsender_private.h): in 12 behind the latch, in later
    /// versions before the spinlock. An offset in bytes.
    pub walsender_priority: Fact<i64>,
    /// Whether pqsignal() puts `wrapper_handler()` before every handler (src/port/pqsignal.c).
    pub handlers_are_wrapped: Fact<bool>,
    /// `DISCONNECT_KILLED` (src/include/pgstat.h): what die() sets `pgStatSessionEndCause` to.
    pub disconnect_killed: Fact<u32>,
    /// Whether ProcessInterrupts() names a background worker that it ends (src/backend/tcop/postgres.c).
    pub names_ended_worker: Fact<bool>,
    /// Whether an error may disable a subscription (`disable_on_error`; src/backend/replication/logical/worker.c).
    pub disables_subscription: Fact<bool>,
    /// What pgstat_get_wait_event() answers, called for every number. Minor releases only add names at the end.
    pub wait_events: Fact<WaitEventNames>,
    /// The LWLock tranches that are built in, by number (lwlocknames.h or lwlocklist.h, and `BuiltinTrancheNames`). The
    /// number after the last is `LWTRANCHE_FIRST_USER_DEFINED`.
    pub tranches: Fact<&'static [(u16, &'static str)]>,
}

impl Layout {
    /// A version of which nothing is known: what a new file starts from.
    pub const fn unknown(major: u32) -> Self {
        Layout {
            major,
            backend_types: Fact::Lacking,
            activities: Fact::Lacking,
            pgproc: Fact::Lacking,
            lock_table: Fact::Lacking,
            walsender_priority: Fact::Lacking,
            handlers_are_wrapped: Fact::Lacking,
            disconnect_killed: Fact::Lacking,
            names_ended_worker: Fact::Lacking,
            disables_subscription: Fact::Lacking,
            wait_events: Fact::Lacking,
            tranches: Fact::Lacking,
        }
    }

    /// The facts that nobody has looked up yet, by the names of their fields.
    pub fn lacks(&self) -> Vec<&'static str> {
        // Each field is named, so that a new one cannot be forgotten here.
        let Layout {
            major: _,
            backend_types,
            activities,
            pgproc,
            lock_table,
            walsender_priority,
            handlers_are_wrapped,
            disconnect_killed,
            names_ended_worker,
            disables_subscription,
            wait_events,
            tranches,
        } = self;
        fn lacks<T>(fact: &Fact<T>) -> bool {
            matches!(fact, Fact::Lacking)
        }
        let facts = [
            ("backend_types", lacks(backend_types)),
            ("activities", lacks(activities)),
            ("pgproc", lacks(pgproc)),
            ("lock_table", lacks(lock_table)),
            ("walsender_priority", lacks(walsender_priority)),
            ("handlers_are_wrapped", lacks(handlers_are_wrapped)),
            ("disconnect_killed", lacks(disconnect_killed)),
            ("names_ended_worker", lacks(names_ended_worker)),
            ("disables_subscription", lacks(disables_subscription)),
            ("wait_events", lacks(wait_events)),
            ("tranches", lacks(tranches)),
        ];
        let lacking = facts.into_iter().filter(|(_, lacks)| *lacks);
        lacking.map(|(name, _)| name).collect()
    }

    /// The row of a major version, whether or not it lacks something. For what does no harm if it is wrong, as names;
    /// everything else goes by [`Version::layout`].
    pub fn of_major(major: u32) -> Option<&'static Layout> {
        ROWS.into_iter().find(|row| row.major == major)
    }

    /// The row of a server by what it says of its version, else the newest one: for words about what is to be expected.
    pub fn of_text_or_newest(version: Option<&str>) -> &'static Layout {
        let digits = version.and_then(|v| v.split(|c: char| !c.is_ascii_digit()).next());
        let row = digits.and_then(|d| Layout::of_major(d.parse().ok()?));
        let complete = |row: &&Layout| row.lacks().is_empty();
        let newest = || ROWS.into_iter().rev().find(complete);
        row.filter(complete).or_else(newest).unwrap_or(ROWS[0])
    }
}

/// Offsets in `LOCK` and `PROCLOCK` (src/include/storage/lock.h), in bytes.
#[derive(Debug)]
pub struct LockTable {
    /// `LOCK.procLocks`: the head of the list of its PROCLOCKs.
    pub proc_locks: i64,
    /// `LOCK.waitProcs`: the head of the queue of those that wait.
    pub wait_procs: i64,
    /// `PROCLOCK.groupLeader`: the leader of the holder's parallel group, or itself.
    pub group_leader: i64,
    /// `PROCLOCK.holdMask`: the modes that are held, bit `n` for mode `n`.
    pub hold_mask: i64,
    /// `PROCLOCK.lockLink`: its link in the lock's list.
    pub lock_link: i64,
    /// `LockTagType` by its number, named as `pg_locks.locktype` does.
    pub tags: &'static [&'static str],
}

/// Offsets in `PGPROC`, in bytes.
#[derive(Debug)]
pub struct PgProc {
    /// `pid`, an int: what makes the others believable.
    pub pid: u64,
    /// `lwWaiting`: waiting for an LWLock; one byte.
    pub lw_waiting: u64,
    /// `lwWaitMode`, one byte.
    pub lw_wait_mode: u64,
    /// `lwWaitLink`: numbers of the next waiter and the one before, two ints.
    pub lw_wait_link: u64,
    /// `waitLock`: the heavyweight lock waited for, a pointer.
    pub wait_lock: u64,
    /// `waitProcLock`, a pointer.
    pub wait_proc_lock: u64,
    /// `waitLockMode`, an int.
    pub wait_lock_mode: u64,
    /// Its link in the queue of those that wait for the same lock: up to 18 `links`, with which it begins.
    pub wait_link: u64,
    /// `wait_event_info`, four bytes. Needed for 12 and 13 only; later versions export a pointer to it.
    pub wait_event_info: u64,
    /// Its size.
    pub size: u64,
}

/// All versions, in their order.
pub(crate) static ROWS: [&Layout; 8] = [
    &v12::LAYOUT,
    &v13::LAYOUT,
    &v14::LAYOUT,
    &v15::LAYOUT,
    &v16::LAYOUT,
    &v17::LAYOUT,
    &v18::LAYOUT,
    &v19::LAYOUT,
];

/// Offsets in `PgBackendStatus`, the same from 12 to 19 (src/include/utils/backend_status.h; 12 and 13: pgstat.h).
pub mod backend_status {
    /// `st_changecount`, an int; odd while the entry is being written.
    pub const CHANGE_COUNT: u64 = 0;
    /// `st_procpid`, an int: what makes the others believable.
    pub const PID: u64 = 4;
    /// `st_proc_start_timestamp`, microseconds since 2000-01-01, as all times here.
    pub const PROC_START: u64 = 16;
    /// `st_xact_start_timestamp`; 0 outside of a transaction.
    pub const XACT_START: u64 = 24;
    /// `st_activity_start_timestamp`: tells one statement from the next.
    pub const ACTIVITY_START: u64 = 32;
    /// `st_state_start_timestamp`
    pub const STATE_START: u64 = 40;
    /// `st_databaseid`, an Oid; 0 for none.
    pub const DATABASE: u64 = 48;
    /// `st_userid`, an Oid; 0 for none.
    pub const USER: u64 = 52;
    /// `st_clientaddr`: a `struct sockaddr_storage`, and its length.
    pub const CLIENT: u64 = 56;
    /// `st_state`, an int.
    pub const STATE: u64 = 232;
    /// `st_appname`, a pointer.
    pub const APPLICATION_NAME: u64 = 240;
    /// `st_activity_raw`, a pointer.
    pub const ACTIVITY: u64 = 248;
    /// As much of the entry as is read.
    pub const SIZE: u64 = 256;
}

/// Offsets in `BackgroundWorker` (src/include/postmaster/bgworker.h), in bytes. The same from 11 to 19: what 17 made
/// longer, `bgw_library_name`, comes behind them. Compiled against the headers of 13, 15 and 17.
pub mod background_worker {
    /// `bgw_name`, `BGW_MAXLEN` bytes: what its title begins with.
    pub const NAME: usize = 0;
    /// `bgw_type`, likewise: what kind of worker it is.
    pub const KIND: usize = 96;
    /// `bgw_restart_time`, an int: seconds, or -1 for `BGW_NEVER_RESTART`.
    pub const RESTART_TIME: usize = 200;
    /// As much of it as is read.
    pub const SIZE: usize = 204;
    /// The longest `bgw_restart_time` that is let pass (SanityCheckBackgroundWorker(),
    /// src/backend/postmaster/bgworker.c): USECS_PER_DAY / 1000.
    pub const LONGEST_RESTART: i32 = 86_400_000;
}

/// Offsets and numbers of a walsender's `WalSnd` (src/include/replication/walsender_private.h). Compiled against the headers
/// of 13, 15, 16, 17 and 18.
pub mod walsender {
    /// `pid`
    pub const PID: i64 = 0;
    /// `state`, a `WalSndState`.
    pub const STATE: i64 = 4;
    /// `sentPtr`
    pub const SENT: i64 = 8;
    /// `write`
    pub const WRITE: i64 = 24;
    /// `flush`: 0 until its receiver has told of one, which a base backup's never does.
    pub const FLUSH: i64 = 32;
    /// `WALSNDSTATE_BACKUP`
    pub const BACKUP: u32 = 1;
    /// `WALSNDSTATE_CATCHUP`
    pub const CATCHUP: u32 = 2;
    /// `WALSNDSTATE_STREAMING`
    pub const STREAMING: u32 = 3;
    /// `WALSNDSTATE_STOPPING`
    pub const STOPPING: u32 = 4;
    /// The highest `WalSndState`.
    pub const LAST_STATE: u32 = STOPPING;
}

/// Offsets in `SyncRepConfigData` (src/include/replication/syncrep.h), the same from 12 to 18.
pub mod sync_rep_config {
    /// `num_sync`
    pub const NUM_SYNC: i64 = 4;
    /// `nmembers`
    pub const NAMED: i64 = 12;
    /// More of either is nobody's setting.
    pub const MOST: u32 = 10_000;
}

/// A server's version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// As the server prints it, for example `15.18 (Debian 15.18-0+deb12u1)`.
    pub text: String,
    /// The major version.
    pub major: u32,
}

impl Version {
    /// What the executable's `--version` text starts with (src/include/pg_config.h, PG_BACKEND_VERSIONSTR).
    pub const PREFIX: &'static [u8] = b"postgres (PostgreSQL) ";

    /// Reads the `--version` text, as found in the executable's constants.
    pub fn parse(constant: &[u8]) -> Option<Self> {
        let text = constant.strip_prefix(Self::PREFIX)?;
        let end = text.iter().position(|b| *b == b'\n' || *b == 0)?;
        let text = std::str::from_utf8(&text[..end]).ok()?;
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        Some(Version {
            text: text.to_owned(),
            major: text[..digits].parse().ok()?,
        })
    }

    /// This version's row, if there is one that lacks nothing. Not for what comes before a first release (`18beta1`), which may still change,
    /// and not for a fork that says so in its version (`15.2-YB-…`), which may have changed anything.
    pub fn layout(&self) -> Option<&'static Layout> {
        let released = || {
            let (number, whose) = self.text.split_once(' ').unwrap_or((&self.text, ""));
            let (_, minor) = number.split_once('.')?;
            let plain = !minor.is_empty() && minor.bytes().all(|b| b.is_ascii_digit());
            // Packagers put themselves into brackets (configure --with-extra-version).
            let packaged = whose.is_empty() || whose.starts_with('(') && whose.ends_with(')');
            (plain && packaged).then_some(())
        };
        released()?;
        Layout::of_major(self.major).filter(|row| row.lacks().is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::BackendType as B;
    use super::*;

    #[test]
    fn versions_as_servers_print_them() {
        let parse = |t: &str| Version::parse(format!("postgres (PostgreSQL) {t}\n\0").as_bytes());
        let debian = parse("15.18 (Debian 15.18-0+deb12u1)").unwrap();
        assert_eq!(debian.major, 15);
        assert_eq!(debian.text, "15.18 (Debian 15.18-0+deb12u1)");
        assert_eq!(parse("19rc1").unwrap().major, 19);
        assert_eq!(parse("20devel").unwrap().layout().map(|l| l.major), None);
        assert!(debian.layout().is_some() && parse("16.2").unwrap().layout().is_some());
        for early in [
            "18beta1",
            "18rc1",
            "18devel",
            "15.2-YB-2.25.0.0-b0",
            "16.4 OrioleDB",
            "16.",
        ] {
            assert_eq!(parse(early).unwrap().layout().map(|l| l.major), None);
        }
        assert_eq!(parse("devel"), None);
        assert_eq!(Version::parse(b"postgres (PostgreSQL) 15"), None);
        assert_eq!(Version::parse(b"psql (PostgreSQL) 15.1\n"), None);
    }

    #[test]
    fn rows_are_sorted_and_name_the_kinds_that_matter() {
        assert!(ROWS.is_sorted_by_key(|row| row.major));
        for row in ROWS.iter().filter(|row| row.lacks().is_empty()) {
            let Some(types) = row.backend_types.get() else {
                assert_eq!(row.major, 12);
                continue;
            };
            let number = |kind| types.iter().position(|t| *t == kind);
            assert_eq!(number(B::Unknown), Some(0), "{}", row.major);
            for kind in [B::Client, B::Checkpointer, B::WalSender, B::Startup] {
                assert!(number(kind).is_some(), "{} {kind}", row.major);
            }
        }
    }

    /// What a version lacks is named, and what is looked up for a new one is on the page that says how.
    #[test]
    fn a_new_version_is_told_what_it_lacks() {
        let page = include_str!("../../../docs/new-version.md");
        let lacks = v99::LAYOUT.lacks();
        for fact in &lacks {
            assert!(page.contains(&format!("| `{fact}` |")), "{fact}");
        }
        let told = page.lines().filter(|line| line.starts_with("| `"));
        assert_eq!(told.count(), lacks.len(), "of facts that are no more");
        for row in ROWS.iter().filter(|row| row.major < 19) {
            assert_eq!(row.lacks(), [""; 0], "{}", row.major);
        }
    }

    #[test]
    fn words_for_a_version_that_is_not_known_are_the_newest_s() {
        let major = |text| Layout::of_text_or_newest(text).major;
        assert_eq!(major(Some("15.18 (Debian 15.18-0+deb12u1)")), 15);
        assert_eq!(major(Some("12.22")), 12);
        for text in [None, Some("devel"), Some("99.1"), Some("99999999999")] {
            assert_eq!(major(text), 18, "{text:?}");
        }
    }

    #[test]
    fn only_processes_whose_exit_status_1_is_no_crash_may_be_interrupted() {
        assert!(B::Client.may_be_interrupted());
        for kind in [
            B::Postmaster,
            B::Checkpointer,
            B::Startup,
            B::WalWriter,
            B::Unknown,
            B::Archiver,
        ] {
            assert!(!kind.may_be_interrupted(), "{kind}");
        }
    }
}
