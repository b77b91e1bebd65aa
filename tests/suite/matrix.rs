//! The matrix: every state that a backend can be brought into, on PostgreSQL as Debian ships it and
//! built with DWARF. One row each says the cause, the verdicts, and what comes of a cancel and of a
//! terminate by pgpoke; another state is another row.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use postgres::Client;
use serde_json::{Value, json};

use crate::harness::{
    Backend, DEADLINE, How, Installation, Server, Stuck, built, server_with_testext, wait_for,
};
use crate::report::{Report, function_of};

/// What a signal does in the backend, as `signals.SIG….function` has it, and whether that is what
/// PostgreSQL installs.
#[derive(Clone, Copy)]
pub enum Handler {
    /// PostgreSQL's own.
    Postgres(&'static str),
    /// One of the extension's.
    Extension(&'static str),
    /// None: the signal is ignored.
    Ignored,
    /// Could not be asked for.
    Unknown,
}

/// What it does all the time.
#[derive(Clone, Copy)]
enum Doing {
    Computes,
    /// Sleeps in this system call.
    SleepsIn(&'static str),
    /// Now this, now that.
    Varies,
}

/// How a backend gets there.
#[derive(Clone, Copy)]
enum Start {
    /// Calls this function of the extension.
    Call(&'static str),
    /// The same, and is then stopped by SIGSTOP.
    CallAndStop(&'static str),
    /// Waits for somebody to write into a FIFO.
    Fifo,
    /// Divides long numbers, and has used CPU time for it.
    Divide,
    /// Runs this, and sleeps until it is woken.
    Wait(&'static str),
    /// Wants to lock a table that another session has locked.
    WaitForLock,
    /// Has run this, and waits for the next command.
    Idle(&'static str),
    /// Sends rows to a client that has stopped reading.
    Send,
}

/// What comes of `pgpoke interrupt`: the outcome and the exit code.
pub type Outcome = (&'static str, i32);

/// A state of a backend, what has to be said of it once somebody tried to end it, and what comes of
/// an interrupt.
#[derive(Clone, Copy)]
pub struct Scenario {
    start: Start,
    /// Which of the two does not end it; with the others PostgreSQL's own way is enough.
    ignores: &'static [How],
    /// The functions of the extension on the stack, innermost first.
    pub functions: &'static [&'static str],
    cause: &'static str,
    /// The verdict for what is pending.
    verdict: &'static str,
    /// The verdicts had a cancel, or a terminate, been asked for.
    verdict_if: [&'static str; 2],
    /// The innermost frames are others at every moment: then it may also be found in an allocator,
    /// where it is not safe, and an interrupt has to look for a better instruction.
    moving: bool,
    /// What comes of a cancel, or a terminate, where that does not follow from the verdict.
    outcomes: [Option<Outcome>; 2],
    /// The checks that fail, sorted; in a safe state all others pass.
    failing: &'static [&'static str],
    /// Whether the signals set PostgreSQL's flags.
    flagged: bool,
    doing: Doing,
    pub threads: u64,
    /// Of SIGINT, SIGTERM and SIGUSR1.
    handlers: [Handler; 3],
    /// What else is said: JSON pointers and values, as JSON.
    facts: &'static [(&'static str, &'static str)],
}

/// Nothing is held, and nothing holds the interrupts off.
const FREE: &[(&str, &str)] = &[
    ("/interrupts/interrupt_holdoff_count", "0"),
    ("/interrupts/query_cancel_holdoff_count", "0"),
    ("/interrupts/crit_section_count", "0"),
    ("/locks/lwlocks_held", "0"),
    ("/locks/waiting_for", "null"),
    ("/locks/spinlock", "\"none\""),
];

pub const OWN: [Handler; 3] = [
    Handler::Postgres("StatementCancelHandler"),
    Handler::Postgres("die"),
    Handler::Postgres("procsignal_sigusr1_handler"),
];

pub const UNKNOWN: [Handler; 3] = [Handler::Unknown; 3];

/// A tight loop in which an interrupt is safe; most scenarios differ from it in a point or two.
pub const SPIN: Scenario = Scenario {
    start: Start::Call("pgpoke_spin()"),
    ignores: &How::BOTH,
    functions: &["spin", "pgpoke_spin"],
    cause: "cpu-loop",
    verdict: "safe",
    verdict_if: ["safe"; 2],
    moving: false,
    outcomes: [None; 2],
    failing: &[],
    flagged: true,
    doing: Doing::Computes,
    threads: 1,
    handlers: OWN,
    facts: FREE,
};

/// A system call that is gone back to whenever a signal has woken it.
const fn blocked_in(
    call: &'static str,
    functions: &'static [&'static str],
    syscall: &'static str,
) -> Scenario {
    Scenario {
        start: Start::Call(call),
        functions,
        cause: "blocked-syscall",
        doing: Doing::SleepsIn(syscall),
        ..SPIN
    }
}

/// One in which an interrupt is not safe.
const fn not_safe(
    call: &'static str,
    functions: &'static [&'static str],
    verdict: &'static str,
    cause: &'static str,
    failing: &'static [&'static str],
) -> Scenario {
    Scenario {
        start: Start::Call(call),
        functions,
        cause,
        verdict,
        verdict_if: [verdict; 2],
        failing,
        ..SPIN
    }
}

/// One whose innermost frames change all the time.
const fn moving(
    call: &'static str,
    functions: &'static [&'static str],
    when_calm: &'static str,
) -> Scenario {
    Scenario {
        moving: true,
        facts: &[],
        ..not_safe(call, functions, when_calm, "cpu-loop", &[])
    }
}

/// One that does as it is told.
const fn well(start: Start, cause: &'static str) -> Scenario {
    Scenario {
        start,
        ignores: &[],
        functions: &[],
        cause,
        verdict: "pointless",
        failing: &["pending"],
        outcomes: [Some(OBEYED), Some(OBEYED)],
        flagged: false,
        doing: Doing::SleepsIn("epoll_wait"),
        facts: &[],
        ..SPIN
    }
}

const OBEYED: Outcome = ("obeyed-signal", 0);

/// Nobody runs it, so nothing reaches it.
const fn not_running(start: Start, cause: &'static str) -> Scenario {
    Scenario {
        start,
        ignores: &How::BOTH,
        functions: &[],
        cause,
        verdict: "pointless",
        verdict_if: ["pointless"; 2],
        failing: &["pending", "process-state"],
        flagged: false,
        doing: Doing::Varies,
        handlers: UNKNOWN,
        facts: &[],
        ..SPIN
    }
}

/// The signals do not reach the flags, and so nothing is pending; had it been asked for, it would
/// be safe.
const fn unflagged(
    call: &'static str,
    functions: &'static [&'static str],
    cause: &'static str,
    handlers: [Handler; 3],
) -> Scenario {
    Scenario {
        start: Start::Call(call),
        functions,
        cause,
        verdict: "pointless",
        failing: &["pending"],
        flagged: false,
        handlers,
        ..SPIN
    }
}

/// SIGUSR1 cannot be borrowed.
const fn no_carrier(call: &'static str, handlers: [Handler; 3]) -> Scenario {
    Scenario {
        handlers,
        ..not_safe(
            call,
            &["spin", "pgpoke_usr1"],
            "unsafe",
            "cpu-loop",
            &["signal-deliverable"],
        )
    }
}

const fn usr1(handler: &'static str) -> [Handler; 3] {
    [OWN[0], OWN[1], Handler::Extension(handler)]
}

const fn int_and_term(handler: Handler) -> [Handler; 3] {
    [handler, handler, OWN[2]]
}

/// Divisions of long numbers, which take the better part of a second each, and between which the
/// executor does not check; as many as pg_stat_activity shows of a statement.
pub fn long_division() -> String {
    let terms: Vec<_> = (10..95).map(|n| format!("(a+{n})%b")).collect();
    format!(
        "SELECT length(({})::text) FROM (SELECT repeat('7', 130000)::numeric a, repeat('3', 65000)::numeric b OFFSET 0) n",
        terms.join("+")
    )
}

/// A backend that has been brought into a certain state, and whoever keeps it there.
pub struct Actor<'s> {
    backend: Backend,
    /// Its session, where it runs a statement.
    pub stuck: Option<Stuck<'s>>,
    sql: String,
    _others: Vec<Client>,
    _reader: Option<StoppedClient>,
}

/// psql, stopped while rows come in; killed at the end.
struct StoppedClient(Child);

impl Drop for StoppedClient {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl<'s> Actor<'s> {
    #[track_caller]
    fn new(server: &'s Server, start: Start) -> Self {
        let sleeping = |backend: &Backend| backend.syscall() == Some(libc::SYS_epoll_wait);
        let mut others = Vec::new();
        let stuck = match start {
            Start::Call(call) => server.stuck(&format!("SELECT {call}")),
            Start::CallAndStop(call) => {
                let stuck = server.stuck(&format!("SELECT {call}"));
                stuck.backend().send(libc::SIGSTOP);
                stuck.wait_until("SIGSTOP shall stop it", DEADLINE, |b| {
                    b.state() == Some('T')
                });
                stuck
            }
            Start::Fifo => server.stuck_on_fifo(),
            // Past parsing and planning.
            Start::Divide => server.stuck_when(&long_division(), |b| b.cpu_ticks() > 30),
            Start::Wait(sql) => server.stuck_when(sql, sleeping),
            Start::WaitForLock => {
                let mut holder = server.connect();
                let table = "CREATE TABLE IF NOT EXISTS locked ()";
                holder.batch_execute(table).expect("a table");
                holder.batch_execute("BEGIN; LOCK locked").expect("a lock");
                others.push(holder);
                server.stuck_when("TABLE locked", sleeping)
            }
            Start::Idle(sql) => return Self::idle(server, sql),
            Start::Send => return Self::sending(server),
        };
        Self {
            backend: stuck.backend(),
            sql: stuck.sql().to_owned(),
            stuck: Some(stuck),
            _others: others,
            _reader: None,
        }
    }

