//! An image out of the memory that it is loaded into, for a file that is gone and that the kernel does not give us.
//!
//! What a loader needs is there: program headers, dynamic symbols, call-frame information. Section headers and the full
//! symbol table are not loaded. Pages that were written to differ from the file, so that only segments that are not
//! writable are taken, and of the dynamic section only addresses.

use object::LittleEndian;
use object::read::elf::{GnuHashTable, HashTable};

use super::elf::{Layout, Section, Segment, build_id_in_memory};
use crate::address::{Avma, Bias, Svma};
use crate::memory::Memory;

/// The most of an image that is read from memory.
const LARGEST: u64 = 64 << 20;
/// sizeof(Elf64_Ehdr), sizeof(Elf64_Phdr), sizeof(Elf64_Dyn), sizeof(Elf64_Sym)
const FILE_HEADER: usize = 64;
/// Where in a file's header the processor stands that it is for.
const E_MACHINE: i64 = 18;
const PROGRAM_HEADER: usize = 56;
const DYNAMIC: usize = 16;
const SYMBOL: u64 = 24;
/// No image has more; a hostile one may say so.
const MOST_PROGRAM_HEADERS: u16 = 64;
const MOST_DYNAMIC: u64 = 4096;

/// A program header (elf(5)).
struct Header {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
}

impl Header {
    const LOAD: u32 = 1;
    const DYNAMIC: u32 = 2;
    const EH_FRAME_HDR: u32 = 0x6474_e550;
    const EXECUTABLE: u32 = 1;
    const WRITABLE: u32 = 2;

    fn read(raw: &[u8; PROGRAM_HEADER]) -> Self {
        let word = |at: usize| u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        Header {
            kind: word(0),
            flags: word(4),
            offset: long(8),
            address: long(16),
            file_size: long(32),
            memory_size: long(40),
        }
    }

    fn is_loaded(&self) -> bool {
        self.kind == Header::LOAD
    }

    /// Loaded as it is in the file.
    fn is_constant(&self) -> bool {
        self.is_loaded() && self.flags & Header::WRITABLE == 0
    }
}

/// What is in memory of the image whose header lies at `start`: the bytes of its file, as far as they are loaded and
/// cannot have changed, and where things are in them.
pub(super) fn read(memory: &dyn Memory, start: Avma) -> Option<(Vec<u8>, Layout)> {
    let headers = program_headers(memory, start)?;
    let first = headers.iter().find(|h| h.is_loaded())?;
    let bias = Bias(
        start
            .0
            .wrapping_sub(first.address.checked_sub(first.offset)?),
    );

    let constant = || headers.iter().filter(|h| h.is_constant());
    let ends = constant().map(|h| h.offset.checked_add(h.file_size));
    let size = ends.collect::<Option<Vec<u64>>>()?.into_iter().max()?;
    if size > LARGEST {
        return None;
    }
    let mut bytes = vec![0; size as usize];
    for header in constant() {
        let part = header.offset as usize..(header.offset + header.file_size) as usize;
        memory
            .read(bias.to_avma(Svma(header.address)), &mut bytes[part])
            .ok()?;
    }
    // To the end of the segment that it is in.
    let rest_of = |start: u64| -> Option<(u64, u64)> {
        let inside = |h: &&Header| {
            start
                .checked_sub(h.address)
                .is_some_and(|i| i < h.file_size)
        };
        let header = constant().find(inside)?;
        let into = start - header.address;
        Some((header.offset + into, header.file_size - into))
    };
    let bytes_from = |start: u64| {
        let (at, size) = rest_of(start)?;
        bytes.get(at as usize..(at + size) as usize)
    };
    let mut sections = Vec::new();
    let mut add = |name: &str, start: u64, most: u64| {
        if let Some((file_offset, rest)) = rest_of(start) {
            sections.push(Section {
                name: name.to_owned(),
                start: Svma(start),
                file_offset,
                size: rest.min(most),
                compressed: false,
            });
        }
    };
    if let Some(code) = constant().find(|h| h.flags & Header::EXECUTABLE != 0) {
        add(".text", code.address, code.file_size);
    }
    if let Some(index) = headers.iter().find(|h| h.kind == Header::EH_FRAME_HDR) {
        add(".eh_frame_hdr", index.address, index.file_size);
        if let Some(start) = bytes_from(index.address).and_then(|b| eh_frame_of(b, index.address)) {
            // It ends with a zero; whoever reads it stops there.
            add(".eh_frame", start, u64::MAX);
        }
    }
    if let Some(dynamic) = headers.iter().find(|h| h.kind == Header::DYNAMIC) {
        let ends = headers.iter().filter(|h| h.is_loaded());
        let end = ends
            .map(|h| h.address.saturating_add(h.memory_size))
            .max()?;
        let found = Dynamic::read(memory, dynamic, bias, end);
        if let Some((found, count)) = found.as_ref().and_then(|f| Some((f, f.count(bytes_from)?))) {
            add(".dynsym", found.symbols, count.saturating_mul(SYMBOL));
            add(".dynstr", found.strings, found.strings_size);
        }
    }
    let segments = headers.iter().filter(|h| h.is_loaded());
    let mut machine = [0; 2];
    memory.read(start.offset(E_MACHINE), &mut machine).ok()?;
    let layout = Layout {
        machine: u16::from_le_bytes(machine),
        segments: segments
            .map(|h| Segment {
                start: Svma(h.address),
                size: h.memory_size,
                file_offset: h.offset,
            })
            .collect(),
        sections,
        build_id: build_id_in_memory(memory, start),
    };
    Some((bytes, layout))
}

