//! mfs-ha and the real ucarp on one segment, judged by ARP.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a helper of a test reports as the test does, and fails with its line"
)]

use std::thread;
use std::time::{Duration, Instant};

use mfs_ha_lab::judge::wire::{Advert, digest};
use mfs_ha_lab::net::addresses::holds;
use mfs_ha_lab::net::packet::{EtherType, PacketSocket};
use mfs_ha_lab::scenario::Arena;
use mfs_ha_lab::software::mfsha::{MfsHa, MfsHaOptions, QuorumTiming, configure, set_key};
use mfs_ha_lab::software::ucarp::{Ucarp, UcarpOptions, UcarpState};
use mfs_ha_lab::trial::undisturbed;
use mfs_ha_lab::wait::{observe_for, wait_until};
use mfs_ha_lab::{VHID, VIP};

/// Both need three to five seconds of silence, and ucarp another second to notice anything.
const SETTLE: Duration = Duration::from_secs(20);
/// ucarp hands packets over once a second, so it hears a bow-out up to a second late.
const UCARP_LATENCY: Duration = Duration::from_secs(1);
/// The least that a backup at advbase 1 waits for a master that says nothing.
const DEAD_TIME: Duration = Duration::from_secs(3);

fn mfs_ha(arena: &Arena, node: usize, options: &MfsHaOptions) -> MfsHa {
    MfsHa::start(arena.topology(), node, options).unwrap()
}

fn mfs_ha_with_skew(arena: &Arena, node: usize, advskew: u8) -> MfsHa {
    mfs_ha(arena, node, &MfsHaOptions::with_timing(1, advskew))
}

fn ucarp_with_skew(arena: &Arena, node: usize, advskew: u8) -> Ucarp {
    Ucarp::start(arena.topology(), node, &UcarpOptions::with_skew(advskew)).unwrap()
}

/// Starts mfs-ha on an idle segment and waits until it is the master.
fn mfs_ha_master(arena: &Arena, node: usize, options: &MfsHaOptions) -> MfsHa {
    let mut daemon = mfs_ha(arena, node, options);
    daemon.wait_state("master", SETTLE).unwrap();
    arena.wait_owner(node, SETTLE).unwrap();
    daemon
}

fn ucarp_master(arena: &Arena, node: usize, advskew: u8) -> Ucarp {
    let mut daemon = ucarp_with_skew(arena, node, advskew);
    daemon.wait_state(UcarpState::Master, SETTLE).unwrap();
    arena.wait_owner(node, SETTLE).unwrap();
    daemon
}

fn has_vip(arena: &Arena, node: usize) -> bool {
    holds(&arena.topology().node(node).unwrap().namespace, VIP).unwrap()
}

/// Checks that `owner` alone answers for a whole `time`, without a pause and without a move.
fn assert_calm(arena: &Arena, owner: usize, time: Duration) {
    let begin = Instant::now();
    observe_for(time).unwrap();
    let finding = arena.judge(begin, Instant::now()).unwrap();
    assert_eq!((finding.owners_max, finding.moves), (1, 0), "{finding}");
    assert!(
        finding.longest_gap < Duration::from_millis(100),
        "{finding}"
    );
    arena.wait_owner(owner, SETTLE).unwrap();
}

/// The trailer that signs an advert lies behind what CARP reads: the real ucarp obeys it all the same.
#[test]
fn ucarp_obeys_signed_adverts() {
    undisturbed(|| {
        let arena = Arena::new(2).unwrap();
        let options = MfsHaOptions {
            advbase: 1,
            advskew: 0,
            ..MfsHaOptions::with_quorum(QuorumTiming::DEFAULT, 2)
        };
        let configuration = configure(arena.topology(), 2, &options).unwrap();
        set_key(&configuration, "mode", "carp").unwrap();
        let mut mfs_ha = MfsHa::start_configured(arena.topology(), 2, &configuration).unwrap();
        mfs_ha.wait_state("master", SETTLE).unwrap();
        arena.wait_owner(2, SETTLE).unwrap();
        let mut ucarp = ucarp_with_skew(&arena, 1, 50);
        assert_calm(&arena, 2, Duration::from_secs(6));
        assert_eq!(ucarp.states().unwrap(), [UcarpState::Backup]);
        let source = arena.topology().node(2).unwrap().address;
        let seen = arena.sniffer().latest_of(source).unwrap().unwrap();
        assert!(seen.advert.is_authentic().unwrap());
        let plain = 14 + 20 + 36;
        assert!(
            seen.frame.len() > plain,
            "not signed: {} bytes",
            seen.frame.len()
        );

        let at = arena.fail_node(2).unwrap();
        let takeover = arena.wait_takeover(2, at, SETTLE).unwrap();
        println!("mfs-ha that signs its adverts died: {takeover:?}");
        // Had ucarp not believed them, it would have taken over long before.
        assert!(takeover.answered_after > DEAD_TIME - Duration::from_secs(1));
        ucarp.wait_state(UcarpState::Master, SETTLE).unwrap();
    });
}