    fn idle(server: &'s Server, sql: &str) -> Self {
        let mut session = server.connect();
        let pid = session.query_one("SELECT pg_backend_pid()", &[]);
        let pid = pid.expect("the backend's PID").get(0);
        session.batch_execute(sql).expect("a statement");
        let backend = Backend::open(pid).expect("the backend");
        wait_for(DEADLINE, "the backend shall wait for its client", || {
            (backend.syscall() == Some(libc::SYS_epoll_wait)).then_some(())
        });
        Self {
            backend,
            stuck: None,
            sql: sql.to_owned(),
            _others: vec![session],
            _reader: None,
        }
    }

    fn sending(server: &'s Server) -> Self {
        let sql = "COPY (SELECT repeat('x', 1000000) FROM generate_series(1, 10000)) TO STDOUT";
        // Debian's, which gets on with every server.
        let psql = Command::new(Installation::debian().program("psql"))
            .args(["-XAtq", "-d", &server.conninfo(), "-c", sql])
            .env("PGAPPNAME", "does not read")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        let reader = StoppedClient(psql.expect("psql"));
        let client = i32::try_from(reader.0.id()).expect("a PID");
        let client = Backend::open(client).expect("psql's process");
        let mut observer = server.connect();
        let pid: i32 = wait_for(DEADLINE, "psql's statement shall run", || {
            let sql = "SELECT pid FROM pg_stat_activity
                       WHERE application_name = 'does not read' AND state = 'active'";
            observer
                .query_opt(sql, &[])
                .expect("an answer")
                .map(|row| row.get(0))
        });
        let backend = Backend::open(pid).expect("the backend");
        client.send(libc::SIGSTOP);
        wait_for(DEADLINE, "the backend shall wait for psql", || {
            let waits = backend.syscall() == Some(libc::SYS_epoll_wait);
            (waits && client.state() == Some('T')).then_some(())
        });
        Self {
            backend,
            stuck: None,
            sql: sql.to_owned(),
            _others: Vec::new(),
            _reader: Some(reader),
        }
    }

