//! `pgpoke inspect` on every way of getting stuck: what it says is what is the case, a script can
//! read it, and the backend does not notice.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use pgpoke::memory::Memory;
use pgpoke::postgres::{Postmaster, prove};
use pgpoke::process::{Mapping, Process};
use pgpoke::snapshot::Plan;
use pgpoke::target::Target;
use pgpoke::tracee::TraceError;
use postgres::NoTls;

use crate::harness::{
    Backend, DEADLINE, How, Run, Server, Stuck, is_root, pgpoke, server_with_testext, skip,
    wait_for,
};
use crate::matrix::{OWN, SPIN, UNKNOWN, assert_handlers, assert_stack};
use crate::refusals::children;
use crate::report::{Report, run_json};

/// What was left of a process that lives no more, as far as a look can tell.
#[derive(Debug)]
struct Remains(Process);

impl Target for Remains {
    fn pid(&self) -> i32 {
        self.0.pid()
    }

    fn inner_pid(&self) -> io::Result<i32> {
        self.0.inner_pid()
    }

    fn memory(&self) -> &dyn Memory {
        self.0.memory()
    }

    fn maps(&self) -> io::Result<Vec<Mapping>> {
        self.0.maps()
    }

    fn executable_path(&self) -> io::Result<PathBuf> {
        self.0.executable_path()
    }

    fn executable(&self) -> io::Result<File> {
        self.0.executable()
    }

    fn mapped_file(&self, mapping: &Mapping) -> io::Result<File> {
        self.0.open_mapped(mapping)
    }

    fn command_line(&self) -> io::Result<Vec<u8>> {
        self.0.command_line()
    }

    fn working_directory(&self) -> io::Result<PathBuf> {
        self.0.working_directory()
    }

    fn living(&self) -> Option<&Process> {
        None
    }
}

#[track_caller]
fn assert_flags(report: &Report, how: How, flagged: bool) {
    // A terminate comes after the cancel, whose flag stays.
    report
        .assert_flags(flagged, flagged && how == How::Terminate)
        .assert_at("/interrupts/proc_signal_barrier_pending", false);
}

/// It does what it did before, undisturbed, and so does everybody else.
fn is_unharmed(server: &Server, stuck: &Stuck) {
    stuck.prove_stuck(How::Terminate);
    stuck.backend().assert_running_untraced();
    server.assert_unharmed();
}

/// Those whose innermost frames are another's at every moment: either the stack says so, or the
/// interrupt would be safe there.
fn is_a_moving_target(server: &Server, call: &str, function: &str, when_calm: &str) {
    let stuck = server.stuck(&format!("SELECT {call}"));
    for how in How::BOTH {
        stuck.prove_stuck(how);
        for _ in 0..20 {
            let report = Report::of(&["inspect"], stuck.pid());
            if report.at("/verdict") == "unsafe" {
                report.assert_code(4);
                assert_ne!(report.check("allocator"), "pass", "{}", report.run);
            } else {
                report.assert_verdict(when_calm);
                assert_eq!(report.check("allocator"), "pass", "{}", report.run);
                assert_eq!(report.module_at_work(), "pgpoke_test.so", "{}", report.run);
            }
            // An allocator's frames need not be named, but what is below them is.
            report.assert_at("/stack_complete", true);
            let functions = report.functions_in("pgpoke_test.so");
            assert!(functions.contains(&function), "{}", report.run);
            let cause = report.text("/cause/code");
            assert_eq!(cause, "cpu-loop", "{}", report.run);
            assert!(
                report.text("/cause/summary").contains("pgpoke_test.so"),
                "{}",
                report.run
            );
        }
        stuck.backend().assert_running_untraced();
    }
    is_unharmed(server, &stuck);
}

