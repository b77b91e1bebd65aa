//! Entries of debug information (DWARF 5, chapter 2), read one by one as they are needed, and as many as there is work for.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::rc::Rc;

use gimli::{AttributeValue, DwAt, DwTag, UnitOffset};

use crate::address::Svma;
use crate::image::{Image, Reader};

pub type Entry = gimli::DebuggingInformationEntry<Reader>;
pub type Attribute = AttributeValue<Reader>;
pub type Expression = gimli::Expression<Reader>;

/// The most entries (and what counts like one) that are read for the variables of one stack: some tenths of a second.
/// A stack of PostgreSQL's takes a hundred thousand.
const MOST_WORK: usize = 1_500_000;
/// An entry has some ten attributes in some thirty bytes. Where it has more, so many count for one more entry.
const ATTRIBUTES: usize = 20;
const BYTES: usize = 64;
/// What a text without an end counts for: all of a section was searched for it.
const WORK_OF_ENDLESS_TEXT: usize = 20_000;
/// More steps from an entry to the one that it is an instance of than compilers make.
const MOST_ORIGINS: usize = 4;
/// More blocks within blocks than anyone writes.
const DEEPEST_BLOCK: usize = 64;
/// The most variables of one function that are looked at.
const MOST_VARIABLES: usize = 500;
/// The most functions that are inlined into one another.
const MOST_LEVELS: usize = 256;

/// What may still be read, for all images together.
#[derive(Debug)]
pub struct Work(Cell<usize>);

impl Default for Work {
    fn default() -> Self {
        Work(Cell::new(MOST_WORK))
    }
}

impl Work {
    /// Takes some of it; none where there is not so much left, and from then on.
    pub fn take(&self, amount: usize) -> Option<()> {
        let left = self.0.get().checked_sub(amount);
        self.0.set(left.unwrap_or(0));
        left.map(|_| ())
    }

    /// Whether nothing is left.
    pub fn is_spent(&self) -> bool {
        self.0.get() == 0
    }
}

/// A unit, and whether it is one of those that dwz(1) moved to another file.
#[derive(Clone)]
pub struct Home {
    pub unit: Rc<gimli::Unit<Reader>>,
    moved: bool,
    at: usize,
}

/// Where an entry is.
#[derive(Clone)]
pub struct Die {
    pub home: Home,
    pub offset: UnitOffset,
}

impl Die {
    /// The same for no two entries of one image.
    pub fn id(&self) -> (bool, usize) {
        (self.home.moved, self.home.at.wrapping_add(self.offset.0))
    }
}

/// The entries of one image.
pub struct Dies<'i> {
    dwarf: &'i gimli::Dwarf<Reader>,
    image: &'i Image,
    work: &'i Work,
    homes: RefCell<HashMap<(bool, usize), Option<Home>>>,
    starts: [OnceCell<Vec<usize>>; 2],
    functions: RefCell<HashMap<Svma, Option<Die>>>,
}

/// A function at work: one that has a frame of its own, or was inlined into the next.
pub struct Level {
    /// Its name, where it has one.
    pub name: Option<String>,
    /// Its parameters, in the order of the source where that is known.
    pub arguments: Vec<Found>,
    /// Its other variables, those of the innermost block first.
    pub locals: Vec<Found>,
    /// There are more than that.
    pub cut_short: bool,
}

/// A variable at work.
#[derive(Clone)]
pub struct Found {
    pub die: Die,
    is_argument: bool,
    /// How many blocks within its function it is declared.
    pub block: usize,
}

impl<'i> Dies<'i> {
    /// Those of `image`; none without debug information.
    pub fn of(image: &'i Image, work: &'i Work) -> Option<Self> {
        Some(Dies {
            dwarf: image.lines()?.dwarf(),
            image,
            work,
            homes: RefCell::default(),
            starts: Default::default(),
            functions: RefCell::default(),
        })
    }

