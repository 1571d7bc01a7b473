use std::time::Duration;

use super::unknown::{KEYS, UCARP_NAMES};
use super::*;

const MINIMAL: &str = r#"
interface = "eth0"
vip = "10.0.0.100/24"
[carp]
vhid = 10
password_file = "/etc/mfs-ha/carp.secret"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Configuration::parse(text, Path::new("test.toml")).map(candidate)
}

fn candidate(configuration: Configuration) -> Config {
    match configuration {
        Configuration::Candidate(config) => config,
        Configuration::Witness(witness) => panic!("a witness: {witness:?}"),
    }
}

/// The minimal configuration with the keys of `changes` put in, `table.key = value` a line.
fn with(changes: &str) -> String {
    let mut tables: Vec<(String, Vec<(String, String)>)> = vec![
        (
            String::new(),
            vec![
                ("interface".into(), "\"eth0\"".into()),
                ("vip".into(), "\"10.0.0.100/24\"".into()),
            ],
        ),
        (
            "carp".into(),
            vec![
                ("vhid".into(), "10".into()),
                ("password_file".into(), "\"/etc/mfs-ha/carp.secret\"".into()),
            ],
        ),
    ];
    for line in changes
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        let (path, value) = line.split_once('=').expect("a change is key = value");
        let (table, key) = path
            .trim()
            .rsplit_once('.')
            .unwrap_or_else(|| ("", path.trim()));
        if !tables.iter().any(|(name, _)| name == table) {
            tables.push((table.to_owned(), Vec::new()));
        }
        let (_, keys) = tables.iter_mut().find(|(name, _)| name == table).unwrap();
        keys.retain(|(name, _)| name != key);
        if value.trim() != "MISSING" {
            keys.push((key.to_owned(), value.trim().to_owned()));
        }
    }
    let mut text = String::new();
    for (name, keys) in tables {
        if !name.is_empty() {
            text.push_str(&format!("[{name}]\n"));
        }
        for (key, value) in keys {
            text.push_str(&format!("{key} = {value}\n"));
        }
    }
    text
}

fn problems(text: &str) -> Vec<Problem> {
    match parse(text) {
        Err(ConfigError::Invalid { problems, .. }) => problems,
        other => panic!("not refused with problems: {other:?}\n{text}"),
    }
}

#[test]
fn the_minimal_configuration_has_the_documented_defaults() {
    let config = parse(MINIMAL).unwrap();
    assert_eq!(
        config,
        Config {
            instance: "default".into(),
            mode: Mode::Carp,
            interface: "eth0".into(),
            vlan: None,
            source: None,
            vip: Vip {
                address: Ipv4Addr::new(10, 0, 0, 100),
                prefix_len: 24
            },
            gate: true,
            run_dir: "/run/mfs-ha".into(),
            carp: Carp {
                vhid: 10,
                password_file: "/etc/mfs-ha/carp.secret".into(),
                advbase: 1,
                advskew: 0,
                deadratio: 3,
                preempt: false,
                neutral: false,
                ignore_link_state: false,
                multicast_group: Ipv4Addr::new(224, 0, 0, 18),
                broadcast: false,
                peers: Vec::new(),
                trailing_bytes: TrailingBytes::Reject,
                repeated_counter: RepeatedCounter::Accept,
                require_extension: false,
            },
            cluster: None,
            hooks: Hooks {
                up: None,
                down: None,
                xparam: None,
                timeout_ms: 60_000
            },
            xdp: Xdp {
                mode: XdpMode::Auto
            },
            scheduling: Scheduling { realtime: true },
            watchdog: None,
            moosefs: None,
        }
    );
    assert_eq!(config.socket_path(), Path::new("/run/mfs-ha/default.sock"));
    assert_eq!(config.pin_dir(), Path::new("/sys/fs/bpf/mfs-ha/default"));
    assert_eq!(config.vip.to_string(), "10.0.0.100/24");
}

