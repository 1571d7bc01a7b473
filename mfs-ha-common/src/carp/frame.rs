//! Whole Ethernet frames as mfs-ha sends them: an advert and a gratuitous ARP.
//!
//! The source address is the interface's own MAC. ucarp's 00:00:5e:00:00:vhid is shared by all nodes,
//! makes switch tables flap and is dropped by port security; receivers ignore it.

use super::auth::HmacKey;
use super::checksum;
use super::trailer::{EXTENDED_LEN_U16, TRAILER_LEN, Trailer};
use super::wire::{Advert, HEADER_LEN, HEADER_LEN_U16, Vhid};
use crate::heartbeat::TagKey;
use crate::net::{
    ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_VLAN, IPV4_LEN, Ipv4, Mac,
    PROTOCOL_CARP, VLAN_TAG_LEN,
};

/// The Ethernet broadcast address.
pub const BROADCAST: Mac = [0xff; 6];

/// The longest frame that is built here, in bytes.
pub const FRAME_MAX: usize = ETHERNET_LEN + VLAN_TAG_LEN + IPV4_LEN + HEADER_LEN + TRAILER_LEN;

const ARP_LEN: usize = 28;

/// A frame ready to be sent.
#[derive(Clone, Copy, Debug)]
pub struct FrameBuf {
    bytes: [u8; FRAME_MAX],
    len: usize,
}

impl FrameBuf {
    const fn new() -> Self {
        Self {
            bytes: [0; FRAME_MAX],
            len: 0,
        }
    }

    /// Appends `part`. The callers' constants fit [`FRAME_MAX`].
    fn push(&mut self, part: &[u8]) {
        let end = self.len.saturating_add(part.len());
        if let Some(free) = self.bytes.get_mut(self.len..end) {
            free.copy_from_slice(part);
            self.len = end;
        }
    }

    fn push_link(&mut self, destination: Mac, source: Mac, vlan: u16, ethertype: [u8; 2]) {
        self.push(&destination);
        self.push(&source);
        if vlan != 0 {
            self.push(&ETHERTYPE_VLAN);
            self.push(&vlan.to_be_bytes());
        }
        self.push(&ethertype);
    }

    /// Returns the bytes to send.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// Where and as whom a node sends.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    /// MAC of the interface.
    pub mac: Mac,
    /// Source address of the adverts.
    pub source: Ipv4,
    /// Destination address of the adverts.
    pub group: Ipv4,
    /// Send to the Ethernet broadcast address instead of the group's.
    pub broadcast: bool,
    /// VLAN id, 0 for none.
    pub vlan: u16,
    /// Virtual host id.
    pub vhid: Vhid,
    /// The one virtual address.
    pub vip: Ipv4,
}

impl Sender {
    /// Builds the frame of one advert. `identification` is the IP header's, any value.
    #[must_use]
    pub fn advert(&self, key: &HmacKey, advert: &Advert, identification: u16) -> FrameBuf {
        let mut frame = self.begin_advert(identification, HEADER_LEN_U16);
        frame.push(&advert.emit(key, self.vhid, self.vip));
        frame
    }

    /// Builds the frame of one advert with a trailer, which is signed with `tag_key`.
    #[must_use]
    pub fn extended_advert(
        &self,
        key: &HmacKey,
        advert: &Advert,
        identification: u16,
        tag_key: &TagKey,
        trailer: &Trailer,
    ) -> FrameBuf {
        let mut frame = self.begin_advert(identification, EXTENDED_LEN_U16);
        let header = advert.emit(key, self.vhid, self.vip);
        frame.push(&header);
        frame.push(&trailer.emit(tag_key, &header, self.source));
        frame
    }

    fn begin_advert(&self, identification: u16, payload_len: u16) -> FrameBuf {
        let mut frame = FrameBuf::new();
        frame.push_link(self.destination(), self.mac, self.vlan, ETHERTYPE_IPV4);
        frame.push(&self.ip_header(identification, payload_len));
        frame
    }

    /// Builds a gratuitous ARP request with ucarp's field values: sender and target are both the VIP
    /// with the real MAC.
    #[must_use]
    pub fn gratuitous_arp(&self) -> FrameBuf {
        let mut arp = [0; ARP_LEN];
        let (fixed, addresses) = arp.split_at_mut(8);
        // Ethernet, IPv4, 6 and 4 bytes of address, request.
        fixed.copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
        for half in addresses.chunks_exact_mut(10) {
            let (mac, ip) = half.split_at_mut(6);
            mac.copy_from_slice(&self.mac);
            ip.copy_from_slice(&self.vip);
        }
        let mut frame = FrameBuf::new();
        frame.push_link(BROADCAST, self.mac, self.vlan, ETHERTYPE_ARP);
        frame.push(&arp);
        frame
    }

    fn destination(&self) -> Mac {
        if self.broadcast {
            return BROADCAST;
        }
        // RFC 1112: 01:00:5e and the low 23 bits of the group.
        let [_, b, c, d] = self.group;
        [0x01, 0x00, 0x5e, b & 0x7f, c, d]
    }

