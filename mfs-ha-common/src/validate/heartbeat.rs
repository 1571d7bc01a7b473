//! Heartbeats: UDP datagrams of one length to one port, from a member to this node.
//!
//! Addresses are not looked at: the body says who speaks to whom, and the tag covers the body. It covers
//! more than the UDP checksum does, which is not looked at either: between virtual machines and network
//! namespaces it is left to be filled in by hardware that never sees the frame. UDP behind an IPv6 extension
//! header is not found and passes.

use super::{Refusal, Verdict};
use crate::filter::{ClusterConfig, HEARTBEATS, PREVIOUS_KEY, VLAN_ANY};
use crate::heartbeat::auth::{self, BODY_WORDS};
use crate::heartbeat::{
    BODY_LEN, DATAGRAM_LEN, KIND_HEARTBEAT, MAGIC, PORT, Stamp, TagKey, VERSION,
};
use crate::member::{Claim, Cluster, MemberKey};
use crate::net::{
    ETHERTYPE_IPV6, Frame, IPV4_LEN, IPV6_LEN, Ipv4Header, Ipv6, LinkLayer, UDP_LEN, mapped,
};
use crate::stats::{DropReason, PassReason};

/// Bytes of the body that keep their places in every version: magic, version, kind, ids.
const PREFIX_LEN: usize = 16;
const UDP_AND_PREFIX_LEN: u16 = 8 + 16;
const UDP_LEN_EXACT: u16 = 8 + 168;
const _: () = assert!(UDP_LEN + DATAGRAM_LEN == 8 + 168 && UDP_LEN + PREFIX_LEN == 8 + 16);

/// An authenticated heartbeat: where it lies in its frame, and what the kernel keeps of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptedHeartbeat {
    /// Who sent it.
    pub sender: u8,
    /// Which of the keys the tag is right under: 0 the current one, 1 the one before it.
    pub key: u8,
    // Where the IP header is: one byte, so that the verifier knows a bound whichever way it went.
    network_at: u8,
    is_ipv6: bool,
}

impl AcceptedHeartbeat {
    /// Returns the offset of the body in the frame; there are [`BODY_LEN`] bytes of it.
    #[inline(always)]
    #[must_use]
    pub fn body_at(&self) -> usize {
        let ip_len = if self.is_ipv6 { IPV6_LEN } else { IPV4_LEN };
        usize::from(self.network_at).wrapping_add(ip_len.wrapping_add(UDP_LEN))
    }

    /// Reads which round of its sender it belongs to, from the frame that it was found in.
    #[inline(always)]
    pub fn stamp<F: Frame + ?Sized>(&self, frame: &F) -> Option<Stamp> {
        load_stamp(frame, self.body_at().wrapping_add(PREFIX_LEN))
    }

    /// Reads the source address, an IPv4 one as ::ffff:a.b.c.d. The tag does not cover it.
    #[inline(always)]
    pub fn source<F: Frame + ?Sized>(&self, frame: &F) -> Option<Ipv6> {
        let network_at = usize::from(self.network_at);
        if self.is_ipv6 {
            return frame.load(network_at.wrapping_add(8));
        }
        frame.load(network_at.wrapping_add(12)).map(mapped)
    }
}

/// Says whether a UDP datagram is sent to the port of heartbeats.
#[inline(always)]
pub(super) fn is_to_port<F: Frame + ?Sized>(frame: &F, link: &LinkLayer) -> bool {
    let header_len = if link.ethertype == ETHERTYPE_IPV6 {
        IPV6_LEN
    } else {
        // A header that claims fewer than five words is refused below; its payload cannot start earlier.
        match frame.load(link.network_at) {
            Some([first]) => usize::from((first & 0x0f).max(5)) << 2,
            None => return false,
        }
    };
    let port_at = link.network_at.wrapping_add(header_len).wrapping_add(2);
    frame.load(port_at) == Some(PORT.to_be_bytes())
}

