//! Core files that pgpoke writes of backends that go on.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use object::elf::PT_LOAD;
use object::endian::LittleEndian as LE;
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use serde_json::Value;

use crate::harness::{
    Backend, DEADLINE, Run, Server, Stuck, checked, denying, is_root, pgpoke, server_with_testext,
    skip, tampered, wait_for,
};
use crate::matrix::ROWS;

/// How it is asked for. Only what is about the budget of a stop is to depend on how busy the machine is.
const CORE: &[&str] = &["--core", "--max-stop", "1s"];
const FULL: &[&str] = &["--core=full", "--max-stop", "1s"];

/// What is written when all is there but the core file.
const BEFORE: &str = "README.txt";

/// The arguments that have pgpoke write a report into a directory, and with these options a core file.
fn arguments<'a>(pid: &'a str, dir: &'a Path, options: &[&'a str]) -> Vec<&'a str> {
    let dir = dir.to_str().expect("a path in /tmp");
    [&["report", "--samples", "1", "-o", dir], options, &[pid]].concat()
}

/// Has a core file written as `dir/core`, and returns what pgpoke says of it.
#[track_caller]
fn core_of(pid: i32, dir: &Path, options: &[&str]) -> Value {
    let run = Run::pgpoke(arguments(&pid.to_string(), dir, options));
    run.assert_code(0);
    let about = fs::read(dir.join("core.json")).expect("core.json");
    serde_json::from_slice(&about).expect("JSON")
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    let names = entries.map(|e| e.expect("an entry").file_name());
    let mut names: Vec<String> = names
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// What there is of a core file in a report's directory, whole or not.
fn cores_in(dir: &Path) -> Vec<String> {
    let mut names = names_in(dir);
    names.retain(|name| name.starts_with("core"));
    names
}

/// pgpoke has come to the core file, which is the last thing.
#[track_caller]
fn wait_for_its_turn(dir: &Path) {
    wait_for(DEADLINE, "all but the core file shall be there", || {
        dir.join(BEFORE).exists().then_some(())
    });
}

/// The report says that there is none, and why, on stderr and in its README.
#[track_caller]
fn assert_without(run: &Run, dir: &Path, why: &str) {
    run.assert_code(1).assert_says("warning: no core file: ");
    run.assert_says(why).assert_says(&dir.display().to_string());
    assert_eq!(cores_in(dir), [""; 0], "{run}");
    let readme = fs::read_to_string(dir.join(BEFORE)).expect("the README");
    let (_, missing) = readme.split_once("Not to be had").expect(&readme);
    let line = missing.lines().find(|l| l.starts_with("  core "));
    assert!(line.is_some_and(|l| l.contains(why)), "{readme}");
    // What lets no file be finished leaves nothing of the archive, either.
    let archive = dir.with_extension("tar.gz").exists();
    let told = run.stderr.contains("cannot write the archive");
    assert!(archive != told, "{run}");
    let beside = fs::read_dir(dir.parent().expect("a directory")).expect("a directory");
    for entry in beside {
        let name = entry.expect("an entry").file_name();
        assert!(!name.to_string_lossy().ends_with(".partial"), "{name:?}");
    }
}

/// What gdb's `thread apply … bt` says: the frames of each thread, by its ID.
type Stacks = BTreeMap<i32, Vec<String>>;

/// Has one gdb look at one thing after the other; `look` are its commands for each.
///
/// `kept` is a core file that it has open all the time, as its first inferior: it then reads the symbols of the server and
/// its libraries once, and not again for each look, which takes half a second.
#[track_caller]
fn gdb(executable: &Path, kept: &Path, looks: &[String]) -> Vec<Stacks> {
    const MARK: &str = "NEXT LOOK";
    let mut command = Command::new("gdb");
    command.args(["-nx", "-batch", "-iex", "set debuginfod enabled off"]);
    command.args(["-iex", "set width 0", "-iex", "set pagination off"]);
    command.arg(executable);
    let second = format!("add-inferior -no-connection -exec {}", executable.display());
    let keep = format!("core-file {}", kept.display());
    for line in [&keep, &second, "inferior 2"] {
        command.args(["-ex", line]);
    }
    for look in looks {
        command.args(["-ex", &format!("echo {MARK}\\n")]);
        for line in look.lines() {
            command.args(["-ex", line]);
        }
    }
    let run = Run::within(Duration::from_secs(300), command);
    let all: Vec<Stacks> = run.stdout.split(MARK).skip(1).map(stacks).collect();
    assert_eq!(all.len(), looks.len(), "{run}");
    for stacks in &all {
        assert!(!stacks.is_empty(), "{run}");
    }
    all
}

fn stacks(text: &str) -> Stacks {
    let mut stacks = Stacks::new();
    let mut thread = None;
    for line in text.lines() {
        if line.starts_with("Thread ") {
            let id = line.split_once("LWP ").map(|(_, rest)| rest);
            let id = id.and_then(|rest| rest.split(')').next()?.parse().ok());
            thread = Some(id.unwrap_or_else(|| panic!("no thread in {line:?}")));
        } else if let (true, Some(thread)) = (line.starts_with('#'), thread) {
            // What comes before is where gdb is when it has opened it.
            stacks.entry(thread).or_default().push(line.to_owned());
        }
    }
    stacks
}

fn of_live(pid: i32) -> String {
    format!("attach {pid}\nthread apply 2.* bt\ndetach")
}

fn of_core(core: &Path) -> String {
    format!("core-file {}\nthread apply 2.* bt", core.display())
}

/// Stops it, so that all looks are at one instant.
#[track_caller]
fn halt(backend: &Backend) {
    backend.send(libc::SIGSTOP);
    wait_for(DEADLINE, "SIGSTOP shall stop it", || {
        (backend.state() == Some('T')).then_some(())
    });
}

/// The bar: gdb sees in the file what it sees in the living process, frame by frame, for every way to be stuck, with one
/// thread and with several.
#[test]
fn gdb_sees_the_same_in_every_scenario() {
    let server = server_with_testext!(Server::builder().setting("max_connections", "60"));
    let dir = tempfile::tempdir().expect("a directory for cores");
    let mut all = Vec::new();
    for (name, scenario) in ROWS.iter().filter(|(_, s)| !s.is_uninterruptible()) {
        let actor = scenario.start(&server);
        halt(&actor.backend());
        all.push((
            *name,
            scenario.functions,
            scenario.threads,
            actor.backend(),
            Some(actor),
            None,
        ));
    }
    let with_threads = server.stuck("SELECT pgpoke_threads(8)");
    let backend = with_threads.backend();
    halt(&backend);
    all.push((
        "threads",
        &["spin", "pgpoke_threads"],
        9,
        backend,
        None,
        Some(with_threads),
    ));
    assert!(all.len() > 30);

    let reports: Vec<(i32, PathBuf)> = (all.iter())
        .map(|row| (row.3.pid, dir.path().join(row.0)))
        .collect();
    for (row, report) in all.iter().zip(written_by_and_by(&reports)) {
        assert_eq!(report["threads"], row.2, "{}: {report}", row.0);
        let later = report["copied_later"].as_array();
        assert!(later.is_some_and(Vec::is_empty), "{}: {report}", row.0);
    }
    let cores: Vec<PathBuf> = reports.iter().map(|(_, dir)| dir.join("core")).collect();
    let executable = server.installation().server();
    let at_living: Vec<String> = all.iter().map(|row| of_live(row.3.pid)).collect();
    let at_cores: Vec<String> = cores.iter().map(|core| of_core(core)).collect();
    // Two processors have them both done in the time of one.
    let (live, in_cores) = thread::scope(|scope| {
        let live = scope.spawn(|| gdb(&executable, &cores[0], &at_living));
        let in_cores = gdb(&executable, &cores[0], &at_cores);
        (live.join().expect("what gdb sees"), in_cores)
    });
    for ((row, live), core) in all.iter().zip(&live).zip(&in_cores) {
        let (name, functions, threads, backend, ..) = row;
        assert_eq!(live, core, "{name}");
        assert_eq!(live.len() as u64, *threads, "{name}: {live:#?}");
        let main = &live[&backend.pid];
        // It is the whole stack.
        assert!(
            main.last().is_some_and(|f| f.contains(" main ")),
            "{name}: {main:#?}"
        );
        assert!(main.len() > 8, "{name}: {main:#?}");
        for function in *functions {
            let called = format!("{function} (");
            assert!(
                main.iter().any(|f| f.contains(&called)),
                "{name}: {main:#?}"
            );
        }
        // Nobody let it run meanwhile.
        assert_eq!(backend.state(), Some('T'), "{name}");
        assert_eq!(backend.tracer_pid(), 0, "{name}");
        backend.send(libc::SIGCONT);
        backend.assert_running_untraced();
    }
    let waiting = &in_cores[all.len() - 1];
    let mut depths: Vec<usize> = (waiting.values())
        .map(|stack| stack.iter().filter(|f| f.contains("wait_below")).count())
        .collect();
    depths.sort_unstable();
    assert_eq!(depths, [0, 2, 3, 4, 5, 6, 7, 8, 9]);
    server.assert_unharmed();
}

/// Some at a time, since a report waits for most of its time.
fn written_by_and_by(reports: &[(i32, PathBuf)]) -> Vec<Value> {
    const AT_ONCE: usize = 6;
    let some = |some: &[(i32, PathBuf)]| -> Vec<Value> {
        thread::scope(|scope| {
            let each = some
                .iter()
                .map(|(pid, dir)| scope.spawn(|| core_of(*pid, dir, CORE)));
            let all: Vec<_> = each.collect();
            let all = all.into_iter().map(|one| one.join());
            all.map(|one| one.expect("a core file")).collect()
        })
    };
    reports.chunks(AT_ONCE).flat_map(some).collect()
}

/// All registers, too, and nothing that gdb complains of and would not of a core file of its own.
#[test]
fn gdb_takes_it_as_its_own() {
    let server = server_with_testext!();
    let dir = tempfile::tempdir().expect("a directory for cores");
    let stuck = server.stuck("SELECT pgpoke_threads(2)");
    halt(&stuck.backend());
    core_of(stuck.pid(), &dir.path().join("r"), CORE);
    let theirs = dir.path().join("theirs");
    checked(
        Command::new("gcore")
            .arg("-o")
            .arg(&theirs)
            .arg(stuck.pid().to_string()),
    );
    let theirs = theirs.with_extension(stuck.pid().to_string());
    let look = |core: &Path| {
        let mut command = Command::new("gdb");
        command.args(["-nx", "-batch", "-iex", "set debuginfod enabled off"]);
        command.args(["-iex", "set width 0", "-ex", "info threads"]);
        command.args(["-ex", "thread apply all -q -- info registers"]);
        for kind in ["xmm", "ymm"] {
            let names: Vec<String> = (0..16).map(|n| format!("{kind}{n}")).collect();
            let show = format!(
                "thread apply all -q -- info registers mxcsr {}",
                names.join(" ")
            );
            command.args(["-ex", &show]);
        }
        command.arg(server.installation().server()).arg(core);
        let run = Run::of(command);
        let complaints = run.stderr.lines().filter(|l| l.starts_with("warning: "));
        let complaints: Vec<String> = complaints.map(str::to_owned).collect();
        // gdb up to 13 looks for the masks of AVX-512 where an AMD processor does not have them.
        let is_mask = |line: &&str| line.starts_with('k');
        let seen = run.stdout.lines().filter(|line| !is_mask(line));
        (complaints, seen.map(str::to_owned).collect::<Vec<_>>(), run)
    };
    let (ours, theirs) = (look(&dir.path().join("r/core")), look(&theirs));
    for complaint in &ours.0 {
        assert!(theirs.0.contains(complaint), "{}", ours.2);
    }
    assert_eq!(ours.1, theirs.1);
    for name in ["rip ", "rsp ", "xmm0 ", "xmm15 "] {
        let found = ours.1.iter().filter(|line| line.starts_with(name));
        assert_eq!(found.count(), 3, "{name}: {}", ours.2);
    }
    stuck.backend().send(libc::SIGCONT);
    stuck.backend().assert_running_untraced();
    server.assert_unharmed();
}

/// The functions on the stack, but for the innermost, which come and go.
fn functions_below(stack: &[String], first: &str) -> Vec<String> {
    let name = |frame: &String| {
        let after = frame.split_once(' ')?.1.trim_start();
        let after = after.split_once(" in ").map_or(after, |(_, rest)| rest);
        Some(after.split_once(" (")?.0.to_owned())
    };
    let all: Vec<String> = stack.iter().filter_map(name).collect();
    let at = all.iter().position(|n| n == first);
    all[at.unwrap_or_else(|| panic!("no {first}: {stack:#?}"))..].to_vec()
}

/// The same of backends that run, as they do in earnest.
#[test]
fn a_backend_that_runs_is_in_its_core_and_runs_on() {
    let server = server_with_testext!();
    let dir = tempfile::tempdir().expect("a directory for cores");
    let executable = server.installation().server();
    for (call, first, threads) in [
        ("pgpoke_spin()", "pgpoke_spin", 1),
        ("pgpoke_sleep()", "pgpoke_sleep", 1),
        ("pgpoke_malloc_threads()", "malloc_loop", 2),
        ("pgpoke_threads(3)", "pgpoke_threads", 4),
    ] {
        let stuck = server.stuck(&format!("SELECT {call}"));
        let core = dir.path().join(first).join("core");
        let report = core_of(stuck.pid(), &dir.path().join(first), CORE);
        stuck.backend().assert_running_untraced();
        assert!(stuck.ended_within(Duration::ZERO).is_none(), "{call}");
        let both = gdb(&executable, &core, &[of_core(&core), of_live(stuck.pid())]);
        let main = |n: usize| functions_below(&both[n][&stuck.pid()], first);
        assert_eq!(main(0), main(1), "{call}");
        assert_eq!(
            both[0].keys().collect::<Vec<_>>(),
            both[1].keys().collect::<Vec<_>>()
        );
        assert_eq!(both[0].len(), threads, "{call}: {report}");
        stuck.backend().assert_running_untraced();
        assert_read_by_eu_stack(&executable, &core, first);
    }
    server.assert_unharmed();
}

#[track_caller]
fn assert_read_by_eu_stack(executable: &Path, core: &Path, function: &str) {
    let mut command = Command::new("eu-stack");
    command.arg("--core").arg(core).arg("-e").arg(executable);
    let run = Run::of(command);
    for name in [function, "PostgresMain", "PostmasterMain", "main"] {
        run.assert_says(&format!(" {name}"));
    }
}

/// A mapping as a core file has it.
struct Loaded {
    start: u64,
    size: u64,
    in_file: u64,
    offset: u64,
}

fn loaded(core: &Path) -> Vec<Loaded> {
    let bytes = fs::read(core).expect("a core file");
    let file: ElfFile64<LE> = ElfFile64::parse(&*bytes).expect("an ELF file");
    let header = file.elf_header();
    let all = header
        .program_headers(LE, &*bytes)
        .expect("program headers");
    all.iter()
        .filter(|p| p.p_type(LE) == PT_LOAD)
        .map(|p| Loaded {
            start: p.p_vaddr(LE),
            size: p.p_memsz(LE),
            in_file: p.p_filesz(LE),
            offset: p.p_offset(LE),
        })
        .collect()
}

/// The mapping of the server's shared memory: its start, and the numbers of the file behind it.
fn shared_buffers(backend: &Backend) -> (u64, PathBuf) {
    let maps = fs::read_to_string(format!("/proc/{}/maps", backend.pid)).expect("maps");
    let line = maps.lines().find(|l| l.ends_with("/dev/zero (deleted)"));
    let range = line.and_then(|l| l.split(' ').next()).expect("a mapping");
    let start = range.split('-').next().expect("an address");
    let start = u64::from_str_radix(start, 16).expect("an address");
    (
        start,
        format!("/proc/{}/map_files/{range}", backend.pid).into(),
    )
}

/// Shared memory is left out, or all there; read, it does not grow.
#[test]
fn shared_memory_is_in_a_full_core_only() {
    if !is_root() {
        skip!("only root may read shared memory without making it grow");
    }
    let server = server_with_testext!(Server::builder().setting("shared_buffers", "64MB"));
    let dir = tempfile::tempdir().expect("a directory for cores");
    let stuck = server.stuck("SELECT pgpoke_spin()");
    let (start, file) = shared_buffers(&stuck.backend());
    let pages = || fs::metadata(&file).expect("the file behind it").blocks();
    let before = pages();
    let [usual, full] = ["usual", "full"].map(|name| dir.path().join(name).join("core"));
    let report = core_of(stuck.pid(), &dir.path().join("usual"), CORE);
    let left_out = report["left_out"].as_array().expect("what is left out");
    assert!(
        left_out
            .iter()
            .any(|l| l["why"] == "shared-memory" && l["name"] == "/dev/zero (deleted)")
    );
    let part = |core: &Path| {
        let all = loaded(core);
        let at = all
            .iter()
            .position(|l| l.start == start)
            .expect("its mapping");
        (all[at].size, all[at].in_file)
    };
    let (size, in_file) = part(&usual);
    assert!(size >= 64 << 20 && in_file == 0, "{size} {in_file}");
    let report = core_of(stuck.pid(), &dir.path().join("full"), FULL);
    assert_eq!(part(&full), (size, size));
    let later = report["copied_later"]
        .as_array()
        .expect("what was copied later");
    assert!(
        later.iter().any(|l| l["name"] == "/dev/zero (deleted)"),
        "{report}"
    );
    let on_disk = |core: &Path| fs::metadata(core).expect("a core").blocks() * 512;
    assert!(on_disk(&usual) < 32 << 20, "{}", on_disk(&usual));
    assert_eq!(report["size_bytes"], on_disk(&full));
    assert!(on_disk(&full) < 64 << 20, "what nobody touched is no hole");
    assert_eq!(pages(), before, "it grew");
    // The server's own mark (PGShmemMagic, src/include/storage/pg_shmem.h) is where it belongs.
    let all = loaded(&full);
    let at = all.iter().find(|l| l.start == start).expect("its mapping");
    let mut mark = [0; 4];
    let file = fs::File::open(&full).expect("the core");
    file.read_exact_at(&mut mark, at.offset).expect("the mark");
    assert_eq!(u32::from_le_bytes(mark), 679_834_894);
    server.assert_unharmed();
}

/// Only its owner may read it, and nothing is written over.
#[test]
fn the_file_is_its_owners_and_new() {
    let server = server_with_testext!();
    let dir = tempfile::tempdir().expect("a directory for cores");
    let report = dir.path().join("r");
    let stuck = server.stuck("SELECT pgpoke_sleep()");
    let pid = stuck.pid().to_string();
    let run = Run::pgpoke([&arguments(&pid, &report, CORE)[..], &["--json"]].concat());
    let said = run.assert_code(0).json()["core"].clone();
    let written = fs::read(report.join("core.json")).expect("core.json");
    assert_eq!(
        said,
        serde_json::from_slice::<Value>(&written).expect("JSON")
    );
    let core = report.join("core");
    let meta = fs::metadata(&core).expect("the core");
    assert_eq!(meta.permissions().mode() & 0o7777, 0o600);
    assert_eq!(said["apparent_bytes"], meta.len());
    let run = Run::pgpoke(arguments(&pid, &report, CORE));
    run.assert_code(1).assert_says("not empty");
    assert_eq!(
        fs::metadata(&core).expect("the core").mtime_nsec(),
        meta.mtime_nsec()
    );
    assert_eq!(cores_in(&report), ["core", "core.json"]);
    stuck.backend().assert_running_untraced();
    server.assert_unharmed();
}

/// What cannot be stopped is not waited for.
#[test]
fn a_backend_in_state_d_has_none() {
    let server = server_with_testext!();
    let dir = tempfile::tempdir().expect("a directory for cores");
    let report = dir.path().join("r");
    let stuck = server.stuck("SELECT pgpoke_vfork(3600)");
    let run = Run::pgpoke(arguments(&stuck.pid().to_string(), &report, CORE));
    assert_without(&run, &report, "it was not stopped");
    let assessment = fs::read_to_string(report.join("assessment.txt")).expect("the assessment");
    assert!(
        assessment.contains("uninterruptible-syscall"),
        "{assessment}"
    );
    stuck.backend().assert_running_untraced();
}

/// A backend with so much memory of its own that nobody can copy it within the budget.
fn with_much_memory<'s>(server: &'s Server, megabytes: u32, call: &str) -> Stuck<'s> {
    server
        .connect()
        .batch_execute(&format!(
            "CREATE OR REPLACE FUNCTION much() RETURNS float8 LANGUAGE plpgsql AS $$
             DECLARE filler text := repeat('x', {});
             BEGIN RETURN {call}; END $$",
            megabytes << 20
        ))
        .expect("a function");
    server.stuck("SELECT much()")
}

