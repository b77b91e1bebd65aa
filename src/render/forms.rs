//! What pgpoke says in JSON, as types: each object, each field, and what it means. [`super::schema`] makes
//! `docs/pgpoke.schema.json` of them, and [`super::json`] and [`super::list`] fill them in.
//!
//! Fields are added, never renamed or removed; what is unknown is null, never a guess.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::address::Avma;
use crate::assess::samples::Motion;
use crate::assess::{Cause, Check, Interrupt, Verdict, VerdictIf, cause};
use crate::evidence::core::CoreReport;
use crate::evidence::{Gathered, Missing};
use crate::image::{ReplacedFile, SymbolSource};
use crate::intervene::{Outcome, Rung};
use crate::postgres::{Activity, BackendType};
use crate::process::permission::Rule;
use crate::process::syscalls::Awaited;
use crate::snapshot::Child;
use crate::unwind::FoundBy;

/// The version of the schema. Within one, no field changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaVersion;

impl SchemaVersion {
    /// As a number.
    pub const NUMBER: u32 = 1;
}

impl Serialize for SchemaVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(Self::NUMBER)
    }
}

impl JsonSchema for SchemaVersion {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "schema_version".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "const": Self::NUMBER })
    }
}

/// An exit code of pgpoke's: docs/exit-codes.md.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(rename = "exit_code")]
pub struct ExitCode(#[schemars(range(max = 9))] pub u8);

/// A backend, judged.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "inspection", title = "pgpoke inspect", deny_unknown_fields)]
pub struct Inspection {
    /// What was seen, and what is made of it.
    #[serde(flatten)]
    pub judged: Judged,
}

/// What was seen of a backend, and what is made of it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "judged")]
pub struct Judged {
    /// Which form of this JSON it is.
    pub schema_version: SchemaVersion,
    /// The backend's PID in pgpoke's PID namespace.
    #[schemars(range(min = 1))]
    pub pid: i32,
    /// For what is pending now, or what was asked of interrupt; where interrupt searched for a safe instruction, at its
    /// last look.
    pub verdict: Verdict,
    /// The verdict had that been asked for.
    pub verdict_if: VerdictIf,
    /// What ProcessInterrupts() would act on first.
    pub interrupt: Interrupt,
    /// Why it is stuck, if it is.
    pub cause: Cause,
    /// All checks, each once.
    #[schemars(length(min = 1))]
    pub checks: Vec<Check>,
    /// What to do next, the most useful first.
    pub advice: Vec<String>,
    /// Who it is.
    pub backend: Backend,
    /// PostgreSQL's own variables.
    pub interrupts: Interrupts,
    /// The locks that it holds and waits for.
    pub locks: Locks,
    /// Its signals.
    pub signals: Signals,
    /// What the kernel says of the process.
    pub process: Process,
    /// What it says that it waits for, as pg_stat_activity.wait_event_type; null for nothing, or where it is not known.
    pub wait_event_type: Option<String>,
    /// The same, as pg_stat_activity.wait_event; null also for a number whose name is not known.
    pub wait_event: Option<String>,
    /// The processes that it has started, and those that these have; null where nobody looked.
    pub children: Option<Vec<Child>>,
    /// What several looks say together; null where there was one look, or not more than one found a stack that is known to
    /// its root. --samples asks for several; a few more are taken where one cannot tell.
    pub samples: Option<Motion>,
    /// How long the backend stood still for all of this, in milliseconds.
    #[schemars(range(min = 0))]
    pub stopped_ms: f64,
    /// Innermost first; empty if the backend was not stopped.
    pub stack: Vec<Frame>,
    /// Every frame up to the root is known for sure.
    pub stack_complete: bool,
    /// The files with code that were replaced or deleted since the server loaded them: what runs is the old code.
    pub replaced_files: Vec<ReplacedFile>,
    /// What the operator should know of how this came about: debug files that were refused, and the like. Also on stderr.
    pub warnings: Vec<String>,
}

/// Of an interrupt: what inspect tells, of the look before anything was done, and what was done then.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(
    rename = "intervention",
    title = "pgpoke interrupt",
    deny_unknown_fields
)]
pub struct Intervention {
    /// What was seen, and what is made of it.
    #[serde(flatten)]
    pub judged: Judged,
    /// How it ended.
    pub outcome: Outcome,
    /// The outcome in a sentence.
    pub outcome_detail: String,
    /// With which status the backend exited, if it did.
    #[schemars(range(min = 0, max = 255))]
    pub exit_status: Option<i32>,
    /// How often the backend was stopped and judged in search of a safe instruction.
    pub attempts: u32,
    /// true: the postmaster went through crash recovery, or ended without a shutdown checkpoint. false also where it was
    /// stopped in good order. null: not looked at, or it could not be told.
    pub server_restarted: Option<bool>,
    /// true: the server has ended, in good order (as it was asked to before) if `server_restarted` is false. null: not
    /// looked at, or it could not be told.
    pub server_stopped: Option<bool>,
    /// From the stop to the outcome, in milliseconds; null if nothing was called.
    #[schemars(range(min = 0))]
    pub call_ms: Option<f64>,
    /// An ERROR was raised, and something caught it: the statement goes on.
    pub swallowed: bool,
    /// Processes that a backend which has ended had started, and that run on.
    #[schemars(inner(range(min = 1)))]
    pub left_behind: Vec<i32>,
    /// What the interrupt means, and for whom: the client, a leader, a standby, …
    #[schemars(inner(length(min = 1)))]
    pub consequences: Vec<String>,
    /// The rungs that were taken, in order.
    pub steps: Vec<Step>,
    /// With --escalate: the cancel that had no effect, where a terminate came next; all else is of that.
    pub escalated_from: Option<Before>,
    /// Among the results for several PIDs only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ExitCode")]
    pub exit_code: Option<ExitCode>,
}

