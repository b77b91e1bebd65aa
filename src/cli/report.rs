//! `pgpoke report`

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::exit::{End, Exit};
use super::open::{Failure, open, stop_budget};
use super::patience::Patience;
use super::{CoreKind, ReportArgs, messages, say};
use crate::arch::host::stopped::Registers;
use crate::assess::looks::JUDGE;
use crate::assess::samples::Tree;
use crate::assess::{Request, assess, samples};
use crate::evidence::core::{CoreError, CoreOptions, CoreReport, Progress};
use crate::evidence::{self, Bundle, Contents, Gathered, Material, Options, README, Spoken};
use crate::postgres::prove_with;
use crate::render::report::Written;
use crate::render::screen::Screen;
use crate::render::{json, report, samples as tree, text};
use crate::snapshot::looks::{Looks, STOP_LIMIT};
use crate::snapshot::{Plan, Snapshot, Unseen};
use crate::sys::HeldSignals;
use crate::tracee::threads::Absent;
use crate::tracee::threads::ForOthers::{Hasty, Patient};
use crate::tracee::{StopBudget, TraceError};

/// The pause between two looks: long enough that the backend is elsewhere, if it gets on at all.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// How many looks there are before an interrupt.
const LOOKS: u32 = 5;

/// The core file, and what is in it.
const CORE: &str = "core";
const ABOUT_CORE: &str = "core.json";

/// How often it is said what is being gathered.
const PROGRESS: Duration = Duration::from_millis(500);

/// What is to be gathered, and where to.
struct Wishes {
    directory: PathBuf,
    looks: Looks,
    options: Options,
    core: Option<CoreKind>,
    quiet: bool,
}

/// Runs the command.
pub fn run(args: &ReportArgs) -> anyhow::Result<Exit> {
    let pid = args.target.pid();
    let options = match options(args) {
        Ok(options) => options,
        Err(why) => {
            let failure = Failure {
                hint: Some("a connection string may name host, hostaddr, port, user, password, dbname and connect_timeout; without a host it leads to the server's own socket: --dsn user=postgres".into()),
                ..Failure::new(End::WrongUsage, format!("--dsn: {why}"))
            };
            return Ok(failure.tell(pid, args.json, None));
        }
    };
    Ok(match gather(args, pid, options) {
        Ok((written, warnings)) => {
            messages::warnings(&warnings);
            tell(args, &written).exit()
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

/// Says what came of it. Only a whole report is one, and one with a core file, if that was asked for.
fn tell(args: &ReportArgs, written: &Written) -> End {
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
            End::AskedToEnd
        }
        (false, None) => End::NotAllGathered,
        (false, Some(_)) => {
            if !args.json {
                say(&report::text(written, Screen::stdout()));
            }
            match args.core.is_some() && written.core.is_none() {
                true => End::NotAllGathered,
                false => End::Gathered,
            }
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
    // What variables hold is what queries are about.
    let plan = match args.redact {
        true => Plan::new(&backend),
        false => Plan::new(&backend).with_variables(),
    };
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
            more: false,
            judge: JUDGE,
        },
        options,
        core: args.core,
        quiet: args.json,
    };
    write(&wishes, &plan, &budget, patience)
}

/// How long the looks of [`before_stepping_in`] may take.
pub const TIME_TO_LOOK: Duration = STOP_LIMIT
    .saturating_add(BETWEEN_LOOKS)
    .saturating_mul(LOOKS);

/// Makes the directory for the reports of several processes; each has one of its own in there.
pub fn make_room(directory: &Path) -> Result<(), Failure> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => {
            let shown = directory.display();
            let message = format!("cannot make the directory {shown}: {e}");
            Err(Failure::new(End::NotAllGathered, message))
        }
        _ => Ok(()),
    }
}

