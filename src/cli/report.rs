//! `pgpoke report`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::inspect::Looks;
use super::open::{Failure, open, stop_budget};
use super::patience::Patience;
use super::{Exit, ReportArgs, messages, say};
use crate::assess::{Request, assess, samples};
use crate::evidence::{self, Bundle, Contents, Material, Options, README, Spoken};
use crate::intervene::STOP_LIMIT;
use crate::postgres::prove_with;
use crate::render::report::Written;
use crate::render::{json, report, samples as tree, text};
use crate::snapshot::{Plan, Snapshot};
use crate::tracee::StopBudget;
use crate::tracee::arch::Registers;
use crate::tracee::sys::HeldSignals;

/// The pause between two looks: long enough that the backend is elsewhere, if it gets on at all.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// How many looks there are before an interrupt.
const LOOKS: u32 = 5;

/// How often it is said what is being gathered.
const PROGRESS: Duration = Duration::from_millis(500);

/// What is to be gathered, and where to.
struct Wishes {
    directory: PathBuf,
    looks: Looks,
    options: Options,
    quiet: bool,
}

/// Runs the command.
pub fn run(args: &ReportArgs) -> anyhow::Result<Exit> {
    let pid = args.target.pid();
    let options = match options(args) {
        Ok(options) => options,
        Err(why) => {
            return Ok(failure(Exit::Usage, format!("--dsn: {why}")).tell(pid, args.json, None));
        }
    };
    Ok(match gather(args, pid, options) {
        Ok((written, warnings)) => {
            messages::warnings(&warnings);
            tell(args, &written)
        }
        Err(failure) => failure.tell(pid, args.json, None),
    })
}

fn options(args: &ReportArgs) -> Result<Options, String> {
    let dsn = args.dsn.as_deref().map(evidence::dsn_config).transpose()?;
    Ok(Options {
        dsn,
        redact: args.redact,
    })
}

fn failure(exit: Exit, message: String) -> Failure {
    Failure {
        exit,
        message,
        detail: None,
        hint: None,
        outcome: None,
        told: None,
    }
}

/// Says what came of it. Only a whole report is one.
fn tell(args: &ReportArgs, written: &Written) -> Exit {
    if args.json {
        say(&json::report(written));
    }
    let directory = written.directory.display();
    match (written.contents.ended_early, &written.archive) {
        (true, _) => {
            messages::error(
                "a signal asked pgpoke to end before all was gathered",
                Some(&format!(
                    "what was gathered until then is in {directory}; the backend runs on, untouched"
                )),
                None,
            );
            Exit::Error
        }
        (false, None) => Exit::Error,
        (false, Some(_)) => {
            if !args.json {
                say(&report::text(written));
            }
            Exit::Done
        }
    }
}

fn gather(
    args: &ReportArgs,
    pid: i32,
    options: Options,
) -> Result<(Written, Vec<String>), Failure> {
    let looking = (STOP_LIMIT + BETWEEN_LOOKS) * args.samples;
    let patience = Patience::with(pid, looking, args.json, None);
    let process = open(pid)?;
    let backend = prove_with(&process, args.debug_files.find())
        .map_err(|e| Failure::not_a_backend(e, &process))?;
    let plan = Plan::new(&backend);
    let budget = stop_budget(&process, args.max_stop, args.json, None);
    let wishes = Wishes {
        directory: args
            .output
            .clone()
            .unwrap_or_else(|| default_directory(pid)),
        looks: Looks {
            passive: args.passive,
            samples: args.samples,
            pause: BETWEEN_LOOKS,
        },
        options,
        quiet: args.json,
    };
    write(&wishes, &plan, &budget, patience)
}

/// Gathers a report before an interrupt. Without it, there is none.
pub fn before_stepping_in(
    directory: &Path,
    plan: &Plan,
    budget: &StopBudget,
) -> Result<(), Failure> {
    let wishes = Wishes {
        directory: directory.to_owned(),
        looks: Looks {
            passive: true,
            samples: LOOKS,
            pause: BETWEEN_LOOKS,
        },
        options: Options::default(),
        quiet: true,
    };
    let pid = plan.backend.process.pid();
    let patience = Patience::with(pid, (STOP_LIMIT + BETWEEN_LOOKS) * LOOKS, false, None);
    let (written, _) = write(&wishes, plan, budget, patience)?;
    let directory = written.directory.display();
    if written.contents.ended_early {
        let message =
            format!("a signal asked pgpoke to end; what was gathered until then is in {directory}");
        return Err(failure(Exit::Error, message));
    }
    messages::progress(&format!("the report is in {directory}"));
    Ok(())
}

fn default_directory(pid: i32) -> PathBuf {
    format!(
        "pgpoke-report-{pid}-{}",
        evidence::timestamp(SystemTime::now(), "", "")
    )
    .into()
}

