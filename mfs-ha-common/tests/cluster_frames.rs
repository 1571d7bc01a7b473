//! Heartbeats and adverts with a trailer: each case gets the verdict of the table, what was accepted once is
//! a replay from then on, and any frame at all gets one verdict and no panic.

#![expect(
    clippy::unwrap_used,
    reason = "arithmetic on fixed sizes in tests and their helpers"
)]

#[path = "../../tests/vectors/cluster.rs"]
mod cluster;
#[path = "support/cluster_opinions.rs"]
mod cluster_opinions;
#[path = "support/cluster_reference.rs"]
mod cluster_reference;
#[path = "support/corpus.rs"]
mod corpus;

use std::collections::BTreeMap;

use cluster::{Case, Expected};
use cluster_opinions::opinion_of_core;
use cluster_reference::Node;
use corpus::assert_corpus;
use mfs_ha_common::carp::frame::Sender;
use mfs_ha_common::carp::trailer::Trailer;
use mfs_ha_common::carp::{Advert, Vhid};
use mfs_ha_common::cluster::NodeId;
use mfs_ha_common::filter::{HEARTBEATS, PREVIOUS_KEY, VLAN_ANY};
use mfs_ha_common::freshness::Freshness;
use mfs_ha_common::heartbeat::{BODY_LEN, Heartbeat, Stamp};
use mfs_ha_common::member::{Claim, MemberKey, MismatchState};
use mfs_ha_common::net::Frame as _;
use mfs_ha_common::priority::Priority;
use mfs_ha_common::stats::DropReason;
use mfs_ha_common::time::Timestamp;
use mfs_ha_common::validate::Verdict;
use proptest::prelude::*;

/// The verdict in the words of the table.
fn verdict(case: &Case) -> Expected {
    let frame = case.frame.as_slice();
    match case.judge() {
        Verdict::Pass(reason) => Expected::Pass(reason),
        Verdict::Drop(reason) => Expected::Drop(reason),
        Verdict::Mismatch(reason, claimed) => Expected::Mismatch(reason, claimed.read(frame)),
        Verdict::Heartbeat(accepted) => Expected::Heartbeat {
            sender: accepted.sender,
            key: accepted.key,
            stamp: accepted.stamp(frame).unwrap(),
            source: accepted.source(frame).unwrap(),
            body_at: accepted.body_at(),
        },
        Verdict::Accept(accepted) => Expected::Advert {
            extension: accepted
                .extension
                .map(|extension| (extension.node, extension.stamp(frame).unwrap())),
        },
    }
}

