//! Nothing that pgpoke does can take the server down: one file a promise of docs/safety.md, proved by force.
//!
//! `make test` runs the short form of each, `make soak` the long one.

/// At any instruction of the server and of PL/pgSQL: what is called safe is.
mod anywhere;
/// The audit line.
pub mod audit;
/// Processes that pretend to be backends, to lure a pgpoke that runs as root.
mod forged;
/// Killed at any system call, and at any moment: a backend that goes on.
mod killed;
/// Interrupts by the thousand beside a busy load, and what is left of them: nothing.
mod load;
/// Something else happens at the same time.
mod races;
/// Whether the kernel keeps what all of it rests on.
mod selftest;
/// Signals of others, while it works: none lost, none doubled, and stops are theirs who made them.
mod signals;
/// Everything that a program has, and the calls that it is blocked in: as it left them.
mod state;
/// Let go in time, whatever it is that takes long.
mod time;

/// Frames by the thousand.
mod driver;
/// What a victim sees.
mod seen;

/// How often to do what is done again and again: less in `make test`, more in `make soak`.
fn times(short: usize, soak: usize) -> usize {
    match std::env::var_os("PGPOKE_SOAK") {
        Some(_) => soak,
        None => short,
    }
}

/// Of the system calls of one name so many at most, in the long form: whoever looks for a safe instruction, or for the
/// other end of a pipe, makes hundreds alike.
const MOST_OF_A_NAME: usize = 200;

/// A figure for docs/safety.md.
fn figure(what: &str, value: impl std::fmt::Display) {
    eprintln!("figure: {what}: {value}");
}
