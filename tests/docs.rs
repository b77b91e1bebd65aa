//! What docs/ says is what the code does. The tables of checks and exit codes and the excerpts in causes.md are made from the
//! code: `make docs` writes them anew. Links lead somewhere, and the worked examples apply.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use pgpoke::assess::checks::{Row, TABLE, Weight};
use pgpoke::assess::{Request, Verdict, assess, cause, rules};
use pgpoke::cli::exit::{Command, Exit, MEANINGS, meanings_to};
use pgpoke::render::screen::Screen;
use pgpoke::render::{schema, text};
use pgpoke::snapshot::Snapshot;
use serde_json::Value;

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

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_default()
}

/// A page is as the code would write it, which it does where it is asked to.
#[track_caller]
fn assert_page(path: &str, wanted: &str) {
    if std::env::var_os("PGPOKE_WRITE_DOCS").is_some() {
        std::fs::write(Path::new(ROOT).join(path), wanted).unwrap();
    }
    assert!(read(path) == wanted, "{path} is out of date: make docs");
}

#[test]
fn the_schema_is_what_the_code_says() {
    let mut wanted = serde_json::to_string_pretty(&schema::schema()).unwrap();
    wanted.push('\n');
    assert_page("docs/pgpoke.schema.json", &wanted);
}

#[test]
fn the_page_of_checks_is_what_the_code_does() {
    assert_page("docs/checks.md", &page());
}

/// What comes before a part of a page that is made, and after it.
const MADE: &str = "<!-- made: ";
const MADE_END: &str = "<!-- end -->";

/// The parts of exit-codes.md that are made.
fn exit_codes(part: &str) -> String {
    let texts = |command, exit: Exit, between: &str| {
        let all = meanings_to(command).into_iter();
        let texts = all.filter(|(e, _)| *e == exit).map(|(_, texts)| texts);
        texts.map(|texts| texts.join(between)).next()
    };
    let mut made = String::new();
    match part {
        "codes" => {
            made.push_str(
                "| code | `pgpoke inspect` | `pgpoke interrupt` | What a script should do |\n|---|---|---|---|\n",
            );
            for m in MEANINGS {
                let cell = |command| texts(command, m.exit, " ").unwrap_or_else(|| "–".into());
                let (inspect, interrupt) = (cell(Command::Inspect), cell(Command::Interrupt));
                let code = m.exit.code();
                writeln!(made, "| {code} | {inspect} | {interrupt} | {} |", m.then).unwrap();
            }
        }
        "others" => {
            let names = Command::OTHERS.map(|(_, name)| format!("`pgpoke {name}`"));
            writeln!(made, "| code | {} |\n|---|---|---|---|", names.join(" | ")).unwrap();
            for m in MEANINGS {
                let cells = Command::OTHERS.map(|(command, _)| texts(command, m.exit, ", "));
                if cells.iter().any(Option::is_some) {
                    let cells = cells.map(|cell| cell.unwrap_or_else(|| "–".into()));
                    writeln!(made, "| {} | {} |", m.exit.code(), cells.join(" | ")).unwrap();
                }
            }
        }
        "severity" => {
            let failures = Exit::SEVEREST_FIRST.iter().map(|exit| exit.code());
            let failures = failures.filter(|code| *code != 0).map(|c| c.to_string());
            let failures: Vec<String> = failures.collect();
            writeln!(made, "**{}**.", failures.join(", ")).unwrap();
        }
        other => panic!("{MADE}{other}"),
    }
    made
}

#[test]
fn the_exit_codes_are_those_of_the_code() {
    let path = "docs/exit-codes.md";
    let there = read(path);
    let mut wanted = String::new();
    let mut made = Vec::new();
    let mut lines = there.lines();
    while let Some(line) = lines.next() {
        writeln!(wanted, "{line}").unwrap();
        if let Some(part) = line.strip_prefix(MADE) {
            let part = part.trim_end_matches(" -->");
            lines.find(|line| *line == MADE_END).expect("its end");
            writeln!(wanted, "{}{MADE_END}", exit_codes(part)).unwrap();
            made.push(part);
        }
    }
    assert_eq!(made, ["codes", "others", "severity"]);
    assert_page(path, &wanted);
}

