//! One machine of the simulated cluster: its clock, its disk, its metadata, and the very node that ships.

use std::num::NonZeroU8;
use std::time::Duration;

use mfs_ha_common::cluster::{Member as Listed, Members, Membership, NodeId, Role};
use mfs_ha_common::durable::Durable;
use mfs_ha_common::election::carp;
use mfs_ha_common::election::quorum::Settings;
use mfs_ha_common::event::Event;
use mfs_ha_common::freshness::{Freshness, Metadata};
use mfs_ha_common::gate::{Fence, Gate};
use mfs_ha_common::heartbeat::{Flags, Heartbeat};
use mfs_ha_common::net::Ipv4;
use mfs_ha_common::node::{Node, NodeConfig};
use mfs_ha_common::priority::Priority;
use mfs_ha_common::promotion::{Service, Step};
use mfs_ha_common::time::Timestamp;

use crate::plan::Plan;
use crate::rng::Rng;

pub(crate) type Id = usize;

/// Members that come with later generations of the list, one with each.
pub(crate) const GROWTH: usize = 2;

/// Changes that a candidate may lack (rule L1e): few, so that the rule matters.
pub(crate) const MAX_LAG: u64 = 60;

/// A clock that runs at its own rate from its own start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    offset: u64,
    ppm: i64,
}

impl Clock {
    pub(crate) fn new(rng: &mut Rng, drift_ppm: u64) -> Self {
        let half = i64::try_from(drift_ppm / 2).unwrap();
        let drawn = i64::try_from(rng.below(drift_ppm + 1)).unwrap();
        Self {
            offset: 1_000_000_000_000 + rng.below(1_000_000_000_000),
            // The extremes are where a rule breaks.
            ppm: match rng.below(3) {
                0 => half,
                1 => -half,
                _ => drawn - half,
            },
        }
    }

    pub(crate) fn local(&self, at: u64) -> Timestamp {
        let drift = i128::from(at) * i128::from(self.ppm) / 1_000_000;
        let local = i128::from(self.offset) + i128::from(at) + drift;
        Timestamp::from_nanos(u64::try_from(local).unwrap())
    }

    /// The first moment at which this clock shows `local`.
    pub(crate) fn real(&self, local: Timestamp) -> u64 {
        let shown = i128::from(local.as_nanos()) - i128::from(self.offset);
        let guess = shown * 1_000_000 / (1_000_000 + i128::from(self.ppm));
        let mut at = u64::try_from(guess.max(0)).unwrap().saturating_sub(3);
        while self.local(at) < local {
            at += 1;
        }
        at
    }
}

/// What is wrong with a member's steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepFault {
    Fails(Step),
    Hangs(Step),
}

/// The maps LEASE and FENCE.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) gate: Gate,
    pub(crate) fence: Fence,
}

impl Kernel {
    /// The XDP program hears everything, whatever became of the daemon.
    pub(crate) fn hear(&mut self, heartbeat: &Heartbeat, at: Timestamp) {
        if heartbeat.flags.has(Flags::HOLDS) {
            let (epoch, node) = (heartbeat.request, heartbeat.sender.get());
            let heard = self.fence.heard(epoch, node, self.gate.epoch, at);
            self.fence = heard.unwrap_or(self.fence);
        }
    }

    pub(crate) fn is_open(&self, at: Timestamp) -> bool {
        self.gate.is_open(at) && self.fence.epoch <= self.gate.epoch
    }
}

