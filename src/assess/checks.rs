//! The checks: may `ProcessInterrupts()` be called at this very instruction?
//!
//! Each looks at a [`Snapshot`] and at what the call would act on. What cannot be decided is `unknown`, and an
//! unknown counts like the objection that it might be.

use super::libraries;
use super::rules::{self, Functions};
use super::{Check, Interrupt, Status, Verdict};
use crate::image::ModuleKind;
use crate::snapshot::{CarrierStack, Frame, Signals, Snapshot, Stack, signal_names};
use crate::tracee::CARRIER;
use crate::unwind::StackEnd;

/// How weighty an objection is. The first in this order decides the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// This is nothing that may ever be interrupted.
    Identity,
    /// There is no occasion: nothing pending, no running process.
    Occasion,
    /// A critical section, where an ERROR is a PANIC: weightier than being held off, as later versions of the
    /// server only assert what now makes the call return at once.
    CriticalSection,
    /// The call would return at once. Nothing else can then go wrong.
    HeldOff,
    /// The call would do harm.
    Danger,
    /// The call might do harm.
    Risk,
}

/// What a check that does not pass does to the verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Objection {
    /// How weighty it is.
    pub weight: Weight,
    /// The verdict if it decides.
    pub verdict: Verdict,
}

/// The weight of the weightiest objection: the one that decides.
pub fn weight(checks: &[Check]) -> Option<Weight> {
    checks
        .iter()
        .filter_map(|c| c.objection)
        .map(|o| o.weight)
        .min()
}

/// How a check came out, with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// No objection.
    Pass(String),
    /// A risk.
    Warn(String),
    /// An objection.
    Fail(String),
    /// Could not be decided.
    Unknown(String),
}

use Outcome::{Fail, Pass, Unknown, Warn};

/// What a check looks at.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'s> {
    /// The snapshot.
    pub snapshot: &'s Snapshot,
    /// What the call would act on.
    pub interrupt: Interrupt,
}

impl<'s> Subject<'s> {
    fn stack(&self) -> Option<&'s Stack> {
        self.snapshot.stack.as_ref()
    }

    fn frames(&self) -> Option<&'s [Frame]> {
        self.stack().map(|s| &s.frames[..])
    }
}

fn not_stopped() -> Outcome {
    Unknown("its stack was not looked at".into())
}

/// One check, and all that is to be said of it.
#[derive(Debug)]
pub struct Row {
    /// Its stable name.
    pub code: &'static str,
    /// What a failure weighs.
    pub weight: Weight,
    /// The verdict that a failure leads to.
    pub failure: Verdict,
    /// The check.
    pub judge: fn(Subject) -> Outcome,
    /// Why it matters.
    pub why: &'static str,
    /// What it objects, in plain words for the verdict; none where the detail is plain enough.
    pub objects: Option<&'static str>,
    /// The same where it could not be decided.
    pub doubts: &'static str,
    /// Where that was learned: files of PostgreSQL unless another project is named.
    pub source: &'static str,
    /// What to do if it objects, where the cause does not tell already.
    pub next: Option<&'static str>,
}

/// The names in [`TABLE`], for the schema of the JSON output.
#[derive(Debug)]
pub enum Code {}

impl schemars::JsonSchema for Code {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "check_code".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        super::one_of(TABLE.iter().map(|row| row.code))
    }
}

