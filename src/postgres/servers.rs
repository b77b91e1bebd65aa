//! All servers of the machine, those in containers too, and their processes, found without stopping any.
//!
//! The executable of each process is looked up by its inode, and each inode is read once. A server is proved as
//! [`prove`] does it, once; its processes are forks of its postmaster, which have its variables where it has them, so
//! that what they say of themselves is proof enough and costs next to nothing.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use procfs::process::Status as ProcStatus;

use super::data_files::{DataFiles, PostmasterStatus};
use super::globals::TELLTALES;
use super::identity::{self, Backend, NotABackend, Postmaster, prove};
use super::lwlocks::Tranches;
use super::statics::Statics;
use super::title::Title;
use super::versions::{BackendType, Layout, Version};
use super::wait_events::WaitEvents;
use super::{Globals, siblings, spin_delay};
use crate::address::Avma;
use crate::image::Image;
use crate::memory::{Memory, ProcessMemory};
use crate::process::{Process, all_pids, container};

/// The most processes of servers that are looked at in one sweep.
const MOST: usize = 20_000;

/// A file by device and inode.
type FileKey = (u64, u64);

/// One server.
#[derive(Debug)]
pub struct Server {
    /// Its postmaster's PID in our PID namespace; none where that is gone, and in single-user mode.
    pub postmaster: Option<i32>,
    /// The same as the server knows it; also of one that is gone.
    pub inner_postmaster: Option<i32>,
    /// Its version, where the executable tells.
    pub version: Option<Version>,
    /// Its data directory.
    pub data_directory: Option<PathBuf>,
    /// Its port.
    pub port: Option<u16>,
    /// `cluster_name`; empty where it has none.
    pub cluster_name: String,
    /// The container it lives in, where the control group tells.
    pub container: Option<String>,
    /// Where its variables are, in each of its processes.
    pub globals: Globals,
    /// Where each of its processes has the pointer to its status, where no symbol tells (12 and 13).
    pub status_pointer: Option<Avma>,
    /// Where each of its processes notes how many errors it keeps: `errordata_stack_depth`.
    pub error_depth: Option<Avma>,
    /// The names of its wait events.
    pub wait_events: WaitEvents,
    /// Its own files, where it has a postmaster.
    files: Option<DataFiles>,
    /// Where each of its processes waits for spinlocks.
    spin_delay: Option<Range<Avma>>,
    /// The process that it was proved by.
    process: Process,
    executable: FileKey,
}

impl Server {
    fn of(backend: &Backend, process: Process, executable: FileKey) -> Self {
        let memory = backend.memory;
        let globals = &backend.globals;
        let statics = Statics::find(&backend.executable, globals, memory);
        let int = |name: &str| globals.get(name).and_then(|at| memory.read_u32(at).ok());
        let name = globals.get("cluster_name");
        let name = name.and_then(|at| siblings::pointer(memory, at));
        let name = name.and_then(|at| memory.read_c_string(at, 256).ok());
        let standalone = backend.backend_type == BackendType::Standalone;
        let inner_postmaster = int("PostmasterPid")
            .map(|pid| pid as i32)
            .filter(|_| !standalone);
        Server {
            files: inner_postmaster.and_then(|pid| DataFiles::of(&process, pid)),
            postmaster: match backend.postmaster {
                Postmaster::Running(pid) => Some(pid),
                Postmaster::Gone => None,
            },
            inner_postmaster,
            version: backend.version.clone(),
            data_directory: backend.data_directory.clone(),
            port: int("PostPortNumber")
                .and_then(|port| u16::try_from(port).ok())
                .filter(|port| *port != 0),
            cluster_name: String::from_utf8_lossy(&name.unwrap_or_default()).into_owned(),
            container: container::id(&process).filter(|_| backend.inner_pid != process.pid()),
            globals: globals.clone(),
            status_pointer: statics.status_entry,
            spin_delay: spin_delay::code(&backend.executable),
            error_depth: statics.errordata_stack_depth,
            wait_events: WaitEvents::of(
                backend.version.as_ref().and_then(Version::layout),
                Tranches::of(backend, &statics),
            ),
            process,
            executable,
        }
    }

