//! Where a variable is, and what is there: DWARF expressions and lists of locations (DWARF 5, chapter 2.5 and 2.6), call
//! sites and the values that parameters had on entry (chapter 3.4).

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::rc::Rc;

use gimli::{AttributeValue, EvaluationResult, Operation};

use super::content::{Content, State};
use super::dies::{Attribute, Die, Dies, Entry, Expression, Home};
use super::types::Types;
use super::{MOST_BYTES, Sight};
use crate::address::{Avma, Svma};
use crate::image::{Module, Reader};
use crate::memory::Memory as _;
use crate::unwind::{RawFrame, Registers};

/// The most operations of one expression. The longest of compilers have some hundred.
const MOST_OPERATIONS: u32 = 500;
/// What one expression counts for, in entries; and what it reads from memory.
const WORK_OF_EXPRESSION: usize = 100;
const WORK_OF_READ: usize = 5;
/// So many bytes of a value count for one entry.
const BYTES: usize = 64;
/// How many callers an expression may ask for what they passed, one after the other.
const MOST_CALLERS: usize = 8;
/// The most functions that are looked through for one that calls itself by jumps.
const MOST_JUMPED_TO: usize = 300;

/// Why there is no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// The compiler did away with it, or what it was in was overwritten since.
    OptimizedOut,
    /// It may be there, and cannot be had.
    Unavailable(&'static str),
}

impl From<gimli::Error> for Missing {
    fn from(_: gimli::Error) -> Self {
        Missing::Unavailable("its location makes no sense")
    }
}

/// Out of work.
const TOO_MUCH: Missing = Missing::Unavailable("there is too much debug information to look it up");

/// Where a part of it is, and how many bytes it has; 0 for all of it.
type Piece = gimli::Piece<Reader>;

/// A frame, with what is needed to find variables in it.
pub struct Frame<'s> {
    pub raw: RawFrame,
    pub registers: Registers,
    /// None where its image has no debug information.
    pub code: Option<Code<'s>>,
}

/// The code of a frame.
pub struct Code<'s> {
    pub module: Rc<Module>,
    pub dies: Rc<Dies<'s>>,
    pub types: Rc<Types<'s>>,
    /// The function that has the frame.
    pub function: Die,
    /// An address within the instruction that it stands at.
    pub at: Svma,
}

/// Finds functions of the process, in whatever image they are.
pub trait Functions<'s> {
    /// The function at an address, with the entries that it is one of.
    fn function_at(&self, at: Avma) -> Option<(Rc<Module>, Rc<Dies<'s>>, Die)>;
    /// Where a function of that name starts, seen from `module`.
    fn function_named(&self, name: &str, module: &Rc<Module>) -> Option<Avma>;
    /// The function or variable at an address, and how far in it.
    fn symbol_at(&self, at: Avma) -> Option<String>;
}

/// Where an expression is evaluated.
#[derive(Clone, Copy)]
struct At {
    /// The number of the frame.
    frame: usize,
    /// How many callers were asked on the way.
    callers: usize,
    /// The compiler says that it holds after the call that the frame is in the middle of, too: then also registers that
    /// functions need not keep were kept. GCC knows that of functions that it has seen the code of (-fipa-ra).
    lasts: bool,
}

impl At {
    fn frame(frame: usize) -> Self {
        At {
            frame,
            callers: 0,
            lasts: false,
        }
    }

    /// Its caller, at the call.
    fn caller(self) -> Self {
        At {
            frame: self.frame + 1,
            callers: self.callers + 1,
            lasts: false,
        }
    }
}

/// The values of a stack.
pub struct Evaluator<'s> {
    pub frames: &'s [Frame<'s>],
    pub sight: &'s Sight<'s>,
    pub functions: &'s dyn Functions<'s>,
    pub work: &'s super::dies::Work,
    pub memo: Memo,
}

/// What was found out before.
#[derive(Default)]
pub struct Memo {
    /// Whether a function may come to itself by jumps.
    calls_itself: RefCell<HashMap<Avma, bool>>,
    /// By the number of a frame: the call that entered it.
    entered_by: RefCell<HashMap<usize, Option<Die>>>,
}

