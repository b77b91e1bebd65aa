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

use crate::address::Svma;
use crate::arch::Left;

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
    left: Left,
    strictly_left: Left,
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
        let instructions = decode(code, start);
        let (strictly, strictly_left) = held(&instructions, Release::SameOperand);
        let (leniently, left) = held(&instructions, Release::AnyOperand);
        Spinlocks {
            strictly,
            leniently,
            left,
            strictly_left,
        }
    }

    /// Whether the function can be left with a lock held: it returns so, or goes on in a part of its code that the
    /// compiler moved elsewhere. Then others hold it whose own code does not show that.
    pub fn are_left_held(&self) -> bool {
        !self.left.is_none()
    }

    /// What it may leave held, by either way to tell a release ([`Release`]).
    pub fn may_leave(&self) -> Left {
        self.left.and(self.strictly_left)
    }

    /// Whether it takes none.
    pub fn are_none(&self) -> bool {
        self.strictly.is_empty() && self.left.is_none()
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

fn decode(code: &[u8], start: Svma) -> Vec<Instruction> {
    let decoder = Decoder::with_ip(64, code, start.0, DecoderOptions::NONE);
    decoder.into_iter().collect()
}

/// Where the first byte of an instruction may be that takes a lock as tas() spells it, in every version: `lock xchgb`, with
/// a REX prefix or without (src/include/storage/s_lock.h).
pub fn may_take(code: &[u8]) -> Vec<usize> {
    let takes = |at: &usize| {
        let next = |i: usize| code.get(at + i).copied().unwrap_or(0);
        next(1) == 0x86 || (next(1) & 0xf0 == 0x40 && next(2) == 0x86)
    };
    memchr::memchr_iter(0xf0, code).filter(takes).collect()
}

/// What of that which calls leave to a function it may leave to its own caller. `left` has the calls.
pub fn passed_on(code: &[u8], start: Svma, left: &[(Svma, Left)]) -> Left {
    let instructions = decode(code, start);
    let mut steps_left = MOST_STEPS;
    let mut passed_on = Left::default();
    let mut held = BTreeSet::new();
    for (call, left) in left {
        let Ok(call) = instructions.binary_search_by_key(&call.0, Instruction::ip) else {
            // What cannot be followed is passed on.
            return Left {
                anywhere: true,
                ..*left
            };
        };
        let kinds = [
            (left.plain || left.anywhere, Lock::Somewhere),
            (left.header || left.anywhere, Lock::Header),
        ];
        for (_, lock) in kinds.into_iter().filter(|(is_left, _)| *is_left) {
            let further = follow(&instructions, call, lock, &mut held, &mut steps_left);
            passed_on = passed_on.and(further);
        }
    }
    passed_on
}

/// A lock that is followed from where it is taken.
#[derive(Debug, Clone, Copy)]
enum Lock<'i> {
    /// The instruction takes it.
    Taken(&'i Instruction, Release),
    /// A call takes it, at a place that is not known here.
    Somewhere,
    /// A call takes the lock in a buffer's header.
    Header,
}

/// The instructions before which a lock may be held, and whether the function can be left with it.
fn held(instructions: &[Instruction], release: Release) -> (Ranges, Left) {
    /// No function takes more; following each of so many would take for ever.
    const MOST_LOCKS: usize = 64;
    let taking: Vec<usize> = (0..instructions.len())
        .filter(|i| exchanges(&instructions[*i]) && !ignores_result(instructions, *i))
        .collect();
    let mut held = BTreeSet::new();
    let mut left = Left::default();
    if taking.len() > MOST_LOCKS {
        held.extend(0..instructions.len());
        (left.plain, left.anywhere) = (true, true);
    } else {
        let mut steps_left = MOST_STEPS;
        for i in taking {
            let lock = Lock::Taken(&instructions[i], release);
            left = left.and(follow(instructions, i, lock, &mut held, &mut steps_left));
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
    (ranges, left)
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

/// Adds all instructions before which `lock` may be held, which number `taking` takes. Says whether the function can be left
/// with it.
fn follow(
    instructions: &[Instruction],
    taking: usize,
    lock: Lock,
    held: &mut BTreeSet<usize>,
    steps_left: &mut usize,
) -> Left {
    let out = Left {
        plain: !matches!(lock, Lock::Header),
        header: matches!(lock, Lock::Header),
        anywhere: false,
    };
    let anywhere = Left {
        anywhere: true,
        ..out
    };
    let mut left = Left::default();
    let mut info = InstructionInfoFactory::new();
    let mut seen: HashSet<(usize, Tracked)> = HashSet::new();
    let mut todo = vec![(taking + 1, Tracked::default())];
    while let Some((i, tracked)) = todo.pop() {
        let Some(here) = instructions.get(i) else {
            continue;
        };
        if !seen.insert((i, tracked)) {
            continue;
        }
        // Not known is as good as held.
        let Some(steps) = steps_left.checked_sub(1) else {
            held.extend(0..instructions.len());
            return anywhere;
        };
        *steps_left = steps;
        held.insert(i);
        if releases(here, lock, tracked) {
            continue;
        }
        let tracked = tracked.after(here, lock, &mut info);
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
                    Err(_) => left = left.and(out),
                }
            }
            // Through a slot: to another function.
            FlowControl::IndirectBranch if here.is_ip_rel_memory_operand() => left = left.and(out),
            // Where a jump through a table leads is not followed up: anywhere.
            FlowControl::IndirectBranch => {
                held.extend(0..instructions.len());
                return anywhere;
            }
            FlowControl::Return => left = left.and(out),
            _ => {}
        }
        todo.extend(next.into_iter().map(|i| (i, tracked)));
    }
    left
}

/// What is known of registers while a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Tracked {
    /// A register of the lock's operand was changed: the operand does not mean the lock any more.
    moved: bool,
    /// The register that has the state of a buffer's header, without the lock.
    unlocked: Option<Register>,
}

