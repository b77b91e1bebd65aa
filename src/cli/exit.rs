//! Every end of a command, and its exit code: the one place that knows them. The tables in `docs/exit-codes.md` and the
//! section of the manual page are made from it.

use std::io;
use std::process::ExitCode;

use crate::assess::Verdict;
use crate::intervene::{Done, Outcome, Report};
use crate::postgres::NotABackend;
use crate::process::OpenError;
use crate::tracee::TraceError;

/// The exit codes. They are stable, and nobody but an [`End`] hands them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    Done = 0,
    Error = 1,
    Usage = 2,
    Risky = 3,
    Unsafe = 4,
    Pointless = 5,
    Denied = 6,
    NotABackend = 7,
    TimedOut = 8,
    Crashed = 9,
}

/// An exit code of pgpoke's; see `docs/exit-codes.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(Code);

impl Exit {
    /// As a shell has it: 0 to 9.
    pub fn code(self) -> u8 {
        self.0 as u8
    }

    /// The one code for several processes: theirs if all have the same, else that of the most severe.
    pub fn of_all(exits: &[Exit]) -> Exit {
        let severest = Exit::SEVEREST_FIRST
            .into_iter()
            .find(|exit| exits.contains(exit));
        severest.unwrap_or(Exit(Code::Done))
    }

    /// Which code wins where several processes came out differently.
    pub const SEVEREST_FIRST: [Exit; 10] = [
        Exit(Code::Crashed),
        Exit(Code::TimedOut),
        Exit(Code::Error),
        Exit(Code::Unsafe),
        Exit(Code::Risky),
        Exit(Code::Denied),
        Exit(Code::Usage),
        Exit(Code::NotABackend),
        Exit(Code::Pointless),
        Exit(Code::Done),
    ];
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// What one exit code means, for those who go by it.
#[derive(Debug)]
pub struct Meaning {
    /// The code.
    pub exit: Exit,
    /// What it means to `inspect`, in a few words.
    pub inspect: &'static str,
    /// What it means to `interrupt`, in a few words.
    pub interrupt: &'static str,
    /// What a script should do then.
    pub then: &'static str,
}

/// In the order of the codes.
pub const MEANINGS: [Meaning; 10] = [
    Meaning {
        exit: Exit(Code::Done),
        inspect: "safe",
        interrupt: "it took effect",
        then: "`inspect`: may go on to `interrupt`. `interrupt`: done.",
    },
    Meaning {
        exit: Exit(Code::Error),
        inspect: "error",
        interrupt: "error",
        then: "Stop, and show stderr to somebody.",
    },
    Meaning {
        exit: Exit(Code::Usage),
        inspect: "usage",
        interrupt: "usage, or not confirmed",
        then: "Mend the command.",
    },
    Meaning {
        exit: Exit(Code::Risky),
        inspect: "risky",
        interrupt: "refused: risky, and not allowed",
        then: "Ask somebody. Who accepts the risk repeats it with `--allow CHECK`; the advice in the output has the whole command.",
    },
    Meaning {
        exit: Exit(Code::Unsafe),
        inspect: "unsafe",
        interrupt: "refused: unsafe",
        then: "Look at `checks`. If the objection is to the place where the backend is (`allocator`, `unwind`, …), `interrupt` with a longer `--wait` may find a better one. Else do not insist.",
    },
    Meaning {
        exit: Exit(Code::Pointless),
        inspect: "pointless",
        interrupt: "pointless, or without effect",
        then: "Swallowed: `interrupt --terminate`, which no code can catch. Nothing pending: `interrupt --cancel` or `--terminate` sends the signal first. Else look at `cause` and `advice`: the trouble is elsewhere.",
    },
    Meaning {
        exit: Exit(Code::Denied),
        inspect: "no permission",
        interrupt: "no permission",
        then: "Run it as root or as the server's user. stderr names the rule and the next command.",
    },
    Meaning {
        exit: Exit(Code::NotABackend),
        inspect: "not a PostgreSQL backend, or gone",
        interrupt: "the same",
        then: "Take the PID from `pg_stat_activity` again. If the backend is gone, there is nothing left to do.",
    },
    Meaning {
        exit: Exit(Code::TimedOut),
        inspect: "it would not stop in time",
        interrupt: "no outcome in time",
        then: "Do not repeat at once: `inspect` shows where it hangs now.",
    },
    Meaning {
        exit: Exit(Code::Crashed),
        inspect: "–",
        interrupt: "the backend crashed",
        then: "Raise the alarm, and keep the output and the server's log.",
    },
];

/// A command that scripts go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// `pgpoke inspect`
    Inspect,
    /// `pgpoke interrupt`
    Interrupt,
    /// `pgpoke report`
    Report,
    /// `pgpoke list`
    List,
    /// `pgpoke selftest`
    Selftest,
}

