//! What a server's own files say of it: whether it is being stopped, and whether it was stopped in good order. They are
//! opened while the postmaster runs, and can still be read when it has ended.

use std::fs::File;

use crate::process::Process;
use crate::process::read_at_most;
use crate::process::root::{Links, Root};

/// The last line of `postmaster.pid` (src/include/utils/pidfile.h, 10 and later).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostmasterStatus {
    /// It starts, and takes no connections yet.
    Starting,
    /// It was told to stop, in whatever mode (pmdie() and its kin, src/backend/postmaster/postmaster.c).
    Stopping,
    /// It takes connections.
    Ready,
    /// A standby that takes none.
    Standby,
}

/// `DBState` (src/include/catalog/pg_control.h): the same numbers in all versions from 9.0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterState {
    /// The shutdown checkpoint was written: nothing has to be recovered.
    ShutDown,
    /// Anything else.
    Other,
}

/// The files of one server.
#[derive(Debug)]
pub struct DataFiles {
    directory: Root,
    pid_file: Option<File>,
}

impl DataFiles {
    /// Those in the working directory of one of its processes, which is the data directory (ChangeToDataDir(),
    /// src/backend/utils/init/miscinit.c). `postmaster` is the postmaster's PID as the server knows it.
    pub fn of(process: &Process, postmaster: i32) -> Option<Self> {
        let directory = Root::working_directory_of(process).ok()?;
        let pid_file = directory
            .open("postmaster.pid".as_ref(), Links::Refused)
            .ok()
            .filter(|file| {
                let text = text_of(file).unwrap_or_default();
                text.lines().next().and_then(|l| l.trim().parse().ok()) == Some(postmaster)
            });
        Some(DataFiles {
            directory,
            pid_file,
        })
    }

    /// What the postmaster says of itself. The file is written in place (AddToDataDirLockFile(), miscinit.c), and what was
    /// written last can be read when it is gone.
    pub fn status(&self) -> Option<PostmasterStatus> {
        status_in(&text_of(self.pid_file.as_ref()?)?)
    }

    /// What `pg_control` says.
    pub fn cluster(&self) -> Option<ClusterState> {
        let path = "global/pg_control".as_ref();
        let file = self.directory.open(path, Links::Refused).ok()?;
        let mut start = [0; 24];
        let read = read_at_most(&file, &mut start, 0).ok()?;
        cluster_in(&start[..read])
    }
}

/// More than such a file ever has.
const MOST: usize = 8 << 10;

fn text_of(file: &File) -> Option<String> {
    let mut text = vec![0; MOST];
    let read = read_at_most(file, &mut text, 0).ok()?;
    text.truncate(read);
    String::from_utf8(text).ok()
}

/// `LOCK_FILE_LINE_PM_STATUS` is 8.
fn status_in(text: &str) -> Option<PostmasterStatus> {
    Some(match text.lines().nth(7)?.trim() {
        "starting" => PostmasterStatus::Starting,
        "stopping" => PostmasterStatus::Stopping,
        "ready" => PostmasterStatus::Ready,
        "standby" => PostmasterStatus::Standby,
        _ => return None,
    })
}

/// `ControlFileData` begins with `system_identifier`, 8 bytes, `pg_control_version`, `catalog_version_no` and `state`, 4 each.
fn cluster_in(start: &[u8]) -> Option<ClusterState> {
    let word = |at: usize| Some(u32::from_ne_bytes(start.get(at..at + 4)?.try_into().ok()?));
    // 12 has 1201, 19 has 1905; of another byte order, or another file, it makes no sense.
    if !(900..10_000).contains(&word(8)?) {
        return None;
    }
    match word(16)? {
        1 | 2 => Some(ClusterState::ShutDown),
        0 | 3..=6 => Some(ClusterState::Other),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_postmaster_says() {
        let file =
            |status| format!("77\n/data\n1700000000\n5432\n/tmp\nlocalhost\n  123   4\n{status}\n");
        assert_eq!(status_in(&file("ready   ")), Some(PostmasterStatus::Ready));
        assert_eq!(
            status_in(&file("stopping")),
            Some(PostmasterStatus::Stopping)
        );
        assert_eq!(status_in(&file("well")), None);
        assert_eq!(status_in("77\n/data\n"), None);
    }

    #[test]
    fn what_the_control_file_says() {
        let file = |version: u32, state: u32| {
            let mut bytes = 7_u64.to_ne_bytes().to_vec();
            for word in [version, 202_209_061, state] {
                bytes.extend(word.to_ne_bytes());
            }
            bytes
        };
        assert_eq!(cluster_in(&file(1300, 1)), Some(ClusterState::ShutDown));
        assert_eq!(cluster_in(&file(1800, 2)), Some(ClusterState::ShutDown));
        assert_eq!(cluster_in(&file(1300, 6)), Some(ClusterState::Other));
        assert_eq!(cluster_in(&file(1300, 7)), None);
        assert_eq!(cluster_in(&file(1300_u32.swap_bytes(), 1)), None);
        assert_eq!(cluster_in(&file(1300, 1)[..19]), None);
    }
}
