//! What one look at a backend cannot tell, and further ones can.

use super::{Interrupt, Request, cause, checks, rules, samples};
use crate::image::ModuleKind;
use crate::snapshot::looks::{Judge, Question};
use crate::snapshot::{Frame, Snapshot, Stack};

/// The judge of looks.
pub const JUDGE: Judge = Judge {
    question,
    is_better,
};

/// What further looks may tell of the cause, if anything.
pub fn question(s: &Snapshot) -> Option<Question> {
    if s.stack.is_none() || s.process.would_not_stop {
        return None;
    }
    let held_off = s.as_sample().held_off() == Some(true);
    if held_off && Interrupt::of(s, Request::Pending) != Interrupt::Nothing {
        // Who is in a lock's list of waiters after all others were looked at does wait for it.
        let waits = s.locks.lwlock.as_ref().is_some_and(|w| w.lock.is_some());
        return match cause::find(s).code {
            "lwlock-wait" if waits => None,
            _ if lets_go(s).is_some() => Some(Question::WhereItLetsGo),
            "interrupts-held-off" | "critical-section" | "lwlock-wait" => {
                Some(Question::DoesItLetGo)
            }
            _ => None,
        };
    }
    let loops = cause::find(s).code == "cpu-loop" && called_by_an_extension(s).is_some();
    if loops {
        return Some(Question::WhoLoops);
    }
    let asked = Interrupt::of(s, Request::Pending);
    let what = match asked {
        Interrupt::Nothing => Interrupt::Cancel,
        _ => asked,
    };
    let objects = |c: &super::Check| c.objection.is_some() && PERHAPS_FOR_GOOD.contains(&c.code);
    let all = checks::all(s, what, &[]);
    let left = |code| samples::motion(s).is_some() && !stays(s, what).contains(&code);
    all.iter()
        .any(|c| objects(c) && !left(c.code))
        .then_some(Question::DoesItLeave)
}

/// Checks whose objection is to a place that may be one for good, as far as one look can tell: a loop in a signal's handler, or
/// with a spinlock taken. The C library's functions come to their ends.
pub const PERHAPS_FOR_GOOD: [&str; 3] = ["signal-handler", "spinlock", "subtransaction"];

/// The checks that object to what several looks have in common, and so to a place that it does not leave. None where it
/// makes progress, or was looked at once.
pub fn stays(s: &Snapshot, interrupt: Interrupt) -> Vec<&'static str> {
    let motion = samples::motion(s).filter(|m| m.progress.is_none());
    let Some((motion, stack)) = motion.zip(s.stack.as_ref()) else {
        return Vec::new();
    };
    let common = samples::common_frames(s, motion.common.len());
    if common.is_empty() {
        return Vec::new();
    }
    let mut outer = s.clone();
    outer.stack = Some(Stack {
        frames: common.to_vec(),
        ..stack.clone()
    });
    let objections = checks::all(&outer, interrupt, &[]);
    let objections = objections.iter().filter(|c| c.objection.is_some());
    objections.map(|c| c.code).collect()
}

/// Whether a further look shows more of what can be done than the present one: interrupts are not held off there.
pub fn is_better(further: &Snapshot, present: &Snapshot) -> bool {
    let held_off = |s: &Snapshot| s.as_sample().held_off();
    held_off(present) == Some(true) && held_off(further) == Some(false) && further.stack.is_some()
}

/// At how many looks interrupts were held off, and of how many, where that was so at some of them only: it takes and
/// releases something again and again.
pub fn lets_go(s: &Snapshot) -> Option<(usize, usize)> {
    let first = s.as_sample();
    let all = std::iter::once(&first).chain(&s.samples);
    let known: Vec<bool> = all.filter_map(|look| look.held_off()).collect();
    let held = known.iter().filter(|held| **held).count();
    (held > 0 && held < known.len()).then_some((held, known.len()))
}

/// How many times it was looked at, with a stop or without.
pub(super) fn number(s: &Snapshot) -> usize {
    s.samples.len() + 1
}

/// Where it is: with several looks, where all of them were.
pub(super) fn where_it_is(s: &Snapshot) -> Option<&Frame> {
    let frames = frames_in_common(s);
    rules::where_it_happens(frames)
        .or_else(|| rules::where_it_happens(s.stack.as_ref().map_or(&[], |s| &s.frames)))
}

fn frames_in_common(s: &Snapshot) -> &[Frame] {
    let motion = samples::motion(s).filter(|m| m.progress.is_none());
    match motion {
        Some(motion) => samples::common_frames(s, motion.common.len()),
        None => s.stack.as_ref().map_or(&[], |s| &s.frames),
    }
}

/// The function of an extension that called the one of the server's that is at work: the loop may be in either. What the
/// executor calls is no such case: between its turns it checks for interrupts.
pub(super) fn called_by_an_extension(s: &Snapshot) -> Option<(&Frame, &Frame)> {
    let frames = frames_in_common(s);
    let at = where_it_is(s).filter(|f| f.kind == ModuleKind::Server)?;
    let outside = frames.iter().skip_while(|f| !std::ptr::eq(*f, at)).skip(1);
    let mut callers = outside.filter(|f| !f.inlined);
    let caller = callers.find(|f| f.kind != ModuleKind::Server || rules::EXECUTOR.has(f))?;
    (caller.extension == Some(true)).then_some((at, caller))
}
