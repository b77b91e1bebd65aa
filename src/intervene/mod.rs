//! Stepping in: find an instruction where it is safe, judge there, call `ProcessInterrupts()` in a borrowed signal
//! frame, watch what happens, and confirm it from outside.

mod climb;
pub mod ladder;
mod server;

use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Serialize;

pub use climb::{Act, ClimbError, Done, Gathered, News, Operator, Orders, Question, interrupt};
pub use ladder::{Ladder, Rung, Step};
pub use server::{Fate, ServerWatch};

use crate::address::Avma;
use crate::assess::checks::{self, Weight};
use crate::assess::{self, Check, Interrupt, Request, Verdict, advice};
use crate::memory::Memory;
use crate::postgres::{Activity, Backend};
use crate::process::{Process, SignalError};
use crate::snapshot::looks::STOP_LIMIT;
use crate::snapshot::{Capture, Plan, Snapshot};
use crate::tracee::{CallEnd, Declined, Frame, Registers, StopBudget, Stopped, TraceError, Tracee};

/// Pauses between two looks: irregular, so as not to fall in step with a loop, and at least so many times the
/// stop that went before, so that the backend makes headway.
const PAUSES: std::ops::Range<u64> = 20..120;
const PAUSE_PER_STOP: u32 = 2;
/// So many times longer where the objection is not to where the backend is, and haste is no use.
const PATIENCE: u64 = 200;
/// So often the pause is doubled where look after look finds it in the same system call.
const MOST_DOUBLINGS: u32 = 5;

/// How long what sleeps is watched, without a stop, before it counts as sleeping on.
const GLANCE: Duration = Duration::from_millis(20);

/// Where only a risk is in the way, the search is over after this part of the time that it may take: the operator can
/// accept the risk.
const PART_FOR_A_RISK: u32 = 10;

/// How long a better instruction is looked for where this is what stands in the way.
pub fn search_time(verdict: Verdict, wait: Duration) -> Duration {
    match verdict {
        Verdict::Risky => wait / PART_FOR_A_RISK,
        _ => wait,
    }
}

/// What the operator allows.
#[derive(Debug, Clone)]
pub struct Options {
    /// What is asked for.
    pub request: Request,
    /// How long the backend gets to obey the signal by itself.
    pub grace: Duration,
    /// How long to look for a safe instruction.
    pub wait: Duration,
    /// How long to watch the call.
    pub timeout: Duration,
    /// How long each stop may be.
    pub budget: StopBudget,
    /// Warnings that are accepted.
    pub allow: Vec<String>,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "outcome")]
pub enum Outcome {
    /// The statement was cancelled by an ERROR.
    Cancelled,
    /// The session ended by a FATAL error.
    Terminated,
    /// A ProcSignalBarrier was accepted.
    BarrierAccepted,
    /// The backend did as the signal said; nothing was touched.
    ObeyedSignal,
    /// The call came back without effect, or the error was caught by something.
    Returned,
    /// Not called: unsafe, or risky and not allowed.
    Refused,
    /// Not called: it would have done nothing.
    Pointless,
    /// Called, and no outcome in time.
    TimedOut,
    /// The backend crashed.
    Crashed,
    /// Everything but the call was done.
    DryRun,
}

impl Outcome {
    /// Whether the backend did what was asked of it.
    pub fn took_effect(self) -> bool {
        match self {
            Outcome::Cancelled
            | Outcome::Terminated
            | Outcome::BarrierAccepted
            | Outcome::ObeyedSignal => true,
            Outcome::Returned
            | Outcome::Refused
            | Outcome::Pointless
            | Outcome::TimedOut
            | Outcome::Crashed
            | Outcome::DryRun => false,
        }
    }
}

