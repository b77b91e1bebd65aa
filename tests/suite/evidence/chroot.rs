//! A server below another root directory, without a container: the kernel tells its paths as they are outside, and its own
//! settings name them as they are inside.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use postgres::{Client, Config, NoTls};

use super::Report;
use crate::harness::{
    Backend, DEADLINE, Installation, Run, Server, checked, is_root, skip, wait_for,
};

/// Whoever runs it ends the server by closing its standard input, as its death does.
const SUPERVISOR: &str = r#"
cell=$1 program=$2
# By their numbers: there are no names in there.
user=$(id -u pgpoke-test):$(id -g pgpoke-test)
chroot --userspec="$user" --groups= "$cell" "$program" -D /data >"$cell/log" 2>&1 </dev/null &
postmaster=$!
echo "$postmaster"
read -r word
kill -QUIT "$postmaster" 2>/dev/null
wait "$postmaster"
"#;

struct Cell {
    dir: tempfile::TempDir,
    supervisor: Child,
    word: Option<ChildStdin>,
    postmaster: Backend,
}

impl Cell {
    /// One with such a directory for logs, too.
    fn start(installation: &Installation, settings: &str, logs: Option<&Path>) -> Self {
        let dir = Installation::temp_dir();
        let inside = |path: &Path| {
            dir.path()
                .join(path.strip_prefix("/").expect("a whole path"))
        };
        let place = |path: &Path| {
            let to = inside(path);
            fs::create_dir_all(to.parent().expect("a directory")).expect("a directory");
            let mut cp = Command::new("cp");
            checked(cp.args(["-rL", "--reflink=auto"]).arg(path).arg(to));
        };
        let server = installation.server();
        place(&server);
        for file in libraries(&server) {
            place(&file);
        }
        for what in ["--sharedir", "--pkglibdir"] {
            let asked = checked(Command::new(installation.program("pg_config")).arg(what));
            place(Path::new(String::from_utf8_lossy(&asked.stdout).trim()));
        }
        checked(
            Command::new("cp")
                .args(["-a", "--reflink=auto"])
                .arg(installation.template())
                .arg(dir.path().join("data")),
        );
        for open in logs.into_iter().chain([Path::new("/socket")]) {
            fs::create_dir_all(inside(open)).expect("a directory");
            fs::set_permissions(inside(open), fs::Permissions::from_mode(0o777)).expect("a mode");
        }
        let conf = dir.path().join("data/postgresql.conf");
        let before = fs::read_to_string(&conf).expect("postgresql.conf");
        // There is neither a list of time zones in there nor shared memory of POSIX.
        let own = "listen_addresses = ''\nunix_socket_directories = '/socket'\ntimezone = 'GMT'\n\
            log_timezone = 'GMT'\ndynamic_shared_memory_type = 'mmap'\n";
        fs::write(&conf, format!("{before}\n{own}{settings}")).expect("postgresql.conf");

        let mut supervisor = Command::new("sh");
        supervisor.args(["-c", SUPERVISOR, "supervisor"]);
        supervisor.arg(dir.path()).arg(&server);
        supervisor.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut supervisor = supervisor.spawn().expect("sh, to supervise a server");
        let word = supervisor.stdin.take();
        let mut line = String::new();
        BufReader::new(supervisor.stdout.take().expect("a pipe"))
            .read_line(&mut line)
            .expect("the postmaster's PID");
        let postmaster = Backend::open(line.trim().parse().expect("a PID")).expect("a child");
        let cell = Cell {
            dir,
            supervisor,
            word,
            postmaster,
        };
        wait_for(DEADLINE, "the server shall take connections", || {
            assert!(cell.postmaster.is_alive(), "{}", cell.said());
            cell.config().connect(NoTls).ok()
        });
        cell
    }

    fn config(&self) -> Config {
        let mut config = Config::new();
        config.host_path(self.dir.path().join("socket"));
        config.user("postgres").dbname("postgres");
        config
    }

    fn said(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        drop(self.word.take());
        let _ = self.supervisor.wait();
    }
}

/// What a program is linked to, the dynamic linker, too.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let said = checked(Command::new("ldd").arg(program));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let words = said.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.find(|word| word.starts_with('/')).map(PathBuf::from)
    });
    words.collect()
}

fn pid_of(client: &mut Client) -> i32 {
    let row = client.query_one("SELECT pg_backend_pid()", &[]);
    row.expect("its PID").get(0)
}

const SETTINGS: &str = "logging_collector = on\nlog_directory = 'log'\nlog_filename = 'own.log'\n";

/// Whatever is gathered of a server in its own place is gathered of one in a cell.
#[test]
fn of_a_server_in_a_cell_nothing_is_missing() {
    if !is_root() {
        skip!("only root may change a root directory");
    }
    let installation = Installation::default();
    let options = |dsn| ["--samples", "1", "--dsn", dsn];

    let usual = Server::builder()
        .setting("logging_collector", "on")
        .setting("log_directory", "log")
        .setting("log_filename", "own.log")
        .start();
    let mut session = usual.connect();
    let expected = Report::of(
        pid_of(&mut session),
        &options("user=postgres dbname=postgres"),
    );
    usual.assert_unharmed();

    let cell = Cell::start(&installation, SETTINGS, None);
    let mut session = cell.config().connect(NoTls).expect("a session");
    let pid = pid_of(&mut session);
    let report = Report::of(pid, &options("user=postgres dbname=postgres"));
    for name in expected.files.keys() {
        assert!(report.files.contains_key(name), "{}", report.why_not(name));
    }
    report.assert_has("postmaster-opts.txt", "\"-D\" \"/data\"");
    report.assert_has("server-log-end.txt", "the end of /data/log/own.log");
    report.assert_has("server-log-end.txt", "ready to accept connections");
    report.assert_has("postgresql-conf.txt", "unix_socket_directories = /socket");
    report.assert_has("pg_settings.csv", "/data/postgresql.conf");
    let json = Run::pgpoke(["inspect", "--json", &pid.to_string()]);
    let seen = json.json();
    assert_eq!(seen["stack_complete"], true, "{json}");
    // Where it is for whoever reads that: outside.
    let outside = cell.dir.path().join("data");
    assert_eq!(
        seen["backend"]["data_directory"],
        outside.to_str().expect("a path in /tmp"),
        "{json}"
    );
    assert_eq!(pid_of(&mut session), pid);
    assert!(cell.postmaster.is_alive() && !cell.said().contains("PANIC"));
}

/// A file outside that has the name of one inside is none of the server's.
#[test]
fn a_file_outside_with_the_same_name_is_not_taken_for_its_own() {
    if !is_root() {
        skip!("only root may change a root directory");
    }
    let outside = Installation::temp_dir();
    let log = outside.path().join("own.log");
    fs::write(&log, "not of this server\n").expect("a file");
    fs::set_permissions(&log, fs::Permissions::from_mode(0o644)).expect("its mode");
    let settings = format!(
        "logging_collector = on\nlog_filename = 'own.log'\nlog_directory = '{}'\n",
        outside.path().display()
    );
    let cell = Cell::start(&Installation::default(), &settings, Some(outside.path()));
    let mut session = cell.config().connect(NoTls).expect("a session");
    let report = Report::of(pid_of(&mut session), &["--samples", "1"]);
    report.assert_has("server-log-end.txt", "ready to accept connections");
    for (name, content) in &report.files {
        assert!(!content.contains("not of this server"), "{name}");
    }
    let untouched = File::open(&log).and_then(|f| f.metadata()).expect("a file");
    assert_eq!(untouched.len(), "not of this server\n".len() as u64);
}
