//! Every stop has a budget: no stack, no number of files, no size of a file and no slow disk makes a backend stand
//! still for longer, and whatever hangs in pgpoke, the backend runs again.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::{figure, times};
use crate::harness::{
    Backend, DEADLINE, How, Installation, Run, Server, Stuck, checked, pgpoke, server_with_testext,
    skip, tampered,
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
    let server = server_with_testext!(Server::builder().postgres(executable).alone());
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
    figure(
        "longest stop, inspect, a slow disk, under strace",
        format!("{gap:.2} ms"),
    );
    // Each call takes its time under strace; a single file that is opened and read would take more.
    assert!(
        gap > 0.0 && gap <= 4.0 * USUAL,
        "it stood still for {gap} ms"
    );

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

/// What is done to pgpoke's main thread, by a tracer of its own.
#[derive(Clone, Copy, Default)]
struct Tampering {
    /// It hangs as it enters this system call, counted from the first that follows the asking for a stop, up to the
    /// last letting go.
    hangs_at: Option<usize>,
    /// It gets a SIGSTOP there instead, which stops all its threads.
    sigstop: bool,
    /// It cannot start a thread.
    no_threads: bool,
}

/// A request to the tracee.
fn ptrace(request: libc::c_uint, pid: i32, data: usize) {
    // SAFETY: the requests used here read no memory of ours, or, with a pointer, one live structure.
    let result = unsafe { libc::ptrace(request, pid, 0, data) };
    assert!(result >= 0, "ptrace: {}", std::io::Error::last_os_error());
}

/// The tracee's next stop; none if it has ended, which is left for others to wait for.
fn next_stop(pid: i32) -> Option<i32> {
    // SAFETY: plain data, for which zeroes are a value; the pointers are to live locals.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let options = libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT | libc::__WALL;
        let waited = libc::waitid(libc::P_PID, pid as u32, &mut info, options);
        assert_eq!(waited, 0, "waitid: {}", std::io::Error::last_os_error());
        if matches!(
            info.si_code,
            libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED
        ) {
            return None;
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &mut status, libc::__WALL), pid);
        Some(libc::WSTOPSIG(status))
    }
}

/// Runs pgpoke so, and says how many calls it made during stops, and whether it was made to hang.
#[track_caller]
fn tampered_with(tampering: Tampering, args: &[&str]) -> (Run, usize, bool) {
    const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;
    let mut command = pgpoke();
    command.args(args);
    // SAFETY: ptrace is a mere system call here.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    let (mut calls, mut hung) = (0, false);
    let run = Run::while_doing(DEADLINE, command, |pid| {
        let (mut asked, mut entering, mut denied) = (false, true, false);
        assert_eq!(next_stop(pid), Some(libc::SIGTRAP), "the stop of execve");
        ptrace(
            libc::PTRACE_SETOPTIONS,
            pid,
            libc::PTRACE_O_TRACESYSGOOD as usize,
        );
        let mut signal = 0;
        loop {
            ptrace(libc::PTRACE_SYSCALL, pid, signal as usize);
            let Some(stop) = next_stop(pid) else { return };
            signal = 0;
            if stop != SYSCALL_STOP {
                signal = stop;
                continue;
            }
            // SAFETY: plain numbers, for which zeroes are a value.
            let mut regs: libc::user_regs_struct = unsafe { std::mem::zeroed() };
            ptrace(libc::PTRACE_GETREGS, pid, &raw mut regs as usize);
            let was_entering = entering;
            entering = !entering;
            if !was_entering {
                if denied {
                    regs.rax = -libc::EPERM as u64;
                    ptrace(libc::PTRACE_SETREGS, pid, &raw const regs as usize);
                    denied = false;
                }
                continue;
            }
            let request = (regs.orig_rax == libc::SYS_ptrace as u64).then_some(regs.rdi as u32);
            if tampering.no_threads && regs.orig_rax == libc::SYS_clone3 as u64 {
                regs.orig_rax = u64::MAX;
                ptrace(libc::PTRACE_SETREGS, pid, &raw const regs as usize);
                denied = true;
            }
            if asked {
                if tampering.hangs_at == Some(calls) {
                    hung = true;
                    if tampering.sigstop {
                        // SAFETY: kill takes any numbers; this PID is a child's that has not been waited for.
                        unsafe { libc::kill(pid, libc::SIGSTOP) };
                        ptrace(libc::PTRACE_DETACH, pid, 0);
                    }
                    return;
                }
                calls += 1;
            }
            match request {
                Some(libc::PTRACE_INTERRUPT) => asked = true,
                Some(libc::PTRACE_DETACH) => asked = false,
                _ => {}
            }
        }
    });
    (run, calls, hung)
}

const BUDGET: &str = "100ms";
/// Far above the budget, for a busy machine.
const SOON: Duration = Duration::from_secs(2);

