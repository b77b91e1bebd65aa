//! `docs/pgpoke.schema.json` is what pgpoke prints: no field more, none less, none of another name. `Run::json`
//! holds the output of every other test to it, too.

use std::collections::BTreeSet;
use std::path::Path;

use jsonschema::Validator;
use pgpoke::assess::{Interrupt, Status, Verdict, cause, checks};
use pgpoke::image::SymbolSource;
use pgpoke::intervene::{Outcome, Rung};
use pgpoke::postgres::{Activity, BackendType};
use pgpoke::render::{json, ladder};
use pgpoke::unwind::FoundBy;
use serde_json::{Value, to_value};

use crate::harness::{How, Run, Server, as_user_without_ptrace, is_root, pgpoke, skip};

fn schema() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/pgpoke.schema.json");
    let text = std::fs::read_to_string(path).expect("docs/pgpoke.schema.json");
    serde_json::from_str(&text).expect("JSON")
}

/// All of the schema, or that of one kind of output. One kind gives better messages than "none of the three".
fn validator(kind: Option<&str>) -> Validator {
    let mut schema = schema();
    if let Some(kind) = kind {
        let object = schema.as_object_mut().expect("an object");
        object.remove("oneOf");
        object.insert("$ref".into(), format!("#/$defs/{kind}").into());
    }
    jsonschema::draft202012::new(&schema).expect("a schema of draft 2020-12")
}

