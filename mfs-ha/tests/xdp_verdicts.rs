//! The loaded XDP program gives the verdict that the host gives, on every vector and on random frames.
//!
//! Frames run through `BPF_PROG_TEST_RUN` on the real kernel. It needs root and a BPF file system, and
//! fails without them. The kernel refuses test frames of less than 14 bytes, so shorter ones are for the
//! host's tests only.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "xdp_verdicts/members.rs"]
mod members;
#[path = "../../tests/vectors/vectors.rs"]
mod vectors;

use std::path::PathBuf;

use aya::maps::{HashMap, Map, MapData};
use aya::{TestRun as _, TestRunOptions};
use mfs_ha::bpf::{self, Maps, Program};
use mfs_ha::clock;
use mfs_ha_common::carp::auth::HmacKey;
use mfs_ha_common::carp::checksum;
use mfs_ha_common::cluster::NodeId;
use mfs_ha_common::filter::{
    ACCEPT_TRAILING_BYTES, FilterConfig, REJECT_REPEATED_COUNTER, VLAN_ANY,
};
use mfs_ha_common::member::{MemberState, MismatchState};
use mfs_ha_common::net::Ipv4;
use mfs_ha_common::peer::{LastAdvert, PeerState, Peers};
use mfs_ha_common::record::{AdvertRecord, Record};
use mfs_ha_common::stats::Stats;
use mfs_ha_common::validate::{Delivery, Verdict, validate};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use vectors::{Case, Expected, Fields};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const FRAME_MIN: usize = 14;
const RANDOM_FRAMES: u32 = 20_000;

/// The program, and some of its maps as anybody may open them.
struct Kernel {
    program: Program,
    maps: Maps,
    peers: HashMap<MapData, [u8; 4], [u8; size_of::<PeerState>()]>,
    members: HashMap<MapData, [u8; 2], [u8; size_of::<MemberState>()]>,
    mismatches: HashMap<MapData, [u8; 1], [u8; size_of::<MismatchState>()]>,
    counted: Stats,
}

/// What the kernel did with a frame.
#[derive(Debug, PartialEq, Eq)]
struct Observed {
    action: u32,
    counter: &'static str,
    record: Option<Record>,
}

impl Kernel {
    fn load(test: &str) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "needs root: it loads an eBPF program into the kernel"
        );
        let pins = PathBuf::from(format!(
            "{}/mfs-ha/test-{test}-{}",
            bpf::BPFFS,
            std::process::id()
        ));
        let others = members::OTHERS.map(|id| NodeId::new(id).unwrap());
        let configured = bpf::Configured {
            peers: &[],
            members: &others,
        };
        let (program, maps) = bpf::load(Some(&pins), &configured).unwrap_or_else(|error| {
            panic!("{:#}", anyhow::Error::from(error));
        });
        let pinned = |name| Map::HashMap(MapData::from_pin(pins.join(name)).unwrap());
        let counted = maps.stats.read().unwrap();
        Self {
            program,
            maps,
            peers: HashMap::try_from(pinned("peers")).unwrap(),
            members: HashMap::try_from(pinned("members")).unwrap(),
            mismatches: HashMap::try_from(pinned("mismatches")).unwrap(),
            counted,
        }
    }

    fn remember(&mut self, entry: Option<(Ipv4, PeerState)>) {
        let known: Vec<[u8; 4]> = self.peers.keys().map(Result::unwrap).collect();
        for key in known {
            self.peers.remove(&key).unwrap();
        }
        if let Some((source, state)) = entry {
            let bytes: [u8; size_of::<PeerState>()] = bytemuck::cast(state);
            self.peers.insert(source, bytes, 0).unwrap();
        }
    }

    fn peer(&self, source: Ipv4) -> PeerState {
        bytemuck::cast(self.peers.get(&source, 0).unwrap())
    }

    fn run(&mut self, frame: &[u8]) -> Observed {
        let options = TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::default()
        };
        let result = self.program.xdp().unwrap().test_run(options).unwrap();
        let now = self.maps.stats.read().unwrap();
        let changed: Vec<&'static str> = now
            .fields()
            .zip(self.counted.fields())
            .filter(|(after, before)| after != before)
            .inspect(|((name, after), (_, before))| assert_eq!(*after, before + 1, "{name}"))
            .map(|((name, _), _)| name)
            .collect();
        self.counted = now;
        let [counter] = changed[..] else {
            panic!("one counter for one frame, not {changed:?}");
        };
        let record = self
            .maps
            .records
            .next()
            .map(|item| Record::parse(&item).unwrap());
        assert!(self.maps.records.next().is_none(), "one record at most");
        Observed {
            action: result.return_value,
            counter,
            record,
        }
    }
}

