//! The gate, where frames come in and where they go out.

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::programs::{TcContext, XdpContext};
use mfs_ha_common::gate::{Direction, judge};
use mfs_ha_common::net::LinkLayer;
use mfs_ha_common::stats::GateReason;

use crate::load::{NetworkLayer, PacketMemory};
use crate::{clock, maps};

/// Returns why a frame that the interface receives does not come in.
#[inline(always)]
pub(crate) fn entry(ctx: &XdpContext) -> Option<GateReason> {
    let lease = maps::lease()?;
    let frame = PacketMemory::new(ctx);
    let link = LinkLayer::parse(&frame)?;
    judge(
        &frame,
        link.ethertype,
        link.network_at,
        Direction::In,
        lease,
        clock::now,
        maps::fence,
    )
}

/// Judges a packet of the network stack.
#[inline(always)]
pub(crate) fn classify(ctx: &TcContext, direction: Direction) -> i32 {
    let packet = NetworkLayer::new(ctx);
    let refusal = maps::lease().and_then(|lease| {
        judge(
            &packet,
            packet.ethertype(),
            0,
            direction,
            lease,
            clock::now,
            maps::fence,
        )
    });
    match refusal {
        // Whoever comes after us decides.
        None => TC_ACT_UNSPEC,
        Some(reason) => {
            maps::count_gate(reason);
            TC_ACT_SHOT
        }
    }
}