/// Then the stacks are of one instant, what comes later is named, and the budget is kept.
#[test]
fn more_memory_than_there_is_time_for() {
    let server = server_with_testext!(Server::builder().alone());
    let dir = tempfile::tempdir().expect("a directory for cores");
    let core = dir.path().join("r/core");
    let stuck = with_much_memory(&server, 300, "pgpoke_gap(3600)");
    let options = ["--core", "--max-stop", "20ms"];
    let report = core_of(stuck.pid(), &dir.path().join("r"), &options);
    let later = report["copied_later"]
        .as_array()
        .expect("what was copied later");
    let address = |v: &Value| {
        let text = v.as_str().and_then(|t| t.strip_prefix("0x"));
        u64::from_str_radix(text.expect("an address"), 16).expect("an address")
    };
    let bytes: u64 = (later.iter())
        .map(|l| address(&l["end"]) - address(&l["start"]))
        .sum();
    assert!(bytes > 100 << 20, "{report}");
    assert!(later.iter().all(|l| l["name"] != "[stack]"), "{report}");
    // The fuse has let it go after 20 ms at the latest, or there would be no core file. How long it had stood still when
    // that was lit is known to a quarter of them.
    assert!(
        report["stopped_ms"].as_f64().is_some_and(|ms| ms <= 25.0),
        "{report}"
    );
    assert!(
        report["buffer_bytes"]
            .as_u64()
            .is_some_and(|b| b < 120 << 20),
        "{report}"
    );
    // It is all there.
    assert!(fs::metadata(&core).expect("the core").blocks() * 512 > 300 << 20);
    let gdb = gdb(&server.installation().server(), &core, &[of_core(&core)]);
    functions_below(&gdb[0][&stuck.pid()], "pgpoke_gap");
    stuck.backend().assert_running_untraced();
    server
        .connect()
        .execute("SELECT pg_cancel_backend($1)", &[&stuck.pid()])
        .expect("a cancel");
    let rows = stuck.result().expect("the gap");
    let gap: f64 = rows[0][0]
        .as_deref()
        .expect("a gap")
        .parse()
        .expect("a number");
    // Its own wait for a processor comes on top.
    assert!(gap / 1e3 <= 80.0, "it stood still for {} ms", gap / 1e3);
    server.assert_unharmed();
}

