//! A core file of a process that goes on: all threads, readable by gdb, eu-stack and lldb.
//!
//! The process stands still for no longer than it takes to copy its registers and its own memory into memory of ours,
//! never longer than its budget, and never while anything is written. What there is no time for is copied when it runs
//! again, and named. Shared memory is left out unless it is asked for.

mod copy;
mod elf;
mod pages;
mod regions;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{Whence, lseek};
use schemars::JsonSchema;
use serde::Serialize;

use super::draft::Draft;
use crate::address::Avma;
use crate::arch::Processor;
use crate::arch::host::{PROCESSOR, xstate};
use crate::process::{Mapping, Process, as_text, maps, printable, read_at_most};
use crate::snapshot::looks::STOP_LIMIT;
use crate::sys::HeldSignals;
use crate::tracee::threads::{Absent, ForOthers, Stood, stand_still};
use crate::tracee::{StopBudget, TraceError};
use copy::{Look, Stage};
use elf::{Front, MappedFile, Notes, ProcessInfo, Segment, Thread};
pub use regions::Why;
use regions::{PAGE, Take};

/// Free space that is left over in any case, beside a tenth of the file: the disk may be the server's.
const SPARE_SPACE: u64 = 64 << 20;

/// So many gaps of unreadable memory are told apart; from there on a mapping is cut off at its first.
const MOST_GAPS: usize = 1024;

/// The longest auxiliary vector that is read; the kernel's has some 20 entries of 16 bytes.
const MOST_AUXILIARY: usize = 4096;

/// The portion in which shared memory is read.
const PORTION: usize = 1 << 20;

/// How a core file is to be.
#[derive(Debug, Clone)]
pub struct CoreOptions {
    /// With shared memory.
    pub full: bool,
    /// How long the process may stand still, and what is said if that was not enough.
    pub budget: StopBudget,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// So many bytes are dealt with.
    pub done: u64,
    /// Of so many, at most.
    pub total: u64,
}

/// A core file that was written.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "core_file", deny_unknown_fields)]
pub struct CoreReport {
    /// Where it is.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "String", length(min = 1))]
    pub path: PathBuf,
    /// How much of the disk it takes.
    pub size_bytes: u64,
    /// How long it is; most of the difference are pages of zeroes.
    pub apparent_bytes: u64,
    /// How long the process stood still, in milliseconds, at most.
    #[schemars(range(min = 0))]
    pub stopped_ms: f64,
    /// How many threads are in it.
    #[schemars(range(min = 1))]
    pub threads: usize,
    /// The threads that are not in it.
    #[schemars(inner(range(min = 1)))]
    pub threads_missing: Vec<i32>,
    /// Why each of those is not.
    pub threads_missing_why: Vec<MissingThread>,
    /// How much was copied while the process stood still.
    pub copied_bytes: u64,
    /// How much memory of pgpoke's own that took.
    pub buffer_bytes: u64,
    /// What is not of the instant at which the process stood still, but was copied when it ran again.
    pub copied_later: Vec<Part>,
    /// What is not in the file.
    pub left_out: Vec<LeftOut>,
    /// The kinds of registers that were in use and are not in the file, as debuggers would not take it with them.
    pub registers_left_out: Vec<String>,
}

/// A thread that is not in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "missing_thread", deny_unknown_fields)]
pub struct MissingThread {
    /// Which.
    #[schemars(range(min = 1))]
    pub tid: i32,
    /// Why.
    pub why: WhyMissing,
    /// The process that traces it. null: none is known to.
    #[schemars(range(min = 1))]
    pub tracer: Option<i32>,
}

/// Why a thread is not in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "why_missing")]
pub enum WhyMissing {
    /// It did not stop in time.
    RanOn,
    /// Another process traces it, as a debugger does, and only one can.
    Traced,
    /// The kernel did not let pgpoke trace it.
    Denied,
    /// There are more threads than pgpoke stops.
    TooMany,
    /// Its registers could not be read.
    Unreadable,
}

impl MissingThread {
    fn absent((tid, absent): (i32, Absent)) -> Self {
        let (why, tracer) = match absent {
            Absent::RanOn => (WhyMissing::RanOn, None),
            Absent::Traced(tracer) => (WhyMissing::Traced, Some(tracer)),
            Absent::Denied => (WhyMissing::Denied, None),
            Absent::TooMany => (WhyMissing::TooMany, None),
        };
        MissingThread { tid, why, tracer }
    }

