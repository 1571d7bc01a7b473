//! Heartbeats and adverts with a trailer, and what has to become of each.
//!
//! A plain file like `vectors.rs`, which the host's test, the kernel's test and a fuzz target include by path.
//! The three frames in full were made by another program from the layout in `docs/protocol.md`; every other
//! case is one of them with one thing changed, and signed anew where the tag shall be right. The tags come from
//! the siphasher crate.

#[path = "cluster/adverts.rs"]
mod adverts;
#[path = "cluster/heartbeats.rs"]
mod heartbeats;

use core::hash::Hasher as _;

use mfs_ha_common::carp::auth::HmacKey;
use mfs_ha_common::filter::{
    ClusterConfig, FilterConfig, HEARTBEATS, PREVIOUS_KEY, TRAILERS, VLAN_ANY,
};
use mfs_ha_common::heartbeat::{Stamp, TagKey};
use mfs_ha_common::member::{Claim, Cluster, MemberKey};
use mfs_ha_common::stats::{DropReason, PassReason};
use mfs_ha_common::validate::{Verdict, validate};
use siphasher::sip128::{Hasher128 as _, SipHasher24};

/// The keys of the table: the current one, the one before it, and one that nobody has configured.
const KEY: [u8; 16] = *b"@ABCDEFGHIJKLMNO";
const PREVIOUS: [u8; 16] = *b"previous--------";
const FOREIGN: [u8; 16] = *b"foreign---------";
const CLUSTER: u64 = 0x0102_0304_0506_0708;
/// Of the frames below: the sender's life and numbers.
const BOOT: u64 = 7;
const ROUND: u64 = 0x1234;
const ADVERT: u64 = 0x22;

/// From node 2 at 10.77.0.2 to node 1 at 10.77.0.1.
const HEARTBEAT_IPV4: &str = "\
0200000000010200000000020800450000c4000140004011258c0a4d00020a4d000124d524d500b000006d6648410101\
020101020304050607080000000000000007000000000000123400000000000000630000000000000003000000000000\
005500000000000003e800000004deadbeef0101000101320301012c0032000000000000000000000000000000000000\
000000000000000000000000000000000000000000000000000500000000000000060000000000000007000000000000\
0008b2479d0642cf288006508cd294940db9";

/// The same from fd77::2 to fd77::1.
const HEARTBEAT_IPV6: &str = "\
02000000000102000000000286dd6000000000b01140fd770000000000000000000000000002fd770000000000000000\
00000000000124d524d500b000006d664841010102010102030405060708000000000000000700000000000012340000\
0000000000630000000000000003000000000000005500000000000003e800000004deadbeef0101000101320301012c\
003200000000000000000000000000000000000000000000000000000000000000000000000000000000000000050000\
00000000000600000000000000070000000000000008b2479d0642cf288006508cd294940db9";

/// An advert of node 2: vhid 10, password "electpw", VIP 10.77.0.100, with a trailer.
const EXTENDED_ADVERT: &str = "\
01005e00001202000000000208004500008200014000ff7090a90a4d0002e0000012210a14070001f2fb000000000000\
00ff61968ed5ef08fd92e41e94f756e3077b9f0183746d66484101020200010203040506070800000000000000070000\
00000000002200000000000000050000000000000006000000000000007766c855acb489856f75dac823f327fd74118e";

const IP_AT: usize = 14;
/// Where the bodies of the heartbeats begin.
const BODY_AT_IPV4: usize = 42;
const BODY_AT_IPV6: usize = 62;
const CARP_AT: usize = 34;
const TRAILER_AT: usize = 70;
const BODY_LEN: usize = 152;

/// What has to become of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Pass(PassReason),
    Drop(DropReason),
    /// The claim has to be noted for who claims it.
    Mismatch(DropReason, Claim),
    /// A heartbeat under one of our keys.
    Heartbeat {
        sender: u8,
        key: u8,
        stamp: Stamp,
        source: [u8; 16],
        body_at: usize,
    },
    /// An advert, and who signed it.
    Advert {
        extension: Option<(u8, Stamp)>,
    },
}

/// One frame under one configuration.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) frame: Vec<u8>,
    pub(crate) filter: FilterConfig,
    pub(crate) cluster: ClusterConfig,
    /// What MEMBERS holds: entries of the configured members.
    pub(crate) members: Vec<(MemberKey, Stamp)>,
    pub(crate) expected: Expected,
}

impl Cluster for Case {
    fn config(&self) -> Option<&ClusterConfig> {
        Some(&self.cluster)
    }

    fn last(&self, key: MemberKey) -> Option<Stamp> {
        let mut members = self.members.iter();
        members
            .find(|(known, _)| *known == key)
            .map(|(_, stamp)| *stamp)
    }
}

impl Case {
    /// The verdict of the code under test.
    pub(crate) fn judge(&self) -> Verdict {
        validate(self.frame.as_slice(), &self.filter, &(), self)
    }
}

pub(crate) fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2)
        .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
        .collect()
}

pub(crate) fn heartbeat_ipv4() -> Vec<u8> {
    bytes(HEARTBEAT_IPV4)
}

pub(crate) fn heartbeat_ipv6() -> Vec<u8> {
    bytes(HEARTBEAT_IPV6)
}

