//! The process that the promises are tried on: pgpoke itself, started once more.
#![allow(unsafe_code)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::arch;
use super::{Broken, holds};
use crate::address::Avma;
use crate::memory::{Memory, ProcessMemory};
use crate::process::Process;
use crate::process::syscalls::name_of;
use crate::sys;
use crate::tracee::CARRIER;

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Computes, and looks whether anything of its own has changed.
    Computes,
    /// Waits in read(2), which a handled signal does not end.
    Reads,
    /// Waits in poll(2), which a handled signal ends.
    Polls,
}

/// Carriers that its handler got.
pub static HANDLED: AtomicU64 = AtomicU64::new(0);
/// Numbered signals that came in their order, and those that did not.
pub static IN_ORDER: AtomicU64 = AtomicU64::new(0);
pub static OUT_OF_ORDER: AtomicU64 = AtomicU64::new(0);
/// Waits that ended with EINTR, and those that ended with a byte.
pub static INTERRUPTED: AtomicU64 = AtomicU64::new(0);
pub static BYTES: AtomicU64 = AtomicU64::new(0);

extern "C" fn handle(signal: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // Its own variables only, and atomically: what a handler may do.
    if signal == CARRIER {
        HANDLED.fetch_add(1, Ordering::Relaxed);
        return;
    }
    // SAFETY: the kernel passes a siginfo to a handler that was installed with SA_SIGINFO.
    let number = unsafe { (*info).si_value().sival_ptr as u64 };
    let next = IN_ORDER.load(Ordering::Relaxed);
    let counter = match number == next {
        true => &IN_ORDER,
        false => &OUT_OF_ORDER,
    };
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The real-time signal that carries numbers.
pub fn numbered() -> i32 {
    libc::SIGRTMIN()
}

fn catch(signal: i32) -> Result<(), Errno> {
    // SAFETY: the structure is plain data, for which zeroes are a value; the handler does what a handler may.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigaction(signal, &action, std::ptr::null_mut())
    };
    Errno::result(result).map(drop)
}

/// An address that is at the same distance from every other of this program, wherever that is loaded.
fn anchor() -> usize {
    catch as *const () as usize
}

/// Is the victim; ends when it is killed, or its standard input ends.
pub fn be(kind: Kind) -> anyhow::Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    // SAFETY: takes numbers only. Where Yama is, the processes that are to die tracing this one are not its parents;
    // where it is not, this fails, and is not needed.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY, 0, 0, 0) };
    catch(CARRIER)?;
    catch(numbered())?;
    arch::prepare();
    let mut out = io::stdout();
    writeln!(out, "{:#x}", anchor())?;
    out.flush()?;
    let input = io::stdin();
    loop {
        match kind {
            // SAFETY: nothing else is to be done here.
            Kind::Computes => unsafe { arch::compute() },
            Kind::Polls => {
                let mut there = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
                match poll(&mut there, PollTimeout::NONE) {
                    Err(Errno::EINTR) => {
                        INTERRUPTED.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    other => other?,
                };
            }
            Kind::Reads => {}
        }
        match nix::unistd::read(input.as_fd(), &mut [0]) {
            Err(Errno::EINTR) => &INTERRUPTED,
            Ok(0) => return Ok(()),
            Ok(_) => &BYTES,
            Err(e) => return Err(e.into()),
        }
        .fetch_add(1, Ordering::Relaxed);
    }
}

/// A victim, as the one sees it who tries something on it. Killed when dropped.
pub struct Victim {
    child: Child,
    /// It, pinned.
    pub process: Process,
    memory: ProcessMemory,
    anchor: usize,
}

impl Victim {
    /// Starts one, and waits until it does what it is to do.
    pub fn start(kind: Kind) -> Result<Self, Broken> {
        let name = clap::ValueEnum::to_possible_value(&kind);
        let name = name.map(|n| n.get_name().to_owned()).unwrap_or_default();
        let mut child = itself()
            .args(["--victim", &name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out.take(64)).read_line(&mut line)?;
        }
        let pid = child.id() as i32;
        let process = Process::open(pid).map_err(io::Error::other);
        let anchor = line.trim().strip_prefix("0x");
        let anchor = anchor.and_then(|hex| usize::from_str_radix(hex, 16).ok());
        let (process, anchor) = match (process, anchor) {
            (Ok(process), Some(anchor)) => (process, anchor),
            (process, _) => {
                let _ = child.kill().and_then(|()| child.wait());
                process?;
                return Err("the process to try it on did not come up".into());
            }
        };
        let victim = Victim {
            child,
            process,
            memory: ProcessMemory::open(pid),
            anchor,
        };
        match kind {
            Kind::Computes => victim.goes_on()?,
            Kind::Reads => victim.waits_in(&["read"])?,
            Kind::Polls => victim.waits_in(&["poll", "ppoll"])?,
        }
        Ok(victim)
    }

