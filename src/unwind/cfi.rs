//! One step up the stack by call-frame information.

use std::cell::Cell;

use gimli::{
    CfaRule, EhFrame, EndianSlice, EvaluationResult, LittleEndian, RegisterRule, Section,
    UnwindContext, UnwindExpression, Value,
};

use super::Registers;
use crate::address::Avma;
use crate::image::{AddressSpace, CallFrameEntry, Module};
use crate::memory::Memory;

/// Why there is no step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CfiError {
    /// No call-frame information covers the address.
    NoUnwindInfo,
    /// The image was not loaded yet.
    ImageNotLoaded,
    /// It makes no sense, or is of a kind that is not understood.
    Bad,
    /// The memory that it points to cannot be read.
    Unreadable,
    /// There is more of it than is worked through for one stack.
    TooMuch,
}

impl From<gimli::Error> for CfiError {
    fn from(e: gimli::Error) -> Self {
        match e {
            gimli::Error::NoUnwindInfoForAddress => CfiError::NoUnwindInfo,
            _ => CfiError::Bad,
        }
    }
}

/// What call-frame information says of one frame.
pub(super) struct Step {
    pub cfa: Avma,
    pub signal_frame: bool,
    pub has_cleanup: bool,
    /// Its first address, and its size in bytes.
    pub function: (Avma, u64),
    /// The caller's registers; none at the root.
    pub caller: Option<Registers>,
}

/// More operations than any real expression has: the longest known, of procedure linkage tables, has eleven.
const MOST_OPERATIONS: u32 = 100;

/// The most bytes of call-frame information that are run through for one stack: some tenths of a second. A frame of
/// real code takes a hundred.
const MOST_WORK: usize = 4 << 20;

/// What one expression counts for, in bytes of call-frame information.
const WORK_OF_EXPRESSION: usize = 10 * MOST_OPERATIONS as usize;

/// What one DW_CFA_remember_state or DW_CFA_restore_state counts for, likewise: each copies a whole row of rules, some
/// kilobytes. That was measured to take 0.1 µs, and at times ten times as long.
const WORK_OF_COPY: usize = 10;

type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// Steps up one frame at a time, keeping gimli's buffers between steps.
pub(super) struct Unwinder {
    context: UnwindContext<usize>,
    work_left: Cell<usize>,
}

impl Default for Unwinder {
    fn default() -> Self {
        Unwinder {
            context: UnwindContext::default(),
            work_left: Cell::new(MOST_WORK),
        }
    }
}

/// Takes some of the work that is left.
fn work(left: &Cell<usize>, amount: usize) -> Result<(), CfiError> {
    left.set(left.get().checked_sub(amount).ok_or(CfiError::TooMuch)?);
    Ok(())
}

/// How many bytes of an entry may be an instruction that copies a row: DW_CFA_remember_state is 0x0a,
/// DW_CFA_restore_state 0x0b (DWARF 5, section 7.24).
fn copies_in(section: &EhFrame<Bytes<'_>>, offset: usize, len: usize) -> usize {
    let all = section.reader().slice();
    let from = offset.min(all.len());
    let entry = &all[from..from.saturating_add(len).min(all.len())];
    memchr::memchr2_iter(0x0a, 0x0b, entry).count()
}