/// What became of an intervention.
#[derive(Debug)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// One sentence.
    pub detail: String,
    /// The exit status of the backend, if it exited.
    pub exit_status: Option<i32>,
    /// How often the backend was looked at.
    pub attempts: u32,
    /// What became of the server; none where it was not looked at.
    pub server: Option<Fate>,
    /// From the stop to the outcome.
    pub call_time: Option<Duration>,
    /// How long the backend stood still in all.
    pub stopped: Duration,
    /// The checks that stood in the way: at the last look, or where the time was over, at the one that came closest.
    pub objections: Vec<Check>,
    /// The verdict there.
    pub verdict: Option<Verdict>,
    /// What stood in the way, and at how many looks.
    pub met: Vec<Met>,
    /// An ERROR was raised, and something caught it: the statement went on.
    pub swallowed: bool,
    /// Descendants of a backend that has ended which run on, by their PIDs.
    pub left_behind: Vec<i32>,
}

/// The checks that stood in the way at a look, those of the greatest weight, and the number of looks at which they did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Met {
    /// Their names.
    pub codes: Vec<&'static str>,
    /// How many looks.
    pub looks: u32,
}

impl Met {
    fn count(all: &mut Vec<Met>, codes: Vec<&'static str>) {
        match all.iter_mut().find(|m| m.codes == codes) {
            Some(met) => met.looks += 1,
            None => all.push(Met { codes, looks: 1 }),
        }
    }
}

/// The names of the objections of the greatest weight.
fn weightiest(objections: &[Check]) -> Vec<&'static str> {
    let weight = checks::weight(objections);
    let mut codes: Vec<_> = objections
        .iter()
        .filter(|c| c.objection.map(|o| o.weight) == weight)
        .map(|c| c.code)
        .collect();
    codes.sort_unstable();
    codes
}

impl Report {
    /// At how many looks the objections were those that are told, in words; none where there was one look.
    pub fn how_often(&self) -> Option<String> {
        let all = self.attempts;
        let shown = weightiest(&self.objections);
        let (same, others): (Vec<&Met>, Vec<&Met>) =
            self.met.iter().partition(|m| m.codes == shown);
        if all <= 1 {
            return None;
        }
        if others.is_empty() {
            return Some(format!("and so at each of {all} looks"));
        }
        let same: u32 = same.iter().map(|m| m.looks).sum();
        let mut others: Vec<&Met> = others;
        others.sort_by_key(|m| std::cmp::Reverse(m.looks));
        let each = others.iter().take(3);
        let mut each: Vec<String> = each
            .map(|m| format!("{} at {}", m.codes.join(" and "), m.looks))
            .collect();
        if others.len() > each.len() {
            each.push("…".into());
        }
        Some(format!("so at {same} of {all} looks; {}", each.join(", ")))
    }

    /// Whether the server went through crash recovery; none where it was not looked at or could not be told.
    pub fn server_restarted(&self) -> Option<bool> {
        self.server.and_then(Fate::restarted)
    }

    /// Whether the server runs no more, likewise.
    pub fn server_stopped(&self) -> Option<bool> {
        self.server.and_then(Fate::stopped)
    }

    /// A report of something that happened before any look.
    pub fn new(outcome: Outcome, detail: impl Into<String>) -> Self {
        Report {
            outcome,
            detail: detail.into(),
            exit_status: None,
            attempts: 0,
            server: None,
            call_time: None,
            stopped: Duration::ZERO,
            objections: Vec::new(),
            verdict: None,
            met: Vec::new(),
            swallowed: false,
            left_behind: Vec::new(),
        }
    }
}

/// What the signal did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obeyed {
    /// The process has ended.
    Ended,
    /// The statement is over.
    StatementOver,
    /// Nothing, in the time it had.
    No,
}

/// Sends the signal that pg_cancel_backend() or pg_terminate_backend() would send, and to whom they would send it: the
/// group of processes that the backend leads (pg_signal_backend(), src/backend/storage/ipc/signalfuncs.c; each child of a
/// postmaster calls setsid(2), InitPostmasterChild(), src/backend/utils/init/miscinit.c). So it reaches a program that the
/// backend waits for.
pub fn signal(process: &Process, request: Request) -> Result<(), SignalError> {
    match request {
        Request::Pending => Ok(()),
        Request::Cancel => process.send_signal_to_group(libc::SIGINT),
        Request::Terminate => process.send_signal_to_group(libc::SIGTERM),
    }
}