/// As wide as a page of docs.
const PAPER: Screen = Screen {
    columns: Some(100),
    colour: false,
};

/// What comes before an excerpt: `<!-- shown: FIXTURE [FIELD=VALUE]... -->`, with what is put into it. `~` stands for a blank.
const SHOWN: &str = "<!-- shown: ";

/// Puts a value into every field of this name; there has to be one.
fn put(snapshot: &mut Value, field: &str, value: &Value) -> usize {
    match snapshot {
        Value::Object(map) => map
            .iter_mut()
            .map(|(name, inner)| {
                if name == field {
                    *inner = value.clone();
                    return 1;
                }
                put(inner, field, value)
            })
            .sum(),
        _ => 0,
    }
}

/// The snapshot that an excerpt is of.
fn shown(marker: &str) -> Snapshot {
    let mut words = marker.trim_end_matches(" -->").split(' ');
    let fixture = words.next().expect("a fixture");
    let text = read(&format!("tests/fixtures/{fixture}.json"));
    let mut value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{fixture}: {e}"));
    // Younger than the fixtures.
    value["swallowed"] = Value::Null;
    for word in words {
        let (field, text) = word.split_once('=').expect("FIELD=VALUE");
        let text = text.replace('~', " ");
        let new = serde_json::from_str(&text).unwrap_or_else(|_| text.into());
        assert_eq!(put(&mut value, field, &new), 1, "{marker}: {field}");
    }
    serde_json::from_value(value).expect("a snapshot")
}

/// What pgpoke says of it, without what is of no interest to the cause.
fn excerpt(snapshot: &Snapshot) -> String {
    let a = assess(snapshot, Request::Pending, &[]);
    let mut wanted = false;
    let mut excerpt = String::new();
    for line in text::inspection(snapshot, &a, false, PAPER).lines() {
        if !line.starts_with(' ') {
            wanted = ["verdict ", "cause ", "next "]
                .iter()
                .any(|label| line.starts_with(label));
        }
        if wanted {
            excerpt.push_str(line);
            excerpt.push('\n');
        }
    }
    excerpt
}

/// causes.md with its excerpts made anew; each is of the cause that its section is about.
fn causes() -> String {
    let there = read("docs/causes.md");
    let mut wanted = String::new();
    let mut section = "";
    let mut lines = there.lines();
    while let Some(line) = lines.next() {
        writeln!(wanted, "{line}").unwrap();
        section = line.strip_prefix("## ").unwrap_or(section);
        let Some(marker) = line.strip_prefix(SHOWN) else {
            continue;
        };
        let snapshot = shown(marker);
        assert_eq!(cause::find(&snapshot).code, section, "{marker}");
        assert_eq!(lines.next(), Some("```"), "{marker}");
        lines.find(|line| *line == "```").expect("its end");
        writeln!(wanted, "```\n{}```", excerpt(&snapshot)).unwrap();
    }
    wanted
}

#[test]
fn the_excerpts_of_causes_are_what_pgpoke_says() {
    assert_page("docs/causes.md", &causes());
}

#[test]
fn every_cause_has_a_section_and_every_section_is_of_a_cause() {
    let page = read("docs/causes.md");
    let sections: Vec<&str> = page.split("\n## ").skip(1).collect();
    let names: Vec<&str> = sections.iter().filter_map(|s| s.lines().next()).collect();
    let known: Vec<&str> = cause::TABLE.iter().map(|row| row.code).collect();
    let known: BTreeSet<&str> = known.into_iter().chain(["unknown"]).collect();
    assert_eq!(names.len(), known.len(), "twice, or missing: {names:?}");
    assert_eq!(BTreeSet::from_iter(names), known);
    for section in sections {
        for part in ["**What it looks like.**", "**Tonight.**", "**For good.**"] {
            assert!(section.contains(part), "{part} is missing: {section}");
        }
    }
}

