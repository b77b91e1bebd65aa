//! Images that nobody's linker ever wrote. Whoever may put code into a backend may put such a file there, too: each
//! is an error or a bounded answer, within a second of processor time and 256 MiB, and never a panic.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use pgpoke::address::Avma;
use pgpoke::address::Svma;
use pgpoke::arch::host::PROCESSOR;
use pgpoke::arch::{Processor, UnwindRegisters};
use pgpoke::image::{AddressSpace, Image};
use pgpoke::memory::{CapturedMemory, ProcessMemory};
use pgpoke::process::Process;
use pgpoke::unwind::variables::{FrameVariables, Value, read as read_variables};
use pgpoke::unwind::{RawStack, StackEnd, unwind};

// ---- What is measured ----

const MOST_MEMORY: usize = 256 << 20;
const LONGEST: Duration = Duration::from_secs(1);

thread_local! {
    static LIVE: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting for each thread.
struct Counting;

fn count(more: usize, less: usize) {
    let live = (LIVE.get() + more).saturating_sub(less);
    LIVE.set(live);
    PEAK.set(PEAK.get().max(live));
}

// SAFETY: everything is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Processor time of this thread: others may keep the machine busy.
fn cpu_time() -> Duration {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one timespec there.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    assert_eq!(status, 0);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[track_caller]
fn bounded<T>(what: &str, task: impl FnOnce() -> T) -> T {
    let before = LIVE.get();
    PEAK.set(before);
    let start = cpu_time();
    let result = task();
    let (took, peak) = (cpu_time() - start, PEAK.get() - before);
    assert!(took < LONGEST, "{what}: took {took:?}");
    assert!(peak < MOST_MEMORY, "{what}: took {} MiB", peak >> 20);
    result
}

#[test]
fn what_is_measured_is_there_to_be_measured() {
    let burn = || {
        let end = cpu_time() + Duration::from_millis(1100);
        while cpu_time() < end {}
    };
    let fails = |task: fn()| std::panic::catch_unwind(|| bounded("", task)).is_err();
    assert!(fails(|| drop(vec![1u8; MOST_MEMORY])));
    assert!(fails(burn));
    assert!(!fails(|| drop(vec![1u8; MOST_MEMORY / 2])));
}

// ---- Files, well made at first ----

const NOTE: u32 = 7;
const NOBITS: u32 = 8;
const PROGBITS: u32 = 1;
const COMPRESSED: u64 = 1 << 11;

#[derive(Clone)]
struct Section {
    name: &'static str,
    kind: u32,
    flags: u64,
    address: u64,
    bytes: Vec<u8>,
    /// What the header says, where that is not so.
    claims: Option<u64>,
}

fn section(name: &'static str, address: u64, bytes: impl Into<Vec<u8>>) -> Section {
    Section {
        name,
        kind: PROGBITS,
        flags: 0,
        address,
        bytes: bytes.into(),
        claims: None,
    }
}

const HEADER: usize = 64;

/// An ELF file of one loaded segment (all of it, at address 0) and these sections.
fn elf(sections: &[Section]) -> Vec<u8> {
    let mut file = vec![0; HEADER + 2 * 56];
    let mut names = b"\0.shstrtab\0".to_vec();
    let mut headers = vec![0; 64];
    let mut header = |name: u32, s: &Section, offset: usize| {
        let size = s.claims.unwrap_or(s.bytes.len() as u64);
        headers.extend(name.to_le_bytes());
        headers.extend(s.kind.to_le_bytes());
        for word in [s.flags, s.address, offset as u64, size] {
            headers.extend(word.to_le_bytes());
        }
        headers.extend([0; 24]);
    };
    for s in sections {
        file.resize(file.len().next_multiple_of(16), 0);
        header(names.len() as u32, s, file.len());
        file.extend(&s.bytes);
        names.extend(s.name.bytes().chain([0]));
    }
    let at = file.len();
    header(1, &section("", 0, names.clone()), at);
    file.extend(names);
    file.resize(file.len().next_multiple_of(16), 0);
    let table = file.len();
    file.extend(headers);

    put(&mut file, 0, b"\x7fELF\x02\x01\x01");
    put(&mut file, 16, &[3, 0, 62, 0, 1, 0, 0, 0]);
    put(&mut file, 32, &(HEADER as u64).to_le_bytes());
    put(&mut file, 40, &(table as u64).to_le_bytes());
    let counts = [
        64,
        56,
        2,
        64,
        sections.len() as u16 + 2,
        sections.len() as u16 + 1,
    ];
    for (i, count) in counts.iter().enumerate() {
        put(&mut file, 52 + 2 * i, &count.to_le_bytes());
    }
    let whole = program(1, 0, 0, file.len() as u64);
    put(&mut file, HEADER, &whole);
    let note = sections.iter().position(|s| s.kind == NOTE);
    if let Some(note) = note {
        let at = table + 64 * (note + 1);
        let word = |i: usize| u64::from_le_bytes(file[at + i..at + i + 8].try_into().unwrap());
        let program = program(4, word(24), word(16), word(32));
        put(&mut file, HEADER + 56, &program);
    }
    file
}

fn program(kind: u32, offset: u64, address: u64, size: u64) -> Vec<u8> {
    let mut bytes = [kind.to_le_bytes(), 5u32.to_le_bytes()].concat();
    for word in [offset, address, address, size, size, 4096] {
        bytes.extend(word.to_le_bytes());
    }
    bytes
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn symbol(name: u32, start: u64, size: u64) -> Vec<u8> {
    let mut bytes = name.to_le_bytes().to_vec();
    bytes.extend([0x12, 0, 1, 0]);
    bytes.extend(start.to_le_bytes());
    bytes.extend(size.to_le_bytes());
    bytes
}

const CODE: u64 = 0x1000;

/// Something of everything, and nothing wrong with it.
fn well_made() -> Vec<Section> {
    let (hdr, eh_frame) = call_frames(BASE_RULES, &[]);
    let note = [
        &[4, 0, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0][..],
        b"GNU\0\x01\x02\x03\x04",
    ]
    .concat();
    vec![
        Section {
            kind: NOTE,
            ..section(".note.gnu.build-id", 0x300, note)
        },
        section(".dynsym", 0x400, symbol(1, CODE, 16)),
        section(".dynstr", 0x500, "\0main\0"),
        section(".eh_frame_hdr", HDR, hdr),
        section(".eh_frame", EH_FRAME, eh_frame),
        section(
            ".text",
            CODE,
            [0xf0, 0x86, 0x07, 0xc6, 0x07, 0, 0xe8, 0, 0, 0, 0, 0xc3],
        ),
        section(".rodata", 0x2000, "PostgreSQL 15.1\0"),
        section(".data", 0x3000, CODE.to_le_bytes()),
        section(".symtab", 0, symbol(1, CODE, 16)),
        section(".strtab", 0, "\0main\0"),
    ]
}

/// Asks an image everything that can be asked.
fn ask(image: &Image) {
    for at in [0, CODE, CODE + 1, EH_FRAME, u64::MAX].map(Svma) {
        let _ = image.function_at(at).map(|f| f.name.len());
        let _ = image.symbols().functions_at(at).count();
        let _ = image.bytes_at(at, u64::MAX);
        let _ = image.bias_of_mapping(Avma(at.0), at.0);
        if let Some((start, size)) = image.function_bounds(at) {
            image.learn_spinlocks(start, size);
        }
    }
    image.learn_callers(&[Svma(CODE), Svma(CODE + 1)]);
    image.learn_handed_spinlocks();
    let _ = image.symbols().by_name(&["main", "m"]);
    let _ = image.symbols().variables(&["main", "m"]);
    let _ = image.find_constant(b"PostgreSQL ", 200);
    for at in [0, CODE, u64::MAX] {
        let _ = image.lines().map(|l| l.functions_at(Svma(at)).len());
    }
}

#[track_caller]
fn ask_all(what: &str, file: Vec<u8>) {
    bounded(what, || {
        if let Ok(image) = Image::from_bytes(file) {
            ask(&image);
        }
    });
}

#[test]
fn a_well_made_image_is_read() {
    let image = Image::from_bytes(elf(&well_made())).unwrap();
    assert_eq!(image.build_id().unwrap().0, [1, 2, 3, 4]);
    assert_eq!(image.function_at(Svma(CODE)).unwrap().name, "main");
    assert_eq!(
        image.function_bounds(Svma(CODE + 1)),
        Some((Svma(CODE), 0x100))
    );
    assert!(image.find_constant(b"PostgreSQL", 4).unwrap().is_some());
    ask(&image);
}

#[test]
fn cut_short_anywhere() {
    let file = elf(&well_made());
    for end in 0..file.len() {
        ask_all(&format!("cut at {end}"), file[..end].to_vec());
    }
}

#[test]
fn any_byte_of_the_headers_changed() {
    let good = elf(&well_made());
    let sections = u64::from_le_bytes(good[40..48].try_into().unwrap()) as usize;
    for at in (0..HEADER + 2 * 56).chain(sections..good.len()) {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut file = good.clone();
            file[at] = value;
            ask_all(&format!("byte {at} is {value}"), file);
        }
    }
}

#[test]
fn tables_that_never_end() {
    let good = elf(&well_made());
    let changed = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        put(&mut file, at, bytes);
        file
    };
    for at in [32, 40] {
        for offset in [0, 1, good.len() as u64 - 1, u64::MAX - 63, u64::MAX] {
            ask_all("a table elsewhere", changed(at, &offset.to_le_bytes()));
        }
    }
    for at in [54, 56, 58, 60, 62] {
        for count in [0, 1, 0x7fff, 0xff00, 0xffff_u16] {
            let mut file = changed(at, &count.to_le_bytes());
            ask_all("a count", file.clone());
            // Now the file is large enough for it.
            file.resize(8 << 20, 0xff);
            ask_all("a count, and a file to match", file);
        }
    }
    // All sections there can be, with names that lie on top of each other and never end.
    let mut many = elf(&vec![section(".data", 0x1000, []); 60_000]);
    let table = u64::from_le_bytes(many[40..48].try_into().unwrap()) as usize;
    let end = many.len() as u64;
    for header in many[table..].chunks_exact_mut(64) {
        put(header, 24, &0u64.to_le_bytes());
        put(header, 32, &end.to_le_bytes());
    }
    ask_all("60,000 sections, each the whole file", many);
}

#[test]
fn sizes_of_gigabytes() {
    for claims in [200 << 20, 1 << 32, 1 << 62, u64::MAX - 0x1000, u64::MAX] {
        let mut all = well_made();
        for i in 0..all.len() {
            let mut one = well_made();
            one[i].claims = Some(claims);
            ask_all(&format!("{} of {claims:#x}", one[i].name), elf(&one));
            all[i].claims = Some(claims);
        }
        ask_all(&format!("all of {claims:#x}"), elf(&all));
        // And the bytes are there, as far as anyone looks: a file with a hole of 4 GiB.
        let file = tempfile::tempfile().unwrap();
        let bytes = elf(&all);
        (&file).write_all(&bytes).unwrap();
        file.set_len(4 << 30).unwrap();
        bounded("a sparse file", || {
            if let Ok(image) = Image::from_file(file) {
                ask(&image);
            }
        });
    }
    let mut file = elf(&well_made());
    let segment = program(1, u64::MAX - 10, u64::MAX - 20, u64::MAX);
    put(&mut file, HEADER, &segment);
    ask_all("a segment around the end of everything", file);
}

/// 48 MiB are read of a symbol table, and no more.
#[test]
fn symbols_without_number() {
    let mut sections = well_made();
    let million = |f: fn(u64) -> Vec<u8>| (0..1_000_000).flat_map(f).collect::<Vec<u8>>();
    let tables: [(&str, Vec<u8>); 4] = [
        ("at one place", million(|_| symbol(0, CODE, 16))),
        (
            "overlapping",
            million(|i| symbol(i as u32, CODE + i, u64::MAX)),
        ),
        ("of no size", million(|i| symbol(0, u64::MAX - i, 0))),
        (
            "with one name",
            million(|i| {
                let mut variable = symbol(1, CODE + i, 4);
                variable[4] = 0x11;
                variable
            }),
        ),
    ];
    for (what, table) in tables {
        sections[1].bytes = table;
        sections[2].bytes = vec![b'm'; 4 << 20];
        let file = elf(&sections);
        ask_all(&format!("a million symbols {what}"), file);
    }
    sections[1].bytes = vec![0x12; 60 << 20];
    assert!(Image::from_bytes(elf(&sections)).is_err());
}

#[test]
fn all_images_together() {
    // Each is small enough; the twenty of them are not.
    let mut sections = well_made();
    sections[1].bytes = symbol(1, CODE, 16).repeat(500_000);
    let file = elf(&sections);
    let path = tempfile::NamedTempFile::new().unwrap();
    path.as_file().write_all(&file).unwrap();
    drop(file);
    let read = bounded("twenty images", || {
        let images: Vec<_> = (0..20)
            .filter_map(|_| Image::from_file(File::open(path.path()).unwrap()).ok())
            .collect();
        images.len()
    });
    assert!((2..20).contains(&read), "{read} of 20 were read");
    // What was given back can be used again.
    assert!(Image::from_file(File::open(path.path()).unwrap()).is_ok());
}

// ---- Compressed sections, debug information ----

fn chdr(kind: u32, size: u64, data: &[u8]) -> Vec<u8> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend([0; 4]);
    bytes.extend(size.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(data);
    bytes
}

#[test]
fn compressed_sections_that_lie() {
    // A frame of Zstandard that wants a window of 2 GiB and more, and a run of one byte for ever.
    let zstd = [
        &[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8][..],
        &[0x02, 0xff, 0xff, 0x00].repeat(1000),
    ]
    .concat();
    for kind in [1, 2, 3, u32::MAX] {
        for size in [0, 1, 60 << 20, 1 << 32, u64::MAX] {
            for data in [
                &[][..],
                &[0x78, 0x9c],
                &[0x78, 0x9c, 0xed, 0xc1, 0x01],
                &zstd,
            ] {
                let sections =
                    [".debug_info", ".debug_abbrev", ".debug_line"].map(|name| Section {
                        flags: COMPRESSED,
                        ..section(name, 0, chdr(kind, size, data))
                    });
                ask_all(&format!("kind {kind}, {size:#x} bytes"), elf(&sections));
            }
        }
    }
    let short = Section {
        flags: COMPRESSED,
        ..section(".debug_info", 0, [1, 0, 0])
    };
    ask_all("no header", elf(&[short]));
}

/// Units of DWARF 4 that say: code from `CODE` on, and what `dies` holds.
fn unit(dies: &[u8]) -> Vec<u8> {
    let mut body = vec![4, 0, 0, 0, 0, 0, 8, 1];
    body.extend(0u64.to_le_bytes());
    body.extend(0x10000u32.to_le_bytes());
    body.extend(dies);
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes.extend(body);
    bytes
}

/// 1: a unit (low_pc, high_pc); 2: a function; 3: an inlined one, with children.
const ABBREVIATIONS: &[u8] = &[
    1, 0x11, 1, 0x11, 0x01, 0x12, 0x06, 0, 0, //
    2, 0x2e, 1, 0x11, 0x01, 0x12, 0x06, 0, 0, //
    3, 0x1d, 1, 0x11, 0x01, 0x12, 0x06, 0, 0, 0,
];

fn entry(code: u8) -> Vec<u8> {
    let mut bytes = vec![code];
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(0x10000u32.to_le_bytes());
    bytes
}

fn with_debug_info(info: Vec<u8>) -> Vec<u8> {
    elf(&[
        section(".debug_info", 0, info),
        section(".debug_abbrev", 0, ABBREVIATIONS),
    ])
}

#[test]
fn inlined_into_each_other_without_end() {
    let shallow = unit(&[entry(2), entry(3).repeat(3), vec![0; 5]].concat());
    let image = Image::from_bytes(with_debug_info(shallow)).unwrap();
    assert!(image.lines().is_some());
    for depth in [1_000, 20_000, 1_000_000] {
        let deep = unit(&[entry(2), entry(3).repeat(depth), vec![0; depth + 2]].concat());
        ask_all(&format!("{depth} deep"), with_debug_info(deep));
    }
}

#[test]
fn functions_without_number() {
    // Two bytes each: a function without attributes, and its lack of children.
    const BARE: &[u8] = &[
        1, 0x11, 1, 0x11, 0x01, 0x12, 0x06, 0, 0, //
        2, 0x2e, 0, 0, 0, 0,
    ];
    for count in [500_000, 8_000_000, 30_000_000] {
        let file = elf(&[
            section(".debug_info", 0, unit(&vec![2; count])),
            section(".debug_abbrev", 0, BARE),
        ]);
        ask_all(&format!("{count} functions"), file);
    }
}

#[test]
fn abbreviations_without_number() {
    // The unit's own comes first; the rest is what all units share.
    let table = |count: usize| -> Vec<u8> {
        let more = (0..count).flat_map(|i| {
            let code = [
                i as u8 | 0x80,
                (i >> 7) as u8 | 0x80,
                (i >> 14) as u8 & 0x7f,
            ];
            code.into_iter().chain([0x2e, 0, 0, 0])
        });
        ABBREVIATIONS[..9]
            .iter()
            .copied()
            .chain(more)
            .chain([0])
            .collect()
    };
    for (units, abbreviations) in [(60, 200_000), (50_000, 200_000), (1, 4_000_000)] {
        let file = elf(&[
            section(".debug_info", 0, unit(&[]).repeat(units)),
            section(".debug_abbrev", 0, table(abbreviations)),
        ]);
        ask_all(
            &format!("{units} units, {abbreviations} abbreviations"),
            file,
        );
    }
}

#[test]
fn units_without_number() {
    for count in [1_000, 100_000, 1_000_000] {
        let units = unit(&[]).repeat(count);
        ask_all(&format!("{count} units"), with_debug_info(units));
    }
}

#[test]
fn ranges_without_number() {
    // Each unit names the same list of a million ranges.
    const WITH_RANGES: &[u8] = &[1, 0x11, 0, 0x11, 0x01, 0x55, 0x17, 0, 0, 0];
    let mut body = vec![4, 0, 0, 0, 0, 0, 8, 1];
    body.extend([0; 12]);
    let unit = [(body.len() as u32).to_le_bytes().to_vec(), body].concat();
    let range = [1u64.to_le_bytes(), 2u64.to_le_bytes()].concat();
    let file = elf(&[
        section(".debug_info", 0, unit.repeat(1000)),
        section(".debug_abbrev", 0, WITH_RANGES),
        section(".debug_ranges", 0, range.repeat(1_000_000)),
    ]);
    ask_all("a thousand units of a million ranges", file);
}

#[test]
fn lines_without_number() {
    // Each unit names the same line program, which writes a row with every byte.
    const WITH_LINES: &[u8] = &[1, 0x11, 0, 0x11, 0x01, 0x12, 0x06, 0x10, 0x17, 0, 0, 0];
    let unit = |at: u32| {
        let mut body = vec![4, 0, 0, 0, 0, 0, 8, 1];
        body.extend(0u64.to_le_bytes());
        body.extend(0x10000u32.to_le_bytes());
        body.extend(at.to_le_bytes());
        [(body.len() as u32).to_le_bytes().to_vec(), body].concat()
    };
    for (units, rows) in [(1, 5 << 20), (1000, 1 << 20), (1, 40 << 20)] {
        let mut header = vec![1, 1, 1, 1, 14, 13, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1];
        header.extend(b"\0a\0\0\0\0\0");
        let mut program = vec![0, 9, 2];
        program.extend(0u64.to_le_bytes());
        program.extend(vec![20; rows]);
        program.extend([0, 1, 1]);
        let mut lines = vec![4, 0];
        lines.extend((header.len() as u32).to_le_bytes());
        lines.extend(header);
        lines.extend(program);
        let lines = [(lines.len() as u32).to_le_bytes().to_vec(), lines].concat();
        let file = elf(&[
            section(".debug_info", 0, unit(0).repeat(units)),
            section(".debug_abbrev", 0, WITH_LINES),
            section(".debug_line", 0, lines),
        ]);
        ask_all(&format!("{units} units of {rows} rows"), file);
    }
}

// ---- Call-frame information ----

const HDR: u64 = 0x10_0000;
const EH_FRAME: u64 = 0x20_0000;
/// The caller's frame is 8 bytes above the stack pointer, and the return address below it.
const BASE_RULES: &[u8] = &[0x0c, 7, 8, 0x90, 1];

fn padded(mut body: Vec<u8>) -> Vec<u8> {
    body.resize((body.len() + 4).next_multiple_of(8) - 4, 0);
    [(body.len() as u32).to_le_bytes().to_vec(), body].concat()
}

/// `.eh_frame_hdr` and `.eh_frame` with one entry, 256 bytes of code from `CODE` on.
fn call_frames(initial: &[u8], rules: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let cie = [&[0; 4][..], b"\x01zR\0\x01\x78\x10\x01\x1b", initial].concat();
    let cie = padded(cie);
    let at = EH_FRAME + cie.len() as u64;
    let mut fde = (cie.len() as u32 + 4).to_le_bytes().to_vec();
    fde.extend((CODE.wrapping_sub(at + 8) as i32).to_le_bytes());
    fde.extend(0x100u32.to_le_bytes());
    fde.push(0);
    fde.extend(rules);
    let eh_frame = [cie, padded(fde), vec![0; 4]].concat();
    (index(&[(CODE, at)]), eh_frame)
}

/// `.eh_frame_hdr`: from code to entries.
fn index(entries: &[(u64, u64)]) -> Vec<u8> {
    let mut hdr = vec![1, 0x1b, 3, 0x3b];
    hdr.extend((EH_FRAME.wrapping_sub(HDR + 4) as i32).to_le_bytes());
    hdr.extend((entries.len() as u32).to_le_bytes());
    for (code, entry) in entries {
        hdr.extend((code.wrapping_sub(HDR) as i32).to_le_bytes());
        hdr.extend((entry.wrapping_sub(HDR) as i32).to_le_bytes());
    }
    hdr
}

const STACK: u64 = 0x7000_0000_0000;

/// Maps an image with these sections into this process, and has `task` look at a stack of 256 KiB, full of return addresses
/// into it.
#[track_caller]
fn on_a_stack<T>(
    what: &str,
    sections: &[Section],
    task: impl FnOnce(&UnwindRegisters, &CapturedMemory, &AddressSpace) -> T,
) -> T {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&elf(sections)).unwrap();
    let size = 0x2000;
    file.as_file()
        .set_len(file.as_file().metadata().unwrap().len().max(size))
        .unwrap();
    // SAFETY: a new mapping of a file that no one changes; it is never unmapped.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size as usize,
            libc::PROT_READ | libc::PROT_EXEC,
            libc::MAP_PRIVATE,
            file.as_file().as_raw_fd(),
            0,
        )
    };
    assert_ne!(start, libc::MAP_FAILED);
    let start = Avma(start as u64);
    let me = Process::open(std::process::id() as i32).unwrap();
    let space = AddressSpace::read(&me).unwrap();
    let live = ProcessMemory::open(me.pid());
    bounded(what, || {
        space.load_at(start, &live).expect("the image");
        let ip = start.offset(CODE as i64 + 0x10);
        let mut stack = CapturedMemory::default();
        stack.add(Avma(STACK), ip.0.to_le_bytes().repeat(1 << 15));
        let registers = UnwindRegisters::filled(PROCESSOR.call_frames(), STACK).at(ip);
        task(&registers, &stack, &space)
    })
}

