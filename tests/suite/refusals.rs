//! What pgpoke does not touch: each refusal has its exit code, a reason and a next step, and leaves
//! the process as it was.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::harness::{
    Backend, DEADLINE, How, Run, Server, as_other_user, as_user_without_ptrace, is_root, pgpoke,
    server_with_testext, skip, wait_for,
};
use crate::report::{Report, run_json};

/// Every command that is refused, without the PID; the last two are the ones that would send a
/// signal.
const COMMANDS: [&[&str]; 4] = [
    &["inspect"],
    &["interrupt", "--yes"],
    &["interrupt", "--cancel", "--grace", "0s", "--yes"],
    &["interrupt", "--terminate", "--grace", "0s", "--yes"],
];

/// What says why, and what to do instead, when no backend could be judged.
#[track_caller]
pub fn assert_refused_without_judgement(pid: i32, code: i32, says: &[&str]) {
    for command in COMMANDS {
        let pid_text = pid.to_string();
        let args = [command, &[pid_text.as_str()]].concat();
        let (run, calls) = Run::pgpoke_traced(&args);
        run.assert_code(code).assert_says("pgpoke: error: ");
        assert!(
            run.stderr.contains("pgpoke: hint: "),
            "no next step:\n{run}"
        );
        assert!(run.stdout.is_empty(), "{run}");
        for text in says {
            run.assert_says(text);
        }
        calls.assert_none();

        // The same for a script, which reads one object.
        let run = run_json(command, pid);
        let json = run.assert_code(code).json();
        assert_eq!(json["pid"], pid, "{run}");
        assert_eq!(json["verdict"], serde_json::Value::Null, "{run}");
        for field in ["message", "hint"] {
            let text = json["error"][field].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "no {field}:\n{run}");
        }
        if command[0] == "interrupt" {
            assert_eq!(json["outcome"], "refused", "{run}");
        }
    }
}

/// A child that is killed, and waited for, with the test.
struct Started(Child);

impl Started {
    fn new(command: &mut Command) -> Self {
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    fn process(&self) -> Backend {
        let pid = i32::try_from(self.0.id()).expect("a PID");
        Backend::open(pid).expect("a child that was not waited for")
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn there_is_no_such_process() {
    let mut child = Command::new("true").spawn().expect("a child");
    let pid = i32::try_from(child.id()).expect("a PID");
    child.wait().expect("its end");
    let pid = pid.to_string();
    assert_refused_without_judgement(pid.parse().unwrap(), 7, &[&pid]);
    // No kernel gives out that one: PID_MAX_LIMIT is 4 × 1024 × 1024.
    assert_refused_without_judgement(i32::MAX, 7, &[]);
}

#[test]
fn a_thread_is_no_process() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_malloc_threads()");
    let threads = fs::read_dir(format!("/proc/{}/task", stuck.pid())).expect("its threads");
    let second = threads
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .map(|name| name.parse::<i32>().expect("a thread's number"))
        .find(|id| *id != stuck.pid())
        .expect("a second thread");
    assert_refused_without_judgement(second, 7, &["thread", &stuck.pid().to_string()]);
    stuck.prove_stuck(How::Cancel);
    stuck.backend().assert_running_untraced();
    server.assert_unharmed();
}

#[test]
fn programs_of_other_kinds_are_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let named_postgres = dir.path().join("postgres");
    fs::copy("/bin/sleep", &named_postgres).expect("a copy of sleep");
    fs::set_permissions(&named_postgres, fs::Permissions::from_mode(0o755)).expect("a mode");
    let mut titled = Command::new("bash");
    titled.args([
        "-c",
        "exec -a 'postgres: postgres postgres [local] SELECT' sleep 3600",
    ]);
    let mut programs = [
        Command::new("sh"),
        Command::new("cat"),
        Command::new("sleep"),
        Command::new(&named_postgres),
        titled,
    ];
    for sleep in &mut programs[2..4] {
        sleep.arg("3600");
    }
    for program in &mut programs {
        let started = Started::new(program);
        let process = started.process();
        wait_for(DEADLINE, "the program shall wait", || {
            (process.state() == Some('S') && process.syscall().is_some()).then_some(())
        });
        assert_refused_without_judgement(process.pid, 7, &["not a PostgreSQL backend"]);
        process.assert_running_untraced();
    }
}

/// The whole of the server's own processes, found by their parent and their titles.
pub fn children(postmaster: Backend) -> Vec<(String, Backend)> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let Some(process) = Backend::open(pid) else {
            continue;
        };
        if process.status("PPid") == Some(postmaster.pid.to_string())
            && let Ok(title) = fs::read(format!("/proc/{pid}/cmdline"))
        {
            let title = String::from_utf8_lossy(&title).replace('\0', " ");
            if let Some(title) = title.trim().strip_prefix("postgres: ") {
                children.push((title.to_owned(), process));
            }
        }
    }
    children
}

