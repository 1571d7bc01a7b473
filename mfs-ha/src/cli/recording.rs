//! `mfs-ha recording` and `mfs-ha replay`: what the node was told and decided, and whether it would again.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write};
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::Args;
use mfs_ha_common::recording::Replay;

use super::status::Daemon;
use super::{Exit, ExitWith as _, Failure, written_out};
use crate::control::{self, Answer, Request};

/// Arguments of `recording`.
#[derive(Debug, Args)]
pub struct RecordingArgs {
    #[command(flatten)]
    daemon: Daemon,
}

/// Prints what the daemon's flight recorder holds, as JSON lines.
///
/// # Errors
/// Nobody answers, or the configuration is wrong.
pub async fn run(args: &RecordingArgs, out: &mut impl Write) -> Result<(), Failure> {
    let path = args.daemon.socket_path()?;
    let answer = control::ask(&path, Request::Recording {})
        .await
        .map_err(super::status::unanswered)?;
    match answer {
        Answer::Recording(lines) => written_out(out.write_all(lines.as_bytes())),
        Answer::Status(_) => {
            Err(anyhow!("the daemon answers something else")).exit_with(Exit::Failure)
        }
        Answer::Error(error) => Err(anyhow!(error)).exit_with(Exit::Failure),
    }
}

/// Arguments of `replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// What `recording` printed
    file: PathBuf,
}

/// Tells the recorded facts to the recorded node and compares what it decides.
///
/// # Errors
/// No recording, or a decision that differs: this version decides otherwise than the one that recorded.
pub fn replay(args: &ReplayArgs, out: &mut impl Write) -> Result<(), Failure> {
    let shown = args.file.display();
    let file = File::open(&args.file)
        .with_context(|| format!("cannot read the recording {shown}"))
        .exit_with(Exit::Usage)?;
    let mut replay = Replay::default();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let place = || format!("{shown} line {}", number + 1);
        let line = line.with_context(place).exit_with(Exit::Usage)?;
        let line = serde_json::from_str(&line)
            .with_context(|| format!("{}: no line of a recording", place()))
            .exit_with(Exit::Usage)?;
        replay
            .take(line)
            .with_context(place)
            .exit_with(Exit::Failure)?;
    }
    written_out(writeln!(
        out,
        "{} turns, the same decisions",
        replay.turns()
    ))
}
