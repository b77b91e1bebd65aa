//! The system calls that no package wraps as we need them. All `unsafe` code of pgpoke is in this file, but for
//! selftest's and one instruction in `arch`.
//!
//! nix has ptrace, but cannot name real-time signals: its `waitpid` turns a stop by one into EINVAL after the
//! status was consumed (nix-rust/nix#495), and its `cont` cannot pass one on. It also lacks the signal-mask
//! requests, and register access on musl. So the handful of requests that are needed goes to the kernel directly.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;

/// The registers of a stopped thread as the kernel hands them out.
pub type RawRegisters = libc::user_regs_struct;

/// How a stopped thread is let go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Until the next signal or event.
    Cont,
    /// Also until the next system call entry or exit.
    Syscall,
}

fn ptrace(request: libc::c_uint, tid: i32, addr: usize, data: usize) -> Result<i64, Errno> {
    // SAFETY: ptrace(2) touches our memory only through `data`, and only for the requests below that pass a
    // pointer; each of those passes one to a live local of the size that the request writes or reads.
    let result =
        unsafe { libc::syscall(libc::SYS_ptrace, request as usize, tid as usize, addr, data) };
    Errno::result(result)
}

/// PTRACE_SEIZE with `options`. The thread is not stopped.
pub fn seize(tid: i32, options: i32) -> Result<(), Errno> {
    ptrace(libc::PTRACE_SEIZE as _, tid, 0, options as usize).map(drop)
}

/// Whether ptrace(2) is denied to us as such. Asked about ourselves, whom we do not trace, the kernel says ESRCH.
pub fn ptrace_is_denied() -> bool {
    event_message(std::process::id() as i32) != Err(Errno::ESRCH)
}

/// PTRACE_INTERRUPT: asks a seized thread to stop. It does so when it next could take a signal.
pub fn interrupt(tid: i32) -> Result<(), Errno> {
    ptrace(libc::PTRACE_INTERRUPT as _, tid, 0, 0).map(drop)
}

/// Lets a stopped thread go on, delivering `signal` (0 for none) if it is in a signal-delivery stop.
pub fn resume(tid: i32, how: Resume, signal: i32) -> Result<(), Errno> {
    let request = match how {
        Resume::Cont => libc::PTRACE_CONT,
        Resume::Syscall => libc::PTRACE_SYSCALL,
    };
    ptrace(request as _, tid, 0, signal as usize).map(drop)
}

/// PTRACE_LISTEN: leaves a thread in its group-stop, but lets it be woken by SIGCONT.
pub fn listen(tid: i32) -> Result<(), Errno> {
    ptrace(libc::PTRACE_LISTEN as _, tid, 0, 0).map(drop)
}

/// Lets a stopped thread go for good, delivering `signal` (0 for none).
pub fn detach(tid: i32, signal: i32) -> Result<(), Errno> {
    ptrace(libc::PTRACE_DETACH as _, tid, 0, signal as usize).map(drop)
}

/// PTRACE_GETEVENTMSG: for the exit event, the exit status as wait(2) codes it.
pub fn event_message(tid: i32) -> Result<u64, Errno> {
    let mut message: libc::c_ulong = 0;
    ptrace(
        libc::PTRACE_GETEVENTMSG as _,
        tid,
        0,
        &raw mut message as usize,
    )?;
    Ok(message)
}

/// What is known of the signal in a signal-delivery stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignalInfo {
    /// The signal's number.
    pub signal: i32,
    /// How it was sent (`SI_USER`, `SI_TKILL`, `SI_QUEUE`, …).
    pub code: i32,
    /// The value that came with it, where it was queued with one.
    pub value: usize,
}

