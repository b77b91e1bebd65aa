//! A server that is being stopped: how far it has come, as the processes that are left show, and for whom it waits.

use crate::postgres::BackendType;
use crate::snapshot::{Glance, Stage};

/// How far a server has come, by a glance at each of its processes. None where it was not told to stop.
pub fn stage(all: &[&Glance]) -> Option<Stage> {
    use BackendType::*;
    if !all.iter().any(|g| g.server_stopping == Some(true)) {
        return None;
    }
    let any = |kinds: &[BackendType]| all.iter().any(|g| kinds.contains(&g.backend_type));
    if any(&[Unknown, Standalone]) {
        return Some(Stage::Told);
    }
    let checkpointer = all.iter().find(|g| g.backend_type == Checkpointer);
    // These are told at the same moment as sessions are, and do nothing that takes long.
    let tellers = [BackgroundWriter, WalWriter, AutovacuumLauncher];
    let sessions = [
        Client,
        AutovacuumWorker,
        BackgroundWorker,
        SlotSync,
        Startup,
        WalReceiver,
        WalSummarizer,
    ];
    Some(match checkpointer {
        // An immediate shutdown ends it, and sends no SIGTERM.
        Some(_) if any(&tellers) => Stage::Told,
        Some(_) if any(&sessions) => Stage::SessionsTold,
        _ if any(&tellers) || any(&sessions) => Stage::Told,
        None => Stage::Last,
        // 18 and later: it is told to end when all others are gone.
        Some(c)
            if c.wait
                .as_ref()
                .is_some_and(|w| w.is("CheckpointerShutdown")) =>
        {
            Stage::Last
        }
        Some(c) => {
            let call = c.process.syscall.as_ref();
            // It looks every 10 ms whether they have (pg_usleep()); a checkpoint sleeps at its latch.
            match call.is_some_and(|c| super::cause::short_sleep(c).is_some()) {
                true => Stage::SendersTold,
                false => Stage::Checkpoint,
            }
        }
    })
}

/// Whether the server cannot come to its end before this process has.
pub fn waits_for(g: &Glance) -> bool {
    use BackendType::*;
    let Some(stage) = g.stage.filter(|_| g.server_stopping == Some(true)) else {
        return false;
    };
    match g.backend_type {
        Client | AutovacuumWorker | BackgroundWorker | SlotSync | Startup | WalReceiver
        | WalSummarizer => stage == Stage::SessionsTold,
        WalSender => {
            let heeds = g.stream.is_none_or(|s| s.stopping);
            stage == Stage::Last || stage == Stage::SendersTold && !heeds
        }
        Archiver => stage == Stage::Last,
        _ => false,
    }
}

/// Whether SIGTERM was sent to it and came to nothing: the flag that its handler sets is not set, and it is not ending.
pub fn was_told_in_vain(g: &Glance) -> bool {
    let v = &g.variables;
    g.backend_type == BackendType::Client
        && waits_for(g)
        && crate::snapshot::Signals::has(g.signals.pending, libc::SIGTERM) == Some(false)
        && v.proc_die_pending == Some(false)
        && v.proc_exit_in_progress == Some(false)
}
