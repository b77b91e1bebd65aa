//! `/proc/PID/pagemap`: which pages of a process are there, and whose they are (Documentation/admin-guide/mm/pagemap.rst).
//!
//! Its flags need no capability, only the page frame numbers beside them do. They have been there since Linux 3.5.

use std::fs::File;
use std::ops::Range;

use super::regions::PAGE;
use crate::process::{Process, read_at_most};

const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// A page of a file, or of shared memory.
const OF_A_FILE: u64 = 1 << 61;

/// So many pages are looked at with one call: 32 MiB of memory.
const AT_ONCE: usize = 8192;

/// The pages of a process.
#[derive(Debug)]
pub struct Pages {
    /// None where the kernel has no such file (CONFIG_PROC_PAGE_MONITOR) or shows it to nobody.
    file: Option<File>,
    buffer: Vec<u8>,
}

impl Pages {
    /// Of this process. The buffer is there from now on.
    pub fn of(process: &Process) -> Self {
        Pages {
            file: process.open_file("pagemap").ok(),
            buffer: vec![0xff; AT_ONCE * 8],
        }
    }

    /// Whether the process has a page of its own in `range`: one that is there, or swapped out, and not a file's. Where
    /// nobody can tell, it has.
    pub fn any_own(&mut self, range: Range<u64>) -> bool {
        let mut at = range.start;
        while at < range.end {
            let Some(entries) = self.entries(at, range.end) else {
                return true;
            };
            let count = entries.len() as u64 / 8;
            if entries.chunks_exact(8).any(|e| is_own(number(e))) {
                return true;
            }
            at += count * PAGE;
        }
        false
    }

    /// The part of `range` from its start on that one look shows, and the runs of pages in it that are there or swapped
    /// out. Where nobody can tell, all of them are.
    pub fn touched(&mut self, range: Range<u64>, runs: &mut Vec<Range<u64>>) -> Range<u64> {
        runs.clear();
        let Some(entries) = self.entries(range.start, range.end) else {
            runs.push(range.clone());
            return range;
        };
        let mut at = range.start;
        for entry in entries.chunks_exact(8) {
            if number(entry) & (PRESENT | SWAPPED) != 0 {
                match runs.last_mut() {
                    Some(last) if last.end == at => last.end += PAGE,
                    _ => runs.push(at..at + PAGE),
                }
            }
            at += PAGE;
        }
        range.start..at
    }

    /// The entries from that address on: at least one, not beyond `end`.
    fn entries(&mut self, from: u64, end: u64) -> Option<&[u8]> {
        let file = self.file.as_ref()?;
        let count = end.saturating_sub(from).div_ceil(PAGE).min(AT_ONCE as u64) as usize;
        let buffer = &mut self.buffer[..count * 8];
        let read = read_at_most(file, buffer, from / PAGE * 8).ok()? / 8 * 8;
        (read > 0).then(|| &self.buffer[..read])
    }
}

fn number(entry: &[u8]) -> u64 {
    entry.try_into().map_or(0, u64::from_ne_bytes)
}

fn is_own(entry: u64) -> bool {
    entry & SWAPPED != 0 || entry & PRESENT != 0 && entry & OF_A_FILE == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_pages() {
        let process = Process::open(std::process::id() as i32).unwrap();
        let mut pages = Pages::of(&process);
        if pages.file.is_none() {
            return;
        }
        // Large enough for a mapping of its own, of which the allocator has written nothing.
        let mut memory: Vec<u8> = Vec::with_capacity(64 << 20);
        let first = (memory.as_ptr() as u64).next_multiple_of(PAGE);
        let all = first..first + (32 << 20);
        let mut runs = Vec::new();
        // Nor has it touched the second half.
        let untouched = first + (16 << 20)..all.end;
        assert!(!pages.any_own(untouched.clone()));
        assert_eq!(pages.touched(untouched.clone(), &mut runs), untouched);
        assert_eq!(runs, []);
        memory.resize((8 << 20) + (all.start - memory.as_ptr() as u64) as usize, 1);
        assert!(pages.any_own(all.clone()));
        let mut touched = 0;
        let mut at = all.start;
        while at < all.end {
            at = pages.touched(at..all.end, &mut runs).end;
            touched += runs.iter().map(|r| r.end - r.start).sum::<u64>();
        }
        assert!((8 << 20..16 << 20).contains(&touched), "{touched}");
        drop(memory);
        // Code is a file's.
        let code = our_own_pages as fn() as usize as u64 / PAGE * PAGE;
        assert!(!pages.any_own(code..code + PAGE));
    }
}