impl Command {
    /// Those of which a few words are enough, with their names.
    pub const OTHERS: [(Command, &'static str); 3] = [
        (Command::Report, "report"),
        (Command::List, "list"),
        (Command::Selftest, "selftest"),
    ];
}

/// Makes the enum of the ends, the list of them, and the one mapping to exit codes, of one row each: the end, its code, and
/// what it means to each command that can end so.
macro_rules! ends {
    ($($(#[$doc:meta])* $end:ident => $code:ident { $($command:ident: $text:literal,)* })*) => {
        /// How a command can end.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum End {
            $($(#[$doc])* $(#[doc = $text])* $end,)*
        }

        impl End {
            /// All of them, in the order in which they are told of.
            pub const ALL: &[End] = &[$(End::$end),*];

            /// The exit code.
            pub const fn exit(self) -> Exit {
                match self {
                    $(End::$end => Exit(Code::$code),)*
                }
            }

            /// What it means to each command that can end so.
            pub const fn meanings(self) -> &'static [(Command, &'static str)] {
                match self {
                    $(End::$end => &[$((Command::$command, $text)),*],)*
                }
            }
        }
    };
}

ends! {
    Safe => Done {
        Inspect: "**Safe**: something is pending, and every check passed.",
    }
    NoLongerWatched => Done {
        Inspect: "Or Ctrl-C ended `--watch`.",
    }
    TookEffect => Done {
        Interrupt: "**It took effect**: the statement was cancelled, the session ended, the barrier was accepted, or the backend obeyed the signal by itself.",
    }
    NothingInTheWay => Done {
        Interrupt: "Or `--dry-run` found nothing in the way.",
    }
    Gathered => Done {
        Report: "the directory and its archive are there, and with --core the core file, whatever the verdict",
    }
    Listed => Done {
        List: "it was listed, with nobody to show, too",
    }
    AllKept => Done {
        Selftest: "all promises hold",
    }
    Failed => Error {
        Inspect: "**Error** of pgpoke's own, or of the kernel's.",
        Interrupt: "The same.",
        List: "error",
    }
    NotAllGathered => Error {
        Report: "one of them is not",
    }
    AskedToEnd => Error {
        Inspect: "Or a signal such as Ctrl-C ended it.",
        Interrupt: "The same.",
        Report: "or a signal ended it",
    }
    OneBroken => Error {
        Selftest: "one does not",
    }
    WrongUsage => Usage {
        Inspect: "**Usage**: an unknown option, no PID, a duration without a unit.",
        Interrupt: "The same.",
        Report: "usage",
        List: "usage",
        Selftest: "usage",
    }
    UnknownCheck => Usage {
        Interrupt: "Or an unknown check after `--allow`.",
    }
    NobodyToAsk => Usage {
        Interrupt: "Or no terminal to ask on, and no `--yes`.",
    }
    NotConfirmed => Usage {
        Interrupt: "Or the answer was not yes. Nothing was called.",
    }
    Risky => Risky {
        Inspect: "**Risky**: a check warns.",
    }
    RefusedForARisk => Risky {
        Interrupt: "**Refused**: a check warns and was not allowed; it was so for a tenth of `--wait`, or the backend sleeps. Nothing was called.",
    }
    Unsafe => Unsafe {
        Inspect: "**Unsafe**: a check fails, or could not be decided.",
    }
    Refused => Unsafe {
        Interrupt: "**Refused**: it was so for all of `--wait`. Nothing was called.",
    }
    Pointless => Pointless {
        Inspect: "**Pointless**: an interrupt would do nothing now: nothing is pending, interrupts are held off, it is exiting, stopped, or traced. `verdict_if` says what a cancel and a terminate would meet.",
        Interrupt: "The same.",
    }
    Returned => Pointless {
        Interrupt: "Or it was called and **returned** without effect.",
    }
    Swallowed => Pointless {
        Interrupt: "Or the error was **swallowed**: something caught it, and the statement goes on (`swallowed` in the JSON).",
    }
    Denied => Denied {
        Inspect: "**No permission** to look into the process.",
        Interrupt: "The same.",
        Report: "as inspect",
    }
    AllDenied => Denied {
        List: "it may look into none of PostgreSQL's processes",
    }
    NothingTraced => Denied {
        Selftest: "nothing at all may be traced",
    }
    NotABackend => NotABackend {
        Inspect: "**Not a PostgreSQL backend**.",
        Interrupt: "The same.",
        Report: "as inspect",
    }
    Gone => NotABackend {
        Inspect: "Or gone, or another process has its PID by now.",
        Interrupt: "The same.",
        Report: "as inspect",
    }
    WouldNotStop => TimedOut {
        Inspect: "**It would not stop** in time.",
        Interrupt: "The same.",
        Report: "as inspect",
    }
    StoodStill => TimedOut {
        Inspect: "Or it stood still for longer than `--max-stop` and was let go.",
        Interrupt: "The same.",
        Report: "as inspect",
    }
    NotLookedInto => TimedOut {
        Inspect: "Or its memory, or one of its files, could not be read in time.",
        Interrupt: "The same.",
        Report: "as inspect",
    }
    NoOutcome => TimedOut {
        Interrupt: "Or it was called and there was **no outcome** within `--timeout`. The call goes on in the backend.",
    }
    Crashed => Crashed {
        Interrupt: "**The backend crashed**, or was killed meanwhile, by whomever. The postmaster then ends all sessions and goes through crash recovery.",
    }
    /// Help, the version, the completions or the manual page were asked for.
    Printed => Done {}
}

impl From<&Report> for End {
    /// An interrupt came out so.
    fn from(report: &Report) -> Self {
        match report.outcome {
            Outcome::Cancelled
            | Outcome::Terminated
            | Outcome::BarrierAccepted
            | Outcome::ObeyedSignal => End::TookEffect,
            Outcome::DryRun => End::NothingInTheWay,
            Outcome::Returned if report.swallowed => End::Swallowed,
            Outcome::Returned => End::Returned,
            Outcome::Pointless => End::Pointless,
            Outcome::Refused => match report.verdict {
                Some(Verdict::Risky) => End::RefusedForARisk,
                // Without a verdict it was refused for what it is.
                Some(Verdict::Unsafe | Verdict::Safe | Verdict::Pointless) | None => End::Refused,
            },
            Outcome::TimedOut => End::NoOutcome,
            Outcome::Crashed => End::Crashed,
        }
    }
}

impl End {
    /// An interrupt came out so, or was not wanted in the end.
    pub fn of(done: &Done) -> Self {
        match done.confirmed {
            true => End::from(&done.report),
            false => End::NotConfirmed,
        }
    }

    /// A signal could not be sent, for a reason other than that the process has ended.
    pub fn of_signal(e: &io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::PermissionDenied => End::Denied,
            _ => End::Failed,
        }
    }
}

impl From<Verdict> for End {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Safe => End::Safe,
            Verdict::Risky => End::Risky,
            Verdict::Unsafe => End::Unsafe,
            Verdict::Pointless => End::Pointless,
        }
    }
}

