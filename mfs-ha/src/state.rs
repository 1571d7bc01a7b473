//! What a node of a cluster must not forget: `<state_dir>/<instance>/state.json`.
//!
//! A voter that forgets what it granted makes two holders, and one that forgets how new the served metadata
//! were elects an old copy. So the file is only ever replaced as a whole, synced before it counts, and a
//! damaged one is refused: what it said is an operator's to judge. One daemon at a time works on the
//! directory (rule L9); when it may start with which member list is decided here (rule L10).

mod members;
mod record;
mod writer;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mfs_ha_common::cluster::{Members, Membership};
use mfs_ha_common::durable::Durable;
use nix::unistd::geteuid;

use self::members::Lists;
pub use self::members::MembersRefused;
pub use self::record::RecordError;
use self::record::{FILE_BYTES_MAX, Record};
pub use self::writer::{StateView, StateViews, Writer, spawn};
use crate::config::Cluster;
use crate::lock::{InstanceLock, LockError};
use crate::moosefs::layout::{StoreError, sync_dir, write_atomic};

/// The file in the directory of an instance.
const FILE: &str = "state.json";

/// Names the lock on the directory.
const LOCK: &str = "state";

/// Why a node may not start with what is on disk, or why it cannot be brought there.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The directory cannot be made or looked at.
    #[error("cannot use the state directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something else is there.
    #[error("{} is in the way of the state directory: move it away", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// Somebody who is neither root nor we ourselves could change what is in it.
    #[error("the state directory {0} belongs to user {owner}: chown {us} {0}", path.display())]
    ForeignOwner {
        /// The directory.
        path: PathBuf,
        /// Its user id.
        owner: u32,
        /// Our user id.
        us: u32,
    },
    /// The same, by its mode.
    #[error(
        "the state directory {0} has mode {mode:04o}, so others can write to it: chmod 0700 {0}",
        path.display()
    )]
    Writable {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another daemon works on it, or it cannot be locked.
    #[error("cannot lock the state directory {} (rule L9)", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// What the lock says.
        source: LockError,
    },
    /// The file cannot be read.
    #[error("cannot read the state {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What it says cannot be believed.
    #[error(
        "the state {0} is damaged; while a majority of the other members runs, move it away and start: this \
         node then learns anew what was granted and served. If it is the only one that remembers, find out \
         first which node has the newest metadata (`mfs-ha metadata`)",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: RecordError,
    },
    /// The configuration's member list does not follow the one that is in force.
    #[error("the members in the configuration do not fit to {}", path.display())]
    Members {
        /// The file.
        path: PathBuf,
        /// In which way.
        source: MembersRefused,
    },
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] StoreError),
    /// The core asked for a member list that nobody gave it.
    #[error("there is no member list of generation {generation} to store")]
    UnknownMembers {
        /// The generation.
        generation: u32,
    },
}

/// What a life of the daemon begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beginning {
    /// What the earlier lives left; the number of this one is not on disk yet.
    pub durable: Durable,
    /// The list that is in force until the configuration's one is (rule L10).
    pub previous: Option<(Members, Membership)>,
    /// An earlier life granted leases that lasted longer than those of the configuration: so long has to be
    /// waited before anything is granted.
    pub wait: Option<Duration>,
}

/// The directory of this instance, locked.
#[derive(Debug)]
pub struct StateDir {
    dir: PathBuf,
    lists: Lists,
    _lock: InstanceLock,
}

impl StateDir {
    /// Locks the directory, which is made when it is missing, and reads what is in it.
    ///
    /// # Errors
    /// What is in the way, and what to do about it.
    pub fn open(cluster: &Cluster, instance: &str) -> Result<(Self, Beginning), StateError> {
        let dir = dir(cluster, instance);
        prepare(&dir)?;
        let lock = InstanceLock::acquire(&dir, LOCK).map_err(|source| StateError::Locked {
            path: dir.clone(),
            source,
        })?;
        let record = read(&dir)?;
        let (lists, beginning) = begin(&dir, cluster, record.as_ref())?;
        Ok((
            Self {
                dir,
                lists,
                _lock: lock,
            },
            beginning,
        ))
    }

    /// Brings this to disk. It is there, and stays there, when this returns.
    ///
    /// # Errors
    /// The disk does not take it. Then the file has what it had.
    pub fn store(&self, durable: &Durable) -> Result<(), StateError> {
        let list = self
            .lists
            .of(durable.membership)
            .ok_or(StateError::UnknownMembers {
                generation: durable.membership.generation,
            })?;
        let record = Record::new(durable, list, self.lists.lease());
        Ok(write_atomic(&self.dir.join(FILE), &record.to_bytes())?)
    }
}

/// Looks at the state of an instance without making anything; `None` where there is none.
///
/// # Errors
/// As [`StateDir::open`], but that the lock is not looked at.
pub fn look(cluster: &Cluster, instance: &str) -> Result<Option<Beginning>, StateError> {
    let dir = dir(cluster, instance);
    match check(&dir) {
        Err(StateError::Directory { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        checked => checked?,
    }
    let Some(record) = read(&dir)? else {
        return Ok(None);
    };
    begin(&dir, cluster, Some(&record)).map(|(_, beginning)| Some(beginning))
}

/// The directory of an instance.
pub fn dir(cluster: &Cluster, instance: &str) -> PathBuf {
    cluster.state_dir.join(instance)
}

fn begin(
    dir: &Path,
    cluster: &Cluster,
    record: Option<&Record>,
) -> Result<(Lists, Beginning), StateError> {
    let lists = Lists::new(cluster, record).map_err(|source| StateError::Members {
        path: dir.join(FILE),
        source,
    })?;
    let stored = record.map(Record::durable).unwrap_or_default();
    let durable = Durable {
        boot: stored.boot.saturating_add(1),
        membership: lists.in_force(),
        ..stored
    };
    let wait = record
        .map(Record::lease)
        .filter(|lease| *lease > cluster.timing.lease);
    let beginning = Beginning {
        durable,
        previous: lists.previous(),
        wait,
    };
    Ok((lists, beginning))
}

fn read(dir: &Path) -> Result<Option<Record>, StateError> {
    let path = dir.join(FILE);
    let failed = |source| StateError::Read {
        path: path.clone(),
        source,
    };
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
        Ok(found) if found.len() > FILE_BYTES_MAX => {
            return Err(StateError::Damaged {
                path,
                source: RecordError::TooLarge,
            });
        }
        Ok(_) => {}
    }
    let content = fs::read(&path).map_err(failed)?;
    Record::parse(&content)
        .map(Some)
        .map_err(|source| StateError::Damaged { path, source })
}

fn prepare(dir: &Path) -> Result<(), StateError> {
    match check(dir) {
        Err(StateError::Directory { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        checked => return checked,
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| StateError::Directory {
            path: dir.to_owned(),
            source,
        })?;
    // A directory that is gone after a power failure takes the file with it.
    for parent in dir.ancestors().skip(1).take(2) {
        sync_dir(parent)?;
    }
    check(dir)
}

fn check(dir: &Path) -> Result<(), StateError> {
    let found = fs::metadata(dir).map_err(|source| StateError::Directory {
        path: dir.to_owned(),
        source,
    })?;
    let path = dir.to_owned();
    if !found.is_dir() {
        return Err(StateError::NotADirectory { path });
    }
    let us = geteuid().as_raw();
    let owner = found.uid();
    if owner != 0 && owner != us {
        return Err(StateError::ForeignOwner { path, owner, us });
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(StateError::Writable { path, mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
