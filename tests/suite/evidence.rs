//! `pgpoke report`: what a maintainer asks for before anything is ended, in one directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::{
    DEADLINE, How, Installation, Run, Server, Stuck, as_server_user, as_user_without_ptrace, built,
    checked, is_root, pgpoke, server_with_testext, skip, wait_for,
};

mod chroot;

/// A bundle that pgpoke has written.
struct Report {
    run: Run,
    _dir: tempfile::TempDir,
    path: PathBuf,
    files: BTreeMap<String, String>,
}

impl Report {
    /// Gathers one, with these options.
    #[track_caller]
    fn of(pid: i32, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("report");
        let mut command = pgpoke();
        command.arg("report").arg("-o").arg(&path).args(options);
        command.arg(pid.to_string());
        let run = Run::of(command);
        run.assert_code(0);
        Report {
            files: read_all(&path),
            run,
            _dir: dir,
            path,
        }
    }

    #[track_caller]
    fn file(&self, name: &str) -> &str {
        let found = self.files.get(name);
        found.unwrap_or_else(|| panic!("no {name}:\n{}", self.files["README.txt"]))
    }

    #[track_caller]
    fn assert_has(&self, name: &str, text: &str) {
        let content = self.file(name);
        assert!(content.contains(text), "no {text:?} in {name}:\n{content}");
    }

    /// The line of the README that says why a file is not there.
    #[track_caller]
    fn why_not(&self, name: &str) -> &str {
        assert!(!self.files.contains_key(name), "{name} is there");
        let (_, missing) = self.files["README.txt"]
            .split_once("Not to be had")
            .expect("what is missing");
        let line = missing.lines().find(|l| l.trim_start().starts_with(name));
        line.unwrap_or_else(|| panic!("{name} is not explained:\n{}", self.files["README.txt"]))
    }
}

fn read_all(path: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(path).expect("the report's directory");
    let read = |entry: fs::DirEntry| {
        let content = fs::read(entry.path()).expect("a file of the report");
        (
            entry.file_name().into_string().expect("a plain name"),
            String::from_utf8_lossy(&content).into_owned(),
        )
    };
    entries
        .map(|entry| read(entry.expect("an entry")))
        .collect()
}

#[track_caller]
fn is_unharmed(server: &Server, stuck: &Stuck) {
    stuck.backend().assert_running_untraced();
    server.assert_unharmed();
}

