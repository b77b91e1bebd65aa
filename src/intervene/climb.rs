//! The ladder itself: from a process and what is asked of it to what came of that, with an [`Operator`] who is told of
//! each rung, and asked before anybody steps in.

use std::error::Error;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::ladder::{Ladder, Rung, Step, no_escalation, seconds};
use super::{
    Fate, Obeyed, Options, Outcome, Report, ServerWatch, Stepped, end, signal, step_in, verify,
    wait_for_obedience,
};
use crate::assess::checks::{Weight, weight};
use crate::assess::looks::JUDGE;
use crate::assess::{Assessment, Check, Request, Status, Verdict, advice, assess, rules};
use crate::image::DebugFiles;
use crate::postgres::{Activity, Backend, NotABackend, prove_with};
use crate::process::{Process, SignalError};
use crate::snapshot::looks::{self, LookError, Looks};
use crate::snapshot::{Handler, Plan, Signals, Snapshot, zombie};
use crate::tracee::{CallEnd, StopBudget, TraceError, Words};

/// What is asked for, and within which limits.
#[derive(Debug, Clone)]
pub struct Orders {
    /// What is asked for.
    pub request: Request,
    /// How long the backend gets to obey the signal by itself.
    pub grace: Duration,
    /// How long to look for a safe instruction.
    pub wait: Duration,
    /// How long to watch the call.
    pub timeout: Duration,
    /// How long each stop may be.
    pub max_stop: Duration,
    /// Warnings that are accepted, by the names of their checks.
    pub allow: Vec<String>,
    /// A terminate follows a cancel that had no effect.
    pub escalate: bool,
    /// Nothing is sent, nobody is asked, and nothing is called.
    pub dry_run: bool,
    /// The operator is to gather a report before anybody steps in; without it nobody does.
    pub report: bool,
    /// The operator is not asked.
    pub yes: bool,
    /// Where debug files are looked for.
    pub debug_files: Rc<DebugFiles>,
}

impl Orders {
    /// The limits that `pgpoke interrupt` has unless it is told otherwise, and nothing beyond `request`.
    pub fn new(request: Request) -> Self {
        Orders {
            request,
            grace: Duration::from_secs(2),
            wait: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
            max_stop: StopBudget::USUAL,
            allow: Vec::new(),
            escalate: false,
            dry_run: false,
            report: false,
            yes: false,
            debug_files: Rc::default(),
        }
    }
}

