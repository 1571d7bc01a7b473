//! "Am I serving?" The way from mastership to service and back.
//!
//! What is served decides how long the way is ([`Service`]). For the VIP alone promoting is one step, adding
//! it, and resigning is one step, removing it. With metadata the steps of [`PROMOTION`] and [`RESIGNATION`]
//! are done one after the other. Master does not mean active.
//!
//! ```text
//! Standby ── master ──▶ Promoting ── VIP is there ──▶ Active
//!    ▲                   │      ▲                      │   │
//!    │               not master └─ mfsmaster died, once┘   │
//!    │                   ▼                                 │
//!    └── all is undone ─ Resigning ◀──── not master ───────┘
//!                        │      ▲
//!   mfsmaster stays, 5 s ▼      │ it is gone
//!                         Stuck
//! ```

mod announcements;
mod sequence;
mod steps;

pub(crate) use sequence::Promotion;
pub use sequence::RunningStep;
pub use steps::{
    ADMIT_LIMIT, PROMOTE_LIMIT, PROMOTION, RESIGN_LIMIT, RESIGNATION, STAGE_LIMIT, START_LIMIT,
    STOP_LIMIT, Service, Step, StepInfo,
};

use core::time::Duration;

/// How long a node that is told to end waits for the metadata master and its files (rule M3).
pub const EXIT_LIMIT: Duration = Duration::from_secs(2);

/// How often a stuck node asks again for its metadata master to be stopped (rule M3).
pub const STUCK_RETRY: Duration = Duration::from_secs(1);

/// Who served for this long has no failures behind it (rules M2 and M4).
pub const STABLE: Duration = Duration::from_secs(30);

/// How far this node is in serving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Phase {
    /// Does not serve.
    #[default]
    Standby,
    /// Does the steps of promotion.
    Promoting,
    /// Serves.
    Active,
    /// Does the steps of resignation.
    Resigning,
    /// Cannot stop its metadata master. It has no VIP, and becomes master by no rule.
    Stuck,
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
            Self::Stuck => "stuck",
        }
    }
}
