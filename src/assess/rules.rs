//! What functions on a stack mean: which must not be jumped out of, and which are calm.
//!
//! Names are compared without leading underscores and the prefixes that libraries give to their inner names
//! (`__GI___libc_malloc` is `malloc`), so that a rule holds with and without debug symbols.

use super::libraries;
use crate::image::{Callers, ModuleKind};
use crate::snapshot::{Frame, Signals, Snapshot, Stack};
use crate::unwind::FoundBy;

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
        let name = frame.function.as_deref();
        self.kinds.contains(&frame.kind) && name.is_some_and(|n| self.has_name(n))
    }

    /// Whether one of them has this name.
    pub fn has_name(&self, name: &str) -> bool {
        let name = plain(name);
        self.names.iter().any(|n| match n.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == *n,
        })
    }

    /// Whether `frame` is one of them, or has no name and is nobody's but theirs: only they can call it.
    pub fn own(&self, frame: &Frame) -> bool {
        let callers = |c: &Callers| {
            let surely_all = !c.by_address && !c.incomplete && !c.named.is_empty();
            surely_all && c.named.iter().all(|n| self.has_name(n))
        };
        self.has(frame)
            || (self.kinds.contains(&frame.kind)
                && frame.function.is_none()
                && frame.callers.as_ref().is_some_and(callers))
    }

    /// What the first of several sets is about that [owns](Self::own) `frame`.
    pub fn owner<'t>(table: &[(&'t str, Functions)], frame: &Frame) -> Option<&'t str> {
        let (what, _) = table.iter().find(|(_, functions)| functions.own(frame))?;
        Some(what)
    }

    /// The innermost frame that is one of them.
    pub fn find<'f>(&self, frames: &'f [Frame]) -> Option<&'f Frame> {
        frames.iter().find(|f| self.has(f))
    }
}

/// Where a worker begins: none of them returns (src/backend/postmaster/bgworker.c and autovacuum.c, 12 to 15).
pub const WORKER_MAIN: Functions = Functions {
    kinds: SERVER,
    names: &[
        "StartBackgroundWorker",
        "StartAutoVacWorker",
        "AutoVacWorkerMain",
    ],
};

/// Where the postmaster is at home (src/backend/postmaster/postmaster.c).
pub const POSTMASTER_MAIN: Functions = Functions {
    kinds: SERVER,
    names: &["PostmasterMain"],
};

/// What acts on an interrupt, and what undoes a transaction for it (src/backend/tcop/postgres.c,
/// src/backend/access/transam/xact.c): the flag is cleared by then.
pub const OBEYING: Functions = Functions {
    kinds: SERVER,
    names: &[
        "ProcessInterrupts",
        "AbortCurrentTransaction",
        "AbortTransaction",
        "AbortSubTransaction",
        "AbortOutOfAnyTransaction",
    ],
};

/// Whether these are the signals of a process in system(3): SIGINT and SIGQUIT ignored, SIGCHLD blocked (POSIX, system()).
pub fn system(signals: &Signals) -> bool {
    let ignored = |n| Signals::has(signals.ignored, n) == Some(true);
    ignored(libc::SIGINT)
        && ignored(libc::SIGQUIT)
        && Signals::has(signals.blocked, libc::SIGCHLD) == Some(true)
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
        "tc_malloc*",
        "tc_calloc",
        "tc_realloc",
        "tc_free*",
        "tc_new*",
        "tc_delete*",
        "tc_memalign",
        "mi_malloc*",
        "mi_calloc*",
        "mi_realloc*",
        "mi_zalloc*",
        "mi_free*",
        "mi_new*",
        "mi_heap_*",
        "mi_page_*",
        "mi_segment*",
    ],
};

/// The inner functions of musl's, where debug files name them (1.2: src/malloc/mallocng/malloc.c, free.c, meta.h and glue.h;
/// before: src/malloc/oldmalloc/malloc.c).
const MUSL_MALLOC: Functions = Functions {
    kinds: LIBC,
    names: &[
        "malloc_impl",
        "malloc_alloc*",
        "malloc_donate",
        "malloc_atfork",
        "malloc_replaced",
        "default_malloc",
        "alloc_slot",
        "alloc_group",
        "alloc_meta",
        "try_avail",
        "enframe",
        "free_group",
        "okay_to_free",
        "nontrivial_free",
        "bin_chunk",
        "expand_heap",
        "simple_malloc",
    ],
};

