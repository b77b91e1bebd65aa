//! Files that the server names, opened with no more rights than the server has.
//!
//! Whoever controls the server chooses these names, and what lies there: a link to another user's file would make a pgpoke
//! of root's read that file into a bundle. So they are resolved within the server's root, as the server's user, and only
//! regular files are read that this user owns or everybody may read. Reads what is there, and never waits.

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use crate::process::Process;
use crate::process::root::{Links, Root};

/// The user that a server runs as, for this thread's look at files (setfsuid(2)): with another identity than root's, the
/// kernel takes away what root may do with other users' files, too (capabilities(7)).
struct AsServer {
    before: (Uid, Gid),
}

impl AsServer {
    fn of(process: &Process) -> io::Result<Self> {
        let status = process.status()?;
        let gid = setfsgid(Gid::from_raw(status.egid));
        let uid = setfsuid(Uid::from_raw(status.euid));
        Ok(AsServer { before: (uid, gid) })
    }
}

impl Drop for AsServer {
    fn drop(&mut self) {
        setfsuid(self.before.0);
        setfsgid(self.before.1);
    }
}

/// Opens a file as a process of the server's would. The name is as that process has it.
pub fn open(process: &Process, path: &Path) -> Result<File, String> {
    let shown = path.display();
    let failed = |e: io::Error| format!("{shown}: {e}");
    let root = Root::of(process).map_err(failed)?;
    let uid = process.status().map_err(failed)?.euid;
    let file = {
        let _as_server = AsServer::of(process).map_err(failed)?;
        root.open(path, Links::Followed).map_err(failed)?
    };
    match is_theirs(&file.metadata().map_err(failed)?, uid) {
        true => Ok(file),
        false => Err(format!(
            "{shown}: it belongs to another user, and not everybody may read it"
        )),
    }
}

/// The names in a directory, sorted, at most so many.
pub fn list(process: &Process, path: &Path, most: usize) -> Result<Vec<String>, String> {
    let failed = |e: io::Error| format!("{}: {e}", path.display());
    let root = Root::of(process).map_err(failed)?;
    let _as_server = AsServer::of(process).map_err(failed)?;
    let mut names = root.list(path, most).map_err(failed)?;
    names.sort_unstable();
    Ok(names)
}

/// Opens the file that a descriptor of the process is open on.
pub fn open_descriptor(process: &Process, fd: u64) -> Result<File, String> {
    let shown = process
        .descriptor(fd)
        .unwrap_or_else(|| format!("descriptor {fd}"));
    let failed = |e: io::Error| format!("{shown}: {e}");
    let uid = process.status().map_err(failed)?.euid;
    let link = format!("/proc/{}/fd/{fd}", process.pid());
    let check = |metadata: &Metadata| match metadata.is_file() {
        false => Err(format!("{shown} is no regular file")),
        true if !is_theirs(metadata, uid) => Err(format!("{shown}: it belongs to another user")),
        true => Ok(()),
    };
    check(&std::fs::metadata(&link).map_err(failed)?)?;
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY)
        .open(&link)
        .map_err(failed)?;
    // It may have been another one by then.
    check(&file.metadata().map_err(failed)?)?;
    match process.still_the_same() {
        true => Ok(file),
        false => Err(format!("process {} is gone", process.pid())),
    }
}

fn is_theirs(metadata: &Metadata, uid: u32) -> bool {
    metadata.uid() == uid || metadata.mode() & 0o004 != 0
}

/// All of a small file, as text.
pub fn read(process: &Process, path: &Path, most: u64) -> Result<String, String> {
    let mut text = Vec::new();
    open(process, path)?
        .take(most)
        .read_to_end(&mut text)
        .map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The last `most` bytes of a file, from the beginning of a line on.
pub fn tail(mut file: File, most: u64) -> io::Result<String> {
    let length = file.metadata()?.len();
    let from = length.saturating_sub(most);
    file.seek(SeekFrom::Start(from))?;
    let mut text = Vec::new();
    file.take(most).read_to_end(&mut text)?;
    let whole = match from {
        0 => 0,
        _ => memchr::memchr(b'\n', &text).map_or(0, |at| at + 1),
    };
    Ok(String::from_utf8_lossy(&text[whole..]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn nothing_but_regular_files_that_may_be_read() {
        let me = Process::open(std::process::id() as i32).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("log"), "one\ntwo\nthree\n").unwrap();
        symlink("log", at("link")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(&me, &at("log"), 5).unwrap(), "one\nt");
        assert_eq!(read(&me, &at("link"), 99).unwrap(), "one\ntwo\nthree\n");
        for wrong in ["fifo", "nothing", "."] {
            assert!(open(&me, &at(wrong)).is_err(), "{wrong}");
        }
        assert_eq!(tail(open(&me, &at("log")).unwrap(), 7).unwrap(), "three\n");
        assert_eq!(
            tail(open(&me, &at("log")).unwrap(), 99).unwrap(),
            "one\ntwo\nthree\n"
        );
        fs::set_permissions(at("log"), fs::Permissions::from_mode(0o600)).unwrap();
        let metadata = fs::metadata(at("log")).unwrap();
        assert!(is_theirs(&metadata, metadata.uid()) && !is_theirs(&metadata, metadata.uid() + 1));
        assert!(open_descriptor(&me, 9_999).is_err());
    }
}
