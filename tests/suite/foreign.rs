//! Code that PostgreSQL calls and did not write: real language runtimes and client libraries that do not come back, and
//! what several looks tell of a loop.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{
    Backend, DEADLINE, How, Run, Server, Stuck, is_root, server_with_testext, skip, wait_for,
};
use crate::report::Report;

/// A server with an extension of PostgreSQL's own packages; none where that is not installed.
pub(crate) fn server_with_extension(extension: &str) -> Option<Server> {
    let server = Server::start();
    let made = server
        .connect()
        .batch_execute(&format!("CREATE EXTENSION {extension} CASCADE"));
    made.ok().map(|()| server)
}

/// `let server = server_with!("dblink");`
macro_rules! server_with {
    ($extension:expr) => {
        match $crate::foreign::server_with_extension($extension) {
            Some(server) => server,
            None => $crate::harness::skip!("no {} here", $extension),
        }
    };
}
pub(crate) use server_with;

/// A function in another language, called, and inside.
pub(crate) fn stuck_in<'s>(
    server: &'s Server,
    language: &str,
    body: &str,
    inside: impl FnMut(&Backend) -> bool,
) -> Stuck<'s> {
    let make =
        format!("CREATE FUNCTION stuck() RETURNS void LANGUAGE {language} AS $$\n{body}\n$$");
    server.connect().batch_execute(&make).expect("a function");
    server.stuck_when("SELECT stuck()", inside)
}

fn computes(backend: &Backend) -> bool {
    // Long past its start-up, which takes a tenth of a second.
    backend.state() == Some('R') && backend.cpu_ticks() > 30
}

fn sleeps(backend: &Backend) -> bool {
    backend.syscall() == Some(libc::SYS_clock_nanosleep)
}

/// What is said of a runtime at work: a cancel would jump across it, a terminate would not.
#[track_caller]
fn assert_is_a_runtime(stuck: &Stuck, name: &str, doing: &str, module: &str) -> Report {
    stuck.prove_stuck(How::Cancel);
    let report = Report::of(&["inspect"], stuck.pid());
    report
        .assert_verdict("unsafe")
        .assert_verdict_if("unsafe", "risky")
        .assert_at("/cause/code", "foreign-runtime")
        .assert_at("/stack_complete", true)
        .assert_stopped_for_a_moment()
        .assert_advises("pgpoke interrupt --terminate --allow foreign-runtime");
    assert_eq!(report.check("foreign-runtime"), "fail", "{}", report.run);
    let summary = report.text("/cause/summary");
    assert!(
        summary.starts_with(&format!("{name} {doing}")) && summary.contains(module),
        "{}",
        report.run
    );
    report
}

/// The cancel is refused, and a terminate, which somebody has to accept the risk of, ends this session and no other.
#[track_caller]
fn ends_by_a_terminate_only(server: &Server, stuck: &Stuck, allow: &[&str]) {
    let pid = stuck.pid().to_string();
    Run::pgpoke(["interrupt", "--yes", "--wait", "200ms", &pid]).assert_code(4);
    stuck.prove_stuck(How::Terminate);
    Run::pgpoke(["interrupt", "--yes", &pid]).assert_code(3);
    let mut args = vec!["interrupt", "--yes", &pid];
    args.extend(allow.iter().flat_map(|code| ["--allow", code]));
    Run::pgpoke(args).assert_code(0);
    let failure = stuck.result().expect_err("a terminated session");
    assert!(
        failure.sqlstate.is_none() || failure.code() == "57P01",
        "{failure}"
    );
    server.assert_unharmed();
}

#[test]
fn python_that_sleeps() {
    let server = server_with!("plpython3u");
    let body = "import time\ntime.sleep(3600)";
    let stuck = stuck_in(&server, "plpython3u", body, sleeps);
    let report = assert_is_a_runtime(
        &stuck,
        "Python",
        "is blocked in clock_nanosleep()",
        "libpython",
    );
    let evidence = report.at("/cause/evidence").to_string();
    assert!(evidence.contains("in plpython3.so"), "{}", report.run);
    ends_by_a_terminate_only(&server, &stuck, &["foreign-runtime"]);
}

