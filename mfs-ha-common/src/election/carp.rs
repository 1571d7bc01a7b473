//! The election of `mode = "carp"`: ucarp's state machine with mfs-ha's deviations.
//!
//! ```text
//!          link up                     E1 preempt · E2 too slow · E3 silent · E4 bowed out
//!  Init ────────────▶ Backup ───────────────────────────────────────────────────────▶ Master
//!   ▲ ◀──────────────   ▲ ◀──────────────────────────────────────────────────────────   │
//!   │    link down      │       E6 better master or lost tie · E8 overslept · E10, M2    │
//!   └───────────────────┴────────────────── link down ──────────────────────────────────┘
//! ```
//!
//! It decides who is master and when to advertise. It does not know how the VIP is taken; that is
//! [`promotion`](crate::promotion)'s. Rules E1 to E11 are stated in `docs/protocol.md`.
//!
//! Invariants: a deadline is set for each state but `Init`; silence is judged by [`Election::tick`]
//! only, from arrival times; a tick before the deadline changes nothing.

use core::cmp::Ordering;
use core::time::Duration;

pub use super::settings::Settings;
pub use super::standing::Demotion;
pub(crate) use super::standing::Standing;
use super::{Reason, State, Timer, Transition};
use crate::net::Ipv4;
use crate::priority::{DEMOTED_ADVSKEW, Priority, tie_break};
use crate::time::Timestamp;

/// Sends that have to fail, or to succeed, in a row before the demotion for it changes (as ucarp).
const SENDS_IN_A_ROW: u8 = 3;

/// How long a node that could not take the VIP leaves the mastership to others.
pub const HOLD_DOWN: Duration = Duration::from_secs(10);

/// The slot of the greatest advskew, rounded up.
const LONGEST_SLOT: Duration = Duration::from_secs(1);

/// A round of rule E11 is at least this: machines that stalled together wake within it.
const SHORTEST_ROUND: Duration = Duration::from_millis(20);

/// Who is woken later than this was not running (rule E11): a busy scheduler alone causes less.
const LATENESS_MAX: Duration = Duration::from_millis(100);

/// advskew stays below this: 255 belongs to the bow-out.
const ADVSKEW_MAX: u8 = 254;

/// The master that a backup follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Followed {
    /// Its source address.
    pub source: Ipv4,
    /// What it advertised last.
    pub priority: Priority,
    /// When its last advert arrived.
    pub arrival: Timestamp,
}

/// What an advert or a tick asks the node to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a decision that is not carried out is lost"]
pub enum Decision {
    /// Nothing.
    Nothing,
    /// Become master.
    TakeOver(Reason),
    /// Become backup of the sender.
    GiveWay(Reason),
    /// Stay master and say so: a worse one advertises.
    Assert,
    /// Send the advert that is due.
    Advertise,
}

/// The carp-mode election of one node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Election {
    settings: Settings,
    state: State,
    demotion: Demotion,
    sends_in_a_row: u8,
    followed: Option<Followed>,
    /// Since when nothing was heard.
    silent_since: Timestamp,
    master_down: Option<Timestamp>,
    bow_out_slot: Option<Timestamp>,
    /// The wait of rule E11 was taken: once per silence.
    has_waited: bool,
    advertise: Option<Timestamp>,
    last_send: Timestamp,
    last_announced: Priority,
    hold_down: Timestamp,
    is_barred: bool,
    /// When what stood against a mastership changed last.
    possible_since: Timestamp,
    holds_back: bool,
}

impl Election {
    /// Makes an election in state `Init`.
    #[must_use]
    pub const fn new(settings: Settings, now: Timestamp) -> Self {
        Self {
            settings,
            state: State::Init,
            demotion: Demotion::NONE,
            sends_in_a_row: 0,
            followed: None,
            silent_since: Timestamp::from_nanos(0),
            master_down: None,
            bow_out_slot: None,
            has_waited: false,
            advertise: None,
            last_send: Timestamp::from_nanos(0),
            last_announced: settings.priority,
            hold_down: Timestamp::from_nanos(0),
            is_barred: false,
            possible_since: now,
            holds_back: false,
        }
    }

    /// Returns the state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Returns the demotion in force.
    #[must_use]
    pub const fn demotion(&self) -> Demotion {
        self.demotion
    }

    /// Returns the master that this node follows.
    #[must_use]
    pub const fn followed(&self) -> Option<Followed> {
        self.followed
    }

