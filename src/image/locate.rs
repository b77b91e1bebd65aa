//! Finding the separate debug file of an image, and proving that it is the image's.
//!
//! Where debug files lie and how they are tied to an image: GDB's manual, "Debugging Information in Separate Files"
//! (build-id directories, `.gnu_debuglink` with its CRC, "MiniDebugInfo"); `.gnu_debugaltlink`: dwz(1).
//!
//! Debug files are looked for below our own root first: that is where the administrator who runs pgpoke has installed
//! them, and no one in a container can put anything there. Only then below the process's own root, never following a
//! link out of it. Neither is believed for where it lies: a wrong name makes a wrong verdict.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::BuildId;
use super::elf::Image;
use crate::process::Process;
use crate::process::root::{Links, Root};

/// Where distributions put debug files.
const DEBUG_DIRECTORY: &str = "/usr/lib/debug";
/// The most debug information of one image that is read, decompressed. PostgreSQL's own is some 30 MiB; that of V8 or
/// LLVM, of some GiB, would take longer to read than anyone waits.
pub(super) const MOST_DEBUG_INFORMATION: u64 = 64 << 20;
/// The largest file whose checksum is computed, and for how long.
const LARGEST_CHECKED: u64 = 4 << 30;
const LONGEST_CHECK: Duration = Duration::from_secs(5);
/// How long `debuginfod-find` may take.
const LONGEST_DOWNLOAD: Duration = Duration::from_secs(20);
/// The most warnings that are kept.
const MOST_WARNINGS: usize = 32;

/// Where debug files are looked for, and what there was to warn of. Shared by all images that are looked at.
#[derive(Debug, Default)]
pub struct DebugFiles {
    /// Directories like `/usr/lib/debug`, before that one.
    directories: Vec<PathBuf>,
    /// Whether servers may be asked.
    debuginfod: Cell<bool>,
    /// What they answered, by build-id.
    downloaded: RefCell<HashMap<String, Option<PathBuf>>>,
    warnings: RefCell<Vec<String>>,
}

impl DebugFiles {
    /// Those in `/usr/lib/debug`, in `directories` that are laid out like it, and where `DEBUGINFOD_URLS` names servers
    /// (debuginfod-find(1)), what these have.
    pub fn new(directories: &[PathBuf]) -> Self {
        let urls = std::env::var_os("DEBUGINFOD_URLS").unwrap_or_default();
        DebugFiles {
            directories: directories.to_vec(),
            debuginfod: Cell::new(!urls.as_bytes().trim_ascii().is_empty()),
            ..DebugFiles::default()
        }
    }

    /// From now on no server is asked; what they have answered is kept.
    pub fn stop_downloading(&self) {
        self.debuginfod.set(false);
    }

    /// What there was to warn of so far.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.borrow().clone()
    }

    pub(super) fn warn(&self, warning: String) {
        let mut warnings = self.warnings.borrow_mut();
        if warnings.len() < MOST_WARNINGS && !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    fn directories(&self) -> impl Iterator<Item = &Path> {
        let own = self.directories.iter().map(PathBuf::as_path);
        own.chain([Path::new(DEBUG_DIRECTORY)])
    }

    /// The debug file of an image as the servers have it.
    fn download(&self, id: &BuildId) -> Option<PathBuf> {
        if let Some(known) = self.downloaded.borrow().get(&id.to_string()) {
            return known.clone();
        }
        if !self.debuginfod.get() {
            return None;
        }
        let found = ask_debuginfod("debuginfod-find", id, LONGEST_DOWNLOAD).unwrap_or_else(|why| {
            // Whoever does not answer once would keep the operator waiting for each library.
            self.stop_downloading();
            self.warn(format!("no debug file from debuginfod: {why}"));
            None
        });
        let mut downloaded = self.downloaded.borrow_mut();
        downloaded.insert(id.to_string(), found.clone());
        found
    }
}

/// The root directories below which files are looked for.
#[derive(Debug)]
pub(super) struct Roots {
    /// Ours, and the process's if that is another one.
    all: Vec<Root>,
    /// The one that the paths of its mappings start at.
    theirs: usize,
}

