//! The election's part of the configuration.

use core::num::NonZeroU8;

use crate::net::Ipv4;
use crate::priority::Priority;

/// What an operator configures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Settings {
    /// advbase and advskew.
    pub priority: Priority,
    /// Intervals of silence after which a master counts as dead.
    pub deadratio: NonZeroU8,
    /// Take over from a live master that is worse.
    pub preempt: bool,
    /// Own source address, for ties.
    pub source: Ipv4,
    /// Exactly one other node exists, so nobody else obeys its bow-out.
    pub has_sole_peer: bool,
}
