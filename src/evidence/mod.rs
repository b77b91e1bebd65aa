//! What a maintainer asks for before anything is ended: gathered into one directory that can be read without pgpoke.
//!
//! [`TABLE`] has a row for each file: its name, what it is, and the function that gathers it. The README of a bundle is
//! made from that table, so that a new item is one function and one row. Each item has a deadline and a thread of its own;
//! one that fails or hangs costs itself, and the README says why it was not to be had. Nothing here stops a backend: what
//! was seen while it stood still comes with the [`Material`].

mod bundle;
mod configuration;
pub mod core;
mod deadline;
mod draft;
mod dsn;
mod kernel;
mod log;
mod of_process;
pub mod redact;
mod server;
mod theirs;
mod versions;
mod words;

use std::fmt::Write;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::Serialize;

pub use bundle::Bundle;
pub use dsn::config as dsn_config;
use redact::Redactor;

use crate::postgres::settings::Settings;
use crate::postgres::{Backend, Postmaster, Title};
use crate::process::root::{Links, Root};
use crate::process::{Gone, Process, is_obeyed};

/// How long one item may take. Longer than any deadline within one.
const ITEM_LIMIT: Duration = Duration::from_secs(15);

/// The most that is read of one file of `/proc`.
const MOST_PROC: u64 = 8 << 20;

/// The README's own name in a bundle.
pub const README: &str = "README.txt";

/// What was seen while the backend stood still, and judged, in words: made by those who render.
#[derive(Debug, Default, Clone)]
pub struct Spoken {
    /// The verdict, for the README.
    pub verdict: String,
    /// The assessment as text.
    pub assessment_text: String,
    /// The same as JSON.
    pub assessment_json: String,
    /// The stacks of all looks; none if it was not stopped.
    pub backtraces: Option<String>,
    /// All stacks in one tree.
    pub tree: Option<String>,
    /// The registers at the first look.
    pub registers: Option<String>,
}

/// All that items are gathered from. No part of it is tied to a thread.
#[derive(Debug)]
pub struct Material {
    process: Process,
    inner_pid: i32,
    postmaster: Option<Process>,
    data_directory: Option<PathBuf>,
    server_version: Option<String>,
    settings: Settings,
    images: Vec<versions::MappedImage>,
    stack_modules: Vec<String>,
    spoken: Spoken,
    dsn: Option<postgres::Config>,
    answers: OnceLock<dsn::Answers>,
    redactor: Option<Redactor>,
    began: SystemTime,
}

/// What the operator asked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Connect there, and ask.
    pub dsn: Option<postgres::Config>,
    /// Leave out what is not for strangers.
    pub redact: bool,
}

impl Options {
    /// What takes out of a bundle about this process what is not for strangers, if that was asked for. `client` is where
    /// its session comes from.
    pub fn redactor(&self, process: &Process, client: Option<&str>) -> Option<Redactor> {
        if !self.redact {
            return None;
        }
        let client = client.and_then(|c| c.split('(').next()).map(str::to_owned);
        let dsn = self.dsn.iter().flat_map(dsn::hosts);
        Some(Redactor::new(
            client.into_iter().chain(dsn).chain(host_names(process)),
        ))
    }
}

/// What this machine, and the container of the process, are called.
fn host_names(process: &Process) -> Vec<String> {
    let file = |root: io::Result<Root>| {
        let mut text = String::new();
        let file = root
            .ok()?
            .open(Path::new("etc/hostname"), Links::Followed)
            .ok()?;
        file.take(256).read_to_string(&mut text).ok()?;
        Some(text.trim().to_owned())
    };
    let uname = nix::sys::utsname::uname().ok();
    let node = uname.map(|u| u.nodename().to_string_lossy().into_owned());
    let names = [node, file(Root::ours()), file(Root::of(process))];
    names
        .into_iter()
        .flatten()
        .filter(|name| !name.is_empty())
        .collect()
}