/// Each point of the list that EnterpriseDB's support has people go through.
#[test]
fn every_question_of_a_maintainer_has_its_answer() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    let report = Report::of(stuck.pid(), &["--dsn", &server.conninfo()]);

    // Backtraces, several of them, to see a loop.
    for look in 1..=5 {
        report.assert_has("backtraces.txt", &format!("look {look}, after "));
    }
    assert!(report.file("backtraces.txt").matches("pgpoke_spin").count() >= 5);
    report.assert_has("stack-tree.txt", "100 % spin() in pgpoke_test.so");
    report.assert_has("registers.txt", "rip ");
    // The views.
    report.assert_has("pg_stat_activity.csv", "SELECT pgpoke_spin()");
    report.assert_has("pg_locks.csv", "locktype,");
    report.assert_has("pg_stat_replication.csv", "pid,");
    report.assert_has("pg_blocking.csv", "pid,blocked_by");
    report.assert_has("pg_settings.csv", "shared_buffers");
    // All server processes with state and wait channel, several times.
    let processes = report.file("server-processes.txt");
    assert!(
        processes.contains("checkpointer") && processes.contains("looked at 3 times"),
        "{processes}"
    );
    let (_, own) = processes
        .split_once(&format!("\n{}  ", stuck.pid()))
        .expect("the backend itself");
    let states: Vec<&str> = own.lines().skip(1).take(3).map(str::trim).collect();
    assert!(
        states.iter().all(|line| line.starts_with(['R', 'S'])),
        "{states:?}"
    );
    // Kernel messages: there, or why not.
    match report.files.get("kernel-messages.txt") {
        Some(text) => assert!(text.contains("of the kernel's "), "{text}"),
        None => assert!(report.why_not("kernel-messages.txt").contains("/dev/kmsg")),
    }
    // Languages, and whether it runs one now.
    report.assert_has("languages.txt", "no library of a procedural language");
    report.assert_has("pg_languages.csv", "plpgsql");
    report.assert_has("pg_extensions.csv", "plpgsql");
    // The log, and the journal or why not.
    report.assert_has(
        "server-log-end.txt",
        "database system is ready to accept connections",
    );
    report.assert_has("server-log-selected.txt", "the lines that mention process");
    assert!(report.files.contains_key("journal.txt") || !report.why_not("journal.txt").is_empty());
    // The configuration.
    report.assert_has("settings.txt", "fsync = off");
    report.assert_has("postgresql-conf.txt", "log_line_prefix = %m [%p] ");
    report.assert_has("postmaster-opts.txt", "postgres");
    // What it is, by build-id.
    report.assert_has("versions.txt", &server.installation().major().to_string());
    let server_line = report
        .file("versions.txt")
        .lines()
        .find(|l| l.ends_with("/postgres"))
        .expect("the server");
    let id = server_line.split_whitespace().nth(1).expect("a build-id");
    assert!(
        id.len() == 40 && id.bytes().all(|b| b.is_ascii_hexdigit()),
        "{server_line}"
    );
    report.assert_has("versions.txt", "pgpoke_test.so");
    // The process.
    report.assert_has("assessment.txt", "cpu-loop: spin() in pgpoke_test.so");
    report.assert_has("assessment.json", "\"cpu-loop\"");
    report.assert_has("proc-status.txt", "SigCgt:");
    report.assert_has("proc-limits.txt", "Max open files");
    report.assert_has("proc-io.txt", "rchar:");
    report.assert_has("maps.txt", "pgpoke_test.so");
    report.assert_has("descriptors.txt", "socket:[");
    report.assert_has("threads.txt", "1 threads");
    report.assert_has(
        "proc-cmdline.txt",
        "postgres: postgres postgres [local] SELECT",
    );
    for name in ["proc-stack.txt", "proc-wchan.txt", "proc-syscall.txt"] {
        assert!(report.files.contains_key(name) || !report.why_not(name).is_empty());
    }
    is_unharmed(&server, &stuck);
}

/// Nobody but the owner; every file is explained, and nothing is explained that is neither there nor missing.
#[test]
fn the_readme_and_the_directory_agree() {
    let server = Server::start();
    let stuck = server.stuck_on_fifo();
    let report = Report::of(stuck.pid(), &["--json", "--samples", "2"]);
    let json = report.run.json();
    let readme = report.file("README.txt");
    let named: BTreeSet<String> = readme
        .split_once("\nFiles\n")
        .and_then(|(_, rest)| rest.split_once("Not to be had"))
        .expect("two lists")
        .0
        .lines()
        .filter_map(|line| {
            line.strip_prefix("  ")?
                .split_whitespace()
                .next()
                .map(str::to_owned)
        })
        .collect();
    let mut there: BTreeSet<String> = report.files.keys().cloned().collect();
    there.remove("README.txt");
    assert_eq!(named, there);
    let listed = |key: &str| -> BTreeSet<String> {
        let all = json[key].as_array().expect("a list").iter();
        all.map(|f| f["name"].as_str().expect("a name").to_owned())
            .collect()
    };
    assert_eq!(listed("files"), there);
    for name in listed("missing") {
        assert!(!report.why_not(&name).is_empty());
    }
    for file in json["files"].as_array().unwrap() {
        let name = file["name"].as_str().unwrap();
        assert_eq!(file["bytes"], report.files[name].len(), "{name}");
    }
    assert!(
        report
            .why_not("pg_locks.csv")
            .contains("there was no --dsn")
    );

    let mode = |path: &Path| {
        fs::metadata(path)
            .expect("it is there")
            .permissions()
            .mode()
            & 0o7777
    };
    assert_eq!(mode(&report.path), 0o700);
    for name in report.files.keys() {
        assert_eq!(mode(&report.path.join(name)), 0o600, "{name}");
    }
    let archive = json["archive"].as_str().expect("an archive");
    assert_eq!(mode(Path::new(archive)), 0o600);
    let list = checked(Command::new("tar").arg("-tzf").arg(archive));
    let packed: BTreeSet<String> = String::from_utf8_lossy(&list.stdout)
        .lines()
        .map(|l| l.strip_prefix("report/").expect("one folder").to_owned())
        .collect();
    assert_eq!(packed, report.files.keys().cloned().collect());

    // Once more, into the same directory: nothing of what is there is touched.
    let mut again = pgpoke();
    again
        .arg("report")
        .arg("-o")
        .arg(&report.path)
        .arg(stuck.pid().to_string());
    Run::of(again).assert_code(1).assert_says("not empty");
    assert_eq!(read_all(&report.path), report.files);
    is_unharmed(&server, &stuck);
}

