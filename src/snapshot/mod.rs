//! Everything that was learned of a backend, as plain data: what [`crate::assess`] judges and what fixtures hold.
//!
//! A field that could not be learned is `None`: never a default that looks like an answer.

mod glance;
pub mod looks;
mod outside;
mod spinlocks;
mod take;
mod threads;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::address::Avma;
use crate::image::{Callers, ModuleKind, ReplacedFile, SymbolSource};
use crate::postgres::lwlocks::mode_name;
use crate::postgres::{Activity, BackendType, Receiver, Stream, Wait, Worker};
use crate::process::Process;
use crate::process::syscalls::BlockedCall;
use crate::tracee::threads::Absent;
use crate::unwind::variables::FrameVariables;
use crate::unwind::{FoundBy, StackEnd};
pub use glance::{Archiving, Glance, MOST_READY, ServerFacts, Stage};
pub use outside::from_outside;
pub use take::{Answers, Capture, HANDLED_SIGNALS, Plan, look, zombie};

/// One backend at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its PID in our PID namespace.
    pub pid: i32,
    /// Who it is.
    pub backend: BackendFacts,
    /// What the kernel says of the process.
    pub process: ProcessFacts,
    /// The server's variables in it.
    pub variables: Variables,
    /// What it says that it waits for; none where it waits for nothing, or that is not known.
    #[serde(default)]
    pub wait_event: Option<Wait>,
    /// Its signals.
    pub signals: Signals,
    /// Its stack; none if it was not stopped.
    pub stack: Option<Stack>,
    /// The locks that it waits for.
    #[serde(default)]
    pub locks: Locks,
    /// How long it stood still for us, in milliseconds.
    pub stopped_ms: f64,
    /// How it was seen that a cancel raised an ERROR in this statement, and something caught it. None where nobody saw
    /// that: it leaves no trace in the backend.
    #[serde(default)]
    pub swallowed: Option<String>,
    /// What further looks found.
    #[serde(default)]
    pub samples: Vec<Sample>,
    /// The files with code that were replaced or deleted since the server loaded them.
    #[serde(default)]
    pub replaced_files: Vec<ReplacedFile>,
    /// What the operator should know of how this came about: debug files that were refused, and the like.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl Snapshot {
    /// Takes over where the backend was at a further look.
    pub fn add_sample(&mut self, other: &Snapshot) {
        self.stopped_ms += other.stopped_ms;
        self.samples.push(other.as_sample());
    }

    /// Takes over an earlier look, and the looks after that one; what was asked of the backend then is not asked again.
    pub fn add_earlier(&mut self, earlier: Snapshot) {
        self.stopped_ms += earlier.stopped_ms;
        self.samples = std::iter::once(earlier.as_sample())
            .chain(earlier.samples)
            .collect();
        self.signals.handlers = earlier.signals.handlers;
        self.signals.carrier_stack = earlier.signals.carrier_stack;
    }

    /// What of this look counts beside others.
    pub fn as_sample(&self) -> Sample {
        Sample {
            statement_start: self.backend.statement_start,
            places: self
                .stack
                .as_ref()
                .filter(|s| s.complete)
                .map(Stack::places),
            interrupt_holdoff_count: self.variables.interrupt_holdoff_count,
            crit_section_count: self.variables.crit_section_count,
            lw_waiting: self.variables.lw_waiting,
        }
    }
}

/// One more look at a backend, or a glance at its variables without a stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// When its statement began: tells one from the next.
    pub statement_start: Option<i64>,
    /// The functions on its stack, outermost first; none if it was not stopped, or its stack is not known to the root.
    pub places: Option<Vec<Place>>,
    /// `InterruptHoldoffCount` at this look.
    #[serde(default)]
    pub interrupt_holdoff_count: Option<u32>,
    /// `CritSectionCount`, likewise.
    #[serde(default)]
    pub crit_section_count: Option<u32>,
    /// `PGPROC.lwWaiting`, likewise.
    #[serde(default)]
    pub lw_waiting: Option<bool>,
}

