//! Every version of PostgreSQL, as different people build it: one row each. A new version is another row.

use std::process::Command;
use std::time::Duration;

use crate::harness::{
    Backend, DEADLINE, How, Installation, Server, Stuck, built, fetched, server_with_testext,
    wait_for,
};
use crate::locks;
use crate::matrix::{OWN, ROWS, assert_backend, assert_handlers, is_judged_and_treated_as_it_is};
use crate::refusals::{assert_refused_without_judgement, children};
use crate::report::{Report, function_of};

/// States of the matrix that any server gets into.
const OF_ANY: [&str; 5] = [
    "fifo",
    "idle",
    "idle_in_transaction",
    "sleeping",
    "lock_wait",
];

/// Those that take an extension; the last is freed by nothing, and goes on computing.
const WITH_TESTEXT: [&str; 8] = [
    "spin",
    "latch",
    "handlers_replaced",
    "handlers_replaced_by_pqsignal",
    "malloc",
    "palloc",
    "subtransaction_end",
    "held_off",
];

/// Those that show whether static variables, and functions without names, are found.
const WITHOUT_NAMES: [&str; 4] = [
    "handlers_replaced_by_pqsignal",
    "palloc",
    "lwlock",
    "subtransaction_end",
];

macro_rules! builds {
    ($($name:ident $([$testext:ident])?: $installation:expr,)+) => {
        $(
            mod $name {
                use super::*;

                #[test]
                fn states_of_any_server() {
                    let server = Server::builder().installation($installation).start();
                    everything_is_known(&server);
                    go_through(&server, &OF_ANY);
                    locks::is_told_who_blocks(&server);
                }

                $(#[test]
                fn $testext() {
                    let builder = Server::builder().installation($installation);
                    let server = server_with_testext!(builder);
                    locks::is_told_who_holds(&server, "own", "pgpoke_test", false, true);
                    go_through(&server, &WITH_TESTEXT);
                })?

                #[test]
                fn processes() {
                    every_process_is_what_it_is($installation);
                }
            }
        )+
    };
}

// [testext] where there are headers to build it with, and where the matrix itself does not go through all states.
builds! {
    npm_12: fetched!(Installation::npm(12)),
    npm_13 [testext]: fetched!(Installation::npm(13)),
    npm_14: fetched!(Installation::npm(14)),
    npm_15 [testext]: fetched!(Installation::npm(15)),
    npm_16 [testext]: fetched!(Installation::npm(16)),
    npm_17 [testext]: fetched!(Installation::npm(17)),
    npm_18 [testext]: fetched!(Installation::npm(18)),
    wheel_16_2: fetched!(Installation::wheel("16.2")),
    wheel_16_14: fetched!(Installation::wheel("16.14")),
    wheel_18_4 [testext]: fetched!(Installation::wheel("18.4")),
    debian_15: Installation::debian(),
}

macro_rules! stripped {
    ($($name:ident: $major:literal,)+) => {
        mod stripped {
            use super::*;
            $(
                #[test]
                fn $name() {
                    let dir = Installation::temp_dir();
                    let original = fetched!(Installation::npm($major));
                    nothing_is_lost_without_names(&original.altered(dir.path(), "postgres", |_| ()));
                }
            )+
        }
    };
}

stripped! {
    npm_12: 12,
    npm_13: 13,
    npm_14: 14,
    npm_15: 15,
    npm_16: 16,
    npm_17: 17,
    npm_18: 18,
}

#[track_caller]
fn nothing_is_lost_without_names(installation: &Installation) {
    let strip = Command::new("strip").arg(installation.server()).status();
    assert!(strip.expect("strip").success());
    let server = Server::builder().installation(installation.clone()).start();
    everything_is_known(&server);
    if installation.has_headers() {
        server.install_testext();
        go_through(&server, &WITHOUT_NAMES);
    }
}

/// One state of the matrix after the other.
#[track_caller]
fn go_through(server: &Server, names: &[&str]) {
    for name in names {
        let row = ROWS.iter().find(|(n, _)| n == name);
        let (_, scenario) = row.unwrap_or_else(|| panic!("no row {name} in the matrix"));
        eprintln!("{}: {name}", server.installation().version());
        is_judged_and_treated_as_it_is(server, scenario);
    }
}

