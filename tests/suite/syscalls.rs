//! What a blocked system call waits for: `pgpoke inspect` names the file, the pipe, the peer or the child, and
//! what it names is what frees the backend.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{
    DEADLINE, How, Installation, Run, Server, Stuck, is_root, server_with_testext, wait_for,
};
use crate::report::Report;

/// A backend that waits in this system call, for that one thing.
#[track_caller]
fn assert_waits(stuck: &Stuck, call: &str, kind: &str) -> Report {
    stuck.wait_until("it shall sleep", DEADLINE, |b| b.state() == Some('S'));
    stuck.prove_stuck(How::Cancel);
    let report = Report::of(&["inspect"], stuck.pid());
    report
        .assert_verdict("safe")
        .assert_at("/cause/code", "blocked-syscall")
        .assert_at("/process/syscall", call)
        .assert_at("/process/waits_for/0/kind", kind);
    let things = report.at("/process/waits_for").as_array();
    assert_eq!(things.map(Vec::len), Some(1), "{}", report.run);
    let summary = report.text("/cause/summary");
    assert!(
        summary.contains(&format!("is blocked in {call}() ")),
        "{}",
        report.run
    );
    report
}

#[track_caller]
fn is_freed_by_pgpoke(server: &Server, stuck: &Stuck) {
    Run::pgpoke(["interrupt", "--yes", &stuck.pid().to_string()]).assert_code(0);
    assert_eq!(stuck.result().unwrap_err().code(), "57014");
    assert!(stuck.run_follow_up("SELECT 1").is_ok());
    server.assert_unharmed();
}

/// It ends as it would have had nobody ever looked; the cancel that is pending by then may catch it at once.
#[track_caller]
fn is_freed(server: &Server, stuck: &Stuck) {
    match stuck.result() {
        Ok(_) => {}
        Err(failure) => assert_eq!(failure.code(), "57014", "{failure}"),
    }
    assert!(stuck.run_follow_up("SELECT 1").is_ok());
    server.assert_unharmed();
}

/// A poll, a select, an epoll and a plain read, of a pipe whose both ends are its own.
#[test]
fn a_pipe_that_no_one_else_has_is_seen_through_every_call() {
    let server = server_with_testext!();
    for (sql, call, limit) in [
        ("pgpoke_read()", "read", None),
        ("pgpoke_wait('poll')", "poll", Some(3_600_000)),
        ("pgpoke_wait('select')", "pselect6", None),
        ("pgpoke_wait('epoll')", "epoll_wait", None),
    ] {
        let stuck = server.stuck(&format!("SELECT {sql}"));
        let report = assert_waits(&stuck, call, "pipe");
        report
            .assert_at("/process/waits_for/0/also_open_in", json!([]))
            .assert_at("/process/time_limit_ms", limit)
            .assert_advises("only this process itself has that pipe open");
        let fd = report.at("/process/waits_for/0/descriptor");
        let link = fs::read_link(format!("/proc/{}/fd/{fd}", stuck.pid()));
        let link = link.expect("an open descriptor");
        assert!(link.to_string_lossy().starts_with("pipe:"), "{link:?}");
        is_freed_by_pgpoke(&server, &stuck);
    }
}

fn fifo_of(server: &Server) -> PathBuf {
    let fifo = server.data_directory().join("silent fifo");
    let made = Installation::command("mkfifo").arg(&fifo).status();
    assert!(made.expect("mkfifo").success());
    fifo
}

/// Opens the other end, and closes it again.
fn write_nothing_to(fifo: &Path) {
    fs::OpenOptions::new().write(true).open(fifo).unwrap();
}

/// Without any extension: COPY reads from a program that says nothing.
#[test]
fn the_process_at_the_other_end_of_a_pipe_is_named() {
    let server = Server::start();
    server
        .connect()
        .batch_execute("CREATE TABLE filled (line text)")
        .unwrap();
    let fifo = fifo_of(&server);
    let sql = format!("COPY filled FROM PROGRAM 'exec cat \"{}\"'", fifo.display());
    let is_cat = |pid: &i32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "cat")
    };
    let stuck = server.stuck_when(&sql, |b| {
        let reads = b.state() == Some('S') && b.syscall() == Some(libc::SYS_read);
        reads && children(b.pid).iter().any(is_cat)
    });
    let report = Report::of(&["inspect"], stuck.pid());
    let cat = children(stuck.pid()).pop().expect("a child");
    report
        .assert_at("/process/waits_for/0/kind", "pipe")
        .assert_at(
            "/process/waits_for/0/also_open_in",
            json!([{ "pid": cat, "name": "cat" }]),
        );
    // It is the one: when it ends, COPY does, too.
    write_nothing_to(&fifo);
    stuck.result().expect("an empty COPY");
    server.assert_unharmed();
}

