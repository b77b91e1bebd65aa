//! The audit line: who interrupted whom, in the system log.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{How, Run, Server, Stuck, is_root, pgpoke, server_with_testext, skip};

/// A system log of our own, which only programs in a mount namespace of their own see.
pub struct Log {
    dir: tempfile::TempDir,
    socket: UnixDatagram,
}

impl Log {
    /// Nothing is in it yet.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = UnixDatagram::bind(dir.path().join("dev-log")).expect("a socket");
        socket.set_nonblocking(true).expect("not to wait");
        Self { dir, socket }
    }

    /// What was written, a record a line.
    pub fn records(&self) -> Vec<String> {
        let mut bytes = [0; 8192];
        std::iter::from_fn(|| {
            self.socket
                .recv(&mut bytes)
                .ok()
                .map(|n| bytes[..n].to_vec())
        })
        .map(|record| String::from_utf8(record).expect("UTF-8"))
        .collect()
    }

    /// Runs pgpoke, which finds it in the usual place.
    pub fn pgpoke(&self, args: &[&str]) -> Run {
        run_with_log_in(self.dir.path(), args)
    }
}

/// `dir` has the daemon's socket, or has none.
fn run_with_log_in(dir: &Path, args: &[&str]) -> Run {
    const SCRIPT: &str = r#"
        set -e
        if test -e /dev/log; then
            # A link leads into the directory that is mounted over below.
            test -L /dev/log || mount --bind "$0/dev-log" /dev/log
        fi
        mount -t tmpfs none /run
        mkdir -p /run/systemd/journal
        mount --bind "$0" /run/systemd/journal
        exec "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", SCRIPT]).arg(dir);
    command.arg(pgpoke().get_program()).args(args);
    Run::of(command)
}

fn stuck(server: &Server) -> Stuck<'_> {
    let stuck = server.stuck_on_fifo();
    stuck.prove_stuck(How::Terminate);
    stuck
}

#[test]
fn a_record_before_each_act_and_one_of_the_outcome() {
    if !is_root() {
        skip!("only root has another /dev/log");
    }
    let server = Server::start();
    let log = Log::new();
    let stuck = stuck(&server);
    let pid = stuck.pid().to_string();
    let args = ["interrupt", "--yes", "--terminate", "--grace", "50ms", &pid];
    log.pgpoke(&args).assert_code(0);
    stuck.assert_terminated();
    let records = log.records();
    let [signal, call, end] = &records[..] else {
        panic!("not three records: {records:#?}");
    };
    for (record, event) in [(signal, "signal"), (call, "call"), (end, "end")] {
        let (head, text) = record.split_once("]: ").expect("a tag");
        assert!(head.starts_with("<13>pgpoke["), "{record}");
        let fields = format!("event={event} request=terminate allowed=- by=root uid=0");
        assert!(text.starts_with(&fields), "{record}");
        assert!(text.contains(" data_directory=\"/"), "{record}");
        let whom = format!(
            " pid={pid} backend=\"client backend\" user=postgres database=postgres server="
        );
        assert!(text.contains(&whom), "{record}");
    }
    assert!(call.ends_with(" verdict=safe"), "{call}");
    let outcome = " verdict=safe outcome=terminated exit=0 attempts=1 server_restarted=no server_stopped=no detail=\"";
    assert!(end.contains(outcome), "{end}");
    server.assert_unharmed();
}

#[test]
fn a_refusal_is_on_record_and_what_does_nothing_is_not() {
    if !is_root() {
        skip!("only root has another /dev/log");
    }
    let server = Server::start();
    let log = Log::new();
    let pid = server.postmaster().pid.to_string();
    log.pgpoke(&["interrupt", "--yes", "--terminate", &pid])
        .assert_code(4);
    let records = log.records();
    let [end] = &records[..] else {
        panic!("not one record: {records:#?}");
    };
    assert!(end.contains(" outcome=refused exit=4 "), "{end}");
    assert!(end.contains("event=end "), "{end}");

    let stuck = stuck(&server);
    let pid = stuck.pid().to_string();
    log.pgpoke(&["inspect", &pid]);
    log.pgpoke(&["interrupt", "--dry-run", "--terminate", &pid])
        .assert_code(0);
    log.pgpoke(&["interrupt", "--yes", "--no-syslog", &pid])
        .assert_code(0);
    stuck.assert_terminated();
    assert_eq!(log.records(), [""; 0]);
    server.assert_unharmed();
}

/// A cancel and the terminate that follows it are two requests, each with its records.
#[test]
fn an_escalation_has_records_of_its_own() {
    if !is_root() {
        skip!("only root has another /dev/log");
    }
    let server = server_with_testext!();
    let log = Log::new();
    let stuck = server.stuck("SELECT pgpoke_swallow()");
    let pid = stuck.pid().to_string();
    let args = [
        "interrupt",
        "--yes",
        "--cancel",
        "--escalate",
        "--grace",
        "50ms",
        &pid,
    ];
    log.pgpoke(&args).assert_code(0);
    stuck.assert_terminated();
    let records = log.records();
    let brief: Vec<String> = records
        .iter()
        .map(|record| {
            let words = record.split_whitespace();
            let fields = ["event=", "request=", "outcome=", "exit="];
            let of_interest = words.filter(|w| fields.iter().any(|f| w.starts_with(f)));
            of_interest.collect::<Vec<_>>().join(" ")
        })
        .collect();
    let expected = [
        "event=signal request=cancel",
        "event=call request=cancel",
        "event=end request=cancel outcome=returned exit=5",
        "event=signal request=terminate",
        "event=call request=terminate",
        "event=end request=terminate outcome=terminated exit=0",
    ];
    assert_eq!(brief, expected, "{records:#?}");
    server.assert_unharmed();
}

#[test]
fn failing_to_log_is_a_warning() {
    if !is_root() {
        skip!("only root has another /dev/log");
    }
    let server = Server::start();
    let nowhere = tempfile::tempdir().expect("a directory");
    let stuck = stuck(&server);
    let pid = stuck.pid().to_string();
    let run = run_with_log_in(nowhere.path(), &["interrupt", "--yes", "--json", &pid]);
    run.assert_code(0);
    stuck.assert_terminated();
    assert_warned(&run);
    server.assert_unharmed();
}

#[test]
fn a_log_that_hangs_holds_nobody_up() {
    if !is_root() {
        skip!("only root has another /dev/log");
    }
    let server = Server::start();
    let log = Log::new();
    let writer = UnixDatagram::unbound().expect("a socket");
    writer.set_nonblocking(true).expect("not to wait");
    let path = log.dir.path().join("dev-log");
    while writer.send_to(b"full", &path).is_ok() {}
    let stuck = stuck(&server);
    let pid = stuck.pid().to_string();
    let start = Instant::now();
    let run = log.pgpoke(&["interrupt", "--yes", "--json", &pid]);
    assert!(start.elapsed() < Duration::from_secs(5), "{run}");
    run.assert_code(0);
    stuck.assert_terminated();
    assert_warned(&run);
    server.assert_unharmed();
    fs::remove_file(path).expect("the socket");
}

fn assert_warned(run: &Run) {
    let warning = "pgpoke: warning: cannot write to the system log: ";
    assert_eq!(run.stderr.matches(warning).count(), 1, "{run}");
    let json: Value = serde_json::from_str(&run.stdout).expect("JSON");
    let warnings = json["warnings"].to_string();
    assert!(warnings.contains("the system log"), "{warnings}");
    assert!(warnings.contains("--no-syslog"), "{warnings}");
}