struct Remembered(Option<(Ipv4, PeerState)>);

impl Peers for Remembered {
    fn find(&self, source: Ipv4) -> Option<LastAdvert> {
        let (remembered, state) = self.0?;
        (remembered == source).then_some(LastAdvert {
            adverts: state.adverts,
            counter: state.counter,
        })
    }
}

fn action_and_counter(verdict: Verdict) -> (u32, &'static str) {
    match verdict {
        Verdict::Pass(reason) => (XDP_PASS, reason.name()),
        Verdict::Drop(reason) | Verdict::Mismatch(reason, _) => (XDP_DROP, reason.name()),
        Verdict::Heartbeat(_) => (XDP_DROP, "accepted_heartbeats"),
        Verdict::Accept(accepted) => match accepted.delivery {
            Delivery::PassOn => (XDP_PASS, "accepted"),
            Delivery::Consume => (XDP_DROP, "accepted"),
        },
    }
}

fn recorded_fields(record: &AdvertRecord) -> Fields {
    Fields {
        source: record.source,
        vhid: record.vhid,
        advbase: record.advbase,
        advskew: record.advskew,
        demote: record.demote,
        counter: record.counter,
    }
}

fn check(kernel: &mut Kernel, case: &Case) {
    let name = &case.name;
    let host = validate(
        case.frame.as_slice(),
        &case.filter,
        &Remembered(case.remembered),
        &(),
    );
    kernel.maps.config.write(case.filter).unwrap();
    kernel.remember(case.remembered);
    let before = clock::now();
    let observed = kernel.run(&case.frame);
    let after = clock::now();
    let (action, counter) = action_and_counter(host);
    assert_eq!(
        (observed.action, observed.counter),
        (action, counter),
        "{name}"
    );
    match case.expected {
        Expected::Pass(reason) => {
            assert_eq!((action, counter), (XDP_PASS, reason.name()), "{name}")
        }
        Expected::Drop(reason) => {
            assert_eq!((action, counter), (XDP_DROP, reason.name()), "{name}")
        }
        Expected::Accept(fields) => {
            assert_eq!(counter, "accepted", "{name}");
            let Some(Record::Advert(record)) = observed.record else {
                panic!("{name}: {:?}", observed.record);
            };
            assert_eq!(recorded_fields(&record), fields, "{name}");
            assert_eq!(record.mac[..], case.frame[6..12], "{name}");
            assert!((before..=after).contains(&record.arrival()), "{name}");
            let peer = kernel.peer(fields.source);
            assert_eq!(peer.last_advert_ns, record.arrival_ns, "{name}");
            assert_eq!(peer.counter, u64::from_be_bytes(fields.counter), "{name}");
            let remembered = case
                .remembered
                .filter(|(source, _)| *source == fields.source);
            let adverts = remembered.map_or(0, |(_, state)| state.adverts);
            assert_eq!(peer.adverts, adverts + 1, "{name}");
            return;
        }
    }
    assert_eq!(observed.record, None, "{name}");
}

#[test]
fn kernel_host_and_table_agree_on_every_vector() {
    let mut kernel = Kernel::load("vectors");
    let cases = vectors::cases();
    for case in &cases {
        check(&mut kernel, case);
    }
    println!("{} frames under their configurations", cases.len());
}

/// An advert frame, one of the recorded ones or any bytes, with some bytes changed and sums repaired or
/// not, under some policy.
fn frames() -> impl Strategy<Value = (Vec<u8>, u32, u16)> {
    let recorded: Vec<Vec<u8>> = vectors::load().into_iter().map(|v| v.frame).collect();
    let start = prop_oneof![
        6 => proptest::sample::select(recorded),
        1 => proptest::collection::vec(any::<u8>(), FRAME_MIN..200),
    ];
    let changes = proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4);
    let length = proptest::option::weighted(0.2, FRAME_MIN..120_usize);
    let policy = 0..8_u32;
    let vlan = prop_oneof![4 => Just(0_u16), 1 => Just(VLAN_ANY), 1 => Just(5)];
    (start, changes, length, any::<bool>(), policy, vlan).prop_map(
        |(mut frame, changes, length, repairs, policy, vlan)| {
            for (index, value) in changes {
                let at = index.index(frame.len());
                frame[at] = value;
            }
            if let Some(length) = length {
                frame.resize(length, 0);
            }
            if repairs {
                repair_sums(&mut frame);
            }
            (frame, policy, vlan)
        },
    )
}

