//! Opening files below a root directory that may be another process's, without ever leaving it.
//!
//! A plain open of `/proc/PID/root/PATH` takes an absolute link inside a container for a path of ours, so that whoever
//! owns the container could have us read any file of the host. Here links are resolved as the process itself would.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::Mode;
use nix::sys::statfs::fstatfs;

use super::Process;

/// What to do with symbolic links on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// Follow them, within the root.
    Followed,
    /// None may be there.
    Refused,
}

/// As many links as the kernel itself follows in one path (`MAXSYMLINKS`, include/linux/namei.h).
const MOST_LINKS: usize = 40;

/// More parts than any sane path has.
const MOST_PARTS: usize = 512;

/// Finds a place without opening what is there: neither a FIFO nor a device notices.
const FIND: OFlag = OFlag::O_PATH.union(OFlag::O_CLOEXEC);

/// A root directory.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// Our own.
    pub fn ours() -> io::Result<Self> {
        Root::at(Path::new("/"))
    }

    /// That of a process, which takes the right to look into it.
    pub fn of(process: &Process) -> io::Result<Self> {
        // The kernel's magic link leads where the process's root is.
        Ok(Root(process.open_file("root")?.into()))
    }

    /// The working directory of a process, taken for a root: nothing outside of it is ever opened.
    pub fn working_directory_of(process: &Process) -> io::Result<Self> {
        Ok(Root(process.open_file("cwd")?.into()))
    }

    /// Any directory, to be taken for a root.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        Ok(Root(File::open(path)?.into()))
    }

    /// Whether both are one directory.
    pub fn is(&self, other: &Root) -> bool {
        let key = |root: &Root| metadata_of(&root.0).map(|m| (m.dev(), m.ino())).ok();
        key(self).is_some() && key(self) == key(other)
    }

    /// What lies at `path` below this root; a symbolic link at its end is followed.
    pub fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        metadata_of(&self.find(path, Links::Followed)?)
    }

    /// Opens the regular file at `path` below this root, for reading. Never waits for another process, as opening a FIFO
    /// or a file with a lease would.
    pub fn open(&self, path: &Path, links: Links) -> io::Result<File> {
        regular(self.find(path, links)?)
    }

    /// The names in the directory at `path` below this root, as far as they are text, in no order.
    pub fn list(&self, path: &Path, most: usize) -> io::Result<Vec<String>> {
        let found = self.find(path, Links::Followed)?;
        // The descriptor's own link in /proc leads to that very directory.
        let entries = std::fs::read_dir(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
        let names = entries
            .take(most)
            .map(|e| Ok(e?.file_name().into_string().ok()));
        names.filter_map(io::Result::transpose).collect()
    }

    fn find(&self, path: &Path, links: Links) -> io::Result<OwnedFd> {
        match self.ask_kernel(path, links) {
            // Before Linux 5.6 there is no such call; seccomp filters that do not know it deny it as they like. EAGAIN:
            // something was renamed meanwhile (openat2(2)).
            Err(Errno::ENOSYS | Errno::EPERM | Errno::EINVAL | Errno::EAGAIN) => {
                self.step_by_step(path, links)
            }
            found => Ok(found?),
        }
    }

    fn ask_kernel(&self, path: &Path, links: Links) -> nix::Result<OwnedFd> {
        let mut resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        if links == Links::Refused {
            resolve |= ResolveFlag::RESOLVE_NO_SYMLINKS;
        }
        openat2(&self.0, path, OpenHow::new().flags(FIND).resolve(resolve))
    }

    /// What openat2(2) does with RESOLVE_IN_ROOT, made of calls that every kernel has.
    fn step_by_step(&self, path: &Path, links: Links) -> io::Result<OwnedFd> {
        // What is left of the way, the next part last, and the directories passed, so that ".." never asks the kernel.
        let mut left = parts_of(path);
        let mut passed: Vec<OwnedFd> = Vec::new();
        let mut followed = 0;
        while let Some(part) = left.pop() {
            if left.len() + passed.len() > MOST_PARTS {
                return Err(Errno::ENAMETOOLONG.into());
            }
            if part == ".." {
                passed.pop();
                continue;
            }
            let here = passed.last().unwrap_or(&self.0);
            let next = openat(here, &*part, FIND | OFlag::O_NOFOLLOW, Mode::empty())?;
            if !metadata_of(&next)?.is_symlink() {
                passed.push(next);
                continue;
            }
            followed += 1;
            if links == Links::Refused || followed > MOST_LINKS {
                return Err(Errno::ELOOP.into());
            }
            let target = readlinkat(&next, "")?;
            let target = Path::new(&target);
            if target.is_absolute() {
                passed.clear();
            }
            left.extend(parts_of(target));
        }
        passed.pop().ok_or_else(|| Errno::EISDIR.into())
    }
}

