//! A clean data directory beside the live one: the newest image and one changelog with all that follows.
//!
//! `mfsmaster -a` finds nothing else there that it could take for metadata. The live directory stays as it
//! is; the image in the new one is another name of the same file.

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufWriter, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::changelog::merge::MergeError;
use super::directory::{Chosen, DirectoryError, Freshness, Inspection, NotReady, Opened, inspect};

/// The image in a staged directory.
pub const IMAGE: &str = "metadata.mfs.back";
/// The changelog in a staged directory.
pub const CHANGELOG: &str = "changelog.0.mfs";
/// Cancelling is noticed after so many bytes of a copy.
const COPY_BYTES: usize = 1 << 20;
/// As mfsmaster makes its files.
const FILE_MODE: u32 = 0o640;

/// What was staged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// The staged directory.
    pub dir: PathBuf,
    /// How far it reaches.
    pub freshness: Freshness,
    /// Changes in its changelog.
    pub lines: u64,
}

/// Why there is no staged directory, or it is not right.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StageError {
    /// The metadata cannot be promoted.
    #[error("not promotable")]
    NotReady(#[from] NotReady),
    /// The metadata cannot be read.
    #[error(transparent)]
    Directory(DirectoryError),
    /// A file of the staged directory cannot be made; free space or rights may be missing.
    #[error("cannot make {path}")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The image changed its name while it was linked.
    #[error("{path} became another file meanwhile; stop mfsmaster and mfsmetalogger, or try again")]
    ImageReplaced {
        /// The image.
        path: PathBuf,
    },
    /// The staged directory has something else than an image and a changelog.
    #[error("{path} has {found} where only {IMAGE} and {CHANGELOG} belong")]
    Unexpected {
        /// The staged directory.
        path: PathBuf,
        /// What is wrong in it.
        found: String,
    },
    /// The staged metadata are not what this node had.
    #[error(
        "staged are changes up to {} of file system {:016X}, this node had changes up to {} of {:016X}",
        staged.version.saturating_sub(1), staged.id, expected.version.saturating_sub(1), expected.id
    )]
    Stale {
        /// What was staged.
        staged: Freshness,
        /// What was expected at least.
        expected: Freshness,
    },
    /// Somebody no longer wants it.
    #[error("staging was cancelled")]
    Cancelled,
}

impl From<DirectoryError> for StageError {
    fn from(error: DirectoryError) -> Self {
        let is_cancelled = matches!(
            error,
            DirectoryError::Merge {
                source: MergeError::Cancelled,
                ..
            }
        );
        if is_cancelled {
            Self::Cancelled
        } else {
            Self::Directory(error)
        }
    }
}

/// Makes `staging`, which must not exist, from the metadata in `data`; what is made belongs to `owner`, and
/// is on disk when this returns. After an error `staging` may be there, unfinished.
///
/// # Errors
/// The metadata are not promotable, cannot be read, or the files cannot be made.
pub fn stage(
    data: &Path,
    staging: &Path,
    owner: Option<(u32, u32)>,
    cancel: &AtomicBool,
) -> Result<Staged, StageError> {
    let opened = Opened::open(data)?;
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| StageError::Write { path, source }
    };
    DirBuilder::new()
        .mode(0o750)
        .create(staging)
        .map_err(failed(staging))?;
    let changelog = staging.join(CHANGELOG);
    let mut writer = BufWriter::new(create(&changelog, owner).map_err(failed(&changelog))?);
    let surveyed = opened.survey(cancel, &mut |line| {
        write!(writer, "{}: ", line.number)?;
        writer.write_all(line.text)?;
        writer.write_all(b"\n")
    });
    let survey = match surveyed {
        Err(DirectoryError::Merge {
            source: MergeError::Write(source),
            ..
        }) => return Err(failed(&changelog)(source)),
        other => other?,
    };
    let freshness = survey.inspection.readiness()?;
    writer
        .into_inner()
        .map_err(io::IntoInnerError::into_error)
        .and_then(|file| file.sync_all())
        .map_err(failed(&changelog))?;
    if let Some(image) = &survey.image {
        place_image(data, image, &staging.join(IMAGE), owner, cancel)?;
    }
    File::open(staging)
        .and_then(|directory| {
            give(&directory, owner)?;
            directory.sync_all()
        })
        .map_err(failed(staging))?;
    if let Some(parent) = staging.parent() {
        File::open(parent)
            .and_then(|parent| parent.sync_all())
            .map_err(failed(parent))?;
    }
    Ok(Staged {
        dir: staging.to_owned(),
        freshness,
        lines: survey.inspection.lines,
    })
}

