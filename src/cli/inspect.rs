//! `pgpoke inspect`

use super::exit::{End, Exit};
use super::open::{Failure, open, stop_budget};
use super::patience::Patience;
use super::{InspectArgs, messages, say, watch};
use crate::assess::looks::JUDGE;
use crate::assess::{Request, assess};
use crate::postgres::prove_with;
use crate::render::screen::Screen;
use crate::render::{json, text};
use crate::snapshot::looks::{BETWEEN_SAMPLES, Looks, STOP_LIMIT};
use crate::snapshot::{Plan, Snapshot, zombie};

/// Runs the command.
pub fn run(args: &InspectArgs) -> anyhow::Result<Exit> {
    let pid = args.target.pid();
    if args.watch {
        return watch::run(args, pid);
    }
    match inspect(args, pid) {
        Ok((snapshot, end)) => {
            messages::warnings(&snapshot.warnings);
            let assessment = assess(&snapshot, Request::Pending, &[]);
            say(&if args.json {
                json::inspection(&snapshot, &assessment)
            } else {
                text::inspection(&snapshot, &assessment, args.stack, Screen::stdout())
            });
            Ok(end.unwrap_or(End::from(assessment.verdict)).exit())
        }
        Err(failure) => Ok(failure.tell(pid, args.json, None)),
    }
}

/// What was seen, and where that is not by the verdict, how it ends.
fn inspect(args: &InspectArgs, pid: i32) -> Result<(Snapshot, Option<End>), Failure> {
    let samples = (STOP_LIMIT + BETWEEN_SAMPLES) * args.samples;
    let _patience = Patience::with(pid, samples, args.json, None);
    let process = open(pid)?;
    let backend = match prove_with(&process, args.debug_files.find()) {
        Ok(backend) => backend,
        Err(e) => match zombie(&process) {
            Some(snapshot) => return Ok((snapshot, None)),
            None => return Err(Failure::not_a_backend(e, &process)),
        },
    };
    let plan = match args.locals {
        true => Plan::new(&backend).with_variables(),
        false => Plan::new(&backend),
    };
    let budget = stop_budget(&process, args.max_stop, args.json, None);
    let looks = Looks {
        passive: args.passive,
        samples: args.samples,
        pause: BETWEEN_SAMPLES,
        more: true,
        judge: JUDGE,
    };
    let taken = looks.take(&plan, &budget, |_| ());
    let (snapshot, _) = taken.map_err(|e| Failure::look(e, &process))?;
    // It ran on, but not in time: that is an answer of its own, unless the kernel's state explains it.
    let end = (snapshot.process.would_not_stop && snapshot.process.state != Some('D'))
        .then_some(End::WouldNotStop);
    Ok((snapshot, end))
}
