//! `mfs-ha status`: what the daemon says of itself.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;

use super::{Exit, ExitWith as _, Failure, written_out};
use crate::config::{self, Configuration};
use crate::control::{self, Answer, Request};

/// Where sockets are unless configured otherwise.
const RUN_DIR: &str = "/run/mfs-ha";

/// Which daemon is asked.
#[derive(Debug, Args)]
pub struct Daemon {
    /// Ask the daemon of this configuration
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["socket", "instance"])]
    config: Option<PathBuf>,
    /// Ask the daemon at this socket
    #[arg(long, value_name = "PATH", conflicts_with = "instance")]
    socket: Option<PathBuf>,
    /// Ask the daemon of this instance
    #[arg(long, value_name = "NAME", default_value = "default")]
    instance: String,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    daemon: Daemon,
    /// Print the whole document as JSON
    #[arg(long)]
    json: bool,
}

/// Asks the daemon and prints its answer.
///
/// # Errors
/// Nobody answers, or the configuration is wrong.
pub async fn run(args: &StatusArgs, out: &mut impl Write) -> Result<(), Failure> {
    let path = args.daemon.socket_path()?;
    let answer = control::ask(&path, Request::Status {})
        .await
        .map_err(unanswered)?;
    let status = match answer {
        Answer::Status(status) => status,
        Answer::Recording(_) => {
            return Err(anyhow!("the daemon answers something else")).exit_with(Exit::Failure);
        }
        Answer::Error(error) => return Err(anyhow!(error)).exit_with(Exit::Failure),
    };
    written_out(if args.json {
        serde_json::to_writer_pretty(&mut *out, &status)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
    } else {
        write!(out, "{status}")
    })
}

/// Nobody who answers, or somebody who does not answer us.
pub(super) fn unanswered(error: anyhow::Error) -> Failure {
    let is_refused = error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied);
    if is_refused {
        let error = error.context("only the user that the daemon runs as can ask it");
        return Failure {
            exit: Exit::NotPermitted,
            error,
        };
    }
    Failure {
        exit: Exit::Unreachable,
        error,
    }
}

impl Daemon {
    /// Returns where it listens.
    ///
    /// # Errors
    /// The configuration or the name is wrong.
    pub fn socket_path(&self) -> Result<PathBuf, Failure> {
        if let Some(path) = &self.config {
            let config = Configuration::load(path).exit_with(Exit::Usage)?;
            return Ok(config.socket_path());
        }
        if let Some(path) = &self.socket {
            return Ok(path.clone());
        }
        if !config::is_instance_name(&self.instance) {
            return Err(anyhow!(
                "{:?} is no instance name: 1 to 32 of a-z, 0-9 and -",
                self.instance
            ))
            .exit_with(Exit::Usage);
        }
        Ok(config::socket_path(RUN_DIR.as_ref(), &self.instance))
    }
}
