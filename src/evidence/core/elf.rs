//! The form of a core file: headers and notes, from plain data.
//!
//! The layouts are the kernel's: `elf_core_dump()` in fs/binfmt_elf.c, `struct elf_prstatus` and `struct elf_prpsinfo`
//! in include/linux/elfcore.h. What differs between processors is in [`CoreFile`].

use object::elf;
use object::endian::{LittleEndian as LE, U16, U32, U64};
use object::pod::bytes_of;

use super::regions::PAGE;
use crate::arch::CoreFile;

/// A mapping as the file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// May be read, written to, run.
    pub permissions: [bool; 3],
    /// How many of its bytes, from the start on, are in the file.
    pub in_file: u64,
    /// Where in the file they are; of no meaning where there are none.
    pub offset: u64,
}

/// A thread that stood still.
#[derive(Debug, Clone, Default)]
pub struct Thread {
    /// Its ID.
    pub tid: i32,
    /// The signals that it blocks.
    pub blocked: u64,
    /// The general registers (NT_PRSTATUS).
    pub general: Vec<u8>,
    /// The floating-point registers (NT_PRFPREG).
    pub floating: Vec<u8>,
    /// The register sets that the processor has besides, each with the type of its note.
    pub more: Vec<(u32, Vec<u8>)>,
}

/// The process, as `ps` shows it.
#[derive(Debug, Clone, Default)]
pub struct ProcessInfo {
    /// Its state as one letter.
    pub state: u8,
    /// Its nice value.
    pub nice: i8,
    /// The kernel's flags of it.
    pub flags: u64,
    /// Its real user and group.
    pub user: (u32, u32),
    /// PID, parent, process group, session.
    pub ids: [i32; 4],
    /// The name of its executable, cut off.
    pub name: Vec<u8>,
    /// Its command line, with blanks between the words.
    pub arguments: Vec<u8>,
}

/// A file that is mapped.
#[derive(Debug, Clone)]
pub struct MappedFile {
    /// First address, and one past the last.
    pub range: std::ops::Range<u64>,
    /// What part of the file begins there.
    pub offset: u64,
    /// Its path.
    pub path: Vec<u8>,
}

/// What the notes tell.
#[derive(Debug, Clone, Default)]
pub struct Notes {
    /// The process.
    pub process: ProcessInfo,
    /// Its threads, the main one first.
    pub threads: Vec<Thread>,
    /// The auxiliary vector, as in `/proc/PID/auxv`.
    pub auxiliary: Vec<u8>,
    /// The files that are mapped.
    pub files: Vec<MappedFile>,
}

/// Where the parts of `struct elf_prstatus` lie that are the same everywhere.
const PRSTATUS_BLOCKED: usize = 24;
const PRSTATUS_IDS: usize = 32;

/// The same of `struct elf_prpsinfo`.
const PRPSINFO: usize = 136;
const PRPSINFO_NAME: usize = 40;
const PRPSINFO_ARGUMENTS: usize = 56;

/// The size of siginfo_t.
const SIGINFO: usize = 128;

/// The kernel's limit for the note of files is larger by default; what is over is left out (`fill_files_note()`).
const MOST_OF_FILES: usize = 4 << 20;

/// The notes, in the kernel's order: readers take those that come before the second NT_PRSTATUS for the first thread's.
pub fn notes(notes: &Notes, core: &CoreFile) -> Vec<u8> {
    let mut out = Vec::new();
    for (n, thread) in notes.threads.iter().enumerate() {
        add(
            &mut out,
            b"CORE\0",
            elf::NT_PRSTATUS,
            &prstatus(thread, &notes.process, core),
        );
        if n == 0 {
            add(
                &mut out,
                b"CORE\0",
                elf::NT_PRPSINFO,
                &prpsinfo(&notes.process),
            );
            // No signal: nothing ended it.
            add(&mut out, b"CORE\0", elf::NT_SIGINFO, &[0; SIGINFO]);
            add(&mut out, b"CORE\0", elf::NT_AUXV, &notes.auxiliary);
            add(&mut out, b"CORE\0", elf::NT_FILE, &files(&notes.files));
        }
        if !thread.floating.is_empty() {
            add(&mut out, b"CORE\0", elf::NT_PRFPREG, &thread.floating);
        }
        for (kind, set) in &thread.more {
            add(&mut out, b"LINUX\0", elf::NoteType(*kind), set);
        }
    }
    out
}

