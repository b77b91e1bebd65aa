//! What to do next: a few sentences, the most useful first.

use std::net::SocketAddr;

use super::checks::TABLE;
use super::{Assessment, Interrupt, Request, Status, Verdict, locks, rules};
use crate::postgres::BackendType;
use crate::process::syscalls::Thing;
use crate::snapshot::Snapshot;

/// Advice for the operator.
pub fn give(snapshot: &Snapshot, a: &Assessment, request: Request) -> Vec<String> {
    let pid = snapshot.pid;
    // What was asked for, to be asked for again.
    let asked = match request {
        Request::Pending => "",
        Request::Cancel => "--cancel ",
        Request::Terminate => "--terminate ",
    };
    let mut advice: Vec<String> = by_cause(snapshot, a.cause.code).into_iter().collect();
    if WAITING.contains(&a.cause.code) {
        advice.extend(by_what_it_waits_for(snapshot));
    }
    if a.objections().any(|c| c.code == "backend-type") {
        advice.push(by_type(snapshot.backend.backend_type).into());
    }
    // The statement is run by such code, and so does not leave it.
    let unproved = a.objections().any(|c| c.code == "unwind");
    let generator = rules::generated_below(snapshot).filter(|_| unproved);
    let musl = snapshot.stack.as_ref().filter(|_| unproved);
    let musl = musl.filter(|stack| rules::lost_in_musl(stack).is_some());
    // It may leave a function of the C library by itself, but not a call that nothing answers.
    let stays = generator.is_some() || musl.is_some_and(|stack| stack.in_syscall);
    match (a.verdict, a.interrupt) {
        (Verdict::Safe, Interrupt::Terminate) => {
            advice.push(format!(
                "pgpoke interrupt {asked}{pid} ends this session, and nothing else"
            ));
        }
        (Verdict::Safe, Interrupt::Cancel) => {
            advice.push(format!(
                "pgpoke interrupt {asked}{pid} cancels this statement; the session goes on"
            ));
        }
        (Verdict::Safe, _) => {
            advice.push(format!(
                "pgpoke interrupt {pid} makes it accept the barrier; nothing ends"
            ));
        }
        (Verdict::Risky, _) => {
            let codes: Vec<&str> = a.objections().map(|c| c.code).collect();
            let allow: Vec<String> = codes.iter().map(|c| format!("--allow {c}")).collect();
            advice.push(format!(
                "if you accept that risk: pgpoke interrupt {asked}{} {pid}",
                allow.join(" ")
            ));
        }
        (Verdict::Unsafe, _) if !stays && a.objections().any(|c| moves_on(a, c.code)) => {
            advice.push(format!(
                "the objection is to where it is at this moment: pgpoke interrupt {asked}{pid} waits for a better one"
            ));
        }
        (Verdict::Unsafe, _) | (Verdict::Pointless, _) => {}
    }
    let rows = a
        .objections()
        .filter(|c| c.status != Status::Unknown)
        .filter_map(|c| TABLE.iter().find(|row| row.code == c.code));
    advice.extend(
        rows.filter_map(|row| row.next)
            .map(|next| next.replace("PID", &pid.to_string())),
    );
    advice.extend(generator.and_then(by_generator));
    advice.extend(musl.map(|_| BY_MUSL.to_owned()));
    let better = [Verdict::Safe, Verdict::Risky].contains(&a.verdict_if.terminate);
    if a.verdict == Verdict::Unsafe && a.interrupt == Interrupt::Cancel && better {
        advice.push(format!(
            "a terminate would be {}: pgpoke interrupt --terminate {pid}",
            a.verdict_if.terminate
        ));
    }
    let idle = snapshot.backend.activity.is_some_and(|s| s.is_idle());
    if a.verdict == Verdict::Pointless && a.interrupt == Interrupt::Nothing && !idle {
        for (name, verdict) in [
            ("cancel", a.verdict_if.cancel),
            ("terminate", a.verdict_if.terminate),
        ] {
            if verdict != Verdict::Pointless {
                advice.push(format!(
                    "a {name} would be {verdict}: pgpoke interrupt --{name} {pid}"
                ));
            }
        }
    }
    advice
}

