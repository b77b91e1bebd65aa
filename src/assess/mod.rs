//! From a snapshot to a judgement: is it safe to step in, why is it stuck, what to do next.
//!
//! Pure functions of plain data. Each check is one function and one row in [`checks::TABLE`], each cause one
//! function and one row in [`cause::TABLE`].

pub mod advice;
pub mod cause;
pub mod checks;
pub mod consequences;
pub mod libraries;
pub mod likely;
pub mod locks;
pub mod looks;
pub mod rules;
pub mod samples;
pub mod stopping;

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::snapshot::Snapshot;

/// What the operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Request {
    /// Whatever is pending already.
    #[default]
    Pending,
    /// A cancel, as by pg_cancel_backend().
    Cancel,
    /// A terminate, as by pg_terminate_backend().
    Terminate,
}

/// What `ProcessInterrupts()` would act on first: terminate over cancel over barrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "interrupt")]
pub enum Interrupt {
    /// FATAL: the session ends.
    Terminate,
    /// ERROR: the statement ends.
    Cancel,
    /// A barrier is accepted; nothing ends.
    Barrier,
    /// There is nothing to act on.
    Nothing,
}

impl Interrupt {
    /// What would be acted on in this backend, were `request` made.
    pub fn of(snapshot: &Snapshot, request: Request) -> Self {
        let v = &snapshot.variables;
        if request == Request::Terminate || v.proc_die_pending == Some(true) {
            Interrupt::Terminate
        } else if request == Request::Cancel || v.query_cancel_pending == Some(true) {
            Interrupt::Cancel
        } else if v.proc_signal_barrier_pending == Some(true) {
            Interrupt::Barrier
        } else {
            Interrupt::Nothing
        }
    }
}

impl fmt::Display for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Interrupt::Terminate => "terminate",
            Interrupt::Cancel => "cancel",
            Interrupt::Barrier => "barrier",
            Interrupt::Nothing => "nothing",
        })
    }
}

/// Whether to step in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "verdict")]
pub enum Verdict {
    /// Every check passed at this instruction.
    Safe,
    /// A check warns.
    Risky,
    /// A check fails, or could not be decided.
    Unsafe,
    /// An interrupt would do nothing now.
    Pointless,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Safe => "safe",
            Verdict::Risky => "risky",
            Verdict::Unsafe => "unsafe",
            Verdict::Pointless => "pointless",
        })
    }
}

/// The verdicts for what could be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "verdict_if", deny_unknown_fields)]
pub struct VerdictIf {
    /// Had a cancel been asked for.
    pub cancel: Verdict,
    /// Had a terminate been asked for.
    pub terminate: Verdict,
}

/// The result of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "check_status")]
pub enum Status {
    /// No objection.
    Pass,
    /// A risk that can be accepted by name.
    Warn,
    /// An objection that cannot be overridden.
    Fail,
    /// Could not be decided.
    Unknown,
}

/// One check, done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "check", deny_unknown_fields)]
pub struct Check {
    /// Its stable name.
    #[schemars(with = "checks::Code")]
    pub code: &'static str,
    /// How it came out.
    pub status: Status,
    /// Why, naming the frame, the variable or the rule.
    #[schemars(length(min = 1))]
    pub detail: String,
    /// What it does to the verdict, and how weighty that is.
    #[serde(skip)]
    pub objection: Option<checks::Objection>,
}

/// Why the backend is stuck.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "cause", deny_unknown_fields)]
pub struct Cause {
    /// Its stable name.
    #[schemars(with = "cause::Code")]
    pub code: &'static str,
    /// One sentence.
    #[schemars(length(min = 1))]
    pub summary: String,
    /// What it rests on.
    pub evidence: Vec<String>,
}

/// The judgement of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assessment {
    /// What an interrupt would act on.
    pub interrupt: Interrupt,
    /// The verdict for that.
    pub verdict: Verdict,
    /// The verdicts for what could be asked.
    pub verdict_if: VerdictIf,
    /// Why it is stuck.
    pub cause: Cause,
    /// All checks, for what was asked.
    pub checks: Vec<Check>,
    /// What to do next.
    pub advice: Vec<advice::Advice>,
}

impl Assessment {
    /// The checks that decide the verdict.
    pub fn objections(&self) -> impl Iterator<Item = &Check> {
        let weight = checks::weight(&self.checks);
        self.checks
            .iter()
            .filter(move |c| c.objection.is_some() && c.objection.map(|o| o.weight) == weight)
    }

    /// The objection to what it is, if there is one that was not accepted, whatever else there is to object to.
    pub fn doubt(&self) -> Option<&Check> {
        let mut checks = self.checks.iter();
        checks.find(|c| c.code == "identity" && c.objection.is_some())
    }
}

/// Judges a snapshot for `request`. Warnings named in `allowed` do not count.
pub fn assess(snapshot: &Snapshot, request: Request, allowed: &[String]) -> Assessment {
    let interrupt = Interrupt::of(snapshot, request);
    let checks = checks::all(snapshot, interrupt, allowed);
    let verdict = verdict_of(&checks);
    let verdict_if = VerdictIf {
        cancel: verdict_of(&checks::all(snapshot, Interrupt::Cancel, allowed)),
        terminate: verdict_of(&checks::all(snapshot, Interrupt::Terminate, allowed)),
    };
    let cause = cause::find(snapshot);
    let mut assessment = Assessment {
        interrupt,
        verdict,
        verdict_if,
        cause,
        checks,
        advice: Vec::new(),
    };
    assessment.advice = advice::give(snapshot, &assessment, request);
    assessment
}

/// Only the verdict and the checks that lead to it: what is decided while a backend stands still.
pub fn verdict(snapshot: &Snapshot, request: Request, allowed: &[String]) -> (Verdict, Vec<Check>) {
    let checks = checks::all(snapshot, Interrupt::of(snapshot, request), allowed);
    (verdict_of(&checks), checks)
}

/// The weightiest objection decides.
fn verdict_of(checks: &[Check]) -> Verdict {
    checks
        .iter()
        .filter_map(|c| c.objection)
        .min_by_key(|o| o.weight)
        .map_or(Verdict::Safe, |o| o.verdict)
}

/// Says that a value is one of these names.
fn one_of(names: impl IntoIterator<Item = &'static str>) -> schemars::Schema {
    schemars::json_schema!({ "enum": names.into_iter().collect::<Vec<_>>() })
}
