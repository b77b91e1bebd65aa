//! The judgement, tested on snapshots that were captured on a real server (`tests/fixtures`, PostgreSQL 15 as Debian
//! ships it) and on what becomes of them when something is put in. What becomes of them when something is missing is in
//! `properties.rs`.
//!
//! `make fixtures` captures them anew; see `tests/suite/capture.rs`.

use std::path::Path;

use pgpoke::assess::{Request, Verdict, advice, assess, checks, verdict};
use pgpoke::snapshot::Snapshot;
use serde_json::Value;

/// File, cause, verdict for what is pending, verdicts had a cancel or a terminate been asked for.
const EXPECTED: &[(&str, &str, Verdict, Verdict, Verdict)] = {
    use Verdict::{Pointless, Risky, Safe, Unsafe};
    &[
        ("idle", "idle", Pointless, Pointless, Safe),
        ("client-write-cancel", "client-write", Unsafe, Unsafe, Risky),
        (
            "group-stopped-cancel",
            "group-stopped",
            Pointless,
            Pointless,
            Pointless,
        ),
        (
            "handlers-ignored-cancel",
            "handlers-replaced",
            Pointless,
            Safe,
            Safe,
        ),
        (
            "handlers-replaced-by-pqsignal-cancel",
            "handlers-replaced",
            Pointless,
            Safe,
            Safe,
        ),
        ("idle-in-transaction", "idle", Pointless, Pointless, Safe),
        (
            "malloc-beside-a-thread-cancel",
            "cpu-loop",
            Unsafe,
            Unsafe,
            Unsafe,
        ),
        ("malloc-cancel", "cpu-loop", Unsafe, Unsafe, Unsafe),
        ("palloc-cancel", "cpu-loop", Unsafe, Unsafe, Unsafe),
        ("recursion-cancel", "cpu-loop", Safe, Safe, Safe),
        ("sleeping", "responsive", Pointless, Safe, Safe),
        ("spinlock-released-cancel", "cpu-loop", Safe, Safe, Safe),
        ("swallowed-errors-cancel", "cpu-loop", Safe, Safe, Safe),
        (
            "uninterruptible-cancel",
            "uninterruptible-syscall",
            Pointless,
            Pointless,
            Pointless,
        ),
        ("usr1-blocked-cancel", "cpu-loop", Unsafe, Unsafe, Unsafe),
        ("usr1-ignored-cancel", "cpu-loop", Unsafe, Unsafe, Unsafe),
        (
            "usr1-on-a-small-stack-cancel",
            "cpu-loop",
            Unsafe,
            Unsafe,
            Unsafe,
        ),
        ("usr1-on-another-stack-cancel", "cpu-loop", Safe, Safe, Safe),
        ("spin", "responsive", Pointless, Safe, Safe),
        ("spin-cancel", "cpu-loop", Safe, Safe, Safe),
        ("spin-terminate", "cpu-loop", Safe, Safe, Safe),
        ("sleep-cancel", "blocked-syscall", Safe, Safe, Safe),
        ("read-cancel", "blocked-syscall", Safe, Safe, Safe),
        ("latch-cancel", "latch-loop", Safe, Safe, Safe),
        (
            "handlers-cancel",
            "handlers-replaced",
            Pointless,
            Safe,
            Safe,
        ),
        ("blocked-cancel", "signals-blocked", Pointless, Safe, Safe),
        (
            "hold-terminate",
            "interrupts-held-off",
            Pointless,
            Pointless,
            Pointless,
        ),
        ("crit-terminate", "critical-section", Unsafe, Unsafe, Unsafe),
        (
            "lwlock-terminate",
            "lwlock-self-deadlock",
            Pointless,
            Pointless,
            Pointless,
        ),
        (
            "lwlock-held-cancel",
            "interrupts-held-off",
            Pointless,
            Pointless,
            Pointless,
        ),
        (
            "lwlock-wait-terminate",
            "lwlock-wait",
            Pointless,
            Pointless,
            Pointless,
        ),
        ("lock-wait", "heavyweight-lock-wait", Pointless, Safe, Safe),
        ("catch-cancel", "cpu-loop", Risky, Risky, Risky),
        (
            "spinlock-terminate",
            "spinlock-wait",
            Unsafe,
            Unsafe,
            Unsafe,
        ),
        (
            "spinlock-held-terminate",
            "cpu-loop",
            Unsafe,
            Unsafe,
            Unsafe,
        ),
        ("division-cancel", "cpu-loop", Safe, Safe, Safe),
        ("handler-loop-cancel", "cpu-loop", Unsafe, Unsafe, Unsafe),
        ("stdio-cancel", "blocked-syscall", Unsafe, Unsafe, Unsafe),
        ("qsort-cancel", "cpu-loop", Safe, Safe, Safe),
        ("fifo-cancel", "blocked-syscall", Safe, Safe, Safe),
        ("poll-cancel", "blocked-syscall", Safe, Safe, Safe),
        ("child-cancel", "blocked-syscall", Safe, Safe, Safe),
        ("cplusplus-cancel", "cpu-loop", Unsafe, Unsafe, Risky),
        ("python-cancel", "foreign-runtime", Unsafe, Unsafe, Risky),
        ("dblink-cancel", "foreign-runtime", Risky, Risky, Risky),
        ("musl-spin-cancel", "cpu-loop", Safe, Safe, Safe),
        (
            "musl-fifo-cancel",
            "blocked-syscall",
            Unsafe,
            Unsafe,
            Unsafe,
        ),
    ]
};

