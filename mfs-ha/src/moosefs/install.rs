//! Puts staged metadata in place of what is there, and back.
//!
//! ```text
//! live ──moved──▶ archive/<epoch>-<utc>      install: then staging ──▶ live
//! live ──new────▶ archive/<..>-undone        restore: then archive/<epoch>-<utc> ──▶ live
//! ```
//!
//! Every move is one rename that replaces nothing, so that a file is always in exactly one place.
//! The journal names both lists before the first rename. Where a file is tells whether its move is
//! done; both directions can therefore be repeated from any point.
//!
//! No program may work in the live directory meanwhile.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::journal::{self, Install, Journal, Stage};
use super::layout::{Aside, Dir, Layout, Moved, StoreError, is_metalogger_file};

/// What was put in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Where the live files went.
    pub archive: PathBuf,
    /// The live files that went there.
    pub moved: Vec<String>,
    /// The files that are live now.
    pub installed: Vec<String>,
}

/// What was put back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// The files that are live again.
    pub put_back: Vec<String>,
    /// The installed files, and what a master made of them.
    pub undone: Moved,
    /// Where staged files went that were not installed.
    pub staging: Option<PathBuf>,
}

/// Moves every live metadata file into a new archive, and the staged files in.
///
/// Finishes an installation that ended halfway; one that is complete is not done again. All is
/// durable when this returns. After an error [`restore`] puts back what was there.
///
/// # Errors
/// [`StoreError::NothingStaged`], [`StoreError::Foreign`] and [`StoreError::NotRestored`] before
/// anything is touched; the others when a file cannot be moved.
pub fn install(
    layout: &Layout,
    journal: &mut Journal,
    staged: &Path,
    epoch: u64,
) -> Result<Installed, StoreError> {
    let live = Dir::open(layout.data())?;
    let staging = open_existing(staged)?;
    let install = match (earlier(journal, staging.as_ref())?, &staging) {
        (Some(earlier), _) => earlier,
        (None, Some(staging)) => begin(layout, journal, &live, staging, epoch)?,
        (None, None) => return Err(nothing_staged(staged)),
    };
    let archive = Dir::open(&layout.archive().join(&install.archive))?;
    move_all(&install, &live, &archive, staging.as_ref())?;
    refuse_others(&install, &live)?;
    archive.sync()?;
    live.sync()?;
    if let Some(staging) = staging {
        staging.sync()?;
        // Only when it is empty. What else was left there is moved aside before the next staging.
        drop(fs::remove_dir(staged));
    }
    if *journal.stage() == Stage::Installing {
        journal.set(Stage::Installed)?;
    }
    Ok(Installed {
        archive: archive.path().to_owned(),
        moved: install.moved,
        installed: install.staged,
    })
}

/// Undoes an installation that no client was served from.
///
/// What is live is moved into an archive labelled `undone`, and what was there before is moved
/// back. Does nothing when there is no installation to undo. All is durable when this returns.
///
/// # Errors
/// [`StoreError::Missing`] before anything is touched; the others when a file cannot be moved. May
/// be repeated.
pub fn restore(layout: &Layout, journal: &mut Journal) -> Result<Restored, StoreError> {
    let Some(install) = journal.install().cloned() else {
        return Ok(Restored::default());
    };
    let live = Dir::open(layout.data())?;
    let archive_path = layout.archive().join(&install.archive);
    let archive = open_existing(&archive_path)?;
    let archived = match &archive {
        Some(archive) => archive.metadata_files()?,
        None => Vec::new(),
    };
    refuse_missing(layout, &install, &live, &archived)?;

    let mut undone = Aside::new(layout, "undone", install.epoch);
    for name in live.metadata_files()? {
        if is_new(&install, &archived, &name) {
            undone.take(&live, &name)?;
        }
    }
    let mut put_back = Vec::new();
    if let Some(archive) = &archive {
        for name in install.moved.iter().filter(|name| archived.contains(name)) {
            archive.move_into(name, &live)?;
            put_back.push(name.clone());
        }
        archive.sync()?;
    }
    let undone = undone.finish()?;
    live.sync()?;
    let staging = layout.set_staging_aside(install.epoch)?;
    journal.set(Stage::Idle)?;
    // Only when it is empty, and only an empty directory is lost when this is not durable.
    drop(fs::remove_dir(&archive_path));
    Ok(Restored {
        put_back,
        undone,
        staging,
    })
}

