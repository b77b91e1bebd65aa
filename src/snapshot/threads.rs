//! The stacks of a backend's other threads. An interrupt has nothing to do with them; who looks for the fault has.

use std::time::{Duration, Instant};

use super::take::{Capture, Plan};
use super::{Stack, ThreadStack};
use crate::memory::{Avma, CapturedMemory, Memory, ProcessMemory};
use crate::tracee::arch::{self, Registers};
use crate::tracee::threads::{Standstill, stand_still};
use crate::tracee::{StopBudget, TraceError};

/// The most threads, and the most of the stack of each.
const MOST_THREADS: usize = 64;
const MOST_STACK: u64 = 256 << 10;

/// One thread, as it stood.
struct Copied {
    tid: i32,
    registers: Registers,
    start: Avma,
    stack: Vec<u8>,
}

impl Plan<'_, '_> {
    /// Stops all threads once, copies the stacks of all but the main one, lets them run, and unwinds. Says for how long
    /// they stood still at most.
    pub fn other_threads(
        &self,
        budget: &StopBudget,
        limit: Duration,
    ) -> Result<(Vec<ThreadStack>, Duration), TraceError> {
        let process = self.backend.process;
        // All that is needed during the stop, and can go to the thread that stops.
        let memory = ProcessMemory::open(process.pid());
        let mappings: Vec<(Avma, Avma)> = self
            .backend
            .space
            .mappings()
            .iter()
            .map(|m| (m.start, m.end))
            .collect();
        let end_of = |sp: Avma| {
            let at = mappings.partition_point(|(_, end)| *end <= sp);
            mappings
                .get(at)
                .filter(|(start, _)| *start <= sp)
                .map(|(_, end)| *end)
        };
        let pid = process.pid();
        let (copied, stopped) = stand_still(process, budget, limit, move |all| {
            copy(all, pid, &memory, end_of)
        })?;
        let stacks = copied
            .into_iter()
            .map(|thread| self.understand(thread))
            .collect();
        Ok((stacks, stopped))
    }

    fn understand(&self, thread: Copied) -> ThreadStack {
        let mut memory = CapturedMemory::default();
        memory.add(thread.start, thread.stack);
        let capture = Capture::of_thread(thread.registers, memory);
        let stack: Stack = self.stack(&capture, None, true, None);
        ThreadStack {
            tid: thread.tid,
            stack,
        }
    }
}

fn copy(
    all: &Standstill<'_>,
    pid: i32,
    memory: &ProcessMemory,
    end_of: impl Fn(Avma) -> Option<Avma>,
) -> Vec<Copied> {
    let mut copied = Vec::with_capacity(MOST_THREADS);
    for tid in all.threads().filter(|tid| *tid != pid).take(MOST_THREADS) {
        if Instant::now() >= all.give_up_at() {
            break;
        }
        let Ok(registers) = all.registers(tid) else {
            continue;
        };
        let start = registers.sp().offset(-(arch::RED_ZONE as i64));
        let size =
            end_of(registers.sp()).map_or(0, |end| end.0.saturating_sub(start.0).min(MOST_STACK));
        let mut stack = vec![0; size as usize];
        if memory.read(start, &mut stack).is_ok() {
            copied.push(Copied {
                tid,
                registers,
                start,
                stack,
            });
        }
    }
    copied
}
