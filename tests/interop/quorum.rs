//! Three mfs-ha in quorum mode with a VIP and nothing else: who has it, how fast it moves, and when it must not.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper of a test fails as the test does, with its line, and prints its figures"
)]

use std::time::{Duration, Instant};

use mfs_ha_lab::judge::analysis::Spread;
use mfs_ha_lab::net::topology::Traffic;
use mfs_ha_lab::scenario::{Arena, Dice};
use mfs_ha_lab::software::mfsha::{MfsHa, MfsHaOptions, QuorumTiming, set_key};
use mfs_ha_lab::software::squad::{SETTLE, Squad};
use mfs_ha_lab::software::write_file;
use mfs_ha_lab::trial::undisturbed;
use mfs_ha_lab::wait::observe_for;

const TAKEOVER_LIMIT: Duration = Duration::from_secs(5);
/// From the end of a lease to the address gone, on a machine that others use as well.
const GIVE_WAY: Duration = Duration::from_millis(300);
const LEASE: Duration = Duration::from_millis(QuorumTiming::DEFAULT.lease_ms);

fn deaths() -> usize {
    if std::env::var_os("MFS_HA_LONG").is_some() {
        20
    } else {
        5
    }
}

/// The owner dies at random phases of the heartbeats, again and again.
fn die_repeatedly(timing: QuorumTiming) -> Spread {
    let mut dice = Dice::from_environment().unwrap();
    println!("phases from MFS_HA_SEED={}", dice.seed());
    let arena = Arena::new(3).unwrap();
    let mut squad = Squad::start(&arena, timing).unwrap();
    let begin = Instant::now();
    let mut answered = Vec::new();
    for death in 1..=deaths() {
        let owner = squad.wait_settled(&arena).unwrap();
        let phase = dice.below(Duration::from_millis(timing.heartbeat_ms));
        observe_for(phase).unwrap();
        let at = arena.fail_node(owner).unwrap();
        let takeover = arena.wait_takeover(owner, at, TAKEOVER_LIMIT).unwrap();
        println!("death {death}: n{owner} -> {takeover:?}");
        assert_ne!(takeover.node, owner);
        answered.push(takeover.answered_after);
        squad.bring_back(&arena, owner).unwrap();
    }
    let finding = arena.judge(begin, Instant::now()).unwrap();
    let spread = Spread::of(&answered).unwrap();
    println!(
        "{} deaths at H {} ms, T {} ms: first ARP answer after {spread}; all the time: {finding}",
        deaths(),
        timing.heartbeat_ms,
        timing.lease_ms
    );
    assert_eq!(finding.owners_max, 1);
    spread
}

#[test]
fn deaths_at_default_timing() {
    undisturbed(|| {
        let spread = die_repeatedly(QuorumTiming::DEFAULT);
        assert!(spread.max < Duration::from_secs(2), "{spread}");
    });
}

#[test]
fn deaths_at_fast_timing() {
    undisturbed(|| {
        let spread = die_repeatedly(QuorumTiming::FAST);
        assert!(spread.max < Duration::from_secs(2), "{spread}");
    });
}

/// The others take over, and the owner has let go by itself before that, although nobody can tell it.
#[test]
fn an_owner_that_is_cut_off_lets_go_by_itself() {
    undisturbed(|| {
        let arena = Arena::new(3).unwrap();
        let mut squad = Squad::start(&arena, QuorumTiming::DEFAULT).unwrap();
        let begin = Instant::now();
        let cuts: [(&str, bool, bool, Traffic); 4] = [
            ("from both others", true, true, Traffic::All),
            ("and not heard", true, false, Traffic::All),
            ("and hears nothing", false, true, Traffic::All),
            ("from heartbeats", true, true, Traffic::Heartbeats),
        ];
        for (what, sends, hears, traffic) in cuts {
            let owner = squad.wait_settled(&arena).unwrap();
            let own = format!("n{owner}");
            let topology = arena.topology();
            let mut pairs = Vec::new();
            for other in (1..=3).filter(|node| *node != owner) {
                let other = format!("n{other}");
                if sends {
                    pairs.push((own.clone(), other.clone()));
                }
                if hears {
                    pairs.push((other, own.clone()));
                }
            }
            let at = Instant::now();
            topology.cut(&pairs, traffic).unwrap();
            let done = at.elapsed();
            let takeover = arena.wait_takeover(owner, at, TAKEOVER_LIMIT).unwrap();
            let gave_way = Squad::gave_way(&arena, owner, at).unwrap();
            println!("{own} cut off {what}: let go after {gave_way:?}, {takeover:?}");
            assert!(gave_way <= done + LEASE + GIVE_WAY);
            observe_for(Duration::from_secs(1)).unwrap();
            topology.heal().unwrap();
            assert_eq!(squad.wait_settled(&arena).unwrap(), takeover.node);
        }
        let finding = arena.judge(begin, Instant::now()).unwrap();
        println!(
            "all the time: {finding}, two had the address for {:?}",
            finding.address_overlap
        );
        assert_eq!((finding.owners_max, finding.moves), (1, cuts.len()));
    });
}

