//! mfs-ha on a node, known here only by its command line, configuration file and status document.

mod configuration;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

pub use self::configuration::{
    MfsHaOptions, MooseFsOptions, QuorumTiming, WITNESS, configuration_path, configure,
    configure_witness, set_key,
};
use super::process::{Launch, Supervised};
use crate::net::netns::Namespace;
use crate::net::topology::Topology;
use crate::requirements::mfs_ha_binary;
use crate::wait::wait_until_every;

/// Seconds after which a `status` command that got no answer is ended.
const STATUS_LIMIT_S: &str = "5";
/// Seconds after which any other command is ended: far more than any of them takes.
const COMMAND_LIMIT_S: &str = "20";
/// Each look at the status costs three processes.
const STATUS_INTERVAL: Duration = Duration::from_millis(50);

/// A running mfs-ha.
#[derive(Debug)]
pub struct MfsHa {
    process: Supervised,
    configuration: PathBuf,
}

impl MfsHa {
    /// Writes the configuration of a node and starts `mfs-ha run` there.
    ///
    /// # Errors
    /// When the daemon is not built or cannot be started.
    pub fn start(topology: &Topology, node: usize, options: &MfsHaOptions) -> Result<Self> {
        let configuration = configure(topology, node, options)?;
        let node = topology.node(node)?;
        let name = format!("n{}", node.index);
        Self::launch(&name, &node.namespace, configuration, options.outlives_us)
    }

    /// Starts `mfs-ha run` on a node with a configuration that was written before.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_configured(
        topology: &Topology,
        node: usize,
        configuration: &Path,
    ) -> Result<Self> {
        let node = topology.node(node)?;
        let name = format!("n{}", node.index);
        Self::launch(&name, &node.namespace, configuration.to_owned(), false)
    }

    /// Writes the configuration of a witness and starts `mfs-ha run` there.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_witness(
        topology: &Topology,
        name: &str,
        timing: QuorumTiming,
        outlives_us: bool,
    ) -> Result<Self> {
        let host = topology.host(name)?;
        let configuration = configure_witness(topology, host, timing)?;
        Self::launch(name, &host.namespace, configuration, outlives_us)
    }

    fn launch(
        name: &str,
        namespace: &Namespace,
        configuration: PathBuf,
        outlives_us: bool,
    ) -> Result<Self> {
        let binary = mfs_ha_binary()?;
        let log = configuration.with_extension("log");
        let mut launch = Launch::new(&format!("mfs-ha on {name}"), &log, binary)
            .args([Path::new("run"), Path::new("-c"), &configuration])
            .inside(namespace);
        if outlives_us {
            launch = launch.outliving_us();
        }
        Ok(Self {
            process: launch.spawn()?,
            configuration,
        })
    }

    /// The process.
    pub fn process(&mut self) -> &mut Supervised {
        &mut self.process
    }

    /// Its configuration.
    pub fn configuration(&self) -> &Path {
        &self.configuration
    }

    /// Its status document.
    ///
    /// # Errors
    /// When the daemon has ended, is not reachable or answers nonsense.
    pub fn status(&mut self) -> Result<Value> {
        self.process.check_running()?;
        status_of(&self.configuration)
    }

    /// Its CARP state: `init`, `backup` or `master`.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn state(&mut self) -> Result<String> {
        text_at(&self.status()?, "/state")
    }

    /// Waits until its status can be read at all.
    ///
    /// # Errors
    /// When it ends, or is not reachable within `limit`.
    pub fn wait_reachable(&mut self, limit: Duration) -> Result<Value> {
        self.wait_status("mfs-ha to answer", limit, |_| true)
    }

    /// Waits until it says that it is in `wanted`.
    ///
    /// # Errors
    /// When it does not within `limit`, or ends.
    pub fn wait_state(&mut self, wanted: &str, limit: Duration) -> Result<Value> {
        self.wait_status(&format!("mfs-ha to be {wanted}"), limit, |status| {
            status.pointer("/state").and_then(Value::as_str) == Some(wanted)
        })
    }

    /// Waits until its status document satisfies `test`.
    ///
    /// # Errors
    /// When it does not within `limit`, or the daemon ends; the message holds the last answer.
    pub fn wait_status(
        &mut self,
        what: &str,
        limit: Duration,
        test: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = "no answer yet".to_owned();
        let outcome = wait_until_every(STATUS_INTERVAL, what, limit, || {
            self.process.check_running()?;
            match status_of(&self.configuration) {
                Ok(status) if test(&status) => return Ok(Some(status)),
                Ok(status) => last = status.to_string(),
                // The socket appears some milliseconds after the start.
                Err(error) => last = format!("{error:#}"),
            }
            Ok(None)
        });
        outcome.with_context(|| format!("last status: {last}"))
    }

    /// One of its counters.
    ///
    /// # Errors
    /// When it has no counter of that name.
    pub fn counter(&mut self, name: &str) -> Result<u64> {
        number_at(&self.status()?, &format!("/counters/{name}"))
    }

    /// Its remembered changes of state, as `from>to`, in the order of its status document.
    ///
    /// # Errors
    /// As [`Self::status`], or when the document is not as specified.
    pub fn transitions(&mut self) -> Result<Vec<String>> {
        let status = self.status()?;
        let list = status
            .pointer("/transitions")
            .and_then(Value::as_array)
            .context("the status has no transitions")?;
        list.iter()
            .map(|item| {
                Ok(format!(
                    "{}>{}",
                    text_at(item, "/from")?,
                    text_at(item, "/to")?
                ))
            })
            .collect()
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Ends it in good order with SIGTERM.
    ///
    /// # Errors
    /// When it does not end with status 0 within `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<()> {
        let status = self.process.terminate(limit)?;
        if !status.success() {
            bail!(
                "mfs-ha ended with {status}; its log:\n{}",
                self.process.log_text()?
            );
        }
        Ok(())
    }
}

