//! All threads of a process, standing still at once.
//!
//! The main thread stops first and goes on last, so that its budget and its fuse cover the stop of every other.

use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::errno::Errno;

use super::{PTRACE_EVENT_STOP, Registers, State, StopBudget, TraceError, Tracee, sys};
use crate::process::Process;

/// The most threads that are stopped; the others are named as missing.
const MOST_THREADS: usize = 4096;

/// How long to wait at most until it is looked again which threads have stopped: each tells us by a SIGCHLD, but some
/// other thread of ours may be the one that is told.
const STEP: Duration = Duration::from_millis(1);

/// For how long the others are waited for once the main thread stands still. One in state D does not stop, and the look
/// shall have its time all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForOthers {
    /// An eighth of the budget.
    Patient,
    /// A hundredth of it.
    Hasty,
}

impl ForOthers {
    fn of(self, budget: Duration) -> Duration {
        match self {
            ForOthers::Patient => budget / 8,
            ForOthers::Hasty => budget / 100,
        }
    }
}

/// Stops every thread of `process`, looks, and lets all of them go; says for how long they stood still at most.
///
/// On a thread of our own that ends with it: when a tracer's thread ends, the kernel lets go of all that it has seized,
/// also of those that could not be stopped and so not be let go in the ordinary way (`exit_ptrace()`,
/// kernel/ptrace.c).
pub fn stand_still<T: Send>(
    process: &Process,
    budget: &StopBudget,
    limit: Duration,
    for_others: ForOthers,
    look: impl FnOnce(&Standstill<'_>) -> T + Send,
) -> Result<(T, Duration), TraceError> {
    let mut job = Some(|| {
        let standstill = Standstill::begin(process, budget, limit, for_others)?;
        let seen = look(&standstill);
        Ok((seen, standstill.end()))
    });
    let mut once = || job.take().map(|job| job());
    let done = thread::scope(|scope| {
        let spawned = thread::Builder::new().spawn_scoped(scope, &mut once);
        Some(spawned.ok()?.join())
    });
    let done = match done {
        Some(Ok(done)) => done,
        Some(Err(panic)) => std::panic::resume_unwind(panic),
        // Where no thread can be had, here; then what could not be let go is so when pgpoke ends.
        None => once(),
    };
    // It was taken once, by whoever ran.
    done.unwrap_or(Err(TraceError::Kernel(Errno::EAGAIN)))
}

/// A process of which every thread stands still, but those in [`Standstill::missing`]. Dropping it lets all go.
#[derive(Debug)]
pub struct Standstill<'p> {
    // In this order they are let go.
    others: Vec<Other>,
    main: Tracee<'p>,
    tasks: Dir,
}

/// A thread that is not the main one.
#[derive(Debug)]
struct Other {
    tid: i32,
    state: State,
}

impl<'p> Standstill<'p> {
    fn begin(
        process: &'p Process,
        budget: &StopBudget,
        limit: Duration,
        for_others: ForOthers,
    ) -> Result<Self, TraceError> {
        let tasks = process
            .open_file("task")
            .map_err(|e| match e.raw_os_error() {
                Some(libc::ENOENT) => TraceError::Gone(process.pid()),
                Some(other) => TraceError::Kernel(Errno::from_raw(other)),
                None => TraceError::Denied(process.pid()),
            })?;
        let mut all = Standstill {
            others: Vec::new(),
            main: Tracee::seize(process, budget)?,
            tasks: Dir::from_fd(OwnedFd::from(tasks))?,
        };
        // While they run, as far as that goes.
        all.seize_new_ones()?;
        all.main.stop(limit)?.keep();
        let deadline = all.main.seen + for_others.of(all.main.fuse.budget());
        loop {
            all.stop_others(deadline)?;
            // What still ran could start more.
            if !all.seize_new_ones()? {
                return Ok(all);
            }
        }
    }

