//! One node: election and service wired together. The only decision maker that the daemon holds.
//!
//! [`Node::handle`] takes a fact and returns what to do about it. It reads no clock and does no I/O;
//! deadlines live inside and are re-read on every event, so a tick may come early, late or twice.
//! Invariants are listed and searched for violations in `tests/invariants.rs`.

use crate::action::{Action, Actions, Hook};
use crate::cluster::NodeId;
use crate::election::carp::{self, Decision, Demotion, Followed, Settings, Standing};
use crate::election::quorum::{self, LeaseStatus, MemberStatus};
use crate::election::{Elector, Reason, State, Timer, Transition};
use crate::event::Event;
use crate::gate::Gate;
use crate::heartbeat::Heartbeat;
use crate::net::Ipv4;
use crate::priority::Priority;
use crate::promotion::{EXIT_LIMIT, Phase, Promotion, RESIGN_LIMIT, RunningStep, Service};
use crate::time::Timestamp;

/// What an operator configures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct NodeConfig {
    /// The part of carp mode.
    pub election: Settings,
    /// The part of quorum mode; `None` for carp mode.
    pub quorum: Option<quorum::Settings>,
    /// Do not call the down hook at start.
    pub neutral: bool,
    /// What it serves.
    pub service: Service,
    /// A gate in the kernel keeps [`Node::gate`]: the VIP need not wait for the service.
    pub is_gated: bool,
}

/// What a node shows of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// CARP state.
    pub state: State,
    /// How far it is in serving.
    pub phase: Phase,
    /// The step of promotion or resignation that is under way.
    pub step: Option<RunningStep>,
    /// Whether it could serve what it has. Always, where that is the VIP alone.
    pub ready: bool,
    /// Restarts of the metadata master here since it served for long (rule M4).
    pub restarts: u8,
    /// Failures in a row to serve metadata since it served for long (rule M2).
    pub failures: u8,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
struct Leaving {
    reason: Reason,
    since: Timestamp,
    /// When a node that is told to end does so, whatever is not undone.
    exit_by: Option<Timestamp>,
    has_said_farewell: bool,
    is_overdue: bool,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Node {
    election: Elector,
    promotion: Promotion,
    neutral: bool,
    has_listened: bool,
    /// The master that the daemon was told to follow last (rule M6).
    told: Option<Ipv4>,
    leaving: Option<Leaving>,
    has_left: bool,
    last: Transition,
    /// When the last event came.
    at: Timestamp,
}

impl Node {
    /// Makes a node that waits for its link.
    ///
    /// # Panics
    /// In quorum mode a node has to be a member of its cluster; the configuration is checked for that.
    #[must_use]
    pub fn new(config: NodeConfig, now: Timestamp) -> Self {
        let mut node = Self {
            election: elector(&config, now),
            promotion: Promotion::new(config.service, config.is_gated),
            neutral: config.neutral,
            has_listened: false,
            told: None,
            leaving: None,
            has_left: false,
            last: Transition {
                from: State::Init,
                to: State::Init,
                reason: Reason::Started,
                at: now,
            },
            at: now,
        };
        node.set_standing(now);
        node
    }

    /// Takes a fact and returns what to do about it.
    pub fn handle(&mut self, now: Timestamp, event: Event) -> Actions {
        let mut actions = Actions::default();
        if self.has_left || self.is_early(now, event) {
            return actions;
        }
        self.at = now;
        // Who was replaced in its sleep, or slept past its lease, steps down before anything else.
        if self.leaving.is_none()
            && let Some(reason) = self.election.lost(now, event)
        {
            self.give_way(now, now, reason, &mut actions);
        }
        // While leaving it is a master's own timer that says so, and that is for ticks.
        if self.leaving.is_none() || (event == Event::Tick && self.has_election_timers()) {
            self.election.end_hold_down(now);
        }
        self.set_standing(now);
        self.take_in(now, event, &mut actions);
        self.settle(now, &mut actions);
        actions
    }

