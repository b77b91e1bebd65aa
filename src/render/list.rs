//! What `pgpoke list` prints: a table that fits the terminal, or JSON.

use std::fmt::Write;
use std::time::Duration;

use textwrap::core::display_width;

use super::forms::{self, Backend, Entry, List, Listed, ListedProcess, SchemaVersion, Server};
use super::json::{self, millis, text_of, to_value};
use super::screen::{Screen, Tone};
use super::text::printable;
use crate::assess::Interrupt;
use crate::assess::likely::{Judgement, Pending};
use crate::postgres::status::{Client, NoStatus, Status, Timestamp};
use crate::snapshot::{Glance, ServerFacts};

/// One process, and what is said of it.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its server's number.
    pub server: usize,
    /// What was read.
    pub glance: Glance,
    /// What that says.
    pub judgement: Judgement,
}

/// All that one round found, and is to be shown.
#[derive(Debug)]
pub struct Listing {
    /// The servers.
    pub servers: Vec<ServerFacts>,
    /// How many processes of each were read.
    pub read: Vec<usize>,
    /// Those to be shown, in order.
    pub rows: Vec<Row>,
    /// When.
    pub at: Timestamp,
    /// Processes that may be a server's, and could not be looked into.
    pub unreadable: Vec<i32>,
    /// What the operator should know beside it.
    pub warnings: Vec<String>,
}

/// What a column holds. In the order in which they are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    Pid,
    Inside,
    Type,
    Database,
    User,
    Client,
    Application,
    State,
    For,
    Wait,
    Cpu,
    Pending,
    Query,
}

use Column as C;

const COLUMNS: [Column; 13] = [
    C::Pid,
    C::Inside,
    C::Type,
    C::Database,
    C::User,
    C::Client,
    C::Application,
    C::State,
    C::For,
    C::Wait,
    C::Cpu,
    C::Pending,
    C::Query,
];

/// Those that can be done without where there is no room, the least important first. Never the process, what it does,
/// for how long, and what is pending.
const DROPPED: [Column; 8] = [
    C::Type,
    C::Application,
    C::Client,
    C::Cpu,
    C::Inside,
    C::Wait,
    C::User,
    C::Database,
];

/// What a statement has to have left, for its beginning to say something.
const LEAST_QUERY: usize = 28;

/// What is between two columns.
const GAP: &str = "  ";

impl Column {
    fn title(self) -> &'static str {
        match self {
            C::Pid => "PID",
            C::Inside => "INSIDE",
            C::Type => "TYPE",
            C::Database => "DATABASE",
            C::User => "USER",
            C::Client => "CLIENT",
            C::Application => "APPLICATION",
            C::State => "STATE",
            C::For => "FOR",
            C::Wait => "WAITS FOR",
            C::Cpu => "CPU",
            C::Pending => "PENDING",
            C::Query => "QUERY",
        }
    }

    fn is_number(self) -> bool {
        matches!(self, C::Pid | C::Inside | C::For | C::Cpu)
    }

    /// To how many characters its texts may be cut where there is no room.
    fn least(self) -> Option<usize> {
        match self {
            C::Database | C::User => Some(8),
            C::Application => Some(10),
            C::Wait => Some(14),
            C::Query => Some(LEAST_QUERY),
            _ => None,
        }
    }

    fn cell(self, g: &Glance, j: &Judgement) -> String {
        let status = g.status.as_ref().ok();
        let text = |text: Option<&String>| text.map_or(String::new(), |t| one_line(t));
        match self {
            C::Pid => g.pid.to_string(),
            C::Inside if g.inner_pid == g.pid => String::new(),
            C::Inside => g.inner_pid.to_string(),
            C::Type => one_line(&g.kind()),
            C::Database => name_or_oid(&g.database, status.and_then(|s| s.database)),
            C::User => name_or_oid(&g.user, status.and_then(|s| s.user)),
            C::Client => {
                let client = status.and_then(|s| s.client);
                client.map_or(String::new(), |c| c.to_string())
            }
            C::Application => text(status.and_then(|s| s.application_name.as_ref())),
            C::State => match &g.status {
                Ok(status) => {
                    let activity = status.activity.map_or(String::new(), |a| a.to_string());
                    match g.process.state {
                        // It can do nothing at all, whatever it says.
                        Some('T') => format!("{activity}, stopped"),
                        _ => activity,
                    }
                }
                Err(NoStatus::Torn) => "unknown".into(),
                Err(NoStatus::None) => String::new(),
            },
            C::For => g.since().map_or(String::new(), |s| human(s.until(g.at))),
            C::Wait => g
                .wait
                .as_ref()
                .map_or(String::new(), |w| one_line(&w.text())),
            C::Cpu => match (j.cpu_percent, g.cpu_time) {
                (Some(share), _) => format!("{share:.0} %"),
                (None, Some(time)) => human(time),
                (None, None) => String::new(),
            },
            C::Pending => j.pending.iter().map(pending).collect::<Vec<_>>().join(", "),
            C::Query => text(status.and_then(|s| s.query.as_ref())),
        }
    }
}

