//! Reading machine code: could a function be holding a spinlock at this instruction?
//!
//! PostgreSQL takes a spinlock inline, with an atomic exchange of one byte (`tas()`, src/include/storage/s_lock.h, all
//! versions), and releases it with a plain store of zero. Nothing counts those that are held.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpAccess,
    OpKind, Register,
};

use crate::image::Svma;

/// The largest function that is read. ExecInterpExpr(), PostgreSQL's largest, has some 20 KiB.
const LARGEST_FUNCTION: u64 = 256 << 10;
/// The most instructions that are followed in one function, counted once for each lock that it takes.
const MOST_STEPS: usize = 1 << 20;

/// Where in a function it may be holding a spinlock: at every instruction that can be reached from one that takes a lock
/// without passing one that releases the same.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Spinlocks {
    strictly: Ranges,
    leniently: Ranges,
    left_held: bool,
}

/// Ranges of addresses, sorted, without overlaps.
type Ranges = Vec<Range<u64>>;

/// What is taken for the release of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// A store to the same operand, whose registers did not change since.
    SameOperand,
    /// A store to whatever place: for the server's own code, which often computes the lock's address anew, and which is
    /// known to release what it takes before it calls out (src/include/storage/spin.h).
    AnyOperand,
}

impl Spinlocks {
    /// Reads the code of one function.
    pub fn read(code: &[u8], start: Svma) -> Self {
        let instructions: Vec<Instruction> =
            Decoder::with_ip(64, code, start.0, DecoderOptions::NONE)
                .into_iter()
                .collect();
        let (strictly, _) = held(&instructions, Release::SameOperand);
        let (leniently, left_held) = held(&instructions, Release::AnyOperand);
        Spinlocks {
            strictly,
            leniently,
            left_held,
        }
    }

    /// Whether the function can be left with a lock held: it returns so, or goes on in a part of its code that the
    /// compiler moved elsewhere. Then others hold it whose own code does not show that.
    pub fn are_left_held(&self) -> bool {
        self.left_held
    }

    /// Whether it takes none.
    pub fn are_none(&self) -> bool {
        self.strictly.is_empty() && !self.left_held
    }

    /// How much of a function is read, at most.
    pub fn readable(size: u64) -> u64 {
        size.min(LARGEST_FUNCTION)
    }

    /// Whether a spinlock may be held before the instruction that `at` lies in.
    pub fn may_be_held_at(&self, at: Svma, release: Release) -> bool {
        let held = match release {
            Release::SameOperand => &self.strictly,
            Release::AnyOperand => &self.leniently,
        };
        let after = held.partition_point(|r| r.start <= at.0);
        after > 0 && held[after - 1].contains(&at.0)
    }
}

/// The instructions before which a lock may be held, and whether the function can be left with it.
fn held(instructions: &[Instruction], release: Release) -> (Ranges, bool) {
    /// No function takes more; following each of so many would take for ever.
    const MOST_LOCKS: usize = 64;
    let taking: Vec<usize> = (0..instructions.len())
        .filter(|i| exchanges(&instructions[*i]) && !ignores_result(instructions, *i))
        .collect();
    let mut held = BTreeSet::new();
    let mut left_held = taking.len() > MOST_LOCKS;
    if left_held {
        held.extend(0..instructions.len());
    } else {
        let mut steps_left = MOST_STEPS;
        for lock in taking {
            left_held |= follow(instructions, lock, release, &mut held, &mut steps_left);
        }
    }
    let mut ranges = Ranges::new();
    for i in held {
        let (from, to) = (instructions[i].ip(), instructions[i].next_ip());
        match ranges.last_mut() {
            Some(last) if last.end == from => last.end = to,
            _ => ranges.push(from..to),
        }
    }
    (ranges, left_held)
}

/// Whether it exchanges a byte in memory, which is how a lock is taken.
fn exchanges(i: &Instruction) -> bool {
    i.code() == Code::Xchg_rm8_r8 && i.op0_kind() == OpKind::Memory
}

