//! Heartbeats and adverts with a trailer, and what has to become of each.
//!
//! A plain file like `vectors.rs`, which the host's test and the kernel's test include by path. The three
//! frames in full were made by another program from the layout in `docs/protocol.md`; every other case is
//! one of them with one thing changed, and signed anew where the tag shall be right. The tags come from the
//! siphasher crate.

use core::hash::Hasher as _;

use mfs_ha_common::carp::auth::HmacKey;
use mfs_ha_common::filter::{
    ACCEPT_TRAILING_BYTES, ClusterConfig, FilterConfig, HEARTBEATS, PREVIOUS_KEY,
    REQUIRE_EXTENSION, TRAILERS, VLAN_ANY,
};
use mfs_ha_common::heartbeat::{Stamp, TagKey};
use mfs_ha_common::member::{Claim, MemberKey};
use mfs_ha_common::stats::{DropReason, PassReason};
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

/// A heartbeat with changes in its body, signed anew.
fn with_body(changes: &[(usize, u8)], key: [u8; 16]) -> Vec<u8> {
    let mut frame = heartbeat_ipv4();
    for (at, value) in changes {
        frame[BODY_AT_IPV4 + at] = *value;
    }
    sign(&mut frame, key);
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

fn acceptable_heartbeats() -> Vec<Case> {
    let (ipv4, ipv6) = (heartbeat_ipv4(), heartbeat_ipv6());
    let accept = |name: &str, frame: Vec<u8>| {
        let expected = accepted(&frame, 0);
        case(name, frame, expected)
    };
    let mut cases = vec![
        accept("over IPv4", ipv4.clone()),
        accept("over IPv6", ipv6.clone()),
        accept("over IPv4 in a VLAN", tagged(&ipv4, 5)),
        accept("over IPv6 in a VLAN", tagged(&ipv6, 5)),
        accept("padded by the link", [&ipv4[..], &[0xa5; 9]].concat()),
        accept("from another port", changed(&ipv4, &[(34, 1), (35, 2)])),
        accept("to another address", changed(&ipv4, &[(33, 99)])),
        accept("forwarded", changed(&ipv4, &[(22, 3)])),
        accept("IP checksum left open", changed(&ipv4, &[(24, 0), (25, 0)])),
        accept(
            "UDP checksum left open",
            changed(&ipv4, &[(40, 0x12), (41, 0x34)]),
        ),
        accept(
            "the sender's next life",
            with_body(&[(23, 8), (30, 0), (31, 0)], KEY),
        ),
    ];
    let key = with_body(&[], PREVIOUS);
    let expected = accepted(&key, 1);
    cases.push(case("under the key before", key, expected));
    let mut vlan = accept("in our VLAN", tagged(&ipv4, 0x6005));
    vlan.cluster.vlan = 5;
    cases.push(vlan);
    let mut untagged = accept("a priority tag alone", tagged(&ipv4, 0xe000));
    untagged.cluster.vlan = 0;
    cases.push(untagged);
    for (name, last) in [
        ("the round before was the last", stamp(BOOT, ROUND - 1)),
        ("the last was of a life before", stamp(BOOT - 1, u64::MAX)),
    ] {
        let mut case = accept(name, ipv4.clone());
        case.members[0].1 = last;
        cases.push(case);
    }
    let mut adverts = accept("adverts are numbered on their own", ipv4);
    adverts.members[1].1 = stamp(BOOT + 1, 0);
    cases.push(adverts);
    cases
}

fn foreign_datagrams() -> Vec<Case> {
    let (ipv4, ipv6) = (heartbeat_ipv4(), heartbeat_ipv6());
    let pass = |name: &str, frame: Vec<u8>, reason| case(name, frame, Expected::Pass(reason));
    let not_ours = PassReason::NotCarp;
    let mut cases = vec![
        pass("to another port", changed(&ipv4, &[(37, 0xd6)]), not_ours),
        pass(
            "to another port over IPv6",
            changed(&ipv6, &[(57, 0xd6)]),
            not_ours,
        ),
        pass("TCP", changed(&ipv4, &[(23, 6)]), not_ours),
        pass("a later fragment", changed(&ipv4, &[(21, 1)]), not_ours),
        pass(
            "behind an extension header",
            changed(&ipv6, &[(20, 0)]),
            not_ours,
        ),
        pass("ends before the port", ipv4[..37].to_vec(), not_ours),
        pass("behind two tags", tagged(&tagged(&ipv4, 5), 5), not_ours),
    ];
    let mut vlan = pass("in another VLAN", tagged(&ipv4, 6), PassReason::OtherVlan);
    vlan.cluster.vlan = 5;
    cases.push(vlan);
    let mut untagged = pass("in no VLAN", ipv4.clone(), PassReason::OtherVlan);
    untagged.cluster.vlan = 5;
    cases.push(untagged);
    let mut off = pass("in carp mode", ipv4, not_ours);
    off.cluster.policy = TRAILERS;
    cases.push(off);
    cases
}

fn misshapen_heartbeats() -> Vec<Case> {
    let (ipv4, ipv6) = (heartbeat_ipv4(), heartbeat_ipv6());
    let drop = |name: &str, frame: Vec<u8>, reason| case(name, frame, Expected::Drop(reason));
    let options = [&[0x46], &ipv4[15..34], &[1; 4], &ipv4[34..]].concat();
    let options = [&ipv4[..14], &options].concat();
    // The IP header's length and the datagram's own, and as many bytes.
    let of_len = |udp_len: u8| {
        let mut frame = changed(&ipv4, &[(17, 20 + udp_len), (39, udp_len)]);
        frame.resize(34 + usize::from(udp_len), 0xa5);
        frame
    };
    vec![
        drop(
            "IP version 5",
            changed(&ipv4, &[(14, 0x55)]),
            DropReason::BadIpHeader,
        ),
        drop(
            "four words of IP header",
            changed(&ipv4, &[(14, 0x44)]),
            DropReason::BadIpHeader,
        ),
        drop(
            "IPv6 of version 4",
            changed(&ipv6, &[(14, 0x40)]),
            DropReason::BadIpHeader,
        ),
        drop("IP options", options, DropReason::IpOptions),
        drop(
            "a first fragment",
            changed(&ipv4, &[(20, 0x20)]),
            DropReason::Fragment,
        ),
        drop("cut", ipv4[..209].to_vec(), DropReason::Truncated),
        drop("cut over IPv6", ipv6[..229].to_vec(), DropReason::Truncated),
        drop(
            "longer than its frame",
            changed(&ipv4, &[(17, 0xc5)]),
            DropReason::Truncated,
        ),
        drop("no payload", of_len(8), DropReason::NotHeartbeat),
        drop(
            "15 bytes of payload",
            of_len(8 + 15),
            DropReason::NotHeartbeat,
        ),
        drop(
            "another beginning",
            with_body(&[(3, b'a')], KEY),
            DropReason::NotHeartbeat,
        ),
        drop(
            "16 bytes of payload",
            of_len(8 + 16),
            DropReason::BadHeartbeatLen,
        ),
        drop("a byte less", of_len(175), DropReason::BadHeartbeatLen),
        drop("a byte more", of_len(177), DropReason::BadHeartbeatLen),
        drop(
            "UDP says otherwise",
            changed(&ipv4, &[(39, 0xaf)]),
            DropReason::BadHeartbeatLen,
        ),
        drop(
            "IPv6 says otherwise",
            changed(&ipv6, &[(19, 0xaf)]),
            DropReason::BadHeartbeatLen,
        ),
        drop(
            "another kind",
            with_body(&[(5, 2)], KEY),
            DropReason::BadKind,
        ),
        drop(
            "to another member",
            with_body(&[(7, 3)], KEY),
            DropReason::OtherReceiver,
        ),
        drop(
            "from ourselves",
            with_body(&[(6, 1)], KEY),
            DropReason::OwnNode,
        ),
        drop(
            "from a stranger",
            with_body(&[(6, 4)], KEY),
            DropReason::UnknownMember,
        ),
        drop(
            "from nobody",
            with_body(&[(6, 0)], KEY),
            DropReason::UnknownMember,
        ),
        drop(
            "of no life",
            with_body(&[(23, 0)], KEY),
            DropReason::Replayed,
        ),
    ]
}

fn replayed_heartbeats() -> Vec<Case> {
    let lasts = [
        ("the same round again", stamp(BOOT, ROUND)),
        ("an older round", stamp(BOOT, ROUND + 1)),
        ("an older life", stamp(BOOT + 1, 0)),
    ];
    lasts
        .iter()
        .map(|(name, last)| {
            let expected = Expected::Drop(DropReason::Replayed);
            let mut case = case(name, heartbeat_ipv4(), expected);
            case.members[0].1 = *last;
            case
        })
        .collect()
}

fn mismatched_heartbeats() -> Vec<Case> {
    let mismatch = |name: &str, frame: Vec<u8>, reason, claim| {
        case(name, frame, Expected::Mismatch(reason, claim))
    };
    let ours = claim(1, CLUSTER);
    let bad_tag = |name: &str, frame: Vec<u8>| mismatch(name, frame, DropReason::BadTag, ours);
    let other_version = with_body(&[(4, 2)], KEY);
    let mut shorter = changed(&other_version, &[(17, 20 + 108), (39, 108)]);
    shorter.truncate(34 + 108);
    let other_cluster = with_body(&[(15, 9)], KEY);
    let cluster = claim(1, CLUSTER + 1);
    let mut cases = vec![
        mismatch(
            "another version",
            other_version,
            DropReason::OtherVersion,
            claim(2, CLUSTER),
        ),
        mismatch(
            "and length",
            shorter,
            DropReason::OtherVersion,
            claim(2, CLUSTER),
        ),
        mismatch(
            "another cluster",
            other_cluster,
            DropReason::OtherCluster,
            cluster,
        ),
        bad_tag("a foreign key", with_body(&[], FOREIGN)),
        bad_tag(
            "over IPv6, a bit",
            changed(&heartbeat_ipv6(), &[(BODY_AT_IPV6 + 151, 9)]),
        ),
    ];
    for at in (BODY_AT_IPV4 + 16..210).step_by(7) {
        let good = heartbeat_ipv4();
        // The stamp only rises, or it would be a replay.
        let frame = changed(&good, &[(at, good[at] | 0x80)]);
        if frame != good {
            cases.push(bad_tag(&format!("a bit of byte {at}"), frame));
        }
    }
    let mut current_only = bad_tag("a key that is over", with_body(&[], PREVIOUS));
    current_only.cluster.policy = HEARTBEATS;
    cases.push(current_only);
    let mut no_previous = bad_tag("a key of zeros, where none is set", with_body(&[], [0; 16]));
    no_previous.cluster.keys[1] = TagKey::new([0; 16]);
    no_previous.cluster.policy = HEARTBEATS;
    cases.push(no_previous);
    cases
}

/// An advert with changes, sums repaired and signed anew.
fn with_trailer(changes: &[(usize, u8)], key: [u8; 16]) -> Vec<u8> {
    let mut frame = changed(&extended_advert(), changes);
    sign_advert(&mut frame, key);
    frame
}

/// The advert with other bytes behind its header, or with none.
fn with_other_trailer(len: u8) -> Vec<u8> {
    let mut frame = extended_advert();
    frame.truncate(TRAILER_AT);
    frame.resize(TRAILER_AT + usize::from(len), 0x5a);
    frame[17] = 56 + len;
    set_sum(&mut frame[IP_AT..CARP_AT], 10);
    frame
}

fn under(mut case: Case, policy: u32, cluster_policy: u32) -> Case {
    case.filter.policy = policy;
    case.cluster.policy = cluster_policy;
    case.name = format!("{} under {policy} and {cluster_policy}", case.name);
    case
}

fn acceptable_adverts() -> Vec<Case> {
    let signed = |name: &str, frame: Vec<u8>, stamp| {
        let extension = Some((2, stamp));
        case(name, frame, Expected::Advert { extension })
    };
    let unsigned =
        |name: &str, frame: Vec<u8>| case(name, frame, Expected::Advert { extension: None });
    let extended = extended_advert();
    let first = stamp(BOOT, ADVERT);
    let all = HEARTBEATS | TRAILERS;
    let mut later = signed("an advert after another", extended.clone(), first);
    later.members[1].1 = stamp(BOOT, ADVERT - 1);
    later.members[0].1 = stamp(BOOT + 1, 0);
    vec![
        signed("an advert with a trailer", extended.clone(), first),
        later,
        signed("an advert in a VLAN", tagged(&extended, 5), first),
        signed(
            "an advert padded by the link",
            [&extended[..], &[0; 3]].concat(),
            first,
        ),
        signed(
            "an advert under the key before",
            with_trailer(&[], PREVIOUS),
            first,
        ),
        signed(
            "an advert of another life",
            with_trailer(&[(93, 9)], KEY),
            stamp(9, ADVERT),
        ),
        // Nobody here sums up the whole payload.
        signed(
            "an advert with a wrong fix-up",
            changed(&extended, &[(143, 0)]),
            first,
        ),
        under(
            signed(
                "an advert where trailers are required",
                extended.clone(),
                first,
            ),
            0,
            all | REQUIRE_EXTENSION,
        ),
        under(
            unsigned("an advert whose trailer nobody reads", extended),
            ACCEPT_TRAILING_BYTES,
            HEARTBEATS,
        ),
        unsigned("an advert of a plain peer", with_other_trailer(0)),
        under(
            unsigned("an advert with something else", with_other_trailer(74)),
            ACCEPT_TRAILING_BYTES,
            all,
        ),
        under(
            unsigned(
                "an advert with a trailer to come",
                with_trailer(&[(74, 2)], KEY),
            ),
            ACCEPT_TRAILING_BYTES,
            all,
        ),
    ]
}

fn refused_adverts() -> Vec<Case> {
    let drop = |name: &str, frame: Vec<u8>, reason| case(name, frame, Expected::Drop(reason));
    let bad_tag = |name: &str, frame: Vec<u8>| {
        let expected = Expected::Mismatch(DropReason::TrailerBadTag, claim(1, CLUSTER));
        case(name, frame, expected)
    };
    let extended = extended_advert();
    let all = HEARTBEATS | TRAILERS;
    let mut skew = changed(&extended, &[(36, 0)]);
    set_sum(&mut skew[CARP_AT..TRAILER_AT], 6);
    let mut source = changed(&extended, &[(29, 3)]);
    set_sum(&mut source[IP_AT..CARP_AT], 10);
    let other_cluster = Expected::Mismatch(DropReason::TrailerOtherCluster, claim(1, CLUSTER + 1));
    let trailing = DropReason::TrailingBytes;
    let missing = DropReason::ExtensionMissing;
    let mut cases = vec![
        under(
            drop("a trailer nobody reads", extended.clone(), trailing),
            0,
            HEARTBEATS,
        ),
        drop("something else", with_other_trailer(74), trailing),
        drop("a trailer to come", with_trailer(&[(74, 2)], KEY), trailing),
        drop("a longer trailer", with_other_trailer(76), trailing),
        under(
            drop("plain", with_other_trailer(0), missing),
            0,
            all | REQUIRE_EXTENSION,
        ),
        under(
            drop("something else", with_other_trailer(74), missing),
            ACCEPT_TRAILING_BYTES,
            all | REQUIRE_EXTENSION,
        ),
        case(
            "an advert of another cluster",
            with_trailer(&[(85, 9)], KEY),
            other_cluster,
        ),
        drop(
            "an advert of ours",
            with_trailer(&[(76, 1)], KEY),
            DropReason::TrailerOwnNode,
        ),
        drop(
            "an advert of a stranger",
            with_trailer(&[(76, 4)], KEY),
            DropReason::TrailerUnknownMember,
        ),
        drop(
            "an advert of no life",
            with_trailer(&[(93, 0)], KEY),
            DropReason::TrailerReplayed,
        ),
        bad_tag("an advert under a foreign key", with_trailer(&[], FOREIGN)),
        bad_tag("an advert with another skew", skew),
        bad_tag("an advert from another address", source),
        bad_tag(
            "an advert with another version of the metadata",
            changed(&extended, &[(125, 9)]),
        ),
        bad_tag(
            "an advert with a later number",
            changed(&extended, &[(101, 0x23)]),
        ),
        under(
            bad_tag(
                "an advert under a key that is over",
                with_trailer(&[], PREVIOUS),
            ),
            0,
            all,
        ),
        drop(
            "a good trailer behind a wrong digest",
            with_trailer(&[(50, 0)], KEY),
            DropReason::BadAuth,
        ),
    ];
    for (name, last) in [
        ("the same advert again", stamp(BOOT, ADVERT)),
        ("an older advert", stamp(BOOT, ADVERT + 1)),
        ("an advert of an older life", stamp(BOOT + 1, 0)),
    ] {
        let mut case = drop(name, extended.clone(), DropReason::TrailerReplayed);
        case.members[1].1 = last;
        cases.push(case);
    }
    cases
}

/// Returns a case that is accepted: the heartbeat over IPv4.
pub(crate) fn example() -> Case {
    let frame = heartbeat_ipv4();
    let expected = accepted(&frame, 0);
    case("over IPv4", frame, expected)
}

/// Returns every case.
pub(crate) fn cases() -> Vec<Case> {
    [
        acceptable_heartbeats(),
        foreign_datagrams(),
        misshapen_heartbeats(),
        replayed_heartbeats(),
        mismatched_heartbeats(),
        acceptable_adverts(),
        refused_adverts(),
    ]
    .concat()
}
