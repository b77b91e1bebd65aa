//! Mapped ELF images: their symbols, their unwind sections, their build-id, and where they lie.
//!
//! Everything is read from files before a stop or after it, never during one. Files are hostile input: each
//! section is read with a cap, and each number in it is checked before it is used.

mod budget;
mod callers;
mod cfi;
mod debug;
mod elf;
mod handed;
mod imports;
mod loaded;
mod locate;
mod nesting;
mod space;
mod symbols;

use std::fmt;

pub use callers::Callers;
pub use cfi::CallFrameEntry;
pub use debug::{InlinedFrame, LineTable};
pub use elf::{ElfError, Image, build_id_in_memory};
pub use imports::Import;
pub use locate::DebugFiles;
pub use space::{AddressSpace, Module, ModuleKind, ReadFrom, ReplacedFile};
pub use symbols::{Symbol, SymbolSource, Symbols};

pub(crate) use debug::Reader;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use {
    debug::{decompress, unpack},
    elf::build_id_in_notes,
    locate::{alternate_link, debug_link},
};

/// A build-id: what the linker wrote into an image to tell it from every other build.
#[derive(Clone, PartialEq, Eq)]
pub struct BuildId(pub Vec<u8>);

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
