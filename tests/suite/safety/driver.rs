//! Borrowed frames by the thousand, made through the library: the very calls of `pgpoke inspect` and `interrupt`, without
//! a new process for each. In a process of its own, since the fuse of a stop that lasts too long ends the process.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use pgpoke::assess::checks::LEAST_ALTERNATE_STACK;
use pgpoke::memory::ProcessMemory;
use pgpoke::postgres::prove;
use pgpoke::process::Process;
use pgpoke::snapshot::Plan;
use pgpoke::tracee::{CallEnd, StopBudget, Stopped, Tracee};

/// How long a stop may take, and a call.
const LIMIT: Duration = Duration::from_secs(1);
/// Inspect asks for the handlers of SIGINT, SIGTERM and SIGUSR1, in a frame each.
const ASKED: usize = 3;
const PID: &str = "PGPOKE_TEST_DRIVE";

/// The process that does it.
pub struct Driver {
    pid: i32,
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// How often the fuse blew.
    pub fuses: usize,
}

impl Driver {
    /// One for the process `pid`.
    pub fn new(pid: i32) -> Self {
        let (child, orders, answers) = Self::start(pid);
        Driver {
            pid,
            child,
            orders: Some(orders),
            answers,
            fuses: 0,
        }
    }

    fn start(pid: i32) -> (Child, ChildStdin, BufReader<ChildStdout>) {
        let mut child = Command::new(std::env::current_exe().expect("this executable"))
            .args(["--ignored", "--exact", "safety::driver::drive"])
            .args(["--nocapture", "--test-threads", "1"])
            .env(PID, pid.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this executable once more");
        let orders = child.stdin.take().expect("a pipe");
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        (child, orders, answers)
    }

    /// Gives an order (see [`drive`]), and returns how many frames were borrowed, or looks taken.
    ///
    /// Where the fuse blew, which lets go of the process and is as it should be, somebody else is to carry on.
    #[track_caller]
    pub fn order(&mut self, order: &str) -> usize {
        let orders = self.orders.as_mut().expect("not yet dropped");
        writeln!(orders, "{order}").expect("an order");
        let mut answer = String::new();
        loop {
            answer.clear();
            if self.answers.read_line(&mut answer).expect("an answer") == 0 {
                let status = self.child.wait().expect("the driver's status");
                assert_eq!(status.code(), Some(8), "{order}: {status}");
                self.fuses += 1;
                let (child, orders, answers) = Self::start(self.pid);
                (self.child, self.orders, self.answers) = (child, Some(orders), answers);
                return 0;
            }
            if let Some((_, number)) = answer.split_once("did ") {
                return number.trim().parse().expect("a number");
            }
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // That is how it learns that it is over.
        self.orders.take();
        let _ = self.child.wait();
    }
}

/// The other side: takes orders until there are no more.
#[test]
#[ignore = "not a test, but the process that Driver starts"]
fn drive() {
    let pid = std::env::var(PID).expect("a PID");
    let process = Process::open(pid.parse().expect("a number")).expect("a process");
    let orders = std::io::stdin().lines();
    for order in orders.map_while(Result::ok) {
        let done = match order.split_whitespace().collect::<Vec<_>>()[..] {
            ["frames", number] => frames(&process, number.parse().expect("a number")),
            ["look"] => look(&process),
            ["kill"] => kill(&process),
            ["child", number] => child(&process, number.parse().expect("a number")),
            _ => panic!("{order:?}"),
        };
        println!("did {done}");
    }
}

/// Borrows at least so many frames that return: what inspect asks, and a ProcessInterrupts() with nothing to do.
fn frames(process: &Process, number: usize) -> usize {
    let backend = prove(process).expect("a backend");
    let mut plan = Plan::new(&backend);
    let mut done = 0;
    while done < number {
        let mut tracee = Tracee::seize(process, &StopBudget::default()).expect("a tracee");
        for turn in 0..16 {
            let mut stopped = tracee.stop(LIMIT).expect("a stop");
            if turn % 4 == 3 {
                done += usize::from(process_interrupts(&plan, &mut stopped));
            } else {
                let capture = plan.capture(&stopped).expect("a capture");
                let asked = plan.ask_for_handlers(&capture, &mut stopped);
                // Declined where another signal was faster.
                if matches!(asked, Some(Ok(_))) {
                    done += ASKED;
                }
            }
            if turn % 2 == 0 {
                // Let go from the stop at the entry of the system call that takes the frame down.
                stopped.keep();
                break;
            }
        }
        drop(tracee);
        // What a stop may find is learned anew, as for each run of pgpoke.
        if done % 1000 < 4 {
            plan = Plan::new(&backend);
        }
        if number == 1 {
            break;
        }
    }
    done
}

/// As `pgpoke interrupt` calls it: at the judged instruction, and with errno put back.
fn process_interrupts(plan: &Plan, stopped: &mut Stopped) -> bool {
    let backend = plan.backend;
    let registers = stopped.registers().expect("registers");
    let errno = plan.errno(&registers).expect("errno's address");
    let value = backend.memory.read_u32(errno).expect("errno");
    let function = backend
        .globals
        .get("ProcessInterrupts")
        .expect("a function");
    let Ok(frame) = stopped.borrow_frame(Some(&registers), backend.memory, LEAST_ALTERNATE_STACK)
    else {
        return false;
    };
    let call = frame.call(function, [0; 5]).expect("a call");
    let end = call.watch(LIMIT).expect("a call that is watched");
    assert_eq!(end, CallEnd::Returned);
    stopped
        .put_back_errno(backend.memory, errno, value)
        .expect("errno");
    true
}

/// Stops it once, and lets it go on, without a frame.
fn look(process: &Process) -> usize {
    let mut tracee = Tracee::seize(process, &StopBudget::default()).expect("a tracee");
    let stopped = tracee.stop(LIMIT).expect("a stop");
    stopped.registers().expect("registers");
    stopped.keep();
    1
}

/// Kills it while it stands still, and lets go at once: before or after it has come to its exit event.
fn kill(process: &Process) -> usize {
    let mut tracee = Tracee::seize(process, &StopBudget::default()).expect("a tracee");
    let stopped = tracee.stop(LIMIT).expect("a stop");
    process.send_signal(libc::SIGKILL).expect("SIGKILL");
    stopped.keep();
    1
}

/// A look at any process, again and again, let go from its stop, or running, or in a frame whose handler runs.
fn child(process: &Process, number: usize) -> usize {
    let memory = ProcessMemory::open(process.pid());
    let mut done = 0;
    for turn in 0..number {
        let mut tracee = Tracee::seize(process, &StopBudget::default()).expect("a tracee");
        let mut stopped = tracee.stop(LIMIT).expect("a stop");
        stopped.registers().expect("registers");
        if turn % 3 == 2 && !stopped.in_group_stop() {
            let _ = stopped.borrow_frame(None, &memory, 512);
        }
        if turn % 2 == 0 {
            stopped.keep();
        }
        done += 1;
    }
    done
}
