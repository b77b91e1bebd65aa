//! What PostgreSQL means: which process is a backend, of which version, where its variables are, and what its
//! numbers say. Everything that differs between versions lives here and nowhere else.

mod globals;
mod handlers;
mod identity;
pub mod locks;
pub mod lwlocks;
mod memory_contexts;
pub mod settings;
mod siblings;
mod statics;
mod title;
mod versions;

pub use globals::Globals;
pub use handlers::{Disposition, disposition};
pub use identity::{Backend, NotABackend, Postmaster, prove, prove_with};
pub use statics::{HeldLwLocks, Statics, TrancheNames};
pub use title::Title;
pub use versions::{Activity, BackendType, Layout, LockTable, PgProc, Version, backend_status};

/// Classes of wait events: the highest byte of `wait_event_info` (src/include/utils/wait_event.h).
pub mod wait_class {
    /// Waiting for an LWLock.
    pub const LWLOCK: u32 = 0x01;
    /// Waiting for a heavyweight lock.
    pub const LOCK: u32 = 0x03;
    /// Waiting for the client.
    pub const CLIENT: u32 = 0x06;
}
