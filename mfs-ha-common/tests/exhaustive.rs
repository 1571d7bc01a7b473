//! Every course that three voters can take within a few rounds and a few faults, on the very code that ships.
//!
//! Time goes in steps of half a heartbeat interval. In each step every frame in flight arrives, every write to disk
//! ends and every daemon takes its turn, but for the faults, of which there may be [`Small::faults`] in all, anywhere
//! and in any combination: a frame is lost, or late by a step; a disk is late by a step; a daemon sleeps for a
//! step, or dies with what it had not synced and comes back. The states are counted; equal ones are looked at
//! once. Clocks run alike here: `quorum.rs` lets them drift.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::num::NonZeroU8;
use std::time::Duration;

use mfs_ha_common::action::Action;
use mfs_ha_common::cluster::{MEMBERS_MAX, Member, Members, NodeId, Role, Timing};
use mfs_ha_common::durable::Durable;
use mfs_ha_common::election::carp;
use mfs_ha_common::election::quorum::Settings;
use mfs_ha_common::event::Event;
use mfs_ha_common::heartbeat::Heartbeat;
use mfs_ha_common::node::{Node, NodeConfig};
use mfs_ha_common::priority::Priority;
use mfs_ha_common::promotion::Service;
use mfs_ha_common::time::Timestamp;
use mfs_ha_common::validate::Verified;

const VOTERS: usize = 3;
const STEP: Duration = Duration::from_millis(25);
const TIMING: Timing = Timing {
    interval: Duration::from_millis(50),
    lease: Duration::from_millis(150),
};
const BORN: Timestamp = Timestamp::from_nanos(1_000_000_000);

/// How far the search goes.
#[derive(Clone, Copy)]
struct Small {
    roles: [Role; VOTERS],
    /// Steps that pass without a fault before the search begins, so that somebody holds a lease.
    settled: u32,
    steps: u32,
    faults: u8,
}

/// A machine: its daemon, its disk, and when its kernel's lease ends.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Machine {
    node: Option<Node>,
    disk: Durable,
    storing: Option<Durable>,
    holds_until: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    step: u32,
    faults: u8,
    machines: [Machine; VOTERS],
    /// Frames by receiver and sender; a later one does not overtake.
    flying: Vec<(usize, Heartbeat)>,
}

/// One thing that goes wrong in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Lost(usize),
    Late(usize),
    SlowDisk(usize),
    Sleeps(usize),
    Dies(usize),
}

fn id(machine: usize) -> NodeId {
    NodeId::new(u8::try_from(machine + 1).unwrap_or(u8::MAX)).unwrap_or_else(|| unreachable!())
}

fn config(small: &Small, machine: usize, disk: Durable) -> NodeConfig {
    let members = (0..VOTERS).map(|place| Member {
        id: id(place),
        role: small.roles[place],
    });
    let members = Members::new(members).unwrap_or_else(|e| panic!("{e}"));
    let mut durable = disk;
    durable.boot += 1;
    NodeConfig {
        election: carp::Settings {
            priority: Priority::new(1, 0),
            deadratio: NonZeroU8::MIN,
            preempt: false,
            source: [0; 4],
            has_sole_peer: false,
        },
        quorum: Some(Settings {
            cluster: 1,
            own: id(machine),
            members,
            sources: [[0; 4]; MEMBERS_MAX],
            generation: 1,
            previous: None,
            timing: TIMING,
            priority: Priority::new(1, id(machine).get()),
            max_lag: 0,
            cold_start_wait: Duration::ZERO,
            accepts_loss: false,
            durable,
            seed: u64::from(durable.boot),
        }),
        neutral: true,
        is_gated: true,
        service: Service::Vip,
    }
}

impl State {
    fn new(small: &Small) -> Self {
        let machine = |_| Machine {
            node: None,
            disk: Durable::default(),
            storing: None,
            holds_until: None,
        };
        let mut state = Self {
            step: 0,
            faults: small.faults,
            machines: core::array::from_fn(machine),
            flying: Vec::new(),
        };
        for machine in 0..VOTERS {
            state.start(small, machine);
        }
        state
    }

    fn now(&self) -> Timestamp {
        BORN.after(STEP * self.step)
    }

    fn start(&mut self, small: &Small, machine: usize) {
        let config = config(small, machine, self.machines[machine].disk);
        self.machines[machine].node = Some(Node::new(config, self.now()));
        if small.roles[machine] == Role::Candidate {
            self.hand_in(machine, Event::LinkUp);
        }
    }

    fn hand_in(&mut self, machine: usize, event: Event) {
        let now = self.now();
        let Some(node) = self.machines[machine].node.as_mut() else {
            return;
        };
        for action in node.handle(now, event) {
            match action {
                Action::SendHeartbeats => self.send(machine),
                // A later one replaces one that is not written yet.
                Action::Store(durable) => self.machines[machine].storing = Some(durable),
                Action::SetVip { present } => self.hand_in(machine, Event::VipSet { present }),
                _ => {}
            }
        }
        let lease = self.machines[machine]
            .node
            .as_ref()
            .and_then(|node| node.lease(now));
        self.machines[machine].holds_until = lease.and_then(|lease| lease.ends);
    }

    fn send(&mut self, from: usize) {
        for to in (0..VOTERS).filter(|to| *to != from) {
            let node = self.machines[from].node.as_ref();
            if let Some(heartbeat) = node.and_then(|node| node.heartbeat(id(to))) {
                self.flying.push((to, heartbeat));
            }
        }
    }

