//! What the scenarios share: configurations to be spoiled, commands to be judged, and the search for remains.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mfs_ha_lab::PREFIX_LENGTH;
use mfs_ha_lab::judge::wire::Sniffer;
use mfs_ha_lab::net::addresses::holds;
use mfs_ha_lab::net::topology::{Node, Topology};
use mfs_ha_lab::net::xdp;
use mfs_ha_lab::requirements::mfs_ha_binary;
use mfs_ha_lab::software::mfsha::{
    MfsHa, MfsHaOptions, Outcome, configure, invoke, invoke_program, set_key,
};
use mfs_ha_lab::wait::wait_until;
use serde_json::Value;

/// Longer than any wait that succeeds.
pub(crate) const SETTLE: Duration = Duration::from_secs(15);
/// advbase 0 and advskew 20.
pub(crate) const INTERVAL: Duration = Duration::from_micros(78_125);
/// deadratio: a backup takes over after so many silent intervals.
pub(crate) const PATIENCE: Duration = Duration::from_micros(3 * 78_125);

pub(crate) const OK: i32 = 0;
pub(crate) const FAILURE: i32 = 1;
pub(crate) const USAGE: i32 = 2;
pub(crate) const NOT_PERMITTED: i32 = 3;
pub(crate) const IN_USE: i32 = 4;
pub(crate) const UNREACHABLE: i32 = 5;

const PINS: &str = "/sys/fs/bpf/mfs-ha";

/// The timing that all nodes have unless a scenario needs a better and a worse one.
pub(crate) fn options() -> MfsHaOptions {
    MfsHaOptions::with_timing(0, 20)
}

/// A VIP that only this node competes for, so that it becomes master whatever the others do.
pub(crate) fn own_vip(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, 100 + u8::try_from(node).unwrap())
}

/// Writes the configuration of a node that competes with nobody.
pub(crate) fn configure_alone(topology: &Topology, node: usize, options: &MfsHaOptions) -> PathBuf {
    let path = configure(topology, node, options).unwrap();
    let vip = format!("{}/{PREFIX_LENGTH}", own_vip(node));
    set_key(&path, "vip", vip).unwrap();
    set_key(&path, "carp.vhid", i64::try_from(100 + node).unwrap()).unwrap();
    path
}

/// A copy of a configuration, to be spoiled, under another file name.
pub(crate) fn copy(configuration: &Path, name: &str) -> PathBuf {
    let path = configuration.with_file_name(format!("{name}.toml"));
    fs::copy(configuration, &path).unwrap();
    path
}

/// `run -c` to its end.
pub(crate) fn run(node: &Node, wrapper: &[&str], configuration: &Path) -> Outcome {
    let arguments = [
        OsStr::new("run"),
        OsStr::new("-c"),
        configuration.as_os_str(),
    ];
    invoke(&node.namespace, wrapper, arguments).unwrap()
}

/// `check -c` to its end.
pub(crate) fn check(node: &Node, wrapper: &[&str], configuration: &Path) -> Outcome {
    let arguments = [
        OsStr::new("check"),
        OsStr::new("-c"),
        configuration.as_os_str(),
    ];
    invoke(&node.namespace, wrapper, arguments).unwrap()
}

/// Any command with words of its own.
pub(crate) fn command(node: &Node, words: &[&str]) -> Outcome {
    let words: Vec<OsString> = words.iter().map(OsString::from).collect();
    invoke(&node.namespace, &[], words).unwrap()
}

/// setpriv's words for a user without any privilege.
const STRANGER: &[&str] = &[
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
];

/// A command as a user without privileges, given no more than the way to the lab's files.
pub(crate) fn as_stranger(topology: &Topology, node: usize, words: &[&str]) -> Outcome {
    // The daemon that is tested may lie where only root can look.
    let program = topology.directory().join("mfs-ha");
    if !program.exists() {
        fs::copy(mfs_ha_binary().unwrap(), &program).unwrap();
    }
    fs::set_permissions(topology.directory(), fs::Permissions::from_mode(0o755)).unwrap();
    let namespace = &topology.node(node).unwrap().namespace;
    invoke_program(&program, namespace, STRANGER, words).unwrap()
}

