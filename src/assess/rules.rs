//! What functions on a stack mean: which must not be jumped out of, and which are calm.
//!
//! Names are compared without leading underscores and the prefixes that libraries give to their inner names
//! (`__GI___libc_malloc` is `malloc`), so that a rule holds with and without debug symbols.

use crate::image::ModuleKind;
use crate::snapshot::Frame;

/// A function's name as rules spell it.
pub fn plain(name: &str) -> &str {
    let name = name.split(['@', '.']).next().unwrap_or(name);
    let name = name.trim_start_matches('_');
    let name = name.strip_prefix("GI_").unwrap_or(name);
    let name = name.trim_start_matches('_');
    let name = name.strip_prefix("libc_").unwrap_or(name);
    name.trim_start_matches('_')
}

/// A set of functions: exact names, and prefixes that end in `*`.
#[derive(Debug)]
pub struct Functions {
    /// Where they count.
    pub kinds: &'static [ModuleKind],
    /// Their names.
    pub names: &'static [&'static str],
}

impl Functions {
    /// Whether `frame` is one of them.
    pub fn has(&self, frame: &Frame) -> bool {
        let Some(name) = frame.function.as_deref().map(plain) else {
            return false;
        };
        self.kinds.contains(&frame.kind)
            && self.names.iter().any(|n| match n.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => name == *n,
            })
    }

    /// The innermost frame that is one of them.
    pub fn find<'f>(&self, frames: &'f [Frame]) -> Option<&'f Frame> {
        frames.iter().find(|f| self.has(f))
    }
}

const SERVER: &[ModuleKind] = &[ModuleKind::Server];
const LIBC: &[ModuleKind] = &[ModuleKind::Libc];
const LIBRARIES: &[ModuleKind] = &[ModuleKind::Libc, ModuleKind::Library];

/// The C library's allocator, or one that stands in for it (jemalloc, tcmalloc, mimalloc), and C++'s.
/// Jumping out leaves a half-done heap (malloc/malloc.c), and with threads a lock that stays taken.
pub const MALLOC: Functions = Functions {
    kinds: LIBRARIES,
    names: &[
        "malloc",
        "calloc",
        "realloc",
        "reallocarray",
        "free",
        "cfree",
        "memalign",
        "aligned_alloc",
        "posix_memalign",
        "valloc",
        "pvalloc",
        "malloc_usable_size",
        "malloc_trim",
        "mallopt",
        "mallinfo*",
        "malloc_info",
        "malloc_consolidate",
        "int_malloc",
        "int_free*",
        "int_realloc",
        "int_memalign",
        "sysmalloc*",
        "systrim*",
        "unlink_chunk*",
        "tcache_*",
        "arena_get*",
        "brk",
        "sbrk",
        "morecore",
        "Znw*",
        "Zna*",
        "Zdl*",
        "Zda*",
        "je_*",
        "tc_*",
        "mi_*",
    ],
};

/// The server's memory contexts (src/backend/utils/mmgr). Static up to 15: AllocSetAlloc and its kin.
pub const PALLOC: Functions = Functions {
    kinds: SERVER,
    names: &[
        "palloc*",
        "repalloc*",
        "pfree",
        "pstrdup",
        "pnstrdup",
        "pchomp",
        "MemoryContext*",
        "AllocSet*",
        "Generation*",
        "Slab*",
        "Bump*",
        "AlignedAlloc*",
        "pg_malloc*",
        "guc_malloc",
        "guc_realloc",
        "guc_strdup",
        "dsa_*",
        "dsm_*",
        "initStringInfo",
        "enlargeStringInfo",
        "resetStringInfo",
    ],
};

