//! The transcripts in README.md are what pgpoke prints, and the scripts in docs/exit-codes.md do what is said of them.
//!
//! A transcript follows its name, `<!-- printed: NAME -->`. PIDs, times, addresses and paths are of no interest. `make
//! docs` writes all of them anew, as they were really printed; `…` stands for lines that are left out.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use postgres::NoTls;

use crate::harness::{
    Backend, DEADLINE, How, Run, Server, Stuck, as_user_without_ptrace, is_root, pgpoke,
    server_with_testext, skip, wait_for,
};
use crate::safety::audit::Log;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const MARK: &str = "<!-- printed: ";

/// What somebody typed, and what came of it. Not every machine that tests has a system log.
fn typed(run: &Run, shown: &str) -> String {
    const NO_LOG: &str = "pgpoke: warning: cannot write to the system log";
    let said = run.stderr.lines().filter(|line| !line.starts_with(NO_LOG));
    let said: String = said.map(|line| format!("{line}\n")).collect();
    format!("$ {shown}\n{said}{}", run.stdout)
}

/// Runs pgpoke as it is shown.
#[track_caller]
fn say(shown: &str, code: i32) -> String {
    let run = Run::pgpoke(shown.split(' ').skip(1));
    run.assert_code(code);
    typed(&run, shown)
}

/// Only what is said on stderr and under these labels; what else there is, is `…`.
fn only(text: &str, labels: &[&str]) -> String {
    let mut kept = String::new();
    let mut wanted = true;
    for line in text.lines() {
        if !line.starts_with(' ') {
            let label = line.split("  ").next().unwrap_or_default();
            wanted = line.starts_with("$ ")
                || line.starts_with("pgpoke: ")
                || labels.contains(&label.split(' ').next().unwrap_or(label));
        }
        if wanted {
            kept.push_str(line);
            kept.push('\n');
        } else if !kept.ends_with("…\n") {
            kept.push_str("…\n");
        }
    }
    kept
}

fn ignores(server: &Server, call: &str, how: How, act: impl FnOnce(&Stuck) -> String) -> String {
    let stuck = server.stuck(&format!("SELECT {call};"));
    stuck.prove_stuck(how);
    act(&stuck)
}

fn cancelled(server: &Server) -> String {
    ignores(server, "pgpoke_spin()", How::Cancel, |stuck| {
        let pid = stuck.pid();
        let looked = say(&format!("pgpoke inspect {pid}"), 0);
        let stepped_in = say(&format!("pgpoke interrupt --yes {pid}"), 0);
        stuck.assert_cancelled();
        format!("{looked}\n{stepped_in}")
    })
}

fn nothing_pending(server: &Server) -> String {
    let stuck = server.stuck("SELECT pgpoke_spin();");
    let run = Run::pgpoke(["inspect", &stuck.pid().to_string()]);
    run.assert_code(5);
    let lines: Vec<&str> = run.stdout.lines().take(2).collect();
    lines.join("\n") + "\n"
}

fn lwlock_wait(server: &Server) -> String {
    let holder = server.stuck("SELECT pgpoke_lwlock_hold('builtin', false)");
    let found = ignores(
        server,
        "pgpoke_lwlock_wait('builtin', true)",
        How::Cancel,
        |stuck| say(&format!("pgpoke inspect {}", stuck.pid()), 5),
    );
    assert!(found.contains(&format!("which process {} holds", holder.pid())));
    only(&found, &["verdict", "cause", "next"])
}

fn escalated(server: &Server) -> String {
    let stuck = server.stuck("SELECT pgpoke_swallow();");
    let pid = stuck.pid();
    let run = say(
        &format!("pgpoke interrupt --cancel --escalate --yes --grace 300ms {pid}"),
        0,
    );
    stuck.assert_terminated();
    only(&run, &["outcome"])
}

fn malloc(server: &Server) -> String {
    ignores(server, "pgpoke_malloc()", How::Cancel, |stuck| {
        let pid = stuck.pid().to_string();
        let run = Run::pgpoke(["interrupt", "--yes", "--wait", "30s", &pid]);
        run.assert_code(0);
        stuck.assert_cancelled();
        only(&run.stdout, &["server", "stood"]).replace("…\n", "")
    })
}

