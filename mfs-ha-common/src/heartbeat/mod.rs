//! Heartbeats: what the nodes of a cluster tell each other, each to each, in quorum mode.
//!
//! One datagram carries everything: liveness, what was heard, the request for a lease, the grant of one, and
//! what the sender has of the metadata. `docs/protocol.md`, "Heartbeats", lists the bytes.

pub(crate) mod auth;
mod wire;

pub use auth::TagKey;
pub use wire::{
    BODY_LEN, DATAGRAM_LEN, FLAGS_AT, HeartbeatError, KIND_HEARTBEAT, MAGIC, PHASE_ACTIVE,
    PHASE_AT, PORT, REQUEST_AT, TAG_LEN, VERSION,
};

use core::time::Duration;

use crate::cluster::{Membership, NodeId, Role, Timing};
use crate::freshness::Metadata;
use crate::priority::Priority;
use crate::promotion::Phase;
use crate::time::Timestamp;

/// Names one round of heartbeats: the life of its sender and the number within it. Rises strictly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Stamp {
    // The order of the fields is the order of comparison.
    /// Rises with each start of the sender's daemon. 0: no stamp.
    pub boot: u64,
    /// Rises by one with each round.
    pub sequence: u64,
}

impl Stamp {
    /// Says whether this is a stamp, and of a later round than `last`, which may be none.
    #[inline(always)]
    #[must_use]
    pub const fn is_newer_than(self, last: Self) -> bool {
        self.boot != 0
            && (self.boot > last.boot || (self.boot == last.boot && self.sequence > last.sequence))
    }
}

/// A lease that was asked for or granted: its number and for whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Ballot {
    /// The lease epoch. 0: none.
    pub epoch: u64,
    /// The candidate's id. 0: none.
    pub candidate: u8,
}

/// A grant that has not run out at its voter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Grant {
    /// What was granted; epoch 0 where there is no grant.
    pub ballot: Ballot,
    /// The request that set the grant: the holder counts its lease from when it sent that.
    pub request: Stamp,
}

/// What a sender says of the last heartbeat that it took from the receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Echo {
    /// Which one; boot 0 where there was none.
    pub stamp: Stamp,
    /// From its arrival to the sending of this one.
    pub held: Duration,
}

/// Yes and no in a heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Flags(u16);

impl Flags {
    /// The sender could promote what it has.
    pub const READY: Self = Self(1 << 0);
    /// What it has is final: nothing arrives any more.
    pub const FROZEN: Self = Self(1 << 1);
    /// The request is of a holder: a majority has granted it before.
    pub const HELD: Self = Self(1 << 2);
    /// Nobody who has older metadata shall be granted a lease while this node is heard.
    pub const COUNTS: Self = Self(1 << 3);
    /// It has looked at its metadata since its start.
    pub const SETTLED: Self = Self(1 << 4);
    /// It has heard a holder since its start, or was one.
    pub const HAS_HEARD_HOLDER: Self = Self(1 << 5);
    /// The operator accepts that newer metadata are lost.
    pub const ACCEPTS_LOSS: Self = Self(1 << 6);
    /// It cannot keep its schedule.
    pub const LATE: Self = Self(1 << 7);

    /// A majority has granted the very epoch of the request, and that has not run out: whoever holds a lower one
    /// must not serve (rule G6).
    pub const HOLDS: Self = Self(1 << 8);

    /// All that have a meaning.
    const KNOWN: u16 = (1 << 9) - 1;

    /// Reads them as they stand in a body, known or not.
    #[inline(always)]
    #[must_use]
    pub const fn from_wire(bytes: [u8; 2]) -> Self {
        Self(u16::from_be_bytes(bytes))
    }

    /// Writes them as they stand in a body.
    #[must_use]
    pub const fn to_wire(self) -> [u8; 2] {
        self.0.to_be_bytes()
    }

    /// Says whether all of `flags` are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Adds `flags` where `is_set`.
    #[must_use]
    pub const fn with(self, flags: Self, is_set: bool) -> Self {
        if is_set { Self(self.0 | flags.0) } else { self }
    }
}

/// What one node tells another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Heartbeat {
    /// Which cluster both belong to.
    pub cluster: u64,
    /// Who speaks.
    pub sender: NodeId,
    /// Who is spoken to.
    pub receiver: NodeId,
    /// Which round this is.
    pub stamp: Stamp,
    /// When it was sent, by the sender's clock.
    pub sent_at: Timestamp,
    /// The last one that came from the receiver.
    pub echo: Echo,
    /// The sender's member list.
    pub membership: Membership,
    /// The sender's H and T.
    pub timing: Timing,
    /// What the sender does.
    pub role: Role,
    /// How far it is in serving.
    pub phase: Phase,
    /// Yes and no.
    pub flags: Flags,
    /// Its effective priority.
    pub priority: Priority,
    /// Members that it hears: a bit for each place in the list, the lowest for the first, its own one set.
    pub heard: u8,
    /// Whom it takes for the holder of the lease; 0 for nobody.
    pub holder: u8,
    /// The epoch of the lease that it asks for or renews; 0 for none.
    pub request: u64,
    /// What it has granted.
    pub grant: Grant,
    /// The highest lease epoch that it ever granted.
    pub epoch: u64,
    /// Whom it granted that; 0 for nobody.
    pub granted_to: u8,
    /// What it has of the metadata.
    pub metadata: Metadata,
}