    /// Returns what this node advertises: advskew worsened by demotion.
    #[must_use]
    pub fn priority(&self) -> Priority {
        let configured = self.settings.priority;
        let shifted = configured
            .advskew()
            .saturating_add(self.demotion.equal_skew);
        let mut advskew = shifted.min(ADVSKEW_MAX.max(configured.advskew()));
        if !self.demotion.is_well() {
            advskew = advskew.max(DEMOTED_ADVSKEW);
        }
        Priority::new(configured.advbase(), advskew)
    }

    /// Starts listening.
    pub(crate) fn listen(&mut self, now: Timestamp, reason: Reason) -> Transition {
        self.followed = None;
        // Who was equal before the link was lost may have been set right.
        self.demotion.equal_skew = 0;
        self.enter_backup(now, now, reason)
    }

    /// Forgets everything that was heard.
    pub(crate) fn stop(&mut self, now: Timestamp, reason: Reason) -> Transition {
        self.followed = None;
        self.clear_timers();
        self.enter(State::Init, now, reason)
    }

    /// Becomes master. The first advert is sent by the caller now.
    pub(crate) fn take_over(&mut self, now: Timestamp, reason: Reason) -> Transition {
        self.clear_timers();
        self.followed = None;
        self.note_send(now);
        self.enter(State::Master, now, reason)
    }

    /// Becomes backup, listening since `heard`: the arrival of the better advert, or now.
    pub(crate) fn give_way(
        &mut self,
        now: Timestamp,
        heard: Timestamp,
        reason: Reason,
    ) -> Transition {
        self.enter_backup(now, heard, reason)
    }

    /// Notes that an advert is sent now, and when the next one is due (rule E5).
    pub(crate) fn note_send(&mut self, now: Timestamp) {
        self.last_send = now;
        self.last_announced = self.priority();
        self.advertise = Some(now.after(self.last_announced.interval()));
    }

    /// Counts sends that worked or failed; three in a row change the demotion (rule E5).
    pub(crate) fn send_finished(&mut self, is_ok: bool) {
        if is_ok != self.demotion.send_failure {
            self.sends_in_a_row = 0;
            return;
        }
        self.sends_in_a_row = self.sends_in_a_row.saturating_add(1);
        if self.sends_in_a_row >= SENDS_IN_A_ROW {
            self.demotion.send_failure = !is_ok;
            self.sends_in_a_row = 0;
        }
    }

    /// Notes that this node could not serve, and leaves the mastership to others (rules E10 and M2).
    pub(crate) fn service_failed(&mut self, now: Timestamp, span: Duration, reason: Reason) {
        if reason == Reason::VipFailed {
            self.demotion.vip_failure = true;
        } else {
            self.demotion.promotion_failure = true;
        }
        self.hold_down = now.after(span);
    }

    /// Notes that it serves.
    pub(crate) const fn service_began(&mut self) {
        self.demotion.vip_failure = false;
        self.demotion.promotion_failure = false;
    }

    /// Lets a node whose hold-down is over try again at its own priority (rules E10 and M2).
    pub(crate) fn end_hold_down(&mut self, now: Timestamp) {
        if now >= self.hold_down {
            self.service_began();
        }
    }

    /// Notes what the way into service allows.
    pub(crate) fn set_standing(&mut self, now: Timestamp, standing: Standing) {
        let is_news = self.demotion.not_ready != standing.not_ready;
        if is_news || (self.is_barred && !standing.is_barred) {
            self.possible_since = now;
        }
        self.is_barred = standing.is_barred;
        self.holds_back = standing.holds_back;
        self.demotion.not_ready = standing.not_ready;
        self.demotion.stuck = standing.stuck;
        // Nodes that learn at their start that they are ready are to be told apart by their slots.
        if is_news && self.master_down.is_some() && !self.has_waited {
            self.master_down = Some(self.silent_since.after(self.patience()));
        }
    }

    /// Notes the address that adverts are sent from, for ties (rule E6).
    pub(crate) const fn set_source(&mut self, source: Ipv4) {
        self.settings.source = source;
    }

    /// Says whether a master was silent for longer than a peer may have waited.
    pub(crate) fn is_late(&self, now: Timestamp) -> bool {
        // At deadratio 1 every wake-up comes later than the interval: that alone is not sleep.
        let intervals = self.settings.deadratio.get().max(2);
        // What peers were told counts, not what a demotion that just ended would tell them.
        let announced = self.last_announced.interval();
        let patience = announced.saturating_mul(intervals.into());
        self.state == State::Master && now.since(self.last_send) > patience
    }