/// Looks, and writes the bundle. `patience` is for the looks; what is gathered afterwards has deadlines of its own.
fn write(
    wishes: &Wishes,
    plan: &Plan,
    budget: &StopBudget,
    patience: Patience,
) -> Result<(Written, Vec<String>), Failure> {
    let shown = wishes.directory.display();
    let cannot =
        |what: &str, e: std::io::Error| failure(Exit::Error, format!("cannot {what} {shown}: {e}"));
    let mut bundle =
        Bundle::create(&wishes.directory).map_err(|e| cannot("make the directory", e))?;
    // Who presses Ctrl-C is told what there is.
    let signals = HeldSignals::hold(
        &[libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT],
        &[],
    );
    let seen = Seen::of(wishes, plan, budget);
    let mut seen = match seen {
        Ok(seen) => seen,
        Err(failure) => {
            bundle.give_up();
            return Err(failure);
        }
    };
    progress(
        wishes,
        &format!("looked at it {} times; it runs on", seen.looks),
    );

    let redactor = wishes.options.redactor(
        plan.backend.process,
        seen.snapshot.backend.client.as_deref(),
    );
    if let Some(redactor) = &redactor {
        redactor.snapshot(&mut seen.snapshot);
    }
    let assessment = assess(&seen.snapshot, Request::Pending, &[]);
    let spoken = seen.spoken(&assessment);
    let judgement = text::judgement(&seen.snapshot, &assessment);
    let modules = seen
        .snapshot
        .stack
        .iter()
        .flat_map(|s| &s.frames)
        .filter_map(|f| f.module.clone());
    let material = Material::of(
        plan.backend,
        wishes.options.clone(),
        redactor,
        modules.collect(),
        spoken,
    );
    let material = Arc::new(material.map_err(|e| cannot("gather anything into", e))?);
    drop(patience);

    let mut said = Instant::now();
    let mut signal = None;
    let contents = evidence::gather(
        &material,
        &mut bundle,
        |item| {
            if said.elapsed() >= PROGRESS {
                progress(wishes, &format!("gathering {}", item.file));
                said = Instant::now();
            }
        },
        || {
            signal = signal.or_else(|| signals.take(Duration::ZERO));
            signal.is_none()
        },
    );
    let readme = evidence::readme(&material, &contents, &seen.snapshot.warnings);
    let readme = bundle.write(README, readme.as_bytes());
    readme.map_err(|e| cannot(&format!("write {README} into"), e))?;
    let archive = match contents.ended_early {
        true => None,
        false => packed(&bundle),
    };
    let written = Written {
        pid: seen.snapshot.pid,
        verdict: assessment.verdict,
        cause: assessment.cause,
        judgement,
        directory: bundle.path().to_owned(),
        archive,
        contents: Contents { ..contents },
        looks: seen.looks,
        stopped_ms: seen.snapshot.stopped_ms,
        redacted: wishes.options.redact,
    };
    Ok((written, seen.snapshot.warnings))
}

fn packed(bundle: &Bundle) -> Option<PathBuf> {
    let directory = bundle.path().display();
    let packed = bundle.pack();
    packed
        .inspect_err(|e| {
            let message = format!("cannot write the archive {directory}.tar.gz: {e}");
            messages::error(
                &message,
                Some(&format!("the files are in {directory}")),
                None,
            );
        })
        .ok()
}

fn progress(wishes: &Wishes, what: &str) {
    if !wishes.quiet {
        messages::progress(what);
    }
}

/// What the looks have shown.
struct Seen {
    snapshot: Snapshot,
    registers: Option<Registers>,
    backtraces: String,
    looks: usize,
}

impl Seen {
    fn of(wishes: &Wishes, plan: &Plan, budget: &StopBudget) -> Result<Self, Failure> {
        let (mut backtraces, mut looks) = (String::new(), 0);
        let began = Instant::now();
        let each = |snapshot: &Snapshot| {
            looks += 1;
            let after = began.elapsed().as_millis();
            backtraces.push_str(&format!(
                "look {looks}, after {after} ms\n{}\n",
                text::backtrace(snapshot)
            ));
        };
        let (snapshot, registers) = wishes.looks.take(plan, budget, each)?;
        Ok(Seen {
            snapshot,
            registers,
            backtraces,
            looks,
        })
    }

    /// In words.
    fn spoken(&self, assessment: &crate::assess::Assessment) -> Spoken {
        let s = &self.snapshot;
        let stopped = s.stack.is_some();
        let registers = self.registers.as_ref().map(|r| {
            let lines = r
                .named()
                .map(|(name, value)| format!("{name:<9} {value:#018x}\n"));
            lines.concat()
        });
        let tree = samples::motion(s).map(|m| tree::tree(&m.tree, m.looks, usize::MAX));
        let judgement = text::judgement(s, assessment);
        Spoken {
            verdict: judgement.lines().next().unwrap_or_default().trim_start_matches("verdict").trim().to_owned(),
            assessment_text: text::inspection(s, assessment, true),
            assessment_json: json::inspection(s, assessment),
            backtraces: stopped.then(|| self.backtraces.clone()),
            tree: tree.or_else(|| stopped.then(|| "one look, or stacks that are not known to their root: there is no tree of several\n".to_owned())),
            registers,
            stopped_ms: s.stopped_ms,
        }
    }
}
