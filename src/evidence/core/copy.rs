//! The copy that is made while the process stands still, and everything that can be done before.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use object::elf;

use super::elf::Thread;
use super::pages::Pages;
use super::regions::{PAGE, Take, Why, is_full, rank, take};
use crate::address::Avma;
use crate::arch::Processor;
use crate::arch::host::PROCESSOR;
use crate::memory::{Memory, ProcessMemory};
use crate::process::{Mapping, Process, maps, read_at_most};
use crate::tracee::TraceError;
use crate::tracee::threads::Standstill;

/// So much is copied between two looks at the clock: a fraction of a millisecond's work.
const STEP: usize = 1 << 20;

/// No machine copies more bytes in a nanosecond from one process to another; what a stop has no time for needs no room.
const FASTEST: u128 = 8;

/// Room for what the process gets between the two looks at it, beside a quarter of what it has.
const SPARE: usize = 4 << 20;

/// The most that is ever copied during a stop.
const MOST: usize = 1 << 30;

/// The most mappings' text; the kernel's default limit of 65,530 mappings makes some 6 MB.
const MOST_TEXT: usize = 64 << 20;

/// The largest register set: AMX has 8 KiB, AVX-512 2.5 KiB.
const MOST_REGISTERS: usize = 32 << 10;

/// Bytes that were copied: where they were, and where in the arena they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Their address.
    pub start: u64,
    /// How many there are.
    pub len: usize,
    at: usize,
}

/// Memory of ours that is there, and touched, before the process stops, and what was copied into it.
#[derive(Debug, Default)]
pub struct Arena {
    bytes: Vec<u8>,
    used: usize,
    /// What was copied, in no particular order.
    pub pieces: Vec<Piece>,
    /// What there was no time, or no room, for.
    pub later: Vec<Range<u64>>,
    /// What could not be read.
    pub missing: Vec<Range<u64>>,
}

impl Arena {
    /// The bytes of a piece.
    pub fn bytes(&self, piece: &Piece) -> &[u8] {
        &self.bytes[piece.at..piece.at + piece.len]
    }

    /// How large it is.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// With so much room. Copies once what will be copied, while the process runs: what was swapped out is brought in,
    /// and the room is there.
    fn rehearse(size: usize, source: &mut Source, wanted: &[(Range<u64>, bool)]) -> Self {
        let mut arena = Arena {
            bytes: vec![0; size],
            ..Arena::default()
        };
        arena.fill(source, wanted, None);
        // One write to a page makes it ours.
        let rest = &mut arena.bytes[arena.used..];
        rest.iter_mut()
            .step_by(PAGE as usize)
            .for_each(|byte| *byte = 1);
        let pieces = Vec::with_capacity(2 * arena.pieces.len() + 1024);
        Arena {
            bytes: arena.bytes,
            pieces,
            ..Arena::default()
        }
    }

    /// Copies what is wanted, in this order, until `deadline`; of a range that is not full only the pages that are there.
    fn fill(
        &mut self,
        source: &mut Source,
        wanted: &[(Range<u64>, bool)],
        deadline: Option<Instant>,
    ) {
        let is_over = || deadline.is_some_and(|d| Instant::now() >= d);
        'ranges: for (range, full) in wanted {
            let mut at = range.start;
            while at < range.end {
                if is_over() {
                    self.later.push(at..range.end);
                    continue 'ranges;
                }
                at = source.look(at..range.end, *full).end;
                let mut runs = Steps::new(&source.runs);
                while let Some(step) = runs.next() {
                    let size: u64 = step.iter().map(|run| run.end - run.start).sum();
                    let has_room = self.used + size as usize <= self.bytes.len();
                    if !has_room || is_over() {
                        self.later.push(step[0].start..range.end);
                        continue 'ranges;
                    }
                    self.copy(&source.memory, step);
                }
            }
        }
    }

    fn copy(&mut self, memory: &ProcessMemory, runs: &[Range<u64>]) {
        let mut rest = &mut self.bytes[self.used..];
        let mut requests = Vec::with_capacity(runs.len());
        for run in runs {
            let (buf, after) = rest.split_at_mut((run.end - run.start) as usize);
            requests.push((Avma(run.start), buf));
            rest = after;
        }
        let filled = memory.read_batch(&mut requests);
        for (run, filled) in runs.iter().zip(filled) {
            // Where a run cannot be read as a whole, page by page.
            let part = if filled { run.end - run.start } else { PAGE };
            for start in run.clone().step_by(part as usize) {
                let at = self.used;
                self.used += part as usize;
                let buf = &mut self.bytes[at..self.used];
                if filled || memory.read(Avma(start), buf).is_ok() {
                    let len = part as usize;
                    self.pieces.push(Piece { start, len, at });
                } else {
                    self.missing.push(start..start + PAGE);
                }
            }
        }
    }
}

