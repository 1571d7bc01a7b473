//! Which changes of a file system lie in a directory, and whether they can be of one history.
//!
//! Two masters that both went on have two histories: the same numbers, and different changes behind them. Files of
//! MooseFS, as its programs write them, and never through mfs-ha.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirEntry, File};
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};

/// What an image begins with: eight bytes of signature, the number of the next change.
const IMAGE_HEADER: usize = 16;
const SIGNATURE: &[u8] = b"MFSM ";
/// How often directories are looked at: far more often than a metalogger writes, which is once a second.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The metadata files of one directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Texts of changes by their number.
    changes: BTreeMap<u64, BTreeSet<String>>,
    /// The number of the change that an image would need next, of the newest image.
    image: Option<u64>,
}

impl Held {
    /// Reads a directory, not those below it. What vanishes meanwhile or is not yet whole does not count.
    ///
    /// # Errors
    /// When something there cannot be read, or is compressed.
    pub fn read(directory: &Path) -> Result<Self> {
        let mut held = Self::default();
        for entry in entries(directory)? {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let is_compressed = Path::new(&*name)
                .extension()
                .is_some_and(|end| end == "zst");
            ensure!(!is_compressed, "{} is compressed", entry.path().display());
            let taken = if name.starts_with("changelog") {
                held.take_changelog(&entry.path())
            } else if name.starts_with("metadata") {
                held.take_image(&entry.path())
            } else {
                Ok(())
            };
            match taken {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("read {}", entry.path().display()));
                }
                _ => {}
            }
        }
        Ok(held)
    }

    /// The number of the last change that is written down.
    pub fn last(&self) -> Option<u64> {
        self.changes.keys().next_back().copied()
    }

    fn take_changelog(&mut self, path: &Path) -> io::Result<()> {
        let text = fs::read(path)?;
        let text = String::from_utf8_lossy(&text);
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines() {
            if let Some((number, change)) = line.split_once(':')
                && let Ok(number) = number.trim().parse()
            {
                let texts = self.changes.entry(number).or_default();
                texts.insert(change.trim().to_owned());
            }
        }
        Ok(())
    }

    fn take_image(&mut self, path: &Path) -> io::Result<()> {
        let mut header = Vec::new();
        let limit = u64::try_from(IMAGE_HEADER).map_err(io::Error::other)?;
        File::open(path)?.take(limit).read_to_end(&mut header)?;
        if header.starts_with(SIGNATURE)
            && let Some(version) = header.last_chunk::<8>()
            && header.len() == IMAGE_HEADER
        {
            self.image = self.image.max(Some(u64::from_be_bytes(*version)));
        }
        Ok(())
    }
}

/// Where two histories part.
#[derive(Clone, Debug)]
pub struct Parting {
    /// The number of the first change that differs.
    pub from: u64,
    old: BTreeMap<u64, String>,
    new: BTreeMap<u64, String>,
}

/// Of which histories a directory holds changes that the other one does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sides {
    /// Of the master that gave way.
    pub old: bool,
    /// Of its successor.
    pub new: bool,
}

impl Parting {
    /// Compares what a former master wrote down with what its successor did; none while nothing differs.
    pub fn between(old: &Held, new: &Held) -> Option<Self> {
        let only = |held: &Held| -> BTreeMap<u64, String> {
            let changes = held.changes.iter();
            changes
                .filter_map(|(number, texts)| Some((*number, texts.first()?.clone())))
                .collect()
        };
        let (mut old, mut new) = (only(old), only(new));
        let differs = |number: &&u64| new.get(number).is_some_and(|text| old[number] != *text);
        let from = *old.keys().find(differs)?;
        let (old, new) = (old.split_off(&from), new.split_off(&from));
        Some(Self { from, old, new })
    }

    /// How many changes the former master made that its successor does not have.
    pub fn old_changes(&self) -> usize {
        self.old.len()
    }

    /// How many of these a directory holds.
    pub fn old_changes_in(&self, held: &Held) -> usize {
        let is_held = |(number, text): &(&u64, &String)| {
            let texts = held.changes.get(number);
            texts.is_some_and(|texts| texts.contains(*text))
        };
        self.old.iter().filter(is_held).count()
    }

