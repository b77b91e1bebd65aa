//! The bytes of a value, each known or not.

use super::MOST_BYTES;
use crate::address::Avma;

/// What is known of one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// All.
    Known,
    /// It is nowhere.
    OptimizedOut,
    /// Part of a pointer to something that is not in memory.
    Synthetic,
    /// It lies where nothing can be read.
    Unreadable,
}

/// A value, as far as it is known.
#[derive(Debug, Clone)]
pub struct Content {
    bytes: Vec<u8>,
    states: Vec<State>,
    /// Where it lies as a whole.
    pub address: Option<Avma>,
    /// How large it really is.
    size: u64,
}

impl Content {
    /// So many bytes, none of them known; or as many of them as are looked at.
    pub fn new(size: u64) -> Self {
        let kept = usize::try_from(size).map_or(MOST_BYTES, |size| size.min(MOST_BYTES));
        Content {
            bytes: vec![0; kept],
            states: vec![State::OptimizedOut; kept],
            address: None,
            size,
        }
    }

    /// How many bytes are kept of it.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether all of it is kept.
    pub fn is_whole(&self) -> bool {
        self.size == self.bytes.len() as u64
    }

    /// Learns bytes of it. What does not fit is left out.
    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        let count = bytes.len().min(self.len().saturating_sub(at));
        if let Some(there) = self.bytes.get_mut(at..at + count) {
            there.copy_from_slice(&bytes[..count]);
        }
        self.mark(at, count, State::Known);
    }

    /// Says what is known of a part of it.
    pub fn mark(&mut self, at: usize, count: usize, state: State) {
        let end = at.saturating_add(count).min(self.len());
        if let Some(states) = self.states.get_mut(at..end) {
            states.fill(state);
        }
    }

    /// The bytes of a part, if all of them are known; else the first reason why not.
    pub fn bytes(&self, at: usize, count: usize) -> Result<&[u8], State> {
        let end = at.checked_add(count).ok_or(State::Unreadable)?;
        let states = self.states.get(at..end).ok_or(State::Unreadable)?;
        match states.iter().find(|state| **state != State::Known) {
            None => Ok(&self.bytes[at..end]),
            Some(state) => Err(*state),
        }
    }

    /// Whether two parts cannot be told from one another.
    pub fn same(&self, one: usize, other: usize, count: usize) -> bool {
        let bytes = |at: usize| self.bytes.get(at..at.checked_add(count)?);
        let states = |at: usize| self.states.get(at..at.checked_add(count)?);
        bytes(one).is_some() && bytes(one) == bytes(other) && states(one) == states(other)
    }

    /// The state of all bytes, if it is one and the same.
    pub fn state(&self) -> Option<State> {
        let first = *self.states.first()?;
        self.states.iter().all(|s| *s == first).then_some(first)
    }
}