/// Runs of pages, in portions of [`STEP`] bytes at most.
struct Steps<'r> {
    runs: &'r [Range<u64>],
    /// Where the first of them goes on.
    from: u64,
    step: Vec<Range<u64>>,
}

impl<'r> Steps<'r> {
    fn new(runs: &'r [Range<u64>]) -> Self {
        let from = runs.first().map_or(0, |run| run.start);
        Steps {
            runs,
            from,
            step: Vec::new(),
        }
    }

    fn next(&mut self) -> Option<&[Range<u64>]> {
        self.step.clear();
        let mut left = STEP as u64;
        while let Some((first, rest)) = self.runs.split_first()
            && left > 0
        {
            let end = first.end.min(self.from + left);
            left -= end - self.from;
            self.step.push(self.from..end);
            self.from = end;
            if end == first.end {
                self.runs = rest;
                self.from = rest.first().map_or(0, |run| run.start);
            }
        }
        (!self.step.is_empty()).then_some(&self.step)
    }
}

/// What is read.
#[derive(Debug)]
pub struct Source {
    memory: ProcessMemory,
    pages: Pages,
    runs: Vec<Range<u64>>,
}

impl Source {
    fn of(process: &Process) -> Self {
        Source {
            memory: ProcessMemory::open(process.pid()),
            pages: Pages::of(process),
            runs: Vec::with_capacity(1024),
        }
    }

    /// The part of `range` from its start on that is dealt with next; leaves the runs in it that are to be read.
    fn look(&mut self, range: Range<u64>, full: bool) -> Range<u64> {
        if full {
            self.runs.clear();
            self.runs.push(range.clone());
            return range;
        }
        self.pages.touched(range, &mut self.runs)
    }

