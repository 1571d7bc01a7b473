//! The command line: one file a subcommand.

pub mod check;
pub mod decode;
pub mod history;
pub mod metadata;
pub mod recording;
pub mod release;
pub mod run;
pub mod status;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

/// Exit codes, as `mfs-ha --help` and `docs/operations.md` list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// It failed while running.
    Failure = 1,
    /// Wrong arguments or configuration.
    Usage = 2,
    /// Missing privileges.
    NotPermitted = 3,
    /// Another instance or another XDP program is in the way.
    InUse = 4,
    /// `status`: the daemon does not answer.
    Unreachable = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::Failure => 1,
            Exit::Usage => 2,
            Exit::NotPermitted => 3,
            Exit::InUse => 4,
            Exit::Unreachable => 5,
        })
    }
}

/// Where the configuration of a command is that works on one.
#[derive(Debug, Args)]
pub struct ConfigFile {
    /// The configuration
    #[arg(
        short = 'c',
        long = "config",
        value_name = "FILE",
        default_value = "/etc/mfs-ha/mfs-ha.toml"
    )]
    path: PathBuf,
}

/// What became of the program's output. The reader of a pipe may have seen enough.
fn written_out(result: io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.exit_with(Exit::Failure),
    }
}

/// An error with the exit code that it leads to.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What went wrong.
    pub error: anyhow::Error,
}

/// Gives errors their exit code.
pub trait ExitWith<T> {
    /// Turns an error into a [`Failure`] with this code.
    ///
    /// # Errors
    /// The error, with the code.
    fn exit_with(self, exit: Exit) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> ExitWith<T> for Result<T, E> {
    fn exit_with(self, exit: Exit) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            exit,
            error: error.into(),
        })
    }
}
