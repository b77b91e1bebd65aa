//! JSON, schema version 1: `docs/pgpoke.schema.json`, which is made of the types in [`super::forms`]. Here they are filled
//! in.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::forms::{
    AwaitedLock, Backend, Before, CauseInShort, Disposition, Error, ExitCode, Failure, Frame,
    Inspection, Interrupts, Intervention, Interventions, Judged, Locks, Process, Report,
    SchemaVersion, SignalSets, Signals, Spinlock, Step, Told,
};
use super::report::Written;
use super::variables;
use crate::assess::{Assessment, Status, consequences, locks, rules, samples};
use crate::intervene::{self, Outcome};
use crate::process::permission::Rule;
use crate::snapshot::{self, Handler, Snapshot, Variables, signal_names};

/// The result of `pgpoke inspect`.
pub fn inspection(snapshot: &Snapshot, assessment: &Assessment) -> String {
    let judged = judged(snapshot, assessment);
    print(&to_value(&Inspection { judged }))
}

/// The result of `pgpoke interrupt`, as one object.
pub fn intervention(
    snapshot: &Snapshot,
    assessment: &Assessment,
    report: &intervene::Report,
    steps: &[intervene::Step],
    escalated_from: Option<(&intervene::Report, u8)>,
) -> Value {
    let mut judged = judged(snapshot, assessment);
    judged.verdict = report.verdict.unwrap_or(judged.verdict);
    judged.stopped_ms += millis(report.stopped);
    to_value(&Intervention {
        judged,
        outcome: report.outcome,
        outcome_detail: report.detail.clone(),
        exit_status: report.exit_status,
        attempts: report.attempts,
        server_restarted: report.server_restarted(),
        server_stopped: report.server_stopped(),
        call_ms: report.call_time.map(millis),
        swallowed: report.swallowed,
        left_behind: report.left_behind.clone(),
        consequences: consequences::of(snapshot, assessment.interrupt),
        steps: rungs(steps),
        escalated_from: escalated_from.map(|(report, exit)| Before {
            outcome: report.outcome,
            outcome_detail: report.detail.clone(),
            swallowed: report.swallowed,
            attempts: report.attempts,
            exit_code: ExitCode(exit),
        }),
        exit_code: None,
    })
}

fn rungs(steps: &[intervene::Step]) -> Vec<Step> {
    let step = |s: &intervene::Step| Step {
        step: s.rung,
        detail: s.detail.clone(),
        took_ms: millis(s.took),
    };
    steps.iter().map(step).collect()
}

/// The results of `pgpoke interrupt` for several processes: the objects of each, with their exit codes, and those that
/// were not tried any more.
pub fn several(results: &[(Value, u8)], exit: u8, not_tried: &[i32]) -> String {
    let each = results.iter().map(|(object, exit)| {
        let mut object = object.clone();
        object["exit_code"] = to_value(&ExitCode(*exit));
        object
    });
    print(&to_value(&Interventions {
        schema_version: SchemaVersion,
        exit_code: ExitCode(exit),
        results: each.collect(),
        not_tried: not_tried.to_vec(),
    }))
}

/// The result of `pgpoke report`.
pub fn report(written: &Written) -> String {
    print(&to_value(&Report {
        schema_version: SchemaVersion,
        pid: written.pid,
        verdict: written.verdict,
        cause: CauseInShort {
            code: written.cause.code,
            summary: written.cause.summary.clone(),
        },
        directory: text_of(&written.directory),
        archive: written.archive.as_deref().map(text_of),
        files: written.contents.files.clone(),
        missing: written.contents.missing.clone(),
        looks: written.looks,
        stopped_ms: written.stopped_ms,
        redacted: written.redacted,
        core: written.core.clone(),
        complete: !written.contents.ended_early,
    }))
}

