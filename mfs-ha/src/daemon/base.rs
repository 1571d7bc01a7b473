//! What every node stands on: the loaded program, its maps, and in a cluster the state, the keys and the
//! networks between the members.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Context as _;
use aya::maps::{MapData, RingBuf};
use mfs_ha_common::filter::ClusterConfig;
use tokio::sync::mpsc;

use super::GroundError;
use super::end::Logger;
use crate::bpf::{
    self, Attachments, BpfError, ConfigMap, Configured, FenceMap, LeaseMap, Maps, MismatchMap,
    Mode, PeerMap, StatsMap,
};
use crate::cluster::path::{PathKeeper, paths};
use crate::cluster::rounds::{Rounds, Signer};
use crate::cluster::{self, Keys};
use crate::config::{Configuration, Xdp, XdpMode};
use crate::driver::{FACTS_MAX, Fact, QuorumOutputs};
use crate::inspect::ClusterInspector;
use crate::secret::{self, SecretError};
use crate::state::{self, Beginning, StateDir, StateError};

/// What a node of a cluster begins with.
#[derive(Debug)]
pub struct ClusterStart {
    keys: Keys,
    state: StateDir,
    beginning: Beginning,
}

/// Why it does not.
#[derive(Debug, thiserror::Error)]
pub enum ClusterStartError {
    /// The secret cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// What is on disk cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
}

impl ClusterStart {
    /// Reads the secrets and locks the state; `None` for a node without a cluster.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub async fn prepare(config: &Configuration) -> Result<Option<Self>, ClusterStartError> {
        let Some(cluster) = config.cluster() else {
            return Ok(None);
        };
        let keys = Keys::read(cluster)?;
        let (state, beginning) = StateDir::open(cluster, config.instance())?;
        for doubt in cluster.doubts() {
            tracing::warn!("{doubt}");
        }
        if let Some(wait) = beginning.wait {
            tracing::info!(
                ?wait,
                "an earlier life granted longer leases; waiting for their end"
            );
            tokio::time::sleep(wait).await;
        }
        if config.quorum().is_none() {
            // Without a core that counts lives, this one counts before its first signed advert.
            state.store(&beginning.durable)?;
        }
        Ok(Some(Self {
            keys,
            state,
            beginning,
        }))
    }

    /// What the earlier lives left.
    pub(super) const fn beginning(&self) -> &Beginning {
        &self.beginning
    }
}

/// What every node stands on.
pub(super) struct Base {
    pub(super) attachments: Attachments,
    pub(super) facts: mpsc::Sender<Fact>,
    pub(super) facts_receiver: mpsc::Receiver<Fact>,
    pub(super) peers: Arc<PeerMap>,
    pub(super) stats: Arc<StatsMap>,
    pub(super) records: RingBuf<MapData>,
    pub(super) logger: Logger,
    filter: Option<ConfigMap>,
    lease: Option<LeaseMap>,
    pub(super) fence: FenceMap,
    pub(super) mismatches: MismatchMap,
}

impl Base {
    /// Loads the program and tells it about the cluster. Nothing is attached yet.
    pub(super) fn load(
        config: &Configuration,
        peers: &[Ipv4Addr],
        start: Option<&ClusterStart>,
    ) -> Result<Self, GroundError> {
        let members = cluster::other_ids(config.cluster());
        let configured = Configured {
            peers,
            members: &members,
        };
        let (program, maps) = bpf::load(Some(&config.pin_dir()), &configured)?;
        let Maps {
            config: filter,
            peers,
            cluster: mut cluster_filter,
            mismatches,
            lease,
            fence,
            stats,
            records,
            logger,
            ..
        } = maps;
        if let Some(words) = cluster_words(config, start) {
            cluster_filter.write(words)?;
        }
        let (facts, facts_receiver) = mpsc::channel(FACTS_MAX);
        Ok(Self {
            attachments: Attachments::new(program, xdp_mode(config.xdp()), config.is_gated())?,
            facts,
            facts_receiver,
            peers,
            stats: Arc::new(stats),
            records,
            logger,
            filter: Some(filter),
            lease: Some(lease),
            fence,
            mismatches,
        })
    }

