//! A node whose every step is checked against the invariants.
//!
//! They are stated here once; generated sequences, the simulated networks and the fuzzer all drive
//! nodes through this. What it knows of the rules is computed anew from `docs/protocol.md`, from the
//! events alone.

#[path = "service.rs"]
mod service;

use std::time::Duration;

use mfs_ha_common::action::{ACTIONS_MAX, Action, Hook};
use mfs_ha_common::election::carp::Demotion;
use mfs_ha_common::election::{Reason, State, Transition};
use mfs_ha_common::event::Event;
use mfs_ha_common::net::Ipv4;
use mfs_ha_common::node::{Node, NodeConfig, NodeStatus};
use mfs_ha_common::priority::{DEMOTED_ADVSKEW, Priority};
use mfs_ha_common::promotion::{EXIT_LIMIT, Phase, RESIGN_LIMIT};
use mfs_ha_common::record::{AdvertRecord, KIND_ADVERT};
use mfs_ha_common::time::Timestamp;
use service::Serving;

/// What leaving the master state and winning another contest takes: the bound of [`ACTIONS_MAX`] has
/// room above it.
const ACTIONS_NEEDED: usize = 6;
const _: () = assert!(ACTIONS_NEEDED <= ACTIONS_MAX);

/// Two announcements of one service are never closer.
const ANNOUNCE_SPACING: Duration = Duration::from_millis(100);

/// Makes the event of an accepted advert.
pub(crate) fn advert(source: Ipv4, priority: Priority, arrival: Timestamp) -> Event {
    let record = AdvertRecord {
        kind: KIND_ADVERT,
        ifindex: 1,
        arrival_ns: arrival.as_nanos(),
        counter: [0; 8],
        source,
        mac: [0; 6],
        vhid: 1,
        advbase: priority.advbase(),
        advskew: priority.advskew(),
        demote: 0,
        node: 0,
        reserved: 0,
    };
    Event::AdvertReceived {
        advert: record.advert(),
        source,
        arrival,
    }
}

/// Returns sender, contents and arrival where an event is an advert.
pub(crate) fn heard(event: Event) -> Option<(Ipv4, Priority, Timestamp)> {
    if let Event::AdvertReceived {
        advert,
        source,
        arrival,
    } = event
    {
        return Some((source, advert.get().priority, arrival));
    }
    None
}

/// A node under supervision.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    node: Node,
    config: NodeConfig,
    serving: Serving,
    /// The up hook ran, and the down hook has not followed it.
    is_up: bool,
    has_listened: bool,
    /// When and with which interval this node advertised last.
    last_send: (Timestamp, Duration),
    last_announcement: Option<Timestamp>,
    farewell: Option<Farewell>,
    hold_down_until: Timestamp,
    /// The master that is followed, and when its silence has lasted too long.
    followed: Option<Ipv4>,
    silence_ends: Option<Timestamp>,
    silent_since: Timestamp,
    /// When what stood against a mastership changed last.
    possible_since: Timestamp,
    /// What it announced last.
    announced: Option<Priority>,
    /// When our turn comes after its farewell.
    turn: Option<Timestamp>,
    /// A tick came late in this silence, and it was waited for once more.
    has_waited: bool,
    /// The master that the daemon was told to follow last.
    told: Option<Ipv4>,
    has_exited: bool,
}

#[derive(Clone, Copy, Debug)]
struct Farewell {
    is_final: bool,
    since: Timestamp,
    /// When a daemon that is to end was told so.
    stopped: Timestamp,
    is_said: bool,
}

/// One event and what came of it.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) now: Timestamp,
    pub(crate) event: Event,
    pub(crate) before: NodeStatus,
    pub(crate) after: NodeStatus,
    actions: &'a [Action],
}

impl Checked {
    pub(crate) fn new(config: NodeConfig, now: Timestamp) -> Self {
        Self {
            node: Node::new(config, now),
            config,
            serving: Serving::new(config.service),
            is_up: false,
            has_listened: false,
            last_send: (now, Duration::ZERO),
            last_announcement: None,
            farewell: None,
            hold_down_until: Timestamp::from_nanos(0),
            followed: None,
            silence_ends: None,
            silent_since: now,
            possible_since: now,
            announced: None,
            turn: None,
            has_waited: false,
            told: None,
            has_exited: false,
        }
    }

