//! No failover without a failure: load, floods, forgeries and replays against three mfs-ha in quorum mode.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper of a test fails as the test does, with its line, and prints its figures"
)]

use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mfs_ha_lab::judge::cost::{Cost, Meter};
use mfs_ha_lab::judge::wire::Advert;
use mfs_ha_lab::net::flood::{Flood, datagram, overhear};
use mfs_ha_lab::net::netns::run;
use mfs_ha_lab::net::topology::{Shape, Traffic};
use mfs_ha_lab::scenario::{Arena, Dice, Finding};
use mfs_ha_lab::software::load::Load;
use mfs_ha_lab::software::mfsha::QuorumTiming;
use mfs_ha_lab::software::squad::Squad;
use mfs_ha_lab::trial::undisturbed;
use mfs_ha_lab::wait::observe_for;
use nix::unistd::Pid;

/// Who means no good.
const ATTACKER: &str = "x";
const SHAPE: Shape = Shape::with_hosts(3, &[ATTACKER]);
/// Coarser than usual: the judges shall not be the load.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);
/// Port of heartbeats.
const HEARTBEATS: u16 = 9429;
/// Ethernet, IPv4 and UDP headers before a heartbeat.
const BODY: usize = 42;
/// Where in a heartbeat the number of the sender's life is.
const LIFE: usize = BODY + 16;
/// Length of its tag, which is the last of it.
const TAG: usize = 16;
/// Different frames of a flood that is made up.
const VARIETY: usize = 2048;

fn is_long() -> bool {
    std::env::var_os("MFS_HA_LONG").is_some()
}

fn span() -> Duration {
    Duration::from_secs(if is_long() { 60 } else { 7 })
}

/// A settled segment with an attacker on it, whose frames do not reach the judge.
struct Scene {
    arena: Rc<Arena>,
    squad: Squad,
    pids: Vec<Pid>,
    dice: Dice,
}

/// What one noise did.
struct Result {
    finding: Finding,
    cost: Cost,
    is_quiet: bool,
}

impl Scene {
    fn new(timing: QuorumTiming, settings: &[(&str, bool)]) -> Self {
        let arena = Arena::with_probe_interval(SHAPE, PROBE_INTERVAL).unwrap();
        let mut squad = Squad::start_with(&arena, timing, settings).unwrap();
        let pids = squad.daemons().iter_mut();
        let pids = pids.map(|daemon| daemon.process().pid()).collect();
        let mut scene = Self {
            arena: Rc::new(arena),
            squad,
            pids,
            dice: Dice::from_environment().unwrap(),
        };
        scene.keep_from_judge();
        let idle = scene.measure("nothing", || observe_for(span() / 2).unwrap());
        assert_eq!(idle.finding.owners_max, 1);
        // A machine that is shared with others is late by itself, for longer than a lease of fast timing.
        assert!(timing == QuorumTiming::FAST || idle.finding.moves == 0);
        scene
    }

    fn keep_from_judge(&self) {
        let topology = self.arena.topology();
        topology.cut(&[(ATTACKER, "ob")], Traffic::All).unwrap();
    }

    /// Runs a noise, prints what it did and cost, and returns whether anything moved.
    fn measure(&mut self, what: &str, noise: impl FnOnce()) -> Result {
        self.squad.wait_settled(&self.arena).unwrap();
        let transitions = self.squad.transitions().unwrap();
        let meter = Meter::read(&self.pids).unwrap();
        let begin = Instant::now();
        noise();
        let end = Instant::now();
        let cost = Meter::read(&self.pids).unwrap().since(&meter);
        let finding = self.arena.judge(begin, end).unwrap();
        let owner = self.squad.wait_settled(&self.arena).unwrap();
        let is_quiet = self.squad.transitions().unwrap() == transitions;
        let status = self.squad.daemon(owner).unwrap().status().unwrap();
        let lease = &status["cluster"]["lease"];
        let timing = self.squad.timing();
        println!(
            "T {} ms, {what}, {:.0} s: {finding}; {}; least left of the lease {} ms; {cost}",
            timing.lease_ms,
            (end - begin).as_secs_f64(),
            if is_quiet {
                "no transition"
            } else {
                "TRANSITIONS"
            },
            lease["margin_min_ms"]
        );
        Result {
            finding,
            cost,
            is_quiet,
        }
    }

