//! What each key may hold, and which values do not go together.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use mfs_ha_common::cluster::Role;
use toml::de::DeTable;

use super::section::{Placed, Problems, Refusal, Section, boolean, integer, text};
use super::unknown::explain_unknown;
use super::values::{
    absolute_path, advert_destination, choice, host_address, instance_name, interface_name, vip,
};
use super::{
    Carp, Config, Configuration, Hooks, Mode, PEERS_MAX, RepeatedCounter, Scheduling,
    TrailingBytes, Vip, Witness, Xdp, XdpMode, cluster, moosefs, socket_path, watchdog,
};

/// `sun_path` of a unix socket holds 108 bytes with its final NUL.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// One argument of a program; far below what `execve` takes.
const XPARAM_BYTES_MAX: usize = 4096;

/// What a witness has no use for, and why.
const FOR_CANDIDATES: [(&str, &str); 9] = [
    (
        "interface",
        "it has no VIP, and finds its interfaces by its addresses",
    ),
    ("vlan", "it sends no adverts"),
    ("source", "it sends no adverts"),
    ("vip", "it never takes it"),
    ("gate", "it has no VIP to guard"),
    ("carp", "it sends no adverts"),
    ("hooks", "its state never changes"),
    ("watchdog", "it serves nothing that a reset would end"),
    ("moosefs", "it votes and never serves metadata"),
];

const TRUE_OR_FALSE: &str = "true or false";

/// Reads the whole document; every mistake goes to `problems`.
///
/// Yields `None` only when something indispensable is missing; a `Some` is valid only if
/// `problems` stayed empty.
pub(super) fn document(table: &DeTable<'_>, problems: &Problems<'_>) -> Option<Configuration> {
    let mut root = Section::root(table, problems);
    let mode = root.take("mode", "\"carp\" or \"quorum\"", |value| {
        choice(value, [("carp", Mode::Carp), ("quorum", Mode::Quorum)])
    });
    let cluster = cluster::read(&mut root, problems, explain_unknown);
    let mode = checked_mode(mode, &cluster, problems);
    let common = read_common(&mut root, problems);
    if cluster.own_role == Some(Role::Witness) {
        refuse_for_witness(&mut root, mode, problems);
        root.finish(explain_unknown);
        return Some(Configuration::Witness(Witness {
            instance: common.instance,
            run_dir: common.run_dir,
            xdp: common.xdp,
            scheduling: common.scheduling,
            cluster: cluster.cluster?,
        }));
    }
    candidate(root, common, mode, cluster, problems).map(Configuration::Candidate)
}

/// Without `mode` it is told by whether there is a cluster.
fn checked_mode(
    mode: Option<Placed<Mode>>,
    cluster: &cluster::Read,
    problems: &Problems<'_>,
) -> Mode {
    let Some(mode) = mode else {
        return if cluster.is_present {
            Mode::Quorum
        } else {
            Mode::Carp
        };
    };
    if mode.value == Mode::Quorum && !cluster.is_present {
        problems.add_at(
            mode.offset,
            "`mode` is \"quorum\" and there is no table [cluster]: a majority needs to know its members; \
             add [cluster] with all [[cluster.members]], or set it to \"carp\""
                .to_owned(),
        );
    }
    mode.value
}

/// A witness votes and has nothing to serve.
fn refuse_for_witness(root: &mut Section<'_, '_>, mode: Mode, problems: &Problems<'_>) {
    if mode == Mode::Carp {
        let place = root.place("mode").unwrap_or_default();
        problems.add_at(
            place,
            "`mode` is \"carp\" and this node is a witness: CARP asks nobody for a vote; set it to \
             \"quorum\""
                .to_owned(),
        );
    }
    for (key, why) in FOR_CANDIDATES {
        if let Some(place) = root.place(key) {
            problems.add_at(
                place,
                format!(
                    "`{key}` stands in the configuration of a witness: {why}; remove it, or give the member \
                     that `cluster.node` names `role = \"candidate\"`"
                ),
            );
        }
        root.skip(key);
    }
}

/// What every node has.
struct Common {
    instance: String,
    run_dir: PathBuf,
    xdp: Xdp,
    scheduling: Scheduling,
}