#[track_caller]
fn assert_valid(kind: &str, run: &Run) -> Value {
    let output = run.json();
    let errors: Vec<String> = validator(Some(kind))
        .iter_errors(&output)
        .map(|e| format!("{}: {e}", e.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{}\n{run}", errors.join("\n"));
    assert!(
        validator(None).is_valid(&output),
        "it is of more than one kind:\n{run}"
    );
    output
}

/// The strings in `$defs/NAME/enum`.
fn listed(name: &str) -> BTreeSet<String> {
    strings(&schema()["$defs"][name])
}

fn strings(of: &Value) -> BTreeSet<String> {
    let values = of["enum"]
        .as_array()
        .unwrap_or_else(|| panic!("no enum: {of}"));
    let names: BTreeSet<String> = values
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let nulls = values.iter().filter(|v| v.is_null()).count();
    assert_eq!(
        names.len() + nulls,
        values.len(),
        "a name twice, or no name: {of}"
    );
    names
}

/// All values of an enum, by a match that does not compile when one is missing.
macro_rules! all {
    ($type:ident: $($variant:ident),+ $(,)?) => {{
        let _ = |value: $type| match value { $($type::$variant => {})+ };
        [$($type::$variant),+]
    }};
}

fn names<T: serde::Serialize>(values: impl IntoIterator<Item = T>) -> BTreeSet<String> {
    let name = |value: T| to_value(value).unwrap().as_str().unwrap().to_owned();
    values.into_iter().map(name).collect()
}

#[test]
fn it_is_a_schema() {
    if let Err(error) = jsonschema::meta::validate(&schema()) {
        panic!("{}: {error}", error.instance_path());
    }
}

#[test]
fn it_lists_what_the_code_can_say() {
    let set = |codes: &[&str]| {
        codes
            .iter()
            .map(|c| (*c).to_owned())
            .collect::<BTreeSet<_>>()
    };
    let codes: Vec<&str> = checks::TABLE.iter().map(|row| row.code).collect();
    assert_eq!(listed("check_code"), set(&codes));
    let codes: Vec<&str> = cause::TABLE
        .iter()
        .map(|row| row.code)
        .chain(["unknown"])
        .collect();
    assert_eq!(listed("cause_code"), set(&codes));
    let outcomes = all!(Outcome: Cancelled, Terminated, BarrierAccepted, ObeyedSignal, Returned, Refused, Pointless,
        TimedOut, Crashed, DryRun);
    assert_eq!(listed("outcome"), set(&outcomes.map(json::outcome)));
    let rungs = all!(Rung: Signal, Wait, Look, Report, Ask, StepIn, Verify, Escalate);
    assert_eq!(listed("step"), set(&rungs.map(ladder::name)));
    let version = &schema()["$defs"]["schema_version"]["const"];
    assert_eq!(*version, json::SCHEMA_VERSION);

    assert_eq!(
        listed("verdict"),
        names(all!(Verdict: Safe, Risky, Unsafe, Pointless))
    );
    let judged = &schema()["$defs"]["judged"]["properties"];
    assert_eq!(
        strings(&judged["interrupt"]),
        names(all!(Interrupt: Terminate, Cancel, Barrier, Nothing))
    );
    assert_eq!(
        strings(&judged["checks"]["items"]["properties"]["status"]),
        names(all!(Status: Pass, Warn, Fail, Unknown))
    );
    assert_eq!(
        listed("backend_type"),
        names(
            all!(BackendType: Client, AutovacuumWorker, BackgroundWorker, WalSender, SlotSync, AutovacuumLauncher,
            Archiver, BackgroundWriter, Checkpointer, IoWorker, Logger, Startup, StatsCollector, WalReceiver,
            WalSummarizer, WalWriter, DeadEnd, Standalone, Postmaster, Unknown)
        )
    );
    assert_eq!(
        listed("activity"),
        names(
            all!(Activity: Undefined, Starting, Idle, Active, IdleInTransaction, FastPath,
            IdleInAbortedTransaction, Disabled)
        )
    );
    let frame = &schema()["$defs"]["frame"]["properties"];
    assert_eq!(
        strings(&frame["symbol_source"]),
        names(all!(SymbolSource: Dynsym, Symtab, DebugFile, DebugData, Dwarf, Decoded))
    );
    assert_eq!(
        strings(&frame["found_by"]),
        names(all!(FoundBy: Context, Cfi, FramePointer))
    );
}

/// Every object in `value` with one key renamed, and with one key left out, of the first element of each array.
fn spoiled(value: &Value) -> Vec<(String, Value)> {
    match value {
        Value::Object(map) => {
            let mut all = Vec::new();
            for (key, inner) in map {
                let mut without = map.clone();
                without.remove(key);
                let mut renamed = without.clone();
                renamed.insert(format!("{key}_"), inner.clone());
                all.push((format!("/{key} left out"), Value::Object(without)));
                all.push((format!("/{key} renamed"), Value::Object(renamed)));
                for (what, spoiled) in spoiled(inner) {
                    let mut changed = map.clone();
                    changed.insert(key.clone(), spoiled);
                    all.push((format!("/{key}{what}"), Value::Object(changed)));
                }
            }
            all
        }
        Value::Array(items) => {
            let Some(first) = items.first() else {
                return Vec::new();
            };
            let change = |(what, spoiled): (String, Value)| {
                let mut changed = items.clone();
                changed[0] = spoiled;
                (format!("/0{what}"), Value::Array(changed))
            };
            spoiled(first).into_iter().map(change).collect()
        }
        _ => Vec::new(),
    }
}

/// The schema would notice if any field of this output had another name, or were missing.
#[track_caller]
fn assert_strict(output: &Value) {
    let validator = validator(None);
    let all = spoiled(output);
    assert!(all.len() > 10, "{output}");
    for (what, spoiled) in all {
        assert!(!validator.is_valid(&spoiled), "valid, although {what}");
    }
}

/// pgpoke with these arguments, `--json` and the PID.
#[track_caller]
fn run(args: &str, pid: i32) -> Run {
    let pid = pid.to_string();
    Run::pgpoke(args.split_whitespace().chain(["--json", &pid]))
}

#[test]
fn inspections_are_valid() {
    let server = Server::start();
    server.install_testext();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    assert_valid("inspection", run("inspect", stuck.pid()).assert_code(5));
    stuck.prove_stuck(How::Cancel);
    let output = assert_valid("inspection", run("inspect", stuck.pid()).assert_code(0));
    assert!(!output["stack"].as_array().unwrap().is_empty());
    assert_strict(&output);
    assert_valid("inspection", &run("inspect --passive", stuck.pid()));
    let output = assert_valid("inspection", &run("inspect --samples 3", stuck.pid()));
    assert!(output["process"]["cpu_percent"].is_number(), "{output}");

    let waiting = server.stuck("SELECT pgpoke_lwlock()");
    waiting.prove_stuck(How::Terminate);
    let output = assert_valid("inspection", &run("inspect", waiting.pid()));
    assert!(output["locks"]["waiting_for"].is_object(), "{output}");
    assert_strict(&output);

    for call in [
        "pgpoke_handlers('ignore')",
        "pgpoke_blocked()",
        "pgpoke_crit()",
        "pgpoke_handler_loop()",
    ] {
        let stuck = server.stuck(&format!("SELECT {call}"));
        assert_valid("inspection", &run("inspect", stuck.pid()));
    }
    let mut idle = server.connect();
    let pid: i32 = idle
        .query_one("SELECT pg_backend_pid()", &[])
        .unwrap()
        .get(0);
    assert_valid("inspection", run("inspect", pid).assert_code(5));
    // Every kind of process that a server has, the postmaster among them.
    let others = idle.query(
        "SELECT pid FROM pg_stat_activity WHERE backend_type <> 'client backend'",
        &[],
    );
    let others = others.unwrap().into_iter().map(|row| row.get(0));
    for pid in others.chain([server.postmaster().pid]) {
        assert_valid("inspection", &run("inspect", pid));
    }
    server.assert_unharmed();
}

#[test]
fn interventions_are_valid() {
    let server = Server::start();
    server.install_testext();
    let stuck = server.stuck("SELECT pgpoke_spin()");
    let pid = stuck.pid();
    for (args, code, outcome) in [
        ("interrupt --yes", 5, "pointless"),
        ("interrupt --dry-run --cancel", 0, "dry-run"),
        ("interrupt --yes --cancel --grace 100ms", 0, "cancelled"),
    ] {
        let output = assert_valid("intervention", run(args, pid).assert_code(code));
        assert_eq!(output["outcome"], outcome, "{args}");
        assert_strict(&output);
    }
    let stuck = server.stuck_on_fifo();
    let terminate = "interrupt --yes --terminate --grace 100ms";
    let output = assert_valid("intervention", run(terminate, stuck.pid()).assert_code(0));
    assert_eq!(output["outcome"], "terminated");
    assert_eq!(output["exit_status"], 1);
    let obedient = server.stuck_when("SELECT pg_sleep(3600)", |backend| {
        backend.syscall().is_some()
    });
    let output = assert_valid(
        "intervention",
        run(terminate, obedient.pid()).assert_code(0),
    );
    assert_eq!(output["outcome"], "obeyed-signal");
    let critical = server.stuck("SELECT pgpoke_crit()");
    critical.prove_stuck(How::Cancel);
    let output = assert_valid(
        "intervention",
        run("interrupt --yes --wait 100ms", critical.pid()).assert_code(4),
    );
    assert_eq!(output["outcome"], "refused");
    let stuck = server.stuck("SELECT pgpoke_swallow()");
    let escalate = "interrupt --yes --cancel --escalate --grace 50ms";
    let output = assert_valid("intervention", run(escalate, stuck.pid()).assert_code(0));
    assert_eq!(output["escalated_from"]["swallowed"], true);
    assert_strict(&output);
    let (one, none) = (critical.pid().to_string(), i32::MAX.to_string());
    let several = ["interrupt", "--dry-run", "--json", "--cancel", &one, &none];
    let run = Run::pgpoke(several);
    let output = assert_valid("interventions", run.assert_code(4));
    assert_eq!(output["results"][1]["exit_code"], 7);
    assert_strict(&output);
    server.assert_unharmed();
}

#[test]
fn reports_are_valid() {
    let server = Server::start();
    let stuck = server.stuck_on_fifo();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r");
    let args = format!("report --samples 2 -o {}", path.display());
    let output = assert_valid("report", run(&args, stuck.pid()).assert_code(0));
    assert_strict(&output);
    assert_eq!(output["directory"], path.to_str().unwrap());
    // Of two looks at one place, the tree.
    let output = assert_valid("inspection", &run("inspect --samples 2", stuck.pid()));
    assert!(!output["samples"]["tree"].as_array().unwrap().is_empty());
    assert_strict(&output);
}

#[test]
fn lists_are_valid() {
    let server = Server::start();
    server.install_testext();
    let stuck = server.stuck("SELECT pgpoke_read()");
    stuck.prove_stuck(How::Cancel);
    let list = |args: &[&str]| Run::pgpoke(["list", "--json"].iter().chain(args));
    assert_valid("list", list(&[]).assert_code(0));
    let output = assert_valid("list", list(&["--stuck"]).assert_code(0));
    assert!(!output["backends"][0]["cause"].is_null(), "{output}");
    assert_strict(&output);
    let output = assert_valid("list", list(&["-d", "nowhere"]).assert_code(0));
    assert_eq!(output["backends"].as_array().map(Vec::len), Some(0));
}

#[test]
fn failures_are_valid() {
    let none = i32::MAX;
    let output = assert_valid("failure", run("inspect", none).assert_code(7));
    assert!(output.get("outcome").is_none());
    let output = assert_valid("failure", run("interrupt --yes", none).assert_code(7));
    assert_eq!(output["outcome"], "refused");
    for required in ["schema_version", "pid", "verdict", "error"] {
        let mut without = output.clone();
        without.as_object_mut().unwrap().remove(required);
        assert!(
            !validator(None).is_valid(&without),
            "valid without {required}"
        );
    }
    let ourselves = std::process::id() as i32;
    assert_valid("failure", run("inspect", ourselves).assert_code(7));
    assert_valid("failure", run("interrupt", ourselves).assert_code(2));
    if !is_root() {
        skip!("only root can be without a right that it has");
    }
    let server = Server::start();
    let mut session = server.connect();
    let pid: i32 = session
        .query_one("SELECT pg_backend_pid()", &[])
        .unwrap()
        .get(0);
    let mut command = pgpoke();
    command.args(["inspect", "--json", &pid.to_string()]);
    assert_valid(
        "failure",
        Run::of(as_user_without_ptrace(command)).assert_code(6),
    );
}