fn syslog(server: &Server) -> String {
    let log = Log::new();
    ignores(server, "pgpoke_spin()", How::Terminate, |stuck| {
        let pid = stuck.pid().to_string();
        log.pgpoke(&["interrupt", "--yes", "--terminate", &pid])
            .assert_code(0);
        // Without the priority that syslog(3) puts before each.
        let records = log.records();
        let plain = records
            .iter()
            .map(|r| r.trim_start_matches("<13>").trim_end());
        plain.collect::<Vec<_>>().join("\n") + "\n"
    })
}

fn checkpointer(server: &Server) -> String {
    let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'";
    let pid: i32 = server.ask(|client| client.query_one(sql, &[]).expect("one").get(0));
    only(&say(&format!("pgpoke inspect {pid}"), 4), &["verdict"])
}

/// The report's transcript, and the beginning of its backtraces.
fn report(server: &Server) -> [String; 2] {
    let mut stacks = String::new();
    let dir = server.directory().join("report");
    let told = ignores(server, "pgpoke_spin()", How::Cancel, |stuck| {
        let (dsn, pid) = (server.conninfo(), stuck.pid().to_string());
        let dir = dir.to_str().expect("a path");
        let run = Run::pgpoke(["report", "--core", "--dsn", &dsn, "-o", dir, &pid]);
        run.assert_code(0);
        let stacks_of = Path::new(dir).join("backtraces.txt");
        stacks = std::fs::read_to_string(stacks_of).expect("the backtraces");
        // What is going on depends on the moment, and what was not to be had on the machine.
        let stdout: Vec<&str> = run.stdout.lines().collect();
        let kept = stdout
            .iter()
            .filter(|line| !line.starts_with("not had ") && !line.contains(".txt: "));
        let kept: Vec<&str> = kept.copied().collect();
        format!(
            "$ pgpoke report --core --dsn '{dsn}' -o {dir} {pid}\n{}\n",
            kept.join("\n")
        )
    });
    let at = stacks.find("look 1, ").expect("a first look");
    let lines: Vec<&str> = stacks[at..].lines().take(7).collect();
    [told, lines.join("\n") + "\n…\n"]
}

fn report_first(server: &Server) -> String {
    let dir = server.directory().join("first");
    let stuck = server.stuck("SELECT pgpoke_spin();");
    let shown = format!(
        "pgpoke interrupt --report {} --yes --cancel {}",
        dir.display(),
        stuck.pid()
    );
    let run = say(&shown, 0);
    stuck.assert_cancelled();
    only(&run, &[])
}

/// A shop, with two who are stuck and two who are not: the list, and that of who is stuck.
fn lists(server: &Server) -> [String; 2] {
    let library = server.directory().join("pgpoke_test.so");
    let mut admin = server.connect();
    for sql in [
        "CREATE ROLE report SUPERUSER LOGIN",
        "CREATE ROLE alice SUPERUSER LOGIN",
        "CREATE DATABASE shop",
    ] {
        admin.batch_execute(sql).expect(sql);
    }
    let session = |user: &str, application: &str| {
        let mut config = server.config();
        config
            .dbname("shop")
            .user(user)
            .application_name(application);
        let mut client = config.connect(NoTls).expect("a session");
        let pid = client.query_one("SELECT pg_backend_pid()", &[]);
        let pid: i32 = pid.expect("its PID").get(0);
        (client, Backend::open(pid).expect("it lives"))
    };
    let library = library.display();
    let mut setup = format!(
        "CREATE TABLE orders (id int, total numeric); INSERT INTO orders VALUES (7, 150);
         CREATE FUNCTION pgpoke_spin() RETURNS void AS '{library}' LANGUAGE C;
         CREATE FUNCTION pgpoke_read() RETURNS void AS '{library}' LANGUAGE C;"
    );
    setup.retain(|c| c != '\n');
    session("alice", "setup")
        .0
        .batch_execute(&setup)
        .expect("a shop");
    // Each statement on a thread of its own; it ends with the server.
    let run = |user: &str, application: &str, sql: &'static str| {
        let (mut client, backend) = session(user, application);
        std::thread::spawn(move || client.batch_execute(sql));
        backend
    };
    let fetch = run("report", "fetch", "SELECT pgpoke_read()");
    wait_for(DEADLINE, "it shall read", || {
        (fetch.syscall() == Some(libc::SYS_read)).then_some(())
    });
    let invoices = "SELECT pgpoke_spin() FROM orders WHERE total > 100";
    let spin = run("report", "invoices", invoices);
    wait_for(DEADLINE, "it shall compute", || {
        (spin.cpu_ticks() > 10).then_some(())
    });
    let (mut checkout, _) = session("alice", "checkout");
    let update = "BEGIN; UPDATE orders SET total = total + 1 WHERE id = 7;";
    checkout.batch_execute(update).expect("an update");
    let waiter = "UPDATE orders SET total = 0 WHERE id = 7";
    run("alice", "checkout", waiter);
    for backend in [&fetch, &spin] {
        let cancel = format!("SELECT pg_cancel_backend({})", backend.pid);
        admin.batch_execute(&cancel).expect("a cancel");
    }
    let list = |options: &str, ready: &dyn Fn(&str) -> bool| {
        wait_for(DEADLINE, "all shall be listed", || {
            let shown = format!("pgpoke list {options}");
            let run = Run::pgpoke(shown.split(' ').skip(1));
            run.assert_code(0);
            ready(&run.stdout).then(|| format!("$ {shown} | cat\n{}", run.stdout))
        })
    };
    let two = |text: &str| text.matches("ignores a cancel").count() == 2;
    [
        list("-d shop", &|text| {
            two(text) && text.contains("Lock:transactionid")
        }),
        list("--stuck -d shop", &two),
    ]
}

