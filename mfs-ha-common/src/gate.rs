//! The gate: while the lease is over, nothing reaches the VIP and nothing leaves it.
//!
//! The daemon writes until when it holds its lease ([`LeaseState`]); the programs in the kernel compare with
//! the clock, frame by frame. So a daemon that is frozen, killed or late stops serving at the end of its
//! lease, with its address still configured and its mfsmaster still running. Rules G1 to G8 are stated in
//! `docs/protocol.md`.
//!
//! It is stateless: what is open is decided by [`Node`](crate::node::Node), who is fenced by whoever writes
//! [`Fence`].

use bytemuck::{Pod, Zeroable};

use crate::net::{ETHERTYPE_ARP, ETHERTYPE_IPV4, Frame, IPV4_LEN, Ipv4, Ipv4Header, PROTOCOL_TCP};
use crate::stats::GateReason;
use crate::time::Timestamp;

/// Service ports that are opened one after the other.
pub const SERVICES: usize = 3;

/// Bit of [`LeaseState::open`]: the port for metaloggers, 9419 by default.
pub const OPEN_METALOGGERS: u32 = 1 << 0;
/// Bit of [`LeaseState::open`]: the port for chunkservers, 9420 by default.
pub const OPEN_CHUNKSERVERS: u32 = 1 << 1;
/// Bit of [`LeaseState::open`]: the port for clients, 9421 by default.
pub const OPEN_CLIENTS: u32 = 1 << 2;

/// Names of the bits of [`LeaseState::open`], lowest first.
pub const SERVICE_NAMES: [&str; SERVICES] = ["metaloggers", "chunkservers", "clients"];

/// The most that a lease epoch may rise by what one member says (as in the election).
const EPOCH_STEP_MAX: u64 = 1 << 32;

/// Value of LEASE: until when this node serves, and what. Written by the heartbeat thread alone.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable, PartialEq, Eq)]
#[repr(C)]
pub struct LeaseState {
    /// The end, nanoseconds of `CLOCK_BOOTTIME`. 0: closed.
    pub until_ns: u64,
    /// The lease epoch; 0 in carp mode.
    pub epoch: u64,
    /// The lease epoch of the holder that this standby follows; 0: it follows nobody.
    pub follows: u64,
    /// How long after its last heartbeat that holder may still be followed, nanoseconds. 0: whoever has the VIP
    /// may be followed, as in carp mode.
    pub follow_span_ns: u64,
    /// The virtual address; 0.0.0.0: there is none to guard, as before the first write.
    pub vip: Ipv4,
    /// Which of `ports` are open, a bit for each.
    pub open: u32,
    /// The service ports, as on the wire; 0: none.
    pub ports: [[u8; 2]; SERVICES],
    /// Zero.
    pub reserved: [u8; 2],
}

/// Value of FENCE: the highest lease epoch of which another node said that it holds it (rules G6 and G9). Written
/// by the XDP program alone.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable, PartialEq, Eq)]
#[repr(C)]
pub struct Fence {
    /// That epoch; 0: none was heard.
    pub epoch: u64,
    /// When it was heard first, nanoseconds of `CLOCK_BOOTTIME`.
    pub since_ns: u64,
    /// When it was heard last.
    pub heard_ns: u64,
    /// Who holds it.
    pub node: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

impl LeaseState {
    /// Says whether there is a virtual address to guard.
    #[inline(always)]
    #[must_use]
    pub const fn guards(&self) -> bool {
        u32::from_ne_bytes(self.vip) != 0
    }

    /// Says whether this node may serve. `fence` is asked only where the time has not run out.
    #[inline(always)]
    pub fn is_open(&self, now: Timestamp, fence: impl FnOnce() -> Fence) -> bool {
        now.as_nanos() < self.until_ns && fence().epoch <= self.epoch
    }

    /// Says whether what the master at the VIP sends to this standby may come in (rule G9): it is the holder that is
    /// followed, and was heard to be that just now.
    #[inline(always)]
    fn admits_master(&self, now: Timestamp, fence: Fence) -> bool {
        let age = now.as_nanos().saturating_sub(fence.heard_ns);
        self.follow_span_ns == 0 || (fence.epoch == self.follows && age < self.follow_span_ns)
    }

    /// Says whether a service port may be talked to. Ports that are none of the services are open.
    #[inline(always)]
    const fn admits(&self, port: [u8; 2]) -> bool {
        let port = u16::from_ne_bytes(port);
        let [metaloggers, chunkservers, clients] = self.ports;
        let bit = if port == u16::from_ne_bytes(metaloggers) {
            OPEN_METALOGGERS
        } else if port == u16::from_ne_bytes(chunkservers) {
            OPEN_CHUNKSERVERS
        } else if port == u16::from_ne_bytes(clients) {
            OPEN_CLIENTS
        } else {
            return true;
        };
        self.open & bit != 0
    }
}

impl Fence {
    /// Returns what becomes of it when a member says that it holds a lease; `None` where that changes nothing.
    /// A number that no cluster reaches is a mistake, and would close this node for ever.
    #[inline(always)]
    #[must_use]
    pub const fn heard(self, epoch: u64, node: u8, own: u64, now: Timestamp) -> Option<Self> {
        let known = if self.epoch > own { self.epoch } else { own };
        let is_plausible = epoch <= known.saturating_add(EPOCH_STEP_MAX);
        if epoch < self.epoch || epoch == 0 || !is_plausible {
            return None;
        }
        let heard_ns = now.as_nanos();
        let is_new = epoch > self.epoch;
        Some(Self {
            epoch,
            since_ns: if is_new { heard_ns } else { self.since_ns },
            heard_ns,
            node,
            reserved: [0; 7],
        })
    }
}

/// Which way a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To this host.
    In,
    /// From it.
    Out,
}