    /// How its memory is read.
    pub fn memory(&self) -> &dyn Memory {
        &self.memory
    }

    /// Where it has what we have at `ours`.
    pub fn place(&self, ours: *const ()) -> Avma {
        let distance = (ours as usize).wrapping_sub(anchor());
        Avma(self.anchor.wrapping_add(distance) as u64)
    }

    /// One of its counters.
    pub fn count(&self, ours: &'static AtomicU64) -> Result<u64, Broken> {
        let at = self.place((&raw const *ours).cast());
        Ok(self.memory.read_u64(at)?)
    }

    /// Waits until a counter is at `value`.
    pub fn reaches(&self, ours: &'static AtomicU64, value: u64, what: &str) -> Result<(), Broken> {
        let mut last = 0;
        let reached = wait_for(|| {
            last = self.count(ours)?;
            Ok(last >= value)
        })?;
        holds(reached, || format!("{what}: {last} instead of {value}"))
    }

    /// It computes, untraced and unstopped, and found nothing changed.
    pub fn goes_on(&self) -> Result<(), Broken> {
        let rounds = self.count(&arch::ROUNDS)?;
        let goes_on = wait_for(|| {
            let status = self.process.status()?;
            let free = status.tracerpid == 0 && !matches!(self.process.state(), Some('T' | 't'));
            Ok(free && self.count(&arch::ROUNDS)? > rounds + 1)
        })?;
        holds(goes_on, || {
            format!("it does not go on: state {:?}", self.process.state())
        })?;
        let damage = self.count(&arch::DAMAGE)?;
        holds(damage == 0, || {
            format!("its registers or its red zone changed {damage} times")
        })
    }

    /// It waits in one of these system calls.
    pub fn waits_in(&self, calls: &[&str]) -> Result<(), Broken> {
        let waits = wait_for(|| {
            let there = self.process.blocked_syscall();
            Ok(there.is_some_and(|c| calls.contains(&&*name_of(c.number))))
        })?;
        holds(waits, || {
            format!("it does not wait in {}(2)", calls.join("(2) or "))
        })
    }

    /// It is in this state (proc(5)).
    pub fn comes_into_state(&self, state: char) -> Result<(), Broken> {
        let is = wait_for(|| Ok(self.process.state() == Some(state)))?;
        holds(is, || {
            format!("state {:?} instead of {state}", self.process.state())
        })
    }

    /// Sends it the `n`th numbered signal.
    pub fn send_number(&self, n: usize) -> Result<(), Broken> {
        let pid = self.process.pid();
        Ok(sys::queue_to_thread(pid, pid, numbered(), n)?)
    }

    /// Sends it a byte.
    pub fn send_byte(&self) -> Result<(), Broken> {
        let mut pipe = self.child.stdin.as_ref().ok_or("no pipe")?;
        Ok(pipe.write_all(b"x")?)
    }

    /// How it ends.
    pub fn end(&mut self) -> Result<ExitStatus, Broken> {
        let mut status = None;
        wait_for(|| {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        status.ok_or_else(|| "it did not end".into())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Where a sibling of ours that is this very program, and is there to be tried on, has what we have at `ours`. Nothing else
/// is ever taken for a victim: whoever may start pgpoke may not so make any process call anything.
pub fn place_in(process: &Process, ours: *const ()) -> Result<Avma, Broken> {
    let me = Process::open(std::process::id() as i32).map_err(io::Error::other)?;
    let file = |p: &Process| p.executable()?.metadata().map(|m| (m.dev(), m.ino()));
    let start = |p: &Process| -> io::Result<u64> {
        let path = std::fs::read_link(format!("/proc/{}/exe", p.pid()))?;
        let maps = p.maps()?;
        let first = maps.iter().find(|m| m.path == path);
        first
            .map(|m| m.start.0)
            .ok_or(io::ErrorKind::NotFound.into())
    };
    let caught = process.status()?.sigcgt & 1 << (CARRIER - 1) != 0;
    let victim = process
        .command_line()?
        .split(|b| *b == 0)
        .any(|a| a == b"--victim");
    let sibling = process.stat()?.ppid == me.stat()?.ppid && file(process)? == file(&me)?;
    holds(caught && victim && sibling, || {
        "that process is not one to be tried on".into()
    })?;
    let place = ours as u64 - start(&me)? + start(process)?;
    Ok(Avma(place))
}

/// This very program.
pub fn itself() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg("selftest");
    command
}

/// Polls until it is so. False if it is not in the time that anything here may take.
pub fn wait_for(mut so: impl FnMut() -> Result<bool, Broken>) -> Result<bool, Broken> {
    const LIMIT: Duration = Duration::from_secs(2);
    let start = Instant::now();
    while start.elapsed() < LIMIT {
        if so()? {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(false)
}
