//! `pgpoke list`: all backends of all servers on the machine, and which of them are stuck. Stops none.

use std::collections::{HashMap, HashSet};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use super::exit::{End, Exit};
use super::{ListArgs, messages, say};
use crate::assess::likely::{Ledger, asks_for_another_glance, is_deaf};
use crate::assess::stopping::stage;
use crate::memory::ProcessMemory;
use crate::postgres::status::Timestamp;
use crate::postgres::{Activity, BackendType, Member, Server, Servers, Sweep, locks, wait_class};
use crate::process::Process;
use crate::process::permission::Permission;
use crate::render::list::{self, Listing, Row};
use crate::render::screen::Screen;
use crate::snapshot::{Glance, ServerFacts};
use crate::sys::HeldSignals;

/// The time between two glances at what may be stuck: from the first at anyone, and from the last.
const BETWEEN_GLANCES: Duration = Duration::from_millis(100);
const LEAST_BETWEEN_GLANCES: Duration = Duration::from_millis(50);

/// How much of a statement is read: for a table what no screen has room for, for JSON what a report needs.
const QUERY_IN_TABLE: usize = 1 << 10;
const QUERY_IN_JSON: usize = 16 << 10;

/// Reads a state, as `pg_stat_activity` words it.
pub fn parse_state(text: &str) -> Result<Activity, String> {
    let mut all = Activity::NAMED.into_iter();
    let words = || Activity::NAMED.map(|a| format!("'{a}'")).join(", ");
    all.find(|a| a.to_string() == text)
        .ok_or_else(|| format!("expected one of {}", words()))
}

/// Runs the command.
pub fn run(args: &ListArgs) -> anyhow::Result<Exit> {
    let mut watched = Watched::default();
    let Some(pause) = args.watch else {
        let round = watched.look(args);
        return Ok(tell(args, &round).end.exit());
    };
    // So that a Ctrl-C is taken between two rounds, never in the middle of a line.
    let interrupts = HeldSignals::hold(&[libc::SIGINT], &[]);
    loop {
        let round = watched.look(args);
        let told = match std::io::stdout().is_terminal() && !args.json {
            true => refresh(args, &round),
            false => tell(args, &round),
        };
        if told.end != End::Listed || !told.heard || interrupts.take(pause).is_some() {
            return Ok(told.end.exit());
        }
    }
}

/// What is kept from one round to the next.
#[derive(Default)]
struct Watched {
    servers: Servers,
    ledger: Ledger,
}

/// What came of printing one round.
struct Told {
    end: End,
    /// Somebody may have read it.
    heard: bool,
}

/// What one round found.
struct Round {
    listing: Listing,
    sweep: Sweep,
}

