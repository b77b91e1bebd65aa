//! Taking a snapshot: the one place that stops a backend to look at it.
//!
//! What may take time comes before the stop ([`Plan::new`]) or after it ([`Plan::interpret`]); during the stop
//! ([`Plan::capture`]) bytes are copied and nothing else.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{
    BackendFacts, Blocker, CarrierStack, Child, Frame, Handler, HeldLwLock, LockWait, Locks,
    LwLockHolder, LwLockWait, ProcessFacts, Sample, Signals, Snapshot, Stack, Variables,
};
use crate::address::{Avma, Svma};
use crate::arch::host::registers::RED_ZONE;
use crate::arch::host::stopped::Registers;
use crate::arch::x86_64::spinlocks::Release;
use crate::arch::{ErrnoAt, UnwindRegisters};
use crate::image::{AddressSpace, Module, ModuleKind, SymbolSource};
use crate::memory::{CapturedMemory, Memory};
use crate::postgres::lwlocks::{self, Tranches};
use crate::postgres::{
    Activity, Backend, BackendType, DataFiles, Disposition, Postmaster, PostmasterStatus, Receiver,
    Statics, Stream, Wait, WaitEvents, Worker, backend_status, disposition, locks, parallel_leader,
    parallel_workers, prove, wait_class,
};
use crate::process::syscalls::BlockedCall;
use crate::process::{Gone, KernelThreads, Process, container, permission};
use crate::tracee::{BEFORE_NEXT_TRY, CARRIER, CallEnd, Declined, Stopped, TURN, TraceError};
use crate::unwind::variables::{self, FrameVariables};
use crate::unwind::{FoundBy, RawFrame, RawStack, StackEnd, unwind, unwind_until};

/// The signals whose handlers matter: what cancels, what terminates, and what a borrowed frame rides on.
pub const HANDLED_SIGNALS: [i32; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGUSR1];

/// The most of a stack that is copied. Linux's usual limit for a main stack is 8 MiB, and PostgreSQL's
/// max_stack_depth stays below that.
const MOST_STACK: u64 = 8 << 20;

/// The most of a statement's text that is read (`track_activity_query_size` may be up to 1 MiB).
const MOST_QUERY: usize = 16 << 10;

/// The variables that are copied at each stop besides those of interrupts, with their sizes in bytes.
const MORE_VARIABLES: [(&str, usize); 6] = [
    ("PG_exception_stack", 8),
    ("CurrentMemoryContext", 8),
    ("ErrorContext", 8),
    ("MyProcPid", 4),
    ("debug_query_string", 8),
    ("MyProc", 8),
];

/// What is to be copied in a stop, worked out before it.
#[derive(Debug)]
pub struct Plan<'b, 'p> {
    /// The backend.
    pub backend: &'b Backend<'p>,
    ranges: Vec<(Avma, usize)>,
    statics: Statics,
    wait_events: WaitEvents,
    kernel_threads: KernelThreads,
    /// `debug_query_string` when the plan was made.
    query_string: Option<u64>,
    my_proc: Option<Avma>,
    status_entry: Option<Avma>,
    wait_event: Option<Avma>,
    status: Option<File>,
    libc: Option<Libc>,
    stack_limit: Option<u64>,
    container: Option<String>,
    worker: Option<Worker>,
    server_stopping: Option<bool>,
    facts: ProcessFacts,
    variables: bool,
}

/// What one stop gave: bytes, not yet understood.
#[derive(Debug)]
pub struct Capture {
    /// The general registers.
    pub registers: Registers,
    unwind_registers: UnwindRegisters,
    memory: CapturedMemory,
    blocked: u64,
    group_stop: bool,
    status: String,
    /// How many threads of its own it had during the stop.
    threads: Option<u64>,
    /// The stack was not copied to its end: that would have taken too long.
    cut_short: bool,
}

impl Capture {
    /// A set of signals from `/proc/PID/status`, as it was during the stop.
    fn signal_set(&self, name: &str) -> Option<u64> {
        field(&self.status, name).and_then(|t| u64::from_str_radix(t, 16).ok())
    }

    /// Of a thread of which nothing but its stack is known.
    pub(super) fn of_thread(registers: Registers, memory: CapturedMemory) -> Self {
        Capture {
            unwind_registers: registers.for_unwinding(),
            registers,
            memory,
            blocked: 0,
            group_stop: false,
            status: String::new(),
            threads: None,
            cut_short: false,
        }
    }

    /// Memory as it was during the stop.
    pub fn memory(&self) -> &dyn Memory {
        &self.memory
    }
}

impl<'b, 'p> Plan<'b, 'p> {
    /// Follows the pointers that stay the same for a backend's life, and looks at what `/proc` tells.
    pub fn new(backend: &'b Backend<'p>) -> Self {
        let process = backend.living();
        let globals = &backend.globals;
        let pointer = |name: &str| {
            let value = backend.memory.read_u64(globals.get(name)?).ok()?;
            (value != 0).then_some(Avma(value))
        };
        let statics = Statics::find(&backend.executable, globals, backend.memory);
        let my_proc = pointer("MyProc");
        let status_entry = pointer("MyBEEntry").or_else(|| {
            let value = backend.memory.read_u64(statics.status_entry?).ok()?;
            (value != 0).then_some(Avma(value))
        });
        let layout = backend.version.as_ref().and_then(|v| v.layout());
        let offsets = layout.and_then(|l| l.pgproc.get());
        let wait_event = pointer("my_wait_event_info")
            .or_else(|| Some(my_proc?.offset(offsets?.wait_event_info as i64)));

        let mut ranges: Vec<(Avma, usize)> = Variables::OF_INTERRUPTS
            .into_iter()
            .chain(MORE_VARIABLES)
            .filter_map(|(name, size)| Some((globals.get(name)?, size)))
            .collect();
        ranges.extend(my_proc.zip(offsets).map(|(at, o)| (at, o.size as usize)));
        ranges.extend(status_entry.map(|at| (at, backend_status::SIZE as usize)));
        ranges.extend(wait_event.map(|at| (at, 4)));
        ranges.extend(statics.ranges());
        Plan {
            backend,
            ranges,
            statics,
            kernel_threads: process.map(Process::kernel_threads).unwrap_or_default(),
            query_string: globals
                .get("debug_query_string")
                .and_then(|at| backend.memory.read_u64(at).ok()),
            wait_events: WaitEvents::of(layout, Tranches::of(backend, &statics)),
            my_proc,
            status_entry,
            wait_event,
            status: process.and_then(|p| p.open_file("status").ok()),
            libc: Libc::find(backend),
            stack_limit: process.and_then(|p| p.stack_limit().ok().flatten()),
            container: process
                .filter(|p| p.pid() != backend.inner_pid)
                .and_then(container::id),
            worker: (backend.backend_type == BackendType::BackgroundWorker)
                .then(|| Worker::of(backend))
                .flatten(),
            server_stopping: is_being_stopped(backend),
            facts: facts(backend),
            variables: false,
        }
    }

