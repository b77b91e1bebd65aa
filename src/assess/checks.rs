//! The checks: may `ProcessInterrupts()` be called at this very instruction?
//!
//! Each looks at a [`Snapshot`] and at what the call would act on. What cannot be decided is `unknown`, and an
//! unknown counts like the objection that it might be.

use super::rules::{self, Functions};
use super::{Check, Interrupt, Status, Verdict};
use crate::image::ModuleKind;
use crate::snapshot::{Frame, Signals, Snapshot, Stack, signal_names};
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

    /// Objects if one of `functions` is on the stack.
    fn must_not_be_in(&self, functions: &Functions, why: &str, fine: &str) -> Outcome {
        match self.frames() {
            None => not_stopped(),
            Some(frames) => match functions.find(frames) {
                Some(frame) => Fail(format!("{}: {why}", frame.describe())),
                None => Pass(fine.into()),
            },
        }
    }
}

fn not_stopped() -> Outcome {
    Unknown("its stack was not looked at".into())
}

/// One check: its name, what an objection weighs, what it does to the verdict, and the function.
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
}

const fn row(
    code: &'static str,
    weight: Weight,
    failure: Verdict,
    judge: fn(Subject) -> Outcome,
) -> Row {
    Row {
        code,
        weight,
        failure,
        judge,
    }
}

/// All checks, in the order in which they are shown.
pub const TABLE: &[Row] = &[
    row("identity", Weight::Identity, Verdict::Unsafe, identity),
    row(
        "backend-type",
        Weight::Identity,
        Verdict::Unsafe,
        backend_type,
    ),
    row(
        "interrupt-model",
        Weight::Identity,
        Verdict::Unsafe,
        interrupt_model,
    ),
    row("server-known", Weight::Risk, Verdict::Risky, server_known),
    row(
        "process-state",
        Weight::Occasion,
        Verdict::Pointless,
        process_state,
    ),
    row("exiting", Weight::Occasion, Verdict::Pointless, exiting),
    row("pending", Weight::Occasion, Verdict::Pointless, pending),
    row(
        "critical-section",
        Weight::CriticalSection,
        Verdict::Unsafe,
        critical_section,
    ),
    row("held-off", Weight::HeldOff, Verdict::Pointless, held_off),
    row(
        "lwlock-wait",
        Weight::HeldOff,
        Verdict::Pointless,
        lwlock_wait,
    ),
    row("lwlock-held", Weight::Danger, Verdict::Unsafe, lwlock_held),
    row("spinlock", Weight::Danger, Verdict::Unsafe, spinlock),
    row("unwind", Weight::Danger, Verdict::Unsafe, unwind),
    row("allocator", Weight::Danger, Verdict::Unsafe, allocator),
    row(
        "dynamic-linker",
        Weight::Danger,
        Verdict::Unsafe,
        dynamic_linker,
    ),
    row("stdio-lock", Weight::Danger, Verdict::Unsafe, stdio_lock),
    row(
        "error-in-progress",
        Weight::Danger,
        Verdict::Unsafe,
        error_in_progress,
    ),
    row(
        "exception-stack",
        Weight::Danger,
        Verdict::Unsafe,
        exception_stack,
    ),
    row(
        "signal-handler",
        Weight::Danger,
        Verdict::Unsafe,
        signal_handler,
    ),
    row("client-io", Weight::Danger, Verdict::Unsafe, client_io),
    row(
        "foreign-runtime",
        Weight::Danger,
        Verdict::Unsafe,
        foreign_runtime,
    ),
    row(
        "signal-deliverable",
        Weight::Danger,
        Verdict::Unsafe,
        signal_deliverable,
    ),
    row("server-code", Weight::Risk, Verdict::Risky, server_code),
    row("threads", Weight::Risk, Verdict::Risky, threads),
    row("handlers", Weight::Risk, Verdict::Safe, handlers),
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
    Pass(match b.postmaster_pid {
        Some(pid) => format!("a process of the postmaster with PID {pid}, by its executable, its memory and its parent"),
        None => "a process of a PostgreSQL server, by its executable and its memory; its postmaster is gone".into(),
    })
}

