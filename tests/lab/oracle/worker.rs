//! The body of the client's process: threads that write and read until they are killed.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::record::{Outcome, Record, Role, content, digest, monotonic_ns, next_random};

/// Between two operations of one worker: the load shall neither fill the disk nor drown the judges.
const PAUSE: Duration = Duration::from_millis(40);
/// After a failed call, and while there is nothing to read yet.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Files of 1 to 16 KiB: a failover is about metadata.
const FILE_BYTES_MAX: u64 = 16 * 1024;
/// More than an hour's work; a scenario that is longer is a mistake.
const FILES_MAX: usize = 1_000_000;

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Work {
    /// A directory of the file system
    #[arg(long)]
    pub directory: PathBuf,
    /// Where to append a line for each operation; outside of the file system
    #[arg(long)]
    pub log: PathBuf,
    /// How many threads make files
    #[arg(long)]
    pub writers: usize,
    /// How many threads read files
    #[arg(long)]
    pub readers: usize,
}

/// A file that was acknowledged.
#[derive(Clone, Debug)]
struct Acknowledged {
    name: String,
    sha1: String,
}

struct Shared<'a> {
    work: &'a Work,
    log: File,
    acknowledged: Mutex<Vec<Acknowledged>>,
}

/// Works until killed.
///
/// # Errors
/// When the log cannot be written; failing operations are logged and not fatal.
pub fn run(work: &Work) -> Result<()> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&work.log)
        .with_context(|| format!("open {}", work.log.display()))?;
    let shared = &Shared {
        work,
        log,
        acknowledged: Mutex::new(Vec::new()),
    };
    let (ended, first_end) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        for worker in 0..work.writers {
            let ended = ended.clone();
            scope.spawn(move || ended.send(shared.write_files(worker)));
        }
        for worker in 0..work.readers {
            let ended = ended.clone();
            scope.spawn(move || ended.send(shared.read_files(worker)));
        }
        // The others may hang in the mount: the process ends without them.
        if let Ok(Err(error)) = first_end.recv() {
            report_and_exit(&error);
        }
    });
    bail!("the workers ended")
}

#[expect(
    clippy::print_stderr,
    reason = "the process's log is its standard error"
)]
fn report_and_exit(error: &anyhow::Error) -> ! {
    eprintln!("{error:#}");
    std::process::exit(1)
}

impl Shared<'_> {
    fn write_files(&self, worker: usize) -> Result<()> {
        let run = std::process::id();
        let mut dice = u64::from(run) + u64::try_from(worker).unwrap_or(0);
        for number in 0..FILES_MAX {
            let name = format!("{run}-{worker}-{number}");
            let length = 1 + next_random(&mut dice) % FILE_BYTES_MAX;
            let bytes = content(&name, usize::try_from(length).unwrap_or(1));
            let start_ns = monotonic_ns()?;
            let outcome = match self.write_file(&name, &bytes) {
                Ok(()) => Outcome::Written(digest(&bytes)),
                Err(error) => Outcome::Failed(error.to_string()),
            };
            let end_ns = monotonic_ns()?;
            let pause = match &outcome {
                Outcome::Written(sha1) => {
                    let file = Acknowledged {
                        name: name.clone(),
                        sha1: sha1.clone(),
                    };
                    self.lock().push(file);
                    PAUSE
                }
                Outcome::Right | Outcome::Missing | Outcome::Wrong | Outcome::Failed(_) => {
                    RETRY_PAUSE
                }
            };
            self.note(&Record {
                role: Role::Writer,
                worker,
                name,
                start_ns,
                end_ns,
                outcome,
            })?;
            thread::sleep(pause);
        }
        bail!("more than {FILES_MAX} files")
    }

    fn write_file(&self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        let path = self.work.directory.join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        // Dropping would hide what close(2) says.
        nix::unistd::close(file).map_err(std::io::Error::from)
    }

    fn read_files(&self, worker: usize) -> Result<()> {
        let mut dice = u64::try_from(worker).unwrap_or(0);
        loop {
            let Some(file) = self.pick(&mut dice) else {
                thread::sleep(RETRY_PAUSE);
                continue;
            };
            let start_ns = monotonic_ns()?;
            let outcome = look(&self.work.directory.join(&file.name), &file.sha1);
            let end_ns = monotonic_ns()?;
            let pause = if outcome == Outcome::Right {
                PAUSE
            } else {
                RETRY_PAUSE
            };
            self.note(&Record {
                role: Role::Reader,
                worker,
                name: file.name,
                start_ns,
                end_ns,
                outcome,
            })?;
            thread::sleep(pause);
        }
    }

    fn pick(&self, dice: &mut u64) -> Option<Acknowledged> {
        let files = self.lock();
        let count = u64::try_from(files.len()).ok().filter(|count| *count > 0)?;
        let index = usize::try_from(next_random(dice) % count).ok()?;
        files.get(index).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Acknowledged>> {
        self.acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a line in one call, so that lines of threads do not mix.
    fn note(&self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_string(record).context("write a record as JSON")?;
        line.push('\n');
        (&self.log)
            .write_all(line.as_bytes())
            .with_context(|| format!("append to {}", self.work.log.display()))
    }
}

/// Reads a file and compares it with what was acknowledged.
pub fn look(path: &std::path::Path, sha1: &str) -> Outcome {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)) {
        Ok(_) if digest(&bytes) == sha1 => Outcome::Right,
        Ok(_) => Outcome::Wrong,
        Err(error) if error.kind() == ErrorKind::NotFound => Outcome::Missing,
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_tells_right_wrong_missing_and_failed_apart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        assert_eq!(look(&path, &digest(b"a")), Outcome::Missing);
        std::fs::write(&path, "a").unwrap();
        assert_eq!(look(&path, &digest(b"a")), Outcome::Right);
        assert_eq!(look(&path, &digest(b"b")), Outcome::Wrong);
        assert!(matches!(look(directory.path(), "x"), Outcome::Failed(_)));
    }
}
