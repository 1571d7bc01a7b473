//! Heartbeats and adverts with a trailer: the table of `tests/vectors/cluster.rs`, mutated and random
//! frames, and what the program remembers of members.

#[path = "../../../tests/vectors/cluster.rs"]
mod cluster;

use cluster::{Case, Expected};
use mfs_ha::clock;
use mfs_ha_common::filter::PREVIOUS_KEY;
use mfs_ha_common::gate::{Fence, LeaseState};
use mfs_ha_common::heartbeat::{BODY_LEN, FLAGS_AT, Flags, REQUEST_AT, Stamp};
use mfs_ha_common::member::{Claim, MemberKey, MemberState, MismatchKey, MismatchState};
use mfs_ha_common::record::{HeartbeatRecord, KIND_HEARTBEAT, Record};
use mfs_ha_common::stats::DropReason;
use mfs_ha_common::time::Timestamp;
use mfs_ha_common::validate::Verdict;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;

use super::{FRAME_MIN, Kernel, RANDOM_FRAMES, XDP_DROP, XDP_PASS, action_and_counter};

/// The configured members besides the node that runs.
pub(crate) const OTHERS: [u8; 2] = [2, 3];

impl Kernel {
    /// Configures the program and its memory for one case.
    fn prepare(&mut self, case: &Case) {
        self.maps.config.write(case.filter).unwrap();
        self.maps.cluster.write(case.cluster).unwrap();
        self.remember(None);
        for (key, last) in &case.members {
            let state = MemberState {
                boot: last.boot,
                sequence: last.sequence,
                ..MemberState::default()
            };
            let bytes: [u8; size_of::<MemberState>()] = bytemuck::cast(state);
            self.members
                .insert([key.node, key.class], bytes, 0)
                .unwrap();
        }
        for id in OTHERS {
            let free = [0; size_of::<MismatchState>()];
            self.mismatches.insert([id], free, 0).unwrap();
        }
    }

    /// What MEMBERS holds and differs from the case's.
    fn changed_members(&self, case: &Case) -> Vec<(MemberKey, MemberState)> {
        let mut entries = self.maps.members.read().unwrap();
        assert_eq!(entries.len(), case.members.len(), "{}", case.name);
        entries.retain(|(key, state)| {
            let before = case.members.iter().find(|(known, _)| known == key).unwrap();
            *state
                != MemberState {
                    boot: before.1.boot,
                    sequence: before.1.sequence,
                    ..MemberState::default()
                }
        });
        entries
    }

    /// What MISMATCHES holds that was not empty before.
    fn noted(&self) -> Vec<(MismatchKey, MismatchState)> {
        let mut entries = self.maps.mismatches.read().unwrap();
        assert_eq!(entries.len(), OTHERS.len());
        entries.retain(|(_, state)| *state != MismatchState::default());
        entries
    }
}

/// What has to be noted of a refusal between two times; the time itself is taken over.
fn expected_note(reason: DropReason, claim: Claim, noted: &MismatchState) -> MismatchState {
    let at = noted
        .last_bad_tag_ns
        .max(noted.last_other_cluster_ns)
        .max(noted.last_other_version_ns);
    let mut expected = MismatchState::default();
    expected.note(reason, &claim, Timestamp::from_nanos(at));
    expected
}

/// Compares the record with the verdict, and returns what MEMBERS has to hold.
fn heard(
    case: &Case,
    verdict: Verdict,
    record: Option<&Record>,
) -> Option<(MemberKey, Stamp, Timestamp)> {
    let name = &case.name;
    let frame = case.frame.as_slice();
    match (verdict, record) {
        (Verdict::Heartbeat(accepted), Some(Record::Heartbeat(record))) => {
            let body_at = accepted.body_at();
            let expected = HeartbeatRecord {
                kind: KIND_HEARTBEAT,
                ifindex: record.ifindex,
                arrival_ns: record.arrival_ns,
                source: accepted.source(frame).unwrap(),
                key: accepted.key,
                reserved: [0; 7],
                body: frame[body_at..body_at + BODY_LEN].try_into().unwrap(),
            };
            assert_eq!(*record, expected, "{name}");
            let key = MemberKey::heartbeat(accepted.sender);
            Some((key, accepted.stamp(frame).unwrap(), record.arrival()))
        }
        (Verdict::Accept(accepted), Some(Record::Advert(record))) => {
            let node = accepted.extension.map_or(0, |extension| extension.node);
            assert_eq!(record.node, node, "{name}");
            accepted.extension.map(|extension| {
                let key = MemberKey::advert(node);
                (key, extension.stamp(frame).unwrap(), record.arrival())
            })
        }
        (Verdict::Pass(_) | Verdict::Drop(_) | Verdict::Mismatch(..), None) => None,
        (verdict, record) => panic!("{name}: {verdict:?}, but {record:?}"),
    }
}