/// Waits for the backend to obey that signal, for at most `grace`.
pub fn wait_for_obedience(
    plan: &Plan,
    request: Request,
    statement: Option<i64>,
    grace: Duration,
) -> Obeyed {
    const LOOK: Duration = Duration::from_millis(5);
    let Ok(process) = plan.living() else {
        return Obeyed::Ended;
    };
    let deadline = Instant::now() + grace;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if process.wait_for_end(left.min(LOOK)) {
            return Obeyed::Ended;
        }
        if request == Request::Cancel && plan.statement_is_over(statement) == Some(true) {
            return Obeyed::StatementOver;
        }
        if left.is_zero() {
            return Obeyed::No;
        }
    }
}

/// How one look ended.
enum Look {
    /// The call was made, and ended so.
    Called(CallEnd, Interrupt),
    /// Still in an allocator, by its innermost frame: not safe for the reason that was seen before.
    StillAllocating,
    /// Not safe here.
    Objected {
        verdict: Verdict,
        objections: Vec<Check>,
        /// It goes through code that is to be read.
        to_learn: Option<Box<Capture>>,
        /// The system call that it is in.
        in_syscall: Option<Call>,
    },
    /// Safe, but the frame was not lent, for this reason.
    Declined(Declined),
    /// The statement that was to be cancelled is over.
    StatementOver,
}

/// What came of stepping in.
#[derive(Debug)]
pub enum Stepped<'p> {
    /// Nothing was called.
    Not(Report),
    /// `ProcessInterrupts()` was called; what came of that is to be verified.
    Called(Called<'p>),
}

/// A call that was made.
#[derive(Debug)]
pub struct Called<'p> {
    process: &'p Process,
    /// How it ended.
    pub end: CallEnd,
    /// What it acted on.
    pub interrupt: Interrupt,
    report: Report,
}

impl Called<'_> {
    /// How often the backend was looked at before.
    pub fn attempts(&self) -> u32 {
        self.report.attempts
    }
}

