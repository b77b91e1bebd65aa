//! What is taken out of a bundle that is to be shown to strangers: query text, literals, host names and addresses.
//!
//! What has a form (a title in ps, a setting, a line of the server's log) is taken apart and only what is known to be
//! harmless is kept; what has none is searched for addresses, and for the names that are known to be hosts'. The names of
//! users, databases, tables and functions stay: without them a maintainer could tell nothing.
//!
//! [`passwords`] is for every bundle.

use std::net::{IpAddr, Ipv6Addr};

use super::words::only_known;
use crate::snapshot::Snapshot;

/// What stands where something was.
pub const LEFT_OUT: &str = "[left out]";

/// What stands where an address was.
const ADDRESS: &str = "[address]";

/// What stands where a host's name was.
const HOST: &str = "[host]";

/// In one sentence, for the README of the bundle.
pub const SAID: &str = "query text, literals, host names, addresses, application names, messages of the server's log \
    that may quote any of these, and local variables were left out; the names of users, databases, tables, functions and \
    files were not";

/// Takes out what is not to be told. Knows the names of hosts to look for.
#[derive(Debug, Clone, Default)]
pub struct Redactor {
    hosts: Vec<String>,
}

impl Redactor {
    /// Looks for these hosts' names, too.
    pub fn new(hosts: impl IntoIterator<Item = String>) -> Self {
        let mut known: Vec<String> = Vec::new();
        for host in hosts {
            let host = host.trim().to_owned();
            let short = host.split('.').next().unwrap_or_default().to_owned();
            // A name of one or two letters would be found everywhere, and "localhost" tells nothing.
            let telling =
                |h: &String| h.len() > 2 && h != "localhost" && !h.starts_with(['/', '[']);
            // Addresses are found by their form, and have no short one.
            if host.parse::<IpAddr>().is_err() {
                known.extend([host, short].into_iter().filter(telling));
            }
        }
        // The longer first: it may begin with the shorter.
        known.sort_by_key(|host| std::cmp::Reverse(host.len()));
        known.dedup();
        Redactor { hosts: known }
    }

