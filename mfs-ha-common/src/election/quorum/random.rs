//! Random pauses, from a seed: the same events give the same actions.

use core::time::Duration;

/// SplitMix64: no secret rests on it, it only keeps candidates from walking in step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a time of less than `limit`.
    pub(super) fn below(&mut self, limit: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(mixed.checked_rem(limit).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_below_their_limit_and_differ() {
        let mut random = Random::new(1);
        let limit = Duration::from_millis(150);
        let drawn: std::vec::Vec<Duration> = (0..100).map(|_| random.below(limit)).collect();
        assert!(drawn.iter().all(|pause| *pause < limit));
        assert!(drawn.windows(2).any(|pair| pair[0] != pair[1]));
        assert_eq!(random.below(Duration::ZERO), Duration::ZERO);
    }
}