    /// What is known of its version.
    pub fn layout(&self) -> Option<&'static Layout> {
        self.version.as_ref().and_then(Version::layout)
    }

    /// Whether it was told to stop, and has not come to its end; none where that is not known.
    pub fn is_stopping(&self) -> Option<bool> {
        let status = self.files.as_ref()?.status()?;
        Some(status == PostmasterStatus::Stopping)
    }

    /// What one of its processes is for.
    pub fn type_of(&self, memory: &ProcessMemory, title: &Title) -> BackendType {
        match identity::backend_type(&self.globals, memory, self.layout()) {
            BackendType::Unknown => identity::type_by_title(&title.text),
            known => known,
        }
    }

    /// Whether one of its processes sleeps because it waits for a spinlock; none where that cannot be told. Stops nobody.
    pub fn waits_for_spinlock(&self, process: &Process, memory: &ProcessMemory) -> Option<bool> {
        spin_delay::sleeps_in(self.spin_delay.as_ref()?, process, memory)
    }

    /// Whether a process that runs its executable is one of its own: it believes so itself, and its variables are
    /// where this server's are. None where its memory cannot be read.
    fn owns(&self, memory: &ProcessMemory, inner_pid: i32) -> Option<bool> {
        let at = |name: &str| self.globals.get(name);
        let (mut own, mut parent, mut under) = ([0; 4], [0; 4], [0; 1]);
        let filled = memory.read_batch(&mut [
            (at("MyProcPid")?, &mut own),
            (at("PostmasterPid")?, &mut parent),
            (at("IsUnderPostmaster")?, &mut under),
        ]);
        let [own, parent] = [own, parent].map(i32::from_le_bytes);
        let is_it = own == inner_pid && Some(parent) == self.inner_postmaster && under == [1];
        filled.iter().all(|f| *f).then_some(is_it)
    }
}

/// One process of a server.
#[derive(Debug)]
pub struct Member<'s> {
    /// Its server's number among [`Servers::all`].
    pub server: usize,
    /// That server.
    pub of: &'s Server,
    /// The process.
    pub process: &'s Process,
    /// Its PID as the server knows it.
    pub inner_pid: i32,
    /// Its memory.
    pub memory: &'s ProcessMemory,
    /// `/proc/PID/status`.
    pub status: &'s ProcStatus,
}

/// The servers that were found so far.
#[derive(Debug, Default)]
pub struct Servers {
    /// They keep their numbers. Those that have ended stay, without processes.
    pub all: Vec<Server>,
    /// Whether an executable is a server's.
    executables: HashMap<FileKey, bool>,
}

/// What one look at all processes met that it could not tell of.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Processes that we may not look into, and that call themselves a server's.
    pub denied: Vec<i32>,
    /// How many others we may not look into.
    pub denied_others: usize,
    /// Processes that run a server's executable, and whose server could not be told.
    pub unclear: Vec<i32>,
    /// How many were too many.
    pub left_out: usize,
}

/// What a process that runs a server's executable is the child of.
#[derive(Clone, Copy)]
enum Place {
    Of(usize),
    None,
    Denied,
}

impl Servers {
    /// Looks at all processes, and shows `each` that belongs to a server, but its postmaster.
    pub fn sweep(&mut self, mut each: impl FnMut(&Member)) -> Sweep {
        let mut sweep = Sweep::default();
        let mut members = HashMap::new();
        for pid in all_pids() {
            match self.server_executable(pid) {
                Ok(Some(_)) if members.len() == MOST => sweep.left_out += 1,
                Ok(Some(key)) => {
                    members.insert(pid, key);
                }
                Ok(None) => {}
                Err(Denied) if calls_itself_a_server(pid) => sweep.denied.push(pid),
                Err(Denied) => sweep.denied_others += 1,
            }
        }
        let mut pids: Vec<i32> = members.keys().copied().collect();
        pids.sort_unstable();
        // By the PID of what would be the postmaster.
        let mut places = HashMap::new();
        for pid in pids {
            self.visit(pid, &members, &mut places, &mut sweep, &mut each);
        }
        sweep
    }

