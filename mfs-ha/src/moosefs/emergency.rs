//! Images that an mfsmaster saved somewhere else because it could not write into its directory.
//!
//! `mfsmaster -a` reads them besides its directory, from places that are fixed, and takes one with the
//! same id whenever it is newer. Some of those places anybody can write to. So they are moved out of the
//! way before it is started: what was staged and verified is what is to be served.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, RenameFlags, renameat_with};

const NAME: &str = "metadata.mfs.emergency";

/// Where mfsmaster 3.0.117 saves and looks.
const PLACES: [&str; 8] = [
    "/",
    "/tmp",
    "/var",
    "/usr",
    "/usr/share",
    "/usr/local",
    "/usr/local/var",
    "/usr/local/share",
];

/// An image that cannot be moved out of the way.
#[derive(Debug, thiserror::Error)]
#[error(
    "mfsmaster would read {}, and it cannot be moved away: look at it with `mfsmetadump -s HEAD`, \
     then move it yourself",
    path.display()
)]
pub struct EmergencyError {
    path: PathBuf,
    source: io::Error,
}

/// Renames every such image within its own directory; returns the old and the new names.
///
/// # Errors
/// There is one that cannot be renamed.
pub fn set_aside() -> Result<Vec<(PathBuf, PathBuf)>, EmergencyError> {
    let places = PLACES.iter().map(Path::new);
    places
        .filter_map(|place| move_away(place).transpose())
        .collect()
}

fn move_away(place: &Path) -> Result<Option<(PathBuf, PathBuf)>, EmergencyError> {
    let path = place.join(NAME);
    let failed = |source| EmergencyError {
        path: path.clone(),
        source,
    };
    // Whatever it is: mfsmaster follows links.
    match path.symlink_metadata() {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    }
    // A name, not a decision: two of one nanosecond are refused by the rename.
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let stamp = now.map_or(0, |since| since.as_nanos());
    let aside = place.join(format!("mfs-ha-set-aside.{stamp}.{NAME}"));
    renameat_with(CWD, &path, CWD, &aside, RenameFlags::NOREPLACE)
        .map_err(io::Error::from)
        .map_err(failed)?;
    Ok(Some((path, aside)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_lies_there_is_renamed_and_not_changed() {
        let directory = tempfile::tempdir().unwrap();
        assert!(move_away(directory.path()).unwrap().is_none());
        fs::write(directory.path().join(NAME), "newer").unwrap();
        let (old, new) = move_away(directory.path()).unwrap().unwrap();
        assert!(!old.exists());
        assert_eq!(fs::read_to_string(&new).unwrap(), "newer");
        // mfsmaster looks for names that begin with this.
        let name = new.file_name().unwrap().to_str().unwrap();
        assert!(!name.starts_with("metadata"), "{name}");
        assert!(move_away(directory.path()).unwrap().is_none());
    }

    #[test]
    fn a_link_is_moved_too() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/nowhere", directory.path().join(NAME)).unwrap();
        assert!(move_away(directory.path()).unwrap().is_some());
    }
}
