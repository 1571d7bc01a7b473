//! The steps of promotion and resignation in the simulated world: they take their time, fail, hang, and end
//! with a metadata master that runs or does not.

use std::time::Duration;

use mfs_ha_common::event::Event;
use mfs_ha_common::net::Ipv4;
use mfs_ha_common::promotion::Step;

use super::{Id, Mind, Occurrence, World};

/// How long a metalogger needs until its node is ready.
const DOWNLOAD: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// What is wrong with a member's steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StepFault {
    /// This one cannot be done.
    Fails(Step),
    /// This one never ends.
    Hangs(Step),
    /// Each one may fail or hang, with this chance in percent.
    Either(u64),
}

impl World {
    pub(crate) fn set_step_fault(&mut self, id: Id, fault: Option<StepFault>) {
        self.note(id, &format!("has steps with fault {fault:?}"));
        self.members[id].step_fault = fault;
    }

    /// The metadata master dies, and the daemon sees it.
    pub(crate) fn kill_master(&mut self, id: Id) {
        if !self.members[id].has_master {
            return;
        }
        self.note(id, "loses its metadata master");
        self.members[id].has_master = false;
        self.tell(id, Event::MetadataMasterLost);
    }

    /// What a member has of the metadata is, or is not, good for anything.
    pub(crate) fn set_ready(&mut self, id: Id, ready: bool) {
        self.note(id, if ready { "is ready" } else { "is not ready" });
        self.members[id].downloads_in_vain = !ready;
        self.tell(id, Event::ReadinessChanged { ready });
    }

    /// Members whose metadata can be reached.
    pub(crate) fn servers(&self) -> Vec<Id> {
        self.all(|member| member.has_vip && member.has_master)
    }

    pub(super) fn run_step(&mut self, id: Id, step: Step, asked: u32) {
        let life = self.members[id].life;
        if let Mind::Node { ticket, .. } = &mut self.members[id].mind {
            *ticket = asked;
        }
        let hangs = match self.members[id].step_fault {
            Some(StepFault::Hangs(hanging)) => hanging == step,
            Some(StepFault::Either(chance)) => self.rng.percent(chance),
            Some(StepFault::Fails(_)) | None => false,
        };
        if hangs {
            self.note(id, &format!("hangs in {}", step.name()));
            return;
        }
        let (low, high) = self.conditions.step;
        let at = self.now.after(self.rng.between(low, high));
        let ticket = asked;
        self.plan(
            at,
            Occurrence::StepEnd {
                of: id,
                life,
                step,
                ticket,
            },
        );
    }

    /// Only the latest step counts: an earlier one was given up for it.
    pub(super) fn step_end(&mut self, id: Id, lived: u32, step: Step, ended: u32) {
        let is_latest = match &self.members[id].mind {
            Mind::Node { ticket, .. } => *ticket == ended && self.members[id].life == lived,
            Mind::Ucarp(_) | Mind::Gone => false,
        };
        if !is_latest {
            return;
        }
        let fails = match self.members[id].step_fault {
            Some(StepFault::Fails(failing)) => failing == step,
            Some(StepFault::Either(chance)) => self.rng.percent(chance),
            Some(StepFault::Hangs(_)) | None => false,
        };
        if fails {
            self.note(id, &format!("fails in {}", step.name()));
            self.tell(id, Event::StepFailed { ticket: ended });
            return;
        }
        if matches!(step, Step::StartMaster) {
            self.members[id].has_master = true;
        } else if matches!(step, Step::StopMaster | Step::StopStray) {
            self.members[id].has_master = false;
        }
        self.note(id, &format!("has done {}", step.name()));
        self.tell(id, Event::StepDone { ticket: ended });
    }

    /// A standby that follows another master downloads its metadata.
    pub(super) fn follow(&mut self, id: Id, source: Ipv4) {
        self.note(id, &format!("follows {source:?}"));
        let life = self.members[id].life;
        let (low, high) = DOWNLOAD;
        let at = self.now.after(self.rng.between(low, high));
        self.plan(at, Occurrence::Ready { of: id, life });
    }

    pub(super) fn become_ready(&mut self, id: Id, lived: u32) {
        if self.members[id].life == lived && !self.members[id].downloads_in_vain {
            self.tell(id, Event::ReadinessChanged { ready: true });
        }
    }
}