    /// The same, which also looks up the arguments and local variables of frames, where there is debug information. It
    /// reads what pointers lead to from the backend when that runs again.
    pub fn with_variables(self) -> Self {
        Plan {
            variables: true,
            ..self
        }
    }

    /// Loads the images and reads the code that a capture goes through, so that another one like it can be understood
    /// without opening a file. Never while the backend stands still.
    pub fn learn(&self, capture: &Capture) {
        self.stack(capture, None, true, None);
    }

    /// The living process, for whoever stops it. What does not live, as what a core file is of, has ended:
    /// [`TraceError::Gone`].
    pub fn living(&self) -> Result<&'p Process, TraceError> {
        let gone = TraceError::from(Gone(self.backend.target.pid()));
        self.backend.living().ok_or(gone)
    }

    /// What `/proc` told when the plan was made.
    pub fn facts(&self) -> &ProcessFacts {
        &self.facts
    }

    /// Copies everything out of the stopped backend.
    pub fn capture(&self, stopped: &Stopped) -> Result<Capture, TraceError> {
        let registers = stopped.registers()?;
        let blocked = stopped.signal_mask()?;
        let low = registers.sp().offset(-(RED_ZONE as i64));
        let size = self
            .stack_end(registers.sp())
            .map_or(0, |end| end.0.saturating_sub(low.0).min(MOST_STACK));
        let give_up = stopped.give_up_at();
        let mut stack = vec![0; size as usize];
        let mut copied = stack_chunk(size);
        let mut values: Vec<Vec<u8>> = self.ranges.iter().map(|(_, size)| vec![0; *size]).collect();
        let mut requests: Vec<(Avma, &mut [u8])> = self
            .ranges
            .iter()
            .zip(&mut values)
            .map(|((at, _), buf)| (*at, &mut buf[..]))
            .collect();
        requests.push((low, &mut stack[..copied]));
        let (main_start, main_size) = self.main_stack_beside(registers.sp()).unwrap_or_default();
        let mut main_stack = vec![0; main_size as usize];
        requests.push((main_start, &mut main_stack));
        let filled = self.backend.memory.read_batch(&mut requests);
        // A deep stack comes in pieces, with a look at the clock before each.
        while copied < stack.len() && Instant::now() < give_up {
            let next = copied + stack_chunk((stack.len() - copied) as u64);
            let at = low.offset(copied as i64);
            let read = self.backend.memory.read(at, &mut stack[copied..next]);
            if read.is_err() {
                break;
            }
            copied = next;
        }
        let cut_short = copied < stack.len() && Instant::now() >= give_up;
        stack.truncate(copied);

        let mut memory = CapturedMemory::default();
        let ranges = self
            .ranges
            .iter()
            .map(|(at, _)| *at)
            .chain([low, main_start]);
        let bytes = values.into_iter().chain([stack, main_stack]);
        for ((at, bytes), filled) in ranges.zip(bytes).zip(filled) {
            if filled && !bytes.is_empty() {
                memory.add(at, bytes);
            }
        }
        let mut status = vec![0; 4096];
        let read = self
            .status
            .as_ref()
            .and_then(|f| f.read_at(&mut status, 0).ok());
        status.truncate(read.unwrap_or(0));
        // What was killed meanwhile can still be read, in part: that makes no capture.
        stopped.signal_mask()?;
        let status = String::from_utf8_lossy(&status).into_owned();
        let counted = field(&status, "Threads").and_then(|t| t.parse().ok());
        Ok(Capture {
            unwind_registers: registers.for_unwinding(),
            registers,
            memory,
            blocked,
            group_stop: stopped.in_group_stop(),
            // One that the kernel gave it since counts as its own.
            threads: counted.map(|n: u64| n.saturating_sub(self.kernel_threads.count()).max(1)),
            status,
            cut_short,
        })
    }

    /// The function that a thread with these registers is in, without a look at its stack. Opens nothing.
    pub fn innermost(&self, registers: &Registers) -> Option<Frame> {
        let raw = RawFrame {
            ip: registers.ip(),
            cfa: Avma(0),
            found_by: FoundBy::Context,
            signal_frame: false,
            exact: true,
            has_cleanup: false,
            function: None,
        };
        describe(&raw, &self.backend.space, false).pop()
    }

    /// Where the stack that `sp` is on ends. The main stack may have grown below the mapping that we know.
    fn stack_end(&self, sp: Avma) -> Option<Avma> {
        let mappings = self.backend.space.mappings();
        let at = mappings.partition_point(|m| m.end <= sp);
        let mapping = mappings.get(at)?;
        (mapping.contains(sp) || mapping.path.as_os_str() == "[stack]").then_some(mapping.end)
    }

    /// The main stack, as far as it is known, for a thread that is on another one: a signal handler on an
    /// alternate stack was called from there.
    fn main_stack_beside(&self, sp: Avma) -> Option<(Avma, u64)> {
        let mut mappings = self.backend.space.mappings().iter();
        let stack = mappings.find(|m| m.path.as_os_str() == "[stack]")?;
        let elsewhere = self.stack_end(sp) != Some(stack.end);
        let size = (stack.end.0 - stack.start.0).min(MOST_STACK);
        elsewhere.then(|| (stack.end.offset(-(size as i64)), size))
    }

    /// How many bytes the main stack may still grow, if `sp` is on it.
    fn room(&self, sp: Avma) -> Option<u64> {
        let mut mappings = self.backend.space.mappings().iter();
        let stack = mappings.find(|m| m.path.as_os_str() == "[stack]")?;
        if self.stack_end(sp) != Some(stack.end) {
            return None;
        }
        let limit = self.stack_limit.unwrap_or(MOST_STACK);
        Some(sp.0.saturating_sub(stack.end.0.saturating_sub(limit)))
    }

    /// Understands what was captured. With `lines` also inlined functions and source lines, which takes reading
    /// debug information: not while the backend stands still.
    pub fn interpret(&self, capture: &Capture, lines: bool, stopped_for: Duration) -> Snapshot {
        self.interpret_until(None, capture, lines, stopped_for)
    }

    /// The same while the backend stands still, about to be stepped into: without opening a file, and leaving off when
    /// that takes too long.
    pub fn interpret_in(&self, stopped: &Stopped, capture: &Capture) -> Snapshot {
        let give_up = Some(stopped.give_up_at());
        let mut snapshot = self.interpret_until(give_up, capture, false, stopped.stopped_for());
        // What is judged here is called in a frame that is lent only with enough room (`Stopped::borrow_frame`).
        snapshot.signals.carrier_stack = CarrierStack::SeenInFrame;
        snapshot
    }

    fn interpret_until(
        &self,
        give_up: Option<Instant>,
        capture: &Capture,
        lines: bool,
        stopped_for: Duration,
    ) -> Snapshot {
        let variables = self.variables(&capture.memory);
        let mut process = self.facts.clone();
        // It was we who stopped it: whoever else traced it when the plan was made does so no more.
        process.tracer = Some(0);
        process.tracer_name = None;
        process.threads = capture.threads.or(process.threads);
        process.syscall = capture.registers.syscall().map(|number| {
            let arguments = capture.registers.syscall_arguments();
            // What it waits for was looked up before the stop, if it was in this call then.
            let before = process.syscall.filter(|c| c.is(number, arguments));
            before.unwrap_or_else(|| BlockedCall::from_registers(number, arguments))
        });
        let set = |name| capture.signal_set(name);
        let signals = Signals {
            blocked: Some(capture.blocked),
            pending: set("SigPnd").zip(set("ShdPnd")).map(|(a, b)| a | b),
            caught: set("SigCgt"),
            ignored: set("SigIgn"),
            handlers: None,
            carrier_stack: CarrierStack::default(),
            sent: None,
        };
        let stack = self.stack(capture, variables.exception_stack, lines, give_up);
        Snapshot {
            pid: self.backend.target.pid(),
            backend: self.backend_facts(&capture.memory),
            process,
            locks: self.locks(&variables),
            wait_event: self.describe_wait(&variables),
            variables,
            signals,
            stack: Some(stack),
            stopped_ms: stopped_for.as_secs_f64() * 1e3,
            swallowed: None,
            samples: Vec::new(),
            replaced_files: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// What can be told without a stop: variables are read while the backend runs.
    pub fn without_stopping(&self) -> Snapshot {
        let target = self.backend.target;
        let status = target.living().and_then(|p| p.status().ok());
        let variables = self.variables(self.backend.memory);
        Snapshot {
            pid: target.pid(),
            backend: self.backend_facts(self.backend.memory),
            process: self.facts.clone(),
            locks: self.locks(&variables),
            wait_event: self.describe_wait(&variables),
            variables,
            signals: Signals {
                blocked: status.as_ref().map(|s| s.sigblk),
                pending: status.as_ref().map(|s| s.sigpnd | s.shdpnd),
                caught: status.as_ref().map(|s| s.sigcgt),
                ignored: status.as_ref().map(|s| s.sigign),
                handlers: None,
                carrier_stack: CarrierStack::default(),
                sent: None,
            },
            stack: None,
            stopped_ms: 0.0,
            swallowed: None,
            samples: Vec::new(),
            replaced_files: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// What can be told without a stop of whether it lets interrupts go.
    pub fn glance(&self) -> Sample {
        let variables = self.variables(self.backend.memory);
        Sample {
            statement_start: None,
            places: None,
            interrupt_holdoff_count: variables.interrupt_holdoff_count,
            crit_section_count: variables.crit_section_count,
            lw_waiting: variables.lw_waiting,
        }
    }

    /// Looks up what there is to say of the files that the code comes from. Never while the backend stands still.
    pub fn look_up_files(&self, snapshot: &mut Snapshot) {
        let backend = self.backend;
        snapshot.replaced_files = backend.space.replaced_files(backend.memory);
        snapshot.warnings = backend.space.warnings();
    }

    /// The same of one that we tried to stop, and that is still in the system call that keeps it from stopping.
    pub fn that_would_not_stop(&self) -> Snapshot {
        let mut snapshot = self.without_stopping();
        snapshot.process = ProcessFacts {
            would_not_stop: true,
            // It was we who traced it just now, if anyone.
            tracer: self.facts.tracer,
            tracer_name: self.facts.tracer_name.clone(),
            ..facts(self.backend)
        };
        snapshot
    }

    /// Looks up what a backend that runs again waits for, if it was not in that call before the stop.
    pub fn look_up_syscall(&self, snapshot: &mut Snapshot) {
        if let Some(call) = &mut snapshot.process.syscall
            && let Some(process) = self.backend.living()
            && self.facts.syscall.as_ref() != Some(call)
        {
            call.look_up(process, self.backend.memory);
        }
    }

    /// The server's variables, out of a capture or out of the living process.
    pub fn variables(&self, memory: &dyn Memory) -> Variables {
        let globals = &self.backend.globals;
        let word = |name: &str| memory.read_u64(globals.get(name)?).ok();
        let of_interrupts = |name: &str| {
            let (_, size) = (Variables::OF_INTERRUPTS.into_iter()).find(|(n, _)| *n == name)?;
            let mut bytes = [0; 8];
            let read = memory.read(globals.get(name)?, &mut bytes[..size]);
            read.is_ok().then(|| u64::from_le_bytes(bytes))
        };
        let statics = &self.statics;
        let static_int = |at: Option<Avma>| memory.read_u32(at?).ok();
        // A bool is 0 or 1; anything else was no bool.
        let static_flag = |at: Option<Avma>| match memory.read_u8(at?) {
            Ok(n @ (0 | 1)) => Some(n == 1),
            _ => None,
        };
        let layout = self.backend.version.as_ref().and_then(|v| v.layout());
        // PGPROC is believed only where its pid is the backend's.
        let offsets = layout.and_then(|l| l.pgproc.get());
        let pgproc = self.my_proc.zip(offsets).filter(|(at, offsets)| {
            memory.read_u32(at.offset(offsets.pid as i64)).ok()
                == Some(self.backend.inner_pid as u32)
        });
        let pgproc_at = |offset: fn(&crate::postgres::PgProc) -> u64| {
            pgproc.map(|(at, offsets)| at.offset(offset(offsets) as i64))
        };
        Variables {
            exception_stack: word("PG_exception_stack").map(Avma),
            in_error_context: word("CurrentMemoryContext")
                .zip(word("ErrorContext"))
                .map(|(current, error)| current == error),
            wait_event_info: self.wait_event.and_then(|at| memory.read_u32(at).ok()),
            has_proc: word("MyProc").map(|at| at != 0),
            lw_waiting: pgproc_at(|l| l.lw_waiting)
                .and_then(|at| memory.read_u8(at).ok())
                .map(|b| b != 0),
            lw_wait_mode: pgproc_at(|l| l.lw_wait_mode).and_then(|at| memory.read_u8(at).ok()),
            waits_for_lock: pgproc_at(|l| l.wait_lock)
                .and_then(|at| memory.read_u64(at).ok())
                .map(|pointer| pointer != 0),
            held_lwlocks: statics
                .held_lwlocks
                .and_then(|at| lwlocks::held(memory, at))
                .map(|held| held.into_iter().map(|h| self.describe_held(h)).collect()),
            errordata_stack_depth: static_int(statics.errordata_stack_depth).map(|n| n as i32),
            error_recursion_depth: static_int(statics.recursion_depth),
            sending_message: static_flag(statics.busy),
            reading_message: static_flag(statics.reading_message),
            doing_command_read: static_flag(statics.doing_command_read),
            ..Variables::of_interrupts(of_interrupts)
        }
    }

    fn describe_wait(&self, variables: &Variables) -> Option<Wait> {
        self.wait_events.describe(variables.wait_event_info?)
    }

    /// The lock itself lies in shared memory, at a fixed place: its tranche is read from the living process.
    fn describe_held(&self, held: lwlocks::Held) -> HeldLwLock {
        let tranche = lwlocks::tranche_of(self.backend.memory, held.lock);
        HeldLwLock {
            lock: held.lock,
            mode: held.mode,
            tranche: tranche.map(|id| self.wait_events.tranches().name(id)),
        }
    }

    /// The number of the LWLock tranche that it says to wait for.
    fn awaited_tranche(&self, variables: &Variables) -> Option<u16> {
        let event = variables.wait_event_info?;
        (event >> 24 == wait_class::LWLOCK).then_some(event as u16)
    }

    fn locks(&self, variables: &Variables) -> Locks {
        let tranche = self.awaited_tranche(variables);
        Locks {
            tranche: tranche.map(|id| self.wait_events.tranches().name(id)),
            ..Locks::default()
        }
    }

    /// Finds out who keeps the backend waiting for a lock, if it waits for one. That takes reading the memory of the
    /// server's other processes: never while the backend stands still.
    pub fn find_blockers(&self, snapshot: &mut Snapshot) {
        snapshot.locks.spinlock = super::spinlocks::find_wait(self.backend, snapshot);
        let layout = self.backend.version.as_ref().and_then(|v| v.layout());
        let Some((my_proc, layout)) = self.my_proc.zip(layout) else {
            return;
        };
        let variables = &snapshot.variables;
        if variables.lw_waiting == Some(true) {
            let tranche = self.awaited_tranche(variables);
            let wait = lwlocks::find_wait(self.backend, &self.statics, layout, my_proc, tranche);
            snapshot.locks.lwlock = wait.map(|w| LwLockWait {
                lock: w.lock,
                holders: w.lock.map(|_| {
                    let holders = w.holders.iter();
                    holders
                        .map(|(pid, mode)| LwLockHolder {
                            pid: *pid,
                            mode: *mode,
                        })
                        .collect()
                }),
                candidates: w.candidates,
                unread: w.unread,
            });
        }
        if variables.waits_for_lock == Some(true) {
            let wait = locks::find_wait(self.backend, layout, my_proc);
            snapshot.locks.heavyweight = wait.map(|w| LockWait {
                object: w.object,
                mode: w.mode.into(),
                blockers: w.blockers.map(|b| b.into_iter().map(blocker).collect()),
            });
        }
    }

    /// Looks up whom its end would hit besides: the other processes of its parallel query, and who waits for what a
    /// walsender sends. That takes reading all processes of the server: never while the backend stands still.
    pub fn find_others(&self, snapshot: &mut Snapshot) {
        let facts = &mut snapshot.backend;
        let (workers, leader) = parallel_workers(self.backend, facts.parallel_leader);
        facts.parallel_workers = Some(workers);
        facts.parallel_leader = leader.or(facts.parallel_leader);
        if self.backend.backend_type == BackendType::WalSender {
            facts.receiver = Receiver::of(self.backend);
        }
    }

    /// Whether the statement that began at `start` is over: another one runs, or none. None where it cannot be told.
    pub fn statement_is_over(&self, start: Option<i64>) -> Option<bool> {
        let memory = self.backend.memory;
        let facts = self.backend_facts(memory);
        match facts.activity {
            Some(activity) if activity != Activity::Disabled => {
                Some(facts.statement_start? != start? || activity.is_idle())
            }
            // With track_activities off: PostgresMain() clears this after an error (src/backend/tcop/postgres.c).
            _ => {
                // Who had none when the plan was made, as an autovacuum worker never has, tells nothing by it.
                let at = self.backend.globals.get("debug_query_string")?;
                self.query_string.filter(|pointer| *pointer != 0)?;
                memory.read_u64(at).ok().map(|pointer| pointer == 0)
            }
        }
    }

    fn backend_facts(&self, memory: &dyn Memory) -> BackendFacts {
        let backend = self.backend;
        let layout = backend.version.as_ref().and_then(|v| v.layout());
        let entry = self.status_entry.filter(|at| {
            let int = |offset: u64| memory.read_u32(at.offset(offset as i64)).ok();
            int(backend_status::PID) == Some(backend.inner_pid as u32)
                // Odd while it is being written.
                && int(backend_status::CHANGE_COUNT).is_some_and(|n| n % 2 == 0)
        });
        let at = |offset: u64| entry.map(|e| e.offset(offset as i64));
        // The texts lie in shared memory at fixed places; they are read from the living process.
        let text = |offset: u64, most: usize| {
            let pointer = memory.read_u64(at(offset)?).ok()?;
            let bytes = backend.memory.read_c_string(Avma(pointer), most).ok()?;
            Some(String::from_utf8_lossy(&bytes).into_owned()).filter(|t| !t.is_empty())
        };
        let inner = (backend.inner_pid != backend.target.pid()).then_some(backend.inner_pid);
        let oid = at(backend_status::DATABASE).and_then(|at| memory.read_u32(at).ok());
        let (user, database) = backend
            .title
            .names(backend.backend_type, oid.map(|oid| oid != 0));
        BackendFacts {
            backend_type: backend.backend_type,
            server_version: backend.version.as_ref().map(|v| v.text.clone()),
            version_known: layout.is_some(),
            memory_contexts_named: backend.memory_contexts_named,
            subtransaction_end: backend.subtransaction_end.map(|at| Avma(at.0)),
            model_objection: backend.globals.model_objection().map(str::to_owned),
            data_directory: backend.data_directory.clone(),
            database: database.map(str::to_owned),
            user: user.map(str::to_owned),
            client: backend.title.client.clone(),
            application_name: text(backend_status::APPLICATION_NAME, 256),
            activity: at(backend_status::STATE)
                .and_then(|at| memory.read_u32(at).ok())
                .and_then(|n| layout?.activities.get()?.get(n as usize).copied()),
            statement_start: at(backend_status::ACTIVITY_START)
                .and_then(|at| memory.read_u64(at).ok())
                .map(|v| v as i64),
            transaction_start: at(backend_status::XACT_START)
                .and_then(|at| memory.read_u64(at).ok())
                .filter(|v| *v != 0)
                .map(|v| v as i64),
            worker: self.worker.clone(),
            parallel_leader: parallel_leader(&backend.title.text),
            parallel_workers: None,
            receiver: None,
            stream: (backend.backend_type == BackendType::WalSender)
                .then(|| Stream::of(&backend.memory, &backend.globals, backend.inner_pid))
                .flatten(),
            query: text(backend_status::ACTIVITY, MOST_QUERY),
            title: backend.title.text.clone(),
            container: self.container.clone(),
            pid_in_container: inner,
            postmaster_pid: match backend.postmaster {
                Postmaster::Running(pid) => Some(pid),
                Postmaster::Gone => None,
            },
            server_stopping: self.server_stopping,
            postmaster_command: None,
        }
    }

    pub(super) fn stack(
        &self,
        capture: &Capture,
        exception_stack: Option<Avma>,
        lines: bool,
        give_up: Option<Instant>,
    ) -> Stack {
        let space = &self.backend.space;
        let mut raw = if lines {
            unwind_loading(capture, self.backend)
        } else {
            unwind_until(give_up, &capture.unwind_registers, &capture.memory, space)
        };
        if capture.cut_short && raw.end == StackEnd::UnreadableStack {
            raw.end = StackEnd::OutOfTime;
        }
        if lines {
            learn_callers(&raw, space);
            learn_entries(&raw, self.backend);
        }
        let mut variables = match lines && self.variables {
            true => variables::read(
                &raw,
                &capture.unwind_registers,
                &capture.memory,
                Some(self.backend.memory),
                space,
            ),
            false => Vec::new(),
        };
        let sp = capture.registers.sp();
        let end = self.stack_end(sp);
        let mut entries = nameless_entries(&raw, space).peekable();
        let mut unread_entry = false;
        let mut frames = Vec::with_capacity(raw.frames.len());
        let mut end_of_stack = raw.end;
        for (i, frame) in raw.frames.iter().enumerate() {
            if give_up.is_some_and(|at| Instant::now() >= at) {
                end_of_stack = StackEnd::OutOfTime;
                break;
            }
            let before = frames.len();
            frames.extend(describe(frame, space, lines));
            if let Some(levels) = variables.get_mut(i) {
                add_variables(&mut frames[before..], std::mem::take(levels));
            }
            if let Some(entry) = entries.next_if(|entry| entry.index == i) {
                let name = space.called_as(entry.returns_to);
                unread_entry |= name.is_none();
                name_entry(frames.last_mut(), name.flatten().as_deref());
            }
        }
        Stack {
            unread: raw.end == StackEnd::ImageNotLoaded
                || unread_entry
                || raw.frames.iter().any(|f| is_unread(f, space))
                || callers_are_unread(&frames),
            frames,
            end: end_of_stack,
            complete: raw.is_complete() && end_of_stack == raw.end,
            in_syscall: capture.registers.syscall().is_some(),
            group_stop: capture.group_stop,
            room: self.room(sp),
            exception_stack_above: exception_stack
                .zip(end)
                .map(|(target, end)| sp < target && target < end),
        }
    }
}

/// How much of what is left of a stack is copied at once: some 50 µs' worth.
fn stack_chunk(left: u64) -> usize {
    left.min(256 << 10) as usize
}

/// What can be told of a process that has exited and waits for a postmaster to notice. Nothing of its own is left to
/// prove it by; that its parent is a postmaster does.
pub fn zombie(process: &Process) -> Option<Snapshot> {
    let status = process.stat().ok().filter(|s| s.state == 'Z')?;
    let parent = Process::open(status.ppid).ok()?;
    let postmaster = prove(&parent)
        .ok()
        .filter(|p| p.backend_type == BackendType::Postmaster)?;
    let of_postmaster = Plan::new(&postmaster).without_stopping();
    // Its postmaster may have noticed meanwhile; then it is gone.
    let process_now = look(process);
    (process_now.state == Some('Z')).then(|| Snapshot {
        pid: process.pid(),
        backend: BackendFacts {
            backend_type: BackendType::Unknown,
            postmaster_pid: Some(parent.pid()),
            title: String::new(),
            ..of_postmaster.backend
        },
        process: process_now,
        variables: Variables::default(),
        signals: Signals::default(),
        ..of_postmaster
    })
}

/// Unwinds, loading each image that is met and was not loaded yet.
fn unwind_loading(capture: &Capture, backend: &Backend) -> RawStack {
    let mut loaded = Avma(0);
    loop {
        let raw = unwind(&capture.unwind_registers, &capture.memory, &backend.space);
        match (raw.end, raw.frames.last()) {
            (StackEnd::ImageNotLoaded, Some(last)) if last.lookup_address() != loaded => {
                loaded = last.lookup_address();
                backend.space.load_at(loaded, backend.memory);
            }
            _ => {
                for frame in &raw.frames {
                    backend
                        .space
                        .load_at(frame.lookup_address(), backend.memory);
                }
                return raw;
            }
        }
    }
}

/// Names a frame. With `lines`, functions that were inlined there come out as frames of their own, before it.
fn describe(raw: &RawFrame, space: &AddressSpace, lines: bool) -> Vec<Frame> {
    let at = raw.lookup_address();
    let module = space.loaded_at(at);
    let mut frame = Frame {
        ip: raw.ip,
        cfa: (raw.cfa.0 != 0).then_some(raw.cfa),
        module: space
            .mapping_at(at)
            .map(|m| m.path.to_string_lossy().into_owned())
            .filter(|p| !p.is_empty()),
        kind: module.as_ref().map_or(ModuleKind::Anonymous, |m| m.kind),
        offset: module.as_ref().map(|m| Avma(m.to_svma(raw.ip).0)),
        function: None,
        function_start: raw
            .function
            .and_then(|(start, _)| Some(Avma(module.as_ref()?.to_svma(start).0))),
        spinlock: None,
        callers: None,
        symbol_source: None,
        inlined: false,
        file: None,
        line: None,
        found_by: raw.found_by,
        signal_frame: raw.signal_frame,
        has_cleanup: raw.has_cleanup,
        extension: None,
        starts_subtransactions: None,
        variables: None,
    };
    let Some(module) = module else {
        return vec![frame];
    };
    let svma = module.to_svma(at);
    frame.spinlock = may_hold_spinlock(raw, &module, lines);
    if let Some((start, _)) = raw.function {
        let known = module.image.known_callers(module.to_svma(start));
        frame.callers = known.map(|c| (*c).clone());
    }
    if module.kind == ModuleKind::Library {
        frame.extension = Some(module.image.is_extension());
        frame.starts_subtransactions = Some(module.image.starts_subtransactions());
    }
    if lines && module.image.symbols().function_at(svma).is_none() {
        module.image.learn_stubs();
    }
    if let Some(symbol) = module.image.function_at(svma) {
        frame.function = Some(symbol.name.to_owned());
        frame.symbol_source = Some(symbol.source);
    }
    let mut found = match module.image.lines() {
        Some(table) if lines => table.functions_at(svma),
        _ => Vec::new(),
    };
    // The last is the function that the code belongs to; symbols name it as others know it.
    if let Some(own) = found.pop() {
        frame.file = own.file;
        frame.line = own.line;
        if frame.function.is_none() {
            frame.function = Some(own.function);
            frame.symbol_source = Some(SymbolSource::Dwarf);
        }
    }
    let mut frames: Vec<Frame> = found
        .into_iter()
        .map(|inlined| Frame {
            function: Some(inlined.function),
            symbol_source: Some(SymbolSource::Dwarf),
            inlined: true,
            file: inlined.file,
            line: inlined.line,
            ..frame.clone()
        })
        .collect();
    frames.push(frame);
    frames
}

/// Gives the frames of one address, those of inlined functions first, their variables.
fn add_variables(frames: &mut [Frame], mut levels: Vec<FrameVariables>) {
    // Some function may be without a name, and without a frame; the last one is the same in any case.
    if levels.len() != frames.len() {
        levels.drain(..levels.len().saturating_sub(1));
    }
    for (frame, level) in frames.iter_mut().rev().zip(levels.into_iter().rev()) {
        frame.variables = Some(level);
    }
}

/// A function of the C library without a name, by which the library was entered.
struct Entry {
    /// The number of its frame.
    index: usize,
    /// Where in its caller it returns to.
    returns_to: Avma,
    libc: Rc<Module>,
}

fn nameless_entries<'r>(
    raw: &'r RawStack,
    space: &'r AddressSpace,
) -> impl Iterator<Item = Entry> + 'r {
    let pairs = raw.frames.windows(2).enumerate();
    pairs.filter_map(move |(index, pair)| {
        let [entered, caller] = pair else { return None };
        let at = entered.lookup_address();
        let libc = space.loaded_at(at).filter(|m| m.kind == ModuleKind::Libc)?;
        let from = space.loaded_at(caller.lookup_address())?;
        let nameless = libc.image.function_at(libc.to_svma(at)).is_none();
        let called = from.kind != ModuleKind::Libc
            && caller.found_by == FoundBy::Cfi
            && !caller.exact
            && !entered.signal_frame;
        (nameless && called).then_some(Entry {
            index,
            returns_to: caller.ip,
            libc,
        })
    })
}

/// Looks up by which names the C library's functions without one were called.
fn learn_entries(raw: &RawStack, backend: &Backend) {
    for entry in nameless_entries(raw, &backend.space) {
        let space = &backend.space;
        space.learn_called_as(entry.returns_to, &entry.libc, backend.memory);
    }
}

/// What runs is the function that was called, or one that it jumped to in its own place.
fn name_entry(frame: Option<&mut Frame>, name: Option<&str>) {
    if let (Some(frame), Some(name)) = (frame, name)
        && frame.function.is_none()
    {
        frame.function = Some(name.to_owned());
        frame.symbol_source = Some(SymbolSource::Decoded);
    }
}

/// Looks for those who can call the server's functions without a name that are at work, innermost.
fn learn_callers(raw: &RawStack, space: &AddressSpace) {
    let mut nameless = Vec::new();
    for frame in &raw.frames {
        let Some(module) = space.loaded_at(frame.lookup_address()) else {
            return;
        };
        let named = module
            .image
            .function_at(module.to_svma(frame.lookup_address()));
        match (module.kind, named, frame.function) {
            (ModuleKind::Server, None, Some((start, _))) => nameless.push((module, start)),
            (ModuleKind::Libc | ModuleKind::Vdso | ModuleKind::DynamicLinker, ..) => {}
            _ => break,
        }
    }
    let starts: Vec<Svma> = nameless
        .iter()
        .map(|(m, start)| m.to_svma(*start))
        .collect();
    if let Some((server, _)) = nameless.first() {
        server.image.learn_callers(&starts);
    }
}

/// Whether more can be known of this function once its code was read.
fn is_unread(raw: &RawFrame, space: &AddressSpace) -> bool {
    let module = space.loaded_at(raw.lookup_address());
    module
        .zip(raw.function)
        .is_some_and(|(module, (start, _))| {
            let image = &module.image;
            match module.kind {
                ModuleKind::Server => !image.tried_spinlocks(module.to_svma(start)),
                ModuleKind::Library => {
                    !image.tried_spinlocks(module.to_svma(start))
                        || image.hands_out_spinlocks().is_none()
                }
                _ => false,
            }
        })
}

/// Whether more can be known of the innermost functions of the server without names, once their callers were looked for.
fn callers_are_unread(frames: &[Frame]) -> bool {
    let ours = |f: &Frame| matches!(f.kind, ModuleKind::Server | ModuleKind::Library);
    let nameless = |f: &Frame| f.kind == ModuleKind::Server && f.function.is_none();
    frames
        .iter()
        .filter(|f| !f.inlined)
        .take_while(|f| nameless(f) || !ours(f))
        .any(|f| nameless(f) && f.callers.is_none())
}

/// Whether the function of this frame may hold a spinlock where it stands.
fn may_hold_spinlock(raw: &RawFrame, module: &Module, learn: bool) -> Option<bool> {
    if !matches!(module.kind, ModuleKind::Server | ModuleKind::Library) {
        return None;
    }
    let (start, size) = raw.function?;
    let start = module.to_svma(start);
    let library = module.kind == ModuleKind::Library;
    if learn {
        module.image.learn_spinlocks(start, size);
        if library {
            module.image.learn_handed_spinlocks();
        }
    }
    let at = module.to_svma(raw.lookup_address());
    let spinlocks = module.image.known_spinlocks(start)?;
    if !library {
        return Some(spinlocks.may_be_held_at(at, Release::AnyOperand));
    }
    match spinlocks.may_be_held_at(at, Release::SameOperand) {
        true => Some(true),
        // Its own code shows none, but another function may have taken one for it.
        false => (!module.image.may_be_handed_spinlock(start)?).then_some(false),
    }
}

fn blocker(b: locks::Blocker) -> Blocker {
    Blocker {
        server_pid: b.server_pid,
        pid: b.pid,
        holds: b.holds.into_iter().map(str::to_owned).collect(),
        wants: b.wants.map(str::to_owned),
    }
}

/// What `/proc` tells of a process at this moment.
pub fn look(process: &Process) -> ProcessFacts {
    let status = process.status().ok();
    let state = process.state();
    let tracer = status.as_ref().map(|s| s.tracerpid);
    ProcessFacts {
        state,
        tracer_name: tracer.filter(|p| *p != 0).and_then(permission::name_of),
        tracer,
        threads: status.as_ref().map(|s| process.own_threads(s.threads)),
        wait_channel: process.wait_channel(),
        syscall: None,
        cpu_percent: None,
        would_not_stop: false,
        kernel_stack: matches!(state, Some('S' | 'D'))
            .then(|| process.kernel_stack())
            .flatten(),
        thread_names: process.thread_names(),
        memory_detour: None,
        children: None,
        libraries: Vec::new(),
        in_our_network: process.shares_our_network(),
    }
}

/// Whether its server was told to stop.
fn is_being_stopped(backend: &Backend) -> Option<bool> {
    let at = backend.globals.get("PostmasterPid")?;
    let postmaster = backend.memory.read_u32(at).ok()? as i32;
    let status = DataFiles::of(backend.living()?, postmaster)?.status()?;
    Some(status == PostmasterStatus::Stopping)
}

/// The same, of a process that no other pgpoke is looking at just now: who only looks lets go in some milliseconds. What is
/// still ours is not waited for, as one that would not stop is.
fn look_past_others(process: &Process) -> ProcessFacts {
    for pause in BEFORE_NEXT_TRY {
        let facts = look(process);
        let ours = |pid| pid == std::process::id() as i32;
        if facts.traced_by().is_none_or(ours) {
            return facts;
        }
        std::thread::sleep(pause);
    }
    look(process)
}

/// The same of a backend, with what takes reading its memory.
fn facts(backend: &Backend) -> ProcessFacts {
    let libraries = libraries(&backend.space);
    let Some(process) = backend.living() else {
        return ProcessFacts {
            libraries,
            ..ProcessFacts::default()
        };
    };
    ProcessFacts {
        syscall: BlockedCall::of(process, backend.memory),
        libraries,
        memory_detour: backend.memory.detour().map(str::to_owned),
        children: Some(process.descendants().iter().map(Child::of).collect()),
        ..look_past_others(process)
    }
}

/// The names of the files that code is mapped from, each once.
fn libraries(space: &AddressSpace) -> Vec<String> {
    /// A server has some 30.
    const MOST: usize = 512;
    let mut names = Vec::new();
    let mapped = space.mappings().iter();
    for mapping in mapped.filter(|m| m.executable && m.has_file()).take(MOST) {
        let name = mapping.path.file_name().map(|n| n.to_string_lossy());
        names.extend(name.map(String::from));
    }
    names.dedup();
    names
}

/// The value of a line of `/proc/PID/status`.
fn field<'t>(status: &'t str, name: &str) -> Option<&'t str> {
    status
        .lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(':').map(str::trim))
}

