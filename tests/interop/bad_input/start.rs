//! What the daemon meets when it starts: an interface that cannot be used yet, or ever; no place for its pins.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use mfs_ha_lab::net::addresses::holds;
use mfs_ha_lab::net::topology::Topology;
use mfs_ha_lab::serial;
use mfs_ha_lab::software::mfsha::{MfsHa, configure, set_key};
use serde_json::Value;

use super::bench::{
    FAILURE, SETTLE, USAGE, check, complains, configure_alone, copy, end, finds, nothing_left,
    options, own_vip, pins, run, text,
};

/// A mount namespace with an empty directory where the BPF file system should be.
const WITHOUT_BPFFS: &[&str] = &[
    "unshare",
    "--mount",
    "sh",
    "-c",
    "mount -t tmpfs none /sys/fs/bpf && exec \"$@\"",
    "sh",
];

#[test]
fn an_interface_that_cannot_be_used_is_refused() {
    let _serial = serial();
    let topology = Topology::new(1).unwrap();
    let node = topology.node(1).unwrap();
    let good = configure(&topology, 1, &options()).unwrap();

    let missing = copy(&good, "missing");
    set_key(&missing, "interface", "eth7").unwrap();
    let says = ["interface eth7 does not exist", "`ip link` lists"];
    complains(&run(node, &[], &missing), USAGE, &says);
    let says = ["fail interface: eth7 does not exist", "`ip link` lists"];
    finds(&check(node, &[], &missing), FAILURE, &says);

    let elsewhere = copy(&good, "elsewhere");
    set_key(&elsewhere, "source", "10.77.0.9").unwrap();
    let says = [
        "eth0 does not have the address 10.77.0.9",
        "correct `source`",
    ];
    complains(&run(node, &[], &elsewhere), USAGE, &says);
    let says = [
        "fail source address: eth0 does not have 10.77.0.9",
        "correct `source`",
    ];
    finds(&check(node, &[], &elsewhere), FAILURE, &says);

    // The source that the daemon would find by itself, on an interface without any.
    let no_address = topology.directory().join("no-address.toml");
    let text = std::fs::read_to_string(&good).unwrap();
    let text: String = text
        .split_inclusive('\n')
        .filter(|line| !line.starts_with("source"))
        .collect();
    std::fs::write(&no_address, text).unwrap();
    let address = format!("{}/24", node.address);
    let flush = ["addr", "del", &address, "dev", "eth0"];
    node.namespace.run("ip", &flush).unwrap();
    let says = [
        "eth0 has no IPv4 address to send from",
        "give the node an address of its own",
    ];
    complains(&run(node, &[], &no_address), USAGE, &says);
    let says = [
        "fail source address: eth0 has no IPv4 address",
        "do: give the node an address",
    ];
    finds(&check(node, &[], &no_address), FAILURE, &says);

    // A VIP that was left behind is no such address, and does not stay.
    let stale = ["addr", "add", "10.77.0.100/24", "dev", "eth0"];
    node.namespace.run("ip", &stale).unwrap();
    let says = ["eth0 has no IPv4 address to send from besides the VIP"];
    complains(&run(node, &[], &no_address), USAGE, &says);
    nothing_left(&topology, 1);
}

/// Waits until a daemon says what keeps it from using its interface.
fn wait_problem(daemon: &mut MfsHa, says: &str) -> Value {
    daemon
        .wait_status(&format!("{says:?}"), SETTLE, |status| {
            text(status, "/link_problem").contains(says)
        })
        .unwrap()
}

/// Node 1 begins switched off, node 2 without a carrier; both wait and say what for.
#[test]
fn an_interface_that_comes_up_later_is_waited_for() {
    let _serial = serial();
    let topology = Topology::new(2).unwrap();
    let off = &topology.node(1).unwrap().namespace;
    off.run("ip", &["link", "set", "eth0", "down"]).unwrap();
    topology.port_down(2).unwrap();
    let mut daemons: Vec<MfsHa> = [
        (1, "eth0 is down: `ip link set eth0 up`"),
        (
            2,
            "eth0 has no carrier: see to the cable and the switch port",
        ),
    ]
    .into_iter()
    .map(|(node, says)| {
        let configuration = configure_alone(&topology, node, &options());
        let mut daemon = MfsHa::start_configured(&topology, node, &configuration).unwrap();
        let status = wait_problem(&mut daemon, says);
        assert_eq!(text(&status, "/state"), "init");
        assert_eq!(text(&status, "/xdp/mode"), "native");
        daemon
    })
    .collect();
    off.run("ip", &["link", "set", "eth0", "up"]).unwrap();
    topology.port_up(2).unwrap();
    for (daemon, node) in daemons.iter_mut().zip(1..) {
        let status = daemon.wait_state("master", SETTLE).unwrap();
        assert_eq!(text(&status, "/link_problem"), "");
        end(&topology, node, daemon);
    }
}

