//! Servers in containers, looked at from the host, from inside, and from a container beside them.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Backend, DEADLINE, Run, is_root, pgpoke, skip, wait_for};

/// What a run of podman's needs on machines without cgroups of their own for it.
const RUN: [&str; 8] = [
    "--runtime",
    "runc",
    "run",
    "--network=none",
    "--ulimit",
    "nofile=20000:20000",
    "--ulimit",
    "nproc=1024:1024",
];

/// Starts the server as the image's init would, and outlives it, but not for ever.
const START: &str = r#"
install -d -o postgres -g postgres /var/run/postgresql
version=$(ls /usr/lib/postgresql)
printf 'fsync = off\nautovacuum = off\n' >>/etc/postgresql/$version/main/postgresql.conf
sed -i 's/^local.*/local all all trust/' /etc/postgresql/$version/main/pg_hba.conf
mkfifo -m 666 /tmp/fifo
pg_ctlcluster $version main start
exec sleep 900
"#;

/// What a server's log says when a backend took others down with it.
const SIGNS_OF_A_CRASH: [&str; 3] = ["was terminated by signal", "reinitializing", "PANIC:"];

/// The image of a suite; none where scripts/build-containers.sh has not made it.
pub fn image(suite: &str) -> Option<String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/build-containers.sh");
    let output = Command::new(script).args(["--image", suite]).output();
    let output = output.unwrap_or_else(|error| panic!("{script}: {error}"));
    let name = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(name)
}

fn podman(args: &[&str]) -> Command {
    let mut command = Command::new("podman");
    command.args(args);
    command
}

/// A container with a server in it, which goes with it.
pub struct Container {
    name: String,
    image: String,
    /// pgpoke, in all containers of this image.
    program: String,
    /// The PID of its first process, as the host has it.
    init: i32,
    postmaster: Backend,
}

impl Container {
    /// Started as the image's init would, with the pgpoke of these tests in it.
    pub fn start(image: &str, options: &[&str]) -> Self {
        Self::start_by(START, image, &own_program(), options)
    }

