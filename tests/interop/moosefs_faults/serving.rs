//! What strikes a node that serves, and what a successor may find around it.

use std::time::{Duration, Instant};

use mfs_ha_lab::oracle::record::Role;
use mfs_ha_lab::oracle::trial::{Fault, Mark};
use mfs_ha_lab::serial;
use mfs_ha_lab::software::moosefs::cluster::SETTLE;
use mfs_ha_lab::software::moosefs::node::kill_master;
use mfs_ha_lab::software::moosefs::{CHUNKSERVERS, chunkserver};
use mfs_ha_lab::wait::{observe_for, wait_until};
use nix::sys::signal::{Signal, kill};

use super::scene::{Scene, is_long, struck};

/// A reader that came before the chunkserver waits a fixed ten seconds.
const READER_PENALTY: Duration = Duration::from_secs(10);
/// Long enough to see that nothing goes on.
const STANDSTILL: Duration = Duration::from_secs(2);

#[test]
fn what_strikes_a_master_or_its_surroundings_is_survived() {
    let _serial = serial();
    let mut scene = Scene::new(|_| ());
    let (serving, [next, _]) = scene.roles();
    restart_in_place(&mut scene, serving, Signal::SIGSTOP);
    give_up(&mut scene, serving, next);
    if is_long() {
        let (serving, [next, last]) = scene.roles();
        scene.wait_eligible(next);
        scene.wait_eligible(last);
        restart_in_place(&mut scene, serving, Signal::SIGKILL);
        give_up(&mut scene, serving, next);
        stopped_metalogger(&mut scene);
    }
    without_chunkservers(&mut scene);
}

/// mfsmaster is stopped or killed, and another one serves on the same node.
fn restart_in_place(scene: &mut Scene, serving: usize, signal: Signal) {
    scene.warm_up();
    let old = scene.cluster.master_pid(serving).unwrap().unwrap();
    let mark = Mark::now().unwrap();
    kill(old, signal).unwrap();
    // The kernel goes on to take connections for a program that is stopped.
    Scene::wait_gone(old);
    println!("{signal}: mfsmaster was gone after {:?}", mark.at.elapsed());
    let report = scene.watch(Fault::MasterCrash, struck(serving, mark));
    assert_eq!(report.winner, Some(format!("n{serving}")));
    let new = scene.cluster.master_pid(serving).unwrap();
    assert!(new.is_some_and(|new| new != old));
    scene.check_nothing_lost(report, mark);
}

/// mfsmaster dies soon after it was restarted: another node serves, and this one comes back.
fn give_up(scene: &mut Scene, serving: usize, next: usize) {
    scene.warm_up();
    let mark = Mark::now().unwrap();
    let (node, files) = (scene.cluster.node(serving), scene.cluster.files(serving));
    kill_master(node.unwrap(), files.unwrap()).unwrap();
    let report = scene.watch(Fault::NodeDeath, struck(serving, mark));
    assert_eq!(report.winner, Some(format!("n{next}")));
    let status = scene.cluster.wait_ready(serving, SETTLE).unwrap();
    assert_eq!(status["reason"], "metadata_master_lost");
    assert_eq!(scene.cluster.master_pid(serving).unwrap(), None);
    scene.check_nothing_lost(report, mark);
}

/// The metalogger of the successor is stopped as by SIGSTOP: it still hands over all that it was sent.
fn stopped_metalogger(scene: &mut Scene) {
    let (serving, [next, last]) = scene.roles();
    scene.wait_eligible(next);
    scene.wait_eligible(last);
    scene.warm_up();
    let metalogger = scene.cluster.metalogger_pid(next).unwrap().unwrap();
    kill(metalogger, Signal::SIGSTOP).unwrap();
    let (winner, report, mark) = scene.fail_over(serving);
    assert_eq!(winner, next);
    Scene::wait_gone(metalogger);
    scene.cluster.bring_back(serving).unwrap();
    scene.check_nothing_lost(report, mark);
}

/// All chunkservers are gone when the master dies: the promotion does not wait for them, the client does.
fn without_chunkservers(scene: &mut Scene) {
    let (serving, [next, last]) = scene.roles();
    scene.wait_eligible(next);
    scene.wait_eligible(last);
    scene.warm_up();
    for name in CHUNKSERVERS {
        let host = scene.cluster.arena().topology().host(name).unwrap();
        host.namespace.kill_all().unwrap();
    }
    let mark = Mark::now().unwrap();
    scene.cluster.kill_node(serving, false).unwrap();
    let dead = scene.cluster.node(serving).unwrap().mac;
    let served = wait_until("a successor to take clients", SETTLE, || {
        let ports = scene.cluster.ports();
        ports.look(|log| log.first_accept(mark.at, |mac| mac != dead))
    });
    let served = served.unwrap().at;
    println!("served after {:?}", served - mark.at);
    observe_for(STANDSTILL).unwrap();
    let history = scene.cluster.client().unwrap().history().unwrap();
    assert_eq!(history.resumption(Role::Writer, served).first, None);
    assert_eq!(history.resumption(Role::Reader, served).first, None);

    let back = Instant::now();
    let topology = scene.cluster.arena().topology();
    let _chunkservers = CHUNKSERVERS.map(|name| chunkserver::start(topology, name, false).unwrap());
    wait_until("the client to go on", SETTLE, || {
        let history = scene.cluster.client()?.history()?;
        let all = [Role::Writer, Role::Reader].map(|role| history.resumption(role, back));
        Ok(all.iter().all(|role| role.first.is_some()).then_some(()))
    })
    .unwrap();
    let waited = back.elapsed();
    println!("the client went on {waited:?} after the chunkservers");
    assert!(waited < 2 * READER_PENALTY, "{waited:?}");
    let report = scene.watch(Fault::NodeDeath, struck(serving, mark));
    assert_eq!(report.winner, Some(format!("n{next}")));
    scene.cluster.bring_back(serving).unwrap();
    scene.check_nothing_lost(report, mark);
}
