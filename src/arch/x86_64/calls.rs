//! x86-64: who calls whom: calls through the global offset table, and references to a function.

use std::collections::{BTreeMap, BTreeSet};

use iced_x86::{Code, Decoder, DecoderOptions, Instruction};

use crate::address::Svma;
use crate::arch::{References, StubStart};

/// R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT (System V ABI for AMD64, table 4.9).
pub const RELOCATIONS_BY_NAME: [u32; 2] = [6, 7];

/// The most references to one function that are noted; more are no function's.
const MOST_SITES: usize = 50_000;

/// `call *slot(%rip)`, or `call` of a stub that does `jmp *slot(%rip)`.
pub fn slot_called_before(to: Svma, code: &dyn Fn(Svma, u64) -> Option<Vec<u8>>) -> Option<Svma> {
    const DIRECT: u64 = 5;
    const INDIRECT: u64 = 6;
    const LONGEST: u64 = 15;
    let instruction_at = |at: Svma| {
        let bytes = code(at, LONGEST)?;
        let mut decoder = Decoder::with_ip(64, &bytes, at.0, DecoderOptions::NONE);
        let instruction = decoder.decode();
        (!instruction.is_invalid()).then_some(instruction)
    };
    let before = |size: u64| instruction_at(Svma(to.0.checked_sub(size)?));
    if let Some(call) = before(INDIRECT).filter(|i| i.code() == Code::Call_rm64)
        && let Some(slot) = slot_of(&call)
    {
        return Some(slot);
    }
    let call = before(DIRECT).filter(|i| i.code() == Code::Call_rel32_64)?;
    let mut stub = Svma(call.near_branch_target());
    let mut jump = instruction_at(stub)?;
    if jump.code() == Code::Endbr64 {
        stub = Svma(jump.next_ip());
        jump = instruction_at(stub)?;
    }
    (jump.code() == Code::Jmp_rm64).then(|| slot_of(&jump))?
}

/// Where a stub starts that does `jmp *slot(%rip)`, after an `endbr64` or not.
pub fn stubs(code: &[u8], start: Svma) -> Vec<StubStart> {
    let mut decoder = Decoder::with_ip(64, code, start.0, DecoderOptions::NONE);
    let mut marked = None;
    let mut found = Vec::new();
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if instruction.code() == Code::Jmp_rm64
            && let Some(slot) = slot_of(&instruction)
        {
            let at = Svma(marked.unwrap_or(instruction.ip()));
            found.push(StubStart { at, slot });
        }
        marked = (instruction.code() == Code::Endbr64).then_some(instruction.ip());
    }
    found
}

/// The address of the operand, if that is relative to the program counter.
fn slot_of(instruction: &Instruction) -> Option<Svma> {
    instruction
        .is_ip_rel_memory_operand()
        .then(|| Svma(instruction.ip_rel_memory_address()))
}

/// See [`references`](crate::arch::MachineCode::references). Code refers to code by 32-bit displacements, and by absolute
/// addresses where it is not position-independent. All positions are looked at, not only those where an instruction is
/// known to start: what looks like a reference and is none only makes the answer vaguer.
pub fn references(
    code: &[u8],
    start: Svma,
    functions: &BTreeSet<u64>,
    absolute: bool,
) -> Option<BTreeMap<u64, References>> {
    let (first, last) = (*functions.first()?, *functions.last()?);
    let none = |f: &u64| (*f, References::default());
    let mut found: BTreeMap<u64, References> = functions.iter().map(none).collect();
    for (at, word) in code.windows(4).enumerate() {
        let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        let site = start.0.wrapping_add(at as u64);
        let target = site
            .wrapping_add(4)
            .wrapping_add_signed((word as i32).into());
        // Nothing refers to what comes right after it; zeros there are padding.
        if word != 0
            && (first..=last).contains(&target)
            && let Some(references) = found.get_mut(&target)
        {
            match is_branch(&code[..at]) {
                true if references.sites.len() == MOST_SITES => references.incomplete = true,
                true => references.sites.push(site),
                false => references.taken = true,
            }
        }
        if absolute && let Some(references) = found.get_mut(&u64::from(word)) {
            references.taken = true;
        }
    }
    for (target, references) in &mut found {
        references.sites.extend(short_jumps(code, start, *target));
    }
    Some(found)
}

/// Where a jump with a displacement of one byte to `target` may be: `eb`, `70` to `7f` (Intel SDM, volume 2).
fn short_jumps(code: &[u8], start: Svma, target: u64) -> Vec<u64> {
    let from = target.saturating_sub(2 + 127).max(start.0);
    let jumps = |at: u64| {
        let into = usize::try_from(at - start.0).ok()?;
        let (&opcode, &displacement) = (code.get(into)?, code.get(into + 1)?);
        let lands = (at + 2).wrapping_add_signed((displacement as i8).into()) == target;
        (matches!(opcode, 0xeb | 0x70..=0x7f) && lands).then_some(at)
    };
    (from..target.saturating_add(127))
        .filter_map(jumps)
        .collect()
}

/// Whether the displacement that follows these bytes is a call's or a jump's: `e8`, `e9`, `0f 80` to `0f 8f` (Intel SDM,
/// volume 2). The one of a `lea` follows a ModRM byte, which none of these can be.
fn is_branch(before: &[u8]) -> bool {
    matches!(before, [.., 0xe8 | 0xe9] | [.., 0x0f, 0x80..=0x8f])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_shapes_of_a_stub() {
        // objdump -d -j .plt, -j .plt.sec: with and without -fcf-protection.
        let lazy = [
            0xff, 0x25, 0x02, 0, 0, 0, 0x68, 0, 0, 0, 0, 0xe9, 0xe0, 0xff, 0xff, 0xff,
        ];
        let marked = [
            0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25, 0x02, 0, 0, 0, 0x66, 0x0f, 0x1f, 0x44, 0, 0,
        ];
        let found = stubs(&[lazy, marked].concat(), Svma(0x1000));
        let starts: Vec<_> = found.iter().map(|s| (s.at.0, s.slot.0)).collect();
        assert_eq!(starts, [(0x1000, 0x1008), (0x1010, 0x101c)]);
        assert!(stubs(&[0xff; 64], Svma(0)).is_empty());
    }

    #[test]
    fn short_jumps_are_found_in_both_directions() {
        let mut bytes = vec![0x90; 300];
        bytes[10..12].copy_from_slice(&[0xeb, 0x64]); // to 112
        bytes[200..202].copy_from_slice(&[0x74, 0xa6]); // to 112
        let jumps = |target| short_jumps(&bytes, Svma(0x1000), target);
        assert_eq!(jumps(0x1000 + 112), [0x1000 + 10, 0x1000 + 200]);
        assert_eq!(jumps(0x1000 + 113), [] as [u64; 0]);
    }

    #[test]
    fn calls_and_jumps_are_told_from_other_references() {
        assert!(is_branch(&[0x90, 0xe8]));
        assert!(is_branch(&[0xe9]));
        assert!(is_branch(&[0x0f, 0x84]));
        assert!(!is_branch(&[0x48, 0x8d, 0x3d]), "lea to %rdi");
        assert!(!is_branch(&[]));
    }
}
