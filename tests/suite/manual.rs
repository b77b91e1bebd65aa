//! What pgpoke prints for others to read: the manual page, and completions, in the shells that they are for.

use std::process::Command;

use crate::harness::{Run, skip};

/// Whether there is such a program here.
fn there_is(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output();
    found.is_ok_and(|found| found.status.success())
}

macro_rules! needs {
    ($program:expr) => {
        if !there_is($program) {
            skip!("there is no {} here: run scripts/install-deps.sh", $program);
        }
    };
}

/// What pgpoke prints with these arguments, in a file.
fn printed(args: &[&str], name: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(name);
    let run = Run::pgpoke(args);
    run.assert_code(0);
    std::fs::write(&path, &run.stdout).expect("a file");
    let path = path.to_str().expect("a path").to_owned();
    (dir, path)
}

/// What a program says, about the file that is its last argument.
fn said(program: &str, args: &[&str], path: &str) -> Run {
    let mut command = Command::new(program);
    command.args(args).arg(path);
    command.env("LC_ALL", "C.UTF-8").env("MANWIDTH", "100");
    Run::of(command)
}

#[test]
fn the_manual_page_is_one_without_a_complaint() {
    needs!("man");
    needs!("groff");
    needs!("mandoc");
    let (_dir, path) = printed(&["man"], "pgpoke.1");
    let page = said("man", &["-l"], &path);
    page.assert_code(0);
    for text in [
        "pgpoke interrupt [OPTIONS] PID...\n",
        "--max-stop <DURATION> [default: 50ms]",
        "EXIT STATUS\n       First of inspect and interrupt",
        "ENVIRONMENT\n       DEBUGINFOD_URLS",
        "SECURITY\n       pgpoke needs",
        "EXAMPLES\n       Why does it",
    ] {
        page.assert_says(text);
    }
    assert!(!page.stdout.contains("--victim"), "{page}");
    let troff = said("groff", &["-ww", "-man", "-Tutf8"], &path);
    assert_eq!(troff.stderr, "", "{troff}");
    let mandoc = said("mandoc", &["-Tlint", "-W", "warning"], &path);
    assert_eq!(mandoc.stdout, "", "{mandoc}");
}

/// Each shell loads its file without a word, and knows our options after that.
#[test]
fn bash_completes() {
    let (_dir, path) = printed(&["completions", "bash"], "pgpoke");
    let script = r#"
        source "$1"
        COMP_WORDS=(pgpoke interrupt --dr) COMP_CWORD=2
        "$(complete -p pgpoke | sed 's/.*-F \([^ ]*\).*/\1/')" pgpoke --dr interrupt
        echo "${COMPREPLY[@]}"
    "#;
    let run = said("bash", &["--norc", "-c", script, "bash"], &path);
    assert_eq!((&*run.stdout, &*run.stderr), ("--dry-run\n", ""), "{run}");
}

#[test]
fn zsh_completes() {
    needs!("zsh");
    let (_dir, path) = printed(&["completions", "zsh"], "_pgpoke");
    // A terminal of its own, since zsh completes for a line that is being typed only.
    let script = r#"
        zmodload zsh/zpty
        zpty shell zsh -f -i
        zpty -w shell "PS1= ; fpath=(${1:h} \$fpath); autoload -Uz compinit; compinit -D -u; echo READY"
        zpty -r -m shell line '*READY*READY*'
        zpty -w -n shell $'pgpoke interrupt --dr\t'
        zpty -r -m shell line '*--dry-run*' && echo completed
        zpty -d shell
    "#;
    let run = said("zsh", &["-f", "-c", script, "zsh"], &path);
    run.assert_says("completed");
    assert_eq!(run.stderr, "", "{run}");
}

#[test]
fn fish_completes() {
    needs!("fish");
    let (_dir, path) = printed(&["completions", "fish"], "pgpoke.fish");
    let script = "source $argv[1]; complete -C 'pgpoke interrupt --dr'";
    let run = said("fish", &["--no-config", "-c", script], &path);
    assert!(run.stdout.starts_with("--dry-run\t"), "{run}");
    assert_eq!(run.stderr, "", "{run}");
}
