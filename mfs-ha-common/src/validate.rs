//! From a frame to a verdict: the one function that the XDP program and the host share.
//!
//! A frame is *ours* when it is IPv4 of protocol 112 in our VLAN to our group, does not look like VRRP
//! and carries our vhid; or when it is a UDP datagram to the port of heartbeats and this node has a cluster.
//! What is not ours passes untouched; what is ours is checked from cheap to dear, the digest last, and
//! dropped at the first fault. Rules and order: `docs/protocol.md`, "Frame classes".

mod extension;
mod heartbeat;

use crate::carp::checksum;
use crate::carp::trailer::Unverified;
use crate::carp::wire::{
    AUTH_WORDS, Advert, DIGEST_AT, HEADER_LEN, HEADER_LEN_U16, Packet, TYPE_ADVERT, VERSION,
};
use crate::filter::{FilterConfig, KNOWN_PEERS_ONLY, REJECT_REPEATED_COUNTER, VLAN_ANY};
use crate::heartbeat::Stamp;
use crate::member::{Claim, Cluster};
use crate::net::{
    ETHERTYPE_IPV4, ETHERTYPE_IPV6, Frame, IPV6_LEN, Ipv4, Ipv4Header, LinkLayer, PROTOCOL_CARP,
    PROTOCOL_UDP,
};
use crate::peer::Peers;
use crate::stats::{DropReason, PassReason};

pub use heartbeat::AcceptedHeartbeat;

/// Something whose digest was checked.
///
/// Only validation makes one, and only this type fits into an event of the decision core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// Wraps what the XDP program accepted.
    pub(crate) const fn from_kernel(value: T) -> Self {
        Self(value)
    }

    /// Wraps what was verified when it was recorded.
    #[cfg(feature = "serde")]
    #[must_use]
    pub const fn from_recording(value: T) -> Self {
        Self(value)
    }

    /// Returns the value.
    #[inline(always)]
    #[must_use]
    pub const fn get(&self) -> &T {
        &self.0
    }
}

/// What happens to a frame.
// The tag comes first in memory: the kernel refuses a program whose calls return an enum that keeps it
// anywhere else, because BTF has no words for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// Not for us: up the stack, untouched.
    Pass(PassReason),
    /// For us, but not acceptable.
    Drop(DropReason),
    /// The same, and whoever sent it may be a member that is configured otherwise than we are.
    Mismatch(DropReason, Claimed),
    /// An authenticated advert.
    Accept(Accepted),
    /// An authenticated heartbeat. Nobody reads it from a socket: it goes nowhere after it was recorded.
    Heartbeat(AcceptedHeartbeat),
}

/// Who may be configured otherwise than we are, and where that can be read.
// Single bytes only, as with all that is in a verdict without being in each: of anything wider the compiler
// copies what was never written, and the verifier refuses to load the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimed {
    node: u8,
    version: u8,
    cluster_at: u8,
}

impl Claimed {
    #[inline(always)]
    fn new(node: u8, version: u8, cluster_at: usize) -> Self {
        Self {
            node,
            version,
            cluster_at: u8::try_from(cluster_at).unwrap_or_default(),
        }
    }

    /// Reads the claim from the frame that it was found in.
    #[inline(always)]
    pub fn read<F: Frame + ?Sized>(&self, frame: &F) -> Claim {
        let cluster = frame.load(usize::from(self.cluster_at));
        Claim {
            node: self.node,
            version: self.version,
            cluster: u64::from_be_bytes(cluster.unwrap_or_default()),
        }
    }
}

/// An authenticated advert and where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The advert.
    pub advert: Verified<Advert>,
    /// Source address of the IP header. The digest does not cover it.
    pub source: Ipv4,
    /// Where the frame goes after it was recorded.
    pub delivery: Delivery,
    /// Who signed it, where it has a trailer that was looked at. That covers source and priority too.
    pub extension: Option<Extension>,
}

/// A trailer whose tag was right. What it says is read from its frame: the BPF stack is small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension {
    /// The member.
    pub node: u8,
    trailer: Unverified,
}

impl Extension {
    /// Reads which of the member's adverts this is, from the frame that it was found in.
    #[inline(always)]
    pub fn stamp<F: Frame + ?Sized>(&self, frame: &F) -> Option<Stamp> {
        self.trailer.stamp(frame)
    }
}

