//! Text for a person: the verdict first, one sentence why, then the evidence, then what to type next.

use std::fmt::Write;

use super::{json, variables};
use crate::assess::checks::{Weight, weight};
use crate::assess::{Assessment, Interrupt, Status, Verdict, samples};
use crate::image::ReadFrom;
use crate::intervene::{Outcome, Report};
use crate::snapshot::{Frame, Signals, Snapshot, ThreadStack, signal_names};

/// How many frames are shown unless all are asked for.
const SHORT_STACK: usize = 12;
/// How much of a statement is shown.
const SHORT_QUERY: usize = 200;

/// The result of `pgpoke inspect`.
pub fn inspection(s: &Snapshot, a: &Assessment, whole_stack: bool) -> String {
    let mut out = String::new();
    verdict(&mut out, s, a);
    cause(&mut out, a);
    who(&mut out, s);
    interrupts(&mut out, s);
    process(&mut out, s);
    files(&mut out, s);
    signals(&mut out, s, a);
    stack(&mut out, s, whole_stack);
    if let Some(motion) = samples::motion(s) {
        line(
            &mut out,
            "looks",
            &format!("{}: the share of them that met each function", motion.looks),
        );
        out.push_str(&super::samples::tree(
            &motion.tree,
            motion.looks,
            usize::MAX,
        ));
    }
    checks(&mut out, a);
    next(&mut out, a);
    if s.stopped_ms > 0.0 {
        line(
            &mut out,
            "stood still",
            &format!("for {:.2} ms", s.stopped_ms),
        );
    }
    out
}

/// The verdict and the cause in a few lines.
pub fn judgement(s: &Snapshot, a: &Assessment) -> String {
    let mut out = String::new();
    verdict(&mut out, s, a);
    cause(&mut out, a);
    out
}

/// The whole stack of one look.
pub fn backtrace(s: &Snapshot) -> String {
    let mut out = String::new();
    stack(&mut out, s, true);
    out
}

/// The stack of another thread than the main one.
pub fn thread_backtrace(thread: &ThreadStack) -> String {
    let frames = &thread.stack.frames;
    let complete = if thread.stack.complete {
        "complete"
    } else {
        "INCOMPLETE"
    };
    let mut out = String::new();
    line(
        &mut out,
        &format!("thread {}", thread.tid),
        &format!("{} frames, {complete}", frames.len()),
    );
    for (index, frame) in frames.iter().enumerate() {
        frame_line(&mut out, index, frame);
        variables::text(&mut out, frame);
    }
    out
}

/// What can be told of a process that we may not look into. Why, and what to do about it, was said already.
pub fn from_outside(s: &Snapshot) -> String {
    let mut out = String::new();
    line(
        &mut out,
        "verdict",
        "unknown, and so is the cause – this is what everybody may know:",
    );
    seeming(&mut out, s);
    if s.variables.interrupt_pending.is_some() {
        interrupts(&mut out, s);
    }
    process(&mut out, s);
    state(&mut out, s);
    line(&mut out, "signals", &sent(s, libc::SIGINT));
    line(&mut out, "", &sent(s, libc::SIGTERM));
    line(&mut out, "", &sent(s, libc::SIGUSR1));
    line(
        &mut out,
        "not known",
        "its stack, the locks that it holds and waits for, and whether it is safe to step in",
    );
    out
}

/// Who it says that it is.
fn seeming(out: &mut String, s: &Snapshot) {
    let b = &s.backend;
    if b.server_version.is_some() {
        return who(out, s);
    }
    let mut text = format!("PID {}", s.pid);
    if let Some(inner) = b.pid_in_container {
        let _ = write!(text, " ({inner} inside its container");
        if let Some(container) = &b.container {
            let _ = write!(text, ", {}", printable(container));
        }
        text.push(')');
    }
    match b.title.as_str() {
        "" => text.push_str(", which does not call itself a backend"),
        title => {
            let _ = write!(text, ", by its title: {}", printable(title));
        }
    }
    line(out, "who", &text);
    if let Some(pid) = b.postmaster_pid {
        let command = b.postmaster_command.as_deref().unwrap_or("?");
        let started = format!("its parent {pid} was started as: {}", printable(command));
        line(out, "", &started);
    }
    if let Some(directory) = &b.data_directory {
        let directory = printable(&directory.to_string_lossy());
        line(out, "", &format!("works in {directory}"));
    }
}

