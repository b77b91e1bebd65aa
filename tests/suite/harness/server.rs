//! Throwaway servers.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use postgres::{Client, Config, NoTls};
use tempfile::TempDir;

use super::gate::Pass;
use super::installation::{checked, copy, give, testext_source};
use super::{Backend, DEADLINE, Installation, Stuck, wait_for};

/// Stands between the test and the postmaster, so that no server outlives its test, even one killed
/// by SIGKILL: the pipe it reads from is closed then. It is the postmaster's parent, which keeps
/// the PID from being recycled under it. An end without a word means that nobody is left to remove
/// the directory.
const SUPERVISOR: &str = r#"
dir=$1
shift
"$@" >"$dir/log" 2>&1 </dev/null &
postmaster=$!
echo "$postmaster"
orphaned=yes
if read -r word; then orphaned=no; fi
kill -QUIT "$postmaster" 2>/dev/null
wait "$postmaster"
if [ "$orphaned" = yes ]; then rm -rf "$dir"; fi
"#;

/// What a server's log says when a backend took others down with it.
const SIGNS_OF_A_CRASH: [&str; 6] = [
    // Of a process of its own; programs that it started are told of with other words.
    ") was terminated by signal",
    "terminating any other active server processes",
    "all server processes terminated; reinitializing",
    "exited with exit code 2",
    "database system was not properly shut down",
    "PANIC:",
];

/// Settings of every server, before those of the test: quick, quiet, reachable through its own
/// socket only.
const SETTINGS: [(&str, &str); 8] = [
    ("listen_addresses", ""),
    ("fsync", "off"),
    ("synchronous_commit", "off"),
    ("full_page_writes", "off"),
    ("shared_buffers", "16MB"),
    ("max_connections", "30"),
    ("logging_collector", "off"),
    ("log_line_prefix", "%m [%p] "),
];

/// What a server is made of, before it is started.
pub struct Builder {
    installation: Installation,
    postgres: Option<PathBuf>,
    settings: Vec<(String, String)>,
    standby: bool,
    checksums: bool,
    pooled: bool,
    alone: bool,
}

impl Builder {
    /// On that PostgreSQL, instead of the default one.
    pub fn installation(mut self, installation: Installation) -> Self {
        self.installation = installation;
        self
    }

    /// Runs this executable: a copy of the installation's, in a copy of all that it needs.
    pub fn postgres(mut self, executable: PathBuf) -> Self {
        self.postgres = Some(executable);
        self
    }

    /// One more setting for postgresql.conf.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A standby: it recovers for ever. All clusters are copies of one, so it can follow any other
    /// server of the same installation (`primary_conninfo`).
    pub fn standby(mut self) -> Self {
        self.standby = true;
        // At least what the cluster was made with; recovery insists on it.
        self.setting("max_connections", "100")
    }

    /// Whoever only asks something finds an open session: where the machine is busy, a new one takes long.
    pub fn pooled(mut self) -> Self {
        self.pooled = true;
        self
    }

    /// With a checksum in each page of data.
    pub fn checksums(mut self) -> Self {
        self.checksums = true;
        self
    }

    /// For a test that measures times: no other test's server runs meanwhile.
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Starts it with testext's functions, or says why these cannot be built.
    pub fn start_with_testext(self) -> Result<Server, String> {
        if !self.installation.has_headers() {
            return Err(format!("no headers for {}", self.installation.version()));
        }
        let server = self.start();
        server.install_testext();
        Ok(server)
    }

