//! System calls by name, and what they wait for: a file, a pipe, a peer, a child.
//!
//! All of it from `/proc` and from the arguments in the process's memory, never while it stands still, and never by
//! asking a file system that may not answer.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Process;
use super::mounts::{Filesystem, read};
use super::sockets::{Socket, peer_in};
use crate::address::Avma;
use crate::arch::Processor;
use crate::arch::host::PROCESSOR;
use crate::memory::Memory;

/// The most descriptors of one poll, select or epoll that are looked at.
const MOST_DESCRIPTORS: usize = 32;
/// The most children that are listed.
const MOST_CHILDREN: usize = 16;
/// The most descriptors of all processes that are compared in search of a pipe's other end.
const MOST_COMPARED: usize = 20_000;
/// The most processes that are listed as having a pipe open.
const MOST_OTHERS: usize = 8;
/// What the kernel itself calls to go on with what a stop has interrupted (restart_syscall(2)).
const RESTART: &str = "restart_syscall";
/// Linux's PATH_MAX.
const LONGEST_PATH: usize = 4096;

/// A system call that a process is blocked in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockedCall {
    /// Its number.
    pub number: i64,
    /// Its name, or `syscall N` where the number is unknown. Judgements go by it: numbers are the processor's own.
    pub name: String,
    /// The descriptor it works on, where it works on one.
    pub descriptor: Option<u64>,
    /// What that descriptor points to, as the kernel words it.
    pub target: Option<String>,
    /// Its arguments.
    #[serde(default)]
    pub arguments: [u64; 6],
    /// What it waits for, as far as that can be told; several for a poll and its kin.
    #[serde(default)]
    pub waits_for: Vec<Awaited>,
    /// After how long it gives up by itself, in milliseconds, as it was told when it was called.
    #[serde(default)]
    pub time_limit_ms: Option<u64>,
}

/// One thing that a system call waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "awaited", deny_unknown_fields)]
pub struct Awaited {
    /// The descriptor, where it is one's.
    pub descriptor: Option<u64>,
    /// What it is.
    #[serde(flatten)]
    pub thing: Thing,
}

/// What a system call may wait for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[schemars(rename = "thing")]
pub enum Thing {
    /// A file, a device or a directory.
    File {
        /// Its path, as the process sees it.
        path: String,
        /// Where it lies.
        filesystem: Option<Filesystem>,
    },
    /// A pipe with a name.
    Fifo {
        /// Its path, as the process sees it.
        path: String,
    },
    /// A pipe without one.
    Pipe {
        /// Which other processes have it open, the first of them where there are many; null if none was found and not all
        /// could be looked into.
        also_open_in: Option<Vec<Other>>,
    },
    /// A socket.
    Socket(Socket),
    /// A child process.
    Child(Other),
    /// A lock or semaphore in memory.
    Memory {
        /// Where.
        address: Avma,
        /// Whether other processes share it.
        shared: bool,
    },
    /// Something of the kernel's: a timer, an event counter, a set of signals.
    Kernel {
        /// As the kernel words it.
        name: String,
    },
}

/// Another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "other_process")]
pub struct Other {
    /// Its PID in our PID namespace.
    #[schemars(range(min = 1))]
    pub pid: i32,
    /// Its name, as ps has it.
    pub name: Option<String>,
}

impl Other {
    fn new(pid: i32) -> Self {
        Other {
            pid,
            name: name_of_process(pid),
        }
    }

    /// How to name it in a sentence.
    pub fn describe(&self) -> String {
        match &self.name {
            Some(name) => format!("process {} ({name})", self.pid),
            None => format!("process {}", self.pid),
        }
    }
}

