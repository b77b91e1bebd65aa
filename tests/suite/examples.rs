//! The extension in docs/examples/extension: it ignores a cancel in three ways, and with its patch obeys in each.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{DEADLINE, How, Run, Server, Stuck, skip};

/// Function, its arguments in SQL, the cause of its not obeying; and where it is when it has got going, before and after.
const WAYS: [(&str, &str, &str, Where, Where); 3] = [
    (
        "compute",
        "",
        "cpu-loop",
        Where::Computing,
        Where::Computing,
    ),
    (
        "await_latch",
        "",
        "latch-loop",
        Where::In(libc::SYS_epoll_wait),
        Where::In(libc::SYS_epoll_wait),
    ),
    (
        "read_fifo",
        "text",
        "blocked-syscall",
        Where::In(libc::SYS_read),
        Where::In(libc::SYS_epoll_wait),
    ),
];

#[derive(Clone, Copy)]
enum Where {
    Computing,
    In(i64),
}

/// Builds the extension in a directory of the server's, with the patch or without.
fn build(server: &Server, pg_config: &Path, with_patch: bool) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = root.join("docs/examples/extension");
    let dir = server.directory().join(format!("patched-{with_patch}"));
    std::fs::create_dir(&dir).expect("a directory");
    for name in ["Makefile", "uncancellable.c"] {
        std::fs::copy(source.join(name), dir.join(name)).expect(name);
    }
    if with_patch {
        let mut patch = Command::new("patch");
        patch.args(["-p4", "--fuzz=0", "-i"]);
        patch.arg(source.join("uncancellable.patch"));
        Run::of(in_it(patch, &dir)).assert_code(0);
    }
    let mut make = Command::new("make");
    make.arg(format!("PG_CONFIG={}", pg_config.display()));
    // The jobserver of a make that runs these tests is not meant for this one.
    make.env_remove("MAKEFLAGS").env_remove("MFLAGS");
    let run = Run::of(in_it(make, &dir));
    run.assert_code(0);
    assert!(!run.stderr.contains("warning"), "{run}");
    dir.join("uncancellable.so")
}

fn in_it(mut command: Command, dir: &Path) -> Command {
    command.current_dir(dir);
    command
}

/// Calls one of the functions of the library, and returns when it has got going.
fn call<'s>(server: &'s Server, library: &Path, n: usize, there: Where) -> Stuck<'s> {
    let (function, types, ..) = WAYS[n];
    let fifo = server.directory().join("fifo");
    let value = match types {
        "" => String::new(),
        _ => format!("'{}'", fifo.display()),
    };
    let name = format!(
        "{function}_{}",
        library
            .parent()
            .expect("its directory")
            .ends_with("patched-true")
    );
    let create = format!(
        "CREATE FUNCTION {name}({types}) RETURNS text AS '{}', '{function}' LANGUAGE C",
        library.display()
    );
    server.connect().batch_execute(&create).expect("a function");
    let call = format!("SELECT {name}({value})");
    server.stuck_when(&call, |backend| match there {
        Where::Computing => backend.cpu_ticks() > 5,
        Where::In(syscall) => backend.syscall() == Some(syscall),
    })
}

#[test]
fn the_extension_obeys_with_its_patch_and_not_without() {
    let server = Server::start();
    let Some(pg_config) = server.installation().pg_config() else {
        skip!("no headers to build an extension: run scripts/install-deps.sh");
    };
    let mut mkfifo = Command::new("mkfifo");
    mkfifo
        .args(["-m", "666"])
        .arg(server.directory().join("fifo"));
    Run::of(mkfifo).assert_code(0);
    let as_it_is = build(&server, &pg_config, false);
    let mended = build(&server, &pg_config, true);
    for (n, (function, _, cause, before, after)) in WAYS.into_iter().enumerate() {
        let stuck = call(&server, &as_it_is, n, before);
        stuck.prove_stuck(How::Cancel);
        let pid = stuck.pid().to_string();
        let found = Run::pgpoke(["inspect", "--json", &pid]).json();
        assert_eq!(found["cause"]["code"], cause, "{function}: {found:#}");
        Run::pgpoke(["interrupt", "--yes", "--no-syslog", &pid]).assert_code(0);
        stuck.assert_cancelled();

        let obeys = call(&server, &mended, n, after);
        let cancel = format!("SELECT pg_cancel_backend({})", obeys.pid());
        server.connect().batch_execute(&cancel).expect("a cancel");
        let error = obeys.result_within(DEADLINE).expect_err(function);
        assert_eq!(error.code(), "57014", "{function}: {error}");
        obeys.assert_cancelled();
    }
    server.assert_unharmed();
}