    fn unreadable(tid: i32) -> Self {
        MissingThread {
            tid,
            why: WhyMissing::Unreadable,
            tracer: None,
        }
    }
}

/// A part of the process's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "part_of_memory", deny_unknown_fields)]
pub struct Part {
    /// First address.
    pub start: Avma,
    /// One past the last address.
    pub end: Avma,
    /// What is mapped there: a path, or a name in brackets; empty for anonymous memory.
    pub name: String,
}

/// A part that is not in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "left_out", deny_unknown_fields)]
pub struct LeftOut {
    /// Which.
    #[serde(flatten)]
    pub part: Part,
    /// Why.
    pub why: Why,
}

/// Why there is no core file. The process runs, and no part of a file is left behind.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// It could not be looked into.
    #[error("cannot read what process {pid} has mapped: {source}")]
    Unreadable {
        /// The process.
        pid: i32,
        /// What the kernel says.
        source: io::Error,
    },
    /// Too little room.
    #[error(
        "the core file may take {} MiB, and {} MiB have to stay free; {} has {} MiB",
        needed.div_ceil(1 << 20), spare.div_ceil(1 << 20), directory.display(), free >> 20
    )]
    NoSpace {
        /// What it may take, in bytes.
        needed: u64,
        /// What has to be left over.
        spare: u64,
        /// What there is.
        free: u64,
        /// Where.
        directory: PathBuf,
    },
    /// The file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// It is not of those that can be stopped, and was not even tried.
    #[error("it was not stopped, nor would it be for this: assessment.txt says why")]
    NotStopped,
    /// It could not be stopped, or a signal asked pgpoke to end.
    #[error(transparent)]
    Trace(#[from] TraceError),
}

/// Writes a core file of `process` to `path`, where there must be no file yet.
///
/// SIGINT and its kin are held back while the file is written, and end that between two portions; so no other thread of
/// this program may take them.
pub fn write(
    process: &Process,
    options: &CoreOptions,
    path: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<CoreReport, CoreError> {
    let unreadable = |source| CoreError::Unreadable {
        pid: process.pid(),
        source,
    };
    let unwritable = |source| CoreError::Unwritable {
        path: path.to_owned(),
        source,
    };
    let budget = options.budget.most();
    let mut stage = Stage::prepare(process, options.full, budget).map_err(unreadable)?;
    let about = About::of(process).map_err(unreadable)?;

    let ends = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];
    let signals = HeldSignals::hold(&[&ends[..], &[libc::SIGCHLD]].concat(), &[]);
    let draft = Draft::new(path).map_err(unwritable)?;
    let shared = Shared::of(process, &mut stage);
    check_space(
        &draft,
        stage.own + shared.size() + front_of(&stage, 1).end,
        path,
    )?;

    // One with a name would be left behind if the fuse of the stop blew.
    let nameless = Some(draft).filter(Draft::is_nameless);

    let Stood {
        seen: look,
        at_most: stopped,
        absent,
    } = stand_still(
        process,
        &options.budget,
        STOP_LIMIT,
        ForOthers::Patient,
        |standstill| stage.look(standstill),
    )?;
    let Look {
        threads,
        unreadable,
    } = look?;
    let absent = absent.into_iter().map(MissingThread::absent);
    let unreadable = unreadable.into_iter().map(MissingThread::unreadable);
    let threads_missing_why: Vec<_> = absent.chain(unreadable).collect();
    let threads_written = threads.len();
    // From here on the process runs.

    let draft = match nameless {
        Some(draft) => draft,
        None => Draft::new(path).map_err(unwritable)?,
    };
    let shared = Shared::of(process, &mut stage);
    stage.arena.pieces.sort_by_key(|piece| piece.start);
    let (threads, registers_left_out) = with_known_registers(threads);
    let notes = elf::notes(
        &about.notes(&stage.mappings, threads),
        PROCESSOR.core_file(),
    );
    let front = front_of(&stage, notes.len());
    let mut writer = Writer {
        process,
        draft,
        places: places(&stage.mappings, &stage.takes, front.end),
        signals: &signals,
        progress,
        done: Progress {
            done: 0,
            total: stage.own + shared.size(),
        },
        missing: std::mem::take(&mut stage.arena.missing),
    };
    match writer.everything(&mut stage, &shared) {
        Ok(()) => {}
        Err(Ended::Disk(source)) => return Err(unwritable(source)),
        Err(Ended::Asked(signal)) => return Err(TraceError::AskedToEnd(signal).into()),
    }
    let missing = joined(std::mem::take(&mut writer.missing));
    let segments = segments(&stage.mappings, &writer.places, &missing);
    let front = front.bytes(&segments, &notes);
    let ends = segments.iter().map(|s| s.offset + s.in_file);
    let apparent_bytes = ends.fold(front.len() as u64, u64::max);
    let mut draft = writer.draft;
    let size_bytes = (draft.write(&front, 0))
        .and_then(|()| draft.keep(apparent_bytes))
        .map_err(unwritable)?;
    let copied: usize = stage.arena.pieces.iter().map(|piece| piece.len).sum();
    Ok(CoreReport {
        path: path.to_owned(),
        size_bytes,
        apparent_bytes,
        stopped_ms: stopped.as_secs_f64() * 1e3,
        threads: threads_written,
        threads_missing: threads_missing_why.iter().map(|t| t.tid).collect(),
        threads_missing_why,
        copied_bytes: copied as u64,
        buffer_bytes: stage.arena.size() as u64,
        copied_later: copied_later(&stage),
        left_out: left_out(&stage, &missing),
        registers_left_out,
    })
}

