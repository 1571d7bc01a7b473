//! What can be done to a running daemon from its own machine: signals, and a control socket that is misused.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mfs_ha_lab::net::topology::Topology;
use mfs_ha_lab::scenario::Arena;
use mfs_ha_lab::serial;
use mfs_ha_lab::software::mfsha::{MfsHa, configure, set_key};
use mfs_ha_lab::wait::observe_for;
use nix::sys::signal::Signal;

use super::bench::{
    INTERVAL, NOT_PERMITTED, OK, SETTLE, UNREACHABLE, as_stranger, command, complains,
    configure_alone, end, never_silent, nothing_left, options, script, text, wait_log,
};

/// The control socket takes so many connections at a time, each for so long.
const CONNECTIONS_MAX: usize = 8;
const CONNECTION_LIMIT: Duration = Duration::from_secs(2);

/// What ends a daemon: in good order, whatever comes on top.
const ENDS: &[&[Signal]] = &[
    &[Signal::SIGTERM, Signal::SIGTERM],
    &[Signal::SIGINT, Signal::SIGTERM, Signal::SIGINT],
    &[Signal::SIGHUP],
    &[Signal::SIGQUIT],
];

#[test]
fn signals_show_the_state_or_end_in_good_order() {
    let _serial = serial();
    let arena = Arena::new(ENDS.len()).unwrap();
    let topology = arena.topology();
    // Long enough for the second signal to find the daemon still at it.
    let hook = script(topology, "slow", "#!/bin/sh\nsleep 0.3\n");
    let mut daemons: Vec<MfsHa> = (1..=ENDS.len())
        .map(|node| {
            let configuration = configure_alone(topology, node, &options());
            set_key(&configuration, "hooks.down", hook.display().to_string()).unwrap();
            MfsHa::start_configured(topology, node, &configuration).unwrap()
        })
        .collect();
    for daemon in &mut daemons {
        daemon.wait_state("master", SETTLE).unwrap();
    }
    let begin = Instant::now();
    let observed = &mut daemons[0];
    observed.process().signal(Signal::SIGUSR1).unwrap();
    wait_log(observed, r#"state state="master" phase="active""#);
    observed.process().signal(Signal::SIGUSR2).unwrap();
    wait_log(
        observed,
        "SIGUSR2 makes ucarp step down; mfs-ha ignores it: use SIGTERM",
    );
    assert_eq!(observed.state().unwrap(), "master");
    observe_for(5 * INTERVAL).unwrap();
    never_silent(
        arena.sniffer(),
        topology.node(1).unwrap(),
        begin,
        Instant::now(),
    );

    for ((signals, daemon), node) in ENDS.iter().zip(&mut daemons).zip(1..) {
        let asked = Instant::now();
        for signal in *signals {
            daemon.process().signal(*signal).unwrap();
            wait_log(daemon, &format!("leaving signal={:?}", signals[0].as_str()));
        }
        let status = daemon.process().wait(SETTLE).unwrap();
        assert_eq!(status.code(), Some(OK), "{signals:?}: {status}");
        nothing_left(topology, node);
        let source = topology.node(node).unwrap().address;
        let adverts = arena.sniffer().adverts_since(asked).unwrap();
        let last = adverts.iter().rfind(|seen| seen.advert.source == source);
        assert!(last.unwrap().advert.is_bow_out(), "{signals:?}: {last:?}");
    }
}

fn socket(topology: &Topology, node: usize) -> PathBuf {
    let name = format!("{}.sock", topology.instance(node));
    topology.directory().join("run").join(name)
}

#[test]
fn idle_connections_delay_neither_answers_nor_adverts_for_long() {
    let _serial = serial();
    let arena = Arena::new(1).unwrap();
    let topology = arena.topology();
    let node = topology.node(1).unwrap();
    let configuration = configure_alone(topology, 1, &options());
    let mut daemon = MfsHa::start_configured(topology, 1, &configuration).unwrap();
    daemon.wait_state("master", SETTLE).unwrap();

    // So many that a second turn of them has to be waited for.
    let begin = Instant::now();
    let idle: Vec<UnixStream> = (0..2 * CONNECTIONS_MAX)
        .map(|_| UnixStream::connect(socket(topology, 1)).unwrap())
        .collect();
    let status = daemon.wait_reachable(SETTLE).unwrap();
    let answered = begin.elapsed();
    println!(
        "answered {answered:?} after {} idle connections",
        idle.len()
    );
    assert_eq!(text(&status, "/state"), "master");
    assert!(answered > CONNECTION_LIMIT, "the connections did not count");
    assert!(answered < 3 * CONNECTION_LIMIT);
    never_silent(arena.sniffer(), node, begin, Instant::now());
    drop(idle);

    // They do not keep the daemon from ending either.
    let idle: Vec<UnixStream> = (0..2 * CONNECTIONS_MAX)
        .map(|_| UnixStream::connect(socket(topology, 1)).unwrap())
        .collect();
    let asked = Instant::now();
    end(topology, 1, &mut daemon);
    assert!(asked.elapsed() < CONNECTION_LIMIT, "{:?}", asked.elapsed());
    drop(idle);
}

/// Sends bytes and returns all that is answered until the daemon hangs up.
fn exchange(socket: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(SETTLE)).unwrap();
    // The daemon hangs up in the midst of what is too long, so neither direction needs to end well.
    stream.write_all(request).ok();
    stream.shutdown(Shutdown::Write).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    String::from_utf8(answer).unwrap()
}

