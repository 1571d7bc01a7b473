//! The programs of MooseFS as processes: who runs on a data directory, starting and ending them.
//!
//! A process is found by the lock it holds on a file of the data directory, which the kernel knows,
//! never by a name or by the number that stands in the file. It is signalled through a pidfd whose
//! identity was checked after it was opened, so that a number that was given to another process
//! meanwhile does no harm.
//!
//! What is decided with it, and when, is not the matter of these modules.

pub mod chunkservers;
pub mod lock;
pub mod master;
pub mod metalogger;
pub(super) mod output;
mod packet;
pub mod pidfd;
pub mod probe;
mod sockets;
mod stray;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a program of MooseFS could not be looked at, started or ended.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The lock of a data directory tells nothing.
    #[error("cannot see who holds {}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The lock is held by something that is not of MooseFS.
    #[error(
        "{} is held by process {pid} ({}), which is not {program}: end it by hand, or correct \
         DATA_PATH",
        lock.display(),
        exe.display()
    )]
    Foreign {
        /// The lock file.
        lock: PathBuf,
        /// Its holder.
        pid: i32,
        /// What the holder runs.
        exe: PathBuf,
        /// What was expected there.
        program: &'static str,
    },
    /// Nothing is known about a process.
    #[error("cannot look at process {pid}")]
    Look {
        /// The process.
        pid: i32,
        /// What the system said.
        source: io::Error,
    },
    /// The capability to signal it is missing.
    #[error("cannot signal process {pid}: it takes root, or CAP_KILL")]
    Signal {
        /// The process.
        pid: i32,
        /// What the system said.
        source: io::Error,
    },
    /// It hangs in the kernel.
    #[error(
        "process {pid} ({what}) was killed and is still there after {} ms: it hangs in the \
         kernel, look at the disk of its data directory",
        waited.as_millis()
    )]
    Remains {
        /// The process.
        pid: i32,
        /// Which part of the program it is.
        what: &'static str,
        /// How long it was waited for.
        waited: Duration,
    },
    /// Something else on this machine keeps starting the program.
    #[error(
        "{program} was ended {times} times and comes back: disable what starts it (systemctl \
         disable --now {unit})"
    )]
    ComesBack {
        /// The program.
        program: &'static str,
        /// The unit of its package.
        unit: &'static str,
        /// How often it was ended.
        times: u32,
    },
    /// The program file cannot be run.
    #[error("cannot run {}", program.display())]
    Spawn {
        /// The program file.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It ended when it should have gone on.
    #[error("{program} has ended ({exit}){}", said(lines))]
    Ended {
        /// The program.
        program: &'static str,
        /// How, in words: `exit status: 1`.
        exit: String,
        /// What it wrote last.
        lines: Vec<String>,
    },
    /// It runs and does not listen.
    #[error(
        "{program} does not listen on {} in time{}",
        numbers(ports),
        said(lines)
    )]
    Deaf {
        /// The program.
        program: &'static str,
        /// The ports that are missing.
        ports: Vec<u16>,
        /// What it wrote last.
        lines: Vec<String>,
    },
    /// It was started and nothing came of it.
    #[error("{program} has not started within {} ms{}", limit.as_millis(), said(lines))]
    Slow {
        /// The program.
        program: &'static str,
        /// The limit.
        limit: Duration,
        /// What it wrote last.
        lines: Vec<String>,
    },
}

fn said(lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    format!("; it wrote last: {}", lines.join(" | "))
}

fn numbers(ports: &[u16]) -> String {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    ports.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_carries_the_last_words_of_the_program() {
        let error = ProcessError::Ended {
            program: "mfsmaster",
            exit: "exit status: 1".to_owned(),
            lines: vec!["can't find metadata.mfs".to_owned(), "exiting".to_owned()],
        };
        assert_eq!(
            error.to_string(),
            "mfsmaster has ended (exit status: 1); it wrote last: can't find metadata.mfs | exiting"
        );
        let error = ProcessError::Deaf {
            program: "mfsmaster",
            ports: vec![9419, 9421],
            lines: Vec::new(),
        };
        assert_eq!(
            error.to_string(),
            "mfsmaster does not listen on 9419, 9421 in time"
        );
    }
}
