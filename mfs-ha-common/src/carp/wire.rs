//! The 36-byte CARP header: a checked view for reading, a small value for writing.
//!
//! Offsets are those of `docs/protocol.md`. All fields are big endian.

use core::num::NonZeroU8;

use super::auth::HmacKey;
use super::checksum;
use crate::net::Ipv4;
use crate::priority::Priority;

/// Bytes of the header, which is also the whole payload of a plain advert.
pub const HEADER_LEN: usize = 36;
/// Bytes of [`HEADER_LEN`] as the IP header's total length counts them.
pub const HEADER_LEN_U16: u16 = 36;
/// Offset of the digest in the header.
pub const DIGEST_AT: usize = 16;
/// The version that this code speaks.
pub const VERSION: u8 = 2;
/// The only packet type: advertisement.
pub const TYPE_ADVERT: u8 = 1;
/// 32-bit words of counter and digest.
pub const AUTH_WORDS: u8 = 7;
/// Where adverts go unless configured otherwise.
pub const DEFAULT_GROUP: Ipv4 = [224, 0, 0, 18];

/// A virtual host id, 1 to 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vhid(NonZeroU8);

impl Vhid {
    /// Wraps an id; 0 is none.
    #[must_use]
    pub const fn new(id: u8) -> Option<Self> {
        match NonZeroU8::new(id) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    /// Returns the id.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0.get()
    }
}

/// A view of the header's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    bytes: [u8; HEADER_LEN],
}

impl Packet {
    /// Wraps the header's bytes; any content is possible.
    #[inline(always)]
    #[must_use]
    pub const fn new(bytes: [u8; HEADER_LEN]) -> Self {
        Self { bytes }
    }

    /// Returns the version nibble.
    #[inline(always)]
    #[must_use]
    pub const fn version(&self) -> u8 {
        self.bytes[0] >> 4
    }

    /// Returns the type nibble.
    #[inline(always)]
    #[must_use]
    pub const fn packet_type(&self) -> u8 {
        self.bytes[0] & 0x0f
    }

    /// Returns the virtual host id, 0 where the sender broke the rule.
    #[inline(always)]
    #[must_use]
    pub const fn vhid(&self) -> u8 {
        self.bytes[1]
    }

    /// Returns advbase (seconds) and advskew (1/256 s).
    #[inline(always)]
    #[must_use]
    pub const fn priority(&self) -> Priority {
        Priority::new(self.bytes[5], self.bytes[2])
    }

    /// Returns the length of counter and digest in 32-bit words.
    #[inline(always)]
    #[must_use]
    pub const fn auth_words(&self) -> u8 {
        self.bytes[3]
    }

    /// Returns OpenBSD's demotion count; padding elsewhere.
    #[inline(always)]
    #[must_use]
    pub const fn demote(&self) -> u8 {
        self.bytes[4]
    }

    /// Returns the counter.
    #[inline(always)]
    #[must_use]
    pub const fn counter(&self) -> [u8; 8] {
        let b = &self.bytes;
        [b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]
    }

    /// Returns the digest.
    #[inline(always)]
    #[must_use]
    pub const fn md(&self) -> [u8; 20] {
        let mut md = [0; 20];
        let (_, source) = self.bytes.split_at(16);
        md.copy_from_slice(source);
        md
    }

    /// Says whether the checksum over the 36 bytes holds.
    #[inline(always)]
    #[must_use]
    pub fn is_checksum_valid(&self) -> bool {
        checksum::is_valid(&self.bytes)
    }

    /// Returns the fields that an election looks at.
    #[inline(always)]
    #[must_use]
    pub const fn advert(&self) -> Advert {
        Advert {
            vhid: self.vhid(),
            priority: self.priority(),
            demote: self.demote(),
            counter: self.counter(),
        }
    }
}

/// What an advert says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Advert {
    /// Virtual host id.
    pub vhid: u8,
    /// advbase and advskew.
    pub priority: Priority,
    /// OpenBSD's demotion count. Not authenticated; ucarp sends 0 and ignores it, and so does mfs-ha.
    pub demote: u8,
    /// Counter, a big endian number.
    pub counter: [u8; 8],
}

impl Advert {
    /// Writes the header with checksum and digest for one virtual address.
    #[must_use]
    pub fn emit(&self, key: &HmacKey, vhid: Vhid, vip: Ipv4) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let (head, md) = bytes.split_at_mut(16);
        let (fields, counter) = head.split_at_mut(8);
        fields.copy_from_slice(&[
            VERSION << 4 | TYPE_ADVERT,
            vhid.get(),
            self.priority.advskew(),
            AUTH_WORDS,
            self.demote,
            self.priority.advbase(),
            0,
            0,
        ]);
        counter.copy_from_slice(&self.counter);
        md.copy_from_slice(&key.sign(vhid, vip, self.counter));
        let sum = checksum::compute(&bytes);
        let [_, _, _, _, _, _, high, low, ..] = &mut bytes;
        [*high, *low] = sum;
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first frame that the real ucarp sent: vhid 1, password "secret", VIP 10.77.0.100.
    const CAPTURED: [u8; HEADER_LEN] = [
        0x21, 0x01, 0x00, 0x07, 0x00, 0x01, 0xaf, 0xde, 0xeb, 0xfb, 0xc0, 0xe9, 0x60, 0x2d, 0xa5,
        0x27, 0x19, 0x37, 0x24, 0x1d, 0xf8, 0x9d, 0xa7, 0xb9, 0x79, 0xaf, 0x92, 0x14, 0xb9, 0x7d,
        0x80, 0x4b, 0x5e, 0xaf, 0xfa, 0xf4,
    ];

    #[test]
    fn a_captured_header_is_read() {
        let packet = Packet::new(CAPTURED);
        assert_eq!((packet.version(), packet.packet_type()), (2, 1));
        assert_eq!(packet.auth_words(), AUTH_WORDS);
        assert_eq!(packet.md()[..2], [0x19, 0x37]);
        assert!(packet.is_checksum_valid());
        assert_eq!(
            packet.advert(),
            Advert {
                vhid: 1,
                priority: Priority::new(1, 0),
                demote: 0,
                counter: 0xebfb_c0e9_602d_a527_u64.to_be_bytes(),
            }
        );
    }

    #[test]
    fn a_captured_header_is_written_again() {
        let key = HmacKey::new(b"secret").unwrap();
        let advert = Packet::new(CAPTURED).advert();
        assert_eq!(
            advert.emit(&key, Vhid::new(1).unwrap(), [10, 77, 0, 100]),
            CAPTURED
        );
    }
}