/// Whether the frame is an allocator's: the C library's, one that stands in for it, or C++'s.
pub fn is_malloc(frame: &Frame) -> bool {
    let stands_in = libraries::is(frame, libraries::Kind::Allocator);
    stands_in || MALLOC.has(frame) || MUSL_MALLOC.has(frame)
}

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
        "gmtime*",
        "timegm",
        "ctime*",
        "strftime*",
        "strptime*",
        "strerror*",
        "strsignal",
        "random*",
        "rand",
        "srand*",
        "initstate*",
        "setstate*",
        "setenv",
        "unsetenv",
        "putenv",
        "clearenv",
        "add_to_environ",
        "gettext",
        "dgettext",
        "dcgettext",
        "ngettext",
        "dngettext",
        "dcngettext",
        "dcigettext",
        "bindtextdomain",
        "bind_textdomain_codeset",
        "textdomain",
        "nl_*",
        "iconv*",
        "gconv*",
        "getserv*",
        "getproto*",
        "getnet*",
        "getaliases*",
        "sem_open",
        "sem_close",
        "pthread_create",
        "pthread_atfork",
        "pthread_once*",
        "call_once",
        "posix_spawn*",
        "dl_iterate_phdr",
        "atexit",
        "cxa_atexit",
        "on_exit",
        "abort",
        "exit",
        "run_exit_handlers",
        "res_*",
    ],
};

/// Functions of the C library that hold no lock of it while they run, or wait: on memory, on characters and strings, and
/// those that make one system call. Any other by which the library was entered may hold one, for all that is known.
pub const WITHOUT_LOCKS: Functions = Functions {
    kinds: LIBC,
    names: &[
        "mem*",
        "str*",
        "stp*",
        "wcs*",
        "wmem*",
        "bcmp",
        "bcopy",
        "bzero",
        "index",
        "rindex",
        "ffs*",
        "qsort*",
        "msort*",
        "bsearch",
        "lsearch",
        "lfind",
        "hsearch*",
        "tsearch",
        "tfind",
        "abs",
        "labs",
        "div",
        "ldiv",
        "ato*",
        "is*",
        "isw*",
        "tow*",
        "to*",
        "ctype_*",
        "mb*",
        "wc*",
        "btowc",
        "rawmemchr",
        "explicit_bzero",
        "longjmp*",
        "siglongjmp",
        "setjmp",
        "sigsetjmp",
        "getcontext",
        "start_main*",
        "start_call_main*",
        "libc_start*",
        "clone*",
        "start_thread",
        "restore_rt",
        "errno_location",
        "getenv",
        "secure_getenv",
        "getauxval",
        "syscall",
        "read",
        "readv",
        "pread*",
        "write",
        "writev",
        "pwrite*",
        "open",
        "open64",
        "open_nocancel",
        "openat*",
        "creat*",
        "close",
        "close_range",
        "lseek*",
        "fsync",
        "fdatasync",
        "sync*",
        "ftruncate*",
        "truncate*",
        "fallocate*",
        "posix_fallocate*",
        "posix_fadvise*",
        "copy_file_range",
        "sendfile*",
        "splice",
        "tee",
        "flock",
        "lockf*",
        "fcntl*",
        "ioctl",
        "stat*",
        "fstat*",
        "lstat*",
        "xstat*",
        "fxstat*",
        "lxstat*",
        "statx",
        "statfs*",
        "fstatfs*",
        "statvfs*",
        "fstatvfs*",
        "access",
        "faccessat",
        "unlink",
        "unlinkat",
        "rename*",
        "link",
        "linkat",
        "symlink*",
        "readlink*",
        "mkdir*",
        "rmdir",
        "mknod*",
        "mkfifo*",
        "chmod",
        "fchmod*",
        "chown",
        "fchown*",
        "utime*",
        "futime*",
        "dup",
        "dup2",
        "dup3",
        "pipe",
        "pipe2",
        "eventfd*",
        "signalfd",
        "timerfd_*",
        "inotify_*",
        "fanotify_*",
        "poll",
        "ppoll*",
        "select",
        "pselect*",
        "epoll_*",
        "socket",
        "socketpair",
        "bind",
        "listen",
        "accept*",
        "connect",
        "shutdown",
        "recv*",
        "send",
        "sendto",
        "sendmsg*",
        "sendmmsg*",
        "getsockopt",
        "setsockopt",
        "getsockname",
        "getpeername",
        "nanosleep*",
        "clock_*",
        "sleep",
        "usleep",
        "pause",
        "alarm",
        "setitimer",
        "getitimer",
        "time",
        "gettimeofday",
        "times",
        "wait",
        "wait3",
        "wait4",
        "waitpid",
        "waitid",
        "kill",
        "killpg",
        "tgkill",
        "raise",
        "sigaction",
        "sigprocmask",
        "sigsuspend",
        "sigwait*",
        "sigtimedwait",
        "sigpending",
        "sigaltstack",
        "sigemptyset",
        "sigfillset",
        "sigaddset",
        "sigdelset",
        "getpid",
        "getppid",
        "gettid",
        "getuid",
        "geteuid",
        "getgid",
        "getegid",
        "getpgid",
        "getpgrp",
        "getsid",
        "sched_*",
        "getcpu",
        "getrusage",
        "getrlimit*",
        "prlimit*",
        "mmap*",
        "munmap",
        "mprotect",
        "madvise",
        "msync",
        "mlock*",
        "munlock*",
        "mremap",
        "shm*",
        "sem_wait*",
        "sem_timedwait*",
        "sem_clockwait*",
        "sem_trywait",
        "sem_post",
        "new_sem_*",
        "sem_getvalue",
        "semop",
        "semtimedop",
        "semget",
        "semctl",
        "msgrcv",
        "msgsnd",
        "mq_receive",
        "mq_timedreceive",
        "mq_send",
        "mq_timedsend",
        "prctl",
        "pthread_mutex_*lock*",
        "pthread_mutex_lock*",
        "pthread_mutex_trylock",
        "pthread_mutex_timedlock",
        "pthread_mutex_unlock*",
        "pthread_rwlock_*",
        "pthread_cond_wait*",
        "pthread_cond_timedwait*",
        "pthread_cond_clockwait*",
        "pthread_join*",
        "pthread_timedjoin_np",
        "pthread_clockjoin*",
        "pthread_barrier_wait",
        "pthread_spin_lock",
        "pthread_self",
        "pthread_kill",
        "pthread_sigmask",
        "pthread_testcancel",
        "pthread_getspecific",
        "pthread_setspecific",
        "process_vm_readv",
        "getrandom",
        "getentropy",
        "uname",
        "gethostname",
        "sysconf",
        "getpagesize",
        "umask",
        "getcwd",
        "chdir",
        "fchdir",
        "vfork",
    ],
};

