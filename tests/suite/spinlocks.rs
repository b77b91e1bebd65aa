//! What machine code shows of spinlocks: those of servers, and libraries whose functions leave one to others.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use iced_x86::{Code, Decoder, DecoderOptions};
use object::{Object, ObjectSection};
use pgpoke::image::{Image, Svma};

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

/// Each function of a server that calls s_lock(), or that does an exchange of a byte, takes a spinlock; but for
/// do_autovacuum() from 16 on, which sets a flag.
#[test]
fn flags_of_servers_are_told_from_spinlocks() {
    let npm = (12..=18).filter_map(Installation::npm);
    let wheels = ["16.2", "16.14", "18.4"].into_iter();
    let all = npm
        .chain(wheels.filter_map(Installation::wheel))
        .chain(Installation::dwarf())
        .chain([Installation::debian()]);
    let mut flags_seen = Vec::new();
    for installation in all {
        let server = installation.server();
        let file = std::fs::read(&server).expect("the server");
        let image = Image::from_bytes(file.clone()).expect("an ELF image");
        let elf = object::File::parse(&file[..]).expect("an ELF file");
        let text = elf.section_by_name(".text").expect("code");
        let (start, code) = (text.address(), text.data().expect("code"));
        let of = |at: usize| image.function_bounds(Svma(start + at as u64));
        let s_lock = image.symbols().by_name(&["s_lock"])["s_lock"].0.start;

        let mut callers = BTreeSet::new();
        let mut exchangers = BTreeSet::new();
        for at in 0..code.len() - 8 {
            let to = start + at as u64 + 5;
            let by = i32::from_le_bytes(code[at + 1..at + 5].try_into().expect("four bytes"));
            if code[at] == 0xe8 && to.wrapping_add_signed(by.into()) == s_lock.0 {
                callers.extend(of(at));
            }
            let rex = usize::from(code[at + 1] & 0xf0 == 0x40);
            if code[at] == 0xf0 && code[at + 1 + rex] == 0x86 {
                exchangers.extend(of(at));
            }
        }
        // s_lock() itself is waited in, not held in; and what looks like one may be a part of another instruction.
        exchangers.retain(|(start, size)| {
            let code = image.bytes_at(*start, *size).expect("its code");
            let mut all = Decoder::with_ip(64, &code, start.0, DecoderOptions::NONE).into_iter();
            *start != s_lock && all.any(|i| i.code() == Code::Xchg_rm8_r8 && i.has_lock_prefix())
        });
        let name = server.display();
        assert!(callers.len() > 60, "{name}: {}", callers.len());
        let mut flags = Vec::new();
        for (start, size) in callers.union(&exchangers) {
            image.learn_spinlocks(*start, *size);
            let found = image.known_spinlocks(*start).expect("its code");
            if found.are_none() {
                assert!(!callers.contains(&(*start, *size)), "{name}: {start:?}");
                let function = image.function_at(*start).map(|s| s.name.to_owned());
                flags.push(function.unwrap_or_default());
            }
        }
        match installation.major() {
            ..16 => assert_eq!(flags, [""; 0], "{name}"),
            16.. => assert_eq!(flags, ["do_autovacuum"], "{name}"),
        }
        flags_seen.extend(flags);
    }
    if flags_seen.is_empty() {
        skip!("no server of 16 or later");
    }
}
