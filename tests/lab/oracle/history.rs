//! Verdicts over what the client wrote down. Pure: records in, findings out.

use std::time::{Duration, Instant};

use super::record::{Outcome, Record, Role};

/// An operation that came to a good end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Which worker of its role, counted from 0.
    pub worker: usize,
    /// When its last call returned.
    pub at: Instant,
}

/// An operation that came to a bad end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// When it ended.
    pub at: Instant,
    /// The file.
    pub name: String,
    /// What happened to it.
    pub what: String,
}

/// All that the client did, oldest first.
#[derive(Clone, Debug)]
pub struct History {
    /// The same moment on the judge's clock and on that of the records.
    epoch: (Instant, u64),
    writers: usize,
    readers: usize,
    writes: Vec<Done>,
    reads: Vec<Done>,
    /// Acknowledged files that a reader found missing.
    pub missing: Vec<Trouble>,
    /// Acknowledged files that a reader found changed.
    pub wrong: Vec<Trouble>,
    /// Calls that failed.
    pub failures: Vec<Trouble>,
}

/// When the workers of one role went on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resumption {
    /// The first one.
    pub first: Option<Instant>,
    /// The last one; none while one has not gone on yet.
    pub last: Option<Instant>,
    /// How many have not gone on.
    pub stalled: usize,
}

impl History {
    /// The history of a client with so many workers; `epoch` is one moment on both clocks.
    pub fn new(epoch: (Instant, u64), writers: usize, readers: usize) -> Self {
        Self {
            epoch,
            writers,
            readers,
            writes: Vec::new(),
            reads: Vec::new(),
            missing: Vec::new(),
            wrong: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Takes down one more record.
    pub fn take(&mut self, record: &Record) {
        let at = self.instant(record.end_ns);
        let done = Done {
            worker: record.worker,
            at,
        };
        let trouble = |what: &str| Trouble {
            at,
            name: record.name.clone(),
            what: what.to_owned(),
        };
        match &record.outcome {
            Outcome::Written(_) => self.writes.push(done),
            Outcome::Right => self.reads.push(done),
            Outcome::Missing => self.missing.push(trouble("not there")),
            Outcome::Wrong => self.wrong.push(trouble("another content")),
            Outcome::Failed(reason) => self.failures.push(trouble(reason)),
        }
    }

    /// How many files were acknowledged.
    pub fn acked(&self) -> usize {
        self.writes.len()
    }

    /// Operations of a role that came to a good end.
    pub fn done(&self, role: Role) -> &[Done] {
        match role {
            Role::Writer => &self.writes,
            Role::Reader => &self.reads,
        }
    }

    /// When each worker of a role had its first good end at or after `after`, the moment from which only the
    /// new master can have answered.
    pub fn resumption(&self, role: Role, after: Instant) -> Resumption {
        let workers = match role {
            Role::Writer => self.writers,
            Role::Reader => self.readers,
        };
        let mut times: Vec<Instant> = (0..workers)
            .filter_map(|worker| {
                let mut ends = self.done(role).iter().filter(|done| done.worker == worker);
                ends.find(|done| done.at >= after).map(|done| done.at)
            })
            .collect();
        times.sort_unstable();
        let stalled = workers - times.len();
        Resumption {
            first: times.first().copied(),
            last: times.last().copied().filter(|_| stalled == 0),
            stalled,
        }
    }

    /// The longest time between two times in which no operation of a role came to a good end.
    pub fn longest_gap(&self, role: Role, from: Instant, to: Instant) -> Duration {
        let mut last = from;
        let mut longest = Duration::ZERO;
        let inside = self.done(role).iter().map(|done| done.at);
        for at in inside.filter(|at| *at >= from && *at <= to).chain([to]) {
            longest = longest.max(at.saturating_duration_since(last));
            last = at;
        }
        longest
    }

    fn instant(&self, ns: u64) -> Instant {
        let (epoch, epoch_ns) = self.epoch;
        let since = Duration::from_nanos(ns.saturating_sub(epoch_ns));
        let until = Duration::from_nanos(epoch_ns.saturating_sub(ns));
        (epoch + since).checked_sub(until).unwrap_or(epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(start: Instant, ends: &[(usize, u64)]) -> History {
        let mut history = History::new((start, 1_000_000), 2, 1);
        for (worker, end_ms) in ends {
            history.take(&Record {
                role: Role::Writer,
                worker: *worker,
                name: "x".to_owned(),
                start_ns: 0,
                end_ns: 1_000_000 + end_ms * 1_000_000,
                outcome: Outcome::Written(String::new()),
            });
        }
        history
    }

    #[test]
    fn every_worker_counts_for_the_resumption() {
        let start = Instant::now();
        let ms = |count| start + Duration::from_millis(count);
        let history = history(start, &[(0, 5), (1, 6), (1, 40), (0, 50), (1, 60)]);
        let found = history.resumption(Role::Writer, ms(10));
        assert_eq!(found.first, Some(ms(40)));
        assert_eq!((found.last, found.stalled), (Some(ms(50)), 0));
        let found = history.resumption(Role::Writer, ms(55));
        assert_eq!((found.first, found.last), (Some(ms(60)), None));
        assert_eq!(found.stalled, 1);
        assert_eq!(history.resumption(Role::Reader, ms(0)).stalled, 1);
        assert_eq!(history.acked(), 5);
        let gap = history.longest_gap(Role::Writer, ms(0), ms(100));
        assert_eq!(gap, Duration::from_millis(40));
    }

    #[test]
    fn bad_ends_are_kept_apart() {
        let start = Instant::now();
        let mut history = history(start, &[]);
        for outcome in [
            Outcome::Missing,
            Outcome::Wrong,
            Outcome::Failed("EIO".to_owned()),
        ] {
            history.take(&Record {
                role: Role::Reader,
                worker: 0,
                name: "f".to_owned(),
                start_ns: 0,
                end_ns: 0,
                outcome,
            });
        }
        assert_eq!(history.missing.len(), 1);
        assert_eq!(history.wrong.len(), 1);
        assert_eq!(history.failures[0].what, "EIO");
        assert!(history.done(Role::Reader).is_empty());
    }
}
