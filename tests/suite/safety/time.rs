//! Every stop has a budget: no stack, no number of files, no size of a file and no slow disk makes a backend stand
//! still for longer, and whatever hangs in pgpoke, the backend runs again.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{figure, times};
use crate::harness::{
    Backend, DEADLINE, How, Installation, Run, Server, Stuck, checked, pgpoke, server_with_testext,
    skip,
};

/// The budget where `--max-stop` does not say otherwise, in milliseconds.
const USUAL: f64 = 50.0;

/// A backend that measures for how long it is made to stand still, under a stack of the given number of calls.
const DEEP: &str =
    "CREATE FUNCTION deep(n int, seconds float8) RETURNS float8 LANGUAGE plpgsql AS $$
    BEGIN
        IF n = 0 THEN RETURN pgpoke_gap(seconds); END IF;
        RETURN deep(n - 1, seconds);
    END $$";

/// The longest gap that the backend has seen, in milliseconds.
#[track_caller]
fn longest_gap(stuck: &Stuck) -> f64 {
    let rows = stuck.result().expect("a gap");
    let micros: f64 = rows[0][0]
        .as_deref()
        .expect("a number")
        .parse()
        .expect("a number");
    micros / 1e3
}

/// Inspects a backend that measures `SELECT <gap>`, and returns how long it stood still by its own account, in
/// milliseconds, and what the last inspection said.
#[track_caller]
fn inspected(server: &Server, gap: &str, mut inspect: impl FnMut(&str) -> Run) -> (f64, Run) {
    let stuck = server.stuck(&format!("SELECT {gap}"));
    let pid = stuck.pid().to_string();
    let mut last = None;
    for _ in 0..times(3, 50) {
        last = Some(inspect(&pid));
    }
    assert!(
        stuck.ended_within(Duration::ZERO).is_none(),
        "it had ended before the last look"
    );
    server
        .connect()
        .execute("SELECT pg_cancel_backend($1)", &[&stuck.pid()])
        .expect("pg_cancel_backend");
    (longest_gap(&stuck), last.expect("a run"))
}

/// Interrupts a backend that a cancel is pending in, and returns for how long it stood still in all.
#[track_caller]
fn interrupted(server: &Server, sql: &str) -> f64 {
    let stuck = server.stuck(sql);
    stuck.prove_stuck(How::Cancel);
    let (run, longest) = watched(&stuck.backend(), || {
        Run::pgpoke(["interrupt", "--yes", "--json", &stuck.pid().to_string()])
    });
    run.assert_code(0);
    assert_eq!(run.json()["outcome"], "cancelled", "{run}");
    stuck.assert_cancelled();
    let stopped = longest.as_secs_f64() * 1e3;
    assert!(stopped <= 4.0 * USUAL, "it stood still for {stopped} ms");
    run.json()["stopped_ms"].as_f64().unwrap_or(stopped)
}

