//! A network between the members: found by our address, through everything that can happen to it.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on panics"
)]

mod common;

use std::net::IpAddr;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use common::{DEADLINE, in_namespace, ip};
use mfs_ha::bpf::{self, Attachments, Configured, Mode};
use mfs_ha::cluster::path::{PathConfig, PathKeeper, PathViews};
use mfs_ha::cluster::sender::PathSender;
use mfs_ha::driver::Fact;
use mfs_ha_common::cluster::NodeId;
use mfs_ha_common::heartbeat::{DATAGRAM_LEN, PORT};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};
use tokio::sync::mpsc;

const OTHER: NodeId = NodeId::new(2).unwrap();

struct Stand {
    facts: mpsc::Receiver<Fact>,
    views: PathViews,
    // The maps live as long as the program is used.
    _maps: bpf::Maps,
}

/// Keeps the network in which we have `own`; members answer to `other`, whose Ethernet address is known.
fn keep(own: &str, other: &str) -> Stand {
    let (program, maps) = bpf::load(None, &Configured::default()).unwrap();
    let attachments = Attachments::new(program, None, false).unwrap();
    let config = PathConfig {
        index: 1,
        own: own.parse().unwrap(),
        members: vec![(OTHER, other.parse().unwrap())],
    };
    let (sender, facts) = mpsc::channel(8);
    let keeper = PathKeeper::new(config, attachments, sender);
    let views = keeper.views();
    tokio::spawn(keeper.run());
    Stand {
        facts,
        views,
        _maps: maps,
    }
}

impl Stand {
    async fn next(&mut self) -> Fact {
        tokio::time::timeout(DEADLINE, self.facts.recv())
            .await
            .expect("a fact")
            .expect("the keeper runs")
    }

    async fn up(&mut self) -> PathSender {
        let fact = self.next().await;
        let Fact::PathUp { index: 1, sender } = fact else {
            panic!("not up: {fact:?}");
        };
        *sender
    }

    async fn down(&mut self) {
        let fact = self.next().await;
        assert!(matches!(fact, Fact::PathDown { index: 1 }), "{fact:?}");
    }
}

/// Sends over `sender` until a heartbeat's frame comes out of `v1`, and returns that.
async fn frame_at_v1(sender: &PathSender) -> Vec<u8> {
    let listener = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_NONBLOCK,
        SockProtocol::EthAll,
    )
    .unwrap();
    let end = tokio::time::Instant::now() + DEADLINE;
    let content = [0x5a; DATAGRAM_LEN];
    loop {
        assert!(tokio::time::Instant::now() < end, "no heartbeat left");
        sender.send(OTHER, &content).unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        let mut buffer = [0; 2048];
        while let Ok(length) = recv(listener.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            if buffer[..length].ends_with(&content) {
                return buffer[..length].to_vec();
            }
        }
    }
}

fn ports(udp: &[u8]) -> (u16, u16) {
    let port = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
    (port(0), port(2))
}

#[test]
fn heartbeats_leave_with_our_address_and_port_unfragmented() {
    in_namespace(async || {
        ip("addr add 10.9.0.1/24 dev v0");
        ip("neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev v0");
        let mut stand = keep("10.9.0.1", "10.9.0.2");
        let sender = stand.up().await;
        let frame = frame_at_v1(&sender).await;
        let packet = &frame[14..];
        assert_eq!(packet[6] & 0x40, 0x40, "don't fragment");
        assert_eq!(
            (&packet[12..16], &packet[16..20]),
            (&[10, 9, 0, 1][..], &[10, 9, 0, 2][..])
        );
        assert_eq!(ports(&packet[20..]), (PORT, PORT));
        let nobody = NodeId::new(7).unwrap();
        assert!(sender.send(nobody, &[0; DATAGRAM_LEN]).is_err());
    });
}

#[test]
fn the_same_goes_for_ipv6() {
    in_namespace(async || {
        ip("addr add fd00::1/64 dev v0 nodad");
        ip("neigh add fd00::2 lladdr 02:00:00:00:00:02 dev v0");
        let mut stand = keep("fd00::1", "fd00::2");
        let sender = stand.up().await;
        let frame = frame_at_v1(&sender).await;
        let own: IpAddr = "fd00::1".parse().unwrap();
        let IpAddr::V6(own) = own else { panic!() };
        assert_eq!(frame[14 + 8..14 + 24], own.octets());
        assert_eq!(ports(&frame[14 + 40..]), (PORT, PORT));
    });
}

async fn wait_until(what: &str, holds: impl AsyncFn() -> bool) {
    let end = tokio::time::Instant::now() + DEADLINE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < end, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_network_is_followed_by_our_address() {
    in_namespace(async || {
        let mut stand = keep("10.9.0.1", "10.9.0.2");
        wait_until("a problem is shown", async || {
            stand.views.get().problem.is_some()
        })
        .await;
        let problem = stand.views.get().problem.unwrap();
        assert!(
            problem.contains("no interface of this host has the address 10.9.0.1"),
            "{problem}"
        );

        // It comes late, goes, and comes to another interface.
        ip("addr add 10.9.0.1/24 dev v0");
        drop(stand.up().await);
        ip("addr del 10.9.0.1/24 dev v0");
        stand.down().await;
        ip("addr add 10.9.0.1/24 dev v1");
        drop(stand.up().await);
        let is_on_v1 = async || stand.views.get().interface.as_deref() == Some("v1");
        wait_until("the other interface is shown", is_on_v1).await;
        assert_eq!(stand.views.get().mode, Some(Mode::Native));

        // The interface is made anew, perhaps with the same number.
        ip("link del v1");
        stand.down().await;
        ip("link add v0 type veth peer name v1");
        ip("link set v1 up");
        ip("addr add 10.9.0.1/24 dev v1");
        drop(stand.up().await);
    });
}

#[test]
fn an_interface_is_shared_by_whoever_needs_the_program_on_it() {
    in_namespace(async || {
        let (program, _maps) = bpf::load(None, &Configured::default()).unwrap();
        let attachments = Attachments::new(program, None, false).unwrap();
        let netlink = mfs_ha::netlink::Netlink::connect().unwrap();
        let look = async || netlink.interface("v0").await.unwrap().unwrap();
        let bare = look().await;
        let first = attachments.attach(&bare).await.unwrap();
        let second = attachments.attach(&bare).await.unwrap();
        assert!(attachments.is_on(&look().await));
        drop(first);
        assert!(attachments.is_on(&look().await), "one still needs it");
        drop(second);
        // A process that another test starts has a copy of each descriptor until it executes its program.
        let is_off = async || !attachments.is_on(&look().await);
        wait_until("the program that nobody needs is gone", is_off).await;
        let again = attachments.attach(&bare).await.unwrap();
        assert_eq!(again.mode, Mode::Native);
        assert!(attachments.is_on(&look().await));
    });
}
