use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use postgres::NoTls;

use super::driver::Driver;
use super::killed::{Moments, Target, assert_sane_exit, time_of_an_inspection};
use super::seen::SeenFile;
use super::{figure, times};
use crate::harness::{Backend, DEADLINE, How, Run, pgpoke, server_with_testext, wait_for};

const STANDARD: [i32; 5] = [
    libc::SIGUSR1,
    libc::SIGINT,
    libc::SIGALRM,
    libc::SIGHUP,
    libc::SIGCHLD,
];

/// Real-time signals queue: so many are sent at a time.
const BURST: i64 = 8;

/// The real-time signals that the victim counts.
fn real_time() -> [i32; 3] {
    [1, 2, 3].map(|n| libc::SIGRTMIN() + n)
}

/// Signals of every kind to one backend, each counted by it, until it is told to stop.
///
/// Of a standard signal only one can wait, so the next is sent when the victim has counted the last: then all that
/// were sent are counted, if none is lost, and no more are, if none is doubled.
struct Storm<'a> {
    pid: i32,
    seen: &'a SeenFile,
    over: AtomicBool,
    sent: [AtomicU64; 65],
}

impl<'a> Storm<'a> {
    fn new(pid: i32, seen: &'a SeenFile) -> Self {
        seen.sender.store(std::process::id().into(), SeqCst);
        Storm {
            pid,
            seen,
            over: AtomicBool::new(false),
            sent: [const { AtomicU64::new(0) }; 65],
        }
    }

    fn send(&self, signal: i32, nth: i64, by: i64) {
        let value = (i64::from(signal) << 32) | nth;
        let value = libc::sigval {
            sival_ptr: value as *mut libc::c_void,
        };
        let pid = self.pid;
        // SAFETY: these calls take any numbers; the PID is the victim's, which ends after the storm.
        let sent = unsafe {
            match by {
                0 => libc::sigqueue(pid, signal, value),
                1 => libc::kill(pid, signal),
                _ => libc::syscall(libc::SYS_tgkill, pid, pid, signal) as i32,
            }
        };
        assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
        self.sent[signal as usize].fetch_add(1, SeqCst);
    }

    #[track_caller]
    fn wait_for_count(&self, signal: i32, expected: i64) {
        let deadline = Instant::now() + DEADLINE;
        let counted = &self.seen.counted[signal as usize];
        while counted.load(SeqCst) < expected {
            assert!(
                Instant::now() < deadline,
                "signal {signal} was lost: {} of {expected} were counted, and {} of others",
                counted.load(SeqCst),
                self.seen.others[signal as usize].load(SeqCst)
            );
            thread::sleep(Duration::from_micros(50));
        }
    }

    fn blow(&self, signal: i32, burst: i64) {
        let mut moments = Moments(signal as u64 * 7 + 1);
        let mut nth = 0;
        while !self.over.load(SeqCst) {
            for _ in 0..burst {
                nth += 1;
                // Queued ones of one signal keep their order only among themselves.
                // A thread-directed SIGUSR1 merges with pgpoke's own, as any two of one number do that wait in one place;
                // who sends a backend signals sends them to the process.
                let ways = if signal == libc::SIGUSR1 { 2 } else { 3 };
                self.send(signal, nth, if burst > 1 { 0 } else { nth % ways });
            }
            self.wait_for_count(signal, nth);
            // Or the victim, and whoever looks at it, would come to nothing else.
            thread::sleep(moments.next(Duration::from_millis(3)));
        }
    }

    /// Blows while something is done.
    fn during(&self, work: impl FnOnce()) {
        /// Whatever comes of the work.
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, SeqCst);
            }
        }
        thread::scope(|scope| {
            let over = Over(&self.over);
            let standard = STANDARD.map(|signal| (signal, 1));
            let queued = real_time().map(|signal| (signal, BURST));
            let winds: Vec<ScopedJoinHandle<()>> = standard
                .into_iter()
                .chain(queued)
                .map(|(signal, burst)| scope.spawn(move || self.blow(signal, burst)))
                .collect();
            work();
            drop(over);
            for wind in winds {
                wind.join().expect("no signal was lost");
            }
        });
        let mut all = 0;
        for signal in STANDARD.into_iter().chain(real_time()) {
            let at = signal as usize;
            let sent = self.sent[at].load(SeqCst);
            assert!(sent > 10, "only {sent} of signal {signal} were sent");
            assert_eq!(
                self.seen.counted[at].load(SeqCst) as u64,
                sent,
                "signal {signal}"
            );
            assert_eq!(self.seen.wrong[at].load(SeqCst), 0, "signal {signal}");
            all += sent;
        }
        figure("signals of a storm, all counted once", all);
        figure(
            "carriers that their own handler got",
            self.seen.others[libc::SIGUSR1 as usize].load(SeqCst),
        );
    }
}