/// Whatever fails while the file is written, nothing of it is left, and the backend runs.
#[test]
fn nothing_is_left_of_a_file_that_could_not_be_written() {
    let server = server_with_testext!();
    let dir = tempfile::tempdir().expect("a directory for cores");
    let stuck = server.stuck("SELECT pgpoke_spin()");
    let pid = stuck.pid().to_string();
    for injection in [
        "pwrite64:error=ENOSPC:when=1",
        "pwrite64:error=ENOSPC:when=7",
        "pwrite64:error=EIO:when=3",
        "fdatasync:error=EIO",
        "ftruncate:error=EFBIG",
        "linkat:error=ENOSPC",
    ] {
        let report = dir.path().join(injection);
        let run = Run::of(tampered(&[injection], &arguments(&pid, &report, CORE)));
        assert_without(&run, &report, "cannot write");
        stuck.backend().assert_running_untraced();
    }
    server.assert_unharmed();
}

/// Where a file system has no files without a name.
#[test]
fn a_file_that_has_a_name_before_it_is_whole() {
    let server = server_with_testext!();
    let dir = tempfile::tempdir().expect("a directory for cores");
    let stuck = server.stuck("SELECT pgpoke_spin()");
    let pid = stuck.pid().to_string();
    let command = |report: &Path| {
        let command = tampered(
            &["pwrite64:delay_enter=5000"],
            &arguments(&pid, report, CORE),
        );
        let nameless = (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;
        denying(
            command,
            libc::SYS_openat,
            Some((2, nameless)),
            libc::EOPNOTSUPP,
        )
    };
    let report = dir.path().join("whole");
    let mut seen = false;
    let mut began = Instant::now();
    let whole = Run::while_doing(DEADLINE, command(&report), |strace| {
        wait_for_its_turn(&report);
        began = Instant::now();
        // Or it was too quick for us.
        while !report.join("core").exists()
            && Backend::open(strace).is_some_and(|s| s.state() != Some('Z'))
        {
            seen |= cores_in(&report).iter().any(|n| n.ends_with(".partial"));
        }
    });
    let whole_time = began.elapsed();
    whole.assert_code(0);
    assert!(seen, "it was never there half");
    assert_eq!(cores_in(&report), ["core", "core.json"]);
    let mut early = 0;
    for (round, moment) in moments(whole_time, 8).enumerate() {
        let signal = [libc::SIGINT, libc::SIGTERM][round % 2];
        let report = dir.path().join(round.to_string());
        let run = Run::while_doing(DEADLINE, command(&report), |strace| {
            let child = child_of(strace);
            wait_for_its_turn(&report);
            thread::sleep(moment);
            // SAFETY: kill takes any numbers; at worst pgpoke has ended, and nobody has the PID yet.
            unsafe { libc::kill(child, signal) };
        });
        stuck.backend().assert_running_untraced();
        early += usize::from(assert_whole_or_none(&run, &report));
    }
    assert!(early > 2, "{early}");
    server.assert_unharmed();
}

/// Whether it was ended before the core file was there. What is there is whole.
#[track_caller]
fn assert_whole_or_none(run: &Run, report: &Path) -> bool {
    match cores_in(report).as_slice() {
        [] => {
            assert_ne!(run.code(), Some(0), "{run}");
            return true;
        }
        // It was killed just then.
        [core] if core == "core" => {}
        [core, about] if core == "core" && about == "core.json" => {}
        other => panic!("{other:?} is left:\n{run}"),
    }
    assert!(!loaded(&report.join("core")).is_empty(), "{run}");
    false
}

/// pgpoke, once strace has started it; strace has other children, too.
#[track_caller]
fn child_of(strace: i32) -> i32 {
    wait_for(DEADLINE, "strace shall start pgpoke", || {
        let path = format!("/proc/{strace}/task/{strace}/children");
        let children = fs::read_to_string(path).ok()?;
        let mut pids = children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok());
        pids.find(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm"));
            name.is_ok_and(|name| name.trim() == "pgpoke")
        })
    })
}

