//! What to do next: a few sentences, the most useful first, and what to type for them.

use std::fmt;
use std::net::SocketAddr;

use super::checks::{self, TABLE};
use super::consequences::sigterm_waits;
use super::{
    Assessment, Check, Interrupt, Request, Status, Verdict, libraries, locks, looks, rules, samples,
};
use crate::postgres::BackendType;
use crate::process::syscalls::{Other, Thing};
use crate::snapshot::{Frame, Signals, Snapshot};

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// In words.
    pub text: String,
    /// What to type for it, as it is.
    pub command: Option<String>,
}

impl Advice {
    fn typing(text: impl Into<String>, command: impl Into<String>) -> Self {
        Advice {
            text: text.into(),
            command: Some(command.into()),
        }
    }
}

impl<T: Into<String>> From<T> for Advice {
    fn from(text: T) -> Self {
        Advice {
            text: text.into(),
            command: None,
        }
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.command {
            None => f.write_str(&self.text),
            Some(command) => write!(f, "{}: {command}", self.text),
        }
    }
}

/// Advice for the operator.
pub fn give(snapshot: &Snapshot, a: &Assessment, request: Request) -> Vec<Advice> {
    let mut advice: Vec<Advice> = Vec::new();
    // Whoever caught one catches the next.
    let caught = a.cause.code == "swallowed" && a.interrupt != Interrupt::Terminate;
    if a.verdict == Verdict::Safe && !caught {
        advice.push(step_in(snapshot, a.interrupt, request));
    }
    advice.extend(by_geos(snapshot));
    advice.extend(by_cause(snapshot, a.cause.code));
    let advised_by_type =
        a.cause.code == "process-wait" && !snapshot.backend.backend_type.may_be_interrupted();
    // Nobody has asked this one to stop, and it may well obey.
    let well = a.interrupt == Interrupt::Nothing
        && ["blocked-syscall", "foreign-runtime"].contains(&a.cause.code);
    if WAITING.contains(&a.cause.code) && !advised_by_type && !well {
        advice.extend(by_what_it_waits_for(snapshot));
    }
    if a.objections().any(|c| c.code == "backend-type") && !MENDED.contains(&a.cause.code) {
        advice.push(by_type(snapshot, a.cause.code));
    }
    // The statement is run by such code, and so does not leave it.
    let unproved = a.objections().any(|c| c.code == "unwind");
    let generator = rules::generated_below(snapshot).filter(|_| unproved);
    let musl = snapshot.stack.as_ref().filter(|_| unproved);
    let musl = musl.filter(|stack| rules::lost_in_musl(stack).is_some());
    // It may leave a function of the C library by itself, but not a call that nothing answers, as far as can be told, or a
    // wait for a spinlock.
    let asleep = snapshot.stack.as_ref().is_some_and(|s| s.in_syscall)
        && snapshot.process.state == Some('S');
    let stays = generator.is_some()
        || asleep
        || musl.is_some_and(|stack| stack.in_syscall)
        || matches!(a.cause.code, "blocked-syscall" | "spinlock-wait");
    let lets_go = looks::lets_go(snapshot).is_some()
        && a.objections()
            .all(|c| ["held-off", "lwlock-wait"].contains(&c.code));
    match a.verdict {
        Verdict::Pointless if lets_go => advice.extend(command(snapshot, request).map(|command| {
            let text = "it lets interrupts go again and again; this waits for such a moment";
            Advice::typing(text, command)
        })),
        _ if caught => {}
        Verdict::Risky => advice.extend(
            command(snapshot, request)
                .map(|command| Advice::typing("if you accept that risk", command)),
        ),
        Verdict::Unsafe if !stays && all_leave(snapshot, a.interrupt, a.objections()) => advice
            .extend(command(snapshot, request).map(|command| {
                let text =
                    "the objection is to where it is at this moment; this waits for a better one";
                Advice::typing(text, command)
            })),
        _ => {}
    }
    let rows = a
        .objections()
        .filter(|c| c.status != Status::Unknown)
        .filter_map(|c| TABLE.iter().find(|row| row.code == c.code));
    advice.extend(rows.filter_map(|row| row.next).map(Advice::from));
    advice.extend(generator.and_then(by_generator));
    advice.extend(musl.map(|_| BY_MUSL.into()));
    let better = [Verdict::Safe, Verdict::Risky].contains(&a.verdict_if.terminate);
    let mut others = Vec::new();
    if a.verdict == Verdict::Unsafe && a.interrupt == Interrupt::Cancel && better && !caught {
        others.push((Request::Terminate, a.verdict_if.terminate));
    }
    let idle = snapshot.backend.activity.is_some_and(|s| s.is_idle());
    if a.verdict == Verdict::Pointless && a.interrupt == Interrupt::Nothing && !idle && !caught {
        // It would let the terminate through that was asked for.
        if !sigterm_waits(snapshot) {
            others.push((Request::Cancel, a.verdict_if.cancel));
        }
        others.push((Request::Terminate, a.verdict_if.terminate));
    }
    let mut refused = Vec::new();
    for (request, verdict) in others {
        let name = Interrupt::of(snapshot, request);
        let (_, checks) = super::verdict(snapshot, request, &[]);
        let weight = checks::weight(&checks);
        let decide = checks
            .iter()
            .filter(|c| c.objection.is_some() && c.objection.map(|o| o.weight) == weight);
        // What pgpoke would refuse is no advice.
        let works = match verdict {
            Verdict::Safe | Verdict::Risky => true,
            Verdict::Unsafe => !stays && all_leave(snapshot, name, decide),
            Verdict::Pointless => continue,
        };
        let text = match verdict {
            Verdict::Unsafe => format!(
                "a {name} would be unsafe where it is at this moment; this waits for a better one"
            ),
            _ => format!("a {name} would be {verdict}"),
        };
        let is_new = |c: &String| advice.iter().all(|a| a.command.as_ref() != Some(c));
        match command(snapshot, request).filter(|_| works) {
            Some(command) if !is_new(&command) => {}
            Some(command) => advice.push(Advice::typing(text, command)),
            None => refused.push(name.to_string()),
        }
    }
    if advice.is_empty() && !refused.is_empty() {
        let refused = refused.join(" or a ");
        let text = match a.interrupt {
            Interrupt::Nothing => format!(
                "nobody has asked it to end: pg_cancel_backend() or pg_terminate_backend() comes first; if it ignores that, a {refused} by pgpoke would be unsafe here, and would stay so"
            ),
            _ => format!(
                "nothing is to be done from outside: a {refused} would be unsafe here, and would stay so"
            ),
        };
        advice.push(text.into());
    }
    let has_command = advice.iter().any(|a| a.command.is_some());
    if a.verdict == Verdict::Unsafe && !has_command {
        advice.extend(by_place(snapshot, a));
    }
    advice
}

