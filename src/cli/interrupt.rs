//! `pgpoke interrupt`

use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

use super::audit::{Act, Audit};
use super::open::{Failure, open, stop_budget};
use super::patience::Patience;
use super::{Exit, InterruptArgs, inspect, messages, say};
use crate::assess::checks::{TABLE, Weight, weight};
use crate::assess::{Assessment, Check, Request, Verdict, assess};
use crate::intervene::{Obeyed, Options, Outcome, Report, signal_and_wait, step_in};
use crate::postgres::prove_with;
use crate::render::{json, text};
use crate::snapshot::{Plan, Snapshot, zombie};
use crate::tracee::TraceError;

/// Runs the command.
pub fn run(args: &InterruptArgs) -> anyhow::Result<Exit> {
    let pid = args.target.pid();
    if let Some(unknown) = args
        .allow
        .iter()
        .find(|a| TABLE.iter().all(|row| row.code != **a))
    {
        let failure = Failure {
            exit: Exit::Usage,
            message: format!("there is no check named \"{unknown}\""),
            detail: None,
            hint: Some(format!("pgpoke inspect --json {pid} lists them")),
            outcome: None,
            told: None,
        };
        return Ok(failure.tell(pid, args.json, Some(Outcome::Refused)));
    }
    let can_ask = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if !args.yes && !args.dry_run && !can_ask {
        let failure = Failure {
            exit: Exit::Usage,
            message: "there is no terminal to ask on, and --yes was not given".into(),
            detail: Some("nothing was done".into()),
            hint: Some(format!(
                "pgpoke inspect {pid} shows what would be done; --yes does it without asking"
            )),
            outcome: None,
            told: None,
        };
        return Ok(failure.tell(pid, args.json, Some(Outcome::Refused)));
    }
    let mut audit = Audit::new(args, request(args));
    Ok(match interrupt(args, pid, &mut audit) {
        Ok(mut done) => {
            audit.after(&done.report, done.exit);
            done.snapshot.warnings.extend(audit.warning());
            tell(args, &done);
            done.exit
        }
        Err(failure) => {
            audit.failed(&failure.message, failure.exit);
            messages::warnings(audit.warning().as_slice());
            failure.tell(pid, args.json, Some(Outcome::Refused))
        }
    })
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
    exit: Exit,
}

impl Done {
    fn new(snapshot: Snapshot, assessment: Assessment, report: Report) -> Self {
        let exit = match report.outcome {
            Outcome::Cancelled
            | Outcome::Terminated
            | Outcome::BarrierAccepted
            | Outcome::ObeyedSignal
            | Outcome::DryRun => Exit::Done,
            Outcome::Returned | Outcome::Pointless => Exit::Pointless,
            Outcome::Refused if report.verdict == Some(Verdict::Risky) => Exit::Risky,
            Outcome::Refused => Exit::Unsafe,
            Outcome::TimedOut => Exit::TimedOut,
            Outcome::Crashed => Exit::Crashed,
        };
        Done {
            snapshot,
            assessment,
            report,
            exit,
        }
    }
}

fn tell(args: &InterruptArgs, done: &Done) {
    messages::warnings(&done.snapshot.warnings);
    if args.json {
        say(&json::intervention(
            &done.snapshot,
            &done.assessment,
            &done.report,
        ));
    } else {
        say(&text::intervention(
            &done.snapshot,
            &done.assessment,
            &done.report,
        ));
    }
}