    pub(crate) fn status(&self) -> NodeStatus {
        self.node.status()
    }

    /// Hands an event to the node and checks what comes of it.
    pub(crate) fn step(&mut self, now: Timestamp, event: Event) -> Vec<Action> {
        let before = self.node.status();
        let actions: Vec<Action> = self.node.handle(now, event).into_iter().collect();
        let step = Turn {
            now,
            event,
            before,
            after: self.node.status(),
            actions: &actions,
        };
        assert!(actions.len() <= ACTIONS_NEEDED, "{step:?}");
        if self.has_exited {
            assert!(actions.is_empty(), "after the exit: {step:?}");
            assert_eq!(step.after.next, None, "after the exit: {step:?}");
            return actions;
        }
        step.check_tick();
        step.check_reports(self.config);
        self.check_waking(&step);
        let was_cleared = self.serving.is_cleared();
        let failure = self.serving.note_event(&step, step.has_overslept());
        let is_cleared = self.serving.is_cleared() && (was_cleared || step.event == Event::Tick);
        self.check_silence(&step, is_cleared);
        self.note_event(&step, failure);
        for action in &actions {
            self.check_action(&step, *action);
        }
        self.check_farewell(&step);
        self.check_state(&step);
        self.serving.check_state(&step);
        self.note_silence(&step);
        self.check_following(&step);
        actions
    }

    /// A master that was replaced in its sleep is backup before it does anything else (rule E8): it hears
    /// another one after a silence of its own, or was silent for longer than any peer waits. A wake-up
    /// that is late by less than an interval is not sleep, whatever deadratio is.
    fn check_waking(&self, step: &Turn<'_>) {
        let ratio = self.config.election.deadratio.get();
        let (sent, interval) = self.last_send;
        let silence = step.now.since(sent);
        let advbase = self.config.election.priority.advbase();
        let longest = Duration::from_secs(u64::from(advbase) + 1) * u32::from(ratio);
        let is_certain = silence > longest + Duration::from_secs(1);
        let has_heard = heard(step.event)
            .is_some_and(|(_, priority, at)| priority != Priority::BOW_OUT && at > sent);
        let overslept = step.before.state == State::Master
            && self.farewell.is_none()
            && silence > interval * u32::from(ratio.max(2))
            && (is_certain || has_heard);
        assert_eq!(step.has_overslept(), overslept, "{step:?}");
        if overslept {
            let first = step.actions.first();
            let is_ending = |action| service::begins_resignation(action, self.config.service);
            assert!(first.is_some_and(is_ending), "{step:?}");
            let first_report = step.position(|action| matches!(action, Action::Report(_)));
            let first_advert = step.position(|action| matches!(action, Action::SendAdvert(_)));
            assert!(
                first_advert.is_none_or(|at| Some(at) > first_report),
                "{step:?}"
            );
        }
    }

    /// Silence is believed neither early nor late, by a tick only, and not during the hold-down. Who was
    /// woken late for it waits once more (rule E11).
    fn check_silence(&mut self, step: &Turn<'_>, is_cleared: bool) {
        let is_held = step.now < self.hold_down_until || !is_cleared;
        let may = !is_held && self.farewell.is_none();
        let possible_since = self.hold_down_until.max(self.serving.free_since);
        if step.event == Event::Tick {
            self.note_readiness(step);
        }
        let possible_since = possible_since.max(self.possible_since);
        let is_past = |at: &Timestamp| *at <= step.now;
        let silence = self.silence_ends.filter(is_past);
        let turn = self.turn.filter(is_past);
        let is_tick = step.event == Event::Tick && step.before.state == State::Backup;
        if let Some(due) = turn.or(silence).filter(|_| is_tick && may) {
            let round = self.round(step);
            let lateness = step.now.since(due.max(possible_since));
            let has_nobody_before = turn.is_some() && self.bow_out_wait(step).is_zero();
            let is_late = lateness > round.min(Duration::from_millis(100));
            if is_late && !self.has_waited && !has_nobody_before {
                assert_eq!(step.after.state, State::Backup, "{step:?}");
                assert!(step.actions.is_empty(), "{step:?}");
                self.has_waited = true;
                let slot = step.after.priority.slot();
                self.silence_ends = Some(step.now.after(round * 2 + slot));
                if turn.is_some() {
                    self.turn = Some(step.now.after(slot));
                }
                return;
            }
            assert_eq!(step.after.state, State::Master, "{step:?}");
        }
        for report in step.reports().filter(|report| report.to == State::Master) {
            assert!(may, "{step:?}");
            let silent = report.reason == Reason::MasterSilent;
            assert!(!silent || silence.is_some(), "{step:?}");
            let bowed_out = report.reason == Reason::MasterBowedOut;
            assert!(!bowed_out || turn.is_some(), "{step:?}");
        }
    }

