//! x86-64.

pub mod registers;
pub mod spinlocks;
#[cfg(target_arch = "x86_64")]
pub mod stopped;
pub mod xstate;

use super::{ErrnoAt, MachineCode};
use crate::image::Svma;
use crate::memory::Avma;

/// Reads its machine code.
#[derive(Debug)]
pub struct X86_64;

impl MachineCode for X86_64 {
    fn spinlocks(&self, code: &[u8], start: Svma) -> Option<spinlocks::Spinlocks> {
        Some(spinlocks::Spinlocks::read(code, start))
    }

    fn errno_location(&self, code: &[u8], at: Avma) -> Option<ErrnoAt> {
        registers::errno_location(code, at)
    }
}
