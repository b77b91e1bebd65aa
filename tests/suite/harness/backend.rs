//! What /proc tells about a backend, read without pgpoke's own code: a test must not trust what it
//! tests.

use std::fs;
use std::time::Duration;

use super::wait_for;

/// A process, known by its PID and its start time, so that a recycled PID is never mistaken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The process ID.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
}

/// The fields of /proc/PID/stat from the third on: the second, the name, may contain anything.
fn stat(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

impl Backend {
    /// The process that has this PID now, if any.
    pub fn open(pid: i32) -> Option<Self> {
        let start_time = stat(pid)?.get(22 - 3)?.parse().ok()?;
        Some(Self { pid, start_time })
    }

    /// Still this process, and not yet a zombie?
    pub fn is_alive(&self) -> bool {
        Self::open(self.pid) == Some(*self) && !matches!(self.state(), None | Some('Z' | 'X'))
    }

    /// `R`, `S`, `D`, `T` (stopped), `t` (stopped by a tracer), `Z`, …
    pub fn state(&self) -> Option<char> {
        stat(self.pid)?.first()?.chars().next()
    }

    /// CPU time used, in clock ticks (10 ms on every usual machine).
    pub fn cpu_ticks(&self) -> u64 {
        let field = |n: usize| stat(self.pid)?.get(n - 3)?.parse::<u64>().ok();
        field(14).unwrap_or(0) + field(15).unwrap_or(0)
    }

    /// CPU time used, exactly (the scheduler's own count, Documentation/scheduler/sched-stats.rst).
    pub fn cpu_time(&self) -> Duration {
        let stats = fs::read_to_string(format!("/proc/{}/schedstat", self.pid)).ok();
        let spent = stats.and_then(|stats| stats.split_whitespace().next()?.parse().ok());
        Duration::from_nanos(spent.unwrap_or(0))
    }

    /// A field of /proc/PID/status, without its unit or white space.
    pub fn status(&self, field: &str) -> Option<String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        Some(line.trim().to_owned())
    }

    /// The tracer's PID, or 0.
    pub fn tracer_pid(&self) -> i32 {
        self.status("TracerPid")
            .and_then(|pid| pid.parse().ok())
            .unwrap_or(0)
    }

    /// The system call it is blocked in; None while it runs, or is stopped outside one.
    pub fn syscall(&self) -> Option<i64> {
        let line = fs::read_to_string(format!("/proc/{}/syscall", self.pid)).ok()?;
        line.split_whitespace()
            .next()?
            .parse()
            .ok()
            .filter(|number| *number >= 0)
    }

    /// Has the signal been sent, and not yet been delivered?
    pub fn is_pending(&self, signal: i32) -> bool {
        self.has_signal("SigPnd", signal) || self.has_signal("ShdPnd", signal)
    }

    /// Does the main thread block the signal?
    pub fn is_blocked(&self, signal: i32) -> bool {
        self.has_signal("SigBlk", signal)
    }

    /// Does the process ignore the signal?
    pub fn is_ignored(&self, signal: i32) -> bool {
        self.has_signal("SigIgn", signal)
    }

    /// Does the process have a handler for the signal?
    pub fn is_caught(&self, signal: i32) -> bool {
        self.has_signal("SigCgt", signal)
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn send(&self, signal: i32) {
        // SAFETY: kill takes any numbers; the process is one that the test started.
        assert_eq!(unsafe { libc::kill(self.pid, signal) }, 0, "{self:?}");
    }

    /// Alive, not stopped, and nobody's tracee: what it must be after pgpoke is done with it, or
    /// has been killed.
    #[track_caller]
    pub fn assert_running_untraced(&self) {
        wait_for(
            Duration::from_secs(5),
            &format!("{self:?} shall run, untraced; it is {:?}", self.state()),
            || {
                assert!(self.is_alive(), "{self:?} is gone");
                (self.tracer_pid() == 0 && !matches!(self.state(), Some('T' | 't'))).then_some(())
            },
        );
    }

    fn has_signal(&self, set: &str, signal: i32) -> bool {
        let set = self
            .status(set)
            .and_then(|set| u64::from_str_radix(&set, 16).ok())
            .unwrap_or(0);
        set & (1 << (signal - 1)) != 0
    }
}
