//! Background workers: what one registered as, and whom parallel workers work for.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::versions::background_worker as entry;
use super::{Backend, Postmaster, siblings};
use crate::process::Process;

/// What the title of a parallel worker begins with (LaunchParallelWorkers(), src/backend/access/transam/parallel.c).
const PARALLEL: &str = "parallel worker for PID ";

/// What a background worker registered as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// `bgw_name`
    pub name: String,
    /// `bgw_type`
    pub kind: String,
    /// What the postmaster does when it has exited with status 1.
    pub restart: Restart,
}

/// What the postmaster does with a background worker that exited with status 1 (CleanupBackgroundWorker() and
/// bgworker_should_start_now() in src/backend/postmaster/postmaster.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Restart {
    /// `BGW_NEVER_RESTART`: it forgets it.
    Never,
    /// It starts it again after so many seconds.
    After(u32),
}

impl Worker {
    /// Reads the entry that `MyBgworkerEntry` points to. It is believed only where the process has its name as its title,
    /// and each of its fields is one that the server lets pass.
    pub fn of(backend: &Backend) -> Option<Self> {
        let memory = backend.memory;
        let at = siblings::pointer(memory, backend.globals.get("MyBgworkerEntry")?)?;
        let mut bytes = [0; entry::SIZE];
        memory.read(at, &mut bytes).ok()?;
        Self::parse(&bytes).filter(|w| backend.title.text.starts_with(&w.name))
    }

    fn parse(bytes: &[u8; entry::SIZE]) -> Option<Self> {
        let text = |from: usize, to: usize| {
            let field = &bytes[from..to];
            let end = field.iter().position(|b| *b == 0)?;
            let text = std::str::from_utf8(&field[..end]).ok()?;
            (!text.is_empty()).then(|| text.to_owned())
        };
        let seconds = bytes[entry::RESTART_TIME..].first_chunk()?;
        let restart = match i32::from_ne_bytes(*seconds) {
            -1 => Restart::Never,
            n @ 0..=entry::LONGEST_RESTART => Restart::After(n as u32),
            _ => return None,
        };
        // The type's field ends where it is followed by `bgw_flags`, 96 bytes on.
        Some(Worker {
            name: text(entry::NAME, entry::KIND)?,
            kind: text(entry::KIND, 2 * entry::KIND)?,
            restart,
        })
    }
}

/// The leader of a parallel worker, by its PID as the server knows it.
pub fn parallel_leader(title: &str) -> Option<i32> {
    let pid = title.strip_prefix(PARALLEL)?;
    let pid = pid.split(' ').next()?.parse().ok()?;
    (pid > 0).then_some(pid)
}

/// The PIDs of the parallel workers that work for `backend`, by their titles, and that of the process that the server
/// knows as `leader`, both in our PID namespace.
pub fn parallel_workers(backend: &Backend, leader: Option<i32>) -> (Vec<i32>, Option<i32>) {
    /// The most processes that are looked at, and for how long.
    const MOST: usize = 5000;
    const LONGEST: Duration = Duration::from_millis(500);
    let Postmaster::Running(postmaster) = backend.postmaster else {
        return (Vec::new(), None);
    };
    let start = Instant::now();
    let children = Process::open(postmaster).map_or_else(|_| Vec::new(), |p| p.children());
    let ours = format!("{PARALLEL}{}", backend.inner_pid);
    let (mut workers, mut found) = (Vec::new(), None);
    let in_time = children
        .into_iter()
        .take(MOST)
        .take_while(|_| start.elapsed() < LONGEST);
    for process in in_time.filter_map(|pid| Process::open(pid).ok()) {
        let title = process.command_line().unwrap_or_default();
        let title = String::from_utf8_lossy(&title);
        // Before it there may be the cluster's name; behind it are blanks.
        if title.trim_end_matches(['\0', ' ']).ends_with(&ours) {
            workers.push(process.pid());
        }
        if leader.is_some() && process.inner_pid().ok() == leader {
            found = Some(process.pid());
        }
    }
    (workers, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered(name: &str, kind: &str, restart: i32) -> [u8; entry::SIZE] {
        let mut bytes = [0; entry::SIZE];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        bytes[96..96 + kind.len()].copy_from_slice(kind.as_bytes());
        bytes[200..].copy_from_slice(&restart.to_ne_bytes());
        bytes
    }

    #[test]
    fn what_a_worker_registered_as() {
        let launcher = registered(
            "logical replication launcher",
            "logical replication launcher",
            5,
        );
        let worker = Worker::parse(&launcher).unwrap();
        assert_eq!(worker.name, "logical replication launcher");
        assert_eq!(worker.kind, "logical replication launcher");
        assert_eq!(worker.restart, Restart::After(5));
        let never = Worker::parse(&registered("a", "b", -1)).unwrap();
        assert_eq!(never.restart, Restart::Never);
    }

    #[test]
    fn what_no_server_lets_pass_is_not_believed() {
        for restart in [-2, i32::MIN, i32::MAX, entry::LONGEST_RESTART + 1] {
            assert_eq!(Worker::parse(&registered("a", "b", restart)), None);
        }
        assert_eq!(Worker::parse(&registered("", "b", 1)), None);
        assert_eq!(Worker::parse(&registered("a", "", 1)), None);
        let endless = "x".repeat(96);
        assert_eq!(Worker::parse(&registered(&endless, "b", 1)), None);
        assert_eq!(Worker::parse(&[0xff; entry::SIZE]), None);
    }

    #[test]
    fn leaders_by_title() {
        assert_eq!(parallel_leader("parallel worker for PID 4711"), Some(4711));
        assert_eq!(parallel_leader("parallel worker for PID 7 "), Some(7));
        for title in [
            "parallel worker for PID",
            "parallel worker for PID x",
            "parallel worker for PID -3",
            "postgres shop [local] SELECT",
        ] {
            assert_eq!(parallel_leader(title), None, "{title}");
        }
    }
}
