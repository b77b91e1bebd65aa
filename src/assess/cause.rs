//! Why a backend is stuck: the most specific cause that the evidence carries.

use super::checks::describe_handler;
use super::samples::motion;
use super::{Cause, Interrupt, Request, libraries, locks, looks, rules};
use crate::image::ModuleKind;
use crate::postgres::Stream;
use crate::process::syscalls::BlockedCall;
use crate::snapshot::{Frame, Signals, Snapshot, Stack, signal_names};

/// What was found: a sentence, and what it rests on.
type Found = Option<(String, Vec<String>)>;

/// One cause: its name, and the function that recognises it.
#[derive(Debug)]
pub struct Row {
    /// Its stable name.
    pub code: &'static str,
    /// Recognises it.
    pub recognise: fn(&Snapshot) -> Found,
}

const fn row(code: &'static str, recognise: fn(&Snapshot) -> Found) -> Row {
    Row { code, recognise }
}

/// The name of no cause.
const UNKNOWN: &str = "unknown";

/// The names in [`TABLE`], and that of no cause, for the schema of the JSON output.
#[derive(Debug)]
pub enum Code {}

impl schemars::JsonSchema for Code {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "cause_code".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        super::one_of(TABLE.iter().map(|row| row.code).chain([UNKNOWN]))
    }
}

/// All causes, the most specific first. The first that is recognised wins.
pub const TABLE: &[Row] = &[
    row("being-traced", being_traced),
    row("group-stopped", group_stopped),
    row("uninterruptible-syscall", uninterruptible),
    row("abort-hangs", abort_hangs),
    row("exiting", exiting),
    row("postmaster-gone", postmaster_gone),
    row("starting", starting),
    row("authenticating", authenticating),
    row("spinlock-wait", spinlock_wait),
    row("lwlock-self-deadlock", lwlock_self_deadlock),
    row("lwlock-wait", lwlock_wait),
    row("storage-wait", storage_wait),
    row("critical-section", critical_section),
    row("interrupts-held-off", held_off),
    row("signals-blocked", signals_blocked),
    row("handlers-replaced", handlers_replaced),
    row("client-write", client_write),
    row("heavyweight-lock-wait", lock_wait),
    row("swallowed", swallowed),
    row("receiver-wait", receiver_wait),
    row("process-wait", process_wait),
    row("idle", idle),
    row("responsive", responsive),
    row("barrier-ignored", barrier_ignored),
    row("foreign-runtime", foreign_runtime),
    row("sleep-loop", sleep_loop),
    row("latch-loop", latch_loop),
    row("blocked-syscall", blocked_syscall),
    row("cpu-loop", cpu_loop),
];

/// Finds the cause.
pub fn find(snapshot: &Snapshot) -> Cause {
    for row in TABLE {
        if let Some((summary, mut evidence)) = (row.recognise)(snapshot) {
            evidence.extend(motion(snapshot).iter().flat_map(|m| m.evidence()));
            evidence.extend(looks::lets_go(snapshot).map(|(held, all)| {
                format!("interrupts were held off at {held} of {all} moments: it takes and releases something again and again")
            }));
            return Cause {
                code: row.code,
                summary,
                evidence,
            };
        }
    }
    Cause {
        code: UNKNOWN,
        summary: "what it does could not be told".into(),
        evidence: Vec::new(),
    }
}

fn frames(s: &Snapshot) -> &[Frame] {
    s.stack.as_ref().map_or(&[], |s| &s.frames)
}

fn asked(s: &Snapshot) -> Interrupt {
    Interrupt::of(s, Request::Pending)
}

/// What is pending, in words.
fn pending_evidence(s: &Snapshot) -> String {
    let v = &s.variables;
    let set: Vec<&str> = [
        ("ProcDiePending", v.proc_die_pending),
        ("QueryCancelPending", v.query_cancel_pending),
        ("ProcSignalBarrierPending", v.proc_signal_barrier_pending),
    ]
    .into_iter()
    .filter(|(_, set)| *set == Some(true))
    .map(|(name, _)| name)
    .collect();
    if set.is_empty() {
        "no interrupt is pending".into()
    } else {
        format!("{} set, and not acted on", set.join(" and "))
    }
}

/// Which frames a cause rests on: those that its evidence names, each where it is met first.
pub fn carrying(s: &Snapshot, cause: &Cause) -> Vec<usize> {
    let named = |evidence: &String| {
        let name = evidence.strip_prefix(CALLED_BY);
        frames(s).iter().position(|f| {
            *evidence == frame_evidence(f) || name.is_some_and(|name| name == f.describe())
        })
    };
    cause.evidence.iter().filter_map(named).collect()
}

/// How evidence on a caller begins.
const CALLED_BY: &str = "called by ";

fn frame_evidence(frame: &Frame) -> String {
    let mut text = format!("on the stack: {}", frame.describe());
    if let (Some(file), Some(line)) = (&frame.file, frame.line) {
        let file = file.rsplit('/').next().unwrap_or(file);
        text.push_str(&format!(", {file}:{line}"));
    }
    text
}