/// What the backend answered about its signal handlers.
#[derive(Debug, Default)]
pub struct Answers {
    /// Their addresses, in the order of [`HANDLED_SIGNALS`].
    handlers: Vec<Avma>,
    /// The stack that the carrier's handler runs on.
    carrier_stack: CarrierStack,
}

/// Functions of the C library in the backend, found before a stop.
#[derive(Debug, Clone, Copy)]
struct Libc {
    /// `long syscall(long number, …)`
    syscall: Option<Avma>,
    /// Where `errno` is, from the thread pointer.
    errno: Option<i64>,
}

impl Libc {
    fn find(backend: &Backend) -> Option<Self> {
        let memory = backend.memory;
        let module = backend.space.libc(memory)?;
        let errno = || {
            let function = module.address_of("__errno_location")?;
            let mut code = [0; 24];
            memory.read(function, &mut code).ok()?;
            match module.image.machine().errno_location(&code, function)? {
                ErrnoAt::Offset(offset) => Some(offset),
                ErrnoAt::OffsetKeptAt(slot) => Some(memory.read_u64(slot).ok()? as i64),
            }
        };
        Some(Libc {
            syscall: module.address_of("syscall"),
            errno: errno(),
        })
    }
}

impl Plan<'_, '_> {
    /// Where `errno` of the stopped thread is; none where libc's code for it has a shape that is not known.
    pub fn errno(&self, registers: &Registers) -> Option<Avma> {
        Some(registers.thread_pointer().offset(self.libc?.errno?))
    }