    /// Seizes the threads that are not yet; says whether there were any.
    fn seize_new_ones(&mut self) -> Result<bool, TraceError> {
        let before = self.others.len();
        let pid = self.main.tid();
        for entry in self.tasks.iter() {
            let Some(tid) = entry?
                .file_name()
                .to_str()
                .ok()
                .and_then(|n| n.parse().ok())
            else {
                continue;
            };
            let known = tid == pid || self.others.iter().any(|o| o.tid == tid);
            if known || self.others.len() >= MOST_THREADS {
                continue;
            }
            let state = match sys::seize(tid, 0) {
                Ok(()) => State::Running,
                // ESRCH: it has ended since. EPERM: it is just ending (ptrace_attach(), kernel/ptrace.c), as we may
                // trace its kin.
                Err(Errno::ESRCH | Errno::EPERM) => State::Gone,
                Err(e) => return Err(e.into()),
            };
            self.others.push(Other { tid, state });
        }
        Ok(self.others.len() > before)
    }

    /// Asks all of them to stop, and waits for it.
    fn stop_others(&mut self, deadline: Instant) -> Result<(), TraceError> {
        for other in self.others.iter_mut().filter(|o| o.state == State::Running) {
            match sys::interrupt(other.tid) {
                Err(Errno::ESRCH) => other.state = State::Gone,
                result => result?,
            }
        }
        loop {
            let mut running = false;
            for other in self.others.iter_mut().filter(|o| o.state == State::Running) {
                other.look()?;
                running |= other.state == State::Running;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !running || left.is_zero() {
                return Ok(());
            }
            match self.main.signals.take(left.min(STEP)) {
                None | Some(libc::SIGCHLD) => {}
                Some(signal) => return Err(TraceError::AskedToEnd(signal)),
            }
        }
    }

    /// The threads that stand still, the main one first.
    pub fn threads(&self) -> impl Iterator<Item = i32> {
        let stopped = |o: &&Other| matches!(o.state, State::Stopped { .. });
        std::iter::once(self.main.tid()).chain(self.others.iter().filter(stopped).map(|o| o.tid))
    }

    /// The threads that did not stop in time.
    pub fn missing(&self) -> Vec<i32> {
        let running = self.others.iter().filter(|o| o.state == State::Running);
        running.map(|o| o.tid).collect()
    }

    /// The general registers of a thread.
    pub fn registers(&self, tid: i32) -> Result<Registers, TraceError> {
        Ok(Registers(sys::registers(tid)?))
    }

    /// A register set of a thread as core files have it; see [`sys::register_set`].
    pub fn register_set(&self, tid: i32, kind: u32, buf: &mut [u8]) -> Result<usize, TraceError> {
        Ok(sys::register_set(tid, kind, buf)?)
    }

    /// The signals that a thread blocks, bit `n - 1` for signal `n`.
    pub fn signal_mask(&self, tid: i32) -> Result<u64, TraceError> {
        Ok(sys::signal_mask(tid)?)
    }

    /// When to leave off what cannot be finished in time.
    pub fn give_up_at(&self) -> Instant {
        self.main.give_up_at()
    }

    /// Lets all go; says for how long they stood still at most.
    fn end(mut self) -> Duration {
        self.others.clear();
        self.main.detach();
        self.main.stopped_for()
    }
}

impl Other {
    /// Whether it has stopped since, or ended. Never waits.
    fn look(&mut self) -> Result<(), TraceError> {
        self.state = match sys::wait_now(self.tid) {
            Ok(None) => return Ok(()),
            Ok(Some(status)) if libc::WIFSTOPPED(status) => {
                let signal = libc::WSTOPSIG(status);
                let event = status >> 16 == PTRACE_EVENT_STOP;
                State::Stopped {
                    // What is about to be delivered is delivered when it is let go.
                    signal: if event { 0 } else { signal },
                    group_stop: event && signal != libc::SIGTRAP,
                }
            }
            Ok(Some(_)) | Err(Errno::ESRCH | Errno::ECHILD) => State::Gone,
            Err(e) => return Err(e.into()),
        };
        Ok(())
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // One that runs cannot be detached; it is let go when this thread ends.
        if let State::Stopped { signal, .. } = self.state {
            let _ = sys::detach(self.tid, signal);
        }
    }
}
