//! The daemon is killed at every step it can be caught in, and while it serves. What it left is found by the
//! next start: resumed, or taken back.

use std::fs;

use mfs_ha_lab::oracle::trial::{Fault, Mark};
use mfs_ha_lab::serial;
use mfs_ha_lab::software::mfsha::set_key;
use mfs_ha_lab::software::moosefs::cluster::SETTLE;
use mfs_ha_lab::wait::wait_until;
use nix::sys::signal::Signal;

use super::scene::{PATIENCE, Scene, is_long, struck};

/// Steps that last some milliseconds: a kill at the first word of one may come in a later one.
const BRIEF_STEPS: [&str; 6] = [
    "stop_stray",
    "stop_metalogger",
    "stage",
    "verify",
    "install",
    "record_epoch",
];
/// So many silent intervals make peers wait for seconds.
const PATIENT_RATIO: i64 = 100;
const USUAL_RATIO: i64 = 3;
/// A master that says that it is there with one file, and waits for another one before it starts.
const BEGUN: &str = "begun";
const GO: &str = "go";
const WAITING_MASTER: &str = "d=\"${0%/*}\"; : > \"$d/begun\"; \
    while ! [ -e \"$d/go\" ]; do sleep 0.02; done; exec mfsmaster \"$@\"";

#[test]
fn the_daemon_of_a_successor_is_killed() {
    let _serial = serial();
    let mut scene = Scene::new(|_| ());
    killed_while_the_master_starts(&mut scene);
    if is_long() {
        for step in BRIEF_STEPS {
            killed_at(&mut scene, step);
        }
    }
}

/// mfsmaster comes up when its daemon is dead and another node serves. It is ended by the next start.
fn killed_while_the_master_starts(scene: &mut Scene) {
    let (serving, [next, last]) = scene.roles();
    let before = scene.live(next);
    scene.replace(next, "mfsmaster", WAITING_MASTER);
    let strike = scene.die(serving);
    let begun = scene.program(next, BEGUN);
    wait_until("the start of the master", SETTLE, || {
        Ok(begun.exists().then_some(()))
    })
    .unwrap();
    scene.kill_daemon(next);
    fs::write(scene.program(next, GO), "").unwrap();
    let report = scene.watch(Fault::NodeDeath, strike);
    assert_eq!(report.winner, Some(format!("n{last}")));
    let stray = wait_until("the master of the dead daemon", SETTLE, || {
        scene.cluster.master_pid(next)
    });
    scene.install(next, "mfsmaster");
    come_back(scene, next);
    Scene::wait_gone(stray.unwrap());
    scene.check_nothing_gone(next, &before);
    scene.cluster.bring_back(serving).unwrap();
    scene.check_nothing_lost(report, strike.mark);
    // It can be promoted again.
    serve_with(scene, last, next, serving);
}

/// Killed as soon as a step has begun. Another node serves, and nothing of the directory is lost.
fn killed_at(scene: &mut Scene, step: &str) {
    let (serving, [next, last]) = scene.roles();
    scene.wait_eligible(next);
    scene.wait_eligible(last);
    scene.warm_up();
    let before = scene.live(next);
    let from = scene.log_length(next);
    let strike = scene.die(serving);
    scene.wait_step(next, step, from);
    scene.kill_daemon(next);
    println!(
        "n{next}: killed at {step}, {:?} after the failure",
        strike.mark.at.elapsed()
    );
    let report = scene.watch(Fault::NodeDeath, strike);
    assert_eq!(report.winner, Some(format!("n{last}")));
    scene.check_nothing_gone(next, &before);
    come_back(scene, next);
    scene.check_nothing_gone(next, &before);
    scene.cluster.bring_back(serving).unwrap();
    scene.check_nothing_lost(report, strike.mark);
}

#[test]
fn the_daemon_of_the_master_is_killed() {
    let _serial = serial();
    let mut scene = Scene::new(|_| ());
    killed_and_back_in_time(&mut scene);
    killed_and_back_too_late(&mut scene);
    if is_long() {
        killed_while_it_resigns(&mut scene);
    }
}

