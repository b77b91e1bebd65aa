//! `pgpoke inspect` on every way of getting stuck: what it says is what is the case, a script can
//! read it, and the backend does not notice.

use std::path::Path;

use postgres::NoTls;
use serde_json::{Value, json};

use crate::harness::{Backend, DEADLINE, How, Installation, Run, Server, Stuck, skip, wait_for};
use crate::report::{Report, function_of};

/// What a signal does in the backend, as `signals.SIG….function` has it, and whether that is what
/// PostgreSQL installs.
#[derive(Clone, Copy)]
enum Handler {
    /// PostgreSQL's own.
    Postgres(&'static str),
    /// One of the extension's.
    Extension(&'static str),
    /// None: the signal is ignored.
    Ignored,
    /// Could not be asked for.
    Unknown,
}

/// What it does all the time.
#[derive(Clone, Copy)]
enum Doing {
    Computes,
    /// Sleeps in this system call.
    SleepsIn(&'static str),
    /// Now this, now that.
    Varies,
}

/// A way of getting stuck, and what has to be said of it once somebody tried to end it.
#[derive(Clone, Copy)]
struct Scenario {
    call: &'static str,
    /// The functions of the extension on the stack, innermost first.
    functions: &'static [&'static str],
    cause: &'static str,
    /// The verdict for what is pending.
    verdict: &'static str,
    /// The verdict had it been asked for; the same for a cancel and a terminate.
    verdict_if: &'static str,
    /// The checks that fail, sorted; in a safe state all others pass.
    failing: &'static [&'static str],
    /// Whether the signals set PostgreSQL's flags.
    flagged: bool,
    doing: Doing,
    /// Of SIGINT, SIGTERM and SIGUSR1.
    handlers: [Handler; 3],
    /// What else is said: JSON pointers and values, as JSON.
    facts: &'static [(&'static str, &'static str)],
}

/// Nothing is held, and nothing holds the interrupts off.
const FREE: &[(&str, &str)] = &[
    ("/interrupts/interrupt_holdoff_count", "0"),
    ("/interrupts/query_cancel_holdoff_count", "0"),
    ("/interrupts/crit_section_count", "0"),
    ("/locks/lwlocks_held", "0"),
    ("/locks/waiting_for", "null"),
    ("/locks/spinlock", "\"none\""),
];

const OWN: [Handler; 3] = [
    Handler::Postgres("StatementCancelHandler"),
    Handler::Postgres("die"),
    Handler::Postgres("procsignal_sigusr1_handler"),
];

const UNKNOWN: [Handler; 3] = [Handler::Unknown; 3];

/// A tight loop in which an interrupt is safe; most scenarios differ from it in a point or two.
const SPIN: Scenario = Scenario {
    call: "pgpoke_spin()",
    functions: &["spin", "pgpoke_spin"],
    cause: "cpu-loop",
    verdict: "safe",
    verdict_if: "safe",
    failing: &[],
    flagged: true,
    doing: Doing::Computes,
    handlers: OWN,
    facts: FREE,
};

/// A system call that is gone back to whenever a signal has woken it.
const fn blocked_in(
    call: &'static str,
    functions: &'static [&'static str],
    syscall: &'static str,
) -> Scenario {
    Scenario {
        call,
        functions,
        cause: "blocked-syscall",
        doing: Doing::SleepsIn(syscall),
        ..SPIN
    }
}

/// One in which an interrupt is not safe.
const fn not_safe(
    call: &'static str,
    functions: &'static [&'static str],
    verdict: &'static str,
    cause: &'static str,
    failing: &'static [&'static str],
) -> Scenario {
    Scenario {
        call,
        functions,
        cause,
        verdict,
        verdict_if: verdict,
        failing,
        ..SPIN
    }
}

/// The signals do not reach the flags, and so nothing is pending; had it been asked for, it would
/// be safe.
const fn unflagged(
    call: &'static str,
    functions: &'static [&'static str],
    cause: &'static str,
    handlers: [Handler; 3],
) -> Scenario {
    Scenario {
        call,
        functions,
        cause,
        verdict: "pointless",
        failing: &["pending"],
        flagged: false,
        handlers,
        ..SPIN
    }
}

/// SIGUSR1 cannot be borrowed.
const fn no_carrier(call: &'static str, handlers: [Handler; 3]) -> Scenario {
    Scenario {
        handlers,
        ..not_safe(
            call,
            &["spin", "pgpoke_usr1"],
            "unsafe",
            "cpu-loop",
            &["signal-deliverable"],
        )
    }
}

const fn usr1(handler: &'static str) -> [Handler; 3] {
    [OWN[0], OWN[1], Handler::Extension(handler)]
}

const fn int_and_term(handler: Handler) -> [Handler; 3] {
    [handler, handler, OWN[2]]
}

