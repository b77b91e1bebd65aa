//! LWLocks: what they are called, who holds them, and which of them a backend waits for.
//!
//! Facts from src/backend/storage/lmgr/lwlock.c and src/include/storage/lwlock.h, 12 to 18.

use std::collections::HashMap;

use super::siblings::{Siblings, pointer};
use super::statics::{HANDLE, HeldLwLocks, MOST_LWLOCKS, Statics};
use super::{Backend, Layout};
use crate::address::Avma;
use crate::memory::Memory;

/// The longest name of an extension's tranche (NAMEDATALEN).
const LONGEST_NAME: usize = 64;

/// `MAX_BACKENDS` (src/include/postmaster/postmaster.h): no more processes than that wait for a lock.
const MOST_PROCESSES: u64 = (1 << 18) - 1;

/// sizeof(LWLockPadded)
const PADDED: i64 = 128;

/// Where the head of the list of waiters is in an LWLock: behind the tranche and the state.
const WAITERS: i64 = 8;

/// How an LWLock is held or wanted (`LWLockMode`).
pub fn mode_name(mode: u8) -> &'static str {
    match mode {
        0 => "exclusive",
        1 => "shared",
        _ => "until-free",
    }
}

/// What the tranches of one server are called, as `pg_stat_activity.wait_event` has it.
#[derive(Debug, Default)]
pub struct Tranches {
    built_in: &'static [(u16, &'static str)],
    /// What the extensions in one backend's memory called theirs.
    of_extensions: HashMap<u16, String>,
}

impl Tranches {
    /// The names for a backend's server, those of extensions as far as they can be had.
    pub fn of(backend: &Backend, statics: &Statics) -> Self {
        let version = backend.version.as_ref();
        let layout = version.and_then(|v| Layout::of_major(v.major));
        let mut tranches = Self::built_in(layout);
        if let Some(first) = tranches.first_of_extensions() {
            tranches.of_extensions = names_of_extensions(backend, statics, first);
        }
        tranches
    }

    /// Those that a version has itself.
    pub(super) fn built_in(layout: Option<&'static Layout>) -> Self {
        Tranches {
            built_in: layout
                .and_then(|l| l.tranches.get())
                .copied()
                .unwrap_or_default(),
            of_extensions: HashMap::new(),
        }
    }

    /// `LWTRANCHE_FIRST_USER_DEFINED`: the number after the last one built in.
    fn first_of_extensions(&self) -> Option<u16> {
        self.built_in.iter().map(|(id, _)| id + 1).max()
    }

    /// What tranche `id` is called, if that is known.
    pub fn known_name(&self, id: u16) -> Option<&str> {
        let built_in = self.built_in.iter().find(|(number, _)| *number == id);
        let of_extensions = || self.of_extensions.get(&id).map(String::as_str);
        built_in.map(|(_, name)| *name).or_else(of_extensions)
    }

    /// What `pg_stat_activity.wait_event` says of tranche `id`: of one that only another process has registered,
    /// `extension` (GetLWTrancheName(), src/backend/storage/lmgr/lwlock.c).
    pub fn waited_for(&self, id: u16) -> Option<&str> {
        let of_extension = || self.first_of_extensions().is_some_and(|first| id >= first);
        self.known_name(id)
            .or_else(|| of_extension().then_some("extension"))
    }

    /// The same, or what to call it instead.
    pub fn name(&self, id: u16) -> String {
        match (self.known_name(id), self.first_of_extensions()) {
            (Some(name), _) => name.to_owned(),
            (None, Some(first)) if id >= first => format!("extension tranche {id}"),
            (None, _) => format!("tranche {id}"),
        }
    }
}

/// Whether a tranche of this name, as [`Tranches::name`] gives it, is the server's own in any version, or may be, for all that
/// is known.
pub fn may_be_built_in(name: &str) -> bool {
    let own = |major| {
        let tranches = Tranches::built_in(Layout::of_major(major));
        tranches.built_in.iter().any(|(_, own)| *own == name)
    };
    name.starts_with("tranche ") || (0..=99).any(own)
}

