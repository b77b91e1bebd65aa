//! AArch64: registers, and the layout of a signal frame.

use crate::memory::Avma;

/// How many registers an unwinder keeps, by their numbers in call-frame information: x0 to x30, sp, and the program
/// counter, which no rule sets: it is what the caller's x30 was (DWARF for the Arm 64-bit Architecture, 4.1).
pub const DWARF_REGISTERS: usize = 33;
/// The stack pointer's number in call-frame information.
pub const DWARF_SP: u16 = 31;
/// The frame pointer's number in call-frame information.
pub const DWARF_FP: u16 = 29;
/// The return address's number in call-frame information.
pub const DWARF_RA: u16 = 30;
/// The program counter's number in call-frame information.
pub const DWARF_PC: u16 = 32;

/// Nothing may be touched below the stack pointer (Procedure Call Standard for the Arm 64-bit Architecture, 6.4.5).
pub const RED_ZONE: u64 = 0;

/// `struct ucontext` from its start to the saved registers, which are aligned to 16 bytes behind room for a larger signal
/// mask, and within those (arch/arm64/include/uapi/asm/ucontext.h and sigcontext.h).
const UC_STACK: i64 = 16;
const UC_MCONTEXT: i64 = 176;
const SC_X0: i64 = 8;
const SC_SP: i64 = 256;
const SC_PC: i64 = 264;

/// The siginfo comes first in the frame, then the ucontext (`struct rt_sigframe`, arch/arm64/kernel/signal.c).
const UCONTEXT: i64 = 128;

/// The registers that unwinding needs, by their numbers in call-frame information; the last is the program counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnwindRegisters(pub [u64; DWARF_REGISTERS]);

impl UnwindRegisters {
    /// From a thread's register set NT_PRSTATUS, `struct user_pt_regs`: x0 to x30, sp, pc, pstate, 8 bytes each
    /// (arch/arm64/include/uapi/asm/ptrace.h). None where it has another size.
    pub fn from_prstatus(set: &[u8]) -> Option<Self> {
        const SIZE: usize = 34 * 8;
        let set: &[u8; SIZE] = set.try_into().ok()?;
        let mut all = [0; DWARF_REGISTERS];
        for (register, word) in all.iter_mut().zip(set.as_chunks::<8>().0) {
            *register = u64::from_le_bytes(*word);
        }
        Some(UnwindRegisters(all))
    }
}

/// Where the parts of a signal frame lie.
#[derive(Clone, Copy, Debug)]
pub struct SignalFrame {
    /// The siginfo: 128 bytes that only the handler reads.
    pub siginfo: Avma,
    ucontext: Avma,
}

impl SignalFrame {
    /// The frame that the kernel built, where the handler's stack pointer at its first instruction was `sp`: nothing is
    /// pushed below it.
    pub fn at(sp: Avma) -> Self {
        SignalFrame {
            siginfo: sp,
            ucontext: sp.offset(UCONTEXT),
        }
    }

    /// Where the interrupted program counter is kept.
    pub fn saved_ip(&self) -> Avma {
        self.ucontext.offset(UC_MCONTEXT + SC_PC)
    }

    /// Where the interrupted stack pointer is kept.
    pub fn saved_sp(&self) -> Avma {
        self.ucontext.offset(UC_MCONTEXT + SC_SP)
    }

    /// Where the interrupted x0 is kept; the others follow it.
    pub fn saved_x0(&self) -> Avma {
        self.ucontext.offset(UC_MCONTEXT + SC_X0)
    }

    /// Where the alternate signal stack in force is described: its address, and 16 bytes on, its size.
    pub fn alternate_stack(&self) -> Avma {
        self.ucontext.offset(UC_STACK)
    }
}

/// Whether `code` is what a handler returns to, in the vDSO, which has no call-frame information there:
/// `mov x8,#139; svc #0` (`__kernel_rt_sigreturn`, arch/arm64/kernel/vdso/sigreturn.S).
pub fn is_trampoline(code: &[u8]) -> bool {
    matches!(words(code)[..], [0xd280_1168, 0xd400_0001, ..])
}

pub(super) fn words(code: &[u8]) -> Vec<u32> {
    let words = code.as_chunks::<4>().0.iter();
    words.map(|w| u32::from_le_bytes(*w)).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::arch::aarch64) fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    #[test]
    fn where_the_kernel_saves_what() {
        // Measured on Linux 6.1, 6.12 and 7.2, from the ucontext, which is 128 bytes above the handler's stack pointer.
        let frame = SignalFrame::at(Avma(0x1000));
        let from_ucontext = |at: Avma| at.0 - 0x1080;
        assert_eq!(from_ucontext(frame.alternate_stack()), 16);
        assert_eq!(from_ucontext(frame.saved_x0()), 184);
        assert_eq!(from_ucontext(frame.saved_sp()), 432);
        assert_eq!(from_ucontext(frame.saved_ip()), 440);
        assert_eq!(frame.siginfo, Avma(0x1000));
    }

    #[test]
    fn registers_of_a_thread() {
        let set: Vec<u8> = (0..34u64).flat_map(u64::to_le_bytes).collect();
        let registers = UnwindRegisters::from_prstatus(&set).unwrap();
        for number in [DWARF_FP, DWARF_RA, DWARF_SP, DWARF_PC] {
            assert_eq!(registers.0[usize::from(number)], u64::from(number));
        }
        assert_eq!(UnwindRegisters::from_prstatus(&set[8..]), None);
    }

    #[test]
    fn the_end_of_a_handler() {
        assert!(is_trampoline(&bytes(&[0xd280_1168, 0xd400_0001])));
        assert!(!is_trampoline(&bytes(&[0xd280_1168])));
        assert!(!is_trampoline(&bytes(&[0xd280_1008, 0xd400_0001])), "exit");
    }
}
