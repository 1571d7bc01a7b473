//! What the gate costs per packet: with no VIP to guard, under a lease, and after its end.
//!
//! The kernel tells whole nanoseconds, of which there are few here: the processor time of the calling thread
//! is taken instead. It leaves out other load, and the wait of each call for the kernel's own bookkeeping.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use aya::programs::Xdp;
use aya::{Ebpf, TestRun as _, TestRunOptions};
use mfs_ha::bpf::{Maps, Program};
use mfs_ha_common::gate::{
    Direction, LeaseState, OPEN_CHUNKSERVERS, OPEN_CLIENTS, OPEN_METALOGGERS,
};
use mfs_ha_common::net::Ipv4;
use nix::time::{ClockId, clock_gettime};

use crate::common::xdp_object;
use crate::figures::Rounds;
use crate::{ROUNDS, VIP};

const PACKETS_PER_ROUND: u32 = 500_000;

const OWN: Ipv4 = [10, 77, 0, 1];
const FAR: Ipv4 = [10, 77, 0, 2];
const SERVICE: u16 = 9421;
/// A port that is none of the services.
const OTHER: u16 = 9425;
const FAR_PORT: u16 = 40000;

/// Verdicts: pass and drop of XDP, and those of tc, where -1 leaves it to whoever comes next.
const XDP_VERDICTS: [u32; 2] = [2, 1];
const TC_VERDICTS: [u32; 2] = [u32::MAX, 2];

/// What LEASE says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// There is no VIP.
    Idle,
    /// The lease is held, and all services are open.
    Open,
    /// The lease is over.
    Closed,
}

const STATES: [State; 3] = [State::Idle, State::Open, State::Closed];

/// Which program judges.
#[derive(Clone, Copy)]
enum Hook {
    Xdp,
    Tc(Direction),
}

/// One kind of frame at one of the programs.
struct Case {
    hook: Hook,
    name: &'static str,
    frame: Vec<u8>,
    is_about_vip: bool,
    /// One for each of [`STATES`].
    nanos: [Rounds; 3],
}

/// The gate's part of the benchmark.
pub(crate) struct Gate {
    cases: Vec<Case>,
    empty: Ebpf,
    empty_nanos: Rounds,
}

impl Gate {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut empty = Ebpf::load(&xdp_object()).context("load an empty program")?;
        let program: &mut Xdp = empty.program_mut(EMPTY).context(EMPTY)?.try_into()?;
        program.load()?;
        Ok(Self {
            cases: cases(),
            empty,
            empty_nanos: Rounds::default(),
        })
    }

    /// Measures each case in each state once, and leaves LEASE as if there were no VIP.
    pub(crate) fn round(&mut self, program: &Program, maps: &mut Maps) -> anyhow::Result<()> {
        let empty: &Xdp = self.empty.program(EMPTY).context(EMPTY)?.try_into()?;
        let nanos = time(|| {
            empty.test_run(TestRunOptions {
                data_in: self.cases.first().map(|case| &*case.frame),
                repeat: PACKETS_PER_ROUND,
                ..TestRunOptions::default()
            })?;
            Ok(())
        })?;
        self.empty_nanos.push(nanos);
        for case in &mut self.cases {
            for (state, nanos) in STATES.into_iter().zip(&mut case.nanos) {
                maps.lease.write(lease(state))?;
                let run = || run(program, case.hook, &case.frame);
                let verdict = run()?;
                let is_dropped = case.is_about_vip && state == State::Closed;
                let [pass, drop] = case.hook.verdicts();
                let expected = if is_dropped { drop } else { pass };
                ensure!(
                    verdict == expected,
                    "{} {}: {verdict} in place of {expected}",
                    case.hook.name(),
                    case.name
                );
                nanos.push(time(|| run().map(|_verdict| ()))?);
            }
        }
        maps.lease.write(lease(State::Idle))?;
        Ok(())
    }

    pub(crate) fn print(&self) {
        println!();
        println!("median of {ROUNDS} rounds of {PACKETS_PER_ROUND} packets (least..most)");
        println!(
            "{:<39} {:>20}",
            "an empty XDP program, ns", self.empty_nanos
        );
        println!(
            "{:<39} {:>20} {:>20} {:>8} {:>20} {:>8}",
            "gate, ns per packet", "idle: no VIP", "lease held", "of idle", "lease over", "of idle"
        );
        for case in &self.cases {
            let [idle, open, closed] = &case.nanos;
            let name = format!("{:<11} {}", case.hook.name(), case.name);
            println!(
                "{name:<39} {idle:>20} {open:>20} {:>6.0} % {closed:>20} {:>6.0} %",
                open.per_cent_of(idle).median(),
                closed.per_cent_of(idle).median()
            );
        }
    }
}

