//! Whether the server runs on, was stopped as somebody wanted it to be, or went through crash recovery, seen from outside.

use std::time::{Duration, Instant};

use crate::postgres::{
    Backend, ClusterState, DataFiles, Lasting, Postmaster, PostmasterStatus, lasting,
};
use crate::process::Process;

/// What became of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It runs on.
    RunsOn,
    /// It runs, and is being stopped, as somebody asked of it.
    BeingStopped,
    /// It was stopped in good order: its shutdown checkpoint is written.
    Stopped,
    /// Its postmaster has ended; whether in good order could not be told.
    Ended,
    /// Its postmaster has ended without a shutdown checkpoint: by a crash, or an immediate shutdown.
    EndedAbruptly,
    /// It has thrown out all sessions, and goes through crash recovery.
    Recovers,
    /// It could not be told.
    Unknown,
}

impl Fate {
    /// Whether it went, or at its next start will go, through crash recovery.
    pub fn restarted(self) -> Option<bool> {
        match self {
            Fate::RunsOn | Fate::BeingStopped | Fate::Stopped => Some(false),
            Fate::EndedAbruptly | Fate::Recovers => Some(true),
            Fate::Ended | Fate::Unknown => None,
        }
    }

    /// Whether it runs no more.
    pub fn stopped(self) -> Option<bool> {
        match self {
            Fate::RunsOn | Fate::BeingStopped | Fate::Recovers => Some(false),
            Fate::Stopped | Fate::Ended | Fate::EndedAbruptly => Some(true),
            Fate::Unknown => None,
        }
    }
}

/// A postmaster, and those of its processes that only end when the server stops or goes through crash recovery.
#[derive(Debug)]
pub struct ServerWatch {
    postmaster: Option<Process>,
    witnesses: Vec<Process>,
    files: Option<DataFiles>,
}

impl ServerWatch {
    /// How long a postmaster is given to notice that a child has ended.
    pub const TIME_TO_NOTICE: Duration = Duration::from_millis(50);

    /// How long one that is being stopped is given to come to its end, once nobody keeps it any more.
    const TIME_TO_STOP: Duration = Duration::from_secs(2);

    /// How much longer it is waited for where the postmaster is at work all the time.
    const TIME_TO_REST: Duration = Duration::from_secs(2);

    /// Notes who is there.
    pub fn new(backend: &Backend) -> Self {
        let postmaster = match backend.postmaster {
            Postmaster::Running(pid) => Process::open(pid).ok(),
            Postmaster::Gone => None,
        };
        let Some(postmaster) = postmaster else {
            return ServerWatch {
                postmaster: None,
                witnesses: Vec::new(),
                files: None,
            };
        };
        let of_kind: Vec<(Lasting, Process)> = postmaster
            .children()
            .into_iter()
            .filter_map(|child| Process::open(child).ok())
            .filter(|p| p.stat().is_ok_and(|s| s.ppid == postmaster.pid()))
            .filter_map(|p| Some((lasting(backend, &p)?, p)))
            .collect();
        let surely = of_kind.iter().any(|(kind, _)| *kind == Lasting::Surely);
        let witnesses = of_kind
            .into_iter()
            .filter(|(kind, _)| !surely || *kind == Lasting::Surely)
            .map(|(_, process)| process)
            .collect();
        let inner = postmaster.inner_pid().ok();
        ServerWatch {
            files: inner.and_then(|pid| DataFiles::of(&postmaster, pid)),
            witnesses,
            postmaster: Some(postmaster),
        }
    }

    /// What became of the server, or becomes of it within `limit`. Where it is being stopped, its end is waited for a little
    /// longer; and the time does not run while the postmaster is at work, as it is while it deals with the end of a child.
    ///
    /// After a crash the postmaster tells all its children to quit as soon as it notices (HandleChildCrash(),
    /// src/backend/postmaster/postmaster.c).
    pub fn fate(&self, limit: Duration) -> Fate {
        let Some(postmaster) = &self.postmaster else {
            return Fate::Unknown;
        };
        let stopping = self.is_stopping();
        let limit = match stopping && !limit.is_zero() {
            true => limit.max(Self::TIME_TO_STOP),
            false => limit,
        };
        let mut deadline = Instant::now() + limit;
        let latest = match limit.is_zero() {
            true => deadline,
            false => deadline + Self::TIME_TO_REST,
        };
        let mut at_rest = false;
        loop {
            if !at_rest && postmaster.state() == Some('S') {
                at_rest = true;
                deadline = latest.min(Instant::now() + limit);
            }
            if postmaster.has_ended() {
                return match self.files.as_ref().and_then(DataFiles::cluster) {
                    Some(ClusterState::ShutDown) => Fate::Stopped,
                    Some(ClusterState::Other) => Fate::EndedAbruptly,
                    None => Fate::Ended,
                };
            }
            if self.witnesses_have_ended() && !self.is_shut_down() {
                // It may have come to its end in between.
                if !postmaster.has_ended() {
                    return Fate::Recovers;
                }
                continue;
            }
            if Instant::now() >= if at_rest { deadline } else { latest } {
                return match (self.is_stopping(), self.witnesses.is_empty()) {
                    (true, _) => Fate::BeingStopped,
                    (false, true) => Fate::Unknown,
                    (false, false) => Fate::RunsOn,
                };
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether somebody has told it to stop.
    fn is_stopping(&self) -> bool {
        let status = self.files.as_ref().and_then(DataFiles::status);
        status == Some(PostmasterStatus::Stopping)
    }

    fn witnesses_have_ended(&self) -> bool {
        !self.witnesses.is_empty() && self.witnesses.iter().all(Process::has_ended)
    }

    /// Whether the shutdown checkpoint is written: up to 17 the checkpointer then ends before the postmaster does.
    fn is_shut_down(&self) -> bool {
        let cluster = self.files.as_ref().and_then(DataFiles::cluster);
        cluster == Some(ClusterState::ShutDown)
    }
}
