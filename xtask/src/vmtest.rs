//! `cargo xtask vmtest`: the tests that face the kernel, on the kernel of Debian 12 in a virtual machine.
//!
//! Emulator, kernel and busybox are Debian packages that are unpacked below `target/vmtest`: nothing is
//! installed, and the kernel that runs here does not matter. A test that cannot run there fails.

mod debian;
mod initramfs;
mod kernel;
mod programs;
mod qemu;
mod report;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::console::{note, step};
use crate::counting::{Lines, Tally};
use crate::workspace::Workspace;
use debian::{Extent, Packages};
use initramfs::{Archive, Plan};
use kernel::Kernel;
use programs::Built;
use qemu::{Boot, Machine};
use report::Report;

/// The test programs, as (package, test). Each runs whole: there is no list of tests that are left out.
const PROGRAMS: &[(&str, &str)] = &[
    ("mfs-ha", "xdp_verdicts"),
    ("mfs-ha", "netlink"),
    ("mfs-ha", "cluster_path"),
    ("mfs-ha", "gate"),
    ("mfs-ha", "watchdog"),
];

/// Modules that the tests need; those that these need in turn are found.
const MODULES: &[&str] = &["veth", "sch_ingress", "cls_bpf", "softdog"];

/// What is said to modules at their loading. The watchdog shall say that it fires, and not do it.
const PARAMETERS: &[(&str, &str)] = &[("softdog", "soft_noboot=1")];

/// Programs of this machine that the tests start.
const HOST_PROGRAMS: &[&str] = &["ip"];

/// The kernel, as the releases of its packages begin.
const SERIES: &str = "6.1.0-";

/// How long the machine may run: many times of what it takes on two slow cores without KVM.
const LIMIT: Duration = Duration::from_secs(600);

/// What became of the tests.
pub(crate) struct Outcome {
    /// Tests that passed and failed.
    pub(crate) tally: Tally,
    problems: Vec<String>,
}

impl Outcome {
    /// Turns everything that went wrong into one error.
    ///
    /// # Errors
    /// When anything went wrong.
    pub(crate) fn require_success(&self) -> Result<()> {
        ensure!(self.problems.is_empty(), "{}", self.problems.join("; "));
        Ok(())
    }
}

/// Boots the kernel and runs the tests there, with these variables in their environment.
///
/// # Errors
/// When something that it needs cannot be had, or the machine does not end by itself. What the tests
/// found is in the outcome.
pub(crate) fn run(workspace: &Workspace, environment: &[(&str, &str)]) -> Result<Outcome> {
    let dir = workspace.root.join("target/vmtest");
    let packages = Packages::new(workspace, dir.join("packages"));
    let busybox = packages
        .unpacked("busybox", "busybox-static", Extent::Alone, |_| Ok(()))?
        .join("bin/busybox");
    let kernel = Kernel::obtain(workspace, &packages, SERIES, &busybox)?;
    let machine = Machine::obtain(&packages)?;
    let tests = step("building the tests for the virtual machine", || {
        programs::build(workspace, &dir.join("tests"), PROGRAMS)
    })?;

    let initramfs = dir.join("initramfs");
    let mut archive = Archive::create(&initramfs)?;
    archive.copy(&busybox, "bin/busybox")?;
    fill(archive, workspace, &kernel, &tests, environment)?;

    let boot = Boot {
        kernel: &kernel.image(),
        initramfs: &initramfs,
        log: &dir.join("kernel.log"),
        limit: LIMIT,
    };
    let what = format!(
        "the tests on kernel {} in a virtual machine",
        kernel.release
    );
    let report = step(&what, || watch(workspace, &machine, &boot))?;
    let names: Vec<&str> = tests.iter().map(|test| test.name).collect();
    let problems = report.problems(&kernel.release, &names);
    if !report.is_complete() {
        let (log, messages) = (boot.log.display(), boot.last_messages());
        note(&format!(
            "the last that the kernel said (all: {log}):\n{messages}"
        ));
    }
    Ok(Outcome {
        tally: report.tally(),
        problems,
    })
}

/// Puts everything into the archive that the machine needs besides its shell.
fn fill(
    mut archive: Archive,
    workspace: &Workspace,
    kernel: &Kernel,
    tests: &[Built],
    environment: &[(&str, &str)],
) -> Result<()> {
    let mut plan = Plan {
        environment,
        limit: LIMIT,
        ..Plan::default()
    };
    for file in kernel.modules(MODULES)? {
        let place = archive.copy_into("modules", &file)?;
        let parameters = PARAMETERS.iter().filter(|(name, _)| {
            let module = file.file_stem().and_then(|stem| stem.to_str());
            module == Some(*name)
        });
        let line = parameters.fold(place, |line, (_, parameter)| format!("{line} {parameter}"));
        plan.modules.push(line);
    }
    let mut shared = BTreeSet::new();
    for test in tests {
        let place = archive.copy_into("tests", &test.file)?;
        plan.programs.push((test.name, place));
        shared.extend(programs::libraries_of(workspace, &test.file)?);
    }
    for name in HOST_PROGRAMS {
        shared.extend(programs::with_libraries(workspace, name)?);
    }
    for file in &shared {
        let place = file.to_str().context("a library's path is not UTF-8")?;
        archive.copy(file, place)?;
    }
    archive.add("init", plan.script()?.as_bytes())?;
    archive.finish()
}

/// Runs the machine, shows what it says and reads it.
fn watch(workspace: &Workspace, machine: &Machine, boot: &Boot<'_>) -> Result<Report> {
    let mut report = Report::default();
    let mut lines = Lines::default();
    let mut screen = std::io::stdout();
    // An emulator that does not start leaves the log of an earlier run alone.
    fs::write(boot.log, "").with_context(|| format!("cannot write {}", boot.log.display()))?;
    let ended = machine.run(workspace, boot, |chunk| {
        lines.feed(chunk, |line| report.read(line));
        screen
            .write_all(chunk)
            .and_then(|()| screen.flush())
            .context("cannot write the output of the tests")
    });
    if let Err(error) = ended {
        report.complain(format!("{error:#}"));
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_told_apart_by_their_names() {
        let mut names: Vec<_> = PROGRAMS.iter().map(|(_, test)| test).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PROGRAMS.len());
    }
}