/// What its state means, where that alone says that no signal can reach it.
fn state(out: &mut String, s: &Snapshot) {
    match s.process.state {
        Some('D') => line(
            out,
            "",
            "state D: in a system call that no signal interrupts",
        ),
        Some('T') => line(out, "", "state T: stopped by a signal (SIGSTOP)"),
        Some('Z') => line(out, "", "state Z: it has ended"),
        _ => {}
    }
    if s.process.tracer != 0 {
        let name = s.process.tracer_name.as_deref().unwrap_or("?");
        let tracer = format!(
            "process {} ({}) traces it",
            s.process.tracer,
            printable(name)
        );
        line(out, "", &tracer);
    }
}

/// What became of a signal.
fn sent(s: &Snapshot, signal: i32) -> String {
    let name = signal_names(1 << (signal - 1)).concat();
    let is_in = |set| Signals::has(set, signal);
    let set = &s.signals;
    let arrival = match (is_in(set.pending), is_in(set.blocked)) {
        (Some(true), Some(true)) => "was sent, and is blocked",
        (Some(true), Some(false)) => "was sent, and was not taken yet",
        (Some(false), Some(true)) => "is blocked",
        (Some(false), Some(false)) => "is not pending",
        _ => "unknown",
    };
    let handling = match (is_in(set.caught), is_in(set.ignored)) {
        (Some(true), _) => "a handler is set",
        (_, Some(true)) => "it is ignored",
        (Some(false), Some(false)) => "no handler is set",
        _ => "whether a handler is set is unknown",
    };
    format!("{name} {arrival}; {handling}")
}

/// The result of `pgpoke interrupt`.
pub fn intervention(s: &Snapshot, a: &Assessment, r: &Report) -> String {
    let mut out = String::new();
    line(
        &mut out,
        "outcome",
        &format!("{}: {}", json::outcome(r.outcome), printable(&r.detail)),
    );
    match r.outcome {
        // Who it is was on the screen a moment ago.
        Outcome::Refused if r.verdict.is_none() => return out,
        Outcome::Refused | Outcome::Pointless | Outcome::DryRun => {
            cause(&mut out, a);
            who(&mut out, s);
            interrupts(&mut out, s);
            files(&mut out, s);
            stack(&mut out, s, false);
            next(&mut out, a);
        }
        Outcome::TimedOut | Outcome::Returned => {
            who(&mut out, s);
            line(&mut out, "next", &format!("pgpoke inspect {}", s.pid));
        }
        _ => who(&mut out, s),
    }
    match r.server_restarted {
        Some(true) => line(
            &mut out,
            "server",
            "ENDED ALL SESSIONS AND IS GOING THROUGH CRASH RECOVERY",
        ),
        Some(false) => line(&mut out, "server", "runs on; nothing was restarted"),
        None => {}
    }
    if r.attempts > 0 {
        let looks = if r.attempts == 1 { "look" } else { "looks" };
        let call = r.call_time.map_or_else(String::new, |t| {
            format!(
                "; from the last stop to the outcome {:.2} ms",
                t.as_secs_f64() * 1e3
            )
        });
        let still = s.stopped_ms + r.stopped.as_secs_f64() * 1e3;
        line(
            &mut out,
            "stood still",
            &format!("for {still:.2} ms in all, for {} {looks}{call}", r.attempts),
        );
    }
    out
}

/// The question before stepping in: who is hit, what will happen, and what cannot be known.
pub fn question(s: &Snapshot, a: &Assessment) -> String {
    let mut out = String::new();
    verdict(&mut out, s, a);
    cause(&mut out, a);
    who(&mut out, s);
    files(&mut out, s);
    stack(&mut out, s, false);
    line(&mut out, "will happen", &effect(s, a.interrupt));
    if a.verdict != Verdict::Safe {
        line(
            &mut out,
            "",
            "only if a moment is found at which every check passes",
        );
    }
    line(
        &mut out,
        "not known",
        "what the interrupted code leaves behind: memory, files or connections that are its own",
    );
    let _ = write!(out, "Go on? [y/N] ");
    out
}