/// What to do where nothing but the place stands in the way, and one look does not tell whether that changes.
fn by_place(snapshot: &Snapshot, a: &Assessment) -> Option<Advice> {
    let place = |c: &Check| c.status == Status::Fail && looks::PERHAPS_FOR_GOOD.contains(&c.code);
    if a.cause.code == "spinlock-wait" || !a.objections().any(place) {
        return None;
    }
    Some(match samples::motion(snapshot) {
        Some(motion) => format!(
            "it was there at each of {} looks, and no better moment is to be expected: if the session has to end, only pg_ctl restart -m immediate ends it",
            motion.looks
        )
        .into(),
        None => Advice::typing(
            "whether it leaves the place that is objected to, several looks tell",
            format!("pgpoke inspect --samples 20 {}", snapshot.pid),
        ),
    })
}

/// What to do where a free moment was waited for, and none came that was safe: not the same once more.
pub fn after_search(
    snapshot: &Snapshot,
    a: &mut Assessment,
    (request, objections): (Request, &[Check]),
    allowed: &[String],
) {
    use checks::Weight::{Identity, Occasion};
    let occasion = matches!(checks::weight(objections), Some(Identity | Occasion) | None);
    if occasion {
        return;
    }
    let mut words = vec!["pgpoke interrupt"];
    words.extend(option(request));
    for code in allowed {
        words.extend(["--allow", code]);
    }
    if looks::lets_go(snapshot).is_none() {
        let same = format!("{} {}", words.join(" "), snapshot.pid);
        let before = a.advice.len();
        a.advice.retain(|one| one.command.as_ref() != Some(&same));
        if a.advice.len() < before {
            a.advice.push("no moment was met at which stepping in is safe; a longer --wait looks for it at more of them".into());
        }
        return;
    }
    a.advice = by_cause(snapshot, a.cause.code).into_iter().collect();
    let can_be_allowed = objections.iter().all(|c| c.status == Status::Warn);
    for check in objections {
        words.extend(["--allow", check.code]);
    }
    let command = format!("{} {}", words.join(" "), snapshot.pid);
    a.advice.push(match can_be_allowed {
        true => Advice::typing("if you accept that risk, this waits for such a moment", command),
        false => "it lets interrupts go again and again, but no such moment was one at which stepping in is safe; a longer --wait looks at more of them".into(),
    });
}

