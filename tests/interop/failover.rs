//! Three mfs-ha nodes at sub-second timing, and the ways in which a node can fail or leave.
#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails as the test does, with its line"
)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mfs_ha_lab::VIP;
use mfs_ha_lab::judge::analysis::Spread;
use mfs_ha_lab::net::addresses::holds;
use mfs_ha_lab::scenario::{Arena, Dice};
use mfs_ha_lab::software::mfsha::{MfsHa, MfsHaOptions};
use mfs_ha_lab::software::write_file;
use mfs_ha_lab::trial::undisturbed;
use mfs_ha_lab::wait::{observe_for, wait_until};
use nix::sys::signal::Signal;

const SETTLE: Duration = Duration::from_secs(15);
const TAKEOVER_LIMIT: Duration = Duration::from_secs(5);
/// "Well under a second", for the worst of all deaths.
const DETECTION_MAX: Duration = Duration::from_millis(1000);
/// Longest advert interval of the three nodes (skew 30), within which a death has a random phase.
const INTERVAL: Duration = Duration::from_micros(117_188);
const DEATHS: usize = 20;

/// Timing of node 1, 2, 3: advbase 0 and a skew of 10, 20, 30.
fn options(node: usize) -> MfsHaOptions {
    MfsHaOptions::with_timing(0, u8::try_from(node).unwrap() * 10)
}

fn start(arena: &Arena, node: usize) -> MfsHa {
    MfsHa::start(arena.topology(), node, &options(node)).unwrap()
}

/// Starts nodes 1 to `count`, the first one first, so that it is the master.
fn cluster(arena: &Arena, count: usize) -> Vec<MfsHa> {
    let mut nodes = vec![start(arena, 1)];
    nodes[0].wait_state("master", SETTLE).unwrap();
    arena.wait_owner(1, SETTLE).unwrap();
    for node in 2..=count {
        let mut daemon = start(arena, node);
        wait_follows(&mut daemon);
        nodes.push(daemon);
    }
    nodes
}

/// Waits until a backup has heard its master: before that it is as patient as with a slow one.
fn wait_follows(daemon: &mut MfsHa) {
    daemon
        .wait_status("a backup that hears its master", SETTLE, |status| {
            let field = |name| status.get(name).and_then(|value| value.as_str());
            field("state") == Some("backup") && field("master").is_some()
        })
        .unwrap();
}

fn has_vip(arena: &Arena, node: usize) -> bool {
    holds(&arena.topology().node(node).unwrap().namespace, VIP).unwrap()
}

#[test]
fn twenty_deaths_at_random_phases() {
    undisturbed(|| {
        let mut dice = Dice::from_environment().unwrap();
        println!("phases from MFS_HA_SEED={}", dice.seed());
        let arena = Arena::new(3).unwrap();
        let mut nodes = cluster(&arena, 3);
        let begin = Instant::now();
        let (mut answered, mut added) = (Vec::new(), Vec::new());
        for death in 1..=DEATHS {
            let master = arena
                .wait_steady_owner(Duration::from_millis(500), SETTLE)
                .unwrap();
            observe_for(dice.below(INTERVAL)).unwrap();
            let at = arena.fail_node(master).unwrap();
            let takeover = arena.wait_takeover(master, at, TAKEOVER_LIMIT).unwrap();
            println!("death {death}: n{master} -> {takeover:?}");
            assert_ne!(takeover.node, master);
            answered.push(takeover.answered_after);
            added.extend(takeover.vip_after);
            observe_for(Duration::from_millis(300)).unwrap();

            // The dead node may still have the VIP on its interface (unless it saw the port go down before it
            // was killed), and loses it before it can be reached again.
            nodes[master - 1] = start(&arena, master);
            arena.wait_vip(master, false, SETTLE).unwrap();
            arena.topology().port_up(master).unwrap();
            wait_follows(&mut nodes[master - 1]);
        }
        let finding = arena.judge(begin, Instant::now()).unwrap();
        let spread = Spread::of(&answered).unwrap();
        println!("{DEATHS} deaths: first ARP answer after {spread}");
        println!(
            "{DEATHS} deaths: VIP on the new node after {}",
            Spread::of(&added).unwrap()
        );
        println!("all the time: {finding}");
        assert_eq!(added.len(), DEATHS);
        assert!(spread.max <= DETECTION_MAX, "{spread}");
        assert_eq!(finding.owners_max, 1);
        assert_eq!(finding.moves, DEATHS);
    });
}

