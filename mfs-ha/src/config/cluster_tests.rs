use std::net::IpAddr;
use std::time::Duration;

use mfs_ha_common::cluster::{NodeId, Role, Timing};

use super::*;

const CANDIDATE: &str = r#"
interface = "eth0"
vip = "10.0.0.100/24"
[carp]
vhid = 10
password_file = "/etc/mfs-ha/carp.secret"
"#;

const CLUSTER: &str = r#"
[cluster]
name = "storage-a"
node = 1
secret_file = "/etc/mfs-ha/cluster.secret"
[[cluster.members]]
id = 1
role = "candidate"
addresses = ["10.0.0.1", "fd00::1"]
[[cluster.members]]
id = 2
role = "candidate"
addresses = ["10.0.0.2", "fd00::2"]
[[cluster.members]]
id = 3
role = "witness"
addresses = ["10.0.0.3", "fd00::3"]
"#;

fn parse(text: &str) -> Result<Configuration, ConfigError> {
    Configuration::parse(text, Path::new("test.toml"))
}

fn candidate(text: &str) -> Config {
    match parse(text) {
        Ok(Configuration::Candidate(config)) => config,
        other => panic!("no candidate: {other:?}\n{text}"),
    }
}

fn witness(text: &str) -> Witness {
    match parse(text) {
        Ok(Configuration::Witness(witness)) => witness,
        other => panic!("no witness: {other:?}\n{text}"),
    }
}

fn refusals(text: &str) -> Vec<String> {
    match parse(text) {
        Err(ConfigError::Invalid { problems, .. }) => {
            problems.into_iter().map(|problem| problem.text).collect()
        }
        other => panic!("not refused with problems: {other:?}\n{text}"),
    }
}

/// A valid configuration in which one piece of text is exchanged.
fn changed(from: &str, to: &str) -> String {
    let whole = format!("{CANDIDATE}{CLUSTER}");
    assert!(whole.contains(from), "{from}");
    whole.replacen(from, to, 1)
}

fn node(id: u8) -> NodeId {
    NodeId::new(id).unwrap()
}

