//! PostGIS, whose handler of SIGINT passes the signal on, and the libraries below runtimes and extensions.

use crate::foreign::{server_with, server_with_extension, stuck_in};
use crate::harness::{Backend, DEADLINE, How, Run, Server, server_with_testext, skip, wait_for};
use crate::report::{Report, function_of};

/// What leaves PostGIS's handler in a session.
const USED: &str = "SELECT st_area(st_makepoint(1, 1))";

fn computes(backend: &Backend) -> bool {
    backend.state() == Some('R') && backend.cpu_ticks() > 30
}

fn assert_strange(report: &Report) {
    let module = report.text("/signals/SIGINT/module");
    assert!(module.ends_with("/postgis-3.so"), "{}", report.run);
}

/// Whether PostGIS was used before makes no difference to the cause.
#[test]
fn a_handler_that_passes_the_signal_on_is_no_cause() {
    let server = server_with_testext!();
    let mut admin = server.connect();
    if admin.batch_execute("CREATE EXTENSION postgis").is_err() {
        skip!("no postgis here");
    }
    admin
        .batch_execute("CREATE TABLE locked ()")
        .expect("a table");
    let mut idle = server.connect();
    idle.query(USED, &[]).expect("PostGIS");
    let pid: i32 = idle
        .query_one("SELECT pg_backend_pid()", &[])
        .unwrap()
        .get(0);
    let report = Report::of(&["inspect"], pid);
    report.assert_at("/cause/code", "idle");
    assert_strange(&report);

    // Within one statement each, so that the session is one that has used it.
    let after = |then: &str| format!("{USED}; {then}");
    let sleeping = server.stuck_when(&after("SELECT pg_sleep(1000)"), |b| {
        b.syscall() == Some(libc::SYS_epoll_wait)
    });
    let report = Report::of(&["inspect"], sleeping.pid());
    report.assert_at("/cause/code", "responsive");
    assert_strange(&report);
    assert!(
        !report.text("/cause/summary").contains("not PostgreSQL's"),
        "{}",
        report.run
    );
    let pid = sleeping.pid().to_string();
    Run::pgpoke(["interrupt", "--yes", "--cancel", &pid]).assert_code(0);

    let mut holder = server.connect();
    holder
        .batch_execute("BEGIN; LOCK TABLE locked")
        .expect("a lock");
    let holder_pid: i32 = holder
        .query_one("SELECT pg_backend_pid()", &[])
        .unwrap()
        .get(0);
    let waiting = server.stuck_when(&after("LOCK TABLE locked"), |b| {
        b.syscall() == Some(libc::SYS_epoll_wait)
    });
    let report = Report::of(&["inspect"], waiting.pid());
    report.assert_at("/cause/code", "heavyweight-lock-wait");
    assert_strange(&report);
    assert!(
        report
            .text("/cause/summary")
            .contains(&holder_pid.to_string()),
        "{}",
        report.run
    );

    let looping = server.stuck_when(&after("SELECT pgpoke_spin()"), computes);
    looping.prove_stuck(How::Cancel);
    let report = Report::of(&["inspect"], looping.pid());
    report
        .assert_at("/cause/code", "cpu-loop")
        .assert_verdict("safe");
    assert_strange(&report);
    let pid = looping.pid().to_string();
    Run::pgpoke(["interrupt", "--yes", &pid]).assert_code(0);
    server.assert_unharmed();
}

/// GEOS, told to terminate, comes back by the SIGINT that PostGIS passes on to it.
#[test]
fn geos_heeds_the_signal_that_is_advised() {
    let server = Server::builder().setting("jit", "off").start();
    if server
        .connect()
        .batch_execute("CREATE EXTENSION postgis")
        .is_err()
    {
        skip!("no postgis here");
    }
    let sql = "SELECT st_area(st_buffer(st_collect(st_makepoint(i % 200, i / 200)), 4.5, 64)) \
        FROM generate_series(1, 40000) i";
    let stuck = server.stuck_when(sql, computes);
    wait_for(DEADLINE, "GEOS shall be where it looks", || {
        let report = Report::of(&["inspect"], stuck.pid());
        let functions = report.frames().iter().map(function_of);
        functions
            .into_iter()
            .any(|f| f.contains("MCIndexNoder"))
            .then_some(())
    });
    stuck.prove_stuck(How::Terminate);
    let report = Report::of(&["inspect"], stuck.pid());
    report
        .assert_at("/cause/code", "foreign-runtime")
        .assert_advises(&format!("pgpoke interrupt --cancel {}", stuck.pid()));
    assert!(
        report.text("/cause/summary").starts_with("GEOS computes"),
        "{}",
        report.run
    );
    let pid = stuck.pid().to_string();
    let args = ["interrupt", "--yes", "--cancel", &pid];
    Run::pgpoke(args).assert_code(0);
    // The exception becomes an ERROR, and the terminate is acted on after it.
    let failure = stuck.result().expect_err("its statement is over");
    assert_eq!(failure.code(), "57014", "{failure}");
    assert!(stuck.run_follow_up("SELECT 1").is_err());
    server.assert_unharmed();
}