/// Causes for which it counts what a system call waits for.
const WAITING: [&str; 3] = [
    "blocked-syscall",
    "foreign-runtime",
    "uninterruptible-syscall",
];

/// Who could end a system call.
fn by_what_it_waits_for(snapshot: &Snapshot) -> Option<String> {
    let call = snapshot.process.syscall.as_ref()?;
    let things = call.waits_for.iter().map(|a| &a.thing);
    things.filter_map(about).next()
}

fn waits_for_a_peer(snapshot: &Snapshot) -> bool {
    let call = snapshot.process.syscall.as_ref();
    let mut awaited = call.iter().flat_map(|c| &c.waits_for);
    awaited.any(|a| matches!(a.thing, Thing::Socket(_)))
}

/// In a call that waits for nothing but a time.
fn is_asleep(snapshot: &Snapshot) -> bool {
    let call = snapshot.process.syscall.as_ref();
    call.is_some_and(|c| [libc::SYS_nanosleep, libc::SYS_clock_nanosleep].contains(&c.number))
}

fn about(thing: &Thing) -> Option<String> {
    Some(match thing {
        Thing::Socket(socket) => match &socket.remote {
            Some(remote) if socket.protocol == "tcp" => about_peer(remote),
            Some(remote) => format!("look at who listens at {remote}"),
            None => "look at who is at the other end: ss -xp".into(),
        },
        Thing::Fifo { path } => {
            format!(
                "it needs somebody at the other end of {path}: whoever opens that lets it go on"
            )
        }
        Thing::Pipe { also_open_in } => match also_open_in.as_deref()? {
            [] => "only this process itself has that pipe open: if none of its threads or signal handlers has to do with it, nothing will ever come".into(),
            [first, ..] => format!(
                "look at {}, which has that pipe open, too: when it ends, so does the wait",
                first.describe()
            ),
        },
        Thing::Child(child) => format!(
            "look at {}: when it ends, so does the wait",
            child.describe()
        ),
        Thing::File {
            filesystem: Some(filesystem),
            ..
        } if filesystem.is_remote() => format!(
            "look at the mount {}: does {} answer?",
            filesystem.mount_point, filesystem.source
        ),
        Thing::File { path, .. } => format!("look at what {path} lies on"),
        Thing::Memory { .. } => {
            "find the thread or process that holds that lock: it is the one to look into".into()
        }
        Thing::Kernel { .. } => return None,
    })
}

/// `ss -K` needs root and CONFIG_INET_DIAG_DESTROY (ss(8)).
fn about_peer(remote: &str) -> String {
    let Ok(address) = remote.parse::<SocketAddr>() else {
        return format!("is {remote} alive?");
    };
    format!(
        "is {remote} alive? If not: ss -K dst {} dport = {} closes the connection from here, and the call comes back with an error",
        address.ip(),
        address.port()
    )
}

/// Checks that object to where the backend is at this moment, and may not a moment later.
pub const MOVES_ON: [&str; 9] = [
    "allocator",
    "dynamic-linker",
    "stdio-lock",
    "spinlock",
    "error-in-progress",
    "signal-handler",
    "server-code",
    "unwind",
    "foreign-runtime",
];

/// A runtime that is the very cause is not left by itself.
fn moves_on(a: &Assessment, code: &str) -> bool {
    MOVES_ON.contains(&code) && a.cause.code != code
}

/// What can be done on musl, and what cannot.
const BY_MUSL: &str = "with musl as the C library only a loop in the server's or an extension's own code can be stepped into, not what waits or works inside the C library: end the wait from the other side; where that happens often, run the server on a system with glibc";

/// What to do about generated code on the stack: nothing now, but there is a next time.
fn by_generator(generator: &str) -> Option<String> {
    (generator == rules::LLVM_JIT).then(|| {
        "the server compiled this query's expressions, and the stack below such code cannot be proved: wait until the query has left it, and let it run with jit = off next time (ALTER ROLE … SET jit = off)".into()
    })
}

