//! The backend ends, becomes another program or a zombie, gives its PID to another, gets another tracer, or obeys at
//! last, and that just at each step of pgpoke's: the answer is right, and nobody comes to harm.
//!
//! pgpoke is stopped at a step by strace, the race is run to its end, and then pgpoke goes on: nothing is left to luck.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use super::driver::Driver;
use super::seen::SeenFile;
use super::{MOST_OF_A_NAME, figure, times};
use crate::harness::{
    Backend, DEADLINE, How, Run, Server, Stuck, is_root, pgpoke, server_with_testext, skip,
    wait_for,
};

/// The system calls after which pgpoke is held: by these it learns of a process, and touches it.
const CALLS: [&str; 6] = [
    "openat",
    "readlink",
    "pidfd_open",
    "process_vm_readv",
    "ptrace",
    "wait4",
];

/// A step: after this system call of pgpoke's, counted by name.
type Step = (&'static str, usize);

fn straced(output: &Path, options: &[&str], args: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq"])
        .args(options)
        .arg("-o")
        .arg(output);
    command.arg("--").arg(pgpoke().get_program()).args(args);
    command
}

/// Every step of such a run.
fn steps(args: &[&str]) -> Vec<Step> {
    let dir = tempfile::tempdir().expect("a directory for strace's output");
    let output = dir.path().join("calls");
    let trace = format!("trace={}", CALLS.join(","));
    Run::of(straced(&output, &["-e", "signal=none", "-e", &trace], args));
    let output = fs::read_to_string(&output).expect("strace's output");
    let mut made = std::collections::BTreeMap::new();
    let steps = output.lines().filter_map(|line| {
        let call = CALLS
            .into_iter()
            .find(|call| line.contains(&format!(" {call}(")))?;
        let nth = made.entry(call).or_insert(0);
        *nth += 1;
        Some((call, *nth))
    });
    steps.collect()
}

/// Those from which on pgpoke knows which process it is about, whatever becomes of its PID.
fn steps_once_pinned(args: &[&str]) -> Vec<Step> {
    let steps = steps(args).into_iter();
    steps
        .skip_while(|(call, _)| *call != "pidfd_open")
        .skip(1)
        .collect()
}

/// Some of the steps of each call, or all of them in the long form, up to [`MOST_OF_A_NAME`], spread.
fn some_of(steps: Vec<Step>, of_each: usize) -> Vec<Step> {
    let mut some = Vec::new();
    for call in CALLS {
        let these: Vec<Step> = steps.iter().copied().filter(|(c, _)| *c == call).collect();
        let every = these.len().div_ceil(times(of_each, MOST_OF_A_NAME)).max(1);
        some.extend(these.into_iter().step_by(every));
    }
    some
}

/// Runs pgpoke, and has `act` done when it is held at the step. None if it never came there.
///
/// While it holds a backend it can be held only so long itself, so `act` may not wait for that backend then; it is
/// told whether it may.
#[track_caller]
fn racing(
    (call, nth): Step,
    args: &[&str],
    backend: Backend,
    act: impl FnOnce(bool),
) -> Option<Run> {
    let dir = tempfile::tempdir().expect("a directory for strace's output");
    let output = dir.path().join("calls");
    let inject = format!("inject={call}:signal=STOP:when={nth}");
    let trace = format!("trace={call}");
    let options = ["-e", "signal=STOP", "-e", &trace, "-e", &inject];
    let mut hit = false;
    let run = Run::while_doing(DEADLINE, straced(&output, &options, args), |strace| {
        let held = wait_for(DEADLINE, "pgpoke shall be held, or end", || {
            let log = fs::read_to_string(&output).unwrap_or_default();
            let line = log
                .lines()
                .find(|line| line.contains("--- stopped by SIGSTOP ---"));
            if let Some(line) = line {
                let pid = line.split_whitespace().next().expect("a PID");
                return Some(Some(pid.parse::<i32>().expect("a PID")));
            }
            let ended = Backend::open(strace).is_none_or(|strace| !strace.is_alive());
            ended.then_some(None)
        });
        if let Some(pid) = held {
            hit = true;
            let free = backend.tracer_pid() == 0;
            act(free);
            // SAFETY: kill takes any numbers; should it be gone, its PID is kept by strace until it is waited for.
            unsafe { libc::kill(pid, libc::SIGCONT) };
        }
    });
    hit.then_some(run)
}

/// It came to an answer of its own.
#[track_caller]
fn assert_sane(step: Step, run: &Run, codes: &[i32]) {
    // Who is held for longer than twice the budget while it holds a backend ends as if killed.
    let killed = run.signal() == Some(libc::SIGKILL);
    assert!(
        killed || run.code().is_some_and(|code| codes.contains(&code)),
        "{step:?}:\n{run}"
    );
}

fn inspect(pid: &str) -> Vec<&str> {
    vec!["inspect", "--json", "--max-stop", "1s", pid]
}

fn interrupt<'a>(how: &[&'a str], pid: &'a str) -> Vec<&'a str> {
    let mut args = vec![
        "interrupt",
        "--yes",
        "--json",
        "--max-stop",
        "1s",
        "--wait",
        "100ms",
    ];
    args.extend(how);
    args.push(pid);
    args
}

