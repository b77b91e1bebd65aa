//! ptrace(2), and waiting for who is traced.
//!
//! nix has ptrace, but cannot name real-time signals: its `waitpid` turns a stop by one into EINVAL after the
//! status was consumed (nix-rust/nix#495), and its `cont` cannot pass one on. It also lacks the signal-mask
//! requests, and register access on musl. So the handful of requests that are needed goes to the kernel directly.
#![allow(unsafe_code)]

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
