//! What stands in the object beside the code: the maps and the licence.
//!
//! All maps have BTF, so `bpftool map dump` prints named fields.

use core::hint::black_box;
use core::mem::offset_of;

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use bytemuck::Zeroable as _;
use mfs_ha_common::cluster::MEMBERS_MAX;
use mfs_ha_common::filter::{ClusterConfig, FilterConfig};
use mfs_ha_common::gate::{Fence, LeaseState};
use mfs_ha_common::heartbeat::Stamp;
use mfs_ha_common::member::{
    Claim, Cluster, MEMBER_ENTRIES_MAX, MemberKey, MemberState, MismatchKey, MismatchState,
};
use mfs_ha_common::net::Ipv4;
use mfs_ha_common::peer::{LastAdvert, PEERS_MAX, PeerKey, PeerState, Peers};
use mfs_ha_common::record::{AdvertRecord, HeartbeatRecord};
use mfs_ha_common::stats::{DropReason, GateReason, PassReason, Stats};
use mfs_ha_common::time::Timestamp;

/// Room for about 5 000 adverts or 1 300 heartbeats: a daemon that was late for a whole second finds every
/// advert of a hundred masters at the shortest interval, and two seconds of heartbeats of six members at
/// 10 ms. Must be a power of two and a multiple of the page size.
const RING_BYTES: usize = 256 * 1024;

#[btf_map]
static CONFIG: Array<FilterConfig, 1> = Array::new();

#[btf_map]
static PEERS: HashMap<PeerKey, PeerState, PEERS_MAX> = HashMap::new();

#[btf_map]
static CLUSTER: Array<ClusterConfig, 1> = Array::new();

#[btf_map]
static MEMBERS: HashMap<MemberKey, MemberState, MEMBER_ENTRIES_MAX> = HashMap::new();

#[btf_map]
static MISMATCHES: HashMap<MismatchKey, MismatchState, MEMBERS_MAX> = HashMap::new();

#[btf_map]
static LEASE: Array<LeaseState, 1> = Array::new();

#[btf_map]
static FENCE: Array<Fence, 1> = Array::new();

#[btf_map]
static STATS: PerCpuArray<Stats, 1> = PerCpuArray::new();

#[btf_map]
static RECORDS: RingBuf<AdvertRecord, RING_BYTES> = RingBuf::new();

/// Returns the configuration, or `None` before the daemon has written anything.
#[inline(always)]
pub(crate) fn config() -> Option<&'static FilterConfig> {
    let config = CONFIG.get(0)?;
    (config.vhid != 0 || ClusterMaps.config().is_some()).then_some(config)
}

/// Returns until when this node may serve.
#[inline(always)]
pub(crate) fn lease() -> Option<&'static LeaseState> {
    LEASE.get(0)
}

/// Returns who else holds a lease.
#[inline(always)]
pub(crate) fn fence() -> Fence {
    FENCE.get_ptr_mut(0).map_or_else(Fence::zeroed, read)
}

/// Notes who holds a lease: a higher epoch closes the gate (rule G6), and only who is heard is followed (rule G9).
#[inline(always)]
pub(crate) fn note_holder(epoch: u64, node: u8, now: Timestamp) {
    let own = lease().map_or(0, |lease| lease.epoch);
    if let Some(entry) = FENCE.get_ptr_mut(0)
        && let Some(heard) = read(entry).heard(epoch, node, own, now)
    {
        write(entry, heard);
    }
}

/// Copies the value of a map entry.
#[inline(always)]
#[expect(unsafe_code, reason = "map values are reached through raw pointers")]
fn read<T: Copy>(entry: *mut T) -> T {
    // SAFETY: this is called with what `get_ptr_mut` of a hash map returned, a live and aligned value of this
    // type. Entries are never removed while the program is attached, so the slot keeps belonging to its key.
    // Another CPU or the daemon may write it at the same time, and any bits are a valid value.
    unsafe { entry.read() }
}