fn pending(p: &Pending) -> String {
    match p.arrived {
        true => p.what.to_string(),
        false => format!("{} (sent)", p.what),
    }
}

/// A name of a database or a role; where nothing tells it, its number, said as such.
fn name_or_oid(name: &Option<String>, oid: Option<u32>) -> String {
    match (name, oid) {
        (Some(name), _) => one_line(name),
        (None, Some(oid)) => format!("oid {oid}"),
        (None, None) => String::new(),
    }
}

/// Text of another process's on one line, as short as it can be said.
fn one_line(text: &str) -> String {
    let text = printable(text);
    let words: Vec<&str> = text.split(' ').filter(|w| !w.is_empty()).collect();
    words.join(" ")
}

/// A time as people say it.
pub fn human(time: Duration) -> String {
    let (ms, s) = (time.as_millis(), time.as_secs());
    let (min, h, d) = (s / 60, s / 3600, s / 86_400);
    match () {
        () if ms < 1000 => format!("{ms} ms"),
        () if s < 60 => format!("{s} s"),
        () if min < 60 => format!("{min} min"),
        () if h < 24 => format!("{h} h {} min", min % 60),
        () => format!("{d} d {} h", h % 24),
    }
}

/// The table, one for each server; of `lines` no more than that.
pub fn text(listing: &Listing, screen: &Screen, lines: Option<usize>) -> String {
    let cells: Vec<Vec<String>> = listing.rows.iter().map(cells).collect();
    let columns = fit(&cells, screen.columns);
    let mut out = String::new();
    let mut proofs_needed = false;
    for (number, server) in listing.servers.iter().enumerate() {
        let rows = listing.rows.iter().zip(&cells);
        let rows: Vec<_> = rows.filter(|(row, _)| row.server == number).collect();
        if rows.is_empty() {
            continue;
        }
        if !out.is_empty() {
            out.push('\n');
        }
        let read = listing.read.get(number).copied().unwrap_or(0);
        let head = head(server, rows.len(), read);
        out.push_str(&screen.wrap("", 2, &screen.paint(Tone::Strong, &head)));
        let titles = COLUMNS.map(|c| c.title().to_owned());
        out.push_str(&line(&columns, &titles, false));
        for (row, cells) in rows {
            let folded = !columns.iter().any(|(c, _)| *c == C::Type);
            out.push_str(&line(&columns, cells, folded));
            if let (None, true) = (&row.judgement.cause, !row.judgement.unheard.is_empty()) {
                let signals = row.judgement.unheard.join(" and ");
                let text = format!("no handler for {signals}: one that is sent sets nothing");
                out.push_str(&note(screen, &text));
            }
            if let Some(cause) = &row.judgement.cause {
                proofs_needed = true;
                let code = screen.paint(Tone::Warn, &format!("likely {}", cause.code));
                let likely = format!("{code}: {}", printable(&cause.summary));
                out.push_str(&note(screen, &likely));
                for text in ages(row).chain(cause.evidence.iter().map(|e| printable(e))) {
                    out.push_str(&note(screen, &format!("- {text}")));
                }
            }
        }
    }
    if proofs_needed {
        let text = "A cause is only likely until a look at the stack proves it: pgpoke inspect PID";
        out.push('\n');
        out.push_str(&screen.wrap("", 0, text));
    }
    match lines {
        Some(lines) => cut_lines(&out, lines),
        None => out,
    }
}

fn cells(row: &Row) -> Vec<String> {
    let cells = COLUMNS.iter().map(|c| c.cell(&row.glance, &row.judgement));
    cells.collect()
}

