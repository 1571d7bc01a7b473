//! Where a promotion was when the daemon ended, and how to undo what it did to the files.
//!
//! The journal is one small file, replaced as a whole and synced before the effect that it
//! announces. Beside the stage it holds the undo record of an installation, from before its first
//! rename until the node serves or the installation is undone.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::archive::ArchiveName;
use super::epoch;
use super::install::{self, Restored};
use super::layout::{Dir, Layout, StoreError, is_metadata_file, write_atomic};

/// The format that is written and the only one that is read.
const FORMAT: u32 = 1;

/// How far a promotion has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "name", deny_unknown_fields)]
pub enum Stage {
    /// No promotion is under way.
    Idle,
    /// A step runs or ran that needs nothing undone.
    Promoting {
        /// The name of the step.
        step: String,
    },
    /// Files are being moved.
    Installing,
    /// All files are in place; no master has seen them.
    Installed,
    /// A master was started on them; it has no virtual IP.
    Started {
        /// Its process.
        pid: i32,
        /// Field 22 of `/proc/<pid>/stat`, clock ticks since boot.
        start_time: u64,
    },
    /// The master has the virtual IP, or is about to get it: what it wrote is the truth.
    Serving {
        /// Its process.
        pid: i32,
        /// Field 22 of `/proc/<pid>/stat`, clock ticks since boot.
        start_time: u64,
    },
}

/// What an installation moves: enough to finish it or to undo it from any point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Install {
    /// The name of the archive that the live files go to.
    pub archive: String,
    /// The epoch in its name.
    pub epoch: u64,
    /// The live files.
    pub moved: Vec<String>,
    /// The staged files.
    pub staged: Vec<String>,
}

/// A journal that could not be read, for a warning to the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Where it is kept.
    pub moved_to: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// The journal of one data directory.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    record: Record,
    damage: Option<Damage>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    format: u32,
    stage: Stage,
    install: Option<Install>,
}

impl Record {
    const IDLE: Self = Self {
        format: FORMAT,
        stage: Stage::Idle,
        install: None,
    };
}

impl Journal {
    /// Reads the journal; without one nothing is under way.
    ///
    /// A damaged one is moved into an archive and counts as [`Stage::Idle`]; see [`Self::damage`].
    ///
    /// # Errors
    /// [`StoreError::Newer`] when a later mfs-ha wrote it; when it cannot be read or moved.
    pub fn load(layout: &Layout) -> Result<Self, StoreError> {
        let path = layout.journal_file();
        let (record, damage) = match read(layout) {
            Ok(record) => (record, None),
            Err(StoreError::Damaged { why, .. }) => {
                let moved_to = move_aside(layout)?;
                (Record::IDLE, Some(Damage { moved_to, why }))
            }
            Err(error) => return Err(error),
        };
        Ok(Self {
            path,
            record,
            damage,
        })
    }

    /// How far a promotion has come.
    pub fn stage(&self) -> &Stage {
        &self.record.stage
    }

    /// The installation that can still be undone.
    pub fn install(&self) -> Option<&Install> {
        self.record.install.as_ref()
    }

    /// Why [`Self::load`] found no usable journal.
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// Records a stage, durably when it returns.
    ///
    /// [`Stage::Serving`] and [`Stage::Idle`] end the possibility to undo an installation; set
    /// `Serving` before the virtual IP is taken.
    ///
    /// # Errors
    /// When the journal cannot be written; the old one counts then.
    pub fn set(&mut self, stage: Stage) -> Result<(), StoreError> {
        let install = match stage {
            Stage::Idle | Stage::Serving { .. } => None,
            Stage::Promoting { .. }
            | Stage::Installing
            | Stage::Installed
            | Stage::Started { .. } => self.record.install.clone(),
        };
        self.write(stage, install)
    }

    pub(super) fn begin_install(&mut self, install: Install) -> Result<(), StoreError> {
        self.write(Stage::Installing, Some(install))
    }

    /// Refuses what would mix two states of the live directory.
    pub(super) fn refuse_unfinished(&self) -> Result<(), StoreError> {
        match self.install() {
            None => Ok(()),
            Some(install) => Err(StoreError::NotRestored {
                archive: install.archive.clone(),
            }),
        }
    }

