//! Old metadata: kept, compressed in the background, and dropped past the retention.
//!
//! This is the only place of mfs-ha that removes metadata, and it removes only whole archives:
//! directories of our own name pattern in our own directory, never the newest ones, never one that
//! an installation may still need to be undone, and none at all while the live directory has no
//! image. The newest archives stay plain, because an operator wants them at hand; compressed files
//! are proved to decode to the same bytes before the plain ones go.

mod file;
mod name;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use self::file::Outcome;
use super::journal;
use super::layout::{Dir, Layout, StoreError, sync_dir};
use super::snapshot;

pub use name::ArchiveName;

/// So many snapshots are kept whatever the retention says.
pub const SNAPSHOTS_KEPT: usize = 4;

/// So many stagings of promotions that failed are kept.
pub const STAGING_KEPT: usize = 2;

/// The label of such an archive.
const STAGING_LABEL: &str = "staging";

/// A call compresses or removes no more than this, so that whoever waits for it can go on.
const WORK_MAX: u32 = 64;

/// The end of the name of an archive that is being removed.
const REMOVING: &str = ".removing";

/// The lowest priority: heartbeats and mfsmaster come first.
const NICE: i32 = 19;

/// Which archives stay, and in which form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// So many of the newest archives are not compressed.
    pub keep_plain: u32,
    /// So many of the newest archives are kept whatever their age; at least 1.
    pub keep: u32,
    /// Others are removed when they are older than this, by the time of the directory; without it
    /// at once.
    pub max_age: Option<Duration>,
}

/// An archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// Where it is.
    pub path: PathBuf,
    /// Its name in its parts.
    pub name: ArchiveName,
    /// When a file last came into it.
    pub modified: SystemTime,
}

/// What a call did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Files that were compressed.
    pub compressed: u32,
    /// Archives that were removed.
    pub removed: u32,
    /// What could not be worked on.
    pub left: Vec<Left>,
    /// Whether there is more to do.
    pub more: bool,
}

/// Something that was left as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The file or archive.
    pub path: PathBuf,
    /// Why.
    pub why: String,
}

/// All archives, the oldest first: by epoch, then by the time of the directory.
///
/// # Errors
/// When the directory of archives cannot be read.
pub fn list(layout: &Layout) -> Result<Vec<Archive>, StoreError> {
    let all = Dir::open(&layout.archive())?;
    let mut archives = Vec::new();
    for name in all.names()? {
        let Some(name) = name.to_str() else { continue };
        let Some(parsed) = ArchiveName::parse(name) else {
            continue;
        };
        let path = all.join(name);
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => metadata,
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(StoreError::io("look at", &path)(error)),
        };
        let modified = metadata
            .modified()
            .map_err(StoreError::io("look at", &path))?;
        archives.push(Archive {
            path,
            name: parsed,
            modified,
        });
    }
    archives.sort_by(|a, b| {
        (a.name.epoch, a.modified)
            .cmp(&(b.name.epoch, b.modified))
            .then_with(|| a.name.compare_made(&b.name))
            .then_with(|| a.path.cmp(&b.path))
    });
    Ok(archives)
}

/// Removes archives past the retention and compresses older ones; `now` is compared with the age of
/// directories.
///
/// Does a bounded amount of work; to be called again while there is more. Ends soon after `cancel`
/// is set. What cannot be worked on is reported and passed over.
///
/// # Errors
/// When the journal or the list of archives cannot be read, and when the disk is full.
pub fn compress(
    layout: &Layout,
    retention: &Retention,
    now: SystemTime,
    cancel: &AtomicBool,
) -> Result<Progress, StoreError> {
    let mut pass = Pass {
        layout,
        cancel,
        progress: Progress::default(),
    };
    pass.finish_removals()?;
    if has_image(layout)? {
        for archive in removable(list(layout)?, retention, now) {
            if pass.must_stop() {
                return Ok(pass.progress);
            }
            pass.remove(&archive)?;
        }
    }
    let mut archives = list(layout)?;
    let plain = usize::try_from(retention.keep_plain).unwrap_or(usize::MAX);
    archives.truncate(archives.len().saturating_sub(plain));
    for archive in archives {
        if pass.must_stop() {
            return Ok(pass.progress);
        }
        pass.compress(&archive)?;
    }
    Ok(pass.progress)
}

