//! The only door to ptrace: seize a thread, stop it for a moment, read it, borrow a signal frame, let it go.
//!
//! Everything here rests on one property: **pgpoke may die between any two lines of it and the backend goes on.**
//! A seized thread whose tracer dies is let go by the kernel, and nothing that is done here leaves anything behind
//! that only pgpoke could undo: no breakpoint, no single-step, no saved registers in our memory. A function is
//! called through a signal frame that *the kernel* built and will itself take down again ([`Frame`]).
//!
//! Every wait has a deadline, and every stop has a budget ([`StopBudget`]) and a fuse: a second thread that ends pgpoke
//! when the budget is spent.

mod fuse;
pub mod threads;

use std::ops::Range;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::address::Avma;
use crate::arch::Processor;
use crate::arch::host::PROCESSOR;
pub use crate::arch::host::stopped::Registers;
use crate::memory::{Memory, Unreadable};
use crate::process::{Gone, Process};
use crate::sys::{self, HeldSignals, Priority, Resume, SignalInfo};
use fuse::Fuse;
pub use fuse::{StopBudget, Words};

/// The signal that a borrowed frame rides on: every backend catches it, its handler restarts system calls
/// (`SA_RESTART`, src/port/pqsignal.c), and one too many of it is harmless (procsignal_sigusr1_handler looks
/// at flags in shared memory; src/backend/storage/ipc/procsignal.c).
pub const CARRIER: i32 = libc::SIGUSR1;

/// How long we wait, when we let go, for a thread that runs to stop once more.
const LAST_STOP: Duration = Duration::from_millis(50);

/// How long a thread that could run may take for what is a matter of microseconds once it has a processor, such as to
/// stop, or the delivery of a signal, which is the first thing it does on its way out of the kernel. On a busy machine,
/// or in a control group whose quota is used up, it waits for its turn for long; it is not us that holds it then.
pub const TURN: Duration = Duration::from_secs(5);

/// `<linux/ptrace.h>`
const PTRACE_EVENT_STOP: i32 = 128;

/// Why a thread cannot be traced or does not stop.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The kernel refuses the attach.
    #[error("the kernel does not let us trace process {0}")]
    Denied(i32),
    /// The process ended.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// It did not stop before the deadline. Nothing was changed.
    #[error("process {pid} did not stop within {} ms", limit.as_millis())]
    WouldNotStop {
        /// The process.
        pid: i32,
        /// How long we waited.
        limit: Duration,
    },
    /// It could not be seized in time, which takes a frozen control group or the like. Nothing was changed.
    #[error("the kernel did not let us trace process {pid} within {} ms", limit.as_millis())]
    WouldNotBeSeized {
        /// The process.
        pid: i32,
        /// How long we waited.
        limit: Duration,
    },
    /// The budget of a stop was spent, and it was let go.
    #[error("process {pid} stood still for longer than {} ms, and was let go", limit.as_millis())]
    StoodStill {
        /// The process.
        pid: i32,
        /// The budget.
        limit: Duration,
    },
    /// The same, when a call was about to begin, or had begun.
    #[error(
        "process {pid} stood still for longer than {} ms, and was let go; the call that was to be made there may have begun, and then goes on",
        limit.as_millis()
    )]
    StoodStillInCall {
        /// The process.
        pid: i32,
        /// The budget.
        limit: Duration,
    },
    /// A signal asked pgpoke itself to end. The backend was let go, and nothing was done to it.
    #[error("ended by signal {0}; the backend was let go, and nothing was done to it")]
    AskedToEnd(i32),
    /// The same, after a call had begun.
    #[error("ended by signal {0}; the call had begun and goes on in the backend")]
    LeftAlone(i32),
    /// Something else that the kernel said. There is no conversion: see `TraceError::of_held`.
    #[error("ptrace: {0}")]
    Kernel(Errno),
}

impl TraceError {
    /// What the kernel's answer about a thread of process `pid` that we hold means: ESRCH that it was killed while we held
    /// it (ptrace_check_attach(), kernel/ptrace.c), ECHILD that it is no longer ours. Every call about one comes here.
    fn of_held(pid: i32, e: Errno) -> Self {
        match e {
            Errno::ESRCH | Errno::ECHILD => Gone(pid).into(),
            other => TraceError::Kernel(other),
        }
    }
}