/// Refused, whatever is asked for, with the reason that this is what it is; and not a signal is
/// sent.
#[track_caller]
fn assert_never_touched(process: Backend, kind: &str) {
    for command in COMMANDS {
        let pid = process.pid.to_string();
        let (run, calls) = Run::pgpoke_traced([command, &["--json", &pid]].concat());
        let report = Report::read(run, process.pid);
        report
            .assert_code(4)
            .assert_at("/verdict", "unsafe")
            .assert_verdict_if("unsafe", "unsafe")
            .assert_at("/backend/type", kind);
        assert_eq!(report.check("backend-type"), "fail", "{}", report.run);
        if command[0] == "interrupt" {
            report.assert_outcome("refused", 4);
        }
        calls.assert_no_signal();
        if kind == "postmaster" {
            calls.assert_none();
            report.assert_at("/stopped_ms", 0.0);
        }
        process.assert_running_untraced();

        // What a person reads: the reason, and what to do instead.
        let run = Run::pgpoke([command, &[&pid]].concat());
        run.assert_code(4)
            .assert_says("backend-type")
            .assert_says("next");
    }
}

#[test]
fn the_postmaster_is_never_stopped() {
    let server = Server::start();
    assert_never_touched(server.postmaster(), "postmaster");
    server.assert_unharmed();
}

#[test]
fn auxiliary_processes_are_never_interrupted() {
    let server = Server::builder()
        .setting("archive_mode", "on")
        .setting("archive_command", "true")
        .setting("logging_collector", "on")
        .start();
    let kinds = [
        ("checkpointer", "checkpointer"),
        ("background writer", "background writer"),
        ("walwriter", "walwriter"),
        ("autovacuum launcher", "autovacuum launcher"),
        ("archiver", "archiver"),
        ("logger", "logger"),
    ];
    are_never_touched(&server, &kinds);
}

/// What is advised for an auxiliary process is run, and does what it says.
#[test]
fn what_is_advised_for_auxiliary_processes_works() {
    let server = Server::builder()
        .setting("archive_mode", "on")
        .setting("archive_command", "exec sleep 300")
        .start();
    // What it says of an archive command that was killed is worded as a crash is.
    server.expect_crash();
    let is_unharmed = || {
        let log = server.log();
        assert!(!log.contains("terminating any other"), "{log}");
        assert!(server.postmaster().is_alive(), "{log}");
        drop(server.connect());
    };
    let find = |title: &str| {
        wait_for(DEADLINE, &format!("there shall be a {title}"), || {
            let all = children(server.postmaster());
            let found = all.into_iter().find(|(t, _)| t.starts_with(title));
            found.map(|(_, process)| process)
        })
    };
    let advised = |process: Backend| -> Vec<String> {
        let report = Report::of(&["inspect"], process.pid);
        let all = report.at("/advice").as_array().expect("advice");
        all.iter()
            .map(|a| a.as_str().expect("text").to_owned())
            .collect()
    };
    let run = |advice: &[String], start: &str| {
        let found = advice.iter().find_map(|a| Some(a.split_once(start)?.1));
        let arguments = found.unwrap_or_else(|| panic!("no {start:?} in {advice:?}"));
        let command = format!("{}{arguments}", start.trim_start_matches(": "));
        let done = Command::new("sh").args(["-c", &command]).status();
        assert!(done.expect("sh").success(), "{command}");
    };
    let is_another = |title: &str, before: Backend| {
        wait_for(DEADLINE, &format!("there shall be a new {title}"), || {
            // The postmaster looks who is missing when it has something to do, or once a minute; and an archiver it starts
            // 10 s after the last one at the earliest (PgArchCanRestart(), src/backend/postmaster/pgarch.c).
            drop(server.connect());
            let all = children(server.postmaster());
            let mut found = all.into_iter().filter(|(t, _)| t.starts_with(title));
            found.find(|(_, process)| *process != before)
        });
        is_unharmed();
    };

    // Its child is ended, and it begins anew.
    let mut client = server.connect();
    client
        .batch_execute("CREATE TABLE t (); SELECT pg_switch_wal()")
        .unwrap();
    let archiver = find("archiver");
    wait_for(DEADLINE, "the archiver shall wait for its child", || {
        (archiver.syscall() == Some(libc::SYS_wait4)).then_some(())
    });
    run(&advised(archiver), ": kill ");
    is_another("archiver", archiver);

    // It is well, and heeds a SIGTERM.
    let walwriter = find("walwriter");
    run(&advised(walwriter), ": kill ");
    is_another("walwriter", walwriter);

    // It is stopped, and needs no restart.
    let checkpointer = find("checkpointer");
    checkpointer.send(libc::SIGSTOP);
    wait_for(DEADLINE, "it shall be stopped", || {
        (checkpointer.state() == Some('T')).then_some(())
    });
    let advice = advised(checkpointer);
    assert!(!advice.iter().any(|a| a.contains("restart")), "{advice:?}");
    run(&advice, ": kill -CONT ");
    checkpointer.assert_running_untraced();
    is_unharmed();
}