/// Runs [`compress`] on a thread of its own and of the lowest priority, until nothing is left to do
/// or `cancel` is set.
///
/// # Errors
/// When the thread cannot be started.
pub fn spawn(
    layout: Layout,
    retention: Retention,
    cancel: Arc<AtomicBool>,
) -> io::Result<JoinHandle<Result<Progress, StoreError>>> {
    thread::Builder::new()
        .name("archive".to_owned())
        .spawn(move || {
            if let Err(error) = rustix::process::setpriority_process(None, NICE) {
                tracing::debug!(%error, "the archive thread keeps its priority");
            }
            let mut all = Progress::default();
            loop {
                let step = compress(&layout, &retention, SystemTime::now(), &cancel)?;
                all.compressed += step.compressed;
                all.removed += step.removed;
                all.left = step.left;
                all.more = step.more;
                if !step.more || cancel.load(Ordering::Relaxed) {
                    return Ok(all);
                }
            }
        })
}

/// What the retention does not cover.
fn removable(mut archives: Vec<Archive>, retention: &Retention, now: SystemTime) -> Vec<Archive> {
    let mut removable = left_staging(&mut archives);
    let keep = usize::try_from(retention.keep.max(1)).unwrap_or(usize::MAX);
    let is_snapshot = |archive: &Archive| archive.name.label == snapshot::LABEL;
    let snapshots = archives.iter().filter(|a| is_snapshot(a)).count();
    let mut snapshots_beyond = snapshots.saturating_sub(SNAPSHOTS_KEPT);
    let mut ordinary = Vec::new();
    for archive in archives {
        if is_snapshot(&archive) && snapshots_beyond == 0 {
            continue;
        }
        if is_snapshot(&archive) {
            snapshots_beyond -= 1;
        }
        ordinary.push(archive);
    }
    ordinary.truncate(ordinary.len().saturating_sub(keep));
    ordinary.retain(|archive| match retention.max_age {
        // A directory from the future is young: a clock that was set back removes nothing.
        Some(max_age) => now
            .duration_since(archive.modified)
            .is_ok_and(|age| age > max_age),
        None => true,
    });
    removable.extend(ordinary);
    removable
}

/// Takes out what promotions that failed had staged, but for the newest ones. A node that fails tries
/// again every some seconds, and what it stages is made of files that are kept.
fn left_staging(archives: &mut Vec<Archive>) -> Vec<Archive> {
    let is_staging = |archive: &Archive| archive.name.label == STAGING_LABEL;
    let staging = archives
        .iter()
        .filter(|archive| is_staging(archive))
        .count();
    let mut beyond = staging.saturating_sub(STAGING_KEPT);
    let takes = |archive: &mut Archive| {
        let is_taken = is_staging(archive) && beyond > 0;
        beyond -= usize::from(is_taken);
        is_taken
    };
    archives.extract_if(.., takes).collect()
}

/// Whether the live directory has an image, so that no archive can hold the last one.
fn has_image(layout: &Layout) -> Result<bool, StoreError> {
    let live = Dir::open(layout.data())?;
    for name in live.metadata_files()? {
        let is_image = name.starts_with("metadata.mfs") || name.starts_with("metadata_ml.mfs");
        // The Debian package's empty file system has 8 bytes.
        if is_image && live.stat(&name)?.is_some_and(|stat| stat.st_size > 8) {
            return Ok(true);
        }
    }
    Ok(false)
}

struct Pass<'p> {
    layout: &'p Layout,
    cancel: &'p AtomicBool,
    progress: Progress,
}