impl Thing {
    /// How to name it in a sentence.
    pub fn describe(&self) -> String {
        match self {
            Thing::File { path, filesystem } => match filesystem.as_ref().filter(|f| f.is_remote())
            {
                Some(remote) => format!("{path} on {}", remote.describe()),
                None => path.clone(),
            },
            Thing::Fifo { path } => format!("the FIFO {path}"),
            Thing::Pipe { also_open_in } => match also_open_in.as_deref() {
                Some([]) => "a pipe that no other process has open".into(),
                Some([one]) => format!("a pipe that {} has open, too", one.describe()),
                Some([one, ..]) => {
                    format!("a pipe that {} and others have open, too", one.describe())
                }
                None => "a pipe".into(),
            },
            Thing::Socket(socket) => socket.describe(),
            Thing::Child(other) => format!("its child, {}", other.describe()),
            Thing::Memory { shared: true, .. } => {
                "a lock or semaphore in memory that it shares with other processes".into()
            }
            Thing::Memory { .. } => "a lock or semaphore in its own memory".into(),
            Thing::Kernel { name } => name.clone(),
        }
    }
}

impl Awaited {
    /// How to name it in a sentence, with its descriptor.
    pub fn describe(&self) -> String {
        match self.descriptor {
            Some(fd) => format!("descriptor {fd}, {}", self.thing.describe()),
            None => self.thing.describe(),
        }
    }
}

impl Awaited {
    /// What is being opened has no descriptor yet.
    fn preposition(&self) -> &'static str {
        match self.thing {
            Thing::File { .. } | Thing::Fifo { .. } if self.descriptor.is_none() => "of",
            _ => "on",
        }
    }
}

impl BlockedCall {
    /// The call that `process` is blocked in at this moment, and what it waits for.
    pub fn of(process: &Process, memory: &dyn Memory) -> Option<Self> {
        let blocked = process.blocked_syscall()?;
        let number = match PROCESSOR.syscall_name(blocked.number) {
            // Left to the kernel: a call that was interrupted by a stop and not by a signal handler.
            Some(RESTART) => PROCESSOR.restarted(memory, blocked.ip),
            _ => None,
        };
        let number = number.unwrap_or(blocked.number);
        let mut call = Self::from_registers(number, blocked.arguments);
        call.look_up(process, memory);
        Some(call)
    }

    /// The call `number` with these arguments, as a stopped thread's registers show it. Asks no one.
    pub fn from_registers(number: i64, arguments: [u64; 6]) -> Self {
        let name = name_of(number);
        let descriptor = takes_descriptor(&name).then(|| descriptor(arguments[0]));
        BlockedCall {
            number,
            name,
            descriptor: descriptor.flatten(),
            target: None,
            arguments,
            waits_for: Vec::new(),
            time_limit_ms: None,
        }
    }

    /// Whether a stopped thread's registers show this very call, arguments included. A call that the kernel restarts
    /// after a look goes by another name.
    pub fn is(&self, number: i64, arguments: [u64; 6]) -> bool {
        (self.number == number || PROCESSOR.syscall_name(number) == Some(RESTART))
            && self.arguments == arguments
    }

    /// Looks up what it waits for.
    pub fn look_up(&mut self, process: &Process, memory: &dyn Memory) {
        let look = Look { process, memory };
        self.target = self.descriptor.and_then(|fd| process.descriptor(fd));
        self.waits_for = look.waits_for(self).unwrap_or_default();
        look.find_other_ends(&mut self.waits_for);
        self.time_limit_ms = look.time_limit(self);
    }

    /// Looks up only what takes next to no time: what the descriptor points to, which file is being opened, which child it
    /// waits for, and for how long.
    pub fn glance(&mut self, process: &Process, memory: &dyn Memory) {
        self.target = self.descriptor.and_then(|fd| process.descriptor(fd));
        let look = Look { process, memory };
        if self.is_one_of(&["open", "openat", "wait4", "waitid"]) {
            self.waits_for = look.waits_for(self).unwrap_or_default();
        }
        self.time_limit_ms = look.time_limit(self);
    }

    /// Whether it is one of those, by their names, which are the same on all processors. Not all of them have all calls.
    pub fn is_one_of(&self, names: &[&str]) -> bool {
        names.contains(&&*self.name)
    }

