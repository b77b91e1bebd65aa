//! The commands in README.md and docs/ that are no transcripts, run as they stand there: only what stands for something,
//! such as PID, is put in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::containers::{Container, image};
use crate::harness::{DEADLINE, How, Run, Server, is_root, pgpoke, skip, wait_for};
use crate::static_build;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The lines of the block of code that begins so, without their comments.
#[track_caller]
fn block(name: &str, first: &str) -> Vec<String> {
    let page = page(name);
    let (_, rest) = page
        .split_once(&format!("```\n{first}"))
        .unwrap_or_else(|| panic!("no block of {name} begins with {first:?}"));
    let (rest, _) = rest.split_once("```").expect("its end");
    let lines = format!("{first}{rest}");
    let bare = |line: &str| {
        line.split(" #")
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    lines.lines().map(bare).collect()
}

/// A command, with these words instead of what stands for them.
fn typed(line: &str, instead: &[(&str, &str)]) -> Command {
    let mut words = line.split_whitespace().map(|word| {
        let found = instead.iter().find(|(stands, _)| *stands == word);
        found.map_or(word, |(_, is)| is)
    });
    let mut command = Command::new(words.next().expect("a program"));
    command.args(words);
    command
}

/// pgpoke where everybody can run it.
fn installed() -> (TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let to = dir.path().join("pgpoke");
    fs::copy(pgpoke().get_program(), &to).expect("a copy");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
    let path = to.to_str().expect("a path").to_owned();
    (dir, path)
}

/// What the placeholders are on this machine.
fn here<'a>(program: &'a str, pid: &'a str) -> [(&'static str, &'a str); 3] {
    [
        ("postgres", "pgpoke-test"),
        ("pgpoke", program),
        ("PID", pid),
    ]
}

/// What is said of one that waits for a FIFO.
const WELL: &str = "a cancel or a terminate would be safe";

fn there_is(program: &str) -> bool {
    Run::of(typed(&format!("which {program}"), &[])).code() == Some(0)
}

macro_rules! needs_sudo {
    () => {
        if !is_root() {
            skip!("only root can become anybody");
        }
        if !there_is("sudo") {
            skip!("no sudo: run scripts/install-deps.sh");
        }
    };
}

#[test]
fn the_three_commands_for_the_night() {
    needs_sudo!();
    let (_dir, program) = installed();
    let server = Server::start();
    for name in ["README.md", "docs/operators.md"] {
        let stuck = server.stuck_on_fifo();
        stuck.prove_stuck(How::Cancel);
        let pid = stuck.pid().to_string();
        let instead = here(&program, &pid);
        let lines = block(name, "sudo -u postgres pgpoke list --stuck");
        let [list, inspect, interrupt] = &lines[..] else {
            panic!("{name}: {lines:?}");
        };
        wait_for(DEADLINE, "it shall be listed as stuck", || {
            let run = Run::of(typed(list, &instead));
            run.assert_code(0);
            let first = |line: &str| line.split_whitespace().next() == Some(&pid);
            run.stdout.lines().any(first).then_some(())
        });
        Run::of(typed(inspect, &instead))
            .assert_code(0)
            .assert_says("SAFE");
        // sudo looks for the terminal that it is on.
        let interrupt = format!("setsid --ctty --wait {interrupt}");
        let run = Run::asking(typed(&interrupt, &instead), |_, _| "y\n".to_owned());
        run.assert_code(0)
            .assert_says("the statement was cancelled; the session goes on");
        stuck.assert_cancelled();
    }
    server.assert_unharmed();
}

/// The lines for the server's user: here, and in a container.
fn for_the_server_s_user() -> [String; 2] {
    let lines = block("docs/permissions.md", "sudo -u postgres pgpoke inspect PID");
    lines.try_into().expect("two lines")
}

#[test]
fn the_server_s_user_may_look() {
    needs_sudo!();
    let [line, _] = for_the_server_s_user();
    let (_dir, program) = installed();
    let server = Server::start();
    let stuck = server.stuck_on_fifo();
    let pid = stuck.pid().to_string();
    Run::of(typed(&line, &here(&program, &pid)))
        .assert_code(5)
        .assert_says(WELL);
    server.assert_unharmed();
}

