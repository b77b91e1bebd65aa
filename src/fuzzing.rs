//! What `fuzz/` feeds: one function for each kind of hostile input. Each takes any bytes, and panics only where pgpoke
//! would, or where an answer breaks a promise.
//!
//! Made for `cargo fuzz` (feature `fuzzing`) and for the tests, which replay the seeds; not part of what pgpoke offers.

use std::path::{Component, Path};
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use crate::address::{Avma, Svma};
use crate::arch::host::PROCESSOR;
use crate::arch::x86_64::spinlocks::Release;
use crate::arch::{Processor, UnwindRegisters};
use crate::assess::{Assessment, Request, Status, Verdict, assess};
use crate::evidence::redact::{Redactor, passwords};
use crate::image::{AddressSpace, Image, build_id_in_memory};
use crate::memory::CapturedMemory;
use crate::postgres::{BackendType, ROWS, Title, status};
use crate::process::{Process, maps, mounts, passwd, sockets, text};
use crate::render;
use crate::render::screen::Screen;
use crate::snapshot::Snapshot;
use crate::unwind::variables::FrameVariables;
use crate::unwind::{self, MOST_FRAMES};

/// An ELF file, and everything that is looked up in one.
pub fn elf(data: &[u8]) {
    let Ok(image) = Image::from_bytes(data.to_vec()) else {
        return;
    };
    let named = image.symbols().by_name(&["main", "MyProcPid", "a"]);
    let mut places = vec![0, 0x1000, 0x1001, u64::MAX];
    places.extend(named.values().map(|(symbol, _)| symbol.start.0));
    for at in places.into_iter().map(Svma) {
        let _ = image.function_at(at).map(|f| f.name.len());
        let _ = image.symbols().functions_at(at).count();
        let _ = image.bytes_at(at, 64);
        let _ = image.bias_of_mapping(Avma(0x40_0000), at.0);
        if let Some((start, size)) = image.function_bounds(at) {
            image.learn_spinlocks(start, size);
            let _ = image
                .known_spinlocks(start)
                .map(|s| s.may_be_held_at(at, Release::SameOperand));
            image.learn_callers(&[start]);
        }
        let _ = image.lines().map(|lines| lines.functions_at(at).len());
    }
    image.learn_handed_spinlocks();
    let _ = image.symbols().variables(&["a", "MyProcPid"]);
    let _ = image.find_constant(b"PostgreSQL ", 200);
}

/// Notes, in a file and in memory; an image that is loaded there; compressed debug information.
pub fn notes(data: &[u8]) {
    if let Some(id) = crate::image::build_id_in_notes(data) {
        assert!(!id.0.is_empty() && id.0.len() <= data.len());
    }
    let mut memory = CapturedMemory::default();
    memory.add(Avma(0x1000), data.to_vec());
    let _ = build_id_in_memory(&memory, Avma(0x1000));
    let loaded = Image::from_memory(&memory, Avma(0x1000));
    let _ = loaded.map(|image| image.function_bounds(Svma(0x1000)));
    let _ = crate::image::decompress(data);
}

/// What leads from an image to its debug information: links, and the compressed file inside it.
pub fn debuglink(data: &[u8]) {
    /// Enough for any file that so few bytes can be packed from, but for one that expands without end.
    const MOST_UNPACKED: u64 = 4 << 20;
    if let Some((name, _)) = crate::image::debug_link(data) {
        let mut parts = Path::new(name).components();
        let plain = matches!(parts.next(), Some(Component::Normal(_)));
        assert!(plain && parts.next().is_none());
    }
    if let Some((path, id)) = crate::image::alternate_link(data) {
        assert!(!path.as_os_str().is_empty() && id.0.len() > 1);
    }
    if let Some(unpacked) = crate::image::unpack(data, MOST_UNPACKED) {
        let _ = Image::from_bytes(unpacked).map(|image| image.symbols().by_name(&["main"]).len());
    }
}

/// Where the code is that the call-frame information under test is about.
const CODE: u64 = 0x4000;
const CODE_SIZE: u64 = 0x4000;
/// Where its stack is.
const STACK: u64 = 0x8000;

