//! AArch64. Its machine code cannot be read yet, but for the shape of one function; so what depends on it is unknown.

pub mod calls;
pub mod registers;
pub mod shapes;

use super::{ErrnoAt, MachineCode};
use crate::memory::Avma;

/// Reads its machine code.
#[derive(Debug)]
pub struct AArch64;

impl MachineCode for AArch64 {
    fn errno_location(&self, code: &[u8], at: Avma) -> Option<ErrnoAt> {
        shapes::errno_location(code, at)
    }

    fn relocations_by_name(&self) -> &'static [u32] {
        &calls::RELOCATIONS_BY_NAME
    }
}