/// All checks, in the order in which they are shown.
pub const TABLE: &[Row] = &[
    Row {
        code: "identity",
        weight: Weight::Identity,
        failure: Verdict::Unsafe,
        judge: identity,
        why: "only a process that was proved to be a server's is ever touched",
        objects: None,
        doubts: "whether it is a PostgreSQL server's process could not be told",
        source: "src/backend/utils/init/globals.c, src/backend/utils/init/miscinit.c",
        next: None,
    },
    Row {
        code: "backend-type",
        weight: Weight::Identity,
        failure: Verdict::Unsafe,
        judge: backend_type,
        why: "of some processes the postmaster takes even an orderly end for a crash and restarts all sessions",
        objects: None,
        doubts: "what the process is for could not be told",
        source: "reaper() and CleanupBackend() in src/backend/postmaster/postmaster.c",
        next: None,
    },
    Row {
        code: "interrupt-model",
        weight: Weight::Identity,
        failure: Verdict::Unsafe,
        judge: interrupt_model,
        why: "what ProcessInterrupts() does is known for the classic variables only",
        objects: Some(
            "this build of the server handles interrupts in a way that pgpoke does not know",
        ),
        doubts: "how this build of the server handles interrupts could not be told",
        source: "src/backend/utils/init/globals.c, src/include/miscadmin.h",
        next: Some(
            "this build of the server works in another way than those that pgpoke knows: look for a newer pgpoke, and tell its maintainers",
        ),
    },
    Row {
        code: "server-known",
        weight: Weight::Risk,
        failure: Verdict::Risky,
        judge: server_known,
        why: "rules and offsets were learned from the sources of certain versions",
        objects: None,
        doubts: "the server's version could not be told",
        source: "src/include/storage/proc.h, src/include/utils/backend_status.h",
        next: None,
    },
    Row {
        code: "process-state",
        weight: Weight::Occasion,
        failure: Verdict::Pointless,
        judge: process_state,
        why: "a process that does not run executes no call",
        objects: Some("the process does not run, and so nothing can be done in it"),
        doubts: "whether the process runs could not be told",
        source: "Linux, fs/proc/array.c and kernel/signal.c",
        next: None,
    },
    Row {
        code: "exiting",
        weight: Weight::Occasion,
        failure: Verdict::Pointless,
        judge: exiting,
        why: "proc_exit() holds interrupts off, and an error on the way out skips what is still to be cleaned up",
        objects: Some("it is ending already"),
        doubts: "whether it is ending already could not be told",
        source: "proc_exit_prepare() in src/backend/storage/ipc/ipc.c",
        next: None,
    },
    Row {
        code: "pending",
        weight: Weight::Occasion,
        failure: Verdict::Pointless,
        judge: pending,
        why: "ProcessInterrupts() acts on flags; without one it returns",
        objects: None,
        doubts: "whether anything is pending could not be read",
        source: "ProcessInterrupts() in src/backend/tcop/postgres.c",
        next: None,
    },
    Row {
        code: "critical-section",
        weight: Weight::CriticalSection,
        failure: Verdict::Unsafe,
        judge: critical_section,
        why: "an ERROR in a critical section is a PANIC",
        objects: Some("it is in a critical section, where an error would end all sessions"),
        doubts: "whether it is in a critical section could not be read",
        source: "errstart() in src/backend/utils/error/elog.c",
        next: None,
    },
    Row {
        code: "held-off",
        weight: Weight::HeldOff,
        failure: Verdict::Pointless,
        judge: held_off,
        why: "ProcessInterrupts() returns at once while a counter is not zero",
        objects: Some("it holds interrupts off, and would take no notice"),
        doubts: "whether it holds interrupts off could not be read",
        source: "ProcessInterrupts() in src/backend/tcop/postgres.c, HOLD_INTERRUPTS() in src/include/miscadmin.h",
        next: None,
    },
    Row {
        code: "lwlock-wait",
        weight: Weight::HeldOff,
        failure: Verdict::Pointless,
        judge: lwlock_wait,
        why: "who waits for an LWLock holds interrupts off until it has it",
        objects: Some("it waits for an LWLock, and takes notice of nothing until it has it"),
        doubts: "whether it waits for an LWLock could not be told",
        source: "LWLockAcquire() in src/backend/storage/lmgr/lwlock.c",
        next: None,
    },
    Row {
        code: "lwlock-held",
        weight: Weight::Danger,
        failure: Verdict::Unsafe,
        judge: lwlock_held,
        why: "what an LWLock guards may be half changed",
        objects: Some("it holds an LWLock, and what that guards may be half changed"),
        doubts: "whether it holds an LWLock could not be told",
        source: "LWLockAcquire() in src/backend/storage/lmgr/lwlock.c",
        next: None,
    },
    Row {
        code: "spinlock",
        weight: Weight::Danger,
        failure: Verdict::Unsafe,
        judge: spinlock,
        why: "nobody releases a spinlock after an error, and whoever waits for it panics",
        objects: Some(
            "it waits for a spinlock or holds one, and an error would leave that taken for ever",
        ),
        doubts: "whether it holds a spinlock could not be told",
        source: "src/include/storage/spin.h, src/include/storage/s_lock.h, src/backend/storage/lmgr/s_lock.c",
        next: None,
    },
    Row {
        code: "unwind",
        weight: Weight::Danger,
        failure: Verdict::Unsafe,
        judge: unwind,
        why: "what is on the part of the stack that is not known cannot be judged",
        objects: Some("its stack is not known to the root, and what is there cannot be judged"),
        doubts: "its stack is not known to the root, and what is there cannot be judged",
        source: "System V ABI for AMD64, chapter 3.7",
        next: None,
    },
    Row {
        code: "allocator",
        weight: Weight::Danger,
        failure: Verdict::Unsafe,
        judge: allocator,
        why: "a heap or a memory context that is half changed is used again by the very error handling",
        objects: Some(
            "it is in the middle of allocating memory, which an error would leave half done",
        ),
        doubts: "it may be in the middle of allocating memory",
        source: "glibc malloc/malloc.c; src/backend/utils/mmgr/aset.c and mcxt.c",
        next: None,
    },
    Row {
        code: "dynamic-linker",
        weight: Weight::Danger,
        failure: Verdict::Unsafe,
        judge: dynamic_linker,
        why: "its lock would stay taken, and its list of objects half changed",
        objects: Some("it is loading or looking up code, with the dynamic linker's lock taken"),
        doubts: "whether it is in the dynamic linker could not be told",
        source: "glibc elf/dl-open.c, elf/dl-close.c",
        next: None,
    },
    Row {
        code: "stdio-lock",
        weight: Weight::Danger,
        failure: Verdict::Unsafe,
        judge: stdio_lock,
        why: "a lock of the C library would stay taken; a terminate flushes all of stdio on its way out",
        objects: Some("it is in a part of the C library that holds a lock"),
        doubts: "it may be in a part of the C library that holds a lock",
        source: "glibc libio/libioP.h (_IO_acquire_lock), stdlib/exit.c",
        next: None,
    },
    Row {
        code: "error-in-progress",
        weight: Weight::Danger,
        failure: Verdict::Unsafe,
        judge: error_in_progress,
        why: "an error within an error report uses up the few entries of its stack, and ends in a PANIC",
        objects: Some("it is reporting or handling an error already"),
        doubts: "whether it is in the middle of an error could not be told",
        source: "errstart() and errfinish() in src/backend/utils/error/elog.c",
        next: None,
    },
    Row {
        code: "exception-stack",
        weight: Weight::Danger,
        failure: Verdict::Unsafe,
        judge: exception_stack,
        why: "an ERROR that has nowhere to jump to becomes a FATAL one",
        objects: Some("an error would have nowhere to go, and would end the process"),
        doubts: "where an error would go could not be read",
        source: "errstart() in src/backend/utils/error/elog.c, PG_TRY in src/include/utils/elog.h",
        next: None,
    },
    Row {
        code: "subtransaction",
        weight: Weight::Danger,
        failure: Verdict::Unsafe,
        judge: subtransaction,
        why: "a subtransaction that is half ended is rolled back and committed both; one that was begun outside PG_TRY has nobody to end it",
        objects: Some(
            "it is beginning or ending a subtransaction, and an error would leave that half done",
        ),
        doubts: "whether it is ending a subtransaction could not be told",
        source: "CommitSubTransaction() and AbortCurrentTransaction() in src/backend/access/transam/xact.c, exec_stmt_block() in src/pl/plpgsql/src/pl_exec.c",
        next: None,
    },
    Row {
        code: "signal-handler",
        weight: Weight::Danger,
        failure: Verdict::Unsafe,
        judge: signal_handler,
        why: "what the handler interrupted may be in any state",
        objects: Some("it is in a signal handler, and what that interrupted may be in any state"),
        doubts: "whether it is in a signal handler could not be told",
        source: "src/port/pqsignal.c; System V ABI for AMD64, signal frames",
        next: None,
    },
    Row {
        code: "client-io",
        weight: Weight::Danger,
        failure: Verdict::Unsafe,
        judge: client_io,
        why: "a cancel leaves half a message on the wire: client and server then wait for each other for ever",
        objects: Some("it is in the middle of a message to or from its client"),
        doubts: "whether it is in the middle of a message to its client could not be told",
        source: "secure_write() in src/backend/libpq/be-secure.c, socket_putmessage() in src/backend/libpq/pqcomm.c",
        next: None,
    },
    Row {
        code: "foreign-runtime",
        weight: Weight::Danger,
        failure: Verdict::Unsafe,
        judge: foreign_runtime,
        why: "a jump across its frames leaves a runtime with locks taken and clean-ups not done",
        objects: Some(
            "it runs code that knows nothing of PostgreSQL's errors, and may be left in disorder",
        ),
        doubts: "whose code it runs could not be told",
        source: "siglongjmp(3); Itanium C++ ABI, exception handling; src/pl/plpython/plpy_exec.c, src/pl/plperl/plperl.c",
        next: None,
    },
    Row {
        code: "signal-deliverable",
        weight: Weight::Danger,
        failure: Verdict::Unsafe,
        judge: signal_deliverable,
        why: "the call rides on the frame that the kernel builds for a signal's handler",
        objects: Some("SIGUSR1, which the call would ride on, cannot be used here"),
        doubts: "whether SIGUSR1, which the call would ride on, can be used could not be told",
        source: "Linux, arch/x86/kernel/signal.c; src/port/pqsignal.c",
        next: Some(
            "there is no way in for pgpoke: find what changed the handling of SIGUSR1 here (the server needs it, too); if the session has to end, and ignores SIGTERM, only pg_ctl restart -m immediate ends it",
        ),
    },
    Row {
        code: "server-code",
        weight: Weight::Risk,
        failure: Verdict::Risky,
        judge: server_code,
        why: "caches, hash tables and bookkeeping that outlive the statement may be half changed",
        objects: Some("it is in the server's own code, at a place that is not known to be safe"),
        doubts: "where in the server's code it is could not be told",
        source: "src/backend/utils/cache/catcache.c and relcache.c, src/backend/utils/hash/dynahash.c, src/backend/storage/buffer/bufmgr.c, src/backend/utils/resowner/resowner.c, src/backend/access/transam/xloginsert.c",
        next: None,
    },
    Row {
        code: "threads",
        weight: Weight::Risk,
        failure: Verdict::Risky,
        judge: threads,
        why: "another thread may hold a lock that error handling or exit() needs; PostgreSQL has only one of its own",
        objects: Some("it has more than one thread, and another may hold a lock"),
        doubts: "how many threads it has could not be read",
        source: "pthreads(7)",
        next: None,
    },
    Row {
        code: "handlers",
        weight: Weight::Risk,
        failure: Verdict::Safe,
        judge: handlers,
        why: "replaced handlers explain why no flag is set; pgpoke sets the flag instead",
        objects: None,
        doubts: "its signal handlers are not known",
        source: "src/backend/tcop/postgres.c, src/port/pqsignal.c",
        next: None,
    },
];

