//! What is kept of a stuck backend for those who look for the fault later.

pub mod core;
