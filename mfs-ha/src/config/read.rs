//! What each key may hold, and which values do not go together.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::section::{Placed, Problems, Refusal, Section, boolean, integer, text};
use super::{
    Carp, Config, Hooks, PEERS_MAX, RepeatedCounter, Scheduling, TrailingBytes, Vip, Xdp, XdpMode,
    is_instance_name, moosefs, socket_path,
};

/// `sun_path` of a unix socket holds 108 bytes with its final NUL.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// One argument of a program; far below what `execve` takes.
const XPARAM_BYTES_MAX: usize = 4096;

/// Every table and its keys, as the messages about unknown keys list them.
pub(super) const KEYS: [(&str, &[&str]); 7] = [
    (
        "",
        &[
            "instance",
            "interface",
            "vlan",
            "source",
            "vip",
            "run_dir",
            "carp",
            "hooks",
            "xdp",
            "scheduling",
            "moosefs",
        ],
    ),
    (
        "carp",
        &[
            "vhid",
            "password_file",
            "advbase",
            "advskew",
            "deadratio",
            "preempt",
            "neutral",
            "ignore_link_state",
            "multicast_group",
            "broadcast",
            "peers",
            "trailing_bytes",
            "repeated_counter",
        ],
    ),
    ("hooks", &["up", "down", "xparam", "timeout_ms"]),
    ("xdp", &["mode"]),
    ("scheduling", &["realtime"]),
    ("moosefs", moosefs::KEYS),
    ("moosefs.services", moosefs::SERVICE_KEYS),
];

/// What ucarp calls things that this file calls otherwise.
pub(super) const UCARP_NAMES: [(&str, &str); 11] = [
    ("addr", "vip"),
    ("downscript", "hooks.down"),
    ("ignoreifstate", "carp.ignore_link_state"),
    ("mcast", "carp.multicast_group"),
    ("mcastip", "carp.multicast_group"),
    ("nomcast", "carp.broadcast"),
    ("pass", "carp.password_file"),
    ("passfile", "carp.password_file"),
    ("password", "carp.password_file"),
    ("srcip", "source"),
    ("upscript", "hooks.up"),
];

const TRUE_OR_FALSE: &str = "true or false";

/// Reads the whole document; every mistake goes to `problems`.
///
/// Yields `None` only when something indispensable is missing; a `Some` is valid only if
/// `problems` stayed empty.
pub(super) fn document(table: &DeTable<'_>, problems: &Problems<'_>) -> Option<Config> {
    let mut root = Section::root(table, problems);
    let instance = root.take(
        "instance",
        "1 to 32 of the characters a-z, 0-9 and -",
        instance_name,
    );
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
    let run_dir = root.take(
        "run_dir",
        "a directory that begins with /, such as \"/run/mfs-ha\"",
        absolute_path,
    );
    let (carp, peers) = read_carp(&mut root, problems);
    let hooks = read_hooks(&mut root);
    let xdp = read_xdp(&mut root);
    let scheduling = read_scheduling(&mut root);
    let moosefs = moosefs::read(&mut root, problems, explain_unknown);
    root.finish(explain_unknown);

    if moosefs.is_some() && carp.as_ref().is_some_and(|carp| carp.preempt) {
        problems.add(
            "`carp.preempt` is true and there is [moosefs]: a node that comes back would replace a master \
             that serves, with metadata of an earlier time; set it to false"
                .to_owned(),
        );
    }
    check_source(source.as_ref(), vip.as_ref(), &peers, problems);
    let instance = instance.map_or_else(|| "default".to_owned(), |instance| instance.value);
    Some(Config {
        run_dir: checked_run_dir(run_dir, &instance, problems),
        instance,
        interface: interface?.value,
        vlan: vlan.map(|vlan| vlan.value).filter(|vlan| *vlan != 0),
        source: source.map(|source| source.value),
        vip: vip?.value,
        carp: carp?,
        hooks,
        xdp,
        scheduling,
        moosefs,
    })
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
    let count = list.value.len();
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

fn choice<T: Copy, const N: usize>(
    value: &DeValue<'_>,
    choices: [(&str, T); N],
) -> Result<T, Refusal> {
    let word = text(value)?;
    choices
        .iter()
        .find(|(name, _)| *name == word)
        .map(|(_, choice)| *choice)
        .ok_or(Refusal::Unexpected)
}

fn instance_name(value: &DeValue<'_>) -> Result<String, Refusal> {
    let name = text(value)?;
    if is_instance_name(name) {
        Ok(name.to_owned())
    } else {
        Err(Refusal::Unexpected)
    }
}

/// What the kernel takes for an interface name.
fn interface_name(value: &DeValue<'_>) -> Result<String, Refusal> {
    let name = text(value)?;
    if !(1..=15).contains(&name.len()) {
        return Err(Refusal::Because(
            "an interface name has 1 to 15 bytes".to_owned(),
        ));
    }
    let foreign = |c: char| c == '/' || c == ':' || c.is_whitespace();
    if matches!(name, "." | "..") || name.contains(foreign) {
        return Err(Refusal::Because(
            "an interface name has no blanks, no / and no :, and is not a dot".to_owned(),
        ));
    }
    Ok(name.to_owned())
}

fn absolute_path(value: &DeValue<'_>) -> Result<PathBuf, Refusal> {
    let path = Path::new(text(value)?);
    if path.is_absolute() {
        Ok(path.to_owned())
    } else {
        Err(Refusal::Unexpected)
    }
}

fn address(value: &str) -> Result<Ipv4Addr, Refusal> {
    value.parse().ok().ok_or(Refusal::Unexpected)
}

/// An address that one host can own.
fn host_address(value: &DeValue<'_>) -> Result<Ipv4Addr, Refusal> {
    let address = address(text(value)?)?;
    match why_not_a_host(address) {
        None => Ok(address),
        Some(what) => Err(Refusal::Because(format!(
            "{what}; a host's own address is needed"
        ))),
    }
}

fn why_not_a_host(address: Ipv4Addr) -> Option<&'static str> {
    let [first, ..] = address.octets();
    if address.is_unspecified() {
        Some("that is no address at all")
    } else if first == 0 {
        Some("addresses that begin with 0 belong to no host")
    } else if address.is_loopback() {
        Some("that is a loopback address, which never leaves this host")
    } else if address.is_multicast() {
        Some("that is a multicast address")
    } else if address.is_broadcast() {
        Some("that is the broadcast address")
    } else {
        None
    }
}

