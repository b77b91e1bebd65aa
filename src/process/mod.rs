//! What `/proc` and a pidfd tell of a process without stopping it: which one it is, what state it is in,
//! what it has mapped, and why tracing it would be refused.
//!
//! A pidfd needs Linux 5.3 and a seccomp filter that lets it pass; nothing here needs more than Linux 4.4 otherwise.
//! Without one, the directory `/proc/PID` that is held open means the same process for as long as it is held.

pub mod container;
pub mod maps;
pub mod mounts;
pub mod passwd;
pub mod permission;
pub mod root;
pub mod sockets;
pub mod syscalls;
pub(crate) mod text;

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use procfs::ProcError;
use procfs::process::{Stat, Status};

pub use maps::Mapping;
pub use text::as_text;

use crate::address::Avma;
use crate::memory::ProcessMemory;
use crate::sys::{self, Whom};

/// The largest text that is read from one file of `/proc`.
const LARGEST_PROC_FILE: u64 = 64 << 20;

/// The most entries of a kernel stack that are kept.
const MOST_KERNEL_FRAMES: usize = 32;

/// The most threads whose names are read.
pub const MOST_THREADS: usize = 64;

/// A thread that the kernel gave to a process for its io_uring (include/linux/sched.h, 5.12 and later; before that they
/// were no threads of the process).
const PF_IO_WORKER: u32 = 0x10;

/// One thread.
struct Task {
    tid: i32,
    /// It works for the kernel.
    kernel_s: bool,
}

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

/// The end of a process: the one value that it is everywhere, whoever comes upon it, and by whatever the kernel says then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("process {0} has ended")]
pub struct Gone(pub i32);

/// Why a signal was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// There is nobody any more whom it could reach.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// The kernel said something else: EPERM for a missing right.
    #[error(transparent)]
    Kernel(io::Error),
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
    /// It is there, and `/proc` does not show it to us (hidepid).
    #[error("process {0} is there, but /proc does not show it")]
    Hidden(i32),
    /// The kernel said something else.
    #[error("cannot open process {0}: {1}")]
    Other(i32, io::Error),
}

/// One process, pinned: a pidfd and a directory of `/proc` that both refer to this process for as long as they
/// are held, so that a PID that is given to another process is never mistaken for it.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    /// None before Linux 5.3, and where a seccomp filter denies it.
    pidfd: Option<OwnedFd>,
    proc: procfs::process::Process,
    start_time: u64,
    memory: OnceLock<ProcessMemory>,
}

impl Process {
    /// Pins the process `pid`, as numbered in our own PID namespace.
    pub fn open(pid: i32) -> Result<Self, OpenError> {
        let gone = || OpenError::NoSuchProcess(pid);
        // ESRCH is the answer for a process that is not there. Others are about the call: ENOSYS before Linux 5.3,
        // EPERM and others from seccomp filters; ENOENT or EINVAL, by version, for a thread that leads no group.
        let pidfd = match sys::pidfd_open(pid) {
            Ok(fd) => Some(fd),
            Err(Errno::ESRCH) => return Err(gone()),
            Err(_) => None,
        };
        let has_ended = || {
            pidfd
                .as_ref()
                .is_some_and(|fd| is_readable(fd, Duration::ZERO))
        };
        let failed = |e: io::Error| match e {
            e if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) => {
                // Another process may have got the PID since.
                match exists(pid) && !has_ended() {
                    true => OpenError::Hidden(pid),
                    false => gone(),
                }
            }
            e if matches!(e.raw_os_error(), Some(libc::EPERM | libc::EACCES)) => {
                OpenError::Hidden(pid)
            }
            e => OpenError::Other(pid, e),
        };
        let proc = procfs::process::Process::new(pid).map_err(|e| failed(io_error(e)))?;
        let start_time = stat_of(&proc).map_err(failed)?.starttime;
        if pidfd.is_none() {
            let leader = status_of(&proc).map_err(failed)?.tgid;
            if leader != pid {
                return Err(OpenError::IsThread(pid, leader));
            }
        }
        let process = Process {
            pid,
            pidfd,
            proc,
            start_time,
            memory: OnceLock::new(),
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

    /// Its memory, which is opened when it is first asked for.
    pub fn memory(&self) -> &ProcessMemory {
        self.memory.get_or_init(|| ProcessMemory::open(self.pid))
    }

    /// When it started, in clock ticks since boot (proc_pid_stat(5), field 22).
    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    /// For how long it has been there.
    pub fn age(&self) -> Option<Duration> {
        use nix::time::{ClockId, clock_gettime};
        let now = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?);
        let per_second = procfs::ticks_per_second();
        let started = Duration::from_secs_f64(self.start_time as f64 / per_second as f64);
        now.checked_sub(started)
    }

