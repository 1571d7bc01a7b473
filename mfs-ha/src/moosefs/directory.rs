//! What a data directory has, how far it reaches, and whether a master can be promoted on it.
//!
//! Looks and changes nothing; a metalogger or master may write meanwhile. `mfsmaster -a` takes less care: it
//! reads any file whose name begins with `metadata`, skips a changelog without a line feed at its end, and
//! mixes different changes with one number.

mod judge;
mod names;
mod survey;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use serde::Serialize;

pub(crate) use self::judge::sort;
pub(crate) use self::names::{Kind, classify};
pub(crate) use self::survey::{Chosen, Mark, Opened, list, partial_line};
use super::changelog::merge::MergeError;
use super::image::{Header, serialize_id};

/// Most metadata files of a directory; MooseFS keeps at most 1000 changelogs of a kind.
pub const FILES_MAX: usize = 4096;
/// Most changelogs that may hold changes which the image does not have.
pub const CHANGELOGS_OPEN_MAX: usize = 256;

/// How far a directory reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Freshness {
    /// The file system.
    #[serde(serialize_with = "serialize_id")]
    pub id: u64,
    /// Number of the next change: all below it are there.
    pub version: u64,
    /// Number of the next change as the image alone has it.
    pub base: u64,
}

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// mfsmaster's: `metadata.mfs*`, `changelog.N.mfs`.
    Master,
    /// mfsmetalogger's: `metadata_ml*`, `changelog_ml*`.
    Metalogger,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Master => "master",
            Self::Metalogger => "metalogger",
        })
    }
}

/// One metadata file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileFinding {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub family: Family,
    /// Its length in bytes.
    pub bytes: u64,
    /// What is in it.
    #[serde(flatten)]
    pub content: Content,
}

/// What is in a metadata file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Content {
    /// A complete image.
    Image(Header),
    /// `MFSM NEW`: an image of nothing.
    EmptyImage,
    /// An image that cannot be used.
    UnusableImage {
        /// What it says of itself, as far as that is there.
        header: Option<Header>,
        /// What is wrong.
        reason: String,
    },
    /// A changelog.
    Changelog {
        /// Number of the first complete line, where that line is right.
        first: Option<u64>,
        /// Number of the last complete line, where that line is right.
        last: Option<u64>,
        /// Bytes after the last line feed.
        partial: u64,
    },
    /// Not used.
    Ignored {
        /// Why.
        reason: String,
    },
}

impl Content {
    /// The last change of a changelog.
    pub(crate) fn last(&self) -> Option<u64> {
        if let Self::Changelog { last, .. } = self {
            *last
        } else {
            None
        }
    }

    fn header(&self) -> Option<Header> {
        if let Self::Image(header) = self {
            Some(*header)
        } else {
            None
        }
    }
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// No complete image.
    NoImage,
    /// Nothing but an empty file system.
    EmptyFileSystem,
    /// An image is truncated or no image at all.
    DamagedImage,
    /// An image in an unknown format.
    UnknownFormat,
    /// Files of different file systems.
    DifferentIds,
    /// Changes are missing.
    Hole,
    /// Different changes with one number.
    Conflict,
    /// The numbers of a changelog do not ascend.
    Disorder,
    /// A line that cannot be read.
    DamagedLine,
    /// The last line has no line feed.
    PartialLine,
    /// A file that is no plain file, or cannot be read.
    Unreadable,
}

/// Something that is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What it is.
    pub kind: ProblemKind,
    /// The file that it is about, where there is one.
    pub file: Option<String>,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
    /// No promotion while it is there.
    pub blocks: bool,
}

/// What was found in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// Its metadata files, by name.
    pub files: Vec<FileFinding>,
    /// How far it reaches. Where something blocks: how far up to that, as far as it can be told.
    pub freshness: Option<Freshness>,
    /// What is wrong; what blocks comes first.
    pub problems: Vec<Problem>,
    /// The image that counts.
    pub image: Option<String>,
    /// Changes that the changelogs have beyond that image.
    pub lines: u64,
}

impl Inspection {
    /// How far a master promoted on this directory would reach.
    ///
    /// # Errors
    /// Something blocks a promotion.
    pub fn readiness(&self) -> Result<Freshness, NotReady> {
        let problems: Vec<_> = self
            .problems
            .iter()
            .filter(|problem| problem.blocks)
            .cloned()
            .collect();
        match self.freshness {
            Some(freshness) if problems.is_empty() => Ok(freshness),
            Some(_) | None => Err(NotReady { problems }),
        }
    }
}

/// Why a directory is not promotable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct NotReady {
    /// All that blocks.
    pub problems: Vec<Problem>,
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {}", problem.what, problem.remedy)?;
        }
        Ok(())
    }
}

/// Why nothing can be said of a directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// It cannot be read.
    #[error("cannot read {path}; it must be the data directory of MooseFS (DATA_PATH)")]
    Read {
        /// The directory, or a file in it.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// More files than MooseFS ever has.
    #[error("more than {max} {what} in {path}; move away what does not belong there")]
    TooManyFiles {
        /// The directory.
        path: PathBuf,
        /// Which files.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// Files came and went each time it was read.
    #[error(
        "the files in {path} changed their names {attempts} times while they were read; try again"
    )]
    Unsettled {
        /// The directory.
        path: PathBuf,
        /// How often it was tried.
        attempts: u32,
    },
    /// The changelogs cannot be followed.
    #[error("cannot go through the changelogs in {path}")]
    Merge {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: MergeError,
    },
}

/// Looks at all metadata files of `dir`.
///
/// # Errors
/// The directory cannot be read, or not at rest.
pub fn inspect(dir: &Path) -> Result<Inspection, DirectoryError> {
    let survey = Opened::open(dir)?.survey(&AtomicBool::new(false), &mut |_| Ok(()))?;
    Ok(survey.inspection)
}
