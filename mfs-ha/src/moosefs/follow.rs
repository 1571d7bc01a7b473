//! The same as [`inspect`](super::directory::inspect) again and again, reading only what was appended.
//!
//! A program that runs appends to one changelog. Anything else that changes is read from the beginning: a
//! rotation, another image, a file that got shorter, a change that does not follow. MooseFS never writes over
//! what a changelog has: it appends, or puts another file in its place.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use super::changelog::tail::{Section, ends};
use super::changelog::{Lines, Piece};
use super::directory::{
    Content, DirectoryError, Inspection, Kind, Mark, Opened, ProblemKind, classify, list,
    partial_line, sort,
};
use super::image;

/// What mfsmaster appends to.
const PRESENT_CHANGELOG: &str = "changelog.0.mfs";

/// Follows one directory.
#[derive(Debug)]
pub struct Follower {
    dir: PathBuf,
    known: Option<Known>,
    full_reads: u64,
}

impl Follower {
    /// Looks at nothing yet.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            known: None,
            full_reads: 0,
        }
    }

    /// Brings the inspection up to date. Blocks on the disk.
    ///
    /// # Errors
    /// As [`inspect`](super::directory::inspect)'s; the next time all is read.
    pub fn refresh(&mut self) -> Result<&Inspection, DirectoryError> {
        let caught_up = match self.known.take() {
            Some(known) => known.catch_up(&self.dir, list(&self.dir)?),
            None => None,
        };
        let known = match caught_up {
            Some(known) => known,
            None => {
                self.full_reads = self.full_reads.saturating_add(1);
                Known::read(&self.dir)?
            }
        };
        Ok(&self.known.insert(known).inspection)
    }

    /// How often everything was read.
    pub fn full_reads(&self) -> u64 {
        self.full_reads
    }
}

/// Returns the number of the next change of the mfsmaster that runs on the directory, as far as its present
/// changelog tells. `None` right after that was begun.
///
/// # Errors
/// It cannot be read.
pub fn served_version(dir: &Path) -> io::Result<Option<u64>> {
    let file = File::open(dir.join(PRESENT_CHANGELOG))?;
    let ends = ends(&file, file.metadata()?.len())?;
    Ok(ends.last.number().map(|last| last.saturating_add(1)))
}

/// What was found, and the state of the files then.
#[derive(Debug)]
struct Known {
    inspection: Inspection,
    marks: Vec<Mark>,
}

/// What a changelog has.
#[derive(Debug, Clone, Copy)]
struct Extent {
    bytes: u64,
    first: Option<u64>,
    last: Option<u64>,
    partial: u64,
}

impl Known {
    fn read(dir: &Path) -> Result<Self, DirectoryError> {
        let survey = Opened::open(dir)?.survey(&AtomicBool::new(false), &mut |_| Ok(()))?;
        Ok(Self {
            inspection: survey.inspection,
            marks: survey.marks,
        })
    }

    /// `None` where all has to be read.
    fn catch_up(mut self, dir: &Path, marks: Vec<Mark>) -> Option<Self> {
        if self.marks.len() != marks.len() {
            return None;
        }
        let mut grown = None;
        for (old, new) in self.marks.iter().zip(&marks) {
            let (_, kind) = classify(&new.name)?;
            match kind {
                _ if old == new => {}
                // What is not used may change as it likes.
                Kind::Other(_) if old.name == new.name => {}
                Kind::Changelog if is_grown(old, new) && grown.is_none() => grown = Some(new),
                Kind::Image | Kind::Changelog | Kind::Other(_) => return None,
            }
        }
        if let Some(grown) = grown {
            // One that went or cannot be read is judged when all is read.
            let file = image::open(&dir.join(&grown.name)).ok()?;
            let extent = self.extent(&grown.name)?;
            let extent = if self.inspection.readiness().is_ok() {
                self.append(&file, grown, extent).ok()??
            } else {
                self.lengthen(&file, grown, extent).ok()??
            };
            self.set_extent(&grown.name, extent);
        }
        for (finding, mark) in self.inspection.files.iter_mut().zip(&marks) {
            finding.bytes = mark.bytes;
        }
        self.marks = marks;
        Some(self)
    }

    /// Takes in what was appended, if those changes follow the ones that are known.
    fn append(
        &mut self,
        file: &File,
        mark: &Mark,
        mut extent: Extent,
    ) -> io::Result<Option<Extent>> {
        let Some(freshness) = &mut self.inspection.freshness else {
            return Ok(None);
        };
        let from = extent.bytes.saturating_sub(extent.partial);
        let mut lines = Lines::new(BufReader::new(Section::new(file, from, mark.bytes)));
        extent.partial = 0;
        extent.bytes = mark.bytes;
        while let Some(piece) = lines.next_piece()? {
            match piece {
                Piece::Line(line)
                    if line.number == freshness.version && line.metadata_id().is_none() =>
                {
                    freshness.version = line.number.saturating_add(1);
                    self.inspection.lines = self.inspection.lines.saturating_add(1);
                    // Where a damaged line is the first one, it stays so.
                    if from == 0 {
                        extent.first = extent.first.or(Some(line.number));
                    }
                    extent.last = Some(line.number);
                }
                Piece::Partial(bytes) => extent.partial = bytes,
                Piece::Line(_) | Piece::Damaged(_) => return Ok(None),
            }
        }
        Ok(Some(extent))
    }

    /// Behind a place where the history does not go on, changes make nothing better: only their number is
    /// noted.
    fn lengthen(&self, file: &File, mark: &Mark, extent: Extent) -> io::Result<Option<Extent>> {
        let highest = self
            .inspection
            .files
            .iter()
            .filter_map(|file| file.content.last());
        let is_highest = extent.last.is_some() && extent.last == highest.max();
        let is_stuck = self.inspection.problems.iter().any(|problem| {
            problem.blocks
                && matches!(
                    problem.kind,
                    ProblemKind::Hole
                        | ProblemKind::Conflict
                        | ProblemKind::Disorder
                        | ProblemKind::NoImage
                )
        });
        if !is_stuck || !is_highest {
            return Ok(None);
        }
        let ends = ends(file, mark.bytes)?;
        let is_higher = ends.last.number() >= extent.last;
        Ok(is_higher.then_some(Extent {
            bytes: mark.bytes,
            first: ends.first.number(),
            last: ends.last.number(),
            partial: ends.partial,
        }))
    }

    fn extent(&self, name: &str) -> Option<Extent> {
        let finding = self
            .inspection
            .files
            .iter()
            .find(|file| file.name == name)?;
        let Content::Changelog {
            first,
            last,
            partial,
        } = finding.content
        else {
            return None;
        };
        Some(Extent {
            bytes: finding.bytes,
            first,
            last,
            partial,
        })
    }

    fn set_extent(&mut self, name: &str, extent: Extent) {
        let files = &mut self.inspection.files;
        if let Some(finding) = files.iter_mut().find(|file| file.name == name) {
            finding.content = Content::Changelog {
                first: extent.first,
                last: extent.last,
                partial: extent.partial,
            };
        }
        let problems = &mut self.inspection.problems;
        problems.retain(|problem| {
            problem.kind != ProblemKind::PartialLine || problem.file.as_deref() != Some(name)
        });
        if extent.partial > 0 {
            problems.push(partial_line(name, extent.partial));
            sort(problems);
        }
    }
}

fn is_grown(old: &Mark, new: &Mark) -> bool {
    (&old.name, old.inode) == (&new.name, new.inode) && old.bytes < new.bytes
}

#[cfg(test)]
mod tests;
