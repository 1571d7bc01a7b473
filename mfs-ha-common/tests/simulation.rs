//! Two to four nodes, and ucarps, on one virtual clock: `support/sim.rs`.
//!
//! The judge looks at who has the VIP, not at what anybody says. Seeds are fixed, and as many are drawn
//! anew in each run; a failure prints its seed, which `MFS_HA_SEED` runs again alone.

#![expect(
    clippy::panic,
    reason = "a world that is asked the impossible fails the test"
)]

#[path = "support/checked.rs"]
mod checked;
#[path = "simulation/metadata.rs"]
mod metadata;
#[path = "support/rng.rs"]
mod rng;
#[path = "support/sim.rs"]
mod sim;
#[path = "support/ucarp.rs"]
mod ucarp;

use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroU8;
use std::time::Duration;

use mfs_ha_common::election::State;
use mfs_ha_common::election::carp::{HOLD_DOWN, Settings};
use mfs_ha_common::net::Ipv4;
use mfs_ha_common::node::NodeConfig;
use mfs_ha_common::priority::{Priority, tie_break};
use mfs_ha_common::promotion::{RESIGN_LIMIT, Service};
use rng::Rng;
use sim::{Conditions, Id, Ownership, World};
use ucarp::UcarpConfig;

/// Numeric order and ucarp's order of these differ.
const SOURCES: [Ipv4; 4] = [[10, 0, 1, 1], [10, 0, 0, 2], [10, 0, 2, 3], [9, 0, 0, 4]];

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn for_each_seed(count: u64, run: impl Fn(u64)) {
    if let Ok(seed) = std::env::var("MFS_HA_SEED") {
        let digits = seed.trim_start_matches("0x");
        return u64::from_str_radix(digits, 16).map_or_else(|e| panic!("{seed}: {e}"), run);
    }
    let is_long = std::env::var_os("MFS_HA_LONG").is_some();
    if !is_long {
        // A gate that every change passes through asks the same questions each time.
        return (0..count * 2).for_each(run);
    }
    let random = RandomState::new();
    for number in 0..count * 10 {
        run(number);
        run(random.hash_one(number));
    }
}

fn config(index: usize, priority: Priority, deadratio: u8) -> NodeConfig {
    NodeConfig {
        election: Settings {
            priority,
            deadratio: NonZeroU8::new(deadratio).unwrap_or(NonZeroU8::MIN),
            preempt: false,
            source: SOURCES[index],
            has_sole_peer: false,
        },
        quorum: None,
        is_gated: false,
        neutral: false,
        service: Service::Vip,
    }
}

fn with_preempt(mut config: NodeConfig) -> NodeConfig {
    config.election.preempt = true;
    config
}

/// Starts nodes one after the other, the best first, and waits until it serves and all follow it.
fn start_settled(world: &mut World, configs: &[NodeConfig]) -> Vec<Id> {
    let ids: Vec<Id> = configs
        .iter()
        .map(|config| world.add_node(*config))
        .collect();
    for id in &ids {
        world.start(*id);
        if *id == ids[0] {
            let serves = world.run_until(seconds(60), |world| world.owners() == [ids[0]]);
            world.require(serves, "the first node serves");
        }
    }
    world.run_for(seconds(5));
    world.require(world.owners() == [ids[0]], "the others follow the first");
    world.ownership = Ownership::default();
    world.transitions = 0;
    ids
}

fn require_one_stable_owner(world: &mut World, span: Duration) {
    let masters = world.masters();
    world.require(masters.len() == 1, "exactly one master");
    world.require(
        world.owners() == masters,
        "the master has the VIP, nobody else",
    );
    world.ownership = Ownership::default();
    world.transitions = 0;
    world.run_for(span);
    world.require(world.transitions == 0, "nobody changes its state");
    world.require(world.ownership.one == span, "one owner all the time");
}

fn random_config(rng: &mut Rng, index: usize, deadratio: u8, sole_peer: bool) -> NodeConfig {
    let advbase = [0, 0, 1, 1, 2][usize::try_from(rng.below(5)).unwrap_or(0)];
    let skews = [1, 2, 10, 10, 20, 100, 200, 254];
    let advskew = skews[usize::try_from(rng.below(8)).unwrap_or(0)];
    let mut config = config(index, Priority::new(advbase, advskew), deadratio);
    config.election.preempt = rng.percent(40);
    config.election.has_sole_peer = sole_peer;
    config.neutral = rng.percent(20);
    config
}