macro_rules! moving_targets {
    ($($name:ident: $call:literal, $function:literal, $when_calm:literal;)+) => {
        mod an_allocator_at_work_is_seen_in {
            use super::*;
            $(
                #[test]
                fn $name() {
                    let server = server_with_testext!();
                    is_a_moving_target(&server, $call, $function, $when_calm);
                }
            )+
        }
    };
}

moving_targets! {
    malloc: "pgpoke_malloc()", "malloc_loop", "safe";
    malloc_beside_a_thread: "pgpoke_malloc_threads()", "malloc_loop", "risky";
    palloc: "pgpoke_palloc()", "pgpoke_palloc", "safe";
}

#[test]
fn a_second_thread_is_counted_and_warned_of() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_malloc_threads()");
    stuck.prove_stuck(How::Cancel);
    let report = Report::of(&["inspect"], stuck.pid());
    report.assert_at("/process/threads", 2);
    assert_eq!(report.check("threads"), "warn", "{}", report.run);
    is_unharmed(&server, &stuck);
}

#[test]
fn a_stack_of_thousands_of_frames_is_known_to_its_root() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_deep(5000)");
    stuck.prove_stuck(How::Cancel);
    let report = Report::of(&["inspect"], stuck.pid());
    report
        .assert_verdict("safe")
        .assert_all_checks_pass()
        .assert_stopped_for_a_moment();
    let mut expected = vec!["descend"; 5002];
    expected[0] = "spin";
    expected[5001] = "pgpoke_deep";
    assert_stack(&report, &expected);
    is_unharmed(&server, &stuck);
}

#[test]
fn a_copy_from_a_fifo_is_blocked_in_open() {
    let server = Server::start();
    let stuck = server.stuck_on_fifo();
    for how in How::BOTH {
        stuck.prove_stuck(how);
        let report = Report::of(&["inspect"], stuck.pid());
        report
            .assert_verdict("safe")
            .assert_verdict_if("safe", "safe")
            .assert_all_checks_pass()
            .assert_at("/cause/code", "blocked-syscall")
            .assert_at("/process/state", "S")
            .assert_at("/process/syscall", "openat")
            .assert_at("/stack_complete", true)
            .assert_stopped_for_a_moment();
        assert_handlers(&report, &OWN, &server);
        assert_flags(&report, how, true);
        let query = report.text("/backend/query");
        assert!(
            query.starts_with("COPY never_filled FROM "),
            "{}",
            report.run
        );
    }
    is_unharmed(&server, &stuck);
}

/// A session that waits for a command; and the same within a transaction.
#[test]
fn an_idle_backend_is_idle() {
    let server = Server::start();
    let mut config = server.config();
    let mut session = config.application_name("at rest").connect(NoTls).unwrap();
    let pid: i32 = session
        .query_one("SELECT pg_backend_pid()", &[])
        .unwrap()
        .get(0);
    let backend = Backend::open(pid).expect("the backend");
    for (sql, state) in [("", "idle"), ("BEGIN", "idle in transaction")] {
        session.batch_execute(sql).unwrap();
        wait_for(DEADLINE, "the backend shall wait for its client", || {
            (backend.syscall() == Some(libc::SYS_epoll_wait)).then_some(())
        });
        let report = Report::of(&["inspect"], pid);
        report
            .assert_verdict("pointless")
            .assert_verdict_if("pointless", "safe")
            .assert_at("/cause/code", "idle")
            .assert_at("/backend/state", state)
            .assert_at("/backend/application_name", "at rest")
            .assert_at("/process/state", "S")
            .assert_at("/stack_complete", true);
        assert_eq!(report.checks_that("fail"), ["pending"], "{}", report.run);
        assert_flags(&report, How::Cancel, false);
        assert_handlers(&report, &OWN, &server);
    }
    let alive: i32 = session.query_one("SELECT 1", &[]).unwrap().get(0);
    assert_eq!(alive, 1);
    backend.assert_running_untraced();
    server.assert_unharmed();
}

