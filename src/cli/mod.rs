//! The command line: one file a subcommand, and the exit codes.

mod audit;
mod duration;
pub mod exit;
mod inspect;
mod interrupt;
mod list;
mod man;
mod messages;
mod open;
mod patience;
mod progress;
mod report;
mod selftest;
mod watch;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use exit::End;

use crate::image::DebugFiles;
use crate::postgres::Activity;
use crate::render::screen::ColorChoice;
use crate::selftest::Part;

/// Why is a PostgreSQL backend stuck, and is it safe to step in?
///
/// For the moment when a backend ignores pg_cancel_backend() and pg_terminate_backend(), and all that seems left is
/// kill -9, which throws out every session and sends the whole server through crash recovery.
#[derive(Debug, Parser)]
#[command(
    version,
    disable_version_flag = true,
    disable_help_flag = true,
    max_term_width = 100,
    after_long_help = ENVIRONMENT
)]
struct Cli {
    /// Show help
    #[arg(short = '?', short_alias = 'h', long, global = true, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// Show the version
    #[arg(short = 'V', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// When to use colours (auto: on a terminal); without it, PG_COLOR decides, and NO_COLOR where that says auto
    #[arg(long, global = true, value_name = "WHEN")]
    color: Option<ColorChoice>,
    #[command(subcommand)]
    command: Command,
}

/// What of the environment counts.
const ENVIRONMENT: &str = "Environment:
  PG_COLOR         always, auto or never, where --color is not given
  PG_COLORS        the colours of messages, as for PostgreSQL's own tools:
                   error=01;31:warning=01;35:note=01;36:locus=01
  NO_COLOR         if not empty, auto means never
  COLUMNS          the width of the terminal, if it is not what the terminal says; pipes have none
  DEBUGINFOD_URLS  servers of debug files";

#[derive(Debug, Subcommand)]
enum Command {
    /// Say why a backend is stuck and whether it is safe to interrupt it
    #[command(override_usage = "pgpoke inspect [OPTIONS] PID")]
    Inspect(InspectArgs),
    /// Make a backend process its pending interrupt, from outside
    #[command(override_usage = "pgpoke interrupt [OPTIONS] PID...")]
    Interrupt(InterruptArgs),
    /// Gather all that a maintainer will ask for, into one directory and an archive
    #[command(override_usage = "pgpoke report [OPTIONS] PID")]
    Report(ReportArgs),
    /// List the backends of all servers of this machine, and which of them are stuck
    List(ListArgs),
    /// Try on processes of its own whether this kernel keeps what pgpoke rests on
    Selftest(SelftestArgs),
    /// Print a shell's completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

#[derive(Debug, Args)]
struct SelftestArgs {
    #[command(flatten)]
    part: Part,
}

/// Which process.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// PID of the backend, as pg_stat_activity shows it
    #[arg(value_name = "PID", value_parser = parse_pid)]
    pid: Option<i32>,
    /// PID of the backend, given as an option
    #[arg(short = 'p', long = "pid", value_name = "PID", value_parser = parse_pid)]
    pid_option: Option<i32>,
}

fn parse_pid(text: &str) -> Result<i32, String> {
    match text.parse() {
        Ok(pid) if pid > 0 => Ok(pid),
        _ => Err("expected a process ID, such as 12345".into()),
    }
}

impl Target {
    fn pid(&self) -> i32 {
        // The group requires one of them.
        self.pid.or(self.pid_option).unwrap_or_default()
    }
}

/// Which processes.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Targets {
    /// PIDs of backends, as pg_stat_activity shows them; each is judged, and asked for, on its own
    #[arg(value_name = "PID", value_parser = parse_pid)]
    pids: Vec<i32>,
    /// The same, as an option (may be given several times)
    #[arg(short = 'p', long = "pid", value_name = "PID", value_parser = parse_pid)]
    pid_options: Vec<i32>,
}