/// Compares everything that a frame leaves behind in the kernel with the host's verdict.
fn check(kernel: &mut Kernel, case: &Case) -> Verdict {
    let name = &case.name;
    let verdict = case.judge();
    kernel.prepare(case);
    let before = clock::now();
    let observed = kernel.run(&case.frame);
    let after = clock::now();
    let (action, counter) = action_and_counter(verdict);
    let seen = (observed.action, observed.counter);
    assert_eq!(seen, (action, counter), "{name}: {verdict:?}");

    let heard = heard(case, verdict, observed.record.as_ref());
    let changed = kernel.changed_members(case);
    let noted = kernel.noted();
    match (heard, changed.as_slice()) {
        (None, []) => {}
        (Some((key, stamp, arrival)), [(changed, state)]) => {
            assert!((before..=after).contains(&arrival), "{name}");
            let expected = MemberState {
                last_arrival_ns: arrival.as_nanos(),
                boot: stamp.boot,
                sequence: stamp.sequence,
                accepted: 1,
                ..*state
            };
            assert_eq!((*changed, *state), (key, expected), "{name}");
        }
        (heard, changed) => panic!("{name}: {heard:?}, but {changed:?}"),
    }
    match (verdict, noted.as_slice()) {
        (Verdict::Mismatch(reason, claimed), [(key, state)]) => {
            let claim = claimed.read(case.frame.as_slice());
            assert_eq!(key.node, claim.node, "{name}");
            assert_eq!(*state, expected_note(reason, claim, state), "{name}");
        }
        // Who is no member leaves no trace.
        (Verdict::Mismatch(_, claimed), []) => {
            let claim = claimed.read(case.frame.as_slice());
            assert!(!OTHERS.contains(&claim.node), "{name}");
        }
        (_, noted) => assert_eq!(noted, [], "{name}"),
    }
    verdict
}

#[test]
fn kernel_host_and_table_agree_on_every_case_of_the_cluster() {
    let mut kernel = Kernel::load("cluster");
    let cases = cluster::cases();
    for case in &cases {
        let verdict = check(&mut kernel, case);
        let name = &case.name;
        match (case.expected, verdict) {
            (Expected::Pass(expected), Verdict::Pass(reason)) => assert_eq!(reason, expected),
            (Expected::Drop(expected), Verdict::Drop(reason)) => assert_eq!(reason, expected),
            (Expected::Mismatch(expected, claim), Verdict::Mismatch(reason, found)) => {
                let found = found.read(case.frame.as_slice());
                assert_eq!((reason, found), (expected, claim), "{name}");
            }
            (Expected::Heartbeat { sender, key, .. }, Verdict::Heartbeat(accepted)) => {
                assert_eq!((accepted.sender, accepted.key), (sender, key), "{name}");
            }
            (Expected::Advert { extension }, Verdict::Accept(accepted)) => {
                let node = accepted.extension.map(|extension| extension.node);
                assert_eq!(node, extension.map(|(node, _)| node), "{name}");
            }
            (expected, verdict) => panic!("{name}: {verdict:?}, not {expected:?}"),
        }
    }
    println!("{} frames under their configurations", cases.len());
}

