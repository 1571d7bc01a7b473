//! Mutated and random frames: no panic, the verdict of the second opinion, and the laws that hold for
//! every accepted advert.

#![expect(
    clippy::unwrap_used,
    reason = "arithmetic on fixed sizes in tests and their helpers"
)]

#[path = "support/opinions.rs"]
mod opinions;
#[path = "support/reference.rs"]
mod reference;

use opinions::{fix_checksums, opinion_of_core};
use proptest::prelude::*;
use proptest::sample::Index;
use reference::{Opinion, Receiver};

const IP_AT: usize = 14;
const CARP_AT: usize = 34;
const FRAME_LEN: usize = 70;

fn cases(usual: u32) -> ProptestConfig {
    let is_long = std::env::var_os("MFS_HA_LONG").is_some();
    ProptestConfig {
        cases: if is_long { usual * 10 } else { usual },
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn is_accepted(frame: &[u8], receiver: &Receiver) -> bool {
    matches!(opinion_of_core(frame, receiver), Opinion::Accept { .. })
}

/// A receiver, and the frame of an advert that it accepts.
fn receivers() -> impl Strategy<Value = Receiver> {
    let addresses = (
        any::<[u8; 4]>(),
        prop_oneof![Just([224, 0, 0, 18]), any::<[u8; 4]>()],
    );
    let policy = any::<[bool; 3]>();
    let password = prop::collection::vec(any::<u8>(), 1..=19);
    (1_u8.., password, addresses, policy, 0_u16..4096).prop_map(
        |(vhid, password, (vip, group), policy, vlan)| Receiver {
            vhid,
            password,
            vip,
            vip_count: 1,
            group,
            own_source: [10, 77, 0, 9],
            vlan: Some(vlan).filter(|vlan| *vlan < 4000),
            accepts_trailing_bytes: policy[0],
            rejects_repeated_counter: policy[1],
            knows_its_peers: policy[2],
            peer: Some(([10, 77, 0, 2], 3, 0x1234)),
        },
    )
}

/// Builds an untagged advert from the layout in the document.
fn advert(receiver: &Receiver, fields: [u8; 3], counter: [u8; 8]) -> Vec<u8> {
    let mut frame = vec![0xa5; FRAME_LEN];
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[IP_AT..CARP_AT].copy_from_slice(&[
        0x45, 0x10, 0, 56, 0x12, 0x34, 0x40, 0, 255, 112, 0, 0, 10, 77, 0, 2, 0, 0, 0, 0,
    ]);
    frame[30..34].copy_from_slice(&receiver.group);
    let [advskew, demote, advbase] = fields;
    frame[CARP_AT..42].copy_from_slice(&[0x21, receiver.vhid, advskew, 7, demote, advbase, 0, 0]);
    frame[42..50].copy_from_slice(&counter);
    let md = reference::digest(&receiver.password, receiver.vhid, receiver.vip, counter);
    frame[50..].copy_from_slice(&md);
    fix_checksums(&mut frame, IP_AT);
    frame
}

fn tagged(frame: &[u8], tci: u16) -> Vec<u8> {
    let [high, low] = tci.to_be_bytes();
    [&frame[..12], &[0x81, 0, high, low], &frame[12..]].concat()
}

/// What is done to a good frame.
#[derive(Clone, Debug)]
enum Mutation {
    Flip { at: Index, bit: u8 },
    Set { at: Index, value: u8 },
    Truncate(Index),
    Extend(Vec<u8>),
    TotalLen(u16),
    Splice { at: Index, bytes: Vec<u8> },
}

fn mutations() -> impl Strategy<Value = Mutation> {
    // Values that mean something somewhere in these headers.
    let telling = prop::sample::select(vec![
        0, 1, 2, 4, 5, 6, 7, 0x08, 0x11, 0x20, 0x21, 0x22, 0x31, 0x44, 0x45, 0x46, 0x81, 0x86,
        0xdd, 112, 254, 255,
    ]);
    prop_oneof![
        4 => (any::<Index>(), 0_u8..8).prop_map(|(at, bit)| Mutation::Flip { at, bit }),
        4 => (any::<Index>(), prop_oneof![telling, any::<u8>()])
            .prop_map(|(at, value)| Mutation::Set { at, value }),
        1 => any::<Index>().prop_map(Mutation::Truncate),
        1 => prop::collection::vec(any::<u8>(), 1..64).prop_map(Mutation::Extend),
        1 => prop_oneof![0_u16..120, any::<u16>()].prop_map(Mutation::TotalLen),
        1 => (any::<Index>(), prop::collection::vec(any::<u8>(), 1..12))
            .prop_map(|(at, bytes)| Mutation::Splice { at, bytes }),
    ]
}

impl Mutation {
    fn apply(&self, frame: &mut Vec<u8>, ip_at: usize) {
        // Most of the frame's beginning is addresses that nobody looks at.
        let place = |at: &Index, len: usize| at.index(len.saturating_sub(12).max(1)) + 12;
        match self {
            Self::Flip { at, bit } => {
                let at = place(at, frame.len());
                if let Some(byte) = frame.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            Self::Set { at, value } => {
                let at = place(at, frame.len());
                if let Some(byte) = frame.get_mut(at) {
                    *byte = *value;
                }
            }
            Self::Truncate(at) => frame.truncate(at.index(frame.len() + 1)),
            Self::Extend(bytes) => frame.extend(bytes),
            Self::TotalLen(len) => {
                if let Some(field) = frame.get_mut(ip_at + 2..ip_at + 4) {
                    field.copy_from_slice(&len.to_be_bytes());
                }
            }
            Self::Splice { at, bytes } => {
                let at = place(at, frame.len()).min(frame.len());
                frame.splice(at..at, bytes.iter().copied());
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(6000))]

    #[test]
    fn mutated_frames_get_the_second_opinion(
        receiver in receivers(),
        fields: [u8; 3],
        counter in prop_oneof![Just(0x1234_u64), any::<u64>()],
        tag in prop::option::of(any::<u16>()),
        steps in prop::collection::vec(mutations(), 0..4),
        is_repaired: bool,
        vip_count in prop_oneof![20 => Just(1_u8), 1 => any::<u8>()],
    ) {
        let receiver = Receiver { vip_count, ..receiver };
        let mut frame = advert(&receiver, fields, counter.to_be_bytes());
        let mut ip_at = IP_AT;
        if let Some(priority) = tag {
            // Half of the tags name the receiver's own VLAN.
            let vlan = receiver.vlan.unwrap_or(5);
            let tci = if priority % 2 == 0 { priority & 0xe000 | vlan } else { priority };
            frame = tagged(&frame, tci);
            ip_at += 4;
        }
        for step in &steps {
            step.apply(&mut frame, ip_at);
        }
        if is_repaired {
            fix_checksums(&mut frame, ip_at);
        }
        prop_assert_eq!(opinion_of_core(&frame, &receiver), reference::judge(&frame, &receiver));
    }

    #[test]
    fn random_frames_get_the_second_opinion(
        receiver in receivers(),
        mut frame in prop::collection::vec(any::<u8>(), 0..128),
        depth in 0_u8..6,
    ) {
        // Random bytes end at the first check: let ever more of the beginning be right.
        let good = advert(&receiver, [0, 0, 1], [0; 8]);
        let kept: &[usize] = match depth {
            0 => &[],
            1 => &[12, 13],
            2 => &[12, 13, 23],
            3 => &[12, 13, 14, 16, 17, 20, 21, 22, 23],
            4 => &[12, 13, 14, 16, 17, 20, 21, 22, 23, 34, 35, 37],
            _ => &[12, 13, 14, 16, 17, 20, 21, 22, 23, 30, 31, 32, 33, 34, 35, 37],
        };
        for at in kept {
            if let Some(byte) = frame.get_mut(*at) {
                *byte = good[*at];
            }
        }
        fix_checksums(&mut frame, IP_AT);
        let receiver = Receiver { vlan: None, ..receiver };
        prop_assert_eq!(opinion_of_core(&frame, &receiver), reference::judge(&frame, &receiver));
    }

    #[test]
    fn no_flipped_bit_that_the_digest_covers_is_accepted(
        receiver in receivers(),
        fields: [u8; 3],
        counter: [u8; 8],
        covered in prop_oneof![Just(1_usize), 8_usize..36],
        bit in 0_u8..8,
    ) {
        let receiver = open(receiver);
        let mut frame = advert(&receiver, fields, counter);
        prop_assert!(is_accepted(&frame, &receiver));
        frame[CARP_AT + covered] ^= 1 << bit;
        fix_checksums(&mut frame, IP_AT);
        prop_assert!(!is_accepted(&frame, &receiver));
        // Nor does a receiver whose vhid is the flipped one take it.
        let other = Receiver { vhid: frame[CARP_AT + 1], ..receiver };
        prop_assert!(!is_accepted(&frame, &other));
    }

    #[test]
    fn no_other_password_or_address_accepts(
        receiver in receivers(),
        counter: [u8; 8],
        at in any::<Index>(),
        bit in 0_u8..8,
    ) {
        let receiver = open(receiver);
        let frame = advert(&receiver, [0, 0, 1], counter);
        let mut other_vip = receiver.clone();
        other_vip.vip[at.index(4)] ^= 1 << bit;
        prop_assert!(!is_accepted(&frame, &other_vip));
        let mut other_password = receiver.clone();
        let at = at.index(other_password.password.len());
        other_password.password[at] ^= 1 << bit;
        prop_assert!(!is_accepted(&frame, &other_password));
    }

    #[test]
    fn what_the_digest_leaves_open_is_taken_as_it_is(
        receiver in receivers(),
        fields: [u8; 3],
        other_fields: [u8; 3],
        counter: [u8; 8],
        macs: [u8; 12],
        padding in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let receiver = open(receiver);
        let mut frame = advert(&receiver, fields, counter);
        let [advskew, demote, advbase] = other_fields;
        frame[CARP_AT + 2] = advskew;
        frame[CARP_AT + 4] = demote;
        frame[CARP_AT + 5] = advbase;
        frame[..12].copy_from_slice(&macs);
        // TOS and identification.
        frame[IP_AT + 1] = macs[0];
        frame[IP_AT + 4] = macs[1];
        fix_checksums(&mut frame, IP_AT);
        frame.extend(&padding);
        let expected = Opinion::Accept {
            source: [10, 77, 0, 2],
            advbase,
            advskew,
            demote,
            counter,
            goes_up_the_stack: receiver.group[0] >= 224,
        };
        prop_assert_eq!(opinion_of_core(&frame, &receiver), expected);
    }
}

/// A receiver that takes the adverts of everybody in no VLAN, whatever their counter.
fn open(receiver: Receiver) -> Receiver {
    Receiver {
        vlan: Some(0),
        knows_its_peers: false,
        rejects_repeated_counter: false,
        ..receiver
    }
}

fn plain_receiver() -> Receiver {
    Receiver {
        vhid: 10,
        password: b"electpw".to_vec(),
        vip: [10, 77, 0, 100],
        vip_count: 1,
        group: [224, 0, 0, 18],
        own_source: [10, 77, 0, 9],
        vlan: Some(0),
        accepts_trailing_bytes: true,
        rejects_repeated_counter: false,
        knows_its_peers: false,
        peer: None,
    }
}

/// Every single bit behind the Ethernet header is covered by something.
#[test]
fn no_flipped_bit_is_accepted_unrepaired() {
    let receiver = plain_receiver();
    let good = advert(&receiver, [20, 0, 1], [7; 8]);
    assert!(is_accepted(&good, &receiver));
    for bit in IP_AT * 8..FRAME_LEN * 8 {
        let mut frame = good.clone();
        frame[bit / 8] ^= 1 << (bit % 8);
        assert!(!is_accepted(&frame, &receiver), "bit {bit}");
    }
}

/// Each length of a good frame is judged, and none shorter than its IP header says is accepted.
#[test]
fn no_truncated_frame_is_accepted() {
    let receiver = plain_receiver();
    let plain = advert(&receiver, [20, 0, 1], [7; 8]);
    for good in [plain.clone(), tagged(&plain, 0)] {
        for len in 0..good.len() {
            let opinion = opinion_of_core(&good[..len], &receiver);
            assert_eq!(opinion, reference::judge(&good[..len], &receiver));
            assert!(!matches!(opinion, Opinion::Accept { .. }), "{len} bytes");
        }
        assert!(is_accepted(&good, &receiver));
    }
}

/// All values of the two bytes that tell VRRP from CARP, under every payload length near an advert's.
#[test]
fn vrrp_is_told_from_carp_like_the_second_opinion_does() {
    let receiver = plain_receiver();
    let good = advert(&receiver, [20, 0, 1], [7; 8]);
    for payload_len in 0..=80_u8 {
        for count in 0..=20 {
            for version_type in [0x11, 0x20, 0x21, 0x22, 0x2f, 0x31, 0x3f, 0x41] {
                let mut frame = good.clone();
                frame.resize(CARP_AT + usize::from(payload_len).max(36), 0);
                frame[IP_AT + 3] = 20 + payload_len;
                frame[CARP_AT] = version_type;
                frame[CARP_AT + 3] = count;
                fix_checksums(&mut frame, IP_AT);
                let opinion = opinion_of_core(&frame, &receiver);
                assert_eq!(opinion, reference::judge(&frame, &receiver), "{frame:02x?}");
                let is_advert = version_type == 0x21 && count == 7;
                // 44 bytes of it are VRRP with seven addresses.
                let is_long_enough = payload_len >= 36 && payload_len != 44;
                assert_eq!(
                    matches!(opinion, Opinion::Accept { .. }),
                    is_advert && is_long_enough
                );
            }
        }
    }
}
