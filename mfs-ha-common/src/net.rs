//! Views of Ethernet, 802.1Q and IPv4 headers: only the fields that mfs-ha reads.
//!
//! Bytes come through [`Frame`], because a slice over packet memory is refused by the kernel's
//! verifier while a bounds check followed by a fixed-size load is not.

/// Bytes of an Ethernet header without a tag.
pub const ETHERNET_LEN: usize = 14;
/// Bytes that one 802.1Q tag adds.
pub const VLAN_TAG_LEN: usize = 4;
/// Bytes of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Bytes of an IPv6 header.
pub const IPV6_LEN: usize = 40;
/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
/// EtherType of ARP.
pub const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// EtherType of an 802.1Q tag. 802.1ad (0x88a8) is not handled: such frames are not ours.
pub const ETHERTYPE_VLAN: [u8; 2] = [0x81, 0x00];
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// Bytes of a UDP header.
pub const UDP_LEN: usize = 8;
/// IP protocol number that CARP and VRRP share.
pub const PROTOCOL_CARP: u8 = 112;
/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;

/// An IPv4 address as it stands on the wire.
pub type Ipv4 = [u8; 4];
/// An IPv6 address as it stands on the wire, or an IPv4 address as ::ffff:a.b.c.d.
pub type Ipv6 = [u8; 16];
/// An Ethernet address as it stands on the wire.
pub type Mac = [u8; 6];

/// A received Ethernet frame of which fixed-size pieces can be read.
#[expect(
    clippy::len_without_is_empty,
    reason = "an empty frame needs no name: every load on it fails"
)]
pub trait Frame {
    /// Returns how many bytes there are, from the destination address on.
    fn len(&self) -> usize;

    /// Copies `N` bytes from `offset`, or returns `None` where the frame ends before.
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
}

impl Frame for [u8] {
    fn len(&self) -> usize {
        Self::len(self)
    }

    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let end = offset.checked_add(N)?;
        self.get(offset..end)?.try_into().ok()
    }
}

/// Writes an IPv4 address as an IPv6 one.
#[inline(always)]
#[must_use]
pub const fn mapped(address: Ipv4) -> Ipv6 {
    let [a, b, c, d] = address;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// What follows the link layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkLayer {
    /// EtherType behind at most one 802.1Q tag.
    pub ethertype: [u8; 2],
    /// VLAN id; 0 without a tag and for a priority tag, which both belong to the untagged network.
    pub vlan: u16,
    /// Offset of the network header.
    pub network_at: usize,
}

impl LinkLayer {
    /// Reads the Ethernet header and one optional 802.1Q tag; `None` where the frame is too short.
    #[inline(always)]
    pub fn parse<F: Frame + ?Sized>(frame: &F) -> Option<Self> {
        let outer: [u8; 2] = frame.load(12)?;
        if outer != ETHERTYPE_VLAN {
            return Some(Self {
                ethertype: outer,
                vlan: 0,
                network_at: ETHERNET_LEN,
            });
        }
        let [tci_high, tci_low, type_high, type_low] = frame.load(ETHERNET_LEN)?;
        Some(Self {
            ethertype: [type_high, type_low],
            vlan: u16::from_be_bytes([tci_high, tci_low]) & 0x0fff,
            network_at: ETHERNET_LEN + VLAN_TAG_LEN,
        })
    }
}

/// The fields of an IPv4 header that a receiver of CARP looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Header {
    bytes: [u8; IPV4_LEN],
}

impl Ipv4Header {
    /// Wraps the 20 fixed bytes of a header.
    #[inline(always)]
    #[must_use]
    pub const fn new(bytes: [u8; IPV4_LEN]) -> Self {
        Self { bytes }
    }

    /// Returns the version nibble.
    #[inline(always)]
    #[must_use]
    pub const fn version(&self) -> u8 {
        self.bytes[0] >> 4
    }

    /// Returns the header length in 32-bit words as the sender states it, 0 to 15.
    #[inline(always)]
    #[must_use]
    pub const fn header_words(&self) -> u8 {
        self.bytes[0] & 0x0f
    }

    /// Returns the stated length of header and payload.
    #[inline(always)]
    #[must_use]
    pub const fn total_len(&self) -> u16 {
        u16::from_be_bytes([self.bytes[2], self.bytes[3]])
    }

    /// Says whether this is a piece of a fragmented datagram ("more fragments" or an offset).
    #[inline(always)]
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        u16::from_be_bytes([self.bytes[6], self.bytes[7]]) & 0x3fff != 0
    }

    /// Says whether this is a piece of a datagram that does not begin in it.
    #[inline(always)]
    #[must_use]
    pub const fn is_later_fragment(&self) -> bool {
        u16::from_be_bytes([self.bytes[6], self.bytes[7]]) & 0x1fff != 0
    }

    /// Returns the time to live.
    #[inline(always)]
    #[must_use]
    pub const fn ttl(&self) -> u8 {
        self.bytes[8]
    }

    /// Returns the number of the protocol that the datagram carries.
    #[inline(always)]
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.bytes[9]
    }

    /// Returns the source address.
    #[inline(always)]
    #[must_use]
    pub const fn source(&self) -> Ipv4 {
        let b = &self.bytes;
        [b[12], b[13], b[14], b[15]]
    }

    /// Returns the destination address.
    #[inline(always)]
    #[must_use]
    pub const fn destination(&self) -> Ipv4 {
        let b = &self.bytes;
        [b[16], b[17], b[18], b[19]]
    }

    /// Returns the raw bytes, for the checksum.
    #[inline(always)]
    #[must_use]
    pub const fn bytes(&self) -> &[u8; IPV4_LEN] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_past_the_end_is_refused() {
        let frame: &[u8] = &[1, 2, 3];
        assert_eq!(frame.load::<2>(1), Some([2, 3]));
        assert_eq!(frame.load::<2>(2), None);
        assert_eq!(frame.load::<2>(usize::MAX), None);
    }

    #[test]
    fn one_tag_is_read_and_a_second_one_is_left() {
        let mut frame = [0xa5; 22];
        frame[12..22].copy_from_slice(&[0x81, 0, 0xe0, 5, 0x81, 0, 0, 6, 8, 0]);
        let link = LinkLayer::parse(&frame[..]).unwrap();
        assert_eq!(
            (link.ethertype, link.vlan, link.network_at),
            (ETHERTYPE_VLAN, 5, 18)
        );
        assert_eq!(LinkLayer::parse(&frame[..13]), None);
        assert_eq!(LinkLayer::parse(&frame[..17]), None);
    }
}
