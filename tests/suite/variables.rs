//! Arguments and local variables, held to gdb's `bt full`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::harness::{
    Backend, DEADLINE, Installation, Run, Server, Stuck, built, server_with_testext, wait_for,
};

/// The text of a value, and of an argument what it was on entry.
type Told = (String, Option<String>);

/// One function on the stack.
#[derive(Debug, Default)]
struct Frame {
    function: String,
    file: String,
    arguments: BTreeMap<String, Told>,
    locals: Vec<(String, String)>,
}

/// What was compared, by kind, and what differed.
#[derive(Debug, Default)]
struct Tally {
    plain: usize,
    text: usize,
    pointer: usize,
    structure: usize,
    optimised_out: usize,
    synthetic: usize,
    on_entry: usize,
    differ: Vec<String>,
}

impl Tally {
    fn count(&mut self, value: &str) {
        let kind = match value {
            "<optimized out>" => &mut self.optimised_out,
            "<synthetic pointer>" => &mut self.synthetic,
            value if value.starts_with('{') => &mut self.structure,
            value if value.starts_with('"') => &mut self.text,
            value if value.starts_with("0x") => &mut self.pointer,
            _ => &mut self.plain,
        };
        *kind += 1;
    }

    fn all(&self) -> usize {
        self.plain
            + self.text
            + self.pointer
            + self.structure
            + self.optimised_out
            + self.synthetic
            + self.differ.len()
    }

    fn add(&mut self, other: Tally) {
        self.plain += other.plain;
        self.text += other.text;
        self.pointer += other.pointer;
        self.structure += other.structure;
        self.optimised_out += other.optimised_out;
        self.synthetic += other.synthetic;
        self.on_entry += other.on_entry;
        self.differ.extend(other.differ);
    }
}

fn signal(backend: &Backend, signal: i32) {
    // SAFETY: kill takes any numbers; this PID is a backend's that lives as long as the test.
    assert_eq!(unsafe { libc::kill(backend.pid, signal) }, 0);
}

/// gdb's own words, with all arguments: by default it leaves out those that are structures.
fn gdb(pid: i32) -> Vec<Frame> {
    let mut command = Command::new("gdb");
    command
        .args(["-nx", "-batch", "-iex", "set debuginfod enabled off"])
        .args(["-p", &pid.to_string()])
        .args(["-ex", "set width 0"])
        .args(["-ex", "set print frame-arguments all"])
        .args(["-ex", "bt full"])
        // What a terminal can show, gdb shows.
        .env("LC_ALL", "C.UTF-8");
    let run = Run::of(command);
    let frames = parse(&run.stdout);
    assert!(frames.len() > 5, "{run}");
    frames
}

/// `#1  0x… in function (argument=value, …) at file:line`, and below it `        name = value` for each local variable.
fn parse(text: &str) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    for line in text.lines() {
        if let Some(frame) = line.strip_prefix('#').and_then(parse_frame) {
            frames.push(frame);
        } else if let Some(local) = line.strip_prefix("        ")
            && let Some(frame) = frames.last_mut()
            && let Some((name, value)) = local.split_once(" = ")
        {
            frame.locals.push((name.to_owned(), value.to_owned()));
        }
    }
    frames
}

fn parse_frame(line: &str) -> Option<Frame> {
    let (_, rest) = line.split_once(' ')?;
    let rest = rest.trim_start();
    let rest = match rest.starts_with("0x") {
        true => rest.split_once(" in ")?.1,
        false => rest,
    };
    let (function, rest) = rest.split_once(" (")?;
    let file = rest.rsplit_once(" at ").map_or("", |(_, file)| file);
    let mut frame = Frame {
        function: function.to_owned(),
        file: file.to_owned(),
        ..Frame::default()
    };
    for argument in pieces(rest) {
        let (name, value) = argument.split_once('=')?;
        // `a=a@entry=1` is both; `a=1, a@entry=2` comes as two.
        let both = value.strip_prefix(&format!("{name}@entry="));
        match (name.strip_suffix("@entry"), both) {
            (Some(name), _) => frame.arguments.get_mut(name)?.1 = Some(value.to_owned()),
            (None, Some(value)) => {
                let told = (value.to_owned(), Some(value.to_owned()));
                frame.arguments.insert(name.to_owned(), told);
            }
            (None, None) => {
                let told = (value.to_owned(), None);
                frame.arguments.insert(name.to_owned(), told);
            }
        }
    }
    Some(frame)
}