fn fixture(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn snapshot(value: &Value) -> Snapshot {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn each_captured_backend_is_judged_as_it_was_seen_to_behave() {
    for (name, cause, pending, cancel, terminate) in EXPECTED {
        let judged = assess(&snapshot(&fixture(name)), Request::Pending, &[]);
        let objections: Vec<_> = judged.objections().collect();
        assert_eq!(judged.cause.code, *cause, "{name}: {:?}", judged.cause);
        assert_eq!(judged.verdict, *pending, "{name}: {objections:?}");
        assert_eq!(
            judged.verdict_if.cancel, *cancel,
            "{name}, had a cancel been asked for"
        );
        assert_eq!(
            judged.verdict_if.terminate, *terminate,
            "{name}, had a terminate been asked for"
        );
        assert_eq!(judged.checks.len(), checks::TABLE.len(), "{name}");
        assert!(
            !judged.cause.summary.is_empty() && !judged.advice.is_empty() || *cause == "idle",
            "{name}"
        );
    }
}

/// As it was met on 18 with io_method = io_uring, when the storage did not answer; from there the thread is the kernel's.
#[test]
fn a_wait_for_the_kernel_s_reads_is_one_for_the_storage() {
    let of = |frames: &[(&str, &str)], wanted: u64| {
        let mut value = fixture("hold-terminate");
        let outer = value["stack"]["frames"].as_array().unwrap().clone();
        let mut all = Vec::new();
        for (kind, module) in frames {
            let mut frame = outer[0].clone();
            frame["kind"] = (*kind).into();
            frame["module"] = (*module).into();
            frame["function"] = Value::Null;
            frame["extension"] = (*kind == "library").into();
            all.push(frame);
        }
        // Those of the extension that the fixture has innermost go.
        all.extend(outer.into_iter().skip(2));
        value["stack"]["frames"] = all.into();
        value["stack"]["in_syscall"] = true.into();
        value["process"]["state"] = "S".into();
        value["process"]["wait_channel"] = "io_cqring_wait".into();
        value["process"]["syscall"] = serde_json::json!({
            "number": 426, "name": "io_uring_enter", "descriptor": 9, "target": "anon_inode:[io_uring]",
            "arguments": [9, 0, wanted, 1, 0, 8],
        });
        assess(&snapshot(&value), Request::Pending, &[])
    };
    let server = ("server", "/usr/lib/postgresql/18/bin/postgres");
    let uring = ("library", "/usr/lib/x86_64-linux-gnu/liburing.so.2");
    let judged = of(&[uring, uring, server], 1);
    assert_eq!(judged.cause.code, "storage-wait");
    assert!(judged.cause.summary.contains("storage"));
    assert_eq!(judged.verdict, Verdict::Pointless);
    assert!(judged.advice.iter().any(|a| a.text.contains("disk")));
    let holds_off =
        |a: &pgpoke::assess::advice::Advice| a.text.contains("find why it holds interrupts off");
    assert!(!judged.advice.iter().any(holds_off), "{:?}", judged.advice);
    assert_eq!(of(&[server], 1).cause.code, "storage-wait");
    // An extension's own ring, and one that it only hands work to.
    let extension = ("library", "/usr/lib/postgresql/18/lib/fast.so");
    for (frames, wanted) in [(&[uring, extension][..], 1), (&[uring, server], 0)] {
        assert_eq!(of(frames, wanted).cause.code, "interrupts-held-off");
    }
}

/// Every function of every rule, put innermost on a stack that was safe, makes it unsafe or risky.
#[test]
fn a_stack_that_ends_in_unknown_code_is_never_safe() {
    for name in ["spin-cancel", "sleep-cancel", "qsort-cancel"] {
        let mut value = fixture(name);
        let frame = value["stack"]["frames"][0].clone();
        for (kind, function) in [
            ("libc", Value::Null),
            ("server", Value::Null),
            ("libc", "_int_malloc".into()),
            ("libc", "__GI___libc_free".into()),
            ("libc", "random_r".into()),
            ("libc", "__add_to_environ".into()),
            ("libc", "__dcigettext".into()),
            ("server", "LocalExecuteInvalidationMessage".into()),
            ("server", "AllocSetAlloc".into()),
            ("server", "pfree".into()),
            ("server", "SearchCatCache1".into()),
            ("server", "hash_search_with_hash_value".into()),
            ("server", "errfinish".into()),
            ("server", "s_lock".into()),
            ("server", "secure_write".into()),
            ("server", "a_function_without_a_rule".into()),
            ("dynamic-linker", "_dl_fixup".into()),
            ("libc", "fwrite".into()),
            ("library", "_ZNSt6vectorIiE9push_backEi".into()),
            ("library of jemalloc", Value::Null),
        ] {
            let mut inner = frame.clone();
            let (kind, module) = match kind.split_once(" of ") {
                Some((kind, allocator)) => (kind, format!("/usr/lib/lib{allocator}.so.2")),
                None => (kind, "/somewhere".to_owned()),
            };
            inner["kind"] = kind.into();
            inner["function"] = function.clone();
            inner["module"] = module.into();
            let frames = value["stack"]["frames"].as_array_mut().unwrap();
            frames.insert(0, inner);
            value["stack"]["in_syscall"] = false.into();
            let (judged, checks) = verdict(&snapshot(&value), Request::Pending, &[]);
            assert_ne!(
                judged,
                Verdict::Safe,
                "{name} with {kind} {function} innermost: {checks:?}"
            );
            value["stack"]["frames"].as_array_mut().unwrap().remove(0);
        }
    }
}

/// On musl nothing tells who called main(), and of main() alone that need not be known.
#[test]
fn only_the_caller_of_main_may_be_unproved() {
    let judge = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut value = fixture(name);
        change(&mut value["stack"]);
        verdict(&snapshot(&value), Request::Pending, &[]).0
    };
    let frame = |stack: &mut Value, from_last: usize, field: &str, to: Value| {
        let frames = stack["frames"].as_array_mut().unwrap();
        let at = frames.len() - 1 - from_last;
        frames[at][field] = to;
    };
    let musl = "musl-spin-cancel";
    assert_eq!(judge(musl, &|_| ()), Verdict::Safe);
    type Change<'c> = (&'c str, &'c str, &'c dyn Fn(&mut Value));
    let changes: [Change; 9] = [
        ("another function", musl, &|s| {
            frame(s, 1, "function", "PostmasterMain".into())
        }),
        ("no name", musl, &|s| frame(s, 1, "function", Value::Null)),
        ("a library's main()", musl, &|s| {
            frame(s, 1, "kind", "library".into())
        }),
        ("called by a library", musl, &|s| {
            frame(s, 0, "kind", "library".into())
        }),
        ("a caller that is known", musl, &|s| {
            frame(s, 0, "function_start", "0x1000".into())
        }),
        ("a guess", musl, &|s| {
            frame(s, 0, "found_by", "frame-pointer".into())
        }),
        ("no caller", musl, &|s| {
            s["frames"].as_array_mut().unwrap().pop();
        }),
        ("another end", musl, &|s| {
            s["end"] = "no-unwind-info".into();
        }),
        ("where there is a root", "spin-cancel", &|s| {
            s["end"] = "main".into();
        }),
    ];
    for (what, name, change) in changes {
        assert_eq!(judge(name, change), Verdict::Unsafe, "{what}");
    }
}