fn held_evidence(s: &Snapshot) -> Option<String> {
    Some(match (locks::held(s), s.variables.lwlocks()) {
        (Some(held), _) => format!("it holds {held}"),
        (None, Some(_)) => "it holds no LWLock".into(),
        (None, None) => "whether it holds an LWLock is not known".into(),
    })
}

fn being_traced(s: &Snapshot) -> Found {
    s.process.traced_by().map(|by| {
        (
            format!("process {by} traces it and may keep it stopped"),
            std::iter::once(format!("TracerPid is {by}"))
                .chain(undelivered_evidence(s))
                .collect(),
        )
    })
}

fn group_stopped(s: &Snapshot) -> Found {
    let stopped = s.process.state == Some('T') || s.stack.as_ref().is_some_and(|s| s.group_stop);
    stopped.then(|| {
        (
            "somebody stopped it with SIGSTOP; until SIGCONT it reacts to nothing".into(),
            std::iter::once("process state T".into())
                .chain(undelivered_evidence(s))
                .collect(),
        )
    })
}

fn uninterruptible(s: &Snapshot) -> Found {
    (s.process.state == Some('D') && s.process.would_not_stop).then(|| {
        let call = s.process.syscall.as_ref();
        let mut evidence = vec!["process state D, and it did not stop when asked to".into()];
        let wait_channel = s.process.wait_channel.as_ref();
        evidence.extend(wait_channel.map(|w| format!("it waits in the kernel's {w}")));
        evidence.extend(kernel_evidence(s));
        evidence.extend(awaited_evidence(s));
        evidence.extend(undelivered_evidence(s));
        (
            format!(
                "it is in a system call that the kernel does not let anyone interrupt{}",
                call.map_or(String::new(), |c| format!(": {}", c.describe()))
            ),
            evidence,
        )
    })
}

/// The kernel functions it sleeps in.
fn kernel_evidence(s: &Snapshot) -> Option<String> {
    const SHOWN: usize = 6;
    let stack = s.process.kernel_stack.as_ref()?;
    let shown: Vec<&str> = stack.iter().take(SHOWN).map(String::as_str).collect();
    Some(format!(
        "in the kernel, innermost first: {}",
        shown.join(", ")
    ))
}

/// Signals that were sent and wait for it to come back from the kernel, or to be let go on.
fn undelivered_evidence(s: &Snapshot) -> Option<String> {
    let set = ENDING_SIGNALS
        .into_iter()
        .filter(|n| Signals::has(s.signals.pending, *n) == Some(true))
        .fold(0, |set, n| set | 1 << (n - 1));
    (set != 0).then(|| {
        format!(
            "{} sent, and not delivered yet",
            signal_names(set).join(" and ")
        )
    })
}

/// Each of several things that a system call waits for, and where a file lies.
fn awaited_evidence(s: &Snapshot) -> Vec<String> {
    use crate::process::syscalls::Thing;
    let Some(call) = &s.process.syscall else {
        return Vec::new();
    };
    let mut lines: Vec<String> = match &call.waits_for[..] {
        [] | [_] => Vec::new(),
        several => several
            .iter()
            .map(|a| format!("{}() waits for {}", call.name, a.describe()))
            .collect(),
    };
    for awaited in &call.waits_for {
        match &awaited.thing {
            Thing::File {
                filesystem: Some(filesystem),
                ..
            } => lines.push(format!("that file lies on {}", filesystem.describe())),
            Thing::Socket(socket) if socket.unacknowledged.is_some_and(|n| n > 0) => {
                lines.push(format!(
                    "the peer's machine has not acknowledged {} bytes",
                    socket.unacknowledged.unwrap_or(0)
                ))
            }
            _ => {}
        }
    }
    lines.extend(call.time_limit_ms.map(|ms| {
        format!(
            "{}() was told to come back after {} s at the latest",
            call.name,
            ms as f64 / 1e3
        )
    }));
    lines
}

/// Its other threads.
fn threads_evidence(s: &Snapshot) -> Option<String> {
    let names = s.process.thread_names.as_ref().filter(|n| !n.is_empty())?;
    let count = s.process.threads?.checked_sub(1)?;
    Some(format!(
        "{count} more {}: {}",
        if count == 1 { "thread" } else { "threads" },
        rules::names(names)
    ))
}

/// Interrupts are held off meanwhile, and the flags that led there are cleared. A wait for a lock has causes of its own.
fn abort_hangs(s: &Snapshot) -> Found {
    let all = frames(s);
    let undoes = rules::UNDOING.find(all)?;
    in_syscall(s)?;
    let call = s.process.syscall.as_ref()?;
    if rules::SPINLOCK_WAIT.find(all).is_some() || rules::LWLOCK_WAIT.find(all).is_some() {
        return None;
    }
    let at = rules::where_it_happens(all);
    let waits = match call.peer() {
        Some(peer) => format!("waits on {} in {}()", peer.thing.describe(), call.name),
        None => format!("is blocked in {}", call.describe()),
    };
    let mut evidence = vec![frame_evidence(undoes)];
    evidence.extend(at.map(frame_evidence));
    evidence.extend(
        s.variables
            .interrupt_holdoff_count
            .map(|count| format!("InterruptHoldoffCount is {count}")),
    );
    evidence.push(pending_evidence(s));
    evidence.extend(awaited_evidence(s));
    Some((
        format!(
            "its transaction is being undone, after a cancel, a terminate or an error, and {} {waits}",
            at.map_or("the clean-up".into(), Frame::describe)
        ),
        evidence,
    ))
}

