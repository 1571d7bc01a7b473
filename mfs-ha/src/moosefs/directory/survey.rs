//! Reads all metadata files of a directory, of which some may be renamed or written meanwhile.

use std::fs::{self, File, Metadata};
use std::io::{self, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::judge::judge;
use super::{
    CHANGELOGS_OPEN_MAX, Content, DirectoryError, FILES_MAX, Family, FileFinding, Inspection, Kind,
    Problem, ProblemKind, classify,
};
use crate::moosefs::changelog::Line;
use crate::moosefs::changelog::merge::{Merged, merge};
use crate::moosefs::changelog::tail::{Edge, Section, ends};
use crate::moosefs::image::{self, Header, ImageError};

/// A rotation renames files within milliseconds; so often it cannot come in a row.
const ATTEMPTS_MAX: u32 = 5;

/// What tells a file from another one, and from itself after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) name: String,
    pub(crate) inode: (u64, u64),
    pub(crate) bytes: u64,
    pub(crate) modified: (i64, i64),
}

impl Mark {
    fn new(name: String, metadata: &Metadata) -> Self {
        Self {
            name,
            inode: (metadata.dev(), metadata.ino()),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// The metadata files of a directory, by name.
pub(crate) fn list(dir: &Path) -> Result<Vec<Mark>, DirectoryError> {
    let failed = |source| DirectoryError::Read {
        path: dir.to_owned(),
        source,
    };
    let mut marks = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if classify(&name).is_none() {
            continue;
        }
        match entry.metadata() {
            Ok(metadata) => marks.push(Mark::new(name, &metadata)),
            // It went meanwhile; the next listing tells.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        if marks.len() > FILES_MAX {
            return Err(DirectoryError::TooManyFiles {
                path: dir.to_owned(),
                what: "metadata files",
                max: FILES_MAX,
            });
        }
    }
    marks.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(marks)
}

/// The image that counts.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) name: String,
    pub(crate) file: File,
    /// `None`: the image of nothing.
    pub(crate) header: Option<Header>,
}

impl Chosen {
    /// Number of the first change that it does not have.
    pub(super) fn base(&self) -> u64 {
        self.header.map_or(1, |header| header.version)
    }
}

/// The files of a directory that belong together, held open.
#[derive(Debug)]
pub(crate) struct Opened {
    dir: PathBuf,
    files: Vec<FileFinding>,
    marks: Vec<Mark>,
    problems: Vec<Problem>,
    image: Option<Chosen>,
    /// Changelogs with changes that the image does not have, and how far each is read.
    changelogs: Vec<(String, File, u64)>,
    /// Ids that first lines give.
    ids: Vec<(String, u64)>,
}

/// What was found, and what it was found in.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) inspection: Inspection,
    pub(crate) marks: Vec<Mark>,
    pub(crate) image: Option<Chosen>,
}

impl Opened {
    /// Opens what counts, again if files changed their names meanwhile.
    pub(crate) fn open(dir: &Path) -> Result<Self, DirectoryError> {
        for _ in 0..ATTEMPTS_MAX {
            let before = list(dir)?;
            let Some(opened) = Self::open_once(dir, &before)? else {
                continue;
            };
            let after = list(dir)?;
            let is_same = before.len() == after.len()
                && before
                    .iter()
                    .zip(&after)
                    .all(|(one, other)| one.name == other.name && one.inode == other.inode);
            if is_same {
                return Ok(opened);
            }
        }
        Err(DirectoryError::Unsettled {
            path: dir.to_owned(),
            attempts: ATTEMPTS_MAX,
        })
    }

    /// Goes through the changelogs, handing each change that the image does not have to `sink`.
    pub(crate) fn survey(
        self,
        cancel: &AtomicBool,
        sink: &mut dyn FnMut(&Line<'_>) -> io::Result<()>,
    ) -> Result<Survey, DirectoryError> {
        let merged = match &self.image {
            Some(image) => {
                let sources = self
                    .changelogs
                    .into_iter()
                    .map(|(name, file, bytes)| (name, BufReader::new(Section::new(file, 0, bytes))))
                    .collect();
                merge(sources, image.base(), cancel, sink).map_err(|source| {
                    DirectoryError::Merge {
                        path: self.dir.clone(),
                        source,
                    }
                })?
            }
            None => Merged::default(),
        };
        let inspection = judge(
            self.files,
            self.problems,
            self.image.as_ref(),
            self.ids,
            &merged,
        );
        Ok(Survey {
            inspection,
            marks: self.marks,
            image: self.image,
        })
    }

    /// `None` if a file went meanwhile.
    fn open_once(dir: &Path, marks: &[Mark]) -> Result<Option<Self>, DirectoryError> {
        let mut opened = Self {
            dir: dir.to_owned(),
            files: Vec::new(),
            marks: Vec::new(),
            problems: Vec::new(),
            image: None,
            changelogs: Vec::new(),
            ids: Vec::new(),
        };
        // Images first: which changelogs count depends on them.
        for pass in [Kind::Image, Kind::Changelog] {
            for mark in marks {
                let Some((family, kind)) = classify(&mark.name) else {
                    continue;
                };
                match kind {
                    Kind::Other(reason) if pass == Kind::Image => {
                        opened.ignore(mark.clone(), family, reason.to_owned());
                    }
                    Kind::Image | Kind::Changelog if kind == pass => {
                        if !opened.add(mark, family, kind)? {
                            return Ok(None);
                        }
                    }
                    Kind::Image | Kind::Changelog | Kind::Other(_) => {}
                }
            }
        }
        opened.files.sort_by(|one, other| one.name.cmp(&other.name));
        opened.marks.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Some(opened))
    }