const EVERY_KEY: &str = r#"
instance = "n-1"
interface = "enp3s0f1"
vlan = 0x10
source = "10.1.0.1"
vip = "10.1.0.100/16"
gate = "off"
run_dir = "/run/ha"
[carp]
vhid = 255
password_file = "/etc/secret"
advbase = 0
advskew = 10
deadratio = 5
preempt = false
neutral = true
ignore_link_state = true
multicast_group = "10.1.255.255"
broadcast = true
peers = ["10.1.0.2", "10.1.0.3"]
trailing_bytes = "accept"
repeated_counter = "reject"
[hooks]
up = "/bin/up"
down = "/bin/down"
xparam = "one text"
timeout_ms = 100
[xdp]
mode = "generic"
[scheduling]
realtime = false
[watchdog]
device = "/dev/watchdog1"
timeout_s = 600
required = true
[moosefs]
master_config = "/etc/m.cfg"
metalogger_config = "/etc/l.cfg"
master_program = "/opt/mfsmaster"
metalogger_program = "/opt/mfsmetalogger"
stage_timeout_ms = 1000
start_timeout_ms = 2000
probe_interval_ms = 300
probe_timeout_ms = 400
archive_keep = 3
archive_days = 5
[[moosefs.services]]
name = "cgi"
start = ["/usr/sbin/mfscgiserv", "start"]
stop = ["/usr/sbin/mfscgiserv", "stop"]
"#;

#[test]
fn every_key_is_read() {
    let config = parse(EVERY_KEY).unwrap();
    assert_eq!(
        config,
        Config {
            instance: "n-1".into(),
            mode: Mode::Carp,
            interface: "enp3s0f1".into(),
            vlan: Some(16),
            source: Some(Ipv4Addr::new(10, 1, 0, 1)),
            vip: Vip {
                address: Ipv4Addr::new(10, 1, 0, 100),
                prefix_len: 16
            },
            gate: false,
            run_dir: "/run/ha".into(),
            carp: Carp {
                vhid: 255,
                password_file: "/etc/secret".into(),
                advbase: 0,
                advskew: 10,
                deadratio: 5,
                preempt: false,
                neutral: true,
                ignore_link_state: true,
                multicast_group: Ipv4Addr::new(10, 1, 255, 255),
                broadcast: true,
                peers: vec![Ipv4Addr::new(10, 1, 0, 2), Ipv4Addr::new(10, 1, 0, 3)],
                trailing_bytes: TrailingBytes::Accept,
                repeated_counter: RepeatedCounter::Reject,
                require_extension: false,
            },
            cluster: None,
            hooks: Hooks {
                up: Some("/bin/up".into()),
                down: Some("/bin/down".into()),
                xparam: Some("one text".into()),
                timeout_ms: 100,
            },
            xdp: Xdp {
                mode: XdpMode::Generic
            },
            scheduling: Scheduling { realtime: false },
            watchdog: Some(Watchdog {
                device: "/dev/watchdog1".into(),
                timeout: Duration::from_secs(600),
                required: true,
            }),
            moosefs: Some(MooseFs {
                master_config: "/etc/m.cfg".into(),
                metalogger_config: "/etc/l.cfg".into(),
                master_program: "/opt/mfsmaster".into(),
                metalogger_program: "/opt/mfsmetalogger".into(),
                stage_timeout: Duration::from_secs(1),
                start_timeout: Duration::from_secs(2),
                probe_interval: Duration::from_millis(300),
                probe_timeout: Duration::from_millis(400),
                archive_keep: 3,
                archive_age: Duration::from_secs(5 * 24 * 3600),
                services: vec![ServiceConfig {
                    name: "cgi".into(),
                    start: vec!["/usr/sbin/mfscgiserv".into(), "start".into()],
                    stop: vec!["/usr/sbin/mfscgiserv".into(), "stop".into()],
                }],
            }),
        }
    );
}