fn kill(pid: i32) {
    // SAFETY: kill takes any numbers; the process is one that the test made its server start.
    let sent = unsafe { libc::kill(pid, libc::SIGKILL) };
    assert_eq!(sent, 0, "kill {pid}");
}

#[test]
fn a_peer_is_named_by_its_address() {
    let server = server_with_testext!();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let sql = format!("SELECT pgpoke_wait('socket', '{}')", address.port());
    let stuck = server.stuck(&sql);
    let (accepted, from) = listener.accept().unwrap();
    let report = assert_waits(&stuck, "recvfrom", "socket");
    report
        .assert_at("/process/waits_for/0/protocol", "tcp")
        .assert_at("/process/waits_for/0/remote", address.to_string())
        .assert_at("/process/waits_for/0/local", from.to_string())
        .assert_at("/process/waits_for/0/state", "ESTABLISHED")
        .assert_advises(&format!("ss -K -t src {from} dst {address}"));
    let summary = report.text("/cause/summary");
    assert!(
        summary.contains(&format!("a socket to {address}")),
        "{summary}"
    );
    // It is the one: when it closes the connection, the call comes back.
    drop(accepted);
    is_freed(&server, &stuck);
}

/// A listener whose queue is full: the kernel drops whoever asks next.
fn deaf_listener() -> (TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    // SAFETY: the descriptor is that of a socket. Listening again only changes the length of the queue.
    let listening = unsafe { libc::listen(listener.as_raw_fd(), 0) };
    assert_eq!(listening, 0);
    let address = listener.local_addr().unwrap();
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(300));
    let queued: Vec<_> = std::iter::from_fn(|| connect().ok()).take(10).collect();
    assert!(queued.len() < 10, "the queue never filled");
    (listener, queued)
}

#[test]
fn a_peer_that_does_not_answer_is_named_before_there_is_a_connection() {
    let server = server_with_testext!();
    let (listener, _queued) = deaf_listener();
    let address = listener.local_addr().unwrap();
    let sql = format!("SELECT pgpoke_wait('connect', '{}')", address.port());
    let stuck = server.stuck(&sql);
    let report = assert_waits(&stuck, "connect", "socket");
    report
        .assert_at("/process/waits_for/0/remote", address.to_string())
        .assert_at("/process/waits_for/0/state", "SYN-SENT");
    is_freed_by_pgpoke(&server, &stuck);
}

#[test]
fn a_fifo_is_named_by_its_path() {
    let server = server_with_testext!();
    let fifo = fifo_of(&server);
    let sql = format!("SELECT pgpoke_wait('fifo', '{}')", fifo.display());
    let stuck = server.stuck(&sql);
    let report = assert_waits(&stuck, "openat", "fifo");
    report
        .assert_at("/process/waits_for/0/path", fifo.display().to_string())
        .assert_at("/process/waits_for/0/descriptor", Value::Null)
        .assert_advises("the other end");
    let summary = report.text("/cause/summary");
    assert!(
        summary.contains(&format!("the FIFO {}", fifo.display())),
        "{summary}"
    );
    // It is the one: when somebody opens its other end, the call comes back.
    write_nothing_to(&fifo);
    is_freed(&server, &stuck);
}

/// The path of COPY's file is what the server made of it; the FIFO's name is read from its memory.
#[test]
fn the_file_of_a_copy_is_named_without_an_extension() {
    let server = Server::start();
    let stuck = server.stuck_on_fifo();
    stuck.prove_stuck(How::Cancel);
    let report = Report::of(&["inspect"], stuck.pid());
    let fifo: PathBuf = server.data_directory().join("nobody-writes");
    report
        .assert_at("/process/waits_for/0/kind", "fifo")
        .assert_at("/process/waits_for/0/path", fifo.display().to_string());
    is_freed_by_pgpoke(&server, &stuck);
}

#[test]
fn a_child_is_named_by_its_pid_and_its_name() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_wait('child')");
    let child = children(stuck.pid()).pop().expect("a child");
    wait_for(DEADLINE, "the child shall be sleep", || {
        let name = fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
        (name.trim() == "sleep").then_some(())
    });
    let report = assert_waits(&stuck, "wait4", "child");
    report
        .assert_at("/process/waits_for/0/pid", child)
        .assert_at("/process/waits_for/0/name", "sleep")
        .assert_advises(&format!("process {child} (sleep)"));
    kill(child);
    is_freed(&server, &stuck);
}

