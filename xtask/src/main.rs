//! `cargo xtask`: installs, builds, tests and demonstrates this workspace.
//!
//! One file a command. This crate decides what runs in which order; it knows nothing of CARP and
//! links none of the other crates, so that it compiles in seconds on a machine that has nothing yet.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool talks on its standard streams"
)]

mod artifacts;
mod bench;
mod build_ebpf;
mod clippy;
mod console;
mod counting;
mod fuzz;
mod lab;
mod packages;
mod setup;
mod sim;
mod test;
mod tidy;
mod toolchain;
mod vmtest;
mod workspace;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::workspace::Workspace;

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Installs, builds, tests and demonstrates mfs-ha"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install everything that build, tests and demo need (Debian, as root)
    Setup {
        /// Only report what is missing; install nothing
        #[arg(long)]
        check: bool,
    },
    /// Compile the XDP program and put it where the daemon embeds it
    BuildEbpf {
        /// Compile again even when nothing changed
        #[arg(long)]
        force: bool,
    },
    /// Run the whole suite: setup, formatting, lints, house rules, docs and every test
    Test {
        /// Also run what takes long: more random cases, more failovers, the fuzz targets
        #[arg(long)]
        long: bool,
    },
    /// Run the tests that face the kernel on Debian 12's kernel 6.1, in a virtual machine
    ///
    /// Emulator and kernel are Debian packages, unpacked below target/vmtest; nothing is installed for
    /// them. KVM is used where the processor has it. The exit code is 0 only if the kernel that ran was
    /// 6.1 and each test program ran tests, all of which passed.
    Vmtest,
    /// Lint the host's crates, and the XDP program for the kernel
    Clippy,
    /// Check the house rules that no compiler checks
    Tidy,
    /// Measure
    Bench {
        /// What to measure
        what: bench::Benchmark,
    },
    /// Run the test network; everything after the name goes to the lab program (`lab --help`)
    Lab(Verbatim),
    /// Show a failover; everything after the name goes to the lab program (`demo --help`)
    Demo(Verbatim),
    /// Run the simulated cluster: the election that ships, under faults, one seed after the other
    Sim(sim::Seeds),
    /// Run fuzz targets for a while each
    Fuzz {
        /// Seconds for each target
        #[arg(long, default_value_t = fuzz::SECONDS_DEFAULT)]
        seconds: u32,
        /// Targets to run; all without any
        targets: Vec<String>,
    },
}

/// Arguments that belong to another program, its `--help` included.
#[derive(Args)]
#[command(disable_help_flag = true)]
struct Verbatim {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    let workspace = Workspace::locate()?;
    match command {
        Command::Setup { check: true } => setup::check(&workspace)?,
        Command::Setup { check: false } => setup::run(&workspace)?,
        Command::BuildEbpf { force } => build_ebpf::run(&workspace, force)?,
        Command::Test { long } => return test::run(&workspace, long),
        Command::Vmtest => test::run_in_virtual_machine(&workspace)?,
        Command::Clippy => clippy::run(&workspace)?,
        Command::Tidy => tidy::run(&workspace)?,
        Command::Bench { what } => bench::exec(&workspace, what)?,
        Command::Lab(Verbatim { args }) => lab::exec(&workspace, None, &args)?,
        Command::Demo(Verbatim { args }) => lab::exec(&workspace, Some("demo"), &args)?,
        Command::Sim(seeds) => sim::run(&workspace, &seeds)?,
        Command::Fuzz { seconds, targets } => fuzz::run(&workspace, seconds, &targets)?,
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lab_arguments_are_passed_on_untouched() {
        for given in [
            &["--help"][..],
            &["-h"],
            &["exec", "n1", "--", "ip", "-4", "addr"],
            &[],
        ] {
            let line = ["cargo xtask", "lab"].iter().chain(given).copied();
            let Command::Lab(Verbatim { args }) = Cli::try_parse_from(line).unwrap().command else {
                panic!("{given:?} is not read as a lab command");
            };
            assert_eq!(args, given.iter().map(OsString::from).collect::<Vec<_>>());
        }
    }
}