/// Looks for a safe instruction for at most `options.wait`, calls `ProcessInterrupts()` there, and watches it.
///
/// `statement` is the start of the statement that a cancel is meant for: a later one is left alone.
pub fn step_in<'p>(
    plan: &Plan<'_, 'p>,
    options: &Options,
    statement: Option<i64>,
) -> Result<Stepped<'p>, TraceError> {
    let process = plan.living()?;
    let mut report = Report::new(Outcome::Refused, String::new());
    // One of the telltales: without it, the process would not have been taken for a backend.
    let Some(function) = plan.backend.globals.get("ProcessInterrupts") else {
        report.detail = "its executable has no ProcessInterrupts()".into();
        return Ok(Stepped::Not(report));
    };
    let mut stood_still = Duration::ZERO;
    let mut tracee = Tracee::seize(process, &options.budget)?;
    // One look ahead, to load and read what the next ones will go through.
    let stopped = tracee.stop(STOP_LIMIT)?;
    let ahead = plan.capture(&stopped)?;
    stopped.keep();
    tracee = let_go_and_learn(tracee, plan, options, &ahead, &mut stood_still)?;
    let began = Instant::now();
    let deadline = began + options.wait;
    let mut pause = Pause::new();
    let mut wait = Wait::default();
    let mut held_off = false;
    let mut closest: Option<(Verdict, Vec<Check>)> = None;
    let (end, interrupt, started) = loop {
        report.attempts += 1;
        let started = Instant::now();
        let still_before = tracee.stopped_for();
        // Where the last objection was to an allocator, one look in many can be spared the stack.
        let hurry =
            report.objections.iter().any(|c| c.code == "allocator") && Instant::now() < deadline;
        let look = look(plan, &mut tracee, options, statement, function, hurry)?;
        let still_now = tracee.stopped_for();
        report.stopped = stood_still + still_now;
        match look {
            Look::Called(end, interrupt) => break (end, interrupt, started),
            Look::StillAllocating => {
                Met::count(&mut report.met, vec!["allocator"]);
                wait.goes_on_in(None)
            }
            Look::StatementOver => {
                report.outcome = Outcome::ObeyedSignal;
                report.detail = "the statement ended by itself".into();
                return Ok(Stepped::Not(report));
            }
            Look::Declined(why) => {
                wait.goes_on_in(None);
                // The carrier itself cannot be ridden; that will not change from one look to the next.
                let lasting = matches!(why, Declined::SmallStack(_));
                report.verdict = Some(Verdict::Unsafe);
                report.objections = vec![checks::declined(&why)];
                Met::count(&mut report.met, weightiest(&report.objections));
                if lasting || Instant::now() >= deadline {
                    return Ok(Stepped::Not(refused(report, Verdict::Unsafe, began)));
                }
            }
            Look::Objected {
                verdict,
                objections,
                to_learn,
                in_syscall,
            } => {
                wait.goes_on_in(in_syscall);
                // Where interrupts are held off at most moments, the few others are worth the wait.
                held_off |= verdict == Verdict::Pointless;
                let time = match held_off {
                    true => options.wait,
                    false => search_time(verdict, options.wait),
                };
                let in_time = began.elapsed() < time;
                let lasting = !may_change(verdict, &objections);
                Met::count(&mut report.met, weightiest(&objections));
                if closest
                    .as_ref()
                    .is_none_or(|(v, _)| rank(verdict) <= rank(*v))
                {
                    closest = Some((verdict, objections.clone()));
                }
                report.verdict = Some(verdict);
                report.objections = objections;
                if lasting {
                    return Ok(Stepped::Not(refused(report, verdict, began)));
                }
                if !in_time {
                    // What it was only for a moment is no reason that counts.
                    let (verdict, objections) = closest.unwrap_or((verdict, Vec::new()));
                    report.verdict = Some(verdict);
                    report.objections = objections;
                    return Ok(Stepped::Not(refused(report, verdict, began)));
                }
                if let Some(capture) = to_learn {
                    tracee = let_go_and_learn(tracee, plan, options, &capture, &mut stood_still)?;
                } else if wait.may_sleep_on() {
                    // It stands where it stood, for as long as it sleeps: there is nothing that a stop could find.
                    let until = match verdict {
                        Verdict::Risky => Instant::now(),
                        _ => deadline,
                    };
                    if sleeps_on(&mut tracee, process, until)? {
                        return Ok(Stepped::Not(refused(report, verdict, began)));
                    }
                }
            }
        }
        let moves = report
            .objections
            .iter()
            .all(|c| advice::MOVES_ON.contains(&c.code));
        // Who has let go of something once does so again, and perhaps not for long.
        let changes = report.met.len() > 1;
        let scale = if moves || changes {
            wait.patience()
        } else {
            PATIENCE
        };
        tracee.let_run(pause.next(still_now - still_before, scale))?;
    };
    report.call_time = Some(started.elapsed());
    report.objections.clear();
    report.verdict = Some(Verdict::Safe);
    Ok(Stepped::Called(Called {
        process,
        end,
        interrupt,
        report,
    }))
}

/// Proves from outside what came of the call: the statement is gone or the process has exited as it should, and the
/// server runs on.
pub fn verify(
    called: Called<'_>,
    plan: &Plan,
    options: &Options,
    statement: Option<i64>,
    server: &ServerWatch,
) -> Report {
    let mut report = called.report;
    let process = called.process;
    let made = (called.end, called.interrupt);
    confirm(&mut report, process, plan, made, statement, options);
    let limit = match report.outcome {
        Outcome::Terminated => ServerWatch::TIME_TO_NOTICE,
        _ => Duration::ZERO,
    };
    let fate = end(&mut report, process, server, limit);
    report.server = Some(fate);
    report
}