/// Which server, in one line.
fn head(server: &ServerFacts, shown: usize, read: usize) -> String {
    let version = server.version.as_deref().unwrap_or("of an unknown version");
    let mut parts = vec![format!("PostgreSQL {}", printable(version))];
    if !server.cluster_name.is_empty() {
        parts.push(printable(&server.cluster_name));
    }
    parts.extend(server.port.map(|port| format!("port {port}")));
    if let Some(directory) = &server.data_directory {
        parts.push(printable(&directory.to_string_lossy()));
    }
    let container = server.container.as_ref();
    parts.extend(container.map(|id| format!("container {}", printable(id))));
    parts.push(match (server.postmaster, server.inner_postmaster) {
        (Some(pid), _) => format!("postmaster {pid}"),
        (None, Some(gone)) => format!("ITS POSTMASTER {gone} IS GONE"),
        (None, None) => "single-user mode".into(),
    });
    let many = if read == 1 { "process" } else { "processes" };
    parts.push(match shown == read {
        true => format!("{read} {many}"),
        false => format!("{shown} of {read} {many}"),
    });
    parts.join(", ")
}

/// For how long each interrupt has been ignored.
fn ages(row: &Row) -> impl Iterator<Item = String> {
    row.judgement.pending.iter().filter_map(|p| {
        let least = human(p.at_least?);
        let most = match p.at_most {
            Some(most) => format!(", and for {} at most", human(most)),
            None => String::new(),
        };
        Some(format!("ignores a {} for at least {least}{most}", p.what))
    })
}

/// Which columns are shown, and how wide; none for the last, which may be as long as it is.
fn fit(rows: &[Vec<String>], room: Option<usize>) -> Vec<(Column, usize)> {
    let natural = |at: usize, column: Column| {
        let cells = rows.iter().map(|cells| display_width(&cells[at]));
        let widest = cells.max().unwrap_or(0);
        // A column that says nothing is none; those that always say something stay where they are.
        let always = matches!(column, C::Pid | C::Query);
        (widest > 0 || always).then(|| (column, widest.max(column.title().len())))
    };
    let mut columns: Vec<(Column, usize)> = COLUMNS
        .iter()
        .enumerate()
        .filter_map(|(at, column)| natural(at, *column))
        .collect();
    let Some(room) = room else {
        return columns;
    };
    let least = |(column, width): &(Column, usize)| {
        let least = column
            .least()
            .map_or(*width, |n| n.max(column.title().len()));
        least.min((*width).max(if *column == C::Query { LEAST_QUERY } else { 0 }))
    };
    let total = |columns: &[(Column, usize)], width: &dyn Fn(&(Column, usize)) -> usize| {
        columns.iter().map(width).sum::<usize>() + GAP.len() * columns.len().saturating_sub(1)
    };
    for dropped in DROPPED {
        if total(&columns, &least) <= room {
            break;
        }
        columns.retain(|(column, _)| *column != dropped);
    }
    // The statement takes what is left, and what it lacks the others give.
    let wanted = |c: &(Column, usize)| if c.0 == C::Query { least(c) } else { c.1 };
    let mut excess = total(&columns, &wanted).saturating_sub(room);
    for dropped in DROPPED {
        let at = columns.iter().position(|(column, _)| *column == dropped);
        if let Some(at) = at {
            let gives = (columns[at].1 - least(&columns[at])).min(excess);
            columns[at].1 -= gives;
            excess -= gives;
        }
    }
    let others = total(&columns, &|c| if c.0 == C::Query { 0 } else { c.1 });
    if let Some(query) = columns.iter_mut().find(|(column, _)| *column == C::Query) {
        query.1 = room.saturating_sub(others);
    }
    columns
}

/// One line of a table. `folded`: what a process is for has no column, and is said where its statement would be.
fn line(columns: &[(Column, usize)], cells: &[String], folded: bool) -> String {
    let mut text = String::new();
    for (column, width) in columns {
        let at = COLUMNS.iter().position(|c| c == column).unwrap_or(0);
        let mut cell = cells[at].clone();
        let kind = cells[2].as_str();
        if *column == C::Query && folded && kind != "client backend" {
            cell = format!("({kind}) {cell}").trim_end().to_owned();
        }
        let cell = shorten(&cell, *width);
        if !text.is_empty() {
            text.push_str(GAP);
        }
        let padding = " ".repeat(width.saturating_sub(display_width(&cell)));
        let _ = match column.is_number() {
            true => write!(text, "{padding}{cell}"),
            false => write!(text, "{cell}{padding}"),
        };
    }
    format!("{}\n", text.trim_end())
}

