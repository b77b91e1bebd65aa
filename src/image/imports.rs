//! By which name code calls a function of another image.
//!
//! A stripped library names its exported functions only. One of these may jump to a static one in place of a call, or be
//! an indirect function (STT_GNU_IFUNC) that stands for one of several static ones; then no symbol names the code that
//! runs. But its caller called it by a name: through a slot of the global offset table, whose relocation has the symbol
//! (System V ABI, chapter 5: Global Offset Table, Procedure Linkage Table).

use std::collections::HashMap;
use std::ops::Range;

use super::elf::Image;
use super::{Symbol, SymbolSource};
use crate::address::Svma;

/// The most of each table that is read. Those of LLVM have 12 MiB.
const LARGEST_TABLE: u64 = 16 << 20;
/// The longest name that is looked at, and the most stubs: 4 MiB in all. LLVM has some 4,000, and longer names of C++,
/// which matter to nobody here.
const LONGEST_NAME: usize = 256;
const MOST_STUBS: usize = 16 << 10;
const STUB_SECTIONS: [&str; 3] = [".plt", ".plt.sec", ".plt.got"];
const LARGEST_STUBS: u64 = 1 << 20;
/// sizeof(Elf64_Rela), sizeof(Elf64_Sym)
const RELOCATION: usize = 24;
const SYMBOL: usize = 24;

/// A call of a function of another image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The slot that holds the function's address.
    pub slot: Svma,
    /// The function's name.
    pub name: String,
}

impl Image {
    /// What the call that returns to `to` calls, if that is another image's. Reads the file; never while a backend stands
    /// still.
    pub fn import_called_before(&self, to: Svma) -> Option<Import> {
        let code = |at, size| self.bytes_at(at, size).ok();
        let slot = self.machine().slot_called_before(to, &code)?;
        let name = self.name_of_slot(slot)?;
        Some(Import { slot, name })
    }

    fn name_of_slot(&self, slot: Svma) -> Option<String> {
        let relocations = self.relocations_by_name();
        let (_, symbol) = relocations.into_iter().find(|(at, _)| *at == slot)?;
        self.imported_names()?.of(symbol)
    }

    /// The slots that are filled with the address of a symbol, each with the symbol's number.
    pub(super) fn relocations_by_name(&self) -> Vec<(Svma, u32)> {
        let tables = [".rela.plt", ".rela.dyn"].map(|t| self.section_up_to(t, LARGEST_TABLE));
        let by_name = self.machine().relocations_by_name();
        let slot = |r: &[u8; RELOCATION]| {
            let word = |i: usize| u32::from_le_bytes([r[i], r[i + 1], r[i + 2], r[i + 3]]);
            let offset = u64::from(word(0)) | u64::from(word(4)) << 32;
            by_name
                .contains(&word(8))
                .then_some((Svma(offset), word(12)))
        };
        let tables = tables.iter().flatten();
        tables
            .flat_map(|bytes| bytes.as_chunks::<RELOCATION>().0.iter().filter_map(slot))
            .collect()
    }

    pub(super) fn imported_names(&self) -> Option<ImportedNames> {
        Some(ImportedNames {
            symbols: self.section_up_to(".dynsym", LARGEST_TABLE)?,
            names: self.section_up_to(".dynstr", LARGEST_TABLE)?,
        })
    }

    /// Whether every use of the symbol `name` of another image is a call or a jump through a stub: nothing else is filled
    /// with its address. None where that cannot be told, or it has no such symbol.
    pub(super) fn is_only_called(&self, name: &str) -> Option<bool> {
        const STUBS: &str = ".rela.plt";
        const OTHERS: &str = ".rela.dyn";
        let more = |name: &str| name.starts_with(".rel") && name != STUBS && name != OTHERS;
        if self.has_section_that(more) {
            return None;
        }
        let symbols = self.imported_names()?;
        let names_it = |table: &str| {
            let bytes = self.section_up_to(table, LARGEST_TABLE)?;
            let mut entries = bytes.as_chunks::<RELOCATION>().0.iter();
            Some(entries.any(|r| {
                let symbol = u32::from_le_bytes([r[12], r[13], r[14], r[15]]);
                symbols.of(symbol).is_some_and(|n| n == name)
            }))
        };
        names_it(STUBS)?.then_some(())?;
        Some(!names_it(OTHERS)?)
    }

    /// Where the stubs of the procedure linkage table lie.
    pub(super) fn stub_ranges(&self) -> Vec<Range<u64>> {
        let sections = STUB_SECTIONS
            .iter()
            .filter_map(|name| self.loaded_section_up_to(name, LARGEST_STUBS));
        sections
            .map(|s| s.start.0..s.start.0.saturating_add(s.bytes.len() as u64))
            .collect()
    }

    /// Where each stub of the procedure linkage table begins, and the slot that it jumps through.
    pub(super) fn slots_of_stubs(&self) -> HashMap<Svma, Svma> {
        let sections = STUB_SECTIONS
            .iter()
            .filter_map(|name| self.loaded_section_up_to(name, LARGEST_STUBS));
        let stubs = sections.flat_map(|s| {
            let found = self.machine().stubs(&s.bytes, s.start);
            found.unwrap_or_default()
        });
        stubs.map(|stub| (stub.at, stub.slot)).collect()
    }