    fn flood(&mut self, what: &str, frames: Vec<Vec<u8>>) -> Result {
        let host = self.arena.topology().host(ATTACKER).unwrap();
        let namespace = host.namespace.clone();
        let before = self.counters();
        let mut sent = 0;
        let result = self.measure(what, || {
            let flood = Flood::start(&namespace, frames, span() * 2).unwrap();
            observe_for(span()).unwrap();
            sent = flood.end().unwrap();
        });
        let rate = sent / span().as_secs();
        let after = self.counters();
        let changed: Vec<String> = after
            .iter()
            .zip(&before)
            .filter(|((_, after), (_, before))| after - before > sent / 100)
            .map(|((name, after), (_, before))| format!("{name} {}", after - before))
            .collect();
        println!(
            "    {rate} frames/s sent; n1 to n3 counted: {}",
            changed.join(", ")
        );
        assert!(sent > 0);
        result
    }

    /// The counters of all nodes, added up.
    fn counters(&mut self) -> Vec<(String, u64)> {
        let mut sums: Vec<(String, u64)> = Vec::new();
        for daemon in self.squad.daemons() {
            let status = daemon.status().unwrap();
            for (name, value) in status["counters"].as_object().unwrap() {
                let value = value.as_u64().unwrap();
                match sums.iter_mut().find(|(known, _)| known == name) {
                    Some((_, sum)) => *sum += value,
                    None => sums.push((name.clone(), value)),
                }
            }
        }
        sums
    }

    fn overhear(&self, duration: Duration) -> Vec<Vec<u8>> {
        let frames = overhear(self.arena.topology(), ATTACKER, duration).unwrap();
        assert!(frames.iter().any(|frame| is_heartbeat(frame)));
        assert!(
            frames
                .iter()
                .any(|frame| Advert::from_frame(frame).is_some())
        );
        frames
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.dice.below(Duration::from_micros(256)).as_micros()).unwrap()
    }

    /// Protocol 112 with anything in it, which is what VRRP daemons took for three masters.
    fn garbage(&mut self) -> Vec<Vec<u8>> {
        let source = self.arena.topology().node(1).unwrap();
        let template = Advert::new(source.mac, source.address, 0, 0, 0).unwrap();
        let template = template.to_frame();
        (0..VARIETY)
            .map(|number| {
                let mut frame = template.clone();
                // Half of them keep the shape of an advert and have wrong fields, the others have no shape.
                let first = if number % 2 == 0 { 34 } else { 42 };
                for byte in frame.iter_mut().skip(first) {
                    *byte = self.byte();
                }
                // From any address of the segment's.
                frame[29] = self.byte();
                set_ip_sum(&mut frame);
                frame
            })
            .collect()
    }

    fn datagrams(&self) -> Vec<Vec<u8>> {
        let nodes = self.arena.topology().nodes();
        let pairs = nodes.iter().zip(nodes.iter().cycle().skip(1));
        pairs
            .map(|pair| datagram(pair, 9, &[0; 18]).unwrap())
            .collect()
    }

    /// Heartbeats of our members as they were, but newer and with tags that fit nothing.
    fn forged_heartbeats(&mut self, overheard: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let genuine = overheard.iter().filter(|frame| is_heartbeat(frame));
        let genuine: Vec<Vec<u8>> = genuine.cloned().collect();
        let made = genuine.into_iter().cycle().take(VARIETY);
        made.map(|mut frame| {
            frame[LIFE] = 1;
            let tag = frame.len() - TAG;
            for byte in &mut frame[tag..] {
                *byte = self.byte();
            }
            frame
        })
        .collect()
    }

    /// Adverts of our members: under a digest that fits nothing, or as they were but for the best of priorities and
    /// the trailer that would give them away, which a receiver only misses if it is told to.
    fn forged_adverts(&self, overheard: &[Vec<u8>], is_genuine: bool) -> Vec<Vec<u8>> {
        let nodes = self.arena.topology().nodes();
        let genuine: Vec<Advert> = overheard
            .iter()
            .filter_map(|frame| Advert::from_frame(frame))
            .collect();
        genuine
            .into_iter()
            .cycle()
            .zip(nodes.iter().cycle())
            .take(VARIETY)
            .map(|(mut advert, node)| {
                advert.source = node.address;
                advert.advskew = 0;
                if !is_genuine {
                    advert.digest[0] ^= 1;
                }
                advert.to_frame()
            })
            .collect()
    }
}

