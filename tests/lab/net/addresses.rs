//! Which node holds the VIP, from the kernel's own address events (RTM_NEWADDR, RTM_DELADDR).
//!
//! It complements the ARP judge: an address event is the moment at which a node can answer at all.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt,
    socket, sockopt,
};

use super::netns::{Namespace, run};
use crate::judge::address_log::{AddressEvent, AddressLog};
use crate::judge::prober::{PRIORITY, make_realtime};

/// RTMGRP_IPV4_IFADDR of rtnetlink(7).
const ADDRESS_GROUP: u32 = 0x10;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const IFA_LOCAL: u16 = 2;
const MESSAGE_HEADER_LENGTH: usize = 16;
const ADDRESS_HEADER_LENGTH: usize = 8;
const ATTRIBUTE_HEADER_LENGTH: usize = 4;
/// A flapping daemon makes tens of events a second; a million is a broken lab.
const EVENTS_MAX: usize = 1_000_000;

/// Watches one address in several namespaces until dropped.
#[derive(Debug)]
pub struct AddressWatch {
    stop: Arc<AtomicBool>,
    log: Arc<Mutex<AddressLog>>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl AddressWatch {
    /// Starts to watch `address` in `nodes`; the first one counts as node 1.
    ///
    /// # Errors
    /// When a netlink socket cannot be opened.
    pub fn start(nodes: &[&Namespace], address: Ipv4Addr) -> Result<Self> {
        let sockets: Vec<OwnedFd> = nodes.iter().map(|node| open(node)).collect::<Result<_>>()?;
        let mut initial = BTreeSet::new();
        for (index, node) in nodes.iter().enumerate() {
            if holds(node, address)? {
                initial.insert(index + 1);
            }
        }
        let log = Arc::new(Mutex::new(AddressLog::new(initial)));
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, started) = mpsc::channel();
        let thread = {
            let (log, stop) = (Arc::clone(&log), Arc::clone(&stop));
            thread::Builder::new()
                .name("addresses".to_owned())
                .spawn(move || {
                    ready.send(nix::unistd::gettid()).ok();
                    watch(&sockets, address, &log, &stop)
                })
                .context("start the address watch")?
        };
        make_realtime(
            started.recv().context("the address watch ended at once")?,
            PRIORITY,
        )?;
        Ok(Self {
            stop,
            log,
            thread: Some(thread),
        })
    }

    /// What was seen so far.
    ///
    /// # Errors
    /// When the watch broke off, so that the log would be incomplete.
    pub fn log(&self) -> Result<AddressLog> {
        if self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            bail!("the address watch broke off");
        }
        Ok(self
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone())
    }

    /// Ends the watch and returns the whole log.
    ///
    /// # Errors
    /// When the watch had failed or missed events.
    pub fn finish(mut self) -> Result<AddressLog> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread
                .join()
                .map_err(|_panic| anyhow!("the address watch panicked"))??;
        }
        Ok(self
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone())
    }
}

impl Drop for AddressWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A broken watch has been reported by log() where it mattered.
            thread.join().ok();
        }
    }
}

/// Whether `address` is configured in `namespace` at this moment.
///
/// # Errors
/// When `ip` fails.
pub fn holds(namespace: &Namespace, address: Ipv4Addr) -> Result<bool> {
    let listing = run(namespace
        .command("ip")
        .args(["-4", "-oneline", "addr", "show"]))?;
    let wanted = format!("{address}/");
    Ok(listing
        .split_whitespace()
        .any(|word| word.starts_with(&wanted)))
}

fn open(namespace: &Namespace) -> Result<OwnedFd> {
    namespace.enter(|| {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkRoute,
        )
        .context("open a netlink socket")?;
        setsockopt(&socket, sockopt::RcvBufForce, &(1 << 20)).context("enlarge its buffer")?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, ADDRESS_GROUP))
            .context("join the address group")?;
        Ok(socket)
    })
}