/// A backend that sleeps, and obeys.
fn sleeper(server: &Server) -> Stuck<'_> {
    server.stuck_when("SELECT pg_sleep(3600)", |backend| {
        backend.state() == Some('S') && backend.syscall().is_some()
    })
}

/// A backend that spins with a cancel pending.
fn spinner(server: &Server) -> Stuck<'_> {
    let stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.backend().send(libc::SIGINT);
    stuck.wait_until("its handler shall have run", DEADLINE, |backend| {
        !backend.is_pending(libc::SIGINT)
    });
    stuck
}

fn wait_until_gone(backend: Backend) {
    wait_for(DEADLINE, "the backend shall be gone", || {
        (Backend::open(backend.pid) != Some(backend)).then_some(())
    });
}

/// How often which exit code came.
#[derive(Default)]
struct Codes(std::collections::BTreeMap<Option<i32>, usize>);

impl Codes {
    fn count(&mut self, run: &Run) {
        *self.0.entry(run.code()).or_default() += 1;
    }

    fn of(&self, code: i32) -> usize {
        self.0.get(&Some(code)).copied().unwrap_or(0)
    }

    fn tell(&self, what: &str) {
        figure(what, format!("exit codes {:?}", self.0));
    }
}

#[test]
fn the_backend_ends_at_any_step() {
    let server = server_with_testext!();
    for command in ["inspect", "interrupt"] {
        let stuck = sleeper(&server);
        let pid = stuck.pid().to_string();
        let all = match command {
            "inspect" => steps(&inspect(&pid)),
            _ => steps(&interrupt(&[], &pid)),
        };
        let mut codes = Codes::default();
        for step in some_of(all, 3) {
            let stuck = sleeper(&server);
            let backend = stuck.backend();
            let pid = stuck.pid().to_string();
            let args = match command {
                "inspect" => inspect(&pid),
                _ => interrupt(&[], &pid),
            };
            let mut gone = false;
            let run = racing(step, &args, backend, |free| {
                backend.send(libc::SIGTERM);
                if free {
                    wait_until_gone(backend);
                    gone = true;
                }
            });
            let Some(run) = run else { continue };
            assert_sane(step, &run, &[0, 4, 5, 7, 8]);
            codes.count(&run);
            // Who had looked before has an answer; who had not, must not invent one.
            if gone && run.code() == Some(7) {
                assert!(run.json()["verdict"].is_null(), "{step:?}: {run}");
            }
            wait_until_gone(backend);
        }
        codes.tell(&format!("{command} of a backend that ends at any step"));
        assert!(codes.of(7) > 3, "{:?}", codes.0);
    }
    server.assert_unharmed();
}

