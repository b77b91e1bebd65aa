//! `pgpoke selftest`

use std::time::Instant;

use super::exit::{End, Exit};
use super::{SelftestArgs, messages, say};
use crate::render::screen::Screen;
use crate::render::selftest;
use crate::selftest::{Broken, run as promises};
use crate::tracee::TraceError;

/// Runs the command.
pub fn run(args: &SelftestArgs) -> anyhow::Result<Exit> {
    if let Some(played) = args.part.play() {
        return played.map(|()| End::AllKept.exit());
    }
    let start = Instant::now();
    say(&format!("{}\n", system()));
    let screen = Screen::stdout();
    let (mut kept, mut all, mut denied) = (0, 0, false);
    for tried in promises() {
        all += 1;
        let broken = tried.result.as_ref().err();
        kept += usize::from(broken.is_none());
        // Where nothing may be traced, already the first is not to be had.
        denied |= all == 1 && matches!(broken, Some(Broken::Trace(TraceError::Denied(_))));
        let why = broken.map(Broken::to_string);
        say(&selftest::promise(
            tried.promise,
            tried.took,
            why.as_deref(),
            screen,
        ));
    }
    let seconds = start.elapsed().as_secs_f64();
    if kept == all {
        say(&selftest::all_kept(all, seconds, screen));
        return Ok(End::AllKept.exit());
    }
    let (end, hint) = match denied {
        true => (
            End::NothingTraced,
            "pgpoke may not even trace processes of its own here: a seccomp filter (of a container, for one) denies ptrace",
        ),
        false => (
            End::OneBroken,
            "do not let pgpoke interrupt a backend on this kernel; inspect --passive borrows no frame. Please report this",
        ),
    };
    messages::error(
        &format!("{} of {all} promises do not hold here", all - kept),
        Some("no backend was touched"),
        Some(hint),
    );
    Ok(end.exit())
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