/// The same stack, with its innermost frame in a library that is no extension, in a client library, or in one of which
/// that was not looked at.
#[test]
fn a_library_that_is_no_extension_is_a_risk() {
    let judge = |module: &str, extension: Value| {
        let mut value = fixture("spin-cancel");
        let frame = &mut value["stack"]["frames"][0];
        frame["module"] = module.into();
        frame["extension"] = extension;
        let snapshot = snapshot(&value);
        let cancel = verdict(&snapshot, Request::Cancel, &[]).0;
        (cancel, verdict(&snapshot, Request::Terminate, &[]).0)
    };
    use Verdict::{Risky, Safe, Unsafe};
    let own = "/somewhere/own.so";
    assert_eq!(judge(own, true.into()), (Safe, Safe));
    assert_eq!(judge(own, false.into()), (Risky, Safe));
    assert_eq!(judge(own, Value::Null), (Unsafe, Unsafe));
    assert_eq!(judge("/lib/libm.so.6", false.into()), (Safe, Safe));
    let client = "/lib/libcurl.so.4";
    assert_eq!(judge(client, false.into()), (Risky, Risky));
    assert_eq!(judge(client, Value::Null), (Unsafe, Unsafe));
}

/// What another process's handler did is known of a signal that pgpoke has sent, and of no other.
#[test]
fn a_strangers_handler_is_the_cause_where_a_signal_got_lost_in_it() {
    let cause = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut value = fixture(name);
        change(&mut value);
        assess(&snapshot(&value), Request::Pending, &[]).cause
    };
    let postgis = |value: &mut Value| {
        let handler = &mut value["signals"]["handlers"][0];
        handler["expected"] = false.into();
        handler["function"] = Value::Null;
        handler["module"] = "/usr/lib/postgresql/15/lib/postgis-3.so".into();
    };
    let own = "handlers-cancel";
    assert_eq!(cause(own, &|_| ()).code, "handlers-replaced");
    for (what, field, value) in [
        ("not sent", "/signals/sent", Value::Null),
        ("not delivered yet", "/signals/pending", 2.into()),
        ("flag set", "/variables/query_cancel_pending", true.into()),
    ] {
        let cause = cause(own, &|v| *v.pointer_mut(field).unwrap() = value.clone());
        assert_ne!(cause.code, "handlers-replaced", "{what}: {cause:?}");
    }
    let unsent = cause(own, &|v| v["signals"]["sent"] = Value::Null);
    assert!(unsent.summary.contains("not PostgreSQL's"), "{unsent:?}");
    // PostGIS's passes the signal on: nothing is different with it.
    for name in [
        "idle",
        "spin",
        "spin-cancel",
        "lock-wait",
        "sleeping",
        "latch-cancel",
    ] {
        for sent in [Value::Null, 2.into()] {
            let with = cause(name, &|v| {
                postgis(v);
                v["signals"]["sent"] = sent.clone();
            });
            assert_eq!(with, cause(name, &|_| ()), "{name}");
        }
    }
}

