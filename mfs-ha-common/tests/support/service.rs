//! What the rules say of serving, computed from the events alone: which step may be asked for when, when the
//! VIP goes, and what counts as a failure.

use std::time::Duration;

use mfs_ha_common::action::Action;
use mfs_ha_common::election::Reason;
use mfs_ha_common::election::carp::HOLD_DOWN;
use mfs_ha_common::event::Event;
use mfs_ha_common::promotion::{
    PROMOTE_LIMIT, PROMOTION, Phase, RESIGN_LIMIT, STABLE, STOP_LIMIT, STUCK_RETRY, Service, Step,
};
use mfs_ha_common::time::Timestamp;

use crate::checked::Turn;

/// A step that was asked for and not answered.
#[derive(Clone, Copy, Debug)]
struct Asked {
    step: Step,
    ticket: u32,
    by: Timestamp,
}

/// A resignation in progress (rule M3).
#[derive(Clone, Copy, Debug)]
struct Ending {
    since: Timestamp,
    released: Option<Timestamp>,
    is_master_gone: bool,
    is_restored: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Serving {
    service: Service,
    asked: Option<Asked>,
    /// The step whose end the event at hand told, and whether it was done.
    answered: Option<(Step, bool)>,
    tickets: u32,
    has_master: bool,
    ending: Option<Ending>,
    /// When serving was no longer in the way of a mastership.
    pub(crate) free_since: Timestamp,
    /// What the VIP was last asked to be, whether that was confirmed since, and when it was asked.
    pub(crate) wanted: Option<bool>,
    is_confirmed: bool,
    has_asked_for_vip: bool,
    vip_by: Option<Timestamp>,
    active_since: Option<Timestamp>,
    restarts: u8,
    pub(crate) failures: u8,
    pub(crate) is_ready: bool,
}

impl Serving {
    pub(crate) const fn new(service: Service) -> Self {
        Self {
            service,
            asked: None,
            answered: None,
            tickets: 0,
            has_master: false,
            ending: None,
            free_since: Timestamp::from_nanos(0),
            wanted: None,
            is_confirmed: false,
            has_asked_for_vip: false,
            vip_by: None,
            active_since: None,
            restarts: 0,
            failures: 0,
            is_ready: !service.is_metadata(),
        }
    }

    pub(crate) const fn has_metadata(&self) -> bool {
        self.service.is_metadata()
    }

    /// Nothing of an earlier service is in the way of a mastership.
    pub(crate) fn is_cleared(&self) -> bool {
        self.ending
            .is_none_or(|ending| ending.is_master_gone && ending.is_restored)
    }

    pub(crate) fn is_vip_gone(&self) -> bool {
        let is_gone = self.is_confirmed || (self.has_metadata() && !self.has_asked_for_vip);
        self.wanted != Some(true) && is_gone
    }

    /// When the VIP was asked to go in this resignation.
    pub(crate) fn released(&self) -> Option<Timestamp> {
        self.ending.and_then(|ending| ending.released)
    }

    /// Takes the facts of an event in, before what comes of it is looked at. Returns why the node cannot
    /// serve, where that follows.
    pub(crate) fn note_event(&mut self, turn: &Turn<'_>, has_overslept: bool) -> Option<Reason> {
        self.answered = None;
        let is_serving = matches!(turn.before.phase, Phase::Promoting | Phase::Active);
        let is_active = turn.before.phase == Phase::Active;
        // A sleeper gave everything up before the news.
        let is_serving = is_serving && !has_overslept;
        match turn.event {
            Event::VipSet { present } => {
                let is_as_asked = self.wanted == Some(present);
                self.is_confirmed |= is_as_asked;
                self.has_asked_for_vip &= !is_as_asked || present;
                if is_as_asked {
                    self.vip_by = None;
                }
            }
            Event::VipFailed { present } => {
                let misses = present && is_serving && self.wanted == Some(true);
                return misses.then_some(Reason::VipFailed);
            }
            Event::StepDone { ticket } => self.note_answer(turn, ticket, true, has_overslept),
            Event::StepFailed { ticket } => {
                self.note_answer(turn, ticket, false, has_overslept);
                let failed = self.answered.filter(|(step, _)| PROMOTION.contains(step));
                return failed.map(|_| Reason::PromotionFailed);
            }
            Event::MetadataMasterLost if is_serving && self.has_metadata() => {
                if !is_active {
                    return (self.wanted == Some(true)).then_some(Reason::PromotionFailed);
                }
                self.note_stability(turn.now);
                if self.restarts > 0 {
                    return Some(Reason::MetadataMasterLost);
                }
                self.restarts += 1;
                self.has_master = false;
            }
            Event::ReadinessChanged { ready } if self.has_metadata() => self.is_ready = ready,
            Event::Tick if !has_overslept => return self.note_deadlines(turn.now),
            Event::Tick
            | Event::MetadataMasterLost
            | Event::ReadinessChanged { .. }
            | Event::AdvertReceived { .. }
            | Event::LinkUp
            | Event::LinkDown
            | Event::SourceChanged { .. }
            | Event::HeartbeatReceived { .. }
            | Event::Stored { .. }
            | Event::MetadataChanged { .. }
            | Event::MetadataFrozen { .. }
            | Event::AdvertSent
            | Event::SendFailed
            | Event::StopRequested => {}
        }
        None
    }

