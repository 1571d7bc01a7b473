//! The candidate's side of the lease: who has granted it, and when it ends (rules L2, L3).

use core::time::Duration;

use crate::cluster::MEMBERS_MAX;
use crate::heartbeat::Ballot;
use crate::time::Timestamp;

/// A lease that is asked for or held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Lease {
    pub(super) ballot: Ballot,
    /// When it was asked for first.
    pub(super) since: Timestamp,
    /// A majority has granted it, this epoch or the one before.
    pub(super) is_held: bool,
    /// When the newest request was sent that each member has granted.
    acknowledged: [Option<Timestamp>; MEMBERS_MAX],
    /// What is held, and until when, while this one is asked for (rule L3).
    before: Option<(Ballot, Timestamp)>,
}

impl Lease {
    pub(super) const fn new(ballot: Ballot, now: Timestamp) -> Self {
        Self {
            ballot,
            since: now,
            is_held: false,
            acknowledged: [None; MEMBERS_MAX],
            before: None,
        }
    }

    /// Asks for a higher epoch and keeps what is held until that ends.
    pub(super) fn raised(
        &self,
        ballot: Ballot,
        now: Timestamp,
        majority: usize,
        span: Duration,
    ) -> Self {
        let ends = self.ends(majority, span);
        Self {
            is_held: self.is_held,
            before: ends.map(|ends| (self.held(majority), ends)),
            ..Self::new(ballot, now)
        }
    }

    /// Returns what is held: this epoch, or the one before while a majority has not granted this one.
    pub(super) fn held(&self, majority: usize) -> Ballot {
        let before = self.before.filter(|_| !self.has_majority(majority));
        before.map_or(self.ballot, |(ballot, _)| ballot)
    }

    /// Takes note that a member has granted the request that was sent then.
    pub(super) fn acknowledge(&mut self, member: usize, sent_at: Timestamp) {
        if let Some(newest) = self.acknowledged.get_mut(member) {
            *newest = (*newest).max(Some(sent_at));
        }
    }

    /// Says whether a majority has granted this epoch, at any time.
    pub(super) fn has_majority(&self, majority: usize) -> bool {
        self.acknowledged.iter().flatten().count() >= majority
    }

    /// Rule L3: the majority's newest send time + T − ε.
    pub(super) fn ends(&self, majority: usize, span: Duration) -> Option<Timestamp> {
        let mut newest = self.acknowledged;
        newest.sort_unstable_by(|a, b| b.cmp(a));
        let decisive = majority
            .checked_sub(1)
            .and_then(|last| newest.get(last).copied().flatten());
        decisive
            .map(|sent_at| sent_at.after(span))
            .max(self.before.map(|(_, ends)| ends))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_millis(296);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    fn lease() -> Lease {
        let ballot = Ballot {
            epoch: 1,
            candidate: 1,
        };
        Lease::new(ballot, at(0))
    }

    #[test]
    fn it_ends_by_the_vote_that_makes_the_majority() {
        let mut lease = lease();
        assert_eq!(lease.ends(2, SPAN), None);
        lease.acknowledge(0, at(100));
        assert_eq!(lease.ends(2, SPAN), None);
        assert_eq!(lease.ends(1, SPAN), Some(at(396)));
        lease.acknowledge(2, at(40));
        assert_eq!(lease.ends(2, SPAN), Some(at(336)));
        lease.acknowledge(1, at(90));
        assert_eq!(lease.ends(2, SPAN), Some(at(386)));
        assert_eq!(lease.ends(3, SPAN), Some(at(336)));
    }

    #[test]
    fn an_older_answer_shortens_nothing() {
        let mut lease = lease();
        lease.acknowledge(0, at(100));
        lease.acknowledge(0, at(50));
        assert_eq!(lease.ends(1, SPAN), Some(at(396)));
    }

    #[test]
    fn a_raised_one_keeps_what_is_held_until_that_ends() {
        let mut held = lease();
        held.is_held = true;
        held.acknowledge(0, at(4));
        held.acknowledge(1, at(4));
        let ballot = Ballot {
            epoch: 9,
            candidate: 1,
        };
        let mut raised = held.raised(ballot, at(100), 2, SPAN);
        assert!(raised.is_held && !raised.has_majority(1));
        assert_eq!(raised.held(2), held.ballot);
        assert_eq!(raised.ends(2, SPAN), Some(at(300)));
        raised.acknowledge(0, at(110));
        raised.acknowledge(1, at(110));
        assert_eq!(raised.ends(2, SPAN), Some(at(406)));
        assert_eq!(raised.held(2), ballot);
    }
}
