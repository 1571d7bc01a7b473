//! The gate of a former master, with real MooseFS: the daemon frozen or killed, the whole node frozen, the node cut
//! off. Address and mfsmaster are still there, clients ask for them, and nothing gets in or out after the lease.
//!
//! `MFS_HA_LONG=1` runs the cases that are left out of the ordinary suite for their time.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper of a test fails as the test does, with its line, and prints its figures"
)]

#[path = "gate_moosefs/controls.rs"]
mod controls;
#[path = "gate_moosefs/remains.rs"]
mod remains;
#[path = "gate_moosefs/watch.rs"]
mod watch;

use std::time::{Duration, Instant};

use mfs_ha_lab::VIP;
use mfs_ha_lab::net::addresses::holds;
use mfs_ha_lab::net::topology::Shape;
use mfs_ha_lab::oracle::client::ClientOptions;
use mfs_ha_lab::oracle::report::Report;
use mfs_ha_lab::oracle::trial::{Fault, Patience, Strike, audit, inflict, observe, restore};
use mfs_ha_lab::serial;
use mfs_ha_lab::software::mfsha::QuorumTiming;
use mfs_ha_lab::software::moosefs::cluster::{Cluster, SETTLE};
use mfs_ha_lab::software::moosefs::{CHUNKSERVERS, CLIENT, Mode};
use mfs_ha_lab::wait::{observe_for, wait_until};
use nix::unistd::Pid;

use self::watch::{ASKERS, Watch};

/// Far more than a failover may take; how fast it was is printed and compared elsewhere.
const PATIENCE: Patience = Patience {
    limit: Duration::from_secs(40),
    stragglers: Duration::from_secs(2),
};
/// A holder counts its lease from when it asked for it: one that stopped to ask has none left after this time.
const LEASE: Duration = Duration::from_millis(QuorumTiming::DEFAULT.lease_ms);
/// That of a cluster, and hosts that ask a former master.
const SHAPE: Shape = Shape::with_hosts(
    3,
    &[
        CHUNKSERVERS[0],
        CHUNKSERVERS[1],
        CLIENT,
        ASKERS[0],
        ASKERS[1],
    ],
);

/// What happens to the master.
struct Case {
    fault: Fault,
    /// For how long at least.
    lasts: Duration,
    /// Whether mfsmaster and address outlast the lease, because nobody takes them away.
    leaves_all: bool,
    /// Whether it is left to the long suite.
    is_long: bool,
}

const CASES: [Case; 8] = [
    Case {
        fault: Fault::DaemonFreeze,
        lasts: Duration::from_secs(10),
        leaves_all: true,
        is_long: false,
    },
    Case {
        fault: Fault::DaemonKill,
        lasts: Duration::from_secs(5),
        leaves_all: true,
        is_long: false,
    },
    Case {
        fault: Fault::NodeFreeze,
        lasts: Duration::from_secs(5),
        leaves_all: true,
        is_long: false,
    },
    Case {
        fault: Fault::Partition,
        lasts: Duration::from_secs(3),
        leaves_all: false,
        is_long: false,
    },
    Case {
        fault: Fault::Mute,
        lasts: Duration::from_secs(3),
        leaves_all: false,
        is_long: false,
    },
    Case {
        fault: Fault::OutboundCut,
        lasts: Duration::from_secs(3),
        leaves_all: false,
        is_long: false,
    },
    Case {
        fault: Fault::InboundCut,
        lasts: Duration::from_secs(3),
        leaves_all: false,
        is_long: true,
    },
    Case {
        fault: Fault::Deaf,
        lasts: Duration::from_secs(3),
        leaves_all: false,
        is_long: true,
    },
];

/// Three candidates and a client at work. `prepare` sees the nodes before their daemons start.
fn cluster(prepare: impl FnOnce(&Cluster)) -> Cluster {
    let mut cluster = Cluster::on(Mode::Quorum, SHAPE).unwrap();
    prepare(&cluster);
    cluster.start_all().unwrap();
    cluster.start_client(ClientOptions::default()).unwrap();
    cluster
}

