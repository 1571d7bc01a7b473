//! What is pinned in the BPF file system: the maps, for people and tools, and the attachments, so that they
//! outlive a daemon that dies.

use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::programs::links::PinnedLink;

use super::{BPFFS, BpfError};

/// Maps and the names of their pins. aya-log's read-only data cannot be pinned, so the list is explicit.
const MAPS: [(&str, &str); 9] = [
    ("CONFIG", "config"),
    ("CLUSTER", "cluster"),
    ("MEMBERS", "members"),
    ("MISMATCHES", "mismatches"),
    ("PEERS", "peers"),
    ("LEASE", "lease"),
    ("FENCE", "fence"),
    ("STATS", "stats"),
    ("RECORDS", "records"),
];

/// Directory of the attachments, among the pins of the maps.
const LINKS: &str = "links";

/// Returns where the attachments of an instance are pinned.
pub(super) fn links_dir(dir: &Path) -> PathBuf {
    dir.join(LINKS)
}

/// Returns the attachments that are pinned in `dir`, by the names of their pins. Without a living daemon they are
/// what keeps a dead one's gate closed.
///
/// # Errors
/// The directory cannot be read.
pub fn pinned_links(dir: &Path) -> Result<Vec<PathBuf>, BpfError> {
    let links = links_dir(dir);
    let read = || -> io::Result<Vec<PathBuf>> {
        std::fs::read_dir(&links)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect()
    };
    match read() {
        Ok(mut paths) => {
            paths.sort();
            Ok(paths)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(BpfError::Pin {
            action: "read the pin directory",
            path: links,
            source,
        }),
    }
}

/// Removes what an earlier life pinned in `dir`, and says whether there was anything. What was attached by it goes
/// some moments later, by a thread of the kernel; whoever has the maps or attachments open keeps them.
///
/// # Errors
/// A pin that cannot be removed.
pub fn remove_pins(dir: &Path) -> Result<bool, BpfError> {
    let mut existed = remove_links(dir, |_| true)?;
    for (_, name) in MAPS {
        existed |= remove_pin(&dir.join(name))?;
    }
    remove_dir(&links_dir(dir))?;
    remove_dir(dir)?;
    Ok(existed)
}

/// Removes the pins of attachments that `is_meant`, and says whether there was one.
pub(super) fn remove_links(dir: &Path, is_meant: impl Fn(&Path) -> bool) -> Result<bool, BpfError> {
    let mut existed = false;
    let mut failed = None;
    for path in pinned_links(dir)?.iter().filter(|path| is_meant(path)) {
        match remove_link(path) {
            Ok(did_exist) => existed |= did_exist,
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(existed), Err)
}

/// Removes the pin of an attachment, and says whether there was one.
pub(super) fn remove_link(path: &Path) -> Result<bool, BpfError> {
    // Whoever lets go of it last takes it off: at once here, by a thread of the kernel where that is the pin. Which of
    // them is last the kernel decides.
    let held = PinnedLink::from_pin(path).ok();
    let existed = remove_pin(path);
    drop(held);
    existed
}

/// Says whether there was one.
pub(super) fn remove_pin(path: &Path) -> Result<bool, BpfError> {
    ignore_missing(std::fs::remove_file(path)).map_err(|source| BpfError::Pin {
        action: "remove the pin",
        path: path.to_owned(),
        source,
    })
}

fn remove_dir(dir: &Path) -> Result<(), BpfError> {
    match ignore_missing(std::fs::remove_dir(dir)) {
        Ok(_existed) => Ok(()),
        // Not ours to remove, and not in the way either.
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            tracing::warn!(directory = %dir.display(), "somebody else's files stay among the pins");
            Ok(())
        }
        Err(source) => Err(BpfError::Pin {
            action: "remove the pin directory",
            path: dir.to_owned(),
            source,
        }),
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Pins all maps in `dir`, in place of those of an earlier life. What that one attached stays until it is taken over,
/// or [`remove_links`] takes it off.
pub(super) fn pin_maps(ebpf: &Ebpf, dir: &Path) -> Result<(), BpfError> {
    require_bpffs(Path::new(BPFFS))?;
    for (_, name) in MAPS {
        remove_pin(&dir.join(name))?;
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(links_dir(dir))
        .map_err(|source| BpfError::Pin {
            action: "create the pin directory",
            path: links_dir(dir),
            source,
        })?;
    for (map, name) in MAPS {
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