/// Does something, and says for how long at a time the backend was seen stopped by a tracer meanwhile. At most so
/// long: nothing is seen while the observer has no processor.
fn watched<T>(backend: &Backend, act: impl FnOnce() -> T) -> (T, Duration) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let observer = scope.spawn(|| {
            let (mut longest, mut since) = (Duration::ZERO, None);
            while !done.load(Ordering::Relaxed) {
                if backend.state() == Some('t') {
                    let since: &Instant = since.get_or_insert_with(Instant::now);
                    longest = longest.max(since.elapsed());
                } else {
                    since = None;
                }
                thread::sleep(Duration::from_micros(500));
            }
            longest
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        done.store(true, Ordering::Relaxed);
        let longest = observer.join().expect("a thread that only looks");
        match result {
            Ok(result) => (result, longest),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[track_caller]
fn assert_within(what: &str, gap: f64) {
    figure(what, format!("{gap:.2} ms"));
    assert!(gap > 0.0, "it was never stopped");
    assert!(gap <= USUAL, "{what}: it stood still for {gap} ms");
}

#[test]
fn a_stack_of_ten_thousand_frames() {
    let server = Server::builder().setting("max_stack_depth", "7MB").alone();
    let server = server_with_testext!(server);
    server.connect().batch_execute(DEEP).expect("a function");
    let (gap, run) = inspected(&server, "deep(1000, 300)", |pid| {
        Run::pgpoke(["inspect", "--json", pid])
    });
    let frames = run.json()["stack"].as_array().map_or(0, Vec::len);
    assert!(frames > 8_000, "{frames} frames");
    assert_eq!(run.json()["stack_complete"], true, "{frames} frames");
    assert_within(&format!("longest stop, inspect, {frames} frames"), gap);
    let stopped = interrupted(&server, "SELECT pgpoke_deep(10000)");
    figure(
        "stopped in all, interrupt, 10,000 frames",
        format!("{stopped:.2} ms"),
    );
    server.assert_unharmed();
}

/// What cannot be followed in time is not followed, and that is said; the backend is not called.
#[test]
fn a_stack_that_takes_longer_than_the_budget_is_said_to() {
    let server = Server::builder().setting("max_stack_depth", "7MB").alone();
    let server = server_with_testext!(server);
    let stuck = server.stuck("SELECT pgpoke_deep(19000)");
    stuck.prove_stuck(How::Cancel);
    let pid = stuck.pid().to_string();
    let mut refused = 0;
    for _ in 0..times(3, 20) {
        let args = [
            "interrupt",
            "--yes",
            "--json",
            "--wait",
            "50ms",
            "--max-stop",
            "4ms",
            &pid,
        ];
        let run = Run::pgpoke(args);
        // A busy machine may have no processor for it for so long.
        if run.code() == Some(8) {
            run.assert_says("stood still for longer than 4 ms");
            continue;
        }
        run.assert_code(4);
        let checks = run.json()["checks"].to_string();
        assert!(checks.len() > 2, "{run}");
        run.assert_says("within the stop budget (--max-stop)");
        refused += 1;
    }
    assert!(refused > 0, "it was never refused");
    stuck.prove_stuck(How::Cancel);
    let run = Run::pgpoke(["interrupt", "--yes", "--max-stop", "1s", &pid]);
    run.assert_code(0);
    stuck.assert_cancelled();
    server.assert_unharmed();
}

#[test]
fn two_thousand_mapped_files() {
    const FILES: usize = 2_000;
    let server = server_with_testext!(Server::builder().alone());
    let library = Path::new("/usr/lib/postgresql/15/lib/lo.so");
    if !library.exists() {
        skip!("no {}", library.display());
    }
    let dir = server.directory().join("libraries");
    fs::create_dir(&dir).expect("a directory");
    let mut load = String::new();
    for n in 0..FILES {
        let copy = dir.join(format!("{n}.so"));
        fs::copy(library, &copy).expect("a copy of a library");
        load.push_str(&format!("LOAD '{}'; ", copy.display()));
    }
    // In the session that is looked at, before its statement.
    let function = format!(
        "CREATE FUNCTION load_all() RETURNS int LANGUAGE plpgsql AS $$ BEGIN {load} RETURN 1; END $$"
    );
    server
        .connect()
        .batch_execute(&function)
        .expect("a function");
    let (gap, run) = inspected(&server, "pgpoke_gap(300 * load_all())", |pid| {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("its mappings");
        let mapped = (0..FILES)
            .filter(|n| maps.contains(&format!("/{n}.so")))
            .count();
        assert_eq!(mapped, FILES);
        Run::pgpoke(["inspect", "--json", pid])
    });
    assert_eq!(run.json()["stack_complete"], true, "{run}");
    assert_within("longest stop, inspect, 2,000 mapped files", gap);
    let stopped = interrupted(&server, "SELECT load_all(), pgpoke_spin()");
    figure(
        "stopped in all, interrupt, 2,000 mapped files",
        format!("{stopped:.2} ms"),
    );
    server.assert_unharmed();
}

#[test]
fn an_executable_of_four_gibibytes() {
    let dir = Installation::temp_dir();
    let altered = Installation::debian().altered(dir.path(), "postgres", |_| ());
    let executable = altered.server();
    File::options()
        .write(true)
        .open(&executable)
        .and_then(|file| file.set_len(4 << 30))
        .expect("a large file with nothing in it");
    let server = server_with_testext!(Server::builder().installation(altered).alone());
    let (gap, run) = inspected(&server, "pgpoke_gap(300)", |pid| {
        Run::pgpoke(["inspect", "--json", pid])
    });
    assert_eq!(run.json()["stack_complete"], true, "{run}");
    assert_within("longest stop, inspect, an executable of 4 GiB", gap);
    let stopped = interrupted(&server, "SELECT pgpoke_spin()");
    figure(
        "stopped in all, interrupt, an executable of 4 GiB",
        format!("{stopped:.2} ms"),
    );
    server.assert_unharmed();
}

/// pgpoke under strace, with something done to its system calls.
fn tampered(injections: &[String], args: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "signal=none"]);
    for injection in injections {
        command.args(["-e", &format!("inject={injection}")]);
    }
    command.arg("--").arg(pgpoke().get_program()).args(args);
    command
}

/// Files are opened and read while the backend runs.
#[test]
fn a_slow_disk() {
    let server = server_with_testext!(Server::builder().alone());
    // A file of debug information that never comes to an end, too.
    let debug_files = server.directory().join("debug");
    let fifo = debug_files.join(".build-id/00");
    fs::create_dir_all(&fifo).expect("a directory");
    checked(Command::new("mkfifo").arg(fifo.join("00.debug")));
    let debug_files = debug_files.to_str().expect("a path in /tmp");
    let slow = [
        "openat,openat2:delay_enter=4000".to_owned(),
        "pread64:delay_enter=2000".to_owned(),
    ];
    let mut slowest = Duration::ZERO;
    let (gap, run) = inspected(&server, "pgpoke_gap(300)", |pid| {
        let args = ["inspect", "--json", "--debug-dir", debug_files, pid];
        let run = Run::of(tampered(&slow, &args));
        slowest = slowest.max(run.elapsed);
        run
    });
    assert!(run.json()["stopped_ms"].is_number(), "{run}");
    assert!(
        slowest > Duration::from_millis(300),
        "not slow at all: {run}"
    );
    figure(
        "an inspection on a slow disk",
        format!("{:.0} ms", slowest.as_secs_f64() * 1e3),
    );
    assert_within("longest stop, inspect, a slow disk", gap);

    let stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    let (run, longest) = watched(&stuck.backend(), || {
        let pid = stuck.pid().to_string();
        let args = ["interrupt", "--yes", "--debug-dir", debug_files, &pid];
        Run::of(tampered(&slow, &args))
    });
    run.assert_code(0);
    stuck.assert_cancelled();
    let longest = longest.as_secs_f64() * 1e3;
    figure(
        "longest stop, interrupt, a slow disk",
        format!("{longest:.2} ms"),
    );
    assert!(longest <= 4.0 * USUAL, "it stood still for {longest} ms");
    server.assert_unharmed();
}

/// The calls that pgpoke makes between asking a backend to stop and letting it go: for each name, which of them.
fn calls_during_stops(args: &[&str]) -> Vec<(String, usize)> {
    const NAMES: [&str; 4] = ["ptrace", "process_vm_readv", "pread64", "rt_tgsigqueueinfo"];
    let dir = tempfile::tempdir().expect("a directory for strace's output");
    let output = dir.path().join("calls");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "signal=none", "-e"]);
    command
        .arg(format!("trace={}", NAMES.join(",")))
        .arg("-o")
        .arg(&output);
    command.arg("--").arg(pgpoke().get_program()).args(args);
    Run::of(command);
    let output = fs::read_to_string(&output).expect("strace's output");
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    let mut found = Vec::new();
    let mut stopped = false;
    for line in output.lines() {
        let Some(name) = NAMES
            .iter()
            .find(|name| line.contains(&format!(" {name}(")))
        else {
            continue;
        };
        let count = counts.entry(name).or_default();
        *count += 1;
        if stopped {
            found.push(((*name).to_owned(), *count));
        }
        // The request itself finds a backend that runs.
        if line.contains("PTRACE_INTERRUPT") {
            stopped = true;
        } else if line.contains("PTRACE_DETACH") {
            stopped = false;
        }
    }
    found
}