/// R has a handler of its own for SIGINT while it waits, which ends the wait with an error: that it is not PostgreSQL's is
/// no reason to call the backend deaf.
#[test]
fn r_that_sleeps_takes_a_cancel_by_a_handler_of_its_own() {
    let server = server_with!("plr");
    let waits = |b: &Backend| b.syscall() == Some(libc::SYS_pselect6);
    let stuck = stuck_in(&server, "plr", "Sys.sleep(3600)", waits);
    let report = Report::of(&["inspect"], stuck.pid());
    report.assert_at("/cause/code", "responsive");
    let evidence = report.at("/cause/evidence").to_string();
    assert!(
        evidence.contains("SIGINT: ") && evidence.contains("libR.so"),
        "{}",
        report.run
    );
    let listed = Run::pgpoke(["list", "--stuck"]);
    let pid = stuck.pid().to_string();
    assert!(!listed.stdout.contains(&pid), "{listed}");
    stuck.backend().send(libc::SIGINT);
    let failure = stuck.result().expect_err("an error of R's");
    assert!(failure.to_string().contains("R interpreter"), "{failure}");
    stuck.run_follow_up("SELECT 1").expect("a session of use");
    server.assert_unharmed();
}

#[test]
fn python_that_computes_with_its_loop_named() {
    let server = server_with!("plpython3u");
    let stuck = stuck_in(&server, "plpython3u", "while True: pass", computes);
    assert_is_a_runtime(&stuck, "Python", "computes", "libpython");
    let report = Report::of(&["inspect", "--samples", "10"], stuck.pid());
    report
        .assert_at("/samples/looks", 10)
        .assert_at("/samples/progress", Value::Null);
    let common = report.at("/samples/common").to_string();
    assert!(
        common.contains("_PyEval_EvalFrameDefault"),
        "{}",
        report.run
    );
    assert!(common.contains("PostgresMain"), "{}", report.run);
    ends_by_a_terminate_only(&server, &stuck, &["foreign-runtime"]);
}

#[test]
fn python_with_threads_of_its_own() {
    let server = server_with!("plpython3u");
    let body = "import threading, time\n\
        for i in range(3): threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()\n\
        time.sleep(3600)";
    let stuck = stuck_in(&server, "plpython3u", body, |b| {
        sleeps(b) && b.status("Threads").as_deref() == Some("4")
    });
    let report = assert_is_a_runtime(&stuck, "Python", "is blocked", "libpython");
    report.assert_at("/process/threads", 4);
    let names = report.at("/process/thread_names").as_array();
    assert_eq!(names.map(Vec::len), Some(3), "{}", report.run);
    let evidence = report.at("/cause/evidence").to_string();
    assert!(evidence.contains("3 more threads"), "{}", report.run);
    assert_eq!(report.check("threads"), "warn", "{}", report.run);
    ends_by_a_terminate_only(&server, &stuck, &["foreign-runtime", "threads"]);
}

#[test]
fn perl_that_computes() {
    let server = server_with!("plperl");
    let stuck = stuck_in(&server, "plperl", "1 while 1", computes);
    assert_is_a_runtime(&stuck, "Perl", "computes", "libperl");
    ends_by_a_terminate_only(&server, &stuck, &["foreign-runtime"]);
}

#[test]
fn tcl_that_computes() {
    let server = server_with!("pltcl");
    let stuck = stuck_in(&server, "pltcl", "while 1 {}", computes);
    assert_is_a_runtime(&stuck, "Tcl", "computes", "tcl");
    ends_by_a_terminate_only(&server, &stuck, &["foreign-runtime"]);
}

