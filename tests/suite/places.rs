//! Kernels that lack a system call, filters that deny one, and users who lack a right.

use std::process::Command;

use crate::harness::{
    How, Run, Server, as_other_user, as_server_user, as_user_without_ptrace, denying, is_root,
    pgpoke, server_with_testext, skip,
};
use crate::report::Report;

/// What an old kernel, or an old container runtime's filter, answers to calls that it does not know.
const FAILURES: [&[&str]; 12] = [
    &["pidfd_open:error=ENOSYS"],
    &["pidfd_open:error=EPERM"],
    &["pidfd_send_signal:error=ENOSYS"],
    &["pidfd_send_signal:error=EPERM"],
    &["process_vm_readv:error=ENOSYS"],
    &["process_vm_readv:error=EPERM"],
    &["openat2:error=ENOSYS"],
    &["openat2:error=EPERM"],
    // glibc takes ENOSYS for a hint to use clone(2), and EPERM for an answer: no thread can be started.
    &["clone3:error=EPERM"],
    &["statx:error=EPERM"],
    // Linux 4.4.
    &[
        "pidfd_open:error=ENOSYS",
        "pidfd_send_signal:error=ENOSYS",
        "openat2:error=ENOSYS",
        "clone3:error=ENOSYS",
        "statx:error=ENOSYS",
    ],
    // A filter of those days.
    &[
        "pidfd_open:error=EPERM",
        "pidfd_send_signal:error=EPERM",
        "openat2:error=EPERM",
        "clone3:error=EPERM",
        "statx:error=EPERM",
        "process_vm_readv:error=EPERM",
    ],
];

/// pgpoke where these calls fail, and what it called.
#[track_caller]
fn failing(failures: &[&str], args: &[&str], pid: i32) -> (Report, String) {
    let dir = tempfile::tempdir().expect("a directory for strace's output");
    let output = dir.path().join("calls");
    let names: Vec<&str> = failures
        .iter()
        .filter_map(|failure| failure.split(':').next())
        .collect();
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "signal=none", "-e"]);
    command.arg(format!("trace=kill,{}", names.join(",")));
    for failure in failures {
        command.args(["-e", &format!("inject={failure}")]);
    }
    command.arg("-o").arg(&output).arg("--");
    command.arg(pgpoke().get_program()).args(args);
    command.args(["--json", &pid.to_string()]);
    let report = Report::read(Run::of(command), pid);
    let calls = std::fs::read_to_string(&output).expect("strace's output");
    (report, calls)
}

#[test]
fn no_call_that_is_newer_than_linux_4_4_is_needed() {
    let server = server_with_testext!();
    for failures in FAILURES {
        let readv = failures.iter().any(|f| f.starts_with("process_vm_readv"));
        let pidfd = failures.iter().any(|f| f.starts_with("pidfd"));

        let stuck = server.stuck("SELECT pgpoke_spin()");
        stuck.prove_stuck(How::Cancel);
        let (report, calls) = failing(failures, &["inspect"], stuck.pid());
        report.assert_verdict("safe").assert_code(0);
        report.assert_at("/stack_complete", true);
        assert_eq!(
            report.at("/process/memory_detour").is_string(),
            readv,
            "{failures:?}: {}",
            report.run
        );
        assert!(
            calls.contains("(INJECTED)") || !meets_inspect(failures),
            "nothing failed: {failures:?}: {calls}"
        );
        stuck.backend().assert_running_untraced();
        let how = ["interrupt", "--cancel", "--grace", "50ms", "--yes"];
        let (report, calls) = failing(failures, &how, stuck.pid());
        report.assert_outcome("cancelled", 0);
        let sent = format!("kill(-{}, SIGINT)", stuck.pid());
        assert_eq!(calls.contains(&sent), pidfd, "{failures:?}: {calls}");
        assert_eq!(stuck.result().unwrap_err().code(), "57014");

        let stuck = server.stuck_on_fifo();
        stuck.prove_stuck(How::Cancel);
        let how = ["interrupt", "--terminate", "--grace", "50ms", "--yes"];
        let (report, calls) = failing(failures, &how, stuck.pid());
        report.assert_outcome("terminated", 0);
        let sent = format!("kill(-{}, SIGTERM)", stuck.pid());
        assert_eq!(calls.contains(&sent), pidfd, "{failures:?}: {calls}");
        stuck.result().expect_err("a terminated session");
    }
    server.assert_unharmed();
}

/// inspect sends no signal, and root opens mapped files without a look at paths.
fn meets_inspect(failures: &[&str]) -> bool {
    !matches!(failures, [one] if one.starts_with("pidfd_send_signal") || one.starts_with("openat2"))
}

