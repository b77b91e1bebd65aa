//! Looks at a backend: one, or several, each with a stop where that can work and may be done.

use std::time::{Duration, Instant};

use super::{Plan, Snapshot};
use crate::arch::host::stopped::Registers;
use crate::postgres::{Backend, BackendType, NotABackend, Postmaster};
use crate::process::Gone;
use crate::tracee::{Declined, StopBudget, TraceError, Tracee};

/// How long a backend may take to stop when asked to.
pub const STOP_LIMIT: Duration = Duration::from_secs(1);

/// The pause between two samples: long against a stop, short against a person's patience.
pub const BETWEEN_SAMPLES: Duration = Duration::from_millis(10);

/// Why there is no look.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// Tracing failed.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The kernel does not let us stop it. What can be told all the same was seen without.
    #[error("no permission to look into process {}", .0.pid)]
    Denied(Box<Snapshot>),
    /// It executes another program by now, or cannot be looked into any more.
    #[error(transparent)]
    NotABackend(#[from] NotABackend),
}

impl LookError {
    /// Whether a signal asked pgpoke to end.
    pub fn asked_to_end(&self) -> bool {
        matches!(self, LookError::Trace(TraceError::AskedToEnd(_)))
    }

    /// Whether the kernel does not let us in, whatever we were about to do.
    pub fn is_denied(&self) -> bool {
        match self {
            LookError::Denied(_) | LookError::Trace(TraceError::Denied(_)) => true,
            LookError::NotABackend(e) => matches!(e, NotABackend::Denied(_)),
            LookError::Trace(_) => false,
        }
    }
}

/// What looks leave open, and further ones may tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Whether it lets interrupts go again. Variables tell, which are read without a stop.
    DoesItLetGo,
    /// Where it is when it does: only a look with a stack shows what can be done there.
    WhereItLetsGo,
    /// Which of two functions it is that loops: only stacks tell.
    WhoLoops,
    /// Whether it leaves the place that is objected to: only stacks tell.
    DoesItLeave,
}

/// Who judges looks; [`crate::assess::looks::JUDGE`] does.
#[derive(Debug, Clone, Copy)]
pub struct Judge {
    /// What further looks may tell of the cause, if anything.
    pub question: fn(&Snapshot) -> Option<Question>,
    /// Whether a further look (first) shows more of what can be done than the present one.
    pub is_better: fn(&Snapshot, &Snapshot) -> bool,
}

/// Several looks at one backend.
pub struct Looks {
    /// Run nothing in the backend.
    pub passive: bool,
    /// How many.
    pub samples: u32,
    /// The pause between two.
    pub pause: Duration,
    /// Whether there are a few more where one cannot tell.
    pub more: bool,
    /// Who judges them.
    pub judge: Judge,
}

/// At most so many more with a stop, and in so much time.
const MORE: usize = 8;
const TIME_FOR_MORE: Duration = Duration::from_millis(300);

/// So many glances without a stop, with such a pause before each, tell whether something that lasts a millisecond or less
/// comes to an end in between.
const GLANCES: usize = 100;
const BETWEEN_GLANCES: Duration = Duration::from_millis(1);

impl Looks {
    /// One, or a few where one cannot tell.
    pub fn one_or_a_few(judge: Judge) -> Self {
        Looks {
            passive: false,
            samples: 1,
            pause: BETWEEN_SAMPLES,
            more: true,
            judge,
        }
    }

    /// Takes them, and shows each to `each`. What comes back is the first, with what the others add to it, and the
    /// registers at the first.
    pub fn take(
        &self,
        plan: &Plan,
        budget: &StopBudget,
        mut each: impl FnMut(&Snapshot),
    ) -> Result<(Snapshot, Option<Registers>), LookError> {
        let process = plan.living()?;
        let (mut snapshot, mut registers) = take_with_registers(plan, self.passive, budget)?;
        each(&snapshot);
        // Processor time is exact right after a stop, so it is measured from the first to the last.
        let since = (Instant::now(), process.cpu_time());
        // It is let go when it wakes, and not before; until then it cannot be asked to stop once more.
        let samples = match snapshot.process.would_not_stop {
            true => 1,
            false => self.samples,
        };
        for _ in 1..samples {
            std::thread::sleep(self.pause);
            let again = take_with_registers(plan, true, budget)?;
            each(&again.0);
            self.add(&mut snapshot, &mut registers, again);
        }
        if self.more && self.samples == 1 {
            self.ask_more(plan, budget, &mut snapshot, &mut registers, each)?;
        }
        if let (2.., Some(before), Some(after)) = (samples, since.1, process.cpu_time()) {
            let used = after.saturating_sub(before).as_secs_f64();
            let share = used / since.0.elapsed().as_secs_f64();
            snapshot.process.cpu_percent = Some((share * 100.0).min(100.0).round());
        }
        Ok((snapshot, registers))
    }
}

