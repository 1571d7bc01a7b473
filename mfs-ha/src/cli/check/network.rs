//! The interface, its addresses and what its driver can do.

use std::path::Path;

use super::Report;
use super::host::Probes;
use crate::bpf;
use crate::config::{Config, XdpMode};
use crate::error::chain;
use crate::interface::{Address, AttachMode, AttachedXdp, Interface};
use crate::netlink::{Netlink, NetlinkError, offload};

pub(super) async fn examine(
    config: &Config,
    probes: &Probes,
    is_running: bool,
    report: &mut Report,
) {
    let name = "interface";
    match find(config).await {
        Err(error) => report.fail(name, chain(&error), "run this as root"),
        Ok((_, None)) => report.fail(
            name,
            format!("{} does not exist", config.interface),
            "name one of those that `ip link` lists",
        ),
        Ok((netlink, Some(interface))) => {
            link(config, &interface, report);
            source(config, &interface, report);
            vip(config, &netlink, &interface, is_running, report).await;
            let owner = Owner::of(is_running, &config.pin_dir());
            xdp(&interface, config.xdp.mode, probes, owner, report).await;
            vlan(config, report).await;
        }
    }
}

async fn find(config: &Config) -> Result<(Netlink, Option<Interface>), NetlinkError> {
    let netlink = Netlink::connect()?;
    let interface = netlink.interface(&config.interface).await?;
    Ok((netlink, interface))
}

fn link(config: &Config, interface: &Interface, report: &mut Report) {
    let name = "interface";
    let shown = &interface.name;
    if interface.loopback || interface.mac.is_none() {
        report.fail(
            name,
            format!("{shown} is not an Ethernet interface"),
            "name one that leads to the other nodes",
        );
    } else if !interface.admin_up {
        report.fail(
            name,
            format!("{shown} is switched off"),
            format!("ip link set {shown} up"),
        );
    } else if !interface.running && !config.carp.ignore_link_state {
        report.warn(
            name,
            format!("{shown} has no carrier: this node will not take part until it has"),
            "see to the cable and the switch port",
        );
    } else {
        report.ok(
            name,
            format!("{shown} is up (number {})", interface.ifindex),
        );
    }
}

fn source(config: &Config, interface: &Interface, report: &mut Report) {
    let name = "source address";
    let shown = &interface.name;
    let source = match config.source {
        Some(source) if interface.holds(source) => source,
        Some(source) => {
            report.fail(
                name,
                format!("{shown} does not have {source}"),
                "correct `source`, or add the address to the interface",
            );
            return;
        }
        None => match interface.source(config.vip.address) {
            Some(source) => source,
            None => {
                report.fail(
                    name,
                    format!("{shown} has no IPv4 address besides the VIP"),
                    "give the node an address of its own on that interface",
                );
                return;
            }
        },
    };
    if config.carp.peers.contains(&source) {
        report.fail(
            name,
            format!("{source} is this node's address and stands in `carp.peers`"),
            "name only the other nodes there",
        );
    } else {
        report.ok(name, source.to_string());
    }
}

async fn vip(
    config: &Config,
    netlink: &Netlink,
    interface: &Interface,
    is_running: bool,
    report: &mut Report,
) {
    let name = "VIP";
    let vip = config.vip;
    let owners = match netlink.owners_of(vip.address).await {
        Ok(owners) => owners,
        Err(error) => {
            report.warn(name, chain(&error), "run this as root");
            return;
        }
    };
    let elsewhere = owners
        .iter()
        .find(|owner| owner.ifindex != interface.ifindex);
    if let Some(owner) = elsewhere {
        report.warn(
            name,
            format!(
                "{}/{} is also on {}",
                vip.address, owner.prefix_len, owner.interface
            ),
            format!(
                "ip addr del {}/{} dev {}",
                vip.address, owner.prefix_len, owner.interface
            ),
        );
    }
    if interface.holds(vip.address) && !is_running {
        report.warn(
            name,
            format!(
                "{} is on {} although no daemon runs",
                vip.address, interface.name
            ),
            "nothing: the start removes it. If something else configures it, stop that",
        );
    }
    let as_configured = Address {
        address: vip.address,
        prefix_len: vip.prefix_len,
        secondary: false,
    };
    let others = || {
        interface
            .addresses
            .iter()
            .filter(|held| held.address != vip.address)
    };
    if others().any(|held| held.shares_prefix_with(&as_configured)) {
        if elsewhere.is_none() {
            report.ok(name, vip.to_string());
        }
    } else {
        let held: Vec<String> = others().map(ToString::to_string).collect();
        report.warn(
            name,
            format!(
                "{vip} fits to no address of {} ({})",
                interface.name,
                held.join(", ")
            ),
            "give `vip` the prefix length of the network, unless this is meant",
        );
    }
}