    /// Takes what tells the program about adverts; it is there once.
    pub(super) fn take_filter(&mut self) -> Result<ConfigMap, GroundError> {
        let missing = BpfError::Mismatch { name: "CONFIG" };
        Ok(self.filter.take().ok_or(missing)?)
    }

    /// Takes what tells the gate about the lease; it is there once.
    pub(super) fn take_lease(&mut self) -> Result<LeaseMap, GroundError> {
        let missing = BpfError::Mismatch { name: "LEASE" };
        Ok(self.lease.take().ok_or(missing)?)
    }
}

fn cluster_words(config: &Configuration, start: Option<&ClusterStart>) -> Option<ClusterConfig> {
    let (cluster, start) = config.cluster().zip(start)?;
    Some(cluster::filter(config, cluster, &start.keys))
}

/// Returns the only mode that is allowed, if it is one.
const fn xdp_mode(xdp: Xdp) -> Option<Mode> {
    match xdp.mode {
        XdpMode::Auto => None,
        XdpMode::Native => Some(Mode::Native),
        XdpMode::Generic => Some(Mode::Generic),
    }
}

/// What works for the cluster, and what the rest has to know of it.
pub(super) struct ClusterTasks {
    pub(super) keepers: Vec<PathKeeper>,
    pub(super) quorum: Option<QuorumOutputs>,
    pub(super) signer: Signer,
    pub(super) inspector: Option<ClusterInspector>,
    /// Locked for as long as this node signs adverts, where nobody writes to it.
    pub(super) state: Option<StateDir>,
}

impl ClusterTasks {
    /// Starts the thread of the state; the rest begins when it is run. `None` without a cluster.
    pub(super) fn start(
        config: &Configuration,
        start: Option<ClusterStart>,
        attachments: &Attachments,
        facts: &mpsc::Sender<Fact>,
        mismatches: MismatchMap,
    ) -> anyhow::Result<Option<Self>> {
        let Some((cluster, start)) = config.cluster().zip(start) else {
            return Ok(None);
        };
        let ClusterStart {
            keys,
            state,
            beginning,
        } = start;
        let key = keys.tag_key();
        let id = secret::cluster_id(&cluster.name);
        let signer = Signer::new(key, id, cluster.node, beginning.durable.boot);
        if config.quorum().is_none() {
            return Ok(Some(Self {
                keepers: Vec::new(),
                quorum: None,
                signer,
                inspector: None,
                state: Some(state),
            }));
        }
        let paths = paths(cluster);
        let rounds = Rounds::new(key, cluster::other_ids(Some(cluster)), paths.len());
        let keepers: Vec<PathKeeper> = paths
            .into_iter()
            .map(|path| PathKeeper::new(path, attachments.clone(), facts.clone()))
            .collect();
        let views = keepers.iter().map(PathKeeper::views).collect();
        let writer = state::spawn(state, facts.clone()).context("keep the state")?;
        Ok(Some(Self {
            keepers,
            quorum: Some(QuorumOutputs {
                rounds,
                store: writer.wanted,
                patience: cluster.timing.lease,
                sources: cluster::member_sources(cluster, config),
            }),
            signer,
            inspector: Some(ClusterInspector {
                mismatches: Arc::new(mismatches),
                paths: views,
                state: writer.views,
            }),
            state: None,
        }))
    }

    /// Keeps all networks usable until the daemon ends.
    pub(super) async fn keep_paths(keepers: Vec<PathKeeper>) {
        futures_util::future::join_all(keepers.into_iter().map(PathKeeper::run)).await;
        // Without networks there is nothing to keep, which is no reason to end.
        std::future::pending().await
    }
}
