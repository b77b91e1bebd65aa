//! The texts of the commands, kept as they were reviewed: `tests/snapshots`, a file for each scenario, command and width.
//!
//! They are made from the backends in `tests/fixtures`, which were captured on a real server, so that no server is needed.
//! `make snapshots` writes them anew; read what changed before you commit it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgpoke::assess::likely::Ledger;
use pgpoke::assess::{Interrupt, Request, Verdict, assess};
use pgpoke::intervene::{Fate, Outcome, Report, Rung, Step};
use pgpoke::postgres::status::{Status, Timestamp};
use pgpoke::render::list::{Listing, Row};
use pgpoke::render::screen::Screen;
use pgpoke::render::{ladder, list, selftest, text};
use pgpoke::snapshot::{Glance, ServerFacts, Snapshot};

/// A terminal as narrow as they come, and a wide one.
const WIDTHS: [usize; 2] = [80, 200];
/// How many lines of a terminal of 24 are left above the prompt.
const LINES: usize = 23;

/// Texts by name: `spin-cancel.inspect.80`.
#[derive(Default)]
struct Texts(BTreeMap<String, String>);

impl Texts {
    /// One text, at each width.
    fn keep(&mut self, name: &str, text: impl Fn(Screen) -> String) {
        for columns in WIDTHS {
            let screen = Screen {
                columns: Some(columns),
                colour: false,
            };
            self.0.insert(format!("{name}.{columns}"), text(screen));
        }
    }

    /// One in colour, with its escapes to be read.
    fn keep_coloured(&mut self, name: &str, text: impl Fn(Screen) -> String) {
        let screen = Screen {
            columns: Some(80),
            colour: true,
        };
        let readable = text(screen).replace('\x1b', "␛");
        self.0.insert(format!("{name}.colour"), readable);
    }
}

/// Everything that is kept. A new command's texts are one more line here.
fn all() -> Texts {
    let mut texts = Texts::default();
    inspections(&mut texts);
    outcomes(&mut texts);
    outside(&mut texts);
    lists(&mut texts);
    rungs(&mut texts);
    selftests(&mut texts);
    texts
}

/// All captured backends in one list, and those of them that are stuck: each was glanced at twice, 104 ms apart.
fn lists(texts: &mut Texts) {
    let mut ledger = Ledger::default();
    let rows: Vec<Row> = fixtures()
        .into_iter()
        .map(|(_, snapshot)| {
            let mut glance = glance_at(snapshot);
            ledger.judge(&glance);
            glance.clock += Duration::from_millis(104);
            // A processor is all its own where it computes.
            if glance.process.state == Some('R') {
                glance.cpu_time = glance.cpu_time.map(|t| t + Duration::from_millis(100));
            }
            Row {
                server: 0,
                judgement: ledger.judge(&glance),
                glance,
            }
        })
        .collect();
    let stuck = rows.iter().filter(|row| row.judgement.is_stuck());
    for (name, rows) in [
        ("list", rows.clone()),
        ("list-stuck", stuck.cloned().collect()),
    ] {
        let listing = listing(rows);
        texts.keep(name, |screen| list::text(&listing, &screen, None));
    }
    let listing = listing(rows.into_iter().take(4).collect());
    texts.keep_coloured("list", |screen| list::text(&listing, &screen, None));
}

fn listing(rows: Vec<Row>) -> Listing {
    Listing {
        servers: vec![ServerFacts {
            postmaster: Some(811),
            inner_postmaster: Some(811),
            version: Some("15.18".into()),
            version_known: true,
            data_directory: Some("/var/lib/postgresql/15/main".into()),
            port: Some(5432),
            cluster_name: String::new(),
            container: None,
        }],
        read: vec![60],
        rows,
        at: NOW,
        unreadable: Vec::new(),
        warnings: Vec::new(),
    }
}

/// Fifteen minutes after each statement began.
const NOW: Timestamp = Timestamp(900_000_000);

