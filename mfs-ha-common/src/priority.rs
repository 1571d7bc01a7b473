//! advbase and advskew, and the intervals that follow from them.

use core::cmp::Ordering;
use core::time::Duration;

use crate::net::Ipv4;

/// The advskew of a node that is not well, as FreeBSD and ucarp advertise it.
pub const DEMOTED_ADVSKEW: u8 = 240;

/// An advertisement interval: advbase whole seconds and advskew 1/256 s. The lower one wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Priority {
    // The order of the fields is the order of comparison: advskew is always less than one second.
    advbase: u8,
    advskew: u8,
}

impl Priority {
    /// What a leaving master says in its last advert.
    pub const BOW_OUT: Self = Self::new(255, 255);

    /// Joins advbase (seconds) and advskew (1/256 s).
    #[must_use]
    pub const fn new(advbase: u8, advskew: u8) -> Self {
        Self { advbase, advskew }
    }

    /// Returns the whole seconds.
    #[must_use]
    pub const fn advbase(self) -> u8 {
        self.advbase
    }

    /// Returns the 1/256 seconds.
    #[must_use]
    pub const fn advskew(self) -> u8 {
        self.advskew
    }

    /// Returns the interval between two adverts.
    #[must_use]
    pub fn interval(self) -> Duration {
        Duration::from_secs(self.advbase.into()).saturating_add(self.slot())
    }

    /// Returns the part of the interval that ranks nodes of one advbase: advskew/256 s, cut to whole
    /// microseconds as ucarp does.
    #[must_use]
    pub fn slot(self) -> Duration {
        let micros = u64::from(self.advskew).saturating_mul(1_000_000) >> 8;
        Duration::from_micros(micros)
    }
}

/// Decides between two equal priorities by source address: `Less` wins.
///
/// ucarp compares the address as the CPU loads it, on x86 and ARM with the last octet most significant.
/// Any other order makes two masters that both believe they won.
#[must_use]
pub fn tie_break(own: Ipv4, other: Ipv4) -> Ordering {
    u32::from_le_bytes(own).cmp(&u32::from_le_bytes(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shorter_interval_is_the_better_priority() {
        let all: std::vec::Vec<Priority> = (0..=255)
            .flat_map(|base| (0..=255).map(move |skew| Priority::new(base, skew)))
            .collect();
        assert!(all.is_sorted());
        assert!(
            all.windows(2)
                .all(|pair| pair[0].interval() < pair[1].interval())
        );
    }

    #[test]
    fn intervals_are_those_of_ucarp() {
        assert_eq!(Priority::new(1, 50).interval().as_micros(), 1_195_312);
        assert_eq!(Priority::new(0, 10).interval().as_micros(), 39_062);
    }

    #[test]
    fn the_last_octet_decides_a_tie() {
        // Seen with the real ucarp: 10.77.1.1 wins over 10.77.0.2.
        assert_eq!(tie_break([10, 77, 1, 1], [10, 77, 0, 2]), Ordering::Less);
    }
}
