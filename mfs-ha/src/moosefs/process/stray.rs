//! Ending a program that holds a lock, with what it has forked.
//!
//! Killing mfsmaster alone is not enough. Its metadata saver, forked each full hour, would go on:
//! it renames its image over `metadata.mfs.back` by itself, and it holds the connections of all
//! clients open. Its data writer ends when it notices, which takes it less than a millisecond.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, timeout};

use super::ProcessError;
use super::lock::{self, Locks};
use super::pidfd::{Process, is_gone};

/// The program file of the package.
pub(super) const MASTER: &str = "mfsmaster";

/// After SIGKILL the kernel still gives back the memory, which takes seconds where there are many
/// gigabytes of it; beyond that it hangs.
const KILLED_MAX: Duration = Duration::from_secs(10);

/// For the data writer to notice by itself that mfsmaster is dead.
const WRITER_MAX: Duration = Duration::from_millis(500);

/// A holder that changes between two looks is looked at again.
const LOOKS_MAX: u32 = 5;

/// Takes hold of the process that holds a lock, which has to run the program.
///
/// # Errors
/// [`ProcessError::Foreign`] when it runs something else.
pub(super) async fn holding_program(
    lock_file: &Path,
    program: &'static str,
    configured: &Path,
) -> Result<Option<Process>, ProcessError> {
    let Some(process) = holding(lock_file).await? else {
        return Ok(None);
    };
    let pid = process.pid();
    match process.exe() {
        Ok(exe) if runs(&exe, program, configured) => Ok(Some(process)),
        Ok(exe) => Err(ProcessError::Foreign {
            lock: lock_file.to_owned(),
            pid,
            exe,
            program,
        }),
        Err(error) if is_gone(&error) => Ok(None),
        Err(source) => Err(ProcessError::Look { pid, source }),
    }
}

/// Ends mfsmaster and its children at once. When this fails for a child, mfsmaster itself is gone.
pub(super) async fn kill_master(
    master: &Process,
    locks: &Locks,
    configured: &Path,
) -> Result<(), ProcessError> {
    // Afterwards they are nobody's children.
    let children = master.children().unwrap_or_else(|error| {
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "cannot list the children of mfsmaster"
        );
        Vec::new()
    });
    kill(master, "mfsmaster").await?;
    // A disk that hangs is reported below; the others must not go on because of it.
    let writer = lock::look(&locks.writer).await.ok().flatten();
    for child in &children {
        let is_writer = writer.is_some_and(|pid| pid.as_raw_nonzero().get() == child.pid());
        if !is_writer {
            kill(child, "a child of mfsmaster").await?;
        }
    }
    kill_orphans(locks, configured).await
}

/// Ends what a mfsmaster that is gone has left running.
pub(super) async fn kill_orphans(locks: &Locks, configured: &Path) -> Result<(), ProcessError> {
    if let Some(saver) = holding_program(&locks.saver, MASTER, configured).await? {
        kill(&saver, "its metadata saver").await?;
    }
    if let Some(writer) = holding_program(&locks.writer, MASTER, configured).await? {
        // An error would only mean that the runtime ends.
        if !matches!(timeout(WRITER_MAX, writer.exited()).await, Ok(Ok(()))) {
            kill(&writer, "its data writer").await?;
        }
    }
    Ok(())
}

/// SIGKILL, which works on a stopped process too, and waits until the process is gone.
pub(super) async fn kill(process: &Process, what: &'static str) -> Result<(), ProcessError> {
    let pid = process.pid();
    let started = Instant::now();
    process
        .signal(Signal::KILL)
        .map_err(|source| ProcessError::Signal { pid, source })?;
    match timeout(KILLED_MAX, process.exited()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(source)) => Err(ProcessError::Look { pid, source }),
        Err(_elapsed) => Err(ProcessError::Remains {
            pid,
            what,
            waited: started.elapsed(),
        }),
    }
}

/// The process that holds a lock, whatever it runs.
async fn holding(lock_file: &Path) -> Result<Option<Process>, ProcessError> {
    for _ in 0..LOOKS_MAX {
        let Some(pid) = lock::look(lock_file).await? else {
            return Ok(None);
        };
        let opened = Process::open(pid).map_err(|source| ProcessError::Look {
            pid: pid.as_raw_nonzero().get(),
            source,
        })?;
        // Only if it still holds the lock is it the one that was opened.
        if lock::look(lock_file).await? == Some(pid)
            && let Some(process) = opened
        {
            return Ok(Some(process));
        }
    }
    Err(ProcessError::Lock {
        path: lock_file.to_owned(),
        source: std::io::Error::other("its holder changes all the time"),
    })
}

/// Whether a file is the program of the package or the configured one. The package may have been
/// replaced since: the kernel then says so behind the name.
fn runs(exe: &Path, program: &str, configured: &Path) -> bool {
    let name = exe.file_name().unwrap_or_default().to_string_lossy();
    let name = name.strip_suffix(" (deleted)").unwrap_or(&name);
    name == program || configured.file_name() == Some(OsStr::new(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_known_by_its_file_also_after_an_upgrade() {
        let configured = Path::new("/opt/mfs/sbin/mfsmaster-3.0.117");
        for exe in [
            "/usr/sbin/mfsmaster",
            "/usr/sbin/mfsmaster (deleted)",
            "/srv/mfsmaster-3.0.117",
        ] {
            assert!(runs(Path::new(exe), MASTER, configured), "{exe}");
        }
        for exe in [
            "/usr/bin/python3.11",
            "/usr/sbin/mfsmetalogger",
            "/",
            "/usr/sbin/mfsmasters",
        ] {
            assert!(!runs(Path::new(exe), MASTER, configured), "{exe}");
        }
    }
}
