//! `[watchdog]`: the device that resets this machine when nobody watches over what it serves.

use std::path::PathBuf;
use std::time::Duration;

use super::section::{Section, boolean, integer};
use super::values::absolute_path;

/// Unless configured.
const TIMEOUT_S: u64 = 10;

/// `[watchdog]`; without it there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watchdog {
    /// The device; an absolute path.
    pub device: PathBuf,
    /// How long after its last ping it resets the machine; whole seconds, 1 to 600.
    pub timeout: Duration,
    /// The daemon does not start without it.
    pub required: bool,
}

pub(super) const KEYS: &[&str] = &["device", "timeout_s", "required"];

/// Reads the table; `None` when there is none.
pub(super) fn read(
    root: &mut Section<'_, '_>,
    explain: impl Fn(&str, &str) -> String,
) -> Option<Watchdog> {
    let mut table = root.table("watchdog");
    if !table.is_present() {
        return None;
    }
    let device = table.require(
        "device",
        "the path of a watchdog device, such as \"/dev/watchdog\"",
        absolute_path,
    );
    let timeout_s = table.take("timeout_s", "a number of seconds from 1 to 600", |value| {
        integer::<u64>(value, 1..=600)
    });
    let required = table.take("required", "true or false", boolean);
    table.finish(explain);
    Some(Watchdog {
        device: device?.value,
        timeout: Duration::from_secs(timeout_s.map_or(TIMEOUT_S, |timeout| timeout.value)),
        required: required.is_some_and(|required| required.value),
    })
}
