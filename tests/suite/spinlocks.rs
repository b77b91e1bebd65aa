//! Libraries whose functions leave a spinlock to others: where any of their functions stands, one may be held.

use std::fs::File;
use std::path::Path;

use pgpoke::image::Image;

use crate::harness::{Installation, skip};

fn hands_out(library: &Path) -> Option<bool> {
    let file = File::open(library).unwrap_or_else(|e| panic!("{}: {e}", library.display()));
    let image = Image::from_file(file).expect("an ELF image");
    assert_eq!(image.hands_out_spinlocks(), None, "nobody has looked yet");
    image.learn_hands_out_spinlocks();
    image.hands_out_spinlocks()
}

#[test]
fn libraries_that_hand_out_spinlocks_are_told_from_others() {
    let installation = Installation::default();
    if installation.pg_config().is_none() {
        skip!("no headers for {}", installation.version());
    }
    // Takes and releases in one function each.
    assert_eq!(hands_out(&installation.testext()), Some(false));
    let contrib = Path::new("/usr/lib/postgresql/15/lib");
    if !contrib.exists() {
        skip!("no {}", contrib.display());
    }
    assert_eq!(
        hands_out(&contrib.join("pg_stat_statements.so")),
        Some(false)
    );
    assert_eq!(hands_out(&contrib.join("dblink.so")), Some(false));
    // Has LockBufHdr() take a lock for it.
    assert_eq!(hands_out(&contrib.join("pg_buffercache.so")), Some(true));
}
