//! How much memory the images of one process may take, all together.

use std::cell::Cell;

/// A process maps as many images as it likes. Postgres itself with its debug information, and libLLVM's symbols, are
/// 50 MiB; beside what is kept, sections are read one at a time, and pgpoke is to stay below 256 MiB.
const MOST_HELD: u64 = 96 << 20;

thread_local! {
    /// An image stays on its thread.
    static HELD: Cell<u64> = const { Cell::new(0) };
}

/// A share of the memory, given back in the end.
#[derive(Debug, Default)]
pub(super) struct Held(u64);

impl Held {
    /// Takes more. False where there is not so much left.
    pub(super) fn add(&mut self, bytes: u64) -> bool {
        let all = HELD.get().saturating_add(bytes);
        if all > MOST_HELD {
            return false;
        }
        HELD.set(all);
        self.0 += bytes;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.set(HELD.get().saturating_sub(self.0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_can_be_taken_again() {
        let (mut one, mut other) = (Held::default(), Held::default());
        assert!(one.add(MOST_HELD - 1) && other.add(1));
        assert!(!other.add(1) && !other.add(u64::MAX));
        drop(one);
        assert!(other.add(MOST_HELD - 1) && !other.add(1));
    }
}
