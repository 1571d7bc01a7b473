//! What is left on a former master: clients on its own machine, and what it says by itself.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use mfs_ha_lab::VIP;
use mfs_ha_lab::judge::connects::{CONNECT_INTERVAL, ConnectProber};
use mfs_ha_lab::net::neighbours::{forget, known};
use mfs_ha_lab::net::netns::Namespace;
use mfs_ha_lab::net::packet::Mac;
use mfs_ha_lab::oracle::client::{Client, ClientOptions};
use mfs_ha_lab::oracle::record::Role;
use mfs_ha_lab::oracle::trial::{Fault, inflict};
use mfs_ha_lab::serial;
use mfs_ha_lab::software::moosefs::cluster::{Cluster, SETTLE};
use mfs_ha_lab::software::moosefs::{CLIENT, CLIENT_PORT};
use mfs_ha_lab::software::process::{Launch, Supervised};
use mfs_ha_lab::wait::wait_until;

use super::watch::{ASKERS, assert_none_granted, wait_granted};
use super::{LEASE, assert_all_is_left, cluster, conclude, outlast};

const FREEZE: Duration = Duration::from_secs(8);
/// From the master's answer to the client's record of it: many processes on a machine that others use as well. Two
/// writers whom the old master answers would not be quiet for that long.
const RECORD_DELAY: Duration = Duration::from_millis(500);
/// How long neighbours are looked at.
const LOOK: Duration = Duration::from_secs(3);
/// discard(9)
const DISCARD: u16 = 9;

#[test]
fn what_is_left_of_a_master_reaches_nobody() {
    let _serial = serial();
    let mut cluster = cluster(|_| ());
    neighbours_stay(&mut cluster);
    local_clients_stop(&mut cluster);
}

/// Questions, announcements and packets of the old master do not draw its neighbours back to it.
fn neighbours_stay(cluster: &mut Cluster) {
    let old = cluster.wait_serving(SETTLE).unwrap();
    let place = cluster.node(old).unwrap().clone();
    let topology = cluster.arena().topology();
    let directory = topology.directory().to_owned();
    let hosts = [CLIENT, ASKERS[0]].map(|name| topology.host(name).unwrap().clone());
    let [_, neutral] = &hosts;

    // While it serves, the same makes the VIP known to a host that has not asked.
    forget(&neutral.namespace).unwrap();
    assert_eq!(known(&neutral.namespace, VIP).unwrap(), None);
    let begin = Instant::now();
    speak_up(&place.namespace, neutral.address).unwrap();
    wait_known(&neutral.namespace, place.mac);
    assert!(claims(cluster, place.mac, begin, Instant::now()) > 0);

    let strike = inflict(cluster, Fault::DaemonFreeze).unwrap();
    let master = cluster.master_pid(old).unwrap().unwrap();
    let report = outlast(cluster, Fault::DaemonFreeze, strike, Duration::ZERO);
    let winner = report.winner.as_ref().unwrap();
    let winner = winner.trim_start_matches('n').parse().unwrap();
    let winner = cluster.node(winner).unwrap().mac;
    for host in &hosts {
        wait_known(&host.namespace, winner);
    }
    let _announcements = announce(&place.namespace, &directory);
    let (begin, mut looks) = (Instant::now(), 0);
    while begin.elapsed() < LOOK {
        for host in &hosts {
            speak_up(&place.namespace, host.address).unwrap();
            let known = known(&host.namespace, VIP).unwrap();
            assert_eq!(known, Some(winner.to_string()), "{}", host.name);
        }
        looks += 1;
    }
    let (end, until) = (strike.done + LEASE, Instant::now());
    println!("neighbours: {looks} looks, all at the new master");
    assert_eq!(claims(cluster, place.mac, end, until), 0);
    assert_all_is_left(cluster, old, master);
    conclude(cluster, Fault::DaemonFreeze, strike, report);
}

/// Has a node send from the VIP to a host that it has to ask for first.
pub(super) fn speak_up(node: &Namespace, to: Ipv4Addr) -> Result<()> {
    forget(node)?;
    node.enter(|| {
        let socket = UdpSocket::bind((VIP, 0))?;
        socket.send_to(b"from the VIP", (to, DISCARD))?;
        Ok(())
    })
}

/// Has a node announce the VIP, a second apart, as long as neighbours are looked at.
fn announce(node: &Namespace, directory: &Path) -> Supervised {
    let count = LOOK.as_secs().to_string();
    Launch::new("arping", &directory.join("arping.log"), "arping")
        .args(["-q", "-U", "-c", &count, "-I", "eth0", &VIP.to_string()])
        .inside(node)
        .spawn()
        .unwrap()
}

/// How often a node claimed the VIP before all, unasked.
fn claims(cluster: &Cluster, node: Mac, from: Instant, to: Instant) -> usize {
    let prober = cluster.arena().prober();
    prober
        .look(|seen| {
            let of_node = seen.announcements.iter().filter(|claim| claim.mac == node);
            of_node
                .filter(|claim| claim.at >= from && claim.at <= to)
                .count()
        })
        .unwrap()
}

pub(super) fn wait_known(namespace: &Namespace, mac: Mac) {
    let what = format!("{} to know the VIP at {mac}", namespace.name());
    wait_until(&what, SETTLE, || {
        let known = known(namespace, VIP)?;
        Ok((known == Some(mac.to_string())).then_some(()))
    })
    .unwrap();
}

/// The VIP is an address of the machine itself: what asks for it there never leaves it.
fn local_clients_stop(cluster: &mut Cluster) {
    let old = cluster.wait_serving(SETTLE).unwrap();
    let namespace = cluster.node(old).unwrap().namespace.clone();
    let home = cluster.arena().topology().directory().join("local");
    let options = ClientOptions {
        writers: 2,
        readers: 1,
    };
    let mut local = Client::start_in(&namespace, &home, options).unwrap();
    local.wait_acked(20, SETTLE).unwrap();
    let target = SocketAddrV4::new(VIP, CLIENT_PORT);
    let connects = ConnectProber::start(&namespace, target, CONNECT_INTERVAL).unwrap();
    wait_granted(&connects, Instant::now(), 20);
    let master = cluster.master_pid(old).unwrap().unwrap();

    let strike = inflict(cluster, Fault::DaemonFreeze).unwrap();
    let end = strike.done + LEASE;
    let report = outlast(cluster, Fault::DaemonFreeze, strike, FREEZE);
    let until = Instant::now();
    assert_none_granted("on the node itself", &connects, strike, (end, until));
    // When the address has gone, the same connects reach the new master.
    drop(connects);
    let done = local.history().unwrap().done(Role::Writer);
    let last = done.last().unwrap().at;
    println!(
        "the mount on the node itself: last write {:?} after the fault",
        last.saturating_duration_since(strike.mark.at)
    );
    assert!(last <= end + RECORD_DELAY);
    assert_all_is_left(cluster, old, master);

    conclude(cluster, Fault::DaemonFreeze, strike, report);
    local.wait_acked(20, SETTLE).unwrap();
    println!("it goes on {:?} after the fault", strike.mark.at.elapsed());
    let audit = local.audit().unwrap();
    assert_eq!(audit.missing, Vec::<String>::new());
    assert_eq!(audit.wrong, Vec::<String>::new());
    assert_eq!(audit.unreadable, Vec::<String>::new());
}