/// Unwinds it by this call-frame information.
#[track_caller]
fn unwound(what: &str, hdr: Option<Vec<u8>>, eh_frame: Vec<u8>) -> RawStack {
    let mut sections = vec![section(".eh_frame", EH_FRAME, eh_frame)];
    sections.extend(hdr.map(|hdr| section(".eh_frame_hdr", HDR, hdr)));
    on_a_stack(what, &sections, |registers, stack, space| {
        let found = unwind(registers, stack, space);
        assert!(!found.frames.is_empty());
        found
    })
}

// ---- Variables ----

/// 1: a unit; 2: a function (frame_base); 3: a variable (name, type, location); 4: a structure; 5: a member; 6: a typedef;
/// 7, 8: an array and its bound; 9: a number; 10, 11: a type of functions and a parameter; 12: a pointer.
const OF_VARIABLES: &[u8] = &[
    1, 0x11, 1, 0x11, 0x01, 0x12, 0x06, 0, 0, //
    2, 0x2e, 1, 0x11, 0x01, 0x12, 0x06, 0x40, 0x18, 0, 0, //
    3, 0x34, 0, 0x03, 0x08, 0x49, 0x13, 0x02, 0x18, 0, 0, //
    4, 0x13, 1, 0x0b, 0x06, 0, 0, //
    5, 0x0d, 0, 0x03, 0x08, 0x49, 0x13, 0, 0, //
    6, 0x16, 0, 0x03, 0x08, 0x49, 0x13, 0, 0, //
    7, 0x01, 1, 0x49, 0x13, 0, 0, //
    8, 0x21, 0, 0x2f, 0x07, 0, 0, //
    9, 0x24, 0, 0x03, 0x08, 0x0b, 0x0b, 0x3e, 0x0b, 0, 0, //
    10, 0x15, 1, 0x49, 0x13, 0, 0, //
    11, 0x05, 0, 0x49, 0x13, 0, 0, //
    12, 0x0f, 0, 0x49, 0x13, 0, 0, 0,
];