/// What stands between commas up to the closing parenthesis, apart from commas in brackets and quotes.
fn pieces(text: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let (mut depth, mut quote) = (0, None);
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (quote, c) {
            (Some(_), '\\') => {
                pieces.last_mut().expect("one").push(c);
                if let Some(escaped) = characters.next() {
                    pieces.last_mut().expect("one").push(escaped);
                }
                continue;
            }
            (Some(q), c) if q == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '(' | '{' | '<') => depth += 1,
            (None, ')') if depth == 0 => break,
            (None, ')' | '}' | '>') => depth -= 1,
            (None, ',') if depth == 0 => {
                pieces.push(String::new());
                continue;
            }
            _ => {}
        }
        pieces.last_mut().expect("one").push(c);
    }
    let trimmed = pieces.iter().map(|piece| piece.trim().to_owned());
    trimmed.filter(|piece| !piece.is_empty()).collect()
}

/// pgpoke's frames that have debug information.
fn ours(pid: i32) -> Vec<Frame> {
    let pid = pid.to_string();
    let run = Run::pgpoke(["inspect", "--passive", "--json", "--locals", &pid]);
    let json = run.json();
    let frames = json["stack"].as_array().expect("a stack");
    let value = |v: &serde_json::Value| match (v["value"].as_str(), v["missing"].as_str()) {
        (Some(value), None) => value.to_owned(),
        (None, Some("optimized out")) => "<optimized out>".to_owned(),
        (None, Some(why)) => format!("<unavailable: {why}>"),
        _ => panic!("neither a value nor the reason why there is none: {v}"),
    };
    let name = |v: &serde_json::Value| v["name"].as_str().expect("a name").to_owned();
    let told = frames.iter().filter(|frame| !frame["locals"].is_null());
    // The symbol of a part or a copy of a function is its name and what it was made by: `f.constprop.0`.
    let plain = |symbol: &str| symbol.split('.').next().unwrap_or(symbol).to_owned();
    told.map(|frame| Frame {
        file: frame["file"].as_str().unwrap_or_default().to_owned(),
        function: plain(frame["function"].as_str().expect("a name")),
        arguments: frame["arguments"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|v| {
                (
                    name(v),
                    (value(v), v["at_entry"].as_str().map(str::to_owned)),
                )
            })
            .collect(),
        locals: frame["locals"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|v| (name(v), value(v)))
            .collect(),
    })
    .collect()
}

/// Of gdb's local variables of one function, without those that it lists once more: it takes a variable that stands in a
/// block of the source, and has no code of that block's here, for one more variable that is optimised out.
fn without_repetitions(locals: &[(String, String)]) -> Vec<(String, String)> {
    let mut told: Vec<(String, String)> = Vec::new();
    for (name, value) in locals {
        let again = |(n, v): &(String, String)| {
            n == name && (v != value || told.contains(&(n.clone(), v.clone())))
        };
        if value != "<optimized out>" || !locals.iter().any(again) {
            told.push((name.clone(), value.clone()));
        }
    }
    told.sort();
    told
}

/// A function of the C library, whose debug information pgpoke does not read: nobody looks for the bug there. Its sources
/// are called by paths relative to it, those of PostgreSQL and testext are not.
fn is_libc(frame: &Frame) -> bool {
    frame.file.starts_with("./") || frame.file.starts_with("../")
}

