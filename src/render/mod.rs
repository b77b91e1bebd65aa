//! An assessment and an outcome as text or as JSON. Never sees a process.

pub mod json;
pub mod report;
pub mod samples;
pub mod screen;
pub mod text;
mod variables;