/// How a command of mfs-ha ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its exit code; none after a signal. 124 and 137 mean that it did not end by itself.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

/// Runs mfs-ha to its end inside a namespace, where `wrapper` are words that run the rest.
///
/// # Errors
/// When it cannot be started at all.
pub fn invoke<A: AsRef<OsStr>>(
    namespace: &Namespace,
    wrapper: &[&str],
    arguments: impl IntoIterator<Item = A>,
) -> Result<Outcome> {
    invoke_program(&mfs_ha_binary()?, namespace, wrapper, arguments)
}

/// As [`invoke`], with a copy of mfs-ha that stands somewhere else.
///
/// # Errors
/// As [`invoke`].
pub fn invoke_program<A: AsRef<OsStr>>(
    program: &Path,
    namespace: &Namespace,
    wrapper: &[&str],
    arguments: impl IntoIterator<Item = A>,
) -> Result<Outcome> {
    let output = namespace
        .command("timeout")
        .args(["--kill-after=1", COMMAND_LIMIT_S])
        .args(wrapper)
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .context("start mfs-ha")?;
    Ok(Outcome {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Asks the daemon of a configuration for its status document.
///
/// # Errors
/// When it is not reachable, does not answer in time, or answers nonsense.
pub fn status_of(configuration: &Path) -> Result<Value> {
    let output = Command::new("timeout")
        .args(["--kill-after=1", STATUS_LIMIT_S])
        .arg(mfs_ha_binary()?)
        .args(["status", "--json", "-c"])
        .arg(configuration)
        .output()
        .context("start mfs-ha status")?;
    if !output.status.success() {
        bail!(
            "mfs-ha status: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    serde_json::from_slice(&output.stdout).context("read the status document")
}

/// Whether a status is that of a node whose vote counts for a lease: after a start that takes a lease's time, until
/// when the loss of another voter ends the lease. Carp mode has no votes to wait for.
pub fn votes(status: &Value) -> bool {
    let lease = status.pointer("/cluster/lease");
    lease.is_none_or(|lease| lease.pointer("/granted/node").is_some())
}

/// A text of a JSON document.
///
/// # Errors
/// When it is not there.
pub fn text_at(document: &Value, pointer: &str) -> Result<String> {
    document
        .pointer(pointer)
        .and_then(Value::as_str)
        .map(str::to_owned)
        .with_context(|| format!("no text {pointer} in {document}"))
}

/// A number of a JSON document.
///
/// # Errors
/// When it is not there.
pub fn number_at(document: &Value, pointer: &str) -> Result<u64> {
    document
        .pointer(pointer)
        .and_then(Value::as_u64)
        .with_context(|| format!("no number {pointer} in {document}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_fields_of_a_status_are_named() {
        let document = serde_json::json!({"counters": {"accepted": 3}});
        assert_eq!(number_at(&document, "/counters/accepted").unwrap(), 3);
        let error = number_at(&document, "/counters/bad_auth").unwrap_err();
        assert!(error.to_string().contains("/counters/bad_auth"));
    }
}
