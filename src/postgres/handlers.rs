//! Which function handles a signal in the end.
//!
//! Up to 16 the kernel knows it. From 17 on it knows one static function for all signals, `wrapper_handler()`, which
//! calls what `pqsignal()` has noted in the static array `pqsignal_handlers` (src/port/pqsignal.c).

use super::statics::{MOST_CODE, settle};
use super::{Backend, BackendType};
use crate::address::Avma;
use crate::image::ModuleKind;

/// `pqsignal_handlers[PG_NSIG]`: glibc's and musl's NSIG is 65.
const HANDLERS: (&str, u64) = ("pqsignal_handlers", 65 * 8);

/// What a signal does in a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disposition {
    /// The function that does the work; 0 is the default action, 1 is to ignore the signal.
    pub handler: Avma,
    /// Whether it is the one that PostgreSQL installs in this kind of process; none where that cannot be told.
    pub expected: Option<bool>,
}

/// What `signal` does in the backend, whose kernel has the handler `address` for it. Reads files, so never while the
/// backend stands still.
pub fn disposition(backend: &Backend, signal: i32, address: Avma) -> Disposition {
    let is = |handler, expected| Disposition { handler, expected };
    let standard = backend.globals.get(match signal {
        libc::SIGINT => "StatementCancelHandler",
        libc::SIGTERM => "die",
        _ => "procsignal_sigusr1_handler",
    });
    let worker = backend.backend_type == BackendType::BackgroundWorker;
    // A background worker without a connection to a database ignores SIGINT, and from 14 on SIGUSR1, by itself
    // (StartBackgroundWorker(), src/backend/postmaster/bgworker.c).
    if address.0 == 1 && worker && signal != libc::SIGTERM {
        return is(address, None);
    }
    if address.0 <= 1 || standard == Some(address) {
        return is(address, Some(address.0 > 1));
    }
    if !is_server_code(backend, address) {
        return is(address, Some(false));
    }
    let handler = match handlers_behind(backend, address) {
        Some(handlers) => {
            let entry = handlers.offset(8 * i64::from(signal));
            match backend.memory.read_u64(entry) {
                Ok(handler) if handler > 1 => Avma(handler),
                _ => return is(address, None),
            }
        }
        None if may_be_a_wrapper(backend, address) => return is(address, None),
        None => address,
    };
    let own = standard == Some(handler)
        || worker && signal == libc::SIGTERM && is_bgworker_die(backend, handler);
    // A worker may set any of the server's own for itself, such as SignalHandlerForShutdownRequest(), which does its work
    // (src/backend/postmaster/interrupt.c). What else the server has as a handler is not known to do it.
    let may_choose = worker || backend.backend_type == BackendType::SlotSync;
    let chosen = may_choose
        && is_server_code(backend, handler)
        && is_named(backend, handler, "SignalHandlerForShutdownRequest");
    match (standard, own || chosen) {
        // Where the standard one is not known, none is known to be another.
        (None, _) => is(handler, None),
        (Some(_), true) => is(handler, Some(true)),
        (Some(_), false) if may_choose && is_server_code(backend, handler) => is(handler, None),
        (Some(_), false) => is(handler, Some(false)),
    }
}

fn is_named(backend: &Backend, handler: Avma, name: &str) -> bool {
    let image = &backend.executable.image;
    let symbol = image.function_at(backend.executable.to_svma(handler));
    symbol.is_some_and(|s| s.name == name)
}

/// Up to 18 a background worker's SIGTERM handler is `bgworker_die()` (src/backend/postmaster/bgworker.c). It is
/// static, and no other static function of the server is set as one; every other one there has a name.
fn is_bgworker_die(backend: &Backend, handler: Avma) -> bool {
    let image = &backend.executable.image;
    let name = image.function_at(backend.executable.to_svma(handler));
    is_server_code(backend, handler) && name.is_none_or(|s| s.name == "bgworker_die")
}

/// Whether it could be `wrapper_handler()`, compiled in a way that was never seen.
fn may_be_a_wrapper(backend: &Backend, handler: Avma) -> bool {
    let image = &backend.executable.image;
    let name = image.function_at(backend.executable.to_svma(handler));
    let layout = backend.version.as_ref().and_then(|v| v.layout());
    layout.is_none_or(|l| l.handlers_are_wrapped.get() != Some(&false))
        && name.is_none_or(|s| s.name == "wrapper_handler")
}

fn is_server_code(backend: &Backend, address: Avma) -> bool {
    let module = backend.space.load_at(address, backend.memory);
    module.is_some_and(|m| m.kind == ModuleKind::Server)
}

/// `pqsignal_handlers`, if `wrapper` is `wrapper_handler()`.
fn handlers_behind(backend: &Backend, wrapper: Avma) -> Option<Avma> {
    let executable = &backend.executable;
    let image = &executable.image;
    let svma = executable.to_svma(wrapper);
    let (start, size) = image.function_bounds(svma)?;
    if start != svma {
        return None;
    }
    let my_pid = executable.to_svma(backend.globals.get("MyProcPid")?);
    // `if (MyProcPid != getpid()) …; (*pqsignal_handlers[signal])(signal);`
    let decoded = image.ask_code(start, size.min(MOST_CODE), |machine, code| {
        machine.array_called(code, start, my_pid)
    })?;
    let named = image.symbols().variables(&[HANDLERS.0]);
    let named = named.get(HANDLERS.0).map_or(&[][..], |found| found);
    settle(Some(decoded), named, HANDLERS.1).map(|at| executable.bias.to_avma(at))
}
