//! Nodes and ucarps on one virtual clock and one unreliable network, all from one seed.
//!
//! A member takes its turns as the daemon does: what arrived is handed in first, then the fate of its
//! adverts and of its VIP, then a tick. Every node is supervised (`checked.rs`). Whoever has the VIP is
//! known by what its interface really has, not by what it says.

#[path = "steps.rs"]
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mfs_ha_common::action::Action;
use mfs_ha_common::election::State;
use mfs_ha_common::event::Event;
use mfs_ha_common::net::Ipv4;
use mfs_ha_common::node::NodeConfig;
use mfs_ha_common::priority::Priority;
use mfs_ha_common::promotion::Step;
use mfs_ha_common::time::Timestamp;

pub(crate) use steps::StepFault;

use crate::checked::{self, Checked};
use crate::rng::Rng;
use crate::ucarp::{Deed, Ucarp, UcarpConfig, UcarpState};

/// How often a failed VIP step is tried again.
const VIP_RETRY: Duration = Duration::from_secs(1);
/// Lines of history that a failure shows.
const HISTORY_MAX: usize = 400;

impl Rng {
    pub(crate) fn between(&mut self, low: Duration, high: Duration) -> Duration {
        let span = high.saturating_sub(low).as_nanos();
        low + Duration::from_nanos(self.below(u64::try_from(span).unwrap_or(u64::MAX) + 1))
    }
}

/// What the world does to frames and to those who handle them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conditions {
    pub(crate) delay: (Duration, Duration),
    pub(crate) loss_percent: u64,
    /// No receiver misses more adverts of one sender in a row.
    pub(crate) losses_in_a_row_max: u8,
    pub(crate) duplicate_percent: u64,
    /// From a deadline or a frame to the daemon's turn.
    pub(crate) wake_up_max: Duration,
    /// From a request to the VIP's being there or gone.
    pub(crate) vip_step: (Duration, Duration),
    /// How long a step of promotion or resignation takes.
    pub(crate) step: (Duration, Duration),
}

impl Conditions {
    /// A quiet network of machines with time to spare.
    pub(crate) const GOOD: Self = Self {
        delay: (Duration::from_micros(20), Duration::from_micros(500)),
        loss_percent: 0,
        losses_in_a_row_max: 0,
        duplicate_percent: 0,
        wake_up_max: Duration::from_micros(500),
        vip_step: (Duration::from_micros(100), Duration::from_millis(2)),
        step: (Duration::from_millis(1), Duration::from_millis(50)),
    };
}

pub(crate) type Id = usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Occurrence {
    Arrival {
        to: Id,
        source: Ipv4,
        priority: Priority,
    },
    Turn {
        of: Id,
    },
    VipStep {
        of: Id,
        life: u32,
        request: u32,
    },
    StepEnd {
        of: Id,
        life: u32,
        step: Step,
        ticket: u32,
    },
    Ready {
        of: Id,
        life: u32,
    },
    Deed {
        of: Id,
        life: u32,
        deed: Deed,
    },
}

#[expect(
    clippy::large_enum_variant,
    reason = "a handful of members; the large variant is the usual one"
)]
#[derive(Clone, Debug)]
enum Mind {
    Node {
        node: Checked,
        inbox: Vec<(Timestamp, Ipv4, Priority)>,
        facts: Vec<Event>,
        request: u32,
        wants_vip: bool,
        ticket: u32,
    },
    Ucarp(Ucarp),
    Gone,
}

#[expect(
    clippy::large_enum_variant,
    reason = "a handful of members; the large variant is the usual one"
)]
#[derive(Clone, Copy, Debug)]
enum Make {
    Node(NodeConfig),
    Ucarp(UcarpConfig),
}

#[derive(Clone, Debug)]
struct Member {
    make: Make,
    mind: Mind,
    life: u32,
    /// Its next turn; an earlier one replaces a later one.
    turn_at: Option<Timestamp>,
    has_link: bool,
    is_frozen: bool,
    has_vip: bool,
    vip_fails: bool,
    has_master: bool,
    downloads_in_vain: bool,
    step_fault: Option<StepFault>,
    losses: BTreeMap<Ipv4, u8>,
}

/// How long how many had the VIP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ownership {
    pub(crate) nobody: Duration,
    pub(crate) one: Duration,
    pub(crate) several: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) rng: Rng,
    pub(crate) now: Timestamp,
    pub(crate) conditions: Conditions,
    pub(crate) ownership: Ownership,
    /// Changes of an mfs-ha state and of a ucarp state since they were last looked at.
    pub(crate) transitions: usize,
    members: Vec<Member>,
    agenda: BTreeMap<(Timestamp, u64), Occurrence>,
    number: u64,
    cuts: BTreeSet<(Id, Id)>,
    pub(crate) history: Vec<String>,
}