/// Each row: what is changed in the minimal configuration, and the pieces of the one message.
const REFUSED: &[(&str, &[&str])] = &[
    (
        "interface = MISSING",
        &["`interface` is missing", "such as \"eth0\""],
    ),
    ("vip = MISSING", &["`vip` is missing", "\"10.0.0.100/24\""]),
    (
        "carp.vhid = MISSING",
        &["`carp.vhid` is missing", "1 to 255"],
    ),
    (
        "carp.password_file = MISSING",
        &["`carp.password_file` is missing", "shared password"],
    ),
    (
        "instance = \"Node_1\"",
        &["`instance` is \"Node_1\"", "a-z, 0-9 and -"],
    ),
    ("instance = \"\"", &["`instance` is \"\"", "1 to 32"]),
    (
        "instance = \"123456789012345678901234567890123\"",
        &["`instance` is \"1234567890", "1 to 32"],
    ),
    (
        "instance = \"../up\"",
        &["`instance` is \"../up\"", "a-z, 0-9 and -"],
    ),
    (
        "interface = \"\"",
        &["`interface` is \"\"", "1 to 15 bytes"],
    ),
    (
        "interface = \"a-very-long-name\"",
        &["`interface` is \"a-very-long-name\"", "1 to 15"],
    ),
    (
        "interface = \"eth 0\"",
        &["`interface` is \"eth 0\"", "no blanks"],
    ),
    (
        "interface = \"eth/0\"",
        &["`interface` is \"eth/0\"", "no /"],
    ),
    (
        "interface = \"..\"",
        &["`interface` is \"..\"", "not a dot"],
    ),
    ("interface = 3", &["`interface` is 3", "such as \"eth0\""]),
    ("vlan = 4095", &["`vlan` is 4095", "1 to 4094"]),
    ("vlan = -1", &["`vlan` is -1", "1 to 4094"]),
    ("vlan = \"5\"", &["`vlan` is \"5\"", "1 to 4094"]),
    (
        "source = \"10.0.0\"",
        &["`source` is \"10.0.0\"", "an IPv4 address of this host"],
    ),
    (
        "source = \"fe80::1\"",
        &["`source` is \"fe80::1\"", "an IPv4 address"],
    ),
    (
        "source = \"127.0.0.1\"",
        &["`source` is \"127.0.0.1\"", "loopback"],
    ),
    (
        "source = \"10.0.0.100\"",
        &["`source` is \"10.0.0.100\"", "is the VIP", "own address"],
    ),
    (
        "vip = \"10.0.0.100\"",
        &["`vip` is \"10.0.0.100\"", "prefix length is missing", "/24"],
    ),
    (
        "vip = \"10.0.0.100/0\"",
        &["`vip` is \"10.0.0.100/0\"", "from 1 to 32"],
    ),
    (
        "vip = \"10.0.0.100/33\"",
        &["`vip` is \"10.0.0.100/33\"", "from 1 to 32"],
    ),
    (
        "vip = \"10.0.0.100/+8\"",
        &["`vip` is \"10.0.0.100/+8\"", "from 1 to 32"],
    ),
    (
        "vip = \"10.0.0.0/24\"",
        &["`vip` is \"10.0.0.0/24\"", "network address"],
    ),
    (
        "vip = \"10.0.0.255/24\"",
        &["`vip` is \"10.0.0.255/24\"", "broadcast address"],
    ),
    (
        "vip = \"10.0.0.4/30\"",
        &["`vip` is \"10.0.0.4/30\"", "network address"],
    ),
    (
        "vip = \"224.0.0.5/24\"",
        &["`vip` is \"224.0.0.5/24\"", "multicast"],
    ),
    (
        "vip = \"127.0.0.5/8\"",
        &["`vip` is \"127.0.0.5/8\"", "loopback"],
    ),
    (
        "vip = \"0.0.0.0/8\"",
        &["`vip` is \"0.0.0.0/8\"", "no address at all"],
    ),
    (
        "vip = \"0.1.2.3/8\"",
        &["`vip` is \"0.1.2.3/8\"", "begin with 0"],
    ),
    (
        "vip = \"255.255.255.255/32\"",
        &["`vip` is \"255.255.255.255/32\"", "broadcast"],
    ),
    (
        "vip = \"vip.example/24\"",
        &["`vip` is \"vip.example/24\"", "\"10.0.0.100/24\""],
    ),
    (
        "run_dir = \"run\"",
        &["`run_dir` is \"run\"", "begins with /"],
    ),
    ("run_dir = \"/a\\u0000b\"", &["`run_dir` is ", "NUL"]),
    ("carp = 5", &["`carp` is 5", "expected a table", "[carp]"]),
    ("carp.vhid = 0", &["`carp.vhid` is 0", "1 to 255"]),
    ("carp.vhid = 256", &["`carp.vhid` is 256", "1 to 255"]),
    (
        "carp.vhid = 99999999999999999999999",
        &["`carp.vhid` is 99999999999999999999999", "255"],
    ),
    ("carp.vhid = 1.5", &["`carp.vhid` is 1.5", "1 to 255"]),
    (
        "carp.vhid = 2026-01-01",
        &["`carp.vhid` is the date 2026-01-01", "1 to 255"],
    ),
    (
        "carp.password_file = \"carp.secret\"",
        &[
            "`carp.password_file` is \"carp.secret\"",
            "beginning with /",
        ],
    ),
    ("carp.advbase = 256", &["`carp.advbase` is 256", "0 to 255"]),
    (
        "carp.advskew = 255",
        &["`carp.advskew` is 255", "0 to 254", "leaving master"],
    ),
    (
        "carp.advbase = 0",
        &["`carp.advbase` is 0 and `carp.advskew` is 0", "1 to 254"],
    ),
    ("carp.deadratio = 0", &["`carp.deadratio` is 0", "1 to 255"]),
    (
        "carp.preempt = \"yes\"",
        &["`carp.preempt` is \"yes\"", "true or false"],
    ),
    (
        "carp.neutral = 1",
        &["`carp.neutral` is 1", "true or false"],
    ),
    (
        "carp.ignore_link_state = 0",
        &["`carp.ignore_link_state` is 0", "true or false"],
    ),
    (
        "carp.broadcast = []",
        &["`carp.broadcast` is an array", "true or false"],
    ),
    (
        "carp.multicast_group = \"10.0.0.1\"",
        &[
            "`carp.multicast_group` is \"10.0.0.1\"",
            "multicast address",
            "broadcast = true",
        ],
    ),
    (
        "carp.multicast_group = \"224.0.18\"",
        &["`carp.multicast_group` is \"224.0.18\"", "224.0.0.18"],
    ),
    (
        "carp.peers = \"10.0.0.2\"",
        &["`carp.peers` is \"10.0.0.2\"", "an array"],
    ),
    (
        "carp.peers = [\"10.0.0.2\", \"node3\"]",
        &["`carp.peers[1]` is \"node3\"", "address of another node"],
    ),
    (
        "carp.peers = [\"224.0.0.1\"]",
        &["`carp.peers[0]` is \"224.0.0.1\"", "multicast"],
    ),
    (
        "carp.peers = [\"10.0.0.2\", \"10.0.0.2\"]",
        &["`carp.peers` lists 10.0.0.2 twice"],
    ),
    (
        "source = \"10.0.0.1\"\ncarp.peers = [\"10.0.0.1\"]",
        &[
            "`carp.peers` lists 10.0.0.1",
            "is `source`",
            "only the other nodes",
        ],
    ),
    (
        "carp.trailing_bytes = \"drop\"",
        &[
            "`carp.trailing_bytes` is \"drop\"",
            "\"reject\" or \"accept\"",
        ],
    ),
    (
        "carp.repeated_counter = true",
        &[
            "`carp.repeated_counter` is true",
            "\"accept\" or \"reject\"",
        ],
    ),
    (
        "hooks.up = \"vip-up\"",
        &["`hooks.up` is \"vip-up\"", "beginning with /"],
    ),
    (
        "hooks.down = \"\"",
        &["`hooks.down` is \"\"", "beginning with /"],
    ),
    ("hooks.xparam = 5", &["`hooks.xparam` is 5", "a text"]),
    (
        "hooks.timeout_ms = 99",
        &["`hooks.timeout_ms` is 99", "100 to 3600000"],
    ),
    (
        "hooks.timeout_ms = 3_600_001",
        &["`hooks.timeout_ms` is 3600001", "100 to 3600000"],
    ),
    (
        "xdp.mode = \"skb\"",
        &["`xdp.mode` is \"skb\"", "\"generic\""],
    ),
    (
        "scheduling.realtime = \"fifo\"",
        &["`scheduling.realtime` is \"fifo\"", "true or false"],
    ),
    (
        "watchdog = \"/dev/watchdog\"",
        &["`watchdog` is \"/dev/watchdog\"", "written as [watchdog]"],
    ),
    (
        "watchdog.timeout_s = 10",
        &["`watchdog.device` is missing", "\"/dev/watchdog\""],
    ),
    (
        "watchdog.device = \"watchdog0\"",
        &["`watchdog.device` is \"watchdog0\"", "path of a watchdog"],
    ),
    (
        "watchdog.device = \"/dev/watchdog\"\nwatchdog.timeout_s = 0",
        &["`watchdog.timeout_s` is 0", "seconds from 1 to 600"],
    ),
    (
        "watchdog.device = \"/dev/watchdog\"\nwatchdog.timeout_s = 601",
        &["`watchdog.timeout_s` is 601", "seconds from 1 to 600"],
    ),
    (
        "watchdog.device = \"/dev/watchdog\"\nwatchdog.timeout_s = 0.5",
        &["`watchdog.timeout_s` is 0.5", "seconds from 1 to 600"],
    ),
    (
        "watchdog.device = \"/dev/watchdog\"\nwatchdog.required = \"automatic\"",
        &["`watchdog.required` is \"automatic\"", "true or false"],
    ),
    (
        "watchdog.device = \"/dev/watchdog\"\nwatchdog.timeout = 5",
        &["unknown key `watchdog.timeout`", "`watchdog.timeout_s`"],
    ),
    (
        "interfaces = \"eth0\"",
        &["unknown key `interfaces`", "did you mean `interface`?"],
    ),
    (
        "carp.vhdi = 1",
        &["unknown key `carp.vhdi`", "did you mean `carp.vhid`?"],
    ),
    (
        "carp.multicast-group = \"224.0.0.18\"",
        &[
            "unknown key `carp.multicast-group`",
            "did you mean `carp.multicast_group`?",
        ],
    ),
    (
        "advskew = 5",
        &["unknown key `advskew`", "did you mean `carp.advskew`?"],
    ),
    (
        "upscript = \"/bin/up\"",
        &["unknown key `upscript`", "did you mean `hooks.up`?"],
    ),
    (
        "carp.password = \"pw\"",
        &[
            "unknown key `carp.password`",
            "did you mean `carp.password_file`?",
        ],
    ),
    (
        "hooks.onfail = 1",
        &[
            "unknown key `hooks.onfail`",
            "the keys here are up, down, xparam",
        ],
    ),
    (
        "quorum.voters = 1",
        &["unknown key `quorum`", "mode = \"quorum\"", "[cluster]"],
    ),
    (
        "moosefs.master_confg = 1",
        &[
            "unknown key `moosefs.master_confg`",
            "did you mean `moosefs.master_config`?",
        ],
    ),
    (
        "moosefs.master_config = \"mfsmaster.cfg\"",
        &[
            "`moosefs.master_config` is \"mfsmaster.cfg\"",
            "beginning with /",
        ],
    ),
    (
        "moosefs.start_timeout_ms = 5",
        &["`moosefs.start_timeout_ms` is 5", "from 100 to 3600000"],
    ),
    (
        "moosefs.archive_keep = 0",
        &["`moosefs.archive_keep` is 0", "from 1 to 10000"],
    ),
    (
        "moosefs.services = 5",
        &["`moosefs.services` is 5", "[[moosefs.services]]"],
    ),
    (
        "moosefs.services = [{ name = \"cgi\" }]",
        &["`moosefs.services.start` is missing", "absolute path"],
    ),
    (
        "moosefs.services = [{ name = \"cgi\", start = [\"mfscgiserv\"] }]",
        &["`moosefs.services.start` is an array", "beginning with /"],
    ),
    (
        "moosefs.services = [{ name = \"cgi\", start = [\"/usr/sbin/mfscgiserv\"], user = 1 }]",
        &["unknown key `moosefs.services.user`", "name, start, stop"],
    ),
];