    /// Text without a form.
    pub fn text(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            let line = self.names(&conninfo_hosts(&client_ports(line)));
            out.push_str(&addresses(&line));
        }
        out
    }

    /// A title in ps, `user database host(port) activity`: the host goes, and whatever follows the activity's own words
    /// stays, as PostgreSQL puts no query there.
    pub fn title(&self, title: &str) -> String {
        self.text(title)
    }

    /// A kernel's or a service's message, in which a name with dots may be a host's.
    pub fn message(&self, message: &str) -> String {
        let words = message.split(' ').scan("", |before, word| {
            let name = match *before {
                // "nfs: server filer not responding", "CIFS: VFS: \\filer\share"
                "server" => HOST.to_owned(),
                _ if word.starts_with(r"\\") || is_domain(word) => HOST.to_owned(),
                _ => word.to_owned(),
            };
            *before = word;
            Some(name)
        });
        self.text(&words.collect::<Vec<_>>().join(" "))
    }

    /// The value of a setting: numbers, switches, and those of a few settings that can name nobody.
    pub fn setting(&self, name: &str, value: &str) -> String {
        let is_harmless = |known: &&str| known.eq_ignore_ascii_case(name);
        match name.contains('.') || !(is_number(value) || CAN_NAME_NOBODY.iter().any(is_harmless)) {
            true if !is_switch(value) => LEFT_OUT.to_owned(),
            _ => self.text(value),
        }
    }

    /// The command line of a server: settings as such, names of directories, numbers. Of other words nobody knows.
    pub fn command<'w>(&self, words: impl IntoIterator<Item = &'w str>) -> String {
        let mut words = words.into_iter();
        let mut out = self.text(words.next().unwrap_or_default());
        let mut option = "";
        for word in words {
            let assignment = match option {
                "-c" => Some(("", word)),
                _ => ["--", "-c"]
                    .iter()
                    .find_map(|start| Some((*start, word.strip_prefix(start)?))),
            };
            let assignment = assignment.and_then(|(start, a)| Some((start, a.split_once('=')?)));
            out.push(' ');
            out.push_str(&match assignment {
                Some((start, (name, value))) => {
                    format!(
                        "{start}{name}={}",
                        self.setting(&name.replace('-', "_"), value)
                    )
                }
                // postgres(1): -D is the data directory, -k that of sockets.
                None if matches!(option, "-D" | "-k") => self.text(word),
                None if word.starts_with('-') && word.len() == 2 || is_number(word) => {
                    word.to_owned()
                }
                None => LEFT_OUT.to_owned(),
            });
            option = word;
        }
        out
    }

    /// What everybody's snapshot has of its session.
    pub fn snapshot(&self, s: &mut Snapshot) {
        let b = &mut s.backend;
        let left_out = |text: &mut Option<String>| {
            if text.as_deref().is_some_and(|t| t != "[local]") {
                *text = Some(LEFT_OUT.to_owned());
            }
        };
        left_out(&mut b.query);
        left_out(&mut b.client);
        left_out(&mut b.application_name);
        b.title = self.title(&b.title);
        b.postmaster_command =
            (b.postmaster_command.as_deref()).map(|c| self.command(c.split(' ')));
    }

    fn names(&self, line: &str) -> String {
        let is_part = |c: char| c.is_alphanumeric() || c == '-';
        let mut text = line.to_owned();
        for host in &self.hosts {
            let mut out = String::with_capacity(text.len());
            let mut rest = text.as_str();
            while let Some(at) = find_ignoring_case(rest, host) {
                let (before, after) = (&rest[..at], &rest[at + host.len()..]);
                out.push_str(before);
                let inside = before.ends_with(is_part) || after.starts_with(is_part);
                out.push_str(if inside {
                    &rest[at..at + host.len()]
                } else {
                    HOST
                });
                rest = after;
            }
            out.push_str(rest);
            text = out;
        }
        text
    }

    /// The server's log in its own format, stderr's: time, PID and severity, and of the messages those that are the
    /// server's own and quote nothing.
    pub fn log(&self, text: &str) -> String {
        // What goes on from the line before, or was written by something else, is no entry.
        self.entries(text.lines().map(|line| {
            let (head, severity, message) = log_line(line)?;
            Some((head, severity.to_owned(), message.to_owned()))
        }))
    }

    /// The same of csvlog's format (write_csvlog, csvlog.c).
    pub fn csv_log(&self, text: &str) -> String {
        const PID: usize = 3;
        const SEVERITY: usize = 11;
        const MESSAGE: usize = 13;
        // Records differ in length from one version to the next, and the first may have lost its beginning.
        let records = csv::ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .from_reader(text.as_bytes())
            .into_records();
        self.entries(records.map(|record| {
            let record = record.ok()?;
            let field = |n: usize| record.get(n);
            entry(field(0)?, field(PID)?, field(SEVERITY)?, field(MESSAGE)?)
        }))
    }

    /// The same of jsonlog's format (write_jsonlog, jsonlog.c).
    pub fn json_log(&self, text: &str) -> String {
        self.entries(text.lines().map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).ok()?;
            let text = |key| line[key].as_str();
            let pid = line["pid"].as_u64()?.to_string();
            entry(
                text("timestamp")?,
                &pid,
                text("error_severity")?,
                text("message")?,
            )
        }))
    }

    fn entries(&self, entries: impl Iterator<Item = Option<(String, String, String)>>) -> String {
        let mut out = String::new();
        let mut left_out = 0;
        for entry in entries {
            let Some((head, severity, message)) = entry else {
                left_out += 1;
                continue;
            };
            match known_message(&message) {
                Some(message) => {
                    said_left_out(&mut out, &mut left_out);
                    let message = self.message(&only_known(&quotes(message)));
                    out.push_str(&format!("{head} {severity}:  {message}\n"));
                }
                None if severity != "STATEMENT" && severity != "QUERY" => {
                    said_left_out(&mut out, &mut left_out);
                    out.push_str(&format!("{head} {severity}:  {LEFT_OUT}\n"));
                }
                None => left_out += 1,
            }
        }
        said_left_out(&mut out, &mut left_out);
        out
    }
}

