//! `cargo xtask bench`: prepares everything, then becomes the benchmark.

use std::os::unix::process::CommandExt as _;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::workspace::{Workspace, display};
use crate::{build_ebpf, setup};

/// What can be measured.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Benchmark {
    /// Nanoseconds per packet in the programs, next to native code
    Xdp,
    /// TCP over a veth pair and over lo, with the programs and without
    Throughput,
}

/// Runs a benchmark in place of xtask, so that its exit code is its own.
///
/// # Errors
/// When something that it needs cannot be installed or built.
pub(crate) fn exec(workspace: &Workspace, benchmark: Benchmark) -> Result<()> {
    setup::run(workspace)?;
    build_ebpf::run(workspace, false)?;
    let target = match benchmark {
        Benchmark::Xdp => "xdp",
        Benchmark::Throughput => "throughput",
    };
    let mut bench = workspace.cargo("bench");
    bench.args(["--locked", "--package", "mfs-ha", "--bench", target]);
    // `exec` comes back only with the reason why it failed.
    let error = bench.exec();
    Err(error).with_context(|| format!("cannot start `{}`", display(&bench)))
}
