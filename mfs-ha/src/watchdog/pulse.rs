//! What the heartbeat thread says of itself, and how: without waiting for anybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mfs_ha_common::election::State;
use mfs_ha_common::promotion::Phase;
use mfs_ha_common::time::Timestamp;
use tokio::sync::watch;

use super::judge::{ALIVE_PART, Duty, Told};

#[derive(Debug)]
struct Shared {
    /// The last sign of life.
    alive_ns: AtomicU64,
    /// How often there has to be one.
    interval_ns: AtomicU64,
}

/// The heartbeat thread's side.
#[derive(Debug)]
pub struct Pulse {
    shared: Arc<Shared>,
    told: watch::Sender<Told>,
}

/// The side of the thread that pings.
#[derive(Debug)]
pub struct Watched {
    shared: Arc<Shared>,
    /// What the node does; closed when the heartbeat thread has ended.
    pub told: watch::Receiver<Told>,
}

/// Joins both sides for a device that fires after `timeout`.
#[must_use]
pub fn pulse(timeout: Duration, now: Timestamp) -> (Pulse, Watched) {
    let idle = Told {
        duty: Duty::Idle,
        since: now,
    };
    let (told, receiver) = watch::channel(idle);
    let shared = Arc::new(Shared {
        alive_ns: AtomicU64::new(now.as_nanos()),
        interval_ns: AtomicU64::new(0),
    });
    let watched = Watched {
        shared: Arc::clone(&shared),
        told: receiver,
    };
    watched.expect_signs(timeout);
    (Pulse { shared, told }, watched)
}

impl Pulse {
    /// Says what the node does. To be called before that is carried out.
    pub fn follow(&self, state: State, phase: Phase, now: Timestamp) {
        let duty = Duty::of(state, phase);
        if self.told.borrow().duty == duty {
            return;
        }
        // Whoever learns of it first looks for a sign of life, and the last one may be of a long sleep ago.
        self.beat(now);
        self.told.send_replace(Told { duty, since: now });
    }

    /// Gives a sign of life: a turn is done.
    pub fn beat(&self, now: Timestamp) {
        self.shared
            .alive_ns
            .store(now.as_nanos(), Ordering::Release);
    }

    /// Returns when the next sign of life is due at the latest; `None` while nobody looks for it.
    #[must_use]
    pub fn due(&self) -> Option<Timestamp> {
        if self.told.borrow().duty == Duty::Idle {
            return None;
        }
        let interval = Duration::from_nanos(self.shared.interval_ns.load(Ordering::Acquire));
        Some(self.shared.alive().after(interval))
    }
}

impl Watched {
    /// Returns the last sign of life.
    #[must_use]
    pub fn alive_at(&self) -> Timestamp {
        self.shared.alive()
    }

    /// Asks for signs of life that are often enough for a device that fires after `timeout`.
    pub(super) fn expect_signs(&self, timeout: Duration) {
        // Twice in the time for which one counts.
        let interval = timeout / ALIVE_PART / 2;
        let nanos = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        self.shared.interval_ns.store(nanos, Ordering::Release);
    }
}

impl Shared {
    fn alive(&self) -> Timestamp {
        Timestamp::from_nanos(self.alive_ns.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn signs_of_life_are_due_only_while_there_is_something_to_watch_over() {
        let (pulse, watched) = pulse(Duration::from_secs(8), at(0));
        assert_eq!(pulse.due(), None);
        pulse.follow(State::Master, Phase::Promoting, at(5000));
        assert_eq!(watched.alive_at(), at(5000));
        assert_eq!(pulse.due(), Some(at(6000)));
        pulse.beat(at(5500));
        assert_eq!(pulse.due(), Some(at(6500)));
        watched.expect_signs(Duration::from_secs(4));
        assert_eq!(pulse.due(), Some(at(6000)));
        pulse.follow(State::Backup, Phase::Standby, at(7000));
        assert_eq!(pulse.due(), None);
    }

    #[test]
    fn only_another_duty_is_news() {
        let (pulse, mut watched) = pulse(Duration::from_secs(8), at(0));
        pulse.follow(State::Backup, Phase::Standby, at(1));
        assert!(!watched.told.has_changed().unwrap());
        pulse.follow(State::Master, Phase::Promoting, at(2));
        let serving = Told {
            duty: Duty::Serving,
            since: at(2),
        };
        assert_eq!(*watched.told.borrow_and_update(), serving);
        pulse.follow(State::Master, Phase::Active, at(3));
        assert!(!watched.told.has_changed().unwrap());
        drop(pulse);
        assert!(watched.told.has_changed().is_err());
    }
}