    /// What an early tick would find is found at the deadline, or when something is heard. In carp mode there is
    /// nothing to be found between two deadlines.
    fn is_early(&self, now: Timestamp, event: Event) -> bool {
        let is_due = |(at, _): (Timestamp, Timer)| at <= now;
        let asks_majority = self.election.quorum().is_some();
        asks_majority && event == Event::Tick && !self.poll_timeout().is_some_and(is_due)
    }

    /// Returns when a [`Event::Tick`] is due, and what for. `None`: only another event can matter.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Timestamp, Timer)> {
        if self.has_left {
            return None;
        }
        let farewell = self.farewell_by();
        let resign = farewell.or_else(|| self.exit_by());
        let election = self
            .election
            .poll_timeout(self.at, self.has_election_timers());
        let resign = resign.map(|at| (at, Timer::Resign));
        [election, resign, self.promotion.poll_timeout()]
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
            phase: self.promotion.phase(),
            step: self.promotion.running(),
            ready: self.promotion.is_ready(),
            restarts: self.promotion.restarts(),
            failures: self.promotion.failures(),
            last: self.last,
            priority: self.election.priority(),
            demotion: self.election.demotion(),
            followed: self.election.followed(self.at),
            next: self.poll_timeout(),
        }
    }

    /// Returns what the round of heartbeats that [`Action::SendHeartbeats`] asked for has for a member.
    #[must_use]
    pub fn heartbeat(&self, to: NodeId) -> Option<Heartbeat> {
        self.election.quorum()?.heartbeat(to)
    }

    /// Returns the lease as this node sees it; `None` in carp mode.
    #[must_use]
    pub fn lease(&self, now: Timestamp) -> Option<LeaseStatus> {
        self.election.quorum().map(|election| election.status(now))
    }

    /// Returns the other members; none in carp mode.
    pub fn members(&self, now: Timestamp) -> impl Iterator<Item = MemberStatus> + '_ {
        let election = self.election.quorum();
        election
            .into_iter()
            .flat_map(move |election| election.member_statuses(now))
    }

    /// Returns what the gate has to be after the last event. It is to be told before anything else is done
    /// about that event.
    #[must_use]
    pub fn gate(&self) -> Gate {
        let held = self
            .election
            .held()
            .filter(|_| self.promotion.is_serving() && !self.has_left);
        held.map_or(Gate::CLOSED, |(until, epoch)| Gate {
            until,
            epoch,
            open: self.promotion.open_services(),
        })
    }

    fn take_in(&mut self, now: Timestamp, event: Event, actions: &mut Actions) {
        let served = self.promotion.phase() == Phase::Active;
        self.note(now, event, actions);
        if !served && self.promotion.phase() == Phase::Active {
            self.election.service_began(now);
        }
    }

    fn note(&mut self, now: Timestamp, event: Event, actions: &mut Actions) {
        match event {
            Event::AdvertReceived {
                advert,
                source,
                arrival,
            } => {
                let theirs = advert.get().priority;
                self.advert_received(now, theirs, source, arrival, actions);
            }
            Event::Tick => self.tick(now, actions),
            Event::LinkUp => self.link_up(now, actions),
            Event::LinkDown => self.link_down(now, actions),
            Event::AdvertSent => self.send_finished(true),
            Event::SendFailed => self.send_finished(false),
            Event::SourceChanged { source } => {
                if let Some(election) = self.election.carp_mut() {
                    election.set_source(source);
                }
            }
            Event::VipSet { present } => {
                self.promotion.vip_set(now, present, actions);
            }
            Event::VipFailed { present } => {
                if self.promotion.misses_vip(present) {
                    self.fail(now, Reason::VipFailed, actions);
                }
            }
            Event::StepDone { ticket } => self.promotion.step_done(now, ticket, actions),
            Event::StepFailed { ticket } => {
                if let Some(reason) = self.promotion.step_failed(now, ticket, actions) {
                    self.fail(now, reason, actions);
                }
            }
            Event::MetadataMasterLost => {
                if let Some(reason) = self.promotion.master_lost(now, actions) {
                    self.fail(now, reason, actions);
                }
            }
            Event::HeartbeatReceived { heartbeat, arrival } => {
                self.tell_quorum(|election| {
                    election.heartbeat_received(now, heartbeat.get(), arrival);
                });
            }
            Event::Stored { durable } => self.tell_quorum(|election| election.stored(now, durable)),
            Event::MetadataChanged { metadata } => {
                self.tell_quorum(|election| election.metadata_changed(now, metadata));
            }
            Event::MetadataFrozen { metadata } => {
                self.tell_quorum(|election| election.metadata_frozen(now, metadata));
                // Whoever is master next is followed anew.
                self.told = None;
            }
            Event::ReadinessChanged { ready } => {
                self.promotion.readiness_changed(ready);
                self.tell_quorum(quorum::Election::settled);
            }
            Event::StopRequested => self.stop_requested(now, actions),
        }
    }

    /// Tells the election of a cluster; in carp mode there is none.
    fn tell_quorum(&mut self, tell: impl FnOnce(&mut quorum::Election)) {
        if let Some(election) = self.election.quorum_mut() {
            tell(election);
        }
    }

    /// Only carp mode judges a node by its adverts.
    fn send_finished(&mut self, is_ok: bool) {
        if let Some(election) = self.election.carp_mut() {
            election.send_finished(is_ok);
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
        let Some(election) = self.election.carp_mut() else {
            return;
        };
        match election.advert_received(now, theirs, source, arrival) {
            Decision::Nothing | Decision::Advertise => {}
            Decision::TakeOver(reason) => self.take_over(now, reason, actions),
            Decision::GiveWay(reason) => self.give_way(now, arrival, reason, actions),
            Decision::Assert => self.promotion.announce(now, actions),
        }
    }

    fn tick(&mut self, now: Timestamp, actions: &mut Actions) {
        self.tell_quorum(|election| election.tick(now));
        if let Some(reason) = self.promotion.tick(now, actions) {
            self.fail(now, reason, actions);
        }
        let is_due = self.farewell_by().is_some_and(|by| by <= now) || self.may_leave();
        // Who slept that long while it was leaving has left as far as its peers are concerned (rule E8).
        let was_replaced = self.leaving.is_some() && self.election.lost(now, Event::Tick).is_some();
        let is_leaving = is_due || was_replaced;
        if is_leaving {
            self.leave(now, actions);
        }
        let is_overdue = self.exit_by().is_some_and(|by| by <= now);
        if let Some(leaving) = self.leaving.as_mut() {
            leaving.is_overdue = is_overdue;
        }
        if is_leaving {
            return;
        }
        self.set_standing(now);
        match self.tick_election(now) {
            Decision::TakeOver(reason) => self.take_over(now, reason, actions),
            Decision::Advertise => {
                self.election.note_send(now);
                actions.push(Action::SendAdvert(self.election.priority()));
                self.promotion.advert_sent(now, actions);
            }
            Decision::Nothing | Decision::GiveWay(_) | Decision::Assert => {}
        }
        let is_leased = self.election.quorum().is_some();
        self.promotion.announce_in_time(now, is_leased, actions);
    }

    /// A leaving node still advertises as master, but does not become one.
    fn tick_election(&mut self, now: Timestamp) -> Decision {
        let may_decide = self.has_election_timers();
        self.election.tick(now, may_decide)
    }

    fn has_election_timers(&self) -> bool {
        self.leaving.is_none() || self.election.state() == State::Master
    }

    fn link_up(&mut self, now: Timestamp, actions: &mut Actions) {
        if self.election.state() != State::Init || self.leaving.is_some() {
            return;
        }
        let transition = self.election.listen(now, Reason::LinkUp);
        // Whatever an earlier life left behind goes before this node listens. In a resignation it has its turn.
        if self.promotion.is_cleared() {
            actions.push(Action::SetVip { present: false });
        }
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
        self.resign(now, actions);
        let transition = self.election.stop(now, Reason::LinkDown);
        self.report(transition, actions);
        // Nobody hears a farewell now, but the VIP goes before the daemon does.
        self.leaving = self
            .leaving
            .filter(|leaving| leaving.reason == Reason::Stopped);
    }

    fn stop_requested(&mut self, now: Timestamp, actions: &mut Actions) {
        match (self.election.state(), self.promotion.phase()) {
            // Nothing to give up.
            (State::Init | State::Backup, Phase::Standby) => {
                let transition = self.election.stop(now, Reason::Stopped);
                self.report(transition, actions);
                self.has_left = true;
                // Whoever granted it anything need not wait.
                self.tell_quorum(|election| {
                    election.release(now);
                    election.give_orders(now, actions);
                });
                actions.push(Action::Exit);
            }
            _ => self.begin_leaving(now, Reason::Stopped, actions),
        }
    }

    /// Leaves the mastership to others: this node cannot serve (rules E10, M2 and M4).
    fn fail(&mut self, now: Timestamp, reason: Reason, actions: &mut Actions) {
        self.begin_leaving(now, reason, actions);
        let span = self.promotion.failed();
        self.election.service_failed(now, span, reason);
    }

    /// Gives up what is served; the farewell follows when the VIP is gone, or [`RESIGN_LIMIT`] after it was
    /// asked to go.
    fn begin_leaving(&mut self, now: Timestamp, reason: Reason, actions: &mut Actions) {
        self.resign(now, actions);
        let is_stop = reason == Reason::Stopped;
        let leaving = self.leaving.get_or_insert(Leaving {
            reason,
            since: now,
            exit_by: None,
            has_said_farewell: false,
            is_overdue: false,
        });
        // A stop may follow a failure, but not the other way round: who leaves wants no VIP.
        if is_stop && leaving.exit_by.is_none() {
            leaving.reason = reason;
            leaving.exit_by = Some(now.after(EXIT_LIMIT));
        }
    }

    /// Says whether nothing has to be waited for before the farewell.
    fn may_leave(&self) -> bool {
        self.farewell_by().is_some() && self.promotion.is_vip_gone()
    }

    fn farewell_by(&self) -> Option<Timestamp> {
        let leaving = self.leaving.filter(|leaving| !leaving.has_said_farewell)?;
        let released = self.promotion.released()?;
        Some(leaving.since.max(released).after(RESIGN_LIMIT))
    }

    fn exit_by(&self) -> Option<Timestamp> {
        let leaving = self.leaving.filter(|leaving| leaving.has_said_farewell)?;
        // However long it slept, its VIP gets its time.
        let released = self.promotion.released()?;
        leaving
            .exit_by
            .map(|by| by.max(released.after(RESIGN_LIMIT)))
    }

    /// Says farewell: the VIP is gone.
    fn leave(&mut self, now: Timestamp, actions: &mut Actions) {
        let Some(mut leaving) = self.leaving.take() else {
            return;
        };
        // After a long sleep somebody else is master, and ucarp would obey our farewell for it.
        if self.election.state() == State::Master && !self.election.is_late(now) {
            actions.push(Action::SendAdvert(Priority::BOW_OUT));
        }
        if leaving.reason == Reason::Stopped {
            let transition = self.election.stop(now, Reason::Stopped);
            self.report(transition, actions);
            leaving.has_said_farewell = true;
            self.leaving = Some(leaving);
        } else {
            self.election.end_hold_down(now);
            // Who was just found stuck listens with the patience of a stuck node.
            self.set_standing(now);
            let transition = self.election.give_way(now, now, leaving.reason);
            self.report(transition, actions);
        }
    }

    /// Does what has become possible, whatever the event was.
    fn settle(&mut self, now: Timestamp, actions: &mut Actions) {
        if self.has_left {
            return;
        }
        if self.may_leave() {
            self.leave(now, actions);
        }
        self.promotion.settle(now, actions);
        let leaving = self.leaving.filter(|leaving| leaving.has_said_farewell);
        if leaving.is_some_and(|leaving| leaving.is_overdue || self.promotion.is_cleared()) {
            self.has_left = true;
            actions.push(Action::Exit);
        }
        self.follow(actions);
        self.set_standing(now);
        self.pursue(now, actions);
    }

    /// Goes on with the lease, and asks for what it needs.
    fn pursue(&mut self, now: Timestamp, actions: &mut Actions) {
        let Some(election) = self.election.quorum_mut() else {
            return;
        };
        if let Some(reason) = election.pursue(now) {
            self.take_over(now, reason, actions);
            self.set_standing(now);
        }
        self.tell_quorum(|election| election.give_orders(now, actions));
    }

    /// Rule M6: whoever follows a master makes its directory ready for that one's metadata.
    fn follow(&mut self, actions: &mut Actions) {
        let is_standby = self.promotion.phase() == Phase::Standby && self.leaving.is_none();
        let is_backup = self.election.state() == State::Backup;
        let followed = self.election.followed(self.at).map(|master| master.source);
        let is_news = followed.is_some() && followed != self.told;
        if let Some(source) = followed.filter(|_| is_standby && is_backup && is_news)
            && self.promotion.has_metadata()
        {
            self.told = followed;
            self.tell_quorum(quorum::Election::begins_to_follow);
            actions.push(Action::FollowMaster { source });
        }
    }

    fn resign(&mut self, now: Timestamp, actions: &mut Actions) {
        self.promotion.resign(now, actions);
        // The priority of a standby is what counts from here on.
        self.set_standing(now);
    }

    /// Rule M5, and what else the way into service means for the election.
    fn set_standing(&mut self, now: Timestamp) {
        let not_ready = match self.promotion.phase() {
            // What a master has is not for a standby's eyes to judge.
            Phase::Promoting => self.election.demotion().not_ready,
            Phase::Active => false,
            Phase::Standby | Phase::Resigning | Phase::Stuck => !self.promotion.is_ready(),
        };
        self.election.set_standing(
            now,
            Standing {
                phase: self.promotion.phase(),
                is_master_gone: self.promotion.is_master_gone(),
                is_barred: !self.promotion.is_cleared(),
                holds_back: not_ready || self.promotion.failures() > 0,
                not_ready,
                stuck: self.promotion.phase() == Phase::Stuck,
            },
        );
    }

    fn take_over(&mut self, now: Timestamp, reason: Reason, actions: &mut Actions) {
        let transition = self.election.take_over(now, reason);
        self.told = None;
        // The advert first: it is what keeps other backups from doing the same.
        actions.push(Action::SendAdvert(self.election.priority()));
        self.promotion.promote(now, actions);
        self.report(transition, actions);
    }

    fn give_way(
        &mut self,
        now: Timestamp,
        heard: Timestamp,
        reason: Reason,
        actions: &mut Actions,
    ) {
        self.resign(now, actions);
        // One more advert lets the other master announce itself after us. After a long sleep it would
        // only disturb.
        if !matches!(reason, Reason::Overslept | Reason::LeaseExpired) {
            actions.push(Action::SendAdvert(self.election.priority()));
        }
        let transition = self.election.give_way(now, heard, reason);
        self.report(transition, actions);
    }

    fn report(&mut self, transition: Transition, actions: &mut Actions) {
        self.last = transition;
        actions.push(Action::Report(transition));
    }
}

/// Makes the election that is configured.
fn elector(config: &NodeConfig, now: Timestamp) -> Elector {
    let Some(settings) = config.quorum else {
        return Elector::Carp(carp::Election::new(config.election, now));
    };
    match quorum::Election::new(settings, config.service.is_metadata(), now) {
        Some(election) => Elector::Quorum(election),
        #[expect(
            clippy::panic,
            reason = "who is no member must not vote, and cannot do anything else"
        )]
        None => panic!("node {} is no member of its cluster", settings.own),
    }
}