/// An entry of a log that has fields.
fn entry(time: &str, pid: &str, severity: &str, message: &str) -> Option<(String, String, String)> {
    let line = format!("{time} [{pid}] {severity}:  ");
    let (head, severity, _) = log_line(&line)?;
    let message = message.lines().next().unwrap_or_default();
    Some((head, severity.to_owned(), message.to_owned()))
}

fn said_left_out(out: &mut String, lines: &mut usize) {
    if *lines > 0 {
        out.push_str(&format!("[{lines} lines left out]\n"));
        *lines = 0;
    }
}

/// Time and PID, severity, and message of a line of the log. Everything else of the prefix may name a host.
fn log_line(line: &str) -> Option<(String, &str, &str)> {
    const SEVERITIES: [&str; 18] = [
        "DEBUG1",
        "DEBUG2",
        "DEBUG3",
        "DEBUG4",
        "DEBUG5",
        "DEBUG",
        "LOG",
        "INFO",
        "NOTICE",
        "WARNING",
        "ERROR",
        "FATAL",
        "PANIC",
        "DETAIL",
        "HINT",
        "CONTEXT",
        "STATEMENT",
        "QUERY",
    ];
    // The first severity that follows a blank or the line's beginning.
    let (at, severity) = SEVERITIES
        .iter()
        .filter_map(|severity| {
            let needle = format!("{severity}:  ");
            let at = line.find(&needle)?;
            let bounded = at == 0 || !line[..at].ends_with(|c: char| c.is_alphanumeric());
            bounded.then_some((at, *severity))
        })
        .min()?;
    // What goes on from the line before is indented by a tab, and may quote a line of a log.
    if line[..at].contains(['\t', '\'', '"']) {
        return None;
    }
    let (prefix, message) = (&line[..at], &line[at + severity.len() + 3..]);
    let digits = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_digit())
            && word
                .chars()
                .all(|c| c.is_ascii_digit() || matches!(c, '-' | ':' | '.'))
            && !has_address(word)
    };
    let time: Vec<&str> = prefix
        .split(' ')
        .take_while(|w| digits(w))
        .take(2)
        .collect();
    let pid = prefix
        .split(['[', ']'])
        .find(|w| !w.is_empty() && w.len() <= 10 && w.bytes().all(|b| b.is_ascii_digit()));
    let head = match pid {
        Some(pid) => format!("{} [{pid}]", time.join(" ")),
        None => time.join(" "),
    };
    Some((head, severity, message))
}

/// Messages of the server's own, by how they begin; of the rest of the line only its own words are told, and numbers
/// (src/backend, 12 to 18).
fn known_message(message: &str) -> Option<&str> {
    const KNOWN: [&str; 46] = [
        "stuck spinlock detected",
        "could not fsync file",
        "could not write to file",
        "could not write block",
        "could not read block",
        "could not read from file",
        "could not read file",
        "could not extend file",
        "could not open file",
        "could not seek",
        "could not truncate file",
        "could not close file",
        "could not write file",
        "could not create file",
        "could not flush dirty data",
        "invalid page in block",
        "page verification failed",
        "unexpected data beyond EOF",
        "No space left on device",
        "out of memory",
        "out of shared memory",
        "still waiting for backend with PID",
        "canceling statement due to",
        "canceling autovacuum task",
        "terminating connection due to",
        "terminating connection because of crash",
        "terminating walreceiver",
        "terminating walsender",
        "terminating any other active server processes",
        "terminating background worker",
        "all server processes terminated; reinitializing",
        "server process (PID",
        "background worker",
        "database system",
        "received fast shutdown request",
        "received smart shutdown request",
        "received immediate shutdown request",
        "received SIGHUP",
        "issuing SIGKILL to recalcitrant children",
        "postmaster became multithreaded",
        "starting PostgreSQL",
        "checkpoint starting",
        "checkpoint complete",
        "checkpoints are occurring too frequently",
        "restartpoint",
        "redo",
    ];
    // A statement may follow on the same line (log_min_duration_statement).
    let message = message.split(" statement: ").next().unwrap_or(message);
    let waits = message.starts_with("process ")
        && (message.contains(" still waiting for ") || message.contains(" acquired "));
    (waits || KNOWN.iter().any(|k| message.starts_with(k))).then_some(message)
}

