//! The stack, innermost frame first.

use super::printable;
use crate::assess::rules;
use crate::render::screen::{Page, Screen, Tone};
use crate::render::variables;
use crate::snapshot::{Frame, Snapshot, ThreadStack};
use crate::unwind::FoundBy;

/// Where a frame's text begins, behind its number.
const INDENT: usize = 7;

/// How many frames are shown at least, beside those that must be.
pub(in crate::render) const LEAST: usize = 2;

/// How many frames are shown beside a question or an outcome: what is stuck, and what called it.
pub(in crate::render) const SHORT: usize = 4;

/// The stack: its innermost frames, at most so many, and behind them those that must not be missing: what the cause `rests_on`,
/// and the first that is the server's or an extension's. Where all are asked for, the kernel's functions, too.
pub(in crate::render) fn stack(page: &mut Page, s: &Snapshot, rests_on: &[usize], most: usize) {
    if let Some(kernel) = s
        .process
        .kernel_stack
        .as_ref()
        .filter(|_| most == usize::MAX)
    {
        page.line("kernel stack", &format!("{} functions", kernel.len()));
        for function in kernel {
            page.hang("  ", INDENT, &printable(function));
        }
    }
    let Some(stack) = &s.stack else {
        page.line("stack", "not looked at");
        return;
    };
    let frames = &stack.frames;
    let mut header = header(page, frames.len(), stack.complete);
    let shown = shown(frames, rests_on, most);
    if shown.len() < frames.len() {
        let count = shown.len();
        let which = match shown.last().is_some_and(|last| last + 1 == count) {
            true => format!("the innermost {count}"),
            false => format!("{count} of them"),
        };
        header.push_str(&format!("; {which} (inspect --stack shows all):"));
    }
    page.line("stack", &header);
    let mut next = 0;
    for index in shown {
        if index > next {
            let between = format!("{} more", index - next);
            page.hang("   …   ", INDENT, &page.paint(Tone::Dim, &between));
        }
        next = index + 1;
        frame_line(page, index, &frames[index]);
        variables::text(page, &frames[index]);
    }
}

/// Which frames are shown. One that would be left out alone is shown, too: saying so takes a line as well.
fn shown(frames: &[Frame], rests_on: &[usize], most: usize) -> Vec<usize> {
    let first = rules::first_of_postgres(frames);
    let needed = |at: usize| rests_on.contains(&at) || first == Some(at);
    // Where there is least room, it goes to those.
    let most = match most <= LEAST && (most..frames.len()).any(needed) {
        true => 1,
        false => most,
    };
    let must = |at: &usize| *at < most || needed(*at);
    let mut shown: Vec<usize> = (0..frames.len()).filter(must).collect();
    let alone = |at: &usize| {
        let is_shown = |at: usize| shown.binary_search(&at).is_ok();
        let before = at.checked_sub(1).is_none_or(is_shown);
        !is_shown(*at) && before && (*at + 1 == frames.len() || is_shown(*at + 1))
    };
    let lone: Vec<usize> = (0..frames.len()).filter(alone).collect();
    shown.extend(lone);
    shown.sort_unstable();
    shown
}

/// The whole stack of one look, for a file.
pub fn backtrace(s: &Snapshot) -> String {
    let mut page = Page::new(Screen::PLAIN);
    stack(&mut page, s, &[], usize::MAX);
    page.into_text()
}

/// The stack of another thread than the main one, for a file, or why there is none.
pub fn thread_backtrace(thread: &ThreadStack) -> String {
    let mut page = Page::new(Screen::PLAIN);
    let label = format!("thread {}", thread.tid);
    match &thread.stack {
        Ok(stack) => {
            let header = header(&page, stack.frames.len(), stack.complete);
            page.line(&label, &header);
            for (index, frame) in stack.frames.iter().enumerate() {
                frame_line(&mut page, index, frame);
                variables::text(&mut page, frame);
            }
        }
        Err(unseen) => page.line(&label, &format!("not seen: {unseen}")),
    }
    page.into_text()
}

/// How many frames there are, and whether that is all of them.
fn header(page: &Page, frames: usize, complete: bool) -> String {
    let complete = match complete {
        true => "complete".to_owned(),
        false => page.paint(Tone::Warn, "INCOMPLETE"),
    };
    format!("{frames} frames, {complete}")
}

fn frame_line(page: &mut Page, index: usize, f: &Frame) {
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
    let guess = match f.found_by {
        FoundBy::FramePointer => " (a guess)",
        _ => "",
    };
    let offset = f.offset.map_or_else(String::new, |o| format!("+{o}"));
    let module = printable(f.module_name());
    page.hang(
        &format!("  #{index:<3} "),
        INDENT,
        &format!("{} {name}{mark}{place}  {module}{offset}{guess}", f.ip),
    );
}