/// A rung that was taken.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "step", deny_unknown_fields)]
pub struct Step {
    /// Which.
    pub step: Rung,
    /// What was done, and what came of it.
    #[schemars(length(min = 1))]
    pub detail: String,
    /// How long that took, in milliseconds.
    #[schemars(range(min = 0))]
    pub took_ms: f64,
}

/// A cancel that a terminate followed.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "before", deny_unknown_fields)]
pub struct Before {
    /// How it ended.
    pub outcome: Outcome,
    /// The same in a sentence.
    pub outcome_detail: String,
    /// An ERROR was raised, and something caught it.
    pub swallowed: bool,
    /// How often the backend was stopped and judged in search of a safe instruction.
    pub attempts: u32,
    /// What pgpoke would have ended with.
    pub exit_code: ExitCode,
}

/// What came of several processes, one after the other.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(
    rename = "interventions",
    title = "pgpoke interrupt with several PIDs",
    deny_unknown_fields
)]
pub struct Interventions {
    /// Which form of this JSON it is.
    pub schema_version: SchemaVersion,
    /// pgpoke's own.
    pub exit_code: ExitCode,
    /// Of each process that was tried, in the order given, with its exit_code.
    #[schemars(schema_with = "results")]
    pub results: Vec<Value>,
    /// Those that were left alone, as a backend before them had crashed, or pgpoke had to end.
    #[schemars(inner(range(min = 1)))]
    pub not_tried: Vec<i32>,
}

fn results(generator: &mut SchemaGenerator) -> Schema {
    let kinds = [
        generator.subschema_for::<Intervention>(),
        generator.subschema_for::<Failure>(),
    ];
    let exit_code = generator.subschema_for::<ExitCode>();
    json_schema!({
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "properties": { "exit_code": exit_code },
            "required": ["exit_code"],
            "oneOf": kinds,
        },
    })
}

/// Nothing could be judged: no such process, no backend, no permission, confirmation missing, …
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(
    rename = "failure",
    title = "pgpoke inspect, interrupt or report without a judgement",
    deny_unknown_fields
)]
pub struct Failure {
    /// Which form of this JSON it is.
    pub schema_version: SchemaVersion,
    /// The PID that was given.
    #[schemars(range(min = 1))]
    pub pid: i32,
    /// There is none.
    pub verdict: (),
    /// What is wrong.
    pub error: Error,
    /// What can be told all the same.
    #[serde(flatten)]
    pub told: Option<Told>,
    /// Of interrupt only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Outcome")]
    pub outcome: Option<Outcome>,
    /// Of interrupt only: the rungs that were taken, in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<Step>")]
    pub steps: Option<Vec<Step>>,
    /// Among the results for several PIDs only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ExitCode")]
    pub exit_code: Option<ExitCode>,
}