    /// Whether the file is still there.
    fn add(&mut self, mark: &Mark, family: Family, kind: Kind) -> Result<bool, DirectoryError> {
        let path = self.dir.join(&mark.name);
        let opened = image::open(&path).and_then(|file| Ok((file.metadata()?, file)));
        let (metadata, file) = match opened {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => {
                let is_link = error.raw_os_error() == Some(nix::libc::ELOOP);
                let why = if is_link {
                    "it is a symbolic link".to_owned()
                } else {
                    error.to_string()
                };
                self.refuse(mark.clone(), family, &why);
                return Ok(true);
            }
        };
        let listed = mark.inode;
        let mark = Mark::new(mark.name.clone(), &metadata);
        if mark.inode != listed {
            return Ok(false);
        }
        if !metadata.is_file() {
            self.refuse(mark, family, "it is not a plain file");
            return Ok(true);
        }
        let content = if kind == Kind::Image {
            self.add_image(&mark, file)
        } else {
            self.add_changelog(&mark, file)?
        };
        self.find(mark, family, content);
        Ok(true)
    }

    fn add_image(&mut self, mark: &Mark, file: File) -> Content {
        let (header, content) = match image::read_file(&file) {
            Ok(header) => (Some(header), Content::Image(header)),
            Err(ImageError::NewFileSystem) => (None, Content::EmptyImage),
            Err(error) => {
                let header = if let ImageError::Truncated { header, .. } = &error {
                    *header
                } else {
                    None
                };
                if let ImageError::UnknownFormat(_) | ImageError::Io(_) = error {
                    self.problems.push(unusable(&mark.name, &error));
                }
                let reason = crate::error::chain(&error);
                return Content::UnusableImage { header, reason };
            }
        };
        let candidate = Chosen {
            name: mark.name.clone(),
            file,
            header,
        };
        // The image of nothing has version 1 as one that has nothing but its id; the latter tells more.
        let rank = |chosen: &Chosen| (chosen.base(), chosen.header.is_some());
        if self
            .image
            .as_ref()
            .is_none_or(|best| rank(best) < rank(&candidate))
        {
            self.image = Some(candidate);
        }
        content
    }

    fn add_changelog(&mut self, mark: &Mark, file: File) -> Result<Content, DirectoryError> {
        let ends = match ends(&file, mark.bytes) {
            Ok(ends) => ends,
            Err(error) => {
                self.problems
                    .push(unreadable(&mark.name, &error.to_string()));
                return Ok(Content::Ignored {
                    reason: format!("cannot be read: {error}"),
                });
            }
        };
        if let Some(id) = ends.id {
            self.ids.push((mark.name.clone(), id));
        }
        if ends.partial > 0 {
            self.problems.push(partial_line(&mark.name, ends.partial));
        }
        let base = self.image.as_ref().map(Chosen::base);
        let counts = match ends.last {
            Edge::Nothing => false,
            // The last change that the image has must be the same everywhere.
            Edge::Number(last) => base.is_some_and(|base| last.saturating_add(1) >= base),
            Edge::Damaged => base.is_some(),
        };
        if counts {
            self.changelogs.push((mark.name.clone(), file, mark.bytes));
        }
        if self.changelogs.len() > CHANGELOGS_OPEN_MAX {
            return Err(DirectoryError::TooManyFiles {
                path: self.dir.clone(),
                what: "changelogs that the image does not cover",
                max: CHANGELOGS_OPEN_MAX,
            });
        }
        Ok(Content::Changelog {
            first: ends.first.number(),
            last: ends.last.number(),
            partial: ends.partial,
        })
    }

    fn ignore(&mut self, mark: Mark, family: Family, reason: String) {
        self.find(mark, family, Content::Ignored { reason });
    }

