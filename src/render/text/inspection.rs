//! What `pgpoke inspect` says.

use super::parts::{cause, checks, files, interrupts, next, process, signals, verdict, who};
use super::stack::stack;
use crate::assess::Assessment;
use crate::render::screen::{Page, Screen};
use crate::snapshot::Snapshot;

/// How many lines of a terminal of 24 are left above the prompt.
const LINES: usize = 23;
/// How many frames are shown unless all are asked for: as many as there is room for, within these bounds.
const FRAMES: std::ops::RangeInclusive<usize> = 2..=6;

/// The result of `pgpoke inspect`. Without `whole`, the verdict and what to type next fit a small terminal together, if
/// that can be: what is as usual is not shown, and the stack gets the room that is left.
pub fn inspection(s: &Snapshot, a: &Assessment, whole: bool, screen: Screen) -> String {
    let mut before = Page::new(screen);
    verdict(&mut before, s, a);
    cause(&mut before, a);
    who(&mut before, s, whole);
    interrupts(&mut before, s, whole);
    process(&mut before, s, whole);
    files(&mut before, s);
    signals(&mut before, s, a, whole);
    let mut after = Page::new(screen);
    checks(&mut after, &a.checks);
    if s.stopped_ms > 0.0 {
        after.line("stood still", &format!("for {:.2} ms", s.stopped_ms));
    }
    next(&mut after, &a.advice);
    let frames = match whole {
        true => usize::MAX,
        // Its label takes one line.
        false => LINES
            .saturating_sub(before.height() + after.height() + 1)
            .clamp(*FRAMES.start(), *FRAMES.end()),
    };
    let mut between = Page::new(screen);
    stack(&mut between, s, frames);
    before.into_text() + &between.into_text() + &after.into_text()
}