impl Watched {
    fn look(&mut self, args: &ListArgs) -> Round {
        let most_query = if args.json {
            QUERY_IN_JSON
        } else {
            QUERY_IN_TABLE
        };
        let start = Instant::now();
        let mut rows = Vec::new();
        let sweep = self.servers.sweep(|member| {
            let glance = glance(member, most_query);
            rows.push(Row {
                server: member.server,
                glance,
                judgement: Default::default(),
            });
        });
        let servers = &self.servers.all;
        learn_stages(&mut rows);
        learn_waiters(&mut rows);
        let mut read = vec![0; servers.len()];
        for row in &rows {
            read[row.server] += 1;
        }
        learn_names(&mut rows);
        let unknown = rows.iter().filter(|row| args.cannot_be_told(row)).count();
        rows.retain(|row| args.wants(row));

        for row in &mut rows {
            row.judgement = self.ledger.judge(&row.glance);
        }
        let open =
            |row: &Row| asks_for_another_glance(&row.glance) && row.judgement.cause.is_none();
        if rows.iter().any(open) {
            let left = BETWEEN_GLANCES.saturating_sub(start.elapsed());
            std::thread::sleep(left.max(LEAST_BETWEEN_GLANCES));
            rows.retain_mut(|row| {
                if !open(row) {
                    return true;
                }
                let Some(mut again) = again(&servers[row.server], row, most_query) else {
                    return false; // It has ended.
                };
                // None comes back that was gone.
                again.stage = row.glance.stage;
                again.waiters = std::mem::take(&mut row.glance.waiters);
                again.waiters.retain(|pid| waits_for(*pid, again.inner_pid));
                row.glance = again;
                row.judgement = self.ledger.judge(&row.glance);
                true
            });
            learn_names(&mut rows);
        }
        let keys: HashSet<_> = rows.iter().map(|row| row.glance.key()).collect();
        self.ledger.keep_only(&keys);
        if args.stuck {
            rows.retain(|row| row.judgement.is_stuck());
        }
        rows.sort_by_key(|row| age(&row.glance));
        let mut warnings = warnings(&sweep, servers, &read);
        if unknown > 0 {
            warnings.push(format!(
                "{unknown} left out, whose database or user has no known name: their number (oid) can be given instead"
            ));
        }
        Round {
            listing: Listing {
                servers: servers.iter().map(ServerFacts::from).collect(),
                read,
                rows,
                at: Timestamp::now(),
                unreadable: sweep.denied.clone(),
                warnings,
            },
            sweep,
        }
    }
}

/// What is in its state for the longest time comes first; what has no state, last.
fn age(g: &Glance) -> (bool, Timestamp) {
    let since = g.since();
    let started = || g.status.as_ref().ok()?.started;
    let at = since.or_else(started).unwrap_or(Timestamp(i64::MAX));
    (since.is_none(), at)
}

fn glance(member: &Member, most_query: usize) -> Glance {
    let mut glance = Glance::of(member, most_query);
    if asks_for_another_glance(&glance) || glance.is_told_by_its_call() {
        glance.look_closer(member.process, member.memory);
        glance.waits_for_spinlock = member.of.waits_for_spinlock(member.process, member.memory);
    }
    glance
}

/// How far servers have come that are being stopped.
fn learn_stages(rows: &mut [Row]) {
    let stopping = |row: &&Row| row.glance.server_stopping == Some(true);
    let servers: HashSet<usize> = rows.iter().filter(stopping).map(|r| r.server).collect();
    for server in servers {
        let all = rows.iter().filter(|row| row.server == server);
        let all: Vec<&Glance> = all.map(|row| &row.glance).collect();
        let stage = stage(&all);
        for row in rows.iter_mut().filter(|row| row.server == server) {
            row.glance.stage = stage;
        }
    }
}

/// Who waits for sessions that do not hear what would end them. There are few, if any.
fn learn_waiters(rows: &mut [Row]) {
    const MOST_ASKED: usize = 100;
    let deaf = |row: &&Row| is_deaf(&row.glance);
    let deaf: HashSet<_> = (rows.iter().filter(deaf))
        .map(|row| (row.server, row.glance.inner_pid))
        .collect();
    let in_queue = |row: &&Row| {
        let wait = row.glance.wait.as_ref();
        deaf.iter().any(|(server, _)| *server == row.server)
            && wait.is_some_and(|wait| wait.is_of(wait_class::LOCK))
    };
    let mut found: HashMap<(usize, i32), Vec<i32>> = HashMap::new();
    for row in rows.iter().filter(in_queue).take(MOST_ASKED) {
        for blocker in blockers_of(row.glance.pid) {
            let of_it = found.entry((row.server, blocker)).or_default();
            of_it.push(row.glance.pid);
        }
    }
    for row in rows.iter_mut() {
        let key = (row.server, row.glance.inner_pid);
        if deaf.contains(&key) {
            row.glance.waiters = found.remove(&key).unwrap_or_default();
        }
    }
}

fn blockers_of(pid: i32) -> Vec<i32> {
    let process = Process::open(pid).ok();
    process
        .and_then(|p| locks::blockers_of(&p))
        .unwrap_or_default()
}

