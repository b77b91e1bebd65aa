//! Which functions of an image may hold a spinlock that another one took for them.
//!
//! A function that takes a spinlock and returns without releasing it leaves it to its caller, whose own code does not show
//! that. So does LockBufHdr(), which the server exports. Whoever can come to such a function by calls and jumps may hold
//! one; so may whoever is jumped to on the way, as a function that jumps away is on no stack any more. All others hold none
//! but what their own code takes, provided that nobody comes to a function that leaves one by its address or its name: by
//! a pointer, from SQL, or from another image. Else nothing is known of any function of the image.
//!
//! Whatever cannot be read counts as what leaves one.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Image;
use super::elf::LoadedSection;
use super::imports::ImportedNames;
use crate::address::Svma;
use crate::arch::{Left, To, Way, Ways};

/// Locks the header of a buffer for its caller (src/backend/storage/buffer/bufmgr.c).
const LOCKS_FOR_CALLER: &str = "LockBufHdr";
/// The most functions that are looked at for spinlocks, and the most code of theirs.
const MOST_TAKING: usize = 4096;
const MOST_TAKING_CODE: u64 = 4 << 20;
/// The most functions of an image one of which leaves a spinlock, and the most code. PostgreSQL has some 17,000, of 8 MiB.
const MOST_FUNCTIONS: usize = 64 << 10;
const MOST_CODE: u64 = 16 << 20;

/// Who may hold a spinlock that another function took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Handed {
    /// Nobody: each function releases what it takes.
    Nowhere,
    /// Everybody, as far as can be told.
    Anywhere,
    /// Everybody but the functions that start here, sorted.
    NotTo(Vec<Svma>),
}

impl Handed {
    /// Whether the function that starts at `start` may hold one.
    pub fn reaches(&self, start: Svma) -> bool {
        match self {
            Handed::Nowhere => false,
            Handed::Anywhere => true,
            Handed::NotTo(free) => free.binary_search(&start).is_err(),
        }
    }
}

impl Image {
    /// The constants among the first four arguments of the call that returns to `returns_to`, by its code. Reads the whole
    /// code; never while a backend stands still.
    pub fn constant_arguments(&self, returns_to: Svma) -> Option<[Option<u64>; 4]> {
        let (start, size) = self.function_bounds(Svma(returns_to.0.checked_sub(1)?))?;
        let code = Code::of(self)?;
        let function = code.at(start, size)?;
        let (all, at) = (&code.text.bytes, code.text.start);
        let machine = self.machine();
        machine.constant_arguments(&function, start, returns_to, all, at)
    }

    /// Looks for who may hold a spinlock that another function took.
    pub(super) fn hand_out(&self) -> Handed {
        match self.leaves_spinlocks() {
            Some(false) => Handed::Nowhere,
            Some(true) => self.followed().map_or(Handed::Anywhere, Handed::NotTo),
            None => Handed::Anywhere,
        }
    }

    /// Whether one of its functions leaves a spinlock, or may call what does. None where it cannot be told.
    fn leaves_spinlocks(&self) -> Option<bool> {
        let code = self.code()?;
        let taking = self.machine().may_take_spinlocks(&code.bytes)?;
        if self.names_lock_for_caller()? {
            return Some(true);
        }
        let mut functions = BTreeMap::new();
        let (mut known, mut all) = (0..0, 0);
        for at in taking {
            let at = code.start.0.wrapping_add(at as u64);
            if known.contains(&at) {
                continue;
            }
            let (start, size) = self.function_bounds(Svma(at))?;
            known = start.0..start.0.saturating_add(size);
            if functions.insert(start, size).is_none() {
                all += size.min(MOST_TAKING_CODE);
            }
            if functions.len() > MOST_TAKING || all > MOST_TAKING_CODE {
                return None;
            }
        }
        for (start, size) in functions {
            self.learn_spinlocks(start, size);
            if self.known_spinlocks(start)?.are_left_held() {
                return Some(true);
            }
        }
        Some(false)
    }

    /// Whether it may use the server's LockBufHdr(). Linkers let a name be the end of a longer one.
    fn names_lock_for_caller(&self) -> Option<bool> {
        let names = self.section(".dynstr").ok()??;
        let ended = [LOCKS_FOR_CALLER.as_bytes(), b"\0"].concat();
        Some(memchr::memmem::find(&names.bytes, &ended).is_some())
    }

    /// The functions to which no spinlock comes. None where that cannot be told of any.
    fn followed(&self) -> Option<Vec<Svma>> {
        let graph = Graph::read(self)?;
        // Nobody may have its address, either.
        if self.names_lock_for_caller()? && self.is_only_called(LOCKS_FOR_CALLER) != Some(true) {
            return None;
        }
        let leaving = graph.leaving()?;
        // Whoever has its address or its name can call it, and then anybody else of this image while its lock is held.
        let starts = leaving.keys().map(|f| graph.functions[*f].start.0);
        if self.has_address_taken(&starts.collect()) {
            return None;
        }
        free_of(&graph.functions, &leaving)
    }
}

