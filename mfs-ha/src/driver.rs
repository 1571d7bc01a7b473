//! The heartbeat loop: wait, take in what happened, ask the node, carry out what it says.
//!
//! It runs on a thread and a runtime of its own and shares no lock with the rest of the daemon on its
//! way from an advert to an advert. Everything slow (netlink, hooks, the control socket, logging) is
//! somewhere else and is told over channels that never block. One turn, in this order:
//!
//! 1. wait for a record, a fact or the node's deadline;
//! 2. drain the ring buffer, so that what the kernel saw is known before time is judged;
//! 3. take in facts from the rest of the daemon;
//! 4. before silence is believed, compare with PEERS, which a full ring buffer cannot hide;
//! 5. tick.

mod heard;
mod outputs;
mod view;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use anyhow::Context as _;
use aya::maps::{MapData, RingBuf};
use mfs_ha_common::action::{Action, Actions};
use mfs_ha_common::durable::Durable;
use mfs_ha_common::election::quorum::LeaseStatus;
use mfs_ha_common::election::{Timer, Transition};
use mfs_ha_common::event::Event;
use mfs_ha_common::freshness::Metadata;
use mfs_ha_common::net::Ipv4;
use mfs_ha_common::node::Node;
use mfs_ha_common::priority::Priority;
use mfs_ha_common::time::Timestamp;
use std::os::fd::{AsFd as _, OwnedFd};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

pub use self::outputs::{Outputs, QuorumOutputs, ServiceOutputs};
pub use self::view::{ClusterView, View};
use crate::bpf::PeerMap;
use crate::clock::{self, BootTimer};
use crate::cluster::sender::PathSender;
use crate::gate::GateWriter;
use crate::netlink::vip::{Presence, VipReport};
use crate::readiness;
use crate::recorder::{Recorder, Recording};
use crate::transmit::Transmitter;
use crate::watchdog::Pulse;

/// Facts that may wait for the heartbeat thread. Senders outside wait for room; nothing inside does.
pub const FACTS_MAX: usize = 64;

/// Transitions that status shows.
const TRANSITIONS_MAX: usize = 32;

/// Metadata epochs that one lease has room for: restarts of mfsmaster while it is held.
const EPOCHS_IN_LEASE: u64 = 1 << 16;

/// What the rest of the daemon tells the heartbeat thread.
#[derive(Debug)]
pub enum Fact {
    /// The interface can be used, through this.
    LinkUp(Box<Transmitter>),
    /// It cannot.
    LinkDown,
    /// A network between the members can be used, through this.
    PathUp {
        /// Which one.
        index: usize,
        /// The way to all other members.
        sender: Box<PathSender>,
    },
    /// It cannot.
    PathDown {
        /// Which one.
        index: usize,
    },
    /// What became of the VIP.
    Vip(VipReport),
    /// A step of the promotion or the resignation is done.
    StepDone {
        /// Of the order.
        ticket: u32,
    },
    /// It cannot be done.
    StepFailed {
        /// Of the order.
        ticket: u32,
    },
    /// The mfsmaster of this node died or hangs.
    MasterLost,
    /// Whether the metadata of this node could be promoted.
    Ready(bool),
    /// What this node has of the metadata.
    Metadata(Metadata),
    /// The same, and nothing arrives any more.
    Frozen(Metadata),
    /// mfsmetalogger may hear the holder of this lease epoch; 0: nobody.
    Follows(u64),
    /// This is on disk.
    Stored(Durable),
    /// The operator ends the daemon.
    Stop,
    /// Somebody wants to see the node.
    Inspect(oneshot::Sender<View>),
    /// Somebody wants to see what happened to it.
    Record(oneshot::Sender<Recording>),
}