/// Who decides, and wants to know. Never called while a backend stands still, but for [`last_words`](Self::last_words),
/// which is asked for before.
pub trait Operator {
    /// Whether to step in. Nothing is called without a yes.
    fn ask(&mut self, question: &Question<'_>) -> bool;

    /// What goes on.
    fn tell(&mut self, _news: News<'_>) {}

    /// Gathers what a maintainer will ask for, while it is still to be had. Only where [`Orders::report`] says so.
    fn report(
        &mut self,
        _plan: &Plan,
        _budget: &StopBudget,
    ) -> Result<Gathered, Box<dyn Error + Send + Sync>> {
        Err("nobody gathers a report here".into())
    }

    /// What this process says, and its exit code, if it has to end on the spot to let the backend go, for this reason.
    fn last_words(&self, _error: TraceError) -> Words {
        Words::default()
    }
}

/// What the operator is asked about.
#[derive(Debug)]
pub struct Question<'q> {
    /// What was seen of the backend.
    pub snapshot: &'q Snapshot,
    /// What that comes to, and what would happen.
    pub assessment: &'q Assessment,
    /// The cancel that had no effect, where it is about the terminate after it. Its SIGTERM is sent after a yes.
    pub after: Option<&'q Report>,
}

/// What the operator is told.
#[derive(Debug)]
pub enum News<'n> {
    /// A rung begins: what is waited for, and for how long at most.
    Begins {
        /// Which.
        rung: Rung,
        /// What is waited for; empty where nothing is.
        what: &'n str,
        /// For how long at most.
        limit: Option<Duration>,
    },
    /// A rung is over.
    Ended(&'n Step),
    /// The process is a backend.
    Found {
        /// The backend.
        backend: &'n Backend<'n>,
        /// What a glance shows of it.
        glance: &'n Snapshot,
    },
    /// Something is about to be done to it.
    Acts(Act),
    /// A cancel came out so, and a terminate is next.
    Escalates(&'n Done),
    /// From here on its memory and its files are read, which lie where they lie: a file system that the backend serves itself
    /// may never answer. Who must not wait for ever keeps the time, and ends this process.
    Busy {
        /// What is done takes so long at most, besides the reading.
        more: Duration,
        /// What the outcome is where there is no time to finish.
        unfinished: Outcome,
    },
    /// Nothing is read any more, until the next [`News::Busy`].
    Idle,
}

/// What is about to be done to a backend.
#[derive(Debug, Clone, Copy)]
pub enum Act {
    /// The signal of pg_cancel_backend() or pg_terminate_backend() is sent.
    Signal,
    /// A place where `ProcessInterrupts()` can be called is looked for, and it is called there. The verdict is that of the
    /// close look.
    StepIn(Verdict),
}

/// A report that was gathered.
#[derive(Debug)]
pub struct Gathered {
    /// What there is, and where, in a few words.
    pub told: String,
    /// How long the backend stood still for it, in milliseconds.
    pub stopped_ms: f64,
}

/// Why the climb ended before it came to an outcome.
#[derive(Debug, thiserror::Error)]
pub enum ClimbError {
    /// It could not be looked at, or traced, or is no backend (any more).
    #[error(transparent)]
    Look(#[from] LookError),
    /// The signal could not be sent.
    #[error("could not send a signal: {0}")]
    Signal(#[source] io::Error),
    /// The report could not be gathered, and nothing was done.
    #[error(transparent)]
    Report(Box<dyn Error + Send + Sync>),
}

impl From<TraceError> for ClimbError {
    fn from(e: TraceError) -> Self {
        ClimbError::Look(e.into())
    }
}

impl From<NotABackend> for ClimbError {
    fn from(e: NotABackend) -> Self {
        ClimbError::Look(e.into())
    }
}

impl ClimbError {
    /// Whether it is how the end of `process` shows. The kernel denies access to what is just ending, too (ptrace_attach(),
    /// kernel/ptrace.c; proc_pid_readlink(), fs/proc/base.c); that is waited for.
    fn is_its_end(&self, process: &Process) -> bool {
        match self {
            ClimbError::Look(e) if e.is_denied() => process.is_about_to_end(),
            ClimbError::Look(LookError::Trace(TraceError::Gone(_)) | LookError::NotABackend(_)) => {
                process.has_ended()
            }
            ClimbError::Look(_) | ClimbError::Signal(_) | ClimbError::Report(_) => false,
        }
    }
}

/// What was seen and done.
#[derive(Debug)]
pub struct Done {
    /// What was seen.
    pub snapshot: Snapshot,
    /// What that came to.
    pub assessment: Assessment,
    /// What was done.
    pub report: Report,
    /// No question was answered with anything but yes.
    pub confirmed: bool,
    /// The cancel before it, that had no effect.
    pub escalated_from: Option<Report>,
}

impl Done {
    fn new(snapshot: Snapshot, assessment: Assessment, report: Report) -> Self {
        Done {
            snapshot,
            assessment,
            report,
            confirmed: true,
            escalated_from: None,
        }
    }
}

/// Climbs for one process, rung by rung, for as long as that takes: signal, wait for it to be obeyed, look, gather a report,
/// ask, step in, verify. What is settled at a glance ends before anything is sent.
pub fn interrupt(
    process: &Process,
    orders: &Orders,
    ladder: &mut Ladder<'_>,
) -> Result<Done, ClimbError> {
    let climb = Climb {
        orders,
        process,
        ladder,
        first: None,
        statement: None,
        server: None,
        sent: false,
        caught: None,
        reported: false,
        confirmed: true,
        children: Vec::new(),
    };
    climb.climb()
}

/// One process, and how far up the ladder it is.
struct Climb<'c, 'l, 'o> {
    orders: &'c Orders,
    process: &'c Process,
    ladder: &'l mut Ladder<'o>,
    /// What was seen of it before anything was done.
    first: Option<(Snapshot, Assessment)>,
    /// When the statement began that is meant.
    statement: Option<i64>,
    server: Option<ServerWatch>,
    /// A signal was sent.
    sent: bool,
    /// How a cancel was seen to be caught.
    caught: Option<String>,
    /// A report was gathered.
    reported: bool,
    /// No question was answered with anything but yes.
    confirmed: bool,
    /// The processes that it had started before anything was done.
    children: Vec<Process>,
}

/// What a close look led to.
enum Looked {
    /// There is nothing more to do.
    Done(Box<Done>),
    /// It is to be gone on with.
    GoOn(Box<(Snapshot, Assessment)>),
}

impl<'c> Climb<'c, '_, '_> {
    fn climb(mut self) -> Result<Done, ClimbError> {
        let done = self.directly();
        let mut done = self.unless_it_obeyed(done)?;
        if !self.has_to_escalate(&done) {
            done.report.left_behind = self.left_behind();
            return Ok(done);
        }
        self.ladder.tell(News::Escalates(&done));
        let next = self.escalate(&done.report);
        let mut next = self.unless_it_obeyed(next)?;
        next.snapshot.stopped_ms += done.snapshot.stopped_ms;
        next.snapshot.stopped_ms += done.report.stopped.as_secs_f64() * 1e3;
        next.escalated_from = Some(done.report);
        next.report.left_behind = self.left_behind();
        Ok(next)
    }

    /// What it had started and has left behind, if it has ended. What got the signal, too, is given a moment to end.
    fn left_behind(&self) -> Vec<i32> {
        const MOMENT: Duration = Duration::from_millis(100);
        if !self.process.has_ended() {
            return Vec::new();
        }
        let until = Instant::now() + MOMENT;
        let run_on = self
            .children
            .iter()
            .filter(|child| !child.wait_for_end(until.saturating_duration_since(Instant::now())));
        run_on.map(Process::pid).collect()
    }

    /// What was asked for.
    fn directly(&mut self) -> Result<Done, ClimbError> {
        let request = self.orders.request;
        let process = self.process;
        // Not for as long as the operator thinks about it.
        self.keep_time(self.orders.grace, request);
        let backend = match self.prove() {
            Ok(backend) => backend,
            Err(e) => {
                let allow = &self.orders.allow;
                let ended = zombie(process).map(|s| (assess(&s, request, allow), s));
                return match ended.and_then(|(a, s)| Some((settled(&a)?, a, s))) {
                    Some((report, judged, snapshot)) => Ok(Done::new(snapshot, judged, report)),
                    None => Err(e.into()),
                };
            }
        };
        let plan = Plan::new(&backend);

        // Before anything is done to it: is it the kind of process that may be asked to end, and is there an occasion?
        let mut first = plan.without_stopping();
        self.ladder.tell(News::Found {
            backend: &backend,
            glance: &first,
        });
        self.statement = first.backend.statement_start;
        let mut judged = assess(&first, request, &self.orders.allow);
        if settled(&judged).is_some() {
            // The answer stands, but a look at the stack tells more with it.
            first = looks::take(&plan, false, &self.budget())?;
            judged = assess(&first, request, &self.orders.allow);
            if let Some(report) = settled(&judged) {
                return Ok(Done::new(first, judged, report));
            }
        }
        self.first = Some((first, judged));
        self.server = Some(ServerWatch::new(&backend));
        self.children = process.descendants();
        if request != Request::Pending
            && !self.orders.dry_run
            && let Some(done) = self.signal(&plan, request)?
        {
            return Ok(done);
        }
        let (snapshot, assessment) = match self.look(&plan, request)? {
            Looked::Done(done) => return Ok(*done),
            Looked::GoOn(seen) => *seen,
        };
        if !self.asks(None, &snapshot, &assessment) {
            return Ok(not_confirmed(snapshot, assessment, request));
        }
        // What was read for the first proof is given back before the second.
        drop(plan);
        drop(backend);
        self.step_in(request, snapshot, assessment)
    }

    /// A terminate, after a cancel without effect.
    fn escalate(&mut self, cancel: &Report) -> Result<Done, ClimbError> {
        let request = Request::Terminate;
        self.keep_time(self.orders.grace, request);
        let backend = self.prove_again()?;
        let plan = Plan::new(&backend);
        let (snapshot, assessment) = match self.look(&plan, request)? {
            Looked::Done(done) => return Ok(*done),
            Looked::GoOn(seen) => *seen,
        };
        if !self.asks(Some(cancel), &snapshot, &assessment) {
            let mut done = not_confirmed(snapshot, assessment, request);
            done.report.detail =
                "not confirmed; the cancel had no effect, and no terminate was sent".into();
            return Ok(done);
        }
        drop(plan);
        drop(backend);
        self.keep_time(self.orders.grace, request);
        let backend = self.prove_again()?;
        let plan = Plan::new(&backend);
        if plan.statement_is_over(self.statement) == Some(true) {
            return Ok(self.ended_by_itself(snapshot, assessment));
        }
        if let Some(done) = self.signal(&plan, request)? {
            return Ok(done);
        }
        drop(plan);
        drop(backend);
        self.step_in(request, snapshot, assessment)
    }

    /// Whether a terminate comes next; says why not, where the operator wanted it and the cancel had no effect.
    fn has_to_escalate(&mut self, done: &Done) -> bool {
        if !self.orders.escalate || done.report.outcome.took_effect() {
            return false;
        }
        let terminate = done.assessment.verdict_if.terminate;
        let why_not = no_escalation(&done.report, self.confirmed, terminate);
        self.ladder.climb(
            Rung::Escalate,
            ("", None),
            || why_not.is_none(),
            |goes_on| match goes_on {
                true => "the cancel had no effect: a terminate is next".into(),
                false => format!("no terminate: {}", why_not.unwrap_or_default()),
            },
        )
    }

    /// Sends the signal, and waits for it to be obeyed. None where it was not.
    fn signal(&mut self, plan: &Plan, request: Request) -> Result<Option<Done>, ClimbError> {
        let (pid, process, grace) = (self.process.pid(), self.process, self.orders.grace);
        let (name, function) = match request {
            Request::Terminate => ("SIGTERM", "pg_terminate_backend()"),
            _ => ("SIGINT", "pg_cancel_backend()"),
        };
        self.ladder.tell(News::Acts(Act::Signal));
        self.ladder
            .climb(
                Rung::Signal,
                ("sending a signal", None),
                || signal(process, request),
                |sent| match sent {
                    Ok(()) => format!("{name} sent to process {pid}, as {function} does"),
                    Err(e) => format!("{name} could not be sent: {e}"),
                },
            )
            .map_err(|e| match e {
                SignalError::Gone(gone) => TraceError::from(gone).into(),
                SignalError::Kernel(e) => ClimbError::Signal(e),
            })?;
        self.sent = true;
        let statement = self.statement;
        let what = format!("waiting for process {pid} to obey {name}");
        let obeyed = self.ladder.climb(
            Rung::Wait,
            (&what, Some(grace)),
            || wait_for_obedience(plan, request, statement, grace),
            |obeyed| match obeyed {
                Obeyed::Ended => "it obeyed, and has ended".into(),
                Obeyed::StatementOver => "it obeyed, and its statement is over".into(),
                Obeyed::No => format!("it did not obey within {}", seconds(grace)),
            },
        );
        let detail = match obeyed {
            Obeyed::Ended => "it obeyed the signal and has ended; nothing was touched",
            Obeyed::StatementOver => {
                "it obeyed the signal, and its statement is over; nothing was touched"
            }
            Obeyed::No => return Ok(None),
        };
        Ok(self.obeyed(detail))
    }

    /// It did as it was told, with nothing touched.
    fn obeyed(&mut self, detail: &str) -> Option<Done> {
        let (snapshot, assessment) = self.first.clone()?;
        let mut report = Report::new(Outcome::ObeyedSignal, detail);
        self.see_the_end(&mut report, ServerWatch::TIME_TO_NOTICE);
        Some(Done::new(snapshot, assessment, report))
    }

    /// Proves that the server runs on, and that nobody else ended what seems to have obeyed.
    fn see_the_end(&mut self, report: &mut Report, limit: Duration) {
        let (process, server) = (self.process, self.server.as_ref());
        report.server = server.map(|server| {
            self.ladder.climb(
                Rung::Verify,
                ("seeing whether the server runs on", Some(limit)),
                || end(report, process, server, limit),
                |fate| told_of_server(Some(*fate)).into(),
            )
        });
    }

    /// What ends after it was told to has obeyed late, whatever else was going on meanwhile.
    fn unless_it_obeyed(&mut self, done: Result<Done, ClimbError>) -> Result<Done, ClimbError> {
        let detail = "it has obeyed the signal since, and has ended; nothing was touched";
        match done {
            Err(e) if self.sent && e.is_its_end(self.process) => self.obeyed(detail).ok_or(e),
            other => other,
        }
    }

    /// The statement is over, whether it obeyed late or came to its end.
    fn ended_by_itself(&mut self, snapshot: Snapshot, assessment: Assessment) -> Done {
        let mut report = Report::new(
            Outcome::ObeyedSignal,
            match self.sent {
                true => "its statement is over by now; nothing was touched but by the signal",
                false => "its statement is over by now; nothing was done",
            },
        );
        self.see_the_end(&mut report, Duration::ZERO);
        Done::new(snapshot, assessment, report)
    }

    /// Looks closely.
    fn look(&mut self, plan: &Plan, request: Request) -> Result<Looked, ClimbError> {
        let orders = self.orders;
        let cancels = orders.request == Request::Cancel;
        let done = |done: Done| Ok(Looked::Done(Box::new(done)));
        let budget = self.budget();
        // Nothing but the first signal is sent before a look.
        let sent = self.sent.then_some(match cancels {
            true => 1 << (libc::SIGINT - 1),
            false => 1 << (libc::SIGTERM - 1),
        });
        let (mut snapshot, assessment) = self.ladder.climb(
            Rung::Look,
            ("looking into it", None),
            || {
                let looks = Looks::one_or_a_few(JUDGE);
                let (mut snapshot, _) = looks.take(plan, &budget, |_| ())?;
                plan.find_others(&mut snapshot);
                snapshot.signals.sent = sent;
                snapshot.swallowed = self.caught.clone();
                if snapshot.swallowed.is_none() && self.sent && cancels {
                    snapshot.swallowed = taken_without_effect(&snapshot, self.statement);
                }
                let assessment = assess(&snapshot, request, &orders.allow);
                Ok((snapshot, assessment))
            },
            |seen: &Result<(Snapshot, Assessment), LookError>| match seen {
                Ok((_, a)) => format!(
                    "{}: {}; a {} is {}",
                    a.cause.code,
                    a.cause.summary,
                    a.interrupt,
                    verdict_here(a)
                ),
                Err(e) => e.to_string(),
            },
        )?;
        self.ladder.tell(News::Idle);
        // It was told to before, and may only have been slow.
        let told = self.sent && cancels;
        if told && plan.statement_is_over(self.statement) == Some(true) {
            return done(self.ended_by_itself(snapshot, assessment));
        }
        if snapshot.process.would_not_stop {
            let escalates = cancels && request == Request::Terminate;
            let mut report = Report::new(
                Outcome::TimedOut,
                match self.sent {
                    true if escalates => "it did not stop when asked to; no terminate was sent",
                    false => "it did not stop when asked to; nothing was done",
                    true => {
                        "it did not stop when asked to; the signal was sent, and waits until it wakes"
                    }
                },
            );
            if snapshot.process.state == Some('D') {
                report.outcome = Outcome::Pointless;
            }
            return done(Done::new(snapshot, assessment, report));
        }
        if let Some(report) = settled(&assessment) {
            let is_ending = report.objections.iter().any(|c| c.code == "exiting");
            if self.sent && is_ending && self.ends_now() {
                let detail =
                    "it has obeyed the signal, if late, and has ended; nothing was touched";
                if let Some(obeyed) = self.obeyed(detail) {
                    return done(obeyed);
                }
            }
            return done(Done::new(snapshot, assessment, report));
        }
        snapshot.stopped_ms += self.gather(plan)?;
        if orders.dry_run {
            let report = dry(&assessment);
            return done(Done::new(snapshot, assessment, report));
        }
        Ok(Looked::GoOn(Box::new((snapshot, assessment))))
    }

    /// Gathers a report, once: afterwards it is too late. Without it, nothing is done. Says how long the backend stood
    /// still for it, in milliseconds.
    fn gather(&mut self, plan: &Plan) -> Result<f64, ClimbError> {
        if !self.orders.report || self.reported {
            return Ok(0.0);
        }
        let budget = self.budget();
        let gathered = self
            .ladder
            .climb_with(
                Rung::Report,
                ("gathering a report", None),
                |operator| operator.report(plan, &budget),
                |gathered| match gathered {
                    Ok(gathered) => gathered.told.clone(),
                    Err(e) => e.to_string(),
                },
            )
            .map_err(ClimbError::Report)?;
        self.reported = true;
        Ok(gathered.stopped_ms)
    }

    /// Waits for one that is on its way out already.
    fn ends_now(&mut self) -> bool {
        let (process, grace) = (self.process, self.orders.grace);
        self.ladder.climb(
            Rung::Wait,
            ("waiting for it to end, as it is about to", Some(grace)),
            || process.wait_for_end(grace),
            |ended| match ended {
                true => "it has ended".into(),
                false => format!("it has not ended within {}", seconds(grace)),
            },
        )
    }

    /// Explains, and asks.
    fn asks(
        &mut self,
        after: Option<&Report>,
        snapshot: &Snapshot,
        assessment: &Assessment,
    ) -> bool {
        if self.orders.yes {
            return true;
        }
        let question = Question {
            snapshot,
            assessment,
            after,
        };
        self.confirmed = self.ladder.climb_with(
            Rung::Ask,
            ("", None),
            |operator| operator.ask(&question),
            |yes| match yes {
                true => "the answer was yes".into(),
                false => "the answer was not yes".into(),
            },
        );
        self.confirmed
    }

    /// Steps in, with all proved anew: time has passed.
    fn step_in(
        &mut self,
        request: Request,
        mut snapshot: Snapshot,
        assessment: Assessment,
    ) -> Result<Done, ClimbError> {
        let (orders, process) = (self.orders, self.process);
        let more = (orders.wait).saturating_add(orders.timeout.saturating_mul(2));
        self.ladder.tell(News::Busy {
            more,
            unfinished: Outcome::TimedOut,
        });
        // The search for a safe instruction has a deadline, which a server of debug files knows nothing of.
        orders.debug_files.stop_downloading();
        let backend = self.prove_again()?;
        let plan = Plan::new(&backend);
        let options = Options {
            request,
            budget: self.budget(),
            grace: orders.grace,
            wait: orders.wait,
            timeout: orders.timeout,
            allow: orders.allow.clone(),
        };
        let statement = self.statement;
        self.ladder
            .tell(News::Acts(Act::StepIn(assessment.verdict)));
        let what = format!(
            "looking for a safe instruction in process {}",
            process.pid()
        );
        let stepped = self.ladder.climb(
            Rung::StepIn,
            (&what, Some(orders.wait)),
            || step_in(&plan, &options, statement),
            |stepped| match stepped {
                Ok(Stepped::Called(called)) => told_of_call(called.end, called.attempts()),
                Ok(Stepped::Not(report)) => format!("nothing was called: {}", report.detail),
                Err(e) => e.to_string(),
            },
        )?;
        let report = match (stepped, &self.server) {
            (Stepped::Called(called), Some(server)) => self.ladder.climb(
                Rung::Verify,
                ("seeing what came of it", Some(orders.timeout)),
                || verify(called, &plan, &options, statement, server),
                |report| format!("{}; {}", report.detail, told_of_server(report.server)),
            ),
            (Stepped::Called(called), None) => {
                let server = ServerWatch::new(&backend);
                verify(called, &plan, &options, statement, &server)
            }
            (Stepped::Not(mut report), _) => {
                let same = backend.still_executes_the_server();
                same?;
                if report.outcome == Outcome::ObeyedSignal {
                    self.see_the_end(&mut report, Duration::ZERO);
                }
                report
            }
        };
        let mut assessment = assessment;
        if matches!(report.outcome, Outcome::Refused | Outcome::Pointless) {
            let tried = (request, &report.objections[..]);
            advice::after_search(&snapshot, &mut assessment, tried, &orders.allow);
        }
        if report.swallowed {
            // Of what was seen before, this is the cause now.
            self.caught = Some(report.detail.clone());
            snapshot.swallowed = self.caught.clone();
            let now = assess(&snapshot, request, &orders.allow);
            (assessment.cause, assessment.advice) = (now.cause, now.advice);
        }
        Ok(Done::new(snapshot, assessment, report))
    }

    fn prove(&self) -> Result<Backend<'c>, NotABackend> {
        prove_with(self.process, self.orders.debug_files.clone())
    }

    /// The same of one that was known before.
    fn prove_again(&self) -> Result<Backend<'c>, ClimbError> {
        Ok(self.prove()?)
    }

    /// What each stop may take, and what is said in the end if that is not enough.
    fn budget(&self) -> StopBudget {
        let operator = self.ladder.operator();
        StopBudget::new(self.process.pid(), self.orders.max_stop, |error| {
            operator.last_words(error)
        })
    }

    /// What is read from here on may never answer.
    fn keep_time(&mut self, more: Duration, request: Request) {
        let unfinished = match request {
            Request::Pending => Outcome::Refused,
            _ => Outcome::TimedOut,
        };
        self.ladder.tell(News::Busy { more, unfinished });
    }
}

/// That the cancel which was sent has been taken, and the statement that it was for goes on. Nothing but
/// ProcessInterrupts() clears the flag in the middle of a statement (src/backend/tcop/postgres.c), and it raises the
/// ERROR then.
fn taken_without_effect(s: &Snapshot, statement: Option<i64>) -> Option<String> {
    let handlers = s.signals.handlers.as_ref()?;
    let own = |h: &&Handler| h.signal == libc::SIGINT && h.expected == Some(true);
    let waits = |set| Signals::has(set, libc::SIGINT) != Some(false);
    let v = &s.variables;
    let goes_on = statement.is_some()
        && s.backend.statement_start == statement
        && s.backend.activity == Some(Activity::Active)
        && v.interrupt_holdoff_count == Some(0)
        && v.errordata_stack_depth == Some(-1)
        && !rules::is_undoing(s);
    let taken = v.query_cancel_pending == Some(false)
        && !waits(s.signals.pending)
        && !waits(s.signals.blocked)
        && handlers.iter().any(|h| own(&h));
    (goes_on && taken).then(|| {
        "SIGINT was delivered to PostgreSQL's own handler, QueryCancelPending is cleared again, and the same statement still runs".into()
    })
}

fn not_confirmed(snapshot: Snapshot, assessment: Assessment, request: Request) -> Done {
    let v = &snapshot.variables;
    let pending = match request {
        Request::Pending => None,
        Request::Cancel => v.query_cancel_pending,
        Request::Terminate => v.proc_die_pending,
    };
    let report = Report::new(
        Outcome::Refused,
        match (request, pending) {
            (Request::Pending, _) => "not confirmed; nothing was done",
            (_, Some(true)) => {
                "not confirmed; nothing was done but to send the signal: that stays pending, and it obeys when it checks for interrupts"
            }
            _ => "not confirmed; the signal was sent, and nothing else was done",
        },
    );
    let mut refused = Done::new(snapshot, assessment, report);
    refused.confirmed = false;
    refused
}

fn told_of_call(end: CallEnd, looks: u32) -> String {
    let end = match end {
        CallEnd::Returned => "and has returned",
        CallEnd::Jumped => "and raised an ERROR",
        CallEnd::Exiting(_) => "and the process is exiting",
        CallEnd::StillRunning => "and has not come to an end",
    };
    let looks = match looks {
        1 => "the first look".into(),
        n => format!("look {n}"),
    };
    format!("ProcessInterrupts() was called at {looks}, {end}")
}

fn told_of_server(fate: Option<Fate>) -> &'static str {
    match fate {
        Some(Fate::RunsOn) => "the server runs on, and nothing was restarted",
        Some(Fate::BeingStopped) => "the server is being stopped, as it was asked to before",
        Some(Fate::Stopped) => "the server was stopped in good order, as it was asked to before",
        Some(Fate::Ended) => "the server has ended; whether in good order could not be told",
        Some(Fate::EndedAbruptly) => {
            "the server has ended without a shutdown checkpoint, and its next start goes through crash recovery"
        }
        Some(Fate::Recovers) => "the server goes through crash recovery",
        Some(Fate::Unknown) | None => "whether the server runs on could not be told",
    }
}