/// What a glance would have told of a backend.
fn glance_at(snapshot: Snapshot) -> Glance {
    let facts = snapshot.backend;
    let active = facts.activity.is_some_and(|a| !a.is_idle());
    let begun = Some(Timestamp(0));
    Glance {
        at: NOW,
        clock: Duration::from_secs(900),
        pid: snapshot.pid,
        start_time: 1,
        inner_pid: facts.pid_in_container.unwrap_or(snapshot.pid),
        has_postmaster: true,
        backend_type: facts.backend_type,
        worker_type: None,
        title: facts.title,
        user: facts.user,
        database: facts.database,
        leader: None,
        status: Ok(Status {
            started: begun,
            transaction_start: begun.filter(|_| active),
            query_start: begun,
            state_change: begun,
            database: Some(5),
            user: Some(10),
            client: None,
            activity: facts.activity,
            application_name: facts.application_name,
            query: facts.query,
        }),
        wait: None,
        variables: snapshot.variables,
        signals: snapshot.signals,
        process: snapshot.process,
        cpu_time: Some(Duration::from_secs(800)),
        server_stopping: None,
        stage: None,
        stream: None,
        archiving: None,
        waiters: Vec::new(),
        waits_for_spinlock: None,
    }
}

/// What a ladder says of its rungs, before a terminate that follows a cancel, and of several processes.
fn rungs(texts: &mut Texts) {
    let step = |rung, detail: &str, millis| Step {
        rung,
        detail: detail.into(),
        took: Duration::from_micros(millis),
    };
    let steps = [
        step(Rung::Signal, "SIGINT was sent to process 4711", 120),
        step(Rung::Wait, "it did not obey within 2 s", 2_000_400),
        step(Rung::Look, "safe, cpu-loop", 9_800),
        step(
            Rung::StepIn,
            "ProcessInterrupts() was called at the first look, and raised an ERROR",
            14_300,
        ),
    ];
    let mut swallowed = Report::new(
        Outcome::Returned,
        "the error was caught, and the statement goes on",
    );
    swallowed.swallowed = true;
    // Messages on stderr, which are not broken into lines.
    let said: Vec<String> = steps.iter().map(|s| ladder::step(s) + "\n").collect();
    let waiting = ladder::waiting(
        "waiting for process 4711 to obey",
        Duration::from_millis(1234),
        Some(Duration::from_secs(2)),
    );
    let said = said.concat() + &waiting + "\n";
    texts.0.insert("ladder.messages".into(), said);
    texts.keep("ladder", |screen| {
        let ends = [(4711, "cancelled", 0), (4712, "refused", 4)];
        ladder::escalation(&swallowed, Duration::from_secs(2), screen)
            + &ladder::summary(&ends, &[4713], screen)
    });
    let snapshot = fixture("swallowed-errors-cancel");
    let judged = assess(&snapshot, Request::Cancel, &[]);
    texts.keep("swallowed-errors-cancel.outcome-returned", |screen| {
        text::intervention(&snapshot, &judged, &swallowed, screen)
    });
}

/// One promise that is kept, one that is not, and the end.
fn selftests(texts: &mut Texts) {
    let took = Duration::from_micros(22_700);
    let text = |screen| {
        [
            selftest::promise(
                "a call in a borrowed frame returns, and all registers (general, x87, vector) and the red zone are as they were",
                took,
                None,
                screen,
            ),
            selftest::promise(
                "no signal is lost, doubled or overtaken meanwhile",
                took,
                Some("a signal was lost"),
                screen,
            ),
            selftest::all_kept(11, 0.2, screen),
        ]
        .concat()
    };
    texts.keep("selftest", text);
    texts.keep_coloured("selftest", text);
}

fn inspections(texts: &mut Texts) {
    for (name, snapshot) in fixtures() {
        let judged = assess(&snapshot, Request::Pending, &[]);
        texts.keep(&format!("{name}.inspect"), |screen| {
            text::inspection(&snapshot, &judged, false, screen)
        });
        texts.keep(&format!("{name}.inspect-stack"), |screen| {
            text::inspection(&snapshot, &judged, true, screen)
        });
        for (option, request) in [
            ("cancel", Request::Cancel),
            ("terminate", Request::Terminate),
        ] {
            let judged = assess(&snapshot, request, &[]);
            if judged.verdict != Verdict::Pointless {
                texts.keep(&format!("{name}.interrupt-{option}"), |screen| {
                    text::question("", &snapshot, &judged, Duration::from_secs(5), screen) + "\n"
                });
            }
        }
    }
    for name in [
        "spin-cancel",
        "catch-cancel",
        "crit-terminate",
        "hold-terminate",
    ] {
        let snapshot = fixture(name);
        let judged = assess(&snapshot, Request::Pending, &[]);
        texts.keep_coloured(&format!("{name}.inspect"), |screen| {
            text::inspection(&snapshot, &judged, false, screen)
        });
    }
}