impl Material {
    /// Reads what has to be read through the backend itself. `modules` are the files on its stack.
    pub fn of(
        backend: &Backend,
        options: Options,
        redactor: Option<Redactor>,
        modules: Vec<String>,
        spoken: Spoken,
    ) -> io::Result<Self> {
        let ended = || io::Error::other(Gone(backend.target.pid()));
        let pinned = backend.living().ok_or_else(ended)?;
        let process = Process::open(pinned.pid()).map_err(|e| io::Error::other(e.to_string()))?;
        if process.start_time() != pinned.start_time() {
            return Err(ended());
        }
        let postmaster = match backend.postmaster {
            Postmaster::Running(pid) => Process::open(pid).ok(),
            Postmaster::Gone => None,
        };
        Ok(Material {
            process,
            inner_pid: backend.inner_pid,
            postmaster,
            data_directory: (backend.data_directory.as_ref()).map(|d| pinned.path_inside(d)),
            server_version: backend.version.as_ref().map(|v| v.text.clone()),
            settings: Settings::of(backend),
            images: versions::mapped_images(backend),
            stack_modules: modules,
            spoken,
            dsn: options.dsn,
            answers: OnceLock::new(),
            redactor,
            began: SystemTime::now(),
        })
    }

    /// The process in whose place the server's files are opened: they are the postmaster's to name.
    fn reader(&self) -> &Process {
        self.postmaster.as_ref().unwrap_or(&self.process)
    }

    fn answers(&self) -> &dsn::Answers {
        self.answers.get_or_init(|| match &self.dsn {
            Some(config) => {
                let config = dsn::at_home(config.clone(), &self.settings, self.reader());
                let status = self.reader().status().ok();
                let who = dsn::Who {
                    pid: self.inner_pid,
                    started: self.settings.server_started,
                    user: status.map(|s| (s.euid, s.egid)),
                };
                dsn::ask(config, who, self.redactor.is_some())
            }
            None => dsn::Answers::default(),
        })
    }
}

/// A file of a bundle.
pub struct Item {
    /// Its name.
    pub file: &'static str,
    /// What it is, in a sentence.
    pub what: &'static str,
    /// Gathers it, or says why it is not to be had.
    gather: fn(&Material) -> Result<String, String>,
    /// How it is made fit for strangers.
    redact: Redaction,
}

/// How an item is redacted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Redaction {
    /// It is text in which addresses and known names are looked for.
    Text,
    /// It takes care of that itself, by its form.
    Own,
}

use Redaction::{Own, Text};