/// Judges a UDP datagram to the port of heartbeats.
// A call of its own: adverts need the BPF stack for themselves.
#[inline(never)]
pub(super) fn validate<F: Frame + ?Sized, C: Cluster>(
    frame: &F,
    link: &LinkLayer,
    cluster: &C,
) -> Verdict {
    let (mut accepted, claim) = match examine(frame, link, cluster) {
        Ok(examined) => examined,
        Err(refusal) => return refusal.into(),
    };
    match find_key(frame, accepted.body_at(), cluster) {
        Some(key) => {
            accepted.key = key;
            Verdict::Heartbeat(accepted)
        }
        None => Verdict::Mismatch(DropReason::BadTag, claim),
    }
}

/// Everything but the tag.
// A call of its own: the headers' bytes need not be on the BPF stack while the tag is computed.
#[inline(never)]
fn examine<F: Frame + ?Sized, C: Cluster>(
    frame: &F,
    link: &LinkLayer,
    cluster: &C,
) -> Result<(AcceptedHeartbeat, Claim), Refusal> {
    let config = cluster
        .config()
        .filter(|config| config.has(HEARTBEATS))
        .ok_or(Refusal::Pass(PassReason::NotCarp))?;
    if config.vlan != VLAN_ANY && config.vlan != link.vlan {
        return Err(Refusal::Pass(PassReason::OtherVlan));
    }
    let datagram = if link.ethertype == ETHERTYPE_IPV6 {
        locate_ipv6(frame, link)?
    } else {
        locate_ipv4(frame, link)?
    };
    check(frame, &datagram, config, cluster)
}

/// Where a UDP datagram lies in its frame.
struct Datagram {
    network_at: usize,
    is_ipv6: bool,
    udp_at: usize,
    /// From the IP header.
    udp_len: u16,
}

#[inline(always)]
fn locate_ipv4<F: Frame + ?Sized>(frame: &F, link: &LinkLayer) -> Result<Datagram, Refusal> {
    // The port was loaded from behind this header.
    let ip = frame
        .load(link.network_at)
        .ok_or(Refusal::Pass(PassReason::NotCarp))?;
    let ip = Ipv4Header::new(ip);
    // What stands in the place of the port is no port.
    if ip.is_later_fragment() {
        return Err(Refusal::Pass(PassReason::NotCarp));
    }
    if ip.version() != 4 || ip.header_words() < 5 {
        return Err(Refusal::Drop(DropReason::BadIpHeader));
    }
    if ip.header_words() > 5 {
        return Err(Refusal::Drop(DropReason::IpOptions));
    }
    if ip.is_fragment() {
        return Err(Refusal::Drop(DropReason::Fragment));
    }
    let end = link.network_at.wrapping_add(usize::from(ip.total_len()));
    if end > frame.len() {
        return Err(Refusal::Drop(DropReason::Truncated));
    }
    Ok(Datagram {
        network_at: link.network_at,
        is_ipv6: false,
        udp_at: link.network_at.wrapping_add(IPV4_LEN),
        udp_len: ip.total_len().saturating_sub(20),
    })
}

#[inline(always)]
fn locate_ipv6<F: Frame + ?Sized>(frame: &F, link: &LinkLayer) -> Result<Datagram, Refusal> {
    // The port was loaded from behind this header.
    let no_header = Refusal::Pass(PassReason::NotCarp);
    let [version, _, _, _, len_high, len_low] = frame.load(link.network_at).ok_or(no_header)?;
    if version >> 4 != 6 {
        return Err(Refusal::Drop(DropReason::BadIpHeader));
    }
    let udp_at = link.network_at.wrapping_add(IPV6_LEN);
    let udp_len = u16::from_be_bytes([len_high, len_low]);
    if udp_at.wrapping_add(usize::from(udp_len)) > frame.len() {
        return Err(Refusal::Drop(DropReason::Truncated));
    }
    Ok(Datagram {
        network_at: link.network_at,
        is_ipv6: true,
        udp_at,
        udp_len,
    })
}

