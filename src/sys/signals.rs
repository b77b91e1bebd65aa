//! Signals that are held back from this process.
#![allow(unsafe_code)]

use std::time::Duration;

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