/// Who may not ask for the mapped files themselves (proc_pid_map_files(5)) opens them by their paths.
#[test]
fn files_are_opened_by_path_without_openat2_too() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    let program = reachable(&server);
    for error in ["ENOSYS", "EPERM"] {
        let output = server.directory().join(error);
        let mut command = Command::new("strace");
        command.args([
            "-f",
            "-qq",
            "-e",
            "signal=none",
            "-e",
            "trace=openat2",
            "-e",
        ]);
        command.arg(format!("inject=openat2:error={error}"));
        command.arg("-o").arg(&output).arg("--");
        command.arg(program.get_program());
        command.args(["inspect", "--json", &stuck.pid().to_string()]);
        let report = Report::read(Run::of(as_server_user(command)), stuck.pid());
        report
            .assert_verdict("safe")
            .assert_at("/stack_complete", true);
        let calls = std::fs::read_to_string(&output).expect("strace's output");
        assert!(calls.contains("(INJECTED)"), "nothing failed: {calls}");
    }
    stuck.backend().assert_running_untraced();
    Report::of(&["interrupt", "--yes"], stuck.pid()).assert_outcome("cancelled", 0);
    server.assert_unharmed();
}

#[test]
fn a_process_that_is_gone_is_gone_without_a_pidfd_too() {
    let mut child = Command::new("true").spawn().expect("a child");
    let pid = child.id().to_string();
    child.wait().expect("its end");
    let mut command = Command::new("strace");
    command.args([
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "inject=pidfd_open:error=ENOSYS",
    ]);
    command.arg(pgpoke().get_program()).args(["inspect", &pid]);
    Run::of(command)
        .assert_code(7)
        .assert_says("no process with PID");
}

/// A copy of pgpoke that everybody can reach.
fn reachable(server: &Server) -> Command {
    let copy = server.directory().join("pgpoke");
    if !copy.exists() {
        std::fs::copy(pgpoke().get_program(), &copy).expect("a copy of pgpoke");
    }
    Command::new(copy)
}

/// Denied, by that rule, in words and for scripts; and what everybody may know is told.
#[track_caller]
fn assert_denied(mut command: impl FnMut() -> Command, pid: i32, rule: &str, says: &[&str]) {
    let pid = pid.to_string();
    for args in [&["inspect"][..], &["interrupt", "--terminate", "--yes"]] {
        let mut json = command();
        json.args(args).args(["--json", &pid]);
        let run = Run::of(json);
        run.assert_code(6);
        let object = run.json();
        assert_eq!(object["error"]["rule"], rule, "{run}");
        assert!(
            object["verdict"].is_null() && object["cause"].is_null(),
            "{run}"
        );
        assert_eq!(object["backend"]["database"], "postgres", "{run}");
        assert_eq!(object["backend"]["client"], "[local]", "{run}");
        assert!(object["process"]["state"].is_string(), "{run}");
        assert!(object["signals"]["caught"].is_array(), "{run}");
        for text in says {
            run.assert_says(text);
        }
    }
    let mut text = command();
    text.args(["inspect", &pid]);
    let run = Run::of(text);
    run.assert_code(6).assert_says("pgpoke: hint: ");
    assert!(run.stdout.starts_with("verdict      unknown"), "{run}");
    for text in says {
        run.assert_says(text);
    }
}

/// Without a right over the process: what it was sent, and what it did not take, is told all the same.
#[test]
fn who_may_not_look_is_told_what_everybody_may_know() {
    if !is_root() {
        skip!("only root can be someone else");
    }
    let server = Server::builder().setting("cluster_name", "main");
    let server = server_with_testext!(server);
    let stuck = server.stuck("SELECT pgpoke_blocked()");
    stuck.prove_stuck(How::Cancel);
    for wrapper in [as_other_user, as_user_without_ptrace] {
        let wrapped = || wrapper(pgpoke());
        assert_denied(wrapped, stuck.pid(), "user", &["without CAP_SYS_PTRACE"]);
    }
    let mut command = pgpoke();
    command.args(["inspect", &stuck.pid().to_string()]);
    let run = Run::of(as_other_user(command));
    run.assert_says("SIGINT was sent, and is blocked; a handler is set");
    run.assert_says(&format!(
        "its parent {} was started as: ",
        server.postmaster().pid
    ));
    assert!(
        !stuck.backend().is_pending(libc::SIGTERM),
        "a signal was sent"
    );
    stuck.backend().assert_running_untraced();
    stuck.prove_stuck(How::Terminate);
    server.assert_unharmed();
}