fn random_fault(world: &mut World) {
    let members = u64::try_from(world.len()).unwrap_or(1);
    let id = usize::try_from(world.rng.below(members)).unwrap_or(0);
    let other = usize::try_from(world.rng.below(members)).unwrap_or(0);
    match world.rng.below(14) {
        0 => world.crash(id),
        1..=3 => world.start(id),
        4 => world.stop(id),
        5 => world.freeze(id),
        6 | 7 => world.thaw(id),
        8 => world.set_link(id, false),
        9 => world.set_link(id, true),
        10 => world.set_vip_fails(id, true),
        11 => world.set_vip_fails(id, false),
        12 => world.cut(id, other),
        _ => world.heal(),
    }
    let pause = world.rng.between(Duration::ZERO, seconds(3));
    world.run_for(pause);
}

fn repair_everything(world: &mut World) {
    world.conditions = Conditions::GOOD;
    world.heal();
    for id in 0..world.len() {
        world.set_vip_fails(id, false);
        world.set_link(id, true);
        world.thaw(id);
    }
    // Who was asked to end does so first.
    world.run_for(seconds(1));
    for id in 0..world.len() {
        if !world.is_running(id) {
            world.start(id);
        }
    }
}

#[test]
fn after_any_faults_exactly_one_master_serves() {
    for_each_seed(60, |seed| {
        let mut rng = Rng(seed ^ 0x5eed);
        let conditions = Conditions {
            delay: (Duration::ZERO, millis(1 + rng.below(20))),
            loss_percent: rng.below(40),
            losses_in_a_row_max: u8::MAX,
            duplicate_percent: 10,
            wake_up_max: millis(1 + rng.below(20)),
            vip_step: (Duration::ZERO, millis(1 + rng.below(300))),
            ..Conditions::GOOD
        };
        let mut world = World::new(seed, conditions);
        let count = 2 + usize::try_from(rng.below(3)).unwrap_or(0);
        let deadratio = 2 + u8::try_from(rng.below(3)).unwrap_or(0);
        for index in 0..count {
            let config = random_config(&mut rng, index, deadratio, count == 2);
            let id = world.add_node(config);
            world.start(id);
            let pause = rng.between(Duration::ZERO, seconds(3));
            world.run_for(pause);
        }
        for _ in 0..20 {
            random_fault(&mut world);
        }
        repair_everything(&mut world);
        world.run_for(HOLD_DOWN + seconds(30));
        require_one_stable_owner(&mut world, seconds(20));
    });
}

/// At advbase 0 this holds whatever the skews are. From advbase 1 on it holds, as with ucarp, where the
/// backup's slot is longer than the master's slots of all intervals that it waits.
#[test]
fn fewer_lost_adverts_than_deadratio_never_replace_the_master() {
    for_each_seed(25, |seed| {
        let mut rng = Rng(seed ^ 0x1055);
        let deadratio = 2 + u8::try_from(rng.below(3)).unwrap_or(0);
        let advbase = u8::try_from(rng.below(3)).unwrap_or(0);
        let skew = 1 + u8::try_from(rng.below(40)).unwrap_or(0);
        let backup_skew = if advbase == 0 {
            skew + 1
        } else {
            skew * deadratio + 3
        };
        let configs: Vec<NodeConfig> = [skew, backup_skew, backup_skew + 20]
            .iter()
            .enumerate()
            .map(|(index, skew)| config(index, Priority::new(advbase, *skew), deadratio))
            .collect();
        let mut world = World::new(seed, Conditions::GOOD);
        start_settled(&mut world, &configs);
        world.conditions.loss_percent = 70;
        world.conditions.losses_in_a_row_max = deadratio - 1;
        world.conditions.duplicate_percent = 10;
        require_one_stable_owner(&mut world, seconds(if advbase == 0 { 30 } else { 300 }));
    });
}