#[test]
fn a_storm_of_signals_while_it_inspects() {
    let server = server_with_testext!();
    let seen = SeenFile::new(&server, "storm");
    let stuck = server.stuck(&format!("SELECT pgpoke_counts({}, false)", seen.sql()));
    let pid = stuck.pid().to_string();
    let storm = Storm::new(stuck.pid(), &seen);
    let (mut asked, mut let_go) = (0, 0);
    let number = times(120, 2_000);
    storm.during(|| {
        for turn in 0..number {
            let passive: &[&str] = if turn % 4 == 3 { &["--passive"] } else { &[] };
            let run = Run::pgpoke([&["inspect", "--json", &pid], passive].concat());
            assert_sane_exit(&run);
            // On a busy machine a stop may use up its budget; then there may be no time for more than a word.
            if run.code() == Some(8) {
                let_go += 1;
                assert!(let_go <= number / 5, "{run}");
                continue;
            }
            asked += usize::from(run.json()["signals"]["SIGUSR1"]["handler"].is_string());
        }
    });
    // A frame may be declined where another signal is faster; most are not.
    assert!(asked > number / 4, "only {asked} of {number} could ask");
    figure(
        "inspections in a storm",
        format!("{number}, {asked} with borrowed frames; {let_go} times let go"),
    );
    stuck.backend().assert_running_untraced();
    seen.end.store(1, SeqCst);
    assert_eq!(stuck.result().map(|rows| rows.len()), Ok(1));
    assert_eq!(
        stuck.run_follow_up("SELECT 1"),
        Ok(vec![vec![Some("1".to_owned())]])
    );
    server.assert_unharmed();
}

/// One session is cancelled again and again, and counts on in between.
#[test]
fn a_storm_of_signals_while_it_interrupts() {
    let server = server_with_testext!();
    let seen = SeenFile::new(&server, "storm");
    let mut session = server.config().connect(NoTls).expect("a session");
    let pid: i32 = session
        .query_one("SELECT pg_backend_pid()", &[])
        .expect("the backend's PID")
        .get(0);
    let backend = Backend::open(pid).expect("the backend's process");
    let sql = format!("SELECT pgpoke_counts({}, true)", seen.sql());
    /// Ends the statement, or whoever waits for it would wait for ever where the test fails.
    struct End<'a>(&'a SeenFile);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            if thread::panicking() {
                self.0.end.store(1, SeqCst);
            }
        }
    }
    let number = times(40, 1_000);
    let (mut looks, mut let_go) = (0, 0);
    let mut cancel = || {
        thread::scope(|scope| {
            let before = seen.inside.load(SeqCst);
            let statement = scope.spawn(|| session.simple_query(&sql));
            let _end = End(&seen);
            wait_for(DEADLINE, "it shall get inside", || {
                (seen.inside.load(SeqCst) > before).then_some(())
            });
            let args = ["interrupt", "--yes", "--json", "--wait", "30s"];
            let run = loop {
                let run = Run::pgpoke([&args[..], &[&pid.to_string()]].concat());
                // On a busy machine a stop may use up its budget; then nothing was done, as it says.
                if run.code() != Some(8) || !run.stderr.contains("nothing was changed in it") {
                    break run;
                }
                let_go += 1;
                assert!(let_go <= number / 5, "{run}");
            };
            run.assert_code(0);
            let json = run.json();
            assert_eq!(json["outcome"], "cancelled", "{run}");
            looks += json["attempts"].as_u64().expect("a number");
            let error = statement.join().expect("no panic").expect_err("cancelled");
            assert_eq!(error.code().map(|c| c.code()), Some("57014"), "{error}");
            backend.assert_running_untraced();
        });
    };
    // So that its handlers are there before the first signal.
    cancel();
    let storm = Storm::new(pid, &seen);
    storm.during(|| (0..number).for_each(|_| cancel()));
    figure(
        "cancels in a storm",
        format!("{number}, with {looks} looks; {let_go} times let go"),
    );
    let one: i32 = session.query_one("SELECT 1", &[]).expect("a row").get(0);
    assert_eq!(one, 1);
    server.assert_unharmed();
}

