//! The same for nodes that serve metadata: rows in `metadata.txt`.

use mfs_ha_common::event::Event;
use mfs_ha_common::promotion::{PROMOTION, Step};

use super::{HIGH, LOW, Scene, Setting, require_rows};

const TABLE: &str = include_str!("metadata.txt");

const SITUATIONS: &[&str] = &[
    "md_following",
    "md_unready",
    "md_staging",
    "md_starting",
    "md_taking",
    "md_active",
    "md_restarting",
    "md_again",
    "md_gave_way",
    "md_releasing",
    "md_restoring",
    "md_failing",
    "md_restoring_failed",
    "md_held_down",
    "md_stuck",
    "md_cut_off",
    "md_stopping",
    "md_leaving",
];

const EVENTS: &[&str] = &[
    "better",
    "worse",
    "bow_out",
    "tick_early",
    "tick_due",
    "tick_slept",
    "step_late",
    "link_up",
    "link_down",
    "sent",
    "vip_true",
    "vip_false",
    "vip_fail_true",
    "step_done",
    "step_failed",
    "stale_done",
    "master_lost",
    "ready",
    "unready",
    "stop",
];

impl Scene {
    pub(super) fn build_metadata(&mut self, situation: &str) {
        match situation {
            "md_unready" => {
                self.build("listening");
                self.pause();
                self.step(self.hear(HIGH, self.priority(10), self.start));
            }
            "md_following" => {
                self.build("md_unready");
                self.step(Event::ReadinessChanged { ready: true });
            }
            "md_staging" => {
                self.build("md_following");
                self.start = self.deadline().unwrap();
                self.step(Event::Tick);
                self.promote_to(Step::Stage);
            }
            "md_starting" => {
                self.build("md_staging");
                self.promote_to(Step::StartMaster);
            }
            "md_taking" => {
                self.build("md_starting");
                self.step_done();
            }
            "md_active" => {
                self.build("md_taking");
                self.step(Event::VipSet { present: true });
                self.tick_for_three_seconds();
            }
            "md_restarting" => {
                self.build("md_active");
                self.step(Event::MetadataMasterLost);
            }
            "md_again" => {
                self.build("md_restarting");
                self.promote_to(Step::StartMaster);
                self.step_done();
                self.step(Event::VipSet { present: true });
            }
            other => self.build_ending(other),
        }
    }

    fn build_ending(&mut self, situation: &str) {
        match situation {
            "md_gave_way" => {
                self.build("md_active");
                self.step(self.hear(LOW, self.priority(10), self.start));
            }
            "md_releasing" => {
                self.build("md_gave_way");
                self.step_done();
            }
            "md_restoring" => {
                self.build("md_releasing");
                self.step(Event::VipSet { present: false });
            }
            "md_failing" => {
                self.build("md_staging");
                self.fail_step();
                self.hold_down = self.start.after(mfs_ha_common::election::carp::HOLD_DOWN);
            }
            "md_restoring_failed" => {
                self.build("md_failing");
                self.step_done();
            }
            "md_held_down" => {
                self.build("md_restoring_failed");
                self.step_done();
            }
            "md_stuck" => {
                self.build("md_gave_way");
                self.fail_step();
                self.step(Event::VipSet { present: false });
            }
            "md_cut_off" => {
                self.build("md_active");
                self.step(Event::LinkDown);
            }
            "md_stopping" => {
                self.build("md_active");
                self.step(Event::StopRequested);
            }
            "md_leaving" => {
                self.build("md_stopping");
                self.step_done();
                self.step(Event::VipSet { present: false });
            }
            other => panic!("`{other}` is no situation"),
        }
    }

    pub(super) fn metadata_event(&self, name: &str) -> Event {
        let ticket = self.ticket;
        match name {
            "step_late" => Event::Tick,
            "step_done" => Event::StepDone { ticket },
            "step_failed" => Event::StepFailed { ticket },
            "stale_done" => Event::StepDone {
                ticket: ticket.wrapping_sub(1),
            },
            "master_lost" => Event::MetadataMasterLost,
            "ready" => Event::ReadinessChanged { ready: true },
            "unready" => Event::ReadinessChanged { ready: false },
            other => panic!("`{other}` is no event"),
        }
    }

    fn promote_to(&mut self, step: Step) {
        let is_there = |scene: &Self| {
            let running = scene.node.status().step.unwrap();
            running.step == step
        };
        for _ in PROMOTION {
            if is_there(self) {
                return;
            }
            self.step_done();
        }
        panic!("{} was never asked for", step.name());
    }

    fn step_done(&mut self) {
        self.step(Event::StepDone {
            ticket: self.ticket,
        });
    }

    fn fail_step(&mut self) {
        self.step(Event::StepFailed {
            ticket: self.ticket,
        });
    }
}

#[test]
fn every_event_in_every_situation_of_a_node_with_metadata() {
    require_rows(TABLE, &Setting::all(true), SITUATIONS, EVENTS);
}
