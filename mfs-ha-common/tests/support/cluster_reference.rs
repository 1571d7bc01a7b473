//! A second opinion on heartbeats, written from `docs/protocol.md` and nothing else.
//!
//! It shares no code with the library: plain slices, another SipHash, no care for speed or the BPF stack.

use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher24};

/// What the receiving node is configured with and remembers.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) id: u8,
    pub(crate) cluster: u64,
    /// The current key, and the one before it where it still counts.
    pub(crate) keys: Vec<[u8; 16]>,
    /// `None` takes every VLAN.
    pub(crate) vlan: Option<u16>,
    /// Id, boot and sequence of each other member.
    pub(crate) others: Vec<(u8, u64, u64)>,
}

/// The second opinion: reasons are the words of the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Opinion {
    Pass(&'static str),
    Drop(&'static str),
    Accept {
        sender: u8,
        key: usize,
        source: Vec<u8>,
        body: Vec<u8>,
    },
}

/// Judges a frame; `None` for protocol 112, on which there is another second opinion.
pub(crate) fn judge(frame: &[u8], node: &Node) -> Option<Opinion> {
    let runt = Some(Opinion::Pass("runt"));
    if frame.len() < 14 {
        return runt;
    }
    let is_tagged = frame[12..14] == [0x81, 0];
    if is_tagged && frame.len() < 18 {
        return runt;
    }
    let at = if is_tagged { 18 } else { 14 };
    let vlan = if is_tagged {
        u16::from_be_bytes([frame[14], frame[15]]) % 4096
    } else {
        0
    };
    let packet = &frame[at..];
    let (protocol_at, is_ipv6) = match frame[at - 2..at] {
        [0x08, 0x00] => (9, false),
        [0x86, 0xdd] => (6, true),
        _ => return Some(Opinion::Pass("not_carp")),
    };
    match packet.get(protocol_at) {
        None => return runt,
        Some(112) => return None,
        Some(17) => {}
        Some(_) => return Some(Opinion::Pass("not_carp")),
    }
    Some(judge_udp(packet, is_ipv6, vlan, node))
}

fn judge_udp(packet: &[u8], is_ipv6: bool, vlan: u16, node: &Node) -> Opinion {
    let words = usize::from(packet[0] % 16);
    let header_len = if is_ipv6 { 40 } else { words.max(5) * 4 };
    if packet.get(header_len + 2..header_len + 4) != Some(&9429_u16.to_be_bytes()[..]) {
        return Opinion::Pass("not_carp");
    }
    if node.vlan.is_some_and(|ours| ours != vlan) {
        return Opinion::Pass("other_vlan");
    }
    let number = |at: usize| usize::from(packet[at]) * 256 + usize::from(packet[at + 1]);
    let (end, source) = if is_ipv6 {
        if packet[0] / 16 != 6 {
            return Opinion::Drop("bad_ip_header");
        }
        (40 + number(4), packet[8..24].to_vec())
    } else {
        let early = [
            (number(6) % 8192 != 0, Opinion::Pass("not_carp")),
            (
                packet[0] / 16 != 4 || words < 5,
                Opinion::Drop("bad_ip_header"),
            ),
            (words > 5, Opinion::Drop("ip_options")),
            (packet[6] & 0x20 != 0, Opinion::Drop("fragment")),
        ];
        if let Some((_, opinion)) = early.into_iter().find(|(is_met, _)| *is_met) {
            return opinion;
        }
        (number(2), packet[12..16].to_vec())
    };
    if end > packet.len() {
        return Opinion::Drop("truncated");
    }
    let udp = packet.get(header_len..end).unwrap_or_default();
    judge_datagram(udp, source, node)
}

fn judge_datagram(udp: &[u8], source: Vec<u8>, node: &Node) -> Opinion {
    let payload = udp.get(8..).unwrap_or_default();
    if payload.len() < 16 || payload[..4] != *b"mfHA" {
        return Opinion::Drop("not_heartbeat");
    }
    if payload[4] != 1 {
        return Opinion::Drop("other_version");
    }
    if payload.len() != 168 || udp[4..6] != [0, 176] {
        return Opinion::Drop("bad_heartbeat_len");
    }
    let number = |at: usize| u64::from_be_bytes(payload[at..at + 8].try_into().unwrap());
    let sender = payload[6];
    let last = node.others.iter().find(|(id, ..)| *id == sender);
    let stamp = (number(16), number(24));
    let is_newer =
        last.is_some_and(|(_, boot, sequence)| stamp.0 > 0 && stamp > (*boot, *sequence));
    let late = [
        (payload[5] != 1, "bad_kind"),
        (number(8) != node.cluster, "other_cluster"),
        (payload[7] != node.id, "other_receiver"),
        (sender == node.id, "own_node"),
        (last.is_none(), "unknown_member"),
        (!is_newer, "replayed"),
    ];
    if let Some((_, reason)) = late.iter().find(|(is_met, _)| *is_met) {
        return Opinion::Drop(reason);
    }
    let (body, tag) = payload.split_at(152);
    let mut keys = node.keys.iter();
    match keys.position(|key| sign(body, *key) == tag) {
        Some(key) => Opinion::Accept {
            sender,
            key,
            source,
            body: body.to_vec(),
        },
        None => Opinion::Drop("bad_tag"),
    }
}

/// The tag of a body.
pub(crate) fn sign(body: &[u8], key: [u8; 16]) -> [u8; 16] {
    let mut hasher = SipHasher24::new_with_key(&key);
    hasher.write(body);
    hasher.finish128().as_bytes()
}