/// The parts of a path, the first one last.
fn parts_of(path: &Path) -> Vec<OsString> {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    let mut parts: Vec<OsString> = parts.take(MOST_PARTS).collect();
    parts.reverse();
    parts
}

fn metadata_of(fd: &OwnedFd) -> io::Result<Metadata> {
    File::from(fd.try_clone()?).metadata()
}

/// Opens what was found for reading, if it is a regular file: a FIFO would hold us up, a device may do anything. So may
/// what the kernel makes up while it is read: `/proc/kmsg` calls itself a regular file, and reading it takes messages
/// away from whoever waits for them.
fn regular(found: OwnedFd) -> io::Result<File> {
    if !metadata_of(&found)?.is_file() || is_made_up(&found) {
        return Err(io::Error::other("not a regular file"));
    }
    // The descriptor's own link in /proc leads to that very file, wherever it lies now.
    File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY)
        .open(format!("/proc/self/fd/{}", found.as_raw_fd()))
}

/// Whether the file lies on one of the kernel's own file systems (`include/uapi/linux/magic.h`).
fn is_made_up(found: &OwnedFd) -> bool {
    const MAGIC: [libc::c_long; 13] = [
        libc::PROC_SUPER_MAGIC,
        libc::SYSFS_MAGIC,
        libc::DEBUGFS_MAGIC,
        libc::TRACEFS_MAGIC,
        libc::SECURITYFS_MAGIC,
        libc::CGROUP_SUPER_MAGIC,
        libc::CGROUP2_SUPER_MAGIC,
        libc::BPF_FS_MAGIC,
        libc::SELINUX_MAGIC,
        libc::SMACK_MAGIC,
        libc::NSFS_MAGIC,
        libc::RDTGROUP_SUPER_MAGIC,
        libc::XENFS_SUPER_MAGIC,
    ];
    fstatfs(found).is_ok_and(|fs| MAGIC.contains(&fs.filesystem_type().0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    type Way = fn(&Root, &Path, Links) -> io::Result<OwnedFd>;

    const WAYS: [Way; 2] = [
        |root, path, links| Ok(root.ask_kernel(path, links)?),
        Root::step_by_step,
    ];

    fn text(found: io::Result<OwnedFd>) -> Option<String> {
        let mut text = String::new();
        regular(found.ok()?).ok()?.read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// A container's root, with a file, and beside it one that is not to be reached.
    #[test]
    fn no_link_leads_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("usr/lib")).unwrap();
        fs::write(dir.path().join("secret"), "outside").unwrap();
        fs::write(root.join("usr/lib/file"), "inside").unwrap();
        fs::write(root.join("secret"), "inside's own").unwrap();
        symlink("usr/lib", root.join("lib")).unwrap();
        symlink("/usr/lib/file", root.join("absolute")).unwrap();
        symlink("../../../../../secret", root.join("usr/upwards")).unwrap();
        symlink(dir.path().join("secret"), root.join("out")).unwrap();
        symlink("/proc/self/root/etc/passwd", root.join("magic")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        nix::unistd::mkfifo(&root.join("fifo"), Mode::S_IRWXU).unwrap();
        let root = Root::at(&root).unwrap();
        for way in WAYS {
            let open = |path: &str, links| text(way(&root, Path::new(path), links));
            let inside = Some("inside".to_owned());
            assert_eq!(open("usr/lib/file", Links::Refused), inside);
            assert_eq!(open("lib/file", Links::Followed), inside);
            assert_eq!(open("lib/file", Links::Refused), None);
            assert_eq!(open("absolute", Links::Followed), inside);
            assert_eq!(open("usr/lib/../lib/./file", Links::Refused), inside);
            let own = Some("inside's own".to_owned());
            assert_eq!(open("../../secret", Links::Followed), own);
            assert_eq!(open("usr/upwards", Links::Followed), own);
            for path in [
                "out", "magic", "loop", "fifo", "usr", "nothing", "", "..", "/",
            ] {
                assert_eq!(open(path, Links::Followed), None, "{path:?}");
            }
        }
    }

    #[test]
    fn roots_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path()).unwrap();
        assert!(Root::ours().unwrap().is(&Root::ours().unwrap()));
        assert!(!Root::ours().unwrap().is(&root));
    }

    #[test]
    fn neither_devices_nor_the_kernels_files_are_opened() {
        let root = Root::ours().unwrap();
        for path in ["/dev/null", "/proc/version", "/sys/kernel/notes"] {
            assert!(
                root.open(Path::new(path), Links::Followed).is_err(),
                "{path}"
            );
        }
    }
}
