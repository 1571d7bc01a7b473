//! The commands of `lab`. Each ends with status 0 when all is as asked, 1 when not, 2 on bad usage.

mod demo;
mod persistent;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use mfs_ha_lab::software::Software;

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
    },
    /// Removes the segment and everything on it; does nothing when there is none
    Down,
    /// Shows who is master, who answers for the VIP, and the processes
    Status {
        /// Prints a JSON document instead
        #[arg(long)]
        json: bool,
    },
    /// Runs a command on a node (n1, n2, …), the observer (ob) or the switch (sw)
    Exec {
        /// Where
        node: String,
        /// What, after `--`
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Runs three nodes, kills the master and prints the timeline
    Demo {
        /// Prints one JSON document at the end instead
        #[arg(long)]
        json: bool,
        /// How many deaths
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
        runs: u32,
        /// What runs on the nodes
        #[arg(long, value_enum, default_value_t = Software::MfsHa)]
        software: Software,
    },
}

/// Runs one command.
///
/// # Errors
/// When the machine lacks something or the lab does not work; verdicts are exit codes.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode> {
    match arguments.command {
        Command::Up { nodes, software } => persistent::up(nodes, software),
        Command::Down => persistent::down(),
        Command::Status { json } => persistent::status(json),
        Command::Exec { node, command } => persistent::exec(&node, &command),
        Command::Demo {
            json,
            runs,
            software,
        } => demo::run(software, runs, json),
    }
}
