//! The real ucarp on a node.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Result, bail};
use nix::sys::signal::Signal;

use super::process::{Launch, Supervised};
use super::write_file;
use crate::net::topology::Topology;
use crate::requirements::require_tools;
use crate::wait::wait_until;
use crate::{PASSWORD, PREFIX_LENGTH, VHID, VIP};

/// How ucarp is started.
#[derive(Clone, Debug)]
pub struct UcarpOptions {
    /// Seconds between adverts. Below 1 two ucarps flap (they count one lost interval as a death).
    pub advbase: u8,
    /// 1/256 seconds on top.
    pub advskew: u8,
    /// Whether it displaces a worse master.
    pub preempt: bool,
    /// Whether it leaves the down script alone when it starts.
    pub neutral: bool,
    /// CARP password.
    pub password: String,
    /// Whether it goes on when this process ends.
    pub outlives_us: bool,
}

impl UcarpOptions {
    /// The defaults of ucarp with a given skew.
    pub fn with_skew(advskew: u8) -> Self {
        Self {
            advbase: 1,
            advskew,
            preempt: false,
            neutral: false,
            password: PASSWORD.to_owned(),
            outlives_us: false,
        }
    }
}

/// What ucarp says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UcarpState {
    /// Listening.
    Backup,
    /// Advertising.
    Master,
}

/// A running ucarp.
#[derive(Debug)]
pub struct Ucarp {
    process: Supervised,
    /// Where this run begins in the log.
    log_start: usize,
}

impl Ucarp {
    /// Starts ucarp on a node, with scripts that add and remove the VIP.
    ///
    /// # Errors
    /// When ucarp is not installed or cannot be started.
    pub fn start(topology: &Topology, node: usize, options: &UcarpOptions) -> Result<Self> {
        require_tools(&["ucarp"])?;
        let node = topology.node(node)?;
        let file = |suffix: &str| -> PathBuf {
            topology
                .directory()
                .join(format!("n{}.ucarp{suffix}", node.index))
        };
        write_file(&file(".secret"), 0o600, &format!("{}\n", options.password))?;
        for (suffix, verb) in [("-up", "add"), ("-down", "del")] {
            let script =
                format!("#!/bin/sh\nexec ip addr {verb} {VIP}/{PREFIX_LENGTH} dev \"$1\"\n");
            write_file(&file(suffix), 0o755, &script)?;
        }
        let mut words: Vec<String> = [
            ("--interface", "eth0".to_owned()),
            ("--srcip", node.address.to_string()),
            ("--vhid", VHID.to_string()),
            ("--passfile", file(".secret").display().to_string()),
            ("--addr", VIP.to_string()),
            ("--advbase", options.advbase.to_string()),
            ("--advskew", options.advskew.to_string()),
            ("--upscript", file("-up").display().to_string()),
            ("--downscript", file("-down").display().to_string()),
        ]
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
        words.extend(["--shutdown", "--facility=none"].map(str::to_owned));
        if options.preempt {
            words.push("--preempt".to_owned());
        }
        if options.neutral {
            words.push("--neutral".to_owned());
        }
        let log = file(".log");
        let log_start = std::fs::metadata(&log).map_or(0, |meta| meta.len());
        let name = format!("ucarp on n{}", node.index);
        let mut launch = Launch::new(&name, &log, "ucarp")
            .args(words)
            .inside(&node.namespace);
        if options.outlives_us {
            launch = launch.outliving_us();
        }
        Ok(Self {
            process: launch.spawn()?,
            log_start: usize::try_from(log_start)?,
        })
    }

    /// The process.
    pub fn process(&mut self) -> &mut Supervised {
        &mut self.process
    }

    /// The states that this run went through, oldest first.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn states(&self) -> Result<Vec<UcarpState>> {
        let log = self.process.log_text()?;
        Ok(states_in(log.get(self.log_start..).unwrap_or_default()))
    }

    /// What it says that it is.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn state(&self) -> Result<Option<UcarpState>> {
        Ok(self.states()?.last().copied())
    }

    /// Waits until it says that it is in `wanted`.
    ///
    /// # Errors
    /// When it does not within `limit`, or ends.
    pub fn wait_state(&mut self, wanted: UcarpState, limit: Duration) -> Result<()> {
        wait_until(&format!("ucarp to be {wanted:?}"), limit, || {
            self.process.check_running()?;
            Ok((self.state()? == Some(wanted)).then_some(()))
        })
    }

    /// Kills it with SIGKILL: its VIP stays behind.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Ends it in good order: its down script removes the VIP, no advert says so.
    ///
    /// # Errors
    /// When it does not end with status 0 within ten seconds.
    pub fn terminate(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)?;
        let status: ExitStatus = self.process.wait(Duration::from_secs(10))?;
        if !status.success() {
            bail!("ucarp ended with {status}");
        }
        Ok(())
    }
}

fn states_in(log: &str) -> Vec<UcarpState> {
    log.lines()
        .filter_map(|line| line.split_once("Switching to state: "))
        .filter_map(|(_, state)| match state.trim() {
            "MASTER" => Some(UcarpState::Master),
            "BACKUP" => Some(UcarpState::Backup),
            _ => None,
        })
        .collect()
}

/// What the log of a ucarp says that it is, for a lab that was started earlier.
pub fn state_in_log(log: &str) -> Option<UcarpState> {
    states_in(log).last().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_read_from_the_log() {
        let log = "2026-01-01T00:00:00.000001: [WARNING] Switching to state: BACKUP\n\
                   2026-01-01T00:00:00.000002: [WARNING] Spawning [/x eth0 10.77.0.100]\n\
                   2026-01-01T00:00:03.000003: [WARNING] Switching to state: MASTER\n";
        assert_eq!(states_in(log), [UcarpState::Backup, UcarpState::Master]);
        assert_eq!(state_in_log(log), Some(UcarpState::Master));
        assert_eq!(state_in_log(""), None);
    }
}