    fn note_answer(&mut self, turn: &Turn<'_>, ticket: u32, is_done: bool, has_overslept: bool) {
        let asked = self.asked.filter(|asked| asked.ticket == ticket);
        let Some(asked) = asked.filter(|_| !has_overslept) else {
            return;
        };
        self.answered = Some((asked.step, is_done));
        self.asked = None;
        match (asked.step, is_done) {
            (Step::StartMaster, true) => self.has_master = true,
            (Step::StopMaster, true) => self.change_ending(|ending| ending.is_master_gone = true),
            // It is asked for again; that one's ticket is still the latest.
            (Step::StopMaster, false) => {
                let by = turn.now.after(STUCK_RETRY);
                self.asked = Some(Asked { by, ..asked });
            }
            (Step::RestoreMetadata, _) => {
                self.is_ready &= is_done;
                self.restored(turn.now);
            }
            _ => {}
        }
        if asked.step == Step::StopMaster {
            self.note_release(turn.now);
        }
    }

    fn note_deadlines(&mut self, now: Timestamp) -> Option<Reason> {
        if let Some(ending) = self.ending
            && ending.released.is_none()
            && ending.since.after(RESIGN_LIMIT) <= now
        {
            self.note_release(now);
        }
        if self.vip_by.is_some_and(|by| by <= now) {
            return Some(Reason::VipFailed);
        }
        let late = self.asked.filter(|asked| asked.by <= now)?;
        if late.step == Step::RestoreMetadata {
            self.asked = None;
            self.is_ready = false;
            self.restored(now);
        }
        PROMOTION
            .contains(&late.step)
            .then_some(Reason::PromotionFailed)
    }

    fn restored(&mut self, now: Timestamp) {
        self.change_ending(|ending| ending.is_restored = true);
        self.free_since = now;
    }

    fn note_release(&mut self, now: Timestamp) {
        self.change_ending(|ending| ending.released = ending.released.or(Some(now)));
    }

    fn change_ending(&mut self, change: impl FnOnce(&mut Ending)) {
        if let Some(ending) = self.ending.as_mut() {
            change(ending);
        }
    }

    /// Counts a failure and returns the hold-down that follows (rules E10 and M2).
    pub(crate) fn note_failure(&mut self, now: Timestamp) -> Duration {
        self.note_stability(now);
        if !self.has_metadata() {
            return HOLD_DOWN;
        }
        let spans = [10, 20, 40, 80, 160];
        let span = spans[usize::from(self.failures).min(4)];
        self.failures = self.failures.saturating_add(1);
        Duration::from_secs(span)
    }

    fn note_stability(&mut self, now: Timestamp) {
        if self
            .active_since
            .is_some_and(|since| now.since(since) >= STABLE)
        {
            (self.failures, self.restarts) = (0, 0);
        }
        self.active_since = None;
    }

    pub(crate) fn check_vip(&mut self, turn: &Turn<'_>, present: bool) {
        if self.has_metadata() && present {
            // Nothing is reachable before its master listens.
            assert_eq!(self.answered, Some((Step::StartMaster, true)), "{turn:?}");
        }
        if self.has_metadata() && !present {
            // The master first: what it acknowledged must not be more than what an heir can have.
            let is_news = matches!(turn.event, Event::LinkUp | Event::MetadataMasterLost);
            let is_its_turn = self.released() == Some(turn.now);
            assert!(is_news || is_its_turn, "{turn:?}");
        }
        self.wanted = Some(present);
        self.is_confirmed = false;
        self.has_asked_for_vip |= present;
        self.vip_by = present.then(|| turn.now.after(PROMOTE_LIMIT));
        if present {
            self.ending = None;
        } else if !self.has_metadata() && turn.before.phase != Phase::Standby {
            let ending = self.ending.get_or_insert(Ending {
                since: turn.now,
                released: None,
                is_master_gone: true,
                is_restored: true,
            });
            ending.released = ending.released.or(Some(turn.now));
        }
    }