fn is_heartbeat(frame: &[u8]) -> bool {
    frame.get(23) == Some(&17) && frame.get(36..38) == Some(&HEARTBEATS.to_be_bytes())
}

fn set_ip_sum(frame: &mut [u8]) {
    frame[24..26].copy_from_slice(&[0, 0]);
    let sum = mfs_ha_lab::judge::wire::checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// Hogs, forks and context switches at nice -20, where a VRRP daemon lost its address 133 times, and a kernel that is
/// slow to answer.
fn hogs(scene: &mut Scene) -> Result {
    let arena = Rc::clone(&scene.arena);
    let pids = scene.pids.clone();
    scene.measure("hogs, forks, switches and new interfaces", || {
        let mut load = Load::start_with_churn(arena.topology(), span() * 4).unwrap();
        observe_for(span() / 2).unwrap();
        // What is not the heartbeat thread gets next to nothing, as on a machine with many more hogs.
        set_policy(&pids, "--idle");
        observe_for(span() / 2).unwrap();
        load.check_running().unwrap();
        load.end().unwrap();
        set_policy(&pids, "--other");
    })
}

/// Changes how the first thread of each process is scheduled, and no other.
fn set_policy(pids: &[Pid], policy: &str) {
    for pid in pids {
        let words = [policy, "--pid", "0", &pid.to_string()];
        run(Command::new("chrt").args(words)).unwrap();
    }
}

/// All floods, one after the other; returns what each did.
fn floods(scene: &mut Scene) -> Vec<(&'static str, Result)> {
    let mut results = Vec::new();
    let overheard = scene.overhear(span() / 2);
    println!("    {} frames overheard", overheard.len());
    let frames = scene.garbage();
    results.push(("garbage", scene.flood("garbage of protocol 112", frames)));
    let frames = scene.datagrams();
    results.push(("datagrams", scene.flood("small UDP packets", frames)));
    let frames = scene.forged_heartbeats(&overheard);
    results.push(("heartbeats", scene.flood("forged heartbeats", frames)));
    let frames = scene.forged_adverts(&overheard, false);
    results.push(("adverts", scene.flood("forged adverts", frames)));
    let frames = scene.forged_adverts(&overheard, true);
    results.push(("altered", scene.flood("altered adverts", frames)));
    results.push(("replay", scene.flood("replay of every frame", overheard)));
    results
}

fn assert_nothing_moved(name: &str, result: &Result) {
    assert_eq!(result.finding.owners_max, 1, "{name}");
    assert_eq!(result.finding.moves, 0, "{name}");
    assert!(result.is_quiet, "{name}");
}

#[test]
fn hogs_move_nothing_at_default_timing() {
    undisturbed(|| {
        let mut scene = Scene::new(QuorumTiming::DEFAULT, &[]);
        let result = hogs(&mut scene);
        assert_nothing_moved("hogs", &result);
    });
}

#[test]
fn floods_move_nothing_at_default_timing() {
    undisturbed(|| {
        let mut scene = Scene::new(QuorumTiming::DEFAULT, &[]);
        let begin = Instant::now();
        for (name, result) in floods(&mut scene) {
            assert_nothing_moved(name, &result);
        }
        let finding = scene.arena.judge(begin, Instant::now()).unwrap();
        assert_eq!((finding.owners_max, finding.moves), (1, 0));
    });
}

/// T is 60 ms, for machines that are never late: what moves is told, and there is never a second owner. Nodes that
/// require a signature of every advert are not kept busy by adverts without one.
#[test]
fn fast_timing_has_one_owner_all_the_same() {
    undisturbed(|| {
        let settings = [("carp.require_extension", true)];
        let mut scene = Scene::new(QuorumTiming::FAST, &settings);
        if is_long() {
            let result = hogs(&mut scene);
            assert_eq!(result.finding.owners_max, 1, "hogs");
            for (name, result) in floods(&mut scene) {
                assert_eq!(result.finding.owners_max, 1, "{name}");
            }
            return;
        }
        let overheard = scene.overhear(Duration::from_secs(2));
        let frames = scene.forged_heartbeats(&overheard);
        let result = scene.flood("forged heartbeats", frames);
        assert_eq!(result.finding.owners_max, 1);
        let frames = scene.forged_adverts(&overheard, true);
        let result = scene.flood("altered adverts", frames);
        assert_eq!(result.finding.owners_max, 1);
        assert!(result.cost.processes < 0.5, "{}", result.cost);
    });
}
