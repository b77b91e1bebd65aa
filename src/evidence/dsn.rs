//! What the server itself tells, through an ordinary connection.
//!
//! A server with a stuck backend may not let anybody in, or hang at any question: pg_locks takes every lock of the lock
//! table. So all of it has one deadline, the questions that need the fewest locks come first, and each answer is kept as
//! soon as it is there.

use std::collections::HashMap;
use std::io::Read;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use postgres::config::SslMode;
use postgres::error::SqlState;
use postgres::{Client, Config, NoTls};

use super::redact::{LEFT_OUT, passwords};
use crate::postgres::settings::Settings;
use crate::postgres::status::Timestamp;
use crate::process::Process;
use crate::sys;

/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The same, for the server to give up by itself.
const SETTINGS: &str = "SET statement_timeout = '5s'; SET lock_timeout = '1s'; SET default_transaction_read_only = on; \
    SET search_path = pg_catalog";

/// The most that is kept of an answer.
const MOST: u64 = 8 << 20;

/// What is asked: the file, the question, and the columns of the answer that say too much for strangers.
pub const QUESTIONS: [(&str, &str, &[&str]); 7] = [
    (
        "pg_stat_activity.csv",
        "SELECT * FROM pg_stat_activity",
        &[
            "query",
            "client_addr",
            "client_hostname",
            "client_port",
            "application_name",
        ],
    ),
    (
        "pg_stat_replication.csv",
        "SELECT * FROM pg_stat_replication",
        &[
            "client_addr",
            "client_hostname",
            "client_port",
            "application_name",
        ],
    ),
    (
        "pg_languages.csv",
        "SELECT lanname, lanpltrusted, lanplcallfoid::regproc FROM pg_language",
        &[],
    ),
    (
        "pg_extensions.csv",
        "SELECT extname, extversion, extnamespace::regnamespace FROM pg_extension",
        &[],
    ),
    (
        "pg_settings.csv",
        // What this connection has set for itself tells nothing.
        "SELECT name, CASE WHEN name ~* '(passphrase|passwd|secret|token)' AND reset_val NOT IN ('', 'on', 'off') \
         THEN '[password]' ELSE reset_val END AS setting, unit, source, sourcefile, pending_restart FROM pg_settings \
         WHERE source NOT IN ('default', 'client') AND NOT (source = 'session' AND reset_val IS NOT DISTINCT FROM boot_val) \
         ORDER BY name",
        &["setting"],
    ),
    ("pg_locks.csv", "SELECT * FROM pg_locks", &[]),
    (
        "pg_blocking.csv",
        "SELECT pid, pg_blocking_pids(pid) AS blocked_by FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0",
        &[],
    ),
];

/// What came of the questions.
#[derive(Debug, Default)]
pub struct Answers {
    files: HashMap<&'static str, Result<String, String>>,
    otherwise: Option<String>,
}

impl Answers {
    /// The answer that goes into a file, or why there is none.
    pub fn get(&self, file: &str) -> Result<String, String> {
        match (self.files.get(file), &self.otherwise) {
            (Some(answer), _) => answer.clone(),
            (None, Some(why)) => Err(why.clone()),
            (None, None) => Err("it was not asked".into()),
        }
    }
}