/// What a traced thread was seen to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// It stopped because we asked.
    Interrupted,
    /// It is stopped by SIGSTOP or one of its kin, like the rest of its process.
    GroupStop,
    /// A signal is about to be delivered.
    Signal(SignalInfo),
    /// It enters or leaves a system call.
    Syscall,
}

/// What a wait was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waited {
    /// It has stopped, and lives.
    For(Event),
    /// It is about to exit, or has ended, with this status as wait(2) codes it.
    ItsEnd(i32),
}

/// Where we know the thread to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    /// Stopped; the signal (or 0) is what the kernel was about to deliver.
    Stopped {
        signal: i32,
        group_stop: bool,
    },
    /// Killed while it was held; it is on its way to its exit event, where it would stand until it is let go.
    Dying,
    /// Ended, or let go.
    Gone,
}

/// A seized thread. Dropping it lets the thread go, in whatever state it is.
#[derive(Debug)]
pub struct Tracee<'p> {
    process: &'p Process,
    state: State,
    fuse: Fuse,
    signals: HeldSignals,
    since: Option<Instant>,
    /// When it was last seen not to have stopped yet.
    ran: Instant,
    /// When it was seen to stand still.
    seen: Instant,
    stopped: Duration,
    letting_go: bool,
    _priority: Priority,
}

/// The pauses before it is tried again to seize what was denied: whoever else looks at it just now, as another pgpoke, lets
/// go of it in some milliseconds, and the kernel has no other word for that than for a missing right.
pub const BEFORE_NEXT_TRY: [Duration; 3] = [
    Duration::from_millis(10),
    Duration::from_millis(30),
    Duration::from_millis(60),
];

impl<'p> Tracee<'p> {
    /// Seizes the main thread of `process`, which does not stop it.
    ///
    /// The only option is TRACEEXIT, to learn how it ends. Never EXITKILL: our death must not be the backend's.
    pub fn seize(process: &'p Process, budget: &StopBudget) -> Result<Self, TraceError> {
        for pause in BEFORE_NEXT_TRY {
            match Self::seize_now(process, budget) {
                Err(TraceError::Denied(_)) => std::thread::sleep(pause),
                done => return done,
            }
        }
        Self::seize_now(process, budget)
    }

    fn seize_now(process: &'p Process, budget: &StopBudget) -> Result<Self, TraceError> {
        // The terminal's signals are held back: they end pgpoke between two steps, and Ctrl-Z suspends it only when
        // nothing is held any more.
        let signals = HeldSignals::hold(
            &[
                libc::SIGCHLD,
                libc::SIGINT,
                libc::SIGTERM,
                libc::SIGHUP,
                libc::SIGQUIT,
            ],
            &[libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU],
        );
        let priority = Priority::raise();
        // Seizing a stopped process waits for it to wake up in the kernel, which in a frozen control group
        // (`docker pause`) it never does: checkpoint-restore/criu#1905.
        let fuse = Fuse::light_for_seizing(process, budget).map_err(TraceError::Kernel)?;
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACEEXIT;
        let pid = process.pid();
        sys::seize(pid, options).map_err(|e| match e {
            // ENOSYS is what some seccomp filters, and gVisor, answer.
            Errno::EPERM | Errno::EACCES | Errno::ENOSYS => TraceError::Denied(pid),
            other => TraceError::of_held(pid, other),
        })?;
        fuse.light();
        fuse.is_seized();
        let tracee = Tracee {
            process,
            state: State::Running,
            fuse,
            signals,
            since: None,
            ran: Instant::now(),
            seen: Instant::now(),
            stopped: Duration::ZERO,
            letting_go: false,
            _priority: priority,
        };
        // From here on the PID cannot be given to another process; before, it could have been.
        if process.still_the_same() {
            Ok(tracee)
        } else {
            Err(Gone(pid).into())
        }
    }

    fn tid(&self) -> i32 {
        self.process.pid()
    }

