//! The stacks of a backend's other threads. An interrupt has nothing to do with them; who looks for the fault has.

use std::time::{Duration, Instant};

use super::take::{Capture, Plan};
use super::{Stack, ThreadStack, Unseen};
use crate::address::Avma;
use crate::arch::host::registers::RED_ZONE;
use crate::arch::host::stopped::Registers;
use crate::memory::{CapturedMemory, Memory, ProcessMemory};
use crate::tracee::threads::{ForOthers, Standstill, stand_still};
use crate::tracee::{StopBudget, TraceError};

/// The most threads, and the most of the stack of each.
const MOST_THREADS: usize = 64;
const MOST_STACK: u64 = 256 << 10;

/// One thread, as it stood.
struct Copied {
    registers: Registers,
    start: Avma,
    stack: Vec<u8>,
}

impl Plan<'_, '_> {
    /// Stops all threads once, copies the stacks of all but the main one, lets them run, and unwinds. Says for how long
    /// they stood still at most. Of very many threads the rest is left out.
    pub fn other_threads(
        &self,
        budget: &StopBudget,
        limit: Duration,
        patience: ForOthers,
    ) -> Result<(Vec<ThreadStack>, Duration), TraceError> {
        let process = self.living()?;
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
        let stood = stand_still(process, budget, limit, patience, move |all| {
            copy(all, pid, &memory, end_of)
        })?;
        let absent = stood.absent.into_iter();
        let stacks = stood
            .seen
            .into_iter()
            .chain(absent.map(|(tid, why)| (tid, Err(Unseen::Absent(why)))))
            .take(MOST_THREADS)
            .map(|(tid, copied)| ThreadStack {
                tid,
                stack: copied.map(|thread| self.understand(thread)),
            })
            .collect();
        Ok((stacks, stood.at_most))
    }

    fn understand(&self, thread: Copied) -> Stack {
        let mut memory = CapturedMemory::default();
        memory.add(thread.start, thread.stack);
        let capture = Capture::of_thread(thread.registers, memory);
        self.stack(&capture, None, true, None)
    }
}

fn copy(
    all: &Standstill<'_>,
    pid: i32,
    memory: &ProcessMemory,
    end_of: impl Fn(Avma) -> Option<Avma>,
) -> Vec<(i32, Result<Copied, Unseen>)> {
    let one = |tid| {
        if Instant::now() >= all.give_up_at() {
            return Err(Unseen::NoTime);
        }
        let registers = all.registers(tid).map_err(|_| Unseen::Unreadable)?;
        let start = registers.sp().offset(-(RED_ZONE as i64));
        let size =
            end_of(registers.sp()).map_or(0, |end| end.0.saturating_sub(start.0).min(MOST_STACK));
        let mut stack = vec![0; size as usize];
        memory
            .read(start, &mut stack)
            .map_err(|_| Unseen::Unreadable)?;
        Ok(Copied {
            registers,
            start,
            stack,
        })
    };
    let stopped = all.threads().filter(|tid| *tid != pid);
    stopped
        .take(MOST_THREADS)
        .map(|tid| (tid, one(tid)))
        .collect()
}
