//! Quorum mode in charge of real MooseFS, a client at work: deaths, partitions in every direction, restarts and the
//! loss of the majority. One node serves or none does, nothing acknowledged is lost, and the client goes on.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper of a test fails as the test does, with its line, and prints its figures"
)]

use std::time::{Duration, Instant};

use mfs_ha_lab::judge::histories::Held;
use mfs_ha_lab::net::topology::Traffic;
use mfs_ha_lab::oracle::client::ClientOptions;
use mfs_ha_lab::oracle::figures::table;
use mfs_ha_lab::oracle::record::Role;
use mfs_ha_lab::oracle::report::Report;
use mfs_ha_lab::oracle::trial::{Fault, Patience, audit, complete, strike};
use mfs_ha_lab::serial;
use mfs_ha_lab::software::mfsha::{QuorumTiming, WITNESS, text_at};
use mfs_ha_lab::software::moosefs::Mode;
use mfs_ha_lab::software::moosefs::cluster::{Cluster, SETTLE};
use mfs_ha_lab::wait::{observe_for, wait_until};

/// Far more than a failover may take; how fast it was is printed and compared elsewhere.
const PATIENCE: Patience = Patience {
    limit: Duration::from_secs(40),
    stragglers: Duration::from_secs(3),
};
const LEASE: Duration = Duration::from_millis(QuorumTiming::DEFAULT.lease_ms);
/// From the end of a lease to the VIP gone: 200 ms for mfsmaster to end, and a machine that others use as well.
const GIVE_WAY: Duration = Duration::from_millis(500);

fn is_long() -> bool {
    std::env::var_os("MFS_HA_LONG").is_some()
}

/// A segment at work.
fn cluster(mode: Mode) -> Cluster {
    let mut cluster = Cluster::new(mode).unwrap();
    cluster.start_all().unwrap();
    cluster.start_client(ClientOptions::default()).unwrap();
    cluster
}

fn tell(at: Duration, what: &str) {
    println!("{:>8} ms  {what}", at.as_millis());
}

fn assert_one_at_all_times(report: &Report) {
    assert_eq!(report.owners_max, 1);
    assert_eq!(report.servers_max, 1);
    assert!(report.client_went_on());
    assert_ne!(report.winner.as_ref(), Some(&report.failed));
}

/// One failover with nothing lost.
fn fail(cluster: &mut Cluster, fault: Fault) -> Report {
    let begin = Instant::now();
    let report = complete(cluster, fault, PATIENCE, &mut tell).unwrap();
    println!("{}", serde_json::to_string(&report).unwrap());
    assert_eq!(report.problems(), Vec::<String>::new());
    assert_eq!((report.missing, report.wrong, report.unreadable), (0, 0, 0));
    assert_one_at_all_times(&report);
    assert_eq!(report.client_errors, 0);
    let finding = cluster.arena().judge(begin, Instant::now()).unwrap();
    println!("{}, with the way back: {finding}", fault.name());
    assert_eq!((finding.owners_max, finding.moves), (1, 1));
    report
}

/// The master cannot be reached by those who vote: it gives way by itself when its lease ends, which is before
/// anybody else has one.
fn give_way(cluster: &mut Cluster, fault: Fault) {
    let old = cluster.wait_serving(SETTLE).unwrap();
    let begin = Instant::now();
    let report = fail(cluster, fault);
    let lost = cluster
        .arena()
        .addresses()
        .unwrap()
        .lost_by(old, begin)
        .unwrap();
    let cut = begin + cut_after(begin, &report, cluster);
    println!(
        "{}: n{old} gave way {:?} after the cut",
        fault.name(),
        lost - cut
    );
    assert!(lost - cut <= LEASE + GIVE_WAY);
}

/// When a failure began, told by when the new owner answered, which the report counts from there.
fn cut_after(begin: Instant, report: &Report, cluster: &Cluster) -> Duration {
    let winner: usize = report
        .winner
        .as_ref()
        .and_then(|name| name.strip_prefix('n')?.parse().ok())
        .unwrap();
    let mac = cluster.node(winner).unwrap().mac;
    let answer = cluster
        .arena()
        .prober()
        .look(|seen| seen.first_reply_by(mac, begin))
        .unwrap()
        .unwrap();
    let since_cut = Duration::from_secs_f64(report.t_vip.unwrap());
    (answer.at - begin).saturating_sub(since_cut)
}

