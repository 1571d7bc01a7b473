//! The whole: three nodes with mfs-ha in charge of MooseFS, two chunkservers, a client, and the judges.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::unistd::Pid;
use serde_json::Value;

use super::files::NodeFiles;
use super::node::{master_pid, metalogger_pid, wait_master_listens};
use super::{
    CHUNKSERVERS, CLIENT, CLIENT_PORT, Mode, check_installed, chunkserver, open_directory,
};
use crate::judge::ports::PortProber;
use crate::net::topology::{Node, Shape, Topology, Traffic};
use crate::oracle::client::{Client, ClientOptions};
use crate::scenario::Arena;
use crate::software::mfsha::{
    MfsHa, MfsHaOptions, MooseFsOptions, WITNESS, configuration_path, configure, votes,
};
use crate::software::process::Supervised;
use crate::wait::wait_until;
use crate::{PREFIX_LENGTH, VIP};

/// Long enough for a first download, a promotion and a restart on two busy cores.
pub const SETTLE: Duration = Duration::from_secs(60);
/// How long one node alone must have answered and served to count as the server.
const SERVING_WINDOW: Duration = Duration::from_millis(300);

/// What a node that is cut off loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutOff {
    /// Everything and everybody.
    Alone,
    /// The other voters, both ways. Clients and chunkservers reach all of them all the same, which is the worst that
    /// a network can do: what the node acknowledges before its lease ends is nowhere else.
    Voters,
    /// The heartbeats that it sends.
    Mute,
    /// The heartbeats that it is sent.
    Deaf,
    /// Everything that it sends to voters, chunkservers and client.
    Outbound,
    /// Everything that these send to it.
    Inbound,
}

/// A laboratory with MooseFS. Everything is removed on drop.
#[derive(Debug)]
pub struct Cluster {
    // In the order in which they have to go: users of the file system first, the segment last.
    client: Option<Client>,
    daemons: Vec<Option<MfsHa>>,
    witness: Option<MfsHa>,
    masters: Vec<Option<Supervised>>,
    chunkservers: Vec<Supervised>,
    ports: PortProber,
    files: Vec<NodeFiles>,
    arena: Arena,
    mode: Mode,
}

impl Cluster {
    /// Builds the segment, writes all configurations, makes the first file system in n1's directory (the others
    /// have empty ones) and starts the chunkservers. Nothing serves yet.
    ///
    /// # Errors
    /// When the machine lacks something or a part cannot be made.
    pub fn new(mode: Mode) -> Result<Self> {
        Self::on(mode, mode.shape())
    }

