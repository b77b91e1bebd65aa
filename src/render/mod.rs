//! An assessment and an outcome as text or as JSON. Never sees a process.

pub mod forms;
pub mod json;
pub mod ladder;
pub mod list;
pub mod report;
pub mod samples;
pub mod schema;
pub mod screen;
pub mod selftest;
pub mod text;
mod variables;
