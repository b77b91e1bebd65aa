//! Text for a person who has been up all night: the verdict first, one sentence why, then the evidence, then what to type
//! next.
//!
//! Labels, verdicts and codes stay as they are, to be searched for; the sentences may get better. On a terminal of 80
//! columns and 24 lines, the verdict and what to type next are on the screen together.

mod inspection;
mod outcome;
mod outside;
pub(super) mod parts;
mod stack;

pub use inspection::{inspection, judgement};
pub use outcome::{intervention, question};
pub use outside::from_outside;
pub use parts::why;
pub use stack::{backtrace, thread_backtrace};

/// Text of another process's, made fit for a terminal: control characters would be obeyed by it.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' | '\r' => ' ',
            c if crate::process::is_obeyed(c) => '\u{fffd}',
            c => c,
        })
        .collect()
}

fn shorten(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_process_wrote_cannot_drive_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\nc"), "a\u{fffd}[2Jb c");
        assert_eq!(shorten("äöü", 2), "äö…");
        assert_eq!(shorten("äöü", 3), "äöü");
    }
}