/// The verdict in a sentence: safe is not what is only not objected to.
fn verdict_here(judged: &Assessment) -> String {
    let accepted = |c: &&Check| c.status == Status::Warn && c.objection.is_none();
    let accepted: Vec<_> = judged
        .checks
        .iter()
        .filter(accepted)
        .map(|c| c.code)
        .collect();
    match (judged.verdict, accepted.is_empty()) {
        (Verdict::Safe, false) => format!("risky here, which is allowed ({})", accepted.join(", ")),
        (verdict, _) => format!("{verdict} here"),
    }
}

/// What needs no further look: it is nothing to interrupt, or there is no occasion, or there are doubts about what it is,
/// and nothing is sent to it until they are accepted.
fn settled(judged: &Assessment) -> Option<Report> {
    let doubt = judged.doubt();
    let outcome = match (weight(&judged.checks), judged.verdict) {
        (Some(Weight::Identity), _) => Outcome::Refused,
        (Some(Weight::Occasion), Verdict::Pointless) => Outcome::Pointless,
        _ if doubt.is_some() => Outcome::Refused,
        _ => return None,
    };
    let objections: Vec<Check> = match (outcome, doubt) {
        (Outcome::Refused, Some(doubt)) => vec![doubt.clone()],
        _ => judged.objections().cloned().collect(),
    };
    let mut report = Report::new(outcome, reasons(&objections));
    report.verdict = Some(judged.verdict);
    report.objections = objections;
    Some(report)
}

/// What would be done.
fn dry(judged: &Assessment) -> Report {
    let mut report = Report::new(
        Outcome::DryRun,
        format!(
            "a {} would be processed now; nothing was done",
            judged.interrupt
        ),
    );
    if judged.verdict != Verdict::Safe {
        report.outcome = if judged.verdict == Verdict::Pointless {
            Outcome::Pointless
        } else {
            Outcome::Refused
        };
        report.objections = judged.objections().cloned().collect();
        report.detail = reasons(&report.objections);
    }
    report.verdict = Some(judged.verdict);
    report
}

fn reasons(objections: &[Check]) -> String {
    let reasons: Vec<String> = objections
        .iter()
        .map(|c| format!("{}: {}", c.code, c.detail))
        .collect();
    reasons.join("; ")
}
