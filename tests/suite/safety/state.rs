use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::driver::Driver;
use super::seen::SeenFile;
use super::{figure, times};
use crate::harness::{Backend, DEADLINE, Server, Stuck, server_with_testext, wait_for};

const FRAMES: usize = 10_000;

/// A backend whose registers, flags, xsave area, red zone, errno, signal mask, pending signals and alternate stack
/// are checked in a loop, while frames are borrowed from it.
fn keeps_everything(kind: &str, number: usize) {
    let server = server_with_testext!();
    let seen = SeenFile::new(&server, kind);
    let stuck = server.stuck(&format!("SELECT pgpoke_keeps({}, '{kind}')", seen.sql()));
    let mut driver = Driver::new(stuck.pid());
    let before = seen.rounds.load(SeqCst);
    let mut frames = 0;
    while frames < number {
        let step = driver.order("frames 500");
        frames += step;
        assert!(step > 0 || driver.fuses < 20, "no headway");
        // Not because it had ended.
        if let Some(outcome) = stuck.ended_within(Duration::ZERO) {
            panic!("after {frames} frames: {outcome:?}");
        }
    }
    let fuses = driver.fuses;
    drop(driver);
    stuck.backend().assert_running_untraced();
    let rounds = seen.rounds.load(SeqCst) - before;
    assert!(rounds > 10, "it has looked at itself {rounds} times only");
    let at_the_end = seen.rounds.load(SeqCst);
    wait_for(DEADLINE, "it shall go on", || {
        (seen.rounds.load(SeqCst) > at_the_end + 1).then_some(())
    });
    seen.end.store(1, SeqCst);
    let rows = stuck.result().expect("the victim's answer");
    let answer = rows[0][0].clone().expect("a text");
    assert!(answer.starts_with("ok, "), "{answer}");
    // None of the carriers was left to its own handler but by a fuse.
    let carriers = seen.others[libc::SIGUSR1 as usize].load(SeqCst);
    assert!(
        carriers <= 3 * fuses as i64,
        "{carriers} with {fuses} fuses"
    );
    figure(
        &format!("frames that returned, {kind}"),
        format!("{frames} in {rounds} rounds of checks, {fuses} fuses"),
    );
    assert_eq!(
        stuck.run_follow_up("SELECT 1"),
        Ok(vec![vec![Some("1".to_owned())]])
    );
    server.assert_unharmed();
}

#[test]
fn ten_thousand_frames_change_nothing() {
    keeps_everything("plain", FRAMES);
}

#[test]
fn frames_on_an_alternate_stack_change_nothing() {
    keeps_everything("altstack", times(2_000, FRAMES));
}

#[test]
fn frames_on_an_alternate_stack_that_is_disarmed_change_nothing() {
    keeps_everything("autodisarm", times(2_000, FRAMES));
}

/// What is done to a backend that is blocked in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disturbance {
    /// An ordinary SIGUSR1.
    Signal,
    /// Borrowed frames, in one stop.
    Frames,
    /// SIGSTOP and SIGCONT.
    StopAndContinue,
    /// A look without a frame.
    Look,
}

/// What a call that blocks has as its other side.
enum Peer {
    None,
    Socket(UnixStream),
}

struct Blocked<'s> {
    stuck: Stuck<'s>,
    seen: SeenFile,
    peer: Peer,
    syscalls: &'static [i64],
}

