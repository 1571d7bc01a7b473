//! Puts the status document together from everybody's view.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot, watch};

use crate::bpf::{FenceMap, GateView, MismatchMap, Mode, PeerMap, StatsMap};
use crate::clock;
use crate::cluster::path::PathViews;
use crate::config::{Config, Configuration};
use crate::control::{Answer, Request};
use crate::driver::{Fact, View};
use crate::hooks::HookStatus;
use crate::netlink::vip::{Presence, VipReport, Wanted};
use crate::promotion::PromotionViews;
use crate::state::StateViews;
use crate::status::cluster::{ClusterStatus, Sources};
use crate::status::gate::GateStatus;
use crate::status::promotion::PromotionStatus;
use crate::status::watchdog::WatchdogStatus;
use crate::status::{
    AdvertStatus, PeerStatus, Status, VipStatus, XdpStatus, age_ms, demotions, millis,
    next_timeout, transitions,
};
use crate::supervisor::LinkViews;
use crate::watchdog::WatchdogViews;

/// The heartbeat thread answers between two adverts.
const VIEW_LIMIT: Duration = Duration::from_secs(1);

/// Everybody's view.
#[derive(Clone)]
pub struct Inspector {
    /// The configuration.
    pub config: Arc<Configuration>,
    /// The way to the heartbeat thread.
    pub facts: mpsc::Sender<Fact>,
    /// What the kernel remembers of each sender.
    pub peers: Arc<PeerMap>,
    /// The kernel's counters.
    pub stats: Arc<StatsMap>,
    /// What a candidate has.
    pub service: Option<ServiceInspector>,
    /// What a node has whose cluster decides by majority.
    pub cluster: Option<ClusterInspector>,
    /// What a candidate has of the gate.
    pub gate: Option<GateInspector>,
    /// The watchdog; `None` without one.
    pub watchdog: Option<WatchdogViews>,
    /// Whether the heartbeat thread runs with real-time priority.
    pub is_realtime: bool,
}

/// The views of a candidate.
#[derive(Clone)]
pub struct ServiceInspector {
    /// The interface.
    pub link: LinkViews,
    /// What the VIP should be.
    pub wanted_vip: watch::Receiver<Wanted>,
    /// What it is.
    pub vip: watch::Receiver<VipReport>,
    /// The hooks.
    pub hooks: watch::Receiver<HookStatus>,
    /// The metadata; `None` for a plain CARP daemon.
    pub metadata: Option<PromotionViews>,
}

/// The views of a voter.
#[derive(Clone)]
pub struct ClusterInspector {
    /// Whose key, cluster or version differs.
    pub mismatches: Arc<MismatchMap>,
    /// The networks.
    pub paths: Vec<PathViews>,
    /// The disk.
    pub state: StateViews,
}

/// The views of the gate.
#[derive(Clone)]
pub struct GateInspector {
    /// Who else holds a lease, as far as the kernel heard.
    pub fence: Arc<FenceMap>,
    /// Where it is attached.
    pub views: watch::Receiver<GateView>,
}

impl Inspector {
    /// Answers a request of the control socket.
    pub async fn answer(self, request: Request) -> Answer {
        match request {
            Request::Status {} => match self.status().await {
                Ok(status) => Answer::Status(Box::new(status)),
                Err(error) => Answer::Error(format!("{error:#}")),
            },
            Request::Recording {} => match self.recording().await {
                Ok(lines) => Answer::Recording(lines),
                Err(error) => Answer::Error(format!("{error:#}")),
            },
        }
    }

    /// Writes the state into the log.
    pub async fn log(&self) {
        match self.status().await {
            Ok(status) => tracing::info!(
                state = status.state,
                phase = status.phase,
                reason = status.reason,
                vip_present = status.vip.is_some_and(|vip| vip.present),
                "state"
            ),
            Err(error) => tracing::warn!("{error:#}"),
        }
    }

    async fn view(&self) -> anyhow::Result<View> {
        self.ask(Fact::Inspect).await
    }

