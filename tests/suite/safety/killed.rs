use std::collections::BTreeMap;
use std::fs;
use std::io::pipe;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use object::elf::ProgramHeader64;
use object::endian::LittleEndian as LE;
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};

use super::{MOST_OF_A_NAME, figure, times};
use crate::harness::{
    Backend, DEADLINE, How, Outcome, Run, Server, Stuck, heeding_signals, pgpoke,
    server_with_testext, skip, wait_for,
};

/// Everything that it does to a backend, and every wait for it: at these it dies each time, several times each.
const CALLS: [&str; 4] = ["ptrace", "wait4", "rt_sigtimedwait", "rt_tgsigqueueinfo"];

/// How often it dies at each call.
const TIMES: usize = 3;

/// pgpoke, with a signal sent to it by strace as it enters the `nth` call of that name. The call
/// itself is not made any more if the signal is SIGKILL.
///
/// strace ends as pgpoke does, by the same signal.
fn hit(call: &str, nth: usize, signal: &str, args: &[&str]) -> Run {
    let mut command = heeding_signals("strace");
    command.args(["-f", "-qq", "-o", "/dev/null"]);
    command.args(["-e", &format!("trace={call}"), "-e", "signal=none", "-e"]);
    command.arg(format!("inject={call}:signal={signal}:when={nth}"));
    command.arg("--").arg(pgpoke().get_program()).args(args);
    Run::of(command)
}

/// Ended by itself, with a code that the contract has.
#[track_caller]
pub(super) fn assert_sane_exit(run: &Run) {
    assert!(
        matches!(run.code(), Some(0 | 3..=8)),
        "neither killed nor in its right mind:\n{run}"
    );
}

/// Ended because it was told to: by the signal itself, or with a word about it. False if the signal
/// came too late, or not at all.
#[track_caller]
fn ended_as_told(run: &Run, signal: i32) -> bool {
    if run.signal() == Some(signal) {
        return true;
    }
    if run.stderr.contains(&format!("ended by signal {signal}")) {
        assert!(matches!(run.code(), Some(1 | 8)), "{run}");
        return true;
    }
    assert_sane_exit(run);
    false
}

/// The backend still works on its statement: it has used CPU time since it was let go, or sleeps in nanosleep(2) as it
/// did. Returns false if the statement has ended meanwhile.
#[track_caller]
fn goes_on(stuck: &Stuck) -> bool {
    /// Many times what it takes to clean up after an error.
    const ENOUGH: Duration = Duration::from_millis(10);
    let backend = stuck.backend();
    let before = backend.cpu_time();
    wait_for(DEADLINE, "the backend shall go on, or be done", || {
        if stuck.ended_within(Duration::ZERO).is_some() {
            return Some(false);
        }
        // A backend that waits for its client does so in epoll_wait(2).
        let sleeps = backend.state() == Some('S')
            && matches!(
                backend.syscall(),
                Some(libc::SYS_clock_nanosleep | libc::SYS_nanosleep | libc::SYS_restart_syscall)
            );
        (sleeps || backend.cpu_time() > before + ENOUGH).then_some(true)
    })
}

/// A witness that computes until it is asked what it has seen.
struct Witness<'s> {
    server: &'s Server,
    stuck: Stuck<'s>,
}

impl<'s> Witness<'s> {
    fn new(server: &'s Server) -> Self {
        let stuck = server.stuck("SELECT pgpoke_checked(3600)");
        Self { server, stuck }
    }

    fn pid(&self) -> String {
        self.stuck.pid().to_string()
    }

    #[track_caller]
    fn assert_computes_on(&self) {
        self.stuck.backend().assert_running_untraced();
        assert!(goes_on(&self.stuck), "it ended: {:?}", self.stuck.result());
    }

    /// Nothing that belongs to it was ever not as it had left it: registers, flags, floating-point
    /// state, red zone, errno, signal mask. And it obeys, and its session goes on.
    #[track_caller]
    fn assert_untouched(self) {
        let cancelled: bool = self
            .server
            .connect()
            .query_one("SELECT pg_cancel_backend($1)", &[&self.stuck.pid()])
            .expect("pg_cancel_backend")
            .get(0);
        assert!(cancelled);
        let rows = self.stuck.result().expect("the witness's answer");
        let answer = rows[0][0].clone().expect("a text");
        assert!(answer.starts_with("ok, "), "{answer}");
        assert_eq!(
            self.stuck.run_follow_up("SELECT 1"),
            Ok(vec![vec![Some("1".to_owned())]])
        );
        self.server.assert_unharmed();
    }
}

/// What is swept over: calls `run` for the first, second, … call of each name, several times each,
/// until it is not hit any more because there are no more calls.
///
/// `run` says whether pgpoke was hit.
fn sweep(calls: &[&str], times: usize, mut run: impl FnMut(&str, usize) -> bool) {
    for call in calls {
        let mut hits = 0;
        for nth in 1.. {
            let hit = (0..times).filter(|_| run(call, nth)).count();
            if hit == 0 {
                break;
            }
            hits += hit;
        }
        assert!(hits > 0, "pgpoke never called {call}");
        eprintln!("{call}: {hits} hits");
    }
}

