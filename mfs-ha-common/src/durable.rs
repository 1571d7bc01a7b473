//! What a node of a cluster keeps on disk, because forgetting it would make two holders.

use crate::cluster::Membership;
use crate::freshness::Freshness;
use crate::heartbeat::Ballot;

/// The whole of it. It is small, and written as a whole.
///
/// The core asks for it to be stored by [`Action::Store`](crate::action::Action::Store) and acts on it when
/// [`Event::Stored`](crate::event::Event::Stored) says that it is on disk. A later one replaces an earlier
/// one that was not written yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Durable {
    /// The number of this life of the daemon (rule L8).
    pub boot: u64,
    /// The highest grant that was ever given (rule L4).
    pub granted: Ballot,
    /// The newest metadata that a holder was heard to have (rule L1e).
    pub seen: Freshness,
    /// Promotions that were begun since this node served for long (rule L1d).
    pub attempts: u8,
    /// The member list that is in force (rule L10).
    pub membership: Membership,
}