/// Reads a connection string. What it does not name may be in the variables that libpq has for it: so the password need not
/// be on the command line.
pub fn config(conninfo: &str) -> Result<Config, String> {
    let mut config: Config = conninfo.parse().map_err(|e: postgres::Error| because(&e))?;
    let told = |value: Result<String, std::env::VarError>| value.ok().filter(|v| !v.is_empty());
    if names_no_host(&config)
        && let Some(host) = told(std::env::var("PGHOST"))
    {
        config.host(&host);
    }
    if config.get_ports().is_empty()
        && let Some(port) = told(std::env::var("PGPORT"))
    {
        config.port(port.parse().map_err(|_| "PGPORT is no port")?);
    }
    if config.get_dbname().is_none()
        && let Some(database) = told(std::env::var("PGDATABASE"))
    {
        config.dbname(&database);
    }
    if config.get_password().is_none()
        && let Some(password) = std::env::var_os("PGPASSWORD")
    {
        config.password(password.into_encoded_bytes());
    }
    if config.get_user().is_none()
        && let Some(user) = told(std::env::var("PGUSER"))
            .or_else(|| crate::process::passwd::name_here(geteuid().as_raw()))
    {
        config.user(&user);
    }
    // The client library would ask glibc's name service, which in a static program looks for libraries, and for those of
    // its own version.
    if config.get_user().is_none() {
        return Err("no user is named, and ours has no name here: add user=NAME".into());
    }
    let is_name = |host: &String| host.parse::<std::net::IpAddr>().is_err();
    if cfg!(target_feature = "crt-static")
        && config.get_hostaddrs().is_empty()
        && let Some(name) = hosts(&config).into_iter().find(is_name)
    {
        return Err(format!(
            "a static pgpoke cannot look up the host name {name}: add hostaddr=ADDRESS"
        ));
    }
    config
        .connect_timeout(LIMIT / 2)
        .application_name("pgpoke report");
    Ok(config)
}

fn names_no_host(config: &Config) -> bool {
    config.get_hosts().is_empty() && config.get_hostaddrs().is_empty()
}

/// Where no host is named, the server's own socket. `process` is one of the server's.
pub fn at_home(mut config: Config, settings: &Settings, process: &Process) -> Config {
    let directories = settings.get("unix_socket_directories").unwrap_or_default();
    let mut directories = directories.split(',').map(|d| d.trim().trim_matches('"'));
    // An abstract one (@) cannot be reached from another network namespace, and few have it.
    let directory = directories.find(|d| d.starts_with('/'));
    if let (true, Some(directory)) = (names_no_host(&config), directory) {
        config.host_path(match process.shares_our_paths() {
            true => directory.to_owned(),
            false => format!("/proc/{}/root{directory}", process.pid()),
        });
        let port = settings.get("port").and_then(|port| port.parse().ok());
        if let (true, Some(port)) = (config.get_ports().is_empty(), port) {
            config.port(port);
        }
    }
    config
}

/// The hosts that a connection string names.
pub fn hosts(config: &Config) -> Vec<String> {
    let host = |host: &postgres::config::Host| match host {
        postgres::config::Host::Tcp(name) => Some(name.clone()),
        postgres::config::Host::Unix(_) => None,
    };
    config.get_hosts().iter().filter_map(host).collect()
}

/// Whom it is about.
#[derive(Debug, Clone, Copy, Default)]
pub struct Who {
    /// The backend that has to be there, as its server knows it.
    pub pid: i32,
    /// When its server started; see [`Settings::server_started`].
    pub started: Option<Timestamp>,
    /// The server's user and group.
    pub user: Option<(u32, u32)>,
}

/// Asks everything.
pub fn ask(config: Config, who: Who, redact: bool) -> Answers {
    let (sender, answers) = channel();
    let told = sender.clone();
    let asked = thread::Builder::new().spawn(move || {
        if let Err(why) = connect_and_ask(&config, who, redact, &sender) {
            let _ = sender.send(Err(why));
        }
    });
    drop(told);
    let mut all = Answers::default();
    if let Err(e) = asked {
        all.otherwise = Some(e.to_string());
    }
    let deadline = Instant::now() + LIMIT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match answers.recv_timeout(left) {
            Ok(Ok((file, answer))) => {
                all.files.insert(file, answer);
            }
            Ok(Err(why)) => all.otherwise = Some(why),
            Err(RecvTimeoutError::Disconnected) => return all,
            Err(RecvTimeoutError::Timeout) => {
                all.otherwise = Some(format!(
                    "the server did not answer within {} s",
                    LIMIT.as_secs()
                ));
                return all;
            }
        }
    }
}

