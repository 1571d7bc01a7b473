//! `cargo xtask test`: the whole suite in the order in which a failure is cheapest to find.
//!
//! A stage that fails ends the run. The last line is the sum over all test programs.

use std::io::Write as _;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::console::{note, seconds};
use crate::counting::{Tally, run_counting};
use crate::lab::{DAEMON_VARIABLE, build_release};
use crate::workspace::{self, Workspace, display};
use crate::{build_ebpf, clippy, fuzz, setup, tidy, vmtest};

/// Tells the tests to take the large number of cases.
const LONG_VARIABLE: &str = "MFS_HA_LONG";
/// Where property tests take their cases from. A change passes or fails by what it does, not by what was drawn:
/// new cases are searched for by `--long`, and by `cargo test` without this variable.
const CASES_VARIABLE: (&str, &str) = ("PROPTEST_RNG_SEED", "20261126");
/// Seeds of the simulated cluster.
const SEEDS: u64 = 5_000;
const SEEDS_LONG: u64 = 100_000;

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
    ("kernel 6.1", |suite| suite.kernel_tests()),
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

/// `cargo xtask vmtest`: one stage alone, with what it needs.
///
/// # Errors
/// When something is missing, or a test fails.
pub(crate) fn run_in_virtual_machine(workspace: &Workspace) -> Result<()> {
    setup::run(workspace)?;
    build_ebpf::run(workspace, false)?;
    let outcome = vmtest::run(workspace, &[CASES_VARIABLE])?;
    let Tally { passed, failed, .. } = outcome.tally;
    println!("{passed} passed, {failed} failed");
    outcome.require_success()
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
    if tally.repeated > 0 {
        let times = tally.repeated;
        println!("trials repeated because the machine stood still: {times}, see above");
    }
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

    /// The simulated cluster, the exhaustive search, and the proof that their judges bite.
    fn simulation(&mut self) -> Result<()> {
        let mut command = self.test_command();
        command.args(["--package", "mfs-ha-common"]);
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

    /// What the kernel decides is asked of the oldest supported one, too.
    fn kernel_tests(&mut self) -> Result<()> {
        let outcome = vmtest::run(self.workspace, &self.environment())?;
        self.tally = self.tally.plus(outcome.tally);
        outcome.require_success()
    }

    fn fuzz(&mut self) -> Result<()> {
        fuzz::run(self.workspace, fuzz::SECONDS_DEFAULT, &[])
    }

    fn test_command(&self) -> Command {
        let mut command = self.workspace.cargo("test");
        command.args(["--locked", "--no-fail-fast"]);
        command.env_remove(LONG_VARIABLE).envs(self.environment());
        command
    }

    fn environment(&self) -> [(&'static str, &'static str); 1] {
        [if self.long {
            (LONG_VARIABLE, "1")
        } else {
            CASES_VARIABLE
        }]
    }

    fn count(&mut self, mut command: Command) -> Result<()> {
        let (succeeded, tally) = run_counting(&mut command, &mut std::io::stdout())?;
        self.tally = self.tally.plus(tally);
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
