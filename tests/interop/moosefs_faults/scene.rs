//! Three nodes and a client at work, where mfsmaster and mfsmetalogger of a node can be exchanged, and what is
//! asserted of every fault.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mfs_ha_lab::oracle::client::ClientOptions;
use mfs_ha_lab::oracle::report::Report;
use mfs_ha_lab::oracle::trial::{Fault, Mark, Patience, Strike, audit, observe};
use mfs_ha_lab::requirements::find_tool;
use mfs_ha_lab::software::mfsha::{set_key, text_at};
use mfs_ha_lab::software::moosefs::CLIENT;
use mfs_ha_lab::software::moosefs::Mode;
use mfs_ha_lab::software::moosefs::cluster::{Cluster, SETTLE};
use mfs_ha_lab::wait::{wait_until, wait_until_every};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use serde_json::Value;

/// Far more than a failover may take, a failed promotion before it included.
pub(crate) const PATIENCE: Patience = Patience {
    limit: Duration::from_secs(40),
    stragglers: Duration::from_secs(2),
};
pub(crate) const NODES: [usize; 3] = [1, 2, 3];
/// The programs, and the keys that tell mfs-ha where they are.
const PROGRAMS: [(&str, &str); 2] = [
    ("mfsmaster", "moosefs.master_program"),
    ("mfsmetalogger", "moosefs.metalogger_program"),
];
/// Far more than the metadata of a test.
const DISK_OPTIONS: &str = "size=32m,mode=0755";
/// How often a log is looked at for a step that lasts some milliseconds.
const LOG_INTERVAL: Duration = Duration::from_millis(1);

/// Whether the long suite runs.
pub(crate) fn is_long() -> bool {
    std::env::var_os("MFS_HA_LONG").is_some()
}

/// Content of files by name.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// A cluster whose nodes start their MooseFS programs through links that a test can turn.
pub(crate) struct Scene {
    // Unmounted before the directories of the cluster are removed, also after a panic.
    disks: Vec<Disk>,
    pub(crate) cluster: Cluster,
}

/// A file system of its own for a data directory; it goes when this is dropped.
struct Disk(PathBuf);

impl Drop for Disk {
    fn drop(&mut self) {
        // Programs may still use it.
        umount2(&self.0, MntFlags::MNT_DETACH).ok();
    }
}

impl Scene {
    /// Everything runs, n1 serves, the client is at work. `prepare` sees the nodes before their daemons start.
    pub(crate) fn new(prepare: impl FnOnce(&mut Self)) -> Self {
        let mut scene = Self {
            disks: Vec::new(),
            cluster: Cluster::new(Mode::Carp).unwrap(),
        };
        for node in NODES {
            for (name, key) in PROGRAMS {
                scene.install(node, name);
                let path = scene.program(node, name).display().to_string();
                set_key(&scene.cluster.configuration(node), key, path).unwrap();
            }
        }
        prepare(&mut scene);
        scene.cluster.start_all().unwrap();
        let options = ClientOptions::default();
        scene.cluster.start_client(options).unwrap();
        scene
    }

    /// Where a node's daemon finds `mfsmaster` or `mfsmetalogger`.
    pub(crate) fn program(&self, node: usize, name: &str) -> PathBuf {
        let home = self.data(node).parent().unwrap().to_owned();
        home.join(name)
    }

    /// DATA_PATH of a node.
    pub(crate) fn data(&self, node: usize) -> PathBuf {
        self.cluster.files(node).unwrap().data.clone()
    }

    /// Gives the empty data directory of a node a small disk of its own.
    pub(crate) fn mount_disk(&mut self, node: usize) {
        let (at, none) = (self.data(node), None::<&str>);
        mount(
            none,
            &at,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(DISK_OPTIONS),
        )
        .unwrap();
        give(&at);
        self.disks.push(Disk(at));
    }

    /// Lets a node have the real program.
    pub(crate) fn install(&self, node: usize, name: &str) {
        self.turn(node, name, &find_tool(name).unwrap());
    }

    /// Takes a program away from a node.
    pub(crate) fn uninstall(&self, node: usize, name: &str) {
        fs::remove_file(self.program(node, name)).unwrap();
    }