#[test]
fn each_takes_over_when_the_other_dies() {
    undisturbed(|| {
        let arena = Arena::new(2).unwrap();
        let _ucarp = ucarp_master(&arena, 1, 0);
        let mut mfs_ha = mfs_ha_with_skew(&arena, 2, 50);
        mfs_ha.wait_state("backup", SETTLE).unwrap();
        assert_calm(&arena, 1, Duration::from_secs(5));
        assert_eq!(mfs_ha.state().unwrap(), "backup");
        let begin = Instant::now();

        let at = arena.fail_node(1).unwrap();
        let takeover = arena.wait_takeover(1, at, SETTLE).unwrap();
        println!("ucarp died: {takeover:?}");
        // 3 s and its slot after the last advert, which was at most 1 s before the death.
        let waited = takeover.answered_after;
        assert!(waited > DEAD_TIME - Duration::from_secs(1));
        assert!(waited < DEAD_TIME + Duration::from_secs(1));
        mfs_ha.wait_state("master", SETTLE).unwrap();

        arena.topology().remove_vip(1).unwrap();
        arena.topology().port_up(1).unwrap();
        let mut ucarp = ucarp_with_skew(&arena, 1, 0);
        assert_calm(&arena, 2, Duration::from_secs(6));
        assert_eq!(ucarp.states().unwrap(), [UcarpState::Backup]);
        let source = arena.topology().node(2).unwrap().address;
        let seen = arena.sniffer().latest_of(source).unwrap().unwrap();
        assert!(seen.advert.is_authentic().unwrap());
        assert_eq!((seen.advert.advbase, seen.advert.advskew), (1, 50));
        assert_eq!(seen.advert.mac, arena.topology().node(2).unwrap().mac);

        let at = arena.fail_node(2).unwrap();
        let takeover = arena.wait_takeover(2, at, SETTLE).unwrap();
        println!("mfs-ha died: {takeover:?}");
        assert!(
            takeover.answered_after < DEAD_TIME + 2 * UCARP_LATENCY + Duration::from_millis(600)
        );
        ucarp.wait_state(UcarpState::Master, SETTLE).unwrap();

        let mut mfs_ha = mfs_ha_with_skew(&arena, 2, 50);
        arena.wait_vip(2, false, SETTLE).unwrap();
        arena.topology().port_up(2).unwrap();
        mfs_ha.wait_state("backup", SETTLE).unwrap();
        assert_calm(&arena, 1, Duration::from_secs(5));
        let finding = arena.judge(begin, Instant::now()).unwrap();
        println!("all the time: {finding}");
        assert_eq!((finding.owners_max, finding.moves), (1, 2));
    });
}

/// Who is expected to own the VIP in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Winner {
    MfsHa,
    Ucarp,
    Either,
}

/// Starts both at once, with nobody master; the better one ends up as the only owner.
fn cold_start(mfs_ha_node: usize, mfs_ha_skew: u8, ucarp_skew: u8, winner: Winner) {
    let ucarp_node = 3 - mfs_ha_node;
    let arena = Arena::new(2).unwrap();
    let begin = Instant::now();
    let _mfs_ha = mfs_ha_with_skew(&arena, mfs_ha_node, mfs_ha_skew);
    let _ucarp = ucarp_with_skew(&arena, ucarp_node, ucarp_skew);
    let owner = arena
        .wait_steady_owner(Duration::from_secs(4), SETTLE)
        .unwrap();
    let finding = arena.judge(begin, Instant::now()).unwrap();
    println!(
        "cold start, mfs-ha skew {mfs_ha_skew} on n{mfs_ha_node}, ucarp skew {ucarp_skew}: n{owner} owns; {finding}"
    );
    match winner {
        Winner::MfsHa => assert_eq!(owner, mfs_ha_node),
        Winner::Ucarp => assert_eq!(owner, ucarp_node),
        Winner::Either => {}
    }
}