#[test]
fn each_mistake_is_named_with_its_key_its_value_and_what_is_right() {
    for (changes, pieces) in REFUSED {
        let replaces_table = changes.starts_with("carp = ");
        let text = if replaces_table {
            format!("interface = \"eth0\"\nvip = \"10.0.0.100/24\"\n{changes}\n")
        } else {
            with(changes)
        };
        let found = problems(&text);
        if !replaces_table {
            assert_eq!(
                found.len(),
                1,
                "{changes}: one mistake, one problem: {found:?}"
            );
        }
        for piece in *pieces {
            assert!(
                found.iter().any(|problem| problem.text.contains(piece)),
                "{changes}: nothing says {piece:?}: {found:?}"
            );
        }
        let missing = found
            .iter()
            .all(|problem| problem.text.contains("is missing"));
        assert!(
            missing || found.iter().any(|problem| problem.position.is_some()),
            "{changes}: no position: {found:?}"
        );
    }
    assert!(REFUSED.len() >= 25, "the table shrank to {}", REFUSED.len());
}

/// Values at the edges, which must be let through.
const ACCEPTED: &[&str] = &[
    "instance = \"12345678901234567890123456789012\"",
    "interface = \"fifteen-bytes-x\"",
    "interface = \"eth0.5\"",
    "vlan = 4094",
    "vip = \"10.0.0.0/31\"",
    "vip = \"10.0.0.255/32\"",
    "vip = \"10.0.0.255/16\"",
    "vip = \"169.254.1.1/16\"",
    "carp.vhid = 0xff",
    "carp.advbase = 255",
    "carp.advbase = 0\ncarp.advskew = 1",
    "carp.advskew = 254",
    "carp.deadratio = 255",
    "carp.peers = []",
    "carp.broadcast = true\ncarp.multicast_group = \"10.0.0.255\"",
    "hooks.xparam = \"\"",
    "hooks.timeout_ms = 3600000",
];

