//! What `pgpoke inspect` says.

use super::parts::{
    LINES, cause, checks, files, in_short, interrupts, next, process, signals, verdict,
    verdict_word, who,
};
use super::stack::{LEAST, stack};
use crate::assess::cause::carrying;
use crate::assess::{Assessment, samples};
use crate::render::samples as tree;
use crate::render::screen::{Page, Screen};
use crate::snapshot::Snapshot;

/// How many frames are shown unless all are asked for: as many as there is room for, within these bounds.
const FRAMES: std::ops::RangeInclusive<usize> = LEAST..=6;

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
    looks(&mut after, s, whole);
    checks(&mut after, &a.checks);
    if s.stopped_ms > 0.0 {
        after.line("stood still", &format!("for {:.2} ms", s.stopped_ms));
    }
    let mut advice = Page::new(screen);
    next(&mut advice, &a.advice);
    let others = before.height() + after.height() + advice.height();
    let frames = match whole {
        true => usize::MAX,
        // Its label takes one line.
        false => LINES
            .saturating_sub(others + 1)
            .clamp(*FRAMES.start(), *FRAMES.end()),
    };
    let mut between = Page::new(screen);
    stack(&mut between, s, &carrying(s, &a.cause), frames);
    let word = verdict_word(&after, a);
    in_short(&mut after, others + between.height(), screen, &word, a);
    [before, between, after, advice]
        .map(Page::into_text)
        .concat()
}

/// Where the looks have met it, if there were several. What all of them have in common is in the stack already.
fn looks(page: &mut Page, s: &Snapshot, whole: bool) {
    let Some(motion) = samples::motion(s) else {
        return;
    };
    let text = format!("{}: the share of them that met each function", motion.looks);
    page.line("looks", &text);
    let branches = match whole {
        true => &motion.tree[..],
        false => tree::crown(&motion.tree, 0),
    };
    page.lines(&tree::tree(branches, motion.looks, tree::MOST_LINES));
}

/// The verdict and the cause in a few lines.
pub fn judgement(s: &Snapshot, a: &Assessment, screen: Screen) -> String {
    let mut page = Page::new(screen);
    verdict(&mut page, s, a);
    cause(&mut page, a);
    page.into_text()
}