/// What became of the server, within `limit` where that is all there is to wait for; and what a success comes to by that and
/// by the way in which the backend ended, if it has. Somebody else may have killed it, or have crashed the server.
pub fn end(report: &mut Report, process: &Process, server: &ServerWatch, limit: Duration) -> Fate {
    /// From its end until its postmaster has waited for it.
    const TIME_TO_BE_TOLD: Duration = Duration::from_millis(500);
    const TIME_TO_RESTART: Duration = Duration::from_secs(5);
    let ended = process.has_ended();
    let succeeded = |report: &Report| report.outcome.took_effect();
    if succeeded(report)
        && ended
        && report.exit_status.is_none()
        && let Some(status) = process.wait_status(TIME_TO_BE_TOLD)
    {
        report.exit_status = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
        if let (Outcome::Crashed, detail) = exit_outcome(status) {
            (report.outcome, report.detail) = (Outcome::Crashed, detail);
        }
    }
    let fate = server.fate(match (report.outcome, ended) {
        (Outcome::Crashed, _) => TIME_TO_RESTART,
        (_, true) => limit.max(ServerWatch::TIME_TO_NOTICE),
        (_, false) => limit,
    });
    // Its postmaster has yet to notice.
    if report.outcome == Outcome::Crashed && fate == Fate::RunsOn {
        return Fate::Unknown;
    }
    if succeeded(report) && fate.restarted() == Some(true) {
        report.outcome = Outcome::Crashed;
        report.detail = match ended {
            true => "it ended while the server threw out all sessions: something crashed",
            false => "the server is throwing out all sessions: something crashed",
        }
        .into();
    }
    fate
}

/// Reads the files and the code behind a capture, with the backend let go: while it is traced, a signal for it would
/// have to wait for us.
fn let_go_and_learn<'p>(
    tracee: Tracee<'p>,
    plan: &Plan<'_, 'p>,
    options: &Options,
    capture: &Capture,
    stood_still: &mut Duration,
) -> Result<Tracee<'p>, TraceError> {
    *stood_still += tracee.stopped_for();
    drop(tracee);
    plan.learn(capture);
    Tracee::seize(plan.living()?, &options.budget)
}

/// One stop: capture, judge, and if it is safe, call `function`. In a `hurry`, without more than a glance where that tells enough.
fn look(
    plan: &Plan,
    tracee: &mut Tracee,
    options: &Options,
    statement: Option<i64>,
    function: Avma,
    hurry: bool,
) -> Result<Look, TraceError> {
    let backend = plan.backend;
    let memory = backend.memory;
    let mut stopped = tracee.stop(STOP_LIMIT)?;
    if hurry {
        let registers = stopped.registers()?;
        let innermost = plan.innermost(&registers);
        let running = registers.syscall().is_none();
        if running && innermost.as_ref().is_some_and(checks::may_be_allocating) {
            return Ok(Look::StillAllocating);
        }
    }
    let capture = plan.capture(&stopped)?;
    let snapshot = plan.interpret_in(&stopped, &capture);
    if options.request == Request::Cancel && statement_changed(&snapshot, statement) {
        return Ok(Look::StatementOver);
    }
    let (verdict, checks) = assess::verdict(&snapshot, options.request, &options.allow);
    if verdict != Verdict::Safe {
        // Code that was not met before is read once the backend runs again.
        let unread = snapshot.stack.is_some_and(|s| s.unread);
        let in_syscall = Call::of(&capture.registers);
        let to_learn = unread.then(|| Box::new(capture));
        if unread {
            // It is let go from this stop; one that runs would have to stop once more for that.
            stopped.keep();
        }
        let objections = checks.into_iter().filter(|c| c.objection.is_some());
        return Ok(Look::Objected {
            verdict,
            objections: objections.collect(),
            to_learn,
            in_syscall,
        });
    }
    let interrupt = Interrupt::of(&snapshot, options.request);
    let registers = capture.registers;
    let errno = plan
        .errno(&registers)
        .and_then(|at| Some((at, memory.read_u32(at).ok()?)));
    let frame = match stopped.borrow_frame(Some(&registers), memory, checks::LEAST_ALTERNATE_STACK)
    {
        Ok(frame) => frame,
        Err(Declined::Trace(e)) => return Err(e),
        Err(why) => return Ok(Look::Declined(why)),
    };
    frame.is_for_good();
    match set_flags(&frame, backend, memory, &snapshot, options.request) {
        Ok(()) => {}
        Err(Declined::Trace(e)) => return Err(e),
        Err(why) => return Ok(Look::Declined(why)),
    }
    let end = frame.call(function, [0; 5])?.watch(options.timeout)?;
    if let (CallEnd::Returned, Some((at, value))) = (end, errno) {
        put_back_errno(&stopped, memory, at, value);
    }
    stopped.keep();
    Ok(Look::Called(end, interrupt))
}

