//! What docs/ says of the rules is what the code does: the table is made from the code. `make docs` writes it anew.

use std::fmt::Write;
use std::path::Path;

use pgpoke::assess::Verdict;
use pgpoke::assess::checks::{Row, TABLE, Weight};
use pgpoke::assess::rules;

const HEAD: &str = "# The checks\n
Each verdict of `pgpoke inspect` rests on these checks, made on what one stop of the backend showed. The first kind of
objection in this order decides: what must never be interrupted, no occasion, a critical section, interrupts held off,
danger, risk. What could not be decided counts as the objection that it might be, and never as `pass`. A risk can be
accepted by its name, with `--allow`; nothing else can.\n
This page is made from the code (`src/assess/checks.rs`, `src/assess/rules.rs`) by `make docs`.\n
| check | an objection means | why | learned from |\n|---|---|---|---|\n";

fn means(row: &Row) -> &'static str {
    match (row.weight, row.failure) {
        (_, Verdict::Safe) => "nothing: it is shown only",
        (Weight::Identity, Verdict::Unsafe) => "unsafe, whatever else is true",
        (_, Verdict::Unsafe) => "unsafe",
        (_, Verdict::Risky) => "risky",
        (_, Verdict::Pointless) => "pointless",
    }
}

fn page() -> String {
    let mut text = HEAD.to_owned();
    for row in TABLE {
        writeln!(
            text,
            "| `{}` | {} | {} | {} |",
            row.code,
            means(row),
            row.why,
            row.source
        )
        .unwrap();
    }
    text.push_str(
        "\n## Functions by name\n
Names are compared without leading underscores and the prefixes of inner names, so that a rule holds with and without
debug symbols; `*` stands for any end. In a stripped server a static function has no name: the functions of memory
contexts are told by the tables that hold them, and any other is known by those who can call it, where the file shows
all of them.\n\n",
    );
    let sets = [
        (
            "the C library's allocator, and those that stand in for it",
            &rules::MALLOC,
        ),
        ("memory contexts", &rules::PALLOC),
        ("locks of the C library", &rules::STDIO),
        ("error reporting", &rules::ERROR_REPORTING),
        ("waiting for a spinlock", &rules::SPINLOCK_WAIT),
        ("waiting for an LWLock", &rules::LWLOCK_WAIT),
        ("sending to the client", &rules::CLIENT_WRITE),
        ("reading from the client", &rules::CLIENT_READ),
        (
            "server functions that hold nothing while they wait",
            &rules::CALM,
        ),
    ];
    for (what, functions) in sets {
        functions_line(&mut text, what, functions.names);
    }
    for (what, functions) in &rules::STATE_CHANGING {
        functions_line(
            &mut text,
            &format!("server code that changes {what}"),
            functions.names,
        );
    }
    for (file, functions) in &rules::COMPUTING {
        let what = format!("server code that only computes, `{file}`");
        functions_line(&mut text, &what, functions.names);
    }
    text
}

fn functions_line(text: &mut String, what: &str, names: &[&str]) {
    let names: Vec<String> = names.iter().map(|n| format!("`{n}`")).collect();
    writeln!(text, "- **{what}**: {}", names.join(", ")).unwrap();
}

#[test]
fn the_page_of_checks_is_what_the_code_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/checks.md");
    let wanted = page();
    if std::env::var_os("PGPOKE_WRITE_DOCS").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(there == wanted, "docs/checks.md is out of date: make docs");
}

#[test]
fn every_rule_says_why_and_where_that_was_learned() {
    for row in TABLE {
        assert!(
            !row.why.is_empty() && !row.source.is_empty(),
            "{}",
            row.code
        );
    }
}
