//! `cargo xtask lab` and `demo`: prepares everything, then becomes the lab program.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::workspace::{Workspace, display};
use crate::{build_ebpf, setup};

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
    command.args([
        "--release",
        "--locked",
        "--message-format=json-render-diagnostics",
    ]);
    for (package, program) in programs {
        command.args(["--package", package, "--bin", program]);
    }
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", display(&command)))?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let mut built = BTreeMap::new();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read cargo's output")?;
        built.extend(built_program(&line));
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() {
        bail!("`{}` failed ({status}): see above", display(&command));
    }
    let path_of = |(_, program): &(&str, &str)| {
        let path = built.get(*program).cloned();
        path.with_context(|| format!("cargo built no program `{program}`"))
    };
    programs.iter().map(path_of).collect()
}

/// Reads one of cargo's messages: the name and the path of a program that is ready.
fn built_program(message: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    if message.get("reason")?.as_str()? != "compiler-artifact" {
        return None;
    }
    let name = message.get("target")?.get("name")?.as_str()?;
    let path = message.get("executable")?.as_str()?;
    Some((name.to_string(), PathBuf::from(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_read_from_the_messages_of_cargo() {
        let program = r#"{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"lab"},"executable":"/t/release/lab"}"#;
        assert_eq!(
            built_program(program),
            Some(("lab".to_string(), PathBuf::from("/t/release/lab")))
        );
        for other in [
            r#"{"reason":"compiler-artifact","target":{"name":"mfs_ha"},"executable":null}"#,
            r#"{"reason":"build-finished","success":true}"#,
            r#"{"reason":"build-script-executed","package_id":"x"}"#,
            "not json",
            "",
        ] {
            assert_eq!(built_program(other), None, "{other}");
        }
    }
}
