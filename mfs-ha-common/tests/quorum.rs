//! The very node that ships, several of them, under a network, clocks, disks and processes that misbehave.
//!
//! `MFS_HA_SEEDS` sets how many seeds are run, `MFS_HA_SEED` a single one; with `MFS_HA_GROWS` every cluster gets new
//! members. A failure names its seed and leaves a recording that replays: `MFS_HA_REPLAY=FOLDER cargo test -p mfs-ha-common --test quorum replay`.

#[path = "quorum/judge.rs"]
mod judge;
#[path = "quorum/member.rs"]
mod member;
#[path = "quorum/plan.rs"]
mod plan;
#[path = "quorum/record.rs"]
mod record;
#[path = "support/rng.rs"]
mod rng;
#[path = "quorum/storm.rs"]
mod storm;
#[path = "quorum/world.rs"]
mod world;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use plan::MS;

/// Seeds of a usual run; `cargo xtask sim` takes more.
const SEEDS: u64 = 400;

/// Of a course that is looked for by itself. Counted from when the voter became free, one in a hundred breaks the rule.
const COURSES: u64 = 400;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    Some(parsed.unwrap_or_else(|e| panic!("{variable}={text}: {e}")))
}

/// Runs a seed again, recorded, and says where the recording lies.
fn keep(seed: u64) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("quorum-seed-{seed}"));
    let recording = storm::run(seed, true).recording.expect("it was asked for");
    recording
        .write(&folder)
        .expect("the recording can be written");
    folder
}

#[test]
fn no_seed_breaks_a_rule() {
    let first = number("MFS_HA_SEED")
        .or_else(|| number("MFS_HA_FIRST_SEED"))
        .unwrap_or(0);
    let count = if number("MFS_HA_SEED").is_some() {
        1
    } else {
        number("MFS_HA_SEEDS").unwrap_or(SEEDS)
    };
    let (next, takeovers, leaseless) =
        (AtomicU64::new(first), AtomicU64::new(0), AtomicU64::new(0));
    let failed = Mutex::new(None::<(u64, String)>);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || failed.lock().expect("not poisoned").is_some() {
                        return;
                    }
                    let outcome = storm::run(seed, false);
                    takeovers.fetch_add(outcome.takeovers, Ordering::Relaxed);
                    leaseless.fetch_max(outcome.leaseless_max, Ordering::Relaxed);
                    if let Some(violation) = outcome.violation {
                        *failed.lock().expect("not poisoned") = Some((seed, violation));
                    }
                }
            });
        }
    });
    if let Some((seed, violation)) = failed.into_inner().expect("not poisoned") {
        let folder = keep(seed);
        panic!("seed {seed}: {violation}\nrecorded in {}", folder.display());
    }
    let (takeovers, leaseless) = (takeovers.into_inner(), leaseless.into_inner() / MS);
    println!(
        "{count} seeds, {takeovers} takeovers, at most {leaseless} ms without a lease where one was possible"
    );
    assert!(count < 10 || takeovers > count, "hardly anything happened");
}

/// S2 where a voter has been free for long before there is a majority (rule L1b).
#[test]
fn who_wakes_late_does_not_outrun_the_freshest() {
    let mut takeovers = 0;
    for seed in 0..COURSES {
        let outcome = storm::wake_late(seed);
        assert_eq!(outcome.violation, None, "seed {seed}");
        takeovers += outcome.takeovers;
    }
    // The one that dies, and its successor.
    assert!(takeovers > COURSES * 3 / 2, "{takeovers}");
}

#[test]
fn a_recording_replays_to_the_same_decisions() {
    let folder = match std::env::var_os("MFS_HA_REPLAY") {
        Some(folder) => PathBuf::from(folder),
        None => keep(3),
    };
    let mut turns = 0;
    for entry in std::fs::read_dir(&folder).expect("a folder of recordings") {
        turns += record::replay(&entry.expect("an entry").path());
    }
    assert!(turns > 100, "{turns} turns in {}", folder.display());
}
