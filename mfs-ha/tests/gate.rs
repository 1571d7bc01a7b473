//! The gate in the real kernel: what reaches the VIP and what leaves it, over a cable and over `lo`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on panics"
)]

mod common;
#[path = "gate/far.rs"]
mod far;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use aya::programs::links::{FdLink, PinnedLink};
use common::{DEADLINE, in_namespace, ip, ip_shows};
use far::Far;
use mfs_ha::bpf::{self, Attached, Attachments, Configured, Maps, Mode};
use mfs_ha::interface::Interface;
use mfs_ha::netlink::Netlink;
use mfs_ha::{clock, gate};
use mfs_ha_common::gate::{LeaseState, OPEN_CHUNKSERVERS, OPEN_CLIENTS, OPEN_METALOGGERS};
use mfs_ha_common::stats::Stats;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 100);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const ALL: u32 = OPEN_METALOGGERS | OPEN_CHUNKSERVERS | OPEN_CLIENTS;
const SERVICES: [u16; 3] = [9419, 9420, 9421];
/// A port that is none of the services.
const OTHER: u16 = 9425;
/// How long nothing has to come for there to be nothing.
const SILENCE: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(3600);

/// This host: with the VIP, whatever listens there, and the gate.
struct Host {
    far: Far,
    maps: Maps,
    attachments: Attachments,
    _xdp: Arc<Attached>,
    listeners: Vec<TcpListener>,
    pins: Pins,
}

/// The directory of the pins; what stays there after a failed test would stay attached.
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        bpf::remove_pins(&self.0).ok();
    }
}

fn pin_dir() -> Pins {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("mfs-ha/test-gate-{}-{number}", std::process::id());
    Pins(Path::new(bpf::BPFFS).join(name))
}

/// Lays the cable and gives this end the VIP.
fn wire() -> Far {
    let far = Far::at_the_other_end("v1", FAR);
    ip("addr add 10.9.0.1/24 dev v0");
    ip("addr add 10.9.0.100/24 dev v0");
    far
}

impl Host {
    async fn new() -> Self {
        let far = wire();
        let pins = pin_dir();
        let (program, maps) = bpf::load(Some(&pins.0), &Configured::default()).unwrap();
        let attachments = Attachments::new(program, None, true).unwrap();
        let mut host = Self {
            _xdp: attach(&attachments).await,
            listeners: listen(),
            far,
            maps,
            attachments,
            pins,
        };
        host.close();
        host
    }

    fn write(&mut self, until: Option<Duration>, open: u32) {
        let until_ns = until.map_or(0, |span| clock::now().after(span).as_nanos());
        self.maps
            .lease
            .write(LeaseState {
                until_ns,
                epoch: 1,
                follows: 0,
                follow_span_ns: 0,
                vip: VIP.octets(),
                open,
                ports: SERVICES.map(u16::to_be_bytes),
                is_here: 1,
                reserved: 0,
            })
            .unwrap();
    }

    fn open(&mut self, open: u32) {
        self.write(Some(LONG), open);
    }

    fn close(&mut self) {
        self.write(None, ALL);
    }

    fn stats(&self) -> Stats {
        self.maps.stats.read().unwrap()
    }

    /// Drops all that a process has of it, as if that had died: what is pinned stays.
    async fn die(self) -> (Far, Vec<TcpListener>, Pins) {
        self.attachments.leave().await;
        (self.far, self.listeners, self.pins)
    }

    /// Whether somebody at the other end of the cable reaches a port of the VIP.
    fn is_reached_from_afar(&self, port: u16) -> bool {
        self.far.run(move || {
            // An entry that failed would be believed for a while.
            common::ip_may_fail("neigh flush dev v1");
            reaches(port)
        })
    }
}

async fn attach(attachments: &Attachments) -> Arc<Attached> {
    let attached = attachments.attach(&interface("v0").await).await.unwrap();
    attachments.guard_all().await.unwrap();
    attached
}

/// Accepts on all services, and echoes on none.
fn listen() -> Vec<TcpListener> {
    SERVICES
        .into_iter()
        .chain([OTHER])
        .map(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap())
        .collect()
}

