//! Load on the processors: the hogs that made keepalived lose its VIP.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::process::{Launch, Supervised};
use crate::requirements::require_tools;

/// Time that stress-ng gets to collect its children.
const END_LIMIT: Duration = Duration::from_secs(20);

/// A running load; dropping it ends it.
#[derive(Debug)]
pub struct Load {
    process: Supervised,
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
        Ok(Self { process })
    }

    /// Checks that the load is still on.
    ///
    /// # Errors
    /// When it has ended: what was measured under it would be worth nothing.
    pub fn check_running(&mut self) -> Result<()> {
        self.process.check_running()
    }

    /// Ends the load and waits until it is gone.
    ///
    /// # Errors
    /// When it does not end, or had failed.
    pub fn end(mut self) -> Result<()> {
        let status = self.process.terminate(END_LIMIT)?;
        ensure!(
            status.success(),
            "stress-ng ended with {status}: {}",
            self.process.log_text()?
        );
        Ok(())
    }
}
