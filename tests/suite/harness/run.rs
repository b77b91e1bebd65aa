//! pgpoke, run as its users run it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::wait_for;

/// The pgpoke that was built along with these tests.
pub fn pgpoke() -> Command {
    Command::new(env!("CARGO_BIN_EXE_pgpoke"))
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

impl Run {
    /// Longer than any of pgpoke's own deadlines.
    const DEADLINE: Duration = Duration::from_secs(60);

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
    pub fn within(deadline: Duration, mut command: Command) -> Self {
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

    /// Standard output as the one JSON object that it has to be.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_str::<serde_json::Value>(&self.stdout) {
            Ok(value) if value.is_object() => value,
            Ok(_) => panic!("JSON, but no object, on stdout:\n{self}"),
            Err(error) => panic!("no JSON on stdout ({error}):\n{self}"),
        }
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

/// Through a descriptor opened here, since the other user need not be able to reach the build
/// directory.
fn setpriv(options: &[&str], command: Command) -> Command {
    let program =
        File::open(command.get_program()).unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut wrapped = Command::new("setpriv");
    wrapped
        .args(options)
        .arg("--")
        .arg(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        wrapped.current_dir(dir);
    }
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