    /// Its process.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// PostgreSQL's own way is of no use.
    #[track_caller]
    fn prove_stuck(&self, server: &Server, how: How, start: Start) {
        match (&self.stuck, start) {
            // A signal that is sent to a stopped process waits: the proof would be none.
            (_, Start::CallAndStop(_)) => assert_eq!(self.backend.state(), Some('T')),
            (Some(stuck), _) => stuck.prove_stuck(how),
            (None, _) => {
                let sql = format!("SELECT {}({})", how.function(), self.backend.pid);
                let sent: bool = server
                    .connect()
                    .query_one(&sql, &[])
                    .expect("an answer")
                    .get(0);
                assert!(sent, "{sql} returned false");
                wait_for(DEADLINE, "the signal shall arrive", || {
                    (!self.backend.is_pending(how.signal())).then_some(())
                });
                wait_for(DEADLINE, "the backend shall wait again", || {
                    (self.backend.syscall() == Some(libc::SYS_epoll_wait)).then_some(())
                });
                assert!(self.backend.is_alive(), "it obeyed");
            }
        }
    }
}

macro_rules! scenarios {
    ($($name:ident: $scenario:expr,)+) => {
        /// As Debian ships it: stripped.
        mod debian {
            use super::*;
            $(
                #[test]
                fn $name() {
                    let builder = Server::builder().installation(Installation::debian());
                    is_judged_and_treated_as_it_is(&server_with_testext!(builder), &$scenario);
                }
            )+
        }

        /// With the names of all functions.
        mod dwarf {
            use super::*;
            $(
                #[test]
                fn $name() {
                    let installation = built!(Installation::dwarf());
                    let builder = Server::builder().installation(installation);
                    is_judged_and_treated_as_it_is(&server_with_testext!(builder), &$scenario);
                }
            )+
        }

        /// What is called safe, with assertions that watch what comes after.
        pub const ROWS: &[(&str, Scenario)] = &[$((stringify!($name), $scenario)),+];
    };
}

scenarios! {
    spin: SPIN,
    sleep: blocked_in("pgpoke_sleep()", &["pgpoke_sleep"], "clock_nanosleep"),
    read: blocked_in("pgpoke_read()", &["pgpoke_read"], "read"),
    latch: Scenario {
        cause: "latch-loop",
        ..blocked_in("pgpoke_latch()", &["pgpoke_latch"], "epoll_wait")
    },
    handlers_ignored: unflagged(
        "pgpoke_handlers('ignore')",
        &["spin", "pgpoke_handlers"],
        "handlers-replaced",
        int_and_term(Handler::Ignored),
    ),
    handlers_replaced: unflagged(
        "pgpoke_handlers('own')",
        &["spin", "pgpoke_handlers"],
        "handlers-replaced",
        int_and_term(Handler::Extension("count_signal")),
    ),
    handlers_replaced_by_pqsignal: unflagged(
        "pgpoke_handlers('pqsignal')",
        &["spin", "pgpoke_handlers"],
        "handlers-replaced",
        int_and_term(Handler::Extension("count_signal")),
    ),
    signals_blocked: Scenario {
        facts: &[("/signals/blocked", r#"["SIGINT", "SIGTERM", "SIGURG"]"#)],
        ..unflagged(
            "pgpoke_blocked()",
            &["spin", "pgpoke_blocked"],
            "signals-blocked",
            OWN,
        )
    },
    usr1_ignored: no_carrier("pgpoke_usr1('ignore')", UNKNOWN),
    usr1_blocked: no_carrier("pgpoke_usr1('block')", UNKNOWN),
    usr1_on_a_small_stack: no_carrier("pgpoke_usr1('smallstack')", usr1("chain_usr1")),
    usr1_on_a_stack_of_16_kib: no_carrier("pgpoke_usr1('16kstack')", usr1("chain_usr1")),
    usr1_on_another_stack: Scenario {
        start: Start::Call("pgpoke_usr1('altstack')"),
        functions: &["spin", "pgpoke_usr1"],
        handlers: usr1("chain_usr1"),
        ..SPIN
    },
    held_off: Scenario {
        // What holds interrupts off might have been an LWLock.
        facts: &[
            ("/interrupts/interrupt_holdoff_count", "1"),
            ("/interrupts/crit_section_count", "0"),
            ("/locks/lwlocks_held", "0"),
        ],
        ..not_safe(
            "pgpoke_hold()",
            &["spin", "pgpoke_hold"],
            "pointless",
            "interrupts-held-off",
            &["held-off"],
        )
    },
    critical_section: Scenario {
        facts: &[
            ("/interrupts/interrupt_holdoff_count", "0"),
            ("/interrupts/crit_section_count", "1"),
        ],
        ..not_safe(
            "pgpoke_crit()",
            &["spin", "pgpoke_crit"],
            "unsafe",
            "critical-section",
            &["critical-section"],
        )
    },
    lwlock: Scenario {
        doing: Doing::SleepsIn("futex"),
        facts: &[
            ("/locks/waiting_for/mode", "\"exclusive\""),
            ("/locks/waiting_for/tranche", "\"AddinShmemInit\""),
            ("/locks/lwlocks_held", "1"),
        ],
        ..not_safe(
            "pgpoke_lwlock()",
            &["pgpoke_lwlock"],
            "pointless",
            "lwlock-self-deadlock",
            &["held-off", "lwlock-held", "lwlock-wait"],
        )
    },
    // The handler jumps to spin() and leaves no frame of its own.
    signal_handler: not_safe(
        "pgpoke_handler_loop()",
        &["spin", "pgpoke_handler_loop"],
        "unsafe",
        "cpu-loop",
        &["signal-handler"],
    ),
    // A cancel would roll back what is committed in part; a terminate rolls everything back.
    subtransaction_end: Scenario {
        verdict_if: ["unsafe", "risky"],
        ..not_safe(
            "pgpoke_subtransaction()",
            &["spin", "at_subtransaction_end"],
            "unsafe",
            "cpu-loop",
            &["subtransaction"],
        )
    },
    swallowed_errors: Scenario {
        start: Start::Call("pgpoke_swallow()"),
        functions: &["spin", "pgpoke_swallow"],
        // The error is raised, and caught; a FATAL one gets through.
        outcomes: [Some(("returned", 5)), None],
        ..SPIN
    },
    callback_of_libc: Scenario {
        start: Start::Call("pgpoke_qsort()"),
        functions: &["spin", "endless_comparator", "pgpoke_qsort"],
        ..SPIN
    },
    spinlock: Scenario {
        facts: &[("/locks/spinlock", "\"waiting\"")],
        // Tries, and sleeps for a millisecond or more.
        doing: Doing::Varies,
        ..not_safe(
            "pgpoke_spinlock()",
            &["pgpoke_spinlock"],
            "unsafe",
            "spinlock-wait",
            &["spinlock"],
        )
    },
    // It does not wait for one, but it has one.
    spinlock_held: Scenario {
        facts: &[("/locks/spinlock", "\"maybe-held\"")],
        ..not_safe(
            "pgpoke_spinlock_held()",
            &["spin", "pgpoke_spinlock_held"],
            "unsafe",
            "cpu-loop",
            &["spinlock"],
        )
    },
    spinlock_released: Scenario {
        start: Start::Call("pgpoke_spinlock_released()"),
        functions: &["spin", "pgpoke_spinlock_released"],
        ..SPIN
    },
    stdio: Scenario {
        doing: Doing::SleepsIn("read"),
        ..not_safe(
            "pgpoke_stdio()",
            &["pgpoke_stdio"],
            "unsafe",
            "blocked-syscall",
            &["stdio-lock"],
        )
    },
    recursion: Scenario {
        start: Start::Call("pgpoke_deep(5)"),
        functions: &["spin", "descend", "descend", "descend", "descend", "descend", "pgpoke_deep"],
        ..SPIN
    },
    malloc: moving("pgpoke_malloc()", &["malloc_loop", "pgpoke_malloc"], "safe"),
    malloc_beside_a_thread: Scenario {
        threads: 2,
        ..moving(
            "pgpoke_malloc_threads()",
            &["malloc_loop", "pgpoke_malloc_threads"],
            "risky",
        )
    },
    palloc: moving("pgpoke_palloc()", &["pgpoke_palloc"], "safe"),
    fifo: Scenario {
        start: Start::Fifo,
        ..blocked_in("", &[], "openat")
    },
    // The server's own arithmetic, a few seconds of it without a check, in nothing but its own memory.
    numeric_division: Scenario {
        start: Start::Divide,
        ..moving("", &[], "safe")
    },
    idle: Scenario {
        verdict_if: ["pointless", "safe"],
        outcomes: [Some(("pointless", 5)), Some(OBEYED)],
        ..well(Start::Idle("SELECT 1"), "idle")
    },
    idle_in_transaction: Scenario {
        verdict_if: ["pointless", "safe"],
        outcomes: [Some(("pointless", 5)), Some(OBEYED)],
        ..well(Start::Idle("BEGIN"), "idle")
    },
    sleeping: well(Start::Wait("SELECT pg_sleep(3600)"), "responsive"),
    lock_wait: well(Start::WaitForLock, "heavyweight-lock-wait"),
    // A client that does not read holds a cancel up; a terminate is looked for even there.
    client_write: Scenario {
        ignores: &[How::Cancel],
        verdict: "unsafe",
        verdict_if: ["unsafe", "risky"],
        failing: &["client-io"],
        outcomes: [None, Some(OBEYED)],
        flagged: true,
        ..well(Start::Send, "client-write")
    },
    group_stopped: not_running(Start::CallAndStop("pgpoke_spin()"), "group-stopped"),
    uninterruptible: not_running(Start::Call("pgpoke_vfork(3600)"), "uninterruptible-syscall"),
}

/// Cause, verdicts and exit code are what the row says, and so is what comes of an interrupt.
pub fn is_judged_and_treated_as_it_is(server: &Server, scenario: &Scenario) {
    let mut left = None;
    for how in How::BOTH {
        let actor = left
            .take()
            .unwrap_or_else(|| Actor::new(server, scenario.start));
        if scenario.ignores.contains(&how) {
            actor.prove_stuck(server, how, scenario.start);
        }
        is_judged(server, &actor, how, scenario);
        left = is_treated(server, actor, how, scenario);
    }
    if let Some(actor) = left
        && let Start::CallAndStop(_) = scenario.start
    {
        actor.backend.send(libc::SIGCONT);
        actor.backend.assert_running_untraced();
    }
    server.assert_unharmed();
}

/// Brings a backend into the state of each row that is `wanted`, cancels it in vain where that is part of it, and shows it.
pub fn in_each_state(
    server: &Server,
    wanted: impl Fn(&str) -> bool,
    mut show: impl FnMut(&str, bool, i32),
) {
    for (name, scenario) in ROWS.iter().filter(|(name, _)| wanted(name)) {
        let actor = Actor::new(server, scenario.start);
        let cancelled = scenario.ignores.contains(&How::Cancel);
        if cancelled {
            actor.prove_stuck(server, How::Cancel, scenario.start);
        }
        show(name, cancelled, actor.backend.pid);
    }
}

impl Scenario {
    /// What comes of pgpoke's interrupt.
    pub fn expected(&self, how: How) -> Outcome {
        let n = usize::from(how == How::Terminate);
        self.outcomes[n].unwrap_or(match (self.verdict_if[n], n) {
            ("safe", 0) => ("cancelled", 0),
            ("safe", _) => ("terminated", 0),
            ("risky", _) => ("refused", 3),
            ("unsafe", _) => ("refused", 4),
            ("pointless", _) => ("pointless", 5),
            (other, _) => panic!("there is no verdict {other:?}"),
        })
    }

    /// Brings a backend there.
    pub fn start<'s>(&self, server: &'s Server) -> Actor<'s> {
        Actor::new(server, self.start)
    }

    /// Nothing can stop it there, not even a tracer.
    pub fn is_uninterruptible(&self) -> bool {
        self.cause == "uninterruptible-syscall"
    }

    /// Brings a backend there, and asks it to end, if that is in vain: nobody else's request is ever pending.
    pub fn with_pending<'s>(&self, server: &'s Server, asked: Option<How>) -> Option<Actor<'s>> {
        if asked.is_some_and(|how| !self.ignores.contains(&how)) {
            return None;
        }
        let actor = Actor::new(server, self.start);
        if let Some(how) = asked {
            actor.prove_stuck(server, how, self.start);
        }
        Some(actor)
    }

