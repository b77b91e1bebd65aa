//! Processes of another user that pretend to be backends, to lure a pgpoke that runs as root: whatever they say, it
//! opens nothing that is not theirs, executes and writes nothing, signals nobody, believes nothing that is not proved,
//! and comes to an end.

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use super::{figure, times};
use crate::harness::{
    Backend, DEADLINE, Installation, Run, Server, checked, is_root, pgpoke, server_with_testext,
    skip, wait_for,
};

/// What pgpoke may take for one of them, on a busy machine.
const LONGEST: Duration = Duration::from_secs(25);

/// Address space, which bounds its memory: far more than it ever needs.
const MOST_MEMORY: &str = "--as=1073741824";

/// What tells of luring: a directory that no one may look into.
const SECRET: &str = "pgpoke-secret-";

/// The program, compiled with a build-id that is known, and whatever else.
fn compile(dir: &Path, options: &[&str]) -> PathBuf {
    let program = dir.join("forged");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/safety/forged.c");
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-g", "-rdynamic", "-pthread"]);
    cc.args(["-Wl,--build-id=0xabcdef0123456789"]);
    checked(cc.args(options).arg("-o").arg(&program).arg(source));
    program
}

/// One that runs; it is killed in the end.
struct Forged {
    child: Child,
    pid: i32,
    /// What it was sent, a line for each signal.
    signals: Receiver<String>,
}

impl Forged {
    fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("a forged backend");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let pid = lines.next().and_then(|line| line.ok()?.parse().ok());
        let (line, signals) = mpsc::channel();
        thread::spawn(move || {
            for text in lines.map_while(Result::ok) {
                let _ = line.send(text);
            }
        });
        let pid = pid.expect("its PID");
        let title = || fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        wait_for(DEADLINE, "it shall have its title", || {
            title().starts_with(b"postgres: ").then_some(())
        });
        Self {
            child,
            pid,
            signals,
        }
    }

    /// Another user's, in a directory whose name is not for a terminal.
    fn of_nobody(program: &Path, how: &str, postmaster: &str) -> Self {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]);
        command.arg(program).args([how, postmaster, &room()]);
        let cwd = program.parent().expect("a directory").join("da\x1b[2Jta");
        fs::create_dir_all(&cwd).expect("a directory");
        Self::start(command.current_dir(cwd))
    }

    /// It goes on, and nothing was sent to it.
    #[track_caller]
    fn assert_left_alone(&self) {
        let backend = Backend::open(self.pid).expect("the forged backend");
        backend.assert_running_untraced();
        let signals: Vec<String> = self.signals.try_iter().collect();
        assert!(signals.is_empty(), "{signals:?}");
    }
}