/// Whether a connection to the VIP comes about. A refusal would be an answer, too, and is none of ours.
fn reaches(port: u16) -> bool {
    match TcpStream::connect_timeout(&SocketAddr::from((VIP, port)), SILENCE) {
        Ok(_) => true,
        Err(error) => {
            assert_ne!(error.kind(), ErrorKind::ConnectionRefused, "{port}");
            false
        }
    }
}

#[test]
fn without_a_lease_nobody_reaches_the_vip() {
    in_namespace(async || {
        let mut host = Host::new().await;
        for port in SERVICES.into_iter().chain([OTHER]) {
            assert!(!host.is_reached_from_afar(port), "{port}");
            assert!(!reaches(port), "{port} over lo");
        }
        let stats = host.stats();
        assert!(stats.gate_arp > 0, "{stats:?}");
        assert!(stats.gate_in > 0, "{stats:?}");
        host.open(ALL);
        for port in SERVICES.into_iter().chain([OTHER]) {
            assert!(host.is_reached_from_afar(port), "{port}");
            assert!(reaches(port), "{port} over lo");
        }
        // The node's own address was never guarded.
        host.close();
        let own = SocketAddr::from(([10, 9, 0, 1], OTHER));
        let reached = host
            .far
            .run(move || TcpStream::connect_timeout(&own, SILENCE));
        reached.unwrap();
    });
}

#[test]
fn services_are_admitted_one_by_one_and_kept_waiting_until_then() {
    in_namespace(async || {
        let mut host = Host::new().await;
        for (open, expected) in [
            (0, [false; 3]),
            (OPEN_METALOGGERS, [true, false, false]),
            (OPEN_METALOGGERS | OPEN_CHUNKSERVERS, [true, true, false]),
            (ALL, [true; 3]),
        ] {
            host.open(open);
            let reached = SERVICES.map(|port| host.is_reached_from_afar(port));
            assert_eq!(reached, expected, "{open}");
            assert_eq!(SERVICES.map(reaches), expected, "{open} over lo");
            assert!(host.is_reached_from_afar(OTHER), "{open}");
        }
        assert!(host.stats().gate_service > 0);
    });
}

