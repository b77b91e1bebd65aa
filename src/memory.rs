//! Reading bytes at an address of the backend: one trait, two kinds of memory.
//!
//! [`ProcessMemory`] reads a living process, stopped or not. [`CapturedMemory`] answers from bytes that
//! were copied during a stop, so that everything slow (unwinding, naming, judging) happens after the
//! backend runs again, and on a fixture in tests exactly as on a server.

use std::fmt;
use std::fs::File;
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::address::Avma;

/// Nothing (or not enough) could be read at this address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no readable memory at {0}")]
pub struct Unreadable(pub Avma);

/// Something whose bytes can be read by address.
pub trait Memory: fmt::Debug {
    /// Fills `buf` from `addr`, or fails; a short read is a failure.
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable>;

    /// Fills each buffer from its address, in as few steps as the memory allows, and says which were filled.
    fn read_batch(&self, requests: &mut [(Avma, &mut [u8])]) -> Vec<bool> {
        requests
            .iter_mut()
            .map(|(addr, buf)| self.read(*addr, buf).is_ok())
            .collect()
    }

    /// Why it is read through `/proc/PID/mem`, if it is: what process_vm_readv(2) said.
    fn detour(&self) -> Option<&'static str> {
        None
    }

    /// The byte at `addr`.
    fn read_u8(&self, addr: Avma) -> Result<u8, Unreadable> {
        let mut b = [0; 1];
        self.read(addr, &mut b).map(|()| b[0])
    }

    /// The 32-bit little-endian number at `addr`.
    fn read_u32(&self, addr: Avma) -> Result<u32, Unreadable> {
        let mut b = [0; 4];
        self.read(addr, &mut b).map(|()| u32::from_le_bytes(b))
    }

    /// The 64-bit little-endian number at `addr`.
    fn read_u64(&self, addr: Avma) -> Result<u64, Unreadable> {
        let mut b = [0; 8];
        self.read(addr, &mut b).map(|()| u64::from_le_bytes(b))
    }

    /// The C string at `addr`, at most `max` bytes of it, without its terminator.
    fn read_c_string(&self, addr: Avma, max: usize) -> Result<Vec<u8>, Unreadable> {
        let mut out = Vec::new();
        while out.len() < max {
            let here = addr.offset(out.len() as i64);
            // Never across a page: the next one may not be mapped.
            let to_page_end = (PAGE - here.0 % PAGE) as usize;
            let mut chunk = [0u8; 256];
            let n = to_page_end.min(chunk.len()).min(max - out.len());
            self.read(here, &mut chunk[..n])?;
            match chunk[..n].iter().position(|b| *b == 0) {
                Some(end) => {
                    out.extend_from_slice(&chunk[..end]);
                    return Ok(out);
                }
                None => out.extend_from_slice(&chunk[..n]),
            }
        }
        Ok(out)
    }
}

/// The smallest page size of the architectures we know; only used to avoid straddling.
const PAGE: u64 = 4096;

/// The memory of a living process, read with `process_vm_readv(2)`, or through `/proc/PID/mem` where that
/// call is missing (a kernel without CONFIG_CROSS_MEMORY_ATTACH, gVisor) or denied by a seccomp filter.
#[derive(Debug)]
pub struct ProcessMemory {
    pid: Pid,
    mem: Option<File>,
    /// Why it is read through `/proc/PID/mem`, once that has worked where the call had not.
    detour: OnceLock<Errno>,
}

impl ProcessMemory {
    /// Opens the memory of process `pid`. Nothing is read yet; both ways need the right to trace it.
    pub fn open(pid: i32) -> Self {
        ProcessMemory {
            pid: Pid::from_raw(pid),
            mem: File::open(format!("/proc/{pid}/mem")).ok(),
            detour: OnceLock::new(),
        }
    }

    /// Reads ranges in one call; says how many bytes came. The kernel stops at the first range that it cannot read.
    fn read_together(
        &self,
        local: &mut [IoSliceMut],
        remote: &[RemoteIoVec],
    ) -> nix::Result<usize> {
        match self.detour.get() {
            Some(e) => Err(*e),
            None => process_vm_readv(self.pid, local, remote),
        }
    }

    fn read_through_mem(&self, addr: Avma, buf: &mut [u8], why: Errno) -> Result<(), Unreadable> {
        let mem = self.mem.as_ref().ok_or(Unreadable(addr))?;
        mem.read_exact_at(buf, addr.0)
            .map_err(|_| Unreadable(addr))?;
        // A process that has ended has no memory either way.
        if why != Errno::ESRCH && !buf.is_empty() {
            // It is the first reason that is told.
            let _ = self.detour.set(why);
        }
        Ok(())
    }
}

impl<M: Memory + ?Sized> Memory for &M {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        (**self).read(addr, buf)
    }

    fn read_batch(&self, requests: &mut [(Avma, &mut [u8])]) -> Vec<bool> {
        (**self).read_batch(requests)
    }

    fn detour(&self) -> Option<&'static str> {
        (**self).detour()
    }
}