/// Each way in which an intervention ends, of a backend that may end so.
fn outcomes(texts: &mut Texts) {
    let ended = [
        (
            "spin-cancel",
            Outcome::Cancelled,
            "the statement was cancelled; the session goes on",
        ),
        (
            "spin-terminate",
            Outcome::Terminated,
            "the session ended with exit status 1, as after pg_terminate_backend()",
        ),
        (
            "spin",
            Outcome::BarrierAccepted,
            "it accepted the barrier and goes on",
        ),
        (
            "lock-wait",
            Outcome::ObeyedSignal,
            "it obeyed the signal, and its statement is over; nothing was touched",
        ),
        (
            "spin-cancel",
            Outcome::Returned,
            "ProcessInterrupts() returned without effect, and the backend goes on as before",
        ),
        (
            "catch-cancel",
            Outcome::TimedOut,
            "an ERROR was raised, but the statement is still there: something caught the error, or undoing takes long",
        ),
        (
            "spin-terminate",
            Outcome::Crashed,
            "the backend was killed by SIGSEGV: it crashed",
        ),
        (
            "spin-cancel",
            Outcome::DryRun,
            "a cancel would be processed now; nothing was done",
        ),
        (
            "spin-cancel",
            Outcome::Refused,
            "not confirmed; nothing was done",
        ),
    ];
    for (name, outcome, detail) in ended {
        let snapshot = fixture(name);
        let judged = assess(&snapshot, Request::Pending, &[]);
        let mut report = Report::new(outcome, detail);
        if !matches!(
            outcome,
            Outcome::ObeyedSignal | Outcome::DryRun | Outcome::Refused
        ) {
            report.attempts = 2;
            report.stopped = Duration::from_micros(700);
            report.call_time = Some(Duration::from_micros(360));
        }
        if outcome != Outcome::DryRun && outcome != Outcome::Refused {
            report.server = Some(match outcome {
                Outcome::Crashed => Fate::Recovers,
                _ => Fate::RunsOn,
            });
        }
        if outcome == Outcome::DryRun {
            report.verdict = Some(judged.verdict);
        }
        let code = pgpoke::render::json::outcome(outcome);
        texts.keep(&format!("{name}.outcome-{code}"), |screen| {
            text::intervention(&snapshot, &judged, &report, screen)
        });
    }
    for (name, snapshot) in fixtures() {
        let judged = assess(&snapshot, Request::Pending, &[]);
        let outcome = match judged.verdict {
            Verdict::Safe => continue,
            Verdict::Pointless => Outcome::Pointless,
            Verdict::Risky | Verdict::Unsafe => Outcome::Refused,
        };
        let mut report = Report::new(outcome, "");
        report.verdict = Some(judged.verdict);
        report.objections = judged.objections().cloned().collect();
        if judged.interrupt != Interrupt::Nothing {
            report.attempts = 26;
        }
        let code = pgpoke::render::json::outcome(outcome);
        texts.keep(&format!("{name}.outcome-{code}"), |screen| {
            text::intervention(&snapshot, &judged, &report, screen)
        });
    }
}

/// What is told of a process that pgpoke may not look into.
fn outside(texts: &mut Texts) {
    for name in ["spin-cancel", "blocked-cancel", "idle"] {
        let mut snapshot = fixture(name);
        snapshot.stack = None;
        snapshot.backend.server_version = None;
        snapshot.variables.interrupt_pending = None;
        snapshot.backend.title = "postgres: postgres postgres [local] SELECT".into();
        texts.keep(&format!("{name}.outside"), |screen| {
            text::from_outside(&snapshot, screen)
        });
    }
}

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(name)
}

