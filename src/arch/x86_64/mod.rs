//! x86-64.

pub mod arguments;
pub mod calls;
pub mod prstatus;
pub mod registers;
pub mod shapes;
pub mod spinlocks;
#[cfg(target_arch = "x86_64")]
pub mod stopped;
pub mod syscalls;
pub mod ways;
pub mod xstate;

use std::collections::{BTreeMap, BTreeSet};

use super::{
    CallFrames, CoreFile, Deed, EM_X86_64, ErrnoAt, Left, MachineCode, Processor, References,
    StubStart, Ucontext, UnwindRegisters, Ways,
};
use crate::address::{Avma, Svma};
use crate::memory::Memory;

/// The processor.
#[derive(Debug)]
pub struct X86_64;

/// The same, by the name that it has in every folder.
pub static PROCESSOR: X86_64 = X86_64;

impl Processor for X86_64 {
    fn e_machine(&self) -> u16 {
        EM_X86_64
    }

    fn call_frames(&self) -> &'static CallFrames {
        &registers::CALL_FRAMES
    }

    fn registers_in(&self, prstatus: &[u8]) -> Option<UnwindRegisters> {
        registers::registers_in(prstatus)
    }

    fn ucontext(&self) -> &'static Ucontext {
        &registers::UCONTEXT
    }

    fn saves(&self, saved: Avma, ip: Avma, in_call: bool, _memory: &dyn Memory) -> bool {
        registers::saves(saved, ip, in_call)
    }

    fn syscall_name(&self, number: i64) -> Option<&'static str> {
        syscalls::name(number)
    }

    fn restarted(&self, memory: &dyn Memory, ip: Avma) -> Option<i64> {
        syscalls::restarted(memory, ip)
    }

    fn core_file(&self) -> &'static CoreFile {
        &prstatus::CORE_FILE
    }
}

impl MachineCode for X86_64 {
    fn spinlocks(&self, code: &[u8], start: Svma) -> Option<spinlocks::Spinlocks> {
        Some(spinlocks::Spinlocks::read(code, start))
    }

    fn ways(&self, code: &[u8], start: Svma) -> Option<Ways> {
        ways::read(code, start)
    }

    fn passed_on(&self, code: &[u8], start: Svma, left: &[(Svma, Left)]) -> Option<Left> {
        Some(spinlocks::passed_on(code, start, left))
    }

    fn may_take_spinlocks(&self, code: &[u8]) -> Option<Vec<usize>> {
        Some(spinlocks::may_take(code))
    }

    fn constant_arguments(
        &self,
        code: &[u8],
        start: Svma,
        returns_to: Svma,
        all_code: &[u8],
        all_start: Svma,
    ) -> Option<[Option<u64>; 4]> {
        arguments::constants(code, start, returns_to, all_code, all_start)
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
