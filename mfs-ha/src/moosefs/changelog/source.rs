//! One changelog among several that are read together: ascending, damaged lines left out.

use std::io::{self, BufRead};

use super::{Damage, Line, Lines, Piece};

/// One changelog: a line, and the one ahead of it.
#[derive(Debug)]
pub(super) struct Source<R> {
    pub(super) name: String,
    lines: Lines<R>,
    pub(super) current: Option<Change>,
    ahead: Option<Change>,
    /// Number of the last line that was right.
    last: Option<u64>,
    pub(super) damaged: u64,
    /// The damage of a line that no right one follows.
    pub(super) damaged_end: Option<Damage>,
}

/// A change that is held.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) number: u64,
    pub(super) text: Vec<u8>,
}

impl Change {
    pub(super) fn line(&self) -> Line<'_> {
        Line {
            number: self.number,
            text: &self.text,
        }
    }
}

/// A number that is not higher than the one before it in the same file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Disorder {
    pub(super) number: u64,
    pub(super) after: u64,
}

impl<R: BufRead> Source<R> {
    pub(super) fn new(name: String, reader: R) -> Self {
        Self {
            name,
            lines: Lines::new(reader),
            current: None,
            ahead: None,
            last: None,
            damaged: 0,
            damaged_end: None,
        }
    }

    /// Goes one line on.
    pub(super) fn advance(&mut self) -> io::Result<Option<Disorder>> {
        loop {
            self.current = self.ahead.take();
            self.read_ahead()?;
            let Some(current) = &self.current else {
                return Ok(None);
            };
            let last = self.last;
            match &self.ahead {
                // A line cut within its number has the next one's digits behind its own: it is too high alone.
                Some(ahead)
                    if ahead.number < current.number
                        && last.is_none_or(|last| last < ahead.number) =>
                {
                    self.damaged = self.damaged.saturating_add(1);
                }
                Some(ahead) if ahead.number < current.number => {
                    return Ok(Some(Disorder {
                        number: ahead.number,
                        after: current.number,
                    }));
                }
                Some(_) | None => {
                    self.last = Some(current.number);
                    return Ok(None);
                }
            }
        }
    }

    /// Whether other files have the changes of a damaged line at the end of this one.
    pub(super) fn is_covered(&self, damage: Damage, next: u64) -> bool {
        let is_below = |number: u64| number < next;
        let follows = self.last.map(|last| last.saturating_add(1));
        (damage.number.is_some() || follows.is_some())
            && damage.number.is_none_or(is_below)
            && follows.is_none_or(is_below)
    }

    /// Number after the changes that a damaged line at the end can have had, where other files do not have
    /// them. Two lines can have run into one, and each damaged line has had a change at least.
    pub(super) fn damaged_end_to(&self, next: u64) -> Option<u64> {
        let damage = self
            .damaged_end
            .filter(|damage| !self.is_covered(*damage, next))?;
        let follows = self.last.map_or(next, |last| last.saturating_add(1));
        let highest = follows.saturating_add(1);
        let number = damage
            .number
            .map_or(follows, |number| number.clamp(follows, highest));
        Some(number.saturating_add(1))
    }

    fn read_ahead(&mut self) -> io::Result<()> {
        loop {
            match self.lines.next_piece()? {
                Some(Piece::Line(line)) => {
                    self.damaged_end = None;
                    self.ahead = Some(Change {
                        number: line.number,
                        text: line.text.to_vec(),
                    });
                    return Ok(());
                }
                Some(Piece::Damaged(damage)) => {
                    self.damaged = self.damaged.saturating_add(1);
                    self.damaged_end = Some(damage);
                }
                Some(Piece::Partial(_)) | None => return Ok(()),
            }
        }
    }
}
