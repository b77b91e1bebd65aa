//! Sessions whose statement does not end.

use std::cell::OnceCell;
use std::fmt;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::{Backend, DEADLINE, Server, wait_for};

/// How long a backend is watched that is said not to obey: one that does obey takes milliseconds.
const TIME_TO_OBEY: Duration = Duration::from_millis(250);

/// How to ask a backend to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// `pg_cancel_backend`
    Cancel,
    /// `pg_terminate_backend`
    Terminate,
}

impl How {
    /// One after the other.
    pub const BOTH: [Self; 2] = [Self::Cancel, Self::Terminate];

    /// The SQL function.
    pub fn function(self) -> &'static str {
        match self {
            How::Cancel => "pg_cancel_backend",
            How::Terminate => "pg_terminate_backend",
        }
    }

    /// The option of `pgpoke interrupt`.
    pub fn option(self) -> &'static str {
        match self {
            How::Cancel => "--cancel",
            How::Terminate => "--terminate",
        }
    }

    /// The signal that it sends.
    pub fn signal(self) -> i32 {
        match self {
            How::Cancel => libc::SIGINT,
            How::Terminate => libc::SIGTERM,
        }
    }
}

/// Rows as text.
pub type Rows = Vec<Vec<Option<String>>>;

/// Why a statement failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The SQLSTATE; None where the connection ended without a message from the server.
    pub sqlstate: Option<String>,
    /// The server's message, or the client's.
    pub message: String,
}

impl Failure {
    /// The SQLSTATE, or an empty string.
    pub fn code(&self) -> &str {
        self.sqlstate.as_deref().unwrap_or_default()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}",
            self.sqlstate.as_deref().unwrap_or("connection lost"),
            self.message
        )
    }
}

impl From<postgres::Error> for Failure {
    fn from(error: postgres::Error) -> Self {
        match error.as_db_error() {
            Some(error) => Self {
                sqlstate: Some(error.code().code().to_owned()),
                message: error.message().to_owned(),
            },
            None => Self {
                sqlstate: None,
                message: error.to_string(),
            },
        }
    }
}

/// What came of a statement.
pub type Outcome = Result<Rows, Failure>;

fn run(client: &mut Client, sql: &str) -> Outcome {
    let messages = client.simple_query(sql)?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(
            (0..row.len())
                .map(|n| row.get(n).map(str::to_owned))
                .collect(),
        ),
        _ => None,
    });
    Ok(rows.collect())
}

/// A session whose statement runs on a thread of its own, since it does not come back. When the
/// server is stopped, the thread ends.
pub struct Stuck<'s> {
    server: &'s Server,
    backend: Backend,
    sql: String,
    statements: Sender<String>,
    outcomes: Receiver<Outcome>,
    /// The NOTICEs of the session: testext sends one right before it gets stuck.
    notices: Receiver<String>,
    result: OnceCell<Outcome>,
}

impl<'s> Stuck<'s> {
    /// Sends the statement off, and looks no further.
    pub(super) fn start(server: &'s Server, sql: &str) -> Self {
        Self::start_as(server, sql, |_| ())
    }

    /// The same, with a say in how it connects.
    pub(super) fn start_as(
        server: &'s Server,
        sql: &str,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let (notice_sender, notices) = mpsc::channel();
        let (statements, statement_receiver) = mpsc::channel::<String>();
        let (outcome_sender, outcomes) = mpsc::channel();
        let mut config = server.config();
        config
            .application_name("stuck on purpose")
            .notice_callback(move |notice| {
                let _ = notice_sender.send(notice.message().to_owned());
            });
        change(&mut config);
        let mut client = config.connect(NoTls).expect("a session to get stuck");
        let pid = client
            .query_one("SELECT pg_backend_pid()", &[])
            .expect("the backend's PID")
            .get(0);
        let backend = Backend::open(pid).expect("the backend's process");
        thread::spawn(move || {
            for statement in statement_receiver {
                if outcome_sender.send(run(&mut client, &statement)).is_err() {
                    break;
                }
            }
        });
        statements
            .send(sql.to_owned())
            .expect("the session's thread waits for statements");
        Self {
            server,
            backend,
            sql: sql.to_owned(),
            statements,
            outcomes,
            notices,
            result: OnceCell::new(),
        }
    }

    /// The backend's PID.
    pub fn pid(&self) -> i32 {
        self.backend.pid
    }

    /// The backend's process.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Its statement.
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// What the statement came to, once it ends.
    #[track_caller]
    pub fn result(&self) -> Outcome {
        self.result_within(DEADLINE)
    }

    /// The same, with a deadline of one's own.
    #[track_caller]
    pub fn result_within(&self, deadline: Duration) -> Outcome {
        match self.ended_within(deadline) {
            Some(outcome) => outcome.clone(),
            None => panic!(
                "after {deadline:?} still running: {}\n{}",
                self.sql,
                self.server.log()
            ),
        }
    }

    /// Runs a statement in the same session, after the first one has ended.
    #[track_caller]
    pub fn run_follow_up(&self, sql: &str) -> Outcome {
        let _ = self.result();
        self.statements
            .send(sql.to_owned())
            .expect("the session's thread waits for statements");
        match self.outcomes.recv_timeout(DEADLINE) {
            Ok(outcome) => outcome,
            Err(_) => panic!(
                "after {DEADLINE:?} still running: {sql}\n{}",
                self.server.log()
            ),
        }
    }