impl Roots {
    /// Of what does not live any more only ours is left.
    pub(super) fn of(process: Option<&Process>) -> Self {
        let mut all: Vec<Root> = Root::ours().into_iter().collect();
        if let Some(Ok(theirs)) = process.map(Root::of)
            && !all.iter().any(|ours| ours.is(&theirs))
        {
            all.push(theirs);
        }
        // In our own mount namespace the kernel tells paths as we see them, even those of a process that was put below
        // another root (d_path(), fs/d_path.c).
        let theirs = match process.is_none_or(Process::shares_our_mounts) {
            true => 0,
            false => all.len().saturating_sub(1),
        };
        Roots { all, theirs }
    }

    /// The one that the paths of the process's mappings start at. Never another: what is at such a path below ours may
    /// be a file that is none of the process's business.
    pub(super) fn theirs(&self) -> Option<&Root> {
        self.all.get(self.theirs)
    }
}

/// Finds the debug file of one image.
#[derive(Debug)]
pub(super) struct Finder {
    pub(super) files: Rc<DebugFiles>,
    pub(super) roots: Rc<Roots>,
    /// Where the process has the image.
    pub(super) path: PathBuf,
    /// Device and inode of the image.
    pub(super) inode: Option<(u64, u64)>,
    /// Whether lines are wanted, too, and servers may be asked: not for the C library, whose lines tell nobody anything,
    /// and whose debug file takes longer to read than all the rest of a look.
    pub(super) lines: bool,
}

/// A debug file that was proved to be an image's.
#[derive(Debug)]
pub(super) struct DebugFile {
    pub(super) image: Image,
    pub(super) path: PathBuf,
    /// The number of the root that it was found below.
    root: usize,
}

impl Finder {
    /// The debug file of `image`: by its build-id, else by its debug link, else from a server.
    pub(super) fn find(&self, image: &Image) -> Option<DebugFile> {
        self.by_build_id(image)
            .or_else(|| self.by_debug_link(image))
            .or_else(|| self.by_server(image))
    }

    fn by_build_id(&self, image: &Image) -> Option<DebugFile> {
        let id = image.build_id()?;
        let relative = id.debug_path()?;
        self.files.directories().find_map(|directory| {
            let path = directory.join(&relative);
            self.open_all(&path)
                .find_map(|found| self.believe(found, &path, id, &self.path))
        })
    }

    fn by_debug_link(&self, image: &Image) -> Option<DebugFile> {
        let section = image.small_section(".gnu_debuglink")?;
        let Some((name, crc)) = debug_link(&section) else {
            self.files.warn(format!(
                "the .gnu_debuglink of {} makes no sense and is not followed",
                self.path.display()
            ));
            return None;
        };
        let directory = self.path.parent()?;
        let below = directory.strip_prefix("/").ok()?;
        let beside = [directory.join(name), directory.join(".debug").join(name)];
        // Beside the image is beside it as the process sees it. Whoever put it there may have put a link there, too.
        let beside = beside.iter().find_map(|path| {
            let found = self.open_in(self.roots.theirs, path, Links::Refused)?;
            self.believe_linked(found, path, crc, image)
        });
        let elsewhere = || {
            let paths = self.files.directories().map(|d| d.join(below).join(name));
            paths.into_iter().find_map(|path| {
                self.open_all(&path)
                    .find_map(|found| self.believe_linked(found, &path, crc, image))
            })
        };
        beside.or_else(elsewhere)
    }

    fn by_server(&self, image: &Image) -> Option<DebugFile> {
        let id = image.build_id().filter(|_| self.lines)?;
        let path = self.files.download(id)?;
        let found = self.open_in(0, &path, Links::Followed)?;
        self.believe(found, &path, id, &self.path)
    }

    /// The file at `path` below the root of that number.
    fn open_in(&self, root: usize, path: &Path, links: Links) -> Option<(usize, File)> {
        let file = self.roots.all.get(root)?.open(path, links).ok()?;
        Some((root, file))
    }

