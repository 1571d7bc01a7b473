//! The candidate: when it asks for the lease, and what becomes of that (rules L1d, L3, L5).

use core::cmp::Reverse;
use core::time::Duration;

use super::lease::Lease;
use super::{Election, Obstacle, STEP_MAX, is_holder};
use crate::cluster::{NodeId, Role};
use crate::election::{Reason, State};
use crate::freshness::Freshness;
use crate::heartbeat::{Ballot, Flags, Heartbeat};
use crate::priority::Priority;
use crate::time::Timestamp;

/// Who goes first: the newest metadata, then the better priority, then the lower id (rule L5c).
type Rank = (Reverse<Freshness>, Priority, NodeId);

impl Election {
    /// Returns when this node's lease ends, if a majority ever granted it.
    pub(super) fn lease_ends(&self) -> Option<Timestamp> {
        self.lease
            .and_then(|lease| lease.ends(self.settings.members.majority(), self.lease_span()))
    }

    /// Returns until when a master may serve, and under which epoch (rule L3).
    pub(crate) fn held(&self) -> Option<(Timestamp, u64)> {
        let lease = self.lease.filter(|lease| lease.is_held)?;
        let ends = self.lease_ends()?;
        let ballot = lease.held(self.settings.members.majority());
        (self.state == State::Master).then_some((ends, ballot.epoch))
    }

    /// Says whether a majority has granted what this node asks for, and that has not run out.
    pub(super) fn holds_request(&self, now: Timestamp) -> bool {
        let majority = self.settings.members.majority();
        let lease = self.lease.filter(|lease| lease.is_held);
        lease.is_some_and(|lease| lease.has_majority(majority))
            && self.lease_ends().is_some_and(|ends| ends > now)
    }

    /// T − ε.
    fn lease_span(&self) -> Duration {
        let timing = self.settings.timing;
        timing.lease.saturating_sub(timing.allowance())
    }

    /// Does what has become possible. Returns why this node becomes master, where it does.
    pub(crate) fn pursue(&mut self, now: Timestamp) -> Option<Reason> {
        // Voters that ran out of a grant say so at once: candidates wait for a majority of them.
        self.wants_round |= self.voter.expire(now);
        self.adopt_members(now);
        self.turn = None;
        match self.lease {
            Some(lease) if lease.is_held => {
                self.hold_on(now, lease);
                None
            }
            Some(lease) => self.wait_for_votes(now, lease),
            None => {
                self.consider_asking(now);
                None
            }
        }
    }

    /// A holder keeps its lease while it is master or its metadata master may live, and not longer.
    fn hold_on(&mut self, now: Timestamp, lease: Lease) {
        if self.state != State::Master {
            let is_over = self.lease_ends().is_none_or(|ends| ends <= now);
            if is_over || self.standing.is_master_gone || self.standing.stuck {
                self.release(now);
            }
            return;
        }
        // Rule L3: those who granted another ballot of this epoch, or a higher one, to somebody who did not
        // win cannot renew this one.
        if self.is_outbid(now, lease.ballot) {
            let ballot = self.next_ballot();
            let majority = self.settings.members.majority();
            self.lease = Some(lease.raised(ballot, now, majority, self.lease_span()));
            self.wants_round = true;
        }
    }

    /// Says whether a voter that is free has granted what keeps it from renewing `ballot`.
    fn is_outbid(&self, now: Timestamp, ballot: Ballot) -> bool {
        let own = Some(self.voter.granted()).filter(|_| self.voter.bound_to(now).is_none());
        let others = self.those_heard(now).map(|(_, heartbeat)| heartbeat);
        others
            .filter(|heartbeat| heartbeat.grant.ballot.epoch == 0)
            .map(|heartbeat| Ballot {
                epoch: heartbeat.epoch,
                candidate: heartbeat.granted_to,
            })
            .chain(own)
            .filter(|granted| self.is_plausible(granted.epoch))
            .any(|granted| granted.epoch >= ballot.epoch && granted != ballot)
    }

    fn wait_for_votes(&mut self, now: Timestamp, lease: Lease) -> Option<Reason> {
        let majority = self.settings.members.majority();
        let is_valid = self.lease_ends().is_some_and(|ends| ends > now);
        // Rule L1d: what begins now has to be remembered as begun.
        let is_remembered = self.stored.attempts == self.durable.attempts;
        if self.obstacle_within(now).is_some() || now >= lease.since.after(self.ask_limit(now)) {
            self.give_up(now);
            return None;
        }
        if !(lease.has_majority(majority) && is_valid && is_remembered) {
            return None;
        }
        if let Some(lease) = self.lease.as_mut() {
            lease.is_held = true;
        }
        self.has_heard_holder = true;
        Some(Reason::LeaseAcquired)
    }

