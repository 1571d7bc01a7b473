//! An attachment: it outlives the daemon where it is pinned, and its successor takes it over.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aya::programs::ProgramError;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::SchedClassifierLink;

use super::{BpfError, pins};
use crate::error::chain;

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
    Pinned { pin: PinnedLink, path: PathBuf },
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
                pins::remove_link(&path)?;
                match link.pin(&path) {
                    Ok(pin) => Link::Pinned { pin, path },
                    Err(source) => {
                        let source = Box::new(source);
                        return Err(BpfError::PinLink { path, source });
                    }
                }
            }
        };
        Ok(Self {
            link: Some(link),
            stay: stay.clone(),
        })
    }

    /// Takes over what an earlier life of this daemon pinned: `update` puts the program of this one in its place, at
    /// once, so that there is no moment without one. Where that cannot be, the pin is removed, and the kernel may take
    /// the attachment off by a thread of its own, on an overloaded machine after many seconds.
    ///
    /// `is_on` says whether the program of the number is where this one shall be: the interface may have been made
    /// anew, or have been in another network namespace.
    pub(super) fn take_over<L>(
        path: &Path,
        stay: &Stay,
        is_on: impl FnOnce(u32) -> bool,
        update: impl FnOnce(L) -> Result<(), ProgramError>,
    ) -> Result<Option<Self>, BpfError>
    where
        L: TryFrom<FdLink, Error = LinkError>,
    {
        if !path.exists() {
            return Ok(None);
        }
        let taken = || -> anyhow::Result<bool> {
            let link = FdLink::from(PinnedLink::from_pin(path)?);
            if !is_on(link.info()?.program_id()) {
                return Ok(false);
            }
            update(L::try_from(link)?)?;
            Ok(true)
        };
        match taken() {
            Ok(true) => {
                let pin = PinnedLink::from_pin(path).map_err(|source| BpfError::PinnedLink {
                    path: path.to_owned(),
                    source: Box::new(source),
                })?;
                let path = path.to_owned();
                return Ok(Some(Self {
                    link: Some(Link::Pinned { pin, path }),
                    stay: stay.clone(),
                }));
            }
            Ok(false) => {
                tracing::info!(pin = %path.display(), "an earlier life's attachment is of another interface or mode");
            }
            Err(error) => tracing::warn!(
                pin = %path.display(),
                error = chain(error.as_ref()),
                "an earlier life's attachment cannot be taken over"
            ),
        }
        pins::remove_link(path)?;
        Ok(None)
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
            Some(Link::Pinned { pin, path }) if !self.stay.is_set() => take_off(pin, &path),
            Some(Link::Filter(_) | Link::Pinned { .. } | Link::Loose { .. }) | None => {}
        }
    }
}

/// Detaches, and removes the pin: where that is not of a successor on an interface of the same number.
fn take_off(pin: PinnedLink, path: &Path) {
    let link = FdLink::from(pin);
    let id = |link: &FdLink| link.info().ok().map(|info| info.id());
    let pinned = PinnedLink::from_pin(path).ok().map(FdLink::from);
    let is_own = pinned.is_some_and(|pinned| id(&pinned) == id(&link));
    if is_own && let Err(error) = pins::remove_pin(path) {
        tracing::warn!(error = chain(&error), "an attachment stays behind");
    }
}