    /// Asks the backend itself for its signal handlers, by calls of libc's `syscall(SYS_rt_sigaction, …)` in
    /// borrowed frames. The call takes no lock, changes nothing, and writes its answer into the frame; for the
    /// rest of the backend it is as if a SIGUSR1 came.
    ///
    /// None where it may not be asked: the carrier is not caught, or blocked, or the stack has no room, or the
    /// backend is stopped by a signal, or is no backend that is ever interrupted.
    pub fn ask_for_handlers(
        &self,
        capture: &Capture,
        stopped: &mut Stopped,
    ) -> Option<Result<Answers, Declined>> {
        /// What the main stack must have left: the kernel's frame takes some 3 to 12 KiB of it.
        const LEAST_STACK: u64 = 32 << 10;
        let function = self.libc?.syscall?;
        let caught = capture.signal_set("SigCgt");
        let room = self.room(capture.registers.sp());
        let may = self.backend.backend_type.may_be_interrupted()
            && Signals::has(caught, CARRIER) == Some(true)
            && Signals::has(Some(capture.blocked), CARRIER) == Some(false)
            && !capture.group_stop
            && room.is_none_or(|r| r >= LEAST_STACK);
        may.then(|| {
            let mut answers = Answers::default();
            for signal in HANDLED_SIGNALS {
                let (handler, stack) = self.ask_for_handler(signal, function, stopped)?;
                answers.handlers.push(handler);
                answers.carrier_stack = stack;
            }
            Ok(answers)
        })
    }