#[test]
fn sigterm_hands_over_and_leaves_no_vip() {
    undisturbed(|| {
        let arena = Arena::new(3).unwrap();
        let mut nodes = cluster(&arena, 3);
        let begin = Instant::now();
        for leaving in 1..=3 {
            let at = Instant::now();
            nodes[leaving - 1].terminate(SETTLE).unwrap();
            assert!(!has_vip(&arena, leaving));

            let source = arena.topology().node(leaving).unwrap().address;
            let bow_out = wait_until("the bow-out", SETTLE, || {
                let adverts = arena.sniffer().adverts_since(at)?;
                Ok(adverts
                    .into_iter()
                    .find(|seen| seen.advert.is_bow_out() && seen.advert.source == source))
            })
            .unwrap();
            assert!(bow_out.advert.is_authentic().unwrap());
            let lost = arena.addresses().unwrap().lost_by(leaving, at).unwrap();
            println!(
                "n{leaving}: VIP gone after {:?}, bow-out after {:?}",
                lost - at,
                bow_out.at.saturating_duration_since(at)
            );
            // Whoever obeys the bow-out must find the VIP free. The address event is read a moment late.
            assert!(lost <= bow_out.at + Duration::from_millis(2));
            if leaving < 3 {
                let takeover = arena.wait_takeover(leaving, at, TAKEOVER_LIMIT).unwrap();
                println!("n{leaving} left: {takeover:?}");
                // The better of two backups comes first, in its rank slot.
                assert_eq!(takeover.node, leaving + 1);
                assert!(takeover.answered_after <= DETECTION_MAX);
                arena.wait_owner(leaving + 1, SETTLE).unwrap();
            }
        }
        arena.wait_no_owner(SETTLE).unwrap();
        let finding = arena.judge(begin, Instant::now()).unwrap();
        println!("all the time: {finding}");
        assert_eq!(finding.owners_max, 1);
        assert_eq!(finding.moves, 2);
        for node in 1..=3 {
            assert!(!has_vip(&arena, node));
        }
    });
}

#[test]
fn a_restart_after_kill_removes_the_stale_vip() {
    undisturbed(|| {
        let arena = Arena::new(1).unwrap();
        let mut nodes = cluster(&arena, 1);
        nodes[0].kill().unwrap();
        // Nothing takes the address from a killed daemon, and its kernel answers for it no longer.
        arena.wait_no_owner(SETTLE).unwrap();
        assert!(has_vip(&arena, 1));

        let restarted = Instant::now();
        nodes[0] = start(&arena, 1);
        arena.wait_vip(1, false, SETTLE).unwrap();
        let lost = arena.addresses().unwrap().lost_by(1, restarted).unwrap();
        println!("stale VIP removed {:?} after the restart", lost - restarted);
        // Nobody else is there, so the node becomes master again, now by the rules.
        nodes[0].wait_state("master", SETTLE).unwrap();
        arena.wait_owner(1, SETTLE).unwrap();
        nodes[0].terminate(SETTLE).unwrap();
        assert!(!has_vip(&arena, 1));
    });
}

#[test]
fn an_interface_may_go_and_come_back() {
    undisturbed(|| {
        let arena = Arena::new(2).unwrap();
        let mut nodes = cluster(&arena, 2);
        let begin = Instant::now();

        arena.topology().delete_interface(1).unwrap();
        let takeover = arena.wait_takeover(1, begin, TAKEOVER_LIMIT).unwrap();
        println!("n1 lost its interface: {takeover:?}");
        assert!(takeover.answered_after <= DETECTION_MAX);
        nodes[0].wait_state("init", SETTLE).unwrap();

        arena.topology().recreate_interface(1).unwrap();
        nodes[0].wait_state("backup", SETTLE).unwrap();
        wait_follows(&mut nodes[0]);
        println!("n1 is back: {}", nodes[0].status().unwrap());

        // The proof that it hears, sends and can take the VIP on the new interface.
        let at = arena.fail_node(2).unwrap();
        let takeover = arena.wait_takeover(2, at, TAKEOVER_LIMIT).unwrap();
        println!("n2 died: {takeover:?}");
        assert_eq!(takeover.node, 1);
        assert!(takeover.answered_after <= DETECTION_MAX);
        let source = arena.topology().node(1).unwrap().address;
        wait_until("adverts of n1", SETTLE, || {
            Ok(arena
                .sniffer()
                .latest_of(source)?
                .filter(|seen| seen.at > at))
        })
        .unwrap();
        let finding = arena.judge(begin, Instant::now()).unwrap();
        assert_eq!(finding.owners_max, 1);
        nodes[0].terminate(SETTLE).unwrap();
        assert!(!has_vip(&arena, 1));
    });
}