    /// Started by a script of its own, with this pgpoke in it.
    pub fn start_by(script: &str, image: &str, program: &str, options: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("pgpoke-test-{}-{number}", std::process::id());
        let mut command = podman(&RUN);
        command.args(["-d", "--rm", "--name", &name, "-v", &mount(program)]);
        command.args(options).args([image, "sh", "-c", script]);
        let mut container = Self {
            name,
            image: image.to_owned(),
            program: program.to_owned(),
            init: 0,
            // Until its own is known.
            postmaster: Backend::open(std::process::id() as i32).expect("ourselves"),
        };
        Run::of(command).assert_code(0);
        let state = ["inspect", "--format", "{{.State.Pid}}", &container.name];
        let state = Run::of(podman(&state)).stdout;
        container.init = state.trim().parse().expect("a PID");
        wait_for(DEADLINE, "the server shall take connections", || {
            (Run::of(container.psql("SELECT 1")).code() == Some(0)).then_some(())
        });
        // Until then its script starts processes, which take PIDs.
        wait_for(DEADLINE, "the server shall have been started", || {
            let name = std::fs::read_to_string(format!("/proc/{}/comm", container.init));
            name.is_ok_and(|name| name == "sleep\n").then_some(())
        });
        let first = "SELECT pg_read_file('postmaster.pid', 0, 20)";
        let text = Run::of(container.psql(first)).stdout;
        let inner = text.lines().next().and_then(|l| l.parse().ok());
        container.postmaster = container.process(inner.expect("a PID"));
        container
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A file in there, as it is seen from here.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    /// A command inside, as root, who has the rights of a container's root only.
    pub fn as_root(&self, args: &[&str]) -> Command {
        let mut command = podman(&["exec", &self.name]);
        command.args(args);
        command
    }

    /// A command inside, as the server's user.
    pub fn exec(&self, args: &[&str]) -> Command {
        let mut command = podman(&["exec", "-u", "postgres", &self.name]);
        command.args(args);
        command
    }

    /// From outside, through its socket: inside, nothing comes of it but the backend, so that PIDs can be foreseen. (Its
    /// /var/run is an absolute link, which out here leads to our own /run.)
    fn psql(&self, sql: &str) -> Command {
        let socket = format!("/proc/{}/root/run/postgresql", self.init);
        let mut command = Command::new("psql");
        command.args(["-h", &socket, "-U", "postgres", "-XAtqc", sql]);
        command
    }

    #[track_caller]
    pub fn ask(&self, sql: &str) -> String {
        let run = Run::of(self.psql(sql));
        run.assert_code(0);
        run.stdout.trim().to_owned()
    }

    /// The first 12 digits of its identifier.
    fn id(&self) -> String {
        let run = Run::of(podman(&["inspect", "--format", "{{.Id}}", &self.name]));
        run.stdout[..12].to_owned()
    }

    /// The process that is `inner` in there: of those in the same PID namespace as its first one.
    #[track_caller]
    fn process(&self, inner: i32) -> Backend {
        let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let ours = namespace(&self.init.to_string());
        let mut all = std::fs::read_dir("/proc").expect("/proc").flatten();
        let found = all.find_map(|entry| {
            let pid = entry.file_name().into_string().ok()?;
            let process = Backend::open(pid.parse().ok()?)?;
            let pids = process.status("NSpid")?;
            let is_it = pids.split_whitespace().last() == Some(&inner.to_string());
            (is_it && namespace(&pid) == ours).then_some(process)
        });
        found.unwrap_or_else(|| panic!("no process {inner} in {}", self.name))
    }

    /// The next process in there gets a PID after this one.
    fn set_last_pid(&self, pid: i32) {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init.to_string(), "-p", "sh", "-c"]);
        command.arg(format!("echo {pid} >/proc/sys/kernel/ns_last_pid"));
        Run::of(command).assert_code(0);
    }

    /// A session that waits for somebody to write to a FIFO: open(2) is restarted after each signal.
    #[track_caller]
    pub fn stuck(&self) -> Session<'_> {
        self.ask("CREATE TABLE IF NOT EXISTS never_filled (line text)");
        let session = self.session("COPY never_filled FROM '/tmp/fifo'");
        wait_for(DEADLINE, "it shall wait for the FIFO", || {
            let opening = [libc::SYS_openat, libc::SYS_open].map(Some);
            (session.backend.state() == Some('S') && opening.contains(&session.backend.syscall()))
                .then_some(())
        });
        session
    }

    /// A statement in a session of its own, which is at work.
    #[track_caller]
    pub fn session(&self, sql: &str) -> Session<'_> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let sql = format!("{sql} /* {} */", NUMBER.fetch_add(1, Ordering::Relaxed));
        let client = self
            .psql(&sql)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("podman");
        let find = format!(
            "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query = '{}'",
            sql.replace('\'', "''")
        );
        let inner = wait_for(DEADLINE, "the statement shall run", || {
            self.ask(&find).parse().ok()
        });
        Session {
            container: self,
            client,
            inner,
            backend: self.process(inner),
            find,
        }
    }

    #[track_caller]
    pub fn assert_unharmed(&self) {
        self.postmaster.assert_running_untraced();
        assert_eq!(self.ask("SELECT 'well'"), "well");
        let log = Run::of(self.exec(&["sh", "-c", "cat /var/log/postgresql/*.log"]));
        for sign in SIGNS_OF_A_CRASH {
            assert!(!log.stdout.contains(sign), "{log}");
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = podman(&["rm", "-f", "-t", "0", &self.name]).output();
    }
}

/// A container, of which options, image and command are still to be said.
pub fn podman_run() -> Command {
    podman(&RUN)
}

fn own_program() -> String {
    let program = pgpoke();
    program.get_program().to_str().expect("a path").to_owned()
}

/// pgpoke, as if copied in.
fn mount(program: &str) -> String {
    format!("{program}:/usr/local/bin/pgpoke:ro")
}

