//! Heartbeats, and what looks like them.

use mfs_ha_common::filter::{HEARTBEATS, TRAILERS};
use mfs_ha_common::heartbeat::TagKey;
use mfs_ha_common::stats::{DropReason, PassReason};

use super::{
    BODY_AT_IPV4, BODY_AT_IPV6, BOOT, CLUSTER, Case, Expected, FOREIGN, KEY, PREVIOUS, ROUND,
    accepted, case, changed, claim, heartbeat_ipv4, heartbeat_ipv6, sign, stamp, tagged,
};

/// Returns every case.
pub(super) fn cases() -> Vec<Case> {
    [
        acceptable_heartbeats(),
        foreign_datagrams(),
        misshapen_heartbeats(),
        replayed_heartbeats(),
        mismatched_heartbeats(),
    ]
    .concat()
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

/// A heartbeat whose two lengths say so many bytes of UDP, and which has as many.
fn of_len(udp_len: u8) -> Vec<u8> {
    let mut frame = changed(&heartbeat_ipv4(), &[(17, 20 + udp_len), (39, udp_len)]);
    frame.resize(34 + usize::from(udp_len), 0xa5);
    frame
}

fn misshapen_heartbeats() -> Vec<Case> {
    let (ipv4, ipv6) = (heartbeat_ipv4(), heartbeat_ipv6());
    let options = [&ipv4[..14], &[0x46], &ipv4[15..34], &[1; 4], &ipv4[34..]].concat();
    let bad_header = DropReason::BadIpHeader;
    let len = DropReason::BadHeartbeatLen;
    #[rustfmt::skip]
    let rows = [
        ("IP version 5",            changed(&ipv4, &[(14, 0x55)]),  bad_header),
        ("four words of IP header", changed(&ipv4, &[(14, 0x44)]),  bad_header),
        ("IPv6 of version 4",       changed(&ipv6, &[(14, 0x40)]),  bad_header),
        ("IP options",              options,                        DropReason::IpOptions),
        ("a first fragment",        changed(&ipv4, &[(20, 0x20)]),  DropReason::Fragment),
        ("cut",                     ipv4[..209].to_vec(),           DropReason::Truncated),
        ("cut over IPv6",           ipv6[..229].to_vec(),           DropReason::Truncated),
        ("longer than its frame",   changed(&ipv4, &[(17, 0xc5)]),  DropReason::Truncated),
        ("no payload",              of_len(8),                      DropReason::NotHeartbeat),
        ("15 bytes of payload",     of_len(8 + 15),                 DropReason::NotHeartbeat),
        ("another beginning",       with_body(&[(3, b'a')], KEY),   DropReason::NotHeartbeat),
        ("16 bytes of payload",     of_len(8 + 16),                 len),
        ("a byte less",             of_len(175),                    len),
        ("a byte more",             of_len(177),                    len),
        ("UDP says otherwise",      changed(&ipv4, &[(39, 0xaf)]),  len),
        ("IPv6 says otherwise",     changed(&ipv6, &[(19, 0xaf)]),  len),
        ("another kind",            with_body(&[(5, 2)], KEY),      DropReason::BadKind),
        ("to another member",       with_body(&[(7, 3)], KEY),      DropReason::OtherReceiver),
        ("from ourselves",          with_body(&[(6, 1)], KEY),      DropReason::OwnNode),
        ("from a stranger",         with_body(&[(6, 4)], KEY),      DropReason::UnknownMember),
        ("from nobody",             with_body(&[(6, 0)], KEY),      DropReason::UnknownMember),
        ("of no life",              with_body(&[(23, 0)], KEY),     DropReason::Replayed),
    ];
    rows.into_iter()
        .map(|(name, frame, reason)| case(name, frame, Expected::Drop(reason)))
        .collect()
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