fn effect(s: &Snapshot, interrupt: Interrupt) -> String {
    let session = match (&s.backend.user, &s.backend.database) {
        (Some(user), Some(database)) => format!(
            "the session of {} in {}",
            printable(user),
            printable(database)
        ),
        _ => format!("the {}", s.backend.backend_type),
    };
    match interrupt {
        Interrupt::Terminate => format!(
            "{session} ends with \"terminating connection due to administrator command\"; its transaction is rolled back"
        ),
        Interrupt::Cancel => format!(
            "the statement of {session} fails with \"canceling statement due to user request\"; the session goes on"
        ),
        Interrupt::Barrier => "it accepts a ProcSignalBarrier; nothing ends".into(),
        Interrupt::Nothing => "nothing".into(),
    }
}

/// One labelled line; without a label it goes on where the one before began.
pub(crate) fn line(out: &mut String, label: &str, text: &str) {
    let _ = writeln!(out, "{label:<12} {text}");
}

/// Whether the backend's own flags say so, and not only the operator.
fn is_pending(s: &Snapshot, interrupt: Interrupt) -> bool {
    let v = &s.variables;
    let flag = match interrupt {
        Interrupt::Terminate => v.proc_die_pending,
        Interrupt::Cancel => v.query_cancel_pending,
        Interrupt::Barrier => v.proc_signal_barrier_pending,
        Interrupt::Nothing => None,
    };
    flag == Some(true)
}

fn verdict(out: &mut String, s: &Snapshot, a: &Assessment) {
    let what = match a.interrupt {
        Interrupt::Nothing => "nothing is pending".to_owned(),
        what if is_pending(s, what) => format!("a {what} is pending"),
        what => format!("a {what} was asked for, and has not reached the backend's flags"),
    };
    let why = match a.verdict {
        Verdict::Safe => format!("{what}, and every check passed at this instruction"),
        _ => {
            let mut reasons: Vec<String> = a
                .objections()
                .map(|c| format!("{}: {}", c.code, printable(&c.detail)))
                .collect();
            if a.interrupt != Interrupt::Nothing {
                reasons.insert(0, what);
            }
            reasons.join("; ")
        }
    };
    line(
        out,
        "verdict",
        &format!("{} – {why}", a.verdict.to_string().to_uppercase()),
    );
    let (cancel, terminate) = (a.verdict_if.cancel, a.verdict_if.terminate);
    if cancel != terminate {
        line(
            out,
            "",
            &format!("a cancel would be {cancel}, a terminate {terminate}"),
        );
    } else if cancel != a.verdict {
        line(
            out,
            "",
            &format!("a cancel or a terminate would be {cancel}"),
        );
    }
}

fn cause(out: &mut String, a: &Assessment) {
    line(
        out,
        "cause",
        &format!("{}: {}", a.cause.code, printable(&a.cause.summary)),
    );
    for evidence in &a.cause.evidence {
        line(out, "", &format!("- {}", printable(evidence)));
    }
}

fn who(out: &mut String, s: &Snapshot) {
    let b = &s.backend;
    let mut text = format!("{}, PID {}", b.backend_type, s.pid);
    if let Some(inner) = b.pid_in_container {
        let _ = write!(text, " ({inner} inside its container)");
    }
    if let Some(version) = &b.server_version {
        let _ = write!(text, ", PostgreSQL {}", printable(version));
    }
    line(out, "backend", &text);
    let mut server = Vec::new();
    server.extend(b.postmaster_pid.map(|p| format!("postmaster {p}")));
    server.extend(
        b.data_directory
            .as_ref()
            .map(|d| format!("data directory {}", printable(&d.to_string_lossy()))),
    );
    if !server.is_empty() {
        line(out, "", &server.join(", "));
    }
    let mut session = Vec::new();
    for (name, value) in [
        ("user", &b.user),
        ("database", &b.database),
        ("client", &b.client),
        ("application", &b.application_name),
    ] {
        session.extend(value.as_ref().map(|v| format!("{name} {}", printable(v))));
    }
    if session.is_empty() && !b.title.is_empty() {
        session.push(printable(&b.title));
    }
    if !session.is_empty() {
        line(out, "", &session.join(", "));
    }
    if let Some(query) = &b.query {
        let state = b.activity.map_or_else(String::new, |a| format!("{a}: "));
        line(
            out,
            "",
            &format!("{state}{}", shorten(&printable(query), SHORT_QUERY)),
        );
    }
}

