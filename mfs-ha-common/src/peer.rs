//! What the kernel remembers of each sender: key and value of the PEERS map.

use bytemuck::{Pod, Zeroable};

use crate::net::Ipv4;

/// The most peers that are remembered. A flood of forged sources cannot grow the map past it.
pub const PEERS_MAX: usize = 64;

/// Key of PEERS: who sent.
#[derive(Clone, Copy, Debug, Pod, Zeroable, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct PeerKey {
    /// Source address of the adverts.
    pub source: Ipv4,
}

/// Value of PEERS: the last accepted advert of one source.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable, PartialEq, Eq)]
#[repr(C)]
pub struct PeerState {
    /// Arrival of the last advert, nanoseconds of `CLOCK_BOOTTIME`.
    pub last_advert_ns: u64,
    /// Accepted adverts. 0 marks an entry that was written from the configuration.
    pub adverts: u64,
    /// Counter of the last advert, in the machine's byte order.
    pub counter: u64,
    /// advbase of the last advert, seconds.
    pub advbase: u8,
    /// advskew of the last advert, 1/256 s.
    pub advskew: u8,
    /// OpenBSD's demotion count of the last advert.
    pub demote: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

/// What validation asks about a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastAdvert {
    /// Accepted adverts, 0 for a configured peer that was not heard yet.
    pub adverts: u64,
    /// Counter of the last one, in the machine's byte order.
    pub counter: u64,
}

/// Looks up what is remembered of a sender.
pub trait Peers {
    /// Returns the last advert of `source`, or `None` where there is no entry.
    fn find(&self, source: Ipv4) -> Option<LastAdvert>;
}

/// Remembers nobody.
impl Peers for () {
    #[inline(always)]
    fn find(&self, _source: Ipv4) -> Option<LastAdvert> {
        None
    }
}
