//! What an unknown, a missing or a contradictory field must never do: make a verdict better.
//!
//! Each snapshot in `tests/fixtures` is changed in ways that take knowledge away, or that contradict what else it
//! says, one at a time, in pairs, and many at once; the numbers are pseudo-random, and the same in every run.

use std::collections::BTreeSet;
use std::path::Path;

use pgpoke::assess::{Request, Status, Verdict, assess, checks};
use pgpoke::snapshot::Snapshot;
use serde_json::{Value, json};

/// All fixtures, by name.
fn fixtures() -> Vec<(String, Value)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let files = std::fs::read_dir(&dir).unwrap().map(|f| f.unwrap().path());
    let mut fixtures: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            (name, serde_json::from_str(&text).unwrap())
        })
        .collect();
    fixtures.sort_by(|(a, _), (b, _)| a.cmp(b));
    assert!(fixtures.len() >= 17, "only {} fixtures", fixtures.len());
    fixtures
}

/// Marsaglia's xorshift: enough to vary what is tried.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn one_of<'t, T>(&mut self, things: &'t [T]) -> Option<&'t T> {
        things.get(self.below(things.len()))
    }
}

/// Paths to every value within `value`.
fn paths(value: &Value, here: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    let mut visit = |key: String, child: &Value| {
        here.push(key);
        found.push(here.clone());
        paths(child, here, found);
        here.pop();
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| visit(k.clone(), v)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(i, v)| visit(i.to_string(), v)),
        _ => {}
    }
}

fn at<'v>(value: &'v mut Value, path: &[String]) -> Option<&'v mut Value> {
    path.iter().try_fold(value, |v, key| match v {
        Value::Object(map) => map.get_mut(key),
        Value::Array(items) => items.get_mut(key.parse::<usize>().ok()?),
        _ => None,
    })
}

/// Fields of which "none" is an answer, and a better one than any other: no objection to the interrupt model, and no signal
/// that was sent by us. Handlers are
/// never an objection, so that a missing one cannot lower a verdict; which of them are missing is told by `handlers`, which
/// may be unknown.
const NONE_IS_AN_ANSWER: [&str; 3] = ["handlers", "model_objection", "sent"];

/// Fields that may be null without making it no snapshot any more, and are not so already.
fn optional_fields(fixture: &Value) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    paths(fixture, &mut Vec::new(), &mut all);
    all.retain(|path| {
        let mut changed = fixture.clone();
        let field = at(&mut changed, path).expect("a path that was just found");
        let answer = path.iter().any(|p| NONE_IS_AN_ANSWER.contains(&p.as_str()));
        if field.is_null() || answer {
            return false;
        }
        *field = Value::Null;
        serde_json::from_value::<Snapshot>(changed).is_ok()
    });
    all
}

fn frames(value: &mut Value) -> Option<&mut Vec<Value>> {
    value["stack"].get_mut("frames")?.as_array_mut()
}

/// Changes a snapshot; false if there is nothing there to change.
type Change = fn(&mut Value, &mut Random) -> bool;

/// A field of a frame at random gets another value.
fn change_a_frame(value: &mut Value, random: &mut Random, field: &str, to: Value) -> bool {
    let Some(frames) = frames(value) else {
        return false;
    };
    let count = frames.len();
    match frames.get_mut(random.below(count)) {
        Some(frame) if frame[field] != to => {
            frame[field] = to;
            true
        }
        _ => false,
    }
}

fn change_all_frames(value: &mut Value, which: impl Fn(&Value) -> bool, field: &str) -> bool {
    let Some(frames) = frames(value) else {
        return false;
    };
    for frame in frames.iter_mut().filter(|f| which(f)) {
        frame[field] = Value::Null;
    }
    true
}

fn set(value: &mut Value, pointer: &str, to: impl Into<Value>) -> bool {
    match value.pointer_mut(pointer) {
        Some(field) => {
            *field = to.into();
            true
        }
        None => false,
    }
}

