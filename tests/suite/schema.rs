//! `docs/pgpoke.schema.json` is what pgpoke prints: no field more, none less, none of another name. `Run::json`
//! holds the output of every other test to it, too.

use std::collections::BTreeSet;
use std::path::Path;

use jsonschema::Validator;
use pgpoke::assess::{Interrupt, Verdict};
use pgpoke::intervene::{Outcome, Rung};
use pgpoke::process::permission::Rule;
use pgpoke::render::{json, ladder};
use serde_json::Value;

use crate::harness::{
    How, Run, Server, as_user_without_ptrace, is_root, kept, pgpoke, published, skip,
};

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

/// The names that `$defs/NAME` allows, each with a description of its own or not.
fn listed(name: &str) -> BTreeSet<String> {
    let of = &schema()["$defs"][name];
    let names: BTreeSet<String> = match (of["enum"].as_array(), of["oneOf"].as_array()) {
        (Some(names), _) => names.iter().map(name_of).collect(),
        (_, Some(described)) => described.iter().map(|one| name_of(&one["const"])).collect(),
        _ => panic!("{name} is no list of names: {of}"),
    };
    assert!(names.len() > 1, "{name}: {of}");
    names
}

fn name_of(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value}"))
        .to_owned()
}

/// All values of an enum, by a match that does not compile when one is missing.
macro_rules! all {
    ($type:ident: $($variant:ident),+ $(,)?) => {{
        let _ = |value: $type| match value { $($type::$variant => {})+ };
        [$($type::$variant),+]
    }};
}

#[test]
fn it_is_a_schema() {
    if let Err(error) = jsonschema::meta::validate(&schema()) {
        panic!("{}: {error}", error.instance_path());
    }
}

/// What text and audit lines call it is what JSON calls it.
#[test]
fn names_are_the_same_in_text() {
    let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    let same = |schema: &str, names: BTreeSet<String>| assert_eq!(listed(schema), names);
    let outcomes = all!(Outcome: Cancelled, Terminated, BarrierAccepted, ObeyedSignal, Returned, Refused, Pointless,
        TimedOut, Crashed, DryRun);
    same("outcome", set(&outcomes.map(json::outcome)));
    let rungs = all!(Rung: Signal, Wait, Look, Report, Ask, StepIn, Verify, Escalate);
    same("rung", set(&rungs.map(ladder::name)));
    let rules = all!(Rule: Tracer, User, UserNamespace, NotDumpable, Capabilities, Yama, Seccomp, SecurityModule, Gvisor,
        Unknown);
    same("rule", set(&rules.map(Rule::code)));
    let in_words = |all: &[&dyn std::fmt::Display]| all.iter().map(ToString::to_string).collect();
    let interrupts = all!(Interrupt: Terminate, Cancel, Barrier, Nothing);
    same(
        "interrupt",
        in_words(&interrupts.each_ref().map(|i| i as &dyn std::fmt::Display)),
    );
    let verdicts = all!(Verdict: Safe, Risky, Unsafe, Pointless);
    same(
        "verdict",
        in_words(&verdicts.each_ref().map(|v| v as &dyn std::fmt::Display)),
    );
}

/// All lists of names in a schema.
fn lists_of_names(schema: &Value, found: &mut Vec<BTreeSet<String>>) {
    let names = |values: Vec<&Value>| -> BTreeSet<String> {
        let names = values.into_iter().filter_map(Value::as_str);
        names.map(str::to_owned).collect()
    };
    if let Some(values) = schema["enum"].as_array() {
        found.push(names(values.iter().collect()));
    }
    if let Some(values) = schema["oneOf"].as_array() {
        found.push(names(values.iter().map(|one| &one["const"]).collect()));
    }
    match schema {
        Value::Object(map) => map.values().for_each(|v| lists_of_names(v, found)),
        Value::Array(items) => items.iter().for_each(|v| lists_of_names(v, found)),
        _ => {}
    }
}

/// No name that was published is taken back. (That no field is, all outputs of all tests are held to, by `Run::json`.)
#[test]
fn no_name_is_taken_back() {
    let (mut then, mut now) = (Vec::new(), Vec::new());
    lists_of_names(&published(), &mut then);
    lists_of_names(&schema(), &mut now);
    then.retain(|names| !names.is_empty());
    assert!(then.len() > 15, "{then:?}");
    for names in then {
        let kept = now.iter().any(|now| now.is_superset(&names));
        assert!(kept, "one of these is gone: {names:?}");
    }
}

/// What was published would notice a field that is gone, and does not mind one that is added.
#[test]
fn fields_may_be_added_and_not_taken_away() {
    let server = Server::start();
    let stuck = server.stuck_on_fifo();
    let output = run("inspect", stuck.pid()).assert_code(5).json();
    let mut more = output.clone();
    more["backend"]["more"] = true.into();
    assert!(kept().is_valid(&output) && kept().is_valid(&more));
    let mut less = output.clone();
    less["backend"]
        .as_object_mut()
        .expect("an object")
        .remove("query");
    assert!(!kept().is_valid(&less));
}

/// Whoever reads it is told of each field what it means.
#[test]
fn every_field_is_described() {
    let mut fields = 0;
    let mut without = Vec::new();
    for (kind, of) in schema()["$defs"].as_object().expect("definitions") {
        let alternatives = of["oneOf"].as_array().into_iter().flatten();
        for of in alternatives.chain([of]) {
            for (field, of) in of["properties"].as_object().into_iter().flatten() {
                fields += 1;
                let is_tag = of.get("const").is_some();
                if !is_tag && of["description"].as_str().is_none_or(str::is_empty) {
                    without.push(format!("{kind}/{field}"));
                }
            }
        }
    }
    assert!(fields > 150, "{fields}");
    assert!(without.is_empty(), "{without:?}");
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
    // Other tests have some that are stuck, too.
    let rows = output["backends"].as_array().expect("backends");
    let own = rows.iter().find(|b| b["pid"] == stuck.pid());
    assert!(own.is_some_and(|b| !b["cause"].is_null()), "{output}");
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