    /// Steps come in order, each after the one before it was done.
    pub(crate) fn check_step(&mut self, turn: &Turn<'_>, step: Step, ticket: u32) {
        assert!(self.has_metadata(), "{turn:?}");
        self.tickets += 1;
        assert_eq!(ticket, self.tickets, "{turn:?}");
        let mut by = turn.now.after(self.service.limit(step));
        match step {
            Step::StopStray => {
                let is_restart = turn.event == Event::MetadataMasterLost;
                assert!(is_restart || turn.has_taken_over(), "{turn:?}");
                assert!(self.is_cleared(), "{turn:?}");
                (self.ending, self.has_master) = (None, false);
                if !is_restart {
                    self.restarts = 0;
                }
            }
            Step::StopMaster => {
                let again = self.asked.filter(|asked| asked.step == step);
                assert!(again.is_none_or(|asked| asked.by <= turn.now), "{turn:?}");
                by = turn.now.after(STUCK_RETRY);
                if again.is_none() {
                    by = turn.now.after(STOP_LIMIT);
                    self.note_stability(turn.now);
                    self.ending = Some(Ending {
                        since: turn.now,
                        released: None,
                        is_master_gone: false,
                        is_restored: false,
                    });
                }
                self.has_master = false;
                self.vip_by = None;
            }
            Step::RestoreMetadata => {
                let ending = self.ending.filter(|ending| ending.is_master_gone);
                let is_overdue = self
                    .released()
                    .is_some_and(|at| at.after(RESIGN_LIMIT) <= turn.now);
                assert!(ending.is_some(), "{turn:?}");
                assert!(self.is_vip_gone() || is_overdue, "{turn:?}");
            }
            Step::StopMetalogger
            | Step::Stage
            | Step::Verify
            | Step::Install
            | Step::RecordEpoch
            | Step::StartMaster => {
                let place = PROMOTION.iter().position(|known| *known == step);
                let before = place.and_then(|place| PROMOTION.get(place - 1));
                let done = self.answered.filter(|(_, is_done)| *is_done);
                assert_eq!(done.map(|(step, _)| step), before.copied(), "{turn:?}");
            }
            // The VIP has an action of its own, and the last one comes with a gate only, which `tests/gate.rs` is
            // about.
            Step::TakeVip | Step::ReleaseVip | Step::AdmitChunkservers => {
                assert!(!self.has_metadata(), "{turn:?}");
            }
        }
        self.asked = Some(Asked { step, ticket, by });
    }

    pub(crate) fn check_state(&mut self, turn: &Turn<'_>) {
        let after = &turn.after;
        let is_serving = matches!(after.phase, Phase::Promoting | Phase::Active);
        let is_active = after.phase == Phase::Active;
        let wants = self.wanted == Some(true);
        if self.has_metadata() {
            assert!(!is_active || (wants && self.has_master), "{turn:?}");
            assert!(!wants || after.phase != Phase::Standby, "{turn:?}");
            assert!(!wants || after.phase != Phase::Stuck, "{turn:?}");
        } else {
            assert_eq!(is_serving, wants, "{turn:?}");
        }
        assert!(!is_active || self.is_confirmed, "{turn:?}");
        if is_active != (turn.before.phase == Phase::Active)
            || turn.event == Event::MetadataMasterLost
        {
            self.active_since = is_active.then_some(turn.now);
        }
        // Not for longer than 200 ms without its master's end.
        if turn.event == Event::Tick
            && let Some(ending) = self.ending
        {
            assert!(
                !wants || ending.since.after(RESIGN_LIMIT) > turn.now,
                "{turn:?}"
            );
        }
        let is_unready = !self.is_ready && !is_serving;
        assert!(!is_unready || after.demotion.not_ready, "{turn:?}");
        assert!(!is_active || !after.demotion.not_ready, "{turn:?}");
        let counts = (after.ready, after.restarts, after.failures);
        assert_eq!(
            counts,
            (self.is_ready, self.restarts, self.failures),
            "{turn:?}"
        );
        if after.phase == Phase::Stuck {
            assert!(after.demotion.stuck && !self.is_cleared(), "{turn:?}");
        }
        if after.phase == Phase::Standby {
            assert!(self.is_cleared() && self.asked.is_none(), "{turn:?}");
            self.ending = None;
        }
        let shown = after.step.map(|running| running.step);
        let asked = self.asked.map(|asked| asked.step);
        let is_shown = asked.is_none() || shown == asked || turn.has_exited();
        assert!(is_shown, "{turn:?}");
    }
}

/// Says whether an action is the first of a resignation.
pub(crate) const fn begins_resignation(action: &Action, service: Service) -> bool {
    if service.is_metadata() {
        return matches!(
            action,
            Action::RunStep {
                step: Step::StopMaster,
                ..
            }
        );
    }
    matches!(action, Action::SetVip { present: false })
}
