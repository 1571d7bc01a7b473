//! Any frame at a node with a cluster: no panic, and the verdict of the second opinion on heartbeats.
//!
//! An input is a node in fixed places, then the frame; [`node`] says where. The corpus holds the table of
//! heartbeats in this form (`cargo test` in mfs-ha-common checks that it is theirs).

#![no_main]
#![expect(clippy::unwrap_used, reason = "conversions of slices of known length")]

#[path = "../../tests/vectors/cluster.rs"]
#[expect(
    dead_code,
    reason = "here it only says what the node is told of adverts"
)]
mod cluster;
#[path = "../../mfs-ha-common/tests/support/cluster_opinions.rs"]
mod cluster_opinions;
#[path = "../../mfs-ha-common/tests/support/cluster_reference.rs"]
mod cluster_reference;

use cluster_opinions::opinion_of_core;
use cluster_reference::{Node, judge, sign};
use libfuzzer_sys::{Corpus, fuzz_target};

/// Fixed part of an input.
const PREFIX_LEN: usize = 61;

const ANY_VLAN: u8 = 1 << 0;
const TWO_KEYS: u8 = 1 << 1;
/// Sign the frame before it is judged: no fuzzer finds a tag.
const SEAL: u8 = 1 << 2;

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((prefix, frame)) = input.split_first_chunk::<PREFIX_LEN>() else {
        return Corpus::Reject;
    };
    let node = node(prefix);
    let mut frame = frame.to_vec();
    if prefix[0] & SEAL != 0 {
        seal(&mut frame, &node);
    }
    let Some(opinion) = judge(&frame, &node) else {
        return Corpus::Reject;
    };
    assert_eq!(opinion_of_core(&frame, &node), opinion);
    Corpus::Keep
});

fn node(prefix: &[u8; PREFIX_LEN]) -> Node {
    let has = |flag: u8| prefix[0] & flag != 0;
    let number = |at: usize| u64::from_be_bytes(prefix[at..at + 8].try_into().unwrap());
    let key = |at: usize| prefix[at..at + 16].try_into().unwrap();
    let keys = if has(TWO_KEYS) {
        vec![key(10), key(26)]
    } else {
        vec![key(10)]
    };
    Node {
        id: prefix[1],
        cluster: number(2),
        keys,
        vlan: (!has(ANY_VLAN)).then(|| u16::from_be_bytes([prefix[59], prefix[60]]) % 4096),
        others: vec![(prefix[42], number(43), number(51))],
    }
}

fn seal(frame: &mut [u8], node: &Node) {
    let is_tagged = frame.get(12..14) == Some(&[0x81, 0x00]);
    let ip_at = if is_tagged { 18 } else { 14 };
    let is_ipv6 = frame.get(ip_at - 2..ip_at) == Some(&[0x86, 0xdd]);
    let body_at = ip_at + if is_ipv6 { 48 } else { 28 };
    if let Some(signed) = frame.get_mut(body_at..body_at + 168) {
        let (body, tag) = signed.split_at_mut(152);
        tag.copy_from_slice(&sign(body, node.keys[0]));
    }
}