fn exiting(s: &Snapshot) -> Found {
    if s.process.state == Some('Z') {
        return Some((
            "it has exited already; its postmaster has not noticed yet".into(),
            vec!["process state Z".into()],
        ));
    }
    let flag = s.variables.proc_exit_in_progress == Some(true);
    let frame = rules::EXITING.find(frames(s));
    (flag || frame.is_some()).then(|| {
        let at = rules::where_it_happens(frames(s));
        let mut evidence = vec![format!("proc_exit_inprogress is {}", u8::from(flag))];
        evidence.extend(at.map(frame_evidence));
        evidence.extend(syscall_evidence(s));
        (
            "it is ending already, and has not come to its end".into(),
            evidence,
        )
    })
}

fn postmaster_gone(s: &Snapshot) -> Found {
    use crate::postgres::BackendType;
    let child = s.backend.backend_type != BackendType::Standalone;
    (s.backend.postmaster_pid.is_none() && child).then(|| {
        (
            "its postmaster is gone and left it behind; it keeps the server from being started again".into(),
            vec!["its parent is no postmaster".into()],
        )
    })
}

/// A connection whose first message has not come, or not whole. Its signals are blocked but for SIGTERM, which ends it there
/// and then, and SIGALRM, which does so after authentication_timeout (BackendInitialize(), process_startup_packet_die(),
/// src/backend/postmaster/postmaster.c; 17 and later: src/backend/tcop/backend_startup.c).
fn starting(s: &Snapshot) -> Found {
    let v = &s.variables;
    (v.client_auth_in_progress == Some(true) && v.has_proc == Some(false)).then(|| {
        let mut evidence = vec!["ClientAuthInProgress is 1, and it has no PGPROC yet".to_owned()];
        evidence.extend(rules::where_it_happens(frames(s)).map(frame_evidence));
        evidence.extend(syscall_evidence(s));
        (
            "a connection on which nobody has logged in: it waits for the client's first message, and counts as no session yet".into(),
            evidence,
        )
    })
}

/// Between the client's first message and the end of its authentication: PAM, LDAP, RADIUS, a hook
/// (PerformAuthentication(), src/backend/utils/init/postinit.c).
fn authenticating(s: &Snapshot) -> Found {
    let v = &s.variables;
    (v.client_auth_in_progress == Some(true) && v.has_proc == Some(true)).then(|| {
        let call = in_syscall(s).and(s.process.syscall.as_ref());
        let at = rules::where_it_happens(frames(s));
        let mut evidence = vec!["ClientAuthInProgress is 1".to_owned()];
        evidence.extend(at.or(frames(s).first()).map(frame_evidence));
        evidence.push(pending_evidence(s));
        evidence.extend(awaited_evidence(s));
        let doing = match (at, call) {
            (Some(at), Some(call)) => {
                format!("{} is blocked in {}", at.describe(), call.describe())
            }
            (None, Some(call)) => format!("it is blocked in {}", call.describe()),
            (Some(at), None) => format!("{} works on it", at.describe()),
            (None, None) => "nothing tells what takes so long".into(),
        };
        (format!("its client is still logging in: {doing}"), evidence)
    })
}

/// A well backend may be met waiting for one, too, for a moment.
fn spinlock_wait(s: &Snapshot) -> Found {
    let frame = rules::SPINLOCK_WAIT.find(frames(s))?;
    (asked(s) != Interrupt::Nothing || at_all_looks(s, frame)).then(|| {
        let taker = locks::spinlock_taker(s);
        let whose = match (taker, locks::spinlock_taken_at(s)) {
            (Some(taker), Some(at)) => format!(" that {} takes at {at}", taker.describe()),
            (Some(taker), None) => format!(" that {} takes", taker.describe()),
            (None, _) => String::new(),
        };
        let mut evidence = vec![frame_evidence(frame)];
        evidence.extend(taker.map(frame_evidence));
        evidence.extend(locks::spinlock_evidence(s));
        evidence.push(pending_evidence(s));
        (
            format!(
                "it waits for a spinlock{whose}; after a minute or two of that the server panics by itself"
            ),
            evidence,
        )
    })
}

/// Whether it was looked at several times, and in this function each time.
fn at_all_looks(s: &Snapshot, frame: &Frame) -> bool {
    motion(s).is_some_and(|m| m.progress.is_none() && m.common.contains(&frame.describe()))
}

