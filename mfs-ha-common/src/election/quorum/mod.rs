//! The election of `mode = "quorum"`: a lease that a majority grants.
//!
//! ```text
//!            L5 asks             L3 a majority granted it
//!  Backup ───────────▶ asking ─────────────────────────────▶ Master
//!    ▲ ◀────────────── 3 H passed: releases, waits            │
//!    └──────────── lease expired · failed · told to end ──────┘
//! ```
//!
//! Each node is a voter; candidates also ask. What they tell each other stands in heartbeats, which go out in
//! rounds, each to each; a round that is due at once announces what others wait for. Rules L1 to L10 are
//! stated in `docs/protocol.md`.
//!
//! It decides who may be master and until when. It does not know how the VIP is taken or the metadata are
//! promoted; that is [`promotion`](crate::promotion)'s.
//!
//! Invariants: the lease is renewed for as long as this node is master or its metadata master may live, and
//! released right after; nothing is asked for or granted before what has to be remembered is on disk.

mod candidacy;
mod lease;
mod members;
mod peers;
mod random;
mod rounds;
mod settings;
mod status;
mod voter;
mod votes;

use core::time::Duration;

pub use settings::{COLD_START_WAIT, MAX_LAG, Settings};
pub use status::{LeaseStatus, MemberStatus, Obstacle, Refusal};

use self::lease::Lease;
use self::peers::Peer;
use self::random::Random;
use self::rounds::Rounds;
use self::voter::Voter;
use super::carp::{Demotion, Followed, HOLD_DOWN, Standing};
use super::{Reason, State, Timer, Transition};
use crate::action::{Action, Actions};
use crate::cluster::{MEMBERS_MAX, Membership, NodeId, Role};
use crate::durable::Durable;
use crate::freshness::Metadata;
use crate::heartbeat::{Echo, Flags, Heartbeat, Stamp};
use crate::priority::{DEMOTED_ADVSKEW, Priority};
use crate::promotion::{Phase, STABLE};
use crate::time::Timestamp;

/// The most that a number may rise by what one peer says: lease epochs, lives and metadata epochs rise by
/// ones, so more is a mistake, and would use the numbers up.
const STEP_MAX: u64 = 1 << 32;

/// How long what a node said last of its metadata counts after it served, until it has looked at them: putting
/// them back and looking takes milliseconds (rule L1).
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// How often the version of a holder's metadata is brought to disk (rule L1e).
const SEEN_SPAN: Duration = Duration::from_secs(1);

/// The quorum election of one node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Election {
    settings: Settings,
    /// This node's place in the member list.
    place: usize,
    role: Role,
    /// What the list in force has to be.
    target: Membership,
    state: State,
    demotion: Demotion,
    hold_down: Timestamp,
    /// When it may try once more where nobody else is as fresh (rule L1d).
    second_try: Timestamp,
    standing: Standing,
    born: Timestamp,
    rounds: Rounds,
    peers: [Peer; MEMBERS_MAX],
    voter: Voter,
    lease: Option<Lease>,
    metadata: Metadata,
    has_metadata: bool,
    /// The metadata were looked at since this node started, or served.
    is_settled: bool,
    /// It served, or was about to, and has not looked at its metadata since: what it said last counts.
    counts_until: Option<Timestamp>,
    /// Changes may still arrive.
    follows: bool,
    freezing_since: Option<Timestamp>,
    has_heard_holder: bool,
    /// Since when each member is waited for to freeze (rule L1b), by its place, and when that was looked at.
    unfrozen_since: [Option<Timestamp>; MEMBERS_MAX],
    unfrozen_seen: Timestamp,
    /// Since when a majority is free to grant a lease.
    free_since: Option<Timestamp>,
    turn: Option<Timestamp>,
    /// After an attempt that failed.
    retry_at: Timestamp,
    random: Random,
    /// A promotion is under way that was counted as begun (rule L1d).
    is_attempting: bool,
    /// Since when something has been on its way to disk.
    unstored_since: Option<Timestamp>,
    /// What is wanted on disk, what was asked to be, and what is there.
    durable: Durable,
    ordered: Durable,
    stored: Durable,
    ordered_at: Timestamp,
    seen_at: Timestamp,
    /// What freezing and storing took last.
    freeze_took: Duration,
    store_took: Duration,
    /// Something that others wait for is news.
    wants_round: bool,
    wants_freeze: bool,
    advertise: Option<Timestamp>,
    active_since: Option<Timestamp>,
    refused: Option<(NodeId, Refusal)>,
    margin_min: Option<Duration>,
}

