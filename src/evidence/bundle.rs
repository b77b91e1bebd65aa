//! The directory that evidence is written to, and the archive of it. Only their owner may read them.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::Mode;

use super::draft::{Draft, InOrder};

/// The most that one file may hold, and all of them together.
const MOST_OF_ONE: usize = 16 << 20;
const MOST_OF_ALL: usize = 128 << 20;

/// What is said at the end of a file that is not whole.
const CUT_OFF: &str = "\n[cut off here: it would have been longer]\n";

/// A directory being filled.
#[derive(Debug)]
pub struct Bundle {
    path: PathBuf,
    directory: OwnedFd,
    made_here: bool,
    left: usize,
    files: Vec<String>,
}

/// A file that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// How long it is.
    pub bytes: usize,
    /// There would have been more.
    pub cut_off: bool,
}

impl Bundle {
    /// Makes the directory, or takes one that is there, is empty, and is ours.
    pub fn create(path: &Path) -> io::Result<Self> {
        // Without a slash at its end, which would put the archive into the directory, and follow a link.
        let path = &path.components().collect::<PathBuf>();
        let made_here = match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
            Err(e) => return Err(e),
        };
        // What is at that place by now need not be what was there, or was made, a moment ago.
        let directory = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(path);
        let directory = directory.map_err(|e| match std::fs::symlink_metadata(path) {
            Ok(there) if there.is_symlink() => io::Error::other("it is a symbolic link"),
            _ => e,
        })?;
        let metadata = directory.metadata()?;
        if metadata.uid() != nix::unistd::geteuid().as_raw() {
            return Err(io::Error::other("it belongs to somebody else"));
        }
        if !made_here && std::fs::read_dir(path)?.next().is_some() {
            return Err(io::Error::other("it is there already, and not empty"));
        }
        directory.set_permissions(PermissionsExt::from_mode(0o700))?;
        Ok(Bundle {
            path: std::path::absolute(path)?,
            directory: directory.into(),
            made_here,
            left: MOST_OF_ALL,
            files: Vec::new(),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file that is not there yet, as much of it as is allowed.
    pub fn write(&mut self, name: &str, content: &[u8]) -> io::Result<Size> {
        let size = self.put(name, content)?;
        self.files.push(name.to_owned());
        Ok(size)
    }

    /// Writes a file of ours that may be there already. At no moment is it there and not whole, or not there any more.
    pub fn rewrite(&mut self, name: &str, content: &[u8]) -> io::Result<Size> {
        let fresh = format!("{name}.new");
        let size = self.put(&fresh, content)?;
        renameat(&self.directory, &*fresh, &self.directory, name)?;
        if !self.files.iter().any(|file| file == name) {
            self.files.push(name.to_owned());
        }
        Ok(size)
    }

    fn put(&mut self, name: &str, content: &[u8]) -> io::Result<Size> {
        let most = MOST_OF_ONE.min(self.left);
        let cut_off = content.len() > most;
        let content = &content[..content.len().min(most)];
        let flags =
            OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&self.directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let mut file = File::from(file);
        let written = file.write_all(content).and_then(|()| match cut_off {
            true => file.write_all(CUT_OFF.as_bytes()),
            false => Ok(()),
        });
        if let Err(e) = written {
            // Half a file would be taken for a whole one.
            let _ = nix::unistd::unlinkat(
                &self.directory,
                name,
                nix::unistd::UnlinkatFlags::NoRemoveDir,
            );
            return Err(e);
        }
        self.left -= content.len();
        Ok(Size {
            bytes: content.len() + if cut_off { CUT_OFF.len() } else { 0 },
            cut_off,
        })
    }

    /// Removes the directory, if it was made here and nothing was written.
    pub fn give_up(self) {
        if self.made_here && self.files.is_empty() {
            let _ = std::fs::remove_dir(&self.path);
        }
    }

    /// Packs all files into `DIRECTORY.tar.gz`, beside the directory, where there must be nothing yet. It is there when it
    /// is whole, and not before.
    pub fn pack(&self) -> io::Result<PathBuf> {
        let mut name = self.path.clone().into_os_string();
        name.push(".tar.gz");
        let path = PathBuf::from(name);
        let mut draft = Draft::new(&path)?;
        let len = self.pack_into(draft.in_order())?;
        draft.keep(len).map(|_| path)
    }

    fn pack_into(&self, draft: InOrder<'_>) -> io::Result<u64> {
        let mut archive = tar::Builder::new(GzEncoder::new(draft, Compression::default()));
        let folder = self
            .path
            .file_name()
            .map(Path::new)
            .unwrap_or(Path::new("report"));
        for name in &self.files {
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let mut file = File::from(openat(
                &self.directory,
                name.as_str(),
                flags,
                Mode::empty(),
            )?);
            let metadata = file.metadata()?;
            let mut header = tar::Header::new_gnu();
            header.set_size(metadata.len());
            header.set_mode(0o600);
            header.set_mtime(metadata.mtime().max(0) as u64);
            archive.append_data(&mut header, folder.join(name), &mut file)?;
        }
        Ok(archive.into_inner()?.finish()?.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn only_the_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report");
        let mut bundle = Bundle::create(&path).unwrap();
        bundle.write("a.txt", b"one").unwrap();
        let archive = bundle.pack().unwrap();
        assert_eq!(archive, dir.path().join("report.tar.gz"));
        let with_slash = Bundle::create(&dir.path().join("other/")).unwrap();
        let other = with_slash.pack().unwrap();
        assert_eq!(other, dir.path().join("other.tar.gz"));
        assert_eq!(
            [mode(&path), mode(&path.join("a.txt")), mode(&archive)],
            [0o700, 0o600, 0o600]
        );
        let unpacked = flate2::read::GzDecoder::new(File::open(&archive).unwrap());
        let mut unpacked = tar::Archive::new(unpacked);
        let names: Vec<PathBuf> = unpacked
            .entries()
            .unwrap()
            .map(|e| e.unwrap().path().unwrap().into_owned())
            .collect();
        assert_eq!(names, [Path::new("report/a.txt")]);
        assert!(bundle.pack().is_err(), "the archive is there already");
    }

    #[test]
    fn nothing_that_is_there_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        fs::write(&secret, "before").unwrap();
        assert!(Bundle::create(dir.path()).is_err(), "not empty");
        assert!(Bundle::create(&secret).is_err(), "a file");
        let link = dir.path().join("link");
        fs::create_dir(dir.path().join("empty")).unwrap();
        symlink(dir.path().join("empty"), &link).unwrap();
        for link in [link.clone(), link.join("")] {
            let why = Bundle::create(&link).unwrap_err().to_string();
            assert_eq!(why, "it is a symbolic link");
        }
        let mut bundle = Bundle::create(&dir.path().join("empty")).unwrap();
        symlink(&secret, dir.path().join("empty/a.txt")).unwrap();
        assert!(bundle.write("a.txt", b"after").is_err());
        assert_eq!(fs::read_to_string(&secret).unwrap(), "before");
        bundle.give_up();
        assert!(dir.path().join("empty").exists());
        let gone = dir.path().join("gone");
        Bundle::create(&gone).unwrap().give_up();
        assert!(!gone.exists());
    }

    #[test]
    fn a_file_written_anew_is_there_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        let mut bundle = Bundle::create(&path).unwrap();
        bundle.write("a.txt", b"before").unwrap();
        bundle.rewrite("a.txt", b"after").unwrap();
        let names: Vec<_> = fs::read_dir(&path)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["a.txt"]);
        assert_eq!(fs::read_to_string(path.join("a.txt")).unwrap(), "after");
        assert_eq!(mode(&path.join("a.txt")), 0o600);
        assert_eq!(bundle.files, ["a.txt"]);
    }

    #[test]
    fn what_is_too_long_is_cut_off_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut bundle = Bundle::create(&dir.path().join("r")).unwrap();
        let size = bundle.write("a", &vec![b'x'; MOST_OF_ONE + 1]).unwrap();
        assert!(size.cut_off && size.bytes == MOST_OF_ONE + CUT_OFF.len());
        let text = fs::read(dir.path().join("r/a")).unwrap();
        assert!(text.ends_with(CUT_OFF.as_bytes()));
        bundle.left = 2;
        assert!(bundle.write("b", b"123").unwrap().cut_off);
        assert!(!bundle.write("c", b"").unwrap().cut_off);
    }
}