/// Does all checks. Warnings named in `allowed` are shown, but are no objections.
pub fn all(snapshot: &Snapshot, interrupt: Interrupt, allowed: &[String]) -> Vec<Check> {
    let subject = Subject {
        snapshot,
        interrupt,
    };
    TABLE.iter().map(|row| run(row, subject, allowed)).collect()
}

fn run(row: &Row, subject: Subject, allowed: &[String]) -> Check {
    let fails = Objection {
        weight: row.weight,
        verdict: row.failure,
    };
    let (status, mut detail, objection) = match (row.judge)(subject) {
        Pass(why) => (Status::Pass, why, None),
        Warn(why) => {
            let risk = Objection {
                weight: Weight::Risk,
                verdict: Verdict::Risky,
            };
            (Status::Warn, why, Some(risk))
        }
        Fail(why) if row.failure == Verdict::Risky => (Status::Warn, why, Some(fails)),
        Fail(why) => (Status::Fail, why, Some(fails)),
        // What might be pointless or unsafe is not called so; that it is not safe is certain.
        Unknown(why) => (
            Status::Unknown,
            why,
            Some(Objection {
                weight: Weight::Danger.max(row.weight),
                verdict: if row.failure == Verdict::Risky {
                    Verdict::Risky
                } else {
                    Verdict::Unsafe
                },
            }),
        ),
    };
    let accepted = status == Status::Warn && allowed.iter().any(|a| a == row.code);
    if accepted {
        detail.push_str(" (allowed)");
    }
    // A row whose failure is still safe never objects.
    let objects = row.failure != Verdict::Safe && !accepted;
    Check {
        code: row.code,
        status,
        detail,
        objection: objection.filter(|_| objects),
    }
}

fn identity(s: Subject) -> Outcome {
    let b = &s.snapshot.backend;
    match b.postmaster_pid {
        Some(pid) => Pass(format!("a process of the postmaster with PID {pid}, by its executable, its memory and its parent")),
        // Both are its own to forge.
        None => Warn("a process of a PostgreSQL server, by nothing but its executable and its memory; its postmaster is gone, if it ever had one".into()),
    }
}

fn backend_type(s: Subject) -> Outcome {
    use crate::postgres::BackendType;
    let kind = s.snapshot.backend.backend_type;
    match kind {
        _ if s.snapshot.process.state == Some('Z') => Pass("nothing of it is left that could end".into()),
        _ if kind.may_be_interrupted() => Pass(format!("{kind}: the postmaster takes exit status 1 as an ordinary end")),
        BackendType::Postmaster => Fail("this is the postmaster itself: it must never be touched".into()),
        BackendType::Unknown => Fail("what this process is for could not be told, so its end may be a crash to the postmaster".into()),
        BackendType::Startup => Fail(format!("{kind}: an auxiliary process, whose end stops the whole server")),
        BackendType::Archiver | BackendType::IoWorker | BackendType::WalReceiver | BackendType::Logger | BackendType::StatsCollector => {
            Fail(format!("{kind}: an auxiliary process: it serves the whole server, and is no session that could be cancelled or terminated"))
        }
        _ => Fail(format!("{kind}: an auxiliary process, whose end with status 1 is a crash to the postmaster, or is felt by the whole server")),
    }
}

fn interrupt_model(s: Subject) -> Outcome {
    match &s.snapshot.backend.model_objection {
        None => Pass("the classic variables".into()),
        Some(why) => Fail(format!("unknown: {why}")),
    }
}

fn server_known(s: Subject) -> Outcome {
    let b = &s.snapshot.backend;
    let version = b.server_version.as_deref();
    match (b.version_known, version) {
        (true, Some(version)) => Pass(format!("PostgreSQL {version}")),
        (_, Some(version)) => Fail(format!(
            "PostgreSQL {version} is not among the versions that pgpoke was made for"
        )),
        (_, None) => Fail("the server's version could not be told".into()),
    }
}

