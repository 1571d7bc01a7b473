//! Hard links of a metalogger's files, made before it meets another master.
//!
//! A metalogger that is ahead of a new master deletes its changelogs; the links keep them. One that
//! is not goes on appending to the newest of them, and so to the link. [`LENGTHS_FILE`] beside the
//! links says how long each file was: what follows came later, up to a second of it still from the
//! old master, because a metalogger writes once a second.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;

use super::archive;
use super::layout::{Aside, Dir, Layout, StoreError, is_metalogger_file, write_atomic};

/// The name of the file that says how long each file was, in bytes.
pub const LENGTHS_FILE: &str = "lengths.json";

/// The label of such an archive.
pub(crate) const LABEL: &str = "snapshot";

/// A metalogger renames all its changelogs once an hour, within milliseconds.
const ATTEMPTS_MAX: u32 = 3;

/// What a snapshot holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Its archive; none when there was nothing to keep.
    pub archive: Option<PathBuf>,
    /// The files.
    pub names: Vec<String>,
    /// Whether it was made, or the newest one holds the same already.
    pub is_new: bool,
}

/// Name, then inode and length.
type Files = BTreeMap<String, (u64, u64)>;

/// Gives each of the metalogger's files a second name in an archive labelled `snapshot`.
///
/// The metalogger may run. The newest [`super::archive::SNAPSHOTS_KEPT`] are kept whatever the
/// retention says; older ones are archives like others.
///
/// # Errors
/// [`StoreError::Changing`] when the files are renamed all the time; the others when they cannot be
/// linked. What was linked until then stays.
pub fn snapshot(layout: &Layout, epoch: u64) -> Result<Snapshot, StoreError> {
    let live = Dir::open(layout.data())?;
    for _ in 0..ATTEMPTS_MAX {
        let files = metalogger_files(&live)?;
        if files.is_empty() {
            return Ok(Snapshot::default());
        }
        // Renamed while the directory was read: one is there twice, and another one perhaps not at all.
        let distinct = inode_set(&files);
        if distinct.len() < files.len() {
            continue;
        }
        if let Some(archive) = newest_equal(layout, &files)? {
            return Ok(Snapshot {
                archive: Some(archive),
                names: files.into_keys().collect(),
                is_new: false,
            });
        }
        let linked = link_all(layout, &live, &files, epoch)?;
        if let Some(archive) = linked.filter(|_| has_all(&live, &distinct)) {
            return Ok(Snapshot {
                archive: Some(archive),
                names: files.into_keys().collect(),
                is_new: true,
            });
        }
    }
    let path = layout.data().to_owned();
    Err(StoreError::Changing { path })
}

/// Says whether what was linked is all that is there.
fn has_all(live: &Dir, linked: &BTreeSet<u64>) -> bool {
    metalogger_files(live).is_ok_and(|files| inode_set(&files).is_subset(linked))
}

fn inode_set(files: &Files) -> BTreeSet<u64> {
    files.values().map(|(inode, _)| *inode).collect()
}

/// Links what was listed; `None` when it is no longer what is there.
fn link_all(
    layout: &Layout,
    live: &Dir,
    files: &Files,
    epoch: u64,
) -> Result<Option<PathBuf>, StoreError> {
    let mut links = Aside::new(layout, LABEL, epoch);
    write_lengths(links.dir()?, files)?;
    for name in files.keys() {
        match links.link(live, name) {
            Err(StoreError::Link { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            linked => linked?,
        }
    }
    if inodes(&metalogger_files(links.dir()?)?) != inodes(files) {
        return Ok(None);
    }
    Ok(links.finish()?.archive)
}

/// Comes first: a link may soon be the only name of a file, so that links are never taken back.
fn write_lengths(archive: &Dir, files: &Files) -> Result<(), StoreError> {
    let lengths: BTreeMap<_, _> = files
        .iter()
        .map(|(name, (_, length))| (name, length))
        .collect();
    let path = archive.join(LENGTHS_FILE);
    let written = serde_json::to_vec(&lengths)
        .map_err(io::Error::from)
        .map_err(StoreError::io("write", &path))
        .and_then(|content| write_atomic(&path, &content));
    if written.is_err() {
        // Only when it is empty: attempts on a full disk leave no pile of them.
        drop(fs::remove_dir(archive.path()));
    }
    written
}

fn metalogger_files(dir: &Dir) -> Result<Files, StoreError> {
    let mut files = Files::new();
    for name in dir.metadata_files()? {
        if !is_metalogger_file(name.as_ref()) {
            continue;
        }
        if let Some(stat) = dir.stat(&name)? {
            files.insert(name, (stat.st_ino, stat.st_size.cast_unsigned()));
        }
    }
    Ok(files)
}

fn inodes(files: &Files) -> Vec<(&String, u64)> {
    files
        .iter()
        .map(|(name, (inode, _))| (name, *inode))
        .collect()
}

/// The newest snapshot, when it was made of these files and none of them has grown since.
fn newest_equal(layout: &Layout, files: &Files) -> Result<Option<PathBuf>, StoreError> {
    let archives = archive::list(layout)?;
    let newest = archives
        .iter()
        .rev()
        .find(|archive| archive.name.label == LABEL);
    let Some(newest) = newest else {
        return Ok(None);
    };
    let Ok(lengths) = fs::read(newest.path.join(LENGTHS_FILE)) else {
        return Ok(None);
    };
    let Ok(lengths) = serde_json::from_slice::<BTreeMap<String, u64>>(&lengths) else {
        return Ok(None);
    };
    let linked = metalogger_files(&Dir::open(&newest.path)?)?;
    let is_equal = lengths.len() == files.len()
        && inodes(&linked) == inodes(files)
        && files
            .iter()
            .all(|(name, (_, length))| lengths.get(name) == Some(length));
    Ok(is_equal.then(|| newest.path.clone()))
}