/// A buffer's state without BM_LOCKED (src/include/storage/buf_internals.h, 9.6 to 18).
const WITHOUT_BM_LOCKED: u32 = !(1 << 22);

impl Tracked {
    fn after(self, here: &Instruction, lock: Lock, info: &mut InstructionInfoFactory) -> Self {
        match lock {
            Lock::Taken(lock, Release::SameOperand) => Tracked {
                moved: self.moved || changes_operand(here, lock, info),
                ..self
            },
            Lock::Taken(_, Release::AnyOperand) | Lock::Somewhere => self,
            Lock::Header => {
                let masks = matches!(here.code(), Code::And_rm32_imm32 | Code::And_EAX_imm32)
                    && here.op0_kind() == OpKind::Register
                    && here.immediate32() == WITHOUT_BM_LOCKED;
                let keeps = |r: &Register| {
                    !(writes(here, *r, info) || calls(here) && !KEPT_BY_CALLS.contains(r))
                };
                let unlocked = match masks {
                    true => Some(here.op0_register().full_register()),
                    false => self.unlocked.filter(keeps),
                };
                Tracked { unlocked, ..self }
            }
        }
    }
}

/// Whether it releases `lock`.
fn releases(here: &Instruction, lock: Lock, tracked: Tracked) -> bool {
    // What lies on the stack is no lock.
    let on_stack = here.memory_base() == Register::RSP;
    match lock {
        Lock::Taken(lock, release) => {
            stores_zero(here)
                && (!tracked.moved && is_same_place(here, lock)
                    || release == Release::AnyOperand && !on_stack)
        }
        Lock::Somewhere => stores_zero(here) && !on_stack,
        // UnlockBufHdr() stores the state without BM_LOCKED.
        Lock::Header => {
            here.code() == Code::Mov_rm32_r32
                && here.op0_kind() == OpKind::Memory
                && !on_stack
                && tracked.unlocked == Some(here.op1_register().full_register())
        }
    }
}

/// Whether it stores zero in a byte of memory, as SpinLockRelease() does.
fn stores_zero(here: &Instruction) -> bool {
    here.code() == Code::Mov_rm8_imm8 && here.op0_kind() == OpKind::Memory && here.immediate8() == 0
}

