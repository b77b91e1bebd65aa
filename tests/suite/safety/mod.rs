//! Nothing that pgpoke does can take the server down: one file a promise of docs/safety.md, proved by force.
//!
//! `make test` runs the short form of each, `make soak` the long one.

/// Killed at any system call, and at any moment: a backend that goes on.
mod killed;
/// Something else happens at the same time.
mod races;
/// Let go in time, whatever it is that takes long.
mod time;

/// How often to do what is done again and again: less in `make test`, more in `make soak`.
fn times(short: usize, soak: usize) -> usize {
    match std::env::var_os("PGPOKE_SOAK") {
        Some(_) => soak,
        None => short,
    }
}

/// A figure for docs/safety.md.
fn figure(what: &str, value: impl std::fmt::Display) {
    eprintln!("figure: {what}: {value}");
}
