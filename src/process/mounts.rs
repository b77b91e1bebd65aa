//! Which file system a descriptor's file lies on, without asking that file system: it may not answer.

use std::io::Read;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Process;

/// The most that is read of `mountinfo`.
const MOST_MOUNTINFO: u64 = 4 << 20;

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "filesystem", deny_unknown_fields)]
pub struct Filesystem {
    /// Its type: `ext4`, `nfs4`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// What is mounted: a device, or `server:/export`.
    pub source: String,
    /// Where the process has it.
    pub mount_point: String,
}

impl Filesystem {
    /// The one that the file behind descriptor `fd` lies on: `mnt_id` in `fdinfo`, and that in `mountinfo`
    /// (proc_pid_fdinfo(5), proc_pid_mountinfo(5)). Neither asks the file system anything.
    pub fn of_descriptor(process: &Process, fd: u64) -> Option<Self> {
        let info = read(process, &format!("fdinfo/{fd}"), 4 << 10)?;
        let id = info.lines().find_map(|l| l.strip_prefix("mnt_id:"))?.trim();
        find(&read(process, "mountinfo", MOST_MOUNTINFO)?, id)
    }

    /// Whether a machine other than this one answers for it.
    pub fn is_remote(&self) -> bool {
        const REMOTE: [&str; 12] = [
            "nfs",
            "nfs4",
            "cifs",
            "smb3",
            "ceph",
            "lustre",
            "glusterfs",
            "9p",
            "afs",
            "gfs2",
            "ocfs2",
            "gpfs",
        ];
        REMOTE.contains(&self.kind.as_str()) || self.kind.starts_with("fuse")
    }

    /// Whether its inodes are in memory or on a device of this machine's, so that stat(2) does not wait for anyone else.
    pub fn is_local(&self) -> bool {
        const LOCAL: [&str; 8] = [
            "ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "f2fs", "devtmpfs",
        ];
        LOCAL.contains(&self.kind.as_str())
    }

    /// How to name it in a sentence.
    pub fn describe(&self) -> String {
        format!("{} ({} at {})", self.kind, self.source, self.mount_point)
    }
}

/// A small file of `/proc/PID`, as text; what is not UTF-8 is replaced.
pub(super) fn read(process: &Process, name: &str, most: u64) -> Option<String> {
    let mut bytes = Vec::new();
    let file = process.open_file(name).ok()?;
    file.take(most).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// `id parent major:minor root mount_point options optional… - type source options`
pub(crate) fn find(mountinfo: &str, id: &str) -> Option<Filesystem> {
    let line = mountinfo
        .lines()
        .find(|l| l.split(' ').next() == Some(id))?;
    let (mount, device) = line.split_once(" - ")?;
    let mut device = device.split(' ');
    Some(Filesystem {
        mount_point: unescape(mount.split(' ').nth(4)?),
        kind: device.next()?.to_owned(),
        source: unescape(device.next()?),
    })
}

/// Blanks and backslashes are written as octal numbers there.
fn unescape(text: &str) -> String {
    const ESCAPES: [(&str, &str); 4] = [
        (r"\040", " "),
        (r"\011", "\t"),
        (r"\012", "\n"),
        (r"\134", r"\"),
    ];
    ESCAPES
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_as_the_kernel_lists_them() {
        let text = "22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
            36 22 0:40 / /mnt/my\\040data rw master:1 - nfs4 filer:/export rw,hard\n\
            37 22 0:41 / /broken rw";
        let root = find(text, "22").unwrap();
        assert!(root.is_local() && !root.is_remote());
        let nfs = find(text, "36").unwrap();
        assert!(nfs.is_remote() && !nfs.is_local());
        assert_eq!(nfs.describe(), "nfs4 (filer:/export at /mnt/my data)");
        for id in ["37", "3", ""] {
            assert_eq!(find(text, id), None, "{id:?}");
        }
    }
}
