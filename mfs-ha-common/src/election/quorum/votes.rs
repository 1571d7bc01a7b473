//! Votes: what is granted to whom (rules L1, L1b, L1e, L8), and what others have granted to this node.

use core::time::Duration;

use super::voter::{Answer, Asked};
use super::{Election, Refusal, is_holder};
use crate::cluster::{MEMBERS_MAX, NodeId, Role};
use crate::freshness::Metadata;
use crate::heartbeat::{Ballot, Flags, Grant, Heartbeat};
use crate::promotion::Phase;
use crate::time::Timestamp;

/// A node whose metadata are not final this long after it was asked for that cannot serve them, and must not keep
/// others from it. Longer than a metalogger may take to write out what it has: those who lack that wait for it.
const FREEZE_LIMIT: Duration = Duration::from_secs(12);

/// What a voter looks at before it gives a new grant.
#[derive(Clone, Copy, Debug)]
struct Applicant {
    id: NodeId,
    metadata: Metadata,
    flags: Flags,
}

impl Election {
    /// Takes note of what a member has granted to this node. What is not granted to the present epoch, or
    /// echoes what is not remembered, counts for nothing: late answers after a release rebuild nothing.
    pub(super) fn note_answer(&mut self, now: Timestamp, place: usize, heartbeat: &Heartbeat) {
        if heartbeat.membership != self.stored.membership {
            return;
        }
        self.note_acknowledged(now, place, heartbeat.grant);
    }

    fn note_acknowledged(&mut self, now: Timestamp, place: usize, grant: Grant) {
        let Some(sent_at) = self.rounds.sent_at(grant.request) else {
            return;
        };
        let before = self.lease_ends();
        let Some(lease) = self
            .lease
            .as_mut()
            .filter(|lease| lease.ballot == grant.ballot)
        else {
            return;
        };
        if sent_at < lease.since {
            return;
        }
        lease.acknowledge(place, sent_at);
        let is_held = lease.is_held;
        if is_held && let Some(before) = before.filter(|ends| Some(*ends) < self.lease_ends()) {
            let margin = before.since(now);
            self.margin_min = Some(self.margin_min.map_or(margin, |least| least.min(margin)));
        }
    }

    /// Takes note of what a member asks for, and of what it does not ask for any more.
    pub(super) fn note_request(&mut self, now: Timestamp, place: usize, heartbeat: &Heartbeat) {
        let sender = heartbeat.sender;
        if heartbeat.request == 0 {
            // Whoever asks for nothing has given up what it had (rule L6).
            self.wants_round |= self.voter.release(now, sender.get());
            return;
        }
        let asked = Asked {
            ballot: Ballot {
                epoch: heartbeat.request,
                candidate: sender.get(),
            },
            request: heartbeat.stamp,
            is_held: is_holder(heartbeat),
        };
        let applicant = Applicant {
            id: sender,
            metadata: heartbeat.metadata,
            flags: heartbeat.flags,
        };
        let answer = if self.is_current(now, heartbeat) {
            self.consider(now, asked, applicant, heartbeat)
        } else {
            Answer::Refused(Refusal::Outdated)
        };
        self.freeze_when_asked(now, asked, place);
        match answer {
            Answer::Same | Answer::Extended => {}
            Answer::Store => self.durable.granted = self.voter.granted(),
            Answer::Refused(refusal) => self.refused = Some((sender, refusal)),
        }
    }

    fn consider(
        &mut self,
        now: Timestamp,
        asked: Asked,
        applicant: Applicant,
        heartbeat: &Heartbeat,
    ) -> Answer {
        let is_member = heartbeat.role == Role::Candidate
            && heartbeat.membership == self.stored.membership
            && self.is_in_force()
            && self.settings.members.role(applicant.id) == Some(Role::Candidate);
        if !is_member {
            return Answer::Refused(Refusal::Members);
        }
        let verdict = self.may_have(now, applicant);
        self.voter.consider(now, asked, || verdict)
    }