/// Whether the image whose header lies at `start` has one of these names in its table of dynamic symbols' names, and so may
/// import or export it. None where the table cannot be read.
pub(super) fn names_any(memory: &dyn Memory, start: Avma, names: &[&str]) -> Option<bool> {
    let headers = program_headers(memory, start)?;
    let first = headers.iter().find(|h| h.is_loaded())?;
    let begins = first.address.checked_sub(first.offset)?;
    let bias = Bias(start.0.wrapping_sub(begins));
    let ends = headers.iter().filter(|h| h.is_loaded());
    let end = ends
        .map(|h| h.address.saturating_add(h.memory_size))
        .max()?;
    let dynamic = headers.iter().find(|h| h.kind == Header::DYNAMIC)?;
    let table = Dynamic::read(memory, dynamic, bias, end)?;
    if table.strings_size > LARGEST {
        return None;
    }
    let mut strings = vec![0; table.strings_size as usize];
    let at = bias.to_avma(Svma(table.strings));
    memory.read(at, &mut strings).ok()?;
    Some(names.iter().any(|name| {
        // A name may be the end of a longer one.
        let ending = format!("{name}\0");
        memchr::memmem::find(&strings, ending.as_bytes()).is_some()
    }))
}

fn program_headers(memory: &dyn Memory, start: Avma) -> Option<Vec<Header>> {
    let mut file = [0; FILE_HEADER];
    memory.read(start, &mut file).ok()?;
    // 64 bit, little-endian; and headers of the size that we know.
    let size = u16::from_le_bytes([file[54], file[55]]);
    if file[..6] != *b"\x7fELF\x02\x01" || usize::from(size) != PROGRAM_HEADER {
        return None;
    }
    let table = u64::from_le_bytes(file[32..40].try_into().ok()?);
    let count = u16::from_le_bytes([file[56], file[57]]).min(MOST_PROGRAM_HEADERS);
    let mut raw = vec![0; usize::from(count) * PROGRAM_HEADER];
    let at = Avma(start.0.wrapping_add(table));
    memory.read(at, &mut raw).ok()?;
    let headers = raw.as_chunks::<PROGRAM_HEADER>().0;
    Some(headers.iter().map(Header::read).collect())
}

/// Where `.eh_frame` starts, by the head of its index: version 1 and a distance from the field itself, which is how all
/// linkers write it (LSB, "The .eh_frame_hdr section").
fn eh_frame_of(index: &[u8], at: u64) -> Option<u64> {
    const PC_RELATIVE_I32: u8 = 0x1b;
    let (head, rest) = index.split_first_chunk::<4>()?;
    if head[0] != 1 || head[1] != PC_RELATIVE_I32 {
        return None;
    }
    let distance = i32::from_le_bytes(*rest.first_chunk::<4>()?);
    Some(at.wrapping_add(4).wrapping_add_signed(distance.into()))
}

/// What the dynamic section tells, as stated addresses.
struct Dynamic {
    symbols: u64,
    strings: u64,
    strings_size: u64,
    hash: Option<u64>,
    gnu_hash: Option<u64>,
}

impl Dynamic {
    fn read(memory: &dyn Memory, header: &Header, bias: Bias, end: u64) -> Option<Self> {
        let size = header.memory_size.min(MOST_DYNAMIC * DYNAMIC as u64);
        let mut raw = vec![0; size as usize];
        let at = bias.to_avma(Svma(header.address));
        memory.read(at, &mut raw).ok()?;
        let entries = raw.as_chunks::<DYNAMIC>().0.iter().map(|entry| {
            let (tag, value) = entry.split_at(8);
            let number = |b: &[u8]| b.try_into().map_or(0, u64::from_le_bytes);
            (number(tag), number(value))
        });
        let entries: Vec<(u64, u64)> = entries.take_while(|(tag, _)| *tag != 0).collect();
        let value = |tag: u64| entries.iter().find(|(t, _)| *t == tag).map(|(_, v)| *v);
        // glibc's dynamic linker replaces these by actual addresses, musl's leaves them (elf/get-dynamic-info.h).
        let address = |tag: u64| {
            let value = value(tag)?;
            let moved = bias.to_svma(Avma(value)).0;
            Some(if moved < end { moved } else { value })
        };
        Some(Dynamic {
            symbols: address(6)?,
            strings: address(5)?,
            strings_size: value(10)?,
            hash: address(4),
            gnu_hash: address(0x6fff_fef5),
        })
    }

