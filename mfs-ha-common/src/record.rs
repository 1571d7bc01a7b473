//! What crosses from kernel to daemon through the ring buffer.
//!
//! Integers and byte arrays only: bytes from a map that are no valid `bool` or enum would be undefined
//! behaviour. Each record starts with its kind, so that other kinds can follow in the same ring.

use bytemuck::{Pod, Zeroable};

use crate::carp::Advert;
use crate::heartbeat::{BODY_LEN, Heartbeat, HeartbeatError};
use crate::net::{Ipv4, Ipv6, Mac};
use crate::peer::{PeerKey, PeerState};
use crate::priority::Priority;
use crate::time::Timestamp;
use crate::validate::Verified;

/// `AdvertRecord::kind`.
pub const KIND_ADVERT: u32 = 1;

/// `HeartbeatRecord::kind`.
pub const KIND_HEARTBEAT: u32 = 2;

/// What the ring holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// An advert.
    Advert(AdvertRecord),
    /// A heartbeat.
    Heartbeat(HeartbeatRecord),
}

impl Record {
    /// Reads a record from the ring buffer.
    ///
    /// # Errors
    /// Another kind or another length: the loaded program is not the one this daemon was built with.
    pub fn parse(bytes: &[u8]) -> Result<Self, UnknownRecord> {
        AdvertRecord::parse(bytes)
            .map(Self::Advert)
            .or_else(|_| HeartbeatRecord::parse(bytes).map(Self::Heartbeat))
    }
}

/// An advert that the XDP program accepted.
#[derive(Clone, Copy, Debug, Pod, Zeroable, PartialEq, Eq)]
#[repr(C)]
pub struct AdvertRecord {
    /// [`KIND_ADVERT`].
    pub kind: u32,
    /// Interface that the frame arrived on.
    pub ifindex: u32,
    /// Arrival, nanoseconds of `CLOCK_BOOTTIME`.
    pub arrival_ns: u64,
    /// Counter, big endian as on the wire.
    pub counter: [u8; 8],
    /// Source address.
    pub source: Ipv4,
    /// Source MAC.
    pub mac: Mac,
    /// Virtual host id.
    pub vhid: u8,
    /// advbase, seconds.
    pub advbase: u8,
    /// advskew, 1/256 s.
    pub advskew: u8,
    /// OpenBSD's demotion count.
    pub demote: u8,
    /// The member that signed it, 0 for an advert without a trailer.
    pub node: u8,
    /// Zero.
    pub reserved: u8,
}

/// A heartbeat that the XDP program accepted.
#[derive(Clone, Copy, Debug, Pod, Zeroable, PartialEq, Eq)]
#[repr(C)]
pub struct HeartbeatRecord {
    /// [`KIND_HEARTBEAT`].
    pub kind: u32,
    /// Interface that the frame arrived on.
    pub ifindex: u32,
    /// Arrival, nanoseconds of `CLOCK_BOOTTIME`.
    pub arrival_ns: u64,
    /// Source address, an IPv4 one as ::ffff:a.b.c.d. The tag does not cover it.
    pub source: Ipv6,
    /// Which of our keys the tag is right under: 0 the current one, 1 the one before it.
    pub key: u8,
    /// Zero.
    pub reserved: [u8; 7],
    /// What was signed.
    pub body: [u8; BODY_LEN],
}

/// Bytes from the ring that are no record of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownRecord {
    /// Length that was found.
    pub len: usize,
    /// The first four bytes, if there are so many.
    pub kind: Option<u32>,
}

impl core::fmt::Display for UnknownRecord {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { len, kind } = self;
        write!(
            f,
            "ring record of kind {kind:?} and {len} bytes is not known: eBPF object and daemon differ"
        )
    }
}

impl core::error::Error for UnknownRecord {}

impl UnknownRecord {
    fn of(bytes: &[u8]) -> Self {
        Self {
            len: bytes.len(),
            kind: bytes.first_chunk().map(|first| u32::from_ne_bytes(*first)),
        }
    }
}

