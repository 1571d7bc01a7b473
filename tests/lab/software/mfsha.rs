//! mfs-ha on a node, known here only by its command line, configuration file and status document.

use std::ffi::OsStr;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;
use serde_json::Value;

use super::process::{Launch, Supervised};
use super::write_file;
use crate::net::netns::Namespace;
use crate::net::topology::Topology;
use crate::requirements::mfs_ha_binary;
use crate::wait::wait_until_every;
use crate::{PASSWORD, PREFIX_LENGTH, VHID, VIP};

/// Seconds after which a `status` command that got no answer is ended.
const STATUS_LIMIT_S: &str = "5";
/// Seconds after which any other command is ended: far more than any of them takes.
const COMMAND_LIMIT_S: &str = "20";
/// Each look at the status costs three processes.
const STATUS_INTERVAL: Duration = Duration::from_millis(50);

/// How mfs-ha is configured.
#[derive(Clone, Debug)]
pub struct MfsHaOptions {
    /// Seconds between adverts; 0 for sub-second timing.
    pub advbase: u8,
    /// 1/256 seconds on top.
    pub advskew: u8,
    /// Whether it displaces a worse master.
    pub preempt: bool,
    /// CARP password.
    pub password: String,
    /// Addresses of the other nodes; empty leaves the key out.
    pub peers: Vec<Ipv4Addr>,
    /// The up hook.
    pub up: Option<PathBuf>,
    /// The down hook.
    pub down: Option<PathBuf>,
    /// Time limit of a hook.
    pub hook_timeout_ms: u64,
    /// Whether it goes on when this process ends.
    pub outlives_us: bool,
    /// The MooseFS programs that it is in charge of; without them it is a plain CARP daemon.
    pub moosefs: Option<MooseFsOptions>,
}

/// Where the MooseFS programs of a node have their configurations.
#[derive(Clone, Debug, Serialize)]
pub struct MooseFsOptions {
    /// That of mfsmaster.
    pub master_config: PathBuf,
    /// That of mfsmetalogger.
    pub metalogger_config: PathBuf,
}

impl MfsHaOptions {
    /// Timing as given, everything else as a plain configuration would have it.
    pub fn with_timing(advbase: u8, advskew: u8) -> Self {
        Self {
            advbase,
            advskew,
            preempt: false,
            password: PASSWORD.to_owned(),
            peers: Vec::new(),
            up: None,
            down: None,
            hook_timeout_ms: 60_000,
            outlives_us: false,
            moosefs: None,
        }
    }
}

#[derive(Serialize)]
struct Configuration {
    instance: String,
    interface: &'static str,
    source: String,
    vip: String,
    run_dir: PathBuf,
    carp: Carp,
    #[serde(skip_serializing_if = "Option::is_none")]
    hooks: Option<Hooks>,
    #[serde(skip_serializing_if = "Option::is_none")]
    moosefs: Option<MooseFsOptions>,
}

#[derive(Serialize)]
struct Carp {
    vhid: u8,
    password_file: PathBuf,
    advbase: u8,
    advskew: u8,
    preempt: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    peers: Vec<Ipv4Addr>,
}