    /// How long the thread has stood still in all, up to now: at most so long, as a stop counts from when the thread was
    /// last seen not to have stopped. That is a quarter of the budget before it was seen to stand still, or less. What
    /// it waited for a processor to stop on is not in it: it could not run then, whoever held it.
    pub fn stopped_for(&self) -> Duration {
        self.stopped + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// See [`Stopped::give_up_at`].
    fn give_up_at(&self) -> Instant {
        self.seen + self.fuse.budget() / 2
    }

    /// Stops the thread, waiting for it until `limit` has passed, and longer if it has no processor to stop on. Signals
    /// that come first are passed on.
    pub fn stop(&mut self, mut limit: Duration) -> Result<Stopped<'_, 'p>, TraceError> {
        let asked = Instant::now();
        sys::interrupt(self.tid()).map_err(|e| self.lost(e))?;
        loop {
            match self.wait(asked + limit)? {
                None if limit < TURN && self.process.state() == Some('R') => limit = TURN,
                None => {
                    return Err(TraceError::WouldNotStop {
                        pid: self.tid(),
                        limit,
                    });
                }
                Some(Event::Interrupted | Event::GroupStop) => {
                    self.since = Some(self.ran.max(asked));
                    return Ok(Stopped { tracee: self });
                }
                Some(Event::Signal(_) | Event::Syscall) => {
                    self.resume(Resume::Cont)?;
                }
            }
        }
    }

    /// Lets it run for about `pause`, passing on the signals that come, so that the next look at it is at
    /// another moment.
    pub fn let_run(&mut self, pause: Duration) -> Result<(), TraceError> {
        let until = Instant::now() + pause;
        while self.wait(until)?.is_some() {
            self.resume(Resume::Cont)?;
        }
        Ok(())
    }

    /// Waits for the next event of one that is to live on. None at the deadline.
    fn wait(&mut self, deadline: Instant) -> Result<Option<Event>, TraceError> {
        match self.wait_until_its_end(deadline)? {
            Some(Waited::For(event)) => Ok(Some(event)),
            Some(Waited::ItsEnd(_)) => Err(Gone(self.tid()).into()),
            None => Ok(None),
        }
    }

    /// Waits for the next event, its end among them. None at the deadline.
    fn wait_until_its_end(&mut self, deadline: Instant) -> Result<Option<Waited>, TraceError> {
        let step = self.fuse.step();
        loop {
            // What stops from here on is seen to within a step, or the fuse blows.
            self.fuse.light();
            let now = Instant::now();
            match sys::wait_now(self.tid()) {
                Ok(Some(status)) => return self.stopped_with(status).map(Some),
                Ok(None) => self.ran = now,
                Err(e) => return Err(self.lost(e)),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let pause = left.min(step);
            let signal = match self.letting_go {
                // Who is told to end while letting go does so afterwards.
                true => self.signals.take_child(pause),
                false => self.signals.take(pause),
            };
            match signal {
                None | Some(libc::SIGCHLD) => {}
                Some(signal) => return Err(TraceError::AskedToEnd(signal)),
            }
        }
    }

    /// Makes an event of a wait status, and notes that the thread stands still.
    fn stopped_with(&mut self, status: i32) -> Result<Waited, TraceError> {
        if !libc::WIFSTOPPED(status) {
            self.state = State::Gone;
            self.fuse.put_out();
            return Ok(Waited::ItsEnd(status));
        }
        self.seen = Instant::now();
        self.since = Some(self.seen);
        let signal = libc::WSTOPSIG(status);
        self.state = State::Stopped {
            signal: 0,
            group_stop: false,
        };
        Ok(Waited::For(match status >> 16 {
            PTRACE_EVENT_STOP if signal == libc::SIGTRAP => Event::Interrupted,
            PTRACE_EVENT_STOP => {
                self.state = State::Stopped {
                    signal: 0,
                    group_stop: true,
                };
                Event::GroupStop
            }
            libc::PTRACE_EVENT_EXIT => {
                let status = sys::event_message(self.tid()).map_err(|e| self.lost(e))?;
                return Ok(Waited::ItsEnd(status as i32));
            }
            _ if signal == libc::SIGTRAP | 0x80 => Event::Syscall,
            _ => {
                let info = sys::signal_info(self.tid()).map_err(|e| self.lost(e))?;
                self.state = State::Stopped {
                    signal,
                    group_stop: false,
                };
                Event::Signal(SignalInfo { signal, ..info })
            }
        }))
    }

    /// Lets the stopped thread go on, with the signal that it was about to get.
    fn resume(&mut self, how: Resume) -> Result<(), TraceError> {
        match self.state {
            // PTRACE_CONT would end the group-stop that an operator's SIGSTOP began.
            State::Stopped {
                group_stop: true, ..
            } => sys::listen(self.tid()),
            State::Stopped { signal, .. } => sys::resume(self.tid(), how, signal),
            State::Running | State::Dying | State::Gone => return Ok(()),
        }
        .map_err(|e| self.lost(e))?;
        self.runs();
        Ok(())
    }

    /// The same, but the signal that it was about to get is taken back.
    fn resume_without_signal(&mut self) -> Result<(), TraceError> {
        if let State::Stopped { signal, .. } = &mut self.state {
            *signal = 0;
        }
        self.resume(Resume::Cont)
    }

    fn runs(&mut self) {
        self.state = State::Running;
        self.fuse.light();
        if let Some(since) = self.since.take() {
            self.stopped += since.elapsed();
        }
    }

    /// Notes what became of it, too; see [`TraceError::of_held`].
    fn lost(&mut self, e: Errno) -> TraceError {
        match e {
            Errno::ESRCH => self.state = State::Dying,
            Errno::ECHILD => {
                self.state = State::Gone;
                self.fuse.put_out();
            }
            _ => {}
        }
        TraceError::of_held(self.tid(), e)
    }

    /// Lets the thread go for good.
    fn detach(&mut self) {
        self.letting_go = true;
        if self.state == State::Running {
            // Only a stopped thread can be detached. One that does not stop (state D) is let go by the kernel
            // when pgpoke exits; it was not changed. Should it stop before, the fuse sees to it. One that could run has not
            // had its turn yet: were it not waited for, it could not be seized again, since it would be traced already,
            // by us.
            let stopped = self.stop(LAST_STOP).map(Stopped::keep);
            if let Err(TraceError::WouldNotStop { .. }) = stopped
                && matches!(self.process.state(), Some('R' | 'S'))
            {
                let _ = self.stop(TURN).map(Stopped::keep);
            }
        }
        self.let_go();
        if self.state == State::Dying {
            self.see_off();
        }
        match self.state {
            State::Running | State::Dying => self.fuse.leave(),
            State::Stopped { .. } | State::Gone => {
                self.state = State::Gone;
                self.fuse.put_out();
            }
        }
    }

    /// Lets a thread go that stands still.
    fn let_go(&mut self) {
        if let State::Stopped { signal, .. } = self.state {
            let gone = sys::detach(self.tid(), signal);
            self.runs();
            self.state = match gone {
                Err(Errno::ESRCH) => State::Dying,
                _ => State::Gone,
            };
        }
    }

    /// A thread that was killed while it stood still runs on to its exit event as soon as it has a processor, and stands
    /// there until its tracer lets it go; one that has come past that is a zombie, which its parent is told of when its
    /// tracer has waited for it.
    fn see_off(&mut self) {
        let deadline = Instant::now() + TURN;
        while self.state == State::Dying && Instant::now() < deadline {
            // Killed once more, it is past the event before that can be asked about; the next wait is for its end.
            if let Ok(Some(_)) = self.wait_until_its_end(deadline) {
                self.let_go();
            }
        }
    }
}

impl Drop for Tracee<'_> {
    fn drop(&mut self) {
        self.detach();
    }
}

/// A thread that stands still. Dropping it lets the thread run on, still traced.
#[derive(Debug)]
pub struct Stopped<'t, 'p> {
    tracee: &'t mut Tracee<'p>,
}

/// Why a frame was not lent. The thread runs; nothing was changed but that it got one more SIGUSR1, or will.
#[derive(Debug, thiserror::Error)]
pub enum Declined {
    /// The thread was elsewhere when the signal came: another signal was faster. What was judged is no longer so.
    #[error("another signal was delivered first")]
    Moved,
    /// The handler runs on an alternate signal stack with too little room for a call: this many bytes.
    #[error("its SIGUSR1 handler runs on an alternate signal stack with only {0} bytes of room")]
    SmallStack(u64),
    /// The carrier was not delivered in time.
    #[error("SIGUSR1 was not delivered")]
    NotDelivered,
    /// The process was stopped by SIGSTOP or one of its kin in between.
    #[error("it was stopped by a signal in between")]
    GroupStopped,
    /// The frame could not be read back.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// Tracing failed.
    #[error(transparent)]
    Trace(#[from] TraceError),
}

impl<'p> Stopped<'_, 'p> {
    /// Keeps the thread stopped although this value ends, for a [`Tracee`] that is about to be dropped.
    pub fn keep(self) {
        std::mem::forget(self);
    }

