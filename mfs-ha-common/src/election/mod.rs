//! "Should I be master?" The states and their vocabulary; the rules of carp mode are in [`carp`], those of a
//! majority in [`quorum`].

pub mod carp;
mod elector;
pub mod quorum;
mod settings;
mod standing;

pub(crate) use self::elector::Elector;
use crate::time::Timestamp;

/// CARP's states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum State {
    /// The interface cannot be used.
    Init,
    /// Listens to a master.
    Backup,
    /// Advertises. Whether it serves is said by [`Phase`](crate::promotion::Phase).
    Master,
}

impl State {
    /// Returns the name that status and log use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Backup => "backup",
            Self::Master => "master",
        }
    }
}

/// Why a state was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Reason {
    /// The daemon started and the interface cannot be used yet.
    Started,
    /// The interface became usable.
    LinkUp,
    /// The interface was lost.
    LinkDown,
    /// No master was heard for too long (rule E3).
    MasterSilent,
    /// `preempt` is set and the master is worse (rule E1).
    Preempted,
    /// The master's interval is longer than our patience (rule E2).
    MasterTooSlow,
    /// The master said that it leaves (rule E4).
    MasterBowedOut,
    /// A better master advertises (rule E6).
    BetterMaster,
    /// A master of equal priority advertises and wins the tie (rule E6).
    TieLost,
    /// A peer replaced this master, or must have, while its adverts were late (rule E8).
    Overslept,
    /// A majority has granted this node the lease (rule L3).
    LeaseAcquired,
    /// The lease was not renewed in time, or the node slept past it (rule L7).
    LeaseExpired,
    /// The VIP could not be taken (rule E10).
    VipFailed,
    /// The metadata could not be brought into service (rule M2).
    PromotionFailed,
    /// The metadata master was lost again soon after its restart (rule M4).
    MetadataMasterLost,
    /// The operator ended the daemon.
    Stopped,
}

impl Reason {
    /// Returns the name that status and log use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::LinkUp => "link_up",
            Self::LinkDown => "link_down",
            Self::MasterSilent => "master_silent",
            Self::Preempted => "preempted",
            Self::MasterTooSlow => "master_too_slow",
            Self::MasterBowedOut => "master_bowed_out",
            Self::BetterMaster => "better_master",
            Self::TieLost => "tie_lost",
            Self::Overslept => "overslept",
            Self::LeaseAcquired => "lease_acquired",
            Self::LeaseExpired => "lease_expired",
            Self::VipFailed => "vip_failed",
            Self::PromotionFailed => "promotion_failed",
            Self::MetadataMasterLost => "metadata_master_lost",
            Self::Stopped => "stopped",
        }
    }
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Transition {
    /// Before.
    pub from: State,
    /// After.
    pub to: State,
    /// Why.
    pub reason: Reason,
    /// When.
    pub at: Timestamp,
}

/// What the next deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// Silence makes this node master.
    MasterDown,
    /// Our turn after a master bowed out.
    BowOutSlot,
    /// The next advert is due.
    Advertise,
    /// The VIP is to be announced again.
    Announce,
    /// This node may become master again after it could not serve.
    HoldDown,
    /// The VIP is to be there by then.
    Promote,
    /// The VIP is to be given up, or gone, or the node to have left, by then.
    Resign,
    /// The next round of heartbeats is due.
    Heartbeat,
    /// The lease ends.
    LeaseEnd,
    /// A grant that this voter gave ends.
    GrantEnd,
    /// This candidate's turn to ask for the lease.
    Ask,
    /// A step of promotion or resignation has taken too long, or is asked for again.
    Step,
}

impl Timer {
    /// Returns the name that status and log use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MasterDown => "master_down",
            Self::BowOutSlot => "bow_out_slot",
            Self::Advertise => "advertise",
            Self::Announce => "announce",
            Self::HoldDown => "hold_down",
            Self::Promote => "promote",
            Self::Resign => "resign",
            Self::Heartbeat => "heartbeat",
            Self::LeaseEnd => "lease_end",
            Self::GrantEnd => "grant_end",
            Self::Ask => "ask",
            Self::Step => "step",
        }
    }
}
