//! AArch64: spinlocks. They cannot be read yet.
//!
//! They have 4 bytes (`slock_t`, src/include/storage/s_lock.h). Where the compiler outlines atomics, as gcc does by default,
//! one is taken by a call of a routine of libgcc's that has no name in a stripped server, and released by `stlr wzr`; else
//! by `swpa`, or by a loop of `ldaxr` and `stxr`, inline.

use crate::address::Svma;
use crate::arch::x86_64::spinlocks::Spinlocks;

/// None: what a function does with spinlocks is not known. That is not "nothing".
pub fn read(_code: &[u8], _start: Svma) -> Option<Spinlocks> {
    None
}
