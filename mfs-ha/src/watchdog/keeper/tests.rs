use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(8);

/// A device that remembers what was done to it.
#[derive(Debug, Default)]
struct Fake {
    facts: Facts,
    done: Vec<&'static str>,
    is_armed: bool,
    /// What the driver makes of any timeout.
    rounded: Option<Duration>,
    /// Results of the next opens, `false` for one that fails.
    opens: VecDeque<bool>,
    refuses_ping: bool,
    refuses_disarm: bool,
}

impl Fake {
    fn new() -> Self {
        Self {
            facts: Facts {
                can_disarm: Some(true),
                ..Facts::default()
            },
            ..Self::default()
        }
    }

    fn with_nowayout() -> Self {
        let mut fake = Self::new();
        fake.facts.can_disarm = Some(false);
        fake
    }
}

fn busy() -> DeviceError {
    DeviceError::Busy {
        path: PathBuf::from("/dev/watchdog"),
    }
}

impl Device for Fake {
    fn facts(&self) -> Result<Facts, DeviceError> {
        Ok(self.facts.clone())
    }

    fn arm(&mut self, timeout: Duration) -> Result<Duration, DeviceError> {
        self.done.push("arm");
        if self.opens.pop_front() == Some(false) {
            return Err(busy());
        }
        self.is_armed = true;
        Ok(self.rounded.unwrap_or(timeout))
    }

    fn ping(&mut self) -> io::Result<()> {
        self.done.push("ping");
        if self.refuses_ping {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    fn disarm(&mut self) -> io::Result<()> {
        self.done.push("disarm");
        if self.refuses_disarm {
            return Err(io::ErrorKind::Other.into());
        }
        self.is_armed = false;
        Ok(())
    }

    fn leave(&mut self) {
        self.done.push("leave");
    }
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_nanos(millis * 1_000_000)
}

fn config(required: bool) -> config::Watchdog {
    config::Watchdog {
        device: PathBuf::from("/dev/watchdog"),
        timeout: TIMEOUT,
        required,
    }
}

fn prepared(fake: Fake) -> Keeper<Fake> {
    let mut keeper = Keeper::prepare(fake, &config(true), at(0)).unwrap();
    keeper.device.done.clear();
    keeper
}

/// One turn; the sign of life is as old as the turn.
fn turn(keeper: &mut Keeper<Fake>, now: u64, duty: Duty) -> Vec<&'static str> {
    turn_of(keeper, now, duty, now)
}

fn turn_of(keeper: &mut Keeper<Fake>, now: u64, duty: Duty, alive_at: u64) -> Vec<&'static str> {
    let told = Told {
        duty,
        since: at(1000),
    };
    keeper.turn(at(now), told, at(alive_at));
    std::mem::take(&mut keeper.device.done)
}

#[test]
fn it_is_tried_out_at_the_start_and_disarmed_again() {
    let keeper = Keeper::prepare(Fake::new(), &config(true), at(0)).unwrap();
    assert_eq!(keeper.device.done, ["arm", "disarm"]);
    assert!(!keeper.view().is_armed);
    assert_eq!(keeper.pause(Duty::Idle), None);
}

#[test]
fn one_that_cannot_be_disarmed_is_not_tried_out() {
    for can_disarm in [Some(false), None] {
        let mut fake = Fake::with_nowayout();
        fake.facts.can_disarm = can_disarm;
        let keeper = Keeper::prepare(fake, &config(true), at(0)).unwrap();
        assert_eq!(keeper.device.done, [""; 0]);
    }
    // Unless an earlier life has armed it.
    let mut fake = Fake::with_nowayout();
    fake.facts.is_armed = Some(true);
    let keeper = Keeper::prepare(fake, &config(true), at(0)).unwrap();
    assert_eq!(keeper.device.done, ["arm"]);
    assert!(keeper.view().is_armed);
}

#[test]
fn one_that_cannot_be_used_ends_the_start_only_where_it_is_required() {
    let refusing = || Fake {
        opens: VecDeque::from([false]),
        ..Fake::new()
    };
    let refused = Keeper::prepare(refusing(), &config(true), at(0));
    assert!(matches!(refused, Err(DeviceError::Busy { .. })));

    let mut keeper = Keeper::prepare(refusing(), &config(false), at(0)).unwrap();
    let problem = keeper.view().problem.unwrap();
    assert!(
        problem.contains("another program has /dev/watchdog"),
        "{problem}"
    );
    keeper.device.done.clear();
    // It may have become free.
    assert_eq!(turn(&mut keeper, 1000, Duty::Serving), ["arm"]);
    assert_eq!(keeper.view().problem, None);
}