    /// The general registers.
    pub fn registers(&self) -> Result<Registers, TraceError> {
        let tid = self.tracee.tid();
        // That it was killed is noted where it is let go.
        Registers::of(tid).map_err(|e| TraceError::of_held(tid, e))
    }

    /// The blocked signals, bit `n - 1` for signal `n`.
    pub fn signal_mask(&self) -> Result<u64, TraceError> {
        let tid = self.tracee.tid();
        sys::signal_mask(tid).map_err(|e| TraceError::of_held(tid, e))
    }

    /// Whether SIGSTOP or one of its kin has stopped it, and not only we.
    pub fn in_group_stop(&self) -> bool {
        matches!(
            self.tracee.state,
            State::Stopped {
                group_stop: true,
                ..
            }
        )
    }

    /// How long it has stood still in all, this stop included.
    pub fn stopped_for(&self) -> Duration {
        self.tracee.stopped_for()
    }

    /// When to leave off what cannot be finished in time: at half of the budget, so that there is time to let go.
    pub fn give_up_at(&self) -> Instant {
        self.tracee.give_up_at()
    }

    /// Borrows a signal frame at this very instruction.
    ///
    /// The carrier signal is sent to the thread, and the kernel builds the frame for its handler: registers,
    /// vector state, signal mask, red zone, and the decision whether an interrupted system call is restarted.
    /// If pgpoke dies in here, the handler runs as for any other SIGUSR1.
    ///
    /// `judged` are the registers at which a call was found to be safe; the frame is lent only if not one
    /// instruction ran since. Without them it is lent wherever the thread is. `memory` reads the process, and
    /// `least_room` is what an alternate signal stack must have left, in bytes.
    ///
    /// Preconditions, for the caller to check: the carrier is caught (else it would end the process) and not
    /// blocked, and the thread is not in a group-stop.
    pub fn borrow_frame(
        &mut self,
        judged: Option<&Registers>,
        memory: &dyn Memory,
        least_room: u64,
    ) -> Result<Frame<'_, 'p>, Declined> {
        let tracee = &mut *self.tracee;
        let tid = tracee.tid();
        // The mask that holds at the judged instruction. Later, inside the frame, the handler's own is in force.
        let mask = sys::signal_mask(tid).map_err(|e| tracee.lost(e))?;
        // Any value that no one else is likely to queue: an address of ours and our PID.
        let token = (&raw const *tracee as usize) ^ ((std::process::id() as usize) << 40);
        sys::queue_to_thread(tid, tid, CARRIER, token).map_err(|e| tracee.lost(e))?;
        tracee.resume(Resume::Cont)?;
        tracee.await_own_signal(token)?;

        let here = Registers::of(tid).map_err(|e| tracee.lost(e))?;
        if judged.is_some_and(|then| !here.same_place(then)) {
            tracee.resume_without_signal()?;
            return Err(Declined::Moved);
        }
        // The kernel builds the frame, and then takes the trap that was asked for, before anything else (get_signal(),
        // kernel/signal.c): on the handler's first instruction. A trap dies with its tracer. A single-step would not
        // everywhere: on AArch64 it stays armed in the handler, and kills a process whose tracer has died.
        sys::interrupt(tid).map_err(|e| tracee.lost(e))?;
        tracee.resume(Resume::Cont)?;
        match tracee.wait(Instant::now() + TURN)? {
            Some(Event::Interrupted) => {}
            Some(_) => {
                tracee.resume(Resume::Cont)?;
                return Err(Declined::Moved);
            }
            None => return Err(Declined::NotDelivered),
        }
        let entered = Registers::of(tid).map_err(|e| tracee.lost(e))?;
        match check_frame(&entered, &here, memory, least_room) {
            Ok(alternate) => Ok(Frame {
                tracee,
                entered,
                mask,
                alternate,
            }),
            Err(why) => {
                // Where there is hardly room for a call there may be none for the handler either. The signal is ours
                // alone, and nobody misses it: the frame is taken down at once.
                if let Declined::SmallStack(_) = why
                    && let Ok(back) = entered.ending_handler(memory)
                {
                    back.give(tid).map_err(|e| tracee.lost(e))?;
                }
                tracee.resume(Resume::Cont)?;
                Err(why)
            }
        }
    }
}

/// Whether the frame that the kernel built is the one we asked for: it saves the place that was judged. Says which
/// alternate signal stack it is on, if it is on one.
fn check_frame(
    entered: &Registers,
    interrupted: &Registers,
    memory: &dyn Memory,
    least_room: u64,
) -> Result<Option<Range<u64>>, Declined> {
    // Another trap may have come first, and used up the one that was asked for (ptrace(2)).
    if !entered.enters_handler(CARRIER) {
        return Err(Declined::Moved);
    }
    let frame = entered.signal_frame();
    let ip = memory.read_u64(frame.saved_ip())?;
    let sp = memory.read_u64(frame.saved_sp())?;
    let in_call = interrupted.syscall().is_some();
    let same_place = PROCESSOR.saves(Avma(ip), interrupted.ip(), in_call, memory);
    if sp != interrupted.sp().0 || !same_place {
        return Err(Declined::Moved);
    }
    let stack = memory.read_u64(frame.alternate_stack())?;
    let size = memory.read_u64(frame.alternate_stack().offset(16))?;
    let room = entered.sp().0.wrapping_sub(stack);
    if size == 0 || room >= size {
        return Ok(None);
    }
    if room < least_room {
        return Err(Declined::SmallStack(room));
    }
    Ok(Some(stack..stack.saturating_add(size)))
}

impl Tracee<'_> {
    /// Waits for the delivery of the carrier that we queued with `token`, passing on whatever comes first.
    fn await_own_signal(&mut self, token: usize) -> Result<(), Declined> {
        let deadline = Instant::now() + TURN;
        loop {
            match self.wait(deadline)? {
                Some(Event::Signal(info))
                    if info.signal == CARRIER
                        && info.code == libc::SI_QUEUE
                        && info.value == token =>
                {
                    return Ok(());
                }
                Some(Event::GroupStop) => {
                    self.resume(Resume::Cont)?;
                    return Err(Declined::GroupStopped);
                }
                Some(_) => self.resume(Resume::Cont)?,
                None => return Err(Declined::NotDelivered),
            }
        }
    }
}