type Answer = Result<(&'static str, Result<String, String>), String>;

fn connect_and_ask(
    config: &Config,
    who: Who,
    redact: bool,
    to: &Sender<Answer>,
) -> Result<(), String> {
    let mut client = connect(config, who)?;
    client.batch_execute(SETTINGS).map_err(|e| because(&e))?;
    let it = client
        .query_one(IS_IT, &[&who.pid])
        .map_err(|e| because(&e))?;
    let pid = who.pid;
    if it.get::<_, i64>(0) == 0 {
        return Err(format!(
            "the server that it leads to has no backend {pid}: it is another one"
        ));
    }
    // In containers many servers have the same few PIDs.
    let started: Option<i64> = it.get(1);
    if matches!((started, who.started), (Some(a), Some(b)) if a.abs_diff(b.unix_micros()) > 1) {
        return Err(format!(
            "the server that it leads to did not start when that of backend {pid} did: it is another one"
        ));
    }
    for (file, question, columns) in QUESTIONS {
        let columns = if redact { columns } else { &[] };
        let answer = csv(&mut client, question, columns);
        if to.send(Ok((file, answer))).is_err() {
            break;
        }
        if client.is_closed() {
            return Err("the connection was lost".into());
        }
    }
    Ok(())
}

/// Whether the backend is there, and when the server started.
const IS_IT: &str = "SELECT (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE pid = $1), \
    (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::int8";

/// Who runs pgpoke as root may be root to the server, too, which has no such role: then as the server's own user. This
/// thread does nothing else.
fn connect(config: &Config, who: Who) -> Result<Client, String> {
    let first = config.connect(NoTls);
    let refused =
        |e: &postgres::Error| e.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
    let client = match (first, who.user) {
        (Err(e), Some((user, group))) if refused(&e) && geteuid().is_root() => {
            match sys::act_as(user, group) {
                Ok(()) => config.connect(NoTls),
                Err(_) => Err(e),
            }
        }
        (first, _) => first,
    };
    client.map_err(|e| match config.get_ssl_mode() {
        SslMode::Require => format!(
            "no connection: {}; sslmode=require asks for TLS, which pgpoke does not have: the server's own socket needs none",
            because(&e)
        ),
        _ => format!("no connection: {}", because(&e)),
    })
}

fn csv(client: &mut Client, question: &str, left_out: &[&str]) -> Result<String, String> {
    let failed = |e: postgres::Error| because(&e);
    let columns = client.prepare(question).map_err(failed)?;
    let columns = columns.columns().iter().map(|column| {
        let name = format!("\"{}\"", column.name().replace('"', "\"\""));
        match left_out.contains(&column.name()) {
            true => format!("CASE WHEN {name} IS NOT NULL THEN '{LEFT_OUT}' END AS {name}"),
            false => name,
        }
    });
    let columns = columns.collect::<Vec<_>>().join(", ");
    let copy =
        format!("COPY (SELECT {columns} FROM ({question}) AS q) TO STDOUT (FORMAT csv, HEADER)");
    let mut bytes = Vec::new();
    let reader = client.copy_out(&copy).map_err(failed)?;
    reader
        .take(MOST)
        .read_to_end(&mut bytes)
        .map_err(|e| e.to_string())?;
    Ok(passwords(&String::from_utf8_lossy(&bytes)))
}

/// An error with what is behind it, and without the password that a connection string may repeat.
fn because(error: &postgres::Error) -> String {
    let mut text = error.to_string();
    let mut behind = std::error::Error::source(error);
    while let Some(cause) = behind {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        behind = cause.source();
    }
    passwords(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_connection_that_fails_says_why() {
        // Nobody listens at a port that was just given back.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let answers = ask(
            config(&format!("host=127.0.0.1 port={port} user=a")).unwrap(),
            Who::default(),
            false,
        );
        let why = answers.get("pg_locks.csv").unwrap_err();
        assert!(
            why.contains("no connection") && why.contains("refused"),
            "{why}"
        );
        assert!(config("host='").is_err());
    }

    #[test]
    fn hosts_by_name() {
        let config = config("host=web3,/run/x,10.1.2.3 user=a").unwrap();
        assert_eq!(hosts(&config), ["web3", "10.1.2.3"]);
    }
}
