//! Cancels that were taken and have no effect all the same: the clean-up hangs, or something caught the error.

use crate::foreign::{server_with, stuck_in};
use crate::harness::{Backend, DEADLINE, How, Run, Server, wait_for};
use crate::report::Report;

/// What `pgpoke list --stuck` says of a process.
fn listed(pid: i32) -> Option<serde_json::Value> {
    let run = Run::pgpoke(["list", "--stuck", "--json"]);
    let all = run.assert_code(0).json();
    let mut backends = all["backends"].as_array()?.iter();
    backends.find(|b| b["pid"] == pid).cloned()
}

/// Stands still until this is dropped: a test that fails must not leave a server behind that cannot end.
struct Stopped(Backend);

impl Stopped {
    fn of(backend: Backend) -> Self {
        backend.send(libc::SIGSTOP);
        wait_for(DEADLINE, "it stands still", || {
            (backend.state() == Some('T')).then_some(())
        });
        Stopped(backend)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.send(libc::SIGCONT);
    }
}

/// A server that a foreign table's rows come from, which stands still when the statement is cancelled: postgres_fdw asks
/// it to cancel, too, and waits for that.
#[test]
fn a_clean_up_that_waits_for_a_peer_is_named_with_it() {
    let server = server_with!("postgres_fdw");
    // An address of this test's own, as the port is every server's.
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    let address = format!("127.77.{high}.{}", low.clamp(1, 254));
    let remote = Server::builder()
        .setting("listen_addresses", &address)
        .start();
    remote
        .connect()
        .batch_execute(
            "CREATE TABLE one AS SELECT 1 AS n;
             CREATE FUNCTION slow(n int) RETURNS int LANGUAGE plpgsql
                 AS 'BEGIN PERFORM pg_sleep(1000); RETURN n; END';
             CREATE VIEW slow AS SELECT slow(n) AS n FROM one",
        )
        .expect("a view");
    server
        .connect()
        .batch_execute(&format!(
            "CREATE SERVER remote FOREIGN DATA WRAPPER postgres_fdw
                 OPTIONS (host '{address}', port '5432', dbname 'postgres');
             CREATE USER MAPPING FOR PUBLIC SERVER remote OPTIONS (user 'postgres');
             CREATE FOREIGN TABLE slow (n int) SERVER remote"
        ))
        .expect("a foreign table");
    let stuck = server.stuck_when("SELECT * FROM slow", |_| true);
    let far = wait_for(DEADLINE, "the remote session sleeps", || {
        let sql = "SELECT pid FROM pg_stat_activity
                   WHERE application_name = 'postgres_fdw' AND wait_event = 'PgSleep'";
        remote.ask(|client| {
            client
                .query_opt(sql, &[])
                .expect("an answer")
                .map(|r| r.get(0))
        })
    });
    let far = Backend::open(far).expect("the remote session");
    assert!(listed(stuck.pid()).is_none(), "nobody has cancelled it");

    let stopped = [remote.postmaster(), far].map(Stopped::of);
    stuck.backend().send(libc::SIGINT);
    wait_for(DEADLINE, "it waits for an answer", || {
        (stuck.backend().syscall() == Some(libc::SYS_recvfrom)).then_some(())
    });
    let found = wait_for(DEADLINE, "it is listed", || listed(stuck.pid()));
    assert_eq!(found["cause"]["code"], "abort-hangs", "{found:#}");
    let report = Report::of(&["inspect"], stuck.pid());
    report
        .assert_verdict("pointless")
        .assert_at("/cause/code", "abort-hangs");
    let summary = report.text("/cause/summary").to_owned();
    assert!(summary.contains("PQcancel()"), "{}", report.run);
    let peer = format!("a socket to {address}:5432");
    for said in [&summary, &found["cause"]["summary"].to_string()] {
        assert!(said.contains("waits on") && said.contains(&peer), "{said}");
    }

    drop(stopped);
    stuck.assert_cancelled();
    assert!(listed(stuck.pid()).is_none());
    server.assert_unharmed();
    remote.assert_unharmed();
}

/// A loop around a short wait, with everything caught: each cancel is taken at once, and the loop goes on.
fn a_cancel_that_is_caught_is_told_and_a_terminate_works(
    server: &Server,
    language: &str,
    body: &str,
) {
    let in_its_wait = |b: &Backend| b.syscall() == Some(libc::SYS_epoll_wait);
    let stuck = stuck_in(server, language, body, in_its_wait);
    // The server's own cancel is of no use.
    stuck.prove_stuck(How::Cancel);
    let args = [
        "interrupt",
        "--cancel",
        "--yes",
        "--grace",
        "500ms",
        "--wait",
        "500ms",
    ];
    let report = Report::of(&args, stuck.pid());
    report
        .assert_at("/cause/code", "swallowed")
        .assert_advises(&format!("pgpoke interrupt --terminate {}", stuck.pid()));
    let evidence = report.at("/cause/evidence").to_string();
    assert!(
        evidence.contains("the same statement still runs"),
        "{evidence}"
    );
    assert!(stuck.backend().is_alive());

    Report::of(&["interrupt", "--terminate", "--yes"], stuck.pid())
        .assert_outcome("obeyed-signal", 0)
        .assert_at("/server_restarted", false);
    stuck.assert_terminated();
    server.assert_unharmed();
}

#[test]
fn a_cancel_that_python_catches() {
    let server = server_with!("plpython3u");
    let body = "while True:\n\
                \x20   try: plpy.execute('SELECT pg_sleep(0.2)')\n\
                \x20   except Exception: pass";
    a_cancel_that_is_caught_is_told_and_a_terminate_works(&server, "plpython3u", body);
}

#[test]
fn a_cancel_that_perl_catches() {
    let server = server_with!("plperlu");
    let body = "while (1) { eval { spi_exec_query('SELECT pg_sleep(0.2)') }; }";
    a_cancel_that_is_caught_is_told_and_a_terminate_works(&server, "plperlu", body);
}

#[test]
fn a_cancel_that_tcl_catches() {
    let server = server_with!("pltclu");
    let body = "while {1} { catch { spi_exec \"SELECT pg_sleep(0.2)\" } }";
    a_cancel_that_is_caught_is_told_and_a_terminate_works(&server, "pltclu", body);
}

#[test]
fn a_cancel_that_lua_catches() {
    let server = server_with!("plluau");
    let body = "while true do pcall(function() spi.execute('SELECT pg_sleep(0.2)') end) end";
    a_cancel_that_is_caught_is_told_and_a_terminate_works(&server, "plluau", body);
}
