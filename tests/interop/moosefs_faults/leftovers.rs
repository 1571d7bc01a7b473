//! What a node finds in its directory when it comes back, and what it keeps when the master changes.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::time::SystemTime;

use mfs_ha_lab::net::addresses::holds;
use mfs_ha_lab::serial;
use mfs_ha_lab::software::moosefs::cluster::SETTLE;
use mfs_ha_lab::wait::wait_until;
use mfs_ha_lab::{PREFIX_LENGTH, VIP};

use super::scene::{Scene, is_long};

/// Where a metalogger writes what it receives.
const STREAM: &str = "changelog_ml.0.mfs";
/// Made by the first metalogger that runs in a directory.
const METALOGGER_LOCK: &str = ".mfsmetalogger.lock";
const MASTER_FILES: [&str; 2] = ["metadata.mfs.back", "changelog.0.mfs"];

#[test]
fn what_a_node_finds_is_put_in_order_before_it_takes_part() {
    let _serial = serial();
    let mut scene = Scene::new(|_| ());
    partial_line(&mut scene, 3);
    stray_master(&mut scene, 3);
    former_master(&mut scene);
    // Everybody served with what was repaired, quarantined and downloaded anew.
    for _ in 0..if is_long() { 2 } else { 1 } {
        let (serving, [next, last]) = scene.roles();
        scene.cluster.kill_node(next, false).unwrap();
        let (winner, report, mark) = scene.fail_over(serving);
        assert_eq!(winner, last);
        for node in [next, serving] {
            scene.cluster.bring_back(node).unwrap();
        }
        scene.check_nothing_lost(report, mark);
    }
}

/// A standby loses its power: its metalogger leaves half a line, which is cut before the next one writes.
fn partial_line(scene: &mut Scene, node: usize) {
    scene.warm_up();
    let stream = scene.data(node).join(STREAM);
    wait_until("the metalogger to have written", SETTLE, || {
        let content = fs::read(&stream).unwrap_or_default();
        Ok((content.iter().filter(|byte| **byte == b'\n').count() > 1).then_some(()))
    })
    .unwrap();
    scene.cluster.kill_node(node, false).unwrap();
    let torn = tear(&stream);
    scene.cluster.bring_back(node).unwrap();
    let repairs = scene.archives(node, "repair");
    let (_, kept) = repairs.last().unwrap();
    assert_eq!(kept[STREAM], torn);
    let whole = torn.iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
    assert!(fs::read(&stream).unwrap().starts_with(&torn[..whole]));
}

/// Cuts a file within its last line, unless its writer was killed within one. Returns what is left.
fn tear(path: &Path) -> Vec<u8> {
    let mut content = fs::read(path).unwrap();
    if content.ends_with(b"\n") {
        content.truncate(content.len() - 2);
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(u64::try_from(content.len()).unwrap()).unwrap();
    }
    content
}

/// Somebody started mfsmaster by hand, and the address was left on the interface.
fn stray_master(scene: &mut Scene, node: usize) {
    scene.warm_up();
    scene.cluster.kill_node(node, false).unwrap();
    let before = scene.live(node);
    let place = scene.cluster.node(node).unwrap().namespace.clone();
    let config = scene.cluster.files(node).unwrap().master_config.clone();
    let config = config.to_str().unwrap();
    place
        .run("mfsmaster", &["-a", "-c", config, "start"])
        .unwrap();
    let vip = format!("{VIP}/{PREFIX_LENGTH}");
    place
        .run("ip", &["addr", "add", &vip, "dev", "eth0"])
        .unwrap();
    let stray = scene.cluster.master_pid(node).unwrap().unwrap();
    scene.cluster.start_node(node).unwrap();
    scene.cluster.arena().wait_vip(node, false, SETTLE).unwrap();
    let daemon = scene.cluster.daemon(node).unwrap();
    daemon.wait_reachable(SETTLE).unwrap();
    // It takes part from here on, and hears nobody yet.
    Scene::wait_gone(stray);
    assert_eq!(scene.cluster.master_pid(node).unwrap(), None);
    assert!(!holds(&place, VIP).unwrap());
    scene.check_nothing_gone(node, &before);
    scene.cluster.arena().topology().port_up(node).unwrap();
    scene.cluster.wait_ready(node, SETTLE).unwrap();
    scene.check_nothing_gone(node, &before);
}

/// The master dies and comes back: its own files are out of the way before its metalogger runs. The standby
/// that goes on has kept what it had before it met the new master.
fn former_master(scene: &mut Scene) {
    let (serving, [next, last]) = scene.roles();
    scene.warm_up();
    let followed = scene.live(last);
    let (winner, report, mark) = scene.fail_over(serving);
    assert_eq!(winner, next);

    let snapshots = scene.archives(last, "snapshot");
    let (path, kept) = snapshots.last().unwrap();
    for (name, content) in &followed {
        assert!(
            kept[name].starts_with(content),
            "{name} in {}",
            path.display()
        );
    }

    let served = scene.live(serving);
    assert!(MASTER_FILES.iter().all(|name| served.contains_key(*name)));
    scene.cluster.bring_back(serving).unwrap();
    let quarantines = scene.archives(serving, "quarantine");
    let (path, kept) = quarantines.last().unwrap();
    for name in MASTER_FILES {
        assert_eq!(kept[name], served[name], "{name} in {}", path.display());
        assert!(!scene.live(serving).contains_key(name), "{name}");
    }
    let moved = changed(&path.join(MASTER_FILES[0]));
    let begun = fs::metadata(scene.data(serving).join(METALOGGER_LOCK)).unwrap();
    // The kernel stamps files with the time of its last tick: what is 4 ms apart may carry the same.
    assert!(moved <= begun.created().unwrap());
    scene.check_nothing_lost(report, mark);
}

/// When a file was moved to where it is.
fn changed(path: &Path) -> SystemTime {
    use std::os::unix::fs::MetadataExt as _;
    let meta = fs::metadata(path).unwrap();
    let since = std::time::Duration::new(
        u64::try_from(meta.ctime()).unwrap(),
        u32::try_from(meta.ctime_nsec()).unwrap(),
    );
    SystemTime::UNIX_EPOCH + since
}