/// Ways to know less, and to be told what cannot be.
const LOWERING: &[(&str, Change)] = &[
    // As with an executable, a C library or an extension whose symbols are gone.
    ("the server's functions have no names", |v, _| {
        change_all_frames(v, |f| f["kind"] == "server", "function")
    }),
    ("the C library's functions have no names", |v, _| {
        change_all_frames(v, |f| f["kind"] == "libc", "function")
    }),
    ("the extensions' functions have no names", |v, _| {
        change_all_frames(v, |f| f["kind"] == "library", "function")
    }),
    ("a function has no name", |v, r| {
        change_a_frame(v, r, "function", Value::Null)
    }),
    // As where an image could not be read.
    ("no code was read", |v, _| {
        change_all_frames(v, |_| true, "spinlock")
    }),
    ("a frame is in no file", |v, r| {
        change_a_frame(v, r, "module", Value::Null) && change_a_frame(v, r, "offset", Value::Null)
    }),
    ("a frame is in generated code", |v, r| {
        change_a_frame(v, r, "kind", "anonymous".into())
    }),
    // As where call-frame information is missing: what lies further out is not known, and is said not to be.
    ("the stack ends early", |v, r| {
        let Some(frames) = frames(v) else {
            return false;
        };
        let keep = r.below(frames.len());
        frames.truncate(keep);
        set(v, "/stack/complete", false) && set(v, "/stack/end", "no-unwind-info")
    }),
    ("the stack is not complete", |v, _| {
        set(v, "/stack/complete", false)
    }),
    ("the stack was not looked at", |v, _| {
        v["stack"].take() != Value::Null
    }),
    // Each of these says one thing here and another there.
    ("complete, and not to its root", |v, r| {
        let ends = ["no-unwind-info", "not-growing", "too-deep"];
        set(v, "/stack/end", *r.one_of(&ends).unwrap())
    }),
    ("complete, and to another root", |v, r| {
        set(v, "/stack/end", *r.one_of(&["root", "main"]).unwrap())
    }),
    ("complete, and cut short", |v, r| {
        let Some(frames) = frames(v) else {
            return false;
        };
        let keep = r.below(frames.len());
        frames.truncate(keep);
        true
    }),
    ("complete, and guessed", |v, r| {
        change_a_frame(v, r, "found_by", "frame-pointer".into())
    }),
    ("complete, and without its first frames", |v, r| {
        let Some(frames) = frames(v) else {
            return false;
        };
        let gone = 1 + r.below(frames.len());
        frames.drain(..gone.min(frames.len()));
        true
    }),
    ("one file is two kinds of thing", |v, r| {
        let Some(frames) = frames(v) else {
            return false;
        };
        let position = r.below(frames.len());
        let module = frames.get(position).map(|f| f["module"].clone());
        // Alone in its file, a frame contradicts no other.
        let others = frames
            .iter()
            .filter(|f| Some(&f["module"]) == module.as_ref());
        if module.as_ref().is_none_or(Value::is_null) || others.count() < 2 {
            return false;
        }
        let kinds = ["server", "libc", "library", "vdso", "dynamic-linker"];
        frames[position]["kind"] = (*r.one_of(&kinds).unwrap()).into();
        true
    }),
    ("inlined into what is elsewhere", |v, r| {
        change_a_frame(v, r, "inlined", true.into())
    }),
    ("a frame is there twice", |v, r| {
        let Some(frames) = frames(v) else {
            return false;
        };
        let position = r.below(frames.len());
        let Some(frame) = frames.get(position).cloned() else {
            return false;
        };
        frames.insert(position, frame);
        true
    }),
    // More of what must be little: absurd, but not a reason to be bold.
    ("absurd counters", |v, r| {
        let counters = [
            "/variables/interrupt_holdoff_count",
            "/variables/crit_section_count",
        ];
        set(v, r.one_of(&counters).unwrap(), u32::MAX)
    }),
    ("absurdly many threads", |v, _| {
        set(v, "/process/threads", u64::MAX)
    }),
    ("no thread at all", |v, _| set(v, "/process/threads", 0)),
    ("no room on the stack", |v, _| set(v, "/stack/room", 0)),
    ("all signals blocked", |v, _| {
        set(v, "/signals/blocked", u64::MAX)
    }),
    ("no signal caught", |v, _| set(v, "/signals/caught", 0)),
    ("traced by nobody", |v, _| set(v, "/process/tracer", -1)),
    ("a state that does not exist", |v, _| {
        set(v, "/process/state", Value::Null)
    }),
    ("an unknown kind of backend", |v, _| {
        set(v, "/backend/backend_type", "unknown")
    }),
    ("an unknown version", |v, _| {
        set(v, "/backend/version_known", false)
    }),
    ("handlers that are not all there", |v, r| {
        let Some(handlers) = v["signals"]["handlers"].as_array_mut() else {
            return false;
        };
        let keep = r.below(handlers.len());
        handlers.truncate(keep);
        true
    }),
];

