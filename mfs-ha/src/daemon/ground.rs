//! What a start stands on, and may be refused.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mfs_ha_common::carp::auth::HmacKey;
use tokio::sync::watch;

use super::base::{Base, ClusterStart};
use super::hook_limit;
use crate::bpf::{self, AttachError, BpfError, LeaseMap};
use crate::clock;
use crate::config::{Config, Configuration};
use crate::gate::GateWriter;
use crate::interface::{Interface, LinkState};
use crate::moosefs::services::Services;
use crate::netlink::NetlinkError;
use crate::netlink::vip::{VipError, remove_vip_now};
use crate::netlink::watch::{LinkWatcher, watch as watch_link};
use crate::promotion::{self, Judges, Metadata, Place};
use crate::supervisor::{self, Supervisor};
use crate::watchdog::{CharDevice, DeviceError, Keeper};

/// Why there is nothing to stand on.
#[derive(Debug, thiserror::Error)]
pub enum GroundError {
    /// The interface is not there or has no address.
    #[error("{0}")]
    Interface(String),
    /// The interface cannot be asked about.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The program cannot be loaded.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// The program cannot be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The metadata or the programs that work on it cannot be used.
    #[error("the metadata of this node cannot be served")]
    Metadata(#[source] anyhow::Error),
    /// There has to be a watchdog.
    #[error("`watchdog.required` is true and the watchdog cannot be used")]
    Watchdog(#[source] DeviceError),
    /// The VIP of an earlier life cannot be removed.
    #[error("cannot remove the VIP that an earlier life left")]
    StaleVip(#[source] VipError),
}

/// A machine on which nothing of an earlier life serves any more.
pub struct Cleared {
    config: Arc<Config>,
    source: Ipv4Addr,
    link_watcher: LinkWatcher,
    link: watch::Receiver<LinkState>,
    state: LinkState,
    metadata: Option<(Metadata, Services)>,
}

impl Cleared {
    /// Removes the VIP of an earlier life, ends an mfsmaster that is not ours, and finds the interface.
    ///
    /// It comes before everything that can be refused: a start that fails leaves nobody who would do it.
    ///
    /// # Errors
    /// What is missing or in the way.
    pub async fn prepare(config: Config) -> Result<Self, GroundError> {
        let config = Arc::new(config);
        let (link_watcher, link) = watch_link(&config.interface).await?;
        let state = link.borrow().clone();
        let interface = first_interface(&config, &state).map_err(GroundError::Interface)?;
        // A living daemon has its program on the interface for as long as it has the VIP; ours, which is locked,
        // is dead, and what is pinned is what it left. Without either the VIP is nobody's, whatever may keep this
        // start from becoming its owner.
        let cannot_tell = bpf::require_bpffs(Path::new(bpf::BPFFS)).is_err();
        let is_ours = cannot_tell || !bpf::pinned_links(&config.pin_dir())?.is_empty();
        if interface.xdp.is_none() || is_ours {
            remove_stale_vip(&config).await?;
        }
        let source = supervisor::source(&config, interface).map_err(GroundError::Interface)?;
        let metadata = prepare_metadata(&config)
            .await
            .map_err(GroundError::Metadata)?;
        // Nothing is left that they would have to keep in. Links are taken over later.
        bpf::remove_all_filters().await?;
        Ok(Self {
            config,
            source,
            link_watcher,
            link,
            state,
            metadata,
        })
    }
}

/// A usable interface with the XDP program on it.
pub struct Ground {
    pub(super) configuration: Arc<Configuration>,
    pub(super) config: Arc<Config>,
    pub(super) cluster: Option<ClusterStart>,
    pub(super) base: Base,
    pub(super) gate: Option<GateWriter>,
    pub(super) source: Ipv4Addr,
    pub(super) link_watcher: LinkWatcher,
    pub(super) link: watch::Receiver<LinkState>,
    pub(super) supervisor: Supervisor,
    pub(super) metadata: Option<(Metadata, Services)>,
    pub(super) watchdog: Option<Keeper<CharDevice>>,
}

impl Ground {
    /// Loads the program and attaches it.
    ///
    /// # Errors
    /// What is missing or in the way.
    pub async fn prepare(
        cleared: Cleared,
        key: HmacKey,
        cluster: Option<ClusterStart>,
    ) -> Result<Self, GroundError> {
        let Cleared {
            config,
            source,
            link_watcher,
            link,
            state,
            metadata,
        } = cleared;
        let watchdog = prepare_watchdog(&config).map_err(GroundError::Watchdog)?;
        let configuration = Arc::new(Configuration::Candidate(Config::clone(&config)));
        let mut base = Base::load(&configuration, &config.carp.peers, cluster.as_ref())?;
        let filter = base.take_filter()?;
        let gate = gate_writer(&config, metadata.as_ref(), base.take_lease()?)?;
        let mut supervisor = Supervisor::new(
            Arc::clone(&config),
            key,
            base.attachments.clone(),
            filter,
            base.facts.clone(),
        )
        .map_err(|error| GroundError::Interface(error.to_string()))?;
        supervisor.attach(&state).await?;
        base.attachments.guard_all().await?;
        Ok(Self {
            configuration,
            config,
            cluster,
            base,
            gate,
            source,
            link_watcher,
            link,
            supervisor,
            metadata,
            watchdog,
        })
    }
}

/// Disarms what an earlier life left armed: nothing of it serves any more.
fn prepare_watchdog(config: &Config) -> Result<Option<Keeper<CharDevice>>, DeviceError> {
    let Some(watchdog) = &config.watchdog else {
        return Ok(None);
    };
    Keeper::prepare(CharDevice::new(&watchdog.device), watchdog, clock::now()).map(Some)
}

/// Closes the gate, where there shall be one, before anything is attached.
fn gate_writer(
    config: &Config,
    metadata: Option<&(Metadata, Services)>,
    lease: LeaseMap,
) -> Result<Option<GateWriter>, BpfError> {
    if !config.gate {
        tracing::warn!(
            "gate = \"off\": a daemon that dies leaves its VIP and its mfsmaster to whoever finds them"
        );
        return Ok(None);
    }
    let ports = metadata.map_or([0; 3], |(metadata, _)| metadata.ports());
    // Heartbeats tell whom a metalogger may follow; without them nobody knows.
    let follow_span = match (config.quorum(), metadata) {
        (Some(cluster), Some(_)) => cluster.timing.lease,
        (_, _) => Duration::ZERO,
    };
    GateWriter::closed(lease, config.vip.address, ports, follow_span).map(Some)
}

async fn prepare_metadata(config: &Config) -> anyhow::Result<Option<(Metadata, Services)>> {
    let Some(moosefs) = &config.moosefs else {
        return Ok(None);
    };
    let services = Services::spawn(promotion::services(moosefs, hook_limit(config)));
    let place = Place {
        vip: config.vip.address,
        judges: match config.quorum() {
            None => Judges::Care,
            Some(cluster) if cluster.accepts_loss => Judges::VotersAcceptingLoss,
            Some(_) => Judges::Voters,
        },
    };
    let metadata = Metadata::prepare(moosefs, place, services.wanted()).await?;
    Ok(Some((metadata, services)))
}

/// Returns the interface that exists at start.
fn first_interface<'s>(config: &Config, state: &'s LinkState) -> Result<&'s Interface, String> {
    state.interface.as_ref().ok_or_else(|| {
        format!(
            "interface {} does not exist: `ip link` lists those that do",
            config.interface
        )
    })
}

/// Removes the VIP that an earlier life left: it was killed.
async fn remove_stale_vip(config: &Config) -> Result<(), GroundError> {
    let vip = config.vip.address;
    let was_there = remove_vip_now(&config.interface, vip)
        .await
        .map_err(GroundError::StaleVip)?;
    if was_there {
        tracing::warn!(%vip, "removed a VIP that an earlier life left behind");
    }
    Ok(())
}
