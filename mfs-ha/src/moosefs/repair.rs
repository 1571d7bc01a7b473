//! Makes the files of a metalogger that was killed fit to be continued.
//!
//! A killed metalogger leaves a partial last line, and appends to it when it is started again: the
//! next change is swallowed, and the node cannot be promoted for up to a day. What cannot be
//! repaired is quarantined: moved into an archive, so that the metalogger begins anew.
//!
//! No program may work in the live directory meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use super::journal::Journal;
use super::layout::{Aside, Dir, Layout, Moved, StoreError, is_metalogger_file};

/// How much is read at once to find the last line end.
const BLOCK_BYTES: u64 = 64 * 1024;

/// Which files are moved away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Every metadata file that does not belong to the metalogger.
    MasterFiles,
    /// Every metadata file.
    All,
}

/// What was repaired.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repair {
    /// Where the originals are; none when nothing needed repair.
    pub archive: Option<PathBuf>,
    /// The repaired files.
    pub repaired: Vec<Repaired>,
}

/// A changelog that lost its partial last line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// Its name.
    pub name: String,
    /// How many bytes the partial line had.
    pub cut_bytes: u64,
}

/// Moves live files into an archive labelled `quarantine`. May be repeated.
///
/// # Errors
/// [`StoreError::NotRestored`] and [`StoreError::Foreign`] before anything is touched; the others
/// when a file cannot be moved, some may have been then.
pub fn quarantine(
    layout: &Layout,
    journal: &Journal,
    which: Which,
    epoch: u64,
) -> Result<Moved, StoreError> {
    journal.refuse_unfinished()?;
    let live = Dir::open(layout.data())?;
    live.refuse_foreign()?;
    let mut quarantine = Aside::new(layout, "quarantine", epoch);
    for name in live.metadata_files()? {
        let stays = which == Which::MasterFiles && is_metalogger_file(name.as_ref());
        if !stays {
            quarantine.take(&live, &name)?;
        }
    }
    let moved = quarantine.finish()?;
    live.sync()?;
    Ok(moved)
}

/// Cuts the partial last line off each changelog of the metalogger that has one.
///
/// The original keeps a name in an archive labelled `repair`; a copy without the partial line
/// takes its place in one step. All is durable when this returns. May be repeated.
///
/// # Errors
/// [`StoreError::Changing`] when a file is written meanwhile; the others when it cannot be read or
/// copied. The live file is whole or as it was in each case.
pub fn repair_metalogger_files(layout: &Layout, epoch: u64) -> Result<Repair, StoreError> {
    let live = Dir::open(layout.data())?;
    let mut archive = Aside::new(layout, "repair", epoch);
    let mut repaired = Vec::new();
    for name in live.metadata_files()? {
        let is_changelog = name.starts_with("changelog") && is_metalogger_file(name.as_ref());
        if !is_changelog {
            continue;
        }
        let path = live.join(&name);
        let file = open(&path)?;
        let length = length(&file, &path)?;
        let whole = whole_lines_bytes(&file, length).map_err(StoreError::io("read", &path))?;
        if whole == length {
            continue;
        }
        let replaced = replace(&live, &name, &mut archive, &file, whole);
        if replaced.is_err() {
            // Only when it is empty: a repair that fails again and again leaves no pile of them.
            drop(fs::remove_dir(archive.dir()?.path()));
        }
        replaced?;
        repaired.push(Repaired {
            name,
            cut_bytes: length - whole,
        });
    }
    let moved = archive.finish()?;
    if !repaired.is_empty() {
        live.sync()?;
    }
    Ok(Repair {
        archive: moved.archive,
        repaired,
    })
}

fn open(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)
        .map_err(StoreError::io("open", path))
}

fn length(file: &File, path: &Path) -> Result<u64, StoreError> {
    let metadata = file.metadata().map_err(StoreError::io("look at", path))?;
    Ok(metadata.len())
}

/// Up to and with the last line end: 0 when there is none.
fn whole_lines_bytes(file: &File, length: u64) -> io::Result<u64> {
    let mut end = length;
    while end > 0 {
        let begin = end.saturating_sub(BLOCK_BYTES);
        let mut block = vec![0; usize::try_from(end - begin).map_err(io::Error::other)?];
        file.read_exact_at(&mut block, begin)?;
        if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
            return Ok(begin + at as u64 + 1);
        }
        end = begin;
    }
    Ok(0)
}

/// Puts a copy of the first `whole` bytes in place of the live file, which stays in the archive.
fn replace(
    live: &Dir,
    name: &str,
    archive: &mut Aside<'_>,
    file: &File,
    whole: u64,
) -> Result<(), StoreError> {
    let copy_name = format!("whole.{name}");
    let copy_path = archive.dir()?.join(&copy_name);
    let replaced = copy_start(file, whole, &copy_path)
        .map_err(StoreError::io("write", &copy_path))
        .and_then(|()| archive.link(live, name))
        .and_then(|()| {
            let archive = archive.dir()?;
            refuse_changed(file, live, archive, name)?;
            archive.replace(&copy_name, live, name)
        });
    if replaced.is_err() {
        // It is ours, and perhaps the disk is full.
        drop(fs::remove_file(&copy_path));
    }
    replaced
}

fn copy_start(file: &File, whole: u64, to: &Path) -> io::Result<()> {
    let metadata = file.metadata()?;
    let mut copy = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)?;
    let copied = io::copy(&mut file.take(whole), &mut copy)?;
    if copied != whole {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    copy.set_permissions(metadata.permissions())?;
    // Last: what is another user's needs more privileges to change.
    fchown(&copy, Some(metadata.uid()), Some(metadata.gid()))?;
    copy.sync_all()
}

/// The file that was copied must be the live one and the one in the archive.
fn refuse_changed(file: &File, live: &Dir, archive: &Dir, name: &str) -> Result<(), StoreError> {
    let path = live.join(name);
    let read = file.metadata().map_err(StoreError::io("look at", &path))?;
    for dir in [live, archive] {
        let stat = dir.stat(name)?;
        if stat.is_none_or(|stat| stat.st_ino != read.ino()) {
            return Err(StoreError::Changing { path });
        }
    }
    Ok(())
}