    /// Reads what is to be read of `range`, portion by portion, into `buf`, and hands it on; what cannot be read is
    /// added to `missing`.
    pub fn read<E>(
        &mut self,
        range: Range<u64>,
        full: bool,
        missing: &mut Vec<Range<u64>>,
        mut hand_on: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut buf = vec![0; STEP];
        let mut at = range.start;
        while at < range.end {
            at = self.look(at..range.end, full).end;
            let mut steps = Steps::new(&self.runs);
            while let Some(step) = steps.next() {
                for run in step {
                    let buf = &mut buf[..(run.end - run.start) as usize];
                    if self.memory.read(Avma(run.start), buf).is_ok() {
                        hand_on(run.start, buf)?;
                        continue;
                    }
                    for start in run.clone().step_by(PAGE as usize) {
                        let page = &mut buf[..PAGE as usize];
                        match self.memory.read(Avma(start), page) {
                            Ok(()) => hand_on(start, page)?,
                            Err(_) => missing.push(start..start + PAGE),
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// All that a copy takes, made ready while the process runs.
#[derive(Debug)]
pub struct Stage {
    shared_too: bool,
    maps: File,
    /// The text of `/proc/PID/maps`, and room for a longer one.
    text: Vec<u8>,
    again: Vec<u8>,
    /// What is mapped.
    pub mappings: Vec<Mapping>,
    /// What is taken of each.
    pub takes: Vec<Take>,
    /// What is read.
    pub source: Source,
    /// What was copied.
    pub arena: Arena,
    /// How much own memory there is, in bytes.
    pub own: u64,
    registers: Vec<u8>,
}

/// What a stop gave, beside the copy.
#[derive(Debug)]
pub struct Look {
    /// The threads, the main one first.
    pub threads: Vec<Thread>,
    /// The threads that stood still, and whose registers the kernel did not give.
    pub unreadable: Vec<i32>,
}

impl Stage {
    /// Makes everything ready for a stop of at most `budget`.
    pub fn prepare(process: &Process, shared_too: bool, budget: Duration) -> io::Result<Self> {
        let maps = process.open_file("maps")?;
        let mut text = vec![1; 64 << 10];
        let len = read_maps(&maps, &mut text)?;
        text.truncate(len);
        let mut stage = Stage {
            shared_too,
            maps,
            again: vec![1; 2 * len + (64 << 10)],
            mappings: maps::parse(&text),
            text,
            takes: Vec::new(),
            source: Source::of(process),
            arena: Arena::default(),
            own: 0,
            registers: vec![1; MOST_REGISTERS],
        };
        stage.choose(&[], &[]);
        let wanted = stage.wanted(&[]);
        for (range, full) in &wanted {
            let mut at = range.start;
            while at < range.end {
                at = stage.source.look(at..range.end, *full).end;
                let bytes = stage.source.runs.iter().map(|run| run.end - run.start);
                stage.own += bytes.sum::<u64>();
            }
        }
        let in_time = (budget / 2).as_nanos().saturating_mul(FASTEST);
        let most = usize::try_from(in_time).unwrap_or(MOST).min(MOST);
        let size = (stage.own + stage.own / 4) as usize + SPARE;
        stage.arena = Arena::rehearse(size.min(most), &mut stage.source, &wanted);
        Ok(stage)
    }

    /// Decides what is taken of each mapping; of what was there `before`, the same.
    fn choose(&mut self, before: &[Mapping], then: &[Take]) {
        let pages = &mut self.source.pages;
        self.takes = (self.mappings.iter())
            .map(|mapping| {
                let known = before.binary_search_by_key(&mapping.start, |m| m.start);
                let known = known.ok().filter(|n| before[*n] == *mapping);
                match known.map(|n| then[n]) {
                    // It may have been written to since.
                    Some(Take::ElfHeader | Take::Nothing(Why::UnchangedFile))
                        if mapping.writable => {}
                    Some(take) => return take,
                    None => {}
                }
                take(mapping, self.shared_too, |m| {
                    pages.any_own(m.start.0..m.end.0)
                })
            })
            .collect();
    }

    /// The process's own memory in the order in which it is copied.
    fn wanted(&self, stacks: &[u64]) -> Vec<(Range<u64>, bool)> {
        let mut own: Vec<&Mapping> = (self.mappings.iter().zip(&self.takes))
            .filter(|(_, take)| **take == Take::Own)
            .map(|(mapping, _)| mapping)
            .collect();
        own.sort_by_key(|mapping| rank(mapping, stacks));
        own.iter()
            .map(|m| (m.start.0..m.end.0, is_full(m)))
            .collect()
    }

    /// Copies what there is, while the process stands still.
    pub fn look(&mut self, standstill: &Standstill<'_>) -> Result<Look, TraceError> {
        let mut threads = Vec::new();
        let mut stacks = Vec::new();
        let mut unreadable = Vec::new();
        for tid in standstill.threads() {
            match self.registers(standstill, tid) {
                Ok((thread, sp)) => {
                    threads.push(thread);
                    stacks.push(sp);
                }
                Err(e) if threads.is_empty() => return Err(e),
                // Killed meanwhile; that the main thread was shows in what comes next.
                Err(TraceError::Gone(_)) => {}
                Err(_) => unreadable.push(tid),
            }
        }
        self.look_at_mappings();
        let wanted = self.wanted(&stacks);
        self.arena
            .fill(&mut self.source, &wanted, Some(standstill.give_up_at()));
        Ok(Look {
            threads,
            unreadable,
        })
    }

    fn registers(
        &mut self,
        standstill: &Standstill<'_>,
        tid: i32,
    ) -> Result<(Thread, u64), TraceError> {
        let mut set = |kind: elf::NoteType| {
            let len = standstill.register_set(tid, kind.0, &mut self.registers)?;
            Ok::<_, TraceError>(self.registers[..len].to_vec())
        };
        let thread = Thread {
            tid,
            blocked: standstill.signal_mask(tid)?,
            general: set(elf::NT_PRSTATUS)?,
            floating: set(elf::NT_PRFPREG).unwrap_or_default(),
            more: {
                let more = PROCESSOR.core_file().more_sets.iter();
                more.filter_map(|kind| Some((*kind, set(elf::NoteType(*kind)).ok()?)))
                    .collect()
            },
        };
        Ok((thread, standstill.registers(tid)?.sp().0))
    }

    /// Whether something was mapped or unmapped since; mostly not. Where it cannot be told, what was known holds.
    fn look_at_mappings(&mut self) {
        let text = match read_maps(&self.maps, &mut self.again) {
            Ok(len @ 1..) => &self.again[..len],
            _ => &self.text,
        };
        if *text != *self.text {
            let before = std::mem::replace(&mut self.mappings, maps::parse(text));
            let then = std::mem::take(&mut self.takes);
            self.choose(&before, &then);
        }
    }
}

/// Reads the text of `/proc/PID/maps` into `buf`, which grows where it has to.
fn read_maps(maps: &File, buf: &mut Vec<u8>) -> io::Result<usize> {
    let mut len = 0;
    loop {
        let read = read_at_most(maps, &mut buf[len..], len as u64)?;
        len += read;
        if len < buf.len() || len >= MOST_TEXT {
            return Ok(len);
        }
        buf.resize(2 * len, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_of_a_size_and_leave_nothing_out() {
        let step = STEP as u64;
        let runs = [
            0..PAGE,
            2 * PAGE..3 * PAGE,
            step..4 * step,
            5 * step..6 * step,
        ];
        let mut steps = Steps::new(&runs);
        let mut all = Vec::new();
        while let Some(portion) = steps.next() {
            let size: u64 = portion.iter().map(|r| r.end - r.start).sum();
            assert!((1..=step).contains(&size));
            all.extend(
                portion
                    .iter()
                    .cloned()
                    .flat_map(|r| r.step_by(PAGE as usize)),
            );
        }
        let expected: Vec<u64> = runs
            .iter()
            .cloned()
            .flat_map(|r| r.step_by(PAGE as usize))
            .collect();
        assert_eq!(all, expected);
        assert!(Steps::new(&[]).next().is_none());
    }

    fn only(ranges: &[Range<u64>]) -> Option<Range<u64>> {
        ranges.first().filter(|_| ranges.len() == 1).cloned()
    }

    #[test]
    fn what_has_no_room_is_left_for_later_and_nothing_is_lost() {
        let process = Process::open(std::process::id() as i32).unwrap();
        let memory: Vec<u8> = (0..64 * PAGE + PAGE)
            .map(|n| (n / PAGE) as u8 + 1)
            .collect();
        let start = (memory.as_ptr() as u64).next_multiple_of(PAGE);
        let here = start..start + 64 * PAGE;
        // A page that nobody has, too.
        let wanted = [
            (here.clone(), true),
            (PAGE..2 * PAGE, true),
            (here.clone(), false),
        ];
        let mut source = Source::of(&process);
        let room = 80 * PAGE as usize;
        let mut arena = Arena::rehearse(room, &mut source, &wanted);
        arena.fill(&mut source, &wanted, None);
        assert_eq!(only(&arena.missing), Some(PAGE..2 * PAGE));
        assert_eq!(only(&arena.later), Some(here.clone()));
        let [piece] = arena.pieces[..] else {
            panic!("{:?}", arena.pieces)
        };
        assert_eq!((piece.start, piece.len), (start, 64 * PAGE as usize));
        let offset = (start - memory.as_ptr() as u64) as usize;
        assert_eq!(arena.bytes(&piece), &memory[offset..offset + piece.len]);
        // When the time is over, everything is for later.
        let mut arena = Arena::rehearse(room, &mut source, &wanted);
        arena.fill(&mut source, &wanted[..1], Some(Instant::now()));
        assert!(arena.pieces.is_empty());
        assert_eq!(only(&arena.later), Some(here));
    }
}
