//! What a victim in a backend sees, in a file that both sides have mapped.

use std::fs::{File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicI64, AtomicU32};

use crate::harness::Server;

const SIGNALS: usize = 65;
/// So many returns of a blocking call are noted.
pub const MOST_RETURNS: usize = 128;

/// testext/pgpoke_victims.c has the same.
#[repr(C)]
pub struct Seen {
    /// The process whose signals are counted.
    pub sender: AtomicI64,
    /// By signal: the sender's, anybody else's, and those that came in the wrong order, or to the wrong thread.
    pub counted: [AtomicI64; SIGNALS],
    pub others: [AtomicI64; SIGNALS],
    pub wrong: [AtomicI64; SIGNALS],
    /// How often the victim has gone inside.
    pub inside: AtomicI64,
    /// How often it went round its loop.
    pub rounds: AtomicI64,
    /// Tells it to end.
    pub end: AtomicI64,
    /// Its child, and what it was told of it as a parent.
    pub child: AtomicI64,
    pub told_stopped: AtomicI64,
    pub told_continued: AtomicI64,
    /// How often a blocking call returned, and with what.
    pub returns: AtomicI64,
    pub result: [AtomicI64; MOST_RETURNS],
    pub error: [AtomicI64; MOST_RETURNS],
    /// What was left of its time, in ns, and how much had passed since the first one began.
    pub left: [AtomicI64; MOST_RETURNS],
    pub elapsed: [AtomicI64; MOST_RETURNS],
    /// What it waits for.
    pub word: AtomicU32,
    _padding: u32,
    semaphore: [u64; 8],
}

/// The mapped file. All of it is zero at first.
pub struct SeenFile {
    pub path: PathBuf,
    at: *mut Seen,
}

// SAFETY: the mapping lives as long as the value, and holds atomics only.
unsafe impl Sync for SeenFile {}
// SAFETY: as above.
unsafe impl Send for SeenFile {}

impl SeenFile {
    /// A file beside the server, of this name.
    pub fn new(server: &Server, name: &str) -> Self {
        let path = server.directory().join(name);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .expect("a file to share");
        file.set_len(size_of::<Seen>() as u64).expect("its size");
        // The server may run as somebody else.
        file.set_permissions(Permissions::from_mode(0o666))
            .expect("its permissions");
        // SAFETY: a new mapping of an open file, of a size that the file has.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<Seen>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(at, libc::MAP_FAILED, "mmap");
        let at = at.cast();
        SeenFile { path, at }
    }

    /// Gives the one who waits for the semaphore, or the word, what it waits for.
    pub fn wake(&self) {
        self.word.store(1, SeqCst);
        // SAFETY: the semaphore was initialised by the victim, in a mapping that is shared with it; the futex call
        // takes an address of a live word.
        unsafe {
            libc::sem_post((&raw mut (*self.at).semaphore).cast());
            libc::syscall(
                libc::SYS_futex,
                &raw mut (*self.at).word,
                libc::FUTEX_WAKE,
                1,
            );
        }
    }

    /// The path, quoted for SQL.
    pub fn sql(&self) -> String {
        format!("'{}'", self.path.display())
    }
}

impl std::ops::Deref for SeenFile {
    type Target = Seen;

    fn deref(&self) -> &Seen {
        // SAFETY: the mapping lives as long as self, and every field that is read through this is atomic.
        unsafe { &*self.at }
    }
}

impl Drop for SeenFile {
    fn drop(&mut self) {
        // SAFETY: nobody refers to the mapping any more.
        unsafe { libc::munmap(self.at.cast(), size_of::<Seen>()) };
    }
}
