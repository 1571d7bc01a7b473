//! The other members: who is heard, who holds the lease, and whose list is in force (rule L10).

use super::{Election, LeaseStatus, MemberStatus, is_holder};
use crate::cluster::{Members, Membership, NodeId};
use crate::heartbeat::{Ballot, Heartbeat};
use crate::time::Timestamp;

/// The bit of a place in the member list; there are seven places.
const fn bit(place: usize) -> u8 {
    match place {
        0 => 1,
        1 => 1 << 1,
        2 => 1 << 2,
        3 => 1 << 3,
        4 => 1 << 4,
        5 => 1 << 5,
        6 => 1 << 6,
        _ => 0,
    }
}

impl Election {
    fn horizon(&self, now: Timestamp) -> Timestamp {
        let patience = u64::try_from(self.patience().as_nanos()).unwrap_or(u64::MAX);
        Timestamp::from_nanos(now.as_nanos().saturating_sub(patience))
    }

    /// Returns the members that are heard, with their places.
    pub(super) fn those_heard(
        &self,
        now: Timestamp,
    ) -> impl Iterator<Item = (usize, &Heartbeat)> + '_ {
        let horizon = self.horizon(now);
        self.peers
            .iter()
            .enumerate()
            .filter_map(move |(place, peer)| Some((place, peer.heard_since(horizon)?)))
    }

    /// Returns how many members are heard that have the same list, this one included.
    pub(super) fn heard(&self, now: Timestamp) -> u8 {
        let others = self
            .those_heard(now)
            .filter(|(_, heartbeat)| heartbeat.membership == self.stored.membership)
            .count();
        u8::try_from(others).unwrap_or(u8::MAX).saturating_add(1)
    }

    /// Returns the same as the bits of a heartbeat.
    pub(super) fn heard_bits(&self, now: Timestamp) -> u8 {
        self.those_heard(now)
            .filter(|(_, heartbeat)| heartbeat.membership == self.stored.membership)
            .fold(bit(self.place), |bits, (place, _)| bits | bit(place))
    }

    /// Returns how many members hear the one at `place` and are heard by it, as far as this node is told, that
    /// one included. Who has no majority of these cannot win, and must not keep others from it.
    pub(super) fn mutually_heard(&self, now: Timestamp, place: usize) -> usize {
        let bits = |of: usize| {
            if of == self.place {
                return self.heard_bits(now);
            }
            // Another list numbers its places otherwise.
            let last = self.peers.get(of).and_then(|peer| peer.last);
            last.filter(|(heartbeat, _)| heartbeat.membership == self.stored.membership)
                .map_or(0, |(heartbeat, _)| heartbeat.heard)
        };
        let theirs = bits(place);
        let hears = |other: usize| theirs & bit(other) != 0;
        let is_heard_by = |other: usize| other == self.place || self.is_heard(now, other);
        (0..self.settings.members.len())
            .filter(|other| {
                *other == place
                    || (hears(*other) && is_heard_by(*other) && bits(*other) & bit(place) != 0)
            })
            .count()
    }

    fn is_heard(&self, now: Timestamp, place: usize) -> bool {
        let peer = self.peers.get(place);
        peer.is_some_and(|peer| peer.heard_since(self.horizon(now)).is_some())
    }

    /// Returns the holder that is heard, if one is, and where its last heartbeat came.
    pub(super) fn holder(&self, now: Timestamp) -> Option<(usize, Heartbeat, Timestamp)> {
        let (place, heartbeat) = self
            .those_heard(now)
            .filter(|(_, heartbeat)| is_holder(heartbeat))
            .max_by_key(|(_, heartbeat)| heartbeat.request)?;
        let (_, arrival) = self.peers.get(place)?.last?;
        Some((place, *heartbeat, arrival))
    }

    pub(super) fn holder_id(&self, now: Timestamp) -> Option<NodeId> {
        if self.lease.is_some_and(|lease| lease.is_held) {
            return Some(self.settings.own);
        }
        self.holder(now).map(|(_, heartbeat, _)| heartbeat.sender)
    }

    /// Says whether the configured list is in force here.
    pub(super) fn is_in_force(&self) -> bool {
        self.stored.membership == self.target && self.durable.membership == self.target
    }

    /// Rule L10: a new list comes into force once a majority of the old one reports that it had come into
    /// force there. Two changes are never under way at once, so any two majorities share a voter. And what
    /// this node granted under the old list has run out before it reports the new one: else a third list
    /// could elect while a lease of the first is still in force.
    pub(super) fn adopt_members(&mut self, now: Timestamp) {
        let Some((old, membership)) = self.settings.previous else {
            return;
        };
        if self.durable.membership == self.target || now < self.voter.free_since() {
            return;
        }
        if self.those_who_had(now, &old, membership) >= old.majority() {
            self.durable.membership = self.target;
        }
    }

    fn those_who_had(&self, now: Timestamp, old: &Members, membership: Membership) -> usize {
        let had = |reported: Membership| {
            reported == membership || reported.generation > membership.generation
        };
        let others = self
            .those_heard(now)
            .filter(|(_, heartbeat)| old.role(heartbeat.sender).is_some())
            .filter(|(_, heartbeat)| had(heartbeat.membership))
            .count();
        let own = old.role(self.settings.own).is_some() && had(self.stored.membership);
        others.saturating_add(usize::from(own))
    }

    /// Returns the lease as this node sees it.
    pub(crate) fn status(&self, now: Timestamp) -> LeaseStatus {
        let majority = self.settings.members.majority();
        let granted = self.voter.grant(now).map(|grant| grant.ballot);
        LeaseStatus {
            ballot: self
                .lease
                .map_or_else(Ballot::default, |lease| lease.held(majority)),
            ends: self
                .lease_ends()
                .filter(|_| self.lease.is_some_and(|lease| lease.is_held)),
            granted: granted.zip(self.voter.until(now)),
            holder: self.holder_id(now),
            heard: self.heard(now),
            majority: u8::try_from(majority).unwrap_or(u8::MAX),
            metadata: self.metadata,
            is_frozen: self.is_frozen(),
            obstacle: self.obstacle(now),
            refused: self.refused,
            durable: self.durable,
            is_stored: self.stored == self.durable,
            margin_min: self.margin_min,
            rounds_late: self.rounds.late(),
        }
    }

    /// Returns the other members.
    pub(crate) fn member_statuses(
        &self,
        now: Timestamp,
    ) -> impl Iterator<Item = MemberStatus> + '_ {
        let horizon = self.horizon(now);
        let members = self.settings.members.iter().zip(&self.peers);
        members
            .filter(|(member, _)| member.id != self.settings.own)
            .map(move |(member, peer)| MemberStatus {
                id: member.id,
                role: member.role,
                last: peer.last,
                is_heard: peer.heard_since(horizon).is_some(),
                round_trip: peer.round_trip,
                jitter: peer.jitter,
                drift_ppm: peer.drift_ppm,
            })
    }
}