/// Every system call that a run of pgpoke makes, learned from one: its name, and how often one thread makes it, which
/// is how strace counts for `when`.
fn calls_of(args: &[&str]) -> Vec<(String, usize)> {
    let dir = tempfile::tempdir().expect("a directory for strace's output");
    let output = dir.path().join("calls");
    let mut command = heeding_signals("strace");
    command.args(["-f", "-qq", "-e", "signal=none", "-o"]);
    command.arg(&output).arg("--");
    command.arg(pgpoke().get_program()).args(args);
    assert_sane_exit(&Run::of(command));
    let output = fs::read_to_string(&output).expect("strace's output");
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in output.lines() {
        // "PID name(arguments) = result"; the second line of a call that was suspended has no name.
        let thread_and_call = line.split_once(' ');
        if let Some((thread, (name, _))) =
            thread_and_call.and_then(|(t, rest)| Some((t, rest.trim().split_once('(')?)))
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        {
            *counts.entry((name, thread)).or_default() += 1;
        }
    }
    let mut calls: BTreeMap<String, usize> = BTreeMap::new();
    for ((name, _), count) in counts {
        let most = calls.entry(name.to_owned()).or_default();
        *most = count.max(*most);
    }
    // The start of a program that is not yet pgpoke.
    calls.remove("execve");
    calls.into_iter().collect()
}

/// How many of all the calls but [`CALLS`] are tried: every one in the long form.
fn some() -> usize {
    times(30, usize::MAX)
}

/// Of all the calls but [`CALLS`] at most `number`, spread over all of them.
fn sweep_others(
    what: &str,
    calls: &[(String, usize)],
    number: usize,
    mut run: impl FnMut(&str, usize) -> bool,
) -> usize {
    let others: Vec<(&str, usize)> = calls
        .iter()
        .filter(|(name, _)| !CALLS.contains(&name.as_str()))
        .flat_map(|(name, count)| (1..=*count.min(&MOST_OF_A_NAME)).map(|nth| (name.as_str(), nth)))
        .collect();
    let step = others.len().div_ceil(number).max(1);
    let tried: Vec<_> = others.iter().step_by(step).collect();
    let hits = tried.iter().filter(|(name, nth)| run(name, *nth)).count();
    // How often calls are made differs from run to run, with the looks that it takes.
    assert!(hits * 3 > tried.len(), "{hits} of {tried:?}");
    let names = calls.len();
    let all: usize = calls.iter().map(|(_, count)| count).sum();
    figure(
        &format!("{what}: of {all} calls by {names} names, killed at, ptrace and its waits aside"),
        format!("{hits} of {}", others.len()),
    );
    hits
}

#[test]
fn inspect_killed_at_any_call_leaves_the_backend_as_it_was() {
    let server = server_with_testext!();
    let witness = Witness::new(&server);
    let mut kill = |call: &str, nth: usize| {
        let run = hit(call, nth, "KILL", &["inspect", &witness.pid()]);
        witness.assert_computes_on();
        let killed = run.signal() == Some(libc::SIGKILL);
        if !killed {
            assert_sane_exit(&run);
        }
        killed
    };
    sweep(&CALLS, TIMES, &mut kill);
    let calls = calls_of(&["inspect", &witness.pid()]);
    sweep_others("inspect", &calls, some(), kill);
    witness.assert_untouched();
}

/// Of all calls of a report with a core file some, among them those by which a file that is whole gets its name, and in
/// the long form many.
#[test]
fn report_killed_at_any_call_leaves_nothing_half() {
    let server = server_with_testext!();
    let witness = Witness::new(&server);
    let dir = tempfile::tempdir().expect("a directory for reports");
    let (pid, report) = (witness.pid(), dir.path().join("r"));
    let path = report.to_str().expect("a path in /tmp");
    let args = ["report", "--samples", "1", "--core", "-o", path, &pid];
    let clear = || {
        let _ = fs::remove_dir_all(&report);
        let _ = fs::remove_file(report.with_extension("tar.gz"));
    };
    let kill = |call: &str, nth: usize| {
        let run = hit(call, nth, "KILL", &args);
        witness.assert_computes_on();
        let killed = run.signal() == Some(libc::SIGKILL);
        if !killed {
            assert_sane_exit(&run);
        }
        assert_no_half_core(&report, &run);
        assert_no_half_archive(&report, &run);
        clear();
        killed
    };
    let calls = calls_of(&args);
    clear();
    // A core file, and then the archive.
    let named = calls.iter().find(|(name, _)| name == "linkat");
    if named.is_none() {
        skip!(
            "files without a name are not to be had in {}",
            dir.path().display()
        );
    }
    assert_eq!(named.map(|(_, count)| *count), Some(2), "{calls:?}");
    assert!(kill("linkat", 1) && kill("linkat", 2));
    let touching: Vec<(&str, usize)> = (calls.iter())
        .filter(|(name, _)| CALLS.contains(&name.as_str()))
        .flat_map(|(name, count)| (1..=*count).map(|nth| (name.as_str(), nth)))
        .collect();
    let step = times(touching.len().div_ceil(10), 1);
    let hits = touching
        .iter()
        .step_by(step)
        .filter(|(name, nth)| kill(name, *nth));
    let hits = hits.count();
    assert!(hits > 3, "{hits} of {touching:?}");
    figure(
        "report --core: killed at ptrace and its waits",
        format!("{hits} of {}", touching.len()),
    );
    sweep_others("report --core", &calls, times(10, 400), kill);
    witness.assert_untouched();
}