    fn round(&self, step: &Turn<'_>) -> Duration {
        let announced = self
            .announced
            .map_or(Duration::from_secs(1), Priority::interval);
        let patience = self.patience(step, self.announced);
        announced.min(patience).max(Duration::from_millis(20))
    }

    fn bow_out_wait(&self, step: &Turn<'_>) -> Duration {
        if self.config.election.has_sole_peer {
            return Duration::ZERO;
        }
        step.after.priority.slot()
    }

    fn note_event(&mut self, step: &Turn<'_>, failure: Option<Reason>) {
        let farewell = Farewell {
            is_final: false,
            since: step.now,
            stopped: step.now,
            is_said: false,
        };
        if failure.is_some() {
            assert_eq!(step.after.phase, Phase::Resigning, "{step:?}");
            self.hold_down_until = step.now.after(self.serving.note_failure(step.now));
            self.farewell = Some(farewell);
        }
        if step.event == Event::StopRequested {
            let ending = self.farewell.get_or_insert(farewell);
            if !ending.is_final {
                (ending.is_final, ending.stopped) = (true, step.now);
            }
        }
        // Nobody is left to hear it, but a daemon that ends waits for its VIP all the same.
        if step.event == Event::LinkDown {
            self.farewell = self.farewell.filter(|farewell| farewell.is_final);
        }
    }

    fn check_action(&mut self, step: &Turn<'_>, action: Action) {
        match action {
            Action::SendAdvert(priority) => self.check_advert(step, priority),
            Action::SetVip { present } => {
                self.serving.check_vip(step, present);
                assert!(!present || step.after.state == State::Master, "{step:?}");
            }
            Action::RunStep {
                step: asked,
                ticket,
            } => {
                self.serving.check_step(step, asked, ticket);
            }
            Action::FollowMaster { source } => {
                assert_ne!(self.told, Some(source), "{step:?}");
                self.told = Some(source);
            }
            Action::AnnounceVip => {
                assert_eq!(step.after.phase, Phase::Active, "{step:?}");
                let is_first = step.before.phase != Phase::Active;
                let is_spaced = self
                    .last_announcement
                    .is_none_or(|last| step.now.since(last) >= ANNOUNCE_SPACING);
                assert!(is_first || is_spaced, "{step:?}");
                self.last_announcement = Some(step.now);
            }
            Action::RunHook(Hook::Up) => {
                assert_eq!(step.event, Event::VipSet { present: true }, "{step:?}");
                assert!(!self.is_up, "{step:?}");
                self.is_up = true;
            }
            Action::RunHook(Hook::Down) => {
                let is_at_start = !self.has_listened && !self.config.neutral;
                assert!(self.is_up || is_at_start, "{step:?}");
                self.is_up = false;
            }
            Action::Report(transition) => {
                self.has_listened |= transition.to == State::Backup;
                if transition.to == State::Master {
                    self.told = None;
                }
            }
            Action::SendHeartbeats | Action::Store(_) | Action::FreezeMetadata => {
                unreachable!("in carp mode: {step:?}");
            }
            Action::Exit => self.has_exited = true,
        }
    }

    fn check_advert(&mut self, step: &Turn<'_>, priority: Priority) {
        if priority == Priority::BOW_OUT {
            // Only a master says farewell, once its VIP is gone or has not gone in time.
            assert_eq!(step.before.state, State::Master, "{step:?}");
            assert!(self.may_say_farewell(step), "{step:?}");
            return;
        }
        let configured = self.config.election.priority;
        assert_eq!(priority.advbase(), configured.advbase(), "{step:?}");
        assert!(priority >= configured, "{step:?}");
        assert!(
            priority == configured || priority.advskew() < 255,
            "{step:?}"
        );
        self.last_send = (step.now, priority.interval());
    }

    fn may_say_farewell(&self, step: &Turn<'_>) -> bool {
        self.serving.is_vip_gone() || self.is_farewell_late(step)
    }