fn read_common(root: &mut Section<'_, '_>, problems: &Problems<'_>) -> Common {
    let instance = root.take(
        "instance",
        "1 to 32 of the characters a-z, 0-9 and -",
        instance_name,
    );
    let run_dir = root.take(
        "run_dir",
        "a directory that begins with /, such as \"/run/mfs-ha\"",
        absolute_path,
    );
    let instance = instance.map_or_else(|| "default".to_owned(), |instance| instance.value);
    Common {
        run_dir: checked_run_dir(run_dir, &instance, problems),
        instance,
        xdp: read_xdp(root),
        scheduling: read_scheduling(root),
    }
}

fn candidate(
    mut root: Section<'_, '_>,
    common: Common,
    mode: Mode,
    cluster: cluster::Read,
    problems: &Problems<'_>,
) -> Option<Config> {
    let interface = root.require(
        "interface",
        "the name of a network interface, such as \"eth0\"",
        interface_name,
    );
    let vlan = root.take(
        "vlan",
        "0 for untagged, or a number from 1 to 4094",
        |value| integer::<u16>(value, 0..=4094),
    );
    let source = root.take(
        "source",
        "an IPv4 address of this host, such as \"10.0.0.1\"",
        host_address,
    );
    let vip = root.require(
        "vip",
        "an IPv4 address with its prefix, such as \"10.0.0.100/24\"",
        vip,
    );
    let gate = root.take("gate", "\"on\" or \"off\"", |value| {
        choice(value, [("on", true), ("off", false)])
    });
    let (carp, peers) = read_carp(&mut root, problems);
    let hooks = read_hooks(&mut root);
    let watchdog = watchdog::read(&mut root, explain_unknown);
    let moosefs = moosefs::read(&mut root, problems, explain_unknown);
    root.finish(explain_unknown);

    if let Some(carp) = &carp {
        check_carp(carp, mode, &cluster, moosefs.is_some(), problems);
    }
    check_source(source.as_ref(), vip.as_ref(), &peers, problems);
    check_vip(vip.as_ref(), &cluster, problems);
    if cluster.is_present && cluster.cluster.is_none() {
        return None;
    }
    Some(Config {
        instance: common.instance,
        mode,
        interface: interface?.value,
        vlan: vlan.map(|vlan| vlan.value).filter(|vlan| *vlan != 0),
        source: source.map(|source| source.value),
        vip: vip?.value,
        gate: gate.is_none_or(|gate| gate.value),
        run_dir: common.run_dir,
        carp: carp?,
        cluster: cluster.cluster,
        hooks,
        xdp: common.xdp,
        scheduling: common.scheduling,
        watchdog,
        moosefs,
    })
}

/// What `[carp]` says has to fit to the rest.
fn check_carp(
    carp: &Carp,
    mode: Mode,
    cluster: &cluster::Read,
    has_metadata: bool,
    problems: &Problems<'_>,
) {
    if carp.preempt && mode == Mode::Quorum {
        problems.add(
            "`carp.preempt` is true and `mode` is \"quorum\": a lease is not taken from a node that holds \
             it; set it to false"
                .to_owned(),
        );
    } else if carp.preempt && has_metadata {
        problems.add(
            "`carp.preempt` is true and there is [moosefs]: a node that comes back would replace a master \
             that serves, with metadata of an earlier time; set it to false"
                .to_owned(),
        );
    }
    if carp.require_extension && !cluster.is_present {
        problems.add(
            "`carp.require_extension` is true and there is no table [cluster]: the signature of adverts \
             needs the cluster's secret; add [cluster], or set it to false"
                .to_owned(),
        );
    }
}

/// The address that moves belongs to no node.
fn check_vip(vip: Option<&Placed<Vip>>, cluster: &cluster::Read, problems: &Problems<'_>) {
    let Some(vip) = vip else { return };
    let vip = IpAddr::from(vip.value.address);
    if let Some(address) = cluster
        .addresses
        .iter()
        .find(|address| address.value == vip)
    {
        problems.add_at(
            address.offset,
            format!(
                "`cluster.members.addresses` lists {vip}, which is the VIP: name the address that the node \
                 always has"
            ),
        );
    }
}