/// Gathers a report before an interrupt.
pub fn before_stepping_in(
    directory: &Path,
    plan: &Plan,
    budget: &StopBudget,
    patience: Patience,
) -> Result<Written, Failure> {
    let wishes = Wishes {
        directory: directory.to_owned(),
        looks: Looks {
            passive: true,
            samples: LOOKS,
            pause: BETWEEN_LOOKS,
            more: false,
            judge: JUDGE,
        },
        options: Options::default(),
        core: None,
        quiet: true,
    };
    let (written, _) = write(&wishes, plan, budget, patience)?;
    if written.contents.ended_early {
        let directory = written.directory.display();
        let message =
            format!("a signal asked pgpoke to end; what was gathered until then is in {directory}");
        return Err(Failure::new(End::AskedToEnd, message));
    }
    Ok(written)
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
    let cannot = |what: &str, e: std::io::Error| {
        Failure::new(End::NotAllGathered, format!("cannot {what} {shown}: {e}"))
    };
    let mut bundle =
        Bundle::create(&wishes.directory).map_err(|e| cannot("make the directory", e))?;
    // Who presses Ctrl-C is told what there is.
    let signals = HeldSignals::hold(
        &[libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT],
        &[],
    );
    let process = Failure::unless_it_lives(plan)?;
    let seen = Seen::of(wishes, plan, budget);
    let mut seen = match seen {
        Ok(seen) => seen,
        Err(failure) => {
            bundle.give_up();
            return Err(failure);
        }
    };
    let times = match seen.looks {
        1 => "once".to_owned(),
        looks => format!("{looks} times"),
    };
    progress(wishes, &format!("looked at it {times}; it runs on"));

    let redactor = wishes
        .options
        .redactor(process, seen.snapshot.backend.client.as_deref());
    if let Some(redactor) = &redactor {
        redactor.snapshot(&mut seen.snapshot);
    }
    let assessment = assess(&seen.snapshot, Request::Pending, &[]);
    let spoken = seen.spoken(&assessment);
    let judgement = text::judgement(&seen.snapshot, &assessment, Screen::stdout());
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
    let mut contents = evidence::gather(
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
    let readme = |bundle: &mut Bundle, contents: &Contents, stopped_ms: f64| {
        let text = evidence::readme(&material, contents, stopped_ms, &seen.snapshot.warnings);
        let written = bundle.rewrite(README, text.as_bytes());
        written.map_err(|e| cannot(&format!("write {README} into"), e))
    };
    let mut stopped_ms = seen.snapshot.stopped_ms;
    let mut warnings = seen.snapshot.warnings.clone();
    let mut core = None;
    if let Some(kind) = wishes.core {
        // Whoever finds it without a core file, since pgpoke had to end here, shall know what it is.
        contents.miss(CORE, "pgpoke came to an end before it was written");
        if !contents.ended_early {
            readme(&mut bundle, &contents, stopped_ms)?;
            contents.missing.pop();
            let written = match seen.snapshot.stack {
                Some(_) => write_core(kind, wishes, plan, budget, bundle.path()),
                // What holds the looks up would hold it up, too.
                None => Err(CoreError::NotStopped),
            };
            match written {
                Ok(written) => {
                    stopped_ms += written.stopped_ms;
                    enter_core(&written, &mut bundle, &mut contents);
                    core = Some(written);
                }
                Err(e) => {
                    contents.ended_early = matches!(e, CoreError::Trace(TraceError::AskedToEnd(_)));
                    contents.miss(CORE, &e.to_string());
                    // Else what is said in the end says it.
                    if !contents.ended_early {
                        warnings.push(format!("no core file: {e}"));
                    }
                }
            }
        }
    }
    readme(&mut bundle, &contents, stopped_ms)?;
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
        contents,
        looks: seen.looks,
        stopped_ms,
        redacted: wishes.options.redact,
        core,
    };
    Ok((written, warnings))
}

/// Writes a core file into the directory; it is not for the archive.
fn write_core(
    kind: CoreKind,
    wishes: &Wishes,
    plan: &Plan,
    budget: &StopBudget,
    directory: &Path,
) -> Result<CoreReport, CoreError> {
    let process = plan.living().map_err(CoreError::Trace)?;
    let options = CoreOptions {
        full: kind == CoreKind::Full,
        budget: StopBudget::new(process.pid(), budget.most(), |error| {
            let failure = Failure {
                detail: Some(format!(
                    "There is no core file. All else is in {}; there is no archive of it.",
                    directory.display()
                )),
                ..Failure::trace(error, process)
            };
            failure.last_words(process.pid(), wishes.quiet, None)
        }),
    };
    let mut said = Instant::now();
    let mut progress = |p: Progress| {
        if said.elapsed() >= PROGRESS {
            let (done, total) = (p.done >> 20, p.total >> 20);
            progress(wishes, &format!("core file: {done} of {total} MiB"));
            said = Instant::now();
        }
    };
    evidence::core::write(process, &options, &directory.join(CORE), &mut progress)
}

