//! The judges: each knows one rule from `docs/protocol.md` and looks at the world, not into the node.
//!
//! S1: at most one machine believes to hold an unexpired lease, machines that died or hang included.
//! S2: what is promoted is the freshest among the ready nodes that a majority can reach.
//! S3: with a majority mutually connected and a ready candidate, somebody holds the lease in time.

use std::collections::BTreeMap;

use mfs_ha_common::action::Action;
use mfs_ha_common::election::State;
use mfs_ha_common::election::quorum::Obstacle;
use mfs_ha_common::event::Event;
use mfs_ha_common::gate::OPEN_CLIENTS;
use mfs_ha_common::heartbeat::{Flags, Grant, Heartbeat, Stamp};
use mfs_ha_common::node::NodeStatus;
use mfs_ha_common::promotion::Phase;
use mfs_ha_common::time::Timestamp;

use crate::member::{Id, MAX_LAG, members};
use crate::plan::{MS, Plan};
use crate::world::World;

#[derive(Clone, Debug)]
pub(crate) struct Judge {
    violation: Option<String>,
    /// Since when each set of members is a connected majority with a ready candidate.
    good_since: Vec<Option<u64>>,
    /// When a lease was last in force.
    leased_at: u64,
    /// Who has held each epoch.
    holders: BTreeMap<u64, Id>,
    /// What each round asked for, and whether as a holder.
    asked: BTreeMap<(Id, Stamp), bool>,
    /// What each voter said last that it has granted, and the highest that it ever said.
    granted: Vec<(Grant, u64)>,
    pub(crate) takeovers: u64,
    pub(crate) leaseless_max: u64,
}

