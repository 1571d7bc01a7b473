//! The part of the status that shows the watchdog: whether it is armed, and whether somebody pings it.

use std::fmt;
use std::path::Path;

use mfs_ha_common::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::{millis, seconds};
use crate::watchdog::WatchdogView;

/// The watchdog of this node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WatchdogStatus {
    /// Its path.
    pub device: String,
    /// What its driver calls it, if it tells.
    pub driver: Option<String>,
    /// Whether it resets the machine unless it is pinged: while this node serves, or still has to give up.
    pub armed: bool,
    /// How long after its last ping it does so.
    pub timeout_s: u64,
    /// Age of the last ping; absent before the first one.
    pub last_ping_age_ms: Option<u64>,
    /// Why it is not used, or left to fire.
    pub problem: Option<String>,
}

impl WatchdogStatus {
    /// Shows a view.
    #[must_use]
    pub fn new(device: &Path, view: &WatchdogView, at: Timestamp) -> Self {
        Self {
            device: device.display().to_string(),
            driver: view.identity.clone(),
            armed: view.is_armed,
            timeout_s: view.timeout.as_secs(),
            last_ping_age_ms: view.last_ping.map(|ping| millis(at.since(ping))),
            problem: view.problem.clone(),
        }
    }
}

impl fmt::Display for WatchdogStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "watchdog    {}", self.device)?;
        if let Some(driver) = &self.driver {
            write!(f, " ({driver})")?;
        }
        match self.last_ping_age_ms.filter(|_| self.armed) {
            Some(age) => write!(
                f,
                " armed, resets {} s after a ping, last {} ago",
                self.timeout_s,
                seconds(age)
            )?,
            None => write!(f, " not armed")?,
        }
        if let Some(problem) = &self.problem {
            write!(f, ": {problem}")?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    fn status(view: &WatchdogView) -> WatchdogStatus {
        WatchdogStatus::new(Path::new("/dev/watchdog"), view, at(5000))
    }

    #[test]
    fn there_is_one_line_about_it() {
        let mut view = WatchdogView {
            identity: Some("Software Watchdog".to_owned()),
            is_armed: true,
            timeout: Duration::from_secs(10),
            last_ping: Some(at(3800)),
            problem: None,
        };
        assert_eq!(
            status(&view).to_string(),
            "watchdog    /dev/watchdog (Software Watchdog) armed, resets 10 s after a ping, last 1.200 s ago\n"
        );
        view.problem = Some("it is left to fire".to_owned());
        assert!(
            status(&view)
                .to_string()
                .ends_with("ago: it is left to fire\n")
        );
        let view = WatchdogView {
            problem: Some("there is no /dev/watchdog".to_owned()),
            ..WatchdogView::default()
        };
        assert_eq!(
            status(&view).to_string(),
            "watchdog    /dev/watchdog not armed: there is no /dev/watchdog\n"
        );
    }

    #[test]
    fn the_document_has_what_the_operator_looks_for() {
        let view = WatchdogView {
            identity: None,
            is_armed: true,
            timeout: Duration::from_secs(10),
            last_ping: Some(at(3800)),
            problem: None,
        };
        assert_eq!(
            serde_json::to_value(status(&view)).unwrap(),
            serde_json::json!({
                "device": "/dev/watchdog", "driver": null, "armed": true, "timeout_s": 10,
                "last_ping_age_ms": 1200, "problem": null,
            })
        );
    }
}
