//! One process of a server, read without stopping it, as plain data: what `pgpoke list` shows and judges.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{CarrierStack, ProcessFacts, Signals, Variables};
use crate::address::Avma;
use crate::memory::{Memory, ProcessMemory};
use crate::postgres::status::{self, NoStatus, Status, Timestamp};
use crate::postgres::{BackendType, Globals, Member, Server, Stream, Title, Wait};
use crate::process::root::Root;
use crate::process::syscalls::BlockedCall;
use crate::process::{Process, RawCall, permission};

/// The longest type of a background worker (`BGW_MAXLEN`, src/include/postmaster/bgworker.h).
const LONGEST_WORKER: usize = 96;

/// The variables that are read besides those of interrupts; all are 8 bytes wide.
const POINTERS: [&str; 4] = [
    "MyProc",
    "my_wait_event_info",
    "MyBgworkerEntry",
    "MyBEEntry",
];

/// How many that are.
const COUNT: usize = Variables::OF_INTERRUPTS.len() + POINTERS.len();

/// All variables that are read, with their sizes in bytes.
fn names() -> impl Iterator<Item = (&'static str, usize)> {
    let pointers = POINTERS.into_iter().map(|name| (name, 8));
    Variables::OF_INTERRUPTS.into_iter().chain(pointers)
}

/// A server, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerFacts {
    /// Its postmaster's PID in our PID namespace; none where that is gone, and in single-user mode.
    pub postmaster: Option<i32>,
    /// The same as the server knows it; also of one that is gone.
    pub inner_postmaster: Option<i32>,
    /// Its version, as it prints it.
    pub version: Option<String>,
    /// Whether this major version has a row in our tables: else little can be told of its processes.
    pub version_known: bool,
    /// Its data directory.
    pub data_directory: Option<PathBuf>,
    /// Its port.
    pub port: Option<u16>,
    /// `cluster_name`; empty where it has none.
    pub cluster_name: String,
    /// The container it lives in, where the control group tells.
    pub container: Option<String>,
}

impl From<&Server> for ServerFacts {
    fn from(server: &Server) -> Self {
        ServerFacts {
            postmaster: server.postmaster,
            inner_postmaster: server.inner_postmaster,
            version: server.version.as_ref().map(|v| v.text.clone()),
            version_known: server.layout().is_some(),
            data_directory: server.data_directory.clone(),
            port: server.port,
            cluster_name: server.cluster_name.clone(),
            container: server.container.clone(),
        }
    }
}

/// One process of a server at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Glance {
    /// That moment, by the clock that the server's times are of.
    pub at: Timestamp,
    /// The same by a clock that nobody sets: for the time between two glances.
    pub clock: Duration,
    /// Its PID in our PID namespace.
    pub pid: i32,
    /// When it started, in clock ticks since boot: with its PID, which process it is.
    pub start_time: u64,
    /// Its PID as the server knows it.
    pub inner_pid: i32,
    /// Whether its postmaster is there.
    pub has_postmaster: bool,
    /// What it is for.
    pub backend_type: BackendType,
    /// What a background worker calls its kind.
    pub worker_type: Option<String>,
    /// Its title in ps.
    pub title: String,
    /// Its user's name when it logged in, where the title tells.
    pub user: Option<String>,
    /// Its database's name, likewise.
    pub database: Option<String>,
    /// For a parallel worker, the PID of its leader, as the server knows it.
    pub leader: Option<i32>,
    /// What it tells of itself.
    pub status: Result<Status, NoStatus>,
    /// What it says that it waits for; none where it waits for nothing, or that is not known.
    pub wait: Option<Wait>,
    /// Its variables, as far as they are read here.
    pub variables: Variables,
    /// Its signals.
    pub signals: Signals,
    /// What the kernel says of it, as far as everybody may know.
    pub process: ProcessFacts,
    /// Processor time that it has used.
    pub cpu_time: Option<Duration>,
    /// Whether its server was told to stop, and has not come to its end; none where that is not known.
    #[serde(default)]
    pub server_stopping: Option<bool>,
    /// How far its server has come on its way to stop: who looks at all of its processes knows.
    #[serde(default)]
    pub stage: Option<Stage>,
    /// How far the stream has come, if it is a walsender.
    #[serde(default)]
    pub stream: Option<Stream>,
    /// What waits behind it, if it is an archiver that waits for its command.
    #[serde(default)]
    pub archiving: Option<Archiving>,
    /// Who waits for a lock that it holds, by their PIDs in our PID namespace; looked up only where that decides.
    #[serde(default)]
    pub waiters: Vec<i32>,
    /// By its stack it sleeps because it waits for a spinlock; none where that was not looked at, or cannot be told.
    #[serde(default)]
    pub waits_for_spinlock: Option<bool>,
}