    fn is_farewell_late(&self, step: &Turn<'_>) -> bool {
        let since = self.farewell.filter(|farewell| !farewell.is_said);
        let by = since.zip(self.serving.released());
        by.is_some_and(|(farewell, released)| {
            farewell.since.max(released).after(RESIGN_LIMIT) <= step.now
        })
    }

    /// The exit is the last action, after the farewell; a farewell is said in time.
    fn check_farewell(&mut self, step: &Turn<'_>) {
        let exits = step.count(|action| action == Action::Exit);
        let ends_with_exit = step.actions.last() == Some(&Action::Exit);
        assert_eq!(exits, usize::from(ends_with_exit), "{step:?}");
        if self.has_exited {
            self.check_exit(step);
            return;
        }
        if step.reports().any(|report| {
            use Reason::{MetadataMasterLost, PromotionFailed, VipFailed};
            matches!(
                report.reason,
                VipFailed | PromotionFailed | MetadataMasterLost
            )
        }) {
            self.farewell = None;
        }
        if let Some(farewell) = self.farewell.as_mut()
            && step.has_stopped()
        {
            farewell.is_said = true;
        }
        if step.event == Event::Tick {
            assert!(!self.is_farewell_late(step), "{step:?}");
            let is_late = |farewell: Farewell| {
                let by = self.exit_by(farewell);
                farewell.is_final && farewell.is_said && by <= step.now
            };
            assert!(!self.farewell.is_some_and(is_late), "{step:?}");
        }
    }

    fn exit_by(&self, farewell: Farewell) -> Timestamp {
        let by = farewell.stopped.after(EXIT_LIMIT);
        let released = self.serving.released();
        released.map_or(by, |at| by.max(at.after(RESIGN_LIMIT)))
    }

    fn check_exit(&self, step: &Turn<'_>) {
        let had_nothing = step.before.phase == Phase::Standby;
        let farewell = self.farewell.filter(|farewell| farewell.is_final);
        let is_late = farewell.map(|farewell| self.exit_by(farewell) <= step.now);
        assert!(is_late.is_some(), "{step:?}");
        let is_said = step.has_stopped() || farewell.is_some_and(|farewell| farewell.is_said);
        assert!(is_said, "{step:?}");
        let is_undone = self.serving.is_cleared() || is_late == Some(true);
        assert!(is_undone, "{step:?}");
        let may = farewell.is_some_and(|farewell| farewell.is_said);
        assert!(
            had_nothing || may || self.may_say_farewell(step),
            "{step:?}"
        );
        assert_ne!(self.serving.wanted, Some(true), "{step:?}");
    }

    fn check_state(&self, step: &Turn<'_>) {
        let after = &step.after;
        let is_serving = matches!(after.phase, Phase::Promoting | Phase::Active);
        let is_active = after.phase == Phase::Active;
        assert_eq!(is_active, self.is_up, "{step:?}");
        // A node that serves has not failed.
        assert!(!is_active || !has_failed(after), "{step:?}");
        assert!(!is_serving || after.state == State::Master, "{step:?}");
        let is_idle = after.phase == Phase::Standby;
        assert!(!is_idle || after.state != State::Master, "{step:?}");
        let is_leaving = self.farewell.is_some() && !self.has_exited;
        // Without a link only a farewell, a hold-down and a resignation have an end to wait for.
        let is_held = has_failed(after) && !self.has_exited;
        let is_ending = !self.serving.is_cleared() && !self.has_exited;
        let waits = is_leaving || is_held || is_ending || after.state != State::Init;
        assert_eq!(after.next.is_some(), waits, "{step:?}");
    }

    /// Computes from the event when the silence of the master in force has lasted too long (rule E3).
    fn note_silence(&mut self, step: &Turn<'_>) {
        let announced = heard(step.event).filter(|(_, priority, _)| *priority != Priority::BOW_OUT);
        let has_entered = step.reports().next().is_some();
        let hears = self.farewell.is_none();
        if step.after.state != State::Backup {
            (self.followed, self.announced) = (None, None);
            (self.silence_ends, self.turn) = (None, None);
        } else if let Some((source, priority, arrival)) = announced.filter(|_| hears) {
            (self.followed, self.announced) = (Some(source), Some(priority));
            self.silent_since = arrival;
            self.silence_ends = Some(arrival.after(self.patience(step, Some(priority))));
            (self.turn, self.has_waited) = (None, false);
        } else if has_entered {
            (self.followed, self.announced) = (None, None);
            self.silent_since = step.now;
            self.silence_ends = Some(step.now.after(self.patience(step, None)));
            (self.turn, self.has_waited) = (None, false);
        } else if step.event != Event::Tick {
            self.note_readiness(step);
        }
        self.note_turn(step);
        let followed = step.after.followed.map(|followed| followed.source);
        assert_eq!(followed, self.followed, "{step:?}");
    }