/// numpy's and BLAS's functions run for Python: it is the one that does not look at interrupts.
#[test]
fn a_library_works_on_behalf_of_the_runtime_below_it() {
    let with_inner = |name: &str, module: &str| {
        let mut value = fixture(name);
        value["stack"]["in_syscall"] = false.into();
        value["process"]["state"] = "R".into();
        let frames = value["stack"]["frames"].as_array_mut().unwrap();
        while frames[0]["kind"] == "libc" {
            frames.remove(0);
        }
        let mut inner = frames[0].clone();
        inner["kind"] = "library".into();
        inner["module"] = module.into();
        inner["function"] = "dgemm_".into();
        inner["extension"] = false.into();
        inner["inlined"] = false.into();
        frames.insert(0, inner);
        assess(&snapshot(&value), Request::Pending, &[])
    };
    for module in [
        "/usr/lib/libblas.so.3",
        "/usr/lib/libz.so.1",
        "/usr/lib/libstdc++.so.6",
    ] {
        let judged = with_inner("python-cancel", module);
        assert_eq!(judged.cause.code, "foreign-runtime", "{:?}", judged.cause);
        let summary = &judged.cause.summary;
        let library = module.rsplit('/').next().unwrap();
        assert!(
            summary.starts_with("Python computes, in ") && summary.contains("libpython"),
            "{summary}"
        );
        assert!(
            summary.contains(&format!("in dgemm_() in {library}")),
            "{summary}"
        );
        assert!(judged.advice.iter().all(|a| !a.text.contains("CHECK_FOR")));
    }
    // Without a runtime it is the extension that lacks the check.
    let judged = with_inner("spin-cancel", "/usr/lib/libz.so.1");
    assert_eq!(judged.cause.code, "cpu-loop");
    let summary = &judged.cause.summary;
    assert!(
        summary.starts_with("spin() in pgpoke_test.so, in dgemm_() in libz.so.1,"),
        "{summary}"
    );
}