/// What is wrong, as on stderr.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "error", deny_unknown_fields)]
pub struct Error {
    /// In a sentence.
    #[schemars(length(min = 1))]
    pub message: String,
    /// The rule or the evidence.
    pub detail: Option<String>,
    /// What to do next.
    pub hint: Option<String>,
    /// What keeps us out, where it is a lack of permission.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Rule")]
    pub rule: Option<Rule>,
}

/// What everybody may know of a process.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "told")]
pub struct Told {
    /// Without permission, together with backend, interrupts, signals and process: what can be told all the same, which
    /// is no cause.
    pub cause: (),
    /// Without permission: who it is by its title in ps, which nothing proves.
    pub backend: Backend,
    /// Without permission: PostgreSQL's own variables, all unknown.
    pub interrupts: Interrupts,
    /// Without permission: its signals.
    pub signals: Signals,
    /// Without permission: what the kernel says of the process.
    pub process: Process,
}

/// Who a backend is.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "backend", deny_unknown_fields)]
pub struct Backend {
    /// What it is for.
    #[serde(rename = "type")]
    pub backend_type: BackendType,
    /// The server's version, as it prints it.
    pub server_version: Option<String>,
    /// The server's data directory, as the server sees it.
    pub data_directory: Option<String>,
    /// The database's name.
    pub database: Option<String>,
    /// The user's name.
    pub user: Option<String>,
    /// Address and port of the client; for a local one the word local in brackets, as in ps.
    pub client: Option<String>,
    /// What the client calls itself.
    pub application_name: Option<String>,
    /// What it says that it does.
    pub state: Option<Activity>,
    /// The text of its statement.
    pub query: Option<String>,
    /// The first 12 digits of its container's identifier.
    pub container: Option<String>,
    /// Its PID in its own PID namespace, if that is another.
    #[schemars(range(min = 1))]
    pub pid_in_container: Option<i32>,
    /// null: the postmaster is gone.
    #[schemars(range(min = 1))]
    pub postmaster_pid: Option<i32>,
    /// How the postmaster was started; told where little else can be.
    pub postmaster_command: Option<String>,
    /// What it says of itself in ps.
    pub title: Option<String>,
}

/// PostgreSQL's own variables.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "interrupts", deny_unknown_fields)]
pub struct Interrupts {
    /// InterruptPending
    pub interrupt_pending: Option<bool>,
    /// QueryCancelPending
    pub query_cancel_pending: Option<bool>,
    /// ProcDiePending
    pub proc_die_pending: Option<bool>,
    /// ProcSignalBarrierPending
    pub proc_signal_barrier_pending: Option<bool>,
    /// InterruptHoldoffCount
    pub interrupt_holdoff_count: Option<u32>,
    /// QueryCancelHoldoffCount
    pub query_cancel_holdoff_count: Option<u32>,
    /// CritSectionCount
    pub crit_section_count: Option<u32>,
}

/// The locks that a backend holds and waits for.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "locks", deny_unknown_fields)]
pub struct Locks {
    /// How many LWLocks it holds.
    pub lwlocks_held: Option<usize>,
    /// The LWLock that it waits for.
    pub waiting_for: Option<AwaitedLock>,
    /// Who keeps it from a heavyweight lock, as pg_blocking_pids() has it (0: a prepared transaction), in pgpoke's PID
    /// namespace. null: it waits for none, or it could not be told.
    #[schemars(inner(range(min = 0)))]
    pub blocked_by: Option<Vec<i32>>,
    /// Whether it has to do with a spinlock; null where that could not be told.
    pub spinlock: Option<Spinlock>,
}

/// An LWLock that is waited for.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "awaited_lock", deny_unknown_fields)]
pub struct AwaitedLock {
    /// Its tranche.
    pub tranche: Option<String>,
    /// How it is wanted.
    #[schemars(schema_with = "lock_mode")]
    pub mode: Option<&'static str>,
    /// All that hold that very lock; empty if nobody does. null: could not be told.
    #[schemars(inner(range(min = 1)))]
    pub holders: Option<Vec<i32>>,
}

fn lock_mode(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": ["exclusive", "shared", "until-free", null] })
}

/// What a backend has to do with spinlocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "spinlock")]
pub enum Spinlock {
    /// Nothing.
    None,
    /// It waits for one.
    Waiting,
    /// It may hold one.
    MaybeHeld,
}