impl Drop for Stopped<'_, '_> {
    fn drop(&mut self) {
        let _ = self.tracee.resume(Resume::Cont);
    }
}

/// A borrowed signal frame: the thread stands on the first instruction of its SIGUSR1 handler, above it a frame
/// that the kernel will take down when the handler, or what is called in its place, returns.
#[derive(Debug)]
pub struct Frame<'s, 'p> {
    tracee: &'s mut Tracee<'p>,
    entered: Registers,
    mask: u64,
    /// The alternate signal stack that the frame is on, if it is on one.
    alternate: Option<Range<u64>>,
}

impl<'s, 'p> Frame<'s, 'p> {
    /// How much room is left below the frame, in bytes, if it is on an alternate signal stack.
    pub fn alternate_room(&self) -> Option<u64> {
        Some(self.entered.sp().0 - self.alternate.as_ref()?.start)
    }

    /// What happens from here on has consequences: should the fuse blow, it says that a call may have begun.
    pub fn is_for_good(&self) {
        self.tracee.fuse.has_consequences();
    }

    /// A place of 128 bytes in the frame that a call may write to: the siginfo, which only the handler
    /// that does not run would read.
    pub fn scratch(&self) -> Avma {
        self.entered.signal_frame().siginfo
    }

    /// Makes the thread call `function(args…)` in place of the handler, with the signal mask from before the
    /// signal: a `siglongjmp` to a PG_TRY block (`sigsetjmp` with 0) does not restore it.
    pub fn call(self, function: Avma, args: [u64; 5]) -> Result<Call<'s, 'p>, TraceError> {
        let tid = self.tracee.tid();
        // In this order: dying between the two leaves the handler itself to run, unblocked.
        sys::set_signal_mask(tid, self.mask).map_err(|e| self.tracee.lost(e))?;
        let calling = self.entered.calling(function, args);
        calling.give(tid).map_err(|e| self.tracee.lost(e))?;
        Ok(Call {
            after_return: self.entered.after_handler(),
            alternate: self.alternate,
            tracee: self.tracee,
        })
    }
}

