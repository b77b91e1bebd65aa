//! x86-64: core files.

use crate::arch::CoreFile;

/// 27 registers (`struct user_regs_struct`); NT_X86_XSTATE comes after NT_PRFPREG.
pub static CORE_FILE: CoreFile = CoreFile {
    prstatus: 336,
    registers: 112,
    has_floating: 112 + 27 * 8,
    more_sets: &[0x202],
};