/// The signals of a backend.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "signals", deny_unknown_fields)]
pub struct Signals {
    /// What a cancel is sent by.
    #[serde(rename = "SIGINT")]
    pub sigint: Disposition,
    /// What a terminate is sent by.
    #[serde(rename = "SIGTERM")]
    pub sigterm: Disposition,
    /// What a borrowed frame rides on.
    #[serde(rename = "SIGUSR1")]
    pub sigusr1: Disposition,
    /// Which are blocked, pending, caught and ignored.
    #[serde(flatten)]
    pub sets: SignalSets,
}

/// The signals that are blocked, pending, caught and ignored.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "signal_sets", deny_unknown_fields)]
pub struct SignalSets {
    /// Those that are blocked.
    #[schemars(inner(regex(pattern = "^SIG[A-Z0-9]+$")))]
    pub blocked: Option<Vec<String>>,
    /// Those that were sent, and not delivered yet.
    #[schemars(inner(regex(pattern = "^SIG[A-Z0-9]+$")))]
    pub pending: Option<Vec<String>>,
    /// Those that have a handler.
    #[schemars(inner(regex(pattern = "^SIG[A-Z0-9]+$")))]
    pub caught: Option<Vec<String>>,
    /// Those that are ignored.
    #[schemars(inner(regex(pattern = "^SIG[A-Z0-9]+$")))]
    pub ignored: Option<Vec<String>>,
}

/// What becomes of a signal. All null if the backend was not asked: with --passive, or where it could not be.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "disposition", deny_unknown_fields)]
pub struct Disposition {
    /// The function that does the work, behind any wrapper; 0x0 is the default action, 0x1 is to ignore the signal.
    pub handler: Option<Avma>,
    /// The module that the handler lies in.
    pub module: Option<String>,
    /// The handler's name, or what its address means.
    pub function: Option<String>,
    /// Whether the handler is the one that PostgreSQL installs; null where that cannot be told.
    pub expected: Option<bool>,
}

/// What the kernel says of a process.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "process", deny_unknown_fields)]
pub struct Process {
    /// One letter, as in ps, from before the stop.
    #[schemars(regex(pattern = "^[A-Za-z]$"))]
    pub state: Option<char>,
    /// The kernel function that it sleeps in.
    pub wait_channel: Option<String>,
    /// The system call that it is in.
    pub syscall: Option<String>,
    /// How many threads it has.
    #[schemars(range(min = 1))]
    pub threads: Option<u64>,
    /// Of one processor, from the first to the last look; null unless --samples asked for several.
    #[schemars(range(min = 0, max = 100))]
    pub cpu_percent: Option<f64>,
    /// Who else traces it.
    #[schemars(range(min = 1))]
    pub tracer: Option<i32>,
    /// The name of that.
    pub tracer_name: Option<String>,
    /// The descriptor that the system call works on.
    pub descriptor: Option<u64>,
    /// What the system call waits for, as far as that can be told; several for a poll and its kin. null if it is in none.
    pub waits_for: Option<Vec<Awaited>>,
    /// After how long, in milliseconds, the system call was told to come back by itself; null if never, or if that could
    /// not be told.
    pub time_limit_ms: Option<u64>,
    /// The kernel functions it sleeps in, innermost first; null if it does not sleep, or the kernel does not tell.
    pub kernel_stack: Option<Vec<String>>,
    /// The names of its threads but the main one; of very many, the first.
    pub thread_names: Option<Vec<String>>,
    /// Why its memory was read through /proc/PID/mem, if it was: what process_vm_readv(2) said.
    pub memory_detour: Option<String>,
}

/// One function on a stack.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "frame", deny_unknown_fields)]
pub struct Frame {
    /// Its number, from 0 on.
    pub index: usize,
    /// The program counter, or for callers the return address.
    pub ip: Avma,
    /// The path of the image.
    pub module: Option<String>,
    /// The address as the module's file has it: what addr2line takes.
    pub offset: Option<Avma>,
    /// The function's name.
    pub function: Option<String>,
    /// Compiled into its caller: has no frame of its own.
    pub inlined: bool,
    /// The source file.
    pub file: Option<String>,
    /// The line in it.
    pub line: Option<u32>,
    /// Where the name comes from.
    pub symbol_source: Option<SymbolSource>,
    /// How the frame was found.
    pub found_by: FoundBy,
    /// The kernel's frame for a signal handler.
    pub signal_frame: bool,
    /// Of a library: whether it is one that PostgreSQL loads as an extension, and not one that knows nothing of it.
    pub extension: Option<bool>,
    /// With --locals, of functions with debug information: what it was called with, in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<Variable>")]
    pub arguments: Option<Vec<Variable>>,
    /// With --locals, of functions with debug information: its variables but the arguments, those of the innermost block
    /// first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<Variable>")]
    pub locals: Option<Vec<Variable>>,
}