/// Makes both checksums right, so that what is behind them is reached.
fn repair_sums(frame: &mut [u8]) {
    let network = if frame.get(12..14) == Some(&[0x81, 0]) {
        18
    } else {
        14
    };
    for (at, field, len) in [(network, 10, 20), (network + 20, 6, 36)] {
        let Some(header) = frame.get_mut(at..at + len) else {
            return;
        };
        header[field..field + 2].fill(0);
        let sum = match len {
            20 => checksum::compute::<20>((&*header).try_into().unwrap()),
            _ => checksum::compute::<36>((&*header).try_into().unwrap()),
        };
        header[field..field + 2].copy_from_slice(&sum);
    }
}

#[test]
fn kernel_and_host_agree_on_mutated_and_random_frames() {
    let mut kernel = Kernel::load("random");
    let mut runner = TestRunner::new(ProptestConfig {
        cases: RANDOM_FRAMES,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let kernel = std::cell::RefCell::new(&mut kernel);
    let count = std::cell::Cell::new(0_u32);
    runner
        .run(&frames(), |(frame, policy, vlan)| {
            let mut kernel = kernel.borrow_mut();
            let filter = FilterConfig {
                vip: [10, 77, 0, 100],
                group: [224, 0, 0, 18],
                source: [10, 77, 0, 9],
                vhid: 10,
                vip_count: 1,
                vlan,
                policy: policy & (ACCEPT_TRAILING_BYTES | REJECT_REPEATED_COUNTER),
                key: HmacKey::new(b"electpw").unwrap(),
            };
            let remembered = (policy & 4 != 0).then(|| {
                let state = PeerState {
                    adverts: 1,
                    counter: 0x8152_a536_fd56_1151,
                    ..PeerState::default()
                };
                ([10, 77, 0, 1], state)
            });
            kernel.maps.config.write(filter).unwrap();
            kernel.remember(remembered);
            let host = validate(frame.as_slice(), &filter, &Remembered(remembered), &());
            let observed = kernel.run(&frame);
            prop_assert_eq!(
                (observed.action, observed.counter),
                action_and_counter(host)
            );
            prop_assert_eq!(observed.record.is_some(), observed.counter == "accepted");
            count.set(count.get() + u32::from(observed.record.is_some()));
            Ok(())
        })
        .unwrap();
    println!("{RANDOM_FRAMES} frames, {} of them accepted", count.get());
    assert!(
        count.get() > RANDOM_FRAMES / 100,
        "too few get through to the digest"
    );
}

#[test]
fn before_configuration_nothing_is_ours() {
    let kernel = Kernel::load("unconfigured");
    let vector = vectors::load().remove(0);
    let options = TestRunOptions {
        data_in: Some(&vector.frame),
        ..TestRunOptions::default()
    };
    let result = kernel.program.xdp().unwrap().test_run(options).unwrap();
    assert_eq!(result.return_value, XDP_PASS);
    assert_eq!(kernel.maps.stats.read().unwrap(), Stats::default());
}

#[test]
fn a_full_ring_buffer_loses_records_but_no_arrival() {
    let mut kernel = Kernel::load("full-ring");
    let vector = vectors::load().remove(0);
    kernel.maps.config.write(vector.filter).unwrap();
    let options = TestRunOptions {
        data_in: Some(&vector.frame),
        repeat: 20_000,
        ..TestRunOptions::default()
    };
    kernel.program.xdp().unwrap().test_run(options).unwrap();
    let stats = kernel.maps.stats.read().unwrap();
    assert_eq!(stats.accepted, 20_000);
    let mut records = 0;
    let mut last_record = None;
    while let Some(item) = kernel.maps.records.next() {
        last_record = Some(AdvertRecord::parse(&item).unwrap());
        records += 1;
    }
    assert_eq!(stats.ring_full, 20_000 - records);
    assert!(stats.ring_full > 0 && records > 1000, "{records}");
    let peer = kernel.peer(vector.fields.unwrap().source);
    assert_eq!(peer.adverts, 20_000);
    assert!(peer.last_advert_ns > last_record.unwrap().arrival_ns);
}

#[test]
fn a_full_peer_table_still_reports_adverts() {
    let mut kernel = Kernel::load("full-peers");
    let vector = vectors::load().remove(0);
    kernel.maps.config.write(vector.filter).unwrap();
    for last in 0..mfs_ha_common::peer::PEERS_MAX {
        let source = [192, 0, 2, u8::try_from(last).unwrap()];
        kernel
            .peers
            .insert(source, [0; size_of::<PeerState>()], 0)
            .unwrap();
    }
    let options = TestRunOptions {
        data_in: Some(&vector.frame),
        ..TestRunOptions::default()
    };
    kernel.program.xdp().unwrap().test_run(options).unwrap();
    let stats = kernel.maps.stats.read().unwrap();
    assert_eq!((stats.accepted, stats.peers_full), (1, 1));
    assert!(kernel.maps.records.next().is_some());
}