    /// Lets a node have a shell script for a program.
    pub(crate) fn replace(&self, node: usize, name: &str, script: &str) {
        let path = self.program(node, name).with_extension("sh");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self.turn(node, name, &path);
    }

    fn turn(&self, node: usize, name: &str, target: &Path) {
        let link = self.program(node, name);
        let new = link.with_extension("new");
        symlink(target, &new).unwrap();
        fs::rename(&new, &link).unwrap();
    }

    /// Who serves, and the others: the first of them is next in line.
    pub(crate) fn roles(&mut self) -> (usize, [usize; 2]) {
        let serving = self.cluster.wait_serving(SETTLE).unwrap();
        let mut others = NODES.into_iter().filter(|node| *node != serving);
        (serving, [others.next().unwrap(), others.next().unwrap()])
    }

    /// Lets a node die, with a client that is at work.
    pub(crate) fn die(&mut self, node: usize) -> Strike {
        self.warm_up();
        let mark = Mark::now().unwrap();
        self.cluster.kill_node(node, false).unwrap();
        struck(node, mark)
    }

    /// Lets the client work, and waits until it has made some more files.
    pub(crate) fn warm_up(&mut self) {
        self.signal_workers(Signal::SIGCONT);
        let client = self.cluster.client().unwrap();
        client.wait_acked(10, SETTLE).unwrap();
    }

    /// Watches the client go on after a fault, which has to leave one owner and one server at most.
    pub(crate) fn watch(&mut self, fault: Fault, strike: Strike) -> Report {
        let mut tell = |at: Duration, what: &str| println!("{:>8} ms  {what}", at.as_millis());
        let report = observe(&mut self.cluster, fault, strike, PATIENCE, &mut tell).unwrap();
        assert_eq!(
            (report.owners_max, report.servers_max),
            (1, 1),
            "{report:?}"
        );
        assert!(report.client_went_on(), "{report:?}");
        // What it would make until the next fault would only have to be read again.
        self.signal_workers(Signal::SIGSTOP);
        report
    }

    /// The serving node dies; returns who serves after it, when the client has gone on.
    pub(crate) fn fail_over(&mut self, serving: usize) -> (usize, Report, Mark) {
        let strike = self.die(serving);
        let report = self.watch(Fault::NodeDeath, strike);
        let winner = report.winner.as_deref().unwrap();
        let winner = winner.trim_start_matches('n').parse().unwrap();
        (winner, report, strike.mark)
    }

    /// Asks for everything that was acknowledged.
    pub(crate) fn check_nothing_lost(&mut self, mut report: Report, mark: Mark) {
        audit(&mut self.cluster, &mut report, mark).unwrap();
        println!("{}", serde_json::to_string(&report).unwrap());
        assert_eq!(report.problems(), Vec::<String>::new());
        assert_eq!(report.client_errors, 0);
    }

    /// Waits until a node is ready and held back by nothing.
    pub(crate) fn wait_eligible(&mut self, node: usize) {
        self.cluster.wait_ready(node, SETTLE).unwrap();
        let daemon = self.cluster.daemon(node).unwrap();
        let what = format!("n{node} to be held back by nothing");
        let is_free = |status: &Value| status["demotion"].as_array().is_some_and(Vec::is_empty);
        daemon.wait_status(&what, SETTLE, is_free).unwrap();
    }

    /// The step that failed a node last, and why.
    pub(crate) fn last_failure(&mut self, node: usize) -> (String, String) {
        let daemon = self.cluster.daemon(node).unwrap();
        let status = daemon.status().unwrap();
        println!("n{node}: {}", status["promotion"]);
        (
            text_at(&status, "/promotion/last_failure/step").unwrap(),
            text_at(&status, "/promotion/last_failure/reason").unwrap(),
        )
    }

    /// The metadata files in a node's live directory.
    pub(crate) fn live(&self, node: usize) -> Files {
        metadata_files(&self.data(node))
    }

