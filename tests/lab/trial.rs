//! How a test whose verdict hangs on milliseconds is run on a machine that is shared with others.

use std::io::Write as _;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::judge::stalls::{Stall, StallWatch};
use crate::serial;

/// A machine that stands still in each of so many trials is no place to judge a failover.
const TRIALS_MAX: usize = 3;

/// How a line begins that tells of a trial that is repeated; `cargo xtask test` counts them.
const REPEATED: &str = "trial repeated: ";

/// Characters that are told of a failure.
const SUMMARY_MAX: usize = 400;

/// The first panic of the running trial: no later one is the cause.
static FAILURE: Mutex<Option<Failure>> = Mutex::new(None);

/// Whether the running trial saw two owners where a lease rules that out.
static HAD_TWO_OWNERS: AtomicBool = AtomicBool::new(false);

#[derive(Debug)]
struct Failure {
    at: Instant,
    summary: String,
}

/// Runs `trial`, and runs it again if it failed after the machine itself had stood still.
///
/// A failure on a machine that did not stand still is one, at once. Two owners where [`two_owners_are_ruled_out`] are
/// one, too, however often the machine stands still. What is repeated is told past the capture of a test that passes in
/// the end. As with [`serial`], no other test of the binary runs meanwhile.
///
/// [`two_owners_are_ruled_out`]: crate::scenario::Arena::two_owners_are_ruled_out
///
/// # Panics
/// As the trial does; when the machine cannot be watched; when there were two owners.
pub fn undisturbed(trial: impl FnMut()) {
    repeat(trial, tell);
}

#[expect(
    clippy::unwrap_used,
    reason = "this is a test's own body, which fails by panicking"
)]
fn repeat(mut trial: impl FnMut(), mut tell: impl FnMut(&str) -> Result<()>) {
    let _serial = serial();
    note_failures();
    for number in 1.. {
        HAD_TWO_OWNERS.store(false, Ordering::Relaxed);
        take_failure();
        let watch = StallWatch::start().unwrap();
        let outcome = catch_unwind(AssertUnwindSafe(&mut trial));
        let stalls = watch.end();
        let had_two = HAD_TWO_OWNERS.load(Ordering::Relaxed);
        assert!(!had_two, "two nodes answered one question for the VIP");
        let Err(panic) = outcome else {
            return;
        };
        let excused = take_failure().and_then(|failure| {
            let stall = longest_before(&stalls, failure.at)?;
            Some(format!("{stall} before it {}", failure.summary))
        });
        let Some(excused) = excused.filter(|_| number < TRIALS_MAX) else {
            resume_unwind(panic);
        };
        tell(&excused).unwrap();
    }
}

/// To be called when a lease was broken. The trial fails then, whatever becomes of it.
pub(crate) fn note_two_owners() {
    HAD_TWO_OWNERS.store(true, Ordering::Relaxed);
}

fn longest_before(stalls: &[Stall], failure: Instant) -> Option<Stall> {
    let before = stalls.iter().filter(|stall| stall.from < failure);
    before.max_by_key(|stall| stall.length).copied()
}

fn take_failure() -> Option<Failure> {
    FAILURE
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take()
}

/// Has each first panic noted, besides being printed as usual: unwinding takes a lab down, which takes time, and what
/// was printed is lost if the test passes in the end.
fn note_failures() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            FAILURE
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert_with(|| Failure {
                    at: Instant::now(),
                    summary: summary(info),
                });
            usual(info);
        }));
    });
}

fn summary(info: &PanicHookInfo<'_>) -> String {
    let words = info.to_string();
    let words = words.split_whitespace().flat_map(|word| [" ", word]);
    let line: String = words.skip(1).collect();
    line.chars().take(SUMMARY_MAX).collect()
}

/// Writes where a test's output is not captured. The harness may have begun a line.
fn tell(what: &str) -> Result<()> {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    let mut out = std::io::stdout();
    writeln!(out, "\n{REPEATED}{name}: {what}")
        .and_then(|()| out.flush())
        .context("write to standard output")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::judge::stalls::occupy;

    /// How often the trial ran, whether it passed in the end, and what was told.
    fn run(mut trial: impl FnMut(usize)) -> (usize, bool, Vec<String>) {
        let mut trials = 0;
        let mut told = Vec::new();
        let trial = || {
            trials += 1;
            trial(trials);
        };
        let tell = |what: &str| {
            told.push(what.to_owned());
            Ok(())
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| repeat(trial, tell)));
        (trials, outcome.is_ok(), told)
    }

    fn stand_still() {
        occupy(Duration::from_millis(150)).unwrap();
    }

    #[test]
    fn what_passes_runs_once() {
        assert_eq!(run(|_trial| stand_still()), (1, true, vec![]));
    }

    #[test]
    fn what_fails_after_the_machine_stood_still_runs_again() {
        let (trials, has_passed, told) = run(|trial| {
            if trial == 1 {
                stand_still();
                panic!("too\nlate");
            }
        });
        assert_eq!((trials, has_passed), (2, true));
        let [told] = told.as_slice() else {
            panic!("{told:?}");
        };
        assert!(told.contains("stood still for 1"), "{told}");
        assert!(told.contains("trial.rs:"), "{told}");
        assert!(told.ends_with("too late"), "{told}");
    }

    /// Stands still when it is dropped, as a lab may that is taken down.
    struct SlowEnd;

    impl Drop for SlowEnd {
        fn drop(&mut self) {
            stand_still();
        }
    }

    /// The machine that runs this may stand still by itself, but not before each of ten failures.
    fn is_a_failure_at_once(trial: impl Fn()) -> bool {
        (0..10).any(|_| run(|_trial| trial()) == (1, false, vec![]))
    }

    #[test]
    fn what_fails_without_a_stall_before_it_fails() {
        assert!(is_a_failure_at_once(|| panic!("wrong")));
        assert!(is_a_failure_at_once(|| {
            let _end = SlowEnd;
            panic!("wrong");
        }));
    }

    #[test]
    fn two_owners_are_never_excused() {
        let lost_on_the_way = run(|_trial| {
            stand_still();
            note_two_owners();
            panic!("something else");
        });
        assert_eq!(lost_on_the_way, (1, false, vec![]));
        assert_eq!(run(|_trial| note_two_owners()), (1, false, vec![]));
    }

    #[test]
    fn a_machine_that_always_stands_still_excuses_nothing() {
        let (trials, has_passed, _) = run(|_trial| {
            stand_still();
            panic!("too late");
        });
        assert_eq!((trials, has_passed), (TRIALS_MAX, false));
    }
}
