//! One node: election and service wired together. The only decision maker that the daemon holds.
//!
//! [`Node::handle`] takes a fact and returns what to do about it. It reads no clock and does no I/O;
//! deadlines live inside and are re-read on every event, so a tick may come early, late or twice.
//! Invariants are listed and searched for violations in `tests/invariants.rs`.

use crate::action::{Action, Actions, Hook};
use crate::election::carp::{Decision, Demotion, Election, Followed, Settings};
use crate::election::{Reason, State, Timer, Transition};
use crate::event::Event;
use crate::net::Ipv4;
use crate::priority::Priority;
use crate::promotion::{Announcements, PROMOTE_LIMIT, Phase, RESIGN_LIMIT};
use crate::time::Timestamp;

/// What an operator configures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// The election's part.
    pub election: Settings,
    /// Do not call the down hook at start.
    pub neutral: bool,
}

/// What a node shows of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// CARP state.
    pub state: State,
    /// How far it is in serving.
    pub phase: Phase,
    /// The change that led to the state.
    pub last: Transition,
    /// What it advertises.
    pub priority: Priority,
    /// Why that is worse than configured.
    pub demotion: Demotion,
    /// The master that it follows.
    pub followed: Option<Followed>,
    /// What it waits for.
    pub next: Option<(Timestamp, Timer)>,
}

/// A farewell in progress: the VIP has to go first.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    reason: Reason,
    by: Timestamp,
}

/// One node.
#[derive(Clone, Debug)]
pub struct Node {
    election: Election,
    neutral: bool,
    has_listened: bool,
    phase: Phase,
    announcements: Announcements,
    /// When the VIP has to be there (rule E10).
    promote_by: Option<Timestamp>,
    leaving: Option<Leaving>,
    has_left: bool,
    last: Transition,
}

impl Node {
    /// Makes a node that waits for its link.
    #[must_use]
    pub const fn new(config: NodeConfig, now: Timestamp) -> Self {
        Self {
            election: Election::new(config.election),
            neutral: config.neutral,
            has_listened: false,
            phase: Phase::Standby,
            announcements: Announcements::EMPTY,
            promote_by: None,
            leaving: None,
            has_left: false,
            last: Transition {
                from: State::Init,
                to: State::Init,
                reason: Reason::Started,
                at: now,
            },
        }
    }

    /// Takes a fact and returns what to do about it.
    pub fn handle(&mut self, now: Timestamp, event: Event) -> Actions {
        let mut actions = Actions::default();
        if self.has_left {
            return actions;
        }
        // Who was replaced in its sleep steps down before anything else.
        if self.leaving.is_none() && self.election.was_replaced(now, heard_master(event)) {
            self.give_way(now, now, Reason::Overslept, &mut actions);
        }
        if self.leaving.is_none() {
            self.election.end_hold_down(now);
        }
        match event {
            Event::AdvertReceived {
                advert,
                source,
                arrival,
            } => {
                let theirs = advert.get().priority;
                self.advert_received(now, theirs, source, arrival, &mut actions);
            }
            Event::Tick => self.tick(now, &mut actions),
            Event::LinkUp => self.link_up(now, &mut actions),
            Event::LinkDown => self.link_down(now, &mut actions),
            Event::AdvertSent => self.election.send_finished(true),
            Event::SendFailed => self.election.send_finished(false),
            Event::SourceChanged { source } => self.election.set_source(source),
            Event::VipSet { present } => self.vip_set(now, present, &mut actions),
            Event::VipFailed { present } => self.vip_failed(now, present, &mut actions),
            Event::StopRequested => self.stop_requested(now, &mut actions),
        }
        actions
    }