    /// A backup that is told that it is ready, or is not, has another slot at once (rule M5).
    fn note_readiness(&mut self, step: &Turn<'_>) {
        if step.before.demotion.not_ready == step.after.demotion.not_ready {
            return;
        }
        self.possible_since = step.now;
        if self.silence_ends.is_some() && !self.has_waited {
            let patience = self.patience(step, self.announced);
            self.silence_ends = Some(self.silent_since.after(patience));
        }
    }

    /// Computes from a farewell when our turn comes (rule E4).
    fn note_turn(&mut self, step: &Turn<'_>) {
        let farewell = heard(step.event).filter(|(_, priority, _)| *priority == Priority::BOW_OUT);
        let Some((source, _, arrival)) = farewell else {
            return;
        };
        let is_obeyed = self.followed.is_none_or(|followed| followed == source);
        let is_backup = step.after.state == State::Backup;
        if is_backup && is_obeyed && self.farewell.is_none() {
            let turn = arrival.after(self.bow_out_wait(step));
            self.turn = Some(self.turn.map_or(turn, |at| at.min(turn)));
        }
    }

    /// A standby is told whom it follows, once (rule M6).
    fn check_following(&self, step: &Turn<'_>) {
        let is_standby = step.after.phase == Phase::Standby && step.after.state == State::Backup;
        if is_standby && self.config.service.is_metadata() && self.farewell.is_none() {
            assert!(
                self.followed.is_none() || self.told == self.followed,
                "{step:?}"
            );
        }
        let tells = step.count(|action| matches!(action, Action::FollowMaster { .. }));
        assert!(tells == 0 || is_standby, "{step:?}");
    }

    /// A sleeper that learns of a failed send listens first and is demoted then.
    fn listening_priority(&self, step: &Turn<'_>) -> Priority {
        let mut demotion = step.after.demotion;
        if step.is_receipt() {
            demotion.send_failure = step.before.demotion.send_failure;
        }
        if is_ill(demotion) == is_ill(step.after.demotion) {
            return step.after.priority;
        }
        let configured = self.config.election.priority;
        let shifted = configured.advskew().saturating_add(demotion.equal_skew);
        let shifted = shifted.min(configured.advskew().max(254));
        let advskew = if is_ill(demotion) {
            shifted.max(DEMOTED_ADVSKEW)
        } else {
            shifted
        };
        Priority::new(configured.advbase(), advskew)
    }

    fn patience(&self, step: &Turn<'_>, announced: Option<Priority>) -> Duration {
        let own = self.listening_priority(step);
        let announced = announced.map_or(Duration::from_secs(1), Priority::interval);
        let unit = if own.advbase() == 0 {
            own.interval().max(announced)
        } else {
            Duration::from_secs(own.advbase().into())
        };
        unit * self.config.election.deadratio.get().into() + own.slot()
    }
}

const fn is_ill(demotion: Demotion) -> bool {
    demotion.send_failure
        || demotion.vip_failure
        || demotion.promotion_failure
        || demotion.not_ready
        || demotion.stuck
}