/// The program itself remembers: what it took once, and everything before, is refused from then on.
#[test]
fn a_frame_is_accepted_once() {
    let mut kernel = Kernel::load("once");
    let mut case = cluster::example();
    kernel.prepare(&case);
    let (heartbeat, advert) = (cluster::heartbeat_ipv4(), cluster::extended_advert());
    let mut older = heartbeat.clone();
    // The last byte of the round's number.
    older[42 + 31] -= 1;
    cluster::sign(&mut older, *b"@ABCDEFGHIJKLMNO");
    let mut newer = older.clone();
    newer[42 + 31] += 2;
    cluster::sign(&mut newer, *b"previous--------");
    for (frame, action, counter) in [
        (&heartbeat, XDP_DROP, "accepted_heartbeats"),
        (&heartbeat, XDP_DROP, "replayed"),
        (&cluster::heartbeat_ipv6(), XDP_DROP, "replayed"),
        (&older, XDP_DROP, "replayed"),
        (&advert, XDP_PASS, "accepted"),
        (&advert, XDP_DROP, "trailer_replayed"),
        (&newer, XDP_DROP, "accepted_heartbeats"),
        (&heartbeat, XDP_DROP, "replayed"),
    ] {
        let observed = kernel.run(frame);
        assert_eq!((observed.action, observed.counter), (action, counter));
    }
    // A key that is taken back is not taken any more, and no memory of a forgery stays in MEMBERS.
    case.cluster.policy &= !PREVIOUS_KEY;
    kernel.maps.cluster.write(case.cluster).unwrap();
    newer[42 + 31] += 1;
    cluster::sign(&mut newer, *b"previous--------");
    assert_eq!(kernel.run(&newer).counter, "bad_tag");
    cluster::sign(&mut newer, *b"@ABCDEFGHIJKLMNO");
    assert_eq!(kernel.run(&newer).counter, "accepted_heartbeats");
    let members = kernel.maps.members.read().unwrap();
    let heard = |key| members.iter().find(|(known, _)| *known == key).unwrap().1;
    assert_eq!(heard(MemberKey::heartbeat(2)).accepted, 3);
    assert_eq!(heard(MemberKey::advert(2)).accepted, 1);
    assert_eq!(heard(MemberKey::heartbeat(3)), MemberState::default());
}

/// Rule G6: who holds a higher epoch closes the gate here, without the daemon.
#[test]
fn a_holder_of_a_higher_epoch_raises_the_fence() {
    const OWN: u64 = 7;
    let mut kernel = Kernel::load("fence");
    kernel.prepare(&cluster::example());
    let lease = LeaseState {
        epoch: OWN,
        ..LeaseState::default()
    };
    kernel.maps.lease.write(lease).unwrap();
    let body = 42;
    let mut said = |flags: Flags, epoch: u64, round: u8| {
        let mut frame = cluster::heartbeat_ipv4();
        frame[body + 31] = round;
        let flags = flags.to_wire();
        frame[body + FLAGS_AT..body + FLAGS_AT + 2].copy_from_slice(&flags);
        frame[body + REQUEST_AT..body + REQUEST_AT + 8].copy_from_slice(&epoch.to_be_bytes());
        cluster::sign(&mut frame, *b"@ABCDEFGHIJKLMNO");
        let before = clock::now().as_nanos();
        assert_eq!(kernel.run(&frame).counter, "accepted_heartbeats");
        let fence = kernel.maps.fence.read().unwrap();
        (fence, fence.since_ns >= before)
    };
    let none = (Fence::default(), false);
    assert_eq!(said(Flags::HELD, OWN + 1, 0xf0), none, "only asked for");
    let (fence, is_new) = said(Flags::HOLDS, OWN + 1, 0xf1);
    assert_eq!((fence.epoch, fence.node, is_new), (OWN + 1, 2, true));
    assert_eq!(said(Flags::HOLDS, OWN, 0xf2), (fence, false));
    // The same holder again is younger, and not new.
    let (again, is_new) = said(Flags::HOLDS, OWN + 1, 0xf3);
    assert!(again.heard_ns > fence.heard_ns);
    let fence = Fence {
        heard_ns: again.heard_ns,
        ..fence
    };
    assert_eq!((again, is_new), (fence, false));
    assert_eq!(
        said(Flags::HOLDS, u64::MAX, 0xf4),
        (fence, false),
        "no number"
    );
    let (fence, is_new) = said(Flags::HOLDS, OWN + 9, 0xf5);
    assert_eq!((fence.epoch, is_new), (OWN + 9, true));
}