/// Enters a core file that was written among what is there, and says what is in it.
fn enter_core(core: &CoreReport, bundle: &mut Bundle, contents: &mut Contents) {
    contents.files.push(Gathered {
        name: CORE.to_owned(),
        bytes: core.apparent_bytes as usize,
        what: format!(
            "a core file, for a debugger and the very same binaries: all that was in its memory, data and passwords, too; it is not in the archive{}",
            without_registers(core)
        ),
        cut_off: false,
    });
    let about = serde_json::to_string_pretty(core).unwrap_or_default() + "\n";
    match bundle.write(ABOUT_CORE, about.as_bytes()) {
        Ok(size) => contents.files.push(Gathered {
            name: ABOUT_CORE.to_owned(),
            bytes: size.bytes,
            what: "what is in the core file, and what is not".to_owned(),
            cut_off: size.cut_off,
        }),
        Err(e) => contents.miss(ABOUT_CORE, &e.to_string()),
    }
}

fn without_registers(core: &CoreReport) -> String {
    match core.registers_left_out.as_slice() {
        [] => String::new(),
        kinds => format!(
            "; without the registers of {}, which debuggers do not know",
            kinds.join(", ")
        ),
    }
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

/// What stands where there is no tree.
const NO_TREE: &str =
    "one look, or stacks that are not known to their root: there is no tree of several\n";

/// What the looks have shown.
struct Seen {
    snapshot: Snapshot,
    registers: Option<Registers>,
    backtraces: String,
    looks: usize,
    others: Tree,
}

impl Seen {
    fn of(wishes: &Wishes, plan: &Plan, budget: &StopBudget) -> Result<Self, Failure> {
        let (mut backtraces, mut looks, mut others_stood) = (String::new(), 0, Duration::ZERO);
        let (mut others, mut patience) = (Tree::default(), Patient);
        let began = Instant::now();
        let each = |snapshot: &Snapshot| {
            looks += 1;
            let after = began.elapsed().as_millis();
            backtraces.push_str(&format!(
                "look {looks}, after {after} ms\n{}",
                text::backtrace(snapshot)
            ));
            if snapshot.stack.is_some() && snapshot.process.threads.is_some_and(|n| n > 1) {
                // They are looked at right after the main thread; both at once would keep that one longer.
                match plan.other_threads(budget, STOP_LIMIT, patience) {
                    Ok((threads, stood)) => {
                        others_stood += stood;
                        let known = threads.iter().filter_map(|t| t.stack.as_ref().ok());
                        known
                            .filter(|s| s.complete)
                            .for_each(|s| others.add(&s.places()));
                        // Who did not stop once, mostly does not for as long as all stand and wait for it.
                        if threads
                            .iter()
                            .any(|t| matches!(t.stack, Err(Unseen::Absent(Absent::RanOn))))
                        {
                            patience = Hasty;
                        }
                        backtraces.extend(threads.iter().map(text::thread_backtrace));
                    }
                    Err(e) => backtraces.push_str(&format!("other threads: {e}\n")),
                }
            }
            backtraces.push('\n');
        };
        let process = Failure::unless_it_lives(plan)?;
        let taken = wishes.looks.take(plan, budget, each);
        let (mut snapshot, registers) = taken.map_err(|e| Failure::look(e, process))?;
        snapshot.stopped_ms += others_stood.as_secs_f64() * 1e3;
        Ok(Seen {
            snapshot,
            registers,
            backtraces,
            looks,
            others,
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
        let tree = tree.or_else(|| stopped.then(|| NO_TREE.to_owned()));
        let tree = tree.map(|tree| tree + &self.tree_of_others());
        Spoken {
            verdict: format!(
                "{} – {}",
                assessment.verdict.to_string().to_uppercase(),
                text::why(s, assessment)
            ),
            assessment_text: text::inspection(s, assessment, true, Screen::PLAIN),
            assessment_json: json::inspection(s, assessment),
            backtraces: stopped.then(|| self.backtraces.clone()),
            tree,
            registers,
        }
    }

    fn tree_of_others(&self) -> String {
        let (stacks, branches) = (self.others.looks(), self.others.branches());
        match stacks {
            0 => String::new(),
            _ => format!(
                "\nthe other threads: {stacks} stacks, of all looks together\n{}",
                tree::tree(&branches, stacks, usize::MAX)
            ),
        }
    }
}
