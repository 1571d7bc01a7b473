//! The simulated cluster: machines, links and time, all from one seed.
//!
//! A member takes its turns as the daemon does: what arrived is handed in first, then facts, then a tick. Every
//! action is carried out as the daemon would, and every step is shown to the judges (`judge.rs`).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use mfs_ha_common::action::Action;
use mfs_ha_common::cluster::Role;
use mfs_ha_common::durable::Durable;
use mfs_ha_common::event::Event;
use mfs_ha_common::gate::OPEN_CLIENTS;
use mfs_ha_common::heartbeat::Heartbeat;
use mfs_ha_common::node::Node;
use mfs_ha_common::promotion::{Phase, Step};
use mfs_ha_common::recording::Turn;
use mfs_ha_common::validate::Verified;

use crate::judge::Judge;
use crate::member::{GROWTH, Id, Kernel, Member, StepFault};
use crate::plan::{Conditions, MS, Plan, SECOND};
use crate::record::Recording;
use crate::rng::Rng;

/// How often the metadata of those who serve and follow advance.
const WRITES: u64 = 20 * MS;

#[derive(Clone, Debug)]
enum Occurrence {
    Arrival {
        to: Id,
        heartbeat: Box<Heartbeat>,
    },
    Turn {
        of: Id,
    },
    Stored {
        of: Id,
        life: u32,
        durable: Durable,
    },
    Vip {
        of: Id,
        life: u32,
        request: u32,
        present: bool,
    },
    StepEnd {
        of: Id,
        life: u32,
        step: Step,
        ticket: u32,
    },
    Frozen {
        of: Id,
        life: u32,
    },
    Looked {
        of: Id,
        life: u32,
        download: u32,
    },
    Write,
    Look,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now: u64,
    pub(crate) plan: Plan,
    pub(crate) conditions: Conditions,
    pub(crate) members: Vec<Member>,
    pub(crate) cuts: Vec<Vec<bool>>,
    pub(crate) judge: Judge,
    pub(crate) recording: Option<Recording>,
    agenda: BinaryHeap<Reverse<(u64, u64)>>,
    occurrences: std::collections::HashMap<u64, Occurrence>,
    number: u64,
}

impl World {
    pub(crate) fn new(seed: u64, plan: Plan, recording: Option<Recording>) -> Self {
        let mut rng = Rng(seed ^ 0x5eed);
        let count = plan.members() + if plan.grows { GROWTH } else { 0 };
        let members: Vec<Member> = (0..count)
            .map(|id| {
                let role = if id < plan.candidates {
                    Role::Candidate
                } else {
                    Role::Witness
                };
                Member::new(id, role, &plan, &mut rng)
            })
            .collect();
        let mut world = Self {
            rng,
            now: 0,
            plan,
            conditions: plan.calm,
            members,
            cuts: vec![vec![false; count]; count],
            judge: Judge::new(count),
            recording,
            agenda: BinaryHeap::new(),
            occurrences: std::collections::HashMap::new(),
            number: 0,
        };
        world.plan_at(WRITES, Occurrence::Write);
        world.plan_at(5 * MS, Occurrence::Look);
        world
    }

    /// Starts a machine's daemon, or starts it again.
    pub(crate) fn start(&mut self, id: Id) {
        let seed = self.rng.next();
        let plan = self.plan;
        let (now, at) = (self.now, self.members[id].clock.local(self.now));
        // Nobody serves for 30 s here: most lives shall begin as after one that did.
        let has_served_for_long = self.rng.percent(80);
        let member = &mut self.members[id];
        if has_served_for_long {
            member.disk.attempts = 0;
        }
        let config = member.configure(&plan, seed);
        member.life += 1;
        let node = Node::new(config, at);
        if let Some(recording) = &mut self.recording {
            recording.begin(id, node.clone());
        }
        member.node = Some(node);
        member.inbox.clear();
        member.facts = vec![Event::LinkUp];
        if !member.has_link || member.role == Role::Witness {
            member.facts.clear();
        }
        // What an earlier life left is taken away before the first heartbeat.
        member.kernel = Kernel::default();
        (member.has_vip, member.has_master, member.follows) = (false, false, None);
        (member.is_storing, member.wanted, member.turn_at) = (false, None, None);
        member.paused_until = now;
        let life = member.life;
        if plan.has_metadata && self.members[id].role == Role::Candidate {
            let at = self.now + self.rng.between(MS, 20 * MS);
            let download = self.members[id].downloads;
            self.plan_at(
                at,
                Occurrence::Looked {
                    of: id,
                    life,
                    download,
                },
            );
        }
        self.touch(id);
        self.schedule_turn(id);
    }

