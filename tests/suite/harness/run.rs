//! pgpoke, run as its users run it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{LazyLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use jsonschema::Validator;
use serde_json::Value;

use super::wait_for;

/// The pgpoke that was built along with these tests.
pub fn pgpoke() -> Command {
    Command::new(env!("CARGO_BIN_EXE_pgpoke"))
}

/// A program with all signals at their defaults: under nohup, or in a shell's background, it would inherit that
/// some are ignored.
pub fn heeding_signals(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal").arg(program);
    command
}

/// pgpoke under strace, with something done to its system calls.
pub fn tampered(injections: &[impl AsRef<str>], args: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "signal=none"]);
    for injection in injections {
        command.args(["-e", &format!("inject={}", injection.as_ref())]);
    }
    command.arg("--").arg(pgpoke().get_program()).args(args);
    command
}

/// Makes a system call of the program fail, as a container runtime's filter would; with `argument` only where those bits
/// are set in the argument of that number.
pub fn denying(
    mut command: Command,
    call: libc::c_long,
    argument: Option<(u32, u32)>,
    errno: i32,
) -> Command {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    let statement = |code: u32, if_not_skip: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: if_not_skip,
        k,
    };
    let returns = |what| statement(libc::BPF_RET | libc::BPF_K, 0, what);
    let jump = |kind| libc::BPF_JMP | kind | libc::BPF_K;
    // struct seccomp_data: the number of the call first, the arguments of 8 bytes each from 16 on.
    let mut filter = vec![
        statement(LOAD, 0, 0),
        statement(jump(libc::BPF_JEQ), 1, call as u32),
    ];
    if let Some((number, bits)) = argument {
        filter[1].jf = 3;
        filter.push(statement(LOAD, 0, 16 + 8 * number));
        filter.push(statement(jump(libc::BPF_JSET), 1, bits));
    }
    filter.push(returns(libc::SECCOMP_RET_ERRNO | errno as u32));
    filter.push(returns(ALLOW));
    // SAFETY: only prctl is called between fork and exec, with pointers to live data.
    unsafe {
        command.pre_exec(move || {
            let program = libc::sock_fprog {
                len: filter.len() as u16,
                filter: filter.as_ptr().cast_mut(),
            };
            if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) != 0
            {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    command
}

/// A finished run of a program.
pub struct Run {
    command: String,
    status: ExitStatus,
    /// Everything on its standard output.
    pub stdout: String,
    /// Everything on its standard error.
    pub stderr: String,
    /// How long it took.
    pub elapsed: Duration,
}

/// The system calls by which pgpoke touched other processes, as strace shows them.
#[derive(Debug)]
pub struct Calls {
    /// Every ptrace request.
    pub ptrace: Vec<String>,
    /// Every signal that was sent.
    pub signals: Vec<String>,
}

impl Calls {
    /// Nothing was sent.
    #[track_caller]
    pub fn assert_no_signal(&self) {
        assert!(self.signals.is_empty(), "signals were sent: {self:#?}");
    }

    /// Nothing was sent that asks for anything: SIGUSR1 does not, and is how pgpoke borrows a frame.
    #[track_caller]
    pub fn assert_no_signal_but_usr1(&self) {
        let usr1 = |line: &String| line.contains("SIGUSR1");
        assert!(
            self.signals.iter().all(usr1),
            "signals were sent: {self:#?}"
        );
    }

    /// Neither sent a signal nor traced.
    #[track_caller]
    pub fn assert_none(&self) {
        self.assert_no_signal();
        assert!(self.ptrace.is_empty(), "it was traced: {self:#?}");
    }
}

impl Run {
    /// Longer than any of pgpoke's own deadlines, and any `--wait` of the tests (60 s).
    const DEADLINE: Duration = Duration::from_secs(90);

    /// Runs pgpoke with these arguments, to its end.
    #[track_caller]
    pub fn pgpoke(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        let mut command = pgpoke();
        command.args(args);
        Self::of(command)
    }

    /// Runs any command to its end, without standard input or a terminal to ask on.
    #[track_caller]
    pub fn of(command: Command) -> Self {
        Self::within(Self::DEADLINE, command)
    }

    /// The same, with a deadline of one's own; a program that is still running then is killed, and
    /// the test fails.
    #[track_caller]
    pub fn within(deadline: Duration, command: Command) -> Self {
        Self::while_doing(deadline, command, |_| ())
    }

    /// The same, doing something to the program, by its PID, when it has just been started.
    #[track_caller]
    pub fn while_doing(deadline: Duration, mut command: Command, act: impl FnOnce(i32)) -> Self {
        let start = Instant::now();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        // Threads, since a pipe that nobody empties would stop the program.
        let stdout = collect(child.stdout.take().expect("a pipe"));
        let stderr = collect(child.stderr.take().expect("a pipe"));
        // Not yet waited for, so that the PID is its own even if it has ended.
        act(child.id() as i32);
        let mut killed = false;
        let status = wait_for(deadline * 2, "a killed program shall be gone", || {
            if !killed && start.elapsed() >= deadline {
                let _ = child.kill();
                killed = true;
            }
            child.try_wait().expect("the program's status")
        });
        let elapsed = start.elapsed();
        let text = |thread: thread::JoinHandle<Vec<u8>>| {
            String::from_utf8_lossy(&thread.join().expect("a thread that only reads")).into_owned()
        };
        let run = Self {
            command: format!("{command:?}"),
            status,
            stdout: text(stdout),
            stderr: text(stderr),
            elapsed,
        };
        assert!(
            !killed,
            "killed, being still at it after {deadline:?}:\n{run}"
        );
        run
    }

    /// Runs pgpoke under strace, and returns, too, what it did to other processes.
    #[track_caller]
    pub fn pgpoke_traced(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> (Self, Calls) {
        const SIGNALS: [&str; 6] = [
            "kill",
            "tkill",
            "tgkill",
            "pidfd_send_signal",
            "rt_sigqueueinfo",
            "rt_tgsigqueueinfo",
        ];
        let dir = tempfile::tempdir().expect("a directory for strace's output");
        let output = dir.path().join("calls");
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-e", "signal=none", "-e"]);
        command
            .arg(format!("trace=ptrace,{}", SIGNALS.join(",")))
            .arg("-o")
            .arg(&output)
            .arg("--")
            .arg(pgpoke().get_program())
            .args(args);
        let run = Self::of(command);
        let output = std::fs::read_to_string(&output)
            .unwrap_or_else(|error| panic!("strace left no output ({error}):\n{run}"));
        // "PID name(arguments) = result"; the second line of a call that was suspended has no name.
        let calls = |names: &[&str]| {
            let name =
                |line: &str| Some(line.split_once(' ')?.1.trim().split_once('(')?.0.to_owned());
            let lines = output.lines();
            lines
                .filter(|line| name(line).is_some_and(|name| names.contains(&name.as_str())))
                .map(str::to_owned)
                .collect()
        };
        let ptrace = calls(&["ptrace"]);
        let mut signals: Vec<String> = calls(&SIGNALS);
        // Signal 0 is none: it asks whether there is such a process.
        signals.retain(|line| !(line.contains(" kill(") && line.contains(", 0) ")));
        (run, Calls { ptrace, signals })
    }

    /// Runs pgpoke on a terminal, and types `answer` when it asks. Standard output and standard
    /// error are one there.
    #[track_caller]
    pub fn pgpoke_on_a_terminal(
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
        answer: &str,
    ) -> Self {
        let mut asked = 0;
        let run = Self::pgpoke_asking(args, |_, _| {
            asked += 1;
            assert_eq!(asked, 1, "it asks more than once");
            answer.to_owned()
        });
        assert_eq!(asked, 1, "it did not ask:\n{run}");
        run
    }

    /// The same, where it may ask any number of times: `answer` is told its PID and what was shown since it last asked.
    #[track_caller]
    pub fn pgpoke_asking(
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
        answer: impl FnMut(i32, &str) -> String,
    ) -> Self {
        let mut command = heeding_signals(pgpoke().get_program());
        command.args(args);
        Self::asking(command, answer)
    }

    /// The same of any command.
    #[track_caller]
    pub fn asking(mut command: Command, mut answer: impl FnMut(i32, &str) -> String) -> Self {
        let (mut terminal, other_end) = open_terminal(0);
        let end = || Stdio::from(other_end.try_clone().expect("a copy of a descriptor"));
        command.stdin(end()).stdout(end()).stderr(end());
        let name = format!("{command:?} on a terminal");
        let start = Instant::now();
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        // Else there would be no end of what can be read.
        drop((command, other_end));
        let mut keyboard = terminal.try_clone().expect("a copy of a descriptor");
        let (seen, screen) = mpsc::channel();
        let reader = thread::spawn(move || {
            let mut bytes = [0; 4096];
            // EIO is how a terminal ends whose other end is closed.
            while let Ok(count @ 1..) = terminal.read(&mut bytes) {
                if seen.send(bytes[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        let mut shown = Vec::new();
        let mut answered = 0;
        let status = wait_for(Self::DEADLINE, "it shall come to an end", || {
            shown.extend(screen.try_iter().flatten());
            if shown.len() > answered && shown.ends_with(b"[y/N] ") {
                let since = String::from_utf8_lossy(&shown[answered..]);
                let answer = answer(child.id() as i32, &since);
                keyboard.write_all(answer.as_bytes()).expect("an answer");
                answered = shown.len();
            }
            child.try_wait().expect("the program's status")
        });
        let elapsed = start.elapsed();
        reader.join().expect("a thread that only reads");
        shown.extend(screen.try_iter().flatten());
        Self {
            command: name,
            status,
            stdout: String::from_utf8_lossy(&shown).replace("\r\n", "\n"),
            stderr: String::new(),
            elapsed,
        }
    }

    /// Runs a program whose standard output is a terminal so many columns wide.
    #[track_caller]
    pub fn on_a_screen(mut command: Command, columns: u16) -> Self {
        let (mut terminal, other_end) = open_terminal(columns);
        command.stdin(Stdio::null()).stdout(Stdio::from(other_end));
        command.stderr(Stdio::piped());
        let start = Instant::now();
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let name = format!("{command:?} on a terminal of {columns} columns");
        // Else there would be no end of what can be read.
        drop(command);
        let reader = thread::spawn(move || {
            let (mut bytes, mut shown) = ([0; 4096], Vec::new());
            // EIO is how a terminal ends whose other end is closed.
            while let Ok(count @ 1..) = terminal.read(&mut bytes) {
                shown.extend_from_slice(&bytes[..count]);
            }
            shown
        });
        let output = child.wait_with_output().expect("the program's end");
        let shown = reader.join().expect("a thread that only reads");
        Self {
            command: name,
            status: output.status,
            stdout: String::from_utf8_lossy(&shown).replace("\r\n", "\n"),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            elapsed: start.elapsed(),
        }
    }

    /// The exit code; None where a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended it, if one did.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Asserts the exit code, and shows everything if it is another.
    #[track_caller]
    pub fn assert_code(&self, expected: i32) -> &Self {
        assert!(
            self.code() == Some(expected),
            "expected exit code {expected}:\n{self}"
        );
        self
    }

    /// Asserts that a text is somewhere on stdout or stderr.
    #[track_caller]
    pub fn assert_says(&self, text: &str) -> &Self {
        assert!(
            self.stdout.contains(text) || self.stderr.contains(text),
            "expected to read {text:?}:\n{self}"
        );
        self
    }

    /// Standard output as the one JSON object that it has to be; pgpoke's as its schema has it.
    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_str::<Value>(&self.stdout) {
            Ok(value) if value.is_object() => {
                if value.get("schema_version").is_some() {
                    self.assert_published(&value);
                }
                value
            }
            Ok(_) => panic!("JSON, but no object, on stdout:\n{self}"),
            Err(error) => panic!("no JSON on stdout ({error}):\n{self}"),
        }
    }
}

/// A schema of this project's.
fn read_schema(path: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = std::fs::read_to_string(path).expect("a schema");
    serde_json::from_str(&text).expect("JSON")
}

/// The schema of version 1 as it was first published. It stays as it is.
pub fn published() -> Value {
    read_schema("tests/published/schema-1.json")
}

/// What of it may never change: that the fields which are there now are there, with values of the same types.
fn what_is_kept(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            for adding in ["additionalProperties", "unevaluatedProperties", "enum"] {
                // A field may have the name of a keyword; what it says is an object.
                if map.get(adding).is_some_and(|v| !v.is_object()) {
                    map.remove(adding);
                }
            }
            // With more fields than it knows, an output may be like several.
            if let Some(kinds) = map.remove("oneOf") {
                map.insert("anyOf".into(), kinds);
            }
            map.values_mut().for_each(what_is_kept);
        }
        Value::Array(items) => items.iter_mut().for_each(what_is_kept),
        _ => {}
    }
}

/// Whether an output has all that was published.
pub fn kept() -> &'static Validator {
    static KEPT: LazyLock<Validator> = LazyLock::new(|| {
        let mut schema = published();
        what_is_kept(&mut schema);
        jsonschema::draft202012::new(&schema).expect("a schema")
    });
    &KEPT
}

impl Run {
    /// So every command is held to the schema in every scenario, and to what was published.
    #[track_caller]
    fn assert_published(&self, output: &Value) {
        static SCHEMA: LazyLock<Validator> = LazyLock::new(|| {
            let schema = read_schema("docs/pgpoke.schema.json");
            jsonschema::draft202012::new(&schema).expect("a schema")
        });
        assert!(
            SCHEMA.is_valid(output),
            "not as docs/pgpoke.schema.json has it:\n{self}"
        );
        assert!(kept().is_valid(output), "not as it was published:\n{self}");
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            command,
            status,
            stdout,
            stderr,
            elapsed,
        } = self;
        write!(
            f,
            "{command}\n{status} after {elapsed:?}\n--- stdout\n{stdout}--- stderr\n{stderr}---"
        )
    }
}

/// A pseudo-terminal so many columns wide (0: it does not say): the end of whoever sits before it, and the program's.
fn open_terminal(columns: u16) -> (File, File) {
    let (mut ours, mut theirs) = (-1, -1);
    let size = libc::winsize {
        ws_row: if columns == 0 { 0 } else { 24 },
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: openpty writes to two integers and reads a size, all of which outlive the call; null is allowed for the rest.
    let opened = unsafe {
        libc::openpty(
            &mut ours,
            &mut theirs,
            std::ptr::null_mut(),
            std::ptr::null(),
            &size,
        )
    };
    assert_eq!(opened, 0, "openpty: {}", std::io::Error::last_os_error());
    for descriptor in [ours, theirs] {
        // SAFETY: the descriptor is open. A child of another test must not keep it so.
        unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    // SAFETY: both descriptors are open, and nobody else's.
    unsafe { (File::from_raw_fd(ours), File::from_raw_fd(theirs)) }
}

fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// The command, as root without CAP_SYS_PTRACE: what a container's root usually is. Needs root.
pub fn as_user_without_ptrace(command: Command) -> Command {
    setpriv(
        &["--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"],
        command,
    )
}

/// The command, as a user who has nothing to do with the server. Needs root.
pub fn as_other_user(command: Command) -> Command {
    setpriv(
        &["--reuid=nobody", "--regid=nogroup", "--clear-groups"],
        command,
    )
}

/// The command, as a user whom nothing else on this machine runs as, be it another test's. Needs root.
pub fn as_stranger(command: Command) -> Command {
    let in_use = || {
        let all = std::fs::read_dir("/proc").expect("/proc");
        let owners = all.filter_map(|entry| Some(entry.ok()?.metadata().ok()?.uid()));
        owners.collect::<std::collections::HashSet<u32>>()
    };
    let in_use = in_use();
    // Neither people's nor services', by custom.
    let id = (30_000..60_000).find(|id| !in_use.contains(id));
    let id = id.expect("a user who runs nothing");
    setpriv(
        &[
            &format!("--reuid={id}"),
            &format!("--regid={id}"),
            "--clear-groups",
        ],
        command,
    )
}

/// The command, as the user that servers run as when the tests run as root. Needs root.
pub fn as_server_user(command: Command) -> Command {
    setpriv(
        &[
            "--reuid=pgpoke-test",
            "--regid=pgpoke-test",
            "--clear-groups",
        ],
        command,
    )
}

/// A program that is named by its path, through a descriptor opened here, since the other user need
/// not be able to reach the build directory.
fn setpriv(options: &[&str], command: Command) -> Command {
    let program = Path::new(command.get_program());
    let program = program
        .is_absolute()
        .then(|| File::open(program).unwrap_or_else(|error| panic!("{command:?}: {error}")));
    let mut wrapped = Command::new("setpriv");
    wrapped.args(options).arg("--");
    match &program {
        Some(program) => wrapped.arg(format!("/proc/self/fd/{}", program.as_raw_fd())),
        None => wrapped.arg(command.get_program()),
    };
    wrapped.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        wrapped.current_dir(dir);
    }
    let Some(program) = program else {
        return wrapped;
    };
    // SAFETY: fcntl is async-signal-safe, and touches nothing but the child's own descriptor, which
    // the closure keeps open.
    unsafe {
        wrapped.pre_exec(
            move || match libc::fcntl(program.as_raw_fd(), libc::F_SETFD, 0) {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            },
        );
    }
    wrapped
}
