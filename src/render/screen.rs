//! What text is written on: how wide it is, and whether it shows colours.
//!
//! Every command's text is put together on a [`Page`], which wraps labelled lines at words, paints by meaning, and never
//! breaks a command that is there to be copied. Nothing in here looks at a backend.
//!
//! **Width**: the terminal's, or `COLUMNS` where that is set, as in psql's `\pset columns`. What is no terminal is a pipe or
//! a file, has no width whatever `COLUMNS` says, and gets one line for each thing that is said, to be searched by line.
//!
//! **Colour**: `--color` decides, then `PG_COLOR`, as for PostgreSQL's own tools. Without either, or with `auto`, a terminal
//! gets colours, unless `NO_COLOR` (<https://no-color.org>) or `TERM=dumb` says otherwise; a pipe gets none.

use std::io::IsTerminal;
use std::os::fd::{AsFd, BorrowedFd};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use textwrap::{Options, WordSeparator, WordSplitter, WrapAlgorithm};

/// How wide the column of labels is; text begins one further.
pub const LABEL: usize = 12;
/// Below that, wrapping would leave a word a line.
const NARROWEST: usize = 40;
/// A space at which no line is broken.
const UNBROKEN: char = '\u{a0}';

/// When to use colours: `--color`, `PG_COLOR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// In pipes, too
    Always,
    /// On a terminal
    Auto,
    /// Nowhere
    Never,
}

impl ColorChoice {
    /// What holds for all of pgpoke: `asked`, or else `PG_COLOR`, whose other values mean `never`
    /// (`pg_logging_init()` in src/common/logging.c).
    pub fn of(asked: Option<Self>) -> Self {
        let env = std::env::var_os("PG_COLOR").filter(|value| !value.is_empty());
        asked.unwrap_or_else(|| match env {
            None => ColorChoice::Auto,
            Some(value) => value
                .to_str()
                .and_then(|v| Self::from_str(v, false).ok())
                .unwrap_or(ColorChoice::Never),
        })
    }

    /// From now on, [`Screen::stdout`] and [`Screen::stderr`] go by it.
    pub fn hold(self) {
        match self {
            ColorChoice::Always => anstream::ColorChoice::Always,
            ColorChoice::Auto => anstream::ColorChoice::Auto,
            ColorChoice::Never => anstream::ColorChoice::Never,
        }
        .write_global();
    }
}

/// What a colour says. Text says the same without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// All is well.
    Good,
    /// Think before going on.
    Warn,
    /// Do not go on.
    Bad,
    /// Of less interest than the rest.
    Dim,
    /// Of more interest than the rest.
    Strong,
}

impl Tone {
    fn style(self) -> Style {
        let bold = |colour: AnsiColor| colour.on_default().bold();
        match self {
            Tone::Good => bold(AnsiColor::Green),
            Tone::Warn => bold(AnsiColor::Yellow),
            Tone::Bad => bold(AnsiColor::Red),
            Tone::Dim => Style::new().dimmed(),
            Tone::Strong => Style::new().bold(),
        }
    }
}

/// What text is written on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    /// Its width; none where nothing is to be wrapped or cut.
    pub columns: Option<usize>,
    /// Whether it shows colours.
    pub colour: bool,
}

impl Screen {
    /// A pipe or a file.
    pub const PLAIN: Screen = Screen {
        columns: None,
        colour: false,
    };

    /// Standard output.
    pub fn stdout() -> Self {
        let stream = std::io::stdout();
        Screen {
            columns: columns(stream.as_fd()),
            colour: AutoStream::choice(&stream) != anstream::ColorChoice::Never,
        }
    }

    /// Standard error.
    pub fn stderr() -> Self {
        let stream = std::io::stderr();
        Screen {
            columns: columns(stream.as_fd()),
            colour: AutoStream::choice(&stream) != anstream::ColorChoice::Never,
        }
    }

    /// `text` in the colour of its meaning.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        let style = tone.style();
        match self.colour && !text.is_empty() {
            true => format!("{style}{text}{style:#}"),
            false => text.to_owned(),
        }
    }

    /// `text` behind `start`, wrapped at words; further lines begin `indent` columns in. A word that is longer than the line
    /// stays whole.
    pub fn wrap(&self, start: &str, indent: usize, text: &str) -> String {
        let rest = " ".repeat(indent);
        let lines = match self.columns {
            None => vec![format!("{start}{text}").into()],
            Some(columns) => textwrap::wrap(
                text,
                Options::new(columns.max(NARROWEST))
                    .initial_indent(start)
                    .subsequent_indent(&rest)
                    .break_words(false)
                    .word_separator(WordSeparator::AsciiSpace)
                    .word_splitter(WordSplitter::NoHyphenation)
                    .wrap_algorithm(WrapAlgorithm::FirstFit),
            ),
        };
        let mut wrapped = String::new();
        for line in lines {
            wrapped.push_str(&line.replace(UNBROKEN, " "));
            wrapped.push('\n');
        }
        wrapped
    }
}