#[test]
fn a_cluster_makes_quorum_mode_with_the_documented_defaults() {
    let config = candidate(&format!("{CANDIDATE}{CLUSTER}"));
    assert_eq!(config.mode, Mode::Quorum);
    let cluster = config.quorum().unwrap();
    assert_eq!(cluster.node, node(1));
    assert_eq!(cluster.timing, Timing::DEFAULT);
    assert_eq!(cluster.generation, 1);
    assert_eq!(cluster.max_lag, 1000);
    assert_eq!(cluster.cold_start_wait, Duration::from_secs(30));
    assert_eq!(cluster.state_dir, Path::new("/var/lib/mfs-ha"));
    assert!(!cluster.accepts_loss);
    assert_eq!(cluster.previous_secret_file, None);
    assert_eq!((cluster.list.len(), cluster.list.majority()), (3, 2));
    assert_eq!(cluster.doubts(), Vec::<String>::new());
    let own = cluster.own().unwrap();
    let addresses: [IpAddr; 2] = ["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
    assert_eq!(own.addresses, addresses);
    let others: Vec<u8> = cluster.others().map(|member| member.id.get()).collect();
    assert_eq!(others, [2, 3]);
}

#[test]
fn without_a_cluster_it_is_carp() {
    let config = candidate(CANDIDATE);
    assert_eq!((config.mode, config.cluster.is_none()), (Mode::Carp, true));
    assert!(config.quorum().is_none());
    let config = candidate(&format!("mode = \"carp\"{CANDIDATE}"));
    assert_eq!(config.mode, Mode::Carp);
}

#[test]
fn in_carp_mode_a_cluster_only_signs_adverts() {
    let config = candidate(&format!(
        "mode = \"carp\"{CANDIDATE}require_extension = true\npreempt = true\n{CLUSTER}"
    ));
    assert_eq!(config.mode, Mode::Carp);
    assert!(config.carp.require_extension && config.cluster.is_some());
    assert!(config.quorum().is_none());
}

#[test]
fn every_key_of_the_cluster_is_read() {
    let keys = "secret_file = \"/etc/secret\"\nprevious_secret_file = \"/etc/old\"\ngeneration = 7\n\
                heartbeat_interval_ms = 10\nlease_ms = 60\nmax_lag = 5\ncold_start_wait_ms = 100\n\
                accept_loss = true\nstate_dir = \"/srv/state\"";
    let config = candidate(&changed(
        "secret_file = \"/etc/mfs-ha/cluster.secret\"",
        keys,
    ));
    let cluster = config.cluster.unwrap();
    assert_eq!(cluster.name, "storage-a");
    assert_eq!(cluster.secret_file, Path::new("/etc/secret"));
    assert_eq!(
        cluster.previous_secret_file.as_deref(),
        Some(Path::new("/etc/old"))
    );
    assert_eq!(cluster.generation, 7);
    assert_eq!(cluster.timing.interval, Duration::from_millis(10));
    assert_eq!(cluster.timing.lease, Duration::from_millis(60));
    assert_eq!(cluster.max_lag, 5);
    assert_eq!(cluster.cold_start_wait, Duration::from_millis(100));
    assert_eq!(cluster.state_dir, Path::new("/srv/state"));
    assert!(cluster.accepts_loss);
}

#[test]
fn a_witness_needs_only_the_cluster() {
    let witness = witness(&CLUSTER.replace("node = 1", "node = 3"));
    assert_eq!(witness.instance, "default");
    assert_eq!(witness.run_dir, Path::new("/run/mfs-ha"));
    assert_eq!(witness.cluster.own().unwrap().role, Role::Witness);
}

#[test]
fn a_witness_with_something_to_serve_is_refused() {
    let cluster = CLUSTER.replace("node = 1", "node = 3");
    for (text, key) in [
        (format!("{cluster}[moosefs]\n"), "moosefs"),
        (format!("{cluster}[hooks]\n"), "hooks"),
        (format!("{cluster}[watchdog]\n"), "watchdog"),
        (format!("{cluster}[carp]\nvhid = 1\n"), "carp"),
        (format!("interface = \"eth0\"\n{cluster}"), "interface"),
        (format!("vip = \"10.0.0.100/24\"\n{cluster}"), "vip"),
        (format!("source = \"10.0.0.3\"\n{cluster}"), "source"),
        (format!("vlan = 5\n{cluster}"), "vlan"),
    ] {
        let found = refusals(&text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with(&format!("`{key}` stands in the configuration of a witness"))
                && found[0].contains("role = \"candidate\""),
            "{found:?}"
        );
    }
    let found = refusals(&format!("mode = \"carp\"\n{cluster}"));
    assert!(
        found[0].contains("CARP asks nobody for a vote"),
        "{found:?}"
    );
}

/// Each row: a piece of a valid configuration, what stands there instead, and the pieces of the one message.
const REFUSED: &[(&str, &str, &[&str])] = &[
    (
        "name = \"storage-a\"\n",
        "",
        &["`cluster.name` is missing", "the same on all nodes"],
    ),
    (
        "name = \"storage-a\"",
        "name = \"\"",
        &["`cluster.name` is \"\"", "1 to 64 bytes"],
    ),
    (
        "node = 1\n",
        "",
        &["`cluster.node` is missing", "`id` of the member"],
    ),
    (
        "node = 1",
        "node = 0",
        &["`cluster.node` is 0", "from 1 to 255"],
    ),
    (
        "node = 1",
        "node = 9",
        &[
            "`cluster.node` is 9",
            "which no [[cluster.members]] has",
            "this one too",
        ],
    ),
    (
        "secret_file = \"/etc/mfs-ha/cluster.secret\"\n",
        "",
        &["`cluster.secret_file` is missing", "beginning with /"],
    ),
    (
        "\"/etc/mfs-ha/cluster.secret\"",
        "\"cluster.secret\"",
        &[
            "`cluster.secret_file` is \"cluster.secret\"",
            "beginning with /",
        ],
    ),
    (
        "node = 1\n",
        "node = 1\nprevious_secret_file = \"/etc/mfs-ha/cluster.secret\"\n",
        &[
            "`cluster.previous_secret_file` is the same file",
            "the former secret",
        ],
    ),
    (
        "node = 1\n",
        "node = 1\ngeneration = 0\n",
        &["`cluster.generation` is 0", "from 1 to"],
    ),
    (
        "node = 1\n",
        "node = 1\nheartbeat_interval_ms = 4\n",
        &["`cluster.heartbeat_interval_ms` is 4", "from 5 to 1000"],
    ),
    (
        "node = 1\n",
        "node = 1\nlease_ms = 60001\n",
        &["`cluster.lease_ms` is 60001", "15 to 60000"],
    ),
    (
        "node = 1\n",
        "node = 1\nlease_ms = 149\n",
        &[
            "`cluster.lease_ms` is 149",
            "`cluster.heartbeat_interval_ms` is 50",
            "at least 4 heartbeats, here 200",
        ],
    ),
    (
        "node = 1\n",
        "node = 1\nheartbeat_interval_ms = 101\n",
        &[
            "`cluster.lease_ms` is 300",
            "`cluster.heartbeat_interval_ms` is 101",
            "here 404",
        ],
    ),
    (
        "node = 1\n",
        "node = 1\nmax_lag = -1\n",
        &["`cluster.max_lag` is -1", "a number of changes"],
    ),
    (
        "node = 1\n",
        "node = 1\ncold_start_wait_ms = \"30s\"\n",
        &["`cluster.cold_start_wait_ms` is \"30s\"", "milliseconds"],
    ),
    (
        "node = 1\n",
        "node = 1\naccept_loss = 1\n",
        &["`cluster.accept_loss` is 1", "true or false"],
    ),
    (
        "node = 1\n",
        "node = 1\nstate_dir = \"state\"\n",
        &["`cluster.state_dir` is \"state\"", "begins with /"],
    ),
    (
        "node = 1\n",
        "node = 1\nlease = 300\n",
        &["unknown key `cluster.lease`", "lease_ms"],
    ),
    (
        "id = 2\n",
        "",
        &[
            "`cluster.members.id` is missing",
            "another one for each member",
        ],
    ),
    (
        "id = 2\n",
        "id = 256\n",
        &["`cluster.members.id` is 256", "1 to 255"],
    ),
    (
        "id = 2\n",
        "id = 3\n",
        &["`cluster.members.id` is 3 twice", "a number of its own"],
    ),
    (
        "role = \"witness\"",
        "role = \"arbiter\"",
        &[
            "`cluster.members.role` is \"arbiter\"",
            "\"candidate\" or \"witness\"",
        ],
    ),
    (
        "role = \"witness\"\n",
        "",
        &["`cluster.members.role` is missing", "\"witness\""],
    ),
    (
        "addresses = [\"10.0.0.3\", \"fd00::3\"]\n",
        "",
        &[
            "`cluster.members.addresses` is missing",
            "one for each network",
        ],
    ),
    (
        "[\"10.0.0.3\", \"fd00::3\"]",
        "[\"10.0.0.3\"]",
        &[
            "`cluster.members.addresses` has 1 elements here and 2 for the first",
            "same order",
        ],
    ),
    (
        "[\"10.0.0.3\", \"fd00::3\"]",
        "[\"fd00::3\", \"fd01::3\"]",
        &["pairs fd00::3 with 10.0.0.1", "all are IPv4 or all IPv6"],
    ),
    (
        "[\"10.0.0.3\"",
        "[\"10.0.0.2\"",
        &["lists 10.0.0.2 twice", "belongs to one node"],
    ),
    (
        "[\"10.0.0.3\"",
        "[\"10.0.0.100\"",
        &["lists 10.0.0.100, which is the VIP", "always has"],
    ),
    (
        "[\"10.0.0.3\"",
        "[\"127.0.0.1\"",
        &[
            "`cluster.members.addresses[0]` is \"127.0.0.1\"",
            "loopback",
        ],
    ),
    (
        "\"fd00::3\"",
        "\"fe80::3\"",
        &[
            "`cluster.members.addresses[1]` is \"fe80::3\"",
            "link-local",
            "fd00::1",
        ],
    ),
    (
        "\"fd00::3\"",
        "\"ff02::1\"",
        &["`cluster.members.addresses[1]` is \"ff02::1\"", "multicast"],
    ),
    ("\"fd00::3\"", "\"::ffff:10.0.0.3\"", &["write it as IPv4"]),
    (
        "\"fd00::3\"",
        "\"fd00::x\"",
        &[
            "`cluster.members.addresses[1]` is \"fd00::x\"",
            "IPv4 or IPv6 address",
        ],
    ),
    (
        "vhid = 10\n",
        "vhid = 10\npreempt = true\n",
        &["`carp.preempt` is true", "\"quorum\"", "set it to false"],
    ),
];

#[test]
fn every_mistake_is_refused_with_what_would_be_right() {
    for (from, to, pieces) in REFUSED {
        let text = changed(from, to);
        let found = refusals(&text);
        assert_eq!(found.len(), 1, "{to}: {found:?}");
        for piece in *pieces {
            assert!(
                found[0].contains(piece),
                "{to}: {piece:?} is not in {found:?}"
            );
        }
    }
}

#[test]
fn contradictions_between_tables_are_refused() {
    let found = refusals(&format!("mode = \"quorum\"{CANDIDATE}"));
    assert!(found[0].contains("no table [cluster]"), "{found:?}");
    let found = refusals(&format!("mode = \"paxos\"{CANDIDATE}"));
    assert!(found[0].contains("\"carp\" or \"quorum\""), "{found:?}");
    let found = refusals(&format!("{CANDIDATE}require_extension = true\n"));
    assert!(
        found[0].contains("`carp.require_extension` is true"),
        "{found:?}"
    );
    let members = CLUSTER.split_once("[[").unwrap().0;
    let found = refusals(&format!("{CANDIDATE}{members}"));
    assert!(
        found
            .iter()
            .any(|text| text.starts_with("`cluster.members` is missing")),
        "{found:?}"
    );
}

/// The cluster with so many candidates and witnesses, one address each.
fn sized(candidates: u8, witnesses: u8) -> String {
    let mut text = format!("{CANDIDATE}[cluster]\nname = \"a\"\nnode = 1\nsecret_file = \"/s\"\n");
    for id in 1..=candidates + witnesses {
        let role = if id <= candidates {
            "candidate"
        } else {
            "witness"
        };
        text += &format!(
            "[[cluster.members]]\nid = {id}\nrole = \"{role}\"\naddresses = [\"10.0.0.{id}\"]\n"
        );
    }
    text
}

#[test]
fn sizes_that_survive_less_than_expected_are_explained() {
    for (candidates, witnesses, pieces) in [
        (1, 0, &["decides alone"][..]),
        (2, 0, &["two members and no witness", "add a third"]),
        (
            3,
            1,
            &[
                "4 members: a majority is 3",
                "survives the loss of 1",
                "no more than 3",
            ],
        ),
        (6, 0, &["6 members: a majority is 4", "the loss of 2"]),
        (1, 2, &["only one member is a candidate"]),
    ] {
        let doubts = candidate(&sized(candidates, witnesses))
            .cluster
            .unwrap()
            .doubts();
        assert_eq!(doubts.len(), 1, "{doubts:?}");
        for piece in pieces {
            assert!(doubts[0].contains(piece), "{piece:?} is not in {doubts:?}");
        }
    }
    for (candidates, witnesses) in [(3, 0), (2, 1), (5, 0), (4, 3)] {
        let cluster = candidate(&sized(candidates, witnesses)).cluster.unwrap();
        assert_eq!(cluster.doubts(), Vec::<String>::new());
    }
    let found = refusals(&sized(8, 0));
    assert!(found[0].contains("more than 7 elements"), "{found:?}");
    let found = refusals(&sized(0, 3));
    assert!(
        found.iter().any(|text| text.contains("has no candidate")),
        "{found:?}"
    );
}

#[test]
fn the_packaged_witness_parses_and_belongs_to_the_packaged_cluster() {
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging");
    let example = Configuration::load(&packaging.join("witness.toml"));
    let cluster = match example {
        Ok(Configuration::Witness(witness)) => witness.cluster,
        other => panic!("{other:?}"),
    };
    assert_eq!(cluster.doubts(), Vec::<String>::new());
    let text = std::fs::read_to_string(packaging.join("mfs-ha.toml")).unwrap();
    for member in &cluster.members {
        assert!(text.contains(&format!("#id = {}", member.id)), "{member:?}");
    }
    assert!(text.contains(&format!("#name = \"{}\"", cluster.name)));
}
