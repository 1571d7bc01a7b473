//! One Ethernet segment: a bridge in a namespace of its own, nodes n1..nN, hosts and an observer.
//!
//! Not responsible for what runs on the nodes, except that nothing survives a topology that is dropped.

mod links;

use std::cell::Cell;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

pub use self::links::Traffic;
use super::netns::{self, Namespace, ephemeral_prefix, remove_leftovers};
use super::packet::Mac;
use crate::requirements::{BASE_TOOLS, require_root, require_tools};
use crate::wait::wait_until;
use crate::{PREFIX_LENGTH, VIP};

/// Node addresses end in 1..=99, the VIP in 100, those of hosts in 101..=199, the judge's in 200 and above.
pub const NODES_MAX: usize = 99;
/// As many hosts as there are addresses for.
pub const HOSTS_MAX: usize = 99;
/// The first host's last octet.
const HOST_FIRST: u8 = 101;
/// Start of the name of a directory that is kept for inspection.
const KEPT: &str = "mfs-ha-lab-kept-";
/// Last octet of the observer's own address.
const OBSERVER: u8 = 250;

/// A machine of the lab.
#[derive(Clone, Debug)]
pub struct Node {
    /// Counted from 1; also the last octet of the address.
    pub index: usize,
    /// Where its processes run.
    pub namespace: Namespace,
    /// Ethernet address of its eth0, the same after [`Topology::recreate_interface`].
    pub mac: Mac,
    /// IPv4 address of its eth0.
    pub address: Ipv4Addr,
}

/// What stands on a segment. A plain number means so many nodes and nothing else.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    nodes: usize,
    hosts: &'static [&'static str],
}

impl Shape {
    /// So many nodes, and hosts of these names, which must differ from those of nodes (`n1`, …), `ob` and `sw`.
    pub const fn with_hosts(nodes: usize, hosts: &'static [&'static str]) -> Self {
        Self { nodes, hosts }
    }
}

impl From<usize> for Shape {
    fn from(nodes: usize) -> Self {
        Self::with_hosts(nodes, &[])
    }
}

/// A machine of the segment that is no candidate for the VIP: a file server, a client.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its name within the lab.
    pub name: &'static str,
    /// Where its processes run.
    pub namespace: Namespace,
    /// Ethernet address of its eth0.
    pub mac: Mac,
    /// IPv4 address of its eth0.
    pub address: Ipv4Addr,
}

#[derive(Debug)]
enum Lifetime {
    /// Removed on drop, with its directory unless that is kept for inspection.
    Ephemeral { keep_directory: Cell<bool> },
    /// Stays until removed by name.
    Persistent,
}

/// The segment with everything on it.
#[derive(Debug)]
pub struct Topology {
    prefix: String,
    directory: PathBuf,
    switch: Namespace,
    observer: Namespace,
    nodes: Vec<Node>,
    hosts: Vec<Host>,
    lifetime: Lifetime,
}

