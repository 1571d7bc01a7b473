//! The cluster: its secret, what is kept on disk, its members and the networks between them.

use std::net::IpAddr;
use std::path::Path;

use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use super::host::Probes;
use super::network::Owner;
use super::{Report, network};
use crate::cluster::path;
use crate::config::{Cluster, Configuration};
use crate::error::chain;
use crate::netlink::Netlink;
use crate::{secret, state};

pub(super) async fn examine(
    cluster: &Cluster,
    config: &Configuration,
    probes: &Probes,
    is_running: bool,
    report: &mut Report,
) {
    mode(cluster, config, report);
    secrets(cluster, report);
    state(cluster, config.instance(), report);
    if config.quorum().is_none() {
        return;
    }
    let own = cluster.own().map(|own| own.addresses.clone());
    for (index, address) in own.unwrap_or_default().into_iter().enumerate() {
        network_of(index, address, config, probes, is_running, report).await;
    }
}

fn mode(cluster: &Cluster, config: &Configuration, report: &mut Report) {
    let name = "mode";
    if config.quorum().is_none() {
        report.warn(
            name,
            "`mode` is \"carp\" although there is a [cluster]: its secret signs adverts, and nobody is \
             asked for a majority",
            "set `mode = \"quorum\"`, unless this is meant",
        );
        return;
    }
    let role = cluster.own().map_or("", |own| own.role.name());
    report.ok(
        name,
        format!(
            "quorum, node {} of {} is a {role}, {} make a majority",
            cluster.node,
            cluster.list.len(),
            cluster.list.majority()
        ),
    );
    for doubt in cluster.doubts() {
        let (message, hint) = doubt
            .rsplit_once("; ")
            .unwrap_or((&doubt, "see docs/quorum.md, \"What is needed\""));
        report.warn("members", message, hint);
    }
    if cluster.accepts_loss {
        report.warn(
            "members",
            "`cluster.accept_loss` is true: this node may be elected although newer metadata are lost",
            "remove it as soon as the cluster serves",
        );
    }
}

fn secrets(cluster: &Cluster, report: &mut Report) {
    let name = "cluster secret";
    let files = [
        Some(&cluster.secret_file),
        cluster.previous_secret_file.as_ref(),
    ];
    let mut keys = Vec::new();
    for path in files.into_iter().flatten() {
        match secret::read_cluster_secret_file(path) {
            Ok(key) => {
                report.ok(name, format!("{} can be used", path.display()));
                keys.push(key);
            }
            Err(error) => report.fail(
                name,
                chain(&error),
                format!(
                    "put the same {} or more bytes as on the other nodes into {}, owned by root, mode 0600",
                    secret::CLUSTER_SECRET_BYTES_MIN,
                    path.display()
                ),
            ),
        }
    }
    if let [new, old] = keys.as_slice()
        && new == old
    {
        report.warn(
            name,
            "both files hold the same secret",
            "remove `cluster.previous_secret_file` when all nodes have the new one",
        );
    }
}

fn state(cluster: &Cluster, instance: &str, report: &mut Report) {
    let name = "state";
    let dir = state::dir(cluster, instance);
    match state::look(cluster, instance) {
        Ok(None) => report.ok(
            name,
            format!("{} is empty: this is a first start", dir.display()),
        ),
        Ok(Some(found)) => {
            let durable = found.durable;
            report.ok(
                name,
                format!(
                    "{}: life {}, lease epoch {}, metadata seen: {}, members of generation {}",
                    dir.display(),
                    durable.boot.saturating_sub(1),
                    durable.granted.epoch,
                    durable.seen,
                    durable.membership.generation
                ),
            );
            if found.previous.is_some() {
                report.ok(
                    name,
                    format!(
                        "generation {} of the members comes into force when a majority has it",
                        cluster.generation
                    ),
                );
            }
        }
        Err(error) => report.fail(
            name,
            chain(&error),
            "see docs/quorum.md, \"What is needed\"",
        ),
    }
    if is_in_memory(&dir) {
        report.fail(
            name,
            format!("{} is in memory: a reboot would forget it", dir.display()),
            "set `cluster.state_dir` to a directory on a disk",
        );
    }
}

/// The directory, or the one that it will be made in.
fn is_in_memory(dir: &Path) -> bool {
    dir.ancestors()
        .find_map(|dir| statfs(dir).ok())
        .is_some_and(|found| found.filesystem_type() == TMPFS_MAGIC)
}

async fn network_of(
    index: usize,
    address: IpAddr,
    config: &Configuration,
    probes: &Probes,
    is_running: bool,
    report: &mut Report,
) {
    let name = "network";
    let shown = format!("network {} ({address})", index + 1);
    let interface = match path::interface_with(address) {
        Ok(Some(interface)) => interface,
        Ok(None) => {
            report.fail(
                name,
                format!("{shown}: no interface of this host has that address"),
                "give it to one, or correct `addresses` of this node in [[cluster.members]]",
            );
            return;
        }
        Err(error) => {
            report.warn(name, format!("{shown}: {error}"), "run this as root");
            return;
        }
    };
    let read = async {
        let netlink = Netlink::connect()?;
        netlink.interface(&interface).await
    };
    match read.await {
        Ok(Some(found)) => {
            if found.running {
                report.ok(name, format!("{shown}: {interface}"));
            } else {
                report.warn(
                    name,
                    format!("{shown}: {interface} is down or has no carrier"),
                    "see to the cable and the switch port",
                );
            }
            let is_vip =
                matches!(config, Configuration::Candidate(config) if config.interface == interface);
            if !is_vip {
                let owner = Owner::of(is_running, &config.pin_dir());
                network::xdp(&found, config.xdp().mode, probes, owner, report).await;
            }
        }
        Ok(None) => report.fail(name, format!("{shown}: {interface} is gone"), "try again"),
        Err(error) => report.warn(
            name,
            format!("{shown}: {}", chain(&error)),
            "run this as root",
        ),
    }
}
