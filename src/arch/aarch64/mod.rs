//! AArch64. Its machine code cannot be read yet, but for the shape of one function; so what depends on it is unknown.
//! pgpoke does not run there: that takes `stopped.rs`, and selftest's code.

pub mod calls;
pub mod prstatus;
pub mod registers;
pub mod shapes;
pub mod spinlocks;
pub mod syscalls;
pub mod xstate;

use super::x86_64::spinlocks::Spinlocks;
use super::{
    CallFrames, CoreFile, EM_AARCH64, ErrnoAt, MachineCode, Processor, Ucontext, UnwindRegisters,
};
use crate::address::{Avma, Svma};
use crate::memory::Memory;

/// The processor.
#[derive(Debug)]
pub struct AArch64;

/// The same, by the name that it has in every folder.
pub static PROCESSOR: AArch64 = AArch64;

impl Processor for AArch64 {
    fn e_machine(&self) -> u16 {
        EM_AARCH64
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

    fn saves(&self, saved: Avma, ip: Avma, _in_call: bool, memory: &dyn Memory) -> bool {
        registers::saves(saved, ip, memory)
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

impl MachineCode for AArch64 {
    fn spinlocks(&self, code: &[u8], start: Svma) -> Option<Spinlocks> {
        spinlocks::read(code, start)
    }

    fn errno_location(&self, code: &[u8], at: Avma) -> Option<ErrnoAt> {
        shapes::errno_location(code, at)
    }

    fn relocations_by_name(&self) -> &'static [u32] {
        &calls::RELOCATIONS_BY_NAME
    }
}
