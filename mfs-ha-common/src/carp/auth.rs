//! CARP's authentication: HMAC-SHA1 over `02 01 vhid VIP counter`, keyed with the password.
//!
//! It leaves advbase, advskew, demotion and the addresses of the IP header open: whoever has seen one
//! advert can send it again with other values (`docs/protocol.md`, "What CARP does not protect").

use core::hint::black_box;

use bytemuck::{Pod, Zeroable};

use super::sha1::{self, State};
use super::wire::Vhid;
use crate::net::Ipv4;

/// The longest password that every CARP implementation takes, in bytes.
pub const PASSWORD_MAX: usize = 19;

/// Bytes of the authenticated message: version, type, vhid, one IPv4 address, counter.
const MESSAGE_LEN: u32 = 15;
/// Bits of the padded key block, which precedes the message and the inner digest.
const BLOCK_BITS: u32 = 512;

/// SHA-1 states after the inner and the outer padded key: all that a receiver needs of a password.
///
/// Two of the four compressions of an HMAC are done once here instead of once per packet. The states
/// authenticate as well as the password does, so they are as secret as it is.
#[derive(Clone, Copy, Pod, Zeroable, PartialEq, Eq)]
#[repr(C)]
pub struct HmacKey {
    inner: State,
    outer: State,
}

impl core::fmt::Debug for HmacKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("HmacKey(secret)")
    }
}

/// A password that CARP cannot use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPasswordLen {
    /// Bytes that were given.
    pub got: usize,
}

impl core::fmt::Display for BadPasswordLen {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { got } = self;
        write!(
            f,
            "password of {got} bytes: 1 to {PASSWORD_MAX} are possible"
        )
    }
}

impl core::error::Error for BadPasswordLen {}

impl HmacKey {
    /// Derives the two states from the raw bytes of a password.
    ///
    /// # Errors
    /// An empty password and one of more than [`PASSWORD_MAX`] bytes are refused: ucarp does not start
    /// with such a one and the BSDs cut it without a word.
    pub fn new(password: &[u8]) -> Result<Self, BadPasswordLen> {
        if password.is_empty() || password.len() > PASSWORD_MAX {
            return Err(BadPasswordLen {
                got: password.len(),
            });
        }
        Ok(Self {
            inner: pad_state(password, 0x36),
            outer: pad_state(password, 0x5c),
        })
    }

    /// Computes the digest of an advert as five big endian words.
    // Not inlined: its block and that of the caller would not fit the BPF stack together.
    #[inline(never)]
    #[must_use]
    pub fn digest(&self, vhid: u8, vip: Ipv4, counter: [u8; 8]) -> State {
        let [v0, v1, v2, v3] = vip;
        let [c0, c1, c2, c3, c4, c5, c6, c7] = counter;
        let mut block = [0_u32; 16];
        let [w0, w1, w2, w3, .., last] = &mut block;
        // Version and type are these constants whatever the header's nibbles say.
        *w0 = u32::from_be_bytes([2, 1, vhid, v0]);
        *w1 = u32::from_be_bytes([v1, v2, v3, c0]);
        *w2 = u32::from_be_bytes([c1, c2, c3, c4]);
        *w3 = u32::from_be_bytes([c5, c6, c7, 0x80]);
        *last = BLOCK_BITS.wrapping_add(MESSAGE_LEN.wrapping_mul(8));
        let mut state = self.inner;
        sha1::compress(&mut state, &mut block);

        // The same block again: see above.
        block = [0; 16];
        let [b0, b1, b2, b3, b4, end, .., last] = &mut block;
        [*b0, *b1, *b2, *b3, *b4] = state;
        *end = 0x8000_0000;
        *last = BLOCK_BITS.wrapping_add(160);
        state = self.outer;
        sha1::compress(&mut state, &mut block);
        state
    }