#[test]
fn a_backend_that_would_obey_is_responsive() {
    let server = Server::start();
    let sleeping = |backend: &Backend| backend.syscall() == Some(libc::SYS_epoll_wait);
    let well = server.stuck_when("SELECT pg_sleep(3600)", sleeping);
    let report = Report::of(&["inspect"], well.pid());
    report
        .assert_verdict("pointless")
        .assert_verdict_if("safe", "safe")
        .assert_at("/cause/code", "responsive")
        .assert_advises(&format!("pgpoke interrupt --cancel {}", well.pid()))
        .assert_advises(&format!("pgpoke interrupt --terminate {}", well.pid()));
    assert_eq!(report.checks_that("fail"), ["pending"], "{}", report.run);
    assert_flags(&report, How::Cancel, false);
    // It still sleeps, and still obeys.
    well.backend().assert_running_untraced();
    let cancel = "SELECT pg_cancel_backend($1)";
    server.connect().execute(cancel, &[&well.pid()]).unwrap();
    assert_eq!(well.result().unwrap_err().code(), "57014");
    assert!(well.run_follow_up("SELECT 1").is_ok());
    server.assert_unharmed();
}

/// Stuck, but nobody has asked it to stop.
#[test]
fn with_nothing_pending_it_says_what_a_cancel_or_terminate_would_meet() {
    let server = server_with_testext!();
    for (call, cancel, terminate) in [
        ("pgpoke_spin()", "safe", "safe"),
        ("pgpoke_crit()", "unsafe", "unsafe"),
        ("pgpoke_hold()", "pointless", "pointless"),
        ("pgpoke_stdio()", "unsafe", "unsafe"),
    ] {
        let stuck = server.stuck(&format!("SELECT {call}"));
        let report = Report::of(&["inspect"], stuck.pid());
        report
            .assert_verdict("pointless")
            .assert_verdict_if(cancel, terminate);
        assert_eq!(report.check("pending"), "fail", "{}", report.run);
        assert_flags(&report, How::Cancel, false);
        stuck.backend().assert_running_untraced();
        stuck.prove_stuck(How::Cancel);
    }
    server.assert_unharmed();
}

#[test]
fn passive_runs_nothing_in_the_backend_and_leaves_the_handlers_unknown() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    // It is done by sending SIGUSR1 to it, which strace shows; else the absence would prove nothing.
    let pid = stuck.pid().to_string();
    let (_, calls) = Run::pgpoke_traced(["inspect", &pid]);
    assert!(!calls.signals.is_empty() && !calls.ptrace.is_empty());
    let (run, calls) = Run::pgpoke_traced(["inspect", "--passive", "--json", &pid]);
    calls.assert_no_signal();
    let report = Report::read(run, stuck.pid());
    // testext has code that sets up an alternate stack, so that only a frame would tell which stack a handler runs on.
    report
        .assert_verdict("unsafe")
        .assert_verdict_if("unsafe", "unsafe")
        .assert_at("/cause/code", "cpu-loop")
        .assert_stopped_for_a_moment();
    assert_handlers(&report, &UNKNOWN, &server);
    assert_eq!(
        report.checks_that("unknown"),
        ["handlers", "signal-deliverable"],
        "{}",
        report.run
    );
    report.run.assert_says("pgpoke_test.so may set one up");
    assert_stack(&report, SPIN.functions);
    is_unharmed(&server, &stuck);
}

/// Where nothing that is loaded can set up an alternate stack, nobody has to be asked.
#[test]
fn passive_is_safe_where_no_code_could_have_moved_the_handler_to_another_stack() {
    let server = Server::start();
    let stuck = server.stuck_on_fifo();
    stuck.prove_stuck(How::Cancel);
    let report = Report::of(&["inspect", "--passive"], stuck.pid());
    report
        .assert_verdict("safe")
        .assert_verdict_if("safe", "safe");
    assert_handlers(&report, &UNKNOWN, &server);
    assert_eq!(
        report.checks_that("unknown"),
        ["handlers"],
        "{}",
        report.run
    );
}

