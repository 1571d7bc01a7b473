//! An attachment: it outlives the daemon where it is pinned.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::SchedClassifierLink;

use super::BpfError;

/// Whether attachments stay when they are dropped. One for all of a daemon.
#[derive(Clone, Debug, Default)]
pub(super) struct Stay(Arc<AtomicBool>);

impl Stay {
    /// From here on nothing is detached any more.
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// An attachment. Dropping it detaches the program, unless it was told to stay.
#[derive(Debug)]
pub(super) struct HeldLink {
    link: Option<Link>,
    stay: Stay,
}

#[derive(Debug)]
enum Link {
    /// Outlives this process.
    Pinned(PinnedLink),
    /// Of programs that nobody pinned, as in tests.
    Loose { _link: FdLink },
    /// A filter of a kernel before 6.6. It outlives this process by itself.
    Filter(SchedClassifierLink),
}

impl HeldLink {
    /// Takes an attachment, and pins it at `pin`, in place of what an interface of the same number left there.
    pub(super) fn new(link: FdLink, pin: Option<PathBuf>, stay: &Stay) -> Result<Self, BpfError> {
        let link = match pin {
            None => Link::Loose { _link: link },
            Some(path) => {
                remove(&path)?;
                let pinned = link.pin(&path);
                Link::Pinned(pinned.map_err(|source| BpfError::PinLink {
                    path,
                    source: Box::new(source),
                })?)
            }
        };
        Ok(Self {
            link: Some(link),
            stay: stay.clone(),
        })
    }

    /// Takes a filter.
    pub(super) fn filter(link: SchedClassifierLink, stay: &Stay) -> Self {
        Self {
            link: Some(Link::Filter(link)),
            stay: stay.clone(),
        }
    }
}

impl Drop for HeldLink {
    fn drop(&mut self) {
        match self.link.take() {
            Some(Link::Filter(filter)) if self.stay.is_set() => std::mem::forget(filter),
            Some(Link::Pinned(pinned)) if !self.stay.is_set() => match pinned.unpin() {
                Ok(link) => drop(link),
                // All pins may have been removed at once.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(%error, "an attachment stays behind"),
            },
            Some(Link::Filter(_) | Link::Pinned(_) | Link::Loose { .. }) | None => {}
        }
    }
}

fn remove(path: &std::path::Path) -> Result<(), BpfError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(BpfError::Pin {
            action: "remove the pin",
            path: path.to_owned(),
            source,
        }),
    }
}