/// Moments all over what takes so long, and some after.
fn moments(time: Duration, number: u32) -> impl Iterator<Item = Duration> {
    let all = time * 5 / 4;
    (0..number).map(move |n| all * n / number)
}

/// The disk is waited for when the backend runs again.
#[test]
fn a_slow_disk_makes_no_long_stop() {
    let server = server_with_testext!(Server::builder().alone());
    let dir = tempfile::tempdir().expect("a directory for cores");
    let report = dir.path().join("r");
    let stuck = server.stuck("SELECT pgpoke_gap(3600)");
    let pid = stuck.pid().to_string();
    let slow = ["pwrite64,fdatasync,ftruncate,linkat:delay_enter=20000"];
    let command = tampered(&slow, &arguments(&pid, &report, CORE));
    let mut began = Instant::now();
    let run = Run::while_doing(DEADLINE, command, |_| {
        wait_for_its_turn(&report);
        began = Instant::now();
    });
    run.assert_code(0);
    assert!(
        began.elapsed() > Duration::from_millis(500),
        "not slow at all: {run}"
    );
    server
        .connect()
        .execute("SELECT pg_cancel_backend($1)", &[&stuck.pid()])
        .expect("a cancel");
    let rows = stuck.result().expect("the gap");
    let gap: f64 = rows[0][0]
        .as_deref()
        .expect("a gap")
        .parse()
        .expect("a number");
    assert!(
        (1.0..200_000.0).contains(&gap),
        "it stood still for {gap} us"
    );
    server.assert_unharmed();
}