/// The other nodes are patient, and the daemon is back before they act: its mfsmaster serves on.
fn killed_and_back_in_time(scene: &mut Scene) {
    let (serving, others) = scene.roles();
    for node in others {
        set_patience(scene, node, PATIENT_RATIO);
    }
    scene.warm_up();
    let master = scene.cluster.master_pid(serving).unwrap();
    let mark = Mark::now().unwrap();
    scene.kill_daemon(serving);
    scene.cluster.start_node(serving).unwrap();
    let daemon = scene.cluster.daemon(serving).unwrap();
    daemon
        .wait_status("the master to serve on", SETTLE, |status| {
            status["phase"] == "active"
        })
        .unwrap();
    let report = scene.watch(Fault::MasterCrash, struck(serving, mark));
    assert_eq!(report.winner, Some(format!("n{serving}")));
    assert_eq!(scene.cluster.master_pid(serving).unwrap(), master);
    scene.check_nothing_lost(report, mark);
    for node in others {
        set_patience(scene, node, USUAL_RATIO);
    }
}

/// The daemon comes back when another node serves: its own mfsmaster is ended, its files are kept.
fn killed_and_back_too_late(scene: &mut Scene) {
    let (serving, [next, _]) = scene.roles();
    scene.warm_up();
    let master = scene.cluster.master_pid(serving).unwrap().unwrap();
    let before = scene.live(serving);
    let mark = Mark::now().unwrap();
    scene.kill_daemon(serving);
    let mac = scene.cluster.node(next).unwrap().mac;
    wait_until("the successor to take clients", PATIENCE.limit, || {
        let ports = scene.cluster.ports();
        ports.look(|log| log.first_accept(mark.at, |taker| taker == mac))
    })
    .unwrap();
    assert_eq!(scene.cluster.master_pid(serving).unwrap(), Some(master));
    come_back(scene, serving);
    Scene::wait_gone(master);
    scene
        .cluster
        .arena()
        .wait_vip(serving, false, SETTLE)
        .unwrap();
    scene.check_nothing_gone(serving, &before);
    // Its gate has kept everybody from the dead daemon's node all the time.
    let report = scene.watch(Fault::DaemonKill, struck(serving, mark));
    assert_eq!(report.winner, Some(format!("n{next}")));
    scene.check_nothing_lost(report, mark);
}

/// Told to end, and killed while it gives up what it has.
fn killed_while_it_resigns(scene: &mut Scene) {
    let (serving, [next, last]) = scene.roles();
    scene.wait_eligible(next);
    scene.wait_eligible(last);
    scene.warm_up();
    let from = scene.log_length(serving);
    let mark = Mark::now().unwrap();
    let process = scene.cluster.daemon(serving).unwrap().process();
    process.signal(Signal::SIGTERM).unwrap();
    scene.wait_step(serving, "stop_master", from);
    scene.kill_daemon(serving);
    scene.cluster.start_node(serving).unwrap();
    let vip_is_off = scene.cluster.arena().wait_vip(serving, false, SETTLE);
    vip_is_off.unwrap();
    let settled = Mark::now().unwrap();
    let report = scene.watch(Fault::Graceful, struck(serving, settled));
    assert_eq!(report.winner, Some(format!("n{next}")));
    let ports = scene.cluster.ports();
    let servers = ports.look(|log| log.servers_max(mark.at, settled.at));
    assert!(servers.unwrap() <= 1);
    scene.cluster.wait_ready(serving, SETTLE).unwrap();
    assert_eq!(scene.cluster.master_pid(serving).unwrap(), None);
    scene.check_nothing_lost(report, mark);
}

/// A daemon is started anew where another node serves.
fn come_back(scene: &mut Scene, node: usize) {
    scene.cluster.start_node(node).unwrap();
    scene.cluster.wait_ready(node, SETTLE).unwrap();
    assert_eq!(scene.cluster.master_pid(node).unwrap(), None);
}

/// The serving node dies while `away` is dead as well, so that `wanted` has to take over.
fn serve_with(scene: &mut Scene, serving: usize, wanted: usize, away: usize) {
    scene.wait_eligible(wanted);
    scene.cluster.kill_node(away, false).unwrap();
    let (winner, report, mark) = scene.fail_over(serving);
    assert_eq!(winner, wanted);
    for node in [away, serving] {
        scene.cluster.bring_back(node).unwrap();
    }
    scene.check_nothing_lost(report, mark);
}

/// Starts a standby's daemon anew with another patience; its metalogger runs on.
fn set_patience(scene: &mut Scene, node: usize, ratio: i64) {
    let metalogger = scene.cluster.metalogger_pid(node).unwrap();
    set_key(&scene.cluster.configuration(node), "carp.deadratio", ratio).unwrap();
    scene.kill_daemon(node);
    scene.cluster.start_node(node).unwrap();
    scene.cluster.wait_ready(node, SETTLE).unwrap();
    assert_eq!(scene.cluster.metalogger_pid(node).unwrap(), metalogger);
}
