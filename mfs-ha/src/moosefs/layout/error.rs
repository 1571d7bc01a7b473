//! Why a change on disk was not made.

use std::io;
use std::path::{Path, PathBuf};

/// Why files of a metadata directory were not changed, or not all of them.
///
/// Whatever the reason is, no file is lost and none is overwritten.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A system call failed.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried: `write`, `read`, …
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file could not be moved.
    #[error("cannot rename {} to {}", from.display(), to.display())]
    Rename {
        /// Where it is.
        from: PathBuf,
        /// Where it should be.
        to: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file could not be given a second name.
    #[error("cannot make {} a hard link of {}", to.display(), from.display())]
    Link {
        /// Its name.
        from: PathBuf,
        /// The second name.
        to: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Both directories must be on one mount.
    #[error(
        "{} and {} are on different file systems or mounts, and metadata is moved by rename only: \
         unmount what is mounted below the data directory",
        from.display(), to.display()
    )]
    OtherMount {
        /// Where the file is.
        from: PathBuf,
        /// Where it should be.
        to: PathBuf,
    },
    /// The file system cannot promise that nothing is overwritten.
    #[error(
        "the file system of {} cannot rename without overwriting (renameat2 with \
         RENAME_NOREPLACE): keep the metadata on ext4, xfs, btrfs or zfs 2.2",
        path.display()
    )]
    NoSafeRename {
        /// A path on it.
        path: PathBuf,
    },
    /// Something is there already.
    #[error("{} exists already, and nothing is overwritten: move it away", path.display())]
    Taken {
        /// The name that is wanted.
        path: PathBuf,
    },
    /// Something else has the name of a metadata file.
    #[error(
        "{} is {kind}, and has the name of a metadata file: move it out of the data directory",
        path.display()
    )]
    Foreign {
        /// The thing.
        path: PathBuf,
        /// What it is: `a directory`, `not a file`, ….
        kind: &'static str,
    },
    /// The data directory is something else.
    #[error("{} is not a directory: set it to the DATA_PATH of mfsmaster", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// Others could exchange what is kept there.
    #[error(
        "{} must be a directory of user {wanted} that nobody else can write to: move it away, it \
         is made anew",
        path.display()
    )]
    NotOurs {
        /// The path.
        path: PathBuf,
        /// The user id of the daemon.
        wanted: u32,
    },
    /// There is nothing to install.
    #[error("{} holds no metadata image: stage the metadata before installing it", staging.display())]
    NothingStaged {
        /// The staging directory.
        staging: PathBuf,
    },
    /// An earlier installation was neither undone nor served from.
    #[error("the metadata in archive {archive} was not put back yet: restore it first")]
    NotRestored {
        /// The archive with what was there before.
        archive: String,
    },
    /// Files that were moved are no longer where they were put.
    #[error(
        "{} is neither in the data directory nor in {}: put it back, or move {} away to keep what \
         is in the data directory now",
        names.join(", "), archive.display(), journal.display()
    )]
    Missing {
        /// The files.
        names: Vec<String>,
        /// Where they should be.
        archive: PathBuf,
        /// What refers to them.
        journal: PathBuf,
    },
    /// A file changed while it was worked on.
    #[error("{} changes while it is worked on: stop the program that writes it", path.display())]
    Changing {
        /// The file.
        path: PathBuf,
    },
    /// One of our own small files cannot be read.
    #[error("{} is damaged ({why}): {remedy}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A later mfs-ha wrote the file.
    #[error("{} has format {format}, this mfs-ha knows {known}: install the newer mfs-ha", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        format: u32,
        /// The newest format that is known.
        known: u32,
    },
}

impl StoreError {
    /// For `map_err`: names the file and what was tried with it.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }

    /// For `map_err` of a system call that is made without the standard library.
    pub(crate) fn errno(
        doing: &'static str,
        path: &Path,
    ) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::io(doing, path)(errno.into())
    }
}
