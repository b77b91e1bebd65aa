//! Core files that pgpoke writes of backends that go on.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use object::elf::PT_LOAD;
use object::endian::LittleEndian as LE;
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use serde_json::Value;

use crate::harness::{
    Backend, DEADLINE, Run, Server, Stuck, checked, is_root, pgpoke, server_with_testext, skip,
    tampered, wait_for,
};
use crate::matrix::ROWS;

/// The arguments that have pgpoke write a core file.
fn arguments<'a>(pid: &'a str, path: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let path = path.to_str().expect("a path in /tmp");
    [&["core-file"], more, &["--output", path, pid]].concat()
}

/// Writes one, and returns what pgpoke says of it.
#[track_caller]
fn core_of(backend: &Backend, path: &Path, more: &[&str]) -> Value {
    let run = Run::pgpoke(arguments(&backend.pid.to_string(), path, more));
    run.assert_code(0).json()
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    let names = entries.map(|e| e.expect("an entry").file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

/// What gdb's `thread apply all bt` says: the frames of each thread, by its ID.
type Stacks = BTreeMap<i32, Vec<String>>;

/// Has one gdb look at one thing after the other; `look` are its commands for each.
#[track_caller]
fn gdb(executable: &Path, looks: &[String]) -> Vec<Stacks> {
    const MARK: &str = "NEXT LOOK";
    let mut command = Command::new("gdb");
    command.args(["-nx", "-batch", "-iex", "set debuginfod enabled off"]);
    command.args(["-iex", "set width 0", "-iex", "set pagination off"]);
    command.arg(executable);
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
    format!("attach {pid}\nthread apply all bt\ndetach")
}

fn of_core(core: &Path) -> String {
    format!("core-file {}\nthread apply all bt", core.display())
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

    let cores: Vec<PathBuf> = all.iter().map(|row| dir.path().join(row.0)).collect();
    for (row, core) in all.iter().zip(&cores) {
        let report = core_of(&row.3, core, &[]);
        assert_eq!(report["threads"], row.2, "{}: {report}", row.0);
        assert_eq!(
            report["copied_later"],
            Value::Array(Vec::new()),
            "{}",
            row.0
        );
    }
    let executable = server.installation().server();
    let looks: Vec<String> = all.iter().map(|row| of_live(row.3.pid)).collect();
    let live = gdb(&executable, &looks);
    let looks: Vec<String> = cores.iter().map(|core| of_core(core)).collect();
    let in_cores = gdb(&executable, &looks);
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
        let core = dir.path().join(first);
        let report = core_of(&stuck.backend(), &core, &[]);
        stuck.backend().assert_running_untraced();
        assert!(stuck.ended_within(Duration::ZERO).is_none(), "{call}");
        let both = gdb(&executable, &[of_core(&core), of_live(stuck.pid())]);
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
    let [usual, full] = ["usual", "full"].map(|name| dir.path().join(name));
    let report = core_of(&stuck.backend(), &usual, &[]);
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
    let report = core_of(&stuck.backend(), &full, &["--full"]);
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
    let core = dir.path().join("core");
    let stuck = server.stuck("SELECT pgpoke_sleep()");
    core_of(&stuck.backend(), &core, &[]);
    let meta = fs::metadata(&core).expect("the core");
    assert_eq!(meta.permissions().mode() & 0o7777, 0o600);
    let run = Run::pgpoke(arguments(&stuck.pid().to_string(), &core, &[]));
    run.assert_code(1).assert_says("File exists");
    assert_eq!(
        fs::metadata(&core).expect("the core").mtime_nsec(),
        meta.mtime_nsec()
    );
    assert_eq!(names_in(dir.path()), ["core"]);
    stuck.backend().assert_running_untraced();
    server.assert_unharmed();
}

/// What cannot be stopped is not waited for.
#[test]
fn a_backend_in_state_d_has_none() {
    let server = server_with_testext!();
    let dir = tempfile::tempdir().expect("a directory for cores");
    let core = dir.path().join("core");
    let stuck = server.stuck("SELECT pgpoke_vfork(3600)");
    let run = Run::pgpoke(arguments(&stuck.pid().to_string(), &core, &[]));
    run.assert_code(8).assert_says("did not stop");
    assert_eq!(names_in(dir.path()), [""; 0]);
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
    let core = dir.path().join("core");
    let stuck = with_much_memory(&server, 300, "pgpoke_gap(3600)");
    let report = core_of(&stuck.backend(), &core, &["--max-stop", "20ms"]);
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
    // From the request to stop on, so that the backend's wait for a processor is in it, as in its own gap below.
    assert!(
        report["stopped_ms"].as_f64().is_some_and(|ms| ms <= 80.0),
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
    let gdb = gdb(&server.installation().server(), &[of_core(&core)]);
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
    let core = dir.path().join("core");
    let stuck = server.stuck("SELECT pgpoke_spin()");
    let pid = stuck.pid().to_string();
    let args = arguments(&pid, &core, &[]);
    for injection in [
        "pwrite64:error=ENOSPC:when=1",
        "pwrite64:error=ENOSPC:when=7",
        "pwrite64:error=EIO:when=3",
        "fdatasync:error=EIO",
        "ftruncate:error=EFBIG",
        "linkat:error=ENOSPC",
    ] {
        let run = Run::of(tampered(&[injection], &args));
        run.assert_code(1).assert_says("cannot write");
        assert_eq!(names_in(dir.path()), [""; 0], "{injection}");
        stuck.backend().assert_running_untraced();
    }
    server.assert_unharmed();
}

/// Where a file system has no files without a name.
#[test]
fn a_file_that_has_a_name_before_it_is_whole() {
    let server = server_with_testext!();
    let dir = tempfile::tempdir().expect("a directory for cores");
    let core = dir.path().join("core");
    let stuck = server.stuck("SELECT pgpoke_spin()");
    let pid = stuck.pid().to_string();
    let args = arguments(&pid, &core, &[]);
    let command = || {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", "signal=none"]);
        // The directory as such is opened for a file without a name only.
        command.arg("-P").arg(dir.path());
        command.args(["-e", "inject=openat:error=EOPNOTSUPP", "--"]);
        command.arg(pgpoke().get_program()).args(&args);
        command
    };
    let mut seen = false;
    let whole = Run::while_doing(DEADLINE, command(), |strace| {
        let there = |path: &Path| path.exists();
        // Or it was too quick for us.
        while !there(&core) && Backend::open(strace).is_some_and(|s| s.state() != Some('Z')) {
            seen |= names_in(dir.path()).iter().any(|n| n.ends_with(".partial"));
        }
    });
    whole.assert_code(0);
    assert!(seen, "it was never there half");
    assert_eq!(names_in(dir.path()), ["core"]);
    fs::remove_file(&core).expect("the core");
    let mut early = 0;
    for (round, moment) in moments(&whole, 16).enumerate() {
        let signal = [libc::SIGINT, libc::SIGTERM][round % 2];
        let run = Run::while_doing(DEADLINE, command(), |strace| {
            let child = child_of(strace);
            thread::sleep(moment);
            // SAFETY: kill takes any numbers; at worst pgpoke has ended, and nobody has the PID yet.
            unsafe { libc::kill(child, signal) };
        });
        stuck.backend().assert_running_untraced();
        match names_in(dir.path()).as_slice() {
            [] => early += usize::from(run.code() != Some(0)),
            [one] if one == "core" => fs::remove_file(&core).expect("the core"),
            other => panic!("{other:?} is left:\n{run}"),
        }
    }
    assert!(early > 2, "{early}");
    server.assert_unharmed();
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

/// Moments all over a run that takes so long, and some after.
fn moments(run: &Run, number: u32) -> impl Iterator<Item = Duration> {
    let all = run.elapsed * 5 / 4;
    (0..number).map(move |n| all * n / number)
}

/// The disk is waited for when the backend runs again.
#[test]
fn a_slow_disk_makes_no_long_stop() {
    let server = server_with_testext!(Server::builder().alone());
    let dir = tempfile::tempdir().expect("a directory for cores");
    let core = dir.path().join("core");
    let stuck = server.stuck("SELECT pgpoke_gap(3600)");
    let pid = stuck.pid().to_string();
    let slow = ["pwrite64,fdatasync,ftruncate,linkat:delay_enter=20000"];
    let run = Run::of(tampered(&slow, &arguments(&pid, &core, &[])));
    run.assert_code(0);
    assert!(
        run.elapsed > Duration::from_millis(500),
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

/// Ctrl-C, SIGTERM and SIGKILL at any moment.
#[test]
fn ended_at_any_moment_it_leaves_nothing_behind() {
    let server = server_with_testext!();
    let dir = tempfile::tempdir().expect("a directory for cores");
    let core = dir.path().join("core");
    let stuck = server.stuck("SELECT pgpoke_spin()");
    let pid = stuck.pid().to_string();
    let args = arguments(&pid, &core, &[]);
    let undisturbed = Run::pgpoke(&args);
    undisturbed.assert_code(0);
    fs::remove_file(&core).expect("the core");
    let (mut early, mut whole) = (0, 0);
    for (round, moment) in moments(&undisturbed, 60).enumerate() {
        let signal = [libc::SIGINT, libc::SIGTERM, libc::SIGKILL][round % 3];
        let mut command = pgpoke();
        command.args(&args);
        let run = Run::while_doing(DEADLINE, command, |pgpoke| {
            thread::sleep(moment);
            // SAFETY: kill takes any numbers; the PID is a child's that was not yet waited for.
            unsafe { libc::kill(pgpoke, signal) };
        });
        stuck.backend().assert_running_untraced();
        match names_in(dir.path()).as_slice() {
            [] => {
                assert_ne!(run.code(), Some(0), "{run}");
                early += 1;
            }
            [one] if one == "core" => {
                assert!(!loaded(&core).is_empty(), "{run}");
                fs::remove_file(&core).expect("the core");
                whole += 1;
            }
            other => panic!("{other:?} is left:\n{run}"),
        }
    }
    eprintln!("{early} ended early, {whole} wrote the file");
    assert!(early > 5);
    server.assert_unharmed();
}

/// The same for a disk that is slow, in the middle of writing.
#[test]
fn ctrl_c_on_a_slow_disk() {
    let server = server_with_testext!();
    let dir = tempfile::tempdir().expect("a directory for cores");
    let core = dir.path().join("core");
    let stuck = server.stuck("SELECT pgpoke_spin()");
    let pid = stuck.pid().to_string();
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGKILL] {
        let command = tampered(
            &["pwrite64:delay_enter=300000"],
            &arguments(&pid, &core, &[]),
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
        assert_ne!(run.code(), Some(0), "{run}");
        if signal != libc::SIGKILL {
            run.assert_says("ended by signal")
                .assert_says("nothing was done to it");
        }
        assert_eq!(names_in(dir.path()), [""; 0], "{run}");
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
    let core = disk.0.path().join("core");
    let stuck = server.stuck("SELECT pgpoke_spin()");
    let (run, calls) = Run::pgpoke_traced(arguments(&stuck.pid().to_string(), &core, &[]));
    run.assert_code(1)
        .assert_says("MiB have to stay free")
        .assert_says("has 32 MiB");
    // It was not even stopped.
    calls.assert_none();
    assert_eq!(names_in(disk.0.path()), [""; 0]);
    server.assert_unharmed();
}

#[test]
fn a_disk_that_fills_up_meanwhile() {
    if !is_root() {
        skip!("only root may mount a small disk");
    }
    let server = server_with_testext!();
    let disk = SmallDisk::new(300);
    let core = disk.0.path().join("core");
    let stuck = with_much_memory(&server, 100, "pgpoke_gap(3600)");
    let pid = stuck.pid().to_string();
    let command = tampered(
        &["pwrite64:delay_enter=20000"],
        &arguments(&pid, &core, &[]),
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
    run.assert_code(1).assert_says("No space left on device");
    assert_eq!(names_in(disk.0.path()), ["filler"]);
    stuck.backend().assert_running_untraced();
    server.assert_unharmed();
}
