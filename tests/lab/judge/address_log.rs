//! Which node had the VIP configured, and when. Pure: kernel events in, findings out.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// A node got or lost the watched address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressEvent {
    /// When the event was read, microseconds after the kernel sent it.
    pub at: Instant,
    /// The node, counted from 1.
    pub node: usize,
    /// Whether the address is there from now on.
    pub present: bool,
}

/// Changes of one address over all nodes, oldest first.
#[derive(Clone, Debug, Default)]
pub struct AddressLog {
    /// The nodes that had the address when the watch began.
    pub initial: BTreeSet<usize>,
    /// What changed since. Repeated announcements of the same fact are left out.
    pub events: Vec<AddressEvent>,
    holders: BTreeSet<usize>,
}

impl AddressLog {
    /// A log that begins with these holders.
    pub fn new(initial: BTreeSet<usize>) -> Self {
        Self {
            holders: initial.clone(),
            initial,
            events: Vec::new(),
        }
    }

    /// How often any node gained the address between two times.
    pub fn gains(&self, from: Instant, to: Instant) -> usize {
        self.events
            .iter()
            .filter(|event| event.present && event.at >= from && event.at <= to)
            .count()
    }

    /// When `node` first gained the address after `after`.
    pub fn gained_by(&self, node: usize, after: Instant) -> Option<Instant> {
        self.events
            .iter()
            .find(|event| event.node == node && event.present && event.at >= after)
            .map(|event| event.at)
    }

    /// When `node` first lost the address after `after`.
    pub fn lost_by(&self, node: usize, after: Instant) -> Option<Instant> {
        self.events
            .iter()
            .find(|event| event.node == node && !event.present && event.at >= after)
            .map(|event| event.at)
    }

    /// The nodes that hold the address at the end of the log.
    pub fn holders(&self) -> &BTreeSet<usize> {
        &self.holders
    }

    /// How long two or more nodes held the address between two times.
    pub fn overlap(&self, from: Instant, to: Instant) -> Duration {
        let timeline = self.timeline();
        let mut total = Duration::ZERO;
        for (index, (begin, holders)) in timeline.iter().enumerate() {
            let end = timeline.get(index + 1).map_or(to, |(next, _)| *next);
            if holders.len() >= 2 {
                total += end.min(to).saturating_duration_since((*begin).max(from));
            }
        }
        total
    }

    /// Takes down what the kernel says; only changes count.
    pub fn record(&mut self, event: AddressEvent) {
        let changed = if event.present {
            self.holders.insert(event.node)
        } else {
            self.holders.remove(&event.node)
        };
        if changed {
            self.events.push(event);
        }
    }

    fn timeline(&self) -> Vec<(Instant, BTreeSet<usize>)> {
        let mut holders = self.initial.clone();
        self.events
            .iter()
            .map(|event| {
                if event.present {
                    holders.insert(event.node);
                } else {
                    holders.remove(&event.node);
                }
                (event.at, holders.clone())
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(start: Instant, at_ms: u64, node: usize, present: bool) -> AddressEvent {
        AddressEvent {
            at: start + Duration::from_millis(at_ms),
            node,
            present,
        }
    }

    #[test]
    fn repeated_facts_are_recorded_once() {
        let start = Instant::now();
        let mut log = AddressLog::default();
        log.record(event(start, 0, 1, true));
        log.record(event(start, 1, 1, true));
        log.record(event(start, 2, 2, false));
        assert_eq!(log.events.len(), 1);
    }

    #[test]
    fn overlap_counts_only_the_time_with_two_holders() {
        let start = Instant::now();
        let mut log = AddressLog::new(BTreeSet::from([1]));
        log.record(event(start, 100, 2, true));
        log.record(event(start, 130, 1, false));
        log.record(event(start, 200, 3, true));
        let end = start + Duration::from_millis(250);
        assert_eq!(log.overlap(start, end), Duration::from_millis(80));
        assert_eq!(log.gains(start, end), 2);
        assert_eq!(log.holders(), &BTreeSet::from([2, 3]));
        assert_eq!(
            log.gained_by(3, start),
            Some(start + Duration::from_millis(200))
        );
        assert_eq!(
            log.lost_by(1, start),
            Some(start + Duration::from_millis(130))
        );
        assert_eq!(log.lost_by(2, start), None);
    }
}
