//! Which step is under way, and what comes after it.
//!
//! The daemon carries out one step at a time; each request has a ticket, and only the answer to the latest
//! one counts. Rules M1 to M6 are stated in `docs/protocol.md`.
//!
//! Invariants: at most one step is under way; the VIP is asked for by [`Step::TakeVip`] only, or behind a gate
//! when the promotion begins; whoever leaves
//! `Promoting` or `Active` is on its way through all of [`RESIGNATION`](super::RESIGNATION).

use core::time::Duration;

use super::announcements::Announcements;
use super::steps::{RESIGN_LIMIT, STOP_LIMIT, Service, Step};
use super::{Phase, STABLE, STUCK_RETRY};
use crate::action::{Action, Actions, Hook};
use crate::election::carp::HOLD_DOWN;
use crate::election::{Reason, Timer};
use crate::gate::{OPEN_CHUNKSERVERS, OPEN_CLIENTS, OPEN_METALOGGERS};
use crate::time::Timestamp;

/// A local restart of the metadata master is tried once (rule M4).
const RESTARTS_MAX: u8 = 1;

/// The hold-down is doubled this often at most: to 160 s (rule M2).
const DOUBLINGS_MAX: u8 = 4;

/// The step that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RunningStep {
    /// Which one.
    pub step: Step,
    /// When it began; for a step that is asked for again, when that was done first.
    pub since: Timestamp,
    /// When it has taken too long, or is asked for again.
    pub by: Timestamp,
}

/// How far giving up has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Resignation {
    since: Timestamp,
    /// When the VIP was asked to go.
    released: Option<Timestamp>,
    /// It did not go in time, and is not waited for.
    is_vip_overdue: bool,
    is_master_gone: bool,
    is_restored: bool,
}

/// The way into service and out of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(crate) struct Promotion {
    service: Service,
    /// A gate in the kernel closes ports, so the VIP need not wait for the service.
    is_gated: bool,
    phase: Phase,
    running: Option<RunningStep>,
    ticket: u32,
    wants_vip: bool,
    is_vip_there: bool,
    is_vip_gone: bool,
    resignation: Option<Resignation>,
    active_since: Timestamp,
    announcements: Announcements,
    is_ready: bool,
    restarts: u8,
    failures: u8,
}

impl Promotion {
    /// Serves nothing yet.
    pub(crate) const fn new(service: Service, is_gated: bool) -> Self {
        Self {
            service,
            is_gated,
            phase: Phase::Standby,
            running: None,
            ticket: 0,
            wants_vip: false,
            is_vip_there: false,
            is_vip_gone: true,
            resignation: None,
            active_since: Timestamp::from_nanos(0),
            announcements: Announcements::EMPTY,
            is_ready: !service.is_metadata(),
            restarts: 0,
            failures: 0,
        }
    }

    /// Returns how far it is.
    pub(crate) const fn phase(&self) -> Phase {
        self.phase
    }

    /// Says whether this node could serve, as far as was told.
    pub(crate) const fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Returns the restarts of the metadata master since this node served for long.
    pub(crate) const fn restarts(&self) -> u8 {
        self.restarts
    }

    /// Returns the failures in a row since this node served for long.
    pub(crate) const fn failures(&self) -> u8 {
        self.failures
    }

    /// Says whether serving takes more than the VIP.
    pub(crate) const fn has_metadata(&self) -> bool {
        self.service.is_metadata()
    }

    /// Says whether the VIP is known to be gone.
    pub(crate) const fn is_vip_gone(&self) -> bool {
        self.is_vip_gone
    }

    /// Says whether nothing is left of an earlier service but, at worst, its VIP.
    pub(crate) fn is_cleared(&self) -> bool {
        self.resignation
            .is_none_or(|ending| ending.is_master_gone && ending.is_restored)
    }

    /// Says whether no metadata master of this node runs, as far as was told.
    pub(crate) fn is_master_gone(&self) -> bool {
        let is_gone = |ending: Resignation| ending.is_master_gone;
        !self.is_serving() && self.resignation.is_none_or(is_gone)
    }

    /// Says whether the node is on its way to serving, or serves.
    pub(crate) const fn is_serving(&self) -> bool {
        matches!(self.phase, Phase::Promoting | Phase::Active)
    }

