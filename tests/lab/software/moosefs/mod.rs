//! Real MooseFS: the files of three nodes, two chunkservers, a client's mount, and the whole of it.
//!
//! Who starts master and metalogger on the nodes is mfs-ha, or a test by hand; never this module by itself.

pub mod chunkserver;
pub mod cluster;
pub mod files;
pub mod mount;
pub mod node;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::unistd::User;

use crate::net::topology::Shape;
use crate::requirements::require_tools;
use crate::software::mfsha::{QuorumTiming, WITNESS};

/// The two chunkservers.
pub const CHUNKSERVERS: [&str; 2] = ["c1", "c2"];
/// Where the client's mount and the oracle are.
pub const CLIENT: &str = "cl";
/// Three nodes, two chunkservers and a client.
const SHAPE: Shape = Shape::with_hosts(3, &["c1", "c2", CLIENT]);
/// The same with a witness in place of the third node.
const SHAPE_WITH_WITNESS: Shape = Shape::with_hosts(2, &["c1", "c2", CLIENT, WITNESS]);
/// Port of a master for clients.
pub const CLIENT_PORT: u16 = 9421;
/// User that the programs run as.
const USER: &str = "mfs";

/// How the nodes decide who serves.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Three candidates; a majority of them grants a lease.
    Quorum,
    /// Two candidates and a witness, which votes and has nothing to serve.
    Witness,
    /// Three nodes, and no majority is asked.
    Carp,
}

impl Mode {
    /// What stands on the segment.
    pub fn shape(self) -> Shape {
        match self {
            Self::Quorum | Self::Carp => SHAPE,
            Self::Witness => SHAPE_WITH_WITNESS,
        }
    }

    /// The timing of the lease, if there is one.
    pub fn timing(self) -> Option<QuorumTiming> {
        (self != Self::Carp).then_some(QuorumTiming::DEFAULT)
    }
}

/// Checks that MooseFS is installed, before anything is built for it.
///
/// # Errors
/// When something is missing; the message says how to get it.
pub fn check_installed() -> Result<()> {
    require_tools(&[
        "mfsmaster",
        "mfsmetalogger",
        "mfschunkserver",
        "mfsmount",
        "mfscli",
        "arping",
        "unshare",
    ])?;
    user().map(drop)
}

/// Lets the programs, which are not root, pass through the lab's directory to their own.
///
/// # Errors
/// When the mode cannot be set.
pub fn open_directory(directory: &Path) -> Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o711))
        .with_context(|| format!("open {} to the MooseFS programs", directory.display()))
}

/// Makes a directory that belongs to the programs' user.
fn make_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
    give_away(path)
}

/// Hands a file or directory to the programs' user.
fn give_away(path: &Path) -> Result<()> {
    let user = user()?;
    chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
        .with_context(|| format!("give {} to {USER}", path.display()))
}

fn user() -> Result<User> {
    User::from_name(USER)
        .with_context(|| format!("look up the user {USER}"))?
        .with_context(|| {
            format!("no user {USER}; `cargo xtask setup` installs MooseFS, which makes it")
        })
}
