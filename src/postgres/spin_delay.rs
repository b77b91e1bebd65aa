//! Whether a process waits for a spinlock, told without stopping it.
//!
//! Whoever waits for one sleeps in perform_spin_delay() (src/backend/storage/lmgr/s_lock.c). From 16 on it says so by a
//! wait event; before that nothing but its stack tells.

use std::ops::Range;

use crate::address::Avma;
use crate::image::Module;
use crate::memory::{Memory, ProcessMemory};
use crate::process::Process;

/// How much of the stack is looked at: the frames of the C library's and PostgreSQL's own function for a short sleep.
const MOST_STACK: usize = 512;

/// Where the server's executable, and so each of its processes, has perform_spin_delay(): every address that a call in it
/// returns to.
pub(super) fn code(executable: &Module) -> Option<Range<Avma>> {
    const NAME: &str = "perform_spin_delay";
    let symbols = executable.image.symbols().by_name(&[NAME]);
    let (symbol, _) = symbols.get(NAME)?;
    let (start, size) = executable.image.function_bounds(symbol.start)?;
    let start = executable.bias.to_avma(start);
    (size > 0).then(|| start.offset(1)..start.offset(size as i64 + 1))
}

/// Whether the process sleeps on behalf of that code, by its innermost stack. None where that cannot be told: it runs, or
/// may not be looked into. It is likely, not proved: nobody unwound the stack.
pub(super) fn sleeps_in(
    code: &Range<Avma>,
    process: &Process,
    memory: &ProcessMemory,
) -> Option<bool> {
    let place = process.standing_at()?;
    let mut stack = [0; MOST_STACK];
    let (sp, _) = place;
    memory.read(sp, &mut stack).ok()?;
    // What it went on from meanwhile proves nothing.
    (process.standing_at() == Some(place)).then(|| returns_to(code, &stack))
}

/// Whether a word of the stack is an address in `code`.
fn returns_to(code: &Range<Avma>, stack: &[u8]) -> bool {
    let words = stack.as_chunks::<8>().0.iter();
    words
        .map(|w| Avma(u64::from_le_bytes(*w)))
        .any(|at| code.contains(&at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_the_code_and_none_beside_it() {
        let code = Avma(0x1001)..Avma(0x1081);
        let stack = |word: u64| {
            let mut stack = vec![0xff; 64];
            stack[24..32].copy_from_slice(&word.to_le_bytes());
            returns_to(&code, &stack)
        };
        assert!(stack(0x1001) && stack(0x1080));
        assert!(!stack(0x1000) && !stack(0x1081) && !stack(0));
        assert!(!returns_to(&code, &[]));
    }

    /// This very process, which waits for nothing of PostgreSQL's.
    #[test]
    fn who_runs_is_not_known() {
        let me = Process::open(std::process::id() as i32).unwrap();
        let memory = ProcessMemory::open(me.pid());
        let everything = Avma(0)..Avma(u64::MAX);
        let found = sleeps_in(&everything, &me, &memory);
        assert!(matches!(found, None | Some(true)));
    }
}
