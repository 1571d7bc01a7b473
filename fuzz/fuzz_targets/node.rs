//! Any sequence of events on one node: no panic, and the invariants hold after each step.

#![no_main]

#[path = "../../mfs-ha-common/tests/support/checked.rs"]
mod checked;
#[path = "../../mfs-ha-common/tests/support/history.rs"]
mod history;

use std::num::NonZeroU8;
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use history::{Happening, Heard, OWN_SOURCE, Pause, Run, SOURCES};
use libfuzzer_sys::{Corpus, fuzz_target};
use mfs_ha_common::election::carp::Settings;
use mfs_ha_common::node::NodeConfig;
use mfs_ha_common::priority::Priority;
use mfs_ha_common::promotion::Service;

/// Longer histories say nothing new.
const STEPS_MAX: usize = 300;

fuzz_target!(|input: &[u8]| -> Corpus {
    let mut input = Unstructured::new(input);
    let Ok(config) = config(&mut input) else {
        return Corpus::Reject;
    };
    let mut run = Run::new(config);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let (Ok(pause), Ok(happening)) = (pause(&mut input), happening(&mut input)) else {
            break;
        };
        run.pass(pause);
        let event = run.event(happening);
        run.step(event);
    }
    Corpus::Keep
});

fn config(input: &mut Unstructured<'_>) -> Result<NodeConfig> {
    let advbase: u8 = input.arbitrary()?;
    // 0/0 is refused by the configuration, and 255 belongs to the bow-out.
    let least = u8::from(advbase == 0);
    Ok(NodeConfig {
        election: Settings {
            priority: Priority::new(advbase, input.int_in_range(least..=254)?),
            deadratio: input.arbitrary::<NonZeroU8>()?,
            preempt: input.arbitrary()?,
            source: OWN_SOURCE,
            has_sole_peer: input.arbitrary()?,
        },
        quorum: None,
        neutral: input.arbitrary()?,
        service: service(input)?,
    })
}

fn service(input: &mut Unstructured<'_>) -> Result<Service> {
    Ok(match input.int_in_range(0..=2)? {
        0 => Service::Vip,
        1 => Service::METADATA,
        _ => Service::Metadata {
            stage_limit: Duration::from_millis(input.arbitrary::<u16>()?.into()),
            start_limit: Duration::from_millis(input.arbitrary::<u16>()?.into()),
        },
    })
}

fn pause(input: &mut Unstructured<'_>) -> Result<Pause> {
    Ok(match input.int_in_range(0..=6)? {
        0 => Pause::None,
        1 => Pause::Micros(u32::from(input.arbitrary::<u16>()?)),
        2 => Pause::Millis(u32::from(input.arbitrary::<u16>()?)),
        3 => Pause::Seconds(input.arbitrary()?),
        4 => Pause::BeforeDeadline,
        5 => Pause::AtDeadline,
        _ => Pause::AfterDeadline {
            micros: input.arbitrary()?,
        },
    })
}

fn happening(input: &mut Unstructured<'_>) -> Result<Happening> {
    Ok(match input.int_in_range(0..=22)? {
        0..=2 => Happening::Advert {
            source: input.choose_index(SOURCES.len())?,
            priority: heard(input)?,
            age_ms: input.arbitrary()?,
        },
        3 | 4 => Happening::Tick,
        5 => Happening::LinkUp,
        6 => Happening::LinkDown,
        7 => Happening::AdvertSent,
        8 => Happening::SendFailed,
        9 => Happening::VipSet(input.arbitrary()?),
        10 => Happening::VipFailed(input.arbitrary()?),
        11 => Happening::VipObeys,
        12 => Happening::VipRefuses,
        13..=16 => Happening::StepObeys,
        17 => Happening::StepRefuses,
        18 => Happening::StaleDone(input.arbitrary()?),
        19 => Happening::StaleFailed(input.arbitrary()?),
        20 => Happening::MasterLost,
        21 => Happening::Readiness(input.arbitrary()?),
        _ => Happening::Stop,
    })
}

fn heard(input: &mut Unstructured<'_>) -> Result<Heard> {
    Ok(match input.int_in_range(0..=3)? {
        0 => Heard::Same,
        1 => Heard::Shifted(input.arbitrary()?),
        2 => Heard::BowOut,
        _ => Heard::Any(input.arbitrary()?, input.arbitrary()?),
    })
}
