//! Two hosts that ask one node for the VIP, by its Ethernet address, whoever has the VIP.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use mfs_ha_lab::VIP;
use mfs_ha_lab::judge::connects::{CONNECT_INTERVAL, ConnectLog, ConnectProber};
use mfs_ha_lab::judge::prober::{PROBE_INTERVAL, Prober};
use mfs_ha_lab::net::neighbours::pin;
use mfs_ha_lab::net::netns::Namespace;
use mfs_ha_lab::net::packet::Mac;
use mfs_ha_lab::net::topology::Node;
use mfs_ha_lab::oracle::trial::Strike;
use mfs_ha_lab::software::moosefs::CLIENT_PORT;
use mfs_ha_lab::software::moosefs::cluster::{Cluster, SETTLE};
use mfs_ha_lab::wait::wait_until;

/// The hosts.
pub(crate) const ASKERS: [&str; 2] = ["k1", "k2"];
/// As seldom as this the node is asked by its own address: a listener that is frozen must not overflow.
const OWN_ADDRESS_INTERVAL: Duration = Duration::from_millis(200);
/// So many connections are granted to each host while the node serves: later silence means something.
const WARM_UP: usize = 20;

/// Everybody who asks; they stop when this is dropped.
pub(crate) struct Watch {
    node: Mac,
    connects: Vec<ConnectProber>,
    /// The same mfsmaster by an address that no gate guards.
    own_address: ConnectProber,
    /// The owners, from a second host.
    owners: Prober,
}

impl Watch {
    /// Starts to ask `node`, which serves, and waits until it has granted connections to everybody.
    pub(crate) fn start(cluster: &Cluster, node: usize) -> Self {
        let node = cluster.node(node).unwrap();
        let topology = cluster.arena().topology();
        let hosts = ASKERS.map(|name| &topology.host(name).unwrap().namespace);
        let [first, _] = hosts;
        let own_address = SocketAddrV4::new(node.address, CLIENT_PORT);
        let watch = Self {
            node: node.mac,
            connects: hosts.map(|host| connects_to(host, node)).into(),
            own_address: ConnectProber::start(first, own_address, OWN_ADDRESS_INTERVAL).unwrap(),
            owners: Prober::start(first, PROBE_INTERVAL).unwrap(),
        };
        let begin = Instant::now();
        for prober in &watch.connects {
            wait_granted(prober, begin, WARM_UP);
        }
        wait_granted(&watch.own_address, begin, 1);
        watch
    }

    /// Asks no more for the VIP.
    pub(crate) fn pause(&self) {
        self.connects.iter().for_each(ConnectProber::pause);
    }

    /// Asks again.
    pub(crate) fn resume(&self) {
        self.connects.iter().for_each(ConnectProber::resume);
    }

    /// No connection that was asked for after the end of the lease is granted, to whomever.
    pub(crate) fn assert_nothing_granted(
        &self,
        cluster: &Cluster,
        strike: Strike,
        (end, until): (Instant, Instant),
    ) {
        for (host, prober) in ASKERS.iter().zip(&self.connects) {
            assert_none_granted(&format!("from {host}"), prober, strike, (end, until));
        }
        let ports = cluster.ports();
        let grant = ports.look(|log| log.first_accept(end, |mac| mac == self.node));
        assert_eq!(grant.unwrap(), None);
    }

    /// mfsmaster is there all the while.
    pub(crate) fn assert_own_address_granted(&self, from: Instant, to: Instant) {
        let granted = |log: &ConnectLog| log.granted(from, to).len();
        let granted = self.own_address.look(granted).unwrap();
        println!("by its own address: {granted} granted after the lease");
        assert!(granted > 0);
    }

    /// What the second host's questions have shown since a time.
    pub(crate) fn assert_one_owner(&self, from: Instant) {
        let to = Instant::now();
        let seen = self.owners.look(|seen| {
            let asked = seen.probes.iter().filter(|at| **at >= from).count();
            assert_often(asked, PROBE_INTERVAL, to - from);
            assert!(!seen.owners(from, to).is_empty());
            seen.owners_max(from, to)
        });
        assert_eq!(seen.unwrap(), 1);
    }
}

/// Connects from a host to the VIP, where that is taken to be on a node for good.
pub(crate) fn connects_to(host: &Namespace, node: &Node) -> ConnectProber {
    pin(host, VIP, node.mac).unwrap();
    let target = SocketAddrV4::new(VIP, CLIENT_PORT);
    ConnectProber::start(host, target, CONNECT_INTERVAL).unwrap()
}

/// Silence proves nothing where nobody asked.
fn assert_often(asked: usize, interval: Duration, span: Duration) {
    let due = span.as_nanos() / interval.as_nanos();
    assert!(
        u128::try_from(asked).unwrap() * 2 >= due,
        "asked {asked} of {due} times: the machine was too busy to judge"
    );
}

/// Waits until a prober has been granted so many connections.
pub(crate) fn wait_granted(prober: &ConnectProber, begin: Instant, count: usize) {
    wait_until("connections while the node serves", SETTLE, || {
        let granted = prober.look(|log| log.granted(begin, Instant::now()).len())?;
        Ok((granted >= count).then_some(()))
    })
    .unwrap();
}

/// Asserts that a prober asked from the end of the lease on, and was granted nothing.
pub(crate) fn assert_none_granted(
    what: &str,
    prober: &ConnectProber,
    strike: Strike,
    (end, until): (Instant, Instant),
) {
    prober
        .look(|log| {
            let attempts = log.attempts(end, until);
            let since = log.granted(strike.mark.at, until);
            let last = since.last().map(|grant| grant.at - strike.mark.at);
            println!(
                "{what}: last grant {last:?} after the fault, {attempts} asked after the lease"
            );
            assert_eq!(log.granted(end, until), []);
            assert_often(attempts, CONNECT_INTERVAL, until - end);
        })
        .unwrap();
}