#[test]
fn values_at_the_edges_are_accepted() {
    for changes in ACCEPTED {
        if let Err(error) = parse(&with(changes)) {
            panic!("{changes}: {error}");
        }
    }
}

#[test]
fn all_problems_come_at_once_in_the_order_of_the_file() {
    let text = r#"interface = "eth 0"
vip = "10.0.0.100"
quorum = 1
[carp]
vhid = 0
vhdi = 1
advskew = 300
"#;
    let error = parse(text).unwrap_err();
    let shown = error.to_string();
    let lines: Vec<&str> = shown.lines().collect();
    let starts = [
        "test.toml:1:13: `interface` is \"eth 0\"",
        "test.toml:2:7: `vip` is \"10.0.0.100\"",
        "test.toml:3:1: unknown key `quorum`",
        "test.toml:5:8: `carp.vhid` is 0",
        "test.toml:6:1: unknown key `carp.vhdi`",
        "test.toml:7:11: `carp.advskew` is 300",
        "test.toml: `carp.password_file` is missing",
    ];
    assert_eq!(lines.len(), starts.len(), "{shown}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(
            line.starts_with(start),
            "{line:?} does not start with {start:?}"
        );
    }
}

#[test]
fn preempt_does_not_go_with_metadata() {
    let preempt = with("carp.preempt = true");
    assert!(parse(&preempt).unwrap().carp.preempt);
    let found = problems(&format!("{preempt}[moosefs]\n"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].text.contains("`carp.preempt` is true"),
        "{found:?}"
    );
}

