//! Reading one ELF file (or the vDSO's bytes): layout, build-id, symbols, unwind sections.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::rc::Rc;

use object::LittleEndian;
use object::read::elf::{ElfFile64, ProgramHeader as _};
use object::read::{Object as _, ObjectSection as _, ReadCache, ReadRef};

use super::callers::Callers;
use super::code::Spinlocks;
use super::debug::LineTable;
use super::symbols::{Symbol, SymbolSource, Symbols};
use super::{Bias, BuildId, Svma};
use crate::memory::{Avma, Memory};
use crate::process::read_at_most;

/// The largest section that is read whole. PostgreSQL's own are below 2 MiB, those of V8 or LLVM below 64.
const LARGEST_SECTION: u64 = 256 << 20;
/// The largest note segment that is read; a build-id needs some 40 bytes of it.
const LARGEST_NOTES: u64 = 64 << 10;

/// Why a file is of no use as an image.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// It cannot be read.
    #[error("cannot read: {0}")]
    Io(#[from] io::Error),
    /// It is not an ELF file of the kind that this build of pgpoke understands (64 bit, little-endian).
    #[error("not a 64-bit little-endian ELF file: {0}")]
    Format(#[from] object::Error),
}

/// A segment that is loaded (PT_LOAD).
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    /// Where the file wants it.
    pub start: Svma,
    /// Its size in memory.
    pub size: u64,
    /// Offset in the file.
    pub file_offset: u64,
}

/// A section: where it is in the file, and where in memory.
#[derive(Debug, Clone)]
struct Section {
    name: String,
    start: Svma,
    file_offset: u64,
    size: u64,
    compressed: bool,
}

/// What every module that PostgreSQL loads has to define (`PG_MAGIC_FUNCTION_NAME`, src/include/fmgr.h).
const MAGIC_FUNCTION: &str = "Pg_magic_func";

/// A section's address and bytes.
#[derive(Debug)]
pub struct LoadedSection {
    /// Where the file wants it.
    pub start: Svma,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What the bytes of an image are read from.
#[derive(Debug)]
enum Source {
    File(File),
    Bytes(Vec<u8>),
}

impl Source {
    fn read(&self, offset: u64, size: u64) -> io::Result<Vec<u8>> {
        match self {
            Source::File(file) => {
                // Not more than there is, whatever the header claims.
                let there = file.metadata()?.len().saturating_sub(offset);
                let mut bytes = vec![0; size.min(there).min(LARGEST_SECTION) as usize];
                let n = read_at_most(file, &mut bytes, offset)?;
                bytes.truncate(n);
                Ok(bytes)
            }
            Source::Bytes(all) => {
                let from = (offset.min(all.len() as u64)) as usize;
                let to = offset.saturating_add(size).min(all.len() as u64) as usize;
                Ok(all[from..to].to_vec())
            }
        }
    }
}

/// One ELF image.
#[derive(Debug)]
pub struct Image {
    source: Source,
    segments: Vec<Segment>,
    sections: Vec<Section>,
    build_id: Option<BuildId>,
    symbols: Symbols,
    is_extension: bool,
    eh_frame: Option<LoadedSection>,
    eh_frame_hdr: Option<LoadedSection>,
    lines: OnceCell<Option<LineTable>>,
    spinlocks: RefCell<HashMap<Svma, Option<Rc<Spinlocks>>>>,
    hands_out_spinlocks: OnceCell<bool>,
    callers: RefCell<HashMap<Svma, Rc<Callers>>>,
    told_names: RefCell<HashMap<Svma, &'static str>>,
    is_debug_file: bool,
}

impl Image {
    /// Reads the image in `file`, with the symbols of its separate debug file where there is one.
    pub fn from_file(file: File) -> Result<Self, ElfError> {
        let cache = ReadCache::new(file.try_clone()?);
        let layout = Layout::read(&cache)?;
        drop(cache);
        let mut image = Image::load(Source::File(file), layout)?;
        if let Some(debug_file) = image
            .build_id
            .as_ref()
            .and_then(super::debug::find_debug_file)
        {
            image.take_debug_file(&debug_file);
        }
        Ok(image)
    }

    /// Reads an image from its bytes.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, ElfError> {
        let layout = Layout::read(&bytes[..])?;
        Image::load(Source::Bytes(bytes), layout)
    }