    /// As [`Self::new`], on a segment that has more hosts than the mode needs.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn on(mode: Mode, shape: Shape) -> Result<Self> {
        check_installed()?;
        let arena = Arena::new(shape)?;
        let topology = arena.topology();
        let files = write_nodes(topology, mode, false)?;
        let chunkservers = start_chunkservers(topology, false)?;
        let nodes = topology.nodes();
        let macs = nodes.iter().map(|node| node.mac).collect();
        Ok(Self {
            client: None,
            daemons: nodes.iter().map(|_| None).collect(),
            witness: None,
            masters: nodes.iter().map(|_| None).collect(),
            chunkservers,
            ports: PortProber::start(
                topology.observer(),
                topology.observer_address(),
                macs,
                CLIENT_PORT,
            )?,
            files,
            arena,
            mode,
        })
    }

    /// The segment and its judges.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Who takes connections of clients on the VIP.
    pub fn ports(&self) -> &PortProber {
        &self.ports
    }

    /// Node `index`, counted from 1.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn node(&self, index: usize) -> Result<&Node> {
        self.arena.topology().node(index)
    }

    /// The files of a node, which a test may change while nothing runs on them.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn files(&self, node: usize) -> Result<&NodeFiles> {
        let files = self.files.get(node.wrapping_sub(1));
        files.with_context(|| format!("the lab has no node {node}"))
    }

    /// The configuration of a node's mfs-ha; [`set_key`](crate::software::mfsha::set_key) changes it.
    pub fn configuration(&self, node: usize) -> PathBuf {
        configuration_path(self.arena.topology().directory(), node)
    }

    /// Starts mfs-ha on n1, where the file system is, and on the others when it serves; where a majority has to
    /// agree to that, on all at once. Waits until the others could take over.
    ///
    /// # Errors
    /// When a part does not get there in time.
    pub fn start_all(&mut self) -> Result<()> {
        if self.mode == Mode::Carp {
            self.start_node(1)?;
            self.wait_serving(SETTLE)?;
        } else {
            self.start_witness()?;
            self.start_node(1)?;
        }
        for node in 2..=self.files.len() {
            self.start_node(node)?;
        }
        let serving = self.wait_serving(SETTLE)?;
        self.wait_chunkservers(serving, SETTLE)?;
        self.wait_all_ready(SETTLE)
    }

    /// Starts mfs-ha on the witness, if the segment has one. One that runs there is killed first.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_witness(&mut self) -> Result<()> {
        self.witness = None;
        if self.mode == Mode::Witness {
            let timing = self.mode.timing().context("a witness without a lease")?;
            let topology = self.arena.topology();
            self.witness = Some(MfsHa::start_witness(topology, WITNESS, timing, false)?);
        }
        Ok(())
    }

    /// The mfs-ha of the witness.
    ///
    /// # Errors
    /// When none was started.
    pub fn witness(&mut self) -> Result<&mut MfsHa> {
        let witness = self.witness.as_mut();
        witness.context("no mfs-ha was started on a witness")
    }

    /// Names of all machines that vote, but for a node.
    pub fn voters_beside(&self, node: usize) -> Vec<String> {
        let nodes = self.arena.topology().nodes().iter();
        let others = nodes.filter(|other| other.index != node);
        let witness = (self.mode == Mode::Witness).then(|| WITNESS.to_owned());
        others
            .map(|other| format!("n{}", other.index))
            .chain(witness)
            .collect()
    }

    /// Cuts a node off, until [`Topology::heal`]. Its link stays up, and the observer goes on seeing it.
    ///
    /// # Errors
    /// When nftables refuses.
    pub fn cut_off(&self, node: usize, how: CutOff) -> Result<()> {
        let topology = self.arena.topology();
        let own = format!("n{node}");
        let voters = self.voters_beside(node);
        let users = CHUNKSERVERS.into_iter().chain([CLIENT]).map(str::to_owned);
        let all: Vec<String> = voters.iter().cloned().chain(users).collect();
        let from = |others| pairs(others, |other| (&own, other));
        let to = |others| pairs(others, |other| (other, &own));
        match how {
            CutOff::Alone => topology.cut_both_ways(&own, &all, Traffic::All),
            CutOff::Voters => topology.cut_both_ways(&own, &voters, Traffic::All),
            CutOff::Mute => topology.cut(&from(&voters), Traffic::Heartbeats),
            CutOff::Deaf => topology.cut(&to(&voters), Traffic::Heartbeats),
            CutOff::Outbound => topology.cut(&from(&all), Traffic::All),
            CutOff::Inbound => topology.cut(&to(&all), Traffic::All),
        }
    }

    /// Starts mfs-ha on a node, with whatever files are there. A daemon that runs there is killed first.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_node(&mut self, node: usize) -> Result<&mut MfsHa> {
        let configuration = self.configuration(node);
        let slot = slot_of(&mut self.daemons, node)?;
        // Dropping kills it, and must come before the new one asks for the instance's lock.
        *slot = None;
        let topology = self.arena.topology();
        Ok(slot.insert(MfsHa::start_configured(topology, node, &configuration)?))
    }

    /// Lets a node die: everything there is killed, and its link goes down before or after that.
    ///
    /// # Errors
    /// When the link or a process resists.
    pub fn kill_node(&mut self, node: usize, link_last: bool) -> Result<()> {
        if link_last {
            self.node(node)?.namespace.kill_all()?;
            self.arena.topology().port_down(node)?;
        } else {
            self.arena.fail_node(node)?;
        }
        *slot_of(&mut self.daemons, node)? = None;
        *slot_of(&mut self.masters, node)? = None;
        Ok(())
    }

    /// The mfs-ha of a node.
    ///
    /// # Errors
    /// When none was started there.
    pub fn daemon(&mut self, node: usize) -> Result<&mut MfsHa> {
        let daemon = slot_of(&mut self.daemons, node)?.as_mut();
        daemon.with_context(|| format!("no mfs-ha was started on n{node}"))
    }

    /// Starts a master on a node by hand, without mfs-ha, from whatever metadata is there, and gives the node
    /// the VIP.
    ///
    /// # Errors
    /// When the master does not listen in time.
    pub fn start_master_by_hand(&mut self, node: usize) -> Result<()> {
        let topology = self.arena.topology();
        let place = topology.node(node)?;
        let slot = slot_of(&mut self.masters, node)?;
        *slot = None;
        let master = self
            .files
            .get(node.wrapping_sub(1))
            .context("node index")?
            .launch_master(topology, node, &["-a"])?;
        wait_master_listens(place, slot.insert(master))?;
        let vip = format!("{VIP}/{PREFIX_LENGTH}");
        place
            .namespace
            .run("ip", &["addr", "replace", &vip, "dev", "eth0"])?;
        let announce = [
            "-q",
            "-A",
            "-c",
            "1",
            "-w",
            "1",
            "-I",
            "eth0",
            &VIP.to_string(),
        ];
        // It waits in vain for answers to an announcement and ends with status 1.
        place.namespace.run("arping", &announce).ok();
        Ok(())
    }

    /// The running master of a node, whoever started it.
    ///
    /// # Errors
    /// When the node's processes cannot be listed.
    pub fn master_pid(&self, node: usize) -> Result<Option<Pid>> {
        master_pid(self.node(node)?, self.files(node)?)
    }

    /// The running metalogger of a node, whoever started it.
    ///
    /// # Errors
    /// As [`Self::master_pid`].
    pub fn metalogger_pid(&self, node: usize) -> Result<Option<Pid>> {
        metalogger_pid(self.node(node)?, self.files(node)?)
    }

    /// Waits until one node alone answers for the VIP and takes clients, and returns it.
    ///
    /// # Errors
    /// When that does not come about within `limit`, or a daemon ended by itself.
    pub fn wait_serving(&mut self, limit: Duration) -> Result<usize> {
        let daemons = &mut self.daemons;
        let (arena, ports) = (&self.arena, &self.ports);
        wait_until("one node to serve", limit, || {
            for daemon in daemons.iter_mut().flatten() {
                daemon.process().check_running()?;
            }
            let now = std::time::Instant::now();
            let from = now.checked_sub(SERVING_WINDOW).unwrap_or(now);
            let owners = arena.owners_within(SERVING_WINDOW)?;
            let takers = ports.look(|log| log.accepting(from, now))?;
            let servers: Vec<usize> = takers
                .into_iter()
                .filter_map(|mac| arena.topology().node_of(mac))
                .map(|node| node.index)
                .collect();
            Ok(match (owners.first(), servers.as_slice()) {
                (Some(owner), [server]) if owners.len() == 1 && owner == server => Some(*owner),
                _ => None,
            })
        })
    }

    /// Waits until a node's daemon says that it could take over.
    ///
    /// # Errors
    /// When it does not within `limit`, or ends; the message holds its last status.
    pub fn wait_ready(&mut self, node: usize, limit: Duration) -> Result<Value> {
        self.daemon(node)?
            .wait_status(&format!("n{node} to be ready"), limit, is_ready)
    }

    /// Waits until one node serves and the daemons of all others say that they could take over.
    ///
    /// # Errors
    /// When that does not come about within `limit`.
    pub fn wait_all_ready(&mut self, limit: Duration) -> Result<()> {
        let serving = self.wait_serving(limit)?;
        for node in 1..=self.files.len() {
            if node != serving {
                self.wait_ready(node, limit)?;
            }
        }
        match &mut self.witness {
            Some(witness) => witness
                .wait_status("the witness to vote", limit, votes)
                .map(drop),
            None => Ok(()),
        }
    }

    /// Waits until all chunkservers are connected to the master of `node`.
    ///
    /// # Errors
    /// When that does not come about within `limit`, or a chunkserver ended by itself.
    pub fn wait_chunkservers(&mut self, node: usize, limit: Duration) -> Result<()> {
        let count = self.chunkservers.len();
        let namespace = self.node(node)?.namespace.clone();
        wait_until(&format!("{count} chunkservers"), limit, || {
            for chunkserver in &mut self.chunkservers {
                chunkserver.check_running()?;
            }
            let filter = ["-Htn", "state", "established", "sport = :9420"];
            let connections = namespace.run("ss", &filter)?;
            Ok((connections.lines().count() >= count).then_some(()))
        })
    }

    /// Mounts the file system on the client's host and lets the oracle work there.
    ///
    /// # Errors
    /// When the master does not answer, or no file is acknowledged in time.
    pub fn start_client(&mut self, options: ClientOptions) -> Result<&mut Client> {
        // An earlier one has to be gone before its log is made anew.
        self.client = None;
        let client = self
            .client
            .insert(Client::start(self.arena.topology(), options)?);
        client.wait_acked(1, SETTLE)?;
        Ok(client)
    }

    /// The client.
    ///
    /// # Errors
    /// When none was started.
    pub fn client(&mut self) -> Result<&mut Client> {
        self.client.as_mut().context("no client was started")
    }

    /// The client together with the judges.
    pub(crate) fn judges(&mut self) -> Result<(&mut Client, &Arena, &PortProber)> {
        let client = self.client.as_mut().context("no client was started")?;
        Ok((client, &self.arena, &self.ports))
    }

    /// Brings back a node whose processes were killed: mfs-ha starts on the old directories, drops the VIP that
    /// was left, the link comes up. Returns its status when the node could take over.
    ///
    /// # Errors
    /// When it does not get there in time.
    pub fn bring_back(&mut self, node: usize) -> Result<Value> {
        self.start_node(node)?;
        self.arena.wait_vip(node, false, SETTLE)?;
        self.arena.topology().port_up(node)?;
        self.wait_ready(node, SETTLE)
    }
}