/// A remark below a line of the table.
fn note(screen: &Screen, text: &str) -> String {
    screen.wrap("        ", 10, text)
}

/// At most so many columns of a terminal, the last of them saying that there is more. A character may take two, or none.
fn shorten(text: &str, most: usize) -> String {
    if display_width(text) <= most {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut left = most.saturating_sub(1);
    for c in text.chars() {
        let width = display_width(c.encode_utf8(&mut [0; 4]));
        if width > left {
            break;
        }
        left -= width;
        kept.push(c);
    }
    if most > 0 { kept + "…" } else { kept }
}

fn cut_lines(text: &str, most: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() <= most {
        return text.to_owned();
    }
    let shown = most.saturating_sub(1);
    let more = lines.len() - shown;
    format!("{}\n… and {more} more lines\n", lines[..shown].join("\n"))
}

/// The same as one JSON object, on one line if another may follow.
pub fn json(listing: &Listing, one_line: bool) -> String {
    let servers = listing.servers.iter().zip(&listing.read);
    let object = to_value(&List {
        schema_version: SchemaVersion,
        at_unix_us: listing.at.unix_micros(),
        servers: servers.map(|(s, read)| server(s, *read)).collect(),
        backends: listing.rows.iter().map(|r| listed(r, listing)).collect(),
        unreadable: listing.unreadable.clone(),
        warnings: listing.warnings.clone(),
    });
    match one_line {
        true => format!("{object}\n"),
        false => json::print(&object),
    }
}

fn server(s: &ServerFacts, read: usize) -> Server {
    let s = s.clone();
    Server {
        postmaster_pid: s.postmaster,
        postmaster_pid_in_container: s.inner_postmaster.filter(|p| Some(*p) != s.postmaster),
        server_version: s.version,
        version_known: s.version_known,
        data_directory: s.data_directory.as_deref().map(text_of),
        port: s.port,
        cluster_name: Some(s.cluster_name).filter(|n| !n.is_empty()),
        container: s.container,
        processes: read,
    }
}

fn listed(row: &Row, listing: &Listing) -> Listed {
    let (g, j) = (&row.glance, &row.judgement);
    let status = g.status.as_ref().ok();
    let age =
        |at: fn(&Status) -> Option<Timestamp>| status.and_then(at).map(|t| millis(t.until(g.at)));
    let moment =
        |at: fn(&Status) -> Option<Timestamp>| status.and_then(at).map(Timestamp::unix_micros);
    let (address, port) = match status.and_then(|s| s.client) {
        Some(Client::Remote(address, port)) => (Some(address.to_string()), Some(port)),
        _ => (None, None),
    };
    Listed {
        pid: g.pid,
        server: row.server,
        backend: backend(g, &listing.servers[row.server]),
        backend_type: g.kind(),
        database_oid: status.and_then(|s| s.database),
        user_oid: status.and_then(|s| s.user),
        client_addr: address,
        client_port: port,
        backend_start_unix_us: moment(|s| s.started),
        xact_start_unix_us: moment(|s| s.transaction_start),
        query_start_unix_us: moment(|s| s.query_start),
        state_change_unix_us: moment(|s| s.state_change),
        read_at_unix_us: g.at.unix_micros(),
        state_ms: g.since().map(|t| millis(t.until(g.at))),
        xact_ms: age(|s| s.transaction_start),
        session_ms: age(|s| s.started),
        status: match &g.status {
            Ok(_) => Entry::Read,
            Err(NoStatus::Torn) => Entry::Torn,
            Err(NoStatus::None) => Entry::None,
        },
        wait_event_type: g.wait.as_ref().and_then(|w| w.class.clone()),
        wait_event: g.wait.as_ref().and_then(|w| w.event.clone()),
        wait_event_info: g.variables.wait_event_info,
        interrupts: json::interrupts(&g.variables),
        pending: j.pending.iter().map(pending_form).collect(),
        stuck: j.is_stuck(),
        cause: j.cause.clone(),
        process: process(g, j),
        signals: json::signal_sets(&g.signals),
    }
}

fn backend(g: &Glance, server: &ServerFacts) -> Backend {
    let status = g.status.as_ref().ok();
    Backend {
        backend_type: g.backend_type,
        server_version: server.version.clone(),
        data_directory: server.data_directory.as_deref().map(text_of),
        database: g.database.clone(),
        user: g.user.clone(),
        client: status.and_then(|s| s.client).map(|c| c.to_string()),
        application_name: status.and_then(|s| s.application_name.clone()),
        state: status.and_then(|s| s.activity),
        query: status.and_then(|s| s.query.clone()),
        container: server.container.clone(),
        pid_in_container: (g.inner_pid != g.pid).then_some(g.inner_pid),
        postmaster_pid: server.postmaster,
        postmaster_command: None,
        title: Some(g.title.clone()).filter(|t| !t.is_empty()),
    }
}

fn process(g: &Glance, j: &Judgement) -> ListedProcess {
    let p = g.process.clone();
    ListedProcess {
        state: p.state,
        wait_channel: p.wait_channel,
        descriptor: p.syscall.as_ref().and_then(|c| c.descriptor),
        tracer: p.tracer.filter(|pid| *pid != 0),
        syscall: p.syscall.map(|c| c.name),
        threads: p.threads,
        cpu_percent: j.cpu_percent,
        cpu_ms: g.cpu_time.map(millis),
        tracer_name: p.tracer_name,
    }
}

fn pending_form(p: &Pending) -> forms::Pending {
    forms::Pending {
        interrupt: p.what,
        arrived: p.arrived,
        ignored_ms_at_least: p.at_least.map(millis),
        ignored_ms_at_most: p
            .at_most
            .filter(|_| p.what != Interrupt::Nothing)
            .map(millis),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assess::Cause;
    use crate::postgres::{Activity, BackendType, Wait};
    use crate::snapshot::{ProcessFacts, Signals, Variables};

    fn row(pid: i32, query: &str, change: impl FnOnce(&mut Row)) -> Row {
        let seconds = |n: i64| Some(Timestamp(n * 1_000_000));
        let mut row = Row {
            server: 0,
            glance: Glance {
                at: Timestamp(900_000_000),
                clock: Duration::ZERO,
                pid,
                start_time: 1,
                inner_pid: pid,
                has_postmaster: true,
                backend_type: BackendType::Client,
                worker_type: None,
                title: String::new(),
                user: Some("alice".into()),
                database: Some("shop".into()),
                leader: None,
                status: Ok(Status {
                    started: seconds(1),
                    transaction_start: seconds(60),
                    query_start: seconds(60),
                    state_change: seconds(60),
                    database: Some(16384),
                    user: Some(10),
                    client: None,
                    activity: Some(Activity::Active),
                    application_name: Some("a report".into()),
                    query: Some(query.into()),
                }),
                wait: None,
                variables: Variables::default(),
                signals: Signals::default(),
                process: ProcessFacts::default(),
                cpu_time: Some(Duration::from_millis(12_300)),
                server_stopping: None,
                stage: None,
                stream: None,
                archiving: None,
                waiters: Vec::new(),
                waits_for_spinlock: None,
            },
            judgement: Judgement::default(),
        };
        change(&mut row);
        row
    }

    fn listing(rows: Vec<Row>) -> Listing {
        Listing {
            servers: vec![ServerFacts {
                postmaster: Some(811),
                inner_postmaster: Some(811),
                version: Some("15.18".into()),
                version_known: true,
                data_directory: Some("/data".into()),
                port: Some(5432),
                cluster_name: String::new(),
                container: None,
            }],
            read: vec![rows.len() + 1],
            rows,
            at: Timestamp(900_000_000),
            unreadable: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn stuck(row: &mut Row) {
        row.judgement.pending = vec![Pending {
            what: Interrupt::Cancel,
            arrived: true,
            at_least: Some(Duration::from_millis(104)),
            at_most: Some(Duration::from_secs(840)),
        }];
        row.judgement.cause = Some(Cause {
            code: "cpu-loop",
            summary: "it computes and does not check for interrupts".into(),
            evidence: vec!["it used 98 % of a processor between two glances".into()],
        });
    }

    fn many() -> Listing {
        let long = "SELECT *\n  FROM orders\tJOIN customers USING (customer_id) WHERE total > 100";
        let checkpointer = |row: &mut Row| {
            row.glance.backend_type = BackendType::Checkpointer;
            (row.glance.user, row.glance.database) = (None, None);
            row.glance.wait = Some(Wait {
                class: Some("Activity".into()),
                event: Some("CheckpointerMain".into()),
                info: 0x0500_0004,
            });
            row.glance.status = Err(NoStatus::None);
        };
        listing(vec![
            row(4711, long, stuck),
            row(4712, "SELECT 1", |row| row.glance.database = None),
            row(4713, "", checkpointer),
        ])
    }

    #[test]
    fn every_width_is_kept_and_what_matters_stays() {
        for columns in 50..250 {
            let screen = Screen {
                columns: Some(columns),
                ..Screen::PLAIN
            };
            let text = text(&many(), &screen, None);
            let longest = text.lines().map(|l| l.chars().count()).max();
            assert!(longest <= Some(columns), "{columns}:\n{text}");
            for word in [
                "4711",
                "active",
                "14 min",
                "cancel",
                "SELECT",
                "cpu-loop",
                "checkpointer",
            ] {
                assert!(text.contains(word), "no {word} in {columns}:\n{text}");
            }
        }
    }

    #[test]
    fn a_character_may_take_two_columns_or_none() {
        assert_eq!(shorten("注文の表", 8), "注文の表");
        assert_eq!(shorten("注文の表", 7), "注文の…");
        assert_eq!(shorten("注文の表", 6), "注文…");
        assert_eq!(shorten("e\u{301}e\u{301}", 2), "e\u{301}e\u{301}");
        assert_eq!(shorten("ab", 0), "");
        let wide = |row: &mut Row| row.glance.database = Some("注文".into());
        let rows = vec![row(1, &"表".repeat(99), wide), row(2, "zzz", |_| ())];
        for columns in 50..250 {
            let screen = Screen {
                columns: Some(columns),
                ..Screen::PLAIN
            };
            let text = text(&listing(rows.clone()), &screen, None);
            let lines = text.lines().map(display_width);
            assert!(lines.max() <= Some(columns), "{columns}:\n{text}");
            let begins = |what: char| {
                let mut lines = text.lines();
                let line = lines.find(|l| l.contains(what)).expect("a statement");
                display_width(line.split(what).next().unwrap_or_default())
            };
            assert_eq!(begins('表'), begins('z'), "{columns}:\n{text}");
        }
    }

    #[test]
    fn in_a_pipe_nothing_is_cut() {
        let text = text(&many(), &Screen::PLAIN, None);
        let query = "SELECT * FROM orders JOIN customers USING (customer_id) WHERE total > 100";
        assert!(text.contains(query), "{text}");
        assert!(
            text.contains("oid 16384") && text.contains("3 of 4 processes"),
            "{text}"
        );
        assert!(!text.contains('…'), "{text}");
    }

    #[test]
    fn a_screen_has_an_end() {
        let text = text(&many(), &Screen::PLAIN, Some(4));
        assert_eq!(text.lines().count(), 4);
        assert!(text.ends_with("more lines\n"), "{text}");
    }

    #[test]
    fn what_a_session_calls_itself_cannot_drive_the_terminal() {
        let evil = |row: &mut Row| {
            row.glance.user = Some("\x1b[2J".into());
            row.glance.database = Some("a\nb".into());
        };
        let text = text(
            &listing(vec![row(1, "\x1b]0;x\x07", evil)]),
            &Screen::PLAIN,
            None,
        );
        assert!(
            !text.contains(['\x1b', '\x07']) && text.lines().count() == 3,
            "{text}"
        );
    }

    #[test]
    fn times_as_people_say_them() {
        let said = |s: f64| human(Duration::from_secs_f64(s));
        assert_eq!(said(0.04), "40 ms");
        assert_eq!(said(59.9), "59 s");
        assert_eq!(said(841.0), "14 min");
        assert_eq!(said(7500.0), "2 h 5 min");
        assert_eq!(said(273_600.0), "3 d 4 h");
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!(text(&listing(Vec::new()), &Screen::PLAIN, None), "");
    }
}
