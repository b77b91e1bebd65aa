//! What two glances at a backend say, neither of which stopped it: which interrupts it ignores, for how long, and what
//! is likely to be the cause. What proves it is a look at its stack: `pgpoke inspect`.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::{Cause, Interrupt, stopping};
use crate::postgres::status::Timestamp;
use crate::postgres::{BackendType, Stream, Wait, wait_class};
use crate::snapshot::{Glance, MOST_READY, Signals, signal_names};

/// An interrupt that waits to be acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Which.
    pub what: Interrupt,
    /// Its flag is set; otherwise its signal was sent, and not taken yet.
    pub arrived: bool,
    /// For how long it has been ignored at least: since a glance found it, and no other way out was open to it. None at
    /// the first glance, which may have met it right before it is acted on, and for a cancel that has nothing to end.
    pub at_least: Option<Duration>,
    /// And at most: PostgreSQL keeps no time of it, but a cancel is not older than the statement that it is for, and
    /// nothing is older than the session.
    pub at_most: Option<Duration>,
}

/// What is said of one process.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Judgement {
    /// What is pending.
    pub pending: Vec<Pending>,
    /// Signals that cancel or terminate and that it has no handler for: what is sent of them sets nothing. By itself that is
    /// no reason to call it stuck.
    pub unheard: Vec<String>,
    /// The share of one processor that it used since the glance before, in percent.
    pub cpu_percent: Option<f64>,
    /// The likely cause, if it is stuck.
    pub cause: Option<Cause>,
}

impl Judgement {
    /// Whether it ignores something that is pending, or anything that will be.
    pub fn is_stuck(&self) -> bool {
        self.cause.is_some()
    }
}

/// Whether only a second glance can tell if it is stuck.
pub fn asks_for_another_glance(g: &Glance) -> bool {
    is_deaf(g)
        || g.is_undoing()
        || is_ending(g)
        || stopping::waits_for(g)
        || wal_piles_up(g)
        || !pending(g).is_empty()
}

fn is_ending(g: &Glance) -> bool {
    g.variables.proc_exit_in_progress == Some(true)
}

/// Whether WAL waits behind an archive_command that takes long.
fn wal_piles_up(g: &Glance) -> bool {
    const LONG: Duration = Duration::from_secs(10);
    // One is the file that it is at.
    g.archiving
        .as_ref()
        .is_some_and(|a| a.since >= LONG && a.ready > 1)
}

/// What is pending in it, and whether it has arrived.
fn pending(g: &Glance) -> Vec<(Interrupt, bool)> {
    let v = &g.variables;
    // The others have other uses for these signals.
    let sent = |signal| {
        g.backend_type.may_be_interrupted() && Signals::has(g.signals.pending, signal) == Some(true)
    };
    let rows = [
        (
            Interrupt::Terminate,
            v.proc_die_pending,
            sent(libc::SIGTERM),
        ),
        (
            Interrupt::Cancel,
            v.query_cancel_pending,
            sent(libc::SIGINT),
        ),
        (Interrupt::Barrier, v.proc_signal_barrier_pending, false),
    ];
    rows.into_iter()
        .filter(|(_, flag, sent)| *flag == Some(true) || *sent)
        .map(|(what, flag, _)| (what, flag == Some(true)))
        .collect()
}

/// A session at work without a handler for one of the two signals. While it starts it has those of its postmaster.
pub fn is_deaf(g: &Glance) -> bool {
    !unheard(g).is_empty()
}

fn unheard(g: &Glance) -> Vec<i32> {
    let at_work = g.status.as_ref().is_ok_and(|s| s.activity.is_some());
    if g.backend_type != BackendType::Client || !at_work {
        return Vec::new();
    }
    // Who waits in system(3) ignores SIGINT for that time only.
    let in_system = super::rules::system(&g.signals);
    let unheard = |signal: &i32| {
        Signals::has(g.signals.caught, *signal) == Some(false)
            && !(in_system && *signal == libc::SIGINT)
    };
    ENDING_SIGNALS.into_iter().filter(unheard).collect()
}

const ENDING_SIGNALS: [i32; 2] = [libc::SIGINT, libc::SIGTERM];

/// What was seen of each process before.
#[derive(Debug, Default)]
pub struct Ledger(HashMap<(i32, u64), Seen>);

/// What was seen of one.
#[derive(Debug)]
struct Seen {
    /// The glance before.
    last: Glance,
    /// What is pending, since which glance, and in which statement.
    pending: Vec<(Interrupt, Duration, Option<Timestamp>)>,
    /// The glance at which a cancel was not pending any more that had been at the one before, and its statement, which
    /// goes on.
    taken: Option<(Duration, Timestamp)>,
}