/// What pgpoke prints is never typed by hand: it is made from a fixture (`shown`), or a test prints it on a real server
/// (`printed`, in tests/suite/transcripts.rs).
#[test]
fn everything_that_pgpoke_prints_was_printed() {
    const OURS: [&str; 6] = [
        "$ pgpoke ",
        "pgpoke: ",
        "pgpoke[",
        "verdict ",
        "outcome ",
        "stack ",
    ];
    let mut seen = 0;
    for path in pages() {
        let page = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = page.lines().collect();
        let fences = lines
            .iter()
            .enumerate()
            .filter(|(_, l)| l.starts_with("```"));
        for (n, _) in fences.step_by(2) {
            let block = lines[n + 1..].iter().take_while(|l| !l.starts_with("```"));
            let is_ours = |line: &&str| OURS.iter().any(|o| line.starts_with(o));
            if !block.copied().any(|line| is_ours(&line)) {
                continue;
            }
            let marker = lines[n - 1];
            let held = marker.starts_with(SHOWN) || marker.starts_with("<!-- printed: ");
            assert!(held, "{path:?}, line {}: by hand", n + 1);
            seen += 1;
        }
    }
    assert!(seen > 30, "only {seen}");
}

#[test]
fn every_target_of_make_that_is_named_exists() {
    let makefile = read("Makefile");
    let mut seen = 0;
    for path in pages() {
        let page = std::fs::read_to_string(&path).unwrap();
        let in_code = page
            .split(['`', '\n'])
            .filter_map(|c| c.trim().strip_prefix("make "));
        for named in in_code {
            let target = named.split_whitespace().find(|word| !word.contains('='));
            // "make it obey": prose.
            let Some(target) = target.filter(|_| {
                page.contains(&format!("`make {named}"))
                    || page.contains(&format!("\nmake {named}\n"))
            }) else {
                continue;
            };
            seen += 1;
            let rule = format!("\n{target}:");
            assert!(makefile.contains(&rule), "{path:?}: make {target}");
        }
    }
    assert!(seen > 15, "only {seen}");
}

/// All pages for people.
fn pages() -> Vec<PathBuf> {
    let of = |directory: &str| std::fs::read_dir(Path::new(ROOT).join(directory)).unwrap();
    let files = of(".").chain(of("docs")).map(|entry| entry.unwrap().path());
    let pages: Vec<PathBuf> = files
        .filter(|p| p.extension().is_some_and(|e| e == "md"))
        .collect();
    assert!(pages.len() > 5, "{pages:?}");
    pages
}

/// Without code: a link in there is none.
fn prose(page: &str) -> String {
    let mut code = false;
    let mut prose = String::new();
    for line in page.lines() {
        if line.starts_with("```") {
            code = !code;
        } else if !code {
            let spans = line.split('`').step_by(2);
            prose.extend(spans);
            prose.push('\n');
        }
    }
    prose
}

/// As GitHub makes them of headings: small letters, digits, and a hyphen for each space.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter(|l| l.starts_with('#'));
    let anchor = |line: &str| {
        let line = line.trim_start_matches('#').trim().to_lowercase();
        let kept = line
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut seen = 0;
    for path in pages() {
        let page = std::fs::read_to_string(&path).unwrap();
        for link in prose(&page).split("](").skip(1) {
            let target = link.split(')').next().unwrap();
            if target.starts_with("https://") {
                continue;
            }
            seen += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let to = match file {
                "" => path.clone(),
                file => path.parent().unwrap().join(file),
            };
            assert!(to.exists(), "{path:?}: there is no {target}");
            if !anchor.is_empty() {
                let there = anchors(&std::fs::read_to_string(&to).unwrap());
                assert!(there.contains(anchor), "{path:?}: {target}: {there:?}");
            }
        }
    }
    assert!(seen > 20, "only {seen} links were found");
}