fn check_space(draft: &Draft, needed: u64, path: &Path) -> Result<(), CoreError> {
    let free = draft.free_space().map_err(|source| CoreError::Unwritable {
        path: path.to_owned(),
        source,
    })?;
    let spare = SPARE_SPACE + needed / 10;
    if needed.saturating_add(spare) > free {
        return Err(CoreError::NoSpace {
            needed,
            spare,
            free,
            directory: path.parent().unwrap_or(Path::new("/")).to_owned(),
        });
    }
    Ok(())
}

/// With room for the gaps.
fn front_of(stage: &Stage, notes: usize) -> Front {
    let segments = stage.mappings.len() + 2 * MOST_GAPS;
    Front::new(PROCESSOR.e_machine(), segments, notes)
}

/// What does not change while the process is looked at.
struct About {
    process: ProcessInfo,
    auxiliary: Vec<u8>,
}

impl About {
    fn of(process: &Process) -> io::Result<Self> {
        let stat = process.stat()?;
        let status = process.status()?;
        let mut auxiliary = vec![0; MOST_AUXILIARY];
        let len = read_at_most(&process.open_file("auxv")?, &mut auxiliary, 0)?;
        auxiliary.truncate(len);
        let mut arguments = process.command_line().unwrap_or_default();
        let words = arguments.trim_ascii_end().iter().rposition(|b| *b != 0);
        arguments.truncate(words.map_or(0, |last| last + 1));
        arguments
            .iter_mut()
            .filter(|b| **b == 0)
            .for_each(|b| *b = b' ');
        Ok(About {
            process: ProcessInfo {
                state: stat.state as u8,
                nice: stat.nice as i8,
                flags: stat.flags.into(),
                user: (status.ruid, status.rgid),
                ids: [process.pid(), stat.ppid, stat.pgrp, stat.session],
                name: stat.comm.into_bytes(),
                arguments,
            },
            auxiliary,
        })
    }

    fn notes(&self, mappings: &[Mapping], threads: Vec<Thread>) -> Notes {
        // Not what is shared: a debugger would take what it finds in such a file later for what was there.
        let files = mappings.iter().filter(|m| m.has_file() && !m.shared);
        Notes {
            process: self.process.clone(),
            threads,
            auxiliary: self.auxiliary.clone(),
            files: files
                .map(|m| MappedFile {
                    range: m.start.0..m.end.0,
                    offset: m.file_offset,
                    path: path_of(m),
                })
                .collect(),
        }
    }
}

/// The threads with registers as debuggers know them, and what any of them has besides.
fn with_known_registers(mut threads: Vec<Thread>) -> (Vec<Thread>, Vec<String>) {
    let mut left_out = 0;
    for thread in &mut threads {
        for (_, set) in &mut thread.more {
            let known = xstate::known(set);
            *set = known.set;
            left_out |= known.left_out;
        }
    }
    (threads, xstate::names(left_out))
}

