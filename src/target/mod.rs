//! Where a look comes from.
//!
//! Identity, images and unwinding ask a [`Target`] for bytes and files, and do not know what is behind it. A living process
//! is one ([`live`]). Whatever has neither threads that could be stopped nor a place in `/proc`, such as a core file, is
//! one that [`Target::living`] has nothing for; what only a living process can tell is then left unknown.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use crate::memory::Memory;
use crate::process::{Mapping, Process};

pub mod live;

/// A process, or what was left of one.
pub trait Target: Debug {
    /// Its PID in our PID namespace; of what does not live any more, the one it had where it lived.
    fn pid(&self) -> i32;

    /// Its PID as it knows it itself (`MyProcPid`). An error if it has ended meanwhile.
    fn inner_pid(&self) -> io::Result<i32>;

    /// Its memory. An address that is not there is [`crate::memory::Unreadable`], never zeros.
    fn memory(&self) -> &dyn Memory;

    /// What is mapped, sorted by address. EACCES or EPERM if we may not look, ESRCH if it has ended.
    fn maps(&self) -> io::Result<Vec<Mapping>>;

    /// The path of its executable, as the process sees it.
    fn executable_path(&self) -> io::Result<PathBuf>;

    /// The very file that it executes. EACCES or EPERM if we may not look.
    fn executable(&self) -> io::Result<File>;

    /// The very file behind a mapping. An error where it is not to be had; who asks then looks for one with the same
    /// build-id.
    fn mapped_file(&self, mapping: &Mapping) -> io::Result<File>;

    /// The text of its command line, with NULs; the title in ps.
    fn command_line(&self) -> io::Result<Vec<u8>>;

    /// Its working directory, as the process sees it.
    fn working_directory(&self) -> io::Result<PathBuf>;

    /// The living process, if it is one: only such a one can be stopped, signalled or asked what it waits for.
    fn living(&self) -> Option<&Process>;
}