/// stdio's functions that hold the lock of a FILE while they run (glibc libio: _IO_acquire_lock), and others that
/// hold a lock of the C library.
pub const STDIO: Functions = Functions {
    kinds: LIBC,
    names: &[
        "fread*",
        "fwrite*",
        "fgets*",
        "fgetc*",
        "getc",
        "getc_unlocked",
        "fputs*",
        "fputc*",
        "putc*",
        "puts",
        "putchar*",
        "getchar*",
        "getline",
        "getdelim",
        "ungetc",
        "printf*",
        "fprintf*",
        "vprintf*",
        "vfprintf*",
        "scanf*",
        "fscanf*",
        "vfscanf*",
        "fflush*",
        "fclose*",
        "fseek*",
        "ftell*",
        "rewind",
        "setvbuf",
        "setbuf*",
        "fdopen*",
        "freopen*",
        "IO_*",
        "popen",
        "pclose",
        "system",
        "fork",
        "getaddrinfo",
        "gethostby*",
        "getpw*",
        "getgr*",
        "nss_*",
        "setlocale",
        "newlocale",
        "localtime*",
        "mktime",
        "tz_*",
        "tzset*",
        "syslog",
        "vsyslog*",
        "openlog",
        "dl_iterate_phdr",
        "atexit",
        "exit",
        "run_exit_handlers",
        "res_*",
    ],
};

/// Opening a FILE: it is known to no one until the call is back, and while its `open` system call blocks no lock
/// is held (glibc libio/iofopen.c, fileops.c). Jumping out leaks the FILE, no more.
pub const FOPEN: Functions = Functions {
    kinds: LIBC,
    names: &[
        "fopen*",
        "IO_new_fopen",
        "IO_fopen*",
        "IO_new_file_fopen",
        "IO_file_fopen",
        "IO_file_open",
        "fopen_internal",
    ],
};

/// The server's error reporting (src/backend/utils/error/elog.c): its stack of five entries would be left wrong.
pub const ERROR_REPORTING: Functions = Functions {
    kinds: SERVER,
    names: &[
        "errstart*",
        "errfinish",
        "errmsg*",
        "errdetail*",
        "errhint*",
        "errcode*",
        "errcontext*",
        "elog_*",
        "EmitErrorReport",
        "CopyErrorData",
        "ThrowErrorData",
        "ReThrowError",
        "pg_re_throw",
        "FlushErrorState",
        "write_pipe_chunks",
        "send_message_to_*",
        "write_syslog",
        "write_console",
        "geterrcode",
    ],
};

/// The end of a backend (src/backend/storage/ipc/ipc.c).
pub const EXITING: Functions = Functions {
    kinds: SERVER,
    names: &["proc_exit*", "shmem_exit"],
};

/// Waiting for a spinlock (src/backend/storage/lmgr/s_lock.c). What holds one is not counted anywhere.
pub const SPINLOCK_WAIT: Functions = Functions {
    kinds: SERVER,
    names: &["s_lock", "perform_spin_delay", "finish_spin_delay"],
};

/// Waiting for an LWLock (src/backend/storage/lmgr/lwlock.c).
pub const LWLOCK_WAIT: Functions = Functions {
    kinds: SERVER,
    names: &["LWLockAcquire", "LWLockAcquireOrWait", "LWLockWaitForVar"],
};

/// Taking and releasing LWLocks (lwlock.c): what is held and what is noted as held may differ there.
pub const LWLOCK: Functions = Functions {
    kinds: SERVER,
    names: &[
        "LWLockAcquire*",
        "LWLockConditionalAcquire",
        "LWLockRelease*",
        "LWLockUpdateVar",
        "LWLockWaitForVar",
    ],
};

/// Waiting for a synchronous standby (src/backend/replication/syncrep.c).
pub const SYNC_REP: Functions = Functions {
    kinds: SERVER,
    names: &["SyncRepWaitForLSN"],
};

/// Writing to the client (src/backend/libpq): a jump leaves half a message, and the client waits for the rest.
pub const CLIENT_WRITE: Functions = Functions {
    kinds: SERVER,
    names: &[
        "secure_write",
        "secure_raw_write",
        "be_tls_write",
        "be_gssapi_write",
        "internal_flush*",
        "internal_put*",
        "socket_flush*",
        "socket_putmessage*",
        "pq_putmessage*",
        "pq_endmessage*",
        "pq_flush*",
        "mq_putmessage*",
        "ProcessClientWriteInterrupt",
    ],
};

