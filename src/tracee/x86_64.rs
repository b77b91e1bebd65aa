//! x86-64: registers, the calling convention, and the layout of a signal frame.

use serde::{Deserialize, Serialize};

use super::sys::RawRegisters;
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

/// The general registers of a stopped thread.
#[derive(Clone, Copy, Debug)]
pub struct Registers(pub(super) RawRegisters);

/// The registers that unwinding needs, by their number in call-frame information; the last is the program counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnwindRegisters(pub [u64; DWARF_REGISTERS]);

impl Registers {
    /// The program counter.
    pub fn ip(&self) -> Avma {
        Avma(self.0.rip)
    }

    /// The stack pointer.
    pub fn sp(&self) -> Avma {
        Avma(self.0.rsp)
    }

    /// All of them by name, in the order in which gdb has them.
    pub fn named(&self) -> [(&'static str, u64); 26] {
        let r = &self.0;
        [
            ("rax", r.rax),
            ("rbx", r.rbx),
            ("rcx", r.rcx),
            ("rdx", r.rdx),
            ("rsi", r.rsi),
            ("rdi", r.rdi),
            ("rbp", r.rbp),
            ("rsp", r.rsp),
            ("r8", r.r8),
            ("r9", r.r9),
            ("r10", r.r10),
            ("r11", r.r11),
            ("r12", r.r12),
            ("r13", r.r13),
            ("r14", r.r14),
            ("r15", r.r15),
            ("rip", r.rip),
            ("eflags", r.eflags),
            ("cs", r.cs),
            ("ss", r.ss),
            ("ds", r.ds),
            ("es", r.es),
            ("fs_base", r.fs_base),
            ("gs_base", r.gs_base),
            ("orig_rax", r.orig_rax),
            ("fs", r.fs),
        ]
    }

    /// The base of thread-local storage.
    pub fn thread_pointer(&self) -> Avma {
        Avma(self.0.fs_base)
    }

    /// Whether both stand at the same instruction with the same stack.
    pub fn same_place(&self, other: &Registers) -> bool {
        (self.0.rip, self.0.rsp) == (other.0.rip, other.0.rsp)
    }

    /// The system call it is in: at its entry, at its exit, or interrupted in it.
    pub fn syscall(&self) -> Option<i64> {
        let number = self.0.orig_rax as i64;
        (number >= 0).then_some(number)
    }

    /// The arguments of the system call it is in (System V ABI for AMD64, A.2.1).
    pub fn syscall_arguments(&self) -> [u64; 6] {
        let r = &self.0;
        [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9]
    }

    /// Whether it stands at the entry of the system call that ends a signal handler.
    pub fn enters_sigreturn(&self) -> bool {
        self.syscall() == Some(libc::SYS_rt_sigreturn)
    }

    /// The registers by their numbers in call-frame information.
    pub fn for_unwinding(&self) -> UnwindRegisters {
        let r = &self.0;
        UnwindRegisters([
            r.rax, r.rdx, r.rcx, r.rbx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11,
            r.r12, r.r13, r.r14, r.r15, r.rip,
        ])
    }

    /// At a handler's first instruction: the same, but about to call `function` with `args`. The handler's
    /// return address stays on the stack, so the function returns to where the handler would have.
    pub fn calling(&self, function: Avma, args: [u64; 5]) -> Registers {
        let mut r = self.0;
        r.rip = function.0;
        [r.rdi, r.rsi, r.rdx, r.rcx, r.r8] = args;
        // For a function that takes a variable number of arguments: none of them in a vector register.
        r.rax = 0;
        // Not in a system call any more, or the kernel would move the program counter to restart it.
        r.orig_rax = -1i64 as u64;
        Registers(r)
    }

    /// At a handler's first instruction: the same, but as if the handler had returned, to `restorer`.
    pub fn returning_to(&self, restorer: Avma) -> Registers {
        let mut r = self.0;
        r.rip = restorer.0;
        r.rsp = r.rsp.wrapping_add(8);
        r.orig_rax = -1i64 as u64;
        Registers(r)
    }

    /// Whether the registers are as the kernel leaves them for the handler of `signal`: the number is the first argument,
    /// and the frame begins at the stack pointer (x64_setup_rt_frame(), arch/x86/kernel/signal_64.c: `struct
    /// rt_sigframe` is the return address, the ucontext, the siginfo).
    pub fn enters_handler(&self, signal: i32) -> bool {
        let ucontext = self.0.rsp.wrapping_add(8);
        self.0.rdi == signal as u64 && self.0.rdx == ucontext && self.0.rsi > ucontext
    }

    /// At a handler's first instruction: where the kernel's signal frame is.
    ///
    /// The handler's second and third arguments point to it, for every handler: the 64-bit kernel always builds
    /// the frame with siginfo (arch/x86/kernel/signal_64.c, x64_setup_rt_frame).
    pub fn signal_frame(&self) -> SignalFrame {
        SignalFrame {
            siginfo: Avma(self.0.rsi),
            ucontext: Avma(self.0.rdx),
            return_address: Avma(self.0.rsp),
        }
    }
}

/// Where the parts of a signal frame lie, as the kernel passes them to the handler.
#[derive(Clone, Copy, Debug)]
pub struct SignalFrame {
    /// The siginfo: 128 bytes that only the handler reads. The kernel does not look at them again.
    pub siginfo: Avma,
    ucontext: Avma,
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

/// Reads the offset of `errno` from the thread pointer out of the code of `__errno_location`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrnoAt {
    /// At this offset from the thread pointer (musl: `mov %fs:0,%rax; add $n,%rax; ret`).
    Offset(i64),
    /// At the offset that is kept at this address, a slot of the global offset table
    /// (glibc: `mov slot(%rip),%rax; add %fs:0,%rax; ret`).
    OffsetKeptAt(Avma),
}

/// See [`ErrnoAt`]; `code` are the function's bytes and `at` their address. None for code of another shape.
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
