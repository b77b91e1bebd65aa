//! Whatever may not come back: it gets a deadline, and a thread or a process that can be left behind.

use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How often a wait looks whether it is to go on.
const STEP: Duration = Duration::from_millis(20);

/// Runs something on a thread of its own. What has not come back when it is asked for is left behind, and ends with
/// pgpoke.
pub fn begin<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (answer, answers) = channel();
    // Where no thread can be had, nobody answers.
    let _ = thread::Builder::new().spawn(move || answer.send(job()));
    answers
}

/// Waits for what was begun, in steps, after each of which `go_on` is asked.
pub fn wait<T>(
    answers: &Receiver<T>,
    limit: Duration,
    mut go_on: impl FnMut() -> bool,
) -> Result<T, String> {
    let deadline = Instant::now() + limit;
    loop {
        match answers.recv_timeout(STEP) {
            Ok(answer) => return Ok(answer),
            Err(RecvTimeoutError::Disconnected) => return Err("it failed".into()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if !go_on() {
            return Err("pgpoke was asked to end".into());
        }
        if Instant::now() >= deadline {
            return Err(format!("no answer within {} s", limit.as_secs_f64()));
        }
    }
}

/// Runs a program to its end, or ends it when its time is up; says what it printed, at most `most` bytes of it.
pub fn run(mut command: Command, limit: Duration, most: u64) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|e| format!("{name}: {e}"))?;
    let collect = |pipe: Option<Box<dyn Read + Send>>| {
        begin(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.by_ref().take(most).read_to_end(&mut bytes);
                // Who is not read to the end dies of it (SIGPIPE).
                let _ = io::copy(&mut pipe, &mut io::sink());
            }
            bytes
        })
    };
    let printed = collect(child.stdout.take().map(|p| Box::new(p) as _));
    let complaints = collect(child.stderr.take().map(|p| Box::new(p) as _));
    let deadline = Instant::now() + limit;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if Instant::now() < deadline => thread::sleep(STEP),
            _ => break None,
        }
    };
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    // A child of its own may keep the pipe open.
    let text = |answers: &Receiver<Vec<u8>>| {
        let bytes = answers
            .recv_timeout(Duration::from_secs(1))
            .unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    match status {
        None => Err(format!(
            "{name}: no answer within {} s",
            limit.as_secs_f64()
        )),
        Some(status) if status.success() => Ok(text(&printed)),
        Some(status) => {
            let complaint = text(&complaints);
            let complaint = complaint
                .lines()
                .next()
                .unwrap_or("it said nothing")
                .to_owned();
            Err(format!("{name}: {status}: {complaint}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn nothing_takes_longer_than_it_may() {
        let start = Instant::now();
        let limit = Duration::from_millis(100);
        assert!(
            run(sh("sleep 60"), limit, 9)
                .unwrap_err()
                .contains("no answer within 0.1 s")
        );
        assert!(
            wait(
                &begin(|| thread::sleep(Duration::from_secs(60))),
                limit,
                || true
            )
            .is_err()
        );
        let asked = wait(
            &begin(|| thread::sleep(Duration::from_secs(60))),
            Duration::from_secs(60),
            || false,
        );
        assert_eq!(asked.unwrap_err(), "pgpoke was asked to end");
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn answers_come_back() {
        let limit = Duration::from_secs(30);
        assert_eq!(run(sh("echo 12345; echo 6"), limit, 3).unwrap(), "123");
        assert!(
            run(sh("echo no >&2; exit 3"), limit, 9)
                .unwrap_err()
                .ends_with("3: no")
        );
        assert!(run(Command::new("/nowhere"), limit, 9).is_err());
        assert_eq!(wait(&begin(|| 7), limit, || true), Ok(7));
        assert!(wait(&begin(|| -> () { panic!("on purpose") }), limit, || true).is_err());
    }
}
