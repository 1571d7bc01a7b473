//! The recorded and the made-up adverts of `adverts.json`, and what has to become of each.
//!
//! A plain file without dependencies but serde and mfs-ha-common: the test of the host's validation and
//! the test of the loaded XDP program include it by path, so both are held to the same table. The
//! table states what `docs/protocol.md` asks for, by name; nothing here is taken from the code under
//! test.

use std::net::Ipv4Addr;

use mfs_ha_common::carp::auth::HmacKey;
use mfs_ha_common::carp::wire::DEFAULT_GROUP;
use mfs_ha_common::filter::{
    ACCEPT_TRAILING_BYTES, FilterConfig, KNOWN_PEERS_ONLY, REJECT_REPEATED_COUNTER, VLAN_ANY,
};
use mfs_ha_common::net::Ipv4;
use mfs_ha_common::peer::PeerState;
use mfs_ha_common::stats::{DropReason, PassReason};
use serde::Deserialize;

/// An address that no vector comes from.
const UNUSED_SOURCE: Ipv4 = [10, 77, 0, 222];
/// The VLAN that untagged frames are moved to.
const VLAN: u16 = 7;
const OTHER_VLAN: u16 = 8;
/// Priority bits in a tag do not belong to the VLAN id.
const TAG_PRIORITY: u16 = 0xe000;
const TAGS: &[[u8; 2]] = &[[0x81, 0x00], [0x88, 0xa8]];

/// What has to become of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// It is an advert with these contents.
    Accept(Fields),
    /// It goes up the stack untouched.
    Pass(PassReason),
    /// It is dropped.
    Drop(DropReason),
}

/// The contents of an advert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fields {
    pub(crate) source: Ipv4,
    pub(crate) vhid: u8,
    pub(crate) advbase: u8,
    pub(crate) advskew: u8,
    pub(crate) demote: u8,
    pub(crate) counter: [u8; 8],
}

/// One frame under one configuration.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// The vector's name and what was done to it.
    pub(crate) name: String,
    pub(crate) frame: Vec<u8>,
    pub(crate) filter: FilterConfig,
    /// What PEERS holds of the sender.
    pub(crate) remembered: Option<(Ipv4, PeerState)>,
    pub(crate) expected: Expected,
}

/// One vector of the file.
#[derive(Clone, Debug)]
pub(crate) struct Vector {
    pub(crate) name: String,
    pub(crate) frame: Vec<u8>,
    pub(crate) valid: bool,
    /// Recorded from the real ucarp, and neither made up nor mutated.
    pub(crate) is_captured: bool,
    /// Depends on the policy keys.
    pub(crate) is_policy: bool,
    pub(crate) password: Vec<u8>,
    /// For the default policy.
    pub(crate) filter: FilterConfig,
    /// The file's own reading of the frame, where it can be read.
    pub(crate) fields: Option<Fields>,
}

#[derive(Deserialize)]
struct Document {
    counts: Counts,
    vectors: Vec<Record>,
}

#[derive(Deserialize)]
struct Counts {
    total: usize,
    captured: usize,
    valid: usize,
    invalid: usize,
}

#[derive(Deserialize)]
struct Record {
    name: String,
    frame: String,
    vhid: u8,
    password: String,
    vips: Vec<Ipv4Addr>,
    #[serde(default)]
    vips6: Vec<String>,
    valid: bool,
    pcap: Option<String>,
    stage: Option<String>,
    mcast_group: Option<Ipv4Addr>,
    local_ip: Option<Ipv4Addr>,
    vlan: Option<u16>,
    src_ip: Option<Ipv4Addr>,
    advbase: Option<u8>,
    advskew: Option<u8>,
    demote: Option<u8>,
    counter_hex: Option<String>,
}

/// Reads all vectors.
pub(crate) fn load() -> Vec<Vector> {
    let document: Document = serde_json::from_str(include_str!("adverts.json")).unwrap();
    let vectors: Vec<Vector> = document.vectors.iter().map(Record::vector).collect();
    assert_eq!(vectors.len(), document.counts.total);
    let count = |wanted: fn(&Vector) -> bool| vectors.iter().filter(|v| wanted(v)).count();
    assert_eq!(count(|v| v.is_captured), document.counts.captured);
    assert_eq!(count(|v| v.valid), document.counts.valid);
    assert_eq!(count(|v| !v.valid), document.counts.invalid);
    vectors
}

