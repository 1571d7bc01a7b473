//! The next in line cannot do a step of its promotion: the one after it serves, and nothing has changed in the
//! directory of the one that failed.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use mfs_ha_lab::oracle::trial::Fault;
use mfs_ha_lab::serial;
use mfs_ha_lab::software::mfsha::set_key;
use mfs_ha_lab::software::moosefs::cluster::SETTLE;

use super::scene::{NODES, Scene, check_kept, give, is_long};

/// Starting a small mfsmaster takes a third of it.
const START_LIMIT_MS: i64 = 1500;
/// What says that mfsmetalogger was not meant to start.
const HELD: &str = "echo 'held back by the test'; exit 1";

/// What is in the way of a promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obstacle {
    /// The disk of the data directory is full.
    FullDisk,
    /// mfsmaster is not installed where it should be.
    MissingProgram,
    /// mfsmaster ends at once, because of a line in its exports.
    BrokenExports,
    /// The user of mfsmaster may not read its exports.
    UnreadableExports,
    /// The user of mfsmaster may not enter its data directory.
    ForbiddenDirectory,
    /// A fake: a program that lives and never listens.
    SilentProgram,
}

impl Obstacle {
    /// The step that fails, and words of the reason.
    const fn shows(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::FullDisk => ("stage", &["No space left on device"]),
            Self::MissingProgram => ("start_master", &["mfsmaster", "No such file or directory"]),
            Self::BrokenExports | Self::UnreadableExports => {
                ("start_master", &["exit status: 1", "exports"])
            }
            Self::ForbiddenDirectory => ("start_master", &["working directory"]),
            Self::SilentProgram => ("start_master", &["9419", "9420", "9421"]),
        }
    }

    fn put(self, scene: &Scene, node: usize) {
        match self {
            Self::FullDisk => fill(&ballast(scene, node)),
            Self::MissingProgram => scene.uninstall(node, "mfsmaster"),
            Self::BrokenExports => fs::write(exports(scene, node), "nonsense\n").unwrap(),
            Self::UnreadableExports => set_mode(&exports(scene, node), 0o600),
            Self::ForbiddenDirectory => {
                chown(scene.data(node), Some(0), Some(0)).unwrap();
                set_mode(&scene.data(node), 0o700);
            }
            Self::SilentProgram => scene.replace(node, "mfsmaster", "exec sleep 600"),
        }
    }

    fn remove(self, scene: &Scene, node: usize) {
        match self {
            Self::FullDisk => fs::remove_file(ballast(scene, node)).unwrap(),
            Self::MissingProgram | Self::SilentProgram => scene.install(node, "mfsmaster"),
            Self::BrokenExports => {
                let good = NODES.into_iter().find(|other| *other != node).unwrap();
                fs::copy(exports(scene, good), exports(scene, node)).unwrap();
            }
            Self::UnreadableExports => set_mode(&exports(scene, node), 0o644),
            Self::ForbiddenDirectory => {
                give(&scene.data(node));
                set_mode(&scene.data(node), 0o755);
            }
        }
    }
}

#[test]
fn the_next_in_line_cannot_be_promoted() {
    let _serial = serial();
    let mut scene = Scene::new(|scene| {
        // The first successor.
        scene.mount_disk(2);
        for node in NODES {
            let configuration = scene.cluster.configuration(node);
            set_key(&configuration, "moosefs.start_timeout_ms", START_LIMIT_MS).unwrap();
        }
    });
    let mut obstacles = vec![
        Obstacle::FullDisk,
        Obstacle::MissingProgram,
        Obstacle::SilentProgram,
    ];
    if is_long() {
        obstacles.extend([
            Obstacle::BrokenExports,
            Obstacle::UnreadableExports,
            Obstacle::ForbiddenDirectory,
        ]);
    }
    for obstacle in obstacles {
        stumble(&mut scene, obstacle);
    }
    // Whoever failed last is as good as ever.
    let (serving, [next, _]) = scene.roles();
    scene.wait_eligible(next);
    let (winner, report, mark) = scene.fail_over(serving);
    assert_eq!(winner, next);
    scene.cluster.bring_back(serving).unwrap();
    scene.check_nothing_lost(report, mark);
}

/// The serving node dies while its successor has an obstacle in its way; all three are well in the end.
fn stumble(scene: &mut Scene, obstacle: Obstacle) {
    let (serving, [next, last]) = scene.roles();
    println!("{obstacle:?}: n{serving} dies, n{next} cannot take over");
    // Its hold-down grows with each failure, and is over when it is started anew.
    if scene.cluster.daemon(next).unwrap().status().unwrap()["demotion"] != serde_json::json!([]) {
        scene.kill_daemon(next);
        scene.cluster.start_node(next).unwrap();
    }
    scene.wait_eligible(next);
    scene.wait_eligible(last);
    scene.warm_up();
    // Whatever is in the directory after the failure shall be seen before the metalogger goes on.
    scene.replace(next, "mfsmetalogger", HELD);
    let before = scene.live(next);
    obstacle.put(scene, next);
    let strike = scene.die(serving);
    let report = scene.watch(Fault::NodeDeath, strike);
    assert_eq!(report.winner, Some(format!("n{last}")));

    let (step, reason) = scene.last_failure(next);
    let (expected, words) = obstacle.shows();
    // Whoever wrote when the disk was filled frees a page afterwards: enough for a small staging.
    let is_full_later = matches!(obstacle, Obstacle::FullDisk) && step == "install";
    assert!(step == expected || is_full_later, "{step}: {reason}");
    for word in words {
        assert!(reason.contains(word), "no {word} in: {reason}");
    }
    check_kept(&before, &scene.live(next));
    assert_eq!(scene.cluster.master_pid(next).unwrap(), None);

    obstacle.remove(scene, next);
    scene.install(next, "mfsmetalogger");
    scene.cluster.wait_ready(next, SETTLE).unwrap();
    scene.cluster.bring_back(serving).unwrap();
    scene.check_nothing_lost(report, strike.mark);
}

fn exports(scene: &Scene, node: usize) -> PathBuf {
    let files = scene.cluster.files(node).unwrap();
    files.master_config.with_file_name("mfsexports.cfg")
}

fn ballast(scene: &Scene, node: usize) -> PathBuf {
    scene.data(node).join("ballast")
}

/// Writes until the disk is full.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    for size in [1 << 16, 1 << 10, 1] {
        let error = loop {
            if let Err(error) = file.write_all(&vec![0; size]) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}