/// All frames of both, in order, and all variables of each.
fn compare(theirs: &[Frame], ours: &[Frame]) -> Tally {
    let mut tally = Tally::default();
    let mut rest = ours.iter();
    for their in theirs.iter().filter(|frame| !is_libc(frame)) {
        // Of a function without debug information gdb knows nothing either, and shows no arguments.
        let Some(our) = rest.clone().find(|our| our.function == their.function) else {
            assert!(
                their.arguments.is_empty() && their.locals.is_empty(),
                "gdb sees {their:#?}, and pgpoke does not"
            );
            continue;
        };
        let next = rest
            .next()
            .expect("the one that was found, or one before it");
        assert!(
            std::ptr::eq(next, our),
            "pgpoke sees {next:#?}, and gdb does not"
        );
        let mut differ = |name: &str, theirs: String, ours: String| {
            let function = &their.function;
            let line = format!("{function}: {name}\n    gdb    {theirs}\n    pgpoke {ours}");
            tally.differ.push(line);
        };
        let mut same = Vec::new();
        let names = their.arguments.keys().chain(our.arguments.keys());
        for name in names.collect::<BTreeSet<_>>() {
            match (their.arguments.get(name), our.arguments.get(name)) {
                (Some(one), Some(other)) if one == other => same.push(name),
                // The value is the same, and pgpoke does not tell what it was on entry.
                (Some((one, on_entry)), Some((other, None))) if one == other => {
                    differ(
                        &format!("{name} (on entry)"),
                        format!("{on_entry:?}"),
                        "nothing".into(),
                    );
                }
                (one, other) => differ(name, format!("{one:?}"), format!("{other:?}")),
            }
        }
        let mut locals = our.locals.clone();
        let mut equal = Vec::new();
        for (name, value) in without_repetitions(&their.locals) {
            let found = locals.iter().position(|(n, v)| *n == name && *v == value);
            match found {
                Some(at) => equal.push(locals.remove(at).1),
                None => {
                    let of_name = locals.iter().filter(|(n, _)| *n == name);
                    let values: Vec<&String> = of_name.map(|(_, value)| value).collect();
                    differ(&name, value.clone(), format!("{values:?}"));
                }
            }
        }
        for (name, value) in locals {
            let known = their.locals.iter().any(|(n, _)| *n == name);
            if !known {
                differ(&name, "nothing".into(), value);
            }
        }
        for name in same {
            let (value, on_entry) = &their.arguments[name];
            tally.count(value);
            tally.on_entry += usize::from(on_entry.is_some());
        }
        equal.iter().for_each(|value| tally.count(value));
    }
    tally
}

/// Both look at the same instant: the backend is stopped by SIGSTOP meanwhile.
fn look(stuck: &Stuck) -> Tally {
    let backend = stuck.backend();
    signal(&backend, libc::SIGSTOP);
    wait_for(DEADLINE, "the backend shall be stopped", || {
        (backend.state() == Some('T')).then_some(())
    });
    let ours = ours(backend.pid);
    let tally = compare(&gdb(backend.pid), &ours);
    signal(&backend, libc::SIGCONT);
    backend.assert_running_untraced();
    tally
}

/// Variables that are known to differ, with the reason.
const KNOWN: [(&str, &str); 5] = [
    (
        "WaitEventSetWaitBlock: occurred_events\n",
        "the argument of an inlined function is what the function around it was called with; gdb 13 evaluates that in \
         the registers of one frame too far in, and so contradicts what it shows for the very same pointer one frame \
         further out",
    ),
    ("show_kinds: ratio (on entry)\n", OF_VECTORS),
    ("pass_kinds: ratio (on entry)\n", OF_VECTORS),
    ("endless_comparator: a (on entry)\n", OF_LIBC),
    ("endless_comparator: b (on entry)\n", OF_LIBC),
];
const OF_VECTORS: &str =
    "what was passed in a vector register is not told, only what is in the variable now";