impl<'s> Blocked<'s> {
    fn new(server: &'s Server, call: &Call, name: &str) -> Self {
        let seen = SeenFile::new(server, name);
        let path: PathBuf = server.directory().join(format!("{name}-peer"));
        let listener = call.connects.then(|| {
            let listener = UnixListener::bind(&path).expect("a socket");
            // The server may run as somebody else.
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))
                .expect("its permissions");
            listener
        });
        let peer = listener
            .as_ref()
            .map_or("", |_| path.to_str().expect("a path in /tmp"));
        let sql = format!(
            "SELECT pgpoke_blocks({}, '{}', '{peer}', {})",
            seen.sql(),
            call.kind,
            MILLISECONDS
        );
        let stuck = server.stuck(&sql);
        let peer = match listener {
            Some(listener) => Peer::Socket(listener.accept().expect("the backend").0),
            None => Peer::None,
        };
        let blocked = Blocked {
            stuck,
            seen,
            peer,
            syscalls: call.syscalls,
        };
        blocked.wait_until_blocked();
        blocked
    }

    /// In the call, asleep, and nobody's tracee. Between two calls it does not sleep.
    #[track_caller]
    fn wait_until_blocked(&self) {
        let in_call = |backend: &Backend| {
            // After a stop, the kernel goes on with what was left of a timed call through one of its own.
            let here = |n: i64| self.syscalls.contains(&n) || n == libc::SYS_restart_syscall;
            backend.tracer_pid() == 0
                && backend.state() == Some('S')
                && backend.syscall().is_some_and(here)
        };
        self.stuck
            .wait_until("it shall be blocked", DEADLINE, in_call);
    }

    fn signals(&self) -> i64 {
        self.seen.others[libc::SIGUSR1 as usize].load(SeqCst)
    }

    #[track_caller]
    fn signal(&self) {
        let before = self.signals();
        self.stuck.backend().send(libc::SIGUSR1);
        wait_for(DEADLINE, "its handler shall have run", || {
            (self.signals() > before).then_some(())
        });
    }

    #[track_caller]
    fn disturb(&self, how: Disturbance, driver: &mut Option<Driver>) {
        let backend = self.stuck.backend();
        match how {
            Disturbance::Signal => self.signal(),
            Disturbance::StopAndContinue => {
                backend.send(libc::SIGSTOP);
                wait_for(DEADLINE, "it shall stop", || {
                    (backend.state() == Some('T')).then_some(())
                });
                backend.send(libc::SIGCONT);
            }
            Disturbance::Frames | Disturbance::Look => {
                let driver = driver.get_or_insert_with(|| Driver::new(self.stuck.pid()));
                let order = match how {
                    Disturbance::Frames => "frames 1",
                    _ => "look",
                };
                // Where the fuse blew, somewhere in between, there is nothing to compare.
                assert!(driver.order(order) > 0, "a stop of {how:?} took too long");
                let mine = backend.tracer_pid();
                assert_eq!(mine, 0, "still traced");
            }
        }
        self.wait_until_blocked();
    }

    /// What each return came to, after it got what it waits for.
    #[track_caller]
    fn end(mut self, sleeps: bool) -> Vec<(i64, i64)> {
        self.seen.end.store(1, SeqCst);
        match &mut self.peer {
            Peer::Socket(socket) => socket.write_all(b"!").expect("a byte"),
            // Nothing else wakes a sleeper.
            Peer::None if sleeps => self.stuck.backend().send(libc::SIGUSR1),
            Peer::None => self.seen.wake(),
        }
        self.stuck.result().expect("a call that has returned");
        let returns = self.seen.returns.load(SeqCst) as usize;
        let (result, error) = (&self.seen.result, &self.seen.error);
        for n in 0..returns {
            let left = self.seen.left[n].load(SeqCst);
            if left >= 0 {
                // Time passes between the calls, and none is lost: what had passed and what is left is never less than
                // the whole, and not much more.
                let whole = i64::from(MILLISECONDS) * 1_000_000;
                let sum = left + self.seen.elapsed[n].load(SeqCst);
                assert!(
                    (whole..whole + 5_000_000_000).contains(&sum),
                    "{sum} of {whole} ns"
                );
            }
        }
        (0..returns)
            .map(|n| (result[n].load(SeqCst), error[n].load(SeqCst)))
            .collect()
    }
}

struct Call {
    kind: &'static str,
    syscalls: &'static [i64],
    connects: bool,
    sleeps: bool,
}

/// Longer than any test takes.
const MILLISECONDS: i32 = 300_000;

/// A backend in `call` behaves under borrowed frames as under so many SIGUSR1, and under looks as under SIGSTOP and
/// SIGCONT, which is all that the kernel promises of a stop.
fn behaves_alike(kind: &'static str, syscalls: &'static [i64], connects: bool) {
    let server = server_with_testext!();
    let sleeps = kind.contains("sleep");
    let call = &Call {
        kind,
        syscalls,
        connects,
        sleeps,
    };
    let number = times(6, 50);
    let returns = |how: Disturbance| {
        let blocked = Blocked::new(&server, call, &format!("{kind}-{how:?}"));
        let mut driver = None;
        for _ in 0..number {
            blocked.disturb(how, &mut driver);
        }
        drop(driver);
        blocked.end(call.sleeps)
    };
    let [signals, frames, stops, looks] = [
        Disturbance::Signal,
        Disturbance::Frames,
        Disturbance::StopAndContinue,
        Disturbance::Look,
    ]
    .map(returns);
    assert_eq!(frames, signals, "{kind}: frames, and signals");
    assert_eq!(looks, stops, "{kind}: looks, and stops");
    let interrupted = signals
        .iter()
        .filter(|r| r.1 == i64::from(libc::EINTR))
        .count();
    // Of a sleeper, one more is what ends it.
    let interrupted = interrupted - usize::from(sleeps);
    assert!(interrupted == 0 || interrupted == number, "{signals:?}");
    let how = |n| if n == 0 { "restarted" } else { "EINTR" };
    figure(
        &format!("{kind} under {number} frames, as under SIGUSR1"),
        how(interrupted),
    );
    let stopped = looks
        .iter()
        .filter(|r| r.1 == i64::from(libc::EINTR))
        .count();
    figure(
        &format!("{kind} under {number} looks, as under SIGSTOP"),
        how(stopped - usize::from(sleeps)),
    );
    server.assert_unharmed();
}

macro_rules! behaves_alike {
    ($($name:ident: $kind:literal, [$($syscall:ident),+], $connects:literal;)+) => {$(
        #[test]
        fn $name() {
            behaves_alike($kind, &[$(libc::$syscall),+], $connects);
        }
    )+};
}

behaves_alike! {
    a_read_in_progress: "read", [SYS_read], true;
    a_recv_in_progress: "recv", [SYS_recvfrom], true;
    a_poll_in_progress: "poll", [SYS_poll, SYS_ppoll], true;
    an_epoll_wait_in_progress: "epoll_wait", [SYS_epoll_wait, SYS_epoll_pwait], true;
    a_nanosleep_in_progress: "nanosleep", [SYS_nanosleep, SYS_clock_nanosleep], false;
    a_clock_nanosleep_in_progress: "clock_nanosleep", [SYS_clock_nanosleep], false;
    a_futex_wait_in_progress: "futex", [SYS_futex], false;
    a_timed_futex_wait_in_progress: "futex_timed", [SYS_futex], false;
    a_sem_wait_in_progress: "sem_wait", [SYS_futex], false;
}