    /// `/proc/PID/status`.
    pub fn status(&self) -> io::Result<Status> {
        status_of(&self.proc)
    }

    /// `/proc/PID/task/TID/status`, of one of its threads.
    pub fn status_of_thread(&self, tid: i32) -> io::Result<Status> {
        text::status(&read_small(&self.proc, &format!("task/{tid}/status"))?)
    }

    /// `/proc/PID/stat`.
    pub fn stat(&self) -> io::Result<Stat> {
        stat_of(&self.proc)
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
                    process.is_ok_and(|p| stat_of(&p).is_ok_and(|s| s.ppid == self.pid))
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
        let mut text = Vec::with_capacity(4096);
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
        text::syscall(&read_small(&self.proc, "syscall").ok()?)
    }

    /// The stack pointer and the program counter of its main thread; none while that runs. Needs the right to trace it.
    pub fn standing_at(&self) -> Option<(Avma, Avma)> {
        text::standing_at(&read_small(&self.proc, "syscall").ok()?)
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

    /// Its threads but the main one, without those that the kernel gave it; not more than [`MOST_THREADS`] names.
    pub fn thread_names(&self) -> Option<Vec<String>> {
        let own = self.tasks()?.into_iter().filter(|task| !task.kernel_s);
        let others = own.filter(|task| task.tid != self.pid);
        let names = others.take(MOST_THREADS).filter_map(|task| {
            let name = mounts::read(self, &format!("task/{}/comm", task.tid), 64)?;
            Some(name.trim_end().to_owned())
        });
        Some(names.collect())
    }

    /// How many threads it has of its own, where the kernel counts `counted`. Threads that work for the kernel's io_uring
    /// are counted there, too: they execute no code of the process and hold no lock in its memory.
    ///
    /// Never fewer than it may have: one that came or went meanwhile counts.
    pub fn own_threads(&self, counted: u64) -> u64 {
        // Of very many it is not asked: that would take long, and more than the kernel's they are.
        let few = 2..=MOST_THREADS as u64;
        let Some(tasks) = few.contains(&counted).then(|| self.tasks()).flatten() else {
            return counted;
        };
        let of_kernel = tasks.iter().filter(|task| task.kernel_s).count() as u64;
        let own = tasks.len() as u64 - of_kernel;
        own.max(counted.saturating_sub(of_kernel)).max(1)
    }

    /// The threads that the kernel gave it, kept open, so that they can be counted while it stands still.
    pub fn kernel_threads(&self) -> KernelThreads {
        let of_kernel = self.tasks().unwrap_or_default().into_iter();
        let of_kernel = of_kernel.filter(|task| task.kernel_s).take(MOST_THREADS);
        let open = of_kernel.filter_map(|t| self.open_file(format!("task/{}/stat", t.tid)).ok());
        KernelThreads(open.collect())
    }

    /// All tasks of its thread group.
    fn tasks(&self) -> Option<Vec<Task>> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid)).ok()?;
        let tids = tasks
            .flatten()
            .filter_map(|task| task.file_name().to_str()?.parse().ok());
        let of = |tid| Task {
            tid,
            // What cannot be read counts as its own.
            kernel_s: mounts::read(self, &format!("task/{tid}/stat"), 1 << 10)
                .and_then(|stat| text::stat(stat.as_bytes()).ok())
                .is_some_and(|stat| stat.flags & PF_IO_WORKER != 0),
        };
        Some(tids.map(of).collect())
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

    /// A path that the kernel told us of this process (its working directory, say), as the process itself has it. For one
    /// that was put below another root (chroot(2)) in our own mount namespace, the kernel tells paths as we see them
    /// (d_path(), fs/d_path.c).
    pub fn path_inside(&self, path: &std::path::Path) -> std::path::PathBuf {
        let root = std::fs::read_link(format!("/proc/{}/root", self.pid));
        match root.ok().filter(|_| self.still_the_same()) {
            Some(root) => below(&root, path),
            None => path.to_owned(),
        }
    }

    /// Whether a path means the same file to it and to us. False where that cannot be told.
    pub fn shares_our_paths(&self) -> bool {
        let roots = || Some((root::Root::ours().ok()?, root::Root::of(self).ok()?));
        self.shares_our_mounts() && roots().is_some_and(|(ours, theirs)| ours.is(&theirs))
    }

    /// Whether it lives in our mount namespace. False where that cannot be told.
    pub fn shares_our_mounts(&self) -> bool {
        let link = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let ours = link("self");
        ours.is_some() && ours == link(&self.pid.to_string()) && self.still_the_same()
    }

    /// Whether it lives in our network namespace.
    pub fn shares_our_network(&self) -> Option<bool> {
        let link = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let same = link("self")? == link(&self.pid.to_string())?;
        self.still_the_same().then_some(same)
    }

    /// The soft limit of its stack in bytes, none for unlimited.
    pub fn stack_limit(&self) -> io::Result<Option<u64>> {
        text::stack_limit(&read_small(&self.proc, "limits")?)
    }

    /// Processor time that its main thread has used so far. Exact only while that thread stands still: for a
    /// running one the kernel brings the sum up to date at the next tick or switch.
    pub fn cpu_time(&self) -> Option<Duration> {
        let text = read_small(&self.proc, "schedstat").ok()?;
        text::cpu_nanoseconds(&text).map(Duration::from_nanos)
    }

    /// The executable that runs, even if it was deleted or replaced since.
    pub fn executable(&self) -> io::Result<File> {
        self.open_file("exe")
    }

    /// Opens the file behind a mapping, the very inode that is mapped, where the kernel lets us: that takes
    /// CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE (proc_pid_map_files(5)).
    pub fn open_mapped(&self, mapping: &Mapping) -> io::Result<File> {
        let exact = format!("map_files/{:x}-{:x}", mapping.start.0, mapping.end.0);
        let file = self.open_file(exact)?;
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

    /// Whether it ends within a moment. The kernel denies access to what is just ending, too (ptrace_attach() in
    /// kernel/ptrace.c, proc_pid_readlink() in fs/proc/base.c); who was denied for another reason can wait that long.
    pub fn is_about_to_end(&self) -> bool {
        /// From the moment at which a process has given up its memory to its end, on a busy machine.
        const MOMENT: Duration = Duration::from_millis(200);
        self.wait_for_end(MOMENT)
    }

    /// Waits until it has ended, at most `limit`; says whether it has.
    pub fn wait_for_end(&self, limit: Duration) -> bool {
        /// The pause between two looks, where nobody tells us.
        const PAUSE: Duration = Duration::from_millis(5);
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = match &self.pidfd {
                Some(pidfd) => is_readable(pidfd, left),
                // Files of a directory of /proc that was opened before belong to that process alone.
                None => matches!(self.state(), None | Some('Z' | 'X')),
            };
            if ended || left.is_zero() {
                return ended;
            }
            if self.pidfd.is_none() {
                std::thread::sleep(left.min(PAUSE));
            }
        }
    }

    /// How it ended, as wait(2) tells its parent, if that is told within `limit`.
    ///
    /// Until its parent has waited for it, `/proc/PID/stat` has it (for those who may trace it; others read 0, so that 0
    /// tells nothing there); from then on the pidfd has, since Linux 6.15. In between, and on older kernels, nothing has.
    pub fn wait_status(&self, limit: Duration) -> Option<i32> {
        const PAUSE: Duration = Duration::from_millis(1);
        let deadline = Instant::now() + limit;
        loop {
            let stat = self.stat().ok().filter(|s| s.state == 'Z');
            let told = stat.as_ref().and_then(|s| s.exit_code).filter(|n| *n != 0);
            let pidfd = self.pidfd.as_ref();
            if let Some(status) = told.or_else(|| sys::pidfd_wait_status(pidfd?.as_fd())) {
                return Some(status);
            }
            let is_waited_for = stat.is_none() && self.has_ended();
            if is_waited_for || Instant::now() >= deadline {
                // It may have been waited for since the pidfd was asked.
                return pidfd.and_then(|fd| sys::pidfd_wait_status(fd.as_fd()));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Sends it a signal: never to another process that got its PID.
    ///
    /// Without a pidfd, or where pidfd_send_signal(2) is missing or denied, by kill(2), right after a look that it is
    /// still there. Its PID would have to be freed and given out again within the microsecond between.
    pub fn send_signal(&self, signal: i32) -> Result<(), SignalError> {
        self.send_signal_to(Whom::Process, signal)
    }

    /// Sends a signal to the group of processes that it leads, as the shell's `kill -- -PID` does: to itself, and to those of
    /// its descendants that have no group of their own. Without a group that it leads, to itself alone.
    ///
    /// No group of another can be met: its number is this process's PID, which nobody else gets as long as it is there.
    pub fn send_signal_to_group(&self, signal: i32) -> Result<(), SignalError> {
        let leads = self.stat().is_ok_and(|stat| stat.pgrp == self.pid);
        self.send_signal_to(if leads { Whom::Group } else { Whom::Process }, signal)
    }

    fn send_signal_to(&self, whom: Whom, signal: i32) -> Result<(), SignalError> {
        let failed = |e: Errno| match e {
            Errno::ESRCH => SignalError::Gone(Gone(self.pid)),
            other => SignalError::Kernel(other.into()),
        };
        if let Some(pidfd) = &self.pidfd {
            match sys::pidfd_send_signal(pidfd.as_fd(), signal, whom) {
                // EPERM is for kill(2) to confirm.
                Err(e) if e != Errno::ESRCH => {}
                result => return result.map_err(failed),
            }
        }
        if self.has_ended() || !self.still_the_same() {
            return Err(Gone(self.pid).into());
        }
        sys::kill(self.pid, signal, whom).map_err(failed)
    }

    /// Its descendants, each pinned, its children first; of very many, some. Those whose parent has ended have another
    /// one by now, and are not found.
    pub fn descendants(&self) -> Vec<Process> {
        /// No backend has more on purpose.
        const MOST: usize = 64;
        let mut found: Vec<Process> = Vec::new();
        let mut next = 0;
        let mut children = self.children();
        loop {
            for pid in children {
                let child = Process::open(pid).ok();
                let is_new = found.iter().all(|p| p.pid != pid);
                found.extend(child.filter(|_| is_new && found.len() < MOST));
            }
            let Some(process) = found.get(next) else {
                return found;
            };
            children = process.children();
            next += 1;
        }
    }

    /// The user that a file of its directory belongs to. Other than its effective user it is root where the process may
    /// not be dumped (task_dump_owner(), fs/proc/base.c).
    pub fn owner_of_files(&self) -> Option<u32> {
        let file = self.open_file("status").ok()?;
        file.metadata().ok().map(|m| m.uid())
    }
}

/// Threads that work for the kernel's io_uring within a process.
#[derive(Debug, Default)]
pub struct KernelThreads(Vec<File>);

impl KernelThreads {
    /// How many of them are still there. Opens nothing.
    pub fn count(&self) -> u64 {
        // Of a thread that has ended nothing can be read (ESRCH).
        let is_there = |file: &&File| file.read_at(&mut [0; 64], 0).is_ok_and(|n| n > 0);
        self.0.iter().filter(is_there).count() as u64
    }
}

/// Waits until there is something to read, at most `limit`; says whether there is.
fn is_readable(fd: &OwnedFd, limit: Duration) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    // Rounded up, or the last millisecond would be spent spinning.
    let timeout = limit.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32;
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::ZERO);
    poll(&mut fds, timeout).is_ok_and(|n| n > 0)
}