/// dblink waits for a server that does not answer: libpq and its peer are named, and a cancel is a risk that somebody
/// may accept.
#[test]
fn a_client_library_and_its_peer() {
    let server = server_with!("dblink");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let sql = format!(
        "SELECT dblink_connect('host=127.0.0.1 dbname=x user=x port={}')",
        address.port()
    );
    let polls = |b: &Backend| b.syscall() == Some(libc::SYS_poll) && b.state() == Some('S');
    let start = || {
        let stuck = server.stuck_when(&sql, polls);
        let (accepted, _) = listener.accept().unwrap();
        stuck.prove_stuck(How::Cancel);
        let report = Report::of(&["inspect"], stuck.pid());
        report
            .assert_verdict("risky")
            .assert_verdict_if("risky", "risky")
            .assert_at("/cause/code", "foreign-runtime")
            .assert_at("/process/syscall", "poll")
            .assert_at("/process/waits_for/0/remote", address.to_string());
        assert_eq!(
            report.checks_that("warn"),
            ["foreign-runtime"],
            "{}",
            report.run
        );
        let summary = report.text("/cause/summary");
        assert!(
            summary.starts_with("libpq ") && summary.contains(&address.to_string()),
            "{}",
            report.run
        );
        (stuck, accepted)
    };

    let (stuck, accepted) = start();
    let pid = stuck.pid().to_string();
    // It sleeps in one call, so that two looks tell all, and who may accept the risk does not wait.
    let report = Report::of(&["interrupt", "--yes", "--wait", "20s"], stuck.pid());
    report
        .assert_outcome("refused", 3)
        .assert_at("/attempts", 2);
    assert!(
        report.run.elapsed < Duration::from_secs(10),
        "{}",
        report.run
    );
    Run::pgpoke(["interrupt", "--yes", "--allow", "foreign-runtime", &pid]).assert_code(0);
    assert_eq!(stuck.result().unwrap_err().code(), "57014");
    assert!(stuck.run_follow_up("SELECT 1").is_ok());
    drop(accepted);

    // The peer is the one: when it closes the connection, the library comes back by itself.
    let (stuck, accepted) = start();
    drop(accepted);
    assert!(stuck.result().is_err());
    assert!(stuck.run_follow_up("SELECT 1").is_ok());
    server.assert_unharmed();

    // What is advised closes this connection, and no other to the same peer.
    if !is_root() {
        skip!("ss -K takes root");
    }
    let mut others: Vec<_> = std::iter::repeat_with(|| {
        let ours = TcpStream::connect(address).unwrap();
        (ours, listener.accept().unwrap().0)
    })
    .take(3)
    .collect();
    let (stuck, _accepted) = start();
    let report = Report::of(&["inspect"], stuck.pid());
    let all = report.at("/advice").as_array().expect("advice");
    let command = all
        .iter()
        .find_map(|advice| Some(advice.as_str()?.split_once(": ss ")?.1))
        .unwrap_or_else(|| panic!("{}", report.run));
    let closed = Command::new("ss").args(command.split(' ')).output();
    let closed = String::from_utf8(closed.expect("ss").stdout).unwrap();
    if !closed.contains(&address.to_string()) {
        skip!("this kernel cannot close a connection (CONFIG_INET_DIAG_DESTROY)");
    }
    assert!(stuck.result().is_err());
    assert!(stuck.run_follow_up("SELECT 1").is_ok());
    for (ours, theirs) in &mut others {
        ours.write_all(b"still here").expect("a connection");
        let mut answer = [0; 10];
        theirs.read_exact(&mut answer).expect("a connection");
    }
    server.assert_unharmed();
}

/// The loop is the extension's own, but a jump out of it would skip a destructor.
#[test]
fn a_destructor_on_the_stack() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_cplusplus()");
    stuck.prove_stuck(How::Cancel);
    let report = Report::of(&["inspect"], stuck.pid());
    report
        .assert_verdict("unsafe")
        .assert_verdict_if("unsafe", "risky")
        .assert_at("/cause/code", "cpu-loop");
    assert_eq!(
        report.checks_that("fail"),
        ["foreign-runtime"],
        "{}",
        report.run
    );
    ends_by_a_terminate_only(&server, &stuck, &["foreign-runtime"]);
}

/// Whether a library is an extension is looked at for each frame of one.
#[test]
fn an_extension_is_told_from_a_library() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_qsort()");
    let report = Report::of(&["inspect"], stuck.pid());
    for frame in report.frames() {
        let module = frame["module"].as_str().unwrap_or_default();
        let expected = module.ends_with("/pgpoke_test.so").then_some(true);
        assert_eq!(frame["extension"].as_bool(), expected, "{}", report.run);
    }
    stuck.prove_stuck(How::Cancel);
    server.assert_unharmed();
}

