//! pgpoke against real servers and backends that are really stuck.

mod capture;
mod harness;
/// The JSON, held to what scripts rely on.
mod report;

/// Why it is stuck and whether it is safe to step in, for every way of getting stuck.
mod inspect;
/// Stepping in, where it may, once, and only when asked.
mod interrupt;
/// Which lock, and who holds it.
mod locks;
/// What pgpoke refuses to touch.
mod refusals;
/// What is printed as JSON is what the published schema says.
mod schema;
/// The harness is the measuring instrument of every other test, so it is measured first.
mod self_test;
/// pgpoke's stacks beside those of gdb and eu-stack.
mod stacks;
/// What is left behind when pgpoke is killed, or anything else goes wrong around it: a backend that
/// goes on.
mod survival;
