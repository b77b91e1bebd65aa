//! `pgpoke inspect --watch`

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use super::exit::{End, Exit};
use super::open::{Failure, open, stop_budget};
use super::patience::Patience;
use super::{InspectArgs, say};
use crate::assess::samples::Tree;
use crate::assess::{Request, assess};
use crate::postgres::prove_with;
use crate::render::screen::{Page, Screen};
use crate::render::{samples, text};
use crate::snapshot::looks::{STOP_LIMIT, take};
use crate::snapshot::{Plan, Snapshot};
use crate::sys::HeldSignals;

/// So many looks, with such a pause before each, and then all is shown anew: once a second.
const LOOKS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// The most lines of the tree: it shall fit on a screen.
const LINES: usize = 40;

/// So many callers are shown of the innermost function that all looks have met; --stack shows all.
const CALLERS: usize = 5;

/// How a terminal's screen is cleared, and its cursor sent to the top (ECMA-48, ED and CUP).
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Runs the command.
pub fn run(args: &InspectArgs, pid: i32) -> anyhow::Result<Exit> {
    Ok(match watch(args, pid) {
        Ok(end) => end.exit(),
        Err(failure) => failure.tell(pid, false, None),
    })
}

fn watch(args: &InspectArgs, pid: i32) -> Result<End, Failure> {
    let patience = |more| Patience::with(pid, more, false, None);
    let looking = patience(Duration::ZERO);
    let process = open(pid)?;
    let backend = prove_with(&process, args.debug_files.find())
        .map_err(|e| Failure::not_a_backend(e, &process))?;
    let plan = Plan::new(&backend);
    let budget = stop_budget(&process, args.max_stop, false, None);
    drop(looking);
    // Ctrl-C is how it ends.
    let signals = HeldSignals::hold(
        &[libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT],
        &[],
    );
    let mut seen = Seen {
        tree: Tree::default(),
        looks: 0,
        stopped_ms: 0.0,
        since: Instant::now(),
    };
    loop {
        let _looking = patience((STOP_LIMIT + PAUSE) * LOOKS);
        let before = (Instant::now(), process.cpu_time());
        let mut last = None;
        for _ in 0..LOOKS {
            if signals.take(PAUSE).is_some() {
                return Ok(End::NoLongerWatched);
            }
            let look = match take(&plan, true, &budget) {
                // As between two looks.
                Err(e) if e.asked_to_end() => return Ok(End::NoLongerWatched),
                look => look.map_err(|e| Failure::look(e, &process))?,
            };
            seen.add(&look);
            if look.process.would_not_stop {
                say(&text::inspection(
                    &look,
                    &assess(&look, Request::Pending, &[]),
                    args.stack,
                    Screen::stdout(),
                ));
                return Ok(End::WouldNotStop);
            }
            last = Some(look);
        }
        let used = process
            .cpu_time()
            .zip(before.1)
            .map(|(now, before)| now.saturating_sub(before));
        let share = used.map(|used| used.as_secs_f64() / before.0.elapsed().as_secs_f64() * 100.0);
        if let Some(look) = last
            && !say(&seen.show(&look, share, args.stack))
        {
            return Ok(End::NoLongerWatched);
        }
    }
}

/// What all looks have shown so far.
struct Seen {
    tree: Tree,
    looks: usize,
    stopped_ms: f64,
    since: Instant,
}

impl Seen {
    fn add(&mut self, look: &Snapshot) {
        self.looks += 1;
        self.stopped_ms += look.stopped_ms;
        if let Some(places) = look.as_sample().places {
            self.tree.add(&places);
        }
    }

    fn show(&self, last: &Snapshot, share: Option<f64>, whole: bool) -> String {
        let clear = if std::io::stdout().is_terminal() {
            CLEAR
        } else {
            ""
        };
        let screen = Screen::stdout();
        let mut page = Page::new(screen);
        page.lines(clear);
        let judged = assess(last, Request::Pending, &[]);
        page.lines(&text::judgement(last, &judged, screen));
        let share = share.map_or_else(String::new, |s| {
            format!(", {:.0} % CPU in the last second", s.min(100.0))
        });
        let followed = match self.tree.looks() {
            all if all == self.looks => String::new(),
            some => format!(", {some} of them with a stack that is known to its root"),
        };
        page.line(
            "looks",
            &format!(
                "{} in {} s{followed}; it stood still for {:.2} ms in all{share}",
                self.looks,
                self.since.elapsed().as_secs(),
                self.stopped_ms,
            ),
        );
        // What every backend has on its stack would leave no room for where it is.
        let branches = self.tree.branches();
        let callers = if whole { usize::MAX } else { CALLERS };
        let crown = samples::crown(&branches, callers);
        page.lines(&samples::tree(crown, self.tree.looks(), LINES));
        if clear.is_empty() {
            page.lines("\n");
        }
        page.into_text()
    }
}
