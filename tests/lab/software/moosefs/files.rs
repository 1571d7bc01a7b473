//! The files of a node: configurations, a data directory of its own, and the first file system.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::node::wait_master_listens;
use super::{give_away, make_directory};
use crate::VIP;
use crate::net::topology::Topology;
use crate::software::process::{Launch, Supervised};
use crate::software::write_file;

/// Eight bytes that mean "an empty file system", from the package moosefs-master.
const EMPTY_METADATA: &str = "/var/lib/mfs/metadata.mfs.empty";
/// A master that ends in good order waits up to three seconds for its clients before it stores its image.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Where the files of a node are.
#[derive(Clone, Debug)]
pub struct NodeFiles {
    /// DATA_PATH of master and metalogger alike.
    pub data: PathBuf,
    /// mfsmaster.cfg
    pub master_config: PathBuf,
    /// mfsmetalogger.cfg
    pub metalogger_config: PathBuf,
}

impl NodeFiles {
    /// Where the files of a node are, or will be.
    pub fn of(directory: &Path, node: usize) -> Self {
        let home = directory.join(format!("n{node}"));
        Self {
            data: home.join("data"),
            master_config: home.join("mfsmaster.cfg"),
            metalogger_config: home.join("mfsmetalogger.cfg"),
        }
    }

    /// Writes the configurations of a node and makes its empty data directory.
    ///
    /// # Errors
    /// When a file cannot be written or there is no user for the programs.
    pub fn write(topology: &Topology, node: usize) -> Result<Self> {
        let files = Self::of(topology.directory(), node);
        make_directory(&files.data)?;
        let home = topology.directory().join(format!("n{node}"));
        let exports = home.join("mfsexports.cfg");
        let topology_file = home.join("mfstopology.cfg");
        write_file(&exports, 0o644, "* / rw,alldirs,admin,maproot=0:0\n")?;
        write_file(&topology_file, 0o644, "")?;
        let data = files.data.display();
        // Save mode 1 as the daemon's manual advises: with 0 a crash can lose the last changes on this disk.
        let master = format!(
            "DATA_PATH = {data}\nCHANGELOG_SAVE_MODE = 1\nEXPORTS_FILENAME = {}\nTOPOLOGY_FILENAME = {}\n",
            exports.display(),
            topology_file.display()
        );
        write_file(&files.master_config, 0o644, &master)?;
        let metalogger = format!(
            "DATA_PATH = {data}\nMASTER_HOST = {VIP}\nMASTER_RECONNECTION_DELAY = 1\nMASTER_TIMEOUT = 10\n"
        );
        write_file(&files.metalogger_config, 0o644, &metalogger)?;
        Ok(files)
    }

    /// Makes the first file system, as an operator does once: starts a master on an empty one and stops it
    /// in good order, so that its image has a metadata id. Metaloggers refuse the image of a newborn master.
    ///
    /// # Errors
    /// When the master does not start, or does not leave its image.
    pub fn create_file_system(&self, topology: &Topology, node: usize) -> Result<()> {
        let image = self.data.join("metadata.mfs");
        fs::copy(EMPTY_METADATA, &image).with_context(|| {
            format!("copy {EMPTY_METADATA}, which is in the package moosefs-master")
        })?;
        give_away(&image)?;
        let mut master = self.launch_master(topology, node, &[])?;
        wait_master_listens(topology.node(node)?, &mut master)?;
        master.terminate(STOP_LIMIT)?;
        let length = fs::metadata(&image)
            .with_context(|| format!("look for {} of the stopped master", image.display()))?
            .len();
        ensure!(
            length > 8,
            "the stopped master left an empty image: {}",
            master.log_text()?
        );
        Ok(())
    }

    /// Starts a master in the foreground, without mfs-ha, with further options (`-a`).
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch_master(
        &self,
        topology: &Topology,
        node: usize,
        options: &[&str],
    ) -> Result<Supervised> {
        let log = topology.directory().join(format!("n{node}.mfsmaster.log"));
        Launch::new(&format!("mfsmaster on n{node}"), &log, "mfsmaster")
            .args(["-f", "-c"])
            .args([&self.master_config])
            .args(options)
            .args(["start"])
            .inside(&topology.node(node)?.namespace)
            .spawn()
    }
}