    /// How many symbols there are: only the hash tables tell.
    fn count<'b>(&self, bytes_from: impl Fn(u64) -> Option<&'b [u8]>) -> Option<u64> {
        type Elf = object::elf::FileHeader64<LittleEndian>;
        let by_gnu = || {
            let table = GnuHashTable::<Elf>::parse(LittleEndian, bytes_from(self.gnu_hash?)?);
            table.ok()?.symbol_table_length(LittleEndian)
        };
        let by_hash = || {
            let table = HashTable::<Elf>::parse(LittleEndian, bytes_from(self.hash?)?);
            Some(table.ok()?.symbol_table_length())
        };
        by_gnu().or_else(by_hash).map(u64::from)
    }
}

#[cfg(test)]
mod tests {
    use super::super::elf::Image;
    use super::*;
    use crate::memory::{CapturedMemory, ProcessMemory};
    use crate::process::Process;

    #[test]
    fn libc_from_memory_is_libc_from_its_file() {
        let me = Process::open(std::process::id() as i32).unwrap();
        let memory = ProcessMemory::open(me.pid());
        let maps = me.maps().unwrap();
        let is_libc = |m: &&crate::process::Mapping| {
            let name = m.path.to_string_lossy();
            m.file_offset == 0 && (name.contains("/libc.so") || name.contains("/ld-musl"))
        };
        let Some(libc) = maps.iter().find(is_libc) else {
            eprintln!("SKIPPED: no libc is mapped here");
            return;
        };
        let loaded = Image::from_memory(&memory, libc.start).unwrap();
        let file = Image::from_file(std::fs::File::open(&libc.path).unwrap()).unwrap();
        assert_eq!(loaded.build_id(), file.build_id());
        let here = maps.iter().find(|m| m.file == libc.file && m.executable);
        let here = here.unwrap();
        let bias = |image: &Image| image.bias_of_mapping(here.start, here.file_offset);
        assert_eq!(bias(&loaded), bias(&file));
        for name in ["malloc", "read", "pthread_mutex_lock"] {
            let of = |image: &Image| {
                let found = image.symbols().by_name(&[name]);
                let symbol = &found[name].0;
                let at = symbol.start;
                (
                    at,
                    symbol.size,
                    image.function_bounds(at),
                    image.bytes_at(at, 64).unwrap(),
                )
            };
            assert_eq!(of(&loaded), of(&file), "{name}");
        }
    }

    #[test]
    fn hostile_memory_is_no_image() {
        let header = |count: u16, table: u64| {
            let mut h = vec![0; FILE_HEADER];
            h[..6].copy_from_slice(b"\x7fELF\x02\x01");
            h[32..40].copy_from_slice(&table.to_le_bytes());
            h[54..56].copy_from_slice(&(PROGRAM_HEADER as u16).to_le_bytes());
            h[56..58].copy_from_slice(&count.to_le_bytes());
            h
        };
        let program = |kind: u32, flags: u32, numbers: [u64; 4]| {
            let mut h = vec![0; PROGRAM_HEADER];
            h[..4].copy_from_slice(&kind.to_le_bytes());
            h[4..8].copy_from_slice(&flags.to_le_bytes());
            for (at, number) in [8, 16, 32, 40].into_iter().zip(numbers) {
                h[at..at + 8].copy_from_slice(&number.to_le_bytes());
            }
            h
        };
        const MAX: u64 = u64::MAX;
        let cases = [
            vec![],
            vec![program(1, 5, [0, 0, 1 << 40, 1 << 40])],
            vec![program(1, 5, [0, 0, MAX, MAX])],
            vec![program(1, 5, [MAX, 0, 1, 1])],
            vec![program(1, 5, [1 << 20, 0, 8, 8])],
            vec![program(1, 6, [0, 0, 64, 64])],
            vec![program(1, 5, [0, 0, 4096, 4096])],
        ];
        for case in cases {
            let all = [vec![header(case.len() as u16, 64)], case]
                .concat()
                .concat();
            let mut memory = CapturedMemory::default();
            memory.add(Avma(0x1000), all);
            assert!(read(&memory, Avma(0x1000)).is_none());
        }
        // What is small enough is taken for what it says, with no end of nonsense in it.
        let whole = [
            header(3, 64),
            program(1, 5, [0, 0, 232, MAX]),
            program(2, 4, [0, 0, MAX, MAX]),
            program(0x6474_e550, 4, [MAX, 228, MAX, MAX]),
        ];
        let mut memory = CapturedMemory::default();
        memory.add(Avma(0x1000), whole.concat());
        let (bytes, layout) = read(&memory, Avma(0x1000)).unwrap();
        assert_eq!(bytes.len(), 232);
        assert!(
            layout
                .sections
                .iter()
                .all(|s| s.file_offset + s.size <= 232)
        );
        let mut memory = CapturedMemory::default();
        memory.add(Avma(0x1000), header(u16::MAX, MAX));
        assert!(read(&memory, Avma(0x1000)).is_none());
    }
}
