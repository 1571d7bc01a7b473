use std::vec::Vec;

use super::*;
use crate::net::{ETHERNET_LEN, ETHERTYPE_IPV6};

const VIP: Ipv4 = [10, 0, 0, 100];
const OTHER: Ipv4 = [10, 0, 0, 7];
const NOW: Timestamp = Timestamp::from_nanos(1_000);

fn lease(until_ns: u64, open: u32) -> LeaseState {
    LeaseState {
        until_ns,
        epoch: 5,
        follows: 0,
        follow_span_ns: 0,
        vip: VIP,
        open,
        ports: [9419, 9420, 9421].map(u16::to_be_bytes),
        reserved: [0; 2],
    }
}

const CLOSED: u64 = 1_000;
const OPEN: u64 = 1_001;
const ALL: u32 = OPEN_METALOGGERS | OPEN_CHUNKSERVERS | OPEN_CLIENTS;

/// From the network header on.
fn ipv4(protocol: u8, from: Ipv4, to: Ipv4, ports: [u16; 2]) -> Vec<u8> {
    let mut packet = [0; IPV4_LEN].to_vec();
    packet[0] = 0x45;
    packet[9] = protocol;
    packet[12..16].copy_from_slice(&from);
    packet[16..20].copy_from_slice(&to);
    packet.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
    packet
}

fn arp(operation: u8, from: Ipv4, about: Ipv4) -> Vec<u8> {
    let mut packet = [0; ARP_LEN].to_vec();
    packet[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, operation]);
    packet[14..18].copy_from_slice(&from);
    packet[24..28].copy_from_slice(&about);
    packet
}

fn verdict(
    packet: &[u8],
    ethertype: [u8; 2],
    direction: Direction,
    lease: &LeaseState,
) -> Option<GateReason> {
    let fence = Fence {
        epoch: 5,
        ..Fence::default()
    };
    // In front of it whatever the link layer has there.
    let mut frame = [0xa5; ETHERNET_LEN].to_vec();
    frame.extend(packet);
    let judged = judge(
        &frame[..],
        ethertype,
        ETHERNET_LEN,
        direction,
        lease,
        || NOW,
        || fence,
    );
    let alone = judge(packet, ethertype, 0, direction, lease, || NOW, || fence);
    assert_eq!(judged, alone);
    judged
}

fn ip(packet: &[u8], direction: Direction, lease: &LeaseState) -> Option<GateReason> {
    verdict(packet, ETHERTYPE_IPV4, direction, lease)
}

#[test]
fn what_names_the_vip_passes_only_under_a_lease() {
    let icmp_in = ipv4(1, OTHER, VIP, [0, 0]);
    let icmp_out = ipv4(1, VIP, OTHER, [0, 0]);
    for until in [0, CLOSED - 1, CLOSED] {
        let lease = lease(until, ALL);
        let reason = ip(&icmp_in, Direction::In, &lease);
        assert_eq!(reason, Some(GateReason::Entry), "until {until}");
        let reason = ip(&icmp_out, Direction::Out, &lease);
        assert_eq!(reason, Some(GateReason::Exit), "until {until}");
    }
    let lease = lease(OPEN, 0);
    assert_eq!(ip(&icmp_in, Direction::In, &lease), None);
    assert_eq!(ip(&icmp_out, Direction::Out, &lease), None);
}

#[test]
fn a_standby_talks_to_the_vip_of_another_node() {
    let lease = lease(0, 0);
    assert_eq!(
        ip(&ipv4(6, OTHER, VIP, [40_000, 9419]), Direction::Out, &lease),
        None
    );
    assert_eq!(
        ip(&ipv4(6, VIP, OTHER, [9419, 40_000]), Direction::In, &lease),
        None
    );
}

