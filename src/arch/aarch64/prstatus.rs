//! AArch64: core files.

use crate::arch::CoreFile;

/// 34 registers (`struct user_pt_regs`). After NT_PRFPREG come NT_ARM_TLS, NT_ARM_SVE and NT_ARM_PAC_MASK, where the
/// processor has them (arch/arm64/kernel/ptrace.c).
pub static CORE_FILE: CoreFile = CoreFile {
    prstatus: 392,
    registers: 112,
    has_floating: 112 + 34 * 8,
    more_sets: &[0x401, 0x405, 0x406],
};