    /// Starts it, and returns when it takes connections.
    pub fn start(self) -> Server {
        let pass = if self.alone {
            Pass::alone()
        } else {
            Pass::together()
        };
        let dir = Installation::temp_dir();
        let data = dir.path().join("data");
        copy(&self.installation.template(), &data);
        if self.standby {
            fs::write(data.join("standby.signal"), "").expect("standby.signal");
        }

        if self.checksums {
            let mut enable = Installation::command(self.installation.program("pg_checksums"));
            checked(enable.args(["--enable", "--no-sync", "-D"]).arg(&data));
        }

        let mut conf = String::new();
        let defaults = SETTINGS.iter().map(|(name, value)| (*name, *value));
        let own = self
            .settings
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let socket_dir = dir.path().to_str().expect("a path in /tmp");
        for (name, value) in defaults
            .chain([("unix_socket_directories", socket_dir)])
            .chain(own)
        {
            writeln!(conf, "{name} = '{}'", value.replace('\'', "''"))
                .expect("a String takes everything");
        }
        let conf_file = fs::OpenOptions::new()
            .append(true)
            .open(data.join("postgresql.conf"));
        conf_file
            .and_then(|mut file| file.write_all(conf.as_bytes()))
            .expect("postgresql.conf");

        let mut supervisor = Installation::command("sh");
        supervisor
            .args(["-c", SUPERVISOR, "supervisor"])
            .arg(dir.path());
        let own = || self.installation.server();
        supervisor
            .arg(self.postgres.unwrap_or_else(own))
            .arg("-D")
            .arg(&data);
        // A process group of its own: a Ctrl-C is for the tests, and stops the server through the
        // pipe.
        supervisor
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut supervisor = supervisor.spawn().expect("sh, to supervise a server");
        let word = supervisor.stdin.take();
        let mut line = String::new();
        BufReader::new(supervisor.stdout.take().expect("a pipe"))
            .read_line(&mut line)
            .expect("the postmaster's PID");
        let pid = line.trim().parse().unwrap_or_else(|_| {
            panic!("the supervisor died; is there a user for servers? {line:?}")
        });
        let postmaster =
            Backend::open(pid).expect("the postmaster, at least as a zombie of its supervisor");

        let server = Server {
            installation: self.installation,
            dir,
            supervisor,
            word,
            postmaster,
            crash_expected: AtomicBool::new(false),
            pool: self.pooled.then(Mutex::default),
            _pass: pass,
        };
        wait_for(DEADLINE, "the server shall take connections", || {
            assert!(
                server.postmaster.is_alive(),
                "the server did not start:\n{}",
                server.log()
            );
            server.config().connect(NoTls).ok()
        });
        server
    }
}

/// A fresh cluster with its own directory, socket and log. It is stopped when this is dropped, and
/// dies with the test process in any case.
pub struct Server {
    installation: Installation,
    dir: TempDir,
    supervisor: Child,
    /// A line in here asks the supervisor to stop the server; so does closing it.
    word: Option<ChildStdin>,
    postmaster: Backend,
    crash_expected: AtomicBool,
    /// Open sessions that nobody uses.
    pool: Option<Mutex<Vec<Client>>>,
    /// Given back when everything above is gone.
    _pass: Pass,
}

impl Server {
    /// A server with default settings on the default installation.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// A server with settings, or an installation, of its own.
    pub fn builder() -> Builder {
        Builder {
            installation: Installation::default(),
            postgres: None,
            settings: Vec::new(),
            standby: false,
            checksums: false,
            pooled: false,
            alone: false,
        }
    }

    /// What it runs on.
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// The postmaster.
    pub fn postmaster(&self) -> Backend {
        self.postmaster
    }

    /// The data directory.
    pub fn data_directory(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The directory of its socket, and of everything else that belongs to it; everybody may enter
    /// it.
    pub fn directory(&self) -> &Path {
        self.dir.path()
    }

    /// How libpq, or `pgpoke report --dsn`, reaches it.
    pub fn conninfo(&self) -> String {
        format!(
            "host={} port=5432 user=postgres dbname=postgres",
            self.dir.path().display()
        )
    }

    /// The same, to be changed before connecting.
    pub fn config(&self) -> Config {
        self.conninfo().parse().expect("a connection string")
    }

    /// A new session.
    #[track_caller]
    pub fn connect(&self) -> Client {
        match self.config().connect(NoTls) {
            Ok(client) => client,
            Err(error) => panic!("no new session: {error}\n{}", self.log()),
        }
    }

    /// Asks something of the server: in a session that is open already, if there is one, else in a new one.
    #[track_caller]
    pub fn ask<T>(&self, question: impl FnOnce(&mut Client) -> T) -> T {
        let Some(pool) = &self.pool else {
            return question(&mut self.connect());
        };
        let open = pool.lock().expect("a pool").pop();
        let mut client = open.unwrap_or_else(|| self.connect());
        let answer = question(&mut client);
        pool.lock().expect("a pool").push(client);
        answer
    }

    /// Everything the server has logged.
    pub fn log(&self) -> String {
        fs::read(self.dir.path().join("log"))
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// Makes the functions of testext, from a library that lies beside the server: nothing is
    /// installed in the system.
    pub fn install_testext(&self) {
        self.install_testext_made(|_| ());
    }

    /// The same, doing something to the library before it is loaded.
    pub fn install_testext_made(&self, make: impl FnOnce(&Path)) {
        let library = self.dir.path().join("pgpoke_test.so");
        fs::copy(self.installation.testext(), &library).expect("a copy of pgpoke_test.so");
        make(&library);
        let script = fs::read_to_string(testext_source().join("pgpoke_test--1.0.sql"))
            .expect("testext's SQL file");
        let script: String = script
            .lines()
            .filter(|line| !line.starts_with('\\'))
            .map(|line| format!("{line}\n"))
            .collect();
        let script = script.replace("MODULE_PATHNAME", library.to_str().expect("a path in /tmp"));
        self.connect()
            .batch_execute(&script)
            .expect("testext's functions");
    }

    /// Runs a function of testext in a session of its own, and returns when the backend is inside.
    #[track_caller]
    pub fn stuck(&self, sql: &str) -> Stuck<'_> {
        let stuck = Stuck::start(self, sql);
        stuck.wait_until_inside();
        stuck
    }

    /// The same as another user, or in another database.
    #[track_caller]
    pub fn stuck_as(&self, change: impl FnOnce(&mut Config), sql: &str) -> Stuck<'_> {
        let stuck = Stuck::start_as(self, sql, change);
        stuck.wait_until_inside();
        stuck
    }

