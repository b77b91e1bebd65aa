use std::io::{BufRead, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::{
    Backend, DEADLINE, Failure, How, Installation, Run, Server, as_other_user,
    as_user_without_ptrace, is_root, pgpoke, skip, wait_for,
};

#[test]
fn two_servers_at_once_are_two_servers() {
    let one = Server::start();
    let other = Server::builder()
        .installation(one.installation().clone())
        .setting("cluster_name", "it's another")
        .start();
    assert_ne!(one.postmaster(), other.postmaster());
    let name: String = other
        .connect()
        .query_one("SHOW cluster_name", &[])
        .unwrap()
        .get(0);
    assert_eq!(name, "it's another");
    one.assert_unharmed();
    other.assert_unharmed();
}

#[test]
fn a_server_dies_with_a_test_process_that_is_killed() {
    let mut tests = Command::new(std::env::current_exe().unwrap());
    tests.args([
        "--exact",
        "self_test::hold_a_server",
        "--ignored",
        "--nocapture",
    ]);
    let mut tests = tests.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(tests.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let line = lines
        .into_iter()
        .find_map(|line| Some(line.split_once("HELD: ")?.1.to_owned()))
        .expect("a server");
    let (pid, directory) = line.split_once(' ').unwrap();
    let postmaster = Backend::open(pid.parse().unwrap()).expect("a postmaster");
    assert!(postmaster.is_alive());
    tests.kill().unwrap();
    tests.wait().unwrap();
    wait_for(DEADLINE, "the orphaned server shall stop", || {
        (!postmaster.is_alive()).then_some(())
    });
    wait_for(DEADLINE, "its directory shall go", || {
        (!std::path::Path::new(directory).exists()).then_some(())
    });
}

/// The other half of the test above.
#[test]
#[ignore = "started, and killed, by a_server_dies_with_a_test_process_that_is_killed"]
fn hold_a_server() {
    let server = Server::start();
    println!(
        "HELD: {} {}",
        server.postmaster().pid,
        server.directory().display()
    );
    loop {
        std::thread::park();
    }
}

#[test]
fn a_crash_does_not_go_unnoticed() {
    let server = Server::start();
    server.expect_crash();
    let mut session = server.connect();
    let victim: i32 = session
        .query_one("SELECT pg_backend_pid()", &[])
        .unwrap()
        .get(0);
    // SAFETY: kill takes any numbers; this PID is a backend's that lives as long as its session,
    // which is open.
    assert_eq!(unsafe { libc::kill(victim, libc::SIGKILL) }, 0);
    wait_for(DEADLINE, "the log shall tell of the crash", || {
        server.signs_of_a_crash().first().cloned()
    });
    let unharmed = catch_unwind(AssertUnwindSafe(|| server.assert_unharmed()));
    assert!(unharmed.is_err(), "the crash went unnoticed");
}

#[test]
fn a_fifo_gets_a_backend_stuck_without_an_extension() {
    let server = Server::start();
    let stuck = server.stuck_on_fifo();
    stuck.prove_stuck(How::Cancel);
    stuck.prove_stuck(How::Terminate);
    stuck.backend().assert_running_untraced();
    server.assert_unharmed();
}

#[test]
fn a_statement_that_obeys_ends_and_its_session_goes_on() {
    let server = Server::start();
    let sleeping = |backend: &Backend| backend.state() == Some('S') && backend.syscall().is_some();
    let stuck = server.stuck_when("SELECT pg_sleep(3600)", sleeping);
    stuck.wait_until("the backend shall catch SIGINT", DEADLINE, |backend| {
        backend.is_caught(libc::SIGINT)
    });
    server
        .connect()
        .execute("SELECT pg_cancel_backend($1)", &[&stuck.pid()])
        .unwrap();
    let failure: Failure = stuck.result().unwrap_err();
    assert_eq!(failure.code(), "57014");
    assert_eq!(
        failure.to_string(),
        "57014: canceling statement due to user request"
    );
    assert_eq!(
        stuck.run_follow_up("SELECT 1, NULL").unwrap(),
        [[Some("1".to_owned()), None]]
    );
    server
        .connect()
        .execute("SELECT pg_terminate_backend($1)", &[&stuck.pid()])
        .unwrap();
    wait_for(DEADLINE, "the backend shall exit", || {
        (!stuck.backend().is_alive()).then_some(())
    });
    assert!(stuck.run_follow_up("SELECT 1").is_err());
}

#[test]
fn nothing_is_proved_stuck_that_obeys() {
    let server = Server::start();
    let sleeping = |backend: &Backend| backend.state() == Some('S') && backend.syscall().is_some();
    for how in [How::Cancel, How::Terminate] {
        let stuck = server.stuck_when("SELECT pg_sleep(3600)", sleeping);
        let proof = catch_unwind(AssertUnwindSafe(|| stuck.prove_stuck(how)));
        assert!(
            proof.is_err(),
            "proved stuck, though {} works",
            how.function()
        );
    }
    server.assert_unharmed();
}

/// A backend that is stuck in a function of testext stays so after a cancel and after a terminate.
fn testext_gets_a_backend_stuck(call: &str) {
    let installation = Installation::default();
    if installation.pg_config().is_none() {
        skip!("no headers for {}", installation.version());
    }
    let server = Server::builder().installation(installation).start();
    server.install_testext();
    let stuck = server.stuck(&format!("SELECT {call}"));
    stuck.prove_stuck(How::Cancel);
    stuck.prove_stuck(How::Terminate);
    stuck.backend().assert_running_untraced();
    server.assert_unharmed();
}

macro_rules! stuck {
    ($($name:ident: $call:literal,)+) => {
        mod stuck_in {
            $(
                #[test]
                fn $name() {
                    super::testext_gets_a_backend_stuck($call);
                }
            )+
        }
    };
}

stuck! {
    spin: "pgpoke_spin()",
    sleep: "pgpoke_sleep()",
    read: "pgpoke_read()",
    latch: "pgpoke_latch()",
    stdio: "pgpoke_stdio()",
    vfork: "pgpoke_vfork(3600)",
    handlers_ignored: "pgpoke_handlers('ignore')",
    handlers_replaced: "pgpoke_handlers('own')",
    signals_blocked: "pgpoke_blocked()",
    usr1_ignored: "pgpoke_usr1('ignore')",
    usr1_default: "pgpoke_usr1('default')",
    usr1_blocked: "pgpoke_usr1('block')",
    usr1_on_another_stack: "pgpoke_usr1('altstack')",
    usr1_on_a_tiny_stack: "pgpoke_usr1('smallstack')",
    signal_handler: "pgpoke_handler_loop()",
    held_off: "pgpoke_hold()",
    critical_section: "pgpoke_crit()",
    lwlock: "pgpoke_lwlock()",
    lwlock_held: "pgpoke_lwlock_hold('own', true)",
    error_being_handled: "pgpoke_catch()",
    spinlock: "pgpoke_spinlock()",
    swallowed_errors: "pgpoke_swallow()",
    malloc: "pgpoke_malloc()",
    malloc_beside_a_thread: "pgpoke_malloc_threads()",
    threads: "pgpoke_threads(8)",
    a_thread_in_vfork: "pgpoke_thread_in_vfork(3600)",
    palloc: "pgpoke_palloc()",
    callback_of_libc: "pgpoke_qsort()",
    deep_recursion: "pgpoke_deep(10000)",
}

/// The variants that change how signals arrive do so, and PostgreSQL's handler still runs where it
/// is said to.
#[test]
fn testext_changes_signals_as_it_says() {
    let installation = Installation::default();
    if installation.pg_config().is_none() {
        skip!("no headers for {}", installation.version());
    }
    let server = Server::builder().installation(installation).start();
    server.install_testext();
    let ignored = server.stuck("SELECT pgpoke_handlers('ignore')").backend();
    assert!(ignored.is_ignored(libc::SIGINT) && ignored.is_ignored(libc::SIGTERM));
    let blocked = server.stuck("SELECT pgpoke_blocked()").backend();
    assert!(blocked.is_blocked(libc::SIGINT) && blocked.is_blocked(libc::SIGTERM));
    for kind in ["altstack", "smallstack"] {
        let backend = server
            .stuck(&format!("SELECT pgpoke_usr1('{kind}')"))
            .backend();
        assert!(backend.is_caught(libc::SIGUSR1));
        for _ in 0..100 {
            // SAFETY: kill takes any numbers; this PID is a backend's that is stuck.
            assert_eq!(unsafe { libc::kill(backend.pid, libc::SIGUSR1) }, 0);
            wait_for(DEADLINE, "SIGUSR1 shall arrive", || {
                (!backend.is_pending(libc::SIGUSR1)).then_some(())
            });
        }
        backend.assert_running_untraced();
    }
    server.assert_unharmed();
}

#[test]
fn undisturbed_backends_measure_nothing_amiss() {
    let installation = Installation::default();
    if installation.pg_config().is_none() {
        skip!("no headers for {}", installation.version());
    }
    let server = Server::builder().installation(installation).start();
    server.install_testext();
    let mut session = server.connect();
    let verdict: String = session
        .query_one("SELECT pgpoke_checked(0.5)", &[])
        .unwrap()
        .get(0);
    assert!(verdict.starts_with("ok, "), "{verdict}");
    let gap: f64 = session
        .query_one("SELECT pgpoke_gap(0.5)", &[])
        .unwrap()
        .get(0);
    // Only waits count, not the processor's time that others got.
    assert!((0.0..1_000.0).contains(&gap), "{gap} µs");
}

#[test]
fn runs_are_bounded_and_wrappers_drop_what_they_say() {
    let sh = |script: &str| {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    };
    let run = Run::of(sh("echo '{\"one\": 1}'; echo 'a word' >&2; exit 3"));
    assert_eq!(run.assert_code(3).assert_says("a word").json()["one"], 1);
    assert_eq!(Run::of(sh("kill -9 $$")).signal(), Some(libc::SIGKILL));
    let endless = catch_unwind(|| Run::within(Duration::from_millis(50), sh("exec sleep 3600")));
    assert!(endless.is_err(), "a program was left running");
    Run::pgpoke(["--help"]).assert_code(0);
    if !is_root() {
        skip!("only root can be someone else");
    }
    Run::of(as_other_user(sh("id -un")))
        .assert_code(0)
        .assert_says("nobody");
    let mut help = pgpoke();
    help.arg("--help");
    Run::of(as_other_user(help)).assert_code(0);
    let bounding = |run: Run| {
        let line = run.assert_code(0).stdout.trim().to_owned();
        u64::from_str_radix(
            line.rsplit_once('\t')
                .expect("a line of /proc/self/status")
                .1,
            16,
        )
        .unwrap()
    };
    let capabilities = bounding(Run::of(as_user_without_ptrace(sh(
        "grep CapEff /proc/self/status",
    ))));
    const CAP_SYS_PTRACE: u64 = 19;
    assert_eq!(
        capabilities & (1 << CAP_SYS_PTRACE),
        0,
        "still allowed to trace"
    );
}