/// Whether nothing ever looks at what number `exchange` found in memory. Then it takes no lock: whoever takes one has to
/// know whether it was free, and SpinLockAcquire() calls s_lock() where it was not. A flag is set so with
/// pg_atomic_test_set_flag() (do_autovacuum() from 16 on, src/backend/postmaster/autovacuum.c). Where that cannot be told,
/// somebody may look.
fn ignores_result(instructions: &[Instruction], exchange: usize) -> bool {
    const MOST_FOLLOWED: usize = 4096;
    let result = instructions[exchange].op1_register().full_register();
    let mut info = InstructionInfoFactory::new();
    let mut seen = HashSet::new();
    let mut todo = vec![exchange + 1];
    while let Some(i) = todo.pop() {
        if !seen.insert(i) {
            continue;
        }
        let Some(here) = instructions.get(i).filter(|_| seen.len() <= MOST_FOLLOWED) else {
            return false;
        };
        match fate(here, result, &mut info) {
            Fate::Read => return false,
            Fate::Gone => continue,
            Fate::Kept => {}
        }
        match here.flow_control() {
            FlowControl::Next => todo.push(i + 1),
            FlowControl::Call | FlowControl::IndirectCall => {
                // An argument of a byte is extended by the caller, which would have been a look at it.
                if KEPT_BY_CALLS.contains(&result) {
                    todo.push(i + 1);
                }
            }
            flow @ (FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch) => {
                if flow == FlowControl::ConditionalBranch {
                    todo.push(i + 1);
                }
                let target = here.near_branch_target();
                match instructions.binary_search_by_key(&target, Instruction::ip) {
                    Ok(target) => todo.push(target),
                    Err(_) => return false,
                }
            }
            // Its value may be the function's, or be looked at somewhere else.
            _ => return false,
        }
    }
    true
}

/// What an instruction does with the lowest byte of a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Read,
    Gone,
    Kept,
}

fn fate(here: &Instruction, register: Register, info: &mut InstructionInfoFactory) -> Fate {
    const HIGH_BYTES: [Register; 4] = [Register::AH, Register::BH, Register::CH, Register::DH];
    let mut fate = Fate::Kept;
    for used in info.info(here).used_registers() {
        if used.register().full_register() != register {
            continue;
        }
        match used.access() {
            OpAccess::Write if HIGH_BYTES.contains(&used.register()) => {}
            OpAccess::Write => fate = Fate::Gone,
            OpAccess::None | OpAccess::NoMemAccess | OpAccess::CondWrite => {}
            _ => return Fate::Read,
        }
    }
    fate
}