/// Where a way leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leads {
    /// To a function of this image, by its number.
    Here(usize),
    /// To the server's LockBufHdr().
    LocksForCaller,
    /// To another image's function, or to one that a variable names: none that leaves a lock has its address taken.
    Away,
    /// That cannot be told.
    Unknown,
}

/// A way out of a function.
#[derive(Debug, Clone, Copy)]
struct Step {
    site: Svma,
    leads: Leads,
    comes_back: bool,
}

/// A function, or a part of one that lies elsewhere.
#[derive(Debug)]
struct Function {
    start: Svma,
    size: u64,
    out: Vec<Step>,
    jumps_anywhere: bool,
    /// What it may leave of what its own code takes.
    leaves: Left,
}

/// All functions of an image, and where they lead.
#[derive(Debug)]
struct Graph<'i> {
    code: Code<'i>,
    functions: Vec<Function>,
}

impl<'i> Graph<'i> {
    fn read(image: &'i Image) -> Option<Self> {
        // Stubs are no functions: whoever calls one calls what it jumps to.
        let stubs = image.stub_ranges();
        let mut bounds = image.all_functions(MOST_FUNCTIONS)?;
        bounds.retain(|(start, _)| !stubs.iter().any(|s| s.contains(&start.0)));
        let overlap = |pair: &[(Svma, u64)]| pair[1].0.0 - pair[0].0.0 < pair[0].1;
        let add = |sum: u64, (_, size): &(Svma, u64)| sum.saturating_add(*size);
        if bounds.iter().fold(0, add) > MOST_CODE || bounds.windows(2).any(overlap) {
            return None;
        }
        let code = Code::of(image)?;
        let names = Names::of(image)?;
        let own_lock = image.symbols().by_name(&[LOCKS_FOR_CALLER]);
        let own_lock = own_lock
            .get(LOCKS_FOR_CALLER)
            .map(|(symbol, _)| symbol.start);
        let mut functions = Vec::with_capacity(bounds.len());
        for (start, size) in &bounds {
            let Ways {
                out,
                jumps_anywhere,
                takes_lock,
            } = image.machine().ways(&code.at(*start, *size)?, *start)?;
            let mut leaves = Left::default();
            if takes_lock {
                image.learn_spinlocks(*start, *size);
                leaves = image.known_spinlocks(*start)?.may_leave();
            }
            leaves.header |= own_lock == Some(*start);
            let step = |way: &Way| Step {
                site: way.site,
                leads: names.leads(way, &bounds),
                comes_back: way.comes_back,
            };
            functions.push(Function {
                start: *start,
                size: *size,
                out: out.iter().map(step).collect(),
                jumps_anywhere,
                leaves,
            });
        }
        Some(Graph { code, functions })
    }

    /// The functions that may be left with a lock held, by their numbers, and with what. None where one may go anywhere with
    /// it.
    fn leaving(&self) -> Option<BTreeMap<usize, Left>> {
        let callers = callers(&self.functions);
        let mut leaving = BTreeMap::new();
        let mut todo: BTreeSet<usize> = (0..self.functions.len())
            .filter(|n| {
                let function = &self.functions[*n];
                let calls_it = |s: &Step| s.leads == Leads::LocksForCaller;
                !function.leaves.is_none() || function.out.iter().any(calls_it)
            })
            .collect();
        // What one may leave only ever grows, and there are two kinds: this comes to an end.
        while let Some(n) = todo.pop_first() {
            let left = self.left_by(n, &leaving)?;
            if left.anywhere {
                return None;
            }
            if !left.is_none() && leaving.insert(n, left) != Some(left) {
                todo.extend(&callers[n]);
            }
        }
        Some(leaving)
    }

    /// What a function may leave held, if others leave it as much as in `leaving`.
    fn left_by(&self, n: usize, leaving: &BTreeMap<usize, Left>) -> Option<Left> {
        let function = &self.functions[n];
        let mut all = function.leaves;
        let mut left_to_it = Vec::new();
        for step in &function.out {
            let left = match step.leads {
                Leads::Here(to) => leaving.get(&to).copied().unwrap_or_default(),
                Leads::LocksForCaller => Left {
                    header: true,
                    ..Left::default()
                },
                Leads::Away | Leads::Unknown => Left::default(),
            };
            match step.comes_back {
                _ if left.is_none() => {}
                true => left_to_it.push((step.site, left)),
                // Its caller is left what that leaves.
                false => all = all.and(left),
            }
        }
        if !left_to_it.is_empty() {
            let code = self.code.at(function.start, function.size)?;
            let machine = self.code.image.machine();
            all = all.and(machine.passed_on(&code, function.start, &left_to_it)?);
        }
        Some(all)
    }
}