/// What has the name of a core file is one, to its last byte; and what else there is, is explained.
#[track_caller]
fn assert_no_half_core(report: &Path, run: &Run) {
    let names = fs::read_dir(report).map(|dir| dir.flatten().map(|e| e.file_name()).collect());
    let names: Vec<std::ffi::OsString> = names.unwrap_or_default();
    let partial = names
        .iter()
        .find(|name| name.to_string_lossy().ends_with(".partial"));
    assert!(partial.is_none(), "{partial:?}:\n{run}");
    if names.iter().any(|name| name == "core") {
        let bytes = fs::read(report.join("core")).expect("the core");
        let file: ElfFile64<LE> = ElfFile64::parse(&*bytes).expect("an ELF file");
        let segments = file
            .elf_header()
            .program_headers(LE, &*bytes)
            .expect("its segments");
        let end = |p: &ProgramHeader64<LE>| p.p_offset(LE) + p.p_filesz(LE);
        assert_eq!(
            segments.iter().map(end).max(),
            Some(bytes.len() as u64),
            "{run}"
        );
        assert!(names.iter().any(|name| name == "README.txt"), "{run}");
    }
}

/// What has the name of an archive is one, with all that is in the directory.
#[track_caller]
fn assert_no_half_archive(report: &Path, run: &Run) {
    let archive = report.with_extension("tar.gz");
    let beside = report.parent().expect("a directory");
    for entry in fs::read_dir(beside).expect("a directory").flatten() {
        let path = entry.path();
        assert!(path == report || path == archive, "{path:?}:\n{run}");
    }
    if archive.exists() {
        let mut list = Command::new("tar");
        list.arg("-tzf").arg(&archive);
        let list = Run::of(list);
        list.assert_code(0);
        let members = list.stdout.lines().filter(|l| !l.ends_with('/')).count();
        let there = fs::read_dir(report).expect("the report").count();
        let with_core = usize::from(report.join("core").exists());
        assert_eq!(members, there - with_core, "{list}\n{run}");
    }
}

/// A backend to be interrupted, and another when that has happened.
pub(super) struct Target<'s> {
    server: &'s Server,
    call: &'static str,
    /// What is pending in it.
    pending: Option<How>,
    /// How it is to end.
    end: How,
    stuck: Option<Stuck<'s>>,
    ended: usize,
}

impl<'s> Target<'s> {
    pub(super) fn new(
        server: &'s Server,
        call: &'static str,
        pending: Option<How>,
        end: How,
    ) -> Self {
        let mut target = Self {
            server,
            call,
            pending,
            end,
            stuck: None,
            ended: 0,
        };
        target.stuck().prove_stuck(end);
        target
    }

    /// The present one; it has got its signal, and computes on.
    #[track_caller]
    pub(super) fn stuck(&mut self) -> &Stuck<'s> {
        self.stuck.get_or_insert_with(|| {
            let stuck = self.server.stuck(&format!("SELECT {}", self.call));
            if let Some(how) = self.pending {
                // SAFETY: kill takes any numbers; this PID is a backend's that is stuck.
                assert_eq!(unsafe { libc::kill(stuck.pid(), how.signal()) }, 0);
                stuck.wait_until("its handler shall have run", DEADLINE, |backend| {
                    !backend.is_pending(how.signal())
                });
            }
            stuck
        })
    }

    pub(super) fn pid(&mut self) -> String {
        self.stuck().pid().to_string()
    }

    /// It either computes on, undisturbed, or has ended as it was asked to, and in no other way.
    #[track_caller]
    pub(super) fn check(&mut self) {
        let stuck = self.stuck();
        let backend = stuck.backend();
        if stuck.ended_within(Duration::ZERO).is_none() && backend.is_alive() {
            // It may exit at any moment, and a process that is gone is neither stopped nor traced.
            wait_for(
                DEADLINE,
                "it shall be let go, and not be left stopped",
                || {
                    let free =
                        backend.tracer_pid() == 0 && !matches!(backend.state(), Some('T' | 't'));
                    (free || !backend.is_alive()).then_some(())
                },
            );
            if goes_on(stuck) {
                return;
            }
        }
        self.assert_ended_well();
    }

    #[track_caller]
    fn assert_ended_well(&mut self) {
        let end = self.end;
        let stuck = self.stuck.take().expect("a backend");
        assert_ended(self.server, &stuck, end);
        self.ended += 1;
    }
}