    /// Whom it waits for: the other end of a connection.
    pub fn peer(&self) -> Option<&Awaited> {
        let connected = |a: &&Awaited| matches!(&a.thing, Thing::Socket(s) if s.remote.is_some());
        self.waits_for.iter().find(connected)
    }

    /// The child that it waits for, where it waits for one and no other.
    pub fn child(&self) -> Option<&Other> {
        match &self.waits_for[..] {
            [
                Awaited {
                    thing: Thing::Child(child),
                    ..
                },
            ] => Some(child),
            _ => None,
        }
    }

    /// The call in words, with what it waits for where that is one thing.
    pub fn describe(&self) -> String {
        let name = format!("{}()", self.name);
        match (&self.waits_for[..], self.descriptor, &self.target) {
            ([only], _, _) => format!("{name} {} {}", only.preposition(), only.describe()),
            (_, Some(fd), Some(target)) => format!("{name} on descriptor {fd}, {target}"),
            (_, Some(fd), None) => format!("{name} on descriptor {fd}"),
            _ => name,
        }
    }
}

/// A descriptor in a register: only its lower half counts, and a negative one is none.
fn descriptor(argument: u64) -> Option<u64> {
    let fd = argument as u32 as i32;
    (fd >= 0).then_some(fd as u64)
}

/// One look at what a call waits for.
struct Look<'a> {
    process: &'a Process,
    memory: &'a dyn Memory,
}