fn interrupt(args: &InterruptArgs, pid: i32, audit: &mut Audit) -> Result<Done, Failure> {
    let request = request(args);
    // Not for as long as the operator thinks about it.
    let unfinished = match request {
        Request::Pending => Outcome::Refused,
        _ => Outcome::TimedOut,
    };
    let patience = Patience::with(pid, args.grace, args.json, Some(unfinished));
    let process = open(pid)?;
    let budget = stop_budget(&process, args.max_stop, args.json, Some(Outcome::Refused));
    let options = Options {
        request,
        budget,
        grace: args.grace,
        wait: args.wait,
        timeout: args.timeout,
        allow: args.allow.clone(),
    };
    let debug_files = args.debug_files.find();
    let backend = match prove_with(&process, debug_files.clone()) {
        Ok(backend) => backend,
        Err(e) => {
            let ended = zombie(&process).map(|s| (assess(&s, request, &options.allow), s));
            return match ended.and_then(|(a, s)| Some((settled(&a)?, a, s))) {
                Some((report, judged, snapshot)) => Ok(Done::new(snapshot, judged, report)),
                None => Err(Failure::not_a_backend(e, &process)),
            };
        }
    };
    let plan = Plan::new(&backend);

    // Before anything is done to it: is it the kind of process that may be asked to end, and is there an occasion?
    let mut first = plan.without_stopping();
    audit.about(&backend, &first);
    let statement = first.backend.statement_start;
    let mut judged = assess(&first, request, &options.allow);
    if settled(&judged).is_some() {
        // The answer stands, but a look at the stack tells more with it.
        first = inspect::take(&plan, true, &options.budget)?;
        judged = assess(&first, request, &options.allow);
        if let Some(report) = settled(&judged) {
            return Ok(Done::new(first, judged, report));
        }
    }
    if request != Request::Pending && !args.dry_run {
        announce(
            args,
            &format!(
                "sending the signal of pg_{}_backend() to process {pid}, and waiting {} for it to obey",
                if request == Request::Cancel {
                    "cancel"
                } else {
                    "terminate"
                },
                seconds(args.grace)
            ),
        );
        audit.before(Act::Signal);
        let obeyed = signal_and_wait(&plan, request, statement, options.grace).map_err(|e| {
            if e.raw_os_error() == Some(libc::ESRCH) {
                Failure::trace(TraceError::Gone(pid), &process)
            } else {
                Failure {
                    exit: if e.kind() == std::io::ErrorKind::PermissionDenied {
                        Exit::Denied
                    } else {
                        Exit::Error
                    },
                    message: format!("cannot send a signal to process {pid}: {e}"),
                    detail: None,
                    hint: None,
                    outcome: None,
                    told: None,
                }
            }
        })?;
        let detail = match obeyed {
            Obeyed::Ended => Some("it obeyed the signal and has ended; nothing was touched"),
            Obeyed::StatementOver => {
                Some("it obeyed the signal, and its statement is over; nothing was touched")
            }
            Obeyed::No => None,
        };
        if let Some(detail) = detail {
            let mut report = Report::new(Outcome::ObeyedSignal, detail);
            report.server_restarted = Some(false);
            return Ok(Done::new(first, judged, report));
        }
        announce(args, "it did not obey; looking into it");
    }
    let (snapshot, assessment) = match look(args, &options, &plan, patience)? {
        Looked::Done(done) => return Ok(*done),
        Looked::Confirmed(snapshot, assessment) => (*snapshot, assessment),
    };
    let acting = args.wait.saturating_add(args.timeout.saturating_mul(2));
    let _patience = Patience::with(pid, acting, args.json, Some(Outcome::TimedOut));
    // What was read for the first proof is given back before the second.
    drop(plan);
    drop(backend);
    // Time has passed at the prompt. Who it is, and what it has mapped, is proved anew.
    // The search for a safe instruction has a deadline, which a server of debug files knows nothing of.
    debug_files.stop_downloading();
    let backend =
        prove_with(&process, debug_files).map_err(|e| Failure::not_a_backend(e, &process))?;
    let plan = Plan::new(&backend);
    audit.before(Act::StepIn(assessment.verdict));
    let report = step_in(&plan, &options, statement).map_err(|e| Failure::trace(e, &process))?;
    Ok(Done::new(snapshot, assessment, report))
}

/// What came of looking closely.
enum Looked {
    /// There is nothing more to do.
    Done(Box<Done>),
    /// It is to be stepped in.
    Confirmed(Box<Snapshot>, Assessment),
}

/// Looks closely, explains, and asks.
fn look(
    args: &InterruptArgs,
    options: &Options,
    plan: &Plan,
    patience: Patience,
) -> Result<Looked, Failure> {
    let done = |done: Done| Ok(Looked::Done(Box::new(done)));
    let snapshot = inspect::take(plan, false, &options.budget)?;
    drop(patience);
    let assessment = assess(&snapshot, options.request, &options.allow);
    if snapshot.process.would_not_stop {
        let mut report = Report::new(
            Outcome::TimedOut,
            match options.request {
                Request::Pending => "it did not stop when asked to; nothing was done",
                _ => "it did not stop when asked to; the signal was sent, and waits until it wakes",
            },
        );
        if snapshot.process.state == Some('D') {
            report.outcome = Outcome::Pointless;
        }
        return done(Done::new(snapshot, assessment, report));
    }
    if let Some(report) = settled(&assessment) {
        return done(Done::new(snapshot, assessment, report));
    }
    if let Some(directory) = &args.report {
        super::report::before_stepping_in(directory, plan, &options.budget)?;
    }
    if args.dry_run {
        let report = dry(&assessment);
        return done(Done::new(snapshot, assessment, report));
    }
    if !args.yes && !confirmed(&text::question(&snapshot, &assessment)) {
        let report = Report::new(
            Outcome::Refused,
            match options.request {
                Request::Pending => "not confirmed; nothing was done",
                _ => "not confirmed; the signal was sent, and nothing else was done",
            },
        );
        let mut refused = Done::new(snapshot, assessment, report);
        refused.exit = Exit::Usage;
        return done(refused);
    }
    Ok(Looked::Confirmed(Box::new(snapshot), assessment))
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

fn seconds(d: Duration) -> String {
    format!("{} s", d.as_secs_f64())
}

/// Says what is going on, where somebody reads along.
fn announce(args: &InterruptArgs, what: &str) {
    if !args.json {
        messages::progress(what);
    }
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
