//! The receiver's side of the configuration: the values of the CONFIG and CLUSTER maps.

use bytemuck::{Pod, Zeroable};

use crate::carp::auth::HmacKey;
use crate::heartbeat::TagKey;
use crate::net::Ipv4;

/// A `vlan` that takes frames of every VLAN and untagged ones (`mfs-ha decode`).
pub const VLAN_ANY: u16 = 0xffff;

/// Policy: accept bytes after the 36-byte header instead of dropping the frame.
pub const ACCEPT_TRAILING_BYTES: u32 = 1 << 0;
/// Policy: drop an advert whose counter equals the last accepted one of its source.
pub const REJECT_REPEATED_COUNTER: u32 = 1 << 1;
/// Policy: drop adverts of sources without an entry in PEERS.
pub const KNOWN_PEERS_ONLY: u32 = 1 << 2;

/// What XDP and host compare a frame with.
#[derive(Clone, Copy, Debug, Pod, Zeroable, PartialEq, Eq)]
#[repr(C)]
pub struct FilterConfig {
    /// The virtual address that the digest covers.
    pub vip: Ipv4,
    /// The destination address of adverts.
    pub group: Ipv4,
    /// This node's own source address.
    pub source: Ipv4,
    /// Virtual host id; 0 lets nothing through, as before the first write of the map.
    pub vhid: u8,
    /// How many addresses the digest covers. Adverts are read when it is 1, else they pass unread.
    pub vip_count: u8,
    /// VLAN id, 0 for untagged, or [`VLAN_ANY`].
    pub vlan: u16,
    /// Policy bits.
    pub policy: u32,
    /// The password's pad states.
    pub key: HmacKey,
}

impl FilterConfig {
    /// Says whether a policy bit is set.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, policy: u32) -> bool {
        self.policy & policy != 0
    }
}

/// Cluster policy: heartbeats are ours. Without it UDP port 9429 passes untouched, as in carp mode.
pub const HEARTBEATS: u32 = 1 << 0;
/// Cluster policy: trailers of adverts are read and have to be right.
pub const TRAILERS: u32 = 1 << 1;
/// Cluster policy: adverts without a trailer are dropped. Needs [`TRAILERS`].
pub const REQUIRE_EXTENSION: u32 = 1 << 2;
/// Cluster policy: the second key counts as well. Without it that key is not looked at.
pub const PREVIOUS_KEY: u32 = 1 << 3;

/// What heartbeats and trailers are compared with.
#[derive(Clone, Copy, Debug, Pod, Zeroable, PartialEq, Eq)]
#[repr(C)]
pub struct ClusterConfig {
    /// Which cluster.
    pub cluster: u64,
    /// The key that is sent with, and the one before it.
    pub keys: [TagKey; 2],
    /// Policy bits.
    pub policy: u32,
    /// VLAN id of heartbeats, 0 for untagged, or [`VLAN_ANY`].
    pub vlan: u16,
    /// This node's id; 0 lets nothing through, as before the first write of the map.
    pub node: u8,
    /// Zero.
    pub reserved: u8,
}

impl ClusterConfig {
    /// Says whether a policy bit is set.
    #[inline(always)]
    #[must_use]
    pub const fn has(&self, policy: u32) -> bool {
        self.policy & policy != 0
    }
}