/// Opening a FILE: while its `open` system call blocks, no lock is held (glibc libio/iofopen.c, fileops.c). The FILE is in
/// the list of all already, but nobody writes to it: jumping out leaks it, no more.
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

/// Undoing a transaction or a subtransaction (src/backend/access/transam/xact.c).
pub const UNDOING: Functions = Functions {
    kinds: SERVER,
    names: &[
        "AbortCurrentTransaction*",
        "AbortOutOfAnyTransaction",
        "AbortTransaction",
        "AbortSubTransaction",
        "RollbackAndReleaseCurrentSubTransaction",
    ],
};

/// Waiting for a spinlock (src/backend/storage/lmgr/s_lock.c). What holds one is not counted anywhere.
pub const SPINLOCK_WAIT: Functions = Functions {
    kinds: SERVER,
    names: &["s_lock", "perform_spin_delay", "finish_spin_delay"],
};

/// Whether the frame is liburing's, or of the C library below it.
pub fn is_of_liburing(frame: &Frame) -> bool {
    frame.kind == ModuleKind::Libc || frame.module_name().starts_with("liburing")
}

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
    ],
};

/// Server functions that only compute, in memory of their own statement: a jump out of them leaves nothing behind that
/// is not thrown away with that memory.
pub const COMPUTING: [(&str, Functions); 2] = [
    (
        // No static variable that is not constant, no cache, no malloc.
        "src/backend/utils/adt/numeric.c",
        server(&[
            "numeric",
            "numeric_abs",
            "numeric_accum*",
            "numeric_add*",
            "numeric_avg*",
            "numeric_ceil",
            "numeric_cmp*",
            "numeric_combine",
            "numeric_deserialize",
            "numeric_div*",
            "numeric_eq",
            "numeric_exp",
            "numeric_fac",
            "numeric_fast_cmp",
            "numeric_float*",
            "numeric_floor",
            "numeric_gcd",
            "numeric_ge",
            "numeric_gt",
            "numeric_in",
            "numeric_inc",
            "numeric_int*",
            "numeric_is_*",
            "numeric_l*",
            "numeric_m*",
            "numeric_ne",
            "numeric_normalize",
            "numeric_out*",
            "numeric_poly_*",
            "numeric_power",
            "numeric_recv",
            "numeric_round",
            "numeric_s*",
            "numeric_tr*",
            "numeric_u*",
            "numeric_var_*",
            "generate_series_numeric",
            "generate_series_step_numeric",
            "hash_numeric*",
            "in_range_numeric_numeric",
            "int64_to_numeric*",
            "int64_div_fast_to_numeric",
            "int2_numeric",
            "int4_numeric",
            "int8_numeric",
            "float4_numeric",
            "float8_numeric",
            "width_bucket_numeric",
            "int2_accum*",
            "int4_accum*",
            "int8_accum*",
            "int2_avg_accum*",
            "int4_avg_accum*",
            "int4_avg_combine",
            "int8_avg*",
            "int2int4_sum",
            "int2_sum",
            "int4_sum",
            "int8_sum",
            // Static ones.
            "accum_sum_*",
            "add_abs",
            "add_var",
            "apply_typmod*",
            "ceil_var",
            "cmp_abs*",
            "cmp_numerics",
            "cmp_var*",
            "compute_bucket",
            "div_mod_var",
            "div_var*",
            "do_numeric_*",
            "estimate_ln_dweight",
            "exp_var",
            "floor_var",
            "gcd_var",
            "get_min_scale",
            "get_str_from_var*",
            "ln_var",
            "log_var",
            "make_result*",
            "mod_var",
            "mul_var*",
            "numericvar_*",
            "power_ten_int",
            "power_var*",
            "random_var",
            "round_var",
            "select_div_scale",
            "set_var_from_*",
            "sqrt_var",
            "strip_var",
            "sub_abs",
            "sub_var",
            "trunc_var",
        ]),
    ),
    (
        "src/backend/utils/adt/like.c",
        server(&[
            "textlike",
            "textnlike",
            "namelike",
            "namenlike",
            "bytealike",
            "byteanlike",
            "MB_MatchText",
            "SB_MatchText",
            "UTF8_MatchText",
        ]),
    ),
];

