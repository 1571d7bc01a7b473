//! The XDP program: loading it, its maps and its pins.
//!
//! The program is embedded into the daemon. Its maps are pinned by name, so that `bpftool map dump
//! pinned` finds them; the pins of an earlier life are removed first. What the maps mean is said in
//! `mfs-ha-common`.

mod attach;
mod attachments;
mod plain;

use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use aya_log::EbpfLogger;
use mfs_ha_common::cluster::NodeId;
use mfs_ha_common::filter::{ClusterConfig, FilterConfig};
use mfs_ha_common::member::{MemberKey, MemberState, MismatchKey, MismatchState};
use mfs_ha_common::peer::{PeerKey, PeerState};
use mfs_ha_common::stats::Stats;

pub use attach::{AttachError, Attached, Mode};
pub use attachments::Attachments;
use plain::Plain;

/// The object that `cargo xtask build-ebpf` makes.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/ebpf/mfs-ha.bpf.o"));

/// Name of the program in the object, and of the program that `bpftool prog` shows.
pub const PROGRAM: &str = "mfs_ha";

/// Maps and the names of their pins. aya-log's read-only data cannot be pinned, so the list is explicit.
const PINS: [(&str, &str); 7] = [
    ("CONFIG", "config"),
    ("CLUSTER", "cluster"),
    ("MEMBERS", "members"),
    ("MISMATCHES", "mismatches"),
    ("PEERS", "peers"),
    ("STATS", "stats"),
    ("RECORDS", "records"),
];

/// Where BPF objects are pinned.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Why the program could not be loaded or its maps not be used.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// The kernel refused the program or a map.
    #[error("cannot load the eBPF program")]
    Load(#[source] Box<EbpfError>),
    /// The verifier refused the program.
    #[error("the kernel refused the eBPF program")]
    Verify(#[source] Box<ProgramError>),
    /// Object and daemon do not belong together.
    #[error(
        "the embedded eBPF object has no usable {name}: rebuild it with `cargo xtask build-ebpf`"
    )]
    Mismatch {
        /// Map or program.
        name: &'static str,
    },
    /// A map could not be read or written.
    #[error("cannot use the eBPF map {name}")]
    Map {
        /// Which one.
        name: &'static str,
        /// Why.
        #[source]
        source: Box<MapError>,
    },
    /// Nothing is mounted where pins go.
    #[error("{path} is not a BPF file system: mount it with `mount -t bpf bpf {path}`")]
    NoBpffs {
        /// Where it was expected.
        path: PathBuf,
    },
    /// A pin could not be made or removed.
    #[error("cannot {action} {path}")]
    Pin {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A map could not be pinned.
    #[error("cannot pin the eBPF map at {path}")]
    PinMap {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<aya::pin::PinError>,
    },
}

/// The loaded program. It is detached and unloaded when this is dropped.
#[derive(Debug)]
pub struct Program {
    ebpf: Ebpf,
    pins: Option<PathBuf>,
}

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

/// Who is configured: those get their entries before the first frame is judged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Configured<'a> {
    /// Entries of PEERS, for [`KNOWN_PEERS_ONLY`](mfs_ha_common::filter::KNOWN_PEERS_ONLY).
    pub peers: &'a [Ipv4Addr],
    /// Entries of MEMBERS and MISMATCHES: the other members of the cluster, without this node.
    pub members: &'a [NodeId],
}

/// The STATS map.
pub struct StatsMap(PerCpuArray<MapData, Plain<Stats>>);

/// Loads program and maps. With `pins` the maps are pinned in that directory.
///
/// # Errors
/// Missing privileges, a kernel that refuses the program, no BPF file system.
pub fn load(pins: Option<&Path>, configured: &Configured<'_>) -> Result<(Program, Maps), BpfError> {
    // The program need not format what nobody reads.
    let log_level = log_level();
    let mut ebpf = EbpfLoader::new()
        .override_global(aya_log::LEVEL, &log_level, false)
        .load(OBJECT)
        .map_err(|error| BpfError::Load(Box::new(error)))?;
    let logger = EbpfLogger::init(&mut ebpf).map_err(|_error| BpfError::Mismatch {
        name: "log ring buffer",
    })?;
    if let Some(dir) = pins {
        pin_maps(&ebpf, dir)?;
    }
    let mut peers: HashMap<_, Plain<PeerKey>, Plain<PeerState>> = typed(&mut ebpf, "PEERS")?;
    for peer in configured.peers {
        let source = peer.octets();
        peers
            .insert(Plain(PeerKey { source }), Plain(PeerState::default()), 0)
            .map_err(map_error("PEERS"))?;
    }
    let maps = Maps {
        config: ConfigMap(typed(&mut ebpf, "CONFIG")?),
        peers: Arc::new(PeerMap(peers)),
        cluster: ClusterMap(typed(&mut ebpf, "CLUSTER")?),
        members: Arc::new(members(&mut ebpf, configured.members)?),
        mismatches: mismatches(&mut ebpf, configured.members)?,
        stats: StatsMap(typed(&mut ebpf, "STATS")?),
        records: typed(&mut ebpf, "RECORDS")?,
        logger,
    };
    let mut program = Program {
        ebpf,
        pins: pins.map(Path::to_owned),
    };
    program
        .xdp_mut()?
        .load()
        .map_err(|error| BpfError::Verify(Box::new(error)))?;
    Ok((program, maps))
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

/// The most detailed level that is logged, as aya-log counts: 1 for errors to 5 for traces.
fn log_level() -> u8 {
    match tracing::level_filters::LevelFilter::current().into_level() {
        None => 0,
        Some(tracing::Level::ERROR) => 1,
        Some(tracing::Level::WARN) => 2,
        Some(tracing::Level::INFO) => 3,
        Some(tracing::Level::DEBUG) => 4,
        Some(tracing::Level::TRACE) => 5,
    }
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

impl BpfError {
    /// Whether the kernel said that we may not, rather than that it cannot.
    pub fn is_not_permitted(&self) -> bool {
        os_error(self) == Some(nix::libc::EPERM)
    }
}

/// The error number at the root of an error.
fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        next = error.source();
    }
    None
}

