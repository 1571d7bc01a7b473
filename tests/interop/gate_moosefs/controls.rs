//! The judges are judged: without a gate, what they look for is there.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use mfs_ha_lab::VIP;
use mfs_ha_lab::judge::connects::{CONNECT_INTERVAL, ConnectProber};
use mfs_ha_lab::oracle::trial::{Fault, inflict};
use mfs_ha_lab::serial;
use mfs_ha_lab::software::mfsha::set_key;
use mfs_ha_lab::software::moosefs::CLIENT_PORT;
use mfs_ha_lab::software::moosefs::cluster::{Cluster, SETTLE};
use mfs_ha_lab::wait::{observe_for, wait_until};

use super::remains::{speak_up, wait_known};
use super::watch::{ASKERS, connects_to, wait_granted};
use super::{LEASE, cluster};

/// How long the old master is asked beside the new one.
const BESIDE: Duration = Duration::from_secs(1);

#[test]
fn without_a_gate_a_former_master_serves_on() {
    let _serial = serial();
    let mut cluster = cluster(take_gates_away);
    let old = cluster.wait_serving(SETTLE).unwrap();
    let place = cluster.node(old).unwrap().clone();
    let topology = cluster.arena().topology();
    let [asker, neutral] = ASKERS.map(|name| topology.host(name).unwrap().clone());
    let target = SocketAddrV4::new(VIP, CLIENT_PORT);
    let outside = connects_to(&asker.namespace, &place);
    let inside = ConnectProber::start(&place.namespace, target, CONNECT_INTERVAL).unwrap();
    let begin = Instant::now();
    for prober in [&outside, &inside] {
        wait_granted(prober, begin, 1);
    }

    let strike = inflict(&mut cluster, Fault::DaemonFreeze).unwrap();
    let end = strike.done + LEASE;
    wait_until("the new master to take clients", SETTLE, || {
        let ports = cluster.ports();
        ports.look(|log| log.first_accept(end, |mac| mac != place.mac))
    })
    .unwrap();
    observe_for(BESIDE).unwrap();
    for (what, prober) in [("outside", &outside), ("inside", &inside)] {
        let granted = prober.look(|log| log.granted(end, Instant::now()).len());
        let granted = granted.unwrap();
        println!("{what}: {granted} granted after the lease");
        assert!(granted > 0);
    }
    speak_up(&place.namespace, neutral.address).unwrap();
    wait_known(&neutral.namespace, place.mac);
}

fn take_gates_away(cluster: &Cluster) {
    for node in cluster.arena().topology().nodes() {
        set_key(&cluster.configuration(node.index), "gate", "off").unwrap();
    }
}
