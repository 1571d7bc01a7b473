//! What can happen to one node, in terms relative to the node itself, and one node that it happens to.
//!
//! The property test and the fuzzer draw from it.

use std::time::Duration;

use mfs_ha_common::action::Action;
use mfs_ha_common::event::Event;
use mfs_ha_common::node::NodeConfig;
use mfs_ha_common::priority::Priority;
use mfs_ha_common::time::Timestamp;

use crate::checked::{Checked, advert};

pub(crate) const BOOTED: Timestamp = Timestamp::from_nanos(1_000_000_000_000);

/// Addresses around the node's own in both orders: numeric and last octet first.
pub(crate) const SOURCES: &[[u8; 4]] = &[[10, 0, 0, 1], [10, 0, 1, 1], [10, 0, 0, 3], [9, 9, 9, 9]];
pub(crate) const OWN_SOURCE: [u8; 4] = [10, 0, 0, 2];

/// When something happens, seen from the step before or from the node's deadline.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pause {
    None,
    Micros(u32),
    Millis(u32),
    Seconds(u16),
    /// Just before the deadline.
    BeforeDeadline,
    AtDeadline,
    AfterDeadline {
        micros: u32,
    },
}

/// What happens. Priorities are given relative to the node's own where that matters.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Happening {
    Advert {
        source: usize,
        priority: Heard,
        age_ms: u16,
    },
    Tick,
    LinkUp,
    LinkDown,
    AdvertSent,
    SendFailed,
    VipSet(bool),
    VipFailed(bool),
    /// The VIP is as it was last asked to be.
    VipObeys,
    /// It is not.
    VipRefuses,
    /// The step that was asked for last is done.
    StepObeys,
    /// It cannot be done.
    StepRefuses,
    /// Somebody answers to a ticket that is this much older.
    StaleDone(u32),
    StaleFailed(u32),
    MasterLost,
    Readiness(bool),
    Stop,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Heard {
    Same,
    Shifted(i8),
    BowOut,
    Any(u8, u8),
}

pub(crate) struct Run {
    pub(crate) node: Checked,
    pub(crate) now: Timestamp,
    pub(crate) wanted: bool,
    pub(crate) ticket: u32,
    pub(crate) actions: Vec<Action>,
}

impl Run {
    pub(crate) fn new(config: NodeConfig) -> Self {
        Self {
            node: Checked::new(config, BOOTED),
            now: BOOTED,
            wanted: false,
            ticket: 0,
            actions: Vec::new(),
        }
    }

    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        self.node.status().next.map(|(at, _)| at)
    }

    pub(crate) fn pass(&mut self, pause: Pause) {
        let deadline = self.deadline().unwrap_or(self.now).max(self.now);
        let before = deadline
            .as_nanos()
            .saturating_sub(1)
            .max(self.now.as_nanos());
        self.now = match pause {
            Pause::None => self.now,
            Pause::Micros(micros) => self.now.after(Duration::from_micros(micros.into())),
            Pause::Millis(millis) => self.now.after(Duration::from_millis(millis.into())),
            Pause::Seconds(seconds) => self.now.after(Duration::from_secs(seconds.into())),
            Pause::BeforeDeadline => Timestamp::from_nanos(before),
            Pause::AtDeadline => deadline,
            Pause::AfterDeadline { micros } => deadline.after(Duration::from_micros(micros.into())),
        };
    }

    pub(crate) fn event(&self, happening: Happening) -> Event {
        match happening {
            Happening::Advert {
                source,
                priority,
                age_ms,
            } => {
                let age = Duration::from_millis(age_ms.into());
                let arrival = u64::try_from(age.as_nanos())
                    .map_or(0, |age| self.now.as_nanos().saturating_sub(age));
                let arrival = Timestamp::from_nanos(arrival);
                advert(SOURCES[source], self.heard(priority), arrival)
            }
            Happening::Tick => Event::Tick,
            Happening::LinkUp => Event::LinkUp,
            Happening::LinkDown => Event::LinkDown,
            Happening::AdvertSent => Event::AdvertSent,
            Happening::SendFailed => Event::SendFailed,
            Happening::VipSet(present) => Event::VipSet { present },
            Happening::VipFailed(present) => Event::VipFailed { present },
            Happening::VipObeys => Event::VipSet {
                present: self.wanted,
            },
            Happening::VipRefuses => Event::VipFailed {
                present: self.wanted,
            },
            Happening::StepObeys => Event::StepDone {
                ticket: self.ticket,
            },
            Happening::StepRefuses => Event::StepFailed {
                ticket: self.ticket,
            },
            Happening::StaleDone(age) => Event::StepDone {
                ticket: self.ticket.wrapping_sub(age),
            },
            Happening::StaleFailed(age) => Event::StepFailed {
                ticket: self.ticket.wrapping_sub(age),
            },
            Happening::MasterLost => Event::MetadataMasterLost,
            Happening::Readiness(ready) => Event::ReadinessChanged { ready },
            Happening::Stop => Event::StopRequested,
        }
    }

    fn heard(&self, heard: Heard) -> Priority {
        let own = self.node.status().priority;
        match heard {
            Heard::Same => own,
            Heard::Shifted(by) => {
                Priority::new(own.advbase(), own.advskew().saturating_add_signed(by))
            }
            Heard::BowOut => Priority::BOW_OUT,
            Heard::Any(advbase, advskew) => Priority::new(advbase, advskew),
        }
    }

    pub(crate) fn step(&mut self, event: Event) {
        self.actions = self.node.step(self.now, event);
        for action in &self.actions {
            if let Action::SetVip { present } = action {
                self.wanted = *present;
            }
            if let Action::RunStep { ticket, .. } = action {
                self.ticket = *ticket;
            }
        }
    }
}