/// `COLUMNS` or the kernel's window size (TIOCGWINSZ in ioctl_tty(2)), for a terminal.
fn columns(stream: BorrowedFd<'_>) -> Option<usize> {
    if !stream.is_terminal() {
        return None;
    }
    let env = std::env::var("COLUMNS")
        .ok()
        .and_then(|value| value.parse().ok());
    env.filter(|n| *n > 0)
        .or_else(|| terminal_size::terminal_size_of(stream).map(|(width, _)| width.0.into()))
}

/// Text that a line is never broken in: a command within a sentence.
pub fn unbroken(text: &str) -> String {
    text.replace(' ', &UNBROKEN.to_string())
}

/// The lines of one command's text.
#[derive(Debug, Clone)]
pub struct Page {
    screen: Screen,
    text: String,
}

impl Page {
    /// An empty one.
    pub fn new(screen: Screen) -> Self {
        Page {
            screen,
            text: String::new(),
        }
    }

    /// `text` in the colour of its meaning, to be put into a line.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        self.screen.paint(tone, text)
    }

    /// One labelled line, wrapped under itself; without a label it goes on where the one before began.
    pub fn line(&mut self, label: &str, text: &str) {
        let padding = " ".repeat((LABEL + 1).saturating_sub(label.len()));
        let label = self.paint(Tone::Strong, label);
        self.hang(&format!("{label}{padding}"), LABEL + 1, text);
    }

    /// One of several things under a label.
    pub fn item(&mut self, text: &str) {
        let start = format!("{:LABEL$} - ", "");
        self.hang(&start, LABEL + 3, text);
    }

    /// Something to type, on a line of its own and in one piece, for it to be copied.
    pub fn command(&mut self, command: &str) {
        let command = self.paint(Tone::Strong, command);
        self.text
            .push_str(&format!("{:width$}{command}\n", "", width = LABEL + 3));
    }

    /// `text` behind `start`; further lines begin `indent` columns in.
    pub fn hang(&mut self, start: &str, indent: usize, text: &str) {
        let wrapped = self.screen.wrap(start, indent, text);
        self.text.push_str(&wrapped);
    }

    /// Lines that are as they are to be.
    pub fn lines(&mut self, lines: &str) {
        self.text.push_str(lines);
    }

    /// How many lines it has.
    pub fn height(&self) -> usize {
        self.text.lines().count()
    }

    /// What was put together.
    pub fn into_text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NARROW: Screen = Screen {
        columns: Some(40),
        colour: false,
    };

    #[test]
    fn a_labelled_line_is_wrapped_under_itself() {
        let mut page = Page::new(NARROW);
        page.line("verdict", "SAFE – a cancel is pending, and all is well");
        page.item("an item that needs more than one line");
        page.line("", "to be continued");
        assert_eq!(
            page.into_text(),
            "verdict      SAFE – a cancel is pending,\n\
             \x20            and all is well\n\
             \x20            - an item that needs more\n\
             \x20              than one line\n\
             \x20            to be continued\n"
        );
    }

    #[test]
    fn what_is_no_terminal_gets_one_line() {
        let mut page = Page::new(Screen::PLAIN);
        page.line("cause", &"word ".repeat(100));
        assert_eq!(page.into_text().lines().count(), 1);
    }

    #[test]
    fn a_command_and_a_long_word_stay_whole() {
        let command = "pgpoke interrupt --allow threads --allow server-known 12345";
        let path = "/var/lib/postgresql/a-directory/of/a/long/name";
        let mut page = Page::new(NARROW);
        page.command(command);
        page.line("next", &format!("{} or {path} or not", unbroken(command)));
        let text = page.into_text();
        assert_eq!(text.matches(command).count(), 2, "{text}");
        assert!(text.lines().any(|l| l.trim() == path), "{text}");
        assert!(!text.contains(UNBROKEN));
    }

    #[test]
    fn a_character_may_be_two_columns_wide_and_a_colour_is_none() {
        let mut page = Page::new(Screen {
            colour: true,
            ..NARROW
        });
        let strong = page.paint(Tone::Strong, "bold");
        page.line("database", &format!("{} {strong} 末", "末".repeat(9)));
        let text = page.into_text();
        let plain = anstream::adapter::strip_str(&text).to_string();
        assert_eq!(text.matches("\x1b[1m").count(), 2, "{text:?}");
        assert_eq!(
            plain,
            format!("{:13}{} bold 末\n", "database", "末".repeat(9))
        );
        let wide = NARROW.wrap("", 0, &format!("{} 末", "末".repeat(19)));
        assert_eq!(wide.lines().count(), 2, "{wide}");
    }

    #[test]
    fn nothing_is_painted_without_colour() {
        assert_eq!(NARROW.paint(Tone::Bad, "no"), "no");
        let colour = Screen {
            colour: true,
            ..NARROW
        };
        assert_eq!(colour.paint(Tone::Bad, "no"), "\x1b[1m\x1b[31mno\x1b[0m");
        assert_eq!(colour.paint(Tone::Bad, ""), "");
    }

    #[test]
    fn the_option_counts_before_the_environment() {
        assert_eq!(
            ColorChoice::of(Some(ColorChoice::Always)),
            ColorChoice::Always
        );
    }
}
