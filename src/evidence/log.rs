//! Where the server writes its log, by its own configuration, and what it wrote last.
//!
//! Three ways: the collector, which notes the files that it writes in `current_logfiles`; without it, whatever the
//! postmaster's standard error is open on, as Debian's /var/log/postgresql; and the system's log.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::{Material, theirs};

/// How much of the end of a log is kept, and in how much of it lines about the backend are looked for.
const TAIL: u64 = 256 << 10;
const SEARCHED: u64 = 32 << 20;

/// The most lines that are picked out.
const MOST_PICKED: usize = 2000;

/// Where the log is.
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// The collector's current file.
    Collected(PathBuf),
    /// The file that standard error is open on.
    Stderr,
    /// Not in a file of its own, or not known: why.
    Nowhere(String),
}

/// Finds it.
pub fn place(m: &Material) -> Place {
    let settings = &m.settings;
    if settings.get("logging_collector") == Some("on") {
        return collected(m).map_or_else(Place::Nowhere, Place::Collected);
    }
    if settings.logs_to_syslog() && !settings.logs_to_stderr() {
        return Place::Nowhere(
            "log_destination is syslog: it is in the system's log; see journal.txt, or /var/log"
                .into(),
        );
    }
    Place::Stderr
}

/// `current_logfiles` has a line for each format: `stderr log/postgresql-Wed.log` (syslogger.c, 10 and later).
fn collected(m: &Material) -> Result<PathBuf, String> {
    let data = m
        .data_directory
        .as_deref()
        .ok_or("its data directory is not known")?;
    let list = theirs::read(m.reader(), &data.join("current_logfiles"), 64 << 10)?;
    let file = current(&list).ok_or("current_logfiles names no file")?;
    Ok(data.join(file))
}

/// The file in the format that people read; else the first.
fn current(list: &str) -> Option<&Path> {
    let files = || list.lines().filter_map(|l| l.split_once(' '));
    let plain = files().find(|(format, _)| *format == "stderr");
    plain
        .or_else(|| files().next())
        .map(|(_, file)| Path::new(file))
}

fn open(m: &Material) -> Result<(String, File), String> {
    match place(m) {
        Place::Collected(path) => {
            let shown = path.display().to_string();
            theirs::open(m.reader(), &path).map(|file| (shown, file))
        }
        Place::Stderr => {
            let postmaster = m
                .postmaster
                .as_ref()
                .ok_or("its postmaster is gone, and which file its log is in with it")?;
            let target = postmaster.descriptor(2).unwrap_or_else(|| "unknown".into());
            match target.as_str() {
                t if t.starts_with("socket:") || t.starts_with("pipe:") => Err(format!(
                    "it goes to the postmaster's standard error, which is a {t}: see journal.txt, or what started the server"
                )),
                _ => theirs::open_descriptor(postmaster, 2).map(|file| (target, file)),
            }
        }
        Place::Nowhere(why) => Err(why),
    }
}

/// Redacts what is text of a log, by its format.
fn redacted(m: &Material, path: &str, text: String) -> String {
    match &m.redactor {
        Some(r) if path.ends_with(".csv") => r.csv_log(&text),
        Some(r) if path.ends_with(".json") => r.json_log(&text),
        Some(r) => r.log(&text),
        None => super::redact::passwords(&text),
    }
}

/// The end of the log.
pub fn end(m: &Material) -> Result<String, String> {
    let (path, file) = open(m)?;
    let text = theirs::tail(file, TAIL).map_err(|e| format!("{path}: {e}"))?;
    Ok(format!("the end of {path}\n\n{}", redacted(m, &path, text)))
}

/// The lines about this backend, and those about spinlocks, crashes, and input and output.
pub fn picked(m: &Material) -> Result<String, String> {
    let (path, file) = open(m)?;
    let text = theirs::tail(file, SEARCHED).map_err(|e| format!("{path}: {e}"))?;
    let lines = pick(&text, m.inner_pid);
    let head = format!(
        "{path}: of its last {} MiB, the lines that mention process {}, a spinlock, a crash, or an error of input and output: {}\n\n",
        SEARCHED >> 20,
        m.inner_pid,
        lines.len()
    );
    let left_out = lines.len().saturating_sub(MOST_PICKED);
    let kept: Vec<&str> = lines[left_out..].to_vec();
    Ok(head + &redacted(m, &path, kept.join("\n") + "\n"))
}

/// Words that a maintainer asks for (src/backend, 12 to 18); those of libc follow a failed system call.
const TELLING: [&str; 22] = [
    "stuck spinlock",
    "PANIC:",
    "was terminated by signal",
    "still waiting for backend",
    "still waiting for ",
    "deadlock detected",
    "could not fsync",
    "could not write",
    "could not read",
    "could not extend",
    "could not seek",
    "could not truncate",
    "invalid page",
    "page verification failed",
    "Input/output error",
    "No space left on device",
    "Read-only file system",
    "Stale file handle",
    "out of memory",
    "Cannot allocate memory",
    "recalcitrant",
    "database system",
];

fn pick(text: &str, pid: i32) -> Vec<&str> {
    let pid = pid.to_string();
    let mentions = |line: &str| {
        line.match_indices(&pid).any(|(at, found)| {
            let is_digit = |c: char| c.is_ascii_digit() || c == '.';
            !line[..at].ends_with(is_digit)
                && !line[at + found.len()..].starts_with(|c: char| c.is_ascii_digit())
        })
    };
    // What goes on from a line that was picked goes with it.
    let mut going_on = false;
    let mut keep = |line: &&str| {
        going_on = match line.starts_with('\t') {
            true => going_on,
            false => mentions(line) || TELLING.iter().any(|word| line.contains(word)),
        };
        going_on
    };
    text.lines().filter(|line| keep(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_people_read() {
        let list = "csvlog log/a.csv\nstderr log/a b.log\n";
        assert_eq!(current(list), Some(Path::new("log/a b.log")));
        assert_eq!(
            current("jsonlog /var/log/a.json\n"),
            Some(Path::new("/var/log/a.json"))
        );
        assert_eq!(current("nonsense\n"), None);
    }

    #[test]
    fn lines_about_the_backend_and_about_what_went_wrong() {
        let log = "t [47] LOG:  x\nt [471] LOG:  y\n\tmore\nt [9] LOG:  about 47\n\tmore\n\tand more\nt [9] PANIC:  z\nt [9] LOG: 1.47\n";
        let picked = pick(log, 47);
        assert_eq!(
            picked,
            [
                "t [47] LOG:  x",
                "t [9] LOG:  about 47",
                "\tmore",
                "\tand more",
                "t [9] PANIC:  z"
            ]
        );
        assert!(pick("", 1).is_empty());
    }
}