impl From<&TraceError> for End {
    fn from(e: &TraceError) -> Self {
        match e {
            TraceError::Denied(_) => End::Denied,
            TraceError::Gone(_) => End::Gone,
            TraceError::WouldNotStop { .. } | TraceError::WouldNotBeSeized { .. } => {
                End::WouldNotStop
            }
            TraceError::StoodStill { .. } | TraceError::StoodStillInCall { .. } => End::StoodStill,
            TraceError::AskedToEnd(_) => End::AskedToEnd,
            TraceError::LeftAlone(_) => End::NoOutcome,
            TraceError::Kernel(_) => End::Failed,
        }
    }
}

impl From<&NotABackend> for End {
    fn from(e: &NotABackend) -> Self {
        match e {
            NotABackend::Denied(_) => End::Denied,
            NotABackend::Gone(_) => End::Gone,
            NotABackend::Other { .. } => End::NotABackend,
        }
    }
}

impl From<&OpenError> for End {
    fn from(e: &OpenError) -> Self {
        match e {
            OpenError::NoSuchProcess(_) => End::Gone,
            OpenError::IsThread(..) => End::NotABackend,
            OpenError::Hidden(_) => End::Denied,
            OpenError::Other(..) => End::Failed,
        }
    }
}

/// What each exit code means to a command, where it can end with it, in the order of the codes.
pub fn meanings_to(command: Command) -> Vec<(Exit, Vec<&'static str>)> {
    let texts = |exit: Exit| {
        let ends = End::ALL.iter().filter(|end| end.exit() == exit);
        let all = ends.flat_map(|end| end.meanings());
        let mut texts: Vec<_> = all
            .filter(|(c, _)| *c == command)
            .map(|(_, t)| *t)
            .collect();
        // "The same", of several ends.
        texts.dedup();
        texts
    };
    let all = MEANINGS.iter().map(|m| (m.exit, texts(m.exit)));
    all.filter(|(_, texts)| !texts.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracee::Words;

    /// The one code that is known to those below us, too: they may have nobody's words to end with.
    #[test]
    fn who_has_nothing_to_say_ends_with_the_same_code() {
        let words = Words::default();
        assert_eq!(words.exit_code, End::StoodStill.exit().code());
    }

    #[test]
    fn the_meanings_are_in_the_order_of_the_codes() {
        let codes: Vec<u8> = MEANINGS.iter().map(|m| m.exit.code()).collect();
        assert_eq!(codes, Vec::from_iter(0..10));
        for end in End::ALL {
            assert!(usize::from(end.exit().code()) < MEANINGS.len(), "{end:?}");
        }
    }

    #[test]
    fn several_processes_have_the_exit_code_of_the_worst() {
        let of_all = |codes: &[Code]| {
            let exits: Vec<Exit> = codes.iter().map(|code| Exit(*code)).collect();
            Exit::of_all(&exits).0
        };
        use Code::*;
        assert_eq!(of_all(&[Done, Done]), Done);
        assert_eq!(of_all(&[Pointless, Pointless]), Pointless);
        assert_eq!(of_all(&[Done, Pointless, NotABackend]), NotABackend);
        assert_eq!(of_all(&[Risky, Unsafe, Denied]), Unsafe);
        assert_eq!(of_all(&[TimedOut, Unsafe]), TimedOut);
        assert_eq!(of_all(&[TimedOut, Error, Crashed]), Crashed);
        assert_eq!(of_all(&[Done, Usage]), Usage);
    }
}