impl Sample {
    /// Whether interrupts were held off then, or could not be served in a critical section; none where that is not known.
    pub fn held_off(&self) -> Option<bool> {
        match (self.interrupt_holdoff_count, self.crit_section_count) {
            (Some(1..), _) | (_, Some(1..)) => Some(true),
            (Some(0), Some(0)) => Some(false),
            _ => None,
        }
    }
}

/// One function of a program: the same for each look that finds it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The path of its image.
    pub module: Option<String>,
    /// Where it starts in the image, or where that is not known the address in it.
    pub start: Option<Avma>,
    /// How to name it in a sentence.
    pub name: String,
    /// Where its frame is on the stack: the canonical frame address.
    #[serde(default)]
    pub cfa: Option<Avma>,
    /// Where in it it was: the program counter, or the return address of the call that it had made.
    #[serde(default)]
    pub at: Option<Avma>,
}

/// So many functions of one look are compared with another's from the outermost on, and so many from the innermost; of a
/// recursion that is deeper something stands for those between.
const MOST_PLACES: usize = 500;
const BETWEEN: &str = "… (functions that are not counted)";

/// Who a backend is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackendFacts {
    /// What it is for.
    pub backend_type: BackendType,
    /// The server's version, as it prints it.
    pub server_version: Option<String>,
    /// Whether this major version has a row in our tables.
    pub version_known: bool,
    /// Whether all functions of the server's memory contexts have names here, so that a frame without one is none of them.
    #[serde(default)]
    pub memory_contexts_named: bool,
    /// Where CommitSubTransaction() starts, in the executable's own terms, as [`Frame::function_start`] has it.
    #[serde(default)]
    pub subtransaction_end: Option<Avma>,
    /// Why its interrupt model is not the classic one, if it is not.
    pub model_objection: Option<String>,
    /// The server's data directory.
    pub data_directory: Option<PathBuf>,
    /// Database, where the title in ps tells.
    pub database: Option<String>,
    /// User, likewise.
    pub user: Option<String>,
    /// Client address and port, or `[local]`.
    pub client: Option<String>,
    /// `application_name`.
    pub application_name: Option<String>,
    /// What it says that it does.
    pub activity: Option<Activity>,
    /// When its present statement (or state) began, in microseconds since 2000-01-01: tells one from the next.
    pub statement_start: Option<i64>,
    /// When its transaction began, likewise; none outside one.
    #[serde(default)]
    pub transaction_start: Option<i64>,
    /// What it registered as, if it is a background worker.
    #[serde(default)]
    pub worker: Option<Worker>,
    /// The leader of a parallel worker: its PID as the server knows it, and in our PID namespace once it was looked up.
    #[serde(default)]
    pub parallel_leader: Option<i32>,
    /// The parallel workers that work for it; none where that was not looked at.
    #[serde(default)]
    pub parallel_workers: Option<Vec<i32>>,
    /// Who receives from a walsender; none where that was not looked at, or is not known.
    #[serde(default)]
    pub receiver: Option<Receiver>,
    /// How far the stream of a walsender has come.
    #[serde(default)]
    pub stream: Option<Stream>,
    /// The text of its statement.
    pub query: Option<String>,
    /// Its title in ps.
    pub title: String,
    /// The container it lives in, where the control group tells.
    pub container: Option<String>,
    /// Its PID in the innermost PID namespace, where that is not ours.
    pub pid_in_container: Option<i32>,
    /// Its postmaster's PID; none if that is gone.
    pub postmaster_pid: Option<i32>,
    /// Whether the server was told to stop, and has not come to its end.
    #[serde(default)]
    pub server_stopping: Option<bool>,
    /// How its postmaster was started, where that is all that can be told of the server.
    #[serde(default)]
    pub postmaster_command: Option<String>,
}

