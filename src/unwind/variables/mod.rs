//! Arguments and local variables of the frames whose code has debug information.
//!
//! Everything is read after the stop, from what was captured in it. What was not captured (what pointers lead to, static
//! variables) is read from the living process, if the caller says so, and said to be: it may have changed since.
//!
//! Which variables there are, and how they are shown, is as gdb's `bt full` has it. Debug information is hostile input:
//! entries, expressions, sizes and texts are bounded, and one amount of work is all there is for a stack.

mod content;
mod dies;
mod location;
mod print;
mod types;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use self::content::Content;
use self::dies::{Die, Dies, Found, Work};
use self::location::{Code, Evaluator, Frame, Functions, Memo, Missing};
use self::print::Printer;
use self::types::Types;
use super::{RawStack, walk};
use crate::address::Avma;
use crate::arch::UnwindRegisters;
use crate::image::{AddressSpace, Module};
use crate::memory::{Memory, Unreadable};

/// The most frames whose variables are looked up, from the innermost on.
pub const MOST_FRAMES: usize = 200;
/// The most variables of one function that are told, arguments and locals each.
pub const MOST_VARIABLES: usize = 100;
/// The most bytes of one value that are read.
const MOST_BYTES: usize = 64 << 10;
/// So many symbols that are looked through count for one entry.
const SYMBOLS: usize = 32;
/// The most text of all values together.
const MOST_TEXT: usize = 1 << 20;

/// The variables of one function on the stack.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameVariables {
    /// The function's name, by its debug information.
    pub function: Option<String>,
    /// What it was called with, in order.
    pub arguments: Vec<Variable>,
    /// Its other variables, those of the innermost block first.
    pub locals: Vec<Variable>,
    /// There are more, which were left out.
    pub cut_short: bool,
}

/// One variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its type, as C writes it.
    #[serde(rename = "type")]
    pub type_name: String,
    /// What it holds.
    pub value: Value,
    /// Of an argument: what it held when the function was called, where the caller tells.
    pub at_entry: Option<Value>,
    /// How many blocks within its function it is declared.
    pub block: usize,
    /// Some of it was read from the running process, after the stop.
    pub read_later: bool,
}

/// What a variable holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Value {
    /// This, as gdb prints it.
    Text(String),
    /// The compiler did away with it here, or what held it was overwritten.
    OptimizedOut,
    /// It cannot be had, for this reason.
    Unavailable(String),
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Text(text) => f.write_str(text),
            Value::OptimizedOut => f.write_str("<optimized out>"),
            Value::Unavailable(why) => write!(f, "<unavailable: {why}>"),
        }
    }
}

/// Memory as it was during the stop, and, for what was not captured, as it is now.
#[derive(Debug)]
struct Sight<'m> {
    captured: &'m dyn Memory,
    later: Option<&'m dyn Memory>,
    read_later: Cell<bool>,
}

impl Memory for Sight<'_> {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        if self.captured.read(addr, buf).is_ok() {
            return Ok(());
        }
        let later = self.later.ok_or(Unreadable(addr))?;
        later.read(addr, buf)?;
        self.read_later.set(true);
        Ok(())
    }
}

/// The entries and the types of one image.
type Known<'s> = (Rc<Dies<'s>>, Rc<Types<'s>>);

/// The debug information of all images that are on the stack.
struct Library<'s> {
    space: &'s AddressSpace<'s>,
    /// By where their modules are in memory.
    modules: Vec<(Rc<Module>, Option<Known<'s>>)>,
    named: RefCell<HashMap<String, Option<Avma>>>,
    work: &'s Work,
}

/// The variables of each frame of `stack`, which was unwound from `registers` and `captured`: for each frame those of the
/// functions that were inlined there, innermost first, and last those of the function that the frame is of. None where
/// there is no debug information.
///
/// With `later`, what was not captured is read from there. Reads debug information; never while a backend stands still.
pub fn read(
    stack: &RawStack,
    registers: &UnwindRegisters,
    captured: &dyn Memory,
    later: Option<&dyn Memory>,
    space: &AddressSpace,
) -> Vec<Vec<FrameVariables>> {
    let modules = modules_of(stack, space);
    let work = Work::default();
    let library = Library::of(&modules, &work, space);
    let mut known = Vec::new();
    walk(None, registers, captured, space, |registers| {
        if known.len() < MOST_FRAMES {
            known.push(*registers);
        }
    });
    let frames: Vec<Frame> = stack
        .frames
        .iter()
        .zip(known)
        .map(|(raw, registers)| Frame {
            raw: *raw,
            registers,
            code: library.code_at(raw.lookup_address()),
        })
        .collect();
    let sight = Sight {
        captured,
        later,
        read_later: Cell::new(false),
    };
    let evaluator = Evaluator {
        frames: &frames,
        sight: &sight,
        functions: &library,
        work: &work,
        memo: Memo::default(),
    };
    let mut text_left = MOST_TEXT;
    let told = (0..frames.len()).map(|frame| evaluator.variables_of(frame, &mut text_left));
    let mut told: Vec<_> = told.collect();
    told.resize(stack.frames.len(), Vec::new());
    told
}