/// As the kernel has it.
fn path_of(mapping: &Mapping) -> Vec<u8> {
    let mut path = mapping.path.as_os_str().as_bytes().to_vec();
    if mapping.deleted {
        path.extend(b" (deleted)");
    }
    path
}

/// The files behind shared memory: read through them, a page that nobody ever touched stays so. Read through the
/// process, the kernel would make one, and shared memory would grow to its full size.
///
/// Only root may open them (`/proc/PID/map_files`).
struct Shared(Vec<(Range<u64>, u64, File)>);

impl Shared {
    /// Opens them. Where that may not be, the memory is left out.
    fn of(process: &Process, stage: &mut Stage) -> Self {
        let mut files = Vec::new();
        for (mapping, take) in stage.mappings.iter().zip(&mut stage.takes) {
            if *take == Take::Shared {
                match process.open_mapped(mapping) {
                    Ok(file) => {
                        files.push((mapping.start.0..mapping.end.0, mapping.file_offset, file));
                    }
                    Err(_) => *take = Take::Nothing(Why::OnlyForRoot),
                }
            }
        }
        Shared(files)
    }

    /// How much of it there may be, at most.
    fn size(&self) -> u64 {
        self.0
            .iter()
            .map(|(range, _, _)| range.end - range.start)
            .sum()
    }
}

/// Where in the file the first byte of each mapping lies that is in it.
fn places(mappings: &[Mapping], takes: &[Take], from: u64) -> Vec<(Range<u64>, u64)> {
    let mut offset = from;
    let mut places = Vec::new();
    for (mapping, take) in mappings.iter().zip(takes) {
        let (start, end) = (mapping.start.0, mapping.end.0);
        let end = match take {
            Take::Nothing(_) => continue,
            Take::ElfHeader => end.min(start + PAGE),
            Take::Own | Take::Shared => end,
        };
        places.push((start..end, offset));
        offset += end - start;
    }
    places
}

/// What ends the writing.
enum Ended {
    Disk(io::Error),
    Asked(i32),
}

struct Writer<'w> {
    process: &'w Process,
    draft: Draft,
    places: Vec<(Range<u64>, u64)>,
    signals: &'w HeldSignals,
    progress: &'w mut dyn FnMut(Progress),
    done: Progress,
    missing: Vec<Range<u64>>,
}

impl Writer<'_> {
    fn everything(&mut self, stage: &mut Stage, shared: &Shared) -> Result<(), Ended> {
        (self.progress)(self.done);
        for piece in &stage.arena.pieces {
            self.memory(piece.start, stage.arena.bytes(piece))?;
        }
        for range in &stage.arena.later {
            let mapping = maps::find(&stage.mappings, Avma(range.start));
            let full = mapping.is_some_and(regions::is_full);
            self.copy_later(&mut stage.source, range.clone(), full)?;
        }
        for (mapping, take) in stage.mappings.iter().zip(&stage.takes) {
            if *take == Take::ElfHeader {
                let first = mapping.start.0..mapping.start.0 + PAGE;
                self.copy_later(&mut stage.source, first, true)?;
            }
        }
        for (range, offset, file) in &shared.0 {
            self.copy_file(range.clone(), *offset, file)?;
        }
        Ok(())
    }

    /// Copies now what there was no time for.
    fn copy_later(
        &mut self,
        source: &mut copy::Source,
        range: Range<u64>,
        full: bool,
    ) -> Result<(), Ended> {
        let mut missing = Vec::new();
        let process = self.process;
        let result = source.read(range, full, &mut missing, |start, bytes| {
            // It may have ended, and its PID be another's.
            match process.still_the_same() {
                true => self.memory(start, bytes),
                false => {
                    self.missing.push(start..start + bytes.len() as u64);
                    Ok(())
                }
            }
        });
        self.missing.append(&mut missing);
        result
    }

    /// Writes what a file has for `range`, beginning at `offset`.
    fn copy_file(&mut self, range: Range<u64>, offset: u64, file: &File) -> Result<(), Ended> {
        let mut buf = vec![0; PORTION];
        let len = file.metadata().map_or(0, |m| m.len());
        let end = offset + (range.end - range.start);
        if len < end {
            self.missing
                .push(range.start + (len.max(offset) - offset)..range.end);
        }
        let mut at = offset;
        while at < end.min(len) {
            // Where holes cannot be found, everything is data.
            let data = lseek(file, at as i64, Whence::SeekData);
            at = match data {
                Ok(data) => data as u64,
                Err(nix::errno::Errno::ENXIO) => break,
                Err(_) => at,
            };
            let portion = end.min(len).saturating_sub(at).min(PORTION as u64) as usize;
            let start = range.start + (at - offset);
            match read_at_most(file, &mut buf[..portion], at) {
                Ok(read) if read == portion => self.memory(start, &buf[..portion])?,
                _ => self.missing.push(start..start + portion as u64),
            }
            at += portion as u64;
        }
        Ok(())
    }

    /// Writes memory to its place, but no page of zeroes.
    fn memory(&mut self, start: u64, bytes: &[u8]) -> Result<(), Ended> {
        while let Some(signal) = self.signals.take(Duration::ZERO) {
            if signal != libc::SIGCHLD {
                return Err(Ended::Asked(signal));
            }
        }
        let Some((range, offset)) = find(&self.places, start) else {
            return Ok(());
        };
        let offset = offset + (start - range.start);
        for run in runs_with_content(bytes) {
            let at = offset + run.start as u64;
            self.draft.write(&bytes[run], at).map_err(Ended::Disk)?;
        }
        self.done.done += bytes.len() as u64;
        self.done.total = self.done.total.max(self.done.done);
        (self.progress)(self.done);
        Ok(())
    }
}

