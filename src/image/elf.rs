//! Reading one ELF file (or the vDSO's bytes): layout, build-id, symbols, unwind sections.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::rc::Rc;

use object::elf::{FileHeader64, ProgramHeader64, SectionHeader64};
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _};
use object::{LittleEndian, pod};

use super::BuildId;
use super::budget::Held;
use super::callers::Callers;
use super::debug::{self, LineTable};
use super::handed::Handed;
use super::imports::Stubs;
use super::locate::{DebugFile, Finder, MOST_DEBUG_INFORMATION};
use super::symbols::{Symbol, SymbolSource, Symbols};
use crate::address::{Avma, Bias, Svma};
use crate::arch::x86_64::spinlocks::Spinlocks;
use crate::arch::{self, MachineCode};
use crate::memory::Memory;
use crate::process::read_at_most;

/// Lists of locations, by where the code is.
type LocationLists = gimli::LocationLists<debug::Reader>;

/// The largest section that is read whole. PostgreSQL's own are below 10 MiB; V8's and most of LLVM's code is below 64.
const LARGEST_SECTION: u64 = 64 << 20;
/// The most data (all that is loaded and not code) that is searched for addresses of functions.
const MOST_DATA: u64 = 64 << 20;
/// The largest symbol table, with its names. The largest known, of a Node.js that was not stripped, has 20 MiB.
const LARGEST_SYMBOLS: u64 = 48 << 20;
/// The kernel and glibc load no image with more (fs/binfmt_elf.c, load_elf_phdrs: a table of 64 KiB).
const MOST_PROGRAM_HEADERS: usize = 1170;
/// The table of the sections' names, and the longest name that is of use.
const LARGEST_SECTION_NAMES: u64 = 1 << 20;
const LONGEST_SECTION_NAME: usize = 64;
/// The largest note segment that is read; a build-id needs some 40 bytes of it.
const LARGEST_NOTES: u64 = 64 << 10;
/// The most notes that are looked through for a build-id.
const MOST_NOTES: usize = 64;

/// Why a file is of no use as an image.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// It cannot be read.
    #[error("cannot read: {0}")]
    Io(#[from] io::Error),
    /// It is not an ELF file of the kind that this build of pgpoke understands (64 bit, little-endian).
    #[error("not a 64-bit little-endian ELF file: {0}")]
    Format(#[from] object::Error),
    /// Its tables are larger than those of any real image, or there are too many images.
    #[error("its {0} are too large to be read")]
    TooLarge(&'static str),
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
pub(super) struct Section {
    pub(super) name: String,
    pub(super) start: Svma,
    pub(super) file_offset: u64,
    pub(super) size: u64,
    pub(super) compressed: bool,
}

/// What every module that PostgreSQL loads has to define (`PG_MAGIC_FUNCTION_NAME`, src/include/fmgr.h).
pub(super) const MAGIC_FUNCTION: &str = "Pg_magic_func";
/// What a module has to import to start a subtransaction of its own (src/include/access/xact.h), as it ends in `.dynstr`.
const STARTS_SUBTRANSACTION: &[u8] = b"BeginInternalSubTransaction\0";

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
    /// The bytes of a table of `count` entries; an error where it is cut short.
    fn table<T>(&self, offset: u64, count: usize) -> Result<Vec<u8>, ElfError> {
        let size = count * size_of::<T>();
        let bytes = self.read(offset, size as u64)?;
        match bytes.len() == size {
            true => Ok(bytes),
            false => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }

    fn size(&self) -> io::Result<u64> {
        match self {
            Source::File(file) => Ok(file.metadata()?.len()),
            Source::Bytes(all) => Ok(all.len() as u64),
        }
    }

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
                let size = size.min(LARGEST_SECTION);
                let from = (offset.min(all.len() as u64)) as usize;
                let to = offset.saturating_add(size).min(all.len() as u64) as usize;
                Ok(all.get(from..to).unwrap_or_default().to_vec())
            }
        }
    }

    /// The same to be shared, without a second copy of what may be large.
    fn read_shared(&self, offset: u64, size: u64) -> io::Result<Rc<[u8]>> {
        let Source::File(file) = self else {
            return Ok(self.read(offset, size)?.into());
        };
        let there = file.metadata()?.len().saturating_sub(offset);
        let size = size.min(there).min(LARGEST_SECTION) as usize;
        let mut bytes: Rc<[u8]> = std::iter::repeat_n(0, size).collect();
        if let Some(bytes) = Rc::get_mut(&mut bytes) {
            read_at_most(file, bytes, offset)?;
        }
        Ok(bytes)
    }
}