    /// An image of which only the layout is known yet.
    fn bare(source: Source, layout: Layout, is_debug_file: bool) -> Self {
        Image {
            source,
            segments: layout.segments,
            sections: layout.sections,
            build_id: layout.build_id,
            symbols: Symbols::default(),
            is_extension: false,
            eh_frame: None,
            eh_frame_hdr: None,
            lines: OnceCell::new(),
            spinlocks: RefCell::default(),
            hands_out_spinlocks: OnceCell::new(),
            callers: RefCell::default(),
            told_names: RefCell::default(),
            is_debug_file,
        }
    }

    fn load(source: Source, layout: Layout) -> Result<Self, ElfError> {
        let mut image = Image::bare(source, layout, false);
        let tables = [
            (".dynsym", ".dynstr", SymbolSource::Dynsym),
            (".symtab", ".strtab", SymbolSource::Symtab),
        ];
        for (table, strings, source) in tables {
            image.add_symbols(table, strings, source)?;
        }
        image.is_extension = image.symbols.has(MAGIC_FUNCTION);
        image.eh_frame = image.section(".eh_frame")?;
        image.eh_frame_hdr = image.section(".eh_frame_hdr")?;
        Ok(image)
    }

    fn add_symbols(&mut self, table: &str, strings: &str, source: SymbolSource) -> io::Result<()> {
        if let (Some(table), Some(strings)) = (self.section(table)?, self.section(strings)?) {
            self.symbols.add_table(&table.bytes, &strings.bytes, source);
        }
        Ok(())
    }

    /// Takes over the names of the separate debug file, and remembers where its lines are.
    fn take_debug_file(&mut self, file: &Image) {
        if let (Ok(Some(table)), Ok(Some(strings))) =
            (file.section(".symtab"), file.section(".strtab"))
        {
            self.symbols
                .add_table(&table.bytes, &strings.bytes, SymbolSource::DebugFile);
        }
    }

    /// Reads a separate debug file: its layout and build-id only.
    pub(super) fn debug_file(file: File) -> Result<Self, ElfError> {
        let cache = ReadCache::new(file.try_clone()?);
        let layout = Layout::read(&cache)?;
        Ok(Image::bare(Source::File(file), layout, true))
    }

    /// The bytes of a section that is in the file, not decompressed. None where there is no such section.
    fn section(&self, name: &str) -> io::Result<Option<LoadedSection>> {
        let Some(section) = self
            .sections
            .iter()
            .find(|s| s.name == name && !s.compressed)
        else {
            return Ok(None);
        };
        Ok(Some(LoadedSection {
            start: section.start,
            bytes: self.source.read(section.file_offset, section.size)?,
        }))
    }

    /// The bytes of a debug section, decompressed. Empty where there is none.
    pub(super) fn debug_section(&self, name: &str) -> Vec<u8> {
        let Some(section) = self.sections.iter().find(|s| s.name == name) else {
            return Vec::new();
        };
        let raw = self.source.read(section.file_offset, section.size);
        let raw = raw.unwrap_or_default();
        if section.compressed {
            super::debug::decompress(&raw).unwrap_or_default()
        } else {
            raw
        }
    }

    /// Whether it carries debug information of its own.
    pub fn has_debug_info(&self) -> bool {
        !self.is_debug_file && self.sections.iter().any(|s| s.name == ".debug_info")
    }

    /// Function names, inlined callers and lines, read when first asked for; none without debug information.
    pub fn lines(&self) -> Option<&LineTable> {
        self.lines
            .get_or_init(|| self.has_debug_info().then(|| LineTable::load(self))?)
            .as_ref()
    }

    /// The build-id that the file carries.
    pub fn build_id(&self) -> Option<&BuildId> {
        self.build_id.as_ref()
    }

    /// Whether PostgreSQL would load it as an extension: then it knows of errors that jump across it.
    pub fn is_extension(&self) -> bool {
        self.is_extension
    }

    /// Its symbols.
    pub fn symbols(&self) -> &Symbols {
        &self.symbols
    }

    /// The call-frame information, `.eh_frame` and its index.
    pub fn unwind_sections(&self) -> Option<(&LoadedSection, Option<&LoadedSection>)> {
        Some((self.eh_frame.as_ref()?, self.eh_frame_hdr.as_ref()))
    }

