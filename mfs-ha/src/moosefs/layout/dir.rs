//! An open directory: its files are moved by name, from one open directory into another.
//!
//! Nothing here replaces a file that exists, except [`Dir::replace`] for a file that has another name,
//! and [`write_atomic`] for mfs-ha's own small files.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, FileType, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::{StoreError, is_metadata_file, is_program_file};

/// A directory that stays the same one, whatever happens to its path.
#[derive(Debug)]
pub(crate) struct Dir {
    path: PathBuf,
    handle: File,
}

impl Dir {
    /// Opens a directory; a symbolic link in its place is refused.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let handle = OpenOptions::new()
            .read(true)
            .custom_flags(flags.bits().cast_signed())
            .open(path)
            .map_err(StoreError::io("open", path))?;
        let path = path.to_owned();
        Ok(Self { path, handle })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The metadata files, sorted by name. Links count as files; other things are passed over.
    pub(crate) fn metadata_files(&self) -> Result<Vec<String>, StoreError> {
        let mut files = Vec::new();
        for name in self.names()?.iter().filter(|name| is_metadata_file(name)) {
            let Some(text) = name.to_str() else { continue };
            if self.stat(text)?.is_some_and(|stat| is_file(&stat)) {
                files.push(text.to_owned());
            }
        }
        files.sort();
        Ok(files)
    }

    /// Refuses what [`Self::metadata_files`] passes over and MooseFS does not.
    ///
    /// A directory of another name that begins like metadata, with backups for example, is nobody's
    /// obstacle.
    ///
    /// # Errors
    /// [`StoreError::Foreign`] when there is such a thing.
    pub(crate) fn refuse_foreign(&self) -> Result<(), StoreError> {
        for name in self.names()?.iter().filter(|name| is_metadata_file(name)) {
            let Some(stat) = self.stat_os(name)? else {
                continue;
            };
            let kind = match (is_file(&stat), name.to_str()) {
                (true, None) => "a file whose name is not UTF-8",
                (false, Some(name)) if is_program_file(name) => {
                    match FileType::from_raw_mode(stat.st_mode).is_dir() {
                        true => "a directory",
                        false => "not a file",
                    }
                }
                (true | false, Some(_)) | (false, None) => continue,
            };
            let path = self.path.join(name);
            return Err(StoreError::Foreign { path, kind });
        }
        Ok(())
    }

    /// All names in the directory, in no order.
    pub(crate) fn names(&self) -> Result<Vec<OsString>, StoreError> {
        fs::read_dir(&self.path)
            .and_then(|entries| entries.map(|entry| entry.map(|e| e.file_name())).collect())
            .map_err(StoreError::io("list", &self.path))
    }

    /// What a name stands for, a link not followed; `None` when nothing has the name.
    pub(crate) fn stat(&self, name: &str) -> Result<Option<Stat>, StoreError> {
        self.stat_os(OsStr::new(name))
    }

    fn stat_os(&self, name: &OsStr) -> Result<Option<Stat>, StoreError> {
        match rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(StoreError::errno("look at", &self.path.join(name))(errno)),
        }
    }

    pub(crate) fn has(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.stat(name)?.is_some())
    }

    /// Moves a file into another directory, under the same name; replaces nothing.
    pub(crate) fn move_into(&self, name: &str, to: &Self) -> Result<(), StoreError> {
        self.move_as(name, to, name)
    }

    /// Moves a file into another directory; replaces nothing.
    pub(crate) fn move_as(&self, name: &str, to: &Self, new: &str) -> Result<(), StoreError> {
        let flags = RenameFlags::NOREPLACE;
        rustix::fs::renameat_with(&self.handle, name, &to.handle, new, flags)
            .map_err(|errno| rename_error(self.join(name), to.join(new), errno))
    }

    /// Puts a file in the place of another one, whose content must have a name elsewhere.
    pub(crate) fn replace(&self, name: &str, to: &Self, new: &str) -> Result<(), StoreError> {
        rustix::fs::renameat(&self.handle, name, &to.handle, new)
            .map_err(|errno| rename_error(self.join(name), to.join(new), errno))
    }

    /// Gives a file a second name in another directory; replaces nothing, follows no link.
    pub(crate) fn link_into(&self, name: &str, to: &Self) -> Result<(), StoreError> {
        rustix::fs::linkat(&self.handle, name, &to.handle, name, AtFlags::empty()).map_err(
            |errno| {
                let (from, to) = (self.join(name), to.join(name));
                match errno {
                    Errno::XDEV => StoreError::OtherMount { from, to },
                    Errno::EXIST => StoreError::Taken { path: to },
                    other => StoreError::Link {
                        from,
                        to,
                        source: other.into(),
                    },
                }
            },
        )
    }

    /// Sets the time at which a file last came into it.
    pub(crate) fn set_modified(&self, time: SystemTime) -> Result<(), StoreError> {
        self.handle
            .set_modified(time)
            .map_err(StoreError::io("set the time of", &self.path))
    }

    /// Makes all moves and links in this directory last.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.handle
            .sync_all()
            .map_err(StoreError::io("sync", &self.path))
    }
}

fn is_file(stat: &Stat) -> bool {
    let kind = FileType::from_raw_mode(stat.st_mode);
    matches!(kind, FileType::RegularFile | FileType::Symlink)
}

fn rename_error(from: PathBuf, to: PathBuf, errno: Errno) -> StoreError {
    match errno {
        Errno::XDEV => StoreError::OtherMount { from, to },
        Errno::EXIST => StoreError::Taken { path: to },
        Errno::INVAL => StoreError::NoSafeRename { path: to },
        other => StoreError::Rename {
            from,
            to,
            source: other.into(),
        },
    }
}

/// Makes the entries of a directory last.
pub(crate) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    Dir::open(path)?.sync()
}

/// Writes one of mfs-ha's own small files so that it has the old content or the new one, never less.
///
/// Durable when it returns `Ok`.
pub(crate) fn write_atomic(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let temporary = path.with_extension("tmp");
    let written = write_synced(&temporary, content).map_err(StoreError::io("write", &temporary));
    let renamed = written.and_then(|()| {
        fs::rename(&temporary, path).map_err(|source| StoreError::Rename {
            from: temporary.clone(),
            to: path.to_owned(),
            source,
        })
    });
    if let Err(error) = renamed {
        // On a full disk each byte counts; what remains is written over the next time.
        drop(fs::remove_file(&temporary));
        return Err(error);
    }
    match path.parent() {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}