/// The heartbeat thread's state.
pub struct Driver {
    node: Node,
    timer: BootTimer,
    records: RingBuf<MapData>,
    records_ready: AsyncFd<OwnedFd>,
    peers: Arc<PeerMap>,
    /// When the holder that serves was heard last.
    served_at: Timestamp,
    /// Arrival of the last record of each source, in nanoseconds.
    seen: BTreeMap<Ipv4, u64>,
    facts: mpsc::Receiver<Fact>,
    outputs: Outputs,
    transmitter: Option<Box<Transmitter>>,
    view: View,
    not_understood: u64,
    /// The last announcement was not sent.
    is_unannounced: bool,
    recorder: Recorder,
    has_ended: bool,
}

impl Driver {
    /// Joins the parts. Call it within the runtime that will run it.
    ///
    /// # Errors
    /// No file descriptors left.
    pub fn new(
        node: Node,
        records: RingBuf<MapData>,
        peers: Arc<PeerMap>,
        facts: mpsc::Receiver<Fact>,
        outputs: Outputs,
    ) -> anyhow::Result<Self> {
        let fd = records
            .as_fd()
            .try_clone_to_owned()
            .context("watch the ring buffer")?;
        let view = View {
            node: node.status(),
            at: clock::now(),
            transitions: Vec::new(),
            adverts_sent: 0,
            adverts_failed: 0,
            cluster: None,
            gate: None,
            lateness_max_ns: 0,
        };
        Ok(Self {
            node,
            timer: BootTimer::new()?,
            records,
            records_ready: readiness::watch(fd).context("watch the ring buffer")?,
            peers,
            served_at: clock::now(),
            seen: BTreeMap::new(),
            facts,
            outputs,
            transmitter: None,
            view,
            not_understood: 0,
            is_unannounced: false,
            recorder: Recorder::default(),
            has_ended: false,
        })
    }

    /// Runs until the node has left.
    ///
    /// # Errors
    /// The timer or the ring buffer cannot be used: the daemon has to end and give the VIP up.
    pub async fn run(mut self) -> anyhow::Result<()> {
        while !self.has_ended {
            let fact = self.wait().await?;
            self.drain_records();
            if let Some(fact) = fact {
                self.take_in(fact);
            }
            self.drain_facts();
            self.tick();
            if let Some(watchdog) = &self.outputs.watchdog {
                watchdog.beat(clock::now());
            }
        }
        Ok(())
    }

    /// Waits for something to do. Cancel-safe in all branches: a fact is returned, readiness is level.
    async fn wait(&mut self) -> anyhow::Result<Option<Fact>> {
        let deadline = self.node.poll_timeout().map(|(at, _)| at);
        // A tick that comes early is harmless.
        let sign = self.outputs.watchdog.as_ref().and_then(Pulse::due);
        self.timer.arm(deadline.into_iter().chain(sign).min())?;
        tokio::select! {
            biased;
            fired = self.timer.fired() => fired.map(|()| None),
            ready = self.records_ready.readable() => {
                ready.context("wait for the ring buffer")?.clear_ready();
                Ok(None)
            }
            fact = self.facts.recv() => {
                // Nobody is left who could stop us: the daemon is ending.
                Ok(Some(fact.unwrap_or(Fact::Stop)))
            }
        }
    }

    fn drain_facts(&mut self) {
        for _ in 0..FACTS_MAX {
            match self.facts.try_recv() {
                Ok(fact) => self.take_in(fact),
                Err(_) => return,
            }
        }
    }

