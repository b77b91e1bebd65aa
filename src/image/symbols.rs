//! Symbol tables, sorted for lookup by address.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::address::Svma;

/// Where a name was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "symbol_source")]
#[serde(rename_all = "kebab-case")]
pub enum SymbolSource {
    /// The dynamic symbols that every image carries.
    Dynsym,
    /// The image's own full symbol table.
    Symtab,
    /// The symbol table of a separate debug file that is proved to be the image's.
    DebugFile,
    /// The compressed symbol table that a stripped image carries (`.gnu_debugdata`).
    DebugData,
    /// Debug information (DWARF).
    Dwarf,
    /// No symbol: told by the server's own tables of functions, or by the name that its caller called it by.
    Decoded,
}

impl SymbolSource {
    /// The smaller, the nearer to what the dynamic linker itself goes by.
    fn rank(self) -> u8 {
        match self {
            SymbolSource::Dynsym => 0,
            SymbolSource::Symtab => 1,
            _ => 2,
        }
    }
}

/// One function or variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symbol<'a> {
    /// Its name, without a version.
    pub name: &'a str,
    /// Where it starts.
    pub start: Svma,
    /// Its size in bytes; 0 where the file does not say.
    pub size: u64,
    /// Where the name comes from.
    pub source: SymbolSource,
}

/// The type of a symbol (ELF `st_info`), as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SymbolKind {
    /// Code.
    Function,
    /// Data.
    Object,
    /// Thread-local data.
    ThreadLocal,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    start: u64,
    size: u32,
    /// Offset of the name in `names`.
    name: u32,
    kind: SymbolKind,
    source: SymbolSource,
    /// Bound locally to its file.
    local: bool,
}

/// The longest name that is looked at; those of C++ templates have some thousand bytes.
const LONGEST_NAME: usize = 16 << 10;
/// The most names of one function; glibc has some ten.
const MOST_ALIASES: usize = 64;
/// The most variables of one name.
const MOST_NAMESAKES: usize = 256;

/// All symbols of one image.
#[derive(Debug, Default)]
pub struct Symbols {
    /// Sorted by start.
    entries: Vec<Entry>,
    /// The string tables, one after the other.
    names: Vec<u8>,
}

impl Symbols {
    /// Adds a raw ELF64 little-endian symbol table with its string table.
    pub(super) fn add_table(&mut self, table: &[u8], strings: &[u8], source: SymbolSource) {
        /// sizeof(Elf64_Sym)
        const ENTRY: usize = 24;
        let base = self.names.len();
        if u32::try_from(base + strings.len()).is_err() {
            return;
        }
        self.names.extend_from_slice(strings);
        // A string table ends with a zero; a hostile one need not.
        self.names.push(0);
        self.entries.reserve(table.len() / ENTRY);
        for raw in table.as_chunks::<ENTRY>().0 {
            let u32_at =
                |i: usize| u32::from_le_bytes([raw[i], raw[i + 1], raw[i + 2], raw[i + 3]]);
            let u64_at = |i: usize| u64::from(u32_at(i)) | u64::from(u32_at(i + 4)) << 32;
            let (name, info, section) = (u32_at(0), raw[4], u16::from_le_bytes([raw[6], raw[7]]));
            let kind = match info & 0xf {
                // STT_FUNC, STT_GNU_IFUNC; STT_OBJECT; STT_TLS
                2 | 10 => SymbolKind::Function,
                1 => SymbolKind::Object,
                6 => SymbolKind::ThreadLocal,
                _ => continue,
            };
            // Section 0 is SHN_UNDEF: the symbol is some other image's.
            if section == 0 || name as usize >= strings.len() {
                continue;
            }
            self.entries.push(Entry {
                start: u64_at(8),
                size: u64_at(16).try_into().unwrap_or(u32::MAX),
                name: base as u32 + name,
                kind,
                source,
                local: info >> 4 == 0,
            });
        }
        self.entries.sort_by_key(|e| e.start);
    }

    fn name(&self, entry: &Entry) -> &str {
        let from = &self.names[entry.name as usize..];
        let from = &from[..from.len().min(LONGEST_NAME)];
        let end = memchr::memchr(0, from).unwrap_or(from.len());
        let name = std::str::from_utf8(&from[..end]).unwrap_or("");
        // Full symbol tables spell out versions: `name@@VERSION`.
        name.split('@').next().unwrap_or(name)
    }