impl Ledger {
    /// Judges a process by this glance and those before it, and keeps it for the next one.
    pub fn judge(&mut self, glance: &Glance) -> Judgement {
        let before = self.0.remove(&glance.key());
        let two = before.as_ref().map(|seen| Two {
            first: &seen.last,
            last: glance,
            cpu: share_of_cpu(&seen.last, glance),
            taken: taken(seen, glance).map(|(at, _)| glance.clock.saturating_sub(at)),
        });
        let taken = before.as_ref().and_then(|seen| taken(seen, glance));
        // What waits for a processor ignores nothing: it had no turn. The glance before counts on.
        let had_no_turn = two.as_ref().is_some_and(Two::had_no_turn);
        let statement = glance.statement_start();
        let mut since = Vec::new();
        let pending = pending(glance).into_iter().map(|(what, arrived)| {
            let known = before.as_ref().and_then(|seen| {
                let of_it = seen.pending.iter().find(|(w, ..)| *w == what)?;
                (what != Interrupt::Cancel || of_it.2 == statement).then_some(of_it.1)
            });
            since.push((what, known.unwrap_or(glance.clock), statement));
            let dropped = what == Interrupt::Cancel
                && arrived
                && two.as_ref().is_some_and(|two| two.both(awaits_command));
            let at_least = known
                .filter(|_| !had_no_turn && !dropped)
                .map(|first| glance.clock.saturating_sub(first));
            let at_most = oldest(glance, what, arrived).map(|start| start.until(glance.at));
            Pending {
                what,
                arrived,
                at_least,
                // A clock that was set tells nothing.
                at_most: at_most.filter(|most| at_least.is_none_or(|least| least <= *most)),
            }
        });
        let pending: Vec<Pending> = pending.collect();
        let ignores = pending.iter().any(|p| p.at_least.is_some());
        let judgement = Judgement {
            cause: two
                .as_ref()
                .filter(|two| ignores || two.are_enough())
                .map(|two| find(two, &pending)),
            cpu_percent: two.and_then(|two| two.cpu),
            unheard: unheard(glance).into_iter().map(|n| names(&[n])).collect(),
            pending,
        };
        let mut last = glance.clone();
        if let Ok(status) = &mut last.status {
            // The text of a statement may be long, and is not compared.
            status.query = None;
        }
        let seen = Seen {
            last,
            pending: since,
            taken,
        };
        self.0.insert(glance.key(), seen);
        judgement
    }

    /// Forgets all others.
    pub fn keep_only(&mut self, keys: &HashSet<(i32, u64)>) {
        self.0.retain(|key, _| keys.contains(key));
    }
}

/// Since which glance a cancel counts as taken that the statement did not end by.
fn taken(seen: &Seen, glance: &Glance) -> Option<(Duration, Timestamp)> {
    let statement = glance.statement_start()?;
    let active = glance.status.as_ref().is_ok_and(|s| {
        s.activity
            .is_some_and(|a| a == crate::postgres::Activity::Active)
    });
    let is_pending = pending(glance).iter().any(|(w, _)| *w == Interrupt::Cancel);
    if !active || is_pending {
        return None;
    }
    let before = seen.pending.iter().any(|(what, _, of)| {
        *what == Interrupt::Cancel
            && *of == Some(statement)
            && seen.last.variables.query_cancel_pending == Some(true)
    });
    match seen.taken {
        Some((at, of)) if of == statement => Some((at, of)),
        _ => before.then_some((glance.clock, statement)),
    }
}

/// Whether it waits for its client's next command, which drops a cancel that is pending: there is nothing for it to end.
/// Until then it is held back, as in the middle of a message (SocketBackend(), src/backend/tcop/postgres.c).
fn awaits_command(g: &Glance) -> bool {
    let activity = g.status.as_ref().ok().and_then(|s| s.activity);
    g.backend_type == BackendType::Client
        && activity.is_some_and(|a| a.is_idle())
        && g.wait.as_ref().is_some_and(|wait| wait.is("ClientRead"))
        && g.variables.interrupt_holdoff_count == Some(0)
}

/// Since when it may be pending at the earliest.
fn oldest(g: &Glance, what: Interrupt, arrived: bool) -> Option<Timestamp> {
    let status = g.status.as_ref().ok()?;
    // A client's session takes notice before each of its commands. What is blocked may have been sent before that.
    let of_statement = what == Interrupt::Cancel
        && arrived
        && g.backend_type == BackendType::Client
        && status.activity.is_some_and(|a| !a.is_idle());
    match of_statement {
        true => status.query_start,
        false => status.started,
    }
}

fn share_of_cpu(first: &Glance, last: &Glance) -> Option<f64> {
    let between = last.clock.checked_sub(first.clock)?.as_secs_f64();
    let used = last.cpu_time?.checked_sub(first.cpu_time?)?;
    (between > 0.0).then(|| (used.as_secs_f64() / between * 100.0).min(100.0))
}

/// Two glances at one process.
#[derive(Debug)]
pub struct Two<'g> {
    /// The earlier one.
    pub first: &'g Glance,
    /// The later one.
    pub last: &'g Glance,
    /// The share of one processor that it used between them, in percent.
    pub cpu: Option<f64>,
    /// For how long its statement has gone on since a cancel was taken.
    pub taken: Option<Duration>,
}

/// What was found: a sentence, and what it rests on.
type Found = Option<(String, Vec<String>)>;

/// One cause, and the function that recognises it.
#[derive(Debug)]
pub struct Row {
    /// Its stable name, one of [`super::cause::TABLE`].
    pub code: &'static str,
    /// Recognises it.
    pub recognise: fn(&Two, &[Pending]) -> Found,
}

const fn row(code: &'static str, recognise: fn(&Two, &[Pending]) -> Found) -> Row {
    Row { code, recognise }
}

