//! Clocks that end something, and the place in the queue for a processor.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;

use super::process::is_ready;

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
