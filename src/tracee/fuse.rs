//! The budget of a stop, and what sees to it whatever the thread that holds the backend is doing.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;

use super::TraceError;
use crate::process::Process;
use crate::sys;

/// What pgpoke writes when it lets everything go at once, and its exit code then: bytes, since nothing can be put together
/// any more.
#[derive(Debug)]
pub struct Words {
    /// For standard output.
    pub stdout: Vec<u8>,
    /// For standard error.
    pub stderr: Vec<u8>,
    /// The exit code.
    pub exit_code: u8,
}

impl Words {
    /// Writes them, as far as that can be done without waiting for anybody to read, and ends this process on the spot.
    pub fn say_and_end(&self) -> ! {
        sys::write_what_it_takes(std::io::stderr().as_fd(), &self.stderr);
        sys::write_what_it_takes(std::io::stdout().as_fd(), &self.stdout);
        sys::exit_now(self.exit_code.into())
    }
}

impl Default for Words {
    /// Nothing to say. The exit code is the one that pgpoke's commands have then; `cli/exit.rs` holds it to that.
    fn default() -> Self {
        Words {
            stdout: Vec::new(),
            stderr: Vec::new(),
            exit_code: 8,
        }
    }
}

/// How long a backend may stand still in one stop, and what pgpoke says if that was not enough.
#[derive(Debug, Clone)]
pub struct StopBudget {
    most: Duration,
    words: Arc<[Words; 4]>,
}

/// What pgpoke is about, which makes the difference in what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Seizing,
    Looking,
    Calling,
    /// It would not stop, so that it could not be let go either; the answer may be on its way out.
    Left,
    /// There is nothing to watch any more.
    Removed,
}

impl StopBudget {
    /// The budget unless the operator says otherwise.
    pub const USUAL: Duration = Duration::from_millis(50);

    /// So long, and not longer; then pgpoke exits, having said of process `pid` what `words` makes of the error.
    pub fn new(pid: i32, most: Duration, words: impl Fn(TraceError) -> Words) -> Self {
        let limit = most;
        let stood_still = || words(TraceError::StoodStill { pid, limit });
        StopBudget {
            most,
            // In the order of the phases.
            words: Arc::new([
                words(TraceError::WouldNotBeSeized { pid, limit }),
                stood_still(),
                words(TraceError::StoodStillInCall { pid, limit }),
                // Nothing on stdout: what belongs there may have been written already.
                Words {
                    stdout: Vec::new(),
                    ..stood_still()
                },
            ]),
        }
    }

    /// How long that is.
    pub fn most(&self) -> Duration {
        self.most
    }
}

impl Default for StopBudget {
    /// The usual one, with nothing to say.
    fn default() -> Self {
        StopBudget::new(0, Self::USUAL, |_| Words::default())
    }
}

/// Lets go of a backend that we hold for too long, whatever the thread that holds it is doing.
///
/// A second thread sleeps on a timer, which the first sets anew each time it has looked at a backend that runs. When
/// it goes off and the backend stands still, pgpoke exits on the spot, and the kernel lets go of the backend. This
/// also works when the holding thread hangs in the kernel, for example in a page fault that waits for a dead disk;
/// exiting kills it there, which a mere signal handler could not.
///
/// Behind that, at twice the budget (or 50 ms more), is a timer of the kernel's that kills pgpoke without a word: for a pgpoke that was
/// itself stopped (SIGSTOP), or whose second thread hangs, too. It is the only one, and at the budget itself, where no
/// thread can be had (a seccomp filter that answers clone3(2) with EPERM instead of ENOSYS keeps glibc from starting
/// any: Docker before 20.10.10).
#[derive(Debug)]
pub(super) struct Fuse {
    watched: Arc<Watched>,
    /// When the deadly timer goes off.
    last: Duration,
    /// There is no second thread.
    alone: bool,
}

/// What the second thread may take at least, on a busy machine, before the kernel's timer does its work.
const TURN_OF_SECOND: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct Watched {
    budget: StopBudget,
    timer: sys::Timer,
    /// None where the kernel has no more to give (RLIMIT_SIGPENDING).
    deadly: Option<sys::DeadlyTimer>,
    phase: AtomicU8,
    /// `/proc/PID/stat`
    stat: Option<File>,
    /// How long the deadly timer has, or zero where it is out. Whoever sets that timer holds this.
    lit_for: Mutex<Duration>,
}

