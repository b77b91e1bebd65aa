//! The process title that PostgreSQL shows in ps (src/backend/utils/misc/ps_status.c).

use super::BackendType;

/// What a client backend's title tells: `postgres: [cluster: ]user database host activity`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Title {
    /// All of it behind `postgres: `.
    pub text: String,
    /// User, where the title can only be read one way.
    pub user: Option<String>,
    /// Database, likewise.
    pub database: Option<String>,
    /// `[local]`, or address and port as `192.0.2.7(51234)`.
    pub client: Option<String>,
}

impl Title {
    /// Reads a command line. `cluster` is the server's `cluster_name`.
    ///
    /// Names may hold blanks; a title that could be read in two ways tells nothing of them.
    pub fn parse(command_line: &[u8], cluster: &str) -> Option<Self> {
        let text = String::from_utf8_lossy(command_line);
        let text = text.trim_end_matches(['\0', ' ']);
        let text = text.strip_prefix("postgres: ")?;
        let text = match text.strip_prefix(cluster) {
            Some(rest) if !cluster.is_empty() => rest.strip_prefix(": ").unwrap_or(text),
            _ => text,
        };
        let mut title = Title {
            text: text.to_owned(),
            ..Title::default()
        };
        let words: Vec<&str> = text.split(' ').collect();
        if let [user, database, host, _, ..] = words[..]
            && is_host(host)
            && !words[3..].iter().any(|word| is_host(word))
        {
            title.client = Some(host.to_owned());
            // A walsender's has its kind before the names; but a role may be called so, too.
            if user != "walsender" {
                title.user = Some(user.to_owned());
                title.database = Some(database.to_owned());
            }
        } else if let ["walsender", .., _] = words[..] {
            let mut hosts = words.iter().filter(|word| is_host(word));
            let host = hosts.next().filter(|_| hosts.next().is_none());
            title.client = host.map(|host| (*host).to_owned());
        }
        Some(title)
    }

    /// User and database of a process that is known to be of this kind; `in_database` is whether it is in one. More
    /// titles can be read in one way only then: those of kinds that bear a name of their kind, and those that
    /// `update_process_title = off` left without an activity.
    pub fn names(&self, kind: BackendType, in_database: Option<bool>) -> Names<'_> {
        let none = (None, None);
        match kind {
            BackendType::Client => two_names(&self.text),
            // Followed by a database, unless it replicates all of the server (BackendInitialize(),
            // src/backend/postmaster/postmaster.c; 17 and later: src/backend/tcop/backend_startup.c).
            BackendType::WalSender => match (self.text.strip_prefix("walsender "), in_database) {
                (Some(rest), Some(true)) => two_names(rest),
                (Some(rest), Some(false)) => (before_host(rest), None),
                _ => none,
            },
            // What comes behind is the whole name (do_autovacuum(), src/backend/postmaster/autovacuum.c).
            BackendType::AutovacuumWorker if in_database == Some(true) => {
                let name = self.text.strip_prefix("autovacuum worker").map(str::trim);
                (None, name.filter(|name| !name.is_empty()))
            }
            _ => none,
        }
    }

    /// The leader of a parallel worker, as the server knows it (ParallelWorkerMain() and its kin,
    /// src/backend/access/transam/parallel.c).
    pub fn leader(&self) -> Option<i32> {
        let pid = self.text.strip_prefix("parallel worker for PID ")?;
        pid.trim().parse().ok()
    }
}

/// User and database.
type Names<'t> = (Option<&'t str>, Option<&'t str>);

/// `user database host …`, where it can be read in one way only.
fn two_names(text: &str) -> Names<'_> {
    let names = before_host(text).and_then(|names| names.split_once(' '));
    names
        .filter(|(_, database)| !database.contains(' '))
        .unzip()
}

/// What comes before the only word that names a host.
fn before_host(text: &str) -> Option<&str> {
    let mut hosts = text.split(' ').scan(0, |at, word| {
        let start = *at;
        *at += word.len() + 1;
        Some((start, word))
    });
    let (at, _) = hosts.find(|(_, word)| is_host(word))?;
    if hosts.any(|(_, word)| is_host(word)) {
        return None;
    }
    text[..at]
        .strip_suffix(' ')
        .filter(|names| !names.is_empty())
}