#[test]
fn a_node_without_a_vhid_hears_heartbeats() {
    let mut kernel = Kernel::load("witness");
    let mut case = cluster::example();
    case.filter.vhid = 0;
    kernel.prepare(&case);
    let observed = kernel.run(&case.frame);
    assert_eq!(observed.counter, "accepted_heartbeats");
    let advert = kernel.run(&cluster::extended_advert());
    assert_eq!((advert.action, advert.counter), (XDP_PASS, "other_vhid"));
}

/// What is done to a good frame, and what it then meets.
#[derive(Debug)]
struct Trial {
    kind: u8,
    vlan: Option<u16>,
    changes: Vec<(Index, u8)>,
    length: Option<usize>,
    signs: u8,
    policy: u32,
    trailing: bool,
    receiver_vlan: u16,
    last: (u64, u64),
}

fn trials() -> impl Strategy<Value = Trial> {
    let frame = (
        0_u8..4,
        proptest::option::weighted(0.3, prop_oneof![Just(5_u16), any::<u16>()]),
        proptest::collection::vec((any::<Index>(), any::<u8>()), 0..3),
        proptest::option::weighted(0.1, FRAME_MIN..260_usize),
    );
    let receiver = (
        0_u8..4,
        prop_oneof![3 => Just(0b1011_u32), 1 => 0_u32..16],
        any::<bool>(),
        prop_oneof![4 => Just(0xffff_u16), 1 => Just(0), 1 => Just(5)],
        (prop_oneof![3 => 0_u64..8, 1 => any::<u64>()], any::<u16>()),
    );
    (frame, receiver).prop_map(
        |((kind, vlan, changes, length), (signs, policy, trailing, receiver_vlan, last))| Trial {
            kind,
            vlan,
            changes,
            length,
            signs,
            policy,
            trailing,
            receiver_vlan,
            last: (last.0, last.1.into()),
        },
    )
}

impl Trial {
    fn case(&self) -> Case {
        let mut case = cluster::example();
        let mut frame = match self.kind {
            0 => cluster::heartbeat_ipv4(),
            1 => cluster::heartbeat_ipv6(),
            _ => cluster::extended_advert(),
        };
        for (index, value) in &self.changes {
            let at = index.index(frame.len() - 12) + 12;
            frame[at] = *value;
        }
        let key = if self.signs == 1 {
            *b"@ABCDEFGHIJKLMNO"
        } else {
            *b"previous--------"
        };
        match (self.signs, self.kind) {
            (0, _) => {}
            (_, 0 | 1) => cluster::sign(&mut frame, key),
            _ => cluster::sign_advert(&mut frame, key),
        }
        if let Some(vlan) = self.vlan {
            let [high, low] = vlan.to_be_bytes();
            frame.splice(12..12, [0x81, 0, high, low]);
        }
        if let Some(length) = self.length {
            frame.resize(length, 0);
        }
        case.frame = frame;
        case.cluster.policy = self.policy;
        case.cluster.vlan = self.receiver_vlan;
        case.filter.policy = self.trailing.into();
        for (_, last) in &mut case.members {
            (last.boot, last.sequence) = self.last;
        }
        case.name = format!("{self:?}");
        case
    }
}

#[test]
fn kernel_and_host_agree_on_mutated_frames_of_the_cluster() {
    let kernel = std::cell::RefCell::new(Kernel::load("mutated"));
    let accepted = std::cell::Cell::new((0_u32, 0_u32));
    let mut runner = TestRunner::new(ProptestConfig {
        cases: RANDOM_FRAMES,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&trials(), |trial| {
            let (heartbeats, adverts) = accepted.get();
            match check(&mut kernel.borrow_mut(), &trial.case()) {
                Verdict::Heartbeat(_) => accepted.set((heartbeats + 1, adverts)),
                Verdict::Accept(_) => accepted.set((heartbeats, adverts + 1)),
                Verdict::Pass(_) | Verdict::Drop(_) | Verdict::Mismatch(..) => {}
            }
            Ok(())
        })
        .unwrap();
    let (heartbeats, adverts) = accepted.get();
    println!("{RANDOM_FRAMES} frames, {heartbeats} heartbeats and {adverts} adverts accepted");
    let least = RANDOM_FRAMES / 50;
    assert!(
        heartbeats > least && adverts > least,
        "{heartbeats}, {adverts}"
    );
}
