//! Every vector under every configuration that matters gets the verdict of the table, and every
//! recorded advert is written again byte for byte.

#![expect(
    clippy::unwrap_used,
    reason = "a vector that cannot be read fails the test, with its line"
)]

#[path = "../../tests/vectors/cluster.rs"]
#[expect(dead_code, reason = "here it only says which reasons it has cases for")]
mod cluster;
#[path = "support/corpus.rs"]
mod corpus;
#[path = "../../tests/vectors/vectors.rs"]
mod vectors;

use std::collections::{BTreeMap, BTreeSet};

use corpus::assert_corpus;
use mfs_ha_common::carp::frame::Sender;
use mfs_ha_common::carp::{Advert, Vhid};
use mfs_ha_common::net::Ipv4;
use mfs_ha_common::peer::{LastAdvert, Peers};
use mfs_ha_common::priority::Priority;
use mfs_ha_common::stats::{DropReason, PassReason};
use mfs_ha_common::validate::{Delivery, Verdict, validate};
use vectors::{Case, Expected, Fields, Vector};

struct Remembered(Option<(Ipv4, LastAdvert)>);

impl Peers for Remembered {
    fn find(&self, source: Ipv4) -> Option<LastAdvert> {
        let (remembered, last) = self.0?;
        (remembered == source).then_some(last)
    }
}

fn judge(case: &Case) -> Verdict {
    let remembered = case.remembered.map(|(source, state)| {
        let last = LastAdvert {
            adverts: state.adverts,
            counter: state.counter,
        };
        (source, last)
    });
    validate(
        case.frame.as_slice(),
        &case.filter,
        &Remembered(remembered),
        &(),
    )
}

fn without_delivery(verdict: Verdict) -> Expected {
    match verdict {
        Verdict::Pass(reason) => Expected::Pass(reason),
        Verdict::Drop(reason) | Verdict::Mismatch(reason, _) => Expected::Drop(reason),
        // Without a cluster there are none.
        Verdict::Heartbeat(accepted) => unreachable!("{accepted:?}"),
        Verdict::Accept(accepted) => {
            let advert = accepted.advert.get();
            Expected::Accept(Fields {
                source: accepted.source,
                vhid: advert.vhid,
                advbase: advert.priority.advbase(),
                advskew: advert.priority.advskew(),
                demote: advert.demote,
                counter: advert.counter,
            })
        }
    }
}

#[test]
fn each_vector_gets_its_verdict() {
    let cases = vectors::cases();
    assert!(cases.len() > 192 * 6, "{}", cases.len());
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let verdict = without_delivery(judge(case));
            (verdict != case.expected)
                .then(|| format!("{}: {verdict:?}, not {:?}", case.name, case.expected))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_reason_has_a_vector() {
    let adverts = vectors::cases()
        .into_iter()
        .map(|case| match case.expected {
            Expected::Pass(reason) => reason.name(),
            Expected::Drop(reason) => reason.name(),
            Expected::Accept(_) => "accepted",
        });
    let of_the_cluster = cluster::cases()
        .into_iter()
        .map(|case| match case.expected {
            cluster::Expected::Pass(reason) => reason.name(),
            cluster::Expected::Drop(reason) | cluster::Expected::Mismatch(reason, _) => {
                reason.name()
            }
            cluster::Expected::Advert { .. } => "accepted",
            cluster::Expected::Heartbeat { .. } => "accepted_heartbeats",
        });
    let seen: BTreeSet<&str> = adverts.chain(of_the_cluster).collect();
    let passes = PassReason::ALL.iter().map(|reason| reason.name());
    let drops = DropReason::ALL.iter().map(|reason| reason.name());
    let all: BTreeSet<&str> = passes
        .chain(drops)
        .chain(["accepted", "accepted_heartbeats"])
        .collect();
    assert_eq!(seen, all);
}

#[test]
fn only_a_unicast_advert_is_consumed() {
    for case in vectors::cases() {
        let Verdict::Accept(accepted) = judge(&case) else {
            continue;
        };
        // ucarp -M with a unicast address: the kernel would answer "protocol unreachable".
        let expected = if case.filter.group[0] == 10 {
            Delivery::Consume
        } else {
            Delivery::PassOn
        };
        assert_eq!(accepted.delivery, expected, "{}", case.name);
    }
}

#[test]
fn each_recorded_advert_is_written_again() {
    let mut written = 0;
    for vector in vectors::load().iter().filter(|vector| vector.is_captured) {
        let fields = vector.fields.unwrap();
        let filter = &vector.filter;
        let recorded = vector.frame.as_slice();
        let sender = Sender {
            mac: recorded[6..12].try_into().unwrap(),
            source: fields.source,
            group: filter.group,
            broadcast: recorded[..6] == [0xff; 6],
            vlan: 0,
            vhid: Vhid::new(filter.vhid).unwrap(),
            vip: filter.vip,
        };
        let advert = Advert {
            vhid: filter.vhid,
            priority: Priority::new(fields.advbase, fields.advskew),
            demote: fields.demote,
            counter: fields.counter,
        };
        let identification = u16::from_be_bytes([recorded[18], recorded[19]]);
        let frame = sender.advert(&filter.key, &advert, identification);
        assert_eq!(frame.as_bytes(), recorded, "{}", vector.name);
        written += 1;
    }
    assert_eq!(written, 133);
}

/// The table above may expect one verdict for a frame that real software treats otherwise, but never
/// that a frame which fails the file's own check is accepted under the default policy.
#[test]
fn a_negative_is_accepted_only_where_the_policy_says_so() {
    for vector in vectors::load().iter().filter(|vector| !vector.valid) {
        let verdict = validate(vector.frame.as_slice(), &vector.filter, &(), &());
        let is_accepted = matches!(verdict, Verdict::Accept(_));
        assert!(!is_accepted || vector.is_policy, "{}", vector.name);
    }
}

/// An input of the fuzz target `validate`: a receiver in fixed places, then the frame.
fn fuzz_input(vector: &Vector) -> Vec<u8> {
    let filter = &vector.filter;
    let password_len = u8::try_from(vector.password.len()).unwrap();
    let mut input = vec![0, filter.vhid];
    input.extend(filter.vip);
    input.push(filter.vip_count);
    input.extend(filter.group);
    input.extend(filter.source);
    input.extend(filter.vlan.to_be_bytes());
    // No remembered peer, and no trailing field but the length of the password.
    input.resize(31, 0);
    input.push(password_len);
    input.extend(&vector.password);
    input.extend(&vector.frame);
    input
}

/// One recorded advert of each capture, and everything that was made up. `MFS_HA_BLESS=1` writes them.
#[test]
fn the_fuzz_corpus_is_made_of_the_vectors() {
    let mut expected = BTreeMap::new();
    for vector in vectors::load() {
        let (capture, _) = vector.name.split_once('#').unwrap_or((&vector.name, ""));
        expected
            .entry(capture.to_string())
            .or_insert_with(|| fuzz_input(&vector));
    }
    assert_corpus("validate", &expected);
}
