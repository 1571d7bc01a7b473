//! Controls: what mfs-ha takes care of is a real danger. The same course of events, with the real programs
//! started by hand, loses changes without the care and none with it.
//!
//! The third danger, a metalogger that goes on behind half a line, is held by the tests of the library:
//! `a_change_swallowed_by_a_killed_metalogger_is_found` (without the repair) and
//! `a_metalogger_that_was_killed_goes_on_after_the_repair` (with it).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mfs_ha_lab::serial;
use mfs_ha_lab::software::moosefs::CLIENT;
use mfs_ha_lab::software::moosefs::Mode;
use mfs_ha_lab::software::moosefs::cluster::{Cluster, SETTLE};
use mfs_ha_lab::software::moosefs::mount::Mount;
use mfs_ha_lab::software::moosefs::node::kill_master;
use mfs_ha_lab::software::process::{Launch, Supervised};
use mfs_ha_lab::wait::{observe_for, wait_until};

use super::scene::{Files, metadata_files};

/// What a master has to start from, and its metaloggers from it.
const MASTER_FILES: [&str; 2] = ["metadata.mfs.back", "changelog.0.mfs"];
/// A metalogger asks again once a second, and writes once a second.
const RECONNECTED: Duration = Duration::from_secs(2);

/// Masters and metaloggers on nodes, started by hand.
struct Bench {
    cluster: Cluster,
    mounts: usize,
}

impl Bench {
    /// A master on n1 with a file named `first0`.
    fn new() -> Self {
        let mut bench = Self {
            cluster: Cluster::new(Mode::Carp).unwrap(),
            mounts: 0,
        };
        bench.cluster.start_master_by_hand(1).unwrap();
        let mount = bench.mount();
        bench.make(&mount, "first", 1);
        bench
    }

    fn data(&self, node: usize) -> PathBuf {
        self.cluster.files(node).unwrap().data.clone()
    }

    /// Starts the metalogger of a node and waits until it has an image.
    fn follow(&self, node: usize) -> Supervised {
        let config = &self.cluster.files(node).unwrap().metalogger_config;
        let log = config.with_extension("log");
        let mut metalogger = Launch::new("mfsmetalogger", &log, "mfsmetalogger")
            .args(["-f", "-c"])
            .args([config])
            .args(["start"])
            .inside(&self.cluster.node(node).unwrap().namespace)
            .spawn()
            .unwrap();
        wait_until("the metalogger to have everything", SETTLE, || {
            metalogger.check_running()?;
            let log = metalogger.log_text()?;
            Ok(log.contains("changelog_1 downloaded").then_some(()))
        })
        .unwrap();
        metalogger
    }

    /// A client's session.
    fn mount(&mut self) -> Mount {
        self.mounts += 1;
        let topology = self.cluster.arena().topology();
        let host = topology.host(CLIENT).unwrap();
        let place = topology.directory().join(format!("mount-{}", self.mounts));
        let log = place.with_extension("log");
        Mount::start(&host.namespace, &place, &log, false).unwrap()
    }

    /// Makes empty files: one change each, and no chunkserver is needed.
    fn make(&self, mount: &Mount, prefix: &str, count: usize) {
        let last = count - 1;
        let script = format!("cd \"$0\" && for n in $(seq 0 {last}); do : > {prefix}$n; done");
        self.run(mount, &script);
    }

    /// What the present master shows.
    fn names(&mut self) -> BTreeSet<String> {
        let mount = self.mount();
        let listing = self.run(&mount, "ls \"$0\"");
        listing.lines().map(str::to_owned).collect()
    }

    /// Runs a shell script whose `$0` is the mount.
    fn run(&self, mount: &Mount, script: &str) -> String {
        let host = self.cluster.arena().topology().host(CLIENT).unwrap();
        let output = mount.point().with_extension("out");
        let mut shell = mount
            .launch(&host.namespace, "a script", &output, "sh")
            .args(["-c", script])
            .args([mount.point()])
            .spawn()
            .unwrap();
        let status = shell.wait(SETTLE).unwrap();
        let said = shell.log_text().unwrap();
        assert!(status.success(), "{script}: {status}: {said}");
        said
    }

    /// The master's metadata as it stands now, for a node that did not hear of what comes after.
    fn copy(&self, from: usize, to: usize) {
        wait_until("the master to write what it did", SETTLE, || {
            let changelog = fs::read_to_string(self.data(from).join(MASTER_FILES[1]))?;
            Ok(changelog.ends_with('\n').then_some(()))
        })
        .unwrap();
        for name in MASTER_FILES {
            let (old, new) = (self.data(from).join(name), self.data(to).join(name));
            let words = ["-p", old.to_str().unwrap(), new.to_str().unwrap()];
            self.cluster
                .node(to)
                .unwrap()
                .namespace
                .run("cp", &words)
                .unwrap();
        }
    }