/// What the backend's own `LWLockRegisterTranche()` noted, and what the postmaster handed out before it started anyone.
fn names_of_extensions(backend: &Backend, statics: &Statics, first: u16) -> HashMap<u16, String> {
    /// Far more than any server has.
    const MOST: u32 = 256;
    let memory = backend.memory;
    let number = |at: Avma| memory.read_u32(at).ok().filter(|n| *n <= MOST);
    let name = |at: Avma| {
        let text = memory
            .read_c_string(pointer(memory, at)?, LONGEST_NAME)
            .ok()?;
        String::from_utf8(text).ok().filter(|t| !t.is_empty())
    };
    let mut names = HashMap::new();
    if let Some(table) = statics.tranche_names
        && let Some(array) = pointer(memory, table.names)
    {
        for n in 0..number(table.allocated).unwrap_or(0) {
            if let (Some(name), Some(id)) = (
                name(array.offset(i64::from(n) * 8)),
                first.checked_add(n as u16),
            ) {
                names.insert(id, name);
            }
        }
    }
    // struct NamedLWLockTranche: an int, and a pointer.
    let requested = backend.globals.get("NamedLWLockTrancheRequests");
    let array = backend.globals.get("NamedLWLockTrancheArray");
    if let Some(array) = array.and_then(|at| pointer(memory, at)) {
        for n in 0..requested.and_then(number).unwrap_or(0) {
            let entry = array.offset(i64::from(n) * 16);
            if let (Ok(id), Some(name)) = (memory.read_u32(entry), name(entry.offset(8)))
                && let Ok(id) = u16::try_from(id)
            {
                names.entry(id).or_insert(name);
            }
        }
    }
    names
}

/// One LWLock that a process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The lock.
    pub lock: Avma,
    /// How.
    pub mode: u8,
}

/// The LWLocks that a process notes to hold; none where that makes no sense.
pub fn held(memory: &dyn Memory, at: HeldLwLocks) -> Option<Vec<Held>> {
    let count = memory.read_u32(at.count).ok()?;
    if count > MOST_LWLOCKS {
        return None;
    }
    (0..count)
        .map(|n| {
            let entry = at.array.offset(i64::from(n) * HANDLE as i64);
            let lock = pointer(memory, entry)?;
            let mode = u8::try_from(memory.read_u32(entry.offset(8)).ok()?).ok()?;
            Some(Held { lock, mode })
        })
        .collect()
}

/// The tranche of the lock at `lock`.
pub fn tranche_of(memory: &dyn Memory, lock: Avma) -> Option<u16> {
    let mut id = [0; 2];
    memory.read(lock, &mut id).ok()?;
    Some(u16::from_le_bytes(id))
}

/// Who keeps a backend waiting.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wait {
    /// The lock; none where it could not be told.
    pub lock: Option<Avma>,
    /// Who holds it, by PID, and how. Empty and of no meaning without the lock.
    pub holders: Vec<(i32, u8)>,
    /// Where the lock could not be told: who holds one of the same tranche.
    pub candidates: Vec<i32>,
    /// How many processes of the server could not be read.
    pub unread: usize,
}