/// The causes that show without a stack, the most specific first. The first that is recognised wins.
pub const TABLE: &[Row] = &[
    row("being-traced", |two, _| {
        let by = two.last.process.traced_by()?;
        let name = two.last.process.tracer_name.as_deref();
        let who = name.map_or_else(|| by.to_string(), |name| format!("{by} ({name})"));
        Some((
            format!("process {who} traces it and may keep it stopped"),
            vec![format!("TracerPid is {by}")],
        ))
    }),
    row("group-stopped", |two, _| {
        two.in_state('T').then(|| {
            (
                "somebody stopped it with SIGSTOP; until SIGCONT it reacts to nothing".into(),
                vec!["process state T".into()],
            )
        })
    }),
    row("uninterruptible-syscall", |two, _| {
        two.in_state('D').then(|| {
            (
                format!(
                    "it is in a system call that the kernel does not let anyone interrupt{}",
                    two.call().map_or(String::new(), |call| format!(": {call}"))
                ),
                two.sleep_evidence("process state D at both glances"),
            )
        })
    }),
    row("abort-hangs", |two, _| {
        let number = two.undoing_in()?;
        let call = two.last.process.syscall.as_ref()?;
        let name = crate::process::syscalls::name_of(number);
        let waits = match call.peer() {
            Some(peer) => format!("waits on {} in {name}()", peer.thing.describe()),
            None => format!("is blocked in {}", call.describe()),
        };
        let count = two.count(|g| g.variables.interrupt_holdoff_count)?;
        let mut evidence = vec![format!(
            "errordata_stack_depth is 0 or more, and InterruptHoldoffCount is {count}: it deals with an error"
        )];
        evidence.extend(two.sleep_evidence("asleep in this call at both glances"));
        Some((
            format!(
                "its transaction is being undone, after a cancel or an error, and the clean-up {waits}"
            ),
            evidence,
        ))
    }),
    row("exiting", |two, _| {
        let exiting = two.both(|g| g.variables.proc_exit_in_progress == Some(true));
        exiting.then(|| {
            let mut evidence = two.sleep_evidence("proc_exit_inprogress is 1 at both glances");
            evidence.extend(two.call().map(|call| format!("in the system call {call}")));
            (
                "it is ending already, and was still there at both of two glances".into(),
                evidence,
            )
        })
    }),
    row("postmaster-gone", |two, _| {
        (!two.last.has_postmaster).then(|| {
            (
                "its postmaster is gone and left it behind".into(),
                vec!["its parent is no postmaster".into()],
            )
        })
    }),
    row("starting", |two, _| {
        let starting = |g: &Glance| {
            let v = &g.variables;
            v.client_auth_in_progress == Some(true) && v.has_proc == Some(false)
        };
        two.both(starting).then(|| {
            (
                "a connection on which nobody has logged in: it waits for the client's first message".into(),
                vec!["ClientAuthInProgress is 1, and it has no PGPROC yet".into()],
            )
        })
    }),
    row("authenticating", |two, _| {
        let authenticates = two.both(|g| g.variables.client_auth_in_progress == Some(true));
        authenticates.then(|| {
            (
                format!(
                    "its client is still logging in{}",
                    two.call()
                        .map_or(String::new(), |call| format!(", in {call}"))
                ),
                two.sleep_evidence("ClientAuthInProgress is 1 at both glances"),
            )
        })
    }),
    row("handlers-replaced", |two, _| {
        two.both(stopping::was_told_in_vain).then(|| {
            (
                "something replaced PostgreSQL's signal handlers: a terminate was sent and delivered, and set nothing".into(),
                vec!["the server is being stopped and has sent SIGTERM to all sessions; ProcDiePending is not set".into()],
            )
        })
    }),
    row("receiver-wait", |two, _| {
        let stream = two
            .last
            .stream
            .as_ref()
            .filter(|_| two.both(stopping::waits_for))?;
        let mut evidence = vec![format!(
            "sent up to {}, and confirmed up to {}",
            Stream::position(stream.sent),
            Stream::position(stream.confirmed)
        )];
        evidence.extend(
            two.wait()
                .map(|wait| format!("wait event {} at both glances", wait.text())),
        );
        let to = two.last.status.as_ref().ok().and_then(|s| s.client);
        let to = to.map_or(String::new(), |client| format!(" {client}"));
        Some((
            format!(
                "the server is being stopped, and its receiver{to} has not confirmed all WAL, which it waits for before it ends"
            ),
            evidence,
        ))
    }),
    row("process-wait", |two, _| {
        let held_up = two.both(stopping::waits_for);
        let piles_up = two.both(wal_piles_up);
        let call = two
            .last
            .process
            .syscall
            .as_ref()
            .filter(|_| held_up || piles_up)?;
        let child = call.child()?;
        let before = two.first.process.syscall.as_ref()?.child()?;
        (before.pid == child.pid && two.asleep_in().is_some()).then_some(())?;
        let what = match two.last.backend_type {
            BackendType::Archiver => "its archive_command",
            BackendType::Startup => "its restore_command",
            _ => "its child",
        };
        let mut evidence = Vec::new();
        if let Some(archiving) = &two.last.archiving {
            evidence.push(format!("that has run for {} s", archiving.since.as_secs()));
            evidence.push(match archiving.ready {
                MOST_READY.. => format!("{MOST_READY} WAL files or more are to be archived"),
                ready => format!("{ready} WAL files are to be archived"),
            });
        }
        let who_waits = match held_up {
            true => "the server is being stopped, and it",
            false => "it",
        };
        Some((
            format!("{who_waits} waits for {what}, {}", child.describe()),
            evidence,
        ))
    }),
    row("spinlock-wait", |two, _| {
        // Between two sleeps it tries again, and says nothing.
        let event = |g: &Glance| Some(g.wait.as_ref().filter(|w| w.is("SpinDelay"))?.text());
        let shows = |g: &Glance| g.waits_for_spinlock == Some(true);
        let waits = |g: &Glance| event(g).is_some() || shows(g);
        let tries = |g: &Glance| g.wait.is_none() && g.process.state == Some('R');
        let found = waits(two.first) || waits(two.last);
        (found && two.both(|g| waits(g) || tries(g))).then_some(())?;
        let evidence = match event(two.last).or_else(|| event(two.first)) {
            Some(event) => format!("wait event {event}"),
            None => "perform_spin_delay() by what is on its stack, which nobody unwound".into(),
        };
        Some(("it waits for a spinlock".into(), vec![evidence]))
    }),
    row("lwlock-wait", |two, _| {
        let wait = two.wait().filter(|wait| wait.is_of(wait_class::LWLOCK))?;
        let lock = wait.event.clone().unwrap_or_else(|| wait.text());
        Some((
            format!("it waits for the LWLock {lock}, with interrupts held off until it has it"),
            vec![format!("wait event {} at both glances", wait.text())],
        ))
    }),
    row("storage-wait", |two, _| {
        let wait = two.wait().filter(|wait| wait.is("AioIoUringExecution"))?;
        let mut evidence = vec![format!("wait event {} at both glances", wait.text())];
        evidence.extend(two.sleep_evidence(""));
        Some((
            "it waits for the storage to answer a read or write that it asked the kernel for"
                .into(),
            evidence,
        ))
    }),
    row("critical-section", |two, _| {
        let count = two.count(|g| g.variables.crit_section_count)?;
        Some((
            "it was in a critical section at both of two glances".into(),
            vec![format!("CritSectionCount is {count}")],
        ))
    }),
    row("interrupts-held-off", |two, pending| {
        let (name, count) = match two.count(|g| g.variables.interrupt_holdoff_count) {
            Some(count) => ("InterruptHoldoffCount", count),
            None => {
                let count = two.count(|g| g.variables.query_cancel_holdoff_count)?;
                // That one holds off nothing but cancels.
                only(pending, Interrupt::Cancel).then_some(())?;
                ("QueryCancelHoldoffCount", count)
            }
        };
        let mut evidence = vec![format!("{name} is {count}")];
        evidence.extend(two.doing_evidence());
        Some((
            "interrupts were held off at both of two glances".into(),
            evidence,
        ))
    }),
    row("signals-blocked", |two, _| {
        let is_in = |set, n: &i32| Signals::has(set, *n) == Some(true);
        let held: Vec<i32> = ENDING_SIGNALS
            .into_iter()
            .filter(|n| two.both(|g| is_in(g.signals.blocked, n) && is_in(g.signals.pending, n)))
            .collect();
        (!held.is_empty()).then(|| {
            (
                "it blocks the signals that cancel and terminate it".into(),
                vec![format!("{} sent, and blocked", names(&held))],
            )
        })
    }),
    row("client-write", |two, _| {
        let wait = two.wait().filter(|wait| wait.is("ClientWrite"))?;
        let client = two.last.status.as_ref().ok().and_then(|s| s.client);
        Some((
            format!(
                "it waits for its client{} to take what it sent",
                client.map_or(String::new(), |c| format!(" {c}"))
            ),
            vec![format!("wait event {} at both glances", wait.text())],
        ))
    }),
    row("heavyweight-lock-wait", |two, _| {
        let wait = two.wait().filter(|wait| wait.is_of(wait_class::LOCK))?;
        Some((
            "it waits for a lock that another session holds (see pg_blocking_pids())".into(),
            vec![format!("wait event {} at both glances", wait.text())],
        ))
    }),
    row("swallowed", |two, pending| {
        let since = two.was_swallowed().filter(|_| pending.is_empty())?;
        Some((
            "a cancel raised an ERROR, and something in this statement caught it and goes on"
                .into(),
            vec![format!(
                "QueryCancelPending was set and is not any more, and the same statement still runs {:.1} s later",
                since.as_secs_f64()
            )],
        ))
    }),
    row("handlers-replaced", |two, _| {
        let waiters = Some(&two.last.waiters).filter(|_| two.is_deaf_and_in_the_way())?;
        let unheard = names(&unheard(two.last));
        let wait = match waiters.len() {
            1 => "waits for a lock that it holds",
            _ => "wait for locks that it holds",
        };
        let process = if waiters.len() == 1 {
            "process"
        } else {
            "processes"
        };
        Some((
            format!(
                "{process} {} {wait}, and something replaced PostgreSQL's signal handlers: what {unheard} should do, it does not",
                super::locks::pids(waiters)
            ),
            vec![format!("no handler for {unheard}")],
        ))
    }),
    row("barrier-ignored", |two, pending| {
        only(pending, Interrupt::Barrier).then(|| {
            let mut evidence = vec!["ProcSignalBarrierPending set, and not acted on".to_owned()];
            evidence.extend(two.doing_evidence());
            (
                "it does not accept a ProcSignalBarrier, and others (DROP DATABASE, for one) wait for that".into(),
                evidence,
            )
        })
    }),
    row("sleep-loop", |two, _| {
        two.asleep_in()?;
        let sleeps = |g: &Glance| {
            let call = g.process.syscall.as_ref();
            call.is_some_and(|c| super::cause::short_sleep(c).is_some())
        };
        two.both(sleeps).then(|| {
            (
                "it was in a short sleep at both of two glances, and did not check for interrupts in between".into(),
                two.sleep_evidence("asleep in a short sleep at both glances"),
            )
        })
    }),
    row("latch-loop", |two, _| {
        const POLLS: [&str; 4] = ["epoll_wait", "epoll_pwait", "poll", "ppoll"];
        let number = two.asleep_in()?;
        let name = crate::process::syscalls::name_of(number);
        let wait = two.wait().filter(|_| POLLS.contains(&&*name))?;
        let mut evidence = vec![format!("wait event {} at both glances", wait.text())];
        evidence.extend(two.sleep_evidence(""));
        Some((
            "it waited for its latch at both of two glances, and did not check for interrupts in between".into(),
            evidence,
        ))
    }),
    row("blocked-syscall", |two, _| {
        two.asleep_in()?;
        Some((
            format!("it was blocked in {} at both of two glances", two.call()?),
            two.sleep_evidence("asleep in this call at both glances"),
        ))
    }),
    row("cpu-loop", |two, _| {
        let share = two.cpu?;
        let runs = two.in_state('R') && share >= 1.0 || share >= 50.0;
        runs.then(|| {
            (
                "it computed from one glance to the next, and did not check for interrupts".into(),
                two.doing_evidence().into_iter().collect(),
            )
        })
    }),
];