/// A true signal handler saves errno; a function that returns may have changed it. A failure leaves it changed,
/// which the interrupted code may or may not notice: there is nothing better to do.
fn put_back_errno(stopped: &Stopped, memory: &dyn Memory, at: Avma, value: u32) {
    if memory.read_u32(at) != Ok(value) {
        let _ = stopped.put_back_errno(memory, at, value);
    }
}

fn statement_changed(snapshot: &Snapshot, statement: Option<i64>) -> bool {
    let now = snapshot.backend.statement_start;
    let idle = snapshot.backend.activity.is_some_and(|a| a.is_idle());
    statement.is_some() && now.is_some() && (now != statement || idle)
}

/// Sets the flags that PostgreSQL's own handlers set (StatementCancelHandler() and die(), src/backend/tcop/postgres.c),
/// where the operator asked for it and the signal has not done so: its handler was replaced, or it is blocked.
///
/// The general flag comes last, as there: whoever dies in between leaves nothing half pending.
fn set_flags(
    frame: &Frame,
    backend: &Backend,
    memory: &dyn Memory,
    snapshot: &Snapshot,
    request: Request,
) -> Result<(), Declined> {
    let v = &snapshot.variables;
    let layout = backend.version.as_ref().and_then(|v| v.layout());
    let killed = layout.and_then(|l| l.disconnect_killed.get());
    let missing = match request {
        Request::Cancel if v.query_cancel_pending == Some(false) => {
            [Some(("QueryCancelPending", 1)), None]
        }
        Request::Terminate if v.proc_die_pending == Some(false) => [
            Some(("ProcDiePending", 1)),
            killed.map(|value| ("pgStatSessionEndCause", *value)),
        ],
        _ => return Ok(()),
    };
    for (name, value) in missing
        .into_iter()
        .flatten()
        .chain([("InterruptPending", 1)])
    {
        if let Some(at) = backend.globals.get(name) {
            frame.set_variable(memory, at, value)?;
        }
    }
    Ok(())
}

/// How far a verdict is from the best.
fn rank(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Safe => 0,
        Verdict::Risky => 1,
        Verdict::Unsafe => 2,
        Verdict::Pointless => 3,
    }
}

/// Whether another look may come out otherwise than with these objections.
pub fn may_change(verdict: Verdict, objections: &[Check]) -> bool {
    match checks::weight(objections) {
        Some(Weight::Identity | Weight::Occasion) | None => false,
        Some(Weight::CriticalSection | Weight::HeldOff) => true,
        Some(Weight::Danger | Weight::Risk) => {
            verdict == Verdict::Unsafe
                || objections
                    .iter()
                    .all(|c| advice::MOVES_ON.contains(&c.code))
        }
    }
}

/// Whether it sleeps from now on until then, and for a glance at least, as one that is woken and goes back to sleep does
/// not: the kernel counts how often a thread has left its processor (`/proc/PID/status`, proc_pid_status(5)).
fn sleeps_on(tracee: &mut Tracee, process: &Process, until: Instant) -> Result<bool, TraceError> {
    let switches = || {
        let status = process.status().ok()?;
        let count = status.voluntary_ctxt_switches?;
        Some((count, status.nonvoluntary_ctxt_switches?))
    };
    // It was woken by our stop, and has to get back to sleep.
    tracee.let_run(GLANCE)?;
    let before = switches();
    loop {
        tracee.let_run(GLANCE)?;
        if before.is_none() || switches() != before || process.state() != Some('S') {
            return Ok(false);
        }
        if Instant::now() >= until {
            return Ok(true);
        }
    }
}

fn refused(mut report: Report, verdict: Verdict, began: Instant) -> Report {
    let weight = checks::weight(&report.objections);
    report
        .objections
        .retain(|c| c.objection.map(|o| o.weight) == weight);
    let reasons: Vec<String> = report
        .objections
        .iter()
        .map(|c| format!("{}: {}", c.code, c.detail))
        .collect();
    report.outcome = if verdict == Verdict::Pointless {
        Outcome::Pointless
    } else {
        Outcome::Refused
    };
    report.detail = reasons.join("; ");
    if let Some(how_often) = report.how_often() {
        report.detail = format!(
            "{} ({how_often}, over {:.1} s)",
            report.detail,
            began.elapsed().as_secs_f64(),
        );
    }
    report
}