impl Turn<'_> {
    fn reports(&self) -> impl Iterator<Item = Transition> {
        self.actions.iter().filter_map(|action| match action {
            Action::Report(transition) => Some(*transition),
            Action::SendAdvert(_)
            | Action::SetVip { .. }
            | Action::RunStep { .. }
            | Action::FollowMaster { .. }
            | Action::AnnounceVip
            | Action::SendHeartbeats
            | Action::Store(_)
            | Action::FreezeMetadata
            | Action::RunHook(_)
            | Action::Exit => None,
        })
    }

    fn has_overslept(&self) -> bool {
        self.reports()
            .any(|report| report.reason == Reason::Overslept)
    }

    fn has_stopped(&self) -> bool {
        self.reports()
            .any(|report| report.reason == Reason::Stopped)
    }

    pub(crate) fn has_taken_over(&self) -> bool {
        self.reports().any(|report| report.to == State::Master)
    }

    pub(crate) fn has_exited(&self) -> bool {
        self.actions.contains(&Action::Exit)
    }

    fn position(&self, is_wanted: fn(&Action) -> bool) -> Option<usize> {
        self.actions.iter().position(is_wanted)
    }

    fn count(&self, is_wanted: fn(Action) -> bool) -> usize {
        self.actions
            .iter()
            .filter(|action| is_wanted(**action))
            .count()
    }

    /// A tick before the deadline does nothing; after a tick the deadline lies ahead.
    fn check_tick(&self) {
        if self.event != Event::Tick {
            return;
        }
        if self.before.next.is_none_or(|(at, _)| at > self.now) {
            assert!(self.actions.is_empty(), "early tick: {self:?}");
            assert_eq!(self.before, self.after, "early tick: {self:?}");
        }
        assert!(
            self.after.next.is_none_or(|(at, _)| at > self.now),
            "{self:?}"
        );
    }

    /// Each change of state is reported once, in order, and for a reason that the event can be.
    fn check_reports(&self, config: NodeConfig) {
        let mut state = self.before.state;
        for report in self.reports() {
            assert_eq!((report.from, report.at), (state, self.now), "{self:?}");
            assert!(self.explains(config, report), "{self:?}");
            state = report.to;
            assert_eq!(
                self.after.last.reason == report.reason,
                self.reports().last() == Some(report)
            );
        }
        assert_eq!(state, self.after.state, "{self:?}");
        if let Some(last) = self.reports().last() {
            assert_eq!(self.after.last, last, "{self:?}");
        } else {
            assert_eq!(self.after.last, self.before.last, "{self:?}");
        }
        self.check_receipts();
    }

    /// Nothing but a master's own oversleeping follows from the fate of an advert.
    fn check_receipts(&self) {
        let is_silent = !self.is_receipt() || self.has_overslept() || self.actions.is_empty();
        assert!(is_silent, "{self:?}");
    }

    fn is_receipt(&self) -> bool {
        matches!(self.event, Event::AdvertSent | Event::SendFailed)
    }

    fn explains(&self, config: NodeConfig, report: Transition) -> bool {
        let heard =
            heard(self.event).map(|(source, priority, _)| (priority, last_octet_first(source)));
        let (from, to) = (report.from, report.to);
        let taken_over = from == State::Backup && to == State::Master;
        let given_way = from == State::Master && to == State::Backup;
        // A hold-down that is over ends before anything else is decided.
        let mine = if has_failed(&self.before) && !has_failed(&self.after) {
            self.after.priority
        } else {
            self.before.priority
        };
        match report.reason {
            // In carp mode there is no lease.
            Reason::Started | Reason::LeaseAcquired | Reason::LeaseExpired => false,
            Reason::LinkUp => {
                self.event == Event::LinkUp && from == State::Init && to == State::Backup
            }
            Reason::LinkDown => self.event == Event::LinkDown && to == State::Init,
            Reason::MasterSilent | Reason::MasterBowedOut => {
                taken_over && self.event == Event::Tick
            }
            Reason::Preempted => {
                taken_over && config.election.preempt && heard.is_some_and(|(p, _)| mine < p)
            }
            Reason::MasterTooSlow => {
                let is_bow_out = heard.is_some_and(|(p, _)| p == Priority::BOW_OUT);
                taken_over && mine.advbase() > 0 && heard.is_some() && !is_bow_out
            }
            Reason::BetterMaster => given_way && heard.is_some_and(|(p, _)| p < mine),
            Reason::TieLost => {
                let own = last_octet_first(config.election.source);
                given_way && heard.is_some_and(|(p, source)| p == mine && source < own)
            }
            Reason::Overslept => given_way,
            Reason::VipFailed => given_way,
            Reason::PromotionFailed | Reason::MetadataMasterLost => {
                given_way && config.service.is_metadata()
            }
            Reason::Stopped => to == State::Init,
        }
    }
}

const fn has_failed(status: &NodeStatus) -> bool {
    status.demotion.vip_failure || status.demotion.promotion_failure
}

/// ucarp's order of addresses on little-endian machines.
fn last_octet_first(address: Ipv4) -> [u8; 4] {
    let [a, b, c, d] = address;
    [d, c, b, a]
}