impl<'s> Evaluator<'s> {
    /// What the variable of `entry` in the frame of this number holds: `size` bytes.
    pub fn content(
        &self,
        frame: usize,
        die: &Die,
        entry: &Entry,
        size: u64,
    ) -> Result<Content, Missing> {
        let code = self.code(frame)?;
        let dies = &code.dies;
        if let Some((_, value)) = dies.attribute(&die.home, entry, gimli::DW_AT_const_value) {
            return self.constant(entry, value, size);
        }
        let Some((home, location)) = dies.attribute(&die.home, entry, gimli::DW_AT_location) else {
            return Err(Missing::OptimizedOut);
        };
        let (expression, lasts) = self.expression_at(code, &home, location, code.at)?;
        let at = At {
            lasts,
            ..At::frame(frame)
        };
        let pieces = self.evaluate(at, &home, expression)?;
        self.gather(at, pieces, size)
    }

    /// What the parameter of `entry` held when the function of this frame was entered, as far as the caller tells.
    pub fn content_at_entry(
        &self,
        frame: usize,
        die: &Die,
        entry: &Entry,
        size: u64,
    ) -> Option<Content> {
        let code = self.code(frame).ok()?;
        let (home, location) = code
            .dies
            .attribute(&die.home, entry, gimli::DW_AT_location)?;
        let function = code.dies.entry(&code.function)?;
        let start = code.dies.entry_point(&code.function.home, &function)?;
        let (expression, _) = self.expression_at(code, &home, location, start).ok()?;
        let place = Passed::of(&expression, home.unit.encoding())?;
        let at = At::frame(frame);
        let pieces = self.passed(at, place).ok()?;
        self.gather(at.caller(), pieces, size).ok()
    }

