//! What machine code shows of spinlocks: those of servers, and libraries whose functions leave one to others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use iced_x86::{Code, Decoder, DecoderOptions};
use object::{Object, ObjectSection, ObjectSymbol};
use pgpoke::address::Svma;
use pgpoke::arch::{To, Way};
use pgpoke::image::Image;
use serde_json::{Value, json};

use crate::harness::{
    Backend, DEADLINE, How, Installation, Run, server_with_testext, skip, wait_for,
};
use crate::report::Report;

fn read(library: &Path) -> Image {
    let file = File::open(library).unwrap_or_else(|e| panic!("{}: {e}", library.display()));
    let image = Image::from_file(file).expect("an ELF image");
    assert_eq!(image.hands_out_spinlocks(), None, "nobody has looked yet");
    image.learn_handed_spinlocks();
    image
}

/// Whether a function of that name may hold a spinlock that another one took.
fn may_be_handed(image: &Image, function: &'static str) -> bool {
    let found = image.symbols().by_name(&[function]);
    let (symbol, _) = found.get(function).expect(function);
    image.may_be_handed_spinlock(symbol.start).expect("known")
}

const CONTRIB: &str = "/usr/lib/postgresql/15/lib";

#[test]
fn libraries_that_hand_out_spinlocks_are_told_from_others() {
    let installation = Installation::default();
    if installation.pg_config().is_none() {
        skip!("no headers for {}", installation.version());
    }
    // Each function takes and releases it itself.
    let testext = read(&installation.testext());
    assert_eq!(testext.hands_out_spinlocks(), Some(false));
    // Of this one, one function takes one for another.
    let directory = tempfile::tempdir().expect("a directory");
    let handed = read(&handed(&installation, directory.path()));
    assert_eq!(handed.hands_out_spinlocks(), Some(true));
    for (function, may) in [
        ("take_for_caller", true),
        ("holds_one", true),
        ("holds_none", false),
        ("spin", false),
    ] {
        assert_eq!(may_be_handed(&handed, function), may, "{function}");
    }
    let contrib = Path::new(CONTRIB);
    if !contrib.exists() {
        skip!("no {}", contrib.display());
    }
    let hands_out = |library| read(&contrib.join(library)).hands_out_spinlocks();
    assert_eq!(hands_out("pg_stat_statements.so"), Some(false));
    assert_eq!(hands_out("dblink.so"), Some(false));
    // These have LockBufHdr() take a lock for them.
    let buffers = read(&contrib.join("pg_buffercache.so"));
    assert!(may_be_handed(&buffers, "pg_buffercache_pages"));
    let prewarm = read(&contrib.join("pg_prewarm.so"));
    assert!(may_be_handed(&prewarm, "autoprewarm_main"));
    assert!(!may_be_handed(&prewarm, "pg_prewarm"));
}

/// What every library below begins with.
const SPINLOCKS_IN_C: &str = r#"
typedef unsigned char slock_t;
#define API __attribute__((visibility("default"), noinline, noclone))
#define OWN static __attribute__((noinline, noclone))
extern void s_lock(volatile slock_t *lock);
extern void work(void);
extern __attribute__((cold)) void rarely(void);
static inline int tas(volatile slock_t *lock)
{
    slock_t result = 1;
    __asm__ __volatile__("lock xchgb %0,%1" : "+q"(result), "+m"(*lock) : : "memory", "cc");
    return result;
}
#define TAKE(lock) do { if (tas(lock)) s_lock(lock); } while (0)
#define GIVE(lock) do { __asm__ __volatile__("" : : : "memory"); *(lock) = 0; } while (0)
static volatile slock_t the_lock;
OWN void leaves(volatile slock_t *lock) { TAKE(lock); }
API void uses(void) { leaves(&the_lock); work(); GIVE(&the_lock); }
API void other(void) { work(); work(); }
"#;