/// The frames and the flag agree that it waits for an LWLock.
fn waits_for_lwlock(s: &Snapshot) -> Option<&Frame> {
    let frame = rules::LWLOCK_WAIT.find(frames(s))?;
    (s.variables.lw_waiting != Some(false)).then_some(frame)
}

/// For ever, whatever is pending: nobody else can release what it holds.
fn lwlock_self_deadlock(s: &Snapshot) -> Found {
    let frame = waits_for_lwlock(s)?;
    locks::waits_for_itself(s).then(|| {
        let mut evidence = vec![frame_evidence(frame)];
        evidence.extend(rules::where_it_happens(frames(s)).map(frame_evidence));
        evidence.extend(locks::lwlock_evidence(s));
        evidence.push(pending_evidence(s));
        (
            format!(
                "it waits for {}, which it holds itself: it will never go on",
                locks::awaited(s)
            ),
            evidence,
        )
    })
}

fn lwlock_wait(s: &Snapshot) -> Found {
    let frame = waits_for_lwlock(s)?;
    // One that got it in between does not wait for ever.
    if s.samples.iter().any(|look| look.lw_waiting == Some(false)) {
        return None;
    }
    // Waiting for a moment is normal; who is in the same lock's list after all others were looked at waits for longer.
    let still_waits = s.locks.lwlock.as_ref().is_some_and(|w| w.lock.is_some());
    (still_waits || asked(s) != Interrupt::Nothing).then(|| {
        let mut evidence = vec![frame_evidence(frame)];
        evidence.extend(locks::lwlock_evidence(s));
        evidence.push(pending_evidence(s));
        let holders = locks::lwlock_holders(s).filter(|h| !h.is_empty());
        let held_by = holders.map_or_else(String::new, |pids| {
            format!(", which process {} holds", locks::pids(&pids))
        });
        (
            format!(
                "it waits for {}{held_by}; interrupts are held off until it has it",
                locks::awaited(s)
            ),
            evidence,
        )
    })
}

/// PostgreSQL 18 and later with io_method = io_uring: while it waits for the kernel to have read or written, it sleeps in
/// state S, and holds the LWLock of its ring, and so holds interrupts off (pgaio_uring_wait_one(),
/// src/backend/storage/aio/method_io_uring.c). liburing's frames may lie between.
fn storage_wait(s: &Snapshot) -> Found {
    let stack = in_syscall(s)?;
    let call = s.process.syscall.as_ref()?;
    let of_server = stack.frames.iter().find(|f| !rules::is_of_liburing(f))?;
    let waits = call.is_one_of(&["io_uring_enter"]) && call.arguments[2] > 0;
    (waits && of_server.kind == ModuleKind::Server).then(|| {
        let mut evidence = vec![
            "it sleeps in io_uring_enter() until the kernel has read or written".to_owned(),
            frame_evidence(of_server),
        ];
        let channel = s.process.wait_channel.as_ref();
        evidence.extend(channel.map(|at| format!("it waits in the kernel's {at}")));
        evidence.extend(held_evidence(s));
        evidence.push(pending_evidence(s));
        (
            "it waits for the storage to answer a read or write that it asked the kernel for; interrupts are held off until then".into(),
            evidence,
        )
    })
}

fn critical_section(s: &Snapshot) -> Found {
    let count = s.variables.crit_section_count?;
    (count > 0 && asked(s) != Interrupt::Nothing && looks::lets_go(s).is_none()).then(|| {
        let at = looks::where_it_is(s);
        let mut evidence = vec![format!("CritSectionCount is {count}"), pending_evidence(s)];
        evidence.extend(held_evidence(s));
        evidence.extend(at.map(frame_evidence));
        let who = at.map_or("it".into(), Frame::describe);
        let summary = match looks::number(s) {
            1 => format!("it is in a critical section, in {who}; one look cannot tell whether it leaves it again"),
            n => format!("it is in a critical section, and {who} does not come back to leave it (at each of {n} moments)"),
        };
        (summary, evidence)
    })
}

fn held_off(s: &Snapshot) -> Found {
    let count = s.variables.interrupt_holdoff_count?;
    (count > 0 && asked(s) != Interrupt::Nothing && looks::lets_go(s).is_none()).then(|| {
        let at = looks::where_it_is(s);
        let mut evidence = vec![
            format!("InterruptHoldoffCount is {count}"),
            pending_evidence(s),
        ];
        evidence.extend(held_evidence(s));
        evidence.extend(at.map(frame_evidence));
        let who = at.map_or("it".into(), Frame::describe);
        let caller = at.and_then(|at| rules::extension_that_called(frames(s), at));
        evidence.extend(caller.map(|f| format!("{CALLED_BY}{}", f.describe())));
        let summary = match (caller, at, extensions_lock(s)) {
            (Some(caller), Some(at), Some(lock)) => format!(
                "{} holds the LWLock {lock}, and interrupts off with it, and does not come back from {} to let them go",
                caller.describe(),
                at.describe()
            ),
            // Which of the two holds them off is not known.
            (Some(caller), Some(at), None) => format!(
                "interrupts are held off, and {}, in {}, does not come back to let them go",
                caller.describe(),
                at.describe()
            ),
            _ => match looks::number(s) {
                1 => format!("interrupts are held off, in {who}; one look cannot tell whether they are let go again"),
                n => format!("interrupts are held off, and {who} does not come back to let them go (at each of {n} moments)"),
            },
        };
        (summary, evidence)
    })
}

