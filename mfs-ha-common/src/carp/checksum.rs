//! The Internet checksum (RFC 1071) over the fixed sizes that CARP needs.

use core::hint::black_box;

use crate::net::Frame;

/// Adds up the 16-bit big endian words of `bytes`; an odd `N` does not occur here.
#[inline(always)]
fn sum<const N: usize>(bytes: &[u8; N]) -> u32 {
    let mut total = 0_u32;
    let mut at = 0;
    while at < N {
        #[expect(
            clippy::indexing_slicing,
            clippy::arithmetic_side_effects,
            reason = "at + 1 < N, as N is even; no message here has 65 536 words of 16 bits, which do not overflow 32"
        )]
        {
            total += u32::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
            at += 2;
        }
    }
    total
}

#[inline(always)]
fn fold(total: u32) -> u16 {
    let once = (total & 0xffff).wrapping_add(total >> 16);
    let [_, _, high, low] = (once & 0xffff).wrapping_add(once >> 16).to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// Says whether `WORDS` 16-bit words of a frame add up, which include their checksum. They are not copied:
/// the BPF stack is small.
#[inline(never)]
#[must_use]
pub(crate) fn adds_up<const WORDS: usize, F: Frame + ?Sized>(frame: &F, at: usize) -> bool {
    let mut total = 0_u32;
    let mut index = 0_usize;
    while index < WORDS {
        let Some(word) = frame.load(at.wrapping_add(index << 1)) else {
            return false;
        };
        total = total.wrapping_add(u32::from(u16::from_be_bytes(word)));
        // A compiler that knows the step unrolls the loop until its values do not fit the BPF stack.
        index = black_box(index.wrapping_add(1));
    }
    fold(total) == 0xffff
}

/// Says whether a header with its checksum field in place adds up.
#[inline(always)]
#[must_use]
pub fn is_valid<const N: usize>(bytes: &[u8; N]) -> bool {
    const { assert!(N.is_multiple_of(2)) };
    fold(sum(bytes)) == 0xffff
}

/// Computes the checksum of a header whose checksum field is zero.
#[must_use]
pub fn compute<const N: usize>(bytes: &[u8; N]) -> [u8; 2] {
    const { assert!(N.is_multiple_of(2)) };
    (!fold(sum(bytes))).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071_adds_up() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(compute(&bytes), [0x22, 0x0d]);
        assert!(is_valid(&[
            0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7, 0x22, 0x0d
        ]));
    }
}