fn option(request: Request) -> Option<&'static str> {
    match request {
        Request::Pending => None,
        Request::Cancel => Some("--cancel"),
        Request::Terminate => Some("--terminate"),
    }
}

fn step_in(snapshot: &Snapshot, interrupt: Interrupt, request: Request) -> Advice {
    let effect = match interrupt {
        Interrupt::Terminate => "this ends the session, and nothing else",
        Interrupt::Cancel if sigterm_waits(snapshot) => {
            "this cancels the statement, and lets the SIGTERM through that was sent before: the session ends"
        }
        Interrupt::Cancel => "this cancels the statement; the session goes on",
        Interrupt::Barrier | Interrupt::Nothing => "this makes it accept the barrier; nothing ends",
    };
    Advice {
        text: effect.into(),
        command: command(snapshot, request),
    }
}

/// `pgpoke interrupt`, with all that has to be accepted for it; none where something cannot be accepted.
fn command(snapshot: &Snapshot, request: Request) -> Option<String> {
    let mut words = vec!["pgpoke interrupt"];
    words.extend(option(request));
    let checks = checks::all(snapshot, Interrupt::of(snapshot, request), &[]);
    for check in checks.iter().filter(|c| c.objection.is_some()) {
        match check.status {
            // Nothing has to be accepted that it leaves by itself.
            _ if leaves(check.code) && super::verdict_of(&checks) == Verdict::Unsafe => {}
            Status::Warn => words.extend(["--allow", check.code]),
            Status::Unknown if super::verdict_of(&checks) == Verdict::Risky => return None,
            _ => {}
        }
    }
    Some(format!("{} {}", words.join(" "), snapshot.pid))
}

/// Causes for which it counts what a system call waits for.
const WAITING: [&str; 6] = [
    "abort-hangs",
    "blocked-syscall",
    "exiting",
    "process-wait",
    "foreign-runtime",
    "uninterruptible-syscall",
];

fn waits_for_child(snapshot: &Snapshot) -> bool {
    let call = snapshot.process.syscall.as_ref();
    let waits_for = call.map_or(&[][..], |call| &call.waits_for);
    waits_for.iter().any(|a| matches!(a.thing, Thing::Child(_)))
}

/// Who could end a system call.
fn by_what_it_waits_for(snapshot: &Snapshot) -> Option<Advice> {
    let call = snapshot.process.syscall.as_ref()?;
    // Beside a connection, a wait for a latch has a pipe of the postmaster's, which is for its death only.
    let things = call.peer().into_iter().chain(&call.waits_for);
    let things = things.map(|a| &a.thing);
    things.filter_map(|thing| about(snapshot, thing)).next()
}

/// In a call that waits for nothing but a time.
fn is_asleep(snapshot: &Snapshot) -> bool {
    let call = snapshot.process.syscall.as_ref();
    call.is_some_and(|c| c.is_one_of(&["nanosleep", "clock_nanosleep"]))
}

/// Whoever holds the other end of a pipe, by their PIDs.
fn holders(names: String, have: &str, pids: &[i32]) -> Advice {
    let pids: Vec<String> = pids.iter().map(i32::to_string).collect();
    Advice::typing(
        format!("look at {names}, which {have}, so does the wait"),
        format!("ps -o pid,ppid,stat,etime,args -p {}", pids.join(",")),
    )
}

