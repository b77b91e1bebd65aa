//! JSON, schema version 1: `docs/pgpoke.schema.json`. Fields are added, never renamed; unknown is null.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::report::Written;
use super::{ladder, variables};
use crate::assess::{Assessment, Status, consequences, locks, rules, samples};
use crate::intervene::{Outcome, Report, Step};
use crate::process::permission::Rule;
use crate::snapshot::{Handler, Signals, Snapshot, Variables, signal_names};

/// The version of the schema.
pub const SCHEMA_VERSION: u32 = 1;

/// The result of `pgpoke inspect`.
pub fn inspection(snapshot: &Snapshot, assessment: &Assessment) -> String {
    print(&Value::Object(common(snapshot, assessment)))
}

/// The result of `pgpoke interrupt`, as one object.
pub fn intervention(
    snapshot: &Snapshot,
    assessment: &Assessment,
    report: &Report,
    steps: &[Step],
    escalated_from: Option<(&Report, u8)>,
) -> Value {
    let mut object = common(snapshot, assessment);
    if let Some(verdict) = report.verdict {
        object.insert("verdict".into(), to_value(&verdict));
    }
    let millis = |d: std::time::Duration| d.as_secs_f64() * 1e3;
    object.insert("outcome".into(), outcome(report.outcome).into());
    object.insert("outcome_detail".into(), report.detail.clone().into());
    object.insert("exit_status".into(), to_value(&report.exit_status));
    object.insert("attempts".into(), report.attempts.into());
    object.insert(
        "server_restarted".into(),
        to_value(&report.server_restarted),
    );
    object.insert("call_ms".into(), to_value(&report.call_time.map(millis)));
    object.insert(
        "stopped_ms".into(),
        (snapshot.stopped_ms + millis(report.stopped)).into(),
    );
    object.insert("swallowed".into(), report.swallowed.into());
    object.insert(
        "consequences".into(),
        to_value(&consequences::of(snapshot, assessment.interrupt)),
    );
    object.insert("steps".into(), steps_of(steps));
    let before = escalated_from.map(|(report, exit)| {
        json!({
            "outcome": outcome(report.outcome),
            "outcome_detail": report.detail,
            "swallowed": report.swallowed,
            "attempts": report.attempts,
            "exit_code": exit,
        })
    });
    object.insert("escalated_from".into(), to_value(&before));
    Value::Object(object)
}

/// The rungs that were taken.
pub fn steps_of(steps: &[Step]) -> Value {
    let each = steps.iter().map(|s| {
        json!({
            "step": ladder::name(s.rung),
            "detail": s.detail,
            "took_ms": s.took.as_secs_f64() * 1e3,
        })
    });
    each.collect()
}

/// The results of `pgpoke interrupt` for several processes: the objects of each, with their exit codes, and those that
/// were not tried any more.
pub fn several(results: &[(Value, u8)], exit: u8, not_tried: &[i32]) -> String {
    let each = results.iter().map(|(object, exit)| {
        let mut object = object.clone();
        object["exit_code"] = (*exit).into();
        object
    });
    print(&json!({
        "schema_version": SCHEMA_VERSION,
        "exit_code": exit,
        "results": each.collect::<Vec<Value>>(),
        "not_tried": not_tried,
    }))
}

/// The result of `pgpoke report`.
pub fn report(written: &Written) -> String {
    let path = |p: &std::path::Path| p.to_string_lossy().into_owned();
    print(&json!({
        "schema_version": SCHEMA_VERSION,
        "pid": written.pid,
        "verdict": written.verdict,
        "cause": { "code": written.cause.code, "summary": written.cause.summary },
        "directory": path(&written.directory),
        "archive": written.archive.as_deref().map(path),
        "files": written.contents.files,
        "missing": written.contents.missing,
        "looks": written.looks,
        "stopped_ms": written.stopped_ms,
        "redacted": written.redacted,
        "core": written.core,
        "complete": !written.contents.ended_early,
    }))
}

