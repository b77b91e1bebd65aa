//! `pgpoke selftest`: what the kernel promises, seen here, and seen not to hold where it does not.

use std::process::Command;
use std::time::Duration;

use super::figure;
use crate::harness::{Run, as_other_user, is_root, pgpoke, skip};

const PROMISES: usize = 11;

fn kept(run: &Run) -> usize {
    run.stdout.lines().filter(|l| l.starts_with("ok ")).count()
}

#[test]
fn all_promises_hold_here() {
    let run = Run::pgpoke(["selftest"]);
    run.assert_code(0);
    assert_eq!(kept(&run), PROMISES, "{run}");
    assert_eq!(run.stderr, "", "{run}");
    figure("selftest, s", run.elapsed.as_secs_f64());
    // Below a second where nothing else runs; here, other tests do.
    assert!(run.elapsed < Duration::from_secs(10), "{run}");
}

#[test]
fn an_ordinary_user_sees_the_same() {
    if !is_root() {
        skip!("the tests are run by an ordinary user anyway");
    }
    let mut command = pgpoke();
    command.arg("selftest");
    let run = Run::of(as_other_user(command));
    run.assert_code(0);
    assert_eq!(kept(&run), PROMISES, "{run}");
}

/// The selftest, on a kernel that does otherwise at these calls of ptrace(2).
fn on_another_kernel(otherwise: &str) -> Run {
    let mut command = Command::new("strace");
    // Not -f: it would trace the victims itself.
    command.args(["-qq", "-o", "/dev/null", "-e", "trace=ptrace"]);
    command.args(["-e", &format!("inject=ptrace:{otherwise}"), "--"]);
    command.arg(pgpoke().get_program()).arg("selftest");
    Run::of(command)
}

#[test]
fn a_kernel_that_denies_it_is_told_from_one_that_does_otherwise() {
    let run = on_another_kernel("error=EPERM");
    run.assert_code(6);
    assert!(run.stderr.contains("may not even trace"), "{run}");
}

#[test]
fn a_promise_that_does_not_hold_is_noticed() {
    let mut noticed = 0;
    // Calls that do nothing and claim to have worked: to seize, to stop, to read registers, to set the mask, …
    for nth in (1..60).step_by(4) {
        let run = on_another_kernel(&format!("retval=0:when={nth}"));
        if run.code() == Some(1) {
            assert!(run.stdout.contains("FAILED  "), "{run}");
            assert!(run.stderr.contains("Do not let pgpoke interrupt"), "{run}");
            noticed += 1;
        } else {
            // A request that nothing depended on; or pgpoke's own fuse.
            assert!(matches!(run.code(), Some(0 | 8)), "{run}");
        }
    }
    assert!(noticed >= 5, "only {noticed} of 15 were noticed");
}