fn about(snapshot: &Snapshot, thing: &Thing) -> Option<Advice> {
    Some(match thing {
        Thing::Socket(socket) => match &socket.remote {
            Some(remote) if socket.protocol == "tcp" => {
                about_peer(snapshot, socket.local.as_deref(), remote)
            }
            Some(remote) => format!("look at who listens at {remote}").into(),
            None => Advice::typing("look at who is at the other end", "ss -xp"),
        },
        Thing::Fifo { path } => {
            format!(
                "whoever opens the other end of {path} lets it go on, without any interrupt"
            )
            .into()
        }
        Thing::Pipe { also_open_in } => match also_open_in.as_deref()? {
            [] => "only this process itself has that pipe open: if none of its threads or signal handlers has to do with it, nothing will ever come".into(),
            [one] => holders(
                one.describe(),
                "has that pipe open, too: when it ends",
                &[one.pid],
            ),
            several => {
                let names: Vec<String> = several.iter().map(Other::describe).collect();
                let pids: Vec<i32> = several.iter().map(|o| o.pid).collect();
                let have = "have that pipe open, too: when the last of them ends";
                holders(names.join(", "), have, &pids)
            }
        },
        Thing::Child(child) => format!(
            "look at {}: when it ends, so does the wait",
            child.describe()
        )
        .into(),
        Thing::File {
            filesystem: Some(filesystem),
            ..
        } if filesystem.is_remote() => format!(
            "look at the mount {}: does {} answer?",
            filesystem.mount_point, filesystem.source
        )
        .into(),
        Thing::File { path, .. } => format!("look at what {path} lies on").into(),
        Thing::Memory { .. } => {
            "find the thread or process that holds that lock: it is the one to look into".into()
        }
        Thing::Kernel { .. } => return None,
    })
}

/// `ss -K` closes all that its filter matches, so that both ends are named: of several connections to one peer only this
/// one. It needs root and CONFIG_INET_DIAG_DESTROY (ss(8)), and sees the connections of its own network namespace only.
fn about_peer(snapshot: &Snapshot, local: Option<&str>, remote: &str) -> Advice {
    let parsed = |text: &str| text.parse::<SocketAddr>().ok();
    let ends = local.and_then(parsed).zip(parsed(remote));
    let Some((local, remote)) = ends.filter(|(local, _)| local.port() != 0) else {
        return format!("is {remote} alive?").into();
    };
    let quoted = |end: SocketAddr| match end {
        SocketAddr::V4(end) => end.to_string(),
        // To a shell, brackets are a pattern.
        SocketAddr::V6(end) => format!("'{end}'"),
    };
    let inside = match snapshot.process.in_our_network {
        Some(true) => String::new(),
        Some(false) | None => format!("nsenter -t {} -n ", snapshot.pid),
    };
    Advice::typing(
        format!(
            "is {remote} alive? If not, this closes this one connection from here, as root, and the call comes back with an error (if the kernel was built with that: what was closed is shown)"
        ),
        format!(
            "{inside}ss -K -t src {} dst {}",
            quoted(local),
            quoted(remote)
        ),
    )
}

/// Checks that object to where the backend is at this moment, and may not a moment later.
pub const MOVES_ON: [&str; 10] = [
    "allocator",
    "dynamic-linker",
    "stdio-lock",
    "spinlock",
    "error-in-progress",
    "subtransaction",
    "signal-handler",
    "server-code",
    "unwind",
    "foreign-runtime",
];

/// Whether it leaves by itself what that check objects to, as far as can be told: the frames of a runtime stay until the
/// statement is over.
fn leaves(code: &str) -> bool {
    MOVES_ON.contains(&code) && code != "foreign-runtime"
}

/// Whether waiting helps: nothing stays that objects, for whatever reason, as far as one look or several can tell.
fn all_leave<'c>(
    snapshot: &Snapshot,
    interrupt: Interrupt,
    objections: impl Iterator<Item = &'c Check>,
) -> bool {
    let mut all = objections
        .filter(|c| c.objection.map(|o| o.verdict) == Some(Verdict::Unsafe))
        .peekable();
    let seen = samples::motion(snapshot).is_some();
    let stays = looks::stays(snapshot, interrupt);
    let is_left = |code| match looks::PERHAPS_FOR_GOOD.contains(&code) {
        true => seen && !stays.contains(&code),
        false => !stays.contains(&code),
    };
    all.peek().is_some() && all.all(|c| leaves(c.code) && is_left(c.code))
}

/// What can be done on musl, and what cannot.
const BY_MUSL: &str = "with musl as the C library only a loop in the server's or an extension's own code can be stepped into, not what waits or works inside the C library: end the wait from the other side; where that happens often, run the server on a system with glibc";