/// Where an accepted frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Up the stack too, so that tcpdump and a ucarp on the same host see it.
    PassOn,
    /// Nowhere: to a unicast advert the kernel would answer "protocol unreachable".
    Consume,
}

/// Judges one frame.
#[inline(always)]
#[must_use]
pub fn validate<F: Frame + ?Sized, P: Peers, C: Cluster>(
    frame: &F,
    filter: &FilterConfig,
    peers: &P,
    cluster: &C,
) -> Verdict {
    // Most traffic is neither and shall not pay for a call.
    match classify(frame) {
        Ok(Class::Carp(link)) => validate_advert(frame, &link, filter, peers, cluster),
        Ok(Class::Heartbeat(link)) => heartbeat::validate(frame, &link, cluster),
        Err(reason) => Verdict::Pass(reason),
    }
}

#[inline(always)]
fn validate_advert<F: Frame + ?Sized, P: Peers, C: Cluster>(
    frame: &F,
    link: &LinkLayer,
    filter: &FilterConfig,
    peers: &P,
    cluster: &C,
) -> Verdict {
    let candidate = match examine(frame, link, filter, peers) {
        Examined::Pass(reason) => return Verdict::Pass(reason),
        Examined::Drop(reason) => return Verdict::Drop(reason),
        Examined::Candidate(candidate) => candidate,
    };
    let extension = match extension::check(frame, &candidate, filter, cluster) {
        Ok(extension) => extension,
        Err(refusal) => return refusal,
    };
    if !is_authentic(frame, &candidate, filter) {
        return Verdict::Drop(DropReason::BadAuth);
    }
    Verdict::Accept(Accepted {
        advert: Verified(candidate.advert),
        source: candidate.source,
        delivery: candidate.delivery,
        extension,
    })
}

/// What a check that is a call of its own returns.
///
/// A struct whose every field is written, where an enum would say it: of an enum with values the compiler
/// copies bytes that were never written, and the verifier refuses to load the program.
#[derive(Clone, Copy)]
struct Checked<T> {
    outcome: Outcome,
    /// Why it passes, where that is the outcome.
    pass: PassReason,
    /// Why it is dropped, where that is the outcome.
    drop: DropReason,
    /// What was found; `T`'s own nothing where it passes or is dropped.
    found: T,
}

#[derive(Clone, Copy)]
enum Outcome {
    Found,
    Pass,
    Drop,
    Mismatch,
}

impl<T: Copy> Checked<T> {
    #[inline(always)]
    fn found(found: T) -> Self {
        Self {
            outcome: Outcome::Found,
            pass: PassReason::NotCarp,
            drop: DropReason::Truncated,
            found,
        }
    }

    #[inline(always)]
    fn pass(pass: PassReason, nothing: T) -> Self {
        Self {
            outcome: Outcome::Pass,
            pass,
            ..Self::found(nothing)
        }
    }

    #[inline(always)]
    fn drop(drop: DropReason, nothing: T) -> Self {
        Self {
            outcome: Outcome::Drop,
            drop,
            ..Self::found(nothing)
        }
    }

    #[inline(always)]
    fn mismatch(drop: DropReason, found: T) -> Self {
        Self {
            outcome: Outcome::Mismatch,
            drop,
            ..Self::found(found)
        }
    }
}

/// A frame after everything but its trailer and its digest was checked.
// As with `Verdict`, the tag comes first.
#[repr(u8)]
enum Examined {
    Pass(PassReason),
    Drop(DropReason),
    Candidate(Candidate),
}

/// An advert whose digest is still to be checked.
struct Candidate {
    advert: Advert,
    source: Ipv4,
    delivery: Delivery,
    header_at: usize,
    payload_len: u16,
}

// A call of its own: the header's bytes would take more BPF stack than the HMAC leaves.
#[inline(never)]
fn examine<F: Frame + ?Sized, P: Peers>(
    frame: &F,
    link: &LinkLayer,
    filter: &FilterConfig,
    peers: &P,
) -> Examined {
    match locate(frame, link, filter) {
        Ok(datagram) => match check(frame, &datagram, filter, peers) {
            Ok(candidate) => Examined::Candidate(candidate),
            Err(reason) => Examined::Drop(reason),
        },
        Err(reason) => Examined::Pass(reason),
    }
}