fn process_state(s: Subject) -> Outcome {
    let p = &s.snapshot.process;
    if let Some(by) = p.traced_by() {
        return Fail(format!("traced by process {by}"));
    }
    if s.stack().is_some_and(|s| s.group_stop) {
        return Fail("T: stopped by SIGSTOP or one of its kin".into());
    }
    match p.state {
        Some('D') if p.would_not_stop => Fail(format!(
            "D: in an uninterruptible system call{}",
            p.wait_channel
                .as_ref()
                .map_or(String::new(), |w| format!(" ({w})"))
        )),
        Some('T') => Fail("T: stopped by SIGSTOP or one of its kin".into()),
        Some('t') => Fail("t: stopped by another tracer".into()),
        Some(c @ ('Z' | 'X')) => Fail(format!(
            "{c}: it has exited already, and waits for its postmaster to notice"
        )),
        Some(_) if p.tracer.is_none() => {
            Unknown("whether another tracer holds it could not be read".into())
        }
        Some(c) => Pass(c.to_string()),
        None => Unknown("could not be read".into()),
    }
}

fn exiting(s: Subject) -> Outcome {
    let in_exit = s.frames().and_then(|f| rules::EXITING.find(f));
    match (s.snapshot.variables.proc_exit_in_progress, in_exit) {
        (Some(true), _) => Fail("proc_exit_inprogress is set: it is on its way out already".into()),
        (_, Some(frame)) => Fail(format!(
            "{}: it is on its way out already",
            frame.describe()
        )),
        (Some(false), None) => Pass("no".into()),
        (None, None) => Unknown("proc_exit_inprogress could not be read".into()),
    }
}

fn pending(s: Subject) -> Outcome {
    let v = &s.snapshot.variables;
    let idle = is_idle(s.snapshot);
    match s.interrupt {
        Interrupt::Nothing if v.proc_die_pending.is_none() || v.query_cancel_pending.is_none() => {
            Unknown("the flags could not be read".into())
        }
        Interrupt::Nothing => {
            Fail("neither a cancel nor a terminate has reached the backend's flags".into())
        }
        // It looks at ProcDiePending first: what is thought to end a statement may end a session.
        Interrupt::Cancel | Interrupt::Barrier if v.proc_die_pending.is_none() => {
            Unknown("whether a terminate is pending could not be read".into())
        }
        Interrupt::Barrier if v.query_cancel_pending.is_none() => {
            Unknown("whether a cancel is pending could not be read".into())
        }
        // ProcessInterrupts() drops a cancel while DoingCommandRead (src/backend/tcop/postgres.c).
        Interrupt::Cancel if idle => Fail("it is idle: there is no statement to cancel".into()),
        what => Pass(what.to_string()),
    }
}

/// Whether it waits for its client's next command: by the server's own variable, or else by what it says it does.
fn is_idle(s: &Snapshot) -> bool {
    let says_so = s.backend.activity.is_some_and(|a| a.is_idle());
    s.variables.doing_command_read.unwrap_or(says_so)
}

fn critical_section(s: Subject) -> Outcome {
    match s.snapshot.variables.crit_section_count {
        Some(0) => Pass("CritSectionCount is 0".into()),
        Some(n) => Fail(format!(
            "CritSectionCount is {n}: an ERROR here would be a PANIC and restart the server"
        )),
        None => Unknown("CritSectionCount could not be read".into()),
    }
}

fn held_off(s: Subject) -> Outcome {
    let v = &s.snapshot.variables;
    match (v.interrupt_holdoff_count, v.query_cancel_holdoff_count) {
        (Some(n @ 1..), _) => {
            let held = super::locks::held(s.snapshot);
            let held = held.map_or_else(String::new, |h| format!(", and it holds {h}"));
            Fail(format!(
                "InterruptHoldoffCount is {n}: ProcessInterrupts() would return at once{held}"
            ))
        }
        (Some(0), Some(n @ 1..)) if s.interrupt == Interrupt::Cancel => Fail(format!(
            "QueryCancelHoldoffCount is {n}: in the middle of a message from the client, where a cancel has to wait"
        )),
        (Some(0), Some(_)) => Pass("InterruptHoldoffCount is 0".into()),
        _ => Unknown("the hold-off counters could not be read".into()),
    }
}

fn lwlock_wait(s: Subject) -> Outcome {
    let waiting = s.snapshot.variables.lw_waiting;
    match (s.frames().and_then(|f| rules::LWLOCK_WAIT.find(f)), waiting) {
        (Some(frame), _) => Fail(format!(
            "{}: waiting for an LWLock, with interrupts held off",
            frame.describe()
        )),
        (None, Some(true)) => Fail("its PGPROC says that it waits for an LWLock".into()),
        (None, _) if s.frames().is_none() => not_stopped(),
        // Whoever waits for one holds interrupts off (LWLockAcquire, src/backend/storage/lmgr/lwlock.c).
        (None, None) if s.snapshot.variables.interrupt_holdoff_count != Some(0) => {
            Unknown("its PGPROC could not be read".into())
        }
        (None, _) => Pass("no".into()),
    }
}

/// Every LWLockAcquire() holds interrupts off until the release (src/backend/storage/lmgr/lwlock.c), so none is
/// held while the counter is 0. What is held is noted after it was taken, and until right before it is given back.
fn lwlock_held(s: Subject) -> Outcome {
    let v = &s.snapshot.variables;
    let moving = s.frames().and_then(|f| rules::LWLOCK.find(f));
    match (v.interrupt_holdoff_count, v.held_lwlocks.as_deref(), moving) {
        (Some(0), None | Some([]), _) => Pass("none: interrupts are not held off".into()),
        (Some(0), Some(held), _) => Unknown(format!(
            "it notes {} as held, and yet interrupts are not held off",
            held.len()
        )),
        (_, Some([_, ..]), _) => {
            let held = super::locks::held(s.snapshot).unwrap_or_default();
            Fail(format!("it holds {held}"))
        }
        (Some(_), Some([]), None) if s.frames().is_some() => Pass("none is noted as held".into()),
        (Some(_), Some([]), Some(frame)) => Unknown(format!(
            "{}: it may be taking or releasing one",
            frame.describe()
        )),
        (Some(_), _, _) => Unknown("interrupts are held off, perhaps by an LWLock".into()),
        (None, _, _) => Unknown("InterruptHoldoffCount could not be read".into()),
    }
}

