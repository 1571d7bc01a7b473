//! Where mfs-ha keeps its own files beside the metadata.
//!
//! ```text
//! <data>/                     DATA_PATH of mfsmaster and mfsmetalogger: the live files
//!   mfs-ha/                   ours, mode 0700, on the same file system so that rename works
//!     staging/                what is being prepared; exists only during a promotion
//!     archive/7-20261123T064200Z[-2][-snapshot]/    what was there before
//!     epoch.json  journal.json
//! ```
//!
//! `mfsmaster -a` reads every file of the data directory whose name starts with `metadata` or
//! `changelog`, and looks into no sub-directory.
//!
//! Invariants: a metadata file is moved or linked, never copied over and never removed (except by
//! the retention of [`super::archive`]). The daemon's lock makes sure that only one works here.

mod aside;
mod dir;
mod error;

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use aside::Moved;
pub use error::StoreError;

pub(crate) use aside::Aside;
pub(crate) use dir::{Dir, sync_dir, write_atomic};

use super::journal::Journal;

/// Two archives of one second differ in a number; more of them than this is a fault.
const SAME_SECOND_MAX: u32 = 1000;

/// An empty file that is moved back and forth to see whether moving works.
const PROBE: &str = ".mfs-ha-probe";

/// The places below one data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    data: PathBuf,
}

impl Layout {
    /// Looks at the data directory; symbolic links are resolved once, here. Makes nothing.
    ///
    /// # Errors
    /// When there is no such directory.
    pub fn new(data: &Path) -> Result<Self, StoreError> {
        let resolved = fs::canonicalize(data).map_err(StoreError::io("find", data))?;
        if !resolved.is_dir() {
            return Err(StoreError::NotADirectory { path: resolved });
        }
        Ok(Self { data: resolved })
    }

    /// The live directory, where mfsmaster and mfsmetalogger work.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The directory of everything that is ours.
    pub fn own(&self) -> PathBuf {
        self.data.join("mfs-ha")
    }

    /// Where a promotion prepares its files.
    pub fn staging(&self) -> PathBuf {
        self.own().join("staging")
    }

    /// The directory of the archives.
    pub fn archive(&self) -> PathBuf {
        self.own().join("archive")
    }

    /// The epoch sidecar.
    pub fn epoch_file(&self) -> PathBuf {
        self.own().join("epoch.json")
    }

    /// The journal.
    pub fn journal_file(&self) -> PathBuf {
        self.own().join("journal.json")
    }

    /// User and group of the live directory: the ones that MooseFS runs as.
    ///
    /// # Errors
    /// When the directory cannot be looked at.
    pub fn owner(&self) -> Result<(u32, u32), StoreError> {
        let metadata = fs::metadata(&self.data).map_err(StoreError::io("look at", self.data()))?;
        Ok((metadata.uid(), metadata.gid()))
    }

    /// Makes our directories, and tries whether files can be moved safely between them and the
    /// live one. For the start of the daemon: what cannot work is found here, not at a failover.
    ///
    /// # Errors
    /// When something else is in their place, when they cannot be made, or when moving fails.
    pub fn prepare(&self) -> Result<(), StoreError> {
        for path in [self.own(), self.archive()] {
            make_private(&path)?;
        }
        let own = Dir::open(&self.own())?;
        let live = Dir::open(&self.data)?;
        for probe in [own.join(PROBE), live.join(PROBE)] {
            remove_probe(&probe)?;
        }
        let probe = own.join(PROBE);
        File::create_new(&probe).map_err(StoreError::io("make", &probe))?;
        let moved = own
            .move_into(PROBE, &live)
            .and_then(|()| live.move_into(PROBE, &own));
        remove_probe(&probe)?;
        moved?;
        own.sync()?;
        sync_dir(&self.data)
    }