/// Handing out invalidations to the caches (src/backend/utils/cache/inval.c): each is handed out once, so whom a jump skips
/// never hears of it.
pub const INVALIDATION: Functions = server(&[
    "LocalExecuteInvalidationMessage",
    "AcceptInvalidationMessages",
    "ReceiveSharedInvalidMessages",
    "CallSyscacheCallbacks",
    "RelationCacheInvalidate*",
    "InvalidateSystemCaches*",
    "CommandEndInvalidationMessages",
    "AtEOXact_Inval",
    "AtEOSubXact_Inval",
]);

/// Making a subtransaction part of its parent (src/backend/access/transam/xact.c): its XID is in the parent's list already
/// while extensions are told. After an ERROR from there it is rolled back, and committed with its parent all the same.
const SUBTRANSACTION_END: Functions =
    server(&["CommitSubTransaction", "ReleaseCurrentSubTransaction"]);

/// By whom CommitSubTransaction() is called, too; within them it may have no frame of its own.
const TRANSACTION_COMMANDS: Functions = server(&["CommitTransactionCommand*"]);

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

/// Where statements are run: what any two looks at a backend that gets on have in common, and no more
/// (src/backend/tcop, src/backend/executor/execMain.c, execProcnode.c).
pub const EXECUTOR: Functions = Functions {
    kinds: SERVER,
    names: &[
        "main",
        "start",
        "PostmasterMain",
        "ServerLoop",
        "BackendStartup",
        "BackendRun",
        "BackendMain",
        "postmaster_child_launch",
        "PostgresMain",
        "PostgresSingleUserMain",
        "StartBackgroundWorker",
        "exec_simple_query",
        "exec_execute_message",
        "Portal*",
        "ProcessQuery",
        "ProcessUtility",
        "standard_ProcessUtility",
        "ExecutorRun",
        "standard_ExecutorRun",
        "ExecutePlan",
        "ExecProcNode*",
    ],
};