/// A better node that joins a worse master without preempt stays backup.
fn better_ucarp_joins() {
    let arena = Arena::new(2).unwrap();
    let mut master = mfs_ha_master(&arena, 1, &MfsHaOptions::with_timing(1, 100));
    let better = ucarp_with_skew(&arena, 2, 0);
    assert_calm(&arena, 1, Duration::from_secs(8));
    assert_eq!(better.states().unwrap(), [UcarpState::Backup]);
    assert_eq!(master.state().unwrap(), "master");
}

fn better_mfs_ha_joins() {
    let arena = Arena::new(2).unwrap();
    let master = ucarp_master(&arena, 1, 100);
    let mut better = mfs_ha_with_skew(&arena, 2, 0);
    assert_calm(&arena, 1, Duration::from_secs(8));
    assert_eq!(better.state().unwrap(), "backup");
    assert_eq!(master.state().unwrap(), Some(UcarpState::Master));
}

/// The segments are independent and mostly idle, so they run side by side.
#[test]
fn skews_decide_and_equal_ones_leave_one_master() {
    undisturbed(|| {
        thread::scope(|scope| {
            scope.spawn(|| cold_start(1, 0, 100, Winner::MfsHa));
            scope.spawn(|| cold_start(1, 100, 0, Winner::Ucarp));
            scope.spawn(|| cold_start(1, 50, 50, Winner::Either));
            scope.spawn(|| cold_start(2, 50, 50, Winner::Either));
            scope.spawn(better_ucarp_joins);
            scope.spawn(better_mfs_ha_joins);
        });
    });
}

fn mfs_ha_preempts() {
    let arena = Arena::new(2).unwrap();
    let mut ucarp = ucarp_master(&arena, 1, 100);
    let begin = Instant::now();
    let options = MfsHaOptions {
        preempt: true,
        ..MfsHaOptions::with_timing(1, 0)
    };
    let mut mfs_ha = mfs_ha(&arena, 2, &options);
    arena.wait_owner(2, SETTLE).unwrap();
    ucarp.wait_state(UcarpState::Backup, SETTLE).unwrap();
    assert_calm(&arena, 2, Duration::from_secs(3));
    assert_eq!(mfs_ha.state().unwrap(), "master");
    let finding = arena.judge(begin, Instant::now()).unwrap();
    println!("mfs-ha preempts ucarp: {finding}");
    assert!(finding.overlap < 2 * UCARP_LATENCY);
}

fn ucarp_preempts() {
    let arena = Arena::new(2).unwrap();
    let mut mfs_ha = mfs_ha_master(&arena, 1, &MfsHaOptions::with_timing(1, 100));
    let begin = Instant::now();
    let options = UcarpOptions {
        preempt: true,
        ..UcarpOptions::with_skew(0)
    };
    let mut ucarp = Ucarp::start(arena.topology(), 2, &options).unwrap();
    ucarp.wait_state(UcarpState::Master, SETTLE).unwrap();
    arena.wait_owner(2, SETTLE).unwrap();
    mfs_ha.wait_state("backup", SETTLE).unwrap();
    assert_calm(&arena, 2, Duration::from_secs(3));
    let finding = arena.judge(begin, Instant::now()).unwrap();
    println!("ucarp preempts mfs-ha: {finding}");
    // ucarp runs its up script before it says anything.
    assert!(finding.overlap < Duration::from_millis(500));
}

#[test]
fn a_better_node_with_preempt_displaces_a_worse_master() {
    undisturbed(|| {
        thread::scope(|scope| {
            scope.spawn(mfs_ha_preempts);
            scope.spawn(ucarp_preempts);
        });
    });
}