#[test]
fn what_does_not_name_the_vip_passes() {
    let lease = lease(0, 0);
    for packet in [
        ipv4(6, OTHER, OTHER, [1, 9421]),
        ipv4(6, OTHER, [10, 0, 0, 101], [1, 9421]),
        ipv4(6, OTHER, VIP, [1, 9421])[..19].to_vec(),
        Vec::new(),
    ] {
        assert_eq!(ip(&packet, Direction::In, &lease), None);
        assert_eq!(ip(&packet, Direction::Out, &lease), None);
    }
    let packet = ipv4(6, OTHER, VIP, [1, 9421]);
    let other = verdict(&packet, ETHERTYPE_IPV6, Direction::In, &lease);
    assert_eq!(other, None);
}

#[test]
fn without_an_address_nothing_is_guarded() {
    let lease = LeaseState::default();
    let packet = ipv4(6, [0; 4], [0; 4], [9421, 9421]);
    assert_eq!(ip(&packet, Direction::In, &lease), None);
    assert_eq!(ip(&packet, Direction::Out, &lease), None);
    let request = arp(1, [0; 4], [0; 4]);
    assert_eq!(
        verdict(&request, ETHERTYPE_ARP, Direction::In, &lease),
        None
    );
}

#[test]
fn services_open_one_by_one_in_both_directions() {
    let ports = [
        (9419, OPEN_METALOGGERS),
        (9420, OPEN_CHUNKSERVERS),
        (9421, OPEN_CLIENTS),
    ];
    for open in 0..=ALL {
        let lease = lease(OPEN, open);
        for (port, bit) in ports {
            let expected = (open & bit == 0).then_some(GateReason::Service);
            let to = ipv4(6, OTHER, VIP, [40_000, port]);
            assert_eq!(ip(&to, Direction::In, &lease), expected, "{port} {open}");
            let from = ipv4(6, VIP, OTHER, [port, 40_000]);
            assert_eq!(ip(&from, Direction::Out, &lease), expected, "{port} {open}");
        }
        // The far end's port says nothing, nor does another protocol's.
        assert_eq!(
            ip(&ipv4(6, OTHER, VIP, [9421, 22]), Direction::In, &lease),
            None
        );
        assert_eq!(
            ip(&ipv4(17, OTHER, VIP, [1, 9421]), Direction::In, &lease),
            None
        );
    }
}

#[test]
fn the_port_is_found_behind_options_and_not_in_later_fragments() {
    let lease = lease(OPEN, 0);
    let mut with_options = ipv4(6, OTHER, VIP, [0, 0]);
    with_options[0] = 0x46;
    with_options.extend([0x9c, 0x40]);
    with_options.extend(9421_u16.to_be_bytes());
    let reason = ip(&with_options, Direction::In, &lease);
    assert_eq!(reason, Some(GateReason::Service));
    let mut later = ipv4(6, OTHER, VIP, [40_000, 9421]);
    later[7] = 1;
    assert_eq!(ip(&later, Direction::In, &lease), None);
    let mut first = ipv4(6, OTHER, VIP, [40_000, 9421]);
    first[6] = 0x20;
    let reason = ip(&first, Direction::In, &lease);
    assert_eq!(reason, Some(GateReason::Service));
}

#[test]
fn arp_for_the_vip_is_answered_only_under_a_lease() {
    let request = arp(1, OTHER, VIP);
    let probe = arp(1, [0; 4], VIP);
    let announcement = arp(1, VIP, VIP);
    let reply = arp(2, VIP, OTHER);
    let about = |packet: &[u8], direction, until| {
        verdict(packet, ETHERTYPE_ARP, direction, &lease(until, 0))
    };
    let closed = Some(GateReason::Arp);
    assert_eq!(about(&request, Direction::In, CLOSED), closed);
    assert_eq!(about(&probe, Direction::In, CLOSED), closed);
    assert_eq!(about(&reply, Direction::Out, CLOSED), closed);
    assert_eq!(about(&announcement, Direction::Out, CLOSED), closed);
    assert_eq!(about(&arp(1, VIP, OTHER), Direction::Out, CLOSED), closed);
    // What the present master says of itself is heard, and this host asks for it.
    assert_eq!(about(&announcement, Direction::In, CLOSED), None);
    assert_eq!(about(&reply, Direction::In, CLOSED), None);
    assert_eq!(about(&request, Direction::Out, CLOSED), None);
    for packet in [request, probe, announcement, reply] {
        assert_eq!(about(&packet, Direction::In, OPEN), None);
        assert_eq!(about(&packet, Direction::Out, OPEN), None);
    }
}

