//! Which mappings a core file holds: what the kernel's own would hold (core(5), with its usual `coredump_filter` of
//! 0x33), but shared memory, and what can be had for nothing.

use schemars::JsonSchema;
use serde::Serialize;

use crate::process::Mapping;

/// The page size of the architectures we know.
pub const PAGE: u64 = 4096;

/// What is taken of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// Nothing.
    Nothing(Why),
    /// The first page, if an ELF header is on it: debuggers know the file by what follows it (its build-id).
    ElfHeader,
    /// The process's own memory.
    Own,
    /// Memory that it shares with others.
    Shared,
}

/// Why something is not in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "why_left_out")]
pub enum Why {
    /// Shared memory, which is as large as the server's, and not of this instant anyway.
    SharedMemory,
    /// Shared memory, which nobody but root can read without making it grow.
    OnlyForRoot,
    /// A file that the process has not changed in memory; debuggers read the file.
    UnchangedFile,
    /// The process itself may not read it.
    NotReadable,
    /// The kernel's own, which is the same in every process.
    KernelData,
    /// It could not be read.
    CouldNotBeRead,
}

impl Why {
    /// In words.
    pub fn as_text(self) -> &'static str {
        match self {
            Why::SharedMemory => "shared memory",
            Why::OnlyForRoot => "shared memory, which only root can read without making it grow",
            Why::UnchangedFile => "as in the file",
            Why::NotReadable => "not readable",
            Why::KernelData => "the kernel's own",
            Why::CouldNotBeRead => "could not be read",
        }
    }
}

/// What is taken of a mapping. `has_own_pages` says whether the process has written to some of it; it is asked only for
/// private mappings of files.
pub fn take(
    mapping: &Mapping,
    shared_too: bool,
    has_own_pages: impl FnOnce(&Mapping) -> bool,
) -> Take {
    let name = mapping.path.as_os_str().as_encoded_bytes();
    let kernel_data = name.starts_with(b"[vvar") || name == b"[vsyscall]";
    if kernel_data {
        Take::Nothing(Why::KernelData)
    } else if !mapping.readable {
        Take::Nothing(Why::NotReadable)
    } else if mapping.shared {
        match shared_too {
            true => Take::Shared,
            false => Take::Nothing(Why::SharedMemory),
        }
    } else if !mapping.has_file() || has_own_pages(mapping) {
        Take::Own
    } else if mapping.file_offset == 0 {
        Take::ElfHeader
    } else {
        Take::Nothing(Why::UnchangedFile)
    }
}

/// Whether each page of a mapping has something to read, whatever the page tables say: those of a file that were not
/// written to are the file's. All other pages that were never touched are zero.
pub fn is_full(mapping: &Mapping) -> bool {
    mapping.has_file() || mapping.path.as_os_str() == "[vdso]"
}

/// In which order memory is copied while the process stands still; what comes last may have to be copied later. `stacks`
/// are the stack pointers of its threads.
pub fn rank(mapping: &Mapping, stacks: &[u64]) -> (u8, u64) {
    let has_a_stack = stacks
        .iter()
        .any(|sp| mapping.contains(crate::address::Avma(*sp)));
    let class = match mapping {
        _ if has_a_stack => 0,
        // The variables of the server and its libraries, among them the dynamic linker's list of what is loaded.
        m if is_full(m) => 1,
        _ => 2,
    };
    // Small ones first: there are more of them, and with one large one all would be lost. The heap is one of the others.
    (class, mapping.end.0 - mapping.start.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::maps;

    const TEXT: &[u8] =
        b"5500000000-5500001000 r--p 00000000 fe:00 10 /usr/lib/postgresql/15/bin/postgres
5500001000-5500005000 r-xp 00001000 fe:00 10 /usr/lib/postgresql/15/bin/postgres
5500005000-5500006000 r--p 00005000 fe:00 10 /usr/lib/postgresql/15/bin/postgres
5500006000-5500007000 rw-p 00006000 fe:00 10 /usr/lib/postgresql/15/bin/postgres
5500007000-5500009000 rw-p 00000000 00:00 0
5500100000-5500200000 rw-p 00000000 00:00 0 [heap]
7f0000000000-7f0080000000 rw-s 00000000 00:01 99 /dev/zero (deleted)
7f0080000000-7f0080001000 rw-s 00000000 00:1c 7 /dev/shm/PostgreSQL.1
7f0080002000-7f0080003000 rw-s 00000000 00:01 32769 /SYSV00000000 (deleted)
7f0080004000-7f0080008000 ---p 00000000 00:00 0
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0 [stack]
7ffc00030000-7ffc00034000 r--p 00000000 00:00 0 [vvar]
7ffc00034000-7ffc00035000 r--p 00000000 00:00 0 [vvar_vclock]
7ffc00035000-7ffc00037000 r-xp 00000000 00:00 0 [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
";

    fn takes(shared_too: bool) -> Vec<Take> {
        let written = |m: &Mapping| m.start.0 >= 0x55_0000_5000;
        maps::parse(TEXT)
            .iter()
            .map(|m| take(m, shared_too, written))
            .collect()
    }

    #[test]
    fn the_usual_core_leaves_shared_memory_out() {
        use Take::{ElfHeader, Nothing, Own};
        let expected = [
            ElfHeader,
            Nothing(Why::UnchangedFile),
            Own,
            Own,
            Own,
            Own,
            Nothing(Why::SharedMemory),
            Nothing(Why::SharedMemory),
            Nothing(Why::SharedMemory),
            Nothing(Why::NotReadable),
            Own,
            Nothing(Why::KernelData),
            Nothing(Why::KernelData),
            Own,
            Nothing(Why::KernelData),
        ];
        assert_eq!(takes(false), expected);
    }

    #[test]
    fn a_full_core_has_it_and_is_otherwise_the_same() {
        let differ: Vec<_> = (takes(false).into_iter().zip(takes(true)))
            .filter(|(usual, full)| usual != full)
            .collect();
        let shared = (Take::Nothing(Why::SharedMemory), Take::Shared);
        assert_eq!(differ, [shared; 3]);
    }

    #[test]
    fn stacks_come_first_and_large_memory_last() {
        let maps = maps::parse(TEXT);
        let mut own: Vec<&Mapping> = maps.iter().filter(|m| !m.shared).collect();
        own.sort_by_key(|m| rank(m, &[0x7ffc_0000_1000]));
        assert_eq!(own[0].path.as_os_str(), "[stack]");
        assert!(own[1..6].iter().all(|m| is_full(m)));
        assert_eq!(own.last().unwrap().path.as_os_str(), "[heap]");
    }
}