    /// What is advised may be something else from one look to the next.
    pub fn moves(&self) -> bool {
        self.moving || matches!(self.doing, Doing::Varies)
    }

    /// testext brings it there, and nothing else has a part in it.
    pub fn is_of_testext(&self) -> bool {
        matches!(self.start, Start::Call(_) | Start::CallAndStop(_))
    }

    /// `pgpoke interrupt` with all that it takes here.
    pub fn arguments(&self, how: How) -> Vec<&'static str> {
        let (outcome, _) = self.expected(how);
        let wait = match self.start {
            // It moves, and no place is better than another.
            Start::Divide => "2s",
            _ if self.moving => "60s",
            _ => "300ms",
        };
        let grace = if outcome == "obeyed-signal" {
            "10s"
        } else {
            "100ms"
        };
        let timeout = if outcome == "timed-out" { "1s" } else { "10s" };
        let limits = ["--grace", grace, "--wait", wait, "--timeout", timeout];
        [&["interrupt", "--yes", how.option()], &limits[..]].concat()
    }

    /// It does not end by itself when asked, and pgpoke may end it.
    pub fn can_be_freed(&self, how: How) -> bool {
        self.ignores.contains(&how) && matches!(self.expected(how).0, "cancelled" | "terminated")
    }

    /// The verdict once that was asked for in vain.
    fn verdict_of_pending(&self, how: How) -> &'static str {
        match self.flagged && self.ignores.contains(&how) {
            true => self.verdict_if[usize::from(how == How::Terminate)],
            false => self.verdict,
        }
    }

    /// A loop in an allocator, caught in it.
    fn caught(&self, report: &Report) -> bool {
        let caught = self.moving && report.at("/verdict") == "unsafe";
        if caught {
            assert_ne!(report.check("allocator"), "pass", "{}", report.run);
        }
        caught
    }
}

