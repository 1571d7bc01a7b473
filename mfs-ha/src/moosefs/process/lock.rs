//! The lock files of MooseFS: each program holds one in its data directory while it lives.
//!
//! The text in the file is what the last holder wrote, which may long be dead. Only the kernel's
//! answer counts: it forgets a lock together with the process.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
pub use rustix::process::Pid;

use super::ProcessError;

/// A look takes microseconds unless the disk hangs.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// Returns the process that holds a lock on a file, or nobody when there is no such file.
///
/// The answer is about one moment. May block as long as the disk does.
///
/// # Errors
/// The file cannot be opened, or the holder is one whose number cannot be told: a process of
/// another PID namespace or another machine.
pub fn holder(lock_file: &Path) -> io::Result<Option<Pid>> {
    let opened = OpenOptions::new()
        .read(true)
        // A pipe of that name must not hold us up.
        .custom_flags(libc::O_NONBLOCK)
        .open(lock_file);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut lock = libc::flock {
        l_type: kind(libc::F_WRLCK)?,
        l_whence: kind(libc::SEEK_SET)?,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_GETLK(&mut lock))?;
    if lock.l_type == kind(libc::F_UNLCK)? {
        return Ok(None);
    }
    match lock.l_pid {
        1.. => Ok(Pid::from_raw(lock.l_pid)),
        _ => Err(io::Error::other(
            "its holder is not of this PID namespace or not of this machine: use a data directory \
             of this node alone",
        )),
    }
}

/// [`holder`], on a thread that may wait for a disk.
pub(super) async fn look(lock_file: &Path) -> Result<Option<Pid>, ProcessError> {
    let path = lock_file.to_owned();
    let looking = tokio::task::spawn_blocking(move || holder(&path));
    let found = match tokio::time::timeout(LOOK_MAX, looking).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => Err(io::Error::other(error)),
        Err(_elapsed) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "its disk does not answer",
        )),
    };
    found.map_err(|source| ProcessError::Lock {
        path: lock_file.to_owned(),
        source,
    })
}

/// The lock files of a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Locks {
    /// Held by mfsmaster itself.
    pub(super) master: PathBuf,
    /// Held by the child of mfsmaster that writes its changelog.
    pub(super) writer: PathBuf,
    /// Held by the child of mfsmaster that writes an image, once an hour; renamed when complete.
    pub(super) saver: PathBuf,
    /// Held by mfsmetalogger.
    pub(super) metalogger: PathBuf,
}

impl Locks {
    pub(super) fn of(data_path: &Path) -> Self {
        Self {
            master: data_path.join(".mfsmaster.lock"),
            writer: data_path.join(".bgwriter.lock"),
            saver: data_path.join("metadata.mfs.back.tmp"),
            metalogger: data_path.join(".mfsmetalogger.lock"),
        }
    }
}

/// The C library declares the constants wider than the field they are for.
fn kind(constant: i32) -> io::Result<i16> {
    i16::try_from(constant).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use nix::fcntl::{Flock, FlockArg};

    use super::*;

    #[test]
    fn a_file_without_a_lock_has_no_holder_whatever_stands_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".mfsmaster.lock");
        assert_eq!(holder(&path).unwrap(), None);
        fs::write(&path, "1\n").unwrap();
        assert_eq!(holder(&path).unwrap(), None);
    }

    #[test]
    fn locks_of_another_kind_are_not_taken_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".mfsmaster.lock");
        let file = File::create(&path).unwrap();
        let _held = Flock::lock(file, FlockArg::LockExclusive).unwrap();
        assert_eq!(holder(&path).unwrap(), None);
    }

    #[test]
    fn a_holder_without_a_number_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".mfsmaster.lock");
        let file = File::create(&path).unwrap();
        let lock = libc::flock {
            l_type: kind(libc::F_WRLCK).unwrap(),
            l_whence: 0,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        // A lock of an open file has no process.
        fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
        let error = holder(&path).unwrap_err();
        assert!(error.to_string().contains("PID namespace"), "{error}");
    }

    #[tokio::test]
    async fn something_else_in_its_place_is_no_lock() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(look(&pipe).await.unwrap(), None);
        let below = directory.path().join("pipe/.mfsmaster.lock");
        let error = look(&below).await.unwrap_err();
        assert!(matches!(error, ProcessError::Lock { .. }), "{error:?}");
    }
}