#[test]
fn several_looks_tell_where_a_loop_is() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_malloc()");
    stuck.prove_stuck(How::Cancel);
    let report = Report::of(&["inspect", "--samples", "30"], stuck.pid());
    report
        .assert_at("/cause/code", "cpu-loop")
        .assert_at("/samples/looks", 30)
        .assert_at("/samples/progress", Value::Null)
        .assert_at("/samples/common/0", "malloc_loop() in pgpoke_test.so");
    let summary = report.text("/cause/summary");
    assert!(summary.starts_with("malloc_loop() "), "{}", report.run);
    let below = report.at("/samples/below").as_array().expect("a list");
    let looks: u64 = below.iter().filter_map(|b| b["looks"].as_u64()).sum();
    assert!((1..=30).contains(&looks), "{}", report.run);
    // Nearly all of its time goes into these two; the rest are its own jumps to them.
    let most = below[0]["function"].as_str().unwrap_or_default();
    let allocator = ["malloc() in ", "free() in "];
    assert!(
        allocator.iter().any(|f| most.starts_with(f)),
        "{}",
        report.run
    );
    stuck.backend().assert_running_untraced();
    // One look says nothing of that.
    Report::of(&["inspect"], stuck.pid()).assert_at("/samples", Value::Null);
    server.assert_unharmed();
}

/// A session that runs one statement after the other gets on, wherever it is met.
#[test]
fn a_statement_after_the_other_is_progress() {
    let server = Server::start();
    let mut client = server.connect();
    let pid: i32 = client
        .query_one("SELECT pg_backend_pid()", &[])
        .unwrap()
        .get(0);
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !enough.load(Ordering::Relaxed) {
                client
                    .simple_query("SELECT count(*) FROM generate_series(1, 1000)")
                    .expect("an answer");
            }
        });
        let judged = std::panic::catch_unwind(|| {
            wait_for(DEADLINE, "two looks with a known stack", || {
                let report = Report::of(&["inspect", "--samples", "10"], pid);
                let seen = report.at("/samples") != &Value::Null;
                seen.then(|| report.text("/samples/progress").to_owned())
            })
        });
        enough.store(true, Ordering::Relaxed);
        let progress = judged.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert!(progress.contains("statement changed"), "{progress}");
    });
    server.assert_unharmed();
}

/// What the server compiled while running has no call-frame information in any file: what called it is not known, and
/// that is said, with who made the code, and what helps next time.
#[test]
fn below_compiled_expressions_nothing_is_known() {
    let server = server_with_testext!(Server::builder().setting("jit_above_cost", "0"));
    let compiled = |plan: &str| plan.contains("JIT");
    let sql = "SELECT pgpoke_spin() FROM numbers WHERE a * 2 > 2";
    let mut client = server.connect();
    client
        .batch_execute("CREATE TABLE numbers AS SELECT a FROM generate_series(1, 9) a")
        .expect("a table");
    let plan = client.query(&format!("EXPLAIN {sql}"), &[]);
    let plan: Vec<String> = plan.expect("a plan").iter().map(|r| r.get(0)).collect();
    if !compiled(&plan.join("\n")) {
        skip!("this PostgreSQL has no JIT");
    }
    let stuck = server.stuck(sql);
    stuck.prove_stuck(How::Cancel);
    let report = Report::of(&["inspect"], stuck.pid());
    report
        .assert_code(4)
        .assert_verdict_if("unsafe", "unsafe")
        .assert_at("/cause/code", "cpu-loop")
        .assert_at("/stack_complete", false)
        .assert_advises("jit = off");
    assert_eq!(report.check("unwind"), "fail", "{}", report.run);
    assert!(
        report.run.stdout.contains("PostgreSQL's JIT (LLVM)"),
        "{}",
        report.run
    );
    assert!(
        !report.run.stdout.contains("waits for a better one"),
        "no moment will be better: {}",
        report.run
    );
    let args = ["interrupt", "--yes", "--wait", "200ms"];
    Report::of(&args, stuck.pid()).assert_outcome("refused", 4);
    stuck.backend().assert_running_untraced();
    server.assert_unharmed();
}