/// The LWLock of an extension's that it holds: no function of the server's takes one.
fn extensions_lock(s: &Snapshot) -> Option<String> {
    let mut held = s.variables.lwlocks()?.iter();
    held.find(|l| {
        let tranche = l.tranche.as_deref();
        tranche.is_some_and(|name| !crate::postgres::lwlocks::may_be_built_in(name))
    })
    .map(|lock| lock.describe())
}

const ENDING_SIGNALS: [i32; 2] = [libc::SIGINT, libc::SIGTERM];

fn signals_blocked(s: &Snapshot) -> Found {
    let set = ENDING_SIGNALS
        .into_iter()
        .filter(|n| Signals::has(s.signals.blocked, *n) == Some(true))
        .fold(0, |set, n| set | 1 << (n - 1));
    (set != 0).then(|| {
        let mut evidence = vec![format!("{} blocked", signal_names(set).join(" and "))];
        let waiting = s.signals.pending.unwrap_or(0) & set;
        if waiting != 0 {
            evidence.push(format!(
                "{} sent, and not delivered",
                signal_names(waiting).join(" and ")
            ));
        }
        evidence.extend(rules::where_it_happens(frames(s)).map(frame_evidence));
        (
            "it blocks the signals that cancel and terminate it".into(),
            evidence,
        )
    })
}

/// The handlers of the signals that cancel and terminate that are not PostgreSQL's, with the signal of each.
fn strange_handlers(s: &Snapshot) -> Vec<(i32, String)> {
    match &s.signals.handlers {
        Some(handlers) => handlers
            .iter()
            .filter(|h| ENDING_SIGNALS.contains(&h.signal) && h.expected == Some(false))
            .map(|h| (h.signal, describe_handler(h)))
            .collect(),
        // Without asking, only a missing handler shows.
        None => ENDING_SIGNALS
            .into_iter()
            .filter(|n| {
                s.backend.backend_type == crate::postgres::BackendType::Client
                    && Signals::has(s.signals.caught, *n) == Some(false)
            })
            .map(|n| {
                let name = signal_names(1 << (n - 1)).concat();
                (n, format!("{name} has no handler"))
            })
            .collect(),
    }
}

/// Those that are not known to pass on what they get: a cancel or terminate that was delivered may have been lost there.
fn swallowing_handlers(s: &Snapshot) -> Vec<(i32, String)> {
    let passes = |n: i32| {
        let mut handlers = s.signals.handlers.iter().flatten();
        handlers.any(|h| h.signal == n && libraries::passes_on(h).is_some())
    };
    let mut strange = strange_handlers(s);
    strange.retain(|(n, _)| !passes(*n));
    strange
}

/// Somebody else's handler is often harmless (PostGIS's passes the signal on) or there for a moment (system(3) ignores
/// SIGINT for as long as its command runs). It is the cause where a signal is known to have got lost in it: it was sent, it
/// is not waiting to be delivered, and its flag is not set.
fn handlers_replaced(s: &Snapshot) -> Found {
    let v = &s.variables;
    // The flag is cleared by what acts on it (ProcessInterrupts(), src/backend/tcop/postgres.c).
    if rules::OBEYING.find(frames(s)).is_some() {
        return None;
    }
    let lost = |n: i32| {
        let flag = match n {
            libc::SIGTERM => v.proc_die_pending,
            _ => v.query_cancel_pending,
        };
        Signals::has(s.signals.sent, n) == Some(true)
            && Signals::has(s.signals.pending, n) == Some(false)
            && flag == Some(false)
    };
    let mut strange = swallowing_handlers(s);
    let at = strange.iter().position(|(n, _)| lost(*n))?;
    let (signal, _) = strange[at];
    strange.sort_by_key(|(n, _)| *n != signal);
    let name = signal_names(1 << (signal - 1)).concat();
    let mut evidence = vec![format!(
        "{name} was sent and delivered, and its flag is not set"
    )];
    evidence.extend(strange.into_iter().map(|(_, handler)| handler));
    evidence.push(pending_evidence(s));
    evidence.extend(rules::where_it_happens(frames(s)).map(frame_evidence));
    let summary = match runs_a_command(s) {
        true => format!(
            "it waits in system() for a command, and ignores {name} for that time: a cancel arrives and sets nothing"
        ),
        false => "something replaced PostgreSQL's signal handlers: cancel and terminate arrive and set nothing".into(),
    };
    Some((summary, evidence))
}

/// Whether it is in system(3), which ignores SIGINT and SIGQUIT and blocks SIGCHLD while its command runs (POSIX).
fn runs_a_command(s: &Snapshot) -> bool {
    rules::system(&s.signals)
}

