//! A busy machine is not a dead one: mfs-ha beside keepalived under hogs of the highest priority.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use mfs_ha_lab::scenario::Arena;
use mfs_ha_lab::software::keepalived::{Keepalived, KeepalivedOptions};
use mfs_ha_lab::software::load::Load;
use mfs_ha_lab::software::mfsha::{MfsHa, MfsHaOptions};
use mfs_ha_lab::trial::undisturbed;
use mfs_ha_lab::wait::observe_for;

const SETTLE: Duration = Duration::from_secs(15);
const NOISE: Duration = Duration::from_secs(60);
/// Coarser than usual: the judges shall not be the load.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// Both systems stand under the same load at the same time, each on a segment of its own.
#[test]
fn sixty_seconds_of_hogs_move_nothing() {
    undisturbed(|| {
        let ours = Arena::with_probe_interval(3, PROBE_INTERVAL).unwrap();
        let theirs = Arena::with_probe_interval(3, PROBE_INTERVAL).unwrap();
        let mut nodes: Vec<MfsHa> = [10, 20, 30]
            .iter()
            .zip(1..)
            .map(|(skew, node)| {
                let options = MfsHaOptions::with_timing(0, *skew);
                MfsHa::start(ours.topology(), node, &options).unwrap()
            })
            .collect();
        let mut incumbents: Vec<Keepalived> = (1..=3)
            .map(|node| {
                let options = KeepalivedOptions::with_interval(5);
                Keepalived::start(theirs.topology(), node, options).unwrap()
            })
            .collect();
        let steady = Duration::from_secs(2);
        let owner = ours.wait_steady_owner(steady, SETTLE).unwrap();
        theirs.wait_steady_owner(steady, SETTLE).unwrap();

        // That the hogs come and go is part of the noise.
        let begin = Instant::now();
        let mut load = Load::start(ours.topology().directory(), NOISE * 2).unwrap();
        observe_for(NOISE).unwrap();
        load.check_running().unwrap();
        load.end().unwrap();
        let end = Instant::now();

        let our_finding = ours.judge(begin, end).unwrap();
        let their_finding = theirs.judge(begin, end).unwrap();
        let source = ours.topology().node(owner).unwrap().address;
        println!(
            "mfs-ha at advbase 0, {:.1} s of load that comes and goes: {our_finding}; longest gap between adverts {:?}",
            (end - begin).as_secs_f64(),
            longest_advert_gap(&ours, source, begin, end)
        );
        println!("keepalived at 0.05 s, at the same time: {their_finding}");
        for daemon in &mut nodes {
            println!("transitions: {}", daemon.status().unwrap()["transitions"]);
            daemon.process().check_running().unwrap();
        }
        for daemon in &mut incumbents {
            daemon.process().check_running().unwrap();
        }
        assert_eq!(our_finding.moves, 0);
        assert_eq!(our_finding.owners_max, 1);
        assert_eq!(our_finding.address_overlap, Duration::ZERO);
        assert_eq!(ours.wait_single_owner(SETTLE).unwrap(), owner);
    });
}

#[expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails as the test does, with its line"
)]
fn longest_advert_gap(arena: &Arena, source: Ipv4Addr, from: Instant, to: Instant) -> Duration {
    let adverts = arena.sniffer().adverts_since(from).unwrap();
    let times: Vec<Instant> = [from]
        .into_iter()
        .chain(
            adverts
                .iter()
                .filter(|seen| seen.advert.source == source && seen.at <= to)
                .map(|seen| seen.at),
        )
        .chain([to])
        .collect();
    times
        .windows(2)
        .map(|pair| pair[1].saturating_duration_since(pair[0]))
        .max()
        .unwrap_or_default()
}