    fn visit(
        &mut self,
        pid: i32,
        members: &HashMap<i32, FileKey>,
        places: &mut HashMap<i32, Place>,
        sweep: &mut Sweep,
        each: &mut impl FnMut(&Member),
    ) {
        let Some(key) = members.get(&pid) else { return };
        let Ok(process) = Process::open(pid) else {
            return; // It has ended.
        };
        let Ok(status) = process.status() else { return };
        let inner_pid = inner_pid(&status, pid);
        let memory = ProcessMemory::open(pid);
        // Whoever lost its postmaster is another's child by now.
        let child = members.get(&status.ppid) == Some(key);
        let root = if child { status.ppid } else { pid };
        let place = match places.entry(root) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(unknown) => {
                let place = self.place(root, *key, child, (&memory, inner_pid));
                *unknown.insert(place)
            }
        };
        let server = match place {
            Place::Of(server) => server,
            Place::None => return sweep.unclear.push(pid),
            Place::Denied => return sweep.denied.push(pid),
        };
        let of = &self.all[server];
        if of.postmaster == Some(pid) {
            return;
        }
        let standalone = of.inner_postmaster.is_none() && of.process.pid() == pid;
        match of.owns(&memory, inner_pid) {
            _ if standalone => {}
            Some(true) => {}
            // A helper that one of its processes forked, as COPY TO PROGRAM does, shows as itself in a moment.
            Some(false) => return,
            None if process.has_ended() || self.server_executable(pid) != Ok(Some(*key)) => return,
            None => return sweep.denied.push(pid),
        }
        each(&Member {
            server,
            of,
            process: &process,
            inner_pid,
            memory: &memory,
            status: &status,
        });
    }

    /// The server of `root`: its postmaster, or a process without one.
    fn place(
        &mut self,
        root: i32,
        key: FileKey,
        is_parent: bool,
        (memory, inner_pid): (&ProcessMemory, i32),
    ) -> Place {
        let known = self.all.iter().position(|s| {
            let same = s.process.pid() == root && !s.process.has_ended();
            // One more that lost the same postmaster.
            let orphan = || {
                !is_parent
                    && s.postmaster.is_none()
                    && s.executable == key
                    && s.owns(memory, inner_pid) == Some(true)
            };
            same || orphan()
        });
        if let Some(known) = known {
            return Place::Of(known);
        }
        let Ok(process) = Process::open(root) else {
            return Place::None;
        };
        let server = match prove(&process) {
            Ok(backend) => {
                let leads = backend.backend_type == BackendType::Postmaster
                    || backend.postmaster == Postmaster::Gone;
                // Proving it borrows it.
                leads.then(|| Process::open(root).map(|own| Server::of(&backend, own, key)))
            }
            Err(NotABackend::Denied(_)) => return Place::Denied,
            Err(_) => None,
        };
        match server {
            Some(Ok(server)) if server.process.start_time() == process.start_time() => {
                self.all.push(server);
                Place::Of(self.all.len() - 1)
            }
            _ => Place::None,
        }
    }

    /// The executable of a process, if it is a server's. Each file is read once.
    fn server_executable(&mut self, pid: i32) -> Result<Option<FileKey>, Denied> {
        let link = format!("/proc/{pid}/exe");
        let file = match std::fs::metadata(&link) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => return Err(Denied),
            // A thread of the kernel's, a zombie, or one that has ended.
            Err(_) => return Ok(None),
        };
        let key = (file.dev(), file.ino());
        let known = self.executables.entry(key).or_insert_with(|| {
            // The kernel's magic link leads to the very file that runs.
            let file = std::fs::File::open(&link);
            file.is_ok_and(|file| Image::names_all(file, &TELLTALES))
        });
        Ok(known.then_some(key))
    }
}

/// We may not look into a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Denied;

/// Its PID in the innermost PID namespace.
fn inner_pid(status: &ProcStatus, pid: i32) -> i32 {
    let all = status.nspid.as_ref();
    all.and_then(|all| all.last().copied()).unwrap_or(pid)
}

/// Whether a process that we may not look into has the name of a server, or the title of one's process.
fn calls_itself_a_server(pid: i32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let program = line.split(|b| *b == 0).next().unwrap_or_default();
    let name = program.rsplit(|b| *b == b'/').next().unwrap_or_default();
    line.starts_with(b"postgres: ") || matches!(name, b"postgres" | b"postmaster" | b"edb-postgres")
}
