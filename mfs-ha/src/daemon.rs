//! The daemon: its parts put together, run, and taken apart again.
//!
//! [`Ground`] is what a start needs and may be refused; nothing on the machine is changed but that the
//! VIP of an earlier life goes and the XDP program is attached, which is undone when it is dropped.
//! [`Daemon`] owns the VIP: whatever ends it, the VIP is removed last, by the node's own farewell and
//! once more by hand.

mod base;
mod end;
mod ground;
mod witness;

use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use mfs_ha_common::election::carp::Settings;
use mfs_ha_common::node::{Node, NodeConfig};
use mfs_ha_common::priority::Priority;
use mfs_ha_common::promotion::Service;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::base::ClusterTasks;
pub use self::base::{ClusterStart, ClusterStartError};
use self::end::{Logger, forward_logs, until_end};
pub use self::ground::{Cleared, Ground, GroundError};
pub use self::witness::{WitnessDaemon, WitnessError};
use crate::bpf::{Attachments, FenceMap};
use crate::cluster::path::PathKeeper;
use crate::config::Config;
use crate::control::ControlSocket;
use crate::driver::{Fact, Outputs, ServiceOutputs};
use crate::gate;
use crate::heartbeat::{self, Heartbeat, Parts};
use crate::hooks::{Hook, HookRunner, HookSettings};
use crate::inspect::{GateInspector, Inspector, ServiceInspector};
use crate::interface::LinkState;
use crate::moosefs::process::master::MasterProgram;
use crate::moosefs::services::{Action as ServiceAction, Services};
use crate::netlink::vip::{NetlinkTarget, VipApplier, VipReport, Wanted, remove_vip_now};
use crate::netlink::watch::LinkWatcher;
use crate::promotion::{Executor, Housekeeping, Inputs, Metadata, Orders, Reports};
use crate::signals::Signals;
use crate::state::StateDir;
use crate::supervisor::{LinkViews, Supervisor};
use crate::watchdog::{self, CharDevice, Keeper, Pulse, WatchdogTask};
use crate::{clock, cluster};

fn start_watchdog(
    config: &Config,
    keeper: Option<Keeper<CharDevice>>,
) -> anyhow::Result<(Option<WatchdogTask>, Option<Pulse>)> {
    let started = keeper.map(|keeper| watchdog::spawn(keeper, config.scheduling.realtime));
    Ok(started.transpose()?.unzip())
}

/// Leaves it armed where something of what was served may be left.
async fn finish_watchdog(watchdog: Option<WatchdogTask>, is_clean: bool) {
    if let Some(watchdog) = watchdog {
        watchdog.finish(is_clean).await;
    }
}

fn gate_inspector(fence: FenceMap, attachments: &Attachments) -> GateInspector {
    GateInspector {
        fence: Arc::new(fence),
        views: attachments.gate_views(),
    }
}

/// The running daemon.
pub struct Daemon {
    config: Arc<Config>,
    facts: mpsc::Sender<Fact>,
    heartbeat: Heartbeat,
    supervisor: Supervisor,
    keepers: Vec<PathKeeper>,
    attachments: Attachments,
    link: watch::Receiver<LinkState>,
    link_watcher: LinkWatcher,
    service: ServiceTasks,
    inspector: Inspector,
    control: ControlSocket,
    logger: Logger,
    signals: Signals,
    watchdog: Option<WatchdogTask>,
    /// In carp mode nobody writes to it, and nobody else may sign with the number of this life.
    _state: Option<StateDir>,
}

/// What carries out the decisions about VIP, hooks and metadata.
struct ServiceTasks {
    applier: VipApplier<NetlinkTarget>,
    reports: watch::Receiver<VipReport>,
    hooks: HookRunner,
    metadata: Option<MetadataTask>,
}

/// What the rest of the daemon has to know of it.
struct ServiceParts {
    outputs: ServiceOutputs,
    inspector: ServiceInspector,
}

/// What carries out the decisions about the metadata.
struct MetadataTask {
    executor: Executor,
    housekeeping: Housekeeping,
    services: Services,
    master: MasterProgram,
}

