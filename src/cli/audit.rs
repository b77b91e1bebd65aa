//! The audit line: who had which backend interrupted, in the system log, before each act and after the last.
//!
//! Not through syslog(3), which waits without end for a daemon that hangs. The line carries no time: the daemon has its
//! own, and knows the time zone.

use std::fmt::Write as _;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::InterruptArgs;
use super::exit::Exit;
use crate::assess::Request;
use crate::intervene::{Act, Report};
use crate::postgres::Backend;
use crate::process::passwd;
use crate::render::json;
use crate::render::text::printable;
use crate::snapshot::Snapshot;

/// Where the daemon listens (syslog(3)); journald also where it does so without the link in `/dev`.
const SOCKETS: [&str; 2] = ["/dev/log", "/run/systemd/journal/dev-log"];

/// How long a daemon that does not keep up is waited for.
const LIMIT: Duration = Duration::from_millis(100);

/// LOG_USER and LOG_NOTICE (`<syslog.h>`).
const PRIORITY: u8 = 1 << 3 | 5;

/// The longest text of somebody else's choice in a line; RFC 3164 has 1 KiB for all of it.
const LONGEST_TEXT: usize = 200;

/// The records of one run of `pgpoke interrupt`.
#[derive(Debug)]
pub struct Audit {
    on: bool,
    /// What each line says: what is asked for, and by whom.
    request: String,
    /// The backend, once it is known to be one.
    backend: Option<String>,
    failure: Option<io::Error>,
}

impl Audit {
    /// Nothing is written yet.
    pub fn new(args: &InterruptArgs, request: Request) -> Self {
        Audit {
            on: !args.no_syslog && !args.dry_run,
            request: asked(args, request),
            backend: None,
            failure: None,
        }
    }

    /// From here on it is about another request, of the same backend.
    pub fn escalate(&mut self, args: &InterruptArgs, request: Request) {
        self.request = asked(args, request);
    }

    /// Notes which backend it is about.
    pub fn about(&mut self, backend: &Backend, snapshot: &Snapshot) {
        let facts = &snapshot.backend;
        let mut line = format!(
            "pid={} backend={}",
            backend.target.pid(),
            quoted(&backend.backend_type.to_string())
        );
        let data_directory = facts.data_directory.as_ref();
        let data_directory = data_directory.map(|d| d.to_string_lossy().into_owned());
        // Without what a distribution adds to it.
        let version = facts.server_version.as_ref();
        let version = version.and_then(|v| v.split(' ').next());
        let known = [
            ("user", facts.user.clone()),
            ("database", facts.database.clone()),
            ("server", version.map(str::to_owned)),
            ("data_directory", data_directory),
        ];
        for (name, value) in known {
            if let Some(value) = value {
                let _ = write!(line, " {name}={}", quoted(&value));
            }
        }
        self.backend = Some(line);
    }

    /// To be called right before the act.
    pub fn before(&mut self, act: Act) {
        match act {
            Act::Signal => self.write("event=signal", ""),
            Act::StepIn(verdict) => self.write("event=call", &format!(" verdict={verdict}")),
        }
    }

    /// To be called when it is over, or was refused.
    pub fn after(&mut self, report: &Report, exit: Exit) {
        let verdict = report.verdict.map_or("-".to_owned(), |v| v.to_string());
        let text = format!(
            " verdict={verdict} outcome={} exit={} attempts={} server_restarted={} server_stopped={} detail={}",
            json::outcome(report.outcome),
            exit.code(),
            report.attempts,
            yes_or_no(report.server_restarted()),
            yes_or_no(report.server_stopped()),
            quoted(&report.detail)
        );
        self.write("event=end", &text);
    }

    /// The same, where it failed.
    pub fn failed(&mut self, message: &str, exit: Exit) {
        let text = format!(" exit={} error={}", exit.code(), quoted(message));
        self.write("event=end", &text);
    }

    /// What the operator has to know of the log.
    pub fn warning(&self) -> Option<String> {
        let e = self.failure.as_ref()?;
        Some(format!(
            "cannot write to the system log: {e}; only the record is missing (--no-syslog leaves it out)"
        ))
    }

    fn write(&mut self, event: &str, more: &str) {
        if let (true, Some(backend)) = (self.on, &self.backend) {
            // Who it was comes before texts of anybody's choice: a daemon may cut a long line.
            let line = format!("{event} {} {backend}{more}", self.request);
            if let Err(e) = send(&line) {
                self.failure.get_or_insert(e);
            }
        }
    }
}

fn yes_or_no(answer: Option<bool>) -> &'static str {
    match answer {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    }
}

fn asked(args: &InterruptArgs, request: Request) -> String {
    let allowed = match args.allow.is_empty() {
        true => "-".to_owned(),
        false => args.allow.join(","),
    };
    let request = match request {
        Request::Pending => "pending",
        Request::Cancel => "cancel",
        Request::Terminate => "terminate",
    };
    format!("request={request} allowed={} {}", quoted(&allowed), who())
}

fn send(line: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(LIMIT))?;
    let mut connected = Err(io::Error::from(io::ErrorKind::NotFound));
    for path in SOCKETS {
        connected = socket.connect(path);
        if connected.is_ok() {
            break;
        }
    }
    connected?;
    let message = format!("<{PRIORITY}>pgpoke[{}]: {line}", std::process::id());
    socket.send(message.as_bytes()).map(drop)
}

/// Who runs pgpoke: as which user, and who that was at login (`/proc/self/loginuid`, which sudo and su do not change).
fn who() -> String {
    /// "Not logged in": (uid_t) -1.
    const NOBODY: u32 = u32::MAX;
    let uid = nix::unistd::getuid().as_raw();
    let mut who = format!("by={} uid={uid}", name_of(uid));
    let login = std::fs::read_to_string("/proc/self/loginuid").ok();
    let login = login.and_then(|text| text.trim().parse().ok());
    if let Some(login) = login.filter(|uid| *uid != NOBODY) {
        let _ = write!(who, " login={} login_uid={login}", name_of(login));
    }
    // As sudo(8) says; only root cannot be told so by anybody.
    let through_sudo = std::env::var("SUDO_USER").ok().filter(|_| uid == 0);
    if let Some(user) = through_sudo {
        let _ = write!(who, " sudo_user={}", quoted(&user));
    }
    who
}

fn name_of(uid: u32) -> String {
    passwd::name_here(uid).unwrap_or_else(|| "-".into())
}

/// Text of somebody else's choice: on one line, of bounded length, and ending where it seems to.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.,".contains(c);
    if !text.is_empty() && text.len() <= LONGEST_TEXT && text.chars().all(plain) {
        return text.to_owned();
    }
    let text = printable(text).replace('"', "'");
    let mut short: String = text.chars().take(LONGEST_TEXT).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("\"{short}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_cannot_pretend_to_be_fields() {
        assert_eq!(quoted("15.18"), "15.18");
        assert_eq!(quoted("client backend"), "\"client backend\"");
        assert_eq!(quoted("a\" outcome=\"b"), "\"a' outcome='b\"");
        assert_eq!(quoted(""), "\"\"");
        let hostile = quoted("x\n<0>kernel: \u{1b}[2J");
        assert!(!hostile.contains(['\n', '\u{1b}']), "{hostile}");
        assert!(quoted(&"é".repeat(5000)).chars().count() <= LONGEST_TEXT + 3);
    }

    #[test]
    fn who_runs_this() {
        let uid = nix::unistd::getuid();
        assert!(who().contains(&format!("uid={uid}")), "{}", who());
    }
}
