//! Several changelogs as one history: by number, without holes, each change once.
//!
//! Each changelog ascends; the same change may stand in several of them. One line of each is held, and one
//! ahead of it.

use std::io::{self, BufRead};
use std::sync::atomic::{AtomicBool, Ordering};

use super::Line;
use super::source::{Change, Disorder, Source};

/// What became of a merge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Merged {
    /// Number of the change after the last one that follows without a hole.
    pub next: u64,
    /// Changes that were handed on.
    pub lines: u64,
    /// Why it ended before the end of the changelogs.
    pub obstacle: Option<Obstacle>,
    /// Files with damaged lines that nothing was lost by, and how many.
    pub damaged: Vec<(String, u64)>,
    /// The file system's ids that changes set, each with its file; at most two different ones.
    pub ids: Vec<(String, u64)>,
}

/// Why the history does not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// Changes are missing.
    Hole {
        /// The first that is missing.
        from: u64,
        /// The last that is missing.
        to: u64,
        /// The file with the change before; `None` where only the image has it.
        before: Option<String>,
        /// The file with the change after.
        after: String,
    },
    /// Two files have different changes with one number.
    Conflict {
        /// The number.
        number: u64,
        /// Where each of them stands.
        files: [String; 2],
    },
    /// The numbers of a file do not ascend.
    Disorder {
        /// The file.
        file: String,
        /// The number that is too low.
        number: u64,
        /// The one before it.
        after: u64,
    },
    /// A file ends with a damaged line, and no other file has its change.
    DamagedEnd {
        /// The file.
        file: String,
        /// The change that the line had, where that can be told.
        number: Option<u64>,
    },
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// A changelog cannot be read.
    #[error("cannot read {file}")]
    Read {
        /// Its name.
        file: String,
        /// The cause.
        source: io::Error,
    },
    /// A change cannot be handed on.
    #[error("cannot write the merged changelog")]
    Write(#[source] io::Error),
    /// Somebody no longer wants it.
    #[error("cancelled")]
    Cancelled,
}

/// Merges changelogs, given by name, from change `base` on and hands each change to `sink`.
///
/// # Errors
/// A file cannot be read, the sink fails, or `cancel` was set.
pub fn merge<R: BufRead>(
    files: Vec<(String, R)>,
    base: u64,
    cancel: &AtomicBool,
    sink: &mut dyn FnMut(&Line<'_>) -> io::Result<()>,
) -> Result<Merged, MergeError> {
    let mut merge = Merge {
        sources: files
            .into_iter()
            .map(|(name, reader)| Source::new(name, reader))
            .collect(),
        base,
        next: base,
        lines: 0,
        last: None,
        ids: Vec::new(),
    };
    let obstacle = merge.run(cancel, sink)?;
    Ok(merge.finish(obstacle))
}

struct Merge<R> {
    sources: Vec<Source<R>>,
    base: u64,
    next: u64,
    lines: u64,
    /// The last change, and the file that it came from; before the first one, the last that the image has.
    last: Option<(Vec<u8>, String)>,
    ids: Vec<(String, u64)>,
}

impl<R: BufRead> Merge<R> {
    fn run(
        &mut self,
        cancel: &AtomicBool,
        sink: &mut dyn FnMut(&Line<'_>) -> io::Result<()>,
    ) -> Result<Option<Obstacle>, MergeError> {
        for source in &mut self.sources {
            // Twice: one line ahead and one to begin with.
            advance(source)?;
            if let Some(disorder) = advance(source)? {
                return Ok(Some(disorder));
            }
        }
        loop {
            if cancel.load(Ordering::Relaxed) {
                return Err(MergeError::Cancelled);
            }
            let lowest = self
                .sources
                .iter_mut()
                .filter_map(|source| Some((source.current.as_ref()?.number, source)))
                .min_by_key(|(number, _)| *number);
            let Some((number, source)) = lowest else {
                return Ok(None);
            };
            if number > self.next {
                return Ok(Some(Obstacle::Hole {
                    from: self.next,
                    to: number.saturating_sub(1),
                    before: self.last.take().map(|(_, file)| file),
                    after: source.name.clone(),
                }));
            }
            let Some(change) = source.current.take() else {
                return Ok(None);
            };
            if number == self.next {
                sink(&change.line()).map_err(MergeError::Write)?;
                note_id(&mut self.ids, &source.name, &change);
                self.next = number.saturating_add(1);
                self.lines = self.lines.saturating_add(1);
                self.last = Some((change.text, source.name.clone()));
            } else if number.saturating_add(1) >= self.base {
                // A file with the last change that the image has must agree as well: it may be of another
                // history that happens to end there.
                match &self.last {
                    Some((text, file)) if *text != change.text => {
                        return Ok(Some(Obstacle::Conflict {
                            number,
                            files: [file.clone(), source.name.clone()],
                        }));
                    }
                    Some(_) => {}
                    None => self.last = Some((change.text, source.name.clone())),
                }
            }
            if let Some(disorder) = advance(source)? {
                return Ok(Some(disorder));
            }
        }
    }

    fn finish(self, obstacle: Option<Obstacle>) -> Merged {
        let damaged_end = self.sources.iter().find_map(|source| {
            let damage = source.damaged_end?;
            (!source.is_covered(damage, self.next)).then(|| Obstacle::DamagedEnd {
                file: source.name.clone(),
                number: damage.number,
            })
        });
        Merged {
            next: self.next,
            lines: self.lines,
            obstacle: obstacle.or(damaged_end),
            damaged: self
                .sources
                .into_iter()
                .filter(|source| source.damaged > 0)
                .map(|source| (source.name, source.damaged))
                .collect(),
            ids: self.ids,
        }
    }
}

fn advance<R: BufRead>(source: &mut Source<R>) -> Result<Option<Obstacle>, MergeError> {
    match source.advance() {
        Ok(disorder) => Ok(
            disorder.map(|Disorder { number, after }| Obstacle::Disorder {
                file: source.name.clone(),
                number,
                after,
            }),
        ),
        Err(error) => Err(MergeError::Read {
            file: source.name.clone(),
            source: error,
        }),
    }
}

fn note_id(ids: &mut Vec<(String, u64)>, file: &str, change: &Change) {
    if let Some(id) = change.line().metadata_id()
        && ids.len() < 2
        && ids.iter().all(|(_, known)| *known != id)
    {
        ids.push((file.to_owned(), id));
    }
}

#[cfg(test)]
mod tests;