/// By an ERROR, after which the session goes on, or by a FATAL, after which the process is gone.
#[track_caller]
fn assert_ended(server: &Server, stuck: &Stuck, end: How) {
    let outcome: Outcome = stuck.result();
    let failure = outcome.expect_err("a statement that was stuck for ever");
    match end {
        How::Cancel => {
            assert_eq!(failure.code(), "57014", "{failure}");
            assert_eq!(
                stuck.run_follow_up("SELECT 1"),
                Ok(vec![vec![Some("1".to_owned())]])
            );
            stuck.backend().assert_running_untraced();
        }
        How::Terminate => {
            // The client may notice the closed connection before it has read why; the log tells.
            assert!(matches!(failure.code(), "57P01" | ""), "{failure}");
            let fatal = format!(
                "[{}] FATAL:  terminating connection due to administrator command",
                stuck.pid()
            );
            assert!(server.log().contains(&fatal), "{failure}\n{}", server.log());
            wait_for(DEADLINE, "the process shall be gone", || {
                (!stuck.backend().is_alive()).then_some(())
            });
        }
    }
}

/// Something that pgpoke acts upon, anew once that has happened.
trait Subject {
    fn pid(&mut self) -> String;
    /// It is as it was, or as it was asked to be, and in no other way.
    fn check(&mut self);
    /// How often it has come to be as it was asked to.
    fn done(&self) -> usize;
    fn server(&self) -> &Server;
}

impl Subject for Target<'_> {
    fn pid(&mut self) -> String {
        Target::pid(self)
    }

    fn check(&mut self) {
        Target::check(self);
    }

    fn done(&self) -> usize {
        self.ended
    }

    fn server(&self) -> &Server {
        self.server
    }
}

/// A backend that does not come to accept a barrier, and whoever waits for that.
struct Barrier<'s> {
    server: &'s Server,
    stuck: Stuck<'s>,
    waiter: Option<Stuck<'s>>,
    accepted: usize,
}

impl<'s> Barrier<'s> {
    fn new(server: &'s Server) -> Self {
        Barrier {
            server,
            stuck: server.stuck("SELECT pgpoke_sleep()"),
            waiter: None,
            accepted: 0,
        }
    }
}

impl Subject for Barrier<'_> {
    fn pid(&mut self) -> String {
        if self.waiter.is_none() {
            let waiter = self
                .server
                .stuck_when("SELECT pgpoke_barrier()", |backend| {
                    backend.state() == Some('S')
                });
            // It has got the signal, and has not taken the time since to look at what it is about.
            let mut client = self.server.connect();
            waiter.wait_until("it shall wait for the barrier", DEADLINE, |_| {
                let sql = "SELECT wait_event FROM pg_stat_activity WHERE pid = $1";
                let event = client.query_one(sql, &[&waiter.pid()]);
                let event: Option<String> = event.expect("its wait event").get(0);
                event.as_deref() == Some("ProcSignalBarrier")
            });
            self.stuck
                .wait_until("the signal shall arrive", DEADLINE, |backend| {
                    !backend.is_pending(libc::SIGUSR1)
                });
            self.waiter = Some(waiter);
        }
        self.stuck.pid().to_string()
    }

    fn check(&mut self) {
        self.stuck.backend().assert_running_untraced();
        assert!(goes_on(&self.stuck), "it ended: {:?}", self.stuck.result());
        let waiter = self.waiter.as_ref().expect("whoever waits");
        // Accepted by now, if at all; the one who waits is told by another signal.
        let accepted = |wait| waiter.ended_within(wait).is_some();
        let pending = || {
            let run = Run::pgpoke([
                "inspect",
                "--passive",
                "--json",
                &self.stuck.pid().to_string(),
            ]);
            run.json()["interrupts"]["proc_signal_barrier_pending"] == true
        };
        if accepted(Duration::ZERO) || (!pending() && accepted(DEADLINE)) {
            assert!(waiter.result().is_ok(), "{:?}", waiter.result());
            self.waiter = None;
            self.accepted += 1;
        }
    }

    fn done(&self) -> usize {
        self.accepted
    }

    fn server(&self) -> &Server {
        self.server
    }
}

/// Where to kill it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// At each of [`CALLS`], [`TIMES`] times, and at others.
    Each,
    /// The same, once each.
    Once,
}

/// A run that was not killed has had its way, or says that the backend, on a machine this busy, did not stop in time.
#[track_caller]
fn assert_done_if_said(run: &Run, done: usize) {
    match (run.signal(), run.code()) {
        (Some(libc::SIGKILL), _) | (_, Some(8)) => {}
        _ => {
            run.assert_code(0);
            assert_eq!(done, 1, "no effect, though it says so:\n{run}");
        }
    }
}

