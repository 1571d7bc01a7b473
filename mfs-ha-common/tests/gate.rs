//! What a node wants of the gate, through a whole life: who may be reached, when, and until when.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::num::NonZeroU8;
use std::time::Duration;

use mfs_ha_common::action::{Action, Hook};
use mfs_ha_common::election::State;
use mfs_ha_common::election::carp::Settings;
use mfs_ha_common::event::Event;
use mfs_ha_common::gate::{Gate, OPEN_CHUNKSERVERS, OPEN_CLIENTS, OPEN_METALOGGERS};
use mfs_ha_common::node::{Node, NodeConfig};
use mfs_ha_common::priority::Priority;
use mfs_ha_common::promotion::{ADMIT_LIMIT, PROMOTION, Phase, Service, Step};
use mfs_ha_common::time::Timestamp;

const BOOTED: Timestamp = Timestamp::from_nanos(1_000_000_000);
const PRIORITY: Priority = Priority::new(0, 10);
const ALL: u32 = OPEN_METALOGGERS | OPEN_CHUNKSERVERS | OPEN_CLIENTS;

/// A lone node of carp mode, which becomes master by silence, and what it asked for last.
struct Lone {
    node: Node,
    now: Timestamp,
    last: Vec<Action>,
}

impl Lone {
    fn new(service: Service, is_gated: bool) -> Self {
        let config = NodeConfig {
            election: Settings {
                priority: PRIORITY,
                deadratio: NonZeroU8::new(3).unwrap(),
                preempt: false,
                source: [10, 0, 0, 1],
                has_sole_peer: false,
            },
            quorum: None,
            neutral: true,
            service,
            is_gated,
        };
        let mut lone = Self {
            node: Node::new(config, BOOTED),
            now: BOOTED,
            last: Vec::new(),
        };
        lone.tell(Event::LinkUp);
        lone.tell(Event::ReadinessChanged { ready: true });
        lone
    }

    fn tell(&mut self, event: Event) -> &[Action] {
        self.last = self.node.handle(self.now, event).into_iter().collect();
        &self.last
    }

    /// Waits for whatever is due next.
    fn pass(&mut self) {
        self.now = self.node.poll_timeout().unwrap().0;
        self.tell(Event::Tick);
    }

    fn become_master(&mut self) {
        while self.node.status().state != State::Master {
            self.pass();
        }
    }

    /// Answers the step that was asked for last.
    fn finish(&mut self, step: Step) {
        let ticket = self.ticket(step).unwrap();
        self.tell(Event::StepDone { ticket });
    }

    fn ticket(&self, wanted: Step) -> Option<u32> {
        self.last.iter().find_map(|action| {
            if let Action::RunStep { step, ticket } = action {
                return (*step == wanted).then_some(*ticket);
            }
            None
        })
    }

    fn asks_for_vip(&self) -> Option<bool> {
        self.last.iter().find_map(|action| {
            if let Action::SetVip { present } = action {
                return Some(*present);
            }
            None
        })
    }

    fn gate(&self) -> Gate {
        self.node.gate()
    }

    /// The VIP is there; what was asked for before is still to be answered.
    fn give_vip(&mut self) {
        let asked = std::mem::take(&mut self.last);
        self.tell(Event::VipSet { present: true });
        self.last = asked;
    }

    /// Does all steps until the VIP's turn.
    fn promote(&mut self) {
        for step in PROMOTION {
            if step == Step::TakeVip {
                return;
            }
            assert_eq!(self.gate().open, 0, "{step:?}");
            self.finish(step);
        }
    }

    /// Serves.
    fn serve(&mut self) {
        self.become_master();
        self.give_vip();
        self.promote();
        self.finish(Step::AdmitChunkservers);
        assert_eq!(self.node.status().phase, Phase::Active);
    }
}

#[test]
fn behind_a_gate_the_vip_comes_at_once_and_services_follow() {
    let mut lone = Lone::new(Service::METADATA, true);
    lone.become_master();
    assert_eq!(lone.asks_for_vip(), Some(true));
    assert!(lone.gate().is_open(lone.now));
    let steps = lone.last.clone();
    assert!(
        lone.tell(Event::VipSet { present: true })
            .contains(&Action::AnnounceVip)
    );
    assert_eq!(lone.node.status().phase, Phase::Promoting);
    lone.last = steps;
    lone.promote();
    // The VIP has been there for long.
    assert_eq!(lone.gate().open, OPEN_METALOGGERS | OPEN_CHUNKSERVERS);
    lone.finish(Step::AdmitChunkservers);
    assert_eq!(lone.last, [Action::RunHook(Hook::Up)]);
    assert_eq!(lone.gate().open, ALL);
    assert_eq!(lone.node.status().phase, Phase::Active);
}