/// What to do instead with a process that must never be interrupted.
fn by_type(kind: BackendType) -> &'static str {
    match kind {
        BackendType::Postmaster => {
            "leave it alone: pg_ctl stops or restarts the whole server; the PIDs of its sessions are in pg_stat_activity"
        }
        _ => {
            "leave it alone: if it hangs, only a restart of the server helps: plan one; the PIDs of sessions are in pg_stat_activity"
        }
    }
}

fn by_cause(snapshot: &Snapshot, code: &str) -> Option<String> {
    let pid = snapshot.pid;
    Some(match code {
        "being-traced" => format!("end the other tracer first: ps -o pid,user,args -p {}", snapshot.process.tracer),
        "group-stopped" => format!("let it go on, if you may: kill -CONT {pid}"),
        "uninterruptible-syscall" => {
            "nothing but the kernel or the storage can help: look at dmesg and at the file system it waits for".into()
        }
        "exiting" if snapshot.process.state == Some('Z') => {
            "nothing is left to interrupt; if it stays, look at its postmaster".into()
        }
        "exiting" => "find what it waits for on its way out; a further interrupt does nothing".into(),
        "postmaster-gone" => format!(
            "no postmaster is left that could restart anything: kill {pid}, and if that does nothing kill -9 {pid}, harms no one else"
        ),
        "spinlock-wait" => "find the process that holds the spinlock; do not interrupt anyone here".into(),
        "lwlock-self-deadlock" => {
            "neither a cancel nor a terminate can reach it, and a fast shutdown would wait for it: plan a restart with pg_ctl restart -m immediate, and keep this report for the code's maintainers".into()
        }
        "lwlock-wait" => look_at_holders(snapshot),
        "critical-section" => {
            "it must leave the critical section by itself; if it never will, only a restart of the server helps: plan one".into()
        }
        "interrupts-held-off" => {
            "find why it holds interrupts off (the stack shows who); what is pending is acted on when it lets go".into()
        }
        "signals-blocked" | "handlers-replaced" => {
            "tell the maintainers of what did so; until then --cancel and --terminate set the flags that the signal should have set".into()
        }
        "client-write" => "a terminate is clean here, a cancel is not; or close the connection from the other side".into(),
        "heavyweight-lock-wait" => look_at_blockers(snapshot),
        "responsive" if waits_for_standby(snapshot) => {
            "find out why the standby does not confirm: pg_stat_replication, synchronous_standby_names; a cancel or terminate ends the wait: the commit stands here, and may not have reached the standby".into()
        }
        "blocked-syscall" if is_asleep(snapshot) => {
            "nobody is to answer here: tell the code's maintainers, who make it sleep again after each signal".into()
        }
        "blocked-syscall" if by_what_it_waits_for(snapshot).is_none() => {
            "find who should answer that system call: a writer, a peer, a disk".into()
        }
        "cpu-loop" | "latch-loop" => {
            "keep this report for the code's maintainers: the loop lacks CHECK_FOR_INTERRUPTS()".into()
        }
        "foreign-runtime" if waits_for_a_peer(snapshot) => {
            "give that connection a time limit or keepalives, so that the library comes back by itself next time".into()
        }
        "foreign-runtime" => "look for a way of that runtime's own to stop the code (a time limit, a memory limit)".into(),
        _ => return None,
    })
}

fn look_at_holders(snapshot: &Snapshot) -> String {
    match &locks::whom_to_look_at(snapshot)[..] {
        [] => "find the process that holds the lock: it is the one to look into".into(),
        [pid] => format!("find out why process {pid} does not let go: pgpoke inspect {pid}"),
        all @ [pid, ..] => format!(
            "find out why one of the processes {} does not let go, beginning with pgpoke inspect {pid}",
            locks::pids(all)
        ),
    }
}

fn look_at_blockers(snapshot: &Snapshot) -> String {
    let pids = locks::blocked_by(snapshot).unwrap_or_default();
    match pids.iter().find(|pid| **pid != 0) {
        Some(pid) => format!("look at the session that blocks it first: pgpoke inspect {pid}"),
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
