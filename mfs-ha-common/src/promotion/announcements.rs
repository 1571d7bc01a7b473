//! When gratuitous ARPs are due (rule E9).

use core::time::Duration;

use crate::time::Timestamp;

/// Own adverts between the announcement at takeover and the next one (as ucarp).
const ADVERTS_BETWEEN: u8 = 2;
/// Who did not hear of the new owner, behind a switch whose ports had yet to come up or a network that was in two
/// parts, would keep the old one's Ethernet address for up to a minute.
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

    /// Says whether an announcement is due by time.
    pub(crate) fn tick(&mut self, now: Timestamp) -> bool {
        if self.due.is_some_and(|at| at <= now) {
            self.due = Some(now.after(INTERVAL));
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