impl Election {
    /// Makes an election that waits for the number of this life to be on disk. `None` where this node is no
    /// member.
    pub(crate) fn new(settings: Settings, has_metadata: bool, now: Timestamp) -> Option<Self> {
        let role = settings.members.role(settings.own)?;
        let place = settings.members.position(settings.own)?;
        let target = Membership::new(settings.generation, &settings.members, settings.timing);
        let mut durable = settings.durable;
        if settings.previous.is_none() {
            durable.membership = target;
        }
        let Settings { timing, .. } = settings;
        Some(Self {
            settings,
            place,
            role,
            target,
            state: State::Init,
            demotion: Demotion {
                promotion_failure: has_metadata && durable.attempts > 1,
                ..Demotion::NONE
            },
            hold_down: now.after(hold_down_after(durable.attempts, has_metadata)),
            second_try: now.after(timing.lease),
            standing: Standing::default(),
            born: now,
            rounds: Rounds::new(durable.boot, timing.interval, now),
            peers: [Peer::default(); MEMBERS_MAX],
            voter: Voter::new(durable.granted, timing.lease, now),
            lease: None,
            metadata: Metadata::default(),
            has_metadata,
            is_settled: !has_metadata,
            counts_until: None,
            follows: false,
            freezing_since: None,
            has_heard_holder: false,
            unfrozen_since: [None; MEMBERS_MAX],
            unfrozen_seen: now,
            free_since: None,
            turn: None,
            retry_at: now,
            random: Random::new(settings.seed),
            is_attempting: false,
            unstored_since: None,
            durable,
            ordered: Durable::default(),
            stored: Durable::default(),
            ordered_at: now,
            seen_at: now,
            freeze_took: Duration::ZERO,
            store_took: Duration::ZERO,
            wants_round: false,
            wants_freeze: false,
            advertise: None,
            active_since: None,
            refused: None,
            margin_min: None,
        })
    }

    pub(crate) const fn state(&self) -> State {
        self.state
    }

    pub(crate) const fn demotion(&self) -> Demotion {
        self.demotion
    }

    /// Returns what this node advertises and is ranked by.
    pub(crate) fn priority(&self) -> Priority {
        let configured = self.settings.priority;
        let advskew = if self.demotion.is_well() {
            configured.advskew()
        } else {
            configured.advskew().max(DEMOTED_ADVSKEW)
        };
        Priority::new(configured.advbase(), advskew)
    }

    /// Returns the holder that this node follows.
    pub(crate) fn followed(&self, now: Timestamp) -> Option<Followed> {
        let (place, heartbeat, arrival) = self.holder(now)?;
        Some(Followed {
            source: self.settings.sources.get(place).copied()?,
            priority: heartbeat.priority,
            arrival,
        })
    }

    pub(crate) fn listen(&mut self, now: Timestamp, reason: Reason) -> Transition {
        // What it has counts again.
        self.wants_round = true;
        self.enter(State::Backup, now, reason)
    }

    pub(crate) fn stop(&mut self, now: Timestamp, reason: Reason) -> Transition {
        self.enter(State::Init, now, reason)
    }

    /// Becomes master. The first advert is sent by the caller now.
    pub(crate) fn take_over(&mut self, now: Timestamp, reason: Reason) -> Transition {
        self.note_send(now);
        self.margin_min = None;
        self.wants_round = true;
        self.enter(State::Master, now, reason)
    }

    pub(crate) fn give_way(&mut self, now: Timestamp, reason: Reason) -> Transition {
        self.enter(State::Backup, now, reason)
    }

    /// Notes that an advert is sent now, and when the next one is due.
    pub(crate) fn note_send(&mut self, now: Timestamp) {
        self.advertise = Some(now.after(self.priority().interval()));
    }