/// What the kernel says of the process.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ProcessFacts {
    /// Its state before we touched it, one letter as in ps.
    pub state: Option<char>,
    /// Who traces it (apart from us); 0 for no one, none where that could not be read.
    pub tracer: Option<i32>,
    /// The processes that it has started, and those that these have; none where nobody looked.
    #[serde(default)]
    pub children: Option<Vec<Child>>,
    /// The name of that program.
    #[serde(default)]
    pub tracer_name: Option<String>,
    /// How many threads it has of its own, without those that work for the kernel's io_uring.
    pub threads: Option<u64>,
    /// The kernel function it sleeps in.
    pub wait_channel: Option<String>,
    /// The system call it is in.
    pub syscall: Option<BlockedCall>,
    /// The share of one processor that it used from the first to the last of several samples, in percent.
    pub cpu_percent: Option<f64>,
    /// Whether we tried to stop it and it would not, in time.
    pub would_not_stop: bool,
    /// The kernel functions it sleeps in, innermost first.
    #[serde(default)]
    pub kernel_stack: Option<Vec<String>>,
    /// The names of its threads but the main one (the first of them, where there are very many).
    #[serde(default)]
    pub thread_names: Option<Vec<String>>,
    /// Why its memory was read through `/proc/PID/mem`, if it was: what process_vm_readv(2) said.
    #[serde(default)]
    pub memory_detour: Option<String>,
    /// The names of the files that it has code from (the first of them, where there are very many).
    #[serde(default)]
    pub libraries: Vec<String>,
    /// Whether it lives in our network namespace: elsewhere its addresses and ports are not ours.
    #[serde(default)]
    pub in_our_network: Option<bool>,
}

/// A process that another one has started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "child", deny_unknown_fields)]
pub struct Child {
    /// Its PID in our PID namespace.
    #[schemars(range(min = 1))]
    pub pid: i32,
    /// Its command line, as far as it can be read and is not very long.
    pub command: Option<String>,
}

impl Child {
    /// Reads what there is to say of a process.
    pub fn of(process: &Process) -> Self {
        /// As much as fits on two lines.
        const MOST: usize = 160;
        let line = process.command_line().ok();
        let text = line.map(|line| {
            let words: Vec<_> = line
                .split(|b| *b == 0)
                .map(String::from_utf8_lossy)
                .collect();
            words
                .join(" ")
                .trim_end()
                .chars()
                .take(MOST)
                .collect::<String>()
        });
        Child {
            pid: process.pid(),
            command: text.filter(|t| !t.is_empty()),
        }
    }
}

impl ProcessFacts {
    /// Who is known to trace it, apart from us.
    pub fn traced_by(&self) -> Option<i32> {
        self.tracer.filter(|pid| *pid != 0)
    }
}

