//! What the kernel, and the service that runs the server, said.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use super::{Material, deadline};

/// How much is read of the kernel's messages, and for how long.
const MOST_RECORDS: usize = 100_000;
const LONGEST: Duration = Duration::from_secs(2);

/// The longest record (`PRINTKRB_RECORD_MAX` and what goes with it, kernel/printk/printk.c).
const RECORD: usize = 16 << 10;

/// How many lines of the journal, and how long it may take.
const JOURNAL_LINES: &str = "1000";
const JOURNAL: Duration = Duration::from_secs(5);

/// What a message is about that may explain a process that does not go on: input and output, file systems, memory,
/// processors, and processes that hang.
const TELLING: [&str; 35] = [
    "i/o error",
    "blk_update_request",
    "buffer i/o",
    "ext4-fs",
    "xfs (",
    "xfs_",
    "btrfs",
    "zfs",
    "jbd2",
    "nfs:",
    "nfs4",
    "cifs",
    "nvme",
    "ata",
    "scsi",
    "sd ",
    "md/raid",
    "device-mapper",
    "read-only",
    "hung_task",
    "blocked for more than",
    "soft lockup",
    "hard lockup",
    "self-detected stall",
    "detected stalls",
    "detected expedited stalls",
    "kthread starved",
    "out of memory",
    "oom",
    "memory failure",
    "hardware error",
    "mce:",
    "edac",
    "segfault",
    "general protection",
];

/// The kernel's messages that [`TELLING`] is about, and those that name the server.
pub fn messages(m: &Material) -> Result<String, String> {
    let path = "/dev/kmsg";
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path);
    let mut file = file.map_err(|e| match e.kind() {
        ErrorKind::PermissionDenied => {
            format!("{path}: {e}: this takes root, or kernel.dmesg_restrict = 0")
        }
        _ => format!("{path}: {e}"),
    })?;
    let end = Instant::now() + LONGEST;
    let mut record = vec![0; RECORD];
    let (mut all, mut kept) = (0, Vec::new());
    while all < MOST_RECORDS && Instant::now() < end {
        match file.read(&mut record) {
            Ok(0) => break,
            Ok(n) => {
                all += 1;
                let text = String::from_utf8_lossy(&record[..n]);
                kept.extend(message(&text).filter(|m| is_telling(m)));
            }
            // EPIPE: it was overwritten meanwhile (Documentation/ABI/testing/dev-kmsg).
            Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(e) if kept.is_empty() => return Err(format!("{path}: {e}")),
            Err(_) => break,
        }
    }
    let text: String = kept.iter().map(|line| format!("{line}\n")).collect();
    let text = m
        .redactor
        .as_ref()
        .map_or(text.clone(), |r| r.message(&text));
    Ok(format!(
        "of the kernel's {all} messages, {} are about input and output, file systems, memory, processors, or processes that hang; in seconds since boot{}\n\n{text}",
        kept.len(),
        now()
    ))
}

/// What the clocks say: the kernel's counts from boot on, without the time that the machine slept.
fn now() -> String {
    let since_boot = std::fs::read_to_string("/proc/uptime").ok();
    let since_boot = since_boot
        .as_deref()
        .and_then(|text| text.split(' ').next());
    let at = super::timestamp(SystemTime::now(), "-", ":");
    since_boot.map_or_else(String::new, |seconds| {
        format!(", which are {seconds} at {at}")
    })
}

/// `priority,number,microseconds,flags;text`, and lines about the device behind it (Documentation/ABI/testing/dev-kmsg).
fn message(record: &str) -> Option<String> {
    let (head, text) = record.split_once(';')?;
    let micros: u64 = head.split(',').nth(2)?.parse().ok()?;
    let text = text.lines().next()?;
    Some(format!(
        "[{:5}.{:06}] {text}",
        micros / 1_000_000,
        micros % 1_000_000
    ))
}

fn is_telling(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    // How it was booted may hold secrets, and explains nothing.
    if message.contains("command line:") {
        return false;
    }
    message.contains("postgres") || TELLING.iter().any(|word| is_in(&message, word))
}

