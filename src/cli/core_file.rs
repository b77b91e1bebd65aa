//! A core file, until `pgpoke report --core` has it.

use super::open::{Failure, open, stop_budget};
use super::{CoreFileArgs, Exit, say};
use crate::evidence::core::{CoreError, CoreOptions, CoreReport, write};
use crate::postgres::prove;

/// Runs the command.
pub fn run(args: &CoreFileArgs) -> anyhow::Result<Exit> {
    match core(args) {
        Ok(report) => {
            say(&format!("{}\n", serde_json::to_string(&report)?));
            Ok(Exit::Done)
        }
        Err(failure) => Ok(failure.tell(args.pid, false, None)),
    }
}

fn core(args: &CoreFileArgs) -> Result<CoreReport, Failure> {
    let process = open(args.pid)?;
    prove(&process).map_err(|e| Failure::not_a_backend(e, &process))?;
    let options = CoreOptions {
        full: args.full,
        budget: stop_budget(&process, args.max_stop, false, None),
    };
    write(&process, &options, &args.output, &mut |_| ()).map_err(|e| match e {
        CoreError::Trace(e) => Failure::trace(e, &process),
        other => Failure {
            exit: Exit::Error,
            message: other.to_string(),
            detail: None,
            hint: None,
            outcome: None,
            told: None,
        },
    })
}