#[test]
fn the_pid_is_given_to_another_at_any_step() {
    if !is_root()
        || fs::OpenOptions::new()
            .write(true)
            .open("/proc/sys/kernel/ns_last_pid")
            .is_err()
    {
        skip!("only root can choose a PID");
    }
    let server = server_with_testext!();
    let stuck = sleeper(&server);
    let pid = stuck.pid().to_string();
    // Before, it is the other that pgpoke is asked to look at.
    let all = steps_once_pinned(&interrupt(&["--terminate", "--grace", "10ms"], &pid));
    let (mut reused, mut codes) = (0, Codes::default());
    for step in some_of(all, 4) {
        let stuck = sleeper(&server);
        let backend = stuck.backend();
        let pid = stuck.pid().to_string();
        let mut heir = None;
        let args = interrupt(&["--terminate", "--grace", "10ms"], &pid);
        let run = racing(step, &args, backend, |free| {
            if !free {
                return;
            }
            backend.send(libc::SIGTERM);
            wait_until_gone(backend);
            // Others start processes, too; another session is the next to get the number, or not.
            let start = Instant::now();
            while heir.is_none() && start.elapsed() < Duration::from_secs(2) {
                let before = (backend.pid - 1).to_string();
                let _ = fs::write("/proc/sys/kernel/ns_last_pid", before);
                let mut client = server.connect();
                let new: i32 = client
                    .query_one("SELECT pg_backend_pid()", &[])
                    .expect("a PID")
                    .get(0);
                heir = (new == backend.pid).then_some(client);
                if Backend::open(backend.pid).is_some() {
                    break;
                }
            }
        });
        let Some(run) = run else { continue };
        let Some(mut heir) = heir else { continue };
        reused += 1;
        codes.count(&run);
        // Another session of the same server: a terminate would have been its end.
        let one = heir.query_one("SELECT 1", &[]);
        assert!(one.is_ok(), "{step:?} ended another session:\n{run}");
        // It had obeyed already where the signal was sent to the first.
        assert_sane(step, &run, &[0, 7]);
    }
    codes.tell("interrupt --terminate of a PID that is given to another session");
    assert!(
        reused > 3,
        "the PID was given to another session only {reused} times"
    );
    server.assert_unharmed();
}

/// `kill -9`, by somebody who has lost patience: whichever call of ours is the first to learn of it, it is gone, and that is
/// no error of pgpoke's.
#[test]
fn the_backend_is_killed_at_any_step() {
    let server = server_with_testext!();
    server.expect_crash();
    // So that all is still there after a crash; the servers of tests do not flush what they commit.
    let checkpoint = server.connect().batch_execute("CHECKPOINT");
    checkpoint.expect("CHECKPOINT");
    for command in ["inspect", "interrupt"] {
        let new = || match command {
            "inspect" => sleeper(&server),
            _ => spinner(&server),
        };
        fn args<'a>(command: &str, pid: &'a str) -> Vec<&'a str> {
            match command {
                "inspect" => inspect(pid),
                _ => interrupt(&[], pid),
            }
        }
        let all = {
            let stuck = new();
            steps(&args(command, &stuck.pid().to_string()))
        };
        // By these it learns of a process that it holds.
        let all = all.into_iter().filter(|(call, _)| *call != "openat");
        let mut codes = Codes::default();
        for step in some_of(all.collect(), 12) {
            let stuck = new();
            let backend = stuck.backend();
            let pid = stuck.pid().to_string();
            let ready = times_ready(&server);
            let (mut killed, mut held) = (false, false);
            let run = racing(step, &args(command, &pid), backend, |free| {
                backend.send(libc::SIGKILL);
                (killed, held) = (true, !free);
                if free {
                    wait_until_gone(backend);
                }
            });
            if killed {
                wait_until_gone(backend);
                // Its postmaster takes that for a crash.
                wait_for(DEADLINE, "the server shall take connections again", || {
                    (times_ready(&server) > ready).then_some(())
                });
            }
            let Some(run) = run else { continue };
            // Who had looked before has an answer; who was about to call something may say that it crashed.
            assert_sane(step, &run, &[0, 4, 5, 7, 8, 9]);
            if run.code() == Some(7) {
                assert!(run.json()["verdict"].is_null(), "{step:?}: {run}");
            }
            if held {
                codes.count(&run);
                if run.code() == Some(7) {
                    run.assert_says(&format!("process {pid} has ended"));
                }
            }
        }
        codes.tell(&format!(
            "{command} of a backend that is killed while it is held"
        ));
        assert!(codes.of(7) > 3, "{command}: {:?}", codes.0);
    }
}

