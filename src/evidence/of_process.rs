//! The backend as `/proc` shows it, and its settings.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use super::redact::passwords;
use super::{Material, Title, proc_text, theirs, words};
use crate::process::Process;
use crate::process::sockets::Socket;

/// The most threads and descriptors that are listed, and for how long.
const MOST_THREADS: usize = 256;
const MOST_DESCRIPTORS: usize = 4096;
const LONGEST: Duration = Duration::from_secs(5);

/// The most that is read of a configuration file.
const MOST_CONFIGURATION: u64 = 1 << 20;

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
        _ => Ok(words(&line).trim_end().to_owned() + "\n"),
    }
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

/// A setting's value, as far as it may be told.
fn shown(m: &Material, name: &str, value: &str) -> String {
    let value = match m.redactor.as_ref() {
        Some(r) => r.setting(name, value),
        None => value.to_owned(),
    };
    let secret = ["passphrase", "passwd", "secret", "token"]
        .iter()
        .any(|word| name.contains(word));
    if secret && !matches!(value.as_str(), "" | "on" | "off") {
        return "[password]".to_owned();
    }
    // With its name, which may say that it is one.
    let line = passwords(&format!("{name} = {value}"));
    line.split_once(" = ")
        .map_or(value, |(_, value)| value.to_owned())
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

/// What `postgresql.conf` sets.
pub fn configuration(m: &Material) -> Result<String, String> {
    let path = m
        .settings
        .get("config_file")
        .filter(|path| !path.is_empty());
    configuration_file(
        m,
        Path::new(path.ok_or("which file it is could not be read")?),
    )
}

/// What `ALTER SYSTEM` has set.
pub fn auto_configuration(m: &Material) -> Result<String, String> {
    let data = m
        .data_directory
        .as_deref()
        .ok_or("its data directory is not known")?;
    configuration_file(m, &data.join("postgresql.auto.conf"))
}

fn configuration_file(m: &Material, path: &Path) -> Result<String, String> {
    let text = theirs::read(m.reader(), path, MOST_CONFIGURATION)?;
    let mut out = format!("{}, without comments\n\n", path.display());
    for line in text.lines() {
        if let Some((name, value)) = setting_in(line) {
            let _ = writeln!(out, "{name} = {}", shown(m, name, value));
        }
    }
    Ok(out)
}

/// `name = value # comment`, or `name value` (guc-file.l). A value in quotes may hold a `#`.
fn setting_in(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.')))?;
    let (name, value) = line.split_at(end);
    let value = value
        .trim_start()
        .strip_prefix('=')
        .unwrap_or(value)
        .trim_start();
    let value = match value.strip_prefix('\'') {
        Some(_) => quoted(value),
        None => value.split('#').next().unwrap_or("").trim_end(),
    };
    (!name.is_empty()).then_some((name, value))
}

/// What is between the quotes; a quote is doubled, or follows a backslash.
fn quoted(value: &str) -> &str {
    let mut before = ' ';
    let mut inner = value.char_indices().skip(1).peekable();
    while let Some((at, c)) = inner.next() {
        if c == '\'' && before != '\\' {
            match inner.peek() {
                Some((_, '\'')) => {
                    inner.next();
                }
                _ => return &value[1..at],
            }
        }
        before = if before == '\\' { ' ' } else { c };
    }
    &value[1..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_as_the_server_reads_them() {
        for (line, expected) in [
            ("port = 5432", Some(("port", "5432"))),
            ("  fsync off # really", Some(("fsync", "off"))),
            (
                "a.b = 'it''s # no comment' # one",
                Some(("a.b", "it''s # no comment")),
            ),
            (r"x = 'a\'b'", Some(("x", r"a\'b"))),
            ("x = 'open", Some(("x", "open"))),
            ("x=1", Some(("x", "1"))),
            ("x = ''", Some(("x", ""))),
            ("# port = 1", None),
            ("", None),
            ("ä = 1", None),
        ] {
            assert_eq!(setting_in(line), expected, "{line}");
        }
    }
}
