//! Runs test programs, passes their output on as it comes, and reads what they say of their tests.

use std::io::{Read as _, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::console::seconds;
use crate::workspace::display;

/// How long the output of a program may stay open after the program ended.
const LEFTOVER_MAX: Duration = Duration::from_secs(5);
/// How often is looked whether the program still runs, and for how long it may.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What became of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) ignored: u64,
    /// Trials that failed after the machine had stood still, and were repeated.
    pub(crate) repeated: u64,
}

impl Tally {
    /// Reads "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; …" and the laboratory's "trial repeated: …".
    pub(crate) fn from_line(line: &str) -> Option<Self> {
        if line.starts_with("trial repeated: ") {
            return Some(Self {
                repeated: 1,
                ..Self::default()
            });
        }
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let mut tally = Self::default();
        for count in counts.split("; ") {
            let Some((number, what)) = count.split_once(' ') else {
                continue;
            };
            let field = match what {
                "passed" => &mut tally.passed,
                "failed" => &mut tally.failed,
                "ignored" => &mut tally.ignored,
                _ => continue,
            };
            *field = number.parse().ok()?;
        }
        Some(tally)
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            ignored: self.ignored + other.ignored,
            repeated: self.repeated + other.repeated,
        }
    }
}

/// Puts the lines of a stream together that comes in pieces.
#[derive(Default)]
pub(crate) struct Lines {
    line: Vec<u8>,
}

impl Lines {
    /// No line that anybody looks for is longer; the rest of a longer line is dropped.
    const LINE_MAX: usize = 512;

    pub(crate) fn feed(&mut self, chunk: &[u8], mut on_line: impl FnMut(&str)) {
        for &byte in chunk {
            if byte == b'\n' {
                on_line(&String::from_utf8_lossy(&self.line));
                self.line.clear();
            } else if self.line.len() < Self::LINE_MAX {
                self.line.push(byte);
            }
        }
    }
}

/// Runs a test command, passes its output on as it comes and adds up the result lines.
///
/// # Errors
/// When it cannot start, or leaves a process behind.
pub(crate) fn run_counting(command: &mut Command, echo: &mut impl Write) -> Result<(bool, Tally)> {
    let mut lines = Lines::default();
    let mut tally = Tally::default();
    let status = follow(command, None, |chunk| {
        echo.write_all(chunk)
            .and_then(|()| echo.flush())
            .context("cannot write the output of the tests")?;
        lines.feed(chunk, |line| {
            tally = tally.plus(Tally::from_line(line).unwrap_or_default());
        });
        Ok(())
    })?;
    Ok((status.success(), tally))
}

/// Runs a command to its end and hands over what it writes to stdout, piece by piece.
///
/// # Errors
/// When it cannot start, runs longer than `limit`, or leaves a process behind; and the errors of
/// `on_output`. It does not run any more then.
pub(crate) fn follow(
    command: &mut Command,
    limit: Option<Duration>,
    on_output: impl FnMut(&[u8]) -> Result<()>,
) -> Result<ExitStatus> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", display(command)))?;
    let read = read_along(&mut child, limit, on_output);
    if read.is_err() {
        child.kill().context("cannot kill the program")?;
    }
    let status = child.wait().context("cannot wait for the program")?;
    read.with_context(|| format!("`{}`", display(command)))?;
    Ok(status)
}

