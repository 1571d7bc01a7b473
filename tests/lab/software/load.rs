//! Load on the processors: the hogs that made keepalived lose its VIP.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::process::{Launch, Supervised};
use crate::net::netns::Namespace;
use crate::net::topology::Topology;
use crate::requirements::require_tools;

/// Time that stress-ng gets to collect its children.
const END_LIMIT: Duration = Duration::from_secs(20);

/// Makes a namespace with a pair of interfaces and removes both, over and over. The kernel has one lock for that and for
/// every question about an interface or address, so that answers come late.
const CHURN: &str = "while :; do ip netns add $1; ip -n $1 link add name va type veth peer name vb; ip netns del $1; done";

/// A running load; dropping it ends it.
#[derive(Debug)]
pub struct Load {
    process: Supervised,
    churn: Option<Churn>,
}

#[derive(Debug)]
struct Churn {
    process: Supervised,
    namespace: Namespace,
}

impl Drop for Churn {
    fn drop(&mut self) {
        // The maker of the namespace goes first; what is left then is removed by the next lab.
        self.process.kill().ok();
        self.namespace.delete().ok();
    }
}

impl Load {
    /// Starts eight hogs, four forkers and four context switchers, all at nice −20, for at most `limit`.
    ///
    /// # Errors
    /// When stress-ng is not installed or cannot be started.
    pub fn start(directory: &Path, limit: Duration) -> Result<Self> {
        require_tools(&["nice", "stress-ng"])?;
        let process = Launch::new("stress-ng", &directory.join("stress-ng.log"), "nice")
            .args(["-n", "-20", "stress-ng"])
            .args(["--cpu", "8", "--fork", "4", "--switch", "4"])
            .args(["--timeout", &format!("{}s", limit.as_secs())])
            .in_directory(directory)
            .spawn()?;
        Ok(Self {
            process,
            churn: None,
        })
    }

    /// As [`Self::start`], and beside them interfaces that are made and removed all the time.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with_churn(topology: &Topology, limit: Duration) -> Result<Self> {
        let mut load = Self::start(topology.directory(), limit)?;
        let namespace = Namespace::existing(&format!("{}-churn", topology.prefix()));
        let log = topology.directory().join("churn.log");
        let process = Launch::new("the maker of interfaces", &log, "timeout")
            .args([&limit.as_secs().to_string(), "nice", "-n", "-20"])
            .args(["sh", "-c", CHURN, "sh", namespace.name()])
            .spawn()?;
        load.churn = Some(Churn { process, namespace });
        Ok(load)
    }

    /// Checks that the load is still on.
    ///
    /// # Errors
    /// When it has ended: what was measured under it would be worth nothing.
    pub fn check_running(&mut self) -> Result<()> {
        if let Some(churn) = &mut self.churn {
            churn.process.check_running()?;
        }
        self.process.check_running()
    }

    /// Ends the load and waits until it is gone.
    ///
    /// # Errors
    /// When it does not end, or had failed.
    pub fn end(mut self) -> Result<()> {
        self.churn = None;
        let status = self.process.terminate(END_LIMIT)?;
        ensure!(
            status.success(),
            "stress-ng ended with {status}: {}",
            self.process.log_text()?
        );
        Ok(())
    }
}