/// Its parent is told of its end at once, and not only when pgpoke ends, too.
#[test]
fn who_is_killed_while_it_is_held_ends_there_and_then() {
    for _ in 0..times(10, 300) {
        let mut child = Command::new("sleep").arg("600").spawn().expect("sleep");
        let mut driver = Driver::new(child.id() as i32);
        assert_eq!(driver.order("kill"), 1);
        let status = wait_for(DEADLINE, "its parent shall be told", || {
            child.try_wait().expect("its status")
        });
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{status}");
    }
}

/// Stops a process for as long as it lives.
struct Stop(Backend);

impl Stop {
    fn new(process: Backend) -> Self {
        process.send(libc::SIGSTOP);
        wait_for(DEADLINE, "it shall be stopped", || {
            (process.state() == Some('T')).then_some(())
        });
        Stop(process)
    }
}

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.send(libc::SIGCONT);
    }
}

#[test]
fn the_backend_becomes_a_zombie_at_any_step() {
    let server = server_with_testext!();
    let stuck = sleeper(&server);
    let pid = stuck.pid().to_string();
    let all = steps(&inspect(&pid));
    let mut codes = Codes::default();
    for step in some_of(all, 3) {
        let stuck = sleeper(&server);
        let backend = stuck.backend();
        let pid = stuck.pid().to_string();
        let mut parent = None;
        let run = racing(step, &inspect(&pid), backend, |free| {
            parent = Some(Stop::new(server.postmaster()));
            backend.send(libc::SIGTERM);
            if free {
                wait_for(DEADLINE, "a zombie", || {
                    (backend.state() == Some('Z')).then_some(())
                });
            }
        });
        drop(parent);
        let Some(run) = run else { continue };
        assert_sane(step, &run, &[5, 7, 8]);
        codes.count(&run);
        wait_until_gone(backend);
    }
    codes.tell("inspect of a backend that becomes a zombie at any step");
    assert!(codes.of(5) > 3, "{:?}", codes.0);
    server.assert_unharmed();
}

/// Another tracer; it lets go when this is dropped.
struct Tracer(Child);

impl Tracer {
    fn of(backend: Backend) -> Self {
        let mut command = Command::new("strace");
        command.args(["-qq", "-e", "trace=none", "-o", "/dev/null", "-p"]);
        command.arg(backend.pid.to_string());
        command.stderr(Stdio::null());
        Tracer(command.spawn().expect("strace"))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // SAFETY: kill takes any numbers; this PID is a child's that has not been waited for.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) };
        let _ = self.0.wait();
    }
}

#[test]
fn another_tracer_comes_first_at_any_step() {
    let server = server_with_testext!();
    let stuck = spinner(&server);
    let pid = stuck.pid().to_string();
    let all = steps(&interrupt(&["--dry-run"], &pid));
    let mut codes = Codes::default();
    for step in some_of(all, 3) {
        let backend = stuck.backend();
        let mut other = None;
        let run = racing(step, &interrupt(&[], &pid), backend, |free| {
            if free {
                other = Some(Tracer::of(backend));
                wait_for(DEADLINE, "another tracer", || {
                    (backend.tracer_pid() != 0).then_some(())
                });
            }
        });
        let Some(run) = run else { continue };
        let foreign = other.is_some();
        drop(other);
        if !foreign {
            assert_sane(step, &run, &[0, 4, 8]);
        } else if run.code() != Some(0) {
            codes.count(&run);
            assert_sane(step, &run, &[5, 6]);
            run.assert_says("traced");
            backend.assert_running_untraced();
        }
        if stuck.ended_within(Duration::from_millis(100)).is_some() {
            stuck.assert_cancelled();
            break;
        }
    }
    codes.tell("interrupt of a backend that another traces since any step");
    assert!(codes.of(5) + codes.of(6) > 3, "{:?}", codes.0);
    server.assert_unharmed();
}

