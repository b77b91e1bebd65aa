//! Walsenders: who receives from one, and whether commits wait for that.

use serde::{Deserialize, Serialize};

use super::siblings::{Siblings, pointer};
use super::versions::{sync_rep_config, walsender};
use super::{Backend, Globals, Layout};
use crate::memory::Memory;

/// How far a walsender's stream has come, positions in the WAL as the server counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// It was told that the server stops (`WALSNDSTATE_STOPPING`), and ends when its receiver has confirmed everything
    /// (WalSndDone(), src/backend/replication/walsender.c).
    pub stopping: bool,
    /// It has sent everything before this position.
    pub sent: u64,
    /// Its receiver has confirmed everything before this one: what it has flushed, and where it tells nothing of that, what
    /// it has written.
    pub confirmed: u64,
}

impl Stream {
    /// That of the walsender with this memory, whose PID is `pid` as the server knows it. None where it streams nothing.
    pub fn of(memory: &dyn Memory, globals: &Globals, pid: i32) -> Option<Self> {
        let at = pointer(memory, globals.get("MyWalSnd")?)?;
        let number = |offset: i64| memory.read_u32(at.offset(offset)).ok();
        let position = |offset: i64| memory.read_u64(at.offset(offset)).ok();
        let state = number(walsender::STATE)?;
        let streams = (walsender::CATCHUP..=walsender::STOPPING).contains(&state);
        let flushed = position(walsender::FLUSH)?;
        let stream = Stream {
            stopping: state == walsender::STOPPING,
            sent: position(walsender::SENT)?,
            confirmed: match flushed {
                0 => position(walsender::WRITE)?,
                flushed => flushed,
            },
        };
        (streams && number(walsender::PID)? == pid as u32).then_some(stream)
    }

    /// A position as the server writes it.
    pub fn position(at: u64) -> String {
        format!("{:X}/{:X}", at >> 32, at as u32)
    }
}

/// Who receives from a walsender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receiver {
    /// It gets a base backup, and not a stream.
    pub in_backup: bool,
    /// Whether commits may wait for it: none where synchronous_standby_names does not name it, and while it catches up.
    pub synchronous: Option<Synchronous>,
}

/// What synchronous_standby_names asks for (src/backend/replication/syncrep.c).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Synchronous {
    /// So many standbys have to confirm a commit.
    pub needed: u32,
    /// So many others that may do that receive at present. None where it is not known.
    pub others: Option<u32>,
}

impl Receiver {
    /// Reads what a walsender and those beside it say. Takes reading the memory of all processes of the server where
    /// commits may wait for this one: never while a backend stands still.
    pub fn of(backend: &Backend) -> Option<Self> {
        let layout = backend.version.as_ref()?.layout()?;
        let globals = &backend.globals;
        let own = Entry::read(backend.memory, globals, backend.inner_pid, layout)?;
        Some(Receiver {
            in_backup: own.state == walsender::BACKUP,
            synchronous: match own.confirms() {
                true => Some(Synchronous {
                    needed: needed(backend.memory, globals)?,
                    others: others(backend, layout),
                }),
                false => None,
            },
        })
    }
}

/// How many standbys are asked for. The list is a process's own, made anew when it reads its settings.
fn needed(memory: &dyn Memory, globals: &Globals) -> Option<u32> {
    let at = pointer(memory, globals.get("SyncRepConfig")?)?;
    let number = |offset: i64| memory.read_u32(at.offset(offset)).ok();
    let needed = number(sync_rep_config::NUM_SYNC)?;
    let named = number(sync_rep_config::NAMED)?;
    // Those that are needed may be more than those that are named: "*" stands for many.
    let believable = 1..=sync_rep_config::MOST;
    (believable.contains(&needed) && believable.contains(&named)).then_some(needed)
}

/// How many other walsenders have a standby that commits may wait for, as SyncRepGetCandidateStandbys() counts them.
fn others(backend: &Backend, layout: &Layout) -> Option<u32> {
    let siblings = Siblings::of(backend);
    let confirm = siblings.all.iter().filter(|s| {
        s.inner_pid != backend.inner_pid
            && Entry::read(&s.memory, &backend.globals, s.inner_pid, layout)
                .is_some_and(|e| e.confirms())
    });
    let count = u32::try_from(confirm.count()).ok();
    count.filter(|_| siblings.unread == 0)
}

/// A walsender's entry in shared memory, `WalSnd`.
struct Entry {
    state: u32,
    priority: u32,
    has_flushed: bool,
}

impl Entry {
    /// It is believed only where it is the process's own, and each of its fields is one that the server may have written.
    fn read(memory: &dyn Memory, globals: &Globals, pid: i32, layout: &Layout) -> Option<Self> {
        let at = pointer(memory, globals.get("MyWalSnd")?)?;
        let number = |offset: i64| memory.read_u32(at.offset(offset)).ok();
        let entry = Entry {
            state: number(walsender::STATE)?,
            priority: number(*layout.walsender_priority.get()?)?,
            has_flushed: memory.read_u64(at.offset(walsender::FLUSH)).ok()? != 0,
        };
        let is_its_own = number(walsender::PID)? == pid as u32;
        let believable =
            entry.state <= walsender::LAST_STATE && entry.priority <= sync_rep_config::MOST;
        (is_its_own && believable).then_some(entry)
    }

    /// Whether commits may wait for its receiver (SyncRepGetCandidateStandbys()).
    fn confirms(&self) -> bool {
        let streams = [walsender::STREAMING, walsender::STOPPING].contains(&self.state);
        streams && self.priority > 0 && self.has_flushed
    }
}