/// Ctrl-C, SIGTERM and SIGKILL at any moment while it is written.
#[test]
fn ended_at_any_moment_it_leaves_nothing_behind() {
    const AT_ONCE: u32 = 3;
    let server = server_with_testext!();
    let dir = tempfile::tempdir().expect("a directory for cores");
    let ended = |stuck: &Stuck, name: String, moment: Duration, signal: Option<i32>| {
        let report = dir.path().join(name);
        let mut command = pgpoke();
        command.args(arguments(&stuck.pid().to_string(), &report, CORE));
        let mut began = Instant::now();
        let run = Run::while_doing(DEADLINE, command, |pgpoke| {
            wait_for_its_turn(&report);
            began = Instant::now();
            if let Some(signal) = signal {
                thread::sleep(moment);
                // SAFETY: kill takes any numbers; the PID is a child's that was not yet waited for.
                unsafe { libc::kill(pgpoke, signal) };
            }
        });
        let time = began.elapsed();
        stuck.backend().assert_running_untraced();
        (assert_whole_or_none(&run, &report), time)
    };
    let early: usize = thread::scope(|scope| {
        let all: Vec<_> = (0..AT_ONCE)
            .map(|n| {
                let (server, ended) = (&server, &ended);
                scope.spawn(move || {
                    let stuck = server.stuck("SELECT pgpoke_sleep()");
                    let (early, time) = ended(&stuck, format!("{n} whole"), Duration::ZERO, None);
                    assert!(!early);
                    let rounds = moments(time, 10).enumerate().filter(|(round, moment)| {
                        let signal =
                            [libc::SIGINT, libc::SIGTERM, libc::SIGKILL][(round + n as usize) % 3];
                        ended(&stuck, format!("{n} {round}"), *moment, Some(signal)).0
                    });
                    rounds.count()
                })
            })
            .collect();
        all.into_iter()
            .map(|one| one.join().expect("its rounds"))
            .sum()
    });
    eprintln!("{early} of 30 ended early");
    assert!(early > 5, "{early}");
    server.assert_unharmed();
}