/// The server's variables that decide what an interrupt does (src/backend/utils/init/globals.c and others).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variables {
    /// `InterruptPending`
    pub interrupt_pending: Option<bool>,
    /// `QueryCancelPending`
    pub query_cancel_pending: Option<bool>,
    /// `ProcDiePending`
    pub proc_die_pending: Option<bool>,
    /// `ProcSignalBarrierPending` (13 and later)
    pub proc_signal_barrier_pending: Option<bool>,
    /// `InterruptHoldoffCount`
    pub interrupt_holdoff_count: Option<u32>,
    /// `QueryCancelHoldoffCount`
    pub query_cancel_holdoff_count: Option<u32>,
    /// `CritSectionCount`
    pub crit_section_count: Option<u32>,
    /// `proc_exit_inprogress`
    pub proc_exit_in_progress: Option<bool>,
    /// `ClientAuthInProgress`
    pub client_auth_in_progress: Option<bool>,
    /// `PG_exception_stack`: where an ERROR would jump to; 0 if nowhere.
    pub exception_stack: Option<Avma>,
    /// `CurrentMemoryContext == ErrorContext`: in the middle of reporting an error.
    pub in_error_context: Option<bool>,
    /// `wait_event_info`: what it says that it waits for.
    pub wait_event_info: Option<u32>,
    /// `MyProc`: it has a PGPROC, which it gets when its client's first message was read.
    #[serde(default)]
    pub has_proc: Option<bool>,
    /// `PGPROC.lwWaiting`: waits for an LWLock.
    pub lw_waiting: Option<bool>,
    /// `PGPROC.lwWaitMode`
    pub lw_wait_mode: Option<u8>,
    /// `PGPROC.waitLock`: waits for a heavyweight lock.
    pub waits_for_lock: Option<bool>,
    /// `held_lwlocks`: the LWLocks that it notes to hold.
    #[serde(default)]
    pub held_lwlocks: Option<Vec<HeldLwLock>>,
    /// `errordata_stack_depth`: 0 and more while an error is kept; -1 is none.
    #[serde(default)]
    pub errordata_stack_depth: Option<i32>,
    /// `recursion_depth`: over 0 within the error reporting.
    #[serde(default)]
    pub error_recursion_depth: Option<u32>,
    /// `PqCommBusy`: in the middle of a message to the client.
    #[serde(default)]
    pub sending_message: Option<bool>,
    /// `PqCommReadingMsg`: waiting for a message from the client, or in the middle of one.
    #[serde(default)]
    pub reading_message: Option<bool>,
    /// `DoingCommandRead`: waiting for the client's next command.
    #[serde(default)]
    pub doing_command_read: Option<bool>,
}

impl Variables {
    /// What an interrupt turns on, with sizes in bytes (src/backend/utils/init/globals.c, src/backend/storage/ipc/ipc.c,
    /// src/backend/postmaster/postmaster.c).
    const OF_INTERRUPTS: [(&str, usize); 9] = [
        ("InterruptPending", 4),
        ("QueryCancelPending", 4),
        ("ProcDiePending", 4),
        ("ProcSignalBarrierPending", 4),
        ("InterruptHoldoffCount", 4),
        ("QueryCancelHoldoffCount", 4),
        ("CritSectionCount", 4),
        ("proc_exit_inprogress", 1),
        ("ClientAuthInProgress", 1),
    ];

    /// Those of [`Self::OF_INTERRUPTS`], by what `value` reads for a name; nothing else is known.
    fn of_interrupts(value: impl Fn(&str) -> Option<u64>) -> Self {
        let flag = |name: &str| value(name).map(|v| v != 0);
        let count = |name: &str| value(name).map(|v| v as u32);
        Variables {
            interrupt_pending: flag("InterruptPending"),
            query_cancel_pending: flag("QueryCancelPending"),
            proc_die_pending: flag("ProcDiePending"),
            proc_signal_barrier_pending: flag("ProcSignalBarrierPending"),
            interrupt_holdoff_count: count("InterruptHoldoffCount"),
            query_cancel_holdoff_count: count("QueryCancelHoldoffCount"),
            crit_section_count: count("CritSectionCount"),
            proc_exit_in_progress: flag("proc_exit_inprogress"),
            client_auth_in_progress: flag("ClientAuthInProgress"),
            ..Variables::default()
        }
    }

    /// The LWLocks that it holds; none where that is not known, or two variables contradict each other.
    pub fn lwlocks(&self) -> Option<&[HeldLwLock]> {
        // Every LWLockAcquire() holds interrupts off until the release (src/backend/storage/lmgr/lwlock.c).
        match (self.interrupt_holdoff_count, self.held_lwlocks.as_deref()) {
            (Some(0), None) => Some(&[]),
            (Some(0), Some(held)) => held.is_empty().then_some(held),
            (_, held) => held,
        }
    }
}

/// An LWLock that the backend holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLwLock {
    /// Where it is.
    pub lock: Avma,
    /// How it is held: `LWLockMode`.
    pub mode: u8,
    /// What its tranche is called.
    pub tranche: Option<String>,
}

