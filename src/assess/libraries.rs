//! The libraries that a backend may be in, by the names of their files: one table, and one rule for each kind.
//!
//! What a rule says of a cancel is about an ERROR that jumps across the library's frames; what it says of a terminate, about
//! a process that ends from within one of its calls: `exit()` runs destructors and atexit(3) functions, and before them the
//! callbacks of the server and of extensions (`proc_exit()` in src/backend/storage/ipc/ipc.c), which may call the library
//! that never came back.
//!
//! | kind | a cancel | a terminate | who answers for its time |
//! |---|---|---|---|
//! | runtime | unsafe: locks, counters and clean-ups stay undone | risky: what it does at exit runs in the middle of a call | it does |
//! | C++ | unsafe: destructors are skipped | risky: likewise | whoever called it |
//! | client | risky: what it holds is not given back | risky: at exit it says good-bye on a connection that is in the middle of an answer, and may wait for one | it does |
//! | transport | as a client | as a client | the client or runtime above it, else it does |
//! | allocator | unsafe, by the check `allocator` | unsafe, by that check | whoever called it |
//! | mathematics | no objection: it holds nothing | no objection | whoever called it |
//! | any other | risky: what it holds is not given back | no objection; where it waits for a peer it is a client | whoever called it |

use crate::image::ModuleKind;
use crate::snapshot::{Frame, Handler, Snapshot};

/// What a library is to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It keeps state of its own across calls, which a jump would tear: a language's runtime, or a library with errors
    /// (exceptions) of its own.
    Runtime,
    /// What compiled C++ and Rust needs: nothing that could be stopped by means of its own.
    Cxx,
    /// It talks to someone else, and may wait for an answer for ever.
    Client,
    /// It does so on behalf of a client library or a runtime.
    Transport,
    /// It stands in for the C library's allocator: all of its code is part of it, with a name or without.
    Allocator,
    /// Mathematical functions: nothing is held.
    Mathematics,
}

/// One library.
#[derive(Debug, Clone, Copy)]
pub struct Library {
    /// How its file's name starts.
    pub file: &'static str,
    /// What it is called in a sentence.
    pub name: &'static str,
    /// What it is, and so which rule holds for it.
    pub kind: Kind,
    /// What its generated code is called, if it generates any: that has no file.
    pub generates: Option<&'static str>,
    /// What shows that it is of this kind.
    pub source: &'static str,
}

const fn row(
    file: &'static str,
    name: &'static str,
    kind: Kind,
    generates: Option<&'static str>,
    source: &'static str,
) -> Library {
    Library {
        file,
        name,
        kind,
        generates,
        source,
    }
}

/// PostgreSQL's own just-in-time compilation (src/backend/jit/llvm).
pub const LLVM_JIT: &str = "PostgreSQL's JIT (LLVM)";

use Kind::{Allocator, Client, Cxx, Mathematics, Runtime, Transport};

const FREETDS: &str = "FreeTDS (a client of SQL Server and Sybase)";
const CPLUSPLUS: &str = "the C++ runtime";
const UNWINDER: &str = "Itanium C++ ABI: exception handling";
const INTERPRETER: &str = "an interpreter: the state of its calls is on this stack";
const EXCEPTIONS: &str = "it reports errors by C++ exceptions";
const REQUEST: &str = "a request and its answer on one connection";

