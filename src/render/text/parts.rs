//! The parts that the texts are put together from: each is one labelled paragraph.

use std::fmt::Write;

use super::{printable, shorten};
use crate::assess::advice::Advice;
use crate::assess::checks::{TABLE, Weight, weight};
use crate::assess::{Assessment, Check, Interrupt, Status, Verdict};
use crate::image::ReadFrom;
use crate::render::screen::{Page, Screen, Tone};
use crate::snapshot::{Snapshot, signal_names};

/// How much of a statement is shown, and how much with the whole stack.
const SHORT_QUERY: usize = 100;
const LONG_QUERY: usize = 1000;

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

/// The verdict as one sentence, and what else could be asked for.
pub(in crate::render) fn verdict(page: &mut Page, s: &Snapshot, a: &Assessment) {
    let what = a.interrupt;
    let arrived = is_pending(s, what);
    let word = verdict_word(page, a);
    page.line("verdict", &format!("{word} – {}", why(s, a)));
    if what != Interrupt::Nothing && !arrived {
        page.line(
            "",
            &format!("that {what} has not reached the backend's flags"),
        );
    }
    let (cancel, terminate) = (a.verdict_if.cancel, a.verdict_if.terminate);
    if cancel != terminate {
        page.line(
            "",
            &format!("a cancel would be {cancel}, a terminate {terminate}"),
        );
    } else if cancel != a.verdict {
        page.line("", &format!("a cancel or a terminate would be {cancel}"));
    }
}

/// The first of these objections in plain words, and how many more there are.
pub(super) fn sentence(objections: &[Check]) -> Option<String> {
    let (first, others) = objections.split_first()?;
    let plain = plain(first);
    Some(match others.len() {
        0 => plain.to_owned(),
        1 => format!("{plain}; and one more check objects"),
        n => format!("{plain}; and {n} more checks object"),
    })
}

/// What a check objects, in plain words.
fn plain(check: &Check) -> &str {
    let row = TABLE.iter().find(|row| row.code == check.code);
    let plain = row.and_then(|row| match check.status {
        Status::Unknown => Some(row.doubts),
        _ => row.objects,
    });
    plain.unwrap_or(&check.detail)
}

/// Why that is the verdict, in one sentence.
pub fn why(s: &Snapshot, a: &Assessment) -> String {
    let what = a.interrupt;
    let occasion = match is_pending(s, what) {
        true => format!("a {what} is pending"),
        false => format!("a {what} was asked for"),
    };
    let objections: Vec<Check> = a.objections().cloned().collect();
    let why = match sentence(&objections) {
        None => format!("{occasion}, and every check passed"),
        Some(why) if what == Interrupt::Nothing => why,
        Some(why) => format!("{occasion}, but {why}"),
    };
    printable(&why)
}

pub(super) fn verdict_word(page: &Page, a: &Assessment) -> String {
    let tone = match a.verdict {
        Verdict::Safe => Tone::Good,
        Verdict::Risky | Verdict::Pointless => Tone::Warn,
        Verdict::Unsafe => Tone::Bad,
    };
    page.paint(tone, &a.verdict.to_string().to_uppercase())
}

/// How many lines of a terminal of 24 are left above the prompt.
pub(super) const LINES: usize = 23;

/// Of a text of so many lines, what scrolls out of a small terminal, once more: what it comes to, and why.
pub(super) fn in_short(page: &mut Page, lines: usize, screen: Screen, word: &str, a: &Assessment) {
    if screen.columns.is_some() && lines > LINES {
        page.line("in short", &format!("{word} – {}", a.cause.code));
    }
}

/// Why it is stuck, and what that rests on.
pub(in crate::render) fn cause(page: &mut Page, a: &Assessment) {
    let code = page.paint(Tone::Strong, a.cause.code);
    page.line("cause", &format!("{code}: {}", printable(&a.cause.summary)));
    for evidence in &a.cause.evidence {
        page.item(&printable(evidence));
    }
}