/// How far a server has come on its way to stop. Its processes end in this order (PostmasterStateMachine(),
/// src/backend/postmaster/postmaster.c, 12 to 18).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    /// It was told to stop. Sessions may be let go on: a smart shutdown waits for them.
    Told,
    /// Sessions and workers were sent SIGTERM.
    SessionsTold,
    /// They are gone, and the checkpointer waits for the walsenders to take notice (WalSndWaitStopping(),
    /// src/backend/replication/walsender.c).
    SendersTold,
    /// The checkpointer writes the last checkpoint.
    Checkpoint,
    /// That is written. Walsenders send what is left, and the archiver archives it.
    Last,
}

/// An archiver at work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archiving {
    /// For how long its command has run.
    pub since: Duration,
    /// How many WAL files are ready to be archived, the present one among them; counted to [`MOST_READY`].
    pub ready: usize,
}

/// To how many WAL files are counted.
pub const MOST_READY: usize = 1000;

impl Glance {
    /// Which process it is.
    pub fn key(&self) -> (i32, u64) {
        (self.pid, self.start_time)
    }

    /// Reads it. `most_query` is how much of its statement is wanted.
    pub fn of(member: &Member, most_query: usize) -> Self {
        let (server, memory) = (member.of, member.memory);
        let title = member.process.command_line().ok();
        let title = title.and_then(|line| Title::parse(&line, &server.cluster_name));
        let title = title.unwrap_or_default();
        let values = Values::read(&server.globals, memory);
        let backend_type = server.type_of(memory, &title);
        let status = read_status(&values, member, most_query);
        let in_database = status.as_ref().ok().map(|s| s.database.is_some());
        let (user, database) = title.names(backend_type, in_database);
        let (user, database) = (user.map(str::to_owned), database.map(str::to_owned));
        let mut variables = values.variables(wait_event_info(&values, server, member));
        let depth = server.error_depth.and_then(|at| memory.read_u32(at).ok());
        variables.errordata_stack_depth = depth.map(|depth| depth as i32);
        let wait = variables
            .wait_event_info
            .and_then(|info| server.wait_events.describe(info));
        let proc = member.status;
        let tracer = Some(proc.tracerpid).filter(|pid| *pid != 0);
        Glance {
            at: Timestamp::now(),
            clock: monotonic(),
            pid: member.process.pid(),
            start_time: member.process.start_time(),
            inner_pid: member.inner_pid,
            has_postmaster: server.postmaster.is_some() || server.inner_postmaster.is_none(),
            worker_type: (backend_type == BackendType::BackgroundWorker)
                .then(|| worker_type(&values, memory))
                .flatten(),
            backend_type,
            user,
            database,
            leader: title.leader(),
            status,
            wait,
            variables,
            signals: Signals {
                blocked: Some(proc.sigblk),
                pending: Some(proc.sigpnd | proc.shdpnd),
                caught: Some(proc.sigcgt),
                ignored: Some(proc.sigign),
                handlers: None,
                carrier_stack: CarrierStack::default(),
                sent: None,
            },
            process: ProcessFacts {
                state: proc.state.chars().next(),
                tracer: Some(proc.tracerpid),
                tracer_name: tracer.and_then(permission::name_of),
                threads: Some(member.process.own_threads(proc.threads)),
                ..ProcessFacts::default()
            },
            cpu_time: member.process.cpu_time(),
            waits_for_spinlock: None,
            title: title.text,
            server_stopping: server.is_stopping(),
            stage: None,
            stream: (backend_type == BackendType::WalSender)
                .then(|| Stream::of(memory, &server.globals, member.inner_pid))
                .flatten(),
            archiving: None,
            waiters: Vec::new(),
        }
    }

    /// Whether its system call may tell that others wait for it, though nothing is pending in it.
    pub fn is_told_by_its_call(&self) -> bool {
        self.server_stopping == Some(true) || self.backend_type == BackendType::Archiver
    }

    /// Looks up in which system call it is, and where in the kernel it sleeps.
    pub fn look_closer(&mut self, process: &Process, memory: &ProcessMemory) {
        self.process.wait_channel = process.wait_channel();
        self.process.syscall = process.blocked_syscall().map(|call| {
            let RawCall {
                number, arguments, ..
            } = call;
            let mut call = BlockedCall::from_registers(number, arguments);
            match self.is_undoing() {
                // Of a connection the peer counts.
                true => call.look_up(process, memory),
                false => call.glance(process, memory),
            }
            // It runs, and what was found in its memory may be of another call by now.
            let still = process.blocked_syscall();
            if still.is_none_or(|c| (c.number, c.arguments) != (number, arguments)) {
                call.waits_for.clear();
            }
            call
        });
        let detour = memory.detour();
        self.process.memory_detour = detour.map(str::to_owned);
        if self.backend_type == BackendType::Archiver {
            self.archiving = self.archiving(process);
        }
    }