impl Topology {
    /// Builds a segment that goes when the value is dropped.
    ///
    /// # Errors
    /// When the machine lacks something, or a namespace or link cannot be made.
    pub fn new(shape: impl Into<Shape>) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        static SWEEP: Once = Once::new();
        require_root()?;
        require_tools(BASE_TOOLS)?;
        let mut swept = Ok(());
        SWEEP.call_once(|| swept = remove_leftovers(&std::env::temp_dir()));
        swept.context("remove what dead labs left")?;
        let prefix = ephemeral_prefix(COUNTER.fetch_add(1, Ordering::Relaxed));
        let directory = tempfile::Builder::new()
            .prefix(&format!("{prefix}-"))
            .tempdir()
            .context("make the lab's directory")?
            .keep();
        let lifetime = Lifetime::Ephemeral {
            keep_directory: Cell::new(std::env::var_os("MFS_HA_KEEP_LOGS").is_some()),
        };
        let topology = Self::handle(&prefix, directory, shape.into(), lifetime)?;
        topology.build()?;
        Ok(topology)
    }

    /// Builds a segment that stays until [`Self::remove`] is called on it or on its like from [`Self::attach`].
    ///
    /// # Errors
    /// As [`Self::new`]; what was built so far is removed again.
    pub fn persistent(prefix: &str, directory: &Path, shape: impl Into<Shape>) -> Result<Self> {
        require_root()?;
        require_tools(BASE_TOOLS)?;
        let topology = Self::attach(prefix, directory, shape)?;
        if let Err(error) = topology.build() {
            topology.remove()?;
            return Err(error);
        }
        Ok(topology)
    }

    /// A handle on a persistent segment. Nothing is checked or built.
    ///
    /// # Errors
    /// When the number of nodes or hosts is out of range.
    pub fn attach(prefix: &str, directory: &Path, shape: impl Into<Shape>) -> Result<Self> {
        Self::handle(
            prefix,
            directory.to_owned(),
            shape.into(),
            Lifetime::Persistent,
        )
    }

    fn handle(prefix: &str, directory: PathBuf, shape: Shape, lifetime: Lifetime) -> Result<Self> {
        let Shape { nodes, hosts } = shape;
        ensure!(
            hosts.len() <= HOSTS_MAX,
            "a lab has at most {HOSTS_MAX} hosts, not {}",
            hosts.len()
        );
        ensure!(
            (1..=NODES_MAX).contains(&nodes),
            "a lab has 1 to {NODES_MAX} nodes, not {nodes}"
        );
        let nodes = (1..=nodes)
            .map(|index| {
                let octet = u8::try_from(index).context("node index")?;
                Ok(Node {
                    index,
                    namespace: Namespace::existing(&format!("{prefix}-n{index}")),
                    mac: mac(octet),
                    address: address(octet),
                })
            })
            .collect::<Result<_>>()?;
        let hosts = hosts
            .iter()
            .zip(HOST_FIRST..)
            .map(|(name, octet)| Host {
                name,
                namespace: Namespace::existing(&format!("{prefix}-{name}")),
                mac: mac(octet),
                address: address(octet),
            })
            .collect();
        Ok(Self {
            prefix: prefix.to_owned(),
            directory,
            switch: Namespace::existing(&format!("{prefix}-sw")),
            observer: Namespace::existing(&format!("{prefix}-ob")),
            nodes,
            hosts,
            lifetime,
        })
    }

    fn build(&self) -> Result<()> {
        for namespace in self.namespaces() {
            // The name holds our pid: whoever had it before is dead.
            namespace.delete()?;
            Namespace::create(namespace.name())?;
        }
        self.switch.enter(disable_bridge_filter)?;
        self.switch.ip(&[
            "link add br0 type bridge stp_state 0 mcast_snooping 0 forward_delay 0".to_owned(),
            "link set br0 up".to_owned(),
        ])?;
        let observer = (mac(OBSERVER), address(OBSERVER));
        self.connect("pob", &self.observer, observer, "")?;
        for node in &self.nodes {
            self.connect_node(node, "")?;
        }
        for host in &self.hosts {
            let port = format!("p{}", host.name);
            self.connect(&port, &host.namespace, (host.mac, host.address), "")?;
        }
        Ok(())
    }

    fn connect_node(&self, node: &Node, number: &str) -> Result<()> {
        let addresses = (node.mac, node.address);
        self.connect(&port(node.index), &node.namespace, addresses, number)
    }

    fn connect(
        &self,
        port: &str,
        to: &Namespace,
        (mac, address): (Mac, Ipv4Addr),
        number: &str,
    ) -> Result<()> {
        to.ip(&[format!(
            "link add eth0 {number} address {mac} type veth peer name {port} netns {}",
            self.switch.name()
        )])?;
        self.switch
            .ip(&[format!("link set {port} master br0 up")])?;
        to.ip(&[
            format!("addr add {address}/{PREFIX_LENGTH} dev eth0"),
            "link set eth0 up".to_owned(),
        ])?;
        wait_until("the carrier of a new link", Duration::from_secs(5), || {
            let shown = to.run("ip", &["-oneline", "link", "show", "dev", "eth0"])?;
            Ok(shown.contains("LOWER_UP").then_some(()))
        })
    }

    /// Start of all names of this segment, and of the instances on it.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Where configurations, scripts and logs of this segment go.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The namespace that watches.
    pub fn observer(&self) -> &Namespace {
        &self.observer
    }

    /// The observer's own address.
    pub fn observer_address(&self) -> Ipv4Addr {
        address(OBSERVER)
    }

    /// All nodes, n1 first.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Node `index`, counted from 1.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn node(&self, index: usize) -> Result<&Node> {
        self.nodes
            .get(index.wrapping_sub(1))
            .with_context(|| format!("the lab has no node {index}"))
    }

    /// All hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The host called `name`.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn host(&self, name: &str) -> Result<&Host> {
        self.hosts
            .iter()
            .find(|host| host.name == name)
            .with_context(|| format!("the lab has no host {name}"))
    }

    /// The node with this Ethernet address.
    pub fn node_of(&self, mac: Mac) -> Option<&Node> {
        self.nodes.iter().find(|node| node.mac == mac)
    }

    /// Removes the VIP from a node by hand, as an operator would after kill -9. Absence is success.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_vip(&self, index: usize) -> Result<()> {
        let node = self.node(index)?;
        if super::addresses::holds(&node.namespace, VIP)? {
            let vip = format!("{VIP}/{PREFIX_LENGTH}");
            node.namespace
                .run("ip", &["addr", "del", &vip, "dev", "eth0"])?;
        }
        Ok(())
    }

    /// Keeps the directory with all logs when the segment goes.
    pub fn keep_directory(&self) {
        if let Lifetime::Ephemeral { keep_directory } = &self.lifetime {
            keep_directory.set(true);
        }
    }

    /// Kills everything on the segment and removes it. What is gone already is no error.
    ///
    /// # Errors
    /// The first failure, after having tried everything.
    pub fn remove(&self) -> Result<()> {
        let namespaces = self.namespaces().map(Namespace::delete);
        let pins = self
            .nodes
            .iter()
            .map(|node| self.instance(node.index))
            .chain(self.hosts.iter().map(|host| self.host_instance(host.name)))
            .map(|instance| netns::remove_pins(&instance));
        // Folding, unlike collecting, goes on after a failure.
        namespaces.chain(pins).fold(Ok(()), Result::and)
    }

    /// The mfs-ha instance name of a node.
    pub fn instance(&self, index: usize) -> String {
        format!("{}-n{index}", self.prefix)
    }

    /// The mfs-ha instance name of a host, should it be a witness.
    pub fn host_instance(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.nodes
            .iter()
            .map(|node| &node.namespace)
            .chain(self.hosts.iter().map(|host| &host.namespace))
            .chain([&self.observer, &self.switch])
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        let Lifetime::Ephemeral { keep_directory } = &self.lifetime else {
            return;
        };
        if let Err(error) = self.remove() {
            report(&format!(
                "the lab {} is not fully removed: {error:#}",
                self.prefix
            ));
        }
        if !keep_directory.get() && !thread::panicking() {
            if let Err(error) = netns::remove_tree(&self.directory) {
                report(&format!("{error:#}"));
            }
            return;
        }
        // Under its own name the next lab would take it for a leftover.
        let mut name = OsString::from(KEPT);
        name.push(self.directory.file_name().unwrap_or_default());
        let kept = self.directory.with_file_name(name);
        match fs::rename(&self.directory, &kept) {
            Ok(()) => report(&format!("logs of the lab are kept in {}", kept.display())),
            Err(error) => report(&format!(
                "logs of the lab are in {} ({error})",
                self.directory.display()
            )),
        }
    }
}