/// Finds what lock of `tranche` the backend waits for, and who holds it: the lock whose list of waiters the backend
/// is in. Reads the memory of all processes of the server, and stops none. None where the backend went on meanwhile.
pub fn find_wait(
    backend: &Backend,
    statics: &Statics,
    layout: &Layout,
    my_proc: Avma,
    tranche: Option<u16>,
) -> Option<Wait> {
    let at = statics.held_lwlocks?;
    let siblings = Siblings::of(backend);
    let mut wait = Wait {
        unread: siblings.unread,
        ..Wait::default()
    };
    let queue = Queue::find(backend, &siblings, layout, my_proc);
    let same_tranche = |memory: &dyn Memory, lock: Avma| {
        let id = tranche_of(memory, lock);
        id.is_some() && (tranche.is_none() || id == tranche)
    };
    let mut holdings = Vec::new();
    for sibling in &siblings.all {
        match held(&sibling.memory, at) {
            // A lock in dynamic shared memory has another address in each process: it is read where it is held.
            Some(held) => holdings.extend(
                held.into_iter()
                    .filter(|h| same_tranche(&sibling.memory, h.lock))
                    .map(|h| (sibling, h)),
            ),
            None if sibling.has_ended(backend) => {}
            None => wait.unread += 1,
        }
    }
    let awaited = |memory: &dyn Memory, lock: Avma| {
        let queue = queue.as_ref();
        queue.is_some_and(|q| q.has_me(memory, lock))
    };
    for (sibling, h) in &holdings {
        if awaited(&sibling.memory, h.lock) {
            wait.lock = Some(h.lock);
            // Once more: one that lets go by itself is not what keeps anyone waiting.
            if held(&sibling.memory, at).is_some_and(|now| now.contains(h)) {
                wait.holders.push((sibling.pid, h.mode));
            }
        }
    }
    // The first locks of the main array have their own tranches, whose numbers are their places.
    if wait.lock.is_none()
        && let (Some(id), Some(array)) = (tranche, backend.globals.get("MainLWLockArray"))
        && let Some(array) = pointer(backend.memory, array)
    {
        let lock = array.offset(i64::from(id) * PADDED);
        let is_it = same_tranche(backend.memory, lock) && awaited(backend.memory, lock);
        wait.lock = is_it.then_some(lock);
    }
    if wait.lock.is_none() && tranche.is_some() {
        wait.candidates = holdings.iter().map(|(s, _)| s.pid).collect();
        wait.candidates.dedup();
    }
    let still = my_proc.offset(layout.pgproc.get()?.lw_waiting as i64);
    (backend.memory.read_u8(still) != Ok(0)).then_some(wait)
}

/// The array of all PGPROCs: lists of waiters link them by number (src/include/storage/proclist.h).
struct Queue {
    procs: Avma,
    size: u64,
    /// `PGPROC.lwWaitLink`: the numbers of the next and the one before.
    link: u64,
    me: u32,
}

impl Queue {
    /// None unless the size of a PGPROC is right: each process's own has to lie at a multiple of it.
    fn find(
        backend: &Backend,
        siblings: &Siblings,
        layout: &Layout,
        my_proc: Avma,
    ) -> Option<Self> {
        let memory = backend.memory;
        // struct PROC_HDR begins with allProcs (src/include/storage/proc.h, 12 to 18).
        let procs = pointer(memory, pointer(memory, backend.globals.get("ProcGlobal")?)?)?;
        let offsets = layout.pgproc.get()?;
        let size = offsets.size;
        let number = |proc: Avma| {
            let into = proc.0.checked_sub(procs.0)?;
            (into % size == 0 && into / size < MOST_PROCESSES).then_some((into / size) as u32)
        };
        let at = backend.globals.get("MyProc")?;
        let theirs = siblings.all.iter();
        let all_fit = theirs
            .filter_map(|s| pointer(&s.memory, at))
            .all(|proc| number(proc).is_some());
        Some(Queue {
            procs,
            size,
            link: offsets.lw_wait_link,
            me: number(my_proc).filter(|_| all_fit)?,
        })
    }

