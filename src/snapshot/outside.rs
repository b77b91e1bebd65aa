//! What `/proc` gives to anyone, of a process that we may not look into.
//!
//! Nothing of it is proved: a title is what a process writes about itself.

use std::time::{Duration, Instant};

use super::{BackendFacts, CarrierStack, Locks, ProcessFacts, Signals, Snapshot, Variables, look};
use crate::postgres::{BackendType, Title};
use crate::process::{Process, container, printable};

/// For how long it is watched, to tell whether it computes.
const WATCHED_FOR: Duration = Duration::from_millis(100);

/// The most of a command line that is told.
const LONGEST_COMMAND: usize = 500;

/// What can be told of `process` without any right over it; none where it is gone.
pub fn from_outside(process: &Process) -> Option<Snapshot> {
    let status = process.status().ok()?;
    let server = Server::of(process);
    let title = process
        .command_line()
        .ok()
        .and_then(|line| Title::parse(&line, &server.cluster_name))
        .unwrap_or_default();
    let inner = process.inner_pid().ok().filter(|p| *p != process.pid());
    Some(Snapshot {
        pid: process.pid(),
        backend: BackendFacts {
            backend_type: BackendType::Unknown,
            server_version: None,
            version_known: false,
            memory_contexts_named: false,
            subtransaction_end: None,
            model_objection: None,
            data_directory: process.working_directory().ok(),
            database: title.database,
            user: title.user,
            client: title.client,
            application_name: None,
            activity: None,
            statement_start: None,
            transaction_start: None,
            worker: None,
            parallel_leader: None,
            parallel_workers: None,
            receiver: None,
            stream: None,
            query: None,
            title: title.text,
            container: inner.and_then(|_| container::id(process)),
            pid_in_container: inner,
            postmaster_pid: server.postmaster,
            server_stopping: None,
            postmaster_command: server.command,
        },
        process: ProcessFacts {
            cpu_percent: share_of_cpu(process),
            ..look(process)
        },
        variables: Variables::default(),
        wait_event: None,
        signals: Signals {
            blocked: Some(status.sigblk),
            pending: Some(status.sigpnd | status.shdpnd),
            caught: Some(status.sigcgt),
            ignored: Some(status.sigign),
            handlers: None,
            carrier_stack: CarrierStack::default(),
            sent: None,
        },
        stack: None,
        locks: Locks::default(),
        stopped_ms: 0.0,
        swallowed: None,
        samples: Vec::new(),
        warnings: Vec::new(),
        replaced_files: Vec::new(),
    })
}

/// The server that a process seems to belong to.
#[derive(Default)]
struct Server {
    postmaster: Option<i32>,
    command: Option<String>,
    cluster_name: String,
}

impl Server {
    /// By its parent, if that was started as a server is.
    fn of(process: &Process) -> Self {
        Self::known(process).unwrap_or_default()
    }

    fn known(process: &Process) -> Option<Self> {
        let parent = Process::open(process.stat().ok()?.ppid).ok()?;
        let line = parent.command_line().ok()?;
        let words: Vec<String> = line
            .split(|b| *b == 0)
            .filter(|word| !word.is_empty())
            .map(|word| printable(&String::from_utf8_lossy(word)))
            .collect();
        let program = words.first()?.rsplit('/').next()?;
        if !matches!(program, "postgres" | "postmaster" | "edb-postgres") {
            return None;
        }
        Some(Server {
            postmaster: Some(parent.pid()),
            command: Some(words.join(" ").chars().take(LONGEST_COMMAND).collect()),
            cluster_name: cluster_name(&parent).unwrap_or_default(),
        })
    }
}

/// The server's `cluster_name`, which stands in all its titles, by the one title that is known word for word.
fn cluster_name(postmaster: &Process) -> Option<String> {
    let mut titles = postmaster.children().into_iter().filter_map(|pid| {
        let line = Process::open(pid).ok()?.command_line().ok()?;
        Some(Title::parse(&line, "")?.text)
    });
    titles.find_map(|title| {
        let name = title.strip_suffix("checkpointer")?;
        name.strip_suffix(": ").map(str::to_owned)
    })
}

/// The share of one processor that it uses, in percent.
fn share_of_cpu(process: &Process) -> Option<f64> {
    let (start, before) = (Instant::now(), process.cpu_time()?);
    std::thread::sleep(WATCHED_FOR);
    let used = process.cpu_time()?.saturating_sub(before);
    let share = used.as_secs_f64() / start.elapsed().as_secs_f64();
    Some((share * 100.0).min(100.0).round())
}
