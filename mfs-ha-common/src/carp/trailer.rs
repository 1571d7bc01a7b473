//! The signed trailer: what one mfs-ha node appends to its adverts for the others.
//!
//! CARP's digest leaves the priority and the source open; this tag covers the whole header, the source
//! address and the trailer itself. ucarp and the BSDs do not look behind the header, but a receiver that sums
//! up the whole payload does: the last two bytes make the trailer's own sum neutral, so that the checksum in
//! the header holds either way. `docs/protocol.md`, "Signed trailer", lists the bytes.

use super::checksum;
use super::wire::{HEADER_LEN, HEADER_LEN_U16};
use crate::cluster::NodeId;
use crate::freshness::Freshness;
use crate::heartbeat::auth::is_equal;
use crate::heartbeat::{MAGIC, Stamp, TAG_LEN, TagKey};
use crate::net::{Frame, Ipv4};

/// The format that is described here.
pub const VERSION: u8 = 1;
/// The byte after the version. Heartbeats have another one.
pub const KIND_TRAILER: u8 = 2;
/// Bytes of the trailer, after the header.
pub const TRAILER_LEN: usize = BODY_LEN + TAG_LEN + FIX_UP_LEN;
/// Bytes of header and trailer as the IP header's total length counts them.
pub const EXTENDED_LEN_U16: u16 = HEADER_LEN_U16 + 74;

/// Bytes before the tag.
const BODY_LEN: usize = 56;
const FIX_UP_LEN: usize = 2;
/// The tag covers body, header and source address, in this order.
const SIGNED_LEN: usize = BODY_LEN + HEADER_LEN + 4;
const SIGNED_WORDS: usize = SIGNED_LEN >> 3;
const BODY_WORDS: usize = BODY_LEN >> 3;

/// What a trailer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Trailer {
    /// Which cluster.
    pub cluster: u64,
    /// Who sends.
    pub node: NodeId,
    /// Numbers the adverts of one life. Rises strictly, and has nothing to do with that of heartbeats.
    pub stamp: Stamp,
    /// The epoch of the sender's lease; 0 for none.
    pub epoch: u64,
    /// What it has of the metadata.
    pub freshness: Freshness,
}

impl Trailer {
    /// Writes the trailer of an advert with this header and source.
    #[must_use]
    pub fn emit(&self, key: &TagKey, header: &[u8; HEADER_LEN], source: Ipv4) -> [u8; TRAILER_LEN] {
        let [m0, m1, m2, m3] = MAGIC;
        let words: [[u8; 8]; BODY_WORDS] = [
            [m0, m1, m2, m3, VERSION, KIND_TRAILER, self.node.get(), 0],
            self.cluster.to_be_bytes(),
            self.stamp.boot.to_be_bytes(),
            self.stamp.sequence.to_be_bytes(),
            self.epoch.to_be_bytes(),
            self.freshness.epoch.to_be_bytes(),
            self.freshness.version.to_be_bytes(),
        ];
        let body = words.as_flattened();
        let mut signed = [0; SIGNED_LEN];
        put(&mut signed, &[body, header, &source]);
        let tag = key.tag_of(&signed);
        let mut trailer = [0; TRAILER_LEN];
        put(&mut trailer, &[body, &tag]);
        // With its ones' complement the sum of all words is ffff, which adds nothing to another sum.
        let fix_up = checksum::compute(&trailer);
        put(&mut trailer, &[body, &tag, &fix_up]);
        trailer
    }
}

/// Writes `parts` one after the other.
fn put(target: &mut [u8], parts: &[&[u8]]) {
    let bytes = parts.iter().flat_map(|part| part.iter());
    for (free, byte) in target.iter_mut().zip(bytes) {
        *free = *byte;
    }
}

/// The trailer of a frame, while it is not known whether it is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unverified {
    // Offset of the header in its frame. One byte, so that the verifier knows a bound whichever way it went:
    // without IP options it is 38 at most.
    header_at: u8,
}

impl Unverified {
    /// Stands where none was found.
    pub(crate) const NONE: Self = Self { header_at: 0 };

    /// Recognizes a trailer behind the header at `header_at`, where header and trailer are `payload_len` long.
    #[inline(always)]
    pub(crate) fn find<F: Frame + ?Sized>(
        frame: &F,
        header_at: usize,
        payload_len: u16,
    ) -> Option<(Self, u8)> {
        if payload_len != EXTENDED_LEN_U16 {
            return None;
        }
        let [m0, m1, m2, m3, version, kind, node, reserved] =
            frame.load(header_at.wrapping_add(HEADER_LEN))?;
        let is_ours = [m0, m1, m2, m3] == MAGIC
            && version == VERSION
            && kind == KIND_TRAILER
            && reserved == 0;
        let header_at = u8::try_from(header_at).ok()?;
        is_ours.then_some((Self { header_at }, node))
    }

    #[inline(always)]
    fn word<F: Frame + ?Sized>(self, frame: &F, index: usize) -> Option<[u8; 8]> {
        let body_at = usize::from(self.header_at).wrapping_add(HEADER_LEN);
        frame.load(body_at.wrapping_add(index << 3))
    }