fn watch(
    sockets: &[OwnedFd],
    address: Ipv4Addr,
    log: &Mutex<AddressLog>,
    stop: &AtomicBool,
) -> Result<()> {
    let mut buffer = vec![0; 64 << 10];
    while !stop.load(Ordering::Relaxed) {
        let mut waiting: Vec<PollFd<'_>> = sockets
            .iter()
            .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
            .collect();
        match poll(&mut waiting, PollTimeout::from(50_u8)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("wait for address events"),
        }
        for (index, socket) in sockets.iter().enumerate() {
            loop {
                let length = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                    Ok(length) => length,
                    Err(Errno::EAGAIN | Errno::EINTR) => break,
                    // ENOBUFS means lost events: a judge with holes in its record must not judge.
                    Err(error) => return Err(error).context("read address events"),
                };
                let at = Instant::now();
                let datagram = buffer.get(..length).unwrap_or_default();
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                for present in changes(datagram, address) {
                    log.record(AddressEvent {
                        at,
                        node: index + 1,
                        present,
                    });
                }
                if log.events.len() > EVENTS_MAX {
                    bail!("more than {EVENTS_MAX} address events");
                }
            }
        }
    }
    Ok(())
}

/// The appearances (true) and disappearances (false) of `address` in one netlink datagram.
fn changes(datagram: &[u8], address: Ipv4Addr) -> Vec<bool> {
    let mut found = Vec::new();
    let mut rest = datagram;
    while let Some((length, kind)) = u32_at(rest, 0).zip(u16_at(rest, 4)) {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(message) = rest.get(MESSAGE_HEADER_LENGTH..length) else {
            break;
        };
        if [RTM_NEWADDR, RTM_DELADDR].contains(&kind) && local_address(message) == Some(address) {
            found.push(kind == RTM_NEWADDR);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn local_address(message: &[u8]) -> Option<Ipv4Addr> {
    let mut rest = message.get(ADDRESS_HEADER_LENGTH..)?;
    loop {
        let length = usize::from(u16_at(rest, 0)?);
        let value = rest.get(ATTRIBUTE_HEADER_LENGTH..length)?;
        if u16_at(rest, 2)? == IFA_LOCAL {
            return <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let field = bytes.get(offset..offset.checked_add(2)?)?;
    Some(u16::from_ne_bytes(field.try_into().ok()?))
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let field = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_ne_bytes(field.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 100);

    fn message(kind: u16, attribute: u16, address: Ipv4Addr) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&32_u32.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&[0; 10]);
        bytes.extend_from_slice(&[2, 24, 0, 0, 4, 0, 0, 0]);
        bytes.extend_from_slice(&8_u16.to_ne_bytes());
        bytes.extend_from_slice(&attribute.to_ne_bytes());
        bytes.extend_from_slice(&address.octets());
        bytes
    }

    #[test]
    fn both_kinds_of_change_are_read_from_one_datagram() {
        let mut bytes = message(RTM_NEWADDR, IFA_LOCAL, VIP);
        bytes.extend(message(RTM_DELADDR, IFA_LOCAL, VIP));
        assert_eq!(changes(&bytes, VIP), [true, false]);
    }

    #[test]
    fn other_addresses_attributes_and_messages_are_ignored() {
        let other = Ipv4Addr::new(10, 77, 0, 1);
        assert!(changes(&message(RTM_NEWADDR, IFA_LOCAL, other), VIP).is_empty());
        assert!(changes(&message(RTM_NEWADDR, 1, VIP), VIP).is_empty());
        assert!(changes(&message(16, IFA_LOCAL, VIP), VIP).is_empty());
    }

    #[test]
    fn truncated_datagrams_end_quietly() {
        let bytes = message(RTM_NEWADDR, IFA_LOCAL, VIP);
        for length in 0..bytes.len() {
            assert!(changes(&bytes[..length], VIP).is_empty());
        }
        assert!(changes(&[0; 64], VIP).is_empty());
    }
}