    fn code(&self, frame: usize) -> Result<&Code<'s>, Missing> {
        let frame = self.frames.get(frame);
        let code = frame.and_then(|frame| frame.code.as_ref());
        code.ok_or(Missing::Unavailable("no debug information"))
    }

    fn constant(&self, entry: &Entry, value: Attribute, size: u64) -> Result<Content, Missing> {
        let own = entry.attr_value_raw(gimli::DW_AT_const_value);
        // How large it is written tells where its sign is.
        let number = match own.unwrap_or_else(|| value.clone()) {
            AttributeValue::Data1(n) => Some(i128::from(n as i8)),
            AttributeValue::Data2(n) => Some(i128::from(n as i16)),
            AttributeValue::Data4(n) => Some(i128::from(n as i32)),
            AttributeValue::Data8(n) => Some(i128::from(n as i64)),
            AttributeValue::Data16(n) => Some(n as i128),
            AttributeValue::Sdata(n) => Some(i128::from(n)),
            AttributeValue::Udata(n) => Some(i128::from(n)),
            _ => None,
        };
        let bytes = match (number, value) {
            (Some(number), _) => number.to_le_bytes().to_vec(),
            (None, AttributeValue::Block(bytes) | AttributeValue::String(bytes)) => {
                self.to_vec(&bytes)?
            }
            _ => return Err(Missing::Unavailable("a constant of an unknown form")),
        };
        let mut content = Content::new(size);
        content.put(0, &bytes);
        Ok(content)
    }

    fn to_vec(&self, bytes: &Reader) -> Result<Vec<u8>, Missing> {
        let all = bytes.bytes();
        self.work.take(1 + all.len() / 64).ok_or(TOO_MUCH)?;
        Ok(all[..all.len().min(MOST_BYTES)].to_vec())
    }

    /// The expression that holds at `at`, and whether it still does after the instruction there.
    fn expression_at(
        &self,
        code: &Code,
        home: &Home,
        location: Attribute,
        at: Svma,
    ) -> Result<(Expression, bool), Missing> {
        if let Some(expression) = location.exprloc_value() {
            return Ok((expression, true));
        }
        let unit = &home.unit;
        let lists = code.module.image.locations();
        let offset = match location {
            AttributeValue::LocationListsRef(offset) => offset,
            AttributeValue::DebugLocListsIndex(index) => {
                lists.get_offset(unit.encoding(), unit.loclists_base, index)?
            }
            _ => return Err(Missing::Unavailable("a location of an unknown form")),
        };
        let addresses = &code.dies.dwarf(home).debug_addr;
        let mut list = lists.locations(
            offset,
            unit.encoding(),
            unit.low_pc,
            addresses,
            unit.addr_base,
        )?;
        while let Some(entry) = list.next()? {
            self.work.take(1).ok_or(TOO_MUCH)?;
            if entry.range.begin <= at.0 && at.0 < entry.range.end {
                return Ok((entry.data, at.0 + 1 < entry.range.end));
            }
        }
        Err(Missing::OptimizedOut)
    }

    /// Evaluates an expression in the frame of this number.
    fn evaluate(&self, at: At, home: &Home, expression: Expression) -> Result<Vec<Piece>, Missing> {
        self.work.take(WORK_OF_EXPRESSION).ok_or(TOO_MUCH)?;
        let code = self.code(at.frame)?;
        let dwarf = code.dies.dwarf(home);
        let unit = &home.unit;
        let mut evaluation = expression.evaluation(unit.encoding());
        evaluation.set_max_iterations(MOST_OPERATIONS);
        let mut state = evaluation.evaluate()?;
        loop {
            state = match state {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresMemory {
                    address,
                    size,
                    base_type,
                    ..
                } => {
                    let value = self.read(Avma(address), size.into())?;
                    let kind = self.base_type(code, home, base_type)?;
                    evaluation.resume_with_memory(value_of(kind, value)?)?
                }
                EvaluationResult::RequiresRegister {
                    register,
                    base_type,
                } => {
                    let value = self.register(at, register)?;
                    let kind = self.base_type(code, home, base_type)?;
                    evaluation.resume_with_register(value_of(kind, value)?)?
                }
                EvaluationResult::RequiresFrameBase => {
                    let base = self.frame_base(at)?;
                    evaluation.resume_with_frame_base(base)?
                }
                EvaluationResult::RequiresCallFrameCfa => {
                    evaluation.resume_with_call_frame_cfa(self.cfa(at.frame)?)?
                }
                EvaluationResult::RequiresEntryValue(expression) => {
                    let place = Passed::of(&expression, unit.encoding());
                    let place = place.ok_or(Missing::OptimizedOut)?;
                    let value = self.single_value(at.caller(), &self.passed(at, place)?)?;
                    evaluation.resume_with_entry_value(value)?
                }
                EvaluationResult::RequiresParameterRef(offset) => {
                    let home = home.clone();
                    let place = Passed::Parameter(Die { home, offset }.id());
                    let value = self.single_value(at.caller(), &self.passed(at, place)?)?;
                    evaluation.resume_with_parameter_ref(value.to_u64(!0)?)?
                }
                EvaluationResult::RequiresRelocatedAddress(address) => {
                    let actual = code.module.bias.to_avma(Svma(address));
                    evaluation.resume_with_relocated_address(actual.0)?
                }
                EvaluationResult::RequiresIndexedAddress { index, relocate } => {
                    let stated = dwarf.address(unit, index)?;
                    let actual = code.module.bias.to_avma(Svma(stated)).0;
                    let address = if relocate { actual } else { stated };
                    evaluation.resume_with_indexed_address(address)?
                }
                EvaluationResult::RequiresBaseType(offset) => {
                    let kind = self.base_type(code, home, offset)?;
                    evaluation.resume_with_base_type(kind)?
                }
                EvaluationResult::RequiresTls(_) => {
                    return Err(Missing::Unavailable("thread-local"));
                }
                _ => return Err(Missing::Unavailable("a location of an unknown kind")),
            };
        }
        Ok(evaluation.result())
    }

    /// Evaluates an expression whose result is a value, or an address taken for one.
    fn number(&self, at: At, home: &Home, expression: Expression) -> Result<gimli::Value, Missing> {
        self.single_value(at, &self.evaluate(at, home, expression)?)
    }

    fn single_value(&self, at: At, pieces: &[Piece]) -> Result<gimli::Value, Missing> {
        let [piece] = pieces else {
            return Err(Missing::OptimizedOut);
        };
        match &piece.location {
            gimli::Location::Address { address } => Ok(gimli::Value::Generic(*address)),
            gimli::Location::Value { value } => Ok(*value),
            gimli::Location::Register { register } => {
                Ok(gimli::Value::Generic(self.register(at, *register)?))
            }
            _ => Err(Missing::OptimizedOut),
        }
    }

    fn base_type(
        &self,
        code: &Code,
        home: &Home,
        offset: gimli::UnitOffset,
    ) -> Result<gimli::ValueType, Missing> {
        if offset.0 == 0 {
            return Ok(gimli::ValueType::Generic);
        }
        let die = Die {
            home: home.clone(),
            offset,
        };
        let entry = code.dies.entry(&die).ok_or(TOO_MUCH)?;
        let kind = gimli::ValueType::from_entry(&entry)?;
        kind.ok_or(Missing::Unavailable("a location of an unknown kind"))
    }

    fn read(&self, address: Avma, size: usize) -> Result<u64, Missing> {
        self.work.take(WORK_OF_READ).ok_or(TOO_MUCH)?;
        let mut bytes = [0; 8];
        let wanted = bytes
            .get_mut(..size)
            .ok_or(Missing::Unavailable("its location makes no sense"))?;
        self.sight
            .read(address, wanted)
            .map_err(|_| Missing::Unavailable("the memory that leads to it cannot be read"))?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn register(&self, at: At, register: gimli::Register) -> Result<u64, Missing> {
        let registers = self.frames.get(at.frame).map(|frame| &frame.registers);
        // From there on the vector registers.
        if registers.is_some_and(|r| usize::from(register.0) >= r.of.registers) {
            return Err(match at.frame {
                0 => Missing::Unavailable("in a register that is not looked at"),
                // Every call may change these.
                _ => Missing::OptimizedOut,
            });
        }
        let value = registers.and_then(|registers| match at.lasts {
            true => registers.get_if_kept(register.0),
            false => registers.get(register.0),
        });
        value.ok_or(Missing::OptimizedOut)
    }

    fn cfa(&self, frame: usize) -> Result<u64, Missing> {
        let cfa = self.frames.get(frame).map_or(0, |frame| frame.raw.cfa.0);
        match cfa {
            0 => Err(Missing::Unavailable("its frame is not known")),
            known => Ok(known),
        }
    }

    fn frame_base(&self, at: At) -> Result<u64, Missing> {
        let code = self.code(at.frame)?;
        let function = &code.function;
        let entry = code.dies.entry(function).ok_or(TOO_MUCH)?;
        let base = code
            .dies
            .attribute(&function.home, &entry, gimli::DW_AT_frame_base);
        let (home, location) = base.ok_or(Missing::Unavailable("its frame is not known"))?;
        let (expression, _) = self.expression_at(code, &home, location, code.at)?;
        // An expression that asks for the base itself would never end.
        let asks_itself = expression
            .clone()
            .operations(home.unit.encoding())
            .next()?
            .is_some_and(|first| matches!(first, Operation::FrameOffset { .. }));
        if asks_itself || at.callers >= MOST_CALLERS {
            return Err(Missing::Unavailable("its location makes no sense"));
        }
        let at = At {
            callers: at.callers + 1,
            ..at
        };
        Ok(self.number(at, &home, expression)?.to_u64(!0)?)
    }

    /// What the caller of this frame passed there. Only where it is beyond doubt that this very call entered the function,
    /// as gdb has it (gdb/dwarf2/loc.c, dwarf_expr_reg_to_entry_parameter).
    fn passed(&self, at: At, place: Passed) -> Result<Vec<Piece>, Missing> {
        if at.callers >= MOST_CALLERS {
            return Err(Missing::OptimizedOut);
        }
        let site = self.entered_by(at).ok_or(Missing::OptimizedOut)?;
        let code = self.code(at.frame + 1)?;
        let dies = &code.dies;
        let caller = self.frames.get(at.frame + 1);
        let sp = caller.map(|frame| frame.registers.of.sp);
        let value = dies.each_child(&site, |die, entry| {
            let is_parameter = matches!(
                entry.tag(),
                gimli::DW_TAG_call_site_parameter | gimli::DW_TAG_GNU_call_site_parameter
            );
            let location = entry.attr_value(gimli::DW_AT_location);
            let location = location.and_then(|value| value.exprloc_value());
            let at = location.and_then(|e| Passed::place(&e, die.home.unit.encoding(), sp));
            let parameter = || {
                let value = entry.attr_value(gimli::DW_AT_call_parameter);
                let value = value.or_else(|| entry.attr_value(gimli::DW_AT_abstract_origin))?;
                Some(Passed::Parameter(dies.referred(&die.home, &value)?.id()))
            };
            if !is_parameter || (at != Some(place) && parameter() != Some(place)) {
                return ControlFlow::Continue(());
            }
            let value = entry
                .attr_value(gimli::DW_AT_call_value)
                .or_else(|| entry.attr_value(gimli::DW_AT_GNU_call_site_value));
            ControlFlow::Break(value.and_then(|value| value.exprloc_value()))
        });
        let expression = value.flatten().ok_or(Missing::OptimizedOut)?;
        let mut pieces = self.evaluate(at.caller(), &site.home, expression)?;
        // What looks like an address is the value itself (DWARF 5, chapter 3.4.2: DW_AT_call_value).
        for piece in &mut pieces {
            if let gimli::Location::Address { address } = piece.location {
                let value = gimli::Value::Generic(address);
                piece.location = gimli::Location::Value { value };
            }
        }
        Ok(pieces)
    }

    /// The call that entered the function of this frame, beyond doubt.
    fn entered_by(&self, at: At) -> Option<Die> {
        let frame = at.frame;
        if let Some(known) = self.memo.entered_by.borrow().get(&frame) {
            return known.clone();
        }
        let find = || {
            let start = self.start_of(self.code(frame).ok()?)?;
            let (site, entry) = self.call_site(frame + 1)?;
            let target = self.target(at.caller(), &site, &entry)?;
            (target == start && !self.may_call_itself(start)).then_some(site)
        };
        let found = find();
        self.memo
            .entered_by
            .borrow_mut()
            .insert(frame, found.clone());
        found
    }

    fn start_of(&self, code: &Code) -> Option<Avma> {
        let entry = code.dies.entry(&code.function)?;
        let start = code.dies.entry_point(&code.function.home, &entry)?;
        Some(code.module.bias.to_avma(start))
    }

    /// The call that the frame of this number is in the middle of.
    fn call_site(&self, frame: usize) -> Option<(Die, Entry)> {
        let raw = &self.frames.get(frame)?.raw;
        if raw.exact {
            return None;
        }
        let code = self.code(frame).ok()?;
        let returns_to = code.module.to_svma(raw.ip);
        find_site(&code.dies, &code.function, &mut |dies, die, entry| {
            let value = match entry.tag() {
                gimli::DW_TAG_call_site => entry.attr_value(gimli::DW_AT_call_return_pc),
                _ => entry.attr_value(gimli::DW_AT_low_pc),
            }?;
            let address = dies.dwarf(&die.home).attr_address(&die.home.unit, value);
            (address.ok()? == Some(returns_to.0)).then(|| (die.clone(), entry.clone()))
        })
    }

    /// The function that a call goes to.
    fn target(&self, at: At, site: &Die, entry: &Entry) -> Option<Avma> {
        let code = self.code(at.frame).ok()?;
        if let Some(called) = self.named_target(&code.dies, &code.module, site, entry) {
            return called;
        }
        let value = entry
            .attr_value(gimli::DW_AT_call_target)
            .or_else(|| entry.attr_value(gimli::DW_AT_GNU_call_site_target))?;
        let expression = value.exprloc_value()?;
        let number = self.number(at, &site.home, expression).ok()?;
        Some(Avma(number.to_u64(!0).ok()?))
    }

    /// The same, where the function is named: none where it is not, `Some(None)` where it is and cannot be found.
    fn named_target(
        &self,
        dies: &Dies,
        module: &Rc<Module>,
        site: &Die,
        entry: &Entry,
    ) -> Option<Option<Avma>> {
        let value = entry
            .attr_value(gimli::DW_AT_call_origin)
            .or_else(|| entry.attr_value(gimli::DW_AT_abstract_origin))?;
        let find = || {
            let called = dies.referred(&site.home, &value)?;
            let entry = dies.entry(&called)?;
            if let Some(start) = dies.entry_point(&called.home, &entry) {
                return Some(module.bias.to_avma(start));
            }
            let linkage = dies.attribute(&called.home, &entry, gimli::DW_AT_linkage_name);
            let name = match linkage {
                Some((home, value)) => dies.text(&home, value)?,
                None => dies.name(&called.home, &entry)?,
            };
            self.functions.function_named(&name, module)
        };
        Some(find())
    }

    /// Whether the function that starts there may come to itself again by jumps in place of calls, so that it was entered
    /// with other values than the caller passed (gdb/dwarf2/loc.c, func_verify_no_selftailcall).
    fn may_call_itself(&self, start: Avma) -> bool {
        if let Some(known) = self.memo.calls_itself.borrow().get(&start) {
            return *known;
        }
        let found = self.calls_itself(start).unwrap_or(true);
        self.memo.calls_itself.borrow_mut().insert(start, found);
        found
    }

    /// None where it cannot be told.
    fn calls_itself(&self, start: Avma) -> Option<bool> {
        let mut seen = HashSet::from([start]);
        let mut todo = vec![start];
        while let Some(function) = todo.pop() {
            let (module, dies, die) = self.functions.function_at(function)?;
            let entry = dies.entry(&die)?;
            if module.bias.to_avma(dies.entry_point(&die.home, &entry)?) != function {
                return None;
            }
            let mut unknown = false;
            let _: Option<()> = find_site(&dies, &die, &mut |dies, site, entry| {
                let jumps = [gimli::DW_AT_call_tail_call, gimli::DW_AT_GNU_tail_call]
                    .into_iter()
                    .any(|name| entry.attr_value(name) == Some(AttributeValue::Flag(true)));
                if jumps {
                    match self.named_target(dies, &module, site, entry).flatten() {
                        Some(target) if target == start => unknown = true,
                        Some(target) => {
                            if seen.insert(target) {
                                todo.push(target);
                            }
                        }
                        None => unknown = true,
                    }
                }
                None
            });
            if unknown || seen.len() > MOST_JUMPED_TO {
                return None;
            }
        }
        (!self.work.is_spent()).then_some(false)
    }

    /// Reads what the pieces lead to.
    fn gather(&self, place: At, pieces: Vec<Piece>, size: u64) -> Result<Content, Missing> {
        let mut content = Content::new(size);
        self.work.take(content.len() / BYTES).ok_or(TOO_MUCH)?;
        let whole = pieces.len() == 1 && pieces[0].size_in_bits.is_none();
        let mut at = 0usize;
        for piece in pieces {
            let left = content.len().saturating_sub(at);
            let (bits, shift) = (piece.size_in_bits, piece.bit_offset.unwrap_or(0));
            let part = match bits {
                Some(bits) if bits % 8 == 0 => usize::try_from(bits / 8).unwrap_or(left).min(left),
                Some(_) => return Err(Missing::Unavailable("it lies in pieces of single bits")),
                None => left,
            };
            let state = match &piece.location {
                gimli::Location::Empty => State::OptimizedOut,
                gimli::Location::ImplicitPointer { .. } => State::Synthetic,
                gimli::Location::Bytes { value } => {
                    let bytes = self.to_vec(value)?;
                    content.put(at, &bytes[..bytes.len().min(part)]);
                    State::Known
                }
                gimli::Location::Value { value } => {
                    let bytes = shifted(bytes_of(*value), shift);
                    content.put(at, &bytes[..bytes.len().min(part)]);
                    State::Known
                }
                gimli::Location::Register { register } => match self.register(place, *register) {
                    Ok(value) => {
                        let bytes = shifted(value.to_le_bytes(), shift);
                        content.put(at, &bytes[..bytes.len().min(part)]);
                        State::Known
                    }
                    Err(Missing::OptimizedOut) => State::OptimizedOut,
                    Err(other) => return Err(other),
                },
                gimli::Location::Address { address } => {
                    let mut bytes = vec![0; part];
                    match self.sight.read(Avma(*address), &mut bytes) {
                        Ok(()) => {
                            content.put(at, &bytes);
                            if whole {
                                content.address = Some(Avma(*address));
                            }
                            State::Known
                        }
                        Err(_) => State::Unreadable,
                    }
                }
            };
            if state != State::Known {
                content.mark(at, part, state);
            }
            at += part;
        }
        Ok(content)
    }
}

