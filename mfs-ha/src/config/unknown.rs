//! Which keys there are, and what the writer of another one may have meant.

use super::{cluster, moosefs, watchdog};

/// Every table and its keys, as the messages about unknown keys list them.
pub(super) const KEYS: [(&str, &[&str]); 10] = [
    (
        "",
        &[
            "instance",
            "mode",
            "interface",
            "vlan",
            "source",
            "vip",
            "run_dir",
            "carp",
            "cluster",
            "hooks",
            "xdp",
            "scheduling",
            "watchdog",
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
            "require_extension",
        ],
    ),
    ("cluster", cluster::KEYS),
    ("cluster.members", cluster::MEMBER_KEYS),
    ("hooks", &["up", "down", "xparam", "timeout_ms"]),
    ("xdp", &["mode"]),
    ("scheduling", &["realtime"]),
    ("watchdog", watchdog::KEYS),
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

/// Says what the writer of an unknown key may have meant.
pub(super) fn explain_unknown(section: &str, key: &str) -> String {
    if section.is_empty() && key == "quorum" {
        return "write `mode = \"quorum\"` and a table [cluster]".to_owned();
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