fn pairs<'a>(
    others: &'a [String],
    pair: impl Fn(&'a String) -> (&'a String, &'a String),
) -> Vec<(&'a String, &'a String)> {
    others.iter().map(pair).collect()
}

/// Writes the files of all nodes and makes the first file system on n1.
///
/// # Errors
/// When a file cannot be written or the file system not be made.
pub fn write_nodes(topology: &Topology, mode: Mode, outlives_us: bool) -> Result<Vec<NodeFiles>> {
    open_directory(topology.directory())?;
    let mut all = Vec::new();
    for node in topology.nodes() {
        let files = NodeFiles::write(topology, node.index)?;
        configure(
            topology,
            node.index,
            &node_options(node, &files, mode, outlives_us)?,
        )?;
        all.push(files);
    }
    let Some(first) = all.first() else {
        bail!("a lab without nodes");
    };
    first.create_file_system(topology, 1)?;
    Ok(all)
}

/// Starts the chunkservers, which go on asking for the VIP until a master answers.
///
/// # Errors
/// When one cannot be started.
pub fn start_chunkservers(topology: &Topology, outlives_us: bool) -> Result<Vec<Supervised>> {
    CHUNKSERVERS
        .iter()
        .map(|name| chunkserver::start(topology, name, outlives_us))
        .collect()
}

