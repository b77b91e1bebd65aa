//! Who can call a function that has no name: the named functions that refer to it, directly or through others without
//! a name.
//!
//! In a stripped server only static functions lack a name. Such a function is reached by a direct call or jump, or its
//! address is taken somewhere; both show in the file, as x86-64 refers to code by 32-bit displacements, by words in data,
//! and (where an executable is not position-independent) by absolute addresses. All positions are looked at, not only
//! those where an instruction is known to start: what looks like a reference and is none only makes the answer vaguer.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::elf::LoadedSection;
use super::{Image, Svma};

/// How far functions without a name are followed to those that call them.
const LONGEST_CHAIN: usize = 4;
/// The most references to one function that are looked at; more are no function's.
const MOST_SITES: usize = 50_000;
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

/// What refers to one function.
#[derive(Debug, Default)]
struct References {
    /// Where it is called or jumped to.
    sites: Vec<u64>,
    taken: bool,
    /// There are more than were noted.
    incomplete: bool,
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

    /// All references to `functions`. None where the file does not say what is code.
    fn references(&self, functions: &BTreeSet<u64>) -> Option<BTreeMap<u64, References>> {
        let mut found: BTreeMap<u64, References> = functions
            .iter()
            .map(|f| (*f, References::default()))
            .collect();
        let (first, last) = (*functions.first()?, *functions.last()?);
        let code = self.code().filter(|_| self.is_x86_64())?;
        let absolute = self.is_at_a_fixed_address();
        for (at, word) in code.bytes.windows(4).enumerate() {
            let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            let site = code.start.0.wrapping_add(at as u64);
            let target = site
                .wrapping_add(4)
                .wrapping_add_signed((word as i32).into());
            // Nothing refers to what comes right after it; zeros there are padding.
            if word != 0
                && (first..=last).contains(&target)
                && let Some(references) = found.get_mut(&target)
            {
                match is_branch(&code.bytes[..at]) {
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
            references.sites.extend(short_jumps(&code, *target));
        }
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

/// Where a jump with a displacement of one byte to `target` may be: `eb`, `70` to `7f` (Intel SDM, volume 2).
fn short_jumps(code: &LoadedSection, target: u64) -> Vec<u64> {
    let from = target.saturating_sub(2 + 127).max(code.start.0);
    let jumps = |at: u64| {
        let into = usize::try_from(at - code.start.0).ok()?;
        let (&opcode, &displacement) = (code.bytes.get(into)?, code.bytes.get(into + 1)?);
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
    fn short_jumps_are_found_in_both_directions() {
        let mut bytes = vec![0x90; 300];
        bytes[10..12].copy_from_slice(&[0xeb, 0x64]); // to 112
        bytes[200..202].copy_from_slice(&[0x74, 0xa6]); // to 112
        let code = LoadedSection {
            start: Svma(0x1000),
            bytes,
        };
        assert_eq!(
            short_jumps(&code, 0x1000 + 112),
            [0x1000 + 10, 0x1000 + 200]
        );
        assert_eq!(short_jumps(&code, 0x1000 + 113), [] as [u64; 0]);
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
