//! A chunkserver on a host of its own, with one plain directory as its disk.

use anyhow::Result;

use super::make_directory;
use crate::VIP;
use crate::net::topology::Topology;
use crate::software::process::{Launch, Supervised};
use crate::software::write_file;

/// Writes the configuration of the chunkserver on host `name` and starts it.
///
/// # Errors
/// When there is no such host, a file cannot be written or the program not be started.
pub fn start(topology: &Topology, name: &str, outlives_us: bool) -> Result<Supervised> {
    let host = topology.host(name)?;
    let home = topology.directory().join(name);
    let (data, disk) = (home.join("data"), home.join("disk"));
    make_directory(&data)?;
    make_directory(&disk)?;
    let disks = home.join("mfshdd.cfg");
    write_file(&disks, 0o644, &format!("{}\n", disk.display()))?;
    let configuration = home.join("mfschunkserver.cfg");
    let text = format!(
        "DATA_PATH = {}\nMASTER_HOST = {VIP}\nMASTER_RECONNECTION_DELAY = 1\nMASTER_TIMEOUT = 10\n\
         HDD_CONF_FILENAME = {}\nHDD_LEAVE_SPACE_DEFAULT = 64MiB\n",
        data.display(),
        disks.display()
    );
    write_file(&configuration, 0o644, &text)?;
    let log = topology
        .directory()
        .join(format!("{name}.mfschunkserver.log"));
    let launch = Launch::new(&format!("mfschunkserver on {name}"), &log, "mfschunkserver")
        .args(["-f", "-c"])
        .args([&configuration])
        .args(["start"])
        .inside(&host.namespace);
    if outlives_us {
        return launch.outliving_us().spawn();
    }
    launch.spawn()
}
