//! `mfs-ha check`: whether the configuration and this machine fit together, and what to do if not.
//!
//! Looks and changes nothing. What it cannot find out is a warning, never a pass.

mod cluster;
mod files;
mod host;
mod moosefs;
mod network;
mod watchdog;

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::{ConfigFile, Exit, Failure, written_out};
use crate::config::{ConfigError, Configuration};
use crate::error::chain;
use crate::lock::Holder;
use crate::{bpf, privileges};

pub use self::host::{Probes, System};

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// Checks and prints; the exit code tells whether something fails.
///
/// # Errors
/// The output cannot be written.
pub async fn run(args: &CheckArgs, out: &mut impl Write) -> Result<Exit, Failure> {
    let probes = Probes {
        privileges: || privileges::require().map_err(|error| format!("{error:#}")),
        load_program: || {
            bpf::load(None, &bpf::Configured::default())
                .map(drop)
                .map_err(|error| chain(&error))
        },
        program_name: bpf::program_name,
        become_realtime: host::become_realtime,
    };
    let report = examine(&args.config.path, &System::default(), &probes).await;
    let written = if args.json {
        report.write_json(out)
    } else {
        report.write_text(out)
    };
    written_out(written)?;
    Ok(if report.has_invalid_configuration {
        Exit::Usage
    } else if report.has_failed() {
        Exit::Failure
    } else {
        Exit::Ok
    })
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it must be.
    Ok,
    /// The daemon will run, but perhaps not as expected.
    Warn,
    /// The daemon will not run, or not be of use.
    Fail,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        })
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// All findings, in the order in which they should be read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    /// One after the other.
    pub findings: Vec<Finding>,
    /// The configuration cannot be used, so that much was not looked at.
    #[serde(skip)]
    pub has_invalid_configuration: bool,
}

impl Report {
    fn ok(&mut self, name: &'static str, message: impl Into<String>) {
        self.add(Level::Ok, name, message.into(), None);
    }

    fn warn(&mut self, name: &'static str, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Level::Warn, name, message.into(), Some(hint.into()));
    }

    fn fail(&mut self, name: &'static str, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Level::Fail, name, message.into(), Some(hint.into()));
    }

    fn add(&mut self, level: Level, name: &'static str, message: String, hint: Option<String>) {
        self.findings.push(Finding {
            name,
            level,
            message,
            hint,
        });
    }

    /// Whether anything fails.
    pub fn has_failed(&self) -> bool {
        self.findings
            .iter()
            .any(|finding| finding.level == Level::Fail)
    }

    /// One line a finding, and one more with what to do.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        for finding in &self.findings {
            let message = finding.message.replace('\n', "\n     ");
            writeln!(out, "{:<4} {}: {message}", finding.level, finding.name)?;
            if let Some(hint) = &finding.hint {
                writeln!(out, "     do: {hint}")?;
            }
        }
        Ok(())
    }

    /// One document.
    ///
    /// # Errors
    /// When `out` cannot be written.
    pub fn write_json(&self, out: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *out, self)?;
        writeln!(out)
    }
}

/// Looks at everything that the daemon needs.
pub async fn examine(path: &Path, system: &System, probes: &Probes) -> Report {
    let mut report = Report::default();
    let config = load(path, &mut report);
    host::privileges(probes, &mut report);
    host::kernel(system, &mut report);
    host::program(probes, &mut report);
    let Some(config) = config else {
        report.has_invalid_configuration = true;
        return report;
    };
    if config.scheduling().realtime {
        host::realtime(probes, &mut report);
    }
    files::config_file(path, &mut report);
    if let Configuration::Candidate(config) = &config {
        files::password(config, &mut report);
        files::hooks(config, &mut report);
    }
    let holder = files::instance(&config, &mut report);
    let is_running = holder != Holder::Nobody;
    files::pins(&config, system, holder, &mut report);
    if let Configuration::Candidate(config) = &config {
        moosefs::examine(config, is_running, &mut report);
        network::examine(config, probes, is_running, &mut report).await;
        watchdog::examine(config, holder, &mut report);
    }
    if let Some(cluster) = config.cluster() {
        cluster::examine(cluster, &config, probes, is_running, &mut report).await;
    }
    report
}

fn load(path: &Path, report: &mut Report) -> Option<Configuration> {
    match Configuration::load(path) {
        Ok(config) => {
            report.ok("configuration", format!("{} is valid", path.display()));
            Some(config)
        }
        Err(ConfigError::Invalid { problems, .. }) => {
            for problem in problems {
                let place = problem
                    .position
                    .map_or_else(String::new, |(line, column)| format!(":{line}:{column}"));
                report.add(
                    Level::Fail,
                    "configuration",
                    format!("{}{place}: {}", path.display(), problem.text),
                    None,
                );
            }
            None
        }
        Err(error @ (ConfigError::Read { .. } | ConfigError::TooLarge { .. })) => {
            report.fail(
                "configuration",
                chain(&error),
                "name another file with -c FILE",
            );
            None
        }
    }
}

#[cfg(test)]
mod tests;
