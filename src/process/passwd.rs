//! The names of users, out of the text of `/etc/passwd` (passwd(5)).
//!
//! Not through getpwuid(3): it loads whatever modules the system's name service is configured with into pgpoke, which in
//! a statically linked build may not even work.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::Process;
use super::root::{Links, Root};

/// The most that is read of a file.
const MOST: u64 = 1 << 20;

/// The name of a user on this system.
pub fn name_here(uid: u32) -> Option<String> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/etc/passwd");
    name_in(file.ok()?, uid)
}

/// The name of a user in the root file system of `process`, where we may look into that.
pub fn name_inside(process: &Process, uid: u32) -> Option<String> {
    let root = Root::of(process).ok()?;
    let file = root.open(Path::new("etc/passwd"), Links::Followed);
    name_in(file.ok()?, uid)
}

fn name_in(file: File, uid: u32) -> Option<String> {
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(MOST).read_to_end(&mut text).ok()?;
    find(&String::from_utf8_lossy(&text), uid)
}

/// Only a name that can be typed as it is: it ends up in a command that is to be copied, and a container's file may say
/// anything.
pub(crate) fn find(passwd: &str, uid: u32) -> Option<String> {
    let mut names = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(uid)).then_some(name)
    });
    let name = names.next()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let typable =
        !name.is_empty() && name.len() <= 64 && !name.starts_with('-') && name.bytes().all(plain);
    typable.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_number() {
        let text = "root:x:0:0:root:/root:/bin/bash\nbroken\nodd;rm:x:7:7::/:/bin/sh\n-u:x:8:8::/:\npostgres:x:999:999::/:\n";
        assert_eq!(find(text, 0).as_deref(), Some("root"));
        assert_eq!(find(text, 999).as_deref(), Some("postgres"));
        for uid in [7, 8, 99] {
            assert_eq!(find(text, uid), None);
        }
        assert_eq!(name_here(0).as_deref(), Some("root"));
        let me = Process::open(std::process::id() as i32).unwrap();
        assert_eq!(name_inside(&me, 0).as_deref(), Some("root"));
    }
}