impl Look<'_> {
    fn waits_for(&self, call: &BlockedCall) -> Option<Vec<Awaited>> {
        let args = call.arguments;
        let one = |thing| {
            vec![Awaited {
                descriptor: None,
                thing,
            }]
        };
        Some(match &*call.name {
            "poll" | "ppoll" => self.polled(Avma(args[0]), args[1])?,
            "select" | "pselect6" => self.selected(args),
            "epoll_wait" | "epoll_pwait" | "epoll_pwait2" => self.watched(descriptor(args[0])?)?,
            "open" => one(self.path(Avma(args[0]), None)?),
            "openat" => one(self.path(Avma(args[1]), descriptor(args[0]))?),
            "connect" => vec![Awaited {
                descriptor: call.descriptor,
                thing: self.connecting(call)?,
            }],
            // FUTEX_PRIVATE_FLAG (<linux/futex.h>)
            "futex" => one(Thing::Memory {
                address: Avma(args[0]),
                shared: args[1] & 128 == 0,
            }),
            "wait4" => self.children(Some(args[0] as i32).filter(|pid| *pid > 0)),
            // P_PID is 1 (<linux/wait.h>).
            "waitid" => self.children((args[0] == 1).then_some(args[1] as i32)),
            // They block for as long as a child that was made with CLONE_VFORK borrows the memory.
            "vfork" | "clone" | "clone3" => self.children(None),
            _ => vec![self.behind(call.descriptor?)?],
        })
    }

    /// What is behind descriptor `fd`.
    fn behind(&self, fd: u64) -> Option<Awaited> {
        let link = self.process.descriptor(fd)?;
        let inode = |kind: &str| link.strip_prefix(kind)?.strip_suffix(']')?.parse().ok();
        let thing = if let Some(inode) = inode("socket:[") {
            Socket::find(self.process, inode).map_or(
                Thing::Kernel {
                    name: "a socket".into(),
                },
                Thing::Socket,
            )
        } else if link.starts_with("pipe:[") {
            Thing::Pipe { also_open_in: None }
        } else if link.starts_with('/') {
            let filesystem = Filesystem::of_descriptor(self.process, fd);
            if self.is_fifo(fd, filesystem.as_ref()) {
                Thing::Fifo { path: link }
            } else {
                Thing::File {
                    path: link,
                    filesystem,
                }
            }
        } else {
            Thing::Kernel { name: link }
        };
        Some(Awaited {
            descriptor: Some(fd),
            thing,
        })
    }

    /// Asked of the inode only where that cannot hang.
    fn is_fifo(&self, fd: u64, filesystem: Option<&Filesystem>) -> bool {
        use std::os::unix::fs::FileTypeExt;
        let pid = self.process.pid();
        filesystem.is_some_and(Filesystem::is_local)
            && std::fs::metadata(format!("/proc/{pid}/fd/{fd}"))
                .is_ok_and(|m| m.file_type().is_fifo())
    }

    /// `struct pollfd { int fd; short events; short revents; }` (poll(2)).
    fn polled(&self, array: Avma, count: u64) -> Option<Vec<Awaited>> {
        let count = count.min(MOST_DESCRIPTORS as u64) as usize;
        let mut bytes = vec![0; count * 8];
        self.memory.read(array, &mut bytes).ok()?;
        let descriptors = bytes.as_chunks::<8>().0.iter();
        let descriptors = descriptors.map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Some(
            descriptors
                .filter_map(|fd| self.behind(descriptor(fd.into())?))
                .collect(),
        )
    }

    /// Three sets of bits, each as long as the first argument says (select(2)).
    fn selected(&self, args: [u64; 6]) -> Vec<Awaited> {
        /// FD_SETSIZE
        const LARGEST_SET: usize = 1024;
        let size = (args[0] as usize).min(LARGEST_SET).div_ceil(8);
        let mut any = vec![0; size];
        for set in args[1..4].iter().filter(|at| **at != 0) {
            let mut bytes = vec![0; size];
            if self.memory.read(Avma(*set), &mut bytes).is_ok() {
                any.iter_mut().zip(bytes).for_each(|(all, b)| *all |= b);
            }
        }
        let is_set = |fd: &u64| any[*fd as usize / 8] >> (fd % 8) & 1 == 1;
        let fds = (0..(size * 8) as u64).filter(is_set);
        fds.take(MOST_DESCRIPTORS)
            .filter_map(|fd| self.behind(fd))
            .collect()
    }

    /// The lines `tfd: 12 events: …` of an epoll descriptor's `fdinfo` (proc_pid_fdinfo(5)).
    fn watched(&self, epoll: u64) -> Option<Vec<Awaited>> {
        let info = read(self.process, &format!("fdinfo/{epoll}"), 64 << 10)?;
        let fds = info.lines().filter_map(|line| {
            let rest = line.strip_prefix("tfd:")?.trim_start();
            rest.split_ascii_whitespace().next()?.parse().ok()
        });
        Some(
            fds.take(MOST_DESCRIPTORS)
                .filter_map(|fd| self.behind(fd))
                .collect(),
        )
    }

    /// A file that is being opened. Only the kernel is asked what it is: the file system may be what does not answer.
    fn path(&self, at: Avma, directory: Option<u64>) -> Option<Thing> {
        let bytes = self.memory.read_c_string(at, LONGEST_PATH).ok()?;
        let name = String::from_utf8_lossy(&bytes).into_owned();
        let base = match directory {
            _ if name.starts_with('/') => None,
            Some(fd) => Some(self.process.descriptor(fd)?),
            None => Some(
                self.process
                    .working_directory()
                    .ok()?
                    .to_string_lossy()
                    .into_owned(),
            ),
        };
        let path = base.map_or(name.clone(), |base| format!("{base}/{name}"));
        // fs/pipe.c: opening a FIFO waits there for someone at its other end.
        let waits_for_partner = self
            .process
            .wait_channel()
            .is_some_and(|w| w == "wait_for_partner" || w == "fifo_open");
        Some(if waits_for_partner {
            Thing::Fifo { path }
        } else {
            Thing::File {
                path,
                filesystem: None,
            }
        })
    }

    /// The peer: the kernel's tables know it once it has been asked for, and the address in memory from the start.
    fn connecting(&self, call: &BlockedCall) -> Option<Thing> {
        let in_table = self.behind(call.descriptor?).map(|a| a.thing);
        if let Some(
            thing @ Thing::Socket(Socket {
                remote: Some(_), ..
            }),
        ) = in_table
        {
            return Some(thing);
        }
        let size = call.arguments[2].min(128) as usize;
        let mut bytes = vec![0; size];
        self.memory.read(Avma(call.arguments[1]), &mut bytes).ok()?;
        peer_in(&bytes).map(Thing::Socket)
    }

    /// Who has the other ends of pipes: one search for all of them, since it goes through all processes.
    fn find_other_ends(&self, awaited: &mut [Awaited]) {
        let mut pipes: Vec<(String, &mut Option<Vec<Other>>)> = awaited
            .iter_mut()
            .filter_map(|a| match &mut a.thing {
                Thing::Pipe { also_open_in } => {
                    Some((self.process.descriptor(a.descriptor?)?, also_open_in))
                }
                _ => None,
            })
            .collect();
        let links: Vec<&str> = pipes.iter().map(|(link, _)| link.as_str()).collect();
        if links.is_empty() {
            return;
        }
        let Some(found) = who_has_open(&links, self.process.pid()) else {
            return;
        };
        for ((_, others), found) in pipes.iter_mut().zip(found) {
            **others = found;
        }
    }

    /// Its children, or the one that it knows by that PID.
    fn children(&self, inner_pid: Option<i32>) -> Vec<Awaited> {
        let pid = self.process.pid();
        let list = read(self.process, &format!("task/{pid}/children"), 4 << 10);
        let children = list.unwrap_or_default();
        children
            .split_ascii_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .filter(|pid| inner_pid.is_none_or(|inner| inner_pid_of(*pid) == Some(inner)))
            .take(MOST_CHILDREN)
            .map(|pid| Awaited {
                descriptor: None,
                thing: Thing::Child(Other::new(pid)),
            })
            .collect()
    }

    /// When the call gives up by itself.
    fn time_limit(&self, call: &BlockedCall) -> Option<u64> {
        let args = call.arguments;
        let milliseconds = |n: u64| u64::try_from(n as u32 as i32).ok();
        // `struct timespec` and `struct timeval`: two 64-bit numbers, of seconds and of a fraction.
        let time = |at: u64, fraction_per_ms: u64| {
            let seconds = self.memory.read_u64(Avma(at)).ok()?;
            let fraction = self.memory.read_u64(Avma(at).offset(8)).ok()?;
            seconds
                .checked_mul(1000)?
                .checked_add(fraction / fraction_per_ms)
        };
        match &*call.name {
            "poll" => milliseconds(args[2]),
            "epoll_wait" | "epoll_pwait" => milliseconds(args[3]),
            "ppoll" => time(args[2], 1_000_000),
            "pselect6" => time(args[4], 1_000_000),
            "select" => time(args[4], 1_000),
            "nanosleep" => time(args[0], 1_000_000),
            // Not until a certain time, but for a time (TIMER_ABSTIME is 1).
            "clock_nanosleep" if args[1] & 1 == 0 => time(args[2], 1_000_000),
            _ => None,
        }
    }
}

