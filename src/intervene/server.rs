//! Whether the postmaster went through crash recovery, seen from outside: it then ends all its children.

use std::time::{Duration, Instant};

use crate::postgres::Postmaster;
use crate::process::Process;

/// A postmaster and its auxiliary processes, which only end when the server stops or restarts.
#[derive(Debug)]
pub struct ServerWatch {
    postmaster: Option<Process>,
    auxiliaries: Vec<Process>,
}

/// The processes that a running server always has, by their titles; they live as long as it does.
const LASTING: [&[u8]; 2] = [b"checkpointer", b"background writer"];

impl ServerWatch {
    /// How long a postmaster is given to notice that a child has ended.
    pub const TIME_TO_NOTICE: Duration = Duration::from_millis(50);

    /// Notes who is there.
    pub fn new(postmaster: Postmaster) -> Self {
        let Postmaster::Running(pid) = postmaster else {
            return ServerWatch {
                postmaster: None,
                auxiliaries: Vec::new(),
            };
        };
        let postmaster = Process::open(pid).ok();
        let children = postmaster.as_ref().map(Process::children);
        let auxiliaries = children
            .unwrap_or_default()
            .into_iter()
            .filter_map(|child| Process::open(child).ok())
            .filter(|p| p.stat().is_ok_and(|s| s.ppid == pid) && is_lasting(p))
            .collect();
        ServerWatch {
            postmaster,
            auxiliaries,
        }
    }

    /// Whether the server went, or within `limit` goes, through crash recovery. None where it cannot be told.
    ///
    /// After a crash the postmaster tells all its children to quit as soon as it notices (HandleChildCrash(),
    /// src/backend/postmaster/postmaster.c).
    pub fn restarted(&self, limit: Duration) -> Option<bool> {
        let postmaster = self.postmaster.as_ref()?;
        let deadline = Instant::now() + limit;
        loop {
            if postmaster.has_ended() || self.auxiliaries.iter().any(Process::has_ended) {
                return Some(true);
            }
            if Instant::now() >= deadline {
                return (!self.auxiliaries.is_empty()).then_some(false);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn is_lasting(process: &Process) -> bool {
    let title = process.command_line().unwrap_or_default();
    LASTING
        .iter()
        .any(|name| memchr::memmem::find(&title, name).is_some())
}