/// For each function those that lead to it, in order.
fn callers(functions: &[Function]) -> Vec<Vec<usize>> {
    let mut callers = vec![Vec::new(); functions.len()];
    for (n, function) in functions.iter().enumerate() {
        for step in &function.out {
            if let Leads::Here(to) = step.leads
                && callers[to].last() != Some(&n)
            {
                callers[to].push(n);
            }
        }
    }
    callers
}

/// The functions to which none of the locks come that those `leaving` leave, sorted. None where that cannot be told of
/// any.
fn free_of(functions: &[Function], leaving: &BTreeMap<usize, Left>) -> Option<Vec<Svma>> {
    // Whoever can come to one.
    let callers = callers(functions);
    let leads_on = |n: &usize| {
        let mut out = functions[*n].out.iter();
        out.any(|s| matches!(s.leads, Leads::LocksForCaller | Leads::Unknown))
    };
    let first = (0..functions.len()).filter(leads_on);
    let mut todo: Vec<usize> = first.chain(leaving.keys().copied()).collect();
    let mut held: BTreeSet<usize> = todo.iter().copied().collect();
    while let Some(n) = todo.pop() {
        todo.extend(callers[n].iter().filter(|by| held.insert(**by)));
    }
    // Whoever is jumped to by those, with what they may hold: their own frame is gone then.
    let mut todo: Vec<usize> = held.iter().copied().collect();
    while let Some(n) = todo.pop() {
        let jumps = functions[n].out.iter().filter(|s| !s.comes_back);
        for step in jumps {
            if let Leads::Here(to) = step.leads
                && held.insert(to)
            {
                todo.push(to);
            }
        }
    }
    // And by those that are jumped to with one for certain.
    let mut todo: Vec<usize> = leaving.keys().copied().collect();
    let mut jumped_to = BTreeSet::new();
    while let Some(n) = todo.pop() {
        for step in functions[n].out.iter().filter(|s| !s.comes_back) {
            match step.leads {
                Leads::Here(to) if jumped_to.insert(to) => {
                    if functions[to].jumps_anywhere {
                        return None;
                    }
                    todo.push(to);
                }
                Leads::Unknown => return None,
                _ => {}
            }
        }
    }
    let all = functions.iter().enumerate();
    let free = all.filter(|(n, _)| !held.contains(n)).map(|(_, f)| f.start);
    Some(free.collect())
}

/// The code of an image, read once.
#[derive(Debug)]
struct Code<'i> {
    image: &'i Image,
    text: LoadedSection,
}

impl<'i> Code<'i> {
    fn of(image: &'i Image) -> Option<Self> {
        let text = image.code()?;
        Some(Code { image, text })
    }

    /// All of the `size` bytes at `start`; none where some are missing.
    fn at(&self, start: Svma, size: u64) -> Option<Cow<'_, [u8]>> {
        let in_text = || {
            let from = usize::try_from(start.0.checked_sub(self.text.start.0)?).ok()?;
            let to = from.checked_add(usize::try_from(size).ok()?)?;
            self.text.bytes.get(from..to)
        };
        if let Some(bytes) = in_text() {
            return Some(bytes.into());
        }
        let bytes = self.image.bytes_at(start, size).ok()?;
        (bytes.len() as u64 == size).then_some(bytes.into())
    }
}

/// What leads where by its name: stubs, and the slots that they and calls go through.
struct Names<'i> {
    image: &'i Image,
    stubs: HashMap<Svma, Svma>,
    slots: HashMap<Svma, u32>,
    symbols: ImportedNames,
}

impl<'i> Names<'i> {
    fn of(image: &'i Image) -> Option<Self> {
        Some(Names {
            image,
            stubs: image.slots_of_stubs(),
            slots: image.relocations_by_name().into_iter().collect(),
            symbols: image.imported_names()?,
        })
    }

    /// Where a way leads, among the functions with these `bounds`.
    fn leads(&self, way: &Way, bounds: &[(Svma, u64)]) -> Leads {
        let (at, slot) = match way.to {
            To::At(at) => (Some(at), self.stubs.get(&at)),
            To::Through(ref slot) => (None, Some(slot)),
        };
        let Some(slot) = slot else {
            return at.and_then(|at| here(at, bounds)).unwrap_or(Leads::Unknown);
        };
        let Some(symbol) = self.slots.get(slot) else {
            // A variable with the address of whatever function, if it is not a slot that could not be read.
            let is_variable = self.image.lies_in(*slot, &[".data", ".bss"]);
            return match way.comes_back && is_variable {
                true => Leads::Away,
                false => Leads::Unknown,
            };
        };
        match (self.symbols.defined_at(*symbol), self.symbols.of(*symbol)) {
            (_, Some(name)) if name == LOCKS_FOR_CALLER => Leads::LocksForCaller,
            (Some(at), _) => here(at, bounds).unwrap_or(Leads::Unknown),
            (None, Some(_)) => Leads::Away,
            (None, None) => Leads::Unknown,
        }
    }
}

