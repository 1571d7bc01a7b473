//! One daemon per instance: a lock on `<run_dir>/<instance>.lock` that ends with its process.
//!
//! The file stays when the daemon ends: removing it would let two daemons lock two different files
//! of the same name. The process id in it is for messages only; the lock is what counts.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// A `check` holds the lock for an instant to see whether it is free.
const ATTEMPTS_MAX: u32 = 10;
const ATTEMPT_INTERVAL: Duration = Duration::from_millis(20);

/// More than the digits of any process id.
const PID_BYTES_MAX: u64 = 32;

/// Why the instance was not locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon has it.
    #[error(
        "instance {instance} is already running{} (lock {})",
        pid.map_or_else(String::new, |pid| format!(" as process {pid}")),
        path.display()
    )]
    Held {
        /// The instance.
        instance: String,
        /// The lock file.
        path: PathBuf,
        /// The process in the lock file, when it holds one.
        pid: Option<u32>,
    },
    /// The directory cannot be made or looked at.
    #[error("cannot use the directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `run_dir` is something else.
    #[error("{} is not a directory", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// Somebody else could exchange the lock and the control socket.
    #[error(
        "the directory {0} has mode {mode:04o}, so others can write to it: chmod 0755 {0}, or \
         choose another `run_dir`",
        path.display()
    )]
    Writable {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The lock file cannot be opened, locked or written.
    #[error("cannot lock {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The lock of a running instance; released when dropped and when the process ends.
#[derive(Debug)]
pub struct InstanceLock {
    file: Flock<File>,
    path: PathBuf,
}

impl InstanceLock {
    /// Locks the instance; makes `run_dir` (mode 0755) when it is missing.
    ///
    /// Blocks up to 180 ms when the lock is held, so that a `check` that looks at it at the same
    /// moment does not keep a daemon from starting.
    ///
    /// # Errors
    /// [`LockError::Held`] when the instance runs already; the others when it cannot be told.
    pub fn acquire(run_dir: &Path, instance: &str) -> Result<Self, LockError> {
        ensure_directory(run_dir)?;
        let path = lock_path(run_dir, instance);
        let failed = |source| LockError::Lock {
            path: path.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&path)
            .map_err(failed)?;
        let mut attempt = 1;
        let mut locked = loop {
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(locked) => break locked,
                Err((returned, Errno::EWOULDBLOCK)) if attempt < ATTEMPTS_MAX => file = returned,
                Err((returned, Errno::EWOULDBLOCK)) => {
                    let pid = read_pid(&returned);
                    return Err(LockError::Held {
                        instance: instance.to_owned(),
                        path,
                        pid,
                    });
                }
                Err((_, errno)) => return Err(failed(errno.into())),
            }
            attempt += 1;
            std::thread::sleep(ATTEMPT_INTERVAL);
        };
        locked.set_len(0).map_err(failed)?;
        writeln!(locked, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { file: locked, path })
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the lock file is still the one that was locked: nobody removed or exchanged it.
    pub fn is_in_place(&self) -> bool {
        match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(ours), Ok(there)) => (ours.dev(), ours.ino()) == (there.dev(), there.ino()),
            (Ok(_) | Err(_), Ok(_) | Err(_)) => false,
        }
    }
}

/// What a look at the lock of an instance shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// No daemon runs.
    Nobody,
    /// A daemon runs; its process id, when the lock file holds one.
    Process(Option<u32>),
}

/// Looks whether a daemon of the instance runs, without making anything.
///
/// # Errors
/// When the lock file exists and cannot be opened or tried.
pub fn holder(run_dir: &Path, instance: &str) -> io::Result<Holder> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(lock_path(run_dir, instance));
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Holder::Nobody),
        Err(error) => return Err(error),
    };
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(Holder::Nobody),
        Err((file, Errno::EWOULDBLOCK)) => Ok(Holder::Process(read_pid(&file))),
        Err((_, errno)) => Err(errno.into()),
    }
}

/// The lock file of an instance.
pub fn lock_path(run_dir: &Path, instance: &str) -> PathBuf {
    run_dir.join(format!("{instance}.lock"))
}

fn ensure_directory(path: &Path) -> Result<(), LockError> {
    // Something else of that name is told apart before it keeps the directory from being made.
    check_directory(path)?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(|source| LockError::Directory {
            path: path.to_owned(),
            source,
        })?;
    check_directory(path)
}

