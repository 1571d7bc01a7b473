//! What can happen to the interface under a running daemon, as backup and as master.

use std::time::{Duration, Instant};

use mfs_ha_lab::net::topology::Node;
use mfs_ha_lab::net::{addresses::holds, xdp};
use mfs_ha_lab::scenario::Arena;
use mfs_ha_lab::software::mfsha::{MfsHa, MfsHaOptions, number_at};
use mfs_ha_lab::wait::wait_until;
use mfs_ha_lab::{VIP, serial};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::bench::{SETTLE, end, text};

/// Node 1 is better and displaces node 2 whenever it can, so both take every part in turn.
fn two(arena: &Arena) -> (MfsHa, MfsHa) {
    let better = MfsHaOptions {
        preempt: true,
        ..MfsHaOptions::with_timing(0, 20)
    };
    let mut first = MfsHa::start(arena.topology(), 1, &better).unwrap();
    first.wait_state("master", SETTLE).unwrap();
    let worse = MfsHaOptions::with_timing(0, 40);
    let mut second = MfsHa::start(arena.topology(), 2, &worse).unwrap();
    wait_follows(&mut second, arena.topology().node(1).unwrap());
    (first, second)
}

/// Waits until a daemon is backup on a native program, and has just heard `master`.
fn wait_follows(daemon: &mut MfsHa, master: &Node) -> Value {
    let address = master.address.to_string();
    daemon
        .wait_status("a backup that hears its master", SETTLE, |status| {
            text(status, "/state") == "backup"
                && text(status, "/xdp/mode") == "native"
                && text(status, "/link_problem").is_empty()
                && text(status, "/master") == address
        })
        .unwrap()
}

/// Waits until a daemon is out of the election, and says why.
fn wait_out(daemon: &mut MfsHa, why: &str) {
    daemon
        .wait_status(&format!("init because {why:?}"), SETTLE, |status| {
            text(status, "/state") == "init" && text(status, "/link_problem").contains(why)
        })
        .unwrap();
}

/// The other node took over alone, and the VIP is nowhere on this one.
fn wait_gone(arena: &Arena, from: usize, to: usize, since: Instant) {
    arena.wait_owner(to, SETTLE).unwrap();
    let namespace = &arena.topology().node(from).unwrap().namespace;
    wait_until("the VIP to be gone", SETTLE, || {
        Ok((!holds(namespace, VIP)?).then_some(()))
    })
    .unwrap();
    let finding = arena.judge(since, Instant::now()).unwrap();
    println!("n{from} to n{to}: {finding}");
    assert!(finding.overlap < Duration::from_millis(100), "{finding}");
}

#[test]
fn it_may_be_deleted_renamed_or_emptied_and_come_back() {
    let _serial = serial();
    let arena = Arena::new(2).unwrap();
    let topology = arena.topology();
    let (one, two_) = (topology.node(1).unwrap(), topology.node(2).unwrap());
    let (mut first, mut second) = two(&arena);

    // Under a backup: the master does not notice.
    let begin = Instant::now();
    topology.delete_interface(2).unwrap();
    wait_out(&mut second, "interface eth0 does not exist");
    assert_eq!(text(&second.status().unwrap(), "/xdp/mode"), "none");
    topology.recreate_interface(2).unwrap();
    let back = wait_follows(&mut second, one);
    let attached = xdp::attached(&two_.namespace).unwrap();
    assert_eq!(attached.len(), 1, "{attached:?}");
    assert!(number_at(&back, "/ifindex").unwrap() > 1);
    assert_eq!(arena.judge(begin, Instant::now()).unwrap().moves, 0);

    // Under the master.
    let at = Instant::now();
    topology.delete_interface(1).unwrap();
    wait_gone(&arena, 1, 2, at);
    wait_out(&mut first, "interface eth0 does not exist");
    topology.recreate_interface(1).unwrap();
    arena.wait_owner(1, SETTLE).unwrap();
    wait_follows(&mut second, one);

    // Renamed, with the VIP on it, while it is up.
    let at = Instant::now();
    let rename = |from, to| one.namespace.run("ip", &["link", "set", from, "name", to]);
    rename("eth0", "old0").unwrap();
    wait_gone(&arena, 1, 2, at);
    wait_out(&mut first, "interface eth0 does not exist");
    assert_eq!(xdp::attached(&one.namespace).unwrap(), []);
    rename("old0", "eth0").unwrap();
    arena.wait_owner(1, SETTLE).unwrap();
    wait_follows(&mut second, one);

    // Without the address that adverts come from. The VIP, of the same prefix, may go along.
    let at = Instant::now();
    let own = format!("{}/24", one.address);
    let address = |what| {
        one.namespace
            .run("ip", &["addr", what, &own, "dev", "eth0"])
    };
    address("del").unwrap();
    wait_gone(&arena, 1, 2, at);
    wait_out(&mut first, "does not have the address 10.77.0.1");
    address("add").unwrap();
    arena.wait_owner(1, SETTLE).unwrap();
    wait_follows(&mut second, one);

    end(topology, 1, &mut first);
    arena.wait_owner(2, SETTLE).unwrap();
    end(topology, 2, &mut second);
}