    /// Makes an empty archive `<epoch>-<utc>[-n][-label]`; durable when it returns.
    ///
    /// `now` is for the name only. A label is of small letters.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new_archive(
        &self,
        label: &str,
        epoch: u64,
        now: SystemTime,
    ) -> Result<PathBuf, StoreError> {
        self.with_free_name(label, epoch, now, |path| {
            match DirBuilder::new().mode(0o700).create(path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    Err(StoreError::Taken {
                        path: path.to_owned(),
                    })
                }
                made => made.map_err(StoreError::io("make", path)),
            }
        })
    }

    /// Moves what an earlier promotion left in the staging directory into an archive, so that a
    /// new one can be staged; the archive, when there was something.
    ///
    /// # Errors
    /// [`StoreError::NotRestored`] while the live directory is between two states; the others
    /// when the directory cannot be moved.
    pub fn clear_staging(
        &self,
        journal: &Journal,
        epoch: u64,
    ) -> Result<Option<PathBuf>, StoreError> {
        journal.refuse_unfinished()?;
        self.set_staging_aside(epoch)
    }

    pub(super) fn set_staging_aside(&self, epoch: u64) -> Result<Option<PathBuf>, StoreError> {
        let staging = self.staging();
        match fs::remove_dir(&staging) {
            Ok(()) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
            Err(error) => return Err(StoreError::io("remove the empty", &staging)(error)),
        }
        let own = Dir::open(&self.own())?;
        let archive = Dir::open(&self.archive())?;
        let aside = self.with_free_name("staging", epoch, SystemTime::now(), |path| {
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            own.move_as("staging", &archive, name)
        })?;
        own.sync()?;
        Ok(Some(aside))
    }

    /// Tries names until one is not [`StoreError::Taken`], and makes the result last.
    fn with_free_name(
        &self,
        label: &str,
        epoch: u64,
        now: SystemTime,
        mut make: impl FnMut(&Path) -> Result<(), StoreError>,
    ) -> Result<PathBuf, StoreError> {
        let time = humantime::format_rfc3339_seconds(now)
            .to_string()
            .replace(['-', ':'], "");
        let mut number = 1;
        loop {
            let mut name = format!("{epoch}-{time}");
            if number > 1 {
                name.push_str(&format!("-{number}"));
            }
            if !label.is_empty() {
                name.push_str(&format!("-{label}"));
            }
            let path = self.archive().join(name);
            match make(&path) {
                Err(StoreError::Taken { .. }) if number < SAME_SECOND_MAX => number += 1,
                Err(error) => return Err(error),
                Ok(()) => {
                    sync_dir(&self.archive())?;
                    return Ok(path);
                }
            }
        }
    }
}

/// Whether `mfsmaster -a` would take it into account in the data directory.
pub fn is_metadata_file(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b"metadata") || name.starts_with(b"changelog")
}

/// Whether a metadata file belongs to the metalogger; all others are the master's.
pub fn is_metalogger_file(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b"metadata_ml") || name.starts_with(b"changelog_ml")
}

/// Whether MooseFS itself makes files of this name: nothing else may stand in its place.
fn is_program_file(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_backup =
        |rest: &str| rest == "mfs.back" || rest.strip_prefix("mfs.back.").is_some_and(is_number);
    match name.split_once('.') {
        Some(("changelog" | "changelog_ml" | "changelog_ml_back", rest)) => {
            rest.strip_suffix(".mfs").is_some_and(is_number)
        }
        Some(("metadata", rest)) => {
            matches!(rest, "mfs" | "crc" | "mfs.back.tmp") || is_backup(rest)
        }
        Some(("metadata_ml", rest)) => rest == "tmp" || is_backup(rest),
        Some(_) | None => false,
    }
}

/// Makes a directory for us alone, or accepts one that nobody else can write to.
fn make_private(path: &Path) -> Result<(), StoreError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => match path.parent() {
            Some(parent) => sync_dir(parent),
            None => Ok(()),
        },
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = fs::symlink_metadata(path).map_err(StoreError::io("look at", path))?;
            let wanted = rustix::process::geteuid().as_raw();
            if is_private(&metadata, wanted) {
                Ok(())
            } else {
                let path = path.to_owned();
                Err(StoreError::NotOurs { path, wanted })
            }
        }
        Err(error) => Err(StoreError::io("make", path)(error)),
    }
}

fn is_private(metadata: &Metadata, user: u32) -> bool {
    metadata.is_dir() && metadata.uid() == user && metadata.mode() & 0o022 == 0
}