/// Sees from outside what became of the call.
fn confirm(
    report: &mut Report,
    process: &Process,
    plan: &Plan,
    (end, interrupt): (CallEnd, Interrupt),
    statement: Option<i64>,
    options: &Options,
) {
    (report.outcome, report.detail) = match end {
        CallEnd::Exiting(status) => {
            process.wait_for_end(options.timeout);
            report.exit_status = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
            exit_outcome(status)
        }
        CallEnd::Jumped if interrupt == Interrupt::Terminate => {
            match process.wait_for_end(options.timeout) {
                true => (Outcome::Terminated, "the session ended".into()),
                false => (
                    Outcome::TimedOut,
                    "an error was raised, and the session is still there".into(),
                ),
            }
        }
        CallEnd::Jumped => {
            let (outcome, detail) = statement_gone(process, plan, statement, options.timeout);
            report.swallowed = outcome == Outcome::Returned;
            (outcome, detail)
        }
        CallEnd::Returned => {
            let now = plan.without_stopping().variables;
            let accepted =
                interrupt == Interrupt::Barrier && now.proc_signal_barrier_pending == Some(false);
            if accepted {
                (
                    Outcome::BarrierAccepted,
                    "it accepted the barrier and goes on".into(),
                )
            } else {
                (Outcome::Returned, "ProcessInterrupts() returned without effect, and the backend goes on as before".into())
            }
        }
        CallEnd::StillRunning => (
            Outcome::TimedOut,
            format!(
                "ProcessInterrupts() was called and has not come to an end in {} s; it goes on in the backend",
                options.timeout.as_secs_f64()
            ),
        ),
    };
}

fn exit_outcome(status: i32) -> (Outcome, String) {
    if libc::WIFEXITED(status) {
        match libc::WEXITSTATUS(status) {
            code @ (0 | 1) => (
                Outcome::Terminated,
                format!(
                    "the session ended with exit status {code}, as after pg_terminate_backend()"
                ),
            ),
            code => (
                Outcome::Crashed,
                format!(
                    "the backend exited with status {code}, which its postmaster takes for a crash"
                ),
            ),
        }
    } else {
        let signal = libc::WTERMSIG(status);
        let name = crate::snapshot::signal_names(1 << (signal - 1).clamp(0, 63)).concat();
        (
            Outcome::Crashed,
            format!("the backend was killed by {name}: it crashed"),
        )
    }
}

/// For how long a statement has to go on before its error counts as swallowed.
const GOES_ON: Duration = Duration::from_secs(1);

/// What an ERROR came to: the statement is over, or something caught the error and goes on.
///
/// The error sets the hold-off count to zero (errfinish(), src/backend/utils/error/elog.c). Where nothing catches it,
/// PostgresMain() holds interrupts off for as long as it undoes (src/backend/tcop/postgres.c); so a statement that goes
/// on without that was caught.
fn statement_gone(
    process: &Process,
    plan: &Plan,
    statement: Option<i64>,
    limit: Duration,
) -> (Outcome, String) {
    /// It takes some milliseconds as a rule.
    const AT_FIRST: Duration = Duration::from_millis(100);
    let start = Instant::now();
    let deadline = start + limit;
    let mut since: Option<(Instant, Option<Duration>)> = None;
    loop {
        if plan.statement_is_over(statement) == Some(true) {
            return (
                Outcome::Cancelled,
                "the statement was cancelled; the session goes on".into(),
            );
        }
        let pause = if start.elapsed() < AT_FIRST { 1 } else { 20 };
        if process.wait_for_end(Duration::from_millis(pause)) {
            return (
                Outcome::Cancelled,
                "the statement was cancelled, and the session has ended since".into(),
            );
        }
        let now = Instant::now();
        if goes_on(plan, statement) {
            let (began, used) = *since.get_or_insert_with(|| (now, process.cpu_time()));
            let watched = now - began;
            if watched >= GOES_ON.min(limit) && had_its_turn(process, used) {
                return (
                    Outcome::Returned,
                    format!(
                        "an ERROR was raised, and something caught it: the same statement still runs {:.1} s later",
                        watched.as_secs_f64()
                    ),
                );
            }
        } else {
            since = None;
        }
        if now >= deadline + GOES_ON.min(limit) {
            return (
                Outcome::TimedOut,
                "an ERROR was raised, but the statement is still there: something caught the error, or undoing takes long".into(),
            );
        }
    }
}

