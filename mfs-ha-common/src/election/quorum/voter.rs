//! One voter: whom it has granted the lease, and until when (rules L1, L1c, L2, L4).
//!
//! Invariants: at most one grant is in force or on its way to disk; a grant is answered only when it is on
//! disk; epochs of new grants rise; what is in force is not given to anybody else before it ran out or was
//! released.

use core::time::Duration;

use super::{Refusal, STEP_MAX};
use crate::heartbeat::{Ballot, Grant, Stamp};
use crate::time::Timestamp;

/// A grant in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Live {
    grant: Grant,
    until: Timestamp,
}

/// What a candidate asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) ballot: Ballot,
    /// The round that carries it.
    pub(super) request: Stamp,
    /// It has been granted by a majority before.
    pub(super) is_held: bool,
}

/// What a voter does about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing changes: it is answered as before.
    Same,
    /// The holder has the grant for longer now.
    Extended,
    /// A new grant: it has to be on disk first.
    Store,
    /// No.
    Refused(Refusal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Voter {
    live: Option<Live>,
    pending: Option<Grant>,
    /// The highest grant ever given, on disk or on its way there.
    granted: Ballot,
    /// The highest grant that is on disk.
    on_disk: Ballot,
    /// Since when it could grant anything: it started, and T has passed; or a grant ran out.
    free_since: Timestamp,
    lease: Duration,
}

impl Voter {
    /// Begins with what an earlier life granted. It may have been a moment ago: nothing is granted for T.
    pub(super) fn new(granted: Ballot, lease: Duration, now: Timestamp) -> Self {
        Self {
            live: None,
            pending: None,
            granted,
            on_disk: granted,
            free_since: now.after(lease),
            lease,
        }
    }

    /// Forgets what is in force, as a new life does.
    pub(super) fn restart(&mut self, now: Timestamp) {
        *self = Self {
            on_disk: self.on_disk,
            ..Self::new(self.granted, self.lease, now)
        };
    }

    /// Returns the highest grant ever given.
    pub(super) const fn granted(&self) -> Ballot {
        self.granted
    }

    /// Returns when it became free to grant.
    pub(super) const fn free_since(&self) -> Timestamp {
        self.free_since
    }

    /// Returns what is in force.
    pub(super) fn grant(&self, now: Timestamp) -> Option<Grant> {
        self.live(now).map(|live| live.grant)
    }

    /// Returns when what is in force runs out.
    pub(super) fn until(&self, now: Timestamp) -> Option<Timestamp> {
        self.live(now).map(|live| live.until)
    }

    /// Returns when a grant runs out that was not seen to run out yet.
    pub(super) fn ends(&self) -> Option<Timestamp> {
        self.live.map(|live| live.until)
    }

    /// Says for whom it is bound, by a grant in force or on its way to disk.
    pub(super) fn bound_to(&self, now: Timestamp) -> Option<u8> {
        let grant = self.pending.or_else(|| self.grant(now));
        grant.map(|grant| grant.ballot.candidate)
    }

    fn live(&self, now: Timestamp) -> Option<Live> {
        self.live.filter(|live| live.until > now)
    }

    /// Takes note that time has passed. Returns whether a grant ran out.
    pub(super) fn expire(&mut self, now: Timestamp) -> bool {
        let Some(live) = self.live.filter(|live| live.until <= now) else {
            return false;
        };
        self.live = None;
        self.free_since = self.free_since.max(live.until);
        true
    }

    /// Considers a request. `may_have` says whether the candidate's metadata allow a new grant.
    pub(super) fn consider(
        &mut self,
        now: Timestamp,
        asked: Asked,
        may_have: impl FnOnce() -> Result<(), Refusal>,
    ) -> Answer {
        let Asked {
            ballot,
            request,
            is_held,
        } = asked;
        if let Some(pending) = self.pending
            && pending.ballot == ballot
        {
            return Answer::Same;
        }
        if self
            .bound_to(now)
            .is_some_and(|candidate| candidate != ballot.candidate)
        {
            return Answer::Refused(Refusal::Granted);
        }
        if self.live.is_none() && now < self.free_since {
            return Answer::Refused(Refusal::Started);
        }
        if ballot == self.granted && self.pending.is_none() {
            return self.renew(now, asked);
        }
        let highest = self.granted.epoch.saturating_add(STEP_MAX);
        if ballot.epoch <= self.granted.epoch || ballot.epoch > highest {
            return Answer::Refused(Refusal::Epoch);
        }
        // A holder that has to go on under a higher number is as fresh as it was (rule L3).
        let is_holder = is_held && self.grant(now).is_some();
        if !is_holder && let Err(refusal) = may_have() {
            return Answer::Refused(refusal);
        }
        self.granted = ballot;
        self.pending = Some(Grant { ballot, request });
        Answer::Store
    }

    /// Rule L1c: only a holder's request extends a grant. Rule L4: one that ran out, or that an earlier life
    /// gave, may be renewed for the same holder.
    fn renew(&mut self, now: Timestamp, asked: Asked) -> Answer {
        if !asked.is_held {
            return if self.live(now).is_some() {
                Answer::Same
            } else {
                Answer::Refused(Refusal::Epoch)
            };
        }
        let grant = Grant {
            ballot: asked.ballot,
            request: asked.request,
        };
        // It was taken back on its way to disk, and may still be on its way.
        if self.on_disk != self.granted {
            self.pending = Some(grant);
            return Answer::Store;
        }
        self.live = Some(Live {
            grant,
            until: now.after(self.lease),
        });
        Answer::Extended
    }

    /// Takes note of what is on disk. Returns the grant that is in force from now on.
    pub(super) fn stored(&mut self, now: Timestamp, granted: Ballot) -> Option<Grant> {
        self.on_disk = granted;
        let grant = self.pending.filter(|grant| grant.ballot == granted)?;
        self.pending = None;
        self.live = Some(Live {
            grant,
            until: now.after(self.lease),
        });
        Some(grant)
    }

    /// Frees what a candidate has given up (rule L6). Returns whether that changed anything.
    pub(super) fn release(&mut self, now: Timestamp, candidate: u8) -> bool {
        let is_theirs = |grant: &Grant| grant.ballot.candidate == candidate;
        let was_pending = self.pending.take_if(|grant| is_theirs(grant)).is_some();
        let live = self.live.take_if(|live| is_theirs(&live.grant));
        if live.is_some_and(|live| live.until > now) {
            self.free_since = self.free_since.max(now);
        }
        was_pending || live.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Duration = Duration::from_millis(300);
    const BORN: Timestamp = Timestamp::from_nanos(1_000_000_000);

    fn at(millis: u64) -> Timestamp {
        BORN.after(Duration::from_millis(millis))
    }

    fn asked(candidate: u8, epoch: u64, sequence: u64, is_held: bool) -> Asked {
        Asked {
            ballot: Ballot { epoch, candidate },
            request: Stamp { boot: 1, sequence },
            is_held,
        }
    }

    fn ask(voter: &mut Voter, now: u64, asked: Asked) -> Answer {
        voter.consider(at(now), asked, || Ok(()))
    }

    fn granted() -> Voter {
        let mut voter = Voter::new(Ballot::default(), T, BORN);
        assert_eq!(ask(&mut voter, 300, asked(1, 5, 7, false)), Answer::Store);
        assert_eq!(voter.grant(at(300)), None, "not before it is on disk");
        let ballot = Ballot {
            epoch: 5,
            candidate: 1,
        };
        assert!(voter.stored(at(302), ballot).is_some());
        voter
    }

    #[test]
    fn nothing_is_granted_within_t_of_the_start() {
        let mut voter = Voter::new(Ballot::default(), T, BORN);
        let refused = Answer::Refused(Refusal::Started);
        assert_eq!(ask(&mut voter, 299, asked(1, 1, 1, true)), refused);
        assert_eq!(ask(&mut voter, 300, asked(1, 1, 1, false)), Answer::Store);
    }

    #[test]
    fn a_grant_runs_from_when_it_is_on_disk_and_echoes_its_request() {
        let voter = granted();
        assert_eq!(voter.until(at(302)), Some(at(602)));
        assert_eq!(
            voter.grant(at(601)).map(|grant| grant.request.sequence),
            Some(7)
        );
        assert_eq!(voter.grant(at(602)), None);
    }

    #[test]
    fn a_repeated_ask_extends_nothing() {
        let mut voter = granted();
        assert_eq!(ask(&mut voter, 500, asked(1, 5, 9, false)), Answer::Same);
        assert_eq!(voter.until(at(500)), Some(at(602)));
        assert_eq!(
            voter.grant(at(500)).map(|grant| grant.request.sequence),
            Some(7)
        );
        assert_eq!(
            ask(&mut voter, 602, asked(1, 5, 9, false)),
            Answer::Refused(Refusal::Epoch)
        );
    }

    #[test]
    fn a_holder_extends_and_nobody_else_gets_it() {
        let mut voter = granted();
        assert_eq!(ask(&mut voter, 500, asked(1, 5, 9, true)), Answer::Extended);
        assert_eq!(voter.until(at(500)), Some(at(800)));
        let refused = Answer::Refused(Refusal::Granted);
        assert_eq!(ask(&mut voter, 799, asked(2, 6, 1, false)), refused);
        assert!(voter.expire(at(800)));
        assert_eq!(
            ask(&mut voter, 800, asked(2, 5, 1, false)),
            Answer::Refused(Refusal::Epoch)
        );
        assert_eq!(ask(&mut voter, 800, asked(2, 6, 1, false)), Answer::Store);
        assert_eq!(
            ask(&mut voter, 801, asked(1, 5, 10, true)),
            refused,
            "on its way to disk"
        );
    }

    #[test]
    fn an_earlier_life_s_grant_may_be_renewed_and_not_undercut() {
        let ballot = Ballot {
            epoch: 5,
            candidate: 1,
        };
        let mut voter = Voter::new(ballot, T, BORN);
        assert_eq!(ask(&mut voter, 300, asked(1, 5, 9, true)), Answer::Extended);
        let mut voter = Voter::new(ballot, T, BORN);
        assert_eq!(
            ask(&mut voter, 300, asked(2, 5, 9, true)),
            Answer::Refused(Refusal::Epoch)
        );
        assert_eq!(
            ask(&mut voter, 300, asked(1, 5, 9, false)),
            Answer::Refused(Refusal::Epoch)
        );
    }

    #[test]
    fn metadata_are_asked_about_for_new_grants_only() {
        let mut voter = granted();
        let stale = || Err(Refusal::Stale);
        assert_eq!(
            voter.consider(at(400), asked(1, 5, 9, true), stale),
            Answer::Extended
        );
        assert_eq!(
            voter.consider(at(400), asked(1, 8, 9, true), stale),
            Answer::Store
        );
        let mut voter = granted();
        let refused = Answer::Refused(Refusal::Stale);
        assert_eq!(
            voter.consider(at(602), asked(1, 8, 9, true), stale),
            refused
        );
        assert_eq!(voter.granted().epoch, 5);
    }

    #[test]
    fn a_release_frees_at_once_also_what_is_on_its_way() {
        let mut voter = granted();
        assert!(!voter.release(at(400), 2));
        assert!(voter.release(at(400), 1));
        assert_eq!(voter.free_since(), at(400));
        assert_eq!(ask(&mut voter, 400, asked(2, 6, 1, false)), Answer::Store);
        assert!(voter.release(at(401), 2));
        let ballot = Ballot {
            epoch: 6,
            candidate: 2,
        };
        assert_eq!(voter.stored(at(402), ballot), None);
        assert_eq!(voter.bound_to(at(402)), None);
    }

    #[test]
    fn what_was_taken_back_on_its_way_to_disk_is_renewed_only_when_it_is_there() {
        let mut voter = granted();
        assert!(voter.release(at(400), 1));
        assert_eq!(ask(&mut voter, 400, asked(2, 6, 1, false)), Answer::Store);
        assert!(voter.release(at(401), 2));
        assert_eq!(ask(&mut voter, 402, asked(2, 6, 2, true)), Answer::Store);
        assert_eq!(voter.grant(at(402)), None, "it is not on disk yet");
        let ballot = Ballot {
            epoch: 6,
            candidate: 2,
        };
        assert!(voter.stored(at(403), ballot).is_some());
    }

    #[test]
    fn a_holder_goes_on_under_a_higher_number() {
        let mut voter = granted();
        assert_eq!(ask(&mut voter, 400, asked(1, 8, 9, true)), Answer::Store);
        assert_eq!(
            voter.grant(at(401)).map(|grant| grant.ballot.epoch),
            Some(5)
        );
        let ballot = Ballot {
            epoch: 8,
            candidate: 1,
        };
        assert!(voter.stored(at(402), ballot).is_some());
        assert_eq!(voter.until(at(402)), Some(at(702)));
    }
}
