//! `cargo xtask sim`: the simulated cluster, many seeds of it, in an optimised build.

use anyhow::{Result, ensure};

use crate::workspace::{self, Workspace};

pub(crate) const SEEDS_DEFAULT: u64 = 100_000;

/// Which seeds to run.
#[derive(clap::Args)]
pub(crate) struct Seeds {
    /// How many seeds
    #[arg(long, default_value_t = SEEDS_DEFAULT)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    first: u64,
}

/// Runs the seeds. One that breaks a rule is named, and its recording is kept.
///
/// # Errors
/// When a seed breaks a rule, or the simulation does not build.
pub(crate) fn run(workspace: &Workspace, seeds: &Seeds) -> Result<()> {
    ensure!(seeds.seeds > 0, "--seeds 0 would simulate nothing");
    let mut command = workspace.cargo("test");
    command
        .args(["--locked", "--release", "--package", "mfs-ha-common"])
        .args([
            "--test",
            "quorum",
            "no_seed_breaks_a_rule",
            "--",
            "--nocapture",
        ])
        .env("MFS_HA_SEEDS", seeds.seeds.to_string())
        .env("MFS_HA_FIRST_SEED", seeds.first.to_string())
        .env_remove("MFS_HA_SEED");
    workspace::run(
        &mut command,
        "the seed and the rule that it breaks stand above",
    )
}