/// Any call-frame information over any stack: two lengths, where it stands, registers; `.eh_frame_hdr`, `.eh_frame`,
/// and the rest is the stack.
pub fn cfi(data: &[u8]) {
    let Some((head, rest)) = data.split_first_chunk::<24>() else {
        return;
    };
    let u16_at = |i: usize| u16::from_le_bytes([head[i], head[i + 1]]);
    let hdr_size = rest.len().min(u16_at(0).into());
    let (hdr, rest) = rest.split_at(hdr_size);
    let frame_size = rest.len().min(u16_at(2).into());
    let (eh_frame, stack) = rest.split_at(frame_size);
    let hdr = (!hdr.is_empty()).then(|| hdr.to_vec());
    let image = Image::of_call_frames(PROCESSOR.e_machine(), eh_frame.to_vec(), hdr);

    let mut registers = UnwindRegisters::filled(PROCESSOR.call_frames(), 0);
    for (register, byte) in registers.values.iter_mut().zip(&head[8..]) {
        *register = STACK + u64::from(*byte) * 8;
    }
    let registers = registers.at(Avma(CODE + u64::from(u16_at(4)) % CODE_SIZE));
    let mut memory = CapturedMemory::default();
    memory.add(Avma(STACK), stack.to_vec());

    let me = Process::open(std::process::id() as i32).expect("this process");
    let space = AddressSpace::of_image(&me, Avma(CODE)..Avma(CODE + CODE_SIZE), Rc::new(image));
    let found = unwind::unwind(&registers, &memory, &space);
    assert!(!found.frames.is_empty() && found.frames.len() <= MOST_FRAMES);
}

/// Any image with debug information and call-frame information, and a stack: where it stands, registers, then how long
/// the stack is, the stack, and the image. All variables of all frames.
pub fn variables(data: &[u8]) {
    for function in variables_in(data).iter().flatten().flatten() {
        for variable in function.arguments.iter().chain(&function.locals) {
            let text = format!(
                "{} {} {}",
                variable.name, variable.type_name, variable.value
            );
            let odd = text.chars().find(|c| crate::process::is_obeyed(*c));
            assert!(odd.is_none(), "{odd:?} in {text:?}");
        }
    }
}

/// The same, and what was found.
fn variables_in(data: &[u8]) -> Option<Vec<Vec<FrameVariables>>> {
    let (head, rest) = data.split_first_chunk::<24>()?;
    let u16_at = |i: usize| u16::from_le_bytes([head[i], head[i + 1]]);
    let (stack, file) = rest.split_at(rest.len().min(u16_at(2).into()));
    let image = Image::from_bytes(file.to_vec()).ok()?;
    let mut registers = UnwindRegisters::filled(PROCESSOR.call_frames(), 0);
    for (register, byte) in registers.values.iter_mut().zip(&head[8..]) {
        *register = STACK + u64::from(*byte) * 8;
    }
    let registers = registers.at(Avma(u16_at(0).into()));
    let mut memory = CapturedMemory::default();
    memory.add(Avma(STACK), stack.to_vec());
    let me = Process::open(std::process::id() as i32).expect("this process");
    let space = AddressSpace::of_image(&me, Avma(0)..Avma(STACK), Rc::new(image));
    let unwound = unwind::unwind(&registers, &memory, &space);
    let told = unwind::variables::read(&unwound, &registers, &memory, Some(&memory), &space);
    assert_eq!(told.len(), unwound.frames.len());
    Some(told)
}

