//! What the heartbeat thread shows of itself.

use mfs_ha_common::election::Transition;
use mfs_ha_common::election::quorum::{LeaseStatus, MemberStatus};
use mfs_ha_common::node::NodeStatus;
use mfs_ha_common::time::Timestamp;

use crate::cluster::rounds::PathCount;
use crate::gate::WriterView;

/// A look at the node.
#[derive(Clone, Debug)]
pub struct View {
    /// The core's own words.
    pub node: NodeStatus,
    /// When the look was taken.
    pub at: Timestamp,
    /// The last transitions, oldest first.
    pub transitions: Vec<Transition>,
    /// Adverts that the interface took.
    pub adverts_sent: u64,
    /// Adverts that it did not.
    pub adverts_failed: u64,
    /// The lease and the other members; `None` in carp mode.
    pub cluster: Option<ClusterView>,
    /// What the gate was told; `None` without one.
    pub gate: Option<WriterView>,
    /// The longest that a deadline was overrun, in nanoseconds.
    pub lateness_max_ns: u64,
}

/// The lease and the other members, as the core sees them.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// The lease.
    pub lease: LeaseStatus,
    /// All members but this one.
    pub members: Vec<MemberStatus>,
    /// What became of heartbeats in each network.
    pub paths: Vec<PathCount>,
    /// Heartbeats that this version does not understand.
    pub not_understood: u64,
}
