//! From a PID to a backend, or to the reason why not, with its exit code.

use std::time::Duration;

use serde_json::Value;

use super::exit::{End, Exit};
use super::{messages, say};
use crate::intervene::{ClimbError, Outcome, Step};
use crate::postgres::{NotABackend, prove};
use crate::process::permission::{Permission, Rule};
use crate::process::{Gone, OpenError, Process, all_pids, container};
use crate::render::screen::Screen;
use crate::render::{json, text};
use crate::snapshot::looks::LookError;
use crate::snapshot::{Plan, Snapshot, from_outside};
use crate::tracee::{StopBudget, TraceError, Words};

/// Why a command ends before it could judge anything.
#[derive(Debug)]
pub struct Failure {
    /// Which end that is.
    pub end: End,
    /// What is the matter.
    pub message: String,
    /// The rule or the evidence.
    pub detail: Option<String>,
    /// What to type next.
    pub hint: Option<String>,
    /// The outcome, of an intervention that had begun.
    pub outcome: Option<Outcome>,
    /// What can be told all the same.
    pub told: Option<Box<Told>>,
}

/// What can be told of a process that we may not look into.
#[derive(Debug)]
pub struct Told {
    /// What keeps us out.
    pub rule: Rule,
    /// What everybody may know.
    pub facts: Snapshot,
}

impl Failure {
    /// One of which nothing but this is to be said.
    pub fn new(end: End, message: String) -> Self {
        Failure {
            end,
            message,
            detail: None,
            hint: None,
            outcome: None,
            told: None,
        }
    }

    /// Says so, in both languages if JSON was asked for.
    ///
    /// `outcome` is that of an intervention that this kept from beginning.
    pub fn tell(&self, pid: i32, as_json: bool, outcome: Option<Outcome>) -> Exit {
        messages::error(&self.message, self.detail.as_deref(), self.hint.as_deref());
        let told = self.told.as_deref();
        if as_json {
            say(&json::print(&self.as_json(pid, outcome)));
        } else if let (Some(told), None) = (told, outcome) {
            say(&text::from_outside(&told.facts, Screen::stdout()));
        }
        self.end.exit()
    }

    /// As an object.
    pub fn as_json(&self, pid: i32, outcome: Option<Outcome>) -> Value {
        let outcome = outcome.map(|o| (self.outcome.unwrap_or(o), None));
        self.object(pid, outcome)
    }

    /// The same of an intervention that had begun, with the rungs that it took.
    pub fn after(&self, pid: i32, outcome: Outcome, steps: &[Step]) -> Value {
        self.object(pid, Some((outcome, Some(steps))))
    }

    fn object(&self, pid: i32, interrupt: Option<(Outcome, Option<&[Step]>)>) -> Value {
        json::failure(
            pid,
            interrupt,
            (&self.message, self.detail.as_deref(), self.hint.as_deref()),
            self.told.as_deref().map(|t| (t.rule, &t.facts)),
        )
    }

    /// The same in bytes, for where nothing can be put together any more.
    pub fn last_words(&self, pid: i32, as_json: bool, outcome: Option<Outcome>) -> Words {
        let said =
            messages::error_text(&self.message, self.detail.as_deref(), self.hint.as_deref());
        let object = as_json.then(|| json::print(&self.as_json(pid, outcome)));
        Words {
            stdout: object.unwrap_or_default().into_bytes(),
            stderr: said.into_bytes(),
            exit_code: self.end.exit().code(),
        }
    }

    /// The kernel does not let us in: says which rule, and the one thing to type next.
    pub fn denied(process: &Process) -> Self {
        // It denies access to what is just ending, too (ptrace_attach in kernel/ptrace.c, proc_pid_readlink in
        // fs/proc/base.c). Who was denied for another reason can wait that long.
        if process.is_about_to_end() {
            return Failure::trace(Gone(process.pid()).into(), process);
        }
        let permission = Permission::examine(process);
        let told = from_outside(process).map(|facts| {
            Box::new(Told {
                rule: permission.rule(),
                facts,
            })
        });
        Failure {
            end: End::Denied,
            message: format!("no permission to look into process {}", process.pid()),
            detail: Some(permission.to_string()),
            hint: Some(permission.next_step()),
            outcome: None,
            told,
        }
    }

    /// There is no look.
    pub fn look(error: LookError, process: &Process) -> Self {
        match error {
            LookError::Trace(e) => Failure::trace(e, process),
            LookError::NotABackend(e) => Failure::not_a_backend(e, process),
            LookError::Denied(facts) => {
                let mut denied = Failure::denied(process);
                if let Some(told) = &mut denied.told {
                    told.facts = *facts;
                }
                denied
            }
        }
    }

    /// An interrupt came to no outcome.
    pub fn climb(error: ClimbError, process: &Process) -> Self {
        let (end, message) = match error {
            ClimbError::Look(e) => return Failure::look(e, process),
            ClimbError::Signal(e) => (
                End::of_signal(&e),
                format!("cannot send a signal to process {}: {e}", process.pid()),
            ),
            ClimbError::Report(e) => (End::NotAllGathered, e.to_string()),
        };
        Failure::new(end, message)
    }

    /// The living process that a plan is about.
    pub fn unless_it_lives<'p>(plan: &Plan<'_, 'p>) -> Result<&'p Process, Self> {
        let ended = |error: TraceError| Failure::new(End::from(&error), error.to_string());
        plan.living().map_err(ended)
    }

