//! `cargo xtask fuzz`: runs the libFuzzer targets for a bounded time.

use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::console::{note, step};
use crate::packages::is_executable;
use crate::workspace::{self, Workspace, path_with};

pub(crate) const SECONDS_DEFAULT: u32 = 20;
const CARGO_FUZZ_VERSION: &str = "0.13.2";

/// Runs the given targets, or all of them, one after the other.
///
/// # Errors
/// When a target is unknown, does not build, or finds an input that crashes it.
pub(crate) fn run(workspace: &Workspace, seconds: u32, targets: &[String]) -> Result<()> {
    ensure!(seconds > 0, "--seconds 0 would let libFuzzer run for ever");
    install(workspace)?;
    let listed = workspace::output(
        &mut cargo_fuzz(workspace, "list")?,
        "fuzz/Cargo.toml must list the targets",
    )?;
    let known: Vec<String> = listed.lines().map(str::to_string).collect();
    if let Some(unknown) = targets.iter().find(|target| !known.contains(target)) {
        bail!(
            "no fuzz target `{unknown}`; there are: {}",
            known.join(", ")
        );
    }
    let chosen = if targets.is_empty() { &known } else { targets };
    ensure!(!chosen.is_empty(), "fuzz/ has no targets");
    for target in chosen {
        step(&format!("fuzzing {target} for {seconds} s"), || {
            run_target(workspace, target, seconds)
        })?;
    }
    note(&format!(
        "fuzz: {} targets, {seconds} s each, no crash",
        chosen.len()
    ));
    Ok(())
}

fn run_target(workspace: &Workspace, target: &str, seconds: u32) -> Result<()> {
    // libFuzzer writes what it finds into the first directory and only reads the others: the
    // committed inputs stay as they are.
    let found = workspace.root.join("target/fuzz-corpus").join(target);
    std::fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
    let mut command = cargo_fuzz(workspace, "run")?;
    command.arg(target).arg(found);
    let committed = workspace.root.join("fuzz/corpus").join(target);
    if committed.is_dir() {
        command.arg(committed);
    }
    command
        .arg("--")
        .arg(format!("-max_total_time={seconds}"))
        .arg("-print_final_stats=1");
    let hint = "see above; the input is kept in fuzz/artifacts";
    workspace::run(&mut command, hint)
}

fn cargo_fuzz(workspace: &Workspace, subcommand: &str) -> Result<Command> {
    let tools = workspace.tools().join("bin");
    let mut command = workspace.cargo("fuzz");
    command
        .arg(subcommand)
        .current_dir(workspace.root.join("fuzz"))
        .env("PATH", path_with(&tools)?)
        // The instrumentation has no stable flag; this makes a stable compiler accept it.
        .env("RUSTC_BOOTSTRAP", "1");
    Ok(command)
}

fn install(workspace: &Workspace) -> Result<()> {
    if is_executable(&workspace.tools().join("bin/cargo-fuzz")) {
        return Ok(());
    }
    step("building cargo-fuzz (about a minute)", || {
        let mut command = workspace.cargo("install");
        command
            .env("PATH", path_with(&workspace.tools().join("bin"))?)
            .args([
                "cargo-fuzz",
                "--version",
                CARGO_FUZZ_VERSION,
                "--locked",
                "--root",
            ])
            .arg(workspace.tools());
        workspace::run(&mut command, "see its output above")
    })
}