// A call of its own, for the same reason.
#[inline(never)]
fn is_authentic<F: Frame + ?Sized>(
    frame: &F,
    candidate: &Candidate,
    filter: &FilterConfig,
) -> bool {
    let Advert { vhid, counter, .. } = candidate.advert;
    let md_at = candidate.header_at.wrapping_add(DIGEST_AT);
    filter.key.verify(vhid, filter.vip, counter, |index| {
        frame.load(md_at.wrapping_add(index << 2))
    })
}

/// Where our datagram lies in its frame.
struct Datagram {
    ip: Ipv4Header,
    network_at: usize,
    payload_at: usize,
    /// From the IP header, 0 where the stated total length is less than the header.
    payload_len: u16,
}

/// What may be ours.
enum Class {
    /// An IP datagram of protocol 112.
    Carp(LinkLayer),
    /// A UDP datagram to the port of heartbeats.
    Heartbeat(LinkLayer),
}

#[inline(always)]
fn classify<F: Frame + ?Sized>(frame: &F) -> Result<Class, PassReason> {
    let link = LinkLayer::parse(frame).ok_or(PassReason::Runt)?;
    let protocol_at = match link.ethertype {
        ETHERTYPE_IPV4 => link.network_at.wrapping_add(9),
        ETHERTYPE_IPV6 => link.network_at.wrapping_add(6),
        _ => return Err(PassReason::NotCarp),
    };
    match frame.load(protocol_at) {
        Some([PROTOCOL_CARP]) => Ok(Class::Carp(link)),
        Some([PROTOCOL_UDP]) if heartbeat::is_to_port(frame, &link) => Ok(Class::Heartbeat(link)),
        Some(_) => Err(PassReason::NotCarp),
        None => Err(PassReason::Runt),
    }
}

#[inline(always)]
fn locate<F: Frame + ?Sized>(
    frame: &F,
    link: &LinkLayer,
    filter: &FilterConfig,
) -> Result<Datagram, PassReason> {
    if filter.vlan != VLAN_ANY && filter.vlan != link.vlan {
        return Err(PassReason::OtherVlan);
    }
    if link.ethertype == ETHERTYPE_IPV6 {
        return Err(locate_ipv6(frame, link, filter));
    }
    let ip = Ipv4Header::new(frame.load(link.network_at).ok_or(PassReason::Runt)?);
    // A header that claims fewer than five words is refused below; its payload cannot start earlier.
    let header_len = u16::from(ip.header_words().max(5)).wrapping_mul(4);
    let payload_at = link.network_at.wrapping_add(usize::from(header_len));
    let [version_type, vhid, _, authlen] = frame.load(payload_at).ok_or(PassReason::Runt)?;
    let payload_len = ip.total_len().saturating_sub(header_len);
    if is_vrrp(version_type, authlen, payload_len) {
        return Err(PassReason::Vrrp);
    }
    if vhid != filter.vhid || vhid == 0 {
        return Err(PassReason::OtherVhid);
    }
    if ip.destination() != filter.group {
        return Err(PassReason::OtherGroup);
    }
    if filter.vip_count != 1 {
        return Err(PassReason::UnsupportedVips);
    }
    Ok(Datagram {
        ip,
        network_at: link.network_at,
        payload_at,
        payload_len,
    })
}

#[inline(always)]
fn locate_ipv6<F: Frame + ?Sized>(
    frame: &F,
    link: &LinkLayer,
    filter: &FilterConfig,
) -> PassReason {
    let payload_at = link.network_at.wrapping_add(IPV6_LEN);
    let Some([version_type, vhid, _, _]) = frame.load(payload_at) else {
        return PassReason::Runt;
    };
    // VRRP over IPv6 is version 3 only.
    if version_type >> 4 == 3 {
        return PassReason::Vrrp;
    }
    if vhid != filter.vhid || vhid == 0 {
        return PassReason::OtherVhid;
    }
    PassReason::UnsupportedIpv6
}