    /// Rule L5b: 3 H, and longer where votes need longer to come to disk, but not longer than a lease lasts.
    fn ask_limit(&self, now: Timestamp) -> Duration {
        let votes = self.store_took.saturating_mul(2);
        let limit = self.slot(now).saturating_add(votes);
        self.patience().max(limit).min(self.lease_span())
    }

    /// Rule L5b: nobody won, or this node may not any more.
    fn give_up(&mut self, now: Timestamp) {
        let half = self.settings.timing.lease.checked_div(2);
        let pause = self.random.below(half.unwrap_or_default());
        self.retry_at = now.after(pause);
        self.release(now);
    }

    /// Frees all voters at once: the next round asks for nothing (rule L6).
    pub(crate) fn release(&mut self, now: Timestamp) {
        self.lease = None;
        self.forget_attempt();
        self.voter.release(now, self.settings.own.get());
        self.wants_round = true;
    }

    fn consider_asking(&mut self, now: Timestamp) {
        match self.obstacle_before_turn(now) {
            Some(obstacle) => {
                if obstacle == Obstacle::Freezing {
                    self.freeze(now);
                }
                if !matches!(obstacle, Obstacle::Freezing | Obstacle::ColdStart) {
                    self.free_since = None;
                }
            }
            None => {
                let turn = self.turn_comes(now);
                if turn <= now {
                    self.ask(now);
                } else {
                    self.turn = Some(turn);
                }
            }
        }
    }

    fn ask(&mut self, now: Timestamp) {
        self.lease = Some(Lease::new(self.next_ballot(), now));
        self.free_since = None;
        self.durable.attempts = self.durable.attempts.saturating_add(1);
        self.is_attempting = true;
        self.wants_round = true;
    }

    /// Higher than whatever anybody was heard to have granted or asked for.
    fn next_ballot(&self) -> Ballot {
        let heard = self.peers.iter().filter_map(|peer| peer.last);
        let heard = heard.flat_map(|(heartbeat, _)| {
            let Heartbeat { epoch, request, .. } = heartbeat;
            [epoch, request, heartbeat.grant.ballot.epoch]
        });
        let heard = heard.filter(|epoch| self.is_plausible(*epoch));
        let highest = heard.max().unwrap_or_default();
        Ballot {
            epoch: highest.max(self.voter.granted().epoch).saturating_add(1),
            candidate: self.settings.own.get(),
        }
    }

    /// Says whether a lease epoch can be the next one or follow it soon.
    fn is_plausible(&self, epoch: u64) -> bool {
        epoch <= self.voter.granted().epoch.saturating_add(STEP_MAX)
    }

    /// Returns what keeps this node from asking, for people to read.
    pub(super) fn obstacle(&self, now: Timestamp) -> Option<Obstacle> {
        if self.lease.is_some() {
            return None;
        }
        self.obstacle_before_turn(now)
            .or_else(|| self.turn.map(|_| Obstacle::Waiting))
    }

    fn obstacle_before_turn(&self, now: Timestamp) -> Option<Obstacle> {
        self.obstacle_within(now)
            .or_else(|| self.obstacle_around(now))
            .or_else(|| (!self.is_frozen()).then_some(Obstacle::Freezing))
    }

    /// What is in the way here.
    fn obstacle_within(&self, now: Timestamp) -> Option<Obstacle> {
        if self.role == Role::Witness {
            return Some(Obstacle::Witness);
        }
        if self.state == State::Init {
            return Some(Obstacle::Offline);
        }
        if self.stored.boot != self.durable.boot || self.is_disk_stuck(now) {
            return Some(Obstacle::NotStored);
        }
        if !self.is_in_force() {
            return Some(Obstacle::NewMembers);
        }
        // Who asked now would take votes from others and lack its own.
        if self.voter.free_since() > now {
            return Some(Obstacle::Starting);
        }
        if self.standing.is_barred {
            return Some(Obstacle::Resigning);
        }
        if self.is_held_down(now) {
            return Some(Obstacle::HoldDown);
        }
        (!self.is_ready(now)).then_some(Obstacle::NotReady)
    }

    /// What is in the way elsewhere (rules L5a and L1e).
    fn obstacle_around(&self, now: Timestamp) -> Option<Obstacle> {
        let majority = self.settings.members.majority();
        if usize::from(self.heard(now)) < majority {
            return Some(Obstacle::NoMajority);
        }
        if self.free(now) < majority {
            return Some(Obstacle::Granted);
        }
        self.waits_for_candidates(now)
            .then_some(Obstacle::ColdStart)
    }