    /// The bytes of `size` that the file states to be at `start`, as far as they are in one segment of the file.
    pub fn bytes_at(&self, start: Svma, size: u64) -> io::Result<Vec<u8>> {
        let segment = self
            .segments
            .iter()
            .find(|s| s.start <= start && start.0 - s.start.0 < s.size);
        match segment {
            Some(s) => {
                let into = start.0 - s.start.0;
                self.source
                    .read(s.file_offset.saturating_add(into), size.min(s.size - into))
            }
            None => Ok(Vec::new()),
        }
    }

    /// What the function of `size` bytes at `start` does with spinlocks, if its code was read before.
    pub fn known_spinlocks(&self, start: Svma) -> Option<Rc<Spinlocks>> {
        self.spinlocks.borrow().get(&start).cloned().flatten()
    }

    /// Whether the code of the function at `start` was to be read before, with success or without.
    pub fn tried_spinlocks(&self, start: Svma) -> bool {
        self.spinlocks.borrow().contains_key(&start)
    }

    /// Reads the code of the function of `size` bytes at `start`, so that its spinlocks are known. Never while a
    /// backend stands still.
    pub fn learn_spinlocks(&self, start: Svma, size: u64) {
        if !self.tried_spinlocks(start) {
            let code = self.bytes_at(start, Spinlocks::readable(size)).ok();
            let code = code.filter(|c| c.len() as u64 == size);
            let found = code.map(|c| Rc::new(Spinlocks::read(&c, start)));
            self.spinlocks.borrow_mut().insert(start, found);
        }
    }

    /// Whether one of its functions may leave a spinlock to its caller, or to a part of itself elsewhere, so that a
    /// function may hold one whose own code does not show it. None if that was not looked at.
    pub fn hands_out_spinlocks(&self) -> Option<bool> {
        self.hands_out_spinlocks.get().copied()
    }

    /// Reads the code of all functions that take a spinlock. Never while a backend stands still.
    pub fn learn_hands_out_spinlocks(&self) {
        self.hands_out_spinlocks
            .get_or_init(|| self.look_for_spinlocks_left().unwrap_or(true));
    }

    /// None where it cannot be told.
    fn look_for_spinlocks_left(&self) -> Option<bool> {
        /// Locks the header of a buffer for its caller (src/backend/storage/buffer/bufmgr.c).
        const LOCKS_FOR_CALLER: &[u8] = b"\0LockBufHdr\0";
        const MOST_FUNCTIONS: usize = 4096;
        let names = self.section(".dynstr").ok()??;
        if memchr::memmem::find(&names.bytes, LOCKS_FOR_CALLER).is_some() {
            return Some(true);
        }
        let code = self.code()?;
        // As tas() spells it, in every version: `lock xchgb`, with a REX prefix or without (src/include/storage/s_lock.h).
        let takes = |at: &usize| {
            let next = |i: usize| code.bytes.get(at + i).copied().unwrap_or(0);
            next(1) == 0x86 || (next(1) & 0xf0 == 0x40 && next(2) == 0x86)
        };
        let mut functions = std::collections::BTreeMap::new();
        for at in memchr::memchr_iter(0xf0, &code.bytes).filter(takes) {
            let (start, size) = self.function_bounds(Svma(code.start.0.wrapping_add(at as u64)))?;
            functions.insert(start, size);
            if functions.len() > MOST_FUNCTIONS {
                return None;
            }
        }
        for (start, size) in functions {
            self.learn_spinlocks(start, size);
            if self.known_spinlocks(start)?.are_left_held() {
                return Some(true);
            }
        }
        Some(false)
    }

    /// Takes a name for the function that starts at `start`, from someone who can tell it by other means than symbols.
    pub fn tell_name(&self, start: Svma, name: &'static str) {
        self.told_names.borrow_mut().insert(start, name);
    }

