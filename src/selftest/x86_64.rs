//! x86-64: code that sees the least change of anything that is its own, and code that changes all of it.
#![allow(unsafe_code)]

use std::arch::naked_asm;
use std::sync::atomic::AtomicU64;

/// Rounds of [`compute`].
pub static ROUNDS: AtomicU64 = AtomicU64::new(0);
/// How often it found a register, a vector register or the red zone other than it had left it.
pub static DAMAGE: AtomicU64 = AtomicU64::new(0);
/// Calls of [`spoil`].
pub static SPOILED: AtomicU64 = AtomicU64::new(0);
/// Calls of [`jump`].
pub static JUMPED: AtomicU64 = AtomicU64::new(0);
/// The stack pointer of [`compute`].
static STACK: AtomicU64 = AtomicU64::new(0);

/// What the registers are filled with. Only the code below reads it.
#[repr(align(16))]
#[allow(dead_code)]
struct Pattern([u64; 16]);

impl Pattern {
    /// No two words are the same, nor the same as one from another `seed`.
    const fn new(seed: u64) -> Self {
        let mut words = [0; 16];
        let mut i = 0;
        while i < words.len() {
            words[i] = seed.wrapping_mul(2 * i as u64 + 1);
            i += 1;
        }
        Pattern(words)
    }
}

/// What [`compute`] has in its registers.
static OWN: Pattern = Pattern::new(0x9e37_79b9_7f4a_7c15);
/// What [`spoil`] leaves in them.
static FOREIGN: Pattern = Pattern::new(0xc2b2_ae3d_27d4_eb4f);

/// A line for each register: `$before`, the register, `$between`, its place in a pattern, `$after`.
macro_rules! general {
    ($before:literal, $between:literal, $after:literal) => {
        general!(@ $before, $between, $after, "rax" "0", "rbx" "8", "rcx" "16", "rdx" "24", "rsi" "32",
            "rdi" "40", "rbp" "48", "r8" "56", "r9" "64", "r10" "72", "r11" "80", "r12" "88", "r13" "96",
            "r14" "104", "r15" "112")
    };
    (@ $before:literal, $between:literal, $after:literal, $($register:literal $at:literal),+) => {
        concat!($($before, $register, $between, $at, $after, "\n"),+)
    };
}

/// The same for xmm0 to xmm14; the last is for comparing.
macro_rules! vector {
    ($($line:literal),+) => {
        vector!(@ [$($line),+] "0" "16" "32" "48" "64" "80" "96" "112" "0" "16" "32" "48" "64" "80" "96")
    };
    (@ $lines:tt $a:literal $b:literal $c:literal $d:literal $e:literal $f:literal $g:literal $h:literal
        $i:literal $j:literal $k:literal $l:literal $m:literal $n:literal $o:literal) => {
        concat!(
            vector!(% $lines "xmm0" $a), vector!(% $lines "xmm1" $b), vector!(% $lines "xmm2" $c),
            vector!(% $lines "xmm3" $d), vector!(% $lines "xmm4" $e), vector!(% $lines "xmm5" $f),
            vector!(% $lines "xmm6" $g), vector!(% $lines "xmm7" $h), vector!(% $lines "xmm8" $i),
            vector!(% $lines "xmm9" $j), vector!(% $lines "xmm10" $k), vector!(% $lines "xmm11" $l),
            vector!(% $lines "xmm12" $m), vector!(% $lines "xmm13" $n), vector!(% $lines "xmm14" $o),
        )
    };
    (% [$before:literal, $between:literal, $after:literal] $register:literal $at:literal) => {
        concat!($before, $register, $between, $at, $after, "\n")
    };
}

/// Computes for ever: fills all registers and the red zone, and looks whether they stay so.
///
/// # Safety
/// Gives nothing back that it got. To be called once, by a program that has nothing else to do.
#[unsafe(naked)]
pub unsafe extern "C" fn compute() -> ! {
    naked_asm!(
        "mov [rip + {stack}], rsp",
        "jmp {again}",
        stack = sym STACK,
        again = sym compute_again,
    )
}

#[unsafe(naked)]
unsafe extern "C" fn compute_again() -> ! {
    naked_asm!(
        "2:",
        general!("mov ", ", [rip + {own} + ", "]"),
        vector!("movaps ", ", [rip + {own} + ", "]"),
        "mov [rsp - 8], rbx",
        "mov [rsp - 64], rcx",
        "mov [rsp - 128], rdx",
        "3:",
        general!("cmp ", ", [rip + {own} + ", "]\njne 4f"),
        "cmp [rsp - 8], rbx",
        "jne 4f",
        "cmp [rsp - 64], rcx",
        "jne 4f",
        "cmp [rsp - 128], rdx",
        "jne 4f",
        vector!(
            "movaps xmm15, ",
            "\npcmpeqd xmm15, [rip + {own} + ",
            "]\npmovmskb eax, xmm15\ncmp eax, 0xffff\njne 4f"
        ),
        "mov rax, [rip + {own}]",
        "inc qword ptr [rip + {rounds}]",
        "jmp 3b",
        "4:",
        "inc qword ptr [rip + {damage}]",
        "jmp 2b",
        own = sym OWN,
        rounds = sym ROUNDS,
        damage = sym DAMAGE,
    )
}

/// Changes every register but the stack pointer, the flags and the red zone, and returns.
///
/// # Safety
/// Only where a signal frame gives everything back.
#[unsafe(naked)]
pub unsafe extern "C" fn spoil() {
    naked_asm!(
        general!("mov ", ", [rip + {foreign} + ", "]"),
        vector!("movaps ", ", [rip + {foreign} + ", "]"),
        "mov [rsp - 8], rax",
        "mov [rsp - 64], rax",
        "mov [rsp - 128], rax",
        "inc qword ptr [rip + {spoiled}]",
        "stc",
        "ret",
        foreign = sym FOREIGN,
        spoiled = sym SPOILED,
    )
}

/// Leaves the frame by a jump, as siglongjmp(3) does, back into [`compute`].
///
/// # Safety
/// Only while [`compute`] runs.
#[unsafe(naked)]
pub unsafe extern "C" fn jump() {
    naked_asm!(
        "inc qword ptr [rip + {jumped}]",
        "mov rsp, [rip + {stack}]",
        "jmp {again}",
        jumped = sym JUMPED,
        stack = sym STACK,
        again = sym compute_again,
    )
}

/// The exit status of [`exit`].
pub const EXIT_STATUS: i32 = 1;

/// exit_group(2).
///
/// # Safety
/// Ends the process.
#[unsafe(naked)]
pub unsafe extern "C" fn exit() -> ! {
    naked_asm!(
        "mov edi, {status}",
        "mov eax, {exit_group}",
        "syscall",
        "ud2",
        status = const EXIT_STATUS,
        exit_group = const libc::SYS_exit_group,
    )
}