/// A genuine pg_cancel_backend() or pg_terminate_backend() at the same moment.
#[test]
fn it_obeys_by_itself_at_any_step() {
    let server = server_with_testext!();
    for how in How::BOTH {
        let stuck = sleeper(&server);
        let pid = stuck.pid().to_string();
        let all = steps(&interrupt(&[how.option()], &pid));
        let mut codes = Codes::default();
        for step in some_of(all, 2) {
            let stuck = sleeper(&server);
            let backend = stuck.backend();
            let pid = stuck.pid().to_string();
            let args = interrupt(&[how.option()], &pid);
            let run = racing(step, &args, backend, |free| {
                backend.send(how.signal());
                if free {
                    assert!(stuck.ended_within(DEADLINE).is_some(), "it did not obey");
                }
            });
            let Some(run) = run else { continue };
            codes.count(&run);
            match how {
                // Two cancels may end the statement and find the session idle.
                How::Cancel => {
                    assert_sane(step, &run, &[0, 5]);
                    stuck.assert_cancelled();
                    assert!(stuck.run_follow_up("SELECT 1").is_ok(), "{step:?}: {run}");
                }
                How::Terminate => {
                    assert_sane(step, &run, &[0, 5, 7]);
                    stuck.assert_terminated();
                }
            }
        }
        codes.tell(&format!("interrupt while {} does it", how.function()));
        assert!(codes.0.values().sum::<usize>() > 3, "{:?}", codes.0);
    }
    server.assert_unharmed();
}

/// The loop comes to its end just before the call: what was meant for one statement does not hit the next.
#[test]
fn another_pgpoke_is_faster_at_any_step() {
    let server = server_with_testext!();
    let stuck = spinner(&server);
    let pid = stuck.pid().to_string();
    let all = steps(&interrupt(&[], &pid));
    stuck.assert_cancelled();
    let mut codes = Codes::default();
    for step in some_of(all, 2) {
        let stuck = spinner(&server);
        let backend = stuck.backend();
        let pid = stuck.pid().to_string();
        let run = racing(step, &interrupt(&[], &pid), backend, |free| {
            if free {
                Run::pgpoke(["interrupt", "--yes", &pid]).assert_code(0);
                stuck.assert_cancelled();
            }
        });
        let Some(run) = run else { continue };
        codes.count(&run);
        assert_sane(step, &run, &[0, 5]);
        if run.signal().is_none() {
            stuck.assert_cancelled();
            assert!(stuck.run_follow_up("SELECT 1").is_ok(), "{step:?}: {run}");
        }
    }
    codes.tell("interrupt of a backend that another pgpoke cancels at any step");
    assert!(codes.of(5) > 0, "{:?}", codes.0);
    server.assert_unharmed();
}

#[test]
fn the_postmaster_is_stopped_at_any_step() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT] {
        let all = {
            let server = server_with_testext!();
            let stuck = sleeper(&server);
            let pid = stuck.pid().to_string();
            steps(&interrupt(&["--cancel", "--dry-run"], &pid))
        };
        let mut codes = Codes::default();
        let some = some_of(all, 1);
        let every = some.len().div_ceil(times(3, some.len())).max(1);
        for step in some.into_iter().rev().step_by(every) {
            let server = server_with_testext!();
            let stuck = sleeper(&server);
            let backend = stuck.backend();
            let pid = stuck.pid().to_string();
            let args = interrupt(&["--cancel", "--grace", "100ms"], &pid);
            let run = racing(step, &args, backend, |free| {
                server.postmaster().send(signal);
                // A smart shutdown waits for the session.
                if free && signal != libc::SIGTERM {
                    wait_until_gone(backend);
                }
            });
            if let Some(run) = run {
                codes.count(&run);
                assert_sane(step, &run, &[0, 5, 7]);
            }
            assert_eq!(server.signs_of_a_crash(), Vec::<String>::new());
        }
        codes.tell(&format!(
            "interrupt while signal {signal} stops the postmaster"
        ));
    }
}

