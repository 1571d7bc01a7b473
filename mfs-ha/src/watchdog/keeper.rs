//! Arms, pings and disarms the device as [`judge`] says, and tells what it cannot.

use std::time::Duration;

use mfs_ha_common::time::Timestamp;

use super::device::{Device, DeviceError, Facts};
use super::judge::{ALIVE_PART, Duty, Judgement, Told, Withheld, judge};
use crate::config;
use crate::error::chain;

/// What status shows of the device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchdogView {
    /// The driver's name for it.
    pub identity: Option<String>,
    /// Whether it fires unless it is pinged.
    pub is_armed: bool,
    /// How long after its last ping it fires: as the driver has it once it was armed, as configured before.
    pub timeout: Duration,
    /// When it was pinged last.
    pub last_ping: Option<Timestamp>,
    /// Why it is not used, or left to fire.
    pub problem: Option<String>,
}

/// Works the device. It is told the time, and waits for nothing but the device itself.
#[derive(Debug)]
pub struct Keeper<D> {
    device: D,
    configured: Duration,
    /// The driver's answer, once there was one.
    timeout: Duration,
    can_disarm: bool,
    identity: Option<String>,
    is_armed: bool,
    last_ping: Option<Timestamp>,
    withheld: Option<Withheld>,
    problem: Option<String>,
}

impl<D: Device> Keeper<D> {
    /// Tries the device out, which also disarms one that an earlier life left armed.
    ///
    /// # Errors
    /// It cannot be used, and the configuration requires it.
    pub fn prepare(
        device: D,
        config: &config::Watchdog,
        now: Timestamp,
    ) -> Result<Self, DeviceError> {
        let mut keeper = Self {
            device,
            configured: config.timeout,
            timeout: config.timeout,
            can_disarm: false,
            identity: None,
            is_armed: false,
            last_ping: None,
            withheld: None,
            problem: None,
        };
        match keeper.try_out(now) {
            Ok(()) => Ok(keeper),
            Err(error) if config.required => Err(error),
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(error, "no watchdog: tried again when this node is master");
                keeper.problem = Some(error);
                Ok(keeper)
            }
        }
    }

    /// One that cannot be disarmed is armed by nothing but need.
    fn try_out(&mut self, now: Timestamp) -> Result<(), DeviceError> {
        let facts = self.device.facts()?;
        warn_about(&facts);
        self.note(&facts);
        if self.can_disarm {
            self.arm(now)?;
            self.disarm(now);
        } else if facts.is_armed == Some(true) {
            // An earlier life did that, and this one has to go on.
            self.arm(now)?;
        }
        Ok(())
    }

    /// What is not known about a close is taken for no.
    fn note(&mut self, facts: &Facts) {
        self.can_disarm = facts.can_disarm == Some(true);
        self.identity.clone_from(&facts.identity);
    }

    /// Returns how long after its last ping the device fires.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns when to look again; `None`: when something new was told.
    #[must_use]
    pub fn pause(&self, duty: Duty) -> Option<Duration> {
        let is_at_work = self.is_armed || duty != Duty::Idle;
        is_at_work.then(|| self.timeout / ALIVE_PART)
    }

    /// Returns what to show.
    #[must_use]
    pub fn view(&self) -> WatchdogView {
        let withheld = self.withheld.filter(|_| self.is_armed);
        let fires = withheld.map(|why| format!("it is left to fire: {}", why.words()));
        WatchdogView {
            identity: self.identity.clone(),
            is_armed: self.is_armed,
            timeout: self.timeout,
            last_ping: self.last_ping,
            problem: fires.or_else(|| self.problem.clone()),
        }
    }

    /// Does what is to be done now.
    pub fn turn(&mut self, now: Timestamp, told: Told, alive_at: Timestamp) {
        match judge(now, told, alive_at, self.timeout) {
            Judgement::Withhold(why) => self.withhold(why),
            Judgement::Ping => self.feed(now),
            Judgement::Disarm if !self.is_armed => self.withheld = None,
            Judgement::Disarm if self.can_disarm => self.disarm(now),
            Judgement::Disarm => self.feed(now),
        }
    }

    /// Ends the work: the machine serves nothing any more, or perhaps it does.
    pub fn end(&mut self, now: Timestamp, is_clean: bool) {
        if !self.is_armed {
            return;
        }
        let seconds = self.timeout.as_secs();
        if !is_clean {
            tracing::error!(
                "something may be left behind: this machine is reset within {seconds} s"
            );
            self.device.leave();
        } else if self.can_disarm {
            if let Err(error) = self.device.disarm() {
                tracing::error!(%error, "the watchdog is not disarmed: this machine is reset within {seconds} s");
            }
        } else {
            self.feed(now);
            tracing::warn!(
                "the watchdog cannot be disarmed: this machine is reset in {seconds} s unless the daemon runs again"
            );
            self.device.leave();
        }
        self.is_armed = false;
    }

    fn withhold(&mut self, why: Withheld) {
        if self.is_armed && self.withheld != Some(why) {
            tracing::error!(
                reason = why.words(),
                "the watchdog is not pinged: this machine is reset within {} s",
                self.timeout.as_secs()
            );
        }
        self.withheld = Some(why);
    }

    fn feed(&mut self, now: Timestamp) {
        if self.withheld.take().is_some() && self.is_armed {
            tracing::warn!("the watchdog is pinged again");
        }
        if self.is_armed {
            match self.device.ping() {
                Ok(()) => {
                    self.last_ping = Some(now);
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, "the watchdog took no ping: opening it anew");
                    self.device.leave();
                    self.is_armed = false;
                }
            }
        }
        if let Err(error) = self.arm(now) {
            let error = Some(chain(&error));
            // It is tried again every few seconds.
            if self.problem != error {
                tracing::error!(error, "the watchdog is not armed");
                self.problem = error;
            }
        }
    }

    fn arm(&mut self, now: Timestamp) -> Result<(), DeviceError> {
        // Another driver may be behind the name by now.
        let facts = self.device.facts()?;
        self.note(&facts);
        let timeout = self.device.arm(self.configured)?;
        if timeout != self.configured && timeout != self.timeout {
            tracing::warn!(
                "the watchdog's driver made {} s of a timeout of {} s",
                timeout.as_secs(),
                self.configured.as_secs()
            );
        }
        self.timeout = timeout;
        self.is_armed = true;
        // Its timeout begins at the open.
        self.last_ping = Some(now);
        self.problem = None;
        tracing::debug!("the watchdog is armed");
        Ok(())
    }

    fn disarm(&mut self, now: Timestamp) {
        self.withheld = None;
        self.is_armed = false;
        match self.device.disarm() {
            Ok(()) => tracing::debug!("the watchdog is disarmed"),
            Err(error) => {
                tracing::error!(%error, "the watchdog cannot be disarmed: it is pinged on");
                self.feed(now);
                // Whatever its driver promises.
                self.can_disarm = false;
            }
        }
    }
}

fn warn_about(facts: &Facts) {
    match facts.can_disarm {
        Some(true) => {}
        Some(false) => tracing::warn!(
            "the watchdog cannot be disarmed (nowayout): when this node was master, the end of the daemon resets \
             the machine"
        ),
        None => tracing::warn!(
            "the kernel does not say whether the watchdog can be disarmed: it is used as one that cannot"
        ),
    }
    if facts.outlives_holder == Some(false) {
        tracing::warn!("the watchdog's driver disarms it when the daemon is killed");
    }
}

#[cfg(test)]
mod tests;
