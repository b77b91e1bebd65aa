//! PostgreSQL on musl, whose code has no call-frame information: what can be proved there is done, and the rest is refused
//! with its reason.

use crate::containers::{Container, Place, image};
use crate::harness::{
    How, Installation, Server, Stuck, built, is_root, server_with_testext, skip, wait_for,
};
use crate::report::{Report, module_of};
use crate::static_build;

/// Why a stack is refused that stands in musl.
const REASON: &str = "musl, the C library of this system, carries no call-frame information";

#[track_caller]
fn is_usable(stuck: &Stuck) {
    stuck.backend().assert_running_untraced();
    let pid = stuck.run_follow_up("SELECT pg_backend_pid()");
    assert_eq!(pid, Ok(vec![vec![Some(stuck.pid().to_string())]]));
    let failure = stuck.run_follow_up("SELECT 1 / 0").expect_err("an error");
    assert_eq!(failure.code(), "22012");
}

/// It stands under the same C library that it was linked with.
#[track_caller]
fn assert_on_musl(stuck: &Stuck) {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", stuck.pid())).expect("its maps");
    assert!(!maps.contains("libc.so.6"), "{maps}");
}

/// A stack in the server's and an extension's own code is known down to main().
#[test]
fn a_loop_is_safe_and_is_freed() {
    let server = server_with_testext!(Server::builder().installation(built!(Installation::musl())));
    for how in How::BOTH {
        for call in ["pgpoke_spin()", "pgpoke_deep(5000)"] {
            let stuck = server.stuck(&format!("SELECT {call}"));
            assert_on_musl(&stuck);
            stuck.prove_stuck(how);
            let report = Report::of(&["inspect"], stuck.pid());
            report.assert_verdict("safe");
            report.assert_at("/cause/code", "cpu-loop");
            report.assert_at("/stack_complete", true);
            report.assert_at("/signals/SIGINT/expected", true);
            let [.., main, start_up] = report.frames() else {
                panic!("{}", report.run);
            };
            assert_eq!(main["function"], "main", "{}", report.run);
            assert_eq!(start_up["found_by"], "cfi", "{}", report.run);
            let report = Report::of(&["interrupt", "--yes"], stuck.pid());
            match how {
                How::Cancel => {
                    report.assert_outcome("cancelled", 0);
                    stuck.assert_cancelled();
                    is_usable(&stuck);
                }
                How::Terminate => {
                    report.assert_outcome("terminated", 0);
                    stuck.assert_terminated();
                }
            }
            server.assert_unharmed();
        }
    }
}

/// Refused, with the reason, and as stuck as before.
#[track_caller]
fn is_refused(server: &Server, stuck: &Stuck, cause: &str) {
    for how in How::BOTH {
        stuck.prove_stuck(how);
        let report = Report::of(&["inspect"], stuck.pid());
        report.assert_verdict("unsafe");
        report.assert_at("/cause/code", cause);
        report.assert_at("/stack_complete", false);
        assert_eq!(report.check("unwind"), "fail");
        report.run.assert_says(REASON).assert_says("only a loop in");
        let report = Report::of(&["interrupt", "--wait", "1s", "--yes"], stuck.pid());
        report.assert_outcome("refused", 4);
        report.run.assert_says(REASON);
        stuck.backend().assert_running_untraced();
        stuck.prove_stuck(how);
    }
    server.assert_unharmed();
}

/// The cause is known by the kernel's word alone.
#[test]
fn a_blocked_call_is_refused_and_says_why() {
    let server = Server::builder()
        .installation(built!(Installation::musl()))
        .start();
    let stuck = server.stuck_on_fifo();
    is_refused(&server, &stuck, "blocked-syscall");
    let report = Report::of(&["inspect"], stuck.pid());
    report.run.assert_says("is blocked in open() of the FIFO");
}

#[test]
fn sleeping_in_an_extension_is_refused_and_says_why() {
    let server = server_with_testext!(Server::builder().installation(built!(Installation::musl())));
    let stuck = server.stuck("SELECT pgpoke_sleep()");
    is_refused(&server, &stuck, "blocked-syscall");
}

#[test]
fn a_latch_loop_is_refused_and_says_why() {
    let server = server_with_testext!(Server::builder().installation(built!(Installation::musl())));
    let stuck = server.stuck("SELECT pgpoke_latch()");
    is_refused(&server, &stuck, "blocked-syscall");
}

/// A loop in an extension's own code, and below it musl's: its caller, and the code that a signal interrupted.
#[test]
fn a_loop_that_musl_called_is_refused_and_says_why() {
    let server = server_with_testext!(Server::builder().installation(built!(Installation::musl())));
    for call in ["pgpoke_qsort()", "pgpoke_handler_loop()"] {
        let stuck = server.stuck(&format!("SELECT {call}"));
        is_refused(&server, &stuck, "cpu-loop");
    }
}