#[test]
fn a_higher_epoch_of_another_node_closes() {
    let lease = lease(OPEN, ALL);
    let with = |epoch| {
        lease.is_open(NOW, || Fence {
            epoch,
            ..Fence::default()
        })
    };
    assert!(with(0) && with(4) && with(5));
    assert!(!with(6));
}

#[test]
fn a_fence_rises_and_does_not_run_away() {
    let at = Timestamp::from_nanos;
    let none = Fence::default();
    let first = none.heard(6, 2, 5, at(1_000)).unwrap();
    assert_eq!((first.epoch, first.node), (6, 2));
    assert_eq!((first.since_ns, first.heard_ns), (1_000, 1_000));
    let again = first.heard(6, 2, 5, at(2_000)).unwrap();
    assert_eq!((again.since_ns, again.heard_ns), (1_000, 2_000));
    assert_eq!(first.heard(5, 3, 5, NOW), None);
    assert_eq!(none.heard(0, 3, 0, NOW), None);
    assert!(first.heard(6 + (1 << 32), 3, 5, NOW).is_some());
    assert_eq!(first.heard(7 + (1 << 32), 3, 5, NOW), None);
    // This node's own epoch counts, too: it may have just started.
    assert!(none.heard(1 << 40, 3, (1 << 40) - 1, NOW).is_some());
}

/// Rule G9.
#[test]
fn a_metalogger_hears_the_master_that_is_followed_and_no_other() {
    const SPAN: u64 = 300;
    let standby = |follows, follow_span_ns| LeaseState {
        follows,
        follow_span_ns,
        ..lease(0, 0)
    };
    let told = |lease: &LeaseState, packet: &[u8], direction, epoch, heard_ns| {
        let fence = Fence {
            epoch,
            heard_ns,
            ..Fence::default()
        };
        let (clock, fence) = (|| NOW, || fence);
        judge(packet, ETHERTYPE_IPV4, 0, direction, lease, clock, fence)
    };
    let packet = ipv4(6, VIP, OTHER, [9419, 40_000]);
    let heard =
        |lease: &LeaseState, epoch, heard_ns| told(lease, &packet, Direction::In, epoch, heard_ns);
    let refused = Some(GateReason::Barrier);
    let now = NOW.as_nanos();
    assert_eq!(heard(&standby(6, SPAN), 6, now), None);
    assert_eq!(heard(&standby(6, SPAN), 6, now - SPAN + 1), None);
    assert_eq!(heard(&standby(6, SPAN), 6, now - SPAN), refused, "silent");
    assert_eq!(heard(&standby(6, SPAN), 7, now), refused, "another holder");
    assert_eq!(heard(&standby(0, SPAN), 6, now), refused, "undecided");
    assert_eq!(heard(&standby(0, SPAN), 0, 0), refused, "nobody was heard");
    // Where heartbeats say nothing, whoever has the VIP may be followed.
    assert_eq!(heard(&standby(0, 0), 0, 0), None);
    // Nothing but that port, that protocol and that direction.
    let lease = standby(0, SPAN);
    for other in [
        ipv4(6, VIP, OTHER, [9420, 40_000]),
        ipv4(6, VIP, OTHER, [40_000, 9419]),
        ipv4(17, VIP, OTHER, [9419, 40_000]),
        ipv4(6, OTHER, OTHER, [9419, 40_000]),
    ] {
        assert_eq!(told(&lease, &other, Direction::In, 6, now), None);
    }
    let request = ipv4(6, OTHER, VIP, [40_000, 9419]);
    assert_eq!(told(&lease, &request, Direction::Out, 6, now), None);
}
