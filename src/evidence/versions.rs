//! Which code it is: what nobody can do without who wants to read a stack or a core file elsewhere.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use super::{Material, theirs};
use crate::address::Avma;
use crate::image::{BuildId, build_id_in_memory};
use crate::postgres::Backend;

/// The most files that are listed.
const MOST: usize = 1000;

/// A file with code that is mapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedImage {
    path: PathBuf,
    start: Avma,
    build_id: Option<BuildId>,
    deleted: bool,
}

/// All of them, by what is in memory: the file on disk may be another one by now.
pub fn mapped_images(backend: &Backend) -> Vec<MappedImage> {
    let mappings = backend.space.mappings();
    let mut found: BTreeMap<(u32, u32, u64), MappedImage> = BTreeMap::new();
    for mapping in mappings.iter().filter(|m| m.executable && m.has_file()) {
        if found.len() >= MOST || found.contains_key(&mapping.file) {
            continue;
        }
        let first = mappings
            .iter()
            .find(|m| m.file == mapping.file && m.file_offset == 0);
        let start = first.map_or(mapping.start, |m| m.start);
        let image = MappedImage {
            path: mapping.path.clone(),
            start,
            build_id: first.and_then(|m| build_id_in_memory(backend.memory, m.start)),
            deleted: mapping.deleted,
        };
        found.insert(mapping.file, image);
    }
    let mut all: Vec<MappedImage> = found.into_values().collect();
    all.sort_by_key(|image| image.start);
    all
}

/// Versions and build-ids.
pub fn versions(m: &Material) -> Result<String, String> {
    let mut out = String::new();
    let line = |out: &mut String, what: &str, text: &str| {
        let _ = writeln!(out, "{what:<12} {text}");
    };
    line(&mut out, "pgpoke", env!("CARGO_PKG_VERSION"));
    line(
        &mut out,
        "PostgreSQL",
        m.server_version.as_deref().unwrap_or("unknown"),
    );
    if let Ok(uname) = nix::sys::utsname::uname() {
        // Without the name of the machine.
        let parts = [
            uname.sysname(),
            uname.release(),
            uname.version(),
            uname.machine(),
        ];
        let text: Vec<_> = parts.iter().map(|p| p.to_string_lossy()).collect();
        line(&mut out, "kernel", &text.join(" "));
    }
    let release = ["/etc/os-release", "/usr/lib/os-release"]
        .iter()
        .find_map(|path| theirs::read(&m.process, path.as_ref(), 64 << 10).ok());
    let system = release.as_deref().and_then(|text| {
        let value = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="))?;
        Some(value.trim_matches('"').to_owned())
    });
    line(&mut out, "system", system.as_deref().unwrap_or("unknown"));
    let _ = writeln!(
        out,
        "\nfiles with code: where they begin in memory, their build-ids, and where they lay"
    );
    for image in &m.images {
        let id = image.build_id.as_ref().map_or_else(|| "-".to_owned(), hex);
        let deleted = if image.deleted {
            "  (deleted or replaced since)"
        } else {
            ""
        };
        let _ = writeln!(
            out,
            "{:<18} {id:<40} {}{deleted}",
            image.start.to_string(),
            image.path.display()
        );
    }
    Ok(out)
}

fn hex(id: &BuildId) -> String {
    id.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Libraries that run code in another language than PostgreSQL's own, by how their names begin.
const LANGUAGES: [(&str, &str); 16] = [
    ("plpgsql", "PL/pgSQL"),
    ("plpython", "PL/Python"),
    ("libpython", "Python"),
    ("plperl", "PL/Perl"),
    ("libperl", "Perl"),
    ("pltcl", "PL/Tcl"),
    ("libtcl", "Tcl"),
    ("plv8", "PL/v8"),
    ("pljs", "PL/JS"),
    ("pllua", "PL/Lua"),
    ("plr", "PL/R"),
    ("plrust", "PL/Rust"),
    ("libpljava", "PL/Java"),
    ("libjvm", "Java"),
    ("plsh", "PL/sh"),
    ("libmono", "Mono"),
];

fn language(file: &str) -> Option<&'static str> {
    let is_of = |prefix: &str| {
        let rest = file.strip_prefix(prefix);
        rest.is_some_and(|rest| {
            !rest.starts_with(|c: char| c.is_ascii_alphabetic()) || rest.starts_with("u.")
        })
    };
    LANGUAGES
        .iter()
        .find(|(prefix, _)| is_of(prefix))
        .map(|(_, language)| *language)
}

/// What procedural languages are loaded, and whether one is on the stack.
pub fn languages(m: &Material) -> Result<String, String> {
    let name = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let mut out = String::new();
    for image in &m.images {
        let file = name(&image.path.to_string_lossy());
        if let Some(language) = language(&file) {
            let runs = m.stack_modules.iter().any(|module| name(module) == file);
            let where_it_is = if runs {
                "on the stack: it runs now"
            } else {
                "loaded, and not on the stack"
            };
            let _ = writeln!(
                out,
                "{language:<12} {where_it_is} ({})",
                image.path.display()
            );
        }
    }
    if out.is_empty() {
        out.push_str("no library of a procedural language is loaded in this backend\n");
    }
    out.push_str(
        "\nwhich of them the database has: pg_languages.csv and pg_extensions.csv, with --dsn\n",
    );
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_by_their_libraries() {
        for (file, expected) in [
            ("plpython3.so", Some("PL/Python")),
            ("libpython3.11.so.1.0", Some("Python")),
            ("plpgsql.so", Some("PL/pgSQL")),
            ("plperl.so", Some("PL/Perl")),
            ("plperlu.so", Some("PL/Perl")),
            ("plv8-3.2.so", Some("PL/v8")),
            ("plr.so", Some("PL/R")),
            ("plrandom.so", None),
            ("postgres", None),
            ("", None),
        ] {
            assert_eq!(language(file), expected, "{file}");
        }
    }
}