/// Wherever it is met: in malloc it is refused, and where it is freed, then at an instruction of its own.
#[test]
fn a_loop_around_malloc_is_never_jumped_out_of_inside_musl() {
    let server = server_with_testext!(Server::builder().installation(built!(Installation::musl())));
    let stuck = server.stuck("SELECT pgpoke_malloc()");
    stuck.prove_stuck(How::Cancel);
    let mut inside = 0;
    for _ in 0..50 {
        let report = Report::of(&["inspect"], stuck.pid());
        if module_of(&report.frames()[0]).ends_with("libc.so") {
            report.assert_verdict("unsafe");
            inside += 1;
        }
    }
    assert!(inside > 0, "it was never met inside musl");
    let report = Report::of(&["interrupt", "--wait", "5s", "--yes"], stuck.pid());
    match report.at("/outcome").as_str() {
        Some("cancelled") => {
            stuck.assert_cancelled();
            is_usable(&stuck);
        }
        _ => {
            report.assert_outcome("refused", 4);
            report.run.assert_says(REASON);
            stuck.prove_stuck(How::Cancel);
        }
    }
    server.assert_unharmed();
}

#[test]
fn an_idle_backend_is_idle() {
    let server = Server::builder()
        .installation(built!(Installation::musl()))
        .start();
    let mut client = server.connect();
    let pid: i32 = client
        .query_one("SELECT pg_backend_pid()", &[])
        .expect("its PID")
        .get(0);
    wait_for(crate::harness::DEADLINE, "it shall be idle", || {
        let report = Report::of(&["inspect"], pid);
        (report.at("/cause/code") == "idle").then_some(())
    });
    let report = Report::of(&["inspect"], pid);
    report
        .assert_verdict("pointless")
        .assert_at("/cause/code", "idle");
    client.batch_execute("SELECT 1").expect("a well session");
    server.assert_unharmed();
}

/// As the entrypoint of Alpine's image does it.
const START: &str = r#"
set -e
for dir in /run/postgresql /var/log/postgresql /var/lib/postgresql; do
    mkdir -p $dir
    chown postgres:postgres $dir
done
cat >/tmp/start <<'EOF'
set -e
cd /var/lib/postgresql
initdb -A trust -U postgres -E UTF8 --locale=C --no-sync -D data
printf "%s\n" 'fsync = off' 'autovacuum = off' "unix_socket_directories = '/run/postgresql'" >>data/postgresql.conf
postgres -D data >/var/log/postgresql/server.log 2>&1 &
EOF
mkfifo -m 666 /tmp/fifo
su postgres -c 'sh /tmp/start' >/dev/null
exec sleep 900
"#;

/// A root file system as small as Alpine's, and one file copied into it.
#[test]
fn a_loop_in_a_container_is_freed_from_inside_and_from_the_host() {
    if !is_root() {
        skip!("only root runs containers here");
    }
    let musl = built!(Installation::musl());
    let Some(image) = image("musl") else {
        skip!("no image with musl: run scripts/build-containers.sh");
    };
    let Some(program) = static_build::executable() else {
        skip!("there is no static executable: run `make static`");
    };
    let program = program.to_str().expect("a path");
    let library = format!(
        "{}:/usr/local/lib/pgpoke_test.so:ro",
        musl.testext().display()
    );
    let container = Container::start_by(START, &image, program, &["-v", &library]);
    container.ask(
        "CREATE FUNCTION pgpoke_spin() RETURNS void LANGUAGE c AS '/usr/local/lib/pgpoke_test'",
    );
    for place in [Place::Inside, Place::Host] {
        for (how, outcome, said) in [
            (
                How::Cancel,
                "cancelled",
                "canceling statement due to user request",
            ),
            (How::Terminate, "terminated", "terminating connection"),
        ] {
            let mut session = container.session("SELECT pgpoke_spin()");
            session.prove_stuck(how.function(), how.signal());
            let seen = place.run(&session, &["inspect"]);
            let json = seen.assert_code(0).json();
            assert_eq!(json["verdict"], "safe", "{place:?} {seen}");
            assert_eq!(json["cause"]["code"], "cpu-loop", "{place:?} {seen}");
            assert_eq!(json["stack_complete"], true, "{place:?} {seen}");
            session.backend.assert_running_untraced();
            let run = place.run(&session, &["interrupt", "--yes"]);
            assert_eq!(
                run.assert_code(0).json()["outcome"],
                outcome,
                "{place:?} {run}"
            );
            let words = session.said();
            assert!(words.contains(said), "{place:?} {words}");
            container.assert_unharmed();
        }
        let session = container.stuck();
        session.prove_stuck("pg_cancel_backend", libc::SIGINT);
        for args in [&["inspect"][..], &["interrupt", "--wait", "1s", "--yes"]] {
            let run = place.run(&session, args);
            run.assert_code(4).assert_says(REASON);
            run.assert_says("ld-musl-x86_64.so.1");
            assert_eq!(run.json()["cause"]["code"], "blocked-syscall", "{run}");
        }
        session.backend.assert_running_untraced();
        session.prove_stuck("pg_cancel_backend", libc::SIGINT);
        container.assert_unharmed();
    }
}
