//! The system calls that no package wraps as we need them. All `unsafe` code of pgpoke is in this room, but for
//! selftest's and one instruction in `arch`. It knows nothing else of pgpoke.

mod process;
mod ptrace;
mod signals;
mod timers;

pub use process::{
    Whom, act_as, exit_now, kill, pidfd_open, pidfd_send_signal, pidfd_wait_status,
    queue_to_thread, write_what_it_takes,
};
pub use ptrace::{
    RawRegisters, Resume, SignalInfo, detach, event_message, interrupt, listen, poke,
    ptrace_is_denied, register_set, registers, resume, seize, set_registers, set_signal_mask,
    signal_info, signal_mask, wait_now,
};
pub use signals::HeldSignals;
pub use timers::{DeadlyTimer, Priority, Timer};
