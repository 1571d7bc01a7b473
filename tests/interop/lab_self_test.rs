//! The judges are judged: with ucarp and with addresses set by hand, whose behaviour is known.
#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails as the test does, with its line"
)]

use std::panic::catch_unwind;
use std::thread;
use std::time::{Duration, Instant};

use mfs_ha_lab::judge::prober::PROBE_INTERVAL;
use mfs_ha_lab::net::addresses::holds;
use mfs_ha_lab::net::packet::{EtherType, PacketSocket};
use mfs_ha_lab::scenario::Arena;
use mfs_ha_lab::software::keepalived::{Keepalived, KeepalivedOptions};
use mfs_ha_lab::software::load::Load;
use mfs_ha_lab::software::ucarp::{Ucarp, UcarpOptions, UcarpState};
use mfs_ha_lab::trial::undisturbed;
use mfs_ha_lab::wait::{observe_for, wait_until};
use mfs_ha_lab::{VIP, judge::wire::Advert};

const SETTLE: Duration = Duration::from_secs(12);

/// Two ucarps; the better one starts first, so that it is the master.
fn two_ucarps(arena: &Arena) -> (Ucarp, Ucarp) {
    let topology = arena.topology();
    let mut master = Ucarp::start(topology, 1, &UcarpOptions::with_skew(0)).unwrap();
    master.wait_state(UcarpState::Master, SETTLE).unwrap();
    arena.wait_owner(1, SETTLE).unwrap();
    let mut backup = Ucarp::start(topology, 2, &UcarpOptions::with_skew(20)).unwrap();
    backup.wait_state(UcarpState::Backup, SETTLE).unwrap();
    (master, backup)
}

#[test]
fn ucarp_fails_over_in_its_known_time() {
    undisturbed(|| {
        let arena = Arena::new(2).unwrap();
        let (_master, mut backup) = two_ucarps(&arena);
        let settled = Instant::now();
        observe_for(Duration::from_secs(4)).unwrap();
        let calm = arena.judge(settled, Instant::now()).unwrap();
        println!("two ucarps at rest: {calm}");
        assert_eq!((calm.owners_max, calm.moves), (1, 0));
        assert!(calm.longest_gap < Duration::from_millis(100));

        let failed_at = arena.fail_node(1).unwrap();
        let takeover = arena.wait_takeover(1, failed_at, SETTLE).unwrap();
        arena.wait_owner(2, SETTLE).unwrap();
        let finding = arena.judge(failed_at, Instant::now()).unwrap();
        println!(
            "ucarp, master dead: VIP after {:?}, first answer after {:?}; {finding}",
            takeover.vip_after, takeover.answered_after
        );
        assert_eq!(takeover.node, 2);
        let answered_ms = takeover.answered_after.as_millis();
        assert!((2300..=4600).contains(&answered_ms), "{answered_ms} ms");
        let vip_after = takeover.vip_after.unwrap();
        assert!(vip_after <= takeover.answered_after + Duration::from_millis(5));
        assert!(takeover.answered_after - vip_after < Duration::from_millis(200));
        assert_eq!(finding.owners_max, 1);
        assert_eq!(backup.state().unwrap(), Some(UcarpState::Master));

        // The dead node still has its address: reachable again, it makes two owners, and the judge says so.
        assert!(holds(&arena.topology().node(1).unwrap().namespace, VIP).unwrap());
        let two = Instant::now();
        arena.topology().port_up(1).unwrap();
        wait_until("two owners", SETTLE, || {
            Ok((arena.judge(two, Instant::now())?.owners_max == 2).then_some(()))
        })
        .unwrap();
        arena.topology().remove_vip(1).unwrap();
        arena.wait_owner(2, SETTLE).unwrap();
        backup.terminate().unwrap();
        arena.wait_no_owner(SETTLE).unwrap();
    });
}

#[test]
fn keepalived_fails_over_in_its_known_time() {
    undisturbed(|| {
        let arena = Arena::new(2).unwrap();
        let mut daemons = [1, 2].map(|node| {
            Keepalived::start(arena.topology(), node, KeepalivedOptions::with_interval(5)).unwrap()
        });
        arena.wait_owner(1, SETTLE).unwrap();
        arena
            .wait_steady_owner(Duration::from_secs(1), SETTLE)
            .unwrap();
        daemons[1].process().check_running().unwrap();
        let failed_at = arena.fail_node(1).unwrap();
        let takeover = arena.wait_takeover(1, failed_at, SETTLE).unwrap();
        println!(
            "keepalived at 0.05 s, master dead: VIP after {:?}, first answer after {:?}",
            takeover.vip_after, takeover.answered_after
        );
        assert_eq!(takeover.node, 2);
        let answered_ms = takeover.answered_after.as_millis();
        assert!((80..=500).contains(&answered_ms), "{answered_ms} ms");
    });
}