fn spinlock(s: Subject) -> Outcome {
    let Some(frames) = s.frames() else {
        return not_stopped();
    };
    if let Some(frame) = rules::SPINLOCK_WAIT.find(frames) {
        return Fail(format!(
            "{}: waiting for a spinlock; nobody would release those that are held",
            frame.describe()
        ));
    }
    let ours = |f: &&Frame| {
        matches!(
            f.kind,
            ModuleKind::Server | ModuleKind::Library | ModuleKind::Anonymous
        ) && !f.inlined
    };
    match frames
        .iter()
        .filter(ours)
        .find(|f| f.spinlock != Some(false))
    {
        None => {
            Pass("no function on the stack waits for one or can be holding one, by its code".into())
        }
        Some(frame) if frame.spinlock == Some(true) => Fail(format!(
            "{}: its code takes a spinlock, and it may be holding it",
            frame.describe()
        )),
        Some(frame) => Unknown(format!(
            "{}: its code does not tell whether it is holding one",
            frame.describe()
        )),
    }
}

fn unwind(s: Subject) -> Outcome {
    let Some(stack) = s.stack() else {
        return not_stopped();
    };
    let count = stack.frames.len();
    let last = stack.frames.last();
    let last = last.map_or_else(String::new, |f| {
        format!(" at frame {}, {}", count - 1, f.describe())
    });
    if stack.complete
        && let Some(why) = contradiction(stack)
    {
        return Unknown(format!("said to be complete, but {why}"));
    }
    if stack.complete {
        return Pass(format!("{count} frames, to the root"));
    }
    if stack.end == StackEnd::OutOfTime {
        return Fail(
            "the stack could not be followed to its root within the stop budget (--max-stop)"
                .into(),
        );
    }
    if let Some(generator) = rules::generated_below(s.snapshot) {
        return Fail(format!(
            "who called the code of {generator} cannot be told: it has no call-frame information"
        ));
    }
    if let Some(frame) = rules::lost_in_musl(stack) {
        return Fail(format!(
            "what called {} cannot be proved: musl, the C library of this system, carries no call-frame information",
            frame.describe()
        ));
    }
    Fail(match stack.end {
        StackEnd::Root | StackEnd::Main => {
            let guessed = |f: &&Frame| f.found_by == crate::unwind::FoundBy::FramePointer;
            let guessed = stack.frames.iter().find(guessed);
            let name = guessed.map_or_else(|| "a frame".into(), Frame::describe);
            format!("{name} was only guessed by its frame pointer")
        }
        StackEnd::NoUnwindInfo => format!("the stack ends{last}: no call-frame information for it"),
        StackEnd::ImageNotLoaded => format!("the stack ends{last}: its file was not read yet"),
        StackEnd::BadUnwindInfo => {
            format!("the stack ends{last}: its call-frame information makes no sense")
        }
        StackEnd::UnreadableStack => {
            format!("the stack ends{last}: what it needs of the stack could not be read")
        }
        StackEnd::NotGrowing => format!("the stack runs in a circle{last}"),
        StackEnd::OutOfTime => format!("the stack was left off{last}"),
        StackEnd::TooDeep => format!(
            "the stack ends{last}: more frames, or more call-frame information, than pgpoke works through"
        ),
    })
}

/// What cannot be so on a stack that is known to its root.
fn contradiction(stack: &Stack) -> Option<String> {
    use crate::unwind::FoundBy;
    let frames = &stack.frames;
    let (Some(first), Some(last)) = (frames.first(), frames.last()) else {
        return Some("it has no frames".into());
    };
    if first.found_by != FoundBy::Context {
        return Some("its first frame is not where the process stands".into());
    }
    if frames.iter().any(|f| f.found_by == FoundBy::FramePointer) {
        return Some("a frame was only guessed".into());
    }
    let is_root = match stack.end {
        // The entry point of the executable calls main() (through the C library), and nothing calls the entry point.
        StackEnd::Root => {
            let entry = last.function.as_deref().is_none_or(|name| name == "_start");
            last.kind == ModuleKind::Server && entry
        }
        StackEnd::Main => is_below_main(frames),
        _ => return Some("it does not end at a root".into()),
    };
    if !is_root || last.inlined {
        return Some(format!("its root is {}", last.describe()));
    }
    // The server's main() has a name in every build: extensions are linked against the executable's symbols.
    if !frames.iter().any(is_main) {
        return Some("the server's main() is not on it".into());
    }
    // What was compiled into its caller stands where its caller stands.
    if let Some(pair) = frames
        .windows(2)
        .find(|pair| pair[0].inlined && pair[0].ip != pair[1].ip)
    {
        return Some(format!("{} is not in its caller", pair[0].describe()));
    }
    // A deep recursion stays in one module: those few that follow another are looked up.
    let mut kinds = std::collections::BTreeMap::new();
    let mut previous: Option<&Frame> = None;
    let torn = frames.iter().find(|f| {
        let Some(module) = f.module.as_deref() else {
            return false;
        };
        let same = previous.filter(|p| p.module.as_deref() == Some(module));
        previous = Some(f);
        let kind = same.map_or_else(|| *kinds.entry(module).or_insert(f.kind), |p| p.kind);
        kind != f.kind
    });
    torn.map(|f| format!("{} is called two things", f.module_name()))
}

/// The server's `main()`.
fn is_main(frame: &Frame) -> bool {
    frame.kind == ModuleKind::Server && frame.function.as_deref() == Some("main")
}

/// Whether the last frame is start-up code without call-frame information, and what it called is `main()`.
fn is_below_main(frames: &[Frame]) -> bool {
    let [.., main, last] = frames else {
        return false;
    };
    let start_up = matches!(last.kind, ModuleKind::Libc | ModuleKind::Server);
    start_up && last.function_start.is_none() && is_main(main) && !main.inlined
}

fn allocator(s: Subject) -> Outcome {
    let Some(frames) = s.frames() else {
        return not_stopped();
    };
    if let Some(frame) = frames.iter().find(|f| rules::is_malloc(f)) {
        return Fail(format!(
            "{}: the heap may be half changed",
            frame.describe()
        ));
    }
    if let Some(frame) = rules::PALLOC.find(frames) {
        return Fail(format!(
            "{}: a memory context may be half changed",
            frame.describe()
        ));
    }
    let in_syscall = s.stack().is_some_and(|s| s.in_syscall);
    let objection = frames
        .iter()
        .filter(|f| !f.inlined)
        .map_while(|frame| nameless_allocator(s.snapshot, frame, in_syscall))
        .find(Option::is_some);
    objection
        .flatten()
        .unwrap_or_else(|| Pass("not in malloc, palloc or their kin".into()))
}