/// A destructor has no caller to hand its news to. They are told past a test's capture: it may yet pass, if it is tried
/// again.
fn report(text: &str) {
    writeln!(io::stderr(), "{text}").ok();
}

/// br_netfilter would drop crafted frames with a bad IP checksum before any daemon sees them.
fn disable_bridge_filter() -> Result<()> {
    for protocol in ["arptables", "iptables", "ip6tables"] {
        let path = format!("/proc/sys/net/bridge/bridge-nf-call-{protocol}");
        if Path::new(&path).exists() {
            fs::write(&path, "0").with_context(|| format!("write {path}"))?;
        }
    }
    Ok(())
}

fn port(index: usize) -> String {
    format!("p{index}")
}

fn mac(octet: u8) -> Mac {
    Mac([0x02, 0x00, 0x0a, 0x4d, 0x00, octet])
}

fn address(octet: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, octet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_counted_from_one() {
        let lab = Topology::attach("x", Path::new("/nonexistent"), 2).unwrap();
        assert_eq!(lab.node(1).unwrap().address, Ipv4Addr::new(10, 77, 0, 1));
        assert_eq!(lab.node(2).unwrap().namespace.name(), "x-n2");
        assert!(lab.node(0).is_err());
        assert!(lab.node(3).is_err());
        assert_eq!(lab.node_of(mac(2)).unwrap().index, 2);
        assert!(lab.node_of(mac(9)).is_none());
    }

    #[test]
    fn hosts_stand_beside_the_nodes() {
        let shape = Shape::with_hosts(2, &["c1", "cl"]);
        let lab = Topology::attach("x", Path::new("/nonexistent"), shape).unwrap();
        let client = lab.host("cl").unwrap();
        assert_eq!(client.address, Ipv4Addr::new(10, 77, 0, 102));
        assert_eq!(client.namespace.name(), "x-cl");
        assert!(lab.node_of(client.mac).is_none());
        assert!(lab.host("c2").is_err());
    }

    #[test]
    fn the_number_of_nodes_is_bounded() {
        for nodes in [0, 100] {
            assert!(Topology::attach("x", Path::new("/nonexistent"), nodes).is_err());
        }
    }
}