/// Whose our program is, where it is on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The running daemon's.
    Daemon,
    /// That of a daemon of this instance that died: its gate.
    Dead,
    /// Of somebody that this instance knows nothing of.
    Unknown,
}

impl Owner {
    /// Tells by whether the daemon runs and what is pinned in `pins`.
    pub(super) fn of(is_running: bool, pins: &Path) -> Self {
        let has_links = || bpf::pinned_links(pins).is_ok_and(|links| !links.is_empty());
        if is_running {
            Self::Daemon
        } else if has_links() {
            Self::Dead
        } else {
            Self::Unknown
        }
    }
}

/// Whether our program can be on the interface, and how.
pub(super) async fn xdp(
    interface: &Interface,
    mode: XdpMode,
    probes: &Probes,
    owner: Owner,
    report: &mut Report,
) {
    attached(interface, probes, owner, report);
    native(mode, interface, report).await;
}

/// Only one program can be on an interface, and it must be ours.
fn attached(interface: &Interface, probes: &Probes, owner: Owner, report: &mut Report) {
    let name = "XDP";
    let Some(xdp) = &interface.xdp else {
        report.ok(name, format!("no other program is on {}", interface.name));
        return;
    };
    let programs: Vec<(u32, Option<String>)> = xdp
        .program_ids
        .iter()
        .map(|id| (*id, (probes.program_name)(*id)))
        .collect();
    let is_ours = |(_, name): &(u32, Option<String>)| name.as_deref() == Some(bpf::PROGRAM);
    let shown = shown(xdp, &programs);
    match owner {
        Owner::Daemon if programs.iter().all(is_ours) => {
            report.ok(name, format!("{shown} is that of the running daemon"));
        }
        Owner::Dead if programs.iter().all(is_ours) => report.warn(
            name,
            format!("{shown} is the closed gate of a daemon that died"),
            "nothing: the next start takes it over; `mfs-ha release` takes it off",
        ),
        Owner::Daemon | Owner::Dead | Owner::Unknown => report.fail(
            name,
            format!("another program is on {}: {shown}", interface.name),
            format!(
                "stop what put it there (`bpftool net show dev {0}`), or `ip link set {0} {1} off`; \
                 `mfs-ha release` with its configuration takes off what another instance left",
                interface.name,
                detach_option(xdp.mode)
            ),
        ),
    }
}

fn shown(xdp: &AttachedXdp, programs: &[(u32, Option<String>)]) -> String {
    let programs: Vec<String> = programs
        .iter()
        .map(|(id, name)| match name {
            Some(name) => format!("id {id} ({name})"),
            None => format!("id {id}"),
        })
        .collect();
    format!("{}, {}", programs.join(", "), xdp.mode)
}

fn detach_option(mode: AttachMode) -> &'static str {
    match mode {
        AttachMode::Native => "xdpdrv",
        AttachMode::Generic => "xdpgeneric",
        AttachMode::Hardware => "xdpoffload",
        AttachMode::Several | AttachMode::Unknown(_) => "xdp",
    }
}

async fn native(mode: XdpMode, interface: &Interface, report: &mut Report) {
    let name = "native XDP";
    if mode == XdpMode::Generic {
        report.ok(name, "not wanted (`xdp.mode = \"generic\"`)");
        return;
    }
    match (offload::has_native_xdp(interface.ifindex).await, mode) {
        (Ok(true), _) => report.ok(name, format!("the driver of {} has it", interface.name)),
        (Ok(false), XdpMode::Native) => report.fail(
            name,
            format!("the driver of {} does not have it", interface.name),
            "set `xdp.mode = \"auto\"`",
        ),
        (Ok(false), XdpMode::Auto | XdpMode::Generic) => report.warn(
            name,
            format!(
                "the driver of {} does not have it: generic mode is used",
                interface.name
            ),
            "nothing, unless much traffic is expected: generic mode works, and is slower",
        ),
        (Err(error), _) => report.warn(
            name,
            format!("unknown ({}); it is tried at the start", chain(&error)),
            "see what `mfs-ha status` shows once the daemon runs",
        ),
    }
}

/// A tag that the hardware takes off is not there any more when XDP looks for it.
async fn vlan(config: &Config, report: &mut Report) {
    let name = "VLAN";
    let interface = &config.interface;
    let Some(vlan) = config.vlan else {
        report.ok(name, "untagged");
        return;
    };
    let switch_off = format!("ethtool -K {interface} rxvlan off");
    match offload::strips_vlan_tags(interface).await {
        Ok(false) => report.ok(name, format!("tag {vlan} can be seen on {interface}")),
        Ok(true) => report.fail(
            name,
            format!("{interface} takes the tag off before XDP can see it"),
            switch_off,
        ),
        Err(error) => report.warn(
            name,
            format!(
                "unknown whether {interface} takes the tag off ({})",
                chain(&error)
            ),
            format!("make sure that it does not: {switch_off}"),
        ),
    }
}
