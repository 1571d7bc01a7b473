//! What one TCP connection carries with the programs and without, over a veth pair and over `lo`.
//!
//! Sender and receiver are threads of this process in two network namespaces. The variants take turns within a
//! round, each with a connection of its own, so that other load on the machine hits all of them alike. Run it
//! with `cargo xtask bench throughput`; it needs root and three minutes.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

#[path = "../tests/common/mod.rs"]
mod common;
#[expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot go on panics"
)]
#[path = "../tests/gate/far.rs"]
mod far;
mod figures;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use common::ip;
use far::Far;
use figures::Rounds;
use mfs_ha::bpf::{self, Attached, Attachments, Configured, Maps, Mode};
use mfs_ha::netlink::Netlink;
use mfs_ha_common::carp::auth::HmacKey;
use mfs_ha_common::filter::FilterConfig;
use mfs_ha_common::gate::{LeaseState, OPEN_CHUNKSERVERS, OPEN_CLIENTS, OPEN_METALOGGERS};
use nix::sched::{CloneFlags, unshare};

const ROUNDS: usize = 7;
/// What comes before this time after the connection is not counted.
const WARM_UP: Duration = Duration::from_secs(1);
const SPAN: Duration = Duration::from_secs(2);
/// Nothing at all for this long: something is broken.
const STALL: Duration = Duration::from_secs(5);

const OWN: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const SERVICE: u16 = 9421;
const BUFFER_BYTES: usize = 256 * 1024;

/// Which way the bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From the other end of the cable to the VIP.
    In,
    /// From the VIP to the other end.
    Out,
    /// From this host to its own VIP.
    Local,
}

/// What is attached to this end, and to `lo`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Variant {
    Nothing,
    /// The gate by tc alone, as on interfaces without adverts and heartbeats.
    Gate,
    /// The XDP program and, for what goes out, the gate.
    Xdp(Mode),
}

struct Case {
    way: Way,
    variant: Variant,
    gigabits: Rounds,
    frame_bytes: Rounds,
}

fn main() -> anyhow::Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "needs root: it makes network namespaces and loads eBPF programs"
    );
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        run()
    });
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn run() -> anyhow::Result<()> {
    ip("link set lo up");
    ip("link add v0 type veth peer name v1");
    ip("link set v0 up");
    let far = Far::at_the_other_end("v1", FAR);
    for address in [OWN, VIP] {
        ip(&format!("addr add {address}/24 dev v0"));
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut cases = cases();
    for round in 1..=ROUNDS {
        for case in &mut cases {
            let programs = runtime.block_on(attach(case.variant))?;
            case.measure(&far)?;
            drop(programs);
        }
        println!("round {round} of {ROUNDS}");
    }
    print(&cases);
    Ok(())
}

fn cases() -> Vec<Case> {
    let all = [
        Variant::Nothing,
        Variant::Gate,
        Variant::Xdp(Mode::Native),
        Variant::Xdp(Mode::Generic),
    ];
    let [nothing, gate, ..] = all;
    let over_veth = [Way::In, Way::Out].map(|way| all.map(|variant| (way, variant)));
    over_veth
        .into_iter()
        .flatten()
        .chain([(Way::Local, nothing), (Way::Local, gate)])
        .map(|(way, variant)| Case {
            way,
            variant,
            gigabits: Rounds::default(),
            frame_bytes: Rounds::default(),
        })
        .collect()
}

/// Programs that are attached until this is dropped.
struct Programs {
    _xdp: Option<Arc<Attached>>,
    _attachments: Attachments,
    _maps: Maps,
}

async fn attach(variant: Variant) -> anyhow::Result<Option<Programs>> {
    let mode = match variant {
        Variant::Nothing => return Ok(None),
        Variant::Gate => None,
        Variant::Xdp(mode) => Some(mode),
    };
    let (program, mut maps) = bpf::load(None, &Configured::default())?;
    maps.config.write(filter()?)?;
    maps.lease.write(lease())?;
    let attachments = Attachments::new(program, mode, true)?;
    let xdp = match mode {
        None => None,
        Some(_) => {
            let interface = Netlink::connect()?.interface("v0").await?.context("v0")?;
            Some(attachments.attach(&interface).await?)
        }
    };
    attachments.guard_all().await?;
    Ok(Some(Programs {
        _xdp: xdp,
        _attachments: attachments,
        _maps: maps,
    }))
}

fn filter() -> anyhow::Result<FilterConfig> {
    Ok(FilterConfig {
        vip: VIP.octets(),
        group: [224, 0, 0, 18],
        source: OWN.octets(),
        vhid: 10,
        vip_count: 1,
        vlan: 0,
        policy: 0,
        key: HmacKey::new(b"benchmark")?,
    })
}

/// A lease that is held, with all services open.
fn lease() -> LeaseState {
    LeaseState {
        until_ns: u64::MAX,
        epoch: 1,
        follows: 0,
        follow_span_ns: 0,
        vip: VIP.octets(),
        open: OPEN_METALOGGERS | OPEN_CHUNKSERVERS | OPEN_CLIENTS,
        ports: [9419, 9420, SERVICE].map(u16::to_be_bytes),
        is_here: 1,
        reserved: 0,
    }
}

impl Case {
    fn measure(&mut self, far: &Far) -> anyhow::Result<()> {
        let listener = TcpListener::bind((VIP, SERVICE))?;
        let connect = || TcpStream::connect((VIP, SERVICE));
        let client = match self.way {
            Way::In | Way::Out => far.run(connect)?,
            Way::Local => connect()?,
        };
        let (server, _) = listener.accept()?;
        let (sender, mut receiver) = match self.way {
            Way::Out => (server, client),
            Way::In | Way::Local => (client, server),
        };
        let sending = std::thread::spawn(move || send(sender));
        receiver.set_read_timeout(Some(STALL))?;
        receive(&mut receiver, WARM_UP)?;
        let before = self.way.traffic()?;
        let begin = Instant::now();
        let received = receive(&mut receiver, SPAN)?;
        let span = begin.elapsed();
        let after = self.way.traffic()?;
        drop(receiver);
        sending
            .join()
            .map_err(|_panic| anyhow!("the sender panicked"))??;
        self.gigabits.push(received * 8e-9 / span.as_secs_f64());
        let frames = after.frames - before.frames;
        self.frame_bytes.push((after.bytes - before.bytes) / frames);
        Ok(())
    }
}

/// Sends until the other side has had enough.
fn send(mut socket: TcpStream) -> anyhow::Result<()> {
    let buffer = vec![0xa5; BUFFER_BYTES];
    loop {
        if let Err(error) = socket.write_all(&buffer) {
            let is_the_end = matches!(
                error.kind(),
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
            );
            return if is_the_end {
                Ok(())
            } else {
                Err(error).context("send")
            };
        }
    }
}

/// Receives for a while and returns how many bytes came.
fn receive(socket: &mut TcpStream, span: Duration) -> anyhow::Result<f64> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut bytes = 0_u64;
    let begin = Instant::now();
    while begin.elapsed() < span {
        let len = socket.read(&mut buffer).context("receive")?;
        ensure!(len > 0, "the sender has gone");
        bytes += u64::try_from(len)?;
    }
    // Exact up to 2^53.
    Ok(bytes as f64)
}