impl Pass<'_> {
    /// Whether the call has done its share; then there is more.
    fn must_stop(&mut self) -> bool {
        let is_enough = self.progress.compressed + self.progress.removed >= WORK_MAX;
        self.progress.more |= is_enough || self.cancel.load(Ordering::Relaxed);
        self.progress.more
    }

    /// Asked for each archive: an installation may have begun meanwhile.
    fn is_in_use(&self, archive: &Archive) -> Result<bool, StoreError> {
        let in_use = journal::archive_in_use(self.layout)?;
        let name = archive.path.file_name().and_then(|name| name.to_str());
        Ok(in_use.is_some() && in_use.as_deref() == name)
    }

    fn compress(&mut self, archive: &Archive) -> Result<(), StoreError> {
        if self.is_in_use(archive)? {
            return Ok(());
        }
        let Ok(dir) = Dir::open(&archive.path) else {
            return Ok(());
        };
        let before = self.progress.compressed;
        for name in dir.metadata_files()? {
            if self.must_stop() {
                break;
            }
            match file::compress(&dir, &name, self.cancel) {
                Ok(Outcome::Compressed) => self.progress.compressed += 1,
                Ok(Outcome::Passed | Outcome::Cancelled) => {}
                Err(error) if is_disk_full(&error) => return Err(error),
                Err(error) => self.leave(dir.join(&name), &error),
            }
        }
        if self.progress.compressed > before {
            // The age of an archive is not the age of its compression.
            dir.set_modified(archive.modified)?;
        }
        Ok(())
    }

    fn remove(&mut self, archive: &Archive) -> Result<(), StoreError> {
        if self.is_in_use(archive)? {
            return Ok(());
        }
        if let Err(error) = self.try_remove(archive) {
            self.leave(archive.path.clone(), &error);
        }
        Ok(())
    }

    fn try_remove(&mut self, archive: &Archive) -> Result<(), StoreError> {
        let dir = Dir::open(&archive.path)?;
        refuse_directories(&dir)?;
        let all = Dir::open(&self.layout.archive())?;
        let Some(name) = archive.path.file_name().and_then(|name| name.to_str()) else {
            return Ok(());
        };
        // Half an archive must not look like a whole one.
        let removing = format!("{name}{REMOVING}");
        all.move_as(name, &all, &removing)?;
        all.sync()?;
        self.remove_files(&all.join(&removing))
    }

    /// Goes on where an earlier call was interrupted.
    fn finish_removals(&mut self) -> Result<(), StoreError> {
        let all = Dir::open(&self.layout.archive())?;
        for name in all.names()? {
            let Some(name) = name.to_str() else { continue };
            let is_ours = name
                .strip_suffix(REMOVING)
                .is_some_and(|name| ArchiveName::parse(name).is_some());
            if !is_ours {
                continue;
            }
            let path = all.join(name);
            let removed = Dir::open(&path)
                .and_then(|dir| refuse_directories(&dir))
                .and_then(|()| self.remove_files(&path));
            if let Err(error) = removed {
                self.leave(path, &error);
            }
        }
        Ok(())
    }

    fn remove_files(&mut self, path: &Path) -> Result<(), StoreError> {
        for name in Dir::open(path)?.names()? {
            let path = path.join(name);
            fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        }
        fs::remove_dir(path).map_err(StoreError::io("remove", path))?;
        sync_dir(&self.layout.archive())?;
        self.progress.removed += 1;
        Ok(())
    }

    fn leave(&mut self, path: PathBuf, error: &StoreError) {
        let source = std::error::Error::source(error);
        let why = match source {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        self.progress.left.push(Left { path, why });
    }
}

fn refuse_directories(dir: &Dir) -> Result<(), StoreError> {
    for name in dir.names()? {
        let path = dir.path().join(&name);
        let metadata = fs::symlink_metadata(&path).map_err(StoreError::io("look at", &path))?;
        if metadata.is_dir() {
            let kind = "a directory";
            return Err(StoreError::Foreign { path, kind });
        }
    }
    Ok(())
}

fn is_disk_full(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
}
