//! Proof that a process is a backend of a running postmaster: by what is in its executable, its memory and its
//! parent, never by a name.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::rc::Rc;

use super::globals::Globals;
use super::memory_contexts;
use super::subtransactions;
use super::title::Title;
use super::versions::{BackendType, Layout, Version};
use crate::address::Svma;
use crate::image::{AddressSpace, DebugFiles, Module};
use crate::memory::{Memory, ProcessMemory};
use crate::process::{Gone, Process, printable};
use crate::target::Target;

/// A process that was proved to be one of a PostgreSQL server's.
#[derive(Debug)]
pub struct Backend<'p> {
    /// Where it is looked at.
    pub target: &'p dyn Target,
    /// Its PID as it knows it itself (`MyProcPid`).
    pub inner_pid: i32,
    /// Its memory.
    pub memory: &'p dyn Memory,
    /// What it has mapped.
    pub space: AddressSpace<'p>,
    /// The server's executable.
    pub executable: Rc<Module>,
    /// The same, as the process executes it.
    executable_file: File,
    /// Its variables.
    pub globals: Globals,
    /// The server's version, where the executable tells.
    pub version: Option<Version>,
    /// Whether all functions of memory contexts have names: then a function without one is none of them.
    pub memory_contexts_named: bool,
    /// Where CommitSubTransaction() starts in the executable.
    pub subtransaction_end: Option<Svma>,
    /// What it is for.
    pub backend_type: BackendType,
    /// Its postmaster.
    pub postmaster: Postmaster,
    /// The server's data directory.
    pub data_directory: Option<PathBuf>,
    /// Its title in ps.
    pub title: Title,
}

/// The state of a backend's postmaster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Postmaster {
    /// Running, with this PID in our PID namespace.
    Running(i32),
    /// It ended and left this process behind.
    Gone,
}

/// Why a process is not taken for a backend.
#[derive(Debug, thiserror::Error)]
pub enum NotABackend {
    /// We may not look.
    #[error("process {0} cannot be looked into")]
    Denied(i32),
    /// It ended.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// It is something else.
    #[error("process {pid} ({name}) is not a PostgreSQL backend: {why}")]
    Other {
        /// The PID.
        pid: i32,
        /// What it calls itself.
        name: String,
        /// What is missing.
        why: String,
    },
}

const ANOTHER_PROGRAM: &str = "it executes another program by now";

impl NotABackend {
    fn other(target: &dyn Target, why: String) -> Self {
        let stat = target.living().and_then(|process| process.stat().ok());
        NotABackend::Other {
            pid: target.pid(),
            name: stat.map_or_else(|| "gone".into(), |s| printable(&s.comm)),
            why,
        }
    }
}

impl<'p> Backend<'p> {
    /// The living process, if it is one.
    pub fn living(&self) -> Option<&'p Process> {
        self.target.living()
    }

    /// Proves that it still executes the program that it was proved to be. Since execve(2), what was read of it would be
    /// of another. Whoever has ended, or cannot be looked at any more, passes: that shows elsewhere.
    pub fn still_executes_the_server(&self) -> Result<(), NotABackend> {
        match self.target.executable() {
            Ok(now) if !is_same(&now, &self.executable_file) => {
                Err(NotABackend::other(self.target, ANOTHER_PROGRAM.into()))
            }
            _ => Ok(()),
        }
    }
}

/// Proves that `target` belongs to a PostgreSQL server, and finds everything that is needed to look into it.
/// Stops nothing.
pub fn prove(target: &dyn Target) -> Result<Backend<'_>, NotABackend> {
    prove_with(target, Rc::default())
}

