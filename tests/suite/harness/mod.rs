//! Throwaway servers, backends stuck on purpose, and pgpoke run against them.
//!
//! ```ignore
//! let server = Server::start();
//! server.install_testext();
//! let stuck = server.stuck("SELECT pgpoke_spin()");
//! stuck.prove_stuck(How::Cancel);
//! Run::pgpoke(["interrupt", "--yes", &stuck.pid().to_string()]).assert_code(0);
//! assert_eq!(stuck.result().unwrap_err().code(), "57014");
//! server.assert_unharmed();
//! ```
//!
//! Every wait is for a fact, has a deadline, and says at the deadline what it was waiting for. The
//! one exception is the proof that a backend does *not* obey: that takes a quarter of a second.
//! Every server asserts when it is dropped that its log shows no crash recovery.

mod backend;
mod gate;
mod installation;
mod run;
mod server;
mod stuck;

use std::time::{Duration, Instant};

pub use backend::Backend;
pub use installation::{Installation, checked};
pub use run::{
    Run, as_other_user, as_server_user, as_stranger, as_user_without_ptrace, denying,
    heeding_signals, kept, pgpoke, published, tampered,
};
pub use server::{Builder, Server};
pub use stuck::{Failure, How, Outcome, Stuck};

/// Long enough for a busy machine; whoever waits that long has found a bug.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Polls until `look` finds something, and panics with `what` when `deadline` has passed.
#[track_caller]
pub fn wait_for<T>(deadline: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(
            start.elapsed() < deadline,
            "waited {deadline:?} in vain: {what}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Who runs the tests.
pub fn effective_uid() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}

/// May the tests take on other users' identities, and have they capabilities to drop?
pub fn is_root() -> bool {
    effective_uid() == 0
}

/// Leaves the test, loudly; use it through [`skip!`].
#[track_caller]
pub fn skipped(reason: &str) {
    eprintln!("SKIPPED: {reason}");
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    let forbidden = ci || std::env::var_os("PGPOKE_NO_SKIP").is_some();
    assert!(
        !forbidden,
        "this test may not be skipped here, but: {reason}"
    );
}

/// `skip!("reason")` returns from a test that cannot run here, and says so on stderr. Where CI=true
/// or PGPOKE_NO_SKIP is set it fails instead: a test that is silently not run proves nothing.
macro_rules! skip {
    ($($reason:tt)+) => {{
        $crate::harness::skipped(&format!($($reason)+));
        return;
    }};
}
pub(crate) use skip;

/// A server that has testext's functions; on which installation and with which settings, a builder
/// may say. Where there are no headers to build them with, returns from the test through [`skip!`].
macro_rules! server_with_testext {
    () => {
        $crate::harness::server_with_testext!($crate::harness::Server::builder())
    };
    ($builder:expr) => {{
        match $builder.start_with_testext() {
            Ok(server) => server,
            Err(reason) => $crate::harness::skip!("{reason}"),
        }
    }};
}
pub(crate) use server_with_testext;

/// An installation that had to be built: where it was not, returns from the test through [`skip!`].
macro_rules! built {
    ($installation:expr) => {
        match $installation {
            Some(installation) => installation,
            None => $crate::harness::skip!(
                "PostgreSQL was not built from its sources: run scripts/build-postgres.sh"
            ),
        }
    };
}
pub(crate) use built;

/// An installation that had to be fetched: where it was not, returns from the test through [`skip!`].
macro_rules! fetched {
    ($installation:expr) => {
        match $installation {
            Some(installation) => installation,
            None => $crate::harness::skip!(
                "another PostgreSQL was not fetched: run scripts/fetch-postgres.sh"
            ),
        }
    };
}
pub(crate) use fetched;
