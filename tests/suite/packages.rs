//! The packages, made as a user makes them: what is in them, and that they work where nothing else was installed.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::containers::{Container, Session, image, podman_run};
use crate::harness::{Run, is_root, pgpoke, skip};
use crate::static_build;

/// Of the tools that make packages, which were built without optimisation.
const PATIENCE: Duration = Duration::from_secs(120);

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The package of this kind of what `make static` built: its file's or its image's name.
fn package(kind: &str) -> Result<String, String> {
    let program = static_build::executable();
    let program = program.ok_or("there is no static executable: run `make static`")?;
    let tool = match kind {
        "image" => "podman",
        "deb" => "cargo-deb",
        _ => "cargo-generate-rpm",
    };
    let there = Command::new("sh")
        .args(["-c", &format!("command -v {tool}")])
        .output();
    if !there.is_ok_and(|there| there.status.success()) {
        return Err(format!("there is no {tool}: run scripts/install-deps.sh"));
    }
    let mut command = Command::new(format!("{ROOT}/scripts/packages.sh"));
    command.arg(kind).arg(program);
    let run = Run::within(PATIENCE, command);
    run.assert_code(0);
    let made = run.stdout.lines().last().expect("its name");
    Ok(match kind {
        "image" => made.to_owned(),
        _ => format!("{ROOT}/{made}"),
    })
}

macro_rules! packaged {
    ($kind:expr) => {
        match package($kind) {
            Ok(made) => made,
            Err(reason) => skip!("{reason}"),
        }
    };
}

macro_rules! debian_13 {
    () => {{
        if !is_root() {
            skip!("only root runs containers here");
        }
        match image("trixie") {
            Some(image) => image,
            None => skip!("no image of trixie: run scripts/build-containers.sh"),
        }
    }};
}

/// The whole name of each file below `root`, in order.
fn files_below(root: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(&directory)
            .expect("a directory")
            .flatten()
        {
            match entry.file_type().expect("its type").is_dir() {
                true => todo.push(entry.path()),
                false => {
                    found.insert(entry.path());
                }
            }
        }
    }
    found
}

/// Root's, for everybody to read, and the program alone to run: with no right of its own.
#[track_caller]
fn assert_plain(path: &Path, owner: u32) {
    let metadata = path.symlink_metadata().expect("the file");
    let mode = match path.file_name().is_some_and(|n| n == "pgpoke")
        && path.parent().is_some_and(|p| p.ends_with("bin"))
    {
        true => 0o755,
        false => 0o644,
    };
    assert!(metadata.is_file(), "{path:?}");
    assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{path:?}");
    assert_eq!(metadata.uid(), owner, "{path:?}");
    let name = CString::new(path.as_os_str().as_bytes()).expect("a path");
    // SAFETY: both names end in NUL and outlive the call, which writes nothing: the size is 0.
    let size = unsafe {
        libc::lgetxattr(
            name.as_ptr(),
            c"security.capability".as_ptr(),
            std::ptr::null_mut(),
            0,
        )
    };
    assert_eq!(size, -1, "{path:?} has capabilities");
}

/// What is installed, but for documentation, by where a prefix's shells look.
const INSTALLED: [&str; 5] = [
    "bin/pgpoke",
    "share/bash-completion/completions/pgpoke",
    "share/fish/vendor_completions.d/pgpoke.fish",
    "share/man/man1/pgpoke.1.gz",
    "share/zsh/site-functions/_pgpoke",
];

#[test]
fn make_install_puts_everything_where_it_is_looked_for() {
    let there = tempfile::tempdir().expect("a directory");
    let mut command = Command::new("make");
    // Built it is: these tests were built along with it.
    command.args(["-C", ROOT, "-o", "build", "install", "PREFIX=/usr"]);
    command.arg(format!("DESTDIR={}", there.path().display()));
    let program = pgpoke().get_program().to_owned();
    let target = Path::new(&program).ancestors().nth(2).expect("target");
    command.env("CARGO_TARGET_DIR", target);
    Run::of(command).assert_code(0);
    let found = files_below(there.path());
    let wanted = INSTALLED.map(|f| there.path().join("usr").join(f));
    assert_eq!(found, BTreeSet::from(wanted));
    for file in &found {
        assert_plain(file, crate::harness::effective_uid());
    }
}

