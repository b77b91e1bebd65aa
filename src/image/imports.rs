//! By which name code calls a function of another image.
//!
//! A stripped library names its exported functions only. One of these may jump to a static one in place of a call, or be
//! an indirect function (STT_GNU_IFUNC) that stands for one of several static ones; then no symbol names the code that
//! runs. But its caller called it by a name: through a slot of the global offset table, whose relocation has the symbol
//! (System V ABI for AMD64, chapters 4.4 and 5.2).

use iced_x86::{Code, Decoder, DecoderOptions, Instruction};

use super::Svma;
use super::elf::Image;

/// The most of each table that is read. Those of LLVM have 12 MiB.
const LARGEST_TABLE: u64 = 16 << 20;
/// sizeof(Elf64_Rela), sizeof(Elf64_Sym)
const RELOCATION: usize = 24;
const SYMBOL: usize = 24;
/// R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT
const BY_NAME: [u32; 2] = [6, 7];

/// A call of a function of another image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The slot that holds the function's address.
    pub slot: Svma,
    /// The function's name.
    pub name: String,
}

impl Image {
    /// What the call that returns to `to` calls, if that is another image's. Reads the file; never while a backend stands
    /// still.
    pub fn import_called_before(&self, to: Svma) -> Option<Import> {
        let slot = self.slot_called_before(to)?;
        let name = self.name_of_slot(slot)?;
        Some(Import { slot, name })
    }

    /// `call *slot(%rip)`, or `call` of a stub that does `jmp *slot(%rip)`.
    fn slot_called_before(&self, to: Svma) -> Option<Svma> {
        const DIRECT: u64 = 5;
        const INDIRECT: u64 = 6;
        let before = |size: u64| self.instruction_at(Svma(to.0.checked_sub(size)?));
        if let Some(call) = before(INDIRECT).filter(|i| i.code() == Code::Call_rm64)
            && let Some(slot) = slot_of(&call)
        {
            return Some(slot);
        }
        let call = before(DIRECT).filter(|i| i.code() == Code::Call_rel32_64)?;
        let mut stub = Svma(call.near_branch_target());
        let mut jump = self.instruction_at(stub)?;
        if jump.code() == Code::Endbr64 {
            stub = Svma(jump.next_ip());
            jump = self.instruction_at(stub)?;
        }
        (jump.code() == Code::Jmp_rm64).then(|| slot_of(&jump))?
    }

    fn instruction_at(&self, at: Svma) -> Option<Instruction> {
        const LONGEST: u64 = 15;
        let bytes = self.bytes_at(at, LONGEST).ok()?;
        let mut decoder = Decoder::with_ip(64, &bytes, at.0, DecoderOptions::NONE);
        let instruction = decoder.decode();
        (!instruction.is_invalid()).then_some(instruction)
    }

    fn name_of_slot(&self, slot: Svma) -> Option<String> {
        let tables = [".rela.plt", ".rela.dyn"];
        let symbol = tables.into_iter().find_map(|table| {
            let bytes = self.section_up_to(table, LARGEST_TABLE)?;
            let mut relocations = bytes.as_chunks::<RELOCATION>().0.iter();
            relocations.find_map(|r| {
                let word = |i: usize| u32::from_le_bytes([r[i], r[i + 1], r[i + 2], r[i + 3]]);
                let offset = u64::from(word(0)) | u64::from(word(4)) << 32;
                (offset == slot.0 && BY_NAME.contains(&word(8))).then(|| word(12))
            })
        })?;
        let symbols = self.section_up_to(".dynsym", LARGEST_TABLE)?;
        let names = self.section_up_to(".dynstr", LARGEST_TABLE)?;
        let entry = symbols.as_chunks::<SYMBOL>().0.get(symbol as usize)?;
        let at = u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]]);
        let rest = names.get(at as usize..)?;
        let name = &rest[..memchr::memchr(0, rest)?];
        let name = std::str::from_utf8(name).ok()?;
        (!name.is_empty()).then(|| name.to_owned())
    }
}

/// The address of the operand, if that is relative to the program counter.
fn slot_of(instruction: &Instruction) -> Option<Svma> {
    instruction
        .is_ip_rel_memory_operand()
        .then(|| Svma(instruction.ip_rel_memory_address()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Process;

    /// This very program calls the C library all over the place.
    #[test]
    fn calls_are_named_by_their_relocations() {
        let me = Process::open(std::process::id() as i32).unwrap();
        let image = Image::from_file(me.executable().unwrap()).unwrap();
        let code = image.code().unwrap();
        let indirect = |at: &usize| code.bytes[*at..].starts_with(&[0xff, 0x15]);
        let calls = (0..code.bytes.len()).filter(indirect).take(500);
        let named = calls.filter_map(|at| {
            let to = Svma(code.start.0 + at as u64 + 6);
            image.import_called_before(to)
        });
        let mut names = named.map(|import| import.name);
        assert!(names.any(|name| name == "memcpy" || name == "free"));
    }

    #[test]
    fn hostile_places_have_no_name() {
        let me = Process::open(std::process::id() as i32).unwrap();
        let image = Image::from_file(me.executable().unwrap()).unwrap();
        for at in [0, 1, 5, 6, u64::MAX] {
            assert_eq!(image.import_called_before(Svma(at)), None);
        }
    }
}