impl HeldLwLock {
    /// In words.
    pub fn describe(&self) -> String {
        let tranche = self.tranche.as_deref().unwrap_or("of an unknown tranche");
        format!("{tranche} ({})", mode_name(self.mode))
    }
}

/// The locks that a backend waits for, looked at right after the stop.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locks {
    /// The name of the LWLock tranche that it says to wait for.
    pub tranche: Option<String>,
    /// Who keeps it waiting for an LWLock; none where it does not, or that was not looked at.
    pub lwlock: Option<LwLockWait>,
    /// The heavyweight lock that it waits for, likewise.
    pub heavyweight: Option<LockWait>,
    /// What is known of the spinlock that it waits for, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spinlock: Option<SpinlockWait>,
}

/// A wait for a spinlock. Who holds one is noted nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpinlockWait {
    /// The source file, without its directory, and the line in which it is taken, as the code tells s_lock().
    pub taken_at: Option<(String, u32)>,
    /// The server's other processes that do not run now and are not asleep either, in the order of their PIDs; none where
    /// that was not looked at, as the backend does not live.
    pub halted: Option<Vec<Halted>>,
    /// How many others could not be looked at.
    pub unread: usize,
}

/// A process that does not run, and does not sleep until something comes: whoever holds a spinlock for long is such a one,
/// or loops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halted {
    /// Its PID in our PID namespace.
    pub pid: i32,
    /// Its state, as in `/proc/PID/stat`: `T`, `t` or `D`.
    pub state: char,
    /// The server's function that it stands in, where it is one.
    pub function: Option<String>,
    /// Whether that function's code may hold a spinlock there; none where that cannot be told.
    pub may_hold: Option<bool>,
}

/// Who keeps a backend waiting for an LWLock. PIDs are those of our PID namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LwLockWait {
    /// The lock whose list of waiters it is in; none where it could not be told.
    pub lock: Option<Avma>,
    /// Who holds that very lock; none without it.
    pub holders: Option<Vec<LwLockHolder>>,
    /// Where it could not be told: who holds a lock of the same tranche.
    pub candidates: Vec<i32>,
    /// How many of the server's processes could not be looked into.
    pub unread: usize,
}

/// A process that holds an LWLock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LwLockHolder {
    /// Its PID.
    pub pid: i32,
    /// How it holds it: `LWLockMode`.
    pub mode: u8,
}

/// What a backend waits for in the heavyweight lock manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockWait {
    /// What the lock is on, in words.
    pub object: String,
    /// The mode wanted.
    pub mode: String,
    /// Who is in the way, as `pg_blocking_pids()` has it; none where the lock table made no sense.
    pub blockers: Option<Vec<Blocker>>,
}

/// A session that keeps another one from a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocker {
    /// Its PID (or that of its parallel group's leader) as the server knows it; 0 for a prepared transaction.
    pub server_pid: i32,
    /// The same in our PID namespace.
    pub pid: Option<i32>,
    /// The modes that it holds; empty if it only stands before the backend in the queue.
    pub holds: Vec<String>,
    /// The mode that it waits for itself, before the backend.
    pub wants: Option<String>,
}

/// The signals of a backend. Sets have bit `n - 1` for signal `n`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signals {
    /// Blocked.
    pub blocked: Option<u64>,
    /// Sent, not yet delivered.
    pub pending: Option<u64>,
    /// Having a handler.
    pub caught: Option<u64>,
    /// Ignored.
    pub ignored: Option<u64>,
    /// The handlers of SIGINT, SIGTERM and SIGUSR1; none if they were not asked for or could not be.
    pub handlers: Option<Vec<Handler>>,
    /// The stack that the handler of SIGUSR1 runs on.
    #[serde(default)]
    pub carrier_stack: CarrierStack,
    /// Sent by pgpoke itself, with time to be obeyed; none where it has sent nothing: what others sent leaves no trace once it
    /// was delivered.
    #[serde(default)]
    pub sent: Option<u64>,
}

