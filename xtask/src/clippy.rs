//! `cargo xtask clippy`: lints everything for the machine that it runs on.

use anyhow::{Context as _, Result};

use crate::setup;
use crate::toolchain::cargo_for_bpf;
use crate::workspace::{self, Workspace};

/// Lints the host's crates and the XDP program.
///
/// # Errors
/// When a lint fires, or a tool is missing.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    host(workspace)?;
    bpf(workspace)
}

/// Lints what runs in user space, tests included.
///
/// # Errors
/// When a lint fires.
pub(crate) fn host(workspace: &Workspace) -> Result<()> {
    let mut command = workspace.cargo("clippy");
    command.args([
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]);
    workspace::run(&mut command, "see the lints above")
}

/// Lints the XDP program as the kernel gets it; for the host it is an empty program.
///
/// # Errors
/// When a lint fires, or the compiler has no lint driver of its own version.
pub(crate) fn bpf(workspace: &Workspace) -> Result<()> {
    let (compiler, linker) = setup::ebpf_tools(workspace)?;
    let clippy = compiler.cargo_clippy().with_context(|| {
        format!(
            "{} has no cargo-clippy beside it: install it from where that compiler came \
             (Debian: rust-web-clippy; rustup: the component clippy)",
            compiler.rustc().display()
        )
    })?;
    let mut command = cargo_for_bpf(workspace, &compiler, &linker, Some(&clippy), "clippy");
    command.args(["--", "-D", "warnings"]);
    workspace::run(&mut command, "see the lints above")
}