fn remove_probe(path: &Path) -> Result<(), StoreError> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() && found.len() == 0 => {
            fs::remove_file(path).map_err(StoreError::io("remove", path))
        }
        Ok(_) => Err(StoreError::Taken {
            path: path.to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::io("look at", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn layout(directory: &tempfile::TempDir) -> Layout {
        let layout = Layout::new(directory.path()).unwrap();
        layout.prepare().unwrap();
        layout
    }

    #[test]
    fn names_are_told_apart() {
        for (name, metadata, metalogger, program) in [
            ("metadata.mfs", true, false, true),
            ("metadata.mfs.back", true, false, true),
            ("metadata.mfs.back.1", true, false, true),
            ("metadata.mfs.back.old", true, false, false),
            ("metadata.mfs.empty", true, false, false),
            ("metadata-backups", true, false, false),
            ("metadata_ml.mfs.back.3", true, true, true),
            ("metadata_ml.tmp", true, true, true),
            ("changelog.0.mfs", true, false, true),
            ("changelog.0.mfs~", true, false, false),
            ("changelog_ml.12.mfs", true, true, true),
            ("changelog_ml_back.1.mfs", true, true, true),
            ("changelog.x.mfs", true, false, false),
            ("stats.mfs", false, false, false),
            (".mfsmaster.lock", false, false, false),
        ] {
            let os = OsStr::new(name);
            assert_eq!(is_metadata_file(os), metadata, "{name}");
            assert_eq!(is_metalogger_file(os), metalogger, "{name}");
            assert_eq!(is_program_file(name), program, "{name}");
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let layout = layout(&directory);
        let (from, to) = (layout.own(), layout.archive());
        fs::write(from.join("metadata.mfs"), "one").unwrap();
        fs::write(to.join("metadata.mfs"), "another").unwrap();
        let (from, to) = (Dir::open(&from).unwrap(), Dir::open(&to).unwrap());
        for refused in [
            from.move_into("metadata.mfs", &to),
            from.link_into("metadata.mfs", &to),
        ] {
            let error = refused.unwrap_err();
            assert!(matches!(error, StoreError::Taken { .. }), "{error}");
        }
        assert_eq!(fs::read(from.join("metadata.mfs")).unwrap(), b"one");
        assert_eq!(fs::read(to.join("metadata.mfs")).unwrap(), b"another");
    }

    #[test]
    fn archives_of_one_second_get_different_names() {
        let directory = tempfile::tempdir().unwrap();
        let layout = layout(&directory);
        let now = UNIX_EPOCH + Duration::from_secs(1_795_416_120);
        let made: Vec<_> = ["", "", "snapshot", "snapshot"]
            .map(|label| layout.new_archive(label, 7, now).unwrap())
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(
            made,
            [
                "7-20261123T064200Z",
                "7-20261123T064200Z-2",
                "7-20261123T064200Z-snapshot",
                "7-20261123T064200Z-2-snapshot"
            ]
        );
    }

    #[test]
    fn our_directories_are_for_us_alone() {
        let directory = tempfile::tempdir().unwrap();
        let layout = layout(&directory);
        for path in [layout.own(), layout.archive()] {
            let mode = fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o700);
        }
        assert!(!layout.staging().exists());
        layout.prepare().unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);

        fs::set_permissions(layout.own(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = layout.prepare().unwrap_err();
        assert!(matches!(error, StoreError::NotOurs { .. }), "{error}");
    }

    #[test]
    fn a_link_in_place_of_our_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        symlink(elsewhere.path(), directory.path().join("mfs-ha")).unwrap();
        let error = Layout::new(directory.path())
            .unwrap()
            .prepare()
            .unwrap_err();
        assert!(matches!(error, StoreError::NotOurs { .. }), "{error}");
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_link_to_the_data_directory_is_resolved() {
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        let data = directory.path().join("data");
        fs::create_dir(&data).unwrap();
        symlink(&data, &link).unwrap();
        let layout = Layout::new(&link).unwrap();
        assert_eq!(layout.data(), fs::canonicalize(&data).unwrap());

        fs::write(directory.path().join("file"), "").unwrap();
        let error = Layout::new(&directory.path().join("file")).unwrap_err();
        assert!(matches!(error, StoreError::NotADirectory { .. }), "{error}");
        let error = Layout::new(&directory.path().join("absent")).unwrap_err();
        assert!(error.to_string().contains("cannot find"), "{error}");
    }

    #[test]
    fn a_probe_of_a_daemon_that_was_killed_is_no_obstacle() {
        let directory = tempfile::tempdir().unwrap();
        let layout = layout(&directory);
        fs::write(layout.data().join(PROBE), "").unwrap();
        fs::write(layout.own().join(PROBE), "").unwrap();
        layout.prepare().unwrap();
        fs::write(layout.data().join(PROBE), "somebody's").unwrap();
        let error = layout.prepare().unwrap_err();
        assert!(matches!(error, StoreError::Taken { .. }), "{error}");
    }
}