/// All items, in the order in which they are gathered: what changes fast comes first.
pub static TABLE: [Item; 33] = [
    Item {
        file: "assessment.txt",
        what: "what pgpoke makes of it: verdict, cause, checks",
        gather: |m| Ok(m.spoken.assessment_text.clone()),
        redact: Text,
    },
    Item {
        file: "assessment.json",
        what: "the same for programs (docs/pgpoke.schema.json)",
        gather: |m| Ok(m.spoken.assessment_json.clone()),
        redact: Text,
    },
    Item {
        file: "backtraces.txt",
        what: "the stacks of several looks, one after the other",
        gather: |m| m.spoken.backtraces.clone().ok_or_else(not_stopped),
        redact: Text,
    },
    Item {
        file: "stack-tree.txt",
        what: "all these stacks in one tree (the other threads' in another): the share of looks that met each function, and so where the loop is",
        gather: |m| m.spoken.tree.clone().ok_or_else(not_stopped),
        redact: Text,
    },
    Item {
        file: "registers.txt",
        what: "the main thread's registers at the first look",
        gather: |m| m.spoken.registers.clone().ok_or_else(not_stopped),
        redact: Own,
    },
    Item {
        file: "server-processes.txt",
        what: "all processes of the server, with states and wait channels, several times",
        gather: server::processes,
        redact: Own,
    },
    Item {
        file: "threads.txt",
        what: "the threads of the backend: name, state, wait channel, system call, stack in the kernel",
        gather: of_process::threads,
        redact: Own,
    },
    Item {
        file: "proc-status.txt",
        what: "/proc/PID/status",
        gather: |m| proc_file(m, "status"),
        redact: Own,
    },
    Item {
        file: "proc-stack.txt",
        what: "/proc/PID/stack: where it is in the kernel",
        gather: |m| proc_file(m, "stack"),
        redact: Own,
    },
    Item {
        file: "proc-wchan.txt",
        what: "/proc/PID/wchan: the kernel function that it sleeps in",
        gather: |m| proc_file(m, "wchan"),
        redact: Own,
    },
    Item {
        file: "proc-syscall.txt",
        what: "/proc/PID/syscall: the system call that it is in",
        gather: |m| proc_file(m, "syscall"),
        redact: Own,
    },
    Item {
        file: "proc-io.txt",
        what: "/proc/PID/io: what it has read and written",
        gather: |m| proc_file(m, "io"),
        redact: Own,
    },
    Item {
        file: "proc-limits.txt",
        what: "/proc/PID/limits",
        gather: |m| proc_file(m, "limits"),
        redact: Own,
    },
    Item {
        file: "proc-cmdline.txt",
        what: "its title, as ps shows it",
        gather: of_process::title,
        redact: Text,
    },
    Item {
        file: "maps.txt",
        what: "/proc/PID/maps: what it has mapped where",
        gather: |m| proc_file(m, "maps"),
        redact: Text,
    },
    Item {
        file: "descriptors.txt",
        what: "its open descriptors and what they point to",
        gather: of_process::descriptors,
        redact: Own,
    },
    Item {
        file: "versions.txt",
        what: "versions of pgpoke, kernel, system and server; build-ids of the server and of every mapped library",
        gather: versions::versions,
        redact: Text,
    },
    Item {
        file: "languages.txt",
        what: "which procedural languages it has loaded, and whether it runs one of them now",
        gather: versions::languages,
        redact: Text,
    },
    Item {
        file: "settings.txt",
        what: "settings that matter, out of the backend's own memory",
        gather: of_process::settings,
        redact: Own,
    },
    Item {
        file: "postmaster-opts.txt",
        what: "postmaster.opts: how the server was started",
        gather: of_process::options,
        redact: Own,
    },
    Item {
        file: "postgresql-conf.txt",
        what: "the configuration file, and those that it includes, without comments",
        gather: configuration::configuration,
        redact: Own,
    },
    Item {
        file: "postgresql-auto-conf.txt",
        what: "postgresql.auto.conf: what ALTER SYSTEM has set",
        gather: configuration::auto_configuration,
        redact: Own,
    },
    Item {
        file: "server-log-selected.txt",
        what: "lines of the server's log about this backend, spinlocks, crashes, and errors of input and output",
        gather: log::picked,
        redact: Own,
    },
    Item {
        file: "server-log-end.txt",
        what: "the end of the server's log",
        gather: log::end,
        redact: Own,
    },
    Item {
        file: "kernel-messages.txt",
        what: "the kernel's messages about input and output, file systems, memory and processors",
        gather: kernel::messages,
        redact: Own,
    },
    Item {
        file: "journal.txt",
        what: "the journal of the server's service",
        gather: kernel::journal,
        redact: Own,
    },
    Item {
        file: "pg_stat_activity.csv",
        what: "the view of that name",
        gather: |m| asked(m, "pg_stat_activity.csv"),
        redact: Text,
    },
    Item {
        file: "pg_stat_replication.csv",
        what: "the view of that name",
        gather: |m| asked(m, "pg_stat_replication.csv"),
        redact: Text,
    },
    Item {
        file: "pg_languages.csv",
        what: "the procedural languages of the database that was connected to",
        gather: |m| asked(m, "pg_languages.csv"),
        redact: Text,
    },
    Item {
        file: "pg_extensions.csv",
        what: "the extensions of that database",
        gather: |m| asked(m, "pg_extensions.csv"),
        redact: Text,
    },
    Item {
        file: "pg_settings.csv",
        what: "the settings that are not the default",
        gather: |m| asked(m, "pg_settings.csv"),
        redact: Text,
    },
    Item {
        file: "pg_locks.csv",
        what: "the view of that name",
        gather: |m| asked(m, "pg_locks.csv"),
        redact: Text,
    },
    Item {
        file: "pg_blocking.csv",
        what: "who blocks whom, by pg_blocking_pids()",
        gather: |m| asked(m, "pg_blocking.csv"),
        redact: Text,
    },
];