    fn ask_for_handler(
        &self,
        signal: i32,
        function: Avma,
        stopped: &mut Stopped,
    ) -> Result<(Avma, CarrierStack), Declined> {
        /// What an alternate signal stack must have left: `syscall` uses next to nothing.
        const LEAST_ROOM: u64 = 512;
        let memory = self.backend.memory;
        let frame = stopped.borrow_frame(None, memory, LEAST_ROOM)?;
        let answer = frame.scratch();
        let stack = match frame.alternate_room() {
            Some(room) => CarrierStack::Alternate { room },
            None => CarrierStack::Normal,
        };
        // The kernel's own struct sigaction, 32 bytes (arch/x86/include/uapi/asm/signal.h), which the 128 bytes
        // of the frame's siginfo hold; libc's is larger. The last argument is the size of a signal set.
        let args = [libc::SYS_rt_sigaction as u64, signal as u64, 0, answer.0, 8];
        match frame.call(function, args)?.watch(TURN)? {
            CallEnd::Returned => Ok((Avma(memory.read_u64(answer)?), stack)),
            CallEnd::Exiting(_) => Err(TraceError::from(Gone(self.backend.target.pid())).into()),
            CallEnd::Jumped | CallEnd::StillRunning => Err(Declined::NotDelivered),
        }
    }