/// Stops it or lets it go on, by turns, at random moments; returns whether it is left stopped.
fn operate(backend: &Backend, moments: &mut Moments, within: Duration, actions: usize) -> bool {
    let mut stopped = false;
    for _ in 0..actions {
        moments.pass(within);
        stopped = !stopped;
        let signal = if stopped {
            libc::SIGSTOP
        } else {
            libc::SIGCONT
        };
        // SAFETY: kill takes any numbers; the PID is a backend's, or was a moment ago, and is its zombie's then.
        unsafe { libc::kill(backend.pid, signal) };
    }
    stopped
}

#[test]
fn an_operators_stop_is_kept_and_so_is_the_end_of_it() {
    let server = server_with_testext!();
    let mut target = Target::new(&server, "pgpoke_spin()", Some(How::Cancel), How::Cancel);
    let time = time_of_an_inspection(&target.pid());
    let mut moments = Moments(5);
    let (mut left_stopped, mut left_running) = (0, 0);
    for turn in 0..times(80, 1_500) {
        let backend = target.stuck().backend();
        let mut command = pgpoke();
        match turn % 3 {
            0 => command.arg("inspect"),
            1 => command.args(["inspect", "--passive"]),
            _ => command.args(["interrupt", "--yes", "--wait", "50ms", "--timeout", "1s"]),
        };
        command.arg(backend.pid.to_string());
        let mut stopped = false;
        let run = Run::while_doing(DEADLINE, command, |_| {
            let actions = 1 + turn / 3 % 4;
            stopped = operate(&backend, &mut moments, time / actions as u32, actions);
        });
        assert_sane_exit(&run);
        let state = if stopped { 'T' } else { 'R' };
        wait_for(
            DEADLINE,
            &format!("{backend:?} shall be {state}\n{run}"),
            || {
                let now = backend.state()?;
                let there = if stopped {
                    now == 'T'
                } else {
                    now != 'T' && now != 't'
                };
                (there && backend.tracer_pid() == 0).then_some(())
            },
        );
        if stopped {
            left_stopped += 1;
            let ticks = backend.cpu_ticks();
            // Looked at again and again, it does not run for a moment.
            let pid = backend.pid.to_string();
            assert_sane_exit(&Run::pgpoke([
                "interrupt",
                "--yes",
                "--wait",
                "100ms",
                &pid,
            ]));
            // It goes back into its stop by itself when it is let go.
            wait_for(DEADLINE, "it shall be stopped again", || {
                (backend.state() == Some('T')).then_some(())
            });
            assert!(backend.cpu_ticks() <= ticks + 1, "it ran meanwhile");
            backend.send(libc::SIGCONT);
        } else {
            left_running += 1;
        }
        target.check();
    }
    assert!(left_stopped > 10 && left_running > 10);
    figure(
        "runs with an operator's SIGSTOP and SIGCONT",
        format!("{left_stopped} left stopped, {left_running} left running"),
    );
    server.assert_unharmed();
}

/// The parent of a process that is looked at is told of each stop and each end of one, once, and of no other.
#[test]
fn a_parent_is_told_of_an_operators_stops_and_of_no_others() {
    let server = server_with_testext!();
    let seen = SeenFile::new(&server, "parent");
    let stuck = server.stuck(&format!("SELECT pgpoke_parent({})", seen.sql()));
    let child = Backend::open(seen.child.load(SeqCst) as i32).expect("the child");
    let told = || {
        (
            seen.told_stopped.load(SeqCst),
            seen.told_continued.load(SeqCst),
        )
    };
    let number = times(150, 3_000);
    let mut moments = Moments(9);
    let over = AtomicBool::new(false);
    let looks = thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut driver = Driver::new(child.pid);
            let mut looks = 0;
            while !over.load(SeqCst) {
                looks += driver.order("child 20");
            }
            looks
        });
        for nth in 1..=number as i64 {
            moments.pass(Duration::from_millis(1));
            child.send(libc::SIGSTOP);
            wait_for(DEADLINE, "the parent shall be told of the stop", || {
                (told().0 >= nth).then_some(())
            });
            moments.pass(Duration::from_millis(1));
            child.send(libc::SIGCONT);
            wait_for(DEADLINE, "the parent shall be told that it goes on", || {
                (told().1 >= nth).then_some(())
            });
        }
        over.store(true, SeqCst);
        looks.join().expect("the looks")
    });
    assert_eq!(told(), (number as i64, number as i64));
    assert!(looks > number / 2, "{looks}");
    child.assert_running_untraced();
    figure(
        "stops by an operator that a parent was told of, once each",
        format!("{number}, with {looks} looks"),
    );
    seen.end.store(1, SeqCst);
    stuck.result().expect("the parent's end");
    server.assert_unharmed();
}
