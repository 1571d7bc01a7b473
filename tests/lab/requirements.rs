//! What the machine must offer. A lack is an error that says what to do, never a skipped test.

use std::env;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Tools that every topology needs, all from iproute2, util-linux and coreutils.
pub const BASE_TOOLS: &[&str] = &["ip", "nsenter", "setpriv", "chrt", "timeout"];

/// Directories that hold administration tools but are not on every user's PATH.
const EXTRA_DIRECTORIES: &[&str] = &["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Checks for root, without which no namespace can be made.
///
/// # Errors
/// When the effective user is not root.
pub fn require_root() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "needs root: the lab makes network namespaces and raw sockets; run it as root (for example with sudo -E)"
        );
    }
    Ok(())
}

/// Checks that all `tools` are installed.
///
/// # Errors
/// When one is missing; the message lists all that are.
pub fn require_tools(tools: &[&str]) -> Result<()> {
    let missing: Vec<&str> = tools
        .iter()
        .copied()
        .filter(|tool| find_tool(tool).is_none())
        .collect();
    if !missing.is_empty() {
        bail!(
            "missing tools: {}; `cargo xtask setup` installs them",
            missing.join(", ")
        );
    }
    Ok(())
}

/// Finds an executable by name, also where only root's PATH would look.
pub fn find_tool(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(EXTRA_DIRECTORIES.iter().map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Where the mfs-ha daemon is: `MFS_HA_BIN`, else beside this executable in the target directory.
///
/// # Errors
/// When there is none; the message names the command that builds it.
pub fn mfs_ha_binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("MFS_HA_BIN") {
        let path = PathBuf::from(path);
        if !is_executable(&path) {
            bail!(
                "MFS_HA_BIN={} is no executable; unset it or build the daemon with `cargo build -p mfs-ha`",
                path.display()
            );
        }
        return Ok(path);
    }
    beside_this(
        "mfs-ha",
        "build the daemon with `cargo build -p mfs-ha` (same profile and target directory) or name it in MFS_HA_BIN",
    )
}

/// Where the lab's own program is: beside this executable in the target directory, or this one itself.
///
/// # Errors
/// When there is none; the message names the command that builds it.
pub fn lab_binary() -> Result<PathBuf> {
    beside_this(
        "lab",
        "build it with `cargo build -p mfs-ha-tests` (same profile and target directory)",
    )
}

/// A test executable lies in `<profile>/deps`, the lab's own program in `<profile>`.
fn beside_this(name: &str, remedy: &str) -> Result<PathBuf> {
    let this = env::current_exe()?;
    this.ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join(name))
        .find(|candidate| is_executable(candidate))
        .with_context(|| format!("no program {name} beside {}; {remedy}", this.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_tools_are_all_named_with_the_remedy() {
        let error = require_tools(&["sh", "no-such-tool-a", "no-such-tool-b"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "missing tools: no-such-tool-a, no-such-tool-b; `cargo xtask setup` installs them"
        );
    }
}
