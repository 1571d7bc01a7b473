//! "Am I serving?" The way from mastership to service and back.
//!
//! Without metadata to promote, serving means having the VIP: promoting is one step, adding it, and
//! resigning is one step, removing it. Master does not mean active.
//!
//! ```text
//! Standby ── master ──▶ Promoting ── VIP is there ──▶ Active
//!    ▲                      │                            │
//!    └── VIP is gone ── Resigning ◀── not master ────────┘
//! ```

use core::time::Duration;

use crate::time::Timestamp;

/// How far this node is in serving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Does not serve.
    #[default]
    Standby,
    /// Takes the VIP.
    Promoting,
    /// Serves.
    Active,
    /// Gives the VIP up.
    Resigning,
}

impl Phase {
    /// Returns the name that status and log use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Standby => "standby",
            Self::Promoting => "promoting",
            Self::Active => "active",
            Self::Resigning => "resigning",
        }
    }
}

/// How long a new master waits for its VIP before it leaves the mastership to others.
pub const PROMOTE_LIMIT: Duration = Duration::from_secs(3);

/// How long a leaving node waits for its VIP to be gone before it says farewell all the same.
pub const RESIGN_LIMIT: Duration = Duration::from_millis(200);

/// Own adverts between the announcement at takeover and the next one (as ucarp).
const ADVERTS_BETWEEN: u8 = 2;
/// A third announcement, for switches whose ports had yet to come up.
const LAST_ANNOUNCEMENT: Duration = Duration::from_secs(1);
/// The shortest time between two announcements, so that a flood of worse adverts makes no flood of ARP.
const ANNOUNCE_SPACING: Duration = Duration::from_millis(100);

/// When gratuitous ARPs are due (rule E9).
#[derive(Clone, Copy, Debug)]
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
        self.due = Some(now.after(LAST_ANNOUNCEMENT));
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
            self.due = None;
            return self.announce(now);
        }
        false
    }

    /// Returns the next deadline.
    pub(crate) const fn poll_timeout(&self) -> Option<Timestamp> {
        self.due
    }

    fn announce(&mut self, now: Timestamp) -> bool {
        let earliest = self.last.map(|last| last.after(ANNOUNCE_SPACING));
        if let Some(earliest) = earliest.filter(|at| *at > now) {
            self.due = Some(self.due.map_or(earliest, |due| due.min(earliest)));
            return false;
        }
        self.last = Some(now);
        true
    }
}
