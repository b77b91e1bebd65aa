//! x86-64: registers by their numbers, and the layout of a signal frame.

use serde::{Deserialize, Serialize};

use crate::arch::ErrnoAt;
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

/// Reads the offset of `errno` from the thread pointer out of the code of `__errno_location`: glibc's
/// `mov slot(%rip),%rax; add %fs:0,%rax; ret`, or musl's `mov %fs:0,%rax; add $n,%rax; ret`. `code` are the function's
/// bytes and `at` their address. None for code of another shape.
pub fn errno_location(code: &[u8], at: Avma) -> Option<ErrnoAt> {
    const ENDBR64: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa];
    let skipped = if code.starts_with(ENDBR64) { 4 } else { 0 };
    let code = &code[skipped..];
    match code {
        [
            0x48,
            0x8b,
            0x05,
            a,
            b,
            c,
            d,
            0x64,
            0x48,
            0x03,
            0x04,
            0x25,
            0,
            0,
            0,
            0,
            0xc3,
            ..,
        ] => {
            let next = at.offset(skipped as i64 + 7);
            let displacement = i32::from_le_bytes([*a, *b, *c, *d]);
            Some(ErrnoAt::OffsetKeptAt(next.offset(displacement.into())))
        }
        [
            0x64,
            0x48,
            0x8b,
            0x04,
            0x25,
            0,
            0,
            0,
            0,
            0x48,
            0x83,
            0xc0,
            n,
            0xc3,
            ..,
        ] => Some(ErrnoAt::Offset(i64::from(*n as i8))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_of_the_common_libraries() {
        // glibc 2.36, Debian 12: objdump -d --disassemble=__errno_location libc.so.6
        let glibc = [
            0x48, 0x8b, 0x05, 0x69, 0xbd, 0x1a, 0x00, 0x64, 0x48, 0x03, 0x04, 0x25, 0, 0, 0, 0,
            0xc3,
        ];
        assert_eq!(
            errno_location(&glibc, Avma(0x1000)),
            Some(ErrnoAt::OffsetKeptAt(Avma(0x1000 + 7 + 0x1a_bd69)))
        );
        let musl = [
            0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, 0x48, 0x83, 0xc0, 0x34, 0xc3,
        ];
        assert_eq!(errno_location(&musl, Avma(0)), Some(ErrnoAt::Offset(0x34)));
        let mut built_with_cet = vec![0xf3, 0x0f, 0x1e, 0xfa];
        built_with_cet.extend(glibc);
        assert_eq!(
            errno_location(&built_with_cet, Avma(0x1000)),
            Some(ErrnoAt::OffsetKeptAt(Avma(0x1000 + 4 + 7 + 0x1a_bd69)))
        );
        assert_eq!(errno_location(&[0xc3], Avma(0)), None);
        assert_eq!(errno_location(&[], Avma(0)), None);
    }
}