    /// Rule L8: a request counts when it answers what this voter sent in this life at most ⅔ T ago.
    fn is_current(&self, now: Timestamp, heartbeat: &Heartbeat) -> bool {
        let span = self.settings.timing.lease.saturating_mul(2);
        let span = span.checked_div(3).unwrap_or_default();
        self.rounds
            .sent_at(heartbeat.echo.stamp)
            .is_some_and(|sent| now.since(sent) <= span)
    }

    /// Whether the metadata of an applicant allow a new grant.
    fn may_have(&self, now: Timestamp, applicant: Applicant) -> Result<(), Refusal> {
        let theirs = applicant.metadata;
        if !applicant.flags.has(Flags::ACCEPTS_LOSS) {
            self.may_have_after(theirs)?;
        }
        let is_held = applicant.flags.has(Flags::HELD);
        let their_place = self.settings.members.position(applicant.id);
        let mut is_waiting =
            !applicant.flags.has(Flags::FROZEN) && self.is_patient(now, their_place);
        for (place, metadata, is_frozen) in self.those_who_count(now) {
            if Some(place) == their_place {
                continue;
            }
            if metadata.id != theirs.id {
                return Err(Refusal::OtherMetadata);
            }
            if metadata.freshness > theirs.freshness {
                return Err(Refusal::Stale);
            }
            is_waiting |= !is_frozen && self.is_patient(now, Some(place));
        }
        if is_waiting && !is_held {
            return Err(Refusal::NotFrozen);
        }
        Ok(())
    }

    /// Rule L1b: whether a member that has not frozen yet is still waited for.
    fn is_patient(&self, now: Timestamp, place: Option<usize>) -> bool {
        let since = place.and_then(|place| self.unfrozen_since.get(place).copied());
        let since = since.flatten().unwrap_or(now);
        let since = since.max(self.voter.free_since());
        now < since.after(self.settings.timing.patience())
    }

    /// Rule L1b: a member is waited for from when it counts and has not frozen. A voter that slept begins anew.
    pub(super) fn note_unfrozen(&mut self, now: Timestamp) {
        let has_slept = now.since(self.unfrozen_seen) > self.settings.timing.patience();
        let before = core::mem::take(&mut self.unfrozen_since);
        let mut since = [None; MEMBERS_MAX];
        for (place, _, is_frozen) in self.those_who_count(now) {
            if let Some(since) = since.get_mut(place).filter(|_| !is_frozen) {
                let known = before.get(place).copied().flatten();
                *since = known.filter(|_| !has_slept).or(Some(now));
            }
        }
        self.unfrozen_since = since;
        self.unfrozen_seen = now;
    }

    /// Rule L1e: what was stale before all nodes started is stale after it.
    fn may_have_after(&self, theirs: Metadata) -> Result<(), Refusal> {
        let (seen, max_lag) = (self.durable.seen, self.settings.max_lag);
        if theirs.freshness.is_behind(seen, max_lag) {
            return Err(Refusal::Behind);
        }
        Ok(())
    }

