//! A living process, as the source of a look.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use super::Target;
use crate::memory::Memory;
use crate::process::{Mapping, Process};

impl Target for Process {
    fn pid(&self) -> i32 {
        Process::pid(self)
    }

    fn inner_pid(&self) -> io::Result<i32> {
        Process::inner_pid(self)
    }

    fn memory(&self) -> &dyn Memory {
        Process::memory(self)
    }

    fn maps(&self) -> io::Result<Vec<Mapping>> {
        Process::maps(self)
    }

    fn executable_path(&self) -> io::Result<PathBuf> {
        std::fs::read_link(format!("/proc/{}/exe", Process::pid(self)))
    }

    fn executable(&self) -> io::Result<File> {
        Process::executable(self)
    }

    fn mapped_file(&self, mapping: &Mapping) -> io::Result<File> {
        Process::open_mapped(self, mapping)
    }

    fn command_line(&self) -> io::Result<Vec<u8>> {
        Process::command_line(self)
    }

    fn working_directory(&self) -> io::Result<PathBuf> {
        Process::working_directory(self)
    }

    fn living(&self) -> Option<&Process> {
        Some(self)
    }
}