/// A backend in a loop, with a cancel pending, that forks when it gets the word.
struct Forking<'s> {
    stuck: Stuck<'s>,
    seen: SeenFile,
}

impl<'s> Forking<'s> {
    /// One that loops on after that.
    const LOOPS_ON: u32 = 1;
    /// One whose statement is over then.
    const IS_DONE: u32 = 2;

    fn new(server: &'s Server, nth: usize) -> Self {
        let seen = SeenFile::new(server, &format!("forking-{nth}"));
        let stuck = server.stuck(&format!("SELECT pgpoke_forks({})", seen.sql()));
        wait_for(DEADLINE, "it shall loop", || {
            (seen.inside.load(SeqCst) > 0).then_some(())
        });
        Forking { stuck, seen }
    }

    fn pid(&self) -> String {
        self.stuck.pid().to_string()
    }

    /// Has it fork. None if it is kept from that, as it is held, or out of its loop already.
    fn fork(&self, word: u32) -> Option<Backend> {
        self.seen.word.store(word, SeqCst);
        wait_for(DEADLINE, "it shall fork, or be held", || {
            let held = self.stuck.backend().state() == Some('t');
            let over = self.stuck.ended_within(Duration::ZERO).is_some();
            match self.child() {
                None if held || over => Some(None),
                None => None,
                child => Some(child),
            }
        })
    }

    fn child(&self) -> Option<Backend> {
        match self.seen.child.load(SeqCst) {
            0 => None,
            pid => Some(Backend::open(pid as i32).expect("a child that lives on")),
        }
    }

    /// Nobody traces it, nobody has sent it anything, and it computes on.
    #[track_caller]
    fn assert_left_alone(&self, child: Backend) {
        child.assert_running_untraced();
        let rounds = self.seen.rounds.load(SeqCst);
        wait_for(DEADLINE, "the child shall compute on", || {
            (self.seen.rounds.load(SeqCst) > rounds).then_some(())
        });
        let got: i64 = self.seen.others.iter().map(|n| n.load(SeqCst)).sum();
        assert_eq!(got, 0, "the child got signals");
    }
}

impl Drop for Forking<'_> {
    fn drop(&mut self) {
        self.seen.end.store(1, SeqCst);
    }
}

/// A child that a library forks has all the memory of the backend, and is none.
#[test]
fn the_backend_forks_at_any_step() {
    let server = server_with_testext!();
    let all = {
        let forking = Forking::new(&server, 0);
        let all = steps(&interrupt(&[], &forking.pid()));
        forking.stuck.assert_cancelled();
        all
    };
    let (mut codes, mut of_child) = (Codes::default(), Codes::default());
    for (nth, step) in some_of(all, 3).into_iter().enumerate() {
        let forking = Forking::new(&server, nth + 1);
        let pid = forking.pid();
        let mut forked = None;
        let run = racing(step, &interrupt(&[], &pid), forking.stuck.backend(), |_| {
            forked = forking.fork(Forking::LOOPS_ON);
        });
        let Some(run) = run else { continue };
        assert_sane(step, &run, &[0, 8]);
        if run.code() == Some(0) {
            assert_eq!(run.json()["pid"], forking.stuck.pid(), "{step:?}: {run}");
            forking.stuck.assert_cancelled();
            let one = forking.stuck.run_follow_up("SELECT 1");
            assert!(one.is_ok(), "{step:?}: {run}");
        }
        let Some(child) = forked else { continue };
        codes.count(&run);
        forking.assert_left_alone(child);
        // Whoever asks for the child itself is told what it is.
        let child_pid = child.pid.to_string();
        let run = Run::pgpoke(interrupt(&["--terminate"], &child_pid));
        assert_sane(step, &run, &[7]);
        run.assert_says("a helper that a backend forked");
        of_child.count(&run);
        forking.assert_left_alone(child);
    }
    codes.tell("interrupt of a backend that forks at any step");
    of_child.tell("interrupt --terminate of the child");
    assert!(codes.of(0) > 3, "{:?}", codes.0);
    server.assert_unharmed();
}

