//! The receiver's side of the configuration: the value of the CONFIG map.

use bytemuck::{Pod, Zeroable};

use crate::carp::auth::HmacKey;
use crate::net::Ipv4;

/// `FilterConfig::vlan` that takes frames of every VLAN and untagged ones (`mfs-ha decode`).
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
