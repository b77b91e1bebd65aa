//! `pgpoke selftest`: does this kernel keep what the borrowed signal frame rests on? Tried on processes of our own.

#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
mod arch;
mod victim;

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

use victim::{Kind, Victim, itself, wait_for};

use crate::process::{Process, SignalError};
use crate::sys;
use crate::tracee::{CARRIER, CallEnd, Declined, Registers, StopBudget, TraceError, Tracee};

/// Why a promise was not seen to be kept.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The kernel did otherwise.
    #[error("{0}")]
    Otherwise(String),
    /// It could not be tried.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// It could not be tried.
    #[error(transparent)]
    Declined(#[from] Declined),
    /// It could not be tried.
    #[error(transparent)]
    Other(#[from] std::io::Error),
}

impl From<SignalError> for Broken {
    fn from(e: SignalError) -> Self {
        Broken::Other(std::io::Error::other(e))
    }
}

impl From<String> for Broken {
    fn from(what: String) -> Self {
        Broken::Otherwise(what)
    }
}

impl From<&str> for Broken {
    fn from(what: &str) -> Self {
        Broken::Otherwise(what.into())
    }
}

impl From<crate::memory::Unreadable> for Broken {
    fn from(e: crate::memory::Unreadable) -> Self {
        Broken::Otherwise(e.to_string())
    }
}

impl From<nix::errno::Errno> for Broken {
    fn from(e: nix::errno::Errno) -> Self {
        Broken::Other(e.into())
    }
}

fn holds(so: bool, otherwise: impl FnOnce() -> String) -> Result<(), Broken> {
    match so {
        true => Ok(()),
        false => Err(Broken::Otherwise(otherwise())),
    }
}

/// What came of one promise.
#[derive(Debug)]
pub struct Tried {
    /// The promise, in one sentence.
    pub promise: &'static str,
    /// Whether it was kept.
    pub result: Result<(), Broken>,
    /// How long it took to see.
    pub took: Duration,
}

type Promise = (&'static str, fn() -> Result<(), Broken>);

/// What the kernel promises, and where pgpoke would do harm if it did not.
const PROMISES: [Promise; 11] = [
    (
        "a seized thread runs on; it stops when asked, and goes on when let go",
        stops_and_goes_on,
    ),
    (
        "a call in a borrowed frame returns, and all registers (general, x87, vector) and the red zone are as they were",
        call_returns,
    ),
    (
        "a call that jumps out of its frame leaves the signal mask as it was",
        call_jumps,
    ),
    (
        "a call that exits is seen to, with its exit status",
        call_exits,
    ),
    ("read(2) goes on after a borrowed frame", read_goes_on),
    (
        "poll(2) ends with EINTR, as after any signal",
        poll_is_interrupted,
    ),
    (
        "no signal is lost, doubled or overtaken meanwhile",
        signals_are_kept,
    ),
    (
        "a stopped process (SIGSTOP) stays stopped, until SIGCONT",
        group_stop_stays,
    ),
    (
        "a tracer that is killed before it borrowed a frame leaves nothing behind",
        || killed(&[Step::Seized, Step::Stopped]),
    ),
    (
        "a tracer that is killed in a borrowed frame leaves nothing behind",
        || killed(&[Step::Borrowed, Step::Called, Step::Watching]),
    ),
    (
        "a tracer that hangs is gone when its time is up, and leaves nothing behind",
        hangs,
    ),
];

/// Tries one promise after the other. Takes less than a second.
pub fn run() -> impl Iterator<Item = Tried> {
    PROMISES.into_iter().map(|(promise, keep)| {
        let start = Instant::now();
        let result = keep();
        Tried {
            promise,
            result,
            took: start.elapsed(),
        }
    })
}

/// How long a thread of our own may take to stop, or a call to come to an end.
const LIMIT: Duration = Duration::from_secs(1);

/// The room on an alternate signal stack; no victim has one.
const NO_MATTER: u64 = 0;

fn stops_and_goes_on() -> Result<(), Broken> {
    let victim = Victim::start(Kind::Computes)?;
    let mut tracee = Tracee::seize(&victim.process, &StopBudget::default())?;
    let rounds = victim.count(&arch::ROUNDS)?;
    victim.reaches(&arch::ROUNDS, rounds + 1, "it does not run while seized")?;
    let stopped = tracee.stop(LIMIT)?;
    let then = (stopped.registers()?, victim.count(&arch::ROUNDS)?);
    std::thread::sleep(Duration::from_millis(1));
    let now = (stopped.registers()?, victim.count(&arch::ROUNDS)?);
    holds(then.0.same_place(&now.0) && then.1 == now.1, || {
        "it does not stand still when stopped".into()
    })?;
    drop(stopped);
    victim.reaches(&arch::ROUNDS, now.1 + 2, "it does not run on when resumed")?;
    drop(tracee);
    victim.goes_on()
}

/// Stops it, and calls one of its functions.
fn call(victim: &Victim, function: *const ()) -> Result<CallEnd, Broken> {
    let mut tracee = Tracee::seize(&victim.process, &StopBudget::default())?;
    let mut stopped = tracee.stop(LIMIT)?;
    let here: Registers = stopped.registers()?;
    let frame = stopped.borrow_frame(Some(&here), victim.memory(), NO_MATTER)?;
    let end = frame.call(victim.place(function), [0; 5])?.watch(LIMIT)?;
    stopped.keep();
    Ok(end)
}

fn spoil(victim: &Victim) -> Result<(), Broken> {
    let end = call(victim, arch::spoil as *const ())?;
    holds(end == CallEnd::Returned, || format!("the call: {end:?}"))
}

fn blocked_signals(victim: &Victim) -> Result<u64, Broken> {
    Ok(victim.process.status()?.sigblk)
}

fn call_returns() -> Result<(), Broken> {
    const TIMES: u64 = 50;
    let victim = Victim::start(Kind::Computes)?;
    let blocked = blocked_signals(&victim)?;
    for _ in 0..TIMES {
        spoil(&victim)?;
    }
    victim.goes_on()?;
    let calls = victim.count(&arch::SPOILED)?;
    holds(calls == TIMES, || {
        format!("{calls} calls instead of {TIMES}")
    })?;
    let handled = victim.count(&victim::HANDLED)?;
    holds(handled == 0, || {
        format!("the carrier was handled {handled} times")
    })?;
    holds(blocked_signals(&victim)? == blocked, || {
        "its signal mask changed".into()
    })
}

fn call_jumps() -> Result<(), Broken> {
    let victim = Victim::start(Kind::Computes)?;
    let blocked = blocked_signals(&victim)?;
    let end = call(&victim, arch::jump as *const ())?;
    holds(end == CallEnd::Jumped, || format!("the call: {end:?}"))?;
    holds(victim.count(&arch::JUMPED)? == 1, || {
        "it was not called once".into()
    })?;
    victim.goes_on()?;
    holds(blocked_signals(&victim)? == blocked, || {
        "its signal mask changed".into()
    })
}

fn call_exits() -> Result<(), Broken> {
    let mut victim = Victim::start(Kind::Computes)?;
    let end = call(&victim, arch::exit as *const ())?;
    let expected = arch::EXIT_STATUS << 8;
    holds(end == CallEnd::Exiting(expected), || {
        format!("the call: {end:?}")
    })?;
    let status = victim.end()?;
    holds(status.code() == Some(arch::EXIT_STATUS), || {
        format!("it ended with {status}")
    })
}

fn read_goes_on() -> Result<(), Broken> {
    let victim = Victim::start(Kind::Reads)?;
    spoil(&victim)?;
    victim.waits_in(&["read"])?;
    victim.send_byte()?;
    victim.reaches(&victim::BYTES, 1, "bytes that were read")?;
    let ended = victim.count(&victim::INTERRUPTED)?;
    holds(ended == 0, || "read(2) ended with EINTR".into())
}

fn poll_is_interrupted() -> Result<(), Broken> {
    let victim = Victim::start(Kind::Polls)?;
    victim.process.send_signal(CARRIER)?;
    victim.reaches(
        &victim::INTERRUPTED,
        1,
        "waits that an ordinary signal ended",
    )?;
    victim.waits_in(&["poll", "ppoll"])?;
    spoil(&victim)?;
    victim.reaches(
        &victim::INTERRUPTED,
        2,
        "waits that a borrowed frame ended, too",
    )?;
    let handled = victim.count(&victim::HANDLED)?;
    holds(handled == 1, || {
        format!("the carrier was handled {handled} times instead of once")
    })
}

fn signals_are_kept() -> Result<(), Broken> {
    const NUMBERED: usize = 20;
    let victim = Victim::start(Kind::Computes)?;
    {
        let mut tracee = Tracee::seize(&victim.process, &StopBudget::default())?;
        let mut stopped = tracee.stop(LIMIT)?;
        let here = stopped.registers()?;
        // All are waiting when the carrier comes; one of them is the carrier's own kind.
        victim.process.send_signal(CARRIER)?;
        for n in 0..NUMBERED {
            victim.send_number(n)?;
        }
        let frame = stopped.borrow_frame(Some(&here), victim.memory(), NO_MATTER)?;
        let function = victim.place(arch::spoil as *const ());
        let end = frame.call(function, [0; 5])?.watch(LIMIT)?;
        stopped.keep();
        holds(end == CallEnd::Returned, || format!("the call: {end:?}"))?;
    }
    victim.reaches(
        &victim::HANDLED,
        1,
        "the other signal of the carrier's kind",
    )?;
    victim.reaches(&victim::IN_ORDER, NUMBERED as u64, "queued signals")?;
    victim.goes_on()?;
    let handled = victim.count(&victim::HANDLED)?;
    let wrong = victim.count(&victim::OUT_OF_ORDER)?;
    holds(handled == 1 && wrong == 0, || {
        format!("{handled} instead of 1 were handled, and {wrong} came out of order")
    })
}

fn group_stop_stays() -> Result<(), Broken> {
    let victim = Victim::start(Kind::Computes)?;
    victim.process.send_signal(libc::SIGSTOP)?;
    victim.comes_into_state('T')?;
    let mut tracee = Tracee::seize(&victim.process, &StopBudget::default())?;
    let stopped = tracee.stop(LIMIT)?;
    let seen = stopped.in_group_stop();
    stopped.keep();
    drop(tracee);
    holds(seen, || "its group-stop was not seen".into())?;
    victim.comes_into_state('T')?;
    let rounds = victim.count(&arch::ROUNDS)?;
    std::thread::sleep(Duration::from_millis(1));
    holds(victim.count(&arch::ROUNDS)? == rounds, || {
        "it runs, though it was stopped".into()
    })?;
    victim.process.send_signal(libc::SIGCONT)?;
    victim.goes_on()
}

/// How far a tracer gets that is to die.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Step {
    /// It has seized the thread.
    Seized,
    /// The thread stands still.
    Stopped,
    /// It stands on the first instruction of its handler.
    Borrowed,
    /// The call is about to begin.
    Called,
    /// The call has ended, and the thread stands still.
    Watching,
    /// The thread stands still, and the tracer does nothing more.
    Hanging,
}

/// Starts a tracer that gets so far, and says how it ended.
fn tracer(victim: &Victim, step: Step) -> Result<std::process::ExitStatus, Broken> {
    let name = clap::ValueEnum::to_possible_value(&step);
    let name = name.map(|n| n.get_name().to_owned()).unwrap_or_default();
    let mut child = itself()
        .args(["--tracer", &name])
        .args(["--of", &victim.process.pid().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut status = None;
    let ended = wait_for(|| {
        status = child.try_wait()?;
        Ok(status.is_some())
    });
    if status.is_none() {
        let _ = child.kill().and_then(|()| child.wait());
    }
    ended?;
    status.ok_or_else(|| "a tracer did not end".into())
}

fn killed(steps: &[Step]) -> Result<(), Broken> {
    let victim = Victim::start(Kind::Computes)?;
    let mut calls = 0;
    for step in steps {
        let status = tracer(&victim, *step)?;
        holds(status.signal() == Some(libc::SIGKILL), || {
            format!("a tracer was to die when {step:?}, and ended with {status}")
        })?;
        victim.goes_on()?;
        if matches!(step, Step::Called | Step::Watching) {
            calls += 1;
        }
        victim.reaches(
            &arch::SPOILED,
            calls,
            "calls that went on without their tracer",
        )?;
    }
    Ok(())
}

fn hangs() -> Result<(), Broken> {
    let victim = Victim::start(Kind::Computes)?;
    let status = tracer(&victim, Step::Hanging)?;
    // Where no second thread is to be had, the kernel's timer ends it.
    let ended = status.code() == Some(8) || status.signal() == Some(libc::SIGKILL);
    holds(ended, || format!("a tracer that hangs ended with {status}"))?;
    victim.goes_on()
}

/// Is a tracer that dies, or hangs.
fn be_tracer(step: Step, pid: i32) -> Result<(), Broken> {
    let die_if = |at: Step| {
        if at == step {
            let _ = sys::kill(std::process::id() as i32, libc::SIGKILL, sys::Whom::Process);
        }
    };
    let process = Process::open(pid).map_err(std::io::Error::other)?;
    let function = victim::place_in(&process, arch::spoil as *const ())?;
    let memory = crate::memory::ProcessMemory::open(pid);
    let mut tracee = Tracee::seize(&process, &StopBudget::default())?;
    die_if(Step::Seized);
    let mut stopped = tracee.stop(LIMIT)?;
    die_if(Step::Stopped);
    if step == Step::Hanging {
        std::thread::sleep(LIMIT);
    }
    let here = stopped.registers()?;
    let frame = stopped.borrow_frame(Some(&here), &memory, NO_MATTER)?;
    die_if(Step::Borrowed);
    let call = frame.call(function, [0; 5])?;
    die_if(Step::Called);
    call.watch(LIMIT)?;
    die_if(Step::Watching);
    Ok(())
}

/// What pgpoke starts itself as, to try something on or with.
#[derive(Debug, Default, clap::Args)]
pub struct Part {
    #[arg(long, hide = true)]
    victim: Option<Kind>,
    #[arg(long, hide = true, requires = "of")]
    tracer: Option<Step>,
    #[arg(long, hide = true)]
    of: Option<i32>,
}

impl Part {
    /// Plays the part, if there is one.
    pub fn play(&self) -> Option<anyhow::Result<()>> {
        if let Some(kind) = self.victim {
            return Some(victim::be(kind));
        }
        let (step, pid) = (self.tracer?, self.of?);
        Some(be_tracer(step, pid).map_err(Into::into))
    }
}
