//! x86-64: registers by their numbers, and the layout of a signal frame.

use serde::{Deserialize, Serialize};

use crate::memory::Avma;

/// How many registers call-frame information can speak of: rax…r15 and the return address (System V ABI for
/// AMD64, figure 3.36).
pub const DWARF_REGISTERS: usize = 17;
/// The stack pointer's number in call-frame information.
pub const DWARF_SP: u16 = 7;
/// The frame pointer's number in call-frame information.
pub const DWARF_FP: u16 = 6;
/// The return address's number in call-frame information.
pub const DWARF_RA: u16 = 16;

/// What may be touched below the stack pointer without telling anyone (System V ABI for AMD64, 3.2.2).
pub const RED_ZONE: u64 = 128;

/// `struct ucontext` from its start to the saved registers, and within those (`<asm/sigcontext.h>`,
/// `<asm-generic/ucontext.h>`).
const UC_STACK: i64 = 16;
const UC_MCONTEXT: i64 = 40;
const SC_SP: i64 = 120;
const SC_IP: i64 = 128;

/// The registers that unwinding needs, by their number in call-frame information; the last is the program counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnwindRegisters(pub [u64; DWARF_REGISTERS]);

/// Where the parts of a signal frame lie, as the kernel passes them to the handler.
#[derive(Clone, Copy, Debug)]
pub struct SignalFrame {
    /// The siginfo: 128 bytes that only the handler reads. The kernel does not look at them again.
    pub siginfo: Avma,
    pub(super) ucontext: Avma,
    /// Where the address of the code that ends the handler lies: the lowest word of the frame.
    pub return_address: Avma,
}

impl SignalFrame {
    /// Where the interrupted program counter is kept.
    pub fn saved_ip(&self) -> Avma {
        self.ucontext.offset(UC_MCONTEXT + SC_IP)
    }

    /// Where the interrupted stack pointer is kept.
    pub fn saved_sp(&self) -> Avma {
        self.ucontext.offset(UC_MCONTEXT + SC_SP)
    }

    /// Where the alternate signal stack in force is described: its address, and 16 bytes on, its size.
    pub fn alternate_stack(&self) -> Avma {
        self.ucontext.offset(UC_STACK)
    }
}

/// How far back the kernel moves the program counter so that an interrupted system call is made again: the
/// length of the `syscall` instruction.
pub const SYSCALL_INSTRUCTION: u64 = 2;
