//! The rungs of `pgpoke interrupt`, and what stands before its question.

use std::time::Duration;

use super::json;
use super::text::{line, printable};
use crate::assess::{Interrupt, consequences};
use crate::intervene::{Report, Rung, Step};
use crate::snapshot::Snapshot;

/// A rung's stable name.
pub fn name(rung: Rung) -> &'static str {
    match rung {
        Rung::Signal => "signal",
        Rung::Wait => "wait",
        Rung::Look => "look",
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

/// A limit, as short as it was given.
pub fn seconds(d: Duration) -> String {
    format!("{} s", d.as_secs_f64())
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
pub(super) fn consequences(out: &mut String, label: &str, s: &Snapshot, interrupt: Interrupt) {
    let all = consequences::of(s, interrupt);
    if all.is_empty() {
        line(out, label, "nothing");
    }
    for (n, text) in all.iter().enumerate() {
        line(out, if n == 0 { label } else { "" }, &printable(text));
    }
}

/// What to type after a call without an effect, or without one yet.
pub(super) fn after(s: &Snapshot, r: &Report) -> String {
    match r.swallowed {
        true => format!(
            "pgpoke interrupt --terminate {} ends the session: no code can catch that",
            s.pid
        ),
        false => format!("pgpoke inspect {}", s.pid),
    }
}

/// What stands before the question about a terminate that follows a cancel.
pub fn escalation(cancel: &Report, grace: Duration) -> String {
    let mut out = String::new();
    let came = format!(
        "the cancel had no effect: {}: {}",
        json::outcome(cancel.outcome),
        printable(&cancel.detail)
    );
    line(&mut out, "escalate", &came);
    let plan = format!(
        "now SIGTERM, as pg_terminate_backend() sends it; if it is ignored for {}, ProcessInterrupts() is called",
        seconds(grace)
    );
    line(&mut out, "", &plan);
    out
}

/// How several processes came out, as one line.
pub fn summary(ends: &[(i32, &str, u8)], not_tried: &[i32]) -> String {
    let mut out = String::new();
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
    line(
        &mut out,
        "in all",
        &format!("{done} of {all} done: {}", each.join(", ")),
    );
    out
}
