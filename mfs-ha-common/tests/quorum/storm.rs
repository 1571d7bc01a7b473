//! What strikes a cluster: crashes, pauses, cuts, losses, slow disks, failing steps, and a new member.

use mfs_ha_common::cluster::Role;
use mfs_ha_common::event::Event;
use mfs_ha_common::promotion::{PROMOTION, Step};

use crate::judge::Judge;
use crate::member::{GROWTH, Id, StepFault};
use crate::plan::{MS, Plan, SECOND};
use crate::record::Recording;
use crate::rng::Rng;
use crate::world::World;

/// What came of a seed.
pub(crate) struct Outcome {
    pub(crate) violation: Option<String>,
    pub(crate) takeovers: u64,
    pub(crate) leaseless_max: u64,
    pub(crate) recording: Option<Recording>,
}

/// Runs one seed to its end.
pub(crate) fn run(seed: u64, is_recorded: bool) -> Outcome {
    let mut rng = Rng(seed);
    let plan = Plan::new(&mut rng);
    let recording = is_recorded.then(Recording::default);
    let mut world = World::new(seed, plan, recording);
    world.start_all();
    let stormy_until = world.now + plan.stormy;
    while world.now < stormy_until && !world.judge.has_failed() {
        let pause = rng.between(10 * MS, plan.lease() * 4);
        let next = world.now + pause;
        world.run_until(next);
        if !world.judge.has_failed() {
            strike(&mut world, &mut rng);
        }
    }
    calm_down(&mut world);
    let end = world.now + plan.quiet + plan.lease() * 4;
    world.run_until(end);
    outcome(world)
}

/// Runs one course: the holder dies while one of two standbys sleeps, which wakes when the other has been free for
/// long. Seldom enough in a storm to be looked for by itself.
pub(crate) fn wake_late(seed: u64) -> Outcome {
    let mut rng = Rng(seed);
    let plan = Plan {
        candidates: 3,
        witnesses: 0,
        has_metadata: true,
        grows: false,
        rolls_back: false,
        ..Plan::new(&mut rng)
    };
    let mut world = World::new(seed, plan, None);
    world.start_all();
    world.run_until(world.now + SECOND);
    let holds = |world: &World, id: Id| world.members[id].holds_until > Some(world.now);
    if let Some(holder) = (0..plan.members()).find(|id| holds(&world, *id)) {
        let sleeper = (holder + 1 + usize::from(rng.percent(50))) % plan.members();
        world.run_until(world.now + rng.between(MS, SECOND));
        // The judge of S2 wants everybody else to be settled.
        let sleep = Judge::settled_for(&plan) + rng.below(plan.lease());
        world.members[sleeper].paused_until = world.now + sleep;
        world.touch(sleeper);
        world.crash(holder);
        world.run_until(world.now + sleep + 4 * plan.lease());
    }
    outcome(world)
}

fn outcome(mut world: World) -> Outcome {
    let violation = world.judge.violation();
    Outcome {
        violation: violation.map(|what| format!("{what}\n{:?}", world.plan)),
        takeovers: world.judge.takeovers,
        leaseless_max: world.judge.leaseless_max,
        recording: world.recording.take(),
    }
}

fn calm_down(world: &mut World) {
    world.conditions = world.plan.calm;
    for row in &mut world.cuts {
        row.fill(false);
    }
    for id in 0..world.plan.members() {
        world.members[id].fault = None;
        set_disk(world, id, false);
        world.members[id].paused_until = world.now;
        if !world.members[id].has_link {
            set_link(world, id, true);
        }
        world.touch(id);
        if world.members[id].node.is_none() {
            world.start(id);
        }
        world.schedule_turn(id);
    }
}

fn strike(world: &mut World, rng: &mut Rng) {
    let id = usize::try_from(rng.below(u64::try_from(world.plan.members()).unwrap())).unwrap();
    match rng.below(100) {
        0..15 => crash_or_start(world, rng, id),
        15..30 => pause(world, rng, id),
        30..42 => cut_one_way(world, rng, id),
        42..52 => isolate(world, rng, id),
        52..68 => heal(world),
        68..74 => toggle_loss(world, rng),
        74..77 => toggle_slowness(world, rng),
        77..80 => set_disk(world, id, !world.members[id].disk_hangs),
        80..97 if world.plan.grows => grow(world, rng),
        80..86 => toggle_fault(world, rng, id),
        86..90 => world.tell(id, Event::StopRequested),
        90..94 => {
            let is_up = !world.members[id].has_link;
            set_link(world, id, is_up);
        }
        97..99 if world.plan.rolls_back => roll_back(world, id),
        _ => lose_master(world, id),
    }
}

fn crash_or_start(world: &mut World, rng: &mut Rng, id: Id) {
    if world.members[id].node.is_some() {
        world.crash(id);
        if rng.percent(60) {
            return;
        }
    }
    world.start(id);
}

