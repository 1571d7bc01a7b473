//! Two halves of a cluster that both go on writing: {master, standby} and {standby, two witnesses}. The first half
//! does so for as long as its lease lasts, and its standby with it. After the healing no directory may ever hold
//! changes of both histories, and what the first half has alone is kept and counted.
//!
//! A metalogger connects again by itself, and where the other history is the longer one it would go on with that as if
//! nothing had happened.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a helper of a test fails as the test does, with its line, and prints its figures"
)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use mfs_ha_lab::VIP;
use mfs_ha_lab::judge::histories::{Held, HistoryWatch, Parting, Sides, read_below};
use mfs_ha_lab::net::neighbours::known;
use mfs_ha_lab::net::packet::Mac;
use mfs_ha_lab::net::topology::{Shape, Traffic};
use mfs_ha_lab::oracle::client::ClientOptions;
use mfs_ha_lab::oracle::record::Role;
use mfs_ha_lab::serial;
use mfs_ha_lab::software::mfsha::{MfsHa, QuorumTiming, invoke, set_key};
use mfs_ha_lab::software::moosefs::cluster::{Cluster, SETTLE};
use mfs_ha_lab::software::moosefs::{CHUNKSERVERS, CLIENT, Mode};
use mfs_ha_lab::wait::{observe_for, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

const WITNESSES: [&str; 2] = ["w1", "w2"];
const SHAPE: Shape = Shape::with_hosts(
    3,
    &[
        CHUNKSERVERS[0],
        CHUNKSERVERS[1],
        CLIENT,
        WITNESSES[0],
        WITNESSES[1],
    ],
);
const NODES: [usize; 3] = [1, 2, 3];
/// A lease that outlasts the second after which a metalogger writes: its half has time to go on.
const TIMING: QuorumTiming = QuorumTiming {
    lease_ms: 1500,
    ..QuorumTiming::DEFAULT
};
/// From the end of a lease to the VIP gone, on a machine that others use as well.
const GIVE_WAY: Duration = Duration::from_millis(500);
/// A metalogger asks again once a second, and writes once a second.
const RECONNECTED: Duration = Duration::from_secs(4);
/// An owner announces itself every second; neighbours that only ask themselves need eight at least.
const ANNOUNCED: Duration = Duration::from_secs(5);
const OLD: Sides = Sides {
    old: true,
    new: false,
};
const NEW: Sides = Sides {
    old: false,
    new: true,
};

struct Scene {
    // Before the segment goes.
    _witnesses: [MfsHa; 2],
    cluster: Cluster,
}

/// The halves, and what they wrote.
struct Halves {
    old: usize,
    beside: usize,
    apart: usize,
    parting: Parting,
    /// From the cut until the master gave way.
    span: (Instant, Instant),
}

impl Scene {
    /// Everything runs, the client is at work. `prepare` sees the nodes before their daemons start.
    fn new(prepare: impl Fn(&Cluster, usize)) -> Self {
        let mut cluster = Cluster::on(Mode::Quorum, SHAPE).unwrap();
        for node in NODES {
            let lease = i64::try_from(TIMING.lease_ms).unwrap();
            set_key(&cluster.configuration(node), "cluster.lease_ms", lease).unwrap();
            prepare(&cluster, node);
        }
        let topology = cluster.arena().topology();
        let witnesses =
            WITNESSES.map(|name| MfsHa::start_witness(topology, name, TIMING, false).unwrap());
        cluster.start_all().unwrap();
        cluster.start_client(ClientOptions::default()).unwrap();
        Self {
            _witnesses: witnesses,
            cluster,
        }
    }

    fn data(&self, node: usize) -> PathBuf {
        self.cluster.files(node).unwrap().data.clone()
    }

    fn mac(&self, node: usize) -> Mac {
        self.cluster.node(node).unwrap().mac
    }

    fn held(&self, node: usize) -> Held {
        Held::read(&self.data(node)).unwrap()
    }

    /// Whose changes lie in the live directory of a node.
    fn live(&self, node: usize, parting: &Parting) -> Sides {
        parting.sides(&self.held(node))
    }

    /// Cuts the segment in two, where clients and chunkservers reach both halves, and waits until the half without
    /// the master has written more than the other one.
    fn part(&mut self) -> Halves {
        let old = self.cluster.wait_serving(SETTLE).unwrap();
        self.cluster
            .client()
            .unwrap()
            .wait_acked(10, SETTLE)
            .unwrap();
        let mut others = NODES.into_iter().filter(|node| *node != old);
        let (beside, apart) = (others.next().unwrap(), others.next().unwrap());
        let [first, second] = [old, beside].map(|node| format!("n{node}"));
        let third = format!("n{apart}");
        let pairs: Vec<(&str, &str)> = [&first, &second]
            .into_iter()
            .flat_map(|one| {
                let others = WITNESSES.into_iter().chain([third.as_str()]);
                others.flat_map(move |other| [(one.as_str(), other), (other, one.as_str())])
            })
            .collect();
        let cut = Instant::now();
        self.cluster
            .arena()
            .topology()
            .cut(&pairs, Traffic::All)
            .unwrap();
        let is_cut = Instant::now();
        let mac = self.mac(apart);
        wait_until("the other half to serve", SETTLE, || {
            let ports = self.cluster.ports();
            ports.look(|log| log.first_accept(cut, |granted| granted == mac))
        })
        .unwrap();
        let parting = wait_until("a longer history of the other half", SETTLE, || {
            let parting = Parting::between(&self.held(old), &self.held(apart));
            Ok(parting.filter(Parting::is_overtaken))
        })
        .unwrap();
        wait_until("the standby to have followed its master", SETTLE, || {
            Ok(self.live(beside, &parting).old.then_some(()))
        })
        .unwrap();
        let lost = self.cluster.arena().addresses().unwrap();
        let gave_way = lost.lost_by(old, cut).unwrap();
        println!(
            "n{old} wrote {} changes from {} on, with n{beside}, and gave way after {:?}",
            parting.old_changes(),
            parting.from,
            gave_way - cut
        );
        assert!(gave_way - is_cut <= Duration::from_millis(TIMING.lease_ms) + GIVE_WAY);
        Halves {
            old,
            beside,
            apart,
            parting,
            span: (cut, gave_way),
        }
    }

    fn heal(&self) {
        self.cluster.arena().topology().heal().unwrap();
    }

    /// Watches all live directories.
    fn watch(&self, parting: &Parting) -> HistoryWatch {
        HistoryWatch::start(NODES.map(|node| self.data(node)).to_vec(), parting.clone())
    }

    /// All is well again: everybody has the history of the half that had the majority; that of the other half
    /// lies aside, and is counted.
    fn assert_apart(&self, halves: &Halves, watch: HistoryWatch) {
        let parting = &halves.parting;
        wait_until("everybody to have the successor's history", SETTLE, || {
            let is_new = |node| self.live(node, parting) == NEW;
            Ok(NODES.into_iter().all(is_new).then_some(()))
        })
        .unwrap();
        let seen = watch.finish().unwrap();
        println!("{} looks at all directories", seen.looks);
        assert!(seen.looks > 10);
        assert_eq!(seen.mixed, [].into());
        for node in NODES {
            let mut kept = 0;
            for (directory, held) in read_below(&self.data(node)).unwrap() {
                let sides = parting.sides(&held);
                assert!(!(sides.old && sides.new), "{}", directory.display());
                kept = kept.max(parting.old_changes_in(&held));
            }
            if node == halves.apart {
                assert_eq!(kept, 0);
            } else {
                self.assert_counted(node, kept);
            }
            if node == halves.old {
                assert_eq!(kept, parting.old_changes());
            }
        }
    }

    /// The node says how many of its changes the cluster does not have.
    fn assert_counted(&self, node: usize, expected: usize) {
        let config = self.cluster.configuration(node).display().to_string();
        let namespace = &self.cluster.node(node).unwrap().namespace;
        let arguments = ["history", "--lost", "--json", "-c", &config];
        let outcome = invoke(namespace, &[], arguments).unwrap();
        assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
        let history: Value = serde_json::from_str(&outcome.stdout).unwrap();
        let archives = history["archives"].as_array().unwrap().iter();
        let lost: Vec<&Value> = archives
            .map(|archive| &archive["lost"])
            .filter(|lost| !lost.is_null() && lost["changes"] != 0)
            .collect();
        println!("n{node} lost {lost:?}");
        // One archive has changes that the cluster does not have.
        assert_eq!(lost.len(), 1, "{history}");
        assert_eq!(lost[0]["certainty"], "exact");
        assert_eq!(lost[0]["changes"], expected);
    }
}

#[test]
fn two_histories_never_meet() {
    let _serial = serial();
    let mut scene = Scene::new(|_, _| ());
    let halves = scene.part();
    let watch = scene.watch(&halves.parting);
    scene.heal();
    scene.cluster.wait_all_ready(SETTLE).unwrap();
    scene.assert_apart(&halves, watch);
    let (cut, gave_way) = halves.span;
    let arena = scene.cluster.arena();
    let finding = arena.judge(cut, Instant::now()).unwrap();
    println!("{finding}");
    assert_eq!((finding.owners_max, finding.moves), (1, 1));

    // What the two that came back have is worth a mastership.
    scene.cluster.kill_node(halves.apart, false).unwrap();
    let next = scene.cluster.wait_serving(SETTLE).unwrap();
    let client = scene.cluster.client().unwrap();
    client.wait_acked(10, SETTLE).unwrap();
    let done = client.history().unwrap().done(Role::Writer).iter();
    let bound = done
        .filter(|done| done.at >= cut && done.at <= gave_way)
        .count();
    let audit = client.audit().unwrap();
    let missing = audit.missing.len();
    println!(
        "n{next} goes on; of {} files {missing} are lost, of {bound} that n{} acknowledged at the end",
        audit.acked, halves.old
    );
    assert!(missing <= bound);
    assert_eq!(audit.wrong, Vec::<String>::new());
    assert_eq!(audit.unreadable, Vec::<String>::new());
}

/// The daemon of the standby is dead, its metalogger is not, when the other master can be heard.
fn heal_without_daemon(scene: &mut Scene, halves: &Halves) {
    let standby = scene.cluster.daemon(halves.beside).unwrap();
    standby.process().signal(Signal::SIGKILL).unwrap();
    standby.process().wait(SETTLE).unwrap();
    let metalogger = scene.cluster.metalogger_pid(halves.beside).unwrap();
    assert!(metalogger.is_some(), "it ended with its daemon");
    scene.heal();
    // It knew the old master's Ethernet address and did not hear of the takeover.
    let mac = scene.mac(halves.apart).to_string();
    let place = scene.cluster.node(halves.beside).unwrap();
    wait_until("the new owner's announcement", ANNOUNCED, || {
        let known = known(&place.namespace, VIP)?;
        Ok((known.as_ref() == Some(&mac)).then_some(()))
    })
    .unwrap();
}

/// What the kernel of a node has kept out by the barrier, as `bpftool` shows it.
fn kept_out(scene: &Scene, node: usize) -> u64 {
    let instance = scene.cluster.arena().topology().instance(node);
    let pin = format!("/sys/fs/bpf/mfs-ha/{instance}/stats");
    let namespace = &scene.cluster.node(node).unwrap().namespace;
    let arguments = ["-j", "map", "dump", "pinned", &pin];
    let dump = namespace.run("bpftool", &arguments).unwrap();
    let dump: Value = serde_json::from_str(&dump).unwrap();
    let of_cpu = |cpu: &Value| cpu["value"]["gate_barrier"].as_u64().unwrap();
    let values = dump[0]["formatted"]["values"].as_array().unwrap().iter();
    values.map(of_cpu).sum()
}

#[test]
fn a_metalogger_without_daemon_hears_no_other_master() {
    let _serial = serial();
    let mut scene = Scene::new(|_, _| ());
    let halves = scene.part();
    let watch = scene.watch(&halves.parting);
    let before = kept_out(&scene, halves.beside);
    heal_without_daemon(&mut scene, &halves);
    // Its old connection is given up after ten seconds.
    wait_until("the new master's answer to be kept out", SETTLE, || {
        Ok((kept_out(&scene, halves.beside) > before).then_some(()))
    })
    .unwrap();
    observe_for(RECONNECTED).unwrap();
    assert_eq!(scene.live(halves.beside, &halves.parting), OLD);
    scene.cluster.start_node(halves.beside).unwrap();
    scene.cluster.wait_all_ready(SETTLE).unwrap();
    scene.assert_apart(&halves, watch);
}

/// The judge is judged: without the gate, and with it the barrier, the metalogger goes on with the other history.
#[test]
fn without_a_barrier_two_histories_meet() {
    let _serial = serial();
    let mut scene = Scene::new(|cluster, node| {
        set_key(&cluster.configuration(node), "gate", "off").unwrap();
    });
    let halves = scene.part();
    heal_without_daemon(&mut scene, &halves);
    wait_until("both histories in one directory", SETTLE, || {
        let sides = scene.live(halves.beside, &halves.parting);
        Ok((sides.old && sides.new).then_some(()))
    })
    .unwrap();
}
