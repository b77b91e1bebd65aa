//! What can be told of a spinlock that a backend waits for: where it is taken, and who of the server might hold it.

use super::{Frame, Halted, Snapshot, SpinlockWait};
use crate::address::{Avma, Svma};
use crate::arch::x86_64::spinlocks::Release;
use crate::image::{Image, ModuleKind};
use crate::postgres::{Backend, others};
use crate::process::Process;

/// The longest path of a source file.
const LONGEST_PATH: u64 = 256;

/// Looks at the spinlock that the backend waits for, if it waits for one. Reads files, and what `/proc` tells of the
/// server's other processes: never while the backend stands still.
pub fn find_wait(backend: &Backend, snapshot: &Snapshot) -> Option<SpinlockWait> {
    let frames = &snapshot.stack.as_ref()?.frames;
    let waits = frames.iter().position(|f| is_of_server(f, SLEEPS_OR_TRIES));
    let calls = frames.windows(2).find_map(|pair| match pair {
        [called, caller] if is_of_server(called, &["s_lock"]) => Some(caller),
        _ => None,
    });
    waits?;
    let mut found = SpinlockWait {
        taken_at: calls.and_then(|caller| taken_at(backend, caller)),
        halted: None,
        unread: 0,
    };
    if backend.living().is_some() {
        let (pids, unread) = others(backend);
        let look = |pid| {
            let process = Process::open(pid).ok()?;
            let state = process.state()?;
            matches!(state, 'T' | 't' | 'D').then(|| halted(backend, &process, state))
        };
        found.halted = Some(pids.into_iter().filter_map(look).collect());
        found.unread = unread;
    }
    Some(found)
}

/// s_lock() and what it calls (src/backend/storage/lmgr/s_lock.c).
const SLEEPS_OR_TRIES: &[&str] = &["s_lock", "perform_spin_delay", "finish_spin_delay"];

fn is_of_server(frame: &Frame, names: &[&str]) -> bool {
    let name = frame.function.as_deref();
    frame.kind == ModuleKind::Server && name.is_some_and(|name| names.contains(&name))
}

/// `s_lock(lock, __FILE__, __LINE__, __func__)`, as SpinLockAcquire() calls it (src/include/storage/s_lock.h, 9.6 to 18).
fn taken_at(backend: &Backend, caller: &Frame) -> Option<(String, u32)> {
    let module = backend.space.load_at(caller.ip, &backend.memory)?;
    let image = &module.image;
    let [_, file, line, _] = image.constant_arguments(module.to_svma(caller.ip))?;
    let path = constant_text(image, Svma(file?))?;
    let line = u32::try_from(line?).ok().filter(|line| *line > 0)?;
    let name = path.rsplit('/').next()?;
    let is_source = [".c", ".h", ".cpp", ".cc", ".cxx", ".hpp"]
        .iter()
        .any(|end| name.len() > end.len() && name.ends_with(end));
    is_source.then(|| (name.to_owned(), line))
}

/// A text of printable ASCII among what an image does not change.
fn constant_text(image: &Image, at: Svma) -> Option<String> {
    let bytes = image.bytes_at(at, LONGEST_PATH).ok()?;
    let text = &bytes[..memchr::memchr(0, &bytes)?];
    let printable = text.iter().all(|b| b.is_ascii_graphic() || *b == b' ');
    (printable && !text.is_empty()).then(|| String::from_utf8_lossy(text).into_owned())
}

/// Where a process stands that was forked from the postmaster: the server's code is where the backend has it.
fn halted(backend: &Backend, process: &Process, state: char) -> Halted {
    let mut halted = Halted {
        pid: process.pid(),
        state,
        function: None,
        may_hold: None,
    };
    let ip = process.standing_at().map(|(_, ip)| ip);
    if let Some((function, may_hold)) = ip.and_then(|ip| in_server(backend, ip)) {
        halted.function = function;
        halted.may_hold = may_hold;
    }
    halted
}

fn in_server(backend: &Backend, ip: Avma) -> Option<(Option<String>, Option<bool>)> {
    let module = backend.space.load_at(ip, &backend.memory)?;
    if module.kind != ModuleKind::Server {
        return None;
    }
    let at = module.to_svma(ip);
    let image = &module.image;
    let (start, size) = image.function_bounds(at)?;
    image.learn_spinlocks(start, size);
    let spinlocks = image.known_spinlocks(start);
    let function = image.function_at(at).map(|f| format!("{}()", f.name));
    // Its next instruction is the one that it stands at.
    let may_hold = spinlocks.map(|s| s.may_be_held_at(at, Release::AnyOperand));
    Some((function, may_hold))
}
