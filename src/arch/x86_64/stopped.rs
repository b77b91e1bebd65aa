//! x86-64: the registers of a stopped thread as ptrace has them, and the calling convention. For that host only.

use nix::errno::Errno;

use super::registers::{CALL_FRAMES, UCONTEXT};
use crate::address::Avma;
use crate::arch::{SignalFrame, UnwindRegisters};
use crate::memory::{Memory, Unreadable};
use crate::sys::{self, RawRegisters};

/// The general registers of a stopped thread.
#[derive(Clone, Copy, Debug)]
pub struct Registers(RawRegisters);

impl Registers {
    /// Those of a stopped thread.
    pub fn of(tid: i32) -> Result<Self, Errno> {
        Ok(Registers(sys::registers(tid)?))
    }

    /// Gives them to a stopped thread.
    pub fn give(&self, tid: i32) -> Result<(), Errno> {
        sys::set_registers(tid, &self.0)
    }

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
        let values = [
            r.rax, r.rdx, r.rcx, r.rbx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11,
            r.r12, r.r13, r.r14, r.r15, r.rip,
        ];
        UnwindRegisters::new(&CALL_FRAMES, values)
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

    /// At a handler's first instruction: the same, but as if the handler had returned. Its return address is the lowest
    /// word of the frame.
    pub fn ending_handler(&self, memory: &dyn Memory) -> Result<Registers, Unreadable> {
        let mut r = self.0;
        r.rip = memory.read_u64(self.sp())?;
        r.rsp = self.after_handler().0;
        r.orig_rax = -1i64 as u64;
        Ok(Registers(r))
    }

    /// At a handler's first instruction: the stack pointer once the handler has returned.
    pub fn after_handler(&self) -> Avma {
        self.sp().offset(8)
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
            ucontext: (Avma(self.0.rdx), &UCONTEXT),
        }
    }
}