/// Where a caller passes a value, as it stands in call sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passed {
    /// In a register.
    Register(u16),
    /// That far from the stack pointer at the call; the return address is pushed below it.
    Stack(i64),
    /// In nothing in particular: the compiler did away with this parameter, which is named by its entry.
    Parameter((bool, usize)),
}

impl Passed {
    /// Where the caller passed what a callee finds at `expression` when it is entered.
    fn of(expression: &Expression, encoding: gimli::Encoding) -> Option<Self> {
        match single(expression, encoding)? {
            Operation::Register { register } => Some(Passed::Register(register.0)),
            // With the frame's address for its base: that is the stack pointer before the call.
            Operation::FrameOffset { offset } => Some(Passed::Stack(offset)),
            _ => None,
        }
    }

    /// Where it stands, in the caller's own terms, whose stack pointer is register `sp`.
    fn place(expression: &Expression, encoding: gimli::Encoding, sp: Option<u16>) -> Option<Self> {
        match single(expression, encoding)? {
            Operation::Register { register } => Some(Passed::Register(register.0)),
            Operation::RegisterOffset {
                register, offset, ..
            } if Some(register.0) == sp => Some(Passed::Stack(offset)),
            _ => None,
        }
    }
}

/// The one operation that an expression has.
fn single(expression: &Expression, encoding: gimli::Encoding) -> Option<Operation<Reader>> {
    let mut operations = expression.clone().operations(encoding);
    let first = operations.next().ok()??;
    operations.next().ok()?.is_none().then_some(first)
}