/// GEOS looks in its loops whether somebody has asked it to stop, and PostGIS's handler of SIGINT does ask
/// (`GEOS_interruptRequest()`). It then comes back with an exception, from which PostGIS makes an ERROR, and what is pending
/// is acted on. A cancel that has arrived has asked already, without avail so far.
fn by_geos(snapshot: &Snapshot) -> Option<Advice> {
    /// Where it was seen to look at once (GEOS 3.11): `MCIndexNoder::intersectChains()`, in which buffers and overlays of large
    /// collections spend much of their time. In others it does not look for many seconds.
    const HEEDS: [&str; 1] = ["12MCIndexNoder"];
    let frames = &snapshot.stack.as_ref()?.frames;
    let signals = &snapshot.signals;
    let v = &snapshot.variables;
    let mut handlers = signals.handlers.iter().flatten();
    handlers.find(|h| libraries::passes_on(h) == Some("GEOS"))?;
    let is_free = |set| Signals::has(set, libc::SIGINT) == Some(false);
    let arrives = is_free(signals.blocked) && is_free(signals.pending);
    let heeded = v.query_cancel_pending == Some(false) && v.interrupt_holdoff_count == Some(0);
    let foreign = rules::foreign(frames, &snapshot.process.libraries)?;
    let heeds = |f: &Frame| {
        let name = f.function.as_deref().unwrap_or("");
        HEEDS.iter().any(|h| name.contains(h))
    };
    (foreign.name == "GEOS" && arrives && heeded && frames.iter().any(heeds)).then(|| {
        let then = match v.proc_die_pending {
            Some(true) => "the session then ends, as it was told to",
            _ => "the statement ends, and the session goes on",
        };
        Advice::typing(
            format!(
                "PostGIS passes a SIGINT on to GEOS, which looks for that where it is now: {then}"
            ),
            format!("pgpoke interrupt --cancel {}", snapshot.pid),
        )
    })
}

/// What to do about generated code on the stack: nothing now, but there is a next time.
fn by_generator(generator: &str) -> Option<Advice> {
    (generator == libraries::LLVM_JIT).then(|| {
        "the server compiled this query's expressions, and the stack below such code cannot be proved: wait until the query has left it, and let it run with jit = off next time (ALTER ROLE … SET jit = off)".into()
    })
}

/// Causes whose own advice is all that there is to do, whatever kind of process it is.
const MENDED: [&str; 5] = [
    "storage-wait",
    "being-traced",
    "group-stopped",
    "uninterruptible-syscall",
    "postmaster-gone",
];

/// What to do instead with a process that must never be interrupted: what its postmaster makes of its end was tried with
/// each kind on 18 and 19.
fn by_type(snapshot: &Snapshot, cause: &str) -> Advice {
    use BackendType::*;
    let pid = snapshot.pid;
    let call = snapshot.process.syscall.as_ref();
    let child = call.into_iter().flat_map(|c| &c.waits_for);
    let child = child.into_iter().find_map(|a| match &a.thing {
        Thing::Child(child) => Some(child),
        _ => None,
    });
    let stopping = snapshot.backend.server_stopping == Some(true);
    match (snapshot.backend.backend_type, child) {
        (Postmaster, _) => {
            "leave it alone: pg_ctl stops or restarts the whole server; the PIDs of its sessions are in pg_stat_activity".into()
        }
        // A signal that ends the command makes it a FATAL error (shell_archive_file(), src/backend/archive/shell_archive.c;
        // up to 14 pgarch_archiveXlog()), and the postmaster takes its exit status 1 for no crash.
        (Archiver, Some(child)) if stopping => Advice::typing(
            format!(
                "it waits for its archive_command, {}, and the shutdown waits for it: this ends it, and the shutdown goes on; what was not archived is when the server runs again",
                child.describe()
            ),
            format!("kill {}", child.pid),
        ),
        (Archiver, Some(child)) => Advice::typing(
            format!(
                "it waits for its archive_command, {}: find what that waits for; if it has to be ended, this ends it and the archiver, which the postmaster starts again within a minute, and no session is hurt",
                child.describe()
            ),
            format!("kill {}", child.pid),
        ),
        (Startup, Some(child)) if stopping => Advice::typing(
            format!(
                "it waits for its restore_command, {}, and the shutdown waits for it: this ends it, and the shutdown goes on",
                child.describe()
            ),
            format!("kill {}", child.pid),
        ),
        // The same for a restore_command (RestoreArchivedFile(), src/backend/access/transam/xlogarchive.c).
        (Startup, Some(child)) => format!(
            "it waits for its restore_command, {}: find what that waits for, and let it come back by itself; a signal that ends it would stop the whole server",
            child.describe()
        )
        .into(),
        (Startup, None) => {
            "leave it alone: its end would stop the whole server, and if it hangs in the record that it replays, a restart comes to the same record again: keep this report for the code's maintainers, and make the standby anew from its primary".into()
        }
        (Logger, _) => Advice::typing(
            "leave it alone unless it hangs; then this ends it, and the postmaster starts it again: no crash, and no session is hurt",
            format!("kill -9 {pid}"),
        ),
        (AutovacuumLauncher | BackgroundWriter | WalWriter | WalSummarizer | WalReceiver, _)
            if cause == "responsive" =>
        {
            Advice::typing(
                "leave it alone: nothing shows that it hangs; if it has to begin anew, this ends it in good order, and the postmaster starts it again",
                format!("kill {pid}"),
            )
        }
        (Unknown | DeadEnd | Standalone, _) => {
            "leave it alone: what its end would mean is not known; the PIDs of sessions are in pg_stat_activity".into()
        }
        _ => {
            "leave it alone: if it hangs, only a restart of the server helps, with pg_ctl restart -m immediate, as any other waits for it, too; the PIDs of sessions are in pg_stat_activity".into()
        }
    }
}