    fn write(&mut self, stage: Stage, install: Option<Install>) -> Result<(), StoreError> {
        let record = Record {
            format: FORMAT,
            stage,
            install,
        };
        let mut content = serde_json::to_vec(&record)
            .map_err(io::Error::from)
            .map_err(StoreError::io("write", &self.path))?;
        content.push(b'\n');
        write_atomic(&self.path, &content)?;
        self.record = record;
        Ok(())
    }
}

/// The archive that an installation on disk may still need, whoever carries it out.
pub(super) fn archive_in_use(layout: &Layout) -> Result<Option<String>, StoreError> {
    Ok(read(layout)?.install.map(|install| install.archive))
}

/// What the start of the daemon put in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// How far the promotion had come.
    pub found: Stage,
    /// The installation that was undone.
    pub restored: Option<Restored>,
    /// Where files went that were staged and not installed.
    pub staging: Option<PathBuf>,
}

/// Puts the directory in order after the daemon ended at an unknown point.
///
/// An installation that no master was started on is undone. After [`Stage::Started`] and
/// [`Stage::Serving`] the files stay as they are, the freshest that there are, and the stage stays
/// for whoever adopts the master. May be repeated at any time.
///
/// # Errors
/// When files cannot be moved; the journal then still says what is to be done.
pub fn recover(layout: &Layout, journal: &mut Journal) -> Result<Recovery, StoreError> {
    let found = journal.stage().clone();
    let mut recovery = Recovery {
        found: found.clone(),
        restored: None,
        staging: None,
    };
    match found {
        Stage::Started { .. } | Stage::Serving { .. } => {
            // Nobody knows whether it was reached by clients: its files must not be taken away.
            if journal.install().is_some() {
                journal.write(found, None)?;
            }
        }
        Stage::Idle | Stage::Promoting { .. } | Stage::Installing | Stage::Installed => {
            if journal.install().is_some() {
                recovery.restored = Some(install::restore(layout, journal)?);
            }
            if *journal.stage() != Stage::Idle {
                journal.set(Stage::Idle)?;
            }
        }
    }
    recovery.staging = layout.set_staging_aside(epoch_for_names(layout))?;
    Ok(recovery)
}

/// A damaged sidecar is no reason to leave files about.
fn epoch_for_names(layout: &Layout) -> u64 {
    epoch::read(layout).map_or(0, |record| record.epoch)
}

fn read(layout: &Layout) -> Result<Record, StoreError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }

    let path = layout.journal_file();
    let content = match fs::read(&path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Record::IDLE),
        Err(error) => return Err(StoreError::io("read", &path)(error)),
    };
    let damaged = |why: String| StoreError::Damaged {
        path: path.clone(),
        why,
        remedy: "move it away, and compare the data directory with the newest archive",
    };
    let Format { format } =
        serde_json::from_slice(&content).map_err(|error| damaged(error.to_string()))?;
    if format > FORMAT {
        return Err(StoreError::Newer {
            path,
            format,
            known: FORMAT,
        });
    }
    let record: Record =
        serde_json::from_slice(&content).map_err(|error| damaged(error.to_string()))?;
    let is_sound = record.install.as_ref().is_none_or(is_sound);
    if is_sound {
        Ok(record)
    } else {
        Err(damaged("it names files that are not ours".to_owned()))
    }
}

/// What is in the record is moved about as root: no name may lead elsewhere.
fn is_sound(install: &Install) -> bool {
    ArchiveName::parse(&install.archive).is_some()
        && install
            .moved
            .iter()
            .chain(&install.staged)
            .all(|name| is_metadata_file(OsStr::new(name)) && !name.contains('/'))
}