/// Replaces the value of a map entry.
#[inline(always)]
#[expect(unsafe_code, reason = "map values are reached through raw pointers")]
fn write<T: Copy>(entry: *mut T, value: T) {
    // SAFETY: as in `read`. What one sender sends over one interface arrives on one queue; should two CPUs
    // write at once, each field keeps one of the two values.
    unsafe { entry.write(value) }
}

/// The PEERS map as validation sees it.
pub(crate) struct PeerMap;

impl Peers for PeerMap {
    #[inline(always)]
    fn find(&self, source: Ipv4) -> Option<LastAdvert> {
        let peer = read(PEERS.get_ptr_mut(PeerKey { source })?);
        Some(LastAdvert {
            adverts: peer.adverts,
            counter: peer.counter,
        })
    }
}

/// The CLUSTER and MEMBERS maps as validation sees them.
pub(crate) struct ClusterMaps;

impl Cluster for ClusterMaps {
    #[inline(always)]
    fn config(&self) -> Option<&ClusterConfig> {
        CLUSTER.get(0).filter(|config| config.node != 0)
    }

    #[inline(always)]
    fn last(&self, key: MemberKey) -> Option<Stamp> {
        Some(read(MEMBERS.get_ptr_mut(key)?).stamp())
    }
}

/// Stores what a peer said last.
#[inline(always)]
pub(crate) fn update_peer(source: Ipv4, mut state: PeerState) {
    let key = PeerKey { source };
    if let Some(entry) = PEERS.get_ptr_mut(key) {
        state.adverts = read(entry).adverts.wrapping_add(1);
        write(entry, state);
        return;
    }
    state.adverts = 1;
    if PEERS.insert(key, state, BPF_NOEXIST.into()).is_err() {
        count(offset_of!(Stats, peers_full) >> 3);
    }
}

/// Stores what a member said last, and says whether it is news. While its tag was computed, another CPU may
/// have taken a later one, or the same one from another interface.
#[inline(always)]
pub(crate) fn update_member(
    key: MemberKey,
    stamp: Stamp,
    arrival: Timestamp,
    ifindex: u32,
) -> bool {
    let Some(entry) = MEMBERS.get_ptr_mut(key) else {
        return false;
    };
    let before = read(entry);
    if !stamp.is_newer_than(before.stamp()) {
        return false;
    }
    write(
        entry,
        MemberState {
            last_arrival_ns: arrival.as_nanos(),
            boot: stamp.boot,
            sequence: stamp.sequence,
            accepted: before.accepted.wrapping_add(1),
            ifindex,
            reserved: 0,
        },
    );
    true
}

/// Notes what was refused of somebody who claims to be a member. Others leave no trace but the counter.
// A call of its own: rare, and its values need not be on the stack elsewhere.
#[inline(never)]
pub(crate) fn note_mismatch(reason: DropReason, claim: &Claim, arrival: Timestamp) {
    if let Some(entry) = MISMATCHES.get_ptr_mut(MismatchKey { node: claim.node }) {
        let mut state = read(entry);
        state.note(reason, claim, arrival);
        write(entry, state);
    }
}

/// Queues an advert for the daemon.
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

/// Queues a heartbeat for the daemon. It is filled in where it lies: on the stack it would take too much.
#[inline(always)]
pub(crate) fn submit_heartbeat(fill: impl FnOnce(&mut HeartbeatRecord)) {
    match RECORDS.reserve_untyped::<HeartbeatRecord>(0) {
        Some(mut entry) => {
            fill(entry.write(HeartbeatRecord::zeroed()));
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

/// Counts a frame that the gate drops.
#[inline(always)]
pub(crate) fn count_gate(reason: GateReason) {
    count(black_box(Stats::gate_slot(reason)));
}

/// Counts an accepted advert.
#[inline(always)]
pub(crate) fn count_accepted() {
    count(offset_of!(Stats, accepted) >> 3);
}

/// Counts an accepted heartbeat.
#[inline(always)]
pub(crate) fn count_accepted_heartbeat() {
    count(offset_of!(Stats, accepted_heartbeats) >> 3);
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