/// What is not in the file.
fn left_out(stage: &Stage, missing: &[Range<u64>]) -> Vec<LeftOut> {
    let of_mappings = stage.mappings.iter().zip(&stage.takes);
    let of_mappings = of_mappings.filter_map(|(m, take)| match take {
        Take::Nothing(why) => Some((m.start.0..m.end.0, *why)),
        Take::ElfHeader if m.end.0 - m.start.0 > PAGE => {
            Some((m.start.0 + PAGE..m.end.0, Why::UnchangedFile))
        }
        _ => None,
    });
    let unread = missing.iter().map(|r| (r.clone(), Why::CouldNotBeRead));
    let mut all: Vec<_> = of_mappings.chain(unread).collect();
    all.sort_by_key(|(range, _)| range.start);
    let parts = all.into_iter().map(|(range, why)| LeftOut {
        part: part(&stage.mappings, range),
        why,
    });
    parts.collect()
}

fn find(places: &[(Range<u64>, u64)], addr: u64) -> Option<&(Range<u64>, u64)> {
    let after = places.partition_point(|(range, _)| range.start <= addr);
    let place = &places[after.checked_sub(1)?];
    place.0.contains(&addr).then_some(place)
}

/// The runs of pages that are not all zero.
fn runs_with_content(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (n, page) in bytes.chunks(PAGE as usize).enumerate() {
        if page.iter().all(|b| *b == 0) {
            continue;
        }
        let start = n * PAGE as usize;
        match runs.last_mut() {
            Some(last) if last.end == start => last.end += page.len(),
            _ => runs.push(start..start + page.len()),
        }
    }
    runs
}

fn part(mappings: &[Mapping], range: Range<u64>) -> Part {
    let mapping = maps::find(mappings, Avma(range.start));
    let name = mapping.map(path_of).unwrap_or_default();
    Part {
        start: Avma(range.start),
        end: Avma(range.end),
        name: printable(&String::from_utf8_lossy(&name)),
    }
}

fn copied_later(stage: &Stage) -> Vec<Part> {
    let shared = stage.mappings.iter().zip(&stage.takes);
    let shared = shared.filter(|(_, take)| **take == Take::Shared);
    let shared = shared.map(|(m, _)| m.start.0..m.end.0);
    let mut later: Vec<Range<u64>> = stage.arena.later.iter().cloned().chain(shared).collect();
    later.sort_by_key(|range| range.start);
    later
        .into_iter()
        .map(|r| part(&stage.mappings, r))
        .collect()
}