    /// Whether the successor's history is the longer one: only then would a metalogger of the former master go on
    /// with it, as if nothing had happened.
    pub fn is_overtaken(&self) -> bool {
        self.new.keys().next_back() > self.old.keys().next_back()
    }

    fn is_mixed(&self, directory: &Path) -> Result<bool> {
        let sides = self.sides(&Held::read(directory)?);
        Ok(sides.old && sides.new)
    }

    /// Whose changes are there. An image that reaches beyond the parting is the successor's: the former master made
    /// none after it.
    pub fn sides(&self, held: &Held) -> Sides {
        let has = |of: &BTreeMap<u64, String>, other: &BTreeMap<u64, String>| {
            let changes = held.changes.range(self.from..);
            let mut texts =
                changes.flat_map(|(number, texts)| texts.iter().map(move |text| (number, text)));
            texts.any(|(number, text)| {
                of.get(number) == Some(text) && other.get(number) != Some(text)
            })
        };
        // What came after both were read is the successor's: the former master makes no more.
        let last_known = self.old.keys().chain(self.new.keys()).max();
        let is_later = held.last().as_ref() > last_known;
        Sides {
            old: has(&self.old, &self.new),
            new: has(&self.new, &self.old)
                || is_later
                || held.image.is_some_and(|next| next > self.from),
        }
    }
}

/// All directories at and below a path that hold metadata, with what they hold.
///
/// # Errors
/// As [`Held::read`].
pub fn read_below(root: &Path) -> Result<Vec<(PathBuf, Held)>> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in entries(&directory)? {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                waiting.push(entry.path());
            }
        }
        let held = Held::read(&directory)?;
        if held != Held::default() {
            found.push((directory, held));
        }
    }
    Ok(found)
}

/// The entries of a directory; none where it has just gone.
fn entries(directory: &Path) -> Result<Vec<DirEntry>> {
    let listed = fs::read_dir(directory).and_then(Iterator::collect);
    match listed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        other => other.with_context(|| format!("list {}", directory.display())),
    }
}

/// Looks at directories again and again until it is asked what it saw. A mix that comes and goes between two looks is
/// missed: files that were moved aside are to be looked at in the end ([`read_below`]).
#[derive(Debug)]
pub struct HistoryWatch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Seen>>>,
}

/// What a watch saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// How often all directories were looked at.
    pub looks: usize,
    /// Directories that held changes of both histories at once.
    pub mixed: BTreeSet<PathBuf>,
}

impl HistoryWatch {
    /// Starts to look.
    pub fn start(directories: Vec<PathBuf>, parting: Parting) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut seen = Seen::default();
            while !is_over.load(Ordering::Relaxed) {
                for directory in &directories {
                    // A look is not one moment: files may have been exchanged in between.
                    if parting.is_mixed(directory)? && parting.is_mixed(directory)? {
                        seen.mixed.insert(directory.clone());
                    }
                }
                seen.looks += 1;
                thread::sleep(LOOK_INTERVAL);
            }
            Ok(seen)
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// When a directory could not be read.
    pub fn finish(mut self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the watch was ended before")?;
        thread
            .join()
            .map_err(|_panic| anyhow!("the watch of directories panicked"))?
    }
}