/// The same without what stands in quotes.
fn quotes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut open = None;
    for c in text.chars() {
        match open {
            Some(quote) if c == quote => {
                out.push(c);
                open = None;
            }
            Some(_) => {}
            None => {
                out.push(c);
                if matches!(c, '"' | '\'') {
                    out.push('…');
                    open = Some(c);
                }
            }
        }
    }
    out
}

fn find_ignoring_case(text: &str, name: &str) -> Option<usize> {
    let (text, name) = (text.as_bytes(), name.as_bytes());
    text.windows(name.len())
        .position(|window| window.eq_ignore_ascii_case(name))
}

/// `name(51234)`, as titles and logs have a client's host and port.
fn client_ports(line: &str) -> String {
    let word = |word: &str| -> Option<String> {
        let end = word.find(['\n', ',', '\0']).unwrap_or(word.len());
        let (word, rest) = word.split_at(end);
        let (name, port) = word.strip_suffix(')')?.split_once('(')?;
        let is_port = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        (is_port && !name.is_empty()).then(|| format!("{HOST}{rest}"))
    };
    let words = line
        .split(' ')
        .map(|w| word(w).unwrap_or_else(|| w.to_owned()));
    words.collect::<Vec<_>>().join(" ")
}

/// `host=…`, `hostaddr=…`, and what follows the `@` or the `//` of a URL.
fn conninfo_hosts(line: &str) -> String {
    let mut text = line.to_owned();
    for key in ["host", "pghost", "hostaddr", "hostname", "client_addr"] {
        text = replace_value(&text, key, HOST, |before, value| {
            before.ends_with(|c: char| c.is_ascii_alphabetic()) || value.starts_with('/')
        });
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '"' | '\''))
            .unwrap_or(after.len());
        if end > 0 {
            out.push_str(HOST);
        }
        rest = &after[end..];
    }
    out.push_str(rest);
    out
}

/// Replaces what `key` is set to, in quotes or not, wherever `key` stands, unless what comes before it, or the value, is to
/// be kept.
fn replace_value(text: &str, key: &str, with: &str, keep: impl Fn(&str, &str) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = find_ignoring_case(rest, key) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let (name, after) = from.split_at(key.len());
        out.push_str(name);
        rest = after;
        let value = after.trim_start_matches([' ', '\t']);
        let Some(value) = value.strip_prefix(['=', ':']).or_else(|| {
            // PASSWORD 'secret', as in SQL.
            (value.len() < after.len() && value.starts_with('\'')).then_some(value)
        }) else {
            continue;
        };
        let value = value.trim_start_matches([' ', '\t', '=']);
        let (content, end) = content_of(value);
        if content.is_empty() || keep(before, content) {
            continue;
        }
        let start = after.len() - value.len();
        out.push_str(&after[..start]);
        out.push_str(with);
        rest = &value[end..];
    }
    out.push_str(rest);
    out
}

/// A value at the beginning of a text, and where it ends.
fn content_of(text: &str) -> (&str, usize) {
    for quote in ["''", "\\'", "'", "\"", "\\\""] {
        let Some(inner) = text.strip_prefix(quote) else {
            continue;
        };
        // A doubled quote inside a quoted conninfo begins a value of its own; alone it is a value of nothing.
        let end = inner.find(quote).unwrap_or(inner.len());
        let whole = (quote.len() * 2 + end).min(text.len());
        return (&inner[..end], whole);
    }
    let end = text
        .find(|c: char| c.is_whitespace() || matches!(c, '\'' | '"' | ',' | ';' | '&' | ')'))
        .unwrap_or(text.len());
    (&text[..end], end)
}

