//! Three nodes with mfs-ha in charge of real MooseFS, a client at work, and the ways in which the serving node
//! can fail or leave. Nothing that was acknowledged may be lost, and the client must go on.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper of a test fails as the test does, with its line, and prints its figures"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use mfs_ha_lab::oracle::client::ClientOptions;
use mfs_ha_lab::oracle::figures::table;
use mfs_ha_lab::oracle::report::Report;
use mfs_ha_lab::oracle::trial::{Fault, Patience, Strike, complete, strike};
use mfs_ha_lab::serial;
use mfs_ha_lab::software::moosefs::Mode;
use mfs_ha_lab::software::moosefs::cluster::{Cluster, SETTLE};

/// Far more than a failover may take; how fast it was is printed and compared elsewhere.
const PATIENCE: Patience = Patience {
    limit: Duration::from_secs(30),
    stragglers: Duration::from_secs(3),
};

/// So many runs in the ordinary suite, or in the long one.
fn runs(short: usize, long: usize) -> usize {
    if std::env::var_os("MFS_HA_LONG").is_some() {
        long
    } else {
        short
    }
}

/// A segment at work.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new(Mode::Carp).unwrap();
    cluster.start_all().unwrap();
    cluster.start_client(ClientOptions::default()).unwrap();
    cluster
}

/// One failover; everything but the times is judged here.
fn fail(cluster: &mut Cluster, fault: Fault) -> Report {
    let report = complete(cluster, fault, PATIENCE, &mut |at, what| {
        println!("{:>8} ms  {what}", at.as_millis());
    })
    .unwrap();
    println!("{}", serde_json::to_string(&report).unwrap());
    assert_eq!(report.problems(), Vec::<String>::new());
    assert_eq!((report.missing, report.wrong, report.unreadable), (0, 0, 0));
    assert_eq!(report.owners_max, 1);
    assert_eq!(report.servers_max, 1);
    assert!(report.client_went_on());
    assert_eq!(report.client_errors, 0);
    report
}

/// The node that serves dies and stays dead.
fn fail_for_good(cluster: &mut Cluster) -> (Report, Strike) {
    let (report, strike) = strike(cluster, Fault::NodeDeath, PATIENCE, &mut |at, what| {
        println!("{:>8} ms  {what}", at.as_millis());
    })
    .unwrap();
    assert_eq!((report.owners_max, report.servers_max), (1, 1));
    assert!(report.client_went_on());
    (report, strike)
}

/// Everything that was ever acknowledged is there.
fn assert_nothing_lost(cluster: &mut Cluster) {
    let audit = cluster.client().unwrap().audit().unwrap();
    println!("{} files acknowledged", audit.acked);
    assert_eq!(audit.missing, Vec::<String>::new());
    assert_eq!(audit.wrong, Vec::<String>::new());
    assert_eq!(audit.unreadable, Vec::<String>::new());
    let history = cluster.client().unwrap().history().unwrap();
    assert_eq!((history.missing.len(), history.wrong.len()), (0, 0));
    assert_eq!(history.failures, []);
}

#[test]
fn the_serving_node_dies() {
    let _serial = serial();
    let mut cluster = cluster();
    let orders = [Fault::NodeDeath, Fault::NodeDeathLinkLast];
    let reports: Vec<Report> = orders
        .into_iter()
        .cycle()
        .take(runs(2, 10))
        .map(|order| fail(&mut cluster, order))
        .collect();
    println!("{}", table("node death", &reports));
    assert_nothing_lost(&mut cluster);
    assert!(
        reports
            .iter()
            .all(|report| report.winner.as_ref() != Some(&report.failed))
    );
}

#[test]
fn the_master_alone_crashes() {
    let _serial = serial();
    let mut cluster = cluster();
    let reports: Vec<Report> = (0..runs(2, 10))
        .map(|_| fail(&mut cluster, Fault::MasterCrash))
        .collect();
    println!("{}", table("crash of mfsmaster", &reports));
    assert_nothing_lost(&mut cluster);
}

#[test]
fn the_serving_node_is_asked_to_leave() {
    let _serial = serial();
    let mut cluster = cluster();
    let reports: Vec<Report> = (0..runs(2, 10))
        .map(|_| fail(&mut cluster, Fault::Graceful))
        .collect();
    println!("{}", table("graceful end", &reports));
    assert_nothing_lost(&mut cluster);
    assert!(
        reports
            .iter()
            .all(|report| report.winner.as_ref() != Some(&report.failed))
    );
}

/// The directories of a node that served before hold an older history beside what its metalogger adds: it must
/// serve again with the newest one.
#[test]
fn mastership_comes_back_to_where_it_began() {
    let _serial = serial();
    let mut cluster = cluster();
    for round in 1..=runs(1, 5) {
        let mut former = BTreeSet::new();
        let mut returns = 0;
        for death in 1..=3 {
            let report = fail(&mut cluster, Fault::NodeDeath);
            let winner = report.winner.unwrap();
            println!(
                "round {round}, death {death}: {} -> {winner}",
                report.failed
            );
            former.insert(report.failed);
            returns += usize::from(former.contains(&winner));
        }
        // The best backup takes over, and a node that is back is a backup.
        assert!(returns > 0, "nobody served a second time: {former:?}");
    }
    assert_nothing_lost(&mut cluster);
}

#[test]
fn the_last_node_serves_when_two_have_died() {
    let _serial = serial();
    let mut cluster = cluster();
    let mut dead = Vec::new();
    for _ in 0..2 {
        let (report, strike) = fail_for_good(&mut cluster);
        println!("{} -> {:?}", report.failed, report.winner);
        dead.push(strike.node);
    }
    let last = cluster.wait_serving(SETTLE).unwrap();
    assert!(!dead.contains(&last));
    assert_nothing_lost(&mut cluster);
    for node in dead {
        cluster.bring_back(node).unwrap();
    }
    assert_eq!(cluster.wait_serving(SETTLE).unwrap(), last);
    assert_nothing_lost(&mut cluster);
}

/// A killed metalogger leaves half a line, on which the next one would go on writing.
#[test]
fn a_standby_that_died_is_promoted_later() {
    let _serial = serial();
    let mut cluster = cluster();
    for _ in 0..runs(1, 5) {
        let serving = cluster.wait_serving(SETTLE).unwrap();
        let standbys: Vec<usize> = (1..=3).filter(|node| *node != serving).collect();
        cluster.client().unwrap().wait_acked(50, SETTLE).unwrap();
        for standby in &standbys {
            cluster.kill_node(*standby, false).unwrap();
        }
        cluster.client().unwrap().wait_acked(50, SETTLE).unwrap();
        for standby in &standbys {
            let status = cluster.bring_back(*standby).unwrap();
            println!("n{standby} is ready: {}", status["promotion"]);
            assert!(cluster.metalogger_pid(*standby).unwrap().is_some());
        }
        let report = fail(&mut cluster, Fault::NodeDeath);
        println!("{} -> {:?}", report.failed, report.winner);
    }
    assert_nothing_lost(&mut cluster);
}
