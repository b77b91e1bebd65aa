//! No command is advised that does not work: for every state of the matrix, what `inspect` names under `next` is done as it
//! stands, and each time in that very state.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use serde_json::Value;

use crate::harness::{DEADLINE, How, Run, Server, server_with_testext, wait_for};
use crate::matrix::{Actor, ROWS, Scenario};
use crate::report::Report;

/// So many rows are tried at once: most of the time goes by in waiting.
const AT_ONCE: usize = 3;

/// Programs that advice begins its commands with.
const PROGRAMS: [&str; 5] = ["pgpoke", "kill", "ps", "ss", "nsenter"];

#[derive(Clone, Debug, PartialEq, Eq)]
struct Advised {
    text: String,
    command: Option<String>,
}

/// What is advised in the JSON output.
fn advised(report: &Value) -> Vec<Advised> {
    let all = report["advice"].as_array().expect("a list");
    let one = |text: &Value| {
        let text = text.as_str().expect("a text").to_owned();
        let command = text.rsplit_once(": ").map(|(_, command)| command);
        let is_one = |command: &&str| {
            command
                .split(' ')
                .next()
                .is_some_and(|w| PROGRAMS.contains(&w))
        };
        let command = command.filter(is_one).map(str::to_owned);
        Advised { text, command }
    };
    all.iter().map(one).collect()
}

/// The commands, each with what is said of it.
fn commands(all: &[Advised]) -> Vec<String> {
    all.iter().filter_map(|a| a.command.clone()).collect()
}

/// After it, the backend is no longer as it was.
fn changes_it(command: &str) -> bool {
    command.starts_with("pgpoke interrupt ") || command.starts_with("kill ")
}

/// What is said without a command to type is true of this state, as far as a machine can tell.
fn assert_sensible(name: &str, all: &[Advised], run: &Run) {
    let restart = all.iter().any(|a| a.text.contains("restart -m immediate"));
    let steps_in = commands(all).iter().any(|c| changes_it(c));
    assert!(
        !(restart && steps_in),
        "{name}: a restart is no last resort:\n{run}"
    );
    let nothing = all.iter().any(|a| a.text.starts_with("nothing "));
    assert!(
        !nothing || all.len() == 1,
        "{name}: nothing, and something:\n{run}"
    );
}

/// Says the same to a person, each command on a line of its own.
fn assert_same_in_text(name: &str, pid: i32, expected: &[String]) {
    let text = Run::pgpoke(["inspect", &pid.to_string()]);
    let lines: Vec<&str> = text.stdout.lines().map(str::trim).collect();
    for command in expected {
        assert!(
            lines.contains(&command.as_str()),
            "{name}: no {command}:\n{text}"
        );
    }
}

/// A `pgpoke interrupt` that is typed makes of the backend what it says.
fn has_worked(name: &str, actor: &Actor, command: &str, wait: &[&str]) {
    let run = &interrupt(command, wait);
    let said = run.json();
    let stuck = actor.stuck.as_ref();
    match (said["outcome"].as_str().expect("an outcome"), run.code()) {
        ("cancelled", Some(0)) => stuck.expect("a session").assert_cancelled(),
        ("obeyed-signal", Some(0)) if command.contains("--cancel") => {
            stuck.expect("a session").assert_cancelled();
        }
        ("terminated" | "obeyed-signal", Some(0)) => match stuck {
            Some(stuck) => stuck.assert_terminated(),
            None => {
                wait_for(DEADLINE, "the backend shall be gone", || {
                    (!actor.backend().is_alive()).then_some(())
                });
            }
        },
        // Something has caught it, which nobody could know; and there is better advice by now.
        ("returned", Some(5)) if said["swallowed"] == true => {
            let next = commands(&advised(&said));
            assert!(!next.is_empty(), "{name}: nothing is left:\n{run}");
            for command in next {
                has_worked(name, actor, &command, wait);
            }
        }
        _ => panic!("{name}: what was advised does not work:\n{run}"),
    }
}

/// A `pgpoke interrupt` as it stands, confirmed.
fn interrupt(command: &str, wait: &[&str]) -> Run {
    let words: Vec<&str> = command.split(' ').collect();
    assert_eq!(words[..2], ["pgpoke", "interrupt"], "{command}");
    Run::pgpoke([&words[1..], &["--yes", "--json"], wait].concat())
}