#[test]
fn an_owner_that_reaches_one_of_two_keeps_the_vip() {
    undisturbed(|| {
        let arena = Arena::new(3).unwrap();
        let mut squad = Squad::start(&arena, QuorumTiming::DEFAULT).unwrap();
        let owner = squad.wait_settled(&arena).unwrap();
        let begin = Instant::now();
        for other in (1..=3).filter(|node| *node != owner) {
            let (own, other) = (format!("n{owner}"), format!("n{other}"));
            let topology = arena.topology();
            topology
                .cut_both_ways(&own, &[&other], Traffic::All)
                .unwrap();
            observe_for(Duration::from_secs(3)).unwrap();
            topology.heal().unwrap();
            assert_eq!(squad.wait_settled(&arena).unwrap(), owner);
        }
        let finding = arena.judge(begin, Instant::now()).unwrap();
        println!("all the time: {finding}");
        assert_eq!((finding.owners_max, finding.moves), (1, 0));
    });
}

#[test]
fn restarts_move_nothing_but_what_is_handed_over() {
    undisturbed(|| {
        let arena = Arena::new(3).unwrap();
        let mut squad = Squad::start(&arena, QuorumTiming::DEFAULT).unwrap();
        let owner = squad.wait_settled(&arena).unwrap();
        let begin = Instant::now();
        for node in (1..=3).filter(|node| *node != owner) {
            restart(&mut squad, &arena, node);
            assert_eq!(squad.wait_settled(&arena).unwrap(), owner);
        }
        let finding = arena.judge(begin, Instant::now()).unwrap();
        println!("standbys: {finding}");
        assert_eq!((finding.owners_max, finding.moves), (1, 0));

        let at = Instant::now();
        squad.daemon(owner).unwrap().terminate(SETTLE).unwrap();
        let takeover = arena.wait_takeover(owner, at, TAKEOVER_LIMIT).unwrap();
        println!("n{owner} was asked to leave: {takeover:?}");
        squad.start_again(&arena, owner).unwrap();
        assert_eq!(squad.wait_settled(&arena).unwrap(), takeover.node);
        let finding = arena.judge(at, Instant::now()).unwrap();
        println!("the owner: {finding}");
        assert_eq!((finding.owners_max, finding.moves), (1, 1));
    });
}

/// Ends a daemon in good order and starts it again.
fn restart(squad: &mut Squad, arena: &Arena, node: usize) {
    squad.daemon(node).unwrap().terminate(SETTLE).unwrap();
    squad.start_again(arena, node).unwrap();
}

/// One node alone does not serve and says why; the next voter that is back is enough.
#[test]
fn a_minority_stays_passive() {
    undisturbed(|| {
        let arena = Arena::new(3).unwrap();
        let mut squad = Squad::start(&arena, QuorumTiming::DEFAULT).unwrap();
        let owner = squad.wait_settled(&arena).unwrap();
        let others: Vec<usize> = (1..=3).filter(|node| *node != owner).collect();
        let begin = Instant::now();
        for node in &others {
            arena.fail_node(*node).unwrap();
        }
        arena.wait_no_owner(SETTLE).unwrap();
        let status = squad
            .daemon(owner)
            .unwrap()
            .wait_status("no majority", SETTLE, |status| {
                status["cluster"]["lease"]["obstacle"] == "no_majority"
            })
            .unwrap();
        println!("n{owner}, alone: {}", status["cluster"]["lease"]);
        let alone = Instant::now();
        observe_for(Duration::from_secs(3)).unwrap();
        let finding = arena.judge(alone, Instant::now()).unwrap();
        assert_eq!((finding.owners_max, finding.moves), (0, 0));

        squad.start_again(&arena, others[0]).unwrap();
        arena.wait_vip(others[0], false, SETTLE).unwrap();
        arena.topology().port_up(others[0]).unwrap();
        let back = Instant::now();
        let serves = arena.wait_single_owner(SETTLE).unwrap();
        println!(
            "n{} is back, n{serves} serves after {:?}",
            others[0],
            back.elapsed()
        );
        assert_eq!(arena.judge(begin, Instant::now()).unwrap().owners_max, 1);
    });
}