/// They ignore SIGTERM, whether or not they hang.
fn heeds_no_sigterm(kind: BackendType) -> bool {
    use BackendType::*;
    matches!(kind, Checkpointer | IoWorker | Archiver | Logger)
}

fn by_cause(snapshot: &Snapshot, code: &str) -> Option<Advice> {
    let pid = snapshot.pid;
    Some(match code {
        "being-traced" => Advice::typing(
            "look who traces it, and end that first",
            format!("ps -o pid,user,args -p {}", snapshot.process.traced_by()?),
        ),
        "group-stopped" => Advice::typing("let it go on, if you may", format!("kill -CONT {pid}")),
        "uninterruptible-syscall" if waits_for_child(snapshot) => return None,
        "uninterruptible-syscall" => {
            "nothing but the kernel or the storage can help: look at dmesg and at the file system it waits for".into()
        }
        "storage-wait" => {
            "if this lasts, look at the disk or file system that the table lies on, and at dmesg: when it answers, the wait is over, and what is pending is acted on".into()
        }
        "abort-hangs" => {
            "a further cancel or terminate is held off until that call comes back: whoever should answer it has to, or its connection has to be closed".into()
        }
        "receiver-wait" if waits_for_standby(snapshot) => {
            "find out why the standby does not confirm: pg_stat_replication, synchronous_standby_names; a cancel or terminate ends the wait: the commit stands here, and may not have reached the standby".into()
        }
        "receiver-wait" => Advice::typing(
            format!(
                "look at its receiver{}: does it run, and does it take what is sent? wal_sender_timeout gives it up by itself; this ends the wait at once, and what the receiver lacks it can get when the server runs again",
                snapshot.backend.client.as_ref().map_or(String::new(), |c| format!(" {c}"))
            ),
            format!("pgpoke interrupt --terminate {pid}"),
        ),
        "swallowed" => Advice::typing(
            "another cancel would be caught as well; a terminate cannot be caught, and SIGTERM, which this sends first, is enough for code that checks for interrupts",
            format!("pgpoke interrupt --terminate {pid}"),
        ),
        "exiting" if snapshot.process.state == Some('Z') => {
            "nothing is left to interrupt; if it stays, look at its postmaster".into()
        }
        "exiting" => "find what it waits for on its way out; a further interrupt does nothing".into(),
        // A further SIGTERM says the same again.
        "postmaster-gone"
            if heeds_no_sigterm(snapshot.backend.backend_type)
                || snapshot.variables.proc_die_pending == Some(true) =>
        {
            Advice::typing(
                "no postmaster is left that could restart anything, so ending it harms no one else",
                format!("kill -9 {pid}"),
            )
        }
        "postmaster-gone" => Advice::typing(
            "no postmaster is left that could restart anything, so ending it harms no one else (if this does nothing, with -9)",
            format!("kill {pid}"),
        ),
        "spinlock-wait" => look_for_its_holder(snapshot),
        "lwlock-self-deadlock" | "critical-section"
            if snapshot.backend.backend_type == BackendType::Startup =>
        {
            return None;
        }
        "lwlock-self-deadlock" => {
            "neither a cancel nor a terminate can reach it, and a fast shutdown would wait for it: plan a restart with pg_ctl restart -m immediate, and keep this report for the code's maintainers".into()
        }
        "lwlock-wait" => look_at_holders(snapshot),
        "critical-section" => {
            "it must leave the critical section by itself; if it never will, only a restart of the server helps: plan one, with pg_ctl restart -m immediate, as any other waits for it, too".into()
        }
        "interrupts-held-off" => {
            "find why it holds interrupts off (the stack shows who); what is pending is acted on when it lets go".into()
        }
        "signals-blocked" | "handlers-replaced" => {
            "tell the maintainers of what did so; until then --cancel and --terminate set the flags that the signal should have set".into()
        }
        "client-write" => "a terminate is clean here, a cancel is not; or close the connection from the other side".into(),
        "heavyweight-lock-wait" => look_at_blockers(snapshot),
        "blocked-syscall" if is_asleep(snapshot) => {
            "nobody is to answer here: tell the code's maintainers, who make it sleep again after each signal".into()
        }
        "blocked-syscall" if by_what_it_waits_for(snapshot).is_none() => {
            "find who should answer that system call: a writer, a peer, a disk".into()
        }
        "starting" => Advice::typing(
            "authentication_timeout ends it by itself; SIGTERM ends it at once",
            format!("pgpoke interrupt --terminate {pid}"),
        ),
        "authenticating" => {
            "find who should answer: pg_hba.conf says what it asks (LDAP, RADIUS, PAM, ident), or an extension asks; authentication_timeout ends the login only where that code lets it".into()
        }
        "cpu-loop" | "latch-loop" | "sleep-loop" => {
            "keep this report for the code's maintainers: the loop lacks CHECK_FOR_INTERRUPTS()".into()
        }
        "foreign-runtime" if libraries::waits_for_a_peer(snapshot) => {
            "give that connection a time limit or keepalives, so that the library comes back by itself next time".into()
        }
        "foreign-runtime" => "look for a way of that runtime's own to stop the code (a time limit, a memory limit)".into(),
        _ => return None,
    })
}