    /// What can go wrong in the step that comes.
    fn possible(&self) -> Vec<Fault> {
        let frames =
            (0..self.flying.len()).flat_map(|frame| [Fault::Lost(frame), Fault::Late(frame)]);
        let alive = |machine: &usize| self.machines[*machine].node.is_some();
        let stores = (0..VOTERS).filter(|machine| self.machines[*machine].storing.is_some());
        let daemons = (0..VOTERS)
            .filter(alive)
            .flat_map(|m| [Fault::Sleeps(m), Fault::Dies(m)]);
        frames
            .chain(stores.map(Fault::SlowDisk))
            .chain(daemons)
            .collect()
    }

    /// Lets one step pass with these faults in it.
    fn pass(&mut self, small: &Small, faults: &[Fault]) {
        let dead: Vec<usize> = (0..VOTERS)
            .filter(|m| self.machines[*m].node.is_none())
            .collect();
        self.step += 1;
        for machine in 0..VOTERS {
            if faults.contains(&Fault::Dies(machine)) {
                self.machines[machine].node = None;
                self.machines[machine].storing = None;
            }
        }
        // Who died in the step before is back.
        for machine in dead {
            self.start(small, machine);
        }
        let sleeps = |machine: usize| faults.contains(&Fault::Sleeps(machine));
        let mut later = Vec::new();
        for (number, (to, heartbeat)) in std::mem::take(&mut self.flying).into_iter().enumerate() {
            if faults.contains(&Fault::Lost(number)) {
                continue;
            }
            // The kernel keeps what arrives for a daemon that sleeps; it is read in the next step.
            if faults.contains(&Fault::Late(number)) || sleeps(to) {
                later.push((to, heartbeat));
                continue;
            }
            let heartbeat = Verified::from_recording(heartbeat);
            let arrival = self.now();
            self.hand_in(to, Event::HeartbeatReceived { heartbeat, arrival });
        }
        for machine in (0..VOTERS).filter(|machine| !sleeps(*machine)) {
            if let Some(durable) = self.machines[machine].storing
                && !faults.contains(&Fault::SlowDisk(machine))
            {
                self.machines[machine].storing = None;
                self.machines[machine].disk = durable;
                self.hand_in(machine, Event::Stored { durable });
            }
            self.hand_in(machine, Event::Tick);
        }
        later.append(&mut self.flying);
        self.flying = later;
    }

    fn holders(&self) -> usize {
        let now = self.now();
        let holds = |machine: &&Machine| machine.holds_until.is_some_and(|until| until > now);
        self.machines.iter().filter(holds).count()
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// What a search has found.
#[derive(Debug, Default)]
struct Found {
    states: u64,
    /// Courses at whose end nobody, or somebody, holds the lease.
    ends: [u64; 2],
}

/// Looks at every course. Panics at the first state in which two hold a lease, with the faults that led there.
fn search(small: Small) -> Found {
    let mut start = State::new(&small);
    for _ in 0..small.settled {
        start.pass(&small, &[]);
    }
    let last = start.step + small.steps;
    let mut found = Found::default();
    let mut seen = HashSet::new();
    let mut open: Vec<(State, Vec<(u32, Fault)>)> = vec![(start, Vec::new())];
    while let Some((state, course)) = open.pop() {
        if !seen.insert(state.fingerprint()) {
            continue;
        }
        found.states += 1;
        assert!(
            state.holders() <= 1,
            "two hold a lease at step {} after {course:?}",
            state.step
        );
        if state.step == last {
            found.ends[state.holders()] += 1;
            continue;
        }
        for faults in choices(&state) {
            let mut next = state.clone();
            next.faults -= u8::try_from(faults.len()).unwrap_or(u8::MAX);
            let mut course = course.clone();
            course.extend(faults.iter().map(|fault| (state.step, *fault)));
            next.pass(&small, &faults);
            open.push((next, course));
        }
    }
    found
}

/// Every set of faults that may strike in one step, within what is left of them.
fn choices(state: &State) -> Vec<Vec<Fault>> {
    let mut sets: Vec<Vec<Fault>> = vec![Vec::new()];
    for fault in state.possible() {
        for set in sets.clone() {
            if set.len() < usize::from(state.faults) {
                sets.push([set, vec![fault]].concat());
            }
        }
    }
    sets
}

fn is_long() -> bool {
    std::env::var_os("MFS_HA_LONG").is_some()
}

fn report(what: &str, found: &Found) {
    println!(
        "{what}: {} states; at the end nobody holds the lease in {}, somebody in {}",
        found.states, found.ends[0], found.ends[1]
    );
    assert!(found.states > 1000 && found.ends[1] > 0, "{found:?}");
}

#[test]
fn three_candidates_never_hold_two_leases() {
    let small = Small {
        roles: [Role::Candidate; VOTERS],
        settled: 12,
        steps: if is_long() { 14 } else { 12 },
        faults: 3,
    };
    report("three candidates", &search(small));
}

#[test]
fn two_candidates_and_a_witness_never_hold_two_leases() {
    let small = Small {
        roles: [Role::Candidate, Role::Candidate, Role::Witness],
        settled: 12,
        steps: if is_long() { 14 } else { 12 },
        faults: 3,
    };
    report("two candidates and a witness", &search(small));
}

/// From the first start on, before anybody holds anything.
#[test]
fn a_cold_start_never_makes_two() {
    let small = Small {
        roles: [Role::Candidate; VOTERS],
        settled: 0,
        steps: if is_long() { 16 } else { 14 },
        faults: 2,
    };
    report("cold start", &search(small));
}
