//! The extended registers of a thread (NT_X86_XSTATE), in the one layout that every debugger knows.
//!
//! The kernel gives them as the processor's XSAVE has them, and where that has a component differs: AMD's never had the
//! registers of MPX, and what came after these on Intel's, AVX-512 and protection keys, lies where they would be. gdb up to
//! 13 and lldb know Intel's places only; a set of AMD's is too short for them, and gdb says so and shows no vector
//! registers. gdb from 14 on tells by the length whose it is (`i387_guess_xsave_layout()`, gdb/i387-tdep.c). So core files
//! have Intel's places, whatever they are written on.
//!
//! What came later still, the tiles of AMX among it, gdb 13 does not know: it takes the length of a set from what XCR0 says of
//! the components that it knows (`X86_XSTATE_SIZE`, gdbsupport/x86-xstate.h), and complains of any other. So the set ends
//! with what is known, says nothing of the rest, and the report names what was in use and is not there.

use crate::arch::Known;

/// The x87 and SSE registers, and the header; the same everywhere.
const FRONT: usize = 576;

/// Where the kernel notes which components there are: XCR0, in what XSAVE leaves to software (`struct _fpx_sw_bytes`,
/// arch/x86/include/uapi/asm/sigcontext.h).
const XCR0: usize = 464;

/// Where XSAVE notes which components are not as they are at first (XSTATE_BV, the header's first word).
const IN_USE: usize = 512;

/// What Intel's processors have behind that: the number of a component, its place, its size.
const KNOWN: [(u32, usize, usize); 7] = [
    (2, 576, 256),   // AVX
    (3, 960, 64),    // MPX, bounds
    (4, 1024, 64),   // MPX, configuration
    (5, 1088, 64),   // AVX-512, masks
    (6, 1152, 512),  // AVX-512, upper halves of 0 to 15
    (7, 1664, 1024), // AVX-512, 16 to 31
    (9, 2688, 8),    // protection keys
];

/// What is called so that debuggers do not know; others by their numbers.
const NAMES: [(u32, &str); 3] = [(17, "AMX (XTILECFG)"), (18, "AMX (XTILEDATA)"), (19, "APX")];

/// The same registers, where all debuggers look for them, without those that none looks for. What cannot be told for sure
/// stays as it is. `place` says where this processor has a component, and its size.
pub fn in_known_layout(set: &[u8], place: impl Fn(u32) -> (usize, usize)) -> Known {
    moved(set, place).unwrap_or_else(|| Known::whole(set))
}

/// The same of a set that this very machine's kernel gave.
#[cfg(target_arch = "x86_64")]
pub fn known(set: &[u8]) -> Known {
    in_known_layout(set, xsave_place)
}

/// Where the processor's XSAVE, and so the kernel's NT_X86_XSTATE, has a component of its state, and how many bytes
/// that takes (CPUID leaf 0xD; Intel's Software Developer's Manual, volume 1, section 13.2).
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
pub fn xsave_place(component: u32) -> (usize, usize) {
    // Rust up to 1.93 does not know that this is harmless.
    #[allow(unused_unsafe)]
    // SAFETY: every processor that we are built for has the instruction; it changes nothing but registers.
    let leaf = unsafe { std::arch::x86_64::__cpuid_count(0xd, component) };
    (leaf.ebx as usize, leaf.eax as usize)
}

/// What components are called, by their bits.
pub fn names(components: u64) -> Vec<String> {
    let name = |n: u32| {
        let known = NAMES.iter().find(|name| name.0 == n);
        known.map_or_else(|| format!("component {n} of XSAVE"), |k| k.1.to_owned())
    };
    let all = (0..64).filter(|n| components & (1 << n) != 0);
    all.map(name).collect()
}

fn word(set: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(set.get(at..at + 8)?.try_into().ok()?))
}