#[test]
fn recovery_is_never_interrupted() {
    let primary = Server::start();
    let conninfo = format!("host={} user=postgres", primary.directory().display());
    let standby = Server::builder()
        .setting("primary_conninfo", &conninfo)
        .standby()
        .start();
    are_never_touched(
        &standby,
        &[("startup", "startup"), ("walreceiver", "walreceiver")],
    );
    // It still follows.
    primary
        .connect()
        .batch_execute("CREATE TABLE followed ()")
        .unwrap();
    wait_for(DEADLINE, "the standby shall follow", || {
        standby.connect().batch_execute("TABLE followed").ok()
    });
    primary.assert_unharmed();
}

fn are_never_touched(server: &Server, kinds: &[(&str, &str)]) {
    let find = |title: &str| {
        let found = children(server.postmaster());
        let found = found.into_iter().find(|(t, _)| t.starts_with(title));
        found.map(|(_, process)| process)
    };
    for (title, kind) in kinds {
        let process = wait_for(DEADLINE, &format!("there shall be a {title}"), || {
            find(title)
        });
        assert_never_touched(process, kind);
    }
    for (title, _) in kinds {
        let process = find(title).unwrap_or_else(|| panic!("the {title} is gone"));
        process.assert_running_untraced();
    }
    server.assert_unharmed();
}

/// Stuck in a way in which an interrupt would do harm, or nothing: pgpoke says so, and why, for
/// what is pending and for what is asked for.
fn is_refused(call: &str, outcome: &str, code: i32, check: &str) {
    let server = server_with_testext!();
    let stuck = server.stuck(&format!("SELECT {call}"));
    stuck.prove_stuck(How::Cancel);
    stuck.prove_stuck(How::Terminate);
    for args in [
        &[][..],
        &["--cancel"],
        &["--terminate"],
        &["--allow", check],
    ] {
        // A failed check cannot be allowed: naming it changes nothing.
        let all = [
            &["interrupt", "--yes", "--wait", "300ms", "--grace", "10ms"],
            args,
        ]
        .concat();
        let report = Report::of(&all, stuck.pid());
        report.assert_outcome(outcome, code);
        let detail = report.text("/outcome_detail");
        assert!(detail.contains(check), "{}", report.run);
        assert!(
            report.run.elapsed < Duration::from_secs(10),
            "{}",
            report.run
        );
        stuck.backend().assert_running_untraced();
    }
    let pid = stuck.pid().to_string();
    let run = Run::pgpoke(["interrupt", "--yes", "--wait", "0s", &pid]);
    run.assert_code(code)
        .assert_says(outcome)
        .assert_says(check);
    run.assert_says("next");
    // Still there, with both flags where they were.
    Report::of(&["inspect"], stuck.pid())
        .assert_at("/interrupts/query_cancel_pending", true)
        .assert_at("/interrupts/proc_die_pending", true);
    stuck.prove_stuck(How::Cancel);
    stuck.backend().assert_running_untraced();
    server.assert_unharmed();
}

