//! What `/proc` and a pidfd tell of a process without stopping it: which one it is, what state it is in,
//! what it has mapped, and why tracing it would be refused.

pub mod maps;
pub mod mounts;
pub mod permission;
pub mod sockets;
pub mod syscalls;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use procfs::ProcError;
use procfs::process::{Stat, Status};

pub use maps::Mapping;

use crate::memory::Avma;
use crate::tracee::sys;

/// The largest text that is read from one file of `/proc`.
const LARGEST_PROC_FILE: u64 = 64 << 20;

/// The most entries of a kernel stack that are kept.
const MOST_KERNEL_FRAMES: usize = 32;

/// The most threads whose names are read.
pub const MOST_THREADS: usize = 64;

/// A system call as `/proc/PID/syscall` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawCall {
    /// Its number.
    pub number: i64,
    /// Its arguments.
    pub arguments: [u64; 6],
    /// Where it returns to.
    pub ip: Avma,
}

/// Why a process could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such process (any more).
    #[error("there is no process with PID {0}")]
    NoSuchProcess(i32),
    /// The PID is that of a thread, not of a process.
    #[error("{0} is a thread of process {1}, not a process")]
    IsThread(i32, i32),
    /// The kernel said something else.
    #[error("cannot open process {0}: {1}")]
    Other(i32, io::Error),
}

/// One process, pinned: a pidfd and a directory of `/proc` that both refer to this process for as long as they
/// are held, so that a PID that is given to another process is never mistaken for it.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    pidfd: OwnedFd,
    proc: procfs::process::Process,
    start_time: u64,
}

impl Process {
    /// Pins the process `pid`, as numbered in our own PID namespace.
    pub fn open(pid: i32) -> Result<Self, OpenError> {
        let gone = || OpenError::NoSuchProcess(pid);
        let other = |e: io::Error| match e.raw_os_error() {
            Some(libc::ESRCH | libc::ENOENT) => OpenError::NoSuchProcess(pid),
            _ => OpenError::Other(pid, e),
        };
        // pidfd_open(2) says ENOENT or EINVAL, by the kernel's version, for a thread that leads no group.
        let pidfd = match sys::pidfd_open(pid) {
            Ok(fd) => fd,
            Err(e) => {
                return Err(
                    match procfs::process::Process::new(pid).map(|p| p.status()) {
                        Ok(Ok(status)) if status.tgid != pid => {
                            OpenError::IsThread(pid, status.tgid)
                        }
                        _ => other(e.into()),
                    },
                );
            }
        };
        let proc = procfs::process::Process::new(pid).map_err(|e| other(io_error(e)))?;
        let start_time = proc.stat().map_err(|e| other(io_error(e)))?.starttime;
        let process = Process {
            pid,
            pidfd,
            proc,
            start_time,
        };
        // The directory was opened after the pidfd; only if the latter still lives do both mean the same process.
        if process.has_ended() && process.state() != Some('Z') {
            return Err(gone());
        }
        Ok(process)
    }

    /// Its PID in our PID namespace.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// When it started, in clock ticks since boot (proc_pid_stat(5), field 22).
    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    /// `/proc/PID/status`.
    pub fn status(&self) -> io::Result<Status> {
        self.proc.status().map_err(io_error)
    }

    /// `/proc/PID/stat`.
    pub fn stat(&self) -> io::Result<Stat> {
        self.proc.stat().map_err(io_error)
    }

    /// The PIDs of its children. The kernel may leave some out while others end (proc_pid_task_tid_children(5)), so it
    /// is asked twice; where it keeps no such list (CONFIG_PROC_CHILDREN), all processes are asked for their parent.
    pub fn children(&self) -> Vec<i32> {
        let list = || {
            let mut text = String::new();
            let file = self.open_file(format!("task/{}/children", self.pid)).ok()?;
            file.take(LARGEST_PROC_FILE)
                .read_to_string(&mut text)
                .ok()?;
            Some(text)
        };
        let mut children: Vec<i32> = match list().zip(list()) {
            Some((a, b)) => [a, b]
                .iter()
                .flat_map(|text| text.split_whitespace().filter_map(|n| n.parse().ok()))
                .collect(),
            None => all_pids()
                .into_iter()
                .filter(|pid| {
                    let process = procfs::process::Process::new(*pid);
                    process
                        .and_then(|p| p.stat())
                        .is_ok_and(|s| s.ppid == self.pid)
                })
                .collect(),
        };
        children.sort_unstable();
        children.dedup();
        children
    }