/// What is said in JSON when nothing could be judged.
pub fn failure(
    pid: i32,
    outcome: Option<&str>,
    message: &str,
    detail: Option<&str>,
    hint: Option<&str>,
    told: Option<(Rule, &Snapshot)>,
) -> Value {
    let mut object = Map::new();
    object.insert("schema_version".into(), SCHEMA_VERSION.into());
    object.insert("pid".into(), pid.into());
    object.insert("verdict".into(), Value::Null);
    let mut error = json!({ "message": message, "detail": detail, "hint": hint });
    if let Some((rule, s)) = told {
        error["rule"] = rule.code().into();
        object.insert("cause".into(), Value::Null);
        object.insert("backend".into(), backend(s));
        object.insert("interrupts".into(), interrupts(&s.variables));
        object.insert("signals".into(), signals(&s.signals));
        object.insert("process".into(), process(s));
    }
    object.insert("error".into(), error);
    if let Some(outcome) = outcome {
        object.insert("outcome".into(), outcome.into());
    }
    Value::Object(object)
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

fn to_value<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

fn common(s: &Snapshot, a: &Assessment) -> Map<String, Value> {
    let object = json!({
        "schema_version": SCHEMA_VERSION,
        "pid": s.pid,
        "verdict": a.verdict,
        "verdict_if": a.verdict_if,
        "interrupt": a.interrupt,
        "cause": a.cause,
        "checks": a.checks,
        "advice": a.advice,
        "backend": backend(s),
        "interrupts": interrupts(&s.variables),
        "locks": locks_of(s, a),
        "signals": signals(&s.signals),
        "process": process(s),
        "samples": samples::motion(s),
        "stopped_ms": s.stopped_ms,
        "stack": stack(s),
        "stack_complete": s.stack.as_ref().is_some_and(|s| s.complete),
        "replaced_files": s.replaced_files,
        "warnings": s.warnings,
    });
    match object {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn backend(s: &Snapshot) -> Value {
    let b = &s.backend;
    json!({
        "type": b.backend_type,
        "server_version": b.server_version,
        "data_directory": b.data_directory.as_ref().map(|d| d.to_string_lossy()),
        "database": b.database,
        "user": b.user,
        "client": b.client,
        "application_name": b.application_name,
        "state": b.activity,
        "query": b.query,
        "container": b.container,
        "pid_in_container": b.pid_in_container,
        "postmaster_pid": b.postmaster_pid,
        "postmaster_command": b.postmaster_command,
        "title": Some(&b.title).filter(|t| !t.is_empty()),
    })
}

pub(super) fn interrupts(v: &Variables) -> Value {
    json!({
        "interrupt_pending": v.interrupt_pending,
        "query_cancel_pending": v.query_cancel_pending,
        "proc_die_pending": v.proc_die_pending,
        "proc_signal_barrier_pending": v.proc_signal_barrier_pending,
        "interrupt_holdoff_count": v.interrupt_holdoff_count,
        "query_cancel_holdoff_count": v.query_cancel_holdoff_count,
        "crit_section_count": v.crit_section_count,
    })
}

fn process(s: &Snapshot) -> Value {
    let p = &s.process;
    json!({
        "state": p.state,
        "wait_channel": p.wait_channel,
        "syscall": p.syscall.as_ref().map(|c| &c.name),
        "threads": p.threads,
        "cpu_percent": p.cpu_percent,
        "tracer": (p.tracer != 0).then_some(p.tracer),
        "tracer_name": p.tracer_name,
        "descriptor": p.syscall.as_ref().and_then(|c| c.descriptor),
        "waits_for": p.syscall.as_ref().map(|c| &c.waits_for),
        "time_limit_ms": p.syscall.as_ref().and_then(|c| c.time_limit_ms),
        "kernel_stack": p.kernel_stack,
        "thread_names": p.thread_names,
        "memory_detour": p.memory_detour,
    })
}

/// Whether the check on spinlocks came to a conclusion.
fn spinlock_decided(a: &Assessment) -> bool {
    a.checks
        .iter()
        .any(|c| c.code == "spinlock" && c.status == Status::Pass)
}

fn locks_of(s: &Snapshot, a: &Assessment) -> Value {
    let frames = s.stack.as_ref().map(|s| &s.frames[..]);
    let waits = frames.is_some_and(|f| rules::LWLOCK_WAIT.find(f).is_some());
    json!({
        "lwlocks_held": s.variables.lwlocks().map(<[_]>::len),
        "waiting_for": waits.then(|| json!({
            "tranche": s.locks.tranche,
            "mode": locks::awaited_mode(s),
            "holders": locks::lwlock_holders(s),
        })),
        "blocked_by": locks::blocked_by(s),
        "spinlock": frames.map(|f| match rules::SPINLOCK_WAIT.find(f) {
            Some(_) => Some("waiting"),
            None if f.iter().any(|f| f.spinlock == Some(true)) => Some("maybe-held"),
            None if spinlock_decided(a) => Some("none"),
            None => None,
        }),
    })
}

fn signals(signals: &Signals) -> Value {
    let handler = |signal: i32| -> Option<&Handler> {
        signals
            .handlers
            .as_ref()?
            .iter()
            .find(|h| h.signal == signal)
    };
    let describe = |signal| {
        let h = handler(signal);
        json!({
            "handler": h.map(|h| h.address),
            "module": h.and_then(|h| h.module.as_ref()),
            "function": h.and_then(|h| h.function.as_ref()),
            "expected": h.and_then(|h| h.expected),
        })
    };
    json!({
        "SIGINT": describe(libc::SIGINT),
        "SIGTERM": describe(libc::SIGTERM),
        "SIGUSR1": describe(libc::SIGUSR1),
        "blocked": signals.blocked.map(signal_names),
        "pending": signals.pending.map(signal_names),
        "caught": signals.caught.map(signal_names),
        "ignored": signals.ignored.map(signal_names),
    })
}

fn stack(s: &Snapshot) -> Vec<Value> {
    let frames = s.stack.iter().flat_map(|s| &s.frames);
    frames
        .enumerate()
        .map(|(index, f)| {
            let mut frame = json!({
                "index": index,
                "ip": f.ip,
                "module": f.module,
                "offset": f.offset,
                "function": f.function,
                "inlined": f.inlined,
                "file": f.file,
                "line": f.line,
                "symbol_source": f.symbol_source,
                "found_by": f.found_by,
                "signal_frame": f.signal_frame,
                "extension": f.extension,
            });
            if let Some(known) = &f.variables {
                (frame["arguments"], frame["locals"]) = variables::json(known);
            }
            frame
        })
        .collect()
}