fn interrupt_killed_at_any_call(
    what: &str,
    mut subject: impl Subject,
    options: &[&str],
    depth: Depth,
) {
    let args = |pid: &str| -> Vec<String> {
        // Under strace each step takes its time; how long a stop may be is none of this test's business.
        let args = ["interrupt", "--yes", "--max-stop", "1s"];
        let args = args.iter().chain(options).copied();
        args.chain([pid]).map(str::to_owned).collect()
    };
    let mut untouched = 0;
    let learned = args(&subject.pid());
    let learned: Vec<&str> = learned.iter().map(String::as_str).collect();
    let calls = calls_of(&learned);
    subject.check();
    assert_eq!(subject.done(), 1, "without being killed, it has its way");
    let mut kill = |call: &str, nth: usize| {
        let args = args(&subject.pid());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let run = hit(call, nth, "KILL", &args);
        let done = subject.done();
        subject.check();
        let killed = run.signal() == Some(libc::SIGKILL);
        if killed && subject.done() == done {
            untouched += 1;
        }
        assert_done_if_said(&run, subject.done() - done);
        // Whoever was not killed, but found the machine too slow, says nothing about there being more calls.
        run.code() != Some(0)
    };
    let number = if depth == Depth::Each { TIMES } else { 1 };
    // Looking for a safe instruction, it makes more calls the longer that takes.
    let most = times(60, 400);
    for call in CALLS {
        let hits = (1..=most)
            .take_while(|nth| (0..number).filter(|_| kill(call, *nth)).count() > 0)
            .count();
        // What has stopped by the time it looks it does not wait for.
        assert!(
            hits > 0 || call == "rt_sigtimedwait",
            "pgpoke never called {call}"
        );
        figure(&format!("{what}: {call} calls killed at"), hits);
    }
    sweep_others(what, &calls, some(), kill);
    // Killed before it could act, and after it had.
    assert!(untouched > 20, "{untouched}");
    assert!(subject.done() > 1, "{}", subject.done());
    subject.server().assert_unharmed();
}

#[test]
fn interrupt_killed_at_any_call_of_a_cancel() {
    let server = server_with_testext!();
    let target = Target::new(&server, "pgpoke_spin()", Some(How::Cancel), How::Cancel);
    interrupt_killed_at_any_call("cancel", target, &[], Depth::Each);
}

#[test]
fn interrupt_killed_at_any_call_of_a_terminate() {
    let server = server_with_testext!();
    let target = Target::new(
        &server,
        "pgpoke_sleep()",
        Some(How::Terminate),
        How::Terminate,
    );
    interrupt_killed_at_any_call("terminate", target, &[], Depth::Once);
}

#[test]
fn interrupt_killed_at_any_call_where_it_sets_the_flags_itself() {
    let server = server_with_testext!();
    let target = Target::new(&server, "pgpoke_handlers('own')", None, How::Cancel);
    let options = ["--cancel", "--grace", "1ms"];
    interrupt_killed_at_any_call("flags", target, &options, Depth::Once);
}

#[test]
fn interrupt_killed_at_any_call_of_a_barrier() {
    let server = server_with_testext!();
    if server.installation().major() < 15 {
        skip!("this barrier is there from 15 on");
    }
    interrupt_killed_at_any_call("barrier", Barrier::new(&server), &[], Depth::Once);
}

#[test]
fn interrupt_killed_at_any_call_while_it_looks_for_a_safe_instruction() {
    let server = server_with_testext!();
    let target = Target::new(&server, "pgpoke_palloc()", Some(How::Cancel), How::Cancel);
    interrupt_killed_at_any_call("palloc", target, &["--wait", "50s"], Depth::Once);
}