/// Some of so many steps in the short form, each in the long one.
fn some_of(all: usize, short: usize) -> impl Iterator<Item = usize> {
    (0..all).step_by(all.div_ceil(times(short, all).max(1)).max(1))
}

fn hanging_at(step: usize) -> Tampering {
    Tampering {
        hangs_at: Some(step),
        ..Tampering::default()
    }
}

/// It said why it ended, or was killed where the backend did not stand still but nobody looked after it.
#[track_caller]
fn was_let_go(step: usize, run: &Run, stopped: Duration) -> bool {
    assert!(
        stopped < SOON,
        "it stood still for {stopped:?} at step {step}:\n{run}"
    );
    if run.signal() == Some(libc::SIGKILL) {
        return false;
    }
    run.assert_code(8)
        .assert_says("stood still for longer than 100 ms, and was let go");
    run.assert_says("--max-stop");
    assert!(run.json()["verdict"].is_null(), "{run}");
    true
}

/// Whatever hangs during a stop, the backend runs again, and pgpoke says what happened.
#[test]
fn whatever_hangs_during_an_inspection_the_backend_is_let_go() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    let pid = stuck.pid().to_string();
    let (run, all, _) = tampered_with(Tampering::default(), &["inspect", "--max-stop", "1s", &pid]);
    run.assert_code(0);
    assert!(all > 20, "only {all} calls");
    let args = ["inspect", "--json", "--max-stop", BUDGET, &pid];
    let (mut blown, mut hangs, mut longest) = (0, 0, Duration::ZERO);
    for step in some_of(all, 10) {
        let ((run, _, hung), stopped) =
            watched(&stuck.backend(), || tampered_with(hanging_at(step), &args));
        stuck.backend().assert_running_untraced();
        if hung {
            hangs += 1;
            blown += usize::from(was_let_go(step, &run, stopped));
            longest = longest.max(stopped);
        }
    }
    assert!(blown > 3, "only {blown} of {hangs} were let go with a word");
    figure(
        "hangs in inspect, and those with a word",
        format!("{hangs}, {blown}"),
    );
    figure(
        "longest stop, inspect that hangs, budget 100 ms",
        format!("{longest:?}"),
    );
    stuck.prove_stuck(How::Cancel);
    server.assert_unharmed();
}

#[test]
fn whatever_hangs_during_an_interrupt_the_backend_is_let_go() {
    let server = server_with_testext!();
    let spinner = || {
        let stuck = server.stuck("SELECT pgpoke_spin()");
        stuck.backend().send(How::Cancel.signal());
        stuck.wait_until("its handler shall have run", DEADLINE, |backend| {
            !backend.is_pending(How::Cancel.signal())
        });
        stuck
    };
    let mut stuck = spinner();
    let pid = stuck.pid().to_string();
    let (run, all, _) = tampered_with(
        Tampering::default(),
        &["interrupt", "--yes", "--max-stop", "1s", &pid],
    );
    run.assert_code(0);
    stuck.assert_cancelled();
    let (mut blown, mut called, mut hangs, mut longest) = (0, 0, 0, Duration::ZERO);
    for step in some_of(all, 14) {
        if stuck.ended_within(Duration::ZERO).is_some() {
            stuck = spinner();
        }
        let pid = stuck.pid().to_string();
        let args = ["interrupt", "--yes", "--json", "--max-stop", BUDGET, &pid];
        let ((run, _, hung), stopped) =
            watched(&stuck.backend(), || tampered_with(hanging_at(step), &args));
        if hung {
            hangs += 1;
            longest = longest.max(stopped);
            if was_let_go(step, &run, stopped) {
                assert_eq!(run.json()["outcome"], "timed-out", "{run}");
                blown += 1;
                called += usize::from(run.stderr.contains("may have begun"));
            }
        }
        // It is as it was, or cancelled.
        if stuck.ended_within(Duration::from_millis(200)).is_some() {
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
        "hangs in interrupt, those with a word, and in the call",
        format!("{hangs}, {blown}, {called}"),
    );
    figure(
        "longest stop, interrupt that hangs, budget 100 ms",
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
    for (sigstop, no_threads) in [(true, false), (false, true)] {
        let mut held = 0;
        for step in 4..times(10, 30) {
            let tampering = Tampering {
                hangs_at: Some(step),
                sigstop,
                no_threads,
            };
            let ((run, _, hung), stopped) =
                watched(&stuck.backend(), || tampered_with(tampering, &args));
            assert!(stopped < SOON, "it stood still for {stopped:?}:\n{run}");
            stuck.backend().assert_running_untraced();
            if hung {
                assert_eq!(run.signal(), Some(libc::SIGKILL), "{run}");
                held += usize::from(stopped > Duration::from_millis(50));
                figure(
                    "stop of a pgpoke that can do nothing, budget 100 ms",
                    format!("{stopped:?}"),
                );
            }
        }
        assert!(held > 0, "it was never held");
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
