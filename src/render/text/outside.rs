//! What can be told of a process that we may not look into.

use std::fmt::Write;

use super::parts::{interrupts, process, who};
use super::printable;
use crate::render::screen::{Page, Screen, Tone};
use crate::snapshot::{Signals, Snapshot, signal_names};

/// What everybody may know of it. Why that is all, and what to do about it, was said already.
pub fn from_outside(s: &Snapshot, screen: Screen) -> String {
    let mut page = Page::new(screen);
    let unknown = page.paint(Tone::Warn, "unknown");
    page.line(
        "verdict",
        &format!("{unknown}, and so is the cause – this is what everybody may know:"),
    );
    seeming(&mut page, s);
    if s.variables.interrupt_pending.is_some() {
        interrupts(&mut page, s, true);
    }
    process(&mut page, s, true);
    state(&mut page, s);
    page.line("signals", &sent(s, libc::SIGINT));
    page.line("", &sent(s, libc::SIGTERM));
    page.line("", &sent(s, libc::SIGUSR1));
    page.line(
        "not known",
        "its stack, the locks that it holds and waits for, and whether it is safe to step in",
    );
    page.into_text()
}

/// Who it says that it is.
fn seeming(page: &mut Page, s: &Snapshot) {
    let b = &s.backend;
    if b.server_version.is_some() {
        return who(page, s, true);
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
    page.line("who", &text);
    if let Some(pid) = b.postmaster_pid {
        let command = b.postmaster_command.as_deref().unwrap_or("?");
        let started = format!("its parent {pid} was started as: {}", printable(command));
        page.line("", &started);
    }
    if let Some(directory) = &b.data_directory {
        let directory = printable(&directory.to_string_lossy());
        page.line("", &format!("works in {directory}"));
    }
}

/// What its state means, where that alone says that no signal can reach it.
fn state(page: &mut Page, s: &Snapshot) {
    match s.process.state {
        Some('D') => page.line("", "state D: in a system call that no signal interrupts"),
        Some('T') => page.line("", "state T: stopped by a signal (SIGSTOP)"),
        Some('Z') => page.line("", "state Z: it has ended"),
        _ => {}
    }
    if let Some(tracer) = s.process.traced_by() {
        let name = s.process.tracer_name.as_deref().unwrap_or("?");
        page.line(
            "",
            &format!("process {tracer} ({}) traces it", printable(name)),
        );
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
