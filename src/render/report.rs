//! What `pgpoke report` says when it is done.

use std::fmt::Write;
use std::path::PathBuf;

use super::screen::{Page, Screen};
use super::text::printable;
use crate::assess::{Cause, Verdict};
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
    page.into_text()
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
