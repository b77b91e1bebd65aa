//! What pgpoke says with `--json`, read as a script would read it, and held against what scripts
//! may rely on.

use serde_json::Value;

use crate::harness::Run;

/// Every check that scripts may look for; there may be more.
const CHECKS: [&str; 24] = [
    "identity",
    "backend-type",
    "server-known",
    "pending",
    "held-off",
    "critical-section",
    "lwlock-held",
    "lwlock-wait",
    "spinlock",
    "allocator",
    "dynamic-linker",
    "stdio-lock",
    "error-in-progress",
    "exiting",
    "signal-handler",
    "client-io",
    "interrupt-model",
    "server-code",
    "foreign-runtime",
    "threads",
    "unwind",
    "handlers",
    "signal-deliverable",
    "process-state",
];

/// Every cause.
const CAUSES: [&str; 29] = [
    "responsive",
    "receiver-wait",
    "process-wait",
    "sleep-loop",
    "starting",
    "authenticating",
    "idle",
    "cpu-loop",
    "latch-loop",
    "blocked-syscall",
    "uninterruptible-syscall",
    "lwlock-wait",
    "lwlock-self-deadlock",
    "spinlock-wait",
    "heavyweight-lock-wait",
    "foreign-runtime",
    "client-write",
    "handlers-replaced",
    "abort-hangs",
    "swallowed",
    "signals-blocked",
    "interrupts-held-off",
    "critical-section",
    "barrier-ignored",
    "exiting",
    "postmaster-gone",
    "group-stopped",
    "being-traced",
    "unknown",
];

/// The fields of an inspection that are always there, if only as null.
const FIELDS: [&str; 49] = [
    "/schema_version",
    "/pid",
    "/verdict",
    "/verdict_if/cancel",
    "/verdict_if/terminate",
    "/cause/code",
    "/cause/summary",
    "/cause/evidence",
    "/checks",
    "/advice",
    "/backend/type",
    "/backend/server_version",
    "/backend/data_directory",
    "/backend/database",
    "/backend/user",
    "/backend/client",
    "/backend/application_name",
    "/backend/state",
    "/backend/query",
    "/backend/container",
    "/backend/pid_in_container",
    "/backend/postmaster_pid",
    "/interrupts/interrupt_pending",
    "/interrupts/query_cancel_pending",
    "/interrupts/proc_die_pending",
    "/interrupts/proc_signal_barrier_pending",
    "/interrupts/interrupt_holdoff_count",
    "/interrupts/query_cancel_holdoff_count",
    "/interrupts/crit_section_count",
    "/locks/lwlocks_held",
    "/locks/waiting_for",
    "/locks/blocked_by",
    "/locks/spinlock",
    "/signals/SIGINT/handler",
    "/signals/SIGINT/module",
    "/signals/SIGINT/expected",
    "/signals/SIGTERM/handler",
    "/signals/SIGTERM/expected",
    "/signals/SIGUSR1/handler",
    "/signals/SIGUSR1/expected",
    "/signals/blocked",
    "/signals/pending",
    "/process/state",
    "/process/wait_channel",
    "/process/syscall",
    "/process/threads",
    "/process/cpu_percent",
    "/stopped_ms",
    "/stack",
];

const FRAME_FIELDS: [&str; 11] = [
    "index",
    "ip",
    "module",
    "offset",
    "function",
    "inlined",
    "file",
    "line",
    "symbol_source",
    "found_by",
    "signal_frame",
];

/// A finished run with `--json` that judged a backend.
pub struct Report {
    /// The run itself.
    pub run: Run,
    json: Value,
}

impl Report {
    /// Runs pgpoke with `--json` and these arguments.
    #[track_caller]
    pub fn of(args: &[&str], pid: i32) -> Self {
        Self::read(run_json(args, pid), pid)
    }

    /// The object on stdout, which must be whole and well-formed, with nothing beside it.
    #[track_caller]
    pub fn read(run: Run, pid: i32) -> Self {
        // Few machines for tests have a system log, and an interrupt that cannot write there says so.
        let unexpected = run
            .stderr
            .lines()
            .find(|line| !line.contains("the system log"));
        assert_eq!(unexpected, None, "something on stderr:\n{run}");
        let json = run.json();
        let report = Self { run, json };
        report.assert_well_formed(pid);
        report
    }

    /// The value at a JSON pointer, which has to be there.
    #[track_caller]
    pub fn at(&self, pointer: &str) -> &Value {
        self.json
            .pointer(pointer)
            .unwrap_or_else(|| panic!("no {pointer}:\n{}", self.run))
    }