impl AdvertRecord {
    /// Reads a record from the ring buffer.
    ///
    /// # Errors
    /// Another kind or another length: the loaded program is not the one this daemon was built with.
    pub fn parse(bytes: &[u8]) -> Result<Self, UnknownRecord> {
        let record = bytemuck::try_pod_read_unaligned::<Self>(bytes)
            .ok()
            .filter(|record| record.kind == KIND_ADVERT);
        record.ok_or_else(|| UnknownRecord::of(bytes))
    }

    /// Makes the record that the ring buffer had no room for, from what PEERS holds of its sender.
    #[must_use]
    pub fn from_peer(key: PeerKey, state: &PeerState) -> Self {
        Self {
            kind: KIND_ADVERT,
            arrival_ns: state.last_advert_ns,
            counter: state.counter.to_be_bytes(),
            source: key.source,
            advbase: state.advbase,
            advskew: state.advskew,
            demote: state.demote,
            ..Self::zeroed()
        }
    }

    /// Returns the advert. Only the XDP program writes the ring, and only what [`validate`] accepted.
    ///
    /// [`validate`]: crate::validate::validate
    #[must_use]
    pub const fn advert(&self) -> Verified<Advert> {
        Verified::from_kernel(Advert {
            vhid: self.vhid,
            priority: Priority::new(self.advbase, self.advskew),
            demote: self.demote,
            counter: self.counter,
        })
    }

    /// Returns the arrival time.
    #[must_use]
    pub const fn arrival(&self) -> Timestamp {
        Timestamp::from_nanos(self.arrival_ns)
    }
}

impl HeartbeatRecord {
    /// Reads a record from the ring buffer.
    ///
    /// # Errors
    /// Another kind or another length: the loaded program is not the one this daemon was built with.
    pub fn parse(bytes: &[u8]) -> Result<Self, UnknownRecord> {
        let record = bytemuck::try_pod_read_unaligned::<Self>(bytes)
            .ok()
            .filter(|record| record.kind == KIND_HEARTBEAT);
        record.ok_or_else(|| UnknownRecord::of(bytes))
    }

    /// Returns the heartbeat. Only the XDP program writes the ring, and only what it verified.
    ///
    /// # Errors
    /// A member that has the key wrote something that this version does not know.
    pub fn heartbeat(&self) -> Result<Verified<Heartbeat>, HeartbeatError> {
        Heartbeat::parse(&self.body).map(Verified::from_kernel)
    }

    /// Returns the arrival time.
    #[must_use]
    pub const fn arrival(&self) -> Timestamp {
        Timestamp::from_nanos(self.arrival_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_bytes_are_named() {
        assert_eq!(
            AdvertRecord::parse(&[1, 0]),
            Err(UnknownRecord { len: 2, kind: None })
        );
        let mut record = AdvertRecord::zeroed();
        record.kind = 7;
        assert_eq!(
            AdvertRecord::parse(bytemuck::bytes_of(&record)),
            Err(UnknownRecord {
                len: 40,
                kind: Some(7)
            })
        );
        record.kind = KIND_ADVERT;
        assert_eq!(AdvertRecord::parse(bytemuck::bytes_of(&record)), Ok(record));
        assert_eq!(
            Record::parse(bytemuck::bytes_of(&record)),
            Ok(Record::Advert(record))
        );
    }

    #[test]
    fn kind_and_length_tell_records_apart() {
        let mut record = HeartbeatRecord::zeroed();
        record.kind = KIND_HEARTBEAT;
        let bytes = bytemuck::bytes_of(&record);
        assert_eq!(Record::parse(bytes), Ok(Record::Heartbeat(record)));
        let unknown = |bytes: &[u8]| Record::parse(bytes).unwrap_err();
        assert_eq!(unknown(&bytes[..40]).kind, Some(KIND_HEARTBEAT));
        assert_eq!(unknown(&bytes[..191]).len, 191);
        record.kind = KIND_ADVERT;
        assert_eq!(
            unknown(bytemuck::bytes_of(&record)),
            UnknownRecord {
                len: 192,
                kind: Some(KIND_ADVERT)
            }
        );
    }

    #[test]
    fn a_body_that_nobody_writes_is_an_error() {
        let record = HeartbeatRecord::zeroed();
        assert_eq!(record.heartbeat(), Err(HeartbeatError::Magic));
    }
}
