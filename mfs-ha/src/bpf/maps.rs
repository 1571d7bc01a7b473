//! The daemon's ends of the maps.

use std::sync::Arc;

use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf};
use aya_log::EbpfLogger;
use mfs_ha_common::cluster::NodeId;
use mfs_ha_common::filter::{ClusterConfig, FilterConfig};
use mfs_ha_common::gate::{Fence, LeaseState};
use mfs_ha_common::member::{MemberKey, MemberState, MismatchKey, MismatchState};
use mfs_ha_common::peer::{PeerKey, PeerState};
use mfs_ha_common::stats::Stats;

use super::plain::Plain;
use super::{BpfError, Configured};

/// The daemon's ends of the maps.
pub struct Maps {
    /// What the program compares frames with.
    pub config: ConfigMap,
    /// What it remembers of each sender.
    pub peers: Arc<PeerMap>,
    /// What it compares heartbeats and trailers with.
    pub cluster: ClusterMap,
    /// What it remembers of each other member.
    pub members: Arc<MemberMap>,
    /// Whose key, cluster or version differs.
    pub mismatches: MismatchMap,
    /// Until when this node may serve.
    pub lease: LeaseMap,
    /// Who else says that it may.
    pub fence: FenceMap,
    /// Its counters.
    pub stats: StatsMap,
    /// Accepted adverts and heartbeats, in order of arrival.
    pub records: RingBuf<MapData>,
    /// Rare debug messages of the program.
    pub logger: EbpfLogger<&'static dyn log::Log>,
}

/// The CONFIG map.
pub struct ConfigMap(Array<MapData, Plain<FilterConfig>>);

/// The PEERS map.
pub struct PeerMap(HashMap<MapData, Plain<PeerKey>, Plain<PeerState>>);

/// The CLUSTER map.
pub struct ClusterMap(Array<MapData, Plain<ClusterConfig>>);

/// The MEMBERS map.
pub struct MemberMap(HashMap<MapData, Plain<MemberKey>, Plain<MemberState>>);

/// The MISMATCHES map.
pub struct MismatchMap(HashMap<MapData, Plain<MismatchKey>, Plain<MismatchState>>);

/// The LEASE map.
pub struct LeaseMap(Array<MapData, Plain<LeaseState>>);

/// The FENCE map.
pub struct FenceMap(Array<MapData, Plain<Fence>>);

/// The STATS map.
pub struct StatsMap(PerCpuArray<MapData, Plain<Stats>>);

impl Maps {
    /// Takes the maps out of the loaded object, and makes the entries of those who are configured.
    pub(super) fn take(
        ebpf: &mut Ebpf,
        configured: &Configured<'_>,
        logger: EbpfLogger<&'static dyn log::Log>,
    ) -> Result<Self, BpfError> {
        let mut peers: HashMap<_, Plain<PeerKey>, Plain<PeerState>> = typed(ebpf, "PEERS")?;
        for peer in configured.peers {
            let source = peer.octets();
            peers
                .insert(Plain(PeerKey { source }), Plain(PeerState::default()), 0)
                .map_err(map_error("PEERS"))?;
        }
        Ok(Self {
            config: ConfigMap(typed(ebpf, "CONFIG")?),
            peers: Arc::new(PeerMap(peers)),
            cluster: ClusterMap(typed(ebpf, "CLUSTER")?),
            members: Arc::new(members(ebpf, configured.members)?),
            mismatches: mismatches(ebpf, configured.members)?,
            lease: LeaseMap(typed(ebpf, "LEASE")?),
            fence: FenceMap(typed(ebpf, "FENCE")?),
            stats: StatsMap(typed(ebpf, "STATS")?),
            records: typed(ebpf, "RECORDS")?,
            logger,
        })
    }
}