/// For each of `links`, which processes but `own` have something open that the kernel words so: those that we may look
/// into. That there are none is said only if all could be looked into.
fn who_has_open(links: &[&str], own: i32) -> Option<Vec<Option<Vec<Other>>>> {
    let mut left = MOST_COMPARED;
    let mut all = true;
    let mut found = vec![Vec::new(); links.len()];
    for pid in super::all_pids().into_iter().filter(|pid| *pid != own) {
        // A process that ends meanwhile has nothing open any more; one that may not be looked into might.
        let descriptors = match std::fs::read_dir(format!("/proc/{pid}/fd")) {
            Ok(descriptors) => descriptors,
            Err(e) => {
                all &= e.kind() != std::io::ErrorKind::PermissionDenied;
                continue;
            }
        };
        for fd in descriptors.flatten() {
            left = left.checked_sub(1)?;
            let Ok(target) = std::fs::read_link(fd.path()) else {
                continue;
            };
            for (link, others) in links.iter().zip(&mut found) {
                let known = others.last().is_some_and(|o: &Other| o.pid == pid);
                if target.as_os_str() == *link && !known && others.len() < MOST_OTHERS {
                    others.push(Other::new(pid));
                }
            }
        }
    }
    let told = |others: Vec<Other>| (all || !others.is_empty()).then_some(others);
    Some(found.into_iter().map(told).collect())
}