/// Reading from the client.
pub const CLIENT_READ: Functions = Functions {
    kinds: SERVER,
    names: &[
        "secure_read",
        "secure_raw_read",
        "be_tls_read",
        "be_gssapi_read",
        "pq_recvbuf",
        "pq_getb*",
        "pq_getmessage",
        "pq_getstring",
        "pq_peekbyte",
        "ProcessClientReadInterrupt",
    ],
};

/// The heavyweight lock manager's wait (src/backend/storage/lmgr/proc.c).
pub const LOCK_WAIT: Functions = Functions {
    kinds: SERVER,
    names: &["ProcSleep", "WaitOnLock", "LockAcquire*"],
};

/// Waiting for a latch (src/backend/storage/ipc/latch.c, from 18 on waiteventset.c). A jump out is what the
/// server itself does here.
pub const LATCH_WAIT: Functions = Functions {
    kinds: SERVER,
    names: &["WaitLatch*", "WaitEventSetWait*", "WaitInterrupt*"],
};

/// Server functions that hold nothing while they wait or sleep: what the server itself interrupts, or what only
/// makes a system call on behalf of its caller.
pub const CALM: Functions = Functions {
    kinds: SERVER,
    names: &[
        "WaitLatch*",
        "WaitEventSetWait*",
        "pg_usleep",
        "ProcSleep",
        "SyncRepWaitForLSN",
        "XactLockTableWait",
        "ConditionVariable*Sleep",
        "secure_read",
        "secure_write",
        "ProcessInterrupts",
        "pg_sleep",
        // Opening a file; the descriptor is entered into the server's own tables only when the call is back
        // (src/backend/storage/file/fd.c).
        "AllocateFile",
        "BasicOpenFile*",
        "OpenTransientFile*",
        "OpenPipeStream",
    ],
};

/// Server code that changes state which outlives an error: caches, hash tables, buffers, resource owners, WAL.
pub const STATE_CHANGING: [(&str, Functions); 6] = [
    (
        "the catalog cache",
        server(&[
            "SearchCatCache*",
            "SearchSysCache*",
            "ReleaseCatCache*",
            "CatCache*",
            "CatalogCache*",
            "InitCatCache*",
            "PrepareToInvalidate*",
            "ResetCatalogCaches",
            "GetSysCache*",
        ]),
    ),
    (
        "the relation cache",
        server(&[
            "RelationIdGetRelation",
            "RelationCache*",
            "RelationBuild*",
            "RelationClear*",
            "RelationInit*",
            "RelationForget*",
            "LocalExecuteInvalidationMessage",
            "AcceptInvalidationMessages",
            "ReceiveSharedInvalidMessages",
            "InvalidateSystemCaches*",
            "lookup_type_cache",
        ]),
    ),
    (
        "a hash table",
        server(&[
            "hash_search*",
            "hash_seq_*",
            "hash_create",
            "hash_destroy",
            "hash_update*",
            "get_hash_value",
        ]),
    ),
    (
        "buffers",
        server(&[
            "ReadBuffer*",
            "ReleaseBuffer*",
            "UnlockReleaseBuffer",
            "LockBuffer*",
            "MarkBuffer*",
            "ConditionalLockBuffer*",
            "ReleaseAndReadBuffer",
            "StartBufferIO",
            "StartReadBuffer*",
            "FlushBuffer",
            "BufferAlloc",
            "PinBuffer",
            "UnpinBuffer",
            "IncrBufferRefCount",
            "LocalBuffer*",
            "smgr*",
            "mdread*",
            "mdwrite*",
            "mdextend*",
        ]),
    ),
    (
        "resource bookkeeping",
        server(&[
            "ResourceOwner*",
            "ResourceArray*",
            "FileClose",
            "FreeFile",
            "FreeDesc",
            "ReleaseLruFile*",
            "PathNameOpenFile*",
        ]),
    ),
    (
        "the write-ahead log",
        server(&[
            "XLog*",
            "WALInsert*",
            "GenericXLog*",
            "log_newpage*",
            "RecordTransactionCommit*",
        ]),
    ),
];

const fn server(names: &'static [&'static str]) -> Functions {
    Functions {
        kinds: SERVER,
        names,
    }
}