    /// Returns until when a master may serve unless it sends again (rule G5): no longer than the least patient peer
    /// waits (rule E3), and at least until its next advert.
    pub(crate) fn served_until(&self) -> Option<Timestamp> {
        let interval = self.last_announced.interval();
        let unit = match self.settings.priority.advbase() {
            0 => interval,
            whole => Duration::from_secs(whole.into()),
        };
        let patience = unit.saturating_mul(self.settings.deadratio.get().into());
        let span = patience.max(interval.saturating_add(interval.min(LATENESS_MAX)));
        (self.state == State::Master).then(|| self.last_send.after(span))
    }

    /// Says whether a master's peers have replaced it (rule E8): one was heard since our last advert, or
    /// even the one with the longest slot has waited long enough. A peer waits longer than we can know:
    /// who gives way before it was replaced leaves nobody.
    pub(crate) fn was_replaced(&self, now: Timestamp, heard: Option<Timestamp>) -> bool {
        let whole = Duration::from_secs(self.settings.priority.advbase().into());
        let longest = whole
            .saturating_add(LONGEST_SLOT)
            .saturating_mul(self.settings.deadratio.get().into())
            .saturating_add(LONGEST_SLOT);
        let is_certain = now.since(self.last_send) > longest;
        self.is_late(now) && (is_certain || heard.is_some_and(|arrival| arrival > self.last_send))
    }

    /// Takes note of a peer's advert.
    pub(crate) fn advert_received(
        &mut self,
        now: Timestamp,
        theirs: Priority,
        source: Ipv4,
        arrival: Timestamp,
    ) -> Decision {
        match self.state {
            State::Init => Decision::Nothing,
            State::Backup => self.backup_heard(now, theirs, source, arrival),
            State::Master => self.master_heard(theirs, source, arrival),
        }
    }

    fn backup_heard(
        &mut self,
        now: Timestamp,
        theirs: Priority,
        source: Ipv4,
        arrival: Timestamp,
    ) -> Decision {
        if theirs == Priority::BOW_OUT {
            self.master_bowed_out(source, arrival);
            return Decision::Nothing;
        }
        let mine = self.priority();
        let may_take_over = self.may_take_over(now) && !self.holds_back;
        if may_take_over && self.settings.preempt && mine < theirs {
            return Decision::TakeOver(Reason::Preempted);
        }
        if may_take_over && self.loses_patience(mine, theirs) {
            return Decision::TakeOver(Reason::MasterTooSlow);
        }
        self.step_aside_on_tie(mine, theirs, source);
        self.follow(Followed {
            source,
            priority: theirs,
            arrival,
        });
        Decision::Nothing
    }

    fn master_heard(&mut self, theirs: Priority, source: Ipv4, arrival: Timestamp) -> Decision {
        let mine = self.priority();
        let tie = tie_break(self.settings.source, source);
        let reason = match theirs.cmp(&mine) {
            Ordering::Less => Reason::BetterMaster,
            Ordering::Equal if tie == Ordering::Greater => Reason::TieLost,
            Ordering::Equal | Ordering::Greater => return Decision::Assert,
        };
        self.step_aside_on_tie(mine, theirs, source);
        self.followed = Some(Followed {
            source,
            priority: theirs,
            arrival,
        });
        Decision::GiveWay(reason)
    }

    /// Acts on deadlines that have passed. Call it once everything that arrived was handed in.
    pub(crate) fn tick(&mut self, now: Timestamp) -> Decision {
        let is_due = |deadline: Option<Timestamp>| deadline.is_some_and(|at| at <= now);
        match self.state {
            State::Init => Decision::Nothing,
            State::Backup if !self.may_take_over(now) => Decision::Nothing,
            State::Backup if is_due(self.bow_out_slot) => {
                self.turn_has_come(now, self.bow_out_slot, Reason::MasterBowedOut)
            }
            State::Backup if is_due(self.master_down) => {
                self.turn_has_come(now, self.master_down, Reason::MasterSilent)
            }
            State::Backup => Decision::Nothing,
            State::Master if is_due(self.advertise) => Decision::Advertise,
            State::Master => Decision::Nothing,
        }
    }

    /// Rule E11: who was woken late was not running, and so perhaps was the master. It gives the master, and
    /// backups of a better rank, time to speak.
    fn turn_has_come(
        &mut self,
        now: Timestamp,
        due: Option<Timestamp>,
        reason: Reason,
    ) -> Decision {
        let possible_since = self.hold_down.max(self.possible_since);
        let lateness = now.since(due.unwrap_or(now).max(possible_since));
        let round = self.round();
        // A farewell was said by whoever was running: at rank zero there is nobody to wait for.
        let has_nobody_before = reason == Reason::MasterBowedOut && self.bow_out_wait().is_zero();
        if self.has_waited || has_nobody_before || lateness <= round.min(LATENESS_MAX) {
            return Decision::TakeOver(reason);
        }
        self.has_waited = true;
        if reason == Reason::MasterBowedOut {
            self.bow_out_slot = Some(now.after(self.bow_out_wait()));
        }
        let wait = round.saturating_mul(2);
        self.master_down = Some(now.after(wait.saturating_add(self.priority().slot())));
        Decision::Nothing
    }

