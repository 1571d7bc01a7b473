//! What was lost, written down beside what is kept: the changelogs that tell it are soon rotated away.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::{Certainty, Lost, LostError, compare};
use crate::moosefs::layout::{Dir, Layout, StoreError, write_atomic};

/// The name of the file in an archive that says what was lost.
pub const LOST_FILE: &str = "lost.json";

/// Compares an archive with the live directory, and writes into the archive what was lost. What is known
/// exactly stays, and is not compared again; of two bounds the lower one stays.
///
/// # Errors
/// As of [`compare`](super::compare()); or `lost.json` cannot be read or written.
pub fn record(layout: &Layout, archive: &Path, cancel: &AtomicBool) -> Result<Lost, LostError> {
    let known = read(archive)?;
    if let Some(known) = known
        && known.certainty == Certainty::Exact
    {
        return Ok(known);
    }
    let found = compare(archive, layout.data(), cancel)?;
    if let Some(known) = known
        && !tells_more(&found, &known)
    {
        return Ok(known);
    }
    write(archive, &found)?;
    Ok(found)
}

/// Reads what was written down; `None` where that archive was not compared.
///
/// # Errors
/// It is there and cannot be read.
pub fn read(archive: &Path) -> Result<Option<Lost>, StoreError> {
    let path = archive.join(LOST_FILE);
    let content = match fs::read(&path) {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("read", &path)(error)),
    };
    match serde_json::from_slice(&content) {
        Ok(lost) => Ok(Some(lost)),
        Err(error) => Err(StoreError::Damaged {
            path,
            why: error.to_string(),
            remedy: "move it away; the archive then counts as not compared",
        }),
    }
}

fn tells_more(found: &Lost, known: &Lost) -> bool {
    match (found.certainty, known.certainty) {
        (Certainty::Exact, _) => true,
        (Certainty::AtMost, Certainty::AtMost) => found.changes < known.changes,
        (Certainty::AtMost, Certainty::Unknown) => true,
        (Certainty::AtMost | Certainty::Unknown, _) => false,
    }
}

/// The age of an archive, which the retention goes by, stays what it was.
fn write(archive: &Path, lost: &Lost) -> Result<(), StoreError> {
    let path = archive.join(LOST_FILE);
    let dir = Dir::open(archive)?;
    let modified = fs::metadata(archive)
        .and_then(|metadata| metadata.modified())
        .map_err(StoreError::io("look at", archive))?;
    let mut content = serde_json::to_vec(lost)
        .map_err(io::Error::from)
        .map_err(StoreError::io("write", &path))?;
    content.push(b'\n');
    let written = write_atomic(&path, &content);
    dir.set_modified(modified)?;
    written
}
