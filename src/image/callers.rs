//! Who can call a function that has no name: the named functions that refer to it, directly or through others without
//! a name.
//!
//! In a stripped server only static functions lack a name. Such a function is reached by a direct call or jump, or its
//! address is taken somewhere; both show in the file, as x86-64 refers to code by 32-bit displacements, by words in data,
//! and (where an executable is not position-independent) by absolute addresses. All positions are looked at, not only
//! those where an instruction is known to start: what looks like a reference and is none only makes the answer vaguer.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Image, Svma};

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

/// What refers to one function.
#[derive(Debug, Default)]
struct References {
    /// Where it is called or jumped to.
    sites: Vec<u64>,
    taken: bool,
}

impl Image {
    /// Finds who can call each of the functions that start at `functions`. Reads the whole code: some milliseconds.
    pub(super) fn find_callers(&self, functions: &[Svma]) -> Vec<Callers> {
        // For each nameless function its direct callers: names, and other nameless functions.
        let mut known: BTreeMap<u64, (BTreeSet<String>, BTreeSet<u64>, References)> =
            BTreeMap::new();
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
                let mut names = BTreeSet::new();
                let mut nameless = BTreeSet::new();
                for site in &references.sites {
                    let site = Svma(*site);
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
                known.insert(function, (names, nameless, references));
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
                    let Some((own, nameless, references)) = known.get(&function) else {
                        callers.incomplete = true;
                        continue;
                    };
                    // Nobody at all refers to the part of a function that was moved away, or to what was missed.
                    callers.incomplete |= references.sites.is_empty() && !references.taken;
                    callers.by_address |= references.taken;
                    names.extend(own.iter().cloned());
                    todo.extend(nameless.iter().filter(|f| seen.insert(**f)));
                }
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
        let code = self.code()?;
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
                    true => references.sites.push(site),
                    false => references.taken = true,
                }
            }
            if absolute && let Some(references) = found.get_mut(&u64::from(word)) {
                references.taken = true;
            }
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

/// Whether the displacement that follows these bytes is a call's or a jump's: `e8`, `e9`, `0f 80` to `0f 8f` (Intel SDM,
/// volume 2). The one of a `lea` follows a ModRM byte, which none of these can be.
fn is_branch(before: &[u8]) -> bool {
    matches!(before, [.., 0xe8 | 0xe9] | [.., 0x0f, 0x80..=0x8f])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_jumps_are_told_from_other_references() {
        assert!(is_branch(&[0x90, 0xe8]));
        assert!(is_branch(&[0xe9]));
        assert!(is_branch(&[0x0f, 0x84]));
        assert!(!is_branch(&[0x48, 0x8d, 0x3d]), "lea to %rdi");
        assert!(!is_branch(&[]));
    }
}