const OF_LIBC: &str = "what the C library passed is not told: its debug information is not read";

#[track_caller]
fn assert_agreed(tally: &Tally) {
    let known = |line: &&String| KNOWN.iter().any(|(start, _)| line.starts_with(start));
    let differ: Vec<&String> = tally.differ.iter().filter(|line| !known(line)).collect();
    for (_, reason) in KNOWN
        .iter()
        .filter(|(start, _)| tally.differ.iter().any(|line| line.starts_with(start)))
    {
        eprintln!("known to differ: {reason}");
    }
    eprintln!(
        "{} of {} variables agree: {tally:?}",
        tally.all() - tally.differ.len(),
        tally.all()
    );
    for line in &differ {
        eprintln!("{line}");
    }
    assert!(differ.is_empty(), "{} variables differ", differ.len());
}

/// All in one server, whose start takes longer than a look.
#[test]
fn agree_with_gdb_on_a_build_with_debug_information() {
    let server =
        server_with_testext!(Server::builder().installation(built!(Installation::dwarf())));
    let mut all = Tally::default();
    for call in [
        "pgpoke_locals(21)",
        "pgpoke_latch()",
        "pgpoke_qsort()",
        "pgpoke_swallow()",
    ] {
        let stuck = server.stuck(&format!("SELECT {call}"));
        let tally = look(&stuck);
        assert!(tally.all() > 80, "{call}: {tally:?}");
        all.add(tally);
    }
    let sleeping = |backend: &Backend| backend.state() == Some('S');
    all.add(look(&server.stuck_when("SELECT pg_sleep(3600)", sleeping)));
    assert_agreed(&all);
    // It is of no use without some of each kind.
    assert!(all.plain > 80 && all.pointer > 150, "{all:?}");
    assert!(all.structure > 30 && all.text > 30, "{all:?}");
    assert!(all.optimised_out > 150, "{all:?}");
    assert!(all.synthetic > 0 && all.on_entry > 30, "{all:?}");
    server.assert_unharmed();
}

/// Only the extension has debug information, as it often is.
#[test]
fn agree_with_gdb_in_an_extension_of_a_stripped_server() {
    let server = server_with_testext!();
    let stuck = server.stuck("SELECT pgpoke_locals(21)");
    let tally = look(&stuck);
    assert!(tally.plain > 15 && tally.pointer > 5, "{tally:?}");
    assert!(tally.structure > 5 && tally.optimised_out > 3, "{tally:?}");
    assert_agreed(&tally);
    server.assert_unharmed();
}

#[test]
fn what_gdb_prints_is_taken_apart_as_meant() {
    let text = concat!(
        "#0  spin () at a.c:1\n",
        "No locals.\n",
        "#1  0x00007f in f (a=a@entry=0x1 \"x, )\\\"\", b=2, b@entry=3, c={d = 1, e = '('}) at b.c:2\n",
        "        x = {a = 1, b = 2}\n",
        "        y = <optimized out>\n",
        "        y = <optimized out>\n",
        "        x = <optimized out>\n",
    );
    let frames = parse(text);
    assert_eq!(frames.len(), 2);
    assert!(frames[0].arguments.is_empty() && frames[0].locals.is_empty());
    let f = &frames[1];
    let a = "0x1 \"x, )\\\"\"".to_owned();
    assert_eq!(f.arguments["a"], (a.clone(), Some(a)));
    assert_eq!(f.arguments["b"], ("2".into(), Some("3".into())));
    assert_eq!(f.arguments["c"].0, "{d = 1, e = '('}");
    let told = without_repetitions(&f.locals);
    assert_eq!(
        told,
        [
            ("x".into(), "{a = 1, b = 2}".into()),
            ("y".into(), "<optimized out>".into())
        ]
    );
}