    /// Returns the next deadline.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Timestamp, Timer)> {
        let held = Some((self.hold_down, Timer::HoldDown)).filter(|_| self.demotion.has_failed());
        match self.state {
            State::Init => held,
            State::Master => self
                .advertise
                .map(|at| (at, Timer::Advertise))
                .into_iter()
                .chain(held)
                .min(),
            State::Backup => {
                let slot = self.bow_out_slot.map(|at| (at, Timer::BowOutSlot));
                let down = self.master_down.map(|at| (at, Timer::MasterDown));
                let turns = [slot, down].into_iter().flatten();
                let takeover = turns.min().filter(|_| !self.is_barred);
                takeover
                    .map(|(at, timer)| (at.max(self.hold_down), timer))
                    .into_iter()
                    .chain(held)
                    .min()
            }
        }
    }

    fn may_take_over(&self, now: Timestamp) -> bool {
        now >= self.hold_down && !self.is_barred
    }

    /// Rule E2. At advbase 0 only a bow-out says that a master is about to time out.
    fn loses_patience(&self, mine: Priority, theirs: Priority) -> bool {
        let whole = Duration::from_secs(mine.advbase().into())
            .saturating_mul(self.settings.deadratio.get().into());
        mine.advbase() > 0 && whole.saturating_add(mine.slot()) < theirs.interval()
    }

    /// Rule E4: our turn comes after our rank slot, so that two backups do not both jump.
    fn master_bowed_out(&mut self, source: Ipv4, arrival: Timestamp) {
        // Only the master that is followed can leave: a stray farewell must not unseat another one.
        if self.followed.is_some_and(|master| master.source != source) {
            return;
        }
        // A repeated bow-out does not push our turn back.
        let turn = arrival.after(self.bow_out_wait());
        self.bow_out_slot = Some(self.bow_out_slot.map_or(turn, |at| at.min(turn)));
    }

    fn bow_out_wait(&self) -> Duration {
        if self.settings.has_sole_peer {
            Duration::ZERO
        } else {
            self.priority().slot()
        }
    }

    /// Rule E7: of two equal nodes the one that loses ties moves one step away. Two that are not well
    /// have the same priority by themselves, and move apart when they are well again.
    fn step_aside_on_tie(&mut self, mine: Priority, theirs: Priority, source: Ipv4) {
        let loses = tie_break(self.settings.source, source) == Ordering::Greater;
        if self.demotion.is_well() && mine == theirs && loses {
            self.demotion.equal_skew = self.demotion.equal_skew.saturating_add(1);
        }
    }

    fn follow(&mut self, master: Followed) {
        self.followed = Some(master);
        self.bow_out_slot = None;
        self.has_waited = false;
        self.silent_since = master.arrival;
        self.master_down = Some(master.arrival.after(self.patience()));
    }

    /// Rule E3: the silence after which this node takes over.
    fn patience(&self) -> Duration {
        let mine = self.priority();
        let ratio = self.settings.deadratio.get().into();
        let unit = if mine.advbase() > 0 {
            Duration::from_secs(mine.advbase().into())
        } else {
            mine.interval().max(self.announced())
        };
        unit.saturating_mul(ratio).saturating_add(mine.slot())
    }

    /// Within this a master that runs is heard (rule E11). Under a hold-down a slower one than rule E2 bears
    /// may be followed: it is not waited for longer than silence is.
    fn round(&self) -> Duration {
        self.announced().min(self.patience()).max(SHORTEST_ROUND)
    }

    fn announced(&self) -> Duration {
        match self.followed {
            Some(master) => master.priority.interval(),
            // A ucarp master speaks once a second at the soonest: listen for it before the first
            // mastership.
            None => Duration::from_secs(1),
        }
    }

    fn enter_backup(&mut self, now: Timestamp, heard: Timestamp, reason: Reason) -> Transition {
        self.clear_timers();
        self.silent_since = heard;
        self.master_down = Some(heard.after(self.patience()));
        self.enter(State::Backup, now, reason)
    }

    const fn clear_timers(&mut self) {
        self.master_down = None;
        self.bow_out_slot = None;
        self.has_waited = false;
        self.advertise = None;
    }

    const fn enter(&mut self, to: State, at: Timestamp, reason: Reason) -> Transition {
        let from = self.state;
        self.state = to;
        Transition {
            from,
            to,
            reason,
            at,
        }
    }
}
