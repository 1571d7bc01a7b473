//! What one seed is about: who is there, how fast, and what the world does to them.

use std::time::Duration;

use mfs_ha_common::cluster::Timing;

use crate::rng::Rng;

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1000 * MS;

/// A range of durations in nanoseconds, both ends included.
pub(crate) type Span = (u64, u64);

impl Rng {
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }
}

/// How the world treats frames, disks and processes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conditions {
    pub(crate) delay: Span,
    pub(crate) loss_percent: u64,
    pub(crate) duplicate_percent: u64,
    /// From a deadline or a frame to the daemon's turn.
    pub(crate) wake_up: Span,
    pub(crate) store: Span,
    pub(crate) freeze: Span,
    pub(crate) step: Span,
    pub(crate) vip: Span,
}

impl Conditions {
    /// Time to spare: what hides nothing costs nothing. Half of the seeds freeze and store in no time, else they
    /// would hide mistakes that need an answer at once.
    fn calm(rng: &mut Rng) -> Self {
        let (store, freeze) = if rng.percent(50) {
            ((0, 0), (0, 0))
        } else {
            ((200_000, 8 * MS), (MS, 15 * MS))
        };
        // A margin of a few milliseconds shows only where nothing else takes that long.
        let (delay, wake_up) = if rng.percent(50) {
            ((5_000, 40_000), (0, 20_000))
        } else {
            ((20_000, 500_000), (0, 500_000))
        };
        Self {
            delay,
            loss_percent: 0,
            duplicate_percent: 0,
            wake_up,
            store,
            freeze,
            step: (MS, 30 * MS),
            vip: (100_000, 2 * MS),
        }
    }
}

/// One seed's cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) candidates: usize,
    pub(crate) witnesses: usize,
    pub(crate) timing: Timing,
    pub(crate) has_metadata: bool,
    /// Kernels close what the daemon does not renew.
    pub(crate) is_gated: bool,
    /// Clocks run at rates that differ by at most this, in parts per million.
    pub(crate) drift_ppm: u64,
    pub(crate) calm: Conditions,
    /// A member is added by a second generation of the list.
    pub(crate) grows: bool,
    /// A node's disk may come back as it was before.
    pub(crate) rolls_back: bool,
    /// From start to the end of the faults, and the quiet after them.
    pub(crate) stormy: u64,
    pub(crate) quiet: u64,
}

impl Plan {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let (candidates, witnesses) = match rng.below(20) {
            0..11 => (3, 0),
            11..15 => (2, 1),
            15..17 => (5, 0),
            17 => (4, 0),
            18 => (3, 2),
            _ => (2, 0),
        };
        let is_fast = rng.percent(40);
        let timing = if is_fast {
            Timing {
                interval: Duration::from_millis(10),
                lease: Duration::from_millis(60),
            }
        } else {
            Timing::DEFAULT
        };
        Self {
            candidates,
            witnesses,
            timing,
            has_metadata: rng.percent(60),
            // Drawn beside the others: the seeds that show what each rule is for stay those that do.
            is_gated: rng.clone().percent(80) && std::env::var_os("MFS_HA_UNGATED").is_none(),
            drift_ppm: if rng.percent(70) { 10_000 } else { 0 },
            calm: Conditions::calm(rng),
            grows: rng.percent(12) || std::env::var_os("MFS_HA_GROWS").is_some(),
            rolls_back: rng.percent(5),
            stormy: if is_fast { 3 * SECOND } else { 7 * SECOND },
            quiet: if is_fast { SECOND } else { 3 * SECOND },
        }
    }

    pub(crate) fn members(&self) -> usize {
        self.candidates + self.witnesses
    }

    /// T and H in nanoseconds.
    pub(crate) fn lease(&self) -> u64 {
        nanos(self.timing.lease)
    }

    pub(crate) fn interval(&self) -> u64 {
        nanos(self.timing.interval)
    }
}

pub(crate) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
