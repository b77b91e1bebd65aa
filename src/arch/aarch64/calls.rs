//! AArch64: who calls whom. Its stubs and its branches cannot be read yet.

/// The types of relocations that fill a slot with the address of a symbol: R_AARCH64_GLOB_DAT, R_AARCH64_JUMP_SLOT (ELF for
/// the Arm 64-bit Architecture, 5.7.12).
pub const RELOCATIONS_BY_NAME: [u32; 2] = [1025, 1026];