fn shell(command: &str) -> String {
    let output = Command::new("sh")
        .args(["-c", command])
        .output()
        .expect("a shell");
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Does what changes nothing.
fn look(name: &str, command: &str) {
    let words: Vec<&str> = command.split(' ').collect();
    match words[0] {
        "pgpoke" => {
            assert_eq!(words[1], "inspect", "{name}: {command}");
            let run = Run::pgpoke(&words[1..]);
            assert!(matches!(run.code(), Some(0 | 3 | 4 | 5)), "{name}:\n{run}");
        }
        "ps" => {
            let pid = words.last().expect("a PID");
            let said = shell(command);
            assert!(
                said.lines().skip(1).any(|l| l.contains(pid)),
                "{name}: {command}: {said}"
            );
        }
        // It needs a kernel that was built with that.
        "ss" | "nsenter" => {}
        other => panic!("{name}: nobody knows {other}"),
    }
}

fn act(name: &str, actor: &Actor, command: &str, moves: bool) {
    // On a busy machine few looks go into five seconds.
    let wait: &[&str] = if moves { &["--wait", "60s"] } else { &[] };
    match command.split_once(' ') {
        Some(("kill", rest)) if rest.starts_with("-CONT ") => {
            shell(command);
            wait_for(DEADLINE, "it shall go on", || {
                (actor.backend().state() != Some('T')).then_some(())
            });
        }
        Some(("kill", _)) => panic!("{name}: a backend's end is the server's: {command}"),
        _ => has_worked(name, actor, command, wait),
    }
}

/// Does all that is advised; says how many commands were.
fn does_what_is_advised(
    server: &Server,
    name: &str,
    scenario: &Scenario,
    asked: Option<How>,
) -> usize {
    let name = &format!("{name}, pending: {asked:?}");
    let mut done = 0;
    // Each command that changes something, in a state that nothing has changed.
    for n in 0.. {
        let Some(actor) = scenario.with_pending(server, asked) else {
            break;
        };
        let report = Report::of(&["inspect"], actor.backend().pid);
        let all = advised(&report.run.json());
        let (acts, looks): (Vec<String>, Vec<String>) =
            commands(&all).into_iter().partition(|c| changes_it(c));
        if n == 0 {
            assert_sensible(name, &all, &report.run);
            if !scenario.moves() {
                assert_same_in_text(name, actor.backend().pid, &commands(&all));
            }
            looks.iter().for_each(|command| look(name, command));
            done += looks.len();
        }
        if let Some(command) = acts.get(n) {
            act(name, &actor, command, scenario.moves());
            done += 1;
        }
        if actor.backend().is_alive() {
            // It takes nobody's time any more.
            actor.backend().send(libc::SIGSTOP);
        }
        if n + 1 >= acts.len() {
            break;
        }
    }
    done
}

fn all_that_is_advised_works(asked: Option<How>, at_least: usize) {
    // Those that nothing frees stay.
    let server = server_with_testext!(Server::builder().setting("max_connections", "200"));
    let left = Mutex::new(ROWS.iter().collect::<Vec<_>>());
    let done = Mutex::new(0);
    let failed = Mutex::new(Vec::new());
    let next = || left.lock().expect("rows").pop();
    let work = || {
        while let Some((name, scenario)) = next() {
            let row = || does_what_is_advised(&server, name, scenario, asked);
            match catch_unwind(AssertUnwindSafe(row)) {
                Ok(commands) => *done.lock().expect("a number") += commands,
                // What it was is on standard error.
                Err(_) => failed.lock().expect("names").push(*name),
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
    server.assert_unharmed();
    let failed = failed.into_inner().expect("names");
    assert!(failed.is_empty(), "with {asked:?} pending: {failed:?}");
    let done = done.into_inner().expect("a number");
    assert!(done >= at_least, "only {done} commands");
}

#[test]
fn with_nothing_pending_all_that_is_advised_works() {
    all_that_is_advised_works(None, 20);
}

#[test]
fn with_a_cancel_pending_all_that_is_advised_works() {
    all_that_is_advised_works(Some(How::Cancel), 15);
}

#[test]
fn with_a_terminate_pending_all_that_is_advised_works() {
    all_that_is_advised_works(Some(How::Terminate), 10);
}