/// The same, with a say in where debug files are looked for.
pub fn prove_with(
    target: &dyn Target,
    debug_files: Rc<DebugFiles>,
) -> Result<Backend<'_>, NotABackend> {
    let pid = target.pid();
    let has_ended = || target.living().is_some_and(Process::has_ended);
    let is_about_to_end = || target.living().is_some_and(Process::is_about_to_end);
    let other = |why: String| NotABackend::other(target, why);
    let executable_file = target.executable().map_err(|e| match e.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => NotABackend::Denied(pid),
        _ if has_ended() => Gone(pid).into(),
        _ => other("it has no executable: a thread of the kernel's own".into()),
    })?;
    let memory = target.memory();
    let space =
        AddressSpace::read_with(target, debug_files).map_err(|e| match e.raw_os_error() {
            Some(libc::EACCES | libc::EPERM) => NotABackend::Denied(pid),
            _ if is_about_to_end() => Gone(pid).into(),
            _ => other(format!("its memory map could not be read: {e}")),
        })?;
    // An empty list is what the kernel shows of a process that is just ending.
    let executable = match space.executable(memory) {
        Some(module) => module,
        None if has_ended() => return Err(Gone(pid).into()),
        None => {
            return Err(other(
                "its executable is no 64-bit ELF file that could be read".into(),
            ));
        }
    };
    let globals = Globals::of(&executable);
    let missing = globals.missing_telltales();
    if !missing.is_empty() {
        return Err(other(format!(
            "its executable {} has no {}",
            executable.path.display(),
            missing.join(", no ")
        )));
    }

    let number = |name: &str| -> Result<i32, NotABackend> {
        let at = globals
            .get(name)
            .ok_or_else(|| other(format!("no {name}")))?;
        // The symbols are there, so only a lack of rights, its end, or another program in its place can keep the memory
        // from us.
        let denied = |_| match target.executable() {
            _ if has_ended() => Gone(pid).into(),
            Ok(now) if !is_same(&now, &executable_file) => other(ANOTHER_PROGRAM.into()),
            _ => NotABackend::Denied(pid),
        };
        memory.read_u32(at).map(|v| v as i32).map_err(denied)
    };
    let inner_pid = target.inner_pid().map_err(|e| match is_about_to_end() {
        true => Gone(pid).into(),
        false => other(format!(
            "its PID in its own PID namespace is not known: {e}"
        )),
    })?;
    let my_pid = number("MyProcPid")?;
    if my_pid != inner_pid {
        return Err(other(format!(
            "the server's code in it believes to be process {my_pid}, and it is {inner_pid}: a helper that a backend forked, or not a server at all"
        )));
    }
    let under_postmaster = globals
        .get("IsUnderPostmaster")
        .and_then(|at| memory.read_u8(at).ok())
        == Some(1);
    let postmaster_pid = number("PostmasterPid")?;
    let version = executable
        .image
        .find_constant(Version::PREFIX, 200)
        .ok()
        .flatten()
        .and_then(|text| Version::parse(&text));
    let layout = version.as_ref().and_then(Version::layout);

    let (backend_type, postmaster) = if !under_postmaster && postmaster_pid == my_pid {
        (BackendType::Postmaster, Postmaster::Running(pid))
    } else if !under_postmaster {
        (BackendType::Standalone, Postmaster::Gone)
    } else {
        let parent = match target.living() {
            Some(process) => {
                running_postmaster(process, &executable_file, &globals, postmaster_pid)
                    .map_err(&other)?
            }
            None => Postmaster::Gone,
        };
        (backend_type(&globals, memory, layout), parent)
    };

    let cluster_name = globals
        .get("cluster_name")
        .and_then(|at| memory.read_u64(at).ok())
        .filter(|pointer| *pointer != 0)
        .and_then(|pointer| {
            memory
                .read_c_string(crate::address::Avma(pointer), 256)
                .ok()
        })
        .unwrap_or_default();
    let title = target
        .command_line()
        .ok()
        .and_then(|line| Title::parse(&line, &String::from_utf8_lossy(&cluster_name)))
        .unwrap_or_default();
    let backend_type = if backend_type == BackendType::Unknown {
        type_by_title(&title.text)
    } else {
        backend_type
    };
    Ok(Backend {
        target,
        inner_pid,
        memory_contexts_named: memory_contexts::name_functions(&executable, memory),
        subtransaction_end: subtransactions::find_end(&executable),
        memory,
        space,
        executable,
        executable_file,
        version,
        backend_type,
        postmaster,
        // Every process of a server has it as its working directory (ChangeToDataDir, miscinit.c).
        data_directory: target.working_directory().ok(),
        title,
        globals,
    })
}