    /// The stubs of the procedure linkage table. Reads the file; never while a backend stands still.
    pub(super) fn stubs(&self) -> Stubs {
        let Some(names) = self.imported_names() else {
            return Stubs::default();
        };
        let slots: HashMap<_, _> = self.relocations_by_name().into_iter().collect();
        let mut stubs = Vec::new();
        for name in STUB_SECTIONS {
            let Some(section) = self.loaded_section_up_to(name, LARGEST_STUBS) else {
                continue;
            };
            let found = self.machine().stubs(&section.bytes, section.start);
            for start in found.unwrap_or_default() {
                if stubs.len() == MOST_STUBS {
                    break;
                }
                let name = slots.get(&start.slot).and_then(|symbol| names.of(*symbol));
                stubs.extend(name.map(|name| Stub {
                    start: start.at,
                    name: format!("{name}@plt"),
                }));
            }
        }
        stubs.sort_by_key(|s| s.start);
        Stubs(stubs)
    }
}

/// The tables of dynamic symbols and their names.
pub(super) struct ImportedNames {
    symbols: Vec<u8>,
    names: Vec<u8>,
}

impl ImportedNames {
    /// Where the symbol of that number is, if this image defines it (`st_shndx`, `st_value`).
    pub fn defined_at(&self, symbol: u32) -> Option<Svma> {
        let entry = self.symbols.as_chunks::<SYMBOL>().0.get(symbol as usize)?;
        let value = u64::from_le_bytes(*entry[8..].first_chunk()?);
        let is_defined = entry[6..8] != [0, 0];
        is_defined.then_some(Svma(value))
    }

    /// Its name.
    pub fn of(&self, symbol: u32) -> Option<String> {
        let entry = self.symbols.as_chunks::<SYMBOL>().0.get(symbol as usize)?;
        let at = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
        let rest = self.names.get(at as usize..)?;
        let rest = &rest[..rest.len().min(LONGEST_NAME)];
        let name = &rest[..memchr::memchr(0, rest)?];
        let name = std::str::from_utf8(name).ok()?;
        (!name.is_empty()).then(|| name.to_owned())
    }
}

/// The stubs through which an image calls other images' functions, named as gdb and objdump name them: `palloc@plt`.
#[derive(Debug, Default)]
pub(super) struct Stubs(Vec<Stub>);

#[derive(Debug)]
struct Stub {
    start: Svma,
    name: String,
}

/// The size of a stub. Those of `.plt.got` may be smaller; then the next one starts earlier.
const STUB: u64 = 16;

impl Stubs {
    /// The stub that `at` lies in.
    pub fn at(&self, at: Svma) -> Option<Symbol<'_>> {
        let after = self.0.partition_point(|s| s.start <= at);
        let stub = &self.0[after.checked_sub(1)?];
        let symbol = Symbol {
            name: &stub.name,
            start: stub.start,
            size: STUB,
            source: SymbolSource::Decoded,
        };
        (at.0 - stub.start.0 < STUB).then_some(symbol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Process;

    /// This very program calls the C library all over the place.
    #[test]
    fn calls_are_named_by_their_relocations() {
        let me = Process::open(std::process::id() as i32).unwrap();
        let image = Image::from_file(me.executable().unwrap()).unwrap();
        let code = image.code().unwrap();
        let indirect = |at: &usize| code.bytes[*at..].starts_with(&[0xff, 0x15]);
        let calls = (0..code.bytes.len()).filter(indirect).take(500);
        let named = calls.filter_map(|at| {
            let to = Svma(code.start.0 + at as u64 + 6);
            image.import_called_before(to)
        });
        let mut names = named.map(|import| import.name);
        assert!(names.any(|name| name == "memcpy" || name == "free"));
    }

    #[test]
    fn stubs_are_named_by_their_relocations() {
        let libc = Process::open(std::process::id() as i32).unwrap();
        let maps = libc.maps().unwrap();
        let libm = maps.iter().find(|m| m.path.ends_with("libc.so.6")).unwrap();
        let image = Image::from_file(std::fs::File::open(&libm.path).unwrap()).unwrap();
        let stubs = image.stubs();
        assert!(!stubs.0.is_empty());
        for stub in &stubs.0 {
            assert!(stub.name.ends_with("@plt"), "{}", stub.name);
            assert_eq!(stubs.at(stub.start).unwrap().name, stub.name);
            assert_eq!(stubs.at(Svma(stub.start.0 + 6)).unwrap().name, stub.name);
        }
        assert!(stubs.at(Svma(0)).is_none());
    }

    #[test]
    fn hostile_places_have_no_name() {
        let me = Process::open(std::process::id() as i32).unwrap();
        let image = Image::from_file(me.executable().unwrap()).unwrap();
        for at in [0, 1, 5, 6, u64::MAX] {
            assert_eq!(image.import_called_before(Svma(at)), None);
        }
    }
}
