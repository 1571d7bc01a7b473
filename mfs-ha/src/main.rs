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
    let (filter, problem) = log_filter(std::env::var("RUST_LOG").ok().as_deref());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(false)
        .with_target(false);
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .init();
    if let Some(problem) = problem {
        tracing::warn!("RUST_LOG is not used: {problem}");
    }
    guard
}

/// What RUST_LOG asks for, as `LEVEL` or `TARGET=LEVEL`, with commas between; else INFO, and what is wrong with it.
fn log_filter(wanted: Option<&str>) -> (Targets, Option<String>) {
    let wanted = wanted.filter(|wanted| !wanted.is_empty());
    let (mut filter, problem) = match wanted.map_or_else(|| Ok(Targets::new()), str::parse) {
        Ok(filter) => (filter, None),
        Err(error) => (
            Targets::new(),
            Some(format!(
                "{error}; a level (error, warn, info, debug, trace) or TARGET=LEVEL was expected"
            )),
        ),
    };
    if filter.default_level().is_none() {
        filter = filter.with_default(LevelFilter::INFO);
    }
    // How the loader patches instructions is nobody's business here, at any level.
    (filter.with_target("aya_obj", LevelFilter::INFO), problem)
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    fn levels(wanted: Option<&str>) -> [bool; 3] {
        let (filter, problem) = log_filter(wanted);
        assert_eq!(problem, None, "{wanted:?}");
        [Level::INFO, Level::DEBUG, Level::TRACE]
            .map(|level| filter.would_enable("mfs_ha::node", &level))
    }

    #[test]
    fn rust_log_names_a_level_for_all_or_for_a_target() {
        assert_eq!(levels(None), [true, false, false]);
        assert_eq!(levels(Some("")), [true, false, false]);
        assert_eq!(levels(Some("debug")), [true, true, false]);
        assert_eq!(levels(Some("mfs_ha::node=trace")), [true, true, true]);
        assert_eq!(levels(Some("aya=debug")), [true, false, false]);
        assert_eq!(levels(Some("error")), [false, false, false]);
    }

    #[test]
    fn a_wrong_rust_log_is_named_and_leaves_the_usual_level() {
        let (filter, problem) = log_filter(Some("mfs_ha=loud"));
        let problem = problem.unwrap();
        assert!(problem.contains("TARGET=LEVEL"), "{problem}");
        assert!(filter.would_enable("mfs_ha", &Level::INFO));
        assert!(!filter.would_enable("mfs_ha", &Level::DEBUG));
    }

    #[test]
    fn the_loader_is_never_chatty() {
        let (filter, _) = log_filter(Some("trace"));
        assert!(!filter.would_enable("aya_obj::relocation", &Level::DEBUG));
    }
}