/// The installation that is to be finished, or is complete.
fn earlier(journal: &Journal, staging: Option<&Dir>) -> Result<Option<Install>, StoreError> {
    let is_cut_off = *journal.stage() == Stage::Installing;
    if let Some(staging) = staging.filter(|_| !is_cut_off)
        && !staging.metadata_files()?.is_empty()
    {
        // It was staged anew: what is live now would be taken for what was there at first.
        journal.refuse_unfinished()?;
    }
    Ok(journal.install().cloned())
}

fn nothing_staged(staged: &Path) -> StoreError {
    StoreError::NothingStaged {
        staging: staged.to_owned(),
    }
}

/// Does everything that can fail without a trace in the live directory.
fn begin(
    layout: &Layout,
    journal: &mut Journal,
    live: &Dir,
    staging: &Dir,
    epoch: u64,
) -> Result<Install, StoreError> {
    live.refuse_foreign()?;
    let moved = live.metadata_files()?;
    let staged = staging.metadata_files()?;
    if !staged.iter().any(|name| name.starts_with("metadata")) {
        return Err(nothing_staged(staging.path()));
    }
    let owner = layout.owner()?;
    for name in &staged {
        hand_over(&staging.join(name), owner)?;
    }
    staging.sync()?;
    let archive = layout.new_archive("", epoch, SystemTime::now())?;
    let name = archive.file_name().and_then(|name| name.to_str());
    let install = Install {
        archive: name.unwrap_or_default().to_owned(),
        epoch,
        moved,
        staged,
    };
    if let Err(error) = journal.begin_install(install.clone()) {
        // It may be on disk all the same, when only the last sync failed.
        let in_use = journal::archive_in_use(layout);
        if in_use.is_ok_and(|in_use| in_use.as_ref() != Some(&install.archive)) {
            drop(fs::remove_dir(&archive));
        }
        return Err(error);
    }
    Ok(install)
}

/// mfsmaster runs as the owner of the live directory, and must read and rename what it finds.
fn hand_over(path: &Path, owner: (u32, u32)) -> Result<(), StoreError> {
    let look = fs::symlink_metadata(path).map_err(StoreError::io("look at", path))?;
    if !look.is_file() {
        return Err(StoreError::Foreign {
            path: path.to_owned(),
            kind: "a symbolic link",
        });
    }
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    let metadata = file.metadata().map_err(StoreError::io("look at", path))?;
    if (metadata.uid(), metadata.gid()) != owner {
        fchown(&file, Some(owner.0), Some(owner.1))
            .map_err(StoreError::io("change the owner of", path))?;
    }
    file.sync_all().map_err(StoreError::io("sync", path))
}

fn move_all(
    install: &Install,
    live: &Dir,
    archive: &Dir,
    staging: Option<&Dir>,
) -> Result<(), StoreError> {
    for name in &install.moved {
        // A live file of this name is the staged one once the original is in the archive.
        if !archive.has(name)? {
            live.move_into(name, archive)?;
        }
    }
    let Some(staging) = staging else {
        return Ok(());
    };
    for name in &install.staged {
        if staging.has(name)? {
            staging.move_into(name, live)?;
        }
    }
    Ok(())
}

/// A file that came in between was made by a program that still runs: its history would mix.
fn refuse_others(install: &Install, live: &Dir) -> Result<(), StoreError> {
    let found = live.metadata_files()?;
    let odd = found
        .iter()
        .find(|name| !install.staged.contains(name))
        .or_else(|| install.staged.iter().find(|name| !found.contains(name)));
    match odd {
        Some(name) => Err(StoreError::Changing {
            path: live.join(name),
        }),
        None => Ok(()),
    }
}

/// Before the installed files are taken away, what replaces them must be there.
fn refuse_missing(
    layout: &Layout,
    install: &Install,
    live: &Dir,
    archived: &[String],
) -> Result<(), StoreError> {
    let mut names = Vec::new();
    for name in &install.moved {
        if !archived.contains(name) && !live.has(name)? {
            names.push(name.clone());
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    Err(StoreError::Missing {
        names,
        archive: layout.archive().join(&install.archive),
        journal: layout.journal_file(),
    })
}

/// Whether a live file came with the installation or after it.
fn is_new(install: &Install, archived: &[String], name: &String) -> bool {
    if install.moved.contains(name) {
        // Otherwise the live file is the original: not yet moved away, or back already.
        return archived.contains(name);
    }
    // A metalogger that was started since an earlier attempt to restore keeps its files.
    install.staged.contains(name) || !is_metalogger_file(name.as_ref())
}

fn open_existing(path: &Path) -> Result<Option<Dir>, StoreError> {
    match Dir::open(path) {
        Ok(dir) => Ok(Some(dir)),
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
