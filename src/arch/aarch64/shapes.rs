//! AArch64: what the code of a function says of static variables. Of one function only, so far.

use super::registers::words;
use crate::address::Avma;
use crate::arch::ErrnoAt;

/// glibc's: `adrp x0,P; ldr x0,[x0,#n]; mrs x1,tpidr_el0; add x0,x1,x0; ret`, after a `bti c` or not. `code` are the
/// function's bytes and `at` their address. None for code of another shape.
pub fn errno_location(code: &[u8], at: Avma) -> Option<ErrnoAt> {
    const BTI_C: u32 = 0xd503_245f;
    let words = words(code);
    let (at, words) = match words.split_first() {
        Some((&BTI_C, rest)) => (at.offset(4), rest),
        _ => (at, &words[..]),
    };
    let [
        adrp,
        load,
        0xd53b_d041, // mrs x1,tpidr_el0
        0x8b00_0020, // add x0,x1,x0
        0xd65f_03c0, // ret
        ..,
    ] = *words
    else {
        return None;
    };
    // Into x0 both, and the load from there: `adrp` and `ldr (immediate)`, unsigned offset, 64 bits (Arm Architecture
    // Reference Manual for A-profile, C6.2).
    let shaped = adrp & 0x9f00_001f == 0x9000_0000 && load & 0xffc0_03ff == 0xf940_0000;
    let pages = i64::from(adrp >> 29 & 3 | (adrp >> 5 & 0x7_ffff) << 2);
    let pages = (pages << 43) >> 43;
    let slot = i64::from(load >> 10 & 0xfff) * 8;
    let page = Avma(at.0 & !0xfff);
    shaped.then(|| ErrnoAt::OffsetKeptAt(page.offset((pages << 12) + slot)))
}

#[cfg(test)]
mod tests {
    use super::super::registers::tests::bytes;
    use super::*;

    #[test]
    fn errno_of_glibc() {
        // adrp x0,+0x1a5000; ldr x0,[x0,#3504]; mrs x1,tpidr_el0; add x0,x1,x0; ret
        let plain = [
            0xb000_0d20,
            0xf946_d800,
            0xd53b_d041,
            0x8b00_0020,
            0xd65f_03c0,
        ];
        let slot = Some(ErrnoAt::OffsetKeptAt(Avma(0x2_0000 + 0x1a_5000 + 3504)));
        assert_eq!(errno_location(&bytes(&plain), Avma(0x2_0124)), slot);
        let marked = [&[0xd503_245f], &plain[..]].concat();
        assert_eq!(errno_location(&bytes(&marked), Avma(0x2_0124)), slot);
        // adrp x0,-0x1000
        let back = [&[0xf0ff_ffe0], &plain[1..]].concat();
        let before = Some(ErrnoAt::OffsetKeptAt(Avma(0x1_f000 + 3504)));
        assert_eq!(errno_location(&bytes(&back), Avma(0x2_0124)), before);
        let other_register = [&[0xb000_0d21], &plain[1..]].concat();
        assert_eq!(errno_location(&bytes(&other_register), Avma(0)), None);
        assert_eq!(errno_location(&bytes(&plain[..4]), Avma(0)), None);
        assert_eq!(errno_location(&[], Avma(0)), None);
    }
}