impl Judge {
    pub(crate) fn new(members: usize) -> Self {
        Self {
            violation: None,
            good_since: vec![None; 1 << members],
            leased_at: 0,
            holders: BTreeMap::new(),
            asked: BTreeMap::new(),
            granted: vec![(Grant::default(), 0); members],
            takeovers: 0,
            leaseless_max: 0,
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.violation.is_some()
    }

    pub(crate) fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    fn fail(&mut self, now: u64, what: String) {
        if self.violation.is_none() {
            let (seconds, micros) = (now / 1_000_000_000, now % 1_000_000_000 / 1000);
            self.violation = Some(format!("{seconds}.{micros:06}: {what}"));
        }
    }

    /// What has to hold after each step of each node.
    pub(crate) fn check_turn(
        world: &mut World,
        id: Id,
        at: Timestamp,
        event: Event,
        before: NodeStatus,
        actions: &[Action],
    ) {
        Self::check_tick(world, id, at, event, before, actions);
        Self::check_lease(world, id, at, actions);
        Self::check_gates(world, id, at);
        let takes_over = actions
            .iter()
            .any(|action| matches!(action, Action::Report(report) if report.to == State::Master));
        if takes_over {
            world.judge.takeovers += 1;
            Self::check_freshest(world, id);
        }
    }

    /// A tick before the deadline does nothing; after a tick the deadline lies ahead.
    fn check_tick(
        world: &mut World,
        id: Id,
        at: Timestamp,
        event: Event,
        before: NodeStatus,
        actions: &[Action],
    ) {
        let Some(node) = world.members[id].node.as_ref() else {
            return;
        };
        let next = node.poll_timeout();
        let is_early = before.next.is_none_or(|(due, _)| due > at);
        if event == Event::Tick && is_early && !actions.is_empty() {
            let what = format!("{id}: an early tick did {actions:?}, due {:?}", before.next);
            world.judge.fail(world.now, what);
        } else if event == Event::Tick && next.is_some_and(|(due, _)| due <= at) {
            let what = format!("{id}: after a tick at {at:?} {next:?} lies behind");
            world.judge.fail(world.now, what);
        }
    }

    /// S1, and that the VIP is asked for under a lease only, and that no epoch has two holders.
    fn check_lease(world: &mut World, id: Id, at: Timestamp, actions: &[Action]) {
        let now = world.now;
        let Some(lease) = world.members[id]
            .node
            .as_ref()
            .and_then(|node| node.lease(at))
        else {
            return;
        };
        let ends = lease.ends.map(|ends| world.members[id].clock.real(ends));
        world.members[id].holds_until = ends;
        let holds = ends.is_some_and(|ends| ends > now);
        if holds {
            world.judge.leased_at = now;
            let others = world.members.iter().enumerate();
            let other = others
                .filter(|(other, member)| {
                    *other != id && member.holds_until.is_some_and(|until| until > now)
                })
                .map(|(other, _)| other)
                .next();
            if let Some(other) = other {
                let what = format!("S1: {id} and {other} hold a lease, {id} {lease:?}");
                world.judge.fail(now, what);
            }
            let first = *world.judge.holders.entry(lease.ballot.epoch).or_insert(id);
            if first != id && !world.plan.rolls_back {
                let what = format!(
                    "epoch {} has two holders: {first} and {id}",
                    lease.ballot.epoch
                );
                world.judge.fail(now, what);
            }
        }
        let takes_vip = actions.contains(&Action::SetVip { present: true });
        if takes_vip && !holds {
            world.judge.fail(
                now,
                format!("{id} takes the VIP without a lease: {lease:?}"),
            );
        }
    }

    /// S1 as others see it: at most one kernel lets anything out, those of dead and hanging daemons included. What
    /// is open is leased, to a node that wants to serve, and whoever serves can be reached.
    fn check_gates(world: &mut World, id: Id, at: Timestamp) {
        let Some(node) = world.members[id]
            .node
            .as_ref()
            .filter(|_| world.plan.is_gated)
        else {
            return;
        };
        let (gate, status) = (node.gate(), node.status());
        let ends = node.lease(at).and_then(|lease| lease.ends);
        let now = world.now;
        if gate.is_open(at) {
            let is_leased = ends.is_some_and(|ends| gate.until <= ends);
            let serves = matches!(status.phase, Phase::Promoting | Phase::Active);
            if !is_leased || !serves || status.state != State::Master {
                let what = format!("G1: the gate of {id} is {gate:?} in {status:?}");
                world.judge.fail(now, what);
            }
        }
        let is_reachable = world.members[id].kernel.is_open(at) && gate.open & OPEN_CLIENTS != 0;
        if status.phase == Phase::Active && ends.is_some_and(|ends| ends > at) && !is_reachable {
            let what = format!("G4: {id} is active behind {gate:?}");
            world.judge.fail(now, what);
        }
        let open: Vec<Id> = (0..world.members.len())
            .filter(|other| {
                let member = &world.members[*other];
                member.kernel.is_open(member.clock.local(now))
            })
            .collect();
        if open.len() > 1 {
            world
                .judge
                .fail(now, format!("S1: the gates of {open:?} are open"));
        }
    }

    /// What a voter says it has granted is on its disk (L4), is not lower than before (L1), and is only extended
    /// for a holder (L1c).
    pub(crate) fn check_heartbeat(world: &mut World, from: Id, heartbeat: &Heartbeat) {
        let is_held = heartbeat.flags.has(Flags::HELD);
        world.judge.asked.insert((from, heartbeat.stamp), is_held);
        let grant = heartbeat.grant;
        let epoch = grant.ballot.epoch;
        if epoch == 0 || world.plan.rolls_back {
            return;
        }
        let now = world.now;
        let (before, highest) = world.judge.granted[from];
        if epoch > world.members[from].disk.granted.epoch {
            world.judge.fail(
                now,
                format!("L4: {from} answers with {grant:?} before it is on disk"),
            );
        }
        if epoch < highest {
            world.judge.fail(
                now,
                format!("L1: {from} grants {grant:?} after epoch {highest}"),
            );
        }
        let candidate = usize::from(grant.ballot.candidate) - 1;
        let was_held = world.judge.asked.get(&(candidate, grant.request)).copied();
        let is_extended = before.ballot == grant.ballot && before.request != grant.request;
        if is_extended && was_held == Some(false) {
            world.judge.fail(
                now,
                format!("L1c: {from} extends {before:?} to {grant:?} for a repeated ask"),
            );
        }
        world.judge.granted[from] = (grant, highest.max(epoch));
    }

    /// How long nothing may have changed about a member whose metadata have to count.
    pub(crate) fn settled_for(plan: &Plan) -> u64 {
        plan.lease() + 8 * plan.interval() + 100 * MS
    }

    /// S2. Only who was settled and reachable for a while can have been asked.
    fn check_freshest(world: &mut World, winner: Id) {
        let window = Self::settled_for(&world.plan);
        let is_lossless = world.conditions.loss_percent == 0;
        if world.now < window || !is_lossless {
            return;
        }
        let since = world.now - window;
        let had = world.members[winner].data.freshness;
        for (id, member) in world.members.iter().enumerate() {
            let Some(node) = &member.node else {
                continue;
            };
            let status = node.status();
            let is_reachable = (0..world.members.len())
                .filter(|other| *other != id && world.members[*other].node.is_some())
                .all(|other| !world.cuts[id][other] && !world.cuts[other][id]);
            let is_ready = status.ready
                && status.state == State::Backup
                && status.phase == Phase::Standby
                && !status.demotion.promotion_failure
                && !status.demotion.vip_failure;
            let is_settled =
                member.settled_since <= since && member.paused_until <= since && !member.disk_hangs;
            let counts = id != winner && is_ready && is_reachable && is_settled;
            if counts
                && member.generation == world.members[winner].generation
                && member.data.freshness > had
            {
                let what = format!(
                    "S2: {winner} with {had} is promoted, {id} has {}",
                    member.data.freshness
                );
                world.judge.fail(world.now, what);
                return;
            }
        }
    }

    /// S3, looked at every few milliseconds.
    pub(crate) fn look(world: &mut World) {
        let now = world.now;
        let is_leased = world
            .members
            .iter()
            .any(|member| member.holds_until.is_some_and(|until| until > now));
        if is_leased {
            world.judge.leased_at = now;
        }
        if world.plan.grows {
            return;
        }
        let is_lossless = world.conditions.loss_percent == 0;
        // Rule L1e: after a cold start one that waits keeps those who have less from it.
        let waits = (0..world.members.len())
            .any(|id| Self::obstacle(world, id) == Some(Obstacle::ColdStart));
        let ready: Vec<bool> = (0..world.members.len())
            .map(|id| Self::is_ready(world, id))
            .collect();
        let majority = members(&world.plan, 1).majority();
        for set in 1..world.judge.good_since.len() {
            let is_good = is_lossless
                && !waits
                && usize::try_from(set.count_ones()).unwrap() >= majority
                && Self::is_connected(world, set)
                && (0..ready.len()).any(|id| {
                    set >> id & 1 == 1 && ready[id] && Self::is_fresh_enough(world, id, set)
                });
            let since = &mut world.judge.good_since[set];
            *since = is_good.then(|| since.unwrap_or(now));
            if let Some(since) = *since {
                let waited = now - since.max(world.judge.leased_at);
                world.judge.leaseless_max = world.judge.leaseless_max.max(waited);
                let bound = Self::bound(world);
                if waited > bound {
                    let what = format!(
                        "S3: no lease for {} ms, bound {} ms",
                        waited / MS,
                        bound / MS
                    );
                    world.judge.fail(now, what);
                    return;
                }
            }
        }
    }

    /// 3 T + 6 H, and what freezing, storing and being woken take.
    fn bound(world: &World) -> u64 {
        let calm = world.plan.calm;
        let costs = calm.freeze.1 + 3 * calm.store.1 + 4 * calm.wake_up.1 + 4 * calm.delay.1;
        3 * world.plan.lease() + 6 * world.plan.interval() + costs + 10 * MS
    }

    fn is_connected(world: &World, set: usize) -> bool {
        let inside: Vec<Id> = (0..world.members.len())
            .filter(|id| set >> id & 1 == 1)
            .collect();
        inside.iter().all(|id| {
            let member = &world.members[*id];
            let runs =
                member.node.is_some() && member.paused_until <= world.now && !member.disk_hangs;
            runs && inside.iter().all(|other| !world.cuts[*id][*other])
        })
    }

    /// Rule L1e: who lacks what a holder was heard to have is not granted anything.
    fn is_fresh_enough(world: &World, id: Id, set: usize) -> bool {
        let had = world.members[id].data.freshness;
        let voters = world.members.iter().enumerate();
        voters
            .filter(|(voter, _)| set >> voter & 1 == 1)
            .map(|(_, voter)| voter.disk.seen.max(voter.wanted.unwrap_or_default().seen))
            .all(|seen| {
                had.epoch > seen.epoch
                    || (had.epoch == seen.epoch && had.version + MAX_LAG >= seen.version)
            })
    }

    fn obstacle(world: &World, id: Id) -> Option<Obstacle> {
        let member = &world.members[id];
        let at = member.clock.local(world.now);
        member.node.as_ref()?.lease(at)?.obstacle
    }

    /// Whether a node calls itself ready to be elected: what it says of itself, not what keeps it from asking.
    fn is_ready(world: &World, id: Id) -> bool {
        let is_running = world.members[id].node.is_some();
        is_running
            && !matches!(
                Self::obstacle(world, id),
                Some(
                    Obstacle::Witness
                        | Obstacle::Offline
                        | Obstacle::NotStored
                        | Obstacle::NewMembers
                        | Obstacle::NotReady
                        | Obstacle::HoldDown
                        | Obstacle::Resigning
                )
            )
    }
}
