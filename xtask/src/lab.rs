//! `cargo xtask lab` and `demo`: prepares everything, then becomes the lab program.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::workspace::{Workspace, display};
use crate::{artifacts, build_ebpf, setup};

/// Tells the lab program and the tests which daemon to start.
pub(crate) const DAEMON_VARIABLE: &str = "MFS_HA_BIN";

/// Runs the lab program in place of xtask, so that its exit code and an interrupt are its own.
///
/// `demo` is its subcommand, like `up` in `cargo xtask lab up`.
///
/// # Errors
/// When something that it needs cannot be installed or built.
pub(crate) fn exec(
    workspace: &Workspace,
    subcommand: Option<&str>,
    args: &[OsString],
) -> Result<()> {
    setup::run(workspace)?;
    build_ebpf::run(workspace, false)?;
    let programs = build_release(workspace, &[("mfs-ha", "mfs-ha"), ("mfs-ha-tests", "lab")])?;
    let [daemon, lab] = programs.as_slice() else {
        bail!("cargo did not name the two programs that it built");
    };
    let mut lab = workspace.program(lab);
    lab.stdin(Stdio::inherit())
        .env(DAEMON_VARIABLE, daemon)
        .args(subcommand)
        .args(args);
    // `exec` comes back only with the reason why it failed.
    let error = lab.exec();
    Err(error).with_context(|| format!("cannot start `{}`", display(&lab)))
}

/// Builds optimised programs, given as (package, program), and returns their paths in that order.
///
/// # Errors
/// When they do not compile.
pub(crate) fn build_release(
    workspace: &Workspace,
    programs: &[(&str, &str)],
) -> Result<Vec<PathBuf>> {
    let mut command = workspace.cargo("build");
    command.args(["--release", "--locked"]);
    for (package, program) in programs {
        command.args(["--package", package, "--bin", program]);
    }
    let built = artifacts::build(&mut command)?;
    let path_of = |(_, program): &(&str, &str)| {
        let found = built.iter().find(|found| found.name == *program);
        let path = found.map(|found| found.path.clone());
        path.with_context(|| format!("cargo built no program `{program}`"))
    };
    programs.iter().map(path_of).collect()
}