/// What a statement, a client and the server's log give away, anywhere in a bundle.
#[test]
fn nothing_that_was_to_be_left_out_is_in_it() {
    let server = server_with_testext!(
        Server::builder()
            .setting("listen_addresses", "127.0.0.77")
            .setting("log_statement", "all")
            .setting("log_connections", "on")
            .setting("cluster_name", "hush-cluster")
            .setting("log_line_prefix", "%m [%p] %h %a ")
            .setting("hush.literal", "hush-setting")
            .setting("include_if_exists", "more.conf")
    );
    // Whoever reads it later reads this one, too.
    let more = "work_mem = 7MB\nhush.more = 'hush-included' # hush-comment\n";
    fs::write(server.data_directory().join("more.conf"), more).expect("more.conf");
    let mut client: postgres::Client = {
        let text = "host=127.0.0.77 port=5432 user=postgres dbname=postgres application_name=hush-application";
        text.parse::<postgres::Config>()
            .unwrap()
            .connect(postgres::NoTls)
            .expect("a connection over TCP")
    };
    let pid: i32 = client
        .query_one("SELECT pg_backend_pid()", &[])
        .unwrap()
        .get(0);
    let error = client.batch_execute("SELECT 'hush-literal'::int");
    error.expect_err("no number");
    client
        .batch_execute(
            "DO $$BEGIN RAISE WARNING 'hush-warning from 192.0.2.77';
             RAISE WARNING 'could not open file for hush-customer'; END$$",
        )
        .expect("a warning");
    let dsn = "host=127.0.0.77 port=5432 user=postgres dbname=postgres";
    let plain = Report::of(pid, &["--dsn", dsn]);
    let all = |report: &Report| {
        report
            .files
            .values()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("\n")
    };
    // They are there to be found.
    for secret in [
        "hush-literal",
        "hush-warning",
        "hush-customer",
        "hush-included",
        "hush-application",
        "hush-setting",
        "127.0.0.77",
        "192.0.2.77",
    ] {
        assert!(
            all(&plain).contains(secret),
            "{secret} cannot be found at all"
        );
    }
    let report = Report::of(pid, &["--redact", "--dsn", dsn]);
    let host = checked(&mut Command::new("hostname"));
    let host = String::from_utf8_lossy(&host.stdout).trim().to_owned();
    for (name, content) in &report.files {
        for secret in ["hush-", "127.0.0.77", "192.0.2.77", "RAISE WARNING"] {
            assert!(!content.contains(secret), "{secret} in {name}:\n{content}");
        }
        if host.len() > 2 && host != "localhost" {
            assert!(!content.contains(&host), "{host} in {name}");
        }
    }
    report.assert_has(
        "README.txt",
        "Redacted: query text, literals, host names, addresses",
    );
    report.assert_has(
        "server-log-end.txt",
        "database system is ready to accept connections",
    );
    report.assert_has("pg_stat_activity.csv", "[left out]");
    report.assert_has("settings.txt", "cluster_name = [left out]");
    report.assert_has("settings.txt", "fsync = off");
    report.assert_has("server-log-end.txt", "WARNING:  could not open file for …");
    report.assert_has("postgresql-conf.txt", "# include_if_exists 'more.conf'");
    report.assert_has("postgresql-conf.txt", "work_mem = 7MB");
    report.assert_has("postgresql-conf.txt", "hush.more = [left out]");
    let archive = fs::metadata(report.path.with_extension("tar.gz")).expect("an archive");
    assert!(archive.len() > 0);
    let mut command = pgpoke();
    command.args(["report", "--redact", "--core", &pid.to_string()]);
    Run::of(command).assert_code(2);
    server.assert_unharmed();
}

#[test]
fn passwords_are_in_no_bundle() {
    let server = Server::builder()
        .setting("primary_conninfo", "host=nowhere user=rep password=hunter2")
        .start();
    let stuck = server.stuck_on_fifo();
    let report = Report::of(stuck.pid(), &["--samples", "1"]);
    report.assert_has("postgresql-conf.txt", "password=[password]");
    for (name, content) in &report.files {
        assert!(!content.contains("hunter2"), "{name}:\n{content}");
    }
}