/// Whoever sleeps in one system call is looked at twice, and then watched without a stop; when it goes on, it is looked at
/// again. Only a risk, which somebody may accept, is told at once.
#[test]
fn what_sleeps_in_one_call_is_stopped_twice() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_stdio()");
    stuck.prove_stuck(How::Cancel);
    let report = Report::of(&["interrupt", "--yes", "--wait", "1s"], stuck.pid());
    report
        .assert_outcome("refused", 4)
        .assert_at("/attempts", 2);
    assert!(
        report.run.elapsed >= Duration::from_secs(1),
        "{}",
        report.run
    );
    assert!(
        report.at("/stopped_ms").as_f64() < Some(50.0),
        "{}",
        report.run
    );
    stuck.backend().assert_running_untraced();
    // A risk that stays is no reason to wait.
    let stuck = server.stuck("SELECT pgpoke_catch()");
    stuck.prove_stuck(How::Cancel);
    let report = Report::of(&["interrupt", "--yes", "--wait", "30s"], stuck.pid());
    report.assert_outcome("refused", 3);
    assert!(
        report.run.elapsed < Duration::from_secs(15),
        "{}",
        report.run
    );
    stuck.backend().assert_running_untraced();
    server.assert_unharmed();
}

macro_rules! refused {
    ($($name:ident: $call:literal, $outcome:literal, $code:literal, $check:literal;)+) => {
        mod refuses_a_backend_in {
            $(
                #[test]
                fn $name() {
                    super::is_refused($call, $outcome, $code, $check);
                }
            )+
        }
    };
}

refused! {
    a_hold_off: "pgpoke_hold()", "pointless", 5, "held-off";
    a_critical_section: "pgpoke_crit()", "refused", 4, "critical-section";
    stdio: "pgpoke_stdio()", "refused", 4, "stdio-lock";
    a_signal_handler: "pgpoke_handler_loop()", "refused", 4, "signal-handler";
    an_lwlock_wait: "pgpoke_lwlock()", "pointless", 5, "lwlock-wait";
    a_spinlock_wait: "pgpoke_spinlock()", "refused", 4, "spinlock";
    a_loop_that_ignores_usr1: "pgpoke_usr1('ignore')", "refused", 4, "signal-deliverable";
    a_loop_that_blocks_usr1: "pgpoke_usr1('block')", "refused", 4, "signal-deliverable";
    a_loop_with_a_small_signal_stack: "pgpoke_usr1('smallstack')", "refused", 4, "signal-deliverable";
}

/// The kernel lets nobody run it, or lets somebody else: nothing can be done, whatever is pending.
#[track_caller]
fn assert_out_of_reach(pid: i32, cause: &str, advice: &str) {
    for command in COMMANDS {
        let (run, calls) = Run::pgpoke_traced([command, &["--json", &pid.to_string()]].concat());
        assert!(run.elapsed < Duration::from_secs(10), "{run}");
        let report = Report::read(run, pid);
        report
            .assert_code(5)
            .assert_at("/verdict", "pointless")
            .assert_verdict_if("pointless", "pointless")
            .assert_at("/cause/code", cause)
            .assert_advises(advice);
        assert_eq!(report.check("process-state"), "fail", "{}", report.run);
        if command[0] == "interrupt" {
            report.assert_outcome("pointless", 5);
        }
        // In state D a signal waits for a while, which is all that was asked for, and may be short.
        let asked = command[1..]
            .iter()
            .any(|o| ["--cancel", "--terminate"].contains(o));
        if cause != "uninterruptible-syscall" || !asked {
            calls.assert_no_signal();
        }
    }
}