#[test]
fn the_server_s_user_may_look_in_a_container() {
    if !is_root() {
        skip!("only root runs containers here");
    }
    let [_, line] = for_the_server_s_user();
    let Some(image) = image("trixie") else {
        skip!("no image of trixie: run scripts/build-containers.sh");
    };
    let container = Container::start(&image, &[]);
    let stuck = container.stuck();
    let pid = stuck.pid_inside().to_string();
    let instead = [
        ("docker", "podman"),
        ("CONTAINER", container.name()),
        ("PID", &pid),
    ];
    let look = |line: &str| {
        let run = Run::of(typed(line, &instead));
        run.assert_code(5).assert_says(WELL);
    };
    look(&line);
    // And the other way, where it is not in the image.
    let Some(program) = static_build::executable() else {
        skip!("there is no static executable: run `make static`");
    };
    let lines = block("README.md", "docker cp ");
    let [copy, inspect] = &lines[..] else {
        panic!("{lines:?}");
    };
    let built = "target/x86_64-unknown-linux-gnu/release/pgpoke";
    assert!(copy.contains(built), "{copy}");
    let to = format!("{}:/tmp/", container.name());
    let instead = [
        ("docker", "podman"),
        (built, program.to_str().expect("a path")),
        ("CONTAINER:/tmp/", &to),
    ];
    Run::of(typed(copy, &instead)).assert_code(0);
    look(inspect);
    container.assert_unharmed();
}

#[test]
fn the_rule_for_sudo_is_one() {
    needs_sudo!();
    let rules = block("docs/permissions.md", "%dba ALL");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("pgpoke");
    fs::write(&file, rules.join("\n") + "\n").expect("a file");
    let mut check = Command::new("visudo");
    check.arg("-cf").arg(&file);
    Run::of(check).assert_code(0).assert_says("parsed OK");
}

/// What is on a rung of the ladder in docs/operators.md to type.
fn rung(page: &str, number: usize) -> &str {
    let mut rows = page.lines().filter_map(|line| {
        let line = line.strip_prefix(&format!("| {number} | `"))?;
        Some(line.split('`').next().expect("code"))
    });
    rows.next().unwrap_or_else(|| panic!("no rung {number}"))
}

/// What is said of the rungs without pgpoke is so: the signals are sent and change nothing, and kill -9 ends all sessions.
#[test]
fn the_rungs_without_pgpoke() {
    if !is_root() {
        skip!("only root may kill the server's processes");
    }
    let page = page("docs/operators.md");
    let server = Server::builder().alone().start();
    server.expect_crash();
    let stuck = server.stuck_on_fifo();
    let pid = stuck.pid().to_string();
    let psql = |sql: &str| {
        let mut psql = Command::new(server.installation().program("psql"));
        psql.arg(server.conninfo());
        psql.args(["-XAtqc", &sql.replace("PID", &pid)]);
        Run::of(psql)
    };
    let run = psql(rung(&page, 1));
    assert_eq!(run.stdout, "t\n", "{run}");
    stuck.prove_stuck(How::Cancel);
    let run = psql(rung(&page, 2));
    assert_eq!(run.stdout, "f\n", "{run}");
    run.assert_says("WARNING:");
    let mut other = server.connect();
    let mut kill = Command::new("sh");
    kill.args(["-c", &rung(&page, 5).replace("PID", &pid)]);
    Run::of(kill).assert_code(0);
    wait_for(DEADLINE, "the other session shall be ended, too", || {
        other.simple_query("SELECT 1").err()
    });
    wait_for(DEADLINE, "the server shall be back", || {
        (psql("SELECT 1").code() == Some(0)).then_some(())
    });
    assert!(!server.signs_of_a_crash().is_empty());
}

/// Tests that a page says to run are there.
#[test]
fn tests_that_are_named_exist() {
    const SUITE: &str = "cargo test --release --test suite -- ";
    let mut list = Command::new(std::env::current_exe().expect("ourselves"));
    let list = Run::of({
        list.arg("--list");
        list
    });
    let pages = [
        "README.md",
        "CONTRIBUTING.md",
        "docs/safety.md",
        "docs/how-it-works.md",
    ];
    let mut seen = 0;
    for name in pages {
        for after in page(name).split(SUITE).skip(1) {
            let test = after.split([' ', '`', '\n']).next().expect("a name");
            let there = |line: &str| line.starts_with(test) && line.ends_with(": test");
            assert!(list.stdout.lines().any(there), "{name}: {test}");
            seen += 1;
        }
    }
    assert!(seen > 3, "only {seen}");
}
