//! Whom a starting daemon meets: a living instance, and what a killed one left.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::time::Instant;

use mfs_ha_lab::net::addresses::holds;
use mfs_ha_lab::net::xdp;
use mfs_ha_lab::scenario::Arena;
use mfs_ha_lab::software::mfsha::{MfsHa, configure, number_at, set_key};
use mfs_ha_lab::{VIP, serial};

use super::bench::{
    FAILURE, IN_USE, INTERVAL, OK, SETTLE, check, complains, configure_alone, copy, end, finds,
    never_silent, nothing_left, options, own_vip, pins, run, text,
};

#[test]
fn a_second_daemon_is_refused_and_does_not_disturb_the_first() {
    let _serial = serial();
    let arena = Arena::new(2).unwrap();
    let topology = arena.topology();
    let node = topology.node(1).unwrap();
    let configuration = configure(topology, 1, &options()).unwrap();
    let mut first = MfsHa::start_configured(topology, 1, &configuration).unwrap();
    let before = first.wait_state("master", SETTLE).unwrap();
    arena.wait_owner(1, SETTLE).unwrap();
    let pid = number_at(&before, "/pid").unwrap();

    let steady = Instant::now();
    let running = format!("is already running as process {pid}");
    complains(
        &run(node, &[], &configuration),
        IN_USE,
        &[&running, ".lock"],
    );
    let running = format!("is running as process {pid}");
    finds(
        &check(node, &[], &configuration),
        OK,
        &["ok   instance: ", &running],
    );

    // Another name, the same interface, the same VIP; once native and once generic.
    let other = copy(&configuration, "other");
    set_key(&other, "instance", format!("{}b", topology.instance(1))).unwrap();
    for mode in ["auto", "generic"] {
        set_key(&other, "xdp.mode", mode).unwrap();
        let says = [
            "another XDP program is attached",
            "eth0",
            "stop what put it there",
        ];
        complains(&run(node, &[], &other), IN_USE, &says);
    }
    let says = [
        "fail XDP: another program is on eth0",
        "(mfs_ha)",
        "bpftool net show dev eth0",
    ];
    finds(&check(node, &[], &other), FAILURE, &says);

    never_silent(arena.sniffer(), node, steady, Instant::now());
    let finding = arena.judge(steady, Instant::now()).unwrap();
    println!("under the eyes of other daemons: {finding}");
    assert_eq!((finding.owners_max, finding.moves), (1, 0));
    assert!(finding.longest_gap < INTERVAL);
    let lost = arena.addresses().unwrap().lost_by(1, steady);
    assert_eq!(lost, None, "the VIP was taken from the first daemon");
    let after = first.status().unwrap();
    assert_eq!(after.pointer("/demotion"), before.pointer("/demotion"));
    assert_eq!(
        first.transitions().unwrap(),
        ["init>backup", "backup>master"]
    );
    assert!(pins(topology, 1).is_dir());
    end(topology, 1, &mut first);
}

#[test]
fn what_a_killed_daemon_left_is_taken_over() {
    let _serial = serial();
    let arena = Arena::new(1).unwrap();
    let topology = arena.topology();
    let node = topology.node(1).unwrap();
    let configuration = configure(topology, 1, &options()).unwrap();
    let mut killed = MfsHa::start_configured(topology, 1, &configuration).unwrap();
    killed.wait_state("master", SETTLE).unwrap();
    killed.kill().unwrap();
    let socket = topology
        .directory()
        .join("run")
        .join(format!("{}.sock", topology.instance(1)));
    assert!(fs::metadata(&socket).unwrap().file_type().is_socket());
    assert!(pins(topology, 1).join("peers").exists());
    assert!(holds(&node.namespace, VIP).unwrap());
    // The gate outlives the process, and keeps everybody from the VIP.
    assert_eq!(xdp::attached(&node.namespace).unwrap().len(), 1);
    arena.wait_no_owner(SETTLE).unwrap();

    let found = check(node, &[], &configuration);
    for line in [
        ["warn pinned maps: ", "is left over from an earlier run"],
        ["warn XDP: ", "is the closed gate of a daemon that died"],
        [
            "warn VIP: 10.77.0.100 is on eth0 although no daemon runs",
            "the start removes it",
        ],
    ] {
        finds(&found, OK, &line);
    }
    let restarted = Instant::now();
    let mut next = MfsHa::start_configured(topology, 1, &configuration).unwrap();
    next.wait_state("backup", SETTLE).unwrap();
    assert!(arena.addresses().unwrap().lost_by(1, restarted).is_some());
    end(topology, 1, &mut next);
}

#[test]
fn foreign_files_among_the_pins_are_in_nobodys_way() {
    let _serial = serial();
    let arena = Arena::new(1).unwrap();
    let topology = arena.topology();
    let configuration = configure(topology, 1, &options()).unwrap();
    let pins = pins(topology, 1);
    fs::create_dir_all(pins.join("somebody")).unwrap();
    let mut daemon = MfsHa::start_configured(topology, 1, &configuration).unwrap();
    daemon.wait_state("backup", SETTLE).unwrap();
    assert!(pins.join("stats").exists());
    daemon.terminate(SETTLE).unwrap();
    let log = daemon.process().log_text().unwrap();
    assert!(log.contains("somebody else's files stay"), "{log}");
    let left: Vec<_> = fs::read_dir(&pins)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["somebody"]);
    fs::remove_dir(pins.join("somebody")).unwrap();

    // A directory by the name of a map cannot be replaced.
    fs::create_dir(pins.join("peers")).unwrap();
    let refused = run(topology.node(1).unwrap(), &[], &configuration);
    let says = [
        pins.to_str().unwrap(),
        "cannot remove the pin",
        "Is a directory",
    ];
    complains(&refused, FAILURE, &says);
    fs::remove_dir(pins.join("peers")).unwrap();
    let mut daemon = MfsHa::start_configured(topology, 1, &configuration).unwrap();
    daemon.wait_state("backup", SETTLE).unwrap();
    end(topology, 1, &mut daemon);
}

#[test]
fn a_file_in_place_of_the_socket_is_not_removed() {
    let _serial = serial();
    let arena = Arena::new(1).unwrap();
    let topology = arena.topology();
    let node = topology.node(1).unwrap();
    let configuration = configure_alone(topology, 1, &options());
    let run_dir = topology.directory().join("run");
    let socket = run_dir.join(format!("{}.sock", topology.instance(1)));
    fs::write(&socket, "a diary").unwrap();
    let says = [
        socket.to_str().unwrap(),
        "in the way of the control socket",
        "move it away",
    ];
    complains(&run(node, &[], &configuration), FAILURE, &says);
    assert_eq!(fs::read(&socket).unwrap(), b"a diary");
    assert!(!holds(&node.namespace, own_vip(1)).unwrap());
    fs::remove_file(&socket).unwrap();
    nothing_left(topology, 1);

    let lock = run_dir.join(format!("{}.lock", topology.instance(1)));
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    let says = ["cannot lock", lock.to_str().unwrap()];
    complains(&run(node, &[], &configuration), FAILURE, &says);
    fs::remove_dir(&lock).unwrap();
    let mut daemon = MfsHa::start_configured(topology, 1, &configuration).unwrap();
    let status = daemon.wait_reachable(SETTLE).unwrap();
    assert_eq!(text(&status, "/link_problem"), "");
    end(topology, 1, &mut daemon);
}