/// A server that takes connections and never says a word, and a port at which nobody listens.
#[test]
fn a_connection_that_does_not_come_about_costs_its_deadline() {
    let server = Server::start();
    let stuck = server.stuck_on_fifo();
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().unwrap().port();
    let report = Report::of(
        stuck.pid(),
        &[
            "--samples",
            "1",
            "--dsn",
            &format!("host=127.0.0.1 port={port} user=a"),
        ],
    );
    assert!(
        report
            .why_not("pg_locks.csv")
            .contains("did not answer within 10 s")
    );
    assert!(
        report.run.elapsed < Duration::from_secs(40),
        "{}",
        report.run
    );
    report.assert_has("assessment.txt", "COPY never_filled");
    drop(silent);
    let report = Report::of(
        stuck.pid(),
        &[
            "--samples",
            "1",
            "--dsn",
            &format!("host=127.0.0.1 port={port} user=a"),
        ],
    );
    assert!(report.why_not("pg_locks.csv").contains("no connection"));
    let mut wrong = pgpoke();
    wrong.args(["report", "--dsn", "host='", &stuck.pid().to_string()]);
    Run::of(wrong).assert_code(2);
    is_unharmed(&server, &stuck);
}

/// Who is root to `pgpoke` is so to the server, which lets nobody of that name in: it is asked as its own user then.
#[test]
fn without_a_host_it_is_the_servers_own_socket() {
    let server = Server::start();
    let stuck = server.stuck_on_fifo();
    let report = Report::of(stuck.pid(), &["--samples", "1", "--dsn", "user=postgres"]);
    report.assert_has("pg_stat_activity.csv", &format!(",{},", stuck.pid()));
    // Not what this connection set for itself.
    report.assert_has("pg_settings.csv", "fsync,off,");
    for own in ["pgpoke report", "statement_timeout", "search_path"] {
        let settings = report.file("pg_settings.csv");
        assert!(!settings.contains(own), "{own}:\n{settings}");
    }
    if !is_root() {
        skip!("only root can ask as somebody else");
    }
    let role = Installation::command("id").arg("-un").output().expect("id");
    let role = String::from_utf8_lossy(&role.stdout).trim().to_owned();
    let mut client = server.connect();
    let peer = format!("CREATE ROLE \"{role}\" SUPERUSER LOGIN");
    client.batch_execute(&peer).expect("a role");
    let rules = server.data_directory().join("pg_hba.conf");
    let before = fs::read(&rules).expect("pg_hba.conf");
    fs::write(&rules, "local all all peer\n").expect("pg_hba.conf");
    client
        .batch_execute("SELECT pg_reload_conf()")
        .expect("a reload");
    let others: postgres::Config = server.conninfo().parse().expect("a connection string");
    let connect = || others.connect(postgres::NoTls);
    wait_for(DEADLINE, "the server shall refuse others", || {
        connect().err()
    });
    let dsn = format!("user={role} dbname=postgres");
    let report = Report::of(stuck.pid(), &["--samples", "1", "--dsn", &dsn]);
    report.assert_has("pg_locks.csv", "locktype");
    let report = Report::of(stuck.pid(), &["--samples", "1", "--dsn", "user=postgres"]);
    let why = report.why_not("pg_locks.csv");
    assert!(why.contains("Peer authentication failed"), "{why}");
    fs::write(&rules, before).expect("pg_hba.conf");
    client
        .batch_execute("SELECT pg_reload_conf()")
        .expect("a reload");
    wait_for(DEADLINE, "the server shall let everybody in", || {
        connect().ok()
    });
    is_unharmed(&server, &stuck);
}

/// The kernel lets one look at a time; who comes meanwhile waits for some milliseconds.
#[test]
fn two_at_once_have_a_report_each() {
    let server = Server::start();
    let stuck = server.stuck_on_fifo();
    let pid = stuck.pid();
    let reports: Vec<Report> = std::thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| Report::of(pid, &["--samples", "10"])));
        let both = both.map(|one| one.join().expect("a report"));
        both.into_iter().collect()
    });
    for report in reports {
        report.assert_has("backtraces.txt", "look 10, ");
    }
    is_unharmed(&server, &stuck);
}