impl Record {
    fn vector(&self) -> Vector {
        let vip_count = self.vips.len() + self.vips6.len();
        Vector {
            name: self.name.clone(),
            frame: bytes(&self.frame),
            valid: self.valid,
            is_captured: self.pcap.is_some(),
            is_policy: self.stage.as_deref() == Some("policy"),
            password: self.password.clone().into_bytes(),
            filter: FilterConfig {
                vip: self.vips.first().map_or([0; 4], Ipv4Addr::octets),
                group: self.mcast_group.map_or(DEFAULT_GROUP, |ip| ip.octets()),
                source: self.local_ip.map_or(UNUSED_SOURCE, |ip| ip.octets()),
                vhid: self.vhid,
                vip_count: u8::try_from(vip_count).unwrap(),
                vlan: self.vlan.unwrap_or(0),
                policy: 0,
                key: HmacKey::new(self.password.as_bytes()).unwrap(),
            },
            fields: self.fields(),
        }
    }

    fn fields(&self) -> Option<Fields> {
        Some(Fields {
            source: self.src_ip?.octets(),
            vhid: self.vhid,
            advbase: self.advbase?,
            advskew: self.advskew?,
            demote: self.demote?,
            counter: bytes(self.counter_hex.as_deref()?).try_into().unwrap(),
        })
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "{hex}");
    (0..hex.len() / 2)
        .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
        .collect()
}

/// What the default policy makes of every vector that is not simply accepted: all negatives, and the
/// valid ones that CARP in mfs-ha does not cover. Policy negatives are in [`POLICY`] as well.
#[rustfmt::skip]
const REFUSED: &[(&str, Outcome)] = &[
    // Valid, but not what is elected on.
    ("syn-three-vips",          pass(PassReason::UnsupportedVips)),
    ("syn-dual-stack",          pass(PassReason::UnsupportedVips)),
    ("syn-ipv6",                pass(PassReason::UnsupportedIpv6)),
    // The vhid is looked at before the TTL: these are ours and came from afar.
    ("neg-ttl254",              drop(DropReason::BadTtl)),
    ("neg-ttl1",                drop(DropReason::BadTtl)),
    // Both sums are wrong in the third; the IP header's is looked at first.
    ("neg-carp-cksum",          drop(DropReason::BadSum)),
    ("neg-ip-cksum",            drop(DropReason::BadIpSum)),
    ("neg-cksum-cancel",        drop(DropReason::BadIpSum)),
    ("neg-md-bitflip",          drop(DropReason::BadAuth)),
    ("neg-md-last-bit",         drop(DropReason::BadAuth)),
    ("neg-counter-changed",     drop(DropReason::BadAuth)),
    ("neg-vhid-changed",        pass(PassReason::OtherVhid)),
    ("neg-vhid0",               pass(PassReason::OtherVhid)),
    // IP header and frame agree, the payload is too small.
    ("neg-trunc-35",            drop(DropReason::BadLen)),
    ("neg-trunc-8",             drop(DropReason::BadLen)),
    ("neg-totlen-short",        drop(DropReason::BadLen)),
    // The IP header promises more than there is.
    ("neg-trunc-frame",         drop(DropReason::Truncated)),
    ("neg-totlen-long",         drop(DropReason::Truncated)),
    // Nobody can tell whose it is.
    ("neg-trunc-iphdr",         pass(PassReason::Runt)),
    ("neg-trailing-20",         drop(DropReason::TrailingBytes)),
    ("neg-trailer-fixup",       drop(DropReason::TrailingBytes)),
    ("neg-version1",            drop(DropReason::BadVersion)),
    // Version 3 on protocol 112 is VRRP, whatever the rest looks like.
    ("neg-version3",            pass(PassReason::Vrrp)),
    ("neg-type2",               drop(DropReason::BadType)),
    ("neg-type2-own-digest",    drop(DropReason::BadType)),
    // Twelve or no addresses would make another length: not VRRP.
    ("neg-authlen12",           drop(DropReason::BadAuthlen)),
    ("neg-authlen0",            drop(DropReason::BadAuthlen)),
    ("neg-ip-options",          drop(DropReason::IpOptions)),
    ("neg-ihl4",                drop(DropReason::BadIpHeader)),
    ("neg-ipv6-version-nibble", drop(DropReason::BadIpHeader)),
    ("neg-frag-first",          drop(DropReason::Fragment)),
    ("neg-frag-later",          drop(DropReason::Fragment)),
    ("neg-unicast-dst",         pass(PassReason::OtherGroup)),
    ("neg-wrong-proto",         pass(PassReason::NotCarp)),
    ("neg-own-source",          drop(DropReason::OwnSource)),
    ("neg-other-password",      drop(DropReason::BadAuth)),
    ("neg-other-vip",           drop(DropReason::BadAuth)),
    ("neg-vrrpv2-1addr",        pass(PassReason::Vrrp)),
    ("neg-vrrpv2-5addr",        pass(PassReason::Vrrp)),
    ("neg-vrrpv2-7addr",        pass(PassReason::Vrrp)),
    // CARP's very shape: the digest decides.
    ("neg-vrrpv2-7addr-noauth", drop(DropReason::BadAuth)),
    ("neg-vrrpv3-1addr",        pass(PassReason::Vrrp)),
    ("neg-vrrpv3-7addr",        pass(PassReason::Vrrp)),
    ("neg-arp",                 pass(PassReason::NotCarp)),
    // Two tags: what is behind the outer one is not looked at.
    ("neg-qinq",                pass(PassReason::NotCarp)),
];