#[test]
fn a_connection_stops_at_the_end_of_the_lease_and_goes_on_with_the_next() {
    in_namespace(async || {
        let mut host = Host::new().await;
        host.open(ALL);
        let mut near = TcpListener::bind((VIP, 7000)).unwrap();
        let mut client = host
            .far
            .run(|| TcpStream::connect((VIP, 7000)))
            .expect("the lease is held");
        let mut server = accept(&mut near);
        client.write_all(b"a").unwrap();
        let mut byte = [0];
        server.read_exact(&mut byte).unwrap();

        // It runs out by itself: whoever should close it is dead.
        host.write(Some(Duration::from_millis(50)), ALL);
        let until = Instant::now() + Duration::from_millis(50);
        while Instant::now() < until {
            std::thread::yield_now();
        }
        server.set_read_timeout(Some(SILENCE)).unwrap();
        client.set_read_timeout(Some(SILENCE)).unwrap();
        client.write_all(b"b").unwrap();
        assert_eq!(
            server.read(&mut byte).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
        server.write_all(b"c").unwrap();
        assert_eq!(
            client.read(&mut byte).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
        // Nor is its end told.
        let before = host.stats().gate_out;
        drop(server);
        drop(near);
        assert_eq!(
            client.read(&mut byte).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
        assert!(host.stats().gate_out > before);

        host.open(ALL);
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"c");
    });
}

fn accept(listener: &mut TcpListener) -> TcpStream {
    listener.accept().unwrap().0
}

/// Sends one datagram from the VIP, after asking for the other end's Ethernet address as the VIP.
fn speak_as_vip() {
    ip("neigh flush dev v0");
    let socket = UdpSocket::bind((VIP, 0)).unwrap();
    socket.send_to(b"x", (FAR, 7001)).unwrap();
}

#[test]
fn what_the_old_owner_says_by_itself_moves_nobody() {
    in_namespace(async || {
        let mut host = Host::new().await;
        let listener = host.far.run(|| {
            let socket = UdpSocket::bind((FAR, 7001)).unwrap();
            socket.set_read_timeout(Some(SILENCE)).unwrap();
            socket
        });
        let mut buffer = [0; 8];
        speak_as_vip();
        let heard = listener.recv(&mut buffer);
        assert_eq!(heard.unwrap_err().kind(), ErrorKind::WouldBlock);
        let stats = host.stats();
        assert!(stats.gate_arp > 0, "{stats:?}");
        let learnt = || ip_shows("neigh show to 10.9.0.100 dev v1", "lladdr");
        assert!(!host.far.run(learnt));

        // Without the gate on what goes out it does, which is what the gate is for.
        host.open(ALL);
        speak_as_vip();
        listener.recv(&mut buffer).unwrap();
        assert!(host.far.run(learnt));
    });
}

#[test]
fn an_interface_that_comes_later_is_guarded_too() {
    in_namespace(async || {
        let host = Host::new().await;
        tokio::spawn(gate::keep(host.attachments.clone()));
        ip("link add w0 type veth peer name w1");
        let mut views = host.attachments.gate_views();
        let guarded = views.wait_for(|view| view.guarded.iter().any(|name| name == "w0"));
        let view = tokio::time::timeout(DEADLINE, guarded)
            .await
            .expect("w0 is guarded")
            .unwrap()
            .clone();
        assert!(view.guarded.iter().any(|name| name == "lo"), "{view:?}");
        assert!(view.problems.is_empty(), "{view:?}");
    });
}

#[test]
fn the_gate_outlives_its_daemon_until_it_is_taken_off() {
    in_namespace(async || {
        let host = Host::new().await;
        let links = bpf::pinned_links(&host.pins.0).unwrap();
        let (far, listeners, pins) = host.die().await;
        assert!(!far.run(|| reaches(OTHER)));
        assert!(!reaches(OTHER), "over lo");
        assert_eq!(bpf::pinned_links(&pins.0).unwrap(), links);

        assert!(bpf::remove_pins(&pins.0).unwrap());
        bpf::remove_all_filters().await.unwrap();
        // The kernel takes them off by itself, soon.
        let end = Instant::now() + DEADLINE;
        let is_reached = || {
            far.run(|| {
                common::ip_may_fail("neigh flush dev v1");
                reaches(OTHER)
            })
        };
        while !(is_reached() && reaches(OTHER)) {
            assert!(Instant::now() < end, "still there");
        }
        assert!(!bpf::remove_pins(&pins.0).unwrap());
        drop(listeners);
    });
}

/// The numbers by which the kernel knows what is pinned, and the programs that they attach.
fn links(pins: &Path) -> BTreeMap<PathBuf, (u32, u32)> {
    let numbers = |path: &PathBuf| {
        let link = FdLink::from(PinnedLink::from_pin(path).unwrap());
        let info = link.info().unwrap();
        (info.id(), info.program_id())
    };
    let paths = bpf::pinned_links(pins).unwrap();
    let links = paths.into_iter();
    links.map(|path| (path.clone(), numbers(&path))).collect()
}

async fn interface(name: &str) -> Interface {
    let netlink = Netlink::connect().unwrap();
    netlink.interface(name).await.unwrap().unwrap()
}

/// Lets one life after the other attach in a mode, and sees each put its programs in the place of the last one's.
async fn succeed(mode: Option<Mode>, lives: u32) {
    let _far = wire();
    let pins = pin_dir();
    let begin = Instant::now();
    let mut before: Option<BTreeMap<PathBuf, (u32, u32)>> = None;
    // An emulated processor verifies the programs for seconds, each time.
    for life in (0..lives).take_while(|life| *life < 3 || begin.elapsed() < DEADLINE) {
        // What generic mode began, "auto" takes over as well.
        let mode = mode.filter(|_| life % 2 == 0);
        let loaded = bpf::load(Some(&pins.0), &Configured::default());
        let (program, maps) = loaded.unwrap();
        let id = program.id().unwrap();
        let attachments = Attachments::new(program, mode, true).unwrap();
        let xdp = attach(&attachments).await;
        assert_eq!(interface("v0").await.xdp.unwrap().program_ids, [id]);
        // Filters of kernels before 6.6 have no pins.
        let now = links(&pins.0);
        assert!(!now.is_empty(), "{life}");
        if let Some(before) = before {
            assert!(now.keys().eq(before.keys()), "{life}: {now:?}, {before:?}");
            for (now, before) in now.values().zip(before.values()) {
                assert_eq!(now.0, before.0, "{life}: the same attachment");
                assert_ne!(now.1, before.1, "{life}: of another program");
            }
        }
        before = Some(now);
        attachments.leave().await;
        drop((maps, attachments, xdp));
    }
}

#[test]
fn a_successor_takes_over() {
    in_namespace(async || succeed(None, 30).await);
}

#[test]
fn a_successor_takes_over_in_generic_mode() {
    in_namespace(async || succeed(Some(Mode::Generic), 4).await);
}

#[test]
fn nothing_is_taken_over_from_an_interface_that_is_another_one_now() {
    in_namespace(async || {
        let _far = wire();
        let pins = pin_dir();
        let (program, maps) = bpf::load(Some(&pins.0), &Configured::default()).unwrap();
        let attachments = Attachments::new(program, None, true).unwrap();
        let ifindex = interface("v0").await.ifindex;
        let xdp = attach(&attachments).await;
        attachments.leave().await;
        drop((maps, attachments, xdp));

        ip("link del v0");
        ip(&format!(
            "link add v0 index {ifindex} type veth peer name v1"
        ));
        ip("link set v0 up");
        let (program, maps) = bpf::load(Some(&pins.0), &Configured::default()).unwrap();
        let id = program.id().unwrap();
        let attachments = Attachments::new(program, None, true).unwrap();
        let xdp = attach(&attachments).await;
        let now = interface("v0").await;
        assert_eq!(now.ifindex, ifindex);
        assert_eq!(now.xdp.unwrap().program_ids, [id]);
        drop((maps, attachments, xdp));
    });
}

#[test]
fn a_successor_without_a_gate_takes_it_off() {
    in_namespace(async || {
        let host = Host::new().await;
        let (far, listeners, pins) = host.die().await;
        assert!(!reaches(OTHER), "over lo");

        // As every start does on kernels that have filters.
        bpf::remove_all_filters().await.unwrap();
        let (program, maps) = bpf::load(Some(&pins.0), &Configured::default()).unwrap();
        let attachments = Attachments::new(program, None, false).unwrap();
        let xdp = attach(&attachments).await;
        assert_eq!(links(&pins.0).len(), 1, "the XDP program alone");
        let end = Instant::now() + DEADLINE;
        while !reaches(OTHER) {
            assert!(Instant::now() < end, "still there");
        }
        drop((far, maps, attachments, xdp, listeners));
    });
}

#[test]
fn what_a_successor_does_not_want_is_taken_off() {
    in_namespace(async || {
        let _far = wire();
        ip("link add w0 type veth peer name w1");
        let pins = pin_dir();
        let attach_to = async |attachments: &Attachments, name: &str| {
            attachments.attach(&interface(name).await).await.unwrap()
        };
        let (program, maps) = bpf::load(Some(&pins.0), &Configured::default()).unwrap();
        let attachments = Attachments::new(program, None, false).unwrap();
        let xdp = (
            attach_to(&attachments, "v0").await,
            attach_to(&attachments, "w0").await,
        );
        attachments.leave().await;
        drop((maps, attachments, xdp));

        let (program, maps) = bpf::load(Some(&pins.0), &Configured::default()).unwrap();
        let attachments = Attachments::new(program, None, false).unwrap();
        attachments.clear_up_later();
        let xdp = attach_to(&attachments, "v0").await;
        assert_eq!(links(&pins.0).len(), 2, "it may be wanted yet");
        let end = Instant::now() + DEADLINE + DEADLINE;
        while interface("w0").await.xdp.is_some() {
            assert!(Instant::now() < end, "still there");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(links(&pins.0).len(), 1);
        drop((maps, attachments, xdp));
    });
}
