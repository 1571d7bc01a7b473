//! The tag: SipHash-2-4 with 128 bits of output.
//!
//! One key signs heartbeats and the trailers of adverts. Neither can be taken for the other: the sixth byte
//! of what is signed is the kind.

use core::hint::black_box;

use bytemuck::{Pod, Zeroable};

use super::wire::{BODY_LEN, DATAGRAM_LEN, TAG_LEN};

/// 64-bit words of a heartbeat's body.
pub(crate) const BODY_WORDS: usize = BODY_LEN >> 3;

/// What signs and checks tags. As secret as the cluster's secret that it was derived from.
#[derive(Clone, Copy, Pod, Zeroable, PartialEq, Eq)]
#[repr(C)]
pub struct TagKey {
    first: u64,
    second: u64,
}

impl core::fmt::Debug for TagKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("TagKey(secret)")
    }
}

impl TagKey {
    /// Wraps the 16 bytes of a key.
    #[must_use]
    pub const fn new(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self {
            first: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            second: u64::from_le_bytes([i, j, k, l, m, n, o, p]),
        }
    }

    /// Computes the tag of a heartbeat's body.
    #[must_use]
    pub fn tag(&self, body: &[u8; BODY_LEN]) -> [u8; TAG_LEN] {
        self.tag_of(body)
    }

    /// Says whether `tag` is that of `body`. Takes the same time whatever differs.
    #[must_use]
    pub fn verify(&self, body: &[u8; BODY_LEN], tag: &[u8; TAG_LEN]) -> bool {
        let sum = self.sum::<BODY_WORDS>(|index| word_of(body, index));
        sum.is_some_and(|sum| is_equal(sum, tag))
    }

    /// Returns body and tag, as they are sent.
    #[must_use]
    pub fn seal(&self, body: &[u8; BODY_LEN]) -> [u8; DATAGRAM_LEN] {
        let mut datagram = [0; DATAGRAM_LEN];
        let (head, tag) = datagram.split_at_mut(BODY_LEN);
        head.copy_from_slice(body);
        tag.copy_from_slice(&self.tag(body));
        datagram
    }

    /// Computes the tag of a message of whole words.
    pub(crate) fn tag_of<const N: usize>(&self, message: &[u8; N]) -> [u8; TAG_LEN] {
        const { assert!(N.is_multiple_of(8)) };
        let mut state = State::new(self);
        let (words, _) = message.as_chunks::<8>();
        for word in words {
            state.absorb(u64::from_le_bytes(*word));
        }
        bytes_of(state.finish(N))
    }

    /// Hashes `WORDS` words of eight bytes, which come from `word` one by one: in the kernel straight from the
    /// packet, because a copy of a heartbeat would take a third of the stack.
    #[inline(always)]
    pub(crate) fn sum<const WORDS: usize>(
        &self,
        word: impl Fn(usize) -> Option<[u8; 8]>,
    ) -> Option<[u64; 2]> {
        let mut state = State::new(self);
        let mut index = 0_usize;
        while index < WORDS {
            state.absorb(u64::from_le_bytes(word(index)?));
            // A compiler that knows the step calculates with the end of the packet, which the verifier lets
            // nobody do, and unrolls the loop until its values do not fit the BPF stack.
            index = black_box(index.wrapping_add(1));
        }
        Some(state.finish(WORDS << 3))
    }
}

/// Says whether `tag` has these two words. Takes the same time whatever differs.
#[inline(always)]
pub(crate) fn is_equal(sum: [u64; 2], tag: &[u8; TAG_LEN]) -> bool {
    let [first, second] = sum;
    let TagKey {
        first: x,
        second: y,
    } = TagKey::new(*tag);
    ((first ^ x) | (second ^ y)) == 0
}

fn bytes_of([first, second]: [u64; 2]) -> [u8; TAG_LEN] {
    let mut tag = [0; TAG_LEN];
    let (low, high) = tag.split_at_mut(8);
    low.copy_from_slice(&first.to_le_bytes());
    high.copy_from_slice(&second.to_le_bytes());
    tag
}

fn word_of(body: &[u8; BODY_LEN], index: usize) -> Option<[u8; 8]> {
    let (words, _) = body.as_chunks::<8>();
    words.get(index).copied()
}

/// The four words that SipHash works on.
struct State {
    a: u64,
    b: u64,
    c: u64,
    d: u64,
}