impl Daemon {
    /// Starts the heartbeat thread and everything around it.
    ///
    /// # Errors
    /// The control socket, a thread or a signal handler cannot be had.
    pub async fn start(ground: Ground) -> anyhow::Result<Self> {
        let config = ground.config;
        let base = ground.base;
        let signals = Signals::new()?;
        let control = ControlSocket::bind(&config.socket_path())?;
        let node = node(&config, ground.source, ground.cluster.as_ref())?;
        let cluster = ClusterTasks::start(
            &ground.configuration,
            ground.cluster,
            &base.attachments,
            &base.facts,
            base.mismatches,
        )?;
        let (cluster, keepers, inspector, state) = cluster.map_or_else(Default::default, |tasks| {
            let outputs = (tasks.quorum, Some(tasks.signer));
            (outputs, tasks.keepers, tasks.inspector, tasks.state)
        });
        let (service, parts) = service(
            &config,
            ground.metadata,
            &ground.link,
            &base.facts,
            ground.supervisor.views(),
        );
        let (watchdog, pulse) = start_watchdog(&config, ground.watchdog)?;
        let heartbeat = Parts {
            node,
            records: base.records,
            peers: Arc::clone(&base.peers),
            facts: base.facts_receiver,
            outputs: Outputs {
                service: Some(parts.outputs),
                quorum: cluster.0,
                signer: cluster.1,
                gate: ground.gate,
                watchdog: pulse,
            },
        };
        let heartbeat = heartbeat::start(heartbeat, config.scheduling.realtime).await?;
        base.attachments.clear_up_later();
        let inspector = Inspector {
            config: ground.configuration,
            facts: base.facts.clone(),
            peers: base.peers,
            stats: base.stats,
            service: Some(parts.inspector),
            cluster: inspector,
            gate: Some(gate_inspector(base.fence, &base.attachments)),
            watchdog: watchdog.as_ref().map(WatchdogTask::views),
            is_realtime: heartbeat.is_realtime,
        };
        Ok(Self {
            config,
            facts: base.facts,
            heartbeat,
            supervisor: ground.supervisor,
            keepers,
            attachments: base.attachments,
            link: ground.link,
            link_watcher: ground.link_watcher,
            service,
            inspector,
            control,
            logger: base.logger,
            signals,
            watchdog,
            _state: state,
        })
    }

    /// Runs until a signal or a fault ends it, and leaves no VIP behind.
    ///
    /// # Errors
    /// The heartbeat thread died or did not end in time.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self {
            config,
            facts,
            heartbeat,
            supervisor,
            keepers,
            attachments,
            link,
            link_watcher,
            service,
            inspector,
            control,
            logger,
            signals,
            watchdog,
            _state,
        } = self;
        let ServiceTasks {
            applier,
            reports,
            hooks,
            metadata,
        } = service;
        let (work, metadata) = metadata.map(MetadataTask::split).unzip();
        // What it holds attached stays until the VIP is gone, so it is dropped last.
        let mut background = pin!(async {
            tokio::join!(
                link_watcher.run(),
                supervisor.run(link),
                gate::keep(attachments.clone()),
                ClusterTasks::keep_paths(keepers),
                applier.run(),
                forward_reports(reports, facts.clone()),
                control.serve({
                    let inspector = inspector.clone();
                    move |request| inspector.clone().answer(request)
                }),
                forward_logs(logger),
                async {
                    if let Some((executor, housekeeping)) = work {
                        tokio::join!(executor.run(), housekeeping.run());
                    }
                },
            )
        });
        let ended = tokio::select! {
            _ = &mut background => Err(anyhow!("the daemon's own tasks have ended")),
            ended = until_end(signals, &facts, &inspector, heartbeat.ended) => ended,
        };
        if ended.is_err() {
            // Nobody else says so any more: whatever the up hook started has to go.
            hooks.want(Hook::Down);
        }
        let master = metadata.as_ref().map(|(_, master)| master);
        let (is_master_gone, is_vip_gone) =
            tokio::join!(stop_left_master(master), remove_left_vip(&config));
        let is_clean = is_master_gone && is_vip_gone;
        finish_watchdog(watchdog, is_clean).await;
        if !is_clean {
            tracing::error!("the gate stays, closed, because something may be left behind");
            attachments.leave().await;
        }
        // The down hook still gets its time; nothing else waits for it any more.
        let deadline = Instant::now() + hook_limit(&config);
        hooks.finish(deadline).await;
        if let Some((services, _)) = metadata {
            services.want(ServiceAction::Stop);
            services.finish(deadline).await;
        }
        ended
    }
}

impl MetadataTask {
    /// Takes apart what runs and what is needed when that has ended.
    fn split(self) -> ((Executor, Housekeeping), (Services, MasterProgram)) {
        (
            (self.executor, self.housekeeping),
            (self.services, self.master),
        )
    }
}