#[test]
fn requests_that_make_no_sense_are_answered() {
    let _serial = serial();
    let topology = Topology::new(1).unwrap();
    let configuration = configure_alone(&topology, 1, &options());
    let mut daemon = MfsHa::start_configured(&topology, 1, &configuration).unwrap();
    daemon.wait_state("backup", SETTLE).unwrap();
    let socket = socket(&topology, 1);
    let known = r#"send {\"command\":\"status\"}"#;
    let long = vec![b'x'; 1 << 20];
    for (request, says) in [
        (&b"garbage\n"[..], "garbage"),
        (b"\n", "EOF"),
        (b"", "EOF"),
        (b"{\"command\":\"reboot\"}\n", "unknown variant `reboot`"),
        (
            b"{\"command\":\"status\",\"as\":\"root\"}\n",
            "does not know the request",
        ),
        (b"\xff\xfe\x00\n", "does not know the request"),
        (&long, "longer than 4096 bytes"),
    ] {
        let answer = exchange(&socket, request);
        assert!(answer.starts_with(r#"{"error":""#), "{answer:?}");
        for piece in [says, known] {
            assert!(answer.contains(piece), "{piece:?} is not in {answer:?}");
        }
        assert!(answer.len() < 1000, "{answer:?}");
    }
    // No answer is waited for by somebody who is gone, and the daemon goes on.
    drop(UnixStream::connect(&socket).unwrap());
    let answer = exchange(&socket, b"{\"command\":\"status\"}\n");
    assert!(answer.starts_with(r#"{"status":{"#), "{answer:?}");
    daemon.status().unwrap();
    end(&topology, 1, &mut daemon);
}

#[test]
fn a_daemon_that_cannot_be_asked_is_told_apart() {
    let _serial = serial();
    let topology = Topology::new(1).unwrap();
    let node = topology.node(1).unwrap();
    let configuration = configure(&topology, 1, &options()).unwrap();
    let name = configuration.to_str().unwrap();
    let status = ["status", "-c", name];
    let says = ["no daemon answers at ", "No such file or directory"];
    complains(&command(node, &status), UNREACHABLE, &says);
    complains(
        &command(node, &["status", "--instance", "lab-never-started"]),
        UNREACHABLE,
        &["no daemon answers at /run/mfs-ha/lab-never-started.sock"],
    );

    let mut daemon = MfsHa::start_configured(&topology, 1, &configuration).unwrap();
    daemon.wait_reachable(SETTLE).unwrap();
    let refused = as_stranger(&topology, 1, &status);
    let says = ["only the user that the daemon runs as", "Permission denied"];
    complains(&refused, NOT_PERMITTED, &says);

    daemon.process().signal(Signal::SIGSTOP).unwrap();
    let says = ["the daemon at ", "does not answer"];
    complains(&command(node, &status), UNREACHABLE, &says);
    daemon.process().signal(Signal::SIGCONT).unwrap();
    daemon.wait_reachable(SETTLE).unwrap();

    daemon.kill().unwrap();
    let says = ["no daemon answers at ", "Connection refused"];
    complains(&command(node, &status), UNREACHABLE, &says);
    let mut next = MfsHa::start_configured(&topology, 1, &configuration).unwrap();
    next.wait_reachable(SETTLE).unwrap();
    end(&topology, 1, &mut next);
}