/// Looks for a call in a function and in what is inlined there.
fn find_site<T>(
    dies: &Dies,
    scope: &Die,
    look: &mut impl FnMut(&Dies, &Die, &Entry) -> Option<T>,
) -> Option<T> {
    /// More blocks and inlined functions within one another than compilers make.
    const DEEPEST: usize = 200;
    let mut scopes = vec![(scope.clone(), 0)];
    while let Some((scope, depth)) = scopes.pop() {
        let found = dies.each_child(&scope, |die, entry| {
            match entry.tag() {
                gimli::DW_TAG_call_site | gimli::DW_TAG_GNU_call_site => {
                    if let Some(found) = look(dies, &die, entry) {
                        return ControlFlow::Break(found);
                    }
                }
                gimli::DW_TAG_lexical_block
                | gimli::DW_TAG_inlined_subroutine
                | gimli::DW_TAG_try_block
                | gimli::DW_TAG_catch_block
                    if depth < DEEPEST =>
                {
                    scopes.push((die, depth + 1));
                }
                _ => {}
            }
            ControlFlow::Continue(())
        });
        if found.is_some() {
            return found;
        }
    }
    None
}

/// The value of these bits: a floating-point number is not to be converted from a whole one.
fn value_of(kind: gimli::ValueType, bits: u64) -> Result<gimli::Value, Missing> {
    Ok(match kind {
        gimli::ValueType::F32 => gimli::Value::F32(f32::from_bits(bits as u32)),
        gimli::ValueType::F64 => gimli::Value::F64(f64::from_bits(bits)),
        whole => gimli::Value::from_u64(whole, bits)?,
    })
}

/// A value as it would lie in memory.
fn bytes_of(value: gimli::Value) -> [u8; 8] {
    match value {
        gimli::Value::F32(n) => u64::from(n.to_bits()).to_le_bytes(),
        gimli::Value::F64(n) => n.to_bits().to_le_bytes(),
        other => other.to_u64(!0).unwrap_or(0).to_le_bytes(),
    }
}

fn shifted(bytes: [u8; 8], bits: u64) -> [u8; 8] {
    let value = u64::from_le_bytes(bytes);
    let bits = u32::try_from(bits).unwrap_or(u32::MAX);
    value.checked_shr(bits).unwrap_or(0).to_le_bytes()
}
