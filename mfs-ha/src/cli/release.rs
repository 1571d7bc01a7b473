//! `mfs-ha release`: takes off by hand what a daemon that died has left on this machine.
//!
//! The gate of a dead daemon stays, closed, and with it the VIP and an mfsmaster that nobody can reach. The next
//! start clears all of that; this does it where there shall be no next start.

use std::fmt;
use std::io::Write;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::run::lock;
use super::{ConfigFile, Exit, ExitWith as _, Failure, written_out};
use crate::bpf;
use crate::config::{Config, Configuration, MooseFs};
use crate::error::chain;
use crate::moosefs::process::master::MasterProgram;
use crate::moosefs::settings;
use crate::netlink::vip::remove_vip_now;
use crate::privileges;

/// Arguments of `release`.
#[derive(Debug, Args)]
#[command(
    after_help = "It refuses while the daemon runs, and kills no mfsmetalogger. Exit codes: 0 nothing is left, \
                  1 something could not be taken off, 2 wrong configuration, 3 missing privileges, 4 the daemon runs."
)]
pub struct ReleaseArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
}

/// What was found and taken off.
#[derive(Debug, Default, Serialize)]
struct Released {
    /// The mfsmaster that was killed.
    mfsmaster_pid: Option<i32>,
    /// The VIP that was removed.
    vip: Option<String>,
    /// Attachments in the kernel that were removed: program and interface number.
    attachments: Vec<String>,
    /// Interfaces with filters of the gate that were removed; on kernels before 6.6.
    filters: Vec<String>,
    /// Whether there were pinned maps.
    maps: bool,
    /// What could not be done. What comes after it was left as it is.
    problem: Option<String>,
}

/// Takes everything off, and says what it did.
///
/// # Errors
/// The daemon runs, or the configuration is wrong.
pub async fn run(args: &ReleaseArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let config = Configuration::load(&args.config.path).exit_with(Exit::Usage)?;
    privileges::require().exit_with(Exit::NotPermitted)?;
    let _lock = lock(config.run_dir(), config.instance())?;
    let mut released = Released::default();
    if let Err(error) = release(&config, &mut released).await {
        released.problem = Some(chain(error.as_ref()));
    }
    let written = if args.json {
        serde_json::to_writer_pretty(&mut *out, &released)
            .map_err(Into::into)
            .and_then(|()| writeln!(out))
    } else {
        write!(out, "{released}")
    };
    written_out(written)?;
    Ok(if released.problem.is_none() {
        Exit::Ok
    } else {
        Exit::Failure
    })
}

/// The gate goes last: as long as anything is left that could be reached, it keeps that in.
async fn release(config: &Configuration, released: &mut Released) -> anyhow::Result<()> {
    if let Configuration::Candidate(config) = config {
        if let Some(moosefs) = &config.moosefs {
            released.mfsmaster_pid = stop_master(moosefs).await?;
        }
        released.vip = remove_vip(config).await?;
    }
    let dir = config.pin_dir();
    for link in bpf::pinned_links(&dir)? {
        let name = link.file_name().unwrap_or_default();
        released
            .attachments
            .push(name.to_string_lossy().into_owned());
    }
    released.maps = bpf::remove_pins(&dir)?;
    released.filters = bpf::remove_all_filters()
        .await
        .context("remove the gate's filters")?;
    Ok(())
}

async fn stop_master(moosefs: &MooseFs) -> anyhow::Result<Option<i32>> {
    let settings = settings::read_master(&moosefs.master_config)?;
    let master = MasterProgram::new(
        moosefs.master_program.clone(),
        moosefs.master_config.clone(),
        &settings,
    );
    let stopped = master.stop_stray().await.context("kill mfsmaster")?;
    Ok(stopped.map(|stopped| stopped.pid))
}

async fn remove_vip(config: &Config) -> anyhow::Result<Option<String>> {
    let was_there = remove_vip_now(&config.interface, config.vip.address)
        .await
        .context("remove the VIP")?;
    Ok(was_there.then(|| format!("{} from {}", config.vip, config.interface)))
}

impl fmt::Display for Released {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut is_empty = true;
        if let Some(pid) = self.mfsmaster_pid {
            is_empty = false;
            writeln!(f, "killed mfsmaster, process {pid}")?;
        }
        if let Some(vip) = &self.vip {
            is_empty = false;
            writeln!(f, "removed the VIP {vip}")?;
        }
        for attachment in &self.attachments {
            is_empty = false;
            writeln!(f, "detached {attachment}")?;
        }
        for interface in &self.filters {
            is_empty = false;
            writeln!(f, "removed the gate's filters from {interface}")?;
        }
        if self.maps {
            is_empty = false;
            writeln!(f, "removed the pinned maps")?;
        }
        match &self.problem {
            Some(problem) => writeln!(
                f,
                "FAILED: {problem}; what is not listed above is left as it was"
            ),
            None if is_empty => writeln!(f, "nothing was left behind"),
            None => Ok(()),
        }
    }
}