    /// The statement has ended as a cancel ends it, and the session is still there.
    #[track_caller]
    pub fn assert_cancelled(&self) {
        let failure = self.result().expect_err("a cancelled statement");
        assert_eq!(
            failure.to_string(),
            "57014: canceling statement due to user request"
        );
        self.backend.assert_running_untraced();
    }

    /// The session has ended in the way of pg_terminate_backend().
    #[track_caller]
    pub fn assert_terminated(&self) {
        wait_for(DEADLINE, "the backend shall be gone", || {
            (!self.backend.is_alive()).then_some(())
        });
        let failure = self.result().expect_err("a terminated session");
        assert!(
            failure.sqlstate.is_none() || failure.code() == "57P01",
            "{failure}"
        );
        // What PostgreSQL says of it, and at which level.
        wait_for(DEADLINE, "the log shall tell of the end", || {
            let line = format!(
                "[{}] FATAL:  terminating connection due to administrator command",
                self.pid()
            );
            self.server.log().contains(&line).then_some(())
        });
    }

    /// Waits until the backend is in a certain state; panics if the statement ends before.
    #[track_caller]
    pub fn wait_until(
        &self,
        what: &str,
        deadline: Duration,
        mut condition: impl FnMut(&Backend) -> bool,
    ) {
        wait_for(deadline, what, || {
            if let Some(outcome) = self.ended_within(Duration::ZERO) {
                panic!(
                    "{} ended, with {outcome:?}, while waiting: {what}",
                    self.sql
                );
            }
            condition(&self.backend).then_some(())
        });
    }

    /// Asks the backend to stop in PostgreSQL's own way, and proves that this was no use: the
    /// request was accepted, the signal arrived (or is held up by the signal mask, or by state D,
    /// as the scenario wants it), and the statement ran on.
    #[track_caller]
    pub fn prove_stuck(&self, how: How) {
        let started = self.statement_start();
        let sql = format!("SELECT {}({})", how.function(), self.pid());
        let sent: bool = self
            .server
            .ask(|client| client.query_one(&sql, &[]))
            .unwrap_or_else(|error| panic!("{}: {error}", how.function()))
            .get(0);
        assert!(sent, "{} returned false", how.function());

        let signal = how.signal();
        self.wait_until(
            &format!("signal {signal} shall arrive, or be kept from it"),
            DEADLINE,
            |backend| {
                !backend.is_pending(signal)
                    || backend.is_blocked(signal)
                    || backend.state() == Some('D')
            },
        );
        // That something does not happen cannot be waited for. But the time runs only from the
        // signal's arrival, and for a backend that computes it is its own CPU time.
        let ticks = self.backend.cpu_ticks();
        if let Some(outcome) = self.ended_within(TIME_TO_OBEY) {
            panic!("{} obeyed {}: {outcome:?}", self.sql, how.function());
        }
        self.wait_until(
            "a backend that neither sleeps nor gets the CPU?",
            DEADLINE,
            |backend| backend.cpu_ticks() > ticks + 2 || matches!(backend.state(), Some('S' | 'D')),
        );
        assert!(self.backend.is_alive(), "{:?} is gone", self.backend);
        assert_eq!(
            self.statement_start(),
            started,
            "another statement is running"
        );
    }

    /// Waits for testext's NOTICE, and then for the backend to have gone to sleep, or to have used
    /// CPU time since.
    #[track_caller]
    pub(super) fn wait_until_inside(&self) {
        let start = Instant::now();
        while start.elapsed() < DEADLINE {
            match self.notices.recv_timeout(Duration::from_millis(5)) {
                Ok(notice) if notice.ends_with("is stuck from here on") => {
                    self.wait_until_active();
                    let ticks = self.backend.cpu_ticks();
                    return self.wait_until("the backend shall be inside", DEADLINE, |backend| {
                        matches!(backend.state(), Some('S' | 'D'))
                            || backend.cpu_ticks() > ticks + 1
                    });
                }
                _ => {
                    if let Some(outcome) = self.ended_within(Duration::ZERO) {
                        panic!("{} did not get stuck: {outcome:?}", self.sql);
                    }
                }
            }
        }
        panic!("no word from {}\n{}", self.sql, self.server.log());
    }

    /// Waits until pg_stat_activity shows the statement running.
    #[track_caller]
    pub(super) fn wait_until_active(&self) {
        self.wait_until(
            &format!("pg_stat_activity shall show: {}", self.sql),
            DEADLINE,
            |_| self.statement_start().is_some(),
        );
    }

    /// When the statement began, as pg_stat_activity has it; None while it does not run.
    fn statement_start(&self) -> Option<String> {
        let sql = "SELECT query_start::text FROM pg_stat_activity
             WHERE pid = $1 AND state = 'active' AND query = $2";
        let row = self
            .server
            .ask(|client| client.query_opt(sql, &[&self.pid(), &self.sql]));
        row.expect("pg_stat_activity").map(|row| row.get(0))
    }

    /// What the statement came to, if it ends within that time.
    #[track_caller]
    pub fn ended_within(&self, time: Duration) -> Option<&Outcome> {
        if self.result.get().is_none() {
            match self.outcomes.recv_timeout(time) {
                Ok(outcome) => self.result.set(outcome).expect("nobody else sets it"),
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => panic!("the session's thread is gone"),
            }
        }
        self.result.get()
    }
}