/// The modules that the frames are in, each once.
fn modules_of(stack: &RawStack, space: &AddressSpace) -> Vec<Rc<Module>> {
    let mut modules: Vec<Rc<Module>> = Vec::new();
    for frame in stack.frames.iter().take(MOST_FRAMES) {
        let Some(module) = space.loaded_at(frame.lookup_address()) else {
            continue;
        };
        if !modules.iter().any(|known| is_same(known, &module)) {
            modules.push(module);
        }
    }
    modules
}

fn is_same(one: &Module, other: &Module) -> bool {
    Rc::ptr_eq(&one.image, &other.image) && one.bias == other.bias
}

impl<'s> Library<'s> {
    fn of(modules: &'s [Rc<Module>], work: &'s Work, space: &'s AddressSpace<'s>) -> Self {
        let load = |module: &'s Rc<Module>| {
            let dies = Rc::new(Dies::of(&module.image, work)?);
            let types = Rc::new(Types::of(dies.clone()));
            Some((dies, types))
        };
        let modules = modules.iter().map(|module| (module.clone(), load(module)));
        Library {
            space,
            modules: modules.collect(),
            named: RefCell::default(),
            work,
        }
    }

    fn known_at(&self, at: Avma) -> Option<(Rc<Module>, Known<'s>)> {
        let module = self.space.loaded_at(at)?;
        let mut all = self.modules.iter();
        let (module, known) = all.find(|(known, _)| is_same(known, &module))?;
        Some((module.clone(), known.clone()?))
    }

    fn code_at(&self, at: Avma) -> Option<Code<'s>> {
        let (module, (dies, types)) = self.known_at(at)?;
        let at = module.to_svma(at);
        Some(Code {
            function: dies.function_at(at)?,
            module,
            dies,
            types,
            at,
        })
    }
}

impl<'s> Functions<'s> for Library<'s> {
    fn function_at(&self, at: Avma) -> Option<(Rc<Module>, Rc<Dies<'s>>, Die)> {
        let (module, (dies, _)) = self.known_at(at)?;
        let function = dies.function_at(module.to_svma(at))?;
        Some((module, dies, function))
    }

    fn function_named(&self, name: &str, module: &Rc<Module>) -> Option<Avma> {
        if let Some(known) = self.named.borrow().get(name) {
            return *known;
        }
        let others = self.modules.iter().map(|(module, _)| module);
        let mut all = std::iter::once(module).chain(others);
        let found = all.find_map(|module| {
            // All of them are looked through.
            let symbols = module.image.symbols().len();
            self.work.take(1 + symbols / SYMBOLS)?;
            module.address_of(name)
        });
        self.named.borrow_mut().insert(name.to_owned(), found);
        found
    }

    fn symbol_at(&self, at: Avma) -> Option<String> {
        let elsewhere = || {
            let mut modules = self.modules.iter().map(|(module, _)| module);
            modules.find(|m| m.image.covers(m.to_svma(at))).cloned()
        };
        let module = self.space.loaded_at(at).or_else(elsewhere)?;
        let at = module.to_svma(at);
        let symbol = module.image.symbols().at(at)?;
        let name = crate::process::printable(without_number(symbol.name));
        Some(match at.0 - symbol.start.0 {
            0 => name,
            offset => format!("{name}+{offset}"),
        })
    }
}