    /// Tracing failed.
    pub fn trace(error: TraceError, process: &Process) -> Self {
        let pid = process.pid();
        let hint = match &error {
            TraceError::Denied(_) => return Failure::denied(process),
            TraceError::WouldNotStop { .. } => Some(format!(
                "nothing was changed in it; look at its state: ps -o pid,state,wchan:32,args -p {pid}"
            )),
            TraceError::WouldNotBeSeized { .. } => Some("nothing was changed in it; what is frozen (docker pause, a frozen control group) has to be thawed first".to_owned()),
            TraceError::StoodStill { .. } => Some("nothing was changed in it; this machine is slow at the moment: try again, or with a longer --max-stop".to_owned()),
            TraceError::StoodStillInCall { .. } => Some(format!("pgpoke inspect {pid} shows what became of it; this machine is slow at the moment, and --max-stop allows for it")),
            TraceError::LeftAlone(_) => Some(format!("pgpoke inspect {pid} shows what became of it")),
            TraceError::Gone(_) | TraceError::AskedToEnd(_) | TraceError::Kernel(_) => None,
        };
        let end = End::from(&error);
        let outcome = match end {
            End::WouldNotStop | End::StoodStill | End::NoOutcome => Some(Outcome::TimedOut),
            _ => None,
        };
        Failure {
            hint,
            outcome,
            ..Failure::new(end, error.to_string())
        }
    }
}

/// What each stop of a process may take, and what is said of it in the end if that is not enough.
pub fn stop_budget(
    process: &Process,
    most: Duration,
    as_json: bool,
    outcome: Option<Outcome>,
) -> StopBudget {
    let pid = process.pid();
    StopBudget::new(pid, most, |error| {
        Failure::trace(error, process).last_words(pid, as_json, outcome)
    })
}

/// Opens the process that `pid` names. Where no process of ours has that number, it may be the PID that a backend has
/// inside its container, which is what pg_stat_activity shows there.
pub fn open(pid: i32) -> Result<Process, Failure> {
    let error = match Process::open(pid) {
        Ok(process) => return Ok(process),
        Err(e) => e,
    };
    let mut candidates = match error {
        OpenError::NoSuchProcess(_) => backends_known_inside_as(pid),
        _ => Vec::new(),
    };
    if candidates.len() == 1 {
        return Ok(candidates.remove(0));
    }
    let mut failure = Failure::from(error);
    if !candidates.is_empty() {
        failure.message = format!(
            "no process has PID {pid} here, and several backends have it inside their containers"
        );
        failure.detail = Some(list(&candidates));
        failure.hint = Some("take the PID that the backend has here".into());
    }
    Err(failure)
}

/// The backends whose innermost PID is `pid`, in PID namespaces other than ours.
fn backends_known_inside_as(pid: i32) -> Vec<Process> {
    all_pids()
        .into_iter()
        .filter(|outer| *outer != pid)
        .filter_map(|outer| Process::open(outer).ok())
        .filter(|p| p.inner_pid().is_ok_and(|inner| inner == pid) && prove(p).is_ok())
        .collect()
}

fn list(candidates: &[Process]) -> String {
    let each: Vec<String> = candidates
        .iter()
        .map(|p| {
            let directory = p.working_directory();
            let directory = directory.map_or_else(|_| "?".into(), |d| d.display().to_string());
            format!("PID {} (data directory {directory})", p.pid())
        })
        .collect();
    each.join(", ")
}

impl From<OpenError> for Failure {
    fn from(e: OpenError) -> Self {
        let hint = match &e {
            OpenError::NoSuchProcess(_) if container::in_pid_namespace() == Some(true) => Some(
                "pgpoke runs in a PID namespace of its own (a container) and sees no process outside of it; take the PID that the server has in here, or run pgpoke on the host"
                    .to_owned(),
            ),
            OpenError::NoSuchProcess(_) => Some(
                "take the PID from pg_stat_activity on this machine; a container has PIDs of its own, and from outside it another number counts"
                    .to_owned(),
            ),
            OpenError::IsThread(_, process) => Some(format!("take the process that it belongs to: pgpoke inspect {process}")),
            OpenError::Hidden(_) => Some(
                "/proc is mounted with hidepid, or a security module hides it: run pgpoke as root, or as the server's own user"
                    .to_owned(),
            ),
            OpenError::Other(..) => None,
        };
        Failure {
            hint,
            ..Failure::new(End::from(&e), e.to_string())
        }
    }
}

impl Failure {
    /// The process is not a backend, or cannot be looked into.
    pub fn not_a_backend(e: NotABackend, process: &Process) -> Self {
        let (detail, hint) = match &e {
            NotABackend::Denied(_) => return Failure::denied(process),
            NotABackend::Gone(_) if process.state() == Some('Z') => (
                Some("it is a zombie: its parent has not noticed yet".to_owned()),
                Some("nothing is left to interrupt; if it stays, look at its parent".to_owned()),
            ),
            NotABackend::Gone(_) => (None, None),
            NotABackend::Other { pid, .. } if !backends_known_inside_as(*pid).is_empty() => (
                None,
                Some(format!(
                    "inside a container that number is a backend's: {}; take the PID that it has here",
                    list(&backends_known_inside_as(*pid))
                )),
            ),
            NotABackend::Other { .. } => (
                None,
                Some(
                    "pgpoke touches PostgreSQL's backends only; pg_stat_activity shows their PIDs"
                        .to_owned(),
                ),
            ),
        };
        Failure {
            detail,
            hint,
            ..Failure::new(End::from(&e), e.to_string())
        }
    }
}
