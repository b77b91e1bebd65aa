//! `pgpoke inspect`

use std::time::{Duration, Instant};

use super::exit::{End, Exit};
use super::open::{Failure, open, stop_budget};
use super::patience::Patience;
use super::{InspectArgs, messages, say, watch};
use crate::arch::host::stopped::Registers;
use crate::assess::looks::{Question, is_better, question};
use crate::assess::{Request, assess};
use crate::intervene::STOP_LIMIT;
use crate::postgres::{Backend, BackendType, Postmaster, prove_with};
use crate::render::screen::Screen;
use crate::render::{json, text};
use crate::snapshot::{Plan, Snapshot, zombie};
use crate::tracee::{Declined, StopBudget, TraceError, Tracee};

/// The pause between two samples: long against a stop, short against a person's patience.
const BETWEEN_SAMPLES: Duration = Duration::from_millis(10);

/// Runs the command.
pub fn run(args: &InspectArgs) -> anyhow::Result<Exit> {
    let pid = args.target.pid();
    if args.watch {
        return watch::run(args, pid);
    }
    match inspect(args, pid) {
        Ok((snapshot, end)) => {
            messages::warnings(&snapshot.warnings);
            let assessment = assess(&snapshot, Request::Pending, &[]);
            say(&if args.json {
                json::inspection(&snapshot, &assessment)
            } else {
                text::inspection(&snapshot, &assessment, args.stack, Screen::stdout())
            });
            Ok(end.unwrap_or(End::from(assessment.verdict)).exit())
        }
        Err(failure) => Ok(failure.tell(pid, args.json, None)),
    }
}

/// What was seen, and where that is not by the verdict, how it ends.
fn inspect(args: &InspectArgs, pid: i32) -> Result<(Snapshot, Option<End>), Failure> {
    let samples = (STOP_LIMIT + BETWEEN_SAMPLES) * args.samples;
    let _patience = Patience::with(pid, samples, args.json, None);
    let process = open(pid)?;
    let backend = match prove_with(&process, args.debug_files.find()) {
        Ok(backend) => backend,
        Err(e) => match zombie(&process) {
            Some(snapshot) => return Ok((snapshot, None)),
            None => return Err(Failure::not_a_backend(e, &process)),
        },
    };
    let plan = match args.locals {
        true => Plan::new(&backend).with_variables(),
        false => Plan::new(&backend),
    };
    let budget = stop_budget(&process, args.max_stop, args.json, None);
    let looks = Looks {
        passive: args.passive,
        samples: args.samples,
        pause: BETWEEN_SAMPLES,
        more: true,
    };
    let (snapshot, _) = looks.take(&plan, &budget, |_| ())?;
    // It ran on, but not in time: that is an answer of its own, unless the kernel's state explains it.
    let end = (snapshot.process.would_not_stop && snapshot.process.state != Some('D'))
        .then_some(End::WouldNotStop);
    Ok((snapshot, end))
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
    pub fn one_or_a_few() -> Self {
        Looks {
            passive: false,
            samples: 1,
            pause: BETWEEN_SAMPLES,
            more: true,
        }
    }

    /// Takes them, and shows each to `each`. What comes back is the first, with what the others add to it, and the
    /// registers at the first.
    pub fn take(
        &self,
        plan: &Plan,
        budget: &StopBudget,
        mut each: impl FnMut(&Snapshot),
    ) -> Result<(Snapshot, Option<Registers>), Failure> {
        let process = Failure::unless_it_lives(plan)?;
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
            add(&mut snapshot, &mut registers, again);
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
    ) -> Result<(), Failure> {
        if question(snapshot) == Some(Question::DoesItLetGo) {
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
                question(snapshot),
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
                    add(snapshot, registers, again);
                }
                Err(failure) if failure.asked_to_end.is_some() => return Err(failure),
                // What the first look has shown is true all the same.
                Err(_) => break,
            }
        }
        Ok(())
    }
}

/// Adds a further look. It takes the first one's place where it shows more of what can be done.
fn add(
    snapshot: &mut Snapshot,
    registers: &mut Option<Registers>,
    (mut again, registers_again): (Snapshot, Option<Registers>),
) {
    if is_better(&again, snapshot) {
        std::mem::swap(snapshot, &mut again);
        snapshot.add_earlier(again);
        *registers = registers_again;
    } else {
        snapshot.add_sample(&again);
    }
}

/// Takes one snapshot, stopping the backend only where that can work and may be done.
pub fn take(plan: &Plan, passive: bool, budget: &StopBudget) -> Result<Snapshot, Failure> {
    take_with_registers(plan, passive, budget).map(|(snapshot, _)| snapshot)
}

/// The same, with the registers, if it was stopped.
fn take_with_registers(
    plan: &Plan,
    passive: bool,
    budget: &StopBudget,
) -> Result<(Snapshot, Option<Registers>), Failure> {
    let taken = take_anything(plan, passive, budget)?;
    let same = plan.backend.still_executes_the_server();
    let process = Failure::unless_it_lives(plan)?;
    same.map_err(|e| Failure::not_a_backend(e, process))?;
    Ok(taken)
}

/// The same of whatever the process is by now.
fn take_anything(
    plan: &Plan,
    passive: bool,
    budget: &StopBudget,
) -> Result<(Snapshot, Option<Registers>), Failure> {
    let backend: &Backend = plan.backend;
    let process = Failure::unless_it_lives(plan)?;
    let facts = plan.facts();
    if facts.state.is_none() && !process.still_the_same() {
        return Err(Failure::trace(TraceError::Gone(process.pid()), process));
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
    let mut tracee = Tracee::seize(process, budget)
        .map_err(|e| Failure::trace(e, process).with_facts(|| plan.without_stopping()))?;
    let stopped = tracee.stop(STOP_LIMIT);
    if let Err(TraceError::WouldNotStop { .. }) = stopped {
        // A look at it takes time, and it may stop yet.
        drop(stopped);
        drop(tracee);
        return Ok((plan.that_would_not_stop(), None));
    }
    let mut stopped = stopped.map_err(|e| Failure::trace(e, process))?;
    let capture = plan
        .capture(&stopped)
        .map_err(|e| Failure::trace(e, process))?;
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
        ))) => return Err(Failure::trace(TraceError::AskedToEnd(signal), process)),
        Some(Err(Declined::Trace(gone @ TraceError::Gone(_)))) => {
            return Err(Failure::trace(gone, process));
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