/// PTRACE_GETSIGINFO.
pub fn signal_info(tid: i32) -> Result<SignalInfo, Errno> {
    // SAFETY: siginfo_t is plain data, for which zeroes are a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    ptrace(libc::PTRACE_GETSIGINFO as _, tid, 0, &raw mut info as usize)?;
    Ok(SignalInfo {
        signal: info.si_signo,
        code: info.si_code,
        // SAFETY: si_value() reads bytes of the union that are initialised, whichever member was written.
        value: unsafe { info.si_value().sival_ptr as usize },
    })
}

/// The general registers of a stopped thread (PTRACE_GETREGSET, NT_PRSTATUS).
pub fn registers(tid: i32) -> Result<RawRegisters, Errno> {
    // SAFETY: the structure is plain numbers, for which zeroes are a value.
    let mut regs: RawRegisters = unsafe { std::mem::zeroed() };
    let mut iov = libc::iovec {
        iov_base: (&raw mut regs).cast(),
        iov_len: size_of::<RawRegisters>(),
    };
    get_register_set(tid, NT_PRSTATUS, &mut iov)?;
    // The kernel fills less for a 32-bit thread; such registers must not be taken for 64-bit ones.
    if iov.iov_len == size_of::<RawRegisters>() {
        Ok(regs)
    } else {
        Err(Errno::EINVAL)
    }
}

/// A register set of a stopped thread as core files have it, `kind` being the type of its note (`<elf.h>`); says how
/// many bytes of `buf` it fills. The kernel cuts off what does not fit.
pub fn register_set(tid: i32, kind: u32, buf: &mut [u8]) -> Result<usize, Errno> {
    let mut iov = libc::iovec {
        iov_base: buf.as_mut_ptr().cast(),
        iov_len: buf.len(),
    };
    get_register_set(tid, kind as usize, &mut iov)?;
    Ok(iov.iov_len)
}

/// PTRACE_GETREGSET into live memory that `iov` describes; afterwards it has the length that was filled.
fn get_register_set(tid: i32, kind: usize, iov: &mut libc::iovec) -> Result<(), Errno> {
    let iov = &raw mut *iov as usize;
    ptrace(libc::PTRACE_GETREGSET as _, tid, kind, iov).map(drop)
}

/// Sets the general registers of a stopped thread (PTRACE_SETREGSET, NT_PRSTATUS).
pub fn set_registers(tid: i32, regs: &RawRegisters) -> Result<(), Errno> {
    let mut iov = libc::iovec {
        iov_base: (regs as *const RawRegisters).cast_mut().cast(),
        iov_len: size_of::<RawRegisters>(),
    };
    ptrace(
        libc::PTRACE_SETREGSET as _,
        tid,
        NT_PRSTATUS,
        &raw mut iov as usize,
    )
    .map(drop)
}

/// `<elf.h>`: the register set that holds the general registers.
const NT_PRSTATUS: usize = 1;

/// The signal mask of a stopped thread, bit `n - 1` for signal `n` (PTRACE_GETSIGMASK).
pub fn signal_mask(tid: i32) -> Result<u64, Errno> {
    let mut mask = 0u64;
    ptrace(
        PTRACE_GETSIGMASK,
        tid,
        size_of::<u64>(),
        &raw mut mask as usize,
    )?;
    Ok(mask)
}

/// Sets the signal mask of a stopped thread (PTRACE_SETSIGMASK).
pub fn set_signal_mask(tid: i32, mask: u64) -> Result<(), Errno> {
    ptrace(
        PTRACE_SETSIGMASK,
        tid,
        size_of::<u64>(),
        &raw const mask as usize,
    )
    .map(drop)
}

/// `<linux/ptrace.h>`; the same on every architecture.
const PTRACE_GETSIGMASK: libc::c_uint = 0x420a;
const PTRACE_SETSIGMASK: libc::c_uint = 0x420b;

/// Writes one word of a stopped thread's memory (PTRACE_POKEDATA).
pub fn poke(tid: i32, addr: u64, word: u64) -> Result<(), Errno> {
    ptrace(
        libc::PTRACE_POKEDATA as _,
        tid,
        addr as usize,
        word as usize,
    )
    .map(drop)
}