/// The new interface has number and address of the old one, and is there before anybody looked.
#[test]
fn it_may_be_exchanged_for_another_one_of_the_same_number() {
    let _serial = serial();
    let arena = Arena::new(2).unwrap();
    let topology = arena.topology();
    let one = topology.node(1).unwrap();
    let (mut first, mut second) = two(&arena);
    let begin = Instant::now();
    let number = number_at(&second.status().unwrap(), "/ifindex").unwrap();
    second.process().signal(Signal::SIGSTOP).unwrap();
    topology.delete_interface(2).unwrap();
    topology.recreate_interface_as(2, number).unwrap();
    second.process().signal(Signal::SIGCONT).unwrap();
    let resumed = Instant::now();
    // Nothing that was opened on the old one works on the new one: neither hearing nor sending.
    second
        .wait_status("adverts on the new interface", SETTLE, |status| {
            let age = status.pointer("/peers/0/last_advert_age_ms");
            let age = age.and_then(Value::as_u64).map(Duration::from_millis);
            text(status, "/state") == "backup" && age.is_some_and(|age| age < resumed.elapsed())
        })
        .unwrap();
    assert_eq!(
        number_at(&wait_follows(&mut second, one), "/ifindex").unwrap(),
        number
    );
    let finding = arena.judge(begin, Instant::now()).unwrap();
    assert_eq!((finding.owners_max, finding.moves), (1, 0));
    first.terminate(SETTLE).unwrap();
    arena.wait_owner(2, SETTLE).unwrap();
    end(topology, 2, &mut second);
}

#[test]
fn another_program_on_the_new_interface_is_waited_for() {
    let _serial = serial();
    let arena = Arena::new(2).unwrap();
    let topology = arena.topology();
    let (one, two_) = (topology.node(1).unwrap(), topology.node(2).unwrap());
    let (mut first, mut second) = two(&arena);
    let program = xdp::attached(&one.namespace).unwrap()[0].id;

    // While the daemon cannot look, the interface is exchanged and taken.
    second.process().signal(Signal::SIGSTOP).unwrap();
    topology.delete_interface(2).unwrap();
    topology.recreate_interface(2).unwrap();
    xdp::attach(&two_.namespace, program).unwrap();
    second.process().signal(Signal::SIGCONT).unwrap();
    wait_out(&mut second, "another XDP program is attached");
    let log = second.process().log_text().unwrap();
    assert_eq!(log.matches("another XDP program").count(), 1, "{log}");
    xdp::detach(&two_.namespace).unwrap();
    wait_follows(&mut second, one);

    // It hears on the new program what decides: the death of the master.
    let at = arena.fail_node(1).unwrap();
    assert_eq!(arena.wait_takeover(1, at, SETTLE).unwrap().node, 2);
    assert!(first.process().ended().is_ok());
    end(topology, 2, &mut second);
}
