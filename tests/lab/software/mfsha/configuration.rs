//! The configuration of mfs-ha on the machines of a lab, with the secrets that it names.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use crate::net::topology::{Host, Topology};
use crate::software::write_file;
use crate::{PASSWORD, PREFIX_LENGTH, VHID, VIP};

/// Start of the names of hosts that are witnesses.
pub const WITNESS: &str = "w";
/// Name of the lab's cluster.
const CLUSTER: &str = "lab";
/// Its secret: any 16 bytes.
const CLUSTER_SECRET: &str = "the lab's cluster secret";

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
    /// The MooseFS programs that it is in charge of; without them it has a VIP and nothing else.
    pub moosefs: Option<MooseFsOptions>,
    /// The timing of quorum mode; without it the mode is carp.
    pub quorum: Option<QuorumTiming>,
}

/// H and T, and how long a first election waits for candidates that are not heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuorumTiming {
    /// Milliseconds between heartbeats.
    pub heartbeat_ms: u64,
    /// Milliseconds of a lease.
    pub lease_ms: u64,
    /// Milliseconds.
    pub cold_start_wait_ms: u64,
}

impl QuorumTiming {
    /// What a configuration has that says nothing of it.
    pub const DEFAULT: Self = Self {
        heartbeat_ms: 50,
        lease_ms: 300,
        cold_start_wait_ms: 30_000,
    };
    /// For networks and machines that are never late.
    pub const FAST: Self = Self {
        heartbeat_ms: 10,
        lease_ms: 60,
        ..Self::DEFAULT
    };
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
            quorum: None,
        }
    }

    /// Quorum mode, with the rank that a node of this number has: the lower, the better.
    pub fn with_quorum(timing: QuorumTiming, node: usize) -> Self {
        let rank = u8::try_from(node).unwrap_or(u8::MAX);
        Self {
            quorum: Some(timing),
            ..Self::with_timing(0, rank.saturating_mul(10).min(250))
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
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<Cluster>,
}

#[derive(Serialize)]
struct WitnessConfiguration {
    instance: String,
    run_dir: PathBuf,
    cluster: Cluster,
}

#[derive(Serialize)]
struct Cluster {
    name: &'static str,
    node: usize,
    secret_file: PathBuf,
    heartbeat_interval_ms: u64,
    lease_ms: u64,
    cold_start_wait_ms: u64,
    state_dir: PathBuf,
    members: Vec<Member>,
}

#[derive(Serialize)]
struct Member {
    id: usize,
    role: &'static str,
    addresses: [Ipv4Addr; 1],
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

/// Writes the configuration and the secret of a node and returns the path of the former.
///
/// # Errors
/// When a file cannot be written.
pub fn configure(topology: &Topology, node: usize, options: &MfsHaOptions) -> Result<PathBuf> {
    let directory = topology.directory();
    let run_dir = make_run_dir(directory)?;
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
        cluster: options
            .quorum
            .map(|timing| cluster(topology, &format!("n{}", node.index), node.index, timing))
            .transpose()?,
    };
    let path = configuration_path(directory, node.index);
    let text = toml::to_string(&configuration).context("write the configuration as TOML")?;
    write_file(&path, 0o644, &text)?;
    Ok(path)
}

/// Writes the configuration and the secret of a witness and returns the path of the former.
///
/// # Errors
/// When a file cannot be written, or the host is no witness.
pub fn configure_witness(
    topology: &Topology,
    host: &Host,
    timing: QuorumTiming,
) -> Result<PathBuf> {
    let id = witnesses(topology)
        .find(|(_, witness)| witness.name == host.name)
        .with_context(|| format!("{} is no witness: its name begins otherwise", host.name))?
        .0;
    let configuration = WitnessConfiguration {
        instance: topology.host_instance(host.name),
        run_dir: make_run_dir(topology.directory())?,
        cluster: cluster(topology, host.name, id, timing)?,
    };
    let path = topology
        .directory()
        .join(format!("{}.mfs-ha.toml", host.name));
    let text = toml::to_string(&configuration).context("write the configuration as TOML")?;
    write_file(&path, 0o644, &text)?;
    Ok(path)
}

fn make_run_dir(directory: &Path) -> Result<PathBuf> {
    let run_dir = directory.join("run");
    fs::create_dir_all(&run_dir).with_context(|| format!("make {}", run_dir.display()))?;
    Ok(run_dir)
}

/// The witnesses of a segment with their numbers, which follow those of the nodes.
fn witnesses(topology: &Topology) -> impl Iterator<Item = (usize, &Host)> {
    let first = topology.nodes().len() + 1;
    let hosts = topology.hosts().iter();
    (first..).zip(hosts.filter(|host| host.name.starts_with(WITNESS)))
}

/// The table for one member, with its secret and its directory for what must not be forgotten.
fn cluster(topology: &Topology, name: &str, id: usize, timing: QuorumTiming) -> Result<Cluster> {
    let directory = topology.directory();
    let secret_file = directory.join(format!("{name}.cluster.secret"));
    write_file(&secret_file, 0o600, &format!("{CLUSTER_SECRET}\n"))?;
    let member = |role| {
        move |(id, address): (usize, Ipv4Addr)| Member {
            id,
            role,
            addresses: [address],
        }
    };
    let nodes = topology.nodes().iter();
    let candidates = nodes.map(|node| (node.index, node.address));
    let voters = witnesses(topology).map(|(id, host)| (id, host.address));
    let members: Vec<Member> = candidates
        .map(member("candidate"))
        .chain(voters.map(member("witness")))
        .collect();
    ensure!(
        members.iter().any(|member| member.id == id),
        "{name} is no member"
    );
    Ok(Cluster {
        name: CLUSTER,
        node: id,
        secret_file,
        heartbeat_interval_ms: timing.heartbeat_ms,
        lease_ms: timing.lease_ms,
        cold_start_wait_ms: timing.cold_start_wait_ms,
        state_dir: directory.join(format!("{name}.state")),
        members,
    })
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

/// Where the configuration of a node is.
pub fn configuration_path(directory: &Path, node: usize) -> PathBuf {
    directory.join(format!("n{node}.mfs-ha.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::topology::Shape;

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
    fn a_cluster_lists_candidates_and_witnesses() {
        let directory = tempfile::tempdir().unwrap();
        let shape = Shape::with_hosts(2, &["c1", "w"]);
        let topology = Topology::attach("mh1-0", directory.path(), shape).unwrap();
        let options = MfsHaOptions::with_quorum(QuorumTiming::FAST, 2);
        let candidate = configure(&topology, 2, &options).unwrap();
        let host = topology.host("w").unwrap();
        let witness = configure_witness(&topology, host, QuorumTiming::FAST).unwrap();
        for (path, node) in [(candidate, 2), (witness, 3)] {
            let table: toml::Table = fs::read_to_string(path).unwrap().parse().unwrap();
            let cluster = &table["cluster"];
            assert_eq!(cluster["node"].as_integer(), Some(node));
            assert_eq!(cluster["lease_ms"].as_integer(), Some(60));
            let members = cluster["members"].as_array().unwrap();
            let roles: Vec<_> = members.iter().map(|it| it["role"].as_str()).collect();
            assert_eq!(
                roles,
                [Some("candidate"), Some("candidate"), Some("witness")]
            );
            assert_eq!(members[2]["addresses"][0].as_str(), Some("10.77.0.102"));
        }
        let other = topology.host("c1").unwrap();
        assert!(configure_witness(&topology, other, QuorumTiming::FAST).is_err());
    }
}