/// Of a backend that is stuck without any extension, all is told, and a terminate ends it.
#[track_caller]
fn everything_is_known(server: &Server) {
    let stuck = server.stuck_on_fifo();
    stuck.prove_stuck(How::Terminate);
    let report = Report::of(&["inspect"], stuck.pid());
    report
        .assert_verdict("safe")
        .assert_verdict_if("safe", "safe")
        .assert_at("/cause/code", "blocked-syscall")
        .assert_at("/stack_complete", true)
        .assert_all_checks_pass();
    assert_backend(&report, server, stuck.sql());
    assert_handlers(&report, &OWN, server);
    for function in ["PostgresMain", "PostmasterMain"] {
        let named = report.frames().iter().any(|f| function_of(f) == function);
        assert!(named, "{function}:\n{}", report.run);
    }
    Report::of(&["interrupt", "--yes"], stuck.pid()).assert_outcome("terminated", 0);
    stuck.assert_terminated();
    server.assert_unharmed();
}

#[test]
fn a_build_with_dwarf() {
    let installation = built!(Installation::dwarf());
    let server = Server::builder().installation(installation).start();
    everything_is_known(&server);
    locks::is_told_who_blocks(&server);
}

/// The titles of a server's processes, what they are, and whether pgpoke keeps its hands off them.
const PROCESSES: [(&str, &str, bool); 16] = [
    ("archiver", "archiver", true),
    ("autovacuum launcher", "autovacuum launcher", true),
    ("autovacuum worker", "autovacuum worker", false),
    ("background writer", "background writer", true),
    ("checkpointer", "checkpointer", true),
    ("io worker", "io worker", true),
    ("logger", "logger", true),
    ("logical replication launcher", "background worker", false),
    ("parallel worker", "background worker", false),
    ("postgres postgres [local]", "client backend", false),
    ("startup", "startup", true),
    ("stats collector", "stats collector", true),
    ("walreceiver", "walreceiver", true),
    ("walsender", "walsender", false),
    ("walsummarizer", "walsummarizer", true),
    ("walwriter", "walwriter", true),
];

fn every_process_is_what_it_is(installation: Installation) {
    let major = installation.major();
    let exists = |title: &str| match title {
        "io worker" => major >= 18,
        "stats collector" => major <= 14,
        "walsummarizer" => major >= 17,
        _ => true,
    };
    let parallel = match major {
        ..16 => "force_parallel_mode",
        _ => "debug_parallel_query",
    };
    let mut builder = Server::builder()
        .installation(installation)
        .setting("archive_mode", "on")
        .setting("archive_command", "true")
        .setting("logging_collector", "on")
        .setting("autovacuum_naptime", "1s")
        .setting("autovacuum_vacuum_cost_delay", "100ms")
        .setting("autovacuum_vacuum_cost_limit", "1")
        .setting(parallel, "on");
    if exists("walsummarizer") {
        builder = builder.setting("summarize_wal", "on");
    }
    let server = builder.start();
    let primary = format!("host={} user=postgres", server.directory().display());
    let standby = Server::builder()
        .installation(server.installation().clone())
        .setting("primary_conninfo", &primary)
        .standby()
        .start();
    let processes = || {
        let of_both = [&server, &standby].map(|s| children(s.postmaster()));
        of_both.into_iter().flatten()
    };
    let vacuum = vacuuming(&server);
    let leader = server.stuck_when("SELECT pg_sleep(3600)", |b| b.state() == Some('S'));

    for (title, kind, untouchable) in PROCESSES {
        if !exists(title) {
            continue;
        }
        let process = wait_for(DEADLINE, &format!("there shall be a {title}"), || {
            // Workers that find nothing to do are gone at once.
            let idle = |p: &Backend| title == "autovacuum worker" && *p != vacuum;
            let mut those = processes().filter(|(t, p)| t.starts_with(title) && !idle(p));
            those.next().map(|(_, process)| process)
        });
        is_what_it_is(process, kind, untouchable);
    }
    is_what_it_is(server.postmaster(), "postmaster", true);
    // None was left out.
    for (title, _) in processes() {
        let known = |(t, ..): &(&str, _, _)| title.starts_with(t);
        assert!(PROCESSES.iter().any(known), "{title}");
    }
    assert_eq!(leader.ended_within(Duration::ZERO), None);
    who_waits_for_a_walsender_is_known(&server);
    standby.assert_unharmed();
    server.assert_unharmed();
}