    /// The machine dies. What was not synced is lost; its kernel's memory of a lease is not.
    pub(crate) fn crash(&mut self, id: Id) {
        let member = &mut self.members[id];
        member.node = None;
        member.life += 1;
        (member.has_vip, member.has_master, member.follows) = (false, false, None);
        self.touch(id);
    }

    pub(crate) fn touch(&mut self, id: Id) {
        self.members[id].settled_since = self.now;
    }

    fn plan_at(&mut self, at: u64, occurrence: Occurrence) {
        self.number += 1;
        self.occurrences.insert(self.number, occurrence);
        self.agenda.push(Reverse((at, self.number)));
    }

    fn plan_within(&mut self, span: (u64, u64), occurrence: Occurrence) {
        let at = self.now + self.rng.between(span.0, span.1);
        self.plan_at(at, occurrence);
    }

    pub(crate) fn schedule_turn(&mut self, id: Id) {
        let member = &self.members[id];
        let Some(node) = &member.node else {
            return;
        };
        let is_waiting = !member.inbox.is_empty() || !member.facts.is_empty();
        let due = if is_waiting {
            self.now
        } else if let Some((at, _)) = node.poll_timeout() {
            member.clock.real(at)
        } else {
            return;
        };
        let (low, high) = self.conditions.wake_up;
        let late = self.rng.between(low, high);
        let at = due.max(self.now).max(self.members[id].paused_until) + late;
        if self.members[id].turn_at.is_none_or(|planned| at < planned) {
            self.members[id].turn_at = Some(at);
            self.plan_at(at, Occurrence::Turn { of: id });
        }
    }

    pub(crate) fn tell(&mut self, id: Id, event: Event) {
        if self.members[id].node.is_some() {
            self.members[id].facts.push(event);
            self.schedule_turn(id);
        }
    }

    pub(crate) fn run_until(&mut self, end: u64) {
        while let Some(Reverse((at, number))) = self.agenda.peek().copied() {
            if at > end {
                break;
            }
            self.agenda.pop();
            self.now = at;
            if let Some(occurrence) = self.occurrences.remove(&number) {
                self.happen(occurrence);
            }
            if self.judge.has_failed() {
                return;
            }
        }
        self.now = end;
    }

    fn lives(&self, id: Id, life: u32) -> bool {
        self.members[id].life == life && self.members[id].node.is_some()
    }

    fn happen(&mut self, occurrence: Occurrence) {
        match occurrence {
            Occurrence::Arrival { to, heartbeat } => self.arrive(to, &heartbeat),
            Occurrence::Turn { of } => self.turn(of),
            Occurrence::Stored { of, life, durable } if self.lives(of, life) => {
                self.stored(of, durable);
            }
            Occurrence::Vip {
                of,
                life,
                request,
                present,
            } if self.lives(of, life) => {
                if self.members[of].vip_request == request {
                    self.members[of].has_vip = present;
                    self.tell(of, Event::VipSet { present });
                }
            }
            Occurrence::StepEnd {
                of,
                life,
                step,
                ticket,
            } if self.lives(of, life) => {
                self.step_end(of, step, ticket);
            }
            Occurrence::Frozen { of, life } if self.lives(of, life) => {
                self.members[of].follows = None;
                self.members[of].downloads += 1;
                self.touch(of);
                let metadata = self.members[of].data;
                self.tell(of, Event::MetadataFrozen { metadata });
            }
            Occurrence::Looked { of, life, download } if self.lives(of, life) => {
                self.looked(of, download);
            }
            Occurrence::Write => self.write(),
            Occurrence::Look => {
                Judge::look(self);
                let at = self.now + 5 * MS;
                self.plan_at(at, Occurrence::Look);
            }
            // Of a life that has ended.
            Occurrence::Stored { .. }
            | Occurrence::Vip { .. }
            | Occurrence::StepEnd { .. }
            | Occurrence::Frozen { .. }
            | Occurrence::Looked { .. } => {}
        }
    }

    fn arrive(&mut self, to: Id, heartbeat: &Heartbeat) {
        let at = self.members[to].clock.local(self.now);
        self.members[to].kernel.hear(heartbeat, at);
        if self.members[to].node.is_some() {
            self.members[to].inbox.push((at, *heartbeat));
            self.schedule_turn(to);
        }
    }

