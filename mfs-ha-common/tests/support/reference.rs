//! A second validator, written from `docs/protocol.md` alone: plain slices, one check after the other,
//! somebody else's HMAC. It is slow and obvious; the fast one has to agree with it on every frame.
//!
//! It includes nothing of mfs-ha, so that the fuzzer and the property test compare two opinions.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;

/// What the receiver was told.
#[derive(Clone, Debug)]
pub(crate) struct Receiver {
    pub(crate) vhid: u8,
    pub(crate) password: Vec<u8>,
    pub(crate) vip: [u8; 4],
    pub(crate) vip_count: u8,
    pub(crate) group: [u8; 4],
    pub(crate) own_source: [u8; 4],
    /// `None` takes every VLAN.
    pub(crate) vlan: Option<u16>,
    pub(crate) accepts_trailing_bytes: bool,
    pub(crate) rejects_repeated_counter: bool,
    pub(crate) knows_its_peers: bool,
    /// Source, number of adverts and last counter of the one peer that is remembered.
    pub(crate) peer: Option<([u8; 4], u64, u64)>,
}

/// The second opinion: reasons are the words of the document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Opinion {
    Pass(&'static str),
    Drop(&'static str),
    Accept {
        source: [u8; 4],
        advbase: u8,
        advskew: u8,
        demote: u8,
        counter: [u8; 8],
        goes_up_the_stack: bool,
    },
}

/// Judges a frame.
pub(crate) fn judge(frame: &[u8], receiver: &Receiver) -> Opinion {
    if frame.len() < 14 {
        return Opinion::Pass("runt");
    }
    if frame[12..14] == [0x81, 0x00] {
        if frame.len() < 18 {
            return Opinion::Pass("runt");
        }
        let vlan = (u16::from(frame[14]) << 8 | u16::from(frame[15])) % 4096;
        return judge_packet(&frame[16..18], &frame[18..], vlan, receiver);
    }
    judge_packet(&frame[12..14], &frame[14..], 0, receiver)
}

fn judge_packet(ethertype: &[u8], packet: &[u8], vlan: u16, receiver: &Receiver) -> Opinion {
    let is_our_vlan = receiver.vlan.is_none_or(|ours| ours == vlan);
    match ethertype {
        [0x08, 0x00] => judge_ipv4(packet, is_our_vlan, receiver),
        [0x86, 0xdd] => judge_ipv6(packet, is_our_vlan, receiver),
        _ => Opinion::Pass("not_carp"),
    }
}

fn judge_ipv6(packet: &[u8], is_our_vlan: bool, receiver: &Receiver) -> Opinion {
    if packet.len() < 7 {
        return Opinion::Pass("runt");
    }
    if packet[6] != 112 {
        return Opinion::Pass("not_carp");
    }
    if !is_our_vlan {
        return Opinion::Pass("other_vlan");
    }
    if packet.len() < 44 {
        return Opinion::Pass("runt");
    }
    if packet[40] / 16 == 3 {
        return Opinion::Pass("vrrp");
    }
    if packet[41] == 0 || packet[41] != receiver.vhid {
        return Opinion::Pass("other_vhid");
    }
    Opinion::Pass("unsupported_ipv6")
}

fn judge_ipv4(packet: &[u8], is_our_vlan: bool, receiver: &Receiver) -> Opinion {
    if packet.len() < 10 {
        return Opinion::Pass("runt");
    }
    if packet[9] != 112 {
        return Opinion::Pass("not_carp");
    }
    if !is_our_vlan {
        return Opinion::Pass("other_vlan");
    }
    if packet.len() < 20 {
        return Opinion::Pass("runt");
    }
    let stated_words = usize::from(packet[0] % 16);
    let header_len = stated_words.max(5) * 4;
    if packet.len() < header_len + 4 {
        return Opinion::Pass("runt");
    }
    let payload = &packet[header_len..];
    let total_len = usize::from(packet[2]) * 256 + usize::from(packet[3]);
    let payload_len = total_len.saturating_sub(header_len);
    if is_vrrp(payload, payload_len) {
        return Opinion::Pass("vrrp");
    }
    if payload[1] == 0 || payload[1] != receiver.vhid {
        return Opinion::Pass("other_vhid");
    }
    if packet[16..20] != receiver.group {
        return Opinion::Pass("other_group");
    }
    if receiver.vip_count != 1 {
        return Opinion::Pass("unsupported_vips");
    }

    let fragment_bits = u16::from(packet[6]) << 8 | u16::from(packet[7]);
    let early = [
        (packet[0] / 16 != 4 || stated_words < 5, "bad_ip_header"),
        (stated_words > 5, "ip_options"),
        (fragment_bits & 0x3fff != 0, "fragment"),
        (total_len > packet.len(), "truncated"),
        (payload_len < 36, "bad_len"),
        (packet[8] != 255, "bad_ttl"),
    ];
    if let Some((_, reason)) = early.iter().find(|(is_met, _)| *is_met) {
        return Opinion::Drop(reason);
    }
    judge_header(&packet[..20], &payload[..36], payload_len, receiver)
}

/// Version 3, or version 2 of a length that its count of addresses explains; but the very shape of CARP,
/// seven words in 36 bytes, is CARP.
fn is_vrrp(payload: &[u8], payload_len: usize) -> bool {
    if payload[0] / 16 == 3 {
        return true;
    }
    let addresses = usize::from(payload[3]);
    let with_auth_data = 8 + 4 * addresses + 8;
    let without = 8 + 4 * addresses;
    let is_shape_of_carp = addresses == 7 && payload_len == 36;
    payload[0] == 0x21
        && (payload_len == with_auth_data || payload_len == without)
        && !is_shape_of_carp
}

fn judge_header(ip: &[u8], carp: &[u8], payload_len: usize, receiver: &Receiver) -> Opinion {
    let source: [u8; 4] = ip[12..16].try_into().unwrap();
    let counter: [u8; 8] = carp[8..16].try_into().unwrap();
    let remembered = receiver.peer.filter(|(address, ..)| *address == source);
    let is_repeated =
        remembered.is_some_and(|(_, adverts, last)| adverts > 0 && last.to_be_bytes() == counter);
    let late = [
        (carp[0] / 16 != 2, "bad_version"),
        (carp[0] % 16 != 1, "bad_type"),
        (carp[3] != 7, "bad_authlen"),
        (source == receiver.own_source, "own_source"),
        (!adds_up(ip), "bad_ip_sum"),
        (!adds_up(carp), "bad_sum"),
        (
            receiver.knows_its_peers && remembered.is_none(),
            "unknown_peer",
        ),
        (
            receiver.rejects_repeated_counter && is_repeated,
            "repeated_counter",
        ),
        (
            payload_len > 36 && !receiver.accepts_trailing_bytes,
            "trailing_bytes",
        ),
        (
            carp[16..] != digest(&receiver.password, carp[1], receiver.vip, counter),
            "bad_auth",
        ),
    ];
    if let Some((_, reason)) = late.iter().find(|(is_met, _)| *is_met) {
        return Opinion::Drop(reason);
    }
    Opinion::Accept {
        source,
        advbase: carp[5],
        advskew: carp[2],
        demote: carp[4],
        counter,
        goes_up_the_stack: ip[16] >= 224,
    }
}

/// The digest of an advert.
pub(crate) fn digest(password: &[u8], vhid: u8, vip: [u8; 4], counter: [u8; 8]) -> [u8; 20] {
    let mut mac = Hmac::<Sha1>::new_from_slice(password).unwrap();
    mac.update(&[2, 1, vhid]);
    mac.update(&vip);
    mac.update(&counter);
    mac.finalize().into_bytes().into()
}

/// RFC 1071: the ones' complement sum of all words is all ones.
pub(crate) fn adds_up(header: &[u8]) -> bool {
    ones_complement_sum(header) == 0xffff
}

/// Sets the checksum at `at` so that the header adds up.
pub(crate) fn set_checksum(header: &mut [u8], at: usize) {
    header[at..at + 2].fill(0);
    let sum = !ones_complement_sum(header);
    header[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn ones_complement_sum(header: &[u8]) -> u16 {
    let mut sum = 0_u16;
    for pair in header.chunks_exact(2) {
        let (wrapped, carry) = sum.overflowing_add(u16::from_be_bytes([pair[0], pair[1]]));
        sum = wrapped + u16::from(carry);
    }
    sum
}