fn interrupts(out: &mut String, s: &Snapshot) {
    let v = &s.variables;
    let pending = |name: &str, flag: Option<bool>| {
        let set = match flag {
            Some(true) => "pending",
            Some(false) => "not pending",
            None => "unknown",
        };
        format!("{name} {set}")
    };
    let count = |n: Option<u32>| n.map_or("unknown".into(), |n| n.to_string());
    line(
        out,
        "interrupts",
        &format!(
            "{}, {}, {}",
            pending("cancel", v.query_cancel_pending),
            pending("terminate", v.proc_die_pending),
            pending("barrier", v.proc_signal_barrier_pending)
        ),
    );
    line(
        out,
        "",
        &format!(
            "InterruptHoldoffCount {}, QueryCancelHoldoffCount {}, CritSectionCount {}",
            count(v.interrupt_holdoff_count),
            count(v.query_cancel_holdoff_count),
            count(v.crit_section_count)
        ),
    );
}

fn process(out: &mut String, s: &Snapshot) {
    let p = &s.process;
    let mut parts = Vec::new();
    parts.extend(p.state.map(|c| format!("state {c}")));
    parts.extend(p.cpu_percent.map(|c| format!("{c:.0} % CPU")));
    parts.extend(p.threads.map(|n| {
        if n == 1 {
            "1 thread".into()
        } else {
            format!("{n} threads")
        }
    }));
    parts.extend(
        p.syscall
            .as_ref()
            .map(|c| format!("in {}", printable(&c.describe()))),
    );
    parts.extend(
        p.wait_channel
            .as_ref()
            .map(|w| format!("kernel wait channel {}", printable(w))),
    );
    line(out, "process", &parts.join(", "));
    if let Some(why) = &p.memory_detour {
        line(
            out,
            "",
            &format!(
                "its memory was read through /proc/PID/mem, as process_vm_readv(2) said: {why}"
            ),
        );
    }
}

/// After an upgrade without a restart, what is on disk is not what runs.
fn files(out: &mut String, s: &Snapshot) {
    let mut label = "files";
    for file in &s.replaced_files {
        let what = if file.replaced { "replaced" } else { "deleted" };
        let since = if file.executable {
            "the server started: it still runs the old one"
        } else {
            "the server loaded it: this backend still runs the old code"
        };
        let from = match file.read_from {
            Some(ReadFrom::Memory) => ", which was read from its memory",
            _ => "",
        };
        let path = printable(&file.path.to_string_lossy());
        line(
            out,
            label,
            &format!("{path} was {what} since {since}{from}"),
        );
        label = "";
    }
}

fn signals(out: &mut String, s: &Snapshot, a: &Assessment) {
    let mut parts: Vec<String> = Vec::new();
    match &s.signals.handlers {
        None => parts.push("handlers unknown".into()),
        Some(handlers) if handlers.iter().all(|h| h.expected == Some(true)) => {
            parts.push("PostgreSQL's own handlers".into())
        }
        Some(_) => {
            let check = a.checks.iter().find(|c| c.code == "handlers");
            let which = check.map_or("", |c| c.detail.as_str());
            parts.push(format!("handlers {}", printable(which)));
        }
    }
    // SIGURG is always blocked from 14 on: it is read through a signalfd (src/backend/storage/ipc/latch.c).
    let blocked = s.signals.blocked.unwrap_or(0) & !(1 << (libc::SIGURG - 1));
    if blocked != 0 {
        parts.push(format!("blocked: {}", signal_names(blocked).join(", ")));
    }
    let waiting = s.signals.pending.unwrap_or(0) & !(1 << (libc::SIGURG - 1));
    if waiting != 0 {
        parts.push(format!(
            "waiting to be delivered: {}",
            signal_names(waiting).join(", ")
        ));
    }
    line(out, "signals", &parts.join("; "));
}