/// Negatives that depend on a policy key, and what each position of it makes of them. An advert whose
/// counter is that of an earlier one comes after that one was accepted.
#[rustfmt::skip]
const POLICY: &[(&str, Memory, u32, Outcome)] = &[
    ("neg-trailing-20",   Memory::Empty,    0,                       drop(DropReason::TrailingBytes)),
    ("neg-trailing-20",   Memory::Empty,    ACCEPT_TRAILING_BYTES,   Outcome::Accept),
    ("neg-trailer-fixup", Memory::Empty,    0,                       drop(DropReason::TrailingBytes)),
    ("neg-trailer-fixup", Memory::Empty,    ACCEPT_TRAILING_BYTES,   Outcome::Accept),
    ("neg-replay",        Memory::Original, 0,                       Outcome::Accept),
    ("neg-replay",        Memory::Original, REJECT_REPEATED_COUNTER, drop(DropReason::RepeatedCounter)),
    ("neg-replay",        Memory::Empty,    REJECT_REPEATED_COUNTER, Outcome::Accept),
    ("neg-skew-tampered", Memory::Original, 0,                       Outcome::Accept),
    ("neg-skew-tampered", Memory::Original, REJECT_REPEATED_COUNTER, drop(DropReason::RepeatedCounter)),
    ("neg-skew-tampered", Memory::Empty,    REJECT_REPEATED_COUNTER, Outcome::Accept),
    // 44 bytes with byte 3 equal to 7 are VRRP even where trailing bytes are let through.
    ("neg-vrrpv2-7addr",  Memory::Empty,    0,                       pass(PassReason::Vrrp)),
    ("neg-vrrpv2-7addr",  Memory::Empty,    ACCEPT_TRAILING_BYTES,   pass(PassReason::Vrrp)),
];

/// What the policy negatives above were made from; both carry its counter.
const ORIGINAL: &str = "04_election_kill9#0";

/// Vectors in which nothing says protocol 112: the VLAN does not matter for them.
const NOT_PROTOCOL_112: &[&str] = &["neg-wrong-proto", "neg-arp", "neg-qinq"];

#[derive(Clone, Copy)]
enum Memory {
    /// PEERS knows nobody.
    Empty,
    /// PEERS holds the advert that the vector was made from.
    Original,
}

#[derive(Clone, Copy)]
enum Outcome {
    Accept,
    Refuse(Expected),
}

const fn pass(reason: PassReason) -> Outcome {
    Outcome::Refuse(Expected::Pass(reason))
}

const fn drop(reason: DropReason) -> Outcome {
    Outcome::Refuse(Expected::Drop(reason))
}

impl Outcome {
    fn of(self, vector: &Vector) -> Expected {
        match self {
            Self::Accept => Expected::Accept(vector.fields.unwrap()),
            Self::Refuse(expected) => expected,
        }
    }
}

/// Says what the default policy makes of a vector when PEERS is empty.
fn by_default(vector: &Vector) -> Expected {
    if matches!(vector.name.as_str(), "neg-replay" | "neg-skew-tampered") {
        return Outcome::Accept.of(vector);
    }
    let refused = REFUSED.iter().find(|(name, _)| *name == vector.name);
    assert!(
        refused.is_some() || vector.valid,
        "{}: a negative without an expectation",
        vector.name
    );
    refused
        .map_or(Outcome::Accept, |(_, outcome)| *outcome)
        .of(vector)
}