/// All that are known. The first whose `file` a name starts with is the one.
pub const TABLE: &[Library] = &[
    row(
        "libpython",
        "Python",
        Runtime,
        None,
        "the GIL, and Py_AtExit()",
    ),
    row(
        "plpython",
        "Python",
        Runtime,
        None,
        "src/pl/plpython/plpy_exec.c",
    ),
    row("libperl", "Perl", Runtime, None, "perlcall: the savestack"),
    row(
        "plperl",
        "Perl",
        Runtime,
        None,
        "plperl_fini() in src/pl/plperl/plperl.c, at exit",
    ),
    row("libtcl", "Tcl", Runtime, None, "Tcl_CreateExitHandler()"),
    row("pltcl", "Tcl", Runtime, None, "src/pl/tcl/pltcl.c"),
    row(
        "libjvm",
        "the Java virtual machine",
        Runtime,
        Some("the Java virtual machine"),
        "JNI: threads and handlers of signals",
    ),
    row("libpljava", "Java", Runtime, None, "JNI"),
    row(
        "plv8",
        "V8",
        Runtime,
        Some("V8"),
        "v8::Isolate, entered and left",
    ),
    row("pljs", "JavaScript", Runtime, None, INTERPRETER),
    row(
        "libv8",
        "V8",
        Runtime,
        Some("V8"),
        "v8::Isolate, entered and left",
    ),
    row(
        "libnode",
        "V8",
        Runtime,
        None,
        "v8::Isolate, entered and left",
    ),
    row(
        "libR.so",
        "R",
        Runtime,
        None,
        "R_ToplevelContext; R_CleanUp()",
    ),
    row("plr.so", "R", Runtime, None, INTERPRETER),
    row(
        "libluajit",
        "LuaJIT",
        Runtime,
        Some("LuaJIT"),
        "lua_State: C frames by longjmp()",
    ),
    row(
        "liblua",
        "Lua",
        Runtime,
        None,
        "lua_State: C frames by longjmp()",
    ),
    row("pllua", "Lua", Runtime, None, INTERPRETER),
    row("libmono", "Mono", Runtime, None, INTERPRETER),
    row(
        "libcoreclr",
        ".NET",
        Runtime,
        Some(".NET"),
        "threads and handlers of signals",
    ),
    row("libruby", "Ruby", Runtime, None, INTERPRETER),
    row(
        "libgo.so",
        "Go",
        Runtime,
        None,
        "goroutines on stacks of their own",
    ),
    row("libstd-", "Rust", Cxx, None, UNWINDER),
    row("libstdc++", CPLUSPLUS, Cxx, None, UNWINDER),
    row("libc++", CPLUSPLUS, Cxx, None, UNWINDER),
    row("libgcc_s", CPLUSPLUS, Cxx, None, UNWINDER),
    row("libLLVM", "LLVM", Runtime, None, EXCEPTIONS),
    row(
        "llvmjit",
        "LLVM",
        Runtime,
        Some(LLVM_JIT),
        "src/backend/jit/llvm/llvmjit_error.cpp: a fatal error within is no ERROR",
    ),
    // It takes over signals and has errors and threads of its own.
    row(
        "libclntsh",
        "Oracle's client",
        Runtime,
        None,
        "OCI: threads and handlers of signals",
    ),
    row(
        "libociei",
        "Oracle's client",
        Runtime,
        None,
        "OCI: threads and handlers of signals",
    ),
    row("libduckdb", "DuckDB", Runtime, None, EXCEPTIONS),
    row("libSFCGAL", "SFCGAL", Runtime, None, EXCEPTIONS),
    row("libCGAL", "CGAL", Runtime, None, EXCEPTIONS),
    row("libgeos", "GEOS", Runtime, None, EXCEPTIONS),
    row("libproj", "PROJ", Runtime, None, EXCEPTIONS),
    row("libgdal", "GDAL", Runtime, None, EXCEPTIONS),
    row("libarrow", "Arrow", Runtime, None, EXCEPTIONS),
    row(
        "libpq.so",
        "libpq (a connection to another PostgreSQL)",
        Client,
        None,
        REQUEST,
    ),
    row("libcurl", "libcurl", Client, None, REQUEST),
    row("libsybdb", FREETDS, Client, None, REQUEST),
    row("libct.so", FREETDS, Client, None, REQUEST),
    row("libtdsodbc", FREETDS, Client, None, REQUEST),
    row("libmysqlclient", "MySQL's client", Client, None, REQUEST),
    row("libmariadb", "MariaDB's client", Client, None, REQUEST),
    row("libodbc", "ODBC", Client, None, REQUEST),
    row("libiodbc", "ODBC", Client, None, REQUEST),
    row(
        "libmsodbcsql",
        "SQL Server's ODBC driver",
        Client,
        None,
        REQUEST,
    ),
    row(
        "libhiredis",
        "hiredis (a client of Redis)",
        Client,
        None,
        REQUEST,
    ),
    row(
        "libmemcached",
        "libmemcached (a client of memcached)",
        Client,
        None,
        "memcached_quit_server(): says good-bye, and reads until the server has hung up",
    ),
    row(
        "librdkafka",
        "librdkafka (a client of Kafka)",
        Client,
        None,
        "threads of its own; rd_kafka_destroy() joins them",
    ),
    row("libmongoc", "MongoDB's client", Client, None, REQUEST),
    row("librabbitmq", "RabbitMQ's client", Client, None, REQUEST),
    row("libzookeeper", "ZooKeeper's client", Client, None, REQUEST),
    row("libfbclient", "Firebird's client", Client, None, REQUEST),
    row("libdb2", "Db2's client", Client, None, REQUEST),
    row("libldap", "OpenLDAP's client", Client, None, REQUEST),
    row("libssh", "an SSH client", Client, None, REQUEST),
    row(
        "libzmq",
        "ZeroMQ",
        Client,
        None,
        "zmq_ctx_term() waits for messages to be sent",
    ),
    row("libgrpc", "gRPC", Client, None, REQUEST),
    row("libkrb5", "Kerberos", Transport, None, REQUEST),
    row("libgssapi", "GSSAPI", Transport, None, REQUEST),
    row(
        "libssl",
        "OpenSSL",
        Transport,
        None,
        "OPENSSL_cleanup(), an atexit() function",
    ),
    row(
        "libcrypto",
        "OpenSSL",
        Transport,
        None,
        "OPENSSL_cleanup(), an atexit() function",
    ),
    row(
        "libgnutls",
        "GnuTLS",
        Transport,
        None,
        "gnutls_global_deinit(), a destructor",
    ),
    row("libjemalloc", "jemalloc", Allocator, None, "malloc(3)"),
    row("libtcmalloc", "tcmalloc", Allocator, None, "malloc(3)"),
    row("libmimalloc", "mimalloc", Allocator, None, "malloc(3)"),
    row("librpmalloc", "rpmalloc", Allocator, None, "malloc(3)"),
    row("libsnmalloc", "snmalloc", Allocator, None, "malloc(3)"),
    row("libhoard", "Hoard", Allocator, None, "malloc(3)"),
    row(
        "libm.so",
        "the mathematical functions",
        Mathematics,
        None,
        "glibc math/",
    ),
    row(
        "libm-",
        "the mathematical functions",
        Mathematics,
        None,
        "glibc math/",
    ),
    row(
        "libmvec",
        "the mathematical functions",
        Mathematics,
        None,
        "glibc math/",
    ),
];

