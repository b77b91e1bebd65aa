//! Text fits the terminal, and colours are there where they are wanted and nowhere else. The texts themselves are kept in
//! `tests/snapshots`.

use std::process::Command;

use crate::harness::{How, Run, pgpoke, server_with_testext};

/// pgpoke with nothing about screens in its environment but what is given.
fn command(args: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = pgpoke();
    for name in [
        "PG_COLOR",
        "PG_COLORS",
        "NO_COLOR",
        "CLICOLOR",
        "CLICOLOR_FORCE",
        "COLUMNS",
        "CI",
    ] {
        command.env_remove(name);
    }
    command.env("TERM", "xterm-256color");
    command.envs(environment.iter().copied()).args(args);
    command
}

fn is_coloured(run: &Run) -> bool {
    run.stdout.contains('\x1b')
}

#[test]
fn text_fits_the_terminal_and_is_coloured_there_and_nowhere_else() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    stuck.prove_stuck(How::Cancel);
    let pid = stuck.pid().to_string();
    let inspect = ["inspect", &pid];
    let with = |options: &[&'static str]| [&inspect[..], options].concat();
    let on_a_screen = |options: &[&'static str], environment: &[(&str, &str)]| {
        Run::on_a_screen(command(&with(options), environment), 80)
    };
    let in_a_pipe = |options: &[&'static str], environment: &[(&str, &str)]| {
        Run::of(command(&with(options), environment))
    };

    let plain = on_a_screen(&["--color", "never"], &[]);
    plain.assert_code(0);
    let typed = format!("pgpoke interrupt {pid}");
    for line in plain.stdout.lines() {
        let whole = line.split_whitespace().count() == 1 || line.trim() == typed;
        assert!(line.chars().count() <= 80 || whole, "{line:?} in {plain}");
    }
    assert!(plain.stdout.lines().any(|l| l.trim() == typed), "{plain}");
    assert!(plain.stdout.lines().count() < 24, "{plain}");
    let wide = on_a_screen(&["--color", "never"], &[("COLUMNS", "200")]);
    assert!(
        wide.stdout.lines().count() < plain.stdout.lines().count(),
        "{wide}\n{plain}"
    );

    for (options, environment, coloured) in [
        (&[][..], &[][..], true),
        (&[], &[("NO_COLOR", "1")], false),
        (&[], &[("NO_COLOR", "")], true),
        (&[], &[("TERM", "dumb")], false),
        (&[], &[("PG_COLOR", "never")], false),
        (&[], &[("PG_COLOR", "always"), ("NO_COLOR", "1")], true),
        (&["--color", "always"], &[("PG_COLOR", "never")], true),
    ] {
        let run = on_a_screen(options, environment);
        assert_eq!(is_coloured(&run), coloured, "{environment:?}: {run}");
    }
    for (options, environment, coloured) in [
        (&[][..], &[][..], false),
        (&[], &[("COLUMNS", "80")], false),
        (&[], &[("PG_COLOR", "auto")], false),
        (&[], &[("PG_COLOR", "always")], true),
        (&["--color=always"], &[("NO_COLOR", "1")], true),
    ] {
        let run = in_a_pipe(options, environment);
        assert_eq!(is_coloured(&run), coloured, "{environment:?}: {run}");
        let backend = run.stdout.lines().any(|l| l.contains("data directory"));
        assert!(backend, "a line was wrapped in a pipe: {run}");
    }
}

/// Without a server: who is wrong is told so in the manner of PostgreSQL's own tools.
#[test]
fn messages_are_in_the_colours_of_the_servers_own_tools() {
    let wrong = |environment: &[(&str, &str)]| {
        let run = Run::of(command(&["inspect", "nonsense"], environment));
        run.assert_code(2);
        run
    };
    let plain = wrong(&[]);
    assert!(
        plain.stderr.starts_with("pgpoke: error: invalid value"),
        "{plain}"
    );
    plain.assert_says("pgpoke: hint: For more information, try '--help'.");
    assert!(!plain.stderr.contains('\x1b'), "{plain}");
    let coloured = wrong(&[("PG_COLOR", "always")]);
    let start = "\x1b[01mpgpoke: \x1b[0m\x1b[01;31merror: \x1b[0minvalid value";
    assert!(coloured.stderr.starts_with(start), "{coloured}");
    let own = wrong(&[("PG_COLOR", "always"), ("PG_COLORS", "error=35")]);
    assert!(
        own.stderr.starts_with("pgpoke: \x1b[35merror: \x1b[0m"),
        "{own}"
    );
}
