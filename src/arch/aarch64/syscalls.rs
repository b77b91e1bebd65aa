//! AArch64: system calls.

use syscalls::aarch64::Sysno;

use super::registers::{SVC, words};
use crate::address::Avma;
use crate::memory::Memory;

/// The name of system call `number` (include/uapi/asm-generic/unistd.h). There is no poll, select, open, epoll_wait, fork or
/// vfork: the C library makes ppoll, pselect6, openat, epoll_pwait and clone of them.
pub fn name(number: i64) -> Option<&'static str> {
    let call = Sysno::new(usize::try_from(number).ok()?)?;
    Some(call.name())
}

/// See [`restarted`](crate::arch::Processor::restarted). Which one it was is in the code before the address that it returns
/// to: `mov x8,#number; svc #0`.
pub fn restarted(memory: &dyn Memory, ip: Avma) -> Option<i64> {
    const MOV_X8: u32 = 0xd280_0008;
    let mut code = [0; 8];
    memory.read(ip.offset(-8), &mut code).ok()?;
    let [mov, SVC] = words(&code)[..] else {
        return None;
    };
    let number = i64::from(mov >> 5 & 0xffff);
    // The only ones that are restarted so (kernel, users of `restart_block`).
    const RESTARTED: [Sysno; 3] = [Sysno::nanosleep, Sysno::clock_nanosleep, Sysno::futex];
    let known = RESTARTED.iter().any(|call| *call as i64 == number);
    (mov & 0xffe0_001f == MOV_X8 && known).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::super::registers::tests::bytes;
    use super::*;
    use crate::memory::CapturedMemory;

    #[test]
    fn names_of_numbers() {
        // Measured: what glibc calls there.
        let calls = [
            (22, "epoll_pwait"),
            (56, "openat"),
            (63, "read"),
            (72, "pselect6"),
            (73, "ppoll"),
            (115, "clock_nanosleep"),
            (128, "restart_syscall"),
            (134, "rt_sigaction"),
            (139, "rt_sigreturn"),
            (220, "clone"),
        ];
        for (number, called) in calls {
            assert_eq!(name(number), Some(called));
        }
        assert_eq!((name(-1), name(100_000)), (None, None));
    }

    #[test]
    fn a_restarted_call_is_known_by_its_code() {
        let code = |mov: u32| {
            let mut memory = CapturedMemory::default();
            memory.add(Avma(0x1000), bytes(&[mov, SVC]));
            restarted(&memory, Avma(0x1008)).and_then(name)
        };
        // clock_nanosleep(2) of glibc 2.36: mov x8,#115; svc #0.
        assert_eq!(code(0xd280_0e68), Some("clock_nanosleep"));
        assert_eq!(code(0xd280_07e8), None, "read(2) is never restarted so");
        assert_eq!(code(0xd280_0e69), None, "another register");
        assert_eq!(restarted(&CapturedMemory::default(), Avma(8)), None);
    }
}
