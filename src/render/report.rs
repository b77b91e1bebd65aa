//! What `pgpoke report` says when it is done.

use std::fmt::Write;
use std::path::PathBuf;

use super::screen::{Page, Screen};
use super::text::printable;
use crate::assess::{Cause, Verdict};
use crate::evidence::core::{CoreReport, MissingThread, WhyMissing};
use crate::evidence::{Contents, README};

/// How many names of files are told of those that share a reason not to be there.
const SHOWN: usize = 3;

/// A bundle that was written.
#[derive(Debug)]
pub struct Written {
    /// The process.
    pub pid: i32,
    /// The verdict at the first look.
    pub verdict: Verdict,
    /// And the cause.
    pub cause: Cause,
    /// The verdict and the cause in words.
    pub judgement: String,
    /// Where it is.
    pub directory: PathBuf,
    /// The same in one file; none where that could not be written.
    pub archive: Option<PathBuf>,
    /// What is in it, and what is not.
    pub contents: Contents,
    /// How many looks were taken.
    pub looks: usize,
    /// How long the backend stood still, in milliseconds.
    pub stopped_ms: f64,
    /// Whether query text and the like were left out.
    pub redacted: bool,
    /// The core file, if one was asked for and written.
    pub core: Option<CoreReport>,
}

/// Where it is, what it cost, what is not in it, and what to do with it.
pub fn text(written: &Written, screen: Screen) -> String {
    let mut page = Page::new(screen);
    page.lines(&written.judgement);
    let shown = |path: &PathBuf| printable(&path.to_string_lossy());
    page.line(
        "report",
        &format!(
            "{}, {} files",
            shown(&written.directory),
            written.contents.files.len()
        ),
    );
    if let Some(archive) = &written.archive {
        page.line("archive", &shown(archive));
    }
    if let Some(core) = &written.core {
        page.line("core file", &core_file(core));
    }
    let mut label = "not had";
    for (why, files) in by_reason(&written.contents) {
        let mut names = files[..files.len().min(SHOWN)].join(", ");
        if files.len() > SHOWN {
            let _ = write!(names, " and {} more", files.len() - SHOWN);
        }
        page.line(label, &format!("{names}: {}", printable(why)));
        label = "";
    }
    let looks = if written.looks == 1 { "look" } else { "looks" };
    page.line(
        "stood still",
        &format!(
            "for {:.2} ms in all, for {} {looks}",
            written.stopped_ms, written.looks
        ),
    );
    page.line(
        "next",
        &format!("read {README} in it, and attach the archive to the bug report"),
    );
    let fit = match written.redacted {
        true => {
            "query text, literals, host names and addresses were left out; look it through all the same"
        }
        false => {
            "it holds the text of statements, host names and addresses; with --redact it does not"
        }
    };
    page.line("", fit);
    if written.core.is_some() {
        page.line(
            "",
            "the core file is not in the archive: it holds all that was in the backend's memory, data and passwords, too",
        );
    }
    page.into_text()
}

/// Where it is, how large, and what a debugger will not find in it as it was at the stop.
fn core_file(core: &CoreReport) -> String {
    let mut text = format!(
        "{}, {} on the disk; for it alone it stood still for {:.2} ms",
        printable(&core.path.to_string_lossy()),
        mebibytes(core.size_bytes),
        core.stopped_ms
    );
    let own: u64 = (core.copied_later.iter())
        .map(|part| part.end.0 - part.start.0)
        .sum();
    if own > 0 {
        let _ = write!(
            text,
            "; {} were copied when it ran again (core.json says which)",
            mebibytes(own)
        );
    }
    text.push_str(&missing_threads(&core.threads_missing_why));
    if !core.registers_left_out.is_empty() {
        let _ = write!(
            text,
            "; registers that debuggers do not know are not in it: {}",
            core.registers_left_out.join(", ")
        );
    }
    text
}

/// Which threads are not in the core file, for each reason.
fn missing_threads(missing: &[MissingThread]) -> String {
    let mut reasons: Vec<(String, Vec<i32>)> = Vec::new();
    for thread in missing {
        let why = match (thread.why, thread.tracer) {
            (WhyMissing::RanOn, _) => "did not stop in time".to_owned(),
            (WhyMissing::Traced, Some(tracer)) => format!("traced by process {tracer}"),
            (WhyMissing::Traced, None) => "traced by another process".to_owned(),
            (WhyMissing::Denied, _) => "the kernel does not let pgpoke trace it".to_owned(),
            (WhyMissing::TooMany, _) => "beyond the most that are stopped".to_owned(),
            (WhyMissing::Unreadable, _) => "its registers could not be read".to_owned(),
        };
        match reasons.iter_mut().find(|(known, _)| *known == why) {
            Some((_, threads)) => threads.push(thread.tid),
            None => reasons.push((why, vec![thread.tid])),
        }
    }
    let each = reasons.iter().map(|(why, threads)| match threads[..] {
        [tid] => format!("; thread {tid} is not in it ({why})"),
        _ => format!("; {} threads are not in it ({why})", threads.len()),
    });
    each.collect()
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn by_reason(contents: &Contents) -> Vec<(&str, Vec<&str>)> {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for missing in &contents.missing {
        match reasons.iter_mut().find(|(why, _)| *why == missing.why) {
            Some((_, files)) => files.push(&missing.name),
            None => reasons.push((&missing.why, vec![&missing.name])),
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_is_not_in_the_core_file_is_told_of_with_the_reason() {
        let thread = |tid, why, tracer| MissingThread { tid, why, tracer };
        assert_eq!(missing_threads(&[]), "");
        let missing = [
            thread(11, WhyMissing::RanOn, None),
            thread(12, WhyMissing::Traced, Some(99)),
            thread(13, WhyMissing::RanOn, None),
        ];
        assert_eq!(
            missing_threads(&missing),
            "; 2 threads are not in it (did not stop in time); thread 12 is not in it (traced by process 99)"
        );
    }
}
