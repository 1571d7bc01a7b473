//! The metadata directory behind a lock: file work runs in blocking threads, one piece at a time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::bail;

use super::{CancelOnDrop, blocking};
use crate::moosefs::follow::Follower;
use crate::moosefs::journal::Journal;
use crate::moosefs::layout::Layout;

/// What file work needs.
pub(super) struct Files {
    pub(super) layout: Layout,
    pub(super) journal: Journal,
    pub(super) follower: Follower,
}

/// Shared access to [`Files`].
#[derive(Clone)]
pub(super) struct Store(Arc<Mutex<Files>>);

impl Store {
    pub(super) fn new(files: Files) -> Self {
        Self(Arc::new(Mutex::new(files)))
    }

    /// Does a piece of file work. Dropping the future tells the work to stop where it can; it may go on
    /// for a while, and the next piece waits for it.
    pub(super) async fn work<T, F>(&self, work: F) -> anyhow::Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&mut Files, &AtomicBool) -> anyhow::Result<T> + Send + 'static,
    {
        let guard = CancelOnDrop::default();
        let cancel = guard.flag();
        let files = Arc::clone(&self.0);
        blocking(move || {
            let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
            if cancel.load(Ordering::Relaxed) {
                bail!("not wanted any more");
            }
            work(&mut files, &cancel)
        })
        .await
    }
}