    /// Returns the places of those whose metadata count (rule L1), what they have, and whether that is final: nodes
    /// that hear this voter, and a majority that hears them, and this node itself.
    fn those_who_count(
        &self,
        now: Timestamp,
    ) -> impl Iterator<Item = (usize, Metadata, bool)> + '_ {
        let majority = self.settings.members.majority();
        let window = self.settings.timing.interval.saturating_mul(4);
        let others = self.peers.iter().enumerate();
        let others = others.filter_map(move |(place, peer)| {
            let (heartbeat, _) = peer.last.as_ref()?;
            let answered = self.rounds.sent_at(heartbeat.echo.stamp)?;
            let could_win =
                now.since(answered) <= window && self.mutually_heard(now, place) >= majority;
            let counts = heartbeat.flags.has(Flags::COUNTS);
            let is_frozen = heartbeat.flags.has(Flags::FROZEN);
            (could_win && counts).then_some((place, heartbeat.metadata, is_frozen))
        });
        let counts = self.counts(now) && self.mutually_heard(now, self.place) >= majority;
        let own = counts.then_some((self.place, self.metadata, self.is_frozen()));
        others.chain(own)
    }

    /// Rule L1b: a candidate that is asked while nobody has its vote makes its own data final.
    fn freeze_when_asked(&mut self, now: Timestamp, asked: Asked, place: usize) {
        let is_free = self.voter.grant(now).is_none();
        let is_new = !asked.is_held && self.peers.get(place).is_some();
        if is_free && is_new && self.counts(now) {
            self.freeze(now);
        }
    }

    /// Asks for final metadata, once.
    pub(super) fn freeze(&mut self, now: Timestamp) {
        if self.follows && self.freezing_since.is_none() {
            self.freezing_since = Some(now);
            self.wants_freeze = true;
        }
    }

    /// The vote of this node for itself, in the round that is sent now.
    pub(super) fn vote_for_self(&mut self, now: Timestamp) {
        let Some(lease) = self.lease.filter(|_| self.is_in_force()) else {
            return;
        };
        let own = self.settings.own;
        let asked = Asked {
            ballot: lease.ballot,
            request: self.rounds.stamp(),
            is_held: lease.is_held,
        };
        let applicant = Applicant {
            id: own,
            metadata: self.metadata,
            flags: self.flags(now, lease.is_held),
        };
        let verdict = self.may_have(now, applicant);
        match self.voter.consider(now, asked, || verdict) {
            Answer::Store => self.durable.granted = self.voter.granted(),
            Answer::Extended => {
                let grant = self.voter.grant(now).unwrap_or_default();
                self.note_acknowledged(now, self.place, grant);
            }
            Answer::Same => {}
            Answer::Refused(refusal) => self.refused = Some((own, refusal)),
        }
    }

    /// A grant of this voter is on disk: it counts from now on.
    pub(super) fn vote_counts(&mut self, now: Timestamp, grant: Grant) {
        if grant.ballot.candidate == self.settings.own.get() {
            self.note_acknowledged(now, self.place, grant);
        } else {
            // Somebody waits for it.
            self.wants_round = true;
        }
    }

    /// Says whether this node could serve what it has.
    pub(super) fn is_ready(&self, now: Timestamp) -> bool {
        self.could_serve(now) && !self.is_held_down(now)
    }

    fn could_serve(&self, now: Timestamp) -> bool {
        let standing = &self.standing;
        let freezes_for_ever = self
            .freezing_since
            .is_some_and(|since| now.since(since) > FREEZE_LIMIT);
        self.role == Role::Candidate
            && !freezes_for_ever
            && !self.is_disk_stuck(now)
            && self.state != super::State::Init
            && self.is_settled
            && !standing.not_ready
            && !standing.stuck
    }

    /// Says whether others must not be granted a lease on older metadata (rules L1 and L1d): a node that
    /// fails again and again must not keep those who could serve from it.
    pub(super) fn counts(&self, now: Timestamp) -> bool {
        let has_served = self.counts_until.is_some_and(|until| now < until);
        let may_fail_once = (self.could_serve(now) || has_served) && self.failures() < 2;
        self.is_ready(now) || may_fail_once
    }

    /// Says whether nothing is added to the metadata any more.
    pub(super) fn is_frozen(&self) -> bool {
        let is_served = match self.standing.phase {
            Phase::Promoting | Phase::Active => true,
            Phase::Resigning | Phase::Stuck => !self.standing.is_master_gone,
            Phase::Standby => false,
        };
        !self.follows && !is_served
    }

    /// Returns when a node counts as heard no more that was heard last at `arrival`.
    pub(super) fn patience(&self) -> Duration {
        self.settings.timing.patience()
    }
}