fn client_write(s: &Snapshot) -> Found {
    let frame = rules::CLIENT_WRITE.find(frames(s))?;
    let stack = s.stack.as_ref()?;
    let waits = in_syscall(s).is_some() || asked(s) != Interrupt::Nothing;
    (stack.in_syscall && waits).then(|| {
        let mut evidence = vec![frame_evidence(frame)];
        evidence.extend(syscall_evidence(s));
        (
            format!(
                "it waits for its client{} to take what it sent",
                s.backend
                    .client
                    .as_ref()
                    .map_or(String::new(), |c| format!(" {c}"))
            ),
            evidence,
        )
    })
}

fn lock_wait(s: &Snapshot) -> Found {
    let frame = rules::LOCK_WAIT.find(frames(s))?;
    (s.variables.waits_for_lock == Some(true)).then(|| {
        let wait = s.locks.heavyweight.as_ref();
        let mut evidence = vec![frame_evidence(frame)];
        evidence.extend(wait.into_iter().flat_map(locks::lock_evidence));
        evidence.push(pending_evidence(s));
        let first = wait.and_then(|w| w.blockers.as_ref()?.first());
        let summary = match wait.zip(first) {
            Some((wait, first)) => format!(
                "it waits for {} on {}, and {} is in the way",
                wait.mode,
                wait.object,
                locks::name(first)
            ),
            None => {
                "it waits for a lock that another session holds (see pg_blocking_pids())".into()
            }
        };
        (summary, evidence)
    })
}

fn swallowed(s: &Snapshot) -> Found {
    let seen = s.swallowed.as_ref()?;
    let mut evidence = vec![seen.clone()];
    evidence.extend(rules::where_it_happens(frames(s)).map(frame_evidence));
    evidence.push(pending_evidence(s));
    Some((
        "a cancel raised an ERROR, and something in this statement caught it and goes on".into(),
        evidence,
    ))
}

/// A commit that stands here and waits for a standby (SyncRepWaitForLSN(), src/backend/replication/syncrep.c). It obeys.
fn standby_wait(s: &Snapshot) -> Found {
    let frame = rules::SYNC_REP.find(frames(s))?;
    (asked(s) == Interrupt::Nothing).then(|| {
        (
            "it has committed here, and waits for a synchronous standby to confirm that".into(),
            vec![frame_evidence(frame), pending_evidence(s)],
        )
    })
}

/// A walsender of a server that is being stopped: it ends when its receiver has confirmed all WAL (WalSndDone(),
/// src/backend/replication/walsender.c).
fn receiver_wait(s: &Snapshot) -> Found {
    if let Some(found) = standby_wait(s) {
        return Some(found);
    }
    let stream = s.backend.stream.as_ref()?;
    let wait = rules::LATCH_WAIT.find(frames(s))?;
    in_syscall(s)?;
    let awaited = stream.stopping || stream.sent > stream.confirmed;
    let stopping = s.backend.server_stopping == Some(true) && awaited;
    (stopping && asked(s) == Interrupt::Nothing).then(|| {
        let to = s.backend.client.as_ref();
        let to = to.map_or(String::new(), |client| format!(" {client}"));
        (
            format!("the server is being stopped, and its receiver{to} has not confirmed all WAL, which it waits for before it ends"),
            vec![
                format!(
                    "sent up to {}, and confirmed up to {}",
                    Stream::position(stream.sent),
                    Stream::position(stream.confirmed)
                ),
                frame_evidence(wait),
                pending_evidence(s),
            ],
        )
    })
}

/// It waits for a child, whether or not anybody has asked it to stop.
fn process_wait(s: &Snapshot) -> Found {
    use crate::postgres::BackendType::{Archiver, Startup};
    in_syscall(s)?;
    let call = s.process.syscall.as_ref()?;
    let child = call.child().filter(|_| asked(s) == Interrupt::Nothing)?;
    let at = rules::where_it_happens(frames(s));
    let child = child.describe();
    let stopping = s.backend.server_stopping == Some(true);
    let when = match stopping {
        true => "the server is being stopped, and it",
        false => "it",
    };
    let summary = match (s.backend.backend_type, at) {
        (Archiver, _) => format!("{when} waits for its archive_command, {child}"),
        (Startup, _) => format!("{when} waits for its restore_command, {child}"),
        (_, Some(at)) => format!("{} waits for its child, {child}", at.describe()),
        (_, None) => format!("it waits for its child, {child}"),
    };
    let mut evidence = vec![format!("in the system call {}", call.describe())];
    evidence.extend(at.map(frame_evidence));
    evidence.push(pending_evidence(s));
    Some((summary, evidence))
}