pub(crate) fn extended_advert() -> Vec<u8> {
    bytes(EXTENDED_ADVERT)
}

pub(crate) fn filter() -> FilterConfig {
    FilterConfig {
        vip: [10, 77, 0, 100],
        group: [224, 0, 0, 18],
        source: [10, 77, 0, 1],
        vhid: 10,
        vip_count: 1,
        vlan: VLAN_ANY,
        policy: 0,
        key: HmacKey::new(b"electpw").unwrap(),
    }
}

/// Node 1, with both keys.
pub(crate) fn cluster() -> ClusterConfig {
    ClusterConfig {
        cluster: CLUSTER,
        keys: [TagKey::new(KEY), TagKey::new(PREVIOUS)],
        policy: HEARTBEATS | TRAILERS | PREVIOUS_KEY,
        vlan: VLAN_ANY,
        node: 1,
        reserved: 0,
    }
}

/// The members 2 and 3, of whom nothing was heard.
pub(crate) fn members() -> Vec<(MemberKey, Stamp)> {
    [2, 3]
        .iter()
        .flat_map(|id| [MemberKey::heartbeat(*id), MemberKey::advert(*id)])
        .map(|key| (key, Stamp::default()))
        .collect()
}

fn tag(key: [u8; 16], parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = SipHasher24::new_with_key(&key);
    hasher.write(&parts.concat());
    hasher.finish128().as_bytes()
}

fn network_at(frame: &[u8]) -> usize {
    if frame[12..14] == [0x81, 0] { 18 } else { 14 }
}

fn is_ipv6(frame: &[u8]) -> bool {
    let at = network_at(frame);
    frame[at - 2..at] == [0x86, 0xdd]
}

fn body_at(frame: &[u8]) -> usize {
    network_at(frame) + if is_ipv6(frame) { 48 } else { 28 }
}

/// Signs a heartbeat anew.
pub(crate) fn sign(frame: &mut [u8], key: [u8; 16]) {
    let body_at = body_at(frame);
    let Some(signed) = frame.get_mut(body_at..body_at + BODY_LEN + 16) else {
        return;
    };
    let (body, free) = signed.split_at_mut(BODY_LEN);
    free.copy_from_slice(&tag(key, &[body]));
}

fn set_sum(header: &mut [u8], at: usize) {
    header[at..at + 2].fill(0);
    let mut sum: u32 = header
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [_, _, high, low] = (!sum).to_be_bytes();
    header[at..at + 2].copy_from_slice(&[high, low]);
}

/// Makes the sums of an untagged advert right, and signs its trailer anew.
pub(crate) fn sign_advert(frame: &mut [u8], key: [u8; 16]) {
    set_sum(&mut frame[IP_AT..CARP_AT], 10);
    set_sum(&mut frame[CARP_AT..TRAILER_AT], 6);
    let signed = tag(
        key,
        &[
            &frame[TRAILER_AT..TRAILER_AT + 56],
            &frame[CARP_AT..TRAILER_AT],
            &frame[IP_AT + 12..IP_AT + 16],
        ],
    );
    frame[TRAILER_AT + 56..TRAILER_AT + 72].copy_from_slice(&signed);
    set_sum(&mut frame[TRAILER_AT..TRAILER_AT + 74], 72);
}

fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let [high, low] = vlan.to_be_bytes();
    [&frame[..12], &[0x81, 0, high, low], &frame[12..]].concat()
}

fn case(name: &str, frame: Vec<u8>, expected: Expected) -> Case {
    Case {
        name: name.to_string(),
        frame,
        filter: filter(),
        cluster: cluster(),
        members: members(),
        expected,
    }
}

fn accepted(frame: &[u8], key: u8) -> Expected {
    let (network_at, body_at) = (network_at(frame), body_at(frame));
    let mut source = [0; 16];
    if is_ipv6(frame) {
        source.copy_from_slice(&frame[network_at + 8..network_at + 24]);
    } else {
        source[10..12].fill(0xff);
        source[12..].copy_from_slice(&frame[network_at + 12..network_at + 16]);
    }
    let number = |at: usize| u64::from_be_bytes(frame[at..at + 8].try_into().unwrap());
    Expected::Heartbeat {
        sender: frame[body_at + 6],
        key,
        stamp: Stamp {
            boot: number(body_at + 16),
            sequence: number(body_at + 24),
        },
        source,
        body_at,
    }
}

fn changed(frame: &[u8], changes: &[(usize, u8)]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for (at, value) in changes {
        frame[*at] = *value;
    }
    frame
}

const fn stamp(boot: u64, sequence: u64) -> Stamp {
    Stamp { boot, sequence }
}

const fn claim(version: u8, cluster: u64) -> Claim {
    Claim {
        node: 2,
        version,
        cluster,
    }
}

/// Returns a case that is accepted: the heartbeat over IPv4.
pub(crate) fn example() -> Case {
    let frame = heartbeat_ipv4();
    let expected = accepted(&frame, 0);
    case("over IPv4", frame, expected)
}

/// Returns every case.
pub(crate) fn cases() -> Vec<Case> {
    [heartbeats::cases(), adverts::cases()].concat()
}