    /// The files at `path` below each of the roots, with its number.
    fn open_all<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = (usize, File)> + 'a {
        let roots = 0..self.roots.all.len();
        roots.filter_map(move |root| self.open_in(root, path, Links::Followed))
    }

    /// Takes the file for that of the image (or file) `whose` only if it carries this build-id.
    fn believe(
        &self,
        (root, file): (usize, File),
        path: &Path,
        id: &BuildId,
        whose: &Path,
    ) -> Option<DebugFile> {
        let why = match Image::debug_file_in(file) {
            Ok(image) if image.build_id() == Some(id) => {
                let path = path.to_owned();
                return Some(DebugFile { image, path, root });
            }
            Ok(image) => {
                let theirs = image.build_id();
                let theirs = theirs.map_or("none".into(), BuildId::to_string);
                format!(
                    "its build-id is {theirs}, and {} wants {id}",
                    whose.display()
                )
            }
            Err(e) => e.to_string(),
        };
        self.refuse(path, &why);
        None
    }

    /// Takes the file for that of `image` only if its checksum is `crc`, and if its build-id is the image's where both
    /// have one.
    fn believe_linked(
        &self,
        (root, file): (usize, File),
        path: &Path,
        crc: u32,
        image: &Image,
    ) -> Option<DebugFile> {
        let inode = file.metadata().ok().map(|m| (m.dev(), m.ino()));
        // A link may name the image itself, to be found in another directory.
        if inode.is_some() && inode == self.inode {
            return None;
        }
        let again = file.try_clone().ok()?;
        let found = match (image.build_id(), Image::debug_file_in(file)) {
            (_, Err(e)) => Err(e.to_string()),
            (Some(id), Ok(found)) if found.build_id().is_some_and(|theirs| theirs != id) => {
                return self.believe((root, again), path, id, &self.path);
            }
            (_, Ok(found)) => Ok(found),
        };
        let checked = found.and_then(|found| match checksum(again) {
            Ok(sum) if sum == crc => Ok(found),
            Ok(sum) => Err(format!(
                "its CRC-32 is {sum:08x}, and {} wants {crc:08x}",
                self.path.display()
            )),
            Err(e) => Err(format!("its CRC-32 cannot be computed: {e}")),
        });
        match checked {
            Ok(image) => Some(DebugFile {
                image,
                path: path.to_owned(),
                root,
            }),
            Err(why) => {
                self.refuse(path, &why);
                None
            }
        }
    }

    fn refuse(&self, path: &Path, why: &str) {
        let path = path.display();
        self.files
            .warn(format!("the debug file {path} is not used: {why}"));
    }

    /// What dwz(1) moved out of the image itself.
    pub(super) fn own_supplement(&self, image: &Image) -> Option<DebugFile> {
        self.supplement(image, &self.path, self.roots.theirs)
    }

    /// What dwz(1) moved out of a debug file.
    pub(super) fn supplement_of(&self, found: &DebugFile) -> Option<DebugFile> {
        self.supplement(&found.image, &found.path, found.root)
    }

    /// The file that dwz(1) moved to what several debug files share, if `main`, which lies at `path` below the root of
    /// that number, refers to one.
    fn supplement(&self, main: &Image, path: &Path, root: usize) -> Option<DebugFile> {
        let section = main.small_section(".gnu_debugaltlink")?;
        let whose = path;
        let found = alternate_link(&section).and_then(|(name, id)| {
            // A file is no supplement to itself, and that of a supplement is never asked for.
            if main.build_id() == Some(&id) {
                return None;
            }
            let by_id = id.debug_path()?;
            let mut elsewhere = self.files.directories().map(|d| d.join(&by_id));
            let by_id = elsewhere.find_map(|path| {
                self.open_all(&path)
                    .find_map(|found| self.believe(found, &path, &id, whose))
            });
            by_id.or_else(|| {
                let (path, links) = self.named(path, name)?;
                let found = self.open_in(root, &path, links)?;
                self.believe(found, &path, &id, whose)
            })
        });
        if found.is_none() {
            self.files.warn(format!(
                "what dwz moved out of {} is not there: some functions will lack names or lines",
                path.display()
            ));
        }
        found
    }

    /// Where a file at `path` says that its supplement lies. The name is as foreign as the file: it is followed to where
    /// debug files lie, or to what lies beside that file or below it, and nowhere else.
    fn named(&self, path: &Path, name: &Path) -> Option<(PathBuf, Links)> {
        let directory = path.parent()?;
        // A relative name is relative to the file that has it.
        let named = without_detours(&directory.join(name));
        if self.files.directories().any(|d| named.starts_with(d)) {
            Some((named, Links::Followed))
        } else {
            named
                .starts_with(directory)
                .then_some((named, Links::Refused))
        }
    }
}