impl Unwinder {
    /// Finds the caller of the code at `at`, which runs with the registers `here`, and which may stand at `exact`ly that
    /// instruction: else it has called another function.
    pub fn step(
        &mut self,
        at: Avma,
        exact: bool,
        here: &Registers,
        memory: &dyn Memory,
        space: &AddressSpace,
    ) -> Result<Step, CfiError> {
        let Some(module) = space.loaded_at(at) else {
            return Err(if space.tried_at(at) {
                CfiError::NoUnwindInfo
            } else {
                CfiError::ImageNotLoaded
            });
        };
        let svma = module.to_svma(at);
        work(&self.work_left, module.image.work_of_lookup())?;
        let CallFrameEntry {
            section,
            bases,
            fde,
        } = module.image.call_frame_entry(svma)?;

        let encoding = fde.cie().encoding();
        let entries = [
            (fde.offset(), fde.entry_len()),
            (fde.cie().offset(), fde.cie().entry_len()),
        ];
        for (offset, len) in entries {
            work(&self.work_left, len)?;
            work(
                &self.work_left,
                WORK_OF_COPY * copies_in(&section, offset, len),
            )?;
        }
        let row = fde.unwind_info_for_address(&section, &bases, &mut self.context, svma.0)?;
        let expressions = Expressions {
            section: &section,
            encoding,
            here,
            memory,
            module: &module,
            work_left: &self.work_left,
        };
        let cfa = match row.cfa() {
            CfaRule::RegisterAndOffset { register, offset } => here
                .get(register.0)
                .ok_or(CfiError::Bad)?
                .wrapping_add_signed(*offset),
            CfaRule::Expression(expression) => expressions.evaluate(expression, None)?,
        };

        let mut caller = *here;
        // Registers that the callee need not keep are not the caller's any more, unless a rule says so.
        let numbers = here.of;
        for volatile in numbers.volatile {
            caller.doubt(*volatile);
        }
        caller.set(numbers.sp, cfa);
        if !numbers.leaf {
            caller.forget(numbers.return_address);
        }
        for (register, rule) in row.registers() {
            let at_address = |address: u64| {
                memory
                    .read_u64(Avma(address))
                    .map_err(|_| CfiError::Unreadable)
            };
            let value = match rule {
                RegisterRule::Undefined => None,
                RegisterRule::SameValue => here.get(register.0),
                RegisterRule::Offset(offset) => Some(at_address(cfa.wrapping_add_signed(*offset))?),
                RegisterRule::ValOffset(offset) => Some(cfa.wrapping_add_signed(*offset)),
                RegisterRule::Register(other) => here.get(other.0),
                RegisterRule::Expression(e) => {
                    Some(at_address(expressions.evaluate(e, Some(cfa))?)?)
                }
                RegisterRule::ValExpression(e) => Some(expressions.evaluate(e, Some(cfa))?),
                RegisterRule::Constant(value) => Some(*value),
                RegisterRule::Architectural => return Err(CfiError::Bad),
            };
            match value {
                Some(value) => caller.set(register.0, value),
                None => caller.forget(register.0),
            }
        }

        // The root is where the rules say that there is no return address (`.cfi_undefined rip` in _start
        // and clone). A return address of zero is what older libraries put there instead.
        let return_address = caller.get(numbers.return_address);
        let root = match row.register(gimli::Register(numbers.return_address)) {
            Some(RegisterRule::Undefined) => true,
            // The call that it made has overwritten what such a register had.
            None if !(numbers.leaf && exact) => return Err(CfiError::Bad),
            Some(_) | None => return_address == Some(0),
        };
        if numbers.pc != numbers.return_address {
            match return_address {
                Some(at) => caller.set(numbers.pc, at),
                None => caller.forget(numbers.pc),
            }
        }
        Ok(Step {
            cfa: Avma(cfa),
            signal_frame: fde.is_signal_trampoline(),
            has_cleanup: fde.lsda().is_some_and(|p| p.pointer() != 0),
            function: (
                module
                    .bias
                    .to_avma(crate::address::Svma(fde.initial_address())),
                fde.len(),
            ),
            caller: (!root).then_some(caller),
        })
    }
}

/// Evaluates the DWARF expressions of one frame.
struct Expressions<'a> {
    section: &'a EhFrame<Bytes<'a>>,
    encoding: gimli::Encoding,
    here: &'a Registers,
    memory: &'a dyn Memory,
    module: &'a Module,
    work_left: &'a Cell<usize>,
}

impl Expressions<'_> {
    fn evaluate(
        &self,
        expression: &UnwindExpression<usize>,
        initial: Option<u64>,
    ) -> Result<u64, CfiError> {
        work(self.work_left, WORK_OF_EXPRESSION)?;
        let mut evaluation = expression.get(self.section)?.evaluation(self.encoding);
        evaluation.set_max_iterations(MOST_OPERATIONS);
        if let Some(value) = initial {
            evaluation.set_initial_value(value);
        }
        let mut state = evaluation.evaluate()?;
        loop {
            state = match state {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresRegister { register, .. } => {
                    let value = self.here.get(register.0).ok_or(CfiError::Bad)?;
                    evaluation.resume_with_register(Value::Generic(value))?
                }
                EvaluationResult::RequiresMemory { address, size, .. } => {
                    let mut bytes = [0; 8];
                    let wanted = bytes.get_mut(..usize::from(size)).ok_or(CfiError::Bad)?;
                    self.memory
                        .read(Avma(address), wanted)
                        .map_err(|_| CfiError::Unreadable)?;
                    evaluation.resume_with_memory(Value::Generic(u64::from_le_bytes(bytes)))?
                }
                EvaluationResult::RequiresRelocatedAddress(address) => {
                    let actual = self.module.bias.to_avma(crate::address::Svma(address));
                    evaluation.resume_with_relocated_address(actual.0)?
                }
                _ => return Err(CfiError::Bad),
            };
        }
        match evaluation.as_result() {
            [
                gimli::Piece {
                    location: gimli::Location::Address { address },
                    ..
                },
            ] => Ok(*address),
            [
                gimli::Piece {
                    location: gimli::Location::Value { value },
                    ..
                },
            ] => Ok(value.to_u64(!0)?),
            _ => Err(CfiError::Bad),
        }
    }
}
