//! What an archived history has that the live one has not: the changes that were lost for the cluster.
//!
//! Two histories begin with the same changes, and from the first one that differs on they have nothing in
//! common: one with the same number and the same text (which has the time) in both tells that all before it are
//! the same. Images cannot be compared. Where the live directory has only an image of the time when the
//! histories parted, it cannot be told how many changes were lost, only how many at most.
//!
//! Reads both directories once, side by side, and holds some lines of them.

mod compare;
mod history;
mod record;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use self::history::History;
use super::changelog::walk::WalkError;
use super::directory::DirectoryError;
use super::layout::StoreError;

pub use compare::compare;
pub use record::{LOST_FILE, read, record};

/// The last second of the year 9999: no time is shown behind it.
const UNIX_S_MAX: u64 = 253_402_300_799;

/// What was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Number of the archive's next change.
    pub reaches: u64,
    /// Number of the live directory's next change, when they were compared.
    pub live_reaches: u64,
    /// The first change that is lost or may be lost.
    pub parted_at: Option<u64>,
    /// How many changes from there on.
    pub changes: u64,
    /// Whether it is known that all of these are lost.
    pub certainty: Certainty,
    /// When the first of them was made, in seconds since 1970 by the clock of its master; for people.
    pub first_unix_s: Option<u64>,
    /// When the last of them was made.
    pub last_unix_s: Option<u64>,
}

/// How sure a number of lost changes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// So many and no others.
    Exact,
    /// Not all could be compared: so many at most. Of an archive of which nothing could be compared, so many
    /// of the changes that stand in its changelogs.
    AtMost,
    /// Nothing could be compared, and no changelog tells how many there are.
    Unknown,
}

impl Lost {
    /// Whether it is known that nothing was lost.
    pub fn is_nothing(&self) -> bool {
        self.certainty == Certainty::Exact && self.changes == 0
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.certainty {
            Certainty::Exact if self.changes == 0 => return f.write_str("nothing was lost"),
            Certainty::Exact => f.write_str("lost: exactly ")?,
            Certainty::AtMost => f.write_str("lost: at most ")?,
            Certainty::Unknown => {
                return f.write_str("lost: unknown, there is no change to compare");
            }
        }
        let noun = if self.changes == 1 {
            "change"
        } else {
            "changes"
        };
        write!(f, "{} {noun}", self.changes)?;
        match self.parted_at {
            Some(first) if self.changes == 1 => write!(f, ", {first}")?,
            Some(first) => write!(f, ", {first} to {}", self.reaches.saturating_sub(1))?,
            None => {}
        }
        match (time(self.first_unix_s), time(self.last_unix_s)) {
            (Some(first), Some(_)) if self.first_unix_s == self.last_unix_s => {
                write!(f, ", of {first}")
            }
            (Some(first), Some(last)) => write!(f, ", of {first} to {last}"),
            (Some(_), None) | (None, Some(_) | None) => Ok(()),
        }
    }
}

fn time(unix_s: Option<u64>) -> Option<humantime::Rfc3339Timestamp> {
    let unix_s = unix_s.filter(|unix_s| *unix_s <= UNIX_S_MAX)?;
    let time = UNIX_EPOCH.checked_add(Duration::from_secs(unix_s))?;
    Some(humantime::format_rfc3339_seconds(time))
}

/// From where to where a directory goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span {
    /// Next change of its newest image.
    pub image: Option<u64>,
    /// The first change that stands in a changelog.
    pub first: Option<u64>,
    /// Number of the next change.
    pub reaches: u64,
}

/// Looks from where to where a directory goes, without reading all of it.
///
/// # Errors
/// It cannot be read, is compressed, or of several file systems.
pub fn span(dir: &Path) -> Result<Span, LostError> {
    let history = History::open(dir, u64::MAX)?;
    Ok(Span {
        image: history.image,
        first: history.first,
        reaches: history.reaches(),
    })
}

/// Why it cannot be told what was lost.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LostError {
    /// A directory cannot be listed.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file of the archive is compressed.
    #[error("{} is compressed: unpack the archive with `zstd -d`", path.display())]
    Packed {
        /// The file.
        path: PathBuf,
    },
    /// Files changed their names each time the directory was read.
    #[error("the files in {} changed their names while they were read: try again", path.display())]
    Unsettled {
        /// The directory.
        path: PathBuf,
    },
    /// More changelogs than can be read side by side.
    #[error("too many changelogs to compare in {}", path.display())]
    TooManyFiles {
        /// The directory.
        path: PathBuf,
    },
    /// The changelogs of a directory cannot be followed.
    #[error("cannot go through the changelogs in {}", path.display())]
    Changelogs {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: WalkError,
    },
    /// The live directory has two histories.
    #[error("change {number} differs within {}: compare when it is of one history", path.display())]
    Mixed {
        /// The directory.
        path: PathBuf,
        /// The first change that differs.
        number: u64,
    },
    /// The live directory has no image yet.
    #[error("{} has no complete image: compare when everything is downloaded", path.display())]
    NoImage {
        /// The directory.
        path: PathBuf,
    },
    /// Files of two file systems.
    #[error("{} is of another file system (ids {:016X} and {:016X})", path.display(), ids[0], ids[1])]
    DifferentIds {
        /// The directory.
        path: PathBuf,
        /// Both ids.
        ids: [u64; 2],
    },
    /// `lost.json` cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Somebody no longer wants it.
    #[error("cancelled")]
    Cancelled,
}

#[cfg(test)]
mod tests;
