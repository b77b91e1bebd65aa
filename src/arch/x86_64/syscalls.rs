//! x86-64: system calls.

use syscalls::x86_64::Sysno;

use crate::address::Avma;
use crate::memory::Memory;

/// The name of system call `number` (arch/x86/entry/syscalls/syscall_64.tbl).
pub fn name(number: i64) -> Option<&'static str> {
    let call = Sysno::new(usize::try_from(number).ok()?)?;
    Some(call.name())
}

/// See [`restarted`](crate::arch::Processor::restarted). Which one it was is in the code before the address that it returns
/// to: `mov $number, %eax; syscall`.
pub fn restarted(memory: &dyn Memory, ip: Avma) -> Option<i64> {
    let mut code = [0; 7];
    memory.read(ip.offset(-7), &mut code).ok()?;
    let [0xb8, a, b, c, d, 0x0f, 0x05] = code else {
        return None;
    };
    let number = i64::from(i32::from_le_bytes([a, b, c, d]));
    // The only ones that are restarted so (kernel, users of `restart_block`).
    const RESTARTED: [Sysno; 4] = [
        Sysno::poll,
        Sysno::nanosleep,
        Sysno::clock_nanosleep,
        Sysno::futex,
    ];
    RESTARTED
        .iter()
        .any(|call| *call as i64 == number)
        .then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::CapturedMemory;

    #[test]
    fn a_restarted_call_is_known_by_its_code() {
        let code = |number: u8| {
            let mut memory = CapturedMemory::default();
            memory.add(Avma(0x1000), vec![0xb8, number, 0, 0, 0, 0x0f, 0x05]);
            restarted(&memory, Avma(0x1007)).and_then(name)
        };
        assert_eq!(code(7), Some("poll"));
        assert_eq!(code(230), Some("clock_nanosleep"));
        assert_eq!(code(0), None, "read(2) is never restarted so");
        assert_eq!(restarted(&CapturedMemory::default(), Avma(7)), None);
        assert_eq!(name(219), Some("restart_syscall"));
        assert_eq!((name(-1), name(100_000)), (None, None));
    }
}