impl Looks {
    /// A few more, where one cannot tell, and they may.
    fn ask_more(
        &self,
        plan: &Plan,
        budget: &StopBudget,
        snapshot: &mut Snapshot,
        registers: &mut Option<Registers>,
        mut each: impl FnMut(&Snapshot),
    ) -> Result<(), LookError> {
        if (self.judge.question)(snapshot) == Some(Question::DoesItLetGo) {
            for _ in 0..GLANCES {
                std::thread::sleep(BETWEEN_GLANCES);
                let glance = plan.glance();
                let lets_go = glance.held_off() == Some(false);
                snapshot.samples.push(glance);
                if lets_go {
                    break;
                }
            }
        }
        let began = Instant::now();
        for _ in 0..MORE {
            let open = matches!(
                (self.judge.question)(snapshot),
                Some(Question::WhereItLetsGo | Question::WhoLoops | Question::DoesItLeave)
            );
            if !open || began.elapsed() >= TIME_FOR_MORE {
                break;
            }
            std::thread::sleep(self.pause);
            match take_with_registers(plan, true, budget) {
                Ok((again, _)) if again.stack.is_none() => break,
                Ok(again) => {
                    each(&again.0);
                    self.add(snapshot, registers, again);
                }
                Err(e) if e.asked_to_end() => return Err(e),
                // What the first look has shown is true all the same.
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Adds a further look. It takes the first one's place where it shows more of what can be done.
    fn add(
        &self,
        snapshot: &mut Snapshot,
        registers: &mut Option<Registers>,
        (mut again, registers_again): (Snapshot, Option<Registers>),
    ) {
        if (self.judge.is_better)(&again, snapshot) {
            std::mem::swap(snapshot, &mut again);
            snapshot.add_earlier(again);
            *registers = registers_again;
        } else {
            snapshot.add_sample(&again);
        }
    }
}

/// Takes one snapshot, stopping the backend only where that can work and may be done.
pub fn take(plan: &Plan, passive: bool, budget: &StopBudget) -> Result<Snapshot, LookError> {
    take_with_registers(plan, passive, budget).map(|(snapshot, _)| snapshot)
}

/// The same, with the registers, if it was stopped.
fn take_with_registers(
    plan: &Plan,
    passive: bool,
    budget: &StopBudget,
) -> Result<(Snapshot, Option<Registers>), LookError> {
    let taken = take_anything(plan, passive, budget)?;
    plan.backend.still_executes_the_server()?;
    Ok(taken)
}

/// The same of whatever the process is by now.
fn take_anything(
    plan: &Plan,
    passive: bool,
    budget: &StopBudget,
) -> Result<(Snapshot, Option<Registers>), LookError> {
    let backend: &Backend = plan.backend;
    let process = plan.living()?;
    let facts = plan.facts();
    if facts.state.is_none() && !process.still_the_same() {
        return Err(TraceError::from(Gone(process.pid())).into());
    }
    // A postmaster is never stopped, and what another tracer holds or what has ended cannot be.
    if backend.backend_type == BackendType::Postmaster
        || facts.traced_by().is_some()
        || matches!(facts.state, Some('Z' | 'X') | None)
    {
        let mut snapshot = plan.without_stopping();
        plan.look_up_files(&mut snapshot);
        return Ok((snapshot, None));
    }
    let mut tracee = Tracee::seize(process, budget).map_err(|e| match e {
        TraceError::Denied(_) => LookError::Denied(Box::new(plan.without_stopping())),
        other => LookError::Trace(other),
    })?;
    let stopped = tracee.stop(STOP_LIMIT);
    if let Err(TraceError::WouldNotStop { .. }) = stopped {
        // A look at it takes time, and it may stop yet.
        drop(stopped);
        drop(tracee);
        return Ok((plan.that_would_not_stop(), None));
    }
    let mut stopped = stopped?;
    let capture = plan.capture(&stopped)?;
    // Nothing is run in what only says of itself that it is a server's.
    let handlers = if passive || backend.postmaster == Postmaster::Gone {
        None
    } else {
        plan.ask_for_handlers(&capture, &mut stopped)
    };
    let stopped_for = stopped.stopped_for();
    stopped.keep();
    drop(tracee);
    match handlers {
        // The signal was taken, so that it will not end us by itself; and nobody who pressed Ctrl-C wants us to go on.
        Some(Err(Declined::Trace(
            TraceError::AskedToEnd(signal) | TraceError::LeftAlone(signal),
        ))) => return Err(TraceError::AskedToEnd(signal).into()),
        Some(Err(Declined::Trace(gone @ TraceError::Gone(_)))) => {
            return Err(gone.into());
        }
        _ => {}
    }

    let mut snapshot = plan.interpret(&capture, true, stopped_for);
    plan.add_answers(&mut snapshot, handlers.as_ref());
    plan.look_up_syscall(&mut snapshot);
    plan.find_blockers(&mut snapshot);
    plan.look_up_files(&mut snapshot);
    Ok((snapshot, Some(capture.registers)))
}
