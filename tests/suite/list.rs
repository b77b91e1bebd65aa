//! `pgpoke list`: all backends of all servers, as `pg_stat_activity` would show them, and those that are stuck.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use serde_json::Value;

use crate::children::children;
use crate::harness::{
    Backend, DEADLINE, How, Installation, Run, Server, as_stranger, fetched, heeding_signals,
    is_root, pgpoke, server_with_testext, skip, skipped, wait_for,
};
use crate::report::Report;
use crate::server_end::has_stopped_in_good_order;

/// What is listed of one server, by the PID that the server knows.
struct Listed {
    server: Value,
    backends: HashMap<i64, Value>,
}

/// Lists with these options, and picks out what is of this server.
#[track_caller]
fn list(server: &Server, options: &[&str]) -> Listed {
    let run = Run::pgpoke(["list", "--json"].iter().chain(options));
    run.assert_code(0);
    listed(server, &run.json())
}

#[track_caller]
fn listed(server: &Server, object: &Value) -> Listed {
    assert_eq!(object["schema_version"], 1);
    let all = object["servers"].as_array().expect("servers");
    let number = all
        .iter()
        .position(|s| s["postmaster_pid"] == server.postmaster().pid)
        .unwrap_or_else(|| panic!("the server is not listed: {object:#}"));
    let backends = object["backends"].as_array().expect("backends").iter();
    Listed {
        server: all[number].clone(),
        backends: backends
            .filter(|b| b["server"] == number)
            .map(|b| (b["pid"].as_i64().expect("a PID"), b.clone()))
            .collect(),
    }
}

/// `pg_stat_activity`, as JSON by PID. Times in microseconds since 1970, as pgpoke has them.
fn activity(client: &mut Client) -> HashMap<i64, Value> {
    let us = |name: &str| format!("(extract(epoch from {name}) * 1000000)::bigint::text AS {name}");
    let sql = format!(
        "SELECT pid, datid::bigint, datname::text, usesysid::bigint, usename::text, application_name,
            host(client_addr) AS client_addr, client_port, backend_type, state, query,
            wait_event_type, wait_event, {}, {}, {}, {}
         FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
        us("backend_start"),
        us("xact_start"),
        us("query_start"),
        us("state_change"),
    );
    let rows = client
        .query(&format!("SELECT to_jsonb(a)::text FROM ({sql}) a"), &[])
        .expect("pg_stat_activity");
    rows.iter()
        .map(|row| {
            let row: Value = serde_json::from_str(row.get(0)).expect("JSON");
            (row["pid"].as_i64().expect("a PID"), row)
        })
        .collect()
}

/// The columns that stay the same for a session's life: pgpoke's, and the view's.
fn assert_same_session(ours: &Value, theirs: &Value) {
    let b = &ours["backend"];
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let pairs = [
        ("backend_type", ours["backend_type"].clone()),
        ("datid", ours["database_oid"].clone()),
        ("datname", b["database"].clone()),
        ("usesysid", ours["user_oid"].clone()),
        ("client_addr", ours["client_addr"].clone()),
    ];
    // A background worker's user has no name outside of the catalogs.
    let serves = theirs["backend_type"] == "client backend";
    if serves {
        assert_eq!(b["user"], theirs["usename"], "{ours:#}\n{theirs:#}");
    }
    for (name, ours_is) in pairs {
        // Up to 13 the view has 0 where there is none.
        let theirs_is = Some(&theirs[name])
            .filter(|v| **v != 0)
            .unwrap_or(&Value::Null);
        assert_eq!(ours_is, *theirs_is, "{name}: {ours:#}\n{theirs:#}");
    }
    assert_eq!(
        text(&b["application_name"]),
        text(&theirs["application_name"])
    );
    assert_eq!(
        micros(ours, "backend_start"),
        stamp(theirs, "backend_start")
    );
}

/// A time of pgpoke's.
fn micros(ours: &Value, name: &str) -> Option<i64> {
    ours[format!("{name}_unix_us")].as_i64()
}

/// A time of the view's.
fn stamp(theirs: &Value, name: &str) -> Option<i64> {
    theirs[name].as_str().map(|t| t.parse().expect("a number"))
}

/// What changes with each statement, and is told by its times.
fn moment_of_ours(ours: &Value) -> (Option<i64>, Option<i64>) {
    (micros(ours, "query_start"), micros(ours, "state_change"))
}

fn moment_of_theirs(theirs: &Value) -> (Option<i64>, Option<i64>) {
    (stamp(theirs, "query_start"), stamp(theirs, "state_change"))
}

fn assert_same_activity(ours: &Value, theirs: &Value) {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let b = &ours["backend"];
    assert_eq!(b["state"], theirs["state"], "{ours:#}\n{theirs:#}");
    assert_eq!(text(&b["query"]), text(&theirs["query"]));
}

/// Runs until it is dropped.
struct Pgbench(Child);

