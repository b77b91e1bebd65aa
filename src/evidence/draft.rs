//! A file that is there only when it is whole.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, PosixFadviseAdvice, posix_fadvise};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::linkat;

/// So much may wait to be written to the disk: it is then written, so that neither the server's own writes nor a Ctrl-C
/// wait long for it, and what is said of the progress is true.
const UNWRITTEN: u64 = 32 << 20;

/// A new file without a name, or with one that tells that it is not whole. Dropped before it was kept, it is gone; where
/// the file system can have files without a name (O_TMPFILE), also when pgpoke is killed.
#[derive(Debug)]
pub struct Draft {
    file: File,
    path: PathBuf,
    temporary: Option<PathBuf>,
    unwritten: u64,
}

impl Draft {
    /// Begins a file that shall be at `path`, for nobody but its owner, where there must be none yet.
    pub fn new(path: &Path) -> io::Result<Self> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        let dir = directory(path);
        let nameless = options().custom_flags(libc::O_TMPFILE).open(dir);
        let (file, temporary) = match nameless {
            Ok(file) => (file, None),
            // EISDIR before Linux 3.11, which knows no such flag.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
                Self::with_name(path, dir)?
            }
            Err(e) => return Err(e),
        };
        Ok(Draft {
            file,
            path: path.to_owned(),
            temporary,
            unwritten: 0,
        })
    }

    fn with_name(path: &Path, dir: &Path) -> io::Result<(File, Option<PathBuf>)> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.partial", std::process::id()));
        let temporary = dir.join(name);
        let file = options().create_new(true).open(&temporary)?;
        Ok((file, Some(temporary)))
    }

    /// Whether it is gone with us, however we end.
    pub fn is_nameless(&self) -> bool {
        self.temporary.is_none()
    }

    /// How many bytes the file system has left for us.
    pub fn free_space(&self) -> io::Result<u64> {
        let stat = fstatvfs(&self.file)?;
        Ok(stat.blocks_available() as u64 * stat.fragment_size() as u64)
    }

    /// Writes bytes at a place.
    pub fn write(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, at)?;
        self.unwritten += bytes.len() as u64;
        if self.unwritten >= UNWRITTEN {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes one byte after the other, from the beginning.
    pub fn in_order(&mut self) -> InOrder<'_> {
        InOrder {
            draft: self,
            len: 0,
        }
    }

    /// Waits until the disk has it, and gives back the memory that it took: it is the server's disk cache.
    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()?;
        self.unwritten = 0;
        let _ = posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        Ok(())
    }

    /// Makes it so long, gives it its name, and says how many bytes of the disk it takes.
    pub fn keep(mut self, len: u64) -> io::Result<u64> {
        self.file.set_len(len)?;
        self.flush()?;
        let blocks = self.file.metadata()?.blocks();
        match self.temporary.take() {
            None => {
                let here = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                let follow = AtFlags::AT_SYMLINK_FOLLOW;
                linkat(AT_FDCWD, here.as_str(), AT_FDCWD, &self.path, follow)?;
            }
            Some(temporary) => {
                let named = name_it(&temporary, &self.path);
                // Whether it has its name or not, this one it shall not have.
                let _ = fs::remove_file(&temporary);
                named?;
            }
        }
        // The name, too. It is there in any case, and not every file system can do this.
        let _ = File::open(directory(&self.path)).and_then(|dir| dir.sync_all());
        Ok(blocks * 512)
    }
}

/// Writes a draft in one go.
#[derive(Debug)]
pub struct InOrder<'d> {
    draft: &'d mut Draft,
    /// How many bytes were written.
    pub len: u64,
}

impl io::Write for InOrder<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.draft.write(bytes, self.len)?;
        self.len += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Never replaces a file, where the file system can have two names for one.
fn name_it(temporary: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(temporary, path) {
        Err(e)
            if matches!(
                Errno::from_raw(e.raw_os_error().unwrap_or(0)),
                Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS
            ) =>
        {
            fs::rename(temporary, path)
        }
        result => result,
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = fs::remove_file(temporary);
        }
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name());
        entries.map(|n| n.into_string().unwrap()).collect()
    }

    /// The same of a file system that can have no file without a name.
    fn with_name(path: &Path) -> Draft {
        let (file, temporary) = Draft::with_name(path, directory(path)).unwrap();
        let path = path.to_owned();
        Draft {
            file,
            path,
            temporary,
            unwritten: 0,
        }
    }

    #[test]
    fn it_has_its_name_when_it_is_whole_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("core");
        for begin in [|p: &Path| Draft::new(p).unwrap(), with_name] {
            let mut draft = begin(&path);
            draft.write(b"half", 0).unwrap();
            assert!(!path.exists());
            drop(draft);
            assert_eq!(names(dir.path()), [""; 0]);

            let mut draft = begin(&path);
            draft.write(b"whole", 1 << 20).unwrap();
            assert!(draft.free_space().unwrap() > 0);
            let on_disk = draft.keep(2 << 20).unwrap();
            assert_eq!(names(dir.path()), ["core"]);
            let meta = fs::metadata(&path).unwrap();
            assert_eq!(
                (meta.len(), meta.permissions().mode() & 0o777),
                (2 << 20, 0o600)
            );
            assert!(on_disk < 1 << 20, "{on_disk}");
            // It is never written over, not even where it came in between.
            assert!(Draft::new(&path).is_err());
            fs::remove_file(&path).unwrap();
            let draft = begin(&path);
            fs::write(&path, "somebody else's").unwrap();
            assert!(draft.keep(0).is_err());
            assert_eq!(fs::read(&path).unwrap(), b"somebody else's");
            assert_eq!(names(dir.path()), ["core"]);
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_name_without_a_directory_is_in_this_one() {
        assert_eq!(directory(Path::new("core")), Path::new("."));
        assert_eq!(directory(Path::new("/core")), Path::new("/"));
    }
}