/// Whether the innermost frames have one without a name that may be part of an allocator: `_int_malloc` and AllocSetFree
/// (which pfree jumps to, leaving no frame of its own) are static. None where a frame is at work that is surely none,
/// and that those inside it were called by.
fn nameless_allocator(s: &Snapshot, frame: &Frame, in_syscall: bool) -> Option<Option<Outcome>> {
    match (frame.kind, &frame.function) {
        // In a system call it is not the allocator: its own have names.
        (ModuleKind::Libc, None) if !in_syscall => Some(Some(Unknown(format!(
            "{}, without a name: it may be part of the allocator",
            frame.describe()
        )))),
        (ModuleKind::Server, None) => Some(nameless_memory_context(s, frame)),
        (ModuleKind::Libc | ModuleKind::Vdso | ModuleKind::DynamicLinker, _) => Some(None),
        _ => None,
    }
}

/// A server function without a name is no part of a memory context if its callers are known, none of them is, and it is
/// none of the functions that are called through the contexts' tables.
fn nameless_memory_context(s: &Snapshot, frame: &Frame) -> Option<Outcome> {
    let unknown = |why: &str| {
        Some(Unknown(format!(
            "{}, without a name: it may be part of a memory context{why}",
            frame.describe()
        )))
    };
    match &frame.callers {
        None => unknown(""),
        Some(c) if c.incomplete => unknown(", as not all who can call it are known"),
        Some(c) if c.by_address && !s.backend.memory_contexts_named => {
            unknown(", as it is called through a pointer")
        }
        Some(c) => {
            let allocating = c.named.iter().find(|n| rules::PALLOC.has_name(n))?;
            Some(Fail(format!(
                "{}, which {allocating}() calls: a memory context may be half changed",
                frame.describe()
            )))
        }
    }
}

/// Whether a running thread whose innermost frame is this one is, or may be, in an allocator.
pub fn may_be_allocating(innermost: &Frame) -> bool {
    let nameless = innermost.kind == ModuleKind::Libc && innermost.function.is_none();
    nameless || rules::is_malloc(innermost) || rules::PALLOC.has(innermost)
}

fn dynamic_linker(s: Subject) -> Outcome {
    let Some(frames) = s.frames() else {
        return not_stopped();
    };
    const DLOPEN: Functions = Functions {
        kinds: &[ModuleKind::Libc],
        names: &[
            "dlopen*", "dlclose*", "dlsym*", "dlvsym*", "dl_*", "dlerror*", "dladdr*",
        ],
    };
    let found = frames
        .iter()
        .find(|f| f.kind == ModuleKind::DynamicLinker)
        .or_else(|| DLOPEN.find(frames));
    match found {
        Some(frame) => Fail(format!(
            "{}: it holds the dynamic linker's lock, or may",
            frame.describe()
        )),
        None => Pass("not in it".into()),
    }
}

fn stdio_lock(s: Subject) -> Outcome {
    let Some(frames) = s.frames() else {
        return not_stopped();
    };
    let in_syscall = s.stack().is_some_and(|s| s.in_syscall);
    let opening = in_syscall && rules::FOPEN.find(frames).is_some();
    let locked = frames
        .iter()
        .find(|f| rules::STDIO.has(f) && !(opening && rules::FOPEN.has(f)));
    let unknown = rules::unknown_entry(frames).filter(|f| !(opening && rules::FOPEN.has(f)));
    match (locked, unknown) {
        (Some(frame), _) => Fail(format!(
            "{}: it holds a lock of the C library, or may",
            frame.describe()
        )),
        (None, Some(frame)) => Unknown(format!(
            "{}: no rule knows that it holds no lock of the C library",
            frame.describe()
        )),
        _ if opening => Pass("opening a file, in which nobody writes yet".into()),
        _ => Pass("not in stdio, the resolver or their kin".into()),
    }
}

fn error_in_progress(s: Subject) -> Outcome {
    let v = &s.snapshot.variables;
    match (v.in_error_context, v.error_recursion_depth) {
        (Some(true), _) => {
            return Fail("CurrentMemoryContext is ErrorContext: an error is being reported".into());
        }
        (_, Some(1..)) => {
            return Fail("recursion_depth is over 0: an error is being reported".into());
        }
        (Some(false), _) => {}
        (None, _) => return Unknown("CurrentMemoryContext could not be read".into()),
    }
    let Some(frames) = s.frames() else {
        return not_stopped();
    };
    match (rules::ERROR_REPORTING.find(frames), v.errordata_stack_depth) {
        (Some(frame), _) => Fail(format!("{}: an error is being reported", frame.describe())),
        // Inside PG_CATCH(), before FlushErrorState() or PG_RE_THROW().
        (None, Some(depth @ 0..)) => Warn(format!(
            "errordata_stack_depth is {depth}: it is handling an error, and would not get to the end of that"
        )),
        (None, Some(_)) => Pass("no error is being reported or handled".into()),
        (None, None) => Warn(
            "no error is being reported; whether one is being handled could not be read".into(),
        ),
    }
}

fn exception_stack(s: Subject) -> Outcome {
    // What a barrier comes with may raise an ERROR, too (ProcessInterrupts(), src/backend/tcop/postgres.c).
    if s.interrupt == Interrupt::Terminate {
        return Pass("a terminate does not jump".into());
    }
    match s.stack().and_then(|s| s.exception_stack_above) {
        Some(true) => Pass("an ERROR has somewhere to go, further up the stack".into()),
        Some(false) => Fail("PG_exception_stack does not point further up this stack: an ERROR would end the process, or worse".into()),
        None => Unknown("PG_exception_stack could not be read".into()),
    }
}