/// What waits for a peer is a client, whatever it is called, and what it does at exit runs in the middle of its call.
#[test]
fn all_clients_are_judged_alike() {
    let judge = |module: &str| {
        let mut value = fixture("dblink-cancel");
        for frame in value["stack"]["frames"].as_array_mut().unwrap() {
            let path = frame["module"].as_str().unwrap_or_default().to_owned();
            if path.contains("libpq.so") {
                frame["module"] = module.into();
            }
        }
        verdict(&snapshot(&value), Request::Terminate, &[]).0
    };
    for module in [
        "libpq.so.5",
        "libmemcached.so.11",
        "libsybdb.so.5",
        "libnobodyknows.so.1",
    ] {
        assert_eq!(
            judge(&format!("/usr/lib/{module}")),
            Verdict::Risky,
            "{module}"
        );
    }
}

/// GEOS heeds a SIGINT that PostGIS passes on to it, and no ERROR may jump across it.
#[test]
fn geos_is_to_be_asked_by_a_signal() {
    let advises = |change: &dyn Fn(&mut Value)| {
        let mut value = fixture("python-cancel");
        value["variables"]["query_cancel_pending"] = false.into();
        value["variables"]["proc_die_pending"] = true.into();
        value["stack"]["in_syscall"] = false.into();
        for frame in value["stack"]["frames"].as_array_mut().unwrap() {
            let path = frame["module"].as_str().unwrap_or_default().to_owned();
            if path.contains("libpython") {
                frame["module"] = "/usr/lib/libgeos.so.3.11.1".into();
            }
        }
        value["stack"]["frames"][1]["function"] =
            "_ZN4geos6noding12MCIndexNoder15intersectChainsEv".into();
        let handler = &mut value["signals"]["handlers"][0];
        handler["expected"] = false.into();
        handler["module"] = "/usr/lib/postgresql/15/lib/postgis-3.so".into();
        change(&mut value);
        let judged = assess(&snapshot(&value), Request::Pending, &[]);
        let commands = judged.advice.iter().filter_map(|a| a.command.as_ref());
        commands
            .filter(|c| c.contains("interrupt --cancel"))
            .count()
            == 1
    };
    assert!(advises(&|_| ()));
    type Change<'c> = (&'c str, &'c dyn Fn(&mut Value));
    let not: [Change; 5] = [
        ("asked already", &|v| {
            v["variables"]["query_cancel_pending"] = true.into()
        }),
        ("held off", &|v| {
            v["variables"]["interrupt_holdoff_count"] = 1.into()
        }),
        ("blocked", &|v| v["signals"]["blocked"] = 2.into()),
        ("PostgreSQL's own handler", &|v| {
            v["signals"]["handlers"][0]["module"] = "/usr/lib/postgresql/15/bin/postgres".into()
        }),
        ("where it does not look", &|v| {
            v["stack"]["frames"][1]["function"] = "insertUniqueEdge".into()
        }),
    ];
    for (what, change) in not {
        assert!(!advises(change), "{what}");
    }
}

