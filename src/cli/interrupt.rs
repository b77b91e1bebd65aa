//! `pgpoke interrupt`: the ladder for each process that was named, with the operator at the terminal.

use std::error::Error;
use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

use serde_json::Value;

use super::audit::Audit;
use super::exit::{End, Exit};
use super::open::{Failure, open};
use super::patience::Patience;
use super::progress::Progress;
use super::{InterruptArgs, messages, report, say};
use crate::assess::Request;
use crate::assess::checks::TABLE;
use crate::intervene::{
    Done, Gathered, Ladder, News, Operator, Orders, Outcome, Question, Step, interrupt,
};
use crate::process::Process;
use crate::render::ladder::{escalation, summary};
use crate::render::screen::Screen;
use crate::render::{json, text};
use crate::snapshot::Plan;
use crate::tracee::{StopBudget, TraceError, Words};

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
        detail: detail.map(str::to_owned),
        hint: Some(hint),
        ..Failure::new(end, message)
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
    let mut audit = Audit::new(args, request(args));
    let mut steps = Vec::new();
    let done = open(pid).and_then(|process| {
        let mut operator = AtTheTerminal {
            args,
            pid,
            process: &process,
            before,
            progress: Progress::new(args.json),
            audit: &mut audit,
            patience: None,
            no_report: None,
        };
        let mut ladder = Ladder::new(&mut operator);
        let done = interrupt(&process, &orders(args), &mut ladder);
        steps = ladder.into_steps();
        done.map_err(|e| {
            let no_report = operator.no_report.take();
            no_report.unwrap_or_else(|| Failure::climb(e, &process))
        })
    });
    match done {
        Ok(mut done) => {
            audit.after(&done.report, End::of(&done).exit());
            done.snapshot.warnings.extend(audit.warning());
            tell(done, args, &steps)
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
                object: failure.after(pid, outcome, &steps),
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

fn orders(args: &InterruptArgs) -> Orders {
    Orders {
        request: request(args),
        grace: args.grace,
        wait: args.wait,
        timeout: args.timeout,
        max_stop: args.max_stop,
        allow: args.allow.clone(),
        escalate: args.escalate,
        dry_run: args.dry_run,
        report: args.report.is_some(),
        yes: args.yes,
        debug_files: args.debug_files.find(),
    }
}

fn tell(done: Done, args: &InterruptArgs, steps: &[Step]) -> Answer {
    let end = End::of(&done);
    let Done {
        snapshot,
        assessment,
        report,
        escalated_from,
        ..
    } = done;
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
    let before = before.map(|report| (report, End::from(report).exit().code()));
    Answer {
        object: json::intervention(&snapshot, &assessment, &report, steps, before),
        outcome: json::outcome(report.outcome),
        end,
    }
}

/// The operator of one process, as the command line has it.
struct AtTheTerminal<'o> {
    args: &'o InterruptArgs,
    /// As it was named.
    pid: i32,
    process: &'o Process,
    before: &'o Results,
    progress: Progress,
    audit: &'o mut Audit,
    /// Keeps the time while nobody is asked.
    patience: Option<Patience>,
    /// Why there is no report.
    no_report: Option<Failure>,
}

impl AtTheTerminal<'_> {
    fn time(&self, more: Duration, unfinished: Outcome) -> Patience {
        Patience::framed(self.pid, more, |failure| {
            self.before
                .last_words(self.args, self.pid, &failure, unfinished)
        })
    }

    fn gather(&self, plan: &Plan, budget: &StopBudget) -> Result<Gathered, Failure> {
        let patience = self.time(report::TIME_TO_LOOK, Outcome::TimedOut);
        let mut directory = self.args.report.clone().unwrap_or_default();
        if self.before.several {
            report::make_room(&directory)?;
            directory.push(self.pid.to_string());
        }
        let written = report::before_stepping_in(&directory, plan, budget, patience)?;
        let files = written.contents.files.len();
        Ok(Gathered {
            told: format!("{files} files are in {}", directory.display()),
            stopped_ms: written.stopped_ms,
        })
    }
}

impl Operator for AtTheTerminal<'_> {
    fn ask(&mut self, question: &Question<'_>) -> bool {
        let (args, screen) = (self.args, Screen::stderr());
        let before = question.after.map(|c| escalation(c, args.grace, screen));
        confirmed(&text::question(
            &before.unwrap_or_default(),
            question.snapshot,
            question.assessment,
            args.wait,
            screen,
        ))
    }

    fn tell(&mut self, news: News<'_>) {
        match news {
            News::Begins { rung, what, limit } => self.progress.begins(rung, what, limit),
            News::Ended(step) => self.progress.ended(step),
            News::Found { backend, glance } => self.audit.about(backend, glance),
            News::Acts(act) => self.audit.before(act),
            News::Escalates(cancel) => {
                self.audit.after(&cancel.report, End::of(cancel).exit());
                self.audit.escalate(self.args, Request::Terminate);
            }
            // Not for as long as the operator thinks about it.
            News::Busy { more, unfinished } => self.patience = Some(self.time(more, unfinished)),
            News::Idle => self.patience = None,
        }
    }

    fn report(
        &mut self,
        plan: &Plan,
        budget: &StopBudget,
    ) -> Result<Gathered, Box<dyn Error + Send + Sync>> {
        self.gather(plan, budget).map_err(|failure| {
            let message = failure.message.clone();
            self.no_report = Some(failure);
            message.into()
        })
    }

    fn last_words(&self, error: TraceError) -> Words {
        let failure = Failure::trace(error, self.process);
        self.before
            .last_words(self.args, self.pid, &failure, Outcome::Refused)
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