#[test]
fn another_server_is_not_asked() {
    let (server, other) = (Server::start(), Server::start());
    let stuck = server.stuck_on_fifo();
    let report = Report::of(stuck.pid(), &["--samples", "1", "--dsn", &other.conninfo()]);
    assert!(
        report
            .why_not("pg_stat_activity.csv")
            .contains("it is another one")
    );
}

/// The collector's file, standard error's file (which every other test has), and the system's log.
#[test]
fn the_log_is_found_where_the_configuration_has_it() {
    let collected = Server::builder()
        .setting("logging_collector", "on")
        .setting("log_directory", "somewhere else")
        .setting("log_filename", "mine.log")
        .start();
    let stuck = collected.stuck_on_fifo();
    let report = Report::of(stuck.pid(), &["--samples", "1"]);
    report.assert_has("server-log-end.txt", "somewhere else/mine.log");
    report.assert_has("server-log-end.txt", "ready to accept connections");
    drop(stuck);
    let syslog = Server::builder()
        .setting("log_destination", "syslog")
        .start();
    let stuck = syslog.stuck_on_fifo();
    let report = Report::of(stuck.pid(), &["--samples", "1"]);
    assert!(
        report
            .why_not("server-log-end.txt")
            .contains("log_destination is syslog")
    );
}

/// The server's user may not have us read for it what it cannot read itself.
#[test]
fn a_log_that_is_a_link_to_somebody_elses_file_is_not_followed() {
    if !is_root() {
        skip!("only root can read what others may not");
    }
    let server = Server::builder()
        .setting("logging_collector", "on")
        .setting("log_filename", "mine.log")
        .start();
    let stuck = server.stuck_on_fifo();
    let data = server.data_directory();
    let secret = server.directory().join("secret");
    fs::write(&secret, "hush, root's own\n").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let list = data.join("current_logfiles");
    let options = ["--samples", "1"];
    for hostile in ["link", "list", "folder", "fifo"] {
        let evil = data.join(format!("evil-{hostile}"));
        match hostile {
            "link" => symlink(&secret, &evil).unwrap(),
            "list" => {
                fs::remove_file(&list).unwrap();
                symlink(&secret, &list).unwrap();
            }
            "folder" => symlink("/root", &evil).unwrap(),
            _ => {
                checked(Command::new("mkfifo").arg(&evil));
            }
        }
        if hostile != "list" {
            let _ = fs::remove_file(&list);
            let tail = if hostile == "folder" { "/.profile" } else { "" };
            fs::write(&list, format!("stderr {}{tail}\n", evil.display())).unwrap();
        }
        let report = Report::of(stuck.pid(), &options);
        assert!(
            !report.why_not("server-log-end.txt").is_empty(),
            "{hostile}"
        );
        for (name, content) in &report.files {
            assert!(!content.contains("hush"), "{hostile}: {name}:\n{content}");
        }
    }
    is_unharmed(&server, &stuck);
}

#[test]
fn all_threads_are_in_the_backtraces() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_malloc_threads()");
    stuck.prove_stuck(How::Cancel);
    // An eighth of it is for the other thread to stop: on a busy machine it may have no turn soon.
    let report = Report::of(stuck.pid(), &["--samples", "3", "--max-stop", "1s"]);
    let backtraces = report.file("backtraces.txt");
    let others = of_other_threads(backtraces);
    assert_eq!(others.len(), 3, "{backtraces}");
    let seen = others.iter().filter(|l| l.contains(" frames, ")).count();
    let late = others.iter().filter(|l| l.ends_with(NOT_IN_TIME)).count();
    assert!(seen > 0 && seen + late == 3, "{backtraces}");
    report.assert_has("backtraces.txt", "malloc_loop");
    report.assert_has(
        "stack-tree.txt",
        &format!("the other threads: {seen} stacks"),
    );
    report.assert_has("stack-tree.txt", " % malloc_loop()");
    report.assert_has("threads.txt", "2 threads");
    is_unharmed(&server, &stuck);
}

const NOT_IN_TIME: &str = "not seen: it did not stop in time";

/// What the backtraces say of each thread that is not the main one.
fn of_other_threads(backtraces: &str) -> Vec<&str> {
    let lines = backtraces.lines();
    lines.filter(|l| l.starts_with("thread ")).collect()
}