fn subtransaction(s: Subject) -> Outcome {
    let Some(frames) = s.frames() else {
        return not_stopped();
    };
    let terminates = s.interrupt == Interrupt::Terminate;
    if let Some(frame) = rules::ends_a_subtransaction(s.snapshot, frames) {
        return match terminates {
            true => Warn(format!(
                "{}: a subtransaction is being ended, and would be rolled back from the middle of that, with all of the transaction",
                frame.describe()
            )),
            false => Fail(format!(
                "{}: an ERROR would roll the subtransaction back when it is committed in part, and its rows could stay",
                frame.describe()
            )),
        };
    }
    if let Some(frame) = rules::may_end_a_subtransaction(s.snapshot, frames) {
        let doubt = format!("{}: it may be ending a subtransaction", frame.describe());
        return if terminates {
            Warn(doubt)
        } else {
            Unknown(doubt)
        };
    }
    if terminates {
        return Pass("a terminate rolls all of the transaction back".into());
    }
    // Between BeginInternalSubTransaction() and PG_TRY(), or between the subtransaction's end and PG_END_TRY(), whoever
    // catches the ERROR ends another subtransaction than was begun.
    let own_code = rules::responsible(frames).last();
    match own_code.filter(|f| f.extension == Some(true)) {
        Some(f) if f.starts_subtransactions == Some(false) => Pass(format!(
            "{} is at work, of an extension that starts no subtransactions",
            f.describe()
        )),
        Some(f) if f.starts_subtransactions == Some(true) => Warn(format!(
            "{}: its code starts subtransactions, and it may be on its way into one or out of it",
            f.describe()
        )),
        Some(f) => Unknown(format!(
            "{}: whether its code starts subtransactions was not looked at",
            f.describe()
        )),
        None => Pass("no subtransaction is being ended".into()),
    }
}

fn signal_handler(s: Subject) -> Outcome {
    let Some(frames) = s.frames() else {
        return not_stopped();
    };
    match frames.iter().position(|f| f.signal_frame) {
        Some(at) if is_the_postmasters(frames, at) => Pass(
            "not in one; the postmaster was in one of its own when it started this worker".into(),
        ),
        Some(at) => {
            let handler = at.checked_sub(1).and_then(|i| frames.get(i));
            let name = handler.map_or("a signal handler".into(), Frame::describe);
            Fail(format!(
                "in a signal handler, {name}: what it interrupted may be in any state"
            ))
        }
        None => Pass("not in one".into()),
    }
}

/// Whether the signal frame at `at` is one that the postmaster left behind in a worker: up to 15 it starts workers within
/// its handlers of SIGUSR1 and SIGCHLD. What those interrupted is its own loop, and no worker ever goes back there: its
/// main function ends with proc_exit(), and has set the only place that an ERROR can jump to.
fn is_the_postmasters(frames: &[Frame], at: usize) -> bool {
    let (inside, outside) = frames.split_at(at);
    rules::WORKER_MAIN.find(inside).is_some()
        && outside[1..].iter().all(|f| !f.signal_frame)
        && rules::POSTMASTER_MAIN.find(outside).is_some()
}

fn client_io(s: Subject) -> Outcome {
    let Some(frames) = s.frames() else {
        return not_stopped();
    };
    let v = &s.snapshot.variables;
    let idle = is_idle(s.snapshot);
    let (at, doing) = match (
        rules::CLIENT_WRITE.find(frames),
        rules::CLIENT_READ.find(frames),
    ) {
        (Some(frame), _) => (frame.describe(), "sending to the client"),
        (None, Some(frame)) if !idle => (frame.describe(), "reading from the client"),
        _ if v.sending_message == Some(true) => {
            ("PqCommBusy is set".into(), "sending to the client")
        }
        _ if v.reading_message == Some(true) && !idle => {
            ("PqCommReadingMsg is set".into(), "reading from the client")
        }
        _ if v.sending_message.is_none() => {
            return Pass("not in the middle of a message, by its stack".into());
        }
        _ => return Pass("not in the middle of a message".into()),
    };
    match s.interrupt {
        Interrupt::Terminate => Warn(format!(
            "{at}: {doing}; it will see the connection close in the middle of a message"
        )),
        _ => Fail(format!(
            "{at}: {doing}; after a cancel the two would wait for each other for ever"
        )),
    }
}

fn foreign_runtime(s: Subject) -> Outcome {
    let Some(frames) = s.frames() else {
        return not_stopped();
    };
    let found = frames.iter().find_map(|f| Some((f, rules::runtime_of(f)?)));
    let nowhere = |f: &&Frame| f.kind == ModuleKind::Library && f.module.is_none();
    if found.is_none()
        && let Some(frame) = frames.iter().find(nowhere)
    {
        return Unknown(format!(
            "{}: which library that is could not be told",
            frame.describe()
        ));
    }
    match (found, s.interrupt) {
        (None, _) => plain_library(s, frames),
        (Some((frame, runtime)), Interrupt::Terminate) => Warn(format!(
            "{}, {runtime}: it does not get to clean up; what it does at exit may hang, or crash, and a crash ends all sessions",
            frame.describe()
        )),
        (Some((frame, runtime)), _) => Fail(format!(
            "{}, {runtime}: an ERROR would jump across it and leave it in disorder",
            frame.describe()
        )),
    }
}

/// C libraries that know nothing of PostgreSQL, and code that has no file: no runtime, but foreign, too.
fn plain_library(s: Subject, frames: &[Frame]) -> Outcome {
    if let Some(frame) = frames.iter().find(|f| rules::is_plain_library(f).is_none()) {
        return Unknown(format!(
            "{}: whether that is an extension's code was not looked at",
            frame.describe()
        ));
    }
    let libraries = &s.snapshot.process.libraries;
    let plain = |f: &&Frame| rules::is_plain_library(f) == Some(true);
    let generated = |f: &&Frame| {
        let generator = rules::generator_of(f, libraries);
        generator.is_some_and(|name| name != libraries::LLVM_JIT)
    };
    let known = frames.iter().find_map(|f| Some((f, libraries::client(f)?)));
    // Whatever it is called, what waits for a peer is a client.
    let waits =
        s.stack().is_some_and(|s| s.in_syscall) && libraries::may_wait_for_a_peer(s.snapshot);
    let unknown = || {
        let frame = rules::at_work(frames).last().filter(plain)?;
        Some((frame, "which may wait for a peer"))
    };
    let client = known.or_else(|| waits.then(unknown).flatten());
    let foreign = frames.iter().find(plain).or(frames.iter().find(generated));
    match (s.interrupt, client, foreign) {
        (_, None, None) => Pass(
            "no frame of another language's runtime, or of a library that is not PostgreSQL's"
                .into(),
        ),
        (Interrupt::Terminate, Some((frame, name)), _) => Warn(format!(
            "{}, {name}: in the middle of a call, and what it does at exit runs then; if that crashes, all sessions end",
            rules::named_alike(frames, frame).describe()
        )),
        (Interrupt::Terminate, None, _) => Pass("a terminate jumps across no library".into()),
        (_, _, Some(frame)) => Warn(format!(
            "{}: a library that knows nothing of PostgreSQL's errors: what it holds is not given back, and its locks stay taken",
            rules::named_alike(frames, frame).describe()
        )),
        // A client library is a plain one.
        (_, Some(_), None) => {
            Unknown("the frames of a client library contradict each other".into())
        }
    }
}

