//! The SHA-1 compression function in a form that fits into an eBPF program.
//!
//! RustCrypto's implementation unrolls an 80-word schedule past the 512-byte BPF stack. This one keeps
//! 16 words and rolls them in place. The tests compare it with RustCrypto's.

/// The chaining value: five 32-bit words.
pub type State = [u32; 5];

/// The chaining value before the first block (FIPS 180-4, 5.3.1).
pub const INITIAL: State = [
    0x6745_2301,
    0xefcd_ab89,
    0x98ba_dcfe,
    0x1032_5476,
    0xc3d2_e1f0,
];

/// Mixes one 64-byte block, given as big endian words, into `state`. Overwrites `block`.
// Not inlined: two copies of the block would not fit the BPF stack.
#[inline(never)]
pub fn compress(state: &mut State, block: &mut [u32; 16]) {
    let [mut a, mut b, mut c, mut d, mut e] = *state;
    let mut t = 0_usize;
    while t < 80 {
        if t >= 16 {
            let mixed = word(block, t.wrapping_add(13))
                ^ word(block, t.wrapping_add(8))
                ^ word(block, t.wrapping_add(2))
                ^ word(block, t);
            set_word(block, t, mixed.rotate_left(1));
        }
        let (f, k) = if t < 20 {
            ((b & c) | (!b & d), 0x5a82_7999)
        } else if t < 40 {
            (b ^ c ^ d, 0x6ed9_eba1)
        } else if t < 60 {
            ((b & c) | (b & d) | (c & d), 0x8f1b_bcdc)
        } else {
            (b ^ c ^ d, 0xca62_c1d6_u32)
        };
        let next = a
            .rotate_left(5)
            .wrapping_add(f)
            .wrapping_add(e)
            .wrapping_add(k)
            .wrapping_add(word(block, t));
        e = d;
        d = c;
        c = b.rotate_left(30);
        b = a;
        a = next;
        t = t.wrapping_add(1);
    }
    let [h0, h1, h2, h3, h4] = state;
    *h0 = h0.wrapping_add(a);
    *h1 = h1.wrapping_add(b);
    *h2 = h2.wrapping_add(c);
    *h3 = h3.wrapping_add(d);
    *h4 = h4.wrapping_add(e);
}

#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "the index is taken modulo 16")]
fn word(block: &[u32; 16], t: usize) -> u32 {
    block[t & 15]
}

#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "the index is taken modulo 16")]
fn set_word(block: &mut [u32; 16], t: usize, value: u32) {
    block[t & 15] = value;
}
