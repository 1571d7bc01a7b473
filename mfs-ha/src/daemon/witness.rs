//! The daemon of a witness: it votes, and has nothing to serve.

use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use mfs_ha_common::election::carp::Settings;
use mfs_ha_common::node::{Node, NodeConfig};
use mfs_ha_common::priority::Priority;
use mfs_ha_common::promotion::Service;
use tokio::sync::mpsc;

use super::GroundError;
use super::base::{Base, ClusterStart, ClusterTasks};
use super::end::{Logger, forward_logs, until_end};
use crate::cluster::path::PathKeeper;
use crate::config::{Configuration, Witness};
use crate::control::ControlSocket;
use crate::driver::{Fact, Outputs};
use crate::heartbeat::{self, Heartbeat, Parts};
use crate::inspect::Inspector;
use crate::signals::Signals;
use crate::{clock, cluster};

/// The running daemon of a witness.
pub struct WitnessDaemon {
    facts: mpsc::Sender<Fact>,
    heartbeat: Heartbeat,
    keepers: Vec<PathKeeper>,
    inspector: Inspector,
    control: ControlSocket,
    logger: Logger,
    signals: Signals,
}

impl WitnessDaemon {
    /// Loads the program and starts the heartbeat thread. Networks that cannot be used yet are no error.
    ///
    /// # Errors
    /// The program cannot be loaded; the control socket, a thread or a signal handler cannot be had.
    pub async fn start(
        witness: &Witness,
        config: Arc<Configuration>,
        start: ClusterStart,
    ) -> Result<Self, WitnessError> {
        let base = Base::load(&config, &[], Some(&start))?;
        Self::start_on(base, witness, config, start)
            .await
            .map_err(WitnessError::Start)
    }

    async fn start_on(
        base: Base,
        witness: &Witness,
        config: Arc<Configuration>,
        start: ClusterStart,
    ) -> anyhow::Result<Self> {
        let signals = Signals::new()?;
        let control = ControlSocket::bind(&config.socket_path())?;
        let node = node(witness, &start)?;
        let tasks = ClusterTasks::start(
            &config,
            Some(start),
            &base.attachments,
            &base.facts,
            base.mismatches,
        )?
        .context("a witness belongs to a cluster")?;
        let parts = Parts {
            node,
            records: base.records,
            peers: Arc::clone(&base.peers),
            facts: base.facts_receiver,
            outputs: Outputs {
                service: None,
                quorum: tasks.quorum,
                signer: None,
                gate: None,
                watchdog: None,
            },
        };
        let heartbeat = heartbeat::start(parts, witness.scheduling.realtime).await?;
        base.attachments.clear_up_later();
        let inspector = Inspector {
            config,
            facts: base.facts.clone(),
            peers: base.peers,
            stats: base.stats,
            service: None,
            cluster: tasks.inspector,
            gate: None,
            watchdog: None,
            is_realtime: heartbeat.is_realtime,
        };
        Ok(Self {
            facts: base.facts,
            heartbeat,
            keepers: tasks.keepers,
            inspector,
            control,
            logger: base.logger,
            signals,
        })
    }

    /// Runs until a signal or a fault ends it.
    ///
    /// # Errors
    /// The heartbeat thread died or did not end in time.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self {
            facts,
            heartbeat,
            keepers,
            inspector,
            control,
            logger,
            signals,
        } = self;
        let background = async {
            tokio::join!(
                ClusterTasks::keep_paths(keepers),
                control.serve({
                    let inspector = inspector.clone();
                    move |request| inspector.clone().answer(request)
                }),
                forward_logs(logger),
            )
        };
        tokio::select! {
            _ = background => Err(anyhow!("the daemon's own tasks have ended")),
            ended = until_end(signals, &facts, &inspector, heartbeat.ended) => ended,
        }
    }
}

/// Why a witness does not run.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// The program cannot be loaded.
    #[error(transparent)]
    Ground(#[from] GroundError),
    /// The daemon cannot be put together.
    #[error("start the daemon")]
    Start(#[source] anyhow::Error),
}

fn node(witness: &Witness, start: &ClusterStart) -> anyhow::Result<Node> {
    let quorum = cluster::settings(&witness.cluster, None, start.beginning())?;
    let node = NodeConfig {
        // Nobody elects by this.
        election: Settings {
            priority: Priority::new(1, u8::MAX - 1),
            deadratio: std::num::NonZeroU8::MAX,
            preempt: false,
            source: [0; 4],
            has_sole_peer: false,
        },
        quorum: Some(quorum),
        neutral: true,
        is_gated: false,
        service: Service::Vip,
    };
    Ok(Node::new(node, clock::now()))
}