/// The path without its `.` and `..`, by its text alone.
fn without_detours(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

impl BuildId {
    /// Where a debug file of this build-id lies below a directory such as `/usr/lib/debug`.
    fn debug_path(&self) -> Option<PathBuf> {
        let hex = self.to_string();
        // One byte names a directory; without more there is no file.
        let (directory, name) = hex
            .split_at_checked(2)
            .filter(|(_, name)| !name.is_empty())?;
        Some(PathBuf::from(format!(".build-id/{directory}/{name}.debug")))
    }
}

/// The name and the checksum in `.gnu_debuglink`: a name that ends with a zero, padding to four bytes, a CRC-32.
pub(crate) fn debug_link(section: &[u8]) -> Option<(&OsStr, u32)> {
    let end = memchr::memchr(0, section)?;
    let at = (end + 1).next_multiple_of(4);
    let crc = u32::from_le_bytes(section.get(at..at.checked_add(4)?)?.try_into().ok()?);
    let name = &section[..end];
    // Only ever the name of a file: nothing that leads to another directory.
    let plain = !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/');
    (plain && name.len() <= 255).then(|| (OsStr::from_bytes(name), crc))
}

/// The path and the build-id in `.gnu_debugaltlink`: a path that ends with a zero, then the bytes of the build-id.
pub(crate) fn alternate_link(section: &[u8]) -> Option<(&Path, BuildId)> {
    let end = memchr::memchr(0, section)?;
    let (path, id) = (&section[..end], &section[end + 1..]);
    let sensible = (1..=4096).contains(&path.len()) && (2..=64).contains(&id.len());
    sensible.then(|| (Path::new(OsStr::from_bytes(path)), BuildId(id.to_vec())))
}

/// The CRC-32 of a whole file, as far as that takes neither too much nor too long.
fn checksum(mut file: File) -> io::Result<u32> {
    let start = Instant::now();
    // Whoever read its layout moved the offset, which all copies of a descriptor share.
    file.rewind()?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut left = file.take(LARGEST_CHECKED);
    let mut sum = crc32fast::Hasher::new();
    let mut chunk = vec![0; 256 << 10];
    loop {
        match left.read(&mut chunk) {
            Ok(0) if left.limit() == 0 => return Err(io::Error::other("the file is too large")),
            Ok(0) => return Ok(sum.finalize()),
            Ok(n) => sum.update(&chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        if start.elapsed() > LONGEST_CHECK {
            return Err(io::Error::other("it takes too long"));
        }
    }
}

/// Has elfutils ask the servers in `DEBUGINFOD_URLS`. None if they have no such file; an error if they could not be asked.
fn ask_debuginfod(program: &str, id: &BuildId, limit: Duration) -> Result<Option<PathBuf>, String> {
    let deadline = Instant::now() + limit;
    let child = Command::new(program)
        .args(["debuginfo", &id.to_string()])
        // Its words are not for the operator.
        .env_remove("DEBUGINFOD_PROGRESS")
        .env_remove("DEBUGINFOD_VERBOSE")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|e| format!("{program} (of elfutils) cannot be run: {e}"))?;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                // It may have ended meanwhile; then there is nothing to kill.
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("no answer within {} s", limit.as_secs()));
            }
        }
    };
    if status.success() {
        let path = printed(child.stdout.take());
        let path = PathBuf::from(OsStr::from_bytes(path.trim_ascii()));
        return Ok(path.is_absolute().then_some(path));
    }
    let words = printed(child.stderr.take());
    let words = String::from_utf8_lossy(words.trim_ascii()).into_owned();
    match words.ends_with("No such file or directory") {
        true => Ok(None),
        false => Err(format!("{program}: {words}")),
    }
}

