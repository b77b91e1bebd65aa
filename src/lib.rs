#![deny(unsafe_code)]
pub mod assess;
pub mod cli;
pub mod image;
pub mod intervene;
pub mod memory;
pub mod postgres;
pub mod process;
pub mod render;
pub mod snapshot;
pub mod tracee;
pub mod unwind;