/// Nothing that happens here may move anything.
fn assert_quiet(cluster: &mut Cluster, what: &str, work: impl FnOnce(&mut Cluster)) {
    let serving = cluster.wait_serving(SETTLE).unwrap();
    let begin = Instant::now();
    let before = cluster.daemon(serving).unwrap().transitions().unwrap();
    work(cluster);
    let finding = cluster.arena().judge(begin, Instant::now()).unwrap();
    println!("{what}: {finding}");
    assert_eq!((finding.owners_max, finding.moves), (1, 0));
    assert_eq!(cluster.wait_serving(SETTLE).unwrap(), serving);
    assert_eq!(
        cluster.daemon(serving).unwrap().transitions().unwrap(),
        before
    );
}

/// Ends the daemon of a node in good order and starts it again.
fn restart(cluster: &mut Cluster, node: usize) {
    cluster.daemon(node).unwrap().terminate(SETTLE).unwrap();
    cluster.start_node(node).unwrap();
}

fn standbys(cluster: &mut Cluster) -> (usize, Vec<usize>) {
    let serving = cluster.wait_serving(SETTLE).unwrap();
    let others = cluster.arena().topology().nodes().iter();
    let others = others.map(|node| node.index);
    (serving, others.filter(|node| *node != serving).collect())
}

/// Restarts the daemons of all who do not serve, which moves nothing, and then that of the one who does.
fn restart_each(cluster: &mut Cluster) {
    let (serving, others) = standbys(cluster);
    for node in others {
        assert_quiet(cluster, &format!("restart of n{node}"), |cluster| {
            restart(cluster, node);
            cluster.wait_ready(node, SETTLE).unwrap();
        });
    }
    let begin = Instant::now();
    restart(cluster, serving);
    cluster
        .arena()
        .wait_takeover(serving, begin, SETTLE)
        .unwrap();
    cluster.wait_all_ready(SETTLE).unwrap();
    let finding = cluster.arena().judge(begin, Instant::now()).unwrap();
    println!("restart of n{serving}, which served: {finding}");
    assert_eq!((finding.owners_max, finding.moves), (1, 1));
    assert_ne!(cluster.wait_serving(SETTLE).unwrap(), serving);
}

fn assert_nothing_lost(cluster: &mut Cluster) {
    let audit = cluster.client().unwrap().audit().unwrap();
    println!("{} files acknowledged", audit.acked);
    assert_eq!(audit.missing, Vec::<String>::new());
    assert_eq!(audit.wrong, Vec::<String>::new());
    assert_eq!(audit.unreadable, Vec::<String>::new());
}

/// The master reaches one of two others, which is a majority with itself.
fn cut_from_one(cluster: &mut Cluster) {
    let (serving, _) = standbys(cluster);
    let own = format!("n{serving}");
    for other in cluster.voters_beside(serving) {
        let what = format!("{own} cut off from {other}");
        assert_quiet(cluster, &what, |cluster| {
            let topology = cluster.arena().topology();
            topology
                .cut_both_ways(&own, &[&other], Traffic::All)
                .unwrap();
            observe_for(Duration::from_secs(3)).unwrap();
            topology.heal().unwrap();
            cluster.wait_all_ready(SETTLE).unwrap();
            wait_caught_up(cluster, serving);
        });
    }
}

/// Waits until all standbys have what the master has now. A stream that was cut for seconds is resumed seconds later
/// (TCP waits twice as long each time), and who lacks more than `max_lag` changes is not elected (rule L1e).
fn wait_caught_up(cluster: &Cluster, serving: usize) {
    let last = |node: usize| {
        Held::read(&cluster.files(node).unwrap().data)
            .unwrap()
            .last()
    };
    let nodes = cluster.arena().topology().nodes();
    let target = last(serving);
    wait_until("the standbys to have caught up", SETTLE, || {
        let has_caught_up = nodes.iter().all(|node| last(node.index) >= target);
        Ok(has_caught_up.then_some(()))
    })
    .unwrap();
}

/// What a master acknowledges that its standbys do not hear of is lost, and that is no more than its lease allows.
fn split_is_bounded(cluster: &mut Cluster) {
    let (mut report, strike) = strike(cluster, Fault::Split, PATIENCE, &mut tell).unwrap();
    assert_one_at_all_times(&report);
    let lost = cluster.arena().addresses().unwrap();
    let lost = lost.lost_by(strike.node, strike.mark.at).unwrap();
    cluster.arena().topology().heal().unwrap();
    cluster.wait_all_ready(SETTLE).unwrap();
    audit(cluster, &mut report, strike.mark).unwrap();
    let history = cluster.client().unwrap().history().unwrap();
    let done = history.done(Role::Writer).iter().map(|done| done.at);
    let acknowledged = done.filter(|at| *at >= strike.mark.at && *at <= lost);
    let bound = acknowledged.count();
    println!(
        "split: n{} gave way after {:?}; {} of {bound} files lost that it acknowledged until then",
        strike.node,
        lost - strike.mark.at,
        report.missing,
    );
    assert!(lost - strike.done <= LEASE + GIVE_WAY);
    assert!(report.missing <= bound);
    assert_eq!((report.wrong, report.unreadable), (0, 0));
}