    fn turn(&mut self, id: Id) {
        let is_due = self.members[id].turn_at == Some(self.now);
        if !is_due || self.members[id].node.is_none() {
            return;
        }
        self.members[id].turn_at = None;
        if self.members[id].paused_until > self.now {
            self.schedule_turn(id);
            return;
        }
        for (arrival, heartbeat) in std::mem::take(&mut self.members[id].inbox) {
            let heartbeat = Verified::from_recording(heartbeat);
            self.hand_in(id, Event::HeartbeatReceived { heartbeat, arrival });
        }
        for event in std::mem::take(&mut self.members[id].facts) {
            self.hand_in(id, event);
        }
        self.hand_in(id, Event::Tick);
        self.schedule_turn(id);
    }

    pub(crate) fn hand_in(&mut self, id: Id, event: Event) {
        let at = self.members[id].clock.local(self.now);
        let Some(node) = self.members[id].node.as_mut() else {
            return;
        };
        let before = node.status();
        let decided = node.handle(at, event);
        self.members[id].kernel.gate = node.gate();
        if let Some(recording) = &mut self.recording {
            let actions = decided;
            recording.note(id, Turn { at, event, actions });
        }
        let actions: Vec<Action> = decided.into_iter().collect();
        Judge::check_turn(self, id, at, event, before, &actions);
        for action in actions {
            self.obey(id, action);
        }
    }

    fn obey(&mut self, id: Id, action: Action) {
        let life = self.members[id].life;
        match action {
            Action::SendHeartbeats => self.send(id),
            Action::Store(durable) => {
                self.members[id].wanted = Some(durable);
                self.store(id);
            }
            Action::FreezeMetadata => {
                let span = self.conditions.freeze;
                self.plan_within(span, Occurrence::Frozen { of: id, life });
            }
            Action::SetVip { present } => {
                self.members[id].vip_request += 1;
                let request = self.members[id].vip_request;
                let span = self.conditions.vip;
                self.plan_within(
                    span,
                    Occurrence::Vip {
                        of: id,
                        life,
                        request,
                        present,
                    },
                );
            }
            Action::RunStep { step, ticket } => {
                self.members[id].ticket = ticket;
                if self.members[id].fault != Some(StepFault::Hangs(step)) {
                    let span = self.conditions.step;
                    self.plan_within(
                        span,
                        Occurrence::StepEnd {
                            of: id,
                            life,
                            step,
                            ticket,
                        },
                    );
                }
            }
            Action::FollowMaster { source } => self.follow(id, usize::from(source[3]) - 1),
            Action::Report(_) => self.touch(id),
            Action::Exit => self.crash(id),
            Action::SendAdvert(_) | Action::AnnounceVip | Action::RunHook(_) => {}
        }
    }

    /// One write at a time; the latest wanted one follows.
    pub(crate) fn store(&mut self, id: Id) {
        if self.members[id].is_storing || self.members[id].disk_hangs {
            return;
        }
        if let Some(durable) = self.members[id].wanted.take() {
            self.members[id].is_storing = true;
            let life = self.members[id].life;
            let span = self.conditions.store;
            self.plan_within(
                span,
                Occurrence::Stored {
                    of: id,
                    life,
                    durable,
                },
            );
        }
    }

    fn stored(&mut self, id: Id, durable: Durable) {
        let member = &mut self.members[id];
        member.is_storing = false;
        if self.rng.percent(20) {
            member.older_disk = member.disk;
        }
        member.disk = durable;
        self.tell(id, Event::Stored { durable });
        self.store(id);
    }

    fn send(&mut self, from: Id) {
        for to in 0..self.members.len() {
            let receiver = self.members[to].id;
            let heartbeat = self.members[from]
                .node
                .as_ref()
                .and_then(|node| node.heartbeat(receiver));
            let Some(heartbeat) = heartbeat.filter(|_| to != from) else {
                continue;
            };
            Judge::check_heartbeat(self, from, &heartbeat);
            let conditions = self.conditions;
            let copies = 1 + u32::from(self.rng.percent(conditions.duplicate_percent));
            for _ in 0..copies {
                if self.cuts[from][to] || self.rng.percent(conditions.loss_percent) {
                    continue;
                }
                let heartbeat = Box::new(heartbeat);
                self.plan_within(conditions.delay, Occurrence::Arrival { to, heartbeat });
            }
        }
    }

