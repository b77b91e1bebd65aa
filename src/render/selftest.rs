//! What `pgpoke selftest` says.

use std::time::Duration;

use super::screen::{Screen, Tone};
use super::text::printable;

/// Where text begins, behind `ok` or `FAILED`.
const INDENT: usize = 8;

/// One promise of the kernel's, and why it does not hold where it does not.
pub fn promise(promise: &str, took: Duration, broken: Option<&str>, screen: Screen) -> String {
    let start = |tone, word: &str| {
        let padding = " ".repeat(INDENT - word.len());
        format!("{}{padding}", screen.paint(tone, word))
    };
    match broken {
        None => {
            let ms = took.as_secs_f64() * 1e3;
            let text = format!("{promise} ({ms:.1} ms)");
            screen.wrap(&start(Tone::Good, "ok"), INDENT, &text)
        }
        Some(why) => {
            let why = screen.wrap(&" ".repeat(INDENT), INDENT, &printable(why));
            screen.wrap(&start(Tone::Bad, "FAILED"), INDENT, promise) + &why
        }
    }
}

/// The end, where all was well.
pub fn all_kept(all: usize, seconds: f64, screen: Screen) -> String {
    let text =
        format!("all {all} promises hold here: what pgpoke does rests on them ({seconds:.2} s)");
    screen.wrap("", 0, &text)
}
