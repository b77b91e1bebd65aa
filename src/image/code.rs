//! Reading machine code: does a function take a spinlock, and could it be holding it at this instruction?
//!
//! PostgreSQL takes a spinlock inline, with an atomic exchange of one byte (`tas()`, src/include/storage/s_lock.h, all
//! versions), and releases it with a plain store of zero. Nothing counts those that are held.

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, OpKind};

use super::Svma;

/// The largest function that is read. ExecInterpExpr(), PostgreSQL's largest, has some 20 KiB.
const LARGEST_FUNCTION: u64 = 1 << 20;

/// Where a function takes and releases spinlocks, by the address of the instruction that follows.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Spinlocks {
    taken: Vec<u64>,
    released: Vec<u64>,
}

impl Spinlocks {
    /// Reads the code of one function.
    pub(super) fn read(code: &[u8], start: Svma) -> Self {
        let mut found = Spinlocks::default();
        let mut decoder = Decoder::with_ip(64, code, start.0, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        while decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            match instruction.code() {
                Code::Xchg_rm8_r8 if instruction.op0_kind() == OpKind::Memory => {
                    found.taken.push(instruction.next_ip());
                }
                Code::Mov_rm8_imm8
                    if instruction.op0_kind() == OpKind::Memory
                        && instruction.immediate8() == 0 =>
                {
                    found.released.push(instruction.next_ip());
                }
                _ => {}
            }
        }
        found
    }

    /// How much of a function is read, at most.
    pub(super) fn readable(size: u64) -> u64 {
        size.min(LARGEST_FUNCTION)
    }

    /// Whether it takes any.
    pub fn any_taken(&self) -> bool {
        !self.taken.is_empty()
    }

    /// Whether `at` lies between an instruction that takes a spinlock and the next one that releases one, in the
    /// order of addresses. Compilers keep what runs under the lock there; a jump from elsewhere is not followed.
    pub fn may_be_held_at(&self, at: Svma) -> bool {
        self.taken
            .iter()
            .filter(|taken| **taken <= at.0)
            .any(|taken| !self.released.iter().any(|r| taken < r && *r <= at.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_taking_and_releasing() {
        let code = [
            0xb8, 1, 0, 0, 0, // mov $1,%eax
            0xf0, 0x86, 0x07, // lock xchg %al,(%rdi)
            0x84, 0xc0, // test %al,%al
            0x90, // nop
            0xc6, 0x07, 0x00, // movb $0,(%rdi)
            0xc3, // ret
        ];
        let found = Spinlocks::read(&code, Svma(0x1000));
        assert!(found.any_taken());
        assert!(!found.may_be_held_at(Svma(0x1005)));
        assert!(found.may_be_held_at(Svma(0x1008)));
        assert!(found.may_be_held_at(Svma(0x100a)));
        assert!(!found.may_be_held_at(Svma(0x100e)));
    }

    #[test]
    fn other_exchanges_are_not_spinlocks() {
        let code = [
            0x87, 0x07, // xchg %eax,(%rdi)
            0x86, 0xc4, // xchg %al,%ah
            0xff, 0xff, 0xff, // no instruction
        ];
        let found = Spinlocks::read(&code, Svma(0));
        assert_eq!(found, Spinlocks::default());
    }
}