/// Writes a hook that ignores SIGTERM and never ends, and returns its path.
fn hanging_hook(arena: &Arena) -> PathBuf {
    let path = arena.topology().directory().join("hanging-hook");
    let script = "#!/bin/sh\ntrap '' TERM\necho hook \"$@\"\nwhile :; do sleep 1; done\n";
    write_file(&path, 0o755, script).unwrap();
    path
}

#[test]
fn a_hanging_hook_delays_neither_adverts_nor_the_end() {
    undisturbed(|| {
        let arena = Arena::new(2).unwrap();
        let hook = hanging_hook(&arena);
        let hanging = MfsHaOptions {
            up: Some(hook.clone()),
            down: Some(hook),
            hook_timeout_ms: 2000,
            ..options(1)
        };
        let mut master = MfsHa::start(arena.topology(), 1, &hanging).unwrap();
        arena.wait_owner(1, SETTLE).unwrap();
        let mut backup = start(&arena, 2);
        backup.wait_state("backup", SETTLE).unwrap();
        let steady = Instant::now();
        let transitions = backup.transitions().unwrap();
        observe_for(Duration::from_secs(5)).unwrap();

        let source = arena.topology().node(1).unwrap().address;
        let adverts = arena.sniffer().adverts_since(steady).unwrap();
        let times: Vec<Instant> = adverts
            .iter()
            .filter(|seen| seen.advert.source == source)
            .map(|seen| seen.at)
            .collect();
        let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max();
        println!("{} adverts in 5 s, longest gap {longest:?}", times.len());
        // An advert is due every 39 ms.
        assert!(times.len() > 100);
        assert!(longest.unwrap() < Duration::from_millis(200));
        assert_eq!(backup.transitions().unwrap(), transitions);
        let finding = arena.judge(steady, Instant::now()).unwrap();
        assert_eq!((finding.owners_max, finding.moves), (1, 0));

        let at = Instant::now();
        master.terminate(SETTLE).unwrap();
        println!("ended {:?} after SIGTERM", at.elapsed());
        assert!(!has_vip(&arena, 1));
        let takeover = arena.wait_takeover(1, at, TAKEOVER_LIMIT).unwrap();
        println!("n1 left: {takeover:?}");
        // The handover waits for no hook.
        assert!(takeover.answered_after <= DETECTION_MAX);
        arena.wait_owner(2, SETTLE).unwrap();
        assert_eq!(arena.judge(at, Instant::now()).unwrap().owners_max, 1);
        let namespace = &arena.topology().node(1).unwrap().namespace;
        wait_until("the hook to be gone", SETTLE, || {
            Ok(namespace.pids()?.is_empty().then_some(()))
        })
        .unwrap();
    });
}

#[test]
fn a_master_that_slept_gives_way() {
    undisturbed(|| {
        let arena = Arena::new(2).unwrap();
        let mut nodes = cluster(&arena, 2);
        let begin = Instant::now();
        nodes[0].process().signal(Signal::SIGSTOP).unwrap();
        nodes[1].wait_state("master", SETTLE).unwrap();
        arena.wait_owner(2, SETTLE).unwrap();
        observe_for(Duration::from_secs(1)).unwrap();

        nodes[0].process().signal(Signal::SIGCONT).unwrap();
        nodes[0].wait_state("backup", SETTLE).unwrap();
        arena.wait_owner(2, SETTLE).unwrap();
        observe_for(Duration::from_secs(1)).unwrap();
        let finding = arena.judge(begin, Instant::now()).unwrap();
        println!("asleep and awake: {finding}");
        assert_eq!((finding.owners_max, finding.moves), (1, 1));
        assert_eq!(nodes[1].state().unwrap(), "master");
    });
}