/// How a node's mfs-ha is configured: the lower its number, the better it is.
///
/// # Errors
/// When the node's number is out of range.
pub fn node_options(
    node: &Node,
    files: &NodeFiles,
    mode: Mode,
    outlives_us: bool,
) -> Result<MfsHaOptions> {
    let rank = u8::try_from(node.index).context("node index")?;
    Ok(MfsHaOptions {
        moosefs: Some(MooseFsOptions {
            master_config: files.master_config.clone(),
            metalogger_config: files.metalogger_config.clone(),
        }),
        outlives_us,
        quorum: mode.timing(),
        ..MfsHaOptions::with_timing(0, rank.saturating_mul(10))
    })
}

/// Whether a status is that of a backup that could take over, and whose vote keeps the master's lease.
pub fn is_ready(status: &Value) -> bool {
    let is_backup = status.pointer("/state").and_then(Value::as_str) == Some("backup");
    let hears_a_master = status
        .pointer("/master")
        .is_some_and(|master| !master.is_null());
    let says = |what: &str| status.pointer(what).and_then(Value::as_bool);
    let is_ready = says("/promotion/ready") == Some(true);
    // What was served last may be of a newer epoch: voters would refuse it (rule L1e).
    let is_behind = says("/cluster/metadata/is_behind") == Some(true);
    is_backup && hears_a_master && is_ready && !is_behind && votes(status)
}

fn slot_of<T>(slots: &mut [Option<T>], node: usize) -> Result<&mut Option<T>> {
    let slot = slots.get_mut(node.wrapping_sub(1));
    slot.with_context(|| format!("the lab has no node {node}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_ready_backup_hears_a_master() {
        let status = |state: &str, ready: Value| json!({"state": state, "master": {"source": "x"}, "promotion": {"ready": ready}});
        assert!(is_ready(&status("backup", json!(true))));
        assert!(!is_ready(&status("backup", json!(false))));
        assert!(!is_ready(&status("master", json!(true))));
        assert!(!is_ready(&json!({"state": "backup", "master": null})));
        assert!(!is_ready(&json!({"state": "backup", "master": "x"})));
    }
}