fn computes_for_a_while(server: &Server, language: &str, body: &str) -> Report {
    let stuck = stuck_in(server, language, body, computes);
    stuck.prove_stuck(How::Cancel);
    let report = Report::of(&["inspect"], stuck.pid());
    report.assert_at("/cause/code", "foreign-runtime");
    assert!(!report.run.stdout.contains("CHECK_FOR"), "{}", report.run);
    stuck.prove_stuck(How::Terminate);
    let pid = stuck.pid().to_string();
    let args = [
        "interrupt",
        "--yes",
        "--allow",
        "foreign-runtime",
        "--allow",
        "threads",
        &pid,
    ];
    Run::pgpoke(args).assert_code(0);
    server.assert_unharmed();
    report
}

/// What a language calls computes, and whoever called it is told to be the one.
#[track_caller]
fn is_told_of_the_runtime(server: &Server, language: &str, body: &str, starts: &str, names: &str) {
    let report = computes_for_a_while(server, language, body);
    let summary = report.text("/cause/summary");
    assert!(
        summary.starts_with(starts) && summary.contains(names),
        "{}",
        report.run
    );
}

#[test]
fn linear_algebra_that_python_called() {
    let server = server_with!("plpython3u");
    let body = "import numpy\na = numpy.random.rand(300, 300)\nwhile True: numpy.linalg.svd(a)";
    if stuck_in_python_is_missing(&server) {
        skip!("no numpy here");
    }
    is_told_of_the_runtime(
        &server,
        "plpython3u",
        body,
        "Python computes, in ",
        "libpython",
    );
}

fn stuck_in_python_is_missing(server: &Server) -> bool {
    let sql = "DO LANGUAGE plpython3u 'import numpy'";
    server.connect().batch_execute(sql).is_err()
}

#[test]
fn a_query_of_sqlite_that_python_called() {
    let server = server_with!("plpython3u");
    let body = "import sqlite3\nsqlite3.connect(':memory:').execute('with recursive r(x) as (select 1 union all select x + 1 from r) select max(x) from r').fetchall()";
    is_told_of_the_runtime(
        &server,
        "plpython3u",
        body,
        "Python computes, in ",
        "libsqlite3",
    );
}

#[test]
fn linear_algebra_that_r_called() {
    let server = server_with!("plr");
    let body = "m <- matrix(runif(250000), 500)\nwhile (TRUE) m <- m %*% m / 500";
    is_told_of_the_runtime(&server, "plr", body, "R computes, in ", "libR.so");
}

#[test]
fn compression_that_python_called() {
    let server = server_with!("plpython3u");
    let body = "import os, zlib\ndata = os.urandom(32 << 20)\nwhile True: zlib.compress(data, 9)";
    is_told_of_the_runtime(
        &server,
        "plpython3u",
        body,
        "Python computes, in ",
        "libpython",
    );
}

/// What waits in libmemcached is what waits in libpq: a client, whose good-bye at exit may hang.
#[test]
fn a_client_of_memcached_is_judged_as_one_of_postgres() {
    let Some(server) = server_with_extension("pgmemcache") else {
        skip!("no pgmemcache here");
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let sql = format!("SELECT memcache_server_add('{address}'), memcache_get('x')");
    let stuck = server.stuck_when(&sql, |b| b.syscall() == Some(libc::SYS_poll));
    let (_accepted, _) = listener.accept().unwrap();
    stuck.prove_stuck(How::Cancel);
    let report = Report::of(&["inspect"], stuck.pid());
    report
        .assert_at("/cause/code", "foreign-runtime")
        .assert_verdict_if("risky", "risky")
        .assert_at("/process/waits_for/0/remote", address.to_string());
    assert!(
        report.text("/cause/summary").starts_with("libmemcached "),
        "{}",
        report.run
    );
    server.assert_unharmed();
}
