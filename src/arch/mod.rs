//! Everything that knows a processor, one folder for each, with the same file names.
//!
//! All of them are compiled and tested on every host, since an image may be made for another processor than the one
//! that we run on. Which one reads an image's machine code is chosen by the image ([`of_machine`]). Only what is made of
//! ptrace's registers is for one host ([`host`]).

pub mod aarch64;
pub mod x86_64;

use std::collections::{BTreeMap, BTreeSet};

use crate::image::Svma;
use crate::memory::Avma;

/// The processor that this build of pgpoke runs on, and traces.
#[cfg(target_arch = "x86_64")]
pub use x86_64 as host;

use x86_64::spinlocks::Spinlocks;

/// EM_X86_64 and EM_AARCH64 (the System V ABI's registry of `e_machine`).
pub(crate) const EM_X86_64: u16 = 62;
pub(crate) const EM_AARCH64: u16 = 183;

/// What machine code is asked. None: it cannot be read, or does not say. That is never an answer that something passes on.
///
/// `code` are always bytes of an image, and `start` or `at` is where the image's file wants the first of them.
pub trait MachineCode: std::fmt::Debug + Sync {
    /// What the function with this `code` at `start` does with spinlocks.
    fn spinlocks(&self, _code: &[u8], _start: Svma) -> Option<Spinlocks> {
        None
    }

    /// Where `__errno_location`, whose bytes at `at` are `code`, finds `errno`.
    fn errno_location(&self, _code: &[u8], _at: Avma) -> Option<ErrnoAt> {
        None
    }

    /// What a function does with static variables, and where it goes, in the order of its instructions, up to the first
    /// byte that begins none.
    fn deeds(&self, _code: &[u8], _start: Svma) -> Option<Vec<Deed>> {
        None
    }

    /// The addresses of code and data that a function has from nowhere else than its own instructions.
    fn addresses_taken(&self, _code: &[u8], _start: Svma) -> Option<Vec<Svma>> {
        None
    }

    /// The static array of pointers to functions out of which a function calls one, if it looks at the static variable at
    /// `looks_at`, too.
    fn array_called(&self, _code: &[u8], _start: Svma, _looks_at: Svma) -> Option<Svma> {
        None
    }

    /// The slot of the global offset table through which the call goes that returns to `to`. `code` reads up to so many
    /// bytes of code from an address on.
    fn slot_called_before(
        &self,
        _to: Svma,
        _code: &dyn Fn(Svma, u64) -> Option<Vec<u8>>,
    ) -> Option<Svma> {
        None
    }

    /// The stubs in a procedure linkage table.
    fn stubs(&self, _code: &[u8], _start: Svma) -> Option<Vec<StubStart>> {
        None
    }

    /// The types of relocations that fill a slot of the global offset table with the address of a symbol.
    fn relocations_by_name(&self) -> &'static [u32] {
        &[]
    }

    /// What in an image's whole `code` refers to one of the `functions`; `absolute` where its addresses are those that it
    /// will be loaded at. All references have to be among what is found.
    fn references(
        &self,
        _code: &[u8],
        _start: Svma,
        _functions: &BTreeSet<u64>,
        _absolute: bool,
    ) -> Option<BTreeMap<u64, References>> {
        None
    }
}

/// What one instruction does, as far as it matters to those who look for static variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// It reads or writes a static variable.
    Uses(Use),
    /// It takes the address of a static variable or a function.
    Takes(Svma),
    /// It adds one to a register.
    Increments,
    /// It calls a function, or jumps to it for good, at this address.
    Goes(Svma),
    /// It returns.
    Returns,
}

/// The use of a static variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// Where the variable is.
    pub at: Svma,
    /// How many bytes of it are used; 0 for what is no plain number of 1, 4 or 8 bytes.
    pub size: usize,
    /// What for.
    pub how: How,
    /// The constant that comes with it, such as what it is compared with, as 32 bits.
    pub constant: Option<u64>,
}

/// What a static variable is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It is read into a register.
    Load,
    /// It is overwritten.
    Store,
    /// It is compared with something.
    Compare,
    /// Anything else.
    Other,
}

/// A stub through which another image's function is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StubStart {
    /// Its first instruction.
    pub at: Svma,
    /// The slot of the global offset table that it jumps through.
    pub slot: Svma,
}

/// What refers to one function.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Where it is called or jumped to.
    pub sites: Vec<u64>,
    /// Its address is taken.
    pub taken: bool,
    /// There are more than were noted.
    pub incomplete: bool,
}

/// Where `errno` is, from the thread pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrnoAt {
    /// At this offset.
    Offset(i64),
    /// At the offset that is kept at this address, a slot of the global offset table.
    OffsetKeptAt(Avma),
}

/// A processor whose code nobody here can read.
#[derive(Debug)]
struct Unknown;

impl MachineCode for Unknown {}

/// Who reads the code of an image for this `e_machine`.
pub fn of_machine(e_machine: u16) -> &'static dyn MachineCode {
    match e_machine {
        EM_X86_64 => &x86_64::X86_64,
        EM_AARCH64 => &aarch64::AArch64,
        _ => &Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_another_processor_is_not_read() {
        let take = [0xf0, 0x86, 0x07, 0xc3]; // lock xchg %al,(%rdi); ret
        let spinlocks = |machine| of_machine(machine).spinlocks(&take, Svma(0));
        assert!(spinlocks(EM_X86_64).is_some_and(|s| s.are_left_held()));
        // EM_386 and EM_RISCV beside that of AArch64.
        for machine in [0, 3, EM_AARCH64, 243, u16::MAX] {
            assert!(spinlocks(machine).is_none(), "{machine}");
        }
    }
}