/// Where entries start in a unit, and a function in that.
const FIRST: u32 = 11;
const UNIT_ENTRY: u32 = 13;

/// A function that has these variables, after these types.
fn function(types: &[u8], variables: &[u8]) -> Vec<u8> {
    let mut dies = types.to_vec();
    dies.extend(entry(2));
    dies.extend([1, 0x9c]);
    dies.extend(variables);
    dies.extend([0, 0]);
    unit(&dies)
}

fn variable(name: &str, of: u32, location: &[u8]) -> Vec<u8> {
    let mut die = vec![3];
    die.extend(name.as_bytes());
    die.push(0);
    die.extend(of.to_le_bytes());
    die.push(location.len() as u8);
    die.extend(location);
    die
}

fn named(code: u8, name: &str, of: u32) -> Vec<u8> {
    [&[code], name.as_bytes(), &[0], &of.to_le_bytes()].concat()
}

/// All variables of a stack of frames of that function, its callers' and theirs.
#[track_caller]
fn variables(what: &str, info: Vec<u8>) -> Vec<Vec<FrameVariables>> {
    let (hdr, eh_frame) = call_frames(BASE_RULES, &[]);
    let sections = [
        section(".eh_frame_hdr", HDR, hdr),
        section(".eh_frame", EH_FRAME, eh_frame),
        section(".debug_info", 0, info),
        section(".debug_abbrev", 0, OF_VARIABLES),
    ];
    on_a_stack(what, &sections, |registers, stack, space| {
        let found = unwind(registers, stack, space);
        let live = ProcessMemory::open(std::process::id() as i32);
        read_variables(&found, registers, stack, Some(&live), space)
    })
}

