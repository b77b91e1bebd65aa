//! The other processes of a backend's server, found and read without stopping any.

use std::time::{Duration, Instant};

use super::{Backend, Postmaster};
use crate::address::Avma;
use crate::memory::{Memory, ProcessMemory};
use crate::process::Process;

/// The most processes that are looked at, and for how long.
const MOST: usize = 5000;
const LONGEST: Duration = Duration::from_millis(500);

/// One process of the server.
#[derive(Debug)]
pub struct Sibling {
    /// Its PID in our PID namespace.
    pub pid: i32,
    /// Its PID as the server knows it.
    pub inner_pid: i32,
    /// Its memory. It forked from the postmaster and executed nothing since, so that its static variables are where
    /// the backend's are.
    pub memory: ProcessMemory,
}

impl Sibling {
    /// Whether it is ending: what it held it has given back.
    pub fn has_ended(&self, backend: &Backend) -> bool {
        is_none_of_the_server(self.pid, backend)
    }
}

/// The processes of a backend's server, itself among them.
#[derive(Debug)]
pub struct Siblings {
    /// Those that could be read.
    pub all: Vec<Sibling>,
    /// How many could not be read, or were too many.
    pub unread: usize,
}

impl Siblings {
    /// The children of the backend's postmaster that have the server's variables where the backend has them.
    pub fn of(backend: &Backend) -> Self {
        let start = Instant::now();
        let mut found = Siblings {
            all: Vec::new(),
            unread: 0,
        };
        let translated = backend.inner_pid != backend.target.pid();
        for pid in pids(backend) {
            if found.all.len() >= MOST || start.elapsed() > LONGEST {
                found.unread += 1;
                continue;
            }
            let inner_pid = if translated {
                Process::open(pid).ok().and_then(|p| p.inner_pid().ok())
            } else {
                Some(pid)
            };
            let Some(inner_pid) = inner_pid else {
                continue; // It has ended.
            };
            let memory = ProcessMemory::open(pid);
            let my_pid = backend.globals.get("MyProcPid");
            match my_pid.and_then(|at| memory.read_u32(at).ok()) {
                Some(n) if n == inner_pid as u32 => found.all.push(Sibling {
                    pid,
                    inner_pid,
                    memory,
                }),
                // A program that the server runs: of the server's memory nothing is left in it.
                Some(_) => {}
                None if is_none_of_the_server(pid, backend) => {}
                None => found.unread += 1,
            }
        }
        found
    }

    /// The PID in our namespace of the process that the server knows as `inner_pid`.
    pub fn pid_of(&self, inner_pid: i32) -> Option<i32> {
        let sibling = self.all.iter().find(|s| s.inner_pid == inner_pid);
        sibling.map(|s| s.pid)
    }
}

/// The PIDs of the server's other processes, and how many more there are than are looked at. Nothing of them is read: some
/// may be programs that the server runs.
pub fn others(backend: &Backend) -> (Vec<i32>, usize) {
    let mut pids = pids(backend);
    pids.retain(|pid| *pid != backend.target.pid());
    let unread = pids.len().saturating_sub(MOST);
    pids.truncate(MOST);
    (pids, unread)
}

fn pids(backend: &Backend) -> Vec<i32> {
    let mut pids = match backend.postmaster {
        Postmaster::Running(pid) => {
            Process::open(pid).map_or_else(|_| Vec::new(), |p| p.children())
        }
        Postmaster::Gone => Vec::new(),
    };
    pids.extend(backend.living().map(Process::pid));
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Whether nothing of the server is in the process: it runs another executable, or is ending.
fn is_none_of_the_server(pid: i32, backend: &Backend) -> bool {
    use std::os::unix::fs::MetadataExt;
    let file = |process: &Process| {
        let file = process.executable()?;
        file.metadata().map(|m| (m.dev(), m.ino()))
    };
    let (process, ours) = match (Process::open(pid), backend.living().map(file)) {
        (Ok(process), Some(Ok(ours))) => (process, ours),
        (Err(_), _) => return true,
        (_, None | Some(Err(_))) => return false,
    };
    match file(&process) {
        Ok(theirs) => theirs != ours,
        // What has given back its memory has no executable any more.
        Err(e) => e.kind() != std::io::ErrorKind::PermissionDenied,
    }
}

/// The pointer at `at`, unless it is null or cannot be read.
pub(super) fn pointer(memory: &dyn Memory, at: Avma) -> Option<Avma> {
    let value = memory.read_u64(at).ok()?;
    (value != 0).then_some(Avma(value))
}
