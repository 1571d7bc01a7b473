//! Nodes that serve metadata: steps that take their time, fail and hang, and metadata masters that die.

use std::time::Duration;

use mfs_ha_common::node::NodeConfig;
use mfs_ha_common::priority::Priority;
use mfs_ha_common::promotion::{PROMOTION, Phase, STABLE, Service, Step};

use super::rng::Rng;
use super::sim::{Conditions, Id, Ownership, StepFault, World};
use super::{
    config, for_each_seed, millis, random_config, random_fault, repair_everything,
    require_one_stable_owner, seconds, start_settled, with_preempt,
};

fn serving_metadata(mut config: NodeConfig) -> NodeConfig {
    config.service = Service::METADATA;
    config
}

fn configs(advbase: u8, skews: &[u8]) -> Vec<NodeConfig> {
    let skews = skews.iter().enumerate();
    skews
        .map(|(index, skew)| serving_metadata(config(index, Priority::new(advbase, *skew), 3)))
        .collect()
}

fn advbase(rng: &mut Rng) -> u8 {
    u8::try_from(rng.below(2)).unwrap_or(0)
}

/// The one owner serves, and nobody else does or could.
fn require_one_server(world: &mut World, span: Duration) {
    require_one_stable_owner(world, span);
    let owners = world.owners();
    world.require(world.servers() == owners, "what is behind the VIP serves");
    for id in 0..world.len() {
        if world.is_running(id) {
            let phase = world.node(id).status().phase;
            let expected = if owners == [id] {
                Phase::Active
            } else {
                Phase::Standby
            };
            world.require(phase == expected, &format!("{id} is {}", expected.name()));
        }
    }
}

/// Silence, slot, eight steps and the VIP.
fn takeover_bound(config: &NodeConfig, dead: &NodeConfig) -> Duration {
    let own = config.election.priority;
    let unit = if own.advbase() == 0 {
        own.interval().max(dead.election.priority.interval())
    } else {
        Duration::from_secs(own.advbase().into())
    };
    unit * 3 + own.slot() + millis(50) * 8 + millis(10)
}

#[test]
fn a_dead_server_is_replaced_by_the_best_of_the_others() {
    for_each_seed(10, |seed| {
        let mut rng = Rng(seed ^ 0xdead);
        let configs = configs(advbase(&mut rng), &[10, 25, 40]);
        let mut world = World::new(seed, Conditions::GOOD);
        let ids = start_settled(&mut world, &configs);
        for _ in 0..10 {
            let phase = world.rng.between(Duration::ZERO, seconds(1));
            world.run_for(phase);
            world.ownership = Ownership::default();
            let dead = world.servers()[0];
            world.crash(dead);
            let heir = ids.iter().copied().find(|id| *id != dead).unwrap_or(dead);
            let bound = takeover_bound(&configs[heir], &configs[dead]);
            let replaced = world.run_until(bound, |world| world.servers() == [heir]);
            world.require(replaced, "the best of the others serves in time");
            world.start(dead);
            world.run_for(seconds(6));
            world.require(world.ownership.several.is_zero(), "never two owners");
            require_one_server(&mut world, seconds(1));
        }
    });
}