/// Checks that the parent is the postmaster that the backend names: the same executable, and in its memory the same
/// variables at the same places (it forked, it did not exec) saying that it is a postmaster.
fn running_postmaster(
    process: &Process,
    executable: &File,
    globals: &Globals,
    postmaster_pid: i32,
) -> Result<Postmaster, String> {
    let parent_pid = process
        .stat()
        .map_err(|e| format!("its parent cannot be told: {e}"))?
        .ppid;
    let Ok(parent) = Process::open(parent_pid) else {
        return Ok(Postmaster::Gone);
    };
    // When a postmaster dies, its children are given to init or to a subreaper: another process.
    if parent.inner_pid().ok() != Some(postmaster_pid) {
        return match is_there(process, postmaster_pid) {
            true => Err(format!(
                "the postmaster that it names, process {postmaster_pid}, is there and is not its parent"
            )),
            false => Ok(Postmaster::Gone),
        };
    }
    match parent.executable() {
        Ok(theirs) if is_same(&theirs, executable) => {}
        Ok(_) => {
            return Err(format!(
                "its parent, process {parent_pid}, runs another executable: it did not fork from there, as a backend does"
            ));
        }
        // It is just ending.
        Err(_) => return Ok(Postmaster::Gone),
    }
    let memory = ProcessMemory::open(parent_pid);
    let read = |name: &str| globals.get(name).and_then(|at| memory.read_u32(at).ok());
    let under = globals
        .get("IsUnderPostmaster")
        .and_then(|at| memory.read_u8(at).ok());
    if read("MyProcPid") == Some(postmaster_pid as u32) && under == Some(0) {
        Ok(Postmaster::Running(parent_pid))
    } else {
        Err(format!(
            "its parent, process {parent_pid}, is not the postmaster that it names"
        ))
    }
}

/// Whether both are one file.
fn is_same(one: &File, other: &File) -> bool {
    let number = |file: &File| file.metadata().ok().map(|m| (m.dev(), m.ino()));
    number(one).is_some() && number(one) == number(other)
}

/// Whether the postmaster that `process` names still runs: a process of that PID that was there before it. One that came
/// later only got the PID of one that is gone. Not told in another PID namespace, whose numbers are not ours.
fn is_there(process: &Process, postmaster_pid: i32) -> bool {
    let translated = process.inner_pid().ok() != Some(process.pid());
    !translated
        && Process::open(postmaster_pid)
            .is_ok_and(|named| named.start_time() <= process.start_time() && !named.has_ended())
}

