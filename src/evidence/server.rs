//! All processes of the server, several times: who waits where, and who gets on.

use std::fmt::Write;
use std::time::{Duration, Instant};

use super::{Material, Title};
use crate::process::Process;

/// How often they are looked at, and the pause between.
const ROUNDS: usize = 3;
const PAUSE: Duration = Duration::from_millis(400);

/// The most processes, and the longest that one round may take.
const MOST: usize = 2000;
const LONGEST: Duration = Duration::from_secs(3);

struct Seen {
    process: Process,
    title: String,
    rounds: Vec<String>,
    kernel_stack: Option<Vec<String>>,
}

/// State, wait channel and processor time of each.
pub fn processes(m: &Material) -> Result<String, String> {
    let mut pids = m
        .postmaster
        .as_ref()
        .map(Process::children)
        .unwrap_or_default();
    pids.extend(m.postmaster.as_ref().map(Process::pid));
    pids.push(m.process.pid());
    pids.sort_unstable();
    pids.dedup();
    let all = pids.len();
    let mut seen: Vec<Seen> = pids
        .into_iter()
        .take(MOST)
        .filter_map(|pid| Seen::of(m, pid))
        .collect();
    for round in 0..ROUNDS {
        if round > 0 {
            std::thread::sleep(PAUSE);
        }
        let end = Instant::now() + LONGEST;
        for one in seen.iter_mut() {
            if Instant::now() > end {
                break;
            }
            one.look();
        }
    }
    let mut out = format!(
        "{} processes of the server, looked at {ROUNDS} times, {} ms apart: state, wait channel in the kernel, processor time used so far\n",
        seen.len(),
        PAUSE.as_millis()
    );
    if all > MOST {
        let _ = writeln!(out, "{} more were not looked at", all - MOST);
    }
    for one in &seen {
        let _ = writeln!(out, "\n{}  {}", one.process.pid(), one.title);
        for round in &one.rounds {
            let _ = writeln!(out, "    {round}");
        }
        for function in one.kernel_stack.iter().flatten() {
            let _ = writeln!(out, "      in the kernel: {function}");
        }
    }
    Ok(out)
}

impl Seen {
    fn of(m: &Material, pid: i32) -> Option<Self> {
        let process = Process::open(pid).ok()?;
        let command = process.command_line().unwrap_or_default();
        let title = Title::parse(&command, m.settings.get("cluster_name").unwrap_or_default());
        let title = match (title, &m.redactor) {
            (None, _) => super::command_line(m, &command),
            (Some(title), Some(r)) => r.title(&title.text),
            (Some(title), None) => title.text,
        };
        Some(Seen {
            title,
            process,
            rounds: Vec::new(),
            kernel_stack: None,
        })
    }

    fn look(&mut self) {
        let p = &self.process;
        let Some(state) = p.state() else {
            return self.rounds.push("gone".to_owned());
        };
        let channel = p.wait_channel().unwrap_or_else(|| "-".to_owned());
        let time = p
            .cpu_time()
            .map_or_else(|| "-".to_owned(), |t| format!("{:.3} s", t.as_secs_f64()));
        self.rounds.push(format!("{state}  {channel:<24} {time}"));
        // Nobody but the kernel can wake it: what it is in says which file system or device it waits for.
        if state == 'D' {
            self.kernel_stack = p.kernel_stack();
        }
    }
}