fn move_aside(layout: &Layout) -> Result<PathBuf, StoreError> {
    let epoch = epoch_for_names(layout);
    let archive = layout.new_archive("journal", epoch, SystemTime::now())?;
    let own = Dir::open(&layout.own())?;
    own.move_into("journal.json", &Dir::open(&archive)?)?;
    own.sync()?;
    Ok(archive.join("journal.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(directory: &tempfile::TempDir) -> Layout {
        let layout = Layout::new(directory.path()).unwrap();
        layout.prepare().unwrap();
        layout
    }

    fn an_install() -> Install {
        Install {
            archive: "7-20261123T064200Z".to_owned(),
            epoch: 7,
            moved: vec!["metadata_ml.mfs.back".to_owned()],
            staged: vec!["metadata.mfs.back".to_owned()],
        }
    }

    #[test]
    fn each_stage_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let layout = layout(&directory);
        let (pid, start_time) = (4711, u64::MAX);
        for stage in [
            Stage::Idle,
            Stage::Promoting {
                step: "stage".to_owned(),
            },
            Stage::Installing,
            Stage::Installed,
            Stage::Started { pid, start_time },
            Stage::Serving { pid, start_time },
        ] {
            let mut journal = Journal::load(&layout).unwrap();
            journal.set(stage.clone()).unwrap();
            let read = Journal::load(&layout).unwrap();
            assert_eq!(*read.stage(), stage);
            assert_eq!(read.damage(), None);
        }
    }

    #[test]
    fn the_undo_record_lasts_until_the_node_serves() {
        let directory = tempfile::tempdir().unwrap();
        let layout = layout(&directory);
        let (pid, start_time) = (4711, 1);
        let mut journal = Journal::load(&layout).unwrap();
        journal.begin_install(an_install()).unwrap();
        for stage in [
            Stage::Installed,
            Stage::Promoting {
                step: "record_epoch".to_owned(),
            },
            Stage::Started { pid, start_time },
        ] {
            journal.set(stage).unwrap();
            let read = Journal::load(&layout).unwrap();
            assert_eq!(read.install(), Some(&an_install()));
            assert!(read.refuse_unfinished().is_err());
        }
        assert_eq!(archive_in_use(&layout).unwrap(), Some(an_install().archive));
        journal.set(Stage::Serving { pid, start_time }).unwrap();
        assert_eq!(Journal::load(&layout).unwrap().install(), None);
        assert_eq!(archive_in_use(&layout).unwrap(), None);
    }

    #[test]
    fn a_stage_that_cannot_be_written_does_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let layout = layout(&directory);
        let mut journal = Journal::load(&layout).unwrap();
        journal.begin_install(an_install()).unwrap();
        fs::create_dir(layout.own().join("journal.tmp")).unwrap();
        let error = journal.set(Stage::Idle).unwrap_err();
        assert!(error.to_string().contains("journal.tmp"), "{error}");
        assert_eq!(*journal.stage(), Stage::Installing);
        assert_eq!(journal.install(), Some(&an_install()));
        assert_eq!(*Journal::load(&layout).unwrap().stage(), Stage::Installing);
    }

    #[test]
    fn a_damaged_journal_is_kept_and_told() {
        let sound = r#"{"format":1,"stage":{"name":"installing"},"install":{"archive":"ARCHIVE",
            "epoch":7,"moved":["MOVED"],"staged":[]}}"#;
        let good =
            |archive: &str, moved: &str| sound.replace("ARCHIVE", archive).replace("MOVED", moved);
        for content in [
            String::new(),
            "\0\0\0\0".to_owned(),
            r#"{"format":1}"#.to_owned(),
            good("7-20261123T064200Z", "metadata/../../shadow"),
            good("7-20261123T064200Z", "passwd"),
            good("../..", "metadata.mfs"),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let layout = layout(&directory);
            fs::write(layout.journal_file(), &content).unwrap();
            let journal = Journal::load(&layout).unwrap();
            assert_eq!(*journal.stage(), Stage::Idle, "{content}");
            let damage = journal.damage().unwrap();
            assert_eq!(fs::read_to_string(&damage.moved_to).unwrap(), content);
            assert_eq!(Journal::load(&layout).unwrap().damage(), None);
        }
    }

    #[test]
    fn a_journal_of_a_later_mfs_ha_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let layout = layout(&directory);
        fs::write(layout.journal_file(), "{\"format\":2,\"new\":[]}").unwrap();
        let error = Journal::load(&layout).unwrap_err();
        assert!(error.to_string().contains("has format 2"), "{error}");
        assert!(layout.journal_file().exists());
    }

    #[test]
    fn a_master_that_was_started_keeps_its_files() {
        let directory = tempfile::tempdir().unwrap();
        let layout = layout(&directory);
        let mut journal = Journal::load(&layout).unwrap();
        journal.begin_install(an_install()).unwrap();
        let stage = Stage::Started {
            pid: 4711,
            start_time: 1,
        };
        journal.set(stage.clone()).unwrap();
        let recovery = recover(&layout, &mut journal).unwrap();
        assert_eq!(recovery.found, stage);
        assert_eq!(recovery.restored, None);
        assert_eq!(*journal.stage(), stage);
        assert_eq!(journal.install(), None);
        assert_eq!(Journal::load(&layout).unwrap().install(), None);
    }
}