/// A thread that cannot be stopped costs an eighth of what the others may stand still, once, and is not passed over in
/// silence.
#[test]
fn a_thread_that_does_not_stop_is_named() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_thread_in_vfork(3600)");
    stuck.prove_stuck(How::Cancel);
    let report = Report::of(
        stuck.pid(),
        &["--samples", "4", "--max-stop", "1s", "--json"],
    );
    let backtraces = report.file("backtraces.txt");
    let others = of_other_threads(backtraces);
    assert_eq!(others.len(), 4, "{backtraces}");
    let stood = report.run.json()["stopped_ms"].as_f64().expect("a number");
    assert!((100.0..350.0).contains(&stood), "{stood}");
    assert!(
        others.iter().all(|l| l.ends_with(NOT_IN_TIME)),
        "{backtraces}"
    );
    is_unharmed(&server, &stuck);
}

/// Only one can trace a thread: it is named, with who has it, in the backtraces and beside the core file.
#[test]
fn a_thread_that_somebody_else_traces_is_named() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_malloc_threads()");
    stuck.prove_stuck(How::Cancel);
    let threads = fs::read_dir(format!("/proc/{}/task", stuck.pid())).expect("its threads");
    let mut threads = threads.map(|t| t.expect("a thread").file_name().into_string().unwrap());
    let main = stuck.pid().to_string();
    let tid = threads.find(|tid| *tid != main).expect("another thread");
    let mut strace = Command::new("strace")
        .args(["-qq", "-e", "trace=none", "-o", "/dev/null", "-p", &tid])
        .stderr(Stdio::null())
        .spawn()
        .expect("strace");
    let tracer = format!("TracerPid:\t{}\n", strace.id());
    let status = format!("/proc/{main}/task/{tid}/status");
    wait_for(DEADLINE, "strace shall trace the thread", || {
        let status = fs::read_to_string(&status).ok()?;
        status.contains(&tracer).then_some(())
    });
    let options = ["--samples", "2", "--max-stop", "1s", "--core", "--json"];
    let report = Report::of(stuck.pid(), &options);
    let strace_pid = strace.id();
    // SAFETY: kill takes any numbers; this PID is a child's that has not been waited for.
    unsafe { libc::kill(strace_pid as i32, libc::SIGTERM) };
    let _ = strace.wait();

    let backtraces = report.file("backtraces.txt");
    let others = of_other_threads(backtraces);
    assert_eq!(others.len(), 2, "{backtraces}");
    let said = format!("not seen: process {strace_pid} traces it");
    assert!(others.iter().all(|l| l.ends_with(&said)), "{backtraces}");
    let core = &report.run.json()["core"];
    let tid: i32 = tid.parse().expect("a number");
    assert_eq!(core["threads"], 1, "{core}");
    assert_eq!(core["threads_missing"], serde_json::json!([tid]), "{core}");
    let why = serde_json::json!([{"tid": tid, "why": "traced", "tracer": strace_pid}]);
    assert_eq!(core["threads_missing_why"], why, "{core}");
    is_unharmed(&server, &stuck);
}

#[test]
fn arguments_and_locals_where_there_is_dwarf() {
    let installation = built!(Installation::dwarf());
    let server = server_with_testext!(Server::builder().installation(installation));
    let stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    let report = Report::of(stuck.pid(), &["--samples", "2"]);
    report.assert_has("backtraces.txt", "query_string");
    let redacted = Report::of(stuck.pid(), &["--samples", "2", "--redact"]);
    assert!(!redacted.file("backtraces.txt").contains("query_string"));
    is_unharmed(&server, &stuck);
}

#[test]
fn a_core_file_comes_with_it_if_asked_for() {
    let server = Server::start();
    let stuck = server.stuck_on_fifo();
    let report = Report::of(stuck.pid(), &["--samples", "1", "--core"]);
    let mut magic = [0; 4];
    File::open(report.path.join("core"))
        .and_then(|mut f| f.read_exact(&mut magic))
        .unwrap();
    assert_eq!(&magic, b"\x7fELF");
    report.assert_has("core.json", "stopped_ms");
    report.assert_has("README.txt", "it is not in the archive");
    is_unharmed(&server, &stuck);
}