/// Returns the name of a loaded program; `None` if there is none of that number, or if we may not look.
#[must_use]
pub fn program_name(id: u32) -> Option<String> {
    aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(str::to_owned))
}

impl Program {
    fn xdp_mut(&mut self) -> Result<&mut Xdp, BpfError> {
        self.ebpf
            .program_mut(PROGRAM)
            .and_then(|program| program.try_into().ok())
            .ok_or(BpfError::Mismatch { name: PROGRAM })
    }

    /// Returns the program, for `BPF_PROG_TEST_RUN`.
    ///
    /// # Errors
    /// The object holds no such program.
    pub fn xdp(&self) -> Result<&Xdp, BpfError> {
        self.ebpf
            .program(PROGRAM)
            .and_then(|program| program.try_into().ok())
            .ok_or(BpfError::Mismatch { name: PROGRAM })
    }

    /// Returns the number by which the kernel and `bpftool` know the program.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub fn id(&self) -> Result<u32, BpfError> {
        let info = self.xdp()?.info();
        info.map(|info| info.id())
            .map_err(|error| BpfError::Verify(Box::new(error)))
    }

    /// Removes the pins. The maps live as long as somebody has them open.
    ///
    /// # Errors
    /// A pin that cannot be removed.
    pub fn unpin(&mut self) -> Result<(), BpfError> {
        match self.pins.take() {
            Some(dir) => remove_pins(&dir).map(|_existed| ()),
            None => Ok(()),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Err(error) = self.unpin() {
            tracing::warn!(%error, "pins stay behind; the next start removes them");
        }
    }
}

/// Removes what an earlier life pinned in `dir`, and says whether there was anything.
///
/// # Errors
/// A pin that cannot be removed.
pub fn remove_pins(dir: &Path) -> Result<bool, BpfError> {
    let mut existed = false;
    for (_, name) in PINS {
        let path = dir.join(name);
        existed |= ignore_missing(std::fs::remove_file(&path)).map_err(|source| BpfError::Pin {
            action: "remove the pin",
            path,
            source,
        })?;
    }
    match ignore_missing(std::fs::remove_dir(dir)) {
        Ok(_existed) => {}
        // Not ours to remove, and not in the way either.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            tracing::warn!(directory = %dir.display(), "somebody else's files stay among the pins");
        }
        Err(source) => {
            return Err(BpfError::Pin {
                action: "remove the pin directory",
                path: dir.to_owned(),
                source,
            });
        }
    }
    Ok(existed)
}

fn ignore_missing(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn pin_maps(ebpf: &Ebpf, dir: &Path) -> Result<(), BpfError> {
    require_bpffs(Path::new(BPFFS))?;
    remove_pins(dir)?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| BpfError::Pin {
            action: "create the pin directory",
            path: dir.to_owned(),
            source,
        })?;
    for (map, name) in PINS {
        let path = dir.join(name);
        let map = ebpf.map(map).ok_or(BpfError::Mismatch { name: map })?;
        map.pin(&path).map_err(|source| BpfError::PinMap {
            path,
            source: Box::new(source),
        })?;
    }
    Ok(())
}

/// Checks that a BPF file system is mounted.
///
/// # Errors
/// Something else, or nothing, is mounted there.
pub fn require_bpffs(path: &Path) -> Result<(), BpfError> {
    let is_bpffs = nix::sys::statfs::statfs(path)
        .is_ok_and(|info| info.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC);
    if is_bpffs {
        return Ok(());
    }
    Err(BpfError::NoBpffs {
        path: path.to_owned(),
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
