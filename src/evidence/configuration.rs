//! The files that the server is configured by, read as it reads them.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::redact::passwords;
use super::{Material, theirs};

/// The most that is read of a configuration file.
pub const MOST: u64 = 1 << 20;

/// So deep may files include others (`CONF_FILE_MAX_DEPTH`, guc-file.l), and so many files are read.
const DEEPEST: usize = 10;
const MOST_FILES: usize = 200;

/// Where the server's data is.
pub fn data_directory(m: &Material) -> Result<&Path, String> {
    Ok(m.data_directory
        .as_deref()
        .ok_or("its data directory is not known")?)
}

/// A setting's value, as far as it may be told.
pub fn shown(m: &Material, name: &str, value: &str) -> String {
    let value = match m.redactor.as_ref() {
        Some(r) => r.setting(name, value),
        None => value.to_owned(),
    };
    let secret = ["passphrase", "passwd", "secret", "token"]
        .iter()
        .any(|word| name.contains(word));
    if secret && !matches!(value.as_str(), "" | "on" | "off") {
        return "[password]".to_owned();
    }
    // With its name, which may say that it is one.
    let line = passwords(&format!("{name} = {value}"));
    line.split_once(" = ")
        .map_or(value, |(_, value)| value.to_owned())
}

/// What `postgresql.conf` sets, and what the files do that it includes.
pub fn configuration(m: &Material) -> Result<String, String> {
    let path = m
        .settings
        .get("config_file")
        .filter(|path| !path.is_empty());
    written(m, path.ok_or("which file it is could not be read")?.into())
}

/// What `ALTER SYSTEM` has set.
pub fn auto_configuration(m: &Material) -> Result<String, String> {
    written(m, data_directory(m)?.join("postgresql.auto.conf"))
}

fn written(m: &Material, path: PathBuf) -> Result<String, String> {
    let mut files = Files {
        m,
        out: String::new(),
        left: MOST_FILES,
    };
    files.read(&path, 0)?;
    Ok(format!(
        "without comments; of two that set the same the later holds\n\n{}",
        files.out
    ))
}

/// What is read, file by file.
struct Files<'m> {
    m: &'m Material,
    out: String,
    left: usize,
}

impl Files<'_> {
    fn read(&mut self, path: &Path, depth: usize) -> Result<(), String> {
        if depth > DEEPEST || self.left == 0 {
            return Err(format!("{}: too many files include others", path.display()));
        }
        self.left -= 1;
        let text = theirs::read(self.m.reader(), path, MOST)?;
        self.say(&format!("# {}", path.display()));
        for line in text.lines() {
            let Some((name, value)) = setting_in(line) else {
                continue;
            };
            let Some(files) = self.included(path, name, value) else {
                self.say(&format!("{name} = {}", shown(self.m, name, value)));
                continue;
            };
            self.say(&format!("# {name} '{value}'"));
            let read =
                files.and_then(|files| files.iter().try_for_each(|f| self.read(f, depth + 1)));
            if let Err(why) = read {
                self.say(&format!("# {why}"));
            }
            self.say(&format!("# {}, further", path.display()));
        }
        Ok(())
    }

    /// The files that a line includes, if it does that; their names are relative to the file that it stands in.
    fn included(
        &self,
        path: &Path,
        name: &str,
        value: &str,
    ) -> Option<Result<Vec<PathBuf>, String>> {
        let place = path.parent().unwrap_or(Path::new("/")).join(value);
        match name.to_ascii_lowercase().as_str() {
            "include" | "include_if_exists" => Some(Ok(vec![place])),
            "include_dir" => Some(
                theirs::list(self.m.reader(), &place, MOST_FILES).map(|names| {
                    let names = names.into_iter().filter(|n| is_configuration(n));
                    names.map(|n| place.join(n)).collect()
                }),
            ),
            _ => None,
        }
    }

    fn say(&mut self, line: &str) {
        // The names of files stay, but one may hold a host's.
        let line = match &self.m.redactor {
            Some(r) if line.starts_with('#') => r.text(line),
            _ => line.to_owned(),
        };
        let _ = writeln!(self.out, "{line}");
    }
}

/// Which files of a directory are read (`GetConfFilesInDir`, conffiles.c).
fn is_configuration(name: &str) -> bool {
    name.ends_with(".conf") && !name.starts_with('.') && name.len() > ".conf".len()
}

/// `name = value # comment`, or `name value` (guc-file.l). A value in quotes may hold a `#`.
fn setting_in(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.')))?;
    let (name, value) = line.split_at(end);
    let value = value
        .trim_start()
        .strip_prefix('=')
        .unwrap_or(value)
        .trim_start();
    let value = match value.strip_prefix('\'') {
        Some(_) => quoted(value),
        None => value.split('#').next().unwrap_or("").trim_end(),
    };
    (!name.is_empty()).then_some((name, value))
}

/// What is between the quotes; a quote is doubled, or follows a backslash.
fn quoted(value: &str) -> &str {
    let mut before = ' ';
    let mut inner = value.char_indices().skip(1).peekable();
    while let Some((at, c)) = inner.next() {
        if c == '\'' && before != '\\' {
            match inner.peek() {
                Some((_, '\'')) => {
                    inner.next();
                }
                _ => return &value[1..at],
            }
        }
        before = if before == '\\' { ' ' } else { c };
    }
    &value[1..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_as_the_server_reads_them() {
        for (line, expected) in [
            ("port = 5432", Some(("port", "5432"))),
            ("  fsync off # really", Some(("fsync", "off"))),
            (
                "a.b = 'it''s # no comment' # one",
                Some(("a.b", "it''s # no comment")),
            ),
            (r"x = 'a\'b'", Some(("x", r"a\'b"))),
            ("x = 'open", Some(("x", "open"))),
            ("x=1", Some(("x", "1"))),
            ("x = ''", Some(("x", ""))),
            ("# port = 1", None),
            ("", None),
            ("ä = 1", None),
        ] {
            assert_eq!(setting_in(line), expected, "{line}");
        }
    }
}
