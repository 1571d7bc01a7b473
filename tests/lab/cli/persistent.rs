//! The lab that stays between commands: `up`, `down`, `status`, `exec`.
//!
//! What exists is found by name, so that `down` also removes a lab that was built only half or lost its state file.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mfs_ha_lab::VIP;
use mfs_ha_lab::judge::prober::{PROBE_INTERVAL, Prober};
use mfs_ha_lab::net::addresses::holds;
use mfs_ha_lab::net::netns::{Namespace, processes_where, remove_all, remove_tree};
use mfs_ha_lab::net::topology::{Node, Shape, Topology};
use mfs_ha_lab::requirements::require_root;
use mfs_ha_lab::software::mfsha::{configuration_path, status_of};
use mfs_ha_lab::software::moosefs::Mode;
use mfs_ha_lab::software::ucarp::{UcarpState, state_in_log};
use mfs_ha_lab::software::{Daemon, Software, moosefs, write_file};
use mfs_ha_lab::wait::{end_waits_on_signals, observe_for, wait_until};
use nix::sys::signal::{Signal, kill};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::persistent_moosefs;

const PREFIX: &str = "mfs-ha-lab";
const DIRECTORY: &str = "/run/mfs-ha-lab";
const LOCK: &str = "/run/mfs-ha-lab.lock";
/// Three ucarps need up to eight seconds to agree.
const SETTLE: Duration = Duration::from_secs(20);
/// How long `status` listens for owners.
const LISTEN: Duration = Duration::from_millis(300);

/// What is to be up.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    nodes: usize,
    software: Software,
    /// How they decide who serves, where they are in charge of MooseFS, with chunkservers and a client beside them.
    moosefs: Option<Mode>,
}

impl Plan {
    /// Nodes with MooseFS.
    pub(crate) fn moosefs(mode: Mode) -> Self {
        Self {
            nodes: if mode == Mode::Witness { 2 } else { 3 },
            software: Software::MfsHa,
            moosefs: Some(mode),
        }
    }

    /// Nothing but a VIP.
    pub(crate) fn plain(nodes: usize, software: Software) -> Self {
        Self {
            nodes,
            software,
            moosefs: None,
        }
    }

    fn shape(self) -> Shape {
        self.moosefs
            .map_or_else(|| Shape::from(self.nodes), Mode::shape)
    }

    fn name(self) -> &'static str {
        match self.moosefs {
            Some(Mode::Quorum) => "mfs-ha with MooseFS, three candidates",
            Some(Mode::Witness) => "mfs-ha with MooseFS, two candidates and a witness",
            Some(Mode::Carp) => "mfs-ha with MooseFS, no majority",
            None => self.software.name(),
        }
    }
}

/// What `up` leaves for the other commands.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    plan: Plan,
    /// The process of the client's mount.
    mount: Option<i32>,
}

pub(crate) fn up(plan: Plan) -> Result<ExitCode> {
    require_root()?;
    plan.software.check_installed()?;
    if plan.moosefs.is_some() {
        moosefs::check_installed()?;
    }
    let _lock = lock()?;
    if let Some(state) = read_state()? {
        println!(
            "the lab is already up: {} on {} nodes (`cargo xtask lab status` shows it)",
            state.plan.name(),
            state.plan.nodes
        );
        return Ok(ExitCode::SUCCESS);
    }
    // Without a state file whatever has our name is half a lab.
    remove_all(&format!("{PREFIX}-"))?;
    remove_tree(Path::new(DIRECTORY))?;
    end_waits_on_signals()?;
    if let Err(error) = build(plan) {
        let logs = collect_logs();
        down_locked().context("remove the half-built lab")?;
        return Err(error.context(logs));
    }
    status(false)
}

