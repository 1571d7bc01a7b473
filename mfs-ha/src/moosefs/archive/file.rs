//! Compresses one file in its place, in such an order that its content is always there.
//!
//! Temporary file, synced, decoded again and compared byte by byte; then renamed; only then is the
//! plain file removed. A crash leaves the plain file, both, or the compressed one.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::FileType;

use super::super::layout::{Dir, StoreError, is_metadata_file};

/// How a compressed file is named: `metadata.mfs.back.zst`.
const SUFFIX: &str = ".zst";
/// A file that was not finished; written over the next time.
const TEMPORARY_SUFFIX: &str = ".zst.tmp";

/// The library's own default: an eighth of the size for a changelog, at disk speed.
const LEVEL: i32 = 3;

/// How much is worked on between two looks at the cancel flag.
const BLOCK_BYTES: usize = 128 * 1024;

/// Below this nothing is saved: a file takes a block of the file system in any case.
const SIZE_MIN_BYTES: i64 = 4096;

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is compressed.
    Compressed,
    /// It is not a file to be compressed.
    Passed,
    /// There was no time to finish.
    Cancelled,
}

/// Compresses a metadata file of an archive.
///
/// A file with more than one link is passed over: compressing it frees nothing, and a metalogger may
/// still append to it under its other name.
pub(super) fn compress(dir: &Dir, name: &str, cancel: &AtomicBool) -> Result<Outcome, StoreError> {
    let is_ours = is_metadata_file(OsStr::new(name));
    if !is_ours || name.ends_with(SUFFIX) || name.ends_with(TEMPORARY_SUFFIX) {
        return Ok(Outcome::Passed);
    }
    let Some(stat) = dir.stat(name)? else {
        return Ok(Outcome::Passed);
    };
    let is_file = FileType::from_raw_mode(stat.st_mode).is_file();
    if !is_file || stat.st_nlink != 1 || stat.st_size < SIZE_MIN_BYTES {
        return Ok(Outcome::Passed);
    }
    let path = dir.join(name);
    let plain = open(&path)?;
    let before = plain.metadata().map_err(StoreError::io("look at", &path))?;
    let packed_name = format!("{name}{SUFFIX}");
    if !dir.has(&packed_name)? {
        let temporary = format!("{name}{TEMPORARY_SUFFIX}");
        let packed = pack(&plain, &before, &dir.join(&temporary), cancel).and_then(|outcome| {
            if outcome == Outcome::Compressed {
                dir.move_as(&temporary, dir, &packed_name)?;
                dir.sync()?;
            }
            Ok(outcome)
        });
        if !matches!(packed, Ok(Outcome::Compressed)) {
            drop(fs::remove_file(dir.join(&temporary)));
            return packed;
        }
    }
    // Also for the one that a crash left beside the plain file.
    if !is_equal(&dir.join(&packed_name), &path, cancel)? {
        return match cancel.load(Ordering::Relaxed) {
            true => Ok(Outcome::Cancelled),
            false => Err(StoreError::Taken {
                path: dir.join(&packed_name),
            }),
        };
    }
    refuse_changed(&before, &path)?;
    fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
    dir.sync()?;
    Ok(Outcome::Compressed)
}

fn open(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(path)
        .map_err(StoreError::io("open", path))
}

fn pack(
    plain: &File,
    metadata: &Metadata,
    to: &Path,
    cancel: &AtomicBool,
) -> Result<Outcome, StoreError> {
    let failed = |error| StoreError::io("write", to)(error);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(to)
        .map_err(failed)?;
    let mut encoder = zstd::stream::write::Encoder::new(file, LEVEL).map_err(failed)?;
    encoder.include_checksum(true).map_err(failed)?;
    let mut plain = plain;
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Ok(Outcome::Cancelled);
        }
        let length = fill(&mut plain, &mut block).map_err(failed)?;
        let piece = block.get(..length).unwrap_or_default();
        encoder.write_all(piece).map_err(failed)?;
        if length < block.len() {
            break;
        }
    }
    let file = encoder.finish().map_err(failed)?;
    file.set_permissions(metadata.permissions())
        .map_err(failed)?;
    if let Ok(modified) = metadata.modified() {
        file.set_modified(modified).map_err(failed)?;
    }
    // Last: what is another user's needs more privileges to change.
    fchown(&file, Some(metadata.uid()), Some(metadata.gid())).map_err(failed)?;
    file.sync_all().map_err(failed)?;
    Ok(Outcome::Compressed)
}

/// Decodes the compressed file and compares it with the plain one; false also when cancelled.
fn is_equal(packed: &Path, plain: &Path, cancel: &AtomicBool) -> Result<bool, StoreError> {
    let failed = |error| StoreError::io("read back", packed)(error);
    let mut decoder = zstd::stream::read::Decoder::new(open(packed)?).map_err(failed)?;
    let mut plain_file = open(plain)?;
    let mut decoded = vec![0; BLOCK_BYTES];
    let mut original = vec![0; BLOCK_BYTES];
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let length = match fill(&mut decoder, &mut decoded) {
            Ok(length) => length,
            // What a crash left may be anything.
            Err(error) if error.kind() != ErrorKind::OutOfMemory => return Ok(false),
            Err(error) => return Err(failed(error)),
        };
        let wanted = fill(&mut plain_file, &mut original).map_err(StoreError::io("read", plain))?;
        if decoded.get(..length) != original.get(..wanted) {
            return Ok(false);
        }
        if length < decoded.len() {
            return Ok(true);
        }
    }
}

/// Reads until the block is full or the end is reached.
fn fill(from: &mut impl Read, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn refuse_changed(before: &Metadata, path: &Path) -> Result<(), StoreError> {
    let now = fs::symlink_metadata(path).map_err(StoreError::io("look at", path))?;
    let key = |metadata: &Metadata| {
        (
            metadata.ino(),
            metadata.len(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.nlink(),
        )
    };
    if key(before) == key(&now) {
        return Ok(());
    }
    Err(StoreError::Changing {
        path: path.to_owned(),
    })
}
