//! What `pgpoke interrupt` asks, and what it says in the end.

use std::time::Duration;

use super::parts::{
    cause, checks, files, in_short, interrupts, next, sentence, verdict, verdict_word, who,
};
use super::printable;
use super::stack::{SHORT, stack};
use crate::assess::cause::carrying;
use crate::assess::{Assessment, Check, Verdict};
use crate::intervene::{Fate, Outcome, Report, may_change, search_time};
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
            stack(&mut page, s, &carrying(s, &a.cause), SHORT);
            if !r.objections.is_empty() {
                checks(&mut page, &a.checks);
            }
            if r.outcome == Outcome::DryRun {
                ladder::consequences(&mut page, "would happen", s, a.interrupt);
            }
            stood_still(&mut page, s, r);
            let mut advice = Page::new(screen);
            next(&mut advice, &a.advice);
            let lines = page.height() + advice.height();
            let word = page.paint(tone(r.outcome), json::outcome(r.outcome));
            in_short(&mut page, lines, screen, &word, a);
            return page.into_text() + &advice.into_text();
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
            left_behind(&mut page, r);
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

/// One sentence: where something stood in the way, the weightiest in plain words. The others are among the checks. A signal
/// may have been sent before.
fn detail(r: &Report) -> String {
    match (r.outcome, sentence(&r.objections)) {
        (Outcome::Refused | Outcome::Pointless, Some(why)) => match r.how_often() {
            Some(how_often) => format!("pgpoke held back: {why} ({how_often})"),
            None => format!("pgpoke held back: {why}"),
        },
        _ => r.detail.clone(),
    }
}

fn server(page: &mut Page, r: &Report) {
    let text = match r.server {
        Some(Fate::Recovers) => page.paint(
            Tone::Bad,
            "ENDED ALL SESSIONS AND IS GOING THROUGH CRASH RECOVERY",
        ),
        Some(Fate::EndedAbruptly) => page.paint(
            Tone::Bad,
            "HAS ENDED WITHOUT A SHUTDOWN CHECKPOINT: its next start goes through crash recovery",
        ),
        Some(Fate::RunsOn) => "runs on; nothing was restarted".into(),
        Some(Fate::BeingStopped) => {
            "is being stopped, as it was asked to before; nothing has crashed".into()
        }
        Some(Fate::Stopped) => "was stopped in good order, as it was asked to before".into(),
        Some(Fate::Ended) => page.paint(
            Tone::Warn,
            "has ended; whether in good order could not be told",
        ),
        Some(Fate::Unknown) | None => return,
    };
    page.line("server", &text);
}

/// What a backend that has ended had started, and what is to be done about it.
fn left_behind(page: &mut Page, r: &Report) {
    if r.left_behind.is_empty() {
        return;
    }
    let pids: Vec<String> = r.left_behind.iter().map(i32::to_string).collect();
    let (what, runs) = match pids.len() {
        1 => ("a process that it had started runs", "look at it"),
        _ => ("processes that it had started run", "look at them"),
    };
    let text = format!(
        "{what} on, and may hold its files and its client's connection: {runs}, and end what nobody needs: ps -o pid,stat,etime,args -p {}",
        pids.join(",")
    );
    page.line("left behind", &page.paint(Tone::Warn, &text));
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
    let text = format!(
        "for {still:.2} ms in all; {} {looks} for a safe instruction{call}",
        r.attempts
    );
    page.line("stood still", &text);
}

/// The question before stepping in: who is hit, what will happen, and what cannot be known. Where something stands in the
/// way, what that is, that it is looked for another moment for at most `wait`, and what else can be done.
/// `before` is what is to be said before it.
pub fn question(
    before: &str,
    s: &Snapshot,
    a: &Assessment,
    wait: Duration,
    screen: Screen,
) -> String {
    let mut page = Page::new(screen);
    verdict(&mut page, s, a);
    cause(&mut page, a);
    who(&mut page, s, false);
    files(&mut page, s);
    stack(&mut page, s, &carrying(s, &a.cause), SHORT);
    let in_the_way = a.verdict != Verdict::Safe;
    if in_the_way {
        checks(&mut page, &a.checks);
    }
    ladder::consequences(&mut page, "will happen", s, a.interrupt);
    if in_the_way {
        let objections: Vec<Check> = a.objections().cloned().collect();
        let only = match may_change(a.verdict, &objections) {
            true => format!(
                "only if a moment is found, within {}, at which every check passes; else it is left as it is",
                ladder::seconds(search_time(a.verdict, wait))
            ),
            false => "only if every check passes by then: what is in the way does not go by itself"
                .into(),
        };
        page.line("", &only);
    }
    page.line(
        "not known",
        "what the interrupted code leaves behind: memory, files or connections that are its own",
    );
    if in_the_way {
        next(&mut page, &a.advice);
    }
    let word = format!(
        "{}: a {} of process {}",
        verdict_word(&page, a),
        a.interrupt,
        s.pid
    );
    // The question takes a line, too.
    let lines = before.lines().count() + page.height() + 1;
    in_short(&mut page, lines, screen, &word, a);
    format!("{before}{}Go on? [y/N] ", page.into_text())
}