#[test]
fn at_most_sixteen_peers() {
    let list = |count: u8| {
        let peers: Vec<String> = (1..=count)
            .map(|last| format!("\"10.0.1.{last}\""))
            .collect();
        with(&format!("carp.peers = [{}]", peers.join(", ")))
    };
    assert_eq!(parse(&list(16)).unwrap().carp.peers.len(), 16);
    let found = problems(&list(17));
    assert!(
        found[0].text.contains("17 elements: at most 16"),
        "{found:?}"
    );
}

#[test]
fn a_run_dir_whose_socket_cannot_be_bound_is_refused() {
    // "/" + directory + "/default.sock"
    let run_dir = |length: usize| with(&format!("run_dir = \"/{}\"", "d".repeat(length)));
    assert!(parse(&run_dir(107 - 14)).is_ok());
    let found = problems(&run_dir(107 - 13));
    assert!(found[0].text.contains("108 bytes long"), "{found:?}");
}

#[test]
fn an_xparam_is_bounded() {
    assert!(parse(&with(&format!("hooks.xparam = \"{}\"", "x".repeat(4096)))).is_ok());
    let found = problems(&with(&format!("hooks.xparam = \"{}\"", "x".repeat(4097))));
    assert!(found[0].text.contains("at most 4096 bytes"), "{found:?}");
    assert!(
        found[0].text.len() < 200,
        "the message repeats the whole value: {found:?}"
    );
}

#[test]
fn broken_toml_is_reported_with_its_line() {
    for (text, line) in [
        ("interface = \n", 1),
        ("interface = \"eth0\nvip = 1\n", 1),
        ("interface = \"eth0\"\n[carp\nvhid = 1\n", 2),
        ("interface = \"a\"\ninterface = \"b\"\n", 2),
        ("a = 1\nb = 'x\n", 2),
    ] {
        let found = problems(text);
        assert!(found[0].text.starts_with("TOML: "), "{text:?}: {found:?}");
        assert_eq!(
            found[0].position.map(|(at, _)| at),
            Some(line),
            "{text:?}: {found:?}"
        );
    }
}

