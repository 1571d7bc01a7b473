//! Files that the operator writes: the configuration and the password.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;

use mfs_ha_lab::net::topology::{Node, Topology};
use mfs_ha_lab::serial;
use mfs_ha_lab::software::mfsha::{configure, set_key};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::bench::{
    FAILURE, NOT_PERMITTED, OK, USAGE, as_stranger, check, command, complains, finds, nothing_left,
    options, run,
};

/// A file without a mistake. The password file is put in front of line 9's value by [`write`].
const GOOD: [&str; 28] = [
    r#"instance = "n1""#,
    r#"interface = "eth0""#,
    r"vlan = 0",
    r#"source = "10.77.0.1""#,
    r#"vip = "10.77.0.100/24""#,
    r#"run_dir = "/run/mfs-ha-lab-never-made""#,
    r"[carp]",
    r"vhid = 77",
    r#"password_file = "/nonexistent/carp.secret""#,
    r"advbase = 1",
    r"advskew = 0",
    r"deadratio = 3",
    r"preempt = false",
    r"neutral = false",
    r"ignore_link_state = false",
    r#"multicast_group = "224.0.0.18""#,
    r"broadcast = false",
    r#"peers = ["10.77.0.2"]"#,
    r#"trailing_bytes = "reject""#,
    r#"repeated_counter = "accept""#,
    r"[hooks]",
    r#"up = "/bin/true""#,
    r#"down = "/bin/true""#,
    r"timeout_ms = 1000",
    r"[xdp]",
    r#"mode = "auto""#,
    r"[scheduling]",
    r"realtime = true",
];

/// Line, what stands there, column of the blame, and what the message says: key and value, what is right.
type Mistake = (usize, &'static str, usize, [&'static str; 2]);