/// What a program that has ended left in a pipe. Someone else may hold its other end still, so this does not wait for an
/// end.
fn printed(pipe: Option<impl Read + AsFd>) -> Vec<u8> {
    let mut text = vec![0; 8192];
    let read = pipe.and_then(|mut pipe| {
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).ok()?;
        pipe.read(&mut text).ok()
    });
    text.truncate(read.unwrap_or(0));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_links_name_a_file_and_nothing_else() {
        let link = |name: &[u8], crc: &[u8]| [name, crc].concat();
        let crc = [0x78, 0x56, 0x34, 0x12];
        let good = link(b"a.debug\0", &crc);
        assert_eq!(
            debug_link(&good),
            Some((OsStr::new("a.debug"), 0x1234_5678))
        );
        let padded = link(b"ab.debug\0\0\0\0", &crc);
        assert_eq!(debug_link(&padded).unwrap().0, "ab.debug");
        let long = link(&[b'a'; 300], b"\0\0\0\0\x01\x02\x03\x04");
        for bad in [
            &b""[..],
            b"\0",
            b"no end",
            b"a.debug\0",
            b"a.debug\0\x01\x02\x03",
            &link(b"\0\0\0\0", &crc),
            &link(b"../a.debug\0\0", &crc),
            &link(b"/etc/passwd\0", &crc),
            &link(b"a/b\0", &crc),
            &link(b"..\0\0", &crc),
            &link(b".\0\0\0", &crc),
            &long,
        ] {
            assert_eq!(debug_link(bad), None, "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn alternate_links_have_a_path_and_a_build_id() {
        let good = b"/usr/lib/debug/.dwz/x.debug\0\x01\x02\x03";
        let (path, id) = alternate_link(good).unwrap();
        assert_eq!(path, Path::new("/usr/lib/debug/.dwz/x.debug"));
        assert_eq!(id, BuildId(vec![1, 2, 3]));
        let endless = [b'a'; 5000];
        let long_id = [&b"a\0"[..], &[1; 100]].concat();
        for bad in [
            &b""[..],
            b"no end",
            b"\0\x01\x02",
            b"a\0",
            b"a\0\x01",
            &endless,
            &long_id,
        ] {
            assert!(alternate_link(bad).is_none());
        }
    }

    #[test]
    fn a_build_id_names_a_file() {
        let path = |id: &[u8]| BuildId(id.to_vec()).debug_path();
        assert_eq!(
            path(&[0xab, 0xcd, 0xef]),
            Some(".build-id/ab/cdef.debug".into())
        );
        assert_eq!(path(&[0xab]), None);
        assert_eq!(path(&[]), None);
    }

    #[test]
    fn checksums_of_whole_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "123456789").unwrap();
        // The check value of CRC-32/ISO-HDLC.
        assert_eq!(checksum(File::open(&path).unwrap()).unwrap(), 0xcbf4_3926);
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let both_ends = File::options().read(true).write(true).open(&fifo);
        assert!(checksum(both_ends.unwrap()).is_err());
        // A hole, which takes no room: too large, and not read to its end.
        let huge = File::options().read(true).write(true).open(&path).unwrap();
        huge.set_len(1 << 40).unwrap();
        let start = Instant::now();
        assert!(checksum(huge).is_err());
        assert!(start.elapsed() < LONGEST_CHECK * 2);
    }

    #[test]
    fn a_program_that_does_not_answer_is_not_waited_for() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let program = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let id = BuildId(vec![0xab, 0xcd]);
        let limit = Duration::from_millis(300);
        let start = Instant::now();
        let silent = ask_debuginfod(&program("silent", "exec sleep 3600"), &id, limit);
        assert!(silent.unwrap_err().contains("no answer"));
        let grandchild = program("grandchild", "sleep 8 & echo /found/$1/$2");
        let long = Duration::from_secs(7);
        let found = ask_debuginfod(&grandchild, &id, long).unwrap();
        assert_eq!(found, Some("/found/debuginfo/abcd".into()));
        assert!(start.elapsed() < long);
        let none = program(
            "none",
            "echo 'query failed: No such file or directory' >&2; exit 1",
        );
        assert_eq!(ask_debuginfod(&none, &id, long), Ok(None));
        let refused = program("refused", "echo Connection refused >&2; exit 1");
        assert!(
            ask_debuginfod(&refused, &id, long)
                .unwrap_err()
                .contains("refused")
        );
        assert!(
            ask_debuginfod("/nonexistent", &id, long)
                .unwrap_err()
                .contains("cannot be run")
        );
    }
}