const REQUESTS: [Request; 3] = [Request::Pending, Request::Cancel, Request::Terminate];

fn rank(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Safe => 2,
        Verdict::Risky => 1,
        Verdict::Unsafe | Verdict::Pointless => 0,
    }
}

/// The ranks that a snapshot gets: for each request the verdict, and the verdicts of what could be asked.
type Ranks = Vec<[u8; 3]>;

/// Judges it for every request. Never safe where a check could not be decided, apart from `handlers`, which is no
/// objection; and every check and the cause say something.
fn judge(snapshot: &Snapshot, told: &dyn Fn() -> String) -> Ranks {
    let ranks = REQUESTS.iter().map(|request| {
        let judged = assess(snapshot, *request, &[]);
        assert_eq!(judged.checks.len(), checks::TABLE.len(), "{}", told());
        let unknown = judged
            .checks
            .iter()
            .find(|c| c.status == Status::Unknown && c.code != "handlers");
        assert!(
            judged.verdict != Verdict::Safe || unknown.is_none(),
            "safe, and {unknown:?}: {}",
            told()
        );
        assert!(!judged.cause.summary.is_empty(), "{}", told());
        assert!(
            judged.checks.iter().all(|c| !c.detail.is_empty()),
            "{}",
            told()
        );
        [
            judged.verdict,
            judged.verdict_if.cancel,
            judged.verdict_if.terminate,
        ]
        .map(rank)
    });
    ranks.collect()
}

/// What was tried, and what went up.
#[derive(Default)]
struct Tally {
    tried: usize,
    raised: BTreeSet<String>,
}

impl Tally {
    /// Tries one mutant against what the original got.
    fn try_out(&mut self, name: &str, what: &str, before: &Ranks, mutant: Value) {
        // A field that may not be missing makes no snapshot at all.
        let Ok(snapshot) = serde_json::from_value::<Snapshot>(mutant) else {
            return;
        };
        self.tried += 1;
        let after = judge(&snapshot, &|| format!("{name}: {what}"));
        for ((request, before), after) in REQUESTS.iter().zip(before).zip(&after) {
            if before
                .iter()
                .zip(after)
                .any(|(before, after)| after > before)
            {
                let line = format!("{name}, {request:?}: {what}: {before:?} became {after:?}");
                self.raised.insert(line);
            }
        }
    }

    #[track_caller]
    fn check(self, at_least: usize) {
        let lines: Vec<_> = self.raised.iter().take(40).map(String::as_str).collect();
        assert!(
            lines.is_empty(),
            "{} of {} went up (ranks of the verdict, and had a cancel or a terminate been asked for):\n{}",
            self.raised.len(),
            self.tried,
            lines.join("\n")
        );
        assert!(self.tried >= at_least, "only {} were tried", self.tried);
    }
}

