use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::{Object, ObjectSymbol};

use crate::harness::{Backend, DEADLINE, Run, Server, Stuck, server_with_testext, wait_for};

/// A frame as a debugger names it.
#[derive(Debug)]
struct Theirs {
    ip: u64,
    name: Option<String>,
    /// A function whose code was inlined into that of the next frame.
    inlined: bool,
}

/// A frame as pgpoke does.
#[derive(Debug)]
struct Ours {
    ip: u64,
    name: Option<String>,
    inlined: bool,
    module: Option<String>,
}

/// What gdb prints is made for people: a frame may be without its address, and a name may be broken
/// over lines. So it is asked frame by frame. The order is that of its `bt`, which ends at main().
const GDB_SCRIPT: &str = r#"
import gdb
frame = gdb.newest_frame()
while frame is not None:
    kind = {gdb.INLINE_FRAME: "inlined", gdb.TAILCALL_FRAME: "tailcall"}.get(frame.type(), "frame")
    print("FRAME", hex(frame.pc()), kind, frame.name() or "")
    frame = frame.older()
"#;

fn gdb(pid: i32) -> Vec<Theirs> {
    let dir = tempfile::tempdir().expect("a directory for gdb's script");
    let script = dir.path().join("frames.py");
    fs::write(&script, GDB_SCRIPT).expect("gdb's script");
    let mut command = Command::new("gdb");
    command.args(["-nx", "-batch", "-iex", "set debuginfod enabled off"]);
    command.args(["-p", &pid.to_string(), "-x"]).arg(&script);
    let run = Run::of(command);
    let frames: Vec<Theirs> = run
        .stdout
        .lines()
        .filter_map(|line| {
            let mut words = line.strip_prefix("FRAME ")?.splitn(3, ' ');
            let ip = words.next()?.strip_prefix("0x")?;
            let ip = u64::from_str_radix(ip, 16).ok()?;
            let kind = words.next()?;
            // A function that jumped to another in place of a call left nothing on the stack. gdb
            // works such functions out from call sites in debug information.
            (kind != "tailcall").then(|| Theirs {
                ip,
                name: words.next().filter(|n| !n.is_empty()).map(str::to_owned),
                inlined: kind == "inlined",
            })
        })
        .collect();
    assert!(frames.len() > 5, "{run}");
    frames
}

fn eu_stack(pid: i32) -> Vec<Theirs> {
    let mut command = Command::new("eu-stack");
    command.args(["-1", "-p", &pid.to_string()]);
    let run = Run::of(command);
    let frames: Vec<Theirs> = run
        .stdout
        .lines()
        .filter_map(|line| {
            let mut words = line.strip_prefix('#')?.split_whitespace().skip(1);
            let ip = words.next()?.strip_prefix("0x")?;
            Some(Theirs {
                ip: u64::from_str_radix(ip, 16).ok()?,
                name: words.next().map(str::to_owned),
                inlined: false,
            })
        })
        .collect();
    assert!(frames.len() > 5, "{run}");
    frames
}

fn ours(pid: i32) -> Vec<Ours> {
    let run = Run::pgpoke(["inspect", "--passive", "--json", &pid.to_string()]);
    let json = run.json();
    assert_eq!(json["stack_complete"], true, "{run}");
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let frames = json["stack"].as_array().expect("a stack").iter();
    frames
        .map(|frame| {
            let ip = frame["ip"].as_str().and_then(|ip| ip.strip_prefix("0x"));
            Ours {
                ip: u64::from_str_radix(ip.expect("an address"), 16).expect("an address"),
                name: text(&frame["function"]),
                inlined: frame["inlined"].as_bool().expect("a boolean"),
                module: text(&frame["module"]),
            }
        })
        .collect()
}

/// The names that files give to addresses, to know two names of one function.
#[derive(Default)]
struct Aliases(HashMap<String, HashMap<String, HashSet<u64>>>);

impl Aliases {
    fn same(&mut self, module: &str, one: &str, other: &str) -> bool {
        if plain(one) == plain(other) {
            return true;
        }
        let symbols = self.of(module);
        let at = |name: &str| symbols.get(without_version(name));
        at(one)
            .zip(at(other))
            .is_some_and(|(one, other)| !one.is_disjoint(other))
    }