/// What the process is for, by `MyBackendType`; in 12, which has no such variable, and in versions whose numbers are not
/// known, by flags. Only what serves a client has a connection: `MyProcPort`, set by BackendInitialize()
/// (src/backend/postmaster/postmaster.c; 17 and later: src/backend/tcop/backend_startup.c).
pub(super) fn backend_type(
    globals: &Globals,
    memory: &dyn Memory,
    layout: Option<&Layout>,
) -> BackendType {
    let int = |name: &str| globals.get(name).and_then(|at| memory.read_u32(at).ok());
    let flag = |name: &str| {
        globals
            .get(name)
            .and_then(|at| memory.read_u8(at).ok())
            .map(|b| b != 0)
    };
    let serves = globals
        .get("MyProcPort")
        .and_then(|at| memory.read_u64(at).ok())
        .map(|port| port != 0);
    let types = layout.and_then(|l| l.backend_types.get());
    if let Some((number, types)) = int("MyBackendType").zip(types) {
        let kind = types.get(number as usize);
        let kind = kind.copied().unwrap_or(BackendType::Unknown);
        // Up to 16 whoever has a client has no type before it has read the client's first message (BackendInitialize(),
        // src/backend/postmaster/postmaster.c).
        return match (number, serves) {
            (0, Some(true)) => BackendType::Client,
            _ => kind,
        };
    }
    let (worker, sends) = (flag("IsBackgroundWorker"), flag("am_walsender"));
    match (serves, worker, sends) {
        (Some(true), Some(false) | None, Some(false)) => BackendType::Client,
        (Some(true), Some(false) | None, Some(true)) => BackendType::WalSender,
        (Some(false), Some(true), Some(false)) => BackendType::BackgroundWorker,
        _ => BackendType::Unknown,
    }
}

/// How surely a process outlasts all sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// The checkpointer: it heeds no SIGTERM, and any end of it but that of the server is a crash to the postmaster.
    Surely,
    /// Some auxiliary process, which may end by itself; not all of them do at once.
    WithTheOthers,
}

/// Whether a child of the backend's postmaster is one that outlasts all sessions, by its own variables: a title is anybody's
/// choice. None of any other, and where it cannot be told.
pub fn lasting(backend: &Backend, child: &Process) -> Option<Lasting> {
    let memory = ProcessMemory::open(child.pid());
    let at = |name: &str| backend.globals.get(name);
    let int = |name: &str| memory.read_u32(at(name)?).ok();
    // It forked from the postmaster, and has executed nothing since.
    let inner_pid = child.inner_pid().ok()?;
    if int("MyProcPid") != Some(inner_pid as u32) {
        return None;
    }
    let layout = backend.version.as_ref().and_then(Version::layout);
    let types = layout.and_then(|l| l.backend_types.get());
    match int("MyBackendType").zip(types) {
        Some((number, types)) => {
            let kind = types.get(number as usize);
            (kind == Some(&BackendType::Checkpointer)).then_some(Lasting::Surely)
        }
        // In 12, and where the numbers are not known. Auxiliary processes have such an owner (AuxiliaryProcessMain(), src/backend/postmaster/auxprocess.c, up to 14
        // src/backend/bootstrap/bootstrap.c), and so have walsenders (InitWalSender()), which serve a client.
        None => {
            let owner = memory.read_u64(at("AuxProcessResourceOwner")?).ok()?;
            let port = memory.read_u64(at("MyProcPort")?).ok()?;
            let worker = memory.read_u8(at("IsBackgroundWorker")?).ok()?;
            (owner != 0 && port == 0 && worker == 0).then_some(Lasting::WithTheOthers)
        }
    }
}

/// What the title says a process is for, where the variables do not tell. A client backend's title names no kind, so
/// an unknown process never becomes one.
pub(super) fn type_by_title(title: &str) -> BackendType {
    const NAMES: [(&str, BackendType); 12] = [
        ("autovacuum launcher", BackendType::AutovacuumLauncher),
        ("autovacuum worker", BackendType::AutovacuumWorker),
        ("checkpointer", BackendType::Checkpointer),
        ("background writer", BackendType::BackgroundWriter),
        ("walwriter", BackendType::WalWriter),
        ("walreceiver", BackendType::WalReceiver),
        ("walsummarizer", BackendType::WalSummarizer),
        ("startup", BackendType::Startup),
        ("archiver", BackendType::Archiver),
        ("stats collector", BackendType::StatsCollector),
        ("logger", BackendType::Logger),
        ("io worker", BackendType::IoWorker),
    ];
    NAMES
        .into_iter()
        .find(|(name, _)| title.starts_with(name))
        .map_or(BackendType::Unknown, |(_, kind)| kind)
}