/// One ELF image.
#[derive(Debug)]
pub struct Image {
    source: Source,
    machine: u16,
    segments: Vec<Segment>,
    sections: Vec<Section>,
    build_id: Option<BuildId>,
    symbols: Symbols,
    is_extension: bool,
    starts_subtransactions: bool,
    eh_frame: Option<LoadedSection>,
    eh_frame_hdr: Option<LoadedSection>,
    lines: OnceCell<Option<LineTable>>,
    locations: OnceCell<LocationLists>,
    spinlocks: RefCell<HashMap<Svma, Option<Rc<Spinlocks>>>>,
    handed_spinlocks: OnceCell<Handed>,
    callers: RefCell<HashMap<Svma, Rc<Callers>>>,
    told_names: RefCell<HashMap<Svma, &'static str>>,
    stubs: OnceCell<Stubs>,
    is_from_memory: bool,
    finder: Option<Finder>,
    debug_file: OnceCell<Option<Box<DebugFile>>>,
    held: RefCell<Held>,
}

impl Image {
    /// Reads the image in `file`, and nothing beside it.
    pub fn from_file(file: File) -> Result<Self, ElfError> {
        Image::load(Source::File(file))
    }

    /// Whether the names of what an ELF file exports have all of these among them. Reads nothing but those names, so that
    /// every executable of a machine can be asked.
    pub fn names_all(file: File, wanted: &[&str]) -> bool {
        let source = Source::File(file);
        let names = Layout::read(&source).ok().and_then(|layout| {
            let names = layout.sections.iter().find(|s| s.name == ".dynstr")?;
            source
                .read(names.file_offset, names.size.min(LARGEST_SYMBOLS))
                .ok()
        });
        let has = |names: &[u8], name: &str| {
            // Linkers let a name be the end of a longer one.
            let ended = [name.as_bytes(), b"\0"].concat();
            memchr::memmem::find(names, &ended).is_some()
        };
        names.is_some_and(|names| wanted.iter().all(|name| has(&names, name)))
    }