pub(in crate::render) fn who(page: &mut Page, s: &Snapshot, whole: bool) {
    let b = &s.backend;
    let mut text = format!("{}, PID {}", b.backend_type, s.pid);
    if let Some(inner) = b.pid_in_container {
        let _ = write!(text, " ({inner} inside its container)");
    }
    if let Some(version) = &b.server_version {
        // Behind the number is who packaged it.
        let short = version.split(' ').next().unwrap_or(version);
        let version = if whole { version } else { short };
        let _ = write!(text, ", PostgreSQL {}", printable(version));
    }
    page.line("backend", &text);
    let mut server = Vec::new();
    server.extend(b.postmaster_pid.map(|p| format!("postmaster {p}")));
    server.extend(
        b.data_directory
            .as_ref()
            .map(|d| format!("data directory {}", printable(&d.to_string_lossy()))),
    );
    if !server.is_empty() {
        page.line("", &server.join(", "));
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
    // What the title tells of a session stands there already; of what is none, it says what that is for.
    if b.user.is_none() && b.client.is_none() && !b.title.is_empty() {
        session.insert(0, printable(&b.title));
    }
    if !session.is_empty() {
        page.line("", &session.join(", "));
    }
    if let Some(query) = &b.query {
        let state = b.activity.map_or_else(String::new, |a| format!("{a}: "));
        page.line(
            "",
            &format!(
                "{state}{}",
                shorten(
                    &printable(query),
                    if whole { LONG_QUERY } else { SHORT_QUERY }
                )
            ),
        );
    }
}

pub(in crate::render) fn interrupts(page: &mut Page, s: &Snapshot, whole: bool) {
    let v = &s.variables;
    let pending = |name: &str, flag: Option<bool>| {
        let set = match flag {
            Some(true) => "pending",
            Some(false) => "not pending",
            None => "unknown",
        };
        format!("{name} {set}")
    };
    page.line(
        "interrupts",
        &format!(
            "{}, {}, {}",
            pending("cancel", v.query_cancel_pending),
            pending("terminate", v.proc_die_pending),
            pending("barrier", v.proc_signal_barrier_pending)
        ),
    );
    let counts: Vec<String> = [
        ("InterruptHoldoffCount", v.interrupt_holdoff_count),
        ("QueryCancelHoldoffCount", v.query_cancel_holdoff_count),
        ("CritSectionCount", v.crit_section_count),
    ]
    .into_iter()
    .filter(|(_, n)| whole || *n != Some(0))
    .map(|(name, n)| format!("{name} {}", n.map_or("unknown".into(), |n| n.to_string())))
    .collect();
    if !counts.is_empty() {
        page.line("", &counts.join(", "));
    }
}

pub(in crate::render) fn process(page: &mut Page, s: &Snapshot, whole: bool) {
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
            .filter(|_| whole || p.syscall.is_none())
            .map(|w| format!("kernel wait channel {}", printable(w))),
    );
    page.line("process", &parts.join(", "));
    if let Some(wait) = &s.wait_event {
        page.line("", &format!("wait event {}", printable(&wait.text())));
    }
    if let Some(why) = &p.memory_detour {
        page.line(
            "",
            &format!(
                "its memory was read through /proc/PID/mem, as process_vm_readv(2) said: {why}"
            ),
        );
    }
    children(page, s);
}

/// The processes that it has started.
fn children(page: &mut Page, s: &Snapshot) {
    /// On a small terminal.
    const SHOWN: usize = 5;
    let all = s.process.children.as_deref().unwrap_or_default();
    for (n, child) in all.iter().take(SHOWN).enumerate() {
        let command = child.command.as_deref().map_or("?".into(), printable);
        let label = if n == 0 { "children" } else { "" };
        page.line(label, &format!("{} {command}", child.pid));
    }
    if let Some(more @ 1..) = all.len().checked_sub(SHOWN) {
        page.line("", &format!("and {more} more"));
    }
}

/// After an upgrade without a restart, what is on disk is not what runs.
pub(in crate::render) fn files(page: &mut Page, s: &Snapshot) {
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
        page.line(label, &format!("{path} was {what} since {since}{from}"));
        label = "";
    }
}

pub(in crate::render) fn signals(page: &mut Page, s: &Snapshot, a: &Assessment, whole: bool) {
    let mut parts: Vec<String> = Vec::new();
    match &s.signals.handlers {
        None => parts.push("handlers unknown".into()),
        Some(handlers) if handlers.iter().all(|h| h.expected == Some(true)) => {
            parts.extend(whole.then(|| "PostgreSQL's own handlers".into()));
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
    if !parts.is_empty() {
        page.line("signals", &parts.join("; "));
    }
}

/// How many checks pass, and those that do not.
pub(super) fn checks(page: &mut Page, all: &[Check]) {
    let passed = all.iter().filter(|c| c.status == Status::Pass).count();
    page.line("checks", &format!("{passed} of {} pass", all.len()));
    // Where the process is nothing to interrupt at all, what else is not known of it is noise.
    let settled = weight(all) == Some(Weight::Identity);
    for (at, check) in all.iter().enumerate() {
        let (mark, tone) = match (check.status, check.objection.map(|o| o.verdict)) {
            (Status::Pass, _) => continue,
            (Status::Unknown, _) if settled => continue,
            (Status::Fail, Some(Verdict::Pointless)) => ("pointless", Tone::Warn),
            (Status::Fail, _) => ("FAIL", Tone::Bad),
            (Status::Warn, _) => ("warn", Tone::Warn),
            (Status::Unknown, _) => ("unknown", Tone::Warn),
        };
        // What is unknown for one reason is said once: without a stack, that is half of the checks.
        let alike = |c: &&Check| c.status == Status::Unknown && c.detail == check.detail;
        if check.status == Status::Unknown && all[..at].iter().any(|c| alike(&c)) {
            continue;
        }
        let codes: Vec<&str> = match check.status {
            Status::Unknown => all.iter().filter(alike).map(|c| c.code).collect(),
            _ => vec![check.code],
        };
        let mark = page.paint(tone, mark);
        page.item(&format!(
            "{mark}: {}: {}",
            codes.join(", "),
            printable(&check.detail)
        ));
    }
}

/// What to type, and what else to do.
pub(super) fn next(page: &mut Page, advice: &[Advice]) {
    let mut label = "next";
    for one in advice {
        let text = printable(&one.text);
        match &one.command {
            None => page.line(label, &text),
            Some(command) => {
                page.line(label, &format!("{text}:"));
                page.command(&printable(command));
            }
        }
        label = "";
    }
}