#[test]
fn a_user_namespace_of_ones_own_gives_no_right() {
    if !is_root() {
        skip!("only root can be someone else");
    }
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    let mut probe = Command::new("unshare");
    probe.args(["-Ur", "true"]);
    if Run::of(as_server_user(probe)).code() != Some(0) {
        skip!("no user namespaces here");
    }
    // As the very user that it runs as.
    assert_denied(
        || {
            let mut command = Command::new("unshare");
            command.arg("-Ur").arg(reachable(&server).get_program());
            as_server_user(command)
        },
        stuck.pid(),
        "user-namespace",
        &["another user namespace"],
    );
    stuck.backend().assert_running_untraced();
    stuck.prove_stuck(How::Terminate);
    server.assert_unharmed();
}

#[test]
fn a_backend_that_may_not_be_dumped_is_for_root() {
    if !is_root() {
        skip!("only root can be someone else");
    }
    let server = server_with_testext!();
    // prctl(PR_SET_DUMPABLE, 0)
    server
        .connect()
        .batch_execute(
            "CREATE EXTENSION plperlu;
             CREATE FUNCTION hide() RETURNS int LANGUAGE plperlu AS 'return syscall(157, 4, 0, 0, 0, 0)'",
        )
        .expect("a function in Perl");
    let stuck = server.stuck("SELECT hide(), pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    let program = reachable(&server);
    assert_denied(
        || as_server_user(Command::new(program.get_program())),
        stuck.pid(),
        "not-dumpable",
        &["not dumpable", "sudo pgpoke"],
    );
    stuck.backend().assert_running_untraced();
    Report::of(&["interrupt", "--yes"], stuck.pid()).assert_outcome("cancelled", 0);
    assert_eq!(stuck.result().unwrap_err().code(), "57014");
    server.assert_unharmed();
}

/// Makes every ptrace(2) call of the program fail, as a container runtime's filter would.
fn without_ptrace_call(command: Command) -> Command {
    denying(command, libc::SYS_ptrace, None, libc::EPERM)
}

#[test]
fn a_filter_that_denies_ptrace_is_named_and_memory_is_read_all_the_same() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    let program = reachable(&server);
    let denied = || without_ptrace_call(as_server_user(Command::new(program.get_program())));
    let mut command = denied();
    command.args(["inspect", "--json", &stuck.pid().to_string()]);
    let run = Run::of(command);
    let object = run.assert_code(6).json();
    assert_eq!(object["error"]["rule"], "seccomp", "{run}");
    assert_eq!(object["interrupts"]["query_cancel_pending"], true, "{run}");
    assert_eq!(object["interrupts"]["proc_die_pending"], false, "{run}");
    assert!(object["verdict"].is_null(), "{run}");
    assert!(object["backend"]["server_version"].is_string(), "{run}");
    let mut command = denied();
    command.args(["inspect", &stuck.pid().to_string()]);
    Run::of(command)
        .assert_code(6)
        .assert_says("A seccomp filter denies us every ptrace(2) call")
        .assert_says("cancel pending, terminate not pending");
    stuck.backend().assert_running_untraced();
    Report::of(&["interrupt", "--yes"], stuck.pid()).assert_outcome("cancelled", 0);
    server.assert_unharmed();
}

#[test]
fn a_proc_that_hides_processes_is_said_to() {
    if !is_root() {
        skip!("only root can mount");
    }
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    let program = reachable(&server);
    let pid = stuck.pid().to_string();
    for hidepid in ["hidepid=1", "hidepid=2"] {
        for pidfd in [
            &[][..],
            &[
                "strace",
                "-fqqo",
                "/dev/null",
                "-e",
                "inject=pidfd_open:error=EPERM",
            ],
        ] {
            let mut command = Command::new("unshare");
            command.args([
                "-m",
                "sh",
                "-c",
                "mount -t proc -o \"$1\" proc /proc && shift && exec \"$@\"",
                "sh",
            ]);
            command.arg(hidepid);
            command.args([
                "setpriv",
                "--reuid=nobody",
                "--regid=nogroup",
                "--clear-groups",
                "--",
            ]);
            command
                .args(pidfd)
                .arg(program.get_program())
                .args(["inspect", "--json", &pid]);
            let run = Run::of(command);
            let object = run.assert_code(6).json();
            assert!(object["verdict"].is_null(), "{run}");
            run.assert_says("hidepid");
        }
    }
    stuck.backend().assert_running_untraced();
    server.assert_unharmed();
}

#[test]
fn a_pid_namespace_of_ones_own_is_said_to_hide_it() {
    if !is_root() {
        skip!("only root makes namespaces everywhere");
    }
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    let mut command = Command::new("unshare");
    command.args(["-p", "-f", "--mount-proc"]);
    command
        .arg(pgpoke().get_program())
        .args(["inspect", &stuck.pid().to_string()]);
    Run::of(command)
        .assert_code(7)
        .assert_says("a PID namespace of its own");
    stuck.backend().assert_running_untraced();
    server.assert_unharmed();
}