    /// Its state as one letter (`R`, `S`, `D`, `T`, `t`, `Z`, …), or none once it is gone.
    pub fn state(&self) -> Option<char> {
        self.stat().ok().map(|s| s.state)
    }

    /// Its PID in the innermost PID namespace it lives in: what it calls itself, and what a database
    /// administrator inside the container sees.
    pub fn inner_pid(&self) -> io::Result<i32> {
        let status = self.status()?;
        Ok(status
            .nspid
            .and_then(|all| all.last().copied())
            .unwrap_or(self.pid))
    }

    /// The mappings, sorted by address.
    pub fn maps(&self) -> io::Result<Vec<Mapping>> {
        let mut text = Vec::new();
        self.open_file("maps")?
            .take(LARGEST_PROC_FILE)
            .read_to_end(&mut text)?;
        Ok(maps::parse(&text))
    }

    /// The words of its command line; PostgreSQL writes its title there.
    pub fn command_line(&self) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        self.open_file("cmdline")?
            .take(1 << 16)
            .read_to_end(&mut text)?;
        Ok(text)
    }

    /// Opens `/proc/PID/<name>` through the pinned directory.
    pub fn open_file(&self, name: impl AsRef<Path>) -> io::Result<File> {
        self.proc.open_relative(name.as_ref()).map_err(io_error)
    }

    /// The kernel function it sleeps in, where the kernel tells.
    pub fn wait_channel(&self) -> Option<String> {
        self.proc
            .wchan()
            .ok()
            .filter(|name| !name.is_empty() && name != "0")
    }

    /// The system call it is blocked in. Needs the right to trace it.
    pub fn blocked_syscall(&self) -> Option<RawCall> {
        match self.proc.syscall() {
            Ok(procfs::process::Syscall::Blocked {
                syscall_number: number,
                argument_registers: arguments,
                program_counter,
                ..
            }) if number >= 0 => Some(RawCall {
                number,
                arguments,
                ip: Avma(program_counter),
            }),
            _ => None,
        }
    }

    /// The kernel functions it is in, innermost first; none where the kernel does not tell (root only,
    /// CONFIG_STACKTRACE), and only sensible while it sleeps (proc_pid_stack(5)).
    pub fn kernel_stack(&self) -> Option<Vec<String>> {
        let text = mounts::read(self, "stack", 16 << 10)?;
        let functions: Vec<String> = text
            .lines()
            .take(MOST_KERNEL_FRAMES)
            .filter_map(|line| {
                let function = line.split_once("] ")?.1;
                let name = function.split_once('+').map_or(function, |(name, _)| name);
                Some(name.trim().to_owned())
            })
            .collect();
        (!functions.is_empty()).then_some(functions)
    }

    /// The names of its threads but the main one; not more than [`MOST_THREADS`].
    pub fn thread_names(&self) -> Option<Vec<String>> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid)).ok()?;
        let others = tasks
            .flatten()
            .filter_map(|task| task.file_name().into_string().ok())
            .filter(|tid| *tid != self.pid.to_string());
        let names = others.take(MOST_THREADS).filter_map(|tid| {
            let name = mounts::read(self, &format!("task/{tid}/comm"), 64)?;
            Some(name.trim_end().to_owned())
        });
        Some(names.collect())
    }

    /// What its descriptor `fd` points to, as the kernel words it (a path, `socket:[inode]`, `pipe:[inode]`).
    pub fn descriptor(&self, fd: u64) -> Option<String> {
        let link = format!("/proc/{}/fd/{fd}", self.pid);
        let target = std::fs::read_link(link).ok()?;
        self.still_the_same()
            .then(|| target.to_string_lossy().into_owned())
    }

    /// The working directory, which for every process of a server is its data directory.
    pub fn working_directory(&self) -> io::Result<std::path::PathBuf> {
        self.proc.cwd().map_err(io_error)
    }

    /// The soft limit of its stack in bytes, none for unlimited.
    pub fn stack_limit(&self) -> io::Result<Option<u64>> {
        use procfs::process::LimitValue;
        let limits = self.proc.limits().map_err(io_error)?;
        Ok(match limits.max_stack_size.soft_limit {
            LimitValue::Unlimited => None,
            LimitValue::Value(bytes) => Some(bytes),
        })
    }

    /// Processor time that its main thread has used so far. Exact only while that thread stands still: for a
    /// running one the kernel brings the sum up to date at the next tick or switch.
    pub fn cpu_time(&self) -> Option<Duration> {
        self.proc
            .schedstat()
            .ok()
            .map(|s| Duration::from_nanos(s.sum_exec_runtime))
    }

    /// The executable that runs, even if it was deleted or replaced since.
    pub fn executable(&self) -> io::Result<File> {
        self.open_file("exe")
    }

    /// Opens the file behind a mapping: the very inode that is mapped where we may ask the kernel for it, and
    /// otherwise what now lies at its path below the process's own root directory. Whether that is the same
    /// file is the caller's to check ([`same_file`]).
    pub fn open_mapped(&self, mapping: &Mapping) -> io::Result<File> {
        // map_files needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE: proc_pid_map_files(5).
        let exact = format!("map_files/{:x}-{:x}", mapping.start.0, mapping.end.0);
        if let Ok(file) = self.open_file(exact) {
            return Ok(file);
        }
        let below_root = mapping.path.strip_prefix("/").map_err(io::Error::other)?;
        // O_NONBLOCK, so that a FIFO put there does not hold us up; O_NOFOLLOW, since the path in maps is
        // resolved already and a link there now is not what was mapped.
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(Path::new(&format!("/proc/{}/root", self.pid)).join(below_root))?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        Ok(file)
    }

    /// Whether the PID still belongs to the process that was pinned.
    pub fn still_the_same(&self) -> bool {
        self.stat().is_ok_and(|s| s.starttime == self.start_time)
    }

    /// Whether it has ended (it may be a zombie still).
    pub fn has_ended(&self) -> bool {
        self.wait_for_end(Duration::ZERO)
    }

    /// Waits until it has ended, at most `limit`; says whether it has.
    pub fn wait_for_end(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
            // Rounded up, or the last millisecond would be spent spinning.
            let timeout = left.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32;
            match poll(
                &mut fds,
                PollTimeout::try_from(timeout).unwrap_or(PollTimeout::ZERO),
            ) {
                Ok(n) if n > 0 => return true,
                _ if left.is_zero() => return false,
                _ => {}
            }
        }
    }

    /// Sends it a signal through the pidfd: never to another process that got its PID.
    pub fn send_signal(&self, signal: i32) -> io::Result<()> {
        sys::pidfd_send_signal(self.pidfd(), signal).map_err(io::Error::from)
    }

    /// The pidfd.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Whether an open file is the one that a mapping was made of, by device and inode. False does not prove the
/// contrary: overlay file systems show other numbers in `/proc/PID/maps` than in stat(2).
pub fn same_file(file: &File, mapping: &Mapping) -> bool {
    file.metadata().is_ok_and(|meta| {
        let (major, minor, inode) = mapping.file;
        meta.ino() == inode && libc::major(meta.dev()) == major && libc::minor(meta.dev()) == minor
    })
}

/// Reads up to `buf.len()` bytes at `offset`, fewer only at the end of the file.
pub fn read_at_most(file: &File, buf: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// The PIDs of all processes that can be seen, in no particular order.
pub fn all_pids() -> Vec<i32> {
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn io_error(e: ProcError) -> io::Error {
    let kind = match e {
        ProcError::PermissionDenied(_) => libc::EACCES,
        ProcError::NotFound(_) => libc::ENOENT,
        ProcError::Io(e, _) => return e,
        other => return io::Error::other(other.to_string()),
    };
    io::Error::from_raw_os_error(kind)
}

impl AsRawFd for Process {
    fn as_raw_fd(&self) -> i32 {
        self.pidfd.as_raw_fd()
    }
}