#[test]
fn a_dead_master_is_replaced_by_the_best_within_the_bound() {
    for_each_seed(8, |seed| {
        let mut rng = Rng(seed ^ 0xdead);
        let advbase = u8::try_from(rng.below(2)).unwrap_or(0);
        let deadratio = 3;
        let step = 8 + u8::try_from(rng.below(30)).unwrap_or(0);
        let priorities = [1, 2, 3].map(|rank| Priority::new(advbase, step * rank));
        let configs: Vec<NodeConfig> = priorities
            .iter()
            .enumerate()
            .map(|(index, priority)| config(index, *priority, deadratio))
            .collect();
        let mut world = World::new(seed, Conditions::GOOD);
        let ids = start_settled(&mut world, &configs);
        for _ in 0..20 {
            let phase = world.rng.between(Duration::ZERO, seconds(1));
            world.run_for(phase);
            world.ownership = Ownership::default();
            let dead = world.owners()[0];
            world.crash(dead);
            let heir = ids.iter().copied().find(|id| *id != dead).unwrap_or(dead);
            // Rule E3, plus the wake-up and the VIP's step.
            let own = priorities[heir];
            let unit = if advbase == 0 {
                own.interval().max(priorities[dead].interval())
            } else {
                Duration::from_secs(advbase.into())
            };
            let bound = unit * u32::from(deadratio) + own.slot() + millis(4);
            let replaced = world.run_until(bound, |world| world.owners() == [heir]);
            world.require(replaced, "the best of the others has the VIP in time");
            world.start(dead);
            world.run_for(seconds(4));
            world.require(world.owners() == [heir], "who comes back follows");
            world.require(
                world.ownership.several == Duration::ZERO,
                "never two owners",
            );
        }
    });
}

/// At good conditions a farewell costs the heir's slot and nothing else, and nobody else jumps.
#[test]
fn a_bow_out_is_obeyed_by_exactly_one() {
    for_each_seed(15, |seed| {
        let mut rng = Rng(seed ^ 0xb0);
        let advbase = u8::try_from(rng.below(3)).unwrap_or(0);
        let count = 2 + usize::try_from(rng.below(3)).unwrap_or(0);
        let has_sole_peer = count == 2 && rng.percent(50);
        let step = 4 + u8::try_from(rng.below(50)).unwrap_or(0);
        let configs: Vec<NodeConfig> = (0..count)
            .zip(1_u8..)
            .map(|(index, rank)| {
                let mut config = config(index, Priority::new(advbase, step * rank), 3);
                config.election.has_sole_peer = has_sole_peer;
                config
            })
            .collect();
        let mut world = World::new(seed, Conditions::GOOD);
        world.conditions.vip_step = (Duration::ZERO, millis(1 + rng.below(150)));
        let ids = start_settled(&mut world, &configs);
        let phase = rng.between(Duration::ZERO, seconds(2));
        world.run_for(phase);
        world.transitions = 0;
        world.ownership = Ownership::default();
        world.stop(ids[0]);
        world.run_for(seconds(3));
        world.require(world.owners() == [ids[1]], "the next in rank has the VIP");
        world.require(world.transitions == 2, "one leaves and one takes over");
        world.require(
            world.ownership.several == Duration::ZERO,
            "never two owners",
        );
        let slot = if has_sole_peer {
            Duration::ZERO
        } else {
            configs[1].election.priority.slot()
        };
        let (_, vip_step_max) = world.conditions.vip_step;
        let gap_max = slot + vip_step_max + millis(4);
        world.require(world.ownership.nobody <= gap_max, "the slot bounds the gap");
    });
}

/// A VIP that does not go: the farewell is said at the limit all the same.
#[test]
fn a_stuck_vip_does_not_keep_a_node_from_leaving() {
    let mut world = World::new(1, Conditions::GOOD);
    let configs = [10, 20].map(|skew| Priority::new(0, skew));
    let configs = [config(0, configs[0], 3), config(1, configs[1], 3)];
    let ids = start_settled(&mut world, &configs);
    world.set_vip_fails(ids[0], true);
    world.stop(ids[0]);
    let limit = RESIGN_LIMIT + configs[1].election.priority.slot() + millis(5);
    let replaced = world.run_until(limit, |world| world.owners() == [ids[1]]);
    world.require(replaced, "the other one serves");
    world.require(!world.is_running(ids[0]), "and the first has left");
}

#[test]
fn nodes_of_one_priority_settle_to_one_master() {
    for_each_seed(15, |seed| {
        let mut rng = Rng(seed ^ 0xe9a1);
        let advbase = u8::try_from(rng.below(2)).unwrap_or(0);
        let priority = Priority::new(
            advbase,
            [1, 10, 254][usize::try_from(rng.below(3)).unwrap_or(0)],
        );
        let count = 2 + usize::try_from(rng.below(3)).unwrap_or(0);
        let mut world = World::new(seed, Conditions::GOOD);
        for index in 0..count {
            let mut config = config(index, priority, 3);
            config.election.preempt = rng.percent(50);
            let id = world.add_node(config);
            world.start(id);
            if rng.percent(50) {
                let pause = rng.between(Duration::ZERO, seconds(4));
                world.run_for(pause);
            }
        }
        world.run_for(seconds(15));
        require_one_stable_owner(&mut world, seconds(20));
        let dead = world.owners()[0];
        world.crash(dead);
        world.run_for(seconds(15));
        require_one_stable_owner(&mut world, seconds(20));
    });
}

