//! Hooks that misbehave: the heartbeat, the status and the end of the daemon do not depend on them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mfs_ha_lab::net::topology::Topology;
use mfs_ha_lab::scenario::Arena;
use mfs_ha_lab::serial;
use mfs_ha_lab::software::mfsha::{MfsHa, set_key};
use mfs_ha_lab::wait::{observe_for, wait_until};

use super::bench::{
    SETTLE, configure_alone, end, never_silent, nothing_left, options, script, text,
};

/// What the hanging hook may take; the others end by themselves.
const LIMIT: Duration = Duration::from_millis(1500);
/// How long adverts are watched while the hooks misbehave.
const WATCHED: Duration = Duration::from_millis(2500);

/// A name, what the up hook does, and what the status says of it.
const HOOKS: &[(&str, &str, &str)] = &[
    (
        "hangs",
        "trap '' TERM; while :; do sleep 1; done",
        "signal: 9 (SIGKILL)",
    ),
    ("missing", "", "cannot start: No such file or directory"),
    ("not-executable", "", "cannot start: Permission denied"),
    ("fails", "echo a reason >&2; exit 7", "exit status: 7"),
    (
        "prints",
        "yes 'a line of a hook that prints' | head -c 10000000",
        "exit status: 0",
    ),
    ("leaves-a-child", "sleep 1000 & echo left", "exit status: 0"),
];

/// The program of a hook: a script, or what is there instead.
fn program(topology: &Topology, name: &str, body: &str) -> PathBuf {
    let path = topology.directory().join(name);
    match name {
        "missing" => path,
        "not-executable" => {
            std::fs::write(&path, "#!/bin/sh\n").unwrap();
            path
        }
        _ => script(topology, name, &format!("#!/bin/sh\n{body}\n")),
    }
}

fn start(topology: &Topology, node: usize, hook: &Path) -> MfsHa {
    let configuration = configure_alone(topology, node, &options());
    set_key(&configuration, "hooks.up", hook.display().to_string()).unwrap();
    let limit = i64::try_from(LIMIT.as_millis()).unwrap();
    set_key(&configuration, "hooks.timeout_ms", limit).unwrap();
    MfsHa::start_configured(topology, node, &configuration).unwrap()
}

/// A node for each kind, each the master of a VIP of its own.
#[test]
fn no_hook_delays_adverts_or_the_end() {
    let _serial = serial();
    let arena = Arena::new(HOOKS.len()).unwrap();
    let topology = arena.topology();
    let mut daemons: Vec<MfsHa> = HOOKS
        .iter()
        .zip(1..)
        .map(|((name, body, _), node)| start(topology, node, &program(topology, name, body)))
        .collect();
    for daemon in &mut daemons {
        daemon.wait_state("master", SETTLE).unwrap();
    }
    let begin = Instant::now();
    observe_for(WATCHED).unwrap();
    let end_of_watch = Instant::now();
    for node in topology.nodes() {
        never_silent(arena.sniffer(), node, begin, end_of_watch);
    }
    for ((name, _, exit), daemon) in HOOKS.iter().zip(&mut daemons) {
        let status = daemon
            .wait_status(
                &format!("the end of the hook that {name}"),
                SETTLE,
                |status| text(status, "/hooks/last/name") == "up",
            )
            .unwrap();
        let ended = text(&status, "/hooks/last/exit");
        assert!(ended.contains(exit), "{name}: {ended:?}");
        assert_eq!(text(&status, "/hooks/running"), "", "{name}");
    }
    printed_within_limits(&mut daemons);

    for ((name, _, _), node) in HOOKS.iter().zip(1..) {
        let daemon = &mut daemons[node - 1];
        if *name == "leaves-a-child" {
            // What a hook leaves behind on purpose goes on.
            daemon.terminate(SETTLE).unwrap();
            let namespace = &topology.node(node).unwrap().namespace;
            assert_eq!(namespace.pids().unwrap().len(), 1);
            namespace.kill_all().unwrap();
            nothing_left(topology, node);
        } else {
            end(topology, node, daemon);
        }
    }
}

/// Ten megabytes do not become ten megabytes of log, and what is left out is said.
fn printed_within_limits(daemons: &mut [MfsHa]) {
    let printing = HOOKS.iter().position(|(name, _, _)| *name == "prints");
    let log = daemons[printing.unwrap()].process().log_text().unwrap();
    assert!(log.contains("a line of a hook that prints"));
    assert!(log.contains("the hook printed too many lines"), "{log}");
    assert!(log.len() < 100_000, "{} bytes of log", log.len());
    let failing = HOOKS.iter().position(|(name, _, _)| *name == "fails");
    let log = daemons[failing.unwrap()].process().log_text().unwrap();
    assert!(log.contains("a reason"), "{log}");
    assert!(log.contains("the hook has failed"), "{log}");
}

/// Both hooks hang when the daemon is told to end: the VIP goes at once, the daemon when their time is over.
#[test]
fn the_end_waits_for_hooks_as_long_as_documented() {
    let _serial = serial();
    let arena = Arena::new(1).unwrap();
    let topology = arena.topology();
    let namespace = &topology.node(1).unwrap().namespace;
    let hook = program(topology, HOOKS[0].0, HOOKS[0].1);
    let mut daemon = {
        let configuration = configure_alone(topology, 1, &options());
        for key in ["hooks.up", "hooks.down"] {
            set_key(&configuration, key, hook.display().to_string()).unwrap();
        }
        set_key(&configuration, "carp.neutral", true).unwrap();
        set_key(&configuration, "hooks.timeout_ms", 3000).unwrap();
        MfsHa::start_configured(topology, 1, &configuration).unwrap()
    };
    daemon
        .wait_status("the up hook to run", SETTLE, |status| {
            text(status, "/hooks/running") == "up"
        })
        .unwrap();
    let vip = super::bench::own_vip(1);
    assert!(mfs_ha_lab::net::addresses::holds(namespace, vip).unwrap());
    let asked = Instant::now();
    daemon
        .process()
        .signal(nix::sys::signal::Signal::SIGTERM)
        .unwrap();
    wait_until("the VIP to go", SETTLE, || {
        Ok((!mfs_ha_lab::net::addresses::holds(namespace, vip)?).then_some(()))
    })
    .unwrap();
    let without_vip = asked.elapsed();
    let status = daemon.process().wait(SETTLE).unwrap();
    println!(
        "VIP gone {without_vip:?} and daemon {:?} after SIGTERM",
        asked.elapsed()
    );
    assert!(status.success(), "{status}");
    assert!(without_vip < Duration::from_millis(500));
    // hooks.timeout_ms for both hooks together, and a second for what SIGKILL needs.
    assert!(asked.elapsed() < Duration::from_secs(4));
    nothing_left(topology, 1);
}
