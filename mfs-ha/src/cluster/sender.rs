//! Sends heartbeats over one network. Nothing here waits.
//!
//! The socket is bound to our own address, the port and the interface, so that a heartbeat takes the network
//! that it shall tell about and no other way round. What the interface does not take at once is an error: the
//! next heartbeat follows soon. What arrives is judged by the XDP program; the socket keeps the port from
//! answering with ICMP and throws away what passes.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::Context as _;
use mfs_ha_common::cluster::NodeId;
use mfs_ha_common::heartbeat::{DATAGRAM_LEN, PORT};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};
use socket2::{Domain, Protocol, Socket, Type};

/// `TC_PRIO_CONTROL`: the default queueing discipline sends it before bulk traffic.
const PRIORITY_CONTROL: u32 = 7;

/// The smallest that the kernel gives: nobody reads.
const RECEIVE_BYTES: usize = 0;

/// The way to all other members over one network.
#[derive(Debug)]
pub struct PathSender {
    socket: UdpSocket,
    members: Vec<(NodeId, SocketAddr)>,
}

impl PathSender {
    /// Opens the interface for sending from `own` to the others' addresses in the same network.
    ///
    /// # Errors
    /// Missing privileges, an interface or an address that is gone, or a port that is taken.
    pub fn open(
        interface: &str,
        own: IpAddr,
        members: &[(NodeId, IpAddr)],
    ) -> anyhow::Result<Self> {
        let own = SocketAddr::new(own, PORT);
        let domain = Domain::for_address(own);
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))
            .context("open a socket for heartbeats")?;
        socket.set_nonblocking(true)?;
        if own.is_ipv6() {
            socket.set_only_v6(true)?;
            set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::DO)?;
        } else {
            set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::DO)?;
        }
        socket
            .bind_device(Some(interface.as_bytes()))
            .with_context(|| format!("bind a socket to {interface}"))?;
        socket
            .set_priority(PRIORITY_CONTROL)
            .context("set the priority of a socket")?;
        socket.set_recv_buffer_size(RECEIVE_BYTES)?;
        socket
            .bind(&own.into())
            .with_context(|| format!("bind a socket to {own} on {interface}"))?;
        Ok(Self {
            socket: socket.into(),
            members: members
                .iter()
                .map(|(id, address)| (*id, SocketAddr::new(*address, PORT)))
                .collect(),
        })
    }

    /// Sends one heartbeat.
    ///
    /// # Errors
    /// The interface does not take it, or an earlier one came back.
    pub fn send(&self, to: NodeId, datagram: &[u8; DATAGRAM_LEN]) -> io::Result<()> {
        let Some((_, address)) = self.members.iter().find(|(id, _)| *id == to) else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        match self.socket.send_to(datagram, address) {
            Ok(DATAGRAM_LEN) => Ok(()),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(error) => Err(error),
        }
    }
}
