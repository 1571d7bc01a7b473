//! Two histories side by side, to where they part.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::history::{History, broken};
use super::{Certainty, Lost, LostError};
use crate::moosefs::changelog::Line;
use crate::moosefs::changelog::tail::Section;
use crate::moosefs::changelog::walk::Walk;

type Changes = Walk<BufReader<Section<File>>>;

/// Compares what `archive` has with what `live` has, into which everything was downloaded. A program may write
/// in `live`; what comes later is not looked at.
///
/// # Errors
/// A directory cannot be read, they are of different file systems, `live` is not complete or of two
/// histories, or `cancel` was set.
pub fn compare(archive: &Path, live: &Path, cancel: &AtomicBool) -> Result<Lost, LostError> {
    let extent = History::open(archive, u64::MAX)?;
    let live_history = History::open(live, extent.first.unwrap_or(0))?;
    if live_history.image.is_none() {
        return Err(LostError::NoImage {
            path: live.to_owned(),
        });
    }
    if let (Some(one), Some(other)) = (extent.id, live_history.id)
        && one != other
    {
        return Err(LostError::DifferentIds {
            path: archive.to_owned(),
            ids: [one, other],
        });
    }
    // What is below all that the live one has cannot be compared; the last change is there in any case.
    let last = extent.reaches().saturating_sub(1);
    let from = live_history.first.unwrap_or(u64::MAX).min(last);
    let mut live = Live {
        path: live,
        reaches: live_history.reaches(),
        changes: live_history.walk()?,
    };
    let mut archived = History::open(archive, from)?.walk()?;
    let mut tally = Tally {
        next: extent.first,
        ..Tally::default()
    };
    while let Some(line) = archived.current() {
        if cancel.load(Ordering::Relaxed) {
            return Err(LostError::Cancelled);
        }
        let found = match tally.parted {
            None => live.find(&line, cancel)?,
            Some(_) => Found::Missing,
        };
        tally.add(&line, found);
        archived.advance().map_err(broken(archive))?;
    }
    let live_reaches = live.finish(cancel, archived.next())?;
    let damaged_to = archived.damaged_to();
    tally.is_sure &= archived.conflict().is_none() && damaged_to.is_none();
    let reaches = extent
        .reaches()
        .max(archived.next())
        .max(damaged_to.unwrap_or_default());
    tally.end(reaches, live_reaches);
    Ok(tally.lost(reaches, live_reaches, damaged_to.is_some()))
}

/// What the live directory says of an archived change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// It has it.
    Same,
    /// It has another one with this number, or none at all.
    Missing,
    /// It has only an image of later.
    Unknown,
}

struct Live<'p> {
    path: &'p Path,
    reaches: u64,
    changes: Changes,
}

impl Live<'_> {
    fn find(&mut self, line: &Line<'_>, cancel: &AtomicBool) -> Result<Found, LostError> {
        self.go_to(line.number, cancel)?;
        let found = match self.changes.current() {
            Some(change) if change == *line => return Ok(Found::Same),
            Some(change) if change.number == line.number => Found::Missing,
            None if line.number >= self.end() => Found::Missing,
            Some(_) | None => Found::Unknown,
        };
        // Another change with the same number comes right behind.
        if found == Found::Missing {
            self.go_to(line.number.saturating_add(1), cancel)?;
        }
        Ok(found)
    }

    /// Goes to the change with this number, or to the next one where there is none.
    fn go_to(&mut self, number: u64, cancel: &AtomicBool) -> Result<(), LostError> {
        while self
            .changes
            .current()
            .is_some_and(|change| change.number < number)
        {
            if cancel.load(Ordering::Relaxed) {
                return Err(LostError::Cancelled);
            }
            self.changes.advance().map_err(broken(self.path))?;
        }
        match self.changes.conflict() {
            Some(number) => Err(LostError::Mixed {
                path: self.path.to_owned(),
                number,
            }),
            None => Ok(()),
        }
    }

    /// Behind the last change: number after all that the directory can have.
    fn end(&self) -> u64 {
        let damaged_to = self.changes.damaged_to().unwrap_or_default();
        self.reaches.max(self.changes.next()).max(damaged_to)
    }

    /// Looks at what has the last archived number as well; then how far the directory reaches.
    fn finish(&mut self, cancel: &AtomicBool, next: u64) -> Result<u64, LostError> {
        self.go_to(next, cancel)?;
        Ok(self.reaches.max(self.changes.next()))
    }
}

/// A change: its number, and its time where it is known.
type Place = (u64, Option<u64>);

/// What the archived changes so far come to.
struct Tally {
    /// Number after the last one; at first, that of the lowest one that there is.
    next: Option<u64>,
    has_lines: bool,
    has_equal: bool,
    /// The first one since the last equal one of which nothing is known.
    unknown: Option<Place>,
    /// The first one that the live history does not have.
    parted: Option<Place>,
    last_unix_s: Option<u64>,
    is_sure: bool,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            next: None,
            has_lines: false,
            has_equal: false,
            unknown: None,
            parted: None,
            last_unix_s: None,
            is_sure: true,
        }
    }
}

impl Tally {
    fn add(&mut self, line: &Line<'_>, found: Found) {
        let place = (line.number, line.unix_s());
        let missing = self.next.filter(|next| *next < line.number);
        match self.parted {
            Some(_) => self.is_sure &= missing.is_none(),
            None => {
                let is_beginning = self.has_equal || line.number <= 1;
                if let Some(missing) = missing {
                    self.unknown.get_or_insert((missing, None));
                }
                match found {
                    Found::Same => {
                        self.has_equal = true;
                        self.unknown = None;
                    }
                    Found::Missing => {
                        self.parted = Some(place);
                        // Nothing before it is known to be the same.
                        if !is_beginning {
                            self.unknown.get_or_insert(place);
                        }
                    }
                    Found::Unknown => {
                        self.unknown.get_or_insert(place);
                    }
                }
            }
        }
        self.has_lines = true;
        self.last_unix_s = line.unix_s();
        self.next = Some(line.number.saturating_add(1));
    }

    /// What an image or a damaged line has behind the last change.
    fn end(&mut self, reaches: u64, live_reaches: u64) {
        let Some(next) = self.next.filter(|next| *next < reaches) else {
            return;
        };
        self.last_unix_s = None;
        if self.parted.is_some() {
            return;
        }
        if next >= live_reaches {
            self.parted = Some((next, None));
        } else {
            self.unknown.get_or_insert((next, None));
        }
    }

    fn lost(self, reaches: u64, live_reaches: u64, is_damaged: bool) -> Lost {
        let (from, certainty) = match (self.unknown, self.parted) {
            (Some(unknown), _) => (Some(unknown), Certainty::AtMost),
            (None, Some(parted)) if self.is_sure => (Some(parted), Certainty::Exact),
            (None, Some(parted)) => (Some(parted), Certainty::AtMost),
            (None, None) if self.has_lines => (None, Certainty::Exact),
            // An empty file system has no changes.
            (None, None) if reaches <= 1 && !is_damaged => (None, Certainty::Exact),
            (None, None) => (None, Certainty::Unknown),
        };
        Lost {
            reaches,
            live_reaches,
            parted_at: from.map(|(number, _)| number),
            changes: from.map_or(0, |(number, _)| reaches.saturating_sub(number)),
            certainty,
            first_unix_s: from.and_then(|(_, unix_s)| unix_s),
            last_unix_s: from.and(self.last_unix_s),
        }
    }
}
