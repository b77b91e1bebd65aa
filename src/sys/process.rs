//! Processes: pidfds, signals to them, and how this one acts and ends.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// Queues `signal` to one thread with a value to know it by (rt_tgsigqueueinfo(2)).
///
/// A thread-directed signal has a place of its own in the thread's pending set: it cannot merge with the same
/// signal sent to the process at the same moment.
pub fn queue_to_thread(pid: i32, tid: i32, signal: i32, value: usize) -> Result<(), Errno> {
    /// The fields of siginfo_t that a queued signal has (`<asm-generic/siginfo.h>`, `_rt`), padded to its size.
    #[repr(C)]
    struct Queued {
        signal: i32,
        errno: i32,
        code: i32,
        pad: i32,
        pid: i32,
        uid: u32,
        value: usize,
        rest: [u8; 96],
    }
    const { assert!(size_of::<Queued>() == size_of::<libc::siginfo_t>()) };
    let info = Queued {
        signal,
        errno: 0,
        code: libc::SI_QUEUE,
        pad: 0,
        pid: std::process::id() as i32,
        uid: nix::unistd::getuid().as_raw(),
        value,
        rest: [0; 96],
    };
    // SAFETY: the kernel reads a siginfo_t through the pointer, which is to a live local of that size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_tgsigqueueinfo,
            pid,
            tid,
            signal,
            &raw const info,
        )
    };
    Errno::result(result).map(drop)
}

/// pidfd_open(2).
pub fn pidfd_open(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: no memory is passed; a descriptor that comes back is new and ours alone.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        Ok(OwnedFd::from_raw_fd(Errno::result(fd)? as i32))
    }
}

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom {
    /// The process.
    Process,
    /// All processes of the group that it leads.
    Group,
}

/// pidfd_send_signal(2), as kill(2) would send it. To a group since Linux 6.9.
pub fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: i32, whom: Whom) -> Result<(), Errno> {
    /// `PIDFD_SIGNAL_PROCESS_GROUP` (`<linux/pidfd.h>`)
    const PROCESS_GROUP: libc::c_uint = 1 << 2;
    let flags = match whom {
        Whom::Process => 0,
        Whom::Group => PROCESS_GROUP,
    };
    // SAFETY: a null siginfo asks the kernel to make one as kill(2) does; no memory is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            flags,
        )
    };
    Errno::result(result).map(drop)
}

/// What wait(2) told the parent of the process behind a pidfd. Known since Linux 6.15, once the parent has waited for it
/// (`PIDFD_GET_INFO` with `PIDFD_INFO_EXIT`, `<linux/pidfd.h>`; pidfs_exit(), fs/pidfs.c).
pub fn pidfd_wait_status(pidfd: BorrowedFd<'_>) -> Option<i32> {
    /// `struct pidfd_info` as it was in 6.13, which later kernels take.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    const INFO_EXIT: u64 = 1 << 3;
    /// `_IOWR(PIDFS_IOCTL_MAGIC, 11, struct pidfd_info)`
    const GET_INFO: libc::Ioctl = libc::_IOWR::<Info>(0xff, 11);
    let mut info = Info {
        mask: INFO_EXIT,
        ..Info::default()
    };
    // SAFETY: the kernel reads and writes no more than the size that the request names, of a struct that outlives the call.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, &raw mut info) };
    (result == 0 && info.mask & INFO_EXIT != 0).then_some(info.exit_code)
}

/// kill(2). Signal 0 only asks whether the process is there.
pub fn kill(pid: i32, signal: i32, whom: Whom) -> Result<(), Errno> {
    // To kill(2) 0 is our own group, and -1, of which PID 1 would make the group, are all processes.
    if pid <= 0 || (whom == Whom::Group && pid == 1) {
        return Err(Errno::ESRCH);
    }
    let target = match whom {
        Whom::Process => pid,
        Whom::Group => -pid,
    };
    // SAFETY: no memory is passed.
    Errno::result(unsafe { libc::kill(target, signal) }).map(drop)
}

/// Gives this thread, and no other of ours, the effective user and group of somebody else: setresuid(2) itself is about one
/// thread; what libc makes of it is about all.
pub fn act_as(user: u32, group: u32) -> Result<(), Errno> {
    const AS_BEFORE: libc::c_long = -1;
    let (user, group) = (libc::c_long::from(user), libc::c_long::from(group));
    // SAFETY: no memory is passed.
    unsafe {
        Errno::result(libc::syscall(
            libc::SYS_setresgid,
            AS_BEFORE,
            group,
            AS_BEFORE,
        ))?;
        Errno::result(libc::syscall(
            libc::SYS_setresuid,
            AS_BEFORE,
            user,
            AS_BEFORE,
        ))?;
    }
    Ok(())
}

/// Whether something can be done with a descriptor, within so many milliseconds (-1: for ever).
pub(super) fn is_ready(fd: BorrowedFd<'_>, events: libc::c_short, limit: i32) -> bool {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: the kernel writes to one pollfd, a live local.
    let ready = unsafe { libc::poll(&mut poll, 1, limit) };
    ready == 1 && poll.revents & events != 0
}

/// Writes to a descriptor what it takes without waiting for anybody to read. Nothing is allocated.
pub fn write_what_it_takes(fd: BorrowedFd<'_>, mut bytes: &[u8]) {
    /// So much a pipe that is ready takes at once (PIPE_BUF).
    const CHUNK: usize = 4096;
    while !bytes.is_empty() && is_ready(fd, libc::POLLOUT, 0) {
        let chunk = &bytes[..bytes.len().min(CHUNK)];
        // SAFETY: the kernel reads as many bytes as the slice has.
        let written = unsafe { libc::write(fd.as_raw_fd(), chunk.as_ptr().cast(), chunk.len()) };
        match usize::try_from(written) {
            Ok(written @ 1..) => bytes = &bytes[written..],
            _ => return,
        }
    }
}

/// Ends this process at once, in the middle of whatever any thread is doing: no destructor runs, no buffer is
/// flushed. The kernel then lets go of everything that we trace.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) does not return and touches no memory.
    unsafe { libc::_exit(code) }
}