/// Whether its operand is where `lock` takes a spinlock, if the operand's registers are unchanged.
fn is_same_place(here: &Instruction, lock: &Instruction) -> bool {
    here.segment_prefix() == lock.segment_prefix()
        && here.memory_base() == lock.memory_base()
        && here.memory_index() == lock.memory_index()
        && here.memory_index_scale() == lock.memory_index_scale()
        // For an operand relative to the instruction pointer this is the address itself.
        && here.memory_displacement64() == lock.memory_displacement64()
}

fn calls(here: &Instruction) -> bool {
    matches!(
        here.flow_control(),
        FlowControl::Call | FlowControl::IndirectCall
    )
}

/// Whether it may write to any part of a register.
fn writes(here: &Instruction, register: Register, info: &mut InstructionInfoFactory) -> bool {
    let mut used = info.info(here).used_registers().iter();
    used.any(|r| {
        r.register().full_register() == register
            && !matches!(
                r.access(),
                OpAccess::Read | OpAccess::CondRead | OpAccess::None
            )
    })
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
    used.into_iter()
        .any(|r| writes(here, r, info) || calls(here) && !KEPT_BY_CALLS.contains(&r))
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

    #[test]
    fn what_a_call_leaves_is_passed_on_or_released() {
        let plain = Left {
            plain: true,
            ..Left::default()
        };
        let header = Left {
            header: true,
            ..Left::default()
        };
        let call = [0xe8, 0, 0, 0, 0];
        let passed = |left: Left, rest: &[u8]| {
            let code = [&call[..], rest].concat();
            passed_on(&code, Svma(0x1000), &[(Svma(0x1000), left)])
        };
        let release = [0xc6, 0x03, 0x00]; // movb $0,(%rbx)
        assert_eq!(passed(plain, &[0xc3]), plain);
        assert_eq!(
            passed(plain, &[&release[..], &[0xc3]].concat()),
            Left::default()
        );
        assert_eq!(passed(plain, &[0xeb, 0x70]), plain, "jumps away");
        let on_stack = [0xc6, 0x04, 0x24, 0x00, 0xc3]; // movb $0,(%rsp); ret
        assert_eq!(passed(plain, &on_stack), plain);
        let anywhere = passed(plain, &[0xff, 0xe0]); // jmp *%rax
        assert!(anywhere.anywhere && anywhere.plain);
        // UnlockBufHdr(), as in pg_buffercache of 15.
        let mask = [0x25, 0xff, 0xff, 0xbf, 0xff]; // and $0xffbfffff,%eax
        let store = [0x41, 0x89, 0x44, 0x24, 0x18]; // mov %eax,0x18(%r12)
        assert_eq!(passed(header, &[0xc3]), header);
        assert_eq!(passed(header, &[&release[..], &[0xc3]].concat()), header);
        let unlock = [&mask[..], &store, &[0xc3]].concat();
        assert_eq!(passed(header, &unlock), Left::default());
        assert_eq!(passed(plain, &unlock), plain);
        let changed = [&mask[..], &[0xff, 0xc0], &store, &[0xc3]].concat(); // inc %eax
        assert_eq!(passed(header, &changed), header);
        let called = [&mask[..], &call, &store, &[0xc3]].concat();
        assert_eq!(passed(header, &called), header);
        let other_bit = [&[0x25, 0xff, 0xff, 0x7f, 0xff], &store[..], &[0xc3]].concat();
        assert_eq!(passed(header, &other_bit), header);
        // Where no instruction starts.
        let lost = passed_on(&call, Svma(0x1000), &[(Svma(0x1001), plain)]);
        assert!(lost.anywhere);
    }

    #[test]
    fn what_may_be_left_is_told_strictly_too() {
        let code = [
            0xf0, 0x86, 0x07, // lock xchg %al,(%rdi)
            0xc6, 0x47, 0x01, 0x00, // movb $0,1(%rdi)
            0xc3, // ret
        ];
        let found = Spinlocks::read(&code, Svma(0x1000));
        assert!(!found.are_left_held());
        assert!(found.may_leave().plain);
    }
}
