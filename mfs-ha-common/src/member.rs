//! What the kernel remembers of each other member of the cluster: the MEMBERS and MISMATCHES maps.
//!
//! The daemon makes the entries, for the configured members only; nothing that arrives can add one. MEMBERS
//! changes only after a tag was verified. MISMATCHES counts claims that nobody has verified, so that an
//! operator learns whose key, cluster id or version differs; no decision rests on it.

use bytemuck::{Pod, Zeroable};

use crate::cluster::{MEMBERS_MAX, NodeId};
use crate::filter::ClusterConfig;
use crate::heartbeat::Stamp;
use crate::stats::DropReason;
use crate::time::Timestamp;

/// Entries of MEMBERS: heartbeats and adverts are numbered each on their own.
pub const MEMBER_ENTRIES_MAX: usize = MEMBERS_MAX << 1;

/// `MemberKey::class` of heartbeats.
pub const CLASS_HEARTBEAT: u8 = 1;
/// `MemberKey::class` of adverts with a signed trailer.
pub const CLASS_ADVERT: u8 = 2;

/// Key of MEMBERS.
#[derive(Clone, Copy, Debug, Pod, Zeroable, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct MemberKey {
    /// The member's id.
    pub node: u8,
    /// [`CLASS_HEARTBEAT`] or [`CLASS_ADVERT`].
    pub class: u8,
}

impl MemberKey {
    /// Makes the key of a member's heartbeats.
    #[inline(always)]
    #[must_use]
    pub const fn heartbeat(node: u8) -> Self {
        Self {
            node,
            class: CLASS_HEARTBEAT,
        }
    }

    /// Makes the key of a member's adverts.
    #[inline(always)]
    #[must_use]
    pub const fn advert(node: u8) -> Self {
        Self {
            node,
            class: CLASS_ADVERT,
        }
    }

    /// Returns both keys of a member.
    #[must_use]
    pub const fn both(id: NodeId) -> [Self; 2] {
        [Self::heartbeat(id.get()), Self::advert(id.get())]
    }
}

/// Value of MEMBERS: the last message of one class whose tag was right.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable, PartialEq, Eq)]
#[repr(C)]
pub struct MemberState {
    /// Its arrival, nanoseconds of `CLOCK_BOOTTIME`. 0: never heard.
    pub last_arrival_ns: u64,
    /// Its sender's life.
    pub boot: u64,
    /// Its number in that life.
    pub sequence: u64,
    /// How many were accepted.
    pub accepted: u64,
    /// The interface that it came in on.
    pub ifindex: u32,
    /// Zero.
    pub reserved: u32,
}

impl MemberState {
    /// Returns what the next message's stamp has to be above.
    #[inline(always)]
    #[must_use]
    pub const fn stamp(&self) -> Stamp {
        Stamp {
            boot: self.boot,
            sequence: self.sequence,
        }
    }
}

/// Key of MISMATCHES.
#[derive(Clone, Copy, Debug, Pod, Zeroable, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct MismatchKey {
    /// The id that was claimed.
    pub node: u8,
}

/// Value of MISMATCHES: what was refused of somebody who claims to be this member.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable, PartialEq, Eq)]
#[repr(C)]
pub struct MismatchState {
    /// Heartbeats and trailers whose tag is right under none of our keys.
    pub bad_tag: u64,
    /// The last of them, nanoseconds of `CLOCK_BOOTTIME`.
    pub last_bad_tag_ns: u64,
    /// Those of another cluster.
    pub other_cluster: u64,
    /// The last of them.
    pub last_other_cluster_ns: u64,
    /// Which cluster that was.
    pub cluster: u64,
    /// Heartbeats of another version.
    pub other_version: u64,
    /// The last of them.
    pub last_other_version_ns: u64,
    /// Which version that was.
    pub version: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

impl MismatchState {
    /// Counts what was refused. Reasons that are no mismatch change nothing.
    #[inline(always)]
    pub const fn note(&mut self, reason: DropReason, claim: &Claim, at: Timestamp) {
        use DropReason as Reason;
        if matches!(reason, Reason::BadTag | Reason::TrailerBadTag) {
            self.bad_tag = self.bad_tag.wrapping_add(1);
            self.last_bad_tag_ns = at.as_nanos();
        } else if matches!(reason, Reason::OtherCluster | Reason::TrailerOtherCluster) {
            self.other_cluster = self.other_cluster.wrapping_add(1);
            self.last_other_cluster_ns = at.as_nanos();
            self.cluster = claim.cluster;
        } else if matches!(reason, Reason::OtherVersion) {
            self.other_version = self.other_version.wrapping_add(1);
            self.last_other_version_ns = at.as_nanos();
            self.version = claim.version;
        }
    }
}

/// What a message says of its sender, and nobody has verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who it says it is.
    pub node: u8,
    /// The version of its format.
    pub version: u8,
    /// The cluster that it says it belongs to.
    pub cluster: u64,
}

/// What validation asks about the cluster.
pub trait Cluster {
    /// Returns the configuration, or `None` where this node belongs to no cluster.
    fn config(&self) -> Option<&ClusterConfig>;

    /// Returns the stamp of the last accepted message, or `None` for who is not a configured member.
    fn last(&self, key: MemberKey) -> Option<Stamp>;
}

/// Belongs to no cluster.
impl Cluster for () {
    #[inline(always)]
    fn config(&self) -> Option<&ClusterConfig> {
        None
    }

    #[inline(always)]
    fn last(&self, _key: MemberKey) -> Option<Stamp> {
        None
    }
}