/// The status of one thread that we trace, if it has a new one. Never waits.
///
/// Through libc and not nix, so that the status of a stop by a real-time signal is not lost.
pub fn wait_now(tid: i32) -> Result<Option<i32>, Errno> {
    let mut status = 0;
    // SAFETY: waitpid(2) writes one int through the pointer, to a live local.
    let got = unsafe { libc::waitpid(tid, &mut status, libc::__WALL | libc::WNOHANG) };
    Ok((Errno::result(got)? != 0).then_some(status))
}

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

/// Signals of our own that are held back while a backend is traced.
#[derive(Debug)]
pub struct HeldSignals {
    takes: libc::sigset_t,
    child: libc::sigset_t,
    before: libc::sigset_t,
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: plain data filled by the calls; the pointers are to a live local.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, *signal);
        }
        set
    }
}

impl HeldSignals {
    /// Blocks the signals in `takes` and `defers` in this thread, and those that it starts, until dropped. The
    /// former can be taken meanwhile, the latter take effect afterwards.
    ///
    /// SIGCHLD gets its default disposition: were it ignored (inherited so), the kernel would not tell us of stops.
    pub fn hold(takes: &[i32], defers: &[i32]) -> Self {
        let blocked = set_of(&[takes, defers].concat());
        // SAFETY: sigset_t is plain data; the pointers are to live locals.
        unsafe {
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            libc::pthread_sigmask(libc::SIG_BLOCK, &blocked, &mut before);
            HeldSignals {
                takes: set_of(takes),
                child: set_of(&[libc::SIGCHLD]),
                before,
            }
        }
    }

    /// Takes one of the signals, waiting at most `limit` for it.
    pub fn take(&self, limit: Duration) -> Option<i32> {
        Self::take_of(&self.takes, limit)
    }

    /// Takes a SIGCHLD, waiting at most `limit` for it. The others stay for later.
    pub fn take_child(&self, limit: Duration) -> Option<i32> {
        Self::take_of(&self.child, limit)
    }

    fn take_of(set: &libc::sigset_t, limit: Duration) -> Option<i32> {
        let timeout = libc::timespec {
            tv_sec: limit.as_secs().min(i32::MAX as u64) as _,
            tv_nsec: limit.subsec_nanos() as _,
        };
        // SAFETY: pointers to live data; a null siginfo means that none is wanted.
        let signal = unsafe { libc::sigtimedwait(set, std::ptr::null_mut(), &timeout) };
        (signal > 0).then_some(signal)
    }
}

impl Drop for HeldSignals {
    fn drop(&mut self) {
        // SAFETY: the set was filled by pthread_sigmask.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, std::ptr::null_mut());
        }
    }
}

/// A timer that another thread can wait for by reading from it.
#[derive(Debug)]
pub struct Timer(OwnedFd);

impl Timer {
    /// timerfd_create(2) on the monotonic clock.
    pub fn new() -> Result<Self, Errno> {
        // SAFETY: no memory is passed; a descriptor that comes back is new and ours alone.
        unsafe {
            let fd = libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC);
            Ok(Timer(OwnedFd::from_raw_fd(Errno::result(fd)?)))
        }
    }

    /// Sets it to go off once, `after` from now; zero turns it off.
    pub fn set(&self, after: Duration) {
        let spec = once_after(after);
        // SAFETY: the kernel reads one itimerspec, a live local.
        unsafe {
            libc::timerfd_settime(self.0.as_raw_fd(), 0, &spec, std::ptr::null_mut());
        }
    }

    /// Waits until it has gone off, and was not set again since.
    pub fn wait(&self) {
        while !is_ready(self.0.as_fd(), libc::POLLIN, -1) {}
    }

    /// Whether it has gone off, and was not set again since.
    pub fn went_off(&self) -> bool {
        is_ready(self.0.as_fd(), libc::POLLIN, 0)
    }
}

