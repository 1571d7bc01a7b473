//! What the quorum election shows of itself.

use core::time::Duration;

use crate::cluster::{NodeId, Role};
use crate::durable::Durable;
use crate::freshness::Metadata;
use crate::heartbeat::{Ballot, Heartbeat};
use crate::time::Timestamp;

/// The lease, as one node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseStatus {
    /// What this node holds or asks for.
    pub ballot: Ballot,
    /// When its own lease ends; `None` where it holds none.
    pub ends: Option<Timestamp>,
    /// What it has granted, and until when.
    pub granted: Option<(Ballot, Timestamp)>,
    /// Whom it takes for the holder.
    pub holder: Option<NodeId>,
    /// Members that it hears, itself included.
    pub heard: u8,
    /// How many make a majority.
    pub majority: u8,
    /// What it has, or serves.
    pub metadata: Metadata,
    /// Whether that is final.
    pub is_frozen: bool,
    /// Why it does not ask for a lease.
    pub obstacle: Option<Obstacle>,
    /// The last request that it refused, and why.
    pub refused: Option<(NodeId, Refusal)>,
    /// What it wants to have on disk.
    pub durable: Durable,
    /// Whether that is on disk.
    pub is_stored: bool,
    /// The shortest time that was left of a lease when it was renewed.
    pub margin_min: Option<Duration>,
    /// Rounds of heartbeats that were sent late by more than half an interval.
    pub rounds_late: u64,
}

/// Why a candidate does not ask for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// A witness never does.
    Witness,
    /// The interface of the VIP cannot be used, or the daemon ends.
    Offline,
    /// The number of this life is not on disk yet.
    NotStored,
    /// It started less than T ago, and has no vote of its own yet (rule L1).
    Starting,
    /// The member list is not in force yet (rule L10).
    NewMembers,
    /// The metadata here could not be served (rule M5).
    NotReady,
    /// It failed to serve and leaves it to others for a while (rule M2).
    HoldDown,
    /// An earlier service is not undone yet (rule M3).
    Resigning,
    /// Too few members are heard.
    NoMajority,
    /// Too few of them are free: somebody holds a lease, or held one a moment ago.
    Granted,
    /// After a cold start it waits for all candidates (rule L1e).
    ColdStart,
    /// Its metadata are not final yet (rule L1b).
    Freezing,
    /// Others have their turn first, or it waits after an attempt (rule L5).
    Waiting,
}

impl Obstacle {
    /// Returns the name that status and log use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Witness => "witness",
            Self::Offline => "offline",
            Self::NotStored => "not_stored",
            Self::Starting => "starting",
            Self::NewMembers => "new_members",
            Self::NotReady => "not_ready",
            Self::HoldDown => "hold_down",
            Self::Resigning => "resigning",
            Self::NoMajority => "no_majority",
            Self::Granted => "granted",
            Self::ColdStart => "cold_start",
            Self::Freezing => "freezing",
            Self::Waiting => "waiting",
        }
    }
}

/// Why a voter does not grant what it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Refusal {
    /// It started less than T ago, and may have granted something just before (rule L1).
    Started,
    /// It has granted the lease to somebody else (rule L1).
    Granted,
    /// It has granted this epoch, or a higher one, before (rule L1).
    Epoch,
    /// The request does not answer what this voter said a moment ago (rule L8).
    Outdated,
    /// Another member list, or one that is not in force yet (rule L10).
    Members,
    /// Somebody else who counts has newer metadata (rule L1).
    Stale,
    /// A holder was heard to have much newer metadata (rule L1e).
    Behind,
    /// The metadata are of another file system (rule L1).
    OtherMetadata,
    /// The metadata of a node that counts are not final yet (rule L1b).
    NotFrozen,
}

impl Refusal {
    /// Returns the name that status and log use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Granted => "granted",
            Self::Epoch => "epoch",
            Self::Outdated => "outdated",
            Self::Members => "members",
            Self::Stale => "stale",
            Self::Behind => "behind",
            Self::OtherMetadata => "other_metadata",
            Self::NotFrozen => "not_frozen",
        }
    }
}

/// Another member, as one node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberStatus {
    /// Which one.
    pub id: NodeId,
    /// What it is configured to be.
    pub role: Role,
    /// Its last heartbeat and when that arrived; `None` before the first one.
    pub last: Option<(Heartbeat, Timestamp)>,
    /// Whether it counts as heard now.
    pub is_heard: bool,
    /// Smoothed time of a round trip, without what the other one held it.
    pub round_trip: Option<Duration>,
    /// Smoothed deviation of that.
    pub jitter: Option<Duration>,
    /// How its clock runs against ours, in parts per million, measured over at least ten seconds.
    pub drift_ppm: Option<i32>,
}
