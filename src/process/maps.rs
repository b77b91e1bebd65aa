//! `/proc/PID/maps`: what is mapped where.
//!
//! Our own reader, because this text is written by a process that may be hostile (a file's name is its
//! choice, and need not be UTF-8) and the `procfs` package slices such names without looking.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::address::Avma;

/// The most mappings that are read; the kernel's own default limit is 65,530 (vm.max_map_count).
const MOST_MAPPINGS: usize = 100_000;

/// One line of `/proc/PID/maps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: Avma,
    /// One past the last address.
    pub end: Avma,
    /// Whether it may be read.
    pub readable: bool,
    /// Whether it may be written to.
    pub writable: bool,
    /// Whether code in it may run.
    pub executable: bool,
    /// Whether what is written there is seen by whoever else has mapped it (MAP_SHARED).
    pub shared: bool,
    /// Offset in the file of the first byte.
    pub file_offset: u64,
    /// Device and inode of the file, (major, minor, inode); inode 0 means no file.
    pub file: (u32, u32, u64),
    /// The file's path as the process sees it, or a name in brackets such as `[stack]`; empty for anonymous memory.
    pub path: PathBuf,
    /// The file was unlinked or replaced since it was mapped.
    pub deleted: bool,
}

impl Mapping {
    /// Whether `addr` lies in this mapping.
    pub fn contains(&self, addr: Avma) -> bool {
        self.start <= addr && addr < self.end
    }

    /// Whether a file on disk is behind it.
    pub fn has_file(&self) -> bool {
        self.file.2 != 0
    }
}

/// Reads the text of `/proc/PID/maps`. Lines that do not have its form are left out.
pub fn parse(text: &[u8]) -> Vec<Mapping> {
    text.split(|b| *b == b'\n')
        .filter_map(parse_line)
        .take(MOST_MAPPINGS)
        .collect()
}

/// `start-end perms offset major:minor inode   path`, proc_pid_maps(5).
fn parse_line(line: &[u8]) -> Option<Mapping> {
    let mut fields = line.splitn(6, |b| *b == b' ');
    let mut text = || fields.next().and_then(|f| std::str::from_utf8(f).ok());
    let (start, end) = text()?.split_once('-')?;
    let perms = text()?;
    let offset = text()?;
    let (major, minor) = text()?.split_once(':')?;
    let inode = text()?;
    let path = fields.next().unwrap_or_default().trim_ascii_start();
    let (path, deleted) = match path.strip_suffix(b" (deleted)") {
        Some(p) => (p, true),
        None => (path, false),
    };
    let has = |at: usize, letter: u8| perms.as_bytes().get(at) == Some(&letter);
    let hex = |s: &str| u64::from_str_radix(s, 16).ok();
    let (start, end) = (hex(start)?, hex(end)?);
    if end <= start {
        return None;
    }
    Some(Mapping {
        start: Avma(start),
        end: Avma(end),
        readable: has(0, b'r'),
        writable: has(1, b'w'),
        executable: has(2, b'x'),
        shared: has(3, b's'),
        file_offset: hex(offset)?,
        file: (
            u32::from_str_radix(major, 16).ok()?,
            u32::from_str_radix(minor, 16).ok()?,
            inode.parse().ok()?,
        ),
        path: PathBuf::from(OsStr::from_bytes(path)),
        deleted,
    })
}

/// The mapping that holds `addr`, in a list sorted by address as the kernel gives it.
pub fn find(mappings: &[Mapping], addr: Avma) -> Option<&Mapping> {
    let after = mappings.partition_point(|m| m.start <= addr);
    after
        .checked_sub(1)
        .map(|i| &mappings[i])
        .filter(|m| m.contains(addr))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_the_kernel_prints_them() {
        let text = b"55d0c0a00000-55d0c0ad1000 r-xp 000d1000 fe:00 1234                       /usr/lib/a b.so (deleted)\n\
            7ffd1b9e1000-7ffd1ba02000 rw-p 00000000 00:00 0                          [stack]\n\
            7f0000000000-7f0000001000 ---p 00000000 00:00 0 \n";
        let maps = parse(text);
        assert_eq!(maps.len(), 3);
        assert_eq!(maps[0].path.as_os_str(), "/usr/lib/a b.so");
        assert!(maps[0].deleted && maps[0].executable && maps[0].has_file());
        assert!(maps[0].readable && !maps[0].writable && !maps[0].shared);
        assert!(maps[1].writable && !maps[2].readable);
        assert_eq!(maps[0].file, (0xfe, 0, 1234));
        assert_eq!(maps[1].path.as_os_str(), "[stack]");
        assert!(maps[2].path.as_os_str().is_empty() && !maps[2].has_file());
    }

    #[test]
    fn hostile_lines_are_left_out() {
        for line in [
            &b""[..],
            b"-",
            b"1-2",
            b"2-1 r-xp 0 0:0 0",
            b"zz-zz r-xp 0 0:0 0",
            b"1-2 r-xp 0 0 0",
            b"1-2 \xff\xff 0 0:0 0",
            b"1-ffffffffffffffffff r-xp 0 0:0 0",
        ] {
            assert_eq!(parse(line), [], "{line:?}");
        }
        // A name that is not text, or looks like a System V segment, is kept as it is.
        let named = parse(b"1000-2000 rw-s 0 0:0 7 /SYSV\xff").remove(0);
        assert_eq!(named.path.as_os_str(), OsStr::from_bytes(b"/SYSV\xff"));
        assert!(named.shared && named.writable);
    }

    #[test]
    fn find_respects_the_gaps() {
        let maps = parse(b"1000-2000 r-xp 0 0:0 0\n3000-4000 r-xp 0 0:0 0");
        assert!(find(&maps, Avma(0xfff)).is_none());
        assert_eq!(find(&maps, Avma(0x1fff)).unwrap().start, Avma(0x1000));
        assert!(find(&maps, Avma(0x2000)).is_none());
        assert!(find(&maps, Avma(0x4000)).is_none());
    }
}