    fn symbol(&self, entry: &Entry) -> Symbol<'_> {
        Symbol {
            name: self.name(entry),
            start: Svma(entry.start),
            size: entry.size.into(),
            source: entry.source,
        }
    }

    /// The function that `addr` lies in, only if it really lies within the function's bounds: in a stripped image
    /// the nearest symbol below is often another function's.
    pub fn function_at(&self, addr: Svma) -> Option<Symbol<'_>> {
        self.functions_at(addr).next()
    }

    /// All names of the function that `addr` lies in, the best to show first: exported before local, then the
    /// plainest (`nanosleep` before `__nanosleep`).
    pub fn functions_at(&self, addr: Svma) -> impl Iterator<Item = Symbol<'_>> {
        let after = self.entries.partition_point(|e| e.start <= addr.0);
        // Aliases start at the same place. Functions do not overlap, but one of size 0 or data may lie in between.
        let start = self.entries[..after]
            .iter()
            .rev()
            .take(8)
            .find(|e| e.kind == SymbolKind::Function && addr.0 - e.start < u64::from(e.size.max(1)))
            .map(|e| e.start);
        let from = start.map_or(after, |s| self.entries.partition_point(|e| e.start < s));
        let mut names: Vec<&Entry> = self.entries[from..after]
            .iter()
            .filter(|e| Some(e.start) == start && e.kind == SymbolKind::Function)
            .take(MOST_ALIASES)
            .collect();
        names.sort_by_key(|e| {
            let name = self.name(e);
            let underscores = name.bytes().take_while(|b| *b == b'_').count();
            (e.local, underscores, name.len())
        });
        names.into_iter().map(|e| self.symbol(e))
    }

    /// The function or variable that `addr` lies in, only if it really lies within its bounds.
    pub fn at(&self, addr: Svma) -> Option<Symbol<'_>> {
        let after = self.entries.partition_point(|e| e.start <= addr.0);
        let variable = || {
            let mut before = self.entries[..after].iter().rev().take(8);
            let around =
                |e: &&Entry| e.kind == SymbolKind::Object && addr.0 - e.start < u64::from(e.size);
            before.find(around).map(|e| self.symbol(e))
        };
        self.function_at(addr).or_else(variable)
    }

    /// Whether the entry's name is this one, without looking at more of it than that takes.
    fn is_named(&self, entry: &Entry, name: &[u8]) -> bool {
        let rest = self.names[entry.name as usize..].strip_prefix(name);
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(0 | b'@')))
    }

    /// Finds many symbols by name in one pass: for each name its symbol and kind; those that the image is linked by first,
    /// then its own others, then those that only a separate debug file tells; exported ones before local ones.
    pub fn by_name<'n>(&self, wanted: &[&'n str]) -> HashMap<&'n str, (Symbol<'_>, SymbolKind)> {
        // A server has tens of thousands of symbols; the first letters rule out nearly all of them.
        let mut by_letter: Vec<Vec<&'n str>> = vec![Vec::new(); 256];
        for name in wanted {
            if let Some(first) = name.bytes().next() {
                by_letter[usize::from(first)].push(name);
            }
        }
        let rank = |e: &Entry| (e.source.rank(), e.local);
        let mut found: HashMap<&'n str, &Entry> = HashMap::new();
        for entry in &self.entries {
            let candidates = &by_letter[usize::from(self.names[entry.name as usize])];
            for name in candidates {
                if self.is_named(entry, name.as_bytes())
                    && found.get(name).is_none_or(|best| rank(entry) < rank(best))
                {
                    found.insert(*name, entry);
                }
            }
        }
        let told = |entry: &Entry| (self.symbol(entry), entry.kind);
        found.into_iter().map(|(n, e)| (n, told(e))).collect()
    }

    /// Addresses and sizes of all variables of these names: several files may each have a static one. Nothing of a name
    /// that more have than any program's do.
    pub fn variables<'n>(&self, wanted: &[&'n str]) -> HashMap<&'n str, Vec<(Svma, u64)>> {
        let mut found: HashMap<&'n str, Vec<_>> = HashMap::new();
        for entry in self.entries.iter().filter(|e| e.kind == SymbolKind::Object) {
            if let Some(name) = wanted.iter().find(|n| self.is_named(entry, n.as_bytes())) {
                let of_name = found.entry(name).or_default();
                let symbol = (Svma(entry.start), entry.size.into());
                // A separate debug file tells the same once more.
                if of_name.len() <= MOST_NAMESAKES && !of_name.contains(&symbol) {
                    of_name.push(symbol);
                }
            }
        }
        found.retain(|_, of_name| of_name.len() <= MOST_NAMESAKES);
        found
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is a symbol of this name.
    pub fn has(&self, name: &str) -> bool {
        self.entries
            .iter()
            .any(|e| self.is_named(e, name.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: u32, info: u8, section: u16, start: u64, size: u64) -> Vec<u8> {
        let mut raw = name.to_le_bytes().to_vec();
        raw.extend([info, 0]);
        raw.extend(section.to_le_bytes());
        raw.extend(start.to_le_bytes());
        raw.extend(size.to_le_bytes());
        raw
    }

    const GLOBAL: u8 = 1 << 4;
    const FUNC: u8 = 2;
    const OBJECT: u8 = 1;

    fn symbols() -> Symbols {
        let mut s = Symbols::default();
        let names = b"\0__sleep\0sleep@@GLIBC_2.2.5\0MyProcPid\0imported\0";
        let table = [
            entry(1, GLOBAL | FUNC, 1, 0x100, 0x10),
            entry(9, GLOBAL | FUNC, 1, 0x100, 0x10),
            entry(28, GLOBAL | OBJECT, 1, 0x200, 4),
            entry(38, GLOBAL | FUNC, 0, 0, 0),
        ];
        s.add_table(&table.concat(), names, SymbolSource::Dynsym);
        s
    }

    #[test]
    fn a_name_only_within_its_bounds() {
        let s = symbols();
        assert_eq!(s.function_at(Svma(0x100)).unwrap().name, "sleep");
        assert_eq!(s.function_at(Svma(0x10f)).unwrap().name, "sleep");
        assert!(s.function_at(Svma(0x110)).is_none());
        assert!(s.function_at(Svma(0xff)).is_none());
        assert!(s.function_at(Svma(0x200)).is_none(), "data is not code");
        let all: Vec<_> = s.functions_at(Svma(0x105)).map(|s| s.name).collect();
        assert_eq!(all, ["sleep", "__sleep"]);
    }

    #[test]
    fn lookup_by_name_skips_imports() {
        let s = symbols();
        let found = s.by_name(&["MyProcPid", "imported", "nothing"]);
        assert_eq!(found.len(), 1);
        assert_eq!(found["MyProcPid"].0.start, Svma(0x200));
        assert_eq!(found["MyProcPid"].1, SymbolKind::Object);
        assert!(s.has("sleep") && !s.has("imported"));
    }

    #[test]
    fn a_debug_file_moves_nothing_that_the_image_has_itself() {
        let names = b"\0MyProcPid\0held_lwlocks\0";
        let table = [
            entry(1, GLOBAL | OBJECT, 1, 0x900, 4),
            entry(11, OBJECT, 1, 0x300, 4),
        ];
        let mut s = symbols();
        s.add_table(&table.concat(), names, SymbolSource::DebugFile);
        let found = s.by_name(&["MyProcPid", "held_lwlocks"]);
        assert_eq!(found["MyProcPid"].0.start, Svma(0x200));
        assert_eq!(found["held_lwlocks"].0.start, Svma(0x300));
    }

    #[test]
    fn hostile_tables_do_no_harm() {
        let mut s = Symbols::default();
        let table = [
            entry(u32::MAX, GLOBAL | FUNC, 1, u64::MAX, u64::MAX),
            entry(0, GLOBAL | FUNC, 1, u64::MAX, u64::MAX),
            entry(0, GLOBAL | FUNC, 1, 0, u64::MAX),
        ];
        s.add_table(&table.concat(), b"no end", SymbolSource::Symtab);
        s.add_table(&[1, 2, 3], b"", SymbolSource::Symtab);
        assert_eq!(s.function_at(Svma(u64::MAX)).unwrap().name, "no end");
        assert!(s.function_at(Svma(5)).is_some());
    }
}