/// Ends the master on n1 in good order and returns how long nobody answered, and the arena's verdict.
fn bow_out(arena: &Arena, mut master: MfsHa) -> (Duration, Instant) {
    let at = Instant::now();
    master.terminate(SETTLE).unwrap();
    assert!(!has_vip(arena, 1));
    let takeover = arena.wait_takeover(1, at, SETTLE).unwrap();
    (takeover.answered_after, at)
}

fn bow_out_with_one_ucarp() {
    let arena = Arena::new(2).unwrap();
    let master = mfs_ha_master(&arena, 1, &MfsHaOptions::with_timing(1, 0));
    let mut backup = ucarp_with_skew(&arena, 2, 50);
    assert_calm(&arena, 1, Duration::from_secs(3));
    let (answered, at) = bow_out(&arena, master);
    backup.wait_state(UcarpState::Master, SETTLE).unwrap();
    assert_calm(&arena, 2, Duration::from_secs(1));
    let finding = arena.judge(at, Instant::now()).unwrap();
    println!("bow-out, one ucarp: taken over after {answered:?}; {finding}");
    assert!(answered < UCARP_LATENCY + Duration::from_millis(500));
    assert_eq!((finding.owners_max, finding.moves), (1, 1));
}

fn bow_out_with_two_mfs_ha() {
    let arena = Arena::new(3).unwrap();
    let master = mfs_ha_master(&arena, 1, &MfsHaOptions::with_timing(1, 0));
    let mut backups = [(2, 20), (3, 40)].map(|(node, skew)| mfs_ha_with_skew(&arena, node, skew));
    for backup in &mut backups {
        backup.wait_state("backup", SETTLE).unwrap();
    }
    assert_calm(&arena, 1, Duration::from_secs(3));
    let (answered, at) = bow_out(&arena, master);
    assert_calm(&arena, 2, Duration::from_secs(3));
    let finding = arena.judge(at, Instant::now()).unwrap();
    println!("bow-out, two mfs-ha: taken over after {answered:?}; {finding}");
    assert!(answered < Duration::from_millis(700));
    assert_eq!((finding.owners_max, finding.moves), (1, 1));
    assert_eq!(backups[1].state().unwrap(), "backup");
}

fn bow_out_with_one_of_each() {
    let arena = Arena::new(3).unwrap();
    let master = mfs_ha_master(&arena, 1, &MfsHaOptions::with_timing(1, 0));
    let _mfs_ha = mfs_ha_with_skew(&arena, 2, 20);
    let _ucarp = ucarp_with_skew(&arena, 3, 40);
    assert_calm(&arena, 1, Duration::from_secs(4));
    let (answered, at) = bow_out(&arena, master);
    // ucarp obeys every bow-out, however late. Whoever is first, one of them stays.
    let owner = arena
        .wait_steady_owner(Duration::from_secs(3), SETTLE)
        .unwrap();
    let finding = arena.judge(at, Instant::now()).unwrap();
    println!("bow-out, one of each: taken over after {answered:?}, n{owner} owns; {finding}");
    assert!(answered < UCARP_LATENCY + Duration::from_millis(500));
    assert_ne!(owner, 1);
    assert!(finding.overlap < 2 * UCARP_LATENCY);
}

#[test]
fn a_bow_out_is_obeyed_well_before_the_dead_time() {
    undisturbed(|| {
        thread::scope(|scope| {
            scope.spawn(bow_out_with_one_ucarp);
            scope.spawn(bow_out_with_two_mfs_ha);
            scope.spawn(bow_out_with_one_of_each);
        });
    });
}

fn mix_led_by_ucarp() {
    let arena = Arena::new(3).unwrap();
    let ucarp = ucarp_master(&arena, 1, 0);
    let mut backups = [(2, 20), (3, 40)].map(|(node, skew)| mfs_ha_with_skew(&arena, node, skew));
    for backup in &mut backups {
        backup.wait_state("backup", SETTLE).unwrap();
    }
    assert_calm(&arena, 1, Duration::from_secs(60));
    assert_eq!(ucarp.states().unwrap().last(), Some(&UcarpState::Master));
    for backup in &mut backups {
        assert_eq!(backup.state().unwrap(), "backup");
    }
}