impl Targets {
    /// Each once, in the order given.
    fn pids(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = Vec::new();
        for pid in self.pids.iter().chain(&self.pid_options) {
            if !pids.contains(pid) {
                pids.push(*pid);
            }
        }
        pids
    }
}

/// Where to look for debug files.
#[derive(Debug, Args)]
struct DebugFilesArgs {
    /// Look for debug files here, too, as in /usr/lib/debug (may be given several times). Where DEBUGINFOD_URLS is set,
    /// its servers are asked last
    #[arg(long = "debug-dir", value_name = "DIR")]
    directories: Vec<PathBuf>,
}

impl DebugFilesArgs {
    fn find(&self) -> Rc<DebugFiles> {
        let absolute = |d: &PathBuf| std::path::absolute(d).unwrap_or_else(|_| d.clone());
        let directories: Vec<PathBuf> = self.directories.iter().map(absolute).collect();
        Rc::new(DebugFiles::new(&directories))
    }
}

#[derive(Debug, Args)]
struct InspectArgs {
    #[command(flatten)]
    target: Target,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Run nothing in the backend; its signal handlers then stay unknown
    #[arg(long)]
    passive: bool,
    /// Look this many times, to tell a loop from progress
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    samples: u32,
    /// Look again and again, and show where most looks met it, until Ctrl-C
    #[arg(long, conflicts_with_all = ["json", "samples"])]
    watch: bool,
    /// Show the whole stack
    #[arg(long)]
    stack: bool,
    /// Show the arguments and local variables of the frames that have debug information
    #[arg(long)]
    locals: bool,
    /// How long it may be made to stand still at a time (1ms to 1s)
    #[arg(long, value_name = "DURATION", default_value = "50ms", value_parser = duration::parse_stop)]
    max_stop: Duration,
    #[command(flatten)]
    debug_files: DebugFilesArgs,
}

/// What memory goes into a core file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CoreKind {
    /// The backend's own
    Own,
    /// Shared memory, too
    Full,
}

#[derive(Debug, Args)]
struct ReportArgs {
    #[command(flatten)]
    target: Target,
    /// The directory to make; the archive is DIR.tar.gz [default: pgpoke-report-PID-TIME]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Ask the server, too, through this connection (PGPASSWORD is used; without a host, through the server's own socket); what fails or hangs costs 10 s, not the report
    #[arg(long, value_name = "CONNINFO")]
    dsn: Option<String>,
    /// Write a core file, too; with shared memory: --core=full
    #[arg(long, value_name = "own|full", num_args = 0..=1, require_equals = true, default_missing_value = "own", conflicts_with = "redact", hide_possible_values = true)]
    core: Option<CoreKind>,
    /// Leave out query text, literals, host names, addresses, and local variables
    #[arg(long)]
    redact: bool,
    /// Look at its stack this many times
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    samples: u32,
    /// Run nothing in the backend; its signal handlers then stay unknown
    #[arg(long)]
    passive: bool,
    /// How long it may be made to stand still at a time (1ms to 1s)
    #[arg(long, value_name = "DURATION", default_value = "50ms", value_parser = duration::parse_stop)]
    max_stop: Duration,
    #[command(flatten)]
    debug_files: DebugFilesArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct InterruptArgs {
    #[command(flatten)]
    targets: Targets,
    /// Cancel its statement: send the signal first, and step in if it is ignored
    #[arg(long, conflicts_with = "terminate")]
    cancel: bool,
    /// Terminate its session: send the signal first, and step in if it is ignored
    #[arg(long)]
    terminate: bool,
    /// Go on to a terminate, signal and all, if the cancel had no effect; it is asked for anew
    #[arg(long, requires = "cancel", conflicts_with = "terminate")]
    escalate: bool,
    /// How long it gets to obey the signal by itself
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration::parse)]
    grace: Duration,
    /// How long to look for a safe instruction
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration::parse)]
    wait: Duration,
    /// How long to watch the call
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration::parse)]
    timeout: Duration,
    /// How long it may be made to stand still at a time (1ms to 1s)
    #[arg(long, value_name = "DURATION", default_value = "50ms", value_parser = duration::parse_stop)]
    max_stop: Duration,
    /// Accept this warning (may be given several times); a failed check cannot be accepted
    #[arg(long, value_name = "CHECK")]
    allow: Vec<String>,
    /// Do everything but send the signal and step in
    #[arg(long)]
    dry_run: bool,
    /// Gather a report into this directory before stepping in, as pgpoke report does; do not step in without it
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Do not ask
    #[arg(short = 'y', long)]
    yes: bool,
    /// Write nothing to the system log
    #[arg(long)]
    no_syslog: bool,
    #[command(flatten)]
    debug_files: DebugFilesArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only those that ignore a pending cancel, terminate or barrier, or hold others up, with the likely cause
    #[arg(long)]
    stuck: bool,
    /// Only those in this database (may be given several times); a number is an OID
    #[arg(short = 'd', long, value_name = "NAME")]
    database: Vec<String>,
    /// Only those of this user (may be given several times); a number is an OID
    #[arg(short = 'U', long, value_name = "NAME")]
    user: Vec<String>,
    /// Only those in this state, as pg_stat_activity words it (may be given several times)
    #[arg(long, value_name = "STATE", value_parser = list::parse_state)]
    state: Vec<Activity>,
    /// Only those that have been in their state for at least this long, such as 30s, 5m or 2h
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_age)]
    older_than: Option<Duration>,
    /// Look again every so many seconds (2), until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", value_parser = duration::parse_pause)]
    watch: Option<Duration>,
    /// Print one JSON object; with --watch one a line
    #[arg(long)]
    json: bool,
}