/// The same for a disk that is slow, in the middle of writing.
#[test]
fn ctrl_c_on_a_slow_disk() {
    let server = server_with_testext!();
    let dir = tempfile::tempdir().expect("a directory for cores");
    let stuck = server.stuck("SELECT pgpoke_spin()");
    let pid = stuck.pid().to_string();
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGKILL] {
        let report = dir.path().join(signal.to_string());
        let command = tampered(
            &["pwrite64:delay_enter=300000"],
            &arguments(&pid, &report, CORE),
        );
        let run = Run::while_doing(DEADLINE, command, |strace| {
            let child = child_of(strace);
            wait_for(DEADLINE, "pgpoke shall write", || {
                let call = fs::read_to_string(format!("/proc/{child}/syscall")).ok()?;
                let number: i64 = call.split(' ').next()?.parse().ok()?;
                (number == libc::SYS_pwrite64).then_some(())
            });
            stuck.backend().assert_running_untraced();
            // SAFETY: kill takes any numbers; the PID is that of strace's child, which strace has not reaped.
            unsafe { libc::kill(child, signal) };
        });
        let readme = fs::read_to_string(report.join(BEFORE)).expect("the README");
        if signal == libc::SIGKILL {
            assert_eq!(run.signal(), Some(signal), "{run}");
            assert!(
                readme.contains("came to an end before it was written"),
                "{readme}"
            );
        } else {
            run.assert_code(1)
                .assert_says("a signal asked pgpoke to end")
                .assert_says(&report.display().to_string());
            assert!(readme.contains("NOT COMPLETE"), "{readme}");
            assert!(readme.contains("ended by signal"), "{readme}");
        }
        assert_eq!(cores_in(&report), [""; 0], "{run}");
        stuck.backend().assert_running_untraced();
    }
    server.assert_unharmed();
}

