//! What `pgpoke interrupt` says while it climbs: a line for each rung, and on a terminal what it waits for.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::messages;
use super::patience::spawn_without_signals;
use crate::intervene::{Rung, Step};
use crate::render::ladder;
use crate::render::screen::Screen;

/// How often the line is written over.
const BEAT: Duration = Duration::from_millis(500);

/// What is over sooner is not worth a line that flickers.
const SOON: Duration = Duration::from_millis(300);

/// Tells of the rungs on stderr.
pub struct Progress {
    silent: bool,
    on_a_terminal: bool,
    live: Option<Live>,
}

impl Progress {
    /// Says nothing where JSON was asked for: it has all of this.
    pub fn new(as_json: bool) -> Self {
        Progress {
            silent: as_json,
            on_a_terminal: std::io::stderr().is_terminal(),
            live: None,
        }
    }

    /// A rung begins.
    pub fn begins(&mut self, rung: Rung, what: &str, limit: Option<Duration>) {
        // At a prompt there is somebody else at work on the terminal.
        if self.on_a_terminal && !self.silent && rung != Rung::Ask {
            self.live = Live::start(what.to_owned(), limit);
        }
    }

    /// A rung is over.
    pub fn ended(&mut self, step: &Step) {
        self.live = None;
        if !self.silent {
            messages::progress(&ladder::step(step));
        }
    }
}

/// A line that is written over until this is dropped. A thread of its own writes it: a terminal that was stopped
/// (Ctrl-S) must not keep anybody from letting a backend go.
struct Live {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Live {
    /// None where no thread can be had.
    fn start(what: String, limit: Option<Duration>) -> Option<Self> {
        let (end, ended) = channel();
        let start = Instant::now();
        let columns = Screen::stderr().columns;
        let thread = spawn_without_signals(move || {
            let mut pause = SOON;
            let mut shown = false;
            while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                let text = format!("pgpoke: {}", ladder::waiting(&what, start.elapsed(), limit));
                // What is wrapped cannot be written over.
                let most = columns.map_or(usize::MAX, |c| c.saturating_sub(1));
                write_over(&text.chars().take(most).collect::<String>());
                (pause, shown) = (BEAT, true);
            }
            if shown {
                write_over("");
            }
        });
        Some(Live {
            end: Some(end),
            thread: Some(thread.ok()?),
        })
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Replaces what stands on the line by `text`; nothing takes the line away.
fn write_over(text: &str) {
    // EL, erase to the end of the line (ECMA-48).
    let text = format!("\r{text}\u{1b}[K");
    let mut err = std::io::stderr();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}