/// Registers that a called function leaves as they were (System V ABI for AMD64, figure 3.4).
const KEPT_BY_CALLS: [Register; 6] = [
    Register::RBX,
    Register::RBP,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

/// Adds all instructions before which the lock that number `taking` takes may be held. Says whether the function can be
/// left with it.
fn follow(
    instructions: &[Instruction],
    taking: usize,
    release: Release,
    held: &mut BTreeSet<usize>,
    steps_left: &mut usize,
) -> bool {
    let mut left_held = false;
    let lock = &instructions[taking];
    let mut info = InstructionInfoFactory::new();
    // The operand means the same lock only while its registers keep their values.
    let mut seen: HashSet<(usize, bool)> = HashSet::new();
    let mut todo = vec![(taking + 1, true)];
    while let Some((i, same)) = todo.pop() {
        let Some(here) = instructions.get(i) else {
            continue;
        };
        if !seen.insert((i, same)) {
            continue;
        }
        // Not known is as good as held.
        let Some(left) = steps_left.checked_sub(1) else {
            held.extend(0..instructions.len());
            return true;
        };
        *steps_left = left;
        held.insert(i);
        if same && releases(here, lock, release) {
            continue;
        }
        let same =
            same && (release == Release::AnyOperand || !changes_operand(here, lock, &mut info));
        let mut next = Vec::new();
        match here.flow_control() {
            FlowControl::Next | FlowControl::Call | FlowControl::IndirectCall => next.push(i + 1),
            flow @ (FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch) => {
                if flow == FlowControl::ConditionalBranch {
                    next.push(i + 1);
                }
                let target = here.near_branch_target();
                match instructions.binary_search_by_key(&target, Instruction::ip) {
                    Ok(target) => next.push(target),
                    Err(_) => left_held = true,
                }
            }
            // Where a jump through a table leads is not followed up: anywhere.
            FlowControl::IndirectBranch => {
                held.extend(0..instructions.len());
                return true;
            }
            FlowControl::Return => left_held = true,
            _ => {}
        }
        todo.extend(next.into_iter().map(|i| (i, same)));
    }
    left_held
}

/// Whether it stores zero where `lock` takes a spinlock, if the operand's registers are unchanged.
fn releases(here: &Instruction, lock: &Instruction, release: Release) -> bool {
    let stores_zero = here.code() == Code::Mov_rm8_imm8
        && here.op0_kind() == OpKind::Memory
        && here.immediate8() == 0;
    let same_place = here.segment_prefix() == lock.segment_prefix()
        && here.memory_base() == lock.memory_base()
        && here.memory_index() == lock.memory_index()
        && here.memory_index_scale() == lock.memory_index_scale()
        // For an operand relative to the instruction pointer this is the address itself.
        && here.memory_displacement64() == lock.memory_displacement64();
    // What lies on the stack is no lock.
    let on_stack = here.memory_base() == Register::RSP;
    stores_zero && (same_place || release == Release::AnyOperand && !on_stack)
}

/// Whether it writes to a register of `lock`'s operand, or calls a function that may.
fn changes_operand(
    here: &Instruction,
    lock: &Instruction,
    info: &mut InstructionInfoFactory,
) -> bool {
    let used = [lock.memory_base(), lock.memory_index()]
        .into_iter()
        .filter(|r| !matches!(r, Register::None | Register::RIP | Register::RSP))
        .map(Register::full_register);
    let calls = matches!(
        here.flow_control(),
        FlowControl::Call | FlowControl::IndirectCall
    );
    let written: Vec<Register> = info
        .info(here)
        .used_registers()
        .iter()
        .filter(|r| {
            !matches!(
                r.access(),
                OpAccess::Read | OpAccess::CondRead | OpAccess::None
            )
        })
        .map(|r| r.register().full_register())
        .collect();
    used.into_iter()
        .any(|r| written.contains(&r) || calls && !KEPT_BY_CALLS.contains(&r))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(code: &[u8]) -> Vec<u64> {
        let found = Spinlocks::read(code, Svma(0x1000));
        (0x1000..0x1000 + code.len() as u64)
            .filter(|at| found.may_be_held_at(Svma(*at), Release::SameOperand))
            .map(|at| at - 0x1000)
            .collect()
    }

    #[test]
    fn between_taking_and_releasing() {
        let code = [
            0xb8, 1, 0, 0, 0, // 0: mov $1,%eax
            0xf0, 0x86, 0x07, // 5: lock xchg %al,(%rdi)
            0x84, 0xc0, // 8: test %al,%al
            0x90, // 10: nop
            0xc6, 0x07, 0x00, // 11: movb $0,(%rdi)
            0xc3, // 14: ret
        ];
        assert_eq!(held(&code), [8, 9, 10, 11, 12, 13]);
    }

    #[test]
    fn every_way_out_is_followed() {
        let code = [
            0xf0, 0x86, 0x03, // 0: lock xchg %al,(%rbx)
            0x84, 0xc0, // 3: test %al,%al
            0x75, 0x05, // 5: jne 12
            0x90, // 7: nop
            0xc6, 0x03, 0x00, // 8: movb $0,(%rbx)
            0xc3, // 11: ret
            0xe8, 0, 0, 0, 0, // 12: call
            0xeb, 0xfe, // 17: jmp 17
            0x90, // 19: nop, never reached
        ];
        let to_the_call = [3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14, 15, 16, 17, 18];
        assert_eq!(held(&code), to_the_call);
    }

    #[test]
    fn another_byte_set_to_zero_is_no_release() {
        let other = [
            0xf0, 0x86, 0x07, // 0: lock xchg %al,(%rdi)
            0xc6, 0x47, 0x01, 0x00, // 3: movb $0,1(%rdi)
            0x90, // 7: nop
        ];
        assert_eq!(held(&other), [3, 4, 5, 6, 7]);
        let moved_on = [
            0xf0, 0x86, 0x07, // 0: lock xchg %al,(%rdi)
            0x48, 0x89, 0xf7, // 3: mov %rsi,%rdi
            0xc6, 0x07, 0x00, // 6: movb $0,(%rdi)
            0x90, // 9: nop
        ];
        assert_eq!(held(&moved_on).last(), Some(&9));
        let found = Spinlocks::read(&moved_on, Svma(0));
        assert!(!found.may_be_held_at(Svma(9), Release::AnyOperand));
    }

    #[test]
    fn a_jump_through_a_table_leads_anywhere() {
        let code = [
            0x90, // 0: nop
            0xf0, 0x86, 0x07, // 1: lock xchg %al,(%rdi)
            0xff, 0xe0, // 4: jmp *%rax
            0xc3, // 6: ret
        ];
        assert_eq!(held(&code), (0..7).collect::<Vec<_>>());
    }

    #[test]
    fn a_lock_may_be_left_to_others() {
        let left = |code: &[u8]| Spinlocks::read(code, Svma(0x1000)).are_left_held();
        let take = [0xf0, 0x86, 0x07]; // lock xchg %al,(%rdi)
        let release = [0xc6, 0x07, 0x00]; // movb $0,(%rdi)
        let on_stack = [0xc6, 0x04, 0x24, 0x00]; // movb $0,(%rsp)
        assert!(left(&[&take[..], &[0xc3]].concat()), "returns");
        assert!(
            left(&[&take[..], &[0x75, 0x70], &release, &[0xc3]].concat()),
            "jumps away"
        );
        assert!(left(&[&take[..], &on_stack, &[0xc3]].concat()));
        assert!(!left(&[&take[..], &release, &[0xc3]].concat()));
        assert!(left(&take.repeat(100)), "too many to follow");
    }

    #[test]
    fn a_flag_whose_old_value_nobody_looks_at_is_no_spinlock() {
        // As in do_autovacuum() of 18.
        let set = [0xf0, 0x86, 0x50, 0x28]; // lock xchg %dl,0x28(%rax)
        let ends: [(&[u8], bool); 9] = [
            (&[0xe8, 0, 0, 0, 0, 0xc3], true), // call, which may change it; ret
            (&[0x31, 0xd2, 0xc3], true),       // xor %edx,%edx; ret
            (&[0xb6, 0x01, 0xe8, 0, 0, 0, 0], true), // mov $1,%dh; call
            (&[0xb6, 0x01, 0x84, 0xd2], false), // mov $1,%dh; test %dl,%dl
            (&[0x84, 0xd2], false),            // test %dl,%dl
            (&[0x75, 0x02, 0x31, 0xd2, 0x0f, 0xb6, 0xd2], false), // jne; xor; movzbl %dl,%edx
            (&[0xff, 0xe1], false),            // jmp *%rcx
            (&[0xc3], false),                  // ret
            (&[0xeb, 0x70], false),            // jmp to elsewhere
        ];
        for (end, is_none) in ends {
            let code = [&set[..], end].concat();
            let found = Spinlocks::read(&code, Svma(0x1000));
            assert_eq!(found.are_none(), is_none, "{end:x?}");
        }
        // A register that calls keep may be looked at after one.
        let kept = [0xf0, 0x86, 0x18, 0xe8, 0, 0, 0, 0, 0x84, 0xdb]; // lock xchg %bl,(%rax); call; test %bl,%bl
        assert!(!Spinlocks::read(&kept, Svma(0x1000)).are_none());
    }

    #[test]
    fn other_exchanges_are_not_spinlocks() {
        let code = [
            0x87, 0x07, // xchg %eax,(%rdi)
            0x86, 0xc4, // xchg %al,%ah
            0xff, 0xff, 0xff, // no instruction
        ];
        assert_eq!(held(&code), [] as [u64; 0]);
    }
}