/// Watches the client go on, and the fault for as long as it has to last.
fn outlast(cluster: &mut Cluster, fault: Fault, strike: Strike, lasts: Duration) -> Report {
    println!("{} on n{}", fault.name(), strike.node);
    let mut tell = |at: Duration, what: &str| println!("{:>8} ms  {what}", at.as_millis());
    let report = observe(cluster, fault, strike, PATIENCE, &mut tell).unwrap();
    observe_for(lasts.saturating_sub(strike.mark.at.elapsed())).unwrap();
    report
}

/// It is the gate alone that keeps the node in: what clients would reach is all there.
fn assert_all_is_left(cluster: &Cluster, node: usize, master: Pid) {
    let namespace = &cluster.node(node).unwrap().namespace;
    assert!(holds(namespace, VIP).unwrap());
    assert_eq!(cluster.master_pid(node).unwrap(), Some(master));
}

/// The node is a standby without anybody's help: nothing of the former master runs, or lies where it worked.
fn assert_clean_standby(cluster: &Cluster, node: usize) {
    let arena = cluster.arena();
    arena.wait_vip(node, false, SETTLE).unwrap();
    assert_eq!(cluster.master_pid(node).unwrap(), None);
    wait_until("the metalogger of the standby", SETTLE, || {
        cluster.metalogger_pid(node)
    })
    .unwrap();
    let files = std::fs::read_dir(&cluster.files(node).unwrap().data).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let of_a_master =
        |name: &String| name.starts_with("metadata.") || name.starts_with("changelog.");
    let left: Vec<String> = names.filter(of_a_master).collect();
    assert_eq!(left, Vec::<String>::new(), "n{node}");
}

/// Brings the node back, and judges the whole.
fn conclude(cluster: &mut Cluster, fault: Fault, strike: Strike, mut report: Report) {
    restore(cluster, fault, strike.node).unwrap();
    report.t_back = Some(strike.mark.at.elapsed().as_secs_f64());
    assert_clean_standby(cluster, strike.node);
    audit(cluster, &mut report, strike.mark).unwrap();
    println!("{}", serde_json::to_string(&report).unwrap());
    assert_eq!(report.problems(), Vec::<String>::new());
    assert_eq!((report.missing, report.wrong, report.unreadable), (0, 0, 0));
    assert_eq!((report.owners_max, report.servers_max), (1, 1));
    assert!(report.client_went_on());
    assert_eq!(report.client_errors, 0);
    assert_ne!(report.winner.as_ref(), Some(&report.failed));
    let arena = cluster.arena();
    let finding = arena.judge(strike.mark.at, Instant::now()).unwrap();
    println!("{}, with the way back: {finding}", fault.name());
    assert_eq!((finding.owners_max, finding.moves), (1, 1));
}

fn kept_in(cluster: &mut Cluster, case: &Case) {
    let fault = case.fault;
    let old = cluster.wait_serving(SETTLE).unwrap();
    let watch = Watch::start(cluster, old);
    let master = cluster.master_pid(old).unwrap().unwrap();
    if fault == Fault::NodeFreeze {
        // A listener whose process is frozen holds a hundred connections, and would refuse the rest by itself.
        watch.pause();
    }
    let strike = inflict(cluster, fault).unwrap();
    assert_eq!(strike.node, old);
    let end = strike.done + LEASE;
    observe_for(end.saturating_duration_since(Instant::now())).unwrap();
    watch.resume();
    let report = outlast(cluster, fault, strike, case.lasts);
    let until = Instant::now();
    watch.assert_nothing_granted(cluster, strike, (end, until));
    if case.leaves_all {
        watch.assert_own_address_granted(end, until);
        assert_all_is_left(cluster, old, master);
    }
    conclude(cluster, fault, strike, report);
    watch.assert_one_owner(strike.mark.at);
}

#[test]
fn a_former_master_serves_nobody_after_its_lease() {
    let _serial = serial();
    let mut cluster = cluster(|_| ());
    let is_long = std::env::var_os("MFS_HA_LONG").is_some();
    for case in CASES.iter().filter(|case| is_long || !case.is_long) {
        kept_in(&mut cluster, case);
    }
    let audit = cluster.client().unwrap().audit().unwrap();
    println!("{} files acknowledged", audit.acked);
    assert_eq!(audit.missing, Vec::<String>::new());
    assert_eq!(audit.wrong, Vec::<String>::new());
    assert_eq!(audit.unreadable, Vec::<String>::new());
}