    /// Asserts the value at a JSON pointer.
    #[track_caller]
    pub fn assert_at(&self, pointer: &str, expected: impl Into<Value>) -> &Self {
        let (value, expected) = (self.at(pointer), expected.into());
        assert!(
            *value == expected,
            "{pointer} is {value}, expected {expected}:\n{}",
            self.run
        );
        self
    }

    /// Asserts the exit code.
    #[track_caller]
    pub fn assert_code(&self, expected: i32) -> &Self {
        self.run.assert_code(expected);
        self
    }

    /// Asserts verdict and exit code of an inspection, which go together.
    #[track_caller]
    pub fn assert_verdict(&self, expected: &str) -> &Self {
        let code = match expected {
            "safe" => 0,
            "risky" => 3,
            "unsafe" => 4,
            "pointless" => 5,
            other => panic!("there is no verdict {other:?}"),
        };
        self.assert_at("/verdict", expected).assert_code(code)
    }

    /// Asserts what a cancel and a terminate would meet.
    #[track_caller]
    pub fn assert_verdict_if(&self, cancel: &str, terminate: &str) -> &Self {
        self.assert_at("/verdict_if/cancel", cancel)
            .assert_at("/verdict_if/terminate", terminate)
    }

    /// Asserts the outcome and the exit code of an interrupt.
    #[track_caller]
    pub fn assert_outcome(&self, expected: &str, code: i32) -> &Self {
        self.assert_at("/outcome", expected).assert_code(code)
    }

    /// Asserts which of the server's flags are set.
    #[track_caller]
    pub fn assert_flags(&self, cancel: bool, terminate: bool) -> &Self {
        self.assert_at("/interrupts/query_cancel_pending", cancel)
            .assert_at("/interrupts/proc_die_pending", terminate)
            .assert_at("/interrupts/interrupt_pending", cancel || terminate)
    }

    /// A text that has to be there.
    #[track_caller]
    pub fn text(&self, pointer: &str) -> &str {
        self.at(pointer)
            .as_str()
            .unwrap_or_else(|| panic!("{pointer} is no text:\n{}", self.run))
    }

    /// The status of a check.
    #[track_caller]
    pub fn check(&self, code: &str) -> &str {
        self.checks()
            .find(|(c, _)| *c == code)
            .unwrap_or_else(|| panic!("no check {code}:\n{}", self.run))
            .1
    }

    /// The codes of the checks that have this status, sorted.
    pub fn checks_that(&self, status: &str) -> Vec<&str> {
        let mut codes: Vec<_> = self
            .checks()
            .filter(|(_, s)| *s == status)
            .map(|(code, _)| code)
            .collect();
        codes.sort_unstable();
        codes
    }

    /// Asserts that every check passed.
    #[track_caller]
    pub fn assert_all_checks_pass(&self) -> &Self {
        let objecting: Vec<_> = self.checks().filter(|(_, s)| *s != "pass").collect();
        assert!(objecting.is_empty(), "{objecting:?} object:\n{}", self.run);
        self
    }

    /// The frames, innermost first.
    #[track_caller]
    pub fn frames(&self) -> &[Value] {
        self.at("/stack").as_array().expect("a list of frames")
    }

    /// The functions of one module that have frames on the stack, innermost first; "??" without a
    /// name. Those that were compiled into their callers (fortified `read`, for one) do not count.
    pub fn functions_in(&self, module: &str) -> Vec<&str> {
        self.frames()
            .iter()
            .filter(|frame| module_of(frame) == module && frame["inlined"] == false)
            .map(function_of)
            // One that calls in a loop may be met on its way out of its module.
            .filter(|function| !function.ends_with("@plt"))
            .collect()
    }

    /// The last part of the path of the innermost module that is not the C library, the vDSO or
    /// the dynamic linker.
    pub fn module_at_work(&self) -> &str {
        self.frames()
            .iter()
            .map(module_of)
            .find(|m| {
                !["libc.", "ld-linux", "[vdso]"]
                    .iter()
                    .any(|l| m.starts_with(l))
            })
            .unwrap_or_default()
    }

    /// For how long the backend stood still, in milliseconds: a moment, but not none.
    #[track_caller]
    pub fn assert_stopped_for_a_moment(&self) -> &Self {
        let stopped = self.at("/stopped_ms").as_f64().expect("milliseconds");
        // A tenth of a millisecond is usual; on a busy machine the tracer may have to wait for its
        // turn.
        assert!(
            stopped > 0.0 && stopped < 100.0,
            "stood still for {stopped} ms:\n{}",
            self.run
        );
        self
    }