/// Which stack the handler runs on was not asked, or has no room: neither is a pass, asked or not.
#[test]
fn a_handler_on_a_stack_that_is_too_small_is_never_safe() {
    let server = server_with_testext!();
    for kind in ["16kstack", "tightstack", "smallstack"] {
        let stuck = server.stuck(&format!("SELECT pgpoke_usr1('{kind}')"));
        stuck.prove_stuck(How::Cancel);
        for args in [&["inspect"][..], &["inspect", "--passive"]] {
            let report = Report::of(args, stuck.pid());
            report
                .assert_verdict("unsafe")
                .assert_verdict_if("unsafe", "unsafe");
        }
        let run = Run::pgpoke(["interrupt", "--yes", &stuck.pid().to_string()]);
        run.assert_code(4);
        is_unharmed(&server, &stuck);
    }
}

#[test]
fn samples_tell_how_busy_it_is() {
    let server = server_with_testext!();
    let busy = server.stuck("SELECT pgpoke_spin()");
    let asleep = server.stuck("SELECT pgpoke_read()");
    for stuck in [&busy, &asleep] {
        stuck.prove_stuck(How::Cancel);
    }
    let percent = |stuck: &Stuck| {
        let report = Report::of(&["inspect", "--samples", "5"], stuck.pid());
        report.assert_verdict("safe").assert_stopped_for_a_moment();
        let percent = report.at("/process/cpu_percent").as_f64();
        percent.unwrap_or_else(|| panic!("no cpu_percent:\n{}", report.run))
    };
    // A busy machine leaves it a share only.
    assert!((20.0..=100.0).contains(&percent(&busy)));
    assert!(percent(&asleep) < 10.0);
    for stuck in [&busy, &asleep] {
        is_unharmed(&server, stuck);
    }
}

/// What a person reads: the verdict first, and the stack in full only where it was asked for.
#[test]
fn the_text_says_the_verdict_first_and_the_whole_stack_on_demand() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_deep(50)");
    stuck.prove_stuck(How::Cancel);
    let pid = stuck.pid().to_string();
    let frames = Report::of(&["inspect"], stuck.pid()).frames().len();
    let lines_of_frames = |run: &Run| {
        run.stdout
            .lines()
            .filter(|l| l.trim_start().starts_with('#'))
            .count()
    };
    let short = Run::pgpoke(["inspect", &pid]);
    let whole = Run::pgpoke(["inspect", "--stack", "-p", &pid]);
    for run in [&short, &whole] {
        run.assert_code(0)
            .assert_says("cpu-loop")
            .assert_says("spin");
        assert!(run.stderr.is_empty(), "{run}");
        let first = run.stdout.lines().next().unwrap_or_default();
        assert!(
            first.starts_with("verdict") && first.contains("SAFE"),
            "{run}"
        );
        run.assert_says(&format!("pgpoke interrupt {pid}"));
    }
    let shown = lines_of_frames(&short);
    assert!(shown > 0 && shown < frames, "{short}");
    assert_eq!(lines_of_frames(&whole), frames, "{whole}");
    is_unharmed(&server, &stuck);
}

/// Static functions of the C library, one of which opens files, have names only where its debug symbols are installed.
#[test]
fn no_debug_symbols_of_the_c_library_are_needed() {
    if !is_root() {
        skip!("only root can hide the debug symbols");
    }
    let server = Server::start();
    let stuck = server.stuck_on_fifo();
    stuck.prove_stuck(How::Terminate);
    let without = |args: &[&str]| {
        let mut command = Command::new("unshare");
        let hide = "mkdir -p /usr/lib/debug && mount -t tmpfs none /usr/lib/debug && exec \"$@\"";
        command.args(["-m", "sh", "-c", hide, "sh"]);
        command.arg(pgpoke().get_program());
        command.args(args).arg(stuck.pid().to_string());
        Run::of(command)
    };
    let report = Report::read(without(&["inspect", "--json"]), stuck.pid());
    report
        .assert_verdict("safe")
        .assert_at("/cause/code", "blocked-syscall")
        .assert_all_checks_pass();
    let frames = report.frames();
    let opening = frames.iter().find(|f| f["function"] == "fopen");
    assert_eq!(
        opening.expect("a frame of fopen")["symbol_source"],
        "decoded"
    );
    without(&["interrupt", "--yes"]).assert_code(0);
    stuck.assert_terminated();
    server.assert_unharmed();
}

