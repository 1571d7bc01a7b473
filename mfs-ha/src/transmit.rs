//! Sends adverts and gratuitous ARPs. Nothing here waits.
//!
//! Frames leave through a packet socket that is bound to the interface and receives nothing. A frame that
//! the interface does not take at once is an error, not a wait: the next advert follows soon.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, bail};
use mfs_ha_common::carp::Advert;
use mfs_ha_common::carp::auth::HmacKey;
use mfs_ha_common::carp::frame::{FrameBuf, Sender};
use mfs_ha_common::net::Ipv4;
use mfs_ha_common::priority::Priority;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, bind, send, setsockopt, socket, sockopt,
};
use socket2::{InterfaceIndexOrAddress, SockRef};

use crate::cluster::rounds::Signer;

/// `TC_PRIO_CONTROL`: the default queueing discipline sends it before bulk traffic.
const PRIORITY_CONTROL: i32 = 7;

/// What the daemon sends adverts through, for one appearance of the interface.
#[derive(Debug)]
pub struct Transmitter {
    socket: OwnedFd,
    sender: Sender,
    key: HmacKey,
    counter: u64,
    identification: u16,
    // Keeps the group joined: a NIC filters multicast before XDP sees it.
    _membership: Option<UdpSocket>,
}

impl Transmitter {
    /// Opens the interface `name` for sending, and joins the group.
    ///
    /// # Errors
    /// Missing privileges, or an interface that is gone.
    pub fn open(name: &str, ifindex: u32, sender: Sender, key: HmacKey) -> anyhow::Result<Self> {
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
            None,
        )
        .context("open a packet socket")?;
        let address = link_address(name, ifindex)?;
        bind(socket.as_raw_fd(), &address)
            .with_context(|| format!("bind a packet socket to {name}"))?;
        setsockopt(&socket, sockopt::Priority, &PRIORITY_CONTROL)
            .context("set the priority of a packet socket")?;
        Ok(Self {
            socket,
            sender,
            key,
            // Any start will do, but two lives of a daemon should not repeat each other.
            counter: getrandom::u64().context("draw a random counter")?,
            identification: u16::try_from(getrandom::u32().context("draw a random id")? >> 16)
                .unwrap_or_default(),
            _membership: join(&sender, ifindex)?,
        })
    }

    /// Returns the address that adverts are sent from.
    #[must_use]
    pub const fn source(&self) -> Ipv4 {
        self.sender.source
    }

    /// Sends one advert, signed where the node belongs to a cluster.
    ///
    /// # Errors
    /// The interface does not take the frame.
    pub fn send_advert(
        &mut self,
        priority: Priority,
        signer: Option<&mut Signer>,
    ) -> io::Result<()> {
        self.counter = self.counter.wrapping_add(1);
        self.identification = self.identification.wrapping_add(1);
        let advert = Advert {
            vhid: self.sender.vhid.get(),
            priority,
            demote: 0,
            counter: self.counter.to_be_bytes(),
        };
        let (sender, key, id) = (&self.sender, &self.key, self.identification);
        let frame = match signer.map(Signer::sign) {
            Some((tag_key, trailer)) => sender.extended_advert(key, &advert, id, tag_key, trailer),
            None => sender.advert(key, &advert, id),
        };
        self.send(&frame)
    }

    /// Sends one gratuitous ARP.
    ///
    /// # Errors
    /// The interface does not take the frame.
    pub fn announce(&self) -> io::Result<()> {
        self.send(&self.sender.gratuitous_arp())
    }

    fn send(&self, frame: &FrameBuf) -> io::Result<()> {
        let bytes = frame.as_bytes();
        let sent = send(
            self.socket.as_raw_fd(),
            bytes,
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
        )?;
        if sent == bytes.len() {
            return Ok(());
        }
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// Finds the packet-socket address of an interface. Its protocol is 0, so nothing is received.
fn link_address(name: &str, ifindex: u32) -> anyhow::Result<LinkAddr> {
    let found = nix::ifaddrs::getifaddrs()
        .context("list the interfaces")?
        .filter(|entry| entry.interface_name == name)
        .filter_map(|entry| entry.address?.as_link_addr().copied())
        .find(|address| u32::try_from(address.ifindex()) == Ok(ifindex));
    match found {
        Some(address) => Ok(address),
        None => bail!("interface {name} is gone"),
    }
}

fn join(sender: &Sender, ifindex: u32) -> anyhow::Result<Option<UdpSocket>> {
    let group = Ipv4Addr::from(sender.group);
    if !group.is_multicast() {
        return Ok(None);
    }
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("open a socket")?;
    SockRef::from(&socket)
        .join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(ifindex))
        .with_context(|| format!("join the multicast group {group}"))?;
    Ok(Some(socket))
}