/// An argument or a local variable.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "variable", deny_unknown_fields)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its type, as C writes it.
    #[serde(rename = "type")]
    pub type_name: String,
    /// As gdb prints it; null where it is not known.
    pub value: Option<String>,
    /// Why it is not known: "optimized out", or another reason.
    pub missing: Option<String>,
    /// Of an argument: what it was when the function was called; null where the caller does not tell.
    pub at_entry: Option<String>,
    /// How many blocks within its function it is declared.
    pub block: usize,
    /// Some of it was not on the stack (a static variable, what a pointer leads to), and was read when the backend ran
    /// again.
    pub read_later: bool,
}

/// A directory was written.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "report", title = "pgpoke report", deny_unknown_fields)]
pub struct Report {
    /// Which form of this JSON it is.
    pub schema_version: SchemaVersion,
    /// The backend's PID in pgpoke's PID namespace.
    #[schemars(range(min = 1))]
    pub pid: i32,
    /// At the first look, for what was pending then.
    pub verdict: Verdict,
    /// Why it is stuck, if it is.
    pub cause: CauseInShort,
    /// Where all of it is.
    #[schemars(length(min = 1))]
    pub directory: String,
    /// All that is in the directory in one file, but a core file; null where it could not be written, or the report is not
    /// complete.
    pub archive: Option<String>,
    /// What is in the directory, beside README.txt.
    pub files: Vec<Gathered>,
    /// What could not be had.
    pub missing: Vec<Missing>,
    /// How often the backend was stopped and looked at.
    #[schemars(range(min = 1))]
    pub looks: usize,
    /// How long the backend stood still in all, in milliseconds.
    #[schemars(range(min = 0))]
    pub stopped_ms: f64,
    /// Whether query text, literals, host names and addresses were left out.
    pub redacted: bool,
    /// False where a signal ended pgpoke before all was gathered.
    pub complete: bool,
    /// The core file, as in core.json. null: none was asked for, or it could not be had, and missing says why.
    pub core: Option<CoreReport>,
}

/// Why a backend is stuck; its evidence is in the report.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "cause_in_short", deny_unknown_fields)]
pub struct CauseInShort {
    /// Its stable name.
    #[schemars(with = "cause::Code")]
    pub code: &'static str,
    /// One sentence.
    pub summary: String,
}

/// All servers of the machine; with --watch one such object a line.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "list", title = "pgpoke list", deny_unknown_fields)]
pub struct List {
    /// Which form of this JSON it is.
    pub schema_version: SchemaVersion,
    /// When, in microseconds since 1970-01-01 UTC.
    pub at_unix_us: i64,
    /// All that were found, those without a process to show, too.
    pub servers: Vec<Server>,
    /// What is in its state for the longest time comes first; what has no state, last.
    pub backends: Vec<Listed>,
    /// Processes that call themselves PostgreSQL's, and that pgpoke may not look into.
    #[schemars(inner(range(min = 1)))]
    pub unreadable: Vec<i32>,
    /// Also on stderr.
    pub warnings: Vec<String>,
}

/// A server.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "server", deny_unknown_fields)]
pub struct Server {
    /// null: the postmaster is gone, or there is none (single-user mode).
    #[schemars(range(min = 1))]
    pub postmaster_pid: Option<i32>,
    /// As the server knows it, if that is another number; also of one that is gone.
    #[schemars(range(min = 1))]
    pub postmaster_pid_in_container: Option<i32>,
    /// As the server prints it.
    pub server_version: Option<String>,
    /// false: what its processes do is not known.
    pub version_known: bool,
    /// As the server sees it.
    pub data_directory: Option<String>,
    /// The TCP port, which also names its socket.
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// The setting of that name; null where it is empty.
    pub cluster_name: Option<String>,
    /// The first 12 digits of its container's identifier.
    pub container: Option<String>,
    /// How many were read, shown or not; the postmaster is not counted.
    pub processes: usize,
}