fn waits_for(pid: i32, inner_pid: i32) -> bool {
    blockers_of(pid).contains(&inner_pid)
}

/// Another glance at the same process; none where it has ended.
fn again(server: &Server, row: &Row, most_query: usize) -> Option<Glance> {
    let process = Process::open(row.glance.pid).ok()?;
    let status = process.status().ok()?;
    let member = Member {
        server: row.server,
        of: server,
        process: &process,
        inner_pid: row.glance.inner_pid,
        memory: &ProcessMemory::open(row.glance.pid),
        status: &status,
    };
    let same = process.start_time() == row.glance.start_time;
    let glance = glance(&member, most_query);
    (same && !process.has_ended()).then_some(glance)
}

/// Names that other processes of the same server tell. As long as a session is in a database, nobody can rename that
/// (RenameDatabase(), src/backend/commands/dbcommands.c), so that its name is everybody's. Roles can be renamed
/// meanwhile; only a parallel worker is of the very session that its leader is of.
fn learn_names(rows: &mut [Row]) {
    let mut databases: HashMap<(usize, u32), Option<String>> = HashMap::new();
    let mut users = HashMap::new();
    for row in rows.iter() {
        let g = &row.glance;
        let Ok(status) = &g.status else { continue };
        if let (Some(name), Some(oid)) = (&g.database, status.database) {
            let known = databases.entry((row.server, oid));
            let known = known.or_insert_with(|| Some(name.clone()));
            // Two names for one: a title lies.
            if known.as_ref() != Some(name) {
                *known = None;
            }
        }
        if let (Some(name), Some(oid)) = (&g.user, status.user) {
            users.insert((row.server, g.inner_pid), (oid, name.clone()));
        }
    }
    for row in rows.iter_mut() {
        let g = &mut row.glance;
        let Ok(status) = &g.status else { continue };
        if let (None, Some(oid)) = (&g.database, status.database) {
            g.database = databases.get(&(row.server, oid)).cloned().flatten();
        }
        if let (None, Some(leader), Some(oid)) = (&g.user, g.leader, status.user) {
            let of_leader = users.get(&(row.server, leader));
            g.user = of_leader.filter(|(o, _)| *o == oid).map(|(_, n)| n.clone());
        }
    }
}

impl ListArgs {
    fn wants(&self, row: &Row) -> bool {
        let g = &row.glance;
        let status = g.status.as_ref().ok();
        let is = |wanted: &[String], name: &Option<String>, oid: Option<u32>| {
            wanted.is_empty()
                || wanted.iter().any(|w| {
                    Some(w) == name.as_ref() || w.parse().is_ok_and(|w: u32| Some(w) == oid)
                })
        };
        let state = status.and_then(|s| s.activity);
        let age = g.since().map(|since| since.until(g.at));
        is(&self.database, &g.database, status.and_then(|s| s.database))
            && is(&self.user, &g.user, status.and_then(|s| s.user))
            && (self.state.is_empty() || state.is_some_and(|s| self.state.contains(&s)))
            && self
                .older_than
                .is_none_or(|least| age.is_some_and(|a| a >= least))
    }

    /// Whether it is left out for a name that is not known, and not for one that is another.
    fn cannot_be_told(&self, row: &Row) -> bool {
        let g = &row.glance;
        let status = g.status.as_ref().ok();
        let serves = matches!(g.backend_type, BackendType::Client | BackendType::WalSender);
        let nameless = |wanted: &[String], name: &Option<String>, oid: Option<u32>| {
            serves && !wanted.is_empty() && name.is_none() && oid.is_some()
        };
        let nameless = nameless(&self.database, &g.database, status.and_then(|s| s.database))
            || nameless(&self.user, &g.user, status.and_then(|s| s.user));
        nameless && !self.wants(row)
    }
}