/// By SIGKILL, at any moment of its run, at a call or between two.
#[test]
fn killed_at_random_moments() {
    let server = server_with_testext!();
    // A barrier is for all backends of a server, and none of the others here would accept it.
    let elsewhere = server_with_testext!();
    let witness = Witness::new(&server);
    let cancel = Some(How::Cancel);
    let mut subjects: Vec<(&[&str], Box<dyn Subject + '_>)> = vec![
        (
            &[],
            Box::new(Target::new(&server, "pgpoke_spin()", cancel, How::Cancel)),
        ),
        (
            &[],
            Box::new(Target::new(
                &server,
                "pgpoke_spin()",
                Some(How::Terminate),
                How::Terminate,
            )),
        ),
        (
            &["--cancel", "--grace", "1ms"],
            Box::new(Target::new(
                &server,
                "pgpoke_handlers('own')",
                None,
                How::Cancel,
            )),
        ),
        (
            &["--wait", "50s"],
            Box::new(Target::new(&server, "pgpoke_palloc()", cancel, How::Cancel)),
        ),
    ];
    if server.installation().major() >= 15 {
        subjects.push((&[], Box::new(Barrier::new(&elsewhere))));
    }
    let mut moments = Moments(3);
    let (mut killed, mut done) = (0, 0);
    let runs = times(60, 2_000);
    let mut time = Duration::ZERO;
    for turn in 0..runs {
        // Other tests come and go, and make it slower or quicker.
        if turn % 20 == 0 {
            time = time_of_an_inspection(&witness.pid());
        }
        let inspects = turn % 2 == 0;
        let which = turn / 2 % subjects.len();
        let mut command = pgpoke();
        if inspects {
            command.args(["inspect", &witness.pid()]);
        } else {
            let (options, subject) = &mut subjects[which];
            command.args(["interrupt", "--yes"]).args(*options);
            command.arg(subject.pid());
        }
        let run = Run::while_doing(DEADLINE, command, |pid| {
            moments.pass(if inspects { time } else { time * 5 });
            // SAFETY: kill takes any numbers; this PID is a child's that has not been waited for.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        });
        let was_killed = run.signal() == Some(libc::SIGKILL);
        killed += usize::from(was_killed);
        if inspects {
            witness.assert_computes_on();
            if !was_killed {
                assert_sane_exit(&run);
            }
        } else {
            let subject = &mut subjects[which].1;
            let before = subject.done();
            subject.check();
            done += subject.done() - before;
            assert_done_if_said(&run, subject.done() - before);
        }
    }
    figure(
        "runs killed at a random moment",
        format!("{killed} of {runs}; {done} interrupts were done all the same"),
    );
    assert!(killed > runs / 3, "only {killed} of {runs} came in time");
    // Few of sixty come so late that they are done before.
    assert!(done > 0 || runs < 1_000);
    drop(subjects);
    witness.assert_untouched();
}

/// What a terminal, or whoever runs pgpoke, sends it to make it stop.
const SIGNALS: [(&str, i32); 4] = [
    ("INT", libc::SIGINT),
    ("TERM", libc::SIGTERM),
    ("HUP", libc::SIGHUP),
    ("QUIT", libc::SIGQUIT),
];

/// Calls of each phase: before the backend is touched, while it is traced, and after. The first is
/// made hundreds of times, so that not each is tried.
fn sweep_signals(mut run: impl FnMut(&str, usize, &str, i32) -> bool) {
    let mut turn = 0;
    sweep(&["ptrace", "wait4", "rt_tgsigqueueinfo"], 1, |call, nth| {
        // Each call gets another signal, and each signal gets to each kind of call.
        let (name, number) = SIGNALS[turn % SIGNALS.len()];
        turn += 1;
        run(call, nth, name, number)
    });
    for nth in 1..=20 {
        let (name, number) = SIGNALS[nth % SIGNALS.len()];
        run("openat", nth * 2, name, number);
    }
}

#[test]
fn inspect_told_to_end_at_any_call() {
    let server = server_with_testext!();
    let witness = Witness::new(&server);
    let mut told = 0;
    // Twice, for other pairs of call and signal: the calls are an even number now and an odd one then.
    for _ in 0..2 {
        sweep_signals(|call, nth, name, number| {
            let args = ["inspect", "--max-stop", "1s", &witness.pid()];
            let run = hit(call, nth, name, &args);
            witness.assert_computes_on();
            let ended = ended_as_told(&run, number);
            told += usize::from(ended);
            ended
        });
    }
    assert!(told > 50, "only {told} noticed");
    witness.assert_untouched();
}

#[test]
fn interrupt_told_to_end_at_any_call() {
    let server = server_with_testext!();
    let mut target = Target::new(&server, "pgpoke_spin()", Some(How::Cancel), How::Cancel);
    let mut told = 0;
    sweep_signals(|call, nth, name, number| {
        let args = ["interrupt", "--yes", "--max-stop", "1s", &target.pid()];
        let run = hit(call, nth, name, &args);
        let ended = target.ended;
        target.check();
        if run.code() == Some(0) {
            assert_eq!(
                target.ended,
                ended + 1,
                "no effect, though it says so:\n{run}"
            );
        }
        let ended = ended_as_told(&run, number);
        told += usize::from(ended);
        ended
    });
    assert!(told > 50, "only {told} noticed");
    assert!(target.ended > 0);
    server.assert_unharmed();
}

/// Moments that follow no rhythm, within the time that a run takes.
pub(super) struct Moments(pub(super) u64);

impl Moments {
    pub(super) fn next(&mut self, within: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        within.mul_f64((self.0 >> 11) as f64 / (1u64 << 53) as f64)
    }

    /// Passes such a time. Spinning, since a sleep is too coarse for it.
    pub(super) fn pass(&mut self, within: Duration) {
        let end = Instant::now() + self.next(within);
        while Instant::now() < end {
            std::hint::spin_loop();
        }
    }
}

/// How long an inspection takes here and now.
pub(super) fn time_of_an_inspection(pid: &str) -> Duration {
    let mut times: Vec<_> = (0..5)
        .map(|_| {
            let run = Run::pgpoke(["inspect", pid]);
            assert_sane_exit(&run);
            run.elapsed
        })
        .collect();
    times.sort();
    times[2]
}

#[test]
fn inspect_told_to_end_at_random_moments() {
    let server = server_with_testext!();
    let witness = Witness::new(&server);
    let time = time_of_an_inspection(&witness.pid());
    let mut moments = Moments(1);
    let mut died = 0;
    for turn in 0..80 {
        let (_, signal) = SIGNALS[turn % SIGNALS.len()];
        let mut command = heeding_signals(pgpoke().get_program());
        command.args(["inspect", &witness.pid()]);
        let run = Run::while_doing(DEADLINE, command, |pid| {
            moments.pass(time);
            // SAFETY: kill takes any numbers; this PID is a child's that has not been waited for.
            unsafe { libc::kill(pid, signal) };
        });
        witness.assert_computes_on();
        died += usize::from(ended_as_told(&run, signal));
    }
    assert!(died > 10, "only {died} of 80 came in time");
    witness.assert_untouched();
}

/// Runs `sh -c script` with pgpoke and its arguments as "$@".
fn through_shell(script: &str, args: &[&str]) -> Run {
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh"])
        .arg(pgpoke().get_program());
    command.args(args);
    Run::of(command)
}

/// With nobody reading either output, or only one of them.
fn with_broken_pipes(stdout: bool, stderr: bool, args: &[&str]) -> std::process::ExitStatus {
    let broken = |yes: bool| match yes {
        true => Stdio::from(pipe().expect("a pipe").1),
        false => Stdio::null(),
    };
    let mut command = pgpoke();
    command.args(args).stdin(Stdio::null());
    command.stdout(broken(stdout)).stderr(broken(stderr));
    let mut child = command.spawn().expect("pgpoke");
    wait_for(DEADLINE, "pgpoke shall end", || {
        child.try_wait().expect("pgpoke's status")
    })
}

const CLOSED: [&str; 4] = [
    r#"exec "$@" >&-"#,
    r#"exec "$@" 2>&-"#,
    r#"exec "$@" >&- 2>&- <&-"#,
    r#"exec "$@" >/dev/full 2>/dev/full"#,
];

#[test]
fn inspect_with_nobody_listening() {
    let server = server_with_testext!();
    let witness = Witness::new(&server);
    let pid = witness.pid();
    for args in [
        &["inspect", &pid][..],
        &["inspect", "--json", &pid],
        &["inspect", "--passive", "--stack", &pid],
    ] {
        for script in CLOSED {
            let run = through_shell(script, args);
            assert_sane_exit(&run);
            witness.assert_computes_on();
        }
        for (stdout, stderr) in [(true, false), (false, true), (true, true)] {
            // The exit code tells what was found even to those who read nothing.
            let status = with_broken_pipes(stdout, stderr, args);
            assert!(matches!(status.code(), Some(0 | 3..=8)), "{status}");
            witness.assert_computes_on();
        }
    }
    witness.assert_untouched();
}

#[test]
fn interrupt_with_nobody_listening() {
    let server = server_with_testext!();
    let mut target = Target::new(&server, "pgpoke_handlers('own')", None, How::Cancel);
    for script in CLOSED {
        let pid = target.pid();
        let run = through_shell(
            script,
            &["interrupt", "--yes", "--cancel", "--grace", "1ms", &pid],
        );
        run.assert_code(0);
        target.assert_ended_well();
    }
    for (stdout, stderr) in [(true, false), (false, true), (true, true)] {
        let pid = target.pid();
        let status = with_broken_pipes(
            stdout,
            stderr,
            &["interrupt", "--yes", "--cancel", "--grace", "1ms", &pid],
        );
        assert_eq!(status.code(), Some(0), "{status}");
        target.assert_ended_well();
    }
    server.assert_unharmed();
}

const MANY: usize = 200;

#[test]
fn two_hundred_inspections_leave_a_computation_untouched() {
    let server = server_with_testext!();
    let witness = Witness::new(&server);
    for _ in 0..MANY {
        let run = Run::pgpoke(["inspect", "--json", &witness.pid()]);
        assert_sane_exit(&run);
        // Each of them has really run something in the backend.
        let handler = &run.json()["signals"]["SIGINT"]["handler"];
        assert!(handler.is_string(), "{run}");
    }
    witness.assert_computes_on();
    witness.assert_untouched();
}

/// What a process looks like from outside, as far as it stays the same while it is blocked.
fn portrait(backend: &Backend) -> Vec<String> {
    let mut portrait: Vec<String> = ["SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd", "Threads"]
        .iter()
        .map(|field| format!("{field} {:?}", backend.status(field)))
        .collect();
    let mut descriptors: Vec<String> = fs::read_dir(format!("/proc/{}/fd", backend.pid))
        .expect("its descriptors")
        .flatten()
        .map(|entry| {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            format!("{} {}", entry.file_name().display(), target.display())
        })
        .collect();
    descriptors.sort();
    portrait.append(&mut descriptors);
    let maps = fs::read_to_string(format!("/proc/{}/maps", backend.pid)).expect("its mappings");
    // The stack grows by itself.
    portrait.extend(
        maps.lines()
            .filter(|line| !line.ends_with("[stack]"))
            .map(str::to_owned),
    );
    portrait
}

/// A backend that is blocked in a system call is blocked in it again after each inspection.
fn many_inspections_of_a_blocked_backend(call: &str, syscalls: &[i64]) {
    let server = server_with_testext!();
    let stuck = server.stuck(&format!("SELECT {call}"));
    stuck.prove_stuck(How::Cancel);
    let blocked = |backend: &Backend| {
        backend.state() == Some('S') && backend.syscall().is_some_and(|n| syscalls.contains(&n))
    };
    stuck.wait_until("it shall be blocked", DEADLINE, blocked);
    let before = portrait(&stuck.backend());
    for _ in 0..MANY {
        let run = Run::pgpoke(["inspect", "--json", &stuck.pid().to_string()]);
        // Cancel is pending, and it is safe to process.
        run.assert_code(0);
        assert!(
            run.json()["signals"]["SIGUSR1"]["handler"].is_string(),
            "{run}"
        );
        stuck.backend().assert_running_untraced();
        stuck.wait_until("it shall be blocked again", DEADLINE, blocked);
    }
    assert_eq!(portrait(&stuck.backend()), before);
    stuck.prove_stuck(How::Cancel);
    Run::pgpoke(["interrupt", "--yes", &stuck.pid().to_string()]).assert_code(0);
    assert_ended(&server, &stuck, How::Cancel);
    server.assert_unharmed();
}

#[test]
fn two_hundred_inspections_of_a_backend_that_reads() {
    many_inspections_of_a_blocked_backend("pgpoke_read()", &[libc::SYS_read]);
}

#[test]
fn two_hundred_inspections_of_a_backend_that_sleeps() {
    many_inspections_of_a_blocked_backend(
        "pgpoke_sleep()",
        &[
            libc::SYS_nanosleep,
            libc::SYS_clock_nanosleep,
            libc::SYS_restart_syscall,
        ],
    );
}

#[test]
fn two_hundred_inspections_of_a_backend_that_waits_for_its_latch() {
    many_inspections_of_a_blocked_backend(
        "pgpoke_latch()",
        &[libc::SYS_epoll_wait, libc::SYS_epoll_pwait],
    );
}

#[test]
fn two_inspections_at_once() {
    let server = server_with_testext!();
    let witness = Witness::new(&server);
    let mut looked = 0;
    for _ in 0..40 {
        let runs = both(&["inspect", "--json", &witness.pid()]);
        for run in &runs {
            assert_sane_exit(run);
            let json = run.json();
            let stack = json["stack"].as_array();
            looked += usize::from(stack.is_some_and(|frames| frames.len() > 5));
        }
        witness.assert_computes_on();
    }
    // At least one of each pair gets to look.
    assert!(looked >= 40, "only {looked} of 80 saw a stack");
    witness.assert_untouched();
}

#[test]
fn two_interrupts_at_once() {
    let server = server_with_testext!();
    for end in [How::Cancel, How::Terminate] {
        let mut target = Target::new(&server, "pgpoke_spin()", Some(end), end);
        for _ in 0..10 {
            let pid = target.pid();
            let runs = both(&["interrupt", "--yes", "--json", &pid]);
            for run in &runs {
                assert_sane_exit(run);
                run.json();
            }
            assert!(
                runs.iter().any(|run| run.code() == Some(0)),
                "neither had its way:\n{}\n{}",
                runs[0],
                runs[1]
            );
            target.assert_ended_well();
        }
    }
    server.assert_unharmed();
}

fn both(args: &[&str]) -> [Run; 2] {
    thread::scope(|scope| {
        let other = scope.spawn(|| Run::pgpoke(args));
        let one = Run::pgpoke(args);
        [one, other.join().expect("the other run")]
    })
}

#[test]
fn a_backend_that_ends_while_it_is_looked_at() {
    let server = server_with_testext!();
    let sleeping = |backend: &Backend| backend.state() == Some('S') && backend.syscall().is_some();
    let mut moments = Moments(2);
    let mut time = None;
    let mut codes = [0; 9];
    for turn in 0..60 {
        let stuck = server.stuck_when("SELECT pg_sleep(3600)", sleeping);
        let pid = stuck.pid().to_string();
        let time = *time.get_or_insert_with(|| time_of_an_inspection(&pid));
        let args: &[&str] = match turn % 3 {
            0 => &["inspect", "--json"],
            1 => &["inspect", "--json", "--passive", "--samples", "3"],
            _ => &["interrupt", "--json", "--yes"],
        };
        let mut command = pgpoke();
        command.args(args).arg(&pid);
        let run = thread::spawn(move || Run::within(Duration::from_secs(20), command));
        moments.pass(time * 2);
        // SAFETY: kill takes any numbers; this PID is a backend's that nothing else ends.
        assert_eq!(unsafe { libc::kill(stuck.pid(), libc::SIGTERM) }, 0);
        let run = run.join().expect("a run that ended");
        assert_sane_exit(&run);
        assert_eq!(run.json()["pid"], stuck.pid(), "{run}");
        codes[run.code().unwrap_or_default() as usize] += 1;
        assert_ended(&server, &stuck, How::Terminate);
    }
    eprintln!("exit codes: {codes:?}");
    // Some were too early and some too late.
    assert!(
        codes[7] > 0 && codes.iter().sum::<i32>() > codes[7],
        "{codes:?}"
    );
    server.assert_unharmed();
}
