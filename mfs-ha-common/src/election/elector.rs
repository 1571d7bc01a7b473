//! The election that a node runs: by CARP's rules, or by a majority's lease.

use super::carp::{self, Decision, Demotion, Followed, Standing};
use super::{Reason, State, Timer, Transition, quorum};
use crate::event::Event;
use crate::priority::Priority;
use crate::time::Timestamp;

/// One of the two.
#[expect(
    clippy::large_enum_variant,
    reason = "a node has one of them for life, and there is no allocator"
)]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub(crate) enum Elector {
    Carp(carp::Election),
    Quorum(quorum::Election),
}

impl Elector {
    pub(crate) const fn quorum(&self) -> Option<&quorum::Election> {
        match self {
            Self::Carp(_) => None,
            Self::Quorum(election) => Some(election),
        }
    }

    pub(crate) const fn quorum_mut(&mut self) -> Option<&mut quorum::Election> {
        match self {
            Self::Carp(_) => None,
            Self::Quorum(election) => Some(election),
        }
    }

    pub(crate) const fn carp_mut(&mut self) -> Option<&mut carp::Election> {
        match self {
            Self::Carp(election) => Some(election),
            Self::Quorum(_) => None,
        }
    }

    pub(crate) const fn state(&self) -> State {
        match self {
            Self::Carp(election) => election.state(),
            Self::Quorum(election) => election.state(),
        }
    }

    /// Returns until when a master may serve, and under which lease epoch (rules G1 and G5).
    pub(crate) fn held(&self) -> Option<(Timestamp, u64)> {
        match self {
            Self::Carp(election) => election.served_until().map(|until| (until, 0)),
            Self::Quorum(election) => election.held(),
        }
    }

    pub(crate) const fn demotion(&self) -> Demotion {
        match self {
            Self::Carp(election) => election.demotion(),
            Self::Quorum(election) => election.demotion(),
        }
    }

    pub(crate) fn priority(&self) -> Priority {
        match self {
            Self::Carp(election) => election.priority(),
            Self::Quorum(election) => election.priority(),
        }
    }

    pub(crate) fn followed(&self, now: Timestamp) -> Option<Followed> {
        match self {
            Self::Carp(election) => election.followed(),
            Self::Quorum(election) => election.followed(now),
        }
    }

    pub(crate) fn listen(&mut self, now: Timestamp, reason: Reason) -> Transition {
        match self {
            Self::Carp(election) => election.listen(now, reason),
            Self::Quorum(election) => election.listen(now, reason),
        }
    }

    pub(crate) fn stop(&mut self, now: Timestamp, reason: Reason) -> Transition {
        match self {
            Self::Carp(election) => election.stop(now, reason),
            Self::Quorum(election) => election.stop(now, reason),
        }
    }

    pub(crate) fn take_over(&mut self, now: Timestamp, reason: Reason) -> Transition {
        match self {
            Self::Carp(election) => election.take_over(now, reason),
            Self::Quorum(election) => election.take_over(now, reason),
        }
    }

    pub(crate) fn give_way(
        &mut self,
        now: Timestamp,
        heard: Timestamp,
        reason: Reason,
    ) -> Transition {
        match self {
            Self::Carp(election) => election.give_way(now, heard, reason),
            Self::Quorum(election) => election.give_way(now, reason),
        }
    }

    pub(crate) fn note_send(&mut self, now: Timestamp) {
        match self {
            Self::Carp(election) => election.note_send(now),
            Self::Quorum(election) => election.note_send(now),
        }
    }

    pub(crate) fn service_failed(
        &mut self,
        now: Timestamp,
        span: core::time::Duration,
        reason: Reason,
    ) {
        match self {
            Self::Carp(election) => election.service_failed(now, span, reason),
            Self::Quorum(election) => election.service_failed(now, span, reason),
        }
    }

    pub(crate) const fn service_began(&mut self, now: Timestamp) {
        match self {
            Self::Carp(election) => election.service_began(),
            Self::Quorum(election) => election.service_began(now),
        }
    }

    pub(crate) fn end_hold_down(&mut self, now: Timestamp) {
        match self {
            Self::Carp(election) => election.end_hold_down(now),
            Self::Quorum(election) => election.end_hold_down(now),
        }
    }

    pub(crate) fn set_standing(&mut self, now: Timestamp, standing: Standing) {
        match self {
            Self::Carp(election) => election.set_standing(now, standing),
            Self::Quorum(election) => election.set_standing(now, standing),
        }
    }

    /// Says whether a farewell would be obeyed for somebody else's mastership.
    pub(crate) fn is_late(&self, now: Timestamp) -> bool {
        match self {
            Self::Carp(election) => election.is_late(now),
            Self::Quorum(election) => election.lost(now).is_some(),
        }
    }

    /// Says why a master is none any more, whatever the event asks for (rules E8 and L7). A heartbeat may be
    /// the one that extends the lease; what came with it is not acted upon before the next tick.
    pub(crate) fn lost(&self, now: Timestamp, event: Event) -> Option<Reason> {
        match self {
            Self::Carp(election) => {
                let was_replaced = election.was_replaced(now, heard_master(event));
                was_replaced.then_some(Reason::Overslept)
            }
            Self::Quorum(_) if matches!(event, Event::HeartbeatReceived { .. }) => None,
            Self::Quorum(election) => election.lost(now),
        }
    }

    /// Acts on deadlines. `may_decide`: this node is not leaving its mastership.
    pub(crate) fn tick(&mut self, now: Timestamp, may_decide: bool) -> Decision {
        match self {
            Self::Carp(election) if may_decide => election.tick(now),
            Self::Carp(_) => Decision::Nothing,
            Self::Quorum(election) if election.is_advert_due(now) => Decision::Advertise,
            Self::Quorum(_) => Decision::Nothing,
        }
    }

    pub(crate) fn poll_timeout(
        &self,
        now: Timestamp,
        may_decide: bool,
    ) -> Option<(Timestamp, Timer)> {
        match self {
            Self::Carp(election) => election.poll_timeout().filter(|_| may_decide),
            Self::Quorum(election) => election.poll_timeout(now),
        }
    }
}

/// Returns when an advert of a master arrived, where the event is one.
fn heard_master(event: Event) -> Option<Timestamp> {
    if let Event::AdvertReceived {
        advert, arrival, ..
    } = event
        && advert.get().priority != Priority::BOW_OUT
    {
        return Some(arrival);
    }
    None
}
