//! What stands against a node: demotion, and what the way into service allows.

use crate::promotion::Phase;

/// Why a node advertises a worse priority than configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Demotion {
    /// Adverts cannot be sent.
    pub send_failure: bool,
    /// The VIP could not be taken (rule E10).
    pub vip_failure: bool,
    /// The metadata could not be served (rules M2 and M4).
    pub promotion_failure: bool,
    /// The metadata here could not be served now (rule M5).
    pub not_ready: bool,
    /// The metadata master cannot be stopped (rule M3).
    pub stuck: bool,
    /// Steps of 1/256 s away from peers of the same priority that win ties (rule E7).
    pub equal_skew: u8,
}

impl Demotion {
    pub(crate) const NONE: Self = Self {
        send_failure: false,
        vip_failure: false,
        promotion_failure: false,
        not_ready: false,
        stuck: false,
        equal_skew: 0,
    };

    /// Says whether the node has nothing to be demoted for. Distance from equals is no illness.
    pub(crate) const fn is_well(self) -> bool {
        !self.send_failure && !self.has_failed() && !self.not_ready && !self.stuck
    }

    /// Says whether a hold-down is in force.
    pub(crate) const fn has_failed(self) -> bool {
        self.vip_failure || self.promotion_failure
    }
}

/// What the way into service allows the election.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Standing {
    /// How far the node is in serving.
    pub(crate) phase: Phase,
    /// No metadata master of this node runs.
    pub(crate) is_master_gone: bool,
    /// An earlier service is not undone yet: master by no rule.
    pub(crate) is_barred: bool,
    /// A live master is left alone, however bad it is.
    pub(crate) holds_back: bool,
    /// Demotion for metadata that could not be served.
    pub(crate) not_ready: bool,
    /// Demotion for a metadata master that cannot be stopped.
    pub(crate) stuck: bool,
}