/// Nobody is well, and no more, who waits for somebody nameable.
#[track_caller]
fn names_whom_it_waits_for(report: &Report) {
    let somebody = |list: &Value| list.as_array().is_some_and(|all| !all.is_empty());
    let locks = report.at("/locks").to_string();
    let awaited = report.at("/process/waits_for").as_array();
    let awaited = awaited.map_or(&[][..], |all| all);
    let is_somebody = |a: &Value| match a["kind"].as_str() {
        Some("child" | "fifo") => true,
        Some("socket") => !a["remote"].is_null(),
        Some("pipe") => awaited.len() == 1 && somebody(&a["also_open_in"]),
        _ => false,
    };
    let holders = somebody(&report.at("/locks")["waiting_for"]["holders"]);
    if holders || awaited.iter().any(is_somebody) {
        let cause = report.at("/cause/code");
        assert_ne!(cause, "responsive", "{locks} {awaited:?}: {}", report.run);
    }
}

fn is_judged(server: &Server, actor: &Actor, how: How, scenario: &Scenario) {
    let report = Report::of(&["inspect"], actor.backend.pid);
    names_whom_it_waits_for(&report);
    // Only who sent a signal that left no trace knows of it: `interrupt`.
    match scenario.cause {
        "handlers-replaced" => {
            let summary = report.text("/cause/summary");
            assert!(
                summary.contains("handlers that are not PostgreSQL's"),
                "{}",
                report.run
            );
            report.assert_at("/cause/code", "responsive")
        }
        cause => report.assert_at("/cause/code", cause),
    };
    if scenario.caught(&report) {
        report.assert_code(4);
    } else {
        let [cancel, terminate] = scenario.verdict_if;
        let verdict = scenario.verdict_of_pending(how);
        report
            .assert_verdict(verdict)
            .assert_verdict_if(cancel, terminate);
        if !scenario.moving {
            let failing = match verdict {
                "risky" => &[],
                _ => scenario.failing,
            };
            assert_eq!(report.checks_that("fail"), failing, "{}", report.run);
        }
    }
    if scenario.verdict == "safe" && !scenario.moving {
        report.assert_all_checks_pass();
    }
    let running = !matches!(
        scenario.cause,
        "group-stopped" | "uninterruptible-syscall" | "being-traced"
    );
    if running {
        actor.backend.assert_running_untraced();
        report.assert_stopped_for_a_moment();
        assert_handlers(&report, &scenario.handlers, server);
        assert_flags(&report, how, scenario, server);
    }
    if !scenario.functions.is_empty() {
        assert_stack(&report, scenario.functions);
        assert_backend(&report, server, &actor.sql);
    }
    report
        .assert_at("/process/threads", scenario.threads)
        .assert_at("/process/cpu_percent", Value::Null);
    match scenario.doing {
        Doing::Varies => &report,
        _ if scenario.moving => &report,
        Doing::Computes => report
            .assert_at("/process/state", "R")
            .assert_at("/process/syscall", Value::Null),
        Doing::SleepsIn(name) => report
            .assert_at("/process/state", "S")
            .assert_at("/process/syscall", name),
    };
    let waiting: &[&str] = match (scenario.cause, how) {
        ("signals-blocked", How::Cancel) => &["SIGINT"],
        ("signals-blocked", How::Terminate) => &["SIGTERM"],
        _ => &[],
    };
    if running {
        report.assert_at("/signals/pending", json!(waiting));
    }
    for (pointer, value) in scenario.facts {
        let value: Value = serde_json::from_str(value).expect("JSON in the table");
        report.assert_at(pointer, value);
    }
}