impl World {
    pub(crate) fn new(seed: u64, conditions: Conditions) -> Self {
        Self {
            seed,
            rng: Rng(seed),
            now: Timestamp::from_nanos(1_000_000_000_000),
            conditions,
            ownership: Ownership::default(),
            transitions: 0,
            members: Vec::new(),
            agenda: BTreeMap::new(),
            number: 0,
            cuts: BTreeSet::new(),
            history: Vec::new(),
        }
    }

    pub(crate) fn add_node(&mut self, config: NodeConfig) -> Id {
        self.add(Make::Node(config))
    }

    pub(crate) fn add_ucarp(&mut self, config: UcarpConfig) -> Id {
        self.add(Make::Ucarp(config))
    }

    fn add(&mut self, make: Make) -> Id {
        self.members.push(Member {
            make,
            mind: Mind::Gone,
            life: 0,
            turn_at: None,
            has_link: true,
            is_frozen: false,
            has_vip: false,
            vip_fails: false,
            has_master: false,
            downloads_in_vain: false,
            step_fault: None,
            losses: BTreeMap::new(),
        });
        self.members.len() - 1
    }

    /// Starts a member, or starts it again.
    pub(crate) fn start(&mut self, id: Id) {
        self.note(id, "starts");
        let now = self.now;
        let member = &mut self.members[id];
        member.life += 1;
        member.is_frozen = false;
        // The service manager takes away what an earlier daemon left.
        member.has_master = false;
        member.mind = match member.make {
            Make::Ucarp(config) => Mind::Ucarp(Ucarp::new(config, now)),
            Make::Node(config) => Mind::Node {
                node: Checked::new(config, now),
                inbox: Vec::new(),
                facts: if member.has_link {
                    vec![Event::ReadinessChanged { ready: true }, Event::LinkUp]
                } else {
                    vec![Event::ReadinessChanged { ready: true }]
                },
                request: 0,
                wants_vip: false,
                ticket: 0,
            },
        };
        self.schedule_turn(id);
    }

    /// The whole machine dies, its address with it.
    pub(crate) fn crash(&mut self, id: Id) {
        self.note(id, "crashes");
        self.members[id].mind = Mind::Gone;
        self.members[id].has_master = false;
        self.set_vip(id, false);
    }

    /// The daemon is asked to end.
    pub(crate) fn stop(&mut self, id: Id) {
        self.note(id, "is to stop");
        self.tell(id, Event::StopRequested);
    }

    pub(crate) fn freeze(&mut self, id: Id) {
        self.note(id, "freezes");
        self.members[id].is_frozen = true;
    }

    pub(crate) fn thaw(&mut self, id: Id) {
        self.note(id, "thaws");
        self.members[id].is_frozen = false;
        self.schedule_turn(id);
    }

    pub(crate) fn set_link(&mut self, id: Id, is_up: bool) {
        self.note(
            id,
            if is_up {
                "has a link"
            } else {
                "loses its link"
            },
        );
        self.members[id].has_link = is_up;
        let event = if is_up {
            Event::LinkUp
        } else {
            Event::LinkDown
        };
        self.tell(id, event);
    }

    pub(crate) fn set_vip_fails(&mut self, id: Id, fails: bool) {
        self.note(
            id,
            if fails {
                "cannot set its VIP"
            } else {
                "can set its VIP"
            },
        );
        self.members[id].vip_fails = fails;
    }

