//! When gratuitous ARPs are due (rule E9).

use core::time::Duration;

use crate::time::Timestamp;

/// Own adverts between the announcement at takeover and the next one (as ucarp).
const ADVERTS_BETWEEN: u8 = 2;
/// A third announcement, for switches whose ports had yet to come up. Under a lease more follow, for who was on the
/// other side of a partition: it would keep the old owner's Ethernet address for up to a minute.
const INTERVAL: Duration = Duration::from_secs(1);
/// The shortest time between two announcements, so that a flood of worse adverts makes no flood of ARP.
const SPACING: Duration = Duration::from_millis(100);

/// When gratuitous ARPs are due (rule E9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Announcements {
    last: Option<Timestamp>,
    due: Option<Timestamp>,
    adverts_left: Option<u8>,
}

impl Announcements {
    /// Nothing announced, nothing due.
    pub(crate) const EMPTY: Self = Self {
        last: None,
        due: None,
        adverts_left: None,
    };

    /// Says whether to announce now, and schedules what follows a takeover or a contest.
    pub(crate) fn begin(&mut self, now: Timestamp) -> bool {
        self.adverts_left = Some(ADVERTS_BETWEEN);
        self.due = Some(now.after(INTERVAL));
        self.announce(now)
    }

    /// Counts an own advert and says whether an announcement follows it.
    pub(crate) fn advert_sent(&mut self, now: Timestamp) -> bool {
        let left = self.adverts_left.map(|left| left.saturating_sub(1));
        self.adverts_left = left.filter(|left| *left > 0);
        left == Some(0) && self.announce(now)
    }

    /// Says whether an announcement is due by time. Without a lease there may be another owner who cannot be heard,
    /// and neighbours must not be drawn to and fro.
    pub(crate) fn tick(&mut self, now: Timestamp, is_leased: bool) -> bool {
        if self.due.is_some_and(|at| at <= now) {
            self.due = is_leased.then(|| now.after(INTERVAL));
            return self.announce(now);
        }
        false
    }

    /// Returns the next deadline.
    pub(crate) const fn poll_timeout(&self) -> Option<Timestamp> {
        self.due
    }

    fn announce(&mut self, now: Timestamp) -> bool {
        let earliest = self.last.map(|last| last.after(SPACING));
        if let Some(earliest) = earliest.filter(|at| *at > now) {
            self.due = Some(self.due.map_or(earliest, |due| due.min(earliest)));
            return false;
        }
        self.last = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    /// When an owner announces within so many milliseconds that does nothing but tick.
    fn announced(is_leased: bool, millis: u64) -> Vec<u64> {
        let at = |millis| Timestamp::from_nanos(1_000_000_000).after(Duration::from_millis(millis));
        let mut announcements = Announcements::EMPTY;
        assert!(announcements.begin(at(0)));
        let moments = 1..=millis;
        moments
            .filter(|millis| announcements.tick(at(*millis), is_leased))
            .collect()
    }

    #[test]
    fn an_owner_with_a_lease_announces_itself_for_good() {
        assert_eq!(announced(true, 4500), [1000, 2000, 3000, 4000]);
        assert_eq!(announced(false, 4500), [1000]);
    }
}
