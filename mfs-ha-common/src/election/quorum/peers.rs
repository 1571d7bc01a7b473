//! What is known of another member: its last heartbeat, and how far away it is.

use core::time::Duration;

use crate::heartbeat::Heartbeat;
use crate::time::Timestamp;

/// Between two looks at a clock before its rate is computed: shorter ones measure the network.
const DRIFT_SPAN: Duration = Duration::from_secs(10);

/// One other member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Peer {
    pub(super) last: Option<(Heartbeat, Timestamp)>,
    pub(super) round_trip: Option<Duration>,
    pub(super) jitter: Option<Duration>,
    pub(super) drift_ppm: Option<i32>,
    /// Their time and ours when the measurement of their clock began.
    clock_since: Option<(Timestamp, Timestamp)>,
}

impl Peer {
    /// Takes a heartbeat. `round_trip` is what the echo in it took, without what the other one held it.
    pub(super) fn note(
        &mut self,
        heartbeat: Heartbeat,
        arrival: Timestamp,
        round_trip: Option<Duration>,
    ) {
        let has_restarted = self
            .last
            .is_some_and(|(last, _)| last.stamp.boot != heartbeat.stamp.boot);
        if has_restarted {
            (self.clock_since, self.drift_ppm) = (None, None);
        }
        if let Some(sample) = round_trip {
            self.note_round_trip(sample);
        }
        self.note_clock(heartbeat.sent_at, arrival);
        self.last = Some((heartbeat, arrival));
    }

    /// RFC 6298's smoothing: an eighth of the new sample, a quarter of its deviation.
    fn note_round_trip(&mut self, sample: Duration) {
        let Some(smoothed) = self.round_trip else {
            self.round_trip = Some(sample);
            self.jitter = Some(Duration::ZERO);
            return;
        };
        let jitter = self.jitter.unwrap_or_default();
        self.jitter = Some(weighted(jitter, sample.abs_diff(smoothed), 4));
        self.round_trip = Some(weighted(smoothed, sample, 8));
    }

    fn note_clock(&mut self, theirs: Timestamp, ours: Timestamp) {
        let Some((their_start, our_start)) = self.clock_since else {
            self.clock_since = Some((theirs, ours));
            return;
        };
        let span = ours.since(our_start);
        if span < DRIFT_SPAN {
            return;
        }
        let their_span = nanos(theirs.since(their_start));
        let our_span = nanos(span);
        let ppm = their_span
            .saturating_sub(our_span)
            .saturating_mul(1_000_000)
            .checked_div(our_span);
        self.drift_ppm = ppm.map(|ppm| {
            let limit = i128::from(i32::MAX);
            i32::try_from(ppm.clamp(limit.saturating_neg(), limit)).unwrap_or_default()
        });
        self.clock_since = Some((theirs, ours));
    }

    /// Returns what it said last, where it was heard since `since`.
    pub(super) fn heard_since(&self, since: Timestamp) -> Option<&Heartbeat> {
        self.last
            .as_ref()
            .filter(|(_, arrival)| *arrival >= since)
            .map(|(heartbeat, _)| heartbeat)
    }
}

fn nanos(span: Duration) -> i128 {
    i128::try_from(span.as_nanos()).unwrap_or(i128::MAX)
}

/// Returns `old` moved by one `parts`-th towards `new`.
fn weighted(old: Duration, new: Duration, parts: u32) -> Duration {
    let rest = old.saturating_mul(parts.saturating_sub(1));
    rest.saturating_add(new)
        .checked_div(parts)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_nanos(5_000_000_000);

    #[test]
    fn round_trips_are_smoothed() {
        let mut peer = Peer::default();
        peer.note_round_trip(Duration::from_micros(800));
        assert_eq!(peer.round_trip, Some(Duration::from_micros(800)));
        peer.note_round_trip(Duration::from_micros(1600));
        assert_eq!(peer.round_trip, Some(Duration::from_micros(900)));
        assert_eq!(peer.jitter, Some(Duration::from_micros(200)));
    }

    #[test]
    fn a_clock_that_runs_fast_is_measured() {
        let mut peer = Peer::default();
        peer.note_clock(START, START);
        peer.note_clock(
            START.after(Duration::from_secs(9)),
            START.after(Duration::from_secs(9)),
        );
        assert_eq!(peer.drift_ppm, None, "too short");
        let theirs = START.after(Duration::from_micros(10_001_000));
        peer.note_clock(theirs, START.after(Duration::from_secs(10)));
        assert_eq!(peer.drift_ppm, Some(100));
        let slow = theirs.after(Duration::from_secs(9));
        peer.note_clock(slow, START.after(Duration::from_secs(20)));
        assert_eq!(peer.drift_ppm, Some(-100_000));
    }
}