/// A worker may choose one of PostgreSQL's own handlers for itself: nothing was replaced.
#[test]
fn a_worker_with_a_handler_of_the_server_s_own() {
    let server = Server::builder()
        .setting("shared_preload_libraries", "pg_prewarm")
        .start();
    // It has no connection to a database, and so is not in pg_stat_activity.
    let leader = wait_for(DEADLINE, "the leader shall be there", || {
        let all = children(server.postmaster()).into_iter();
        let mut leaders = all.filter(|(title, _)| title.contains("autoprewarm"));
        leaders.next().map(|(_, process)| process)
    });
    let report = Report::of(&["inspect"], leader.pid);
    assert_ne!(report.text("/cause/code"), "handlers-replaced");
    report
        .assert_at("/backend/type", "background worker")
        .assert_at("/signals/SIGTERM/expected", true)
        .assert_at(
            "/signals/SIGTERM/function",
            "SignalHandlerForShutdownRequest",
        );
    server.assert_unharmed();
}

/// Whoever comes while another one looks has a look of their own, and is not told that the backend is traced.
#[test]
fn looks_of_two_do_not_keep_each_other_out() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    let pid = stuck.pid();
    let done = AtomicBool::new(false);
    let in_vain: Vec<String> = std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                run_json(&["inspect", "--samples", "100"], pid).json();
            }
        });
        let runs = (0..40).map(|_| run_json(&["inspect"], pid));
        let in_vain = runs.filter(|run| run.json().pointer("/stack/0").is_none());
        let in_vain = in_vain.map(|run| run.to_string()).collect();
        done.store(true, Ordering::Relaxed);
        other.join().expect("the other's looks");
        in_vain
    });
    assert!(
        in_vain.is_empty(),
        "{} of 40 without a stack:\n{}",
        in_vain.len(),
        in_vain[0]
    );
    is_unharmed(&server, &stuck);
}

/// Whoever looks at what is no living process any more learns the same of it as of a living one, and what only a living one
/// can tell stays unknown; nothing can be done to it.
#[test]
fn a_look_needs_no_living_process() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    let process = Process::open(stuck.pid()).expect("the backend");
    let remains = Remains(Process::open(stuck.pid()).expect("the backend"));
    let (living, left) = (
        prove(&process).expect("a backend"),
        prove(&remains).expect("what was left of a backend"),
    );
    assert_eq!(left.version, living.version);
    assert_eq!(left.backend_type, living.backend_type);
    assert_eq!(left.data_directory, living.data_directory);
    assert_eq!(left.subtransaction_end, living.subtransaction_end);
    assert!(matches!(living.postmaster, Postmaster::Running(_)));
    assert_eq!(left.postmaster, Postmaster::Gone);
    let (seen, guessed) = (Plan::new(&living), Plan::new(&left));
    assert_eq!(
        guessed.variables(left.memory).query_cancel_pending,
        seen.variables(living.memory).query_cancel_pending
    );
    assert_eq!(guessed.facts().state, None);
    assert_eq!(guessed.facts().libraries, seen.facts().libraries);
    assert!(matches!(guessed.living(), Err(TraceError::Gone(gone)) if gone.0 == stuck.pid()));
    is_unharmed(&server, &stuck);
}