/// What is said in JSON when nothing could be judged. An interrupt has an outcome, and tells of its steps where it had
/// begun.
pub fn failure(
    pid: i32,
    interrupt: Option<(Outcome, Option<&[intervene::Step]>)>,
    (message, detail, hint): (&str, Option<&str>, Option<&str>),
    told: Option<(Rule, &Snapshot)>,
) -> Value {
    let (outcome, steps) = interrupt.map_or((None, None), |(o, steps)| (Some(o), steps));
    to_value(&Failure {
        schema_version: SchemaVersion,
        pid,
        verdict: (),
        error: Error {
            message: message.to_owned(),
            detail: detail.map(str::to_owned),
            hint: hint.map(str::to_owned),
            rule: told.map(|(rule, _)| rule),
        },
        told: told.map(|(_, s)| Told {
            cause: (),
            backend: backend(s),
            interrupts: interrupts(&s.variables),
            signals: signals(&s.signals),
            process: process(s),
        }),
        outcome,
        steps: steps.map(rungs),
        exit_code: None,
    })
}

/// The outcome's stable name.
pub fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Cancelled => "cancelled",
        Outcome::Terminated => "terminated",
        Outcome::BarrierAccepted => "barrier-accepted",
        Outcome::ObeyedSignal => "obeyed-signal",
        Outcome::Returned => "returned",
        Outcome::Refused => "refused",
        Outcome::Pointless => "pointless",
        Outcome::TimedOut => "timed-out",
        Outcome::Crashed => "crashed",
        Outcome::DryRun => "dry-run",
    }
}

