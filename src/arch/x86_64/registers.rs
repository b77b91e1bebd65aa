//! x86-64: registers by their numbers, and the layout of a signal frame.

use crate::address::Avma;
use crate::arch::{CallFrames, Ucontext, UnwindRegisters};

/// rax…r15 and the return address (System V ABI for AMD64, figure 3.36). A function may change all without restoring them
/// but rbx, rbp, rsp, r12 to r15 (figure 3.4). Frames are linked by `push %rbp; mov %rsp,%rbp`.
pub static CALL_FRAMES: CallFrames = CallFrames {
    registers: 17,
    sp: 7,
    fp: 6,
    return_address: 16,
    pc: 16,
    leaf: false,
    volatile: &[0, 1, 2, 4, 5, 8, 9, 10, 11],
    above_record: Some(16),
    vendor: gimli::Vendor::Default,
};

/// What may be touched below the stack pointer without telling anyone (System V ABI for AMD64, 3.2.2).
pub const RED_ZONE: u64 = 128;

/// `struct ucontext` has the saved registers at 40, and those have rsp at 120 and rip at 128 (`<asm/sigcontext.h>`,
/// `<asm-generic/ucontext.h>`).
pub static UCONTEXT: Ucontext = Ucontext {
    stack: 16,
    sp: 40 + 120,
    pc: 40 + 128,
};

/// From `struct user_regs_struct`: r15 to r8 with rbp and rbx among them, rax, rcx, rdx, rsi, rdi, orig_rax, rip, cs,
/// eflags, rsp, and segments, 8 bytes each (arch/x86/include/asm/user_64.h).
pub fn registers_in(prstatus: &[u8]) -> Option<UnwindRegisters> {
    const SIZE: usize = 27 * 8;
    /// Where each is that call-frame information numbers, in the order of its numbers.
    const PLACES: [usize; 17] = [10, 12, 11, 5, 13, 14, 4, 19, 9, 8, 7, 6, 3, 2, 1, 0, 16];
    let set: &[u8; SIZE] = prstatus.try_into().ok()?;
    let words = set.as_chunks::<8>().0;
    let values = PLACES.map(|n| u64::from_le_bytes(words[n]));
    Some(UnwindRegisters::new(&CALL_FRAMES, values))
}

/// How far back the kernel moves the program counter so that an interrupted system call is made again: the
/// length of the `syscall` instruction.
const SYSCALL_INSTRUCTION: u64 = 2;

/// See [`saves`](crate::arch::Processor::saves).
pub fn saves(saved: Avma, ip: Avma, in_call: bool) -> bool {
    saved == ip || in_call && saved.0 == ip.0.wrapping_sub(SYSCALL_INSTRUCTION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_of_a_thread() {
        let set: Vec<u8> = (0..27u64).flat_map(u64::to_le_bytes).collect();
        let registers = registers_in(&set).unwrap();
        let value = |number: u16| registers.values[usize::from(number)];
        // user_regs_struct: rbp is the fifth word, rip the 17th, rsp the 20th.
        assert_eq!(value(CALL_FRAMES.fp), 4);
        assert_eq!(value(CALL_FRAMES.pc), 16);
        assert_eq!(value(CALL_FRAMES.sp), 19);
        assert_eq!(registers_in(&set[8..]), None);
    }

    #[test]
    fn a_call_is_made_again_or_ends() {
        assert!(saves(Avma(0x1000), Avma(0x1000), false));
        assert!(saves(Avma(0xffe), Avma(0x1000), true));
        assert!(!saves(Avma(0xffe), Avma(0x1000), false));
        assert!(!saves(Avma(0x1002), Avma(0x1000), true));
    }
}