/// A cancel that comes while the client's next command is awaited ends nothing, and is held back while that is read
/// (SocketBackend()). It is dropped when the command is there (PostgresMain() and ProcessInterrupts(),
/// src/backend/tcop/postgres.c).
fn idle(s: &Snapshot) -> Found {
    let activity = s.backend.activity.filter(|a| a.is_idle())?;
    let waits = s.stack.as_ref().is_none_or(|s| s.in_syscall);
    let reads = s.variables.doing_command_read != Some(false);
    match asked(s) {
        _ if !waits => None,
        Interrupt::Nothing => Some((
            "it waits for its client's next command".into(),
            vec![format!("state: {activity}")],
        )),
        Interrupt::Cancel if reads => Some((
            "it waits for its client's next command; there is nothing that the cancel could end, and it is dropped when that command comes".into(),
            vec![format!("state: {activity}"), "QueryCancelPending set".into()],
        )),
        _ => None,
    }
}

fn responsive(s: &Snapshot) -> Found {
    let v = &s.variables;
    let known = v.proc_die_pending.is_some() && v.query_cancel_pending.is_some();
    (known && asked(s) == Interrupt::Nothing && !waits_for_somebody(s)).then(|| {
        let mut evidence = vec![pending_evidence(s)];
        evidence.extend(rules::where_it_happens(frames(s)).map(frame_evidence));
        if waits_for_lwlock(s).is_some() {
            evidence.extend(locks::lwlock_evidence(s));
        }
        if let Some(count @ 1..) = v.interrupt_holdoff_count {
            evidence.push(format!(
                "InterruptHoldoffCount is {count}: at this moment it would not react to a cancel or terminate"
            ));
        }
        evidence.extend(held_evidence(s));
        let strange = swallowing_handlers(s);
        let summary = match strange.is_empty() || runs_a_command(s) {
            true => "nothing shows that it ignores anyone: no cancel or terminate waits for it",
            // What was delivered to them before may have left no trace.
            false => {
                "no cancel or terminate waits for it; but it has signal handlers that are not PostgreSQL's, and one that was sent may have got lost in them"
            }
        };
        evidence.extend(strange.into_iter().map(|(_, handler)| handler));
        (summary.into(), evidence)
    })
}

/// Whether it sleeps in a system call that somebody who can be named has to answer, though nobody has asked it to stop. A
/// walsender that has nothing to send waits for WAL, and not for its receiver.
fn waits_for_somebody(s: &Snapshot) -> bool {
    use crate::process::syscalls::Thing;
    let kind = s.backend.backend_type;
    let asks = kind.may_be_interrupted() && kind != crate::postgres::BackendType::WalSender;
    let call = in_syscall(s).and(s.process.syscall.as_ref());
    // Among several there is the pipe by which all know that the postmaster lives.
    let named = |call: &BlockedCall| {
        call.peer().is_some()
            || matches!(&call.waits_for[..], [only] if match &only.thing {
                Thing::Fifo { .. } | Thing::Child(_) => true,
                Thing::Pipe { also_open_in } => also_open_in.as_ref().is_some_and(|o| !o.is_empty()),
                _ => false,
            })
    };
    asks && call.is_some_and(named)
}

fn foreign_runtime(s: &Snapshot) -> Found {
    let libraries = &s.process.libraries;
    let rules::Foreign { name, at, within } = rules::foreign(frames(s), libraries)?;
    let caller = frames(s)
        .iter()
        .find(|f| f.extension == Some(true) && f.function.is_some() && f.module != at.module);
    let mut evidence: Vec<String> = within.into_iter().map(frame_evidence).collect();
    evidence.push(frame_evidence(at));
    evidence.extend(caller.map(|f| format!("{CALLED_BY}{}", f.describe())));
    evidence.push(pending_evidence(s));
    evidence.extend(awaited_evidence(s));
    evidence.extend(threads_evidence(s));
    let doing = match in_syscall(s).and(s.process.syscall.as_ref()) {
        Some(call) => format!("is blocked in {}", call.describe()),
        None => "computes".into(),
    };
    let within = within.map_or_else(String::new, |f| format!(", which is in {}", f.describe()));
    Some((
        format!(
            "{name} {doing}, in {}{within}, and does not look at PostgreSQL's interrupts",
            at.describe()
        ),
        evidence,
    ))
}

/// In a call that waits for nothing but a short time, again and again.
fn sleep_loop(s: &Snapshot) -> Found {
    in_syscall(s)?;
    let call = s.process.syscall.as_ref()?;
    let ms = short_sleep(call)?;
    let at = rules::where_it_happens(frames(s));
    let mut evidence: Vec<String> = at
        .or(frames(s).first())
        .map(frame_evidence)
        .into_iter()
        .collect();
    let time = match ms {
        0 => "for less than a millisecond".into(),
        ms => format!("for {ms} ms"),
    };
    evidence.push(format!("asleep in {}(), {time}", call.name));
    evidence.push(pending_evidence(s));
    evidence.extend(threads_evidence(s));
    let who = at.map_or_else(|| "it".into(), Frame::describe);
    Some((
        format!("{who} sleeps for a moment again and again, and does not check for interrupts"),
        evidence,
    ))
}

