//! The backend as `/proc` shows it, and its settings.

use std::fmt::Write;
use std::time::{Duration, Instant};

use super::configuration::{MOST, data_directory, shown};
use super::redact::passwords;
use super::{Material, Title, command_line, proc_text, theirs};
use crate::process::Process;
use crate::process::sockets::Socket;

/// The most threads and descriptors that are listed, and for how long.
const MOST_THREADS: usize = 256;
const MOST_DESCRIPTORS: usize = 4096;
const LONGEST: Duration = Duration::from_secs(5);

/// The numbers in a folder of `/proc/PID`, sorted.
fn numbers(process: &Process, folder: &str) -> Result<Vec<u64>, String> {
    let path = format!("/proc/{}/{folder}", process.pid());
    let entries = std::fs::read_dir(&path).map_err(|e| format!("{path}: {e}"))?;
    let mut all: Vec<u64> = entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect();
    all.sort_unstable();
    Ok(all)
}

/// Each thread by itself.
pub fn threads(m: &Material) -> Result<String, String> {
    let all = numbers(&m.process, "task")?;
    let mut out = format!("{} threads\n", all.len());
    for tid in all.iter().take(MOST_THREADS) {
        let read = |name: &str| {
            let text = proc_text(&m.process, &format!("task/{tid}/{name}"));
            text.map_or_else(|e| format!("({e})"), |t| t.trim_end().to_owned())
        };
        let state = read("status");
        let state = state
            .lines()
            .find_map(|l| l.strip_prefix("State:"))
            .unwrap_or("?")
            .trim()
            .to_owned();
        let _ = writeln!(out, "\nthread {tid} ({})", read("comm"));
        let _ = writeln!(out, "  state          {state}");
        let _ = writeln!(out, "  wait channel   {}", read("wchan"));
        let _ = writeln!(out, "  system call    {}", read("syscall"));
        for line in read("stack").lines() {
            let _ = writeln!(out, "  in the kernel  {line}");
        }
    }
    if all.len() > MOST_THREADS {
        let _ = writeln!(out, "\n{} more threads", all.len() - MOST_THREADS);
    }
    Ok(out)
}

/// The title that ps shows.
pub fn title(m: &Material) -> Result<String, String> {
    let line = m.process.command_line().map_err(|e| e.to_string())?;
    let cluster = m.settings.get("cluster_name").unwrap_or_default();
    // A cluster's name may be a host's.
    match (&m.redactor, Title::parse(&line, cluster)) {
        (Some(r), Some(title)) => Ok(format!("postgres: {}\n", r.title(&title.text))),
        _ => Ok(command_line(m, &line).trim_end().to_owned() + "\n"),
    }
}

/// How the server was started: `/bin/postgres "-D" "/data"` (CreateOptsFile, postmaster.c; nothing is escaped).
pub fn options(m: &Material) -> Result<String, String> {
    let path = data_directory(m)?.join("postmaster.opts");
    let text = theirs::read(m.reader(), &path, MOST)?;
    let text = text.trim_end();
    let (program, words) = text.split_once(" \"").unwrap_or((text, "\""));
    let words = words.strip_suffix('"').unwrap_or(words).split("\" \"");
    let told = match &m.redactor {
        Some(r) => r.command([program].into_iter().chain(words.filter(|w| !w.is_empty()))),
        None => text.to_owned(),
    };
    Ok(passwords(&told) + "\n")
}

/// Each descriptor and what it points to; of a socket, between whom.
pub fn descriptors(m: &Material) -> Result<String, String> {
    let all = numbers(&m.process, "fd")?;
    let end = Instant::now() + LONGEST;
    let mut out = format!("{} open descriptors\n\n", all.len());
    for fd in all.iter().take(MOST_DESCRIPTORS) {
        let Some(target) = m.process.descriptor(*fd) else {
            continue; // Closed since.
        };
        let position = proc_text(&m.process, &format!("fdinfo/{fd}")).unwrap_or_default();
        let position = position
            .lines()
            .find_map(|l| l.strip_prefix("pos:"))
            .unwrap_or("")
            .trim()
            .to_owned();
        let inode = target
            .strip_prefix("socket:[")
            .and_then(|t| t.strip_suffix(']')?.parse().ok());
        let socket = inode
            .filter(|_| Instant::now() < end)
            .and_then(|inode| Socket::find(&m.process, inode));
        let what = match (&socket, &m.redactor) {
            (Some(socket), None) => format!("{target}, {}", between(socket)),
            (Some(socket), Some(_)) => {
                let state = socket.state.as_deref().unwrap_or("");
                format!("{target}, {} {state}", socket.protocol)
            }
            (None, _) if target.starts_with('/') => format!("{target} at {position}"),
            (None, _) => target,
        };
        let what = m.redactor.as_ref().map_or(what.clone(), |r| r.text(&what));
        let _ = writeln!(out, "{fd:>4}  {}", what.trim_end());
    }
    if all.len() > MOST_DESCRIPTORS {
        let _ = writeln!(out, "{} more", all.len() - MOST_DESCRIPTORS);
    }
    Ok(out)
}

fn between(socket: &Socket) -> String {
    let local = socket.local.as_deref().unwrap_or("-");
    let unacknowledged = match socket.unacknowledged {
        Some(n @ 1..) => format!(", {n} bytes not acknowledged"),
        _ => String::new(),
    };
    format!("{} from {local}{unacknowledged}", socket.describe())
}

/// The settings as this backend has them.
pub fn settings(m: &Material) -> Result<String, String> {
    if m.settings.values.is_empty() {
        return Err("its variables could not be read".into());
    }
    let mut out =
        "as they are in this backend's memory, SET and ALTER ROLE … SET included\n\n".to_owned();
    for (name, value) in &m.settings.values {
        let _ = writeln!(out, "{name} = {}", shown(m, name, value));
    }
    Ok(out)
}