fn mix_led_by_fast_mfs_ha() {
    let arena = Arena::new(3).unwrap();
    let mut master = mfs_ha_master(&arena, 1, &MfsHaOptions::with_timing(0, 10));
    let mut backup = mfs_ha(&arena, 2, &MfsHaOptions::with_timing(0, 20));
    let ucarp = ucarp_with_skew(&arena, 3, 100);
    backup.wait_state("backup", SETTLE).unwrap();
    assert_calm(&arena, 1, Duration::from_secs(60));
    assert_eq!(ucarp.states().unwrap(), [UcarpState::Backup]);
    assert_eq!(master.state().unwrap(), "master");
}

#[test]
fn a_mix_of_one_ucarp_and_two_mfs_ha_has_one_owner_for_a_minute() {
    undisturbed(|| {
        thread::scope(|scope| {
            scope.spawn(mix_led_by_ucarp);
            scope.spawn(mix_led_by_fast_mfs_ha);
        });
    });
}

/// How many frames each attack consists of.
const ATTACK_FRAMES: u64 = 300;

/// Sends `ATTACK_FRAMES` frames, ten milliseconds apart.
fn attack(socket: &PacketSocket, frame: impl Fn(u64) -> Vec<u8>) {
    for number in 0..ATTACK_FRAMES {
        socket.send(&frame(number)).unwrap();
        observe_for(Duration::from_millis(10)).unwrap();
    }
}

#[test]
fn wrong_passwords_and_reflections_change_nothing_but_a_counter() {
    undisturbed(|| {
        let arena = Arena::new(2).unwrap();
        let mut master = mfs_ha_master(&arena, 1, &MfsHaOptions::with_timing(1, 10));
        let mut backup = mfs_ha_with_skew(&arena, 2, 20);
        backup.wait_state("backup", SETTLE).unwrap();
        let source = arena.topology().node(1).unwrap().address;
        let own = wait_until("an advert of the master", SETTLE, || {
            arena.sniffer().latest_of(source)
        })
        .unwrap();
        let socket = PacketSocket::open(arena.topology().observer(), EtherType::Arp).unwrap();
        let begin = Instant::now();
        let counters = |daemon: &mut MfsHa| {
            ["bad_auth", "own_source", "accepted"].map(|name| daemon.counter(name).unwrap())
        };
        let transitions = (master.transitions().unwrap(), backup.transitions().unwrap());
        let before = (counters(&mut master), counters(&mut backup));

        // Better than both, with everything right but the password.
        let stranger = "10.77.0.240".parse().unwrap();
        attack(&socket, |number| {
            let advert = Advert::new(socket.mac(), stranger, 0, 1, number).unwrap();
            Advert {
                digest: digest("not-the-secret", VHID, VIP, number).unwrap(),
                ..advert
            }
            .to_frame()
        });
        let after = (counters(&mut master), counters(&mut backup));
        println!("wrong password [bad_auth, own_source, accepted]: {before:?} -> {after:?}");
        assert_eq!(after.0[0] - before.0[0], ATTACK_FRAMES);
        assert_eq!(after.1[0] - before.1[0], ATTACK_FRAMES);
        assert_eq!(after.0[1], before.0[1]);
        assert_eq!(after.0[2], before.0[2]);

        // The master's own frame comes back to it, as from a switch with a loop.
        let before = (counters(&mut master), counters(&mut backup));
        attack(&socket, |_| own.frame.clone());
        let after = (counters(&mut master), counters(&mut backup));
        println!("reflected frames [bad_auth, own_source, accepted]: {before:?} -> {after:?}");
        assert_eq!(after.0[1] - before.0[1], ATTACK_FRAMES);
        assert_eq!(after.0[0], before.0[0]);
        assert_eq!(after.0[2], before.0[2]);

        assert_eq!(master.transitions().unwrap(), transitions.0);
        assert_eq!(backup.transitions().unwrap(), transitions.1);
        assert_eq!(master.state().unwrap(), "master");
        assert_eq!(backup.state().unwrap(), "backup");
        let finding = arena.judge(begin, Instant::now()).unwrap();
        println!("under attack: {finding}");
        assert_eq!((finding.owners_max, finding.moves), (1, 0));
    });
}
