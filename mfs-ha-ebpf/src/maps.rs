//! What stands in the object beside the code: the maps and the licence.
//!
//! All maps have BTF, so `bpftool map dump` prints named fields.

use core::hint::black_box;
use core::mem::offset_of;

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use mfs_ha_common::filter::FilterConfig;
use mfs_ha_common::net::Ipv4;
use mfs_ha_common::peer::{LastAdvert, PEERS_MAX, PeerKey, PeerState, Peers};
use mfs_ha_common::record::AdvertRecord;
use mfs_ha_common::stats::{DropReason, PassReason, Stats};

/// Room for about 5 000 records: a daemon that was late for a whole second finds every advert of a
/// hundred masters at the shortest interval. Must be a power of two and a multiple of the page size.
const RING_BYTES: usize = 256 * 1024;

#[btf_map]
static CONFIG: Array<FilterConfig, 1> = Array::new();

#[btf_map]
static PEERS: HashMap<PeerKey, PeerState, PEERS_MAX> = HashMap::new();

#[btf_map]
static STATS: PerCpuArray<Stats, 1> = PerCpuArray::new();

#[btf_map]
static RECORDS: RingBuf<AdvertRecord, RING_BYTES> = RingBuf::new();

/// Returns the configuration, or `None` before the daemon has written it.
#[inline(always)]
pub(crate) fn config() -> Option<&'static FilterConfig> {
    CONFIG.get(0).filter(|config| config.vhid != 0)
}

/// The PEERS map as validation sees it.
pub(crate) struct PeerMap;

impl Peers for PeerMap {
    #[inline(always)]
    #[expect(unsafe_code, reason = "hash map references are declared unsafe")]
    fn find(&self, source: Ipv4) -> Option<LastAdvert> {
        // SAFETY: two fields are copied at once. Entries are never removed while the program is attached,
        // so the slot keeps belonging to this key; a concurrent update may come between the two, each of
        // which is valid with any bits.
        let peer = unsafe { PEERS.get(PeerKey { source }) }?;
        Some(LastAdvert {
            adverts: peer.adverts,
            counter: peer.counter,
        })
    }
}

/// Stores what a peer said last.
#[inline(always)]
#[expect(unsafe_code, reason = "map values are reached through raw pointers")]
pub(crate) fn update_peer(source: Ipv4, mut state: PeerState) {
    let key = PeerKey { source };
    if let Some(entry) = PEERS.get_ptr_mut(key) {
        // SAFETY: the kernel returned a live, aligned value of this type, and entries are not removed
        // while the program is attached. It is read through the raw pointer: another CPU or the daemon
        // may write it at the same time, and any bits are a valid value.
        let before = unsafe { entry.read() };
        state.adverts = before.adverts.wrapping_add(1);
        // SAFETY: as above. Frames of one source arrive on one queue; should two CPUs write at once,
        // each field keeps one of the two values.
        unsafe { entry.write(state) };
        return;
    }
    state.adverts = 1;
    if PEERS.insert(key, state, BPF_NOEXIST.into()).is_err() {
        count(offset_of!(Stats, peers_full) >> 3);
    }
}

/// Queues a record for the daemon.
#[inline(always)]
pub(crate) fn submit(record: AdvertRecord) {
    match RECORDS.reserve(0) {
        Some(mut entry) => {
            entry.write(record);
            entry.submit(0);
        }
        None => count(offset_of!(Stats, ring_full) >> 3),
    }
}

/// Counts a frame that passes.
#[inline(always)]
pub(crate) fn count_pass(reason: PassReason) {
    // The verifier does not know how many reasons there are and wants to see the slot compared; the
    // compiler knows and would leave the comparison out.
    count(black_box(Stats::pass_slot(reason)));
}

/// Counts a frame that is dropped.
#[inline(always)]
pub(crate) fn count_drop(reason: DropReason) {
    count(black_box(Stats::drop_slot(reason)));
}

/// Counts an accepted advert.
#[inline(always)]
pub(crate) fn count_accepted() {
    count(offset_of!(Stats, accepted) >> 3);
}

#[inline(always)]
#[expect(unsafe_code, reason = "map values are reached through raw pointers")]
fn count(slot: usize) {
    if let Some(stats) = STATS.get_ptr_mut(0) {
        // SAFETY: the pointer is to this CPU's own slot, which only this program writes, and XDP runs
        // with migration and further softirqs on this CPU held off.
        unsafe { &mut *stats }.count(slot);
    }
}

/// Some helpers may be called from a GPL-compatible program only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
#[expect(unsafe_code, reason = "the loader looks for a section of this name")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
