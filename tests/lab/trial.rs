//! How a test whose verdict hangs on milliseconds is run on a machine that is shared with others.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any, resume_unwind};

use anyhow::{Context as _, Result};

use crate::judge::stalls::StallWatch;
use crate::scenario::Finding;
use crate::serial;

/// A machine that stands still in each of so many trials is no place to judge a failover.
const TRIALS_MAX: usize = 3;

/// What a trial panics with when no stall excuses it.
#[derive(Debug)]
struct Inexcusable;

/// Runs `trial`, and runs it again if it failed while the machine itself stood still.
///
/// A failure on a machine that did not stand still is one, at once, and so is an owner too many for [`assert_owners`]. What is run again is told on standard error, past
/// the capture of a test that passes in the end. As with [`serial`], no other test of the binary runs meanwhile.
///
/// # Panics
/// As the trial does; when the machine cannot be watched.
#[expect(
    clippy::unwrap_used,
    reason = "this is a test's own body, which fails by panicking"
)]
pub fn undisturbed(mut trial: impl FnMut()) {
    let _serial = serial();
    for number in 1.. {
        let watch = StallWatch::start().unwrap();
        let Err(panic) = catch_unwind(AssertUnwindSafe(&mut trial)) else {
            return;
        };
        let stall = watch.end().filter(|_| !panic.is::<Inexcusable>());
        let Some(stall) = stall else {
            resume_unwind(panic);
        };
        tell(&format!("trial {number} failed, and {stall} in it")).unwrap();
        if number == TRIALS_MAX {
            resume_unwind(panic);
        }
    }
}

/// Checks how many nodes owned the VIP at most. One too many is not excused: leases are to rule that out on any machine,
/// however often it stands still.
///
/// # Panics
/// When it is another number.
#[track_caller]
#[expect(clippy::panic, reason = "so do the assertions of tests")]
pub fn assert_owners(finding: &Finding, expected: usize) {
    if finding.owners_max > expected {
        tell(&format!("no stall excuses this: {finding}")).ok();
        panic_any(Inexcusable);
    }
    assert_eq!(finding.owners_max, expected, "{finding}");
}

/// Writes where a test's output is not captured.
fn tell(what: &str) -> Result<()> {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    writeln!(std::io::stderr(), "{name}: {what}").context("write to standard error")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::judge::stalls::occupy;

    /// How often the trial ran, and whether it passed in the end.
    fn run(mut trial: impl FnMut(usize)) -> (usize, bool) {
        let mut trials = 0;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            undisturbed(|| {
                trials += 1;
                trial(trials);
            });
        }));
        (trials, outcome.is_ok())
    }

    fn stand_still() {
        occupy(0, Duration::from_millis(150)).unwrap();
    }

    #[test]
    fn what_passes_runs_once() {
        assert_eq!(run(|_trial| stand_still()), (1, true));
    }

    #[test]
    fn what_fails_on_a_machine_that_stood_still_runs_again() {
        let outcome = run(|trial| {
            if trial == 1 {
                stand_still();
                panic!("too late");
            }
        });
        assert_eq!(outcome, (2, true));
    }

    #[test]
    fn a_second_owner_is_never_excused() {
        let finding = Finding {
            owners_max: 2,
            ..Finding::default()
        };
        let outcome = run(|_trial| {
            stand_still();
            assert_owners(&finding, 1);
        });
        assert_eq!(outcome, (1, false));
    }

    #[test]
    fn a_failure_without_a_stall_is_one() {
        let mut is_quiet = false;
        // The machine that runs this may stand still by itself, but not in every trial.
        for _ in 0..10 {
            is_quiet |= run(|_trial| panic!("wrong")) == (1, false);
        }
        assert!(is_quiet);
    }

    #[test]
    fn a_machine_that_always_stands_still_excuses_nothing() {
        let outcome = run(|_trial| {
            stand_still();
            panic!("too late");
        });
        assert_eq!(outcome, (TRIALS_MAX, false));
    }
}