/// Interrupts it, and what comes of that is what the row says.
fn interrupt(server: &Server, actor: &Actor, how: How, scenario: &Scenario) -> Report {
    let (outcome, code) = scenario.expected(how);
    let report = Report::of(&scenario.arguments(how), actor.backend.pid);
    report.assert_outcome(outcome, code);
    if scenario.cause == "handlers-replaced" {
        report.assert_at("/cause/code", scenario.cause);
    }
    // Nothing is said of it where nothing was done.
    if !matches!(outcome, "refused" | "pointless") {
        report.assert_at("/server_restarted", false);
    }
    server.assert_unharmed();
    report
}

/// Brings a backend there and frees it again; for rows in which that is safe.
pub fn free<'s>(server: &'s Server, scenario: &Scenario, how: How) -> Actor<'s> {
    let actor = Actor::new(server, scenario.start);
    actor.prove_stuck(server, how, scenario.start);
    interrupt(server, &actor, how, scenario);
    actor
}

/// One round of a row, the interrupts made by `interrupt` from the arguments and a PID, which may have nothing to report
/// but that it is over; returns the backend if there is still one. Whoever was asked to end, and could not, is not asked for less in the next round.
pub fn round<'s>(
    server: &'s Server,
    scenario: &Scenario,
    mut left: Option<Actor<'s>>,
    mut interrupt: impl FnMut(&[&str], i32) -> Option<Report>,
) -> Option<Actor<'s>> {
    let first = left.is_none();
    let hows: &[How] = match first {
        true => &How::BOTH,
        false => &[How::Terminate],
    };
    for how in hows {
        let actor = left
            .take()
            .unwrap_or_else(|| Actor::new(server, scenario.start));
        if first && scenario.ignores.contains(how) {
            actor.prove_stuck(server, *how, scenario.start);
        }
        let report = interrupt(&scenario.arguments(*how), actor.backend.pid);
        let (outcome, code) = scenario.expected(*how);
        if let Some(report) = &report {
            report.assert_outcome(outcome, code);
        }
        left = comes_of_it(report.as_ref(), actor, *how, scenario);
    }
    left
}