#[test]
fn each_case_gets_its_verdict() {
    let cases = cluster::cases();
    assert!(cases.len() > 100, "{}", cases.len());
    let wrong: Vec<String> = cases
        .iter()
        .filter(|case| verdict(case) != case.expected)
        .map(|case| {
            let (name, expected) = (&case.name, case.expected);
            format!("{name}: {:?}, not {expected:?}", verdict(case))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_was_accepted_is_a_replay_from_then_on() {
    let mut accepted = 0;
    for mut case in cluster::cases() {
        let (key, stamp, reason) = match case.expected {
            Expected::Heartbeat { sender, stamp, .. } => {
                (MemberKey::heartbeat(sender), stamp, DropReason::Replayed)
            }
            Expected::Advert {
                extension: Some((node, stamp)),
            } => (MemberKey::advert(node), stamp, DropReason::TrailerReplayed),
            Expected::Pass(_)
            | Expected::Drop(_)
            | Expected::Mismatch(..)
            | Expected::Advert { extension: None } => continue,
        };
        let members = case.members.iter_mut();
        for (_, last) in members.filter(|(known, _)| *known == key) {
            *last = stamp;
        }
        assert_eq!(case.judge(), Verdict::Drop(reason), "{}", case.name);
        accepted += 1;
    }
    assert!(accepted > 20, "{accepted}");
}

/// The frames in full were not written by this code.
#[test]
fn the_heartbeats_of_the_table_are_read_and_written_again() {
    for (frame, body_at) in [
        (cluster::heartbeat_ipv4(), 42),
        (cluster::heartbeat_ipv6(), 62),
    ] {
        let body: [u8; BODY_LEN] = frame.load(body_at).unwrap();
        let heartbeat = Heartbeat::parse(&body).unwrap();
        assert_eq!(heartbeat.stamp.sequence, 0x1234);
        assert_eq!(
            heartbeat.metadata.freshness,
            Freshness {
                epoch: 7,
                version: 8
            }
        );
        let sealed = cluster::cluster().keys[0].seal(&heartbeat.emit());
        assert_eq!(sealed, frame[body_at..]);
    }
}

#[test]
fn the_advert_of_the_table_is_written_again() {
    let recorded = cluster::extended_advert();
    let filter = cluster::filter();
    let sender = Sender {
        mac: [2, 0, 0, 0, 0, 2],
        source: [10, 77, 0, 2],
        group: filter.group,
        broadcast: false,
        vlan: 0,
        vhid: Vhid::new(filter.vhid).unwrap(),
        vip: filter.vip,
    };
    let advert = Advert {
        vhid: filter.vhid,
        priority: Priority::new(1, 20),
        demote: 0,
        counter: 0xff_u64.to_be_bytes(),
    };
    let config = cluster::cluster();
    let trailer = Trailer {
        cluster: config.cluster,
        node: NodeId::new(2).unwrap(),
        stamp: Stamp {
            boot: 7,
            sequence: 0x22,
        },
        epoch: 5,
        freshness: Freshness {
            epoch: 6,
            version: 0x77,
        },
    };
    let frame = sender.extended_advert(&filter.key, &advert, 1, &config.keys[0], &trailer);
    // TOS and IP checksum are the other program's own.
    assert_eq!(frame.as_bytes()[..15], recorded[..15]);
    assert_eq!(frame.as_bytes()[34..], recorded[34..]);
}

#[test]
fn no_flipped_bit_of_a_heartbeat_is_accepted() {
    let good = cluster::example();
    for bit in 42 * 8..good.frame.len() * 8 {
        let mut case = good.clone();
        case.frame[bit / 8] ^= 1 << (bit % 8);
        let verdict = case.judge();
        assert!(
            matches!(verdict, Verdict::Drop(_) | Verdict::Mismatch(..)),
            "bit {bit}: {verdict:?}"
        );
    }
}

#[test]
fn no_cut_frame_is_accepted() {
    for good in [
        cluster::heartbeat_ipv4(),
        cluster::heartbeat_ipv6(),
        cluster::extended_advert(),
    ] {
        for len in 0..good.len() {
            let mut case = cluster::example();
            case.frame = good[..len].to_vec();
            let verdict = case.judge();
            assert!(
                matches!(verdict, Verdict::Pass(_) | Verdict::Drop(_)),
                "{len} bytes: {verdict:?}"
            );
        }
    }
}

#[test]
fn mismatches_are_counted_by_what_differs() {
    let claim = Claim {
        node: 2,
        version: 9,
        cluster: 77,
    };
    let mut state = MismatchState::default();
    let at = Timestamp::from_nanos;
    state.note(DropReason::BadTag, &claim, at(1));
    state.note(DropReason::TrailerBadTag, &claim, at(2));
    state.note(DropReason::OtherCluster, &claim, at(3));
    state.note(DropReason::TrailerOtherCluster, &claim, at(4));
    state.note(DropReason::OtherVersion, &claim, at(5));
    state.note(DropReason::Replayed, &claim, at(6));
    let expected = MismatchState {
        bad_tag: 2,
        last_bad_tag_ns: 2,
        other_cluster: 2,
        last_other_cluster_ns: 4,
        cluster: 77,
        other_version: 1,
        last_other_version_ns: 5,
        version: 9,
        reserved: [0; 7],
    };
    assert_eq!(state, expected);
}

/// The node of the table, as the second opinion and the fuzz target know it.
fn node(case: &Case) -> Node {
    let keys = [*b"@ABCDEFGHIJKLMNO", *b"previous--------"];
    let count = if case.cluster.has(PREVIOUS_KEY) { 2 } else { 1 };
    let (_, last) = case.members[0];
    Node {
        id: case.cluster.node,
        cluster: case.cluster.cluster,
        keys: keys[..count].to_vec(),
        vlan: Some(case.cluster.vlan).filter(|vlan| *vlan != VLAN_ANY),
        others: vec![(2, last.boot, last.sequence)],
    }
}

/// Cases on which the second opinion can be asked: with heartbeats, and no adverts.
fn cases_of_heartbeats() -> Vec<Case> {
    let mut cases = cluster::cases();
    cases.retain(|case| {
        case.cluster.has(HEARTBEATS) && cluster_reference::judge(&case.frame, &node(case)).is_some()
    });
    assert!(cases.len() > 60, "{}", cases.len());
    cases
}

#[test]
fn each_heartbeat_gets_the_second_opinion() {
    for case in cases_of_heartbeats() {
        let node = node(&case);
        let opinion = cluster_reference::judge(&case.frame, &node).unwrap();
        assert_eq!(
            opinion_of_core(&case.frame, &node),
            opinion,
            "{}",
            case.name
        );
    }
}

/// An input of the fuzz target `heartbeat`: a node in fixed places, then the frame.
fn fuzz_input(case: &Case) -> Vec<u8> {
    let node = node(case);
    let any_vlan = u8::from(node.vlan.is_none());
    let two_keys = u8::from(node.keys.len() > 1) << 1;
    let (other, boot, sequence) = node.others[0];
    let mut input = vec![any_vlan | two_keys, node.id];
    input.extend(node.cluster.to_be_bytes());
    input.extend(node.keys[0]);
    input.extend(node.keys.last().unwrap());
    input.push(other);
    input.extend(boot.to_be_bytes());
    input.extend(sequence.to_be_bytes());
    input.extend(node.vlan.unwrap_or_default().to_be_bytes());
    input.extend(&case.frame);
    input
}

/// `MFS_HA_BLESS=1` writes them.
#[test]
fn the_fuzz_corpus_is_made_of_the_table() {
    let expected: BTreeMap<String, Vec<u8>> = cases_of_heartbeats()
        .iter()
        .filter(|case| !case.name.starts_with("a bit"))
        .map(|case| (case.name.replace([' ', ','], "-"), fuzz_input(case)))
        .collect();
    assert_corpus("heartbeat", &expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_heartbeats_get_the_second_opinion(
        ipv6: bool,
        tag in prop::option::weighted(0.3, any::<u16>()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        length in prop::option::weighted(0.15, 0..260_usize),
        key in 0_u8..3,
        last in (0_u64..9, any::<u64>()),
        vlan in prop::option::weighted(0.2, 0_u16..8),
    ) {
        let case = cluster::example();
        let mut node = node(&case);
        node.others = vec![(2, last.0, last.1), (3, 0, 0)];
        node.vlan = vlan;
        let mut frame = if ipv6 { cluster::heartbeat_ipv6() } else { case.frame };
        for (at, value) in changes {
            let at = at.index(frame.len() - 12) + 12;
            frame[at] = value;
        }
        if let Some(key) = node.keys.get(usize::from(key)) {
            cluster::sign(&mut frame, *key);
        }
        if let Some(tag) = tag {
            let [high, low] = tag.to_be_bytes();
            frame.splice(12..12, [0x81, 0, high % 32, low % 8]);
        }
        if let Some(length) = length {
            frame.resize(length, 0);
        }
        if let Some(opinion) = cluster_reference::judge(&frame, &node) {
            prop_assert_eq!(opinion_of_core(&frame, &node), opinion);
        }
    }

    /// Without the key nothing is accepted, whatever else is right about it.
    #[test]
    fn nothing_is_accepted_without_the_key(
        ipv6: bool,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
        key: [u8; 16],
        signs: bool,
    ) {
        let mut case = cluster::example();
        case.frame = if ipv6 { cluster::heartbeat_ipv6() } else { cluster::heartbeat_ipv4() };
        let good = case.frame.clone();
        for (at, value) in changes {
            let at = at.index(case.frame.len() - 12) + 12;
            case.frame[at] = value;
        }
        if signs {
            cluster::sign(&mut case.frame, key);
        }
        let body_at = if ipv6 { 62 } else { 42 };
        let is_genuine = case.frame[body_at..] == good[body_at..];
        match case.judge() {
            Verdict::Heartbeat(_) => prop_assert!(is_genuine),
            Verdict::Accept(accepted) => panic!("a heartbeat is no advert: {accepted:?}"),
            Verdict::Pass(_) | Verdict::Drop(_) | Verdict::Mismatch(..) => {}
        }
    }
}
