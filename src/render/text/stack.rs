//! The stack, innermost frame first.

use super::printable;
use crate::render::screen::{Page, Tone};
use crate::snapshot::{Frame, Snapshot};
use crate::unwind::FoundBy;

/// Where a frame's text begins, behind its number.
const INDENT: usize = 7;

/// How many frames are shown beside a question or an outcome: what is stuck, and what called it.
pub(in crate::render) const SHORT: usize = 4;

/// The stack: its innermost frames, at most so many, but all where only one would be left out; where all are asked for,
/// the kernel's functions, too.
pub(in crate::render) fn stack(page: &mut Page, s: &Snapshot, most: usize) {
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
    let complete = match stack.complete {
        true => "complete".to_owned(),
        false => page.paint(Tone::Warn, "INCOMPLETE"),
    };
    let mut header = format!("{} frames, {complete}", frames.len());
    let shown = match frames.len() <= most.saturating_add(1) {
        true => frames.len(),
        false => most,
    };
    if shown < frames.len() {
        header.push_str(&format!(
            "; the innermost {shown} (inspect --stack shows all):"
        ));
    }
    page.line("stack", &header);
    for (index, frame) in frames.iter().enumerate().take(shown) {
        frame_line(page, index, frame);
    }
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
