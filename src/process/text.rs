//! The small texts of `/proc/PID` that hold what the process chose itself: its name.
//!
//! `stat` and `status` are read by the `procfs` package, which trusts their form (it slices without looking) and takes
//! nothing but UTF-8 for `status`; a name is any fifteen bytes (PR_SET_NAME(2const)). So both are looked at first.

use std::io;
use std::path::Path;

use procfs::process::{Schedstat, Stat, Status};
use procfs::{FromBufRead, FromRead, ProcError};

use super::RawCall;
use crate::address::Avma;

/// A path need not be in UTF-8, as JSON has to be: for serde, the nearest text.
pub fn as_text<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

fn error(e: ProcError) -> io::Error {
    io::Error::other(e.to_string())
}

fn no_answer(file: &str) -> io::Error {
    // Nothing at all is what there is to read of a process that is just ending.
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{file} is not as it should be"),
    )
}

/// `pid (name) state …`. The name may hold anything, blanks and parentheses too; what follows the last `)` are numbers.
pub(crate) fn stat(text: &[u8]) -> io::Result<Stat> {
    let text = String::from_utf8_lossy(text);
    let text = text.trim();
    let sound = || {
        let (before, _) = text.split_once('(')?;
        let (head, after) = text.rsplit_once(')')?;
        let number = before.strip_suffix(' ')?;
        (head.len() > before.len() && after.starts_with(' ') && number.parse::<i32>().is_ok())
            .then_some(())
    };
    sound().ok_or_else(|| no_answer("stat"))?;
    Stat::from_read(text.as_bytes()).map_err(error)
}

/// `Name:\tvalue`, a line each.
pub(crate) fn status(text: &[u8]) -> io::Result<Status> {
    let text = String::from_utf8_lossy(text);
    Status::from_buf_read(text.as_bytes()).map_err(error)
}

/// The processor time of the main thread in nanoseconds.
pub(crate) fn cpu_nanoseconds(text: &[u8]) -> Option<u64> {
    let stat = Schedstat::from_read(text).ok()?;
    Some(stat.sum_exec_runtime)
}

/// The call that a process is blocked in (proc_pid_syscall(5)): none while it runs or sleeps elsewhere (`-1`).
pub(crate) fn syscall(text: &[u8]) -> Option<RawCall> {
    match procfs::process::Syscall::from_read(text).ok()? {
        procfs::process::Syscall::Blocked {
            syscall_number: number,
            argument_registers: arguments,
            program_counter,
            ..
        } if number >= 0 => Some(RawCall {
            number,
            arguments,
            ip: Avma(program_counter),
        }),
        _ => None,
    }
}

/// Where a process that sleeps or is stopped stands (proc_pid_syscall(5)): its stack pointer and its program counter, the
/// last two words. None while it runs.
pub(crate) fn standing_at(text: &[u8]) -> Option<(Avma, Avma)> {
    let text = std::str::from_utf8(text).ok()?;
    let mut words = text.split_whitespace().rev();
    let mut word = || {
        let digits = words.next()?.strip_prefix("0x")?;
        u64::from_str_radix(digits, 16).ok().map(Avma)
    };
    let (ip, sp) = (word()?, word()?);
    Some((sp, ip))
}

/// The soft limit of the stack in bytes, none for unlimited (proc_pid_limits(5)).
pub(crate) fn stack_limit(text: &[u8]) -> io::Result<Option<u64>> {
    let text = String::from_utf8_lossy(text);
    let soft = text
        .lines()
        .find_map(|line| {
            line.strip_prefix("Max stack size ")?
                .split_whitespace()
                .next()
        })
        .ok_or_else(|| no_answer("limits"))?;
    match soft {
        "unlimited" => Ok(None),
        number => match number.parse() {
            Ok(bytes) => Ok(Some(bytes)),
            Err(_) => Err(no_answer("limits")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> Vec<u8> {
        std::fs::read(format!("/proc/self/{name}")).unwrap()
    }

    #[test]
    fn our_own_texts() {
        let me = std::process::id() as i32;
        assert_eq!(stat(&file("stat")).unwrap().pid, me);
        assert_eq!(status(&file("status")).unwrap().pid, me);
        assert!(stack_limit(&file("limits")).unwrap().is_none_or(|b| b > 0));
        assert!(cpu_nanoseconds(&file("schedstat")).is_some());
    }

    /// The texts of this very process, with a name of its own choosing.
    #[test]
    fn a_name_may_hold_anything() {
        let of = |text: Vec<u8>, from: &[u8], to: &[u8]| {
            let at = memchr::memmem::find(&text, from).unwrap();
            [&text[..at], to, &text[at + from.len()..]].concat()
        };
        let real = stat(&file("stat")).unwrap();
        let in_stat = format!("({})", real.comm).into_bytes();
        let in_status = format!("Name:\t{}", real.comm).into_bytes();
        for name in [
            &b") R 1 2"[..],
            b"((",
            b"))",
            b"",
            b"\xff\xfe(",
            b"a:b: c",
            b"\\n\\\\",
            "ä ö".as_bytes(),
        ] {
            let text = of(file("stat"), &in_stat, &[b"(", name, b")"].concat());
            let found = stat(&text).unwrap();
            assert_eq!((found.pid, found.ppid), (real.pid, real.ppid), "{name:?}");
            assert_eq!(found.comm, String::from_utf8_lossy(name));
            let text = of(file("status"), &in_status, &[b"Name:\t", name].concat());
            assert_eq!(status(&text).unwrap().pid, real.pid, "{name:?}");
        }
    }

    #[test]
    fn what_is_cut_short_is_no_answer() {
        for name in ["stat", "status", "limits", "syscall", "schedstat"] {
            let text = file(name);
            for end in 0..text.len().min(400) {
                let _ = stat(&text[..end]);
                let _ = status(&text[..end]);
                let _ = stack_limit(&text[..end]);
                let _ = syscall(&text[..end]);
                let _ = cpu_nanoseconds(&text[..end]);
            }
        }
        for text in [
            "",
            "(",
            ")",
            "(a) R",
            "1(a) R",
            "1 )a( R",
            "1 (a)",
            "1 (a)\u{e4} R",
        ] {
            assert!(stat(text.as_bytes()).is_err(), "{text}");
        }
        assert!(stack_limit(b"Max stack size many").is_err());
        assert!(stack_limit(b"").is_err());
        assert_eq!(syscall(b"running"), None);
        assert_eq!(syscall(b"-1 0x0 0x0"), None);
    }
}