/// A machine.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) id: NodeId,
    pub(crate) role: Role,
    pub(crate) clock: Clock,
    pub(crate) node: Option<Node>,
    pub(crate) life: u32,
    /// What a sync has brought to disk.
    pub(crate) disk: Durable,
    pub(crate) older_disk: Durable,
    pub(crate) is_storing: bool,
    /// Its disk takes nothing any more.
    pub(crate) disk_hangs: bool,
    pub(crate) wanted: Option<Durable>,
    pub(crate) inbox: Vec<(Timestamp, Heartbeat)>,
    pub(crate) facts: Vec<Event>,
    pub(crate) turn_at: Option<u64>,
    pub(crate) paused_until: u64,
    pub(crate) has_link: bool,
    pub(crate) vip_request: u32,
    pub(crate) has_vip: bool,
    pub(crate) ticket: u32,
    pub(crate) fault: Option<StepFault>,
    pub(crate) has_master: bool,
    /// What the directory really has, and what was told of it.
    pub(crate) data: Metadata,
    pub(crate) follows: Option<Id>,
    pub(crate) downloads: u32,
    pub(crate) generation: u32,
    /// What the programs in its kernel go by. It outlives the daemon.
    pub(crate) kernel: Kernel,
    /// Real time until which this machine may believe to hold the lease.
    pub(crate) holds_until: Option<u64>,
    /// Since when nothing has changed that the freshness rule looks at.
    pub(crate) settled_since: u64,
}

impl Member {
    pub(crate) fn new(id: Id, role: Role, plan: &Plan, rng: &mut Rng) -> Self {
        let number = u8::try_from(id + 1).unwrap();
        Self {
            id: NodeId::new(number).unwrap(),
            role,
            clock: Clock::new(rng, plan.drift_ppm),
            node: None,
            life: 0,
            disk: Durable::default(),
            older_disk: Durable::default(),
            is_storing: false,
            disk_hangs: false,
            wanted: None,
            inbox: Vec::new(),
            facts: Vec::new(),
            turn_at: None,
            paused_until: 0,
            has_link: true,
            vip_request: 0,
            has_vip: false,
            ticket: 0,
            fault: None,
            has_master: false,
            data: Metadata {
                id: if plan.has_metadata { 0xabcd } else { 0 },
                freshness: Freshness {
                    epoch: u64::from(plan.has_metadata),
                    version: if plan.has_metadata {
                        100 + rng.below(20)
                    } else {
                        0
                    },
                },
            },
            follows: None,
            downloads: 0,
            generation: 1,
            kernel: Kernel::default(),
            holds_until: None,
            settled_since: 0,
        }
    }

    /// Makes the node of a new life from what is on disk.
    pub(crate) fn configure(&self, plan: &Plan, seed: u64) -> NodeConfig {
        let list = |generation| members(plan, generation);
        let timing = plan.timing;
        let old = list(self.generation.saturating_sub(1));
        let old_membership = Membership::new(self.generation.saturating_sub(1), &old, timing);
        let mut durable = self.disk;
        durable.boot += 1;
        let is_grown = durable.membership == old_membership;
        let previous = is_grown.then_some((old, old_membership));
        let sources = core::array::from_fn(source);
        NodeConfig {
            election: carp::Settings {
                priority: Priority::new(1, 0),
                deadratio: NonZeroU8::MIN,
                preempt: false,
                source: source(0),
                has_sole_peer: false,
            },
            quorum: Some(Settings {
                cluster: 7,
                own: self.id,
                members: list(self.generation),
                sources,
                generation: self.generation,
                previous,
                timing,
                priority: Priority::new(1, self.id.get() * 10),
                max_lag: MAX_LAG,
                cold_start_wait: Duration::from_secs(2),
                accepts_loss: false,
                durable,
                seed,
            }),
            neutral: true,
            is_gated: plan.is_gated,
            service: if plan.has_metadata && self.role == Role::Candidate {
                Service::METADATA
            } else {
                Service::Vip
            },
        }
    }
}

/// The list of a generation: each has one voter more than the one before.
pub(crate) fn members(plan: &Plan, generation: u32) -> Members {
    let count = plan.members() + usize::try_from(generation.saturating_sub(1)).unwrap();
    let listed = (0..count).map(|place| Listed {
        id: NodeId::new(u8::try_from(place + 1).unwrap()).unwrap(),
        role: if place < plan.candidates {
            Role::Candidate
        } else {
            Role::Witness
        },
    });
    Members::new(listed).unwrap()
}

pub(crate) fn source(place: Id) -> Ipv4 {
    [10, 0, 0, u8::try_from(place + 1).unwrap()]
}