fn is_host(word: &str) -> bool {
    word == "[local]"
        || word.strip_suffix(')').is_some_and(|w| {
            w.split_once('(').is_some_and(|(_, port)| {
                !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_as_postgresql_writes_them() {
        let t = Title::parse(b"postgres: alice shop [local] SELECT\0\0  ", "").unwrap();
        assert_eq!(t.user.as_deref(), Some("alice"));
        assert_eq!(t.database.as_deref(), Some("shop"));
        assert_eq!(t.client.as_deref(), Some("[local]"));
        let t = Title::parse(
            b"postgres: main: bob shop 192.0.2.7(51234) idle in transaction",
            "main",
        )
        .unwrap();
        assert_eq!(t.user.as_deref(), Some("bob"));
        assert_eq!(t.client.as_deref(), Some("192.0.2.7(51234)"));
        for (line, client) in [
            (
                "postgres: walsender repl [local] streaming 0/1",
                Some("[local]"),
            ),
            (
                "postgres: walsender repl shop 192.0.2.7(1) START_REPLICATION",
                Some("192.0.2.7(1)"),
            ),
        ] {
            let t = Title::parse(line.as_bytes(), "").unwrap();
            assert_eq!((t.user, t.database), (None, None), "{line}");
            assert_eq!(t.client.as_deref(), client, "{line}");
        }
        let t = Title::parse(b"postgres: checkpointer ", "").unwrap();
        assert_eq!((t.text.as_str(), t.user), ("checkpointer", None));
    }

    #[test]
    fn names_of_a_known_kind() {
        use BackendType::{AutovacuumWorker, Checkpointer, Client, WalSender};
        let names = |text: &str, kind, in_database| {
            let line = format!("postgres: {text}");
            let title = Title::parse(line.as_bytes(), "").unwrap();
            let (user, database) = title.names(kind, in_database);
            (user.map(str::to_owned), database.map(str::to_owned))
        };
        let some = |user: &str, database: &str| {
            let name = |n: &str| (!n.is_empty()).then(|| n.to_owned());
            (name(user), name(database))
        };
        let rows = [
            ("alice shop [local] idle", Client, some("alice", "shop")),
            ("alice shop [local]", Client, some("alice", "shop")),
            (
                "alice shop 192.0.2.7(1) SELECT",
                Client,
                some("alice", "shop"),
            ),
            ("a b c [local] idle", Client, some("", "")),
            ("a b [local] [local] idle", Client, some("", "")),
            ("alice [local] idle", Client, some("", "")),
            ("[local] idle", Client, some("", "")),
            (
                "walsender repl shop [local] streaming 0/1",
                WalSender,
                some("repl", "shop"),
            ),
            ("walsender a b shop [local] idle", WalSender, some("", "")),
            (
                "autovacuum worker my shop",
                AutovacuumWorker,
                some("", "my shop"),
            ),
            (
                "autovacuum worker   shop",
                AutovacuumWorker,
                some("", "shop"),
            ),
            ("autovacuum worker", AutovacuumWorker, some("", "")),
            ("checkpointer a [local]", Checkpointer, some("", "")),
        ];
        for (text, kind, expected) in rows {
            assert_eq!(names(text, kind, Some(true)), expected, "{text}");
        }
        let physical = "walsender a b [local] streaming 0/1";
        assert_eq!(names(physical, WalSender, Some(false)), some("a b", ""));
        assert_eq!(names(physical, WalSender, None), some("", ""));
    }

    #[test]
    fn leaders_of_parallel_workers() {
        let leader = |text: &str| {
            let title = Title::parse(format!("postgres: {text}").as_bytes(), "");
            title.and_then(|t| t.leader())
        };
        assert_eq!(leader("parallel worker for PID 4711 "), Some(4711));
        assert_eq!(leader("parallel worker for PID x"), None);
        assert_eq!(leader("a b [local] idle"), None);
    }

    #[test]
    fn two_readings_are_none() {
        let t = Title::parse(b"postgres: a b c [local] idle", "").unwrap();
        assert_eq!((t.user, t.database), (None, None));
        let t = Title::parse(b"postgres: a b [local] [local] idle", "").unwrap();
        assert_eq!(t.user, None);
        assert_eq!(Title::parse(b"/usr/bin/postgres\0-D\0/data\0", ""), None);
    }
}
