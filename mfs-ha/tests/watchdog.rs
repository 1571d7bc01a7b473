//! The watchdog against the kernel's softdog, which here says that it fires and resets nothing.
//!
//! Not among the tests that run everywhere: a device that is no softdog, or one without `soft_noboot=1`, would
//! reset the machine. Needs root, and one thread for all tests.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on panics"
)]

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mfs_ha::clock;
use mfs_ha::config::Watchdog;
use mfs_ha::watchdog::{
    CharDevice, Device as _, DeviceError, Facts, Keeper, Pulse, WatchdogTask, spawn,
};
use mfs_ha_common::election::State;
use mfs_ha_common::promotion::Phase;
use nix::fcntl::OFlag;

const DEVICE: &str = "/dev/watchdog";

/// Long enough for a slow virtual machine to give its signs of life in time.
const TIMEOUT: Duration = Duration::from_secs(4);

/// How much later than at once things may happen.
const SLACK: Duration = Duration::from_secs(2);

/// How often a thread that lives says so.
const TURN: Duration = Duration::from_millis(100);

fn config() -> Watchdog {
    Watchdog {
        device: PathBuf::from(DEVICE),
        timeout: TIMEOUT,
        required: true,
    }
}

/// Looks at the device, once it is certain that it resets nothing.
fn facts() -> Facts {
    let device = CharDevice::new(Path::new(DEVICE));
    let facts = device
        .facts()
        .unwrap_or_else(|error| panic!("this test needs softdog with soft_noboot=1: {error}"));
    assert_eq!(
        facts.identity.as_deref(),
        Some("Software Watchdog"),
        "{DEVICE} is another watchdog, which would reset this machine"
    );
    let loaded = kernel_messages("softdog: initialized.");
    assert!(
        loaded
            .last()
            .is_some_and(|line| line.contains("soft_noboot=1")),
        "softdog has to be loaded with soft_noboot=1, else it resets this machine: {loaded:?}"
    );
    facts
}

fn is_armed() -> bool {
    facts()
        .is_armed
        .expect("the kernel says whether it is armed")
}

/// What the kernel has said with `piece` in it.
fn kernel_messages(piece: &str) -> Vec<String> {
    let mut messages = File::options()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open("/dev/kmsg")
        .expect("/dev/kmsg: this test needs root");
    let mut found = Vec::new();
    let mut record = [0; 8192];
    loop {
        match messages.read(&mut record) {
            Ok(length) => {
                let text = String::from_utf8_lossy(&record[..length]).into_owned();
                if text.contains(piece) {
                    found.push(text);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return found,
            // A record that was overwritten meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            Err(error) => panic!("read /dev/kmsg: {error}"),
        }
    }
}

/// How often it fired since it was loaded.
fn fired() -> usize {
    kernel_messages("softdog: Triggered - Reboot ignored").len()
}

fn wait_until(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    started.elapsed()
}

/// Lives for so long.
fn live(pulse: &Pulse, span: Duration) {
    let started = Instant::now();
    while started.elapsed() < span {
        pulse.beat(clock::now());
        std::thread::sleep(TURN);
    }
}

fn started() -> (WatchdogTask, Pulse) {
    facts();
    let device = CharDevice::new(Path::new(DEVICE));
    let keeper = Keeper::prepare(device, &config(), clock::now()).expect("softdog can be used");
    assert!(!is_armed(), "trying it out leaves it disarmed");
    spawn(keeper, false).unwrap()
}

fn become_master(pulse: &Pulse) {
    pulse.follow(State::Master, Phase::Promoting, clock::now());
    wait_until("it is armed", SLACK, is_armed);
}

fn finish(task: WatchdogTask, is_clean: bool) {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(task.finish(is_clean));
}

#[test]
fn it_is_armed_for_a_master_that_lives_and_disarmed_after_its_resignation() {
    let (task, pulse) = started();
    let before = fired();
    become_master(&pulse);
    assert_eq!(facts().timeout, Some(TIMEOUT));
    live(&pulse, TIMEOUT + TIMEOUT / 2);
    pulse.follow(State::Master, Phase::Active, clock::now());
    live(&pulse, TIMEOUT);
    assert!(is_armed());
    pulse.follow(State::Backup, Phase::Resigning, clock::now());
    live(&pulse, TIMEOUT / 2);
    assert!(is_armed(), "until everything is undone");
    let view = task.views().get();
    assert!(view.is_armed && view.problem.is_none(), "{view:?}");

    pulse.follow(State::Backup, Phase::Standby, clock::now());
    wait_until("it is disarmed", SLACK, || !is_armed());
    // A thread that stands still now does no harm.
    std::thread::sleep(TIMEOUT + SLACK);
    assert_eq!(fired(), before);
    finish(task, true);
}

#[test]
fn it_fires_when_the_heartbeat_thread_stands_still() {
    let (task, pulse) = started();
    let before = fired();
    become_master(&pulse);
    live(&pulse, TIMEOUT / 2);
    assert_eq!(fired(), before);
    let limit = TIMEOUT + TIMEOUT / 4 + SLACK;
    let took = wait_until("it fires", limit, || fired() > before);
    assert!(took > TIMEOUT / 2, "after {took:?}");
    let problem = task.views().get().problem.expect("status says why");
    assert!(
        problem.contains("heartbeat thread stands still"),
        "{problem}"
    );
    finish(task, true);
    assert!(!is_armed());
}

#[test]
fn it_fires_when_mfsmaster_cannot_be_killed() {
    let (task, pulse) = started();
    let before = fired();
    become_master(&pulse);
    pulse.follow(State::Backup, Phase::Stuck, clock::now());
    let started = Instant::now();
    while fired() == before {
        assert!(started.elapsed() < TIMEOUT + SLACK, "it does not fire");
        // Its own life does not help.
        pulse.beat(clock::now());
        std::thread::sleep(TURN);
    }
    finish(task, true);
    assert!(!is_armed());
}

#[test]
fn it_outlives_a_daemon_that_dies_and_is_disarmed_by_the_next_one() {
    let (task, pulse) = started();
    become_master(&pulse);
    live(&pulse, TIMEOUT / 4);
    // Nobody has looked whether anything is left.
    drop((task, pulse));
    std::thread::sleep(Duration::from_millis(200));
    assert!(is_armed());
    let (task, _pulse) = started();
    finish(task, true);
    assert!(!is_armed());
}

#[test]
fn the_end_of_a_daemon_that_leaves_something_behind_does_not_disarm_it() {
    let (task, pulse) = started();
    become_master(&pulse);
    finish(task, false);
    assert!(is_armed());
    let before = fired();
    wait_until("it fires", TIMEOUT + SLACK, || fired() > before);
    let (task, _pulse) = started();
    finish(task, true);
}

#[test]
fn it_belongs_to_one_program() {
    facts();
    let mut other = File::options().write(true).open(DEVICE).unwrap();
    let refused = Keeper::prepare(CharDevice::new(Path::new(DEVICE)), &config(), clock::now());
    assert!(matches!(refused, Err(DeviceError::Busy { .. })));
    let optional = Watchdog {
        required: false,
        ..config()
    };
    let keeper = Keeper::prepare(CharDevice::new(Path::new(DEVICE)), &optional, clock::now());
    let problem = keeper.unwrap().view().problem.unwrap();
    assert!(
        problem.contains("another program has /dev/watchdog"),
        "{problem}"
    );
    other.write_all(b"V").unwrap();
    drop(other);
    assert!(!is_armed());
}
