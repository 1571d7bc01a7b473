//! How new the metadata of a node are.

use core::fmt;

/// What is compared when nodes ask who has the newest metadata: the committed metadata epoch first, then the
/// version within it.
///
/// A version alone says nothing across epochs: each promotion begins where its node was, and the history
/// that was left behind may have gone further.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Freshness {
    // The order of the fields is the order of comparison.
    /// The metadata epoch, which rises with each committed promotion. 0: none was ever committed.
    pub epoch: u64,
    /// The number of the next change.
    pub version: u64,
}

impl Freshness {
    /// Returns the number of changes that are missing here and that a holder was heard to have; `None` where these are
    /// of different epochs, whose versions cannot be compared.
    #[must_use]
    pub const fn lag(self, seen: Self) -> Option<u64> {
        if self.epoch == seen.epoch {
            Some(seen.version.saturating_sub(self.version))
        } else {
            None
        }
    }

    /// Says whether too much of what a holder was heard to have is missing here (rule L1e).
    #[must_use]
    pub const fn is_behind(self, seen: Self, max_lag: u64) -> bool {
        match self.lag(seen) {
            Some(lag) => lag > max_lag,
            None => self.epoch < seen.epoch,
        }
    }
}

impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {} version {}", self.epoch, self.version)
    }
}

/// The metadata of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Metadata {
    /// MooseFS's id of the file system; 0 where there is none.
    pub id: u64,
    /// How new they are.
    pub freshness: Freshness,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_outranks_any_version() {
        let new = |epoch, version| Freshness { epoch, version };
        assert!(new(2, 1) > new(1, u64::MAX));
        assert!(new(2, 7) > new(2, 6));
        assert!(Freshness::default() < new(0, 1));
    }

    #[test]
    fn what_is_missing_counts_within_an_epoch() {
        let new = |epoch, version| Freshness { epoch, version };
        assert_eq!(new(2, 90).lag(new(2, 100)), Some(10));
        assert_eq!(new(2, 101).lag(new(2, 100)), Some(0));
        assert_eq!(new(3, 90).lag(new(2, 100)), None);
        assert!(!new(2, 90).is_behind(new(2, 100), 10));
        assert!(new(2, 89).is_behind(new(2, 100), 10));
        assert!(new(1, 100).is_behind(new(2, 100), 10));
        assert!(!new(3, 0).is_behind(new(2, 100), 10));
        assert!(!new(2, u64::MAX).is_behind(new(2, 0), u64::MAX));
    }
}