#[test]
fn those_without_rights_are_told_which() {
    if !is_root() {
        skip!("only root can be without a right that it has");
    }
    let server = Server::start();
    let stuck = server.stuck_on_fifo();
    let dir = Installation::temp_dir();
    let mut denied = pgpoke();
    denied
        .arg("report")
        .arg("-o")
        .arg(dir.path().join("r"))
        .arg(stuck.pid().to_string());
    Run::of(as_user_without_ptrace(denied)).assert_code(6);
    assert!(!dir.path().join("r").exists());
    // The server's own user needs none.
    let mut own = pgpoke();
    own.current_dir(dir.path()).args([
        "report",
        "--samples",
        "1",
        "--json",
        &stuck.pid().to_string(),
    ]);
    let run = Run::of(as_server_user(own));
    let path = run.assert_code(0).json()["directory"]
        .as_str()
        .unwrap()
        .to_owned();
    let name = path.rsplit('/').next().unwrap();
    assert!(
        name.starts_with(&format!("pgpoke-report-{}-2", stuck.pid())) && name.ends_with('Z'),
        "{name}"
    );
    assert!(read_all(Path::new(&path))["server-log-end.txt"].contains("ready to accept"));
    for (pid, code) in [(i32::MAX, 7), (std::process::id() as i32, 7)] {
        let mut command = pgpoke();
        command
            .arg("report")
            .arg("-o")
            .arg(dir.path().join("x"))
            .arg(pid.to_string());
        Run::of(command).assert_code(code);
        assert!(!dir.path().join("x").exists());
    }
    is_unharmed(&server, &stuck);
}

#[test]
fn a_full_disk_is_said() {
    if !is_root() {
        skip!("only root can mount a small disk");
    }
    let server = Server::start();
    let stuck = server.stuck_on_fifo();
    let disk = tempfile::tempdir().unwrap();
    let mut mount = Command::new("mount");
    mount
        .args(["-t", "tmpfs", "-o", "size=32k", "tmpfs"])
        .arg(disk.path());
    if !mount.status().is_ok_and(|s| s.success()) {
        skip!("no file system may be mounted here");
    }
    let mut command = pgpoke();
    command
        .arg("report")
        .arg("-o")
        .arg(disk.path().join("r"))
        .args(["--samples", "1"])
        .arg(stuck.pid().to_string());
    let run = Run::of(command);
    checked(Command::new("umount").arg("-l").arg(disk.path()));
    run.assert_code(1).assert_says("No space left on device");
    is_unharmed(&server, &stuck);
}

/// Ctrl-C, and worse, while it gathers.
#[test]
fn who_ends_it_leaves_the_backend_alone() {
    let server = Server::start();
    let stuck = server.stuck_on_fifo();
    // Nobody answers there, so there is time.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let dsn = format!(
        "host=127.0.0.1 port={} user=a",
        silent.local_addr().unwrap().port()
    );
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGKILL] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        let mut command = pgpoke();
        command
            .arg("report")
            .arg("-o")
            .arg(&path)
            .args(["--samples", "1", "--dsn", &dsn]);
        command.arg(stuck.pid().to_string());
        let run = Run::while_doing(Duration::from_secs(60), command, |pid| {
            wait_for(Duration::from_secs(30), "it shall be gathering", || {
                path.join("maps.txt").exists().then_some(())
            });
            // SAFETY: kill takes any numbers; the process is a child that was not waited for.
            assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
        });
        stuck.backend().assert_running_untraced();
        let files = read_all(&path);
        if signal == libc::SIGKILL {
            assert_eq!(run.signal(), Some(signal));
            assert!(!files.contains_key("README.txt"));
        } else {
            run.assert_code(1)
                .assert_says("a signal asked pgpoke to end")
                .assert_says(&path.display().to_string());
            assert!(
                files["README.txt"].contains("NOT COMPLETE"),
                "{}",
                files["README.txt"]
            );
            assert!(!path.with_extension("tar.gz").exists());
        }
    }
    is_unharmed(&server, &stuck);
}