#[test]
fn a_vip_that_comes_late_is_waited_for() {
    let mut lone = Lone::new(Service::METADATA, true);
    lone.become_master();
    lone.promote();
    assert_eq!(lone.gate().open, 0);
    assert_eq!(lone.last, []);
    lone.tell(Event::VipSet { present: true });
    assert!(lone.last.contains(&Action::AnnounceVip));
    lone.finish(Step::AdmitChunkservers);
    assert_eq!(lone.gate().open, ALL);
}

#[test]
fn without_a_gate_the_vip_comes_last() {
    let mut lone = Lone::new(Service::METADATA, false);
    lone.become_master();
    assert_eq!(lone.asks_for_vip(), None);
    lone.promote();
    assert_eq!(lone.asks_for_vip(), Some(true));
    lone.tell(Event::VipSet { present: true });
    assert_eq!(lone.last, [Action::AnnounceVip, Action::RunHook(Hook::Up)]);
    assert_eq!(lone.node.status().phase, Phase::Active);
}

#[test]
fn chunkservers_that_do_not_come_do_not_keep_a_node_from_serving() {
    let mut lone = Lone::new(Service::METADATA, true);
    lone.become_master();
    lone.give_vip();
    lone.promote();
    let end = lone.now.after(ADMIT_LIMIT);
    while lone.node.status().phase == Phase::Promoting {
        lone.pass();
    }
    assert_eq!(lone.now, end);
    assert_eq!(lone.node.status().phase, Phase::Active);
    assert_eq!(lone.node.status().failures, 0);
    assert_eq!(lone.gate().open, ALL);
}

#[test]
fn a_master_that_ends_while_chunkservers_come_ends_the_promotion() {
    let mut lone = Lone::new(Service::METADATA, true);
    lone.become_master();
    lone.give_vip();
    lone.promote();
    let ticket = lone.ticket(Step::AdmitChunkservers).unwrap();
    lone.tell(Event::StepFailed { ticket });
    assert_eq!(lone.gate(), Gate::CLOSED);
    assert_eq!(lone.node.status().phase, Phase::Resigning);
    assert_eq!(lone.node.status().failures, 1);
}

#[test]
fn a_restart_in_place_closes_the_ports_and_keeps_the_vip() {
    let mut lone = Lone::new(Service::METADATA, true);
    lone.serve();
    lone.tell(Event::MetadataMasterLost);
    assert_eq!(lone.asks_for_vip(), None);
    assert!(lone.gate().is_open(lone.now));
    assert_eq!(lone.gate().open, 0);
    lone.promote();
    assert_eq!(lone.gate().open, OPEN_METALOGGERS | OPEN_CHUNKSERVERS);
    lone.finish(Step::AdmitChunkservers);
    assert_eq!(lone.gate().open, ALL);
}

#[test]
fn who_gives_up_is_closed_before_anything_is_done() {
    let mut lone = Lone::new(Service::METADATA, true);
    lone.serve();
    for event in [Event::StopRequested, Event::LinkDown] {
        let mut leaving = Lone {
            node: lone.node.clone(),
            now: lone.now,
            last: Vec::new(),
        };
        leaving.tell(event);
        assert_eq!(leaving.gate(), Gate::CLOSED, "{event:?}");
        assert!(leaving.ticket(Step::StopMaster).is_some(), "{event:?}");
        assert_eq!(leaving.asks_for_vip(), None, "{event:?}");
    }
}

/// Rule G5.
#[test]
fn each_advert_keeps_the_gate_open_for_as_long_as_peers_would_wait() {
    let mut lone = Lone::new(Service::Vip, true);
    assert_eq!(lone.gate(), Gate::CLOSED);
    lone.become_master();
    let span: Duration = PRIORITY.interval() * 3;
    for _ in 0..5 {
        let gate = lone.gate();
        assert_eq!((gate.until, gate.epoch), (lone.now.after(span), 0));
        lone.pass();
        let is_advert = |action: &Action| matches!(action, Action::SendAdvert(_));
        assert!(lone.last.iter().any(is_advert));
    }
    // Nothing but an advert prolongs it.
    let before = lone.gate();
    lone.now = lone.now.after(Duration::from_millis(1));
    lone.tell(Event::VipSet { present: true });
    lone.tell(Event::Tick);
    assert_eq!(lone.gate().until, before.until);
}