/// Finds the cause that is likely.
fn find(two: &Two, pending: &[Pending]) -> Cause {
    let found = TABLE
        .iter()
        .find_map(|row| Some((row.code, (row.recognise)(two, pending)?)));
    let mut cause = match found {
        Some((code, (summary, evidence))) => Cause {
            code,
            summary,
            evidence,
        },
        None => Cause {
            code: "unknown",
            summary: "what it does could not be told without stopping it".into(),
            evidence: Vec::new(),
        },
    };
    if two.both(stopping::waits_for) && !SAYS_SO.contains(&cause.code) {
        let text = "the server was told to stop, and this process is one that it waits for";
        cause.evidence.push(text.into());
    }
    cause
}

/// Causes whose sentence has it that the server is being stopped.
const SAYS_SO: [&str; 2] = ["receiver-wait", "process-wait"];

/// Whether nothing else is pending.
fn only(pending: &[Pending], what: Interrupt) -> bool {
    !pending.is_empty() && pending.iter().all(|p| p.what == what)
}

fn names(signals: &[i32]) -> String {
    let set = signals.iter().fold(0, |set, n| set | 1u64 << (n - 1));
    signal_names(set).join(" and ")
}

impl Two<'_> {
    fn both(&self, is: impl Fn(&Glance) -> bool) -> bool {
        is(self.first) && is(self.last)
    }

    fn in_state(&self, state: char) -> bool {
        self.both(|g| g.process.state == Some(state))
    }

    /// A counter that was over 0 at both.
    fn count(&self, of: fn(&Glance) -> Option<u32>) -> Option<u32> {
        let over = |g| of(g).filter(|n| *n > 0);
        over(self.first).and(over(self.last))
    }

    /// What it waited for at both.
    fn wait(&self) -> Option<&Wait> {
        let wait = self.last.wait.as_ref()?;
        (self.first.wait.as_ref() == Some(wait)).then_some(wait)
    }

    /// Whether they show that it does not go on, though nothing may be pending in it.
    fn are_enough(&self) -> bool {
        let held_up = self.both(stopping::waits_for) || self.both(is_ending);
        self.undoing_in().is_some()
            || self.was_swallowed().is_some()
            || self.is_deaf_and_in_the_way()
            || self.both(wal_piles_up)
            || held_up && !self.had_no_turn()
    }

    /// Others wait for a lock that it holds, and it does not hear what would make it let go.
    fn is_deaf_and_in_the_way(&self) -> bool {
        self.both(is_deaf) && !self.last.waiters.is_empty()
    }

    /// Ready to run, and never let.
    fn had_no_turn(&self) -> bool {
        self.in_state('R') && self.cpu == Some(0.0)
    }

    /// The number of the system call that it slept in at both.
    fn asleep_in(&self) -> Option<i64> {
        let number = |g: &Glance| Some(g.process.syscall.as_ref()?.number);
        let last = number(self.last).filter(|_| self.in_state('S'))?;
        (number(self.first) == Some(last)).then_some(last)
    }

    /// The call in which it was asleep both times while it dealt with an error. LWLocks, and a client that does not take
    /// the error, are causes of their own.
    fn undoing_in(&self) -> Option<i64> {
        let otherwise = self
            .wait()
            .is_some_and(|wait| wait.is_of(wait_class::LWLOCK) || wait.is("ClientWrite"));
        let same = self.first.statement_start() == self.last.statement_start();
        (same && !otherwise && self.both(Glance::is_undoing)).then(|| self.asleep_in())?
    }

    /// For how long the statement has gone on since a cancel was taken, where nothing is being undone. An error that
    /// nothing catches is undone with interrupts held off.
    fn was_swallowed(&self) -> Option<Duration> {
        const GOES_ON: Duration = Duration::from_secs(1);
        let quiet = |g: &Glance| {
            g.variables.interrupt_holdoff_count == Some(0)
                && g.variables
                    .errordata_stack_depth
                    .is_none_or(|depth| depth < 0)
        };
        let turns = !self.had_no_turn();
        self.taken
            .filter(|since| *since >= GOES_ON && turns && self.both(quiet))
    }

    fn call(&self) -> Option<String> {
        self.last.process.syscall.as_ref().map(|c| c.describe())
    }

    fn sleep_evidence(&self, first: &str) -> Vec<String> {
        let mut evidence: Vec<String> = Some(first.to_owned())
            .filter(|text| !text.is_empty())
            .into_iter()
            .collect();
        let channel = self.last.process.wait_channel.as_ref();
        evidence.extend(channel.map(|at| format!("it waits in the kernel's {at}")));
        evidence
    }

    fn doing_evidence(&self) -> Option<String> {
        let share = self.cpu?;
        Some(format!(
            "it used {share:.0} % of a processor between two glances"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::Activity;
    use crate::postgres::status::Status;
    use crate::process::syscalls::BlockedCall;
    use crate::snapshot::{ProcessFacts, Variables};

    const SECOND: i64 = 1_000_000;

    /// A session whose statement has run for ten seconds, `ms` after the first glance.
    fn glance(ms: u64, change: impl FnOnce(&mut Glance)) -> Glance {
        let signals = 1 << (libc::SIGINT - 1) | 1 << (libc::SIGTERM - 1);
        let mut glance = Glance {
            at: Timestamp(100 * SECOND + ms as i64 * 1000),
            clock: Duration::from_secs(50) + Duration::from_millis(ms),
            pid: 77,
            start_time: 5,
            inner_pid: 77,
            has_postmaster: true,
            backend_type: BackendType::Client,
            worker_type: None,
            title: "alice shop [local] SELECT".into(),
            user: Some("alice".into()),
            database: Some("shop".into()),
            leader: None,
            status: Ok(Status {
                started: Some(Timestamp(40 * SECOND)),
                transaction_start: Some(Timestamp(90 * SECOND)),
                query_start: Some(Timestamp(90 * SECOND)),
                state_change: Some(Timestamp(90 * SECOND)),
                database: Some(16384),
                user: Some(10),
                client: None,
                activity: Some(Activity::Active),
                application_name: None,
                query: None,
            }),
            wait: None,
            variables: Variables {
                query_cancel_pending: Some(true),
                proc_die_pending: Some(false),
                proc_signal_barrier_pending: Some(false),
                interrupt_holdoff_count: Some(0),
                query_cancel_holdoff_count: Some(0),
                crit_section_count: Some(0),
                proc_exit_in_progress: Some(false),
                ..Variables::default()
            },
            signals: Signals {
                blocked: Some(0),
                pending: Some(0),
                caught: Some(signals),
                ..Signals::default()
            },
            process: ProcessFacts {
                state: Some('R'),
                ..ProcessFacts::default()
            },
            cpu_time: Some(Duration::from_millis(1000 + ms)),
            server_stopping: None,
            stage: None,
            stream: None,
            archiving: None,
            waiters: Vec::new(),
            waits_for_spinlock: None,
        };
        change(&mut glance);
        glance
    }

    /// What is said after two glances, 100 ms apart.
    fn judge(change: impl Fn(&mut Glance)) -> Judgement {
        let mut ledger = Ledger::default();
        let first = ledger.judge(&glance(0, &change));
        assert!(!first.is_stuck(), "by one glance nobody is stuck");
        ledger.judge(&glance(100, &change))
    }

    fn wait(class: &str, event: &str, info: u32) -> Option<Wait> {
        Some(Wait {
            class: Some(class.into()),
            event: Some(event.into()),
            info,
        })
    }

    fn asleep(g: &mut Glance, number: i64) {
        g.process.state = Some('S');
        g.process.syscall = Some(BlockedCall::from_registers(number, [7, 0, 0, 0, 0, 0]));
        g.cpu_time = Some(Duration::from_secs(1));
    }

    #[test]
    fn each_cause_by_its_evidence() {
        type Row = (&'static str, fn(&mut Glance));
        let rows: [Row; 22] = [
            ("storage-wait", |g| {
                g.wait = wait("IO", "AioIoUringExecution", 0x0a00_0001);
                g.variables.interrupt_holdoff_count = Some(1);
                asleep(g, libc::SYS_io_uring_enter);
            }),
            ("cpu-loop", |_| {}),
            ("being-traced", |g| g.process.tracer = Some(5)),
            ("group-stopped", |g| g.process.state = Some('T')),
            ("uninterruptible-syscall", |g| g.process.state = Some('D')),
            ("exiting", |g| {
                g.variables.proc_exit_in_progress = Some(true)
            }),
            ("postmaster-gone", |g| g.has_postmaster = false),
            ("spinlock-wait", |g| {
                g.wait = wait("Timeout", "SpinDelay", 0x0900_0006)
            }),
            // Before 16 it names no wait event.
            ("spinlock-wait", |g| {
                asleep(g, libc::SYS_pselect6);
                g.waits_for_spinlock = Some(true);
            }),
            ("lwlock-wait", |g| {
                g.wait = wait("LWLock", "WALWrite", 0x0100_0008);
                g.variables.interrupt_holdoff_count = Some(1);
                asleep(g, libc::SYS_futex);
            }),
            ("critical-section", |g| {
                g.variables.crit_section_count = Some(1);
                g.variables.interrupt_holdoff_count = Some(2);
            }),
            ("interrupts-held-off", |g| {
                g.variables.interrupt_holdoff_count = Some(1)
            }),
            ("interrupts-held-off", |g| {
                g.variables.query_cancel_holdoff_count = Some(1)
            }),
            ("cpu-loop", |g| {
                g.variables.query_cancel_holdoff_count = Some(1);
                g.variables.proc_die_pending = Some(true);
            }),
            ("signals-blocked", |g| {
                g.signals.blocked = Some(1 << (libc::SIGTERM - 1));
                g.signals.pending = g.signals.blocked;
            }),
            ("client-write", |g| {
                g.wait = wait("Client", "ClientWrite", 0x0600_0001)
            }),
            ("heavyweight-lock-wait", |g| {
                g.wait = wait("Lock", "relation", 0x0300_0000)
            }),
            ("barrier-ignored", |g| {
                g.variables.query_cancel_pending = Some(false);
                g.variables.proc_signal_barrier_pending = Some(true);
            }),
            ("latch-loop", |g| {
                g.wait = wait("Extension", "Extension", 0x0700_0000);
                asleep(g, libc::SYS_epoll_wait);
            }),
            ("blocked-syscall", |g| asleep(g, libc::SYS_read)),
            ("blocked-syscall", |g| asleep(g, libc::SYS_epoll_wait)),
            ("unknown", |g| {
                g.process.state = Some('S');
                g.cpu_time = None;
            }),
        ];
        for (code, change) in rows {
            let judgement = judge(change);
            assert_eq!(judgement.cause.map(|c| c.code), Some(code));
        }
    }

    #[test]
    fn a_wait_for_a_spinlock_sleeps_and_tries() {
        let code = |changes: [fn(&mut Glance); 2]| {
            let mut ledger = Ledger::default();
            ledger.judge(&glance(0, changes[0]));
            let last = ledger.judge(&glance(100, changes[1]));
            last.cause.map(|c| c.code)
        };
        let sleeps: fn(&mut Glance) = |g| {
            asleep(g, libc::SYS_pselect6);
            g.waits_for_spinlock = Some(true);
        };
        let says: fn(&mut Glance) = |g| g.wait = wait("Timeout", "SpinDelay", 0x0900_0006);
        let tries: fn(&mut Glance) = |_| {};
        let waits_otherwise: fn(&mut Glance) = |g| {
            asleep(g, libc::SYS_pselect6);
            g.waits_for_spinlock = Some(false);
        };
        let spinlock = Some("spinlock-wait");
        assert_eq!(code([sleeps, tries]), spinlock);
        assert_eq!(code([tries, says]), spinlock);
        assert_eq!(code([says, says]), spinlock);
        assert_ne!(code([tries, tries]), spinlock);
        assert_ne!(code([sleeps, waits_otherwise]), spinlock);
    }

    #[test]
    fn a_clean_up_that_hangs_is_stuck_with_nothing_pending() {
        let undoing = |g: &mut Glance| {
            g.variables.query_cancel_pending = Some(false);
            g.variables.errordata_stack_depth = Some(0);
            g.variables.interrupt_holdoff_count = Some(2);
            asleep(g, libc::SYS_recvfrom);
        };
        let code = |j: Judgement| j.cause.map(|c| c.code);
        assert!(asks_for_another_glance(&glance(0, undoing)));
        assert_eq!(code(judge(undoing)), Some("abort-hangs"));
        let others: [fn(&mut Glance); 4] = [
            |g| g.variables.errordata_stack_depth = Some(-1),
            |g| g.variables.errordata_stack_depth = None,
            |g| g.variables.interrupt_holdoff_count = Some(0),
            |g| g.process.state = Some('R'),
        ];
        for other in others {
            let found = judge(|g| {
                undoing(g);
                other(g);
            });
            assert_eq!(code(found), None);
        }
    }

    #[test]
    fn a_cancel_that_was_taken_and_changed_nothing_was_swallowed() {
        let quiet = |g: &mut Glance| {
            g.variables.query_cancel_pending = Some(false);
            g.variables.errordata_stack_depth = Some(-1);
        };
        let after = |ms: u64, change: &dyn Fn(&mut Glance)| {
            let mut ledger = Ledger::default();
            ledger.judge(&glance(0, |_| {}));
            ledger.judge(&glance(100, quiet));
            let last = ledger.judge(&glance(ms, |g| {
                quiet(g);
                change(g);
            }));
            last.cause.map(|c| c.code)
        };
        assert_eq!(after(1200, &|_| {}), Some("swallowed"));
        assert_eq!(after(900, &|_| {}), None, "it may be ending yet");
        let undone = |g: &mut Glance| g.variables.interrupt_holdoff_count = Some(1);
        assert_eq!(after(1200, &undone), None);
        let next = |g: &mut Glance| {
            if let Ok(status) = &mut g.status {
                status.query_start = Some(Timestamp(99 * SECOND));
            }
        };
        assert_eq!(after(1200, &next), None);
        let again = |g: &mut Glance| g.variables.query_cancel_pending = Some(true);
        assert_ne!(after(1200, &again), Some("swallowed"));
    }

    #[test]
    fn codes_are_those_of_inspect() {
        for row in TABLE {
            let known = crate::assess::cause::TABLE.iter();
            assert!(
                known.into_iter().any(|r| r.code == row.code),
                "{}",
                row.code
            );
        }
    }

    #[test]
    fn bounds_of_how_long() {
        let pending = judge(|_| {}).pending;
        let [cancel] = pending[..] else {
            panic!("{pending:?}")
        };
        assert_eq!((cancel.what, cancel.arrived), (Interrupt::Cancel, true));
        assert_eq!(cancel.at_least, Some(Duration::from_millis(100)));
        assert_eq!(cancel.at_most, Some(Duration::from_millis(10_100)));
        let pending = judge(|g| g.variables.proc_die_pending = Some(true)).pending;
        assert_eq!(pending[0].what, Interrupt::Terminate);
        assert_eq!(pending[0].at_most, Some(Duration::from_millis(60_100)));
        // A signal that is blocked may have been sent before the statement began.
        let pending = judge(|g| {
            g.variables.query_cancel_pending = Some(false);
            g.signals.pending = Some(1 << (libc::SIGINT - 1));
        })
        .pending;
        assert!(!pending[0].arrived);
        assert_eq!(pending[0].at_most, Some(Duration::from_millis(60_100)));
        // A clock that was set back.
        let at_most = judge(|g| g.at = Timestamp(0)).pending[0].at_most;
        assert_eq!(at_most, None);
    }

    #[test]
    fn it_grows_while_it_is_watched_and_starts_anew_with_a_statement() {
        let mut ledger = Ledger::default();
        let mut at_least = |ms, change: fn(&mut Glance)| {
            let judgement = ledger.judge(&glance(ms, change));
            judgement.pending.first().and_then(|p| p.at_least)
        };
        assert_eq!(at_least(0, |_| {}), None);
        assert_eq!(at_least(100, |_| {}), Some(Duration::from_millis(100)));
        assert_eq!(at_least(5000, |_| {}), Some(Duration::from_secs(5)));
        let other = |g: &mut Glance| {
            if let Ok(status) = &mut g.status {
                status.query_start = Some(Timestamp(95 * SECOND));
            }
        };
        assert_eq!(at_least(6000, other), None);
        assert_eq!(at_least(6500, other), Some(Duration::from_millis(500)));
        let served = |g: &mut Glance| g.variables.query_cancel_pending = Some(false);
        assert_eq!(at_least(7000, served), None);
        assert_eq!(at_least(8000, other), None, "a new one");
    }

    #[test]
    fn what_had_no_turn_ignores_nothing() {
        let judgement = judge(|g| g.cpu_time = Some(Duration::from_secs(1)));
        assert!(!judgement.is_stuck());
        assert_eq!(judgement.pending[0].at_least, None);
    }

    #[test]
    fn the_deaf_and_those_that_are_not() {
        let nothing = |g: &mut Glance| g.variables.query_cancel_pending = Some(false);
        assert!(!judge(nothing).is_stuck());
        let deaf = |g: &mut Glance| {
            g.variables.query_cancel_pending = Some(false);
            g.signals.caught = Some(0);
        };
        // By itself that holds nothing up.
        let judgement = judge(deaf);
        assert!(!judgement.is_stuck() && judgement.pending.is_empty());
        assert_eq!(judgement.unheard, ["SIGINT", "SIGTERM"]);
        let in_the_way = judge(|g| {
            deaf(g);
            g.waiters = vec![78];
        });
        assert_eq!(in_the_way.cause.map(|c| c.code), Some("handlers-replaced"));
        // In system(3) it ignores SIGINT for a moment; SIGTERM is heard.
        let in_system = |g: &mut Glance| {
            let bit = |n: i32| 1 << (n - 1);
            g.variables.query_cancel_pending = Some(false);
            g.signals.caught = Some(!bit(libc::SIGINT));
            g.signals.ignored = Some(bit(libc::SIGINT) | bit(libc::SIGQUIT));
            g.signals.blocked = Some(bit(libc::SIGCHLD));
        };
        assert!(judge(in_system).unheard.is_empty());
        let by_hand = judge(|g| {
            in_system(g);
            g.signals.blocked = Some(0);
        });
        assert_eq!(by_hand.unheard, ["SIGINT"]);
        let starting = judge(|g| {
            deaf(g);
            g.status = Err(crate::postgres::status::NoStatus::None);
        });
        assert!(!starting.is_stuck());
        let walwriter = judge(|g| {
            deaf(g);
            g.backend_type = BackendType::WalWriter;
            g.signals.pending = Some(u64::MAX);
        });
        assert!(!walwriter.is_stuck());
    }

    #[test]
    fn another_process_with_the_same_pid_starts_anew() {
        let mut ledger = Ledger::default();
        ledger.judge(&glance(0, |_| {}));
        let other = ledger.judge(&glance(100, |g| g.start_time = 6));
        assert!(!other.is_stuck() && other.cpu_percent.is_none());
        ledger.keep_only(&HashSet::from([(77, 6)]));
        assert_eq!(ledger.0.len(), 1);
    }
}