    /// Adds what the backend answered, or what can be told where it was not asked, or did not answer. Never while it
    /// stands still.
    pub fn add_answers(
        &self,
        snapshot: &mut Snapshot,
        answers: Option<&Result<Answers, Declined>>,
    ) {
        /// What sets up an alternate stack: an extension may also make the system call by its number. (The C library has
        /// a wrapper and does not use it by itself.)
        const SETS_UP: &[&str] = &["sigaltstack"];
        const OF_EXTENSIONS: &[&str] = &["syscall"];
        let signals = &mut snapshot.signals;
        signals.carrier_stack = match answers {
            Some(Ok(answers)) => {
                signals.handlers = Some(self.name_handlers(answers));
                answers.carrier_stack.clone()
            }
            Some(Err(Declined::SmallStack(room))) => CarrierStack::Alternate { room: *room },
            Some(Err(_)) | None => {
                let backend = self.backend;
                let space = &backend.space;
                CarrierStack::NotAsked {
                    set_up_by: space.who_may_call(backend.memory, SETS_UP, OF_EXTENSIONS),
                }
            }
        };
    }

    /// Says what the handlers are.
    fn name_handlers(&self, answers: &Answers) -> Vec<Handler> {
        HANDLED_SIGNALS
            .iter()
            .zip(&answers.handlers)
            .map(|(signal, address)| name_handler(*signal, *address, self.backend))
            .collect()
    }
}

fn name_handler(signal: i32, address: Avma, backend: &Backend) -> Handler {
    let Disposition { handler, expected } = disposition(backend, signal, address);
    let function = match handler.0 {
        0 => Some("the default action".to_owned()),
        1 => Some("ignored".to_owned()),
        _ => {
            let module = backend.space.load_at(handler, backend.memory);
            module.and_then(|m| {
                let symbol = m.image.symbols().function_at(m.to_svma(handler))?;
                Some(symbol.name.to_owned())
            })
        }
    };
    Handler {
        signal,
        address: handler,
        module: backend
            .space
            .mapping_at(handler)
            .map(|m| m.path.to_string_lossy().into_owned()),
        function,
        expected,
    }
}