fn build(plan: Plan) -> Result<()> {
    fs::DirBuilder::new()
        .mode(0o700)
        .create(DIRECTORY)
        .with_context(|| format!("make {DIRECTORY}"))?;
    let topology = Topology::persistent(PREFIX, Path::new(DIRECTORY), plan.shape())?;
    let mut daemons = Vec::new();
    let mut mount = None;
    if let Some(mode) = plan.moosefs {
        mount = Some(persistent_moosefs::build(&topology, mode)?);
    } else {
        for node in topology.nodes() {
            daemons.push(Daemon::start(&topology, node.index, plan.software, true)?);
        }
    }
    wait_until("exactly one node to answer for the VIP", SETTLE, || {
        for daemon in &mut daemons {
            daemon.process().check_running()?;
        }
        Ok((owners(&topology)?.len() == 1).then_some(()))
    })?;
    let state = serde_json::to_string(&State { plan, mount }).context("write the state")?;
    write_file(&state_path(), 0o600, &state)
}

pub(crate) fn down() -> Result<ExitCode> {
    require_root()?;
    let _lock = lock()?;
    down_locked()?;
    println!("the lab is down");
    Ok(ExitCode::SUCCESS)
}

fn down_locked() -> Result<()> {
    // A daemon whose namespace was unnamed by hand is still known by the log that it writes to.
    let writers = processes_where(|process| {
        fs::read_link(process.join("fd/1")).is_ok_and(|output| output.starts_with(DIRECTORY))
    })?;
    for pid in writers {
        // It may have ended meanwhile.
        kill(pid, Signal::SIGKILL).ok();
    }
    remove_all(&format!("{PREFIX}-"))?;
    remove_tree(Path::new(DIRECTORY))
}

