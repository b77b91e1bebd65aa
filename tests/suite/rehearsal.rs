//! The rehearsal, with trainees that are scripts (`trainees/`): one that knows nothing but what is printed, and one that
//! does what one should not.

use std::process::Command;
use std::time::Duration;

use crate::containers::image;
use crate::harness::{Run, is_root, skip};
use crate::static_build;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Twice what the rehearsal itself allows for.
const PATIENCE: Duration = Duration::from_secs(240);

/// What comes of it, as its exit status says.
const WITHOUT_HARM: i32 = 0;
const NOT_FREED: i32 = 1;
const WITH_HARM: i32 = 3;

macro_rules! rehearse {
    ($way:expr, $trainee:expr) => {{
        if !is_root() {
            skip!("only root runs containers here");
        }
        if image("trixie").is_none() {
            skip!("no image of trixie: run scripts/build-containers.sh");
        }
        let Some(program) = static_build::executable() else {
            skip!("there is no static executable: run `make static`");
        };
        let mut command = Command::new(format!("{ROOT}/scripts/rehearsal.sh"));
        command.arg(program).args([$way, "--trainee"]);
        command.arg(format!("{ROOT}/tests/suite/trainees/{}.sh", $trainee));
        Run::within(PATIENCE, command)
    }};
}

#[test]
fn an_ignored_cancel() {
    let run = rehearse!("fifo", "reads-the-advice");
    run.assert_code(WITHOUT_HARM)
        .assert_says("Freed without harm: nothing was restarted");
}

#[test]
fn an_ignored_terminate() {
    let run = rehearse!("session", "reads-the-advice");
    run.assert_code(WITHOUT_HARM)
        .assert_says("Freed without harm: nothing was restarted");
}

#[test]
fn a_program_that_somebody_else_has_to_end() {
    let run = rehearse!("program", "reads-the-advice");
    run.assert_code(WITHOUT_HARM)
        .assert_says("which have that pipe open")
        .assert_says("Freed without harm");
}

#[test]
fn a_stopped_process() {
    let run = rehearse!("stopped", "reads-the-advice");
    run.assert_code(WITHOUT_HARM)
        .assert_says("kill -CONT")
        .assert_says("Freed without harm");
}

#[test]
fn a_loop_of_the_server_s_own() {
    let run = rehearse!("loop", "reads-the-advice");
    run.assert_code(WITHOUT_HARM)
        .assert_says("Freed without harm: nothing was restarted");
}

#[test]
fn a_client_that_does_not_read() {
    let run = rehearse!("client", "reads-the-advice");
    run.assert_code(WITHOUT_HARM)
        .assert_says("Freed without harm: nothing was restarted");
}

#[test]
fn kill_9_is_called_what_it_is() {
    let run = rehearse!("fifo", "loses-patience");
    run.assert_code(WITH_HARM)
        .assert_says("ended EVERY session");
}

#[test]
fn nothing_done_is_not_freed() {
    let run = rehearse!("stopped", "gives-up");
    run.assert_code(NOT_FREED).assert_says("It was not freed");
}
