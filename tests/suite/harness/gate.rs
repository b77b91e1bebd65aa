//! Keeps tests that measure times apart from those that keep the processors busy.

use std::cell::Cell;
use std::sync::{Condvar, Mutex, MutexGuard};

static GATE: Mutex<State> = Mutex::new(State {
    running: 0,
    alone: false,
    waiting: 0,
});
static CHANGED: Condvar = Condvar::new();

struct State {
    /// Servers that do not mind each other.
    running: usize,
    /// The one that does.
    alone: bool,
    /// Tests that want to be alone.
    waiting: usize,
}

thread_local! {
    /// The servers of this test: whoever has one already may have another, or two of those that
    /// wait would wait for each other.
    static OWN: Cell<usize> = const { Cell::new(0) };
}

/// The right to run a server; given back when it is dropped, on the thread that took it.
pub struct Pass {
    alone: bool,
}

impl Pass {
    /// Waits until no test is alone, or wants to be.
    pub fn together() -> Self {
        let own = OWN.get();
        let busy = |state: &mut State| own == 0 && (state.alone || state.waiting > 0);
        let mut state = CHANGED.wait_while(state(), busy).expect("a state");
        state.running += 1;
        OWN.set(own + 1);
        Self { alone: false }
    }

    /// Waits until no other test has a server.
    pub fn alone() -> Self {
        assert_eq!(OWN.get(), 0, "this test has a server already");
        let mut state = state();
        state.waiting += 1;
        let busy = |state: &mut State| state.alone || state.running > 0;
        let mut state = CHANGED.wait_while(state, busy).expect("a state");
        state.waiting -= 1;
        state.alone = true;
        OWN.set(1);
        Self { alone: true }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = state();
        if self.alone {
            state.alone = false;
        } else {
            state.running -= 1;
        }
        OWN.set(OWN.get() - 1);
        CHANGED.notify_all();
    }
}

/// Nothing panics while it holds the lock.
fn state() -> MutexGuard<'static, State> {
    GATE.lock().expect("a state")
}