    fn refuse(&mut self, mark: Mark, family: Family, why: &str) {
        self.problems.push(unreadable(&mark.name, why));
        self.ignore(mark, family, why.to_owned());
    }

    fn find(&mut self, mark: Mark, family: Family, content: Content) {
        self.files.push(FileFinding {
            name: mark.name.clone(),
            family,
            bytes: mark.bytes,
            content,
        });
        self.marks.push(mark);
    }
}

/// Also for [`Follower`](crate::moosefs::follow::Follower).
pub(crate) fn partial_line(file: &str, bytes: u64) -> Problem {
    Problem {
        kind: ProblemKind::PartialLine,
        file: Some(file.to_owned()),
        what: format!("the last line of {file} is not complete ({bytes} bytes without line feed)"),
        remedy: "nothing while its program runs; otherwise the line is left out".to_owned(),
        blocks: false,
    }
}

fn unreadable(file: &str, why: &str) -> Problem {
    Problem {
        kind: ProblemKind::Unreadable,
        file: Some(file.to_owned()),
        what: format!("{file} cannot be used: {why}"),
        remedy: format!("make {file} a readable plain file, or move it away if it is not needed"),
        blocks: true,
    }
}

fn unusable(file: &str, error: &ImageError) -> Problem {
    let kind = if matches!(error, ImageError::Io(_)) {
        ProblemKind::Unreadable
    } else {
        ProblemKind::UnknownFormat
    };
    Problem {
        kind,
        file: Some(file.to_owned()),
        what: format!("{file}: {}", crate::error::chain(error)),
        remedy: format!("move {file} away if it does not belong to this file system"),
        blocks: true,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::moosefs::directory::inspect;

    /// What mfsmetalogger does each hour, over and over: no hole may be seen, whatever the moment.
    #[test]
    fn a_rotation_meanwhile_makes_no_hole() {
        const KEPT: u64 = 3;
        let directory = tempfile::tempdir().unwrap();
        let path = |name: String| directory.path().join(name);
        let changelog = |index: u64| path(format!("changelog_ml.{index}.mfs"));
        let write = |index: u64, from: u64| {
            let log = (from..from + 10).fold(String::new(), |mut log, number| {
                writeln!(log, "{number}: 1|A()").unwrap();
                log
            });
            fs::write(changelog(index), log).unwrap();
        };
        let save = |version: u64| {
            let mut image = b"MFSM 2.0".to_vec();
            image.extend(version.to_be_bytes());
            image.extend(7_u64.to_be_bytes());
            image.extend(b"[MFS EOF MARKER]");
            fs::write(path("metadata_ml.tmp".to_owned()), image).unwrap();
            let name = path("metadata_ml.mfs.back".to_owned());
            fs::rename(path("metadata_ml.tmp".to_owned()), name).unwrap();
        };
        save(1);
        write(0, 1);
        let has_ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 1..300 {
                    // The image has what goes from the last changelog.
                    save((round * 10 + 1_u64).saturating_sub(10 * KEPT).max(1));
                    for index in (0..KEPT).rev() {
                        if changelog(index).exists() {
                            fs::rename(changelog(index), changelog(index + 1)).unwrap();
                        }
                    }
                    write(0, round * 10 + 1);
                }
                has_ended.store(true, Ordering::Relaxed);
            });
            let mut reached = 0;
            let mut is_last = false;
            while !is_last {
                is_last = has_ended.load(Ordering::Relaxed);
                match inspect(directory.path()) {
                    Ok(inspection) => {
                        let freshness = inspection.readiness().unwrap();
                        assert!(freshness.version + 10 > reached, "{inspection:?}");
                        reached = reached.max(freshness.version);
                    }
                    Err(DirectoryError::Unsettled { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            assert_eq!(reached, 3001);
        });
    }

    #[test]
    fn more_files_than_moosefs_keeps_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let changelog = |index: usize| directory.path().join(format!("changelog.{index}.mfs"));
        for index in 0..=FILES_MAX {
            fs::write(changelog(index), "").unwrap();
        }
        let error = inspect(directory.path()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("more than 4096 metadata files")
        );
        // One for the image.
        fs::remove_file(changelog(0)).unwrap();
        fs::remove_file(changelog(FILES_MAX)).unwrap();
        inspect(directory.path()).unwrap();
        for index in 1..=CHANGELOGS_OPEN_MAX + 1 {
            fs::write(changelog(index), "1: 1|SETMETAID(7)\n").unwrap();
        }
        // Without an image nothing is opened for long.
        inspect(directory.path()).unwrap();
        fs::write(directory.path().join("metadata.mfs"), "MFSM NEW").unwrap();
        let error = inspect(directory.path()).unwrap_err();
        assert!(
            error.to_string().starts_with("more than 256 changelogs"),
            "{error}"
        );
    }
}