/// The files of our own that a page names are there: below the root, in `src`, or among the tests; a bare name is that of
/// some file.
#[test]
fn every_path_that_is_named_is_there() {
    fn names(directory: &Path, into: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => names(&path, into),
                false => into.extend(path.file_name().map(|n| n.to_string_lossy().into_owned())),
            }
        }
    }
    let root = Path::new(ROOT);
    let mut known = BTreeSet::new();
    for room in ["src", "tests", "fuzz/fuzz_targets", "benches"] {
        names(&root.join(room), &mut known);
    }
    let is_path = |span: &str| {
        let ours = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-./".contains(c);
        (span.ends_with(".rs") || span.ends_with('/'))
            && !span.starts_with('/')
            && span.chars().all(ours)
    };
    let mut seen = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        let mut in_code = false;
        for line in text.lines() {
            in_code ^= line.starts_with("```");
            let spans = line.split('`').skip(1).step_by(2);
            for span in spans.filter(|span| !in_code && is_path(span)) {
                seen += 1;
                let bases = ["", "src", "tests", "tests/suite", "docs"];
                let there = match span.contains('/') {
                    true => bases.iter().any(|base| root.join(base).join(span).exists()),
                    false => known.contains(span),
                };
                assert!(there, "{page:?}: there is no {span}");
            }
        }
    }
    assert!(seen > 100, "only {seen} paths were found");
}

/// No page that nobody is led to.
#[test]
fn every_page_is_linked_to() {
    let all: String = pages()
        .iter()
        .map(|p| std::fs::read_to_string(p).unwrap())
        .collect();
    for page in pages() {
        let name = page.file_name().unwrap().to_str().unwrap();
        let linked = all.contains(&format!("({name}")) || all.contains(&format!("(docs/{name}"));
        let root = [
            "README.md",
            "CONTRIBUTING.md",
            "CHANGELOG.md",
            "SECURITY.md",
        ];
        assert!(linked || root.contains(&name), "nothing leads to {page:?}");
    }
}