fn json(server: &Server) -> String {
    let stuck = server.stuck("SELECT pgpoke_spin();");
    let shown = format!(
        "pgpoke interrupt --yes --cancel --grace 200ms --json {} | \
         jq -c '{{pid,verdict,outcome,server_restarted,stopped_ms}}'",
        stuck.pid()
    );
    let run = shell(&shown);
    run.assert_code(0);
    stuck.assert_cancelled();
    format!("$ {shown}\n{}", run.stdout)
}

fn denied(server: &Server) -> String {
    let stuck = server.stuck_on_fifo();
    let shown = format!("pgpoke inspect {}", stuck.pid());
    let mut command = pgpoke();
    command.args(shown.split(' ').skip(1));
    let run = Run::of(as_user_without_ptrace(command));
    run.assert_code(6);
    typed(&run, &shown)
}

/// With pgpoke where it is looked for.
fn shell(script: &str) -> Run {
    let program = pgpoke().get_program().to_owned();
    let bin = Path::new(&program).parent().expect("its directory");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("bash");
    command.args(["-c", script]);
    command.env("PATH", format!("{}:{path}", bin.display()));
    Run::of(command)
}

/// Without what differs from run to run.
fn normalised(text: &str) -> String {
    let mut normal = String::new();
    for line in text.lines() {
        let words = line.split_whitespace().map(|word| {
            let bare = word.trim_matches(|c: char| "()'\";,:".contains(c));
            if bare.starts_with('/') || bare.contains("=/") || bare.contains("=\"/") {
                return "PATH".to_owned();
            }
            let mut out = String::new();
            let mut number = false;
            // Hexadecimal numbers begin so.
            let hex = word.contains("0x");
            for c in word.chars() {
                let digit =
                    c.is_ascii_digit() || number && (c == '.' || hex && c.is_ascii_hexdigit());
                match (digit, number) {
                    (true, false) => out.push('#'),
                    (true, true) => {}
                    (false, _) if hex && c == 'x' && number => continue,
                    (false, _) => out.push(c),
                }
                number = digit;
            }
            out
        });
        let words: Vec<String> = words.collect();
        let mut line = words.join(" ");
        for (from, to) in [
            ("# ms", "TIME"),
            ("# s", "TIME"),
            ("at the first look", "at a look"),
            ("at the #st look", "at a look"),
            ("at the #nd look", "at a look"),
            ("at the #rd look", "at a look"),
            ("at the #th look", "at a look"),
            ("for # looks", "for # look"),
            ("# looks for", "# look for"),
        ] {
            line = line.replace(from, to);
        }
        // The machine's own.
        for (start, rest) in [
            ("Linux ", ""),
            ("(Yama's ptrace_scope: ", ")"),
            ("in the kernel's ", ""),
        ] {
            if let Some(at) = line.find(start) {
                line.truncate(at + start.len());
                line.push_str(rest);
            }
        }
        writeln!(normal, "{line}").unwrap();
    }
    normal
}