fn is_mathematics(frame: &Frame) -> bool {
    libraries::is(frame, libraries::Kind::Mathematics)
}

/// Whether a frame belongs to a library that PostgreSQL did not load as an extension, and that therefore knows nothing
/// of errors that jump across it. None where that was not looked at. The mathematical functions hold nothing.
pub fn is_plain_library(frame: &Frame) -> Option<bool> {
    if frame.kind != ModuleKind::Library || is_mathematics(frame) {
        return Some(false);
    }
    frame.extension.map(|extension| !extension)
}

/// The innermost frame with a name that is of the same file as `frame`, or `frame` itself.
pub fn named_alike<'f>(frames: &'f [Frame], frame: &'f Frame) -> &'f Frame {
    let alike = |f: &&Frame| f.module == frame.module && f.function.is_some();
    frames.iter().find(alike).unwrap_or(frame)
}

/// Whose code it is that was generated while running, by what is loaded beside it.
pub fn generator_of(frame: &Frame, loaded: &[String]) -> Option<&'static str> {
    if frame.kind != ModuleKind::Anonymous || frame.module.is_some() {
        return None;
    }
    let name = libraries::generator(loaded);
    Some(name.unwrap_or("code that was generated while running"))
}

/// Whose generated code a stack that is not complete goes through: what lies below stays unknown for as long as that
/// code runs.
pub fn generated_below(snapshot: &Snapshot) -> Option<&'static str> {
    let stack = snapshot.stack.as_ref().filter(|s| !s.complete)?;
    let libraries = &snapshot.process.libraries;
    stack.frames.iter().find_map(|f| generator_of(f, libraries))
}

/// What to call the foreign code that a frame belongs to: a language's runtime, a client library, generated code.
/// C++ and Rust are no runtimes that could be stopped by means of their own: there it is the extension that counts.
fn foreign_code(frame: &Frame, loaded: &[String]) -> Option<&'static str> {
    libraries::answerable(frame)
        .map(|library| library.name)
        .or_else(|| is_go(frame).then_some("Go"))
        .or_else(|| generator_of(frame, loaded))
}

/// Foreign code that does not come back.
#[derive(Debug)]
pub struct Foreign<'f> {
    /// What it is called.
    pub name: &'static str,
    /// Its innermost function, one with a name if there is any.
    pub at: &'f Frame,
    /// Where it happens, if that is in another library, which works on its behalf.
    pub within: Option<&'f Frame>,
}

/// The foreign code that answers for what is at work: the innermost runtime or client library that nothing but libraries lie
/// before. A library that knows neither PostgreSQL nor any way to be stopped (numpy's, BLAS, zlib, SQLite) works on behalf of
/// who called it, and so does one that only carries a client's messages (OpenSSL).
pub fn foreign<'f>(frames: &'f [Frame], loaded: &[String]) -> Option<Foreign<'f>> {
    use libraries::Kind;
    let innermost = at_work(frames).first()?;
    let on_behalf = |f: &Frame| {
        f.inlined
            || is_leaf_library(f)
            || is_plain_library(f) == Some(true)
            || libraries::of(f).is_some_and(|l| l.kind != Kind::Runtime)
            || foreign_code(f, loaded).is_some()
    };
    let below = frames.iter().take_while(|f| on_behalf(f));
    let all: Vec<_> = below
        .filter_map(|f| Some((f, foreign_code(f, loaded)?)))
        .collect();
    let carries = |f: &Frame| libraries::is(f, Kind::Transport);
    let (work, name) = all.iter().find(|(f, _)| !carries(f)).or(all.first())?;
    let within = named_alike(frames, innermost);
    Some(Foreign {
        name,
        at: named_alike(frames, work),
        within: (within.module != work.module).then_some(within),
    })
}