#[test]
fn a_backend_stopped_by_sigstop_stays_stopped() {
    let server = server_with_testext!();
    for (call, pending) in [("pgpoke_spin()", true), ("pgpoke_read()", false)] {
        let stuck = server.stuck(&format!("SELECT {call}"));
        if pending {
            stuck.prove_stuck(How::Cancel);
        }
        stuck.backend().send(libc::SIGSTOP);
        let stopped = |what: &str| {
            stuck.wait_until(what, DEADLINE, |backend| backend.state() == Some('T'));
            assert_eq!(stuck.backend().tracer_pid(), 0);
        };
        stopped("SIGSTOP shall stop it");
        let ticks = stuck.backend().cpu_ticks();
        for _ in 0..2 {
            assert_out_of_reach(
                stuck.pid(),
                "group-stopped",
                &format!("kill -CONT {}", stuck.pid()),
            );
            stopped("it shall stay stopped");
        }
        assert!(!stuck.backend().is_pending(libc::SIGINT));
        assert!(!stuck.backend().is_pending(libc::SIGTERM));
        assert!(stuck.backend().cpu_ticks() <= ticks + 1, "it has run");
        stuck.backend().send(libc::SIGCONT);
        stuck.backend().assert_running_untraced();
        stuck.prove_stuck(How::Terminate);
        Report::of(&["inspect"], stuck.pid())
            .assert_verdict("safe")
            .assert_at("/interrupts/query_cancel_pending", pending);
    }
    server.assert_unharmed();
}

#[test]
fn a_backend_in_an_uninterruptible_call_is_not_waited_for() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_vfork(3600)");
    stuck.wait_until("it shall wait for its child", DEADLINE, |backend| {
        backend.state() == Some('D')
    });
    let child = fs::read_to_string(format!("/proc/{0}/task/{0}/children", stuck.pid()));
    let child = child
        .expect("its children")
        .trim()
        .parse::<i32>()
        .expect("one child");
    // It is the child that it waits for, and no disk.
    let advice = format!("look at process {child} ");
    assert_out_of_reach(stuck.pid(), "uninterruptible-syscall", &advice);
    stuck.prove_stuck(How::Terminate);
    assert_out_of_reach(stuck.pid(), "uninterruptible-syscall", &advice);
    assert_eq!(stuck.backend().tracer_pid(), 0);
    assert_eq!(stuck.backend().state(), Some('D'));

    // Its child ends: it goes on, and does what it has been told meanwhile.
    Backend::open(child).expect("its child").send(libc::SIGKILL);
    let failure = stuck.result().expect_err("a terminated session");
    assert!(
        failure.sqlstate.is_none() || failure.code() == "57P01",
        "{failure}"
    );
    server.assert_unharmed();
}

/// Lets a stopped process go on, however the test ends.
struct Continue(Backend);

impl Drop for Continue {
    fn drop(&mut self) {
        // SAFETY: kill takes any numbers; the process is a postmaster that the test started.
        unsafe { libc::kill(self.0.pid, libc::SIGCONT) };
    }
}

/// A zombie has neither an executable nor memory; that its parent is a postmaster says what it was.
#[test]
fn a_zombie_has_exited_already() {
    let server = Server::start();
    let mut session = server.connect();
    let mut other = server.connect();
    let pid: i32 = session
        .query_one("SELECT pg_backend_pid()", &[])
        .unwrap()
        .get(0);
    let backend = Backend::open(pid).expect("the backend");
    server.postmaster().send(libc::SIGSTOP);
    let postmaster = Continue(server.postmaster());
    other
        .execute("SELECT pg_terminate_backend($1)", &[&pid])
        .unwrap();
    wait_for(DEADLINE, "the backend shall become a zombie", || {
        (backend.state() == Some('Z')).then_some(())
    });
    assert_out_of_reach(pid, "exiting", "postmaster");
    assert_eq!(backend.state(), Some('Z'));
    drop(postmaster);
    wait_for(DEADLINE, "the postmaster shall notice", || {
        backend.state().is_none().then_some(())
    });
    drop(session);
    server.assert_unharmed();
}