    /// Returns when a [`Event::Tick`] is due, and what for. `None`: only another event can matter.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Timestamp, Timer)> {
        if self.has_left {
            return None;
        }
        let resign = self.leaving.map(|leaving| (leaving.by, Timer::Resign));
        let promote = self
            .promote_by
            .filter(|_| self.phase == Phase::Promoting)
            .map(|at| (at, Timer::Promote));
        let announce = self
            .announcements
            .poll_timeout()
            .filter(|_| self.phase == Phase::Active)
            .map(|at| (at, Timer::Announce));
        let election = self
            .election
            .poll_timeout()
            .filter(|_| self.has_election_timers());
        [election, resign, promote, announce]
            .into_iter()
            .flatten()
            .min()
    }

    /// Returns why this node advertises a worse priority than configured.
    #[must_use]
    pub const fn demotion(&self) -> Demotion {
        self.election.demotion()
    }

    /// Returns what this node advertises.
    #[must_use]
    pub fn priority(&self) -> Priority {
        self.election.priority()
    }

    /// Returns what to show.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        NodeStatus {
            state: self.election.state(),
            phase: self.phase,
            last: self.last,
            priority: self.election.priority(),
            demotion: self.election.demotion(),
            followed: self.election.followed(),
            next: self.poll_timeout(),
        }
    }

    fn advert_received(
        &mut self,
        now: Timestamp,
        theirs: Priority,
        source: Ipv4,
        arrival: Timestamp,
        actions: &mut Actions,
    ) {
        // A leaving master is not to be contested or replaced: its VIP goes first.
        if self.leaving.is_some() {
            return;
        }
        match self.election.advert_received(now, theirs, source, arrival) {
            Decision::Nothing | Decision::Advertise => {}
            Decision::TakeOver(reason) => self.take_over(now, reason, actions),
            Decision::GiveWay(reason) => self.give_way(now, arrival, reason, actions),
            Decision::Assert => {
                if self.phase == Phase::Active && self.announcements.begin(now) {
                    actions.push(Action::AnnounceVip);
                }
            }
        }
    }

    fn tick(&mut self, now: Timestamp, actions: &mut Actions) {
        if self.leaving.is_some_and(|leaving| leaving.by <= now) {
            self.leave(now, actions);
            return;
        }
        if self.phase == Phase::Promoting && self.promote_by.is_some_and(|by| by <= now) {
            self.vip_failed(now, true, actions);
        }
        match self.tick_election(now) {
            Decision::TakeOver(reason) => self.take_over(now, reason, actions),
            Decision::Advertise => {
                self.election.note_send(now);
                actions.push(Action::SendAdvert(self.election.priority()));
                if self.phase == Phase::Active && self.announcements.advert_sent(now) {
                    actions.push(Action::AnnounceVip);
                }
            }
            Decision::Nothing | Decision::GiveWay(_) | Decision::Assert => {}
        }
        if self.phase == Phase::Active && self.announcements.tick(now) {
            actions.push(Action::AnnounceVip);
        }
    }

    /// A leaving node still advertises as master, but does not become one.
    fn tick_election(&mut self, now: Timestamp) -> Decision {
        if self.has_election_timers() {
            self.election.tick(now)
        } else {
            Decision::Nothing
        }
    }

    fn has_election_timers(&self) -> bool {
        self.leaving.is_none() || self.election.state() == State::Master
    }

    fn link_up(&mut self, now: Timestamp, actions: &mut Actions) {
        if self.election.state() != State::Init || self.leaving.is_some() {
            return;
        }
        let transition = self.election.listen(now, Reason::LinkUp);
        // Whatever an earlier life left behind goes before this node listens.
        actions.push(Action::SetVip { present: false });
        if !self.has_listened && !self.neutral {
            actions.push(Action::RunHook(Hook::Down));
        }
        self.has_listened = true;
        self.report(transition, actions);
    }

    fn link_down(&mut self, now: Timestamp, actions: &mut Actions) {
        if self.election.state() == State::Init {
            return;
        }
        self.release_vip(actions);
        let transition = self.election.stop(now, Reason::LinkDown);
        self.report(transition, actions);
        // Nobody hears a farewell now, but the VIP goes before the daemon does.
        self.leaving = self
            .leaving
            .filter(|leaving| leaving.reason == Reason::Stopped);
    }

    fn vip_set(&mut self, now: Timestamp, present: bool, actions: &mut Actions) {
        match (self.phase, present) {
            (Phase::Promoting, true) => {
                self.phase = Phase::Active;
                self.election.vip_taken();
                self.announcements = Announcements::EMPTY;
                if self.announcements.begin(now) {
                    actions.push(Action::AnnounceVip);
                }
                actions.push(Action::RunHook(Hook::Up));
            }
            // Somebody took the address away and it was put back.
            (Phase::Active, true) => {
                if self.announcements.begin(now) {
                    actions.push(Action::AnnounceVip);
                }
            }
            (Phase::Resigning, false) => {
                self.phase = Phase::Standby;
                if self.leaving.is_some() {
                    self.leave(now, actions);
                }
            }
            (Phase::Standby, _) | (Phase::Promoting | Phase::Active, false) => {}
            (Phase::Resigning, true) => {}
        }
    }

    fn vip_failed(&mut self, now: Timestamp, present: bool, actions: &mut Actions) {
        let wants_vip = matches!(self.phase, Phase::Promoting | Phase::Active);
        if !present || !wants_vip {
            return;
        }
        self.election.vip_failed(now);
        self.begin_leaving(now, Reason::VipFailed, actions);
    }

    fn stop_requested(&mut self, now: Timestamp, actions: &mut Actions) {
        match (self.election.state(), self.phase) {
            // Nothing to give up.
            (State::Init | State::Backup, Phase::Standby) => {
                let transition = self.election.stop(now, Reason::Stopped);
                self.report(transition, actions);
                self.has_left = true;
                actions.push(Action::Exit);
            }
            _ => self.begin_leaving(now, Reason::Stopped, actions),
        }
    }

    /// Gives the VIP up; the farewell follows when it is gone, or after [`RESIGN_LIMIT`].
    fn begin_leaving(&mut self, now: Timestamp, reason: Reason, actions: &mut Actions) {
        self.release_vip(actions);
        let by = match self.leaving {
            Some(leaving) => leaving.by,
            None => now.after(RESIGN_LIMIT),
        };
        // A stop may follow a failure, but not the other way round: who leaves wants no VIP.
        self.leaving = Some(Leaving { reason, by });
    }

    /// Says farewell: the VIP is gone.
    fn leave(&mut self, now: Timestamp, actions: &mut Actions) {
        let Some(leaving) = self.leaving.take() else {
            return;
        };
        // After a long sleep somebody else is master, and ucarp would obey our farewell for it.
        if self.election.state() == State::Master && !self.election.is_late(now) {
            actions.push(Action::SendAdvert(Priority::BOW_OUT));
        }
        if leaving.reason == Reason::Stopped {
            let transition = self.election.stop(now, Reason::Stopped);
            self.report(transition, actions);
            self.has_left = true;
            actions.push(Action::Exit);
        } else {
            self.election.end_hold_down(now);
            let transition = self.election.give_way(now, now, leaving.reason);
            self.report(transition, actions);
        }
    }

    fn take_over(&mut self, now: Timestamp, reason: Reason, actions: &mut Actions) {
        let transition = self.election.take_over(now, reason);
        // The advert first: it is what keeps other backups from doing the same.
        actions.push(Action::SendAdvert(self.election.priority()));
        actions.push(Action::SetVip { present: true });
        self.phase = Phase::Promoting;
        self.promote_by = Some(now.after(PROMOTE_LIMIT));
        self.report(transition, actions);
    }

    fn give_way(
        &mut self,
        now: Timestamp,
        heard: Timestamp,
        reason: Reason,
        actions: &mut Actions,
    ) {
        self.release_vip(actions);
        // One more advert lets the other master announce itself after us. After a long sleep it would
        // only disturb.
        if reason != Reason::Overslept {
            actions.push(Action::SendAdvert(self.election.priority()));
        }
        let transition = self.election.give_way(now, heard, reason);
        self.report(transition, actions);
    }

    fn release_vip(&mut self, actions: &mut Actions) {
        if !matches!(self.phase, Phase::Promoting | Phase::Active) {
            return;
        }
        actions.push(Action::SetVip { present: false });
        if self.phase == Phase::Active {
            actions.push(Action::RunHook(Hook::Down));
        }
        self.phase = Phase::Resigning;
    }

    fn report(&mut self, transition: Transition, actions: &mut Actions) {
        self.last = transition;
        actions.push(Action::Report(transition));
    }
}

/// Returns when an advert of a master arrived, where the event is one.
fn heard_master(event: Event) -> Option<Timestamp> {
    if let Event::AdvertReceived {
        advert, arrival, ..
    } = event
        && advert.get().priority != Priority::BOW_OUT
    {
        return Some(arrival);
    }
    None
}