/// Who called the library in which something happens, if that one does not answer for its time: not another runtime's.
pub fn on_behalf_of<'f>(frames: &'f [Frame], at: &Frame) -> Option<&'f Frame> {
    let library =
        |f: &Frame| is_plain_library(f) == Some(true) || libraries::is(f, libraries::Kind::Cxx);
    let passed = |f: &Frame| is_leaf_library(f) || library(f) || is_mathematics(f);
    let caller = innermost(frames, passed).last()?;
    library(at).then_some(caller)
}

/// The extension that called the function of the server's at which something happens, with nothing of the executor in
/// between: that function works on its behalf.
pub fn extension_that_called<'f>(frames: &'f [Frame], at: &Frame) -> Option<&'f Frame> {
    let from = frames.iter().position(|f| std::ptr::eq(f, at))?;
    let mut outward = frames[from..].iter().take_while(|f| !EXECUTOR.has(f));
    (at.kind == ModuleKind::Server)
        .then(|| outward.find(|f| f.extension == Some(true)))
        .flatten()
}

/// Names of threads, each once, with how often it occurs; not more than a few.
pub fn names(all: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut counted: Vec<(&String, usize)> = Vec::new();
    for name in all {
        match counted.iter_mut().find(|(n, _)| *n == name) {
            Some((_, count)) => *count += 1,
            None => counted.push((name, 1)),
        }
    }
    let shown = counted.iter().take(SHOWN).map(|(name, count)| match count {
        1 => (*name).clone(),
        n => format!("{n} times {name}"),
    });
    let mut shown: Vec<String> = shown.collect();
    if counted.len() > SHOWN {
        shown.push("…".into());
    }
    shown.join(", ")
}

/// By the names that Go's linker and cgo give (runtime/cgo).
fn is_go(frame: &Frame) -> bool {
    const STARTS: [&str; 6] = [
        "runtime.",
        "main.",
        "_cgoexp_",
        "crosscall",
        "x_cgo_",
        "_cgo_",
    ];
    let name = frame.function.as_deref().unwrap_or("");
    frame.kind == ModuleKind::Library && STARTS.iter().any(|s| name.starts_with(s))
}

/// The runtime that a frame belongs to, if it is a foreign one.
pub fn runtime_of(frame: &Frame) -> Option<&'static str> {
    if frame.kind == ModuleKind::Server || frame.kind == ModuleKind::Libc {
        return None;
    }
    let name = frame.function.as_deref().unwrap_or("");
    libraries::runtime(frame).or_else(|| {
        let legacy_rust = name.starts_with("_ZN") && name.contains("17h");
        if is_go(frame) {
            Some("Go")
        } else if legacy_rust || name.starts_with("_R") || name.starts_with("rust_") {
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

/// Whether the frame is in musl, which is one file with its dynamic linker: `ld-musl-ARCH.so.1`, or `libc.so` where that is
/// a link to it (glibc's is `libc.so.6`).
fn is_musl(frame: &Frame) -> bool {
    let file = frame.module_name();
    frame.kind == ModuleKind::Libc
        && (file.starts_with("ld-musl-") || file.starts_with("libc.musl-") || file == "libc.so")
}

/// The frame in musl whose caller call-frame information does not tell. musl's `configure` asks for code without it
/// (-fno-asynchronous-unwind-tables); at most separate debug files have some, in .debug_frame, which is not read.
pub fn lost_in_musl(stack: &Stack) -> Option<&Frame> {
    if stack.complete {
        return None;
    }
    let known = stack.frames.iter();
    let last_known = known
        .take_while(|f| f.found_by != FoundBy::FramePointer)
        .last();
    last_known.filter(|f| is_musl(f) && f.function_start.is_none())
}

/// A function by which the C library was entered and of which no rule knows that it holds no lock there. Static functions
/// run on behalf of the exported one that called them; when that one has no name either, nothing is known.
pub fn unknown_entry(frames: &[Frame]) -> Option<&Frame> {
    let libc = |f: &Frame| f.kind == ModuleKind::Libc;
    let entered = frames
        .windows(2)
        .filter(|pair| libc(&pair[0]) && !libc(&pair[1]))
        .map(|pair| &pair[0]);
    // Whoever is in a signal handler was not called by what lies outside.
    let mut entries = entered.filter(|f| !f.signal_frame);
    // The allocator has a check of its own.
    entries.find(|f| !WITHOUT_LOCKS.has(f) && !is_malloc(f))
}

/// The innermost function that is not the C library's, the dynamic linker's or the kernel's: who is at work. Before it come
/// the functions that were inlined into it there.
pub fn at_work(frames: &[Frame]) -> &[Frame] {
    innermost(frames, is_leaf_library)
}

/// The innermost function after those that are passed over, behind those that were inlined into it.
fn innermost(frames: &[Frame], passed_over: impl Fn(&Frame) -> bool) -> &[Frame] {
    let from = frames.iter().take_while(|f| passed_over(f)).count();
    let frames = &frames[from..];
    let inlined = frames.iter().take_while(|f| f.inlined).count();
    &frames[..frames.len().min(inlined + 1)]
}

/// The frame in which a subtransaction is being ended.
pub fn ends_a_subtransaction<'f>(snapshot: &Snapshot, frames: &'f [Frame]) -> Option<&'f Frame> {
    let end = snapshot.backend.subtransaction_end;
    let is_it = |f: &&Frame| {
        let starts_there = end.is_some() && f.function_start == end;
        SUBTRANSACTION_END.has(f) || f.kind == ModuleKind::Server && starts_there
    };
    frames.iter().find(is_it)
}

/// A function that may be CommitSubTransaction(), for all that is known, or was called by it: where that starts is not
/// known, and it has no name and is called by those that call that one, or in place of ReleaseCurrentSubTransaction() by an
/// extension; or it is no function of the server's, and called by one that may have that one inside. Or it is one of the
/// server's of which nothing is known.
pub fn may_end_a_subtransaction<'f>(snapshot: &Snapshot, frames: &'f [Frame]) -> Option<&'f Frame> {
    let unknown = snapshot.backend.subtransaction_end.is_none();
    let servers = |f: &Frame| f.kind == ModuleKind::Server;
    let nameless = |f: &Frame| servers(f) && f.function.is_none();
    let may_be = |f: &Frame, caller: &Frame| {
        let by_a_command = TRANSACTION_COMMANDS.has(caller);
        match nameless(f) {
            true => f.function_start.is_none() || unknown && (by_a_command || !servers(caller)),
            false => unknown && by_a_command && !servers(f),
        }
    };
    let pair = frames.windows(2).find(|pair| may_be(&pair[0], &pair[1]));
    pair.map(|pair| &pair[0])
}

