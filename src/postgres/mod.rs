//! What PostgreSQL means: which process is a backend, of which version, where its variables are, and what its
//! numbers say. Everything that differs between versions lives here and nowhere else.

mod data_files;
mod globals;
mod handlers;
mod identity;
pub mod locks;
pub mod lwlocks;
mod memory_contexts;
mod servers;
pub mod settings;
mod siblings;
mod spin_delay;
mod statics;
pub mod status;
mod subtransactions;
mod title;
mod versions;
mod wait_events;
mod walsenders;
mod workers;

pub use data_files::{ClusterState, DataFiles, PostmasterStatus};
pub use globals::Globals;
pub use handlers::{Disposition, disposition};
pub use identity::{Backend, Lasting, NotABackend, Postmaster, lasting, prove, prove_with};
pub use servers::{Member, Server, Servers, Sweep};
pub(crate) use siblings::others;
pub use statics::{HeldLwLocks, Statics, TrancheNames};
pub use title::Title;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use versions::ROWS;
pub use versions::{Activity, BackendType, Layout, LockTable, PgProc, Version, backend_status};
pub use wait_events::{Wait, WaitEvents};
pub use walsenders::{Receiver, Stream, Synchronous};
pub use workers::{Restart, Worker, parallel_leader, parallel_workers};

/// Classes of wait events: the highest byte of `wait_event_info` (src/include/utils/wait_event.h).
pub mod wait_class {
    /// Waiting for an LWLock.
    pub const LWLOCK: u32 = 0x01;
    /// Waiting for a heavyweight lock.
    pub const LOCK: u32 = 0x03;
    /// Waiting for a buffer that others have pinned.
    pub const BUFFER_PIN: u32 = 0x04;
    /// Waiting for the client.
    pub const CLIENT: u32 = 0x06;
    /// Waiting in an extension.
    pub const EXTENSION: u32 = 0x07;
    /// Waiting for a time to pass.
    pub const TIMEOUT: u32 = 0x09;
}
