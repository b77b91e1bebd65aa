//! How long looking into a process may take.
//!
//! What is read of a process is read as fast as that process lets it be: behind a page of its memory, or behind its
//! executable, there may be a file system that it serves itself, and that never answers. No deadline of ours reaches a
//! thread that waits in there, so another one keeps the time and ends pgpoke; the kernel lets go of whatever is held.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow};

use super::exit::End;
use super::open::Failure;
use crate::intervene::Outcome;
use crate::tracee::Words;

/// Long for reading and parsing what there is; with servers of debug files to be asked, that takes what it takes.
const LIMIT: Duration = Duration::from_secs(30);
const LIMIT_WITH_DOWNLOADS: Duration = Duration::from_secs(600);

/// Ends pgpoke if it is not dropped in time.
#[derive(Debug)]
pub struct Patience {
    _end: Sender<()>,
}

impl Patience {
    /// For looking into process `pid`, and for `more` than that. `outcome` is that of an intervention that has no time to
    /// begin.
    pub fn with(pid: i32, more: Duration, as_json: bool, outcome: Option<Outcome>) -> Self {
        Patience::framed(pid, more, |failure| {
            failure.last_words(pid, as_json, outcome)
        })
    }

    /// The same, where the last words are `words`.
    pub fn framed(pid: i32, more: Duration, words: impl FnOnce(Failure) -> Words) -> Self {
        let downloads = std::env::var_os("DEBUGINFOD_URLS").is_some_and(|urls| !urls.is_empty());
        let limit = more.saturating_add(match downloads {
            true => LIMIT_WITH_DOWNLOADS,
            false => LIMIT,
        });
        let words = words(failure(pid, limit));
        let (_end, ended) = channel();
        // Where no thread can be had, there is nobody to keep the time.
        let _ = spawn_without_signals(move || {
            if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                words.say_and_end()
            }
        });
        Patience { _end }
    }
}

/// Starts a thread that takes no signal: those that are held back while a backend is traced would end or suspend pgpoke
/// through it.
pub fn spawn_without_signals(
    act: impl FnOnce() + Send + 'static,
) -> std::io::Result<thread::JoinHandle<()>> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK);
    let thread = thread::Builder::new().stack_size(64 << 10).spawn(act);
    if let Ok(before) = before {
        let _ = before.thread_set_mask();
    }
    thread
}

fn failure(pid: i32, limit: Duration) -> Failure {
    Failure {
        end: End::NotLookedInto,
        message: format!(
            "process {pid} could not be looked into within {} s",
            limit.as_secs()
        ),
        detail: None,
        hint: Some(
            "its memory, or one of its files, may lie on a file system that does not answer".into(),
        ),
        outcome: None,
        told: None,
    }
}