/// The row of the file that a frame lies in.
fn of_file(frame: &Frame) -> Option<&'static Library> {
    let file = frame.module_name();
    TABLE.iter().find(|row| file.starts_with(row.file))
}

/// The library that a frame belongs to, if it is a known one.
pub fn of(frame: &Frame) -> Option<&'static Library> {
    of_file(frame).filter(|_| frame.kind == ModuleKind::Library)
}

/// Whether a frame is one of a library of this kind.
pub fn is(frame: &Frame, kind: Kind) -> bool {
    of(frame).is_some_and(|l| l.kind == kind)
}

/// The runtime that a file belongs to; that counts for code of any kind but the server's and the C library's.
pub fn runtime(frame: &Frame) -> Option<&'static str> {
    let row = of_file(frame).filter(|row| matches!(row.kind, Runtime | Cxx))?;
    Some(row.name)
}

/// The client library that a frame belongs to.
pub fn client(frame: &Frame) -> Option<&'static str> {
    let row = of(frame).filter(|row| matches!(row.kind, Client | Transport))?;
    Some(row.name)
}

/// The library that answers for the time that is spent in it: no C++ runtime, for there the extension counts.
pub fn answerable(frame: &Frame) -> Option<&'static Library> {
    of(frame).filter(|row| matches!(row.kind, Runtime | Client | Transport))
}

