//! Heartbeats: UDP datagrams of one length to one port, from a member to this node.
//!
//! Addresses are not looked at: the body says who speaks to whom, and the tag covers the body. It covers
//! more than the UDP checksum does, which is not looked at either: between virtual machines and network
//! namespaces it is left to be filled in by hardware that never sees the frame. UDP behind an IPv6 extension
//! header is not found and passes.

use super::{Checked, Claimed, Outcome, Verdict};
use crate::filter::{ClusterConfig, HEARTBEATS, PREVIOUS_KEY, VLAN_ANY};
use crate::heartbeat::auth::{self, BODY_WORDS};
use crate::heartbeat::{
    BODY_LEN, DATAGRAM_LEN, FLAGS_AT, Flags, KIND_HEARTBEAT, MAGIC, PHASE_ACTIVE, PHASE_AT, PORT,
    REQUEST_AT, Stamp, TagKey, VERSION,
};
use crate::member::{Cluster, MemberKey};
use crate::net::{
    ETHERTYPE_IPV6, Frame, IPV4_LEN, IPV6_LEN, Ipv4Header, Ipv6, LinkLayer, UDP_LEN, mapped,
};
use crate::stats::{DropReason, PassReason};

/// Bytes of the body that keep their places in every version: magic, version, kind, ids.
const PREFIX_LEN: usize = 16;
const CLUSTER_AT: usize = 8;
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

    /// Reads which lease epoch its sender holds; `None` where it holds none.
    #[inline(always)]
    pub fn held_epoch<F: Frame + ?Sized>(&self, frame: &F) -> Option<u64> {
        let body_at = self.body_at();
        let flags = frame.load(body_at.wrapping_add(FLAGS_AT))?;
        let epoch = frame.load(body_at.wrapping_add(REQUEST_AT))?;
        Flags::from_wire(flags)
            .has(Flags::HOLDS)
            .then_some(u64::from_be_bytes(epoch))
    }

    /// Says whether its sender serves.
    #[inline(always)]
    pub fn serves<F: Frame + ?Sized>(&self, frame: &F) -> bool {
        let phase = frame.load(self.body_at().wrapping_add(PHASE_AT));
        phase == Some([PHASE_ACTIVE])
    }

    #[inline(always)]
    fn claimed<F: Frame + ?Sized>(&self, frame: &F) -> Claimed {
        let body_at = self.body_at();
        let [version] = frame.load(body_at.wrapping_add(4)).unwrap_or_default();
        Claimed::new(self.sender, version, body_at.wrapping_add(CLUSTER_AT))
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

/// No heartbeat.
const NONE: AcceptedHeartbeat = AcceptedHeartbeat {
    sender: 0,
    key: 0,
    network_at: 0,
    is_ipv6: false,
};

type Examined = Checked<AcceptedHeartbeat>;

/// Judges a UDP datagram to the port of heartbeats.
// A call of its own: adverts need the BPF stack for themselves.
#[inline(never)]
pub(super) fn validate<F: Frame + ?Sized, C: Cluster>(
    frame: &F,
    link: &LinkLayer,
    cluster: &C,
) -> Verdict {
    let checked = examine(frame, link, cluster);
    let mut accepted = checked.found;
    match checked.outcome {
        Outcome::Pass => return Verdict::Pass(checked.pass),
        Outcome::Drop => return Verdict::Drop(checked.drop),
        Outcome::Mismatch => return Verdict::Mismatch(checked.drop, accepted.claimed(frame)),
        Outcome::Found => {}
    }
    match find_key(frame, accepted.body_at(), cluster) {
        Some(key) => {
            accepted.key = key;
            Verdict::Heartbeat(accepted)
        }
        None => Verdict::Mismatch(DropReason::BadTag, accepted.claimed(frame)),
    }
}

/// Everything but the tag.
// A call of its own: the headers' bytes need not be on the BPF stack while the tag is computed.
#[inline(never)]
fn examine<F: Frame + ?Sized, C: Cluster>(frame: &F, link: &LinkLayer, cluster: &C) -> Examined {
    let config = cluster.config().filter(|config| config.has(HEARTBEATS));
    let Some(config) = config else {
        return Examined::pass(PassReason::NotCarp, NONE);
    };
    if config.vlan != VLAN_ANY && config.vlan != link.vlan {
        return Examined::pass(PassReason::OtherVlan, NONE);
    }
    let located = if link.ethertype == ETHERTYPE_IPV6 {
        locate_ipv6(frame, link)
    } else {
        locate_ipv4(frame, link)
    };
    match located {
        Ok(datagram) => check(frame, &datagram, config, cluster),
        Err(fault) => fault,
    }
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
fn locate_ipv4<F: Frame + ?Sized>(frame: &F, link: &LinkLayer) -> Result<Datagram, Examined> {
    // The port was loaded from behind this header.
    let ip = frame
        .load(link.network_at)
        .ok_or_else(|| Examined::pass(PassReason::NotCarp, NONE))?;
    let ip = Ipv4Header::new(ip);
    // What stands in the place of the port is no port.
    if ip.is_later_fragment() {
        return Err(Examined::pass(PassReason::NotCarp, NONE));
    }
    if ip.version() != 4 || ip.header_words() < 5 {
        return Err(Examined::drop(DropReason::BadIpHeader, NONE));
    }
    if ip.header_words() > 5 {
        return Err(Examined::drop(DropReason::IpOptions, NONE));
    }
    if ip.is_fragment() {
        return Err(Examined::drop(DropReason::Fragment, NONE));
    }
    let end = link.network_at.wrapping_add(usize::from(ip.total_len()));
    if end > frame.len() {
        return Err(Examined::drop(DropReason::Truncated, NONE));
    }
    Ok(Datagram {
        network_at: link.network_at,
        is_ipv6: false,
        udp_at: link.network_at.wrapping_add(IPV4_LEN),
        udp_len: ip.total_len().saturating_sub(20),
    })
}

#[inline(always)]
fn locate_ipv6<F: Frame + ?Sized>(frame: &F, link: &LinkLayer) -> Result<Datagram, Examined> {
    // The port was loaded from behind this header.
    let [version, _, _, _, len_high, len_low] = frame
        .load(link.network_at)
        .ok_or_else(|| Examined::pass(PassReason::NotCarp, NONE))?;
    if version >> 4 != 6 {
        return Err(Examined::drop(DropReason::BadIpHeader, NONE));
    }
    let udp_at = link.network_at.wrapping_add(IPV6_LEN);
    let udp_len = u16::from_be_bytes([len_high, len_low]);
    if udp_at.wrapping_add(usize::from(udp_len)) > frame.len() {
        return Err(Examined::drop(DropReason::Truncated, NONE));
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
) -> Examined {
    let body_at = datagram.udp_at.wrapping_add(UDP_LEN);
    if datagram.udp_len < UDP_AND_PREFIX_LEN {
        return Examined::drop(DropReason::NotHeartbeat, NONE);
    }
    let Some([m0, m1, m2, m3, version, kind, sender, receiver]) = frame.load(body_at) else {
        return Examined::drop(DropReason::NotHeartbeat, NONE);
    };
    if [m0, m1, m2, m3] != MAGIC {
        return Examined::drop(DropReason::NotHeartbeat, NONE);
    }
    let candidate = AcceptedHeartbeat {
        sender,
        key: 0,
        network_at: u8::try_from(datagram.network_at).unwrap_or_default(),
        is_ipv6: datagram.is_ipv6,
    };
    // Before the length: another version has another one, and shall be named.
    if version != VERSION {
        return Examined::mismatch(DropReason::OtherVersion, candidate);
    }
    let stated_len = frame.load(datagram.udp_at.wrapping_add(4));
    if datagram.udp_len != UDP_LEN_EXACT || stated_len != Some(UDP_LEN_EXACT.to_be_bytes()) {
        return Examined::drop(DropReason::BadHeartbeatLen, NONE);
    }
    if kind != KIND_HEARTBEAT {
        return Examined::drop(DropReason::BadKind, NONE);
    }
    if frame.load(body_at.wrapping_add(CLUSTER_AT)) != Some(config.cluster.to_be_bytes()) {
        return Examined::mismatch(DropReason::OtherCluster, candidate);
    }
    if receiver != config.node {
        return Examined::drop(DropReason::OtherReceiver, NONE);
    }
    if sender == config.node {
        return Examined::drop(DropReason::OwnNode, NONE);
    }
    let Some(last) = cluster.last(MemberKey::heartbeat(sender)) else {
        return Examined::drop(DropReason::UnknownMember, NONE);
    };
    match load_stamp(frame, body_at.wrapping_add(PREFIX_LEN)) {
        Some(stamp) if stamp.is_newer_than(last) => Examined::found(candidate),
        _ => Examined::drop(DropReason::Replayed, NONE),
    }
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
