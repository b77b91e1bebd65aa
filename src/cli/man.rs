//! The manual page: the commands and options as clap has them, and what no `--help` says.

use std::io::{self, Write};

use clap::{Arg, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use super::exit::{Command as Of, MEANINGS, Meaning, meanings_to};

/// When this version was made, as `CHANGELOG.md` has it.
const DATE: &str = "2026-11-25";

/// A piece of a section.
enum Piece {
    /// A paragraph.
    Text(&'static str),
    /// Something, and what is to be said of it.
    Item(&'static str, &'static str),
    /// What it is for, and what to type.
    Example(&'static str, &'static str),
}
use Piece::{Example, Item, Text};

const BEFORE: &[(&str, &[Piece])] = &[(
    "VERDICTS",
    &[
        Item(
            "SAFE",
            "Something is pending, and every check passed at this instruction.",
        ),
        Item(
            "RISKY",
            "A check warns. The output names it, and the --allow that accepts it.",
        ),
        Item("UNSAFE", "A check failed, or could not be decided."),
        Item(
            "POINTLESS",
            "An interrupt would do nothing now. Another line says what a cancel and a terminate would meet.",
        ),
    ],
)];

const AFTER: &[(&str, &[Piece])] = &[
    (
        "ENVIRONMENT",
        &[
            Item(
                "DEBUGINFOD_URLS",
                "Where debug files may be fetched from, by debuginfod-find(1), if that is installed. Without it nothing is fetched.",
            ),
            Item(
                "PG_COLOR",
                "When to use colours, where --color does not say: always, auto (on a terminal) or never.",
            ),
            Item(
                "PG_COLORS",
                "The colours of messages, as for PostgreSQL's own tools: error=01;31:warning=01;35:note=01;36:locus=01.",
            ),
            Item(
                "NO_COLOR",
                "Where it is set, a terminal gets no colours, unless --color or PG_COLOR says always. TERM=dumb does the same.",
            ),
            Item(
                "COLUMNS",
                "How wide the terminal is to be taken for. A pipe has no width: each thing that is said is one line there.",
            ),
            Item(
                "PGHOST, PGPORT, PGDATABASE, PGUSER, PGPASSWORD",
                "For report --dsn, where the connection string does not name the like. No other variable of libpq's is read, nor is ~/.pgpass.",
            ),
            Item(
                "SUDO_USER",
                "Where root runs it, the records in the system log name this user, too.",
            ),
            Item(
                "KUBERNETES_SERVICE_HOST",
                "Where it is set, as in a pod, a hint about permissions speaks of kubectl.",
            ),
        ],
    ),
    (
        "FILES",
        &[
            Item(
                "/dev/log, /run/systemd/journal/dev-log",
                "The system log, in which interrupt leaves a record before the signal, before it steps in, and of the outcome.",
            ),
            Item(
                "/usr/lib/debug",
                "Debug files. They are not needed, and used where they are.",
            ),
        ],
    ),
    (
        "SECURITY",
        &[
            Text(
                "pgpoke needs what a debugger needs, and no more: root, or the server's own user where Yama (kernel.yama.ptrace_scope) does not forbid it. It is not made to be set-user-ID or to have file capabilities: whoever may run it then could look into every process of the machine. In a container, root without CAP_SYS_PTRACE is the wrong user, and the server's own is the right one.",
            ),
            Text(
                "inspect changes nothing in the backend. interrupt makes it run ProcessInterrupts(), the function that CHECK_FOR_INTERRUPTS() runs. No code is written into the backend, no breakpoint is set, and a pgpoke that is killed at any instruction leaves a backend that goes on. The postmaster and auxiliary processes are refused always.",
            ),
            Text(
                "What it prints may show a statement, and so its data. A process's memory, files and names are taken for hostile: they are bounded, and made fit for a terminal. Debug files and debuginfod servers are the operator's choice, and are trusted to name things.",
            ),
        ],
    ),
    (
        "EXAMPLES",
        &[
            Example(
                "Why does it not obey?",
                "sudo -u postgres pgpoke inspect 12345",
            ),
            Example(
                "Cancel its statement, and step in if the signal is ignored:",
                "sudo -u postgres pgpoke interrupt --cancel 12345",
            ),
            Example(
                "What would a terminate come to? Nothing is sent, and nobody is asked:",
                "sudo -u postgres pgpoke interrupt --terminate --dry-run 12345",
            ),
            Example(
                "Is it a loop, or does it come along? For the bug report:",
                "sudo -u postgres pgpoke inspect --samples 20 --stack 12345",
            ),
            Example(
                "In a container, as the server's user there:",
                "docker exec -u postgres CONTAINER pgpoke inspect 12345",
            ),
            Example("What has been done here?", "journalctl -t pgpoke"),
        ],
    ),
    (
        "SEE ALSO",
        &[Text(
            "capabilities(7), debuginfod-find(1), eu-stack(1), gdb(1), proc(5), psql(1), ptrace(2), strace(1)",
        )],
    ),
];

/// The page, all commands on it.
pub(super) fn page(mut command: Command) -> io::Result<String> {
    command.build();
    let commands: Vec<Command> = command
        .get_subcommands()
        .filter(|c| !c.is_hide_set() && c.get_name() != "help")
        .map(|c| without_options_of(&command, c))
        .collect();
    let man = Man::new(command.clone()).date(DATE).manual("PostgreSQL");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    let mut synopsis = section("SYNOPSIS");
    for (n, command) in commands.iter().enumerate() {
        if n > 0 {
            synopsis.control("br", []);
        }
        synopsis.text([bold("pgpoke "), roman(usage(command))]);
    }
    synopsis.to_writer(&mut page)?;
    man.render_description_section(&mut page)?;
    section("COMMANDS").to_writer(&mut page)?;
    for command in &commands {
        write_command(&mut page, command)?;
    }
    man.render_options_section(&mut page)?;
    write_sections(&mut page, BEFORE)?;
    exit_status().to_writer(&mut page)?;
    write_sections(&mut page, AFTER)?;
    let page = String::from_utf8_lossy(&page);
    Ok(ascii(&without_idle_breaks(&page)))
}

/// An empty line between two breaks, and the second of them, do nothing (`mandoc -Tlint`).
fn without_idle_breaks(page: &str) -> String {
    let mut lines: Vec<&str> = page.lines().filter(|l| !l.is_empty()).collect();
    lines.dedup_by(|next, line| next == line && *line == ".br");
    lines.join("\n") + "\n"
}

/// What troff reads is bytes; other characters have names there (groff_char(7)).
fn ascii(page: &str) -> String {
    page.chars()
        .map(|c| match c.is_ascii() {
            true => c.to_string(),
            false => format!("\\[u{:04X}]", u32::from(c)),
        })
        .collect()
}

fn section(name: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", [name]);
    roff
}

/// Those that every command has are told of once.
fn without_options_of(all: &Command, command: &Command) -> Command {
    let common: Vec<_> = all.get_arguments().map(Arg::get_id).collect();
    command.clone().mut_args(|a| {
        let hide = a.is_hide_set() || common.contains(&a.get_id());
        a.hide(hide)
    })
}

/// How it is called, without the program's name.
fn usage(command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim().trim_start_matches("Usage:").trim();
    let usage = usage.trim_start_matches("pgpoke").trim();
    match command.get_arguments().all(Arg::is_hide_set) {
        true => usage.replace(" [OPTIONS]", ""),
        false => usage.to_owned(),
    }
}

/// One of the commands, with its options.
fn write_command(page: &mut Vec<u8>, command: &Command) -> io::Result<()> {
    let mut head = Roff::new();
    head.control("SS", [&*format!("pgpoke {}", usage(command))]);
    let about = command.get_long_about().or(command.get_about());
    let about = about.map(ToString::to_string).unwrap_or_default();
    for (n, paragraph) in about.split("\n\n").enumerate() {
        if n > 0 {
            head.control("PP", []);
        }
        head.text([roman(paragraph.replace('\n', " "))]);
    }
    head.to_writer(page)?;
    if command.get_arguments().all(Arg::is_hide_set) {
        return Ok(());
    }
    let mut options = Vec::new();
    Man::new(command.clone()).render_options_section(&mut options)?;
    // The heading is ours.
    let options = String::from_utf8_lossy(&options);
    for line in options.lines().filter(|l| !l.starts_with(".SH")) {
        writeln!(page, "{line}")?;
    }
    Ok(())
}

fn exit_status() -> Roff {
    let mut roff = section("EXIT STATUS");
    roff.text([roman(
        "First of inspect and interrupt, then of the others; what a script should do for each is in exit-codes.md.",
    )]);
    for Meaning {
        exit,
        inspect,
        interrupt,
        ..
    } in MEANINGS
    {
        roff.control("TP", []);
        roff.text([bold(exit.code().to_string())]);
        roff.text([
            italic("inspect"),
            roman(format!(": {inspect}; ")),
            italic("interrupt"),
            roman(format!(": {interrupt}")),
        ]);
    }
    for (command, name) in Of::OTHERS {
        let ends: Vec<String> = meanings_to(command)
            .iter()
            .map(|(exit, texts)| format!("{}: {}", exit.code(), texts.join(", ")))
            .collect();
        roff.control("TP", []);
        roff.text([italic(name)]);
        roff.text([roman(ends.join("; "))]);
    }
    roff
}

fn write_sections(page: &mut Vec<u8>, sections: &[(&str, &[Piece])]) -> io::Result<()> {
    for (name, pieces) in sections {
        let mut roff = section(name);
        for (n, piece) in pieces.iter().enumerate() {
            write_piece(&mut roff, piece, n == 0);
        }
        roff.to_writer(page)?;
    }
    Ok(())
}

fn write_piece(roff: &mut Roff, piece: &Piece, first: bool) {
    match piece {
        Text(text) => {
            if !first {
                roff.control("PP", []);
            }
            roff.text([roman(*text)]);
        }
        Item(name, text) => {
            roff.control("TP", []);
            roff.text([bold(*name)]);
            roff.text([roman(*text)]);
        }
        Example(what, command) => {
            roff.control("TP", []);
            roff.text([roman(*what)]);
            roff.text([bold(*command)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::CommandFactory;

    use super::*;

    fn read(path: &str) -> String {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
    }

    /// The cells of the table's row for this exit code.
    fn row(page: &str, code: u8) -> Vec<String> {
        let start = format!("| {code} |");
        let row = page.lines().find(|l| l.starts_with(&start));
        let row = row.unwrap_or_else(|| panic!("no row for exit code {code}"));
        row.split('|').map(|cell| cell.trim().to_owned()).collect()
    }

    #[test]
    fn its_date_is_that_of_the_version() {
        let head = format!("\n## {}, {DATE}\n", env!("CARGO_PKG_VERSION"));
        assert!(read("CHANGELOG.md").contains(&head), "no {head:?}");
    }

    #[test]
    fn the_table_in_the_readme_says_the_same() {
        let readme = read("README.md");
        for m in MEANINGS {
            let row = row(&readme, m.exit.code());
            assert_eq!(row[2..4], [m.inspect, m.interrupt], "{m:?}");
        }
    }

    /// The code of pgpoke, without that of its tests.
    fn sources(directory: &Path, texts: &mut Vec<String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, texts);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap();
                texts.push(code.to_owned());
            }
        }
    }

    #[test]
    fn each_variable_that_is_read_is_on_the_page() {
        let page = page(super::super::Cli::command()).unwrap();
        let environment = page.split("\n.SH ").find(|s| s.starts_with("ENVIRONMENT"));
        let environment = environment.expect("the section").replace("\\fB", "");
        let mut texts = Vec::new();
        sources(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("src"),
            &mut texts,
        );
        let mut read = Vec::new();
        for text in &texts {
            for call in text.split("env::var").skip(1) {
                let call = call.trim_start_matches("_os");
                let name = call.strip_prefix("(\"").and_then(|c| c.split('"').next());
                read.push(name.unwrap_or_else(|| panic!("which variable? {:.60}", call)));
            }
        }
        // By the crate that colours.
        read.extend(["NO_COLOR", "TERM"]);
        assert!(read.len() > 9, "{read:?}");
        for name in read {
            let words = environment.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            assert!(words.into_iter().any(|word| word == name), "{name}");
        }
    }

    #[test]
    fn every_command_and_option_is_on_the_page() {
        let page = page(super::super::Cli::command()).unwrap();
        let page = page.replace("\\-", "-").replace("\\fR", "");
        let mut command = super::super::Cli::command();
        command.build();
        let shown = |c: &&clap::Command| c.get_name() != "help" && !c.is_hide_set();
        for sub in command.get_subcommands().filter(shown) {
            assert!(page.contains(&format!(".SS \"pgpoke {}", sub.get_name())));
            for arg in sub.get_arguments().filter(|a| !a.is_hide_set()) {
                let long = arg.get_long();
                assert!(
                    long.is_none_or(|l| page.contains(&format!("--{l}"))),
                    "{arg}"
                );
            }
        }
        for name in [
            "EXIT STATUS",
            "ENVIRONMENT",
            "SECURITY",
            "EXAMPLES",
            "SEE ALSO",
        ] {
            // Quotes are needed around blanks only.
            let [quoted, plain] = [format!("\n.SH \"{name}\"\n"), format!("\n.SH {name}\n")];
            assert!(page.contains(&quoted) || page.contains(&plain), "{name}");
        }
    }
}