    /// Asserts that one of the hints says this.
    #[track_caller]
    pub fn assert_advises(&self, text: &str) -> &Self {
        let advice = self.at("/advice").as_array().expect("a list of advice");
        assert!(
            advice
                .iter()
                .any(|a| a.as_str().is_some_and(|a| a.contains(text))),
            "no advice says {text:?}:\n{}",
            self.run
        );
        self
    }

    fn checks(&self) -> impl Iterator<Item = (&str, &str)> {
        let checks = self.json["checks"].as_array().into_iter().flatten();
        checks.map(|c| {
            (
                c["code"].as_str().unwrap_or("no code"),
                c["status"].as_str().unwrap_or("no status"),
            )
        })
    }

    #[track_caller]
    fn assert_well_formed(&self, pid: i32) {
        let run = &self.run;
        for field in FIELDS {
            self.at(field);
        }
        self.assert_at("/schema_version", 1).assert_at("/pid", pid);
        assert!(self.at("/stack_complete").is_boolean(), "{run}");
        for verdict in ["/verdict", "/verdict_if/cancel", "/verdict_if/terminate"] {
            let verdict = self.text(verdict);
            assert!(
                ["safe", "risky", "unsafe", "pointless"].contains(&verdict),
                "{verdict:?} is no verdict:\n{run}"
            );
        }
        let cause = self.text("/cause/code");
        assert!(CAUSES.contains(&cause), "{cause:?} is no cause:\n{run}");
        assert!(!self.text("/cause/summary").is_empty(), "{run}");

        for code in CHECKS {
            let times = self.checks().filter(|(c, _)| *c == code).count();
            assert_eq!(times, 1, "check {code}:\n{run}");
        }
        for (code, status) in self.checks() {
            assert!(
                ["pass", "warn", "fail", "unknown"].contains(&status),
                "{code} is {status:?}:\n{run}"
            );
        }
        for check in self.at("/checks").as_array().expect("a list of checks") {
            let detail = check["detail"].as_str().unwrap_or_default();
            assert!(!detail.is_empty(), "{check} does not say why:\n{run}");
        }

        for (index, frame) in self.frames().iter().enumerate() {
            assert_eq!(frame["index"], index, "{run}");
            for field in FRAME_FIELDS {
                assert!(frame.get(field).is_some(), "{frame} has no {field}:\n{run}");
            }
            let found_by = frame["found_by"].as_str().unwrap_or_default();
            let expected: &[&str] = if index == 0 {
                &["context"]
            } else {
                &["context", "cfi", "frame-pointer"]
            };
            assert!(expected.contains(&found_by), "{frame}:\n{run}");
        }
        assert_names_and_addresses(&self.json, run);
    }
}

/// Runs pgpoke with `--json` and these arguments, whatever comes of it.
#[track_caller]
pub fn run_json(args: &[&str], pid: i32) -> Run {
    let pid = pid.to_string();
    Run::pgpoke(args.iter().copied().chain(["--json", pid.as_str()]))
}

/// The last part of the path of a frame's module.
pub fn module_of(frame: &Value) -> &str {
    let path = frame["module"].as_str().unwrap_or_default();
    path.rsplit('/').next().unwrap_or(path)
}

/// The function of a frame.
pub fn function_of(frame: &Value) -> &str {
    frame["function"].as_str().unwrap_or("??")
}

/// Every key is in snake_case, but for the names of signals; every address is a text in hex.
#[track_caller]
fn assert_names_and_addresses(value: &Value, run: &Run) {
    const ADDRESSES: [&str; 3] = ["ip", "offset", "handler"];
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let snake = name
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
                assert!(
                    snake || name.starts_with("SIG"),
                    "{name:?} is not in snake_case:\n{run}"
                );
                if ADDRESSES.contains(&name.as_str()) && !value.is_null() {
                    let hex = value.as_str().and_then(|text| text.strip_prefix("0x"));
                    assert!(
                        hex.is_some_and(|hex| u64::from_str_radix(hex, 16).is_ok()),
                        "{name}: {value} is no address:\n{run}"
                    );
                }
                assert_names_and_addresses(value, run);
            }
        }
        Value::Array(values) => values
            .iter()
            .for_each(|value| assert_names_and_addresses(value, run)),
        _ => {}
    }
}