/// Nobody serves without a majority, and says why; a voter that returns is enough.
fn minority_is_passive(cluster: &mut Cluster, mode: Mode) {
    let (serving, others) = standbys(cluster);
    let last = others[0];
    if mode == Mode::Witness {
        cluster.witness().unwrap().kill().unwrap();
    }
    for node in others.iter().skip(1) {
        cluster.kill_node(*node, false).unwrap();
    }
    observe_for(Duration::from_secs(2)).unwrap();
    let begin = Instant::now();
    cluster.kill_node(serving, false).unwrap();
    let status = cluster
        .daemon(last)
        .unwrap()
        .wait_status("no majority", SETTLE, |status| {
            status["cluster"]["lease"]["obstacle"] == "no_majority"
        })
        .unwrap();
    println!("n{last}, alone: {}", status["cluster"]["lease"]);
    observe_for(Duration::from_secs(5)).unwrap();
    cluster.arena().wait_no_owner(SETTLE).unwrap();
    let state = cluster.daemon(last).unwrap().status().unwrap();
    assert_eq!(text_at(&state, "/state").unwrap(), "backup");
    let finding = cluster.arena().judge(begin, Instant::now()).unwrap();
    assert_eq!(finding.moves, 0);

    // The witness knows nothing of metadata: its vote is enough. So is that of a candidate.
    let back = if mode == Mode::Witness {
        cluster.start_witness().unwrap();
        WITNESS.to_owned()
    } else {
        cluster.start_node(others[1]).unwrap();
        cluster.arena().topology().port_up(others[1]).unwrap();
        format!("n{}", others[1])
    };
    let serves = cluster.wait_serving(SETTLE).unwrap();
    println!("{back} is back, n{serves} serves");
    assert_eq!(serves, last);
    assert_nothing_lost(cluster);
}

#[test]
fn three_candidates_fail_over_and_nothing_is_lost() {
    let _serial = serial();
    let mut cluster = cluster(Mode::Quorum);
    let deaths: Vec<Report> = [Fault::NodeDeath, Fault::NodeDeathLinkLast]
        .into_iter()
        .cycle()
        .take(if is_long() { 6 } else { 1 })
        .map(|fault| fail(&mut cluster, fault))
        .collect();
    println!("{}", table("node death, three candidates", &deaths));
    restart_each(&mut cluster);
    fail(&mut cluster, Fault::Graceful);
    assert_nothing_lost(&mut cluster);
}

#[test]
fn a_master_that_is_cut_off_gives_way_by_itself() {
    let _serial = serial();
    let mut cluster = cluster(Mode::Quorum);
    cut_from_one(&mut cluster);
    give_way(&mut cluster, Fault::Partition);
    give_way(&mut cluster, Fault::Mute);
    if is_long() {
        give_way(&mut cluster, Fault::Deaf);
        minority_is_passive(&mut cluster, Mode::Quorum);
    } else {
        assert_nothing_lost(&mut cluster);
    }
}

#[test]
fn two_candidates_and_a_witness_fail_over_and_nothing_is_lost() {
    let _serial = serial();
    let mut cluster = cluster(Mode::Witness);
    let deaths: Vec<Report> = (0..if is_long() { 4 } else { 1 })
        .map(|_| fail(&mut cluster, Fault::NodeDeath))
        .collect();
    println!(
        "{}",
        table("node death, two candidates and a witness", &deaths)
    );
    assert_quiet(&mut cluster, "restart of the witness", |cluster| {
        cluster.witness().unwrap().terminate(SETTLE).unwrap();
        cluster.start_witness().unwrap();
        cluster.wait_all_ready(SETTLE).unwrap();
    });
    if is_long() {
        cut_from_one(&mut cluster);
        restart_each(&mut cluster);
        give_way(&mut cluster, Fault::Partition);
    }
    minority_is_passive(&mut cluster, Mode::Witness);
}

#[test]
fn clients_that_reach_a_master_without_voters_lose_no_more_than_its_lease() {
    let _serial = serial();
    for _ in 0..if is_long() { 3 } else { 1 } {
        // Each on a file system of its own: readers go on asking for what the one before has lost.
        split_is_bounded(&mut cluster(Mode::Quorum));
    }
}