/// DW_OP_call_frame_cfa
const AT_FRAME: &[u8] = &[0x9c];
const NUMBER: &[u8] = b"\x09int\0\x04\x05";

#[test]
fn variables_that_are_well_made() {
    let number = FIRST + UNIT_ENTRY;
    let info = function(NUMBER, &variable("n", number, AT_FRAME));
    let told = variables("well made", info);
    let found = &told[0][0].locals;
    assert_eq!(found.len(), 1);
    assert_eq!((&*found[0].name, &*found[0].type_name), ("n", "int"));
    assert!(matches!(&found[0].value, Value::Text(n) if n.parse::<i32>().is_ok()));
    // Not of countless frames.
    assert_eq!(told.len(), 20_000);
    assert!(told[0] != vec![] && told[19_999].is_empty());
}

#[test]
fn variables_without_number() {
    let number = FIRST + UNIT_ENTRY;
    for count in [100, 10_000, 3_000_000] {
        let info = function(NUMBER, &variable("n", number, AT_FRAME).repeat(count));
        let told = variables(&format!("{count} variables"), info);
        let first = told.first().and_then(|levels| levels.first());
        assert!(first.is_none_or(|f| f.locals.len() <= 100 && f.cut_short == (count > 100)));
    }
}

#[test]
fn types_that_consist_of_themselves() {
    let here = FIRST + UNIT_ENTRY;
    let members = |count: usize| named(5, "m", here).repeat(count);
    let structure =
        |size: u32, count: usize| [&[4], &size.to_le_bytes()[..], &members(count), &[0]].concat();
    let array = |last: u64| {
        let bound = [&[8], &last.to_le_bytes()[..]].concat();
        [&[7], &here.to_le_bytes()[..], &bound.repeat(9), &[0]].concat()
    };
    let callee = [&[11], &here.to_le_bytes()[..]].concat();
    let cases = [
        ("a structure of itself", structure(8, 1)),
        ("a structure of two of itself", structure(60_000, 2)),
        (
            "a structure of thousands of itself",
            structure(60_000, 100_000),
        ),
        ("a structure of all there is", structure(u32::MAX, 2)),
        ("a name for itself", named(6, "t", here)),
        ("an array of itself", array(3)),
        ("an array of countless", array(u64::MAX - 1)),
        (
            "a function of itself",
            [&[10], &here.to_le_bytes()[..], &callee.repeat(50), &[0]].concat(),
        ),
        (
            "a pointer to itself",
            [&[12], &here.to_le_bytes()[..]].concat(),
        ),
    ];
    for (what, types) in cases {
        let variable = variable("v", here, AT_FRAME);
        variables(what, function(&types, &variable.repeat(90)));
    }
}