/// Whether there is a process (or thread) `pid`, be it visible in `/proc` or not.
fn exists(pid: i32) -> bool {
    matches!(sys::kill(pid, 0, Whom::Process), Ok(()) | Err(Errno::EPERM))
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

/// A small file below a pinned directory of `/proc`.
fn read_small(proc: &procfs::process::Process, name: &str) -> io::Result<Vec<u8>> {
    /// Of these the largest is `status`, whose supplementary groups may be 65,536 (NGROUPS_MAX).
    const MOST: u64 = 1 << 20;
    // As large as nearly all of them: each reading of them is work for the kernel.
    let mut text = Vec::with_capacity(4096);
    let file = proc.open_relative(name).map_err(io_error)?;
    file.take(MOST).read_to_end(&mut text)?;
    Ok(text)
}

fn stat_of(proc: &procfs::process::Process) -> io::Result<Stat> {
    text::stat(&read_small(proc, "stat")?)
}

fn status_of(proc: &procfs::process::Process) -> io::Result<Status> {
    text::status(&read_small(proc, "status")?)
}

/// A name from another process, made fit for a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if is_obeyed(c) { '\u{fffd}' } else { c })
        .collect()
}

/// Whether a terminal would do something with it instead of showing it: control characters, and those that change the
/// direction of writing (Unicode Standard Annex 9), which would let a name rewrite the rest of the line.
pub(crate) fn is_obeyed(c: char) -> bool {
    let directs = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || directs
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

/// `path` with `root` taken for its beginning; as it is where it lies elsewhere.
fn below(root: &std::path::Path, path: &std::path::Path) -> std::path::PathBuf {
    match path.strip_prefix(root) {
        Ok(rest) => std::path::Path::new("/").join(rest),
        Err(_) => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_below_another_root() {
        let inside = |root: &str, path: &str| below(root.as_ref(), path.as_ref());
        for (root, path, expected) in [
            ("/", "/data", "/data"),
            ("/cell", "/cell/data", "/data"),
            ("/cell", "/cell", "/"),
            ("/cell", "/cellar/data", "/cellar/data"),
            ("/cell (deleted)", "/cell/data", "/cell/data"),
        ] {
            assert_eq!(inside(root, path), std::path::Path::new(expected));
        }
    }
}