/// A node's own address is neither the one that moves nor that of another node.
fn check_source(
    source: Option<&Placed<Ipv4Addr>>,
    vip: Option<&Placed<Vip>>,
    peers: &[Placed<Ipv4Addr>],
    problems: &Problems<'_>,
) {
    let Some(source) = source else { return };
    if vip.is_some_and(|vip| vip.value.address == source.value) {
        problems.add_at(
            source.offset,
            format!(
                "`source` is \"{}\", which is the VIP: it must be the node's own address",
                source.value
            ),
        );
    }
    if let Some(own) = peers.iter().find(|peer| peer.value == source.value) {
        problems.add_at(
            own.offset,
            format!(
                "`carp.peers` lists {}, which is `source`: name only the other nodes",
                own.value
            ),
        );
    }
}

/// Refuses a directory in which the control socket's path would be too long to bind.
fn checked_run_dir(
    run_dir: Option<Placed<PathBuf>>,
    instance: &str,
    problems: &Problems<'_>,
) -> PathBuf {
    let Some(run_dir) = run_dir else {
        return PathBuf::from("/run/mfs-ha");
    };
    let socket = socket_path(&run_dir.value, instance);
    let length = socket.as_os_str().len();
    if length > SOCKET_PATH_BYTES_MAX {
        problems.add_at(
            run_dir.offset,
            format!(
                "`run_dir` makes the control socket's path {length} bytes long ({}): \
                 at most {SOCKET_PATH_BYTES_MAX} bytes can be bound, choose a shorter directory",
                socket.display()
            ),
        );
    }
    run_dir.value
}

/// Also yields the peers with their places, to be compared with what stands elsewhere.
fn read_carp(
    root: &mut Section<'_, '_>,
    problems: &Problems<'_>,
) -> (Option<Carp>, Vec<Placed<Ipv4Addr>>) {
    let mut carp = root.table("carp");
    let vhid = carp.require("vhid", "a number from 1 to 255", |value| {
        integer::<u8>(value, 1..=255)
    });
    let password_file = carp.require(
        "password_file",
        "the path of a file, beginning with /, that holds the shared password",
        absolute_path,
    );
    let timing = read_timing(&mut carp, problems);
    let preempt = carp.take("preempt", TRUE_OR_FALSE, boolean);
    let neutral = carp.take("neutral", TRUE_OR_FALSE, boolean);
    let ignore_link_state = carp.take("ignore_link_state", TRUE_OR_FALSE, boolean);
    let wire = read_wire(&mut carp);
    let peers = read_peers(&mut carp, problems);
    let require_extension = carp.take("require_extension", TRUE_OR_FALSE, boolean);
    carp.finish(explain_unknown);

    let settings = vhid.zip(password_file).map(|(vhid, password_file)| Carp {
        vhid: vhid.value,
        password_file: password_file.value,
        advbase: timing.advbase,
        advskew: timing.advskew,
        deadratio: timing.deadratio,
        preempt: preempt.is_some_and(|preempt| preempt.value),
        neutral: neutral.is_some_and(|neutral| neutral.value),
        ignore_link_state: ignore_link_state.is_some_and(|ignore| ignore.value),
        multicast_group: wire.multicast_group,
        broadcast: wire.broadcast,
        peers: peers.iter().map(|peer| peer.value).collect(),
        trailing_bytes: wire.trailing_bytes,
        repeated_counter: wire.repeated_counter,
        require_extension: require_extension.is_some_and(|require| require.value),
    });
    (settings, peers)
}

struct Timing {
    advbase: u8,
    advskew: u8,
    deadratio: u8,
}

fn read_timing(carp: &mut Section<'_, '_>, problems: &Problems<'_>) -> Timing {
    let advbase = carp.take("advbase", "a number of seconds from 0 to 255", |value| {
        integer::<u8>(value, 0..=255)
    });
    let advskew = carp.take(
        "advskew",
        "a number from 0 to 254 (255 is what a leaving master announces)",
        |value| integer::<u8>(value, 0..=254),
    );
    let deadratio = carp.take("deadratio", "a number from 1 to 255", |value| {
        integer::<u8>(value, 1..=255)
    });
    let skew = advskew.map_or(0, |advskew| advskew.value);
    if let Some(base) = advbase.as_ref().filter(|base| base.value == 0 && skew == 0) {
        problems.add_at(
            base.offset,
            "`carp.advbase` is 0 and `carp.advskew` is 0: that is no interval at all; \
             with `advbase = 0` set `advskew` to 1 to 254 (in 1/256 s)"
                .to_owned(),
        );
    }
    Timing {
        advbase: advbase.map_or(1, |advbase| advbase.value),
        advskew: skew,
        deadratio: deadratio.map_or(3, |deadratio| deadratio.value),
    }
}