fn add(out: &mut Vec<u8>, name: &[u8], kind: elf::NoteType, content: &[u8]) {
    let header = elf::NoteHeader64 {
        n_namesz: U32::new(LE, name.len() as u32),
        n_descsz: U32::new(LE, content.len() as u32),
        n_type: U32::new(LE, kind),
    };
    out.extend(bytes_of(&header));
    for part in [name, content] {
        out.extend(part);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

/// Times, and signals that wait, stay zero: nothing reads them here.
fn prstatus(thread: &Thread, process: &ProcessInfo, core: &CoreFile) -> Vec<u8> {
    let mut out = vec![0; core.prstatus];
    put(&mut out, PRSTATUS_BLOCKED, &thread.blocked.to_le_bytes());
    let [_, parent, group, session] = process.ids;
    for (n, id) in [thread.tid, parent, group, session].iter().enumerate() {
        put(&mut out, PRSTATUS_IDS + 4 * n, &id.to_le_bytes());
    }
    let most = core.has_floating - core.registers;
    let general = &thread.general[..thread.general.len().min(most)];
    put(&mut out, core.registers, general);
    out[core.has_floating] = u8::from(!thread.floating.is_empty());
    out
}

fn prpsinfo(process: &ProcessInfo) -> Vec<u8> {
    let mut out = vec![0; PRPSINFO];
    let number = b"RSDTZW".iter().position(|s| *s == process.state);
    out[0] = number.unwrap_or_default() as u8;
    out[1] = process.state;
    out[2] = u8::from(process.state == b'Z');
    out[3] = process.nice as u8;
    put(&mut out, 8, &process.flags.to_le_bytes());
    put(&mut out, 16, &process.user.0.to_le_bytes());
    put(&mut out, 20, &process.user.1.to_le_bytes());
    for (n, id) in process.ids.iter().enumerate() {
        put(&mut out, 24 + 4 * n, &id.to_le_bytes());
    }
    // Both with a zero at the end.
    let cut = |text: &[u8], room: usize| text[..text.len().min(room - 1)].to_vec();
    put(
        &mut out,
        PRPSINFO_NAME,
        &cut(&process.name, PRPSINFO_ARGUMENTS - PRPSINFO_NAME),
    );
    put(
        &mut out,
        PRPSINFO_ARGUMENTS,
        &cut(&process.arguments, PRPSINFO - PRPSINFO_ARGUMENTS),
    );
    out
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

/// How many there are, the size in which offsets are counted, start, end and offset of each; then the names.
fn files(files: &[MappedFile]) -> Vec<u8> {
    let mut size = 16;
    let fits = |f: &&MappedFile| {
        size += 24 + f.path.len() + 1;
        size <= MOST_OF_FILES
    };
    let files: Vec<&MappedFile> = files.iter().take_while(fits).collect();
    let mut out = Vec::new();
    out.extend((files.len() as u64).to_le_bytes());
    out.extend(PAGE.to_le_bytes());
    for file in &files {
        for number in [file.range.start, file.range.end, file.offset / PAGE] {
            out.extend(number.to_le_bytes());
        }
    }
    for file in &files {
        out.extend(file.path.iter().filter(|b| **b != 0));
        out.push(0);
    }
    out
}

const HEADER: u64 = size_of::<elf::FileHeader64<LE>>() as u64;
const ENTRY: u64 = size_of::<elf::ProgramHeader64<LE>>() as u64;
const SECTION: u64 = size_of::<elf::SectionHeader64<LE>>() as u64;

/// What comes before the memory, where the file describes so many mappings and has notes of so many bytes.
#[derive(Debug, Clone, Copy)]
pub struct Front {
    machine: u16,
    notes_at: u64,
    /// Where the memory begins.
    pub end: u64,
}

impl Front {
    /// Of a processor's process (`e_machine`), with room for `segments` at most.
    pub fn new(machine: u16, segments: usize, notes: usize) -> Self {
        let notes_at = HEADER + SECTION + ENTRY * (segments as u64 + 1);
        Front {
            machine,
            notes_at,
            end: (notes_at + notes as u64).next_multiple_of(PAGE),
        }
    }

    /// Its bytes. There must not be more segments than there is room for.
    pub fn bytes(&self, segments: &[Segment], notes: &[u8]) -> Vec<u8> {
        let count = segments.len() as u64 + 1;
        // One that does not fit its field is told in a section header (elf(5), PN_XNUM).
        let many = count >= u64::from(elf::PN_XNUM);
        let mut out = Vec::new();
        let segment_count = (!many).then_some(count as u16);
        out.extend(bytes_of(&file_header(self.machine, segment_count)));
        out.extend(bytes_of(&section_zero(if many { count as u32 } else { 0 })));
        out.extend(bytes_of(&elf::ProgramHeader64 {
            p_type: U32::new(LE, elf::PT_NOTE),
            p_flags: U32::new(LE, elf::ProgramFlags(0)),
            p_offset: U64::new(LE, self.notes_at),
            p_vaddr: U64::new(LE, 0),
            p_paddr: U64::new(LE, 0),
            p_filesz: U64::new(LE, notes.len() as u64),
            p_memsz: U64::new(LE, 0),
            p_align: U64::new(LE, 4),
        }));
        for segment in segments {
            out.extend(bytes_of(&load(segment, self.end)));
        }
        out.resize(self.notes_at as usize, 0);
        out.extend(notes);
        out
    }
}

fn file_header(machine: u16, segments: Option<u16>) -> elf::FileHeader64<LE> {
    elf::FileHeader64 {
        e_ident: elf::Ident {
            magic: elf::ELFMAG,
            class: elf::ELFCLASS64,
            data: elf::ELFDATA2LSB,
            version: elf::EV_CURRENT,
            os_abi: elf::ELFOSABI_NONE,
            abi_version: 0,
            padding: [0; 7],
        },
        e_type: U16::new(LE, elf::ET_CORE),
        e_machine: U16::new(LE, elf::Machine(machine)),
        e_version: U32::new(LE, elf::EV_CURRENT.0.into()),
        e_entry: U64::new(LE, 0),
        e_phoff: U64::new(LE, HEADER + SECTION),
        e_shoff: U64::new(LE, if segments.is_some() { 0 } else { HEADER }),
        e_flags: U32::new(LE, elf::FileFlags(0)),
        e_ehsize: U16::new(LE, HEADER as u16),
        e_phentsize: U16::new(LE, ENTRY as u16),
        e_phnum: U16::new(LE, segments.unwrap_or(elf::PN_XNUM)),
        e_shentsize: U16::new(
            LE,
            if segments.is_some() {
                0
            } else {
                SECTION as u16
            },
        ),
        e_shnum: U16::new(LE, u16::from(segments.is_none())),
        e_shstrndx: U16::new(LE, elf::SHN_UNDEF),
    }
}

fn section_zero(segments: u32) -> elf::SectionHeader64<LE> {
    elf::SectionHeader64 {
        sh_name: U32::new(LE, 0),
        sh_type: U32::new(LE, elf::SHT_NULL),
        sh_flags: U64::new(LE, elf::SectionFlags(0)),
        sh_addr: U64::new(LE, 0),
        sh_offset: U64::new(LE, 0),
        sh_size: U64::new(LE, u64::from(segments > 0)),
        sh_link: U32::new(LE, 0),
        sh_info: U32::new(LE, segments),
        sh_addralign: U64::new(LE, 0),
        sh_entsize: U64::new(LE, 0),
    }
}

fn load(segment: &Segment, front: u64) -> elf::ProgramHeader64<LE> {
    let [read, write, execute] = segment.permissions;
    let flags = [(read, elf::PF_R), (write, elf::PF_W), (execute, elf::PF_X)];
    let flags = flags
        .iter()
        .filter(|(has, _)| *has)
        .fold(0, |all, (_, flag)| all | flag.0);
    let offset = if segment.in_file > 0 {
        segment.offset
    } else {
        front
    };
    elf::ProgramHeader64 {
        p_type: U32::new(LE, elf::PT_LOAD),
        p_flags: U32::new(LE, elf::ProgramFlags(flags)),
        p_offset: U64::new(LE, offset),
        p_vaddr: U64::new(LE, segment.start),
        p_paddr: U64::new(LE, 0),
        p_filesz: U64::new(LE, segment.in_file),
        p_memsz: U64::new(LE, segment.end - segment.start),
        p_align: U64::new(LE, PAGE),
    }
}

#[cfg(test)]
mod tests {
    use object::read::elf::{FileHeader, ProgramHeader};

    use super::*;
    use crate::arch::{EM_AARCH64, EM_X86_64, processor_of};

    fn x86_64() -> &'static CoreFile {
        processor_of(EM_X86_64).unwrap().core_file()
    }

    #[test]
    fn a_thread_of_another_processor() {
        let core = processor_of(EM_AARCH64).unwrap().core_file();
        let thread = Thread {
            tid: 10,
            general: (0..272).map(|n| n as u8).collect(),
            floating: vec![7; 528],
            ..Thread::default()
        };
        let status = prstatus(&thread, &ProcessInfo::default(), core);
        // sizeof(struct elf_prstatus) with x0 to x30, sp, pc and pstate.
        assert_eq!(status.len(), 392);
        assert_eq!(status[112..384], thread.general);
        assert_eq!(status[384], 1);
        let bytes = Front::new(EM_AARCH64, 0, 0).bytes(&[], &[]);
        assert_eq!(parsed(&bytes).e_machine.get(LE), elf::EM_AARCH64);
    }

    fn parsed(bytes: &[u8]) -> &elf::FileHeader64<LE> {
        elf::FileHeader64::parse(bytes).unwrap()
    }

    fn example() -> Notes {
        let thread = |tid| Thread {
            tid,
            blocked: 0x8000_0000_0000_0001,
            general: (0..216).map(|n| n as u8).collect(),
            floating: vec![7; 512],
            more: vec![(elf::NT_X86_XSTATE.0, vec![9; 2696])],
        };
        Notes {
            process: ProcessInfo {
                state: b'S',
                nice: -5,
                user: (103, 104),
                ids: [10, 1, 10, 9],
                name: b"a name that is too long".to_vec(),
                arguments: vec![b'x'; 200],
                ..ProcessInfo::default()
            },
            threads: vec![thread(10), thread(11)],
            auxiliary: vec![3; 320],
            files: vec![MappedFile {
                range: 0x1000..0x3000,
                offset: 0x2000,
                path: b"/usr/bin/a (deleted)".to_vec(),
            }],
        }
    }

    /// Types and contents, in order.
    fn read_back(bytes: &[u8]) -> Vec<(u32, Vec<u8>, Vec<u8>)> {
        let file = parsed(bytes);
        let headers = file.program_headers(LE, bytes).unwrap();
        let mut notes = headers[0].notes(LE, bytes).unwrap().unwrap();
        let mut all = Vec::new();
        while let Some(note) = notes.next().unwrap() {
            let kind = note.n_type(LE).0;
            all.push((kind, note.name().to_vec(), note.desc().to_vec()));
        }
        all
    }

    #[test]
    fn notes_read_back() {
        let notes = notes(&example(), x86_64());
        let bytes = Front::new(EM_X86_64, 0, notes.len()).bytes(&[], &notes);
        let all = read_back(&bytes);
        let kinds: Vec<u32> = all.iter().map(|note| note.0).collect();
        let of_thread = [elf::NT_PRFPREG.0, elf::NT_X86_XSTATE.0];
        let of_process = [
            elf::NT_PRPSINFO,
            elf::NT_SIGINFO,
            elf::NT_AUXV,
            elf::NT_FILE,
        ];
        let expected = [
            &[elf::NT_PRSTATUS.0][..],
            &of_process.map(|kind| kind.0),
            &of_thread,
            &[elf::NT_PRSTATUS.0],
            &of_thread,
        ];
        assert_eq!(kinds, expected.concat());
        for (kind, name, _) in &all {
            let linux = *kind == elf::NT_X86_XSTATE.0;
            assert_eq!(name, if linux { b"LINUX".as_slice() } else { b"CORE" });
        }
        let status = &all[0].2;
        assert_eq!(status.len(), 336);
        assert_eq!(status[24..32], 0x8000_0000_0000_0001_u64.to_le_bytes());
        assert_eq!(status[32..36], 10_i32.to_le_bytes());
        assert_eq!(status[112..328], (0..216).collect::<Vec<u8>>());
        assert_eq!(all[7].2[32..36], 11_i32.to_le_bytes());
        let info = &all[1].2;
        assert_eq!(info.len(), 136);
        assert_eq!((info[0], info[1], info[3] as i8), (1, b'S', -5));
        assert_eq!(info[40..56], *b"a name that is \0");
        assert_eq!((info[134], info[135]), (b'x', 0));
        let files = &all[4].2;
        let numbers: Vec<u64> = files[..40]
            .chunks(8)
            .map(|n| u64::from_le_bytes(n.try_into().unwrap()))
            .collect();
        assert_eq!(numbers, [1, PAGE, 0x1000, 0x3000, 2]);
        assert_eq!(files[40..], *b"/usr/bin/a (deleted)\0");
    }

    #[test]
    fn segments_read_back() {
        let segment = |start, in_file, offset| Segment {
            start,
            end: start + 0x4000,
            permissions: [true, start > 0x1_0000, false],
            in_file,
            offset,
        };
        let segments = [segment(0x1_0000, 0, 0), segment(0x2_0000, 0x4000, 0x8000)];
        let front = Front::new(EM_X86_64, 2, 0);
        let bytes = front.bytes(&segments, &[]);
        let header = parsed(&bytes);
        assert_eq!(header.e_type.get(LE), elf::ET_CORE);
        assert_eq!(header.e_machine.get(LE), elf::EM_X86_64);
        let all = header.program_headers(LE, &*bytes).unwrap();
        let all: Vec<_> = all[1..]
            .iter()
            .map(|p| {
                (
                    p.p_type(LE),
                    p.p_flags(LE).0,
                    p.p_vaddr(LE),
                    p.p_filesz(LE),
                    p.p_memsz(LE),
                    p.p_offset(LE),
                )
            })
            .collect();
        let expected = [
            (elf::PT_LOAD, 4, 0x1_0000, 0, 0x4000, front.end),
            (elf::PT_LOAD, 6, 0x2_0000, 0x4000, 0x4000, 0x8000),
        ];
        assert_eq!(all, expected);
        assert!(bytes.len() as u64 <= front.end && front.end.is_multiple_of(PAGE));
    }

    #[test]
    fn more_segments_than_a_field_can_count() {
        let segments: Vec<Segment> = (0..70_000)
            .map(|n| Segment {
                start: n * PAGE,
                end: (n + 1) * PAGE,
                permissions: [true, false, false],
                in_file: 0,
                offset: 0,
            })
            .collect();
        let bytes = Front::new(EM_X86_64, segments.len(), 0).bytes(&segments, &[]);
        let file = parsed(&bytes);
        let all = file.program_headers(LE, &*bytes).unwrap();
        assert_eq!(all.len(), 70_001);
        assert_eq!(all[70_000].p_vaddr(LE), 69_999 * PAGE);
    }

    #[test]
    fn what_is_too_long_is_cut_off() {
        let path = vec![b'p'; MOST_OF_FILES / 3];
        let file = |n: u64| MappedFile {
            range: n * PAGE..(n + 1) * PAGE,
            offset: 0,
            path: path.clone(),
        };
        let note = files(&(0..5).map(file).collect::<Vec<_>>());
        assert!(note.len() <= MOST_OF_FILES);
        assert_eq!(note[0], 2);
        let thread = Thread {
            general: vec![1; 1000],
            ..Thread::default()
        };
        let status = prstatus(&thread, &ProcessInfo::default(), x86_64());
        assert_eq!(status.len(), 336);
    }
}