macro_rules! scenarios {
    ($($name:ident: $scenario:expr,)+) => {
        mod a_backend_stuck_in {
            use super::*;
            $(
                #[test]
                fn $name() {
                    let Some(server) = server_with_testext() else {
                        skip!("no headers to build testext with");
                    };
                    is_seen_as_it_is(&server, &$scenario);
                }
            )+
        }
    };
}

scenarios! {
    spin: SPIN,
    sleep: blocked_in("pgpoke_sleep()", &["pgpoke_sleep"], "clock_nanosleep"),
    read: blocked_in("pgpoke_read()", &["pgpoke_read"], "read"),
    latch: Scenario {
        cause: "latch-loop",
        ..blocked_in("pgpoke_latch()", &["pgpoke_latch"], "epoll_wait")
    },
    handlers_ignored: unflagged(
        "pgpoke_handlers('ignore')",
        &["spin", "pgpoke_handlers"],
        "handlers-replaced",
        int_and_term(Handler::Ignored),
    ),
    handlers_replaced: unflagged(
        "pgpoke_handlers('own')",
        &["spin", "pgpoke_handlers"],
        "handlers-replaced",
        int_and_term(Handler::Extension("count_signal")),
    ),
    signals_blocked: Scenario {
        facts: &[("/signals/blocked", r#"["SIGINT", "SIGTERM", "SIGURG"]"#)],
        ..unflagged(
            "pgpoke_blocked()",
            &["spin", "pgpoke_blocked"],
            "signals-blocked",
            OWN,
        )
    },
    usr1_ignored: no_carrier("pgpoke_usr1('ignore')", UNKNOWN),
    usr1_blocked: no_carrier("pgpoke_usr1('block')", UNKNOWN),
    usr1_on_a_small_stack: no_carrier("pgpoke_usr1('smallstack')", usr1("chain_usr1")),
    usr1_on_another_stack: Scenario {
        call: "pgpoke_usr1('altstack')",
        functions: &["spin", "pgpoke_usr1"],
        handlers: usr1("chain_usr1"),
        ..SPIN
    },
    held_off: Scenario {
        // What holds interrupts off is no LWLock.
        facts: &[
            ("/interrupts/interrupt_holdoff_count", "1"),
            ("/interrupts/crit_section_count", "0"),
            ("/locks/lwlocks_held", "0"),
        ],
        ..not_safe(
            "pgpoke_hold()",
            &["spin", "pgpoke_hold"],
            "pointless",
            "interrupts-held-off",
            &["held-off"],
        )
    },
    critical_section: Scenario {
        facts: &[
            ("/interrupts/interrupt_holdoff_count", "0"),
            ("/interrupts/crit_section_count", "1"),
        ],
        ..not_safe(
            "pgpoke_crit()",
            &["spin", "pgpoke_crit"],
            "unsafe",
            "critical-section",
            &["critical-section"],
        )
    },
    lwlock: Scenario {
        doing: Doing::SleepsIn("futex"),
        facts: &[
            ("/locks/lwlocks_held", "1"),
            ("/locks/waiting_for/tranche", "\"AddinShmemInit\""),
            ("/locks/waiting_for/mode", "\"exclusive\""),
        ],
        ..not_safe(
            "pgpoke_lwlock()",
            &["pgpoke_lwlock"],
            "pointless",
            "lwlock-self-deadlock",
            &["held-off", "lwlock-held", "lwlock-wait"],
        )
    },
    // The handler jumps to spin() and leaves no frame of its own.
    signal_handler: not_safe(
        "pgpoke_handler_loop()",
        &["spin", "pgpoke_handler_loop"],
        "unsafe",
        "cpu-loop",
        &["signal-handler"],
    ),
    swallowed_errors: Scenario {
        call: "pgpoke_swallow()",
        functions: &["spin", "pgpoke_swallow"],
        ..SPIN
    },
    callback_of_libc: Scenario {
        call: "pgpoke_qsort()",
        functions: &["spin", "endless_comparator", "pgpoke_qsort"],
        ..SPIN
    },
    spinlock: Scenario {
        facts: &[("/locks/spinlock", "\"waiting\"")],
        // Tries, and sleeps for a millisecond or more.
        doing: Doing::Varies,
        ..not_safe(
            "pgpoke_spinlock()",
            &["pgpoke_spinlock"],
            "unsafe",
            "spinlock-wait",
            &["spinlock"],
        )
    },
    stdio: Scenario {
        doing: Doing::SleepsIn("read"),
        ..not_safe(
            "pgpoke_stdio()",
            &["pgpoke_stdio"],
            "unsafe",
            "blocked-syscall",
            &["stdio-lock"],
        )
    },
}

fn server_with_testext() -> Option<Server> {
    let installation = Installation::default();
    installation.pg_config()?;
    let server = Server::builder().installation(installation).start();
    server.install_testext();
    Some(server)
}

fn is_seen_as_it_is(server: &Server, scenario: &Scenario) {
    let sql = format!("SELECT {}", scenario.call);
    let stuck = server.stuck(&sql);
    for how in [How::Cancel, How::Terminate] {
        stuck.prove_stuck(how);
        let report = Report::of(&["inspect"], stuck.pid());
        stuck.backend().assert_running_untraced();

        report
            .assert_verdict(scenario.verdict)
            .assert_verdict_if(scenario.verdict_if, scenario.verdict_if)
            .assert_at("/cause/code", scenario.cause)
            .assert_stopped_for_a_moment();
        assert_eq!(
            report.checks_that("fail"),
            scenario.failing,
            "{}",
            report.run
        );
        if scenario.verdict == "safe" {
            report.assert_all_checks_pass();
        }
        assert_stack(&report, scenario.functions);
        assert_handlers(&report, &scenario.handlers, server);
        assert_backend(&report, server, &sql);
        assert_flags(&report, how, scenario.flagged);
        report
            .assert_at("/process/threads", 1)
            .assert_at("/process/cpu_percent", Value::Null);
        match scenario.doing {
            Doing::Computes => report
                .assert_at("/process/state", "R")
                .assert_at("/process/syscall", Value::Null),
            Doing::SleepsIn(name) => report
                .assert_at("/process/state", "S")
                .assert_at("/process/syscall", name),
            Doing::Varies => &report,
        };
        let waiting: &[&str] = match (scenario.cause, how) {
            ("signals-blocked", How::Cancel) => &["SIGINT"],
            ("signals-blocked", How::Terminate) => &["SIGINT", "SIGTERM"],
            _ => &[],
        };
        report.assert_at("/signals/pending", json!(waiting));
        for (pointer, value) in scenario.facts {
            let value: Value = serde_json::from_str(value).expect("JSON in the table");
            report.assert_at(pointer, value);
        }
    }
    is_unharmed(server, &stuck);
}

/// It does what it did before, undisturbed, and so does everybody else.
fn is_unharmed(server: &Server, stuck: &Stuck) {
    stuck.prove_stuck(How::Terminate);
    stuck.backend().assert_running_untraced();
    server.assert_unharmed();
}

/// The whole stack is known, and the extension's functions are on it, called by PostgreSQL.
#[track_caller]
fn assert_stack(report: &Report, functions: &[&str]) {
    report.assert_at("/stack_complete", true);
    assert_eq!(
        report.functions_in("pgpoke_test.so"),
        functions,
        "{}",
        report.run
    );
    let all: Vec<_> = report.frames().iter().map(function_of).collect();
    let position = |name: &str| {
        all.iter()
            .position(|f| *f == name)
            .unwrap_or_else(|| panic!("{name} is not on the stack:\n{}", report.run))
    };
    let last = functions.last().map(|f| position(f)).unwrap_or_default();
    assert!(last < position("PostgresMain"), "{}", report.run);
    assert!(
        position("PostgresMain") < position("PostmasterMain"),
        "{}",
        report.run
    );
    for frame in report.frames() {
        assert_ne!(frame["found_by"], "frame-pointer", "{}", report.run);
    }
}

#[track_caller]
fn assert_handlers(report: &Report, handlers: &[Handler; 3], server: &Server) {
    let postgres = server.installation().program("postgres");
    let postgres = postgres.canonicalize().expect("the server's executable");
    let known = handlers.iter().all(|h| !matches!(h, Handler::Unknown));
    assert_eq!(
        report.check("handlers"),
        if known { "pass" } else { "unknown" },
        "{}",
        report.run
    );
    for (signal, handler) in ["SIGINT", "SIGTERM", "SIGUSR1"].into_iter().zip(handlers) {
        let field = |name: &str| report.at(&format!("/signals/{signal}/{name}"));
        let path = field("module").as_str().map(Path::new);
        match handler {
            Handler::Postgres(function) => {
                assert_eq!(field("function"), function, "{}", report.run);
                assert_eq!(path, Some(postgres.as_path()), "{}", report.run);
                assert_eq!(field("expected"), true, "{}", report.run);
            }
            Handler::Extension(function) => {
                assert_eq!(field("function"), function, "{}", report.run);
                assert!(
                    path.is_some_and(|p| p.ends_with("pgpoke_test.so")),
                    "{}",
                    report.run
                );
                assert_eq!(field("expected"), false, "{}", report.run);
            }
            Handler::Ignored => {
                assert_eq!(field("handler"), "0x1", "{}", report.run);
                assert_eq!(field("function"), "ignored", "{}", report.run);
                assert_eq!(path, None, "{}", report.run);
                assert_eq!(field("expected"), false, "{}", report.run);
            }
            Handler::Unknown => {
                for name in ["handler", "module", "function", "expected"] {
                    assert_eq!(
                        field(name),
                        &Value::Null,
                        "{signal} {name}:\n{}",
                        report.run
                    );
                }
            }
        }
    }
}

#[track_caller]
fn assert_backend(report: &Report, server: &Server, query: &str) {
    let data = server.data_directory();
    let data = data.canonicalize().expect("the data directory");
    let version: String = server
        .connect()
        .query_one("SHOW server_version", &[])
        .expect("the version")
        .get(0);
    report
        .assert_at("/backend/type", "client backend")
        .assert_at("/backend/user", "postgres")
        .assert_at("/backend/database", "postgres")
        .assert_at("/backend/client", "[local]")
        .assert_at("/backend/application_name", "stuck on purpose")
        .assert_at("/backend/state", "active")
        .assert_at("/backend/query", query)
        .assert_at(
            "/backend/data_directory",
            data.to_str().expect("a path in /tmp"),
        )
        .assert_at("/backend/postmaster_pid", server.postmaster().pid)
        .assert_at("/backend/server_version", version)
        .assert_at("/backend/container", Value::Null)
        .assert_at("/backend/pid_in_container", Value::Null);
}

#[track_caller]
fn assert_flags(report: &Report, how: How, flagged: bool) {
    // A terminate comes after the cancel, whose flag stays.
    let terminated = how == How::Terminate;
    report
        .assert_at("/interrupts/interrupt_pending", flagged)
        .assert_at("/interrupts/query_cancel_pending", flagged)
        .assert_at("/interrupts/proc_die_pending", flagged && terminated)
        .assert_at("/interrupts/proc_signal_barrier_pending", false);
}

/// Those whose innermost frames are another's at every moment: either the stack says so, or the
/// interrupt would be safe there.
fn is_a_moving_target(server: &Server, call: &str, function: &str, when_calm: &str) {
    let stuck = server.stuck(&format!("SELECT {call}"));
    for how in [How::Cancel, How::Terminate] {
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
                    let Some(server) = server_with_testext() else {
                        skip!("no headers to build testext with");
                    };
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
    let Some(server) = server_with_testext() else {
        skip!("no headers to build testext with");
    };
    let stuck = server.stuck("SELECT pgpoke_malloc_threads()");
    stuck.prove_stuck(How::Cancel);
    let report = Report::of(&["inspect"], stuck.pid());
    report.assert_at("/process/threads", 2);
    assert_eq!(report.check("threads"), "warn", "{}", report.run);
    is_unharmed(&server, &stuck);
}

#[test]
fn a_stack_of_thousands_of_frames_is_known_to_its_root() {
    let Some(server) = server_with_testext() else {
        skip!("no headers to build testext with");
    };
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
    for how in [How::Cancel, How::Terminate] {
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
    let Some(server) = server_with_testext() else {
        skip!("no headers to build testext with");
    };
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
    let Some(server) = server_with_testext() else {
        skip!("no headers to build testext with");
    };
    let stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    // It is done by sending SIGUSR1 to it, which strace shows; else the absence would prove nothing.
    let pid = stuck.pid().to_string();
    let (_, calls) = Run::pgpoke_traced(["inspect", &pid]);
    assert!(!calls.signals.is_empty() && !calls.ptrace.is_empty());
    let (run, calls) = Run::pgpoke_traced(["inspect", "--passive", "--json", &pid]);
    calls.assert_no_signal();
    let report = Report::read(run, stuck.pid());
    report
        .assert_verdict("safe")
        .assert_verdict_if("safe", "safe")
        .assert_at("/cause/code", "cpu-loop")
        .assert_stopped_for_a_moment();
    assert_handlers(&report, &UNKNOWN, &server);
    assert_eq!(
        report.checks_that("unknown"),
        ["handlers"],
        "{}",
        report.run
    );
    assert_stack(&report, SPIN.functions);

    // That these are missing changes no verdict.
    let own = server.stuck("SELECT pgpoke_handlers('own')");
    own.prove_stuck(How::Terminate);
    let report = Report::of(&["inspect", "--passive"], own.pid());
    report
        .assert_verdict("pointless")
        .assert_verdict_if("safe", "safe");
    assert_handlers(&report, &UNKNOWN, &server);
    is_unharmed(&server, &stuck);
}

#[test]
fn samples_tell_how_busy_it_is() {
    let Some(server) = server_with_testext() else {
        skip!("no headers to build testext with");
    };
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
    let Some(server) = server_with_testext() else {
        skip!("no headers to build testext with");
    };
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
