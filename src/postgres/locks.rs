//! Heavyweight locks: what a backend waits for, and who keeps it from it, as `pg_blocking_pids()` has it.
//!
//! Facts from src/backend/storage/lmgr/lock.c (LockConflicts, GetBlockerStatusData) and
//! src/include/storage/lock.h, 13 to 18.

use super::siblings::{Siblings, pointer};
use super::{Backend, Layout, LockTable, PgProc, prove};
use crate::address::Avma;
use crate::memory::Memory;
use crate::process::Process;

/// The names of the modes by number, as `pg_locks.mode` has them.
const MODES: [&str; 9] = [
    "NoLock",
    "AccessShareLock",
    "RowShareLock",
    "RowExclusiveLock",
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
];

/// For each mode the set of those that it conflicts with, bit `n` for mode `n` (LockConflicts in lock.c, 12 to 18).
const CONFLICTS: [u32; 9] = [
    0,
    1 << 8,
    1 << 7 | 1 << 8,
    1 << 5 | 1 << 6 | 1 << 7 | 1 << 8,
    1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8,
    1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8,
    1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8,
    1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8,
    0x1fe,
];

/// The most sessions that are looked at in one lock's lists.
const MOST: usize = 20_000;

/// A heavyweight lock that a backend waits for.
#[derive(Debug, PartialEq, Eq)]
pub struct Wait {
    /// What it locks, in words.
    pub object: String,
    /// The mode wanted.
    pub mode: &'static str,
    /// Who is in the way; none where the lists made no sense.
    pub blockers: Option<Vec<Blocker>>,
}

/// One session that is in the way.
#[derive(Debug, PartialEq, Eq)]
pub struct Blocker {
    /// The PID of the leader of its parallel group, as the server knows it; 0 for a prepared transaction.
    pub server_pid: i32,
    /// The same in our PID namespace; none where no process of the server has it.
    pub pid: Option<i32>,
    /// The modes that it holds; empty for one that only stands before it in the queue.
    pub holds: Vec<&'static str>,
    /// The mode that it waits for itself, being before the backend in the queue.
    pub wants: Option<&'static str>,
}

/// Who keeps `process` from the lock that it waits for, by their PIDs as the server knows them. None where it waits for
/// none, or is no backend, or its server's tables are not known.
pub fn blockers_of(process: &Process) -> Option<Vec<i32>> {
    let backend = prove(process).ok()?;
    let layout = backend.version.as_ref()?.layout()?;
    let my_proc = pointer(&backend.memory, backend.globals.get("MyProc")?)?;
    let blockers = find_wait(&backend, layout, my_proc)?.blockers?;
    Some(blockers.iter().map(|b| b.server_pid).collect())
}

/// What the backend waits for and who blocks it, read from shared memory without a stop. None where it does not wait
/// (any more), or the version's tables are not known.
pub fn find_wait(backend: &Backend, layout: &Layout, my_proc: Avma) -> Option<Wait> {
    let table = Table {
        memory: backend.memory,
        proc: layout.pgproc.get()?,
        at: layout.lock_table.get()?,
    };
    let (lock, mode) = table.awaited(my_proc)?;
    let mode_name = MODES.get(mode as usize).filter(|_| mode > 0)?;
    let object = table.describe(lock)?;
    let blockers = table.blockers(lock, mode, my_proc).map(|found| {
        let siblings = Siblings::of(backend);
        found
            .into_iter()
            .map(|b| Blocker {
                pid: (b.server_pid == 0)
                    .then_some(0)
                    .or_else(|| siblings.pid_of(b.server_pid)),
                ..b
            })
            .collect()
    });
    // It may have got the lock, and even wait for another, meanwhile.
    (table.awaited(my_proc) == Some((lock, mode))).then_some(Wait {
        object,
        mode: mode_name,
        blockers,
    })
}

/// The shared lock table.
struct Table<'m> {
    memory: &'m dyn Memory,
    proc: &'m PgProc,
    at: &'m LockTable,
}

