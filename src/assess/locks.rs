//! Locks in words: what a backend holds, what it waits for, and who lets it wait.

use super::rules;
use crate::postgres::lwlocks::mode_name;
use crate::snapshot::{Blocker, Frame, Halted, HeldLwLock, LockWait, LwLockWait, Snapshot};

/// How many processes are named in one sentence.
const MOST_NAMED: usize = 10;

/// The LWLocks that it holds, in words; none where it holds none, or that is not known.
pub(super) fn held(s: &Snapshot) -> Option<String> {
    let held = s.variables.lwlocks().filter(|held| !held.is_empty())?;
    let mut names: Vec<String> = held
        .iter()
        .take(MOST_NAMED)
        .map(HeldLwLock::describe)
        .collect();
    if held.len() > MOST_NAMED {
        names.push(format!("{} more", held.len() - MOST_NAMED));
    }
    let plural = if held.len() == 1 { "" } else { "s" };
    Some(format!("the LWLock{plural} {}", names.join(", ")))
}

/// The mode that it wants an LWLock in.
pub fn awaited_mode(s: &Snapshot) -> Option<&'static str> {
    s.variables.lw_wait_mode.map(mode_name)
}

/// The LWLock that it waits for, in words.
pub(super) fn awaited(s: &Snapshot) -> String {
    let tranche = s.locks.tranche.as_ref();
    let mode = awaited_mode(s).map_or(String::new(), |m| format!(" ({m})"));
    match tranche {
        Some(tranche) => format!("the LWLock {tranche}{mode}"),
        None => format!("an LWLock{mode}"),
    }
}

/// The PIDs of those that hold the very LWLock that it waits for; none where that is not known for all of them.
pub fn lwlock_holders(s: &Snapshot) -> Option<Vec<i32>> {
    let wait = s.locks.lwlock.as_ref()?;
    let holders = wait.holders.as_ref()?;
    // One that could not be looked into may share it; an exclusive lock has one holder.
    let complete = wait.unread == 0 || holders.iter().any(|h| h.mode == 0);
    complete.then(|| holders.iter().map(|h| h.pid).collect())
}

/// Whether the lock that it waits for is one that it holds itself.
pub(super) fn waits_for_itself(s: &Snapshot) -> bool {
    let lock = s.locks.lwlock.as_ref().and_then(|w| w.lock);
    let held = s.variables.lwlocks().unwrap_or_default();
    lock.is_some_and(|lock| held.iter().any(|h| h.lock == lock))
}

/// What is known of an awaited LWLock and its holders.
pub(super) fn lwlock_evidence(s: &Snapshot) -> Vec<String> {
    let mut evidence = Vec::new();
    let Some(wait) = &s.locks.lwlock else {
        return evidence;
    };
    evidence.push(holders_evidence(s, wait));
    if wait.unread > 0 {
        evidence.push(format!(
            "{} of the server's processes could not be looked into",
            wait.unread
        ));
    }
    evidence
}

fn holders_evidence(s: &Snapshot, wait: &LwLockWait) -> String {
    let candidates = || pids(&wait.candidates);
    match (wait.lock, &wait.holders) {
        (Some(lock), Some(holders)) if !holders.is_empty() => {
            let each: Vec<String> = holders
                .iter()
                .take(MOST_NAMED)
                .map(|h| {
                    let who = match h.pid == s.pid {
                        true => "the backend itself".to_owned(),
                        false => format!("process {}", h.pid),
                    };
                    format!("{who} ({})", mode_name(h.mode))
                })
                .collect();
            format!(
                "that lock, at {lock}, by its list of waiters, is held by {}",
                each.join(", ")
            )
        }
        (Some(lock), _) => format!(
            "that lock, at {lock}, by its list of waiters: no process that could be looked into holds it"
        ),
        (None, _) if wait.candidates.is_empty() => {
            "which lock of that name it is could not be told, nor who holds one".into()
        }
        (None, _) => format!(
            "which lock of that name it is could not be told; candidates, which hold one: {}",
            candidates()
        ),
    }
}

/// Whom to look at: those that hold the lock, or else the candidates.
pub(super) fn whom_to_look_at(s: &Snapshot) -> Vec<i32> {
    let Some(wait) = &s.locks.lwlock else {
        return Vec::new();
    };
    let holders = wait.holders.iter().flatten().map(|h| h.pid);
    let all = holders.chain(wait.candidates.iter().copied());
    all.filter(|pid| *pid != s.pid).collect()
}

/// Whose wait for a spinlock it is: the innermost frame that is not of the wait itself.
pub(super) fn spinlock_taker(s: &Snapshot) -> Option<&Frame> {
    let frames = &s.stack.as_ref()?.frames;
    let waits = |f: &Frame| rules::SPINLOCK_WAIT.has(f);
    let first = frames.iter().position(waits)?;
    frames[first..].iter().find(|f| !waits(f))
}