/// Whether a lock can be trusted in a directory; one that does not exist will be made.
///
/// # Errors
/// When it is no directory, or others can write to it.
pub fn check_directory(path: &Path) -> Result<(), LockError> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(LockError::Directory {
                path: path.to_owned(),
                source,
            });
        }
    };
    if !metadata.is_dir() {
        return Err(LockError::NotADirectory {
            path: path.to_owned(),
        });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(LockError::Writable {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}

fn read_pid(mut file: &File) -> Option<u32> {
    let mut text = String::new();
    // The holder writes its number an instant after it has locked: nothing readable is no error.
    Read::by_ref(&mut file)
        .take(PID_BYTES_MAX)
        .read_to_string(&mut text)
        .ok()?;
    text.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_second_one_is_told_who_holds_it() {
        let directory = tempfile::tempdir().unwrap();
        let first = InstanceLock::acquire(directory.path(), "n1").unwrap();
        let error = InstanceLock::acquire(directory.path(), "n1").unwrap_err();
        let text = error.to_string();
        let pid = std::process::id();
        assert!(
            text.contains(&format!("n1 is already running as process {pid}")),
            "{text}"
        );
        assert_eq!(
            holder(directory.path(), "n1").unwrap(),
            Holder::Process(Some(pid))
        );

        let other = InstanceLock::acquire(directory.path(), "n2").unwrap();
        assert!(first.is_in_place() && other.is_in_place());
        drop(first);
        assert_eq!(holder(directory.path(), "n1").unwrap(), Holder::Nobody);
        InstanceLock::acquire(directory.path(), "n1").unwrap();
    }

    #[test]
    fn a_stale_file_of_a_dead_process_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = lock_path(directory.path(), "n1");
        fs::write(
            &path,
            "4194304999\nrubbish that is longer than a process id\n",
        )
        .unwrap();
        assert_eq!(holder(directory.path(), "n1").unwrap(), Holder::Nobody);
        let lock = InstanceLock::acquire(directory.path(), "n1").unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            format!("{}\n", std::process::id())
        );
        assert_eq!(lock.path(), path);
    }

    #[test]
    fn a_lock_of_another_process_counts_and_ends_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = lock_path(directory.path(), "n1");
        let mut other = Command::new("flock")
            .arg("--exclusive")
            .arg(&path)
            .args(["sh", "-c", "echo locked; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("flock of util-linux");
        let mut line = [0; 7];
        other
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut line)
            .unwrap();
        let error = InstanceLock::acquire(directory.path(), "n1").unwrap_err();
        assert!(
            matches!(error, LockError::Held { pid: None, .. }),
            "{error:?}"
        );
        assert!(!error.to_string().contains("process"), "{error}");
        drop(other.stdin.take());
        other.wait().unwrap();
        InstanceLock::acquire(directory.path(), "n1").unwrap();
    }

    #[test]
    fn a_look_at_the_lock_does_not_keep_a_daemon_from_starting() {
        let directory = tempfile::tempdir().unwrap();
        let path = lock_path(directory.path(), "n1");
        fs::write(&path, "").unwrap();
        let looking = Flock::lock(File::open(&path).unwrap(), FlockArg::LockShared).unwrap();
        let looker = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(10));
            drop(looking);
        });
        InstanceLock::acquire(directory.path(), "n1").unwrap();
        looker.join().unwrap();
    }

    #[test]
    fn the_directory_is_made_for_everybody_to_read() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = directory.path().join("run/mfs-ha");
        InstanceLock::acquire(&run_dir, "n1").unwrap();
        assert_eq!(fs::metadata(&run_dir).unwrap().mode() & 0o7777, 0o755);
    }

    #[test]
    fn a_look_makes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = directory.path().join("absent");
        assert_eq!(holder(&run_dir, "n1").unwrap(), Holder::Nobody);
        assert!(!run_dir.exists());
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o1777)).unwrap();
        let error = InstanceLock::acquire(directory.path(), "n1").unwrap_err();
        assert!(error.to_string().contains("mode 1777"), "{error}");
    }

    #[test]
    fn a_link_in_place_of_the_lock_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("target");
        fs::write(&target, "precious").unwrap();
        std::os::unix::fs::symlink(&target, lock_path(directory.path(), "n1")).unwrap();
        let error = InstanceLock::acquire(directory.path(), "n1").unwrap_err();
        assert!(matches!(error, LockError::Lock { .. }), "{error:?}");
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    }

    #[test]
    fn a_file_in_place_of_the_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(InstanceLock::acquire(&file, "n1").is_err());
    }

    #[test]
    fn a_lock_that_was_removed_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let lock = InstanceLock::acquire(directory.path(), "n1").unwrap();
        assert!(lock.is_in_place());
        fs::remove_file(lock.path()).unwrap();
        assert!(!lock.is_in_place());
    }
}
