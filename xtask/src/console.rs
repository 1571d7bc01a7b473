//! How the commands report progress: on stderr, so that stdout carries results only.

use std::time::{Duration, Instant};

use anyhow::Result;

/// Runs one step under a line that names it and a line that says how long it took.
///
/// # Errors
/// The step's own error.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("xtask: {what}");
    let started = Instant::now();
    let result = work()?;
    eprintln!("xtask: {what}: done in {}", seconds(started.elapsed()));
    Ok(result)
}

/// Prints one line of progress.
pub(crate) fn note(text: &str) {
    eprintln!("xtask: {text}");
}

/// Formats a duration for a person.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
