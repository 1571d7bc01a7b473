//! A client's mount, in a mount namespace of its own.
//!
//! No other process sees it, so nothing on the machine can hang on it, and it goes with its last process.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::unistd::Pid;

use crate::VIP;
use crate::net::netns::Namespace;
use crate::software::process::{Launch, Supervised};
use crate::wait::wait_until;

const MOUNT_LIMIT: Duration = Duration::from_secs(20);

/// A mounted file system; dropping it ends the mount, and with it every call that hangs on it.
#[derive(Debug)]
pub struct Mount {
    process: Supervised,
    point: PathBuf,
}

impl Mount {
    /// Mounts the file system of the VIP's master on `point`, seen from `namespace`.
    ///
    /// # Errors
    /// When the directory cannot be made or the master does not take the client in time.
    pub fn start(
        namespace: &Namespace,
        point: &Path,
        log: &Path,
        outlives_us: bool,
    ) -> Result<Self> {
        fs::create_dir_all(point).with_context(|| format!("make {}", point.display()))?;
        let launch = Launch::new("mfsmount", log, "unshare")
            .args(["--mount", "--propagation", "private", "--", "mfsmount"])
            .args([point])
            .args(["-f", "-H", &VIP.to_string()])
            // What is read shall come from a chunkserver, not from this machine's memory.
            .args(["-o", "mfscachemode=NEVER"])
            .inside(namespace);
        let mut mount = Self {
            process: if outlives_us {
                launch.outliving_us().spawn()?
            } else {
                launch.spawn()?
            },
            point: point.to_owned(),
        };
        wait_until("the file system to be mounted", MOUNT_LIMIT, || {
            mount.process.check_running()?;
            Ok(is_mounted(mount.process.pid(), point).then_some(()))
        })?;
        Ok(mount)
    }

    /// Where it is, for the processes of [`Self::launch`].
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// The process of the mount.
    pub fn process(&mut self) -> &mut Supervised {
        &mut self.process
    }

    /// A process of the client, for which the mount is there.
    pub fn launch<'a>(
        &self,
        namespace: &'a Namespace,
        name: &str,
        log: &Path,
        program: impl AsRef<OsStr>,
    ) -> Launch<'a> {
        Launch::new(name, log, "nsenter")
            .args([format!("--mount=/proc/{}/ns/mnt", self.process.pid())])
            .args(["--"])
            .args([program])
            .inside(namespace)
    }
}

/// Whether the process sees a FUSE file system on `point`.
pub fn is_mounted(pid: Pid, point: &Path) -> bool {
    let mounts = fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap_or_default();
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next().map(Path::new) == Some(point)
            && fields.next().is_some_and(|kind| kind.starts_with("fuse"))
    })
}