#[derive(Serialize)]
struct Hooks {
    #[serde(skip_serializing_if = "Option::is_none")]
    up: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    down: Option<PathBuf>,
    timeout_ms: u64,
}

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
        Self::launch(topology, node, configuration, options.outlives_us)
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
        Self::launch(topology, node, configuration.to_owned(), false)
    }

    fn launch(
        topology: &Topology,
        node: usize,
        configuration: PathBuf,
        outlives_us: bool,
    ) -> Result<Self> {
        let binary = mfs_ha_binary()?;
        let node = topology.node(node)?;
        let log = configuration.with_extension("log");
        let mut launch = Launch::new(&format!("mfs-ha on n{}", node.index), &log, binary)
            .args([Path::new("run"), Path::new("-c"), &configuration])
            .inside(&node.namespace);
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

/// Writes the configuration and the secret of a node and returns the path of the former.
///
/// # Errors
/// When a file cannot be written.
pub fn configure(topology: &Topology, node: usize, options: &MfsHaOptions) -> Result<PathBuf> {
    let directory = topology.directory();
    let run_dir = directory.join("run");
    fs::create_dir_all(&run_dir).with_context(|| format!("make {}", run_dir.display()))?;
    let node = topology.node(node)?;
    let secret = directory.join(format!("n{}.mfs-ha.secret", node.index));
    write_file(&secret, 0o600, &format!("{}\n", options.password))?;
    let hooks = (options.up.is_some() || options.down.is_some()).then(|| Hooks {
        up: options.up.clone(),
        down: options.down.clone(),
        timeout_ms: options.hook_timeout_ms,
    });
    let configuration = Configuration {
        instance: topology.instance(node.index),
        interface: "eth0",
        source: node.address.to_string(),
        vip: format!("{VIP}/{PREFIX_LENGTH}"),
        run_dir,
        carp: Carp {
            vhid: VHID,
            password_file: secret,
            advbase: options.advbase,
            advskew: options.advskew,
            preempt: options.preempt,
            peers: options.peers.clone(),
        },
        hooks,
        moosefs: options.moosefs.clone(),
    };
    let path = configuration_path(directory, node.index);
    let text = toml::to_string(&configuration).context("write the configuration as TOML")?;
    write_file(&path, 0o644, &text)?;
    Ok(path)
}

/// Sets one key of a configuration, named as `key` or `table.key`.
///
/// # Errors
/// When the file cannot be read or written, or is no TOML.
pub fn set_key(configuration: &Path, key: &str, value: impl Into<toml::Value>) -> Result<()> {
    let text = fs::read_to_string(configuration)
        .with_context(|| format!("read {}", configuration.display()))?;
    let mut document: toml::Table = text.parse().context("read a configuration as TOML")?;
    let (table, key) = match key.split_once('.') {
        Some((name, key)) => {
            let table = document
                .entry(name)
                .or_insert_with(|| toml::Value::Table(toml::Table::new()));
            let table = table.as_table_mut();
            (table.with_context(|| format!("{name} is no table"))?, key)
        }
        None => (&mut document, key),
    };
    table.insert(key.to_owned(), value.into());
    let text = toml::to_string(&document).context("write a configuration as TOML")?;
    write_file(configuration, 0o644, &text)
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

/// Where the configuration of a node is.
pub fn configuration_path(directory: &Path, node: usize) -> PathBuf {
    directory.join(format!("n{node}.mfs-ha.toml"))
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
    fn a_configuration_is_toml_with_only_known_keys() {
        let directory = tempfile::tempdir().unwrap();
        let topology = Topology::attach("mh1-0", directory.path(), 2).unwrap();
        let mut options = MfsHaOptions::with_timing(0, 20);
        options.up = Some(PathBuf::from("/x/up"));
        options.moosefs = Some(MooseFsOptions {
            master_config: PathBuf::from("/x/mfsmaster.cfg"),
            metalogger_config: PathBuf::from("/x/mfsmetalogger.cfg"),
        });
        let path = configure(&topology, 2, &options).unwrap();
        let text = fs::read_to_string(path).unwrap();
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(table["instance"].as_str(), Some("mh1-0-n2"));
        assert_eq!(table["source"].as_str(), Some("10.77.0.2"));
        assert_eq!(table["vip"].as_str(), Some("10.77.0.100/24"));
        assert_eq!(table["carp"]["advskew"].as_integer(), Some(20));
        assert_eq!(table["hooks"]["up"].as_str(), Some("/x/up"));
        assert!(table["hooks"].get("down").is_none());
        let master = table["moosefs"]["master_config"].as_str();
        assert_eq!(master, Some("/x/mfsmaster.cfg"));
    }

    #[test]
    fn keys_are_set_wherever_they_stand() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.toml");
        fs::write(&path, "vip = \"a\"\n[carp]\nvhid = 1\n").unwrap();
        set_key(&path, "vip", "b").unwrap();
        set_key(&path, "carp.vhid", 2).unwrap();
        set_key(&path, "hooks.timeout_ms", 3).unwrap();
        let table: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
        assert_eq!(table["vip"].as_str(), Some("b"));
        assert_eq!(table["carp"]["vhid"].as_integer(), Some(2));
        assert_eq!(table["hooks"]["timeout_ms"].as_integer(), Some(3));
        assert!(set_key(&path, "vip.x", 1).is_err());
    }

    #[test]
    fn missing_fields_of_a_status_are_named() {
        let document = serde_json::json!({"counters": {"accepted": 3}});
        assert_eq!(number_at(&document, "/counters/accepted").unwrap(), 3);
        let error = number_at(&document, "/counters/bad_auth").unwrap_err();
        assert!(error.to_string().contains("/counters/bad_auth"));
    }
}