#[test]
fn locations_that_go_round_in_circles() {
    let number = FIRST + UNIT_ENTRY;
    let loops: [&[u8]; 6] = [
        // DW_OP_skip -3; DW_OP_dup for ever; DW_OP_fbreg; DW_OP_entry_value of a register, and of itself; pieces for ever.
        &[0x2f, 0xfd, 0xff],
        &[0x9c, 0x12, 0x2f, 0xfc, 0xff],
        &[0x91, 0],
        &[0xa3, 1, 0x55, 0x9f],
        &[0xa3, 3, 0xa3, 1, 0x55, 0x9f],
        &[0x93, 1, 0x2f, 0xfb, 0xff],
    ];
    for (i, location) in loops.into_iter().enumerate() {
        let info = function(NUMBER, &variable("v", number, location).repeat(90));
        variables(&format!("location {i}"), info);
    }
    // The memory of a living process is asked again and again: DW_OP_call_frame_cfa, DW_OP_deref, DW_OP_skip.
    let reads = [0x9c, 0x06, 0x2f, 0xfb, 0xff];
    let info = function(NUMBER, &variable("v", number, &reads).repeat(90));
    variables("a location that is read for ever", info);
}

#[test]
fn names_without_an_end() {
    let number = FIRST + UNIT_ENTRY;
    let long = "n".repeat(20 << 20);
    let info = function(NUMBER, &variable(&long, number, AT_FRAME).repeat(2));
    variables("names of 20 MiB", info);
    let mut info = function(NUMBER, &variable("n", number, AT_FRAME));
    let at = info.len() - 10;
    info[at..].fill(b'n');
    variables("a name that ends nowhere", info);
}