/// A library, and which of its functions may be handed a spinlock.
type Shape = (&'static str, &'static [(&'static str, bool)]);

const ALL: &[(&str, bool)] = &[("other", true), ("uses", true)];

const SHAPES: &[Shape] = &[
    (
        // Through the procedure linkage table, as whoever exports a function calls it.
        "API void middle(void) { uses(); work(); } API void beyond(void) { middle(); work(); }
         API void beside(void) { other(); work(); }",
        &[
            ("leaves", true),
            ("uses", true),
            ("middle", true),
            ("beyond", true),
            ("beside", false),
            ("other", false),
        ],
    ),
    (
        // A jump in place of a call and a return: the one that jumped is on no stack.
        "OWN void goes_on(void) { work(); GIVE(&the_lock); }
         OWN void jumps(void) { leaves(&the_lock); goes_on(); }
         API void top(void) { jumps(); GIVE(&the_lock); work(); }",
        &[("goes_on", true), ("jumps", true), ("top", true), ("other", false)],
    ),
    (
        // A part that the compiler moves elsewhere, and that jumps back into the middle.
        "OWN int parted(int n) { TAKE(&the_lock); if (n > 1000) { rarely(); n = 3; } the_lock = 0; work(); return n + 1; }
         API int calls(int n) { n = parted(n); GIVE(&the_lock); return n; }",
        &[
            ("parted", true),
            ("parted.cold", true),
            ("calls", true),
            ("other", false),
        ],
    ),
    (
        "void (*volatile pointer)(volatile slock_t *) = leaves;",
        ALL,
    ),
    (
        "void *volatile there; API void gives(void) { there = (void *) leaves; }",
        ALL,
    ),
    ("API void also(void) { TAKE(&the_lock); }", ALL),
    ("API void keeps(void) { leaves(&the_lock); work(); }", ALL),
    (
        "OWN void keeps(void) { leaves(&the_lock); work(); }
         API void top(void) { keeps(); work(); GIVE(&the_lock); }",
        &[("keeps", true), ("top", true), ("other", false)],
    ),
    (
        "extern void a(void), b(void), c(void), d(void), e(void), f(void);
         OWN void chooses(int n) { TAKE(&the_lock);
            switch (n) { case 0: a(); break; case 1: b(); a(); break; case 2: c(); work(); break;
                         case 3: d(); break; case 4: e(); c(); break; case 5: f(); break; }
            GIVE(&the_lock); work(); }
         API void calls(int n) { chooses(n); work(); }",
        ALL,
    ),
    (
        "extern unsigned LockBufHdr(void *);
         API void header(volatile unsigned *b) { unsigned s = LockBufHdr((void *) b); work(); b[6] = s & ~(1u << 22); }",
        &[("header", true), ("other", false)],
    ),
    (
        "extern unsigned LockBufHdr(void *);
         API void header(volatile unsigned *b) { unsigned s = LockBufHdr((void *) b); work(); b[6] = s; }",
        ALL,
    ),
    (
        "extern unsigned LockBufHdr(void *);
         unsigned (*volatile pointer)(void *) = LockBufHdr;",
        ALL,
    ),
];

#[test]
fn a_lock_that_is_left_taints_who_may_hold_it_and_no_one_else() {
    let dir = tempfile::tempdir().expect("a directory");
    for (n, (code, expected)) in SHAPES.iter().enumerate() {
        for options in [
            &["-O2"][..],
            &["-O2", "-fcf-protection"],
            &["-O2", "-fno-plt"],
        ] {
            let source = dir.path().join("shape.c");
            let library = dir.path().join("shape.so");
            std::fs::write(&source, format!("{SPINLOCKS_IN_C}{code}")).expect("a source");
            let cc = Command::new("cc")
                .args(["-shared", "-fPIC", "-o"])
                .args([&library, &source])
                .args(options)
                .status();
            assert!(cc.expect("a compiler").success(), "{n}");
            let image = read(&library);
            // What calls through the slot itself does not show that nobody else has the address.
            let no_stub = code.contains("LockBufHdr") && options.contains(&"-fno-plt");
            for (function, may) in *expected {
                let found = may_be_handed(&image, function);
                let may = &(*may || no_stub);
                assert_eq!(found, *may, "{function} of number {n}, {options:?}");
            }
        }
    }
}

/// An instruction that calls or jumps.
struct Branch {
    at: u64,
    to: u64,
    calls: bool,
    /// What lies there, by its name.
    what: String,
}

/// What objdump makes of a library: the instructions that call or jump to a fixed place.
fn disassembled(library: &Path) -> Vec<Branch> {
    let output = Command::new("objdump")
        .args(["-d", "--no-show-raw-insn"])
        .arg(library)
        .output();
    let text = String::from_utf8(output.expect("objdump").stdout).expect("text");
    let branch = |line: &str| {
        let (at, code) = line.split_once(":\t")?;
        let mut words = code.split_whitespace();
        let name = words.find(|w| !["bnd", "notrack"].contains(w))?;
        let to = u64::from_str_radix(words.next()?, 16).ok()?;
        let what = code.rsplit_once('<')?.1.trim_end_matches('>');
        let at = u64::from_str_radix(at.trim(), 16).ok()?;
        (name == "call" || name.starts_with('j')).then(|| Branch {
            at,
            to,
            calls: name == "call",
            what: what.to_owned(),
        })
    };
    text.lines().filter_map(branch).collect()
}

/// Against another disassembler: all direct calls of all functions of a server, and its jumps from one to another.
#[test]
fn ways_out_of_a_servers_functions_are_those_that_objdump_sees() {
    let server = Installation::default().server();
    let image = Image::from_file(File::open(&server).expect("the server")).expect("an image");
    let mut expected: BTreeMap<u64, BTreeSet<(u64, u64)>> = BTreeMap::new();
    let mut bounds = (Svma(0), 0);
    for Branch { at, to, .. } in disassembled(&server) {
        if at.wrapping_sub(bounds.0.0) >= bounds.1 {
            match image.function_bounds(Svma(at)) {
                Some(found) => bounds = found,
                None => continue,
            }
        }
        let ways = expected.entry(bounds.0.0).or_default();
        ways.insert((at, to));
    }
    assert!(expected.len() > 10_000, "{} functions", expected.len());
    let mut checked = 0;
    for (start, expected) in expected {
        let (start, size) = image.function_bounds(Svma(start)).expect("its bounds");
        let name = image.function_at(start).map_or("", |f| f.name);
        let code = image.bytes_at(start, size).expect("its code");
        let ways = image.machine().ways(&code, start);
        let ways = ways.unwrap_or_else(|| panic!("{name} {start} cannot be read"));
        let own = start.0..start.0 + size;
        let at = |way: &Way| match way.to {
            To::At(to) => Some((way.site.0, to.0)),
            To::Through(_) => None,
        };
        // What runs on into the next function is no instruction of its own.
        let found: BTreeSet<_> = (ways.out.iter().filter_map(at))
            .filter(|(_, to)| *to != own.end || expected.iter().any(|(_, e)| e == to))
            .collect();
        let calls = |(at, to): &&(u64, u64)| !own.contains(to) || found.contains(&(*at, *to));
        let expected: BTreeSet<_> = expected.iter().filter(calls).copied().collect();
        assert_eq!(found, expected, "{name} {start}");
        checked += found.len();
    }
    println!("{checked} calls and jumps");
    assert!(checked > 100_000, "{checked}");
}

/// Against all paths that objdump sees: in these libraries nothing but LockBufHdr() leaves a lock, and nobody jumps away
/// with it.
#[test]
fn who_cannot_come_to_lockbufhdr_holds_nothing_of_it() {
    let (mut seen, mut told) = (0, 0);
    let builds = Installation::dwarf().into_iter();
    let dwarf = builds.map(|i| i.bindir.join("../lib"));
    for dir in dwarf.chain([Path::new(CONTRIB).to_owned()]) {
        for name in ["pg_buffercache.so", "pg_prewarm.so"] {
            let library = dir.join(name);
            if !library.exists() {
                continue;
            }
            seen += 1;
            let image = read(&library);
            let exported = |name: &str| {
                let bytes = std::fs::read(&library).expect("the library");
                let elf = object::File::parse(&bytes[..]).expect("an ELF file");
                let mut symbols = elf.dynamic_symbols();
                let defined = |s: &object::Symbol| s.is_definition() && s.name() == Ok(name);
                symbols.find(defined).map(|s| s.address())
            };
            let bytes = std::fs::read(&library).expect("the library");
            let elf = object::File::parse(&bytes[..]).expect("an ELF file");
            let text = elf.section_by_name(".text").expect("code");
            let text = text.address()..text.address() + text.size();
            let start_of = |at: u64| match text.contains(&at) {
                true => image.function_bounds(Svma(at)).map(|(start, _)| start.0),
                false => None,
            };
            let mut all = BTreeSet::new();
            let mut holds = BTreeSet::new();
            let mut ways = Vec::new();
            for branch in disassembled(&library) {
                let Some(from) = start_of(branch.at) else {
                    continue;
                };
                all.insert(from);
                let to = match branch.what.strip_suffix("@plt") {
                    Some("LockBufHdr") => {
                        holds.insert(from);
                        None
                    }
                    Some(stub) => exported(stub),
                    None => start_of(branch.to),
                };
                ways.extend(to.map(|to| (from, to, branch.calls)));
            }
            // Whoever can come there, and whoever is jumped to by one of those.
            for jumped_to in [false, true] {
                loop {
                    let before = holds.len();
                    for (from, to, calls) in &ways {
                        if !jumped_to && holds.contains(to) {
                            holds.insert(*from);
                        } else if jumped_to && !calls && holds.contains(from) {
                            holds.insert(*to);
                        }
                    }
                    if holds.len() == before {
                        break;
                    }
                }
            }
            let handed = |at: &&u64| image.may_be_handed_spinlock(Svma(**at)) == Some(true);
            let found: BTreeSet<u64> = all.iter().filter(handed).copied().collect();
            assert_eq!(found, holds, "{}", library.display());
            println!(
                "{}: {} of {} functions with calls or jumps may be handed one; all could not be told before",
                library.display(),
                found.len(),
                all.len()
            );
            told += all.len() - found.len();
        }
    }
    if seen == 0 {
        skip!("no pg_buffercache");
    }
    assert!(told > 5 * (seen / 2), "{told} in {seen}");
}

/// Each function of a server that calls s_lock(), or that does an exchange of a byte, takes a spinlock; but for
/// do_autovacuum() from 16 on, which sets a flag.
#[test]
fn flags_of_servers_are_told_from_spinlocks() {
    let npm = (12..=18).filter_map(Installation::npm);
    let wheels = ["16.2", "16.14", "18.4"].into_iter();
    let all = npm
        .chain(wheels.filter_map(Installation::wheel))
        .chain(Installation::dwarf())
        .chain([Installation::debian()]);
    let mut flags_seen = Vec::new();
    for installation in all {
        let server = installation.server();
        let file = std::fs::read(&server).expect("the server");
        let image = Image::from_bytes(file.clone()).expect("an ELF image");
        let elf = object::File::parse(&file[..]).expect("an ELF file");
        let text = elf.section_by_name(".text").expect("code");
        let (start, code) = (text.address(), text.data().expect("code"));
        let of = |at: usize| image.function_bounds(Svma(start + at as u64));
        let s_lock = image.symbols().by_name(&["s_lock"])["s_lock"].0.start;

        let mut callers = BTreeSet::new();
        let mut exchangers = BTreeSet::new();
        for at in 0..code.len() - 8 {
            let to = start + at as u64 + 5;
            let by = i32::from_le_bytes(code[at + 1..at + 5].try_into().expect("four bytes"));
            if code[at] == 0xe8 && to.wrapping_add_signed(by.into()) == s_lock.0 {
                callers.extend(of(at));
            }
            let rex = usize::from(code[at + 1] & 0xf0 == 0x40);
            if code[at] == 0xf0 && code[at + 1 + rex] == 0x86 {
                exchangers.extend(of(at));
            }
        }
        // s_lock() itself is waited in, not held in; and what looks like one may be a part of another instruction.
        exchangers.retain(|(start, size)| {
            let code = image.bytes_at(*start, *size).expect("its code");
            let mut all = Decoder::with_ip(64, &code, start.0, DecoderOptions::NONE).into_iter();
            *start != s_lock && all.any(|i| i.code() == Code::Xchg_rm8_r8 && i.has_lock_prefix())
        });
        let name = server.display();
        assert!(callers.len() > 60, "{name}: {}", callers.len());
        let mut flags = Vec::new();
        for (start, size) in callers.union(&exchangers) {
            image.learn_spinlocks(*start, *size);
            let found = image.known_spinlocks(*start).expect("its code");
            if found.are_none() {
                assert!(!callers.contains(&(*start, *size)), "{name}: {start:?}");
                let function = image.function_at(*start).map(|s| s.name.to_owned());
                flags.push(function.unwrap_or_default());
            }
        }
        match installation.major() {
            ..16 => assert_eq!(flags, [""; 0], "{name}"),
            16.. => assert_eq!(flags, ["do_autovacuum"], "{name}"),
        }
        flags_seen.extend(flags);
    }
    if flags_seen.is_empty() {
        skip!("no server of 16 or later");
    }
}

/// The line of testext's function `function` that has `text`.
fn line_of(function: &str, text: &str) -> usize {
    let testext = Path::new(env!("CARGO_MANIFEST_DIR")).join("testext/pgpoke_test.c");
    let source = std::fs::read_to_string(testext);
    let source = source.expect("testext's source");
    let lines = source.lines().enumerate();
    let mut lines = lines.skip_while(|(_, line)| !line.starts_with(&format!("{function}(")));
    let found = lines.find(|(_, line)| line.contains(text));
    found.expect("the line").0 + 1
}

/// Whoever waits is told whose lock it is, where it is taken, and who does not go on; when that one lets go, both are free.
#[test]
fn a_waiter_is_told_whose_spinlock_it_is_and_who_does_not_go_on() {
    let server = server_with_testext!();
    let holder = server.stuck("SELECT pgpoke_spinlock_hold()");
    let waiter = server.stuck("SELECT pgpoke_spinlock_wait()");
    waiter.prove_stuck(How::Terminate);

    let line = line_of("pgpoke_spinlock_wait", "SpinLockAcquire");
    let whose =
        format!("that pgpoke_spinlock_wait() in pgpoke_test.so takes at pgpoke_test.c:{line}");
    let report = Report::of(&["inspect"], waiter.pid());
    report
        .assert_verdict("unsafe")
        .assert_at("/cause/code", "spinlock-wait")
        .assert_advises("pgpoke list");
    assert!(
        report.text("/cause/summary").contains(&whose),
        "{}",
        report.run
    );
    report
        .run
        .assert_says("no other process of the server is stopped");

    // In the list, too, which looks at no stack.
    let list = Run::pgpoke(["list", "--json"]).json();
    let of = |pid: i32| {
        let all = list.pointer("/backends").and_then(Value::as_array);
        let all = all.expect("backends").iter();
        let mut found = all.filter(|b| b.pointer("/pid") == Some(&json!(pid)));
        found.next().expect("the backend").clone()
    };
    let cause = of(waiter.pid()).pointer("/cause/code").cloned();
    assert_eq!(cause, Some(json!("spinlock-wait")), "{list:#}");

    // Whoever is stopped is named, and nothing false is said of him.
    let stopped = holder.backend();
    stopped.send(libc::SIGSTOP);
    wait_for(DEADLINE, "the holder shall be stopped", || {
        (stopped.state() == Some('T')).then_some(())
    });
    let report = Report::of(&["inspect"], waiter.pid());
    stopped.send(libc::SIGCONT);
    report
        .assert_at("/cause/code", "spinlock-wait")
        .assert_advises(&format!("pgpoke inspect {}", holder.pid()));
    let stopped = format!("process {} is stopped (state T)", holder.pid());
    report.run.assert_says(&stopped);

    let sql = format!("SELECT pg_cancel_backend({})", holder.pid());
    server
        .ask(|client| client.execute(&sql, &[]))
        .expect("a cancel");
    assert_eq!(holder.result().unwrap_err().code(), "57014");
    assert!(waiter.result().is_err());
    let end = "terminating connection due to administrator command";
    assert!(server.log().contains(end), "{}", server.log());
    server.assert_unharmed();
}

/// An extension with one function that leaves a spinlock to its caller.
const HANDED: &str = r#"
#include "postgres.h"
#include "fmgr.h"
#include "storage/spin.h"

PG_MODULE_MAGIC;

static slock_t lock;
static volatile bool stuck = true;
static volatile uint64 turns;

static pg_noinline void
take_for_caller(void)
{
	SpinLockAcquire(&lock);
}

static pg_noinline void
spin(void)
{
	while (stuck)
		turns++;
}

PG_FUNCTION_INFO_V1(holds_one);
Datum
holds_one(PG_FUNCTION_ARGS)
{
	SpinLockInit(&lock);
	take_for_caller();
	spin();
	SpinLockRelease(&lock);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(holds_none);
Datum
holds_none(PG_FUNCTION_ARGS)
{
	spin();
	PG_RETURN_VOID();
}
"#;

/// Builds that extension in `directory`, for the headers of this installation, and says where it is.
fn handed(installation: &Installation, directory: &Path) -> PathBuf {
    let (source, library) = (directory.join("handed.c"), directory.join("handed.so"));
    std::fs::write(&source, HANDED).expect("a source");
    let pg_config = installation.pg_config().expect("headers");
    let asked = Command::new(pg_config).arg("--includedir-server").output();
    let headers = asked.expect("pg_config").stdout;
    let headers = String::from_utf8(headers).expect("a path");
    let cc = Command::new("cc")
        .args(["-O2", "-g", "-fPIC", "-shared", "-D_GNU_SOURCE"])
        .args(["-I", headers.trim(), "-o"])
        .args([&library, &source])
        .status();
    assert!(cc.expect("a compiler").success());
    library
}

/// A function of this library leaves a spinlock taken; that matters to those only who may hold it.
#[test]
fn one_function_that_leaves_a_lock_makes_no_other_undecidable() {
    let server = server_with_testext!();
    let library = handed(server.installation(), server.directory());
    for function in ["holds_one", "holds_none"] {
        let make = format!(
            "CREATE FUNCTION {function}() RETURNS void LANGUAGE C AS '{}'",
            library.display()
        );
        server.connect().batch_execute(&make).expect("a function");
    }
    let stuck_in = |function| {
        let spins = |b: &Backend| b.cpu_ticks() > 10;
        let stuck = server.stuck_when(&format!("SELECT {function}()"), spins);
        stuck.prove_stuck(How::Cancel);
        stuck
    };
    let spins = stuck_in("holds_none");
    let report = Report::of(&["inspect"], spins.pid());
    report
        .assert_verdict("safe")
        .assert_at("/locks/spinlock", "none");
    let holds = stuck_in("holds_one");
    let report = Report::of(&["inspect"], holds.pid());
    report
        .assert_verdict("unsafe")
        .assert_at("/locks/spinlock", Value::Null);
    assert_eq!(report.check("spinlock"), "unknown", "{}", report.run);

    Run::pgpoke(["interrupt", "--yes", &spins.pid().to_string()]).assert_code(0);
    assert_eq!(spins.result().unwrap_err().code(), "57014");
    let pid = holds.pid().to_string();
    Run::pgpoke(["interrupt", "--yes", "--wait", "1s", &pid]).assert_code(4);
    assert!(holds.backend().is_alive());
    server.assert_unharmed();
}