impl Drop for Forged {
    fn drop(&mut self) {
        // SAFETY: kill takes any numbers; it is a process of this test's, and its parent still holds its PID.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where it can write its title.
fn room() -> String {
    "x".repeat(200)
}

/// A PID that nobody has.
fn nobodys_pid() -> String {
    let mut child = Command::new("true").spawn().expect("true");
    let pid = child.id();
    child.wait().expect("its end");
    pid.to_string()
}

/// One run of pgpoke, and everything that it did outside of itself.
struct Watched {
    run: Run,
    calls: String,
}

const CALLS: &str = "open,openat,openat2,creat,execve,execveat,ptrace,process_vm_writev,kill,tkill,tgkill,\
    pidfd_send_signal,rt_sigqueueinfo,rt_tgsigqueueinfo,connect,bind,unlink,unlinkat,rename,renameat,renameat2,\
    mkdir,mkdirat,mknod,mknodat,link,linkat,symlink,symlinkat,truncate,ftruncate,mount,umount2,chmod,fchmod,fchmodat,\
    chown,fchown,lchown,fchownat,write,writev,pwrite64,pwritev,setxattr,utimensat";

impl Watched {
    /// As root, with the same memory for all.
    fn run(args: &[&str], pid: i32) -> Self {
        let dir = tempfile::tempdir().expect("a directory for strace's output");
        let output = dir.path().join("calls");
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-y", "-s", "4096", "-e", "signal=none", "-e"]);
        command.arg(format!("trace={CALLS}")).arg("-o").arg(&output);
        command.args(["prlimit", MOST_MEMORY, "--"]);
        command.arg(pgpoke().get_program()).args(args);
        command.arg(pid.to_string()).env_remove("DEBUGINFOD_URLS");
        let run = Run::within(LONGEST, command);
        let calls = fs::read(&output).expect("strace's output");
        let calls = String::from_utf8_lossy(&calls).into_owned();
        // prlimit's own calls come first.
        let own = calls.find(&format!("execve(\"{}\"", env!("CARGO_BIN_EXE_pgpoke")));
        let calls = calls[own.unwrap_or_else(|| panic!("no pgpoke:\n{calls}"))..].to_owned();
        Self { run, calls }
    }

    fn of(&self, names: &[&str]) -> impl Iterator<Item = &str> {
        let named = move |line: &&str| {
            let call = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
            let name = call.split('(').next().unwrap_or_default();
            names.contains(&name)
        };
        self.calls
            .lines()
            .filter(named)
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// Whatever it met: all that it opened is of the kinds that it may open, for reading, and nothing else was done.
    #[track_caller]
    fn assert_harmless(&self, theirs: &Path) -> &Self {
        let theirs = theirs.to_str().expect("a path in /tmp");
        for line in self.of(&["open", "openat", "openat2"]) {
            let flags = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND"];
            assert!(!flags.iter().any(|f| line.contains(f)), "written: {line}");
            // "… = 5</path>", by strace's -y: where the descriptor leads.
            let Some(path) = line
                .rsplit_once("= ")
                .and_then(|(_, to)| to.split_once('<'))
            else {
                continue;
            };
            let path = path.1.trim_end_matches('>').trim_end_matches("(deleted)");
            let path = path.trim_end_matches('>');
            let named_inside = line.contains("RESOLVE_IN_ROOT") || !line.contains("openat2");
            let system = [
                "/proc/",
                "/usr/lib/",
                "/lib/",
                "/lib64/",
                "/etc/ld.so.cache",
            ];
            let ours = system.iter().any(|p| path.starts_with(p))
                || matches!(
                    path,
                    "/" | "/proc" | "/etc/passwd" | "/memfd:postgres\\33[2J"
                );
            assert!(
                named_inside && (ours || path.starts_with(theirs)),
                "opened {path:?}: {line}"
            );
        }
        assert!(!self.calls.contains(SECRET), "{}", self.calls);
        let executed: Vec<_> = self.of(&["execve", "execveat"]).skip(1).collect();
        assert!(executed.is_empty(), "{executed:#?}");
        for line in self.of(&["write", "writev", "pwrite64", "pwritev"]) {
            assert!(line.contains("(1<") || line.contains("(2<"), "{line}");
        }
        for line in self.of(&["ptrace"]) {
            assert!(!line.contains("POKE") && !line.contains("SETREG"), "{line}");
        }
        let quiet = [
            "open", "openat", "openat2", "execve", "ptrace", "write", "writev", "kill",
        ];
        let others: Vec<&str> = CALLS.split(',').map(str::trim).collect();
        let others: Vec<&str> = others.into_iter().filter(|c| !quiet.contains(c)).collect();
        let to_the_log = |line: &&str| line.contains("/dev/log\"") || line.contains("/dev-log\"");
        if let Some(line) = self.of(&others).find(|line| !to_the_log(line)) {
            panic!("{line}");
        }
        // To ask whether there is such a process is no signal.
        for line in self.of(&["kill"]) {
            assert!(line.contains(", 0)"), "{line}");
        }
        self.assert_plain()
    }

    /// Not traced either.
    #[track_caller]
    fn assert_not_traced(&self) -> &Self {
        let traced: Vec<_> = self.of(&["ptrace"]).collect();
        assert!(traced.is_empty(), "{traced:#?}");
        self
    }

    /// Nothing that a terminal would obey.
    #[track_caller]
    fn assert_plain(&self) -> &Self {
        let raw = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        for text in [&self.run.stdout, &self.run.stderr] {
            assert!(!text.contains(raw), "{:?}", self.run.to_string());
        }
        assert!(matches!(self.run.code(), Some(0 | 3..=8)), "{}", self.run);
        self
    }
}

/// The two ways to do harm. The second would send a signal at once.
const LURED: [&[&str]; 2] = [
    &["inspect", "--stack"],
    &[
        "interrupt",
        "--yes",
        "--cancel",
        "--grace",
        "1ms",
        "--wait",
        "50ms",
    ],
];

/// `let dir = as_root!();` A directory that everybody may enter; these tests are about root's pgpoke.
macro_rules! as_root {
    () => {{
        if !is_root() {
            skip!("only root can be lured by another user");
        }
        Installation::temp_dir()
    }};
}

/// What each of them does to whoever reads it.
const HOWS: [&str; 12] = [
    "plain", "wild", "high", "cyclic", "ones", "device", "vsyscall", "many", "churn", "deep",
    "deleted", "memfd",
];

#[test]
fn one_without_a_postmaster_is_never_called_safe_nor_touched() {
    let dir = as_root!();
    for how in HOWS {
        // "deleted" unlinks it.
        let program = compile(dir.path(), &[]);
        let forged = Forged::of_nobody(&program, how, &nobodys_pid());
        for args in LURED {
            let watched = Watched::run(args, forged.pid);
            watched.assert_harmless(dir.path());
            let run = &watched.run;
            assert!(matches!(run.code(), Some(3..=5 | 7)), "{how}: {run}");
            run.assert_says("if it ever had one");
            forged.assert_left_alone();
        }
    }
}

#[test]
fn one_that_names_a_real_postmaster_is_none_of_its() {
    let dir = as_root!();
    let server = Server::start();
    let program = compile(dir.path(), &[]);
    let postmaster = server.postmaster().pid.to_string();
    let forged = Forged::of_nobody(&program, "plain", &postmaster);
    for args in LURED {
        let watched = Watched::run(args, forged.pid);
        watched.assert_harmless(dir.path()).assert_not_traced();
        watched.run.assert_code(7).assert_says("is not its parent");
        forged.assert_left_alone();
    }
    server.assert_unharmed();
}

/// Started by the server itself, as its own user: by COPY FROM PROGRAM, and in a backend's place.
#[test]
fn a_program_that_a_server_runs_is_none_of_its() {
    let dir = as_root!();
    let program = compile(dir.path(), &[]);
    let server = server_with_testext!();
    let pid_of = |parent: i32| {
        wait_for(DEADLINE, "it shall run", || {
            let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
            let children = children.unwrap_or_default();
            let mut pids = children.split_whitespace().filter_map(|p| p.parse().ok());
            pids.find(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline"));
                line.is_ok_and(|l| l.starts_with(b"postgres: \x1b[1mu d"))
            })
        })
    };
    let look = |pid: i32, why: &str| {
        for args in LURED {
            let watched = Watched::run(args, pid);
            watched.assert_harmless(dir.path()).assert_not_traced();
            watched.run.assert_code(7).assert_says(why);
        }
        Backend::open(pid).expect("it").assert_running_untraced();
    };

    let postmaster = server.postmaster().pid;
    let sql = format!(
        "COPY (SELECT 1) TO PROGRAM 'exec {} plain {postmaster} {}'",
        program.display(),
        room()
    );
    let stuck = server.stuck_when(&sql, |backend| backend.state() == Some('S'));
    let child = pid_of(stuck.pid());
    look(child, "is not its parent");
    // It ends in an orderly way: the log would else speak of a signal.
    Backend::open(child).expect("it").send(libc::SIGUSR2);
    assert!(stuck.result().is_ok());
    server.assert_unharmed();

    // Its parent is a real postmaster now, and it was a real backend. The postmaster will not like its end.
    server.expect_crash();
    let mut session = server.connect();
    let pid: i32 = session
        .query_one("SELECT pg_backend_pid()", &[])
        .expect("a PID")
        .get(0);
    let sql = format!("SELECT pgpoke_become('{}')", program.display());
    thread::scope(|scope| {
        scope.spawn(move || session.simple_query(&sql).expect_err("no answer"));
        assert_eq!(pid_of(postmaster), pid);
        look(pid, "another executable");
        Backend::open(pid).expect("it").send(libc::SIGKILL);
    });
}

/// With a postmaster of its own it is a server, though one of a kind that nobody knows; whatever its variables say,
/// looking at it comes to an end.
#[test]
fn one_with_a_postmaster_of_its_own_is_looked_at_within_bounds() {
    let dir = as_root!();
    for how in HOWS {
        let program = compile(dir.path(), &[]);
        let forged = Forged::of_nobody(&program, how, "own");
        let watched = Watched::run(&["inspect", "--passive", "--stack"], forged.pid);
        watched.assert_harmless(dir.path());
        let run = &watched.run;
        assert!(matches!(run.code(), Some(3..=5 | 7 | 8)), "{how}: {run}");
        figure(
            &format!("forged, {how}: seconds"),
            run.elapsed.as_secs_f32(),
        );
        forged.assert_left_alone();
    }
}

/// A root directory of its own, and in it all that leads out of it or holds up whoever opens it.
#[test]
fn nothing_leads_out_of_a_root_directory() {
    let dir = as_root!();
    let secret = tempfile::Builder::new().prefix(SECRET).tempdir_in("/tmp");
    let secret = secret.expect("a directory of root's");
    fs::write(secret.path().join("file"), b"\x7fELF secret").expect("a secret");
    let jail = dir.path().join("jail");
    let inside = |path: &str| jail.join(path);
    let by_id = inside("usr/lib/debug/.build-id/ab");
    for made in ["usr/lib/debug/.build-id/ab", "etc", ".debug", "proc", "dev"] {
        fs::create_dir_all(inside(made)).expect("a directory");
    }
    fs::write(
        inside("etc/passwd"),
        "x\x1b[2J;rm -rf /:x:65534:65534::/:\n",
    )
    .expect("a passwd");
    let program = compile(&jail, &["-static", "-g0"]);
    // With a link to a debug file beside it, whose name is all that it has.
    fs::write(inside("empty"), b"").expect("a file");
    let link = format!("--add-gnu-debuglink={}", inside("empty").display());
    checked(Command::new("objcopy").arg(link).arg(&program));
    let secret_file = secret.path().join("file");
    let debug = by_id.join("cdef0123456789.debug");
    let upwards = format!("../../../../../../../../..{}", secret_file.display());
    let through_proc = format!("/proc/1/root{}", secret_file.display());
    type Placement<'a> = (&'a str, &'a dyn Fn(&Path));
    let placements: [Placement; 8] = [
        ("an absolute link", &|at| {
            symlink(&secret_file, at).expect("a link")
        }),
        ("a link upwards", &|at| {
            symlink(&upwards, at).expect("a link")
        }),
        ("a link through /proc", &|at| {
            symlink(&through_proc, at).expect("a link")
        }),
        ("a link to itself", &|at| {
            symlink(at.file_name().expect("a name"), at).expect("a link")
        }),
        ("a FIFO", &|at| {
            drop(checked(Command::new("mkfifo").arg(at)))
        }),
        ("a device", &|at| {
            drop(checked(Command::new("mknod").arg(at).args(["c", "1", "5"])))
        }),
        ("a directory", &|at| {
            fs::create_dir(at).expect("a directory")
        }),
        ("a hole of a tebibyte", &|at| {
            let mut file = fs::File::create(at).expect("a file");
            file.write_all(b"\x7fELF\x02\x01\x01").expect("a head");
            file.set_len(1 << 40).expect("a hole");
        }),
    ];
    for own_mounts in [false, true] {
        let mut command = Command::new("unshare");
        if own_mounts {
            command.args(["--mount", "--propagation=private"]);
        }
        command.arg("--root").arg(&jail);
        command.args([
            "--setgid=65534",
            "--setuid=65534",
            "--wd=/",
            "/forged",
            "plain",
        ]);
        let forged = Forged::start(command.args([&nobodys_pid(), &room()]));
        for (what, place) in placements {
            for at in [&debug, &inside("empty"), &inside(".debug/empty")] {
                let _ = fs::remove_file(at);
                let _ = fs::remove_dir(at);
                place(at);
            }
            for args in LURED {
                let watched = Watched::run(args, forged.pid);
                watched.assert_harmless(dir.path());
                let run = &watched.run;
                assert!(matches!(run.code(), Some(3..=5 | 7)), "{what}: {run}");
                run.assert_says("if it ever had one");
                let looked_for = watched.calls.contains("/ab/cdef0123456789.debug");
                assert!(looked_for, "{what}: no debug file was looked for");
            }
        }
        forged.assert_left_alone();
    }
}

/// Beside its executable, in our own root directory: there is nothing there that could confine a link, so none is
/// followed.
#[test]
fn no_link_beside_an_executable_is_followed() {
    let dir = as_root!();
    let secret = tempfile::Builder::new().prefix(SECRET).tempdir_in("/tmp");
    let secret = secret.expect("a directory of root's");
    fs::write(secret.path().join("file"), b"\x7fELF secret").expect("a secret");
    // One that has its own debug information is asked for what was moved out of that.
    for option in ["-g0", "-g"] {
        let program = compile(dir.path(), &[option]);
        let named = dir.path().join("named.debug");
        fs::write(&named, b"").expect("a file");
        let link = format!("--add-gnu-debuglink={}", named.display());
        checked(Command::new("objcopy").arg(link).arg(&program));
        // And with what dwz(1) would have left, naming a file of root's.
        let alternate = dir.path().join("alternate");
        let name = secret.path().join("file");
        let name = name.to_str().expect("a path in /tmp").as_bytes();
        fs::write(&alternate, [name, &b"\0"[..], &[7; 20]].concat()).expect("a section");
        let add = format!("--add-section=.gnu_debugaltlink={}", alternate.display());
        checked(Command::new("objcopy").arg(add).arg(&program));
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("its mode");
        for target in [
            secret.path().join("file"),
            "/proc/kmsg".into(),
            "/dev/zero".into(),
        ] {
            fs::remove_file(&named).expect("what was there");
            symlink(&target, &named).expect("a link");
            let forged = Forged::of_nobody(&program, "plain", &nobodys_pid());
            for args in LURED {
                let watched = Watched::run(args, forged.pid);
                watched.assert_harmless(dir.path());
                assert!(!watched.calls.contains("kmsg"), "{}", watched.calls);
                let looked_for = watched.calls.contains("named.debug");
                assert_eq!(looked_for, option == "-g0", "{}", watched.run);
            }
            forged.assert_left_alone();
        }
        fs::remove_file(&named).expect("the last link");
    }
}

/// The path of what is no backend at all is shown, too.
#[test]
fn the_name_of_a_program_is_no_command_to_a_terminal() {
    let dir = as_root!();
    let program = dir.path().join("sl\x1b]0;owned\x07\x1b[2Jeep");
    fs::copy("/bin/sleep", &program).expect("a copy");
    let mut sleep = Command::new(&program).arg("3600").spawn().expect("sleep");
    for args in LURED {
        let watched = Watched::run(args, sleep.id() as i32);
        watched.assert_harmless(dir.path()).assert_not_traced();
        watched.run.assert_code(7).assert_says("[2Jeep has no ");
    }
    sleep.kill().expect("its end");
    sleep.wait().expect("its end");
}

/// Its memory does not answer, as on a file system that it serves itself. pgpoke gives up, and says so.
#[test]
fn one_whose_memory_does_not_answer_is_given_up() {
    let dir = as_root!();
    if times(0, 1) == 0 {
        // It takes half a minute, and waits all the time.
        return;
    }
    let program = compile(dir.path(), &[]);
    let mut command = Command::new(&program);
    command.args(["silent", &nobodys_pid(), &room()]);
    let forged = Forged::start(command.env("AS_USER", "1"));
    for args in LURED {
        let mut command = pgpoke();
        command.args(args).arg(forged.pid.to_string());
        let run = Run::within(Duration::from_secs(50), command);
        run.assert_code(8).assert_says("could not be looked into");
        figure("forged, silent: seconds", run.elapsed.as_secs_f32());
        forged.assert_left_alone();
    }
}