fn original(name: &str, fixture: &Value) -> Ranks {
    let snapshot = serde_json::from_value(fixture.clone()).unwrap();
    judge(&snapshot, &|| name.to_owned())
}

#[test]
fn a_missing_field_never_raises_a_verdict() {
    let mut tally = Tally::default();
    for (name, fixture) in fixtures() {
        let before = original(&name, &fixture);
        for path in optional_fields(&fixture) {
            let mut mutant = fixture.clone();
            *at(&mut mutant, &path).unwrap() = Value::Null;
            tally.try_out(
                &name,
                &format!("without {}", path.join(".")),
                &before,
                mutant,
            );
        }
    }
    tally.check(1_000);
}

#[test]
fn two_missing_fields_never_raise_a_verdict() {
    let mut tally = Tally::default();
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for (name, fixture) in fixtures() {
        let before = original(&name, &fixture);
        let fields = optional_fields(&fixture);
        for _ in 0..1_000 {
            let mut mutant = fixture.clone();
            let mut what = Vec::new();
            for _ in 0..2 {
                let path = random.one_of(&fields).expect("optional fields");
                // The first may have taken the second along.
                if let Some(field) = at(&mut mutant, path) {
                    *field = Value::Null;
                    what.push(format!("without {}", path.join(".")));
                }
            }
            tally.try_out(&name, &what.join(", "), &before, mutant);
        }
    }
    tally.check(15_000);
}

#[test]
fn whatever_is_unknown_or_contradictory_never_raises_a_verdict() {
    let mut tally = Tally::default();
    let mut random = Random(0xD1B5_4A32_D192_ED03);
    for (name, fixture) in fixtures() {
        let before = original(&name, &fixture);
        let fields = optional_fields(&fixture);
        // Each alone, as often as it has places to choose from; and then several at once.
        let alone = (0..LOWERING.len() * 12).map(|n| vec![n % LOWERING.len()]);
        let together: Vec<Vec<usize>> = (0..1_000)
            .map(|_| {
                (0..2 + random.below(4))
                    .map(|_| random.below(LOWERING.len() + 2))
                    .collect()
            })
            .collect();
        for changes in alone.chain(together) {
            let mut mutant = fixture.clone();
            let mut what = Vec::new();
            for change in changes {
                match LOWERING.get(change) {
                    Some((told, change)) => {
                        if change(&mut mutant, &mut random) {
                            what.push((*told).to_owned());
                        }
                    }
                    None => {
                        let path = random.one_of(&fields).expect("optional fields");
                        if let Some(field) = at(&mut mutant, path) {
                            *field = Value::Null;
                            what.push(format!("without {}", path.join(".")));
                        }
                    }
                }
            }
            tally.try_out(&name, &what.join(", "), &before, mutant);
        }
    }
    tally.check(15_000);
}

/// Numbers and texts that no backend has: judged somehow, without a panic.
#[test]
fn absurd_values_are_judged_without_a_panic() {
    let absurd = [
        json!(0),
        json!(-1),
        json!(i32::MIN),
        json!(u32::MAX),
        json!(u64::MAX),
        json!("0xffffffffffffffff"),
        json!("0x0"),
        json!(""),
        json!("\u{0}\u{1F4A9}".repeat(1000)),
        json!("_"),
        json!("Z"),
        json!("T"),
        json!(true),
        json!([]),
        json!({}),
    ];
    let mut judged = 0;
    for (name, fixture) in fixtures() {
        let mut all = Vec::new();
        paths(&fixture, &mut Vec::new(), &mut all);
        for path in &all {
            for value in &absurd {
                let mut mutant = fixture.clone();
                *at(&mut mutant, path).expect("a path") = value.clone();
                if let Ok(snapshot) = serde_json::from_value::<Snapshot>(mutant) {
                    judged += 1;
                    judge(&snapshot, &|| {
                        format!("{name}: {} is {value}", path.join("."))
                    });
                }
            }
        }
    }
    assert!(judged > 10_000, "only {judged} were judged");
}