fn stack(out: &mut String, s: &Snapshot, whole: bool) {
    if let Some(kernel) = s.process.kernel_stack.as_ref().filter(|_| whole) {
        line(out, "kernel stack", &format!("{} functions", kernel.len()));
        for function in kernel {
            let _ = writeln!(out, "  {}", printable(function));
        }
    }
    let Some(stack) = &s.stack else {
        line(out, "stack", "not looked at");
        return;
    };
    let frames = &stack.frames;
    let complete = if stack.complete {
        "complete"
    } else {
        "INCOMPLETE"
    };
    line(
        out,
        "stack",
        &format!("{} frames, {complete}", frames.len()),
    );
    let shown = if whole || frames.len() <= SHORT_STACK + 2 {
        frames.len()
    } else {
        SHORT_STACK
    };
    for (index, frame) in frames.iter().enumerate().take(shown) {
        frame_line(out, index, frame);
        variables::text(out, frame);
    }
    if shown < frames.len() {
        let _ = writeln!(
            out,
            "  … {} more (pgpoke inspect --stack shows them)",
            frames.len() - shown
        );
    }
}

fn frame_line(out: &mut String, index: usize, f: &Frame) {
    let name = match (&f.function, f.function_start) {
        (Some(name), _) => printable(
            &rustc_demangle::try_demangle(name).map_or_else(|_| name.clone(), |d| format!("{d:#}")),
        ),
        (None, Some(start)) => format!("?? (function at {start})"),
        (None, None) => "??".into(),
    };
    let place = match (&f.file, f.line) {
        (Some(file), Some(line)) => {
            let file = file.rsplit('/').next().unwrap_or(file);
            format!(" at {}:{line}", printable(file))
        }
        _ => String::new(),
    };
    let mark = match (f.inlined, f.signal_frame) {
        (true, _) => " (inlined)",
        (_, true) => " <signal handler called>",
        _ => "",
    };
    let guess = if f.found_by == crate::unwind::FoundBy::FramePointer {
        " (a guess)"
    } else {
        ""
    };
    let offset = f.offset.map_or_else(String::new, |o| format!("+{o}"));
    let _ = writeln!(
        out,
        "  #{index:<3} {} {name}{mark}{place}  {}{offset}{guess}",
        f.ip,
        printable(f.module_name())
    );
}

fn checks(out: &mut String, a: &Assessment) {
    let passed = a.checks.iter().filter(|c| c.status == Status::Pass).count();
    line(
        out,
        "checks",
        &format!("{passed} of {} pass", a.checks.len()),
    );
    // Where the process is nothing to interrupt at all, what else is not known of it is noise.
    let settled = weight(&a.checks) == Some(Weight::Identity);
    for check in &a.checks {
        let mark = match (check.status, check.objection.map(|o| o.verdict)) {
            (Status::Pass, _) => continue,
            (Status::Unknown, _) if settled => continue,
            (Status::Fail, Some(Verdict::Pointless)) => "pointless",
            (Status::Fail, _) => "FAIL",
            (Status::Warn, _) => "warn",
            (Status::Unknown, _) => "unknown",
        };
        line(
            out,
            "",
            &format!("{mark}: {}: {}", check.code, printable(&check.detail)),
        );
    }
}

fn next(out: &mut String, a: &Assessment) {
    let mut label = "next";
    for advice in &a.advice {
        line(out, label, &printable(advice));
        label = "";
    }
}

/// Text of another process's, made fit for a terminal: control characters would be obeyed by it.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' | '\r' => ' ',
            c if crate::process::is_obeyed(c) => '\u{fffd}',
            c => c,
        })
        .collect()
}

fn shorten(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_process_wrote_cannot_drive_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc"), "a\u{fffd}[2Jb c");
        assert_eq!(shorten("äöü", 2), "äö…");
        assert_eq!(shorten("äöü", 3), "äöü");
    }
}