    /// Runs any statement in a session of its own, and returns when the backend is active and
    /// `condition` holds.
    #[track_caller]
    pub fn stuck_when(&self, sql: &str, condition: impl FnMut(&Backend) -> bool) -> Stuck<'_> {
        let stuck = Stuck::start(self, sql);
        stuck.wait_until_active();
        stuck.wait_until(
            &format!("the backend shall be where the test wants it in: {sql}"),
            DEADLINE,
            condition,
        );
        stuck
    }

    /// A backend stuck without any extension, as on every version: COPY from a FIFO that nobody
    /// opens for writing. open(2) is restarted after each signal (glibc calls openat(2), musl open(2)).
    #[track_caller]
    pub fn stuck_on_fifo(&self) -> Stuck<'_> {
        let fifo = self.data_directory().join("nobody-writes");
        if !fifo.exists() {
            checked(Installation::command("mkfifo").arg(&fifo));
            give(&fifo);
        }
        self.connect()
            .batch_execute("CREATE TABLE IF NOT EXISTS never_filled (line text)")
            .expect("a table");
        let sql = format!("COPY never_filled FROM '{}'", fifo.display());
        self.stuck_when(&sql, |backend| {
            let opening = [libc::SYS_openat, libc::SYS_open].map(Some);
            backend.state() == Some('S') && opening.contains(&backend.syscall())
        })
    }

    /// The lines of the log that tell of a crash; those that the immediate shutdown at the end
    /// causes do not count.
    pub fn signs_of_a_crash(&self) -> Vec<String> {
        let log = self.log();
        let before = log
            .split("received immediate shutdown request")
            .next()
            .unwrap_or_default();
        let crashed = |line: &&str| SIGNS_OF_A_CRASH.iter().any(|sign| line.contains(sign));
        before.lines().filter(crashed).map(str::to_owned).collect()
    }

    /// The postmaster is the one that was started, no backend has crashed, and a new session gets
    /// an answer.
    #[track_caller]
    pub fn assert_unharmed(&self) {
        let signs = self.signs_of_a_crash();
        assert!(
            signs.is_empty(),
            "the server went through a crash:\n{}\n\nits whole log:\n{}",
            signs.join("\n"),
            self.log()
        );
        assert!(
            self.postmaster.is_alive(),
            "the postmaster is gone; its log:\n{}",
            self.log()
        );
        let pid_file = fs::read_to_string(self.data_directory().join("postmaster.pid"))
            .expect("postmaster.pid");
        assert_eq!(
            pid_file.lines().next(),
            Some(self.postmaster.pid.to_string().as_str()),
            "another postmaster"
        );
        let one: i32 = self
            .connect()
            .query_one("SELECT 1", &[])
            .expect("an answer to SELECT 1")
            .get(0);
        assert_eq!(one, 1);
    }

    /// Stops it as an administrator would. Nothing can be asked of it after that, but its data are there still.
    #[track_caller]
    pub fn shut_down(&self) {
        let mut stop = Installation::command(self.installation.program("pg_ctl"));
        stop.args(["stop", "-s", "-m", "fast", "-D"]);
        checked(stop.arg(self.data_directory()));
    }

    /// For a test that crashes the server on purpose: do not assert the contrary at the end.
    pub fn expect_crash(&self) {
        self.crash_expected.store(true, Ordering::Relaxed);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut word) = self.word.take() {
            let _ = word.write_all(b"stop\n");
        }
        // Backends that cannot take SIGQUIT get SIGKILL from the postmaster, after 5 s.
        let stopped = wait_for(DEADLINE, "the server shall stop", || {
            self.supervisor.try_wait().transpose()
        });
        let signs = self.signs_of_a_crash();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            eprintln!(
                "the end of the server's log:\n{}",
                lines[lines.len().saturating_sub(40)..].join("\n")
            );
            return;
        }
        stopped.expect("the supervisor's exit status");
        assert!(
            signs.is_empty() || self.crash_expected.load(Ordering::Relaxed),
            "the server went through a crash:\n{}\n\nits whole log:\n{}",
            signs.join("\n"),
            self.log()
        );
    }
}