    /// Returns how many voters are free, or bound to this node.
    fn free(&self, now: Timestamp) -> usize {
        let own = self.settings.own.get();
        let is_free = |candidate: u8| candidate == 0 || candidate == own;
        let others = self
            .those_heard(now)
            .filter(|(_, heartbeat)| heartbeat.membership == self.stored.membership)
            .filter(|(_, heartbeat)| is_free(heartbeat.grant.ballot.candidate))
            .filter(|(_, heartbeat)| !is_holder(heartbeat))
            .count();
        let self_is_free = self.voter.bound_to(now).is_none_or(is_free);
        others.saturating_add(usize::from(self_is_free))
    }

    /// Rule L1e: after a cold start whoever is up first may be the one with the oldest metadata.
    fn waits_for_candidates(&self, now: Timestamp) -> bool {
        let knows = self.has_heard_holder
            || self
                .those_heard(now)
                .any(|(_, heartbeat)| heartbeat.flags.has(Flags::HAS_HEARD_HOLDER));
        if knows || now >= self.born.after(self.settings.cold_start_wait) {
            return false;
        }
        let is_there = |id: NodeId| {
            id == self.settings.own
                || self.those_heard(now).any(|(_, heartbeat)| {
                    heartbeat.sender == id && heartbeat.flags.has(Flags::SETTLED)
                })
        };
        let mut candidates = self
            .settings
            .members
            .iter()
            .filter(|member| member.role == Role::Candidate);
        !candidates.all(|member| is_there(member.id))
    }

    /// Rule L5c: each rank has its slot, counted from when a majority was found free.
    fn turn_comes(&mut self, now: Timestamp) -> Timestamp {
        let since = *self.free_since.get_or_insert(now);
        let wait = self.slot(now).saturating_mul(self.rank(now));
        since.after(wait).max(self.retry_at)
    }

    /// Says whether this node leaves the lease to others after a failure (rules M2 and L1d). Whom nobody can
    /// replace tries once more, soon, before it leaves it to who has less.
    pub(super) fn is_held_down(&self, now: Timestamp) -> bool {
        let may_try_again = self.failures() < 2 && now >= self.second_try;
        now < self.hold_down && !(may_try_again && self.is_freshest_alone(now))
    }

    /// Returns the attempts that came to nothing; the one that is under way is not one of them yet.
    pub(super) fn failures(&self) -> u8 {
        let under_way = u8::from(self.is_attempting);
        self.durable.attempts.saturating_sub(under_way)
    }

    /// An attempt that ends otherwise than by a failure to serve was none (rule L1d).
    pub(super) fn forget_attempt(&mut self) {
        self.durable.attempts = self.failures();
        self.is_attempting = false;
    }

    /// Says whether every ready candidate that could win has older metadata.
    pub(super) fn is_freshest_alone(&self, now: Timestamp) -> bool {
        let own = self.metadata.freshness;
        self.has_metadata
            && self
                .those_heard(now)
                .filter(|(_, heartbeat)| heartbeat.flags.has(Flags::READY))
                .filter(|(place, _)| {
                    self.mutually_heard(now, *place) >= self.settings.members.majority()
                })
                .all(|(_, heartbeat)| heartbeat.metadata.freshness < own)
    }

    /// Returns how many candidates have their turn before this one.
    fn rank(&self, now: Timestamp) -> u32 {
        let own: Rank = (
            Reverse(self.metadata.freshness),
            self.priority(),
            self.settings.own,
        );
        let better = self
            .those_heard(now)
            .map(|(_, heartbeat)| heartbeat)
            .filter(|heartbeat| heartbeat.flags.has(Flags::READY))
            .filter(|heartbeat| rank_of(heartbeat) < own)
            .count();
        u32::try_from(better).unwrap_or(u32::MAX)
    }

    /// Long enough for whoever comes before to freeze, store its vote and be heard.
    fn slot(&self, now: Timestamp) -> Duration {
        let slowest = self
            .those_heard(now)
            .filter_map(|(place, _)| self.peers.get(place)?.round_trip)
            .max()
            .unwrap_or_default();
        let cost = self
            .freeze_took
            .saturating_add(self.store_took)
            .saturating_add(slowest);
        let timing = self.settings.timing;
        timing.interval.max(cost).min(timing.lease)
    }
}

fn rank_of(heartbeat: &Heartbeat) -> Rank {
    (
        Reverse(heartbeat.metadata.freshness),
        heartbeat.priority,
        heartbeat.sender,
    )
}
