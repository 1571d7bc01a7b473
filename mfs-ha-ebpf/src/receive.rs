//! Takes one frame: asks for the verdict, remembers who sent, queues the record.

use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use mfs_ha_common::net::Frame as _;
use mfs_ha_common::peer::PeerState;
use mfs_ha_common::record::{AdvertRecord, KIND_ADVERT};
use mfs_ha_common::validate::{Accepted, Verdict, validate};

use crate::clock;
use crate::load::PacketMemory;
use crate::maps::{self, PeerMap};

/// Returns the verdict on the frame, or `None` while there is no configuration.
#[inline(always)]
pub(crate) fn judge(ctx: &XdpContext) -> Option<Verdict> {
    maps::config().map(|config| validate(&PacketMemory::new(ctx), config, &PeerMap))
}

/// Stamps an accepted advert and hands it on.
// A call of its own: its values and those of the HMAC would not fit the BPF stack together.
#[inline(never)]
pub(crate) fn record(ctx: &XdpContext, accepted: &Accepted) {
    let arrival = clock::now();
    let advert = accepted.advert.get();
    maps::count_accepted();
    maps::update_peer(
        accepted.source,
        PeerState {
            last_advert_ns: arrival.as_nanos(),
            adverts: 0,
            counter: u64::from_be_bytes(advert.counter),
            advbase: advert.priority.advbase(),
            advskew: advert.priority.advskew(),
            demote: advert.demote,
            reserved: [0; 5],
        },
    );
    maps::submit(AdvertRecord {
        kind: KIND_ADVERT,
        ifindex: u32::try_from(ctx.ingress_ifindex()).unwrap_or_default(),
        arrival_ns: arrival.as_nanos(),
        counter: advert.counter,
        source: accepted.source,
        mac: PacketMemory::new(ctx).load(6).unwrap_or_default(),
        vhid: advert.vhid,
        advbase: advert.priority.advbase(),
        advskew: advert.priority.advskew(),
        demote: advert.demote,
        reserved: [0; 2],
    });
    if advert.priority == mfs_ha_common::priority::Priority::BOW_OUT {
        debug!(ctx, "bow-out of {:i}", u32::from_be_bytes(accepted.source));
    }
}
