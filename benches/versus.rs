//! pgpoke beside gdb and eu-stack on one stuck backend: how long each takes, how much memory, and
//! for how long the backend stands still. A cancel, by pgpoke and by gdb. And core files, by pgpoke and by gcore.
//!
//! `make bench`; the core files alone: `cargo bench --bench versus -- cores`. The runs of the tools take
//! turns, so that whatever else goes on in the machine meets them all. How long the backend stood still is what the backend itself has seen.

#[path = "../tests/suite/harness/mod.rs"]
#[allow(dead_code, unused_imports, unused_macros)] // the tests use more of it
mod harness;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::{DEADLINE, How, Run, Server, Stuck, pgpoke, wait_for};

/// How often each tool runs.
const RUNS: usize = 25;

/// How often a core file is written, which takes gcore seconds.
const CORES: usize = 3;

/// The first argument of this program when it is its own helper.
const MEASURE: &str = "--measure-one-run";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.split_first() {
        Some((first, command)) if first == MEASURE => measure_one_run(command),
        _ if args.iter().any(|arg| arg == "cores") => cores(&path_of_pgpoke()),
        _ => bench(),
    }
}

/// What a run of a tool cost.
#[derive(Clone, Copy, Debug)]
struct Cost {
    wall: Duration,
    /// Peak resident memory in KiB.
    memory: u64,
    /// Processor time.
    cpu: Duration,
    /// The exit code; or minus the signal.
    status: i32,
}

/// Runs a command and prints its cost. In a process of its own: what wait4(2) says of a child's
/// memory is at least what its parent had when it started it, and this one has next to nothing.
fn measure_one_run(command: &[String]) {
    let mut child = Command::new(&command[0]);
    child.args(&command[1..]);
    child
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    first_in_line(0, 2);
    let start = Instant::now();
    #[allow(clippy::zombie_processes)] // waited for below
    let pid = child.spawn().expect("the tool").id();
    let mut status = 0;
    // SAFETY: zeroes are a value of a structure of numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live locals of the types that wait4(2) fills.
    let waited = unsafe { libc::wait4(pid as i32, &mut status, 0, &mut usage) };
    let wall = start.elapsed();
    assert_eq!(waited, pid as i32);
    let status = match libc::WIFEXITED(status) {
        true => libc::WEXITSTATUS(status),
        false => -libc::WTERMSIG(status),
    };
    let micros = |t: libc::timeval| t.tv_sec * 1_000_000 + t.tv_usec;
    let cpu = micros(usage.ru_utime) + micros(usage.ru_stime);
    println!("{} {} {cpu} {status}", wall.as_nanos(), usage.ru_maxrss);
}

/// Before others, where we may: what else the machine does is not to be measured. The tools get the
/// second of two real-time priorities, and the backend the first and lower one, all alike.
fn first_in_line(pid: i32, sched_priority: i32) -> bool {
    let parameters = libc::sched_param { sched_priority };
    // SAFETY: the pointer is to a live local.
    unsafe { libc::sched_setscheduler(pid, libc::SCHED_RR, &parameters) == 0 }
}

fn measured(command: &[String]) -> Cost {
    let mut helper = Command::new(std::env::current_exe().expect("this program"));
    helper.arg(MEASURE).args(command);
    let run = Run::of(helper);
    let numbers: Vec<i64> = run
        .assert_code(0)
        .stdout
        .split_whitespace()
        .map(|n| n.parse().expect("a number"))
        .collect();
    Cost {
        wall: Duration::from_nanos(numbers[0] as u64),
        memory: numbers[1] as u64,
        cpu: Duration::from_micros(numbers[2] as u64),
        status: numbers[3] as i32,
    }
}

/// A tool, with what its runs cost.
struct Tool {
    name: &'static str,
    command: Vec<String>,
    /// The exit codes of a good run.
    good: &'static [i32],
    wall: Vec<f64>,
    cpu: Vec<f64>,
    memory: Vec<f64>,
    gap: Vec<f64>,
}

impl Tool {
    fn new(name: &'static str, good: &'static [i32], command: &[&str]) -> Self {
        Self {
            name,
            command: command.iter().map(|&word| word.to_owned()).collect(),
            good,
            wall: Vec::new(),
            cpu: Vec::new(),
            memory: Vec::new(),
            gap: Vec::new(),
        }
    }

    fn command_on(&self, pid: i32) -> Vec<String> {
        let pid = pid.to_string();
        self.command
            .iter()
            .map(|word| word.replace("PID", &pid))
            .collect()
    }

