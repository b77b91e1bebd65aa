//! AArch64: registers, and the layout of a signal frame.

use crate::address::Avma;
use crate::arch::{CallFrames, SignalFrame, Ucontext, UnwindRegisters};
use crate::memory::Memory;

/// x0 to x30, sp, and the program counter, which no rule sets: it is what the caller's x30 was (DWARF for the Arm 64-bit
/// Architecture, 4.1). A function may change x0 to x18 without restoring them (Procedure Call Standard for the Arm 64-bit
/// Architecture, 6.1.1), and x30, which it has its return address in; no rule for that means that it still is there. A
/// frame record does not lie at its caller's stack pointer (6.4.6).
pub static CALL_FRAMES: CallFrames = CallFrames {
    registers: 33,
    sp: 31,
    fp: 29,
    return_address: 30,
    pc: 32,
    leaf: true,
    volatile: &[
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18,
    ],
    above_record: None,
    vendor: gimli::Vendor::AArch64,
};

/// Nothing may be touched below the stack pointer (Procedure Call Standard for the Arm 64-bit Architecture, 6.4.5).
pub const RED_ZONE: u64 = 0;

/// `struct ucontext` has the saved registers at 176, aligned to 16 bytes behind room for a larger signal mask, and those
/// have x0 at 8, sp at 256, pc at 264 (arch/arm64/include/uapi/asm/ucontext.h and sigcontext.h).
pub static UCONTEXT: Ucontext = Ucontext {
    stack: 16,
    sp: 176 + 256,
    pc: 176 + 264,
};

/// From `struct user_pt_regs`: x0 to x30, sp, pc, pstate, 8 bytes each (arch/arm64/include/uapi/asm/ptrace.h).
pub fn registers_in(prstatus: &[u8]) -> Option<UnwindRegisters> {
    const SIZE: usize = 34 * 8;
    let set: &[u8; SIZE] = prstatus.try_into().ok()?;
    let words = set
        .as_chunks::<8>()
        .0
        .iter()
        .map(|w| u64::from_le_bytes(*w));
    Some(UnwindRegisters::new(&CALL_FRAMES, words))
}

/// The frame that the kernel built, where the handler's stack pointer at its first instruction was `sp`: nothing is pushed
/// below it. The siginfo comes first, then the ucontext (`struct rt_sigframe`, arch/arm64/kernel/signal.c).
pub fn signal_frame(sp: Avma) -> SignalFrame {
    const SIGINFO: i64 = 128;
    SignalFrame {
        siginfo: sp,
        ucontext: (sp.offset(SIGINFO), &UCONTEXT),
    }
}

/// See [`saves`](crate::arch::Processor::saves). A thread that is stopped in a system call stands at its `svc` already
/// where it would be made again; the kernel moves it behind that where a signal ends the call (do_signal(),
/// arch/arm64/kernel/signal.c). Nothing tells whether it is in one but that instruction.
pub fn saves(saved: Avma, ip: Avma, memory: &dyn Memory) -> bool {
    let makes_call = || {
        let mut word = [0; 4];
        memory.read(ip, &mut word).is_ok() && u32::from_le_bytes(word) == SVC
    };
    saved == ip || saved == ip.offset(4) && makes_call()
}

/// `svc #0`
pub(super) const SVC: u32 = 0xd400_0001;

/// Whether `code` is what a handler returns to, in the vDSO, which has no call-frame information there:
/// `mov x8,#139; svc #0` (`__kernel_rt_sigreturn`, arch/arm64/kernel/vdso/sigreturn.S).
pub fn is_trampoline(code: &[u8]) -> bool {
    matches!(words(code)[..], [0xd280_1168, SVC, ..])
}

pub(super) fn words(code: &[u8]) -> Vec<u32> {
    let words = code.as_chunks::<4>().0.iter();
    words.map(|w| u32::from_le_bytes(*w)).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::memory::CapturedMemory;

    pub(in crate::arch::aarch64) fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    #[test]
    fn where_the_kernel_saves_what() {
        // Measured on Linux 6.1, 6.12 and 7.2, from the ucontext, which is 128 bytes above the handler's stack pointer.
        let frame = signal_frame(Avma(0x1000));
        let from_ucontext = |at: Avma| at.0 - 0x1080;
        assert_eq!(from_ucontext(frame.alternate_stack()), 16);
        assert_eq!(from_ucontext(frame.saved_sp()), 432);
        assert_eq!(from_ucontext(frame.saved_ip()), 440);
        assert_eq!(frame.siginfo, Avma(0x1000));
    }

    #[test]
    fn registers_of_a_thread() {
        let set: Vec<u8> = (0..34u64).flat_map(u64::to_le_bytes).collect();
        let registers = registers_in(&set).unwrap();
        let frames = &CALL_FRAMES;
        for number in [frames.fp, frames.return_address, frames.sp, frames.pc] {
            assert_eq!(registers.values[usize::from(number)], u64::from(number));
        }
        assert_eq!(registers_in(&set[8..]), None);
    }

    #[test]
    fn a_call_is_made_again_or_ends() {
        // clock_nanosleep(2) of glibc: mov x8,#115; svc #0; cmn x0,#1
        let code = bytes(&[0xd280_0e68, SVC, 0xb100_041f]);
        let mut memory = CapturedMemory::default();
        memory.add(Avma(0x1000), code);
        let saves = |saved, ip| saves(Avma(saved), Avma(ip), &memory);
        assert!(saves(0x1004, 0x1004), "made again");
        assert!(saves(0x1008, 0x1004), "ends with EINTR");
        assert!(saves(0x1008, 0x1008));
        assert!(!saves(0x1004, 0x1000), "no call there");
        assert!(!saves(0x1004, 0x1008), "never back");
        assert!(!saves(0x9004, 0x9000), "not to be read");
    }

    #[test]
    fn the_end_of_a_handler() {
        assert!(is_trampoline(&bytes(&[0xd280_1168, 0xd400_0001])));
        assert!(!is_trampoline(&bytes(&[0xd280_1168])));
        assert!(!is_trampoline(&bytes(&[0xd280_1008, 0xd400_0001])), "exit");
    }
}