    /// Notes that this node could not serve, and leaves it to others (rules E10 and M2).
    pub(crate) fn service_failed(&mut self, now: Timestamp, span: Duration, reason: Reason) {
        if reason == Reason::VipFailed {
            self.demotion.vip_failure = true;
        } else {
            self.demotion.promotion_failure = true;
        }
        if !core::mem::take(&mut self.is_attempting) {
            self.durable.attempts = self.durable.attempts.saturating_add(1);
        }
        self.hold_down = now.after(span);
        self.second_try = now.after(self.settings.timing.lease);
    }

    pub(crate) const fn service_began(&mut self, now: Timestamp) {
        // The second try of rule L1d may come to this within the hold-down of the first.
        self.hold_down = now;
        self.end_failure();
        self.active_since = Some(now);
    }

    const fn end_failure(&mut self) {
        self.demotion.vip_failure = false;
        self.demotion.promotion_failure = false;
    }

    pub(crate) fn end_hold_down(&mut self, now: Timestamp) {
        if now >= self.hold_down {
            self.end_failure();
        }
    }

    /// Notes what the way into service allows.
    pub(crate) fn set_standing(&mut self, now: Timestamp, standing: Standing) {
        let served = matches!(self.standing.phase, Phase::Active | Phase::Promoting);
        let serves = matches!(standing.phase, Phase::Active | Phase::Promoting);
        if served && !serves && self.has_metadata {
            // What it has now is to be looked at; until then what it said last counts.
            self.is_settled = false;
            self.counts_until = Some(now.after(LOOK_LIMIT));
        }
        if serves {
            self.follows = false;
        }
        if standing.phase != Phase::Active {
            self.active_since = None;
        }
        self.standing = standing;
        self.demotion.not_ready = standing.not_ready;
        self.demotion.stuck = standing.stuck;
    }

    /// Notes that this standby follows a master from now on: its metadata are not final.
    pub(crate) fn begins_to_follow(&mut self) {
        self.follows = self.has_metadata;
        self.freezing_since = None;
    }

    /// Notes that the metadata were looked at.
    pub(crate) const fn settled(&mut self) {
        self.is_settled = true;
        self.counts_until = None;
    }

    pub(crate) fn metadata_changed(&mut self, now: Timestamp, metadata: Metadata) {
        self.metadata = metadata;
        if self.standing.phase == Phase::Active {
            self.note_seen(now, metadata);
        }
    }

    pub(crate) fn metadata_frozen(&mut self, now: Timestamp, metadata: Metadata) {
        if let Some(since) = self.freezing_since.take() {
            self.freeze_took = now.since(since);
        }
        self.metadata = metadata;
        self.follows = false;
        self.wants_round = true;
    }

    /// Says why a master is none any more (rule L7): nothing else may be done before that.
    pub(crate) fn lost(&self, now: Timestamp) -> Option<Reason> {
        let is_over = self.lease_ends().is_none_or(|ends| ends <= now);
        (self.state == State::Master && is_over).then_some(Reason::LeaseExpired)
    }

    /// Takes note of a member's heartbeat.
    pub(crate) fn heartbeat_received(
        &mut self,
        now: Timestamp,
        heartbeat: &Heartbeat,
        arrival: Timestamp,
    ) {
        let Some(place) = self.place_of_sender(heartbeat) else {
            return;
        };
        if self.rounds.was_never_sent(heartbeat.echo.stamp) {
            self.rolled_back(now, heartbeat.echo.stamp);
        }
        let round_trip = self
            .rounds
            .sent_at(heartbeat.echo.stamp)
            .map(|sent| arrival.since(sent).saturating_sub(heartbeat.echo.held));
        if let Some(peer) = self.peers.get_mut(place) {
            peer.note(*heartbeat, arrival, round_trip);
        }
        self.note_holder(now, heartbeat);
        self.note_unfrozen(now);
        self.note_answer(now, place, heartbeat);
        self.note_request(now, place, heartbeat);
    }

    /// Returns the place of whoever sent this, where it is news of a member.
    fn place_of_sender(&self, heartbeat: &Heartbeat) -> Option<usize> {
        let is_for_us = heartbeat.receiver == self.settings.own
            && heartbeat.sender != self.settings.own
            && heartbeat.cluster == self.settings.cluster;
        let place = self.settings.members.position(heartbeat.sender)?;
        let last = self.peers.get(place)?.last;
        let is_news = last.is_none_or(|(last, _)| heartbeat.stamp > last.stamp);
        (is_for_us && is_news).then_some(place)
    }

