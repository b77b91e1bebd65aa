//! pgpoke against real servers and backends that are really stuck.

mod capture;
mod harness;
mod inspect;
mod interrupt;
mod refusals;
mod report;

/// The harness is the measuring instrument of every other test, so it is measured first.
mod self_test;