/// A step that fails or hangs: the next node serves, and the first one is there again when it can.
#[test]
fn who_cannot_serve_leaves_it_to_another_and_comes_back() {
    // The VIP's step is none of the executor's, and without a gate the last one is not done.
    let left_out = [Step::TakeVip, Step::AdmitChunkservers];
    let steps = PROMOTION
        .into_iter()
        .filter(|step| !left_out.contains(step));
    for (step, hangs) in steps.flat_map(|step| [(step, false), (step, true)]) {
        for_each_seed(2, |seed| {
            let mut rng = Rng(seed ^ 0xfa11);
            let configs = configs(advbase(&mut rng), &[10, 40]);
            let mut world = World::new(seed, Conditions::GOOD);
            let [first, second] = [0, 1].map(|index| world.add_node(configs[index]));
            let fault = if hangs {
                StepFault::Hangs(step)
            } else {
                StepFault::Fails(step)
            };
            world.set_step_fault(first, Some(fault));
            world.start(first);
            world.start(second);
            let served = world.run_until(seconds(45), |world| world.servers() == [second]);
            world.require(served, "the second node serves");
            world.require(world.ownership.several.is_zero(), "never two owners");
            world.run_for(seconds(20));
            require_one_server(&mut world, seconds(5));
            // Alone, it tries again after each hold-down, and in vain.
            world.crash(second);
            world.run_for(seconds(100));
            world.require(world.owners().is_empty(), "nobody can serve");
            world.set_step_fault(first, None);
            let served = world.run_until(seconds(250), |world| world.servers() == [first]);
            world.require(served, "it serves as soon as it can");
            require_one_server(&mut world, seconds(5));
            world.start(second);
            world.run_for(STABLE);
            require_one_server(&mut world, seconds(5));
            let failures = world.node(first).status().failures;
            world.require(failures > 0, "it is not forgotten before the next time");
        });
    }
}

/// One restart where it died; a second death soon after is another node's turn.
#[test]
fn a_metadata_master_that_dies_is_restarted_once() {
    for_each_seed(10, |seed| {
        let mut rng = Rng(seed ^ 0x0e57);
        let configs = configs(advbase(&mut rng), &[10, 40]);
        let mut world = World::new(seed, Conditions::GOOD);
        let ids = start_settled(&mut world, &configs);
        world.run_for(STABLE);
        world.kill_master(ids[0]);
        world.run_for(millis(4));
        world.require(world.owners().is_empty(), "clients are not refused");
        let restarted = world.run_until(millis(500), |world| world.servers() == [ids[0]]);
        world.require(restarted, "it is restarted where it was");
        world.require(world.transitions == 0, "and stays master meanwhile");
        let stable = world.rng.percent(50);
        // It serves a little later than its address is there.
        let pause = if stable {
            STABLE + millis(10)
        } else {
            seconds(20)
        };
        world.run_for(pause);
        world.ownership = Ownership::default();
        world.kill_master(ids[0]);
        let expected = if stable { ids[0] } else { ids[1] };
        let served = world.run_until(seconds(2), |world| world.servers() == [expected]);
        world.require(
            served,
            "the second death within 30 s is another node's turn",
        );
        world.require(world.ownership.several.is_zero(), "never two owners");
        world.run_for(seconds(20));
        require_one_server(&mut world, seconds(5));
    });
}

/// A metadata master that cannot be stopped keeps its node out of everything until it is gone.
#[test]
fn a_node_that_cannot_stop_its_master_is_stuck_without_the_vip() {
    for_each_seed(10, |seed| {
        let mut rng = Rng(seed ^ 0x57c);
        let fault = if rng.percent(50) {
            StepFault::Hangs(Step::StopMaster)
        } else {
            StepFault::Fails(Step::StopMaster)
        };
        let advbase = advbase(&mut rng);
        let mut world = World::new(seed, Conditions::GOOD);
        let ids = start_settled(&mut world, &configs(advbase, &[30]));
        let best = config(1, Priority::new(advbase, 10), 3);
        let best = world.add_node(with_preempt(serving_metadata(best)));
        world.set_step_fault(ids[0], Some(fault));
        world.start(best);
        let served = world.run_until(seconds(4), |world| world.owners() == [best]);
        world.require(served, "the VIP moves all the same");
        world.run_for(seconds(7));
        let phase = |world: &World| world.node(ids[0]).status().phase;
        world.require(phase(&world) == Phase::Stuck, "the first node is stuck");
        world.crash(best);
        world.run_for(seconds(30));
        world.require(world.owners().is_empty(), "and does not serve");
        world.set_step_fault(ids[0], None);
        let bound = seconds(1) + millis(200);
        let is_free = world.run_until(bound, |world| phase(world) != Phase::Stuck);
        world.require(is_free, "until its master is gone");
        world.run_for(seconds(6));
        require_one_server(&mut world, seconds(5));
    });
}

