//! `cargo xtask test`: the whole suite in the order in which a failure is cheapest to find.
//!
//! A stage that fails ends the run. The last line is the sum over all test programs.

use std::io::{Read as _, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::console::{note, seconds};
use crate::lab::{DAEMON_VARIABLE, build_release};
use crate::workspace::{self, Workspace, display};
use crate::{build_ebpf, clippy, fuzz, setup, tidy};

/// Tells the tests to take the large number of cases.
const LONG_VARIABLE: &str = "MFS_HA_LONG";
/// Where property tests take their cases from. A change passes or fails by what it does, not by what was drawn:
/// new cases are searched for by `--long`, and by `cargo test` without this variable.
const CASES_VARIABLE: (&str, &str) = ("PROPTEST_RNG_SEED", "20261126");
/// Seeds of the simulated cluster.
const SEEDS: u64 = 5_000;
const SEEDS_LONG: u64 = 100_000;
/// How long the output of a test program may stay open after the program ended.
const LEFTOVER_MAX: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
}

struct Suite<'a> {
    workspace: &'a Workspace,
    long: bool,
    tally: Tally,
}

type Stage = (&'static str, fn(&mut Suite<'_>) -> Result<()>);

const STAGES: &[Stage] = &[
    ("setup", |suite| setup::run(suite.workspace)),
    ("format", |suite| suite.format()),
    ("tidy", |suite| tidy::run(suite.workspace)),
    ("build-ebpf", |suite| {
        build_ebpf::run(suite.workspace, false)
    }),
    ("clippy", |suite| clippy::host(suite.workspace)),
    ("clippy for BPF", |suite| clippy::bpf(suite.workspace)),
    ("doc", |suite| suite.doc()),
    ("unit and property tests", |suite| suite.unit_tests()),
    ("simulation", |suite| suite.simulation()),
    ("lab tests", |suite| suite.lab_tests()),
];

/// Stages of `--long`.
const LONG_STAGES: &[Stage] = &[("fuzz", |suite| suite.fuzz())];

/// Runs every stage until one fails.
///
/// # Errors
/// Never for a failing stage, which is reported with the table and an exit code.
pub(crate) fn run(workspace: &Workspace, long: bool) -> Result<ExitCode> {
    let mut suite = Suite {
        workspace,
        long,
        tally: Tally::default(),
    };
    let started = Instant::now();
    let mut times: Vec<(&str, Duration, bool)> = Vec::new();
    let long_stages = if long { LONG_STAGES } else { &[] };
    for (name, stage) in STAGES.iter().chain(long_stages) {
        note(&format!("==== {name} (at {})", seconds(started.elapsed())));
        let stage_started = Instant::now();
        let failed_before = suite.tally.failed;
        let result = stage(&mut suite);
        times.push((name, stage_started.elapsed(), result.is_ok()));
        if let Err(error) = result {
            note(&format!("==== {name} FAILED: {error:#}"));
            // A stage can fail without a failed test: a lint, or a test program that died.
            suite.tally.failed = suite.tally.failed.max(failed_before + 1);
            break;
        }
    }
    let all_ok = times.iter().all(|(.., ok)| *ok);
    report(&times, started.elapsed(), suite.tally)?;
    Ok(if all_ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn report(times: &[(&str, Duration, bool)], total: Duration, tally: Tally) -> Result<()> {
    println!();
    for (name, time, ok) in times {
        println!(
            "{name:24} {:>9}  {}",
            seconds(*time),
            if *ok { "ok" } else { "FAILED" }
        );
    }
    println!("{:24} {:>9}", "total", seconds(total));
    println!("{} passed, {} failed", tally.passed, tally.failed);
    std::io::stdout().flush().context("cannot write the result")
}

impl Suite<'_> {
    fn format(&mut self) -> Result<()> {
        let hint = "`cargo fmt --all` formats the sources";
        let mut command = self.workspace.cargo("fmt");
        command.args(["--all", "--check"]);
        workspace::run(&mut command, hint)?;
        // The fuzz targets are a workspace of their own.
        let mut command = self.workspace.cargo("fmt");
        command.args(["--check", "--manifest-path", "fuzz/Cargo.toml"]);
        workspace::run(&mut command, hint)
    }

    /// The readers are the developers: private items are documented, and their links checked, too.
    fn doc(&mut self) -> Result<()> {
        let mut command = self.workspace.cargo("doc");
        command
            .args([
                "--workspace",
                "--no-deps",
                "--document-private-items",
                "--locked",
            ])
            .env(
                "RUSTDOCFLAGS",
                "-Dwarnings -Arustdoc::private_intra_doc_links",
            );
        workspace::run(&mut command, "see the warnings above")
    }

    fn unit_tests(&mut self) -> Result<()> {
        let mut command = self.test_command();
        command.args(["--workspace", "--exclude", "mfs-ha-tests"]);
        self.count(command)
    }

    /// The simulated cluster, the exhaustive search, and the proof that their judges bite: optimised, because
    /// they take millions of steps.
    fn simulation(&mut self) -> Result<()> {
        let mut command = self.test_command();
        command.args(["--release", "--package", "mfs-ha-common"]);
        command.args([
            "--test",
            "quorum",
            "--test",
            "exhaustive",
            "--test",
            "mutations",
        ]);
        command.args(["--", "--nocapture"]);
        let seeds = if self.long { SEEDS_LONG } else { SEEDS };
        command.env("MFS_HA_SEEDS", seeds.to_string());
        self.count(command)
    }

    /// Everything that changes namespaces and measures time runs alone, against the daemon as it is
    /// shipped.
    fn lab_tests(&mut self) -> Result<()> {
        let programs = build_release(self.workspace, &[("mfs-ha", "mfs-ha")])?;
        let [daemon] = programs.as_slice() else {
            bail!("cargo did not name the daemon that it built");
        };
        let mut command = self.test_command();
        command.env(DAEMON_VARIABLE, daemon);
        command.args(["--package", "mfs-ha-tests", "--", "--test-threads=1"]);
        self.count(command)
    }

    fn fuzz(&mut self) -> Result<()> {
        fuzz::run(self.workspace, fuzz::SECONDS_DEFAULT, &[])
    }

    fn test_command(&self) -> Command {
        let mut command = self.workspace.cargo("test");
        command.args(["--locked", "--no-fail-fast"]);
        command.env_remove(LONG_VARIABLE);
        if self.long {
            command.env(LONG_VARIABLE, "1");
        } else {
            let (variable, seed) = CASES_VARIABLE;
            command.env(variable, seed);
        }
        command
    }

    fn count(&mut self, mut command: Command) -> Result<()> {
        let (succeeded, tally) = run_counting(&mut command, &mut std::io::stdout())?;
        self.tally.passed += tally.passed;
        self.tally.failed += tally.failed;
        self.tally.ignored += tally.ignored;
        ensure!(succeeded, "`{}` failed, see above", display(&command));
        ensure!(
            tally.ignored == 0,
            "{} tests were ignored: a test that does not run must not look green",
            tally.ignored
        );
        ensure!(
            tally.passed > 0,
            "`{}` ran no test at all",
            display(&command)
        );
        Ok(())
    }
}

/// Runs a test command, passes its output on as it comes and adds up the result lines.
fn run_counting(command: &mut Command, echo: &mut impl Write) -> Result<(bool, Tally)> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", display(command)))?;
    let mut stdout = child.stdout.take().context("the tests have no output")?;
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
    let mut counter = Counter::default();
    let mut ended = None;
    loop {
        match receiver.recv_timeout(Duration::from_millis(200)) {
            Ok(chunk) => {
                echo.write_all(&chunk)
                    .and_then(|()| echo.flush())
                    .context("cannot write the output of the tests")?;
                counter.feed(&chunk);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                if child
                    .try_wait()
                    .context("cannot wait for the tests")?
                    .is_some()
                {
                    let ended = ended.get_or_insert_with(Instant::now);
                    ensure!(
                        ended.elapsed() < LEFTOVER_MAX,
                        "`{}` ended, but a process that it started still runs",
                        display(command)
                    );
                }
            }
        }
    }
    let status = child.wait().context("cannot wait for the tests")?;
    Ok((status.success(), counter.tally))
}