fn vip(value: &DeValue<'_>) -> Result<Vip, Refusal> {
    let text = text(value)?;
    let Some((host, prefix)) = text.split_once('/') else {
        let address = address(text)?;
        return Err(Refusal::Because(format!(
            "the prefix length is missing; write \"{address}/24\" for a netmask of 255.255.255.0"
        )));
    };
    let address = address(host)?;
    let prefix_len = prefix
        .parse::<u8>()
        .ok()
        .filter(|length| (1..=32).contains(length) && !prefix.starts_with('+'))
        .ok_or_else(|| Refusal::Because("the prefix length must be from 1 to 32".to_owned()))?;
    if let Some(what) = why_not_a_host(address) {
        return Err(Refusal::Because(format!(
            "{what}; a VIP must be an address of your network"
        )));
    }
    // A /31 and a /32 have neither a network nor a broadcast address.
    let host_mask = u32::MAX.checked_shr(u32::from(prefix_len)).unwrap_or(0);
    let host_bits = address.to_bits() & host_mask;
    let reserved = if prefix_len > 30 {
        None
    } else if host_bits == 0 {
        Some("network")
    } else if host_bits == host_mask {
        Some("broadcast")
    } else {
        None
    };
    match reserved {
        None => Ok(Vip {
            address,
            prefix_len,
        }),
        Some(kind) => Err(Refusal::Because(format!(
            "{address} is the {kind} address of that prefix; choose an address of a host in it"
        ))),
    }
}

fn advert_destination(value: &DeValue<'_>, broadcast: bool) -> Result<Ipv4Addr, Refusal> {
    let address = address(text(value)?)?;
    if address.is_multicast() || (broadcast && !address.is_unspecified()) {
        return Ok(address);
    }
    Err(Refusal::Because(
        "expected an IPv4 multicast address, such as \"224.0.0.18\"; \
         any other needs `broadcast = true` on all nodes"
            .to_owned(),
    ))
}

/// Says what the writer of an unknown key may have meant.
fn explain_unknown(section: &str, key: &str) -> String {
    if section.is_empty() && key == "quorum" {
        return "this version elects by CARP only and knows no quorum; remove it".to_owned();
    }
    if let Some(meant) = closest(section, key) {
        return format!("did you mean `{meant}`?");
    }
    let known = KEYS
        .iter()
        .find(|(name, _)| *name == section)
        .map_or(&[][..], |(_, keys)| *keys);
    format!("the keys here are {}", known.join(", "))
}

/// The known key that looks most like `key`, with its table; one of the same table wins a tie.
fn closest(section: &str, key: &str) -> Option<String> {
    let written = key.to_ascii_lowercase().replace('-', "_");
    if let Some((_, meant)) = UCARP_NAMES.iter().find(|(name, _)| *name == written) {
        return Some((*meant).to_owned());
    }
    let known = KEYS
        .iter()
        .flat_map(|(table, keys)| keys.iter().map(move |key| (*table, *key)));
    let (_, table, key) = known
        .map(|(table, known)| (strsim::damerau_levenshtein(&written, known), table, known))
        .filter(|(distance, table, known)| {
            // A third of the letters may be wrong; in another table only an exact name counts.
            if *table == section {
                *distance * 3 <= known.len()
            } else {
                *distance == 0
            }
        })
        .min_by_key(|(distance, table, _)| (*distance, *table != section))?;
    Some(if table.is_empty() {
        key.to_owned()
    } else {
        format!("{table}.{key}")
    })
}