/// Reads a staged directory again: nothing else in it, nothing wrong with it, and nothing missing that this
/// node had at some time (`at_least`).
///
/// # Errors
/// What is not so.
pub fn verify(staging: &Path, at_least: Option<Freshness>) -> Result<Freshness, StageError> {
    let inspection = inspect(staging)?;
    let freshness = inspection.readiness()?;
    only_what_belongs(staging, &inspection)?;
    match at_least {
        Some(expected) if expected.id != freshness.id || expected.version > freshness.version => {
            Err(StageError::Stale {
                staged: freshness,
                expected,
            })
        }
        Some(_) | None => Ok(freshness),
    }
}

fn only_what_belongs(staging: &Path, inspection: &Inspection) -> Result<(), StageError> {
    let unexpected = |found: String| StageError::Unexpected {
        path: staging.to_owned(),
        found,
    };
    if let Some(problem) = inspection.problems.first() {
        return Err(unexpected(problem.what.clone()));
    }
    let entries = fs::read_dir(staging).map_err(|source| DirectoryError::Read {
        path: staging.to_owned(),
        source,
    })?;
    for entry in entries {
        let entry = entry.map_err(|source| DirectoryError::Read {
            path: staging.to_owned(),
            source,
        })?;
        let name = entry.file_name();
        if name != IMAGE && name != CHANGELOG {
            return Err(unexpected(name.to_string_lossy().into_owned()));
        }
    }
    Ok(())
}

fn create(path: &Path, owner: Option<(u32, u32)>) -> io::Result<File> {
    let file = File::options()
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)?;
    give(&file, owner)?;
    Ok(file)
}

fn give(file: &File, owner: Option<(u32, u32)>) -> io::Result<()> {
    let metadata = file.metadata()?;
    match owner {
        Some((uid, gid)) if (metadata.uid(), metadata.gid()) != (uid, gid) => {
            fchown(file, Some(uid), Some(gid))
        }
        Some(_) | None => Ok(()),
    }
}

/// Gives the image a second name, or copies it where that cannot be.
fn place_image(
    data: &Path,
    image: &Chosen,
    to: &Path,
    owner: Option<(u32, u32)>,
    cancel: &AtomicBool,
) -> Result<(), StageError> {
    let failed = |source| StageError::Write {
        path: to.to_owned(),
        source,
    };
    let from = data.join(&image.name);
    if fs::hard_link(&from, to).is_err() {
        return copy_image(image, to, owner, cancel);
    }
    let metadata = image.file.metadata().map_err(failed)?;
    let linked = fs::symlink_metadata(to).map_err(failed)?;
    if (metadata.dev(), metadata.ino()) != (linked.dev(), linked.ino()) {
        return Err(StageError::ImageReplaced { path: from });
    }
    give(&image.file, owner).map_err(failed)?;
    // Its program may not have waited for the disk.
    image.file.sync_all().map_err(failed)
}

fn copy_image(
    image: &Chosen,
    to: &Path,
    owner: Option<(u32, u32)>,
    cancel: &AtomicBool,
) -> Result<(), StageError> {
    let failed = |source| StageError::Write {
        path: to.to_owned(),
        source,
    };
    let mut target = create(to, owner).map_err(failed)?;
    let bytes = image.file.metadata().map_err(failed)?.len();
    let mut source = super::changelog::tail::Section::new(&image.file, 0, bytes);
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(StageError::Cancelled);
        }
        let read = source.read(&mut buffer).map_err(failed)?;
        let Some(piece) = buffer.get(..read).filter(|piece| !piece.is_empty()) else {
            break;
        };
        target.write_all(piece).map_err(failed)?;
    }
    target.sync_all().map_err(failed)
}