    /// The function that `at` lies in: by its symbol, or by a name that was told.
    pub fn function_at(&self, at: Svma) -> Option<Symbol<'_>> {
        self.symbols.function_at(at).or_else(|| {
            if self.told_names.borrow().is_empty() {
                return None;
            }
            let (start, size) = self.function_bounds(at)?;
            Some(Symbol {
                name: self.told_names.borrow().get(&start)?,
                start,
                size,
                source: SymbolSource::Decoded,
            })
        })
    }

    /// Who can call the function that starts at `start`, if that was looked for before.
    pub fn known_callers(&self, start: Svma) -> Option<Rc<Callers>> {
        self.callers.borrow().get(&start).cloned()
    }

    /// Looks for those who can call the functions that start at `functions`. Never while a backend stands still.
    pub fn learn_callers(&self, functions: &[Svma]) {
        let mut wanted: Vec<Svma> = functions.to_vec();
        wanted.retain(|f| self.known_callers(*f).is_none());
        if !wanted.is_empty() {
            let found = self.find_callers(&wanted);
            let found = wanted.into_iter().zip(found.into_iter().map(Rc::new));
            self.callers.borrow_mut().extend(found);
        }
    }

    /// The code. None where the file does not say which section that is, or it is too large to be read whole.
    pub(super) fn code(&self) -> Option<LoadedSection> {
        let size = self.sections.iter().find(|s| s.name == ".text")?.size;
        let code = self.section(".text").ok().flatten()?;
        (code.bytes.len() as u64 == size).then_some(code)
    }

    /// What is loaded and is neither code nor call-frame information: data, constants, and relocations with the
    /// addresses that the dynamic linker puts into data.
    pub(super) fn data(&self) -> Option<Vec<LoadedSection>> {
        let loaded =
            |s: &&Section| s.start.0 != 0 && s.name != ".text" && !s.name.starts_with(".eh_frame");
        self.sections
            .iter()
            .filter(loaded)
            .map(|s| {
                let section = self.section(&s.name).ok().flatten()?;
                (section.bytes.len() as u64 == s.size).then_some(section)
            })
            .collect()
    }

    /// Whether it is not position-independent: addresses then also stand in the code itself.
    pub(super) fn is_at_a_fixed_address(&self) -> bool {
        const PAGE: u64 = 4096;
        self.segments.iter().all(|s| s.start.0 >= PAGE)
    }

    /// Where in the constants (`.rodata`) `needle` is, with up to `more` of the bytes from there on.
    pub fn find_constant(&self, needle: &[u8], more: usize) -> io::Result<Option<Vec<u8>>> {
        Ok(self.section(".rodata")?.and_then(|s| {
            let at = memchr::memmem::find(&s.bytes, needle)?;
            let end = s.bytes.len().min(at + more);
            Some(s.bytes[at..end].to_vec())
        }))
    }

    /// The bias of this image where a piece of its file from `file_offset` on is mapped at `start`.
    pub fn bias_of_mapping(&self, start: Avma, file_offset: u64) -> Option<Bias> {
        // The kernel maps whole pages: the mapping's offset may lie up to a page below the segment's.
        const PAGE: u64 = 4096;
        self.segments
            .iter()
            .find(|s| {
                s.file_offset & !(PAGE - 1) <= file_offset
                    && file_offset < s.file_offset.saturating_add(s.size)
            })
            .map(|s| {
                let svma_of_offset = s
                    .start
                    .0
                    .wrapping_sub(s.file_offset)
                    .wrapping_add(file_offset);
                Bias(start.0.wrapping_sub(svma_of_offset))
            })
    }
}

/// The parts of an ELF file that say where everything is.
struct Layout {
    segments: Vec<Segment>,
    sections: Vec<Section>,
    build_id: Option<BuildId>,
}

impl Layout {
    fn read<'d, R: ReadRef<'d>>(data: R) -> Result<Self, ElfError> {
        let elf = ElfFile64::<LittleEndian, R>::parse(data)?;
        let endian = elf.endian();
        let segments = elf
            .elf_program_headers()
            .iter()
            .filter(|p| p.p_type(endian) == object::elf::PT_LOAD)
            .map(|p| Segment {
                start: Svma(p.p_vaddr(endian)),
                size: p.p_memsz(endian),
                file_offset: p.p_offset(endian),
            })
            .collect();
        let sections = elf
            .sections()
            .filter_map(|s| {
                let (file_offset, size) = s.file_range()?;
                let compressed = matches!(
                    s.flags(),
                    object::SectionFlags::Elf { sh_flags, .. }
                        if sh_flags.contains(object::elf::SHF_COMPRESSED)
                );
                Some(Section {
                    name: s.name().ok()?.to_owned(),
                    start: Svma(s.address()),
                    file_offset,
                    size,
                    compressed,
                })
            })
            .collect();
        Ok(Layout {
            segments,
            sections,
            build_id: elf.build_id()?.map(|id| BuildId(id.to_vec())),
        })
    }
}