/// Returns why the gate drops a frame, or `None` where it lets it pass (rule G1, rule G2, rule G4 and rule G9).
///
/// `network_at` is where the network header begins in `frame`. `fence` and `clock` are asked only about
/// frames that name the VIP: everything else costs the look at [`LeaseState`] alone (rule G7).
#[inline(always)]
pub fn judge<F: Frame + ?Sized>(
    frame: &F,
    ethertype: [u8; 2],
    network_at: usize,
    direction: Direction,
    lease: &LeaseState,
    clock: impl FnOnce() -> Timestamp,
    fence: impl FnOnce() -> Fence,
) -> Option<GateReason> {
    if !lease.guards() {
        return None;
    }
    match ethertype {
        ETHERTYPE_IPV4 => {
            let header = Ipv4Header::new(frame.load::<IPV4_LEN>(network_at)?);
            let (named, reason) = match direction {
                Direction::In => (header.destination(), GateReason::Entry),
                Direction::Out => (header.source(), GateReason::Exit),
            };
            if u32::from_ne_bytes(named) != u32::from_ne_bytes(lease.vip) {
                return judge_master(frame, &header, network_at, direction, lease, clock, fence);
            }
            if !lease.is_open(clock(), fence) {
                return Some(reason);
            }
            let is_closed = service_port(frame, &header, network_at, direction)
                .is_some_and(|port| !lease.admits(port));
            is_closed.then_some(GateReason::Service)
        }
        ETHERTYPE_ARP => {
            let arp = Arp(frame.load(network_at)?);
            let is_about_vip = match direction {
                Direction::In => arp.asks_for(lease.vip),
                Direction::Out => arp.is_from(lease.vip),
            };
            let is_closed = is_about_vip && !lease.is_open(clock(), fence);
            is_closed.then_some(GateReason::Arp)
        }
        _ => None,
    }
}

/// Judges what another node sends from the VIP: what its mfsmaster tells a metalogger comes in only where that
/// one is followed (rule G9).
#[inline(always)]
fn judge_master<F: Frame + ?Sized>(
    frame: &F,
    header: &Ipv4Header,
    network_at: usize,
    direction: Direction,
    lease: &LeaseState,
    clock: impl FnOnce() -> Timestamp,
    fence: impl FnOnce() -> Fence,
) -> Option<GateReason> {
    let is_from_vip = u32::from_ne_bytes(header.source()) == u32::from_ne_bytes(lease.vip);
    if direction == Direction::Out || !is_from_vip || lease.follow_span_ns == 0 {
        return None;
    }
    // The far end's port is the one that stands where our own would in what we send.
    let port = service_port(frame, header, network_at, Direction::Out)?;
    let [metaloggers, ..] = lease.ports;
    let is_to_metalogger = u16::from_ne_bytes(port) == u16::from_ne_bytes(metaloggers);
    let is_refused = is_to_metalogger && !lease.admits_master(clock(), fence());
    is_refused.then_some(GateReason::Barrier)
}

/// Returns the port on this host's side of a TCP segment; `None` where there is none, as in a later fragment:
/// without the first one it is worth nothing.
#[inline(always)]
fn service_port<F: Frame + ?Sized>(
    frame: &F,
    header: &Ipv4Header,
    network_at: usize,
    direction: Direction,
) -> Option<[u8; 2]> {
    if header.protocol() != PROTOCOL_TCP || header.is_later_fragment() {
        return None;
    }
    let header_len = usize::from(header.header_words()) << 2;
    let [s0, s1, d0, d1] = frame.load::<4>(network_at.wrapping_add(header_len))?;
    Some(match direction {
        Direction::In => [d0, d1],
        Direction::Out => [s0, s1],
    })
}

/// Bytes of an ARP message about IPv4 over Ethernet.
const ARP_LEN: usize = 28;

/// An ARP message about IPv4 over Ethernet. Others have their fields elsewhere, and no host answers them.
struct Arp([u8; ARP_LEN]);

impl Arp {
    const REQUEST: [u8; 2] = [0, 1];

    /// Says whether this asks who has `address`. An announcement, which names the same sender, does not: it
    /// tells a standby who is master.
    #[inline(always)]
    const fn asks_for(&self, address: Ipv4) -> bool {
        let b = &self.0;
        let is_request = u16::from_ne_bytes([b[6], b[7]]) == u16::from_ne_bytes(Self::REQUEST);
        let target = u32::from_ne_bytes([b[24], b[25], b[26], b[27]]);
        is_request && target == u32::from_ne_bytes(address) && !self.is_from(address)
    }

    /// Says whether `address` is the sender's.
    #[inline(always)]
    const fn is_from(&self, address: Ipv4) -> bool {
        let b = &self.0;
        u32::from_ne_bytes([b[14], b[15], b[16], b[17]]) == u32::from_ne_bytes(address)
    }
}

/// What the gate has to be, as a node says it: the part of [`LeaseState`] that changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Gate {
    /// Until when this node may serve; the beginning of the clock where it may not.
    pub until: Timestamp,
    /// Under which lease epoch; 0 in carp mode.
    pub epoch: u64,
    /// Which services may be talked to, as in [`LeaseState::open`].
    pub open: u32,
}

impl Gate {
    /// Nothing may be served.
    pub const CLOSED: Self = Self {
        until: Timestamp::from_nanos(0),
        epoch: 0,
        open: 0,
    };

    /// Says whether this node may serve at all.
    #[must_use]
    pub fn is_open(self, now: Timestamp) -> bool {
        now < self.until
    }
}

#[cfg(test)]
mod tests;