/// Each file of a container, but for what its package manager and its server keep of their own.
fn files_in(container: &Container) -> BTreeSet<String> {
    let list = "find / -xdev ( -path /var/lib/dpkg -o -path /var/lib/postgresql -o -path /var/log -o -path /proc ) -prune -o -print";
    let args: Vec<&str> = list.split(' ').collect();
    let run = Run::of(container.as_root(&args));
    run.assert_code(0);
    run.stdout.lines().map(str::to_owned).collect()
}

/// A backend that ignores a cancel gets it by pgpoke; which, `how` says for its PID in the container.
#[track_caller]
fn free_a_backend(container: &Container, how: impl Fn(&[&str]) -> Command) {
    let mut session = container.stuck();
    session.prove_stuck("pg_cancel_backend", libc::SIGINT);
    let pid = session.pid_inside().to_string();
    let run = Run::of(how(&["inspect", "--json", &pid]));
    let json = run.assert_code(0).json();
    assert_eq!(json["verdict"], "safe", "{run}");
    assert_eq!(json["cause"]["code"], "blocked-syscall", "{run}");
    let run = Run::of(how(&["interrupt", "--yes", "--json", &pid]));
    assert_eq!(run.assert_code(0).json()["outcome"], "cancelled", "{run}");
    let said = session.said();
    assert!(
        said.contains("canceling statement due to user request"),
        "{said}"
    );
}

#[test]
fn the_deb_is_installed_used_and_removed() {
    let debian = debian_13!();
    let deb = packaged!("deb");
    let container = Container::start(&debian, &["-v", &format!("{deb}:/tmp/pgpoke.deb:ro")]);
    let before = files_in(&container);
    Run::of(container.as_root(&["dpkg", "--install", "/tmp/pgpoke.deb"])).assert_code(0);
    let status = ["dpkg-query", "-W", "-f", "${db:Status-Status}", "pgpoke"];
    Run::of(container.as_root(&status)).assert_says("installed");

    let list = Run::of(container.as_root(&["dpkg", "--listfiles", "pgpoke"]));
    let listed: BTreeSet<&str> = list.stdout.lines().collect();
    for file in INSTALLED {
        let file = file.replace("site-functions", "vendor-completions");
        let file = format!("/usr/{file}");
        assert!(listed.contains(&*file), "no {file}\n{list}");
    }
    for file in ["copyright", "changelog.gz", "README.md", "docs/checks.md"] {
        let file = format!("/usr/share/doc/pgpoke/{file}");
        assert!(listed.contains(&*file), "no {file}\n{list}");
    }
    for file in &listed {
        let path = container.path(file);
        if !path.is_dir() {
            assert_plain(&path, 0);
        }
    }

    free_a_backend(&container, |args| {
        container.exec(&[&["/usr/bin/pgpoke"], args].concat())
    });

    Run::of(container.as_root(&["dpkg", "--purge", "pgpoke"])).assert_code(0);
    let after = files_in(&container);
    let left: Vec<_> = before.symmetric_difference(&after).collect();
    assert!(left.is_empty(), "{left:?}");
    container.assert_unharmed();
}