    /// Says whether the five words of a digest authenticate the advert. Takes the same time whatever differs.
    /// They are read one by one after the computation, which needs the BPF stack for itself.
    #[inline(always)]
    #[must_use]
    pub fn verify(
        &self,
        vhid: u8,
        vip: Ipv4,
        counter: [u8; 8],
        md_word: impl Fn(usize) -> Option<[u8; 4]>,
    ) -> bool {
        let mut difference = 0;
        let mut index = 0_usize;
        let digest = self.digest(vhid, vip, counter);
        while let Some(word) = digest.get(index) {
            let Some(bytes) = md_word(index) else {
                return false;
            };
            difference |= word ^ u32::from_be_bytes(bytes);
            // A compiler that knows the step keeps all words at hand, for which the BPF stack is too small.
            index = black_box(index.wrapping_add(1));
        }
        difference == 0
    }

    /// Computes the digest of an advert in wire order.
    #[must_use]
    pub fn sign(&self, vhid: Vhid, vip: Ipv4, counter: [u8; 8]) -> [u8; 20] {
        let mut md = [0; 20];
        let digest = self.digest(vhid.get(), vip, counter);
        for (bytes, word) in md.chunks_exact_mut(4).zip(digest) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        md
    }
}

fn pad_state(password: &[u8], pad: u8) -> State {
    let mut bytes = [pad; 64];
    for (byte, key) in bytes.iter_mut().zip(password) {
        *byte ^= key;
    }
    let mut block = [0_u32; 16];
    for (word, chunk) in block.iter_mut().zip(bytes.chunks_exact(4)) {
        if let [a, b, c, d] = *chunk {
            *word = u32::from_be_bytes([a, b, c, d]);
        }
    }
    let mut state = sha1::INITIAL;
    sha1::compress(&mut state, &mut block);
    state
}

#[cfg(test)]
mod tests {
    use super::{sha1, *};
    use ::sha1::{Digest as _, Sha1};
    use hmac::{Hmac, KeyInit as _, Mac as _};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn digest_equals_rustcrypto(
            password in proptest::collection::vec(any::<u8>(), 1..=PASSWORD_MAX),
            vhid in 1_u8..,
            vip: [u8; 4],
            counter: [u8; 8],
        ) {
            let mut oracle = Hmac::<Sha1>::new_from_slice(&password).unwrap();
            oracle.update(&[2, 1, vhid]);
            oracle.update(&vip);
            oracle.update(&counter);
            let expected: [u8; 20] = oracle.finalize().into_bytes().into();
            let key = HmacKey::new(&password).unwrap();
            prop_assert_eq!(key.sign(Vhid::new(vhid).unwrap(), vip, counter), expected);
            prop_assert!(key.verify(vhid, vip, counter, |at| word_of(&expected, at)));
        }

        #[test]
        fn compression_equals_rustcrypto(block: [u8; 64]) {
            // One block of message is followed by a block of padding.
            let expected: [u8; 20] = Sha1::digest(block).into();
            let mut state = sha1::INITIAL;
            for bytes in [block, padding_after_one_block()] {
                let mut words = [0_u32; 16];
                for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(4)) {
                    *word = u32::from_be_bytes(chunk.try_into().unwrap());
                }
                sha1::compress(&mut state, &mut words);
            }
            for (index, word) in state.into_iter().enumerate() {
                prop_assert_eq!(Some(word.to_be_bytes()), word_of(&expected, index));
            }
        }

        #[test]
        fn each_flipped_bit_is_refused(counter: [u8; 8], bit in 0_usize..160) {
            let key = HmacKey::new(b"secret").unwrap();
            let mut md = key.sign(Vhid::new(1).unwrap(), [10, 77, 0, 100], counter);
            md[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!key.verify(1, [10, 77, 0, 100], counter, |at| word_of(&md, at)));
        }
    }

    fn word_of(md: &[u8; 20], index: usize) -> Option<[u8; 4]> {
        md.chunks_exact(4).nth(index)?.try_into().ok()
    }

    fn padding_after_one_block() -> [u8; 64] {
        let mut padding = [0; 64];
        padding[0] = 0x80;
        padding[56..].copy_from_slice(&512_u64.to_be_bytes());
        padding
    }

    #[test]
    fn empty_and_long_passwords_are_refused() {
        assert_eq!(HmacKey::new(b""), Err(BadPasswordLen { got: 0 }));
        assert_eq!(HmacKey::new(&[b'x'; 20]), Err(BadPasswordLen { got: 20 }));
        assert!(HmacKey::new(&[b'x'; 19]).is_ok());
    }
}