/// What an interface carried.
struct Traffic {
    bytes: f64,
    frames: f64,
}

impl Way {
    const fn name(self) -> &'static str {
        match self {
            Self::In => "to the VIP, over veth",
            Self::Out => "from the VIP, over veth",
            Self::Local => "to the VIP, over lo",
        }
    }

    /// Reads how much data went this way through this end.
    fn traffic(self) -> anyhow::Result<Traffic> {
        let (interface, column) = match self {
            Self::In => ("v0:", 0),
            Self::Out => ("v0:", 8),
            Self::Local => ("lo:", 0),
        };
        let text = std::fs::read_to_string("/proc/thread-self/net/dev")?;
        let figures = text
            .lines()
            .find_map(|line| line.trim_start().strip_prefix(interface))
            .context("interface counters")?;
        let mut figures = figures.split_whitespace().skip(column);
        let mut next = || -> anyhow::Result<f64> {
            let figure = figures.next().context("interface counters")?;
            Ok(figure.parse()?)
        };
        Ok(Traffic {
            bytes: next()?,
            frames: next()?,
        })
    }
}

impl Variant {
    const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "no program",
            Self::Gate => "gate by tc alone",
            Self::Xdp(Mode::Native) => "XDP native, gate by tc",
            Self::Xdp(Mode::Generic) => "XDP generic, gate by tc",
        }
    }
}

fn print(cases: &[Case]) {
    println!("median of {ROUNDS} rounds of {SPAN:?} (least..most); ratios within a round");
    let mut without: Option<&Case> = None;
    let mut are_split = false;
    for case in cases {
        if case.variant == Variant::Nothing {
            without = Some(case);
            println!(
                "{:<26} {:>18} {:>18} {:>16}",
                case.way.name(),
                "Gbit/s",
                "% of no program",
                "bytes per frame"
            );
        }
        let Some(without) = without else { continue };
        println!(
            "{:<26} {:>18} {:>18.0} {:>16.0}",
            case.variant.name(),
            case.gigabits,
            case.gigabits.per_cent_of(&without.gigabits),
            case.frame_bytes.median()
        );
        are_split |= case.frame_bytes.per_cent_of(&without.frame_bytes).median() < 50.0;
    }
    if are_split {
        println!("{SPLIT}");
    }
}

const SPLIT: &str = "\
Where frames are that much smaller: native XDP on a veth takes TCP segmentation offload from the other end, because
the program does not ask for frames of several pieces, and GRO, which would join segments again, is off on a veth
unless somebody turns it on. Each segment then goes through pair and stack by itself.";
