//! `pgpoke interrupt`: the ladder, rung by rung, for each process that was named.

use std::io::{BufRead, IsTerminal, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::audit::{Act, Audit};
use super::exit::{End, Exit};
use super::open::{Failure, open};
use super::patience::Patience;
use super::progress::Progress;
use super::{InterruptArgs, inspect, messages, report, say};
use crate::assess::checks::{TABLE, Weight, weight};
use crate::assess::{Assessment, Check, Request, Status, Verdict, advice, assess, rules};
use crate::image::DebugFiles;
use crate::intervene::{
    Fate, Ladder, Obeyed, Options, Outcome, Report, Rung, ServerWatch, Step, Stepped, end, ladder,
    signal, step_in, verify, wait_for_obedience,
};
use crate::postgres::{Activity, Backend, NotABackend, prove_with};
use crate::process::Process;
use crate::render::ladder::{escalation, seconds, summary};
use crate::render::screen::Screen;
use crate::render::{json, text};
use crate::snapshot::{Handler, Plan, Signals, Snapshot, zombie};
use crate::tracee::{CallEnd, StopBudget, TraceError, Words};

/// Runs the command.
pub fn run(args: &InterruptArgs) -> anyhow::Result<Exit> {
    let pids = args.targets.pids();
    if let Some(failure) = unusable(args, pids[0]) {
        messages::error(
            &failure.message,
            failure.detail.as_deref(),
            failure.hint.as_deref(),
        );
        if args.json {
            let object = |pid: &i32| {
                let object = failure.as_json(*pid, Some(Outcome::Refused));
                (object, failure.end.exit().code())
            };
            let all = Results {
                objects: pids.iter().map(object).collect(),
                not_tried: Vec::new(),
                several: pids.len() > 1,
            };
            say(&all.print(failure.end.exit()));
        }
        return Ok(failure.end.exit());
    }
    let mut results = Results {
        objects: Vec::new(),
        not_tried: pids.clone(),
        several: pids.len() > 1,
    };
    let mut ends: Vec<(i32, &str, u8)> = Vec::new();
    let mut exits = Vec::new();
    for (n, pid) in pids.iter().enumerate() {
        results.not_tried.remove(0);
        if results.several && !args.json {
            if n > 0 {
                say("\n");
            }
            messages::progress(&format!("process {pid}, {} of {}", n + 1, pids.len()));
        }
        let answer = one(args, *pid, &results);
        let exit = answer.end.exit();
        ends.push((*pid, answer.outcome, exit.code()));
        exits.push(exit);
        results.objects.push((answer.object, exit.code()));
        if answer.end == End::Crashed {
            break;
        }
    }
    let exit = Exit::of_all(&exits);
    if args.json {
        say(&results.print(exit));
    } else if results.several {
        say(&format!(
            "\n{}",
            summary(&ends, &results.not_tried, Screen::stdout())
        ));
    }
    Ok(exit)
}

/// What keeps it from beginning, whatever the processes are.
fn unusable(args: &InterruptArgs, pid: i32) -> Option<Failure> {
    let usage = |end, message: String, detail: Option<&str>, hint: String| Failure {
        end,
        message,
        detail: detail.map(str::to_owned),
        hint: Some(hint),
        outcome: None,
        told: None,
        asked_to_end: None,
    };
    if let Some(unknown) = args
        .allow
        .iter()
        .find(|a| TABLE.iter().all(|row| row.code != **a))
    {
        return Some(usage(
            End::UnknownCheck,
            format!("there is no check named \"{unknown}\""),
            None,
            format!("pgpoke inspect --json {pid} lists them"),
        ));
    }
    let can_ask = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    (!args.yes && !args.dry_run && !can_ask).then(|| {
        usage(
            End::NobodyToAsk,
            "there is no terminal to ask on, and --yes was not given".into(),
            Some("nothing was done"),
            format!("pgpoke inspect {pid} shows what would be done; --yes does it without asking"),
        )
    })
}

/// What is said in JSON of the processes that were tried, each with its exit code.
struct Results {
    objects: Vec<(Value, u8)>,
    not_tried: Vec<i32>,
    several: bool,
}

impl Results {
    fn print(&self, exit: Exit) -> String {
        match &self.objects[..] {
            [(object, _)] if !self.several => json::print(object),
            all => json::several(all, exit.code(), &self.not_tried),
        }
    }

    /// The last words about one process, with what was said of those before it.
    fn last_words(
        &self,
        args: &InterruptArgs,
        pid: i32,
        failure: &Failure,
        outcome: Outcome,
    ) -> Words {
        let mut words = failure.last_words(pid, false, Some(outcome));
        if args.json {
            let mut objects = self.objects.clone();
            let exit = failure.end.exit();
            objects.push((failure.as_json(pid, Some(outcome)), exit.code()));
            let all = Results {
                objects,
                not_tried: self.not_tried.clone(),
                several: self.several,
            };
            words.stdout = all.print(exit).into_bytes();
        }
        words
    }
}

/// What there is to say of one process.
struct Answer {
    object: Value,
    outcome: &'static str,
    end: End,
}

/// Climbs for one process, and says what came of it; in JSON, the caller does.
fn one(args: &InterruptArgs, pid: i32, before: &Results) -> Answer {
    let mut progress = Progress::new(args.json);
    let mut ladder = Ladder::new(&mut progress);
    let mut audit = Audit::new(args, request(args));
    let done = match open(pid) {
        Ok(process) => Climb {
            args,
            pid,
            process: &process,
            debug_files: args.debug_files.find(),
            before,
            ladder: &mut ladder,
            audit: &mut audit,
            patience: None,
            first: None,
            statement: None,
            server: None,
            sent: false,
            caught: None,
            reported: false,
            confirmed: true,
            children: Vec::new(),
        }
        .climb(),
        Err(failure) => Err(failure),
    };
    match done {
        Ok(mut done) => {
            audit.after(&done.report, done.end.exit());
            done.snapshot.warnings.extend(audit.warning());
            done.tell(args, ladder.steps())
        }
        Err(failure) => {
            audit.failed(&failure.message, failure.end.exit());
            messages::warnings(audit.warning().as_slice());
            messages::error(
                &failure.message,
                failure.detail.as_deref(),
                failure.hint.as_deref(),
            );
            let outcome = failure.outcome.unwrap_or(Outcome::Refused);
            Answer {
                object: failure.after(pid, outcome, ladder.steps()),
                outcome: json::outcome(outcome),
                end: failure.end,
            }
        }
    }
}

/// What is asked for.
fn request(args: &InterruptArgs) -> Request {
    match (args.cancel, args.terminate) {
        (true, _) => Request::Cancel,
        (_, true) => Request::Terminate,
        _ => Request::Pending,
    }
}

/// What was seen and done.
struct Done {
    snapshot: Snapshot,
    assessment: Assessment,
    report: Report,
    end: End,
    /// The cancel before it, that had no effect, and how that ended.
    escalated_from: Option<(Report, End)>,
}

impl Done {
    fn new(snapshot: Snapshot, assessment: Assessment, report: Report) -> Self {
        Done {
            snapshot,
            assessment,
            end: End::of(&report),
            report,
            escalated_from: None,
        }
    }

    fn tell(self, args: &InterruptArgs, steps: &[Step]) -> Answer {
        let Done {
            snapshot,
            assessment,
            report,
            end,
            escalated_from,
        } = self;
        messages::warnings(&snapshot.warnings);
        if !args.json {
            say(&text::intervention(
                &snapshot,
                &assessment,
                &report,
                Screen::stdout(),
            ));
        }
        let before = escalated_from.as_ref();
        let before = before.map(|(report, end)| (report, end.exit().code()));
        Answer {
            object: json::intervention(&snapshot, &assessment, &report, steps, before),
            outcome: json::outcome(report.outcome),
            end,
        }
    }
}

/// One process, and how far up the ladder it is.
struct Climb<'c, 'l> {
    args: &'c InterruptArgs,
    pid: i32,
    process: &'c Process,
    debug_files: Rc<DebugFiles>,
    before: &'c Results,
    ladder: &'c mut Ladder<'l>,
    audit: &'c mut Audit,
    /// Keeps the time while nobody is asked.
    patience: Option<Patience>,
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

impl<'c> Climb<'c, '_> {
    fn climb(mut self) -> Result<Done, Failure> {
        let done = self.directly();
        let mut done = self.unless_it_obeyed(done)?;
        if !self.has_to_escalate(&done) {
            done.report.left_behind = self.left_behind();
            return Ok(done);
        }
        self.audit.after(&done.report, done.end.exit());
        self.audit.escalate(self.args, Request::Terminate);
        let next = self.escalate(&done.report);
        let mut next = self.unless_it_obeyed(next)?;
        next.snapshot.stopped_ms += done.snapshot.stopped_ms;
        next.snapshot.stopped_ms += done.report.stopped.as_secs_f64() * 1e3;
        next.escalated_from = Some((done.report, done.end));
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
    fn directly(&mut self) -> Result<Done, Failure> {
        let request = request(self.args);
        let process = self.process;
        // Not for as long as the operator thinks about it.
        self.keep_time(self.args.grace, request);
        let backend = match self.prove() {
            Ok(backend) => backend,
            Err(e) => {
                let allow = &self.args.allow;
                let ended = zombie(process).map(|s| (assess(&s, request, allow), s));
                return match ended.and_then(|(a, s)| Some((settled(&a)?, a, s))) {
                    Some((report, judged, snapshot)) => Ok(Done::new(snapshot, judged, report)),
                    None => Err(Failure::not_a_backend(e, process)),
                };
            }
        };
        let plan = Plan::new(&backend);

        // Before anything is done to it: is it the kind of process that may be asked to end, and is there an occasion?
        let mut first = plan.without_stopping();
        self.audit.about(&backend, &first);
        self.statement = first.backend.statement_start;
        let mut judged = assess(&first, request, &self.args.allow);
        if settled(&judged).is_some() {
            // The answer stands, but a look at the stack tells more with it.
            first = inspect::take(&plan, false, &self.budget())?;
            judged = assess(&first, request, &self.args.allow);
            if let Some(report) = settled(&judged) {
                return Ok(Done::new(first, judged, report));
            }
        }
        self.first = Some((first, judged));
        self.server = Some(ServerWatch::new(&backend));
        self.children = process.descendants();
        if request != Request::Pending
            && !self.args.dry_run
            && let Some(done) = self.signal(&plan, request)?
        {
            return Ok(done);
        }
        let (snapshot, assessment) = match self.look(&plan, request)? {
            Looked::Done(done) => return Ok(*done),
            Looked::GoOn(seen) => *seen,
        };
        if !self.asks("", &snapshot, &assessment) {
            return Ok(not_confirmed(snapshot, assessment, request));
        }
        // What was read for the first proof is given back before the second.
        drop(plan);
        drop(backend);
        self.step_in(request, snapshot, assessment)
    }

    /// A terminate, after a cancel without effect.
    fn escalate(&mut self, cancel: &Report) -> Result<Done, Failure> {
        let request = Request::Terminate;
        self.keep_time(self.args.grace, request);
        let backend = self.prove_again()?;
        let plan = Plan::new(&backend);
        let (snapshot, assessment) = match self.look(&plan, request)? {
            Looked::Done(done) => return Ok(*done),
            Looked::GoOn(seen) => *seen,
        };
        let words = escalation(cancel, self.args.grace, Screen::stderr());
        if !self.asks(&words, &snapshot, &assessment) {
            let mut done = not_confirmed(snapshot, assessment, request);
            done.report.detail =
                "not confirmed; the cancel had no effect, and no terminate was sent".into();
            return Ok(done);
        }
        drop(plan);
        drop(backend);
        self.keep_time(self.args.grace, request);
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
        if !self.args.escalate || done.end == End::TookEffect {
            return false;
        }
        let terminate = done.assessment.verdict_if.terminate;
        let why_not = ladder::no_escalation(&done.report, self.confirmed, terminate);
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
    fn signal(&mut self, plan: &Plan, request: Request) -> Result<Option<Done>, Failure> {
        let (pid, process, grace) = (self.pid, self.process, self.args.grace);
        let (name, function) = match request {
            Request::Terminate => ("SIGTERM", "pg_terminate_backend()"),
            _ => ("SIGINT", "pg_cancel_backend()"),
        };
        self.audit.before(Act::Signal);
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
            .map_err(|e| cannot_signal(e, process))?;
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
    fn unless_it_obeyed(&mut self, done: Result<Done, Failure>) -> Result<Done, Failure> {
        let detail = "it has obeyed the signal since, and has ended; nothing was touched";
        match done {
            Err(failure)
                if self.sent
                    && matches!(failure.end, End::Gone | End::NotABackend)
                    && self.process.has_ended() =>
            {
                self.obeyed(detail).ok_or(failure)
            }
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
    fn look(&mut self, plan: &Plan, request: Request) -> Result<Looked, Failure> {
        let args = self.args;
        let done = |done: Done| Ok(Looked::Done(Box::new(done)));
        let budget = self.budget();
        // Nothing but the first signal is sent before a look.
        let sent = self.sent.then_some(match args.cancel {
            true => 1 << (libc::SIGINT - 1),
            false => 1 << (libc::SIGTERM - 1),
        });
        let (mut snapshot, assessment) = self.ladder.climb(
            Rung::Look,
            ("looking into it", None),
            || {
                let looks = inspect::Looks::one_or_a_few();
                let (mut snapshot, _) = looks.take(plan, &budget, |_| ())?;
                plan.find_others(&mut snapshot);
                snapshot.signals.sent = sent;
                snapshot.swallowed = self.caught.clone();
                if snapshot.swallowed.is_none() && self.sent && args.cancel {
                    snapshot.swallowed = taken_without_effect(&snapshot, self.statement);
                }
                let assessment = assess(&snapshot, request, &args.allow);
                Ok((snapshot, assessment))
            },
            |seen: &Result<(Snapshot, Assessment), Failure>| match seen {
                Ok((_, a)) => format!(
                    "{}: {}; a {} is {}",
                    a.cause.code,
                    a.cause.summary,
                    a.interrupt,
                    verdict_here(a)
                ),
                Err(failure) => failure.message.clone(),
            },
        )?;
        self.patience = None;
        // It was told to before, and may only have been slow.
        let told = self.sent && args.cancel;
        if told && plan.statement_is_over(self.statement) == Some(true) {
            return done(self.ended_by_itself(snapshot, assessment));
        }
        if snapshot.process.would_not_stop {
            let escalates = args.cancel && request == Request::Terminate;
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
        if args.dry_run {
            let report = dry(&assessment);
            return done(Done::new(snapshot, assessment, report));
        }
        Ok(Looked::GoOn(Box::new((snapshot, assessment))))
    }

    /// Gathers a report, once: afterwards it is too late. Without it, nothing is done. Says how long the backend stood
    /// still for it, in milliseconds.
    fn gather(&mut self, plan: &Plan) -> Result<f64, Failure> {
        let Some(directory) = self.args.report.as_ref().filter(|_| !self.reported) else {
            return Ok(0.0);
        };
        let budget = self.budget();
        let patience = self.time(report::TIME_TO_LOOK, Outcome::TimedOut);
        let directory = match self.before.several {
            true => {
                report::make_room(directory)?;
                directory.join(self.pid.to_string())
            }
            false => directory.clone(),
        };
        let written = self.ladder.climb(
            Rung::Report,
            ("gathering a report", None),
            || report::before_stepping_in(&directory, plan, &budget, patience),
            |written| match written {
                Ok(written) => {
                    let files = written.contents.files.len();
                    format!("{files} files are in {}", directory.display())
                }
                Err(failure) => failure.message.clone(),
            },
        )?;
        self.reported = true;
        Ok(written.stopped_ms)
    }

    /// Waits for one that is on its way out already.
    fn ends_now(&mut self) -> bool {
        let (process, grace) = (self.process, self.args.grace);
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
    fn asks(&mut self, before: &str, snapshot: &Snapshot, assessment: &Assessment) -> bool {
        if self.args.yes {
            return true;
        }
        let screen = Screen::stderr();
        let question = text::question(before, snapshot, assessment, self.args.wait, screen);
        self.confirmed = self.ladder.climb(
            Rung::Ask,
            ("", None),
            || confirmed(&question),
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
    ) -> Result<Done, Failure> {
        let (args, pid, process) = (self.args, self.pid, self.process);
        let acting = args.wait.saturating_add(args.timeout.saturating_mul(2));
        self.patience = Some(self.time(acting, Outcome::TimedOut));
        // The search for a safe instruction has a deadline, which a server of debug files knows nothing of.
        self.debug_files.stop_downloading();
        let backend = self.prove_again()?;
        let plan = Plan::new(&backend);
        let options = Options {
            request,
            budget: self.budget(),
            grace: args.grace,
            wait: args.wait,
            timeout: args.timeout,
            allow: args.allow.clone(),
        };
        let statement = self.statement;
        self.audit.before(Act::StepIn(assessment.verdict));
        let what = format!("looking for a safe instruction in process {pid}");
        let stepped = self
            .ladder
            .climb(
                Rung::StepIn,
                (&what, Some(args.wait)),
                || step_in(&plan, &options, statement),
                |stepped| match stepped {
                    Ok(Stepped::Called(called)) => told_of_call(called.end, called.attempts()),
                    Ok(Stepped::Not(report)) => format!("nothing was called: {}", report.detail),
                    Err(e) => e.to_string(),
                },
            )
            .map_err(|e| Failure::trace(e, process))?;
        let report = match (stepped, &self.server) {
            (Stepped::Called(called), Some(server)) => self.ladder.climb(
                Rung::Verify,
                ("seeing what came of it", Some(args.timeout)),
                || verify(called, &plan, &options, statement, server),
                |report| format!("{}; {}", report.detail, told_of_server(report.server)),
            ),
            (Stepped::Called(called), None) => {
                let server = ServerWatch::new(&backend);
                verify(called, &plan, &options, statement, &server)
            }
            (Stepped::Not(mut report), _) => {
                let same = backend.still_executes_the_server();
                same.map_err(|e| Failure::not_a_backend(e, process))?;
                if report.outcome == Outcome::ObeyedSignal {
                    self.see_the_end(&mut report, Duration::ZERO);
                }
                report
            }
        };
        let mut assessment = assessment;
        if matches!(report.outcome, Outcome::Refused | Outcome::Pointless) {
            let tried = (request, &report.objections[..]);
            advice::after_search(&snapshot, &mut assessment, tried, &args.allow);
        }
        if report.swallowed {
            // Of what was seen before, this is the cause now.
            self.caught = Some(report.detail.clone());
            snapshot.swallowed = self.caught.clone();
            let now = assess(&snapshot, request, &args.allow);
            (assessment.cause, assessment.advice) = (now.cause, now.advice);
        }
        Ok(Done::new(snapshot, assessment, report))
    }

    fn prove(&self) -> Result<Backend<'c>, NotABackend> {
        prove_with(self.process, self.debug_files.clone())
    }

    /// The same of one that was known before.
    fn prove_again(&self) -> Result<Backend<'c>, Failure> {
        self.prove()
            .map_err(|e| Failure::not_a_backend(e, self.process))
    }

    /// What each stop may take, and what is said in the end if that is not enough.
    fn budget(&self) -> StopBudget {
        StopBudget::new(self.pid, self.args.max_stop, |error| {
            let failure = Failure::trace(error, self.process);
            self.before
                .last_words(self.args, self.pid, &failure, Outcome::Refused)
        })
    }

    fn keep_time(&mut self, more: Duration, request: Request) {
        let unfinished = match request {
            Request::Pending => Outcome::Refused,
            _ => Outcome::TimedOut,
        };
        self.patience = Some(self.time(more, unfinished));
    }

    fn time(&self, more: Duration, unfinished: Outcome) -> Patience {
        Patience::framed(self.pid, more, |failure| {
            self.before
                .last_words(self.args, self.pid, &failure, unfinished)
        })
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

fn cannot_signal(e: std::io::Error, process: &Process) -> Failure {
    let pid = process.pid();
    if e.raw_os_error() == Some(libc::ESRCH) {
        return Failure::trace(TraceError::Gone(pid), process);
    }
    Failure {
        end: End::of_signal(&e),
        message: format!("cannot send a signal to process {pid}: {e}"),
        detail: None,
        hint: None,
        outcome: None,
        told: None,
        asked_to_end: None,
    }
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
    refused.end = End::NotConfirmed;
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

/// Asks on the terminal. Only a clear yes is one.
fn confirmed(question: &str) -> bool {
    let mut err = std::io::stderr().lock();
    let mut answer = String::new();
    write!(err, "{question}").and_then(|()| err.flush()).is_ok()
        && std::io::stdin().lock().read_line(&mut answer).is_ok()
        // Ctrl-D leaves the cursor behind the question.
        && (answer.ends_with('\n') || writeln!(err).is_ok())
        && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}