pub struct Session<'c> {
    container: &'c Container,
    client: Child,
    inner: i32,
    pub backend: Backend,
    find: String,
}

impl Session<'_> {
    /// As `pg_stat_activity` shows it.
    pub fn pid_inside(&self) -> i32 {
        self.inner
    }

    /// Cancelled as one does it, and a quarter of a second later still at it.
    #[track_caller]
    pub fn prove_stuck(&self, function: &str, signal: i32) {
        let sql = format!("SELECT {function}({})", self.inner);
        assert_eq!(self.container.ask(&sql), "t");
        wait_for(DEADLINE, "its handler shall have run", || {
            (!self.backend.is_pending(signal)).then_some(())
        });
        std::thread::sleep(Duration::from_millis(250));
        let now = self.container.ask(&self.find);
        assert_eq!(now, self.inner.to_string(), "it obeyed {function}");
    }

    /// What its client was told in the end.
    pub fn said(&mut self) -> String {
        use std::io::Read;
        wait_for(DEADLINE, "the session shall end", || {
            self.client.try_wait().expect("its status")
        });
        let mut text = String::new();
        let stderr = self.client.stderr.as_mut().expect("a pipe");
        stderr.read_to_string(&mut text).expect("its words");
        text
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

/// From where it is looked at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place {
    Host,
    /// By the PID that it has in its container, which none on the host has.
    HostByInnerPid,
    Inside,
    /// Another container, other mounts, the same PIDs; as the same user.
    Beside,
    BesideAsRoot,
}

const PLACES: [Place; 5] = [
    Place::Host,
    Place::HostByInnerPid,
    Place::Inside,
    Place::Beside,
    Place::BesideAsRoot,
];

/// A PID that no process of the host has: a multiple of what is in use on a machine that runs tests.
const HIGH: i32 = 3_900_000;

impl Place {
    fn is_host(self) -> bool {
        matches!(self, Place::Host | Place::HostByInnerPid)
    }

    pub fn run(self, session: &Session, args: &[&str]) -> Run {
        let container = session.container;
        let beside = |options: &[&str]| {
            let mut command = podman(&RUN);
            command.args(["--rm", &format!("--pid=container:{}", container.name)]);
            command
                .args(["-v", &mount(&container.program)])
                .args(options);
            command.args([&container.image, "pgpoke"]);
            command
        };
        let mut command = match self {
            Place::Host | Place::HostByInnerPid => pgpoke(),
            Place::Inside => container.exec(&["pgpoke"]),
            Place::Beside => beside(&["-u", "postgres"]),
            Place::BesideAsRoot => beside(&["--cap-add", "SYS_PTRACE"]),
        };
        let pid = match self {
            Place::Host => session.backend.pid,
            _ => session.inner,
        };
        command.args(args).args(["--json", &pid.to_string()]);
        Run::of(command)
    }
}

/// The right cause, the whole stack, and who it is in whose numbers.
#[track_caller]
fn assert_inspected(place: Place, session: &Session, run: &Run) {
    let json = run.assert_code(0).json();
    assert_eq!(json["verdict"], "safe", "{place:?} {run}");
    assert_eq!(json["cause"]["code"], "blocked-syscall", "{place:?} {run}");
    assert_eq!(json["stack_complete"], true, "{place:?} {run}");
    let frames = json["stack"].as_array().expect("frames");
    let names: Vec<&str> = frames
        .iter()
        .filter_map(|f| f["function"].as_str())
        .collect();
    assert!(names.contains(&"BeginCopyFrom"), "{place:?} {run}");
    let backend = &json["backend"];
    let directory = backend["data_directory"].as_str().unwrap_or_default();
    assert!(
        directory.starts_with("/var/lib/postgresql/"),
        "{place:?} {run}"
    );
    for (field, value) in [
        ("database", "postgres"),
        ("user", "postgres"),
        ("type", "client backend"),
    ] {
        assert_eq!(backend[field], value, "{place:?} {run}");
    }
    let query = backend["query"].as_str().unwrap_or_default();
    assert!(query.contains("COPY never_filled"), "{place:?} {run}");
    if place.is_host() {
        assert_eq!(json["pid"], session.backend.pid, "{run}");
        assert_eq!(backend["pid_in_container"], session.inner, "{run}");
        assert_eq!(backend["container"], session.container.id(), "{run}");
        let postmaster = session.container.postmaster.pid;
        assert_eq!(backend["postmaster_pid"], postmaster, "{run}");
    } else {
        assert_eq!(json["pid"], session.inner, "{run}");
        assert_eq!(backend["pid_in_container"], Value::Null, "{run}");
    }
}