#[test]
fn rules_that_lead_up_the_stack() {
    let (hdr, eh_frame) = call_frames(BASE_RULES, &[]);
    let found = unwound("well made", Some(hdr), eh_frame.clone());
    assert_eq!((found.end, found.frames.len()), (StackEnd::TooDeep, 20_000));
    let found = unwound("without an index", None, eh_frame);
    assert_eq!((found.end, found.frames.len()), (StackEnd::TooDeep, 20_000));
    let (hdr, eh_frame) = call_frames(BASE_RULES, &[7, 16]);
    assert_eq!(unwound("a root", Some(hdr), eh_frame).end, StackEnd::Root);
}

#[test]
fn rules_that_go_round_in_circles() {
    // DW_OP_skip -3; DW_OP_lit1, DW_OP_bra -4; DW_OP_dup for ever.
    let loops: [&[u8]; 3] = [
        &[0x2f, 0xfd, 0xff],
        &[0x31, 0x28, 0xfc, 0xff],
        &[0x31, 0x12, 0x2f, 0xfc, 0xff],
    ];
    for expression in loops {
        // DW_CFA_def_cfa_expression; DW_CFA_val_expression for each register.
        let mut rules = vec![0x0f, expression.len() as u8];
        rules.extend(expression);
        let (hdr, eh_frame) = call_frames(BASE_RULES, &rules);
        let found = unwound("an expression", Some(hdr), eh_frame);
        assert_eq!(found.end, StackEnd::BadUnwindInfo);
    }
    // Legal, and much: on each of 20,000 frames an expression of 90 steps for each register.
    let mut rules = Vec::new();
    for register in [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15] {
        rules.extend([0x16, register, 91, 0x31]);
        rules.extend([0x96; 90]);
    }
    let (hdr, eh_frame) = call_frames(BASE_RULES, &rules);
    let found = unwound("much to reckon", Some(hdr), eh_frame);
    assert_eq!(found.end, StackEnd::TooDeep);
}