/// Reads the build-id of an image out of the memory it is mapped to at `start`, its first byte.
pub fn build_id_in_memory(memory: &dyn Memory, start: Avma) -> Option<BuildId> {
    /// sizeof(Elf64_Ehdr), sizeof(Elf64_Phdr)
    const HEADER: usize = 64;
    const PROGRAM_HEADER: usize = 56;
    const MOST_PROGRAM_HEADERS: u16 = 64;
    let mut header = [0; HEADER];
    memory.read(start, &mut header).ok()?;
    if &header[..6] != b"\x7fELF\x02\x01" {
        return None;
    }
    let u64_of = |bytes: &[u8], at: usize| {
        bytes
            .get(at..at + 8)
            .and_then(|b| b.try_into().ok())
            .map(u64::from_le_bytes)
    };
    let table = u64_of(&header, 32)?;
    let count = u16::from_le_bytes([header[56], header[57]]).min(MOST_PROGRAM_HEADERS);
    let mut headers = vec![0; usize::from(count) * PROGRAM_HEADER];
    memory
        .read(Avma(start.0.wrapping_add(table)), &mut headers)
        .ok()?;
    let headers = headers.chunks_exact(PROGRAM_HEADER);
    let kind = |h: &[u8]| u32::from_le_bytes([h[0], h[1], h[2], h[3]]);
    // The first loaded segment is the one that the header itself is in.
    let first = headers.clone().find(|h| kind(h) == 1)?;
    let bias = start.0.wrapping_sub(u64_of(first, 16)?);
    for note in headers.filter(|h| kind(h) == 4) {
        let (address, size) = (u64_of(note, 16)?, u64_of(note, 40)?.min(LARGEST_NOTES));
        let mut bytes = vec![0; size as usize];
        if memory
            .read(Avma(address.wrapping_add(bias)), &mut bytes)
            .is_ok()
            && let Some(id) = build_id_in_notes(&bytes)
        {
            return Some(id);
        }
    }
    None
}

/// Finds the build-id (name `GNU`, type 3) in the bytes of a note segment with 4-byte alignment.
fn build_id_in_notes(mut notes: &[u8]) -> Option<BuildId> {
    loop {
        let (head, rest) = notes.split_first_chunk::<12>()?;
        let word = |i: usize| {
            u32::from_le_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]) as usize
        };
        let (name_size, desc_size, kind) = (word(0), word(4), word(8));
        let desc_at = name_size.checked_next_multiple_of(4)?;
        let next_at = desc_at
            .checked_add(desc_size)?
            .checked_next_multiple_of(4)?;
        let desc = rest.get(desc_at..desc_at.checked_add(desc_size)?)?;
        if kind == 3 && rest.get(..name_size)? == b"GNU\0" && !desc.is_empty() {
            return Some(BuildId(desc.to_vec()));
        }
        notes = rest.get(next_at..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::ProcessMemory;

    #[test]
    fn our_own_executable_and_its_image_in_memory_agree() {
        let me = crate::process::Process::open(std::process::id() as i32).unwrap();
        let image = Image::from_file(me.executable().unwrap()).unwrap();
        let maps = me.maps().unwrap();
        let exe = std::fs::read_link("/proc/self/exe").unwrap();
        let first = maps.iter().find(|m| m.path == exe).unwrap();
        let bias = image
            .bias_of_mapping(first.start, first.file_offset)
            .unwrap();
        let here = our_own_executable_and_its_image_in_memory_agree as fn() as usize;
        let here = Avma(here as u64);
        let name = image
            .symbols()
            .function_at(bias.to_svma(here))
            .unwrap()
            .name;
        assert!(name.contains("our_own_executable"), "{name}");
        let memory = ProcessMemory::open(me.pid());
        assert_eq!(
            build_id_in_memory(&memory, first.start).as_ref(),
            image.build_id()
        );
    }

    #[test]
    fn notes_that_lie_about_their_sizes() {
        let note = |name: u32, desc: u32, rest: &[u8]| {
            let mut n = Vec::new();
            n.extend(name.to_le_bytes());
            n.extend(desc.to_le_bytes());
            n.extend(3u32.to_le_bytes());
            n.extend(rest);
            n
        };
        let good = note(4, 4, b"GNU\0\x01\x02\x03\x04");
        assert_eq!(build_id_in_notes(&good), Some(BuildId(vec![1, 2, 3, 4])));
        for bad in [
            note(u32::MAX, 4, b"GNU\0"),
            note(4, u32::MAX, b"GNU\0\x01"),
            note(4, 0, b"GNU\0"),
            note(0, 0, b""),
            vec![0; 40],
        ] {
            assert_eq!(build_id_in_notes(&bad), None);
        }
    }
}