impl Table<'_> {
    /// The lock that a process waits for, and the mode.
    fn awaited(&self, proc: Avma) -> Option<(Avma, u32)> {
        let lock = pointer(self.memory, proc.offset(self.proc.wait_lock as i64))?;
        let mode = proc.offset(self.proc.wait_lock_mode as i64);
        Some((lock, self.memory.read_u32(mode).ok()?))
    }

    /// The leader of a process's parallel group by the lock that it waits for, or itself.
    fn leader_of_waiter(&self, proc: Avma) -> Option<Avma> {
        let field = proc.offset(self.proc.wait_proc_lock as i64);
        self.leader(pointer(self.memory, field)?)
    }

    fn leader(&self, proclock: Avma) -> Option<Avma> {
        pointer(self.memory, proclock.offset(self.at.group_leader))
    }

    fn pid(&self, proc: Avma) -> Option<i32> {
        let at = proc.offset(self.proc.pid as i64);
        self.memory.read_u32(at).ok().map(|pid| pid as i32)
    }

    /// Follows a circular list (SHM_QUEUE, from 16 on dlist: both are the one before, then the next) from its head.
    /// None if it does not come back.
    fn list(&self, head: Avma) -> Option<Vec<Avma>> {
        let mut nodes = Vec::new();
        let mut at = head;
        while nodes.len() < MOST {
            let next = match self.memory.read_u64(at.offset(8)).ok()? {
                // An empty dlist may be all zeros.
                0 if at == head => return Some(nodes),
                next => Avma(next),
            };
            if next == head {
                return Some(nodes);
            }
            if self.memory.read_u64(next).ok()? != at.0 {
                return None;
            }
            nodes.push(next);
            at = next;
        }
        None
    }

    /// Who is in the way of `mode` on `lock`.
    fn blockers(&self, lock: Avma, mode: u32, me: Avma) -> Option<Vec<Blocker>> {
        let conflicts = *CONFLICTS.get(mode as usize)?;
        let mine = self.leader_of_waiter(me)?;
        let mut found: Vec<Blocker> = Vec::new();
        let mut add = |leader: Avma, holds: u32, wants: Option<u32>| {
            let server_pid = self.pid(leader)?;
            let at = match found.iter().position(|b| b.server_pid == server_pid) {
                Some(at) => at,
                None => {
                    found.push(Blocker {
                        server_pid,
                        pid: None,
                        holds: Vec::new(),
                        wants: None,
                    });
                    found.len() - 1
                }
            };
            for (n, name) in MODES.iter().enumerate() {
                if holds & 1 << n != 0 && !found[at].holds.contains(name) {
                    found[at].holds.push(name);
                }
            }
            let wants = wants.and_then(|n| MODES.get(n as usize).copied());
            found[at].wants = found[at].wants.or(wants);
            Some(())
        };
        for node in self.list(lock.offset(self.at.proc_locks))? {
            let proclock = node.offset(-self.at.lock_link);
            // PROCLOCK begins with the lock and the process that it is about.
            if pointer(self.memory, proclock)? != lock {
                return None;
            }
            let leader = self.leader(proclock)?;
            let holds = self.memory.read_u32(proclock.offset(self.at.hold_mask));
            let holds = holds.ok()?;
            if leader != mine && holds & conflicts != 0 {
                add(leader, holds, None)?;
            }
        }
        // Those before the backend are served before it.
        for link in self.list(lock.offset(self.at.wait_procs))? {
            let proc = link.offset(-(self.proc.wait_link as i64));
            if proc == me {
                return Some(found);
            }
            let (its_lock, wants) = self.awaited(proc)?;
            if its_lock != lock {
                return None;
            }
            let leader = self.leader_of_waiter(proc)?;
            if leader != mine && wants < 32 && conflicts & 1 << wants != 0 {
                add(leader, 0, Some(wants))?;
            }
        }
        None
    }

    /// What the lock is on: its LOCKTAG, with which it begins, in words.
    fn describe(&self, lock: Avma) -> Option<String> {
        let mut tag = [0; 16];
        self.memory.read(lock, &mut tag).ok()?;
        let word = |at: usize| u32::from_le_bytes([tag[at], tag[at + 1], tag[at + 2], tag[at + 3]]);
        let (a, b, c) = (word(0), word(4), word(8));
        let d = u16::from_le_bytes([tag[12], tag[13]]);
        let kind = self.at.tags.get(usize::from(tag[14])).copied();
        Some(match kind.unwrap_or_default() {
            "relation" => format!("relation {b} of {}", database(a)),
            "extend" => format!("the right to extend relation {b} of {}", database(a)),
            "frozenid" => format!("datfrozenxid of {}", database(a)),
            "page" => format!("page {c} of relation {b} of {}", database(a)),
            "tuple" => format!("tuple ({c},{d}) of relation {b} of {}", database(a)),
            "transactionid" => format!("the end of transaction {a}"),
            "virtualxid" => format!("the end of virtual transaction {}/{b}", a as i32),
            "spectoken" => format!("the speculative insertion {b} of transaction {a}"),
            "object" => format!("object {c} of catalog {b} of {}", database(a)),
            // locktag_field4 is 1 for one 64-bit key and 2 for two of 32 (src/backend/utils/adt/lockfuncs.c).
            "advisory" if d == 1 => {
                let key = (u64::from(b) << 32 | u64::from(c)) as i64;
                format!("the advisory lock {key} of {}", database(a))
            }
            "advisory" => format!(
                "the advisory lock ({}, {}) of {}",
                b as i32,
                c as i32,
                database(a)
            ),
            "applytransaction" => format!("transaction {c} being applied by subscription {b}"),
            _ => format!("a lock of type {} ({a}, {b}, {c}, {d})", tag[14]),
        })
    }
}

