//! Whether the device is pinged. A pure function of what the heartbeat thread said.

use std::time::Duration;

use mfs_ha_common::election::State;
use mfs_ha_common::promotion::Phase;
use mfs_ha_common::time::Timestamp;

/// How long giving up may take with the device still pinged: longer than the limits of all steps of a
/// resignation together. What is left after that does not go by itself.
pub(super) const RESIGN_PATIENCE: Duration = Duration::from_secs(15);

/// A sign of life counts for this part of the timeout.
pub(super) const ALIVE_PART: u32 = 4;

/// What a node does, as far as the device is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// It serves nothing: there is nothing that a reset would end.
    Idle,
    /// It serves, or is on the way to it.
    Serving,
    /// It gives up.
    Resigning,
    /// It cannot stop its mfsmaster.
    Stuck,
}

impl Duty {
    /// Returns the duty of a node in this state.
    #[must_use]
    pub const fn of(state: State, phase: Phase) -> Self {
        match (phase, state) {
            (Phase::Standby, State::Init | State::Backup) => Self::Idle,
            (Phase::Standby, State::Master) | (Phase::Promoting | Phase::Active, _) => {
                Self::Serving
            }
            (Phase::Resigning, _) => Self::Resigning,
            (Phase::Stuck, _) => Self::Stuck,
        }
    }
}

/// What the heartbeat thread told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// What the node does.
    pub duty: Duty,
    /// Since when.
    pub since: Timestamp,
}

/// Why the device is left to fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// The heartbeat thread stands still.
    Silent,
    /// Giving up does not come to an end.
    Unfinished,
    /// mfsmaster cannot be killed.
    Stuck,
}

impl Withheld {
    /// Returns the words of log and status.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Silent => "the heartbeat thread stands still",
            Self::Unfinished => "the resignation does not come to an end",
            Self::Stuck => "mfsmaster cannot be killed",
        }
    }
}

/// What to do with the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It is not needed.
    Disarm,
    /// It has to be armed, and is pinged.
    Ping,
    /// It is left to fire.
    Withhold(Withheld),
}

/// Decides, by the last sign of life of the heartbeat thread and a device that fires after `timeout`.
#[must_use]
pub fn judge(now: Timestamp, told: Told, alive_at: Timestamp, timeout: Duration) -> Judgement {
    let is_silent = now.since(alive_at) > timeout / ALIVE_PART;
    let is_overdue = now.since(told.since) > RESIGN_PATIENCE;
    match told.duty {
        // Who stands still while idle becomes master by no rule.
        Duty::Idle => Judgement::Disarm,
        Duty::Stuck => Judgement::Withhold(Withheld::Stuck),
        Duty::Serving | Duty::Resigning if is_silent => Judgement::Withhold(Withheld::Silent),
        Duty::Resigning if is_overdue => Judgement::Withhold(Withheld::Unfinished),
        Duty::Serving | Duty::Resigning => Judgement::Ping,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(8);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_nanos(millis * 1_000_000)
    }

    fn judged(now: u64, duty: Duty, since: u64, alive_at: u64) -> Judgement {
        let told = Told {
            duty,
            since: at(since),
        };
        judge(at(now), told, at(alive_at), TIMEOUT)
    }

    #[test]
    fn duty_is_idle_only_when_nothing_is_left_of_a_mastership() {
        let states = [State::Init, State::Backup, State::Master];
        for state in states {
            for (phase, duty) in [
                (Phase::Promoting, Duty::Serving),
                (Phase::Active, Duty::Serving),
                (Phase::Resigning, Duty::Resigning),
                (Phase::Stuck, Duty::Stuck),
            ] {
                assert_eq!(Duty::of(state, phase), duty, "{state:?} {phase:?}");
            }
        }
        assert_eq!(Duty::of(State::Init, Phase::Standby), Duty::Idle);
        assert_eq!(Duty::of(State::Backup, Phase::Standby), Duty::Idle);
        assert_eq!(Duty::of(State::Master, Phase::Standby), Duty::Serving);
    }

    #[test]
    fn who_serves_is_pinged_for_as_long_as_a_sign_of_life_is_young() {
        assert_eq!(judged(12_000, Duty::Serving, 0, 10_000), Judgement::Ping);
        let silent = Judgement::Withhold(Withheld::Silent);
        assert_eq!(judged(12_001, Duty::Serving, 0, 10_000), silent);
        assert_eq!(judged(900_000, Duty::Serving, 0, 10_000), silent);
        // A stamp that was written after the clock was read.
        assert_eq!(judged(12_000, Duty::Serving, 0, 12_001), Judgement::Ping);
    }

    #[test]
    fn who_gives_up_is_pinged_for_a_while() {
        let judged = |now, alive_at| judged(now, Duty::Resigning, 1000, alive_at);
        assert_eq!(judged(16_000, 16_000), Judgement::Ping);
        let unfinished = Judgement::Withhold(Withheld::Unfinished);
        assert_eq!(judged(16_001, 16_000), unfinished);
        let silent = Judgement::Withhold(Withheld::Silent);
        assert_eq!(judged(5000, 2000), silent);
    }

    #[test]
    fn who_is_stuck_is_not_pinged() {
        let stuck = Judgement::Withhold(Withheld::Stuck);
        assert_eq!(judged(1000, Duty::Stuck, 1000, 1000), stuck);
    }

    #[test]
    fn who_is_idle_needs_no_device_whether_it_lives_or_not() {
        assert_eq!(judged(0, Duty::Idle, 0, 0), Judgement::Disarm);
        assert_eq!(judged(900_000, Duty::Idle, 0, 0), Judgement::Disarm);
    }
}
