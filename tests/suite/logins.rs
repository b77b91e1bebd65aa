//! Connections that are not, or not yet, sessions.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;

use crate::children::children;
use crate::harness::{
    Backend, DEADLINE, How, Installation, Run, Server, fetched, server_with_testext, wait_for,
};
use crate::report::Report;

/// The server's processes.
fn pids(server: &Server) -> Vec<i32> {
    let all = children(server.postmaster().pid);
    all.into_iter().map(|backend| backend.pid).collect()
}

/// The process that serves a connection which was just made.
fn newcomer(server: &Server, before: &[i32]) -> Backend {
    wait_for(DEADLINE, "a process for the connection", || {
        let new = pids(server).into_iter().find(|pid| !before.contains(pid))?;
        Backend::open(new).filter(|b| b.state() == Some('S'))
    })
}

/// Its socket: `host` and `port` of its connection string.
fn socket(server: &Server) -> std::path::PathBuf {
    let config = server.config();
    let [postgres::config::Host::Unix(directory)] = config.get_hosts() else {
        panic!("a socket");
    };
    directory.join(format!(".s.PGSQL.{}", config.get_ports()[0]))
}

fn a_connection_that_says_nothing(server: &Server) {
    let before = pids(server);
    let connection = UnixStream::connect(socket(server)).expect("a connection");
    let backend = newcomer(server, &before);
    let report = Report::of(&["inspect"], backend.pid);
    report
        .assert_at("/cause/code", "starting")
        .assert_at("/backend/type", "client backend")
        .assert_advises(&format!("pgpoke interrupt --terminate {}", backend.pid));
    // What is advised works, and at once.
    let pid = backend.pid.to_string();
    let run = Run::pgpoke(["interrupt", "--json", "--yes", "--terminate", &pid]);
    let report = Report::read(run, backend.pid);
    report
        .assert_outcome("obeyed-signal", 0)
        .assert_at("/attempts", 0);
    drop(connection);
    server.assert_unharmed();
}

#[test]
fn a_connection_that_says_nothing_is_starting() {
    a_connection_that_says_nothing(&Server::start());
}

#[test]
fn a_connection_that_says_nothing_is_starting_in_18_too() {
    let builder = Server::builder().installation(fetched!(Installation::npm(18)));
    a_connection_that_says_nothing(&builder.start());
}

/// A login that asks an LDAP server which never answers.
#[test]
fn a_login_that_waits_for_another_server_is_authenticating() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = silent.local_addr().expect("an address").port();
    let server = Server::start();
    let hba = server.data_directory().join("pg_hba.conf");
    let old = std::fs::read_to_string(&hba).expect("pg_hba.conf");
    let line = format!(
        "local all waits ldap ldapserver=127.0.0.1 ldapport={port} ldapprefix=\"cn=\" ldapsuffix=\",dc=test\"\n"
    );
    std::fs::write(&hba, line + &old).expect("pg_hba.conf");
    let mut sql = server.connect();
    sql.batch_execute("CREATE ROLE waits LOGIN; SELECT pg_reload_conf()")
        .expect("a role");
    wait_for(DEADLINE, "the configuration shall be read", || {
        let rule = "SELECT 1 FROM pg_hba_file_rules WHERE auth_method = 'ldap'";
        (!sql.query(rule, &[]).ok()?.is_empty()).then_some(())
    });
    let before = pids(&server);
    let mut config = server.config();
    config.user("waits").password("secret");
    let login = std::thread::spawn(move || config.connect(postgres::NoTls).map(drop));
    // It has taken the connection and never says a word.
    let _peer = silent.accept().expect("a connection from the server");
    let backend = newcomer(&server, &before);
    let report = wait_for(DEADLINE, "a login in progress", || {
        let report = Report::of(&["inspect"], backend.pid);
        (report.text("/cause/code") == "authenticating").then_some(report)
    });
    report.run.assert_says(&format!("127.0.0.1:{port}"));
    drop(_peer);
    drop(silent);
    assert!(login.join().expect("no panic").is_err());
    server.assert_unharmed();
}

/// A loop around a short sleep is a loop, and waits for nobody.
#[test]
fn a_loop_that_sleeps_is_a_loop() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_usleep()");
    stuck.prove_stuck(How::Cancel);
    let report = wait_for(DEADLINE, "a look while it sleeps", || {
        let report = Report::of(&["inspect"], stuck.pid());
        (report.text("/process/state") == "S").then_some(report)
    });
    report.assert_at("/cause/code", "sleep-loop");
    let text = report.run.to_string();
    assert!(!text.contains("should answer"), "{text}");
    let run = Run::pgpoke(["interrupt", "--yes", &stuck.pid().to_string()]);
    run.assert_code(0);
    stuck.assert_cancelled();
    server.assert_unharmed();
}
