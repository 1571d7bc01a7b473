//! The header and the end of a metadata image.
//!
//! An image is complete when its last bytes are the end marker: mfsmaster and mfsmetalogger write them
//! last. What stands between header and marker is for mfsmaster to judge.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use serde::{Serialize, Serializer};

/// Signature of the images of MooseFS 2.0 to 3.0.
const SIGNATURE: &[u8; 8] = b"MFSM 2.0";
/// All that a file system has that never was started.
const SIGNATURE_NEW: &[u8; 8] = b"MFSM NEW";
/// What every signature of MooseFS begins with.
const SIGNATURE_PREFIX: &[u8; 5] = b"MFSM ";
const END_MARKER: &[u8; 16] = b"[MFS EOF MARKER]";
/// Signature, version, id.
const HEADER_BYTES: u64 = 24;

/// What an image says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Header {
    /// Number of the next change: the image has all changes below it.
    pub version: u64,
    /// The file system that it belongs to.
    #[serde(serialize_with = "serialize_id")]
    pub id: u64,
}

/// Why a file is not a usable image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Something else than a metadata image.
    #[error("not a metadata image: it begins with \"{0}\" where \"MFSM 2.0\" belongs")]
    NotAnImage(String),
    /// An image in a format of another MooseFS.
    #[error(
        "an image in the format \"{0}\"; mfs-ha knows \"MFSM 2.0\" of MooseFS 2.0 to 3.0: \
         start and stop the mfsmaster of this version on it by hand"
    )]
    UnknownFormat(String),
    /// `MFSM NEW`: a file system without any content and id.
    #[error("an empty file system (\"MFSM NEW\"), as before the first start of mfsmaster")]
    NewFileSystem,
    /// The end is missing.
    #[error("truncated: {bytes} bytes without the end marker of a complete image")]
    Truncated {
        /// The header, where it is complete.
        header: Option<Header>,
        /// Length of the file.
        bytes: u64,
    },
    /// It cannot be read.
    #[error("cannot be read")]
    Io(#[from] io::Error),
}

/// Reads header and end of the image at `path`.
///
/// # Errors
/// It is no complete image of a known format, or cannot be read.
pub fn read(path: &Path) -> Result<Header, ImageError> {
    read_file(&open(path)?)
}

/// The same, of an open file.
pub(super) fn read_file(file: &File) -> Result<Header, ImageError> {
    let bytes = file.metadata()?.len();
    let mut start = [0; 8];
    let known = usize::try_from(bytes).unwrap_or(usize::MAX);
    let start = start
        .get_mut(..known.min(SIGNATURE.len()))
        .unwrap_or_default();
    file.read_exact_at(start, 0)?;
    if start == SIGNATURE_NEW {
        return Err(ImageError::NewFileSystem);
    }
    if start != SIGNATURE {
        return Err(not_an_image(start, bytes));
    }
    if bytes < HEADER_BYTES {
        return Err(ImageError::Truncated {
            header: None,
            bytes,
        });
    }
    let header = Header {
        version: number_at(file, 8)?,
        id: number_at(file, 16)?,
    };
    let mut end = [0; END_MARKER.len()];
    let end_at = bytes.saturating_sub(END_MARKER.len() as u64);
    file.read_exact_at(&mut end, end_at)?;
    if end_at < HEADER_BYTES || &end != END_MARKER {
        return Err(ImageError::Truncated {
            header: Some(header),
            bytes,
        });
    }
    Ok(header)
}

/// Opens a metadata file: no symbolic link, and no waiting for the other end of a pipe.
pub(super) fn open(path: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path)
}

/// As `mfsmetadump` shows an id: as a JSON number it would lose digits in many readers.
pub(super) fn serialize_id<S: Serializer>(id: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("0x{id:016X}"))
}

fn not_an_image(start: &[u8], bytes: u64) -> ImageError {
    if SIGNATURE.starts_with(start) {
        return ImageError::Truncated {
            header: None,
            bytes,
        };
    }
    let shown = start.escape_ascii().to_string();
    if start.starts_with(SIGNATURE_PREFIX) {
        ImageError::UnknownFormat(shown)
    } else {
        ImageError::NotAnImage(shown)
    }
}

fn number_at(file: &File, offset: u64) -> io::Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(content: &[u8]) -> Result<Header, ImageError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metadata.mfs");
        std::fs::write(&path, content).unwrap();
        read(&path)
    }

    fn image() -> Vec<u8> {
        let mut image = SIGNATURE.to_vec();
        image.extend(642_u64.to_be_bytes());
        image.extend(0x6B03_E227_u64.to_be_bytes());
        image.extend(b"SESS 1.5 and more");
        image.extend(END_MARKER);
        image
    }

    #[test]
    fn a_complete_image_tells_its_version_and_id() {
        let header = Header {
            version: 642,
            id: 0x6B03_E227,
        };
        assert_eq!(judged(&image()).unwrap(), header);
    }

    #[test]
    fn an_image_cut_anywhere_is_truncated() {
        let image = image();
        for bytes in 0..image.len() {
            let error = judged(&image[..bytes]).unwrap_err();
            let ImageError::Truncated {
                header,
                bytes: length,
            } = error
            else {
                panic!("cut to {bytes} bytes: {error}");
            };
            assert_eq!(length, bytes as u64);
            assert_eq!(header.is_some(), bytes >= 24);
        }
    }

    #[test]
    fn other_files_are_told_apart() {
        assert!(matches!(
            judged(b"MFSM NEW"),
            Err(ImageError::NewFileSystem)
        ));
        for (content, expected) in [
            (
                b"MFSM 1.7and so on".as_slice(),
                "an image in the format \"MFSM 1.7\"",
            ),
            (
                b"hello, world",
                "not a metadata image: it begins with \"hello, w\"",
            ),
            (b"x", "not a metadata image: it begins with \"x\""),
        ] {
            let error = judged(content).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("metadata.mfs");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        assert!(matches!(read(&link), Err(ImageError::Io(_))));
    }
}