/// Returns every vector under every configuration that matters, with the verdict it has to get.
pub(crate) fn cases() -> Vec<Case> {
    let vectors = load();
    let named = |name: &str| vectors.iter().find(|v| v.name == name).unwrap();
    for (name, _) in REFUSED {
        assert_eq!(&named(name).name, name);
    }
    let mut cases = Vec::new();
    for vector in &vectors {
        assert_eq!(HmacKey::new(&vector.password), Ok(vector.filter.key));
        let case = Case {
            name: vector.name.clone(),
            frame: vector.frame.clone(),
            filter: vector.filter,
            remembered: None,
            expected: by_default(vector),
        };
        cases.extend(with_known_peers(&case));
        cases.push(case);
    }
    for (name, memory, policy, outcome) in POLICY {
        let vector = named(name);
        assert!(vector.is_policy, "{name}");
        cases.push(Case {
            name: format!("{name} under policy {policy}"),
            frame: vector.frame.clone(),
            filter: FilterConfig {
                policy: *policy,
                ..vector.filter
            },
            remembered: match memory {
                Memory::Empty => None,
                Memory::Original => Some(accepted(named(ORIGINAL))),
            },
            expected: outcome.of(vector),
        });
    }
    for vector in vectors.iter().filter(|vector| vector.is_policy) {
        let positions = POLICY.iter().filter(|(name, ..)| *name == vector.name);
        assert!(positions.count() >= 2, "{}: both positions", vector.name);
    }
    let in_vlans: Vec<Case> = cases.iter().flat_map(in_other_vlans).collect();
    cases.extend(in_vlans);
    cases
}

/// What PEERS holds after a vector was accepted.
fn accepted(vector: &Vector) -> (Ipv4, PeerState) {
    let fields = vector.fields.unwrap();
    let state = PeerState {
        last_advert_ns: 1,
        adverts: 1,
        counter: u64::from_be_bytes(fields.counter),
        advbase: fields.advbase,
        advskew: fields.advskew,
        demote: fields.demote,
        reserved: [0; 5],
    };
    (fields.source, state)
}

/// The same frame with a list of peers: with its sender on it, and without.
fn with_known_peers(case: &Case) -> Vec<Case> {
    let Expected::Accept(fields) = case.expected else {
        return Vec::new();
    };
    let filter = FilterConfig {
        policy: KNOWN_PEERS_ONLY | REJECT_REPEATED_COUNTER,
        ..case.filter
    };
    // An entry from the configuration has no advert yet: its counter of 0 is not a repetition.
    let listed = (fields.source, PeerState::default());
    let stranger = ([192, 0, 2, 1], PeerState::default());
    vec![
        Case {
            name: format!("{} from a listed peer", case.name),
            filter,
            remembered: Some(listed),
            ..case.clone()
        },
        Case {
            name: format!("{} from an unlisted peer", case.name),
            filter,
            remembered: Some(stranger),
            expected: Expected::Drop(DropReason::UnknownPeer),
            ..case.clone()
        },
    ]
}

/// The same frame in a VLAN, and seen from other VLANs.
fn in_other_vlans(case: &Case) -> Vec<Case> {
    let base_name = case.name.split(' ').next().unwrap_or_default();
    let variant = |what: &str, frame: &[u8], vlan: u16, expected: Expected| Case {
        name: format!("{}, {what}", case.name),
        frame: frame.to_vec(),
        filter: FilterConfig {
            vlan,
            ..case.filter
        },
        remembered: case.remembered,
        expected,
    };
    let seen_elsewhere = if NOT_PROTOCOL_112.contains(&base_name) {
        case.expected
    } else {
        Expected::Pass(PassReason::OtherVlan)
    };
    let frame = &case.frame;
    let mut variants = vec![
        variant("any VLAN", frame, VLAN_ANY, case.expected),
        variant("seen from another VLAN", frame, OTHER_VLAN, seen_elsewhere),
    ];
    if is_tagged(frame) {
        return variants;
    }
    let tagged = tagged(frame, TAG_PRIORITY | VLAN);
    let priority_tagged = self::tagged(frame, TAG_PRIORITY);
    variants.extend([
        variant("tagged", &tagged, VLAN, case.expected),
        variant("tagged, any VLAN", &tagged, VLAN_ANY, case.expected),
        variant("tagged, other VLAN", &tagged, OTHER_VLAN, seen_elsewhere),
        variant("tagged, no VLAN", &tagged, 0, seen_elsewhere),
        variant("priority tag", &priority_tagged, 0, case.expected),
    ]);
    variants
}

fn is_tagged(frame: &[u8]) -> bool {
    TAGS.iter().any(|tag| frame.get(12..14) == Some(&tag[..]))
}

/// Inserts an 802.1Q tag after the addresses.
pub(crate) fn tagged(frame: &[u8], tci: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    let tag = [[0x81, 0x00], tci.to_be_bytes()].concat();
    [addresses, &tag, rest].concat()
}