/// Libraries that keep state of their own across calls which a jump would tear: language runtimes and clients.
/// By the start of the file's name.
pub const RUNTIMES: [(&str, &str); 26] = [
    ("libpython", "Python"),
    ("plpython", "Python"),
    ("libperl", "Perl"),
    ("plperl", "Perl"),
    ("libtcl", "Tcl"),
    ("pltcl", "Tcl"),
    ("libjvm", "the Java virtual machine"),
    ("libpljava", "Java"),
    ("plv8", "V8"),
    ("pljs", "JavaScript"),
    ("libv8", "V8"),
    ("libnode", "V8"),
    ("libR.so", "R"),
    ("plr.so", "R"),
    ("liblua", "Lua"),
    ("pllua", "Lua"),
    ("libmono", "Mono"),
    ("libcoreclr", ".NET"),
    ("libruby", "Ruby"),
    ("libstdc++", "the C++ runtime"),
    ("libLLVM", "LLVM"),
    ("llvmjit", "LLVM"),
    ("libclntsh", "Oracle's client"),
    ("libduckdb", "DuckDB"),
    ("libSFCGAL", "SFCGAL"),
    ("libgeos", "GEOS"),
];

/// The runtime that a frame belongs to, if it is a foreign one.
pub fn runtime_of(frame: &Frame) -> Option<&'static str> {
    if frame.kind == ModuleKind::Server || frame.kind == ModuleKind::Libc {
        return None;
    }
    let file = frame.module_name();
    let by_file = RUNTIMES
        .iter()
        .find(|(start, _)| file.starts_with(start))
        .map(|(_, name)| *name);
    let name = frame.function.as_deref().unwrap_or("");
    by_file.or_else(|| {
        let legacy_rust = name.starts_with("_ZN") && name.contains("17h");
        if legacy_rust || name.starts_with("_R") || name.starts_with("rust_") {
            Some("Rust")
        } else if name.starts_with("_Z") {
            Some("C++")
        } else if frame.has_cleanup {
            Some("code with clean-ups on its way out (C++ or Rust)")
        } else {
            None
        }
    })
}

/// Libraries below the server and below extensions, whose frames are not "where it happens".
pub fn is_leaf_library(frame: &Frame) -> bool {
    matches!(
        frame.kind,
        ModuleKind::Libc | ModuleKind::DynamicLinker | ModuleKind::Vdso
    )
}

/// The innermost frame that is not the C library's, the dynamic linker's or the kernel's: who is at work.
pub fn at_work(frames: &[Frame]) -> Option<&Frame> {
    frames.iter().find(|f| !is_leaf_library(f))
}

/// Where it happens: the innermost frame that neither waits nor allocates on behalf of its caller.
pub fn where_it_happens(frames: &[Frame]) -> Option<&Frame> {
    let on_behalf = |f: &Frame| {
        let helper = CALM.has(f) || PALLOC.has(f) || MALLOC.has(f);
        let unnamed = f.kind == ModuleKind::Server && f.function.is_none();
        is_leaf_library(f) || helper || unnamed || f.inlined
    };
    let candidate = frames.iter().find(|f| !on_behalf(f));
    // Past unnamed server functions only an extension is a better answer than the function itself.
    candidate
        .filter(|f| f.kind != ModuleKind::Server)
        .or_else(|| {
            frames
                .iter()
                .find(|f| !is_leaf_library(f) && !CALM.has(f) && !f.inlined)
        })
        .or_else(|| at_work(frames))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inner_names_are_plain() {
        for name in [
            "malloc",
            "__libc_malloc",
            "__GI___libc_malloc",
            "malloc@@GLIBC_2.2.5",
        ] {
            assert_eq!(plain(name), "malloc", "{name}");
        }
        assert_eq!(plain("_int_malloc"), "int_malloc");
        assert_eq!(plain("_int_free.constprop.0"), "int_free");
        assert_eq!(plain("__GI__IO_fread"), "IO_fread");
        assert_eq!(plain("ProcessInterrupts"), "ProcessInterrupts");
        assert_eq!(plain(""), "");
    }
}
