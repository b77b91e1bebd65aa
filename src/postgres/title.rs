//! The process title that PostgreSQL shows in ps (src/backend/utils/misc/ps_status.c).

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
            title.user = Some(user.to_owned());
            title.database = Some(database.to_owned());
            title.client = Some(host.to_owned());
        }
        Some(title)
    }
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
        let t = Title::parse(b"postgres: checkpointer ", "").unwrap();
        assert_eq!((t.text.as_str(), t.user), ("checkpointer", None));
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