/// What `/proc` tells, by the first byte: which of the readers gets the rest.
pub fn proc_text(data: &[u8]) {
    let Some((which, data)) = data.split_first() else {
        return;
    };
    let lossy = String::from_utf8_lossy(data);
    match which {
        b'm' => {
            let found = maps::parse(data);
            let _ = maps::find(&found, Avma(0x1000));
            assert!(found.iter().all(|m| m.start < m.end));
        }
        b's' => {
            let _ = text::stat(data);
        }
        b'S' => {
            let _ = text::status(data);
        }
        b'l' => {
            let _ = text::stack_limit(data);
        }
        b'c' => {
            let _ = text::syscall(data);
            let _ = text::cpu_nanoseconds(data);
        }
        b'M' => {
            let _ = mounts::find(&lossy, "22");
        }
        b'n' => {
            let _ = sockets::in_inet_table(data, "tcp", 4711).map(|s| s.describe());
            let _ = sockets::in_unix_table(data, 4711).map(|s| s.describe());
        }
        b'a' => {
            let _ = sockets::peer_in(data).map(|s| s.describe());
        }
        b'r' => {
            let redactor = Redactor::new(["db7.shop.example".to_owned()]);
            let _ = redactor.text(&lossy).len() + redactor.log(&lossy).len();
            let _ = redactor.message(&lossy).len() + redactor.setting("port", &lossy).len();
            let _ = redactor.csv_log(&lossy).len() + redactor.json_log(&lossy).len();
            let _ = redactor.command(lossy.split(' ')).len();
            let _ = passwords(&lossy);
        }
        b'p' => {
            let name = passwd::find(&lossy, 999).unwrap_or_default();
            assert!(!name.contains(|c: char| c.is_whitespace() || c.is_control()));
        }
        // What lies in shared memory, where any process of the server may write.
        b'e' => {
            for layout in ROWS {
                let status = status::of_bytes(data, layout).ok();
                let query = status.and_then(|s| s.query).unwrap_or_default();
                assert!(query.len() <= 3 * data.len());
            }
        }
        _ => {
            let cluster = lossy.split(' ').nth(3).unwrap_or_default();
            let _ = Title::parse(data, cluster);
            let title = Title::parse(data, "").unwrap_or_default();
            for kind in [
                BackendType::Client,
                BackendType::WalSender,
                BackendType::AutovacuumWorker,
            ] {
                for in_database in [None, Some(false), Some(true)] {
                    let (user, database) = title.names(kind, in_database);
                    assert!([user, database].iter().flatten().all(|n| !n.is_empty()));
                }
            }
            let _ = title.leader();
        }
    }
}

/// A snapshot: any JSON, or one that was captured with changes that the bytes ask for.
pub fn snapshots(data: &[u8]) {
    let value = match data.first() {
        None => return,
        Some(b'{') => serde_json::from_slice(data).ok(),
        Some(_) => Some(changed_fixture(data)),
    };
    let snapshot = value.and_then(|v| serde_json::from_value::<Snapshot>(v).ok());
    let Some(snapshot) = snapshot else {
        return;
    };
    let narrow = Screen {
        columns: Some(1),
        colour: true,
    };
    for request in [Request::Pending, Request::Cancel, Request::Terminate] {
        let judged = assess(&snapshot, request, &[]);
        keeps_its_promises(&judged);
        for whole in [false, true] {
            let text = render::text::inspection(&snapshot, &judged, whole, Screen::PLAIN);
            let odd = text.chars().find(|c| c.is_control() && *c != '\n');
            assert!(odd.is_none(), "{odd:?} is printed: {text:?}");
        }
        let json = render::json::inspection(&snapshot, &judged);
        let json: Value = serde_json::from_str(&json).expect("JSON");
        assert!(json.is_object());
        let _ = render::text::question("", &snapshot, &judged, Duration::from_secs(5), narrow);
    }
}

/// Never safe where a check did not pass, apart from `handlers`, which is never an objection.
fn keeps_its_promises(judged: &Assessment) {
    let open = judged
        .checks
        .iter()
        .find(|c| c.status != Status::Pass && c.code != "handlers");
    assert!(
        judged.verdict != Verdict::Safe || open.is_none(),
        "safe, and {open:?}"
    );
    assert!(!judged.cause.summary.is_empty());
    assert!(judged.checks.iter().all(|c| !c.detail.is_empty()));
}

/// Captured snapshots that differ most.
const FIXTURES: [&str; 8] = [
    include_str!("../tests/fixtures/spin-cancel.json"),
    include_str!("../tests/fixtures/idle.json"),
    include_str!("../tests/fixtures/lock-wait.json"),
    include_str!("../tests/fixtures/python-cancel.json"),
    include_str!("../tests/fixtures/latch-cancel.json"),
    include_str!("../tests/fixtures/spinlock-terminate.json"),
    include_str!("../tests/fixtures/lwlock-wait-terminate.json"),
    include_str!("../tests/fixtures/read-cancel.json"),
];

/// The fixtures, and the pointers to all their values.
fn fixtures() -> &'static [(Value, Vec<String>)] {
    static PARSED: OnceLock<Vec<(Value, Vec<String>)>> = OnceLock::new();
    PARSED.get_or_init(|| {
        let parse = |text: &&str| {
            let value = serde_json::from_str(text).expect("a fixture");
            let mut pointers = Vec::new();
            collect_pointers(&value, String::new(), &mut pointers);
            (value, pointers)
        };
        FIXTURES.iter().map(parse).collect()
    })
}

