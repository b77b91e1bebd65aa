//! What a call passes, where the code has that from nowhere but its own instructions.

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, OpAccess,
    OpKind, Register,
};

use crate::address::Svma;

/// Where the first integer arguments are passed (System V ABI for AMD64, figure 3.4).
const REGISTERS: [Register; 4] = [Register::RDI, Register::RSI, Register::RDX, Register::RCX];

/// The constants among the first four arguments of the call that returns to `returns_to`, in the function with this `code`
/// at `start`. Only what is set on the only way to the call: no jump of `all_code`, at `all_start`, comes in between.
pub fn constants(
    code: &[u8],
    start: Svma,
    returns_to: Svma,
    all_code: &[u8],
    all_start: Svma,
) -> Option<[Option<u64>; 4]> {
    /// How far the instructions that pass arguments lie before the call.
    const LONGEST: usize = 16;
    let decoder = Decoder::with_ip(64, code, start.0, DecoderOptions::NONE);
    let all: Vec<Instruction> = decoder.into_iter().collect();
    let call = all.iter().position(|i| i.next_ip() == returns_to.0)?;
    if all[call].flow_control() != FlowControl::Call {
        return None;
    }
    // Where a jump through a table leads is not known.
    let jumps_anywhere = |i: &Instruction| {
        i.flow_control() == FlowControl::IndirectBranch && !i.is_ip_rel_memory_operand()
    };
    if all.iter().any(|i| i.is_invalid() || jumps_anywhere(i)) {
        return None;
    }
    let is_straight = |i: &Instruction| i.flow_control() == FlowControl::Next;
    let before = all[..call].iter().rev().take(LONGEST);
    let straight = before.take_while(|i| is_straight(i)).count();
    let lies_in = |target: u64, from: usize| all[from].ip() < target && target <= all[call].ip();
    let own = all.iter().filter(|i| is_branch(i));
    let own: Vec<u64> = own.map(Instruction::near_branch_target).collect();
    let others = far_branches(all_code, all_start, all[call - straight].ip()..returns_to.0);
    let entered = |from: usize| own.iter().chain(&others).any(|to| lies_in(*to, from));

    let mut info = InstructionInfoFactory::new();
    let found = REGISTERS.map(|register| {
        let set = (call - straight..call)
            .rev()
            .find(|i| writes(&all[*i], register, &mut info))?;
        constant(&all[set]).filter(|_| !entered(set))
    });
    Some(found)
}

fn is_branch(i: &Instruction) -> bool {
    matches!(
        i.flow_control(),
        FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
    )
}

/// Where in `range` anything in `code` may jump to with a displacement of four bytes, from wherever an instruction may end.
fn far_branches(code: &[u8], start: Svma, range: std::ops::Range<u64>) -> Vec<u64> {
    let windows = code.windows(5).enumerate();
    windows
        .filter_map(|(at, bytes)| {
            let word = i32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
            let target = (start.0.wrapping_add(at as u64 + 5)).wrapping_add_signed(word.into());
            let jumps = matches!(bytes[0], 0xe9 | 0x80..=0x8f);
            (jumps && range.contains(&target)).then_some(target)
        })
        .collect()
}

/// Whether it may write to a register.
fn writes(i: &Instruction, register: Register, info: &mut InstructionInfoFactory) -> bool {
    let mut used = info.info(i).used_registers().iter();
    used.any(|r| {
        r.register().full_register() == register
            && !matches!(
                r.access(),
                OpAccess::Read | OpAccess::CondRead | OpAccess::None
            )
    })
}

/// What it sets its register to.
fn constant(i: &Instruction) -> Option<u64> {
    match i.code() {
        Code::Mov_r32_imm32 => Some(i.immediate32().into()),
        Code::Mov_r64_imm64 => Some(i.immediate64()),
        Code::Mov_rm64_imm32 if i.op0_kind() == OpKind::Register => {
            Some(i.immediate32to64() as u64)
        }
        Code::Lea_r64_m if i.is_ip_rel_memory_operand() => Some(i.ip_rel_memory_address()),
        Code::Xor_r32_rm32 | Code::Xor_rm32_r32
            if i.op1_kind() == OpKind::Register && i.op0_register() == i.op1_register() =>
        {
            Some(0)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As SpinLockAcquire() calls s_lock().
    const CALL: [u8; 29] = [
        0x90, // 0: nop
        0x48, 0x8d, 0x0d, 0x00, 0x01, 0, 0, // 1: lea 0x100(%rip),%rcx
        0xba, 0x44, 0x03, 0, 0, // 8: mov $836,%edx
        0x48, 0x8d, 0x35, 0x00, 0x02, 0, 0, // 13: lea 0x200(%rip),%rsi
        0x48, 0x89, 0xdf, // 20: mov %rbx,%rdi
        0xe8, 0, 0, 0, 0,    // 23: call
        0xc3, // 28: ret
    ];

    fn read(code: &[u8], returns_to: u64) -> Option<[Option<u64>; 4]> {
        let start = Svma(0x1000);
        constants(code, start, Svma(0x1000 + returns_to), code, start)
    }

    #[test]
    fn what_stands_in_the_code() {
        let expected = [None, Some(0x1214), Some(836), Some(0x1108)];
        assert_eq!(read(&CALL, 28), Some(expected));
        assert_eq!(read(&CALL, 27), None, "no call ends there");
        assert_eq!(read(&CALL[..23], 23), None, "that is no call");
    }

    #[test]
    fn not_what_another_way_may_have_set() {
        // A jump to the second lea: line and function may be others.
        let inside = [&CALL[..], &[0xeb, 0xee]].concat(); // 29: jmp 13
        assert_eq!(read(&inside, 28), Some([None, Some(0x1214), None, None]));
        let from_elsewhere = [&CALL[..], &[0xe9, 0xeb, 0xff, 0xff, 0xff]].concat(); // 29: jmp 13
        let found = constants(
            &CALL,
            Svma(0x1000),
            Svma(0x101c),
            &from_elsewhere,
            Svma(0x1000),
        );
        assert_eq!(found, Some([None, Some(0x1214), None, None]));
        let table = [&CALL[..], &[0xff, 0xe0]].concat(); // jmp *%rax
        assert_eq!(read(&table, 28), None);
        // Only what comes right before.
        let mut called = CALL;
        called[8..13].copy_from_slice(&[0xe8, 0, 0, 0, 0]);
        assert_eq!(read(&called, 28), Some([None, Some(0x1214), None, None]));
    }
}