/// Name of the program in [`xdp_object`].
const EMPTY: &str = "pass_all";

impl Hook {
    const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "XDP",
            Self::Tc(Direction::In) => "mfs_ha_in",
            Self::Tc(Direction::Out) => "mfs_ha_out",
        }
    }

    const fn verdicts(self) -> [u32; 2] {
        match self {
            Self::Xdp => XDP_VERDICTS,
            Self::Tc(_) => TC_VERDICTS,
        }
    }
}

fn run(program: &Program, hook: Hook, frame: &[u8]) -> anyhow::Result<u32> {
    let options = TestRunOptions {
        data_in: Some(frame),
        repeat: PACKETS_PER_ROUND,
        ..TestRunOptions::default()
    };
    let result = match hook {
        Hook::Xdp => program.xdp()?.test_run(options),
        Hook::Tc(direction) => program.gate(direction)?.test_run(options),
    };
    Ok(result?.return_value)
}

/// Returns the nanoseconds of this thread's processor time that each packet takes.
fn time(run: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let begin = spent()?;
    run()?;
    let span = spent()?.saturating_sub(begin);
    Ok(span.as_secs_f64() * 1e9 / f64::from(PACKETS_PER_ROUND))
}

fn spent() -> anyhow::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

fn lease(state: State) -> LeaseState {
    let until_ns = match state {
        State::Idle => return LeaseState::default(),
        State::Open => u64::MAX,
        State::Closed => 1,
    };
    LeaseState {
        until_ns,
        epoch: 1,
        follows: 0,
        follow_span_ns: 0,
        vip: VIP,
        open: OPEN_METALOGGERS | OPEN_CHUNKSERVERS | OPEN_CLIENTS,
        ports: [9419, 9420, SERVICE].map(u16::to_be_bytes),
        is_here: 1,
        reserved: 0,
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for hook in [Hook::Xdp, Hook::Tc(Direction::In), Hook::Tc(Direction::Out)] {
        let tcp = |own: Ipv4, port: u16| match hook {
            Hook::Xdp | Hook::Tc(Direction::In) => tcp_frame((FAR, FAR_PORT), (own, port)),
            Hook::Tc(Direction::Out) => tcp_frame((own, port), (FAR, FAR_PORT)),
        };
        let arp = match hook {
            Hook::Xdp | Hook::Tc(Direction::In) => arp_request(FAR, VIP),
            Hook::Tc(Direction::Out) => arp_request(VIP, FAR),
        };
        for (name, frame, is_about_vip) in [
            ("TCP of another address", tcp(OWN, SERVICE), false),
            ("TCP of the VIP, a service", tcp(VIP, SERVICE), true),
            ("TCP of the VIP, other port", tcp(VIP, OTHER), true),
            ("ARP of the VIP", arp, true),
        ] {
            cases.push(Case {
                hook,
                name,
                frame,
                is_about_vip,
                nanos: Default::default(),
            });
        }
    }
    cases
}

fn ethernet(ethertype: [u8; 2]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ethertype);
    frame
}

fn tcp_frame(source: (Ipv4, u16), destination: (Ipv4, u16)) -> Vec<u8> {
    let mut frame = ethernet([8, 0]);
    frame.extend([0x45, 0, 0, 60, 0, 1, 0x40, 0, 64, 6, 0, 0]);
    frame.extend([source.0, destination.0].as_flattened());
    frame.extend(
        [source.1, destination.1]
            .map(u16::to_be_bytes)
            .as_flattened(),
    );
    frame.extend([0; 36]);
    frame
}

fn arp_request(asker: Ipv4, target: Ipv4) -> Vec<u8> {
    let mut frame = ethernet([8, 6]);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2]);
    frame.extend(asker);
    frame.extend([0; 6]);
    frame.extend(target);
    frame.extend([0; 18]);
    frame
}
