//! Who can call a function that has no name: the named functions that refer to it, directly or through others without
//! a name.
//!
//! In a stripped server only static functions lack a name. Such a function is reached by a direct call or jump, or its
//! address is taken somewhere; both show in the file, in the code ([`references`](crate::arch::MachineCode::references))
//! and as words in data.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Image;
use crate::address::Svma;
use crate::arch::References;

/// How far functions without a name are followed to those that call them.
const LONGEST_CHAIN: usize = 4;
/// More nameless functions on the way than these are not followed.
const MOST_FUNCTIONS: usize = 64;

/// Who can call one function.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Callers {
    /// The named functions that call it or jump to it, directly or through others without a name. Sorted.
    pub named: Vec<String>,
    /// Its address, or that of another on the way, is taken: whoever has the pointer can call it, too.
    pub by_address: bool,
    /// There may be others, since the search was given up.
    pub incomplete: bool,
}

impl Callers {
    /// In a few words, to follow the function's address.
    pub fn describe(&self) -> String {
        const MOST: usize = 3;
        if self.named.is_empty() || self.incomplete {
            return String::new();
        }
        let shown = &self.named[..self.named.len().min(MOST)];
        let more = match (self.named.len() > MOST, self.by_address) {
            (true, _) => " and others",
            (false, true) => " or through a pointer",
            (false, false) => "",
        };
        format!(" (called by {}{more})", shown.join(", "))
    }
}

/// Who refers to one function.
#[derive(Debug)]
struct Referrers {
    names: BTreeSet<String>,
    nameless: BTreeSet<u64>,
    taken: bool,
    /// Whether anyone but itself does.
    referred: bool,
}

impl Image {
    /// Finds who can call each of the functions that start at `functions`. Reads the whole code: some milliseconds.
    pub(super) fn find_callers(&self, functions: &[Svma]) -> Vec<Callers> {
        // For each nameless function its direct callers: names, and other nameless functions.
        let mut known: BTreeMap<u64, Referrers> = BTreeMap::new();
        let mut next: BTreeSet<u64> = functions.iter().map(|f| f.0).collect();
        let mut unfinished = false;
        for _ in 0..LONGEST_CHAIN {
            if next.is_empty() || known.len() + next.len() > MOST_FUNCTIONS {
                break;
            }
            let Some(found) = self.references(&next) else {
                break;
            };
            next.clear();
            for (function, references) in found {
                unfinished |= references.incomplete;
                let mut names = BTreeSet::new();
                let mut nameless = BTreeSet::new();
                // A function that calls itself is called by no one for that.
                let mut referred = references.taken;
                for site in &references.sites {
                    let site = Svma(*site);
                    let own = self.function_bounds(site).map(|(start, _)| start.0);
                    referred |= own != Some(function);
                    match (self.function_at(site), self.function_bounds(site)) {
                        (Some(symbol), _) => {
                            names.insert(symbol.name.to_owned());
                        }
                        (None, Some((start, _))) if start.0 == function => {}
                        (None, Some((start, _))) => {
                            nameless.insert(start.0);
                        }
                        (None, None) => unfinished = true,
                    }
                }
                next.extend(&nameless);
                known.insert(
                    function,
                    Referrers {
                        names,
                        nameless,
                        taken: references.taken,
                        referred,
                    },
                );
            }
            next.retain(|f| !known.contains_key(f));
        }
        functions
            .iter()
            .map(|start| {
                let mut callers = Callers {
                    incomplete: unfinished,
                    ..Callers::default()
                };
                let mut names = BTreeSet::new();
                let mut seen = BTreeSet::from([start.0]);
                let mut todo = vec![start.0];
                while let Some(function) = todo.pop() {
                    let Some(by) = known.get(&function) else {
                        callers.incomplete = true;
                        continue;
                    };
                    // Nobody at all refers to the part of a function that was moved away, or to what was missed.
                    callers.incomplete |= !by.referred;
                    callers.by_address |= by.taken;
                    names.extend(by.names.iter().cloned());
                    todo.extend(by.nameless.iter().filter(|f| seen.insert(**f)));
                }
                callers.incomplete |= names.is_empty() && !callers.by_address;
                callers.named = names.into_iter().collect();
                callers
            })
            .collect()
    }

    /// Whether the address of one of the functions that start at `functions` is taken, or may be: in code, in data, or as
    /// that of an exported symbol.
    pub(super) fn has_address_taken(&self, functions: &BTreeSet<u64>) -> bool {
        let is_taken =
            |found: BTreeMap<u64, References>| found.values().any(|r| r.taken || r.incomplete);
        !functions.is_empty() && self.references(functions).is_none_or(is_taken)
    }

    /// All references to `functions`. None where the file does not say what is code, or nobody here can read it.
    fn references(&self, functions: &BTreeSet<u64>) -> Option<BTreeMap<u64, References>> {
        let code = self.code()?;
        let absolute = self.is_at_a_fixed_address();
        let machine = self.machine();
        let mut found = machine.references(&code.bytes, code.start, functions, absolute)?;
        for section in self.data()? {
            for word in section.bytes.as_chunks::<8>().0 {
                if let Some(references) = found.get_mut(&u64::from_le_bytes(*word)) {
                    references.taken = true;
                }
            }
        }
        Some(found)
    }
}
