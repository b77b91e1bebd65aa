//! `pgpoke selftest`: what the kernel promises, seen here, and seen not to hold where it does not.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use object::{Object, ObjectSymbol, Symbol};

use super::figure;
use crate::harness::{DEADLINE, Run, as_other_user, checked, is_root, pgpoke, skip, wait_for};

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

/// The process that computes misses each kind of register that somebody else changes.
#[test]
fn a_change_of_any_register_is_noticed() {
    let mut victim = pgpoke();
    victim.args(["selftest", "--victim", "computes"]);
    victim.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut victim = victim.spawn().expect("pgpoke");
    let pid = victim.id().to_string();
    let dir = tempfile::tempdir().expect("a directory");
    let change = dir.path().join("change");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/safety/change.c");
    checked((Command::new("cc").args(["-O1", "-Wall", "-o"])).args([&change, &source]));
    let bytes = fs::read(pgpoke().get_program()).expect("pgpoke itself");
    let file = object::File::parse(&*bytes).expect("an ELF file");
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("its maps");
    let start = maps.split('-').next().expect("where it is loaded");
    let bias = u64::from_str_radix(start, 16).expect("an address");
    let counter = |name: &str| {
        let is = |s: &Symbol| {
            s.name()
                .is_ok_and(|n| n.contains("selftest4arch") && n.contains(name))
        };
        let symbol = file.symbols().find(is);
        let at = bias + symbol.unwrap_or_else(|| panic!("no {name}")).address();
        let memory = File::open(format!("/proc/{pid}/mem")).expect("its memory");
        move || {
            let mut bytes = [0; 8];
            memory.read_exact_at(&mut bytes, at).expect("a counter");
            u64::from_le_bytes(bytes)
        }
    };
    let (rounds, damage) = (counter("ROUNDS"), counter("DAMAGE"));
    wait_for(DEADLINE, "it shall compute", || {
        (rounds() > 1).then_some(())
    });
    let mut registers = vec!["r9", "rbp", "st2", "fctrl", "mxcsr", "xmm1"];
    if is_x86_feature_detected!("avx") {
        registers.push("ymm3");
    }
    if is_x86_feature_detected!("avx512f") {
        registers.extend(["zmm3", "zmm20", "k3"]);
    }
    for (before, register) in registers.iter().enumerate() {
        assert_eq!(damage(), before as u64, "before {register} is changed");
        let mut command = Command::new(&change);
        command.args([&pid, *register]);
        Run::of(command).assert_code(0);
        wait_for(DEADLINE, &format!("{register} shall be missed"), || {
            (damage() > before as u64).then_some(())
        });
    }
    figure("registers changed, and missed", registers.join(" "));
    victim.kill().expect("a child");
    victim.wait().expect("a child");
}