/// Tells VRRP from CARP: version 3, or version 2 with the length that its address count asks for.
///
/// A VRRPv2 advert has 8 bytes, 4 per address and, by the standard, 8 of authentication data. With 7
/// addresses its third byte is CARP's authlen; with 44 bytes it is VRRP still. Seven addresses without
/// authentication data have CARP's very shape: there the digest decides.
#[inline(always)]
const fn is_vrrp(version_type: u8, count: u8, payload_len: u16) -> bool {
    if version_type >> 4 == 3 {
        return true;
    }
    if version_type != VERSION << 4 | TYPE_ADVERT {
        return false;
    }
    // Widening without `as`: u16::from is not const.
    let addresses = u16::from_le_bytes([count, 0]).wrapping_mul(4);
    let bare = addresses.wrapping_add(8);
    let standard = addresses.wrapping_add(16);
    payload_len == standard || (payload_len == bare && payload_len != HEADER_LEN_U16)
}

#[inline(always)]
fn check<F: Frame + ?Sized, P: Peers>(
    frame: &F,
    datagram: &Datagram,
    filter: &FilterConfig,
    peers: &P,
) -> Result<Candidate, DropReason> {
    let ip = &datagram.ip;
    if ip.version() != 4 || ip.header_words() < 5 {
        return Err(DropReason::BadIpHeader);
    }
    if ip.header_words() > 5 {
        return Err(DropReason::IpOptions);
    }
    if ip.is_fragment() {
        return Err(DropReason::Fragment);
    }
    let end = datagram
        .network_at
        .wrapping_add(usize::from(ip.total_len()));
    if end > frame.len() {
        return Err(DropReason::Truncated);
    }
    if datagram.payload_len < HEADER_LEN_U16 {
        return Err(DropReason::BadLen);
    }
    if ip.ttl() != 255 {
        return Err(DropReason::BadTtl);
    }
    // The total length was compared with the frame above, so this load does not fail; the verifier
    // wants to see it checked all the same.
    let bytes: [u8; HEADER_LEN] = frame
        .load(datagram.payload_at)
        .ok_or(DropReason::Truncated)?;
    let packet = Packet::new(bytes);
    check_packet(&packet, ip, filter)?;
    // Two sums: errors that cancel in one sum over both headers are what ucarp lets through.
    if !checksum::adds_up::<10, _>(frame, datagram.network_at) {
        return Err(DropReason::BadIpSum);
    }
    if !checksum::adds_up::<18, _>(frame, datagram.payload_at) {
        return Err(DropReason::BadSum);
    }
    check_peer(&packet, ip.source(), filter, peers)?;
    let [first_octet, ..] = ip.destination();
    Ok(Candidate {
        advert: packet.advert(),
        source: ip.source(),
        delivery: if first_octet >= 224 {
            Delivery::PassOn
        } else {
            Delivery::Consume
        },
        header_at: datagram.payload_at,
        payload_len: datagram.payload_len,
    })
}

/// What single fields of the header decide.
#[inline(always)]
fn check_packet(packet: &Packet, ip: &Ipv4Header, filter: &FilterConfig) -> Result<(), DropReason> {
    if packet.version() != VERSION {
        return Err(DropReason::BadVersion);
    }
    if packet.packet_type() != TYPE_ADVERT {
        return Err(DropReason::BadType);
    }
    if packet.auth_words() != AUTH_WORDS {
        return Err(DropReason::BadAuthlen);
    }
    if ip.source() == filter.source {
        return Err(DropReason::OwnSource);
    }
    Ok(())
}

/// What depends on who sent before.
#[inline(always)]
fn check_peer<P: Peers>(
    packet: &Packet,
    source: Ipv4,
    filter: &FilterConfig,
    peers: &P,
) -> Result<(), DropReason> {
    if !filter.has(KNOWN_PEERS_ONLY | REJECT_REPEATED_COUNTER) {
        return Ok(());
    }
    let Some(peer) = peers.find(source) else {
        return if filter.has(KNOWN_PEERS_ONLY) {
            Err(DropReason::UnknownPeer)
        } else {
            Ok(())
        };
    };
    let is_repeated = peer.adverts > 0 && peer.counter == u64::from_be_bytes(packet.counter());
    if is_repeated && filter.has(REJECT_REPEATED_COUNTER) {
        return Err(DropReason::RepeatedCounter);
    }
    Ok(())
}