impl Evaluator<'_> {
    /// The variables of one frame.
    fn variables_of(&self, frame: usize, text_left: &mut usize) -> Vec<FrameVariables> {
        let code = self.frames.get(frame).and_then(|frame| frame.code.as_ref());
        let Some(code) = code else {
            return Vec::new();
        };
        let levels = code.dies.levels(&code.function, code.at);
        let outermost = levels.len().saturating_sub(1);
        let told = levels.into_iter().enumerate().map(|(i, level)| {
            let (arguments, locals) = (&level.arguments, distinct(&level.locals, code));
            let mut told = FrameVariables {
                function: level.name.clone(),
                cut_short: level.cut_short
                    || arguments.len() > MOST_VARIABLES
                    || locals.len() > MOST_VARIABLES,
                ..FrameVariables::default()
            };
            // A function that was inlined was not entered by a call.
            let entered = i == outermost;
            for found in arguments.iter().take(MOST_VARIABLES) {
                told.arguments
                    .extend(self.variable(frame, code, found, entered, text_left));
            }
            for found in locals.into_iter().take(MOST_VARIABLES) {
                told.locals
                    .extend(self.variable(frame, code, found, false, text_left));
            }
            told
        });
        told.collect()
    }

    /// None of one that has no name.
    fn variable(
        &self,
        frame: usize,
        code: &Code,
        found: &Found,
        entered: bool,
        text_left: &mut usize,
    ) -> Option<Variable> {
        let die = &found.die;
        let entry = &code.dies.entry(die)?;
        let name = code.dies.name(&die.home, entry)?;
        let of = code.dies.type_of(&die.home, entry);
        self.sight.read_later.set(false);
        let printer = Printer {
            types: &code.types,
            memory: self.sight,
            symbol: &|at| self.functions.symbol_at(at),
        };
        let mut show = |content: Result<Content, Missing>| match (content, &of) {
            (Ok(content), Some(of)) => {
                let text = printer.print(of, &content);
                match text.as_str() {
                    "<optimized out>" => Value::OptimizedOut,
                    "<unreadable>" => Value::Unavailable("its memory cannot be read".into()),
                    print::UNKNOWN => Value::Unavailable("its type is not known".into()),
                    _ if text.len() > *text_left => Value::Unavailable("too much text".into()),
                    _ => {
                        *text_left -= text.len();
                        Value::Text(text)
                    }
                }
            }
            (Ok(_), None) => Value::Unavailable("its type is not known".into()),
            (Err(Missing::OptimizedOut), _) => Value::OptimizedOut,
            (Err(Missing::Unavailable(why)), _) => Value::Unavailable(why.into()),
        };
        let size = of.as_ref().and_then(|of| code.types.size(of)).unwrap_or(0);
        let value = match of
            .as_ref()
            .is_some_and(|of| code.types.is_of_computed_size(of))
        {
            true => Value::Unavailable("an array whose length is computed".into()),
            false => show(self.content(frame, die, entry, size)),
        };
        let at_entry = entered
            .then(|| self.content_at_entry(frame, die, entry, size))
            .flatten()
            .map(|content| show(Ok(content)));
        Some(Variable {
            name,
            type_name: code.types.name(of.as_ref()),
            value,
            at_entry,
            block: found.block,
            read_later: self.sight.read_later.get(),
        })
    }
}

/// The name in the source of a static variable of a function: GCC tells those of one name by a number, `calls.5`.
fn without_number(name: &str) -> &str {
    let numbered = name.rsplit_once('.');
    match numbered.filter(|(name, n)| !name.contains('.') && n.bytes().all(|b| b.is_ascii_digit()))
    {
        Some((name, _)) => name,
        None => name,
    }
}

/// Without a second one of the same name that is nowhere: the same variable may stand in several blocks of the source that
/// have no code here, and one that has is told for all of them.
fn distinct<'f>(locals: &'f [Found], code: &Code) -> Vec<&'f Found> {
    let look = |found: &Found| {
        let home = &found.die.home;
        let entry = code.dies.entry(&found.die)?;
        let is_somewhere = [gimli::DW_AT_location, gimli::DW_AT_const_value]
            .into_iter()
            .any(|place| code.dies.attribute(home, &entry, place).is_some());
        Some((code.dies.name(home, &entry)?, is_somewhere))
    };
    let all = locals
        .iter()
        .filter_map(|found| Some((found, look(found)?)));
    let all: Vec<_> = all.collect();
    let mut known: HashMap<&str, bool> = HashMap::new();
    for (_, (name, is_somewhere)) in &all {
        *known.entry(name).or_default() |= is_somewhere;
    }
    let wanted = |(found, (name, is_somewhere)): &(&'f Found, (String, bool))| {
        // The first one that is nowhere, where all are.
        let only = known.get_mut(name.as_str());
        let only = only.is_some_and(|known| !std::mem::replace(known, true));
        (*is_somewhere || only).then_some(*found)
    };
    all.iter().filter_map(wanted).collect()
}