/// A file system in memory, of a size; unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(megabytes: u32) -> Self {
        let dir = tempfile::tempdir().expect("a place to mount at");
        let size = format!("size={megabytes}m");
        checked(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &size, "pgpoke-test"])
                .arg(dir.path()),
        );
        SmallDisk(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_disk_that_is_too_small_is_not_begun_with() {
    if !is_root() {
        skip!("only root may mount a small disk");
    }
    let server = server_with_testext!();
    let disk = SmallDisk::new(32);
    let report = disk.0.path().join("r");
    let stuck = server.stuck("SELECT pgpoke_spin()");
    let (run, calls) = Run::pgpoke_traced(arguments(&stuck.pid().to_string(), &report, CORE));
    assert_without(&run, &report, "MiB have to stay free");
    run.assert_says("has 31 MiB");
    // It was not even stopped for it; once it was, for the look.
    let seized = calls.ptrace.iter().filter(|c| c.contains("PTRACE_SEIZE"));
    assert_eq!(seized.count(), 1, "{calls:#?}");
    server.assert_unharmed();
}

#[test]
fn a_disk_that_fills_up_meanwhile() {
    if !is_root() {
        skip!("only root may mount a small disk");
    }
    let server = server_with_testext!();
    let disk = SmallDisk::new(300);
    let report = disk.0.path().join("r");
    let stuck = with_much_memory(&server, 100, "pgpoke_gap(3600)");
    let pid = stuck.pid().to_string();
    let command = tampered(
        &["pwrite64:delay_enter=20000"],
        &arguments(&pid, &report, CORE),
    );
    let run = Run::while_doing(DEADLINE, command, |_| {
        let used = || {
            let stat = nix::sys::statvfs::statvfs(disk.0.path()).expect("its size");
            (stat.blocks() - stat.blocks_free()) as u64 * stat.fragment_size() as u64
        };
        wait_for(DEADLINE, "something shall be written", || {
            (used() > 10 << 20).then_some(())
        });
        // As much as goes in.
        let _ = fs::write(disk.0.path().join("filler"), vec![1; 300 << 20]);
    });
    assert_without(&run, &report, "No space left on device");
    stuck.backend().assert_running_untraced();
    server.assert_unharmed();
}