    /// The archives of a node whose label is `label`, with their files, oldest first.
    pub(crate) fn archives(&self, node: usize, label: &str) -> Vec<(PathBuf, Files)> {
        let archive = self.data(node).join("mfs-ha/archive");
        names(&archive)
            .into_iter()
            .filter(|name| name.rsplit('-').next() == Some(label))
            .map(|name| {
                let path = archive.join(name);
                let files = metadata_files(&path);
                (path, files)
            })
            .collect()
    }

    /// Asserts that whatever was in a node's directory is still in it or in an archive.
    pub(crate) fn check_nothing_gone(&self, node: usize, before: &Files) {
        let archive = self.data(node).join("mfs-ha/archive");
        let mut places: Vec<Files> = names(&archive)
            .iter()
            .map(|name| metadata_files(&archive.join(name)))
            .collect();
        places.push(self.live(node));
        for (name, content) in before {
            let is_there = places
                .iter()
                .any(|files| files.values().any(|kept| kept.starts_with(content)));
            assert!(is_there, "{name} of n{node} is nowhere any more");
        }
    }

    /// Sends a signal to the client's workers: a client that is stopped acknowledges nothing.
    pub(crate) fn signal_workers(&self, signal: Signal) {
        let host = self.cluster.arena().topology().host(CLIENT).unwrap();
        let is_worker = |pid: &Pid| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&words).contains("\0oracle\0work\0")
        };
        let workers: Vec<Pid> = host.namespace.pids().unwrap();
        let workers: Vec<Pid> = workers.into_iter().filter(is_worker).collect();
        assert!(!workers.is_empty(), "no workers of the client");
        for pid in workers {
            kill(pid, signal).unwrap();
        }
    }

    /// Kills a node's daemon and nothing else, and waits for its end.
    pub(crate) fn kill_daemon(&mut self, node: usize) {
        let process = self.cluster.daemon(node).unwrap().process();
        // It may have been faster.
        process.signal(Signal::SIGKILL).ok();
        process.wait(SETTLE).unwrap();
    }

    /// How much a node's daemon has logged.
    pub(crate) fn log_length(&mut self, node: usize) -> usize {
        let process = self.cluster.daemon(node).unwrap().process();
        process.log_text().unwrap().len()
    }

    /// Waits until a node's daemon logs that a step begins, after `from`.
    pub(crate) fn wait_step(&mut self, node: usize, step: &str, from: usize) {
        let process = self.cluster.daemon(node).unwrap().process();
        let needle = format!("step=\"{step}\"");
        wait_until_every(LOG_INTERVAL, &needle, PATIENCE.limit, || {
            let log = process.log_text()?;
            let is_there = |line: &str| line.contains("begins") && line.contains(&needle);
            Ok(log[from..].lines().any(is_there).then_some(()))
        })
        .unwrap();
    }

    /// Waits for the end of a process of the laboratory.
    pub(crate) fn wait_gone(pid: Pid) {
        wait_until(&format!("the end of process {pid}"), SETTLE, || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            Ok((stat.is_empty() || stat.contains(") Z ")).then_some(()))
        })
        .unwrap();
    }
}

/// A fault on a node that began at `mark` and is done.
pub(crate) fn struck(node: usize, mark: Mark) -> Strike {
    let done = Instant::now();
    Strike { node, mark, done }
}

/// Asserts that a directory holds what it held, where a changelog may have grown.
pub(crate) fn check_kept(before: &Files, after: &Files) {
    let names = |files: &Files| files.keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(before), names(after));
    for (name, content) in before {
        let is_kept = if name.starts_with("changelog") {
            after[name].starts_with(content)
        } else {
            after[name] == *content
        };
        assert!(is_kept, "{name} has changed");
    }
}

/// The metadata files of a directory.
pub(crate) fn metadata_files(directory: &Path) -> Files {
    names(directory)
        .into_iter()
        .filter(|name| name.starts_with("metadata") || name.starts_with("changelog"))
        .map(|name| {
            let content = fs::read(directory.join(&name)).unwrap();
            (name, content)
        })
        .collect()
}

/// Hands a file or directory to the user that the programs run as.
pub(crate) fn give(path: &Path) {
    let user = User::from_name("mfs").unwrap().unwrap();
    chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
}

/// Names in a directory; none where there is no directory.
fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