fn read_along(
    child: &mut Child,
    limit: Option<Duration>,
    mut on_output: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let started = Instant::now();
    let mut stdout = child.stdout.take().context("has no output")?;
    let (sender, receiver) = mpsc::sync_channel::<Vec<u8>>(16);
    // The thread is not joined: it may hang on an output that a leftover process keeps open.
    thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(length @ 1..) = stdout.read(&mut buffer) {
            if sender
                .send(buffer.iter().take(length).copied().collect())
                .is_err()
            {
                break;
            }
        }
    });
    let mut ended = None;
    loop {
        match receiver.recv_timeout(LOOK_EVERY) {
            Ok(chunk) => on_output(&chunk)?,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {
                if child.try_wait().context("cannot be waited for")?.is_some() {
                    let ended = ended.get_or_insert_with(Instant::now);
                    ensure!(
                        ended.elapsed() < LEFTOVER_MAX,
                        "ended, but a process that it started still runs"
                    );
                }
            }
        }
        if let Some(limit) = limit.filter(|limit| started.elapsed() > *limit) {
            bail!("was killed: it ran longer than {}", seconds(limit));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn result_lines_are_read() {
        let line = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.00s";
        let expected = Tally {
            passed: 12,
            failed: 0,
            ignored: 1,
            repeated: 0,
        };
        assert_eq!(Tally::from_line(line), Some(expected));
        let line = "test result: FAILED. 7 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        let expected = Tally {
            passed: 7,
            failed: 2,
            ignored: 0,
            repeated: 0,
        };
        assert_eq!(Tally::from_line(line), Some(expected));
        let line = "trial repeated: a_test: processor 1 stood still for 1.2s before it panicked";
        let expected = Tally {
            repeated: 1,
            ..Tally::default()
        };
        assert_eq!(Tally::from_line(line), Some(expected));
        for other in [
            "running 3 tests",
            "test a ... ok",
            "",
            "test result: ",
            "x test result: ok. 1 passed",
        ] {
            assert_eq!(Tally::from_line(other), None, "{other:?}");
        }
    }

    #[test]
    fn lines_are_found_across_pieces() {
        let text = "noise\ntest result: ok. 2 passed; 0 failed; 0 ignored\n\u{fffd}more\nrest";
        for size in [1, 2, 7, 1000] {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for chunk in text.as_bytes().chunks(size) {
                lines.feed(chunk, |line| found.push(line.to_owned()));
            }
            let expected: Vec<_> = text.lines().take(3).collect();
            assert_eq!(found, expected, "{size}");
        }
    }

    #[test]
    fn endless_line_stays_bounded() {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        lines.feed(&vec![b'x'; 100_000], |_| panic!("no line ended"));
        assert!(lines.line.len() <= Lines::LINE_MAX);
        lines.feed(b"\nnext\n", |line| found.push(line.to_owned()));
        assert_eq!(found.last().unwrap(), "next");
    }

    /// The lines are not passed on to this test's own output, where the suite would count them.
    fn count(script: &str) -> Result<(bool, Tally, String)> {
        let mut echo = Vec::new();
        let (succeeded, tally) = run_counting(&mut shell(script), &mut echo)?;
        Ok((succeeded, tally, String::from_utf8(echo)?))
    }

    #[test]
    fn command_is_counted_and_passed_on_and_its_failure_seen() {
        let line = "test result: ok. 4 passed; 0 failed; 0 ignored\n";
        let expected = Tally {
            passed: 4,
            failed: 0,
            ignored: 0,
            repeated: 0,
        };
        let script = format!("printf '{line}'");
        assert_eq!(count(&script).unwrap(), (true, expected, line.to_string()));
        let script = format!("printf '{line}'; exit 101");
        assert_eq!(count(&script).unwrap(), (false, expected, line.to_string()));
        let two = format!("{line}test result: FAILED. 1 passed; 3 failed; 0 ignored\n");
        let (_, tally, _) = count(&format!("printf '{two}'")).unwrap();
        assert_eq!((tally.passed, tally.failed), (5, 3));
    }

    #[test]
    fn leftover_process_is_an_error_and_not_a_hang() {
        // The child of the shell keeps the output open; it ends by itself soon after the test.
        let error = count("sleep 15 & exit 0").unwrap_err();
        assert!(format!("{error:#}").contains("still runs"), "{error:#}");
    }

    #[test]
    fn program_that_runs_too_long_is_killed() {
        for script in ["exec sleep 60", "while :; do echo noise; done"] {
            let started = Instant::now();
            let limit = Some(Duration::from_millis(300));
            let error = follow(&mut shell(script), limit, |_| Ok(())).unwrap_err();
            assert!(format!("{error:#}").contains("was killed"), "{error:#}");
            assert!(started.elapsed() < Duration::from_secs(30), "{script}");
        }
    }
}