/// The mappings as the file describes them: cut where something of them could not be read.
fn segments(
    mappings: &[Mapping],
    places: &[(Range<u64>, u64)],
    missing: &[Range<u64>],
) -> Vec<Segment> {
    let mut gaps_left = MOST_GAPS;
    let mut segments = Vec::new();
    for mapping in mappings {
        let whole = mapping.start.0..mapping.end.0;
        let place = find(places, whole.start);
        let (held, offset) = place.cloned().unwrap_or((whole.start..whole.start, 0));
        let segment = |range: Range<u64>, in_file: u64| Segment {
            permissions: [mapping.readable, mapping.writable, mapping.executable],
            offset: offset + (range.start - whole.start),
            start: range.start,
            end: range.end,
            in_file,
        };
        let mut at = whole.start;
        let mut cut_off = false;
        let first = missing.partition_point(|gap| gap.end <= held.start);
        for gap in missing[first..]
            .iter()
            .take_while(|gap| gap.start < held.end)
        {
            if gap.start > at {
                segments.push(segment(at..gap.start, gap.start - at));
            }
            at = gap.start;
            cut_off = gaps_left == 0;
            if cut_off {
                break;
            }
            gaps_left -= 1;
            segments.push(segment(gap.clone(), 0));
            at = gap.end;
        }
        if at < whole.end {
            let in_file = match cut_off {
                true => 0,
                false => held.end.saturating_sub(at),
            };
            segments.push(segment(at..whole.end, in_file));
        }
    }
    segments
}

/// Sorted, and none beside another.
fn joined(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_by_key(|range| range.start);
    ranges.dedup_by(|next, last| {
        let joins = last.end >= next.start;
        if joins {
            last.end = last.end.max(next.end);
        }
        joins
    });
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_cut_where_nothing_could_be_read() {
        let text = b"10000-18000 rw-p 0 0:0 0\n20000-28000 r--p 0 0:0 7 /lib\n30000-34000 rw-s 0 0:0 8 /dev/zero\n";
        let mappings = maps::parse(text);
        let takes = [Take::Own, Take::ElfHeader, Take::Nothing(Why::SharedMemory)];
        let places = places(&mappings, &takes, 0x1000);
        assert_eq!(
            places,
            [(0x10000..0x18000, 0x1000), (0x20000..0x21000, 0x9000)]
        );
        let missing = joined(vec![0x14000..0x15000, 0x13000..0x14000, 0x17000..0x18000]);
        assert_eq!(missing, [0x13000..0x15000, 0x17000..0x18000]);
        let all = segments(&mappings, &places, &missing);
        let all: Vec<_> = all
            .iter()
            .map(|s| (s.start, s.end, s.in_file, s.offset))
            .collect();
        assert_eq!(
            all,
            [
                (0x10000, 0x13000, 0x3000, 0x1000),
                (0x13000, 0x15000, 0, 0x4000),
                (0x15000, 0x17000, 0x2000, 0x6000),
                (0x17000, 0x18000, 0, 0x8000),
                (0x20000, 0x28000, 0x1000, 0x9000),
                (0x30000, 0x34000, 0, 0),
            ]
        );
    }

    #[test]
    fn there_is_an_end_to_the_gaps() {
        let size = 4 * (MOST_GAPS as u64 + 10) * PAGE;
        let mappings = maps::parse(format!("10000-{:x} rw-p 0 0:0 0", 0x10000 + size).as_bytes());
        let places = places(&mappings, &[Take::Own], 0);
        let missing: Vec<_> = (0..size / PAGE / 2)
            .map(|n| 0x10000 + 2 * n * PAGE..0x10000 + (2 * n + 1) * PAGE)
            .collect();
        let all = segments(&mappings, &places, &missing);
        assert!(all.len() <= 2 * MOST_GAPS + mappings.len(), "{}", all.len());
        assert!(all.windows(2).all(|two| two[0].end == two[1].start));
        assert_eq!(all.last().unwrap().end, 0x10000 + size);
        let in_gaps = |s: &&Segment| missing.iter().any(|gap| gap.start == s.start);
        assert!(all.iter().filter(in_gaps).all(|s| s.in_file == 0));
    }

    #[test]
    fn pages_of_zeroes_are_not_written() {
        let mut bytes = vec![0; 5 * PAGE as usize];
        assert!(runs_with_content(&bytes).is_empty());
        bytes[PAGE as usize] = 1;
        bytes[3 * PAGE as usize - 1] = 1;
        bytes[5 * PAGE as usize - 1] = 1;
        let page = PAGE as usize;
        assert_eq!(
            runs_with_content(&bytes),
            [page..3 * page, 4 * page..5 * page]
        );
    }
}