/// A frozen master is replaced, and gives way on waking before its first word can unseat anybody.
#[test]
fn a_master_that_slept_gives_way_without_a_word() {
    for_each_seed(15, |seed| {
        let mut rng = Rng(seed ^ 0xf3);
        let advbase = u8::try_from(rng.below(2)).unwrap_or(0);
        let configs: Vec<NodeConfig> = [10, 20, 30]
            .iter()
            .enumerate()
            .map(|(index, skew)| config(index, Priority::new(advbase, *skew), 3))
            .collect();
        let mut world = World::new(seed, Conditions::GOOD);
        let ids = start_settled(&mut world, &configs);
        world.freeze(ids[0]);
        let sleep = seconds(6) + world.rng.between(Duration::ZERO, seconds(20));
        world.run_for(sleep);
        world.require(
            world.owners() == [ids[0], ids[1]],
            "the sleeper's address stays",
        );
        world.transitions = 0;
        world.thaw(ids[0]);
        world.run_for(millis(5));
        world.require(world.owners() == [ids[1]], "it goes on waking");
        world.require(world.transitions == 1, "only the sleeper changes its state");
        require_one_stable_owner(&mut world, seconds(10));
    });
}

/// A master that was stopped for longer than its own patience, but not for as long as its peers wait,
/// was not replaced: it goes on. Giving way would leave nobody.
#[test]
fn a_late_master_that_nobody_replaced_goes_on() {
    for frozen in [100, 130, 150, 200, 250] {
        for_each_seed(5, |seed| {
            let configs: Vec<NodeConfig> = [10, 20, 30]
                .iter()
                .enumerate()
                .map(|(index, skew)| config(index, Priority::new(0, *skew), 3))
                .collect();
            let mut world = World::new(seed, Conditions::GOOD);
            let ids = start_settled(&mut world, &configs);
            let phase = world.rng.between(Duration::ZERO, seconds(1));
            world.run_for(phase);
            world.freeze(ids[0]);
            world.run_for(millis(frozen));
            world.thaw(ids[0]);
            require_one_stable_owner(&mut world, seconds(5));
            world.require(world.owners() == [ids[0]], "it is the same master");
        });
    }
}

/// Who stalls a whole cluster and lets it go on changes nothing: whoever wakes first, the master is heard
/// before anybody believes in the silence (rule E11).
#[test]
fn a_stall_of_all_nodes_moves_nothing() {
    for_each_seed(60, |seed| {
        let mut rng = Rng(seed ^ 0x57a11);
        let advbase = u8::try_from(rng.below(2)).unwrap_or(0);
        // Long enough for every backup to find itself late, too short for the master to be sure that it was
        // replaced.
        let stalls = match advbase {
            0 => (millis(400), seconds(2)),
            _ => (millis(3300), millis(5500)),
        };
        let skews = [[10, 15, 20], [1, 2, 3], [18, 19, 20]];
        let skews = skews[usize::try_from(rng.below(3)).unwrap_or(0)];
        let mut configs: Vec<NodeConfig> = skews
            .iter()
            .enumerate()
            .map(|(index, skew)| config(index, Priority::new(advbase, *skew), 3))
            .collect();
        configs.truncate(2 + usize::try_from(rng.below(2)).unwrap_or(0));
        let mut world = World::new(seed, Conditions::GOOD);
        let ids = start_settled(&mut world, &configs);
        for _ in 0..10 {
            let phase = world.rng.between(Duration::ZERO, seconds(2));
            world.run_for(phase);
            for id in &ids {
                world.freeze(*id);
            }
            let stall = world.rng.between(stalls.0, stalls.1);
            world.run_for(stall);
            let apart = world.rng.below(2) * 20;
            let mut wakings: Vec<(Duration, Id)> = ids
                .iter()
                .map(|id| (world.rng.between(Duration::ZERO, millis(apart)), *id))
                .collect();
            wakings.sort_unstable();
            let mut waited = Duration::ZERO;
            for (at, id) in wakings {
                world.run_for(at.saturating_sub(waited));
                waited = at;
                world.thaw(id);
            }
            require_one_stable_owner(&mut world, seconds(4));
            world.require(world.owners() == [ids[0]], "it is the same master");
        }
    });
}