#[test]
fn a_backend_that_somebody_traces_is_left_to_them() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    let pid = stuck.pid().to_string();
    let strace = Started::new(Command::new("strace").args(["-qq", "-o", "/dev/null", "-p", &pid]));
    let tracer = strace.process();
    stuck.wait_until("strace shall attach", DEADLINE, |backend| {
        backend.tracer_pid() == tracer.pid
    });
    assert_out_of_reach(stuck.pid(), "being-traced", &tracer.pid.to_string());
    Run::pgpoke(["inspect", &pid])
        .assert_code(5)
        .assert_says(&format!("process {}", tracer.pid));
    assert_eq!(stuck.backend().tracer_pid(), tracer.pid);
    drop(strace);
    stuck.backend().assert_running_untraced();
    stuck.prove_stuck(How::Terminate);
    Report::of(&["inspect"], stuck.pid()).assert_verdict("safe");
    server.assert_unharmed();
}

#[test]
fn without_permission_the_rule_and_the_next_step_are_said() {
    if !is_root() {
        skip!("only root can be someone else");
    }
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    let owner = fs::metadata(server.data_directory()).expect("the data directory");
    let owner = std::os::unix::fs::MetadataExt::uid(&owner);
    let owner = Run::of({
        let mut id = Command::new("id");
        id.args(["-un", &owner.to_string()]);
        id
    });
    let owner = owner.stdout.trim();
    type Wrapper = fn(Command) -> Command;
    // In a container, the next step is another one; in any case it is to be the server's own user.
    let users: [(Wrapper, &str, &str); 2] = [
        (
            as_user_without_ptrace,
            "root but without CAP_SYS_PTRACE",
            "as the server's own user, which needs no capability",
        ),
        (as_other_user, "nobody, without CAP_SYS_PTRACE", "sudo -u"),
    ];
    let yama = match fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope") {
        Ok(scope) => format!("ptrace_scope: {}", scope.trim()),
        Err(_) => "ptrace_scope: not built into this kernel".to_owned(),
    };
    for (wrapper, rule, next_step) in users {
        for command in COMMANDS {
            for json in [&[][..], &["--json"]] {
                let mut pgpoke = pgpoke();
                pgpoke.args(command).args(json).arg(stuck.pid().to_string());
                let run = Run::of(wrapper(pgpoke));
                run.assert_code(6)
                    .assert_says(&format!("runs as {owner}"))
                    .assert_says(rule)
                    .assert_says(&yama);
                assert!(run.stderr.contains("pgpoke: hint: "), "{run}");
                assert!(run.stderr.contains(&format!("-u {owner} ")), "{run}");
                run.assert_says(next_step);
                if !json.is_empty() {
                    let object = run.json();
                    let hint = object["error"]["hint"].as_str().unwrap_or_default();
                    assert!(hint.contains(next_step), "{run}");
                }
            }
        }
    }
    // Neither signal came, though root may send them without the capability.
    Report::of(&["inspect"], stuck.pid())
        .assert_verdict("safe")
        .assert_at("/interrupts/proc_die_pending", false);
    stuck.prove_stuck(How::Terminate);
    stuck.backend().assert_running_untraced();
    server.assert_unharmed();
}

#[test]
fn what_cannot_be_meant_is_a_usage_error() {
    let rows: [&[&str]; 16] = [
        &[],
        &["inspect"],
        &["interrupt", "--yes"],
        &["inspect", "zero"],
        &["inspect", "0"],
        &["inspect", "-5"],
        &["inspect", "1", "2"],
        &["inspect", "1", "-p", "1"],
        &["inspect", "--samples", "0", "1"],
        &["interrupt", "--yes", "--cancel", "--terminate", "1"],
        &["interrupt", "--yes", "--allow", "everything", "1"],
        &["interrupt", "--yes", "--grace", "5", "1"],
        &["interrupt", "--yes", "--wait", "-1s", "1"],
        &["interrupt", "--yes", "--timeout", "1.5s", "1"],
        &["interrupt", "--yes", "--timeout", "5 weeks", "1"],
        &["unheard-of", "1"],
    ];
    for args in rows {
        let (run, calls) = Run::pgpoke_traced(args);
        run.assert_code(2);
        assert!(run.stdout.is_empty(), "{run}");
        assert!(!run.stderr.trim().is_empty(), "no reason given:\n{run}");
        let next_step = ["hint: ", "--help", "Usage: ", "tip: "];
        assert!(
            next_step.iter().any(|step| run.stderr.contains(step)),
            "no next step:\n{run}"
        );
        calls.assert_none();
    }
}
