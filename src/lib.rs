//! pgpoke: why is a PostgreSQL backend stuck, and is it safe to make it process its interrupt from outside?
//!
//! # The journey
//!
//! A PID comes in at the street door, becomes facts, the facts become a judgement, and only then does a hand reach
//! into the backend. Imports point one way, down this list:
//!
//! * [`cli`]: the commands, their options and exit codes.
//! * [`selftest`]: does this kernel keep what a borrowed frame rests on, tried on processes of our own.
//! * [`render`]: an assessment and an outcome as text or JSON.
//! * [`evidence`]: what is kept of a stuck backend for those who look for the fault later: a bundle of files, a core file.
//! * [`intervene`]: the ladder: signal, wait, find a safe instruction, ask the operator, call, watch, report the outcome.
//! * [`assess`]: pure functions from a snapshot to checks, a cause, a verdict and advice.
//! * [`snapshot`]: everything learned in one stop, as plain data that serialises; and the one place that takes it.
//! * [`postgres`]: what PostgreSQL means: which process is a backend, its version, its variables.
//! * [`unwind`]: frames from registers, memory and call-frame information; every frame says how it was found.
//! * [`tracee`]: the only door to ptrace: seize, stop, registers, signals, the borrowed signal frame.
//! * [`image`]: mapped ELF images: build-id, symbols, debug information, unwind sections.
//! * [`target`]: where a look comes from: a living process, or what was left of one.
//! * [`arch`]: everything that knows a processor, one folder for each: registers, system calls, machine code.
//! * [`process`]: what `/proc` tells without stopping anything, and why an attach would be refused.
//! * [`memory`]: reading bytes at an address, of a living process or of a captured stop.
//! * [`address`]: addresses, each kind a type of its own.
//! * [`sys`]: the system calls that no package wraps as we need them.
//!
//! What `pgpoke inspect` does, in the library's words:
//!
//! ```no_run
//! use std::time::Duration;
//! use pgpoke::assess::{Request, assess};
//! use pgpoke::{postgres::prove, process::Process, snapshot::Plan};
//! use pgpoke::tracee::{StopBudget, Tracee};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let process = Process::open(12345)?; // pinned: never another process that gets this PID
//! let backend = prove(&process)?; // by its executable, its memory and its parent
//! let plan = Plan::new(&backend); // what to copy, worked out while the backend runs
//!
//! let mut tracee = Tracee::seize(&process, &StopBudget::default())?; // does not stop it
//! let stopped = tracee.stop(Duration::from_secs(1))?;
//! let capture = plan.capture(&stopped)?; // registers, stack, variables: bytes, and nothing else
//! let stood_still = stopped.stopped_for();
//! stopped.keep();
//! drop(tracee); // the backend runs again
//!
//! let snapshot = plan.interpret(&capture, true, stood_still); // unwind and name the copy
//! let assessment = assess(&snapshot, Request::Pending, &[]);
//! println!("{}: {}", assessment.verdict, assessment.cause.summary);
//! # Ok(())
//! # }
//! ```
//!
//! And what `pgpoke interrupt --cancel` does, with somebody of yours to ask:
//!
//! ```no_run
//! use pgpoke::intervene::{Ladder, Operator, Orders, Question, interrupt};
//! use pgpoke::{assess::Request, process::Process};
//!
//! /// Steps in wherever that is safe; what is not is refused anyway.
//! struct Always;
//! impl Operator for Always {
//!     fn ask(&mut self, _: &Question<'_>) -> bool {
//!         true
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let process = Process::open(12345)?;
//! let orders = Orders::new(Request::Cancel);
//! let done = interrupt(&process, &orders, &mut Ladder::new(&mut Always))?;
//! println!("{:?}: {}", done.report.outcome, done.report.detail);
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod address;
pub mod arch;
pub mod assess;
pub mod cli;
pub mod evidence;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod image;
pub mod intervene;
pub mod memory;
pub mod postgres;
pub mod process;
pub mod render;
pub mod selftest;
pub mod snapshot;
pub mod sys;
pub mod target;
pub mod tracee;
pub mod unwind;