fn look_at_holders(snapshot: &Snapshot) -> Advice {
    match &locks::whom_to_look_at(snapshot)[..] {
        [] => "find the process that holds the lock: it is the one to look into".into(),
        [pid] => Advice::typing(
            format!("find out why process {pid} does not let go"),
            format!("pgpoke inspect {pid}"),
        ),
        all @ [pid, ..] => Advice::typing(
            format!(
                "find out why one of the processes {} does not let go, one after the other",
                locks::pids(all)
            ),
            format!("pgpoke inspect {pid}"),
        ),
    }
}

fn look_for_its_holder(snapshot: &Snapshot) -> Advice {
    let suspects = locks::spinlock_suspects(snapshot).map(|h| h.pid);
    let halted = locks::spinlock_halted(snapshot).iter().map(|h| h.pid);
    let whom: Vec<i32> = suspects.chain(halted).collect();
    match whom.first() {
        Some(pid) => Advice::typing(
            format!(
                "do not interrupt anyone here; find out why process {pid} does not go on: it may hold the spinlock"
            ),
            format!("pgpoke inspect {pid}"),
        ),
        None => Advice::typing(
            "do not interrupt anyone here; find the process that holds the spinlock: one in state T or D, or one that uses a processor and is in the same code",
            "pgpoke list",
        ),
    }
}

fn look_at_blockers(snapshot: &Snapshot) -> Advice {
    let pids = locks::blocked_by(snapshot).unwrap_or_default();
    match pids.iter().find(|pid| **pid != 0) {
        Some(pid) => Advice::typing(
            "look at the session that blocks it first",
            format!("pgpoke inspect {pid}"),
        ),
        None if pids.contains(&0) => {
            "a prepared transaction blocks it: see pg_prepared_xacts, and end it with COMMIT PREPARED or ROLLBACK PREPARED".into()
        }
        None => "look at the session that blocks it first".into(),
    }
}

fn waits_for_standby(snapshot: &Snapshot) -> bool {
    let frames = snapshot.stack.as_ref().map(|s| &s.frames[..]);
    frames.is_some_and(|f| rules::SYNC_REP.find(f).is_some())
}
