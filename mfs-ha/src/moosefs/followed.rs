//! Which master the metalogger was started for, and what lay there then.
//!
//! A metalogger that goes on with another master's stream does not compare what it has: where it was
//! ahead, its files become a mix of two histories without a hole. Started anew it downloads the other
//! master's image and changes, and a difference shows. And until that download is complete, what lies
//! there is of an earlier time, however whole it is. So both have to be known, over the daemon's own
//! end too.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;

use serde::{Deserialize, Serialize};

use super::layout::{Layout, StoreError, write_atomic};

const FILE: &str = "followed.json";

/// What the metalogger downloads first and last; the last one is there even when it is empty.
const IMAGE: &str = "metadata_ml.mfs.back";
const CHANGES: &str = "changelog_ml_back.1.mfs";

/// A metalogger's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Followed {
    /// Whom it was started for.
    pub master: Ipv4Addr,
    /// The image that lay there.
    image: Option<File>,
    /// The last part of a download that lay there.
    changes: Option<File>,
    /// Own port of its first connection, once that was seen.
    pub connection: Option<u16>,
}

/// Tells one file from another of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct File {
    inode: u64,
    /// Of its last change: s, ns.
    changed: (i64, i64),
}

impl Followed {
    /// A start on an empty directory.
    #[cfg(test)]
    pub(crate) const fn of(master: Ipv4Addr, connection: Option<u16>) -> Self {
        Self {
            master,
            image: None,
            changes: None,
            connection,
        }
    }

    /// Says whether a download was completed since.
    ///
    /// # Errors
    /// The files cannot be looked at.
    pub fn has_downloaded(&self, layout: &Layout) -> Result<bool, StoreError> {
        let (image, changes) = (file(layout, IMAGE)?, file(layout, CHANGES)?);
        let is_new = |now: Option<File>, then: Option<File>| now.is_some() && now != then;
        Ok(is_new(image, self.image) && is_new(changes, self.changes))
    }
}

/// Reads what was written last; `None` when it is not known.
///
/// # Errors
/// The file cannot be read.
pub fn read(layout: &Layout) -> Result<Option<Followed>, StoreError> {
    let path = layout.own().join(FILE);
    match fs::read(&path) {
        // What cannot be understood is not known, and the metalogger starts anew.
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("read", &path)(error)),
    }
}

/// Notes that the metalogger is going to be started for `master`. Call it while none runs.
///
/// # Errors
/// The file cannot be written, or the image cannot be looked at.
pub fn begin(layout: &Layout, master: Ipv4Addr) -> Result<Followed, StoreError> {
    let followed = Followed {
        master,
        image: file(layout, IMAGE)?,
        changes: file(layout, CHANGES)?,
        connection: None,
    };
    write(layout, &followed)?;
    Ok(followed)
}

/// Writes it.
///
/// # Errors
/// The file cannot be written.
pub fn write(layout: &Layout, followed: &Followed) -> Result<(), StoreError> {
    let path = layout.own().join(FILE);
    let text = serde_json::to_vec(followed)
        .map_err(io::Error::from)
        .map_err(StoreError::io("write", &path))?;
    write_atomic(&path, &text)
}

fn file(layout: &Layout, name: &str) -> Result<Option<File>, StoreError> {
    let path = layout.data().join(name);
    match fs::metadata(&path) {
        Ok(meta) => Ok(Some(File {
            inode: meta.ino(),
            changed: (meta.mtime(), meta.mtime_nsec()),
        })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("look at", &path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_download_is_seen_by_what_it_leaves() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path()).unwrap();
        layout.prepare().unwrap();
        assert_eq!(read(&layout).unwrap(), None);
        let put = |name: &str, text: &str| {
            let new = directory.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(&new, directory.path().join(name)).unwrap();
        };
        let master = Ipv4Addr::new(10, 0, 0, 1);
        let first = begin(&layout, master).unwrap();
        assert_eq!(read(&layout).unwrap(), Some(first));
        assert!(!first.has_downloaded(&layout).unwrap());
        put(IMAGE, "1");
        assert!(!first.has_downloaded(&layout).unwrap());
        put(CHANGES, "");
        assert!(first.has_downloaded(&layout).unwrap());

        let second = begin(&layout, master).unwrap();
        assert!(!second.has_downloaded(&layout).unwrap(), "that was there");
        put(CHANGES, "2");
        assert!(!second.has_downloaded(&layout).unwrap());
        put(IMAGE, "2");
        assert!(second.has_downloaded(&layout).unwrap());
    }

    #[test]
    fn what_is_damaged_is_not_known() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout::new(directory.path()).unwrap();
        layout.prepare().unwrap();
        fs::write(layout.own().join(FILE), "{\"master\":\"10.").unwrap();
        assert_eq!(read(&layout).unwrap(), None);
    }
}