fn fixture(name: &str) -> Snapshot {
    let path = directory("fixtures").join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// Names without their extension, sorted.
fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let paths = entries.map(|e| e.unwrap().path());
    let mut names: Vec<String> = paths
        .map(|p| p.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn fixtures() -> Vec<(String, Snapshot)> {
    let names = names_in(&directory("fixtures")).into_iter();
    names.map(|name| (name.clone(), fixture(&name))).collect()
}

#[test]
fn each_text_is_as_it_was_reviewed() {
    let directory = directory("snapshots");
    let path = |name: &str| directory.join(format!("{name}.txt"));
    let texts = all().0;
    if std::env::var_os("PGPOKE_WRITE_SNAPSHOTS").is_some() {
        for name in names_in(&directory) {
            std::fs::remove_file(path(&name)).unwrap();
        }
        for (name, text) in &texts {
            std::fs::write(path(name), text).unwrap();
        }
    }
    let kept: Vec<&String> = texts.keys().collect();
    assert_eq!(
        names_in(&directory).iter().collect::<Vec<_>>(),
        kept,
        "make snapshots writes them anew"
    );
    for (name, text) in &texts {
        let reviewed = std::fs::read_to_string(path(name)).unwrap();
        assert!(
            *text == reviewed,
            "{name} is not as it was reviewed; make snapshots writes it anew\nreviewed:\n{reviewed}\nnow:\n{text}"
        );
    }
}

#[test]
fn no_line_is_longer_than_the_terminal_unless_it_cannot_be_broken() {
    for (name, text) in all().0 {
        let Some(columns) = WIDTHS.iter().find(|w| name.ends_with(&format!(".{w}"))) else {
            continue;
        };
        for line in text.lines() {
            let words = line.split_whitespace().count();
            let typed = line.starts_with("               ");
            assert!(
                line.chars().count() <= *columns || words == 1 || typed,
                "{name}: {line}"
            );
            assert!(!line.contains('\x1b'), "{name}: {line}");
            let asks = line == "Go on? [y/N] ";
            assert!(asks || line == line.trim_end(), "{name}: {line:?}");
        }
    }
}

/// Where there is nothing to object, they are there at 80 columns, but for a line or two of a long name; and where there is,
/// the text stays short enough to be read.
#[test]
fn the_verdict_and_what_to_type_are_on_a_small_terminal_together() {
    for (name, text) in all().0 {
        if name.ends_with(".inspect.80") {
            // The frames that the cause rests on are shown however long the rest is.
            let most = match text.starts_with("verdict      SAFE") {
                true => LINES + 4,
                false => LINES + 13,
            };
            // The line that says once more what scrolled away is no reason to scroll.
            let lines = text.lines().filter(|l| !l.starts_with("in short "));
            let lines = lines.count();
            assert!(text.starts_with("verdict "), "{name}");
            assert!(lines <= most, "{name} has {lines} lines:\n{text}");
        }
    }
}

/// Of a longer text a small terminal shows the end: what it comes to is there, too.
#[test]
fn what_it_comes_to_is_on_the_last_screen() {
    let mut longer = 0;
    for (name, text) in all().0 {
        let is_one = |kind: &str| name.contains(kind) && name.ends_with(".80");
        if ![".inspect", ".interrupt-", ".outcome-"]
            .into_iter()
            .any(is_one)
        {
            continue;
        }
        let lines: Vec<&str> = text.lines().collect();
        let Some((_, end)) = lines.split_last_chunk::<LINES>() else {
            continue;
        };
        let of = |line: &str, label: &str| {
            let words = line.strip_prefix(label)?.trim().split([' ', ':']).next();
            words.map(str::to_owned)
        };
        let word = of(&text, "verdict").or_else(|| of(&text, "outcome"));
        let word = word.unwrap_or_else(|| panic!("{name} begins with neither:\n{text}"));
        let again = end
            .iter()
            .any(|l| of(l, "in short").as_ref() == Some(&word));
        assert!(
            again || lines.len() == LINES,
            "{name} ends without {word}:\n{text}"
        );
        longer += usize::from(again);
    }
    assert!(longer > 10);
}

#[test]
fn each_command_in_the_advice_is_on_a_line_of_its_own() {
    for (name, snapshot) in fixtures() {
        let judged = assess(&snapshot, Request::Pending, &[]);
        let narrow = Screen {
            columns: Some(40),
            colour: false,
        };
        let text = text::inspection(&snapshot, &judged, false, narrow);
        for command in judged.advice.iter().filter_map(|a| a.command.as_ref()) {
            assert!(text.lines().any(|l| l.trim() == command), "{name}:\n{text}");
        }
    }
}