/// Where in the source the spinlock is taken that it waits for.
pub(super) fn spinlock_taken_at(s: &Snapshot) -> Option<String> {
    let (file, line) = s.locks.spinlock.as_ref()?.taken_at.as_ref()?;
    Some(format!("{file}:{line}"))
}

/// The processes of its server that do not run, if it waits for a spinlock.
pub(super) fn spinlock_halted(s: &Snapshot) -> &[Halted] {
    let wait = s.locks.spinlock.as_ref();
    wait.and_then(|w| w.halted.as_deref()).unwrap_or_default()
}

/// Those that stand where the server's code may hold a spinlock.
pub(super) fn spinlock_suspects(s: &Snapshot) -> impl Iterator<Item = &Halted> {
    spinlock_halted(s)
        .iter()
        .filter(|h| h.may_hold == Some(true))
}

/// What is known of who may hold the spinlock that it waits for.
pub(super) fn spinlock_evidence(s: &Snapshot) -> Vec<String> {
    let mut evidence = Vec::new();
    let Some(wait) = &s.locks.spinlock else {
        return evidence;
    };
    let frames = s.stack.iter().flat_map(|stack| &stack.frames);
    // The code of the one that takes it cannot tell whether it has got it.
    let above = frames
        .skip_while(|f| !rules::SPINLOCK_WAIT.has(f))
        .skip_while(|f| rules::SPINLOCK_WAIT.has(f))
        .skip(1);
    evidence.extend(
        above
            .filter(|f| f.spinlock == Some(true))
            .map(|f| format!("{} may be holding one, perhaps this one", f.describe())),
    );
    evidence.push("who holds a spinlock is noted nowhere".to_owned());
    let Some(halted) = &wait.halted else {
        return evidence;
    };
    evidence.extend(halted.iter().take(MOST_NAMED).map(describe_halted));
    if halted.len() > MOST_NAMED {
        let more = halted.len() - MOST_NAMED;
        evidence.push(format!("{more} more processes of the server do not run"));
    }
    if halted.is_empty() {
        evidence.push(match wait.unread {
            0 => "no other process of the server is stopped, traced or in state D: one that runs holds it, or it was left taken".into(),
            n => format!("{n} of the server's processes could not be looked at"),
        });
    }
    evidence
}

fn describe_halted(h: &Halted) -> String {
    let how = match h.state {
        'T' => "is stopped",
        't' => "is stopped by who traces it",
        _ => "is in a system call that nothing interrupts",
    };
    let at = h.function.as_ref();
    let at = at.map_or_else(String::new, |f| format!(", in {f}"));
    let may = match h.may_hold {
        Some(true) => ", whose code may be holding a spinlock there",
        _ => "",
    };
    format!("process {} {how} (state {}){at}{may}", h.pid, h.state)
}

/// Process numbers, a bounded list of them.
pub(super) fn pids(pids: &[i32]) -> String {
    let mut names: Vec<String> = pids.iter().take(MOST_NAMED).map(i32::to_string).collect();
    if pids.len() > MOST_NAMED {
        names.push(format!("{} more", pids.len() - MOST_NAMED));
    }
    names.join(", ")
}

/// The PIDs of those that block a heavyweight lock, as `pg_blocking_pids()` has them but in our PID namespace; none
/// where one of them is not known.
pub fn blocked_by(s: &Snapshot) -> Option<Vec<i32>> {
    let blockers = s.locks.heavyweight.as_ref()?.blockers.as_ref()?;
    blockers.iter().map(|b| b.pid).collect()
}

/// What is known of an awaited heavyweight lock and of who is in its way.
pub(super) fn lock_evidence(wait: &LockWait) -> Vec<String> {
    let mut evidence = vec![format!("it wants {} on {}", wait.mode, wait.object)];
    match &wait.blockers {
        None => evidence.push("who is in the way could not be told".into()),
        Some(blockers) => evidence.extend(blockers.iter().take(MOST_NAMED).map(describe)),
    }
    evidence
}

/// A session that is in the way, named.
pub(super) fn name(b: &Blocker) -> String {
    match (b.server_pid, b.pid) {
        (0, _) => "a prepared transaction".into(),
        (_, Some(pid)) => format!("process {pid}"),
        (server_pid, None) => format!("the process that the server knows as {server_pid}"),
    }
}

fn describe(b: &Blocker) -> String {
    match (&b.holds[..], &b.wants) {
        ([], Some(wants)) => format!("{} waits before it, for {wants}", name(b)),
        ([], None) => format!("{} is in the way", name(b)),
        (holds, _) => format!("{} holds {}", name(b), holds.join(" and ")),
    }
}