/// The process hangs, or the whole machine: then what arrives meanwhile is stamped when it wakes.
fn pause(world: &mut World, rng: &mut Rng, id: Id) {
    let longest = if rng.percent(70) {
        2 * world.plan.lease()
    } else {
        2 * SECOND
    };
    let until = world.now + rng.between(MS, longest);
    let paused_until = &mut world.members[id].paused_until;
    *paused_until = until.max(*paused_until);
    world.touch(id);
}

fn cut_one_way(world: &mut World, rng: &mut Rng, id: Id) {
    let count = world.members.len();
    let other =
        (id + 1 + usize::try_from(rng.below(u64::try_from(count - 1).unwrap())).unwrap()) % count;
    world.cuts[id][other] = true;
    world.touch(id);
    world.touch(other);
}

fn isolate(world: &mut World, rng: &mut Rng, id: Id) {
    let (deaf, mute) = match rng.below(3) {
        0 => (true, true),
        1 => (true, false),
        _ => (false, true),
    };
    for other in 0..world.members.len() {
        if other != id {
            world.cuts[other][id] |= deaf;
            world.cuts[id][other] |= mute;
            world.touch(other);
        }
    }
    world.touch(id);
}

fn heal(world: &mut World) {
    for row in &mut world.cuts {
        row.fill(false);
    }
    for id in 0..world.members.len() {
        world.touch(id);
    }
}

fn toggle_loss(world: &mut World, rng: &mut Rng) {
    let calm = world.plan.calm;
    if world.conditions.loss_percent > 0 {
        world.conditions = calm;
    } else {
        world.conditions.loss_percent = rng.between(1, 60);
        world.conditions.duplicate_percent = rng.between(0, 30);
        world.conditions.delay = (20_000, rng.between(MS, world.plan.lease() / 2));
    }
    for id in 0..world.members.len() {
        world.touch(id);
    }
}

/// Disks and processors of everybody; slow enough to be lost counts as loss for the judges of S2 and S3.
fn toggle_slowness(world: &mut World, rng: &mut Rng) {
    if world.conditions.loss_percent == 0 {
        world.conditions.loss_percent = 1;
        world.conditions.store = (MS, rng.between(2 * MS, 2 * world.plan.lease()));
        world.conditions.freeze = (MS, rng.between(2 * MS, world.plan.lease()));
        world.conditions.wake_up = (0, rng.between(MS, world.plan.lease() / 2));
    } else {
        world.conditions = world.plan.calm;
    }
}

/// What was on its way to a disk that hangs has arrived; what comes after that waits.
fn set_disk(world: &mut World, id: Id, hangs: bool) {
    world.members[id].disk_hangs = hangs;
    world.touch(id);
    world.store(id);
}

fn toggle_fault(world: &mut World, rng: &mut Rng, id: Id) {
    let steps: Vec<Step> = PROMOTION
        .into_iter()
        .filter(|step| *step != Step::TakeVip)
        .collect();
    let step = steps[usize::try_from(rng.below(u64::try_from(steps.len()).unwrap())).unwrap()];
    world.members[id].fault = match world.members[id].fault {
        Some(_) => None,
        None if rng.percent(50) => Some(StepFault::Fails(step)),
        None => Some(StepFault::Hangs(step)),
    };
}

fn set_link(world: &mut World, id: Id, is_up: bool) {
    if world.members[id].role == Role::Witness {
        return;
    }
    world.members[id].has_link = is_up;
    world.touch(id);
    world.tell(
        id,
        if is_up {
            Event::LinkUp
        } else {
            Event::LinkDown
        },
    );
}

fn lose_master(world: &mut World, id: Id) {
    if world.members[id].has_master {
        world.members[id].has_master = false;
        world.tell(id, Event::MetadataMasterLost);
    }
}

/// Rule L10: one more voter. Whoever has the list of its generation in force is restarted with the next one, in any
/// order; newcomers come with the first list that names them.
fn grow(world: &mut World, rng: &mut Rng) {
    let count = u64::try_from(world.members.len()).unwrap();
    let id = usize::try_from(rng.below(count)).unwrap();
    let first = 1 + u32::try_from(id.saturating_sub(world.plan.members() - 1)).unwrap();
    let generation = world.members[id].generation;
    let is_new = world.members[id].life == 0;
    let in_force = world.members[id].disk.membership.generation == generation;
    let next = if is_new {
        first
    } else {
        generation + u32::from(in_force)
    };
    world.members[id].generation = next.min(1 + u32::try_from(GROWTH).unwrap());
    if world.members[id].node.is_some() {
        world.crash(id);
    }
    world.start(id);
}

/// A machine comes back from a snapshot: what it has granted since is forgotten.
fn roll_back(world: &mut World, id: Id) {
    world.crash(id);
    world.members[id].disk = world.members[id].older_disk;
    world.start(id);
}