/// A call in a borrowed frame, about to start.
#[derive(Debug)]
pub struct Call<'s, 'p> {
    tracee: &'s mut Tracee<'p>,
    /// The stack pointer once the function has returned. While the call runs it is never higher, and everything that
    /// the interrupted code has on the stack lies above.
    after_return: Avma,
    /// The alternate signal stack that the call runs on, if it runs on one.
    alternate: Option<Range<u64>>,
}

/// How a call in a borrowed frame ended, by what was seen and not by what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallEnd {
    /// It came back; the kernel is about to restore the interrupted state.
    Returned,
    /// It jumped out (siglongjmp): the stack pointer is above the borrowed frame.
    Jumped,
    /// The process is about to exit, with this status as wait(2) codes it.
    Exiting(i32),
    /// The deadline passed; the call goes on.
    StillRunning,
}

/// The longest pauses between two looks at a call that makes no system call and gets no signal.
const LOOK_AGAIN: [Duration; 4] = [
    Duration::from_millis(20),
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
];

impl Call<'_, '_> {
    /// Lets the call run and watches it until it ends or `limit` has passed. Signals are passed on.
    ///
    /// After [`CallEnd::Returned`] and [`CallEnd::Jumped`] the thread stands still, so that the caller can look at it.
    pub fn watch(self, limit: Duration) -> Result<CallEnd, TraceError> {
        let deadline = Instant::now() + limit;
        let mut pauses = LOOK_AGAIN.iter();
        let mut pause = LOOK_AGAIN[0];
        loop {
            self.tracee.resume(Resume::Syscall)?;
            let look_at = deadline.min(Instant::now() + pause);
            let event = self
                .tracee
                .wait_until_its_end(look_at)
                .map_err(|e| match e {
                    TraceError::AskedToEnd(signal) => TraceError::LeftAlone(signal),
                    other => other,
                })?;
            match event {
                None if Instant::now() >= deadline => return Ok(CallEnd::StillRunning),
                None => {
                    // A call that was left by a jump to a loop without system calls shows only when asked.
                    pause = pauses.next().copied().unwrap_or(pause);
                    let tid = self.tracee.tid();
                    sys::interrupt(tid).map_err(|e| self.tracee.lost(e))?;
                }
                Some(Waited::ItsEnd(status)) => return Ok(CallEnd::Exiting(status)),
                Some(Waited::For(Event::GroupStop | Event::Signal(_))) => {}
                Some(Waited::For(Event::Syscall | Event::Interrupted)) => {
                    let tid = self.tracee.tid();
                    let regs = Registers::of(tid).map_err(|e| self.tracee.lost(e))?;
                    if regs.enters_sigreturn() && regs.sp() == self.after_return {
                        return Ok(CallEnd::Returned);
                    }
                    let inside = self
                        .alternate
                        .as_ref()
                        .is_some_and(|s| s.contains(&regs.sp().0));
                    if regs.sp() > self.after_return && !inside {
                        return Ok(CallEnd::Jumped);
                    }
                }
            }
        }
    }
}

