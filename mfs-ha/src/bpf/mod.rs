//! The programs in the kernel: loading them, attaching them, their maps and their pins.
//!
//! They are embedded into the daemon. Maps and attachments are pinned by name: `bpftool map dump pinned` finds
//! the maps, and the gate stays where it is when the daemon dies. The pins of an earlier life are removed first.
//! What the maps mean is said in `mfs-ha-common`.

mod attach;
mod attachments;
mod guard;
mod link;
mod maps;
mod pins;
mod plain;

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use aya::maps::MapError;
use aya::programs::{ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use aya_log::EbpfLogger;
use mfs_ha_common::cluster::NodeId;
use mfs_ha_common::gate::Direction;

pub use attach::{AttachError, Attached, Mode};
pub use attachments::{Attachments, GateView};
pub use guard::{GateKind, remove_all_filters};
pub use maps::{
    ClusterMap, ConfigMap, FenceMap, LeaseMap, Maps, MemberMap, MismatchMap, PeerMap, StatsMap,
};
pub use pins::{pinned_links, remove_pins, require_bpffs};

/// The object that `cargo xtask build-ebpf` makes.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/ebpf/mfs-ha.bpf.o"));

/// Name of the program in the object, and of the program that `bpftool prog` shows.
pub const PROGRAM: &str = "mfs_ha";

/// Names of the gate's programs: what comes in, and what goes out.
pub(crate) const GATE_PROGRAMS: [&str; 2] = ["mfs_ha_in", "mfs_ha_out"];

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
    /// An attachment of an earlier life was taken over and cannot be held.
    #[error("cannot open the attachment that is pinned at {path}")]
    PinnedLink {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<aya::programs::links::LinkError>,
    },
    /// An attachment could not be pinned.
    #[error("cannot pin the attachment at {path}")]
    PinLink {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<aya::pin::PinError>,
    },
}

/// The loaded programs. They are detached and unloaded when this is dropped.
#[derive(Debug)]
pub struct Program {
    ebpf: Ebpf,
    pins: Option<PathBuf>,
    /// Of attachments of this life; whatever else is pinned is of an earlier one.
    own_links: BTreeSet<PathBuf>,
    /// The earlier life was in this network namespace: its XDP program was on an interface of it.
    is_at_home: bool,
}

/// Who is configured: those get their entries before the first frame is judged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Configured<'a> {
    /// Entries of PEERS, for [`KNOWN_PEERS_ONLY`](mfs_ha_common::filter::KNOWN_PEERS_ONLY).
    pub peers: &'a [Ipv4Addr],
    /// Entries of MEMBERS and MISMATCHES: the other members of the cluster, without this node.
    pub members: &'a [NodeId],
}

/// Loads programs and maps. With `pins` the maps, and later what is attached, are pinned in that directory.
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
        pins::pin_maps(&ebpf, dir)?;
    }
    let maps = Maps::take(&mut ebpf, configured, logger)?;
    let mut program = Program {
        ebpf,
        pins: pins.map(Path::to_owned),
        own_links: BTreeSet::new(),
        is_at_home: false,
    };
    program.load()?;
    Ok((program, maps))
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

    fn classifier_mut(&mut self, name: &'static str) -> Result<&mut SchedClassifier, BpfError> {
        self.ebpf
            .program_mut(name)
            .and_then(|program| program.try_into().ok())
            .ok_or(BpfError::Mismatch { name })
    }

    fn load(&mut self) -> Result<(), BpfError> {
        let refused = |error| BpfError::Verify(Box::new(error));
        self.xdp_mut()?.load().map_err(refused)?;
        for name in GATE_PROGRAMS {
            self.classifier_mut(name)?.load().map_err(refused)?;
        }
        Ok(())
    }

    /// Returns where the attachment of a program to an interface is pinned.
    fn link_pin(&mut self, program: &str, ifindex: u32) -> Option<PathBuf> {
        let dir = pins::links_dir(self.pins.as_deref()?);
        let path = dir.join(format!("{program}-{ifindex}"));
        self.own_links.insert(path.clone());
        Some(path)
    }

    /// Takes off what an earlier life attached and this one has not taken over: of those programs that `is_meant`.
    fn remove_strange_links(&self, is_meant: impl Fn(&str) -> bool) -> Result<(), BpfError> {
        let Some(dir) = &self.pins else {
            return Ok(());
        };
        let program = |path: &Path| {
            let (program, _ifindex) = path.file_name()?.to_str()?.rsplit_once('-')?;
            Some(is_meant(program))
        };
        pins::remove_links(dir, |path| {
            !self.own_links.contains(path) && program(path).unwrap_or(true)
        })?;
        Ok(())
    }

    /// Returns a program of the gate, for `BPF_PROG_TEST_RUN`: what comes in, or what goes out.
    ///
    /// # Errors
    /// The object holds no such program.
    pub fn gate(&self, direction: Direction) -> Result<&SchedClassifier, BpfError> {
        let [entry, exit] = GATE_PROGRAMS;
        let name = match direction {
            Direction::In => entry,
            Direction::Out => exit,
        };
        self.ebpf
            .program(name)
            .and_then(|program| program.try_into().ok())
            .ok_or(BpfError::Mismatch { name })
    }

    /// Returns the XDP program, for `BPF_PROG_TEST_RUN`.
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

    /// Leaves the pins where they are: whatever is attached stays when this process has ended.
    fn leave(&mut self) {
        self.pins = None;
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