    /// Whether the backend is in the list of the lock's waiters, linked as it should be.
    fn has_me(&self, memory: &dyn Memory, lock: Avma) -> bool {
        // INVALID_PGPROCNO is the largest int up to 16, INVALID_PROC_NUMBER -1 from 17 on: both are beyond.
        let valid = |n: &u32| u64::from(*n) < MOST_PROCESSES;
        let link = |n: u32| {
            let at = self.procs.0 + u64::from(n) * self.size + self.link;
            let word = memory.read_u64(Avma(at)).ok()?;
            Some((word as u32, (word >> 32) as u32))
        };
        let head = memory.read_u32(lock.offset(WAITERS)).ok();
        let (mut at, mut before) = (head.filter(valid), None);
        for _ in 0..MOST_PROCESSES {
            let Some((next, previous)) = at.and_then(link) else {
                return false;
            };
            if Some(previous).filter(valid) != before {
                return false;
            }
            if at == Some(self.me) {
                return true;
            }
            (before, at) = (at, Some(next).filter(valid));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::CapturedMemory;

    const HELD: HeldLwLocks = HeldLwLocks {
        count: Avma(0x100),
        array: Avma(0x1000),
    };

    fn memory(count: u32, entries: &[(u64, u32)]) -> CapturedMemory {
        let mut memory = CapturedMemory::default();
        memory.add(Avma(0x100), count.to_le_bytes().to_vec());
        let mut array = vec![0; 3200];
        for (n, (lock, mode)) in entries.iter().enumerate() {
            array[n * 16..n * 16 + 8].copy_from_slice(&lock.to_le_bytes());
            array[n * 16 + 8..n * 16 + 12].copy_from_slice(&mode.to_le_bytes());
        }
        memory.add(Avma(0x1000), array);
        memory
    }

    #[test]
    fn what_is_held_and_what_makes_no_sense() {
        let one = held(&memory(1, &[(0x7f00, 1)]), HELD);
        let lock = Avma(0x7f00);
        assert_eq!(one, Some(vec![Held { lock, mode: 1 }]));
        assert_eq!(held(&memory(0, &[]), HELD), Some(vec![]));
        assert_eq!(held(&memory(201, &[]), HELD), None);
        assert_eq!(held(&memory(u32::MAX, &[]), HELD), None);
        assert_eq!(held(&memory(1, &[]), HELD), None, "a null pointer");
        assert_eq!(held(&CapturedMemory::default(), HELD), None);
    }

    #[test]
    fn tranches_by_version() {
        let tranches = |major| Tranches {
            of_extensions: HashMap::from([(75, "mine".to_owned())]),
            ..Tranches::built_in(Layout::of_major(major))
        };
        assert_eq!(tranches(15).name(21), "AddinShmemInit");
        assert_eq!(tranches(12).name(21), "AddinShmemInitLock");
        assert_eq!(tranches(15).name(75), "mine");
        assert_eq!(tranches(15).name(76), "extension tranche 76");
        assert_eq!(tranches(11).name(21), "tranche 21");
        // LWTRANCHE_FIRST_USER_DEFINED
        let firsts = [
            (12, 70),
            (13, 73),
            (14, 72),
            (15, 75),
            (16, 77),
            (17, 92),
            (18, 95),
            (19, 100),
        ];
        for (major, first) in firsts {
            assert_eq!(
                tranches(major).first_of_extensions(),
                Some(first),
                "{major}"
            );
        }
    }

    /// Lists of waiters over processes of 16 bytes, each only its links: next and the one before.
    fn waiting(head: u32, links: &[(u32, u32)], me: u32) -> bool {
        let mut memory = CapturedMemory::default();
        let mut lock = vec![0; 8];
        lock.extend(head.to_le_bytes());
        memory.add(Avma(0x100), lock);
        let procs = links.iter().flat_map(|(next, before)| {
            let mut proc = next.to_le_bytes().to_vec();
            proc.extend(before.to_le_bytes());
            proc.extend([0; 8]);
            proc
        });
        memory.add(Avma(0x1000), procs.collect());
        let queue = Queue {
            procs: Avma(0x1000),
            size: 16,
            link: 0,
            me,
        };
        queue.has_me(&memory, Avma(0x100))
    }

    #[test]
    fn lists_of_waiters() {
        const NONE: u32 = i32::MAX as u32;
        let two = [(NONE, 1), (0, NONE)];
        assert!(waiting(1, &two, 0) && waiting(1, &two, 1));
        assert!(!waiting(NONE, &two, 0) && !waiting(u32::MAX, &two, 0));
        assert!(!waiting(1, &two, 5), "not in it");
        assert!(
            !waiting(0, &two, 0),
            "the head's link says that another comes before"
        );
        assert!(!waiting(0, &[(1, NONE), (0, 0)], 7), "a circle");
        assert!(!waiting(9, &two, 0), "beyond what can be read");
    }
}