/// The backend is gone, but for a child that has all of its memory, and its connection.
#[test]
fn the_backend_leaves_a_child_at_any_step() {
    let server = server_with_testext!();
    let all = {
        let forking = Forking::new(&server, 0);
        let all = steps(&interrupt(&[], &forking.pid()));
        forking.stuck.assert_cancelled();
        all
    };
    let mut codes = Codes::default();
    for (nth, step) in some_of(all, 2).into_iter().enumerate() {
        let forking = Forking::new(&server, nth + 1);
        let (backend, pid) = (forking.stuck.backend(), forking.pid());
        let mut left = None;
        let run = racing(step, &interrupt(&[], &pid), backend, |free| {
            if free {
                left = forking.fork(Forking::IS_DONE);
            }
            if left.is_some() {
                assert!(forking.stuck.result().is_ok());
                backend.send(libc::SIGTERM);
                wait_until_gone(backend);
            }
        });
        let (Some(run), Some(child)) = (run, left) else {
            continue;
        };
        codes.count(&run);
        // Where it had looked before, it has an answer, but none that something was done.
        assert_sane(step, &run, &[0, 5, 7]);
        let cancelled = run.stdout.contains("\"cancelled\"");
        assert!(!cancelled, "{step:?}: {run}");
        forking.assert_left_alone(child);
    }
    codes.tell("interrupt of a backend that ends at any step and leaves a child");
    assert!(codes.of(7) > 3, "{:?}", codes.0);
    server.assert_unharmed();
}

fn times_ready(server: &Server) -> usize {
    server.log().matches("ready to accept connections").count()
}

/// Another program in the same process, as by a hostile or broken extension.
#[test]
fn the_backend_executes_another_program_at_any_step() {
    let server = server_with_testext!();
    server.expect_crash();
    let sql = "CREATE EXTENSION plperlu;
        CREATE FUNCTION become(file text) RETURNS void LANGUAGE plperlu AS
        'while (!-e $_[0]) {} alarm 0; exec \"sleep\", \"60\"'";
    let mut client = server.connect();
    if client.batch_execute(sql).is_err() {
        skip!("no PL/Perl");
    }
    // So that it is still there after a crash; the servers of tests do not flush what they commit.
    client.batch_execute("CHECKPOINT").expect("CHECKPOINT");
    let word = server.directory().join("now");
    let sql = format!("SELECT become('{}')", word.display());
    let computes = |backend: &Backend| backend.state() == Some('R');
    let all = {
        let stuck = server.stuck_when(&sql, computes);
        let pid = stuck.pid().to_string();
        steps(&interrupt(&["--dry-run"], &pid))
    };
    let mut codes = Codes::default();
    let some: Vec<Step> = some_of(all, 2);
    for step in some {
        let stuck = server.stuck_when(&sql, computes);
        let backend = stuck.backend();
        let pid = stuck.pid().to_string();
        let exe = format!("/proc/{pid}/exe");
        let is_sleep = || {
            let exe = fs::read_link(&exe).ok()?;
            (!exe.to_string_lossy().contains("postgres")).then_some(())
        };
        let ready = times_ready(&server);
        let run = racing(step, &interrupt(&[], &pid), backend, |free| {
            if free {
                fs::write(&word, "").expect("a file");
                wait_for(DEADLINE, "another program", is_sleep);
            }
        });
        let executed = word.exists();
        let _ = fs::remove_file(&word);
        let Some(run) = run else { continue };
        if executed {
            codes.count(&run);
            assert_sane(step, &run, &[4, 5, 7]);
            // Nothing ran in it, and nothing was sent to it that it does not survive.
            assert!(backend.is_alive(), "{step:?}: {run}");
            backend.assert_running_untraced();
            backend.send(libc::SIGKILL);
            // Its postmaster takes that for a crash.
            wait_for(DEADLINE, "the server shall take connections again", || {
                (times_ready(&server) > ready).then_some(())
            });
        }
    }
    codes.tell("interrupt of a backend that executes another program at any step");
    // Once it is judged and about to be told of, what it becomes is another matter.
    let all: usize = codes.0.values().sum();
    assert!(codes.of(7) * 10 >= all * 9, "{:?}", codes.0);
}