    /// Reads an image from its bytes.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, ElfError> {
        Image::load(Source::Bytes(bytes))
    }

    /// Reads the image that is loaded at `start`, where its header lies, from memory: without what is not loaded of a
    /// file, such as its full symbol table.
    pub fn from_memory(memory: &dyn Memory, start: Avma) -> Option<Self> {
        let (bytes, layout) = super::loaded::read(memory, start)?;
        let size = bytes.len() as u64;
        let mut image = Image::load_as(Source::Bytes(bytes), layout).ok()?;
        image.hold(size, "loaded segments").ok()?;
        image.is_from_memory = true;
        Some(image)
    }

    /// Takes over the names that its debug file has, unless it has all names itself; and looks for its lines there when
    /// they are asked for.
    pub(super) fn with_debug_files(mut self, finder: Finder) -> Self {
        self.finder = Some(finder);
        if self.has_section(".symtab") {
            return self;
        }
        let found = self
            .debug_file()
            .map(|found| (&found.image, SymbolSource::DebugFile));
        let symbols = found.and_then(|(file, source)| Some((file.symbol_table(&self)?, source)));
        let symbols = symbols.or_else(|| {
            let inner = debug::mini_debug_info(&self)?;
            Some((inner.symbol_table(&self)?, SymbolSource::DebugData))
        });
        if let Some(((table, strings), source)) = symbols {
            let size = (table.len() + strings.len()) as u64;
            match self.hold(size, "symbol tables") {
                Ok(()) => self.symbols.add_table(&table, &strings, source),
                Err(_) => self.warn_of_size("symbol table", size),
            }
        }
        self
    }

    /// An image of which only the layout is known yet.
    fn bare(source: Source, layout: Layout) -> Self {
        Image {
            source,
            machine: layout.machine,
            segments: layout.segments,
            sections: layout.sections,
            build_id: layout.build_id,
            symbols: Symbols::default(),
            is_extension: false,
            starts_subtransactions: false,
            eh_frame: None,
            eh_frame_hdr: None,
            lines: OnceCell::new(),
            locations: OnceCell::new(),
            spinlocks: RefCell::default(),
            handed_spinlocks: OnceCell::new(),
            callers: RefCell::default(),
            told_names: RefCell::default(),
            stubs: OnceCell::new(),
            is_from_memory: false,
            finder: None,
            debug_file: OnceCell::new(),
            held: RefCell::default(),
        }
    }

    /// An image of nothing but call-frame information, for tests.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn of_call_frames(machine: u16, eh_frame: Vec<u8>, hdr: Option<Vec<u8>>) -> Self {
        let layout = Layout {
            machine,
            segments: Vec::new(),
            sections: Vec::new(),
            build_id: None,
        };
        let section = |start, bytes| LoadedSection { start, bytes };
        let mut image = Image::bare(Source::Bytes(Vec::new()), layout);
        image.eh_frame = Some(section(Svma(0x2000), eh_frame));
        image.eh_frame_hdr = hdr.map(|hdr| section(Svma(0x1000), hdr));
        image
    }

    fn load(source: Source) -> Result<Self, ElfError> {
        let layout = Layout::read(&source)?;
        Image::load_as(source, layout)
    }

    fn load_as(source: Source, layout: Layout) -> Result<Self, ElfError> {
        let mut image = Image::bare(source, layout);
        let tables = [
            (".dynsym", ".dynstr", SymbolSource::Dynsym),
            (".symtab", ".strtab", SymbolSource::Symtab),
        ];
        for (table, strings, source) in tables {
            image.add_symbols(table, strings, source)?;
        }
        image.is_extension = image.symbols.has(MAGIC_FUNCTION);
        image.starts_subtransactions = image.is_extension
            && image.section(".dynstr")?.is_none_or(|names| {
                let wanted = STARTS_SUBTRANSACTION;
                names.bytes.windows(wanted.len()).any(|w| w == wanted)
            });
        image.eh_frame = image.section(".eh_frame")?;
        image.eh_frame_hdr = image.section(".eh_frame_hdr")?;
        let unwinding = [&image.eh_frame, &image.eh_frame_hdr];
        let size: usize = unwinding.into_iter().flatten().map(|s| s.bytes.len()).sum();
        image.hold(size as u64, "unwind tables")?;
        Ok(image)
    }

    /// Takes note of memory that the image keeps.
    pub(super) fn hold(&self, bytes: u64, what: &'static str) -> Result<(), ElfError> {
        match self.held.borrow_mut().add(bytes) {
            true => Ok(()),
            false => Err(ElfError::TooLarge(what)),
        }
    }

    fn add_symbols(
        &mut self,
        table: &str,
        strings: &str,
        source: SymbolSource,
    ) -> Result<(), ElfError> {
        let size = |name: &str| self.named(name).map(|s| s.size);
        let (Some(table_size), Some(strings_size)) = (size(table), size(strings)) else {
            return Ok(());
        };
        let all = table_size
            .saturating_add(strings_size)
            .min(self.source.size()?);
        if all > LARGEST_SYMBOLS {
            return Err(ElfError::TooLarge("symbol tables"));
        }
        self.hold(all, "symbol tables")?;
        if let (Some(table), Some(strings)) = (self.section(table)?, self.section(strings)?) {
            self.symbols.add_table(&table.bytes, &strings.bytes, source);
        }
        Ok(())
    }

    /// Its full symbol table with the names, as that of `whose`; none where that is too large to be read.
    fn symbol_table(&self, whose: &Image) -> Option<(Vec<u8>, Vec<u8>)> {
        let size = |name: &str| self.named(name).map_or(0, |s| s.size);
        let size = size(".symtab").saturating_add(size(".strtab"));
        if size > LARGEST_SYMBOLS {
            whose.warn_of_size("symbol table", size);
            return None;
        }
        let bytes = |name: &str| Some(self.section(name).ok()??.bytes);
        bytes(".symtab").zip(bytes(".strtab"))
    }

    fn warn_of_size(&self, what: &str, size: u64) {
        if let Some(finder) = &self.finder {
            finder.files.warn(format!(
                "the {what} of {} is left out: {} MiB are more than pgpoke reads",
                finder.path.display(),
                size >> 20
            ));
        }
    }

    /// Reads a separate debug file: its layout and build-id only.
    pub(super) fn debug_file_in(file: File) -> Result<Self, ElfError> {
        let source = Source::File(file);
        let layout = Layout::read(&source)?;
        Ok(Image::bare(source, layout))
    }

    /// Its separate debug file, looked for when first asked for.
    fn debug_file(&self) -> Option<&DebugFile> {
        let found = self.debug_file.get_or_init(|| {
            let found = self.finder.as_ref()?.find(self);
            found.map(Box::new)
        });
        found.as_deref()
    }

    /// The section of that name; the first, should there be several.
    fn named(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|s| s.name == name)
    }

    /// The first of that name that is not compressed.
    fn named_and_plain(&self, name: &str) -> Option<&Section> {
        let plain = |s: &&Section| s.name == name && !s.compressed;
        self.sections.iter().find(plain)
    }

    /// Whether it lies in one of the sections with these names.
    pub(super) fn lies_in(&self, at: Svma, names: &[&str]) -> bool {
        let mut sections = names.iter().filter_map(|name| self.named(name));
        sections.any(|s| s.start <= at && at.0 - s.start.0 < s.size)
    }

    /// Whether it has a section that `is` true of, by its name.
    pub(super) fn has_section_that(&self, is: impl Fn(&str) -> bool) -> bool {
        self.sections.iter().any(|s| is(&s.name))
    }

    fn has_section(&self, name: &str) -> bool {
        self.named(name).is_some()
    }

    /// The bytes of a section of a few bytes.
    pub(super) fn small_section(&self, name: &str) -> Option<Vec<u8>> {
        const SMALL: u64 = 8 << 10;
        let section = self.named(name)?;
        let read = self
            .source
            .read(section.file_offset, section.size.min(SMALL));
        read.ok()
    }

    /// The bytes of a section that is at most as large as that.
    pub(super) fn section_up_to(&self, name: &str, most: u64) -> Option<Vec<u8>> {
        Some(self.loaded_section_up_to(name, most)?.bytes)
    }

    /// The same, with where it lies.
    pub(super) fn loaded_section_up_to(&self, name: &str, most: u64) -> Option<LoadedSection> {
        self.named_and_plain(name).filter(|s| s.size <= most)?;
        self.section(name).ok()?
    }

    /// The bytes of a section that is in the file, not decompressed. None where there is no such section.
    pub(super) fn section(&self, name: &str) -> io::Result<Option<LoadedSection>> {
        let Some(section) = self.named_and_plain(name) else {
            return Ok(None);
        };
        Ok(Some(LoadedSection {
            start: section.start,
            bytes: self.source.read(section.file_offset, section.size)?,
        }))
    }

    /// The bytes of a debug section, decompressed. Empty where there is none.
    pub(super) fn debug_section(&self, name: &str) -> Rc<[u8]> {
        let Some(section) = self.named(name) else {
            return Rc::new([]);
        };
        if section.compressed {
            let raw = self.source.read(section.file_offset, section.size);
            debug::decompress(&raw.unwrap_or_default())
                .unwrap_or_default()
                .into()
        } else {
            let read = self.source.read_shared(section.file_offset, section.size);
            read.unwrap_or_default()
        }
    }

    /// The size of a debug section, decompressed, as far as the file is right about it.
    pub(super) fn size_of_debug_section(&self, name: &str) -> u64 {
        match self.named(name) {
            None => 0,
            Some(s) if s.compressed => {
                let head = self.source.read(s.file_offset, debug::COMPRESSION_HEADER);
                let head = head.unwrap_or_default();
                // What is read before it is decompressed counts, too.
                debug::decompressed_size(&head).map_or(0, |size| size.saturating_add(s.size))
            }
            Some(s) => s.size,
        }
    }

    /// Whether it carries debug information of its own.
    pub fn has_debug_info(&self) -> bool {
        self.has_section(".debug_info")
    }

    /// Function names, inlined callers and lines, read when first asked for; none without debug information.
    pub fn lines(&self) -> Option<&LineTable> {
        let lines = self.lines.get_or_init(|| {
            let finder = self.finder.as_ref();
            let (file, supplement) = if self.has_debug_info() {
                (self, finder.and_then(|finder| finder.own_supplement(self)))
            } else if !finder?.lines {
                return None;
            } else {
                let found = self.debug_file()?;
                (&found.image, finder?.supplement_of(found))
            };
            let supplement = supplement.as_ref().map(|found| &found.image);
            let size = LineTable::size(file).saturating_add(supplement.map_or(0, LineTable::size));
            if size > MOST_DEBUG_INFORMATION {
                self.warn_of_size("debug information", size);
                return None;
            }
            LineTable::load(file, supplement)
        });
        lines.as_ref()
    }

    /// Where its variables are, read when first asked for; empty without debug information.
    pub(crate) fn locations(&self) -> &LocationLists {
        self.locations.get_or_init(|| {
            let file = match self.has_debug_info() {
                true => Some(self),
                false => self.debug_file().map(|found| &found.image),
            };
            LineTable::load_locations(self, file)
        })
    }

    /// The build-id that the file carries.
    pub fn build_id(&self) -> Option<&BuildId> {
        self.build_id.as_ref()
    }

    /// Whether PostgreSQL would load it as an extension: then it knows of errors that jump across it.
    pub fn is_extension(&self) -> bool {
        self.is_extension
    }

    /// Whether it is an extension with code that starts subtransactions, or that may, as nothing tells what it imports.
    pub fn starts_subtransactions(&self) -> bool {
        self.starts_subtransactions
    }

    /// Who reads its machine code: what it cannot read is unknown.
    pub fn machine(&self) -> &'static dyn MachineCode {
        arch::of_machine(self.machine)
    }

    /// Whose extensions its call-frame information may use.
    pub(super) fn call_frame_vendor(&self) -> gimli::Vendor {
        let processor = arch::processor_of(self.machine);
        processor.map_or(gimli::Vendor::Default, |p| p.call_frames().vendor)
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

    /// What the code of `size` bytes at `start` answers to a question. None where it cannot be read, or does not say.
    pub(crate) fn ask_code<T>(
        &self,
        start: Svma,
        size: u64,
        question: impl FnOnce(&dyn MachineCode, &[u8]) -> Option<T>,
    ) -> Option<T> {
        question(self.machine(), &self.bytes_at(start, size).ok()?)
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
            let found = code.and_then(|c| Some(Rc::new(self.machine().spinlocks(&c, start)?)));
            self.spinlocks.borrow_mut().insert(start, found);
        }
    }

    /// Whether one of its functions may leave a spinlock to its caller, or to a part of itself elsewhere, so that a
    /// function may hold one whose own code does not show it. None if that was not looked at.
    pub fn hands_out_spinlocks(&self) -> Option<bool> {
        Some(*self.handed_spinlocks.get()? != Handed::Nowhere)
    }

    /// Whether the function at `start` may hold a spinlock that another function of this image took, or LockBufHdr(). None
    /// if that was not looked at.
    pub fn may_be_handed_spinlock(&self, start: Svma) -> Option<bool> {
        Some(self.handed_spinlocks.get()?.reaches(start))
    }

    /// Reads the code of all functions that take a spinlock, and, should one of them leave it to others, of all functions.
    /// Never while a backend stands still.
    pub fn learn_handed_spinlocks(&self) {
        self.handed_spinlocks.get_or_init(|| self.hand_out());
    }

    /// Takes a name for the function that starts at `start`, from someone who can tell it by other means than symbols.
    pub fn tell_name(&self, start: Svma, name: &'static str) {
        self.told_names.borrow_mut().insert(start, name);
    }

    /// Reads the stubs through which it calls other images' functions. Never while a backend stands still.
    pub fn learn_stubs(&self) {
        self.stubs.get_or_init(|| self.stubs());
    }

    /// The function that `at` lies in: by its symbol, as the stub of a call, or by a name that was told.
    pub fn function_at(&self, at: Svma) -> Option<Symbol<'_>> {
        let stub = || self.stubs.get()?.at(at);
        self.symbols.function_at(at).or_else(stub).or_else(|| {
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
        let size = self.named(".text")?.size;
        let code = self.section(".text").ok().flatten()?;
        (code.bytes.len() as u64 == size).then_some(code)
    }

    /// What is loaded and is neither code nor call-frame information: data, constants, and relocations with the
    /// addresses that the dynamic linker puts into data.
    pub(super) fn data(&self) -> Option<Vec<LoadedSection>> {
        // Memory has none of it as it was in the file.
        if self.is_from_memory {
            return None;
        }
        let loaded =
            |s: &&Section| s.start.0 != 0 && s.name != ".text" && !s.name.starts_with(".eh_frame");
        let all = self.sections.iter().filter(loaded);
        let size = all.fold(0, |sum: u64, s| sum.saturating_add(s.size));
        if size > MOST_DATA {
            return None;
        }
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

    /// Whether one of its loaded segments includes `at`.
    pub fn covers(&self, at: Svma) -> bool {
        let mut segments = self.segments.iter();
        segments.any(|s| s.start <= at && at.0 - s.start.0 < s.size)
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
pub(super) struct Layout {
    /// What processor it is for (`e_machine`).
    pub(super) machine: u16,
    pub(super) segments: Vec<Segment>,
    pub(super) sections: Vec<Section>,
    pub(super) build_id: Option<BuildId>,
}

impl Layout {
    /// Reads the tables, each with a cap: `object`'s own reader takes in whole symbol tables on the way.
    fn read(source: &Source) -> Result<Self, ElfError> {
        const ENDIAN: LittleEndian = LittleEndian;
        let header = source.read(0, size_of::<FileHeader64<LittleEndian>>() as u64)?;
        let header = FileHeader64::<LittleEndian>::parse(&header[..])?;
        header.endian()?;
        let machine = header.e_machine(ENDIAN).0;
        let programs = usize::from(header.e_phnum(ENDIAN));
        if programs > MOST_PROGRAM_HEADERS {
            return Err(ElfError::TooLarge("program headers"));
        }
        let program_bytes =
            source.table::<ProgramHeader64<LittleEndian>>(header.e_phoff(ENDIAN), programs)?;
        let programs = pod::slice_from_all_bytes::<ProgramHeader64<LittleEndian>>(&program_bytes)
            .unwrap_or_default();
        // More sections than fit this number (their count is then elsewhere) are those of object files.
        let section_bytes = source.table::<SectionHeader64<LittleEndian>>(
            header.e_shoff(ENDIAN),
            header.e_shnum(ENDIAN).into(),
        )?;
        let headers = pod::slice_from_all_bytes::<SectionHeader64<LittleEndian>>(&section_bytes)
            .unwrap_or_default();

        let loaded = programs
            .iter()
            .filter(|p| p.p_type(ENDIAN) == object::elf::PT_LOAD);
        let segments = loaded.map(|p| Segment {
            start: Svma(p.p_vaddr(ENDIAN)),
            size: p.p_memsz(ENDIAN),
            file_offset: p.p_offset(ENDIAN),
        });
        let segments = segments.collect();
        let names = match headers.get(usize::from(header.e_shstrndx(ENDIAN).0)) {
            Some(s) => source.read(
                s.sh_offset(ENDIAN),
                s.sh_size(ENDIAN).min(LARGEST_SECTION_NAMES),
            )?,
            None => Vec::new(),
        };
        let sections = headers.iter().filter_map(|s| {
            let (file_offset, size) = s.file_range(ENDIAN)?;
            let flags = s.sh_flags(ENDIAN);
            Some(Section {
                name: section_name(&names, s.sh_name(ENDIAN))?,
                start: Svma(s.sh_addr(ENDIAN)),
                file_offset,
                size,
                compressed: flags.contains(object::elf::SHF_COMPRESSED),
            })
        });
        let sections = sections.collect();

        let in_sections = headers
            .iter()
            .filter(|s| s.sh_type(ENDIAN) == object::elf::SHT_NOTE)
            .filter_map(|s| s.file_range(ENDIAN));
        let in_segments = programs
            .iter()
            .filter(|p| p.p_type(ENDIAN) == object::elf::PT_NOTE)
            .map(|p| p.file_range(ENDIAN));
        let notes = in_sections.chain(in_segments).take(MOST_NOTES);
        let mut build_id = None;
        for (offset, size) in notes {
            build_id = build_id_in_notes(&source.read(offset, size.min(LARGEST_NOTES))?);
            if build_id.is_some() {
                break;
            }
        }
        Ok(Layout {
            machine,
            segments,
            sections,
            build_id,
        })
    }
}

/// The name at `at` in the table of the sections' names. None where it is cut short, or no name.
fn section_name(names: &[u8], at: u32) -> Option<String> {
    let from = names.get(usize::try_from(at).ok()?..)?;
    let from = &from[..from.len().min(LONGEST_SECTION_NAME + 1)];
    let end = memchr::memchr(0, from)?;
    Some(std::str::from_utf8(&from[..end]).ok()?.to_owned())
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
pub(crate) fn build_id_in_notes(mut notes: &[u8]) -> Option<BuildId> {
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

    /// An image of nothing but code, at 0x1078, for a processor.
    fn of_code(machine: u16, code: &[u8]) -> Image {
        let mut file = vec![0; 120];
        file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(16, &3u16.to_le_bytes()); // ET_DYN
        put(18, &machine.to_le_bytes());
        put(20, &1u32.to_le_bytes());
        put(32, &64u64.to_le_bytes()); // e_phoff
        put(52, &64u16.to_le_bytes()); // e_ehsize
        put(54, &56u16.to_le_bytes()); // e_phentsize
        put(56, &1u16.to_le_bytes()); // e_phnum
        let size = 120 + code.len() as u64;
        put(64, &1u32.to_le_bytes()); // PT_LOAD
        put(80, &0x1000u64.to_le_bytes()); // p_vaddr
        put(96, &size.to_le_bytes()); // p_filesz
        put(104, &size.to_le_bytes()); // p_memsz
        file.extend(code);
        Image::from_bytes(file).unwrap()
    }

    #[test]
    fn spinlocks_of_another_processor_are_unknown_and_not_none() {
        // mov w0,#1; swpa w0,w0,[x1]; ret: a function that takes a lock, and leaves it held.
        let words = [0x5280_0020u32, 0xb8a0_8020, 0xd65f_03c0];
        let code: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let (start, size) = (Svma(0x1078), code.len() as u64);
        let spinlocks = |machine| {
            let image = of_code(machine, &code);
            assert_eq!(image.bytes_at(start, size).unwrap(), code);
            image.learn_spinlocks(start, size);
            image.learn_handed_spinlocks();
            assert!(image.tried_spinlocks(start));
            assert_eq!(image.hands_out_spinlocks(), Some(true), "may be");
            image.known_spinlocks(start)
        };
        // Taken for x86-64's, it takes none: that answer is what must not be given.
        assert!(spinlocks(arch::EM_X86_64).is_some_and(|s| s.are_none()));
        assert_eq!(spinlocks(arch::EM_AARCH64), None);
        assert_eq!(spinlocks(0), None);
    }

    #[test]
    fn no_code_of_another_processor_is_decoded() {
        // call *0(%rip), which returns to 0x107e.
        let code = [0xff, 0x15, 0, 0, 0, 0, 0xc3];
        let arm = of_code(arch::EM_AARCH64, &code);
        assert_eq!(arm.import_called_before(Svma(0x107e)), None);
        let deeds = |image: &Image| {
            image.ask_code(Svma(0x1078), 7, |machine, code| {
                machine.deeds(code, Svma(0x1078))
            })
        };
        assert_eq!(deeds(&arm), None);
        assert!(deeds(&of_code(arch::EM_X86_64, &code)).is_some());
        arm.learn_callers(&[Svma(0x1078)]);
        assert!(arm.known_callers(Svma(0x1078)).unwrap().incomplete);
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