    /// Returns which services may be talked to (rule G4), as in
    /// [`LeaseState::open`](crate::gate::LeaseState::open).
    pub(crate) fn open_services(&self) -> u32 {
        let is_admitting = self.is_running(Step::AdmitChunkservers);
        match self.phase {
            Phase::Active => OPEN_METALOGGERS | OPEN_CHUNKSERVERS | OPEN_CLIENTS,
            Phase::Promoting if is_admitting => OPEN_METALOGGERS | OPEN_CHUNKSERVERS,
            Phase::Standby | Phase::Promoting | Phase::Resigning | Phase::Stuck => 0,
        }
    }

    /// Returns when the VIP was asked to go, where this node gives up.
    pub(crate) fn released(&self) -> Option<Timestamp> {
        self.resignation.and_then(|ending| ending.released)
    }

    /// Returns what is under way.
    pub(crate) fn running(&self) -> Option<RunningStep> {
        let release = self.released().filter(|_| !self.is_vip_gone);
        self.running.or_else(|| {
            release.map(|since| RunningStep {
                step: Step::ReleaseVip,
                since,
                by: since.after(RESIGN_LIMIT),
            })
        })
    }

    /// Returns the next deadline.
    pub(crate) fn poll_timeout(&self) -> Option<(Timestamp, Timer)> {
        let running = self.running.map(|running| {
            let is_taking = running.step == Step::TakeVip;
            let timer = if is_taking {
                Timer::Promote
            } else {
                Timer::Step
            };
            (running.by, timer)
        });
        let announce = self
            .announcements
            .poll_timeout()
            .filter(|_| self.answers_for_vip())
            .map(|at| (at, Timer::Announce));
        [running, announce, self.release_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// When the VIP goes whatever the master does, and when it is not waited for any more (rule M3).
    fn release_timeout(&self) -> Option<(Timestamp, Timer)> {
        let ending = self.resignation?;
        let is_done = ending.is_restored || ending.is_vip_overdue || self.is_vip_gone;
        let at = match ending.released {
            Some(_) if is_done => return None,
            Some(released) => released,
            None => ending.since,
        };
        Some((at.after(RESIGN_LIMIT), Timer::Resign))
    }

    /// Begins to serve (rule M1).
    pub(crate) fn promote(&mut self, now: Timestamp, actions: &mut Actions) {
        self.restarts = 0;
        self.begin(now, actions);
    }

    fn begin(&mut self, now: Timestamp, actions: &mut Actions) {
        self.phase = Phase::Promoting;
        self.resignation = None;
        if self.is_gated && self.service.is_metadata() && !self.wants_vip {
            // Clients learn where the VIP is while the service is still made ready.
            self.ask_for_vip(true, actions);
        }
        let first = if self.service.is_metadata() {
            Step::StopStray
        } else {
            Step::TakeVip
        };
        self.run(now, first, actions);
    }

    /// Begins to give up (rule M3).
    pub(crate) fn resign(&mut self, now: Timestamp, actions: &mut Actions) {
        if !self.is_serving() {
            return;
        }
        let was_active = self.phase == Phase::Active;
        self.note_stability(now);
        self.phase = Phase::Resigning;
        self.running = None;
        let has_master = self.service.is_metadata();
        self.resignation = Some(Resignation {
            since: now,
            released: None,
            is_vip_overdue: false,
            is_master_gone: !has_master,
            is_restored: !has_master,
        });
        if has_master {
            self.run(now, Step::StopMaster, actions);
            self.set_limit(now.after(STOP_LIMIT));
        } else {
            self.release_vip(now, actions);
        }
        if was_active {
            actions.push(Action::RunHook(Hook::Down));
        }
    }

    /// Takes note of a step's end.
    pub(crate) fn step_done(&mut self, now: Timestamp, ticket: u32, actions: &mut Actions) {
        let Some(step) = self.answered(ticket) else {
            return;
        };
        self.running = None;
        if step == Step::StopMaster {
            self.phase = Phase::Resigning;
            self.change_resignation(|ending| ending.is_master_gone = true);
            self.release_vip(now, actions);
        } else if step == Step::RestoreMetadata {
            self.change_resignation(|ending| ending.is_restored = true);
        } else if step == Step::AdmitChunkservers {
            self.become_active(now, actions);
        } else if let Some(next) = step.next() {
            self.run(now, next, actions);
        }
    }

    /// Takes note of a step that could not be done. Returns why this node cannot serve, where that follows.
    pub(crate) fn step_failed(
        &mut self,
        now: Timestamp,
        ticket: u32,
        actions: &mut Actions,
    ) -> Option<Reason> {
        let step = self.answered(ticket)?;
        if step == Step::StopMaster {
            self.phase = Phase::Stuck;
            self.set_limit(now.after(STUCK_RETRY));
            self.release_vip(now, actions);
            return None;
        }
        if step == Step::RestoreMetadata {
            self.give_up_restoring();
            return None;
        }
        Some(Reason::PromotionFailed)
    }

    /// Takes note of the VIP.
    pub(crate) fn vip_set(&mut self, now: Timestamp, present: bool, actions: &mut Actions) {
        if !present {
            self.is_vip_gone |= !self.wants_vip;
            return;
        }
        if !self.wants_vip || !self.is_serving() {
            return;
        }
        if !core::mem::replace(&mut self.is_vip_there, true) {
            self.announcements = Announcements::EMPTY;
        }
        // Also where somebody took the address away and it was put back.
        self.announce(now, actions);
        if self.is_running(Step::TakeVip) {
            self.vip_taken(now, actions);
        }
    }

    /// Goes on after [`Step::TakeVip`].
    fn vip_taken(&mut self, now: Timestamp, actions: &mut Actions) {
        if self.is_gated && self.service.is_metadata() {
            self.run(now, Step::AdmitChunkservers, actions);
        } else {
            self.become_active(now, actions);
        }
    }

    fn become_active(&mut self, now: Timestamp, actions: &mut Actions) {
        self.running = None;
        self.phase = Phase::Active;
        self.active_since = now;
        actions.push(Action::RunHook(Hook::Up));
    }

    fn is_running(&self, step: Step) -> bool {
        self.running.is_some_and(|running| running.step == step)
    }

    /// Says whether this node answers for the VIP: behind a gate before it serves.
    const fn answers_for_vip(&self) -> bool {
        self.is_vip_there && self.is_serving()
    }

    /// Says whether a VIP that could not be set as asked is news.
    pub(crate) const fn misses_vip(&self, present: bool) -> bool {
        present && self.wants_vip && self.is_serving()
    }

    /// Takes note of a metadata master that died or hangs (rule M4). Returns why this node cannot serve,
    /// where that follows.
    pub(crate) fn master_lost(&mut self, now: Timestamp, actions: &mut Actions) -> Option<Reason> {
        let has_master = self.is_running(Step::TakeVip) || self.is_running(Step::AdmitChunkservers);
        match self.phase {
            Phase::Promoting if has_master && self.service.is_metadata() => {
                Some(Reason::PromotionFailed)
            }
            Phase::Active if self.service.is_metadata() => {
                self.note_stability(now);
                if self.restarts >= RESTARTS_MAX {
                    return Some(Reason::MetadataMasterLost);
                }
                self.restarts = self.restarts.saturating_add(1);
                // Without the address clients wait; with it, and without a gate, they would be refused.
                if !self.is_gated {
                    self.ask_for_vip(false, actions);
                }
                actions.push(Action::RunHook(Hook::Down));
                self.begin(now, actions);
                None
            }
            Phase::Standby | Phase::Promoting | Phase::Active | Phase::Resigning | Phase::Stuck => {
                None
            }
        }
    }

    /// Takes note of what was told of the metadata (rule M5).
    pub(crate) const fn readiness_changed(&mut self, ready: bool) {
        if self.service.is_metadata() {
            self.is_ready = ready;
        }
    }

    /// Counts a failure and returns how long the mastership is left to others (rules E10 and M2).
    pub(crate) fn failed(&mut self) -> Duration {
        if !self.service.is_metadata() {
            return HOLD_DOWN;
        }
        let doublings = self.failures.min(DOUBLINGS_MAX);
        self.failures = self.failures.saturating_add(1);
        HOLD_DOWN.saturating_mul(1_u32 << doublings)
    }

    /// Acts on deadlines that have passed. Returns why this node cannot serve, where that follows.
    pub(crate) fn tick(&mut self, now: Timestamp, actions: &mut Actions) -> Option<Reason> {
        self.release_in_time(now, actions);
        let late = self.running.filter(|running| running.by <= now)?;
        if late.step == Step::StopMaster {
            self.phase = Phase::Stuck;
            self.run(now, Step::StopMaster, actions);
            self.set_limit(now.after(STUCK_RETRY));
            return None;
        }
        if late.step == Step::RestoreMetadata {
            self.give_up_restoring();
            return None;
        }
        if late.step == Step::AdmitChunkservers {
            // Some do not come back. Files elsewhere are served without them.
            self.become_active(now, actions);
            return None;
        }
        let is_taking = late.step == Step::TakeVip;
        Some(if is_taking {
            Reason::VipFailed
        } else {
            Reason::PromotionFailed
        })
    }

    /// Goes on with a resignation as far as it can.
    pub(crate) fn settle(&mut self, now: Timestamp, actions: &mut Actions) {
        let Some(ending) = self.resignation else {
            return;
        };
        let may_restore = self.is_vip_gone || ending.is_vip_overdue;
        if ending.is_master_gone && ending.is_restored {
            if self.is_vip_gone {
                self.phase = Phase::Standby;
                self.resignation = None;
            }
        } else if ending.is_master_gone && may_restore && self.running.is_none() {
            self.run(now, Step::RestoreMetadata, actions);
        }
    }

    /// Announces the VIP of a node that serves (rule E9).
    pub(crate) fn announce(&mut self, now: Timestamp, actions: &mut Actions) {
        if self.answers_for_vip() && self.announcements.begin(now) {
            actions.push(Action::AnnounceVip);
        }
    }

    /// Announces with an advert what has to be announced then.
    pub(crate) fn advert_sent(&mut self, now: Timestamp, actions: &mut Actions) {
        if self.answers_for_vip() && self.announcements.advert_sent(now) {
            actions.push(Action::AnnounceVip);
        }
    }

    /// Announces what is due by time.
    pub(crate) fn announce_in_time(
        &mut self,
        now: Timestamp,
        is_leased: bool,
        actions: &mut Actions,
    ) {
        if self.answers_for_vip() && self.announcements.tick(now, is_leased) {
            actions.push(Action::AnnounceVip);
        }
    }

    fn run(&mut self, now: Timestamp, step: Step, actions: &mut Actions) {
        let since = self
            .running
            .filter(|running| running.step == step)
            .map_or(now, |running| running.since);
        let by = now.after(self.service.limit(step));
        self.running = Some(RunningStep { step, since, by });
        if step == Step::TakeVip {
            if self.is_vip_there {
                self.vip_taken(now, actions);
            } else if !self.wants_vip {
                self.ask_for_vip(true, actions);
            }
            return;
        }
        self.ticket = self.ticket.wrapping_add(1);
        let ticket = self.ticket;
        actions.push(Action::RunStep { step, ticket });
    }

    const fn set_limit(&mut self, by: Timestamp) {
        if let Some(running) = self.running.as_mut() {
            running.by = by;
        }
    }

    /// Returns the step that a ticket belongs to, if it is the one under way.
    fn answered(&self, ticket: u32) -> Option<Step> {
        let running = self.running?;
        let is_asked_for = running.step != Step::TakeVip && ticket == self.ticket;
        is_asked_for.then_some(running.step)
    }

    fn change_resignation(&mut self, change: impl FnOnce(&mut Resignation)) {
        if let Some(ending) = self.resignation.as_mut() {
            change(ending);
        }
    }

    fn release_in_time(&mut self, now: Timestamp, actions: &mut Actions) {
        if self.release_timeout().is_none_or(|(at, _)| at > now) {
            return;
        }
        if self.released().is_none() {
            self.release_vip(now, actions);
        } else {
            self.change_resignation(|ending| ending.is_vip_overdue = true);
        }
    }

    fn release_vip(&mut self, now: Timestamp, actions: &mut Actions) {
        if self.released().is_some() {
            return;
        }
        self.change_resignation(|ending| ending.released = Some(now));
        if self.wants_vip {
            self.ask_for_vip(false, actions);
        }
    }

    fn ask_for_vip(&mut self, present: bool, actions: &mut Actions) {
        self.wants_vip = present;
        self.is_vip_there = false;
        self.is_vip_gone = false;
        actions.push(Action::SetVip { present });
    }

    /// What is in the directory now, nobody knows: not ready until told.
    fn give_up_restoring(&mut self) {
        self.running = None;
        self.is_ready = false;
        self.change_resignation(|ending| ending.is_restored = true);
    }

    fn note_stability(&mut self, now: Timestamp) {
        if self.phase == Phase::Active && now.since(self.active_since) >= STABLE {
            self.restarts = 0;
            self.failures = 0;
        }
    }
}
