//! The state of a voter: the daemon ends at any system call of a write, or one of them fails.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on panics"
)]

use std::path::Path;
use std::process::{Command, Stdio};

use mfs_ha::config::{Cluster, Configuration};
use mfs_ha::state::StateDir;
use mfs_ha_common::durable::Durable;
use mfs_ha_common::freshness::Freshness;
use mfs_ha_common::heartbeat::Ballot;

const DIRECTORY: &str = "MFS_HA_TEST_STATE";
/// The exit status of a child whose write was refused.
const REFUSED: i32 = 23;
/// What the child prints when the write has returned.
const STORED: &str = "it is on disk";

/// Every system call that a write makes.
const CALLS: [&str; 5] = ["openat", "write", "fsync", "rename", "unlink"];

/// More than a whole test process makes of one system call.
const CALLS_MAX: u32 = 400;

fn cluster(state_dir: &Path) -> Cluster {
    let text = format!(
        "[cluster]\nname = \"a\"\nnode = 2\nsecret_file = \"/s\"\nstate_dir = \"{}\"\n\
         [[cluster.members]]\nid = 1\nrole = \"candidate\"\naddresses = [\"10.9.0.1\"]\n\
         [[cluster.members]]\nid = 2\nrole = \"witness\"\naddresses = [\"10.9.0.2\"]\n",
        state_dir.display()
    );
    let configuration = Configuration::parse(&text, Path::new("test.toml")).unwrap();
    configuration.cluster().unwrap().clone()
}

fn durable(cluster: &Cluster, epoch: u64) -> Durable {
    Durable {
        boot: epoch,
        granted: Ballot {
            epoch,
            candidate: 1,
        },
        seen: Freshness { epoch, version: 7 },
        attempts: 0,
        membership: cluster.membership(),
    }
}

fn store(state_dir: &Path, epoch: u64) -> Result<(), mfs_ha::state::StateError> {
    let cluster = cluster(state_dir);
    let (state, _) = StateDir::open(&cluster, "default")?;
    state.store(&durable(&cluster, epoch))
}

/// Writes when a test of this file asks for it.
#[test]
fn child_of_the_crash_test() {
    let Ok(directory) = std::env::var(DIRECTORY) else {
        return;
    };
    if store(Path::new(&directory), 2).is_err() {
        std::process::exit(REFUSED);
    }
    println!("{STORED}");
    std::process::exit(0);
}

/// How the child ended.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    has_stored: bool,
    is_cut_short: bool,
}

/// Writes in a process of its own, with a fault at the `n`th `call` of its thread.
fn run(directory: &Path, call: &str, n: u32, fault: &str) -> Ended {
    let output = Command::new("strace")
        .args(["--follow-forks", "--seccomp-bpf", "--quiet=all"])
        .args(["--output", "/dev/null", "--trace", call])
        .arg(format!("--inject={call}:{fault}:when={n}"))
        .arg(std::env::current_exe().unwrap())
        .args(["child_of_the_crash_test", "--exact", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdin(Stdio::null())
        .output()
        .expect("strace of the Debian package strace: `cargo xtask setup` installs it");
    Ended {
        has_stored: String::from_utf8_lossy(&output.stdout).contains(STORED),
        is_cut_short: output.status.code() != Some(0),
    }
}

#[test]
fn whatever_ends_a_write_the_file_is_old_or_new() {
    for (fault, may_fail) in [("signal=KILL", true), ("error=ENOSPC", false)] {
        let mut faults_in_write = 0;
        for call in CALLS {
            // A process that cannot even load its libraries says nothing about us.
            if !may_fail && call == "openat" {
                continue;
            }
            for n in 1.. {
                assert!(n < CALLS_MAX, "more and more {call}");
                let directory = tempfile::tempdir().unwrap();
                store(directory.path(), 1).unwrap();
                let ended = run(directory.path(), call, n, fault);
                let what = format!("{fault} at {call} {n}: {ended:?}");
                let cluster = cluster(directory.path());
                let (_, beginning) = StateDir::open(&cluster, "default")
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
                let found = beginning.durable.granted.epoch;
                let expected = durable(&cluster, found);
                assert_eq!(
                    beginning.durable,
                    Durable {
                        boot: found + 1,
                        ..expected
                    },
                    "{what}"
                );
                if ended.has_stored {
                    assert_eq!(found, 2, "{what}: it was said to be on disk");
                } else {
                    assert!((1..=2).contains(&found), "{what}: {found}");
                    faults_in_write += 1;
                }
                // Whatever was left lying does not keep the next life from writing.
                store(directory.path(), 3).unwrap_or_else(|error| panic!("{what}: {error}"));
                if !ended.is_cut_short {
                    break;
                }
            }
        }
        assert!(
            faults_in_write > 3,
            "{fault}: {faults_in_write} faults were injected"
        );
    }
}