/// For how many milliseconds a call sleeps that waits for no one, if that is not long: by itself it would be over by now,
/// and so there is a loop around it.
pub(super) fn short_sleep(call: &BlockedCall) -> Option<u64> {
    /// What pg_usleep() is for (src/port/pgsleep.c).
    const MOST: u64 = 1000;
    const SLEEPS: [&str; 4] = ["select", "pselect6", "nanosleep", "clock_nanosleep"];
    // select(2) and pselect(2) of no descriptor.
    let of_nothing = !call.is_one_of(&["select", "pselect6"]) || call.arguments[0] == 0;
    let sleeps = call.is_one_of(&SLEEPS) && call.waits_for.is_empty() && of_nothing;
    call.time_limit_ms.filter(|ms| sleeps && *ms <= MOST)
}

fn latch_loop(s: &Snapshot) -> Found {
    let wait = rules::LATCH_WAIT.find(frames(s))?;
    in_syscall(s).filter(|_| asked(s) != Interrupt::Nothing)?;
    let at = rules::where_it_happens(frames(s))?;
    Some((
        format!(
            "{} waits for its latch again and again and never checks for interrupts",
            at.describe()
        ),
        vec![
            frame_evidence(wait),
            frame_evidence(at),
            pending_evidence(s),
        ],
    ))
}

fn blocked_syscall(s: &Snapshot) -> Found {
    in_syscall(s)?;
    let at = rules::where_it_happens(frames(s));
    let call = s.process.syscall.as_ref()?;
    let mut evidence: Vec<String> = at
        .or(frames(s).first())
        .map(frame_evidence)
        .into_iter()
        .collect();
    evidence.push(pending_evidence(s));
    evidence.extend(awaited_evidence(s));
    evidence.extend(threads_evidence(s));
    let caller = at.and_then(|at| rules::on_behalf_of(frames(s), at));
    evidence.extend(caller.map(|f| format!("{CALLED_BY}{}", f.describe())));
    if asked(s) == Interrupt::Nothing {
        let who = at.map_or_else(|| "it".into(), |at| who(at, caller));
        let summary = match call.peer() {
            Some(peer) => format!("{who} waits in {}() on {}", call.name, peer.describe()),
            None => format!("{who} waits in {}", call.describe()),
        };
        return Some((summary, evidence));
    }
    let call = call.describe();
    let summary = match at {
        Some(at) => format!("{} is blocked in {call}", who(at, caller)),
        None => format!("it is blocked in {call}, on whose behalf could not be told"),
    };
    Some((
        format!("{summary}, and goes back there when a signal wakes it"),
        evidence,
    ))
}

fn barrier_ignored(s: &Snapshot) -> Found {
    (asked(s) == Interrupt::Barrier).then(|| {
        let at = rules::where_it_happens(frames(s));
        let mut evidence = vec![pending_evidence(s)];
        evidence.extend(at.map(frame_evidence));
        (
            "it does not accept a ProcSignalBarrier, and others (DROP DATABASE, for one) wait for that".into(),
            evidence,
        )
    })
}

fn cpu_loop(s: &Snapshot) -> Found {
    let stack = s.stack.as_ref()?;
    let at = looks::where_it_is(s);
    let mut evidence = vec![
        frame_evidence(at.or(stack.frames.first())?),
        pending_evidence(s),
    ];
    evidence.extend(
        s.process
            .cpu_percent
            .map(|p| format!("it used {p:.0} % of a processor while we looked")),
    );
    evidence.extend(threads_evidence(s));
    let progress = motion(s).and_then(|m| m.progress);
    if let (None, Some((at, caller))) = (progress, looks::called_by_an_extension(s)) {
        let which = match looks::number(s) {
            1 => "one look cannot tell which of the two loops".into(),
            n => format!("{n} looks do not tell which of the two loops"),
        };
        evidence.push(which);
        let (caller, at) = (caller.describe(), at.describe());
        let summary =
            format!("{caller} or {at}, which it calls, computes and does not check for interrupts");
        return Some((summary, evidence));
    }
    let what = match progress {
        Some(_) => "makes progress, and has not come to a check for interrupts",
        None => "computes and does not check for interrupts",
    };
    let caller = at.and_then(|at| rules::on_behalf_of(&stack.frames, at));
    evidence.extend(caller.map(|f| format!("{CALLED_BY}{}", f.describe())));
    let who = at.map_or_else(
        || "it is in the C library, on whose behalf could not be told, and".into(),
        |at| who(at, caller),
    );
    Some((format!("{who} {what}"), evidence))
}

/// Who answers for what happens at `at`: for a library that works on its behalf, its caller.
fn who(at: &Frame, caller: Option<&Frame>) -> String {
    match caller {
        Some(caller) => format!("{}, in {},", caller.describe(), at.describe()),
        None => at.describe(),
    }
}

/// In a system call and asleep there: one that was only passing through was running before we looked.
fn in_syscall(s: &Snapshot) -> Option<&Stack> {
    s.stack
        .as_ref()
        .filter(|stack| stack.in_syscall && s.process.state != Some('R'))
}

fn syscall_evidence(s: &Snapshot) -> Option<String> {
    let call = s.process.syscall.as_ref()?;
    Some(format!("in the system call {}", call.describe()))
}