/// Parses the command line, runs the command, and returns its exit code.
pub fn main() -> ExitCode {
    // For help and for usage errors, which come before the option is known.
    ColorChoice::of(None).hold();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version; and help where nothing was asked for.
        Err(asked) if asked.kind() == DisplayHelpOnMissingArgumentOrSubcommand => asked.exit(),
        Err(asked) if !asked.use_stderr() => asked.exit(),
        Err(wrong) => {
            messages::usage(&wrong);
            return End::WrongUsage.exit().into();
        }
    };
    ColorChoice::of(cli.color).hold();
    let result = match cli.command {
        Command::Inspect(args) => inspect::run(&args),
        Command::Interrupt(args) => interrupt::run(&args),
        Command::Report(args) => report::run(&args),
        Command::List(args) => list::run(&args),
        Command::Selftest(args) => selftest::run(&args),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            // To fish a question mark is a pattern.
            let mut command = Cli::command().mut_arg("help", |a| a.short('h').short_alias(None));
            clap_complete::generate(shell, &mut command, "pgpoke", &mut text);
            say(&String::from_utf8_lossy(&text));
            Ok(End::Printed.exit())
        }
        Command::Man => man::page(Cli::command())
            .map_err(anyhow::Error::from)
            .map(|page| {
                say(&page);
                End::Printed.exit()
            }),
    };
    let exit = result.unwrap_or_else(|e| {
        messages::error(&format!("{e:#}"), None, None);
        End::Failed.exit()
    });
    exit.into()
}