impl Memory for ProcessMemory {
    fn detour(&self) -> Option<&'static str> {
        self.detour.get().map(|e| e.desc())
    }

    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        let len = buf.len();
        let remote = [RemoteIoVec {
            base: addr.0 as usize,
            len,
        }];
        match self.read_together(&mut [IoSliceMut::new(buf)], &remote) {
            Ok(n) if n == len => Ok(()),
            Ok(_) | Err(Errno::EFAULT) => Err(Unreadable(addr)),
            Err(e) => self.read_through_mem(addr, buf, e),
        }
    }

    /// One system call for the whole batch. What comes after a range that cannot be read, and everything where that
    /// call is missing, is read range by range.
    fn read_batch(&self, requests: &mut [(Avma, &mut [u8])]) -> Vec<bool> {
        /// The kernel's UIO_MAXIOV (include/uapi/linux/uio.h).
        const MOST: usize = 1024;
        let mut filled = vec![false; requests.len()];
        let together = requests.len().min(MOST);
        let remote: Vec<RemoteIoVec> = requests[..together]
            .iter()
            .map(|(addr, buf)| RemoteIoVec {
                base: addr.0 as usize,
                len: buf.len(),
            })
            .collect();
        let mut local: Vec<IoSliceMut> = requests[..together]
            .iter_mut()
            .map(|(_, buf)| IoSliceMut::new(buf))
            .collect();
        let mut left = self.read_together(&mut local, &remote).unwrap_or(0);
        drop(local);
        for (i, (addr, buf)) in requests.iter_mut().enumerate() {
            if left >= buf.len() && i < together {
                left -= buf.len();
                filled[i] = true;
            } else {
                left = 0;
                filled[i] = self.read(*addr, buf).is_ok();
            }
        }
        filled
    }
}

/// Bytes that were copied out of a process during one stop.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct CapturedMemory {
    /// Sorted by address, not overlapping.
    regions: Vec<Region>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Region {
    start: Avma,
    #[serde(with = "hex_bytes")]
    bytes: Vec<u8>,
}

impl CapturedMemory {
    /// Adds the bytes found at `start`. Where regions overlap, the one that starts nearer below wins.
    pub fn add(&mut self, start: Avma, bytes: Vec<u8>) {
        let at = self.regions.partition_point(|r| r.start <= start);
        self.regions.insert(at, Region { start, bytes });
    }
}

impl Memory for CapturedMemory {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        let after = self.regions.partition_point(|r| r.start <= addr);
        let region = after
            .checked_sub(1)
            .and_then(|i| self.regions.get(i))
            .ok_or(Unreadable(addr))?;
        let from = (addr.0 - region.start.0) as usize;
        let bytes = from
            .checked_add(buf.len())
            .and_then(|to| region.bytes.get(from..to))
            .ok_or(Unreadable(addr))?;
        buf.copy_from_slice(bytes);
        Ok(())
    }
}

/// Bytes as one hexadecimal string, so that a captured stack stays one line of a fixture.
mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(bytes.len() * 2);
        for b in bytes {
            use std::fmt::Write;
            let _ = write!(text, "{b:02x}");
        }
        s.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(d)?;
        let digits = text.as_bytes();
        if digits.len() % 2 != 0 {
            return Err(D::Error::custom("odd number of hexadecimal digits"));
        }
        digits
            .chunks(2)
            .map(|pair| {
                std::str::from_utf8(pair)
                    .ok()
                    .and_then(|p| u8::from_str_radix(p, 16).ok())
                    .ok_or_else(|| D::Error::custom("not hexadecimal"))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captured() -> CapturedMemory {
        let mut m = CapturedMemory::default();
        m.add(Avma(0x2000), vec![1, 2, 3, 4, 5, 6, 7, 8]);
        m.add(Avma(0x1000), b"hello\0".to_vec());
        m
    }

    #[test]
    fn captured_memory_answers_only_what_was_captured() {
        let m = captured();
        assert_eq!(m.read_u64(Avma(0x2000)), Ok(0x0807_0605_0403_0201));
        assert_eq!(m.read_u32(Avma(0x2004)), Ok(0x0807_0605));
        assert_eq!(m.read_u64(Avma(0x2001)), Err(Unreadable(Avma(0x2001))));
        assert_eq!(m.read_u8(Avma(0xfff)), Err(Unreadable(Avma(0xfff))));
        assert_eq!(m.read_u8(Avma(u64::MAX)), Err(Unreadable(Avma(u64::MAX))));
    }

    #[test]
    fn captured_memory_survives_json() {
        let text = serde_json::to_string(&captured()).unwrap();
        let back: CapturedMemory = serde_json::from_str(&text).unwrap();
        assert_eq!(back.read_u8(Avma(0x1004)), Ok(b'o'));
    }

    #[test]
    fn our_own_memory_reads_in_one_batch_around_a_hole() {
        let pid = std::process::id() as i32;
        let mut memory = ProcessMemory::open(pid);
        reads_around_a_hole(&memory);
        assert_eq!(memory.detour(), None);
        // The same where the call is denied.
        memory.detour = OnceLock::from(Errno::EPERM);
        reads_around_a_hole(&memory);
    }

    fn reads_around_a_hole(memory: &ProcessMemory) {
        let there = *b"abcdefgh";
        let (mut a, mut b, mut c) = ([0u8; 4], [0u8; 4], [0u8; 4]);
        let here = Avma(there.as_ptr() as u64);
        let filled =
            memory.read_batch(&mut [(here, &mut a), (Avma(8), &mut b), (here.offset(4), &mut c)]);
        assert_eq!(filled, [true, false, true]);
        assert_eq!((&a, &c), (b"abcd", b"efgh"));
    }
}