fn children(pid: i32) -> Vec<i32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let list = list.expect("its children");
    list.split_whitespace()
        .map(|pid| pid.parse().expect("a PID"))
        .collect()
}

#[test]
fn a_lock_in_memory_is_called_one() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_wait('futex')");
    let report = assert_waits(&stuck, "futex", "memory");
    report.assert_at("/process/waits_for/0/shared", false);
    is_freed_by_pgpoke(&server, &stuck);
}

/// After a stop without a signal the kernel goes on with what it calls restart_syscall.
#[test]
fn a_call_that_the_kernel_restarts_keeps_its_name() {
    let server = server_with_testext!();
    for (sql, call) in [
        ("SELECT pgpoke_sleep()", "clock_nanosleep"),
        ("SELECT pgpoke_wait('poll')", "poll"),
    ] {
        let stuck = server.stuck(sql);
        stuck.prove_stuck(How::Cancel);
        for look in 0..3 {
            let report = Report::of(&["inspect", "--passive"], stuck.pid());
            report
                .assert_at("/cause/code", "blocked-syscall")
                .assert_at("/process/syscall", call);
            let limit = report.at("/process/time_limit_ms").as_u64();
            assert!(limit > Some(3_000_000), "look {look}:\n{}", report.run);
            stuck.wait_until("the kernel shall restart the call", DEADLINE, |b| {
                b.syscall() == Some(libc::SYS_restart_syscall)
            });
        }
        is_freed_by_pgpoke(&server, &stuck);
    }
}

/// State D: nothing is waited for longer than the deadline, and everything that the kernel tells is passed on.
#[test]
fn an_uninterruptible_call_shows_what_the_kernel_does() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_vfork(3600)");
    stuck.wait_until("it shall wait for its child", DEADLINE, |b| {
        b.state() == Some('D')
    });
    stuck.prove_stuck(How::Terminate);
    let child = children(stuck.pid()).pop().expect("a child");
    let report = Report::of(&["inspect"], stuck.pid());
    report
        .assert_verdict("pointless")
        .assert_at("/cause/code", "uninterruptible-syscall")
        .assert_at("/process/state", "D")
        .assert_at("/process/syscall", "vfork")
        .assert_at("/process/waits_for/0/kind", "child")
        .assert_at("/process/waits_for/0/pid", child)
        .assert_at("/signals/pending", json!(["SIGTERM"]))
        .assert_advises(&format!("process {child} "));
    let evidence = report.at("/cause/evidence").to_string();
    assert!(evidence.contains("SIGTERM sent"), "{}", report.run);
    // That it is pgpoke's own deadline, and not ours, that ends the attempt to stop it.
    assert!(
        report.run.elapsed < Duration::from_secs(10),
        "{}",
        report.run
    );
    if is_root() {
        let stack = report.at("/process/kernel_stack").as_array();
        let stack = stack.expect("a kernel stack");
        let wait_channel = report.at("/process/wait_channel");
        assert!(stack.contains(wait_channel), "{}", report.run);
        let text = Run::pgpoke(["inspect", "--stack", &stuck.pid().to_string()]);
        text.assert_says("kernel stack");
    }
    assert_eq!(stuck.backend().tracer_pid(), 0);
    kill(child);
    assert!(stuck.result().is_err());
    server.assert_unharmed();
}

/// Stopped by SIGSTOP: what was sent meanwhile is still to come, and that is said.
#[test]
fn a_signal_that_waits_for_a_stopped_backend_is_evidence() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    let send = |signal| {
        // SAFETY: kill takes any numbers; the process is a backend of the test's own.
        let sent = unsafe { libc::kill(stuck.pid(), signal) };
        assert_eq!(sent, 0);
    };
    send(libc::SIGSTOP);
    stuck.wait_until("it shall stop", DEADLINE, |b| b.state() == Some('T'));
    send(libc::SIGTERM);
    let report = Report::of(&["inspect"], stuck.pid());
    report.assert_at("/cause/code", "group-stopped");
    let evidence = report.at("/cause/evidence").to_string();
    assert!(evidence.contains("SIGTERM sent"), "{}", report.run);
    send(libc::SIGCONT);
    stuck.prove_stuck(How::Terminate);
    let report = Report::of(&["inspect"], stuck.pid());
    report
        .assert_at("/cause/code", "cpu-loop")
        .assert_at("/signals/pending", json!([]));
    server.assert_unharmed();
}
