//! x86-64.

pub mod calls;
pub mod registers;
pub mod shapes;
pub mod spinlocks;
#[cfg(target_arch = "x86_64")]
pub mod stopped;
pub mod xstate;

use std::collections::{BTreeMap, BTreeSet};

use super::{Deed, ErrnoAt, MachineCode, References, StubStart};
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
        shapes::errno_location(code, at)
    }

    fn deeds(&self, code: &[u8], start: Svma) -> Option<Vec<Deed>> {
        Some(shapes::deeds(code, start))
    }

    fn addresses_taken(&self, code: &[u8], start: Svma) -> Option<Vec<Svma>> {
        Some(shapes::addresses_taken(code, start))
    }

    fn array_called(&self, code: &[u8], start: Svma, looks_at: Svma) -> Option<Svma> {
        shapes::array_called(code, start, looks_at)
    }

    fn slot_called_before(
        &self,
        to: Svma,
        code: &dyn Fn(Svma, u64) -> Option<Vec<u8>>,
    ) -> Option<Svma> {
        calls::slot_called_before(to, code)
    }

    fn stubs(&self, code: &[u8], start: Svma) -> Option<Vec<StubStart>> {
        Some(calls::stubs(code, start))
    }

    fn relocations_by_name(&self) -> &'static [u32] {
        &calls::RELOCATIONS_BY_NAME
    }

    fn references(
        &self,
        code: &[u8],
        start: Svma,
        functions: &BTreeSet<u64>,
        absolute: bool,
    ) -> Option<BTreeMap<u64, References>> {
        calls::references(code, start, functions, absolute)
    }
}