#[test]
fn it_is_armed_pinged_and_disarmed_with_the_mastership() {
    let mut keeper = prepared(Fake::new());
    assert_eq!(turn(&mut keeper, 500, Duty::Idle), [""; 0]);
    assert_eq!(turn(&mut keeper, 1000, Duty::Serving), ["arm"]);
    assert_eq!(keeper.pause(Duty::Serving), Some(TIMEOUT / 4));
    assert_eq!(turn(&mut keeper, 3000, Duty::Serving), ["ping"]);
    assert_eq!(turn(&mut keeper, 3500, Duty::Resigning), ["ping"]);
    let view = keeper.view();
    assert!(view.is_armed);
    assert_eq!(view.last_ping, Some(at(3500)));
    assert_eq!(turn(&mut keeper, 4000, Duty::Idle), ["disarm"]);
    assert!(!keeper.view().is_armed);
    assert_eq!(turn(&mut keeper, 5000, Duty::Idle), [""; 0]);
}

#[test]
fn a_heartbeat_thread_that_stands_still_is_not_covered_up() {
    let mut keeper = prepared(Fake::new());
    turn(&mut keeper, 1000, Duty::Serving);
    assert_eq!(turn_of(&mut keeper, 3001, Duty::Serving, 1000), [""; 0]);
    let problem = keeper.view().problem.unwrap();
    assert!(
        problem.contains("heartbeat thread stands still"),
        "{problem}"
    );
    assert_eq!(keeper.view().last_ping, Some(at(1000)));
    // It was late, and is back.
    assert_eq!(turn(&mut keeper, 5000, Duty::Serving), ["ping"]);
    assert_eq!(keeper.view().problem, None);
}

#[test]
fn a_stuck_node_is_left_to_the_device() {
    let mut keeper = prepared(Fake::new());
    turn(&mut keeper, 1000, Duty::Serving);
    assert_eq!(turn(&mut keeper, 2000, Duty::Stuck), [""; 0]);
    let problem = keeper.view().problem.unwrap();
    assert!(problem.contains("mfsmaster cannot be killed"), "{problem}");
    assert!(keeper.view().is_armed);
    // mfsmaster went after all.
    assert_eq!(turn(&mut keeper, 3000, Duty::Idle), ["disarm"]);
    assert_eq!(keeper.view().problem, None);
}

#[test]
fn one_that_cannot_be_disarmed_is_pinged_on_by_a_node_that_serves_nothing() {
    let mut keeper = prepared(Fake::with_nowayout());
    assert_eq!(turn(&mut keeper, 500, Duty::Idle), [""; 0]);
    assert_eq!(turn(&mut keeper, 1000, Duty::Serving), ["arm"]);
    assert_eq!(turn(&mut keeper, 2000, Duty::Idle), ["ping"]);
    assert_eq!(keeper.pause(Duty::Idle), Some(TIMEOUT / 4));
    keeper.end(at(3000), true);
    assert_eq!(keeper.device.done, ["ping", "leave"]);
}

#[test]
fn a_driver_that_breaks_its_promise_to_disarm_is_pinged_on() {
    let mut keeper = prepared(Fake::new());
    turn(&mut keeper, 1000, Duty::Serving);
    keeper.device.refuses_disarm = true;
    assert_eq!(turn(&mut keeper, 2000, Duty::Idle), ["disarm", "arm"]);
    assert_eq!(turn(&mut keeper, 3000, Duty::Idle), ["ping"]);
}

#[test]
fn a_device_that_takes_no_ping_is_opened_anew() {
    let mut keeper = prepared(Fake::new());
    turn(&mut keeper, 1000, Duty::Serving);
    keeper.device.refuses_ping = true;
    keeper.device.opens = VecDeque::from([false, true]);
    assert_eq!(
        turn(&mut keeper, 2000, Duty::Serving),
        ["ping", "leave", "arm"]
    );
    assert!(!keeper.view().is_armed && keeper.view().problem.is_some());
    assert_eq!(turn(&mut keeper, 3000, Duty::Serving), ["arm"]);
    assert!(keeper.view().is_armed && keeper.view().problem.is_none());
}

#[test]
fn the_timeout_that_counts_is_the_drivers() {
    let fake = Fake {
        rounded: Some(Duration::from_secs(4)),
        ..Fake::new()
    };
    let mut keeper = prepared(fake);
    assert_eq!(keeper.timeout(), Duration::from_secs(4));
    turn(&mut keeper, 1000, Duty::Serving);
    assert_eq!(keeper.pause(Duty::Serving), Some(Duration::from_secs(1)));
    assert_eq!(turn_of(&mut keeper, 2001, Duty::Serving, 1000), [""; 0]);
}

#[test]
fn the_end_disarms_it_only_if_nothing_is_left() {
    let mut keeper = prepared(Fake::new());
    turn(&mut keeper, 1000, Duty::Serving);
    keeper.end(at(2000), true);
    assert_eq!(keeper.device.done, ["disarm"]);

    let mut keeper = prepared(Fake::new());
    turn(&mut keeper, 1000, Duty::Serving);
    keeper.end(at(2000), false);
    assert_eq!(keeper.device.done, ["leave"]);
    assert!(keeper.device.is_armed);

    let mut keeper = prepared(Fake::new());
    keeper.end(at(2000), false);
    assert_eq!(keeper.device.done, [""; 0]);
}