/// What could not be told.
fn warnings(sweep: &Sweep, servers: &[Server], read: &[usize]) -> Vec<String> {
    let mut warnings = Vec::new();
    let processes = |n: usize| match n {
        1 => "1 process".to_owned(),
        n => format!("{n} processes"),
    };
    if !sweep.denied.is_empty() {
        warnings.push(format!(
            "no permission to look into {}, by name PostgreSQL's",
            processes(sweep.denied.len())
        ));
    }
    if !sweep.unclear.is_empty() {
        warnings.push(format!(
            "{} with a server's executable, of which server is not known",
            processes(sweep.unclear.len())
        ));
    }
    if sweep.left_out > 0 {
        warnings.push(format!("{} more are left out", processes(sweep.left_out)));
    }
    let unknown = servers.iter().zip(read);
    for (server, _) in unknown.filter(|(s, read)| **read > 0 && s.layout().is_none()) {
        let version = server.version.as_ref().map_or("?", |v| &v.text);
        warnings.push(format!(
            "this version of pgpoke does not know PostgreSQL {version}: what its backends do is not told"
        ));
    }
    warnings
}

/// Prints one round.
fn tell(args: &ListArgs, round: &Round) -> Told {
    let Round { listing, sweep } = round;
    let nothing_read = listing.read.iter().all(|n| *n == 0);
    let denied = nothing_read && !sweep.denied.is_empty();
    let heard = say(&match args.json {
        true => list::json(listing, args.watch.is_some()),
        false => list::text(listing, &Screen::stdout(), None),
    });
    match (denied, hint(sweep)) {
        (true, hint) => {
            let (detail, step) = hint.unzip();
            let message = &listing.warnings[0];
            messages::error(message, detail.as_deref(), step.as_deref());
            let end = End::AllDenied;
            return Told { end, heard };
        }
        (false, hint) => {
            let mut warnings = listing.warnings.clone();
            if let (Some(first), Some((_, step))) = (warnings.first_mut(), hint) {
                *first = format!("{first}; {step}");
            }
            messages::warnings(&warnings);
        }
    }
    if listing.rows.is_empty() && !args.json {
        say_nothing_found(args, sweep, nothing_read);
    }
    let end = End::Listed;
    Told { end, heard }
}

/// Why a process cannot be looked into, and what to do about it.
fn hint(sweep: &Sweep) -> Option<(String, String)> {
    let process = Process::open(*sweep.denied.first()?).ok()?;
    let permission = Permission::examine(&process);
    Some((permission.to_string(), permission.next_step()))
}

fn say_nothing_found(args: &ListArgs, sweep: &Sweep, nothing_read: bool) {
    let text = if nothing_read {
        match sweep.denied_others {
            0 => "no PostgreSQL server runs here".to_owned(),
            n => format!(
                "no PostgreSQL server was found; {n} processes of others could not be looked into, and none calls itself one"
            ),
        }
    } else if args.stuck {
        "no backend ignores a pending cancel, terminate or barrier, or holds others up".to_owned()
    } else {
        "no backend is as asked for".to_owned()
    };
    messages::progress(&text);
}

/// Prints one round over the one before.
fn refresh(args: &ListArgs, round: &Round) -> Told {
    let text = list::text(&round.listing, &Screen::stdout(), lines());
    if text.is_empty() {
        say("\x1b[H\x1b[2J");
        return tell(args, round);
    }
    // From the top left corner, each line to its end, and nothing below: this does not flicker.
    let lines = text.replace('\n', "\x1b[K\n");
    let heard = say(&format!("\x1b[H{lines}\x1b[J"));
    let end = End::Listed;
    Told { end, heard }
}

/// How many lines the terminal has room for: the last one is the cursor's.
fn lines() -> Option<usize> {
    let size = terminal_size::terminal_size_of(std::io::stdout());
    size.map(|(_, lines)| usize::from(lines.0).saturating_sub(1))
}
