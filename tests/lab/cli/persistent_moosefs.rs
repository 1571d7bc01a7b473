//! The MooseFS part of the lab that stays.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use mfs_ha_lab::net::topology::Topology;
use mfs_ha_lab::software::mfsha::{MfsHa, WITNESS, configuration_path, status_of};
use mfs_ha_lab::software::moosefs::cluster::{
    SETTLE, is_ready, node_options, start_chunkservers, write_nodes,
};
use mfs_ha_lab::software::moosefs::files::NodeFiles;
use mfs_ha_lab::software::moosefs::mount::{Mount, is_mounted};
use mfs_ha_lab::software::moosefs::node::{master_pid, metalogger_pid};
use mfs_ha_lab::software::moosefs::{CLIENT, CLIENT_PORT, Mode};
use mfs_ha_lab::wait::{wait_until, wait_until_every};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Each look at a status costs two processes.
const STATUS_INTERVAL: Duration = Duration::from_millis(100);

/// Where the client's mount is, seen by processes on the client.
fn mount_point(directory: &Path) -> std::path::PathBuf {
    directory.join(CLIENT).join("mnt")
}

/// Starts everything on a segment that was just built and returns the pid of the client's mount.
pub(super) fn build(topology: &Topology, mode: Mode) -> Result<i32> {
    let files = write_nodes(topology, mode, true)?;
    start_chunkservers(topology, true)?;
    if mode == Mode::Witness {
        let timing = mode.timing().context("a witness without a lease")?;
        MfsHa::start_witness(topology, WITNESS, timing, true)?;
    }
    for (node, files) in topology.nodes().iter().zip(&files) {
        let options = node_options(node, files, mode, true)?;
        let mut daemon = MfsHa::start(topology, node.index, &options)?;
        // A majority has to agree before anybody serves.
        if node.index == 1 && mode == Mode::Carp {
            let filter = format!("sport = :{CLIENT_PORT}");
            wait_until("mfsmaster to listen on n1", SETTLE, || {
                daemon.process().check_running()?;
                let listening = node.namespace.run("ss", &["-Hltn", &filter])?;
                Ok((!listening.is_empty()).then_some(()))
            })?;
        }
    }
    for node in topology.nodes().iter().skip(1) {
        let configuration = configuration_path(topology.directory(), node.index);
        let what = format!("n{} to be ready", node.index);
        wait_until_every(STATUS_INTERVAL, &what, SETTLE, || {
            // The control socket appears some milliseconds after the start.
            let status = status_of(&configuration).ok();
            Ok(status.filter(is_ready).map(drop))
        })?;
    }
    let host = topology.host(CLIENT)?;
    let log = topology.directory().join("cl.mfsmount.log");
    let point = mount_point(topology.directory());
    let mut mount = Mount::start(&host.namespace, &point, &log, true)?;
    Ok(mount.process().pid().as_raw())
}

/// What runs on a node, beside its daemon.
pub(super) fn describe_node(topology: &Topology, index: usize) -> Result<Value> {
    let node = topology.node(index)?;
    let files = NodeFiles::of(topology.directory(), index);
    let configuration = configuration_path(topology.directory(), index);
    let promotion = status_of(&configuration)
        .ok()
        .and_then(|status| status.pointer("/promotion").cloned());
    Ok(json!({
        "mfsmaster": master_pid(node, &files)?.map(Pid::as_raw),
        "mfsmetalogger": metalogger_pid(node, &files)?.map(Pid::as_raw),
        "promotion": promotion,
    }))
}

/// The chunkservers and the client.
pub(super) fn describe_hosts(topology: &Topology, mount: i32) -> Result<Value> {
    let point = mount_point(topology.directory());
    let mut hosts = Vec::new();
    for host in topology.hosts() {
        let pids: Vec<i32> = host
            .namespace
            .pids()
            .with_context(|| format!("the lab is damaged: {} is gone", host.name))?
            .into_iter()
            .map(Pid::as_raw)
            .collect();
        let mounted = host.name == CLIENT && is_mounted(Pid::from_raw(mount), &point);
        hosts.push(json!({
            "host": host.name,
            "address": host.address.to_string(),
            "pids": pids,
            "mount": mounted.then(|| point.clone()),
        }));
    }
    Ok(Value::Array(hosts))
}

/// The words that take a command to where the client's mount is.
pub(super) fn enter_mount(mount: i32) -> Vec<String> {
    vec![
        "nsenter".to_owned(),
        format!("--mount=/proc/{mount}/ns/mnt"),
        "--".to_owned(),
    ]
}

/// The table of `status`, below that of the nodes.
pub(super) fn print_tables(nodes: &Value, hosts: &Value) {
    let pid = |value: Option<&Value>| {
        let pid = value.and_then(Value::as_i64);
        pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string())
    };
    println!(
        "\n{:<5}{:<12}{:<15}{:<12}ready",
        "node", "mfsmaster", "mfsmetalogger", "phase"
    );
    for node in nodes.as_array().into_iter().flatten() {
        let text = |pointer: &str| {
            let found = node.pointer(pointer);
            found.map_or_else(
                || "-".to_owned(),
                |value| value.to_string().replace('"', ""),
            )
        };
        println!(
            "{:<5}{:<12}{:<15}{:<12}{}",
            text("/node"),
            pid(node.pointer("/moosefs/mfsmaster")),
            pid(node.pointer("/moosefs/mfsmetalogger")),
            text("/moosefs/promotion/phase"),
            text("/moosefs/promotion/ready")
        );
    }
    println!(
        "\n{:<5}{:<12}{:<18}mount (for `lab exec cl`)",
        "host", "address", "pids"
    );
    for host in hosts.as_array().into_iter().flatten() {
        let text = |key: &str| {
            host.get(key)
                .and_then(Value::as_str)
                .unwrap_or("-")
                .to_owned()
        };
        let pids: Vec<String> = host
            .get("pids")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(Value::to_string)
            .collect();
        println!(
            "{:<5}{:<12}{:<18}{}",
            text("host"),
            text("address"),
            pids.join(" "),
            text("mount")
        );
    }
}