/// Without the passwords that a text of settings, command lines or statements may hold.
pub fn passwords(text: &str) -> String {
    let keep = |_: &str, _: &str| false;
    let mut text = text.to_owned();
    for key in [
        "password",
        "passwd",
        "passphrase",
        "secret",
        "token",
        "access_key",
        "api_key",
        "apikey",
    ] {
        text = replace_value(&text, key, "[password]", keep);
    }
    // scheme://user:password@host
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after
            .find(|c: char| c.is_whitespace() || c == '/')
            .unwrap_or(after.len());
        let authority = &after[..end];
        match authority
            .rsplit_once('@')
            .map(|(user, host)| (user.split_once(':'), host))
        {
            Some((Some((user, _)), host)) => out.push_str(&format!("{user}:[password]@{host}")),
            _ => out.push_str(authority),
        }
        rest = &after[end..];
    }
    out.push_str(rest);
    out
}

fn is_number(value: &str) -> bool {
    let digits = value.trim_start_matches('-');
    let unit = digits.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    digits.len() > unit.len()
        && matches!(
            unit,
            "" | "B" | "kB" | "MB" | "GB" | "TB" | "us" | "ms" | "s" | "min" | "h" | "d"
        )
        && !has_address(value)
}

fn is_switch(value: &str) -> bool {
    ["on", "off", "true", "false", "yes", "no", ""].contains(&value.to_ascii_lowercase().as_str())
}

/// Settings whose values are words of PostgreSQL's own, or the names of files and libraries.
const CAN_NAME_NOBODY: [&str; 34] = [
    "bytea_output",
    "data_directory",
    "DateStyle",
    "default_text_search_config",
    "default_transaction_isolation",
    "dynamic_library_path",
    "dynamic_shared_memory_type",
    "huge_pages",
    "io_method",
    "jit_provider",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "local_preload_libraries",
    "log_destination",
    "log_directory",
    "log_filename",
    "log_min_error_statement",
    "log_min_messages",
    "log_statement",
    "log_timezone",
    "recovery_target_action",
    "password_encryption",
    "session_preload_libraries",
    "shared_memory_type",
    "shared_preload_libraries",
    "synchronous_commit",
    "TimeZone",
    "unix_socket_directories",
    "wal_compression",
    "wal_level",
    "wal_sync_method",
    "config_file",
];

/// Whether a word looks like the name of a host with its domain, and not like that of a file.
fn is_domain(word: &str) -> bool {
    const FILES: [&str; 14] = [
        "so", "c", "h", "conf", "log", "service", "scope", "slice", "socket", "control", "sql",
        "pid", "json", "csv",
    ];
    let word = word.trim_matches(|c: char| !c.is_alphanumeric());
    let word = word.split([':', '/']).next().unwrap_or(word);
    let labels: Vec<&str> = word.split('.').collect();
    let is_label =
        |l: &&str| !l.is_empty() && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    labels.len() > 1
        && labels.iter().all(is_label)
        && labels.last().is_some_and(|last| {
            last.len() > 1 && last.chars().all(|c| c.is_ascii_alphabetic()) && !FILES.contains(last)
        })
}

fn has_address(text: &str) -> bool {
    addresses(text) != text
}

/// The same without IPv4 and IPv6 addresses.
fn addresses(line: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '%' | '-' | '_');
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find(is_part) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let end = from.find(|c| !is_part(c)).unwrap_or(from.len());
        out.push_str(&ipv4(&ipv6(&from[..end])));
        rest = &from[end..];
    }
    out.push_str(rest);
    out
}