#[test]
fn only_numbers_times_and_paths_are_of_no_interest() {
    let said = "look at 0x7f00ab of process 4711 in /tmp/a (3.9 ms)";
    let again = "look at 0x55 of process 12 in /tmp/bcd  (1.0 s)";
    assert_eq!(normalised(said), normalised(again));
    for other in [
        "look at 0x55 of process 12 in /tmp/bcd (1.0 s), too",
        "look at 0x55 of process postgres in /tmp/bcd (1.0 s)",
        "a look at 0x55 of process 12 in /tmp/bcd (1.0 s)",
    ] {
        assert_ne!(normalised(said), normalised(other));
    }
}

#[test]
fn the_transcripts_in_the_readme_are_what_is_printed() {
    if !is_root() {
        skip!("only root has another /dev/log, and can be someone else");
    }
    let server = server_with_testext!();
    let [report, backtraces] = report(&server);
    let [list, list_stuck] = lists(&server);
    let mut printed = vec![
        ("cancelled", cancelled(&server)),
        ("nothing-pending", nothing_pending(&server)),
        ("lwlock-wait", lwlock_wait(&server)),
        ("escalated", escalated(&server)),
        ("malloc", malloc(&server)),
        ("syslog", syslog(&server)),
        ("checkpointer", checkpointer(&server)),
        ("report", report),
        ("backtraces", backtraces),
        ("report-first", report_first(&server)),
        ("list", list),
        ("list-stuck", list_stuck),
        ("selftest", say("pgpoke selftest", 0)),
        ("json", json(&server)),
        ("denied", denied(&server)),
    ];
    server.assert_unharmed();

    let path = Path::new(ROOT).join("README.md");
    let there = std::fs::read_to_string(&path).expect("README.md");
    let mut wanted = String::new();
    let mut differences = String::new();
    let mut lines = there.lines();
    while let Some(line) = lines.next() {
        writeln!(wanted, "{line}").unwrap();
        let Some(name) = line.strip_prefix(MARK) else {
            continue;
        };
        let name = name.trim_end_matches(" -->");
        let at = printed.iter().position(|(n, _)| *n == name);
        let (_, now) = printed.remove(at.unwrap_or_else(|| panic!("{name}: unknown, or twice")));
        assert_eq!(lines.next(), Some("```"), "{name}");
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let block = block.join("\n") + "\n";
        if normalised(&block) != normalised(&now) {
            writeln!(differences, "{name}, in README.md:\n{block}now:\n{now}").unwrap();
        }
        writeln!(wanted, "```\n{now}```").unwrap();
    }
    let left: Vec<&str> = printed.iter().map(|(name, _)| *name).collect();
    assert!(left.is_empty(), "not in README.md: {left:?}");
    if std::env::var_os("PGPOKE_WRITE_DOCS").is_some() {
        std::fs::write(&path, wanted).expect("README.md");
    } else {
        assert!(differences.is_empty(), "make docs\n{differences}");
    }
}

/// Each script in docs/exit-codes.md, with what it says of a backend that ignores a cancel, and whether that is freed.
#[test]
fn the_scripts_for_exit_codes_do_what_is_said_of_them() {
    let server = server_with_testext!();
    let page = Path::new(ROOT).join("docs/exit-codes.md");
    let page = std::fs::read_to_string(page).expect("docs/exit-codes.md");
    let scripts: Vec<&str> = page
        .split("```sh\n")
        .skip(1)
        .filter_map(|part| part.split("```").next())
        .collect();
    let come_of_it = [
        ("step-in: ProcessInterrupts() was called", true),
        ("done", true),
        ("a terminate would be safe at this moment", false),
        ("outcome      cancelled", true),
    ];
    assert_eq!(scripts.len(), come_of_it.len());
    for (script, (says, frees)) in scripts.into_iter().zip(come_of_it) {
        let stuck = server.stuck("SELECT pgpoke_spin()");
        stuck.prove_stuck(How::Cancel);
        let run = shell(&format!("pid={}\n{script}", stuck.pid()));
        run.assert_code(0).assert_says(says);
        if frees {
            stuck.assert_cancelled();
        } else {
            stuck.prove_stuck(How::Cancel);
        }
    }
    server.assert_unharmed();
}
