//! The rungs of `pgpoke interrupt`, and what stands before its question.

use std::time::Duration;

use super::json;
use super::screen::{Page, Screen};
use super::text::printable;
use crate::assess::{Interrupt, consequences};
pub use crate::intervene::ladder::seconds;
use crate::intervene::{Report, Rung, Step};
use crate::snapshot::Snapshot;

/// A rung's stable name.
pub fn name(rung: Rung) -> &'static str {
    match rung {
        Rung::Signal => "signal",
        Rung::Wait => "wait",
        Rung::Look => "look",
        Rung::Report => "report",
        Rung::Ask => "ask",
        Rung::StepIn => "step-in",
        Rung::Verify => "verify",
        Rung::Escalate => "escalate",
    }
}

/// A rung that was taken, as one line.
pub fn step(step: &Step) -> String {
    format!(
        "{:<8} {} ({})",
        name(step.rung),
        step.detail,
        time(step.took)
    )
}

/// What is being waited for, as one line that is written over.
pub fn waiting(what: &str, elapsed: Duration, limit: Option<Duration>) -> String {
    let limit = limit.map_or_else(String::new, |l| format!(" of {}", seconds(l)));
    format!(
        "{} … {:.1} s{limit}",
        printable(what),
        elapsed.as_secs_f64()
    )
}

/// A time that was measured.
fn time(d: Duration) -> String {
    match d.as_secs_f64() {
        s if s >= 1.0 => format!("{s:.1} s"),
        s if s >= 0.01 => format!("{:.0} ms", s * 1e3),
        s => format!("{:.1} ms", s * 1e3),
    }
}

/// What an interrupt means, and for whom.
pub(super) fn consequences(page: &mut Page, label: &str, s: &Snapshot, interrupt: Interrupt) {
    let all = consequences::of(s, interrupt);
    if all.is_empty() {
        page.line(label, "nothing");
    }
    for (n, text) in all.iter().enumerate() {
        page.line(if n == 0 { label } else { "" }, &printable(text));
    }
}

/// What to type after a call without an effect, or without one yet.
pub(super) fn after(page: &mut Page, s: &Snapshot, r: &Report) {
    let pid = s.pid;
    let (text, command) = match r.swallowed {
        true => (
            "this ends the session; no code can catch that:",
            format!("pgpoke interrupt --terminate {pid}"),
        ),
        false => ("see what it does now:", format!("pgpoke inspect {pid}")),
    };
    page.line("next", text);
    page.command(&command);
}

/// What stands before the question about a terminate that follows a cancel.
pub fn escalation(cancel: &Report, grace: Duration, screen: Screen) -> String {
    let mut page = Page::new(screen);
    let came = format!(
        "the cancel had no effect: {}: {}",
        json::outcome(cancel.outcome),
        printable(&cancel.detail)
    );
    page.line("escalate", &came);
    let plan = format!(
        "now SIGTERM, as pg_terminate_backend() sends it; if it is ignored for {}, ProcessInterrupts() is called",
        seconds(grace)
    );
    page.line("", &plan);
    page.into_text()
}

/// How several processes came out, as one line.
pub fn summary(ends: &[(i32, &str, u8)], not_tried: &[i32], screen: Screen) -> String {
    let mut page = Page::new(screen);
    let mut each: Vec<String> = ends
        .iter()
        .map(|(pid, outcome, exit)| match exit {
            0 => format!("{pid} {outcome}"),
            _ => format!("{pid} {outcome} (exit code {exit})"),
        })
        .collect();
    each.extend(not_tried.iter().map(|pid| format!("{pid} not tried")));
    let done = ends.iter().filter(|(_, _, exit)| *exit == 0).count();
    let all = ends.len() + not_tried.len();
    page.line(
        "in all",
        &format!("{done} of {all} done: {}", each.join(", ")),
    );
    page.into_text()
}
