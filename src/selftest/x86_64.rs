//! x86-64: code that sees the least change of anything that is its own, and code that changes all of it.
#![allow(unsafe_code)]

use std::arch::{asm, naked_asm};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::arch::x86_64::xstate::xsave_place;

/// Rounds of [`compute`].
pub static ROUNDS: AtomicU64 = AtomicU64::new(0);
/// How often it found a register of any kind or the red zone other than it had left it.
pub static DAMAGE: AtomicU64 = AtomicU64::new(0);
/// Calls of [`spoil`].
pub static SPOILED: AtomicU64 = AtomicU64::new(0);
/// Calls of [`jump`].
pub static JUMPED: AtomicU64 = AtomicU64::new(0);
/// The stack pointer of [`compute`].
static STACK: AtomicU64 = AtomicU64::new(0);

/// What the general registers are filled with.
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

/// Room for those components of the processor's state that are tried: x87, SSE, AVX, and the three of AVX-512. What lies
/// behind them needs leave to be used (AMX), or would take memory away (protection keys).
const TRIED: u32 = 0b1110_0111;
/// Their size in the standard format of XSAVE is 2,688 bytes (Intel SDM, volume 1, 13.4 to 13.5).
const AREA: usize = 4096;

/// What the processor has besides the general registers, as XSAVE lays it out.
#[repr(C, align(64))]
struct Area([AtomicU64; AREA / 8]);

impl Area {
    const fn new() -> Self {
        Area([const { AtomicU64::new(0) }; AREA / 8])
    }

    fn set(&self, at: usize, word: u64) {
        self.0[at / 8].store(word, Relaxed);
    }

    /// Fills these components; no word is the same as another, nor as one from another `pattern`. The control words of
    /// the x87 and of SSE round otherwise than usual, which tells them from those of anybody else.
    fn fill(&self, components: u32, x87: u16, mxcsr: u32, pattern: &Pattern) {
        const REGISTERS_OF_X87: std::ops::Range<usize> = 32..160;
        const REGISTERS_OF_SSE: std::ops::Range<usize> = 160..416;
        const HEADER: usize = 512;
        let word = |at: usize| pattern.0[1].wrapping_mul(at as u64 | 1);
        let all_in_use = 0xff;
        self.set(0, u64::from(x87) | all_in_use << 32);
        self.set(24, mxcsr.into());
        for at in REGISTERS_OF_X87.step_by(16) {
            self.set(at, word(at));
            self.set(at + 8, word(at + 8) & 0xffff);
        }
        for at in REGISTERS_OF_SSE.step_by(8) {
            self.set(at, word(at));
        }
        self.set(HEADER, components.into());
        for component in (2..32).filter(|n| components & 1 << n != 0) {
            for at in place_of(component).step_by(8) {
                self.set(at, word(at));
            }
        }
    }
}

/// Where XSAVE puts a component behind the first two.
fn place_of(component: u32) -> std::ops::Range<usize> {
    let (start, size) = xsave_place(component);
    start..start + size
}

/// Those of [`TRIED`] that this machine has; none where XSAVE is not to be used, and FXSAVE is.
fn components() -> u32 {
    // This takes into account whether the kernel has allowed it (OSXSAVE).
    if !is_x86_feature_detected!("xsave") {
        return 0;
    }
    let enabled: u32;
    // SAFETY: reads a register, and the kernel has allowed it.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") enabled, out("edx") _, options(nomem, nostack));
    }
    let fits = |n: &u32| *n < 2 || place_of(*n).end <= AREA;
    let all = (0..32).filter(|n| enabled & TRIED & 1 << n != 0);
    all.filter(fits).fold(0, |mask, n| mask | 1 << n)
}

/// Puts together what [`compute`] and [`spoil`] fill the processor with; comes before either.
pub fn prepare() {
    let components = components();
    COMPONENTS.store(components.into(), Relaxed);
    // No exception is let through; rounding is upwards here, and downwards there.
    OWN_STATE.fill(components, 0x0b7f, 0x5f80, &OWN);
    FOREIGN_STATE.fill(components, 0x077f, 0x3f80, &FOREIGN);
}

static COMPONENTS: AtomicU64 = AtomicU64::new(0);
static OWN_STATE: Area = Area::new();
static FOREIGN_STATE: Area = Area::new();
/// What the processor makes of [`OWN_STATE`] when it stores it again.
static EXPECTED: Area = Area::new();
/// What it stored last.
static SEEN: Area = Area::new();

/// Loads, or stores, all of that; changes rax, rcx and rdx.
macro_rules! state {
    ($xsave:literal, $fxsave:literal, $area:literal) => {
        concat!(
            "mov eax, [rip + {components}]\n",
            "xor edx, edx\n",
            "lea rcx, [rip + ",
            $area,
            "]\n",
            "test eax, eax\n",
            "jz 5f\n",
            $xsave,
            " [rcx]\n",
            "jmp 6f\n",
            "5:\n",
            $fxsave,
            " [rcx]\n",
            "6:\n",
        )
    };
}

/// Computes for ever: fills all registers and the red zone, and looks whether they stay so.
///
/// # Safety
/// After [`prepare`]. Gives nothing back that it got. To be called once, by a program that has nothing else to do.
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
        state!("xrstor64", "fxrstor64", "{own_state}"),
        state!("xsave64", "fxsave64", "{expected}"),
        general!("mov ", ", [rip + {own} + ", "]"),
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
        state!("xsave64", "fxsave64", "{seen}"),
        "lea rsi, [rip + {seen}]",
        "lea rdi, [rip + {expected}]",
        "mov ecx, {words}",
        "repe cmpsq",
        "jne 4f",
        // What was used for that; the others keep what they have until they are looked at again.
        "mov rax, [rip + {own}]",
        "mov rcx, [rip + {own} + 16]",
        "mov rdx, [rip + {own} + 24]",
        "mov rsi, [rip + {own} + 32]",
        "mov rdi, [rip + {own} + 40]",
        "inc qword ptr [rip + {rounds}]",
        "jmp 3b",
        "4:",
        "inc qword ptr [rip + {damage}]",
        "jmp 2b",
        own = sym OWN,
        own_state = sym OWN_STATE,
        expected = sym EXPECTED,
        seen = sym SEEN,
        components = sym COMPONENTS,
        words = const AREA / 8,
        rounds = sym ROUNDS,
        damage = sym DAMAGE,
    )
}

/// Changes every register but the stack pointer, the flags and the red zone, and returns.
///
/// # Safety
/// After [`prepare`]; only where a signal frame gives everything back.
#[unsafe(naked)]
pub unsafe extern "C" fn spoil() {
    naked_asm!(
        state!("xrstor64", "fxrstor64", "{foreign_state}"),
        general!("mov ", ", [rip + {foreign} + ", "]"),
        "mov [rsp - 8], rax",
        "mov [rsp - 64], rax",
        "mov [rsp - 128], rax",
        "inc qword ptr [rip + {spoiled}]",
        "stc",
        "ret",
        foreign = sym FOREIGN,
        foreign_state = sym FOREIGN_STATE,
        components = sym COMPONENTS,
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