/// The stack that the handler of the carrier, SIGUSR1, runs on: only a frame on it tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CarrierStack {
    /// Nobody has asked.
    NotAsked {
        /// The files whose code may set up an alternate stack (sigaltstack(2)); none where that is not known.
        set_up_by: Option<Vec<String>>,
    },
    /// The normal one.
    Normal,
    /// An alternate signal stack.
    Alternate {
        /// What is left of it below the kernel's frame, in bytes.
        room: u64,
    },
    /// It is looked at in the very frame that is to be borrowed, before anything is called in it.
    SeenInFrame,
}

impl Default for CarrierStack {
    fn default() -> Self {
        CarrierStack::NotAsked { set_up_by: None }
    }
}

/// The disposition of one signal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handler {
    /// The signal's number.
    pub signal: i32,
    /// The address of the function that does the work, behind any wrapper; 0 is the default action, 1 is to ignore it.
    pub address: Avma,
    /// The module it lies in.
    pub module: Option<String>,
    /// The function, or what the address means.
    pub function: Option<String>,
    /// Whether it is the one that PostgreSQL installs in this kind of process; none where that cannot be told.
    pub expected: Option<bool>,
}

/// Where in the code it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stack {
    /// Innermost first.
    pub frames: Vec<Frame>,
    /// Why it ends where it does.
    pub end: StackEnd,
    /// Every frame up to the root is known for sure.
    pub complete: bool,
    /// It was in a system call, or between two instructions of a program.
    pub in_syscall: bool,
    /// It was in a group-stop when we looked.
    pub group_stop: bool,
    /// It goes through code that was not read yet: what is unknown for that reason may be known at the next look.
    #[serde(default)]
    pub unread: bool,
    /// How many bytes are left below the stack pointer on the main stack; none on another stack.
    pub room: Option<u64>,
    /// Where an ERROR would jump to lies further up on this stack.
    pub exception_stack_above: Option<bool>,
}

/// One function on the stack.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// The program counter, or for callers the return address.
    pub ip: Avma,
    /// The canonical frame address: the same for as long as the function runs. None where it is not known.
    #[serde(default)]
    pub cfa: Option<Avma>,
    /// The path of the image.
    pub module: Option<String>,
    /// What part the image plays.
    pub kind: ModuleKind,
    /// The address in the image's own terms.
    pub offset: Option<Avma>,
    /// The function's name.
    pub function: Option<String>,
    /// Where the function starts, in the image's own terms, by its call-frame information.
    pub function_start: Option<Avma>,
    /// Where the name comes from.
    pub symbol_source: Option<SymbolSource>,
    /// For a function of the server without a name: who can call it; none where that was not looked for.
    #[serde(default)]
    pub callers: Option<Callers>,
    /// Compiled into its caller: has no frame of its own.
    pub inlined: bool,
    /// Source file.
    pub file: Option<String>,
    /// Source line.
    pub line: Option<u32>,
    /// How it was found.
    pub found_by: FoundBy,
    /// The kernel's frame for a signal handler.
    pub signal_frame: bool,
    /// Whether it may hold a spinlock here; none where its code was not read, or is not PostgreSQL's nor an extension's.
    #[serde(default)]
    pub spinlock: Option<bool>,
    /// A jump across it would skip something that it wants to clean up (C++, Rust).
    pub has_cleanup: bool,
    /// Of a library: whether it is one that PostgreSQL loads as an extension; none where that was not looked at.
    #[serde(default)]
    pub extension: Option<bool>,
    /// Of a library: whether it is an extension that starts subtransactions; none where that was not looked at.
    #[serde(default)]
    pub starts_subtransactions: Option<bool>,
    /// Its arguments and local variables; none where they were not asked for, or there is no debug information.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variables: Option<FrameVariables>,
}

