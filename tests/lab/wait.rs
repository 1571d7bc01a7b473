//! Waiting on conditions with a deadline: the lab's only way to let time pass without a measurement.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// How often a condition is looked at. Conditions that need better resolution are timestamped by the kernel.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Calls `probe` until it yields a value, fails, or `limit` is over.
///
/// # Errors
/// The probe's own error, a missed deadline (naming `what`), or an interrupt by the user.
pub fn wait_until<T>(
    what: &str,
    limit: Duration,
    probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    wait_until_every(POLL_INTERVAL, what, limit, probe)
}

/// As [`wait_until`], for a probe that costs too much to be called a hundred times a second.
///
/// # Errors
/// As [`wait_until`].
pub fn wait_until_every<T>(
    interval: Duration,
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe().with_context(|| format!("while waiting for {what}"))? {
            return Ok(value);
        }
        if interrupted() {
            bail!("interrupted while waiting for {what}");
        }
        if Instant::now() >= deadline {
            bail!("waited {limit:?} in vain for {what}");
        }
        thread::sleep(interval);
    }
}

/// Lets `duration` pass as part of a scenario (a phase, an observation window), not to await anything.
///
/// # Errors
/// When the user interrupts.
pub fn observe_for(duration: Duration) -> Result<()> {
    let end = Instant::now() + duration;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        if interrupted() {
            bail!("interrupted");
        }
        thread::sleep(left.min(Duration::from_millis(100)));
    }
}

fn flag() -> &'static Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    FLAG.get_or_init(|| Arc::new(AtomicBool::new(false)))
}

/// Makes SIGINT, SIGTERM and SIGHUP end every wait with an error, so that destructors clean up.
///
/// A second signal ends the process at once: cleaning up must not be able to trap the user.
///
/// # Errors
/// When a handler cannot be installed.
pub fn end_waits_on_signals() -> Result<()> {
    for signal in [
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
    ] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(flag()))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(flag())))
            .context("install a signal handler")?;
    }
    Ok(())
}

/// Whether the user asked to stop.
pub fn interrupted() -> bool {
    flag().load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_ends_the_wait() {
        let mut calls = 0;
        let got = wait_until("three calls", Duration::from_secs(5), || {
            calls += 1;
            Ok((calls == 3).then_some(calls))
        });
        assert_eq!(got.unwrap(), 3);
    }

    #[test]
    fn a_missed_deadline_names_what_was_awaited() {
        let got = wait_until::<()>("a miracle", Duration::from_millis(20), || Ok(None));
        assert_eq!(
            got.unwrap_err().to_string(),
            "waited 20ms in vain for a miracle"
        );
    }

    #[test]
    fn an_error_of_the_probe_ends_the_wait() {
        let got = wait_until::<()>("a miracle", Duration::from_secs(5), || bail!("broken"));
        assert_eq!(
            format!("{:#}", got.unwrap_err()),
            "while waiting for a miracle: broken"
        );
    }
}
