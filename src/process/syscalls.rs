//! System calls by name, and what their arguments point to.

use serde::{Deserialize, Serialize};
use syscalls::Sysno;

use super::Process;

/// A system call that a process is blocked in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockedCall {
    /// Its number.
    pub number: i64,
    /// Its name, or `syscall N` where the number is unknown.
    pub name: String,
    /// The descriptor it works on, where it works on one.
    pub descriptor: Option<u64>,
    /// What that descriptor points to, as the kernel words it.
    pub target: Option<String>,
}

impl BlockedCall {
    /// The call that `process` is blocked in at this moment.
    pub fn of(process: &Process) -> Option<Self> {
        let (number, args) = process.blocked_syscall()?;
        let mut call = Self::from_registers(number, args[0]);
        call.find_target(process);
        Some(call)
    }

    /// The call `number` with this first argument, as a stopped thread's registers show it. Asks no one.
    pub fn from_registers(number: i64, first_argument: u64) -> Self {
        let sysno = usize::try_from(number).ok().and_then(Sysno::new);
        BlockedCall {
            number,
            name: name_of(number),
            descriptor: sysno.filter(takes_descriptor).map(|_| first_argument),
            target: None,
        }
    }

    /// Looks up what the descriptor points to.
    pub fn find_target(&mut self, process: &Process) {
        self.target = self.descriptor.and_then(|fd| process.descriptor(fd));
    }
}

/// The name of system call `number`.
pub fn name_of(number: i64) -> String {
    usize::try_from(number)
        .ok()
        .and_then(Sysno::new)
        .map_or_else(|| format!("syscall {number}"), |s| s.name().to_owned())
}

/// Whether the first argument of the call is a descriptor, for the calls that a backend can block in.
fn takes_descriptor(call: &Sysno) -> bool {
    use Sysno::*;
    matches!(
        call,
        read | write
            | readv
            | writev
            | pread64
            | pwrite64
            | preadv
            | pwritev
            | recvfrom
            | recvmsg
            | sendto
            | sendmsg
            | accept
            | accept4
            | connect
            | epoll_wait
            | epoll_pwait
            | fsync
            | fdatasync
            | flock
            | fcntl
            | ioctl
            | fallocate
            | ftruncate
            | sync_file_range
            | sendfile
    )
}
