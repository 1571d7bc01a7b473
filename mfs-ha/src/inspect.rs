//! Puts the status document together from everybody's view.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot, watch};

use crate::bpf::{Mode, PeerMap, StatsMap};
use crate::config::Config;
use crate::control::{Answer, Request};
use crate::driver::{Fact, View};
use crate::hooks::HookStatus;
use crate::netlink::vip::{Presence, VipReport, Wanted};
use crate::promotion::PromotionViews;
use crate::status::promotion::PromotionStatus;
use crate::status::{
    AdvertStatus, PeerStatus, Status, VipStatus, XdpStatus, age_ms, demotions, millis,
    next_timeout, transitions,
};
use crate::supervisor::LinkViews;

/// The heartbeat thread answers between two adverts.
const VIEW_LIMIT: Duration = Duration::from_secs(1);

/// Everybody's view.
#[derive(Clone)]
pub struct Inspector {
    /// The configuration.
    pub config: Arc<Config>,
    /// The way to the heartbeat thread.
    pub facts: mpsc::Sender<Fact>,
    /// What the kernel remembers of each sender.
    pub peers: Arc<PeerMap>,
    /// The kernel's counters.
    pub stats: Arc<StatsMap>,
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
    /// Whether the heartbeat thread runs with real-time priority.
    pub is_realtime: bool,
}

impl Inspector {
    /// Answers a request of the control socket.
    pub async fn answer(self, request: Request) -> Answer {
        match request {
            Request::Status {} => match self.status().await {
                Ok(status) => Answer::Status(Box::new(status)),
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
                vip_present = status.vip.present,
                "state"
            ),
            Err(error) => tracing::warn!("{error:#}"),
        }
    }

    async fn view(&self) -> anyhow::Result<View> {
        let (ask, answer) = oneshot::channel();
        let exchange = async {
            self.facts.send(Fact::Inspect(ask)).await.ok();
            answer.await
        };
        tokio::time::timeout(VIEW_LIMIT, exchange)
            .await
            .context("the heartbeat thread does not answer")?
            .context("the heartbeat thread has ended")
    }

    async fn status(&self) -> anyhow::Result<Status> {
        let view = self.view().await?;
        let link = self.link.get();
        let carp = &self.config.carp;
        Ok(Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: self.config.instance.clone(),
            pid: std::process::id(),
            interface: self.config.interface.clone(),
            ifindex: link.ifindex,
            link_problem: link.problem,
            vhid: carp.vhid,
            source: link.source,
            state: view.node.state.name().to_owned(),
            phase: view.node.phase.name().to_owned(),
            state_age_ms: millis(view.at.since(view.node.last.at)),
            reason: view.node.last.reason.name().to_owned(),
            advbase: carp.advbase,
            advskew: carp.advskew,
            effective_skew: view.node.priority.advskew(),
            demotion: demotions(view.node.demotion),
            master: view.node.followed.map(|master| master.source.into()),
            next_timeout: next_timeout(&view),
            peers: self.peers(&view)?,
            vip: self.vip(),
            xdp: XdpStatus {
                mode: link.mode.map_or("none", Mode::name).to_owned(),
                fallback_reason: link.fallback_reason,
                pins: self.config.pin_dir().display().to_string(),
            },
            counters: self
                .stats
                .read()?
                .fields()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            adverts: AdvertStatus {
                sent: view.adverts_sent,
                failed: view.adverts_failed,
                lateness_max_us: view.lateness_max_ns / 1000,
            },
            hooks: (&*self.hooks.borrow()).into(),
            promotion: self
                .metadata
                .as_ref()
                .map(|views| PromotionStatus::new(&views.get(), &view)),
            realtime: self.is_realtime,
            transitions: transitions(&view),
        })
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

    fn vip(&self) -> VipStatus {
        let report = self.vip.borrow().clone();
        let vip = &self.config.vip;
        VipStatus {
            address: format!("{}/{}", vip.address, vip.prefix_len),
            present: report.presence == Presence::Present,
            wanted: self.wanted_vip.borrow().present,
            problem: report.error,
        }
    }
}