/// Gives the VIP to a node by hand (`add`), or takes it (`del`).
fn set_vip(arena: &Arena, node: usize, verb: &str) {
    let vip = format!("{VIP}/24");
    let node = arena.topology().node(node).unwrap();
    let words = ["addr", verb, &vip, "dev", "eth0"];
    node.namespace.run("ip", &words).unwrap();
}

#[test]
fn two_holders_are_two_owners() {
    undisturbed(|| {
        let arena = Arena::new(2).unwrap();
        let begin = Instant::now();
        let set = |node, verb| set_vip(&arena, node, verb);
        set(1, "add");
        arena.wait_owner(1, SETTLE).unwrap();
        assert_eq!(arena.judge(begin, Instant::now()).unwrap().owners_max, 1);

        let both = Instant::now();
        set(2, "add");
        observe_for(Duration::from_millis(300)).unwrap();
        set(1, "del");
        let apart = Instant::now();
        arena.wait_owner(2, SETTLE).unwrap();
        let finding = arena.judge(begin, Instant::now()).unwrap();
        println!("two holders for {:?}: {finding}", apart - both);
        assert_eq!(finding.owners_max, 2);
        assert_eq!(finding.moves, 2);
        for overlap in [finding.overlap, finding.address_overlap] {
            // A question may stand at each end that only one of them answered.
            assert!(
                overlap + 2 * PROBE_INTERVAL >= Duration::from_millis(300),
                "{overlap:?}"
            );
            assert!(overlap <= apart - both, "{overlap:?}");
        }
        set(2, "del");
        arena.wait_no_owner(SETTLE).unwrap();
        let silence = Instant::now();
        observe_for(Duration::from_millis(200)).unwrap();
        let finding = arena.judge(silence, Instant::now()).unwrap();
        assert_eq!(finding.owners_max, 0);
        assert!(finding.longest_gap >= Duration::from_millis(200));
    });
}

#[test]
fn two_owners_where_they_are_ruled_out_fail_a_trial_that_does_not_look() {
    let trial = || {
        let arena = Arena::new(2).unwrap();
        arena.two_owners_are_ruled_out();
        for node in [1, 2] {
            set_vip(&arena, node, "add");
        }
        wait_until("both to answer", SETTLE, || {
            let owners = arena.owners_within(Duration::from_millis(50))?;
            Ok((owners.len() == 2).then_some(()))
        })
        .unwrap();
    };
    let panic = catch_unwind(|| undisturbed(trial)).unwrap_err();
    let message = panic.downcast_ref::<&str>().unwrap();
    assert!(message.contains("two nodes answered"), "{message}");
}

#[test]
fn the_sniffer_verifies_what_ucarp_sends_and_ucarp_what_we_inject() {
    undisturbed(|| {
        let arena = Arena::new(1).unwrap();
        let options = UcarpOptions::with_skew(10);
        let mut ucarp = Ucarp::start(arena.topology(), 1, &options).unwrap();
        ucarp.wait_state(UcarpState::Master, SETTLE).unwrap();
        let source = arena.topology().node(1).unwrap().address;
        let seen = wait_until("an advert of ucarp", SETTLE, || {
            arena.sniffer().latest_of(source)
        })
        .unwrap();
        assert!(seen.advert.is_authentic().unwrap());
        assert_eq!((seen.advert.advbase, seen.advert.advskew), (1, 10));
        assert_eq!(seen.advert.ttl, 255);

        let socket = PacketSocket::open(arena.topology().observer(), EtherType::Arp).unwrap();
        let stranger = "10.77.0.240".parse().unwrap();
        let better = Advert::new(socket.mac(), stranger, 1, 0, 7).unwrap();
        let forged = Advert {
            digest: [0; 20],
            ..better.clone()
        };
        // ucarp reads packets up to a second late.
        for _ in 0..4 {
            socket.send(&forged.to_frame()).unwrap();
            observe_for(Duration::from_millis(500)).unwrap();
        }
        assert_eq!(ucarp.state().unwrap(), Some(UcarpState::Master));
        wait_until("ucarp to yield to a better advert", SETTLE, || {
            socket.send(&better.to_frame())?;
            thread::sleep(Duration::from_millis(90));
            Ok((ucarp.state()? == Some(UcarpState::Backup)).then_some(()))
        })
        .unwrap();
        arena.wait_no_owner(SETTLE).unwrap();
    });
}

#[test]
fn the_judges_keep_their_grid_under_load() {
    undisturbed(|| {
        let arena = Arena::new(1).unwrap();
        let mut load = Load::start(arena.topology().directory(), Duration::from_secs(30)).unwrap();
        observe_for(Duration::from_secs(1)).unwrap();
        let begin = Instant::now();
        observe_for(Duration::from_secs(3)).unwrap();
        load.check_running().unwrap();
        let finding = arena.judge(begin, Instant::now()).unwrap();
        load.end().unwrap();
        println!("questions in 3 s under load: {} of 600", finding.probes);
        assert!(finding.probes > 500);
    });
}