/// A backup that slept while its master died waits once more, and no longer than that.
#[test]
fn a_backup_that_slept_through_its_masters_death_takes_over() {
    for_each_seed(15, |seed| {
        let mut rng = Rng(seed ^ 0x51ee);
        let advbase = u8::try_from(rng.below(2)).unwrap_or(0);
        let priorities = [10, 20].map(|skew| Priority::new(advbase, skew));
        let configs = [config(0, priorities[0], 3), config(1, priorities[1], 3)];
        let mut world = World::new(seed, Conditions::GOOD);
        let ids = start_settled(&mut world, &configs);
        world.freeze(ids[1]);
        let pause = world.rng.between(Duration::ZERO, seconds(5));
        world.run_for(pause);
        world.crash(ids[0]);
        let sleep = world.rng.between(seconds(5), seconds(30));
        world.run_for(sleep);
        world.thaw(ids[1]);
        world.run_for(millis(1));
        world.require(world.owners().is_empty(), "it is not sure yet");
        let bound = priorities[0].interval() * 2 + priorities[1].slot() + millis(4);
        let served = world.run_until(bound, |world| world.owners() == [ids[1]]);
        world.require(served, "it takes over");
        require_one_stable_owner(&mut world, seconds(10));
    });
}

#[test]
fn a_node_that_cannot_set_its_vip_leaves_it_to_another() {
    for_each_seed(15, |seed| {
        let mut rng = Rng(seed ^ 0x01b);
        let advbase = u8::try_from(rng.below(2)).unwrap_or(0);
        let mut world = World::new(seed, Conditions::GOOD);
        let first = world.add_node(config(0, Priority::new(advbase, 10), 3));
        let second = world.add_node(config(1, Priority::new(advbase, 40), 3));
        world.set_vip_fails(first, true);
        world.start(first);
        world.start(second);
        let served = world.run_until(seconds(5), |world| world.owners() == [second]);
        world.require(served, "the second node serves");
        world.crash(second);
        // The first one is still in its hold-down, then tries again, and once more in vain.
        world.run_for(seconds(30));
        world.require(world.owners().is_empty(), "nobody can serve");
        world.set_vip_fails(first, false);
        let served = world.run_until(HOLD_DOWN + seconds(5), |world| world.owners() == [first]);
        world.require(served, "the first node serves when it can");
        require_one_stable_owner(&mut world, seconds(20));
    });
}

#[test]
fn the_better_node_preempts_once_and_without_a_return() {
    for_each_seed(15, |seed| {
        let mut rng = Rng(seed ^ 0x94ee);
        let advbase = u8::try_from(rng.below(2)).unwrap_or(0);
        let configs = [30, 20].map(|skew| Priority::new(advbase, skew));
        let mut world = World::new(seed, Conditions::GOOD);
        start_settled(
            &mut world,
            &[config(0, configs[0], 3), config(1, configs[1], 3)],
        );
        let best = world.add_node(with_preempt(config(2, Priority::new(advbase, 10), 3)));
        world.start(best);
        let served = world.run_until(seconds(4), |world| world.owners() == [best]);
        world.require(served, "the better node takes over");
        world.require(world.transitions == 3, "it starts, wins, and one gives way");
        require_one_stable_owner(&mut world, seconds(20));
    });
}

fn ucarp(index: usize, priority: Priority, preempt: bool) -> UcarpConfig {
    UcarpConfig {
        priority,
        deadratio: 3,
        preempt,
        source: SOURCES[index],
        script: millis(20),
    }
}

