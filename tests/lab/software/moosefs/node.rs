//! The processes of a node, found by the locks on its data directory.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::CLIENT_PORT;
use super::files::NodeFiles;
use crate::net::topology::Node;
use crate::software::process::Supervised;
use crate::wait::wait_until;

const START_LIMIT: Duration = Duration::from_secs(30);
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// The running master of a node.
///
/// # Errors
/// When the node's processes cannot be listed.
pub fn master_pid(node: &Node, files: &NodeFiles) -> Result<Option<Pid>> {
    holder(node, &files.data.join(".mfsmaster.lock"), "mfsmaster")
}

/// The running metalogger of a node.
///
/// # Errors
/// As [`master_pid`].
pub fn metalogger_pid(node: &Node, files: &NodeFiles) -> Result<Option<Pid>> {
    let lock = files.data.join(".mfsmetalogger.lock");
    holder(node, &lock, "mfsmetalogger")
}

/// Kills the master of a node, and nothing else there, with SIGKILL. Returns when it is gone.
///
/// # Errors
/// When there is none or it does not end.
pub fn kill_master(node: &Node, files: &NodeFiles) -> Result<()> {
    let pid = master_pid(node, files)?.with_context(|| format!("n{} has no master", node.index))?;
    kill(pid, Signal::SIGKILL).context("kill the master")?;
    // A zombie has closed its sockets; a process without a program may still be about to.
    wait_until("the master to end", KILL_LIMIT, || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        Ok((stat.is_empty() || stat.contains(") Z ")).then_some(()))
    })
}

/// Waits until the ports of a master that was started by hand listen.
///
/// # Errors
/// When it ends, or does not within a time.
pub fn wait_master_listens(node: &Node, master: &mut Supervised) -> Result<()> {
    wait_until("mfsmaster to listen", START_LIMIT, || {
        master.check_running()?;
        let filter = format!("sport = :{CLIENT_PORT}");
        let listening = node.namespace.run("ss", &["-Hltn", &filter])?;
        Ok((!listening.is_empty()).then_some(()))
    })
}

/// The process that a lock file names, if it is `program` and inside the node: the file stays when its
/// maker dies, and numbers are used again.
fn holder(node: &Node, lock: &Path, program: &str) -> Result<Option<Pid>> {
    let text = fs::read_to_string(lock).unwrap_or_default();
    let Ok(pid) = text
        .trim_matches(['\0', '\n', ' '])
        .parse()
        .map(Pid::from_raw)
    else {
        return Ok(None);
    };
    let is_it =
        program_of(pid).as_deref() == Some(program) && node.namespace.pids()?.contains(&pid);
    Ok(is_it.then_some(pid))
}

/// The file name of a process's program; none for a zombie.
fn program_of(pid: Pid) -> Option<String> {
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    Some(program.file_name()?.to_string_lossy().into_owned())
}