    fn archiving(&self, process: &Process) -> Option<Archiving> {
        let child = self.process.syscall.as_ref()?.child()?;
        let since = Process::open(child.pid).ok()?.age()?;
        // pg_wal may be a link to another file system.
        let directory = process.path_inside(&process.working_directory().ok()?);
        let root = Root::of(process).ok()?;
        let files = root.list(&directory.join("pg_wal/archive_status"), MOST_READY);
        let files = files.unwrap_or_default();
        Some(Archiving {
            since,
            ready: files.iter().filter(|f| f.ends_with(".ready")).count(),
        })
    }

    /// Whether it deals with an error and holds interrupts off, asleep: PostgresMain() does so from the error on until
    /// the transaction is undone (src/backend/tcop/postgres.c).
    pub fn is_undoing(&self) -> bool {
        let v = &self.variables;
        v.errordata_stack_depth.is_some_and(|depth| depth >= 0)
            && v.interrupt_holdoff_count.is_some_and(|count| count > 0)
            && v.proc_exit_in_progress == Some(false)
            && self.process.state == Some('S')
    }

    /// Its type, worded as `pg_stat_activity.backend_type`.
    pub fn kind(&self) -> String {
        match &self.worker_type {
            Some(worker) => worker.clone(),
            None => self.backend_type.to_string(),
        }
    }

    /// Since when it is in its state: a statement runs since it began, everything else since the state changed. None for
    /// what has no state.
    pub fn since(&self) -> Option<Timestamp> {
        let status = self.status.as_ref().ok()?;
        match status.activity? {
            crate::postgres::Activity::Active | crate::postgres::Activity::FastPath => {
                status.query_start
            }
            _ => status.state_change,
        }
    }

    /// When its statement began, if it is in one.
    pub fn statement_start(&self) -> Option<Timestamp> {
        self.status.as_ref().ok()?.query_start
    }
}

fn monotonic() -> Duration {
    use nix::time::{ClockId, clock_gettime};
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

fn read_status(values: &Values, member: &Member, most_query: usize) -> Result<Status, NoStatus> {
    let (server, memory) = (member.of, member.memory);
    // Exported from 14 on; before that it was found in the code.
    let at = values.pointer("MyBEEntry").or_else(|| {
        let value = memory.read_u64(server.status_pointer?).ok()?;
        (value != 0).then_some(Avma(value))
    });
    let (at, layout) = at.zip(server.layout()).ok_or(NoStatus::None)?;
    status::read(memory, at, member.inner_pid, layout, most_query)
}

/// `wait_event_info`, in the process's PGPROC: that is believed only where its pid is the process's.
fn wait_event_info(values: &Values, server: &Server, member: &Member) -> Option<u32> {
    let memory = member.memory;
    if let Some(at) = values.pointer("my_wait_event_info") {
        return memory.read_u32(at).ok();
    }
    let offsets = server.layout()?.pgproc.get()?;
    let my_proc = values.pointer("MyProc")?;
    let int = |offset: u64| memory.read_u32(my_proc.offset(offset as i64)).ok();
    (int(offsets.pid)? == member.inner_pid as u32).then(|| int(offsets.wait_event_info))?
}

/// `BackgroundWorker.bgw_type`, right behind `bgw_name` (src/include/postmaster/bgworker.h, 12 to 18).
fn worker_type(values: &Values, memory: &ProcessMemory) -> Option<String> {
    let entry = values.pointer("MyBgworkerEntry")?;
    let text = memory.read_c_string(entry.offset(LONGEST_WORKER as i64), LONGEST_WORKER);
    let text = String::from_utf8_lossy(&text.ok()?).into_owned();
    Some(text).filter(|t| !t.is_empty())
}

/// What is in the variables.
struct Values([Option<u64>; COUNT]);

impl Values {
    fn read(globals: &Globals, memory: &dyn Memory) -> Self {
        let mut bytes = [[0u8; 8]; COUNT];
        let mut requests = Vec::with_capacity(COUNT);
        let mut which = Vec::with_capacity(COUNT);
        for (n, (bytes, (name, size))) in bytes.iter_mut().zip(names()).enumerate() {
            if let Some(at) = globals.get(name) {
                requests.push((at, &mut bytes[..size]));
                which.push(n);
            }
        }
        let filled = memory.read_batch(&mut requests);
        let mut values = [None; COUNT];
        for (n, filled) in which.into_iter().zip(filled) {
            values[n] = filled.then(|| u64::from_le_bytes(bytes[n]));
        }
        Values(values)
    }

    fn get(&self, name: &str) -> Option<u64> {
        let at = names().position(|(n, _)| n == name)?;
        self.0[at]
    }

    fn pointer(&self, name: &str) -> Option<Avma> {
        self.get(name).filter(|value| *value != 0).map(Avma)
    }

    fn variables(&self, wait_event_info: Option<u32>) -> Variables {
        Variables {
            wait_event_info,
            has_proc: self.get("MyProc").map(|at| at != 0),
            ..Variables::of_interrupts(|name| self.get(name))
        }
    }
}