#[inline(always)]
fn check<F: Frame + ?Sized, C: Cluster>(
    frame: &F,
    datagram: &Datagram,
    config: &ClusterConfig,
    cluster: &C,
) -> Result<(AcceptedHeartbeat, Claim), Refusal> {
    let body_at = datagram.udp_at.wrapping_add(UDP_LEN);
    let not_heartbeat = Refusal::Drop(DropReason::NotHeartbeat);
    if datagram.udp_len < UDP_AND_PREFIX_LEN {
        return Err(not_heartbeat);
    }
    let ids = frame.load(body_at).ok_or(not_heartbeat)?;
    let [m0, m1, m2, m3, version, kind, sender, receiver] = ids;
    if [m0, m1, m2, m3] != MAGIC {
        return Err(not_heartbeat);
    }
    let cluster_at = body_at.wrapping_add(8);
    let claim = Claim {
        node: sender,
        version,
        cluster: u64::from_be_bytes(frame.load(cluster_at).ok_or(not_heartbeat)?),
    };
    // Before the length: another version has another one, and shall be named.
    if version != VERSION {
        return Err(Refusal::Mismatch(DropReason::OtherVersion, claim));
    }
    let stated_len = frame.load(datagram.udp_at.wrapping_add(4));
    if datagram.udp_len != UDP_LEN_EXACT || stated_len != Some(UDP_LEN_EXACT.to_be_bytes()) {
        return Err(Refusal::Drop(DropReason::BadHeartbeatLen));
    }
    if kind != KIND_HEARTBEAT {
        return Err(Refusal::Drop(DropReason::BadKind));
    }
    if claim.cluster != config.cluster {
        return Err(Refusal::Mismatch(DropReason::OtherCluster, claim));
    }
    if receiver != config.node {
        return Err(Refusal::Drop(DropReason::OtherReceiver));
    }
    if sender == config.node {
        return Err(Refusal::Drop(DropReason::OwnNode));
    }
    let last = cluster
        .last(MemberKey::heartbeat(sender))
        .ok_or(Refusal::Drop(DropReason::UnknownMember))?;
    let stamp = load_stamp(frame, body_at.wrapping_add(PREFIX_LEN))
        .ok_or(Refusal::Drop(DropReason::BadHeartbeatLen))?;
    if !stamp.is_newer_than(last) {
        return Err(Refusal::Drop(DropReason::Replayed));
    }
    let accepted = AcceptedHeartbeat {
        network_at: u8::try_from(datagram.network_at).unwrap_or_default(),
        sender,
        key: 0,
        is_ipv6: datagram.is_ipv6,
    };
    Ok((accepted, claim))
}

#[inline(always)]
fn load_stamp<F: Frame + ?Sized>(frame: &F, at: usize) -> Option<Stamp> {
    Some(Stamp {
        boot: u64::from_be_bytes(frame.load(at)?),
        sequence: u64::from_be_bytes(frame.load(at.wrapping_add(8))?),
    })
}

/// Returns which key the tag is right under.
#[inline(always)]
fn find_key<F: Frame + ?Sized, C: Cluster>(frame: &F, body_at: usize, cluster: &C) -> Option<u8> {
    let config = cluster.config()?;
    let [current, previous] = &config.keys;
    if is_authentic(frame, body_at, current) {
        return Some(0);
    }
    (config.has(PREVIOUS_KEY) && is_authentic(frame, body_at, previous)).then_some(1)
}

// A call of its own: it is long, and there may be two keys to try.
#[inline(never)]
fn is_authentic<F: Frame + ?Sized>(frame: &F, body_at: usize, key: &TagKey) -> bool {
    let Some(tag) = frame.load(body_at.wrapping_add(BODY_LEN)) else {
        return false;
    };
    let sum = key.sum::<BODY_WORDS>(|index| frame.load(body_at.wrapping_add(index << 3)));
    sum.is_some_and(|sum| auth::is_equal(sum, &tag))
}