/// What the C library is entered by decides: most of its functions hold no lock, but that has to be known.
#[test]
fn the_c_library_is_entered_by_functions_that_are_known() {
    let mut value = fixture("spin-cancel");
    let mut inner = value["stack"]["frames"][0].clone();
    inner["kind"] = "libc".into();
    inner["module"] = "/usr/lib/x86_64-linux-gnu/libc.so.6".into();
    for (function, expected) in [
        ("a_function_without_a_rule", Verdict::Unsafe),
        ("random", Verdict::Unsafe),
        ("strlen", Verdict::Safe),
        ("__memcpy_avx_unaligned_erms", Verdict::Safe),
    ] {
        let mut changed = value.clone();
        inner["function"] = function.into();
        let frames = changed["stack"]["frames"].as_array_mut().unwrap();
        frames.insert(0, inner.clone());
        let (judged, checks) = verdict(&snapshot(&changed), Request::Pending, &[]);
        assert_eq!(judged, expected, "{function}: {checks:?}");
    }
    value["stack"]["frames"][0]["function"] = "spin".into();
    assert_eq!(
        verdict(&snapshot(&value), Request::Pending, &[]).0,
        Verdict::Safe
    );
}

#[test]
fn a_warning_can_be_allowed_by_name_and_a_failure_cannot() {
    let mut value = fixture("spin-terminate");
    value["process"]["threads"] = 2.into();
    let judge = |value: &Value, allowed: &[&str]| {
        let allowed: Vec<String> = allowed.iter().map(|a| a.to_string()).collect();
        verdict(&snapshot(value), Request::Pending, &allowed).0
    };
    assert_eq!(judge(&value, &[]), Verdict::Risky);
    assert_eq!(judge(&value, &["server-code"]), Verdict::Risky);
    assert_eq!(judge(&value, &["threads"]), Verdict::Safe);
    value["variables"]["crit_section_count"] = 1.into();
    assert_eq!(
        judge(&value, &["threads", "critical-section"]),
        Verdict::Unsafe
    );
}

/// What never may be interrupted stays so, whatever else is true of it.
#[test]
fn a_postmaster_is_unsafe_even_with_nothing_pending() {
    for kind in ["postmaster", "checkpointer", "startup", "unknown"] {
        for name in ["spin", "spin-terminate", "hold-terminate", "idle"] {
            let mut value = fixture(name);
            value["backend"]["backend_type"] = kind.into();
            for request in [Request::Pending, Request::Cancel, Request::Terminate] {
                let (judged, _) = verdict(&snapshot(&value), request, &[]);
                assert_eq!(judged, Verdict::Unsafe, "{kind} {name} {request:?}");
            }
        }
    }
}

/// What is advised is not refused: each `pgpoke interrupt`, judged with what it allows, is safe, or is unsafe for nothing but
/// places that the backend leaves by itself, and says that it waits.
#[test]
fn no_command_is_advised_that_would_be_refused() {
    let mut commands = 0;
    for (name, ..) in EXPECTED {
        let snapshot = snapshot(&fixture(name));
        for request in [Request::Pending, Request::Cancel, Request::Terminate] {
            for advice in assess(&snapshot, request, &[]).advice {
                let Some(command) = &advice.command else {
                    continue;
                };
                let words: Vec<&str> = command.split(' ').collect();
                if words[..2] != ["pgpoke", "interrupt"] {
                    continue;
                }
                commands += 1;
                let has = |word| words.contains(&word);
                let asked = match (has("--cancel"), has("--terminate")) {
                    (true, _) => Request::Cancel,
                    (_, true) => Request::Terminate,
                    _ => Request::Pending,
                };
                let allowed: Vec<String> = words
                    .windows(2)
                    .filter(|pair| pair[0] == "--allow")
                    .map(|pair| pair[1].to_owned())
                    .collect();
                let (judged, checks) = verdict(&snapshot, asked, &allowed);
                let waits = advice.text.contains("waits for a better one");
                match judged {
                    Verdict::Safe => {}
                    Verdict::Unsafe if waits => {
                        for check in checks.iter().filter(|c| c.objection.is_some()) {
                            assert!(
                                advice::MOVES_ON.contains(&check.code)
                                    && check.code != "foreign-runtime",
                                "{name}: {command}: {check:?}"
                            );
                        }
                    }
                    _ => panic!("{name} {request:?}: {advice}: {judged}: {checks:?}"),
                }
            }
        }
    }
    assert!(commands > 50, "only {commands}");
}