/// A timer that kills this process when it goes off, even one whose threads are all stopped, or hang in the kernel.
#[derive(Debug)]
pub struct DeadlyTimer(libc::timer_t);

// SAFETY: a timer belongs to the process; any thread may set it, and the kernel keeps them apart.
unsafe impl Send for DeadlyTimer {}
// SAFETY: as above.
unsafe impl Sync for DeadlyTimer {}

impl DeadlyTimer {
    /// timer_create(2) on the monotonic clock, with SIGKILL.
    pub fn new() -> Result<Self, Errno> {
        // SAFETY: plain data, for which zeroes are a value; the pointers are to live locals.
        unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_SIGNAL;
            event.sigev_signo = libc::SIGKILL;
            let mut timer: libc::timer_t = std::mem::zeroed();
            let result = libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer);
            Errno::result(result)?;
            Ok(DeadlyTimer(timer))
        }
    }

    /// Sets it to go off once, `after` from now; zero turns it off.
    pub fn set(&self, after: Duration) {
        let spec = once_after(after);
        // SAFETY: the kernel reads one itimerspec, a live local; the timer lives as long as this value.
        unsafe {
            libc::timer_settime(self.0, 0, &spec, std::ptr::null_mut());
        }
    }
}

impl Drop for DeadlyTimer {
    fn drop(&mut self) {
        // SAFETY: the timer is ours and is not used after this.
        unsafe {
            libc::timer_delete(self.0);
        }
    }
}

/// Once, so long from now.
fn once_after(after: Duration) -> libc::itimerspec {
    libc::itimerspec {
        it_interval: libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: libc::timespec {
            tv_sec: after.as_secs() as _,
            tv_nsec: after.subsec_nanos() as _,
        },
    }
}

/// Whether something can be done with a descriptor, within so many milliseconds (-1: for ever).
fn is_ready(fd: BorrowedFd<'_>, events: libc::c_short, limit: i32) -> bool {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: the kernel writes to one pollfd, a live local.
    let ready = unsafe { libc::poll(&mut poll, 1, limit) };
    ready == 1 && poll.revents & events != 0
}

/// The first place in the queue for a processor, for this thread and those that it starts, until dropped: whoever holds a
/// backend must not have to wait for its turn. Where that is not permitted, nothing changes.
///
/// By a real-time policy: a nice value counts only among the processes of one session (sched(7), autogroup). The kernel
/// leaves the others a share even then.
#[derive(Debug)]
pub struct Priority {
    before: Option<(i32, i32)>,
}

impl Priority {
    /// sched_setscheduler(2), which is about one thread.
    pub fn raise() -> Self {
        const LOWEST_OF_REAL_TIME: i32 = 1;
        // SAFETY: the structure is one number, for which zero is a value; the pointer is to a live local.
        let before = unsafe {
            let policy = libc::sched_getscheduler(0);
            let mut parameter: libc::sched_param = std::mem::zeroed();
            let known = policy >= 0 && libc::sched_getparam(0, &mut parameter) == 0;
            known.then_some((policy, parameter.sched_priority))
        };
        let raise = |_: &(i32, i32)| set_policy(libc::SCHED_RR, LOWEST_OF_REAL_TIME);
        Priority {
            before: before
                .filter(|(policy, _)| *policy == libc::SCHED_OTHER)
                .filter(raise),
        }
    }
}

fn set_policy(policy: i32, priority: i32) -> bool {
    // SAFETY: the structure is one number, for which zero is a value; the kernel reads it from a live local.
    unsafe {
        let mut parameter: libc::sched_param = std::mem::zeroed();
        parameter.sched_priority = priority;
        libc::sched_setscheduler(0, policy, &parameter) == 0
    }
}

impl Drop for Priority {
    fn drop(&mut self) {
        if let Some((policy, priority)) = self.before {
            set_policy(policy, priority);
        }
    }
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