    fn of(&mut self, module: &str) -> &HashMap<String, HashSet<u64>> {
        self.0.entry(module.to_owned()).or_insert_with(|| {
            let mut symbols: HashMap<String, HashSet<u64>> = HashMap::new();
            let bytes = match module {
                // The kernel maps the same one into every process.
                "[vdso]" => vdso(),
                file => fs::read(file).expect("a file that is mapped"),
            };
            let image = object::File::parse(&*bytes).expect("an ELF file");
            let mut add = |file: &object::File| {
                for symbol in file.symbols().chain(file.dynamic_symbols()) {
                    if symbol.is_definition() {
                        let name = without_version(symbol.name().unwrap_or_default());
                        symbols
                            .entry(name.to_owned())
                            .or_default()
                            .insert(symbol.address());
                    }
                }
            };
            add(&image);
            let debug = separate_debug_file(&image).and_then(|path| fs::read(path).ok());
            if let Some(debug) = debug {
                add(&object::File::parse(&*debug).expect("an ELF file"));
            }
            symbols
        })
    }
}

fn vdso() -> Vec<u8> {
    let maps = fs::read_to_string("/proc/self/maps").expect("our mappings");
    let line = maps.lines().find(|line| line.ends_with("[vdso]"));
    let range = line.and_then(|line| line.split_whitespace().next());
    let (start, end) = range.and_then(|r| r.split_once('-')).expect("a vdso");
    let [start, end] = [start, end].map(|at| u64::from_str_radix(at, 16).expect("an address"));
    let mut bytes = vec![0; (end - start) as usize];
    let memory = fs::File::open("/proc/self/mem").expect("our memory");
    memory.read_exact_at(&mut bytes, start).expect("the vdso");
    bytes
}

fn separate_debug_file(image: &object::File) -> Option<PathBuf> {
    let id: Vec<String> = image
        .build_id()
        .ok()??
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let (first, rest) = id.split_first()?;
    Some(
        Path::new("/usr/lib/debug/.build-id")
            .join(first)
            .join(format!("{}.debug", rest.concat())),
    )
}

fn without_version(name: &str) -> &str {
    name.split('@').next().unwrap_or(name)
}

/// Without what a library's build adds to a function's name: `__GI___clock_nanosleep` and
/// `clock_nanosleep@@GLIBC_2.17` are one function, and `f.part.0` is a part of `f`.
fn plain(name: &str) -> &str {
    let mut name = without_version(name);
    name = name.split('.').next().unwrap_or(name);
    loop {
        let shorter = ["_", "GI_", "libc_"]
            .iter()
            .find_map(|prefix| name.strip_prefix(prefix))
            .filter(|shorter| !shorter.is_empty());
        match shorter {
            Some(shorter) => name = shorter,
            None => return name,
        }
    }
}

/// Everything that they name is named by us, in the same order.
#[track_caller]
fn assert_nothing_is_missed(
    who: &str,
    theirs: &[Theirs],
    ours: &[Ours],
    aliases: &mut Aliases,
) -> usize {
    let mut unread = 0;
    let mut rest = ours.iter();
    for frame in theirs {
        let here: Vec<&Ours> = ours.iter().filter(|o| o.ip == frame.ip).collect();
        let in_extension = here.iter().any(|o| {
            let module = o.module.as_deref().unwrap_or_default();
            module.ends_with("/pgpoke_test.so")
        });
        // Of the C library's separate debug file only the symbols are read.
        if frame.inlined && !in_extension {
            assert!(!here.is_empty(), "{who} sees {frame:?}:\n{ours:#?}");
            unread += 1;
            continue;
        }
        let found = rest.find(|o| {
            o.ip == frame.ip
                && o.inlined == frame.inlined
                && match (&frame.name, &o.name, &o.module) {
                    (None, _, _) => true,
                    (Some(theirs), Some(ours), Some(module)) => aliases.same(module, theirs, ours),
                    (Some(theirs), Some(ours), None) => theirs == ours,
                    (Some(_), None, _) => false,
                }
        });
        assert!(
            found.is_some(),
            "{who} sees {frame:#x?}, and pgpoke, from there on, does not:\n{who}: {theirs:#x?}\npgpoke: {ours:#x?}"
        );
    }
    unread
}

fn addresses(frames: &[Ours]) -> Vec<u64> {
    frames.iter().map(|frame| frame.ip).collect()
}

fn signal(backend: &Backend, signal: i32) {
    // SAFETY: kill takes any numbers; this PID is a backend's that lives as long as the test.
    assert_eq!(unsafe { libc::kill(backend.pid, signal) }, 0);
}