/// The changes that carrying-on.md shows: to this very source, or in it already.
#[test]
fn the_worked_examples_apply() {
    let examples = Path::new(ROOT).join("docs/examples");
    let page = read("docs/carrying-on.md");
    let mut found = 0;
    for entry in std::fs::read_dir(&examples).unwrap() {
        let path = entry.unwrap().path();
        // The extension's is tried in tests/suite/examples.rs.
        if path.is_dir() {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(
            page.contains(&format!("(examples/{name})")),
            "{name} is not told of"
        );
        let mut applies = std::process::Command::new("git");
        applies.args(["apply", "--check"]);
        if name == "version.patch" {
            applies.arg("--reverse");
        }
        let applies = applies.arg(&path).current_dir(ROOT).output().expect("git");
        let said = String::from_utf8_lossy(&applies.stderr);
        assert!(applies.status.success(), "{name} is out of date:\n{said}");
        found += 1;
    }
    assert_eq!(found, 4, "a check, a cause, a version, an architecture");
}

/// With each of the changes pgpoke compiles. (That of the version is in it already.)
#[test]
fn the_worked_examples_compile() {
    use std::process::Command;
    // A copy each, at one place, so that what it is built from is built once.
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("worked-examples");
    let copy = scratch.join("pgpoke");
    let run = |command: &mut Command, what: &str| {
        let output = command.output().expect("a program");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{what}:\n{said}");
    };
    for name in ["check", "cause", "architecture"] {
        let _ = std::fs::remove_dir_all(&copy);
        std::fs::create_dir_all(&copy).unwrap();
        let mut cp = Command::new("cp");
        cp.args(["-a", "Cargo.toml", "Cargo.lock", "src", "docs", "benches"]);
        run(cp.arg(&copy).current_dir(ROOT), "a copy");
        let mut apply = Command::new("git");
        // Else git would look at the repository that all this lies in.
        apply.env("GIT_CEILING_DIRECTORIES", &scratch);
        apply.arg("apply");
        apply.arg(Path::new(ROOT).join(format!("docs/examples/{name}.patch")));
        run(apply.current_dir(&copy), name);
        let mut check = Command::new(env!("CARGO"));
        check.args(["check", "--offline", "--quiet", "--lib"]);
        check.env("CARGO_TARGET_DIR", scratch.join("target"));
        check.env("RUSTFLAGS", "-Dwarnings");
        run(check.current_dir(&copy), name);
    }
}

/// Each package that pgpoke is made of is in the table of carrying-on.md, and no other.
#[test]
fn every_package_has_its_reason() {
    let manifest = read("Cargo.toml");
    let named = |section: &str| -> BTreeSet<String> {
        let lines = manifest.lines().skip_while(|l| *l != section).skip(1);
        let lines = lines.take_while(|l| !l.starts_with('['));
        let names = lines.filter_map(|l| Some(l.split_once(" = ")?.0.to_owned()));
        names.collect()
    };
    let packages = named("[dependencies]");
    assert!(packages.len() > 20, "{packages:?}");
    let page = read("docs/carrying-on.md");
    let (_, section) = page.split_once("\n## Packages\n").expect("## Packages");
    let cells = section
        .lines()
        .filter_map(|l| l.strip_prefix("| `")?.split_once(" | "));
    let explained: BTreeSet<String> = cells
        .flat_map(|(names, _)| names.trim_end_matches('`').split("`, `"))
        .map(str::to_owned)
        .collect();
    assert_eq!(explained, packages);
    for package in named("[dev-dependencies]").difference(&packages) {
        assert!(section.contains(&format!("`{package}`")), "{package}");
    }
}

/// A room imports those below it, and none on its own level or above: no circles. What tests import does not count.
#[test]
fn imports_point_one_way() {
    const LEVELS: [&[&str]; 13] = [
        &["address", "sys"],
        &["memory"],
        &["arch"],
        &["process"],
        &["target"],
        &["image", "tracee"],
        &["unwind"],
        &["postgres"],
        &["snapshot"],
        &["assess"],
        &["intervene", "evidence"],
        &["render", "selftest"],
        &["cli"],
    ];
    let level = |room: &str| LEVELS.iter().position(|rooms| rooms.contains(&room));
    let source = Path::new(ROOT).join("src");
    let (mut todo, mut files) = (vec![source.clone()], 0);
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            continue;
        }
        let below = path.strip_prefix(&source).unwrap().to_str().unwrap();
        let room = below.split(['/', '.']).next().unwrap();
        if ["lib", "main", "fuzzing"].contains(&room) {
            continue;
        }
        let own = level(room).unwrap_or_else(|| panic!("{below}: which level is it on?"));
        let text = std::fs::read_to_string(&path).unwrap();
        let (text, _) = text
            .split_once("#[cfg(test)]\nmod tests")
            .unwrap_or((&text, ""));
        let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
        for (line, import) in code.flat_map(|l| l.split("crate::").skip(1).map(move |i| (l, i))) {
            let name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let to = &import[..import.find(|c| !name(c)).unwrap_or(import.len())];
            if let Some(theirs) = level(to).filter(|_| to != room) {
                assert!(theirs < own, "{below} imports upwards: {line}");
            }
        }
        files += 1;
    }
    assert!(files > 100, "only {files} files were read");
}

/// What knows a processor is in `src/arch`, and in selftest's file for each.
#[test]
fn a_processor_is_known_in_one_room() {
    let mut folders = vec![Path::new(ROOT).join("src")];
    let mut looked_at = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("src/arch") {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                looked_at += 1;
                assert!(!text.contains("iced_x86"), "{}", path.display());
                let chooses = path.ends_with("src/selftest/mod.rs");
                assert!(
                    chooses || !text.contains("target_arch"),
                    "{}",
                    path.display()
                );
            }
        }
    }
    assert!(looked_at > 100, "{looked_at} files");
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