    /// Asks the heartbeat thread.
    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Fact) -> anyhow::Result<T> {
        let (ask, answer) = oneshot::channel();
        let exchange = async {
            self.facts.send(question(ask)).await.ok();
            answer.await
        };
        tokio::time::timeout(VIEW_LIMIT, exchange)
            .await
            .context("the heartbeat thread does not answer")?
            .context("the heartbeat thread has ended")
    }

    async fn recording(&self) -> anyhow::Result<String> {
        let recording = self.ask(Fact::Record).await?;
        // Megabytes of text are not written on the thread that everybody else lives on.
        let written = tokio::task::spawn_blocking(move || {
            let mut lines = Vec::new();
            recording.write(&mut lines).map(|()| lines)
        });
        let lines = written.await.context("the thread that writes it died")??;
        String::from_utf8(lines).context("JSON is UTF-8")
    }

    async fn status(&self) -> anyhow::Result<Status> {
        let view = self.view().await?;
        let stats = self.stats.read()?;
        let config = match &*self.config {
            Configuration::Candidate(config) => Some(config),
            Configuration::Witness(_) => None,
        };
        let service = self.service.as_ref();
        let link = service
            .map(|service| service.link.get())
            .unwrap_or_default();
        let mode = if self.config.quorum().is_some() {
            "quorum"
        } else {
            "carp"
        };
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.config.instance().to_owned(),
            pid: std::process::id(),
            mode: mode.to_owned(),
            interface: config.map(|config| config.interface.clone()),
            ifindex: link.ifindex,
            link_problem: link.problem,
            vhid: config.map(|config| config.carp.vhid),
            source: link.source,
            state: view.node.state.name().to_owned(),
            phase: view.node.phase.name().to_owned(),
            state_age_ms: millis(view.at.since(view.node.last.at)),
            reason: view.node.last.reason.name().to_owned(),
            advbase: config.map(|config| config.carp.advbase),
            advskew: config.map(|config| config.carp.advskew),
            effective_skew: config.map(|_| view.node.priority.advskew()),
            demotion: demotions(view.node.demotion),
            master: view.node.followed.map(|master| master.source.into()),
            next_timeout: next_timeout(&view),
            cluster: self.cluster(&view, stats.ring_full)?,
            peers: self.peers(&view)?,
            vip: config
                .zip(service)
                .map(|(config, service)| service.vip(config)),
            gate: self.gate(&view)?,
            watchdog: config.and_then(|config| self.watchdog(config)),
            xdp: XdpStatus {
                mode: link.mode.map_or("none", Mode::name).to_owned(),
                fallback_reason: link.fallback_reason,
                pins: self.config.pin_dir().display().to_string(),
            },
            counters: stats
                .fields()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            adverts: AdvertStatus {
                sent: view.adverts_sent,
                failed: view.adverts_failed,
                lateness_max_us: view.lateness_max_ns / 1000,
            },
            hooks: service.map_or_else(Default::default, |service| {
                (&*service.hooks.borrow()).into()
            }),
            promotion: service
                .and_then(|service| service.metadata.as_ref())
                .map(|views| PromotionStatus::new(&views.get(), &view)),
            realtime: self.is_realtime,
            transitions: transitions(&view),
        })
    }

    fn cluster(&self, view: &View, ring_full: u64) -> anyhow::Result<Option<ClusterStatus>> {
        let parts = (&self.cluster, self.config.quorum(), &view.cluster);
        let (Some(inspector), Some(cluster), Some(seen)) = parts else {
            return Ok(None);
        };
        let sources = Sources {
            cluster,
            seen,
            at: view.at,
            mismatches: &inspector.mismatches.read()?,
            paths: &inspector.paths,
            state: &inspector.state.get(),
            ring_full,
        };
        Ok(Some(ClusterStatus::new(&sources)))
    }

    fn gate(&self, view: &View) -> anyhow::Result<Option<GateStatus>> {
        let Some(inspector) = &self.gate else {
            return Ok(None);
        };
        let Some(told) = view.gate else {
            return Ok(Some(GateStatus::off()));
        };
        let attached = inspector.views.borrow().clone();
        let fence = inspector.fence.read()?;
        Ok(Some(GateStatus::new(&told, &attached, fence, view.at)))
    }

    fn watchdog(&self, config: &Config) -> Option<WatchdogStatus> {
        let (watchdog, views) = config.watchdog.as_ref().zip(self.watchdog.as_ref())?;
        // Its thread may have pinged since the heartbeat thread answered.
        Some(WatchdogStatus::new(
            &watchdog.device,
            &views.get(),
            clock::now(),
        ))
    }

    fn peers(&self, view: &View) -> anyhow::Result<Vec<PeerStatus>> {
        let mut peers: Vec<PeerStatus> = self
            .peers
            .read()?
            .into_iter()
            .map(|(key, state)| PeerStatus {
                source: key.source.into(),
                advbase: state.advbase,
                advskew: state.advskew,
                adverts: state.adverts,
                last_advert_age_ms: age_ms(view.at, state.last_advert_ns),
            })
            .collect();
        peers.sort_by_key(|peer| peer.source);
        Ok(peers)
    }
}

impl ServiceInspector {
    fn vip(&self, config: &Config) -> VipStatus {
        let report = self.vip.borrow().clone();
        let vip = &config.vip;
        VipStatus {
            address: format!("{}/{}", vip.address, vip.prefix_len),
            present: report.presence == Presence::Present,
            wanted: self.wanted_vip.borrow().present,
            problem: report.error,
        }
    }
}
