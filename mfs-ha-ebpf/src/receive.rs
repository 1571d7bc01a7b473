//! Takes one frame: asks for the verdict, remembers who sent, queues the record.

use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use mfs_ha_common::member::MemberKey;
use mfs_ha_common::net::Frame as _;
use mfs_ha_common::peer::PeerState;
use mfs_ha_common::record::{AdvertRecord, KIND_ADVERT, KIND_HEARTBEAT};
use mfs_ha_common::stats::DropReason;
use mfs_ha_common::validate::{Accepted, AcceptedHeartbeat, Claimed, Verdict, validate};

use crate::clock;
use crate::load::PacketMemory;
use crate::maps::{self, ClusterMaps, PeerMap};

/// Returns the verdict on the frame, or `None` while there is no configuration.
#[inline(always)]
pub(crate) fn judge(ctx: &XdpContext) -> Option<Verdict> {
    maps::config().map(|config| validate(&PacketMemory::new(ctx), config, &PeerMap, &ClusterMaps))
}

fn ifindex(ctx: &XdpContext) -> u32 {
    u32::try_from(ctx.ingress_ifindex()).unwrap_or_default()
}

/// Notes whose configuration may differ.
#[inline(always)]
pub(crate) fn note_mismatch(ctx: &XdpContext, reason: DropReason, claimed: &Claimed) {
    let claim = claimed.read(&PacketMemory::new(ctx));
    maps::note_mismatch(reason, &claim, clock::now());
}

/// Stamps an accepted heartbeat and hands it on.
#[inline(never)]
pub(crate) fn record_heartbeat(ctx: &XdpContext, accepted: &AcceptedHeartbeat) {
    let arrival = clock::now();
    let ifindex = ifindex(ctx);
    let key = MemberKey::heartbeat(accepted.sender);
    let frame = PacketMemory::new(ctx);
    let stamp = accepted.stamp(&frame).unwrap_or_default();
    if !maps::update_member(key, stamp, arrival, ifindex) {
        maps::count_drop(DropReason::Replayed);
        return;
    }
    maps::count_accepted_heartbeat();
    if let Some(epoch) = accepted.held_epoch(&frame) {
        maps::note_holder(epoch, accepted.sender, arrival);
    }
    maps::submit_heartbeat(|record| {
        record.kind = KIND_HEARTBEAT;
        record.ifindex = ifindex;
        record.arrival_ns = arrival.as_nanos();
        record.source = accepted.source(&frame).unwrap_or_default();
        record.key = accepted.key;
        let (words, _) = record.body.as_chunks_mut::<8>();
        for (index, word) in words.iter_mut().enumerate() {
            // The tag over these bytes was right, so they are there; the verifier wants to see it.
            let at = accepted.body_at() + (index << 3);
            *word = frame.load(at).unwrap_or_default();
        }
    });
}

/// Stamps an accepted advert and hands it on.
// A call of its own: its values and those of the HMAC would not fit the BPF stack together.
#[inline(never)]
pub(crate) fn record(ctx: &XdpContext, accepted: &Accepted) {
    let arrival = clock::now();
    let ifindex = ifindex(ctx);
    let advert = accepted.advert.get();
    let mut node = 0;
    if let Some(extension) = accepted.extension {
        node = extension.node;
        let stamp = extension.stamp(&PacketMemory::new(ctx)).unwrap_or_default();
        if !maps::update_member(MemberKey::advert(node), stamp, arrival, ifindex) {
            maps::count_drop(DropReason::TrailerReplayed);
            return;
        }
    }
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
        ifindex,
        arrival_ns: arrival.as_nanos(),
        counter: advert.counter,
        source: accepted.source,
        mac: PacketMemory::new(ctx).load(6).unwrap_or_default(),
        vhid: advert.vhid,
        advbase: advert.priority.advbase(),
        advskew: advert.priority.advskew(),
        demote: advert.demote,
        node,
        reserved: 0,
    });
    if advert.priority == mfs_ha_common::priority::Priority::BOW_OUT {
        debug!(ctx, "bow-out of {:i}", u32::from_be_bytes(accepted.source));
    }
}