pub(crate) fn status(as_json: bool) -> Result<ExitCode> {
    require_root()?;
    let Some(state) = read_state()? else {
        println!(
            "{}",
            if as_json {
                "{\"up\":false}"
            } else {
                "the lab is not up; `cargo xtask lab up` starts it"
            }
        );
        return Ok(ExitCode::FAILURE);
    };
    let plan = state.plan;
    let topology = Topology::attach(PREFIX, Path::new(DIRECTORY), plan.shape())?;
    for namespace in topology.nodes().iter().map(|node| &node.namespace) {
        if !namespace.exists() {
            bail!(
                "the lab is damaged: {} is gone; `cargo xtask lab down` removes the rest",
                namespace.name()
            );
        }
    }
    let owners = owners(&topology)?;
    let nodes: Vec<Value> = topology
        .nodes()
        .iter()
        .map(|node| {
            let mut found = describe(node, plan.software)?;
            if plan.moosefs.is_some() {
                let moosefs = persistent_moosefs::describe_node(&topology, node.index)?;
                found["moosefs"] = moosefs;
            }
            Ok(found)
        })
        .collect::<Result<_>>()?;
    let hosts = state
        .mount
        .map(|mount| persistent_moosefs::describe_hosts(&topology, mount))
        .transpose()?;
    let document = json!({
        "up": true,
        "software": plan.name(),
        "directory": DIRECTORY,
        "vip": VIP.to_string(),
        "answering": owners,
        "nodes": nodes,
        "hosts": hosts,
    });
    if as_json {
        println!("{document:#}");
    } else {
        print_table(&document);
        if plan.moosefs.is_some() {
            persistent_moosefs::print_tables(&document["nodes"], &document["hosts"]);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Who answers for the VIP, asked from the observer.
fn owners(topology: &Topology) -> Result<Vec<String>> {
    let prober = Prober::start(topology.observer(), PROBE_INTERVAL)?;
    observe_for(LISTEN)?;
    let seen = prober.finish()?;
    let mut owners: Vec<String> = seen
        .answers
        .iter()
        .map(|answer| match topology.node_of(answer.mac) {
            Some(node) => format!("n{}", node.index),
            None => answer.mac.to_string(),
        })
        .collect();
    owners.sort();
    owners.dedup();
    Ok(owners)
}

fn describe(node: &Node, software: Software) -> Result<Value> {
    let pids: Vec<i32> = node
        .namespace
        .pids()?
        .into_iter()
        .map(nix::unistd::Pid::as_raw)
        .collect();
    let says = if pids.is_empty() {
        "dead".to_owned()
    } else {
        claimed_state(node.index, software)
    };
    Ok(json!({
        "node": format!("n{}", node.index),
        "address": node.address.to_string(),
        "pids": pids,
        "says": says,
        "vip": holds(&node.namespace, VIP)?,
    }))
}

/// What a node's daemon says of itself, or why it cannot be known.
fn claimed_state(node: usize, software: Software) -> String {
    let directory = Path::new(DIRECTORY);
    match software {
        Software::MfsHa => match status_of(&configuration_path(directory, node)) {
            Ok(status) => status
                .pointer("/state")
                .and_then(Value::as_str)
                .unwrap_or("?")
                .to_owned(),
            Err(error) => format!("unknown ({error:#})"),
        },
        Software::Ucarp => {
            let log = fs::read_to_string(directory.join(format!("n{node}.ucarp.log")));
            match log.ok().as_deref().and_then(state_in_log) {
                Some(UcarpState::Master) => "master".to_owned(),
                Some(UcarpState::Backup) => "backup".to_owned(),
                None => "unknown".to_owned(),
            }
        }
        // keepalived has nothing to ask; the VIP column tells.
        Software::Keepalived => "-".to_owned(),
    }
}

fn print_table(document: &Value) {
    let text = |value: &Value, key: &str| {
        value
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    println!(
        "{} on {PREFIX}, logs and configurations in {DIRECTORY}",
        text(document, "software")
    );
    println!(
        "{:<5}{:<12}{:<18}{:<10}VIP",
        "node", "address", "pids", "says"
    );
    for node in document
        .get("nodes")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let pids: Vec<String> = node
            .get("pids")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(Value::to_string)
            .collect();
        let vip = node.get("vip").and_then(Value::as_bool) == Some(true);
        println!(
            "{:<5}{:<12}{:<18}{:<10}{}",
            text(node, "node"),
            text(node, "address"),
            pids.join(" "),
            text(node, "says"),
            if vip { "yes" } else { "-" }
        );
    }
    let owners: Vec<&str> = document
        .get("answering")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let owners = if owners.is_empty() {
        "nobody".to_owned()
    } else {
        owners.join(", ")
    };
    println!("answering ARP for {VIP}: {owners}");
}

pub(crate) fn exec(node: &str, command: &[String]) -> Result<ExitCode> {
    require_root()?;
    let Some(state) = read_state()? else {
        bail!("the lab is not up; `cargo xtask lab up` starts it");
    };
    let topology = Topology::attach(PREFIX, Path::new(DIRECTORY), state.plan.shape())?;
    let known: Vec<String> = (1..=state.plan.nodes)
        .map(|index| format!("n{index}"))
        .chain(topology.hosts().iter().map(|host| host.name.to_owned()))
        .chain(["ob".to_owned(), "sw".to_owned()])
        .collect();
    if !known.iter().any(|name| name == node) {
        bail!("no node {node}; there are {}", known.join(", "));
    }
    let namespace = Namespace::existing(&format!("{PREFIX}-{node}"));
    let mut words = match state.mount {
        Some(mount) if node == moosefs::CLIENT => persistent_moosefs::enter_mount(mount),
        _ => Vec::new(),
    };
    words.extend_from_slice(command);
    let Some((program, arguments)) = words.split_first() else {
        bail!("no command given");
    };
    let error = namespace.command(program).args(arguments).exec();
    Err(error).context("start nsenter")
}

fn state_path() -> std::path::PathBuf {
    Path::new(DIRECTORY).join("state.json")
}

fn read_state() -> Result<Option<State>> {
    match fs::read_to_string(state_path()) {
        Ok(text) => serde_json::from_str(&text).map(Some).with_context(|| {
            format!(
                "{} is damaged; `cargo xtask lab down` removes the lab",
                state_path().display()
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("read {}", state_path().display())),
    }
}

/// The ends of all logs, for the message about a lab that would not start.
fn collect_logs() -> String {
    let mut text = "the lab did not start".to_owned();
    for entry in fs::read_dir(DIRECTORY).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let log = fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines
            .get(lines.len().saturating_sub(5)..)
            .unwrap_or_default();
        text.push_str(&format!(
            "\n--- {}\n{}\n---",
            path.display(),
            end.join("\n")
        ));
    }
    text
}

/// Keeps two commands from building and removing at the same time.
fn lock() -> Result<File> {
    let file = File::create(LOCK).with_context(|| format!("open {LOCK}"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            bail!("another lab command is at work ({LOCK} is locked)")
        }
        Err(fs::TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {LOCK}")),
    }
}
