//! The clock that decisions use, and a timer on it.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::Context as _;
use mfs_ha_common::time::Timestamp;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;

use crate::readiness;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Returns the time of `CLOCK_BOOTTIME`, the clock that arrival times are stamped with.
#[must_use]
pub fn now() -> Timestamp {
    // The clock exists since Linux 2.6.39 and cannot fail with a valid address.
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .unwrap_or_else(|_errno| TimeSpec::new(0, 0));
    let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
    let nanos = u64::try_from(time.tv_nsec()).unwrap_or_default();
    Timestamp::from_nanos(seconds * NANOS_PER_SECOND + nanos)
}

/// A timer that fires at a [`Timestamp`]. tokio's own timers count neither the time that a machine was
/// suspended nor less than a millisecond.
#[derive(Debug)]
pub struct BootTimer {
    timer: TimerFd,
    readiness: AsyncFd<OwnedFd>,
    armed: Option<Timestamp>,
}

impl BootTimer {
    /// Makes a disarmed timer. Call it within a tokio runtime.
    ///
    /// # Errors
    /// No file descriptors left.
    pub fn new() -> anyhow::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags).context("create a timer")?;
        let fd = timer
            .as_fd()
            .try_clone_to_owned()
            .context("create a timer")?;
        Ok(Self {
            timer,
            readiness: readiness::watch(fd).context("watch a timer")?,
            armed: None,
        })
    }

    /// Sets when it fires; `None` disarms it. A time in the past fires at once.
    ///
    /// # Errors
    /// The kernel refuses the time.
    pub fn arm(&mut self, at: Option<Timestamp>) -> anyhow::Result<()> {
        if self.armed == at {
            return Ok(());
        }
        match at {
            None => self.timer.unset(),
            Some(at) => {
                let nanos = at.as_nanos().max(1);
                let seconds = i64::try_from(nanos / NANOS_PER_SECOND).unwrap_or(i64::MAX);
                let rest = i64::try_from(nanos % NANOS_PER_SECOND).unwrap_or_default();
                self.timer.set(
                    Expiration::OneShot(TimeSpec::new(seconds, rest)),
                    TimerSetTimeFlags::TFD_TIMER_ABSTIME,
                )
            }
        }
        .context("arm a timer")?;
        self.armed = at;
        Ok(())
    }

    /// Waits until it fires. Cancel-safe: a firing that is not waited for is seen by the next call.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn fired(&mut self) -> anyhow::Result<()> {
        self.readiness
            .readable()
            .await
            .context("wait for a timer")?
            .clear_ready();
        // The same time may be set again: it must fire again.
        self.armed = None;
        Ok(())
    }
}