    fn take_in(&mut self, fact: Fact) {
        match fact {
            Fact::LinkUp(transmitter) => {
                let source = transmitter.source();
                self.transmitter = Some(transmitter);
                self.handle(Event::SourceChanged { source });
                self.handle(Event::LinkUp);
            }
            Fact::LinkDown => {
                self.handle(Event::LinkDown);
                self.transmitter = None;
            }
            Fact::PathUp { index, sender } => self.set_path(index, Some(sender)),
            Fact::PathDown { index } => self.set_path(index, None),
            Fact::Vip(report) => self.vip_reported(&report),
            Fact::StepDone { ticket } => self.handle(Event::StepDone { ticket }),
            Fact::StepFailed { ticket } => self.handle(Event::StepFailed { ticket }),
            Fact::MasterLost => self.handle(Event::MetadataMasterLost),
            Fact::Ready(ready) => self.handle(Event::ReadinessChanged { ready }),
            Fact::Metadata(metadata) => {
                self.note_metadata(metadata);
                self.handle(Event::MetadataChanged { metadata });
            }
            Fact::Frozen(metadata) => {
                self.note_metadata(metadata);
                self.handle(Event::MetadataFrozen { metadata });
            }
            Fact::Follows(epoch) => {
                if let Some(gate) = &mut self.outputs.gate {
                    gate.follow_holder(epoch);
                }
            }
            Fact::Stored(durable) => self.handle(Event::Stored { durable }),
            Fact::Stop => self.handle(Event::StopRequested),
            Fact::Inspect(answer) => {
                self.view.node = self.node.status();
                self.view.at = clock::now();
                self.view.cluster = self.cluster_view();
                self.view.gate = self.outputs.gate.as_ref().map(GateWriter::view);
                // The asker may be gone.
                answer.send(self.view.clone()).ok();
            }
            Fact::Record(answer) => {
                answer.send(self.recorder.recording()).ok();
            }
        }
    }

    fn set_path(&mut self, index: usize, sender: Option<Box<PathSender>>) {
        if let Some(quorum) = &mut self.outputs.quorum {
            quorum.rounds.set(index, sender);
        }
    }

    fn note_metadata(&mut self, metadata: Metadata) {
        if let Some(signer) = &mut self.outputs.signer {
            signer.set_freshness(metadata.freshness);
        }
    }

    fn cluster_view(&self) -> Option<ClusterView> {
        let now = self.view.at;
        Some(ClusterView {
            lease: self.node.lease(now)?,
            members: self.node.members(now).collect(),
            paths: self.outputs.quorum.as_ref()?.rounds.counts(),
            not_understood: self.not_understood,
        })
    }

    fn vip_reported(&mut self, report: &VipReport) {
        let Some(service) = &self.outputs.service else {
            return;
        };
        let wanted = *service.vip.borrow();
        // An answer to an older request says nothing about this one.
        if report.generation != wanted.generation {
            return;
        }
        // Whoever brought it here once may do so again, sooner than it is seen.
        let is_here = wanted.present || report.is_contested || report.presence != Presence::Absent;
        if let Some(gate) = &mut self.outputs.gate {
            gate.set_here(is_here);
        }
        let present = wanted.present;
        let is_as_wanted = match report.presence {
            Presence::Present => present,
            Presence::Absent => !present,
            Presence::Unknown => false,
        };
        // An interface that is gone is an error, and yet has no VIP any more.
        if is_as_wanted {
            self.handle(Event::VipSet { present });
        } else if report.error.is_some() {
            self.handle(Event::VipFailed { present });
        }
    }

    fn tick(&mut self) {
        let now = clock::now();
        self.forget_silent_holder(now);
        if let Some((at, timer)) = self.node.poll_timeout().filter(|(at, _)| *at <= now) {
            let lateness = now.as_nanos().saturating_sub(at.as_nanos());
            self.view.lateness_max_ns = self.view.lateness_max_ns.max(lateness);
            if matches!(timer, Timer::MasterDown | Timer::BowOutSlot) {
                self.reread_peers();
            }
        }
        self.handle(Event::Tick);
    }

    fn handle(&mut self, event: Event) {
        let steps = self.node.demotion().equal_skew;
        let actions = self.turn(event);
        if self.node.demotion().equal_skew > steps {
            tracing::warn!(
                effective_skew = self.node.priority().advskew(),
                "a peer has the same advbase and advskew and wins ties: one step aside; give each node its own advskew"
            );
        }
        // A send is answered at once. The answer may find something else due, a round of heartbeats for example, as
        // any event may; the next advert is not due before an interval has passed, which ends this.
        let mut answer = self.apply(actions);
        while let Some(event) = answer {
            let actions = self.turn(event);
            answer = self.apply(actions);
        }
    }

