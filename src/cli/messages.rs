//! What goes to stderr, in the manner of PostgreSQL's own tools (`pg_log_generic_v()` in src/common/logging.c): one line
//! each, with the program's name and what kind of message it is, in the colours of `PG_COLORS`.
//!
//! Texts follow PostgreSQL's error style guide (doc/src/sgml/sources.sgml): an error, a warning and what is going on begin
//! small and end without a full stop; a detail and a hint are sentences. They are not wrapped, as those tools' are not.

use std::io::Write;

use crate::render::screen::Screen;
use crate::render::text::printable;

/// Says why a command fails, what that rests on, and what to do about it.
pub fn error(message: &str, detail: Option<&str>, hint: Option<&str>) {
    print(&error_text(message, detail, hint));
}

/// The same as text, for where it cannot be put together any more when it has to be said.
pub fn error_text(message: &str, detail: Option<&str>, hint: Option<&str>) -> String {
    let colours = Colours::of_stderr();
    let mut text = colours.message(Kind::Error, message);
    text.extend(detail.map(|d| colours.message(Kind::Detail, d)));
    text.extend(hint.map(|h| colours.message(Kind::Hint, h)));
    text
}

/// Says what the operator should know beside the answer.
pub fn warnings(warnings: &[String]) {
    let colours = Colours::of_stderr();
    for warning in warnings {
        print(&colours.message(Kind::Warning, warning));
    }
}

/// Says what is going on.
pub fn progress(what: &str) {
    print(&Colours::of_stderr().message(Kind::Progress, what));
}

/// Says what is wrong with the command line, in the same manner as everything else.
pub fn usage(error: &clap::Error) {
    print(&usage_text(
        &Colours::of_stderr(),
        &error.render().to_string(),
    ));
}

/// clap's own message in paragraphs: what is wrong, tips, the usage, where to find more.
fn usage_text(colours: &Colours, said: &str) -> String {
    let flat = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut text = String::new();
    for paragraph in said.split("\n\n").map(flat).filter(|p| !p.is_empty()) {
        let (kind, said) = match paragraph.split_once(": ") {
            Some(("error", rest)) => (Kind::Error, rest.to_owned()),
            Some(("tip", rest)) => (Kind::Hint, rest.replace(" tip: ", "; ")),
            Some(("Usage", rest)) => (Kind::Detail, format!("The usage is: {rest}")),
            _ => (Kind::Hint, paragraph),
        };
        text.push_str(&colours.message(kind, &said));
    }
    text
}

fn print(text: &str) {
    // With nobody listening, there is nothing more to do.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Error,
    Warning,
    Detail,
    Hint,
    Progress,
}

/// Numbers for "select graphic rendition", such as `01;31`; none where nothing is coloured.
#[derive(Debug, Default, PartialEq, Eq)]
struct Colours {
    error: Option<String>,
    warning: Option<String>,
    note: Option<String>,
    locus: Option<String>,
}

impl Colours {
    const DEFAULT: &str = "error=01;31:warning=01;35:note=01;36:locus=01";

    fn of_stderr() -> Self {
        if !Screen::stderr().colour {
            return Colours::default();
        }
        let env = std::env::var("PG_COLORS");
        Self::parse(env.as_deref().unwrap_or(Self::DEFAULT))
    }

    /// What is not named is not coloured. What is no such number does not get to the terminal.
    fn parse(text: &str) -> Self {
        let mut colours = Colours::default();
        for (name, value) in text.split(':').filter_map(|part| part.split_once('=')) {
            let numbers = |c: char| c.is_ascii_digit() || c == ';';
            let value = value.chars().all(numbers).then(|| value.to_owned());
            match name {
                "error" => colours.error = value,
                "warning" => colours.warning = value,
                "note" => colours.note = value,
                "locus" => colours.locus = value,
                _ => {}
            }
        }
        colours
    }

    /// One line. What it names may have been named by anyone.
    fn message(&self, kind: Kind, text: &str) -> String {
        let (what, colour) = match kind {
            Kind::Error => ("error: ", &self.error),
            Kind::Warning => ("warning: ", &self.warning),
            Kind::Detail => ("detail: ", &self.note),
            Kind::Hint => ("hint: ", &self.note),
            Kind::Progress => ("", &None),
        };
        let program = paint(&self.locus, "pgpoke: ");
        let text = match kind {
            Kind::Detail | Kind::Hint => sentence(&printable(text)),
            _ => printable(text),
        };
        format!("{program}{}{text}\n", paint(colour, what))
    }
}

/// With a capital and a full stop. What begins with something to type begins small, and behind a colon, where what is to be
/// typed stands, a full stop would be typed, too.
fn sentence(text: &str) -> String {
    const TYPED: [&str; 2] = ["pgpoke", "setsebool"];
    let first = text.split(' ').next().unwrap_or_default();
    let mut chars = text.chars();
    let mut sentence = match chars.next() {
        Some(c) if !TYPED.contains(&first) && !first.contains(['_', '/', '(']) => {
            c.to_uppercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    };
    if !text.contains(": ") && !text.ends_with(['.', '?', '…', ':']) {
        sentence.push('.');
    }
    sentence
}

fn paint(colour: &Option<String>, text: &str) -> String {
    match colour {
        Some(numbers) => format!("\x1b[{numbers}m{text}\x1b[0m"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_look_like_those_of_the_servers_own_tools() {
        let plain = Colours::default();
        assert_eq!(
            plain.message(Kind::Error, "no process\nhas PID 7"),
            "pgpoke: error: no process has PID 7\n"
        );
        assert_eq!(
            plain.message(Kind::Progress, "waiting"),
            "pgpoke: waiting\n"
        );
        let coloured = Colours::parse(Colours::DEFAULT);
        assert_eq!(
            coloured.message(Kind::Hint, "Try it."),
            "\x1b[01mpgpoke: \x1b[0m\x1b[01;36mhint: \x1b[0mTry it.\n"
        );
    }

    #[test]
    fn a_detail_and_a_hint_are_sentences_and_commands_stay_as_they_are() {
        for (text, said) in [
            ("nothing was done", "Nothing was done."),
            ("pgpoke inspect 7 shows it", "pgpoke inspect 7 shows it."),
            (
                "run it as root: sudo pgpoke …",
                "Run it as root: sudo pgpoke …",
            ),
            (
                "/proc is mounted with hidepid",
                "/proc is mounted with hidepid.",
            ),
        ] {
            assert_eq!(sentence(text), said);
        }
    }

    #[test]
    fn a_wrong_command_line_is_answered_like_everything_else() {
        let said = "error: invalid value 'x' for '--color <WHEN>'\n  [possible values: always, never]\n\n  \
                    tip: a similar value exists: 'y'\n\nUsage: pgpoke inspect [OPTIONS] PID\n\n\
                    For more information, try '--help'.\n";
        assert_eq!(
            usage_text(&Colours::default(), said),
            "pgpoke: error: invalid value 'x' for '--color <WHEN>' [possible values: always, never]\n\
             pgpoke: hint: A similar value exists: 'y'\n\
             pgpoke: detail: The usage is: pgpoke inspect [OPTIONS] PID\n\
             pgpoke: hint: For more information, try '--help'.\n"
        );
    }

    #[test]
    fn colours_are_of_the_operators_choice_and_nothing_else_is() {
        let colours = Colours::parse("error=35:locus=\x1b[2J:nonsense:other=1");
        let only = Colours {
            error: Some("35".into()),
            ..Colours::default()
        };
        assert_eq!(colours, only);
        assert_eq!(Colours::parse(""), Colours::default());
    }
}