    fn ip_header(&self, identification: u16, payload_len: u16) -> [u8; IPV4_LEN] {
        let mut bytes = [0; IPV4_LEN];
        let (fields, addresses) = bytes.split_at_mut(12);
        let [len_high, len_low] = payload_len.saturating_add(IPV4_LEN_U16).to_be_bytes();
        let [id_high, id_low] = identification.to_be_bytes();
        // Version 4, five words; TOS 0x10 and "don't fragment" as ucarp sends; TTL 255 proves one hop.
        fields.copy_from_slice(&[
            0x45,
            0x10,
            len_high,
            len_low,
            id_high,
            id_low,
            0x40,
            0,
            255,
            PROTOCOL_CARP,
            0,
            0,
        ]);
        let (source, destination) = addresses.split_at_mut(4);
        source.copy_from_slice(&self.source);
        destination.copy_from_slice(&self.group);
        let [high, low] = checksum::compute(&bytes);
        let [.., sum_high, sum_low, _, _, _, _, _, _, _, _] = &mut bytes;
        [*sum_high, *sum_low] = [high, low];
        bytes
    }
}

const IPV4_LEN_U16: u16 = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::NodeId;
    use crate::freshness::Freshness;
    use crate::heartbeat::Stamp;
    use crate::priority::Priority;

    const SENDER: Sender = Sender {
        mac: [0, 0, 0x5e, 0, 0, 1],
        source: [10, 77, 0, 1],
        group: [224, 0, 0, 18],
        broadcast: false,
        vlan: 0,
        vhid: Vhid::new(1).unwrap(),
        vip: [10, 77, 0, 100],
    };

    fn hex(text: &str) -> std::vec::Vec<u8> {
        (0..text.len() / 2)
            .map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn an_advert_equals_the_frame_that_ucarp_sent() {
        let advert = Advert {
            vhid: 1,
            priority: Priority::new(1, 0),
            demote: 0,
            counter: 0xebfb_c0e9_602d_a527_u64.to_be_bytes(),
        };
        let frame = SENDER.advert(&HmacKey::new(b"secret").unwrap(), &advert, 0x069c);
        assert_eq!(
            frame.as_bytes(),
            hex(
                "01005e00001200005e000001080045100038069c4000ff708a490a4d0001e0000012210100070001afde\
                 ebfbc0e9602da5271937241df89da7b979af9214b97d804b5eaffaf4"
            )
        );
    }

    #[test]
    fn a_gratuitous_arp_names_the_vip_twice() {
        let frame = SENDER.gratuitous_arp();
        assert_eq!(
            frame.as_bytes(),
            hex(
                "ffffffffffff00005e000001080600010800060400 0100005e0000010a4d0064 00005e0000010a4d0064"
                    .replace(' ', "")
                    .as_str()
            )
        );
    }

    #[test]
    fn tag_and_broadcast_are_written() {
        let sender = Sender {
            vlan: 5,
            broadcast: true,
            ..SENDER
        };
        let frame = sender.gratuitous_arp();
        assert_eq!(frame.as_bytes().len(), 46);
        assert_eq!(frame.as_bytes()[12..18], [0x81, 0, 0, 5, 8, 6]);
        let key = HmacKey::new(b"x").unwrap();
        let advert = Advert {
            vhid: 1,
            priority: Priority::BOW_OUT,
            demote: 0,
            counter: [0; 8],
        };
        let frame = sender.advert(&key, &advert, 0);
        assert_eq!(frame.as_bytes().len(), 74);
        assert_eq!(frame.as_bytes()[..6], BROADCAST);
        let frame = sender.extended_advert(&key, &advert, 0, &TAG_KEY, &TRAILER);
        assert_eq!(frame.as_bytes().len(), FRAME_MAX);
    }

    const TAG_KEY: TagKey = TagKey::new([7; 16]);
    const TRAILER: Trailer = Trailer {
        cluster: 1,
        node: NodeId::new(2).unwrap(),
        stamp: Stamp {
            boot: 3,
            sequence: 4,
        },
        epoch: 5,
        freshness: Freshness {
            epoch: 6,
            version: 7,
        },
    };

    /// A receiver may sum up the 36 bytes (ucarp) or the whole payload (FreeBSD): both have to add up.
    #[test]
    fn a_trailer_changes_neither_the_header_nor_any_sum() {
        let key = HmacKey::new(b"secret").unwrap();
        for counter in 0..1000_u64 {
            let advert = Advert {
                vhid: 1,
                priority: Priority::new(1, 0),
                demote: 0,
                counter: counter.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes(),
            };
            let plain = SENDER.advert(&key, &advert, 1);
            let extended = SENDER.extended_advert(&key, &advert, 1, &TAG_KEY, &TRAILER);
            let (plain, extended) = (plain.as_bytes(), extended.as_bytes());
            assert_eq!(extended.len(), 14 + 130);
            assert_eq!(extended[16..18], [0, 130]);
            assert_eq!(extended[34..70], plain[34..]);
            let sums: [bool; 3] = [
                checksum::is_valid::<20>(extended[14..34].try_into().unwrap()),
                checksum::is_valid::<36>(extended[34..70].try_into().unwrap()),
                checksum::is_valid::<110>(extended[34..].try_into().unwrap()),
            ];
            assert_eq!(sums, [true; 3]);
        }
    }
}