#[test]
fn the_rpm_is_installed_wants_nothing_and_is_removed() {
    if !is_root() {
        skip!("only root unpacks files as root's");
    }
    let rpm = packaged!("rpm");
    let there = tempfile::tempdir().expect("a directory");
    let ask = |args: &[&str]| {
        let mut command = Command::new("rpm");
        command.args(["--dbpath", there.path().join("db").to_str().unwrap()]);
        command.args(["--query", "--package"]).args(args).arg(&rpm);
        let run = Run::of(command);
        run.assert_code(0);
        run
    };
    let requires = ask(&["--requires"]);
    let beyond_rpm = |line: &&str| !line.starts_with("rpmlib(");
    assert_eq!(requires.stdout.lines().find(beyond_rpm), None, "{requires}");
    let scripts = ask(&["--scripts"]);
    assert_eq!(scripts.stdout, "", "{scripts}");
    let capabilities = ask(&["--queryformat", "[%{FILECAPS}]"]);
    assert!(
        ["", "(none)"].contains(&capabilities.stdout.trim()),
        "{capabilities}"
    );
    let licence = ask(&["--queryformat", "%{LICENSE}"]);
    assert_eq!(licence.stdout, "PostgreSQL");

    // As rpm itself installs it, into a root directory of its own.
    let root = there.path().join("root");
    std::fs::create_dir(&root).expect("a directory");
    let of_root = |args: &[&str]| {
        let mut command = Command::new("rpm");
        command.arg("--root").arg(&root).args(args);
        Run::of(command).assert_code(0);
    };
    of_root(&["--install", &rpm]);
    of_root(&["--verify", "pgpoke"]);
    let found = files_below(&root.join("usr"));
    for file in INSTALLED {
        let file = root.join("usr").join(file);
        assert!(found.contains(&file), "no {file:?} in {found:?}");
    }
    for file in ["licenses/pgpoke/LICENSE", "doc/pgpoke/README.md"] {
        let file = root.join("usr/share").join(file);
        assert!(found.contains(&file), "no {file:?} in {found:?}");
    }
    for file in &found {
        assert_plain(file, 0);
    }
    let mut program = Command::new(root.join("usr/bin/pgpoke"));
    program.arg("--version");
    let run = Run::of(program);
    let version = format!("pgpoke {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run.assert_code(0).stdout, version);
    // Directories for documentation stay, empty: cargo-generate-rpm cannot say whose they are.
    of_root(&["--erase", "pgpoke"]);
    assert_eq!(files_below(&root.join("usr")), BTreeSet::new());
}

/// The sidecar: no file in it but pgpoke, and the server's own user is enough.
#[test]
fn the_image_frees_a_backend_beside_its_container() {
    let debian = debian_13!();
    let image = packaged!("image");
    let container = Container::start(&debian, &[]);
    let id = Run::of(container.exec(&["sh", "-c", "echo $(id -u):$(id -g)"]));
    let user = id.assert_code(0).stdout.trim().to_owned();
    free_a_backend(&container, |args| {
        let mut command = podman_run();
        command.args(["--rm", "--cap-drop=all", "--read-only", "--user", &user]);
        command.arg(format!("--pid=container:{}", container.name()));
        command.arg(&image).args(args);
        command
    });
    container.assert_unharmed();
}

/// Docker as docs/containers.md calls it, and podman as it is called here.
const DOCKER: &str = r#"#!/bin/sh
set -e
if [ "$1" = run ]; then
    shift
    set -- run --network=none --ulimit nofile=20000:20000 --ulimit nproc=1024:1024 "$@"
fi
exec podman --runtime runc "$@"
"#;

/// The commands in docs/containers.md that are to be run, each with the exit code that is told of.
fn told_commands() -> Vec<(String, i32)> {
    const MARK: &str = "<!-- run";
    let page = format!("{ROOT}/docs/containers.md");
    let page = std::fs::read_to_string(page).expect("docs/containers.md");
    let mut commands = Vec::new();
    for part in page.split(MARK).skip(1) {
        let (code, part) = part.split_once(" -->\n```\n").expect("a block");
        let code = code
            .strip_prefix(": ")
            .map_or(0, |c| c.parse().expect("an exit code"));
        let (block, _) = part.split_once("```").expect("its end");
        commands.extend(block.lines().map(|line| (line.to_owned(), code)));
    }
    commands
}

/// The lines of a page's code that call kubectl.
fn told_to_kubectl(page: &str) -> Vec<&str> {
    let code = page.split(['`', '\n']);
    code.filter(|code| code.starts_with("kubectl "))
        .filter(|code| code.split(' ').count() > 3)
        .collect()
}

/// There is no cluster here. Each command gets as far as that: kubectl knows its options, its profile, and what is in its file.
#[test]
fn kubectl_takes_the_commands_for_kubernetes() {
    const NO_CLUSTER: &str = "connection to the server 127.0.0.1:1 was refused";
    let mut version = Command::new("sh");
    version.args(["-c", "command -v kubectl"]);
    if Run::of(version).code() != Some(0) {
        skip!("there is no kubectl here");
    }
    let page = std::fs::read_to_string(format!("{ROOT}/docs/containers.md")).expect("the page");
    let (_, json) = page.split_once("```json\n").expect("the file for --custom");
    let (json, _) = json.split_once("```").expect("its end");
    let here = tempfile::tempdir().expect("a directory");
    std::fs::write(here.path().join("as-server.json"), json).expect("a file");
    std::fs::write(here.path().join("pgpoke"), "").expect("a file");
    let kubectl = |line: &str| {
        let line = line
            .replace("REGISTRY/pgpoke:VERSION", "registry/pgpoke:1")
            .replace("node/NODE", "node/node")
            .replace("POD", "pod")
            .replace("PID", "1")
            .replacen(
                "kubectl",
                "kubectl --kubeconfig=/dev/null --server=http://127.0.0.1:1",
                1,
            );
        let mut command = Command::new("sh");
        command.args(["-c", &line]).current_dir(here.path());
        Run::of(command)
    };
    let told = told_to_kubectl(&page);
    assert!(told.len() > 5, "{told:?}");
    for line in told {
        kubectl(line).assert_says(NO_CLUSTER);
    }
    // Else it would say so.
    kubectl("kubectl debug POD --profile=nobodys --image=x").assert_says("unknown profile");
}

/// As they stand there: none is left out, and each does what is said of it.
#[test]
fn the_commands_for_containers_are_run() {
    let debian = debian_13!();
    packaged!("image");
    let container = Container::start(&debian, &[]);
    let here = tempfile::tempdir().expect("a directory");
    let program = static_build::executable().expect("what the image was made of");
    std::fs::copy(program, here.path().join("pgpoke")).expect("a copy");
    let docker = here.path().join("docker");
    std::fs::write(&docker, DOCKER).expect("a script");
    std::fs::set_permissions(&docker, PermissionsExt::from_mode(0o755)).expect("a script");
    let user = ["sh", "-c", "echo $(id -u):$(id -g)"];
    let user = Run::of(container.exec(&user)).stdout;
    let mut session: Option<Session> = None;
    let told = told_commands();
    let interrupts = |line: &str| line.contains(" interrupt ");
    assert_eq!(told.iter().filter(|(line, _)| interrupts(line)).count(), 2);
    for (line, code) in told {
        let stuck = session.get_or_insert_with(|| {
            let session = container.stuck();
            session.prove_stuck("pg_cancel_backend", libc::SIGINT);
            session
        });
        let line_here = line
            .replace(
                "container:CONTAINER",
                &format!("container:{}", container.name()),
            )
            .replace("CONTAINER", container.name())
            .replace("PID", &stuck.pid_inside().to_string())
            .replace("UID:GID", user.trim())
            .replace("VERSION", env!("CARGO_PKG_VERSION"));
        let mut command = Command::new("sh");
        command.args(["-c", &format!("PATH=.:$PATH; {line_here}")]);
        command.current_dir(here.path());
        let run = Run::of(command);
        run.assert_code(code);
        if interrupts(&line) {
            run.assert_says("cancelled: the statement was cancelled");
            let mut freed = session.take().expect("the one that was stuck");
            assert!(freed.said().contains("canceling statement"));
        }
    }
    container.assert_unharmed();
}
