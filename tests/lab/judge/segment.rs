//! TCP segments without data, made and read by hand.

use std::net::Ipv4Addr;

use super::wire::checksum;
use crate::net::packet::{EtherType, Mac};

const ETHERNET_LENGTH: usize = 14;
const IP_LENGTH: usize = 20;
const TCP_LENGTH: usize = 20;
const PROTOCOL: u8 = 6;

/// The flags byte of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// A request for a connection.
    pub const SYN: Self = Self(0x02);
    /// A bare reset.
    pub const RST: Self = Self(0x04);
    /// The grant of a connection.
    pub const SYN_ACK: Self = Self(0x12);
    /// The refusal of a connection.
    pub const RST_ACK: Self = Self(0x14);
}

/// A segment without data. Pairs are (source, destination).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Ethernet addresses.
    pub macs: (Mac, Mac),
    /// IPv4 addresses.
    pub addresses: (Ipv4Addr, Ipv4Addr),
    /// TCP ports.
    pub ports: (u16, u16),
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledged: u32,
    /// Flags.
    pub flags: Flags,
}

impl Segment {
    /// The reset that ends what this grant began.
    #[must_use]
    pub fn refusal(&self) -> Self {
        Self {
            macs: (self.macs.1, self.macs.0),
            addresses: (self.addresses.1, self.addresses.0),
            ports: (self.ports.1, self.ports.0),
            sequence: self.acknowledged,
            acknowledged: 0,
            flags: Flags::RST,
        }
    }

    /// The whole Ethernet frame, with good checksums.
    pub fn to_frame(&self) -> Vec<u8> {
        let mut tcp = Vec::with_capacity(TCP_LENGTH);
        tcp.extend_from_slice(&self.ports.0.to_be_bytes());
        tcp.extend_from_slice(&self.ports.1.to_be_bytes());
        tcp.extend_from_slice(&self.sequence.to_be_bytes());
        tcp.extend_from_slice(&self.acknowledged.to_be_bytes());
        tcp.extend_from_slice(&[0x50, self.flags.0, 0x10, 0, 0, 0, 0, 0]);
        let mut covered = Vec::with_capacity(12 + TCP_LENGTH);
        covered.extend_from_slice(&self.addresses.0.octets());
        covered.extend_from_slice(&self.addresses.1.octets());
        covered.extend_from_slice(&[0, PROTOCOL, 0, 20]);
        covered.extend_from_slice(&tcp);
        tcp[16..18].copy_from_slice(&checksum(&covered).to_be_bytes());

        let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, PROTOCOL, 0, 0];
        ip.extend_from_slice(&self.addresses.0.octets());
        ip.extend_from_slice(&self.addresses.1.octets());
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());

        let mut frame = Vec::with_capacity(ETHERNET_LENGTH + IP_LENGTH + TCP_LENGTH);
        frame.extend_from_slice(&self.macs.1.0);
        frame.extend_from_slice(&self.macs.0.0);
        frame.extend_from_slice(&EtherType::Ipv4.bytes());
        frame.extend(ip);
        frame.extend(tcp);
        frame
    }

    /// Reads the headers of an untagged frame; anything but TCP without IP options is `None`.
    pub fn from_frame(frame: &[u8]) -> Option<Self> {
        let ip: &[u8; IP_LENGTH] = frame.get(ETHERNET_LENGTH..)?.first_chunk()?;
        let tcp: &[u8; TCP_LENGTH] = frame.get(ETHERNET_LENGTH + IP_LENGTH..)?.first_chunk()?;
        let is_tcp =
            frame.get(12..14)? == EtherType::Ipv4.bytes() && ip[0] == 0x45 && ip[9] == PROTOCOL;
        if !is_tcp {
            return None;
        }
        Some(Self {
            macs: (
                Mac(frame.get(6..12)?.try_into().ok()?),
                Mac(frame.get(..6)?.try_into().ok()?),
            ),
            addresses: (
                Ipv4Addr::from(<[u8; 4]>::try_from(&ip[12..16]).ok()?),
                Ipv4Addr::from(<[u8; 4]>::try_from(&ip[16..20]).ok()?),
            ),
            ports: (
                u16::from_be_bytes([tcp[0], tcp[1]]),
                u16::from_be_bytes([tcp[2], tcp[3]]),
            ),
            sequence: u32::from_be_bytes(tcp[4..8].try_into().ok()?),
            acknowledged: u32::from_be_bytes(tcp[8..12].try_into().ok()?),
            flags: Flags(tcp[13] & 0x3f),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syn() -> Segment {
        Segment {
            macs: (Mac([2; 6]), Mac([3; 6])),
            addresses: (Ipv4Addr::new(10, 77, 0, 250), Ipv4Addr::new(10, 77, 0, 100)),
            ports: (20_000, 9421),
            sequence: 7,
            acknowledged: 0,
            flags: Flags::SYN,
        }
    }

    #[test]
    fn a_segment_is_read_as_it_was_made() {
        let frame = syn().to_frame();
        assert_eq!(frame.len(), 54);
        assert_eq!(checksum(&frame[14..34]), 0);
        assert_eq!(Segment::from_frame(&frame), Some(syn()));
        for length in 0..frame.len() {
            assert_eq!(Segment::from_frame(&frame[..length]), None);
        }
        for (offset, value) in [(12, 0x86), (14, 0x46), (23, 17)] {
            let mut foreign = frame.clone();
            foreign[offset] = value;
            assert_eq!(Segment::from_frame(&foreign), None);
        }
    }

    #[test]
    fn a_refusal_takes_up_where_the_grant_ended() {
        let grant = Segment {
            sequence: 99,
            acknowledged: 8,
            flags: Flags::SYN_ACK,
            ..syn()
        };
        let refusal = grant.refusal();
        assert_eq!((refusal.sequence, refusal.flags), (8, Flags::RST));
        assert_eq!(refusal.ports, (9421, 20_000));
        assert_eq!(refusal.macs, (Mac([3; 6]), Mac([2; 6])));
    }
}