impl Fuse {
    /// Lights it for the attach itself.
    pub(super) fn light_for_seizing(process: &Process, budget: &StopBudget) -> Result<Self, Errno> {
        let deadly = sys::DeadlyTimer::new();
        let no_timer = deadly.as_ref().err().copied();
        let watched = Arc::new(Watched {
            budget: budget.clone(),
            timer: sys::Timer::new()?,
            deadly: deadly.ok(),
            phase: AtomicU8::new(Phase::Seizing as u8),
            stat: process.open_file("stat").ok(),
            lit_for: Mutex::new(Duration::ZERO),
        });
        let thread = std::thread::Builder::new().stack_size(64 << 10).spawn({
            let watched = Arc::clone(&watched);
            move || watched.watch()
        });
        let fuse = match (thread, no_timer) {
            (Ok(_), _) => Fuse {
                watched,
                last: budget.most + budget.most.max(TURN_OF_SECOND),
                alone: false,
            },
            (Err(_), None) => Fuse {
                watched,
                last: budget.most,
                alone: true,
            },
            (Err(_), Some(e)) => return Err(e),
        };
        fuse.light();
        Ok(fuse)
    }

    pub(super) fn budget(&self) -> Duration {
        self.watched.budget.most
    }

    /// The longest pause between two looks at a backend that runs, so that the time it has stood still when it is seen
    /// to is small against the budget.
    pub(super) fn step(&self) -> Duration {
        self.budget() / 4
    }

    /// From now on the budget runs.
    pub(super) fn light(&self) {
        self.set(self.budget(), self.last);
    }

    pub(super) fn put_out(&self) {
        self.set(Duration::ZERO, Duration::ZERO);
    }

    fn set(&self, after: Duration, last: Duration) {
        self.watched.timer.set(after);
        let mut lit_for = self
            .watched
            .lit_for
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *lit_for = last;
        if let Some(deadly) = &self.watched.deadly {
            deadly.set(last);
        }
    }

    pub(super) fn is_seized(&self) {
        self.enter(Phase::Looking);
    }

    pub(super) fn has_consequences(&self) {
        self.enter(Phase::Calling);
    }

    /// Leaves a backend that does not stop to the second thread: should it stop yet, pgpoke ends there and then.
    pub(super) fn leave(&self) {
        /// Enough to say what there is to say, where nobody watches it.
        const TO_SAY: Duration = Duration::from_secs(1);
        self.enter(Phase::Left);
        let last = if self.alone { TO_SAY } else { Duration::ZERO };
        self.set(self.budget(), last);
    }

    fn enter(&self, phase: Phase) {
        self.watched.phase.store(phase as u8, Ordering::Release);
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        if !self.watched.is(Phase::Left) {
            self.enter(Phase::Removed);
            self.set(Duration::from_nanos(1), Duration::ZERO);
        }
    }
}

impl Watched {
    fn is(&self, phase: Phase) -> bool {
        self.phase.load(Ordering::Acquire) == phase as u8
    }

    fn watch(&self) {
        loop {
            self.timer.wait();
            if self.is(Phase::Removed) {
                return;
            }
            // It may have been the first thread that had no turn on a busy machine, and the backend runs.
            let spent = self.is(Phase::Seizing) || self.stands_still();
            if spent && self.timer.went_off() && !self.is(Phase::Removed) {
                self.blow();
            }
            if !spent {
                self.spare();
            }
            std::thread::sleep(self.budget.most / 4);
        }
    }

    /// The backend runs: the kernel's own timer, which does not know that, begins anew.
    fn spare(&self) {
        let lit_for = self.lit_for.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(deadly), false) = (&self.deadly, lit_for.is_zero()) {
            deadly.set(*lit_for);
        }
    }

    /// Whether a tracer, which nobody can be but us, has stopped it, or keeps its end from its parent. Where that cannot
    /// be told, it is taken to be so.
    fn stands_still(&self) -> bool {
        let mut text = [0; 128];
        let read = self
            .stat
            .as_ref()
            .and_then(|f| f.read_at(&mut text, 0).ok());
        let text = &text[..read.unwrap_or(0)];
        // The name before it has at most 15 bytes, of any kind.
        let name_end = text.iter().rposition(|b| *b == b')');
        name_end
            .and_then(|end| text.get(end + 2))
            .is_none_or(|state| *state == b't' || (*state == b'Z' && self.is(Phase::Left)))
    }

    /// Lets everything go, now. Whoever reads what we write must not delay it.
    fn blow(&self) -> ! {
        /// The kernel's own file systems take no longer than that for a line; a dead one may take for ever.
        const TO_WRITE: Duration = Duration::from_millis(25);
        if let Some(deadly) = &self.deadly {
            deadly.set(TO_WRITE);
        }
        let phase = usize::from(self.phase.load(Ordering::Acquire));
        // There are words for each phase in which the fuse can blow.
        let words = self.budget.words.get(phase);
        words.unwrap_or(&self.budget.words[0]).say_and_end()
    }
}