/// One process, read while it ran. Moments are in microseconds since 1970-01-01 UTC.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "listed", deny_unknown_fields)]
pub struct Listed {
    /// Its PID in pgpoke's PID namespace.
    #[schemars(range(min = 1))]
    pub pid: i32,
    /// Its server's number in servers.
    pub server: usize,
    /// Who it is.
    pub backend: Backend,
    /// As pg_stat_activity words it; background workers have words of their own.
    pub backend_type: String,
    /// The database's OID.
    pub database_oid: Option<u32>,
    /// The user's OID.
    pub user_oid: Option<u32>,
    /// The client's address; null for a local client.
    pub client_addr: Option<String>,
    /// The client's port; null for a local client.
    pub client_port: Option<u16>,
    /// When the session began.
    pub backend_start_unix_us: Option<i64>,
    /// When its transaction began.
    pub xact_start_unix_us: Option<i64>,
    /// When its statement began, or its last one had begun.
    pub query_start_unix_us: Option<i64>,
    /// When its state changed.
    pub state_change_unix_us: Option<i64>,
    /// When all of this was read.
    pub read_at_unix_us: i64,
    /// How long, in milliseconds: since the statement began where one runs, else since the state changed.
    #[schemars(range(min = 0))]
    pub state_ms: Option<f64>,
    /// How long its transaction lasts, in milliseconds.
    #[schemars(range(min = 0))]
    pub xact_ms: Option<f64>,
    /// How long the session lasts, in milliseconds.
    #[schemars(range(min = 0))]
    pub session_ms: Option<f64>,
    /// What became of reading its entry of pg_stat_activity.
    pub status: Entry,
    /// What class of thing it waits for.
    pub wait_event_type: Option<String>,
    /// null where its name is not known; see wait_event_info.
    pub wait_event: Option<String>,
    /// The class in the highest byte, and the number; 0: it waits for nothing. null: not known.
    pub wait_event_info: Option<u32>,
    /// PostgreSQL's own variables.
    pub interrupts: Interrupts,
    /// What waits to be acted on.
    pub pending: Vec<Pending>,
    /// Something was pending at two glances, or it has no handler for what cancels and terminates it.
    pub stuck: bool,
    /// The likely one; null if it is not stuck. pgpoke inspect proves it.
    pub cause: Option<Cause>,
    /// What the kernel says of the process.
    pub process: ListedProcess,
    /// Its signals.
    pub signals: SignalSets,
}

/// What became of reading an entry of pg_stat_activity.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "entry")]
pub enum Entry {
    /// It was read.
    Read,
    /// It was being written each time that it was read.
    Torn,
    /// It has none, or its version is not known.
    None,
}

/// Something that waits to be acted on.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "pending", deny_unknown_fields)]
pub struct Pending {
    /// What is pending.
    pub interrupt: Interrupt,
    /// true: its flag is set. false: its signal was sent, and not taken yet.
    pub arrived: bool,
    /// Between two glances, in milliseconds. null: seen only once, so that it may be acted on in this moment.
    #[schemars(range(min = 0))]
    pub ignored_ms_at_least: Option<f64>,
    /// In milliseconds: a cancel is not older than its statement, nothing is older than the session.
    #[schemars(range(min = 0))]
    pub ignored_ms_at_most: Option<f64>,
}

/// What the kernel says of a process that is only glanced at.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "listed_process", deny_unknown_fields)]
pub struct ListedProcess {
    /// One letter, as in ps.
    #[schemars(regex(pattern = "^[A-Za-z]$"))]
    pub state: Option<char>,
    /// The kernel function that it sleeps in; looked up only where something is pending.
    pub wait_channel: Option<String>,
    /// The system call that it is in; looked up only where something is pending.
    pub syscall: Option<String>,
    /// The descriptor that the system call works on; looked up only where something is pending.
    pub descriptor: Option<u64>,
    /// How many threads it has.
    #[schemars(range(min = 1))]
    pub threads: Option<u64>,
    /// Of one processor, between two glances; null where there was one.
    #[schemars(range(min = 0, max = 100))]
    pub cpu_percent: Option<f64>,
    /// Processor time that it has used in its life, in milliseconds.
    #[schemars(range(min = 0))]
    pub cpu_ms: Option<f64>,
    /// Who traces it.
    #[schemars(range(min = 1))]
    pub tracer: Option<i32>,
    /// The name of that.
    pub tracer_name: Option<String>,
}