fn service(
    config: &Config,
    metadata: Option<(Metadata, Services)>,
    link: &watch::Receiver<LinkState>,
    facts: &mpsc::Sender<Fact>,
    link_views: LinkViews,
) -> (ServiceTasks, ServiceParts) {
    let (vip, wanted) = watch::channel(Wanted {
        present: false,
        generation: 0,
    });
    let (applier, reports) = VipApplier::new(vip_target(config), wanted.clone(), link.clone());
    let hooks = HookRunner::spawn(hook_settings(config));
    let views = metadata.as_ref().map(|(metadata, _)| metadata.views());
    let (orders, metadata) = metadata
        .map(|(metadata, services)| metadata_task(metadata, services, facts))
        .unzip();
    let parts = ServiceParts {
        outputs: ServiceOutputs {
            vip,
            hooks: hooks.wanted(),
            metadata: orders,
        },
        inspector: ServiceInspector {
            link: link_views,
            wanted_vip: wanted,
            vip: reports.clone(),
            hooks: hooks.status(),
            metadata: views,
        },
    };
    let tasks = ServiceTasks {
        applier,
        reports,
        hooks,
        metadata,
    };
    (tasks, parts)
}

fn metadata_task(
    metadata: Metadata,
    services: Services,
    facts: &mpsc::Sender<Fact>,
) -> (Orders, MetadataTask) {
    let (step, steps) = watch::channel(None);
    let (wish, wishes) = watch::channel(None);
    let (served, holder) = watch::channel(None);
    let inputs = Inputs {
        steps,
        wishes,
        holder,
    };
    let task = MetadataTask {
        housekeeping: metadata.housekeeping(),
        master: metadata.master(),
        services,
        executor: Executor::new(metadata, inputs, Reports::new(facts.clone())),
    };
    (Orders { step, wish, served }, task)
}

/// Ends an mfsmaster after a farewell that failed or a thread that died: nobody watches over it any more.
///
/// Returns whether there is none.
async fn stop_left_master(master: Option<&MasterProgram>) -> bool {
    let Some(master) = master else {
        return true;
    };
    match master.stop_stray().await {
        Ok(Some(stopped)) => tracing::warn!(pid = stopped.pid, "mfsmaster was left behind; killed"),
        Ok(None) => {}
        Err(error) => {
            tracing::error!(%error, "mfsmaster may be left behind");
            return false;
        }
    }
    true
}

/// Removes the VIP after a farewell that failed or a thread that died. Returns whether it is gone.
async fn remove_left_vip(config: &Config) -> bool {
    let vip = config.vip.address;
    match remove_vip_now(&config.interface, vip).await {
        Ok(true) => tracing::warn!(%vip, "the VIP was left behind; removed"),
        Ok(false) => {}
        Err(error) => {
            tracing::error!(%error, %vip, "the VIP may be left behind");
            return false;
        }
    }
    true
}

async fn forward_reports(mut reports: watch::Receiver<VipReport>, facts: mpsc::Sender<Fact>) {
    while reports.changed().await.is_ok() {
        let report = reports.borrow_and_update().clone();
        if facts.send(Fact::Vip(report)).await.is_err() {
            return;
        }
    }
}

fn node(config: &Config, source: Ipv4Addr, cluster: Option<&ClusterStart>) -> anyhow::Result<Node> {
    let carp = &config.carp;
    let settings = Settings {
        priority: Priority::new(carp.advbase, carp.advskew),
        deadratio: carp
            .deadratio
            .try_into()
            .context("deadratio 0 is not possible")?,
        preempt: carp.preempt,
        source: source.octets(),
        has_sole_peer: carp.peers.len() == 1,
    };
    let service = config
        .moosefs
        .as_ref()
        .map_or(Service::Vip, |moosefs| Service::Metadata {
            stage_limit: moosefs.stage_timeout,
            start_limit: moosefs.start_timeout,
        });
    let quorum = config
        .quorum()
        .zip(cluster)
        .map(|(cluster, start)| cluster::settings(cluster, Some(config), start.beginning()));
    let quorum = quorum.transpose()?;
    let node = NodeConfig {
        election: settings,
        quorum,
        neutral: carp.neutral,
        service,
        is_gated: config.gate,
    };
    Ok(Node::new(node, clock::now()))
}

fn vip_target(config: &Config) -> NetlinkTarget {
    NetlinkTarget {
        interface: config.interface.clone(),
        vip: config.vip.address,
        prefix_len: config.vip.prefix_len,
    }
}

fn hook_settings(config: &Config) -> HookSettings {
    HookSettings {
        up: config.hooks.up.clone(),
        down: config.hooks.down.clone(),
        interface: config.interface.clone(),
        vip: config.vip.address.to_string(),
        xparam: config.hooks.xparam.clone(),
        time_limit: hook_limit(config),
    }
}

fn hook_limit(config: &Config) -> Duration {
    Duration::from_millis(config.hooks.timeout_ms.into())
}