/// Nobody serves before all candidates are heard or the wait is over, and then one does.
#[test]
fn a_cold_start_waits_for_all_candidates() {
    undisturbed(|| {
        let arena = Arena::new(3).unwrap();
        arena.two_owners_are_ruled_out();
        let timing = QuorumTiming {
            cold_start_wait_ms: 4000,
            ..QuorumTiming::DEFAULT
        };
        let begin = Instant::now();
        let mut daemons: Vec<MfsHa> = [1, 2]
            .into_iter()
            .map(|node| {
                let options = MfsHaOptions::with_quorum(timing, node);
                MfsHa::start(arena.topology(), node, &options).unwrap()
            })
            .collect();
        daemons[0]
            .wait_status("a cold start", SETTLE, |status| {
                status["cluster"]["lease"]["obstacle"] == "cold_start"
            })
            .unwrap();
        let owner = arena.wait_single_owner(SETTLE).unwrap();
        let gained = arena.addresses().unwrap().gained_by(owner, begin).unwrap();
        println!("two of three: n{owner} after {:?}", gained - begin);
        assert!(gained - begin >= Duration::from_millis(timing.cold_start_wait_ms));
        drop(daemons);

        // All three at once wait for nobody.
        let arena = Arena::new(3).unwrap();
        let begin = Instant::now();
        let mut squad = Squad::start(&arena, QuorumTiming::DEFAULT).unwrap();
        let owner = squad.wait_settled(&arena).unwrap();
        let finding = arena.judge(begin, Instant::now()).unwrap();
        let gained = arena.addresses().unwrap().gained_by(owner, begin).unwrap();
        println!("all three: n{owner} after {:?}; {finding}", gained - begin);
        assert_eq!((finding.owners_max, finding.moves), (1, 1));
        assert!(gained - begin < Duration::from_millis(QuorumTiming::DEFAULT.cold_start_wait_ms));
    });
}

/// A secret is exchanged in three rounds: all accept the new one, all send it, none accepts the old one.
#[test]
fn a_secret_is_exchanged_without_a_failover() {
    undisturbed(|| {
        let arena = Arena::new(3).unwrap();
        let mut squad = Squad::start(&arena, QuorumTiming::DEFAULT).unwrap();
        let begin = Instant::now();
        let directory = arena.topology().directory();
        let (old, new) = (directory.join("old.secret"), directory.join("new.secret"));
        write_file(&old, 0o600, "the lab's cluster secret\n").unwrap();
        write_file(&new, 0o600, "another secret of the lab\n").unwrap();
        let rounds = [(&old, Some(&new)), (&new, Some(&old)), (&new, None)];
        for (secret, also) in rounds {
            let owner = squad.wait_settled(&arena).unwrap();
            // Standbys first: only the owner's own restart hands anything over.
            let standbys = (1..=3).filter(|node| *node != owner);
            for node in standbys.chain([owner]) {
                let configuration = squad.daemon(node).unwrap().configuration().to_owned();
                let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
                set_key(&configuration, "cluster.secret_file", text(secret)).unwrap();
                let also = also.map_or_else(|| text(secret), |path| text(path));
                if also == text(secret) {
                    remove_key(&configuration, "previous_secret_file");
                } else {
                    set_key(&configuration, "cluster.previous_secret_file", also).unwrap();
                }
                restart(&mut squad, &arena, node);
                squad.wait_settled(&arena).unwrap();
            }
        }
        let finding = arena.judge(begin, Instant::now()).unwrap();
        println!("three rounds of restarts: {finding}");
        // One handover for each time that the owner was restarted, and nothing else.
        assert_eq!((finding.owners_max, finding.moves), (1, rounds.len()));

        // The old secret opens nothing any more.
        let owner = squad.wait_settled(&arena).unwrap();
        let late = (1..=3).find(|node| *node != owner).unwrap();
        let configuration = squad.daemon(late).unwrap().configuration().to_owned();
        set_key(&configuration, "cluster.secret_file", old.to_str().unwrap()).unwrap();
        let at = Instant::now();
        restart(&mut squad, &arena, late);
        let alone = squad.daemon(late).unwrap();
        let status = alone
            .wait_status("the old secret to be refused", SETTLE, |status| {
                status["cluster"]["lease"]["obstacle"] == "no_majority"
            })
            .unwrap();
        assert_eq!(status["cluster"]["lease"]["heard"], 1);
        observe_for(Duration::from_secs(1)).unwrap();
        let seen = squad.daemon(owner).unwrap().status().unwrap();
        println!("n{owner} of n{late}: {}", seen["cluster"]["members"]);
        let members = seen["cluster"]["members"].as_array().unwrap();
        let member = members.iter().find(|member| member["id"] == late).unwrap();
        assert_eq!(member["heard"], false);
        assert!(!member["differences"].as_array().unwrap().is_empty());
        let finding = arena.judge(at, Instant::now()).unwrap();
        assert_eq!((finding.owners_max, finding.moves), (1, 0));
    });
}

/// Takes a key out of the table of the cluster.
fn remove_key(configuration: &std::path::Path, key: &str) {
    let text = std::fs::read_to_string(configuration).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with(key));
    let kept: Vec<&str> = lines.collect();
    write_file(configuration, 0o644, &(kept.join("\n") + "\n")).unwrap();
}
