//! The signals that the daemon obeys.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Leave; by the name of the signal.
    Stop(&'static str),
    /// Write the state into the log.
    Show,
}

/// The signals that mean something. ucarp's users send SIGUSR1 to see the state.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    show: Signal,
    demote: Signal,
}

impl Signals {
    /// Starts to watch.
    ///
    /// # Errors
    /// The process cannot watch for signals.
    pub fn new() -> anyhow::Result<Self> {
        let watch = |kind| signal(kind).context("watch for signals");
        Ok(Self {
            terminate: watch(SignalKind::terminate())?,
            interrupt: watch(SignalKind::interrupt())?,
            quit: watch(SignalKind::quit())?,
            hangup: watch(SignalKind::hangup())?,
            show: watch(SignalKind::user_defined1())?,
            demote: watch(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next one. Cancel-safe.
    pub async fn next(&mut self) -> Asked {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Asked::Stop("SIGTERM"),
                _ = self.interrupt.recv() => return Asked::Stop("SIGINT"),
                _ = self.quit.recv() => return Asked::Stop("SIGQUIT"),
                _ = self.hangup.recv() => return Asked::Stop("SIGHUP"),
                _ = self.show.recv() => return Asked::Show,
                _ = self.demote.recv() => {
                    tracing::warn!("SIGUSR2 makes ucarp step down; mfs-ha ignores it: use SIGTERM");
                }
            }
        }
    }
}