    /// Rule L8: others remember more of this node than it does. It begins a new life.
    fn rolled_back(&mut self, now: Timestamp, echoed: Stamp) {
        if echoed.boot > self.durable.boot.saturating_add(STEP_MAX) {
            return;
        }
        self.forget_attempt();
        self.durable.boot = echoed.boot.max(self.durable.boot).saturating_add(1);
        self.rounds.restart(self.durable.boot, now);
        self.voter.restart(now);
        self.lease = None;
        self.retry_at = now.after(self.settings.timing.lease);
    }

    fn note_holder(&mut self, now: Timestamp, heartbeat: &Heartbeat) {
        if !is_holder(heartbeat) {
            return;
        }
        self.has_heard_holder = true;
        if heartbeat.phase != Phase::Active {
            return;
        }
        // What an operator has given up is not asked for again.
        let has_less = heartbeat.metadata.freshness < self.durable.seen;
        if heartbeat.flags.has(Flags::ACCEPTS_LOSS) && has_less {
            self.durable.seen = heartbeat.metadata.freshness;
        }
        self.note_seen(now, heartbeat.metadata);
    }

    /// Rule L1e: the epoch at once, the version about once a second.
    fn note_seen(&mut self, now: Timestamp, metadata: Metadata) {
        let (seen, news) = (self.durable.seen, metadata.freshness);
        let is_due = news.epoch > seen.epoch || now.since(self.seen_at) >= SEEN_SPAN;
        let is_plausible = news.epoch <= seen.epoch.saturating_add(STEP_MAX);
        if news > seen && is_due && is_plausible {
            self.durable.seen = news;
            self.seen_at = now;
        }
    }

    /// Takes note of what is on disk.
    pub(crate) fn stored(&mut self, now: Timestamp, durable: Durable) {
        if durable == self.ordered {
            self.store_took = now.since(self.ordered_at);
        }
        self.unstored_since = (durable != self.ordered).then_some(now);
        self.stored = durable;
        if let Some(grant) = self.voter.stored(now, durable.granted) {
            self.vote_counts(now, grant);
        }
    }