/// Whether the statement that began at `statement` is at work, and not being undone.
fn goes_on(plan: &Plan, statement: Option<i64>) -> bool {
    let now = plan.without_stopping();
    statement.is_some()
        && now.backend.statement_start == statement
        && now.backend.activity == Some(Activity::Active)
        && now.variables.interrupt_holdoff_count == Some(0)
        && now.variables.proc_exit_in_progress != Some(true)
}

/// Whether it could have done anything since it had used so much processor time: it has used more, or waits.
fn had_its_turn(process: &Process, used: Option<Duration>) -> bool {
    /// A few ticks of the kernel's, in which the time of a running process is counted.
    const SOME: Duration = Duration::from_millis(20);
    let more = process.cpu_time().zip(used);
    matches!(process.state(), Some('S' | 'D'))
        || more.is_none_or(|(now, then)| now.saturating_sub(then) >= SOME)
}

/// A system call, by its number, its arguments, and the program counter and stack pointer it was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Call {
    number: i64,
    arguments: [u64; 6],
    from: (Avma, Avma),
}

impl Call {
    fn of(registers: &Registers) -> Option<Self> {
        Some(Call {
            number: registers.syscall()?,
            arguments: registers.syscall_arguments(),
            from: (registers.ip(), registers.sp()),
        })
    }
}

/// For how many looks on end it has been in one and the same system call: a loop that makes the same call again and
/// again looks so, too, but not for long.
#[derive(Default)]
struct Wait {
    call: Option<Call>,
    looks: u32,
}

impl Wait {
    /// A look has found it in this system call, or in none.
    fn goes_on_in(&mut self, call: Option<Call>) {
        let same = call.is_some() && call == self.call;
        self.looks = if same { self.looks + 1 } else { 0 };
        self.call = call;
    }

    /// Whether it may be asleep in there: at the second look, and from time to time where a loop looks so.
    fn may_sleep_on(&self) -> bool {
        self.looks % 16 == 1
    }

    /// How many times longer the pause is to be: twice as long with each look that has found nothing new, but never so
    /// long that the short time between two calls of a loop is missed for good.
    fn patience(&self) -> u64 {
        1 << self.looks.min(MOST_DOUBLINGS)
    }
}

/// Irregular pauses.
struct Pause(u64);

impl Pause {
    fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Pause(now.map_or(1, |n| n.subsec_nanos().into()) | 1)
    }

    /// The next, `scale` times as long as the shortest.
    fn next(&mut self, after: Duration, scale: u64) -> Duration {
        // xorshift64: any sequence that follows no rhythm will do.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let span = PAUSES.end - PAUSES.start;
        Duration::from_micros((PAUSES.start + self.0 % span) * scale).max(after * PAUSE_PER_STOP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_in_a_call_is_given_longer_and_longer() {
        let call = Call {
            number: libc::SYS_read,
            arguments: [3, 0x1000, 100, 0, 0, 0],
            from: (Avma(1), Avma(2)),
        };
        let mut wait = Wait::default();
        let mut patience = |call| {
            wait.goes_on_in(call);
            wait.patience()
        };
        let same = Some(call);
        assert_eq!([0; 8].map(|_| patience(same)), [1, 2, 4, 8, 16, 32, 32, 32]);
        assert_eq!(patience(None), 1);
        assert_eq!([patience(same), patience(same)], [1, 2]);
        let other = Some(Call {
            arguments: [4, 0x1000, 100, 0, 0, 0],
            ..call
        });
        assert_eq!([patience(other), patience(same)], [1, 1]);
    }
}