#[test]
fn the_tables_of_keys_and_of_reads_agree() {
    // Every listed key is known to the reader: none of them may be reported as unknown.
    for (section, keys) in KEYS {
        for key in keys {
            let path = if section.is_empty() {
                (*key).to_owned()
            } else {
                format!("{section}.{key}")
            };
            if section.is_empty() && KEYS.iter().any(|(name, _)| name == key) {
                continue;
            }
            if let Err(error) = parse(&with(&format!("{path} = \"?\""))) {
                assert!(
                    !error.to_string().contains("unknown key"),
                    "{path}: {error}"
                );
            }
        }
    }
    for (_, meant) in UCARP_NAMES {
        let (section, key) = meant.rsplit_once('.').unwrap_or(("", meant));
        let (_, keys) = KEYS.iter().find(|(name, _)| *name == section).unwrap();
        assert!(keys.contains(&key), "{meant}");
    }
}

#[test]
fn files_that_cannot_be_read_say_so() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("absent.toml");
    let error = Configuration::load(&missing).unwrap_err();
    assert!(matches!(error, ConfigError::Read { .. }), "{error:?}");
    assert!(error.to_string().contains("absent.toml"), "{error}");

    let large = directory.path().join("large.toml");
    std::fs::write(&large, vec![b'#'; 64 * 1024 + 1]).unwrap();
    let error = Configuration::load(&large).unwrap_err();
    assert!(matches!(error, ConfigError::TooLarge { .. }), "{error:?}");

    let latin1 = directory.path().join("latin1.toml");
    std::fs::write(&latin1, b"interface = \"eth0\"\n# f\xfcr\n").unwrap();
    let error = Configuration::load(&latin1).unwrap_err();
    assert!(
        error.to_string().contains("latin1.toml:2:4: not UTF-8"),
        "{error}"
    );

    let good = directory.path().join("good.toml");
    std::fs::write(&good, MINIMAL).unwrap();
    assert_eq!(
        candidate(Configuration::load(&good).unwrap()),
        parse(MINIMAL).unwrap()
    );
}

#[test]
fn the_packaged_example_parses() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/mfs-ha.toml");
    let config = candidate(Configuration::load(&path).unwrap_or_else(|error| panic!("{error}")));
    assert_eq!(config.interface, "eth0");
    assert_eq!(config.carp.advbase, 1);
}

#[test]
fn the_packaged_example_shows_every_key_with_its_default() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/mfs-ha.toml");
    let text = std::fs::read_to_string(path).unwrap();
    // Switched on, the commented-out settings must be valid too and change nothing but themselves.
    let all: String = text
        .lines()
        .map(|line| match line.strip_prefix("#") {
            Some(setting)
                if setting.starts_with('[')
                    || (!setting.starts_with(' ') && setting.contains(" = ")) =>
            {
                format!("{setting}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let config = parse(&all).unwrap_or_else(|error| panic!("{error}\n{all}"));
    let defaults = parse(MINIMAL).unwrap();
    assert_eq!(config.carp.deadratio, defaults.carp.deadratio);
    assert_eq!(config.carp.trailing_bytes, defaults.carp.trailing_bytes);
    assert_eq!(config.carp.repeated_counter, defaults.carp.repeated_counter);
    assert_eq!(config.carp.multicast_group, defaults.carp.multicast_group);
    assert_eq!(config.hooks.timeout_ms, defaults.hooks.timeout_ms);
    assert_eq!(config.run_dir, defaults.run_dir);
    assert_eq!(config.instance, defaults.instance);
    assert_eq!(config.xdp, defaults.xdp);
    assert_eq!(config.scheduling, defaults.scheduling);
    let device_alone = parse(&with("watchdog.device = \"/dev/watchdog\"")).unwrap();
    assert_eq!(config.watchdog, device_alone.watchdog);
    let moosefs = MooseFs {
        services: Vec::new(),
        ..config.moosefs.unwrap()
    };
    let without_keys = parse(&format!("{MINIMAL}[moosefs]\n")).unwrap();
    assert_eq!(Some(moosefs), without_keys.moosefs);
    for key in KEYS.iter().flat_map(|(_, keys)| *keys) {
        assert!(
            all.lines().any(|line| {
                line.starts_with(&format!("{key} = "))
                    || line == format!("[{key}]")
                    || line == format!("[[moosefs.{key}]]")
                    || line == format!("[[cluster.{key}]]")
            }),
            "the example does not show `{key}`"
        );
    }
}
