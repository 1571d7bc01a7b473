//! The quorum election's part of the configuration.

use core::time::Duration;

use crate::cluster::{MEMBERS_MAX, Members, Membership, NodeId, Timing};
use crate::durable::Durable;
use crate::net::Ipv4;
use crate::priority::Priority;

/// Default of [`Settings::max_lag`].
pub const MAX_LAG: u64 = 1000;
/// Default of [`Settings::cold_start_wait`].
pub const COLD_START_WAIT: Duration = Duration::from_secs(30);

/// What an operator configures, and what an earlier life left on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Settings {
    /// Number of the cluster: a digest of its name.
    pub cluster: u64,
    /// Which member this node is.
    pub own: NodeId,
    /// All members.
    pub members: Members,
    /// Where each of them stands in the VIP's network, in the order of the list: by that a standby knows whose
    /// metadata it follows.
    pub sources: [Ipv4; MEMBERS_MAX],
    /// Generation of the list.
    pub generation: u32,
    /// The list that was in force before, where this one has not come into force yet (rule L10).
    pub previous: Option<(Members, Membership)>,
    /// H and T.
    pub timing: Timing,
    /// advbase and advskew: the interval of the master's adverts, and the rank among equally fresh nodes.
    pub priority: Priority,
    /// Changes that a candidate may lack of what a holder was last heard to have (rule L1e).
    pub max_lag: u64,
    /// How long the first election after a start waits for candidates that are not heard (rule L1e).
    pub cold_start_wait: Duration,
    /// The operator accepts that newer metadata are lost (rule L1e).
    pub accepts_loss: bool,
    /// What is on disk. [`Durable::boot`] is the number of this life, not yet stored.
    pub durable: Durable,
    /// Where this node's random pauses begin.
    pub seed: u64,
}