impl State {
    #[inline(always)]
    const fn new(key: &TagKey) -> Self {
        Self {
            a: key.first ^ 0x736f_6d65_7073_6575,
            // 0xee: the variant of 128 bits.
            b: key.second ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            c: key.first ^ 0x6c79_6765_6e65_7261,
            d: key.second ^ 0x7465_6462_7974_6573,
        }
    }

    #[inline(always)]
    const fn round(&mut self) {
        self.a = self.a.wrapping_add(self.b);
        self.c = self.c.wrapping_add(self.d);
        self.b = self.b.rotate_left(13) ^ self.a;
        self.d = self.d.rotate_left(16) ^ self.c;
        self.a = self.a.rotate_left(32);
        self.c = self.c.wrapping_add(self.b);
        self.a = self.a.wrapping_add(self.d);
        self.b = self.b.rotate_left(17) ^ self.c;
        self.d = self.d.rotate_left(21) ^ self.a;
        self.c = self.c.rotate_left(32);
    }

    #[inline(always)]
    const fn absorb(&mut self, word: u64) {
        self.d ^= word;
        self.round();
        self.round();
        self.a ^= word;
    }

    #[inline(always)]
    fn rounds_at_end(&mut self) -> u64 {
        for _ in 0..4 {
            self.round();
        }
        self.a ^ self.b ^ self.c ^ self.d
    }

    /// Ends a message of `len` bytes, which are whole words: the last block holds the length alone.
    #[inline(always)]
    fn finish(mut self, len: usize) -> [u64; 2] {
        let [low, ..] = len.to_le_bytes();
        self.absorb(u64::from(low) << 56);
        self.c ^= 0xee;
        let first = self.rounds_at_end();
        self.b ^= 0xdd;
        [first, self.rounds_at_end()]
    }
}

#[cfg(test)]
mod tests {
    use core::hash::Hasher as _;

    use proptest::prelude::*;
    use siphasher::sip128::{Hasher128 as _, SipHasher24};

    use super::*;

    fn oracle(key: [u8; 16], message: &[u8]) -> [u8; 16] {
        let mut hasher = SipHasher24::new_with_key(&key);
        hasher.write(message);
        hasher.finish128().as_bytes()
    }

    fn counting<const N: usize>() -> [u8; N] {
        core::array::from_fn(|at| u8::try_from(at).unwrap())
    }

    /// From the reference implementation's `vectors.h`: key 00 01 .. 0f, messages of 0, 8 and 56 bytes.
    #[test]
    fn reference_vectors_hold() {
        let key = TagKey::new(counting());
        assert_eq!(
            key.tag_of::<0>(&[]),
            [
                0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55,
                0x02, 0x93
            ]
        );
        assert_eq!(
            key.tag_of::<8>(&counting()),
            [
                0x3b, 0x62, 0xa9, 0xba, 0x62, 0x58, 0xf5, 0x61, 0x0f, 0x83, 0xe2, 0x64, 0xf3, 0x14,
                0x97, 0xb4
            ]
        );
    }

    proptest! {
        #[test]
        fn tags_equal_those_of_the_siphasher_crate(key: [u8; 16], body: [[u8; 8]; BODY_WORDS]) {
            let body: [u8; BODY_LEN] = bytemuck::cast(body);
            let expected = oracle(key, &body);
            let key = TagKey::new(key);
            prop_assert_eq!(key.tag(&body), expected);
            prop_assert!(key.verify(&body, &expected));
            let sealed = key.seal(&body);
            prop_assert_eq!(&sealed[..BODY_LEN], &body[..]);
            prop_assert_eq!(&sealed[BODY_LEN..], &expected[..]);
        }

        #[test]
        fn each_flipped_bit_is_refused(
            key: [u8; 16],
            body: [[u8; 8]; BODY_WORDS],
            bit in 0..DATAGRAM_LEN * 8,
            key_bit in 0_usize..128,
        ) {
            let body: [u8; BODY_LEN] = bytemuck::cast(body);
            let mut datagram = TagKey::new(key).seal(&body);
            let verify = |key: [u8; 16], datagram: &[u8; DATAGRAM_LEN]| {
                let (body, tag) = datagram.split_at(BODY_LEN);
                TagKey::new(key).verify(body.try_into().unwrap(), tag.try_into().unwrap())
            };
            let mut other = key;
            other[key_bit / 8] ^= 1 << (key_bit % 8);
            prop_assert!(!verify(other, &datagram));
            datagram[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!verify(key, &datagram));
        }
    }

    #[test]
    fn a_key_is_not_printed() {
        let key = TagKey::new([0x41; 16]);
        assert_eq!(std::format!("{key:?}"), "TagKey(secret)");
    }
}