impl Drop for HistoryWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "7: 100|A\n8: 100|B\n9: 101|OLD\n10: 101|OLD2\n";
    const NEW: &str = "8: 100|B\n9: 102|NEW\n10: 102|NEW2\n11: 102|NEW3\n";

    fn held(files: &[(&str, &[u8])]) -> Held {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(directory.path().join(name), content).unwrap();
        }
        Held::read(directory.path()).unwrap()
    }

    fn changelog(text: &str) -> Held {
        held(&[("changelog_ml.0.mfs", text.as_bytes())])
    }

    fn parting() -> Parting {
        Parting::between(&changelog(OLD), &changelog(NEW)).unwrap()
    }

    fn sides(files: &[(&str, &[u8])]) -> (bool, bool) {
        let sides = parting().sides(&held(files));
        (sides.old, sides.new)
    }

    fn image(next: u64) -> Vec<u8> {
        [b"MFSM 2.0".as_slice(), &next.to_be_bytes(), b"the rest"].concat()
    }

    #[test]
    fn histories_part_at_the_first_change_that_differs() {
        let parting = parting();
        assert_eq!(parting.from, 9);
        assert_eq!(parting.old_changes(), 2);
        assert_eq!(
            parting.old_changes_in(&changelog("8: 100|B\n9: 101|OLD\n")),
            1
        );
        assert_eq!(parting.old_changes_in(&changelog(NEW)), 0);
        assert!(parting.is_overtaken());
        let back = Parting::between(&changelog(NEW), &changelog(OLD)).unwrap();
        assert!(!back.is_overtaken());
        assert!(Parting::between(&changelog(OLD), &changelog("7: 100|A\n")).is_none());
    }

    #[test]
    fn a_directory_of_one_history_is_on_one_side() {
        assert_eq!(sides(&[("changelog.0.mfs", OLD.as_bytes())]), (true, false));
        assert_eq!(sides(&[("changelog.0.mfs", NEW.as_bytes())]), (false, true));
        assert_eq!(sides(&[("changelog.0.mfs", b"7: 100|A\n")]), (false, false));
        assert_eq!(
            sides(&[("metadata_ml.mfs.back", &image(9))]),
            (false, false)
        );
        assert_eq!(
            sides(&[("metadata_ml.mfs.back", &image(10))]),
            (false, true)
        );
    }

    #[test]
    fn both_histories_in_one_directory_are_found_however_they_came_there() {
        let streams = format!("{OLD}11: 102|NEW3\n");
        let later = format!("{OLD}12: 103|NEW4\n");
        for text in [streams, later] {
            let both = sides(&[("changelog_ml.0.mfs", text.as_bytes())]);
            assert_eq!(both, (true, true), "{text}");
        }
        let files = [
            ("changelog.0.mfs", OLD.as_bytes()),
            ("changelog_ml.0.mfs", NEW.as_bytes()),
        ];
        assert_eq!(sides(&files), (true, true));
        let files = [
            ("changelog_ml.1.mfs", OLD.as_bytes()),
            ("metadata_ml.mfs.back", &image(12)),
        ];
        assert_eq!(sides(&files), (true, true));
    }

    #[test]
    fn half_a_line_and_other_files_are_no_changes() {
        assert_eq!(
            sides(&[("changelog_ml.0.mfs", b"9: 101|OLD")]),
            (false, false)
        );
        assert_eq!(sides(&[("sessions.mfs", OLD.as_bytes())]), (false, false));
        let compressed = tempfile::tempdir().unwrap();
        fs::write(compressed.path().join("changelog.0.mfs.zst"), "").unwrap();
        assert!(Held::read(compressed.path()).is_err());
    }

    #[test]
    fn directories_below_are_looked_at_one_by_one() {
        let root = tempfile::tempdir().unwrap();
        let below = root.path().join("mfs-ha/archive/1");
        fs::create_dir_all(&below).unwrap();
        fs::write(root.path().join("changelog.0.mfs"), NEW).unwrap();
        fs::write(below.join("changelog.0.mfs"), OLD).unwrap();
        let all = read_below(root.path()).unwrap();
        let sides: Vec<Sides> = all.iter().map(|(_, held)| parting().sides(held)).collect();
        assert_eq!(sides.len(), 2);
        assert!(sides.iter().all(|sides| sides.old != sides.new));
    }

    #[test]
    fn a_watch_sees_what_was_mixed_for_a_while() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        let file = path.join("changelog.0.mfs");
        fs::write(&file, format!("{OLD}{NEW}")).unwrap();
        let watch = HistoryWatch::start(vec![path.clone()], parting());
        crate::wait::observe_for(5 * LOOK_INTERVAL).unwrap();
        fs::remove_file(&file).unwrap();
        let seen = watch.finish().unwrap();
        assert!(seen.looks > 0);
        assert_eq!(seen.mixed, BTreeSet::from([path]));
    }
}