impl Pgbench {
    /// None where there is none.
    fn start(server: &Server, connections: usize, script: &str) -> Option<Self> {
        let program = server.installation().program("pgbench");
        if !program.exists() {
            skipped(&format!("no {}", program.display()));
            return None;
        }
        let file = server.directory().join("script.sql");
        std::fs::write(&file, script).expect("a script");
        let mut command = Command::new(program);
        command.args([
            "-n",
            "-T",
            "300",
            "-j",
            "2",
            "-c",
            &connections.to_string(),
            "-f",
        ]);
        command.arg(&file).arg(server.conninfo());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("pgbench");
        let pgbench = Pgbench(child);
        let mut client = server.connect();
        wait_for(
            DEADLINE * 2,
            "all of pgbench's sessions shall be there",
            || {
                let count: i64 = client
                    .query_one(
                        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'",
                        &[],
                    )
                    .expect("pg_stat_activity")
                    .get(0);
                (count == connections as i64).then_some(())
            },
        );
        Some(pgbench)
    }
}

impl Drop for Pgbench {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sessions that work, think, hold transactions open, and sleep in their statements.
const WORK: &str = r"
\set think random(1, 1500)
\set row random(1, 1000)
SELECT pg_sleep(0.3 * random());
\sleep :think ms
BEGIN;
UPDATE numbers SET n = n + 1 WHERE id = :row;
\sleep :think ms
END;
\sleep :think ms
";

/// Between two looks at pg_stat_activity, each row has to be as at one of them, or its own times say that it changed
/// in between.
#[test]
fn under_load_it_agrees_with_pg_stat_activity() {
    const SESSIONS: usize = 200;
    const ROUNDS: usize = 5;
    let server = Server::builder().setting("max_connections", "220").start();
    let mut client = server.connect();
    client
        .batch_execute("CREATE TABLE numbers AS SELECT id, 0 AS n FROM generate_series(1, 1000) id; CREATE INDEX ON numbers (id)")
        .expect("a table");
    let Some(_busy) = Pgbench::start(&server, SESSIONS, WORK) else {
        return;
    };
    let (mut rows, mut exact, mut waits, mut same_waits) = (0, 0, 0, 0);
    for _ in 0..ROUNDS {
        let before = activity(&mut client);
        let listed = list(&server, &[]).backends;
        let after = activity(&mut client);
        for (pid, ours) in &listed {
            // Those of autovacuum come and go.
            let (Some(before), Some(after)) = (before.get(pid), after.get(pid)) else {
                continue;
            };
            assert_eq!(ours["status"], "read", "{ours:#}");
            assert_same_session(ours, before);
            rows += 1;
            let moment = moment_of_ours(ours);
            let as_at = [before, after]
                .into_iter()
                .find(|t| moment_of_theirs(t) == moment);
            match as_at {
                Some(theirs) => {
                    exact += 1;
                    assert_same_activity(ours, theirs);
                }
                None => {
                    let between = moment_of_theirs(before)..=moment_of_theirs(after);
                    assert!(between.contains(&moment), "{ours:#}\n{before:#}\n{after:#}");
                }
            }
            // Nothing tells when a wait began. Where nothing changed, it is the same wait, but for a moment.
            let still = moment_of_theirs(before) == moment && moment_of_theirs(after) == moment;
            let wait = |v: &Value| [v["wait_event_type"].clone(), v["wait_event"].clone()];
            if still && wait(before) == wait(after) {
                waits += 1;
                same_waits += usize::from(wait(ours) == wait(before));
                let start = |v| stamp(v, "xact_start");
                assert_eq!(start(before), start(after));
                assert_eq!(micros(ours, "xact_start"), start(before), "{ours:#}");
            }
        }
    }
    eprintln!(
        "figure: {rows} rows, {exact} as at one of two looks; {waits} waits, {same_waits} the same"
    );
    assert!(rows >= SESSIONS * ROUNDS);
    assert!(exact * 2 > rows, "{exact} of {rows}");
    assert!(waits * 4 > rows, "{waits} of {rows}");
    assert!(same_waits * 100 >= waits * 98, "{same_waits} of {waits}");
}

/// Each column of a few sessions that stand still, on every version.
#[test]
fn every_version_agrees_with_its_pg_stat_activity() {
    for major in 12..=18 {
        let server = Server::builder()
            .installation(fetched!(Installation::npm(major)))
            .start();
        let mut client = server.connect();
        client
            .batch_execute("CREATE DATABASE \"my shop\"")
            .expect("a database");
        client
            .batch_execute("CREATE TABLE t (i int); CREATE ROLE \"a b\" SUPERUSER LOGIN")
            .expect("a table and a role");
        let mut open = server.connect();
        open.batch_execute("BEGIN; LOCK t; SELECT 'äöü'")
            .expect("a transaction");
        // Its title can be read in two ways.
        let blanks = server.config().dbname("my shop").user("a b").connect(NoTls);
        let waits = server.stuck_when("SELECT * FROM t", |_| true);
        let sleeps = server.stuck_when("SELECT pg_sleep(1000)", |_| true);
        let settled = |view: &HashMap<i64, Value>| {
            let is = |pid: i32, event: &str| {
                view.get(&i64::from(pid))
                    .is_some_and(|row| row["wait_event"] == event)
            };
            is(waits.pid(), "relation") && is(sleeps.pid(), "PgSleep")
        };
        let theirs = wait_for(DEADLINE, "they shall be where they stay", || {
            Some(activity(&mut client)).filter(settled)
        });
        let ours = list(&server, &[]);
        assert_eq!(ours.server["version_known"], true, "{major}");
        assert_eq!(ours.server["port"], 5432, "{major}");
        let mut compared = 0;
        for (pid, theirs) in theirs
            .iter()
            .filter(|(_, t)| t["backend_type"] != "autovacuum worker")
        {
            let Some(mut ours) = ours.backends.get(pid).cloned() else {
                // It was on its way out when the view was read.
                let there = Path::new("/proc").join(pid.to_string());
                assert!(!there.exists(), "{major}: not listed: {theirs:#}");
                continue;
            };
            // Without a connection, no one knows.
            if ours["backend"]["user"].is_null() && theirs["datname"] == "my shop" {
                assert_eq!(ours["backend"]["database"], Value::Null);
                ours["backend"]["user"] = theirs["usename"].clone();
                ours["backend"]["database"] = theirs["datname"].clone();
                compared += 100;
            }
            assert_same_session(&ours, theirs);
            if theirs["backend_type"] == "client backend" {
                assert_same_activity(&ours, theirs);
                assert_eq!(moment_of_ours(&ours), moment_of_theirs(theirs), "{major}");
                for name in ["wait_event_type", "wait_event"] {
                    assert_eq!(ours[name], theirs[name], "{major}: {ours:#}");
                }
                compared += 1;
            }
        }
        assert_eq!(compared, 104, "{major}: {theirs:#?}");
        drop((blanks, open));
        server.assert_unharmed();
    }
}

/// One of each, asked to stop in vain: what is likely is what testext does.
#[test]
fn the_stuck_are_told_from_the_well_and_nobody_is_stopped() {
    let server = server_with_testext!(Server::builder().pooled());
    // Those that compute come last.
    let rows = [
        ("SELECT pgpoke_read()", "blocked-syscall"),
        ("SELECT pgpoke_latch()", "latch-loop"),
        ("SELECT pgpoke_lwlock()", "lwlock-wait"),
        ("SELECT pgpoke_spin()", "cpu-loop"),
        ("SELECT pgpoke_hold()", "interrupts-held-off"),
        ("SELECT pgpoke_blocked()", "signals-blocked"),
        ("SELECT pgpoke_usleep()", "sleep-loop"),
    ];
    let mut well = server.connect();
    well.batch_execute("BEGIN").expect("a transaction");
    let busy = server.stuck_when("SELECT pg_sleep(1000)", |_| true);
    let before = list(&server, &["--stuck"]);
    assert!(before.backends.is_empty(), "{:#?}", before.backends);
    let mut all = Vec::new();
    for (sql, cause) in rows {
        let stuck = server.stuck(sql);
        let started = Instant::now();
        stuck.prove_stuck(How::Cancel);
        // One that waits for a processor ignores nothing.
        let found = wait_for(DEADLINE, "it shall be seen to be stuck", || {
            list(&server, &["--stuck"])
                .backends
                .remove(&i64::from(stuck.pid()))
        });
        assert_eq!(found["cause"]["code"], cause, "{sql}: {found:#}");
        assert_eq!(found["stuck"], true);
        let pending = &found["pending"][0];
        assert_eq!(pending["interrupt"], "cancel", "{found:#}");
        assert_eq!(pending["arrived"], cause != "signals-blocked", "{found:#}");
        let bound = |name: &str| pending[name].as_f64().expect("milliseconds");
        let (least, most) = (bound("ignored_ms_at_least"), bound("ignored_ms_at_most"));
        let truly = started.elapsed().as_secs_f64() * 1e3;
        assert!(
            least >= 50.0 && least <= truly && least <= most,
            "{truly}: {found:#}"
        );
        all.push(stuck);
    }
    let (run, calls) = Run::pgpoke_traced(["list", "--json"]);
    calls.assert_none();
    run.assert_code(0);
    let listed = listed(&server, &run.json());
    assert_eq!(listed.backends[&i64::from(busy.pid())]["stuck"], false);
    for stuck in &all {
        assert_eq!(
            listed.backends[&i64::from(stuck.pid())]["backend"]["query"],
            stuck.sql()
        );
        stuck.backend().assert_running_untraced();
    }
    let text = Run::pgpoke(["list", "--stuck"]);
    text.assert_code(0)
        .assert_says("likely lwlock-wait: it waits for the LWLock AddinShmemInit");
    assert!(
        !text.stdout.contains(&format!("\n{} ", busy.pid())),
        "{text}"
    );
    server.assert_unharmed();
}

/// By its name, without being stopped.
#[test]
fn the_file_that_is_being_opened_is_named() {
    let server = Server::start();
    let stuck = server.stuck_on_fifo();
    stuck.prove_stuck(How::Cancel);
    let found = wait_for(DEADLINE, "it shall be seen to be stuck", || {
        let mut stuck_ones = list(&server, &["--stuck"]).backends;
        stuck_ones.remove(&i64::from(stuck.pid()))
    });
    let summary = found["cause"]["summary"].as_str().expect("a cause");
    assert!(
        summary.starts_with("it was blocked in openat() of the FIFO /"),
        "{summary}"
    );
    stuck.backend().assert_running_untraced();
    server.assert_unharmed();
}

/// With no connection left for anyone, the stuck one is found, and freed by the number that was found.
#[test]
fn at_max_connections_the_stuck_one_is_found_and_freed() {
    const MOST: &str = "8";
    let builder = Server::builder()
        .setting("max_connections", MOST)
        .setting("superuser_reserved_connections", "0")
        .pooled();
    let server = server_with_testext!(builder);
    server
        .ask(|client| client.batch_execute("SELECT 1"))
        .expect("an open session");
    let stuck = server.stuck("SELECT pgpoke_spin()");
    let mut others = Vec::new();
    let full = wait_for(DEADLINE, "all connections shall be taken", || match server
        .config()
        .connect(NoTls)
    {
        Ok(client) => {
            others.push(client);
            None
        }
        Err(error) => Some(error),
    });
    assert_eq!(full.code().map(|c| c.code()), Some("53300"), "{full}");
    stuck.prove_stuck(How::Cancel);
    let found = wait_for(DEADLINE, "it shall be seen to be stuck", || {
        let found = list(&server, &["--stuck"]).backends;
        found.keys().next().copied()
    });
    assert_eq!(found, i64::from(stuck.pid()));
    let sessions = list(&server, &["--database", "postgres", "--user", "postgres"]);
    assert_eq!(
        sessions.backends.len().to_string(),
        MOST,
        "{:#?}",
        sessions.backends
    );
    Run::pgpoke(["interrupt", "--yes", "--no-syslog", &found.to_string()]).assert_code(0);
    stuck.assert_cancelled();
    assert!(list(&server, &["--stuck"]).backends.is_empty());
    drop(others);
    server.assert_unharmed();
}

#[test]
fn filters_and_the_order() {
    let server = Server::start();
    for sql in ["CREATE DATABASE market", "CREATE ROLE alice LOGIN"] {
        server.connect().batch_execute(sql).expect("a name");
    }
    let connect = |name: &str, user: &str| {
        let mut config = server.config();
        let client = config
            .dbname(name)
            .user(user)
            .application_name(user)
            .connect(NoTls);
        client.expect("a session")
    };
    let mut first = connect("market", "alice");
    first.batch_execute("BEGIN").expect("a transaction");
    let mut second = connect("market", "postgres");
    second.batch_execute("SELECT 1").expect("a statement");
    let third = server.stuck_when("SELECT pg_sleep(1000)", |_| true);
    let pid = |client: &mut Client| {
        i64::from(
            client
                .query_one("SELECT pg_backend_pid()", &[])
                .unwrap()
                .get::<_, i32>(0),
        )
    };
    let (first_pid, second_pid) = (pid(&mut first), pid(&mut second));
    let third_pid = i64::from(third.pid());
    let oid: i64 = first
        .query_one(
            "SELECT oid::bigint FROM pg_database WHERE datname = 'market'",
            &[],
        )
        .expect("an OID")
        .get(0);
    let oid = oid.to_string();
    let pids = |options: &[&str]| {
        let mut pids: Vec<i64> = list(&server, options).backends.into_keys().collect();
        pids.sort_unstable();
        pids
    };
    let sorted = |mut pids: Vec<i64>| {
        pids.sort_unstable();
        pids
    };
    let shop = sorted(vec![first_pid, second_pid]);
    assert_eq!(pids(&["--database", "market"]), shop);
    assert_eq!(pids(&["--database", &oid]), shop);
    assert_eq!(pids(&["-d", "market", "-U", "alice"]), [first_pid]);
    assert_eq!(pids(&["--state", "idle in transaction"]), [first_pid]);
    assert_eq!(pids(&["--state", "idle", "-d", "market"]), [second_pid]);
    let active_or_open = sorted(vec![first_pid, third_pid]);
    assert_eq!(
        pids(&["--state", "active", "--state", "idle in transaction"]),
        active_or_open
    );
    assert_eq!(pids(&["--older-than", "1h"]), [0i64; 0]);
    wait_for(DEADLINE, "it shall be old enough", || {
        (pids(&["--older-than", "300ms", "--state", "active"]) == [third_pid]).then_some(())
    });
    Run::pgpoke(["list", "--state", "running"])
        .assert_code(2)
        .assert_says("'idle in transaction'");
    Run::pgpoke(["list", "-d", "nowhere"])
        .assert_code(0)
        .assert_says("no backend is as asked for");

    let run = Run::pgpoke(["list", "--json"]);
    let object = run.json();
    let servers = object["servers"].as_array().expect("servers");
    let own = servers
        .iter()
        .position(|s| s["postmaster_pid"] == server.postmaster().pid);
    let rows = object["backends"].as_array().expect("backends").iter();
    let ages: Vec<f64> = rows
        .filter(|b| b["server"] == own.expect("its server"))
        .filter_map(|b| b["state_ms"].as_f64())
        .collect();
    assert!(
        ages.len() >= 3 && ages.is_sorted_by(|a, b| a >= b),
        "oldest first: {ages:?}"
    );
    // Its other processes are there, each with what it is for.
    let kinds: Vec<Value> = list(&server, &[])
        .backends
        .into_values()
        .map(|b| b["backend_type"].clone())
        .collect();
    for kind in [
        "checkpointer",
        "background writer",
        "walwriter",
        "autovacuum launcher",
    ] {
        assert!(kinds.contains(&kind.into()), "no {kind}: {kinds:?}");
    }
}

/// Who may not look is told so, and by what to change it.
#[test]
fn another_user_s_servers_are_counted_and_not_shown() {
    if !is_root() {
        skip!("only root can become another user");
    }
    let server = Server::start();
    let mut command = pgpoke();
    command.args(["list", "--json"]);
    // Other tests have servers of other users' own.
    let run = Run::of(as_stranger(command));
    run.assert_code(6)
        .assert_says("no permission to look into")
        .assert_says("pgpoke: hint: ");
    let object = run.json();
    assert_eq!(object["backends"].as_array().map(Vec::len), Some(0));
    let unreadable = object["unreadable"].as_array().expect("PIDs");
    assert!(
        unreadable.contains(&server.postmaster().pid.into()),
        "{run}"
    );
}

/// What a postmaster left behind is listed, as that.
#[test]
fn an_orphan_is_listed_as_one() {
    let server = server_with_testext!();
    server.expect_crash();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    let directory = server.data_directory();
    server.postmaster().send(libc::SIGKILL);
    let found = wait_for(DEADLINE, "its server shall have no postmaster", || {
        let object = Run::pgpoke(["list", "--json"]).assert_code(0).json();
        let servers = object["servers"].as_array().expect("servers").clone();
        let own = servers.iter().position(|s| {
            s["data_directory"] == directory.to_str().unwrap() && s["postmaster_pid"].is_null()
        })?;
        let rows = object["backends"].as_array().expect("backends").clone();
        rows.into_iter()
            .find(|b| b["server"] == own && b["pid"] == stuck.pid())
    });
    assert_eq!(found["backend"]["state"], "active", "{found:#}");
    Run::pgpoke(["list"]).assert_says(&format!(
        "ITS POSTMASTER {} IS GONE",
        server.postmaster().pid
    ));
    stuck.backend().send(libc::SIGKILL);
}

/// Again and again, and how long an interrupt is ignored grows; SIGINT is a good end.
#[test]
fn watched_it_grows_until_ctrl_c() {
    let server = server_with_testext!(Server::builder().pooled());
    let stuck = server.stuck("SELECT pgpoke_read()");
    stuck.prove_stuck(How::Cancel);
    let mut command = heeding_signals(pgpoke().get_program());
    command.args(["list", "--json", "--stuck", "--watch", "0.2"]);
    let run = Run::while_doing(DEADLINE, command, |pid| {
        std::thread::sleep(Duration::from_millis(1500));
        Backend::open(pid).expect("pgpoke").send(libc::SIGINT);
    });
    run.assert_code(0);
    let least = |line: &str| {
        let object: Value = serde_json::from_str(line).expect("one object a line");
        let row = listed(&server, &object)
            .backends
            .remove(&i64::from(stuck.pid()));
        row.expect("the stuck one")["pending"][0]["ignored_ms_at_least"]
            .as_f64()
            .expect("ms")
    };
    let grows: Vec<f64> = run.stdout.lines().map(least).collect();
    assert!(grows.len() >= 2, "{run}");
    assert!(grows.is_sorted_by(|a, b| b - a >= 200.0), "{grows:?}");
}

/// Whoever reads it may go: `pgpoke list --watch | head` comes to an end.
#[test]
fn watched_it_ends_with_its_reader() {
    let _server = Server::builder().pooled().start();
    for json in [&["--json"][..], &[]] {
        let mut command = Command::new("bash");
        command.args(["-c", "\"$@\" | head -n 1", "bash"]);
        command.arg(pgpoke().get_program());
        command.args(["list", "--watch", "0.2"]).args(json);
        let run = Run::within(DEADLINE, command);
        run.assert_code(0);
        assert_eq!(run.stdout.lines().count(), 1, "{run}");
    }
}

/// What a run takes at best: of a processor, and in all. The other runs were the machine's.
fn seconds(server: &Server, sessions: usize) -> (f64, f64) {
    // The whole address space, of which what is used is a part.
    const SCRIPT: &str = "ulimit -v 65536; \"$0\" list --json && times >&2";
    let runs = (0..7).map(|_| {
        // Its times are exact (getrusage(2)); those of other shells are in ticks, and what takes one may read as none.
        let mut command = Command::new("bash");
        command.args(["-c", SCRIPT]).arg(pgpoke().get_program());
        let run = Run::of(command);
        run.assert_code(0);
        let rows = listed(server, &run.json()).backends.into_values();
        let count = rows
            .filter(|b| b["backend"]["application_name"] == "pgbench")
            .count();
        assert_eq!(count, sessions);
        // Its second line is of the shell's children: "0m0.030s 0m0.050s".
        let times = run.stderr.lines().last().expect("times");
        let second = |t: &str| t.strip_prefix("0m")?.strip_suffix('s')?.parse::<f64>().ok();
        let processor = times.split(' ').map(|t| second(t).expect("a time")).sum();
        (processor, run.elapsed.as_secs_f64())
    });
    let best = |a: (f64, f64), b: (f64, f64)| (a.0.min(b.0), a.1.min(b.1));
    runs.fold((f64::INFINITY, f64::INFINITY), best)
}

/// 500 in less than 0.2 s and 64 MiB, and not more than linear. Where the machine has other work, the time that passes is
/// that of others, too; of a processor's time no other has a part.
#[test]
fn five_hundred_backends_cost_little() {
    if cfg!(debug_assertions) {
        skip!("this build is not optimised");
    }
    let server = Server::builder()
        .alone()
        .setting("max_connections", "520")
        .start();
    let mut took = Vec::new();
    for sessions in [100, 250, 500] {
        let Some(idle) = Pgbench::start(&server, sessions, "SELECT 1;\n\\sleep 300 s\n") else {
            return;
        };
        took.push(seconds(&server, sessions));
        drop(idle);
        let mut client = server.connect();
        wait_for(DEADLINE, "the sessions shall be gone", || {
            (activity(&mut client)
                .values()
                .all(|b| b["application_name"] != "pgbench"))
            .then_some(())
        });
    }
    let load = std::fs::read_to_string("/proc/loadavg").expect("the machine's load");
    let load: f64 = load
        .split(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .expect("a number");
    eprintln!(
        "figure: list of 100, 250 and 500 backends, in 64 MiB: (of a processor, in all) {took:.3?} s, at a load of {load}"
    );
    assert!(took[2].0 < 0.2, "{took:?}");
    /// For what is the same however many there are.
    const BESIDE: f64 = 0.02;
    assert!(
        took[2].0 < took[0].0 * 7.0 + BESIDE,
        "more than linear: {took:?}"
    );
    // As many as other tests make.
    if load < 8.0 {
        assert!(took[2].1 < 0.2, "{took:?}");
    }
}

/// What is said of one process, if it is called stuck.
fn stuck_one(server: &Server, pid: i32) -> Option<Value> {
    let mut all = list(server, &["--stuck"]).backends;
    all.remove(&i64::from(pid))
}

/// It is, with this cause.
#[track_caller]
fn is_listed(server: &Server, pid: i32, cause: &str) -> Value {
    let found = wait_for(DEADLINE, &format!("it shall be listed: {cause}"), || {
        stuck_one(server, pid)
    });
    assert_eq!(found["cause"]["code"], cause, "{found:#}");
    found
}

fn summary(found: &Value) -> &str {
    found["cause"]["summary"].as_str().expect("a cause")
}

/// What `inspect` advises to type.
#[track_caller]
fn run_what_is_advised(report: &Report, start: &str) {
    let advice = report.at("/advice").as_array().expect("advice");
    let mut advice = advice.iter().map(|a| a.as_str().expect("text"));
    let command = advice.find_map(|a| Some(&a[a.find(start)?..]));
    let command = command.unwrap_or_else(|| panic!("no {start:?}:\n{}", report.run));
    let done = Command::new("sh").args(["-c", command]).status();
    assert!(done.expect("sh").success(), "{command}");
}

/// A process of the server's own, by the beginning of its title.
fn process_called(server: &Server, title: &str) -> Backend {
    wait_for(DEADLINE, &format!("there shall be a {title}"), || {
        let all = children(server.postmaster().pid);
        all.into_iter().find(|child| {
            let line = std::fs::read(format!("/proc/{}/cmdline", child.pid)).unwrap_or_default();
            String::from_utf8_lossy(&line).starts_with(&format!("postgres: {title}"))
        })
    })
}

fn tell_to_stop(server: &Server, signal: i32) {
    server.postmaster().send(signal);
    let pid_file = server.data_directory().join("postmaster.pid");
    wait_for(DEADLINE, "the shutdown shall begin", || {
        let text = std::fs::read_to_string(&pid_file).ok()?;
        (text.lines().nth(7)?.trim() == "stopping").then_some(())
    });
}

/// That is no reason by itself to call a session stuck: nothing tells whether anything was sent.
#[test]
fn without_handlers_it_is_stuck_when_it_is_in_somebody_s_way() {
    let server = server_with_testext!();
    let mut client = server.connect();
    client.batch_execute("CREATE TABLE t ()").expect("a table");
    let deaf = server.stuck("BEGIN; LOCK t; SELECT pgpoke_handlers('ignore')");
    deaf.prove_stuck(How::Terminate);
    assert_eq!(stuck_one(&server, deaf.pid()), None);
    Run::pgpoke(["list"])
        .assert_code(0)
        .assert_says("no handler for SIGINT and SIGTERM");
    let waits = server.stuck_when("SELECT * FROM t", |_| true);
    let found = is_listed(&server, deaf.pid(), "handlers-replaced");
    let waiter = format!("process {} waits for a lock that it holds", waits.pid());
    assert!(summary(&found).starts_with(&waiter), "{found:#}");
    assert_eq!(stuck_one(&server, waits.pid()), None, "it would obey");
    let report = Report::of(&["inspect"], deaf.pid());
    report.assert_advises(&format!("pgpoke interrupt --terminate {}", deaf.pid()));
    let args = ["interrupt", "--terminate", "--yes", "--grace", "50ms"];
    Report::of(&args, deaf.pid()).assert_outcome("terminated", 0);
    deaf.assert_terminated();
    assert!(waits.result().is_ok(), "it has the lock");
    assert!(list(&server, &["--stuck"]).backends.is_empty());
    server.assert_unharmed();
}

/// A fast shutdown has sent SIGTERM to everybody, and that is known of a session with another handler, too.
#[test]
fn a_session_that_a_shutdown_was_lost_on_is_listed() {
    let server = server_with_testext!();
    let deaf = server.stuck("SELECT pgpoke_handlers('own')");
    assert_eq!(stuck_one(&server, deaf.pid()), None);
    tell_to_stop(&server, libc::SIGINT);
    let found = is_listed(&server, deaf.pid(), "handlers-replaced");
    assert!(
        summary(&found).contains("a terminate was sent"),
        "{found:#}"
    );
    let args = ["interrupt", "--terminate", "--yes", "--grace", "50ms"];
    Report::of(&args, deaf.pid()).assert_outcome("terminated", 0);
    has_stopped_in_good_order(&server);
}

/// A callback of an extension's waits for somebody on the session's way out.
#[test]
fn a_session_that_hangs_on_its_way_out_is_listed_with_what_it_waits_for() {
    let server = server_with_testext!();
    let fifo = server.directory().join("nobody-writes");
    let made = Installation::command("mkfifo").arg(&fifo).status();
    assert!(made.expect("mkfifo").success());
    let path = fifo.display().to_string();
    for (kind, argument, waits_for) in [
        ("open", &path, format!("openat() of the FIFO {path}")),
        ("run", &"exec sleep 1000".to_owned(), "its child".to_owned()),
    ] {
        let mut client = server.connect();
        let pid = client
            .query_one("SELECT pg_backend_pid()", &[])
            .expect("its PID")
            .get(0);
        client
            .execute("SELECT pgpoke_at_exit($1, $2)", &[&kind, argument])
            .expect("a callback");
        let backend = Backend::open(pid).expect("its process");
        assert_eq!(stuck_one(&server, pid), None);
        drop(client);
        let found = is_listed(&server, pid, "exiting");
        let evidence = found["cause"]["evidence"].to_string();
        assert!(evidence.contains(&waits_for), "{found:#}");
        let report = Report::of(&["inspect"], pid);
        report
            .assert_at("/cause/code", "exiting")
            .assert_verdict("pointless");
        match kind {
            "open" => {
                report.assert_advises(&format!("whoever opens the other end of {path}"));
                drop(std::fs::OpenOptions::new().write(true).open(&fifo));
            }
            _ => {
                report.assert_advises("when it ends, so does the wait");
                children(pid)
                    .iter()
                    .for_each(|child| child.send(libc::SIGTERM));
            }
        }
        wait_for(DEADLINE, "it shall be gone", || {
            (!backend.is_alive()).then_some(())
        });
        assert!(list(&server, &["--stuck"]).backends.is_empty());
    }
    server.assert_unharmed();
}

/// pg_receivewal, which receives from a walsender of its own.
struct Receiver {
    process: Child,
    walsender: Backend,
    _directory: tempfile::TempDir,
}

impl Receiver {
    fn of(server: &Server) -> Self {
        let directory = Installation::temp_dir();
        let mut program = Installation::command(server.installation().program("pg_receivewal"));
        program
            .arg("-D")
            .arg(directory.path())
            .args(["-d", &server.conninfo().replace("dbname=postgres", "")])
            .args(["--status-interval", "1"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = program.spawn().expect("pg_receivewal");
        let sql = "SELECT pid FROM pg_stat_replication WHERE state = 'streaming'";
        let pid = wait_for(DEADLINE, "a walsender shall stream", || {
            let row = server.ask(|client| client.query_opt(sql, &[]));
            row.expect("an answer").map(|row| row.get(0))
        });
        Receiver {
            process,
            walsender: Backend::open(pid).expect("the walsender"),
            _directory: directory,
        }
    }

    fn send(&self, signal: i32) {
        let process = Backend::open(self.process.id() as i32).expect("pg_receivewal");
        process.send(signal);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn server_that_sends() -> Server {
    Server::builder()
        .setting("wal_sender_timeout", "0")
        .setting("max_wal_senders", "3")
        .setting("wal_level", "replica")
        .start()
}

/// All is sent, and the receiver does not confirm it.
#[test]
fn a_walsender_whose_receiver_does_not_confirm_is_what_a_shutdown_waits_for() {
    let server = server_that_sends();
    let receiver = Receiver::of(&server);
    let pid = receiver.walsender.pid;
    assert!(
        list(&server, &["--stuck"]).backends.is_empty(),
        "it streams"
    );
    receiver.send(libc::SIGSTOP);
    assert!(
        list(&server, &["--stuck"]).backends.is_empty(),
        "nobody waits"
    );
    tell_to_stop(&server, libc::SIGINT);
    let found = is_listed(&server, pid, "receiver-wait");
    assert!(
        summary(&found).contains("has not confirmed all WAL"),
        "{found:#}"
    );
    receiver.walsender.assert_running_untraced();
    let report = Report::of(&["inspect"], pid);
    report
        .assert_at("/cause/code", "receiver-wait")
        .assert_advises(&format!("pgpoke interrupt --terminate {pid}"));
    Report::of(&["interrupt", "--terminate", "--yes"], pid)
        .assert_outcome("obeyed-signal", 0)
        .assert_at("/server_restarted", false);
    has_stopped_in_good_order(&server);
}

/// The receiver takes nothing more, so that the walsender has not even noticed that it shall stop.
#[test]
fn a_walsender_whose_receiver_takes_nothing_is_what_a_shutdown_waits_for() {
    let server = server_that_sends();
    let receiver = Receiver::of(&server);
    let pid = receiver.walsender.pid;
    receiver.send(libc::SIGSTOP);
    server
        .connect()
        .batch_execute("CREATE TABLE t AS SELECT repeat('x', 100) FROM generate_series(1, 100000)")
        .expect("much WAL");
    tell_to_stop(&server, libc::SIGINT);
    is_listed(&server, pid, "receiver-wait");
    Report::of(&["inspect"], pid).assert_at("/cause/code", "receiver-wait");
    // It goes on, and so does the shutdown.
    receiver.send(libc::SIGCONT);
    has_stopped_in_good_order(&server);
}

/// A smart shutdown waits for sessions, and lets them work: nobody of them ignores anything.
#[test]
fn who_is_well_is_not_listed_while_a_server_stops() {
    let server = Server::builder()
        .setting("archive_mode", "on")
        .setting("archive_command", "true")
        .start();
    let receiver = Receiver::of(&server);
    let works = server.stuck_when("SELECT pg_sleep(1000)", |_| true);
    let idle = server.connect();
    tell_to_stop(&server, libc::SIGTERM);
    for _ in 0..3 {
        let stuck = list(&server, &["--stuck"]).backends;
        assert!(stuck.is_empty(), "{stuck:#?}");
    }
    receiver.walsender.assert_running_untraced();
    drop(idle);
    works.backend().send(libc::SIGTERM);
    has_stopped_in_good_order(&server);
}

/// Its command does not come back: WAL piles up, and then a shutdown waits for it.
#[test]
fn an_archiver_is_listed_when_others_wait_for_its_command() {
    let server = Server::builder()
        .setting("archive_mode", "on")
        .setting("archive_command", "exec sleep 300")
        .start();
    // An archive command that was killed is worded as a crash is.
    server.expect_crash();
    let mut client = server.connect();
    for table in ["a", "b"] {
        client
            .batch_execute(&format!("CREATE TABLE {table} ()"))
            .and_then(|()| client.batch_execute("SELECT pg_switch_wal()"))
            .expect("a WAL file");
    }
    let in_its_command = |archiver: &Backend| {
        wait_for(DEADLINE, "the archiver shall wait for its child", || {
            (archiver.syscall() == Some(libc::SYS_wait4)).then_some(())
        });
    };
    let archiver = process_called(&server, "archiver");
    in_its_command(&archiver);
    assert_eq!(stuck_one(&server, archiver.pid), None, "it has just begun");
    let found = is_listed(&server, archiver.pid, "process-wait");
    assert!(
        summary(&found).contains("its archive_command, process"),
        "{found:#}"
    );
    archiver.assert_running_untraced();
    let report = Report::of(&["inspect"], archiver.pid);
    report.assert_at("/cause/code", "process-wait");
    run_what_is_advised(&report, "kill ");
    let next = wait_for(DEADLINE, "there shall be a new archiver", || {
        // The postmaster looks who is missing when it has something to do.
        drop(server.connect());
        let next = process_called(&server, "archiver");
        (next != archiver).then_some(next)
    });
    assert!(list(&server, &["--stuck"]).backends.is_empty());

    in_its_command(&next);
    drop(client);
    tell_to_stop(&server, libc::SIGINT);
    let found = is_listed(&server, next.pid, "process-wait");
    assert!(
        summary(&found).starts_with("the server is being stopped"),
        "{found:#}"
    );
    let report = Report::of(&["inspect"], next.pid);
    report.assert_advises("the shutdown goes on");
    run_what_is_advised(&report, "kill ");
    wait_for(DEADLINE, "the server shall be stopped", || {
        (!server.postmaster().is_alive()).then_some(())
    });
    let log = server.log();
    assert!(log.contains("database system is shut down"), "{log}");
    assert!(!log.contains("terminating any other"), "{log}");
}

/// There is nothing for it to end: it is kept until the next command comes, and dropped then.
#[test]
fn a_cancel_of_a_session_that_waits_for_its_client_is_nobody_s_trouble() {
    let server = Server::start();
    for begin in ["SELECT 1", "BEGIN"] {
        let mut client = server.connect();
        let pid = client
            .query_one("SELECT pg_backend_pid()", &[])
            .expect("its PID")
            .get(0);
        client.batch_execute(begin).expect("a statement");
        let backend = Backend::open(pid).expect("its process");
        backend.send(libc::SIGINT);
        let listed = wait_for(DEADLINE, "the cancel shall be there", || {
            let row = list(&server, &[]).backends.remove(&i64::from(pid))?;
            (row["interrupts"]["query_cancel_pending"] == true).then_some(row)
        });
        assert_eq!(listed["stuck"], false, "{listed:#}");
        let report = Report::of(&["inspect"], pid);
        report
            .assert_at("/cause/code", "idle")
            .assert_verdict("pointless");
        assert!(
            report.text("/cause/summary").contains("dropped"),
            "{}",
            report.run
        );
        let advice = report.at("/advice").to_string();
        assert!(!advice.contains("interrupt"), "{advice}");
        backend.assert_running_untraced();
        let one: i32 = client.query_one("SELECT 1", &[]).expect("no error").get(0);
        assert_eq!(one, 1);
    }
    server.assert_unharmed();
}
