//! The `mfs-ha` program.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use mfs_ha::cli::{
    Exit, ExitWith as _, Failure, check, decode, history, metadata, recording, release, run, status,
};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Lines that may wait to be written. More are dropped: a stalled log must not stall the daemon.
const LOG_LINES_MAX: usize = 4096;

/// Automatic failover for MooseFS Community Edition: CARP with its heart in XDP
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
Exit codes: 0 done, 1 failed while running (check: something fails; metadata: not promotable; history --lost: changes
were lost), 2 wrong arguments or configuration, 3 missing privileges, 4 another instance or XDP program is in the way,
5 the daemon does not answer.

A configuration with a table [cluster] lets a majority of its members decide who serves (docs/quorum.md); that of a
witness has nothing else. `check` explains what a number of members survives, `status` why nobody serves.

The log goes to standard error; RUST_LOG=debug shows more of it."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground
    Run(run::RunArgs),
    /// Check configuration and machine without changing anything
    Check(check::CheckArgs),
    /// Show what the running daemon does, and why
    Status(status::StatusArgs),
    /// Take off what a daemon that died has left: mfsmaster, VIP, gate, maps
    Release(release::ReleaseArgs),
    /// Judge each packet of a capture as the daemon would
    Decode(decode::DecodeArgs),
    /// Show what a data directory of MooseFS has, and whether a master can be promoted on it
    Metadata(metadata::MetadataArgs),
    /// Show what was replaced on this node, and which changes of it the cluster does not have
    History(history::HistoryArgs),
    /// Print what the running daemon was told and decided lately, as JSON lines
    Recording(recording::RecordingArgs),
    /// Replay such a recording, and say whether this version decides the same
    Replay(recording::ReplayArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match dispatch(&cli.command) {
        Ok(exit) => exit.into(),
        Err(Failure { exit, error }) => {
            // Nobody is left to tell when this fails.
            drop(writeln!(io::stderr(), "mfs-ha: {error:#}"));
            exit.into()
        }
    }
}

fn dispatch(command: &Command) -> Result<Exit, Failure> {
    let mut out = io::stdout().lock();
    match command {
        Command::Decode(args) => {
            decode::run(args, &mut io::BufWriter::new(out), &mut io::stderr()).map(|()| Exit::Ok)
        }
        Command::Metadata(args) => metadata::run(args, &mut io::BufWriter::new(out)),
        Command::History(args) => history::run(args, &mut io::BufWriter::new(out)),
        Command::Recording(args) => runtime()?
            .block_on(recording::run(args, &mut out))
            .map(|()| Exit::Ok),
        Command::Replay(args) => recording::replay(args, &mut out).map(|()| Exit::Ok),
        Command::Status(args) => runtime()?
            .block_on(status::run(args, &mut out))
            .map(|()| Exit::Ok),
        Command::Release(args) => runtime()?.block_on(release::run(args, &mut out)),
        Command::Check(args) => runtime()?.block_on(check::run(args, &mut out)),
        Command::Run(args) => {
            drop(out);
            let _writer = log_to_stderr();
            runtime()?.block_on(run::run(args)).map(|()| Exit::Ok)
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")
        .exit_with(Exit::Failure)
}

/// Logs through a thread of its own, so that nobody waits for a slow terminal or journal.
fn log_to_stderr() -> WorkerGuard {
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LOG_LINES_MAX)
        .lossy(true)
        .thread_name("log")
        .finish(io::stderr());
    let wanted = std::env::var_os("RUST_LOG").unwrap_or_default();
    let wanted = wanted.to_string_lossy();
    let (filter, bad) = log_filter(&wanted);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(false)
        .with_target(false);
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .init();
    if !bad.is_empty() {
        tracing::warn!(
            ignored = bad.join(","),
            "RUST_LOG: expected LEVEL or TARGET=LEVEL, with commas between; a level is off, error, warn, info, debug or trace"
        );
    }
    guard
}

/// What RUST_LOG asks for, as LEVEL or TARGET=LEVEL with commas between, over INFO for everything; and those parts of it
/// that are neither.
fn log_filter(wanted: &str) -> (Targets, Vec<&str>) {
    let mut filter = Targets::new().with_default(LevelFilter::INFO);
    let mut bad = Vec::new();
    let parts = wanted.split(',').map(str::trim);
    for part in parts.filter(|part| !part.is_empty()) {
        let (target, level) = match part.split_once('=') {
            Some((target, level)) => (Some(target), level),
            None => (None, part),
        };
        // An empty level would be read as ERROR.
        let level = Some(level).filter(|level| !level.is_empty());
        let level = level.and_then(|level| level.parse::<LevelFilter>().ok());
        filter = match (target, level) {
            (None, Some(level)) => filter.with_default(level),
            (Some(target), Some(level)) if is_path(target) => filter.with_target(target, level),
            (None | Some(_), None | Some(_)) => {
                bad.push(part);
                filter
            }
        };
    }
    // How the loader patches instructions is nobody's business here, at any level.
    let quiet = filter.default_level().unwrap_or(LevelFilter::INFO);
    let quiet = quiet.min(LevelFilter::INFO);
    (filter.with_target("aya_obj", quiet), bad)
}

/// Whether it could be the path of a module.
fn is_path(name: &str) -> bool {
    let is_of_path = |char: char| char.is_ascii_alphanumeric() || "_:-".contains(char);
    !name.is_empty() && name.chars().all(is_of_path)
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    fn levels(wanted: &str) -> [bool; 4] {
        let (filter, _) = log_filter(wanted);
        [Level::ERROR, Level::INFO, Level::DEBUG, Level::TRACE]
            .map(|level| filter.would_enable("mfs_ha::node", &level))
    }

    #[test]
    fn rust_log_names_a_level_for_all_or_for_a_target() {
        let usual = [true, true, false, false];
        for (wanted, expected) in [
            ("", usual),
            (",", usual),
            ("debug", [true, true, true, false]),
            ("debug, ", [true, true, true, false]),
            ("mfs_ha::node=trace", [true; 4]),
            ("warn,mfs_ha=debug", [true, true, true, false]),
            ("aya=debug", usual),
            ("error", [true, false, false, false]),
            ("off", [false; 4]),
        ] {
            assert_eq!(levels(wanted), expected, "{wanted}");
            assert!(log_filter(wanted).1.is_empty(), "{wanted}");
        }
    }

    #[test]
    fn what_is_wrong_in_rust_log_is_named_and_the_rest_is_used() {
        for bad in [
            "dbug",
            "mfs_ha",
            "mfs_ha=",
            "=debug",
            "mfs_ha=loud",
            "mfs_ha[span]=debug",
        ] {
            let wanted = format!("aya=trace,{bad}");
            let (filter, ignored) = log_filter(&wanted);
            assert_eq!(ignored, [bad]);
            assert_eq!(levels(&wanted), [true, true, false, false], "{bad}");
            assert!(filter.would_enable("aya", &Level::TRACE), "{bad}");
        }
    }

    #[test]
    fn the_loader_is_never_chatty() {
        let (filter, _) = log_filter("trace");
        assert!(!filter.would_enable("aya_obj::relocation", &Level::DEBUG));
        let (filter, _) = log_filter("error");
        assert!(!filter.would_enable("aya_obj", &Level::INFO));
    }
}