#[test]
fn rules_without_number() {
    for rule in [
        &[0x0a][..],
        &[0x0b],
        &[0x0a, 0x0b],
        &[0],
        &[0x86, 2],
        &[0x41],
        &[0x0e, 16],
    ] {
        for count in [1_000, 1_000_000] {
            let (hdr, eh_frame) = call_frames(BASE_RULES, &rule.repeat(count));
            unwound(
                &format!("{rule:?} {count} times"),
                Some(hdr),
                eh_frame.clone(),
            );
            unwound(&format!("{rule:?} {count} times, no index"), None, eh_frame);
            let (hdr, eh_frame) = call_frames(&[BASE_RULES, &rule.repeat(count)].concat(), &[]);
            unwound(
                &format!("{rule:?} {count} times at first"),
                Some(hdr),
                eh_frame,
            );
        }
    }
}

#[test]
fn entries_that_point_anywhere() {
    let (_, eh_frame) = call_frames(BASE_RULES, &[]);
    let end = EH_FRAME + eh_frame.len() as u64;
    for to in [
        0,
        HDR,
        EH_FRAME - 1,
        EH_FRAME,
        EH_FRAME + 1,
        end - 4,
        end,
        end + 1000,
    ] {
        for entries in [vec![(CODE, to)], vec![(0, to), (CODE, to), (CODE, to)]] {
            unwound(
                &format!("an index to {to:#x}"),
                Some(index(&entries)),
                eh_frame.clone(),
            );
        }
    }
    let many: Vec<_> = (0..500_000)
        .map(|i| (CODE.wrapping_sub(i), EH_FRAME + i % 64))
        .collect();
    unwound(
        "an index out of order",
        Some(index(&many)),
        eh_frame.clone(),
    );
    let mut hdr = index(&[(CODE, EH_FRAME)]);
    put(&mut hdr, 8, &u32::MAX.to_le_bytes());
    unwound("an index of billions", Some(hdr), eh_frame.clone());
    for encoding in [
        0, 1, 2, 4, 8, 0x0b, 0x1c, 0x33, 0x3a, 0x50, 0x9b, 0xbb, 0xff,
    ] {
        for at in 1..4 {
            let mut hdr = index(&[(CODE, EH_FRAME)]);
            hdr[at] = encoding;
            unwound(
                &format!("byte {at} of an index is {encoding}"),
                Some(hdr),
                eh_frame.clone(),
            );
        }
    }
    // An entry that says that it is described by itself, by the next, or by what is before the section.
    let (hdr, good) = call_frames(BASE_RULES, &[]);
    let at = 4 + u32::from_le_bytes(good[..4].try_into().unwrap()) as usize + 4;
    for pointer in [0, 1, 4, 8, 0x7fff_ffff, u32::MAX, u32::MAX - 20] {
        let mut eh_frame = good.clone();
        put(&mut eh_frame, at, &pointer.to_le_bytes());
        unwound("an odd pointer", Some(hdr.clone()), eh_frame.clone());
        unwound("an odd pointer, no index", None, eh_frame);
    }
    for length in [0, 1, 3, 0x7fff_ffff, 0xffff_fff0, u32::MAX] {
        for at in [0, at - 4] {
            let mut eh_frame = good.clone();
            put(&mut eh_frame, at, &length.to_le_bytes());
            unwound("an odd length", Some(hdr.clone()), eh_frame.clone());
            unwound("an odd length, no index", None, eh_frame);
        }
    }
    // No index, and so many entries to look through at each frame.
    let (_, one) = call_frames(BASE_RULES, &[]);
    let entries = one[..one.len() - 4].repeat(50_000);
    unwound("50,000 entries and no index", None, entries);
}

#[test]
fn sections_that_are_in_no_file() {
    for s in well_made().iter_mut().map(|s| s.name) {
        let mut sections = well_made();
        for section in sections.iter_mut().filter(|section| section.name == s) {
            section.kind = NOBITS;
        }
        ask_all(s, elf(&sections));
    }
}
