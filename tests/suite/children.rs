//! Backends that wait for a program which they have started: a cancel and a terminate reach that, too, as the server's own
//! functions do.

use std::time::Duration;

use crate::foreign::{server_with, stuck_in};
use crate::harness::{Backend, DEADLINE, How, Run, Server, Stuck, wait_for};
use crate::report::Report;

/// The processes that have this one for their parent.
pub(crate) fn children(pid: i32) -> Vec<Backend> {
    let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let pids = list.unwrap_or_default();
    let pids = pids.split_whitespace().filter_map(|pid| pid.parse().ok());
    pids.filter_map(Backend::open).collect()
}

/// Those that have it for an ancestor.
fn descendants(pid: i32) -> Vec<Backend> {
    let own = children(pid);
    let theirs: Vec<_> = own.iter().flat_map(|c| descendants(c.pid)).collect();
    [own, theirs].concat()
}

/// One of them has begun to sleep.
fn has_a_child(backend: &Backend) -> bool {
    let sleeps = |child: &Backend| {
        let line = std::fs::read(format!("/proc/{}/cmdline", child.pid));
        line.is_ok_and(|line| line.starts_with(b"sleep\0"))
    };
    descendants(backend.pid).iter().any(sleeps)
}

/// Starts it, and waits for its program to sleep.
fn start<'s>(server: &'s Server, language: &str, body: &str) -> Stuck<'s> {
    match language {
        "sql" => server.stuck_when(body, has_a_child),
        _ => stuck_in(server, language, body, has_a_child),
    }
}

fn ends_with_its_program(language: &str, body: &str) {
    let server = match language {
        "sql" => Server::start(),
        _ => server_with!(language),
    };
    for how in How::BOTH {
        let stuck = start(&server, language, body);
        let started = descendants(stuck.pid());
        let report = Report::of(&["inspect"], stuck.pid());
        let told = report.at("/children").as_array().expect("children");
        let pids: Vec<_> = told.iter().map(|child| &child["pid"]).collect();
        let expected: Vec<_> = started.iter().map(|child| child.pid).collect();
        assert_eq!(pids, expected, "{}", report.run);
        let command = |child: &serde_json::Value| child["command"] == "sleep 1000";
        assert!(told.iter().any(command), "{}", report.run);
        let pid = stuck.pid().to_string();
        let text = Run::pgpoke(["inspect", &pid]);
        text.assert_says(&format!("{}", started[0].pid));

        let run = Run::pgpoke(["interrupt", "--json", "--yes", how.option(), &pid]);
        let report = Report::read(run, stuck.pid());
        report
            .assert_outcome("obeyed-signal", 0)
            .assert_at("/attempts", 0)
            .assert_at("/left_behind", serde_json::json!([]));
        for child in started {
            wait_for(DEADLINE, "the program shall be gone", || {
                (!child.is_alive()).then_some(())
            });
        }
        let ended = stuck.result();
        match how {
            How::Cancel => {
                // system(3) ignores SIGINT as long as it waits: the statement goes on with what the program's end tells it.
                let is_told = matches!(language, "plperlu" | "plr");
                assert!(is_told || ended.is_err(), "{ended:?}");
                stuck
                    .run_follow_up("SELECT 1")
                    .expect("the session goes on");
            }
            How::Terminate => assert!(!stuck.backend().is_alive()),
        }
        if language != "sql" {
            let drop = "DROP FUNCTION stuck()";
            server.connect().batch_execute(drop).expect("no function");
        }
    }
    server.assert_unharmed();
}

macro_rules! programs {
    ($($name:ident: $language:literal, $body:literal;)+) => {
        $(#[test]
        fn $name() {
            ends_with_its_program($language, $body);
        })+
    };
}

programs! {
    copy_to_a_program: "sql", "COPY (SELECT 1) TO PROGRAM 'sleep 1000'";
    a_shell_function: "plsh", "#!/bin/sh\nsleep 1000";
    perl: "plperlu", "system('sleep 1000; true');";
    tcl: "pltclu", "exec sleep 1000";
    python: "plpython3u", "import subprocess\nsubprocess.run(['sleep', '1000'])";
    r: "plr", "system('sleep 1000')";
}

/// A program with a group of its own is not met, as by the server's own functions; a backend that has ended has left it
/// behind, and that is told.
#[test]
fn a_program_that_is_left_behind_is_told() {
    let server = server_with!("plpython3u");
    let body =
        "import subprocess, time\nsubprocess.Popen(['setsid', 'sleep', '1000'])\ntime.sleep(1000)";
    let sleeps = |backend: &Backend| {
        let all = children(backend.pid);
        let its_own = |child: &Backend| {
            let line = std::fs::read(format!("/proc/{}/cmdline", child.pid));
            line.is_ok_and(|line| line.starts_with(b"sleep\0"))
        };
        all.iter().any(its_own) && backend.syscall() == Some(libc::SYS_clock_nanosleep)
    };
    let stuck = stuck_in(&server, "plpython3u", body, sleeps);
    stuck.prove_stuck(How::Terminate);
    let [child] = children(stuck.pid())[..] else {
        panic!("one child");
    };
    let pid = stuck.pid().to_string();
    let args = [
        "interrupt",
        "--json",
        "--yes",
        "--terminate",
        "--grace",
        "100ms",
    ];
    let run = Run::pgpoke([&args[..], &["--allow", "foreign-runtime", &pid]].concat());
    let report = Report::read(run, stuck.pid());
    report.assert_outcome("terminated", 0);
    assert!(child.is_alive(), "it has a group of its own");
    report.assert_at("/left_behind", serde_json::json!([child.pid]));
    child.send(libc::SIGKILL);
    wait_for(Duration::from_secs(5), "it shall be gone", || {
        (!child.is_alive()).then_some(())
    });
    server.assert_unharmed();
}