    /// Acts on deadlines that have passed.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        self.note_unfrozen(now);
        if self.rounds.due() <= now {
            self.wants_round = true;
        }
        if self
            .active_since
            .is_some_and(|since| now.since(since) >= STABLE)
        {
            self.durable.attempts = 0;
            self.is_attempting = false;
        }
    }

    pub(crate) fn is_advert_due(&self, now: Timestamp) -> bool {
        let is_due = self.advertise.is_some_and(|at| at <= now);
        is_due && self.state == State::Master
    }

    /// Asks for what was found to be needed. The last thing that is done about an event.
    pub(crate) fn give_orders(&mut self, now: Timestamp, actions: &mut Actions) {
        if core::mem::take(&mut self.wants_freeze) {
            actions.push(Action::FreezeMetadata);
        }
        let wants_round = core::mem::take(&mut self.wants_round) && self.is_numbered();
        if wants_round {
            self.rounds.begin(now);
            self.vote_for_self(now);
        }
        // What a vote in this round has to leave on disk goes with it.
        if self.durable != self.ordered {
            self.ordered = self.durable;
            self.ordered_at = now;
            self.unstored_since = self.unstored_since.or(Some(now));
            actions.push(Action::Store(self.durable));
        }
        if wants_round {
            actions.push(Action::SendHeartbeats);
        }
    }

    /// A disk that takes this long takes no vote either: others must not wait for this node.
    pub(crate) fn is_disk_stuck(&self, now: Timestamp) -> bool {
        let limit = self.settings.timing.lease.saturating_mul(2);
        self.unstored_since
            .is_some_and(|since| now.since(since) > limit)
    }

    /// The number of this life is on disk (rule L8).
    fn is_numbered(&self) -> bool {
        self.stored.boot == self.durable.boot
    }

    pub(crate) fn poll_timeout(&self, now: Timestamp) -> Option<(Timestamp, Timer)> {
        // Who hears nobody has to begin by itself.
        let begin = Some((self.born, Timer::Heartbeat)).filter(|_| self.durable != self.ordered);
        let round = Some((self.rounds.due(), Timer::Heartbeat)).filter(|_| self.is_numbered());
        // A master without a lease is none any more; one that asks has its rounds to wait for.
        let ends = self.lease_ends();
        let is_lost = self.state == State::Master && ends.is_none();
        let ends = ends.filter(|_| self.lease.is_some_and(|lease| lease.is_held));
        let ends = ends.or_else(|| is_lost.then_some(self.born));
        let lease = ends.map(|at| (at, Timer::LeaseEnd));
        let grant = self.voter.ends().map(|at| (at, Timer::GrantEnd));
        let turn = self.turn.map(|at| (at, Timer::Ask));
        let advertise = self
            .advertise
            .filter(|_| self.state == State::Master)
            .map(|at| (at, Timer::Advertise));
        let hold_down = Some((self.hold_down, Timer::HoldDown))
            .filter(|_| self.demotion.has_failed() && self.hold_down > now);
        [begin, round, lease, grant, turn, advertise, hold_down]
            .into_iter()
            .flatten()
            .min()
    }

    /// Returns what the last round has for another member.
    pub(crate) fn heartbeat(&self, to: NodeId) -> Option<Heartbeat> {
        let place = self.settings.members.position(to)?;
        let now = self.rounds.last_sent();
        let last = self.peers.get(place)?.last;
        let echo = last.map_or_else(Echo::default, |(heartbeat, arrival)| Echo {
            stamp: heartbeat.stamp,
            held: now.since(arrival),
        });
        let request = self.lease.map_or(0, |lease| lease.ballot.epoch);
        let is_held = self.lease.is_some_and(|lease| lease.is_held);
        Some(Heartbeat {
            cluster: self.settings.cluster,
            sender: self.settings.own,
            receiver: to,
            stamp: self.rounds.stamp(),
            sent_at: now,
            echo,
            membership: self.stored.membership,
            timing: self.settings.timing,
            role: self.role,
            phase: self.standing.phase,
            flags: self.flags(now, is_held),
            priority: self.priority(),
            heard: self.heard_bits(now),
            holder: self.holder_id(now).map_or(0, NodeId::get),
            request,
            grant: self.voter.grant(now).unwrap_or_default(),
            epoch: self.voter.granted().epoch,
            granted_to: self.voter.granted().candidate,
            metadata: self.metadata,
        })
    }

    fn flags(&self, now: Timestamp, is_held: bool) -> Flags {
        Flags::default()
            .with(Flags::READY, self.is_ready(now))
            .with(Flags::FROZEN, self.is_frozen())
            .with(Flags::HELD, is_held)
            .with(Flags::HOLDS, self.holds_request(now))
            .with(Flags::COUNTS, self.counts(now))
            .with(Flags::SETTLED, self.is_settled)
            .with(Flags::HAS_HEARD_HOLDER, self.has_heard_holder)
            .with(Flags::ACCEPTS_LOSS, self.settings.accepts_loss)
            .with(Flags::LATE, self.rounds.is_late(now))
    }

    fn enter(&mut self, to: State, at: Timestamp, reason: Reason) -> Transition {
        let from = core::mem::replace(&mut self.state, to);
        if to != State::Master {
            self.advertise = None;
        }
        Transition {
            from,
            to,
            reason,
            at,
        }
    }
}

/// Rule L1d: whoever ended in a second promotion in a row leaves the lease to others as if it had failed. An
/// address alone cannot be served in vain.
fn hold_down_after(attempts: u8, has_metadata: bool) -> Duration {
    match attempts.checked_sub(1) {
        Some(doublings @ 1..) if has_metadata => {
            HOLD_DOWN.saturating_mul(1_u32 << doublings.min(4))
        }
        _ => Duration::ZERO,
    }
}

/// Says whether a heartbeat is of a holder.
const fn is_holder(heartbeat: &Heartbeat) -> bool {
    heartbeat.flags.has(Flags::HELD) && heartbeat.request > 0
}