/// Finds the result lines in a stream that comes in pieces.
#[derive(Default)]
struct Counter {
    line: Vec<u8>,
    tally: Tally,
}

impl Counter {
    /// No result line is longer; the rest of a longer line is dropped.
    const LINE_MAX: usize = 512;

    fn feed(&mut self, chunk: &[u8]) {
        for &byte in chunk {
            if byte == b'\n' {
                let result = Tally::from_line(&String::from_utf8_lossy(&self.line));
                self.tally = self.tally.plus(result.unwrap_or_default());
                self.line.clear();
            } else if self.line.len() < Self::LINE_MAX {
                self.line.push(byte);
            }
        }
    }
}

impl Tally {
    /// Reads "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; …".
    fn from_line(line: &str) -> Option<Self> {
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

    fn plus(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            ignored: self.ignored + other.ignored,
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
        };
        assert_eq!(Tally::from_line(line), Some(expected));
        let line = "test result: FAILED. 7 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        let expected = Tally {
            passed: 7,
            failed: 2,
            ignored: 0,
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
    fn result_lines_are_found_across_pieces_and_summed() {
        let text = "noise\ntest result: ok. 2 passed; 0 failed; 0 ignored\n\
                    \u{fffd}more\ntest result: FAILED. 1 passed; 3 failed; 0 ignored\n";
        for size in [1, 2, 7, 1000] {
            let mut counter = Counter::default();
            for chunk in text.as_bytes().chunks(size) {
                counter.feed(chunk);
            }
            assert_eq!(
                counter.tally,
                Tally {
                    passed: 3,
                    failed: 3,
                    ignored: 0
                },
                "{size}"
            );
        }
    }

    #[test]
    fn endless_line_stays_bounded() {
        let mut counter = Counter::default();
        counter.feed(&vec![b'x'; 100_000]);
        assert!(counter.line.len() <= Counter::LINE_MAX);
        counter.feed(b"\ntest result: ok. 1 passed; 0 failed; 0 ignored\n");
        assert_eq!(counter.tally.passed, 1);
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
        };
        let script = format!("printf '{line}'");
        assert_eq!(count(&script).unwrap(), (true, expected, line.to_string()));
        let script = format!("printf '{line}'; exit 101");
        assert_eq!(count(&script).unwrap(), (false, expected, line.to_string()));
    }

    #[test]
    fn leftover_process_is_an_error_and_not_a_hang() {
        // The child of the shell keeps the output open; it ends by itself soon after the test.
        let error = count("sleep 15 & exit 0").unwrap_err();
        assert!(error.to_string().contains("still runs"), "{error}");
    }
}