/// Who answers for what is at work: the same, but past plain libraries, which work on behalf of their caller.
pub fn responsible(frames: &[Frame]) -> &[Frame] {
    let plain = |f: &Frame| is_plain_library(f) == Some(true) && runtime_of(f).is_none();
    innermost(frames, |f| {
        is_leaf_library(f) || plain(f) || is_mathematics(f)
    })
}

/// Where it happens: the innermost frame that neither waits nor allocates on behalf of its caller.
pub fn where_it_happens(frames: &[Frame]) -> Option<&Frame> {
    let on_behalf = |f: &Frame| {
        let helper = CALM.has(f) || PALLOC.has(f) || is_malloc(f);
        let unnamed = f.kind == ModuleKind::Server && f.function.is_none();
        is_leaf_library(f) || helper || unnamed || f.inlined || is_stub(f)
    };
    let candidate = frames.iter().find(|f| !on_behalf(f));
    // Past unnamed server functions only an extension is a better answer than the function itself.
    candidate
        .filter(|f| f.kind != ModuleKind::Server)
        .or_else(|| {
            frames
                .iter()
                .find(|f| !is_leaf_library(f) && !CALM.has(f) && !f.inlined && !is_stub(f))
        })
        .or_else(|| at_work(frames).first())
}

/// The innermost frame that is the server's or an extension's.
pub fn first_of_postgres(frames: &[Frame]) -> Option<usize> {
    frames
        .iter()
        .position(|f| f.kind == ModuleKind::Server || f.extension == Some(true))
}

/// Whether its transaction is being undone.
pub fn is_undoing(snapshot: &Snapshot) -> bool {
    let frames = snapshot.stack.as_ref().map(|s| &s.frames[..]);
    frames.is_none_or(|f| UNDOING.find(f).is_some())
}

/// On its way into another image, through the procedure linkage table.
fn is_stub(f: &Frame) -> bool {
    f.function
        .as_ref()
        .is_some_and(|name| name.ends_with("@plt"))
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