fn members(ebpf: &mut Ebpf, ids: &[NodeId]) -> Result<MemberMap, BpfError> {
    let mut map: HashMap<_, Plain<MemberKey>, Plain<MemberState>> = typed(ebpf, "MEMBERS")?;
    for key in ids.iter().flat_map(|id| MemberKey::both(*id)) {
        map.insert(Plain(key), Plain(MemberState::default()), 0)
            .map_err(map_error("MEMBERS"))?;
    }
    Ok(MemberMap(map))
}

fn mismatches(ebpf: &mut Ebpf, ids: &[NodeId]) -> Result<MismatchMap, BpfError> {
    let mut map: HashMap<_, Plain<MismatchKey>, Plain<MismatchState>> = typed(ebpf, "MISMATCHES")?;
    for id in ids {
        let key = MismatchKey { node: id.get() };
        map.insert(Plain(key), Plain(MismatchState::default()), 0)
            .map_err(map_error("MISMATCHES"))?;
    }
    Ok(MismatchMap(map))
}

fn typed<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, BpfError> {
    let map = ebpf.take_map(name).ok_or(BpfError::Mismatch { name })?;
    T::try_from(map).map_err(|source| BpfError::Map {
        name,
        source: Box::new(source),
    })
}

impl ConfigMap {
    /// Tells the program what to compare frames with.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn write(&mut self, config: FilterConfig) -> Result<(), BpfError> {
        self.0.set(0, Plain(config), 0).map_err(map_error("CONFIG"))
    }
}

impl ClusterMap {
    /// Tells the program what to compare heartbeats and trailers with.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn write(&mut self, config: ClusterConfig) -> Result<(), BpfError> {
        self.0
            .set(0, Plain(config), 0)
            .map_err(map_error("CLUSTER"))
    }
}

impl LeaseMap {
    /// Tells the gate until when this node may serve, and what.
    ///
    /// # Errors
    /// The kernel refuses the write.
    pub fn write(&mut self, lease: LeaseState) -> Result<(), BpfError> {
        self.0.set(0, Plain(lease), 0).map_err(map_error("LEASE"))
    }
}

impl FenceMap {
    /// Returns who else holds a lease, as far as the kernel heard.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn read(&self) -> Result<Fence, BpfError> {
        let Plain(fence) = self.0.get(&0, 0).map_err(map_error("FENCE"))?;
        Ok(fence)
    }
}

impl MemberMap {
    /// Returns what is remembered of all other members.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn read(&self) -> Result<Vec<(MemberKey, MemberState)>, BpfError> {
        self.0
            .iter()
            .map(|entry| entry.map(|(Plain(key), Plain(state))| (key, state)))
            .collect::<Result<_, _>>()
            .map_err(map_error("MEMBERS"))
    }
}

impl MismatchMap {
    /// Returns what was refused of those who claim to be members.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn read(&self) -> Result<Vec<(MismatchKey, MismatchState)>, BpfError> {
        self.0
            .iter()
            .map(|entry| entry.map(|(Plain(key), Plain(state))| (key, state)))
            .collect::<Result<_, _>>()
            .map_err(map_error("MISMATCHES"))
    }
}

impl PeerMap {
    /// Returns what is remembered of all senders.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn read(&self) -> Result<Vec<(PeerKey, PeerState)>, BpfError> {
        self.0
            .iter()
            .map(|entry| entry.map(|(Plain(key), Plain(state))| (key, state)))
            .collect::<Result<_, _>>()
            .map_err(map_error("PEERS"))
    }
}

fn map_error(name: &'static str) -> impl FnOnce(MapError) -> BpfError {
    move |source| BpfError::Map {
        name,
        source: Box::new(source),
    }
}

impl StatsMap {
    /// Returns the counters, summed over all CPUs.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn read(&self) -> Result<Stats, BpfError> {
        let per_cpu = self.0.get(&0, 0).map_err(map_error("STATS"))?;
        let mut total = Stats::default();
        for Plain(stats) in per_cpu.iter() {
            total.add(stats);
        }
        Ok(total)
    }
}