/// ucarp at advbase 1, nodes at advbase 0 or 1, skews that may be equal: they agree on one master, and
/// on another one when it dies. Two masters for a second or two in between are ucarp's way.
#[test]
fn nodes_and_ucarps_agree_on_one_master() {
    for_each_seed(25, |seed| {
        let mut rng = Rng(seed ^ 0x0ca);
        let mut world = World::new(seed, Conditions::GOOD);
        let count = 2 + usize::try_from(rng.below(3)).unwrap_or(0);
        for index in 0..count {
            let skew = [0, 0, 10, 50, 100][usize::try_from(rng.below(5)).unwrap_or(0)];
            let id = if index == 0 || rng.percent(40) {
                world.add_ucarp(ucarp(index, Priority::new(1, skew), rng.percent(40)))
            } else {
                let advbase = u8::try_from(rng.below(2)).unwrap_or(0);
                let mut config = config(index, Priority::new(advbase, skew.max(1)), 3);
                config.election.preempt = rng.percent(40);
                world.add_node(config)
            };
            world.start(id);
            let pause = rng.between(Duration::ZERO, seconds(5));
            world.run_for(pause);
        }
        world.run_for(seconds(20));
        require_one_stable_owner(&mut world, seconds(60));
        let dead = world.owners()[0];
        world.crash(dead);
        world.run_for(seconds(20));
        require_one_stable_owner(&mut world, seconds(60));
        world.start(dead);
        world.run_for(seconds(20));
        require_one_stable_owner(&mut world, seconds(60));
    });
}

/// Equal priorities, both orders of addresses: whoever ucarp thinks has won is who mfs-ha thinks has.
#[test]
fn a_tie_with_ucarp_leaves_one_master() {
    for (own, other) in [(0, 1), (1, 0), (2, 1), (3, 0)] {
        let mut world = World::new(7, Conditions::GOOD);
        let node = world.add_node(config(own, Priority::new(1, 0), 3));
        let peer = world.add_ucarp(ucarp(other, Priority::new(1, 0), false));
        world.start(node);
        world.start(peer);
        let contested = world.run_until(seconds(10), |world| world.masters().len() == 2);
        world.require(contested, "both become master at a cold start");
        world.run_for(seconds(3));
        require_one_stable_owner(&mut world, seconds(60));
        let wins = tie_break(SOURCES[own], SOURCES[other]).is_lt();
        let expected = if wins { node } else { peer };
        world.require(world.owners() == [expected], "the lower last octet wins");
    }
}

#[test]
fn a_ucarp_heir_obeys_the_bow_out() {
    for_each_seed(10, |seed| {
        let mut world = World::new(seed, Conditions::GOOD);
        let ids = start_settled(&mut world, &[config(0, Priority::new(0, 10), 3)]);
        let peer = world.add_ucarp(ucarp(1, Priority::new(1, 0), false));
        world.start(peer);
        world.run_for(seconds(5));
        world.stop(ids[0]);
        // It reads up to a second late, and then its script runs.
        let served = world.run_until(millis(1100), |world| world.owners() == [peer]);
        world.require(served, "ucarp takes over at once");
    });
}

/// Who hears but is not heard stays backup; who is heard but is deaf is master; healed, one remains.
#[test]
fn a_one_way_cut_is_survived() {
    let mut world = World::new(3, Conditions::GOOD);
    let configs = [10, 20].map(|skew| Priority::new(0, skew));
    let ids = start_settled(
        &mut world,
        &[config(0, configs[0], 3), config(1, configs[1], 3)],
    );
    world.cut(ids[1], ids[0]);
    require_one_stable_owner(&mut world, seconds(10));
    world.cut(ids[0], ids[1]);
    world.run_for(seconds(2));
    world.require(world.owners() == ids, "a partition has two masters");
    world.heal();
    world.run_for(millis(200));
    world.require(world.owners() == [ids[0]], "the better one remains");
    require_one_stable_owner(&mut world, seconds(10));
}

#[test]
fn the_same_seed_makes_the_same_history() {
    let run = |seed: u64| {
        let mut world = World::new(seed, Conditions::GOOD);
        let configs = [10, 20].map(|skew| Priority::new(0, skew));
        start_settled(
            &mut world,
            &[config(0, configs[0], 3), config(1, configs[1], 3)],
        );
        for _ in 0..10 {
            random_fault(&mut world);
        }
        world.history
    };
    assert_eq!(run(11), run(11));
    assert_ne!(run(11), run(12));
}

#[test]
fn a_restarted_node_listens_before_it_speaks() {
    let mut world = World::new(5, Conditions::GOOD);
    let ids = start_settled(&mut world, &[config(0, Priority::new(0, 10), 3)]);
    let late = world.add_node(config(1, Priority::new(0, 1), 3));
    world.start(late);
    world.run_for(seconds(10));
    assert_eq!(world.node(late).status().state, State::Backup);
    world.require(world.owners() == ids, "without preempt the master stays");
}
