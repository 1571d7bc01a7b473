//! The oracle is judged: with real MooseFS whose master is started and killed by hand, without mfs-ha.
#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails as the test does, with its line"
)]

use std::time::{Duration, Instant};

use mfs_ha_lab::oracle::client::ClientOptions;
use mfs_ha_lab::oracle::trial::{Fault, Mark, Patience, Strike, audit, observe};
use mfs_ha_lab::serial;
use mfs_ha_lab::software::moosefs::Mode;
use mfs_ha_lab::software::moosefs::cluster::{Cluster, SETTLE};
use mfs_ha_lab::software::moosefs::node::kill_master;
use mfs_ha_lab::wait::observe_for;

const PATIENCE: Patience = Patience {
    limit: Duration::from_secs(20),
    stragglers: Duration::from_secs(2),
};

/// One master on n1, chunkservers and a client at work.
fn one_master() -> Cluster {
    let mut cluster = Cluster::new(Mode::Carp).unwrap();
    cluster.start_master_by_hand(1).unwrap();
    assert_eq!(cluster.wait_serving(SETTLE).unwrap(), 1);
    cluster.wait_chunkservers(1, SETTLE).unwrap();
    cluster.start_client(ClientOptions::default()).unwrap();
    cluster
}

#[test]
fn a_client_goes_on_after_a_crash_and_nothing_is_lost() {
    let _serial = serial();
    let mut cluster = one_master();
    cluster.client().unwrap().wait_acked(50, SETTLE).unwrap();
    let mark = Mark::now().unwrap();
    kill_master(cluster.node(1).unwrap(), cluster.files(1).unwrap()).unwrap();
    let strike = Strike {
        node: 1,
        mark,
        done: Instant::now(),
    };
    assert_eq!(cluster.master_pid(1).unwrap(), None);
    cluster.start_master_by_hand(1).unwrap();
    let mut told = Vec::new();
    let mut report = observe(
        &mut cluster,
        Fault::MasterCrash,
        strike,
        PATIENCE,
        &mut |at, what| told.push(format!("{at:?} {what}")),
    )
    .unwrap();
    audit(&mut cluster, &mut report, mark).unwrap();
    println!("{}", serde_json::to_string_pretty(&report).unwrap());
    println!("{told:#?}");
    assert_eq!(report.problems(), Vec::<String>::new());
    assert_eq!(report.winner.as_deref(), Some("n1"));
    assert_eq!((report.owners_max, report.servers_max), (1, 1));
    assert!(report.acked >= 50);
    // The port was closed until the new master listened, and only then an operation can have ended.
    assert!(report.t_listen.unwrap() > 0.05);
    assert!(report.t_write.unwrap() > report.t_listen.unwrap());
    assert_eq!((report.t_detect, report.t_vip), (None, None));
    // The client was really held up, and says so.
    assert!(report.write_gap_s >= report.t_listen.unwrap() * 0.9);
    assert!(told.iter().any(|line| line.contains("next write")));
}

#[test]
fn what_is_lost_or_changed_is_found() {
    let _serial = serial();
    let mut cluster = one_master();
    let client = cluster.client().unwrap();
    client.wait_acked(30, SETTLE).unwrap();
    let clean = client.audit().unwrap();
    assert!(clean.acked >= 30);
    assert!(clean.missing.is_empty() && clean.wrong.is_empty() && clean.unreadable.is_empty());

    let names = client.acknowledged().unwrap();
    let (lost, changed) = (&names[0], &names[1]);
    client.run(&["rm", &format!("{{}}/{lost}")]).unwrap();
    client
        .run(&["sh", "-c", &format!("echo other > {{}}/{changed}")])
        .unwrap();
    let found = client.audit().unwrap();
    assert_eq!(found.missing, [lost.as_str()]);
    assert_eq!(found.wrong, [changed.as_str()]);
    assert!(found.unreadable.is_empty(), "{:?}", found.unreadable);
    assert!(found.acked > clean.acked);
}

#[test]
fn two_masters_are_two_owners_and_two_servers() {
    let _serial = serial();
    let mut cluster = one_master();
    let first = cluster.files(1).unwrap().data.clone();
    let second = cluster.files(2).unwrap().data.clone();
    let mark = Mark::now().unwrap();
    // The image that the first master loaded, and what changed since: a second history begins here.
    let copy = format!(
        "cp -p {0}/metadata.mfs.back {0}/changelog.0.mfs {1}/",
        first.display(),
        second.display()
    );
    let place = &cluster.node(2).unwrap().namespace;
    place.run("sh", &["-c", &copy]).unwrap();
    cluster.start_master_by_hand(2).unwrap();
    observe_for(Duration::from_millis(500)).unwrap();
    let strike = Strike {
        node: 1,
        mark,
        done: mark.at,
    };
    let report = observe(
        &mut cluster,
        Fault::DaemonKill,
        strike,
        Patience {
            limit: Duration::from_secs(5),
            stragglers: Duration::ZERO,
        },
        &mut |_, _| {},
    )
    .unwrap();
    println!("{}", serde_json::to_string_pretty(&report).unwrap());
    assert_eq!((report.owners_max, report.servers_max), (2, 2));
    assert!(report.two_owners_s > 0.4);
    assert_eq!(report.winner.as_deref(), Some("n2"));
    assert!(report.t_vip.is_some() && report.t_listen.is_some());
    assert!(report.problems().iter().any(|line| line.contains("owned")));
}
