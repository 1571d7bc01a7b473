//! Rounds of heartbeats: when the next one is due, and when earlier ones were sent.
//!
//! A holder counts its lease from when it sent the request that was answered (rule L2), so it looks up what
//! others echo. What is no longer remembered counts as not sent: that only makes a lease shorter.

use core::time::Duration;

use crate::heartbeat::Stamp;
use crate::time::Timestamp;

/// For how long a node says that it could not keep its schedule: long enough to be seen.
const LATE_SPAN: Duration = Duration::from_secs(10);

/// Rounds that are remembered: an answer comes after two or three.
const REMEMBERED: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Rounds {
    stamp: Stamp,
    sent: [Timestamp; REMEMBERED],
    due: Timestamp,
    interval: Duration,
    late: u64,
    late_at: Option<Timestamp>,
}

impl Rounds {
    pub(super) const fn new(boot: u64, interval: Duration, now: Timestamp) -> Self {
        Self {
            stamp: Stamp { boot, sequence: 0 },
            sent: [Timestamp::from_nanos(0); REMEMBERED],
            due: now,
            interval,
            late: 0,
            late_at: None,
        }
    }

    /// Begins anew under another number: an earlier life of this node has used this one.
    pub(super) const fn restart(&mut self, boot: u64, now: Timestamp) {
        let late = self.late;
        *self = Self::new(boot, self.interval, now);
        self.late = late;
    }

    /// Returns the stamp of the last round.
    pub(super) const fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Returns when the last round was sent.
    pub(super) fn last_sent(&self) -> Timestamp {
        self.sent_at(self.stamp).unwrap_or_default()
    }

    /// Returns when a round is due.
    pub(super) const fn due(&self) -> Timestamp {
        self.due
    }

    /// Returns the rounds that were late by more than half an interval.
    pub(super) const fn late(&self) -> u64 {
        self.late
    }

    /// Says whether a round was late a moment ago.
    pub(super) fn is_late(&self, now: Timestamp) -> bool {
        self.late_at.is_some_and(|at| now.since(at) < LATE_SPAN)
    }

    /// Notes a round that is sent now.
    pub(super) fn begin(&mut self, now: Timestamp) {
        let half = self.interval.checked_div(2).unwrap_or_default();
        let is_late = now > self.due.after(half);
        if is_late && self.stamp.sequence > 0 {
            self.late = self.late.saturating_add(1);
            self.late_at = Some(now);
        }
        self.stamp.sequence = self.stamp.sequence.saturating_add(1);
        let slot = slot(self.stamp.sequence);
        if let Some(sent) = slot.and_then(|slot| self.sent.get_mut(slot)) {
            *sent = now;
        }
        // A round that is early or hardly late keeps the beat.
        let on_time = self.due.after(self.interval);
        self.due = if is_late || now < self.due {
            now.after(self.interval)
        } else {
            on_time
        };
    }

    /// Returns when a round of this life was sent, where that is remembered.
    pub(super) fn sent_at(&self, stamp: Stamp) -> Option<Timestamp> {
        let is_ours = stamp.boot == self.stamp.boot && stamp.sequence <= self.stamp.sequence;
        let age = self.stamp.sequence.checked_sub(stamp.sequence)?;
        let is_remembered = usize::try_from(age).is_ok_and(|age| age < REMEMBERED);
        if !is_ours || !is_remembered || stamp.sequence == 0 {
            return None;
        }
        self.sent.get(slot(stamp.sequence)?).copied()
    }

    /// Says whether somebody echoes what this life has not sent: the number of it was used before.
    pub(super) fn was_never_sent(&self, echoed: Stamp) -> bool {
        echoed > self.stamp
    }
}

fn slot(sequence: u64) -> Option<usize> {
    let remembered = u64::try_from(REMEMBERED).ok()?;
    usize::try_from(sequence.checked_rem(remembered)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const H: Duration = Duration::from_millis(50);
    const START: Timestamp = Timestamp::from_nanos(1_000_000_000);

    fn stamp(sequence: u64) -> Stamp {
        Stamp { boot: 7, sequence }
    }

    #[test]
    fn send_times_are_remembered_for_a_while() {
        let mut rounds = Rounds::new(7, H, START);
        for number in 0..100_u32 {
            rounds.begin(START.after(H * number));
        }
        assert_eq!(rounds.stamp(), stamp(100));
        assert_eq!(rounds.sent_at(stamp(100)), Some(START.after(H * 99)));
        assert_eq!(rounds.sent_at(stamp(69)), Some(START.after(H * 68)));
        assert_eq!(rounds.sent_at(stamp(68)), None, "forgotten");
        assert_eq!(rounds.sent_at(stamp(101)), None, "not sent");
        assert_eq!(
            rounds.sent_at(Stamp {
                boot: 6,
                sequence: 100
            }),
            None,
            "another life"
        );
        assert_eq!(Rounds::new(7, H, START).sent_at(stamp(0)), None);
    }

    #[test]
    fn the_beat_is_kept_by_small_delays_and_begun_anew_by_large_ones() {
        let mut rounds = Rounds::new(7, H, START);
        rounds.begin(START);
        let due = START.after(H);
        assert_eq!(rounds.due(), due);
        rounds.begin(due.after(H / 5));
        assert_eq!((rounds.due(), rounds.late()), (due.after(H), 0));
        let late = due.after(H * 3);
        rounds.begin(late);
        assert_eq!((rounds.due(), rounds.late()), (late.after(H), 1));
        assert!(rounds.is_late(late) && !rounds.is_late(late.after(LATE_SPAN)));
        // One that was not waited for.
        rounds.begin(late.after(H / 2));
        assert_eq!(rounds.due(), late.after(H / 2).after(H));
    }

    #[test]
    fn what_was_never_sent_gives_a_rollback_away() {
        let mut rounds = Rounds::new(7, H, START);
        rounds.begin(START);
        assert!(!rounds.was_never_sent(stamp(1)));
        assert!(rounds.was_never_sent(stamp(2)));
        assert!(rounds.was_never_sent(Stamp {
            boot: 8,
            sequence: 0
        }));
        assert!(!rounds.was_never_sent(Stamp {
            boot: 6,
            sequence: 99
        }));
    }
}