fn not_stopped() -> String {
    "it was not stopped, so its stack is not known: assessment.txt says why".into()
}

/// A file of `/proc/PID`, as text.
fn proc_text(process: &Process, name: &str) -> io::Result<String> {
    let mut text = Vec::new();
    process
        .open_file(name)?
        .take(MOST_PROC)
        .read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn proc_file(m: &Material, name: &str) -> Result<String, String> {
    match proc_text(&m.process, name) {
        Ok(text) if text.is_empty() => Err(format!(
            "/proc/{}/{name} is empty{}",
            m.process.pid(),
            // What runs its own code has none.
            if name == "stack" {
                ": it was not in the kernel"
            } else {
                ""
            }
        )),
        Ok(text) if text.ends_with('\n') => Ok(text),
        Ok(text) => Ok(text + "\n"),
        Err(e) => Err(format!("/proc/{}/{name}: {e}", m.process.pid())),
    }
}

fn asked(m: &Material, file: &str) -> Result<String, String> {
    match m.dsn {
        None => Err("there was no --dsn to ask through".into()),
        Some(_) => m.answers().get(file),
    }
}

/// The command line of a process that has no title.
fn command_line(m: &Material, line: &[u8]) -> String {
    let words = line.split(|b| *b == 0).filter(|word| !word.is_empty());
    let words: Vec<_> = words.map(String::from_utf8_lossy).collect();
    redact::passwords(&match &m.redactor {
        Some(r) => r.command(words.iter().map(AsRef::as_ref)),
        None => words.join(" "),
    })
}

/// A file that is in the bundle.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "gathered_file", deny_unknown_fields)]
pub struct Gathered {
    /// Its name.
    pub name: String,
    /// How long it is.
    pub bytes: usize,
    /// What it is.
    #[schemars(length(min = 1))]
    pub what: String,
    /// There would have been more.
    pub cut_off: bool,
}

/// What is not in the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "missing_file", deny_unknown_fields)]
pub struct Missing {
    /// The file's name.
    pub name: String,
    /// Why it is not to be had.
    #[schemars(length(min = 1))]
    pub why: String,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// What is there.
    pub files: Vec<Gathered>,
    /// What is not.
    pub missing: Vec<Missing>,
    /// It was left off at somebody's word.
    pub ended_early: bool,
}

impl Contents {
    /// Enters what is not to be had.
    pub fn miss(&mut self, name: &str, why: &str) {
        self.missing.push(Missing {
            name: name.to_owned(),
            why: printable(why),
        });
    }
}

/// Gathers all items into the bundle. `go_on` is asked again and again, and `progress` told of each item before it is
/// gathered.
pub fn gather(
    material: &Arc<Material>,
    bundle: &mut Bundle,
    mut progress: impl FnMut(&Item),
    mut go_on: impl FnMut() -> bool,
) -> Contents {
    let mut contents = Contents::default();
    for item in &TABLE {
        let missing = |why: String| Missing {
            name: item.file.to_owned(),
            why,
        };
        contents.ended_early |= !go_on();
        if contents.ended_early {
            contents
                .missing
                .push(missing("pgpoke was asked to end".into()));
            continue;
        }
        progress(item);
        let theirs = Arc::clone(material);
        let answer = deadline::begin(move || {
            (item.gather)(&theirs).map(|text| finish(&theirs, item, &text))
        });
        let found = deadline::wait(&answer, ITEM_LIMIT, &mut go_on).unwrap_or_else(Err);
        match found {
            Ok(text) => match bundle.write(item.file, text.as_bytes()) {
                Ok(size) => contents.files.push(Gathered {
                    name: item.file.to_owned(),
                    bytes: size.bytes,
                    what: item.what.to_owned(),
                    cut_off: size.cut_off,
                }),
                Err(e) => contents
                    .missing
                    .push(missing(format!("it could not be written: {e}"))),
            },
            Err(why) => {
                let why = printable(&why);
                let why = material
                    .redactor
                    .as_ref()
                    .map_or(why.clone(), |r| r.message(&why));
                contents.missing.push(missing(why));
            }
        }
    }
    contents
}

/// Makes an item fit for a terminal, and for strangers if that was asked for.
fn finish(m: &Material, item: &Item, text: &str) -> String {
    let text = printable(text);
    match (&m.redactor, item.redact) {
        (Some(r), Text) => r.text(&text),
        _ => text,
    }
}

/// Text of more than one line, without what a terminal would obey.
fn printable(text: &str) -> String {
    let harmless = |c: char| match c {
        '\n' | '\t' => c,
        c if is_obeyed(c) => '\u{fffd}',
        c => c,
    };
    text.chars().map(harmless).collect()
}

/// Says what each file is, what was not to be had, and what to do with all of it.
pub fn readme(m: &Material, contents: &Contents, stopped_ms: f64, notes: &[String]) -> String {
    let mut out = String::new();
    let version = env!("CARGO_PKG_VERSION");
    let _ = writeln!(
        out,
        "Evidence of a PostgreSQL backend, gathered by pgpoke {version} at {}\n",
        timestamp(m.began, "-", ":")
    );
    let server = m
        .server_version
        .as_deref()
        .unwrap_or("of an unknown version");
    let _ = writeln!(
        out,
        "process   {}, PostgreSQL {}",
        m.process.pid(),
        printable(server)
    );
    if m.inner_pid != m.process.pid() {
        let _ = writeln!(
            out,
            "          {} inside its container, as pg_stat_activity shows it",
            m.inner_pid
        );
    }
    let _ = writeln!(out, "verdict   {}", m.spoken.verdict);
    let _ = writeln!(
        out,
        "          it stood still for {stopped_ms:.2} ms in all; nothing was changed in it"
    );
    if contents.ended_early {
        let _ = writeln!(
            out,
            "\nNOT COMPLETE: pgpoke was asked to end before all was gathered."
        );
    }
    let _ = match m.redactor {
        Some(_) => writeln!(out, "\nRedacted: {}.", redact::SAID),
        None => writeln!(
            out,
            "\nIt holds the text of statements, and with it literals, and names of hosts and addresses. Passwords that\nare called so, in settings and connection strings, were left out. Read it before you give it to anyone, or gather it\nwith --redact."
        ),
    };
    let _ = writeln!(out, "\nFiles\n");
    for file in &contents.files {
        let cut_off = if file.cut_off {
            " (cut off: it was too long)"
        } else {
            ""
        };
        let _ = writeln!(out, "  {:<26} {}{cut_off}", file.name, file.what);
    }
    if !contents.missing.is_empty() {
        let _ = writeln!(out, "\nNot to be had\n");
        for missing in &contents.missing {
            let _ = writeln!(
                out,
                "  {:<26} {}",
                missing.name,
                missing.why.replace('\n', " ")
            );
        }
    }
    for note in notes {
        let _ = writeln!(out, "\n{note}");
    }
    out
}

/// A moment in UTC, as `2026-11-25T13:45:07Z` with these two between the numbers.
pub fn timestamp(at: SystemTime, dash: &str, colon: &str) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March, so that the day that may be missing comes last; in eras of 400 of them, 146,097 days.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, year) = match month {
        0..=9 => (month + 3, year),
        _ => (month - 9, year + 1),
    };
    let year = era * 400 + year;
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    format!(
        "{year:04}{dash}{month:02}{dash}{day:02}T{hour:02}{colon}{minute:02}{colon}{second:02}Z"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_in_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_795_613_107, "2026-11-25T13:25:07Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            let at = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(timestamp(at, "-", ":"), text);
        }
    }

    #[test]
    fn no_file_twice_and_none_is_the_readme() {
        let mut names: Vec<&str> = TABLE.iter().map(|item| item.file).chain([README]).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
        for (file, ..) in dsn::QUESTIONS {
            assert!(names.contains(&file), "{file}");
        }
    }
}