fn here(at: Svma, bounds: &[(Svma, u64)]) -> Option<Leads> {
    let n = bounds
        .partition_point(|(start, _)| *start <= at)
        .checked_sub(1)?;
    let (start, size) = bounds[n];
    (at.0 - start.0 < size).then_some(Leads::Here(n))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEFT: Left = Left {
        plain: true,
        header: false,
        anywhere: false,
    };

    /// Functions at 0x10, 0x20, …, with their ways out: where to, and whether it is a call.
    fn functions(ways: &[&[(Leads, bool)]]) -> Vec<Function> {
        let step = |(leads, comes_back): &(Leads, bool)| Step {
            site: Svma(0),
            leads: *leads,
            comes_back: *comes_back,
        };
        let ways = ways.iter().enumerate();
        ways.map(|(n, out)| Function {
            start: Svma(0x10 * (n as u64 + 1)),
            size: 0x10,
            out: out.iter().map(step).collect(),
            jumps_anywhere: false,
            leaves: Left::default(),
        })
        .collect()
    }

    fn free(functions: &[Function], leaving: &[usize]) -> Option<Vec<u64>> {
        let leaving = leaving.iter().map(|n| (*n, LEFT)).collect();
        let found = free_of(functions, &leaving)?;
        Some(found.iter().map(|s| s.0 / 0x10 - 1).collect())
    }

    #[test]
    fn callers_and_whoever_is_jumped_to() {
        let (call, jump) = (|n| (Leads::Here(n), true), |n| (Leads::Here(n), false));
        let all = functions(&[
            &[jump(3)],          // 0 leaves one
            &[call(0), call(4)], // 1 calls it
            &[call(1), jump(5)], // 2 calls who calls it, and jumps away
            &[],                 // 3 is jumped to
            &[],                 // 4 is called by who may hold one
            &[call(6)],          // 5 is jumped to
            &[],                 // 6 is called
            &[(Leads::Away, true)],
            &[(Leads::Unknown, true)],
            &[call(8)],
            &[(Leads::LocksForCaller, true)],
        ]);
        assert_eq!(free(&all, &[0]), Some(vec![4, 6, 7]));
        assert_eq!(free(&all, &[]), Some((0..8).collect()));
    }

    #[test]
    fn with_a_lock_to_an_unknown_place() {
        let mut all = functions(&[&[(Leads::Here(1), false)], &[], &[]]);
        assert_eq!(free(&all, &[0]), Some(vec![2]));
        all[1].jumps_anywhere = true;
        assert_eq!(free(&all, &[0]), None);
        all[1].jumps_anywhere = false;
        all[1].out = functions(&[&[(Leads::Unknown, false)]]).remove(0).out;
        assert_eq!(free(&all, &[0]), None);
    }

    /// Against all paths, followed one by one.
    #[test]
    fn no_path_leads_from_who_is_free_to_who_leaves_one() {
        let mut state = 1u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
            (state >> 33) as usize % below
        };
        let mut counts = [0; 2];
        for _ in 0..2000 {
            let count = 2 + random(9);
            let ways: Vec<Vec<(Leads, bool)>> = (0..count)
                .map(|_| {
                    let ways = (0..random(3)).map(|_| (Leads::Here(random(count)), random(3) > 0));
                    ways.collect()
                })
                .collect();
            let ways: Vec<&[(Leads, bool)]> = ways.iter().map(Vec::as_slice).collect();
            let all = functions(&ways);
            let leaving = random(count);
            let found = free(&all, &[leaving]).expect("no way is unknown");
            let comes_to = |from: usize, jumps_only: bool, to: usize| {
                let mut seen = vec![from];
                let mut next = 0;
                while let Some(n) = seen.get(next).copied() {
                    next += 1;
                    for (leads, comes_back) in ways[n] {
                        let Leads::Here(n) = leads else { continue };
                        if !(seen.contains(n) || jumps_only && *comes_back) {
                            seen.push(*n);
                        }
                    }
                }
                seen.contains(&to)
            };
            for n in 0..count {
                let holds = comes_to(n, false, leaving)
                    || (0..count).any(|by| comes_to(by, false, leaving) && comes_to(by, true, n));
                assert_eq!(
                    found.contains(&(n as u64)),
                    !holds,
                    "{n} of {ways:?}, {leaving}"
                );
                counts[usize::from(holds)] += 1;
            }
        }
        assert!(counts.iter().all(|n| *n > 1000), "{counts:?}");
    }
}