/// What code without a file is called, by what is loaded beside it. With several that generate code, it may be anyone's.
pub fn generator(loaded: &[String]) -> Option<&'static str> {
    let is_loaded = |row: &&Library| loaded.iter().any(|l| l.starts_with(row.file));
    let mut names: Vec<&str> = TABLE
        .iter()
        .filter(|row| row.generates.is_some())
        .filter(is_loaded)
        .filter_map(|row| row.generates)
        .collect();
    names.dedup();
    match names[..] {
        [name] => Some(name),
        _ => None,
    }
}

/// Whether the system call that a backend is asleep in waits for a peer.
pub fn waits_for_a_peer(snapshot: &Snapshot) -> bool {
    use crate::process::syscalls::Thing;
    let call = snapshot.process.syscall.as_ref();
    let mut awaited = call.iter().flat_map(|c| &c.waits_for);
    awaited.any(|a| matches!(a.thing, Thing::Socket(_)))
}

/// Whether the system call that a backend is in may wait for a peer, by its name alone: what its descriptor is, is not
/// looked at in the stop in which the verdict counts.
pub fn may_wait_for_a_peer(snapshot: &Snapshot) -> bool {
    const FOR_NO_PEER: [&str; 10] = [
        "nanosleep",
        "clock_nanosleep",
        "futex",
        "wait4",
        "waitid",
        "openat",
        "fsync",
        "fdatasync",
        "pread64",
        "pwrite64",
    ];
    let call = snapshot.process.syscall.as_ref();
    call.is_none_or(|c| !c.is_one_of(&FOR_NO_PEER))
}

/// Handlers of other people's that call the one that was there before, and so set PostgreSQL's flags: how a file's name
/// starts, the signal, and what else they tell of it. PostGIS: `handleInterrupt()` in postgis_module.c, rtpostgis.c and
/// postgis_topology.c.
const PASSING_ON: [(&str, i32, &str); 2] = [
    ("postgis", libc::SIGINT, "GEOS"),
    ("rtpostgis", libc::SIGINT, "GEOS"),
];

/// Whom a handler tells of its signal, besides PostgreSQL's own handler, which it is known to call.
pub fn passes_on(handler: &Handler) -> Option<&'static str> {
    let path = handler.module.as_deref()?;
    let file = path.rsplit('/').next().unwrap_or(path);
    let row = PASSING_ON
        .iter()
        .find(|(start, signal, _)| handler.signal == *signal && file.starts_with(start))?;
    Some(row.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_row_is_hidden_by_one_before_it() {
        for (at, row) in TABLE.iter().enumerate() {
            let first = TABLE.iter().position(|r| row.file.starts_with(r.file));
            assert_eq!(first, Some(at), "{}", row.file);
            assert!(!row.source.is_empty() && !row.name.is_empty());
        }
    }

    #[test]
    fn generated_code_is_called_by_its_only_generator() {
        let loaded = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
            generator(&names)
        };
        assert_eq!(loaded(&["libc.so.6", "llvmjit.so"]), Some(LLVM_JIT));
        assert_eq!(loaded(&["libluajit-5.1.so.2"]), Some("LuaJIT"));
        assert_eq!(loaded(&["plv8-3.so", "libv8.so"]), Some("V8"));
        assert_eq!(loaded(&["llvmjit.so", "libjvm.so"]), None);
        assert_eq!(loaded(&["libc.so.6"]), None);
    }
}