fn server_code(s: Subject) -> Outcome {
    let Some(frames) = s.frames() else {
        return not_stopped();
    };
    if let Some(frame) = rules::INVALIDATION.find(frames) {
        return Fail(format!(
            "{} is telling caches what is no longer valid, and would not get to the end of that",
            frame.describe()
        ));
    }
    let at_work = rules::responsible(frames);
    let Some(frame) = at_work.last() else {
        return Unknown("no frame outside the C library".into());
    };
    if frame.kind != ModuleKind::Server {
        return Pass(format!("{} is at work, not the server", frame.describe()));
    }
    let changing = at_work
        .iter()
        .find_map(|f| Some((f, Functions::owner(&rules::STATE_CHANGING, f)?)));
    if let Some((frame, what)) = changing {
        return Fail(format!(
            "{} changes {what}, which outlives the statement",
            frame.describe()
        ));
    }
    if let Some(file) = Functions::owner(&rules::COMPUTING, frame) {
        return Pass(format!(
            "{}, of {file}, only computes, in its statement's own memory",
            frame.describe()
        ));
    }
    let in_syscall = s.stack().is_some_and(|s| s.in_syscall);
    if in_syscall && rules::CALM.has(frame) {
        return Pass(format!("{} is waiting and holds nothing", frame.describe()));
    }
    Fail(format!(
        "{} is server code that pgpoke has no rule for",
        frame.describe()
    ))
}

fn threads(s: Subject) -> Outcome {
    match s.snapshot.process.threads {
        Some(1) => Pass("one".into()),
        Some(n) => Fail(format!(
            "{n}: another one{} may hold a lock that the interrupt needs",
            match s.snapshot.process.thread_names.as_deref() {
                Some(names @ [_, ..]) => format!(" ({})", rules::names(names)),
                _ => String::new(),
            }
        )),
        None => Unknown("their number could not be read".into()),
    }
}

fn handlers(s: Subject) -> Outcome {
    let Some(handlers) = &s.snapshot.signals.handlers else {
        return Unknown("not asked for, or no answer came".into());
    };
    let those = |expected| {
        let of_them = handlers.iter().filter(|h| h.expected == expected);
        of_them.map(describe_handler).collect::<Vec<_>>().join("; ")
    };
    match (those(Some(false)), those(None)) {
        (strange, _) if !strange.is_empty() => Pass(format!("replaced: {strange}")),
        (_, unknown) if !unknown.is_empty() => {
            Unknown(format!("not known to be PostgreSQL's own: {unknown}"))
        }
        _ => Pass("PostgreSQL's own".into()),
    }
}

/// A handler in words.
pub(super) fn describe_handler(h: &crate::snapshot::Handler) -> String {
    let bit = u32::try_from(i64::from(h.signal) - 1).ok();
    let bit = bit.and_then(|bit| 1_u64.checked_shl(bit));
    let signal = bit.map_or_else(
        || format!("signal {}", h.signal),
        |bit| signal_names(bit).concat(),
    );
    let module = h.module.as_deref().unwrap_or("");
    let module = module.rsplit('/').next().unwrap_or(module);
    match (&h.function, h.address.0) {
        (Some(what), 0 | 1) => format!("{signal}: {what}"),
        (Some(function), _) => format!("{signal}: {function}() in {module}"),
        (None, _) if !module.is_empty() => {
            format!("{signal}: an unnamed function at {} in {module}", h.address)
        }
        (None, _) => format!("{signal}: {}", h.address),
    }
}

/// The objection of a backend that lent no frame although every check had passed.
pub fn declined(why: &crate::tracee::Declined) -> Check {
    Check {
        code: "signal-deliverable",
        status: Status::Fail,
        detail: why.to_string(),
        objection: Some(Objection {
            weight: Weight::Danger,
            verdict: Verdict::Unsafe,
        }),
    }
}

/// What the normal stack must have left for error handling: an error report with its context, and the way out.
const LEAST_STACK: u64 = 256 << 10;

/// What an alternate signal stack must have left: 64 KiB were seen to do, of which the frame itself takes some.
pub const LEAST_ALTERNATE_STACK: u64 = 48 << 10;

fn signal_deliverable(s: Subject) -> Outcome {
    let signals = &s.snapshot.signals;
    match (
        Signals::has(signals.caught, CARRIER),
        Signals::has(signals.blocked, CARRIER),
    ) {
        (Some(false), _) => {
            return Fail("SIGUSR1 has no handler: there is no signal frame to borrow".into());
        }
        (_, Some(true)) => {
            return Fail("SIGUSR1 is blocked: there is no signal frame to borrow".into());
        }
        (Some(true), Some(false)) => {}
        _ => return Unknown("its signals could not be read".into()),
    }
    let Some(stack) = s.stack() else {
        return not_stopped();
    };
    let not_told = match &signals.carrier_stack {
        CarrierStack::Normal | CarrierStack::SeenInFrame => None,
        CarrierStack::Alternate { room } if *room >= LEAST_ALTERNATE_STACK => None,
        CarrierStack::Alternate { room } => {
            return Fail(format!(
                "its SIGUSR1 handler runs on an alternate signal stack with only {} KiB of room, and reporting an error needs more",
                room >> 10
            ));
        }
        CarrierStack::NotAsked { set_up_by: None } => {
            Some("which stack its SIGUSR1 handler runs on was not asked".to_owned())
        }
        CarrierStack::NotAsked {
            set_up_by: Some(files),
        } if files.is_empty() => None,
        CarrierStack::NotAsked {
            set_up_by: Some(files),
        } => Some(format!(
            "which stack its SIGUSR1 handler runs on was not asked, and it may be a small one: {} may set one up (sigaltstack(2))",
            rules::names(files)
        )),
    };
    if let Some(why) = not_told {
        return Unknown(why);
    }
    match stack.room {
        Some(room) if room < LEAST_STACK => Fail(format!(
            "only {} KiB of stack are left, and reporting an error needs more",
            room >> 10
        )),
        Some(_) => Pass("SIGUSR1 has a handler and is not blocked".into()),
        None => Unknown("it is not on its main stack, and the room there is unknown".into()),
    }
}
