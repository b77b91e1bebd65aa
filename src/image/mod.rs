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

use serde::{Deserialize, Serialize};

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

use crate::memory::Avma;

/// A stated virtual memory address: where the file says that something lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Svma(pub u64);

/// What to add to an [`Svma`] to get the [`Avma`] of one mapped image; zero for an executable that is not
/// position-independent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Bias(pub u64);

impl Bias {
    /// Where the process has what the file states to be at `svma`.
    pub fn to_avma(self, svma: Svma) -> Avma {
        Avma(svma.0.wrapping_add(self.0))
    }

    /// Where the file states that to be which the process has at `avma`.
    pub fn to_svma(self, avma: Avma) -> Svma {
        Svma(avma.0.wrapping_sub(self.0))
    }
}

impl fmt::Display for Svma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for Svma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

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