/// A bridge has no driver that could run XDP.
#[test]
fn a_driver_without_xdp_leaves_the_generic_mode() {
    let _serial = serial();
    let topology = Topology::new(1).unwrap();
    let node = topology.node(1).unwrap();
    let lines = [
        "link add br9 type bridge",
        "addr add 10.78.0.1/24 dev br9",
        "link set br9 up",
    ];
    node.namespace.ip(&lines.map(str::to_owned)).unwrap();
    let configuration = configure_alone(&topology, 1, &options());
    for (key, value) in [
        ("interface", "br9"),
        ("source", "10.78.0.1"),
        ("xdp.mode", "native"),
    ] {
        set_key(&configuration, key, value).unwrap();
    }
    let refused = run(node, &[], &configuration);
    let says = ["to br9 in native mode", "set it to \"auto\""];
    complains(&refused, FAILURE, &says);
    let says = ["fail native XDP: ", "br9", "`xdp.mode = \"auto\"`"];
    finds(&check(node, &[], &configuration), FAILURE, &says);
    nothing_left(&topology, 1);

    set_key(&configuration, "xdp.mode", "auto").unwrap();
    let mut daemon = MfsHa::start_configured(&topology, 1, &configuration).unwrap();
    let status = daemon.wait_state("backup", SETTLE).unwrap();
    assert_eq!(text(&status, "/xdp/mode"), "generic");
    let reason = text(&status, "/xdp/fallback_reason");
    assert!(reason.contains("not supported"), "{reason:?}");
    end(&topology, 1, &mut daemon);
}

#[test]
fn a_directory_for_pins_is_asked_for() {
    let _serial = serial();
    let topology = Topology::new(1).unwrap();
    let node = topology.node(1).unwrap();
    let configuration = configure_alone(&topology, 1, &options());
    let mount = "mount -t bpf bpf /sys/fs/bpf";
    let refused = run(node, WITHOUT_BPFFS, &configuration);
    complains(
        &refused,
        USAGE,
        &["/sys/fs/bpf is not a BPF file system", mount],
    );
    let says = ["fail BPF file system: not mounted at /sys/fs/bpf", mount];
    finds(&check(node, WITHOUT_BPFFS, &configuration), FAILURE, &says);
    nothing_left(&topology, 1);

    // A start that fails leaves no VIP of an earlier life either.
    let mut killed = MfsHa::start_configured(&topology, 1, &configuration).unwrap();
    killed.wait_state("master", SETTLE).unwrap();
    killed.kill().unwrap();
    assert!(holds(&node.namespace, own_vip(1)).unwrap());
    let refused = run(node, WITHOUT_BPFFS, &configuration);
    complains(&refused, USAGE, &[mount]);
    assert!(!holds(&node.namespace, own_vip(1)).unwrap());

    // Pins of the earlier life are found by the next one that can see them.
    assert!(pins(&topology, 1).is_dir());
    let mut next = MfsHa::start_configured(&topology, 1, &configuration).unwrap();
    next.wait_reachable(SETTLE).unwrap();
    end(&topology, 1, &mut next);
}

#[test]
fn a_run_dir_that_cannot_be_trusted_is_refused() {
    let _serial = serial();
    let topology = Topology::new(1).unwrap();
    let node = topology.node(1).unwrap();
    let good = configure(&topology, 1, &options()).unwrap();
    let configuration = copy(&good, "run-dir");
    let set = |run_dir: &Path| {
        set_key(&configuration, "run_dir", run_dir.display().to_string()).unwrap();
    };
    let open_to_all = topology.directory().join("open-to-all");
    std::fs::create_dir(&open_to_all).unwrap();
    std::fs::set_permissions(&open_to_all, std::fs::Permissions::from_mode(0o777)).unwrap();
    set(&open_to_all);
    let says = ["others can write to it", "chmod 0755 "];
    complains(&run(node, &[], &configuration), FAILURE, &says);
    let found = check(node, &[], &configuration);
    finds(&found, FAILURE, &["fail instance: ", says[0], says[1]]);
    set(&good);
    let says = "toml is not a directory";
    complains(&run(node, &[], &configuration), FAILURE, &[says]);
    let found = check(node, &[], &configuration);
    finds(
        &found,
        FAILURE,
        &["fail instance: ", says, "choose another `run_dir`"],
    );
    nothing_left(&topology, 1);
}