    fn step_end(&mut self, id: Id, step: Step, ticket: u32) {
        if self.members[id].ticket != ticket {
            return;
        }
        if self.members[id].fault == Some(StepFault::Fails(step)) {
            self.tell(id, Event::StepFailed { ticket });
            return;
        }
        match step {
            Step::StartMaster => {
                // A committed promotion is a new epoch.
                self.members[id].has_master = true;
                self.members[id].data.freshness.epoch += 1;
                self.report(id);
            }
            Step::StopMaster | Step::StopStray => self.members[id].has_master = false,
            Step::StopMetalogger => self.members[id].follows = None,
            _ => {}
        }
        let is_over = step == Step::RestoreMetadata;
        self.tell(id, Event::StepDone { ticket });
        if is_over {
            let (life, download) = (self.members[id].life, self.members[id].downloads);
            self.plan_within(
                (MS, 10 * MS),
                Occurrence::Looked {
                    of: id,
                    life,
                    download,
                },
            );
        }
    }

    fn report(&mut self, id: Id) {
        let metadata = self.members[id].data;
        self.tell(id, Event::MetadataChanged { metadata });
    }

    /// The directory was looked at: after a start, a resignation or a download.
    fn looked(&mut self, id: Id, download: u32) {
        if self.members[id].downloads != download {
            return;
        }
        if let Some(master) = self.members[id].follows {
            if !self.is_fed(id, master) {
                let life = self.members[id].life;
                let again = Occurrence::Looked {
                    of: id,
                    life,
                    download,
                };
                return self.plan_within((100 * MS, 300 * MS), again);
            }
            self.members[id].data = self.members[master].data;
        }
        self.touch(id);
        self.report(id);
        self.tell(id, Event::ReadinessChanged { ready: true });
    }

    fn is_fed(&self, id: Id, master: Id) -> bool {
        let serves = self.members[master].has_master && self.members[master].has_vip;
        serves && !self.cuts[master][id] && !self.cuts[id][master] && self.members[id].has_link
    }

    /// A standby downloads anew from whom it follows.
    fn follow(&mut self, id: Id, master: Id) {
        let member = &mut self.members[id];
        member.follows = Some(master);
        member.downloads += 1;
        let (life, download) = (member.life, member.downloads);
        self.touch(id);
        self.tell(id, Event::ReadinessChanged { ready: false });
        self.plan_within(
            (20 * MS, 200 * MS),
            Occurrence::Looked {
                of: id,
                life,
                download,
            },
        );
    }

    /// Whoever serves acknowledges changes; its followers have them soon, and say so later.
    fn write(&mut self) {
        for id in 0..self.members.len() {
            if self.plan.has_metadata && self.serves_clients(id) {
                self.members[id].data.freshness.version += 1 + self.rng.below(4);
                self.touch(id);
                if self.rng.percent(30) {
                    self.report(id);
                }
            }
            let Some(master) = self.members[id].follows else {
                continue;
            };
            let is_ready =
                self.members[id].data.freshness.epoch == self.members[master].data.freshness.epoch;
            if self.is_fed(id, master) && is_ready {
                self.members[id].data = self.members[master].data;
                self.touch(id);
                if self.rng.percent(10) {
                    self.report(id);
                }
            }
        }
        let at = self.now + WRITES;
        self.plan_at(at, Occurrence::Write);
    }

    /// Whether a client's change is acknowledged by this machine.
    fn serves_clients(&self, id: Id) -> bool {
        let member = &self.members[id];
        if self.plan.is_gated {
            // The mfsmaster of a daemon that hangs goes on for as long as the gate lets it.
            let is_open = member.kernel.is_open(member.clock.local(self.now));
            return member.has_master && is_open && member.kernel.gate.open & OPEN_CLIENTS != 0;
        }
        let phase = member.node.as_ref().map(|node| node.status().phase);
        let is_active = phase == Some(Phase::Active) && member.paused_until <= self.now;
        is_active && member.has_master
    }

    /// Lets the cluster come up and settle.
    pub(crate) fn start_all(&mut self) {
        for id in 0..self.plan.members() {
            self.start(id);
            let pause = self.rng.below(50 * MS);
            self.run_until(self.now + pause);
        }
        if self.rng.percent(50) {
            self.run_until(self.now + SECOND);
        }
    }
}