/// The name of a process or thread, at most 15 bytes of it (proc_pid_comm(5)).
fn name_of_process(pid: i32) -> Option<String> {
    let name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(name.trim_ascii_end()).into_owned())
}

/// What a process calls itself, in the innermost PID namespace it lives in.
fn inner_pid_of(pid: i32) -> Option<i32> {
    Process::open(pid).ok()?.inner_pid().ok()
}

/// The name of system call `number`.
pub fn name_of(number: i64) -> String {
    let name = PROCESSOR.syscall_name(number);
    name.map_or_else(|| format!("syscall {number}"), str::to_owned)
}

/// Whether the first argument of the call is a descriptor, for the calls that a backend can block in.
fn takes_descriptor(call: &str) -> bool {
    matches!(
        call,
        "read"
            | "write"
            | "readv"
            | "writev"
            | "pread64"
            | "pwrite64"
            | "preadv"
            | "pwritev"
            | "preadv2"
            | "pwritev2"
            | "recvfrom"
            | "recvmsg"
            | "recvmmsg"
            | "sendto"
            | "sendmsg"
            | "sendmmsg"
            | "accept"
            | "accept4"
            | "connect"
            | "epoll_wait"
            | "epoll_pwait"
            | "epoll_pwait2"
            | "fsync"
            | "fdatasync"
            | "flock"
            | "fcntl"
            | "ioctl"
            | "fstat"
            | "lseek"
            | "close"
            | "getdents64"
            | "fallocate"
            | "ftruncate"
            | "sync_file_range"
            | "copy_file_range"
            | "sendfile"
            | "splice"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::CapturedMemory;

    #[test]
    fn arguments_that_make_no_sense_are_no_answer() {
        let process = Process::open(std::process::id() as i32).unwrap();
        let memory = CapturedMemory::default();
        for number in 0..500 {
            let mut call = BlockedCall::from_registers(number, [u64::MAX; 6]);
            call.look_up(&process, &memory);
            assert_eq!(call.time_limit_ms, None, "{call:?}");
            assert_eq!(call.descriptor, None, "{call:?}");
            let things = call.waits_for.iter();
            assert!(
                things
                    .map(|a| &a.thing)
                    .all(|t| matches!(t, Thing::Memory { .. } | Thing::Child(_))),
                "{call:?}"
            );
        }
    }

    #[test]
    fn the_descriptors_of_a_poll_and_of_a_select() {
        let process = Process::open(std::process::id() as i32).unwrap();
        let (reader, _writer) = std::io::pipe().unwrap();
        use std::os::fd::AsRawFd;
        let fd = reader.as_raw_fd() as u64;
        let mut memory = CapturedMemory::default();
        let mut polled = (fd as u32).to_le_bytes().to_vec();
        polled.extend([1, 0, 0, 0]);
        polled.extend((-1i32).to_le_bytes());
        polled.extend([1, 0, 0, 0]);
        memory.add(Avma(0x1000), polled);
        let mut set = vec![0; 128];
        set[fd as usize / 8] |= 1 << (fd % 8);
        memory.add(Avma(0x2000), set);
        let set_size = 1024;
        for (number, arguments) in [
            (libc::SYS_poll, [0x1000, 2, 500, 0, 0, 0]),
            (libc::SYS_pselect6, [set_size, 0x2000, 0, 0x2000, 0, 0]),
            (libc::SYS_read, [fd, 0, 0, 0, 0, 0]),
        ] {
            let mut call = BlockedCall::from_registers(number, arguments);
            call.look_up(&process, &memory);
            let found: Vec<_> = call.waits_for.iter().map(|a| a.descriptor).collect();
            assert_eq!(found, [Some(fd)], "{call:?}");
            assert!(
                matches!(call.waits_for[0].thing, Thing::Pipe { .. }),
                "{call:?}"
            );
            assert_eq!(
                call.time_limit_ms,
                (number == libc::SYS_poll).then_some(500)
            );
        }
    }
}
