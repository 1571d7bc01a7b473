//! `mfs-ha run`: checks what a start needs, in the order in which an operator would, and runs the daemon.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use mfs_ha_common::carp::auth::HmacKey;

use super::{ConfigFile, Exit, ExitWith as _, Failure};
use crate::bpf::{AttachError, BpfError};
use crate::config::{Config, Configuration, Witness};
use crate::daemon::{
    Cleared, ClusterStart, ClusterStartError, Daemon, Ground, GroundError, WitnessDaemon,
    WitnessError,
};
use crate::lock::{InstanceLock, LockError};
use crate::privileges;
use crate::secret;
use crate::state::StateError;
use crate::watchdog::DeviceError;

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    config: ConfigFile,
}

/// Runs the daemon until it is told to end.
///
/// # Errors
/// What keeps it from starting or running, with the exit code for it.
pub async fn run(args: &RunArgs) -> Result<(), Failure> {
    let config = Configuration::load(&args.config.path).exit_with(Exit::Usage)?;
    privileges::require().exit_with(Exit::NotPermitted)?;
    // No core dump shows the secrets.
    nix::sys::prctl::set_dumpable(false)
        .context("keep the memory out of core dumps")
        .exit_with(Exit::Failure)?;
    match config {
        Configuration::Candidate(config) => run_candidate(config).await,
        Configuration::Witness(witness) => run_witness(witness).await,
    }
}

async fn run_candidate(config: Config) -> Result<(), Failure> {
    if config.moosefs.is_some() {
        privileges::require_for_metadata().exit_with(Exit::NotPermitted)?;
    }
    let password = secret::read_password_file(&config.carp.password_file).exit_with(Exit::Usage)?;
    for warning in password.warnings() {
        tracing::warn!(file = %config.carp.password_file.display(), "{warning}");
    }
    let key = HmacKey::new(password.as_bytes()).exit_with(Exit::Usage)?;
    let _lock = lock(&config.run_dir, &config.instance)?;
    let (instance, interface) = (config.instance.clone(), config.interface.clone());
    let vhid = config.carp.vhid;
    let configuration = Configuration::Candidate(config.clone());
    // First of all: whatever is refused after this, nothing of an earlier life goes on serving.
    let cleared = Cleared::prepare(config).await.map_err(refused_ground)?;
    let cluster = start_cluster(&configuration).await?;
    let ground = Ground::prepare(cleared, key, cluster)
        .await
        .map_err(refused_ground)?;
    let daemon = Daemon::start(ground).await.exit_with(Exit::Failure)?;
    tracing::info!(instance, interface, vhid, "started");
    daemon.run().await.exit_with(Exit::Failure)
}

async fn run_witness(witness: Witness) -> Result<(), Failure> {
    let _lock = lock(&witness.run_dir, &witness.instance)?;
    let config = Arc::new(Configuration::Witness(witness.clone()));
    let start = start_cluster(&config)
        .await?
        .context("a witness belongs to a cluster")
        .exit_with(Exit::Usage)?;
    let daemon = WitnessDaemon::start(&witness, config, start)
        .await
        .map_err(|error| match error {
            WitnessError::Ground(error) => refused_ground(error),
            WitnessError::Start(error) => Failure {
                exit: Exit::Failure,
                error,
            },
        })?;
    tracing::info!(instance = witness.instance, "started as a witness");
    daemon.run().await.exit_with(Exit::Failure)
}

pub(super) fn lock(run_dir: &Path, instance: &str) -> Result<InstanceLock, Failure> {
    InstanceLock::acquire(run_dir, instance).map_err(|error| Failure {
        exit: lock_exit(&error),
        error: error.into(),
    })
}

async fn start_cluster(config: &Configuration) -> Result<Option<ClusterStart>, Failure> {
    ClusterStart::prepare(config).await.map_err(|error| {
        let exit = match &error {
            ClusterStartError::Secret(_)
            | ClusterStartError::State(
                StateError::Members { .. }
                | StateError::NotADirectory { .. }
                | StateError::ForeignOwner { .. }
                | StateError::Writable { .. },
            ) => Exit::Usage,
            ClusterStartError::State(StateError::Locked { source, .. }) => lock_exit(source),
            ClusterStartError::State(
                StateError::Directory { .. }
                | StateError::Read { .. }
                | StateError::Damaged { .. }
                | StateError::Write(_)
                | StateError::UnknownMembers { .. },
            ) => Exit::Failure,
        };
        Failure {
            exit,
            error: error.into(),
        }
    })
}

fn lock_exit(error: &LockError) -> Exit {
    if matches!(error, LockError::Held { .. }) {
        Exit::InUse
    } else {
        Exit::Failure
    }
}

fn refused_ground(error: GroundError) -> Failure {
    if matches!(&error, GroundError::Bpf(error) if error.is_not_permitted()) {
        // Capabilities over a user namespace look like those over the host.
        let hint =
            "the kernel permits no eBPF here: run it as the host's root, not as a container's";
        return Failure {
            exit: Exit::NotPermitted,
            error: anyhow::Error::new(error).context(hint),
        };
    }
    let exit = match &error {
        GroundError::Interface(_) | GroundError::Bpf(BpfError::NoBpffs { .. }) => Exit::Usage,
        GroundError::Attach(AttachError::Occupied { .. })
        | GroundError::Watchdog(DeviceError::Busy { .. }) => Exit::InUse,
        GroundError::Watchdog(DeviceError::Missing { .. } | DeviceError::NoWatchdog { .. }) => {
            Exit::Usage
        }
        GroundError::Metadata(error) => error
            .downcast_ref::<LockError>()
            .map_or(Exit::Failure, lock_exit),
        GroundError::Attach(_)
        | GroundError::Bpf(_)
        | GroundError::Netlink(_)
        | GroundError::Watchdog(_)
        | GroundError::StaleVip(_) => Exit::Failure,
    };
    Failure {
        exit,
        error: error.into(),
    }
}