/// Interrupts. Returns the backend where it is as it was before.
fn is_treated<'s>(
    server: &Server,
    actor: Actor<'s>,
    how: How,
    scenario: &Scenario,
) -> Option<Actor<'s>> {
    let report = interrupt(server, &actor, how, scenario);
    comes_of_it(Some(&report), actor, how, scenario)
}

/// It has ended as it had to, or is as it was before; then it is returned.
fn comes_of_it<'s>(
    report: Option<&Report>,
    actor: Actor<'s>,
    how: How,
    scenario: &Scenario,
) -> Option<Actor<'s>> {
    let (outcome, _) = scenario.expected(how);
    match (outcome, &actor.stuck) {
        ("cancelled" | "obeyed-signal", Some(stuck)) if how == How::Cancel => {
            stuck.assert_cancelled();
            assert!(stuck.run_follow_up("SELECT 1").is_ok());
            None
        }
        ("terminated" | "obeyed-signal", Some(stuck)) => {
            stuck.assert_terminated();
            None
        }
        ("terminated" | "obeyed-signal", None) => {
            wait_for(DEADLINE, "the backend shall be gone", || {
                (!actor.backend.is_alive()).then_some(())
            });
            None
        }
        _ => {
            let run = report.map_or_else(String::new, |report| report.run.to_string());
            assert!(actor.backend.is_alive(), "{run}");
            assert_eq!(actor.backend.tracer_pid(), 0, "{run}");
            if let Some(stuck) = &actor.stuck {
                assert_eq!(stuck.ended_within(Duration::ZERO), None, "{run}");
            }
            if let Start::CallAndStop(_) = scenario.start {
                // On its way back into the stop it is in state R for a moment (ptrace_unlink(), kernel/ptrace.c).
                wait_for(DEADLINE, "it shall be stopped as before", || {
                    (actor.backend.state() == Some('T')).then_some(())
                });
            }
            Some(actor)
        }
    }
}