    fn run(&self, pid: i32) -> Cost {
        let cost = measured(&self.command_on(pid));
        assert!(self.good.contains(&cost.status), "{}: {cost:?}", self.name);
        cost
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

/// A backend that watches the clock while `disturb` runs, and nothing else; says how long it stood
/// still at most, in milliseconds.
fn gap(server: &Server, disturb: impl FnOnce(i32)) -> f64 {
    gap_in(server, "SELECT pgpoke_gap(3600)", disturb)
}

/// The same, in a statement of which that is the result.
fn gap_in(server: &Server, sql: &str, disturb: impl FnOnce(i32)) -> f64 {
    let stuck = server.stuck(sql);
    first_in_line(stuck.pid(), 1);
    disturb(stuck.pid());
    // A cancel ends it, with its answer.
    let cancelled: bool = server
        .connect()
        .query_one("SELECT pg_cancel_backend($1)", &[&stuck.pid()])
        .expect("pg_cancel_backend")
        .get(0);
    assert!(cancelled);
    let rows = stuck.result().expect("the gap");
    let micros: f64 = rows[0][0]
        .as_deref()
        .and_then(|n| n.parse().ok())
        .expect("a number");
    micros / 1e3
}

fn path_of_pgpoke() -> String {
    let path = pgpoke().get_program().to_str().map(str::to_owned);
    path.expect("a path in UTF-8")
}

fn bench() {
    let server = Server::start();
    server.install_testext();
    let pgpoke = path_of_pgpoke();
    let mut tools = [
        Tool::new("pgpoke inspect", &[0, 3, 5], &[&pgpoke, "inspect", "PID"]),
        Tool::new(
            "pgpoke inspect --passive",
            &[0, 3, 5],
            &[&pgpoke, "inspect", "--passive", "PID"],
        ),
        Tool::new("eu-stack -p PID", &[0], &["eu-stack", "-p", "PID"]),
        Tool::new(
            "gdb -p PID -batch -ex bt",
            &[0],
            &[
                "gdb",
                "-nx",
                "-iex",
                "set debuginfod enabled off",
                "-p",
                "PID",
                "-batch",
                "-ex",
                "bt",
            ],
        ),
    ];
    facts(&server, &tools);
    look(&server, &mut tools);
    cancel(&server);
    server.assert_unharmed();
    drop(server);
    cores(&pgpoke);
}

/// The machine, and what is run on it.
fn facts(server: &Server, tools: &[Tool]) {
    let first_line = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
        text.unwrap_or_default()
            .lines()
            .next()
            .unwrap_or("?")
            .to_owned()
    };
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("?", |(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "{cores} × {cpu}, Linux {}, load {}",
        first_line("uname", &["-r"]),
        load.trim()
    );
    println!("{}", server.installation().version());
    println!("{}", first_line("gdb", &["--version"]));
    println!("{}", first_line("eu-stack", &["--version"]));
    let debug = fs::exists("/usr/lib/debug/.build-id").unwrap_or(false);
    println!(
        "debug files in /usr/lib/debug/.build-id: {}",
        if debug { "yes" } else { "no" }
    );
    println!();
    for tool in tools {
        let command: Vec<String> = tool
            .command
            .iter()
            .map(|w| w.rsplit('/').next().unwrap_or(w).into())
            .collect();
        println!("{:26} {}", tool.name, command.join(" "));
    }
    println!();
}

fn look(server: &Server, tools: &mut [Tool]) {
    let stuck = server.stuck("SELECT pgpoke_spin()");
    if !first_in_line(stuck.pid(), 1) {
        println!(
            "Without the right to go before others: what else the machine does is measured, too."
        );
    }
    for how in [How::Cancel, How::Terminate] {
        stuck.prove_stuck(how);
    }
    // Once before it counts, to have read from disk whatever it takes.
    for tool in tools.iter() {
        tool.run(stuck.pid());
    }
    for _ in 0..RUNS {
        for tool in tools.iter_mut() {
            let cost = tool.run(stuck.pid());
            tool.wall.push(cost.wall.as_secs_f64() * 1e3);
            tool.cpu.push(cost.cpu.as_secs_f64() * 1e3);
            tool.memory.push(cost.memory as f64 / 1024.0);
        }
    }
    stuck.backend().assert_running_untraced();
    let mut undisturbed = Vec::new();
    // That one would take processor time from the others.
    Run::pgpoke(["interrupt", "--yes", &stuck.pid().to_string()]).assert_code(0);
    for _ in 0..RUNS {
        // As long as the quicker tools take.
        undisturbed.push(gap(server, |_| {
            measured(&["sleep".into(), "0.02".into()]);
        }));
        for tool in tools.iter_mut() {
            tool.gap.push(gap(server, |pid| {
                tool.run(pid);
            }));
        }
    }
    println!("Looking at a backend in a tight loop: medians of {RUNS} runs each, taking turns");
    println!(
        "{:26} {:>17} {:>17} {:>18} {:>21}",
        "", "wall time", "CPU time", "peak memory", "stood still"
    );
    let medians =
        |tool: &Tool| [&tool.wall, &tool.cpu, &tool.memory, &tool.gap].map(|values| median(values));
    let ours = medians(&tools[0]);
    for tool in tools.iter() {
        let theirs = medians(tool);
        let [wall, cpu, memory, gap] = theirs;
        let [w, c, m, g] = [0, 1, 2, 3].map(|n| ratio(theirs[n], ours[n]));
        println!(
            "{:26} {wall:>7.1} ms {w:>6} {cpu:>7.1} ms {c:>6} {memory:>7.1} MiB {m:>6} {gap:>9.3} ms {g:>8}",
            tool.name,
        );
    }
    println!("{:26} {:>67.3} ms", "(left alone)", median(&undisturbed));
    println!();
}

fn ratio(theirs: f64, ours: f64) -> String {
    format!("{:.2}×", theirs / ours)
}

fn cancel(server: &Server) {
    let mut call = Vec::new();
    let mut stopped = Vec::new();
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    let mut stayed = 0;
    for _ in 0..RUNS {
        let stuck = cancel_pending(server);
        let start = Instant::now();
        let run = Run::pgpoke(["interrupt", "--yes", "--json", &stuck.pid().to_string()]);
        assert_cancelled(&stuck);
        ours.push(start.elapsed().as_secs_f64() * 1e3);
        let json = run.assert_code(0).json();
        assert_eq!(json["outcome"], "cancelled", "{run}");
        call.push(json["call_ms"].as_f64().expect("call_ms"));
        stopped.push(json["stopped_ms"].as_f64().expect("stopped_ms"));
        stuck.backend().assert_running_untraced();
    }
    for _ in 0..RUNS {
        let stuck = cancel_pending(server);
        let mut gdb = Command::new("gdb");
        gdb.args(["-nx", "-iex", "set debuginfod enabled off", "-batch"]);
        gdb.args([
            "-p",
            &stuck.pid().to_string(),
            "-ex",
            "call (void)ProcessInterrupts()",
        ]);
        gdb.stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let start = Instant::now();
        let mut gdb = gdb.spawn().expect("gdb");
        assert_cancelled(&stuck);
        theirs.push(start.elapsed().as_secs_f64() * 1e3);
        // The call never returns to gdb, as the error jumps out of it.
        let done = Instant::now();
        while gdb.try_wait().expect("gdb's status").is_none() {
            if done.elapsed() > Duration::from_millis(250) {
                stayed += usize::from(stuck.backend().tracer_pid() == gdb.id() as i32);
                gdb.kill().expect("gdb to be killed");
                gdb.wait().expect("gdb's status");
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        wait_for(DEADLINE, "gdb shall let go", || {
            (stuck.backend().tracer_pid() == 0).then_some(())
        });
    }
    println!("Cancelling a tight loop that ignores the cancel: medians of {RUNS} runs each");
    println!(
        "{:40} {:>20} {:>20}",
        "", "command to cancelled", "stop to outcome"
    );
    let whole = median(&ours);
    println!(
        "{:40} {:>10.1} ms {:>6} {:>17.3} ms",
        "pgpoke interrupt --yes PID",
        whole,
        ratio(whole, whole),
        median(&call)
    );
    println!(
        "{:40} {:>10.1} ms {:>6} {:>20}",
        "gdb -ex 'call (void)ProcessInterrupts()'",
        median(&theirs),
        ratio(median(&theirs), whole),
        "–",
    );
    println!(
        "pgpoke held the backend for {:.3} ms in all, its looks included.",
        median(&stopped)
    );
    println!(
        "gdb was still attached 250 ms after the cancel in {stayed} of {RUNS} runs, until it was killed."
    );
}

fn cancel_pending(server: &Server) -> Stuck<'_> {
    let stuck = server.stuck("SELECT pgpoke_spin()");
    let sent: bool = server
        .connect()
        .query_one("SELECT pg_cancel_backend($1)", &[&stuck.pid()])
        .expect("pg_cancel_backend")
        .get(0);
    assert!(sent);
    stuck.wait_until("the signal shall arrive", DEADLINE, |backend| {
        !backend.is_pending(libc::SIGINT)
    });
    stuck
}

fn assert_cancelled(stuck: &Stuck) {
    let failure = stuck.result().expect_err("an endless statement");
    assert_eq!(failure.code(), "57014", "{failure}");
}

/// A core file, of a backend that has touched all of 2 GB of shared memory.
fn cores(pgpoke: &str) {
    let server = Server::builder()
        .setting("shared_buffers", "2GB")
        .setting("max_wal_size", "8GB")
        .setting("max_parallel_workers_per_gather", "0")
        .start_with_testext()
        .expect("testext");
    // A row a page.
    let fill = "CREATE UNLOGGED TABLE large (filler text);
        ALTER TABLE large ALTER filler SET STORAGE PLAIN;
        INSERT INTO large SELECT repeat('x', 7000) FROM generate_series(1, 250000);";
    server.connect().batch_execute(fill).expect("a large table");
    let dir = tempfile::tempdir_in("/tmp").expect("a directory for cores");
    let path = dir.path().join("r");
    let path = path.to_str().expect("a path in /tmp");
    // All that is in a report is gathered, too.
    let report = |name, core| {
        let command = [pgpoke, "report", "--samples", "1", core, "-o", path, "PID"];
        (
            Tool::new(name, &[0], &command),
            format!("{path}/core"),
            Vec::new(),
        )
    };
    let mut tools = [
        report("report --core", "--core"),
        report("report --core=full", "--core=full"),
        (
            Tool::new("gcore", &[0], &["gcore", "-o", path, "PID"]),
            format!("{path}.PID"),
            Vec::new(),
        ),
    ];
    // Every page is read by this very backend, and then it looks at the clock.
    let sql = "SELECT pgpoke_gap(3600)
        FROM (SELECT sum(length(filler)) FROM large OFFSET 0) read WHERE read.sum > 0";
    let mut resident = Vec::new();
    for _ in 0..CORES {
        for (tool, file, sizes) in &mut tools {
            let gap = gap_in(&server, sql, |pid| {
                resident.push(resident_mib(pid));
                let cost = tool.run(pid);
                tool.wall.push(cost.wall.as_secs_f64() * 1e3);
                tool.memory.push(cost.memory as f64 / 1024.0);
                let file = file.replace("PID", &pid.to_string());
                sizes.push(on_disk_mib(Path::new(&file)));
                for entry in fs::read_dir(dir.path()).expect("the cores").flatten() {
                    let path = entry.path();
                    let removed = match path.is_dir() {
                        true => fs::remove_dir_all(path),
                        false => fs::remove_file(path),
                    };
                    removed.expect("nothing left of it");
                }
            });
            tool.gap.push(gap);
        }
    }
    println!();
    assert!(median(&resident) > 1900.0, "{resident:?} MiB are resident");
    println!(
        "Core files with shared_buffers = 2GB, {:.0} MiB resident: medians of {CORES} runs each, taking turns",
        median(&resident)
    );
    println!(
        "{:26} {:>19} {:>14} {:>14} {:>21}",
        "", "wall time", "peak memory", "on disk", "stood still"
    );
    let ours = (median(&tools[0].0.wall), median(&tools[0].0.gap));
    for (tool, _, sizes) in &tools {
        let (wall, gap) = (median(&tool.wall), median(&tool.gap));
        println!(
            "{:26} {wall:>8.1} ms {:>7} {:>10.1} MiB {:>10.1} MiB {gap:>9.3} ms {:>8}",
            tool.name,
            ratio(wall, ours.0),
            median(&tool.memory),
            median(sizes),
            ratio(gap, ours.1),
        );
    }
    let theirs = median(&tools[2].0.gap);
    assert!(ours.0 < 2000.0, "a default core takes {} ms", ours.0);
    assert!(
        ours.1 < theirs / 5.0,
        "stood still for {} ms, and {theirs} ms for gcore",
        ours.1
    );
    server.assert_unharmed();
}

fn resident_mib(pid: i32) -> f64 {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|n| n.parse::<f64>().ok());
    pages.unwrap_or_default() * 4096.0 / f64::from(1 << 20)
}

fn on_disk_mib(file: &Path) -> f64 {
    let meta = fs::metadata(file).expect("a core");
    meta.blocks() as f64 * 512.0 / f64::from(1 << 20)
}
