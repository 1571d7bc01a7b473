//! The commands of `lab`. Each ends with status 0 when all is as asked, 1 when not, 2 on bad usage.

mod demo;
mod persistent;
mod persistent_moosefs;
mod plain_demo;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use mfs_ha_lab::oracle::audit::{self, Inspection};
use mfs_ha_lab::oracle::client::ClientOptions;
use mfs_ha_lab::oracle::trial::Fault;
use mfs_ha_lab::oracle::worker::{self, Work};
use mfs_ha_lab::software::Software;
use mfs_ha_lab::software::moosefs::Mode;

use self::persistent::Plan;

/// Network namespaces with a bridge, real daemons and an independent judge.
#[derive(Debug, Parser)]
#[command(name = "lab", bin_name = "cargo xtask lab", version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Builds a segment that stays, with a daemon on each node
    Up {
        /// How many nodes
        #[arg(long, default_value_t = 3)]
        nodes: usize,
        /// What runs on them
        #[arg(long, value_enum, default_value_t = Software::MfsHa)]
        software: Software,
        /// Three nodes with mfs-ha in charge of MooseFS, two chunkservers c1 and c2, a client cl with a mount
        #[arg(long, conflicts_with_all = ["nodes", "software"])]
        moosefs: bool,
        /// How the nodes with MooseFS decide who serves
        #[arg(long, value_enum, default_value_t = Mode::Quorum, requires = "moosefs")]
        mode: Mode,
    },
    /// Removes the segment and everything on it; does nothing when there is none
    Down,
    /// Shows who is master, who answers for the VIP, and the processes
    Status {
        /// Prints a JSON document instead
        #[arg(long)]
        json: bool,
    },
    /// Runs a command on a node (n1, n2, …), the observer (ob), the switch (sw), a chunkserver (c1, c2), the witness (w)
    /// or the client (cl), where the file system is mounted
    Exec {
        /// Where
        node: String,
        /// What, after `--`
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// A process of the client: the lab starts it where the file system is mounted
    #[command(hide = true, subcommand)]
    Oracle(Oracle),
    /// Runs three nodes with MooseFS and a client at work, breaks the serving node and prints the timeline
    Demo {
        /// Prints one JSON document at the end instead
        #[arg(long)]
        json: bool,
        /// How many failures
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
        runs: u32,
        /// What is done to the serving node
        #[arg(long, value_enum, default_value_t = Fault::NodeDeath, conflicts_with = "plain")]
        fault: Fault,
        /// How the nodes decide who serves
        #[arg(long, value_enum, default_value_t = Mode::Quorum, conflicts_with = "plain")]
        mode: Mode,
        /// Threads of the client that make files
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64), conflicts_with = "plain")]
        writers: u8,
        /// Threads of the client that read files
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64), conflicts_with = "plain")]
        readers: u8,
        /// Only a VIP, no MooseFS: the master of the election dies
        #[arg(long)]
        plain: bool,
        /// What runs on the nodes
        #[arg(long, value_enum, default_value_t = Software::MfsHa, requires = "plain")]
        software: Software,
    },
}

#[derive(Debug, Subcommand)]
enum Oracle {
    /// Writes and reads until killed
    Work(Work),
    /// Reads every acknowledged file and prints what became of them as JSON
    Audit(Inspection),
}

/// Runs one command.
///
/// # Errors
/// When the machine lacks something or the lab does not work; verdicts are exit codes.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::Up {
            moosefs: true,
            mode,
            ..
        } => persistent::up(Plan::moosefs(mode)),
        Command::Up {
            nodes, software, ..
        } => persistent::up(Plan::plain(nodes, software)),
        Command::Down => persistent::down(),
        Command::Status { json } => persistent::status(json),
        Command::Exec { node, command } => persistent::exec(&node, &command),
        Command::Oracle(Oracle::Work(work)) => {
            worker::run(&work)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Oracle(Oracle::Audit(inspection)) => {
            let audit = audit::run(&inspection)?;
            println!("{}", serde_json::to_string(&audit)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Demo {
            json,
            runs,
            plain: true,
            software,
            ..
        } => plain_demo::run(software, runs, json),
        Command::Demo {
            json,
            runs,
            fault,
            mode,
            writers,
            readers,
            ..
        } => {
            let client = ClientOptions {
                writers: usize::from(writers),
                readers: usize::from(readers),
            };
            demo::run(mode, fault, runs, client, json)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parses(words: &[&str]) -> bool {
        Arguments::try_parse_from(["lab"].iter().chain(words)).is_ok()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
        assert!(parses(&[
            "demo",
            "--fault",
            "master-crash",
            "--runs",
            "3",
            "--json"
        ]));
        assert!(parses(&["demo", "--plain", "--software", "ucarp"]));
        assert!(parses(&["demo", "--mode", "carp", "--fault", "partition"]));
        assert!(parses(&["up", "--moosefs"]));
        assert!(parses(&["up", "--moosefs", "--mode", "witness"]));
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        assert!(!parses(&["demo", "--software", "ucarp"]));
        assert!(!parses(&["demo", "--plain", "--fault", "graceful"]));
        assert!(!parses(&["up", "--moosefs", "--nodes", "2"]));
        assert!(!parses(&["up", "--mode", "carp"]));
        assert!(!parses(&["demo", "--plain", "--mode", "quorum"]));
        assert!(!parses(&["demo", "--runs", "0"]));
    }
}