    /// Returns the offset in the frame of the cluster's id.
    #[inline(always)]
    pub(crate) fn cluster_at(self) -> usize {
        usize::from(self.header_at).wrapping_add(HEADER_LEN.wrapping_add(8))
    }

    /// Reads which cluster it is from.
    #[inline(always)]
    pub(crate) fn cluster<F: Frame + ?Sized>(self, frame: &F) -> Option<u64> {
        self.word(frame, 1).map(u64::from_be_bytes)
    }

    /// Reads its number.
    #[inline(always)]
    pub(crate) fn stamp<F: Frame + ?Sized>(self, frame: &F) -> Option<Stamp> {
        Some(Stamp {
            boot: u64::from_be_bytes(self.word(frame, 2)?),
            sequence: u64::from_be_bytes(self.word(frame, 3)?),
        })
    }

    /// Says whether the tag is right.
    // A call of its own: it is long, and there may be two keys to try.
    #[inline(never)]
    pub(crate) fn is_authentic<F: Frame + ?Sized>(
        &self,
        frame: &F,
        source: Ipv4,
        key: &TagKey,
    ) -> bool {
        let header_at = usize::from(self.header_at);
        let tag_at = header_at.wrapping_add(HEADER_LEN.wrapping_add(BODY_LEN));
        let Some(tag) = frame.load(tag_at) else {
            return false;
        };
        let sum = key.sum::<SIGNED_WORDS>(|index| {
            if index < BODY_WORDS {
                return self.word(frame, index);
            }
            let at = header_at.wrapping_add(index.wrapping_sub(BODY_WORDS) << 3);
            if index.wrapping_add(1) < SIGNED_WORDS {
                return frame.load(at);
            }
            let [a, b, c, d] = frame.load(at)?;
            let [e, f, g, h] = source;
            Some([a, b, c, d, e, f, g, h])
        });
        sum.is_some_and(|sum| is_equal(sum, &tag))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: [u8; HEADER_LEN] = [0x21; HEADER_LEN];
    const SOURCE: Ipv4 = [10, 77, 0, 1];

    fn example() -> Trailer {
        Trailer {
            cluster: 0x0102_0304_0506_0708,
            node: NodeId::new(3).unwrap(),
            stamp: Stamp {
                boot: 0x11,
                sequence: 0x1213,
            },
            epoch: 0x21,
            freshness: Freshness {
                epoch: 0x31,
                version: 0x3233,
            },
        }
    }

    /// Header and trailer of an advert.
    fn payload(key: &TagKey) -> std::vec::Vec<u8> {
        let mut payload = HEADER.to_vec();
        payload.extend(example().emit(key, &HEADER, SOURCE));
        payload
    }

    #[test]
    fn the_bytes_are_those_of_the_document() {
        let trailer = example().emit(&TagKey::new([7; 16]), &HEADER, SOURCE);
        let mut expected = [0; 56];
        expected[..4].copy_from_slice(b"mfHA");
        expected[4..8].copy_from_slice(&[1, 2, 3, 0]);
        expected[8..16].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        expected[23] = 0x11;
        expected[30..32].copy_from_slice(&[0x12, 0x13]);
        expected[39] = 0x21;
        expected[47] = 0x31;
        expected[54..56].copy_from_slice(&[0x32, 0x33]);
        assert_eq!(trailer[..56], expected);
        assert_eq!(trailer.len(), 74);
        assert!(checksum::is_valid(&trailer));
        assert_eq!(
            usize::from(EXTENDED_LEN_U16),
            HEADER_LEN.wrapping_add(TRAILER_LEN)
        );
    }

    #[test]
    fn what_was_written_is_read() {
        let key = TagKey::new([7; 16]);
        let payload = payload(&key);
        let (found, node) = Unverified::find(&payload[..], 0, EXTENDED_LEN_U16).unwrap();
        assert_eq!(node, 3);
        assert_eq!(found.cluster(&payload[..]), Some(example().cluster));
        assert_eq!(found.stamp(&payload[..]), Some(example().stamp));
        assert!(found.is_authentic(&payload[..], SOURCE, &key));
        assert!(!found.is_authentic(&payload[..], [10, 77, 0, 2], &key));
        assert!(!found.is_authentic(&payload[..], SOURCE, &TagKey::new([8; 16])));
    }

    #[test]
    fn the_tag_covers_every_bit_but_the_fix_up() {
        let key = TagKey::new([7; 16]);
        let good = payload(&key);
        for bit in 0..good.len() * 8 {
            let mut changed = good.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let is_accepted = Unverified::find(&changed[..], 0, EXTENDED_LEN_U16)
                .is_some_and(|(found, _)| found.is_authentic(&changed[..], SOURCE, &key));
            assert_eq!(is_accepted, bit / 8 >= 108, "bit {bit}");
        }
    }

    #[test]
    fn other_bytes_are_no_trailer() {
        let good = payload(&TagKey::new([7; 16]));
        assert!(Unverified::find(&good[..], 0, 109).is_none());
        assert!(Unverified::find(&good[..40], 0, EXTENDED_LEN_U16).is_none());
        for at in [36, 39, 40, 41, 43] {
            let mut changed = good.clone();
            changed[at] ^= 0x80;
            assert!(Unverified::find(&changed[..], 0, EXTENDED_LEN_U16).is_none());
        }
    }
}