fn backend_type(s: Subject) -> Outcome {
    use crate::postgres::BackendType;
    let kind = s.snapshot.backend.backend_type;
    match kind {
        _ if s.snapshot.process.state == Some('Z') => Pass("nothing of it is left that could end".into()),
        _ if kind.may_be_interrupted() => Pass(format!("{kind}: the postmaster takes exit status 1 as an ordinary end")),
        BackendType::Postmaster => Fail("this is the postmaster itself: it must never be touched".into()),
        BackendType::Unknown => Fail("what this process is for could not be told, so its end may be a crash to the postmaster".into()),
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
    if p.tracer != 0 {
        return Fail(format!("traced by process {}", p.tracer));
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
    let idle = s.snapshot.backend.activity.is_some_and(|a| a.is_idle());
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
        (Some(n @ 1..), _) => Fail(format!(
            "InterruptHoldoffCount is {n}: ProcessInterrupts() would return at once"
        )),
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
/// held while the counter is 0.
fn lwlock_held(s: Subject) -> Outcome {
    match s.snapshot.variables.interrupt_holdoff_count {
        Some(0) => Pass("none: interrupts are not held off".into()),
        Some(_) => Unknown("interrupts are held off, perhaps by an LWLock".into()),
        None => Unknown("InterruptHoldoffCount could not be read".into()),
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
            "{}: its code was not read, so it may be holding one",
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
    Fail(match stack.end {
        StackEnd::Root => "a frame was only guessed by its frame pointer".into(),
        StackEnd::NoUnwindInfo => format!("the stack ends{last}: no call-frame information for it"),
        StackEnd::ImageNotLoaded => format!("the stack ends{last}: its file was not read yet"),
        StackEnd::BadUnwindInfo => {
            format!("the stack ends{last}: its call-frame information makes no sense")
        }
        StackEnd::UnreadableStack => {
            format!("the stack ends{last}: what it needs of the stack could not be read")
        }
        StackEnd::NotGrowing => format!("the stack runs in a circle{last}"),
        StackEnd::TooDeep => format!("more than {count} frames"),
    })
}

/// What cannot be so on a stack that is known to its root.
fn contradiction(stack: &Stack) -> Option<String> {
    use crate::unwind::FoundBy;
    let frames = &stack.frames;
    let (Some(first), Some(last)) = (frames.first(), frames.last()) else {
        return Some("it has no frames".into());
    };
    if stack.end != StackEnd::Root {
        return Some("it does not end at a root".into());
    }
    if first.found_by != FoundBy::Context {
        return Some("its first frame is not where the process stands".into());
    }
    if frames.iter().any(|f| f.found_by == FoundBy::FramePointer) {
        return Some("a frame was only guessed".into());
    }
    // The entry point of the executable calls main() (through the C library), and nothing calls the entry point.
    let entry = last.function.as_deref().is_none_or(|name| name == "_start");
    if last.kind != ModuleKind::Server || last.inlined || !entry {
        return Some(format!("its root is {}", last.describe()));
    }
    // The server's main() has a name in every build: extensions are linked against the executable's symbols.
    let main = |f: &Frame| f.kind == ModuleKind::Server && f.function.as_deref() == Some("main");
    if !frames.iter().any(main) {
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

fn allocator(s: Subject) -> Outcome {
    let Some(frames) = s.frames() else {
        return not_stopped();
    };
    if let Some(frame) = rules::MALLOC.find(frames) {
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
    // Without a name, a function that runs may be part of an allocator: `_int_malloc` and AllocSetFree (which
    // pfree jumps to, leaving no frame of its own) are static. In a system call, it is not: theirs have names.
    let in_syscall = s.stack().is_some_and(|s| s.in_syscall);
    for frame in frames.iter().filter(|f| !f.inlined) {
        match frame.kind {
            ModuleKind::Libc if frame.function.is_none() && !in_syscall => {
                return Unknown(format!(
                    "{}, without a name: it may be part of the allocator",
                    frame.describe()
                ));
            }
            ModuleKind::Server if frame.function.is_none() => {
                return Unknown(format!(
                    "{}, without a name: it may be part of a memory context",
                    frame.describe()
                ));
            }
            ModuleKind::Libc | ModuleKind::Vdso | ModuleKind::DynamicLinker => {}
            _ => break,
        }
    }
    Pass("not in malloc, palloc or their kin".into())
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
    match (locked, rules::unnamed_entry(frames)) {
        (Some(frame), _) => Fail(format!(
            "{}: it holds a lock of the C library, or may",
            frame.describe()
        )),
        (None, Some(frame)) => Unknown(format!(
            "{}, without a name, was called from outside the C library: it may hold a lock of it",
            frame.describe()
        )),
        _ if opening => Pass("opening a file, which no one else knows yet".into()),
        _ => Pass("not in stdio, the resolver or their kin".into()),
    }
}

fn error_in_progress(s: Subject) -> Outcome {
    if s.snapshot.variables.in_error_context == Some(true) {
        return Fail("CurrentMemoryContext is ErrorContext: an error is being reported".into());
    }
    let fine = match s.snapshot.variables.in_error_context {
        Some(false) => "no error is being reported",
        _ => return Unknown("CurrentMemoryContext could not be read".into()),
    };
    s.must_not_be_in(&rules::ERROR_REPORTING, "an error is being reported", fine)
}

fn exception_stack(s: Subject) -> Outcome {
    if s.interrupt != Interrupt::Cancel {
        return Pass("a terminate does not jump".into());
    }
    match s.stack().and_then(|s| s.exception_stack_above) {
        Some(true) => Pass("an ERROR has somewhere to go, further up the stack".into()),
        Some(false) => Fail("PG_exception_stack does not point further up this stack: an ERROR would end the process, or worse".into()),
        None => Unknown("PG_exception_stack could not be read".into()),
    }
}

fn signal_handler(s: Subject) -> Outcome {
    let Some(frames) = s.frames() else {
        return not_stopped();
    };
    match frames.iter().position(|f| f.signal_frame) {
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

fn client_io(s: Subject) -> Outcome {
    let Some(frames) = s.frames() else {
        return not_stopped();
    };
    let idle = s.snapshot.backend.activity.is_some_and(|a| a.is_idle());
    let (frame, doing) = match (
        rules::CLIENT_WRITE.find(frames),
        rules::CLIENT_READ.find(frames),
    ) {
        (Some(frame), _) => (frame, "sending to the client"),
        (None, Some(frame)) if !idle => (frame, "reading from the client"),
        _ => return Pass("not in the middle of a message".into()),
    };
    let at = frame.describe();
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
        (None, _) => Pass("no frame of another language's runtime".into()),
        (Some((frame, runtime)), Interrupt::Terminate) => Warn(format!(
            "{}, {runtime}: it does not get to clean up, and may object on the way out",
            frame.describe()
        )),
        (Some((frame, runtime)), _) => Fail(format!(
            "{}, {runtime}: an ERROR would jump across it and leave it in disorder",
            frame.describe()
        )),
    }
}

fn server_code(s: Subject) -> Outcome {
    let Some(frames) = s.frames() else {
        return not_stopped();
    };
    let Some(frame) = rules::at_work(frames) else {
        return Unknown("no frame outside the C library".into());
    };
    if frame.kind != ModuleKind::Server {
        return Pass(format!("{} is at work, not the server", frame.describe()));
    }
    let touches = rules::STATE_CHANGING
        .iter()
        .find(|(_, functions)| functions.has(frame));
    if let Some((what, _)) = touches {
        return Fail(format!(
            "{} changes {what}, which outlives the statement",
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
            "{n}: another one may hold a lock that the interrupt needs"
        )),
        None => Unknown("their number could not be read".into()),
    }
}

fn handlers(s: Subject) -> Outcome {
    let Some(handlers) = &s.snapshot.signals.handlers else {
        return Unknown("not asked for, or no answer came".into());
    };
    let strange: Vec<String> = handlers
        .iter()
        .filter(|h| !h.expected)
        .map(describe_handler)
        .collect();
    if strange.is_empty() {
        Pass("PostgreSQL's own".into())
    } else {
        Pass(format!("replaced: {}", strange.join("; ")))
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
    if let Some(room) = signals.alternate_room
        && room < LEAST_ALTERNATE_STACK
    {
        return Fail(format!(
            "its SIGUSR1 handler runs on an alternate signal stack with only {} KiB of room, and reporting an error needs more",
            room >> 10
        ));
    }
    match s.stack().map(|s| s.room) {
        None => not_stopped(),
        Some(Some(room)) if room < LEAST_STACK => Fail(format!(
            "only {} KiB of stack are left, and reporting an error needs more",
            room >> 10
        )),
        Some(Some(_)) => Pass("SIGUSR1 has a handler and is not blocked".into()),
        Some(None) => Unknown("it is not on its main stack, and the room there is unknown".into()),
    }
}