/// Writes `value` to the four bytes at `addr` of a thread that stands still.
///
/// The word around them is read and written back; no one else writes there meanwhile, as both kinds of data that
/// pgpoke ever writes (`errno`, and the flags that PostgreSQL's own signal handlers set) are the stopped thread's own.
fn write_u32(tid: i32, memory: &dyn Memory, addr: Avma, value: u32) -> Result<(), Declined> {
    let aligned = Avma(addr.0 & !7);
    let shift = (addr.0 - aligned.0) * 8;
    if shift > 32 {
        return Err(Unreadable(addr).into());
    }
    let word = memory.read_u64(aligned)?;
    let word = word & !(0xffff_ffff << shift) | u64::from(value) << shift;
    sys::poke(tid, aligned.0, word).map_err(|e| TraceError::of_held(tid, e))?;
    Ok(())
}

impl Stopped<'_, '_> {
    /// Puts back `errno`, which a call that returned may have changed, as a signal handler would.
    pub fn put_back_errno(
        &self,
        memory: &dyn Memory,
        errno: Avma,
        value: u32,
    ) -> Result<(), Declined> {
        write_u32(self.tracee.tid(), memory, errno, value)
    }
}

impl Frame<'_, '_> {
    /// Sets one of the variables that PostgreSQL's own signal handlers set (`volatile sig_atomic_t` and an enum, 4
    /// bytes each).
    pub fn set_variable(&self, memory: &dyn Memory, at: Avma, value: u32) -> Result<(), Declined> {
        write_u32(self.tracee.tid(), memory, at, value)
    }
}