    /// Tells the node a fact, on record.
    fn turn(&mut self, event: Event) -> Actions {
        let now = clock::now();
        self.recorder.before(&self.node);
        let actions = self.node.handle(now, event);
        // Before anything else: a late renewal costs service, and a late close costs files.
        if let Some(gate) = &mut self.outputs.gate {
            gate.follow(self.node.gate(), now);
        }
        // Before the VIP is asked for.
        if let Some(watchdog) = &self.outputs.watchdog {
            let status = self.node.status();
            watchdog.follow(status.state, status.phase, now);
        }
        self.recorder.note(now, event, actions);
        actions
    }

    fn apply(&mut self, actions: Actions) -> Option<Event> {
        let mut answer = None;
        for action in actions {
            match action {
                Action::SendAdvert(priority) => answer = Some(self.send_advert(priority)),
                Action::AnnounceVip => self.announce(),
                Action::SendHeartbeats => {
                    if let Some(quorum) = &mut self.outputs.quorum {
                        quorum.rounds.send(&self.node);
                    }
                }
                Action::Store(durable) => {
                    if let Some(quorum) = &self.outputs.quorum {
                        quorum.store.send_replace(Some(durable));
                    }
                }
                Action::SetVip { present: true } => {
                    // Before anybody can answer for it.
                    if let Some(gate) = &mut self.outputs.gate {
                        gate.set_here(true);
                    }
                    self.order(action);
                }
                Action::SetVip { present: false }
                | Action::RunHook(_)
                | Action::RunStep { .. }
                | Action::FollowMaster { .. }
                | Action::FreezeMetadata => self.order(action),
                Action::Report(transition) => self.report(transition),
                Action::Exit => self.has_ended = true,
            }
        }
        answer
    }

    fn order(&self, action: Action) {
        // A witness has nothing that this could be about.
        if let Some(service) = &self.outputs.service {
            let lease = self.node.lease(clock::now());
            service.order(action, lease.map_or(0, epochs_before));
        }
    }

    fn send_advert(&mut self, priority: Priority) -> Event {
        if let Some(signer) = &mut self.outputs.signer
            && let Some(lease) = self.node.lease(clock::now())
        {
            signer.describe(lease.durable.boot, lease.ballot.epoch);
        }
        let sent = self
            .transmitter
            .as_mut()
            .map(|transmitter| transmitter.send_advert(priority, self.outputs.signer.as_mut()));
        match sent {
            Some(Ok(())) => {
                self.view.adverts_sent += 1;
                Event::AdvertSent
            }
            Some(Err(error)) => {
                self.view.adverts_failed += 1;
                tracing::debug!(%error, "an advert was not sent");
                Event::SendFailed
            }
            None => Event::SendFailed,
        }
    }

    fn announce(&mut self) {
        let Some(sent) = self.transmitter.as_ref().map(|t| t.announce()) else {
            return;
        };
        // It is tried every second.
        if let Err(error) = &sent
            && !self.is_unannounced
        {
            tracing::warn!(%error, "a gratuitous ARP was not sent");
        }
        self.is_unannounced = sent.is_err();
    }

    fn report(&mut self, transition: Transition) {
        tracing::info!(
            from = transition.from.name(),
            to = transition.to.name(),
            reason = transition.reason.name(),
            "state"
        );
        let mut transitions = VecDeque::from(std::mem::take(&mut self.view.transitions));
        if transitions.len() == TRANSITIONS_MAX {
            transitions.pop_front();
        }
        transitions.push_back(transition);
        self.view.transitions = transitions.into();
    }
}

/// Returns the metadata epoch that a promotion under this lease has to exceed.
///
/// Lease epochs rise with each lease that a majority ever granted, so metadata epochs that begin where the
/// lease's number says are those of nobody else, whoever was down while others served. Restarts in place
/// have room below the next lease.
fn epochs_before(lease: LeaseStatus) -> u64 {
    let begin = lease.ballot.epoch.checked_mul(EPOCHS_IN_LEASE);
    lease.durable.seen.epoch.max(begin.unwrap_or_default())
}