/// Before and after the server makes a synchronous standby of the one that it has.
#[track_caller]
fn who_waits_for_a_walsender_is_known(server: &Server) {
    let states = [
        ("", "async", "no commit waits for it"),
        ("1 (*)", "sync", "COMMITS WAIT UNTIL IT IS BACK"),
        ("ANY 1 (*)", "quorum", "COMMITS WAIT UNTIL IT IS BACK"),
    ];
    for (names, state, means) in states {
        let mut client = server.connect();
        client
            .execute(
                &format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"),
                &[],
            )
            .expect("a setting");
        client
            .execute("SELECT pg_reload_conf()", &[])
            .expect("a reload");
        let sql = "SELECT pid FROM pg_stat_replication WHERE sync_state = $1";
        let pid: i32 = wait_for(DEADLINE, &format!("the standby shall be {state}"), || {
            let row = client.query_opt(sql, &[&state]).expect("standbys");
            row.map(|row| row.get(0))
        });
        let report = Report::of(&["interrupt", "--terminate", "--dry-run"], pid);
        report.assert_outcome("dry-run", 0);
        let said = report.at("/consequences").to_string();
        assert!(said.contains(means), "{state}: {}", report.run);
    }
}

#[track_caller]
fn is_what_it_is(process: Backend, kind: &str, untouchable: bool) {
    let report = Report::of(&["inspect"], process.pid);
    report.assert_at("/backend/type", kind);
    assert_eq!(report.check("server-known"), "pass", "{}", report.run);
    if untouchable {
        report.assert_verdict("unsafe");
        report.assert_verdict_if("unsafe", "unsafe");
        assert_eq!(report.check("backend-type"), "fail", "{}", report.run);
        let terminate = ["interrupt", "--terminate", "--grace", "0s", "--yes"];
        Report::of(&terminate, process.pid).assert_outcome("refused", 4);
    } else {
        assert_eq!(report.check("backend-type"), "pass", "{}", report.run);
        assert_eq!(report.check("unwind"), "pass", "{}", report.run);
        assert_eq!(report.check("handlers"), "pass", "{}", report.run);
        for signal in ["SIGINT", "SIGTERM", "SIGUSR1"] {
            report.assert_at(&format!("/signals/{signal}/expected"), true);
        }
    }
    process.assert_running_untraced();
}

/// An autovacuum worker that is busy for a while, given the settings above.
fn vacuuming(server: &Server) -> Backend {
    let mut client = server.connect();
    client
        .batch_execute(
            "CREATE TABLE vacuumed (t text) WITH (autovacuum_vacuum_threshold = 0);
             INSERT INTO vacuumed SELECT repeat('x', 1000) FROM generate_series(1, 3000);
             DELETE FROM vacuumed",
        )
        .expect("a table");
    wait_for(DEADLINE, "a worker shall vacuum the table", || {
        let sql = "SELECT pid FROM pg_stat_activity
                   WHERE backend_type = 'autovacuum worker' AND query LIKE '%vacuumed%'";
        let row = client.query_opt(sql, &[]).expect("pg_stat_activity");
        Backend::open(row?.get(0))
    })
}

/// Replaces all of a text in a file by another of the same length.
fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) {
    assert_eq!(old.len(), new.len());
    let places: Vec<usize> = (0..bytes.len() - old.len())
        .filter(|at| bytes[*at..].starts_with(old))
        .collect();
    assert!(!places.is_empty(), "{}", String::from_utf8_lossy(old));
    for at in places {
        bytes[at..at + old.len()].copy_from_slice(new);
    }
}

/// A server like npm's of that version whose executable was changed, and a backend stuck there.
macro_rules! altered {
    ($major:expr, $name:expr, $old:expr, $new:expr) => {{
        let original = fetched!(Installation::npm($major));
        let dir = Installation::temp_dir();
        let changes = |bytes: &mut [u8]| replace(bytes, $old, $new);
        let altered = original.altered(dir.path(), $name, changes);
        (Server::builder().installation(altered).start(), dir)
    }};
}