/// As it is printed.
pub fn print(value: &Value) -> String {
    // A Value always serialises.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

pub(super) fn to_value<T: Serialize>(value: &T) -> Value {
    // Texts in UTF-8, numbers, and lists and objects of them: these always serialise.
    serde_json::to_value(value).unwrap_or(Value::Null)
}

pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A path need not be in UTF-8, as JSON has to be.
pub(super) fn text_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn judged(s: &Snapshot, a: &Assessment) -> Judged {
    Judged {
        schema_version: SchemaVersion,
        pid: s.pid,
        verdict: a.verdict,
        verdict_if: a.verdict_if,
        interrupt: a.interrupt,
        cause: a.cause.clone(),
        checks: a.checks.clone(),
        advice: a.advice.iter().map(ToString::to_string).collect(),
        backend: backend(s),
        interrupts: interrupts(&s.variables),
        locks: locks_of(s, a),
        signals: signals(&s.signals),
        process: process(s),
        wait_event_type: s.wait_event.as_ref().and_then(|w| w.class.clone()),
        wait_event: s.wait_event.as_ref().and_then(|w| w.event.clone()),
        children: s.process.children.clone(),
        samples: samples::motion(s),
        stopped_ms: s.stopped_ms,
        stack: stack(s),
        stack_complete: s.stack.as_ref().is_some_and(|s| s.complete),
        replaced_files: s.replaced_files.clone(),
        warnings: s.warnings.clone(),
    }
}

fn backend(s: &Snapshot) -> Backend {
    let b = s.backend.clone();
    Backend {
        backend_type: b.backend_type,
        server_version: b.server_version,
        data_directory: b.data_directory.as_deref().map(text_of),
        database: b.database,
        user: b.user,
        client: b.client,
        application_name: b.application_name,
        state: b.activity,
        query: b.query,
        container: b.container,
        pid_in_container: b.pid_in_container,
        postmaster_pid: b.postmaster_pid,
        postmaster_command: b.postmaster_command,
        title: Some(b.title).filter(|t| !t.is_empty()),
    }
}

pub(super) fn interrupts(v: &Variables) -> Interrupts {
    Interrupts {
        interrupt_pending: v.interrupt_pending,
        query_cancel_pending: v.query_cancel_pending,
        proc_die_pending: v.proc_die_pending,
        proc_signal_barrier_pending: v.proc_signal_barrier_pending,
        interrupt_holdoff_count: v.interrupt_holdoff_count,
        query_cancel_holdoff_count: v.query_cancel_holdoff_count,
        crit_section_count: v.crit_section_count,
    }
}

fn process(s: &Snapshot) -> Process {
    let p = s.process.clone();
    let call = p.syscall;
    Process {
        state: p.state,
        tracer: p.tracer.filter(|pid| *pid != 0),
        wait_channel: p.wait_channel,
        syscall: call.as_ref().map(|c| c.name.clone()),
        threads: p.threads,
        cpu_percent: p.cpu_percent,
        tracer_name: p.tracer_name,
        descriptor: call.as_ref().and_then(|c| c.descriptor),
        time_limit_ms: call.as_ref().and_then(|c| c.time_limit_ms),
        waits_for: call.map(|c| c.waits_for),
        kernel_stack: p.kernel_stack,
        thread_names: p.thread_names,
        memory_detour: p.memory_detour,
    }
}

/// Whether the check on spinlocks came to a conclusion.
fn spinlock_decided(a: &Assessment) -> bool {
    a.checks
        .iter()
        .any(|c| c.code == "spinlock" && c.status == Status::Pass)
}

fn locks_of(s: &Snapshot, a: &Assessment) -> Locks {
    let frames = s.stack.as_ref().map(|s| &s.frames[..]);
    let waits = frames.is_some_and(|f| rules::LWLOCK_WAIT.find(f).is_some());
    Locks {
        lwlocks_held: s.variables.lwlocks().map(<[_]>::len),
        waiting_for: waits.then(|| AwaitedLock {
            tranche: s.locks.tranche.clone(),
            mode: locks::awaited_mode(s),
            holders: locks::lwlock_holders(s),
        }),
        blocked_by: locks::blocked_by(s),
        spinlock: frames.and_then(|f| match rules::SPINLOCK_WAIT.find(f) {
            Some(_) => Some(Spinlock::Waiting),
            None if f.iter().any(|f| f.spinlock == Some(true)) => Some(Spinlock::MaybeHeld),
            None if spinlock_decided(a) => Some(Spinlock::None),
            None => None,
        }),
    }
}

fn signals(signals: &snapshot::Signals) -> Signals {
    let handler = |signal: i32| -> Option<&Handler> {
        let all = signals.handlers.as_ref()?;
        all.iter().find(|h| h.signal == signal)
    };
    let disposition = |signal| {
        let h = handler(signal);
        Disposition {
            handler: h.map(|h| h.address),
            module: h.and_then(|h| h.module.clone()),
            function: h.and_then(|h| h.function.clone()),
            expected: h.and_then(|h| h.expected),
        }
    };
    Signals {
        sigint: disposition(libc::SIGINT),
        sigterm: disposition(libc::SIGTERM),
        sigusr1: disposition(libc::SIGUSR1),
        sets: signal_sets(signals),
    }
}

pub(super) fn signal_sets(signals: &snapshot::Signals) -> SignalSets {
    SignalSets {
        blocked: signals.blocked.map(signal_names),
        pending: signals.pending.map(signal_names),
        caught: signals.caught.map(signal_names),
        ignored: signals.ignored.map(signal_names),
    }
}

fn stack(s: &Snapshot) -> Vec<Frame> {
    let frames = s.stack.iter().flat_map(|s| &s.frames);
    let frame = |(index, f): (usize, &snapshot::Frame)| {
        let (arguments, locals) = f.variables.as_ref().map(variables::forms).unzip();
        Frame {
            index,
            ip: f.ip,
            module: f.module.clone(),
            offset: f.offset,
            function: f.function.clone(),
            inlined: f.inlined,
            file: f.file.clone(),
            line: f.line,
            symbol_source: f.symbol_source,
            found_by: f.found_by,
            signal_frame: f.signal_frame,
            extension: f.extension,
            arguments,
            locals,
        }
    };
    frames.enumerate().map(frame).collect()
}
