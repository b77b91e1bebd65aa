//! A name for CommitSubTransaction(), which is static, and nameless in a stripped server.
//!
//! It makes a subtransaction part of its parent, step by step, and calls extensions meanwhile
//! (src/backend/access/transam/xact.c). The exported ReleaseCurrentSubTransaction() does nothing but call it, after it
//! looked at the state; what that may complain with, others complain with, too.

use std::collections::BTreeSet;

use super::statics::Code;
use crate::address::Svma;
use crate::arch::Deed;
use crate::image::{Module, Symbol};

const END: &str = "CommitSubTransaction";
const RELEASES: &str = "ReleaseCurrentSubTransaction";
/// They make the same complaint (BlockStateAsString(), static, too), and never commit a subtransaction.
const OTHERS: [&str; 3] = [
    "BeginInternalSubTransaction",
    "DefineSavepoint",
    "ReleaseSavepoint",
];

/// Where it starts. Names it in the server's image, where symbols do not.
pub(super) fn find_end(server: &Module) -> Option<Svma> {
    let wanted = [&[END, RELEASES], &OTHERS[..]].concat();
    let symbols = server.image.symbols().by_name(&wanted);
    if let Some((end, _)) = symbols.get(END) {
        return Some(end.start);
    }
    let called = |name: &str| {
        let function = symbols.get(name).map(|(symbol, _)| symbol);
        function.map_or(Some(BTreeSet::new()), |f| called_without_a_name(server, f))
    };
    let mut candidates = called(RELEASES)?;
    for other in OTHERS {
        let others = called(other)?;
        candidates.retain(|f| !others.contains(f));
    }
    let end = candidates.pop_first()?;
    // Two, and nobody could tell which.
    candidates.is_empty().then_some(())?;
    server.image.tell_name(end, END);
    Some(end)
}

/// The functions without a name that a function calls, or jumps to in its own place. A part of itself that the compiler
/// moved away is reached by a conditional jump. None where its code cannot be read.
fn called_without_a_name(server: &Module, function: &Symbol) -> Option<BTreeSet<Svma>> {
    let image = &server.image;
    let inside = function.start.0..function.start.0.saturating_add(function.size);
    let code = Code::read(server, function.start, function.size)?;
    let targets = code.0.into_iter().filter_map(|deed| match deed {
        Deed::Goes(to) => Some(to),
        _ => None,
    });
    let begins_there = |at: Svma| {
        image
            .function_bounds(at)
            .is_some_and(|(start, _)| start == at)
    };
    let nameless = targets
        .filter(|at| !inside.contains(&at.0) && image.function_at(*at).is_none())
        .filter(|at| begins_there(*at));
    Some(nameless.collect())
}