/// Everything is as far as symbols carry it, and there is a word of warning.
#[track_caller]
fn is_freed_with_a_warning(server: &Server, version: Option<&str>) {
    let stuck: Stuck = server.stuck_on_fifo();
    stuck.prove_stuck(How::Cancel);
    let report = Report::of(&["inspect"], stuck.pid());
    report
        .assert_verdict("risky")
        .assert_at("/cause/code", "blocked-syscall")
        .assert_at("/stack_complete", true)
        .assert_at("/backend/type", "client backend")
        .assert_at("/backend/server_version", version);
    assert_eq!(
        report.checks_that("warn"),
        ["server-known"],
        "{}",
        report.run
    );
    assert!(report.checks_that("fail").is_empty(), "{}", report.run);
    Report::of(&["interrupt", "--yes", "--wait", "100ms"], stuck.pid())
        .assert_outcome("refused", 3);
    let allow = ["interrupt", "--yes", "--allow", "server-known"];
    Report::of(&allow, stuck.pid()).assert_outcome("cancelled", 0);
    stuck.assert_cancelled();
    assert!(stuck.run_follow_up("SELECT 1").is_ok());
    let checkpointer = children(server.postmaster()).into_iter();
    let mut checkpointer = checkpointer.filter(|(title, _)| title.starts_with("checkpointer"));
    let (_, checkpointer) = checkpointer.next().expect("a checkpointer");
    let report = Report::of(&["inspect"], checkpointer.pid);
    report
        .assert_verdict("unsafe")
        .assert_at("/backend/type", "checkpointer");
    server.assert_unharmed();
}

#[test]
fn a_version_that_nobody_knows_yet() {
    let (old, new) = (
        b"postgres (PostgreSQL) 18.4\n",
        b"postgres (PostgreSQL) 19.4\n",
    );
    let (server, _dir) = altered!(18, "postgres", old, new);
    is_freed_with_a_warning(&server, Some("19.4"));
}

#[test]
fn a_fork_that_calls_itself_otherwise() {
    let (old, new) = (
        b"postgres (PostgreSQL) 16.14\n",
        b"postgres (Greenplum7) 16.14\n",
    );
    let (server, _dir) = altered!(16, "greenplum", old, new);
    is_freed_with_a_warning(&server, None);
}

#[test]
fn an_executable_with_another_name() {
    let name = b"postgres (PostgreSQL) ";
    let (server, _dir) = altered!(17, "edb-postgres", name, name);
    everything_is_known(&server);
}

#[test]
fn a_server_without_what_is_needed() {
    let (old, new) = (b"\0ProcessInterrupts\0", b"\0ProcessInterruptz\0");
    let (server, _dir) = altered!(17, "postgres", old, new);
    let stuck = server.stuck_on_fifo();
    let missing = ["not a PostgreSQL backend", "has no ProcessInterrupts"];
    assert_refused_without_judgement(stuck.pid(), 7, &missing);
    stuck.backend().assert_running_untraced();
    server.assert_unharmed();
}

/// Whatever counts what holds interrupts off there, it is not what is read here.
#[test]
fn a_server_with_another_way_to_interrupt() {
    let (old, new) = (b"\0InterruptHoldoffCount\0", b"\0InterruptHoldoffLevel\0");
    let (server, _dir) = altered!(17, "postgres", old, new);
    let stuck = server.stuck_on_fifo();
    stuck.prove_stuck(How::Cancel);
    let report = Report::of(&["inspect"], stuck.pid());
    report.assert_verdict("unsafe");
    assert_eq!(report.check("interrupt-model"), "fail", "{}", report.run);
    let checks = report.at("/checks").to_string();
    assert!(checks.contains("InterruptHoldoffCount"), "{}", report.run);
    Report::of(&["interrupt", "--yes", "--wait", "100ms"], stuck.pid())
        .assert_outcome("refused", 4);
    stuck.backend().assert_running_untraced();
    server.assert_unharmed();
}