/// A few of them in the short form, each in the long one.
fn some_of<T>(all: Vec<T>, short: usize) -> Vec<T> {
    let every = all.len().div_ceil(times(short, all.len()).max(1)).max(1);
    all.into_iter().step_by(every).collect()
}

/// How long a call hangs, in microseconds, and the budget.
const HANGS: u64 = 8_000_000;
const BUDGET: &str = "100ms";
/// Far above the budget, for a busy machine, and far below that.
const SOON: Duration = Duration::from_secs(2);

/// Whatever hangs during a stop, the backend runs again, and pgpoke says what happened.
#[test]
fn whatever_hangs_during_an_inspection_the_backend_is_let_go() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    let pid = stuck.pid().to_string();
    let args = ["inspect", "--json", "--max-stop", BUDGET, &pid];
    let calls = calls_during_stops(&args);
    let names = |name: &str| calls.iter().filter(|(n, _)| n == name).count();
    assert!(names("ptrace") > 10 && names("process_vm_readv") > 0 && names("pread64") > 0);
    let (mut blown, mut longest) = (0, Duration::ZERO);
    for (call, nth) in some_of(calls, 6) {
        let hang = [format!("{call}:delay_enter={HANGS}:when={nth}")];
        let (run, stopped) = watched(&stuck.backend(), || Run::of(tampered(&hang, &args)));
        assert!(
            stopped < SOON,
            "it stood still for {stopped:?} at {call} {nth}:\n{run}"
        );
        longest = longest.max(stopped);
        stuck.backend().assert_running_untraced();
        if run.elapsed < Duration::from_micros(HANGS) {
            run.assert_code(8)
                .assert_says("stood still for longer than 100 ms, and was let go");
            run.assert_says("with a longer --max-stop");
            let object = run.json();
            assert!(object["verdict"].is_null(), "{run}");
            assert_eq!(object["pid"], stuck.pid(), "{run}");
            blown += 1;
        }
    }
    assert!(blown > 3, "only {blown} were let go");
    figure(
        "longest stop, inspect, hanging at any call, budget 100 ms",
        format!("{longest:?}"),
    );
    stuck.prove_stuck(How::Cancel);
    server.assert_unharmed();
}

