//! `mfs-ha run`: checks what a start needs, in the order in which an operator would, and runs the daemon.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use mfs_ha_common::carp::auth::HmacKey;

use super::{Exit, ExitWith as _, Failure};
use crate::bpf::{AttachError, BpfError};
use crate::config::Config;
use crate::daemon::{Daemon, Ground, GroundError};
use crate::lock::{InstanceLock, LockError};
use crate::privileges;
use crate::secret;

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The configuration
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "/etc/mfs-ha/mfs-ha.toml"
    )]
    config: PathBuf,
}

/// Runs the daemon until it is told to end.
///
/// # Errors
/// What keeps it from starting or running, with the exit code for it.
pub async fn run(args: &RunArgs) -> Result<(), Failure> {
    let config = Arc::new(Config::load(&args.config).exit_with(Exit::Usage)?);
    privileges::require().exit_with(Exit::NotPermitted)?;
    if config.moosefs.is_some() {
        privileges::require_for_metadata().exit_with(Exit::NotPermitted)?;
    }
    // No core dump shows the password.
    nix::sys::prctl::set_dumpable(false)
        .context("keep the memory out of core dumps")
        .exit_with(Exit::Failure)?;
    let password = secret::read_password_file(&config.carp.password_file).exit_with(Exit::Usage)?;
    for warning in password.warnings() {
        tracing::warn!(file = %config.carp.password_file.display(), "{warning}");
    }
    let key = HmacKey::new(password.as_bytes()).exit_with(Exit::Usage)?;
    let _lock =
        InstanceLock::acquire(&config.run_dir, &config.instance).map_err(|error| Failure {
            exit: lock_exit(&error),
            error: error.into(),
        })?;
    let ground = Ground::prepare(&config, key)
        .await
        .map_err(refused_ground)?;
    let daemon = Daemon::start(ground).await.exit_with(Exit::Failure)?;
    tracing::info!(
        instance = config.instance,
        interface = config.interface,
        vhid = config.carp.vhid,
        "started"
    );
    daemon.run().await.exit_with(Exit::Failure)
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
        GroundError::Attach(AttachError::Occupied { .. }) => Exit::InUse,
        GroundError::Metadata(error) => error
            .downcast_ref::<LockError>()
            .map_or(Exit::Failure, lock_exit),
        GroundError::Attach(_)
        | GroundError::Bpf(_)
        | GroundError::Netlink(_)
        | GroundError::StaleVip(_) => Exit::Failure,
    };
    Failure {
        exit,
        error: error.into(),
    }
}