struct Wire {
    multicast_group: Ipv4Addr,
    broadcast: bool,
    trailing_bytes: TrailingBytes,
    repeated_counter: RepeatedCounter,
}

fn read_wire(carp: &mut Section<'_, '_>) -> Wire {
    let broadcast = carp.take("broadcast", TRUE_OR_FALSE, boolean);
    let broadcast = broadcast.is_some_and(|broadcast| broadcast.value);
    let multicast_group = carp.take(
        "multicast_group",
        "an IPv4 multicast address, such as \"224.0.0.18\"",
        |value| advert_destination(value, broadcast),
    );
    let trailing_bytes = carp.take("trailing_bytes", "\"reject\" or \"accept\"", |value| {
        let words = [
            ("reject", TrailingBytes::Reject),
            ("accept", TrailingBytes::Accept),
        ];
        choice(value, words)
    });
    let repeated_counter = carp.take("repeated_counter", "\"accept\" or \"reject\"", |value| {
        let words = [
            ("accept", RepeatedCounter::Accept),
            ("reject", RepeatedCounter::Reject),
        ];
        choice(value, words)
    });
    Wire {
        multicast_group: multicast_group.map_or(Ipv4Addr::new(224, 0, 0, 18), |group| group.value),
        broadcast,
        trailing_bytes: trailing_bytes.map_or(TrailingBytes::Reject, |choice| choice.value),
        repeated_counter: repeated_counter.map_or(RepeatedCounter::Accept, |choice| choice.value),
    }
}

fn read_peers(carp: &mut Section<'_, '_>, problems: &Problems<'_>) -> Vec<Placed<Ipv4Addr>> {
    let Some(list) = carp.take_list("peers", "the IPv4 address of another node", host_address)
    else {
        return Vec::new();
    };
    let count = list.count;
    if count > PEERS_MAX {
        problems.add_at(
            list.offset,
            format!("`carp.peers` has {count} elements: at most {PEERS_MAX} are possible"),
        );
    }
    for (index, peer) in list.value.iter().enumerate() {
        let mut earlier = list.value.iter().take(index);
        if earlier.any(|earlier| earlier.value == peer.value) {
            problems.add_at(
                peer.offset,
                format!("`carp.peers` lists {} twice: remove one", peer.value),
            );
        }
    }
    list.value
}

fn read_hooks(root: &mut Section<'_, '_>) -> Hooks {
    let mut hooks = root.table("hooks");
    let program = "the path of a program, beginning with /";
    let up = hooks.take("up", program, absolute_path);
    let down = hooks.take("down", program, absolute_path);
    let xparam = hooks.take("xparam", "a text of at most 4096 bytes", |value| {
        let xparam = text(value)?;
        if xparam.len() > XPARAM_BYTES_MAX {
            return Err(Refusal::Unexpected);
        }
        Ok(xparam.to_owned())
    });
    let timeout_ms = hooks.take(
        "timeout_ms",
        "a number of milliseconds from 100 to 3600000",
        |value| integer::<u32>(value, 100..=3_600_000),
    );
    hooks.finish(explain_unknown);
    Hooks {
        up: up.map(|path| path.value),
        down: down.map(|path| path.value),
        xparam: xparam.map(|xparam| xparam.value),
        timeout_ms: timeout_ms.map_or(60_000, |limit| limit.value),
    }
}

fn read_xdp(root: &mut Section<'_, '_>) -> Xdp {
    let mut xdp = root.table("xdp");
    let mode = xdp.take("mode", "\"auto\", \"native\" or \"generic\"", |value| {
        let words = [
            ("auto", XdpMode::Auto),
            ("native", XdpMode::Native),
            ("generic", XdpMode::Generic),
        ];
        choice(value, words)
    });
    xdp.finish(explain_unknown);
    Xdp {
        mode: mode.map_or(XdpMode::Auto, |mode| mode.value),
    }
}

fn read_scheduling(root: &mut Section<'_, '_>) -> Scheduling {
    let mut scheduling = root.table("scheduling");
    let realtime = scheduling.take("realtime", TRUE_OR_FALSE, boolean);
    scheduling.finish(explain_unknown);
    Scheduling {
        realtime: realtime.is_none_or(|realtime| realtime.value),
    }
}