    /// The master of a node dies; a client that it had goes with it, and does not bother the next one.
    fn end(&self, node: usize, mount: Mount) {
        let (place, files) = (self.cluster.node(node), self.cluster.files(node));
        kill_master(place.unwrap(), files.unwrap()).unwrap();
        drop(mount);
        self.cluster.arena().topology().remove_vip(node).unwrap();
    }

    /// Waits until a metalogger's file has a change.
    fn wait_change(&self, node: usize, word: &str) {
        wait_until(&format!("{word} on n{node}"), SETTLE, || {
            Ok(mentions(&metadata_files(&self.data(node)), word).then_some(()))
        })
        .unwrap();
    }
}

/// Whether a changelog has a word.
fn mentions(files: &Files, word: &str) -> bool {
    files.iter().any(|(name, content)| {
        name.starts_with("changelog") && String::from_utf8_lossy(content).contains(word)
    })
}

/// Moves metadata files into another directory, or links them there.
fn put_aside(from: &Path, to: &Path, wanted: impl Fn(&str) -> bool, links: bool) {
    fs::create_dir(to).unwrap();
    for name in metadata_files(from).into_keys().filter(|name| wanted(name)) {
        let (old, new) = (from.join(&name), to.join(&name));
        let result = if links {
            fs::hard_link(old, new)
        } else {
            fs::rename(old, new)
        };
        result.unwrap();
    }
}

/// A metalogger that is ahead of the master it meets deletes its changes. Returns whether `late` files are
/// served in the end, where n2's metalogger alone had heard of them.
fn metalogger_ahead(with_links: bool) -> bool {
    let mut bench = Bench::new();
    let mut metalogger = bench.follow(2);
    bench.copy(1, 3);
    let mount = bench.mount();
    bench.make(&mount, "late", 20);
    bench.wait_change(2, "late19");
    let (live, kept) = (bench.data(2), bench.data(2).join("kept"));
    if with_links {
        put_aside(&live, &kept, |_| true, true);
    }
    bench.end(1, mount);
    bench.cluster.start_master_by_hand(3).unwrap();
    // It notices with the first change.
    let mount = bench.mount();
    bench.make(&mount, "other", 1);
    wait_until("the metalogger to notice that it is ahead", SETTLE, || {
        let log = metalogger.log_text()?;
        Ok(log.contains("some changes lost").then_some(()))
    })
    .unwrap();
    observe_for(RECONNECTED).unwrap();
    metalogger.terminate(SETTLE).unwrap();
    assert!(!mentions(&metadata_files(&live), "late"));
    if with_links {
        assert!(mentions(&metadata_files(&kept), "late19"));
        put_aside(&live, &live.join("after"), |_| true, false);
        for name in metadata_files(&kept).into_keys() {
            fs::rename(kept.join(&name), live.join(&name)).unwrap();
        }
    }
    bench.end(3, mount);
    bench.cluster.start_master_by_hand(2).unwrap();
    let names = bench.names();
    assert!(names.contains("first0"), "{names:?}");
    names.contains("late0") && names.contains("late19")
}

#[test]
fn without_a_snapshot_a_metalogger_that_is_ahead_loses_its_changes() {
    let _serial = serial();
    assert!(!metalogger_ahead(false));
    assert!(metalogger_ahead(true));
}

/// A former master follows its successor, in the directory that holds its own changes as well. Returns what is
/// served from that directory in the end; none when mfsmaster refuses.
fn former_master(with_quarantine: bool) -> Option<BTreeSet<String>> {
    let mut bench = Bench::new();
    bench.copy(1, 2);
    let mount = bench.mount();
    bench.make(&mount, "old", 30);
    bench.end(1, mount);
    bench.cluster.start_master_by_hand(2).unwrap();
    let live = bench.data(1);
    if with_quarantine {
        let is_own = |name: &str| !name.contains("_ml");
        put_aside(&live, &live.join("quarantine"), is_own, false);
    }
    let mut metalogger = bench.follow(1);
    let mount = bench.mount();
    bench.make(&mount, "new", 20);
    bench.wait_change(1, "new19");
    metalogger.terminate(SETTLE).unwrap();
    bench.end(2, mount);
    match bench.cluster.start_master_by_hand(1) {
        Ok(()) => Some(bench.names()),
        Err(refusal) => {
            println!("mfsmaster refuses: {refusal:#}");
            None
        }
    }
}

#[test]
fn without_quarantine_two_histories_meet_in_one_directory() {
    let _serial = serial();
    let mut right: BTreeSet<String> = (0..20).map(|number| format!("new{number}")).collect();
    right.insert("first0".to_owned());
    let mixed = former_master(false);
    println!("without quarantine: {mixed:?}");
    assert_ne!(mixed.as_ref(), Some(&right));
    assert_eq!(former_master(true), Some(right));
}
