//! The changes that a directory has: which images and changelogs, from where to where.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::LostError;
use crate::moosefs::changelog::tail::{Edge, Ends, Section, ends};
use crate::moosefs::changelog::walk::{Walk, WalkError};
use crate::moosefs::directory::{CHANGELOGS_OPEN_MAX, Kind, Mark, classify, list};
use crate::moosefs::image::{self, ImageError};
use crate::moosefs::snapshot::LENGTHS_FILE;

/// A rotation renames files within milliseconds; so often it cannot come in a row.
const ATTEMPTS_MAX: u32 = 5;

/// Images and changelogs of a directory. A program may write there meanwhile.
#[derive(Debug)]
pub(super) struct History {
    path: PathBuf,
    /// Next change of the newest image that is complete; 1 for an empty file system.
    pub(super) image: Option<u64>,
    /// Next change of a newer image that is not complete.
    truncated: Option<u64>,
    /// Of the file system.
    pub(super) id: Option<u64>,
    /// Number of the lowest change that stands in a changelog.
    pub(super) first: Option<u64>,
    /// Number after the last change of the changelogs, as far as their ends tell.
    last: Option<u64>,
    held: Vec<(String, File, u64)>,
}

impl History {
    /// Looks at `path`, and holds the changelogs open that reach `from`.
    pub(super) fn open(path: &Path, from: u64) -> Result<Self, LostError> {
        for _ in 0..ATTEMPTS_MAX {
            let before = list(path)?;
            let Some(history) = Self::open_once(path, &before, from)? else {
                continue;
            };
            let after = list(path)?;
            let is_same = before.len() == after.len()
                && before
                    .iter()
                    .zip(&after)
                    .all(|(one, other)| (&one.name, one.inode) == (&other.name, other.inode));
            if is_same {
                return Ok(history);
            }
        }
        Err(LostError::Unsettled {
            path: path.to_owned(),
        })
    }

    /// Number of the next change: all below it were made, as far as this directory tells.
    pub(super) fn reaches(&self) -> u64 {
        let known = [self.image, self.truncated, self.last];
        known.into_iter().flatten().max().unwrap_or(1)
    }

    /// The changelogs that are held.
    pub(super) fn walk(self) -> Result<Walk<BufReader<Section<File>>>, LostError> {
        let files = self
            .held
            .into_iter()
            .map(|(name, file, bytes)| (name, BufReader::new(Section::new(file, 0, bytes))))
            .collect();
        Walk::new(files).map_err(broken(&self.path))
    }

    /// `None` if a file went meanwhile.
    fn open_once(path: &Path, marks: &[Mark], from: u64) -> Result<Option<Self>, LostError> {
        let lengths = lengths(path);
        let mut history = Self {
            path: path.to_owned(),
            image: None,
            truncated: None,
            id: None,
            first: None,
            last: None,
            held: Vec::new(),
        };
        for mark in marks {
            let kind = match classify(&mark.name) {
                Some((_, kind @ (Kind::Image | Kind::Changelog))) => kind,
                Some((_, Kind::Other(_))) if is_packed(&mark.name) => {
                    return Err(LostError::Packed {
                        path: path.join(&mark.name),
                    });
                }
                Some((_, Kind::Other(_))) | None => continue,
            };
            let failed = |source| LostError::Read {
                path: path.join(&mark.name),
                source,
            };
            let opened =
                image::open(&path.join(&mark.name)).and_then(|file| Ok((file.metadata()?, file)));
            let (metadata, file) = match opened {
                Ok(opened) => opened,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(failed(error)),
            };
            if (metadata.dev(), metadata.ino()) != mark.inode {
                return Ok(None);
            }
            if kind == Kind::Image {
                history.add_image(&file, &mark.name)?;
                continue;
            }
            let known = lengths.get(&mark.name).copied();
            let bytes = metadata.len().min(known.unwrap_or(u64::MAX));
            let ends = ends(&file, bytes).map_err(failed)?;
            history.add_changelog(&mark.name, file, bytes, ends, from)?;
        }
        Ok(Some(history))
    }

    fn add_image(&mut self, file: &File, name: &str) -> Result<(), LostError> {
        match image::read_file(file) {
            Ok(header) => {
                if self.image.is_none_or(|best| best <= header.version) {
                    self.image = Some(header.version);
                }
                self.add_id(header.id)
            }
            Err(ImageError::NewFileSystem) => {
                self.image = self.image.or(Some(1));
                Ok(())
            }
            Err(ImageError::Truncated { header, .. }) => {
                self.truncated = self.truncated.max(header.map(|header| header.version));
                Ok(())
            }
            Err(ImageError::Io(source)) => Err(LostError::Read {
                path: self.path.join(name),
                source,
            }),
            Err(ImageError::NotAnImage(_) | ImageError::UnknownFormat(_)) => Ok(()),
        }
    }

    fn add_changelog(
        &mut self,
        name: &str,
        file: File,
        bytes: u64,
        ends: Ends,
        from: u64,
    ) -> Result<(), LostError> {
        if let Some(id) = ends.id {
            self.add_id(id)?;
        }
        // Where a line is damaged, only reading all tells.
        let first = match ends.first {
            Edge::Nothing => return Ok(()),
            Edge::Number(first) => Some(first),
            Edge::Damaged => None,
        };
        let last = ends.last.number();
        self.first = match (self.first, first) {
            (Some(known), Some(first)) => Some(known.min(first)),
            (known, first) => known.or(first),
        };
        self.last = self.last.max(last.map(|last| last.saturating_add(1)));
        if last.is_none_or(|last| last >= from) {
            self.held.push((name.to_owned(), file, bytes));
        }
        if self.held.len() > CHANGELOGS_OPEN_MAX {
            return Err(LostError::TooManyFiles {
                path: self.path.clone(),
            });
        }
        Ok(())
    }

    fn add_id(&mut self, id: u64) -> Result<(), LostError> {
        let known = *self.id.get_or_insert(id);
        if known == id {
            return Ok(());
        }
        Err(LostError::DifferentIds {
            path: self.path.clone(),
            ids: [known, id],
        })
    }
}

/// For `map_err`: names the directory.
pub(super) fn broken(path: &Path) -> impl Fn(WalkError) -> LostError {
    move |source| LostError::Changelogs {
        path: path.to_owned(),
        source,
    }
}

fn is_packed(name: &str) -> bool {
    let plain = name.strip_suffix(".zst").and_then(classify);
    matches!(plain, Some((_, Kind::Image | Kind::Changelog)))
}

/// How long the files of a snapshot were when it was made; of others nothing.
fn lengths(path: &Path) -> BTreeMap<String, u64> {
    let lengths = fs::read(path.join(LENGTHS_FILE)).ok();
    lengths
        .and_then(|lengths| serde_json::from_slice(&lengths).ok())
        .unwrap_or_default()
}