/// The longest groups between colons that together are an address; a zone follows a percent sign.
fn ipv6(word: &str) -> String {
    const MOST: usize = 40;
    let groups: Vec<&str> = word.split(':').collect();
    if groups.len() < 3 || groups.len() > MOST {
        return word.to_owned();
    }
    let is_address = |from: usize, to: usize| {
        let text = groups[from..=to].join(":");
        let text = text.split('%').next().unwrap_or_default();
        // "::" alone tells nothing, and stands in the names of functions.
        text.len() > 2 && text.parse::<Ipv6Addr>().is_ok()
    };
    for length in (3..=groups.len()).rev() {
        for from in 0..=groups.len() - length {
            let to = from + length - 1;
            if is_address(from, to) {
                let before = groups[..from].iter().map(|g| format!("{g}:"));
                let after = groups[to + 1..].iter().map(|g| format!(":{g}"));
                return format!(
                    "{}{ADDRESS}{}",
                    before.collect::<String>(),
                    after.collect::<String>()
                );
            }
        }
    }
    word.to_owned()
}

fn ipv4(word: &str) -> String {
    let is_part = |c: char| c.is_ascii_digit() || c == '.';
    let mut out = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(at) = rest.find(is_part) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let end = from.find(|c| !is_part(c)).unwrap_or(from.len());
        let run = &from[..end];
        let number = run.trim_matches('.');
        let parts: Vec<&str> = number.split('.').collect();
        let is_byte = |p: &&str| p.len() <= 3 && p.parse::<u16>().is_ok_and(|n| n < 256);
        match parts.len() == 4 && parts.iter().all(is_byte) {
            true => out.push_str(&run.replacen(number, ADDRESS, 1)),
            false => out.push_str(run),
        }
        rest = &from[end..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redactor() -> Redactor {
        Redactor::new([
            "db7.shop.example".to_owned(),
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
            "[local]".to_owned(),
            "x".to_owned(),
        ])
    }

    #[test]
    fn addresses_in_whatever_stands_around_them() {
        for text in [
            "10.1.2.3",
            "10.1.2.3:5432",
            "from 10.1.2.3.",
            "(10.1.2.3)",
            "host10.1.2.3x",
            "tcp:10.1.2.3:80",
            "010.001.002.003",
            "10.1.2.3/24",
            "v=10.1.2.3;",
            "a_10.1.2.3",
            "2001:db8::10.1.2.3",
        ] {
            let out = redactor().text(text);
            assert!(
                out.contains(ADDRESS) && !out.contains("1.2.3") && !out.contains("001"),
                "{text}: {out}"
            );
        }
        for text in [
            "2001:db8::7",
            "[2001:db8::7]:5432",
            "peer:2001:db8::7",
            "fe80::db8:7%eth0",
            "2001:db8:0:0:0:0:0:7",
            "2001:0DB8::7,",
            "address=2001:db8::7/64",
        ] {
            let out = redactor().text(text).to_lowercase();
            assert!(
                out.contains(ADDRESS) && !out.contains("db8"),
                "{text}: {out}"
            );
        }
    }

    #[test]
    fn what_is_no_address_stays() {
        for text in [
            "13:45:07",
            "2026-11-25 13:45:07.123 UTC",
            "core::fmt::write",
            "15.18",
            "1.2.3.4.5",
            "300.1.2.3",
            "0x7f0c718479bf spin at pgpoke_test.c:82",
            "7f0c71843000-7f0c71845000 r-xp 00000000 08:01 1234 /usr/lib/x.so",
            "libc.so.6",
            "127 [local]",
            "ghost=1 x",
        ] {
            assert_eq!(redactor().text(text), text);
        }
    }

    #[test]
    fn hosts_by_name_and_by_place() {
        let r = redactor();
        assert_eq!(r.text("at db7.shop.example, DB7."), "at [host], [host].");
        assert_eq!(
            r.text("db70 xdb7 db7-a localhost"),
            "db70 xdb7 db7-a localhost"
        );
        assert_eq!(
            r.title("alice shop web3.shop.example(51234) idle in transaction"),
            "alice shop [host] idle in transaction"
        );
        assert_eq!(
            r.title("alice shop 192.0.2.7(51234) SELECT"),
            "alice shop [host] SELECT"
        );
        assert_eq!(
            r.title("walsender rep ::1(4) streaming 0/3000148"),
            "walsender rep [host] streaming 0/3000148"
        );
        for text in [
            "primary_conninfo = 'user=rep host=web3 port=5432'",
            "host = 'web3'",
            "host=\"web3\"",
            "HOSTADDR=web3",
            "PGHOST=web3",
            "hostname:web3",
            "postgresql://a:b@web3:5432/x",
            "https://web3?x",
            "'host=''web3'' port=1'",
            "user=a,host=web3",
        ] {
            let out = r.text(text);
            assert!(out.contains(HOST) && !out.contains("web3"), "{text}: {out}");
        }
        assert_eq!(
            r.text("host=/run/postgresql port=5432"),
            "host=/run/postgresql port=5432"
        );
        assert_eq!(
            r.message("nfs: server filer not responding"),
            "nfs: server [host] not responding"
        );
        assert_eq!(
            r.message("from web3.shop.example:80 to x.so a.conf"),
            "from [host] to x.so a.conf"
        );
    }

    #[test]
    fn of_the_log_only_what_quotes_nothing() {
        let log = "2026-11-25 13:45:07.123 UTC [4711] alice@shop web3 ERROR:  duplicate key value SECRET\n\
            2026-11-25 13:45:07.123 UTC [4711] DETAIL:  Key (email)=(SECRET) already exists.\n\
            2026-11-25 13:45:07.123 UTC [4711] STATEMENT:  INSERT INTO t\n\tVALUES ('SECRET ERROR:  database system SECRET')\n\
            2026-11-25 13:45:08.000 UTC [4711] LOG:  duration: 5 ms  statement: SELECT 'SECRET'\n\
            2026-11-25 13:45:09.000 UTC [99] LOG:  still waiting for backend with PID 4711 to accept ProcSignalBarrier\n\
            10.1.2.3 web3 [12] PANIC:  could not fsync file \"base/SECRET\": Input/output error\n\
            2026-11-25 13:45:10 UTC [7] LOG:  process 7 still waiting for ShareLock on transaction 8 after 1000 ms statement: SECRET\n\
            2026-11-25 13:45:11 UTC [7] WARNING:  out of memory for SECRET 4111111111111111\n\
            plain SECRET";
        let out = redactor().log(log);
        assert!(out.contains("[7] WARNING:  out of memory for …"), "{out}");
        for leak in [
            "SECRET", "4111", "web3", "10.1.2.3", "alice", "INSERT", "email",
        ] {
            assert!(!out.contains(leak), "{leak}: {out}");
        }
        assert!(
            out.contains("[99] LOG:  still waiting for backend with PID 4711"),
            "{out}"
        );
        assert!(
            out.contains("[12] PANIC:  could not fsync file \"…\": Input/output error"),
            "{out}"
        );
        assert!(out.contains("[4711] ERROR:  [left out]"), "{out}");
    }

    #[test]
    fn logs_with_fields_are_taken_apart_by_them() {
        let csv = "2026-11-25 13:45:07.123 UTC,\"alice\",\"shop\",4711,\"web3:5\",6b07.1,1,\"SELECT\",2026-11-25 13:00:00 UTC,3/1,0,ERROR,22P02,\"bad \"\"SECRET\"\",\nSECRET\",,,,,,\"SELECT 'SECRET'\",,,\"\",\"client backend\",,0\n\
            2026-11-25 13:45:08.000 UTC,,,12,,6b07.2,1,,2026-11-25 13:00:00 UTC,,0,PANIC,58030,\"could not fsync file \"\"base/SECRET\"\": Input/output error\",,,,,,,,,\"\",\"checkpointer\",,0\n\
            2026,half,a,rec\"ord SECRET";
        let out = redactor().csv_log(csv);
        assert_eq!(
            out,
            "2026-11-25 13:45:07.123 [4711] ERROR:  [left out]\n\
             2026-11-25 13:45:08.000 [12] PANIC:  could not fsync file \"…\": Input/output error\n\
             [1 lines left out]\n"
        );
        let json = r#"{"timestamp":"2026-11-25 13:45:07.123 UTC","user":"alice","pid":4711,"remote_host":"web3","error_severity":"ERROR","message":"bad SECRET","statement":"SELECT SECRET"}
{"timestamp":"2026-11-25 13:45:08.000 UTC","pid":12,"error_severity":"LOG","message":"database system is ready to accept connections"}
{"timestamp":"SECRET","pid":13,"error_severity":"SECRET","message":"database system"}
no SECRET"#;
        let out = redactor().json_log(json);
        assert_eq!(
            out,
            "2026-11-25 13:45:07.123 [4711] ERROR:  [left out]\n\
             2026-11-25 13:45:08.000 [12] LOG:  database system is ready to accept connections\n\
             [2 lines left out]\n"
        );
    }

    #[test]
    fn of_a_command_line_only_what_is_known() {
        let words = [
            "/usr/bin/postgres",
            "-D",
            "/data",
            "-c",
            "archive_command=rsync %p web3:/x",
            "-c",
            "work_mem=4MB",
            "--app.name=SECRET",
            "--fsync=off",
            "-h",
            "web3",
            "-p",
            "5433",
            "-k",
            "/run",
            "-cport=5434",
            "-S",
            "10",
            "SECRET",
            "-rSECRET",
            "-F",
        ];
        assert_eq!(
            redactor().command(words),
            "/usr/bin/postgres -D /data -c archive_command=[left out] -c work_mem=4MB --app.name=[left out] \
             --fsync=off -h [left out] -p 5433 -k /run -cport=5434 -S 10 [left out] [left out] -F"
        );
    }

    #[test]
    fn passwords_of_every_kind() {
        for text in [
            "primary_conninfo = 'user=rep password=hunter2 host=a'",
            "primary_conninfo = 'user=rep password=''hunter2 one'' host=a'",
            "PASSWORD 'hunter2'",
            "ALTER ROLE a ENCRYPTED password  'hunter2';",
            "AWS_SECRET_ACCESS_KEY=hunter2 wal-g",
            "--token=hunter2",
            "postgresql://a:hunter2@host/db",
            "pgpassword=hunter2",
            "password = \"hunter2\"",
            "passphrase: hunter2",
        ] {
            let out = passwords(text);
            assert!(
                !out.contains("hunter2") && out.contains("[password]"),
                "{text}: {out}"
            );
        }
        for text in [
            "password_encryption",
            "no password",
            "://x",
            "",
            "password=",
        ] {
            assert_eq!(passwords(text), text);
        }
    }

    #[test]
    fn settings_that_may_name_somebody_are_left_out() {
        let r = redactor();
        for (name, value) in [
            ("shared_buffers", "16MB"),
            ("fsync", "off"),
            ("deadlock_timeout", "1s"),
            ("log_filename", "postgresql-%a.log"),
            ("wal_level", "replica"),
            ("app.flag", "on"),
            ("timezone", "Europe/Vienna"),
            ("lc_messages", "C.UTF-8"),
        ] {
            assert_eq!(r.setting(name, value), value, "{name}");
        }
        for (name, value) in [
            ("primary_conninfo", "host=a"),
            ("listen_addresses", "10.1.2.3"),
            ("synchronous_standby_names", "web3"),
            ("cluster_name", "web3"),
            ("archive_command", "rsync %p web3:/"),
            ("app.secret", "4711"),
            ("log_line_prefix", "web3 %m "),
            ("listen_addresses", "10.1.2.3s"),
        ] {
            assert_eq!(r.setting(name, value), LEFT_OUT, "{name}");
        }
    }

    #[test]
    fn odd_text_is_no_harm() {
        let long = ":".repeat(100_000) + &"1.".repeat(100_000) + &"host=".repeat(10_000);
        for text in [
            "",
            "\0",
            "ä:ö:ü",
            "host=",
            "host='",
            "password='",
            "://",
            "é(1)",
            &long,
        ] {
            let r = redactor();
            let _ = (
                r.text(text),
                r.log(text),
                r.csv_log(text),
                r.json_log(text),
                r.command(text.split(' ')),
                r.message(text),
                passwords(text),
                quotes(text),
            );
        }
    }
}