/// It is among the stuck, by our number and by its own.
#[track_caller]
fn assert_listed(session: &Session) {
    let run = Run::pgpoke(["list", "--stuck", "--json"]);
    let object = run.assert_code(0).json();
    let mut rows = object["backends"].as_array().expect("backends").iter();
    let row = rows.find(|b| b["pid"] == session.backend.pid);
    let row = row.unwrap_or_else(|| panic!("it is not listed: {run}"));
    let backend = &row["backend"];
    assert_eq!(backend["pid_in_container"], session.inner, "{run}");
    assert_eq!(backend["container"], session.container.id(), "{run}");
    assert_eq!(backend["database"], "postgres", "{run}");
    assert_eq!(backend["user"], "postgres", "{run}");
    assert_eq!(row["cause"]["code"], "blocked-syscall", "{run}");
}

fn works_from_every_place(suite: &str) {
    if !is_root() {
        skip!("only root runs containers here");
    }
    let Some(image) = image(suite) else {
        skip!("no image of {suite}: run scripts/build-containers.sh");
    };
    let container = Container::start(&image, &[]);
    container.set_last_pid(HIGH);
    for place in PLACES {
        let mut session = container.stuck();
        session.prove_stuck("pg_cancel_backend", libc::SIGINT);
        assert_inspected(place, &session, &place.run(&session, &["inspect"]));
        session.backend.assert_running_untraced();
        if place.is_host() {
            assert_listed(&session);
        }
        let run = place.run(&session, &["interrupt", "--yes"]);
        assert_eq!(
            run.assert_code(0).json()["outcome"],
            "cancelled",
            "{place:?} {run}"
        );
        let said = session.said();
        assert!(
            said.contains("canceling statement due to user request"),
            "{said}"
        );

        let mut session = container.stuck();
        session.prove_stuck("pg_cancel_backend", libc::SIGINT);
        let how = ["interrupt", "--terminate", "--grace", "50ms", "--yes"];
        let run = place.run(&session, &how);
        assert_eq!(run.code(), Some(0), "{place:?} {run}");
        assert!(
            run.stdout.contains("\"outcome\": \"terminated\""),
            "{place:?} {run}"
        );
        let said = session.said();
        assert!(said.contains("terminating connection"), "{said}");
    }
    container.assert_unharmed();
}

#[test]
fn debian_13_works_from_every_place() {
    works_from_every_place("trixie");
}

#[test]
fn sid_works_from_every_place() {
    works_from_every_place("sid");
}

#[test]
fn root_inside_is_told_to_be_the_server_s_user() {
    if !is_root() {
        skip!("only root runs containers here");
    }
    let Some(image) = image("trixie") else {
        skip!("no image of trixie: run scripts/build-containers.sh");
    };
    let container = Container::start(&image, &[]);
    let session = container.stuck();
    session.prove_stuck("pg_cancel_backend", libc::SIGINT);
    for args in [&["inspect"][..], &["interrupt", "--terminate", "--yes"]] {
        let mut command = podman(&["exec", &container.name, "pgpoke"]);
        command
            .args(args)
            .args(["--json", &session.inner.to_string()]);
        let run = Run::of(command);
        let json = run.assert_code(6).json();
        assert_eq!(json["error"]["rule"], "user", "{run}");
        run.assert_says("root but without CAP_SYS_PTRACE");
        run.assert_says("podman exec -u postgres");
        assert_eq!(json["backend"]["database"], "postgres", "{run}");
        assert!(json["verdict"].is_null(), "{run}");
    }
    session.prove_stuck("pg_cancel_backend", libc::SIGINT);
    container.assert_unharmed();
}