#[test]
fn an_interrupt_gathers_before_it_steps_in() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r");
    let interrupt = |path: &Path| {
        let mut command = pgpoke();
        command
            .args(["interrupt", "--yes", "--report"])
            .arg(path)
            .arg(stuck.pid().to_string());
        Run::of(command)
    };
    // Where it cannot be written, nothing is done.
    interrupt(Path::new("/nowhere/r"))
        .assert_code(1)
        .assert_says("/nowhere/r");
    stuck.backend().assert_running_untraced();
    let run = interrupt(&path);
    run.assert_code(0).assert_says("files are in");
    assert_eq!(stuck.result().unwrap_err().code(), "57014");
    let files = read_all(&path);
    assert!(
        files["backtraces.txt"].contains("pgpoke_spin"),
        "from before the interrupt"
    );
    // What it stood still for the report is in what it did in all.
    let stood_still = |text: &str, before: &str| -> f64 {
        let (_, after) = text.split_once(before).unwrap_or_else(|| panic!("{run}"));
        let number = after.trim_start().split(' ').next();
        number.and_then(|n| n.parse().ok()).expect("milliseconds")
    };
    let for_the_report = stood_still(&files["README.txt"], "it stood still for ");
    let in_all = stood_still(&run.stdout, "\nstood still  for ");
    assert!(
        in_all > for_the_report && for_the_report > 0.0,
        "{for_the_report} of {in_all}"
    );
    server.assert_unharmed();
}

#[test]
fn an_interrupt_of_two_gathers_for_each() {
    let server = server_with_testext!();
    let both = [
        server.stuck("SELECT pgpoke_spin()"),
        server.stuck("SELECT pgpoke_sleep()"),
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("both");
    let mut command = pgpoke();
    command.args(["interrupt", "--yes", "--report"]).arg(&path);
    for stuck in &both {
        stuck.prove_stuck(How::Cancel);
        command.arg(stuck.pid().to_string());
    }
    Run::of(command).assert_code(0);
    for (stuck, function) in both.iter().zip(["pgpoke_spin", "pgpoke_sleep"]) {
        assert_eq!(stuck.result().unwrap_err().code(), "57014");
        let report = path.join(stuck.pid().to_string());
        let files = read_all(&report);
        assert!(files["backtraces.txt"].contains(function), "{function}");
        assert!(files["README.txt"].contains(&format!("process   {},", stuck.pid())));
        assert!(report.with_extension("tar.gz").exists());
        stuck.backend().assert_running_untraced();
    }
    server.assert_unharmed();
}

/// Of a recursion that is deep the tree has both ends.
#[test]
fn of_a_deep_stack_the_tree_has_both_ends() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_deep(3000)");
    let report = Report::of(stuck.pid(), &["--samples", "2"]);
    let tree = report.file("stack-tree.txt");
    let all: Vec<&str> = tree.lines().collect();
    assert_eq!(all.len(), 1001, "{tree}");
    assert!(
        all[0].ends_with("_start()") && all[500].contains("not counted"),
        "{tree}"
    );
    assert!(
        all[1000].ends_with("100 % spin() in pgpoke_test.so  ←"),
        "{tree}"
    );
    report.assert_has(
        "assessment.txt",
        "in all of 2 looks: spin() in pgpoke_test.so, called by",
    );
    is_unharmed(&server, &stuck);
}

#[test]
fn several_looks_are_a_tree_of_shares() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    let pid = stuck.pid().to_string();
    let run = Run::pgpoke(["inspect", "--samples", "4", &pid]);
    run.assert_says("looks        4: the share of them that met each function");
    assert!(
        run.stdout.contains("  100 % spin() in pgpoke_test.so  ←"),
        "{run}"
    );
    let tree = Run::pgpoke(["inspect", "--samples", "4", "--json", &pid]).json();
    let tree = tree["samples"]["tree"].as_array().expect("a tree").clone();
    assert!(tree.iter().all(|b| b["looks"] == 4), "{tree:?}");
    let innermost = tree.last().unwrap();
    assert_eq!(
        (&innermost["innermost"], &innermost["depth"]),
        (&4.into(), &(tree.len() - 1).into())
    );

    let mut watch = pgpoke();
    watch.args(["inspect", "--watch", &pid]);
    let mut child = watch
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("pgpoke");
    let mut seen = String::new();
    let mut out = child.stdout.take().unwrap();
    let mut byte = [0; 1024];
    while seen.matches("\nlooks ").count() < 2 {
        let n = out.read(&mut byte).expect("output");
        assert!(n > 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&byte[..n]));
    }
    // SAFETY: kill takes any numbers; the process is a child that was not waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(
        seen.contains("5 in ") && seen.contains("10 in ") && seen.contains("100 % spin()"),
        "{seen}"
    );
    is_unharmed(&server, &stuck);
}
