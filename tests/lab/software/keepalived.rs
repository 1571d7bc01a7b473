//! The real keepalived on a node, the incumbent that noise and failover are compared with.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::process::{Launch, Supervised};
use super::write_file;
use crate::net::topology::Topology;
use crate::requirements::require_tools;
use crate::{PREFIX_LENGTH, VHID, VIP};

/// Time for the end in good order.
const END_LIMIT: Duration = Duration::from_secs(3);

/// How keepalived is started.
#[derive(Clone, Copy, Debug)]
pub struct KeepalivedOptions {
    /// Hundredths of a second between adverts; 1 is the least that keepalived takes.
    pub interval_centiseconds: u32,
    /// Whether it goes on when this process ends.
    pub outlives_us: bool,
}

impl KeepalivedOptions {
    /// A keepalived with this interval that ends with us.
    pub fn with_interval(interval_centiseconds: u32) -> Self {
        Self {
            interval_centiseconds,
            outlives_us: false,
        }
    }
}

/// A running keepalived (two processes, one group).
#[derive(Debug)]
pub struct Keepalived {
    process: Supervised,
    outlives_us: bool,
}

impl Keepalived {
    /// Starts VRRPv3 on a node; n1 is the best.
    ///
    /// # Errors
    /// When keepalived is not installed or cannot be started.
    pub fn start(topology: &Topology, node: usize, options: KeepalivedOptions) -> Result<Self> {
        require_tools(&["keepalived"])?;
        let node = topology.node(node)?;
        let file = |suffix: &str| {
            topology
                .directory()
                .join(format!("n{}.keepalived{suffix}", node.index))
        };
        write_file(
            &file(".conf"),
            0o600,
            &configuration(node.index, options.interval_centiseconds),
        )?;
        let (parent_pid, child_pid) = (file(".pid"), file(".vrrp.pid"));
        // A stale file whose number lives on in a zombie reads as "daemon is already running".
        for path in [&parent_pid, &child_pid] {
            remove_if_there(path)?;
        }
        let mut launch = Launch::new(
            &format!("keepalived on n{}", node.index),
            &file(".log"),
            "keepalived",
        )
        .args(["-n", "-l", "-D", "-P", "-f"])
        .args([file(".conf")])
        .args([Path::new("-p"), &parent_pid])
        .args([Path::new("-r"), &child_pid])
        .inside(&node.namespace);
        if options.outlives_us {
            launch = launch.outliving_us();
        }
        Ok(Self {
            process: launch.spawn()?,
            outlives_us: options.outlives_us,
        })
    }

    /// The process.
    pub fn process(&mut self) -> &mut Supervised {
        &mut self.process
    }
}

impl Drop for Keepalived {
    /// Lets it collect its child. Killed, it would leave that to init, and not every container's init does.
    fn drop(&mut self) {
        if !self.outlives_us {
            // A keepalived that ended or hangs is killed with its group next.
            self.process.terminate(END_LIMIT).ok();
        }
    }
}

fn configuration(node: usize, interval_centiseconds: u32) -> String {
    let priority = 150_usize.saturating_sub(10 * node);
    let (seconds, hundredths) = (interval_centiseconds / 100, interval_centiseconds % 100);
    format!(
        "global_defs {{
  router_id n{node}
  vrrp_version 3
}}
vrrp_instance V{VHID} {{
  state BACKUP
  interface eth0
  virtual_router_id {VHID}
  priority {priority}
  advert_int {seconds}.{hundredths:02}
  virtual_ipaddress {{
    {VIP}/{PREFIX_LENGTH} dev eth0
  }}
}}
"
    )
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_written_in_seconds() {
        assert!(configuration(1, 5).contains("advert_int 0.05\n"));
        assert!(configuration(1, 110).contains("advert_int 1.10\n"));
        assert!(configuration(3, 5).contains("priority 120\n"));
    }
}
