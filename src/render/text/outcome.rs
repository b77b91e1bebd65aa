//! What `pgpoke interrupt` asks, and what it says in the end.

use super::parts::{cause, checks, files, interrupts, next, sentence, verdict, who};
use super::printable;
use super::stack::{SHORT, stack};
use crate::assess::{Assessment, Verdict};
use crate::intervene::{Outcome, Report};
use crate::render::screen::{Page, Screen, Tone};
use crate::render::{json, ladder};
use crate::snapshot::Snapshot;

/// The result of `pgpoke interrupt`.
pub fn intervention(s: &Snapshot, a: &Assessment, r: &Report, screen: Screen) -> String {
    let mut page = Page::new(screen);
    let name = page.paint(tone(r.outcome), json::outcome(r.outcome));
    page.line("outcome", &format!("{name}: {}", printable(&detail(r))));
    match r.outcome {
        // Who it is was on the screen a moment ago.
        Outcome::Refused if r.verdict.is_none() => return page.into_text(),
        Outcome::Refused | Outcome::Pointless | Outcome::DryRun => {
            cause(&mut page, a);
            who(&mut page, s, false);
            interrupts(&mut page, s, false);
            files(&mut page, s);
            stack(&mut page, s, SHORT);
            if !r.objections.is_empty() {
                checks(&mut page, &a.checks);
            }
            if r.outcome == Outcome::DryRun {
                ladder::consequences(&mut page, "would happen", s, a.interrupt);
            }
            stood_still(&mut page, s, r);
            next(&mut page, &a.advice);
        }
        Outcome::TimedOut | Outcome::Returned => {
            who(&mut page, s, false);
            server(&mut page, r);
            stood_still(&mut page, s, r);
            ladder::after(&mut page, s, r);
        }
        _ => {
            who(&mut page, s, false);
            server(&mut page, r);
            stood_still(&mut page, s, r);
        }
    }
    page.into_text()
}

fn tone(outcome: Outcome) -> Tone {
    match outcome {
        Outcome::Cancelled
        | Outcome::Terminated
        | Outcome::BarrierAccepted
        | Outcome::ObeyedSignal => Tone::Good,
        Outcome::Returned | Outcome::Refused | Outcome::Pointless | Outcome::TimedOut => Tone::Warn,
        Outcome::Crashed => Tone::Bad,
        Outcome::DryRun => Tone::Strong,
    }
}

/// One sentence: where something stood in the way, the weightiest in plain words. The others are among the checks.
fn detail(r: &Report) -> String {
    match (r.outcome, sentence(&r.objections)) {
        (Outcome::Refused | Outcome::Pointless, Some(why)) if r.attempts > 1 => format!(
            "nothing was done: {why} (and so at each of {} looks)",
            r.attempts
        ),
        (Outcome::Refused | Outcome::Pointless, Some(why)) => format!("nothing was done: {why}"),
        _ => r.detail.clone(),
    }
}

fn server(page: &mut Page, r: &Report) {
    let text = match r.server_restarted {
        Some(true) => page.paint(
            Tone::Bad,
            "ENDED ALL SESSIONS AND IS GOING THROUGH CRASH RECOVERY",
        ),
        Some(false) => "runs on; nothing was restarted".into(),
        None => return,
    };
    page.line("server", &text);
}

fn stood_still(page: &mut Page, s: &Snapshot, r: &Report) {
    if r.attempts == 0 {
        return;
    }
    let looks = if r.attempts == 1 { "look" } else { "looks" };
    let call = r.call_time.map_or_else(String::new, |t| {
        format!(
            "; from the last stop to the outcome {:.2} ms",
            t.as_secs_f64() * 1e3
        )
    });
    let still = s.stopped_ms + r.stopped.as_secs_f64() * 1e3;
    let text = format!("for {still:.2} ms in all, for {} {looks}{call}", r.attempts);
    page.line("stood still", &text);
}

/// The question before stepping in: who is hit, what will happen, and what cannot be known.
pub fn question(s: &Snapshot, a: &Assessment, screen: Screen) -> String {
    let mut page = Page::new(screen);
    verdict(&mut page, s, a);
    cause(&mut page, a);
    who(&mut page, s, false);
    files(&mut page, s);
    stack(&mut page, s, SHORT);
    ladder::consequences(&mut page, "will happen", s, a.interrupt);
    if a.verdict != Verdict::Safe {
        page.line("", "only if a moment is found at which every check passes");
    }
    page.line(
        "not known",
        "what the interrupted code leaves behind: memory, files or connections that are its own",
    );
    page.into_text() + "Go on? [y/N] "
}