/// The whole stack is known, and the extension's functions are on it, called by PostgreSQL.
#[track_caller]
pub fn assert_stack(report: &Report, functions: &[&str]) {
    report.assert_at("/stack_complete", true);
    assert_eq!(
        report.functions_in("pgpoke_test.so"),
        functions,
        "{}",
        report.run
    );
    let all: Vec<_> = report.frames().iter().map(function_of).collect();
    let position = |name: &str| {
        all.iter()
            .position(|f| *f == name)
            .unwrap_or_else(|| panic!("{name} is not on the stack:\n{}", report.run))
    };
    let last = functions.last().map(|f| position(f)).unwrap_or_default();
    assert!(last < position("PostgresMain"), "{}", report.run);
    assert!(
        position("PostgresMain") < position("PostmasterMain"),
        "{}",
        report.run
    );
    for frame in report.frames() {
        assert_ne!(frame["found_by"], "frame-pointer", "{}", report.run);
    }
}

#[track_caller]
pub fn assert_handlers(report: &Report, handlers: &[Handler; 3], server: &Server) {
    let postgres = server.installation().server();
    let postgres = postgres.canonicalize().expect("the server's executable");
    let known = handlers.iter().all(|h| !matches!(h, Handler::Unknown));
    assert_eq!(
        report.check("handlers"),
        if known { "pass" } else { "unknown" },
        "{}",
        report.run
    );
    for (signal, handler) in ["SIGINT", "SIGTERM", "SIGUSR1"].into_iter().zip(handlers) {
        let field = |name: &str| report.at(&format!("/signals/{signal}/{name}"));
        let path = field("module").as_str().map(Path::new);
        match handler {
            Handler::Postgres(function) => {
                assert_eq!(field("function"), function, "{}", report.run);
                assert_eq!(path, Some(postgres.as_path()), "{}", report.run);
                assert_eq!(field("expected"), true, "{}", report.run);
            }
            Handler::Extension(function) => {
                assert_eq!(field("function"), function, "{}", report.run);
                assert!(
                    path.is_some_and(|p| p.ends_with("pgpoke_test.so")),
                    "{}",
                    report.run
                );
                assert_eq!(field("expected"), false, "{}", report.run);
            }
            Handler::Ignored => {
                assert_eq!(field("handler"), "0x1", "{}", report.run);
                assert_eq!(field("function"), "ignored", "{}", report.run);
                assert_eq!(path, None, "{}", report.run);
                assert_eq!(field("expected"), false, "{}", report.run);
            }
            Handler::Unknown => {
                for name in ["handler", "module", "function", "expected"] {
                    assert_eq!(
                        field(name),
                        &Value::Null,
                        "{signal} {name}:\n{}",
                        report.run
                    );
                }
            }
        }
    }
}

#[track_caller]
pub fn assert_backend(report: &Report, server: &Server, query: &str) {
    let data = server.data_directory();
    let data = data.canonicalize().expect("the data directory");
    let version: String = server
        .connect()
        .query_one("SHOW server_version", &[])
        .expect("the version")
        .get(0);
    report
        .assert_at("/backend/type", "client backend")
        .assert_at("/backend/user", "postgres")
        .assert_at("/backend/database", "postgres")
        .assert_at("/backend/client", "[local]")
        .assert_at("/backend/application_name", "stuck on purpose")
        .assert_at("/backend/state", "active")
        .assert_at("/backend/query", query)
        .assert_at(
            "/backend/data_directory",
            data.to_str().expect("a path in /tmp"),
        )
        .assert_at("/backend/postmaster_pid", server.postmaster().pid)
        .assert_at("/backend/server_version", version)
        .assert_at("/backend/container", Value::Null)
        .assert_at("/backend/pid_in_container", Value::Null);
}

#[track_caller]
fn assert_flags(report: &Report, how: How, scenario: &Scenario, server: &Server) {
    // 12 has no such thing.
    let barrier = (server.installation().major() >= 13).then_some(false);
    // A terminate comes after the cancel, whose flag stays, where nothing has come of that.
    let left = scenario.ignores.len() == 2
        && matches!(scenario.expected(How::Cancel).0, "refused" | "pointless");
    let cancel = scenario.flagged && (how == How::Cancel || left || scenario.ignores.len() == 1);
    let terminate = scenario.flagged && how == How::Terminate && scenario.ignores.contains(&how);
    report
        .assert_flags(cancel, terminate)
        .assert_at("/interrupts/proc_signal_barrier_pending", barrier);
}
