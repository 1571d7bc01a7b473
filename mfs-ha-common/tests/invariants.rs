//! Generated sequences of events on one node: every step keeps the invariants of `support/checked.rs`.

#[path = "support/checked.rs"]
mod checked;
#[path = "support/history.rs"]
mod history;

use std::num::NonZeroU8;
use std::time::Duration;

use checked::advert;
use history::{BOOTED, Happening, Heard, OWN_SOURCE, Pause, Run, SOURCES};
use mfs_ha_common::election::State;
use mfs_ha_common::election::carp::Settings;
use mfs_ha_common::event::Event;
use mfs_ha_common::node::NodeConfig;
use mfs_ha_common::priority::Priority;
use mfs_ha_common::promotion::Service;
use proptest::prelude::*;

fn configuration(cases: u32) -> ProptestConfig {
    let is_long = std::env::var_os("MFS_HA_LONG").is_some();
    ProptestConfig {
        cases: if is_long { cases * 10 } else { cases },
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn pauses() -> impl Strategy<Value = Pause> {
    prop_oneof![
        4 => Just(Pause::None),
        2 => (0_u32..2000).prop_map(Pause::Micros),
        4 => (0_u32..2000).prop_map(Pause::Millis),
        1 => (0_u16..40).prop_map(Pause::Seconds),
        2 => Just(Pause::BeforeDeadline),
        5 => Just(Pause::AtDeadline),
        2 => (0_u32..300_000).prop_map(|micros| Pause::AfterDeadline { micros }),
    ]
}

fn happenings() -> impl Strategy<Value = Happening> {
    let heard = prop_oneof![
        2 => Just(Heard::Same),
        4 => (-3_i8..=3).prop_map(Heard::Shifted),
        1 => Just(Heard::BowOut),
        2 => any::<(u8, u8)>().prop_map(|(base, skew)| Heard::Any(base, skew)),
        1 => (0_u8..4, any::<u8>()).prop_map(|(base, skew)| Heard::Any(base, skew)),
    ];
    let adverts = (
        0..SOURCES.len(),
        heard,
        prop_oneof![3 => Just(0_u16), 1 => 0_u16..5000],
    )
        .prop_map(|(source, priority, age_ms)| Happening::Advert {
            source,
            priority,
            age_ms,
        });
    prop_oneof![
        10 => adverts,
        14 => Just(Happening::Tick),
        2 => Just(Happening::LinkUp),
        1 => Just(Happening::LinkDown),
        1 => Just(Happening::AdvertSent),
        2 => Just(Happening::SendFailed),
        1 => any::<bool>().prop_map(Happening::VipSet),
        1 => any::<bool>().prop_map(Happening::VipFailed),
        5 => Just(Happening::VipObeys),
        1 => Just(Happening::VipRefuses),
        14 => Just(Happening::StepObeys),
        1 => Just(Happening::StepRefuses),
        1 => (1_u32..4).prop_map(Happening::StaleDone),
        1 => (1_u32..4).prop_map(Happening::StaleFailed),
        1 => Just(Happening::MasterLost),
        2 => any::<bool>().prop_map(Happening::Readiness),
        1 => Just(Happening::Stop),
    ]
}

/// A promotion in which nothing goes wrong, and another one after the metadata master died.
fn beginning() -> Vec<(Pause, Happening)> {
    let promotion = [(Pause::Millis(5), Happening::StepObeys); 7];
    let served = [(Pause::Millis(1), Happening::VipObeys)];
    let start = [
        (Pause::None, Happening::Readiness(true)),
        (Pause::None, Happening::LinkUp),
        (Pause::None, Happening::VipObeys),
        (Pause::AtDeadline, Happening::Tick),
    ];
    let lost = [(Pause::Millis(2), Happening::MasterLost)];
    let again = [&promotion[..], &served];
    [&start[..], &again.concat(), &lost, &again.concat()].concat()
}

fn services() -> impl Strategy<Value = Service> {
    let limits = (0_u64..40, 0_u64..40).prop_map(|(stage, start)| Service::Metadata {
        stage_limit: Duration::from_secs(stage),
        start_limit: Duration::from_secs(start),
    });
    prop_oneof![1 => Just(Service::Vip), 1 => Just(Service::METADATA), 1 => limits]
}

fn configs() -> impl Strategy<Value = NodeConfig> {
    let priorities = prop_oneof![
        (0_u8..3, prop_oneof![1_u8..60, 230_u8..=254]),
        (1_u8.., 0_u8..=254),
    ];
    (
        priorities,
        prop_oneof![4 => 1_u8..5, 1 => 1_u8..],
        any::<[bool; 3]>(),
        services(),
    )
        .prop_map(
            |((advbase, advskew), deadratio, [preempt, has_sole_peer, neutral], service)| {
                NodeConfig {
                    election: Settings {
                        priority: Priority::new(advbase, advskew),
                        deadratio: NonZeroU8::new(deadratio).unwrap_or(NonZeroU8::MIN),
                        preempt,
                        source: OWN_SOURCE,
                        has_sole_peer,
                    },
                    quorum: None,
                    is_gated: false,
                    neutral,
                    service,
                }
            },
        )
}

proptest! {
    #![proptest_config(configuration(1500))]

    #[test]
    fn every_sequence_keeps_the_invariants(
        config in configs(),
        healthy in prop_oneof![2 => Just(0_usize), 3 => 0_usize..22],
        steps in prop::collection::vec((pauses(), happenings()), 1..80),
    ) {
        let mut run = Run::new(config);
        for (pause, happening) in beginning().into_iter().take(healthy) {
            run.pass(pause);
            let event = run.event(happening);
            run.step(event);
        }
        for (pause, happening) in steps {
            run.pass(pause);
            let event = run.event(happening);
            run.step(event);
        }
    }

    /// The same events give the same actions, whatever ticks come in between before a deadline.
    #[test]
    fn early_and_repeated_ticks_change_nothing(
        config in configs(),
        steps in prop::collection::vec((pauses(), happenings()), 1..40),
        ticks in 1_usize..4,
    ) {
        let mut run = Run::new(config);
        let mut disturbed = Run::new(config);
        for (pause, happening) in steps {
            run.pass(pause);
            let event = run.event(happening);
            run.step(event);
            disturbed.now = run.now;
            disturbed.step(event);
            prop_assert_eq!(&run.actions, &disturbed.actions);
            // Only adverts may leave a deadline behind that has passed: for the tick to judge.
            if disturbed.deadline().is_none_or(|at| at > disturbed.now) {
                for _ in 0..ticks {
                    disturbed.step(Event::Tick);
                    prop_assert!(disturbed.actions.is_empty());
                }
            }
            prop_assert_eq!(run.node.status(), disturbed.node.status());
        }
    }
}

/// However long nothing but time passes, a lone node becomes master, stays it and serves.
#[test]
fn a_lone_node_becomes_master_within_the_bound() {
    for (advbase, advskew) in [(0, 1), (0, 254), (1, 0), (1, 254), (3, 7)] {
        for deadratio in [1, 2, 3, 5] {
            let own = Priority::new(advbase, advskew);
            let config = NodeConfig {
                election: Settings {
                    priority: own,
                    deadratio: NonZeroU8::new(deadratio).unwrap_or(NonZeroU8::MIN),
                    preempt: false,
                    source: OWN_SOURCE,
                    has_sole_peer: false,
                },
                quorum: None,
                is_gated: false,
                neutral: false,
                service: Service::Vip,
            };
            let mut run = Run::new(config);
            run.step(Event::LinkUp);
            let unit = Duration::from_secs(u64::from(advbase).max(1)).max(own.interval());
            let bound = BOOTED.after(unit * u32::from(deadratio) + own.slot());
            let mut became_master = None;
            for _ in 0..500 {
                run.pass(Pause::AfterDeadline { micros: 200 });
                run.step(Event::Tick);
                if run.wanted {
                    run.step(Event::VipSet { present: true });
                }
                if run.node.status().state == State::Master {
                    became_master = became_master.or(Some(run.now));
                } else {
                    assert_eq!(became_master, None, "{config:?}");
                }
            }
            let at = became_master.map(|at| at <= bound.after(Duration::from_millis(1)));
            assert_eq!(at, Some(true), "{config:?}");
        }
    }
}

/// The bound of what rule E3 takes over from ucarp: from advbase 1 on our own seconds count, not the
/// master's. Two lost adverts of a master with a large advskew are enough.
#[test]
fn from_advbase_1_on_a_skewed_master_is_replaced_after_two_losses() {
    let config = NodeConfig {
        election: Settings {
            priority: Priority::new(1, 0),
            deadratio: NonZeroU8::new(3).unwrap_or(NonZeroU8::MIN),
            preempt: false,
            source: OWN_SOURCE,
            has_sole_peer: false,
        },
        quorum: None,
        is_gated: false,
        neutral: false,
        service: Service::Vip,
    };
    let master = Priority::new(1, 100);
    let mut run = Run::new(config);
    run.step(Event::LinkUp);
    run.now = BOOTED.after(master.interval());
    run.step(advert(SOURCES[2], master, run.now));
    let heard = run.now;
    run.pass(Pause::AtDeadline);
    run.step(Event::Tick);
    assert_eq!(run.now, heard.after(Duration::from_secs(3)));
    assert_eq!(run.node.status().state, State::Master);
    let second_loss = heard.after(master.interval() * 2);
    let third_loss = heard.after(master.interval() * 3);
    assert!(second_loss < run.now && run.now < third_loss);
}