/// All look at the same instant: the backend is stopped by SIGSTOP meanwhile.
fn compare(stuck: &Stuck, aliases: &mut Aliases) {
    let backend = stuck.backend();
    signal(&backend, libc::SIGSTOP);
    wait_for(DEADLINE, "the backend shall be stopped", || {
        (backend.state() == Some('T')).then_some(())
    });
    let before = ours(backend.pid);
    let eu_stack = eu_stack(backend.pid);
    let gdb = gdb(backend.pid);
    let after = ours(backend.pid);
    // Nobody let it run in between.
    assert_eq!(addresses(&before), addresses(&after));
    wait_for(DEADLINE, "it shall still be stopped", || {
        (backend.state() == Some('T')).then_some(())
    });
    assert_nothing_is_missed("eu-stack", &eu_stack, &after, aliases);
    let unread = assert_nothing_is_missed("gdb", &gdb, &after, aliases);
    if unread > 0 {
        eprintln!("{unread} inlined frames of gdb's are from separate debug files");
    }
    signal(&backend, libc::SIGCONT);
    backend.assert_running_untraced();
}

/// Where the backend moves, it is stopped several times.
fn stacks_agree(call: &str, times: usize) {
    let server = server_with_testext!();
    let stuck = server.stuck(&format!("SELECT {call}"));
    let mut aliases = Aliases::default();
    for _ in 0..times {
        compare(&stuck, &mut aliases);
    }
    server.assert_unharmed();
}

macro_rules! agree {
    ($($name:ident: $call:literal, $times:literal;)+) => {
        $(
            #[test]
            fn $name() {
                stacks_agree($call, $times);
            }
        )+
    };
}

// All of testext but pgpoke_vfork(), which in state D cannot be stopped.
agree! {
    spin: "pgpoke_spin()", 1;
    sleep: "pgpoke_sleep()", 1;
    read: "pgpoke_read()", 1;
    latch: "pgpoke_latch()", 1;
    stdio: "pgpoke_stdio()", 1;
    handlers_ignored: "pgpoke_handlers('ignore')", 1;
    handlers_replaced: "pgpoke_handlers('own')", 1;
    signals_blocked: "pgpoke_blocked()", 1;
    usr1_ignored: "pgpoke_usr1('ignore')", 1;
    usr1_default: "pgpoke_usr1('default')", 1;
    usr1_blocked: "pgpoke_usr1('block')", 1;
    usr1_on_another_stack: "pgpoke_usr1('altstack')", 1;
    usr1_on_a_tiny_stack: "pgpoke_usr1('smallstack')", 1;
    signal_handler: "pgpoke_handler_loop()", 1;
    held_off: "pgpoke_hold()", 1;
    critical_section: "pgpoke_crit()", 1;
    lwlock: "pgpoke_lwlock()", 1;
    spinlock: "pgpoke_spinlock()", 1;
    swallowed_errors: "pgpoke_swallow()", 1;
    malloc: "pgpoke_malloc()", 4;
    malloc_beside_a_thread: "pgpoke_malloc_threads()", 4;
    palloc: "pgpoke_palloc()", 4;
    callback_of_libc: "pgpoke_qsort()", 1;
    recursion: "pgpoke_deep(50)", 1;
    computation: "pgpoke_checked(3600)", 3;
    clock: "pgpoke_gap(3600)", 2;
}

#[test]
fn fifo() {
    let server = Server::start();
    compare(&server.stuck_on_fifo(), &mut Aliases::default());
    server.assert_unharmed();
}

#[test]
fn names_are_compared_as_meant() {
    assert_eq!(
        plain("__GI___clock_nanosleep"),
        plain("clock_nanosleep@@GLIBC_2.17")
    );
    assert_eq!(plain("__libc_malloc"), plain("__GI___libc_malloc"));
    assert_eq!(plain("msort_with_tmp.part.0"), "msort_with_tmp");
    assert_ne!(plain("read"), plain("pread"));
    assert_eq!(plain("_"), "_");
    let libc = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6"];
    let Some(libc) = libc.iter().find(|path| Path::new(path).exists()) else {
        return;
    };
    let mut aliases = Aliases::default();
    assert!(aliases.same(libc, "malloc", "__libc_malloc"));
    assert!(aliases.same(libc, "_IO_fgets", "fgets"));
    assert!(!aliases.same(libc, "fgets", "fputs"));
}