/// Where another thread than the main one was.
#[derive(Debug, Clone, PartialEq)]
pub struct ThreadStack {
    /// Its number.
    pub tid: i32,
    /// Its stack.
    pub stack: Result<Stack, Unseen>,
}

/// Why the stack of another thread than the main one is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unseen {
    /// It did not stand still.
    #[error(transparent)]
    Absent(Absent),
    /// The budget of the stop was for those before it.
    #[error("the time for which all may stand still was over")]
    NoTime,
    /// It has ended since, or its stack is no memory.
    #[error("its registers or its stack cannot be read")]
    Unreadable,
}

impl Stack {
    /// The functions on it, outermost first.
    pub fn places(&self) -> Vec<Place> {
        let own: Vec<usize> = self.own_frames().collect();
        let place = |at: &usize| self.frames[*at].place();
        if own.len() <= 2 * MOST_PLACES {
            return own.iter().map(place).collect();
        }
        let between = Place {
            module: None,
            start: None,
            name: BETWEEN.to_owned(),
            cfa: None,
            at: None,
        };
        let (outer, inner) = (&own[..MOST_PLACES], &own[own.len() - MOST_PLACES..]);
        (outer.iter().map(place))
            .chain([between])
            .chain(inner.iter().map(place))
            .collect()
    }

    /// Which frame is the one at `index` in [`Stack::places`].
    pub fn frame_of_place(&self, index: usize) -> Option<usize> {
        let all = self.own_frames().count();
        let index = match all > 2 * MOST_PLACES && index > MOST_PLACES {
            true => index + all - (2 * MOST_PLACES + 1),
            false => index,
        };
        self.own_frames().nth(index)
    }

    /// Those that are no part of another, outermost first.
    fn own_frames(&self) -> impl Iterator<Item = usize> {
        (0..self.frames.len())
            .rev()
            .filter(|at| !self.frames[*at].inlined)
    }
}

impl Frame {
    /// The last part of the image's path.
    pub fn module_name(&self) -> &str {
        let path = self.module.as_deref().unwrap_or("");
        path.rsplit('/').next().unwrap_or(path)
    }

    /// Its function, to be compared with those of other looks.
    pub fn place(&self) -> Place {
        Place {
            module: self.module.clone(),
            start: self.function_start.or(self.offset).or(Some(self.ip)),
            name: self.describe(),
            cfa: self.cfa,
            at: Some(self.ip),
        }
    }

    /// How to name it in a sentence: `function in module`, or what is known instead.
    pub fn describe(&self) -> String {
        match (&self.function, self.kind) {
            (Some(f), ModuleKind::Server) => format!("{f}()"),
            (Some(f), ModuleKind::Anonymous) => format!("{f}()"),
            (Some(f), _) => format!("{f}() in {}", self.module_name()),
            (None, ModuleKind::Anonymous) => format!("code without a file at {}", self.ip),
            (None, _) => match (self.function_start, self.offset) {
                (Some(start), _) => {
                    let callers = self
                        .callers
                        .as_ref()
                        .map_or(String::new(), |c| c.describe());
                    format!(
                        "an unnamed function at {}+{start}{callers}",
                        self.module_name()
                    )
                }
                (None, Some(offset)) => format!("{}+{offset}", self.module_name()),
                (None, None) => format!("code at {}", self.ip),
            },
        }
    }
}

impl Signals {
    /// Whether `signal` is in `set`; none where the set is unknown.
    pub fn has(set: Option<u64>, signal: i32) -> Option<bool> {
        Some(set? >> (signal - 1) & 1 == 1)
    }
}

/// The names of the signals in a set.
pub fn signal_names(set: u64) -> Vec<String> {
    (1..=64)
        .filter(|n| set >> (n - 1) & 1 == 1)
        .map(|n| {
            nix::sys::signal::Signal::try_from(n)
                .map_or_else(|_| format!("SIG{n}"), |s| s.as_str().to_owned())
        })
        .collect()
}