/// The operator's end: the heir serves after a slot and its steps; two seconds bound the exit.
#[test]
fn a_server_that_is_told_to_end_does_so_in_time() {
    for_each_seed(10, |seed| {
        let mut rng = Rng(seed ^ 0x0ff);
        let configs = configs(advbase(&mut rng), &[10, 40]);
        let mut world = World::new(seed, Conditions::GOOD);
        let ids = start_settled(&mut world, &configs);
        let faults = [
            None,
            Some(StepFault::Hangs(Step::StopMaster)),
            Some(StepFault::Hangs(Step::RestoreMetadata)),
        ];
        let fault = faults[usize::try_from(rng.below(3)).unwrap_or(0)];
        world.set_step_fault(ids[0], fault);
        world.stop(ids[0]);
        let has_left = world.run_until(seconds(2) + millis(2), |world| !world.is_running(ids[0]));
        world.require(has_left, "it ends");
        world.run_for(seconds(1));
        world.require(world.ownership.several.is_zero(), "never two owners");
        require_one_server(&mut world, seconds(5));
    });
}

/// A node without metadata is the last choice, and no choice while another one lives.
#[test]
fn a_node_that_is_not_ready_waits_longest() {
    for_each_seed(10, |seed| {
        let mut rng = Rng(seed ^ 0x4ead);
        let advbase = advbase(&mut rng);
        let mut world = World::new(seed, Conditions::GOOD);
        let ids = start_settled(&mut world, &configs(advbase, &[30, 60]));
        let empty = config(2, Priority::new(advbase, 10), 3);
        let empty = world.add_node(with_preempt(serving_metadata(empty)));
        world.start(empty);
        world.set_ready(empty, false);
        world.run_for(millis(50));
        world.require(world.owners() == [ids[0]], "it does not preempt");
        world.crash(ids[0]);
        let served = world.run_until(seconds(6), |world| world.servers() == [ids[1]]);
        world.require(served, "the node that is ready serves");
        require_one_server(&mut world, seconds(10));
    });
}

/// Whatever happened to steps, masters, links and daemons: in the end exactly one serves.
#[test]
fn after_any_faults_exactly_one_serves_metadata() {
    for_each_seed(40, |seed| {
        let mut rng = Rng(seed ^ 0x5eed);
        let conditions = Conditions {
            delay: (Duration::ZERO, millis(1 + rng.below(20))),
            loss_percent: rng.below(40),
            losses_in_a_row_max: u8::MAX,
            duplicate_percent: 10,
            wake_up_max: millis(1 + rng.below(20)),
            vip_step: (Duration::ZERO, millis(1 + rng.below(300))),
            step: (Duration::ZERO, millis(1 + rng.below(2000))),
        };
        let mut world = World::new(seed, conditions);
        let count = 2 + usize::try_from(rng.below(3)).unwrap_or(0);
        for index in 0..count {
            let config = random_config(&mut rng, index, 3, count == 2);
            let id = world.add_node(serving_metadata(config));
            world.start(id);
            let pause = rng.between(Duration::ZERO, seconds(3));
            world.run_for(pause);
        }
        for _ in 0..20 {
            random_step_fault(&mut world);
            random_fault(&mut world);
        }
        for id in 0..world.len() {
            world.set_step_fault(id, None);
        }
        repair_everything(&mut world);
        for id in 0..world.len() {
            world.set_ready(id, true);
        }
        // The longest hold-down, and what failed once more before everything was well.
        world.run_for(seconds(160 + 60));
        require_one_server(&mut world, seconds(20));
    });
}

fn random_step_fault(world: &mut World) {
    let members = u64::try_from(world.len()).unwrap_or(1);
    let id: Id = usize::try_from(world.rng.below(members)).unwrap_or(0);
    match world.rng.below(6) {
        0 => world.set_step_fault(id, Some(StepFault::Either(20))),
        1 => world.set_step_fault(id, None),
        2 => world.kill_master(id),
        3 => world.set_ready(id, false),
        _ => world.set_ready(id, true),
    }
}
