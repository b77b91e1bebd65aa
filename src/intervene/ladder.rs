//! The ladder, as values: signal, wait for the backend to obey, look, gather a report, ask, step in, verify; and from a cancel that had no
//! effect to a terminate, where the operator said so. Each rung is reported as plain data.

use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Serialize;

use super::climb::{News, Operator};
use super::{Outcome, Report};
use crate::assess::Verdict;
use crate::assess::checks::{self, Weight};

/// One rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "rung")]
pub enum Rung {
    /// The signal of pg_cancel_backend() or pg_terminate_backend() is sent.
    Signal,
    /// The backend is given time to obey it.
    Wait,
    /// It is stopped, copied, let go, and judged.
    Look,
    /// What a maintainer will ask for is gathered, while it is still to be had.
    Report,
    /// The operator is asked.
    Ask,
    /// A safe instruction is looked for, and `ProcessInterrupts()` is called there.
    StepIn,
    /// What came of it is seen from outside.
    Verify,
    /// A cancel had no effect: whether a terminate comes next.
    Escalate,
}

/// A rung that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Which.
    pub rung: Rung,
    /// What was done, and what came of it.
    pub detail: String,
    /// How long that took.
    pub took: Duration,
}

/// The rungs that were taken, and who is told of each.
pub struct Ladder<'o> {
    operator: &'o mut dyn Operator,
    steps: Vec<Step>,
}

/// A limit, as short as it was given.
pub fn seconds(d: Duration) -> String {
    format!("{} s", d.as_secs_f64())
}

impl<'o> Ladder<'o> {
    /// At its foot.
    pub fn new(operator: &'o mut dyn Operator) -> Self {
        Ladder {
            operator,
            steps: Vec::new(),
        }
    }

    /// Tells the operator.
    pub(super) fn tell(&mut self, news: News<'_>) {
        self.operator.tell(news);
    }

    pub(super) fn operator(&self) -> &dyn Operator {
        self.operator
    }

    /// Takes a rung: says what is waited for, does it, and says in the words of `told` what came of it.
    pub fn climb<T>(
        &mut self,
        rung: Rung,
        (what, limit): (&str, Option<Duration>),
        act: impl FnOnce() -> T,
        told: impl FnOnce(&T) -> String,
    ) -> T {
        self.climb_with(rung, (what, limit), |_| act(), told)
    }

    /// The same of what the operator does.
    pub fn climb_with<T>(
        &mut self,
        rung: Rung,
        (what, limit): (&str, Option<Duration>),
        act: impl FnOnce(&mut dyn Operator) -> T,
        told: impl FnOnce(&T) -> String,
    ) -> T {
        self.tell(News::Begins { rung, what, limit });
        let start = Instant::now();
        let result = act(self.operator);
        let step = Step {
            rung,
            detail: told(&result),
            took: start.elapsed(),
        };
        self.tell(News::Ended(&step));
        self.steps.push(step);
        result
    }

    /// All that were taken.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The same, for keeps.
    pub fn into_steps(self) -> Vec<Step> {
        self.steps
    }
}

/// Why a cancel that came out so is not followed by a terminate; none where it had no effect, and a terminate may have
/// one.
///
/// `terminate` is the verdict that a terminate would have had at the close look. The table of this is in
/// `docs/how-it-works.md`.
pub fn no_escalation(report: &Report, confirmed: bool, terminate: Verdict) -> Option<&'static str> {
    let weight = checks::weight(&report.objections);
    match report.outcome {
        Outcome::Cancelled
        | Outcome::Terminated
        | Outcome::BarrierAccepted
        | Outcome::ObeyedSignal => Some("the cancel took effect"),
        Outcome::Crashed => Some("the backend crashed"),
        // Whatever is done to it meets that call.
        Outcome::TimedOut => Some("what came of the cancel is not known yet"),
        Outcome::Returned => None,
        Outcome::Refused | Outcome::Pointless | Outcome::DryRun if !confirmed => {
            Some("the question was not answered with yes")
        }
        Outcome::DryRun => Some("the cancel would be processed"),
        Outcome::Refused | Outcome::Pointless => match weight {
            Some(Weight::Identity) => Some("it is not to be interrupted in any way"),
            Some(Weight::Occasion) => Some("there is nothing that a terminate could reach now"),
            Some(Weight::CriticalSection) => {
                Some("in a critical section a terminate would wait as the cancel does")
            }
            _ if terminate == Verdict::Pointless => {
                Some("a terminate would be pointless for the same reason")
            }
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::climb::Question;
    use super::*;
    use crate::assess::{Check, Status};

    fn report(outcome: Outcome, weight: Option<Weight>) -> Report {
        let mut report = Report::new(outcome, "for a test");
        report.objections.extend(weight.map(|weight| Check {
            code: "a-check",
            status: Status::Fail,
            detail: String::new(),
            objection: Some(checks::Objection {
                weight,
                verdict: Verdict::Unsafe,
            }),
        }));
        report
    }

    #[test]
    fn a_terminate_follows_only_a_cancel_without_effect() {
        let goes_on = |outcome, weight, terminate| {
            no_escalation(&report(outcome, weight), true, terminate).is_none()
        };
        use Outcome::*;
        for done in [
            Cancelled,
            Terminated,
            BarrierAccepted,
            ObeyedSignal,
            Crashed,
            TimedOut,
            DryRun,
        ] {
            assert!(!goes_on(done, None, Verdict::Safe), "{done:?}");
        }
        assert!(goes_on(Returned, None, Verdict::Safe));
        for outcome in [Refused, Pointless] {
            for weight in [Weight::Danger, Weight::Risk, Weight::HeldOff] {
                assert!(goes_on(outcome, Some(weight), Verdict::Safe), "{weight:?}");
                assert!(goes_on(outcome, Some(weight), Verdict::Unsafe));
                assert!(!goes_on(outcome, Some(weight), Verdict::Pointless));
            }
            for weight in [Weight::Identity, Weight::Occasion, Weight::CriticalSection] {
                assert!(!goes_on(outcome, Some(weight), Verdict::Safe), "{weight:?}");
            }
        }
        let declined = report(Refused, Some(Weight::Danger));
        assert!(no_escalation(&declined, false, Verdict::Safe).is_some());
    }

    #[test]
    fn each_rung_is_told_as_it_ends() {
        struct Heard(Vec<String>);
        impl Operator for Heard {
            fn ask(&mut self, _: &Question<'_>) -> bool {
                false
            }
            fn tell(&mut self, news: News<'_>) {
                match news {
                    News::Begins { rung, what, .. } => {
                        self.0.push(format!("{rung:?} begins: {what}"));
                    }
                    News::Ended(step) => self.0.push(format!("{:?}: {}", step.rung, step.detail)),
                    _ => {}
                }
            }
        }
        let mut heard = Heard(Vec::new());
        let mut ladder = Ladder::new(&mut heard);
        let n = ladder.climb(Rung::Wait, ("seven", None), || 7, |n| format!("it is {n}"));
        assert_eq!(n, 7);
        assert_eq!(ladder.steps().len(), 1);
        assert_eq!(ladder.steps()[0].detail, "it is 7");
        assert_eq!(heard.0, ["Wait begins: seven", "Wait: it is 7"]);
    }
}
