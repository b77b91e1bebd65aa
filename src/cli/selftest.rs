//! `pgpoke selftest`

use std::time::Instant;

use super::{Exit, SelftestArgs, messages, say};
use crate::selftest::{Broken, run as promises};
use crate::tracee::TraceError;

/// Runs the command.
pub fn run(args: &SelftestArgs) -> anyhow::Result<Exit> {
    if let Some(played) = args.part.play() {
        return played.map(|()| Exit::Done);
    }
    let start = Instant::now();
    say(&format!("{}\n", system()));
    let (mut kept, mut all, mut denied) = (0, 0, false);
    for tried in promises() {
        all += 1;
        let ms = tried.took.as_secs_f64() * 1e3;
        match &tried.result {
            Ok(()) => {
                kept += 1;
                say(&format!("ok      {} ({ms:.1} ms)\n", tried.promise));
            }
            Err(e) => {
                // Where nothing may be traced, already the first is not to be had.
                denied |= all == 1 && matches!(e, Broken::Trace(TraceError::Denied(_)));
                say(&format!("FAILED  {}\n        {e}\n", tried.promise));
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    if kept == all {
        say(&format!(
            "all {all} promises hold here: what pgpoke does rests on them ({seconds:.2} s)\n"
        ));
        return Ok(Exit::Done);
    }
    let (exit, hint) = match denied {
        true => (
            Exit::Denied,
            "pgpoke may not even trace processes of its own here: a seccomp filter (of a container, for one) denies ptrace",
        ),
        false => (
            Exit::Error,
            "do not let pgpoke interrupt a backend on this kernel; inspect --passive borrows no frame. Please report this",
        ),
    };
    messages::error(
        &format!("{} of {all} promises do not hold here", all - kept),
        Some("no backend was touched"),
        Some(hint),
    );
    Ok(exit)
}

/// Which kernel, and on what.
fn system() -> String {
    let name = nix::sys::utsname::uname();
    let text = |part: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
        name.as_ref()
            .map(|n| part(n).to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    format!(
        "{} {} {}",
        text(|n| n.sysname()),
        text(|n| n.release()),
        text(|n| n.machine())
    )
}