/// Whether a word begins somewhere in the text: "ata" is none of "data".
fn is_in(text: &str, word: &str) -> bool {
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric()))
}

/// The journal of the server's service.
pub fn journal(m: &Material) -> Result<String, String> {
    let postmaster = m.postmaster.as_ref().ok_or("its postmaster is gone")?;
    if !postmaster.shares_our_mounts() {
        return Err(
            "the server lives in a container: its journal is wherever the container's output goes"
                .into(),
        );
    }
    // Not by the PATH: what is run here may be run as root.
    let program = ["/usr/bin/journalctl", "/bin/journalctl"]
        .into_iter()
        .find(|p| Path::new(p).exists());
    let mut command = Command::new(program.ok_or("there is no journalctl here")?);
    command.args([
        "--no-pager",
        "--quiet",
        "--output=short-iso",
        "--no-hostname",
        "-n",
        JOURNAL_LINES,
    ]);
    let groups = super::proc_text(postmaster, "cgroup").unwrap_or_default();
    let of = match unit(&groups) {
        Some(unit) => {
            command.arg("--unit").arg(&unit);
            unit
        }
        None => {
            let process = format!("_PID={}", postmaster.pid());
            command.arg(&process);
            process
        }
    };
    let text = deadline::run(command, JOURNAL, 8 << 20)?;
    if text.trim().is_empty() {
        return Err(format!("the journal has nothing of {of}"));
    }
    let text = match &m.redactor {
        Some(r) => r.log(&text),
        None => super::redact::passwords(&text),
    };
    Ok(format!(
        "the last {JOURNAL_LINES} lines at most of {of}\n\n{text}"
    ))
}

/// The service that a process runs in, by its control group, if that has a name that needs no thought.
fn unit(cgroup: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@' | ':');
    let path = cgroup
        .lines()
        .find_map(|l| {
            l.split_once("::")
                .or_else(|| l.split_once(":name=systemd:"))
        })?
        .1;
    let unit = path
        .split('/')
        .rev()
        .find(|part| part.ends_with(".service"))?;
    let plain = unit.starts_with(|c: char| c.is_ascii_alphanumeric()) && unit.chars().all(plain);
    // An operator's shell runs in this one.
    (plain && !unit.starts_with("user@")).then(|| unit.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_as_the_kernel_gives_them() {
        let record = "6,339,5140900,-;EXT4-fs (sda1): I/O error while writing\n SUBSYSTEM=block\n DEVICE=b8:1\n";
        let text = message(record).unwrap();
        assert_eq!(
            text,
            "[    5.140900] EXT4-fs (sda1): I/O error while writing"
        );
        assert!(is_telling(&text));
        for odd in ["", ";", "6,1;x", "6,1,z,-;x"] {
            assert_eq!(message(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn what_may_explain_a_process_that_hangs() {
        for text in [
            "INFO: task postgres:4711 blocked for more than 120 seconds.",
            "nfs: server filer not responding, still trying",
            "Out of memory: Killed process 4711 (postgres)",
            "ata1.00: failed command",
        ] {
            assert!(is_telling(text), "{text}");
        }
        for text in [
            "usb 1-1: new device",
            "Kernel command line: root=/dev/nvme0n1 key=secret",
            "Booting the data kernel",
            "IPv6: link becomes ready",
            "",
        ] {
            assert!(!is_telling(text), "{text}");
        }
    }

    #[test]
    fn the_service_by_its_control_group() {
        let v2 = "0::/system.slice/system-postgresql.slice/postgresql@15-main.service\n";
        assert_eq!(unit(v2).as_deref(), Some("postgresql@15-main.service"));
        let v1 = "4:memory:/x\n1:name=systemd:/system.slice/postgresql.service\n";
        assert_eq!(unit(v1).as_deref(), Some("postgresql.service"));
        for none in [
            "",
            "0::/",
            "0::/a/-x.service",
            "0::/a/x y.service",
            "0::/user.slice/user@0.service",
        ] {
            assert_eq!(unit(none), None, "{none}");
        }
    }
}
