//! Several changelogs side by side: each change in the order of the numbers, one at a time.
//!
//! Unlike [`merge`](super::merge::merge) it goes on behind a hole, and shows both changes where two files
//! differ. One line of each file is held, and one ahead of it.

use std::io::{self, BufRead};

use super::Line;
use super::source::{Change, Disorder, Source};

/// Why a walk cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// A changelog cannot be read.
    #[error("cannot read {file}")]
    Read {
        /// Its name.
        file: String,
        /// The cause.
        source: io::Error,
    },
    /// The numbers of a file do not ascend.
    #[error("{file} has change {number} after change {after}: two histories in one file")]
    Disorder {
        /// The file.
        file: String,
        /// The number that is too low.
        number: u64,
        /// The one before it.
        after: u64,
    },
}

/// A walk through changelogs.
#[derive(Debug)]
pub struct Walk<R> {
    sources: Vec<Source<R>>,
    current: Option<Change>,
    conflict: Option<u64>,
    next: u64,
}

impl<R: BufRead> Walk<R> {
    /// Stands at the first change of these files, given by name.
    ///
    /// # Errors
    /// A file cannot be read, or its first numbers do not ascend.
    pub fn new(files: Vec<(String, R)>) -> Result<Self, WalkError> {
        let mut walk = Self {
            sources: files
                .into_iter()
                .map(|(name, reader)| Source::new(name, reader))
                .collect(),
            current: None,
            conflict: None,
            next: 0,
        };
        for source in &mut walk.sources {
            // Twice: one line ahead and one to begin with.
            advance(source)?;
            advance(source)?;
        }
        walk.advance()?;
        Ok(walk)
    }

    /// The change that it stands at; `None` behind the last one.
    pub fn current(&self) -> Option<Line<'_>> {
        self.current.as_ref().map(Change::line)
    }

    /// Goes on to the next change: one with a higher number, or another one with the same number.
    ///
    /// # Errors
    /// A file cannot be read, or its numbers do not ascend.
    pub fn advance(&mut self) -> Result<(), WalkError> {
        loop {
            let lowest = self
                .sources
                .iter_mut()
                .filter_map(|source| Some((source.current.as_ref()?.number, source)))
                .min_by_key(|(number, _)| *number);
            let Some((number, source)) = lowest else {
                self.current = None;
                return Ok(());
            };
            let change = source.current.take();
            advance(source)?;
            let before = self.current.as_ref().zip(change.as_ref());
            if before.is_some_and(|(before, change)| {
                (before.number, &before.text) == (change.number, &change.text)
            }) {
                continue;
            }
            if number < self.next {
                self.conflict = self.conflict.or(Some(number));
            }
            self.next = number.saturating_add(1);
            self.current = change;
            return Ok(());
        }
    }

    /// Number after the last change that it stood at.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The first number with different changes.
    pub fn conflict(&self) -> Option<u64> {
        self.conflict
    }

    /// Behind the last change: number after those that damaged lines at the ends of the files can have had,
    /// where no other file has them.
    pub fn damaged_to(&self) -> Option<u64> {
        self.sources
            .iter()
            .filter_map(|source| source.damaged_end_to(self.next))
            .max()
    }
}

fn advance<R: BufRead>(source: &mut Source<R>) -> Result<(), WalkError> {
    match source.advance() {
        Ok(None) => Ok(()),
        Ok(Some(Disorder { number, after })) => Err(WalkError::Disorder {
            file: source.name.clone(),
            number,
            after,
        }),
        Err(error) => Err(WalkError::Read {
            file: source.name.clone(),
            source: error,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walked(files: &[&str]) -> (Vec<String>, Walk<&'static [u8]>) {
        let files = files
            .iter()
            .enumerate()
            .map(|(index, content)| {
                let content: &'static str = content.to_string().leak();
                (format!("f{index}"), content.as_bytes())
            })
            .collect();
        let mut walk = Walk::new(files).unwrap();
        let mut seen = Vec::new();
        while let Some(line) = walk.current() {
            seen.push(format!("{}{}", line.number, line.text.escape_ascii()));
            walk.advance().unwrap();
        }
        (seen, walk)
    }

    #[test]
    fn files_that_overlap_are_one_walk_over_their_holes() {
        let files = ["2: 1|A()\n3: 1|B()\n9: 1|E()\n", "", "3: 1|B()\n4: 1|C()\n"];
        let (seen, walk) = walked(&files);
        assert_eq!(seen, ["21|A()", "31|B()", "41|C()", "91|E()"]);
        assert_eq!((walk.next(), walk.conflict()), (10, None));
        assert_eq!(walk.damaged_to(), None);
        assert_eq!(walked(&[]).0, Vec::<String>::new());
    }

    #[test]
    fn different_changes_with_one_number_are_all_shown() {
        let files = ["2: 1|A()\n3: 1|B()\n4: 1|C()\n", "3: 1|X()\n4: 1|Y()\n"];
        let (seen, walk) = walked(&files);
        assert_eq!(seen, ["21|A()", "31|B()", "31|X()", "41|C()", "41|Y()"]);
        assert_eq!((walk.next(), walk.conflict()), (5, Some(3)));
    }

    #[test]
    fn a_damaged_end_tells_what_it_can_have_had() {
        for (file, to) in [
            ("2: 1|A()\n3: 1|B\n", Some(4)),
            ("2: 1|A()\n3: 1|B4: 1|C()\n", Some(5)),
            // Digits of the line that was cut may stand before the number.
            ("2: 1|A()\n3: 1|B34: 1|C()\n", Some(5)),
            ("2: 1|A()\nrubbish\n", Some(4)),
            ("2: 1|A()\n3: 1|B", None),
            ("2: 1|A()\n3: 1|B\n4: 1|C()\n", None),
        ] {
            assert_eq!(walked(&[file]).1.damaged_to(), to, "{file}");
        }
        let covered = ["2: 1|A()\n3: 1|B\n", "3: 1|B()\n4: 1|C()\n"];
        assert_eq!(walked(&covered).1.damaged_to(), None);
    }

    #[test]
    fn numbers_that_fall_end_the_walk() {
        for content in [
            "5: 1|A()\n6: 1|B()\n4: 1|C()\n",
            "5: 1|A()\n6: 1|B()\n7: 1|B()\n4: 1|C()\n",
        ] {
            let walk = Walk::new(vec![("f0".to_owned(), content.as_bytes())]);
            let error = match walk {
                Ok(mut walk) => loop {
                    if let Err(error) = walk.advance() {
                        break error;
                    }
                },
                Err(error) => error,
            };
            assert!(
                matches!(error, WalkError::Disorder { number: 4, .. }),
                "{error}"
            );
        }
    }
}