/// OID 0 stands for what all databases share.
fn database(oid: u32) -> String {
    match oid {
        0 => "the whole cluster".into(),
        oid => format!("database {oid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::CapturedMemory;

    #[test]
    fn conflicts_are_mutual() {
        for (a, of_a) in CONFLICTS.iter().enumerate() {
            for (b, of_b) in CONFLICTS.iter().enumerate() {
                assert_eq!(of_a >> b & 1, of_b >> a & 1, "{a} {b}");
            }
        }
    }

    const LOCK: u64 = 0x10_000;
    const PROCS: u64 = 0x20_000;
    const PROCLOCKS: u64 = 0x30_000;

    fn layout() -> &'static Layout {
        Layout::of_major(15).unwrap()
    }

    /// A lock on a relation: for each session its PID, what it holds and what it waits for, in the queue's order.
    fn memory(sessions: &[(u32, u32, u32)], broken: bool) -> CapturedMemory {
        let mut image: Vec<u8> = vec![0; 0x30_000];
        let mut put = |at: u64, value: u64, size: usize| {
            let at = (at - LOCK) as usize;
            image[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
        };
        put(LOCK, 5, 4);
        put(LOCK + 4, 16384, 4);
        let (mut last_lock, mut last_wait) = (LOCK + 24, LOCK + 40);
        for (n, (pid, holds, wants)) in sessions.iter().enumerate() {
            let proc = PROCS + n as u64 * 880;
            let proclock = PROCLOCKS + n as u64 * 64;
            put(proc + 64, u64::from(*pid), 4);
            put(proclock, LOCK, 8);
            put(proclock + 8, proc, 8);
            put(proclock + 16, proc, 8);
            put(proclock + 24, u64::from(*holds), 4);
            put(last_lock + 8, proclock + 32, 8);
            put(proclock + 32, last_lock, 8);
            last_lock = proclock + 32;
            if *wants != 0 {
                put(proc + 112, LOCK, 8);
                put(proc + 120, proclock, 8);
                put(proc + 128, u64::from(*wants), 4);
                put(last_wait + 8, proc, 8);
                put(proc, last_wait, 8);
                last_wait = proc;
            }
        }
        put(last_lock + 8, if broken { 0x99 } else { LOCK + 24 }, 8);
        put(last_wait + 8, LOCK + 40, 8);
        let mut memory = CapturedMemory::default();
        memory.add(Avma(LOCK), image);
        memory
    }

    fn blockers(memory: &CapturedMemory, me: u64) -> Option<Vec<Blocker>> {
        let table = Table {
            memory,
            proc: layout().pgproc.get().unwrap(),
            at: layout().lock_table.get().unwrap(),
        };
        let me = Avma(PROCS + me * 880);
        let (lock, mode) = table.awaited(me)?;
        assert_eq!(
            table.describe(lock).unwrap(),
            "relation 16384 of database 5"
        );
        table.blockers(lock, mode, me)
    }

    fn blocker(server_pid: i32, holds: &[&'static str], wants: Option<&'static str>) -> Blocker {
        Blocker {
            server_pid,
            pid: None,
            holds: holds.to_vec(),
            wants,
        }
    }

    #[test]
    fn who_holds_and_who_waits_before() {
        // One reads, one wants to drop, a third wants to read and has to wait for the second only.
        let memory = memory(&[(100, 1 << 1, 0), (200, 0, 8), (300, 0, 1)], false);
        assert_eq!(
            blockers(&memory, 1),
            Some(vec![blocker(100, &["AccessShareLock"], None)])
        );
        assert_eq!(
            blockers(&memory, 2),
            Some(vec![blocker(200, &[], Some("AccessExclusiveLock"))])
        );
        assert_eq!(blockers(&memory, 0), None, "it waits for nothing");
    }

    #[test]
    fn a_list_that_does_not_come_back_is_not_believed() {
        let memory = memory(&[(100, 1 << 1, 0), (200, 0, 8)], true);
        assert_eq!(blockers(&memory, 1), None);
    }
}