/// Checks how a command ended and that its complaint has all `pieces`.
#[track_caller]
pub(crate) fn complains(outcome: &Outcome, code: i32, pieces: &[&str]) {
    assert_eq!(outcome.code, Some(code), "{outcome:?}");
    for piece in pieces {
        assert!(
            outcome.stderr.contains(piece),
            "{piece:?} is not in {outcome:?}"
        );
    }
}

/// Checks that one line of `check` has all `pieces`; the hint below belongs to a line.
#[track_caller]
pub(crate) fn finds(outcome: &Outcome, code: i32, pieces: &[&str]) {
    assert_eq!(outcome.code, Some(code), "{outcome:?}");
    let findings = outcome.stdout.replace("\n     ", " ");
    assert!(
        findings
            .lines()
            .any(|line| pieces.iter().all(|piece| line.contains(piece))),
        "no finding has all of {pieces:?}: {}",
        outcome.stdout
    );
}

/// Checks that nothing of any instance of a node is left: they are all named after it.
#[track_caller]
pub(crate) fn nothing_left(topology: &Topology, node: usize) {
    let namespace = &topology.node(node).unwrap().namespace;
    let instance = topology.instance(node);
    let named_after_it = |directory: &Path| -> Vec<String> {
        let Ok(entries) = fs::read_dir(directory) else {
            return Vec::new();
        };
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with(&instance))
            .collect()
    };
    assert_eq!(named_after_it(Path::new(PINS)), [""; 0], "pins");
    let sockets: Vec<String> = named_after_it(&topology.directory().join("run"))
        .into_iter()
        .filter(|name| name.ends_with(".sock"))
        .collect();
    assert_eq!(sockets, [""; 0], "sockets");
    assert_eq!(xdp::attached(namespace).unwrap(), [], "XDP programs");
    assert_eq!(namespace.pids().unwrap(), [], "processes");
    for vip in [mfs_ha_lab::VIP, own_vip(node)] {
        assert!(!holds(namespace, vip).unwrap(), "{vip} is left");
    }
}

/// Ends a daemon in good order and checks that nothing is left.
#[track_caller]
pub(crate) fn end(topology: &Topology, node: usize, daemon: &mut MfsHa) {
    daemon.terminate(SETTLE).unwrap();
    nothing_left(topology, node);
}

/// Where the pins of a node's instance are.
pub(crate) fn pins(topology: &Topology, node: usize) -> PathBuf {
    Path::new(PINS).join(topology.instance(node))
}

/// Waits until the log of a daemon has `piece`.
#[track_caller]
pub(crate) fn wait_log(daemon: &mut MfsHa, piece: &str) {
    wait_until(&format!("{piece:?} in the log"), SETTLE, || {
        let log = daemon.process().log_text()?;
        Ok(log.contains(piece).then_some(()))
    })
    .unwrap();
}

/// A text of a status document; empty where it is null.
pub(crate) fn text<'s>(status: &'s Value, pointer: &str) -> &'s str {
    status
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The longest time without an advert of `source`, the ends of the span included.
pub(crate) fn longest_gap(
    sniffer: &Sniffer,
    source: Ipv4Addr,
    from: Instant,
    to: Instant,
) -> Duration {
    let adverts = sniffer.adverts_since(from).unwrap();
    let mut times: Vec<Instant> = adverts
        .iter()
        .filter(|seen| seen.advert.source == source && seen.at <= to)
        .map(|seen| seen.at)
        .collect();
    times.insert(0, from);
    times.push(to);
    times
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .max()
        .unwrap_or_default()
}

/// Checks that a master was never silent for as long as would make a backup take over.
#[track_caller]
pub(crate) fn never_silent(sniffer: &Sniffer, node: &Node, from: Instant, to: Instant) {
    let gap = longest_gap(sniffer, node.address, from, to);
    println!(
        "n{}: longest gap of {:?} is {gap:?}",
        node.index,
        to.saturating_duration_since(from)
    );
    assert!(gap < PATIENCE, "n{} was silent for {gap:?}", node.index);
}

/// Writes an executable script beside the configurations.
pub(crate) fn script(topology: &Topology, name: &str, content: &str) -> PathBuf {
    let path = topology.directory().join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}
