//! What runs on the nodes: daemons under test, their incumbents, and load.

pub mod keepalived;
pub mod load;
pub mod mfsha;
pub mod moosefs;
pub mod process;
pub mod squad;
pub mod ucarp;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::net::topology::Topology;
use crate::requirements::{mfs_ha_binary, require_tools};
use keepalived::{Keepalived, KeepalivedOptions};
use mfsha::{MfsHa, MfsHaOptions};
use process::Supervised;
use ucarp::{Ucarp, UcarpOptions};

/// Writes a file with a mode, replacing what was there.
///
/// # Errors
/// When the file cannot be written.
pub fn write_file(path: &Path, mode: u32, content: &str) -> Result<()> {
    fs::write(path, content)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("write {}", path.display()))
}

/// What a lab runs on all its nodes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Software {
    /// This project's daemon, at advbase 0 with skews 5, 10, 15, ….
    MfsHa,
    /// The real ucarp, at its default of one advert a second with skews 0, 20, 40, ….
    Ucarp,
    /// The real keepalived, at ten adverts a second.
    Keepalived,
}

impl Software {
    /// Its usual name.
    pub fn name(self) -> &'static str {
        match self {
            Self::MfsHa => "mfs-ha",
            Self::Ucarp => "ucarp",
            Self::Keepalived => "keepalived",
        }
    }

    /// Checks that it is there, before anything is built for it.
    ///
    /// # Errors
    /// When it is not; the message says how to get it.
    pub fn check_installed(self) -> Result<()> {
        match self {
            Self::MfsHa => mfs_ha_binary().map(drop),
            Self::Ucarp | Self::Keepalived => require_tools(&[self.name()]),
        }
    }
}

/// A running daemon of any kind. The lower a node's number, the better it is.
#[derive(Debug)]
pub enum Daemon {
    /// mfs-ha.
    MfsHa(MfsHa),
    /// ucarp.
    Ucarp(Ucarp),
    /// keepalived.
    Keepalived(Keepalived),
}

impl Daemon {
    /// Starts `software` on a node with the timing that its variant names.
    ///
    /// # Errors
    /// When it is not installed or cannot be started.
    pub fn start(
        topology: &Topology,
        node: usize,
        software: Software,
        outlives_us: bool,
    ) -> Result<Self> {
        let rank = u8::try_from(node).context("node index")?.saturating_sub(1);
        Ok(match software {
            Software::MfsHa => {
                let skew = rank.saturating_add(1).saturating_mul(5);
                let mut options = MfsHaOptions::with_timing(0, skew);
                options.outlives_us = outlives_us;
                Self::MfsHa(MfsHa::start(topology, node, &options)?)
            }
            Software::Ucarp => {
                let mut options = UcarpOptions::with_skew(rank.saturating_mul(20));
                options.outlives_us = outlives_us;
                Self::Ucarp(Ucarp::start(topology, node, &options)?)
            }
            Software::Keepalived => {
                let mut options = KeepalivedOptions::with_interval(10);
                options.outlives_us = outlives_us;
                Self::Keepalived(Keepalived::start(topology, node, options)?)
            }
        })
    }

    /// The process.
    pub fn process(&mut self) -> &mut Supervised {
        match self {
            Self::MfsHa(daemon) => daemon.process(),
            Self::Ucarp(daemon) => daemon.process(),
            Self::Keepalived(daemon) => daemon.process(),
        }
    }
}