    /// Frames of `from` no longer reach `to`.
    pub(crate) fn cut(&mut self, from: Id, to: Id) {
        self.note(from, &format!("is cut off from {to}"));
        self.cuts.insert((from, to));
    }

    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
    }

    pub(crate) fn is_running(&self, id: Id) -> bool {
        !matches!(self.members[id].mind, Mind::Gone)
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn node(&self, id: Id) -> &Checked {
        match &self.members[id].mind {
            Mind::Node { node, .. } => node,
            Mind::Ucarp(_) | Mind::Gone => panic!("{id} is no running node"),
        }
    }

    pub(crate) fn owners(&self) -> Vec<Id> {
        self.all(|member| member.has_vip)
    }

    pub(crate) fn masters(&self) -> Vec<Id> {
        self.all(|member| match &member.mind {
            Mind::Node { node, .. } => node.status().state == State::Master,
            Mind::Ucarp(ucarp) => ucarp.state() == UcarpState::Master,
            Mind::Gone => false,
        })
    }

    fn all(&self, is_wanted: impl Fn(&Member) -> bool) -> Vec<Id> {
        let members = self.members.iter().enumerate();
        members
            .filter(|(_, member)| is_wanted(member))
            .map(|(id, _)| id)
            .collect()
    }

    /// Lets time pass.
    pub(crate) fn run_for(&mut self, span: Duration) {
        let end = self.now.after(span);
        while let Some((&(at, number), _)) = self.agenda.first_key_value() {
            if at > end {
                break;
            }
            let Some(occurrence) = self.agenda.remove(&(at, number)) else {
                break;
            };
            self.advance(at);
            self.happen(occurrence);
        }
        self.advance(end);
    }

    /// Lets time pass until something holds.
    pub(crate) fn run_until(&mut self, limit: Duration, holds: impl Fn(&Self) -> bool) -> bool {
        let end = self.now.after(limit);
        while !holds(self) {
            if self.now >= end {
                return false;
            }
            self.run_for(Duration::from_millis(1));
        }
        true
    }

    fn advance(&mut self, to: Timestamp) {
        let span = to.since(self.now);
        match self.owners().len() {
            0 => self.ownership.nobody += span,
            1 => self.ownership.one += span,
            _ => self.ownership.several += span,
        }
        self.now = to.max(self.now);
    }

    fn plan(&mut self, at: Timestamp, occurrence: Occurrence) {
        self.number += 1;
        self.agenda.insert((at, self.number), occurrence);
    }

    fn schedule_turn(&mut self, id: Id) {
        let late = self
            .rng
            .between(Duration::ZERO, self.conditions.wake_up_max);
        let due = match &self.members[id].mind {
            Mind::Node {
                node, inbox, facts, ..
            } if inbox.is_empty() && facts.is_empty() => node.status().next.map(|(at, _)| at),
            Mind::Node { .. } => Some(self.now),
            Mind::Ucarp(ucarp) => Some(ucarp.wakes_at()),
            Mind::Gone => None,
        };
        let Some(at) = due.map(|at| at.max(self.now).after(late)) else {
            return;
        };
        if self.members[id].turn_at.is_none_or(|planned| at < planned) {
            self.members[id].turn_at = Some(at);
            self.plan(at, Occurrence::Turn { of: id });
        }
    }

    fn tell(&mut self, id: Id, event: Event) {
        if let Mind::Node { facts, .. } = &mut self.members[id].mind {
            facts.push(event);
            self.schedule_turn(id);
        }
    }

    fn happen(&mut self, occurrence: Occurrence) {
        match occurrence {
            Occurrence::Arrival {
                to,
                source,
                priority,
            } => self.arrive(to, source, priority),
            Occurrence::Turn { of } => self.turn(of),
            Occurrence::VipStep { of, life, request } => self.vip_step(of, life, request),
            Occurrence::StepEnd {
                of,
                life,
                step,
                ticket,
            } => self.step_end(of, life, step, ticket),
            Occurrence::Ready { of, life } => self.become_ready(of, life),
            Occurrence::Deed { of, life, deed } => {
                if self.members[of].life == life && self.is_running(of) {
                    self.carry_out(of, deed);
                }
            }
        }
    }

    fn arrive(&mut self, to: Id, source: Ipv4, priority: Priority) {
        let now = self.now;
        if !self.members[to].has_link {
            return;
        }
        match &mut self.members[to].mind {
            Mind::Node { inbox, .. } => inbox.push((now, source, priority)),
            Mind::Ucarp(ucarp) => ucarp.receive(now, source, priority),
            Mind::Gone => return,
        }
        self.schedule_turn(to);
    }

    fn turn(&mut self, id: Id) {
        if self.members[id].turn_at != Some(self.now) {
            return;
        }
        self.members[id].turn_at = None;
        if self.members[id].is_frozen {
            return;
        }
        let now = self.now;
        match &mut self.members[id].mind {
            Mind::Gone => return,
            Mind::Ucarp(ucarp) => {
                let was = ucarp.state();
                let deeds = ucarp.wake(now);
                let is = ucarp.state();
                let life = self.members[id].life;
                for (at, deed) in deeds {
                    self.plan(at, Occurrence::Deed { of: id, life, deed });
                }
                if was != is {
                    self.transitions += 1;
                    self.note(id, &format!("{was:?} to {is:?}"));
                }
            }
            Mind::Node { inbox, facts, .. } => {
                let mut events: Vec<Event> = std::mem::take(inbox)
                    .into_iter()
                    .map(|(arrival, source, priority)| checked::advert(source, priority, arrival))
                    .collect();
                events.append(facts);
                events.push(Event::Tick);
                for event in events {
                    self.hand_in(id, event);
                }
            }
        }
        self.schedule_turn(id);
    }

    fn hand_in(&mut self, id: Id, event: Event) {
        let now = self.now;
        let Mind::Node { node, .. } = &mut self.members[id].mind else {
            return;
        };
        for action in node.step(now, event) {
            self.obey(id, action);
        }
    }

    fn obey(&mut self, id: Id, action: Action) {
        match action {
            Action::SendAdvert(priority) => {
                let sent = self.members[id].has_link;
                self.send(id, priority);
                let receipt = if sent {
                    Event::AdvertSent
                } else {
                    Event::SendFailed
                };
                self.hand_in(id, receipt);
            }
            Action::SetVip { present } => {
                let life = self.members[id].life;
                let Mind::Node {
                    request, wants_vip, ..
                } = &mut self.members[id].mind
                else {
                    return;
                };
                *request += 1;
                *wants_vip = present;
                let request = *request;
                self.plan_vip_step(id, life, request);
            }
            Action::Report(transition) => {
                self.transitions += 1;
                self.note(
                    id,
                    &format!(
                        "{:?} to {:?}: {:?}",
                        transition.from, transition.to, transition.reason
                    ),
                );
            }
            // The service manager takes away what an ended daemon left.
            Action::Exit => {
                self.note(id, "has left");
                self.members[id].mind = Mind::Gone;
                self.members[id].has_master = false;
                self.set_vip(id, false);
            }
            Action::RunStep { step, ticket } => self.run_step(id, step, ticket),
            Action::FollowMaster { source } => self.follow(id, source),
            Action::SendHeartbeats | Action::Store(_) | Action::FreezeMetadata => {
                panic!("in carp mode: {action:?}");
            }
            Action::AnnounceVip | Action::RunHook(_) => {}
        }
    }

    fn plan_vip_step(&mut self, id: Id, life: u32, request: u32) {
        let (low, high) = self.conditions.vip_step;
        let at = self.now.after(self.rng.between(low, high));
        let step = Occurrence::VipStep {
            of: id,
            life,
            request,
        };
        self.plan(at, step);
    }

    /// Only the latest request counts, as for the daemon's level-triggered adapter.
    fn vip_step(&mut self, id: Id, life: u32, wanted: u32) {
        let member = &self.members[id];
        let (is_current, present) = match &member.mind {
            Mind::Node {
                request, wants_vip, ..
            } => (member.life == life && *request == wanted, *wants_vip),
            Mind::Ucarp(_) | Mind::Gone => return,
        };
        if !is_current {
            return;
        }
        if member.vip_fails {
            self.tell(id, Event::VipFailed { present });
            let at = self.now.after(VIP_RETRY);
            let again = Occurrence::VipStep {
                of: id,
                life,
                request: wanted,
            };
            self.plan(at, again);
            return;
        }
        self.set_vip(id, present);
        self.tell(id, Event::VipSet { present });
    }

    fn carry_out(&mut self, id: Id, deed: Deed) {
        match deed {
            Deed::Advertise(priority) => self.send(id, priority),
            Deed::TakeVip => self.set_vip(id, true),
            Deed::DropVip => self.set_vip(id, false),
        }
    }

    fn set_vip(&mut self, id: Id, present: bool) {
        if self.members[id].has_vip != present {
            self.note(id, if present { "has the VIP" } else { "has no VIP" });
            self.members[id].has_vip = present;
        }
    }

    fn send(&mut self, from: Id, priority: Priority) {
        let source = match self.members[from].make {
            Make::Node(config) => config.election.source,
            Make::Ucarp(config) => config.source,
        };
        if !self.members[from].has_link {
            return;
        }
        for to in 0..self.members.len() {
            if to != from && !self.cuts.contains(&(from, to)) {
                self.transmit(to, source, priority);
            }
        }
    }

    fn transmit(&mut self, to: Id, source: Ipv4, priority: Priority) {
        let conditions = self.conditions;
        let losses = self.members[to].losses.entry(source).or_default();
        let may_lose = *losses < conditions.losses_in_a_row_max;
        if may_lose && self.rng.percent(conditions.loss_percent) {
            *losses += 1;
            return;
        }
        *losses = 0;
        let copies = if self.rng.percent(conditions.duplicate_percent) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let (low, high) = conditions.delay;
            let at = self.now.after(self.rng.between(low, high));
            let arrival = Occurrence::Arrival {
                to,
                source,
                priority,
            };
            self.plan(at, arrival);
        }
    }

    pub(crate) fn note(&mut self, id: Id, what: &str) {
        if self.history.len() == HISTORY_MAX {
            self.history.remove(0);
        }
        let at = self.now.as_nanos() - 1_000_000_000_000;
        let (seconds, micros) = (at / 1_000_000_000, at % 1_000_000_000 / 1000);
        self.history
            .push(format!("{seconds:4}.{micros:06} {id}: {what}"));
    }

    /// Fails with the seed and what happened.
    pub(crate) fn require(&self, holds: bool, what: &str) {
        assert!(
            holds,
            "{what}\nseed {:#x}, owners {:?}, masters {:?}, {:?}\n{}",
            self.seed,
            self.owners(),
            self.masters(),
            self.ownership,
            self.history.join("\n")
        );
    }
}