    /// The sections that an entry's unit is in.
    pub fn dwarf(&self, home: &Home) -> &'i gimli::Dwarf<Reader> {
        match (home.moved, &self.dwarf.sup) {
            (true, Some(moved)) => moved,
            _ => self.dwarf,
        }
    }

    /// The unit that the code at `at` belongs to.
    fn home_of_code(&self, at: Svma) -> Option<Home> {
        let found = self.image.lines()?.unit_at(at)?;
        let offset = found.unit.header.debug_info_offset()?;
        // Its own, and none that dwz moved: those have no code.
        std::ptr::eq(found.dwarf, self.dwarf).then(|| self.home_at(false, offset.0))?
    }

    /// The unit that starts at `at`.
    fn home_at(&self, moved: bool, at: usize) -> Option<Home> {
        /// Each keeps some kilobytes.
        const MOST_HOMES: usize = 500;
        if let Some(known) = self.homes.borrow().get(&(moved, at)) {
            return known.clone();
        }
        self.work.take(100)?;
        if self.homes.borrow().len() == MOST_HOMES {
            return None;
        }
        let dwarf = match moved {
            true => self.dwarf.sup.as_deref()?,
            false => self.dwarf,
        };
        let header = dwarf
            .debug_info
            .header_from_offset(gimli::DebugInfoOffset(at));
        let unit = header.and_then(|header| dwarf.unit(header)).ok();
        let files = unit.as_ref().and_then(|unit| {
            let lines = unit.line_program.as_ref()?;
            Some(lines.header().file_names().len())
        });
        self.work.take(files.unwrap_or(0))?;
        let home = unit.map(|unit| Home {
            unit: Rc::new(unit),
            moved,
            at,
        });
        self.homes.borrow_mut().insert((moved, at), home.clone());
        home
    }

    /// The entry at an offset in the whole section.
    fn die_at(&self, moved: bool, at: usize) -> Option<Die> {
        let starts = self.starts[usize::from(moved)].get_or_init(|| self.unit_starts(moved));
        let after = starts.partition_point(|start| *start <= at);
        let home = self.home_at(moved, *starts.get(after.checked_sub(1)?)?)?;
        let offset = UnitOffset(at - home.at);
        Some(Die { home, offset })
    }

    fn unit_starts(&self, moved: bool) -> Vec<usize> {
        let dwarf = match moved {
            true => self.dwarf.sup.as_deref(),
            false => Some(self.dwarf),
        };
        let mut starts = Vec::new();
        let Some(dwarf) = dwarf else { return starts };
        let mut units = dwarf.units();
        while let Ok(Some(header)) = units.next() {
            if self.work.take(1).is_none() {
                break;
            }
            starts.extend(header.debug_info_offset().map(|offset| offset.0));
        }
        starts
    }

    /// Reads an entry.
    pub fn entry(&self, die: &Die) -> Option<Entry> {
        self.work.take(1)?;
        let mut entry = Entry::null();
        let mut entries = die.home.unit.entries_raw(Some(die.offset)).ok()?;
        self.read(&mut entries, &mut entry)?;
        (!entry.is_null()).then_some(entry)
    }

    /// Reads one of them, and counts it by its size.
    fn read(&self, entries: &mut gimli::EntriesRaw<Reader>, entry: &mut Entry) -> Option<()> {
        let start = entries.next_offset();
        let read = entries.read_entry(entry);
        let size = entries.next_offset().0.saturating_sub(start.0);
        self.work
            .take(entry.attrs().len() / ATTRIBUTES + size / BYTES)?;
        read.ok().map(|_| ())
    }

    /// Takes work for what is done with entries elsewhere.
    pub fn take(&self, amount: usize) -> Option<()> {
        self.work.take(amount)
    }

    /// The entry that an attribute refers to.
    pub fn referred(&self, home: &Home, value: &Attribute) -> Option<Die> {
        match value {
            AttributeValue::UnitRef(offset) => Some(Die {
                home: home.clone(),
                offset: *offset,
            }),
            AttributeValue::DebugInfoRef(offset) => self.die_at(home.moved, offset.0),
            AttributeValue::DebugInfoRefSup(offset) => self.die_at(true, offset.0),
            _ => None,
        }
    }

    /// What it is an instance of: the same function or variable, as it stands in the source.
    pub fn origin(&self, home: &Home, entry: &Entry) -> Option<Die> {
        let value = entry
            .attr_value(gimli::DW_AT_abstract_origin)
            .or_else(|| entry.attr_value(gimli::DW_AT_specification))?;
        self.referred(home, &value)
    }

    /// An attribute of it, or of what it is an instance of, with the unit that it is to be understood in.
    pub fn attribute(&self, home: &Home, entry: &Entry, name: DwAt) -> Option<(Home, Attribute)> {
        if let Some(value) = entry.attr_value(name) {
            return Some((home.clone(), value));
        }
        let mut origin = self.origin(home, entry)?;
        for _ in 0..MOST_ORIGINS {
            let entry = self.entry(&origin)?;
            if let Some(value) = entry.attr_value(name) {
                return Some((origin.home, value));
            }
            origin = self.origin(&origin.home, &entry)?;
        }
        None
    }

    /// Its name.
    pub fn name(&self, home: &Home, entry: &Entry) -> Option<String> {
        let (home, value) = self.attribute(home, entry, gimli::DW_AT_name)?;
        self.text(&home, value)
    }

    /// A text, as far as anyone would write it.
    pub fn text(&self, home: &Home, value: Attribute) -> Option<String> {
        use gimli::Reader as _;
        const LONGEST: usize = 200;
        let text = self.dwarf(home).attr_string(&home.unit, value);
        let Ok(mut text) = text else {
            self.work.take(WORK_OF_ENDLESS_TEXT);
            return None;
        };
        let length = text.len();
        self.work.take(1 + length / 64)?;
        text.truncate(length.min(LONGEST)).ok()?;
        let text = text.to_string_lossy().ok()?;
        Some(crate::process::printable(&text))
    }

    /// The entry of a type that it has.
    pub fn type_of(&self, home: &Home, entry: &Entry) -> Option<Die> {
        let (home, value) = self.attribute(home, entry, gimli::DW_AT_type)?;
        self.referred(&home, &value)
    }

    /// Shows the entries that lie directly within `die`, one after the other.
    pub fn each_child<T>(
        &self,
        die: &Die,
        mut visit: impl FnMut(Die, &Entry) -> ControlFlow<T>,
    ) -> Option<T> {
        let unit = &die.home.unit;
        let mut entries = unit.entries_raw(Some(die.offset)).ok()?;
        let mut entry = Entry::null();
        // The parent itself; then what is one deeper.
        self.work.take(1)?;
        self.read(&mut entries, &mut entry)?;
        if !entry.has_children() {
            return None;
        }
        let mut depth = 1;
        while !entries.is_empty() {
            self.work.take(1)?;
            let there = entries.next_depth();
            if there < depth {
                return None;
            }
            self.read(&mut entries, &mut entry)?;
            if there > depth || entry.is_null() {
                if there == depth {
                    return None;
                }
                continue;
            }
            let child = Die {
                home: die.home.clone(),
                offset: entry.offset(),
            };
            if let ControlFlow::Break(found) = visit(child, &entry) {
                return Some(found);
            }
            // Where the next one is, if it says so; only ever further on.
            if entry.has_children()
                && let Some(AttributeValue::UnitRef(next)) = entry.attr_value(gimli::DW_AT_sibling)
                && next > entry.offset()
            {
                entries = unit.entries_raw(Some(next)).ok()?;
                depth = 0;
            }
        }
        None
    }

    /// Whether its code includes `at`; none where it says nothing of code.
    fn covers(&self, home: &Home, entry: &Entry, at: Svma) -> Option<bool> {
        let has = |name| entry.attr(name).is_some();
        if !has(gimli::DW_AT_ranges) && !has(gimli::DW_AT_high_pc) {
            return None;
        }
        let mut ranges = self.dwarf(home).die_ranges(&home.unit, entry).ok()?;
        while let Ok(Some(range)) = ranges.next() {
            self.work.take(1)?;
            if range.begin <= at.0 && at.0 < range.end {
                return Some(true);
            }
        }
        Some(false)
    }

    /// Where a function is entered.
    pub fn entry_point(&self, home: &Home, entry: &Entry) -> Option<Svma> {
        let dwarf = self.dwarf(home);
        let address = |name| {
            let value = entry.attr_value(name)?;
            dwarf.attr_address(&home.unit, value).ok()?
        };
        let first = || {
            let mut ranges = dwarf.die_ranges(&home.unit, entry).ok()?;
            ranges.next().ok()?.map(|range| range.begin)
        };
        address(gimli::DW_AT_low_pc).or_else(first).map(Svma)
    }

    /// The function that the code at `at` belongs to.
    pub fn function_at(&self, at: Svma) -> Option<Die> {
        if let Some(known) = self.functions.borrow().get(&at) {
            return known.clone();
        }
        let home = self.home_of_code(at)?;
        let root = Die {
            offset: home.unit.header.root_offset(),
            home,
        };
        let found = self.function_in(&root, at, 0);
        self.functions.borrow_mut().insert(at, found.clone());
        found
    }

    fn function_in(&self, scope: &Die, at: Svma, depth: usize) -> Option<Die> {
        self.each_child(scope, |child, entry| match entry.tag() {
            gimli::DW_TAG_subprogram if self.covers(&child.home, entry, at) == Some(true) => {
                ControlFlow::Break(child)
            }
            gimli::DW_TAG_namespace | gimli::DW_TAG_module if depth < DEEPEST_BLOCK => {
                match self.function_in(&child, at, depth + 1) {
                    Some(found) => ControlFlow::Break(found),
                    None => ControlFlow::Continue(()),
                }
            }
            _ => ControlFlow::Continue(()),
        })
    }

    /// The functions at work at `at` in the code of `function`, innermost first; the last is `function` itself.
    pub fn levels(&self, function: &Die, at: Svma) -> Vec<Level> {
        let mut levels = Vec::new();
        let mut next = Some((function.clone(), true));
        let mut block = 0;
        while let Some((scope, starts_level)) = next.take() {
            let Some(entry) = self.entry(&scope) else {
                break;
            };
            if starts_level {
                if levels.len() == MOST_LEVELS {
                    break;
                }
                block = 0;
                levels.push(Level {
                    name: self.name(&scope.home, &entry),
                    arguments: Vec::new(),
                    locals: Vec::new(),
                    cut_short: false,
                });
            }
            let Some(level) = levels.last_mut() else {
                break;
            };
            let mut found = Vec::new();
            let mut origins = HashSet::new();
            self.look_into(&scope, &mut found, &mut origins, at, &mut next, block);
            self.inherit(&scope.home, &entry, &mut found, &origins, block);
            block += 1;
            level.take(found);
        }
        // What ends early for want of work must not pass for all there is.
        for level in &mut levels {
            level.cut_short |= self.work.is_spent();
            self.sort(&mut level.arguments);
        }
        levels.reverse();
        levels
    }

    /// In the order of the source, where all are instances of what stands there.
    fn sort(&self, arguments: &mut [Found]) {
        let place = |found: &Found| {
            let entry = self.entry(&found.die);
            let origin = entry.and_then(|entry| self.origin(&found.die.home, &entry));
            origin.map_or(found.die.id(), |origin| origin.id())
        };
        arguments.sort_by_cached_key(place);
    }

    /// The variables directly in `scope`, what they are instances of, and the block or function within it that is at work.
    fn look_into(
        &self,
        scope: &Die,
        found: &mut Vec<Found>,
        origins: &mut HashSet<(bool, usize)>,
        at: Svma,
        next: &mut Option<(Die, bool)>,
        block: usize,
    ) {
        let ended: Option<()> = self.each_child(scope, |die, entry| {
            let origin = self.origin(&die.home, entry);
            if entry.tag() != gimli::DW_TAG_call_site && found.len() < MOST_VARIABLES {
                origins.extend(origin.map(|origin| origin.id()));
            }
            match entry.tag() {
                gimli::DW_TAG_formal_parameter | gimli::DW_TAG_variable => {
                    self.add(die, entry, found, block);
                }
                tag if is_block(tag) => match self.covers(&die.home, entry, at) {
                    Some(true) => *next = Some((die, false)),
                    Some(false) => {}
                    None => self.flatten(&die, found, block, 0),
                },
                gimli::DW_TAG_inlined_subroutine
                    if self.covers(&die.home, entry, at) == Some(true) =>
                {
                    *next = Some((die, true));
                }
                _ => {}
            }
            ControlFlow::Continue(())
        });
        debug_assert!(ended.is_none());
    }

    /// What stands in the source and has no instance here, as gdb has it (gdb/dwarf2/read.c, inherit_abstract_dies): the
    /// compiler did away with it.
    fn inherit(
        &self,
        home: &Home,
        entry: &Entry,
        found: &mut Vec<Found>,
        origins: &HashSet<(bool, usize)>,
        block: usize,
    ) {
        let Some(source) = self.origin(home, entry) else {
            return;
        };
        let _: Option<()> = self.each_child(&source, |die, entry| {
            if !origins.contains(&die.id()) {
                match entry.tag() {
                    gimli::DW_TAG_formal_parameter | gimli::DW_TAG_variable => {
                        self.add(die, entry, found, block);
                    }
                    tag if is_block(tag) => self.flatten(&die, found, block, 0),
                    _ => {}
                }
            }
            ControlFlow::Continue(())
        });
    }

    /// The variables in a block that has no code of its own, as if there were no block.
    fn flatten(&self, scope: &Die, found: &mut Vec<Found>, block: usize, depth: usize) {
        if depth == DEEPEST_BLOCK {
            return;
        }
        let _: Option<()> = self.each_child(scope, |die, entry| {
            match entry.tag() {
                gimli::DW_TAG_variable => self.add(die, entry, found, block),
                tag if is_block(tag) => self.flatten(&die, found, block, depth + 1),
                _ => {}
            }
            ControlFlow::Continue(())
        });
    }

    fn add(&self, die: Die, entry: &Entry, found: &mut Vec<Found>, block: usize) {
        let flag = |name| {
            let value = self.attribute(&die.home, entry, name);
            matches!(value, Some((_, AttributeValue::Flag(true))))
        };
        let is_variable = entry.tag() == gimli::DW_TAG_variable;
        // What is declared here and defined elsewhere is no variable of this function.
        let elsewhere = is_variable
            && (matches!(
                entry.attr_value(gimli::DW_AT_declaration),
                Some(AttributeValue::Flag(true))
            ) || flag(gimli::DW_AT_external));
        if !elsewhere && found.len() <= MOST_VARIABLES {
            found.push(Found {
                die,
                is_argument: !is_variable,
                block,
            });
        }
    }
}

impl Level {
    /// Takes over what was found in a block further in.
    fn take(&mut self, found: Vec<Found>) {
        let (arguments, locals): (Vec<Found>, Vec<Found>) =
            found.into_iter().partition(|found| found.is_argument);
        self.arguments.extend(arguments);
        let outer = std::mem::replace(&mut self.locals, locals);
        self.locals.extend(outer);
        for all in [&mut self.arguments, &mut self.locals] {
            self.cut_short |= all.len() > MOST_VARIABLES;
            all.truncate(MOST_VARIABLES);
        }
    }
}

fn is_block(tag: DwTag) -> bool {
    matches!(
        tag,
        gimli::DW_TAG_lexical_block | gimli::DW_TAG_try_block | gimli::DW_TAG_catch_block
    )
}
