//! Everything that knows a processor, one folder for each, with the same file names.
//!
//! All of them are compiled and tested on every host, since an image may be made for another processor than the one
//! that we run on. Which one reads an image's machine code is chosen by the image ([`of_machine`]). Only what is made of
//! ptrace's registers is for one host ([`host`]).

pub mod aarch64;
pub mod x86_64;

use crate::image::Svma;
use crate::memory::Avma;

/// The processor that this build of pgpoke runs on, and traces.
#[cfg(target_arch = "x86_64")]
pub use x86_64 as host;

use x86_64::spinlocks::Spinlocks;

/// EM_X86_64 and EM_AARCH64 (the System V ABI's registry of `e_machine`).
pub(crate) const EM_X86_64: u16 = 62;
pub(crate) const EM_AARCH64: u16 = 183;

/// What machine code is asked. None: it cannot be read. That is never an answer that something passes on.
pub trait MachineCode: std::fmt::Debug + Sync {
    /// What the function with this `code` at `start` does with spinlocks.
    fn spinlocks(&self, _code: &[u8], _start: Svma) -> Option<Spinlocks> {
        None
    }

    /// Where `__errno_location`, whose bytes at `at` are `code`, finds `errno`.
    fn errno_location(&self, _code: &[u8], _at: Avma) -> Option<ErrnoAt> {
        None
    }
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