/// Two servers in two containers, each with a backend of the same number.
#[test]
fn a_number_that_means_two_backends_is_not_guessed() {
    if !is_root() {
        skip!("only root runs containers here");
    }
    let Some(image) = image("trixie") else {
        skip!("no image of trixie: run scripts/build-containers.sh");
    };
    let containers = [(); 2].map(|()| Container::start(&image, &[]));
    let [one, other] = &containers;
    one.set_last_pid(HIGH + 10_000);
    let session = one.stuck();
    // The server may start a process of its own meanwhile, and that gets the number.
    let twin = wait_for(DEADLINE, "a backend with the same number", || {
        // The session before, which makes the table, gets one, too.
        other.set_last_pid(session.inner - 2);
        let twin = other.stuck();
        (twin.inner == session.inner).then_some(twin)
    });
    for s in [&session, &twin] {
        s.prove_stuck("pg_cancel_backend", libc::SIGINT);
    }
    for args in [&["inspect"][..], &["interrupt", "--terminate", "--yes"]] {
        let mut command = pgpoke();
        command
            .args(args)
            .args(["--json", &session.inner.to_string()]);
        let run = Run::of(command);
        run.assert_code(7)
            .assert_says("several backends have it inside their containers");
        for s in [&session, &twin] {
            run.assert_says(&format!("PID {} ", s.backend.pid));
        }
    }
    for s in [&session, &twin] {
        s.backend.assert_running_untraced();
        s.prove_stuck("pg_cancel_backend", libc::SIGINT);
        s.container.assert_unharmed();
    }
}

/// The blocker is named by the number that it has where pgpoke runs.
#[test]
fn a_blocker_in_a_container_is_named_in_the_host_s_numbers() {
    if !is_root() {
        skip!("only root runs containers here");
    }
    let Some(image) = image("trixie") else {
        skip!("no image of trixie: run scripts/build-containers.sh");
    };
    let container = Container::start(&image, &[]);
    container.ask("CREATE TABLE contended ()");
    let holder = container.session("BEGIN; LOCK TABLE contended; SELECT pg_sleep(900)");
    let waiter = container.session("SELECT * FROM contended");
    wait_for(DEADLINE, "it shall wait for the lock", || {
        let sql = format!("SELECT cardinality(pg_blocking_pids({}))", waiter.inner);
        (container.ask(&sql) == "1").then_some(())
    });
    for (place, pid) in [
        (Place::Host, holder.backend.pid),
        (Place::Inside, holder.inner),
    ] {
        let run = place.run(&waiter, &["inspect"]);
        let json = run.json();
        assert_eq!(json["cause"]["code"], "heavyweight-lock-wait", "{run}");
        assert!(
            json["locks"]["blocked_by"]
                .to_string()
                .contains(&pid.to_string()),
            "{run}"
        );
    }
    waiter.backend.assert_running_untraced();
    container.assert_unharmed();
}

/// Root in there is somebody else out here.
#[test]
fn a_user_namespace_of_the_container_s_own() {
    if !is_root() {
        skip!("only root runs containers here");
    }
    let Some(image) = image("trixie") else {
        skip!("no image of trixie: run scripts/build-containers.sh");
    };
    let maps = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"];
    let container = Container::start(&image, &maps);
    container.set_last_pid(HIGH + 20_000);
    for place in [Place::Host, Place::HostByInnerPid, Place::Inside] {
        let mut session = container.stuck();
        session.prove_stuck("pg_cancel_backend", libc::SIGINT);
        assert_inspected(place, &session, &place.run(&session, &["inspect"]));
        let run = place.run(&session, &["interrupt", "--yes"]);
        assert_eq!(
            run.assert_code(0).json()["outcome"],
            "cancelled",
            "{place:?} {run}"
        );
        let said = session.said();
        assert!(
            said.contains("canceling statement due to user request"),
            "{said}"
        );
    }
    container.assert_unharmed();
}