/// Prints what a command has to say on stdout. A closed stdout is no error of the command's; that anybody may have read it
/// is told, for who prints again and again has to end with its reader.
fn say(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    printed.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn several_pids_each_once() {
        let args = ["pgpoke", "interrupt", "7", "-p", "9", "8", "7", "--pid=9"];
        let Command::Interrupt(args) = Cli::try_parse_from(args).unwrap().command else {
            unreachable!()
        };
        assert_eq!(args.targets.pids(), [7, 8, 9]);
    }

    /// The commands in a page's code, as far as the shell would pass them on.
    fn commands_in(page: &str) -> Vec<Vec<String>> {
        const PLACEHOLDERS: [(&str, &str); 8] = [
            ("PID...", "1"),
            ("PID", "1"),
            ("$pid", "1"),
            ("DIR/PID", "DIR"),
            ("N", "5"),
            ("D", "2s"),
            ("CHECK", "threads"),
            ("SHELL", "bash"),
        ];
        let mut code = String::new();
        let mut in_block = false;
        for line in page.lines() {
            if line.starts_with("```") {
                in_block = !in_block;
            } else if in_block {
                code.push_str(line);
                code.push('\n');
            } else {
                // A span may go on in the next line; its command is then cut short, which is allowed for.
                for span in line.split('`').skip(1).step_by(2) {
                    code.push_str(span);
                    code.push('\n');
                }
            }
        }
        let mut commands = Vec::new();
        for line in code.lines() {
            for rest in line.split("pgpoke ").skip(1) {
                let mut words = vec!["pgpoke".to_owned()];
                // What is quoted is one word.
                for (n, part) in rest.split('\'').enumerate() {
                    if n % 2 == 1 {
                        words.push(part.to_owned());
                        continue;
                    }
                    let end = part.find(['|', ';', ')', '<', '>', '…', '#', ',']);
                    let typed = part[..end.unwrap_or(part.len())].replace('"', "");
                    words.extend(typed.split_whitespace().map(|word| {
                        let stands_for = PLACEHOLDERS.iter().find(|(name, _)| *name == word);
                        stands_for.map_or(word, |(_, value)| value).to_owned()
                    }));
                    if end.is_some() {
                        break;
                    }
                }
                commands.push(words);
            }
        }
        let known = |name: &String| Cli::command().find_subcommand(name).is_some();
        commands.retain(|words| words.get(1).is_some_and(known));
        commands
    }

    /// No option that is not there. A command in a sentence may leave out the PID.
    #[test]
    fn the_commands_in_the_docs_can_be_typed() {
        use clap::error::ErrorKind::MissingRequiredArgument;
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut seen = 0;
        for directory in [root.to_owned(), root.join("docs")] {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_none_or(|e| e != "md") {
                    continue;
                }
                for words in commands_in(&std::fs::read_to_string(&path).unwrap()) {
                    seen += 1;
                    if let Err(wrong) = Cli::try_parse_from(&words) {
                        let cut_short = wrong.kind() == MissingRequiredArgument;
                        assert!(cut_short, "{path:?}: {words:?}: {wrong}");
                    }
                }
            }
        }
        assert!(seen > 60, "only {seen}");
    }

    #[test]
    fn a_pid_in_either_place_and_exactly_one() {
        let pid = |args: &[&str]| match Cli::try_parse_from(args).unwrap().command {
            Command::Inspect(a) => a.target.pid(),
            _ => unreachable!(),
        };
        assert_eq!(pid(&["pgpoke", "inspect", "7"]), 7);
        assert_eq!(pid(&["pgpoke", "inspect", "-p", "7"]), 7);
        assert_eq!(pid(&["pgpoke", "inspect", "--pid=7"]), 7);
        for wrong in [
            &["pgpoke", "inspect"][..],
            &["pgpoke", "inspect", "0"],
            &["pgpoke", "inspect", "-1"],
            &["pgpoke", "inspect", "1", "-p", "2"],
            &["pgpoke", "interrupt", "--cancel", "--terminate", "1"],
            &["pgpoke", "interrupt", "--wait", "5", "1"],
            &["pgpoke", "interrupt", "--cancel"],
            &["pgpoke", "interrupt", "--escalate", "1"],
            &["pgpoke", "interrupt", "--terminate", "--escalate", "1"],
        ] {
            let error = Cli::try_parse_from(wrong).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong:?}");
        }
    }
}
