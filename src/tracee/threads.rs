//! All threads of a process, standing still at once.
//!
//! The main thread stops first and goes on last, so that its budget and its fuse cover the stop of every other.

use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::errno::Errno;

use super::{PTRACE_EVENT_STOP, Registers, State, StopBudget, TraceError, Tracee};
use crate::process::{Gone, Process};
use crate::sys;

/// The most threads that are stopped; the others are named as absent.
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

/// Why a thread did not stand still with the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Absent {
    /// It is in an uninterruptible call, or had no turn on a processor.
    #[error("it did not stop in time")]
    RanOn,
    /// Somebody else traces it: the process or thread of this number.
    #[error("process {0} traces it")]
    Traced(i32),
    /// Nobody was seen to trace it, and the kernel does not let us do so.
    #[error("the kernel does not let us trace it")]
    Denied,
    /// There are more threads than are stopped.
    #[error("there are more than {MOST_THREADS} threads")]
    TooMany,
}

/// What came of a standstill.
#[derive(Debug)]
pub struct Stood<T> {
    /// What was seen.
    pub seen: T,
    /// For how long the threads stood still at most.
    pub at_most: Duration,
    /// The threads that did not, and live.
    pub absent: Vec<(i32, Absent)>,
}

/// Stops every thread of `process`, looks, and lets all of them go.
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
) -> Result<Stood<T>, TraceError> {
    let mut job = Some(|| {
        let standstill = Standstill::begin(process, budget, limit, for_others)?;
        let seen = look(&standstill);
        let (at_most, absent) = standstill.end();
        Ok(Stood {
            seen,
            at_most,
            absent,
        })
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

/// A process of which every thread stands still, but those that are [`Absent`]. Dropping it lets all go.
#[derive(Debug)]
pub struct Standstill<'p> {
    // In this order they are let go.
    others: Vec<Other>,
    main: Tracee<'p>,
    process: &'p Process,
    tasks: Dir,
    /// Those that the kernel did not let us seize.
    refused: Vec<i32>,
    /// There were more than we take.
    too_many: bool,
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
                Some(other) => not_listed(process.pid(), Errno::from_raw(other)),
                None => TraceError::Denied(process.pid()),
            })?;
        let mut all = Standstill {
            others: Vec::new(),
            main: Tracee::seize(process, budget)?,
            process,
            tasks: Dir::from_fd(OwnedFd::from(tasks)).map_err(TraceError::Kernel)?,
            refused: Vec::new(),
            too_many: false,
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

    /// Seizes the threads that are not yet; says whether there were any. Who was refused is tried again: another pgpoke's
    /// look takes some milliseconds.
    fn seize_new_ones(&mut self) -> Result<bool, TraceError> {
        let before = self.others.len();
        let pid = self.main.tid();
        self.refused.clear();
        for entry in self.tasks.iter() {
            let entry = entry.map_err(|e| not_listed(pid, e))?;
            let Some(tid) = tid_of(&entry) else {
                continue;
            };
            if tid == pid || self.others.iter().any(|o| o.tid == tid) {
                continue;
            }
            if self.others.len() + self.refused.len() >= MOST_THREADS {
                self.too_many = true;
                continue;
            }
            let state = match sys::seize(tid, 0) {
                Ok(()) => State::Running,
                // It has ended since.
                Err(Errno::ESRCH) => State::Gone,
                // It is just ending, or somebody else traces it (ptrace_attach(), kernel/ptrace.c): that is told apart
                // when nothing stands still any more.
                Err(Errno::EPERM | Errno::EACCES) => {
                    self.refused.push(tid);
                    continue;
                }
                Err(e) => return Err(TraceError::of_held(pid, e)),
            };
            self.others.push(Other { tid, state });
        }
        Ok(self.others.len() > before)
    }

    /// Asks all of them to stop, and waits for it.
    fn stop_others(&mut self, deadline: Instant) -> Result<(), TraceError> {
        let pid = self.main.tid();
        for other in self.others.iter_mut().filter(|o| o.state == State::Running) {
            match sys::interrupt(other.tid) {
                Err(Errno::ESRCH) => other.state = State::Gone,
                result => result.map_err(|e| TraceError::of_held(pid, e))?,
            }
        }
        loop {
            let mut running = false;
            for other in self.others.iter_mut().filter(|o| o.state == State::Running) {
                other.look().map_err(TraceError::Kernel)?;
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

    /// The general registers of a thread.
    pub fn registers(&self, tid: i32) -> Result<Registers, TraceError> {
        Registers::of(tid).map_err(|e| self.lost(e))
    }

    /// A register set of a thread as core files have it; see [`sys::register_set`].
    pub fn register_set(&self, tid: i32, kind: u32, buf: &mut [u8]) -> Result<usize, TraceError> {
        sys::register_set(tid, kind, buf).map_err(|e| self.lost(e))
    }

    /// The signals that a thread blocks, bit `n - 1` for signal `n`.
    pub fn signal_mask(&self, tid: i32) -> Result<u64, TraceError> {
        sys::signal_mask(tid).map_err(|e| self.lost(e))
    }

    /// A thread of a process ends alone only in the ordinary way, and then it runs: what was killed is all of it.
    fn lost(&self, e: Errno) -> TraceError {
        TraceError::of_held(self.main.tid(), e)
    }

    /// When to leave off what cannot be finished in time.
    pub fn give_up_at(&self) -> Instant {
        self.main.give_up_at()
    }

    /// Lets all go; says for how long they stood still at most, and who did not, and why.
    fn end(mut self) -> (Duration, Vec<(i32, Absent)>) {
        let running = self.others.iter().filter(|o| o.state == State::Running);
        let mut absent: Vec<_> = running.map(|o| (o.tid, Absent::RanOn)).collect();
        let known: Vec<i32> = self.others.drain(..).map(|o| o.tid).collect();
        self.main.detach();
        // From here on files may be opened.
        let refused = self.refused.iter().copied();
        absent.extend(refused.filter_map(|tid| Some((tid, why_refused(self.process, tid)?))));
        if self.too_many {
            let all = self.tasks.iter().flatten().filter_map(|e| tid_of(&e));
            let beyond = all.filter(|tid| {
                *tid != self.process.pid() && !known.contains(tid) && !self.refused.contains(tid)
            });
            absent.extend(beyond.map(|tid| (tid, Absent::TooMany)));
        }
        (self.main.stopped_for(), absent)
    }
}

fn tid_of(entry: &nix::dir::Entry) -> Option<i32> {
    entry.file_name().to_str().ok()?.parse().ok()
}

/// Why the list of a process's threads cannot be had: once it has ended there is none (proc_task_readdir(),
/// fs/proc/base.c).
fn not_listed(pid: i32, e: Errno) -> TraceError {
    match e {
        Errno::ENOENT => Gone(pid).into(),
        other => TraceError::of_held(pid, other),
    }
}

/// Why a thread could not be seized. None if it has ended since.
fn why_refused(process: &Process, tid: i32) -> Option<Absent> {
    let status = process.status_of_thread(tid).ok()?;
    match status.tracerpid {
        _ if status.state.starts_with(['Z', 'X']) => None,
        0 => Some(Absent::Denied),
        // Where no thread of our own can be had, one that did not stop before is still ours.
        tracer if tracer == std::process::id() as i32 => Some(Absent::RanOn),
        tracer => Some(Absent::Traced(tracer)),
    }
}

impl Other {
    /// Whether it has stopped since, or ended. Never waits.
    fn look(&mut self) -> Result<(), Errno> {
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
            Err(e) => return Err(e),
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