fn moved(set: &[u8], place: impl Fn(u32) -> (usize, usize)) -> Option<Known> {
    let (xcr0, in_use) = (word(set, XCR0)?, word(set, IN_USE)?);
    let mut out = set.get(..FRONT)?.to_vec();
    // The first two are in the front.
    let known = KNOWN.iter().fold(0b11, |mask, k| mask | 1 << k.0);
    out[XCR0..XCR0 + 8].copy_from_slice(&(xcr0 & known).to_le_bytes());
    out[IN_USE..IN_USE + 8].copy_from_slice(&(in_use & known).to_le_bytes());
    for (component, to, size) in KNOWN.into_iter().filter(|k| xcr0 & (1 << k.0) != 0) {
        let (from, there) = place(component);
        if there != size {
            return None;
        }
        let bytes = set.get(from..from.checked_add(size)?)?;
        out.resize(out.len().max(to + size), 0);
        out[to..to + size].copy_from_slice(bytes);
    }
    Some(Known {
        set: out,
        left_out: in_use & !known,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A set with these components at these places, each filled with its number.
    fn set(places: &[(u32, usize, usize)]) -> Vec<u8> {
        let end = places.iter().map(|(_, at, size)| at + size).max();
        let mut set = vec![0xaa; end.unwrap_or(FRONT)];
        let mut xcr0: u64 = 3;
        for (component, at, size) in places {
            xcr0 |= 1 << component;
            set[*at..at + size].fill(*component as u8);
        }
        set[XCR0..XCR0 + 8].copy_from_slice(&xcr0.to_le_bytes());
        set[IN_USE..IN_USE + 8].copy_from_slice(&xcr0.to_le_bytes());
        set
    }

    fn places(all: &[(u32, usize, usize)]) -> impl Fn(u32) -> (usize, usize) {
        |n| (all.iter().find(|p| p.0 == n)).map_or((0, 0), |p| (p.1, p.2))
    }

    /// Zen 4 and later.
    const AMD: [(u32, usize, usize); 5] = [
        (2, 576, 256),
        (5, 832, 64),
        (6, 896, 512),
        (7, 1408, 1024),
        (9, 2432, 8),
    ];

    #[test]
    fn a_set_of_amds_is_moved() {
        let before = set(&AMD);
        assert_eq!(before.len(), 2440);
        let Known {
            set: after,
            left_out,
        } = in_known_layout(&before, places(&AMD));
        assert_eq!((after.len(), left_out), (2696, 0));
        assert_eq!(after[..FRONT], before[..FRONT]);
        for (component, at, size) in KNOWN.iter().filter(|k| !matches!(k.0, 3 | 4)) {
            let there = &after[*at..at + size];
            assert!(there.iter().all(|b| *b == *component as u8), "{component}");
        }
        // Where there was nothing, there is nothing.
        assert!(after[832..1088].iter().all(|b| *b == 0));
        // Without protection keys it is as long as gdb wants it.
        let less = in_known_layout(&set(&AMD[..4]), places(&AMD)).set;
        assert_eq!(less.len(), 2688);
    }

    #[test]
    fn a_set_of_intels_stays_as_it_is() {
        for known in [&KNOWN[..], &KNOWN[..6], &KNOWN[..3], &KNOWN[..1], &[]] {
            let mut before = set(known);
            // What lies between two of them is nobody's.
            if before.len() > 832 {
                before[832..960].fill(0);
            }
            assert_eq!(
                in_known_layout(&before, places(known)),
                Known::whole(&before)
            );
        }
    }

    /// Sapphire Rapids: no MPX, and nothing moves up for it; AMX behind the protection keys.
    const AMX: [(u32, usize, usize); 7] = [
        (2, 576, 256),
        (5, 1088, 64),
        (6, 1152, 512),
        (7, 1664, 1024),
        (9, 2688, 8),
        (17, 2752, 64),
        (18, 2816, 8192),
    ];

    /// What gdb 13 takes for the size of a set with these components (`X86_XSTATE_SIZE`, gdbsupport/x86-xstate.h).
    fn size_to_gdb_13(xcr0: u64) -> usize {
        match xcr0 {
            x if x & (1 << 9) != 0 => 2696,
            x if x & 0xe0 != 0 => 2688,
            x if x & 0x18 != 0 => 1088,
            x if x & 4 != 0 => 832,
            _ => 576,
        }
    }

    #[test]
    fn what_debuggers_do_not_know_is_left_out_and_named() {
        let before = set(&AMX);
        assert_eq!(before.len(), 11_008);
        let known = in_known_layout(&before, places(&AMX));
        assert_eq!(names(known.left_out), ["AMX (XTILECFG)", "AMX (XTILEDATA)"]);
        // What is left is what it would be on a machine without.
        let mut without = set(&AMX[..5]);
        without[832..1088].fill(0);
        assert_eq!(known.set, without);
        assert_eq!(word(&known.set, XCR0), Some(0b10_1110_0111));
        // No tile was loaded: then nothing is missing.
        let mut unused = before;
        unused[IN_USE..IN_USE + 8].copy_from_slice(&0b111u64.to_le_bytes());
        let known = in_known_layout(&unused, places(&AMX));
        assert_eq!((known.set.len(), known.left_out), (2696, 0));
        assert_eq!(word(&known.set, IN_USE), Some(0b111));
        // The places of AMD's, with something behind that nobody knows yet.
        let later: Vec<_> = AMD.into_iter().chain([(31, 2560, 64)]).collect();
        let known = in_known_layout(&set(&later), places(&later));
        assert_eq!(names(known.left_out), ["component 31 of XSAVE"]);
        assert_eq!(known.set, in_known_layout(&set(&AMD), places(&AMD)).set);
    }

    #[test]
    fn gdb_13_finds_a_set_as_long_as_it_expects() {
        for last in 0..=AMX.len() {
            let before = set(&AMX[..last]);
            let after = in_known_layout(&before, places(&AMX)).set;
            let xcr0 = word(&after, XCR0).unwrap();
            // The three of AVX-512 come together.
            if !matches!(xcr0 & 0xe0, 0x20 | 0x60) {
                assert_eq!(after.len(), size_to_gdb_13(xcr0), "{xcr0:#x}");
            }
        }
    }

    #[test]
    fn what_is_not_known_stays_as_it_is() {
        // Another size, another place, a set that is too short.
        let before = set(&AMD);
        for place in [(576, 128), (usize::MAX, 256)] {
            assert_eq!(in_known_layout(&before, |_| place), Known::whole(&before));
        }
        for len in [0, 100, XCR0 + 4, IN_USE + 4, FRONT, 1000] {
            let short = &before[..len];
            assert_eq!(in_known_layout(short, places(&AMD)), Known::whole(short));
        }
    }
}