/// No auxiliary process is called stuck for good where a restart would come to the same place, or something less helps.
#[test]
fn what_is_advised_for_auxiliary_processes_helps() {
    let advice = |fixture_name: &str, kind: &str, change: &dyn Fn(&mut Value)| {
        let mut value = fixture(fixture_name);
        value["backend"]["backend_type"] = kind.into();
        change(&mut value);
        let all = assess(&snapshot(&value), Request::Pending, &[]).advice;
        all.iter().map(|a| format!("{a}\n")).collect::<String>()
    };
    let same = &|_: &mut Value| ();
    for name in ["lwlock-terminate", "crit-terminate", "spin"] {
        let said = advice(name, "startup", same);
        assert!(
            !said.contains("restart -m immediate") && said.contains("same record again"),
            "{said}"
        );
    }
    let stopped = advice("group-stopped-cancel", "checkpointer", same);
    assert!(
        stopped.contains("kill -CONT") && !stopped.contains("restart"),
        "{stopped}"
    );
    let orphan = &|value: &mut Value| value["backend"]["postmaster_pid"] = Value::Null;
    let orphan = advice("spin", "logger", orphan);
    assert!(
        orphan.contains("kill -9") && !orphan.contains("restart of"),
        "{orphan}"
    );
    let archiver = advice("child-cancel", "archiver", same);
    assert!(
        archiver.contains(": kill ") && !archiver.contains("restart of"),
        "{archiver}"
    );
    let recovery = advice("child-cancel", "startup", same);
    assert!(!recovery.contains(": kill "), "{recovery}");
    let stopping = &|value: &mut Value| value["backend"]["server_stopping"] = true.into();
    let recovery = advice("child-cancel", "startup", stopping);
    assert!(recovery.contains(": kill "), "{recovery}");
}

/// Who it waits for, where a look has found that out.
fn whom_it_waits_for(value: &Value) -> Option<&Value> {
    let locks = &value["locks"];
    let somebody = |list: &Value| list.as_array().is_some_and(|all| !all.is_empty());
    if somebody(&locks["lwlock"]["holders"]) || somebody(&locks["heavyweight"]["blockers"]) {
        return Some(locks);
    }
    let awaited = value["process"]["syscall"]["waits_for"].as_array()?;
    awaited.iter().find(|a| match a["kind"].as_str() {
        Some("child" | "fifo") => true,
        Some("socket") => !a["remote"].is_null(),
        // Among several there is the postmaster's, which is for its death only.
        Some("pipe") => awaited.len() == 1 && somebody(&a["also_open_in"]),
        _ => false,
    })
}

/// Whether or not anybody has asked it to stop.
#[test]
fn nobody_is_called_responsive_who_waits_for_somebody_nameable() {
    let mut nameable = Vec::new();
    for (name, ..) in EXPECTED {
        let as_it_was = fixture(name);
        let mut well = as_it_was.clone();
        for flag in [
            "interrupt_pending",
            "query_cancel_pending",
            "proc_die_pending",
        ] {
            well["variables"][flag] = false.into();
        }
        well["signals"]["pending"] = 0.into();
        well["signals"]["sent"] = Value::Null;
        for value in [as_it_was, well] {
            let Some(whom) = whom_it_waits_for(&value) else {
                continue;
            };
            let cause = assess(&snapshot(&value), Request::Pending, &[]).cause;
            assert_ne!(cause.code, "responsive", "{name}: {whom}");
            nameable.push(*name);
        }
    }
    nameable.dedup();
    assert!(nameable.len() > 4, "{nameable:?}");
}
