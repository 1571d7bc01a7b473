//! Any frame under any configuration: no panic, and the verdict of the second opinion.
//!
//! An input is a receiver in fixed places, then the frame; `PREFIX_LEN` and [`receiver`] say where. The
//! corpus holds the vectors in this form (`cargo test` in mfs-ha-common checks that it is theirs).

#![no_main]
#![expect(
    clippy::unwrap_used,
    reason = "conversions of slices of known length, and an HMAC takes any key"
)]

#[path = "../../mfs-ha-common/tests/support/opinions.rs"]
mod opinions;
#[path = "../../mfs-ha-common/tests/support/reference.rs"]
mod reference;

use libfuzzer_sys::{Corpus, fuzz_target};
use opinions::{fix_checksums, opinion_of_core};
use reference::Receiver;

/// Fixed part of an input.
const PREFIX_LEN: usize = 32;

const TRAILING: u8 = 1 << 0;
const REPEATED: u8 = 1 << 1;
const PEERS: u8 = 1 << 2;
const ANY_VLAN: u8 = 1 << 3;
/// Make digest and checksums right before the frame is judged: no fuzzer finds an HMAC.
const SEAL: u8 = 1 << 4;
const HAS_PEER: u8 = 1 << 5;

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((prefix, rest)) = input.split_first_chunk::<PREFIX_LEN>() else {
        return Corpus::Reject;
    };
    let password_len = usize::from(prefix[31]);
    if !(1..=19).contains(&password_len) || rest.len() < password_len {
        return Corpus::Reject;
    }
    let (password, frame) = rest.split_at(password_len);
    let receiver = receiver(prefix, password);
    let mut frame = frame.to_vec();
    if prefix[0] & SEAL != 0 {
        seal(&mut frame, &receiver);
    }
    assert_eq!(
        opinion_of_core(&frame, &receiver),
        reference::judge(&frame, &receiver)
    );
    Corpus::Keep
});

fn receiver(prefix: &[u8; PREFIX_LEN], password: &[u8]) -> Receiver {
    let has = |flag: u8| prefix[0] & flag != 0;
    let four = |at: usize| prefix[at..at + 4].try_into().unwrap();
    let counter = u64::from_be_bytes(prefix[21..29].try_into().unwrap());
    Receiver {
        vhid: prefix[1],
        password: password.to_vec(),
        vip: four(2),
        vip_count: prefix[6],
        group: four(7),
        own_source: four(11),
        vlan: (!has(ANY_VLAN)).then(|| u16::from_be_bytes([prefix[15], prefix[16]]) % 4096),
        accepts_trailing_bytes: has(TRAILING),
        rejects_repeated_counter: has(REPEATED),
        knows_its_peers: has(PEERS),
        peer: has(HAS_PEER).then(|| (four(17), u64::from(prefix[29]), counter)),
    }
}

fn seal(frame: &mut [u8], receiver: &Receiver) {
    let is_tagged = frame.get(12..14) == Some(&[0x81, 0x00]);
    let ip_at = if is_tagged { 18 } else { 14 };
    if let Some(carp) = frame.get_mut(ip_at + 20..ip_at + 56) {
        let counter = carp[8..16].try_into().unwrap();
        let md = reference::digest(&receiver.password, carp[1], receiver.vip, counter);
        carp[16..].copy_from_slice(&md);
    }
    fix_checksums(frame, ip_at);
}