#[rustfmt::skip]
const MISTAKES: &[Mistake] = &[
    (1, r#"instance = "N1""#, 12, [r#"`instance` is "N1""#, "a-z, 0-9 and -"]),
    (1, r#"instance = """#, 12, [r#"`instance` is """#, "1 to 32 of the characters"]),
    (2, r#"interface = "eth 0""#, 13, [r#"`interface` is "eth 0""#, "no blanks"]),
    (2, r#"interface = "sixteen-bytes-xx""#, 13, [r#"`interface` is "sixteen-bytes-xx""#, "1 to 15 bytes"]),
    (2, r"interface = 2", 13, ["`interface` is 2", r#"such as "eth0""#]),
    (3, r"vlan = 4095", 8, ["`vlan` is 4095", "from 1 to 4094"]),
    (3, r"vlan = -1", 8, ["`vlan` is -1", "0 for untagged"]),
    (4, r#"source = "10.77.0""#, 10, [r#"`source` is "10.77.0""#, "an IPv4 address of this host"]),
    (4, r#"source = "127.0.0.1""#, 10, [r#"`source` is "127.0.0.1""#, "a host's own address is needed"]),
    (4, r#"source = "10.77.0.100""#, 10, [r#"`source` is "10.77.0.100", which is the VIP"#, "must be the node's own"]),
    (4, r#"source = "fe80::1""#, 10, [r#"`source` is "fe80::1""#, "an IPv4 address"]),
    (5, r#"vip = "10.77.0.100""#, 7, [r#"`vip` is "10.77.0.100""#, r#"write "10.77.0.100/24""#]),
    (5, r#"vip = "10.77.0.100/33""#, 7, [r#"`vip` is "10.77.0.100/33""#, "from 1 to 32"]),
    (5, r#"vip = "10.77.0.0/24""#, 7, [r#"`vip` is "10.77.0.0/24""#, "network address"]),
    (5, r#"vip = "224.0.0.18/24""#, 7, [r#"`vip` is "224.0.0.18/24""#, "multicast"]),
    (6, r#"run_dir = "run""#, 11, [r#"`run_dir` is "run""#, "begins with /"]),
    (8, r"vhid = 0", 8, ["`carp.vhid` is 0", "from 1 to 255"]),
    (8, r"vhid = 256", 8, ["`carp.vhid` is 256", "from 1 to 255"]),
    (8, r#"vhid = "ten""#, 8, [r#"`carp.vhid` is "ten""#, "a number from 1 to 255"]),
    (9, r#"password_file = "secret""#, 17, [r#"`carp.password_file` is "secret""#, "beginning with /"]),
    (10, r"advbase = 256", 11, ["`carp.advbase` is 256", "from 0 to 255"]),
    (10, r"advbase = 0", 11, ["`carp.advbase` is 0 and `carp.advskew` is 0", "set `advskew` to 1 to 254"]),
    (11, r"advskew = 255", 11, ["`carp.advskew` is 255", "from 0 to 254"]),
    (12, r"deadratio = 0", 13, ["`carp.deadratio` is 0", "from 1 to 255"]),
    (13, r#"preempt = "yes""#, 11, [r#"`carp.preempt` is "yes""#, "true or false"]),
    (16, r#"multicast_group = "10.77.0.255""#, 19, [r#"`carp.multicast_group` is "10.77.0.255""#, "broadcast = true"]),
    (17, r"broadcast = 1", 13, ["`carp.broadcast` is 1", "true or false"]),
    (18, r#"peers = "10.77.0.2""#, 9, [r#"`carp.peers` is "10.77.0.2""#, "expected an array"]),
    (18, r#"peers = ["10.77.0.2", "n3"]"#, 23, [r#"`carp.peers[1]` is "n3""#, "address of another node"]),
    (18, r#"peers = ["10.77.0.1"]"#, 10, ["`carp.peers` lists 10.77.0.1, which is `source`", "only the other nodes"]),
    (19, r#"trailing_bytes = "drop""#, 18, [r#"`carp.trailing_bytes` is "drop""#, r#""reject" or "accept""#]),
    (20, r"repeated_counter = true", 20, ["`carp.repeated_counter` is true", r#""accept" or "reject""#]),
    (22, r#"up = "vip-up""#, 6, [r#"`hooks.up` is "vip-up""#, "beginning with /"]),
    (24, r"timeout_ms = 99", 14, ["`hooks.timeout_ms` is 99", "from 100 to 3600000"]),
    (26, r#"mode = "skb""#, 8, [r#"`xdp.mode` is "skb""#, r#""auto", "native" or "generic""#]),
    (28, r"realtime = 40", 12, ["`scheduling.realtime` is 40", "true or false"]),
    (3, r"interfaces = 1", 1, ["unknown key `interfaces`", "did you mean `interface`?"]),
    (10, r"addbase = 1", 1, ["unknown key `carp.addbase`", "did you mean `carp.advbase`?"]),
    (3, r#"upscript = "/bin/up""#, 1, ["unknown key `upscript`", "did you mean `hooks.up`?"]),
    (8, r"vhid = ", 8, ["TOML: ", ""]),
    (2, "interface = \"eth0\"\ninterface = \"eth1\"", 1, ["TOML: ", "duplicate"]),
];

/// Keys that cannot be left out: the line of each, and what the message says.
const MISSING: &[(usize, [&str; 2])] = &[
    (2, ["`interface` is missing", "such as \"eth0\""]),
    (5, ["`vip` is missing", "such as \"10.0.0.100/24\""]),
    (8, ["`carp.vhid` is missing", "from 1 to 255"]),
    (
        9,
        [
            "`carp.password_file` is missing",
            "holds the shared password",
        ],
    ),
];

/// The good file with one line exchanged.
fn spoiled(line: usize, content: &str) -> String {
    let mut lines = GOOD;
    lines[line - 1] = content;
    lines.join("\n") + "\n"
}

/// Both commands refuse the file, in the same words, and say nothing else about it.
fn both_refuse(node: &Node, file: &Path, place: &str, pieces: &[&str]) {
    let message = format!("{}{place}: ", file.display());
    let ran = run(node, &[], file);
    let mut all = vec![message.as_str()];
    all.extend(pieces);
    complains(&ran, USAGE, &all);
    assert_eq!(ran.stderr.lines().count(), 1, "{ran:?}");
    assert!(ran.stderr.starts_with("mfs-ha: "), "{ran:?}");
    assert_eq!(ran.stdout, "");
    let mut finding = vec!["fail configuration: "];
    finding.extend(all);
    finds(&check(node, &[], file), USAGE, &finding);
}

#[test]
fn every_mistake_in_the_file_is_named_by_both_commands() {
    let _serial = serial();
    let topology = Topology::new(1).unwrap();
    let node = topology.node(1).unwrap();
    let file = topology.directory().join("mistakes.toml");
    fs::write(&file, GOOD.join("\n")).unwrap();
    let good = check(node, &[], &file);
    finds(&good, FAILURE, &["ok   configuration: ", " is valid"]);

    for (line, content, column, pieces) in MISTAKES {
        fs::write(&file, spoiled(*line, content)).unwrap();
        // A line that stands twice is blamed where it stands again.
        let line = line + content.matches('\n').count();
        both_refuse(node, &file, &format!(":{line}:{column}"), pieces);
    }
    for (line, pieces) in MISSING {
        fs::write(&file, spoiled(*line, "")).unwrap();
        both_refuse(node, &file, "", pieces);
    }
    let count = MISTAKES.len() + MISSING.len();
    println!("{count} mistakes");
    assert!(count >= 25);
    nothing_left(&topology, 1);
}

#[test]
fn all_mistakes_come_at_once_and_odd_files_are_named() {
    let _serial = serial();
    let topology = Topology::new(1).unwrap();
    let node = topology.node(1).unwrap();
    let path = |name: &str| topology.directory().join(name);
    fs::write(
        path("three.toml"),
        "vip = \"10.77.0.100\"\nquorum = 1\n[carp]\nvhid = 0\n",
    )
    .unwrap();
    let three = run(node, &[], &path("three.toml"));
    let wanted = [
        "three.toml:1:7: `vip` is ",
        "three.toml:2:1: unknown key `quorum`",
        "three.toml:4:8: `carp.vhid` is 0",
        "three.toml: `interface` is missing",
        "three.toml: `carp.password_file` is missing",
    ];
    complains(&three, USAGE, &wanted);
    assert_eq!(three.stderr.lines().count(), wanted.len(), "{three:?}");

    fs::create_dir(path("directory.toml")).unwrap();
    fs::write(path("large.toml"), vec![b'#'; 1 << 20]).unwrap();
    fs::write(path("latin1.toml"), b"interface = \"eth0\"\n# f\xfcr\n").unwrap();
    for (name, says) in [
        ("absent.toml", "No such file or directory"),
        ("directory.toml", "Is a directory"),
        ("large.toml", "larger than 65536 bytes"),
        ("latin1.toml", "latin1.toml:2:4: not UTF-8"),
    ] {
        let file = path(name);
        complains(&run(node, &[], &file), USAGE, &[name, says]);
        finds(&check(node, &[], &file), USAGE, &[name, says]);
    }
    for (words, says) in [
        (
            &["status", "--instance", "No Name"][..],
            "1 to 32 of a-z, 0-9 and -",
        ),
        (
            &["status", "--socket", "/x", "--instance", "y"],
            "cannot be used with",
        ),
        (&["run", "--daemonize"], "unexpected argument"),
        (&["start"], "unrecognized subcommand"),
        (&[], "Usage:"),
        (&["decode", "x.pcap", "--vhid", "0"], "0 is not in 1..=255"),
    ] {
        complains(&command(node, words), USAGE, &[says]);
    }
    let help = command(node, &["--help"]);
    assert_eq!(help.code, Some(OK), "{help:?}");
    assert!(help.stdout.contains("Exit codes: 0 done"), "{help:?}");
    nothing_left(&topology, 1);
}

/// Puts something that cannot be the password at a path.
type Spoil = fn(&Path);

#[rustfmt::skip]
const PASSWORDS: &[(&str, Spoil, &[&str])] = &[
    ("missing", |_| {}, &["cannot read the password file", "hold 1 to 19 bytes", "No such file"]),
    ("readable", |path| { write(path, b"secret\n", 0o644); }, &["has mode 0644, so others can use it", "chmod 0600 "]),
    ("group", |path| { write(path, b"secret\n", 0o620); }, &["has mode 0620", "chmod 0600 "]),
    ("empty", |path| { write(path, b"", 0o600); }, &["it is empty", "write 1 to 19 bytes into it"]),
    ("newline", |path| { write(path, b"\n", 0o600); }, &["it is empty", "write 1 to 19 bytes into it"]),
    ("twenty", |path| { write(path, b"12345678901234567890\n", 0o600); }, &["longer than 19 bytes", "all that CARP can use"]),
    ("nul", |path| { write(path, b"sec\0ret\n", 0o600); }, &["contains a NUL byte"]),
    ("directory", |path| { fs::create_dir(path).unwrap(); }, &["not a regular file", "put 1 to 19 bytes into one"]),
    ("pipe", |path| { mkfifo(path, Mode::S_IRUSR).unwrap(); }, &["not a regular file"]),
    ("stranger", |path| { write(path, b"secret\n", 0o600); chown(path, Some(4242), None).unwrap(); }, &["belongs to user 4242", "chown 0 "]),
];

fn write(path: &Path, content: &[u8], mode: u32) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_password_file_that_cannot_be_trusted_is_refused() {
    let _serial = serial();
    let topology = Topology::new(1).unwrap();
    let node = topology.node(1).unwrap();
    let configuration = configure(&topology, 1, &options()).unwrap();
    for (name, spoil, pieces) in PASSWORDS {
        let password = topology.directory().join(format!("password-{name}"));
        spoil(&password);
        set_key(
            &configuration,
            "carp.password_file",
            password.display().to_string(),
        )
        .unwrap();
        let mut all = vec![password.to_str().unwrap()];
        all.extend(*pieces);
        let ran = run(node, &[], &configuration);
        complains(&ran, USAGE, &all);
        assert!(!ran.stderr.contains("secret\n"), "{ran:?}");
        let mut finding = vec!["fail password: ", "do: put 1 to 19 bytes into "];
        finding.extend(all);
        finds(&check(node, &[], &configuration), FAILURE, &finding);
    }
    nothing_left(&topology, 1);
}

/// What a root can lack, for setpriv, and the capability that is asked for.
const UNPRIVILEGED: &[(&[&str], &[&str])] = &[
    (
        &["setpriv", "--bounding-set=-net_admin"],
        &["CAP_NET_ADMIN"],
    ),
    (&["setpriv", "--bounding-set=-net_raw"], &["CAP_NET_RAW"]),
    (
        &["setpriv", "--bounding-set=-bpf,-sys_admin"],
        &["CAP_BPF (the XDP program and its maps)"],
    ),
    (
        &["setpriv", "--bounding-set=-perfmon,-sys_admin"],
        &["CAP_PERFMON"],
    ),
];

#[test]
fn missing_privileges_are_named() {
    let _serial = serial();
    let topology = Topology::new(1).unwrap();
    let node = topology.node(1).unwrap();
    let configuration = configure(&topology, 1, &options()).unwrap();
    let all = ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_PERFMON", "CAP_BPF"];
    let words = |command| [command, "-c", configuration.to_str().unwrap()];
    let ran = as_stranger(&topology, 1, &words("run"));
    complains(&ran, NOT_PERMITTED, &all);
    let found = as_stranger(&topology, 1, &words("check"));
    let mut finding = vec!["fail privileges: ", "do: run this as root"];
    finding.extend(all);
    finds(&found, FAILURE, &finding);
    for (wrapper, missing) in UNPRIVILEGED {
        let mut pieces = vec!["missing privileges: ", "run it as root"];
        pieces.extend(*missing);
        complains(&run(node, wrapper, &configuration), NOT_PERMITTED, &pieces);
        let mut finding = vec!["fail privileges: ", "do: run this as root"];
        finding.extend(*missing);
        finds(&check(node, wrapper, &configuration), FAILURE, &finding);
    }
    // What packaging/mfs-ha.service grants is enough.
    let granted = "--bounding-set=-all,+net_admin,+net_raw,+bpf,+perfmon,+sys_nice,+ipc_lock";
    let service = ["timeout", "--preserve-status", "1", "setpriv", granted];
    let ran = run(node, &service, &configuration);
    complains(&ran, OK, &["started", "leaving signal=\"SIGTERM\""]);
    assert!(!ran.stderr.contains("WARN"), "{ran:?}");
    // All capabilities, but only over a user namespace, as the root of a container has them.
    let container = ["unshare", "--user", "--map-root-user"];
    complains(
        &run(node, &container, &configuration),
        NOT_PERMITTED,
        &["Operation not permitted", "the host's root"],
    );
    nothing_left(&topology, 1);
}
