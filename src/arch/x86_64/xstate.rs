//! The extended registers of a thread (NT_X86_XSTATE), in the one layout that every debugger knows.
//!
//! The kernel gives them as the processor's XSAVE has them, and where that has a component differs: AMD's never had the
//! registers of MPX, and what came after these on Intel's, AVX-512 and protection keys, lies where they would be. gdb up to
//! 13 and lldb know Intel's places only; a set of AMD's is too short for them, and gdb says so and shows no vector
//! registers. gdb from 14 on tells by the length whose it is (`i387_guess_xsave_layout()`, gdb/i387-tdep.c). So core files
//! have Intel's places, whatever they are written on.

/// The x87 and SSE registers, and the header; the same everywhere.
const FRONT: usize = 576;

/// Where the kernel notes which components there are: XCR0, in what XSAVE leaves to software (`struct _fpx_sw_bytes`,
/// arch/x86/include/uapi/asm/sigcontext.h).
const XCR0: usize = 464;

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

/// The same registers, where all debuggers look for them. What cannot be told for sure stays as it is. `place` says where
/// this processor has a component, and its size.
pub fn in_known_layout(set: &[u8], place: impl Fn(u32) -> (usize, usize)) -> Vec<u8> {
    moved(set, place).unwrap_or_else(|| set.to_vec())
}

fn moved(set: &[u8], place: impl Fn(u32) -> (usize, usize)) -> Option<Vec<u8>> {
    let xcr0 = u64::from_le_bytes(set.get(XCR0..XCR0 + 8)?.try_into().ok()?);
    let mut out = set.get(..FRONT)?.to_vec();
    // The first two are in the front.
    for component in (2..64).filter(|n| xcr0 & (1 << n) != 0) {
        let (_, to, size) = *KNOWN.iter().find(|known| known.0 == component)?;
        let (from, there) = place(component);
        if there != size {
            return None;
        }
        let bytes = set.get(from..from.checked_add(size)?)?;
        out.resize(out.len().max(to + size), 0);
        out[to..to + size].copy_from_slice(bytes);
    }
    Some(out)
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
        let after = in_known_layout(&before, places(&AMD));
        assert_eq!(after.len(), 2696);
        assert_eq!(after[..FRONT], before[..FRONT]);
        for (component, at, size) in KNOWN.iter().filter(|k| !matches!(k.0, 3 | 4)) {
            let there = &after[*at..at + size];
            assert!(there.iter().all(|b| *b == *component as u8), "{component}");
        }
        // Where there was nothing, there is nothing.
        assert!(after[832..1088].iter().all(|b| *b == 0));
        // Without protection keys it is as long as gdb wants it.
        let less = in_known_layout(&set(&AMD[..4]), places(&AMD));
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
            assert_eq!(in_known_layout(&before, places(known)), before);
        }
    }

    #[test]
    fn what_is_not_known_stays_as_it_is() {
        // A component that nobody knows (the tiles of AMX), another size, a set that is too short.
        let tiles = [(2, 576, 256), (17, 2752, 64)];
        let before = set(&tiles);
        assert_eq!(in_known_layout(&before, places(&tiles)), before);
        let before = set(&AMD);
        assert_eq!(in_known_layout(&before, |_| (576, 128)), before);
        assert_eq!(in_known_layout(&before, |_| (usize::MAX, 256)), before);
        for len in [0, 100, XCR0 + 4, FRONT, 1000] {
            assert_eq!(in_known_layout(&before[..len], places(&AMD)), before[..len]);
        }
    }
}