#[test]
fn whatever_hangs_during_an_interrupt_the_backend_is_let_go() {
    let server = server_with_testext!();
    let mut stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    let pid = stuck.pid().to_string();
    let calls = calls_during_stops(&["interrupt", "--yes", &pid]);
    stuck.assert_cancelled();
    let (mut blown, mut called, mut longest) = (0, 0, Duration::ZERO);
    let some = some_of(calls, 8);
    for (call, nth) in some {
        if stuck.ended_within(Duration::ZERO).is_some() {
            stuck = server.stuck("SELECT pgpoke_spin()");
            stuck.backend().send(How::Cancel.signal());
            stuck.wait_until("its handler shall have run", DEADLINE, |backend| {
                !backend.is_pending(How::Cancel.signal())
            });
        }
        let pid = stuck.pid().to_string();
        let args = ["interrupt", "--yes", "--json", "--max-stop", BUDGET, &pid];
        let hang = [format!("{call}:delay_enter={HANGS}:when={nth}")];
        let (run, stopped) = watched(&stuck.backend(), || Run::of(tampered(&hang, &args)));
        assert!(
            stopped < SOON,
            "it stood still for {stopped:?} at {call} {nth}:\n{run}"
        );
        longest = longest.max(stopped);
        if run.elapsed < Duration::from_micros(HANGS) && run.code() != Some(0) {
            run.assert_code(8)
                .assert_says("stood still for longer than 100 ms, and was let go");
            assert_eq!(run.json()["outcome"], "timed-out", "{run}");
            called += usize::from(run.stderr.contains("may have begun"));
            blown += 1;
        }
        // It is as it was, or cancelled.
        if stuck.ended_within(Duration::from_millis(300)).is_some() {
            stuck.assert_cancelled();
        } else {
            stuck.backend().assert_running_untraced();
        }
    }
    assert!(
        blown > 3 && called < blown,
        "{blown} were let go, {called} in a call"
    );
    figure(
        "longest stop, interrupt, hanging at any call, budget 100 ms",
        format!("{longest:?}"),
    );
    server.assert_unharmed();
}

/// A pgpoke that is itself stopped cannot say anything any more. Nor can one that may not start a thread.
#[test]
fn a_pgpoke_that_can_do_nothing_lets_go_all_the_same() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    let pid = stuck.pid().to_string();
    let args = ["inspect", "--max-stop", BUDGET, &pid];
    let calls = calls_during_stops(&args);
    let readv = calls.iter().find(|(name, _)| name == "process_vm_readv");
    let (_, nth) = readv.expect("a read during the stop");
    let ways: [&[String]; 2] = [
        &[format!("process_vm_readv:signal=STOP:when={nth}")],
        &[
            "clone3:error=EPERM".to_owned(),
            format!("process_vm_readv:delay_enter={HANGS}:when={nth}"),
        ],
    ];
    for way in ways {
        let (run, stopped) = watched(&stuck.backend(), || Run::of(tampered(way, &args)));
        assert!(stopped < SOON, "it stood still for {stopped:?}:\n{run}");
        assert!(
            stopped > Duration::from_millis(50),
            "it was not held up:\n{run}"
        );
        assert_eq!(run.signal(), Some(libc::SIGKILL), "{run}");
        figure(
            "stop of a pgpoke that can do nothing, budget 100 ms",
            format!("{stopped:?}"),
        );
        stuck.backend().assert_running_untraced();
    }
    stuck.prove_stuck(How::Cancel);
    server.assert_unharmed();
}

#[test]
fn a_budget_has_bounds() {
    for budget in ["0ms", "1001ms", "2s", "50"] {
        for command in ["inspect", "interrupt"] {
            Run::pgpoke([command, "--max-stop", budget, "1"]).assert_code(2);
        }
    }
}