fn collect_pointers(value: &Value, here: String, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(k, v)| collect_pointers(v, format!("{here}/{k}"), found)),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(i, v)| collect_pointers(v, format!("{here}/{i}"), found)),
        _ => {}
    }
    found.push(here);
}

/// The first byte chooses the snapshot; then every six bytes are a change: where, what kind, and a number for it.
fn changed_fixture(data: &[u8]) -> Value {
    const MOST_CHANGES: usize = 24;
    let (first, changes) = data.split_first().unwrap_or((&0, &[]));
    let all = fixtures();
    let (value, pointers) = &all[usize::from(*first) % all.len()];
    let mut value = value.clone();
    for change in changes.as_chunks::<6>().0.iter().take(MOST_CHANGES) {
        let number = |i: usize| usize::from(u16::from_le_bytes([change[i], change[i + 1]]));
        let target = value.pointer_mut(&pointers[number(0) % pointers.len()]);
        let Some(target) = target else { continue };
        let n = number(3);
        *target = match change[2] % 12 {
            0 => Value::Null,
            1 => Value::Bool(n % 2 == 1),
            2 => n.into(),
            3 => (-(n as i64)).into(),
            4 => [u64::MAX, 1 << 63, 1 << 32, 0][n % 4].into(),
            5 => format!("{n:#x}").into(),
            6 => "\u{1b}[31m\u{0}\n\u{1F4A9}".repeat(n % 64).into(),
            7 => Value::Array(Vec::new()),
            // Something that stands elsewhere, there or in another snapshot.
            8..=10 => {
                let (other, pointers) = &all[usize::from(change[5]) % all.len()];
                let from = other.pointer(&pointers[n % pointers.len()]);
                from.cloned().unwrap_or_default()
            }
            // One element less, or one twice.
            _ => match target.take() {
                Value::Array(mut items) if !items.is_empty() => {
                    let at = n / 2 % items.len();
                    let item = items.remove(at);
                    if n % 2 == 1 {
                        items.splice(at..at, [item.clone(), item]);
                    }
                    items.into()
                }
                other => other,
            },
        };
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `leaf(struct point *p, …)` stands in its middle, called by `middle()`, which is inlined in `outer()`.
    #[test]
    fn variables_of_seeds() {
        let value = |function: &FrameVariables, name: &str| {
            let mut all = function.locals.iter().chain(&function.arguments);
            let found = all.find(|variable| variable.name == name);
            found.map(|v| (v.type_name.clone(), v.value.to_string()))
        };
        for seed in ["gcc-dwarf4", "gcc-dwarf5"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/variables");
            let told = variables_in(&std::fs::read(path.join(seed)).unwrap()).unwrap();
            let names = |frame: &Vec<FrameVariables>| -> Vec<String> {
                frame.iter().flat_map(|f| f.function.clone()).collect()
            };
            assert_eq!(names(&told[0]), ["leaf"], "{seed}");
            assert_eq!(names(&told[1]), ["middle", "outer"], "{seed}");
            let (of, here) = value(&told[0][0], "here").unwrap();
            assert_eq!(of, "struct point");
            let start = "{x = 3, y = 4, f = 3, g = 11, next = 0x8200";
            assert!(here.starts_with(start), "{seed}: {here}");
            let (of, passed) = value(&told[1][0], "p").unwrap();
            assert_eq!(of, "struct point");
            assert!(passed.starts_with("{x = 12, y = 2, "), "{seed}: {passed}");
            assert_eq!(value(&told[0][0], "text").unwrap().0, "const char *");
            let (of, _) = value(&told[0][0], "f").unwrap();
            assert_eq!(of, "int (*)(struct point *, int, const char *, double)");
        }
    }

    /// What the fuzzers start from, and what they once found, on every run of the tests.
    #[test]
    fn seeds() {
        type Target = fn(&[u8]);
        let targets: [(&str, Target); 7] = [
            ("elf", elf),
            ("notes", notes),
            ("cfi", cfi),
            ("debuglink", debuglink),
            ("proc_text", proc_text),
            ("snapshots", snapshots),
            ("variables", variables),
        ];
        for (name, target) in targets {
            let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("fuzz/seeds")
                .join(name);
            let files =
                std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
            let mut count = 0;
            for file in files {
                target(&std::fs::read(file.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count > 0, "no seeds of {name}");
        }
    }
}
