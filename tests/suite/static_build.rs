//! The one statically linked file: that it is one, and that it needs nothing around it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{How, Run, is_root, server_with_testext, skip};

/// The account that servers run as when the tests run as root.
const SERVER_USER: &str = "pgpoke-test";

/// What `make static` built, on the way of `make test`.
pub fn executable() -> Option<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target"),
        PathBuf::from,
    );
    let path = target.join("x86_64-unknown-linux-gnu/release/pgpoke");
    path.exists().then_some(path)
}

macro_rules! built_static {
    () => {
        match executable() {
            Some(path) => path,
            None => skip!("there is no static executable: run `make static`"),
        }
    };
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// Neither an interpreter nor a library, and nothing that would look for one while it runs: glibc's name service is
/// libraries, even in a static program.
#[test]
fn it_needs_no_other_file() {
    let path = built_static!();
    let path = path.to_str().unwrap();
    let headers = output(
        "readelf",
        &["--wide", "--program-headers", "--dynamic", path],
    );
    assert!(headers.contains("LOAD"), "{headers}");
    assert!(!headers.contains("INTERP"), "{headers}");
    assert!(!headers.contains("NEEDED"), "{headers}");
    let symbols = output("nm", &[path]);
    assert!(symbols.contains(" T main"), "stripped of its symbols");
    // getpwuid_r and getaddrinfo come with the client library of `report --dsn`, and are not called: see below.
    for name in ["getpwnam_r", "getgrgid_r"] {
        let found = symbols.lines().find(|l| l.ends_with(&format!(" {name}")));
        assert_eq!(found, None, "it would look for libraries");
    }
}

/// Nor is it asked for a host's or a user's name where somebody is to be connected to.
#[test]
fn it_looks_no_name_up() {
    let mut pgpoke = Command::new(built_static!());
    pgpoke.args(["report", "--dsn", "host=db.example user=a", "1"]);
    Run::of(pgpoke)
        .assert_code(2)
        .assert_says("cannot look up the host name db.example: add hostaddr=ADDRESS");
}

/// A root directory with nothing but the executable and /proc.
struct Cell(tempfile::TempDir);

impl Cell {
    fn new(executable: &Path) -> Self {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("proc")).unwrap();
        fs::copy(executable, dir.path().join("pgpoke")).unwrap();
        Self(dir)
    }

    /// pgpoke in there, as the servers' user. The mount is gone with the process: it has a namespace of its own.
    fn pgpoke(&self, args: &[&str]) -> Run {
        const SCRIPT: &str = r#"
            set -e
            cell=$1 user=$2; shift 2
            mount --rbind /proc "$cell/proc"
            uid=$(id -u "$user") gid=$(id -g "$user")
            exec chroot --userspec="$uid:$gid" --groups= "$cell" /pgpoke "$@"
        "#;
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            SCRIPT,
            "sh",
        ]);
        command.arg(self.0.path()).arg(SERVER_USER).args(args);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        Run::of(command)
    }
}

#[test]
fn it_frees_a_backend_from_an_empty_room() {
    let path = built_static!();
    if !is_root() {
        skip!("only root may change its root directory");
    }
    let server = server_with_testext!();
    let cell = Cell::new(&path);
    cell.pgpoke(&["--version"]).assert_code(0);

    let stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    let pid = stuck.pid().to_string();
    let seen = cell.pgpoke(&["inspect", "--json", &pid]);
    seen.assert_code(0);
    let seen: serde_json::Value = serde_json::from_str(&seen.stdout).unwrap();
    assert_eq!(seen["verdict"], "safe", "{seen}");
    assert_eq!(seen["cause"]["code"], "cpu-loop", "{seen}");
    assert_eq!(seen["stack_complete"], true, "{seen}");
    cell.pgpoke(&["interrupt", "--yes", &pid]).assert_code(0);
    assert_eq!(stuck.result().unwrap_err().code(), "57014");
    server.assert_unharmed();
}

/// The other commands, as far as they need no backend.
#[test]
fn its_other_commands_work_there() {
    let path = built_static!();
    if !is_root() {
        skip!("only root may change its root directory");
    }
    let cell = Cell::new(&path);
    for args in [&["--help"][..], &["completions", "bash"], &["man"]] {
        let run = cell.pgpoke(args);
        run.assert_code(0);
        assert!(!run.stdout.is_empty(), "{run}");
    }
    let refused = cell.pgpoke(&["inspect", "1"]);
    assert!(matches!(refused.code(), Some(6 | 7)), "{refused}");
    cell.pgpoke(&["inspect", "nobody"]).assert_code(2);
}
