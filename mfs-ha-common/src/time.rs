//! The one notion of time: nanoseconds of `CLOCK_BOOTTIME`.
//!
//! `bpf_ktime_get_boot_ns` reads the same clock in the kernel, so arrival times and deadlines compare
//! directly, and time that a machine spent suspended counts as silence.

use core::time::Duration;

/// A point in time, in nanoseconds of `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Timestamp(u64);

impl Timestamp {
    /// Wraps nanoseconds since boot.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Returns nanoseconds since boot.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the time that lies `span` later, at most the end of the clock.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        // 2^64 ns are 584 years: a longer span means "never".
        Self(
            self.0
                .saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)),
        )
    }

    /// Returns how long ago `earlier` was, zero when it lies in the future.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let end = Timestamp::from_nanos(u64::MAX);
        assert_eq!(end.after(Duration::from_secs(1)), end);
        assert_eq!(
            Timestamp::from_nanos(5).since(Timestamp::from_nanos(9)),
            Duration::ZERO
        );
        assert_eq!(Timestamp::default().after(Duration::MAX), end);
    }
}
